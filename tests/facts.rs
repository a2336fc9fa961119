//! Facts from a real API server: they follow the objects, and stay correct when the server, a permission or a single
//! object fails.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future};
use hyper::http::Method;
use kube::{Client, Config, client::ClientBuilder, config::Kubeconfig};
use nicplug::{
    admission::{Decision, Endpoint, Reviewer},
    api::{
        network::NadRef,
        review::{self, ParsedRequest},
    },
    change::Change,
    cluster::{
        persist_queue::{ObjectRef, PersistQueue},
        watch::{KINDS, Tuning, WatchError, WatchState, Watches},
    },
    facts::{Expansion, Fact, FactSource, Facts, attachment::InPlace},
    k8s::{backoff::Delays, kind::Kind as FactKind},
    server::{Config as ServerConfig, Server, tls::CertKeyPair},
    settings::{Settings, overrides::Overrides},
};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::{self, Kind},
        requests::{self, Change as Write, Response, Run},
        roles::Role,
        webhooks::FailurePolicy,
    },
    builders::{VM, nad, vm},
    client::get,
    folder::Folder,
    kubevirt::KubeVirtDouble,
    replica::Deployment,
    server::BUNDLE,
    wait::eventually,
};
use tokio::task::JoinHandle;
use tower::util::MapFutureLayer;

const NETWORK: &str = "blue";

/// Returns timings that are fast enough for tests.
fn tuning() -> Tuning {
    Tuning {
        page: 3,
        watch: Duration::from_secs(2),
        forbidden_grace: Duration::from_millis(200),
        retry_delays: Delays { first: Duration::from_millis(20), longest: Duration::from_millis(200) },
        ..Tuning::default()
    }
}

fn watch(client: &Client) -> Watches {
    Watches::start(client, PersistQueue::default(), &tuning())
}

// === Queries ===

/// Returns the review of an update that adds a NIC on a network.
fn review_of(namespace: &str, network: &str) -> Vec<u8> {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "name": VM,
        "namespace": namespace, "operation": "UPDATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"},
        "object": vm_with(network), "oldObject": vm().build()}})
    .to_string()
    .into_bytes()
}

/// Returns the facts for that update, with the network [`NETWORK`].
fn facts(watches: &Watches, namespace: &str) -> Facts {
    facts_with(watches, namespace, NETWORK)
}

fn facts_with(watches: &Watches, namespace: &str, network: &str) -> Facts {
    let body = review_of(namespace, network);
    let ParsedRequest::Valid(request) = review::read(&body).unwrap() else {
        panic!("{}", String::from_utf8_lossy(&body))
    };
    watches.cache().facts_for(&Change::of(&request).unwrap())
}

/// Returns the fact about [`NETWORK`].
fn network(watches: &Watches, namespace: &str) -> Fact<()> {
    network_of(watches, namespace, NETWORK)
}

/// Returns the fact about a network, without its content.
fn network_of(watches: &Watches, namespace: &str, name: &str) -> Fact<()> {
    match facts_with(watches, namespace, name).nads.lookup(NadRef { namespace, name }).nad {
        Fact::Known(_) => Fact::Known(()),
        Fact::Absent => Fact::Absent,
        Fact::Unknown => Fact::Unknown,
    }
}

fn state(watches: &Watches, kind: FactKind) -> WatchState {
    watches.statuses().of(kind).unwrap().state().0
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    eventually(what, async || holds().then_some(())).await;
}

async fn all_synced(watches: &Watches) {
    until("all watches are synced", || KINDS.iter().all(|kind| state(watches, *kind) == WatchState::Synced)).await;
}

// === Objects ===

/// Returns [`VM`] with a second NIC on a network of the same name.
fn vm_with(nic: &str) -> Value {
    vm().nic(nic, nic).build()
}

async fn post(admin: &Client, path: &str, object: &Value) -> Value {
    requests::send(admin, Method::POST, path, "application/json", object.to_string()).await.granted()
}

