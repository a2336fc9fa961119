//! A cluster that serves a fork of KubeVirt in a group of its own, on a real API server: `api.groups` of the settings.
//!
//! KubeVirt's own group is served too, and has neither a KubeVirt resource nor a VM.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{process::Command, time::Duration};

use futures_util::stream;
use hyper::http::Method;
use k8s_openapi::api::{core::v1::ObjectReference, events::v1::Event};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use nicplug::{
    admission::{Decision, Endpoint, Reviewer},
    cluster::{
        persist_queue::PersistQueue,
        watch::{Tuning, WatchState, Watches},
    },
    controllers::pending::PendingController,
    k8s::{kind::Kind as FactKind, served_groups::ServedGroups},
    settings::{CurrentSettings, Settings},
};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::{self, Kind},
        requests::{self, Run},
    },
    builders::{INTERFACES, VM, nad, names, review, vm},
    clock::Clock,
    commands::run,
    folder::Folder,
    wait::eventually,
};
use tokio::sync::mpsc;

const GROUP: &str = "kubevirt.example.com";
const SETTINGS: &str = "{api: {groups: {kubevirt.io: [kubevirt.example.com]}}, attachment: {dynamicNetworks: yes}}";

/// Creates an object of the fork.
async fn create(admin: &Client, namespace: &str, plural: &str, mut object: Value) {
    object["apiVersion"] = format!("{GROUP}/v1").into();
    let path = format!("/apis/{GROUP}/v1/namespaces/{namespace}/{plural}");
    let status = json!({"status": object["status"]});
    requests::send(admin, Method::POST, &path, "application/json", object.to_string()).await.granted();
    // The definition of VMIs has no subresource: their status is written with the object.
    if plural == "kubevirts" {
        let path = format!("{path}/{}/status", object["metadata"]["name"].as_str().unwrap());
        requests::send(admin, Method::PATCH, &path, "application/merge-patch+json", status.to_string()).await.granted();
    }
}

/// Creates a fork of KubeVirt 1.9 and a VM that runs, and returns the namespace.
async fn install(api: &ApiServer) -> String {
    let (admin, namespace) = (api.admin(), api.namespace("fork").await);
    crds::install_fork(&admin, GROUP).await;
    let kubevirt = json!({"kind": "KubeVirt", "metadata": {"name": "kubevirt"}, "spec": {},
        "status": {"observedKubeVirtVersion": "v1.9.0"}});
    create(&admin, &namespace, "kubevirts", kubevirt).await;
    create(&admin, &namespace, "virtualmachines", vm().build()).await;
    let mut vmi = vm().build_vmi();
    vmi["status"] = json!({"phase": "Running", "interfaces": [{"name": "default", "infoSource": "domain"}]});
    create(&admin, &namespace, "virtualmachineinstances", vmi).await;
    requests::create(&admin, Kind::Nad, &namespace, &nad("blue"), Run::Real).await.granted();
    namespace
}

/// Reads the objects of the fork, and waits until all are known.
async fn watches(api: &ApiServer) -> (Client, Watches) {
    let groups = ServedGroups::new(Settings::parse(SETTINGS, &[]).unwrap().api.forks());
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = groups.client(config).unwrap();
    let watches = Watches::of_groups(&client, groups, PersistQueue::default(), &Tuning::default());
    let is_synced = |kind| watches.statuses().of(kind).unwrap().state().0 == WatchState::Synced;
    let kinds = [FactKind::KubeVirt, FactKind::Vm, FactKind::Vmi, FactKind::Nad];
    eventually("the watches are synced", async || kinds.into_iter().all(is_synced).then_some(())).await;
    (client, watches)
}

/// Returns the review of an update that adds a NIC.
fn review_of(group: &'static str, namespace: &str, network: &str) -> Vec<u8> {
    let kind = (group, "VirtualMachine", "spec.template.spec");
    let mut review = review(kind, &vm().build(), &vm().nic("second", network).build());
    review["request"]["namespace"] = json!(namespace);
    review.to_string().into_bytes()
}

#[tokio::test]
async fn the_facts_are_those_of_the_fork() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = install(api).await;
    let (_, watches) = watches(api).await;
    let settings = Settings::parse(SETTINGS, &[]).unwrap();
    let reviewer = Reviewer::new(std::sync::Arc::clone(watches.cache()) as _, settings);
    let answer = |group: &'static str, network: &str| {
        let answer = reviewer.review(Endpoint::Validate, &review_of(group, &namespace, network));
        (answer.decision, String::from_utf8(answer.body).unwrap())
    };
    let (decision, text) = answer(GROUP, "missing");
    assert!(decision == Decision::Denied && text.contains("NP105"), "{text}");
    let (decision, text) = answer(GROUP, "blue");
    assert_eq!(decision, Decision::Allowed, "{text}");
    // Nothing is known about a VM of KubeVirt's own group.
    let (decision, text) = answer("kubevirt.io", "blue");
    assert!(decision == Decision::Warned && text.contains("is running is not known"), "{text}");
}

