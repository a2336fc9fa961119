//! Finds the annotation with which a guest boots with a number of free ports.

use super::{
    port_budget::{PortBudget, PortCase},
    port_usage::{PciNic, PortUsage, SlotCount},
    scheme::Scheme,
};
use crate::kubevirt::Version;

/// The most placeholders that are tried. A root bus has room for fewer.
const MAX_PLACEHOLDERS: u64 = 256;

/// How to get a number of free ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reservation {
    /// The guest boots with enough free ports anyway, or its ports are unlimited.
    Enough {
        /// The number of free ports; `None` if they are unlimited.
        free: Option<u64>,
    },
    /// The slot-count annotation with this value gives enough free ports.
    SlotCount {
        /// The smallest such value of [`super::SLOT_COUNT`].
        value: u64,
        /// The number of free ports with it.
        free: u64,
    },
    /// The guest cannot have enough free ports.
    Impossible {
        /// The reason.
        why: &'static str,
        /// The highest possible number of free ports.
        most: u64,
    },
}

/// Finds the smallest slot-count annotation with which a guest boots with at least `wanted` free ports.
#[must_use]
pub fn reserve(port_usage: &PortUsage, nics: &[PciNic], version: Version, wanted: u64) -> Reservation {
    let without = PortBudget::of(port_usage, nics, version);
    if without.boot_error.is_some() {
        return Reservation::Impossible { why: "the guest cannot boot", most: 0 };
    }
    let Some(capacity) = without.hotplug_capacity() else { return Reservation::Enough { free: None } };
    if capacity >= wanted {
        return Reservation::Enough { free: Some(capacity) };
    }
    if let Some(why) = obstacle(port_usage, &without, version) {
        return Reservation::Impossible { why, most: capacity };
    }
    let mut most = capacity;
    for placeholders in 1..=wanted.min(MAX_PLACEHOLDERS) {
        let value = nics.len() as u64 + placeholders;
        let count = SlotCount::Number(i64::try_from(value).unwrap_or(i64::MAX));
        let with = PortBudget::of(&port_usage.with_slot_count(count), nics, version);
        let Some(free) = with.hotplug_capacity() else { break };
        if free >= wanted {
            return Reservation::SlotCount { value, free };
        }
        most = most.max(free);
    }
    Reservation::Impossible { why: "the root bus has no capacity for more ports", most }
}

fn obstacle(port_usage: &PortUsage, budget: &PortBudget, version: Version) -> Option<&'static str> {
    if budget.details.case == PortCase::Flat {
        return Some("a flat PCI bus has no ports to reserve");
    }
    if !Scheme::of(version).reads_slot_count() {
        return Some("this KubeVirt version does not read the slot-count annotation");
    }
    if port_usage.slot_count != SlotCount::Unset {
        return Some("the slot-count annotation is already set");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::guest::GuestSpec,
        pci::{Devices, NoRegistry, PciOptions, count_devices},
    };

    const V1_9: Version = Version::new(1, 9, 0);

    fn guest(memory: &str, nics: usize) -> Devices {
        let interfaces: Vec<String> = (0..nics).map(|nic| format!(r#"{{"name": "n{nic}", "bridge": {{}}}}"#)).collect();
        let text = format!(
            r#"{{"domain": {{"memory": {{"guest": "{memory}"}}, "devices": {{"autoattachPodInterface": false,
               "disks": [{{"name": "a", "disk": {{"bus": "virtio"}}}}], "interfaces": [{}]}}}}}}"#,
            interfaces.join(",")
        );
        let spec: GuestSpec = serde_json::from_str(&text).unwrap();
        count_devices(&spec, &PciOptions::default(), &NoRegistry).unwrap()
    }

    #[test]
    fn too_few_ports_get_the_smallest_annotation() {
        for (memory, nics, wanted, expected) in [
            ("1Gi", 1, 4, Reservation::Enough { free: Some(4) }),
            ("1Gi", 1, 5, Reservation::SlotCount { value: 5, free: 5 }),
            ("1Gi", 1, 10, Reservation::SlotCount { value: 10, free: 10 }),
            ("1Gi", 4, 1, Reservation::SlotCount { value: 5, free: 4 }),
            ("4Gi", 4, 8, Reservation::SlotCount { value: 5, free: 8 }),
            ("1Gi", 0, 2, Reservation::SlotCount { value: 1, free: 4 }),
            ("1Gi", 4, 0, Reservation::Enough { free: Some(0) }),
        ] {
            let Devices { port_usage, nics, .. } = guest(memory, nics);
            assert_eq!(reserve(&port_usage, &nics, V1_9, wanted), expected, "{memory} {wanted}");
        }
    }

    #[test]
    fn an_impossible_reservation_has_a_reason_and_the_maximum() {
        let Devices { port_usage, nics, .. } = guest("1Gi", 4);
        let old = reserve(&port_usage, &nics, Version::new(1, 5, 0), 2);
        assert!(matches!(old, Reservation::Impossible { most: 1, why } if why.contains("version")), "{old:?}");
        let taken = PortUsage { slot_count: SlotCount::Number(2), ..port_usage.clone() };
        assert!(matches!(reserve(&taken, &nics, V1_9, 2), Reservation::Impossible { most: 0, .. }));
        let huge = reserve(&port_usage, &nics, V1_9, 1000);
        assert!(matches!(huge, Reservation::Impossible { most: 224, .. }), "{huge:?}");
    }
}
