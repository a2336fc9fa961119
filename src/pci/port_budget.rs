//! The port budget: the ports that KubeVirt requests, what libvirt creates from it, and the ports that are free.
//!
//! Terms: n interfaces (including absent ones), `inUse` KubeVirt's count of devices, D devices on root ports, P
//! placeholders (dummy NICs that KubeVirt removes again, while their ports stay), E extra controllers, b the bus
//! numbers of bridges (if any device is conventional: one for the port of the bridge and one for the bridge).
//!
//! | case            | when                              | free ports                                  |
//! | --------------- | --------------------------------- | ------------------------------------------- |
//! | [`PortCase::Placed`] without E | schemes none, v1, v2   | P + 1                                       |
//! | [`PortCase::Placed`] | v3 with P > 0, read-back with any | P + 1 + min(E, 31 - (D + P + 1 + b))        |
//! | [`PortCase::Discarded`] | v3 up to 1.9 with P = 0       | max(0, E - D)                               |
//! | [`PortCase::RootComplex`] | the root-complex annotation | 0, or P + 1 if libvirt has to place anything |
//!
//! The 1 is libvirt's spare port. For an explicit address on bus k, libvirt creates the ports 1 to k, so more may be
//! free than in the table. An address on bus 0 takes no port. On a transitional guest placeholders take slots of the
//! bridge.

use std::{collections::BTreeSet, fmt};

use super::{
    address::PciAddress,
    boot_error::{BootError, ROOT_COMPLEX_SLOTS},
    devices::SlotKind,
    machine_type::MachineType,
    port_usage::{AddressedDevice, PciNic, PortUsage, SlotCount, SlotTally},
    scheme::{self, PortTarget, Scheme, TargetInputs},
};
use crate::kubevirt::Version;

/// The highest index at which KubeVirt adds a controller.
const LAST_EXTRA_INDEX: u64 = 31;

/// The highest PCI bus number.
const LAST_BUS: u64 = 255;

/// Slots of a conventional bridge: 1 to 31.
const BRIDGE_SLOTS: u64 = 31;

/// Slots of the i440fx root bus: 2 to 31.
const FLAT_SLOTS: u64 = 30;

/// Eight root ports share a slot of the root bus, one per function.
const PORTS_PER_SLOT: u64 = 8;

/// How the ports are created.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PortCase {
    /// libvirt places the devices and adds a spare port; KubeVirt adds its controllers after that (case A).
    Placed,
    /// KubeVirt's controllers exist before the devices, which take them (case B).
    Discarded,
    /// Devices are on the root bus.
    RootComplex,
    /// The machine has one flat bus.
    Flat,
    /// The machine has no PCI ports.
    NoPorts,
}

/// The intermediate values of the calculation, for messages and for the bus layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BudgetDetails {
    /// The scheme of the KubeVirt version.
    pub scheme: Scheme,
    /// How the ports are created.
    pub case: PortCase,
    /// The machine type.
    pub machine: MachineType,
    /// Whether the guest has more than 2Gi of memory.
    pub has_large_memory: bool,
    /// n: interfaces, absent ones included.
    pub interfaces: u64,
    /// The slot-count annotation, if the version reads it.
    pub slot_count: Option<i64>,
    /// T: the total number of ports that KubeVirt targets.
    pub total: u64,
    /// m: the minimum of free ports that KubeVirt targets.
    pub minimum: u64,
    /// The number of free ports that follows from both.
    pub desired: u64,
    /// D: devices on root ports.
    pub devices: u64,
    /// Devices that need a conventional slot.
    pub conventional: u64,
    /// E after the limit at index 31.
    pub extra_in_place: u64,
    /// All root ports, including that of a bridge.
    pub root_ports: u64,
    /// The highest bus number; on a flat bus the number of bridges.
    pub highest_index: u64,
}