#[tokio::test]
async fn the_commands_read_and_change_the_vms_of_the_fork() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = install(api).await;
    let folder = Folder::new("fork");
    let settings = folder.write("settings.yaml", SETTINGS);
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(args).arg("--kubeconfig").arg(api.kubeconfig()).args(["--namespace", &namespace]);
        command.arg("--settings").arg(&settings).env_remove("KUBECONFIG");
        command
    };
    run(command(&["status", "--output", "json"])).await.check(0, &["\"vm-fedora\""], &[]);
    run(command(&["plan", VM, "--add", "second=blue"])).await.check(0, &["second"], &[]);
    // The VM runs, so the rules of hotplug apply to its change.
    let interface = json!({"name": "second", "bridge": {}, "model": "e1000e"});
    let mut changed = vm().nic_with(interface, json!({"multus": {"networkName": "blue"}})).build();
    changed["apiVersion"] = format!("{GROUP}/v1").into();
    let file = folder.write("vm.json", &changed.to_string());
    run(command(&["check", "--cluster", "--file", &file])).await.check(1, &["NP103"], &[]);
    let add = ["addinterface", VM, "--network-attachment-definition-name", "blue", "--name", "second"];
    run(command(&add)).await.check(0, &[], &[]);
    let path = format!("/apis/{GROUP}/v1/namespaces/{namespace}/virtualmachines/{VM}");
    let stored = requests::send(&api.admin(), Method::GET, &path, "", "").await.granted();
    assert!(names(&stored, INTERFACES).contains(&"second".to_owned()), "{stored:#}");
}

#[tokio::test]
async fn the_events_about_a_pending_nic_are_on_the_vm_of_the_fork() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = install(api).await;
    let change = async |plural: &str, patch: Value| {
        let (path, kind) =
            (format!("/apis/{GROUP}/v1/namespaces/{namespace}/{plural}/{VM}"), "application/json-patch+json");
        requests::send(&api.admin(), Method::PATCH, &path, kind, patch.to_string()).await.granted();
    };
    for (plural, spec) in [("virtualmachines", "/spec/template/spec"), ("virtualmachineinstances", "/spec")] {
        let nic = json!([{"op": "add", "path": format!("{spec}/domain/devices/interfaces/-"),
                "value": {"name": "second", "bridge": {}}},
            {"op": "add", "path": format!("{spec}/networks/-"),
                "value": {"name": "second", "multus": {"networkName": "blue"}}}]);
        change(plural, nic).await;
    }
    let (client, watches) = watches(api).await;
    let clock = Clock::default();
    let (cache, now) = (std::sync::Arc::clone(watches.cache()), clock.clone());
    let settings = Settings::parse(SETTINGS, &[]).unwrap();
    let controller = PendingController::new(client, cache, CurrentSettings::from(settings), "test", move || now.now());
    let (ticks, mut ticked) = mpsc::channel(1);
    let task = tokio::spawn(async move { controller.run(stream::poll_fn(move |cx| ticked.poll_recv(cx))).await });
    let events: Api<Event> = Api::namespaced(api.admin(), &namespace);
    let reported = async |reason: &str| {
        eventually("the Event is written", async || {
            clock.advance(Duration::from_mins(5));
            ticks.send(()).await.unwrap();
            let found = events.list(&ListParams::default()).await.unwrap().items;
            found.into_iter().find(|event| event.reason.as_deref() == Some(reason))?.regarding
        })
        .await
    };
    let on_vm = |object: &ObjectReference| {
        (object.api_version.as_deref(), object.kind.as_deref(), object.name.as_deref(), object.uid.is_some())
            == (Some("kubevirt.example.com/v1"), Some("VirtualMachine"), Some(VM), true)
    };
    let pending = reported("InterfacePending").await;
    assert!(on_vm(&pending), "{pending:?}");
    let nics =
        json!([{"name": "default", "infoSource": "domain"}, {"name": "second", "infoSource": "domain, multus-status"}]);
    change("virtualmachineinstances", json!([{"op": "replace", "path": "/status/interfaces", "value": nics}])).await;
    let attached = reported("InterfaceAttached").await;
    assert!(on_vm(&attached), "{attached:?}");
    task.abort();
}

#[tokio::test]
async fn the_probe_sends_a_vm_of_the_fork() {
    let Some(api) = api_server::shared().await else { return };
    let namespace = install(api).await;
    let folder = Folder::new("fork");
    let command = |settings: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
        command.args(["probe", "--namespace", &namespace, "--kubeconfig"]).arg(api.kubeconfig());
        command.arg("--settings").arg(folder.write("settings.yaml", settings)).env_remove("KUBECONFIG");
        command
    };
    // No webhook runs here, so the API server admits the VM: that of the fork, which has its own definition.
    run(command(SETTINGS)).await.check(1, &["nicplug does not deny the request"], &[]);
    let missing = "{api: {groups: {kubevirt.io: [kubevirt.example.org]}}}";
    run(command(missing)).await.check(1, &["nicplug does not deny the request"], &[]);
}
