//! Facts from a real API server: seen as they come and go, and worth what they are said to be worth whatever happens to
//! the server, to our rights, and to single objects.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cluster_support;

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use cluster_support::{
    Folder,
    apiserver::{self, ApiServer},
    crds::{self, Kind},
    eventually,
    kubevirt_double::KubeVirtDouble,
    request::{self, Change as Write, Run},
    roles::Role,
    webhook::{FailurePolicy, Webhook},
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
    certificates::{self, Host},
    change::Change,
    cluster::{
        persist_queue::{ObjectRef, Pending},
        watch::{KINDS, State, Tuning, WatchError, Watches},
    },
    facts::{Fact, FactSource, Facts, attachment::InPlace},
    k8s::{backoff::Pauses, kind::Kind as FactKind},
    server::{Config as ServerConfig, Server, tls::Pair},
    settings::{Settings, overrides::Overrides},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tower::util::MapFutureLayer;

const VM: &str = "vm-fedora";
const NETWORK: &str = "blue";

/// Quick enough for tests, whatever happens.
fn tuning() -> Tuning {
    Tuning {
        page: 3,
        watch: Duration::from_secs(2),
        forbidden_grace: Duration::from_millis(200),
        pauses: Pauses { first: Duration::from_millis(20), longest: Duration::from_millis(200) },
        ..Tuning::default()
    }
}

fn watch(client: &Client) -> Watches {
    Watches::start(client, Pending::default(), &tuning())
}

// === What is asked ===

/// The review of an update that gives the VM a NIC on a network.
fn review_of(namespace: &str, network: &str) -> Vec<u8> {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "name": VM,
        "namespace": namespace, "operation": "UPDATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"},
        "object": vm_with(network), "oldObject": vm()}})
    .to_string()
    .into_bytes()
}

/// What is known about that update, with the network [`NETWORK`].
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

/// What is known about [`NETWORK`].
fn network(watches: &Watches, namespace: &str) -> Fact<()> {
    network_of(watches, namespace, NETWORK)
}

/// What is known about a network, without its content.
fn network_of(watches: &Watches, namespace: &str, name: &str) -> Fact<()> {
    match facts_with(watches, namespace, name).nads.lookup(NadRef { namespace, name }).nad {
        Fact::Known(_) => Fact::Known(()),
        Fact::Absent => Fact::Absent,
        Fact::Unknown => Fact::Unknown,
    }
}

fn state(watches: &Watches, kind: FactKind) -> State {
    watches.status().of(kind).unwrap().state().0
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    eventually(what, async || holds().then_some(())).await;
}

async fn all_in_step(watches: &Watches) {
    until("all watches are in step", || KINDS.iter().all(|kind| state(watches, *kind) == State::Synced)).await;
}

// === What there is ===

fn vm() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": VM},
        "spec": {"runStrategy": "Always", "template": {"spec": guest(&[])}}})
}

fn vm_with(nic: &str) -> Value {
    let mut vm = vm();
    vm["spec"]["template"]["spec"] = guest(&[nic]);
    vm
}

fn guest(nics: &[&str]) -> Value {
    let mut interfaces = vec![json!({"name": "default", "masquerade": {}})];
    let mut networks = vec![json!({"name": "default", "pod": {}})];
    for nic in nics {
        interfaces.push(json!({"name": nic, "bridge": {}}));
        networks.push(json!({"name": nic, "multus": {"networkName": nic}}));
    }
    json!({"domain": {"devices": {"interfaces": interfaces}, "memory": {"guest": "1Gi"}}, "networks": networks})
}

fn nad() -> Value {
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": NETWORK},
        "spec": {"config": "{\"type\": \"bridge\"}"}})
}

async fn post(admin: &Client, path: &str, object: &Value) -> Value {
    request::send(admin, Method::POST, path, "application/json", object.to_string()).await.granted()
}

/// Writes, or takes away, what a namespace asks for.
async fn annotate(admin: &Client, namespace: &str, rules: Value) {
    let body = json!({"metadata": {"annotations": {"nicplug.io/rules": rules}}}).to_string();
    let path = format!("/api/v1/namespaces/{namespace}");
    request::send(admin, Method::PATCH, &path, "application/merge-patch+json", body).await.granted();
}

