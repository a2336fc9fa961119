//! The bus layout: the device in every slot. It places the devices one by one as libvirt does, so it has as many free
//! ports as the port budget; a test compares the two.

use super::{
    DeviceRegistry, Note, PciOptions, UnreadableField,
    address::PciAddress,
    boot_error::BootError,
    devices::{self, Device, DeviceKind, DeviceLists, DeviceVisitor, SlotKind},
    port_budget::{PortBudget, PortCase},
    port_usage::{self, Devices},
};
use crate::{api::guest::GuestSpec, kubevirt::Version};

/// The PCI bus of a guest at boot.
#[derive(Clone, Debug, PartialEq)]
pub struct BusLayout {
    /// The port budget.
    pub budget: PortBudget,
    /// Ports in order of their index, then slots of a bridge or flat bus, then the rest. Empty for a guest that cannot
    /// boot.
    pub slots: Vec<Slot>,
    /// Assumptions behind the layout.
    pub notes: Vec<Note>,
}

impl BusLayout {
    /// Places the devices of a guest.
    ///
    /// # Errors
    /// A field has another type than in KubeVirt's API.
    pub fn of(
        spec: &GuestSpec<'_>,
        options: &PciOptions<'_>,
        registry: &dyn DeviceRegistry,
        version: Version,
    ) -> Result<Self, UnreadableField> {
        let parts = DeviceLists::read(spec)?;
        let Devices { port_usage, nics, notes } = port_usage::count(spec, &parts, options, registry);
        let budget = PortBudget::of(&port_usage, &nics, version);
        let mut all = Collector::default();
        devices::walk(spec, &parts, &parts.defaulted_disks(port_usage.architecture), options, registry, &mut all);
        all.0.sort_by_key(|device| device.kind.address_order());
        let slots = match budget.details.case {
            _ if budget.boot_error.is_some() => Vec::new(),
            PortCase::NoPorts => all.0.iter().map(|device| slot(SlotPosition::None, device)).collect(),
            PortCase::Flat => all.0.iter().map(|device| slot(flat_position(device), device)).collect(),
            PortCase::Placed | PortCase::Discarded | PortCase::RootComplex => {
                LayoutBuilder::new(&budget, port_usage.root_complex).fill(&all.0)
            }
        };
        Ok(Self { budget, slots, notes })
    }
}

/// The position of a slot.
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

/// A slot and the device in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// The position.
    pub position: SlotPosition,
    /// The name of the device in the spec, or else its kind. Empty for a free port.
    pub name: String,
    /// The kind of device; `free` for a free port.
    pub kind: &'static str,
    /// The reason why the device or the port exists.
    pub why: String,
    /// Whether KubeVirt counts it as a port in use.
    pub is_counted: bool,
}

impl Slot {
    /// Whether a NIC can be hotplugged here.
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
    fn device(&mut self, device: &Device<'v>) {
        self.0.push(*device);
    }

    fn note(&mut self, _note: Note) {}

    fn boot_error(&mut self, _refusal: BootError) {}
}

fn slot(position: SlotPosition, device: &Device<'_>) -> Slot {
    let name = if device.name.is_empty() { device.kind.as_str() } else { device.name };
    Slot {
        position,
        name: name.to_owned(),
        kind: device.kind.as_str(),
        why: device.why.to_owned(),
        is_counted: device.is_counted,
    }
}

fn flat_position(device: &Device<'_>) -> SlotPosition {
    if device.slot_kind == SlotKind::None { SlotPosition::None } else { SlotPosition::Flat }
}

/// The device that a bus number refers to.
#[derive(Clone, Debug)]
enum Bus {
    /// A root port.
    Port(Option<Slot>),
    /// The root port of the first bridge.
    BridgePort,
    /// A conventional bridge.
    Bridge,
}

