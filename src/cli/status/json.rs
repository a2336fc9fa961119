//! The status as JSON for programs.

use serde_json::{Value, json};

use crate::{
    cli::guests::Unread,
    hotplug::{
        place::{GuestReport, NicReport},
        progress::Direction,
    },
    rules::PortCount,
};

/// The version of the fields below; a field is only added in a version, never removed or changed.
const SCHEMA_VERSION: u32 = 1;

/// Returns the output.
pub(super) fn value(reports: &[GuestReport], unread: &Unread) -> Value {
    let unread: Vec<&String> = unread.forbidden.iter().chain(&unread.failed).collect();
    json!({
        "kind": "NicStatus",
        "schemaVersion": SCHEMA_VERSION,
        "guests": reports.iter().map(guest).collect::<Vec<_>>(),
        "notRead": unread,
    })
}

fn guest(report: &GuestReport) -> Value {
    let kind = if report.has_vm { "VirtualMachine" } else { "VirtualMachineInstance" };
    json!({
        "kind": kind,
        "namespace": report.namespace,
        "name": report.name,
        "runs": report.is_running(),
        "ports": {
            "now": value_of_ports(&report.ports.now),
            "afterRestart": value_of_ports(&report.ports.after_restart),
        },
        "nics": report.nics.iter().map(nic).collect::<Vec<_>>(),
    })
}

/// Returns a number of free ports, or why there is none.
pub(in crate::cli) fn value_of_ports(ports: &PortCount) -> Value {
    match ports {
        PortCount::Free { free, at_boot, estimate, .. } => {
            json!({"free": free, "freeAtBoot": at_boot, "isEstimate": estimate.is_some()})
        }
        PortCount::Unlimited => json!({"isUnlimited": true}),
        PortCount::NotRunning => Value::Null,
        PortCount::Unknown(why) => json!({"unknown": why}),
    }
}

fn nic(report: &NicReport) -> Value {
    json!({
        "name": report.name,
        "network": report.network,
        "binding": report.binding,
        "model": report.model,
        "macAddress": report.mac,
        "place": report.place.as_str(),
        "leaves": report.direction == Direction::Detach,
        "since": report.since,
        "isOfBoot": report.is_of_boot,
        "needs": report.need.as_str(),
        "why": report.why,
        "fix": report.fix,
        "needsMigration": report.needs_migration,
        "notRead": report.unread,
    })
}
