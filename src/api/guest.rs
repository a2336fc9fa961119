//! The guest: `spec` of a VirtualMachineInstance, `spec.template.spec` of a VirtualMachine (KubeVirt v1.9).
//!
//! Every heartbeat of a running guest is read through these views, so what only the PCI model needs (disks, volumes,
//! host devices, …) is [`Lazy`]: skipped as text, read when somebody asks.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

use super::{
    Lazy, Part, Present, Text,
    network::{Interface, Network},
    nullable, object, objects, optional_object,
};

/// The part of a `VirtualMachineInstanceSpec` that the rules read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct GuestSpec<'a> {
    /// `architecture`: `amd64`, `arm64` or `s390x`; unset means the cluster's default.
    #[serde(borrow)]
    pub architecture: Option<Text<'a>>,
    /// `domain`: the virtual machine proper.
    #[serde(borrow)]
    pub domain: Part<Domain<'a>>,
    /// `networks[]`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub networks: Vec<Network<'a>>,
    /// `resourceClaims[]`: claims that DRA networks refer to.
    #[serde(borrow, deserialize_with = "objects")]
    pub resource_claims: Vec<ResourceClaim<'a>>,
    /// `volumes[]`.
    #[serde(borrow)]
    pub volumes: Lazy<'a, Vec<Named<'a>>>,
}

impl<'a> GuestSpec<'a> {
    /// `domain.devices.interfaces[]`.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface<'a>] {
        &self.domain.devices.interfaces
    }

    /// Whether KubeVirt gives the guest a NIC on the pod network when it is made, because none is written.
    #[must_use]
    pub fn gets_default_nic(&self) -> bool {
        let wants_pod_network = self.domain.devices.autoattach_pod_interface != Some(false);
        wants_pod_network && self.networks.is_empty() && self.interfaces().is_empty()
    }

    /// `networks[]` by name; of two with one name the last one counts, as in KubeVirt.
    #[must_use]
    pub fn networks_by_name(&self) -> HashMap<&str, &Network<'a>> {
        self.networks.iter().map(|network| (network.name.as_str(), network)).collect()
    }
}

/// `domain`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Domain<'a> {
    /// `domain.cpu`.
    #[serde(borrow)]
    pub cpu: Lazy<'a, Cpu>,
    /// `domain.devices`.
    #[serde(borrow)]
    pub devices: Part<Devices<'a>>,
    /// `domain.machine`.
    #[serde(borrow, deserialize_with = "object")]
    pub machine: Machine<'a>,
    /// `domain.memory`.
    #[serde(borrow, deserialize_with = "object")]
    pub memory: Memory<'a>,
    /// `domain.resources`.
    #[serde(borrow)]
    pub resources: Lazy<'a, Resources<'a>>,
}

/// `domain.cpu`: the vCPUs at boot are the product of the three, each of which is 1 unless set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Cpu {
    /// `cores`; 0 when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub cores: u32,
    /// `sockets`; 0 when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub sockets: u32,
    /// `threads`; 0 when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub threads: u32,
}

/// `domain.machine`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Machine<'a> {
    /// `machine.type`, such as `q35` or `virt`; unset or empty means the default of the architecture.
    #[serde(borrow, deserialize_with = "nullable", rename = "type")]
    pub kind: Text<'a>,
}

/// `domain.memory`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Memory<'a> {
    /// `memory.guest`: what the guest sees at boot.
    #[serde(borrow)]
    pub guest: Option<Amount<'a>>,
    /// `memory.hugepages`.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub hugepages: Option<Hugepages<'a>>,
}

/// `domain.memory.hugepages`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Hugepages<'a> {
    /// `hugepages.pageSize`.
    #[serde(borrow)]
    pub page_size: Option<Amount<'a>>,
}

/// `domain.resources`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Resources<'a> {
    /// `resources.requests`.
    #[serde(borrow, deserialize_with = "object")]
    pub requests: ResourceList<'a>,
    /// `resources.limits`.
    #[serde(borrow, deserialize_with = "object")]
    pub limits: ResourceList<'a>,
}

/// `resources.requests` and `resources.limits`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ResourceList<'a> {
    /// `memory`.
    #[serde(borrow)]
    pub memory: Option<Amount<'a>>,
}

/// `domain.devices`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Devices<'a> {
    /// `domain.devices.interfaces[]`.
    #[serde(borrow, deserialize_with = "nullable")]
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
    #[serde(rename = "autoattachVSOCK")]
    pub autoattach_vsock: Option<bool>,
    /// `clientPassthrough`: USB redirection to a client.
    pub client_passthrough: Option<Present>,
    /// `disableHotplug`: of volumes; unset means false.
    pub disable_hotplug: Option<bool>,
    /// `disks[]`.
    #[serde(borrow)]
    pub disks: Lazy<'a, Vec<Disk<'a>>>,
    /// `filesystems[]`.
    #[serde(borrow)]
    pub filesystems: Lazy<'a, Vec<Filesystem<'a>>>,
    /// `gpus[]`.
    #[serde(borrow)]
    pub gpus: Lazy<'a, Vec<HostDevice<'a>>>,
    /// `hostDevices[]`.
    #[serde(borrow)]
    pub host_devices: Lazy<'a, Vec<HostDevice<'a>>>,
    /// `inputs[]`.
    #[serde(borrow)]
    pub inputs: Lazy<'a, Vec<Input<'a>>>,
    /// `networkInterfaceMultiqueue`: unset means false.
    pub network_interface_multiqueue: Option<bool>,
    /// `rng`.
    pub rng: Option<Present>,
    /// `sound`.
    #[serde(borrow)]
    pub sound: Lazy<'a, Option<Sound<'a>>>,
    /// `useVirtioTransitional`: unset means false.
    pub use_virtio_transitional: Option<bool>,
    /// `video`.
    #[serde(borrow)]
    pub video: Lazy<'a, Option<Video<'a>>>,
    /// `watchdog`.
    #[serde(borrow)]
    pub watchdog: Lazy<'a, Option<Watchdog<'a>>>,
}