/// Writes or removes the annotation of a namespace.
async fn annotate(admin: &Client, namespace: &str, rules: Value) {
    let body = json!({"metadata": {"annotations": {"nicplug.io/rules": rules}}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}");
    requests::send(admin, Method::PATCH, &path, "application/merge-patch+json", body).await.granted();
}

async fn delete(admin: &Client, path: &str) {
    requests::send(admin, Method::DELETE, path, "application/json", "").await.granted();
}

/// Deletes the definition of a kind.
///
/// If the API server has not yet read the objects of the kind, it tries the deletion again only after a long time. It
/// accepts a watch when it has.
async fn uninstall(admin: &Client, kind: FactKind) {
    let (group, plural) = (kind.group(), kind.plural());
    let watch = format!("/apis/{group}/{}/{plural}?watch=true&timeoutSeconds=1", kind.version());
    eventually("a watch is accepted", async || {
        (requests::send(admin, Method::GET, &watch, "", "").await.code == 200).then_some(())
    })
    .await;
    delete(admin, &format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}")).await;
}

// === Changes ===

#[tokio::test]
async fn every_fact_follows_the_creation_and_deletion_of_its_object() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("seen").await);
    let pending = PersistQueue::default();
    let watches = Watches::start(&admin, pending.clone(), &tuning());
    all_synced(&watches).await;
    let before = facts(&watches, &namespace);
    assert!(matches!((before.vmi, before.vm, before.migration), (Fact::Absent, Fact::Absent, Fact::Absent)));
    assert!(matches!((before.nodes, before.isolation), (Fact::Unknown, Fact::Absent)));
    assert_eq!(network(&watches, &namespace), Fact::Absent);

    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "Stage"}}});
    requests::create(&admin, Kind::KubeVirt, &namespace, &kubevirt, Run::Real).await.granted();
    requests::create(&admin, Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
    requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    double.start_vm(VM).await;
    let migration = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "move"}, "spec": {"vmiName": VM}});
    requests::create(&admin, Kind::Migration, &namespace, &migration, Run::Real).await.granted();
    let daemon_sets = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets");
    post(&admin, &daemon_sets, &controller()).await;
    let config = json!({"metadata": {"name": "multus-daemon-config"},
        "data": {"daemon-config.json": "{\"namespaceIsolation\": true}"}});
    post(&admin, &format!("/api/v1/namespaces/{namespace}/configmaps"), &config).await;
    post(&admin, "/api/v1/nodes", &json!({"metadata": {"name": namespace}})).await;
    annotate(&admin, &namespace, json!("NP103=warn")).await;

    let is_known = |facts: &Facts| {
        facts.kubevirt.known().is_some_and(|kubevirt| kubevirt.rollout.is_some())
            && facts.vmi.known().is_some_and(|vmi| vmi.is_live())
            && facts.vm.known().is_some()
            && facts.migration == Fact::Known("move".into())
            && facts.attachment.known().is_some_and(|attachment| attachment.in_place == InPlace::No)
            && facts.isolation.known().is_some()
            && facts.nodes.known().is_some_and(|nodes| nodes.count() == 1)
            && facts.overrides == Fact::Known(Arc::new(Overrides::parse("NP103=warn")))
            // It is fetched on demand, because this guest has no annotation of its PCI layout.
            && facts.revision.known().is_some()
    };
    until("every object is known", || is_known(&facts(&watches, &namespace))).await;
    until("the network is known", || network(&watches, &namespace) == Fact::Known(())).await;

    // A change of a status is seen as well.
    let ready = json!({"status": {"numberReady": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
        "numberMisscheduled": 0}});
    let path = format!("{daemon_sets}/dynamic-networks-controller-ds/status");
    requests::send(&admin, Method::PATCH, &path, "application/merge-patch+json", ready.to_string()).await.granted();
    let in_place = || facts(&watches, &namespace).attachment.known().map(|attachment| attachment.in_place);
    until("the controller is ready", || in_place() == Some(InPlace::Yes)).await;
    let annotation = json!({"metadata": {"annotations": {"nicplug.io/persist": "*"}}});
    requests::change(&admin, Kind::Vmi, &namespace, VM, Write::Merge(annotation), Run::Real).await.granted();
    until("the guest's request is queued", || pending.contains(&ObjectRef::vmi(&namespace, VM))).await;

    for (kind, name) in [(Kind::Migration, "move"), (Kind::Vmi, VM), (Kind::Vm, VM), (Kind::Nad, NETWORK)] {
        delete(&admin, &format!("{}/{name}", kind.path(&namespace))).await;
    }
    delete(&admin, &format!("{daemon_sets}/dynamic-networks-controller-ds")).await;
    delete(&admin, &format!("/api/v1/namespaces/{namespace}/configmaps/multus-daemon-config")).await;
    delete(&admin, &format!("/api/v1/nodes/{namespace}")).await;
    annotate(&admin, &namespace, Value::Null).await;
    delete(&admin, &format!("{}/kubevirt", Kind::KubeVirt.path(&namespace))).await;
    let is_deleted = |facts: &Facts| {
        facts.vmi == Fact::Absent
            && facts.vm == Fact::Absent
            && facts.migration == Fact::Absent
            && facts.attachment.known().is_some_and(|attachment| attachment.in_place == InPlace::No)
            && facts.isolation == Fact::Absent
            && facts.nodes == Fact::Unknown
            && facts.overrides == Fact::Absent
            && facts.kubevirt == Fact::Unknown
    };
    until("every object is absent", || is_deleted(&facts(&watches, &namespace))).await;
    until("the network is absent", || network(&watches, &namespace) == Fact::Absent).await;
    assert!(pending.is_empty());
}