async fn delete(admin: &Client, path: &str) {
    request::send(admin, Method::DELETE, path, "application/json", "").await.granted();
}

// === Seen ===

#[tokio::test]
async fn every_fact_is_seen_to_come_and_to_go() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("seen").await);
    let pending = Pending::default();
    let watches = Watches::start(&admin, pending.clone(), &tuning());
    all_in_step(&watches).await;
    let before = facts(&watches, &namespace);
    assert!(matches!((before.vmi, before.vm, before.migration), (Fact::Absent, Fact::Absent, Fact::Absent)));
    assert!(matches!((before.nodes, before.isolation), (Fact::Unknown, Fact::Absent)));
    assert_eq!(network(&watches, &namespace), Fact::Absent);

    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "Stage"}}});
    request::create(&admin, Kind::KubeVirt, &namespace, &kubevirt, Run::Real).await.granted();
    request::create(&admin, Kind::Nad, &namespace, &nad(), Run::Real).await.granted();
    request::create(&admin, Kind::Vm, &namespace, &vm(), Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    double.start_vm(VM).await;
    let migration = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
        "metadata": {"name": "move"}, "spec": {"vmiName": VM}});
    request::create(&admin, Kind::Migration, &namespace, &migration, Run::Real).await.granted();
    let daemon_sets = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets");
    post(&admin, &daemon_sets, &controller()).await;
    let config = json!({"metadata": {"name": "multus-daemon-config"},
        "data": {"daemon-config.json": "{\"namespaceIsolation\": true}"}});
    post(&admin, &format!("/api/v1/namespaces/{namespace}/configmaps"), &config).await;
    post(&admin, "/api/v1/nodes", &json!({"metadata": {"name": namespace}})).await;
    annotate(&admin, &namespace, json!("NP103=warn")).await;

    let is_seen = |facts: &Facts| {
        facts.kubevirt.known().is_some_and(|kubevirt| kubevirt.rollout.is_some())
            && facts.vmi.known().is_some_and(|vmi| vmi.is_live())
            && facts.vm.known().is_some()
            && facts.migration == Fact::Known("move".into())
            && facts.attachment.known().is_some_and(|attachment| attachment.in_place == InPlace::No)
            && facts.isolation.known().is_some()
            && facts.nodes == Fact::Known(1)
            && facts.overrides == Fact::Known(Arc::new(Overrides::parse("NP103=warn")))
            // Fetched because it was asked for: nobody stamped this guest.
            && facts.revision.known().is_some()
    };
    until("every object is seen", || is_seen(&facts(&watches, &namespace))).await;
    until("the network is seen", || network(&watches, &namespace) == Fact::Known(())).await;

    // A status is a change like any other.
    let ready = json!({"status": {"numberReady": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
        "numberMisscheduled": 0}});
    let path = format!("{daemon_sets}/dynamic-networks-controller-ds/status");
    request::send(&admin, Method::PATCH, &path, "application/merge-patch+json", ready.to_string()).await.granted();
    let in_place = || facts(&watches, &namespace).attachment.known().map(|attachment| attachment.in_place);
    until("the controller is ready", || in_place() == Some(InPlace::Yes)).await;
    let asks = json!({"metadata": {"annotations": {"nicplug.io/persist": "*"}}});
    request::change(&admin, Kind::Vmi, &namespace, VM, Write::Merge(asks), Run::Real).await.granted();
    until("the guest asks", || pending.is_asking(&ObjectRef::vmi(&namespace, VM))).await;

    for (kind, name) in [(Kind::Migration, "move"), (Kind::Vmi, VM), (Kind::Vm, VM), (Kind::Nad, NETWORK)] {
        delete(&admin, &format!("{}/{name}", kind.path(&namespace))).await;
    }
    delete(&admin, &format!("{daemon_sets}/dynamic-networks-controller-ds")).await;
    delete(&admin, &format!("/api/v1/namespaces/{namespace}/configmaps/multus-daemon-config")).await;
    delete(&admin, &format!("/api/v1/nodes/{namespace}")).await;
    annotate(&admin, &namespace, Value::Null).await;
    delete(&admin, &format!("{}/kubevirt", Kind::KubeVirt.path(&namespace))).await;
    let is_gone = |facts: &Facts| {
        facts.vmi == Fact::Absent
            && facts.vm == Fact::Absent
            && facts.migration == Fact::Absent
            && facts.attachment.known().is_some_and(|attachment| attachment.in_place == InPlace::No)
            && facts.isolation == Fact::Absent
            && facts.nodes == Fact::Unknown
            && facts.overrides == Fact::Absent
            && facts.kubevirt == Fact::Unknown
    };
    until("every object is gone", || is_gone(&facts(&watches, &namespace))).await;
    until("the network is gone", || network(&watches, &namespace) == Fact::Absent).await;
    assert!(pending.is_empty());
}

