//! The content of the text and of the drawing: groups of slots, and the calculation in words.

use crate::{
    kubevirt::Version,
    pci::{Case, Machine, Picture, PortBudget, Scheme, Seat, Spot},
};

/// The PCI bus of a guest, as texts.
#[derive(Debug)]
pub(super) struct BusView {
    /// Kind and name of the guest.
    pub(super) title: String,
    /// Its machine type and its KubeVirt version.
    pub(super) subtitle: String,
    /// The result in one line.
    pub(super) headline: String,
    /// Whether the guest can boot and a NIC can be hotplugged.
    pub(super) availability: Availability,
    /// The slots, by their bus.
    pub(super) groups: Vec<Group>,
    /// The calculation of the result, one sentence per entry.
    pub(super) calculation: Vec<String>,
    /// Assumptions of the calculation.
    pub(super) notes: Vec<String>,
}

/// Whether a NIC can be hotplugged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Availability {
    /// A port is free, or ports do not limit the number of NICs.
    Free,
    /// All ports are in use.
    Full,
    /// The guest cannot boot.
    CannotBoot,
}

/// The slots of one bus.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) heading: String,
    pub(super) rows: Vec<Row>,
}

/// One slot.
#[derive(Debug)]
pub(super) struct Row {
    /// The root port's number.
    pub(super) port: Option<u64>,
    pub(super) name: String,
    /// The kind of the device; empty if the name is the same.
    pub(super) kind: &'static str,
    pub(super) why: String,
    pub(super) is_free: bool,
}

impl BusView {
    /// Describes a bus in words.
    pub(super) fn new(title: &str, picture: &Picture, version: Version, notes: Vec<String>) -> Self {
        let budget = &picture.budget;
        Self {
            title: title.to_owned(),
            subtitle: subtitle(budget, version),
            headline: headline(budget),
            availability: availability(budget),
            groups: groups(picture),
            calculation: calculation(budget),
            notes,
        }
    }
}

fn subtitle(budget: &PortBudget, version: Version) -> String {
    let machine = match budget.sum.machine {
        Machine::Q35 => "q35, amd64",
        Machine::Virt => "virt, arm64",
        Machine::I440fx => "pc (i440fx), amd64",
        Machine::Ccw => "s390-ccw-virtio, s390x",
        Machine::Refused => "unknown machine",
        Machine::Unknown => "unknown architecture",
    };
    let memory = if budget.sum.has_large_memory { "more than 2Gi" } else { "2Gi or less" };
    let topology = match budget.sum.scheme {
        _ if !budget.sum.machine.is_pcie() => String::new(),
        Scheme::None => ", no PCI topology of its own".to_owned(),
        scheme => format!(", PCI topology {}", scheme.as_str()),
    };
    format!("{machine} · {memory} · KubeVirt {version}{topology}")
}

fn availability(budget: &PortBudget) -> Availability {
    match (&budget.refused, budget.room()) {
        (Some(_), _) => Availability::CannotBoot,
        (None, Some(0)) => Availability::Full,
        (None, _) => Availability::Free,
    }
}

fn headline(budget: &PortBudget) -> String {
    if let Some(refusal) = &budget.refused {
        return format!("This guest cannot boot: {refusal}");
    }
    match (budget.sum.case, budget.room()) {
        (Case::Flat, Some(room)) => format!("{room} {} free for hotplug on the flat PCI bus", plural(room, "slot")),
        (_, Some(room)) if budget.is_transitional => {
            format!("{room} bridge {} free for hotplugged NICs", plural(room, "slot"))
        }
        (_, Some(room)) => {
            format!(
                "{room} of {} root {} free for hotplug",
                budget.sum.root_ports,
                plural(budget.sum.root_ports, "port")
            )
        }
        (_, None) => "no PCI ports: they do not limit the number of NICs".to_owned(),
    }
}

fn groups(picture: &Picture) -> Vec<Group> {
    let bridge = match picture.budget.bridge_free_slots {
        Some(free) => format!("on the conventional bridge, {free} slots free"),
        None => "on the conventional bridge".to_owned(),
    };
    let is_flat = picture.budget.sum.case == Case::Flat;
    let root_bus = if is_flat { "on the flat bus" } else { "on the root bus, no port needed" };
    let rows = |belongs: fn(Spot) -> bool| picture.seats.iter().filter(move |seat| belongs(seat.spot)).map(row);
    [
        ("root ports".to_owned(), rows(|spot| matches!(spot, Spot::Port(_))).collect()),
        (bridge, rows(|spot| spot == Spot::Bridge).collect()),
        (root_bus.to_owned(), rows(|spot| matches!(spot, Spot::RootBus | Spot::Flat)).collect()),
        ("in no PCI slot".to_owned(), rows(|spot| spot == Spot::Nowhere).collect::<Vec<Row>>()),
    ]
    .into_iter()
    .filter(|(_, rows)| !rows.is_empty())
    .map(|(heading, rows)| Group { heading, rows })
    .collect()
}

