//! The PCI bus as JSON for programs.

use serde::Serialize;
use serde_json::Map;

use super::Printout;
use crate::{
    kubevirt::Version,
    pci::{BusLayout, Slot, SlotPosition},
};

/// The version of the format: a field that is removed or changes its meaning makes a new one.
const SCHEMA_VERSION: u32 = 1;

/// The bus at boot. A count is `null` without PCIe ports, and for a guest that cannot boot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Output<'p> {
    supports_pcie_hotplug: bool,
    ports_in_use: u64,
    placeholders: Option<u64>,
    extra_controllers: Option<u64>,
    free_ports: Option<u64>,
    bridge_free_slots: Option<u64>,
    flat_free_slots: Option<u64>,
    refused: Option<String>,
    kubevirt_version: String,
    devices: Vec<Device<'p>>,
    notes: &'p [String],
}

/// A slot and its device: ports in order, then slots of the bridge, then the rest.
#[derive(Debug, Serialize)]
struct Device<'p> {
    /// The PCI index of the root port.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u64>,
    on: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'p str,
    kind: &'p str,
    /// Whether KubeVirt counts it in `portsInUse`.
    counted: bool,
    why: &'p str,
}

/// Renders the guest, indented, with a line feed at the end.
pub(super) fn render(printout: &Printout) -> anyhow::Result<String> {
    let Printout { kind, namespace, name, layout, version, notes, now, .. } = printout;
    let mut all = Map::new();
    all.insert("kind".to_owned(), "PciSlots".into());
    all.insert("schemaVersion".to_owned(), SCHEMA_VERSION.into());
    all.insert("guest".to_owned(), (*kind).into());
    all.insert("namespace".to_owned(), namespace.as_str().into());
    all.insert("name".to_owned(), name.as_str().into());
    if let Some(now) = now {
        now.add_to(&mut all);
    }
    all.insert("afterRestart".to_owned(), serde_json::to_value(output(layout, *version, notes))?);
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn output<'p>(layout: &'p BusLayout, version: Version, notes: &'p [String]) -> Output<'p> {
    let budget = &layout.budget;
    Output {
        supports_pcie_hotplug: budget.supports_pcie_hotplug,
        ports_in_use: budget.ports_in_use,
        placeholders: budget.placeholders,
        extra_controllers: budget.extra_controllers,
        free_ports: budget.free_ports,
        bridge_free_slots: budget.bridge_free_slots,
        flat_free_slots: budget.flat_free_slots,
        refused: budget.boot_error.as_ref().map(ToString::to_string),
        kubevirt_version: version.to_string(),
        devices: devices(layout),
        notes,
    }
}

fn devices(layout: &BusLayout) -> Vec<Device<'_>> {
    layout.slots.iter().map(device).collect()
}

fn device(slot: &Slot) -> Device<'_> {
    let (port, on) = match slot.position {
        SlotPosition::Port(port) => (Some(port), "root port"),
        SlotPosition::Bridge => (None, "bridge"),
        SlotPosition::RootBus => (None, "root bus"),
        SlotPosition::Flat => (None, "flat bus"),
        SlotPosition::None => (None, "none"),
    };
    Device { port, on, name: &slot.name, kind: slot.kind, counted: slot.is_counted, why: &slot.why }
}
