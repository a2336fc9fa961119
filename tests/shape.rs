//! The shape rules, NP001 to NP009, compared with the recorded responses of KubeVirt's own network admitter.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use nicplug::{
    admission::Reviewer,
    cluster::files,
    settings::{ApiSettings, Enforcement},
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{
    builders::{GUEST_KINDS, object, review},
    cases::{Answer, data, every_rule, reviewer_of_file, rows, shared, text_and_rules},
};

/// Reason and field of a cause.
type Cause = (String, String);

/// A line of a file of cases.
#[derive(Deserialize)]
struct Case {
    tag: String,
    facts: String,
    review: Value,
    network_causes: Vec<NetworkCause>,
}

#[derive(Deserialize)]
struct NetworkCause {
    #[serde(rename = "type")]
    reason: String,
    field: String,
}

impl Case {
    fn causes(&self) -> BTreeSet<Cause> {
        self.network_causes.iter().map(|cause| (cause.reason.clone(), cause.field.clone())).collect()
    }
}

/// Returns the differences to a file of cases, one case per line. The facts are in the same folder.
fn differences(path: &Path) -> Vec<String> {
    let mut reviewers = BTreeMap::new();
    let cases: Vec<Case> = rows(path);
    assert!(cases.len() > 80, "only {} cases", cases.len());
    let mut differences = Vec::new();
    for case in &cases {
        let facts = path.with_file_name(format!("facts-{}.yaml", case.facts));
        let reviewer = reviewers.entry(&case.facts).or_insert_with(|| reviewer_of_file(&facts));
        let answer = Answer::to(reviewer, &case.review);
        let (expected, found) = (case.causes(), causes_of_shape(&answer));
        if found != expected || answer.is_allowed != answer.causes.is_empty() {
            differences.push(format!("{} on {}: expected {expected:?}, got {found:?}", case.tag, case.facts));
        }
        differences.extend(long_warnings(&answer).map(|warning| format!("{}: too long: {warning}", case.tag)));
    }
    differences
}

/// Returns the causes of NP001 to NP009.
fn causes_of_shape(answer: &Answer) -> BTreeSet<Cause> {
    let is_of_shape = |message: &str| text_and_rules(message).1.iter().any(|id| id.starts_with("NP00"));
    let causes = answer.causes.iter().filter(|cause| is_of_shape(&cause.message));
    causes.map(|cause| (cause.reason.clone(), cause.field.clone())).collect()
}

fn long_warnings(answer: &Answer) -> impl Iterator<Item = &String> {
    answer.warnings.iter().filter(|warning| warning.chars().count() > 120 || warning.contains('…'))
}

fn reviewer(facts: &str) -> Reviewer {
    let file = data(&format!("facts-{facts}.yaml"));
    assert!(file.exists(), "{}", file.display());
    reviewer_of_file(&file)
}

#[test]
fn the_rules_agree_with_a_subset_of_the_admitters_responses() {
    assert_eq!(differences(&data("shape.ndjson")), [""; 0]);
}

#[test]
fn the_rules_agree_with_all_of_the_admitters_responses() {
    let Some(cases) = shared("cases/shape.ndjson") else { return };
    assert_eq!(differences(&cases), [""; 0]);
}

/// Settings can turn every denial into a warning, and a warning has 120 characters at most.
#[test]
fn no_message_is_cut_when_it_is_a_warning() {
    let facts = files::load(&data("facts-strict.yaml"), &ApiSettings::default()).unwrap();
    let reviewer = Reviewer::new(Arc::new(facts), every_rule(Enforcement::Warn));
    for case in rows::<Case>(&data("shape.ndjson")) {
        let answer = Answer::to(&reviewer, &case.review);
        assert!(answer.is_allowed, "{}", case.tag);
        // The name of 64 letters may be cut.
        let cut: Vec<&String> = long_warnings(&answer).filter(|warning| !warning.contains("aaaa")).collect();
        assert!(cut.is_empty(), "{}: {cut:?}", case.tag);
    }
}

#[test]
fn a_fault_is_found_in_every_kind_with_a_guest() {
    let guest = json!({"networks": [{"name": "a", "pod": {}}], "domain": {"devices": {"interfaces": [{"name": "a"}]}}});
    for kind in GUEST_KINDS {
        let answer = Answer::to(&reviewer("strict"), &review(kind, &Value::Null, &object(kind, &guest)));
        let field = format!("{}.domain.devices.interfaces[0]", kind.2);
        assert_eq!(causes_of_shape(&answer), [("FieldValueInvalid".to_owned(), field)].into(), "{kind:?}");
    }
}

#[test]
fn an_old_fault_is_ignored_until_the_nics_change() {
    let kind = GUEST_KINDS[0];
    let faulty = |name: &str| json!({"networks": [{"name": name}]});
    let old = object(kind, &faulty("a"));
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"tier": "web"});
    assert!(Answer::to(&reviewer("strict"), &review(kind, &old, &labelled)).is_silent());
    assert!(!Answer::to(&reviewer("strict"), &review(kind, &old, &object(kind, &faulty("b")))).is_allowed);
}

#[test]
fn an_object_with_very_many_faults_gets_a_short_response() {
    let entries = |rest: &Value, count: usize| {
        let entry = |number: usize| {
            let mut entry = rest.clone();
            entry["name"] = json!(format!("n{}", number / 2));
            entry
        };
        (0..count).map(entry).collect::<Vec<_>>()
    };
    let answer_to = |count: usize| {
        let networks = entries(&json!({"pod": {}, "resourceClaim": {"claimName": "c", "requestName": "r"}}), count);
        let interface = json!({"bridge": {}, "sriov": {}, "state": "gone", "ports": [{}], "portRanges": []});
        let interfaces = entries(&interface, count);
        let guest = json!({"networks": networks, "domain": {"devices": {"interfaces": interfaces}}});
        Answer::to(&reviewer("gates"), &review(GUEST_KINDS[0], &Value::Null, &object(GUEST_KINDS[0], &guest)))
    };
    let large = answer_to(255);
    assert_eq!(large.causes.len(), 100);
    assert!(large.warnings[0].contains("further faults are not listed"), "{:?}", large.warnings);
    let larger = answer_to(20_000);
    assert_eq!(larger.causes.len(), 1);
    assert!(larger.causes[0].message.contains("more than 255 entries"), "{:?}", larger.causes);
}
