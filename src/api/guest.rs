//! The guest: `spec` of a VirtualMachineInstance, `spec.template.spec` of a VirtualMachine (KubeVirt v1.9).
//!
//! Every heartbeat of a running guest is read through these views. So the fields that only the PCI model needs (disks,
//! volumes, host devices, …) are [`Lazy`]: skipped as text, and read on demand.

mod volume;

use std::{borrow::Cow, collections::BTreeMap, fmt, ptr};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

pub use self::volume::{Volume, VolumeSource};
use super::{
    Lazy, Present, Text, WithNics, WithPresence,
    fields::fields,
    list::List,
    network::{Interface, Network},
    nullable,
    placement::{Affinity, NodeSelector},
    probe::Probe,
    sparse::empty,
};

/// The part of a `VirtualMachineInstanceSpec` that the rules read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestSpec<'a> {
    /// `affinity`.
    pub affinity: Lazy<'a, Affinity>,
    /// `evictionStrategy`: empty means that of the cluster.
    pub eviction_strategy: Text<'a>,
    /// `architecture`: `amd64`, `arm64` or `s390x`; unset means the cluster's default.
    pub architecture: Option<Text<'a>>,
    /// `domain`: CPU, memory and devices.
    pub domain: WithPresence<Domain<'a>>,
    /// `nodeSelector`.
    pub node_selector: Lazy<'a, NodeSelector>,
    /// `livenessProbe`.
    pub liveness_probe: Lazy<'a, Option<Probe>>,
    /// `networks[]`.
    pub networks: Vec<Network<'a>>,
    /// `readinessProbe`.
    pub readiness_probe: Lazy<'a, Option<Probe>>,
    /// `resourceClaims[]`: claims that DRA networks refer to.
    pub resource_claims: Vec<ResourceClaim<'a>>,
    /// `volumes[]`.
    pub volumes: Lazy<'a, List<Volume<'a>>>,
}

fields! {
    GuestSpec {
        "affinity" => affinity: value,
        "architecture" => architecture: value,
        "domain" => domain: with_presence,
        "evictionStrategy" => eviction_strategy: nullable,
        "livenessProbe" => liveness_probe: value,
        "networks" => networks: second_varying,
        "nodeSelector" => node_selector: value,
        "readinessProbe" => readiness_probe: value,
        "resourceClaims" => resource_claims: objects,
        "volumes" => volumes: value,
    }
}

empty!(GuestSpec);

impl<'a> WithNics<'a> for GuestSpec<'a> {
    fn nics_mut(&mut self) -> (&mut Vec<Interface<'a>>, &mut Vec<Network<'a>>) {
        (&mut self.domain.value_mut().devices.value_mut().interfaces, &mut self.networks)
    }
}

impl<'a> GuestSpec<'a> {
    /// `domain.devices.interfaces[]`.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface<'a>] {
        &self.domain.devices.interfaces
    }

    /// Whether both specs have the same interfaces and networks, in the same order.
    #[must_use]
    pub fn has_same_nics(&self, other: &Self) -> bool {
        ptr::eq(self, other) || (self.networks == other.networks && self.interfaces() == other.interfaces())
    }

    /// Whether KubeVirt adds a default NIC on the pod network because the spec has no NIC.
    #[must_use]
    pub fn gets_default_nic(&self) -> bool {
        let wants_pod_network = self.domain.devices.autoattach_pod_interface != Some(false);
        wants_pod_network && self.networks.is_empty() && self.interfaces().is_empty()
    }

    /// Returns `networks[]` by name. The last one of a name counts, as in KubeVirt.
    #[must_use]
    pub fn networks_by_name(&self) -> BTreeMap<&str, &Network<'a>> {
        self.networks.iter().map(|network| (network.name.as_str(), network)).collect()
    }
}

/// `domain`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Domain<'a> {
    /// `domain.cpu`.
    pub cpu: Lazy<'a, Cpu>,
    /// `domain.devices`.
    pub devices: WithPresence<Devices<'a>>,
    /// `domain.machine`.
    pub machine: Machine<'a>,
    /// `domain.memory`.
    pub memory: Memory<'a>,
    /// `domain.resources`.
    pub resources: Lazy<'a, Resources<'a>>,
}