/// The PCI ports of a guest at boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortBudget {
    /// Whether the machine has PCIe ports in KubeVirt's view.
    pub supports_pcie_hotplug: bool,
    /// KubeVirt's count of devices.
    pub ports_in_use: u64,
    /// P; `None` if KubeVirt cannot compute it.
    pub placeholders: Option<u64>,
    /// E before the limit; `None` if KubeVirt cannot compute it.
    pub extra_controllers: Option<u64>,
    /// The free root ports at boot; `None` if the machine has no root ports, or if the guest cannot boot.
    pub free_ports: Option<u64>,
    /// The free slots of conventional bridges, if there are any. On a transitional guest hotplugged NICs go there.
    pub bridge_free_slots: Option<u64>,
    /// The free slots of a flat bus, including the bridges that libvirt adds.
    pub flat_free_slots: Option<u64>,
    /// The reason why the guest cannot boot.
    pub boot_error: Option<BootError>,
    /// Whether a hotplugged NIC goes to a conventional slot.
    pub is_transitional: bool,
    /// The intermediate values.
    pub details: BudgetDetails,
}

impl PortBudget {
    /// Calculates the ports of a guest with these NICs at boot.
    #[must_use]
    pub fn of(port_usage: &PortUsage, nics: &[PciNic], version: Version) -> Self {
        let scheme = Scheme::of(version);
        let devices = PortCounts::of(port_usage, nics);
        let asks = port_usage.supports_pcie_hotplug || !scheme::checks_machine(version);
        let slot_count = match &port_usage.slot_count {
            SlotCount::NotANumber(value) if scheme.reads_slot_count() && asks => {
                return refused(port_usage, &devices, scheme, BootError::SlotCount { value: value.to_string() });
            }
            SlotCount::Number(count) => Some(*count),
            SlotCount::NotANumber(_) | SlotCount::Unset => None,
        };
        let inputs = TargetInputs {
            scheme,
            is_large: port_usage.has_large_memory,
            root_complex: port_usage.root_complex,
            interfaces: devices.interfaces,
            in_use: devices.in_use,
            slot_count,
        };
        let mut target = PortTarget::of(inputs);
        if scheme == Scheme::V3
            && target.extra_controllers > 0
            && let Some(fixed_in) = scheme::fix_for_machine_without_pcie(port_usage.machine, version)
        {
            let machine = port_usage.machine.name_in_errors();
            return refused(port_usage, &devices, scheme, BootError::NoPcie { version, machine, fixed_in });
        }
        if !port_usage.supports_pcie_hotplug {
            // Some versions calculate these nevertheless, but such a machine ignores them.
            target.placeholders = 0;
            target.extra_controllers = 0;
        }
        place(port_usage, &devices, scheme, target)
    }

    /// Returns the capacity for hotplugged NICs: ports, or slots of a bridge or flat bus; `None` if they are unlimited.
    ///
    /// On a flat bus this is not a hard limit, because libvirt adds bridges when it defines the guest.
    #[must_use]
    pub fn hotplug_capacity(&self) -> Option<u64> {
        match self.details.case {
            PortCase::Flat => self.flat_free_slots,
            PortCase::NoPorts => None,
            // Without a bridge there is no slot for a conventional NIC.
            _ if self.is_transitional => self.bridge_free_slots.or(self.free_ports.map(|_| 0)),
            _ => self.free_ports,
        }
    }

    /// Returns the capacity that is left after `attached` devices took a slot since boot: NICs and, if NICs need ports,
    /// virtio disks and a memory hotplug. An unplugged device counts until the domain no longer has it.
    #[must_use]
    pub fn remaining_capacity(&self, attached: u64) -> Option<u64> {
        self.hotplug_capacity().map(|capacity| capacity.saturating_sub(attached))
    }
}

/// The devices of a guest, including NICs, as the formulas name them.
#[derive(Debug)]
struct PortCounts {
    /// n.
    interfaces: u64,
    in_use: u64,
    /// D.
    on_ports: u64,
    conventional: u64,
    /// The slots that the devices take on a flat bus.
    flat: u64,
    /// Devices for which libvirt chooses the port.
    floating: u64,
    /// Conventional devices that libvirt places on a bridge.
    bridged: u64,
    /// The ports in explicit addresses, without duplicates.
    fixed: BTreeSet<u8>,
    addressed: Vec<AddressedDevice>,
    /// The slots that KubeVirt assigns on the root bus.
    on_root_bus: u64,
}

