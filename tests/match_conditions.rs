//! The API server sends every request that nicplug changes or answers with more than its consent: the match conditions
//! of the chart, evaluated by a real API server, exclude none of them.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use json_patch::Patch;
use kube::Client;
use nicplug::{admission::Reviewer, facts::NoFacts, settings::Settings};
use serde_json::{Value, json};
use support::{
    api_server::{
        self,
        crds::Kind,
        requests::{self, Change, Response, Run},
        webhooks::FailurePolicy,
    },
    builders::VmBuilder,
    builders::annotations_of,
    cases::{Answer, data, patch_for, rows},
    replica::Deployment,
};

/// How many requests are under way at once.
const AT_ONCE: usize = 8;

/// KubeVirt's CRDs allow 256 interfaces, and nicplug reviews up to 255.
const MOST_NICS: usize = 255;

/// A write: an update of the old object, or the creation of the new one.
#[derive(Clone, Debug)]
struct Write {
    kind: Kind,
    old: Option<Value>,
    new: Value,
}

#[tokio::test]
async fn no_request_that_is_changed_or_answered_is_excluded() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = api.namespace("match").await;
    let admin = api.admin();
    let writes: Vec<Write> =
        updates_of_vms().chain(updates_of_vmis()).chain(creations()).chain(live_updates()).chain([largest()]).collect();
    // The old objects are stored before the webhooks exist.
    let numbered = writes.into_iter().enumerate().map(|(number, write)| store_old(&admin, &namespace, number, write));
    let stored: Vec<Write> = stream::iter(numbered).buffer_unordered(AT_ONCE).collect().await;

    let nicplug = Deployment::start(api, &namespace, FailurePolicy::Fail, &["--facts", "none"], &[]).await;
    let reviewer = Reviewer::new(Arc::new(NoFacts), Settings::default());
    let checked = stored.iter().map(|write| check(&admin, &namespace, &reviewer, write));
    let outcomes: Vec<Outcome> = stream::iter(checked).buffer_unordered(AT_ONCE).collect().await;

    let count = |outcome| outcomes.iter().filter(|found| **found == outcome).count();
    let (changed, answered, silent) = (count(Outcome::Changed), count(Outcome::Answered), count(Outcome::Silent));
    assert!(changed > 50 && answered > 50 && silent > 50, "changed {changed}, answered {answered}, silent {silent}");

    let calls =
        async |webhook: &str| api.webhook_calls(webhook, "UPDATE").await + api.webhook_calls(webhook, "CREATE").await;
    let mutating = calls(&nicplug.registration.mutating).await;
    let validating = calls(&nicplug.registration.validating).await;
    // The mutating webhook is the one that every other one waits for.
    assert!(mutating * 4 < validating * 3, "{mutating} calls of the mutating webhook, {validating} of the other one");
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    /// The mutating webhook changes the object.
    Changed,
    /// The validating webhook denies the request or warns.
    Answered,
    Silent,
}

/// Stores the old object under a name of its own.
async fn store_old(admin: &Client, namespace: &str, number: usize, write: Write) -> Write {
    let Write { kind, old, mut new } = write;
    let name = format!("case-{number}");
    new["metadata"]["name"] = json!(name);
    let Some(mut old) = old else { return Write { kind, old: None, new } };
    old["metadata"]["name"] = json!(name);
    let stored = requests::create(admin, kind, namespace, &old, Run::Real).await.granted();
    let mut object = stored.clone();
    object["spec"] = new["spec"].take();
    object["metadata"]["annotations"] = new["metadata"]["annotations"].take();
    if object["metadata"]["annotations"].is_null() {
        object["metadata"].as_object_mut().unwrap().remove("annotations");
    }
    Write { kind, old: Some(stored), new: object }
}