/// The dynamic-networks controller, which is ready nowhere yet.
fn controller() -> Value {
    let labels = json!({"app": "dynamic-networks-controller"});
    json!({"metadata": {"name": "dynamic-networks-controller-ds"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "it", "image": "example.com/it",
            "command": ["/dynamic-networks-controller"]}]}}}})
}

#[tokio::test]
async fn more_objects_than_a_page_holds_are_all_listed() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("pages").await);
    let names: Vec<String> = (0..10).map(|number| format!("net-{number}")).collect();
    for name in &names {
        let mut nad = nad();
        nad["metadata"]["name"] = json!(name);
        request::create(&admin, Kind::Nad, &namespace, &nad, Run::Real).await.granted();
    }
    let watches = watch(&admin);
    all_in_step(&watches).await;
    let known = || names.iter().filter(|name| network_of(&watches, &namespace, name) == Fact::Known(())).count();
    assert_eq!(known(), 10);
    delete(&admin, &format!("{}/net-7", Kind::Nad.path(&namespace))).await;
    until("one is gone", || known() == 9).await;
}

// === What may go wrong ===

#[tokio::test]
async fn without_a_right_only_its_own_facts_are_unknown_until_it_is_given() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("rights").await);
    request::create(&admin, Kind::Nad, &namespace, &nad(), Run::Real).await.granted();
    let role = Role { api, name: namespace.clone() };
    role.grant(&reading(&["k8s.cni.cncf.io"])).await;
    let watches = watch(&api.user(&namespace));

    let is_forbidden = || matches!(state(&watches, FactKind::Nad), State::Forbidden(_));
    until("networks are forbidden", is_forbidden).await;
    let State::Forbidden(words) = state(&watches, FactKind::Nad) else { panic!() };
    assert!(words.contains("network-attachment-definitions.k8s.cni.cncf.io is forbidden"), "{words}");
    let others = || KINDS.iter().filter(|kind| **kind != FactKind::Nad);
    until("all others are in step", || others().all(|kind| state(&watches, *kind) == State::Synced)).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);
    assert!(matches!(facts(&watches, &namespace).vmi, Fact::Absent));

    role.grant(&reading(&[])).await;
    until("networks are in step", || state(&watches, FactKind::Nad) == State::Synced).await;
    assert_eq!(network(&watches, &namespace), Fact::Known(()));

    // A watch that is open stays so; the next one is refused, and once that has lasted the facts are forgotten.
    role.grant(&reading(&["k8s.cni.cncf.io"])).await;
    until("networks are forbidden again", is_forbidden).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);
    assert!(others().all(|kind| state(&watches, *kind) == State::Synced));
    assert!(matches!(facts(&watches, &namespace).vmi, Fact::Absent));
}

#[tokio::test]
async fn each_verb_of_each_kind_that_is_taken_away_leaves_its_facts_unknown_and_no_others() {
    let Some(api) = apiserver::shared().await else { return };
    let cases = KINDS.iter().flat_map(|kind| ["list", "watch"].map(|verb| (*kind, verb)));
    let without = async |kind: FactKind, verb: &str| {
        let role = Role { api, name: format!("without-{verb}-{}", kind.plural()) };
        role.grant(&lacking(verb, kind)).await;
        let watches = watch(&api.user(&role.name));
        let is_forbidden = || matches!(state(&watches, kind), State::Forbidden(_));
        until(&format!("{verb} of {kind} is forbidden"), is_forbidden).await;
        let State::Forbidden(words) = state(&watches, kind) else { panic!("{verb} of {kind}") };
        assert!(words.contains(&format!("cannot {verb} resource {:?}", kind.plural())), "{words}");
        let others = || KINDS.iter().filter(|other| **other != kind);
        until("all others are in step", || others().all(|other| state(&watches, *other) == State::Synced)).await;

        role.grant(&reading(&[])).await;
        all_in_step(&watches).await;
    };
    future::join_all(cases.map(|(kind, verb)| without(kind, verb))).await;
}