impl PortCounts {
    fn of(port_usage: &PortUsage, nics: &[PciNic]) -> Self {
        let mut nic_tally = SlotTally::default();
        let mut addressed = port_usage.addressed.to_vec();
        for nic in nics {
            let Some(slot_kind) = nic.slot_kind else { continue };
            nic_tally.add(slot_kind);
            addressed.extend(nic.address.map(|address| AddressedDevice { address, slot_kind }));
        }
        let counted = port_usage.counted.all() + nic_tally.all();
        let ports = |tally: SlotTally| u64::from(tally.ports);
        let conventional = |tally: SlotTally| u64::from(tally.conventional);
        let on_ports = ports(port_usage.counted) + ports(port_usage.uncounted) + ports(nic_tally);
        let in_bridges =
            conventional(port_usage.counted) + conventional(port_usage.uncounted) + conventional(nic_tally);
        let (floating, bridged) = if port_usage.root_complex {
            (ports(port_usage.uncounted), conventional(port_usage.uncounted))
        } else {
            let has_port = addressed.iter().filter(|device| device.slot_kind == SlotKind::Port).count() as u64;
            let is_off_the_bridge =
                |device: &&AddressedDevice| device.slot_kind == SlotKind::Bridge && device.address.bus == 0;
            (on_ports - has_port, in_bridges - addressed.iter().filter(is_off_the_bridge).count() as u64)
        };
        Self {
            interfaces: nics.len() as u64,
            in_use: counted,
            on_ports,
            conventional: in_bridges,
            flat: port_usage.counted.slots() + port_usage.uncounted.slots() + nic_tally.slots(),
            floating,
            bridged,
            fixed: addressed
                .iter()
                .filter(|device| device.slot_kind == SlotKind::Port && device.address.bus > 0)
                .map(|device| device.address.bus)
                .collect(),
            on_root_bus: if port_usage.root_complex { counted - addressed.len() as u64 } else { 0 },
            addressed,
        }
    }
}

fn refused(port_usage: &PortUsage, devices: &PortCounts, scheme: Scheme, boot_error: BootError) -> PortBudget {
    let nothing = PortTarget { total: 0, minimum: 0, desired: 0, placeholders: 0, extra_controllers: 0 };
    let placed = place(port_usage, devices, scheme, nothing);
    PortBudget {
        placeholders: None,
        extra_controllers: None,
        free_ports: None,
        bridge_free_slots: None,
        flat_free_slots: None,
        // This reason comes before any other one.
        boot_error: Some(boot_error),
        ..placed
    }
}

fn place(port_usage: &PortUsage, devices: &PortCounts, scheme: Scheme, target: PortTarget) -> PortBudget {
    let case = match port_usage.machine {
        MachineType::I440fx => PortCase::Flat,
        MachineType::Ccw | MachineType::Unsupported | MachineType::Unknown => PortCase::NoPorts,
        MachineType::Q35 | MachineType::Virt if port_usage.root_complex => PortCase::RootComplex,
        MachineType::Q35 | MachineType::Virt if scheme == Scheme::V3 && target.placeholders == 0 => PortCase::Discarded,
        MachineType::Q35 | MachineType::Virt => PortCase::Placed,
    };
    let ports = Ports::of(case, port_usage, devices, target);
    let bridges = flat_bridges(devices);
    let boot_error = port_usage
        .boot_error
        .as_deref()
        .cloned()
        .or_else(|| root_complex_overflow(devices))
        .or_else(|| bad_address(port_usage, devices))
        .or_else(|| ports.overflow(port_usage, devices));
    let is_pcie = port_usage.machine.is_pcie();
    let when = |applies: bool, count: u64| (applies && boot_error.is_none()).then_some(count);
    PortBudget {
        supports_pcie_hotplug: port_usage.supports_pcie_hotplug,
        ports_in_use: devices.in_use,
        placeholders: Some(target.placeholders),
        extra_controllers: Some(target.extra_controllers),
        free_ports: when(is_pcie, ports.free),
        bridge_free_slots: when(is_pcie && ports.bridges > 0, ports.bridge_free_slots(devices)),
        flat_free_slots: when(
            case == PortCase::Flat,
            FLAT_SLOTS * (1 + bridges) - devices.flat.min(FLAT_SLOTS * (1 + bridges)),
        ),
        is_transitional: port_usage.is_transitional,
        details: BudgetDetails {
            scheme,
            case,
            machine: port_usage.machine,
            has_large_memory: port_usage.has_large_memory,
            interfaces: devices.interfaces,
            slot_count: match port_usage.slot_count {
                SlotCount::Number(count) if scheme.reads_slot_count() => Some(count),
                _ => None,
            },
            total: target.total,
            minimum: target.minimum,
            desired: target.desired,
            devices: devices.on_ports,
            conventional: devices.conventional,
            extra_in_place: ports.extra,
            root_ports: if is_pcie { ports.all } else { 0 },
            highest_index: if is_pcie {
                ports.highest_index
            } else if case == PortCase::Flat {
                bridges
            } else {
                0
            },
        },
        boot_error,
    }
}

