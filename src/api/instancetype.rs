//! Instancetypes and preferences (`instancetype.kubevirt.io/v1beta1`), with the fields from which facts are built. They
//! are read when they change and not during a request, so they own their strings.

use serde::{Deserialize, Deserializer};

use super::{Present, cluster::Metadata, guest::Quantity, nullable, object, objects};

/// The label of a ControllerRevision with the name of the object that it stores.
const OBJECT_NAME: &str = "instancetype.kubevirt.io/object-name";

/// `VirtualMachineInstancetype` and `VirtualMachineClusterInstancetype`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Instancetype {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: InstancetypeSpec,
}

/// `spec` of an instancetype.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InstancetypeSpec {
    /// `cpu`.
    #[serde(deserialize_with = "object")]
    pub cpu: InstancetypeCpu,
    /// `memory`.
    #[serde(deserialize_with = "object")]
    pub memory: InstancetypeMemory,
    /// `gpus[]`.
    #[serde(deserialize_with = "objects")]
    pub gpus: Vec<InstancetypeDevice>,
    /// `hostDevices[]`.
    #[serde(deserialize_with = "objects")]
    pub host_devices: Vec<InstancetypeDevice>,
    /// `annotations`.
    #[serde(deserialize_with = "object")]
    pub annotations: PciAnnotations,
}

/// `spec.cpu` of an instancetype.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct InstancetypeCpu {
    /// `guest`: the number of vCPUs.
    #[serde(deserialize_with = "nullable")]
    pub guest: u32,
    /// `dedicatedCPUPlacement`.
    #[serde(rename = "dedicatedCPUPlacement", deserialize_with = "nullable")]
    pub has_dedicated_cpus: bool,
}

/// `spec.memory` of an instancetype.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct InstancetypeMemory {
    /// `guest`: a quantity.
    #[serde(deserialize_with = "quantity")]
    pub guest: Box<str>,
    /// `hugepages`.
    pub hugepages: Option<Present>,
}

/// `spec.gpus[]` and `spec.hostDevices[]` of an instancetype.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InstancetypeDevice {
    /// `name`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `deviceName`.
    #[serde(deserialize_with = "nullable")]
    pub device_name: String,
}

/// `spec.annotations` of an instancetype or a preference: those that change the PCI bus of the guest.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct PciAnnotations {
    /// `kubevirt.io/pci-interface-slot-count`.
    #[serde(rename = "kubevirt.io/pci-interface-slot-count")]
    pub slot_count: Option<Box<str>>,
    /// `kubevirt.io/placePCIDevicesOnRootComplex`.
    #[serde(rename = "kubevirt.io/placePCIDevicesOnRootComplex")]
    pub root_complex: Option<Box<str>>,
    /// `hooks.kubevirt.io/hookSidecars`.
    #[serde(rename = "hooks.kubevirt.io/hookSidecars")]
    pub hook_sidecars: Option<Box<str>>,
}

/// `VirtualMachinePreference` and `VirtualMachineClusterPreference`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Preference {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: PreferenceSpec,
}

/// `spec` of a preference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PreferenceSpec {
    /// `cpu`.
    #[serde(deserialize_with = "object")]
    pub cpu: PreferredCpu,
    /// `devices`.
    #[serde(deserialize_with = "object")]
    pub devices: PreferredDevices,
    /// `machine`.
    #[serde(deserialize_with = "object")]
    pub machine: PreferredMachine,
    /// `annotations`.
    #[serde(deserialize_with = "object")]
    pub annotations: PciAnnotations,
    /// `preferredArchitecture`.
    #[serde(deserialize_with = "nullable")]
    pub preferred_architecture: Box<str>,
    /// `preferSpreadSocketToCoreRatio`.
    #[serde(deserialize_with = "nullable")]
    pub prefer_spread_socket_to_core_ratio: u32,
}

/// `spec.cpu` of a preference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PreferredCpu {
    /// `preferredCPUTopology`.
    #[serde(rename = "preferredCPUTopology", deserialize_with = "nullable")]
    pub topology: Box<str>,
    /// `spreadOptions`.
    #[serde(deserialize_with = "object")]
    pub spread_options: SpreadOptions,
}

