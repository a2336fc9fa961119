//! The content of the text and of the drawing: groups of slots, and the calculation in words.

use serde_json::{Value, json};

use crate::{
    kubevirt::Version,
    pci::{BusLayout, MachineType, PortBudget, PortCase, Scheme, Slot, SlotPosition},
    rules,
};

/// The PCI bus of a guest, as texts.
#[derive(Debug)]
pub(in crate::cli) struct BusView {
    /// Kind and name of the guest.
    pub(super) title: String,
    /// When the guest has this bus; empty for a manifest.
    pub(super) when: &'static str,
    /// The ports of the running guest.
    pub(super) now: Option<NowView>,
    /// Its machine type and its KubeVirt version.
    pub(super) subtitle: String,
    /// The result in one line.
    pub(super) headline: String,
    /// Whether the guest can boot and a NIC can be hotplugged.
    pub(super) availability: Availability,
    /// What to do if no port is free; empty otherwise.
    pub(super) fix: &'static str,
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
    /// No guest runs, or its ports are not known.
    Unknown,
}

/// The ports of a running guest, as texts.
#[derive(Debug)]
pub(super) struct NowView {
    pub(super) headline: String,
    pub(super) availability: Availability,
    pub(super) lines: Vec<NowLine>,
}

/// A line about a running guest.
#[derive(Debug)]
pub(super) struct NowLine {
    pub(super) text: String,
    pub(super) is_indented: bool,
    /// Whether it says what does not work.
    pub(super) is_bad: bool,
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
    /// The network of a NIC; empty if it is not known.
    pub(super) network: String,
    /// The MAC address of a NIC; empty if KubeVirt chooses it.
    pub(super) mac: String,
    pub(super) is_free: bool,
}

impl BusView {
    /// Describes a bus in words.
    pub(super) fn new(title: &str, layout: &BusLayout, version: Version, notes: Vec<String>) -> Self {
        let budget = &layout.budget;
        let availability = availability(budget);
        Self {
            title: title.to_owned(),
            when: "",
            now: None,
            subtitle: subtitle(budget, version),
            headline: headline(budget),
            availability,
            fix: fix(availability),
            groups: groups(layout),
            calculation: calculation(budget),
            notes,
        }
    }

    /// Returns why the guest cannot boot, if it cannot.
    pub(in crate::cli) fn boot_error(&self) -> Option<&str> {
        (self.availability == Availability::CannotBoot).then_some(self.headline.as_str())
    }

    /// Returns the content for the page of `nicplug audit`, without the title: equal guests have equal values.
    pub(in crate::cli) fn value(&self) -> Value {
        let row = |row: &Row| json!([row.port, row.name, row.kind, row.why, row.is_free]);
        let group =
            |group: &Group| json!({"heading": group.heading, "rows": group.rows.iter().map(row).collect::<Vec<_>>()});
        json!({
            "subtitle": self.subtitle,
            "headline": self.headline,
            "state": match self.availability {
                Availability::Free | Availability::Unknown => "free",
                Availability::Full => "full",
                Availability::CannotBoot => "cannotBoot",
            },
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
            "calculation": self.calculation,
            "notes": self.notes,
        })
    }
}

fn subtitle(budget: &PortBudget, version: Version) -> String {
    let machine = match budget.details.machine {
        MachineType::Q35 => "q35, amd64",
        MachineType::Virt => "virt, arm64",
        MachineType::I440fx => "pc (i440fx), amd64",
        MachineType::Ccw => "s390-ccw-virtio, s390x",
        MachineType::Unsupported => "unknown machine",
        MachineType::Unknown => "unknown architecture",
    };
    let memory = if budget.details.has_large_memory { "more than 2Gi" } else { "2Gi or less" };
    let topology = match budget.details.scheme {
        _ if !budget.details.machine.is_pcie() => String::new(),
        Scheme::None => ", no PCI topology of its own".to_owned(),
        scheme => format!(", PCI topology {}", scheme.as_str()),
    };
    format!("{machine} · {memory} · KubeVirt {version}{topology}")
}

fn availability(budget: &PortBudget) -> Availability {
    match (&budget.boot_error, budget.hotplug_capacity()) {
        (Some(_), _) => Availability::CannotBoot,
        (None, Some(0)) => Availability::Full,
        (None, _) => Availability::Free,
    }
}