/// Returns the facts for a change of a VM with this preference and instancetype, whose status refers to this revision.
fn facts_of_expansion(watches: &Watches, namespace: &str, revision: &str) -> Expansion {
    let mut old = vm().build();
    old["spec"]["preference"] = json!({"name": "pe", "kind": "VirtualMachinePreference"});
    old["spec"]["instancetype"] = json!({"name": namespace});
    old["status"] = json!({"preferenceRef": {"controllerRevisionRef": {"name": revision}}});
    let mut new = old.clone();
    new["metadata"]["annotations"] = json!({"example.com/changed": "yes"});
    let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
        "name": VM, "namespace": namespace, "operation": "UPDATE",
        "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"}, "object": new, "oldObject": old}})
    .to_string();
    let ParsedRequest::Valid(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
    let facts = watches.cache().facts_for(&Change::of(&request).unwrap());
    facts.expansion().unwrap().clone()
}

#[tokio::test]
async fn what_kubevirt_expands_a_vm_with_follows_its_objects() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("expand").await);
    let watches = watch(&admin);
    all_synced(&watches).await;
    let expansion = |revision: &str| facts_of_expansion(&watches, &namespace, revision);
    let model = |revision: &str| {
        expansion(revision).preference.known().map(|preference| preference.devices.interface_model.to_string())
    };
    let memory = || expansion("").instancetype.known().map(|instancetype| instancetype.memory.to_string());
    assert_eq!((model(""), memory()), (None, None));

    let group = "/apis/instancetype.kubevirt.io/v1beta1";
    let of_namespace = format!("{group}/namespaces/{namespace}/virtualmachinepreferences");
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let preferring = |model: &str| json!({"devices": {"preferredInterfaceModel": model}});
    let sized = |memory: &str| json!({"cpu": {"guest": 2}, "memory": {"guest": memory}});
    post(&admin, &of_namespace, &object("VirtualMachinePreference", "pe", preferring("e1000e"))).await;
    let of_cluster = format!("{group}/virtualmachineclusterinstancetypes");
    post(&admin, &of_cluster, &object("VirtualMachineClusterInstancetype", &namespace, sized("4Gi"))).await;
    until("both are known", || model("").as_deref() == Some("e1000e") && memory().as_deref() == Some("4Gi")).await;
    for (kind, plural) in [
        ("VirtualMachineClusterPreference", "virtualmachineclusterpreferences".to_owned()),
        ("VirtualMachineInstancetype", format!("namespaces/{namespace}/virtualmachineinstancetypes")),
    ] {
        let count = |kind: FactKind| watches.cache().count(kind);
        let kind_of_fact = FactKind::of("instancetype.kubevirt.io", kind).unwrap();
        let before = count(kind_of_fact);
        post(&admin, &format!("{group}/{plural}"), &object(kind, &namespace, sized("1Gi"))).await;
        until("it is counted", || count(kind_of_fact) > before).await;
    }

    // Each change is followed.
    let change = json!({"spec": preferring("rtl8139")}).to_string();
    let merge = "application/merge-patch+json";
    requests::send(&admin, Method::PATCH, &format!("{of_namespace}/pe"), merge, change).await.granted();
    until("the other model is known", || model("").as_deref() == Some("rtl8139")).await;

    // A revision is fetched when a request needs it, and precedes the object.
    let data = object("VirtualMachinePreference", "pe", preferring("pcnet"));
    let labels = json!({"instancetype.kubevirt.io/object-name": "pe"});
    let revision = json!({"metadata": {"name": "vm-pe-1", "labels": labels}, "revision": 1, "data": data});
    post(&admin, &format!("/apis/apps/v1/namespaces/{namespace}/controllerrevisions"), &revision).await;
    until("the revision is known", || model("vm-pe-1").as_deref() == Some("pcnet")).await;
    assert_eq!(model("").as_deref(), Some("rtl8139"));

    for path in [format!("{of_namespace}/pe"), format!("{of_cluster}/{namespace}")] {
        delete(&admin, &path).await;
    }
    until("both are unknown", || model("").is_none() && memory().is_none()).await;
}

