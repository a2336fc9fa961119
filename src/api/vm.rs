//! The objects that a request carries: VirtualMachine, VirtualMachineInstance and the kinds that hold their templates
//! (`kubevirt.io/v1`, `kubevirt.io/v1alpha3`, `pool.kubevirt.io`).

use std::fmt;

use serde::{Deserialize, Deserializer};

use super::{
    Part, Present, Text,
    guest::{Amount, GuestSpec},
    network::{Bindings, Interface, Multus, Network},
    nullable, object, objects, optional_object,
};

/// `VirtualMachine`: the guest's NICs are in its template.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct VirtualMachine<'a> {
    /// `metadata`.
    #[serde(borrow, deserialize_with = "object")]
    pub metadata: Metadata<'a>,
    /// `spec`.
    #[serde(borrow, deserialize_with = "object")]
    pub spec: VirtualMachineSpec<'a>,
    /// `status`.
    #[serde(borrow, deserialize_with = "object")]
    pub status: VirtualMachineStatus<'a>,
}

impl VirtualMachine<'_> {
    /// Whether an instancetype or a preference adds what the template does not show.
    #[must_use]
    pub fn is_expanded(&self) -> bool {
        self.spec.instancetype.is_some() || self.spec.preference.is_some()
    }
}

/// `spec` of a VirtualMachine.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct VirtualMachineSpec<'a> {
    /// `template`: what the VirtualMachineInstance is made from.
    #[serde(borrow, deserialize_with = "object")]
    pub template: GuestTemplate<'a>,
    /// `instancetype`: memory and devices may come from there.
    pub instancetype: Option<Present>,
    /// `preference`: machine type, NIC model and disk bus may come from there.
    pub preference: Option<Present>,
}

/// `status` of a VirtualMachine.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualMachineStatus<'a> {
    /// `interfaceRequests[]`: what KubeVirt up to 1.0 was asked to add or remove. The API of later versions has no such
    /// field, and their schema prunes it.
    #[serde(borrow, deserialize_with = "objects")]
    pub interface_requests: Vec<InterfaceRequest<'a>>,
}

/// `status.interfaceRequests[]`: one of its two fields is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct InterfaceRequest<'a> {
    /// `addInterfaceOptions`.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub add_interface_options: Option<AddInterface<'a>>,
    /// `removeInterfaceOptions`.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub remove_interface_options: Option<RemoveInterface<'a>>,
}

/// `addInterfaceOptions`, as the NIC that KubeVirt makes of it: `bridge: {}` on a multus network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddInterface<'a> {
    /// Its interface, of the name that is asked for.
    pub interface: Interface<'a>,
    /// Its network: `multus.networkName` is the `networkAttachmentDefinitionName`.
    pub network: Network<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for AddInterface<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Options<'a> {
            #[serde(borrow, deserialize_with = "nullable")]
            name: Text<'a>,
            #[serde(borrow, deserialize_with = "nullable")]
            network_attachment_definition_name: Text<'a>,
        }

        let Options { name, network_attachment_definition_name: network_name } = Options::deserialize(deserializer)?;
        let bindings = Bindings { bridge: Some(Present), ..Bindings::default() };
        let multus = Some(Multus { network_name, default: false });
        Ok(Self {
            interface: Interface { name: name.clone(), bindings, ..Interface::default() },
            network: Network { name, multus, ..Network::default() },
        })
    }
}

/// `removeInterfaceOptions`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct RemoveInterface<'a> {
    /// `name`: of the NIC.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
}

/// `spec.template`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct GuestTemplate<'a> {
    /// `metadata`: its annotations become the VirtualMachineInstance's.
    #[serde(borrow, deserialize_with = "object")]
    pub metadata: Metadata<'a>,
    /// `spec`.
    #[serde(borrow, deserialize_with = "object")]
    pub spec: GuestSpec<'a>,
}

/// `ControllerRevision` (`apps/v1`) of a VirtualMachine: the spec that a run was started from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Revision<'a> {
    /// `metadata`.
    #[serde(borrow, deserialize_with = "object")]
    pub metadata: Metadata<'a>,
    /// `data`.
    #[serde(borrow, deserialize_with = "object")]
    pub data: RevisionData<'a>,
}

/// `data` of a ControllerRevision of a VirtualMachine.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct RevisionData<'a> {
    /// `spec`: of the VirtualMachine.
    #[serde(borrow, deserialize_with = "object")]
    pub spec: VirtualMachineSpec<'a>,
}

