//! The state of a guest's PCI bus at boot: the capacity for hotplug, and the devices at that time.

use std::{fmt, str::FromStr};

use super::{
    port_budget::{PortBudget, PortCase},
    port_usage::{PciNic, PortUsage},
};
use crate::kubevirt::Version;

/// The capacity for hotplugged NICs when a guest booted, and the number of devices at that time.
///
/// Written as `v1:port=4,nics=1,disks=2`: a version of the format, the kind of slot with the number of free ones, and
/// the NICs and virtio disks at boot. Without PCI it is `v1:any,…`, because nothing limits hotplug then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BootSlots {
    /// The capacity for hotplugged NICs at boot.
    pub capacity: HotplugCapacity,
    /// The NICs in the domain at boot.
    pub nics: u64,
    /// The virtio disks at boot.
    pub disks: u64,
}

/// The number of free slots for hotplugged NICs, by the kind of slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HotplugCapacity {
    /// No limit (CCW, s390x).
    Unlimited,
    /// Slots of the conventional bridges of a guest with `useVirtioTransitional`.
    Bridge(u64),
    /// Slots of a flat bus, including the bridges that libvirt adds.
    Flat(u64),
    /// PCIe root ports.
    Port(u64),
}

impl HotplugCapacity {
    /// Returns the number of free slots; `None` if they are unlimited.
    #[must_use]
    pub fn free(self) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bridge(free) | Self::Flat(free) | Self::Port(free) => Some(free),
        }
    }

    /// Returns the name of such a slot in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlimited | Self::Port(_) => "hotplug port",
            Self::Bridge(_) => "bridge slot",
            Self::Flat(_) => "PCI slot",
        }
    }

    fn of(budget: &PortBudget) -> Option<Self> {
        if budget.boot_error.is_some() {
            return None;
        }
        Some(match (budget.hotplug_capacity(), budget.details.case) {
            (None, _) => Self::Unlimited,
            (Some(free), PortCase::Flat) => Self::Flat(free),
            (Some(free), _) if budget.is_transitional => Self::Bridge(free),
            (Some(free), _) => Self::Port(free),
        })
    }
}

impl BootSlots {
    /// Returns the state of a guest that boots with these NICs; `None` if it cannot boot.
    #[must_use]
    pub fn of(port_usage: &PortUsage, nics: &[PciNic], version: Version) -> Option<Self> {
        Some(Self {
            capacity: HotplugCapacity::of(&PortBudget::of(port_usage, nics, version))?,
            nics: nics.iter().filter(|nic| nic.slot_kind.is_some()).count() as u64,
            disks: u64::from(port_usage.virtio_disks),
        })
    }

    /// Returns the number of slots that are left when the guest has so many NICs and virtio disks. A memory hotplug
    /// takes a port. `None` if they are unlimited.
    #[must_use]
    pub fn left(&self, nics: u64, disks: u64, has_hotplugged_memory: bool) -> Option<u64> {
        let free = self.capacity.free()?;
        // Disks and memory of a transitional guest still go to root ports, which are not counted here.
        let disks_now_and_at_boot = match self.capacity {
            HotplugCapacity::Bridge(_) => (0, 0),
            _ => (disks, self.disks),
        };
        let taken = nics
            + disks_now_and_at_boot.0
            + u64::from(has_hotplugged_memory && matches!(self.capacity, HotplugCapacity::Port(_)));
        Some((free + self.nics + disks_now_and_at_boot.1).saturating_sub(taken))
    }
}

impl fmt::Display for BootSlots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("v1:")?;
        match self.capacity {
            HotplugCapacity::Unlimited => formatter.write_str("any")?,
            HotplugCapacity::Bridge(free) => write!(formatter, "bridge={free}")?,
            HotplugCapacity::Flat(free) => write!(formatter, "flat={free}")?,
            HotplugCapacity::Port(free) => write!(formatter, "port={free}")?,
        }
        write!(formatter, ",nics={},disks={}", self.nics, self.disks)
    }
}

/// The text is not in a format that this version of nicplug knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not of the form v1:port=4,nics=1,disks=2")]
pub struct BootSlotsError;

impl FromStr for BootSlots {
    type Err = BootSlotsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.strip_prefix("v1:").ok_or(BootSlotsError)?.split(',');
        let mut field = || fields.next().map(|field| field.split_once('=').unwrap_or((field, "")));
        let capacity = match field().ok_or(BootSlotsError)? {
            ("any", "") => HotplugCapacity::Unlimited,
            ("bridge", free) => HotplugCapacity::Bridge(number(free)?),
            ("flat", free) => HotplugCapacity::Flat(number(free)?),
            ("port", free) => HotplugCapacity::Port(number(free)?),
            _ => return Err(BootSlotsError),
        };
        let (Some(("nics", nics)), Some(("disks", disks)), None) = (field(), field(), field()) else {
            return Err(BootSlotsError);
        };
        Ok(Self { capacity, nics: number(nics)?, disks: number(disks)? })
    }
}

