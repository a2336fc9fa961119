//! Verdicts that the design fixes, and the clusters that there are: whole reviews with all their facts.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use common::{Answer, data, entries, patch_for, rows, shared, store, text_and_rules};
use nicplug::{
    admission::Reviewer,
    cluster::manifests,
    facts::attachment::{Attachment, AttachmentDaemon, InPlace},
    settings::Settings,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// One line of a file of cases.
#[derive(Deserialize)]
struct Row {
    tag: String,
    /// Whether the mutating webhook is asked as well.
    #[serde(default)]
    mutate: bool,
    facts: Vec<Value>,
    review: Value,
    expect: Expect,
}

/// What a verdict has to be; what is not given may be anything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    allowed: bool,
    /// Rule ids of all causes.
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
    /// What the mutating webhook makes of the object.
    patched: Option<Patched>,
}

/// A patched object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patched {
    /// Interfaces by name, as they have to be but for the name.
    #[serde(default)]
    nics: BTreeMap<String, Value>,
    /// Annotations: the value, true for any, null for none.
    #[serde(default)]
    annotations: BTreeMap<String, Value>,
    /// How many interfaces there are.
    count: Option<usize>,
}

#[test]
fn every_row_in_the_repository_is_judged_as_it_says() {
    let rows: Vec<Row> = rows(&data("hotplug.ndjson"));
    assert_eq!(rows.len(), 24);
    assert_rows(&rows);
}

#[test]
fn every_shared_row_is_judged_as_it_says() {
    let Some(path) = shared("cases/hotplug.ndjson") else { return };
    let rows: Vec<Row> = rows(&path);
    assert!(rows.len() >= 15, "{} rows", rows.len());
    assert_rows(&rows);
}

#[test]
fn every_cluster_shows_what_it_can_do() {
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
fn a_migration_is_warned_of_while_a_nic_is_on_its_way() {
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
    let answered = answer(&facts, &review);
    assert!(answered.is_allowed);
    assert!(answered.warnings.iter().any(|warning| warning.ends_with("[NP111]")), "{:?}", answered.warnings);
}

fn assert_rows(rows: &[Row]) {
    let faults: Vec<String> = rows.iter().filter_map(fault_of).collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), rows.len(), faults.join("\n"));
}

/// What is wrong with the answers to a row, if anything is.
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
    let answered = answer(&row.facts, review);
    let Expect { causes, causes_include, warnings_include, warnings_exclude, warning_text, .. } = &row.expect;
    let found: Vec<&str> = answered.causes.iter().flat_map(|cause| text_and_rules(&cause.message).1).collect();
    let warned: Vec<&str> = answered.warnings.iter().flat_map(|warning| text_and_rules(warning).1).collect();
    let has_cause = |id: &String| found.contains(&id.as_str());
    let has_warning = |id: &String| warned.contains(&id.as_str());
    let holds = answered.is_allowed == row.expect.allowed
        && causes.as_ref().is_none_or(|causes| same(causes, &found))
        && causes_include.iter().all(has_cause)
        && warnings_include.iter().all(has_warning)
        && !warnings_exclude.iter().any(has_warning)
        && warning_text.as_ref().is_none_or(|text| answered.warnings.iter().any(|warning| warning.contains(text)))
        && (!row.expect.quiet || answered.is_silent())
        && answered.warnings.iter().all(|warning| warning.chars().count() <= 120 && !warning.contains('…'));
    let told = || format!("{}: causes {found:?}, warnings {:#?}", row.tag, answered.warnings);
    (!holds).then(told)
}

fn same(wanted: &[String], found: &[&str]) -> bool {
    let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    wanted == found.iter().copied().collect()
}

fn answer(facts: &[Value], review: &Value) -> Answer {
    Answer::to(&Reviewer::new(Arc::new(store(facts)), Settings::default()), review)
}

/// Holds the DaemonSets of a file to its first line, `# expected: thick=… in-place=…`.
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