fields! {
    Domain {
        "cpu" => cpu: value,
        "devices" => devices: with_presence,
        "machine" => machine: object,
        "memory" => memory: object,
        "resources" => resources: value,
    }
}

/// `domain.cpu`. The number of vCPUs at boot is the product of the three; each is 1 unless set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Cpu {
    /// `cores`; 0 if missing.
    #[serde(deserialize_with = "nullable")]
    pub cores: u32,
    /// `sockets`; 0 if missing.
    #[serde(deserialize_with = "nullable")]
    pub sockets: u32,
    /// `threads`; 0 if missing.
    #[serde(deserialize_with = "nullable")]
    pub threads: u32,
    /// `dedicatedCpuPlacement`: each vCPU gets a CPU of its own.
    #[serde(rename = "dedicatedCpuPlacement", deserialize_with = "nullable")]
    pub has_dedicated_cpus: bool,
}

/// `domain.machine`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Machine<'a> {
    /// `machine.type`, such as `q35` or `virt`; unset or empty means the default of the architecture.
    pub kind: Text<'a>,
}

fields! {
    Machine {
        "type" => kind: nullable,
    }
}

/// `domain.memory`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory<'a> {
    /// `memory.guest`: the memory of the guest at boot.
    pub guest: Option<Quantity<'a>>,
    /// `memory.hugepages`.
    pub hugepages: Option<Hugepages<'a>>,
}

fields! {
    Memory {
        "guest" => guest: value,
        "hugepages" => hugepages: optional,
    }
}

/// `domain.memory.hugepages`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hugepages<'a> {
    /// `hugepages.pageSize`.
    pub page_size: Option<Quantity<'a>>,
}

fields! {
    Hugepages {
        "pageSize" => page_size: value,
    }
}

/// `domain.resources`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources<'a> {
    /// `resources.requests`.
    pub requests: ResourceList<'a>,
    /// `resources.limits`.
    pub limits: ResourceList<'a>,
}

fields! {
    Resources {
        "requests" => requests: object,
        "limits" => limits: object,
    }
}

/// `resources.requests` and `resources.limits`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceList<'a> {
    /// `memory`.
    pub memory: Option<Quantity<'a>>,
}

fields! {
    ResourceList {
        "memory" => memory: value,
    }
}

/// `domain.devices`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Devices<'a> {
    /// `domain.devices.interfaces[]`.
    pub interfaces: Vec<Interface<'a>>,
    /// `autoattachGraphicsDevice`: unset means true.
    pub autoattach_graphics_device: Option<bool>,
    /// `autoattachInputDevice`: unset means false.
    pub autoattach_input_device: Option<bool>,
    /// `autoattachMemBalloon`: unset means true.
    pub autoattach_mem_balloon: Option<bool>,
    /// `autoattachPodInterface`: unset means true.
    pub autoattach_pod_interface: Option<bool>,
    /// `autoattachSerialConsole`: unset means true.
    pub autoattach_serial_console: Option<bool>,
    /// `autoattachVSOCK`: unset means false.
    pub autoattach_vsock: Option<bool>,
    /// `clientPassthrough`: USB redirection to a client.
    pub client_passthrough: Option<Present>,
    /// `disableHotplug`: of volumes; unset means false.
    pub disable_hotplug: Option<bool>,
    /// `disks[]`.
    pub disks: Lazy<'a, List<Disk<'a>>>,
    /// `filesystems[]`.
    pub filesystems: Lazy<'a, List<Filesystem<'a>>>,
    /// `gpus[]`.
    pub gpus: Lazy<'a, List<HostDevice<'a>>>,
    /// `hostDevices[]`.
    pub host_devices: Lazy<'a, List<HostDevice<'a>>>,
    /// `inputs[]`.
    pub inputs: Lazy<'a, List<Input<'a>>>,
    /// `networkInterfaceMultiqueue`: unset means false.
    pub network_interface_multiqueue: Option<bool>,
    /// `rng`.
    pub rng: Option<Present>,
    /// `sound`.
    pub sound: Lazy<'a, Option<Sound<'a>>>,
    /// `useVirtioTransitional`: unset means false.
    pub use_virtio_transitional: Option<bool>,
    /// `video`.
    pub video: Lazy<'a, Option<Video<'a>>>,
    /// `watchdog`.
    pub watchdog: Lazy<'a, Option<Watchdog<'a>>>,
}