/// Returns the dynamic-networks controller, which is not ready on any node.
fn controller() -> Value {
    let labels = json!({"app": "dynamic-networks-controller"});
    json!({"metadata": {"name": "dynamic-networks-controller-ds"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "example.com/c",
            "command": ["/dynamic-networks-controller"]}]}}}})
}

#[tokio::test]
async fn objects_on_several_pages_are_all_listed() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("pages").await);
    let names: Vec<String> = (0..10).map(|number| format!("net-{number}")).collect();
    for name in &names {
        requests::create(&admin, Kind::Nad, &namespace, &nad(name), Run::Real).await.granted();
    }
    let watches = watch(&admin);
    all_synced(&watches).await;
    let known = || names.iter().filter(|name| network_of(&watches, &namespace, name) == Fact::Known(())).count();
    assert_eq!(known(), 10);
    delete(&admin, &format!("{}/net-7", Kind::Nad.path(&namespace))).await;
    until("one network is absent", || known() == 9).await;
}

// === Failures ===

#[tokio::test]
async fn without_a_permission_only_its_facts_are_unknown_until_it_is_granted() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("rights").await);
    requests::create(&admin, Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
    let role = Role { api, name: namespace.clone() };
    role.grant(&reading(&["k8s.cni.cncf.io"])).await;
    let watches = watch(&api.user(&namespace));

    let is_forbidden = || matches!(state(&watches, FactKind::Nad), WatchState::Forbidden(_));
    until("networks are forbidden", is_forbidden).await;
    let WatchState::Forbidden(reason) = state(&watches, FactKind::Nad) else { panic!() };
    assert!(reason.contains("network-attachment-definitions.k8s.cni.cncf.io is forbidden"), "{reason}");
    let others = || KINDS.iter().filter(|kind| **kind != FactKind::Nad);
    until("all others are synced", || others().all(|kind| state(&watches, *kind) == WatchState::Synced)).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);
    assert!(matches!(facts(&watches, &namespace).vmi, Fact::Absent));

    role.grant(&reading(&[])).await;
    until("networks are synced", || state(&watches, FactKind::Nad) == WatchState::Synced).await;
    assert_eq!(network(&watches, &namespace), Fact::Known(()));

    // An open watch stays open. The next one is forbidden, and after a while the facts are dropped.
    role.grant(&reading(&["k8s.cni.cncf.io"])).await;
    until("networks are forbidden again", is_forbidden).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);
    assert!(others().all(|kind| state(&watches, *kind) == WatchState::Synced));
    assert!(matches!(facts(&watches, &namespace).vmi, Fact::Absent));
}

