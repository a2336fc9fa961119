//! How many root ports KubeVirt requests, by version.
//!
//! | KubeVirt                       | scheme        | what it does                                                     |
//! | ------------------------------ | ------------- | ---------------------------------------------------------------- |
//! | before 1.0                     | `None`        | nothing: there is only libvirt's spare port                      |
//! | 1.0.0 – 1.5.x                  | `V1`          | dummy NICs ("placeholders") up to four interfaces                |
//! | 1.6.0 – 1.6.3, 1.7.0 – 1.7.1   | `V2`          | placeholders up to 8 or 16 ports                                 |
//! | 1.6.4+, 1.7.2+, 1.8.x, 1.9.x   | `V3`          | placeholders as V1 or as in the annotation, and extra ports      |
//! | after 1.9                      | `V3ReadBack`  | as V3, and reads libvirt's placement back before it adds ports   |
//!
//! Source: `pkg/virt-launcher/virtwrap/manager.go` of each tag.

use super::machine_type::MachineType;
use crate::kubevirt::Version;

/// A guest with strictly more memory than this, in bytes, gets the ports of a large machine.
pub(super) const LARGE_MEMORY: u64 = 2 << 30;

/// V1 and V3 add placeholders up to this number of interfaces.
const V1_INTERFACES: u64 = 4;

/// How a KubeVirt version provides ports for hotplug.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// No support for hotplug.
    None,
    /// A few placeholders.
    V1,
    /// Placeholders depending on the memory of the guest.
    V2,
    /// A few placeholders, and controllers that KubeVirt adds itself.
    V3,
    /// V3, but a guest without placeholders also gets its controllers after its devices.
    V3ReadBack,
}

impl Scheme {
    /// Returns the scheme of a version. A newer version than the known ones has the scheme of the newest known code.
    #[must_use]
    pub fn of(version: Version) -> Self {
        match (version.major, version.minor, version.patch) {
            (0, ..) => Self::None,
            (1, 0..=5, _) => Self::V1,
            (1, 6, 0..=3) | (1, 7, 0..=1) => Self::V2,
            (1, 6..=9, _) => Self::V3,
            _ => Self::V3ReadBack,
        }
    }

    /// Returns the name in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V3 => "v3",
            Self::V3ReadBack => "v3 with read-back",
        }
    }

    /// Whether KubeVirt reads the slot-count annotation.
    #[must_use]
    pub fn reads_slot_count(self) -> bool {
        matches!(self, Self::V3 | Self::V3ReadBack)
    }
}

/// Whether the version calculates ports only for PCIe machines. Older versions do it for every machine, so a slot-count
/// annotation that is not a number is an error on all of them.
pub(super) fn checks_machine(version: Version) -> bool {
    match (version.major, version.minor) {
        (0, _) | (1, 0..=5) => false,
        (1, 6) => version.patch >= 5,
        (1, 7) => version.patch >= 3,
        (1, 8) => version.patch >= 2,
        _ => true,
    }
}

/// Returns the patch version that no longer adds PCIe root ports to a machine without PCIe, if the version adds them.
///
/// The versions with scheme V3 add them to every machine at first, then to every machine of amd64 and arm64, and at last
/// by the machine type only.
pub(super) fn fix_for_machine_without_pcie(machine: MachineType, version: Version) -> Option<Version> {
    let (by_architecture, by_machine) = match (version.major, version.minor) {
        (1, 6) => (5, 6),
        (1, 7) => (3, 4),
        (1, 8) => (2, 3),
        _ => return None,
    };
    let first = match machine {
        MachineType::Ccw => by_architecture,
        MachineType::I440fx => by_machine,
        MachineType::Q35 | MachineType::Virt | MachineType::Unsupported | MachineType::Unknown => return None,
    };
    (version.patch < first).then_some(Version { patch: first, ..version })
}

/// The ports that KubeVirt requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PortTarget {
    /// T: the total number of ports that the guest should have.
    pub(super) total: u64,
    /// m: the minimum of free ports.
    pub(super) minimum: u64,
    /// The number of free ports that follows from both.
    pub(super) desired: u64,
    /// P: placeholders, which are dummy NICs.
    pub(super) placeholders: u64,
    /// E: extra controllers, before the limit at index 31.
    pub(super) extra_controllers: u64,
}

impl PortTarget {
    /// Calculates `calculatePlaceholderCount` and `calculateExtraControllerCount` of every version.
    pub(super) fn of(inputs: TargetInputs) -> Self {
        let (total, minimum) = if inputs.is_large { (16u64, 6) } else { (8, 3) };
        let desired = if inputs.root_complex { 0 } else { total.saturating_sub(inputs.in_use).max(minimum) };
        let few = if inputs.root_complex || inputs.interfaces == 0 {
            0
        } else {
            V1_INTERFACES.saturating_sub(inputs.interfaces)
        };
        let (placeholders, extra_controllers) = match inputs.scheme {
            Scheme::None => (0, 0),
            Scheme::V1 => (few, 0),
            Scheme::V2 => (desired, 0),
            Scheme::V3 | Scheme::V3ReadBack => {
                // KubeVirt reads this annotation before the root-complex one, so there can be placeholders with both.
                let placeholders = match inputs.slot_count {
                    Some(count) => u64::try_from(count).unwrap_or(0).saturating_sub(inputs.interfaces),
                    None => few,
                };
                (placeholders, desired.saturating_sub(placeholders))
            }
        };
        Self { total, minimum, desired, placeholders, extra_controllers }
    }
}

