//! On a real API server: NICs of running guests that are to be kept, and what may come between.
//!
//! The guests are those of KubeVirt's double, and the replicas are the built program. Nothing here waits for a time to
//! pass: what is not to happen is looked for after something that happens later.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cluster_support;

use std::{fs, time::Duration};

use cluster_support::{
    Folder, LONG,
    apiserver::{self, ApiServer},
    crds::{self, Kind},
    eventually,
    kubevirt_double::KubeVirtDouble,
    request::{self, Answer, Change, Run, send},
    roles::Role,
    webhook::{FailurePolicy, Webhook},
};
use hyper::http::Method;
use k8s_openapi::api::{coordination::v1::Lease, events::v1::Event};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Preconditions, PropagationPolicy},
    runtime::wait::await_condition,
};
use nicplug::k8s::kind::Kind as FactKind;
use serde_json::{Value, json};
use tokio::time::timeout;

const VM: &str = "vm-fedora";
const KEY: &str = "nicplug.io/persist";
const LEASE: &str = "nicplug-persist";

/// An election that does not keep the tests waiting.
const ELECTION: [&str; 6] = ["--lease-duration", "3s", "--lease-deadline", "2s", "--lease-retry", "200ms"];

// === The scene ===

/// A namespace with a VM that runs with one NIC.
struct Scene {
    namespace: String,
    admin: Client,
    controller: Client,
    kubevirt: KubeVirtDouble,
}

impl Scene {
    async fn open(api: &ApiServer) -> Self {
        let namespace = api.namespace("persist").await;
        let admin = api.admin();
        request::create(&admin, Kind::Vm, &namespace, &vm(), Run::Real).await.granted();
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        kubevirt.start_vm(VM).await;
        let controller = api.service_account("kubevirt", "kubevirt-controller");
        Self { namespace, admin, controller, kubevirt }
    }

    /// Plugs a NIC into the guest, as KubeVirt does, and says with it what is to be kept.
    async fn plug(&self, name: &str, network: &str, keep: Option<&str>, run: Run) -> Answer {
        let vmi = self.get(Kind::Vmi).await;
        let mut spec = json!({"networks": vmi["spec"]["networks"],
            "domain": {"devices": {"interfaces": vmi["spec"]["domain"]["devices"]["interfaces"]}}});
        let push = |list: &mut Value, entry: Value| list.as_array_mut().unwrap().push(entry);
        push(&mut spec["networks"], json!({"name": name, "multus": {"networkName": network}}));
        push(&mut spec["domain"]["devices"]["interfaces"], json!({"name": name, "bridge": {}}));
        let mut patch = json!({"spec": spec});
        if let Some(keep) = keep {
            patch["metadata"] = json!({"annotations": {KEY: keep}});
        }
        request::change(&self.controller, Kind::Vmi, &self.namespace, VM, Change::Merge(patch), run).await
    }

    /// Says of the guest what is to be kept.
    async fn keep(&self, names: &str) {
        self.change(Kind::Vmi, json!({"metadata": {"annotations": {KEY: names}}})).await;
    }

    /// Writes what is asked for into the status of the VM, as KubeVirt up to 1.0 does.
    async fn write_requests(&self, requests: &[Value], run: Run) -> Answer {
        let query = if run == Run::Dry { "?dryRun=All" } else { "" };
        let url = format!("{}/{VM}/status{query}", Kind::Vm.path(&self.namespace));
        let body = json!({"status": {"interfaceRequests": requests}}).to_string();
        send(&self.admin, Method::PATCH, &url, "application/merge-patch+json", body).await
    }

    /// Asks for a NIC in the status of the VM.
    async fn ask_in_status(&self, name: &str) {
        let request = json!({"addInterfaceOptions": {"name": name, "networkAttachmentDefinitionName": "net"}});
        self.write_requests(&[request], Run::Real).await.granted();
    }

    async fn change(&self, kind: Kind, patch: Value) -> Value {
        let change = Change::Merge(patch);
        request::change(&self.admin, kind, &self.namespace, VM, change, Run::Real).await.granted()
    }

