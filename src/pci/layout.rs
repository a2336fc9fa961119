//! The bus as a picture: who sits where. It places the devices one by one as libvirt does, so its free ports are the
//! ones that the sum promises; a test holds the two against each other.

use super::{
    DeviceKinds, Note, Placement, Unreadable,
    address::PciAddress,
    devices::{self, Device, Kind, Parts, Place, Sink},
    port_budget::{Case, PortBudget, budget},
    port_usage::{self, Devices},
    refusal::Refusal,
};
use crate::{api::guest::GuestSpec, kubevirt::Version};

/// A guest's bus.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The sums.
    pub budget: PortBudget,
    /// Ports in order of their index, then slots of a bridge or flat bus, then the rest. Empty for a guest that cannot
    /// boot and has no counts.
    pub seats: Vec<Seat>,
    /// What nobody could tell.
    pub notes: Vec<Note>,
}

/// Where a device, or nobody, sits.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Spot {
    /// The root port of that PCI index.
    Port(u64),
    /// A slot of the conventional bridge.
    Bridge,
    /// A slot of the root bus.
    RootBus,
    /// A slot of a flat bus.
    Flat,
    /// No PCI slot.
    Nowhere,
}

/// One place and who has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seat {
    /// Where.
    pub spot: Spot,
    /// Who: the name in the spec, or what it is. Empty for a free port.
    pub name: String,
    /// What it is; `free` for a free port.
    pub kind: &'static str,
    /// Why it is there.
    pub why: String,
    /// Whether KubeVirt counts it as a port in use.
    pub is_counted: bool,
}

impl Seat {
    /// Whether a NIC can be plugged in here.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.kind == FREE
    }
}

/// The `kind` of a free port.
const FREE: &str = "free";

/// Draws the bus of a guest at boot.
///
/// # Errors
/// A list of devices has another shape than KubeVirt's API.
pub fn picture(
    spec: &GuestSpec<'_>,
    placement: &Placement<'_>,
    kinds: &dyn DeviceKinds,
    version: Version,
) -> Result<Picture, Unreadable> {
    let parts = Parts::read(spec)?;
    let Devices { port_usage, nics, notes } = port_usage::count(spec, &parts, placement, kinds);
    let budget = budget(&port_usage, &nics, version);
    let mut all = Collector::default();
    devices::walk(spec, &parts, &parts.bus_disks(port_usage.architecture), placement, kinds, &mut all);
    all.0.sort_by_key(|device| device.kind.turn());
    let seats = match budget.sum.case {
        _ if budget.refused.is_some() => Vec::new(),
        Case::NoPorts => all.0.iter().map(|device| seat(Spot::Nowhere, device)).collect(),
        Case::Flat => all.0.iter().map(|device| seat(flat_spot(device), device)).collect(),
        Case::Placed | Case::Discarded | Case::RootComplex => Board::new(&budget, port_usage.root_complex).fill(&all.0),
    };
    Ok(Picture { budget, seats, notes })
}

#[derive(Debug, Default)]
struct Collector<'v>(Vec<Device<'v>>);

impl<'v> Sink<'v> for Collector<'v> {
    fn device(&mut self, device: Device<'v>) {
        self.0.push(device);
    }

    fn note(&mut self, _note: Note) {}

    fn refusal(&mut self, _refusal: Refusal) {}
}

fn seat(spot: Spot, device: &Device<'_>) -> Seat {
    let name = if device.name.is_empty() { device.kind.as_str() } else { device.name };
    Seat {
        spot,
        name: name.to_owned(),
        kind: device.kind.as_str(),
        why: device.why.to_owned(),
        is_counted: device.is_counted,
    }
}

fn flat_spot(device: &Device<'_>) -> Spot {
    if device.place == Place::Nowhere { Spot::Nowhere } else { Spot::Flat }
}

/// What a bus number stands for.
#[derive(Clone, Debug)]
enum Bus {
    /// A root port.
    Port(Option<Seat>),
    /// The root port of the first bridge.
    BridgePort,
    /// A conventional bridge.
    Bridge,
}

/// A PCIe board while devices are put on it. Bus numbers count from 1; the root bus is no entry.
struct Board<'r> {
    budget: &'r PortBudget,
    root_complex: bool,
    buses: Vec<Bus>,
    on_bridge: Vec<Seat>,
    elsewhere: Vec<Seat>,
    bridged: u64,
}

