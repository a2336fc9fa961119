//! The PCI model, compared with KubeVirt's own code and a real libvirt (tests/data/README.md has the sources).

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{collections::BTreeMap, fs, path::Path};

use nicplug::{
    api::guest::GuestSpec,
    kubevirt::Version,
    pci::{
        BusLayout, DeviceRegistry, Devices, DomainAttachment, HostDeviceKind, NoRegistry, PciOptions, PortBudget,
        Reservation, SlotCount, SlotPosition, count_devices, reserve,
    },
};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// A line of a file of cases.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case<'a> {
    tag: &'a str,
    #[serde(borrow)]
    vmi: &'a RawValue,
    kubevirt_version: &'a str,
    expect: Value,
    #[serde(default)]
    bindings: BTreeMap<&'a str, &'a str>,
    #[serde(default)]
    libvirt: Value,
}

#[derive(Deserialize)]
struct Vmi<'a> {
    metadata: Metadata,
    #[serde(borrow)]
    spec: GuestSpec<'a>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The names of the devices in the cases say what they are.
impl DeviceRegistry for Case<'_> {
    fn binding(&self, name: &str) -> DomainAttachment {
        match self.bindings.get(name) {
            Some(&("tap" | "managedTap")) => DomainAttachment::Tap,
            Some(_) => DomainAttachment::NoNic,
            None => DomainAttachment::Unknown,
        }
    }

    fn host_device(&self, device_name: &str) -> HostDeviceKind {
        match device_name {
            name if name.contains("vgpu") || name.contains("mdev") => HostDeviceKind::Mediated,
            name if name.contains("usb") => HostDeviceKind::Usb,
            _ => HostDeviceKind::Pci,
        }
    }
}

impl Case<'_> {
    fn draw(&self) -> BusLayout {
        let vmi: Vmi = serde_json::from_str(self.vmi.get()).unwrap();
        let placement = PciOptions::of(|key| vmi.metadata.annotations.get(key).map(String::as_str));
        let version: Version = self.kubevirt_version.parse().unwrap();
        BusLayout::of(&vmi.spec, &placement, self, version).unwrap()
    }

    /// Returns the differences between the model and a case.
    fn differences(&self) -> Vec<String> {
        let BusLayout { budget, slots, .. } = self.draw();
        let count = |count: Option<u64>| count.map_or(Value::Null, Value::from);
        let mut differences = Vec::new();
        let mut compare = |what: &str, expected: &Value, found: Value| {
            if !expected.is_null() && *expected != found {
                differences.push(format!("{}: {what} is {found}, should be {expected}", self.tag));
            }
        };
        let expect = &self.expect;
        compare("supportsPcieHotplug", &expect["supportsPcieHotplug"], budget.supports_pcie_hotplug.into());
        compare("portsInUse", &expect["portsInUse"], budget.ports_in_use.into());
        compare("placeholders", &expect["placeholders"], count(budget.placeholders));
        compare("extraControllers", &expect["extraControllers"], count(budget.extra_controllers));
        compare("freePorts", &expect["freePorts"], count(budget.free_ports));
        let is_refused = !expect["kubevirtError"].is_null() || !expect["libvirtError"].is_null();
        compare("refused", &is_refused.into(), budget.boot_error.is_some().into());
        if is_refused || budget.free_ports.is_none() {
            compare("no freePorts", &true.into(), expect["freePorts"].is_null().into());
        }
        compare("flat free slots", &self.libvirt["flat"]["freeSlots"], count(budget.flat_free_slots));
        compare("bridge free slots", &self.libvirt["pcieToPciBridge"]["freeSlots"], count(budget.bridge_free_slots));
        compare("rootPorts", &self.libvirt["rootPorts"], budget.details.root_ports.into());
        compare("highestPciIndex", &self.libvirt["highestPciIndex"], budget.details.highest_index.into());
        if let Some(free) = budget.free_ports {
            let ports = slots.iter().filter(|seat| matches!(seat.position, SlotPosition::Port(_)));
            compare("ports drawn", &budget.details.root_ports.into(), ports.count().into());
            let drawn = slots.iter().filter(|seat| seat.is_free()).count();
            compare("free ports drawn", &free.into(), drawn.into());
        }
        if self.libvirt["pcieToPciBridge"]["freeSlots"].is_null() && !self.libvirt.is_null() {
            compare("bridges", &false.into(), budget.bridge_free_slots.is_some().into());
        }
        differences
    }
}

fn run(path: &Path) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let cases: Vec<Case> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let differences: Vec<String> = cases.iter().flat_map(Case::differences).collect();
    assert!(differences.is_empty(), "{} of {} cases:\n{}", differences.len(), cases.len(), differences.join("\n"));
    Some(cases.len())
}

#[test]
fn the_model_agrees_with_every_case_of_the_subset() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pci.ndjson");
    assert!(run(&path).is_some_and(|cases| cases >= 40));
}

#[test]
fn the_model_agrees_with_every_shared_case() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/pci.ndjson");
    match run(&path) {
        Some(cases) => println!("{cases} cases"),
        None => println!("skipped: ../shared/cases/pci.ndjson does not exist"),
    }
}

/// A generated guest without explicit PCI addresses.
#[derive(Clone, Debug)]
struct Guest {
    spec: Value,
    slot_count: Option<String>,
    root_complex: bool,
    version: Version,
}

impl Guest {
    fn draw(&self) -> BusLayout {
        let text = self.spec.to_string();
        let spec: GuestSpec = serde_json::from_str(&text).unwrap();
        BusLayout::of(&spec, &self.placement(), &NoRegistry, self.version).unwrap()
    }

    fn count_devices(&self) -> Devices {
        let text = self.spec.to_string();
        let spec: GuestSpec = serde_json::from_str(&text).unwrap();
        count_devices(&spec, &self.placement(), &NoRegistry).unwrap()
    }