    async fn get(&self, kind: Kind) -> Value {
        serde_json::to_value(kind.api(&self.admin, &self.namespace).get(VM).await.unwrap()).unwrap()
    }

    /// Waits until an object is as it should be.
    async fn when(&self, kind: Kind, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let objects = kind.api(&self.admin, &self.namespace);
        let condition = |object: Option<&DynamicObject>| {
            object.is_some_and(|object| is_right(&serde_json::to_value(object).unwrap()))
        };
        let found = timeout(LONG, await_condition(objects, VM, condition)).await;
        let Ok(found) = found else { panic!("not within {LONG:?}: {what}; it is {:#}", self.get(kind).await) };
        serde_json::to_value(found.unwrap()).unwrap()
    }

    /// Waits until the annotation of the guest is gone.
    async fn when_done(&self) {
        self.when(Kind::Vmi, "the annotation is taken away", |vmi| annotation(vmi).is_none()).await;
    }

    /// The NICs of the template, which are the same in both lists.
    async fn kept(&self) -> Vec<String> {
        nics(&self.get(Kind::Vm).await)
    }

    /// Waits for an event on an object of this name with this reason, and returns its note.
    async fn event(&self, kind: &str, reason: &str) -> String {
        eventually(reason, async || self.notes(kind, reason).await.pop()).await
    }

    /// The notes of such events, each once. Whoever leads tells a thing once; who follows may tell it again, and the
    /// replicas of all tests here follow one another.
    async fn notes(&self, kind: &str, reason: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), &self.namespace);
        let events = events.list(&ListParams::default()).await.unwrap();
        let is_meant = |event: &&Event| {
            event.reason.as_deref() == Some(reason)
                && event.regarding.as_ref().is_some_and(|object| object.kind.as_deref() == Some(kind))
        };
        let tale = |event: &Event| (event.note.clone().unwrap(), event.reporting_instance.clone());
        let mut tales: Vec<_> = events.items.iter().filter(is_meant).map(tale).collect();
        tales.sort();
        assert!(tales.windows(2).all(|pair| pair[0] != pair[1]), "told twice by one: {tales:?}");
        let mut notes: Vec<String> = tales.into_iter().map(|(note, _)| note).collect();
        notes.dedup();
        notes
    }

    /// Keeps a policy that refuses updates of a kind, unless what they do is right (CEL), until it is lifted.
    async fn forbid(&self, kind: &str, right: &str) -> Policy {
        let name = format!("{}-{kind}", self.namespace);
        let policy = json!({"metadata": {"name": name}, "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                "resourceRules": [{"apiGroups": ["kubevirt.io"], "apiVersions": ["v1"], "operations": ["UPDATE"],
                    "resources": [kind]}]},
            "validations": [{"expression": format!("{right} && !('probe' in object.metadata.?labels.orValue({{}}))"),
                "message": "not now"}]}});
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
        let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
        for (plural, object) in [("ies", policy), ("ybindings", binding)] {
            let url = format!("{path}{plural}");
            send(&self.admin, Method::POST, &url, "application/json", object.to_string()).await.granted();
        }
        let probed = if kind == "virtualmachines" { Kind::Vm } else { Kind::Vmi };
        let probe = || Change::Merge(json!({"metadata": {"labels": {"probe": "1"}}}));
        eventually("the policy is heard of", async || {
            let answer = request::change(&self.admin, probed, &self.namespace, VM, probe(), Run::Dry).await;
            (!answer.is_ok()).then_some(())
        })
        .await;
        Policy { url: format!("{path}ybindings/{name}") }
    }
}

/// What forbids something.
struct Policy {
    url: String,
}

impl Policy {
    async fn lift(self, admin: &Client) {
        send(admin, Method::DELETE, &self.url, "application/json", "").await.granted();
    }
}

/// Forbids that a template gets more NICs.
const NO_MORE_NICS: &str = "object.spec.template.spec.domain.devices.interfaces.size() <= \
     oldObject.spec.template.spec.domain.devices.interfaces.size()";

