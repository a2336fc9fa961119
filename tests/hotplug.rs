//! Whole reviews with their facts and expected verdicts, and the attachment modes of known clusters.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use nicplug::{
    admission::Reviewer,
    cluster::manifests,
    facts::attachment::{Attachment, AttachmentDaemon, InPlace},
    settings::Settings,
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::cases::{Answer, data, entries, patch_for, rows, shared, store, text_and_rules};

/// A line of a file of cases.
#[derive(Deserialize)]
struct Row {
    tag: String,
    /// Whether the mutating webhook reviews the request first.
    #[serde(default)]
    mutate: bool,
    facts: Vec<Value>,
    review: Value,
    expect: Expect,
}

/// The expected verdict; a field that is not given is not checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    allowed: bool,
    /// The rule ids of all causes.
    causes: Option<Vec<String>>,
    #[serde(default)]
    causes_include: Vec<String>,
    #[serde(default)]
    warnings_include: Vec<String>,
    #[serde(default)]
    warnings_exclude: Vec<String>,
    /// A part of some warning.
    warning_text: Option<String>,
    /// Neither causes nor warnings.
    #[serde(default)]
    quiet: bool,
    /// The object after the patch of the mutating webhook.
    patched: Option<Patched>,
}

/// A patched object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patched {
    /// Interfaces by name, without the field `name`.
    #[serde(default)]
    nics: BTreeMap<String, Value>,
    /// Annotations: a value, true for any value, null for no annotation.
    #[serde(default)]
    annotations: BTreeMap<String, Value>,
    /// How many interfaces there are.
    count: Option<usize>,
}

#[test]
fn every_row_of_the_repository_gets_its_verdict() {
    let rows: Vec<Row> = rows(&data("hotplug.ndjson"));
    assert_eq!(rows.len(), 24);
    assert_rows(&rows);
}

#[test]
fn every_shared_row_gets_its_verdict() {
    let Some(path) = shared("cases/hotplug.ndjson") else { return };
    let rows: Vec<Row> = rows(&path);
    assert!(rows.len() >= 15, "{} rows", rows.len());
    assert_rows(&rows);
}

#[test]
fn the_attachment_mode_of_every_cluster_is_detected() {
    let mut count = 0;
    for folder in [Some(data("attachment")), shared("cases/attachment")].into_iter().flatten() {
        for cluster in entries(&folder) {
            assert_cluster(&cluster);
            count += 1;
        }
    }
    assert!(count >= 6, "{count} clusters");
}

#[test]
fn a_migration_gets_a_warning_while_a_nic_is_being_attached() {
    let row = rows::<Row>(&data("hotplug.ndjson")).into_iter().find(|row| row.tag == "bridge/model-virtio").unwrap();
    let mut facts = row.facts.clone();
    let vm = row.review["request"]["object"].clone();
    let migration =
        json!({"metadata": {"name": "migration-job", "namespace": "demo"}, "spec": {"vmiName": "vm-fedora"}});
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "operation": "CREATE", "namespace": "demo", "name": "migration-job", "object": migration,
        "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachineInstanceMigration"}}});
    assert!(answer(&facts, &review).warnings.is_empty());
    facts.retain(|object| object["kind"] != "VirtualMachine");
    facts.push(vm);
    let response = answer(&facts, &review);
    assert!(response.is_allowed);
    assert!(response.warnings.iter().any(|warning| warning.ends_with("[NP111]")), "{:?}", response.warnings);
}

fn assert_rows(rows: &[Row]) {
    let faults: Vec<String> = rows.iter().filter_map(fault_of).collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
}

/// Returns the difference to the expected verdict of a row, if there is one.
fn fault_of(row: &Row) -> Option<String> {
    let mut review = row.review.clone();
    if row.mutate {
        let reviewer = Reviewer::new(Arc::new(store(&row.facts)), Settings::default());
        let patch = json_patch::Patch(patch_for(&reviewer, &review));
        json_patch::patch(&mut review["request"]["object"], &patch).unwrap();
    }
    let object = &review["request"]["object"];
    if let Some(patched) = &row.expect.patched
        && !is_patched_as(object, patched)
    {
        return Some(format!("{}: patched to {object:#}", row.tag));
    }
    fault_of_verdict(row, &review)
}

fn is_patched_as(object: &Value, patched: &Patched) -> bool {
    let guest = object.pointer("/spec/template/spec").unwrap_or(&object["spec"]);
    let interfaces = guest["domain"]["devices"]["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has_nic = |(name, expected): (&String, &Value)| {
        let mut expected = expected.clone();
        expected["name"] = json!(name);
        interfaces.contains(&expected)
    };
    let has_annotation =
        |(key, expected): (&String, &Value)| match (object["metadata"]["annotations"].get(key), expected) {
            (found, Value::Null) => found.is_none(),
            (found, Value::Bool(true)) => found.is_some(),
            (found, expected) => found == Some(expected),
        };
    patched.nics.iter().all(has_nic)
        && patched.annotations.iter().all(has_annotation)
        && patched.count.is_none_or(|count| interfaces.len() == count)
}

fn fault_of_verdict(row: &Row, review: &Value) -> Option<String> {
    let response = answer(&row.facts, review);
    let Expect { causes, causes_include, warnings_include, warnings_exclude, warning_text, .. } = &row.expect;
    let found: Vec<&str> = response.causes.iter().flat_map(|cause| text_and_rules(&cause.message).1).collect();
    let warned: Vec<&str> = response.warnings.iter().flat_map(|warning| text_and_rules(warning).1).collect();
    let has_cause = |id: &String| found.contains(&id.as_str());
    let has_warning = |id: &String| warned.contains(&id.as_str());
    let holds = response.is_allowed == row.expect.allowed
        && causes.as_ref().is_none_or(|causes| same(causes, &found))
        && causes_include.iter().all(has_cause)
        && warnings_include.iter().all(has_warning)
        && !warnings_exclude.iter().any(has_warning)
        && warning_text.as_ref().is_none_or(|text| response.warnings.iter().any(|warning| warning.contains(text)))
        && (!row.expect.quiet || response.is_silent())
        && response.warnings.iter().all(|warning| warning.chars().count() <= 120 && !warning.contains('…'));
    let fault = || format!("{}: causes {found:?}, warnings {:#?}", row.tag, response.warnings);
    (!holds).then(fault)
}

fn same(wanted: &[String], found: &[&str]) -> bool {
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    wanted == found.iter().copied().collect()
}

fn answer(facts: &[Value], review: &Value) -> Answer {
    Answer::to(&Reviewer::new(Arc::new(store(facts)), Settings::default()), review)
}

/// Checks the DaemonSets of a file against its first line, `# expected: thick=… in-place=…`.
fn assert_cluster(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let expected = text.lines().next().unwrap().strip_prefix("# expected: ").unwrap().to_owned();
    let manifests = manifests::read(&text).unwrap();
    let daemon_sets = manifests.into_iter().map(|manifest| serde_json::from_value(manifest.object).unwrap());
    let daemons: Vec<AttachmentDaemon> =
        daemon_sets.filter_map(|daemon_set| AttachmentDaemon::of(&daemon_set)).collect();
    let attachment = Attachment::of(daemons.iter());
    let thick = if attachment.has_thick_multus { "yes" } else { "no" };
    let in_place = match attachment.in_place {
        InPlace::Yes => "yes",
        InPlace::SomeNodes { .. } => "perhaps",
        InPlace::No => "no",
    };
    assert_eq!(format!("thick={thick} in-place={in_place}"), expected, "{}", path.display());
}