/// Sends a write and compares the response with the answer of nicplug to the same objects.
async fn check(admin: &Client, namespace: &str, reviewer: &Reviewer, write: &Write) -> Outcome {
    let response = send(admin, namespace, write).await;
    let patch = patch_for(reviewer, &review(namespace, write, &write.new));
    let mut object = write.new.clone();
    json_patch::patch(&mut object, &Patch(patch.clone())).unwrap();
    let answer = Answer::to(reviewer, &review(namespace, write, &object));
    assert_eq!(response.is_ok(), answer.is_allowed, "{write:?}\n{answer:?}\n{response:?}");
    let prefix = format!("{}: ", write.new["metadata"]["name"].as_str().unwrap());
    let warnings = response.warnings.iter().filter(|warning| warning.contains("[NP"));
    let warnings: Vec<&str> = warnings.map(|warning| warning.strip_prefix(&prefix).unwrap()).collect();
    if answer.is_allowed {
        assert_eq!(warnings, answer.warnings, "{write:?}");
        assert_eq!(response.body["spec"], object["spec"], "{write:?}");
        assert_eq!(annotations_of(&response.body), annotations_of(&object), "{write:?}");
    } else {
        assert_eq!(response.causes(), answer.causes, "{write:?}");
    }
    match (patch.is_empty(), answer.is_silent()) {
        (false, _) => Outcome::Changed,
        (true, false) => Outcome::Answered,
        (true, true) => Outcome::Silent,
    }
}

async fn send(admin: &Client, namespace: &str, write: &Write) -> Response {
    let Write { kind, old, new } = write;
    match old {
        None => requests::create(admin, *kind, namespace, new, Run::Dry).await,
        Some(old) => {
            let name = old["metadata"]["name"].as_str().unwrap();
            requests::change(admin, *kind, namespace, name, Change::Replace(new.clone()), Run::Dry).await
        }
    }
}

fn review(namespace: &str, write: &Write, new: &Value) -> Value {
    let mut new = new.clone();
    new["metadata"]["namespace"] = json!(namespace);
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": new["kind"]},
            "name": new["metadata"]["name"],
            "namespace": namespace,
            "operation": if write.old.is_some() { "UPDATE" } else { "CREATE" },
            "userInfo": {"username": "alice"},
            "object": new,
            "oldObject": write.old,
        },
    })
}

// === Writes ===

/// An interface and its network, without the name.
fn nics() -> Vec<(&'static str, Value, Value)> {
    let multus = || json!({"multus": {"networkName": "net"}});
    vec![
        ("default", json!({"masquerade": {}}), json!({"pod": {}})),
        ("lan", json!({"bridge": {}}), multus()),
        ("unbound", json!({}), multus()),
        ("vf", json!({"sriov": {}}), multus()),
        ("plugin", json!({"binding": {"name": "l2"}}), multus()),
        ("passt", json!({"passtBinding": {}}), json!({"pod": {}})),
    ]
}

/// Returns a VM with the NICs of these indices.
fn with_nics(indices: &[usize]) -> VmBuilder {
    let nics = nics();
    indices.iter().fold(support::builders::bare_vm("case"), |vm, index| {
        let (name, mut interface, network) = nics[*index].clone();
        interface["name"] = json!(name);
        vm.nic_with(interface, network)
    })
}

/// Lists of NICs before and after an update.
fn lists() -> impl Iterator<Item = (Vec<usize>, Vec<usize>)> {
    let lists = [vec![], vec![0], vec![0, 1], vec![0, 2], vec![1], vec![0, 3], vec![0, 4], vec![5], vec![0, 1, 2]];
    let pairs =
        lists.clone().into_iter().flat_map(move |old| lists.clone().into_iter().map(move |new| (old.clone(), new)));
    pairs.filter(|(old, new)| old != new)
}