/// Reads plain digits. The limit of 16 bits is above any real number and keeps sums from overflowing.
fn number(text: &str) -> Result<u64, BootSlotsError> {
    let number: u16 = text.parse().map_err(|_| BootSlotsError)?;
    if text.starts_with('+') { Err(BootSlotsError) } else { Ok(number.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::guest::GuestSpec,
        pci::{NoRegistry, PciOptions, count_devices},
    };

    fn boot_slots(spec: &str, version: &str) -> Option<BootSlots> {
        let spec: GuestSpec = serde_json::from_str(spec).unwrap();
        let devices = count_devices(&spec, &PciOptions::default(), &NoRegistry).unwrap();
        BootSlots::of(&devices.port_usage, &devices.nics, version.parse().unwrap())
    }

    const FEDORA: &str = r#"{"architecture": "amd64", "domain": {"machine": {"type": "q35"}, "memory": {"guest": "1024M"},
        "devices": {"rng": {}, "interfaces": [{"name": "a", "masquerade": {}}],
            "disks": [{"name": "c", "disk": {"bus": "virtio"}}, {"name": "i", "disk": {"bus": "virtio"}}]}},
        "networks": [{"name": "a", "pod": {}}]}"#;

    #[test]
    fn the_stamp_of_the_worked_example() {
        let slots = boot_slots(FEDORA, "v1.9.0").unwrap();
        assert_eq!(slots.to_string(), "v1:port=4,nics=1,disks=2");
        let old = boot_slots(FEDORA, "v0.59.0").unwrap();
        assert_eq!(old.capacity, HotplugCapacity::Port(1));
    }

    #[test]
    fn every_machine_type_has_its_kind_of_slot() {
        let on = |from: &str, to: &str| boot_slots(&FEDORA.replace(from, to), "v1.9.0").unwrap().capacity;
        assert!(matches!(on("q35", "pc-i440fx-9.0"), HotplugCapacity::Flat(_)));
        assert!(matches!(on(r#""rng""#, r#""useVirtioTransitional": true, "rng""#), HotplugCapacity::Bridge(_)));
        assert_eq!(
            on(
                r#""amd64", "domain": {"machine": {"type": "q35"}"#,
                r#""s390x", "domain": {"machine": {"type": "s390-ccw-virtio"}"#
            ),
            HotplugCapacity::Unlimited
        );
    }

    #[test]
    fn a_written_stamp_reads_the_same() {
        for capacity in [
            HotplugCapacity::Unlimited,
            HotplugCapacity::Bridge(31),
            HotplugCapacity::Flat(0),
            HotplugCapacity::Port(4),
        ] {
            let slots = BootSlots { capacity, nics: 3, disks: 12 };
            assert_eq!(slots.to_string().parse(), Ok(slots));
        }
    }

    #[test]
    fn other_text_is_not_a_stamp() {
        for text in [
            "",
            "4",
            "v2:port=4,nics=1,disks=2",
            "v1:port=4",
            "v1:port=,nics=1,disks=2",
            "v1:port=-1,nics=1,disks=2",
            "v1:port=4,nics=1,disks=2,",
            "v1:port=+4,nics=1,disks=2",
            "v1:any=4,nics=1,disks=2",
            "v1:port=99999,nics=1,disks=2",
            " v1:port=4,nics=1,disks=2",
            "v1:disks=4,nics=1,port=2",
        ] {
            assert_eq!(text.parse::<BootSlots>(), Err(BootSlotsError), "{text:?}");
        }
    }

    #[test]
    fn added_devices_take_capacity_and_removed_ones_free_it() {
        let ports = BootSlots { capacity: HotplugCapacity::Port(4), nics: 1, disks: 2 };
        for (nics, disks, memory, left) in
            [(1, 2, false, 4), (3, 2, false, 2), (3, 3, true, 0), (0, 2, false, 5), (9, 9, true, 0)]
        {
            assert_eq!(ports.left(nics, disks, memory), Some(left), "{nics} {disks} {memory}");
        }
        let bridge = BootSlots { capacity: HotplugCapacity::Bridge(4), ..ports };
        assert_eq!(bridge.left(2, 9, true), Some(3));
        assert_eq!(BootSlots { capacity: HotplugCapacity::Unlimited, ..ports }.left(99, 99, true), None);
    }
}