/// The inputs of [`PortTarget::of`].
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetInputs {
    pub(super) scheme: Scheme,
    pub(super) is_large: bool,
    pub(super) root_complex: bool,
    /// n: interfaces, absent ones included.
    pub(super) interfaces: u64,
    /// KubeVirt's own count of devices.
    pub(super) in_use: u64,
    /// The slot-count annotation.
    pub(super) slot_count: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_the_scheme_of_the_table() {
        for (version, scheme) in [
            ("0.59.2", Scheme::None),
            ("1.0.0", Scheme::V1),
            ("1.3.1", Scheme::V1),
            ("1.5.9", Scheme::V1),
            ("1.6.0", Scheme::V2),
            ("1.6.3", Scheme::V2),
            ("1.6.4", Scheme::V3),
            ("1.7.0", Scheme::V2),
            ("1.7.1", Scheme::V2),
            ("1.7.2", Scheme::V3),
            ("1.8.0", Scheme::V3),
            ("1.9.0", Scheme::V3),
            ("1.9.9", Scheme::V3),
            ("1.10.0", Scheme::V3ReadBack),
            ("2.0.0", Scheme::V3ReadBack),
        ] {
            assert_eq!(Scheme::of(version.parse().unwrap()), scheme, "{version}");
        }
    }

    #[test]
    fn the_check_of_the_machine_came_with_a_patch_of_each_minor_version() {
        for (version, asks) in [("1.5.9", false), ("1.6.4", false), ("1.6.5", true), ("1.7.2", false), ("1.7.3", true)]
        {
            assert_eq!(checks_machine(version.parse().unwrap()), asks, "{version}");
        }
        for (version, asks) in [("0.59.0", false), ("1.8.1", false), ("1.8.2", true), ("1.9.0", true), ("1.10.0", true)]
        {
            assert_eq!(checks_machine(version.parse().unwrap()), asks, "{version}");
        }
    }

    #[test]
    fn each_minor_version_has_a_patch_that_knows_machines_without_pcie() {
        for (machine, version, fix) in [
            (MachineType::Ccw, "1.6.4", Some("1.6.5")),
            (MachineType::Ccw, "1.6.5", None),
            (MachineType::Ccw, "1.7.2", Some("1.7.3")),
            (MachineType::Ccw, "1.8.0", Some("1.8.2")),
            (MachineType::Ccw, "1.8.1", Some("1.8.2")),
            (MachineType::Ccw, "1.8.2", None),
            (MachineType::Ccw, "1.9.0", None),
            (MachineType::I440fx, "1.6.5", Some("1.6.6")),
            (MachineType::I440fx, "1.6.6", None),
            (MachineType::I440fx, "1.7.3", Some("1.7.4")),
            (MachineType::I440fx, "1.8.2", Some("1.8.3")),
            (MachineType::I440fx, "1.8.3", None),
            (MachineType::I440fx, "1.9.0", None),
            (MachineType::Q35, "1.8.0", None),
            (MachineType::Virt, "1.8.0", None),
        ] {
            let found = fix_for_machine_without_pcie(machine, version.parse().unwrap());
            assert_eq!(found, fix.map(|fix| fix.parse().unwrap()), "{machine:?} {version}");
        }
    }

    #[test]
    fn the_targets_of_the_worked_examples() {
        let with = |in_use, interfaces, is_large| TargetInputs {
            scheme: Scheme::V3,
            is_large,
            root_complex: false,
            interfaces,
            in_use,
            slot_count: None,
        };
        let counts = |with| {
            let target = PortTarget::of(with);
            (target.placeholders, target.extra_controllers)
        };
        assert_eq!(counts(with(8, 1, false)), (3, 0));
        assert_eq!(counts(with(8, 3, true)), (1, 7));
        assert_eq!(counts(with(9, 4, true)), (0, 7));
        assert_eq!(counts(with(5, 0, true)), (0, 11));
        assert_eq!(counts(TargetInputs { slot_count: Some(11), ..with(7, 1, false) }), (10, 0));
        assert_eq!(counts(TargetInputs { slot_count: Some(-1), ..with(7, 1, false) }), (0, 3));
        assert_eq!(counts(TargetInputs { slot_count: Some(8), root_complex: true, ..with(7, 1, false) }), (7, 0));
        assert_eq!(counts(TargetInputs { scheme: Scheme::V2, ..with(7, 1, true) }), (9, 0));
        assert_eq!(counts(TargetInputs { scheme: Scheme::V1, ..with(10, 4, true) }), (0, 0));
        assert_eq!(counts(TargetInputs { scheme: Scheme::None, ..with(7, 1, true) }), (0, 0));
    }
}
