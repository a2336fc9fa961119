//! The outputs of a check.

mod github;
mod gitlab;
mod json;
mod junit;
mod sarif;
mod text;

use serde_json::Value;

pub(super) use self::text::Style;
use super::{
    Format,
    problem::{Problem, Report},
};

/// Returns the text of an output.
pub(super) fn render(report: &Report, format: Format, style: Style) -> anyhow::Result<String> {
    Ok(match format {
        Format::Text => text::render(report, style),
        Format::Json => pretty(&json::render(report))?,
        Format::Sarif => pretty(&sarif::render(report))?,
        Format::Junit => junit::render(report),
        Format::Github => github::render(report),
        Format::Gitlab => pretty(&gitlab::render(report))?,
    })
}

/// Returns a report as SARIF.
pub(in crate::cli) fn sarif_of(report: &Report) -> anyhow::Result<String> {
    pretty(&sarif::render(report))
}

fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Returns the message with the object and the rule, for outputs that show nothing else.
fn full_message(problem: &Problem) -> String {
    let object = if problem.object.is_empty() { String::new() } else { format!("{}: ", problem.object) };
    format!("{object}{} [{}]", problem.message(), problem.origin.id())
}

#[cfg(test)]
mod testing {
    use serde_json::json;

    use super::super::problem::{Checked, Level, Origin, stable_field};
    use super::*;
    use crate::{cluster::manifests::Position, rules::find};

    /// A report with a problem of each level.
    pub(super) fn report() -> Report {
        let mut report = Report { files: 2, documents: 3, ..Report::default() };
        let problem = |line, level, id: &str, field: &str, what: &str, fix: &str, source: &str, length| Problem {
            object: "VirtualMachine shop/web".to_owned(),
            field: field.to_owned(),
            stable_field: stable_field(&json!({}), field),
            fix: fix.to_owned(),
            source: source.to_owned(),
            ..Problem::of_file(
                "./deploy/vm.yaml",
                Position { line, column: 18, length },
                level,
                Origin::Rule(find(id).unwrap()),
                what,
            )
        };
        let model = "model \"e1000e\" cannot be plugged into the running guest <web>";
        let fix = "set model to virtio, or stop the VM first, change the model, and start it again afterwards";
        report.problems = vec![
            problem(9, Level::Error, "NP103", "spec.a[0].model", model, fix, "          model: e1000e", 6),
            problem(20, Level::Warning, "NP110", "", "the guest has 0 free ports, 100%", "", "kind: VirtualMachine", 1),
            problem(21, Level::Note, "NP105", "spec.b", "not counted", "", "", 1),
        ];
        report.checked = ["VirtualMachine shop/web", "VirtualMachine shop/db"]
            .map(|object| Checked { file: "./deploy/vm.yaml".to_owned(), object: object.to_owned() })
            .to_vec();
        report.unknown.insert("KubeVirt", ["NP101", "NP106"].into());
        report.add_fingerprints();
        report
    }
}