/// `spec.cpu.spreadOptions` of a preference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SpreadOptions {
    /// `across`: `SocketsCores`, `CoresThreads` or `SocketsCoresThreads`.
    #[serde(deserialize_with = "nullable")]
    pub across: Box<str>,
    /// `ratio`.
    pub ratio: Option<u32>,
}

/// `spec.machine` of a preference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PreferredMachine {
    /// `preferredMachineType`.
    #[serde(rename = "preferredMachineType", deserialize_with = "nullable")]
    pub kind: Box<str>,
}

/// `spec.devices` of a preference.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct PreferredDevices {
    /// `preferredAutoattachGraphicsDevice`.
    #[serde(rename = "preferredAutoattachGraphicsDevice")]
    pub autoattach_graphics_device: Option<bool>,
    /// `preferredAutoattachInputDevice`.
    #[serde(rename = "preferredAutoattachInputDevice")]
    pub autoattach_input_device: Option<bool>,
    /// `preferredAutoattachMemBalloon`.
    #[serde(rename = "preferredAutoattachMemBalloon")]
    pub autoattach_mem_balloon: Option<bool>,
    /// `preferredAutoattachPodInterface`.
    #[serde(rename = "preferredAutoattachPodInterface")]
    pub autoattach_pod_interface: Option<bool>,
    /// `preferredAutoattachSerialConsole`.
    #[serde(rename = "preferredAutoattachSerialConsole")]
    pub autoattach_serial_console: Option<bool>,
    /// `preferredDisableHotplug`.
    #[serde(rename = "preferredDisableHotplug")]
    pub disable_hotplug: Option<bool>,
    /// `preferredNetworkInterfaceMultiQueue`.
    #[serde(rename = "preferredNetworkInterfaceMultiQueue")]
    pub network_interface_multiqueue: Option<bool>,
    /// `preferredUseVirtioTransitional`.
    #[serde(rename = "preferredUseVirtioTransitional")]
    pub use_virtio_transitional: Option<bool>,
    /// `preferredInterfaceModel`.
    #[serde(rename = "preferredInterfaceModel", deserialize_with = "nullable")]
    pub interface_model: Box<str>,
    /// `preferredInterfaceMasquerade`.
    #[serde(rename = "preferredInterfaceMasquerade")]
    pub interface_masquerade: Option<Present>,
    /// `preferredDiskBus`.
    #[serde(rename = "preferredDiskBus", deserialize_with = "nullable")]
    pub disk_bus: Box<str>,
    /// `preferredCdromBus`.
    #[serde(rename = "preferredCdromBus", deserialize_with = "nullable")]
    pub cdrom_bus: Box<str>,
    /// `preferredLunBus`.
    #[serde(rename = "preferredLunBus", deserialize_with = "nullable")]
    pub lun_bus: Box<str>,
    /// `preferredInputBus`.
    #[serde(rename = "preferredInputBus", deserialize_with = "nullable")]
    pub input_bus: Box<str>,
    /// `preferredInputType`.
    #[serde(rename = "preferredInputType", deserialize_with = "nullable")]
    pub input_type: Box<str>,
    /// `preferredSoundModel`.
    #[serde(rename = "preferredSoundModel", deserialize_with = "nullable")]
    pub sound_model: Box<str>,
    /// `preferredVideoType`.
    #[serde(rename = "preferredVideoType", deserialize_with = "nullable")]
    pub video_type: Box<str>,
    /// `preferredRng`.
    #[serde(rename = "preferredRng")]
    pub rng: Option<Present>,
}

/// A `ControllerRevision` that stores an instancetype or a preference.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoredRevision {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `data`: the whole object.
    #[serde(deserialize_with = "object")]
    pub data: StoredKind,
}

impl StoredRevision {
    /// Returns the name of the stored object; empty if it has none.
    #[must_use]
    pub fn object_name(&self) -> &str {
        self.metadata.labels.get(OBJECT_NAME).map(String::as_str).unwrap_or_default()
    }
}

/// `kind` of the object in a [`StoredRevision`]; a revision of a VirtualMachine has none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoredKind {
    /// `kind`.
    #[serde(deserialize_with = "nullable")]
    pub kind: String,
}

/// Reads the text of a quantity.
fn quantity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<str>, D::Error> {
    let quantity = Option::<Quantity>::deserialize(deserializer)?.unwrap_or_default();
    Ok(quantity.as_str().into())
}
