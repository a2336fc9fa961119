//! The audit as JSON for programs.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{AuditReport, AuditedGuest, Finding};
use crate::cli::{
    check::{Level, UnknownFacts},
    status::value_of_ports,
};

/// The version of the fields below; a field is only added in a version, never removed or changed.
const SCHEMA_VERSION: u32 = 1;

/// The output. Of a large cluster only one guest at a time is turned into JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document<'r> {
    kind: &'static str,
    schema_version: u32,
    scope: &'r str,
    time: &'r str,
    kubevirt_version: &'r str,
    summary: Value,
    guests: Each<'r, AuditedGuest>,
    unchecked: &'r UnknownFacts,
    not_read: &'r [String],
}

/// A list whose entries are turned into JSON one by one.
pub(super) struct Each<'r, T> {
    pub(super) list: &'r [T],
    pub(super) value: fn(&T) -> Value,
}

impl<T> Serialize for Each<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.list.iter().map(self.value))
    }
}

/// Returns the output.
pub(super) fn document(report: &AuditReport) -> Document<'_> {
    let topics: Map<String, Value> =
        report.topics().into_iter().map(|(topic, count)| (topic.id().to_owned(), json!(count))).collect();
    Document {
        kind: "NicAudit",
        schema_version: SCHEMA_VERSION,
        scope: &report.scope,
        time: &report.time,
        kubevirt_version: &report.version,
        summary: json!({
            "guests": report.guests.len(),
            "errors": report.count_level(Level::Error),
            "warnings": report.count_level(Level::Warning),
            "notes": report.count_level(Level::Note),
            "topics": topics,
        }),
        guests: Each { list: &report.guests, value: guest },
        unchecked: &report.unknown,
        not_read: &report.notes,
    }
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