fields! {
    Devices {
        "interfaces" => interfaces: first_varying,
        "autoattachGraphicsDevice" => autoattach_graphics_device: value,
        "autoattachInputDevice" => autoattach_input_device: value,
        "autoattachMemBalloon" => autoattach_mem_balloon: value,
        "autoattachPodInterface" => autoattach_pod_interface: value,
        "autoattachSerialConsole" => autoattach_serial_console: value,
        "autoattachVSOCK" => autoattach_vsock: value,
        "clientPassthrough" => client_passthrough: value,
        "disableHotplug" => disable_hotplug: value,
        "disks" => disks: value,
        "filesystems" => filesystems: value,
        "gpus" => gpus: value,
        "hostDevices" => host_devices: value,
        "inputs" => inputs: value,
        "networkInterfaceMultiqueue" => network_interface_multiqueue: value,
        "rng" => rng: value,
        "sound" => sound: value,
        "useVirtioTransitional" => use_virtio_transitional: value,
        "video" => video: value,
        "watchdog" => watchdog: value,
    }
}

/// An entry of `devices.disks[]`: one of `disk`, `cdrom`, `lun`; none of them means `disk`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Disk<'a> {
    /// `name`: of the volume.
    pub name: Text<'a>,
    /// `disk`.
    pub disk: Option<DiskTarget<'a>>,
    /// `cdrom`.
    pub cdrom: Option<DiskTarget<'a>>,
    /// `lun`.
    pub lun: Option<DiskTarget<'a>>,
}

fields! {
    Disk {
        "name" => name: nullable,
        "disk" => disk: optional,
        "cdrom" => cdrom: optional,
        "lun" => lun: optional,
    }
}

/// `disks[].disk`, `disks[].cdrom` or `disks[].lun`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskTarget<'a> {
    /// `bus`: virtio, sata, scsi or usb; unset means the default of the architecture.
    pub bus: Text<'a>,
    /// `pciAddress`, for bus virtio only.
    pub pci_address: Option<Text<'a>>,
}

fields! {
    DiskTarget {
        "bus" => bus: nullable,
        "pciAddress" => pci_address: value,
    }
}

/// An entry of `devices.filesystems[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filesystem<'a> {
    /// `name`: of the volume.
    pub name: Text<'a>,
    /// `virtiofs`.
    pub virtiofs: Option<Present>,
}

fields! {
    Filesystem {
        "name" => name: nullable,
        "virtiofs" => virtiofs: value,
    }
}

/// An entry of `devices.hostDevices[]` or `devices.gpus[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostDevice<'a> {
    /// `name`.
    pub name: Text<'a>,
    /// `deviceName`: a resource that the KubeVirt resource permits; empty for a DRA device.
    pub device_name: Text<'a>,
}

fields! {
    HostDevice {
        "name" => name: nullable,
        "deviceName" => device_name: nullable,
    }
}

/// An entry of `devices.inputs[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input<'a> {
    /// `name`.
    pub name: Text<'a>,
    /// `bus`: usb or virtio; unset means usb.
    pub bus: Text<'a>,
    /// `type`: tablet.
    pub kind: Text<'a>,
}

fields! {
    Input {
        "name" => name: nullable,
        "bus" => bus: nullable,
        "type" => kind: nullable,
    }
}

/// `devices.sound`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sound<'a> {
    /// `name`.
    pub name: Text<'a>,
    /// `model`: ich9 or ac97; unset means ich9.
    pub model: Text<'a>,
}

