//! Facts about the cluster that a request may need, as plain data.
//!
//! Each fact is known, absent or unknown: a missing NetworkAttachmentDefinition differs from one that nicplug may not
//! read. A rule that needs an unknown fact does not deny; it warns about the check that it skipped.

pub mod attachment;
pub mod boot;
pub mod cni;
pub mod expand;
pub mod instancetype;
pub mod kubevirt;
pub mod migration;
pub mod nad;
pub mod nic;
pub mod nic_preference;
pub mod nodes;
pub mod placement;
pub mod quota;
pub mod vm;
pub mod vmi;
pub mod wire;

use std::sync::Arc;

pub use self::{
    attachment::Attachment,
    boot::BootFacts,
    expand::{Expansion, Expansions},
    instancetype::{Instancetype, Preference},
    kubevirt::KubeVirt,
    nad::{MULTUS_NAMESPACE, Nad, Nads, NamespaceIsolation},
    nic_preference::NicPreference,
    nodes::Nodes,
    placement::Placement,
    quota::Quota,
    vm::Vm,
    vmi::Vmi,
};
use crate::{
    api::{mac::Mac, network::NadRef},
    change::{Change, MigrationStart, NetworkChange, Nic},
    pci::Devices,
    settings::overrides::ParsedOverrides,
};

/// A piece of information about the cluster.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fact<T> {
    /// The value exists and was read.
    Known(T),
    /// The value is known not to exist.
    Absent,
    /// There is no cluster, no permission, or nothing was read yet.
    #[default]
    Unknown,
}

impl<T> Fact<T> {
    /// Returns the fact by reference.
    #[must_use]
    pub fn as_ref(&self) -> Fact<&T> {
        match self {
            Self::Known(value) => Fact::Known(value),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }

    /// Converts the value, if it is known.
    #[must_use]
    pub fn map<U>(self, make: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(make(value)),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }

    /// Returns the value, if it is known.
    #[must_use]
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Unknown => None,
        }
    }
}

/// The kinds of objects from which rules need facts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FactKind {
    /// `ConfigMap` of Multus.
    ConfigMap,
    /// `DaemonSet` of Multus or its dynamic-networks controller.
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

    /// Returns `kind` of such an object.
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

/// The facts that one request may need: a snapshot taken before the evaluation.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The KubeVirt resource. Rules treat absent as unknown, because only a cluster with KubeVirt sends such requests.
    pub kubevirt: Fact<Arc<KubeVirt>>,
    /// The VMI of the VM, or the VMI of the request itself.
    pub vmi: Fact<Arc<Vmi>>,
    /// The VM of the VMI; absent for a VMI without a VM.
    pub vm: Fact<Arc<Vm>>,
    /// The networks that the change names.
    pub nads: Nads,
    /// The namespace isolation of Multus; absent if it is off.
    pub isolation: Fact<Arc<NamespaceIsolation>>,
    /// The namespace where Multus looks for a default network without a namespace, if its configuration names one.
    pub multus_namespace: Option<Arc<str>>,
    /// The networks of the guest's NICs, as far as they are known. Only a change of NICs has them.
    pub guest_networks: Vec<GuestNetwork>,
    /// How a NIC can be attached to a running pod.
    pub attachment: Fact<Attachment>,
    /// The network-resources-injector; absent if the cluster has other mutating webhooks only.
    pub resource_injector: Fact<()>,
    /// The nodes that run guests: at least one.
    pub nodes: Fact<Arc<Nodes>>,
    /// The ResourceQuotas of the namespace that limit pods of guests.
    pub quotas: Fact<Vec<Arc<Quota>>>,
    /// The name of a VirtualMachineInstanceMigration of the guest that has not ended.
    pub migration: Fact<Arc<str>>,
    /// The devices of the guest at its start, from its ControllerRevision.
    pub revision: Fact<Arc<Devices>>,
    /// What KubeVirt expands the VM with; `None` if it names neither an instancetype nor a preference.
    pub expansions: Option<Box<Expansions>>,
    /// Other guests with a MAC address of the change on the same network, or on another one of the same wire.
    pub mac_users: Fact<Vec<MacUser>>,
    /// The running guests that use the network of the request.
    pub network_users: Fact<NetworkUsers>,
    /// The enforcement that the namespace sets; absent if it sets none.
    pub overrides: Fact<Arc<ParsedOverrides>>,
    /// Whether the user of the request is virt-controller.
    pub by_controller: bool,
}

