//! The machine type of a guest, which decides the slots that a PCI device can have.
//!
//! | architecture | `machine.type`                      | variant              | hotplug goes to         |
//! | ------------ | ----------------------------------- | -------------------- | ----------------------- |
//! | amd64        | q35 (the default), pc-q35-VERSION   | [`MachineType::Q35`]     | root ports              |
//! | amd64        | pc, pc-i440fx-VERSION               | [`MachineType::I440fx`]  | slots of one flat bus   |
//! | arm64        | virt (the default), virt-VERSION    | [`MachineType::Virt`]    | root ports              |
//! | s390x        | s390-ccw-virtio (the default), …    | [`MachineType::Ccw`]     | no PCI                  |
//! | these three  | anything else                       | [`MachineType::Unsupported`] | libvirt refuses it      |
//! | others       |                                     | [`MachineType::Unknown`] |                         |

use std::fmt;

/// `spec.architecture`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Architecture {
    /// `amd64`, and the default.
    Amd64,
    /// `arm64`.
    Arm64,
    /// `s390x`: virtio devices are CCW devices.
    S390x,
    /// Unknown to KubeVirt 1.9.
    Other,
}

impl Architecture {
    /// Reads the field. An unset one means the default of the cluster, which is amd64 unless an administrator changed
    /// it.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "" | "amd64" => Self::Amd64,
            "arm64" => Self::Arm64,
            "s390x" => Self::S390x,
            _ => Self::Other,
        }
    }

    /// Returns the machine type that KubeVirt stores if none is set.
    pub(super) fn default_machine(self) -> &'static str {
        match self {
            Self::Amd64 | Self::Other => "q35",
            Self::Arm64 => "virt",
            Self::S390x => "s390-ccw-virtio",
        }
    }

    /// Returns the bus that KubeVirt stores for a disk without one.
    pub(super) fn default_disk_bus(self) -> &'static str {
        match self {
            Self::Amd64 | Self::Other => "sata",
            Self::Arm64 | Self::S390x => "virtio",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::S390x => "s390x",
            Self::Other => "an architecture that KubeVirt 1.9 does not know",
        })
    }
}

/// The machine type, without its version.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MachineType {
    /// `q35`, `pc-q35-*` on amd64: PCIe, devices on root ports.
    Q35,
    /// `virt`, `virt-*` on arm64: PCIe, devices on root ports.
    Virt,
    /// `pc`, `pc-i440fx-*` on amd64: one flat PCI bus.
    I440fx,
    /// `s390-ccw-virtio*` on s390x: no PCI for virtio devices.
    Ccw,
    /// A type that libvirt refuses on this architecture.
    Unsupported,
    /// The machine type of an unknown architecture.
    Unknown,
}

impl MachineType {
    /// Reads `machine.type`.
    ///
    /// Any version of a versioned type is accepted, because the object does not tell which versions the emulator has.
    #[must_use]
    pub fn of(architecture: Architecture, kind: &str) -> Self {
        let versioned = |prefix: &str| {
            kind.strip_prefix(prefix).is_some_and(|version| {
                version.starts_with(|first: char| first.is_ascii_digit()) || version.starts_with("rhel")
            })
        };
        match architecture {
            Architecture::Amd64 if kind == "q35" || versioned("pc-q35-") => Self::Q35,
            Architecture::Amd64 if kind == "pc" || versioned("pc-i440fx-") => Self::I440fx,
            Architecture::Arm64 if kind == "virt" || versioned("virt-") => Self::Virt,
            Architecture::S390x if kind == "s390-ccw-virtio" || versioned("s390-ccw-virtio-") => Self::Ccw,
            Architecture::Other => Self::Unknown,
            Architecture::Amd64 | Architecture::Arm64 | Architecture::S390x => Self::Unsupported,
        }
    }

    /// Returns the name in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Virt => "virt",
            Self::I440fx => "i440fx",
            Self::Ccw => "s390-ccw-virtio",
            Self::Unsupported | Self::Unknown => "unknown machine",
        }
    }

    /// Returns the name of a machine without PCIe in errors: that of the architecture if it has only this machine.
    pub(super) fn name_in_errors(self) -> &'static str {
        if self == Self::Ccw { "s390x" } else { self.as_str() }
    }

    /// Whether devices have PCIe root ports.
    #[must_use]
    pub fn is_pcie(self) -> bool {
        matches!(self, Self::Q35 | Self::Virt)
    }
}

/// KubeVirt's `SupportsPCIeHotplug` (`pkg/defaults/defaults.go`). It is case-sensitive, and also true for some types
/// that cannot boot.
pub(super) fn supports_pcie_hotplug(architecture: Architecture, kind: &str) -> bool {
    matches!(architecture, Architecture::Amd64 | Architecture::Arm64)
        && (kind.contains("q35") || kind.starts_with("virt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_types_and_kubevirts_view_of_them() {
        use Architecture::{Amd64, Arm64, Other, S390x};
        for (architecture, kind, machine, supports) in [
            (Amd64, "q35", MachineType::Q35, true),
            (Amd64, "pc-q35-10.0", MachineType::Q35, true),
            (Amd64, "pc-q35-rhel9.4.0", MachineType::Q35, true),
            (Amd64, "pc", MachineType::I440fx, false),
            (Amd64, "pc-i440fx-7.2", MachineType::I440fx, false),
            (Amd64, "custom-q35-foo", MachineType::Unsupported, true),
            (Amd64, "pc-q35-foo", MachineType::Unsupported, true),
            (Amd64, "virt", MachineType::Unsupported, true),
            (Amd64, "virtual", MachineType::Unsupported, true),
            (Amd64, "Q35", MachineType::Unsupported, false),
            (Amd64, "isapc", MachineType::Unsupported, false),
            (Amd64, "microvm", MachineType::Unsupported, false),
            (Arm64, "virt", MachineType::Virt, true),
            (Arm64, "virt-9.2", MachineType::Virt, true),
            (Arm64, "virt-custom", MachineType::Unsupported, true),
            (Arm64, "q35", MachineType::Unsupported, true),
            (S390x, "s390-ccw-virtio", MachineType::Ccw, false),
            (S390x, "s390-ccw-virtio-rhel9.4.0", MachineType::Ccw, false),
            (S390x, "q35", MachineType::Unsupported, false),
            (Other, "q35", MachineType::Unknown, false),
        ] {
            assert_eq!(MachineType::of(architecture, kind), machine, "{architecture} {kind}");
            assert_eq!(supports_pcie_hotplug(architecture, kind), supports, "{architecture} {kind}");
        }
    }
}