/// Returns the number of bridges that libvirt adds to a full flat bus. It keeps one slot free for the next bridge; each
/// bridge takes one slot and adds 31.
fn flat_bridges(devices: &PortCounts) -> u64 {
    let named = devices.addressed.iter().map(|device| u64::from(device.address.bus)).max().unwrap_or(0);
    (devices.flat / FLAT_SLOTS).max(named)
}

/// The root ports of a PCIe machine.
#[derive(Clone, Copy, Debug)]
struct Ports {
    free: u64,
    /// Root ports, including that of a bridge.
    all: u64,
    /// E after the limit.
    extra: u64,
    /// Conventional bridges. The first has its own root port, and the others are behind it.
    bridges: u64,
    highest_index: u64,
}

impl Ports {
    fn of(case: PortCase, port_usage: &PortUsage, devices: &PortCounts, target: PortTarget) -> Self {
        let (on_ports, on_bridge) =
            if port_usage.is_transitional { (0, target.placeholders) } else { (target.placeholders, 0) };
        let bridges = bridges_for(devices.bridged.saturating_add(on_bridge));
        let bridge_buses = if bridges > 0 { bridges + 1 } else { 0 };
        let fixed = devices.fixed.len() as u64;
        let named = devices.fixed.last().copied().map_or(0, u64::from);
        let taken = fixed + devices.floating;
        let before = match case {
            // The controllers exist first, and there is no spare port.
            PortCase::Discarded => named.max(taken).max(target.extra_controllers.min(LAST_EXTRA_INDEX)),
            // There is nothing to place, so libvirt creates no port.
            _ if taken.saturating_add(on_ports) == 0 && bridges == 0 => 0,
            _ => named.max(taken.saturating_add(on_ports).saturating_add(1)),
        };
        let index = before.saturating_add(bridge_buses);
        let extra = match case {
            PortCase::Discarded => 0,
            _ => target.extra_controllers.min(LAST_EXTRA_INDEX.saturating_sub(index)),
        };
        let ports = before.saturating_add(extra);
        Self {
            free: ports - taken,
            all: ports.saturating_add(u64::from(bridges > 0)),
            extra: if case == PortCase::Discarded { target.extra_controllers } else { extra },
            bridges,
            highest_index: index.saturating_add(extra),
        }
    }

    /// Returns the free slots of the bridges. KubeVirt has removed the placeholders by then.
    fn bridge_free_slots(self, devices: &PortCounts) -> u64 {
        // Every bridge except for the first takes a slot of another one.
        (BRIDGE_SLOTS * self.bridges).saturating_sub(self.bridges.saturating_sub(1)).saturating_sub(devices.bridged)
    }

    fn overflow(self, port_usage: &PortUsage, devices: &PortCounts) -> Option<BootError> {
        let own = match port_usage.machine {
            // Slot 0 is the host bridge, and 0x1f belongs to the chipset.
            MachineType::Q35 => u64::from(port_usage.uncounted.root_bus) + 2,
            MachineType::Virt => 1,
            _ => return None,
        };
        let named: BTreeSet<u8> = devices
            .addressed
            .iter()
            .filter(|device| device.address.bus == 0)
            .map(|device| device.address.slot)
            .collect();
        let slots = 32u64.saturating_sub(own + named.len() as u64 + devices.on_root_bus);
        let limit = slots * PORTS_PER_SLOT;
        if self.all > limit {
            return Some(BootError::OutOfPorts { needed: self.all, limit });
        }
        // Bridges behind a bridge need no root port, but each needs a bus number.
        let needed = self.highest_index;
        (needed > LAST_BUS).then_some(BootError::OutOfPorts { needed, limit: LAST_BUS })
    }
}

/// Returns the number of bridges for so many conventional devices: 31 on the first, 30 more for each further one.
fn bridges_for(devices: u64) -> u64 {
    match devices {
        0 => 0,
        1..=BRIDGE_SLOTS => 1,
        more => 1 + (more - BRIDGE_SLOTS).div_ceil(BRIDGE_SLOTS - 1),
    }
}

