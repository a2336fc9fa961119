//! The PCI model: what sits where on a guest's PCI bus, and how many hotplug ports are free.
//!
//! A guest's free ports are fixed when it boots. How many there are follows from its devices, its machine, its memory
//! and the KubeVirt version that starts it, in two steps: KubeVirt asks libvirt for ports by a count of its own
//! (`scheme`), and libvirt places the devices (`reckoning`). [`count_devices`] reads what counts out of an object,
//! [`reckon`] does the sum, [`reserve`] turns the sum round, and [`picture`] shows the bus.
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

pub use self::{
    address::{PciAddress, PciAddressError},
    boot_error::BootError,
    boot_slots::{BootSlots, BootSlotsError, HotplugCapacity},
    devices::{DeviceKind, SlotKind},
    layout::{BusLayout, Slot, SlotPosition},
    machine_type::{Architecture, MachineType},
    port_budget::{BudgetDetails, PortBudget, PortCase},
    port_usage::{Devices, PciNic, PortUsage, SlotCount, count_devices},
    reservation::{Reservation, reserve},
    scheme::Scheme,
};

/// The annotation that says how many interfaces a guest shall have ports for (KubeVirt 1.6.4, 1.7.2, 1.8 and later).
pub const SLOT_COUNT: &str = "kubevirt.io/pci-interface-slot-count";

/// The annotation that puts devices on the root bus.
pub const ROOT_COMPLEX: &str = "kubevirt.io/placePCIDevicesOnRootComplex";

/// What the PCI bus depends on besides the spec.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PciOptions<'a> {
    /// The value of [`SLOT_COUNT`] on the VMI.
    pub slot_count: Option<&'a str>,
    /// Whether [`ROOT_COMPLEX`] on the VMI is exactly `true`.
    pub root_complex: bool,
    /// Whether the spec is the template of a VM: then the VM controller adds what `autoattachInputDevice` asks for.
    pub is_template: bool,
}

impl<'a> PciOptions<'a> {
    /// Reads the annotations of a VMI, or of the metadata of a VM's template.
    #[must_use]
    pub fn of(annotation: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            slot_count: annotation(SLOT_COUNT),
            root_complex: annotation(ROOT_COMPLEX) == Some("true"),
            is_template: false,
        }
    }

    /// The same, for the template of a VM.
    #[must_use]
    pub fn for_template(self) -> Self {
        Self { is_template: true, ..self }
    }
}

/// Whether a binding plugin gives the guest a NIC that KubeVirt defines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DomainAttachment {
    /// `domainAttachmentType` tap or managedTap: an interface like any other.
    Tap,
    /// Another type or none: no interface in the domain, though a sidecar may add one unseen.
    NoNic,
    /// The plugin's registration is not known; it counts as a tap.
    Unknown,
}

/// What a permitted host device is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostDeviceKind {
    /// `mediatedDevices`: a vGPU or its like, which KubeVirt does not count.
    Mediated,
    /// `pciHostDevices`.
    Pci,
    /// The device is not known; it counts as PCI.
    Unknown,
    /// `usb`: no PCI device.
    Usb,
}

/// What only the KubeVirt resource can tell of a name.
pub trait DeviceRegistry {
    /// `spec.configuration.network.binding[name].domainAttachmentType`.
    fn binding(&self, name: &str) -> DomainAttachment;
    /// Which list of `spec.configuration.permittedHostDevices` has the device.
    fn host_device(&self, device_name: &str) -> HostDeviceKind;
}

/// Nothing is known of any name.
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

/// Something that the figures rest on and nobody could tell.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Note {
    /// An interface has a binding of a newer KubeVirt.
    NewerBinding(String),
    /// A binding plugin whose registration is not known.
    UnknownBinding(String),
    /// A host device whose kind is not known.
    UnknownHostDevice {
        /// Its name in the spec.
        name: String,
        /// `deviceName`.
        device_name: String,
    },
    /// `memory` is no quantity.
    UnreadableMemory(String),
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerBinding(name) => {
                write!(formatter, "interface {name:?} has a binding that nicplug does not know; counted as one port")
            }
            Self::UnknownBinding(name) => {
                write!(formatter, "binding plugin {name:?}: registration unknown; counted as one port")
            }
            Self::UnknownHostDevice { name, device_name } => {
                write!(formatter, "device {name:?} ({device_name}): kind unknown; counted as a PCI device")
            }
            Self::UnreadableMemory(text) => write!(formatter, "memory {text:?} is no quantity; taken as 2Gi or less"),
        }
    }
}

/// A part of the spec has another shape than KubeVirt's API.
#[derive(Debug, thiserror::Error)]
#[error("{field} cannot be read")]
pub struct UnreadableField {
    /// Relative to the VMI's spec.
    pub field: &'static str,
    /// What is wrong with it.
    pub source: serde_json::Error,
}
