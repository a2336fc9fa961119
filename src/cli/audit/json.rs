//! The audit as JSON for programs.

use serde_json::{Map, Value, json};

use super::{AuditReport, AuditedGuest, Finding};
use crate::cli::{check::Level, status::value_of_ports};

/// The version of the fields below; a field is only added in a version, never removed or changed.
const SCHEMA_VERSION: u32 = 1;

/// Returns the output.
pub(super) fn value(report: &AuditReport) -> Value {
    let topics: Map<String, Value> =
        report.topics().into_iter().map(|(topic, count)| (topic.id().to_owned(), json!(count))).collect();
    json!({
        "kind": "NicAudit",
        "schemaVersion": SCHEMA_VERSION,
        "scope": report.scope,
        "time": report.time,
        "kubevirtVersion": report.version,
        "summary": {
            "guests": report.guests.len(),
            "errors": report.count_level(Level::Error),
            "warnings": report.count_level(Level::Warning),
            "notes": report.count_level(Level::Note),
            "topics": topics,
        },
        "guests": report.guests.iter().map(guest).collect::<Vec<_>>(),
        "unchecked": report.unknown,
        "notRead": report.notes,
    })
}

fn guest(guest: &AuditedGuest) -> Value {
    let nic = |[name, network, place]: &[String; 3]| json!({"name": name, "network": network, "place": place});
    json!({
        "kind": guest.kind,
        "namespace": guest.namespace,
        "name": guest.name,
        "runs": guest.runs,
        "ports": {
            "now": value_of_ports(&guest.ports.now),
            "afterRestart": value_of_ports(&guest.ports.after_restart),
        },
        "nics": guest.nics.iter().map(nic).collect::<Vec<_>>(),
        "findings": guest.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// Returns a finding, for the page too.
pub(super) fn finding(finding: &Finding) -> Value {
    json!({
        "topic": finding.topic.id(),
        "level": finding.level.as_str(),
        "rule": finding.rule.map(|rule| rule.id),
        "nic": Some(&finding.nic).filter(|nic| !nic.is_empty()),
        "field": finding.field,
        "what": finding.what,
        "fix": finding.fix,
        "isNew": finding.is_new,
    })
}