#[tokio::test]
async fn without_one_verb_on_one_kind_only_the_facts_of_that_kind_are_unknown() {
    let Some(api) = api_server::shared().await else { return };
    let cases = KINDS.iter().flat_map(|kind| ["list", "watch"].map(|verb| (*kind, verb)));
    let without = async |kind: FactKind, verb: &str| {
        let role = Role { api, name: format!("without-{verb}-{}", kind.plural()) };
        role.grant(&reading_without(verb, kind)).await;
        let watches = watch(&api.user(&role.name));
        let is_forbidden = || matches!(state(&watches, kind), WatchState::Forbidden(_));
        until(&format!("{verb} of {kind} is forbidden"), is_forbidden).await;
        let WatchState::Forbidden(reason) = state(&watches, kind) else { panic!("{verb} of {kind}") };
        assert!(reason.contains(&format!("cannot {verb} resource {:?}", kind.plural())), "{reason}");
        let others = || KINDS.iter().filter(|other| **other != kind);
        until("all others are synced", || others().all(|other| state(&watches, *other) == WatchState::Synced)).await;

        role.grant(&reading(&[])).await;
        all_synced(&watches).await;
    };
    future::join_all(cases.map(|(kind, verb)| without(kind, verb))).await;
}

#[tokio::test]
async fn without_the_permission_to_get_it_the_boot_revision_is_unknown_until_it_is_granted() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("boot").await);
    let role = Role { api, name: "without-get-controllerrevisions".to_owned() };
    role.grant(&reading_without("get", FactKind::Revision)).await;
    let (permitted, forbidden) = (watch(&admin), watch(&api.user(&role.name)));
    requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    double.start_vm(VM).await;

    let is_running = || facts(&forbidden, &namespace).vmi.known().is_some_and(|vmi| vmi.is_live());
    until("the guest is known", is_running).await;
    let revision = |watches: &Watches| facts(watches, &namespace).revision;
    // Both need it, and only the permitted one gets it.
    let is_fetched = || revision(&forbidden) == Fact::Unknown && revision(&permitted).known().is_some();
    until("the permitted one has fetched it", is_fetched).await;
    role.grant(&reading(&[])).await;
    until("it is fetched", || revision(&forbidden).known().is_some()).await;
}

/// Returns the permissions to read all kinds that facts need, without those of some groups.
fn reading(without: &[&str]) -> Vec<Value> {
    let kinds = FactKind::ALL.iter().filter(|kind| !without.contains(&kind.group()));
    let verbs = ["get", "list", "watch"];
    kinds.map(|kind| json!({"apiGroups": [kind.group()], "resources": [kind.plural()], "verbs": verbs})).collect()
}

