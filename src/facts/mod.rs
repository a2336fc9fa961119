//! What is known of the cluster around a request, as plain data.
//!
//! Each fact is known, absent or unknown by itself: a NetworkAttachmentDefinition that is not there is another thing
//! than one that nobody may look for. A rule that needs an unknown fact does not deny; it says what it could not check.

pub mod attachment;
pub mod boot;
pub mod kubevirt;
pub mod nad;
pub mod nic;
pub mod vm;
pub mod vmi;

use std::sync::Arc;

pub use self::{
    attachment::Attachment,
    boot::BootFacts,
    kubevirt::KubeVirt,
    nad::{Nads, NamespaceIsolation},
    vm::Vm,
    vmi::Vmi,
};
use crate::{
    api::mac::Mac,
    change::{Change, MigrationStart},
    pci::Devices,
    settings::overrides::ParsedOverrides,
};

/// Something that the cluster may tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fact<T> {
    /// It is there.
    Known(T),
    /// It is known not to be there.
    Absent,
    /// Nobody can tell: no cluster, no permission, or not read yet.
    #[default]
    Unknown,
}

impl<T> Fact<T> {
    /// The fact by reference.
    #[must_use]
    pub fn as_ref(&self) -> Fact<&T> {
        match self {
            Self::Known(value) => Fact::Known(value),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }

    /// What is known, made into another.
    #[must_use]
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(make(value)),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }

    /// What is known.
    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Unknown => None,
        }
    }
}

/// The kinds of objects that a rule may want a fact about, and not get it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FactKind {
    /// `ConfigMap`: of Multus.
    ConfigMap,
    /// `DaemonSet`: of Multus and of its dynamic-networks controller.
    DaemonSet,
    /// `VirtualMachineInstance`.
    Vmi,
    /// `KubeVirt`.
    KubeVirt,
    /// `VirtualMachine`.
    Vm,
    /// `NetworkAttachmentDefinition`.
    Nad,
}

impl FactKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::ConfigMap, Self::DaemonSet, Self::Vmi, Self::KubeVirt, Self::Vm, Self::Nad];

    /// `kind` of such an object.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::DaemonSet => "DaemonSet",
            Self::Vmi => "VirtualMachineInstance",
            Self::KubeVirt => "KubeVirt",
            Self::Vm => "VirtualMachine",
            Self::Nad => "NetworkAttachmentDefinition",
        }
    }
}

/// The facts that one request may need: one snapshot, taken before it is judged.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The KubeVirt resource. A cluster without one is as good as unknown: something made the request.
    pub kubevirt: Fact<Arc<KubeVirt>>,
    /// The VMI that a VM runs as, or the VMI that the request itself is about.
    pub vmi: Fact<Arc<Vmi>>,
    /// The VM that a VMI runs for; absent when the VMI stands alone.
    pub vm: Fact<Arc<Vm>>,
    /// The networks that the change names.
    pub nads: Nads,
    /// Multus' isolation of namespaces; absent when it is off.
    pub isolation: Fact<Arc<NamespaceIsolation>>,
    /// How a NIC can reach a pod that runs already.
    pub attachment: Fact<Attachment>,
    /// How many nodes run guests.
    pub nodes: Fact<usize>,
    /// The name of a VirtualMachineInstanceMigration that is about the guest and not over.
    pub migration: Fact<Arc<str>>,
    /// The devices that the guest was started with, from its ControllerRevision.
    pub revision: Fact<Arc<Devices>>,
    /// Who else has a MAC address of the change on the same network.
    pub mac_users: Fact<Vec<MacUser>>,
    /// The enforcement that the namespace asks for; absent where it asks for none.
    pub overrides: Fact<Arc<ParsedOverrides>>,
}

/// Another guest that has a MAC address on a network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MacUser {
    /// The address.
    pub mac: Mac,
    /// The network, as `namespace/name` of its NetworkAttachmentDefinition.
    pub network: String,
    /// The VM or VMI, as `namespace/name`.
    pub guest: String,
}

impl Facts {
    /// The running guest that a change of the object reaches; absent when there is none, or none that can change.
    #[must_use]
    pub fn live(&self) -> Fact<&Vmi> {
        match &self.vmi {
            Fact::Known(vmi) if vmi.is_live() => Fact::Known(vmi),
            Fact::Known(_) | Fact::Absent => Fact::Absent,
            Fact::Unknown => Fact::Unknown,
        }
    }
}

/// Where facts come from: watched objects, files, or nowhere.
pub trait FactSource: Send + Sync {
    /// The facts for a change, from memory: it neither waits nor fails.
    fn facts_for(&self, change: &Change) -> Facts;

    /// The facts for the start of a migration: of the guest that is to move, and of its VM. A source that has none
    /// need not say so.
    fn facts_for_migration(&self, _start: &MigrationStart) -> Facts {
        Facts::default()
    }
}

/// A source that knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFacts;

impl FactSource for NoFacts {
    fn facts_for(&self, _change: &Change) -> Facts {
        Facts::default()
    }
}
