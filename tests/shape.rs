//! The shape rules, NP001 to NP009, held against what KubeVirt's own network admitter answered: bytes to bytes.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use nicplug::{
    admission::{Endpoint, Reviewer},
    cluster::files,
    facts::NoFacts,
    settings::Settings,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Reason and field of one cause.
type Cause = (String, String);

/// One line of a file of cases.
struct Case {
    tag: String,
    facts: String,
    review: Value,
    causes: BTreeSet<Cause>,
}

impl Case {
    fn read(line: &str) -> Self {
        let case: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        Self {
            tag: text("tag"),
            facts: text("facts"),
            review: case["review"].clone(),
            causes: case["network_causes"].as_array().unwrap().iter().map(|cause| pair(cause, "type")).collect(),
        }
    }
}

fn pair(cause: &Value, reason: &str) -> Cause {
    (cause[reason].as_str().unwrap().to_owned(), cause["field"].as_str().unwrap().to_owned())
}

/// What is wrong with the answers to a file of cases, one line a case; facts stand beside the file.
fn disagreements(cases: &Path) -> Vec<String> {
    let folder = cases.parent().unwrap();
    let mut reviewers = BTreeMap::new();
    let text = fs::read_to_string(cases).unwrap();
    let cases: Vec<Case> = text.lines().map(Case::read).collect();
    assert!(cases.len() > 80, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let reviewer = reviewers.entry(&case.facts).or_insert_with(|| {
            let facts = files::load(&folder.join(format!("facts-{}.yaml", case.facts))).unwrap();
            Reviewer::new(Arc::new(facts), Settings::default())
        });
        let answer = Answer::to(reviewer, &case.review);
        let answered: BTreeSet<Cause> = answer.shape_causes.iter().cloned().collect();
        if answered != case.causes || answer.is_allowed != answer.has_no_cause {
            wrong.push(format!("{} on {}: wanted {:?}, answered {answered:?}", case.tag, case.facts, case.causes));
        }
        wrong.extend(answer.long_warnings().map(|warning| format!("{}: too long: {warning}", case.tag)));
    }
    wrong
}

/// The parts of an answer that these tests look at.
struct Answer {
    is_allowed: bool,
    has_no_cause: bool,
    /// Causes of NP001 to NP009.
    shape_causes: Vec<Cause>,
    warnings: Vec<String>,
}

impl Answer {
    fn to(reviewer: &Reviewer, review: &Value) -> Self {
        let answer = reviewer.answer(Endpoint::Validate, review.to_string().as_bytes());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let response = &body["response"];
        let none = Vec::new();
        let causes = response["status"]["details"]["causes"].as_array().unwrap_or(&none);
        let is_of_shape = |cause: &&Value| {
            let message = cause["message"].as_str().unwrap();
            (1..=9).any(|number| message.ends_with(&format!(" [NP{number:03}]")))
        };
        Self {
            is_allowed: response["allowed"].as_bool().unwrap(),
            has_no_cause: causes.is_empty(),
            shape_causes: causes.iter().filter(is_of_shape).map(|cause| pair(cause, "reason")).collect(),
            warnings: serde_json::from_value(response["warnings"].clone()).unwrap_or_default(),
        }
    }

    fn is_silent(&self) -> bool {
        self.has_no_cause && self.warnings.is_empty()
    }