fn root_complex_overflow(devices: &PortCounts) -> Option<BootError> {
    (devices.on_root_bus > ROOT_COMPLEX_SLOTS).then_some(BootError::RootComplexFull { devices: devices.on_root_bus })
}

/// Returns the first explicit address that libvirt refuses.
fn bad_address(port_usage: &PortUsage, devices: &PortCounts) -> Option<BootError> {
    if !matches!(port_usage.machine, MachineType::Q35 | MachineType::Virt | MachineType::I440fx) {
        return None;
    }
    let mut seen = BTreeSet::new();
    devices.addressed.iter().find_map(|device| {
        let address = device.address;
        if let Some(why) = impossible(port_usage.machine, *device, &devices.fixed) {
            return Some(BootError::AddressImpossible { address, why });
        }
        let is_taken = !seen.insert(address)
            || is_built_in(port_usage, address)
            || is_assigned_by_kubevirt(devices.on_root_bus, address);
        is_taken.then_some(BootError::AddressTaken { address })
    })
}

fn impossible(machine: MachineType, device: AddressedDevice, ports: &BTreeSet<u8>) -> Option<&'static str> {
    let address = device.address;
    if address.domain != 0 {
        return Some("a guest has PCI domain 0 only");
    }
    if address.bus == 0 {
        return (address.slot == 0).then_some("slot 0 of bus 0 is the host bridge");
    }
    let is_port = device.slot_kind == SlotKind::Port || ports.last().is_some_and(|&last| address.bus <= last);
    if machine == MachineType::I440fx || !is_port {
        return (address.slot == 0).then_some("a conventional bridge has slots 1 to 1f");
    }
    (address.slot > 0).then_some("a root port has slot 0 only")
}

/// Whether a built-in device of the machine has the address.
fn is_built_in(port_usage: &PortUsage, address: PciAddress) -> bool {
    if address.bus != 0 {
        return false;
    }
    match port_usage.machine {
        // ISA bridge, SATA controller if in use, SMBus.
        MachineType::Q35 => {
            address.slot == 0x1f
                && (matches!(address.function, 0 | 3) || (address.function == 2 && port_usage.has_sata))
        }
        // ISA bridge and power management.
        MachineType::I440fx => address.slot == 1 && matches!(address.function, 0 | 3),
        _ => false,
    }
}

/// Whether KubeVirt assigns the slot to a device with the root-complex annotation. It does not check whether it is in
/// use.
fn is_assigned_by_kubevirt(on_root_bus: u64, address: PciAddress) -> bool {
    if address.bus != 0 || address.function != 0 || matches!(address.slot, 0 | 1 | 0x1b | 0x1f) {
        return false;
    }
    let number = u64::from(address.slot) - 2 - u64::from(address.slot > 0x1b);
    number < on_root_bus
}