/// Annotations before and after an update.
fn annotations() -> Vec<[Option<(&'static str, &'static str)>; 2]> {
    vec![
        [None, None],
        [None, Some(("nicplug.io/add-interfaces", "eth1=net"))],
        [None, Some(("nicplug.io/remove-interfaces", "lan"))],
        [Some(("nicplug.io/remove-interfaces", "other")), Some(("nicplug.io/remove-interfaces", "other"))],
        [None, Some(("nicplug.io/reserve-ports", "many"))],
        [None, Some(("nicplug.io/apply", "on-restart"))],
        [Some(("nicplug.io/apply", "on-restart")), Some(("nicplug.io/apply", "onrestart"))],
        [None, Some(("nicplug.io/unplug", "drop"))],
        [None, Some(("nicplug.io/add-interface", "eth1=net"))],
        [None, Some(("example.com/other", "value"))],
    ]
}

fn annotated(vm: VmBuilder, annotation: Option<(&str, &str)>) -> VmBuilder {
    annotation.into_iter().fold(vm, |vm, (key, value)| vm.annotation(key, value))
}

fn updates_of_vms() -> impl Iterator<Item = Write> {
    let plain = lists().map(|(old, new)| (old, new, [None, None]));
    let with_annotation = [vec![], vec![0], vec![0, 1]]
        .into_iter()
        .flat_map(|nics| annotations().into_iter().map(move |annotations| (nics.clone(), nics.clone(), annotations)));
    plain.chain(with_annotation).map(|(old, new, [before, after])| Write {
        kind: Kind::Vm,
        old: Some(annotated(with_nics(&old), before).build()),
        new: annotated(with_nics(&new), after).build(),
    })
}

fn updates_of_vmis() -> impl Iterator<Item = Write> {
    let plain = lists().map(|(old, new)| (old, new, [None, None]));
    let slots = |text: &'static str| Some(("nicplug.io/boot-slots", text));
    let with_annotation = [
        [None, Some(("nicplug.io/persist", "lan"))],
        [slots("v1"), slots("v2")],
        [slots("v1"), None],
        [None, slots("v2")],
        [slots("v1"), slots("v1")],
    ];
    let with_annotation = with_annotation.map(|annotations| (vec![0, 1], vec![0, 1], annotations));
    plain.chain(with_annotation).map(|(old, new, [before, after])| Write {
        kind: Kind::Vmi,
        old: Some(annotated(with_nics(&old), before).build_vmi()),
        new: annotated(with_nics(&new), after).build_vmi(),
    })
}

fn creations() -> impl Iterator<Item = Write> {
    lists().flat_map(|(_, new)| {
        let request = Some(("nicplug.io/add-interfaces", "eth1=net"));
        let vm = |annotation| annotated(with_nics(&new), annotation).build();
        let vmi = with_nics(&new).build_vmi();
        [(Kind::Vm, vm(None)), (Kind::Vm, vm(request)), (Kind::Vmi, vmi)].map(|(kind, new)| Write {
            kind,
            old: None,
            new,
        })
    })
}

/// The update with which the conditions have most to do: the API server limits the cost of an expression.
fn largest() -> Write {
    let vm = |numbers: &mut dyn Iterator<Item = usize>| {
        let nic = |vm: VmBuilder, number| vm.nic(&format!("nic-{number}"), "net");
        numbers.fold(support::builders::bare_vm("case"), nic).build()
    };
    Write { kind: Kind::Vm, old: Some(vm(&mut (0..MOST_NICS))), new: vm(&mut (0..MOST_NICS).rev().skip(1)) }
}

/// The updates that were seen on a real control plane.
fn live_updates() -> impl Iterator<Item = Write> {
    let rows: Vec<Value> = rows(&data("live/live.ndjson"));
    rows.into_iter().filter_map(|row| {
        let request = &row["review"]["request"];
        let object = |key: &str| {
            let annotations = &request[key]["metadata"]["annotations"];
            let mut object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {},
                "spec": request[key]["spec"]});
            if !annotations.is_null() {
                object["metadata"]["annotations"] = annotations.clone();
            }
            object
        };
        let is_update = request["operation"] == "UPDATE" && request["kind"]["kind"] == "VirtualMachine";
        is_update.then(|| Write { kind: Kind::Vm, old: Some(object("oldObject")), new: object("object") })
    })
}
