//! The objects that a request carries: VirtualMachine, VirtualMachineInstance and the kinds that hold their templates
//! (`kubevirt.io/v1`, `kubevirt.io/v1alpha3`, `pool.kubevirt.io`).

use std::fmt;

use serde::{Deserialize, Deserializer, de::MapAccess};

use super::{
    Part, Present, Shared, Text,
    fields::{Fields, fields},
    guest::{Amount, GuestSpec},
    network::{Bindings, Interface, Multus, Network},
};

/// `VirtualMachine`: the guest's NICs are in its template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachine<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: Shared<'a, VirtualMachineSpec<'a>>,
    /// `status`.
    pub status: VirtualMachineStatus<'a>,
}

fields! {
    VirtualMachine {
        "metadata" => metadata: object,
        "spec" => spec: shared,
        "status" => status: object,
    }
}

impl VirtualMachine<'_> {
    /// Whether an instancetype or a preference adds what the template does not show.
    #[must_use]
    pub fn is_expanded(&self) -> bool {
        self.spec.instancetype.is_some() || self.spec.preference.is_some()
    }
}

/// `spec` of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachineSpec<'a> {
    /// `template`: what the VirtualMachineInstance is made from.
    pub template: GuestTemplate<'a>,
    /// `instancetype`: memory and devices may come from there.
    pub instancetype: Option<Present>,
    /// `preference`: machine type, NIC model and disk bus may come from there.
    pub preference: Option<Present>,
}

fields! {
    VirtualMachineSpec {
        "template" => template: object,
        "instancetype" => instancetype: value,
        "preference" => preference: value,
    }
}

/// `status` of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachineStatus<'a> {
    /// `interfaceRequests[]`: what KubeVirt up to 1.0 was asked to add or remove. The API of later versions has no such
    /// field, and their schema prunes it.
    pub interface_requests: Vec<InterfaceRequest<'a>>,
}

fields! {
    VirtualMachineStatus {
        "interfaceRequests" => interface_requests: objects,
    }
}

/// `status.interfaceRequests[]`: one of its two fields is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceRequest<'a> {
    /// `addInterfaceOptions`.
    pub add_interface_options: Option<AddInterface<'a>>,
    /// `removeInterfaceOptions`.
    pub remove_interface_options: Option<RemoveInterface<'a>>,
}

fields! {
    InterfaceRequest {
        "addInterfaceOptions" => add_interface_options: optional,
        "removeInterfaceOptions" => remove_interface_options: optional,
    }
}

/// `addInterfaceOptions`, as the NIC that KubeVirt makes of it: `bridge: {}` on a multus network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddInterface<'a> {
    /// Its interface, of the name that is asked for.
    pub interface: Interface<'a>,
    /// Its network: `multus.networkName` is the `networkAttachmentDefinitionName`.
    pub network: Network<'a>,
}

impl<'de> Fields<'de> for AddInterface<'de> {
    fn fill<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error> {
        let mut options = AddOptions::default();
        options.fill(map)?;
        let AddOptions { name, network_name } = options;
        self.interface.bindings = Bindings { bridge: Some(Present), ..Bindings::default() };
        self.interface.name = name.clone();
        self.network.name = name;
        self.network.multus = Some(Multus { network_name, default: false });
        Ok(())
    }
}

/// `addInterfaceOptions`, as it is written.
#[derive(Default)]
struct AddOptions<'a> {
    name: Text<'a>,
    network_name: Text<'a>,
}

fields! {
    AddOptions {
        "name" => name: nullable,
        "networkAttachmentDefinitionName" => network_name: nullable,
    }
}

/// `removeInterfaceOptions`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RemoveInterface<'a> {
    /// `name`: of the NIC.
    pub name: Text<'a>,
}

fields! {
    RemoveInterface {
        "name" => name: nullable,
    }
}

/// `spec.template`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestTemplate<'a> {
    /// `metadata`: its annotations become the VirtualMachineInstance's.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: GuestSpec<'a>,
}

fields! {
    GuestTemplate {
        "metadata" => metadata: object,
        "spec" => spec: object,
    }
}

/// `ControllerRevision` (`apps/v1`) of a VirtualMachine: the spec that a run was started from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `data`.
    pub data: RevisionData<'a>,
}

fields! {
    Revision {
        "metadata" => metadata: object,
        "data" => data: object,
    }
}

/// `data` of a ControllerRevision of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RevisionData<'a> {
    /// `spec`: of the VirtualMachine.
    pub spec: VirtualMachineSpec<'a>,
}