/// Returns what to do if no port is free at boot: what NP107 says about it.
fn fix(availability: Availability) -> &'static str {
    let rule = (availability == Availability::Full).then(|| rules::find("NP107")).flatten();
    rule.map_or("", |rule| rule.fix)
}

fn headline(budget: &PortBudget) -> String {
    if let Some(refusal) = &budget.boot_error {
        return format!("This guest cannot boot: {refusal}");
    }
    match (budget.details.case, budget.hotplug_capacity()) {
        (PortCase::Flat, Some(room)) => format!("{room} {} free for hotplug on the flat PCI bus", plural(room, "slot")),
        (_, Some(room)) if budget.is_transitional => {
            format!("{room} bridge {} free for hotplugged NICs", plural(room, "slot"))
        }
        (_, Some(room)) => {
            format!(
                "{room} of {} root {} free for hotplug",
                budget.details.root_ports,
                plural(budget.details.root_ports, "port")
            )
        }
        (_, None) => "no PCI ports: they do not limit the number of NICs".to_owned(),
    }
}

fn groups(layout: &BusLayout) -> Vec<Group> {
    let bridge = match layout.budget.bridge_free_slots {
        Some(free) => format!("on the conventional bridge, {free} slots free"),
        None => "on the conventional bridge".to_owned(),
    };
    let is_flat = layout.budget.details.case == PortCase::Flat;
    let root_bus = if is_flat { "on the flat bus" } else { "on the root bus, no port needed" };
    let rows =
        |belongs: fn(SlotPosition) -> bool| layout.slots.iter().filter(move |slot| belongs(slot.position)).map(row);
    [
        ("root ports".to_owned(), rows(|spot| matches!(spot, SlotPosition::Port(_))).collect()),
        (bridge, rows(|spot| spot == SlotPosition::Bridge).collect()),
        (root_bus.to_owned(), rows(|spot| matches!(spot, SlotPosition::RootBus | SlotPosition::Flat)).collect()),
        ("in no PCI slot".to_owned(), rows(|spot| spot == SlotPosition::None).collect::<Vec<Row>>()),
    ]
    .into_iter()
    .filter(|(_, rows)| !rows.is_empty())
    .map(|(heading, rows)| Group { heading, rows })
    .collect()
}

fn row(slot: &Slot) -> Row {
    let port = match slot.position {
        SlotPosition::Port(port) => Some(port),
        SlotPosition::Bridge | SlotPosition::RootBus | SlotPosition::Flat | SlotPosition::None => None,
    };
    let is_free = slot.is_free();
    let name = if is_free { "free".to_owned() } else { printable(&slot.name) };
    let kind = if is_free || slot.name == slot.kind { "" } else { slot.kind };
    let (network, mac) = (String::new(), String::new());
    Row { port, name, kind, why: slot.why.clone(), network, mac, is_free }
}

/// Replaces control characters, which could change the state of a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn calculation(budget: &PortBudget) -> Vec<String> {
    let sum = &budget.details;
    let mut lines = Vec::new();
    if budget.boot_error.is_some() {
        return lines;
    }
    match sum.case {
        PortCase::NoPorts if sum.machine == MachineType::Ccw => {
            lines.push("Virtio devices are CCW devices here, not PCI.".to_owned());
        }
        PortCase::NoPorts => {}
        PortCase::Flat => lines.push(flat(budget)),
        PortCase::RootComplex => {
            let annotation = crate::pci::ROOT_COMPLEX;
            lines.push(format!(
                "{annotation} puts the devices that KubeVirt counts on the root bus, which has no hotplug."
            ));
        }
        PortCase::Placed | PortCase::Discarded => lines.extend(ports(budget)),
    }
    if budget.is_transitional {
        lines.push("useVirtioTransitional: virtio devices and hotplugged NICs are on the bridge.".to_owned());
    }
    lines
}

fn flat(budget: &PortBudget) -> String {
    let bridges = match budget.details.highest_index {
        0 => "none".to_owned(),
        bridges => format!("{bridges}, counted in"),
    };
    format!(
        "Slots 2 to 31 of one bus. libvirt adds bridges when it is full (now {bridges}), so this limit is not fixed."
    )
}

fn ports(budget: &PortBudget) -> Vec<String> {
    let sum = &budget.details;
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
                PortCase::Discarded => format!(
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
    if sum.case == PortCase::Placed && sum.extra_in_place < extra {
        lines.push(format!("KubeVirt adds no port above index 31: {} of {extra} extra ports fit.", sum.extra_in_place));
    }
    lines
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}
