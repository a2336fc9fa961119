//! Why a guest can never boot, as far as its object tells.

use std::fmt;

use super::{address::PciAddress, machine_type::Architecture};

/// Slots of the root bus that KubeVirt gives out with the root-complex annotation: 2 to 0x1e without 0x1b.
pub(super) const ROOT_COMPLEX_SLOTS: u64 = 28;

/// One reason.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum BootError {
    /// libvirt knows no such machine on the architecture.
    MachineType {
        /// `domain.machine.type`.
        kind: String,
        /// `architecture`.
        architecture: Architecture,
    },
    /// The slot-count annotation is no number: virt-launcher cannot define the domain.
    SlotCount {
        /// The annotation's value.
        value: String,
    },
    /// More devices than slots on the root bus, with the root-complex annotation.
    RootComplexFull {
        /// Devices that KubeVirt would place there.
        devices: u64,
    },
    /// Two devices on one address, or a device on one that the board itself uses.
    AddressTaken {
        /// The address.
        address: PciAddress,
    },
    /// An address that no bus of the guest has.
    AddressImpossible {
        /// The address.
        address: PciAddress,
        /// What the bus would take.
        why: &'static str,
    },
    /// A device that KubeVirt or libvirt refuses as it is.
    Device {
        /// Which, such as `disk "data"`.
        device: String,
        /// Why.
        why: &'static str,
    },
    /// More root ports than the root bus has room for.
    OutOfPorts {
        /// Ports that the guest would need.
        needed: u64,
        /// Ports that fit.
        limit: u64,
    },
}

impl BootError {
    /// The field that a finding about it points at, relative to the VMI's spec where it is in there.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::MachineType { .. } => "domain.machine.type",
            Self::SlotCount { .. } | Self::RootComplexFull { .. } => "metadata.annotations",
            Self::AddressTaken { .. }
            | Self::AddressImpossible { .. }
            | Self::Device { .. }
            | Self::OutOfPorts { .. } => "domain.devices",
        }
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MachineType { kind, architecture } => {
                write!(formatter, "libvirt knows no machine type {kind:?} on {architecture}")
            }
            Self::SlotCount { value } => write!(
                formatter,
                "annotation {} is {value:?}, which is no whole number: virt-launcher cannot define the guest",
                super::SLOT_COUNT
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
            Self::OutOfPorts { needed, limit } => {
                write!(formatter, "the guest needs {needed} root ports, and its root bus has room for {limit}")
            }
        }
    }
}