#[tokio::test]
async fn without_the_right_to_fetch_it_what_a_guest_booted_with_is_unknown_until_it_is_given() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("boot").await);
    let role = Role { api, name: "without-get-controllerrevisions".to_owned() };
    role.grant(&lacking("get", FactKind::Revision)).await;
    let (may, may_not) = (watch(&admin), watch(&api.user(&role.name)));
    request::create(&admin, Kind::Vm, &namespace, &vm(), Run::Real).await.granted();
    let double = KubeVirtDouble::start(api, &namespace);
    double.start_vm(VM).await;

    let is_running = || facts(&may_not, &namespace).vmi.known().is_some_and(|vmi| vmi.is_live());
    until("the guest is seen", is_running).await;
    let revision = |watches: &Watches| facts(watches, &namespace).revision;
    // Both are asked, and what the one is given stays from the other.
    let is_fetched = || revision(&may_not) == Fact::Unknown && revision(&may).known().is_some();
    until("the other one has fetched it", is_fetched).await;
    role.grant(&reading(&[])).await;
    until("it is fetched", || revision(&may_not).known().is_some()).await;
}

/// The right to read all kinds that facts are made from, but for those of some groups.
fn reading(without: &[&str]) -> Vec<Value> {
    let kinds = FactKind::ALL.iter().filter(|kind| !without.contains(&kind.group()));
    let verbs = ["get", "list", "watch"];
    kinds.map(|kind| json!({"apiGroups": [kind.group()], "resources": [kind.plural()], "verbs": verbs})).collect()
}

/// The same right for all kinds, but for one verb of one of them.
fn lacking(verb: &str, kind: FactKind) -> Vec<Value> {
    let mut rights = reading(&[]);
    let right = rights.iter_mut().find(|right| right["resources"] == json!([kind.plural()])).unwrap();
    right["verbs"].as_array_mut().unwrap().retain(|granted| granted != verb);
    rights
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_unknown_until_it_is() {
    let Some(api) = ApiServer::start().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("installed").await);
    let definition =
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/network-attachment-definitions.k8s.cni.cncf.io";
    delete(&admin, definition).await;
    let is_served = async || request::send(&admin, Method::GET, &Kind::Nad.path(&namespace), "", "").await.code != 404;
    eventually("the kind is gone", async || (!is_served().await).then_some(())).await;

    let watches = watch(&admin);
    until("networks are not installed", || state(&watches, FactKind::Nad) == State::NotInstalled).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);

    crds::install(&admin).await;
    eventually("the kind is there", async || is_served().await.then_some(())).await;
    request::create(&admin, Kind::Nad, &namespace, &nad(), Run::Real).await.granted();
    until("networks are known", || network(&watches, &namespace) == Fact::Known(())).await;

    // And gone again, with all its objects.
    delete(&admin, definition).await;
    until("networks are not installed again", || state(&watches, FactKind::Nad) == State::NotInstalled).await;
    assert_eq!(network(&watches, &namespace), Fact::Unknown);
    until("all others are in step", || {
        KINDS.iter().filter(|kind| **kind != FactKind::Nad).all(|kind| state(&watches, *kind) == State::Synced)
    })
    .await;
}