/// Forbids that the annotation goes.
const KEPT_ANNOTATION: &str = "(object.metadata.?annotations[?'nicplug.io/persist'].hasValue() || \
     !oldObject.metadata.?annotations[?'nicplug.io/persist'].hasValue())";

/// Starts a replica of this name.
async fn replica(api: &ApiServer, name: &str) -> Webhook {
    replica_of(api.kubeconfig().to_str().unwrap(), name).await
}

/// Starts a replica of this name as the user of a kubeconfig.
async fn replica_of(kubeconfig: &str, name: &str) -> Webhook {
    let mut flags = vec!["--lease-namespace", "default"];
    flags.extend(ELECTION);
    Webhook::start_with(&flags, &[("KUBECONFIG", kubeconfig), ("POD_NAME", name)]).await
}

/// Waits until a replica of one of these names leads, and returns which.
async fn leader(api: &ApiServer, names: &[&str]) -> String {
    let leases: Api<Lease> = Api::namespaced(api.admin(), "default");
    eventually("a replica leads", async || {
        let holder = leases.get_opt(LEASE).await.unwrap()?.spec?.holder_identity?;
        let name = holder.split('_').next()?.to_owned();
        names.contains(&name.as_str()).then_some(name)
    })
    .await
}

fn vm() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": VM},
        "spec": {"runStrategy": "Always", "template": {"metadata": {"annotations": {}}, "spec": {
            "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}]}, "memory": {"guest": "1Gi"}},
            "networks": [{"name": "default", "pod": {}}]}}}})
}

