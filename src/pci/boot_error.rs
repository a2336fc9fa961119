//! The reason why a guest cannot boot, as far as its object shows.

use std::fmt;

use super::{address::PciAddress, machine_type::Architecture};
use crate::{api::quote::quote, kubevirt::Version};

/// The number of root-bus slots that KubeVirt assigns with the root-complex annotation: 2 to 0x1e without 0x1b.
pub(super) const ROOT_COMPLEX_SLOTS: u64 = 28;

/// The reason why a guest cannot boot.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum BootError {
    /// libvirt does not support the machine type on the architecture.
    MachineType {
        /// `domain.machine.type`.
        kind: String,
        /// `architecture`.
        architecture: Architecture,
    },
    /// The slot-count annotation is not a number, so virt-launcher cannot define the domain.
    SlotCount {
        /// The annotation's value.
        value: String,
    },
    /// More devices than slots on the root bus, with the root-complex annotation.
    RootComplexFull {
        /// Devices that KubeVirt would place there.
        devices: u64,
    },
    /// Two devices have one address, or a device has an address that the machine itself uses.
    AddressTaken {
        /// The address.
        address: PciAddress,
    },
    /// No bus of the guest has the address.
    AddressImpossible {
        /// The address.
        address: PciAddress,
        /// The reason.
        why: &'static str,
    },
    /// KubeVirt or libvirt refuses the device.
    Device {
        /// The device, such as `disk "data"`.
        device: String,
        /// The reason.
        why: &'static str,
    },
    /// The KubeVirt version adds PCIe root ports to a machine that has no PCIe, so libvirt refuses the domain.
    NoPcie {
        /// The version that starts the guest.
        version: Version,
        /// The machine, as in messages.
        machine: &'static str,
        /// The patch version of the same minor version that no longer adds them.
        fixed_in: Version,
    },
    /// The guest needs more root ports than fit on the root bus.
    OutOfPorts {
        /// The ports that the guest needs.
        needed: u64,
        /// The ports that fit.
        limit: u64,
    },
}

impl BootError {
    /// Returns the field for a finding, relative to the spec of the VMI unless it is an annotation.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::MachineType { .. } => "domain.machine.type",
            Self::SlotCount { .. } | Self::RootComplexFull { .. } => "metadata.annotations",
            Self::AddressTaken { .. }
            | Self::AddressImpossible { .. }
            | Self::Device { .. }
            | Self::NoPcie { .. }
            | Self::OutOfPorts { .. } => "domain.devices",
        }
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MachineType { kind, architecture } => {
                write!(formatter, "libvirt has no machine type {kind} on {architecture}", kind = quote(kind))
            }
            Self::SlotCount { value } => write!(
                formatter,
                "annotation {} is {value}, not a whole number, so virt-launcher cannot define the guest",
                super::SLOT_COUNT,
                value = quote(value)
            ),
            Self::RootComplexFull { devices } => write!(
                formatter,
                "annotation {} puts {devices} devices on the root bus, which has {} slots",
                super::ROOT_COMPLEX,
                ROOT_COMPLEX_SLOTS
            ),
            Self::AddressTaken { address } => write!(formatter, "PCI address {address} is used twice"),
            Self::AddressImpossible { address, why } => {
                write!(formatter, "PCI address {address} is not possible: {why}")
            }
            Self::Device { device, why } => write!(formatter, "{device}: {why}"),
            Self::NoPcie { version, machine, fixed_in } => {
                write!(formatter, "KubeVirt {version} adds PCIe ports that {machine} lacks (fixed in {fixed_in})")
            }
            Self::OutOfPorts { needed, limit } => {
                write!(formatter, "the guest needs {needed} root ports, but its root bus has room for {limit}")
            }
        }
    }
}
