//! The audit as one page for a browser, which loads nothing else.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{AuditReport, AuditedGuest, json::finding};
use crate::{cli::check::Level, rules::PortCount};

/// The page; its script draws the data.
const PAGE: &str = include_str!("audit.html");

/// The place of the data in the page.
const DATA: &str = "{\"placeholder\":true}";

/// Renders the report.
pub(super) fn render(report: &AuditReport) -> String {
    // In JSON the sign only occurs in texts, where the escape means the same: no text can end the script.
    PAGE.replacen(DATA, &data(report).to_string().replace('<', "\\u003c"), 1)
}

/// Returns what the script reads. Guests with equal buses, such as those of one template, share one.
fn data(report: &AuditReport) -> Value {
    let mut buses = Vec::new();
    let mut known = HashMap::new();
    let guests: Vec<Value> = report
        .guests
        .iter()
        .map(|guest| {
            let bus = guest.bus.as_ref().map(|bus| {
                *known.entry(bus.to_string()).or_insert_with(|| {
                    buses.push(bus.clone());
                    buses.len() - 1
                })
            });
            guest_value(guest, bus)
        })
        .collect();
    let topics: Vec<Value> = report
        .topics()
        .into_iter()
        .map(|(topic, count)| json!({"id": topic.id(), "title": topic.title(), "count": count}))
        .collect();
    let notes: Vec<String> = report.unchecked().into_iter().chain(report.notes.iter().cloned()).collect();
    let counts = [Level::Error, Level::Warning, Level::Note].map(|level| report.count_level(level));
    json!({
        "scope": report.scope,
        "time": report.time,
        "kubevirt": report.version,
        "nicplug": env!("CARGO_PKG_VERSION"),
        "counts": counts,
        "topics": topics,
        "notes": notes,
        "buses": buses,
        "guests": guests,
    })
}

fn guest_value(guest: &AuditedGuest, bus: Option<usize>) -> Value {
    json!({
        "kind": guest.kind,
        "namespace": guest.namespace,
        "name": guest.name,
        "runs": guest.runs,
        "now": ports(&guest.ports.now),
        "later": ports(&guest.ports.after_restart),
        "nics": guest.nics,
        "bus": bus,
        "findings": guest.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

/// Returns a number of ports in words.
fn ports(ports: &PortCount) -> String {
    match ports {
        PortCount::Free { free, is_estimate, .. } => format!("{}{free}", if *is_estimate { "~" } else { "" }),
        PortCount::Unlimited => "any".to_owned(),
        PortCount::NotRunning => "-".to_owned(),
        PortCount::Unknown(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_the_cluster_can_end_the_data() {
        let report = AuditReport { scope: "</script><script>alert(1)//{".to_owned(), ..AuditReport::default() };
        let page = render(&report);
        assert!(!page.contains("<script>alert") && page.contains("\\u003c/script>"));
        assert!(!page.contains("placeholder\":true"));
    }

    #[test]
    fn the_page_loads_nothing() {
        for part in ["http://", "https://", "src=", "url(", "@import", "fetch("] {
            assert!(!PAGE.contains(part), "{part}");
        }
        assert!(PAGE.contains("default-src 'none'"));
    }
}