    fn long_warnings(&self) -> impl Iterator<Item = &String> {
        self.warnings.iter().filter(|warning| warning.chars().count() > 120 || warning.contains('…'))
    }
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn a_balanced_subset_of_the_admitters_answers_is_met() {
    assert_eq!(disagreements(&here("tests/data/shape.ndjson")), [""; 0]);
}

#[test]
fn all_of_the_admitters_answers_are_met() {
    let cases = here("../shared/cases/shape.ndjson");
    if !cases.exists() {
        println!("skipped: ../shared/cases/shape.ndjson is not there");
        return;
    }
    assert_eq!(disagreements(&cases), [""; 0]);
}

/// A setting can turn every fault into a warning, and a warning has 120 characters.
#[test]
fn no_fault_is_cut_when_it_is_a_warning() {
    let warn = (1..=9).fold(Settings::default(), |settings, number| {
        settings.with_rule(&format!("NP{number:03}"), nicplug::settings::Enforcement::Warn)
    });
    let facts = files::load(&here("tests/data/facts-strict.yaml")).unwrap();
    let reviewer = Reviewer::new(Arc::new(facts), warn);
    for line in fs::read_to_string(here("tests/data/shape.ndjson")).unwrap().lines() {
        let case = Case::read(line);
        let answer = Answer::to(&reviewer, &case.review);
        assert!(answer.is_allowed, "{}", case.tag);
        // The one name of 64 letters may be cut.
        let cut: Vec<&String> = answer.long_warnings().filter(|warning| !warning.contains("aaaa")).collect();
        assert!(cut.is_empty(), "{}: {cut:?}", case.tag);
    }
}

/// An object of each kind that holds a guest, and where it holds it.
const KINDS: [(&str, &str, &str); 4] = [
    ("kubevirt.io", "VirtualMachine", "spec.template.spec"),
    ("kubevirt.io", "VirtualMachineInstance", "spec"),
    ("kubevirt.io", "VirtualMachineInstanceReplicaSet", "spec.template.spec"),
    ("pool.kubevirt.io", "VirtualMachinePool", "spec.virtualMachineTemplate.spec.template.spec"),
];

fn object((group, kind, path): (&str, &str, &str), guest: &Value) -> Value {
    let spec = path.split('.').rev().fold(guest.clone(), |inner, key| json!({ key: inner }));
    let mut object =
        json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "vm", "namespace": "demo"}});
    object.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

fn review((group, kind, _): (&str, &str, &str), old: &Value, new: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": group, "version": "v1", "kind": kind}, "name": "vm", "namespace": "demo",
        "operation": if old.is_null() { "CREATE" } else { "UPDATE" }, "userInfo": {"username": "alice"},
        "object": new, "oldObject": old}})
}

#[test]
fn a_fault_is_found_in_every_kind_that_holds_a_guest() {
    let guest = json!({"networks": [{"name": "a", "pod": {}}], "domain": {"devices": {"interfaces": [{"name": "a"}]}}});
    for kind in KINDS {
        let answer = Answer::to(&reviewer("strict"), &review(kind, &Value::Null, &object(kind, &guest)));
        let field = format!("{}.domain.devices.interfaces[0]", kind.2);
        assert_eq!(answer.shape_causes, [("FieldValueInvalid".to_owned(), field)], "{kind:?}");
    }
}

#[test]
fn an_old_fault_stays_until_the_nics_change() {
    let kind = KINDS[0];
    let faulty = |name: &str| json!({"networks": [{"name": name}]});
    let old = object(kind, &faulty("a"));
    let mut labelled = old.clone();
    labelled["metadata"]["labels"] = json!({"tier": "web"});
    assert!(Answer::to(&reviewer("strict"), &review(kind, &old, &labelled)).is_silent());
    assert!(!Answer::to(&reviewer("strict"), &review(kind, &old, &object(kind, &faulty("b")))).is_allowed);
}

#[test]
fn a_hostile_object_gets_a_short_answer() {
    let entries = |rest: &Value| {
        let entry = |number: usize| {
            let mut entry = rest.clone();
            entry["name"] = json!(format!("n{}", number / 2));
            entry
        };
        (0..20_000).map(entry).collect::<Vec<_>>()
    };
    let networks = entries(&json!({"pod": {}, "resourceClaim": {"claimName": "c", "requestName": "r"}}));
    let interface = json!({"bridge": {}, "sriov": {}, "state": "gone", "ports": [{}], "portRanges": []});
    let guest = json!({"networks": networks, "domain": {"devices": {"interfaces": entries(&interface)}}});
    let answer = Answer::to(&reviewer("gates"), &review(KINDS[0], &Value::Null, &object(KINDS[0], &guest)));
    assert_eq!(answer.shape_causes.len(), 100);
    assert!(answer.warnings[0].contains("further faults are not listed"), "{:?}", answer.warnings);
}