/// An entry of `devices.disks[]`: one of `disk`, `cdrom`, `lun`; none of them means `disk`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Disk<'a> {
    /// `name`: of the volume.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `disk`.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub disk: Option<DiskTarget<'a>>,
    /// `cdrom`.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub cdrom: Option<DiskTarget<'a>>,
    /// `lun`.
    #[serde(borrow, deserialize_with = "optional_object")]
    pub lun: Option<DiskTarget<'a>>,
}

/// `disks[].disk`, `disks[].cdrom` or `disks[].lun`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct DiskTarget<'a> {
    /// `bus`: virtio, sata, scsi or usb; unset means the default of the architecture.
    #[serde(borrow, deserialize_with = "nullable")]
    pub bus: Text<'a>,
    /// `pciAddress`, for bus virtio only.
    #[serde(borrow)]
    pub pci_address: Option<Text<'a>>,
}

/// An entry of `devices.filesystems[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Filesystem<'a> {
    /// `name`: of the volume.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `virtiofs`.
    pub virtiofs: Option<Present>,
}

/// An entry of `devices.hostDevices[]` or `devices.gpus[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct HostDevice<'a> {
    /// `name`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `deviceName`: a resource that the KubeVirt resource permits; empty for a DRA device.
    #[serde(borrow, deserialize_with = "nullable")]
    pub device_name: Text<'a>,
}

/// An entry of `devices.inputs[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Input<'a> {
    /// `name`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `bus`: usb or virtio; unset means usb.
    #[serde(borrow, deserialize_with = "nullable")]
    pub bus: Text<'a>,
    /// `type`: tablet.
    #[serde(borrow, deserialize_with = "nullable", rename = "type")]
    pub kind: Text<'a>,
}

/// `devices.sound`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Sound<'a> {
    /// `name`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `model`: ich9 or ac97; unset means ich9.
    #[serde(borrow, deserialize_with = "nullable")]
    pub model: Text<'a>,
}

/// `devices.video`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Video<'a> {
    /// `type`: virtio, vga, bochs, ramfb, …
    #[serde(borrow, deserialize_with = "nullable", rename = "type")]
    pub kind: Text<'a>,
}

/// `devices.watchdog`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Watchdog<'a> {
    /// `name`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// `diag288`, on s390x; anything else is an i6300esb.
    pub diag288: Option<Present>,
}

/// An entry of a list of which only the name matters, such as `volumes[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Named<'a> {
    /// `name`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
}

/// `resourceClaims[]`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ResourceClaim<'a> {
    /// The name that a network's `resourceClaim.claimName` refers to.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
}

/// A Kubernetes quantity as it is written: a string such as `"2Gi"`, or a JSON number, which the API takes too.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Amount<'a>(Cow<'a, str>);

impl Amount<'_> {
    /// The quantity's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Amount<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;

        impl<'de> Visitor<'de> for AmountVisitor {
            type Value = Amount<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a quantity such as \"2Gi\"")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Amount(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Amount(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Amount(Cow::Owned(number.to_string())))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Amount(Cow::Owned(number.to_string())))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Amount(Cow::Owned(number.to_string())))
            }
        }

        deserializer.deserialize_any(AmountVisitor)
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
    fn a_field_of_a_newer_kubevirt_is_no_error() {
        let text = r#"{"new": {"a": [1]}, "domain": {"new": 1, "devices": {"new": [], "disks": [{"name": "a",
            "disk": {"bus": "virtio", "new": {}}, "new": 2}]}}}"#;
        let spec: GuestSpec = serde_json::from_str(text).unwrap();
        let disks = spec.domain.devices.disks.read().unwrap();
        assert_eq!(disks[0].disk.as_ref().map(|target| target.bus.as_str()), Some("virtio"));
    }

    #[test]
    fn a_quantity_may_be_a_string_or_a_number() {
        for (text, amount) in [("\"2Gi\"", "2Gi"), ("2147483648", "2147483648"), ("1.5", "1.5"), ("-1", "-1")] {
            assert_eq!(serde_json::from_str::<Amount>(text).unwrap().as_str(), amount);
        }
        assert!(serde_json::from_str::<Amount>("{}").is_err());
    }

    #[test]
    fn a_list_that_is_none_is_an_error_only_for_whoever_reads_it() {
        let spec: GuestSpec = serde_json::from_str(r#"{"domain": {"devices": {"disks": "x"}}}"#).unwrap();
        assert!(spec.domain.devices.disks.read().is_err());
    }
}
