//! Facts about the VirtualMachine of a guest.

use std::sync::Arc;

use super::nic::GuestNic;
use crate::api::vm::VirtualMachine;

/// A VirtualMachine, reduced to the facts that rules use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Vm {
    /// The NICs of its template. Guests with equal lists share one.
    pub nics: Arc<Vec<GuestNic>>,
    /// `nicplug.io/reserve-ports` of the VM itself.
    pub reserve_ports: Option<Box<str>>,
}

impl From<&VirtualMachine<'_>> for Vm {
    fn from(vm: &VirtualMachine) -> Self {
        let annotations = vm.metadata.annotations.as_ref();
        let reserve_ports = annotations.and_then(|annotations| annotations.reserve_ports.as_deref());
        Self { nics: GuestNic::all(&vm.spec.template.spec).into(), reserve_ports: reserve_ports.map(Into::into) }
    }
}