impl fmt::Display for BudgetDetails {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = if self.has_large_memory { "more than 2Gi" } else { "2Gi or less" };
        match self.case {
            PortCase::Flat => formatter.write_str("one flat PCI bus"),
            PortCase::NoPorts => formatter.write_str("no PCI ports"),
            PortCase::RootComplex => formatter.write_str("devices on the root bus"),
            PortCase::Placed | PortCase::Discarded => {
                write!(formatter, "PCIe, {size}, topology {}: {} root ports", self.scheme.as_str(), self.root_ports)?;
                write!(formatter, ", {} used by devices", self.devices)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::guest::GuestSpec,
        pci::{Devices, NoRegistry, PciOptions, count_devices},
    };

    fn count(spec: &str, slot_count: Option<&str>, root_complex: bool, version: &str) -> PortBudget {
        let spec: GuestSpec = serde_json::from_str(spec).unwrap();
        let options = PciOptions { slot_count, root_complex, ..PciOptions::default() };
        let Devices { port_usage, nics, .. } = count_devices(&spec, &options, &NoRegistry).unwrap();
        PortBudget::of(&port_usage, &nics, version.parse().unwrap())
    }

    /// Returns a guest with virtio disks and NICs. `more` is added to its devices.
    fn guest(memory: &str, disks: usize, nics: usize, more: &str) -> String {
        let disks: Vec<String> =
            (0..disks).map(|disk| format!(r#"{{"name": "d{disk}", "disk": {{"bus": "virtio"}}}}"#)).collect();
        let nics: Vec<String> = (0..nics).map(|nic| format!(r#"{{"name": "n{nic}", "bridge": {{}}}}"#)).collect();
        format!(
            r#"{{"domain": {{"memory": {{"guest": "{memory}"}}, "devices": {{"autoattachPodInterface": false, {more}
               "disks": [{}], "interfaces": [{}]}}}}}}"#,
            disks.join(","),
            nics.join(",")
        )
    }

    #[test]
    fn the_worked_examples_of_the_model_come_out() {
        for (spec, version, in_use, placeholders, extra, devices, free) in [
            (guest("1024M", 2, 1, r#""rng": {},"#), "1.9.0", 8, 3, 0, 7, 4),
            (guest("1Gi", 1, 1, ""), "1.9.0", 6, 3, 0, 5, 4),
            (guest("2Gi", 2, 1, ""), "1.9.0", 7, 3, 0, 6, 4),
            (guest("2147483649", 2, 1, ""), "1.9.0", 7, 3, 6, 6, 10),
            (guest("4Gi", 1, 3, ""), "1.9.0", 8, 1, 7, 7, 9),
            (guest("4Gi", 1, 4, ""), "1.9.0", 9, 0, 7, 8, 0),
            (guest("4Gi", 1, 4, ""), "1.10.0", 9, 0, 7, 8, 8),
            (guest("1Gi", 1, 0, ""), "1.9.0", 5, 0, 3, 4, 0),
            (guest("1Gi", 1, 0, ""), "1.10.0", 5, 0, 3, 4, 4),
            (guest("4Gi", 1, 0, ""), "1.9.0", 5, 0, 11, 4, 7),
            (guest("4Gi", 22, 1, ""), "1.9.0", 27, 3, 3, 26, 5),
            (guest("4Gi", 26, 1, ""), "1.9.0", 31, 3, 3, 30, 4),
            (guest("4Gi", 2, 1, ""), "1.7.0", 7, 9, 0, 6, 10),
            (guest("4Gi", 2, 1, ""), "1.5.0", 7, 3, 0, 6, 4),
            (guest("4Gi", 2, 1, ""), "0.59.0", 7, 0, 0, 6, 1),
            (guest("4Gi", 2, 4, ""), "1.5.0", 10, 0, 0, 9, 1),
        ] {
            let found = count(&spec, None, false, version);
            let figures = (found.ports_in_use, found.placeholders, found.extra_controllers, found.details.devices);
            assert_eq!(figures, (in_use, Some(placeholders), Some(extra), devices), "{version} {spec}");
            assert_eq!(found.free_ports, Some(free), "{version} {spec}");
        }
    }

    #[test]
    fn annotations_change_the_budget() {
        let spec = guest("1Gi", 2, 1, "");
        for (slot_count, root_complex, version, free) in [
            (Some("11"), false, "1.9.0", Some(11)),
            (None, true, "1.9.0", Some(0)),
            (Some("8"), true, "1.9.0", Some(8)),
            (Some("junk"), false, "1.9.0", None),
            (Some("junk"), false, "1.7.0", Some(4)),
            (Some("11"), false, "1.5.0", Some(4)),
        ] {
            let found = count(&spec, slot_count, root_complex, version);
            assert_eq!(found.free_ports, free, "{slot_count:?} {root_complex} {version}");
        }
    }

    #[test]
    fn an_invalid_slot_count_stops_a_flat_machine_only_in_versions_that_do_not_check_the_machine() {
        let spec = r#"{"domain": {"machine": {"type": "pc"}}}"#;
        assert!(count(spec, Some("junk"), false, "1.8.1").boot_error.is_some());
        assert!(count(spec, Some("junk"), false, "1.8.2").boot_error.is_none());
    }

    #[test]
    fn an_impossible_or_taken_address_prevents_booting() {
        let with = |machine: &str, addresses: &[&str]| {
            let nics = addresses.iter().map(|address| format!(r#"{{"bridge": {{}}, "pciAddress": "{address}"}}"#));
            let nics: Vec<String> = nics.collect();
            let devices = format!(r#"{{"interfaces": [{}]}}"#, nics.join(","));
            format!(r#"{{"domain": {{"machine": {{"type": "{machine}"}}, "devices": {devices}}}}}"#)
        };
        for (machine, addresses, root_complex, boots) in [
            ("q35", &["0000:03:00.0"][..], false, true),
            ("q35", &["0000:00:10.0"], false, true),
            ("q35", &["0000:03:01.0"], false, false),
            ("q35", &["0001:03:00.0"], false, false),
            ("q35", &["0000:00:00.0"], false, false),
            ("q35", &["0000:00:1f.0"], false, false),
            ("q35", &["0000:00:1f.2"], false, true),
            ("q35", &["0000:03:00.0", "0000:03:00.0"], false, false),
            ("q35", &["0000:00:02.0"], true, false),
            ("q35", &["0000:00:1e.0"], true, true),
            ("pc", &["0000:00:10.0"], false, true),
            ("pc", &["0000:00:01.0"], false, false),
            ("pc", &["0000:01:00.0"], false, false),
        ] {
            let found = count(&with(machine, addresses), None, root_complex, "1.9.0");
            assert_eq!(found.boot_error.is_none(), boots, "{machine} {addresses:?} {:?}", found.boot_error);
        }
    }

    #[test]
    fn libvirt_creates_all_ports_up_to_an_explicit_address() {
        let spec = r#"{"domain": {"memory": {"guest": "1Gi"}, "devices": {
            "interfaces": [{"name": "a", "bridge": {}, "pciAddress": "0000:14:00.0"}]}}}"#;
        // Ports 1 to 20; the NIC, scsi, virtio-serial and balloon take one each.
        assert_eq!(count(spec, None, false, "1.9.0").free_ports, Some(16));
        assert_eq!(count(spec, None, true, "1.9.0").free_ports, Some(19));
    }

    #[test]
    fn a_root_bus_has_28_slots_for_devices_and_room_for_232_ports() {
        let full = |disks| count(&guest("1Gi", disks, 1, ""), None, true, "1.9.0").boot_error;
        assert_eq!(full(23), None);
        assert_eq!(full(24), Some(BootError::RootComplexFull { devices: 29 }));
        let ports = |disks| count(&guest("1Gi", disks, 1, ""), None, false, "1.9.0").boot_error;
        assert_eq!(ports(224), None);
        assert_eq!(ports(225), Some(BootError::OutOfPorts { needed: 233, limit: 232 }));
    }

    #[test]
    fn a_huge_slot_count_is_an_error_and_not_calculated_port_by_port() {
        for more in ["", r#""useVirtioTransitional": true,"#] {
            for slot_count in ["100000", "9223372036854775807"] {
                let found = count(&guest("1Gi", 1, 1, more), Some(slot_count), false, "1.9.0");
                assert!(matches!(found.boot_error, Some(BootError::OutOfPorts { .. })), "{more} {slot_count}");
            }
        }
    }

    #[test]
    fn the_number_of_bridges_follows_the_devices() {
        for (devices, bridges) in [(0, 0), (1, 1), (31, 1), (32, 2), (61, 2), (62, 3)] {
            assert_eq!(bridges_for(devices), bridges, "{devices}");
        }
    }

    #[test]
    fn an_impossible_device_is_named_with_the_reason() {
        for (device, word) in [
            (r#""disks": [{"name": "a", "lun": {"bus": "virtio"}}]"#, "lun"),
            (r#""disks": [{"name": "a", "lun": {}}]"#, "lun"),
            (r#""disks": [{"name": "a", "cdrom": {"bus": "virtio"}}]"#, "cdrom"),
            (r#""disks": [{"name": "a", "cdrom": {"bus": "usb"}}]"#, "USB"),
            (r#""disks": [{"name": "a", "disk": {"bus": "sata", "pciAddress": "0000:01:00.0"}}]"#, "pciAddress"),
            (r#""inputs": [{"name": "a", "type": "tablet", "bus": "ps2"}]"#, "bus"),
            (r#""inputs": [{"name": "a", "type": "mouse"}]"#, "tablet"),
        ] {
            let found = count(&format!(r#"{{"domain": {{"devices": {{{device}}}}}}}"#), None, false, "1.9.0");
            let reason = found.boot_error.map(|boot_error| boot_error.to_string()).unwrap_or_default();
            assert!(reason.contains("\"a\"") && reason.contains(word), "{device}: {reason:?}");
        }
    }
}
