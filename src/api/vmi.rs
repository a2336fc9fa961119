//! VirtualMachineInstance (`kubevirt.io/v1`, `kubevirt.io/v1alpha3`).

use std::fmt;

use serde::{Deserialize, Deserializer};

use super::{
    Shared, Text, WithPresence,
    fields::fields,
    guest::{GuestSpec, Quantity},
    metadata::Metadata,
    quote::{QUOTED_AT_MOST, cut},
    sparse::empty,
};

/// `VirtualMachineInstance`: one run of a guest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachineInstance<'a> {
    /// `metadata`.
    pub metadata: WithPresence<Metadata<'a>>,
    /// `spec`.
    pub spec: Shared<'a, GuestSpec<'a>>,
    /// `status`.
    pub status: Shared<'a, VirtualMachineInstanceStatus<'a>>,
}

fields! {
    VirtualMachineInstance {
        "metadata" => metadata: with_presence,
        "spec" => spec: deferred,
        "status" => status: postponed,
    }
}

/// `status` of a VirtualMachineInstance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachineInstanceStatus<'a> {
    /// `phase`.
    pub phase: Phase,
    /// `interfaces[]`: the NICs that the guest or its pod has.
    pub interfaces: Vec<InterfaceStatus<'a>>,
    /// `conditions[]`.
    pub conditions: Vec<Condition<'a>>,
    /// `migrationState`: the running live migration, or the last one.
    pub migration_state: Option<MigrationState<'a>>,
    /// `nodeName`: the node where the guest runs.
    pub node_name: Text<'a>,
    /// `memory`.
    pub memory: MemoryStatus<'a>,
    /// `virtualMachineRevisionName`: the ControllerRevision with the VM spec from which this object was created.
    pub virtual_machine_revision_name: Option<Text<'a>>,
}

fields! {
    VirtualMachineInstanceStatus {
        "phase" => phase: nullable,
        "interfaces" => interfaces: objects,
        "conditions" => conditions: objects,
        "migrationState" => migration_state: optional,
        "nodeName" => node_name: nullable,
        "memory" => memory: object,
        "virtualMachineRevisionName" => virtual_machine_revision_name: value,
    }
}

empty!(VirtualMachineInstanceStatus);

/// `status.memory` of a VirtualMachineInstance (KubeVirt 1.1 and later).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryStatus<'a> {
    /// `guestAtBoot`.
    pub guest_at_boot: Option<Quantity<'a>>,
    /// `guestRequested`: differs from `guestAtBoot` after a memory hotplug.
    pub guest_requested: Option<Quantity<'a>>,
}

fields! {
    MemoryStatus {
        "guestAtBoot" => guest_at_boot: value,
        "guestRequested" => guest_requested: value,
    }
}

impl MemoryStatus<'_> {
    /// Whether memory was hotplugged since the guest booted.
    #[must_use]
    pub fn is_hotplugged(&self) -> bool {
        self.guest_at_boot.is_some() && self.guest_requested.is_some() && self.guest_at_boot != self.guest_requested
    }
}

/// `status.phase` of a VirtualMachineInstance.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Phase {
    /// Not set yet: the object is new.
    #[default]
    Unset,
    /// The guest runs, and hotplug works.
    Running,
    /// The guest has shut down; final.
    Succeeded,
    /// The guest has failed; final.
    Failed,
    /// `Pending`, `Scheduling`, `Scheduled`, `Unknown`, or a phase of a newer KubeVirt.
    Other(Box<str>),
}

impl Phase {
    /// Whether the phase is final.
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
            Self::Other(text) => return formatter.write_str(&cut(text, QUOTED_AT_MOST)),
        })
    }
}

/// `status.interfaces[]`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceStatus<'a> {
    /// `name`: of the NIC; empty for one that only the guest agent reports.
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
    /// Whether `source` is one of the sources that report this NIC.
    #[must_use]
    pub fn is_reported_by(&self, source: &str) -> bool {
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

impl Condition<'_> {
    /// Whether its status is `True`.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.status.as_str() == "True"
    }
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
    /// Whether the migration is still running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.completed && !self.failed && self.end_timestamp.is_none()
    }
}