/// `VirtualMachineInstance`: one run of a guest.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct VirtualMachineInstance<'a> {
    /// `metadata`.
    #[serde(borrow)]
    pub metadata: Part<Metadata<'a>>,
    /// `spec`.
    #[serde(borrow, deserialize_with = "object")]
    pub spec: GuestSpec<'a>,
    /// `status`.
    #[serde(borrow, deserialize_with = "object")]
    pub status: InstanceStatus<'a>,
}

/// `VirtualMachineInstanceReplicaSet`: its template has the form of a VirtualMachine's.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ReplicaSet<'a> {
    /// `metadata`.
    #[serde(borrow, deserialize_with = "object")]
    pub metadata: Metadata<'a>,
    /// `spec`.
    #[serde(borrow, deserialize_with = "object")]
    pub spec: ReplicaSetSpec<'a>,
}

/// `spec` of a VirtualMachineInstanceReplicaSet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ReplicaSetSpec<'a> {
    /// `template`.
    #[serde(borrow, deserialize_with = "object")]
    pub template: GuestTemplate<'a>,
}

/// `VirtualMachinePool`: it holds the template of a VirtualMachine.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Pool<'a> {
    /// `metadata`.
    #[serde(borrow, deserialize_with = "object")]
    pub metadata: Metadata<'a>,
    /// `spec`.
    #[serde(borrow, deserialize_with = "object")]
    pub spec: PoolSpec<'a>,
}

/// `spec` of a VirtualMachinePool.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct PoolSpec<'a> {
    /// `virtualMachineTemplate`: the VirtualMachine's metadata and spec.
    #[serde(borrow, deserialize_with = "object")]
    pub virtual_machine_template: VirtualMachine<'a>,
}

/// `VirtualMachineInstanceMigration`: the wish to move a running guest.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Migration<'a> {
    /// `metadata`.
    #[serde(borrow, deserialize_with = "object")]
    pub metadata: Metadata<'a>,
    /// `spec`.
    #[serde(borrow, deserialize_with = "object")]
    pub spec: MigrationSpec<'a>,
    /// `status`.
    #[serde(borrow, deserialize_with = "object")]
    pub status: MigrationStatus<'a>,
}

impl Migration<'_> {
    /// Whether it has come to its end, good or bad.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// `spec` of a VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct MigrationSpec<'a> {
    /// `vmiName`: the VirtualMachineInstance, in the migration's namespace.
    #[serde(borrow, deserialize_with = "nullable")]
    pub vmi_name: Text<'a>,
}

/// `status` of a VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct MigrationStatus<'a> {
    /// `phase`: `Pending`, …, `Running`, `Succeeded`, `Failed`; empty before the first.
    #[serde(borrow, deserialize_with = "nullable")]
    pub phase: Text<'a>,
}

/// `metadata` of any object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata<'a> {
    /// `name`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `namespace`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub namespace: Text<'a>,
    /// `uid`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub uid: Text<'a>,
    /// `annotations`: `None` where a patch has to create the map first.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub annotations: Option<Annotations<'a>>,
    /// `deletionTimestamp`: set while the object is being deleted.
    pub deletion_timestamp: Option<Present>,
    /// `ownerReferences[]`.
    #[serde(borrow, deserialize_with = "objects")]
    pub owner_references: Vec<OwnerReference<'a>>,
}

/// The annotations that nicplug reads; all others are skipped.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Annotations<'a> {
    /// `nicplug.io/add-interfaces`: NICs that a VM's template is to have.
    #[serde(borrow, rename = "nicplug.io/add-interfaces")]
    pub add_interfaces: Option<Text<'a>>,
    /// `nicplug.io/remove-interfaces`: names of NICs that a VM's template is to lose.
    #[serde(borrow, rename = "nicplug.io/remove-interfaces")]
    pub remove_interfaces: Option<Text<'a>>,
    /// `nicplug.io/apply`: `on-restart` lets a change of a live VM wait for the next restart.
    #[serde(borrow, rename = "nicplug.io/apply")]
    pub apply: Option<Text<'a>>,
    /// `nicplug.io/persist`: names of NICs (or `*`) to mirror into the VM's template.
    #[serde(borrow, rename = "nicplug.io/persist")]
    pub persist: Option<Text<'a>>,
    /// `nicplug.io/reserve-ports`: how many free hotplug ports every boot is to have.
    #[serde(borrow, rename = "nicplug.io/reserve-ports")]
    pub reserve_ports: Option<Text<'a>>,
    /// `nicplug.io/boot-slots`: our stamp, what the PCI topology was at boot.
    #[serde(borrow, rename = "nicplug.io/boot-slots")]
    pub boot_slots: Option<Text<'a>>,
    /// `kubevirt.io/pci-interface-slot-count`: how many NIC ports KubeVirt keeps.
    #[serde(borrow, rename = "kubevirt.io/pci-interface-slot-count")]
    pub slot_count: Option<Text<'a>>,
    /// `kubevirt.io/placePCIDevicesOnRootComplex`: `true` leaves no hotplug ports.
    #[serde(borrow, rename = "kubevirt.io/placePCIDevicesOnRootComplex")]
    pub root_complex: Option<Text<'a>>,
}

