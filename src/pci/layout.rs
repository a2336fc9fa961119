//! The bus as a picture: who sits where. It places the devices one by one as libvirt does, so its free ports are the
//! ones that the sum promises; a test holds the two against each other.

use super::{
    DeviceRegistry, Note, PciOptions, UnreadableField,
    address::PciAddress,
    boot_error::BootError,
    devices::{self, Device, DeviceKind, DeviceLists, DeviceVisitor, SlotKind},
    port_budget::{PortBudget, PortCase},
    port_usage::{self, Devices},
};
use crate::{api::guest::GuestSpec, kubevirt::Version};

/// A guest's bus.
#[derive(Clone, Debug, PartialEq)]
pub struct BusLayout {
    /// The sums.
    pub budget: PortBudget,
    /// Ports in order of their index, then slots of a bridge or flat bus, then the rest. Empty for a guest that cannot
    /// boot and has no counts.
    pub slots: Vec<Slot>,
    /// What nobody could tell.
    pub notes: Vec<Note>,
}

impl BusLayout {
    /// Draws the bus of a guest at boot.
    ///
    /// # Errors
    /// A list of devices has another shape than KubeVirt's API.
    pub fn of(
        spec: &GuestSpec<'_>,
        placement: &PciOptions<'_>,
        registry: &dyn DeviceRegistry,
        version: Version,
    ) -> Result<Self, UnreadableField> {
        let parts = DeviceLists::read(spec)?;
        let Devices { port_usage, nics, notes } = port_usage::count(spec, &parts, placement, registry);
        let budget = PortBudget::of(&port_usage, &nics, version);
        let mut all = Collector::default();
        devices::walk(spec, &parts, &parts.bus_disks(port_usage.architecture), placement, registry, &mut all);
        all.0.sort_by_key(|device| device.kind.address_order());
        let slots = match budget.details.case {
            _ if budget.boot_error.is_some() => Vec::new(),
            PortCase::NoPorts => all.0.iter().map(|device| seat(SlotPosition::None, device)).collect(),
            PortCase::Flat => all.0.iter().map(|device| seat(flat_spot(device), device)).collect(),
            PortCase::Placed | PortCase::Discarded | PortCase::RootComplex => {
                LayoutBuilder::new(&budget, port_usage.root_complex).fill(&all.0)
            }
        };
        Ok(Self { budget, slots, notes })
    }
}

/// Where a device, or nobody, sits.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SlotPosition {
    /// The root port of that PCI index.
    Port(u64),
    /// A slot of the conventional bridge.
    Bridge,
    /// A slot of the root bus.
    RootBus,
    /// A slot of a flat bus.
    Flat,
    /// No PCI slot.
    None,
}

/// One place and who has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Where.
    pub position: SlotPosition,
    /// Who: the name in the spec, or what it is. Empty for a free port.
    pub name: String,
    /// What it is; `free` for a free port.
    pub kind: &'static str,
    /// Why it is there.
    pub why: String,
    /// Whether KubeVirt counts it as a port in use.
    pub is_counted: bool,
}

impl Slot {
    /// Whether a NIC can be plugged in here.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.kind == FREE
    }
}

/// The `kind` of a free port.
const FREE: &str = "free";

#[derive(Debug, Default)]
struct Collector<'v>(Vec<Device<'v>>);

impl<'v> DeviceVisitor<'v> for Collector<'v> {
    fn device(&mut self, device: Device<'v>) {
        self.0.push(device);
    }

    fn note(&mut self, _note: Note) {}

    fn boot_error(&mut self, _refusal: BootError) {}
}

fn seat(position: SlotPosition, device: &Device<'_>) -> Slot {
    let name = if device.name.is_empty() { device.kind.as_str() } else { device.name };
    Slot {
        position,
        name: name.to_owned(),
        kind: device.kind.as_str(),
        why: device.why.to_owned(),
        is_counted: device.is_counted,
    }
}

fn flat_spot(device: &Device<'_>) -> SlotPosition {
    if device.place == SlotKind::None { SlotPosition::None } else { SlotPosition::Flat }
}

/// What a bus number stands for.
#[derive(Clone, Debug)]
enum Bus {
    /// A root port.
    Port(Option<Slot>),
    /// The root port of the first bridge.
    BridgePort,
    /// A conventional bridge.
    Bridge,
}

/// A PCIe board while devices are put on it. Bus numbers count from 1; the root bus is no entry.
struct LayoutBuilder<'r> {
    budget: &'r PortBudget,
    root_complex: bool,
    buses: Vec<Bus>,
    on_bridge: Vec<Slot>,
    elsewhere: Vec<Slot>,
    bridged: u64,
}

impl<'r> LayoutBuilder<'r> {
    fn new(budget: &'r PortBudget, root_complex: bool) -> Self {
        Self { budget, root_complex, buses: Vec::new(), on_bridge: Vec::new(), elsewhere: Vec::new(), bridged: 0 }
    }

