//! User-facing texts: every warning and every cause of the cases in the repository, the rules, and the help.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::Arc,
};

use nicplug::{
    admission::{Endpoint, Evaluator, Reviewer, Severity, parse},
    cluster::files,
    facts::{FactSource, NoFacts},
    rules::{RULES, find},
    settings::{ApiSettings, Enforcement, Settings},
};
use serde_json::{Value, json};
use support::{
    cases::{Answer, Cause, data, entries, every_rule, json_file, rows, store, text_and_rules},
    wording::banned_words,
};

/// Cases whose cause has no rule: a field has a wrong type, and the object cannot be read.
const TYPE_FAULTS: &[&str] = &["wrong-type"];

/// The beginning of a warning without a rule: the annotation of a namespace has no effect.
const NAMESPACE_WARNING: &str = "namespace annotation nicplug.io/rules ";

/// The maximum length of a warning in characters.
const WARNING_LENGTH: usize = 120;

/// A review and its facts.
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

/// Returns every review in `tests/data`.
fn cases() -> Vec<Case> {
    let folders = entries(&data("admission")).into_iter().map(|folder| Case {
        tag: folder.file_name().unwrap().to_str().unwrap().to_owned(),
        facts: match folder.join("facts.yaml") {
            facts if facts.exists() => Arc::new(files::load(&facts, &ApiSettings::default()).unwrap()),
            _ => Arc::new(NoFacts),
        },
        review: json_file(&folder.join("request.json")),
    });
    let mut clusters: BTreeMap<String, Arc<dyn FactSource>> = BTreeMap::new();
    let shapes = rows::<Value>(&data("shape.ndjson")).into_iter().map(|mut row| {
        let name = row["facts"].as_str().unwrap().to_owned();
        let load = || {
            Arc::new(files::load(&data(&format!("facts-{name}.yaml")), &ApiSettings::default()).unwrap())
                as Arc<dyn FactSource>
        };
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
fn every_message_of_every_case_has_the_required_form() {
    let mut wrong = Vec::new();
    let mut rules = BTreeSet::new();
    for case in cases() {
        // With the defaults, and with all rules denying, which an administrator can choose.
        for settings in [Settings::default(), every_rule(Enforcement::Deny)] {
            let answer = case.answer(settings);
            let is_of_a_rule = !TYPE_FAULTS.contains(&case.tag.as_str());
            let causes = answer.causes.iter().filter(|cause| !has_the_form_of_a_cause(cause, is_of_a_rule));
            wrong.extend(causes.map(|cause| format!("{}: {cause:?}", case.tag)));
            let warnings = answer.warnings.iter().filter(|warning| !has_the_form_of_a_warning(warning));
            wrong.extend(warnings.map(|warning| format!("{}: {warning:?}", case.tag)));
            let messages = answer.causes.iter().map(|cause| &cause.message).chain(&answer.warnings);
            rules.extend(messages.flat_map(|message| text_and_rules(message).1).map(str::to_owned));
        }
    }
    assert!(wrong.is_empty(), "{} messages:\n{}", wrong.len(), wrong.join("\n"));
    let shape: Vec<&str> = RULES.iter().map(|rule| rule.id).filter(|id| id.starts_with("NP00")).collect();
    assert!(shape.iter().all(|id| rules.contains(*id)) && rules.len() > shape.len(), "only {rules:?} have messages");
}

/// kubectl prints equal lines once: the same change of two objects needs two lines.
#[test]
fn equal_changes_of_two_objects_have_different_warnings() {
    let mut rules = BTreeSet::new();
    for case in cases() {
        for settings in [Settings::default(), every_rule(Enforcement::Warn), every_rule(Enforcement::Deny)] {
            let warnings = |name: &str| -> BTreeSet<String> {
                let mut review = case.review.clone();
                review["request"]["name"] = json!(name);
                let reviewer = Reviewer::new(Arc::clone(&case.facts), settings.clone());
                let answer = reviewer.review(Endpoint::Validate, review.to_string().as_bytes());
                let answer: Value = serde_json::from_slice(&answer.body).unwrap();
                let warnings = answer["response"]["warnings"].as_array().cloned().unwrap_or_default();
                warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect()
            };
            // The facts are about an object of this name.
            let name = case.review["request"]["name"].as_str().filter(|name| !name.is_empty()).unwrap_or("web-0");
            let (one, other) = (warnings(name), warnings("web-1"));
            let is_named = |warning: &String| warning.starts_with(&format!("{name}: "));
            assert!(one.iter().all(is_named), "{}: {one:?}", case.tag);
            assert_eq!(one.intersection(&other).collect::<Vec<_>>(), [] as [&String; 0], "{}", case.tag);
            rules.extend(one.iter().flat_map(|warning| text_and_rules(warning).1).map(str::to_owned));
        }
    }
    // The answer adds the name in one place for all rules; tests/apiserver.rs has the warning of a network.
    assert!(rules.len() > RULES.len() * 2 / 3, "only {rules:?} have warnings");
}

/// A command that shows the findings one by one gives the verdict of the webhook.
#[test]
fn the_findings_of_every_case_are_those_of_its_verdict() {
    for case in cases() {
        for settings in [Settings::default(), every_rule(Enforcement::Deny)] {
            let evaluator = Evaluator::new(case.facts.as_ref(), &settings);
            let body = case.review.to_string();
            let parsed = parse(body.as_bytes());
            let evaluation = evaluator.evaluate(Endpoint::Validate, &parsed);
            let findings = evaluator.findings(&parsed);
            let of = |severities: &[Severity]| -> BTreeSet<&str> {
                let judged = findings.iter().filter(|judged| severities.contains(&judged.severity));
                judged.filter_map(|judged| judged.rule).map(|rule| rule.id).collect()
            };
            let verdict = evaluation.verdict();
            assert_eq!(of(&[Severity::Denied]), verdict.denied_by.ids().collect(), "{}", case.tag);
            assert_eq!(of(&[Severity::Unchecked, Severity::Warned]), verdict.warned_by.ids().collect(), "{}", case.tag);
            let denials = findings.iter().filter(|judged| judged.severity == Severity::Denied).count();
            // A body that cannot be answered has no verdict, and a command shows why.
            let unanswered = usize::from(parsed.is_err());
            assert_eq!(denials, verdict.causes.len() + unanswered, "{}", case.tag);
        }
    }
}

/// Returns whether a cause says what is wrong and how to fix it, and ends with its rule. kubectl prints the field
/// before it.
fn has_the_form_of_a_cause(cause: &Cause, is_of_a_rule: bool) -> bool {
    let (text, ids) = text_and_rules(&cause.message);
    let names_its_rule = matches!(ids.as_slice(), [id] if find(id).is_some());
    let says_how = text.split_once("; ").is_some_and(|(what, fix)| !what.is_empty() && !fix.is_empty());
    !cause.field.is_empty() && says_how && names_its_rule == is_of_a_rule && is_printable(text)
}

/// Returns whether a warning is short and ends with its rules, or is about the annotation of a namespace.
fn has_the_form_of_a_warning(warning: &str) -> bool {
    let (text, ids) = text_and_rules(warning);
    // If many rules have the same text, the last ones are counted: `[NP101 and 5 more]`.
    let is_known = |id: &str| find(id.split(' ').next().unwrap_or_default()).is_some();
    let has_rules = !text.is_empty() && !ids.is_empty() && ids.iter().all(|id| is_known(id));
    let is_short = warning.chars().count() <= WARNING_LENGTH;
    (has_rules || warning.starts_with(NAMESPACE_WARNING)) && is_short && is_printable(warning)
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

#[test]
fn a_message_without_the_required_form_is_found() {
    let cause = |field: &str, message: &str| Cause {
        reason: "FieldValueInvalid".to_owned(),
        field: field.to_owned(),
        message: message.to_owned(),
    };
    assert!(has_the_form_of_a_cause(&cause("spec", "a is b; write c [NP001]"), true));
    assert!(has_the_form_of_a_cause(&cause("spec", "a is b; write c"), false));
    for (field, message) in [
        ("", "a is b; write c [NP001]"),
        ("spec", "a is b [NP001]"),
        ("spec", "a is b; write c"),
        ("spec", "a is b; write c [NP999]"),
        ("spec", "a\nis b; write c [NP001]"),
    ] {
        assert!(!has_the_form_of_a_cause(&cause(field, message), true), "{field}: {message}");
    }
    assert!(has_the_form_of_a_warning("a is b [NP001, NP002]"));
    for warning in ["a is b".to_owned(), "a\tb [NP001]".to_owned(), format!("{} [NP001]", "x".repeat(120))] {
        assert!(!has_the_form_of_a_warning(&warning), "{warning}");
    }
}

// === Wording ===

#[test]
fn no_message_of_any_case_has_a_banned_word() {
    let mut found = BTreeSet::new();
    for case in cases() {
        for settings in [Settings::default(), every_rule(Enforcement::Deny)] {
            let answer = case.answer(settings);
            let messages = answer.causes.into_iter().map(|cause| cause.message).chain(answer.warnings);
            found.extend(messages.flat_map(|message| banned_words(&message)));
        }
    }
    assert_eq!(found, BTreeSet::new());
}

#[test]
fn no_text_of_a_rule_has_a_banned_word() {
    let rules: Vec<Value> = serde_json::from_str(&nicplug(&["rules", "-o", "json"])).unwrap();
    assert_eq!(rules.len(), RULES.len());
    let mut found = Vec::new();
    for rule in &rules {
        for (field, text) in rule.as_object().unwrap() {
            let words = banned_words(text.as_str().unwrap_or_default());
            found.extend(words.into_iter().map(|words| format!("{} {field}: {words}", rule["id"])));
        }
    }
    assert!(found.is_empty(), "{} texts:\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_help_text_has_a_banned_word() {
    let help = nicplug(&["help"]);
    let mut pages = vec![("help".to_owned(), help.clone())];
    for command in commands(&help) {
        pages.push((format!("help {command}"), nicplug(&["help", &command])));
    }
    assert!(pages.len() > 8, "{} commands", pages.len());
    let mut found = Vec::new();
    for (page, text) in &pages {
        found.extend(banned_words(text).into_iter().map(|words| format!("{page}: {words}")));
    }
    assert!(found.is_empty(), "{} texts:\n{}", found.len(), found.join("\n"));
}

/// Returns the names of the commands in the help of the program.
fn commands(help: &str) -> Vec<String> {
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A line with more blanks continues the one before.
    let first_lines = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = first_lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn nicplug(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_nicplug")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The folders whose messages may quote a text of a request.
const QUOTING: [&str; 7] = ["admission", "annotations", "api", "facts", "mutations", "pci", "rules"];

/// What is quoted as it is: it has a bound, or is not a text of a request.
const BOUNDED: [&str; 5] = ["{letter:?}", "({message:?})", ": {message:?})", "{suggestion:?}", "{RESERVED_MAC:?}"];

/// A text of a request can be as long as the body, and a message must not repeat it whole: `api::quote` cuts it.
#[test]
fn a_message_quotes_a_text_of_a_request_by_the_function_that_cuts_it() {
    for folder in QUOTING {
        for file in rust_files(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)) {
            let source = std::fs::read_to_string(&file).unwrap();
            let code = source.split("#[cfg(test)]").next().unwrap();
            let is_code = |line: &&str| !line.trim_start().starts_with("//") && line.contains(":?}");
            for line in code.lines().filter(is_code) {
                let is_bounded = BOUNDED.iter().any(|bounded| line.contains(bounded));
                let is_exempt = file.ends_with("api/quote.rs") || file.ends_with("rules/testing/mod.rs");
                assert!(is_bounded || is_exempt, "{}: use quote: {}", file.display(), line.trim());
            }
        }
    }
}

/// Returns the source files of a folder and of its subfolders.
fn rust_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(folder).into_iter().partition(|path| path.is_dir());
    let sources = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    sources.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}