/// Returns the permissions to read all kinds, without one verb on one of them.
fn reading_without(verb: &str, kind: FactKind) -> Vec<Value> {
    let mut rules = reading(&[]);
    let rule = rules.iter_mut().find(|rule| rule["resources"] == json!([kind.plural()])).unwrap();
    rule["verbs"].as_array_mut().unwrap().retain(|granted| granted != verb);
    rules
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_unknown_until_it_is() {
    let Some(api) = ApiServer::start().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("installed").await);
    uninstall(&admin, FactKind::Nad).await;
    let is_served = async || requests::send(&admin, Method::GET, &Kind::Nad.path(&namespace), "", "").await.code != 404;
    eventually("the kind is not served", async || (!is_served().await).then_some(())).await;

    let watches = watch(&admin);
    until("networks are not installed", || state(&watches, FactKind::Nad) == WatchState::NotInstalled).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);

    crds::install(&admin).await;
    eventually("the kind is served", async || is_served().await.then_some(())).await;
    requests::create(&admin, Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
    until("networks are known", || network(&watches, &namespace) == Fact::Known(())).await;

    // The kind is removed again, with all its objects.
    uninstall(&admin, FactKind::Nad).await;
    until("networks are not installed again", || state(&watches, FactKind::Nad) == WatchState::NotInstalled).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);
    until("all others are synced", || {
        KINDS.iter().filter(|kind| **kind != FactKind::Nad).all(|kind| state(&watches, *kind) == WatchState::Synced)
    })
    .await;
}

#[tokio::test]
async fn a_cluster_without_instancetypes_lacks_nothing() {
    let Some(api) = ApiServer::start().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("plain").await);
    future::join_all(FactKind::EXPANDING.map(|kind| uninstall(&admin, kind))).await;
    let group = "/apis/instancetype.kubevirt.io";
    let is_served = async || requests::send(&admin, Method::GET, group, "", "").await.code != 404;
    eventually("the group is not served", async || (!is_served().await).then_some(())).await;

    let server = WatchingServer::start(&admin).await;
    eventually("the server is ready", async || (server.get("/readyz").await.0 == 200).then_some(())).await;
    let report = async || server.get("/readyz?verbose").await.1;
    let is_quiet = async || report().await.contains("[+]facts/VirtualMachinePreference ok\n").then_some(());
    eventually("nothing is missing", is_quiet).await;
    let watches = watch(&admin);
    let is_absent = |kind: &FactKind| state(&watches, *kind) == WatchState::NotInstalled;
    until("the kinds are not installed", || FactKind::EXPANDING.iter().all(is_absent)).await;
    let errors = |kind: FactKind| watches.statuses().of(kind).unwrap().error_count(WatchError::NotInstalled);
    assert_eq!(FactKind::EXPANDING.map(errors), [0; 4]);

    crds::install(&admin).await;
    all_synced(&watches).await;
    assert_eq!(facts_of_expansion(&watches, &namespace, "").preference, Fact::Unknown);
}

#[tokio::test]
async fn reviews_continue_from_memory_during_an_outage_of_the_api_server() {
    let Some(mut api) = ApiServer::start().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("away").await);
    requests::create(&admin, Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
    let server = WatchingServer::start(&admin).await;
    eventually("the server is ready", async || (server.get("/readyz").await.0 == 200).then_some(())).await;
    let report = server.get("/readyz?verbose").await.1;
    assert!(
        report.contains("[+]webhook ok\n") && report.contains("[+]facts/NetworkAttachmentDefinition ok\n"),
        "{report}"
    );
    let review = || server.reviewer.review(Endpoint::Validate, &review_of(&namespace, NETWORK));
    let answer = review();
    assert_eq!(answer.decision, Decision::Allowed);

    api.stop().await;
    let stale = "[+]facts/NetworkAttachmentDefinition ok: stale for ";
    let report = eventually("the report says so", async || {
        Some(server.get("/readyz?verbose").await.1).filter(|it| it.contains(stale))
    })
    .await;
    assert!(report.ends_with("\nready\n"), "{report}");
    assert_eq!(review(), answer);
    let metrics = server.get("/metrics").await.1;
    let series = "nicplug_facts_state{kind=\"NetworkAttachmentDefinition\",state=\"stale\"} 1";
    assert!(metrics.contains(series), "{metrics}");

    // A server that starts during the outage does not take its empty memory for the cluster.
    let newcomer = WatchingServer::start(&admin).await;
    let (code, report) = eventually("the newcomer has tried to list", async || {
        Some(newcomer.get("/readyz").await).filter(|(_, report)| report.contains("not listed yet: "))
    })
    .await;
    assert_eq!(code, 503, "{report}");

    api.start_again().await;
    for server in [&server, &newcomer] {
        eventually("all facts are current again", async || {
            let (code, report) = server.get("/readyz?verbose").await;
            (code == 200 && !report.contains("ok: ")).then_some(())
        })
        .await;
        let answer = server.reviewer.review(Endpoint::Validate, &review_of(&namespace, NETWORK));
        assert_eq!(answer, review());
    }
}

