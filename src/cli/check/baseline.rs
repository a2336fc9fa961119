//! A baseline: the problems that were there when the check was introduced. Only others are reported.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::problem::{Level, Origin, Problem, Report};
use crate::cluster::manifests::Position;

/// The version of the format.
const VERSION: u8 = 1;

#[derive(Debug, Deserialize, Serialize)]
struct File {
    version: u8,
    findings: Vec<Entry>,
}

/// A known problem. All but the fingerprint is for the reader of the file.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    fingerprint: String,
    rule: String,
    file: String,
    object: String,
    field: String,
}

/// Returns the text of a baseline with the problems of a report.
pub(super) fn write(report: &Report) -> anyhow::Result<String> {
    let is_kept = |problem: &&Problem| problem.level != Level::Note && !problem.is_unreadable;
    let entry = |problem: &Problem| Entry {
        fingerprint: problem.fingerprint.clone(),
        rule: problem.origin.id().to_owned(),
        file: report.locations.path(&problem.file).to_owned(),
        object: problem.object.clone(),
        field: problem.stable_field.clone(),
    };
    let findings = report.problems.iter().filter(is_kept).map(entry).collect();
    Ok(serde_json::to_string_pretty(&File { version: VERSION, findings })? + "\n")
}

/// Removes the problems of a baseline from a report; adds a note for each entry that matches nothing. An entry of a file
/// that exists and was not checked may still be needed: a commit hook checks some of the files.
pub(super) fn apply(report: &mut Report, name: &str, text: &str) -> anyhow::Result<()> {
    let file: File = serde_json::from_str(text).with_context(|| format!("--baseline {name} is not a baseline"))?;
    if file.version != VERSION {
        bail!("--baseline {name} has version {}, and this nicplug reads {VERSION}; write it again", file.version);
    }
    let mut known: HashMap<String, Entry> =
        file.findings.into_iter().map(|entry| (entry.fingerprint.clone(), entry)).collect();
    let before = report.problems.len();
    report.problems.retain(|problem| problem.is_unreadable || known.remove(&problem.fingerprint).is_none());
    report.ignored += before - report.problems.len();
    let mut gone: Vec<Entry> = known.into_values().collect();
    gone.sort_by(|one, other| (&one.file, &one.object, &one.rule).cmp(&(&other.file, &other.object, &other.rule)));
    let checked: HashSet<&str> = report.names.iter().map(|name| report.locations.path(name)).collect();
    gone.retain(|entry| checked.contains(&*entry.file) || !report.locations.contains(&entry.file));
    for Entry { rule, file, object, .. } in gone {
        let what = format!("{rule} of {object} in {file} is fixed; write the baseline again with --write-baseline");
        report.problems.push(Problem::of_file(name, Position::start(), Level::Note, Origin::Ignore, &what));
    }
    Ok(())
}