fn nics(vm: &Value) -> Vec<String> {
    let guest = &vm["spec"]["template"]["spec"];
    let [interfaces, networks] = [&guest["domain"]["devices"]["interfaces"], &guest["networks"]].map(|list| {
        let entries = list.as_array().unwrap().iter();
        entries.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(interfaces, networks);
    interfaces
}

fn annotation(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][KEY].as_str()
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap()
}

// === What is kept ===

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_is_kept_whether_its_annotation_comes_before_it_with_it_or_after_it() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let nad = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "net"}, "spec": {"config": json!({"cniVersion": "0.3.1", "type": "bridge"}).to_string()}});
    request::create(&scene.admin, Kind::Nad, &scene.namespace, &nad, Run::Real).await.granted();
    let nicplug = replica(api, "kept").await;
    // Its own writes are judged like any other.
    nicplug.register(api, &scene.namespace, FailurePolicy::Fail).await;
    let before = generation(&scene.get(Kind::Vm).await);

    scene.plug("with", "net", Some("with"), Run::Real).await.granted();
    scene.when_done().await;
    assert_eq!(scene.kept().await, ["default", "with"]);

    scene.keep("before").await;
    scene.plug("before", "net", None, Run::Real).await.granted();
    scene.when_done().await;

    scene.plug("after", "net", None, Run::Real).await.granted();
    scene.keep("after,default").await;
    scene.when_done().await;

    scene.keep("*").await;
    scene.plug("star", "net", None, Run::Real).await.granted();
    scene.when_done().await;

    let vm = scene.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "with", "before", "after", "star"]);
    assert_eq!(generation(&vm), before + 4, "each was written once");
    let vmi = scene.get(Kind::Vmi).await;
    assert_eq!(vm["spec"]["template"]["spec"]["networks"], vmi["spec"]["networks"]);
    let notes = scene.notes("VirtualMachine", "InterfacePersisted").await;
    let note = |names: &str| format!("{names} is in the VM's template, and stays after a restart");
    assert_eq!(notes, [r#""after", "default""#, r#""before""#, r#""star""#, r#""with""#].map(note));
    assert!(scene.notes("VirtualMachine", "PersistFailed").await.is_empty());
    assert_eq!(scene.kubevirt.refusals(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_keeps_nothing_and_a_refused_one_neither() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let _nicplug = replica(api, "dry").await;
    let before = generation(&scene.get(Kind::Vm).await);
    scene.plug("dry", "net", Some("dry"), Run::Dry).await.granted();
    // What a webhook allows, another may refuse: nothing is stored, so nothing is mirrored.
    let policy = scene.forbid("virtualmachineinstances", "!object.spec.networks.exists(n, n.name == 'refused')").await;
    assert!(!scene.plug("refused", "net", Some("refused"), Run::Real).await.is_ok());
    policy.lift(&scene.admin).await;

    eventually("the policy is forgotten", async || {
        scene.plug("later", "net", Some("later"), Run::Real).await.is_ok().then_some(())
    })
    .await;
    scene.when_done().await;
    let vm = scene.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "later"]);
    assert_eq!(generation(&vm), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_webhook_that_refuses_the_vm_is_quoted_and_asked_again() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let _nicplug = replica(api, "refused").await;
    scene.plug("dyniface1", "no-such-net", None, Run::Real).await.granted();
    let before = scene.get(Kind::Vm).await;

    // A nicplug that believes that the guest has one NIC and that there is no network.
    let folder = Folder::new("facts");
    let mut facts = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": VM, "namespace": scene.namespace}, "spec": vm()["spec"]["template"]["spec"],
        "status": {"phase": "Running"}});
    fs::write(folder.path().join("vmi.json"), facts.to_string()).unwrap();
    facts = before.clone();
    fs::write(folder.path().join("vm.json"), facts.to_string()).unwrap();
    let other = Webhook::start(&["--facts", folder.path().to_str().unwrap()]).await;
    let registration = other.register(api, &scene.namespace, FailurePolicy::Fail).await;

    scene.keep("dyniface1").await;
    let note = scene.event("VirtualMachine", "PersistFailed").await;
    assert!(note.starts_with(r#""dyniface1" cannot be written into the VM: admission webhook"#), "{note}");
    assert!(note.contains("there is no NetworkAttachmentDefinition"), "{note}");
    assert_eq!(scene.get(Kind::Vm).await["spec"], before["spec"]);

    for (kind, name) in [("mutating", registration.mutating), ("validating", registration.validating)] {
        let url = format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations/{name}");
        send(&scene.admin, Method::DELETE, &url, "application/json", "").await.granted();
    }
    scene.when_done().await;
    assert_eq!(scene.kept().await, ["default", "dyniface1"]);
    assert_eq!(scene.notes("VirtualMachine", "PersistFailed").await, [note], "however often it was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_of_other_writes_the_nic_is_kept_and_so_are_they() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let _nicplug = replica(api, "storm").await;
    let write = async |count: u32| {
        // In the very lists that the NIC goes to.
        let field = "/spec/template/spec/domain/devices/interfaces/0/macAddress";
        let mac = format!("02:00:00:00:00:{count:02x}");
        let patch = json!([{"op": "add", "path": field, "value": mac},
            {"op": "add", "path": format!("/metadata/labels/write-{count}"), "value": "1"}]);
        request::change(&scene.admin, Kind::Vm, &scene.namespace, VM, Change::Json(patch), Run::Real).await
    };
    scene.change(Kind::Vm, json!({"metadata": {"labels": {"storm": "1"}}})).await;
    scene.keep("dyniface1").await;
    for count in 0..100 {
        if count == 10 {
            scene.plug("dyniface1", "net", None, Run::Real).await.granted();
        }
        write(count).await.granted();
    }
    scene.when_done().await;
    let vm = scene.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
    assert_eq!(vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0]["macAddress"], "02:00:00:00:00:63");
    let labels = vm["metadata"]["labels"].as_object().unwrap();
    assert_eq!(labels.keys().filter(|key| key.starts_with("write-")).count(), 100);
    assert_eq!(scene.notes("VirtualMachine", "PersistFailed").await, Vec::<String>::new(), "a conflict is no failure");
}

// === Who does it ===

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_between_two_writes_is_followed_by_one_who_does_the_rest_once() {
    let Some(api) = ApiServer::start().await else { return };
    let scene = Scene::open(&api).await;
    let mut replicas = vec![("a", replica(&api, "a").await), ("b", replica(&api, "b").await)];
    let first = leader(&api, &["a", "b"]).await;
    let before = generation(&scene.get(Kind::Vm).await);
    let policy = scene.forbid("virtualmachineinstances", KEPT_ANNOTATION).await;
    scene.plug("dyniface1", "net", Some("*"), Run::Real).await.granted();
    scene.when(Kind::Vm, "the NIC is in the template", |vm| nics(vm).len() == 2).await;

    // By SIGKILL.
    replicas.retain(|(name, _)| *name != first);
    let second = leader(&api, &[replicas[0].0]).await;
    assert_ne!(first, second);
    let vmi = scene.get(Kind::Vmi).await;
    assert_eq!(annotation(&vmi), Some("dyniface1"), "the star was resolved before anything was written");
    policy.lift(&scene.admin).await;
    scene.when_done().await;
    let vm = scene.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
    assert_eq!(generation(&vm), before + 1, "the template was written once");
    assert!(scene.event("VirtualMachine", "InterfacePersisted").await.starts_with(r#""dyniface1""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_away_for_a_minute_finds_the_wish_waiting() {
    let Some(mut api) = ApiServer::start().await else { return };
    let nicplug = replica(&api, "away").await;
    leader(&api, &["away"]).await;
    let (namespace, policy, before) = {
        let scene = Scene::open(&api).await;
        let before = generation(&scene.get(Kind::Vm).await);
        let policy = scene.forbid("virtualmachines", NO_MORE_NICS).await;
        scene.plug("dyniface1", "net", Some("dyniface1"), Run::Real).await.granted();
        let note = scene.event("VirtualMachine", "PersistFailed").await;
        assert!(note.contains("not now"), "{note}");
        assert_eq!(scene.kept().await, ["default"]);
        (scene.namespace.clone(), policy, before)
    };
    api.stop().await;
    // Pauses between tries grow with the time that it is away, to half a minute: so it has to be away for as long as an
    // administrator sees it. What is true after that does not depend on how long it was.
    let minute = tokio::time::sleep(Duration::from_mins(1));
    eventually("the leader has stopped", async || {
        nicplug.log().iter().any(|line| line["message"] == "no longer leading").then_some(())
    })
    .await;
    minute.await;
    api.start_again().await;
    policy.lift(&api.admin()).await;
    let (admin, controller) = (api.admin(), api.service_account("kubevirt", "kubevirt-controller"));
    let kubevirt = KubeVirtDouble::start(&api, &namespace);
    let scene = Scene { namespace, admin, controller, kubevirt };
    scene.when_done().await;
    let vm = scene.get(Kind::Vm).await;
    assert_eq!((nics(&vm), generation(&vm)), (vec!["default".to_owned(), "dyniface1".to_owned()], before + 1));
    assert!(scene.event("VirtualMachine", "InterfacePersisted").await.starts_with(r#""dyniface1""#));
}

// === What it may do ===

/// What mirroring is allowed (docs/rbac.md): group, resource and verbs.
const RIGHTS: [(&str, &str, &[&str]); 6] = [
    ("coordination.k8s.io", "leases", &["create", "get", "update"]),
    ("events.k8s.io", "events", &["create"]),
    ("kubevirt.io", "virtualmachineinstances", &["get", "patch"]),
    ("kubevirt.io", "virtualmachines", &["get", "patch"]),
    ("kubevirt.io", "virtualmachines/status", &["patch"]),
    ("kubevirt.io", "kubevirts", &["list"]),
];

/// The rules of all that, and of the watches, but for one verb of one resource.
fn rules(without: Option<(&str, &str)>) -> Vec<Value> {
    let watched = FactKind::ALL.iter().map(|kind| (kind.group(), kind.plural(), &["list", "watch"][..]));
    let all = RIGHTS
        .into_iter()
        .chain(watched)
        .flat_map(|(group, resource, verbs)| verbs.iter().map(move |verb| (group, resource, *verb)));
    let left = all.filter(|(_, resource, verb)| without != Some((*resource, *verb)));
    left.map(|(group, resource, verb)| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]}))
        .collect()
}

/// What tells of it in the log.
const TOLD: [&str; 4] = [
    "cannot write an Event",
    "NICs not persisted",
    "NICs not persisted: cannot read the object",
    "cannot read or write the Lease",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_right_that_is_taken_away_is_told_of_and_when_it_is_back_all_is_done() {
    let Some(api) = ApiServer::start().await else { return };
    let scene = Scene::open(&api).await;
    forget_interface_requests(&scene).await;
    let (user, folder) = ("nicplug", Folder::new("rights"));
    let role = Role { api: &api, name: user.to_owned() };
    role.grant(&rules(None)).await;
    let nicplug = replica_of(&api.kubeconfig_of(user, &folder), "rights").await;

    let rights = RIGHTS.iter().flat_map(|(_, resource, verbs)| verbs.iter().map(move |verb| (*resource, *verb)));
    for (index, (resource, verb)) in rights.enumerate() {
        let name = format!("nic-{index}");
        leader(&api, &["rights"]).await;
        // Before the right goes: a leader renews at any moment.
        let before = nicplug.log().len();
        role.grant(&rules(Some((resource, verb)))).await;
        match (resource, verb) {
            // A leader renews by itself.
            ("leases", "update") => {}
            ("leases", _) => {
                let leases: Api<Lease> = Api::namespaced(scene.admin.clone(), "default");
                leases.delete(LEASE, &DeleteParams::default()).await.unwrap();
            }
            ("kubevirts" | "virtualmachines/status", _) => scene.ask_in_status(&name).await,
            _ => drop(scene.plug(&name, "net", Some(&name), Run::Real).await.granted()),
        }
        let words = format!("cannot {verb} resource {resource:?}");
        let tells = |line: &Value| {
            let is_ours = line["message"].as_str().is_some_and(|message| TOLD.contains(&message));
            is_ours
                && line
                    .as_object()
                    .unwrap()
                    .values()
                    .any(|value| value.as_str().is_some_and(|text| text.contains(&words)))
        };
        eventually(&words, async || nicplug.log()[before..].iter().any(tells).then_some(())).await;

        role.grant(&rules(None)).await;
        match resource {
            "leases" => drop(scene.plug(&name, "net", Some(&name), Run::Real).await.granted()),
            // That one event is lost, and the next one is not.
            "events" => {
                scene.when_done().await;
                scene.plug("nic-again", "net", Some("nic-again"), Run::Real).await.granted();
                let notes = async || scene.notes("VirtualMachine", "InterfacePersisted").await;
                let is_written = async || notes().await.iter().any(|note| note.contains("nic-again")).then_some(());
                eventually("the next event", is_written).await;
                assert!(!notes().await.iter().any(|note| note.contains(&name)));
            }
            _ => {}
        }
        scene.when_done().await;
        let is_done = |vm: &Value| {
            nics(vm).contains(&name) && vm["status"]["interfaceRequests"].as_array().is_none_or(Vec::is_empty)
        };
        scene.when(Kind::Vm, &words, is_done).await;
    }

    let granted = api.user(user);
    let vm = format!("{}/{VM}", Kind::Vm.path(&scene.namespace));
    let kubevirt = format!("{}/kubevirt", Kind::KubeVirt.path(&scene.namespace));
    for (method, path) in [(Method::DELETE, &vm), (Method::PUT, &vm), (Method::PATCH, &kubevirt)] {
        let answer = send(&granted, method.clone(), path, "application/merge-patch+json", "{}").await;
        assert_eq!(answer.code, 403, "{method} {path}: {answer:?}");
    }
}

// === What cannot be kept ===

#[tokio::test(flavor = "multi_thread")]
async fn a_template_with_the_name_on_another_network_is_not_overwritten() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let _nicplug = replica(api, "other").await;
    scene.plug("dyniface1", "net", None, Run::Real).await.granted();
    // Its double has the NIC already, so KubeVirt copies nothing.
    let guest = json!({"networks": [{"name": "default", "pod": {}}, {"name": "dyniface1", "multus": {"networkName": "net-b"}}],
        "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}, {"name": "dyniface1", "bridge": {}}]}}});
    let before = scene.change(Kind::Vm, json!({"spec": {"template": {"spec": guest}}})).await;
    scene.plug("dyniface2", "net", Some("dyniface1,dyniface2"), Run::Real).await.granted();
    let vmi = scene.when(Kind::Vmi, "one is done", |vmi| annotation(vmi) == Some("dyniface1")).await;
    assert_eq!(vmi["spec"]["networks"].as_array().unwrap().len(), 3);
    let note = scene.event("VirtualMachine", "PersistFailed").await;
    let expected =
        r#"the template has "dyniface1" on network "net-b", and nothing is overwritten; choose another name"#;
    assert_eq!(note, expected);
    let vm = scene.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "dyniface1", "dyniface2"]);
    let networks = |vm: &Value| vm["spec"]["template"]["spec"]["networks"][1].clone();
    assert_eq!(networks(&vm), networks(&before));

    // Mended in the template, it is done at the next look.
    scene.change(Kind::Vm, json!({"spec": {"template": {"spec": {"networks": [{"name": "default", "pod": {}},
        {"name": "dyniface1", "multus": {"networkName": "net"}}, {"name": "dyniface2", "multus": {"networkName": "net"}}]}}}}))
    .await;
    scene.kubevirt.beat(VM, 1).await;
    scene.when_done().await;
    assert_eq!(scene.notes("VirtualMachine", "PersistFailed").await, [note]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmi_without_a_vm_is_told_so() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let _nicplug = replica(api, "alone").await;
    scene.change(Kind::Vmi, json!({"metadata": {"ownerReferences": null}})).await;
    scene.plug("dyniface1", "net", Some("dyniface1"), Run::Real).await.granted();
    let note = scene.event("VirtualMachineInstance", "PersistFailed").await;
    assert!(note.starts_with("no VirtualMachine owns the VMI"), "{note}");
    assert_eq!(scene.kept().await, ["default"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_deleted_and_made_again_is_another_one() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let _nicplug = replica(api, "again").await;
    let vms = Kind::Vm.api(&scene.admin, &scene.namespace);
    let uid = vms.get(VM).await.unwrap().metadata.uid;
    let preconditions = Some(Preconditions { uid, resource_version: None });
    let orphan = DeleteParams {
        preconditions,
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    vms.delete(VM, &orphan).await.unwrap();
    // Nothing to keep it in: nobody complains.
    scene.plug("dyniface1", "net", Some("dyniface1"), Run::Real).await.granted();
    let again = request::create(&scene.admin, Kind::Vm, &scene.namespace, &vm(), Run::Real).await.granted();
    scene.kubevirt.beat(VM, 1).await;
    let note = scene.event("VirtualMachine", "PersistFailed").await;
    assert!(note.contains("is not the one that the VMI was made from"), "{note}");
    assert_eq!(generation(&scene.get(Kind::Vm).await), generation(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmi_that_is_made_again_has_other_wishes() {
    let Some(api) = apiserver::shared().await else { return };
    let scene = Scene::open(api).await;
    let _nicplug = replica(api, "restart").await;
    scene.keep("first").await;
    let vmis = Kind::Vmi.api(&scene.admin, &scene.namespace);
    vmis.delete(VM, &DeleteParams::default()).await.unwrap();
    scene.kubevirt.start_vm(VM).await;
    scene.plug("first", "net", None, Run::Real).await.granted();
    scene.plug("second", "net", Some("second"), Run::Real).await.granted();
    scene.when_done().await;
    assert_eq!(scene.kept().await, ["default", "second"]);
}

// === Requests in the status ===

/// Makes the cluster one that was updated to a KubeVirt which carries no requests out, and has kept the schema of the
/// one before.
async fn forget_interface_requests(scene: &Scene) {
    crds::keep_interface_requests(&scene.admin).await;
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"}, "spec": {},
        "status": {"observedKubeVirtVersion": "v1.9.0"}});
    request::create(&scene.admin, Kind::KubeVirt, &scene.namespace, &kubevirt, Run::Real).await.granted();
    let url = format!("{}/kubevirt/status", Kind::KubeVirt.path(&scene.namespace));
    let version = json!({"status": kubevirt["status"]}).to_string();
    send(&scene.admin, Method::PATCH, &url, "application/merge-patch+json", version).await.granted();
    // The API server takes a new schema up a moment later.
    let probe = [json!({"removeInterfaceOptions": {"name": "probe"}})];
    eventually("the schema keeps them", async || {
        let asked = scene.write_requests(&probe, Run::Dry).await.granted();
        asked["status"]["interfaceRequests"].is_array().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_the_status_is_judged_like_a_nic_that_is_added() {
    let Some(api) = ApiServer::start().await else { return };
    let scene = Scene::open(&api).await;
    forget_interface_requests(&scene).await;
    let nad = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "net"}, "spec": {"config": json!({"cniVersion": "0.3.1", "type": "bridge"}).to_string()}});
    request::create(&scene.admin, Kind::Nad, &scene.namespace, &nad, Run::Real).await.granted();
    let nicplug = replica(&api, "judged").await;
    let registration = nicplug.register(&api, &scene.namespace, FailurePolicy::Fail).await;
    let url = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let also = json!([{"op": "add", "path": "/webhooks/0/rules/0/resources/-", "value": "virtualmachines/status"}]);
    let url = format!("{url}/{}", registration.validating);
    send(&scene.admin, Method::PATCH, &url, "application/json-patch+json", also.to_string()).await.granted();

    let add = |name: &str, network: &str| json!({"addInterfaceOptions": {"name": name, "networkAttachmentDefinitionName": network}});
    let malformed = [add("dyniface1", "net"), json!({"addInterfaceOptions": {"name": "dyniface2"}})];
    eventually("the webhook is called for a status", async || {
        (!scene.write_requests(&malformed, Run::Dry).await.is_ok()).then_some(())
    })
    .await;
    for (requests, rule, place) in [
        (&malformed[..], "[NP115]", "status.interfaceRequests[1]"),
        (&[add("dyniface1", "no-such-net")], "[NP105]", "status.interfaceRequests[0].addInterfaceOptions"),
        (&[add("default", "net")], "[NP115]", "status.interfaceRequests[0]"),
    ] {
        let answer = scene.write_requests(requests, Run::Real).await;
        assert_eq!(answer.code, 422, "{answer:?}");
        let is_meant = |cause: &request::Cause| cause.message.ends_with(rule) && cause.field.starts_with(place);
        assert!(answer.causes().iter().any(is_meant), "{rule} {answer:?}");
    }
    assert_eq!(scene.get(Kind::Vm).await["status"]["interfaceRequests"], Value::Null);

    scene.write_requests(&[add("dyniface1", "net")], Run::Real).await.granted();
    let vm = scene.when(Kind::Vm, "it is carried out", |vm| nics(vm).len() == 2).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_the_status_are_carried_out_where_kubevirt_has_forgotten_them() {
    let Some(api) = ApiServer::start().await else { return };
    let scene = Scene::open(&api).await;
    let asked = ["dyniface1", "default"]
        .map(|name| json!({"addInterfaceOptions": {"name": name, "networkAttachmentDefinitionName": "net"}}));
    let vm = scene.write_requests(&asked, Run::Real).await.granted();
    assert_eq!(vm["status"]["interfaceRequests"], Value::Null, "a new schema prunes them");

    forget_interface_requests(&scene).await;
    let _nicplug = replica(&api, "status").await;
    scene.write_requests(&asked, Run::Real).await.granted();
    let is_done = |vm: &Value| vm["status"]["interfaceRequests"].as_array().is_some_and(|left| left.len() == 1);
    let vm = scene.when(Kind::Vm, "one is carried out", is_done).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
    let note = scene.event("VirtualMachine", "PersistFailed").await;
    assert!(note.starts_with(r#"the template has "default" on no network"#), "{note}");
    assert!(scene.event("VirtualMachine", "InterfacePersisted").await.contains("dyniface1"));
}