fields! {
    RevisionData {
        "spec" => spec: object,
    }
}

/// `VirtualMachineInstance`: one run of a guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachineInstance<'a> {
    /// `metadata`.
    pub metadata: Part<Metadata<'a>>,
    /// `spec`.
    pub spec: Shared<'a, GuestSpec<'a>>,
    /// `status`.
    pub status: InstanceStatus<'a>,
}

fields! {
    VirtualMachineInstance {
        "metadata" => metadata: part,
        "spec" => spec: put_off,
        "status" => status: object,
    }
}

/// `VirtualMachineInstanceReplicaSet`: its template has the form of a VirtualMachine's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaSet<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: ReplicaSetSpec<'a>,
}

fields! {
    ReplicaSet {
        "metadata" => metadata: object,
        "spec" => spec: object,
    }
}

/// `spec` of a VirtualMachineInstanceReplicaSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaSetSpec<'a> {
    /// `template`.
    pub template: GuestTemplate<'a>,
}

fields! {
    ReplicaSetSpec {
        "template" => template: object,
    }
}

/// `VirtualMachinePool`: it holds the template of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: PoolSpec<'a>,
}

fields! {
    Pool {
        "metadata" => metadata: object,
        "spec" => spec: object,
    }
}

/// `spec` of a VirtualMachinePool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolSpec<'a> {
    /// `virtualMachineTemplate`: the VirtualMachine's metadata and spec.
    pub virtual_machine_template: VirtualMachine<'a>,
}

fields! {
    PoolSpec {
        "virtualMachineTemplate" => virtual_machine_template: object,
    }
}

/// `VirtualMachineInstanceMigration`: the wish to move a running guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Migration<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: MigrationSpec<'a>,
    /// `status`.
    pub status: MigrationStatus<'a>,
}

fields! {
    Migration {
        "metadata" => metadata: object,
        "spec" => spec: object,
        "status" => status: object,
    }
}

impl Migration<'_> {
    /// Whether it has come to its end, good or bad.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// `spec` of a VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationSpec<'a> {
    /// `vmiName`: the VirtualMachineInstance, in the migration's namespace.
    pub vmi_name: Text<'a>,
}

fields! {
    MigrationSpec {
        "vmiName" => vmi_name: nullable,
    }
}

/// `status` of a VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationStatus<'a> {
    /// `phase`: `Pending`, …, `Running`, `Succeeded`, `Failed`; empty before the first.
    pub phase: Text<'a>,
}

fields! {
    MigrationStatus {
        "phase" => phase: nullable,
    }
}

/// `metadata` of any object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata<'a> {
    /// `name`.
    pub name: Text<'a>,
    /// `namespace`.
    pub namespace: Text<'a>,
    /// `uid`.
    pub uid: Text<'a>,
    /// `annotations`: `None` where a patch has to create the map first.
    pub annotations: Option<Annotations<'a>>,
    /// `deletionTimestamp`: set while the object is being deleted.
    pub deletion_timestamp: Option<Present>,
    /// `ownerReferences[]`.
    pub owner_references: Vec<OwnerReference<'a>>,
}

fields! {
    Metadata {
        "name" => name: nullable,
        "namespace" => namespace: nullable,
        "uid" => uid: nullable,
        "annotations" => annotations: optional,
        "deletionTimestamp" => deletion_timestamp: value,
        "ownerReferences" => owner_references: objects,
    }
}

/// The annotations that nicplug reads; all others are skipped.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Annotations<'a> {
    /// `nicplug.io/add-interfaces`: NICs that a VM's template is to have.
    pub add_interfaces: Option<Text<'a>>,
    /// `nicplug.io/remove-interfaces`: names of NICs that a VM's template is to lose.
    pub remove_interfaces: Option<Text<'a>>,
    /// `nicplug.io/apply`: `on-restart` lets a change of a live VM wait for the next restart.
    pub apply: Option<Text<'a>>,
    /// `nicplug.io/persist`: names of NICs (or `*`) to mirror into the VM's template.
    pub persist: Option<Text<'a>>,
    /// `nicplug.io/reserve-ports`: how many free hotplug ports every boot is to have.
    pub reserve_ports: Option<Text<'a>>,
    /// `nicplug.io/boot-slots`: our stamp, what the PCI topology was at boot.
    pub boot_slots: Option<Text<'a>>,
    /// `kubevirt.io/pci-interface-slot-count`: how many NIC ports KubeVirt keeps.
    pub slot_count: Option<Text<'a>>,
    /// `kubevirt.io/placePCIDevicesOnRootComplex`: `true` leaves no hotplug ports.
    pub root_complex: Option<Text<'a>>,
}

