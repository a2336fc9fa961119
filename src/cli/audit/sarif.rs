//! The audit as SARIF, by the output of `nicplug check`. The place of a finding is the path of its object.

use super::AuditReport;
use crate::{
    cli::check::{Checked, Origin, Problem, Report, sarif_of},
    cluster::manifests::Position,
};

/// Renders the report.
pub(super) fn render(report: &AuditReport) -> anyhow::Result<String> {
    let mut problems = Vec::new();
    for (guest, finding) in report.findings() {
        let origin = match finding.rule {
            Some(rule) => Origin::Rule(rule),
            None => Origin::Audit { id: finding.topic.id(), text: finding.topic.title() },
        };
        let plural = format!("{}s", guest.kind.to_lowercase());
        let file = format!("namespaces/{}/{plural}/{}", guest.namespace, guest.name);
        problems.push(Problem {
            object: format!("{} {}/{}", guest.kind, guest.namespace, guest.name),
            field: finding.field.clone(),
            stable_field: format!("{}{}", finding.topic.id(), finding.nic),
            what: finding.what.clone(),
            fix: finding.fix.clone(),
            ..Problem::of_file(&file, Position::start(), finding.level, origin, "")
        });
    }
    let checked = report.guests.iter().map(|guest| Checked {
        file: String::new(),
        object: format!("{} {}/{}", guest.kind, guest.namespace, guest.name),
    });
    let mut all = Report {
        problems,
        checked: checked.collect(),
        unknown: report.unknown.clone(),
        assumptions: report.notes.clone(),
        ..Report::default()
    };
    all.add_fingerprints();
    sarif_of(&all)
}
