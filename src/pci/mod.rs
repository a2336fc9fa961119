//! The PCI model: which device has which slot on a guest's PCI bus, and how many hotplug ports are free.
//!
//! The number of free ports is fixed when a guest boots. It follows from the devices, the machine type, the memory and
//! the KubeVirt version that starts the guest, in two steps: KubeVirt requests ports from libvirt (`scheme`), and
//! libvirt places the devices (`port_budget`). [`count_devices`] reads the devices of an object, [`PortBudget::of`]
//! calculates the free ports, [`reserve`] finds the annotation for a number of free ports, and [`BusLayout::of`] lists
//! every slot.
//!
//! The model is exact: it was checked against KubeVirt's own functions (v1.9.0), a real libvirt (11.3) and live
//! emulators. PCI NUMA topologies (dedicated CPUs with PCINUMAAwareTopology) are not covered.

mod address;
mod boot_error;
mod boot_slots;
mod devices;
mod layout;
mod machine_type;
mod port_budget;
mod port_usage;
mod quantity;
mod reservation;
mod scheme;

use std::fmt;

use crate::api::quote::{QUOTED_AT_MOST, cut, quote};

pub use self::{
    address::{PciAddress, PciAddressError},
    boot_error::BootError,
    boot_slots::{BootSlots, BootSlotsError, HotplugCapacity},
    devices::{DeviceKind, SlotKind},
    layout::{BusLayout, Slot, SlotPosition},
    machine_type::{Architecture, MachineType},
    port_budget::{BudgetDetails, PortBudget, PortCase},
    port_usage::{Devices, PciNic, PortUsage, SlotCount, count_devices, virtio_disks},
    quantity::{bytes as bytes_of_quantity, thousandths as thousandths_of_quantity},
    reservation::{Reservation, reserve},
    scheme::Scheme,
};

/// The annotation with the number of interfaces that KubeVirt provides ports for (KubeVirt 1.6.4, 1.7.2, 1.8 and
/// later).
pub const SLOT_COUNT: &str = "kubevirt.io/pci-interface-slot-count";

/// The annotation that puts devices on the root bus.
pub const ROOT_COMPLEX: &str = "kubevirt.io/placePCIDevicesOnRootComplex";

/// The annotation with the sidecars of the guest's pod, which may rewrite the domain before libvirt defines it.
pub const HOOK_SIDECARS: &str = "hooks.kubevirt.io/hookSidecars";

/// Options of the PCI bus that are not in the spec.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PciOptions<'a> {
    /// The value of [`SLOT_COUNT`] on the VMI.
    pub slot_count: Option<&'a str>,
    /// Whether [`ROOT_COMPLEX`] on the VMI is exactly `true`.
    pub root_complex: bool,
    /// Whether [`HOOK_SIDECARS`] on the VMI names any.
    pub has_sidecars: bool,
    /// Whether the spec is the template of a VM: then the VM controller adds the input device of
    /// `autoattachInputDevice`.
    pub is_template: bool,
}

impl<'a> PciOptions<'a> {
    /// Reads the annotations of a VMI, or of the metadata of a VM's template.
    #[must_use]
    pub fn of(annotation: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            slot_count: annotation(SLOT_COUNT),
            root_complex: annotation(ROOT_COMPLEX) == Some("true"),
            has_sidecars: names_sidecars(annotation(HOOK_SIDECARS)),
            is_template: false,
        }
    }

    /// Returns the options for the template of a VM.
    #[must_use]
    pub fn for_template(self) -> Self {
        Self { is_template: true, ..self }
    }
}

/// Whether the value of [`HOOK_SIDECARS`] is anything but an empty list.
#[must_use]
pub fn names_sidecars(value: Option<&str>) -> bool {
    value.is_some_and(|value| !matches!(value.trim(), "" | "[]" | "null"))
}

/// How a binding plugin attaches the guest: whether KubeVirt defines a NIC for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DomainAttachment {
    /// `domainAttachmentType` is tap or managedTap: KubeVirt defines a NIC.
    Tap,
    /// Another type or none: KubeVirt defines no NIC, although a sidecar may add one.
    NoNic,
    /// The registration is unknown; treated as a tap.
    Unknown,
}

/// The kind of a permitted host device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostDeviceKind {
    /// `mediatedDevices`: for example a vGPU, which KubeVirt does not count.
    Mediated,
    /// `pciHostDevices`.
    Pci,
    /// The device is unknown; treated as PCI.
    Unknown,
    /// `usb`: not a PCI device.
    Usb,
}

/// The devices that the KubeVirt resource registers by name.
pub trait DeviceRegistry {
    /// Returns `spec.configuration.network.binding[name].domainAttachmentType`.
    fn binding(&self, name: &str) -> DomainAttachment;
    /// Returns the list of `spec.configuration.permittedHostDevices` that has the device.
    fn host_device(&self, device_name: &str) -> HostDeviceKind;
}

/// A registry in which every name is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRegistry;

impl DeviceRegistry for NoRegistry {
    fn binding(&self, _name: &str) -> DomainAttachment {
        DomainAttachment::Unknown
    }

    fn host_device(&self, _device_name: &str) -> HostDeviceKind {
        HostDeviceKind::Unknown
    }
}

/// An assumption behind the figures, made because information is missing.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Note {
    /// An interface has an unknown binding.
    NewerBinding(String),
    /// The registration of a binding plugin is unknown.
    UnknownBinding(String),
    /// The kind of a host device is unknown.
    UnknownHostDevice {
        /// Its name in the spec.
        name: String,
        /// `deviceName`.
        device_name: String,
    },
    /// `memory` is not a quantity.
    UnreadableMemory(String),
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerBinding(name) => {
                write!(
                    formatter,
                    "interface {name} has a binding that nicplug does not know; counted as one port",
                    name = quote(name)
                )
            }
            Self::UnknownBinding(name) => {
                write!(
                    formatter,
                    "binding plugin {name}: registration unknown; counted as one port",
                    name = quote(name)
                )
            }
            Self::UnknownHostDevice { name, device_name } => {
                write!(
                    formatter,
                    "device {} ({}): kind unknown; counted as a PCI device",
                    quote(name),
                    cut(device_name, QUOTED_AT_MOST)
                )
            }
            Self::UnreadableMemory(text) => {
                write!(formatter, "memory {text} is not a quantity; taken as 2Gi or less", text = quote(text))
            }
        }
    }
}

/// A field of the spec has another type than in KubeVirt's API.
#[derive(Debug, thiserror::Error)]
#[error("{field} cannot be read")]
pub struct UnreadableField {
    /// The field, relative to the spec of the VMI.
    pub field: &'static str,
    /// The error.
    pub source: serde_json::Error,
}