/// A server in this process that watches the cluster.
struct WatchingServer {
    reviewer: Reviewer,
    health: SocketAddr,
    running: JoinHandle<()>,
}

impl WatchingServer {
    async fn start(client: &Client) -> Self {
        let watches = watch(client);
        let reviewer = Reviewer::new(Arc::clone(watches.cache()) as Arc<dyn FactSource>, Settings::default());
        let any_port = (Ipv4Addr::LOCALHOST, 0).into();
        let config = ServerConfig {
            health_listen: Some(any_port),
            watches: Some(watches),
            ..ServerConfig::new(CertKeyPair::try_from(&*BUNDLE).unwrap().into())
        };
        let server = Server::bind(config, reviewer.clone()).await.unwrap();
        let health = server.health_addr().unwrap();
        Self { reviewer, health, running: tokio::spawn(server.run(std::future::pending())) }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        get(self.health, path).await
    }
}

impl Drop for WatchingServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A watch cannot resume after a break that is longer than the history of the API server. This API server has only the
/// history of its etcd, which is compacted every second.
#[tokio::test]
async fn a_watch_that_cannot_resume_lists_all_objects_again() {
    let flags = &["--watch-cache=false", "--etcd-compaction-interval=1s"];
    let Some(api) = ApiServer::start_with(flags).await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("late").await);
    let config = Config::try_from(Kubeconfig::read_from(api.kubeconfig()).unwrap()).unwrap();
    let gate = Gate::default();
    let (held, is_closed) = (Arc::clone(&gate.held), gate.is_closed.subscribe());
    let gated = MapFutureLayer::new(move |request| {
        let (held, mut is_closed) = (Arc::clone(&held), is_closed.clone());
        async move {
            held.fetch_add(1, Ordering::Relaxed);
            let _ = is_closed.wait_for(|is_closed| !is_closed).await;
            held.fetch_sub(1, Ordering::Relaxed);
            request.await
        }
        .boxed()
    });
    let watches = watch(&ClientBuilder::try_from(config).unwrap().with_layer(&gated).build());
    all_synced(&watches).await;
    assert_eq!(network(&watches, &namespace), Fact::Absent);

    // Watches end after two seconds, and now no new one begins.
    gate.is_closed.send_replace(true);
    until("no watch is open", || gate.held.load(Ordering::Relaxed) == KINDS.len()).await;
    let nad = requests::create(&admin, Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
    let version = nad["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{}?watch=true&timeoutSeconds=1&resourceVersion={version}", Kind::Nad.path(&namespace));
    eventually("the history is compacted", async || {
        let answer = requests::send(&admin, Method::GET, &path, "", "").await;
        (answer.code == 410 || answer.body["object"]["code"] == 410).then_some(())
    })
    .await;
    assert_eq!(network(&watches, &namespace), Fact::Absent);

    gate.is_closed.send_replace(false);
    until("the network is known", || network(&watches, &namespace) == Fact::Known(())).await;
    // More than once if the machine is so slow that the history is compacted during a list.
    assert!(watches.statuses().of(FactKind::Nad).unwrap().error_count(WatchError::Expired) > 0);
    all_synced(&watches).await;
}

/// Delays requests to the API server while it is closed.
#[derive(Default)]
struct Gate {
    is_closed: tokio::sync::watch::Sender<bool>,
    /// How many requests are waiting.
    held: Arc<AtomicUsize>,
}