/// NICs that are wrong by themselves, whatever stands beside them and whatever is known of the cluster.
fn faulty_nic() -> impl Strategy<Value = (Value, Value)> {
    let pod = json!({"pod": {}});
    let multus = json!({"multus": {"networkName": "net"}});
    prop::sample::select(vec![
        (json!({"bridge": {}}), json!({})),
        (json!({"bridge": {}}), json!({"multus": {}})),
        (json!({"sriov": {}}), json!({"pod": {}, "multus": {"networkName": "net"}})),
        (json!({}), multus.clone()),
        (json!({"bridge": {}, "sriov": {}}), multus.clone()),
        (json!({"slirp": {}}), pod.clone()),
        (json!({"masquerade": {}}), multus.clone()),
        (json!({"passtBinding": {}}), multus.clone()),
        (json!({"masquerade": {}, "state": "absent"}), pod.clone()),
        (json!({"bridge": {}, "state": "gone"}), multus.clone()),
        (json!({"sriov": {}, "state": "up"}), multus.clone()),
        (json!({"bridge": {}, "model": "vmxnet3"}), multus.clone()),
        (json!({"bridge": {}, "macAddress": "x"}), multus.clone()),
        (json!({"bridge": {}, "pciAddress": "x"}), multus.clone()),
        (json!({"bridge": {}, "dhcpOptions": {"ntpServers": ["x"]}}), multus.clone()),
        (json!({"bridge": {}, "dhcpOptions": {"privateOptions": [{"option": 1}]}}), multus),
        (json!({"masquerade": {}, "ports": [{"port": 80}, {"port": 0}]}), pod),
    ])
}

fn sound_nic() -> impl Strategy<Value = (Value, Value)> {
    let multus = json!({"multus": {"networkName": "net"}});
    prop::sample::select(vec![
        (json!({"bridge": {}}), multus.clone()),
        (json!({"sriov": {}}), multus.clone()),
        (json!({"binding": {"name": "x"}}), multus.clone()),
        (json!({"bridge": {}, "state": "absent"}), multus),
        (json!({"masquerade": {}}), json!({"pod": {}})),
        (json!({"bridge": {}}), json!({"pod": {}})),
        (json!({"sriov": {}}), json!({"resourceClaim": {"claimName": "c", "requestName": "r"}})),
        (json!({"teleport": {}}), json!({"carrierPigeon": {}})),
    ])
}

/// Guests of up to four NICs, sound or not, with few names, and here and there half a NIC.
fn any_guest() -> impl Strategy<Value = Value> {
    let nic = (0..5u8, prop_oneof![3 => sound_nic(), 1 => faulty_nic()], 0..8u8);
    prop::collection::vec(nic, 0..5).prop_map(|nics| {
        nics.into_iter().fold(json!({}), |guest, (name, (interface, network), half)| {
            let name = format!("n{name}");
            let guest =
                if half == 0 { guest } else { with_entry(guest, "/domain/devices/interfaces", &name, interface) };
            if half == 1 { guest } else { with_entry(guest, "/networks", &name, network) }
        })
    })
}

fn with_entry(mut guest: Value, list: &str, name: &str, mut entry: Value) -> Value {
    entry["name"] = json!(name);
    let mut place = &mut guest;
    for key in list.split('/').skip(1) {
        place = &mut place[key];
    }
    match place {
        Value::Array(entries) => entries.push(entry),
        empty => *empty = json!([entry]),
    }
    guest
}

/// Names of the clusters beside the cases, and none at all.
fn any_facts() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["default", "gates", "strict", ""])
}

fn reviewer(facts: &str) -> Reviewer {
    if facts.is_empty() {
        return Reviewer::new(Arc::new(NoFacts), Settings::default());
    }
    let facts = files::load(&here(&format!("tests/data/facts-{facts}.yaml"))).unwrap();
    Reviewer::new(Arc::new(facts), Settings::default())
}

proptest! {
    #[test]
    fn a_denied_request_stays_denied_with_one_more_fault(
        facts in any_facts(),
        kind in prop::sample::select(&KINDS[..]),
        guest in any_guest(),
        (interface, network) in faulty_nic(),
    ) {
        let reviewer = reviewer(facts);
        let answer = |guest: &Value| Answer::to(&reviewer, &review(kind, &Value::Null, &object(kind, guest)));
        let before = answer(&guest);
        let more = with_entry(guest, "/domain/devices/interfaces", "more", interface);
        let more = with_entry(more, "/networks", "more", network);
        let after = answer(&more);
        prop_assert!(before.is_allowed || !after.is_allowed, "{more}");
        prop_assert!(!after.is_allowed, "{more}");
    }

    #[test]
    fn the_review_of_an_unchanged_object_is_silent(
        facts in any_facts(),
        kind in prop::sample::select(&KINDS[..]),
        guest in any_guest(),
    ) {
        let reviewer = reviewer(facts);
        let old = object(kind, &guest);
        prop_assert!(Answer::to(&reviewer, &review(kind, &old, &old)).is_silent());
        let mut touched = old.clone();
        touched["metadata"]["labels"] = json!({"tier": "web"});
        prop_assert!(Answer::to(&reviewer, &review(kind, &old, &touched)).is_silent());
    }
}
