//! SARIF 2.1.0 (docs.oasis-open.org/sarif), within the limits of GitHub's code scanning.

use std::path::Path;

use serde_json::{Value, json};

use super::super::{
    location::{Locations, uri, uri_of_folder},
    problem::{Origin, Problem, Report, unchecked},
    rules_of,
};

/// The most results of a run that GitHub reads.
const MAX_RESULTS: usize = 25_000;

pub(super) fn render(report: &Report) -> Value {
    // The worst ones are kept if there are too many.
    let mut problems: Vec<&Problem> = report.problems.iter().collect();
    problems.sort_by_key(|problem| problem.level);
    let left_out = problems.len().saturating_sub(MAX_RESULTS);
    problems.truncate(MAX_RESULTS);
    let roots = Roots::of(report, &problems);
    let origins = rules_of(report);
    let ids: Vec<&str> = origins.keys().copied().collect();
    let mut notes: Vec<String> =
        unchecked(&report.unknown).into_iter().map(|what| format!("not checked {what}")).collect();
    notes.extend(report.assumptions.iter().cloned());
    if left_out > 0 {
        notes.push(format!("{left_out} further findings are left out: a run has at most {MAX_RESULTS}"));
    }
    let is_complete = !report.problems.iter().any(|problem| problem.is_unreadable);
    let note = |text: &String| json!({"level": "note", "message": {"text": text}});
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "nicplug",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": origins.values().map(|origin| rule(*origin)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "originalUriBaseIds": roots.uris(),
            "invocations": [{
                "executionSuccessful": is_complete,
                "toolExecutionNotifications": notes.iter().map(note).collect::<Vec<_>>(),
            }],
            "results": problems.into_iter().map(|problem| result(problem, &ids, &roots)).collect::<Vec<_>>(),
        }],
    })
}

fn rule(origin: Origin) -> Value {
    let rule = match origin {
        Origin::Rule(rule) => rule,
        Origin::Ignore => return topic(origin, "A comment, a file or a baseline that ignores findings has no effect."),
        Origin::Namespace => return topic(origin, "The annotation of the namespace that changes rules has no effect."),
        Origin::Manifest => return topic(origin, "The file or the object cannot be read."),
        Origin::Audit { text, .. } => return topic(origin, text),
    };
    let help = format!("{}\n\nField: {}\nFix: {}\n", rule.doc(), rule.field, rule.fix);
    json!({
        "id": rule.id,
        "name": pascal_case(rule.name),
        "shortDescription": {"text": rule.summary()},
        "fullDescription": {"text": rule.summary()},
        "help": {"text": help, "markdown": help},
        "defaultConfiguration": {"level": if rule.enforcement.as_str() == "deny" { "error" } else { "warning" }},
        "properties": {"tags": ["kubevirt", "network", rule.scope.as_str()]},
    })
}

fn topic(origin: Origin, text: &str) -> Value {
    json!({"id": origin.id(), "shortDescription": {"text": text}, "help": {"text": text}})
}

/// SARIF's names of rules have no hyphens.
fn pascal_case(name: &str) -> String {
    name.split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
        })
        .collect()
}

/// The roots of the repositories that have the files, usually one.
struct Roots<'r> {
    locations: &'r Locations,
    roots: Vec<&'r Path>,
}

impl<'r> Roots<'r> {
    fn of(report: &'r Report, problems: &[&Problem]) -> Self {
        let mut roots: Vec<&Path> = Vec::new();
        for root in problems.iter().filter_map(|problem| report.locations.root(&problem.file)) {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        Self { locations: &report.locations, roots }
    }

    fn uris(&self) -> Value {
        let uri = |(number, root): (usize, &&Path)| Some((base_id(number), json!({"uri": uri_of_folder(root)?})));
        Value::Object(self.roots.iter().enumerate().filter_map(uri).collect())
    }

    /// Returns the place of a file, relative to its root.
    fn place(&self, file: &str) -> Value {
        let path = self.locations.path(file);
        let root = self.locations.root(file);
        match root.and_then(|root| self.roots.iter().position(|known| *known == root)) {
            Some(number) => json!({"uri": uri(path), "uriBaseId": base_id(number)}),
            None if path.starts_with('/') => json!({"uri": format!("file://{}", uri(path))}),
            None => json!({"uri": uri(path)}),
        }
    }
}

/// Returns the name of a root. GitHub and editors replace that of the first one by the checked-out folder.
fn base_id(number: usize) -> String {
    if number == 0 { "%SRCROOT%".to_owned() } else { format!("%SRCROOT{}%", number + 1) }
}

fn result(problem: &Problem, ids: &[&str], roots: &Roots) -> Value {
    let Problem { at, object, field, fingerprint, .. } = problem;
    let id = problem.origin.id();
    let name = if field.is_empty() { object.clone() } else { format!("{object} {field}") };
    let logical = if object.is_empty() { json!([]) } else { json!([{"fullyQualifiedName": name, "kind": "resource"}]) };
    let place = json!({
        "logicalLocations": logical,
        "physicalLocation": {
            "artifactLocation": roots.place(&problem.file),
            "region": {
                "startLine": at.line.max(1),
                "startColumn": at.column.max(1),
                "endColumn": at.column.max(1) + at.length.max(1),
            },
        },
    });
    json!({
        "ruleId": id,
        "ruleIndex": ids.iter().position(|known| *known == id),
        "level": problem.level.as_str(),
        "message": {"text": message(problem)},
        "locations": [place],
        "partialFingerprints": {"nicplug/v1": fingerprint},
    })
}

/// A message is never empty: GitHub refuses the whole file otherwise.
fn message(problem: &Problem) -> String {
    let message = problem.message();
    if message.trim().is_empty() { problem.origin.id().to_owned() } else { message }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::report, *};
    use crate::cluster::manifests::Position;

    #[test]
    fn a_run_has_rules_with_help_and_results_with_places() {
        let sarif = render(&report());
        let run = &sarif["runs"][0];
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        assert!(rules.iter().all(|rule| !rule["help"]["text"].as_str().unwrap().is_empty()));
        let result = &run["results"][0];
        assert_eq!(rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()]["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "deploy/vm.yaml");
        assert_eq!(place["region"], json!({"startLine": 9, "startColumn": 18, "endColumn": 24}));
        assert_eq!(result["partialFingerprints"]["nicplug/v1"].as_str().unwrap().len(), 32);
    }

    #[test]
    fn more_results_than_github_reads_are_left_out_and_counted() {
        let mut report = report();
        let problem = report.problems[0].clone();
        report.problems.extend(vec![problem; 25_000 - 2]);
        let sarif = render(&report);
        let run = &sarif["runs"][0];
        assert_eq!(run["results"].as_array().unwrap().len(), 25_000);
        assert!(
            run["results"].as_array().unwrap().iter().all(|result| result["level"] != "note"),
            "the worst are kept"
        );
        let notes = run["invocations"][0]["toolExecutionNotifications"].to_string();
        assert!(notes.contains("1 further findings"), "{notes}");
    }

    #[test]
    fn a_problem_without_place_or_text_is_still_valid() {
        let mut report = report();
        let problem = &mut report.problems[0];
        (problem.at, problem.what, problem.fix) = (Position::default(), String::new(), String::new());
        problem.file = "a b%/ü.yaml".to_owned();
        let sarif = render(&report);
        let result = &sarif["runs"][0]["results"][0];
        assert_eq!(result["message"]["text"], "NP103");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["region"], json!({"startLine": 1, "startColumn": 1, "endColumn": 2}));
        assert_eq!(place["artifactLocation"]["uri"], "a%20b%25/%C3%BC.yaml");
    }
}