/// The network of a NIC that a running guest has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestNetwork {
    /// The name of the NIC.
    pub nic: Box<str>,
    /// The NetworkAttachmentDefinition.
    pub nad: Arc<Nad>,
}

/// Another guest with a MAC address on a network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MacUser {
    /// The address.
    pub mac: Mac,
    /// The network of the NIC in the change, as `namespace/name` of its NetworkAttachmentDefinition.
    pub network: String,
    /// The network of the other guest, if it is another one on the same wire.
    pub via: Option<String>,
    /// The VM or VMI, as `namespace/name`.
    pub guest: String,
}

/// The running guests that use a network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkUsers {
    /// The first of them, as `namespace/name`: those in the namespace of the network, then the others, by name.
    pub guests: Vec<String>,
    /// How many there are.
    pub count: usize,
}

impl Facts {
    /// Returns the facts without those about objects of KubeVirt.
    #[must_use]
    pub fn without_kubevirt(self) -> Self {
        Self {
            nads: self.nads,
            isolation: self.isolation,
            multus_namespace: self.multus_namespace,
            attachment: self.attachment,
            resource_injector: self.resource_injector,
            nodes: self.nodes,
            quotas: self.quotas,
            // That the VM names an instancetype or a preference is known from the request.
            expansions: self.expansions.map(|_| Box::default()),
            mac_users: self.mac_users,
            overrides: self.overrides,
            ..Self::default()
        }
    }

    /// Returns the NetworkAttachmentDefinition of a NIC of a VM in this namespace.
    #[must_use]
    pub fn nad_of<'n>(&'n self, nic: &Nic<'n>, own_namespace: &'n str) -> Option<NadRef<'n>> {
        nad::nad_of(nic, own_namespace, self.multus_namespace.as_deref().unwrap_or(MULTUS_NAMESPACE))
    }

    /// Returns the facts about that NetworkAttachmentDefinition; `None` unless it is known to exist.
    #[must_use]
    pub fn known_nad(&self, nic: &Nic, own_namespace: &str) -> Option<Arc<Nad>> {
        self.nads.lookup(self.nad_of(nic, own_namespace)?).nad.known().map(Arc::clone)
    }

    /// Returns a NIC of the guest whose address may change with a migration, because its network assigns a new one to each
    /// pod, and what assigns it, as in `whereabouts`. Considers only NICs whose names `is_kept` accepts.
    #[must_use]
    pub fn unstable_address(&self, is_kept: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
        let mut kept = self.guest_networks.iter().filter(|of| is_kept(&of.nic));
        kept.find_map(|of| Some((&*of.nic, of.nad.network.assigns_anew()?)))
    }

    /// Returns what KubeVirt expands the new state of the VM with.
    #[must_use]
    pub fn expansion(&self) -> Option<&Expansion> {
        self.expansions.as_deref().map(|expansions| &expansions.after)
    }

    /// Returns what KubeVirt expands the stored state of the VM with.
    #[must_use]
    pub fn expansion_before(&self) -> Option<&Expansion> {
        self.expansions.as_deref().map(|expansions| &expansions.before)
    }

    /// Returns the running guest that the change affects; absent if there is none, or if it can no longer change.
    #[must_use]
    pub fn live(&self) -> Fact<&Vmi> {
        match &self.vmi {
            Fact::Known(vmi) if vmi.is_live() => Fact::Known(vmi),
            Fact::Known(_) | Fact::Absent => Fact::Absent,
            Fact::Unknown => Fact::Unknown,
        }
    }
}

/// A source of facts, such as watched objects or files.
pub trait FactSource: Send + Sync {
    /// Whether the facts about the objects of a group of KubeVirt come from this group. A fork of KubeVirt serves the
    /// kinds in a group of its own.
    fn reads_group(&self, group: &str, of: &str) -> bool {
        group == of
    }

    /// Returns the facts for a change. They come from memory: this neither waits nor fails.
    fn facts_for(&self, change: &Change) -> Facts;

    /// Returns the facts for the start of a migration: about the guest to be migrated and its VM. The default has none.
    fn facts_for_migration(&self, _start: &MigrationStart) -> Facts {
        Facts::default()
    }

    /// Returns the facts for a change of a network: which guests use it. The default has none.
    fn facts_for_network(&self, _change: &NetworkChange) -> Facts {
        Facts::default()
    }
}

/// A source without facts.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFacts;

impl FactSource for NoFacts {
    fn facts_for(&self, _change: &Change) -> Facts {
        Facts::default()
    }
}
