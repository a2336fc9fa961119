//! The network and the MAC address of each NIC, for the drawing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::view::{BusView, Row};
use crate::hotplug::place::NicReport;

/// The networks and MAC addresses, by the name of the NIC.
#[derive(Debug, Default)]
pub(super) struct NicDetails(BTreeMap<String, (String, String)>);

impl NicDetails {
    /// Reads the NICs of a VM or VMI.
    pub(super) fn of(kind: &str, object: &Value) -> Self {
        let spec = if kind == "VirtualMachineInstance" { "/spec" } else { "/spec/template/spec" };
        let entries = |path: &str| {
            let list = object.pointer(&format!("{spec}{path}")).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(|entry| Some((entry.get("name")?.as_str()?, entry)))
        };
        let mut details = Self::default();
        for (name, network) in entries("/networks") {
            let multus = network.pointer("/multus/networkName").and_then(Value::as_str);
            let what = multus.map_or_else(|| "pod network".to_owned(), str::to_owned);
            details.0.entry(name.to_owned()).or_default().0 = what;
        }
        for (name, interface) in entries("/domain/devices/interfaces") {
            if let Some(mac) = interface.get("macAddress").and_then(Value::as_str) {
                mac.clone_into(&mut details.0.entry(name.to_owned()).or_default().1);
            }
        }
        details
    }

    /// Adds the MAC addresses that KubeVirt reports of a running guest.
    pub(super) fn add_report(&mut self, nics: &[NicReport]) {
        for nic in nics {
            if let (Some(mac), Some((_, known))) = (&nic.mac, self.0.get_mut(&nic.name)) {
                known.clone_from(mac);
            }
        }
    }

    /// Writes the details into the rows of NICs.
    pub(super) fn describe(&self, view: &mut BusView) {
        for Row { name, kind, network, mac, .. } in view.groups.iter_mut().flat_map(|group| &mut group.rows) {
            if let (true, Some(details)) = (matches!(*kind, "interface" | "sriov"), self.0.get(name.as_str())) {
                (*network, *mac) = details.clone();
            }
        }
    }
}
