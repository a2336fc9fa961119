//! What a person reads: every warning and every cause that the cases in the repository bring forth.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::{Answer, Cause, data, entries, every_rule, json_file, rows, store, text_and_rules};
use nicplug::{
    admission::Reviewer,
    cluster::files,
    facts::{FactSource, NoFacts},
    rules::{RULES, find},
    settings::{Enforcement, Settings},
};
use serde_json::Value;

/// Cases whose cause is no rule's: a field has a wrong type, and the object cannot be read.
const TYPE_FAULTS: &[&str] = &["wrong-type"];

/// How a warning begins that is no rule's: what a namespace asks for has no effect.
const OF_A_NAMESPACE: &str = "namespace annotation nicplug.io/rules ";

/// How long a warning may be, in characters.
const WARNING_LENGTH: usize = 120;

/// A review and the cluster that it comes to.
struct Case {
    tag: String,
    facts: Arc<dyn FactSource>,
    review: Value,
}

impl Case {
    fn answer(&self, settings: Settings) -> Answer {
        Answer::to(&Reviewer::new(Arc::clone(&self.facts), settings), &self.review)
    }
}

/// Everything in tests/data that is judged.
fn cases() -> Vec<Case> {
    let folders = entries(&data("admission")).into_iter().map(|folder| Case {
        tag: folder.file_name().unwrap().to_str().unwrap().to_owned(),
        facts: match folder.join("facts.yaml") {
            facts if facts.exists() => Arc::new(files::load(&facts).unwrap()),
            _ => Arc::new(NoFacts),
        },
        review: json_file(&folder.join("request.json")),
    });
    let mut clusters: BTreeMap<String, Arc<dyn FactSource>> = BTreeMap::new();
    let shapes = rows::<Value>(&data("shape.ndjson")).into_iter().map(|mut row| {
        let name = row["facts"].as_str().unwrap().to_owned();
        let load = || Arc::new(files::load(&data(&format!("facts-{name}.yaml"))).unwrap()) as Arc<dyn FactSource>;
        let facts = clusters.entry(name.clone()).or_insert_with(load);
        Case { tag: tag_of(&row), facts: Arc::clone(facts), review: row["review"].take() }
    });
    let hotplugs = rows::<Value>(&data("hotplug.ndjson")).into_iter().map(|mut row| Case {
        tag: tag_of(&row),
        facts: Arc::new(store(row["facts"].as_array().unwrap())),
        review: row["review"].take(),
    });
    folders.chain(shapes).chain(hotplugs).collect()
}

fn tag_of(row: &Value) -> String {
    row["tag"].as_str().unwrap().to_owned()
}

#[test]
fn every_message_of_every_case_reads_as_the_house_wants_it() {
    let mut wrong = Vec::new();
    let mut told = BTreeSet::new();
    for case in cases() {
        // Each rule as it is, and each as a denial: an administrator may want that of any.
        for settings in [Settings::default(), every_rule(Enforcement::Deny)] {
            let answer = case.answer(settings);
            let is_of_a_rule = !TYPE_FAULTS.contains(&case.tag.as_str());
            let causes = answer.causes.iter().filter(|cause| !(reads_well(cause, is_of_a_rule)));
            wrong.extend(causes.map(|cause| format!("{}: {cause:?}", case.tag)));
            let warnings = answer
                .warnings
                .iter()
                .filter(|warning| !is_short_and_of_a_rule(warning) && !is_short_and_of_a_namespace(warning));
            wrong.extend(warnings.map(|warning| format!("{}: {warning:?}", case.tag)));
            let messages = answer.causes.iter().map(|cause| &cause.message).chain(&answer.warnings);
            told.extend(messages.flat_map(|message| text_and_rules(message).1).map(str::to_owned));
        }
    }
    assert!(wrong.is_empty(), "{} messages:\n{}", wrong.len(), wrong.join("\n"));
    let shape: Vec<&str> = RULES.iter().map(|rule| rule.id).filter(|id| id.starts_with("NP00")).collect();
    assert!(shape.iter().all(|id| told.contains(*id)) && told.len() > shape.len(), "only {told:?} spoke");
}

/// What is wrong; how to fix it; the rule's id. kubectl prints the field before it.
fn reads_well(cause: &Cause, is_of_a_rule: bool) -> bool {
    let (text, ids) = text_and_rules(&cause.message);
    let names_its_rule = matches!(ids.as_slice(), [id] if find(id).is_some());
    let says_how = text.split_once("; ").is_some_and(|(what, fix)| !what.is_empty() && !fix.is_empty());
    !cause.field.is_empty() && says_how && names_its_rule == is_of_a_rule && is_printable(text)
}

fn is_short_and_of_a_rule(warning: &str) -> bool {
    let (text, ids) = text_and_rules(warning);
    // Of many rules that say the same the last may be counted: `[NP101 and 5 more]`.
    let is_known = |id: &str| find(id.split(' ').next().unwrap_or_default()).is_some();
    let is_of_rules = !ids.is_empty() && ids.iter().all(|id| is_known(id));
    !text.is_empty() && is_of_rules && is_printable(warning) && warning.chars().count() <= WARNING_LENGTH
}

fn is_short_and_of_a_namespace(warning: &str) -> bool {
    warning.starts_with(OF_A_NAMESPACE) && is_printable(warning) && warning.chars().count() <= WARNING_LENGTH
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

#[test]
fn what_is_no_message_of_the_house_is_seen() {
    let cause = |field: &str, message: &str| Cause {
        reason: "FieldValueInvalid".to_owned(),
        field: field.to_owned(),
        message: message.to_owned(),
    };
    assert!(reads_well(&cause("spec", "a is b; write c [NP001]"), true));
    assert!(reads_well(&cause("spec", "a is b; write c"), false));
    for (field, message) in [
        ("", "a is b; write c [NP001]"),
        ("spec", "a is b [NP001]"),
        ("spec", "a is b; write c"),
        ("spec", "a is b; write c [NP999]"),
        ("spec", "a\nis b; write c [NP001]"),
    ] {
        assert!(!reads_well(&cause(field, message), true), "{field}: {message}");
    }
    assert!(is_short_and_of_a_rule("a is b [NP001, NP002]"));
    for warning in ["a is b".to_owned(), "a\tb [NP001]".to_owned(), format!("{} [NP001]", "x".repeat(120))] {
        assert!(!is_short_and_of_a_rule(&warning), "{warning}");
    }
}