fn row(seat: &Seat) -> Row {
    let port = match seat.spot {
        Spot::Port(port) => Some(port),
        Spot::Bridge | Spot::RootBus | Spot::Flat | Spot::Nowhere => None,
    };
    let is_free = seat.is_free();
    let name = if is_free { "free".to_owned() } else { printable(&seat.name) };
    let kind = if is_free || seat.name == seat.kind { "" } else { seat.kind };
    Row { port, name, kind, why: seat.why.clone(), is_free }
}

/// Replaces control characters, which could change the state of a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn calculation(budget: &PortBudget) -> Vec<String> {
    let sum = &budget.sum;
    let mut lines = Vec::new();
    if budget.refused.is_some() {
        return lines;
    }
    match sum.case {
        Case::NoPorts if sum.machine == Machine::Ccw => {
            lines.push("Virtio devices are CCW devices here, not PCI.".to_owned());
        }
        Case::NoPorts => {}
        Case::Flat => lines.push(flat(budget)),
        Case::RootComplex => {
            let annotation = crate::pci::ROOT_COMPLEX;
            lines.push(format!(
                "{annotation} puts the devices that KubeVirt counts on the root bus, which has no hotplug."
            ));
        }
        Case::Placed | Case::Discarded => lines.extend(ports(budget)),
    }
    if budget.is_transitional {
        lines.push("useVirtioTransitional: virtio devices and hotplugged NICs are on the bridge.".to_owned());
    }
    lines
}

fn flat(budget: &PortBudget) -> String {
    let bridges = match budget.sum.highest_index {
        0 => "none".to_owned(),
        bridges => format!("{bridges}, counted in"),
    };
    format!(
        "Slots 2 to 31 of one bus. libvirt adds bridges when it is full (now {bridges}), so this limit is not fixed."
    )
}

fn ports(budget: &PortBudget) -> Vec<String> {
    let sum = &budget.sum;
    let (Some(placeholders), Some(extra)) = (budget.placeholders, budget.extra_controllers) else {
        return Vec::new();
    };
    let in_use = budget.ports_in_use;
    let mut lines = Vec::new();
    match sum.scheme {
        Scheme::None => lines.push("KubeVirt reserves no port, so only libvirt's spare port is free.".to_owned()),
        Scheme::V1 => lines.push(format!(
            "KubeVirt places {placeholders} {} for {} {}; libvirt adds 1 spare port.",
            plural(placeholders, "placeholder"),
            sum.interfaces,
            plural(sum.interfaces, "NIC")
        )),
        Scheme::V2 | Scheme::V3 | Scheme::V3ReadBack => {
            let (total, minimum, desired) = (sum.total, sum.minimum, sum.desired);
            lines.push(format!(
                "KubeVirt counts {in_use} in use; of {total} ports it wants max({total}-{in_use}, {minimum}) \
                 = {desired} free."
            ));
            lines.push(match sum.case {
                Case::Discarded => format!(
                    "With {} {} KubeVirt places no placeholder, so its {extra} extra {} come before the devices, \
                     and {} {} use them; no spare port is left.",
                    sum.interfaces,
                    plural(sum.interfaces, "NIC"),
                    plural(extra, "port"),
                    sum.devices,
                    plural(sum.devices, "device"),
                ),
                _ => match sum.slot_count {
                    Some(slot_count) => format!(
                        "Annotation pci-interface-slot-count {slot_count} makes {placeholders} {} for {} {}; \
                         in addition there are {extra} extra {} and libvirt's spare port.",
                        plural(placeholders, "placeholder"),
                        sum.interfaces,
                        plural(sum.interfaces, "NIC"),
                        plural(extra, "port"),
                    ),
                    None => format!(
                        "It adds them as {placeholders} {} and {extra} extra {}; libvirt adds 1 spare port.",
                        plural(placeholders, "placeholder"),
                        plural(extra, "port"),
                    ),
                },
            });
        }
    }
    if sum.case == Case::Placed && sum.extra_in_place < extra {
        lines.push(format!("KubeVirt adds no port above index 31: {} of {extra} extra ports fit.", sum.extra_in_place));
    }
    lines
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}
