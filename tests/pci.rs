//! The PCI model against what KubeVirt's own code and a real libvirt said (tests/data/README.md tells the origin).

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::{collections::BTreeMap, fs, path::Path};

use nicplug::{
    api::guest::GuestSpec,
    kubevirt::Version,
    pci::{Attachment, DeviceKinds, HostKind, Picture, Placement, Spot, picture},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// A line of a corpus.
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

/// The corpus names its devices by what they are.
impl DeviceKinds for Case<'_> {
    fn binding(&self, name: &str) -> Attachment {
        match self.bindings.get(name) {
            Some(&("tap" | "managedTap")) => Attachment::Tap,
            Some(_) => Attachment::Unseen,
            None => Attachment::Unknown,
        }
    }

    fn host_device(&self, device_name: &str) -> HostKind {
        match device_name {
            name if name.contains("vgpu") || name.contains("mdev") => HostKind::Mediated,
            name if name.contains("usb") => HostKind::Usb,
            _ => HostKind::Pci,
        }
    }
}

impl Case<'_> {
    fn draw(&self) -> Picture {
        let vmi: Vmi = serde_json::from_str(self.vmi.get()).unwrap();
        let placement = Placement::of(|key| vmi.metadata.annotations.get(key).map(String::as_str));
        let version: Version = self.kubevirt_version.parse().unwrap();
        picture(&vmi.spec, &placement, self, version).unwrap()
    }

    /// What differs between the model and the corpus.
    fn differences(&self) -> Vec<String> {
        let Picture { reckoning, seats, .. } = self.draw();
        let count = |count: Option<u64>| count.map_or(Value::Null, Value::from);
        let mut differences = Vec::new();
        let mut compare = |what: &str, expected: &Value, found: Value| {
            if !expected.is_null() && *expected != found {
                differences.push(format!("{}: {what} is {found}, should be {expected}", self.tag));
            }
        };
        let expect = &self.expect;
        compare("supportsPcieHotplug", &expect["supportsPcieHotplug"], reckoning.supports_pcie_hotplug.into());
        compare("portsInUse", &expect["portsInUse"], reckoning.ports_in_use.into());
        compare("placeholders", &expect["placeholders"], count(reckoning.placeholders));
        compare("extraControllers", &expect["extraControllers"], count(reckoning.extra_controllers));
        compare("freePorts", &expect["freePorts"], count(reckoning.free_ports));
        let is_refused = !expect["kubevirtError"].is_null() || !expect["libvirtError"].is_null();
        compare("refused", &is_refused.into(), reckoning.refused.is_some().into());
        if is_refused || reckoning.free_ports.is_none() {
            compare("no freePorts", &true.into(), expect["freePorts"].is_null().into());
        }
        compare("flat free slots", &self.libvirt["flat"]["freeSlots"], count(reckoning.flat_free_slots));
        compare("bridge free slots", &self.libvirt["pcieToPciBridge"]["freeSlots"], count(reckoning.bridge_free_slots));
        compare("rootPorts", &self.libvirt["rootPorts"], reckoning.sum.root_ports.into());
        compare("highestPciIndex", &self.libvirt["highestPciIndex"], reckoning.sum.highest_index.into());
        if let Some(free) = reckoning.free_ports {
            let ports = seats.iter().filter(|seat| matches!(seat.spot, Spot::Port(_)));
            compare("ports drawn", &reckoning.sum.root_ports.into(), ports.count().into());
            let drawn = seats.iter().filter(|seat| seat.is_free()).count();
            compare("free ports drawn", &free.into(), drawn.into());
        }
        if self.libvirt["pcieToPciBridge"]["freeSlots"].is_null() && !self.libvirt.is_null() {
            compare("bridges", &false.into(), reckoning.bridge_free_slots.is_some().into());
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
fn the_model_agrees_with_every_case_of_the_whole_corpus() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/cases/pci.ndjson");
    match run(&path) {
        Some(cases) => println!("{cases} cases"),
        None => println!("skipped: the whole corpus is not here"),
    }
}
