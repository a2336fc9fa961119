//! The audit as one page for a browser, which loads nothing else.

use std::io::Write;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    AuditReport, AuditedGuest,
    json::{Each, finding},
};
use crate::cli::check::Level;

/// The page; its script draws the data.
const PAGE: &str = include_str!("audit.html");

/// The place of the data in the page.
const DATA: &str = "{\"placeholder\":true}";

/// What the script reads.
#[derive(Serialize)]
struct Data<'r> {
    scope: &'r str,
    time: &'r str,
    kubevirt: &'r str,
    nicplug: &'static str,
    counts: [usize; 3],
    topics: Vec<Value>,
    notes: Vec<String>,
    buses: &'r [Value],
    guests: Each<'r, AuditedGuest>,
}

/// Writes the report.
pub(super) fn write(report: &AuditReport, output: &mut impl Write) -> anyhow::Result<()> {
    let (before, after) = PAGE.split_once(DATA).unwrap_or((PAGE, ""));
    output.write_all(before.as_bytes())?;
    // In JSON the sign only occurs in texts, where the escape means the same: no text can end the script.
    output.write_all(serde_json::to_string(&data(report))?.replace('<', "\\u003c").as_bytes())?;
    Ok(output.write_all(after.as_bytes())?)
}

fn data(report: &AuditReport) -> Data<'_> {
    let topics = report.topics().into_iter();
    Data {
        scope: &report.scope,
        time: &report.time,
        kubevirt: &report.version,
        nicplug: env!("CARGO_PKG_VERSION"),
        counts: [Level::Error, Level::Warning, Level::Note].map(|level| report.count_level(level)),
        topics: topics
            .map(|(topic, count)| json!({"id": topic.id(), "title": topic.title(), "count": count}))
            .collect(),
        notes: report.remarks(),
        buses: &report.buses.list,
        guests: Each { list: &report.guests, value: guest_value },
    }
}

fn guest_value(guest: &AuditedGuest) -> Value {
    json!({
        "kind": guest.kind,
        "namespace": guest.namespace,
        "name": guest.name,
        "runs": guest.runs,
        "now": guest.ports.now.short(),
        "later": guest.ports.after_restart.short(),
        "nics": guest.nics,
        "bus": guest.bus,
        "findings": guest.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_the_cluster_can_end_the_data() {
        let report = AuditReport { scope: "</script><script>alert(1)//{".to_owned(), ..AuditReport::default() };
        let mut page = Vec::new();
        write(&report, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
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
