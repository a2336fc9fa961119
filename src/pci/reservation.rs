//! The sum turned round: what makes a guest boot with so many free ports.

use super::{
    port_budget::{PortBudget, PortCase},
    port_usage::{PciNic, PortUsage, SlotCount},
    scheme::Scheme,
};
use crate::kubevirt::Version;

/// Above this nobody has asked yet, and a root bus has room for fewer.
const MOST_PLACEHOLDERS: u64 = 256;

/// What can be done for a wish of N free ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reservation {
    /// The guest boots with as many anyway, or nothing limits it.
    Enough {
        /// How many; `None` where nothing limits them.
        free: Option<u64>,
    },
    /// The slot-count annotation with this value gives at least as many.
    SlotCount {
        /// The smallest value of [`super::SLOT_COUNT`] that does.
        value: u64,
        /// How many ports are free then.
        free: u64,
    },
    /// It cannot be had.
    Impossible {
        /// Why.
        why: &'static str,
        /// How many are free at most.
        most: u64,
    },
}

/// Finds the smallest slot-count annotation with which a guest boots with at least `wanted` free ports.
#[must_use]
pub fn reserve(port_usage: &PortUsage, nics: &[PciNic], version: Version, wanted: u64) -> Reservation {
    let now = PortBudget::of(port_usage, nics, version);
    if now.boot_error.is_some() {
        return Reservation::Impossible { why: "the guest cannot boot", most: 0 };
    }
    let Some(capacity) = now.hotplug_capacity() else { return Reservation::Enough { free: None } };
    if capacity >= wanted {
        return Reservation::Enough { free: Some(capacity) };
    }
    if let Some(why) = obstacle(port_usage, &now, version) {
        return Reservation::Impossible { why, most: capacity };
    }
    let mut most = capacity;
    for placeholders in 1..=wanted.min(MOST_PLACEHOLDERS) {
        let value = nics.len() as u64 + placeholders;
        let count = SlotCount::Number(i64::try_from(value).unwrap_or(i64::MAX));
        let then = PortBudget::of(&port_usage.with_slot_count(count), nics, version);
        let Some(free) = then.hotplug_capacity() else { break };
        if free >= wanted {
            return Reservation::SlotCount { value, free };
        }
        most = most.max(free);
    }
    Reservation::Impossible { why: "the root bus has no capacity for more ports", most }
}

fn obstacle(port_usage: &PortUsage, now: &PortBudget, version: Version) -> Option<&'static str> {
    if now.details.case == PortCase::Flat {
        return Some("a flat PCI bus has no ports to reserve");
    }
    if !Scheme::of(version).reads_slot_count() {
        return Some("this KubeVirt version does not read the slot-count annotation");
    }
    if port_usage.slot_count != SlotCount::Unset {
        return Some("somebody has set the slot-count annotation already");
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
    fn enough_is_left_alone_and_less_gets_the_smallest_annotation() {
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
    fn what_cannot_be_had_says_why_and_how_many_there_are() {
        let Devices { port_usage, nics, .. } = guest("1Gi", 4);
        let old = reserve(&port_usage, &nics, Version::new(1, 5, 0), 2);
        assert!(matches!(old, Reservation::Impossible { most: 1, why } if why.contains("version")), "{old:?}");
        let taken = PortUsage { slot_count: SlotCount::Number(2), ..port_usage.clone() };
        assert!(matches!(reserve(&taken, &nics, V1_9, 2), Reservation::Impossible { most: 0, .. }));
        let huge = reserve(&port_usage, &nics, V1_9, 1000);
        assert!(matches!(huge, Reservation::Impossible { most: 224, .. }), "{huge:?}");
    }
}
