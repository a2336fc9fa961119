//! Facts about the VirtualMachine of a guest.

use std::sync::Arc;

use super::nic::{GuestNic, macs_of};
use crate::api::{mac::Mac, vm::VirtualMachine};

/// The kinds of KubeVirt that own VMs.
const OWNERS: [&str; 3] = ["VirtualMachinePool", "VirtualMachineRestore", "VirtualMachineClone"];

/// A VirtualMachine, reduced to the facts that rules use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Vm {
    /// The NICs of its template. Guests with equal lists share one.
    pub nics: Arc<Vec<GuestNic>>,
    /// The MAC addresses in the order of its NICs, as by [`macs_of`]. They are not part of the NICs: they differ between
    /// VMs that are equal otherwise.
    pub macs: Arc<[Option<Mac>]>,
    /// `nicplug.io/reserve-ports` of the VM itself.
    pub reserve_ports: Option<Box<str>>,
    /// Whether KubeVirt stops its guest: it is halted or being deleted.
    pub stops: bool,
    /// Whether an object owns it for which virt-controller updates the VM: a pool, a restore or a clone.
    pub is_managed: bool,
}

impl From<&VirtualMachine<'_>> for Vm {
    fn from(vm: &VirtualMachine) -> Self {
        let annotations = vm.metadata.annotations.as_deref();
        let reserve_ports = annotations.and_then(|annotations| annotations.reserve_ports.as_deref());
        Self {
            nics: GuestNic::all(&vm.spec.template.spec).into(),
            macs: macs_of(&vm.spec.template.spec),
            reserve_ports: reserve_ports.map(Into::into),
            stops: vm.stops(),
            is_managed: vm.metadata.owner_references.iter().any(|owner| OWNERS.contains(&&*owner.kind)),
        }
    }
}