    fn placement(&self) -> PciOptions<'_> {
        PciOptions { slot_count: self.slot_count.as_deref(), root_complex: self.root_complex, ..PciOptions::default() }
    }
}

fn nics() -> impl Strategy<Value = Vec<Value>> {
    let model = prop::sample::select(vec!["virtio", "e1000", "e1000e"]);
    let nic = (prop::sample::select(vec!["bridge", "sriov"]), model, prop::bool::weighted(0.1));
    let nic = nic.prop_map(|(binding, model, is_absent)| {
        let state = if is_absent { json!("absent") } else { Value::Null };
        json!({binding: {}, "model": model, "state": state})
    });
    prop::collection::vec(nic, 0..8)
}

/// Disks without bus sata: KubeVirt names those by their order, so the order matters for them.
fn disks() -> impl Strategy<Value = Vec<Value>> {
    let bus = prop::sample::select(vec!["virtio", "virtio", "scsi", "usb"]);
    prop::collection::vec(bus.prop_map(|bus| json!({"disk": {"bus": bus}})), 0..30)
}

prop_compose! {
    fn guests()(
        nics in nics(),
        disks in disks(),
        gpus in 0usize..4,
        machine in prop::sample::select(vec![("amd64", "q35"), ("amd64", "pc"), ("arm64", "virt"), ("s390x", "")]),
        memory in prop::sample::select(vec!["512Mi", "2Gi", "4Gi"]),
        flags in prop::array::uniform5(any::<bool>()),
        transitional in prop::bool::weighted(0.2),
        slot_count in prop::option::weighted(0.3, prop::sample::select(vec!["0", "3", "9", "40", "junk", "-1"])),
        root_complex in prop::bool::weighted(0.2),
        version in prop::sample::select(vec!["0.59.0", "1.3.0", "1.6.0", "1.6.4", "1.8.0", "1.9.0", "1.10.0"]),
    ) -> Guest {
        let [serial, balloon, vsock, hotplug_off, graphics] = flags;
        let gpus: Vec<Value> = (0..gpus).map(|gpu| json!({"deviceName": format!("a/{gpu}")})).collect();
        let spec = json!({"architecture": machine.0, "domain": {
            "machine": {"type": machine.1}, "memory": {"guest": memory},
            "devices": {"interfaces": nics, "disks": disks, "gpus": gpus, "autoattachPodInterface": false,
                "autoattachSerialConsole": serial, "autoattachMemBalloon": balloon, "autoattachVSOCK": vsock,
                "disableHotplug": hotplug_off, "autoattachGraphicsDevice": graphics,
                "useVirtioTransitional": transitional, "sound": {"model": "ac97"}},
        }});
        let slot_count = slot_count.map(str::to_owned);
        Guest { spec, slot_count, root_complex, version: version.parse().unwrap() }
    }
}

fn reversed(guest: &Guest) -> Guest {
    let mut guest = guest.clone();
    for list in ["interfaces", "disks", "gpus"] {
        guest.spec["domain"]["devices"][list].as_array_mut().unwrap().reverse();
    }
    guest
}

proptest! {
    #[test]
    fn the_order_of_devices_does_not_matter(guest in guests()) {
        prop_assert_eq!(guest.draw().budget, reversed(&guest).draw().budget);
    }

    #[test]
    fn the_picture_has_as_many_ports_as_the_budget(guest in guests()) {
        let BusLayout { budget, slots, .. } = guest.draw();
        if let Some(free) = budget.free_ports {
            let ports = slots.iter().filter(|seat| matches!(seat.position, SlotPosition::Port(_))).count() as u64;
            prop_assert_eq!(ports, budget.details.root_ports);
            prop_assert_eq!(slots.iter().filter(|seat| seat.is_free()).count() as u64, free);
        }
    }

    #[test]
    fn only_a_guest_that_boots_with_ports_has_a_count_of_free_ports(guest in guests()) {
        let budget = guest.draw().budget;
        let has_ports = budget.details.machine.is_pcie() && budget.boot_error.is_none();
        prop_assert_eq!(budget.free_ports.is_some(), has_ports);
    }

    #[test]
    fn a_reservation_is_the_smallest_one_with_enough_ports(guest in guests(), wanted in 0u64..40) {
        let Devices { port_usage, nics, .. } = guest.count_devices();
        let room = |value: u64| {
            let slot_count = SlotCount::Number(i64::try_from(value).unwrap());
            PortBudget::of(&port_usage.with_slot_count(slot_count), &nics, guest.version).hotplug_capacity()
        };
        match reserve(&port_usage, &nics, guest.version, wanted) {
            Reservation::Enough { free } => {
                prop_assert_eq!(PortBudget::of(&port_usage, &nics, guest.version).hotplug_capacity(), free);
                prop_assert!(free.is_none_or(|free| free >= wanted));
            }
            Reservation::SlotCount { value, free } => {
                prop_assert_eq!(room(value), Some(free));
                prop_assert!(free >= wanted);
                for smaller in 0..value {
                    prop_assert!(room(smaller).is_none_or(|room| room < wanted));
                }
            }
            Reservation::Impossible { most, .. } => {
                prop_assert!(most < wanted || guest.draw().budget.boot_error.is_some());
            }
        }
    }

    #[test]
    fn attaching_a_nic_to_a_running_guest_never_raises_the_free_count(guest in guests(), attached in 0u64..60) {
        let budget = guest.draw().budget;
        prop_assert!(budget.remaining_capacity(attached + 1) <= budget.remaining_capacity(attached));
        prop_assert!(budget.remaining_capacity(attached) <= budget.hotplug_capacity());
    }
}