fields! {
    Sound {
        "name" => name: nullable,
        "model" => model: nullable,
    }
}

/// `devices.video`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Video<'a> {
    /// `type`: virtio, vga, bochs, ramfb, …
    pub kind: Text<'a>,
}

fields! {
    Video {
        "type" => kind: nullable,
    }
}

/// `devices.watchdog`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watchdog<'a> {
    /// `name`.
    pub name: Text<'a>,
    /// `diag288`, on s390x; anything else is an i6300esb.
    pub diag288: Option<Present>,
}

fields! {
    Watchdog {
        "name" => name: nullable,
        "diag288" => diag288: value,
    }
}

/// `resourceClaims[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceClaim<'a> {
    /// The name that a network's `resourceClaim.claimName` refers to.
    pub name: Text<'a>,
}

fields! {
    ResourceClaim {
        "name" => name: nullable,
    }
}

/// A Kubernetes quantity as written: a string such as `"2Gi"`, or a JSON number, which the API accepts too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Quantity<'a>(Cow<'a, str>);

impl<'a> From<&'a str> for Quantity<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Quantity<'_> {
    /// Returns the text of the quantity.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Quantity<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QuantityVisitor;

        impl<'de> Visitor<'de> for QuantityVisitor {
            type Value = Quantity<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a quantity such as \"2Gi\"")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Quantity(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Quantity(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Quantity(Cow::Owned(number.to_string())))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Quantity(Cow::Owned(number.to_string())))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Quantity(Cow::Owned(number.to_string())))
            }
        }

        deserializer.deserialize_any(QuantityVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_means_the_same_as_a_missing_field_everywhere() {
        let nulls = r#"{"architecture": null, "volumes": null, "networks": null, "domain": {
            "cpu": null, "machine": null, "memory": null, "resources": null, "devices": {
            "interfaces": null, "disks": null, "inputs": null, "gpus": null, "hostDevices": null, "sound": null,
            "filesystems": null, "watchdog": null, "video": null, "rng": null, "autoattachVSOCK": null,
            "disableHotplug": null, "clientPassthrough": null}}}"#;
        let spec: GuestSpec = serde_json::from_str(nulls).unwrap();
        let devices = &spec.domain.devices;
        assert!(spec.architecture.is_none() && spec.domain.machine.kind.is_empty());
        assert!(devices.rng.is_none() && devices.autoattach_vsock.is_none());
        assert!(devices.disks.read().unwrap().is_empty() && spec.volumes.read().unwrap().is_empty());
        assert!(devices.sound.read().unwrap().is_none() && devices.watchdog.read().unwrap().is_none());
    }

    #[test]
    fn a_field_of_a_newer_kubevirt_is_ignored() {
        let text = r#"{"new": {"a": [1]}, "domain": {"new": 1, "devices": {"new": [], "disks": [{"name": "a",
            "disk": {"bus": "virtio", "new": {}}, "new": 2}]}}}"#;
        let spec: GuestSpec = serde_json::from_str(text).unwrap();
        let disks = spec.domain.devices.disks.read().unwrap();
        assert_eq!(disks[0].disk.as_ref().map(|target| target.bus.as_str()), Some("virtio"));
    }

    #[test]
    fn a_quantity_may_be_a_string_or_a_number() {
        for (text, amount) in [("\"2Gi\"", "2Gi"), ("2147483648", "2147483648"), ("1.5", "1.5"), ("-1", "-1")] {
            assert_eq!(serde_json::from_str::<Quantity>(text).unwrap().as_str(), amount);
        }
        assert!(serde_json::from_str::<Quantity>("{}").is_err());
    }

    #[test]
    fn a_lazy_field_of_a_wrong_type_is_an_error_only_when_it_is_read() {
        let spec: GuestSpec = serde_json::from_str(r#"{"domain": {"devices": {"disks": "x"}}}"#).unwrap();
        assert!(spec.domain.devices.disks.read().is_err());
    }
}