fields! {
    Annotations {
        "nicplug.io/add-interfaces" => add_interfaces: value,
        "nicplug.io/remove-interfaces" => remove_interfaces: value,
        "nicplug.io/apply" => apply: value,
        "nicplug.io/persist" => persist: value,
        "nicplug.io/reserve-ports" => reserve_ports: value,
        "nicplug.io/boot-slots" => boot_slots: value,
        "kubevirt.io/pci-interface-slot-count" => slot_count: value,
        "kubevirt.io/placePCIDevicesOnRootComplex" => root_complex: value,
    }
}

/// `metadata.ownerReferences[]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnerReference<'a> {
    /// `kind`.
    pub kind: Text<'a>,
    /// `name`.
    pub name: Text<'a>,
    /// `uid`.
    pub uid: Text<'a>,
}

fields! {
    OwnerReference {
        "kind" => kind: nullable,
        "name" => name: nullable,
        "uid" => uid: nullable,
    }
}

/// `status` of a VirtualMachineInstance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceStatus<'a> {
    /// `phase`.
    pub phase: Phase,
    /// `interfaces[]`: what the guest has in truth.
    pub interfaces: Vec<InterfaceStatus<'a>>,
    /// `conditions[]`.
    pub conditions: Vec<Condition<'a>>,
    /// `migrationState`: the last or the running live migration.
    pub migration_state: Option<MigrationState<'a>>,
    /// `memory`.
    pub memory: MemoryStatus<'a>,
    /// `virtualMachineRevisionName`: the ControllerRevision that holds the template of this run.
    pub virtual_machine_revision_name: Option<Text<'a>>,
}

fields! {
    InstanceStatus {
        "phase" => phase: nullable,
        "interfaces" => interfaces: objects,
        "conditions" => conditions: objects,
        "migrationState" => migration_state: optional,
        "memory" => memory: object,
        "virtualMachineRevisionName" => virtual_machine_revision_name: value,
    }
}

/// `status.memory` of a VirtualMachineInstance (KubeVirt 1.1 and later).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryStatus<'a> {
    /// `guestAtBoot`.
    pub guest_at_boot: Option<Amount<'a>>,
    /// `guestRequested`: differs once memory was hotplugged.
    pub guest_requested: Option<Amount<'a>>,
}

fields! {
    MemoryStatus {
        "guestAtBoot" => guest_at_boot: value,
        "guestRequested" => guest_requested: value,
    }
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
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceStatus<'a> {
    /// `name`: of the NIC; empty for one that only the guest agent saw.
    pub name: Text<'a>,
    /// `infoSource`: comma list of `domain`, `guest-agent`, `multus-status`.
    pub info_source: Text<'a>,
    /// `podInterfaceName`.
    pub pod_interface_name: Text<'a>,
}

fields! {
    InterfaceStatus {
        "name" => name: nullable,
        "infoSource" => info_source: nullable,
        "podInterfaceName" => pod_interface_name: nullable,
    }
}

impl InterfaceStatus<'_> {
    /// Whether `source` is among the places that reported this NIC.
    #[must_use]
    pub fn is_seen_by(&self, source: &str) -> bool {
        self.info_source.split(',').any(|entry| entry.trim() == source)
    }
}

/// `status.conditions[]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Condition<'a> {
    /// `type`, such as `LiveMigratable`.
    pub kind: Text<'a>,
    /// `status`: `True`, `False` or `Unknown`.
    pub status: Text<'a>,
    /// `reason`.
    pub reason: Text<'a>,
    /// `message`.
    pub message: Text<'a>,
}

fields! {
    Condition {
        "type" => kind: nullable,
        "status" => status: nullable,
        "reason" => reason: nullable,
        "message" => message: nullable,
    }
}

/// `status.migrationState`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MigrationState<'a> {
    /// `completed`.
    pub completed: bool,
    /// `failed`.
    pub failed: bool,
    /// `startTimestamp`.
    pub start_timestamp: Option<Text<'a>>,
    /// `endTimestamp`.
    pub end_timestamp: Option<Text<'a>>,
}

fields! {
    MigrationState {
        "completed" => completed: nullable,
        "failed" => failed: nullable,
        "startTimestamp" => start_timestamp: value,
        "endTimestamp" => end_timestamp: value,
    }
}

impl MigrationState<'_> {
    /// Whether the migration it tells of has started and is not over.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.completed && !self.failed && self.end_timestamp.is_none()
    }
}