/// Places devices on a PCIe machine. Bus numbers begin with 1; `buses` does not include the root bus.
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
        self.place_addressed(devices);
        let (first, rest) = devices.split_at_checked(after_nics(devices)).unwrap_or((devices, &[]));
        for device in first {
            self.place_floating(device);
        }
        // Placeholders are emulated NICs: they get their slots after the guest's own NICs and before all other devices.
        for _ in 0..self.budget.placeholders.unwrap_or(0) {
            self.place_placeholder();
        }
        for device in rest {
            self.place_floating(device);
        }
        self.add_spare();
        self.add_extra();
        self.into_slots()
    }

    fn grow_to(&mut self, index: u64) {
        while (self.buses.len() as u64) < index {
            self.buses.push(Bus::Port(None));
        }
    }

    fn place_addressed(&mut self, devices: &[Device<'_>]) {
        for device in devices {
            let Some(address) = parse(device) else { continue };
            if address.bus == 0 || device.slot_kind != SlotKind::Port {
                continue;
            }
            self.grow_to(u64::from(address.bus));
            if let Some(bus) = self.buses.get_mut(usize::from(address.bus) - 1) {
                *bus = Bus::Port(Some(with_address(slot(SlotPosition::Port(u64::from(address.bus)), device), address)));
            }
        }
    }

    fn place_floating(&mut self, device: &Device<'_>) {
        let address = parse(device);
        match (device.slot_kind, address) {
            (SlotKind::None, _) => self.elsewhere.push(slot(SlotPosition::None, device)),
            (SlotKind::RootBus, _) => self.elsewhere.push(slot(SlotPosition::RootBus, device)),
            (SlotKind::Port | SlotKind::Bridge, Some(address)) if address.bus == 0 => {
                self.elsewhere.push(with_address(slot(SlotPosition::RootBus, device), address));
            }
            (SlotKind::Port, Some(_)) => {}
            (SlotKind::Port | SlotKind::Bridge, None) if self.root_complex && device.is_counted => {
                let mut slot = slot(SlotPosition::RootBus, device);
                slot.why.push_str("; the annotation puts it on the root bus");
                self.elsewhere.push(slot);
            }
            (SlotKind::Port, None) => {
                let position = self.empty_port();
                self.put(position, slot(SlotPosition::Port(position as u64 + 1), device));
            }
            (SlotKind::Bridge, _) => {
                self.take_bridge_slot();
                self.on_bridge.push(slot(SlotPosition::Bridge, device));
            }
        }
    }

    fn place_placeholder(&mut self) {
        if self.budget.is_transitional {
            self.take_bridge_slot();
            return;
        }
        let position = self.empty_port();
        self.put(position, free(position, "reserved by a placeholder of KubeVirt"));
    }

    /// Returns the index of the first empty port, and creates one if there is none.
    fn empty_port(&mut self) -> usize {
        let empty = self.buses.iter().position(|bus| matches!(bus, Bus::Port(None)));
        empty.unwrap_or_else(|| {
            self.buses.push(Bus::Port(None));
            self.buses.len() - 1
        })
    }

    fn put(&mut self, position: usize, slot: Slot) {
        if let Some(bus) = self.buses.get_mut(position) {
            *bus = Bus::Port(Some(slot));
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

    fn into_slots(self) -> Vec<Slot> {
        let why_empty =
            if self.budget.details.case == PortCase::Discarded { EXTRA } else { "created by an explicit address" };
        let ports = self.buses.into_iter().enumerate().filter_map(|(position, bus)| match bus {
            Bus::Port(Some(slot)) => Some(slot),
            Bus::Port(None) => Some(free(position, why_empty)),
            Bus::BridgePort => Some(Slot {
                position: SlotPosition::Port(position as u64 + 1),
                name: "bridge".to_owned(),
                kind: "bridge",
                why: "added by libvirt, for conventional cards".to_owned(),
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

fn with_address(slot: Slot, address: PciAddress) -> Slot {
    let why = format!("{}, pciAddress {address}", slot.why);
    Slot { why, ..slot }
}

fn parse(device: &Device<'_>) -> Option<PciAddress> {
    device.address?.parse().ok()
}

/// Returns the index after the filesystems and the emulated NICs, where libvirt places KubeVirt's dummy NICs.
fn after_nics(devices: &[Device<'_>]) -> usize {
    let address_order = DeviceKind::Interface.address_order();
    devices.iter().position(|device| device.kind.address_order() > address_order).unwrap_or(devices.len())
}
