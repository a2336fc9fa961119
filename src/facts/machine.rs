//! What is known of a VirtualMachine whose guest is asked about.

use super::nic::GuestNic;
use crate::api::vm::VirtualMachine;

/// A VirtualMachine, reduced to what rules ask of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Machine {
    /// The NICs of its template.
    pub nics: Vec<GuestNic>,
}

impl From<&VirtualMachine<'_>> for Machine {
    fn from(vm: &VirtualMachine) -> Self {
        Self { nics: GuestNic::all(&vm.spec.template.spec) }
    }
}
