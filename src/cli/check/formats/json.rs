//! JSON for programs.

use serde_json::{Value, json};

use super::super::problem::{Level, Problem, Report};

/// The version of the format: a field that is removed or changes its meaning makes a new one.
const SCHEMA_VERSION: u8 = 1;

pub(super) fn render(report: &Report) -> Value {
    let finding = |problem: &Problem| {
        json!({
            "file": problem.file,
            "line": problem.at.line,
            "column": problem.at.column,
            "level": problem.level.as_str(),
            "rule": problem.origin.id(),
            "object": problem.object,
            "field": problem.field,
            "what": problem.what,
            "fix": problem.fix,
            "fingerprint": problem.fingerprint,
        })
    };
    json!({
        "schemaVersion": SCHEMA_VERSION,
        "findings": report.problems.iter().map(finding).collect::<Vec<_>>(),
        "unchecked": report.unknown,
        "assumptions": report.assumptions,
        "summary": {
            "files": report.files,
            "documents": report.documents,
            "objects": report.checked.len(),
            "errors": report.count(Level::Error),
            "warnings": report.count(Level::Warning),
            "notes": report.count(Level::Note),
            "ignored": report.ignored,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{super::testing::report, *};

    #[test]
    fn a_program_can_read_findings_and_summary() {
        let json = render(&report());
        assert_eq!(json["schemaVersion"], 1);
        assert_eq!(json["findings"][0]["rule"], "NP103");
        assert_eq!(json["findings"][0]["line"], 9);
        assert_eq!(json["summary"]["errors"], 1);
        assert_eq!(json["unchecked"]["KubeVirt"][0], "NP101");
    }
}