    fn fill(mut self, devices: &[Device<'_>]) -> Vec<Slot> {
        if self.budget.details.case == PortCase::Discarded {
            self.grow_to(self.budget.details.extra_in_place);
        }
        self.seat_addressed(devices);
        let (first, rest) = devices.split_at_checked(after_nics(devices)).unwrap_or((devices, &[]));
        for device in first {
            self.seat_floating(device);
        }
        // Placeholders are NICs of the emulator: they get their places after the guest's own and before all others.
        for _ in 0..self.budget.placeholders.unwrap_or(0) {
            self.seat_placeholder();
        }
        for device in rest {
            self.seat_floating(device);
        }
        self.add_spare();
        self.add_extra();
        self.into_seats()
    }

    fn grow_to(&mut self, index: u64) {
        while (self.buses.len() as u64) < index {
            self.buses.push(Bus::Port(None));
        }
    }

    fn seat_addressed(&mut self, devices: &[Device<'_>]) {
        for device in devices {
            let Some(address) = parse(device) else { continue };
            if address.bus == 0 || device.place != SlotKind::Port {
                continue;
            }
            self.grow_to(u64::from(address.bus));
            if let Some(bus) = self.buses.get_mut(usize::from(address.bus) - 1) {
                *bus = Bus::Port(Some(with_address(seat(SlotPosition::Port(u64::from(address.bus)), device), address)));
            }
        }
    }

    fn seat_floating(&mut self, device: &Device<'_>) {
        let address = parse(device);
        match (device.place, address) {
            (SlotKind::None, _) => self.elsewhere.push(seat(SlotPosition::None, device)),
            (SlotKind::RootBus, _) => self.elsewhere.push(seat(SlotPosition::RootBus, device)),
            (SlotKind::Port | SlotKind::Bridge, Some(address)) if address.bus == 0 => {
                self.elsewhere.push(with_address(seat(SlotPosition::RootBus, device), address));
            }
            (SlotKind::Port, Some(_)) => {}
            (SlotKind::Port | SlotKind::Bridge, None) if self.root_complex && device.is_counted => {
                let mut seat = seat(SlotPosition::RootBus, device);
                seat.why.push_str("; the annotation puts it on the root bus");
                self.elsewhere.push(seat);
            }
            (SlotKind::Port, None) => {
                let position = self.empty_port();
                self.put(position, seat(SlotPosition::Port(position as u64 + 1), device));
            }
            (SlotKind::Bridge, _) => {
                self.take_bridge_slot();
                self.on_bridge.push(seat(SlotPosition::Bridge, device));
            }
        }
    }

    fn seat_placeholder(&mut self) {
        if self.budget.is_transitional {
            self.take_bridge_slot();
            return;
        }
        let position = self.empty_port();
        self.put(position, free(position, "reserved by a placeholder of KubeVirt"));
    }

    /// The first empty port, which is made where there is none.
    fn empty_port(&mut self) -> usize {
        let empty = self.buses.iter().position(|bus| matches!(bus, Bus::Port(None)));
        empty.unwrap_or_else(|| {
            self.buses.push(Bus::Port(None));
            self.buses.len() - 1
        })
    }

    fn put(&mut self, position: usize, seat: Slot) {
        if let Some(bus) = self.buses.get_mut(position) {
            *bus = Bus::Port(Some(seat));
        }
    }

    fn take_bridge_slot(&mut self) {
        if self.bridged == 0 {
            self.buses.extend([Bus::BridgePort, Bus::Bridge]);
        } else if self.bridged >= 31 && (self.bridged - 31).is_multiple_of(30) {
            self.buses.push(Bus::Bridge);
        }
        self.bridged += 1;
    }

    fn add_spare(&mut self) {
        if self.budget.details.case == PortCase::Discarded || self.buses.is_empty() {
            return;
        }
        let position = self.empty_port();
        self.put(position, free(position, "libvirt's spare port"));
    }

    fn add_extra(&mut self) {
        if self.budget.details.case == PortCase::Discarded {
            return;
        }
        for _ in 0..self.budget.details.extra_in_place {
            let position = self.buses.len();
            self.buses.push(Bus::Port(Some(free(position, EXTRA))));
        }
    }

    fn into_seats(self) -> Vec<Slot> {
        let why_empty =
            if self.budget.details.case == PortCase::Discarded { EXTRA } else { "made by an explicit address" };
        let ports = self.buses.into_iter().enumerate().filter_map(|(position, bus)| match bus {
            Bus::Port(Some(seat)) => Some(seat),
            Bus::Port(None) => Some(free(position, why_empty)),
            Bus::BridgePort => Some(Slot {
                position: SlotPosition::Port(position as u64 + 1),
                name: "bridge".to_owned(),
                kind: "bridge",
                why: "of libvirt, for conventional cards".to_owned(),
                is_counted: false,
            }),
            Bus::Bridge => None,
        });
        ports.chain(self.on_bridge).chain(self.elsewhere).collect()
    }
}

/// The `why` of a port that KubeVirt adds as a controller.
const EXTRA: &str = "reserved by KubeVirt as an extra port";

fn free(position: usize, why: &str) -> Slot {
    Slot {
        position: SlotPosition::Port(position as u64 + 1),
        name: String::new(),
        kind: FREE,
        why: why.to_owned(),
        is_counted: false,
    }
}

fn with_address(seat: Slot, address: PciAddress) -> Slot {
    let why = format!("{}, pciAddress {address}", seat.why);
    Slot { why, ..seat }
}

fn parse(device: &Device<'_>) -> Option<PciAddress> {
    device.address?.parse().ok()
}

/// The index behind the filesystems and the NICs of the emulator, where libvirt places KubeVirt's dummy NICs.
fn after_nics(devices: &[Device<'_>]) -> usize {
    let address_order = DeviceKind::Interface.address_order();
    devices.iter().position(|device| device.kind.address_order() > address_order).unwrap_or(devices.len())
}