#[tokio::test]
async fn an_unreadable_object_does_not_affect_the_others() {
    let Some(api) = api_server::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("broken").await);
    // The schema allows any value in the metadata of a template.
    let mut broken = vm().build();
    broken["spec"]["template"]["metadata"] = json!({"annotations": {"kubevirt.io/pci-interface-slot-count": 5}});
    requests::create(&admin, Kind::Vm, &namespace, &broken, Run::Real).await.granted();
    let watches = watch(&admin);
    all_synced(&watches).await;
    assert_eq!(facts(&watches, &namespace).vm, Fact::Unknown);
    assert!(matches!(facts(&watches, &namespace).vmi, Fact::Absent));
    let elsewhere = facts(&watches, "no-such-namespace");
    assert_eq!(elsewhere.vm, Fact::Absent);
    assert_eq!(watches.statuses().of(FactKind::Vm).unwrap().error_count(WatchError::Unreadable), 1);

    let fixed = json!({"spec": {"template": {"metadata": null}}});
    requests::change(&admin, Kind::Vm, &namespace, VM, Write::Merge(fixed), Run::Real).await.granted();
    until("the VM is known", || facts(&watches, &namespace).vm.known().is_some()).await;
}

// === Reviews ===

/// nicplug that watches the cluster and reviews a namespace with a running VM.
struct WatchedNamespace {
    admin: Client,
    namespace: String,
    _double: KubeVirtDouble,
    _nicplug: Deployment,
}

impl WatchedNamespace {
    /// nicplug has no flags: it finds the cluster by the kubeconfig.
    async fn start(api: &'static ApiServer, namespace: &str, kubeconfig: &str) -> Self {
        let (admin, namespace) = (api.admin(), api.namespace(namespace).await);
        let environment = [("KUBECONFIG", kubeconfig)];
        let nicplug = Deployment::start(api, &namespace, FailurePolicy::Fail, &[], &environment).await;
        let double = KubeVirtDouble::start(api, &namespace);
        requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
        double.start_vm(VM).await;
        double.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        Self { admin, namespace, _double: double, _nicplug: nicplug }
    }

    /// Adds a NIC by a dry run.
    async fn plug(&self, network: &str) -> Response {
        let change = Write::Merge(json!({"spec": vm_with(network)["spec"]}));
        requests::change(&self.admin, Kind::Vm, &self.namespace, VM, change, Run::Dry).await
    }
}

#[tokio::test]
async fn a_network_that_was_created_a_moment_ago_causes_no_denial() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = WatchedNamespace::start(api, "moment", api.kubeconfig().to_str().unwrap()).await;
    for round in 0..20 {
        let name = format!("net-{round}");
        requests::create(&fixture.admin, Kind::Nad, &fixture.namespace, &nad(&name), Run::Real).await.granted();
        let response = fixture.plug(&name).await;
        assert!(response.is_ok(), "round {round}: {response:?}");
    }
    let response = fixture.plug("missing").await;
    assert_eq!(response.code, 422, "{response:?}");
    assert!(response.causes().iter().any(|cause| cause.message.ends_with("[NP105]")), "{response:?}");
}

#[tokio::test]
async fn without_the_permission_for_a_recheck_an_unknown_network_causes_only_a_warning() {
    let Some(api) = api_server::shared().await else { return };
    let folder = Folder::new("recheck");
    let role = Role { api, name: "without-get-of-networks".to_owned() };
    role.grant(&reading_without("get", FactKind::Nad)).await;
    let fixture = WatchedNamespace::start(api, "recheck", &api.kubeconfig_of(&role.name, &folder)).await;
    let response = fixture.plug("missing").await;
    assert!(response.is_ok(), "{response:?}");
    assert!(response.warnings.iter().any(|warning| warning.contains("NP105")), "{response:?}");

    role.grant(&reading(&[])).await;
    let denied = async || (fixture.plug("missing").await.code == 422).then_some(());
    eventually("the recheck finds no network", denied).await;
}