/// `metadata.ownerReferences[]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct OwnerReference<'a> {
    /// `kind`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub kind: Text<'a>,
    /// `name`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `uid`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub uid: Text<'a>,
}

/// `status` of a VirtualMachineInstance.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct InstanceStatus<'a> {
    /// `phase`.
    #[serde(deserialize_with = "nullable")]
    pub phase: Phase,
    /// `interfaces[]`: what the guest has in truth.
    #[serde(borrow, deserialize_with = "objects")]
    pub interfaces: Vec<InterfaceStatus<'a>>,
    /// `conditions[]`.
    #[serde(borrow, deserialize_with = "objects")]
    pub conditions: Vec<Condition<'a>>,
    /// `migrationState`: the last or the running live migration.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub migration_state: Option<MigrationState<'a>>,
    /// `memory`.
    #[serde(borrow, deserialize_with = "object")]
    pub memory: MemoryStatus<'a>,
    /// `virtualMachineRevisionName`: the ControllerRevision that holds the template of this run.
    #[serde(borrow)]
    pub virtual_machine_revision_name: Option<Text<'a>>,
}

/// `status.memory` of a VirtualMachineInstance (KubeVirt 1.1 and later).
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct MemoryStatus<'a> {
    /// `guestAtBoot`.
    #[serde(borrow)]
    pub guest_at_boot: Option<Amount<'a>>,
    /// `guestRequested`: differs once memory was hotplugged.
    #[serde(borrow)]
    pub guest_requested: Option<Amount<'a>>,
}

impl MemoryStatus<'_> {
    /// Whether memory was plugged since the guest booted.
    #[must_use]
    pub fn is_hotplugged(&self) -> bool {
        self.guest_at_boot.is_some() && self.guest_requested.is_some() && self.guest_at_boot != self.guest_requested
    }
}

/// `status.phase` of a VirtualMachineInstance.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Phase {
    /// Set by nobody yet: the object was just made.
    #[default]
    Unset,
    /// Hotplug works.
    Running,
    /// The guest has ended: nothing changes any more.
    Succeeded,
    /// The guest has ended, or could not go on: nothing changes any more.
    Failed,
    /// `Pending`, `Scheduling`, `Scheduled`, `Unknown`, or a phase of a newer KubeVirt.
    Other(Box<str>),
}

impl Phase {
    /// Whether nothing changes any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

impl<'de> Deserialize<'de> for Phase {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "" => Self::Unset,
            "Running" => Self::Running,
            "Succeeded" => Self::Succeeded,
            "Failed" => Self::Failed,
            other => Self::Other(other.into()),
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unset => "not set",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Other(text) => text,
        })
    }
}

/// `status.interfaces[]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct InterfaceStatus<'a> {
    /// `name`: of the NIC; empty for one that only the guest agent saw.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `infoSource`: comma list of `domain`, `guest-agent`, `multus-status`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub info_source: Text<'a>,
    /// `podInterfaceName`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub pod_interface_name: Text<'a>,
}

impl InterfaceStatus<'_> {
    /// Whether `source` is among the places that reported this NIC.
    #[must_use]
    pub fn is_seen_by(&self, source: &str) -> bool {
        self.info_source.split(',').any(|entry| entry.trim() == source)
    }
}

/// `status.conditions[]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Condition<'a> {
    /// `type`, such as `LiveMigratable`.
    #[serde(borrow, deserialize_with = "nullable", rename = "type")]
    pub kind: Text<'a>,
    /// `status`: `True`, `False` or `Unknown`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: Text<'a>,
    /// `reason`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub reason: Text<'a>,
    /// `message`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub message: Text<'a>,
}

/// `status.migrationState`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct MigrationState<'a> {
    /// `completed`.
    #[serde(deserialize_with = "nullable")]
    pub completed: bool,
    /// `failed`.
    #[serde(deserialize_with = "nullable")]
    pub failed: bool,
    /// `startTimestamp`.
    #[serde(borrow)]
    pub start_timestamp: Option<Text<'a>>,
    /// `endTimestamp`.
    #[serde(borrow)]
    pub end_timestamp: Option<Text<'a>>,
}

impl MigrationState<'_> {
    /// Whether the migration it tells of has started and is not over.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.completed && !self.failed && self.end_timestamp.is_none()
    }
}