#[tokio::test]
async fn answers_go_on_from_memory_while_the_api_server_is_away() {
    let Some(mut api) = ApiServer::start().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("away").await);
    request::create(&admin, Kind::Nad, &namespace, &nad(), Run::Real).await.granted();
    let replica = Replica::start(&admin).await;
    eventually("the server is ready", async || (replica.get("/readyz").await.0 == 200).then_some(())).await;
    let report = replica.get("/readyz?verbose").await.1;
    assert!(
        report.contains("[+]webhook ok\n") && report.contains("[+]facts/NetworkAttachmentDefinition ok\n"),
        "{report}"
    );
    let known = || replica.reviewer.review(Endpoint::Validate, &review_of(&namespace, NETWORK));
    let answer = known();
    assert_eq!(answer.decision, Decision::Allowed);

    api.stop().await;
    let stale = "[+]facts/NetworkAttachmentDefinition ok: stale for ";
    let report = eventually("the report says so", async || {
        Some(replica.get("/readyz?verbose").await.1).filter(|it| it.contains(stale))
    })
    .await;
    assert!(report.ends_with("\nready\n"), "{report}");
    assert_eq!(known(), answer);
    let metrics = replica.get("/metrics").await.1;
    let series = "nicplug_facts_state{kind=\"NetworkAttachmentDefinition\",state=\"stale\"} 1";
    assert!(metrics.contains(series), "{metrics}");

    // Nobody can start in the meantime and take an empty memory for the cluster.
    let newcomer = Replica::start(&admin).await;
    let (code, report) = eventually("the newcomer has tried", async || {
        Some(newcomer.get("/readyz").await).filter(|(_, report)| report.contains("not listed yet: "))
    })
    .await;
    assert_eq!(code, 503, "{report}");

    api.start_again().await;
    for replica in [&replica, &newcomer] {
        eventually("all is well again", async || {
            let (code, report) = replica.get("/readyz?verbose").await;
            (code == 200 && !report.contains("ok: ")).then_some(())
        })
        .await;
        let answer = replica.reviewer.review(Endpoint::Validate, &review_of(&namespace, NETWORK));
        assert_eq!(answer, known());
    }
}

/// A server of ours in this process.
struct Replica {
    reviewer: Reviewer,
    health: std::net::SocketAddr,
    running: JoinHandle<()>,
}

impl Replica {
    async fn start(client: &Client) -> Self {
        let watches = watch(client);
        let reviewer = Reviewer::new(Arc::clone(watches.cache()) as Arc<dyn FactSource>, Settings::default());
        let bundle = certificates::generate(&Host::local().unwrap(), SystemTime::now()).unwrap();
        let any_port = (Ipv4Addr::LOCALHOST, 0).into();
        let config = ServerConfig {
            health_listen: Some(any_port),
            watches: Some(watches),
            ..ServerConfig::new(Pair::try_from(&bundle).unwrap().into())
        };
        let server = Server::bind(config, reviewer.clone()).await.unwrap();
        let health = server.health_addr().unwrap();
        Self { reviewer, health, running: tokio::spawn(server.run(std::future::pending())) }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.health).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: probe\r\n\r\n").as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// The history that a watch goes on from is gone when it was away for longer than the API server remembers. This one
/// remembers what its store does, which is compacted every second.
#[tokio::test]
async fn a_watch_that_comes_too_late_lists_all_objects_anew() {
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
    all_in_step(&watches).await;
    assert_eq!(network(&watches, &namespace), Fact::Absent);

    // Watches end by themselves after two seconds, and now none begins again.
    gate.is_closed.send_replace(true);
    until("no watch is open", || gate.held.load(Ordering::Relaxed) == KINDS.len()).await;
    let nad = request::create(&admin, Kind::Nad, &namespace, &nad(), Run::Real).await.granted();
    let version = nad["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{}?watch=true&timeoutSeconds=1&resourceVersion={version}", Kind::Nad.path(&namespace));
    eventually("the history is gone", async || {
        let answer = request::send(&admin, Method::GET, &path, "", "").await;
        (answer.code == 410 || answer.body["object"]["code"] == 410).then_some(())
    })
    .await;
    assert_eq!(network(&watches, &namespace), Fact::Absent);

    gate.is_closed.send_replace(false);
    until("the network is known", || network(&watches, &namespace) == Fact::Known(())).await;
    // Once, unless the machine is so slow that a list is older than the history by the time that it is there.
    assert!(watches.status().of(FactKind::Nad).unwrap().count(WatchError::Expired) > 0);
    all_in_step(&watches).await;
}

/// What keeps requests from the API server, as long as it is closed.
#[derive(Default)]
struct Gate {
    is_closed: tokio::sync::watch::Sender<bool>,
    /// How many requests are before it.
    held: Arc<AtomicUsize>,
}

#[tokio::test]
async fn one_object_that_cannot_be_read_takes_no_other_with_it() {
    let Some(api) = apiserver::shared().await else { return };
    let (admin, namespace) = (api.admin(), api.namespace("broken").await);
    // The definition leaves open what stands in the metadata of a template.
    let mut broken = vm();
    broken["spec"]["template"]["metadata"] = json!({"annotations": {"kubevirt.io/pci-interface-slot-count": 5}});
    request::create(&admin, Kind::Vm, &namespace, &broken, Run::Real).await.granted();
    let watches = watch(&admin);
    all_in_step(&watches).await;
    assert_eq!(facts(&watches, &namespace).vm, Fact::Unknown);
    assert!(matches!(facts(&watches, &namespace).vmi, Fact::Absent));
    let elsewhere = facts(&watches, "no-such-namespace");
    assert_eq!(elsewhere.vm, Fact::Absent);
    assert_eq!(watches.status().of(FactKind::Vm).unwrap().count(WatchError::Unreadable), 1);

    let mended = json!({"spec": {"template": {"metadata": null}}});
    request::change(&admin, Kind::Vm, &namespace, VM, Write::Merge(mended), Run::Real).await.granted();
    until("the VM is known", || facts(&watches, &namespace).vm.known().is_some()).await;
}

// === The whole way ===

/// A webhook that knows what its watches show, and a VM that runs.
struct Served {
    admin: Client,
    namespace: String,
    _double: KubeVirtDouble,
    _webhook: Webhook,
}

impl Served {
    /// Without a flag: the cluster is found by the kubeconfig.
    async fn start(api: &'static ApiServer, namespace: &str, kubeconfig: &str) -> Self {
        let (admin, namespace) = (api.admin(), api.namespace(namespace).await);
        let webhook = Webhook::start_with(&[], &[("KUBECONFIG", kubeconfig)]).await;
        webhook.register(api, &namespace, FailurePolicy::Fail).await;
        let double = KubeVirtDouble::start(api, &namespace);
        request::create(&admin, Kind::Vm, &namespace, &vm(), Run::Real).await.granted();
        double.start_vm(VM).await;
        double.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        Self { admin, namespace, _double: double, _webhook: webhook }
    }

