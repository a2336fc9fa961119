//! The double of KubeVirt's controllers does what KubeVirt was seen to do.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use support::{
    cases::{data, rows},
    kubevirt::model::{self, Model, NeededMigration, Synced, condition, text},
};

// === The replay of real control planes ===

/// An update of a VM on a real control plane, and what was seen a few seconds later.
#[derive(Deserialize)]
struct Row {
    tag: String,
    review: Value,
    facts: Vec<Value>,
    seen: Seen,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Seen {
    /// Whether KubeVirt's own webhooks admitted the update.
    admitted: bool,
    template_after: Option<Vec<String>>,
    guest_before: Option<Vec<String>>,
    guest_after: Option<Vec<String>>,
    restart_required_after: bool,
    /// `True` is a migration at once, `False` the grace period.
    migration_required_before: Option<String>,
    migration_required_after: Option<String>,
    same_guest: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            admitted: true,
            template_after: None,
            guest_before: None,
            guest_after: None,
            restart_required_after: false,
            migration_required_before: None,
            migration_required_after: None,
            same_guest: true,
        }
    }
}

#[test]
fn the_double_does_what_kubevirt_1_9_0_was_seen_to_do() {
    assert_replayed("live.ndjson", 77, 74);
}

#[test]
fn the_double_does_what_kubevirt_1_8_4_was_seen_to_do() {
    assert_replayed("live-1.8.4.ndjson", 77, 74);
}

#[test]
fn the_double_does_what_kubevirt_1_6_6_was_seen_to_do() {
    assert_replayed("live-1.6.6.ndjson", 76, 73);
}

fn assert_replayed(file: &str, count: usize, admitted: usize) {
    let rows: Vec<Row> = rows(&data("live").join(file));
    let templates = templates(&rows);
    let replayed: Vec<&Row> = rows.iter().filter(|row| row.seen.admitted).collect();
    assert_eq!((rows.len(), replayed.len()), (count, admitted));
    let faults: Vec<String> = replayed.into_iter().filter_map(|row| fault(row, &templates)).collect();
    assert!(faults.is_empty(), "{file}:\n{}", faults.join("\n"));
}

/// The templates of VMs by uid and generation. The rows of one VM follow each other, so an earlier row has the template
/// that the guest of a later one was started with.
type Templates<'r> = BTreeMap<(&'r str, i64), &'r Value>;

fn templates(rows: &[Row]) -> Templates<'_> {
    let old = rows.iter().map(|row| &row.review["request"]["oldObject"]);
    old.map(|vm| ((text(&vm["metadata"]["uid"]), generation(vm)), &vm["spec"]["template"]["spec"])).collect()
}

fn generation(vm: &Value) -> i64 {
    vm["metadata"]["generation"].as_i64().unwrap()
}

/// Returns how the double differs from what was seen.
fn fault(row: &Row, templates: &Templates) -> Option<String> {
    let request = &row.review["request"];
    let (old, namespace) = (&request["oldObject"], text(&request["namespace"]));
    let fact = |kind: &'static str| row.facts.iter().filter(move |fact| fact["kind"] == kind);
    let model = Model::of(fact("KubeVirt").next().unwrap());
    let vmi = fact("VirtualMachineInstance").find(|vmi| vmi["metadata"]["name"] == request["name"]);
    let preference_name = &request["object"]["spec"]["preference"]["name"];
    let preference = fact("VirtualMachinePreference").find(|object| object["metadata"]["name"] == *preference_name);
    let preference = preference.map(|object| &object["spec"]);

    // The new object is stored with the status of the old one.
    let mut vm = request["object"].clone();
    vm["status"] = old["status"].clone();
    let started_with = vmi.and_then(|vmi| {
        let (_, generation) = text(&vmi["status"]["virtualMachineRevisionName"]).rsplit_once('-')?;
        templates.get(&(text(&old["metadata"]["uid"]), generation.parse().ok()?)).copied()
    });
    // A VM that is being deleted is not compared with its start.
    let start = started_with.unwrap_or(&old["spec"]["template"]["spec"]);
    let mut synced = model.sync(&vm, vmi, start, preference);
    if synced.guest.is_none() && !model::stops(&vm) {
        synced.guest = Some(model.new_guest(&synced.template, preference));
    }
    let found = Seen {
        admitted: true,
        template_after: Some(nics_of(&synced.template)),
        guest_before: vmi.map(|vmi| nics_of(&vmi["spec"])),
        guest_after: synced.guest.as_ref().map(nics_of),
        restart_required_after: synced.requires_restart,
        migration_required_before: vmi.and_then(|vmi| condition(vmi, "MigrationRequired")).map(str::to_owned),
        migration_required_after: vmi.and_then(|vmi| migration_after(&model, vmi, &synced, namespace)),
        same_guest: row.seen.same_guest,
    };
    (found != row.seen).then(|| format!("{}: {found:#?}\nwas seen as {:#?}", row.tag, row.seen))
}

/// Returns the status of `MigrationRequired` after the update.
fn migration_after(model: &Model, vmi: &Value, synced: &Synced, namespace: &str) -> Option<String> {
    if model::is_gone(vmi) {
        return None;
    }
    let pod = model::pod_networks(&vmi["spec"], namespace);
    let mut after = vmi.clone();
    after["spec"] = synced.guest.clone().unwrap();
    match model.needed_migration(&after, &pod) {
        NeededMigration::None => None,
        NeededMigration::AfterGracePeriod => Some("False".to_owned()),
        NeededMigration::AtOnce => Some("True".to_owned()),
    }
}

/// Returns the NICs of a guest as the rows have them: `name:binding:model:state:end of the MAC address@network`.
fn nics_of(guest: &Value) -> Vec<String> {
    let networks = model::networks(guest);
    let network_of = |name: &Value| {
        let network = networks.iter().find(|network| network["name"] == *name).unwrap();
        if network["pod"].is_null() { text(&network["multus"]["networkName"]) } else { "pod" }
    };
    let interfaces = model::interfaces(guest);
    let nic = |nic: &Value| {
        let mac = text(&nic["macAddress"]);
        let (name, binding) = (text(&nic["name"]), model::binding(nic).unwrap_or_default());
        let (model, state) = (text(&nic["model"]), text(&nic["state"]));
        format!("{name}:{binding}:{model}:{state}:{}@{}", &mac[mac.len().saturating_sub(5)..], network_of(&nic["name"]))
    };
    interfaces.iter().map(nic).collect()
}