impl<'r> Board<'r> {
    fn new(budget: &'r PortBudget, root_complex: bool) -> Self {
        Self { budget, root_complex, buses: Vec::new(), on_bridge: Vec::new(), elsewhere: Vec::new(), bridged: 0 }
    }

    fn fill(mut self, devices: &[Device<'_>]) -> Vec<Seat> {
        if self.budget.sum.case == Case::Discarded {
            self.grow_to(self.budget.sum.extra_in_place);
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
            if address.bus == 0 || device.place != Place::Port {
                continue;
            }
            self.grow_to(u64::from(address.bus));
            if let Some(bus) = self.buses.get_mut(usize::from(address.bus) - 1) {
                *bus = Bus::Port(Some(with_address(seat(Spot::Port(u64::from(address.bus)), device), address)));
            }
        }
    }

    fn seat_floating(&mut self, device: &Device<'_>) {
        let address = parse(device);
        match (device.place, address) {
            (Place::Nowhere, _) => self.elsewhere.push(seat(Spot::Nowhere, device)),
            (Place::RootBus, _) => self.elsewhere.push(seat(Spot::RootBus, device)),
            (Place::Port | Place::Bridge, Some(address)) if address.bus == 0 => {
                self.elsewhere.push(with_address(seat(Spot::RootBus, device), address));
            }
            (Place::Port, Some(_)) => {}
            (Place::Port | Place::Bridge, None) if self.root_complex && device.is_counted => {
                let mut seat = seat(Spot::RootBus, device);
                seat.why.push_str("; the annotation puts it on the root bus");
                self.elsewhere.push(seat);
            }
            (Place::Port, None) => {
                let spot = self.empty_port();
                self.put(spot, seat(Spot::Port(spot as u64 + 1), device));
            }
            (Place::Bridge, _) => {
                self.take_bridge_slot();
                self.on_bridge.push(seat(Spot::Bridge, device));
            }
        }
    }

    fn seat_placeholder(&mut self) {
        if self.budget.is_transitional {
            self.take_bridge_slot();
            return;
        }
        let spot = self.empty_port();
        self.put(spot, free(spot, "reserved by a placeholder of KubeVirt"));
    }

    /// The first empty port, which is made where there is none.
    fn empty_port(&mut self) -> usize {
        let empty = self.buses.iter().position(|bus| matches!(bus, Bus::Port(None)));
        empty.unwrap_or_else(|| {
            self.buses.push(Bus::Port(None));
            self.buses.len() - 1
        })
    }

    fn put(&mut self, spot: usize, seat: Seat) {
        if let Some(bus) = self.buses.get_mut(spot) {
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
        if self.budget.sum.case == Case::Discarded || self.buses.is_empty() {
            return;
        }
        let spot = self.empty_port();
        self.put(spot, free(spot, "libvirt's spare port"));
    }

    fn add_extra(&mut self) {
        if self.budget.sum.case == Case::Discarded {
            return;
        }
        for _ in 0..self.budget.sum.extra_in_place {
            let spot = self.buses.len();
            self.buses.push(Bus::Port(Some(free(spot, EXTRA))));
        }
    }

    fn into_seats(self) -> Vec<Seat> {
        let why_empty = if self.budget.sum.case == Case::Discarded { EXTRA } else { "made by an explicit address" };
        let ports = self.buses.into_iter().enumerate().filter_map(|(spot, bus)| match bus {
            Bus::Port(Some(seat)) => Some(seat),
            Bus::Port(None) => Some(free(spot, why_empty)),
            Bus::BridgePort => Some(Seat {
                spot: Spot::Port(spot as u64 + 1),
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

fn free(spot: usize, why: &str) -> Seat {
    Seat { spot: Spot::Port(spot as u64 + 1), name: String::new(), kind: FREE, why: why.to_owned(), is_counted: false }
}

fn with_address(seat: Seat, address: PciAddress) -> Seat {
    let why = format!("{}, pciAddress {address}", seat.why);
    Seat { why, ..seat }
}

fn parse(device: &Device<'_>) -> Option<PciAddress> {
    device.address?.parse().ok()
}

/// The index behind the filesystems and the NICs of the emulator, where libvirt places KubeVirt's dummy NICs.
fn after_nics(devices: &[Device<'_>]) -> usize {
    let turn = Kind::Interface.turn();
    devices.iter().position(|device| device.kind.turn() > turn).unwrap_or(devices.len())
}
