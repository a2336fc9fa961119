//! The Code Quality report of GitLab.

use serde_json::{Value, json};

use super::{
    super::problem::{Level, Problem, Report},
    full_message,
};

pub(super) fn render(report: &Report) -> Value {
    let finding = |problem: &Problem| {
        json!({
            "description": full_message(problem),
            "check_name": problem.origin.id(),
            "fingerprint": problem.fingerprint,
            "severity": match problem.level {
                Level::Error => "critical",
                Level::Warning => "minor",
                Level::Note => "info",
            },
            "location": {"path": report.locations.path(&problem.file), "lines": {"begin": problem.at.line.max(1)}},
        })
    };
    report.problems.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::testing::report, *};

    #[test]
    fn each_finding_has_a_path_a_line_and_its_own_fingerprint() {
        let findings = render(&report());
        assert_eq!(findings[0]["location"], json!({"path": "deploy/vm.yaml", "lines": {"begin": 9}}));
        assert_eq!(findings[0]["severity"], "critical");
        assert_ne!(findings[0]["fingerprint"], findings[1]["fingerprint"]);
    }
}