    /// What comes of plugging a NIC in.
    async fn plug(&self, network: &str) -> request::Answer {
        let change = Write::Merge(json!({"spec": vm_with(network)["spec"]}));
        request::change(&self.admin, Kind::Vm, &self.namespace, VM, change, Run::Dry).await
    }
}

#[tokio::test]
async fn served_without_flags_a_network_made_a_moment_ago_denies_nothing() {
    let Some(api) = apiserver::shared().await else { return };
    let served = Served::start(api, "moment", api.kubeconfig().to_str().unwrap()).await;
    for round in 0..20 {
        let name = format!("net-{round}");
        let mut nad = nad();
        nad["metadata"]["name"] = json!(name);
        request::create(&served.admin, Kind::Nad, &served.namespace, &nad, Run::Real).await.granted();
        let answer = served.plug(&name).await;
        assert!(answer.is_ok(), "round {round}: {answer:?}");
    }
    let answer = served.plug("missing").await;
    assert_eq!(answer.code, 422, "{answer:?}");
    assert!(answer.causes().iter().any(|cause| cause.message.ends_with("[NP105]")), "{answer:?}");
}

#[tokio::test]
async fn without_the_right_to_look_once_more_a_network_that_is_not_seen_is_a_warning() {
    let Some(api) = apiserver::shared().await else { return };
    let folder = Folder::new("once");
    let role = Role { api, name: "without-get-of-networks".to_owned() };
    role.grant(&lacking("get", FactKind::Nad)).await;
    let served = Served::start(api, "once", &api.kubeconfig_of(&role.name, &folder)).await;
    let answer = served.plug("missing").await;
    assert!(answer.is_ok(), "{answer:?}");
    assert!(answer.warnings.iter().any(|warning| warning.contains("NP105")), "{answer:?}");

    role.grant(&reading(&[])).await;
    let denied = async || (served.plug("missing").await.code == 422).then_some(());
    eventually("the network is looked for, and not there", denied).await;
}
