//! On a real API server: NICs of running guests are written into the template of their VM, also after interruptions.
//!
//! The guests are those of KubeVirt's double, and the replicas are the built program. The tests wait for events only:
//! they check that something did not happen after a later event.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Duration;

use hyper::http::Method;
use k8s_openapi::api::{coordination::v1::Lease, events::v1::Event};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Preconditions, PropagationPolicy},
    runtime::wait::await_condition,
};
use nicplug::k8s::kind::Kind as FactKind;
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::{self, Kind},
        requests::{self, Change, Response, Run, send},
        roles::Role,
        webhooks::FailurePolicy,
    },
    builders::{VM, nad, vm},
    cases::Cause,
    folder::Folder,
    kubevirt::KubeVirtDouble,
    replica::{Deployment, Replica},
    wait::{LONG, eventually},
};
use tokio::time::timeout;

const PERSIST: &str = "nicplug.io/persist";
const LEASE: &str = "nicplug-persist";

/// Flags of an election that is fast enough for tests.
const ELECTION: [&str; 6] = ["--lease-duration", "3s", "--lease-deadline", "2s", "--lease-retry", "200ms"];

// === The fixture ===

/// A namespace with a VM that runs with one NIC.
struct PersistedVm {
    namespace: String,
    admin: Client,
    controller: Client,
    kubevirt: KubeVirtDouble,
}

impl PersistedVm {
    async fn start(api: &ApiServer) -> Self {
        Self::start_version(api, "v1.9.0").await
    }

    /// With the controllers of this version of KubeVirt.
    async fn start_version(api: &ApiServer, version: &str) -> Self {
        let namespace = api.namespace("persist").await;
        let admin = api.admin();
        requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
        let kubevirt = KubeVirtDouble::start_version(api, &namespace, version);
        kubevirt.start_vm(VM).await;
        let controller = api.service_account("kubevirt", "kubevirt-controller");
        Self { namespace, admin, controller, kubevirt }
    }

    /// Plugs a NIC into the guest, as KubeVirt does, and writes the annotation in the same update.
    async fn plug(&self, name: &str, network: &str, persist: Option<&str>, run: Run) -> Response {
        let vmi = self.get(Kind::Vmi).await;
        let mut spec = json!({"networks": vmi["spec"]["networks"],
            "domain": {"devices": {"interfaces": vmi["spec"]["domain"]["devices"]["interfaces"]}}});
        let push = |list: &mut Value, entry: Value| list.as_array_mut().unwrap().push(entry);
        push(&mut spec["networks"], json!({"name": name, "multus": {"networkName": network}}));
        push(&mut spec["domain"]["devices"]["interfaces"], json!({"name": name, "bridge": {}}));
        let mut patch = json!({"spec": spec});
        if let Some(persist) = persist {
            patch["metadata"] = json!({"annotations": {PERSIST: persist}});
        }
        requests::change(&self.controller, Kind::Vmi, &self.namespace, VM, Change::Merge(patch), run).await
    }

    /// Writes the annotation of the guest.
    async fn annotate(&self, names: &str) {
        self.change(Kind::Vmi, json!({"metadata": {"annotations": {PERSIST: names}}})).await;
    }

    /// Writes requests into the status of the VM, as KubeVirt up to 1.0 does.
    async fn write_requests(&self, requests: &[Value], run: Run) -> Response {
        let query = if run == Run::Dry { "?dryRun=All" } else { "" };
        let url = format!("{}/{VM}/status{query}", Kind::Vm.path(&self.namespace));
        let body = json!({"status": {"interfaceRequests": requests}}).to_string();
        send(&self.admin, Method::PATCH, &url, "application/merge-patch+json", body).await
    }

    /// Requests a NIC in the status of the VM.
    async fn request_in_status(&self, name: &str) {
        self.write_requests(&[add_request(name, "net")], Run::Real).await.granted();
    }

    async fn change(&self, kind: Kind, patch: Value) -> Value {
        let change = Change::Merge(patch);
        requests::change(&self.admin, kind, &self.namespace, VM, change, Run::Real).await.granted()
    }

    async fn get(&self, kind: Kind) -> Value {
        serde_json::to_value(kind.api(&self.admin, &self.namespace).get(VM).await.unwrap()).unwrap()
    }

    /// Waits for a state of an object.
    async fn when(&self, kind: Kind, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let objects = kind.api(&self.admin, &self.namespace);
        let condition = |object: Option<&DynamicObject>| {
            object.is_some_and(|object| is_right(&serde_json::to_value(object).unwrap()))
        };
        let found = timeout(LONG, await_condition(objects, VM, condition)).await;
        let Ok(found) = found else {
            panic!("did not happen within {LONG:?}: {what}; the object is {:#}", self.get(kind).await)
        };
        serde_json::to_value(found.unwrap()).unwrap()
    }

    /// Waits until the annotation of the guest is removed.
    async fn when_done(&self) {
        self.when(Kind::Vmi, "the annotation is removed", |vmi| annotation(vmi).is_none()).await;
    }

    /// Returns the names of the NICs in the template, which are the same in both lists.
    async fn template_nics(&self) -> Vec<String> {
        nics(&self.get(Kind::Vm).await)
    }

    /// Waits for an Event with this reason on an object of this kind, and returns its note.
    async fn event(&self, kind: &str, reason: &str) -> String {
        eventually(reason, async || self.notes(kind, reason).await.pop()).await
    }

    /// Returns the different notes of such Events. A leader emits an Event once. The next leader may emit it again, and
    /// the replicas of all tests here lead one after another.
    async fn notes(&self, kind: &str, reason: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), &self.namespace);
        let events = events.list(&ListParams::default()).await.unwrap();
        let is_meant = |event: &&Event| {
            event.reason.as_deref() == Some(reason)
                && event.regarding.as_ref().is_some_and(|object| object.kind.as_deref() == Some(kind))
        };
        let key = |event: &Event| (event.note.clone().unwrap(), event.reporting_instance.clone());
        let mut keys: Vec<_> = events.items.iter().filter(is_meant).map(key).collect();
        keys.sort();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "one replica emitted an Event twice: {keys:?}");
        let mut notes: Vec<String> = keys.into_iter().map(|(note, _)| note).collect();
        notes.dedup();
        notes
    }

    /// Creates an admission policy that denies updates of a kind unless a CEL expression is true.
    async fn deny_unless(&self, kind: &str, expression: &str) -> Policy {
        let name = format!("{}-{kind}", self.namespace);
        let policy = json!({"metadata": {"name": name}, "spec": {
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}},
                "resourceRules": [{"apiGroups": ["kubevirt.io"], "apiVersions": ["v1"], "operations": ["UPDATE"],
                    "resources": [kind]}]},
            "validations": [{
                "expression": format!("{expression} && !('probe' in object.metadata.?labels.orValue({{}}))"),
                "message": "not now"}]}});
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}});
        let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
        for (plural, object) in [("ies", policy), ("ybindings", binding)] {
            let url = format!("{path}{plural}");
            send(&self.admin, Method::POST, &url, "application/json", object.to_string()).await.granted();
        }
        let probed = if kind == "virtualmachines" { Kind::Vm } else { Kind::Vmi };
        let probe = || Change::Merge(json!({"metadata": {"labels": {"probe": "1"}}}));
        eventually("the policy is in force", async || {
            let response = requests::change(&self.admin, probed, &self.namespace, VM, probe(), Run::Dry).await;
            (!response.is_ok()).then_some(())
        })
        .await;
        Policy { url: format!("{path}ybindings/{name}") }
    }
}

/// An admission policy.
struct Policy {
    url: String,
}

impl Policy {
    /// Deletes the binding of the policy.
    async fn delete(self, admin: &Client) {
        send(admin, Method::DELETE, &self.url, "application/json", "").await.granted();
    }
}

/// Denies new NICs in the template.
const NO_MORE_NICS: &str = "object.spec.template.spec.domain.devices.interfaces.size() <= \
     oldObject.spec.template.spec.domain.devices.interfaces.size()";

/// Denies the removal of the annotation.
const KEEP_ANNOTATION: &str = "(object.metadata.?annotations[?'nicplug.io/persist'].hasValue() || \
     !oldObject.metadata.?annotations[?'nicplug.io/persist'].hasValue())";

/// Starts a replica with this name.
async fn replica(api: &ApiServer, name: &str) -> Replica {
    replica_with(api.kubeconfig().to_str().unwrap(), name).await
}

/// Starts a replica with this name and the kubeconfig of a user.
async fn replica_with(kubeconfig: &str, name: &str) -> Replica {
    Replica::start_with(&flags(), &[("KUBECONFIG", kubeconfig), ("POD_NAME", name)]).await
}

/// Starts a replica with this name, whose webhooks review the requests of a namespace.
async fn reviewing_replica(api: &ApiServer, namespace: &str, name: &str) -> Deployment {
    let environment = [("KUBECONFIG", api.kubeconfig().to_str().unwrap()), ("POD_NAME", name)];
    Deployment::start(api, namespace, FailurePolicy::Fail, &flags(), &environment).await
}

fn flags() -> Vec<&'static str> {
    [&["--lease-namespace", "default"][..], &ELECTION].concat()
}

/// Waits until one of these replicas leads, and returns its name.
async fn leader(api: &ApiServer, names: &[&str]) -> String {
    let leases: Api<Lease> = Api::namespaced(api.admin(), "default");
    eventually("a replica leads", async || {
        let holder = leases.get_opt(LEASE).await.unwrap()?.spec?.holder_identity?;
        let name = holder.split('_').next()?.to_owned();
        names.contains(&name.as_str()).then_some(name)
    })
    .await
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
    object["metadata"]["annotations"][PERSIST].as_str()
}

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap()
}

// === Persisted NICs ===

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_is_persisted_if_its_annotation_is_written_before_with_or_after_it() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = PersistedVm::start(api).await;
    requests::create(&fixture.admin, Kind::Nad, &fixture.namespace, &nad("net"), Run::Real).await.granted();
    // nicplug reviews its own writes as well.
    let _nicplug = reviewing_replica(api, &fixture.namespace, "persisted").await;
    let before = generation(&fixture.get(Kind::Vm).await);

    fixture.plug("with", "net", Some("with"), Run::Real).await.granted();
    fixture.when_done().await;
    assert_eq!(fixture.template_nics().await, ["default", "with"]);

    fixture.annotate("before").await;
    fixture.plug("before", "net", None, Run::Real).await.granted();
    fixture.when_done().await;

    fixture.plug("after", "net", None, Run::Real).await.granted();
    fixture.annotate("after,default").await;
    fixture.when_done().await;

    fixture.annotate("*").await;
    fixture.plug("star", "net", None, Run::Real).await.granted();
    fixture.when_done().await;

    let vm = fixture.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "with", "before", "after", "star"]);
    assert_eq!(generation(&vm), before + 4, "each NIC was written once");
    let vmi = fixture.get(Kind::Vmi).await;
    assert_eq!(vm["spec"]["template"]["spec"]["networks"], vmi["spec"]["networks"]);
    let notes = fixture.notes("VirtualMachine", "InterfacePersisted").await;
    let note = |names: &str| format!("{names} is in the VM's template, and stays after a restart");
    assert_eq!(notes, [r#""after", "default""#, r#""before""#, r#""star""#, r#""with""#].map(note));
    assert!(fixture.notes("VirtualMachine", "PersistFailed").await.is_empty());
    assert_eq!(fixture.kubevirt.errors(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_of_a_dry_run_or_of_a_denied_update_is_not_persisted() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = PersistedVm::start(api).await;
    let _nicplug = replica(api, "dry").await;
    let before = generation(&fixture.get(Kind::Vm).await);
    fixture.plug("dry", "net", Some("dry"), Run::Dry).await.granted();
    // Another policy denies an update that nicplug allows: nothing is stored, so nothing is persisted.
    let policy =
        fixture.deny_unless("virtualmachineinstances", "!object.spec.networks.exists(n, n.name == 'denied')").await;
    assert!(!fixture.plug("denied", "net", Some("denied"), Run::Real).await.is_ok());
    policy.delete(&fixture.admin).await;

    eventually("the policy is not in force any more", async || {
        fixture.plug("later", "net", Some("later"), Run::Real).await.is_ok().then_some(())
    })
    .await;
    fixture.when_done().await;
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "later"]);
    assert_eq!(generation(&vm), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_by_another_webhook_is_reported_and_the_update_is_retried() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = PersistedVm::start(api).await;
    let _nicplug = replica(api, "refused").await;
    fixture.plug("dyniface1", "no-such-net", None, Run::Real).await.granted();
    let before = fixture.get(Kind::Vm).await;

    // By the facts of this nicplug the guest has one NIC and there is no network.
    let folder = Folder::new("facts");
    let mut facts = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": VM, "namespace": fixture.namespace}, "spec": vm().guest(),
        "status": {"phase": "Running"}});
    folder.write("vmi.json", &facts.to_string());
    facts = before.clone();
    folder.write("vm.json", &facts.to_string());
    let flags = ["--facts", folder.path().to_str().unwrap()];
    let other = Deployment::start(api, &fixture.namespace, FailurePolicy::Fail, &flags, &[]).await;

    fixture.annotate("dyniface1").await;
    let note = fixture.event("VirtualMachine", "PersistFailed").await;
    assert!(note.starts_with(r#""dyniface1" cannot be written into the VM: admission webhook"#), "{note}");
    assert!(note.contains("does not exist in namespace"), "{note}");
    assert_eq!(fixture.get(Kind::Vm).await["spec"], before["spec"]);

    other.registration.delete(&fixture.admin).await;
    fixture.when_done().await;
    assert_eq!(fixture.template_nics().await, ["default", "dyniface1"]);
    assert_eq!(fixture.notes("VirtualMachine", "PersistFailed").await, [note], "there is one Event for all tries");
}

#[tokio::test(flavor = "multi_thread")]
async fn during_many_writes_of_others_the_nic_and_all_writes_are_kept() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = PersistedVm::start(api).await;
    let _nicplug = replica(api, "storm").await;
    let write = async |count: u32| {
        // These writes change the list that the NIC is added to.
        let field = "/spec/template/spec/domain/devices/interfaces/0/macAddress";
        let mac = format!("02:00:00:00:00:{count:02x}");
        let patch = json!([{"op": "add", "path": field, "value": mac},
            {"op": "add", "path": format!("/metadata/labels/write-{count}"), "value": "1"}]);
        requests::change(&fixture.admin, Kind::Vm, &fixture.namespace, VM, Change::Json(patch), Run::Real).await
    };
    fixture.change(Kind::Vm, json!({"metadata": {"labels": {"storm": "1"}}})).await;
    fixture.annotate("dyniface1").await;
    for count in 0..100 {
        if count == 10 {
            fixture.plug("dyniface1", "net", None, Run::Real).await.granted();
        }
        write(count).await.granted();
    }
    fixture.when_done().await;
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
    assert_eq!(vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][0]["macAddress"], "02:00:00:00:00:63");
    let labels = vm["metadata"]["labels"].as_object().unwrap();
    assert_eq!(labels.keys().filter(|key| key.starts_with("write-")).count(), 100);
    assert_eq!(
        fixture.notes("VirtualMachine", "PersistFailed").await,
        Vec::<String>::new(),
        "a conflict is not a failure"
    );
}

// === Leaders ===

#[tokio::test(flavor = "multi_thread")]
async fn when_a_leader_is_killed_between_two_writes_the_next_one_does_only_the_second() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = PersistedVm::start(&api).await;
    let mut replicas = vec![("a", replica(&api, "a").await), ("b", replica(&api, "b").await)];
    let first = leader(&api, &["a", "b"]).await;
    let before = generation(&fixture.get(Kind::Vm).await);
    let policy = fixture.deny_unless("virtualmachineinstances", KEEP_ANNOTATION).await;
    fixture.plug("dyniface1", "net", Some("*"), Run::Real).await.granted();
    fixture.when(Kind::Vm, "the NIC is in the template", |vm| nics(vm).len() == 2).await;

    // By SIGKILL.
    replicas.retain(|(name, _)| *name != first);
    let second = leader(&api, &[replicas[0].0]).await;
    assert_ne!(first, second);
    let vmi = fixture.get(Kind::Vmi).await;
    assert_eq!(annotation(&vmi), Some("dyniface1"), "the star was replaced by names before the first write");
    policy.delete(&fixture.admin).await;
    fixture.when_done().await;
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
    assert_eq!(generation(&vm), before + 1, "the template was written once");
    assert!(fixture.event("VirtualMachine", "InterfacePersisted").await.starts_with(r#""dyniface1""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_of_the_api_server_for_a_minute_the_nic_is_persisted() {
    let Some(mut api) = ApiServer::start().await else { return };
    let nicplug = replica(&api, "outage").await;
    leader(&api, &["outage"]).await;
    let (namespace, policy, before) = {
        let fixture = PersistedVm::start(&api).await;
        let before = generation(&fixture.get(Kind::Vm).await);
        let policy = fixture.deny_unless("virtualmachines", NO_MORE_NICS).await;
        fixture.plug("dyniface1", "net", Some("dyniface1"), Run::Real).await.granted();
        let note = fixture.event("VirtualMachine", "PersistFailed").await;
        assert!(note.contains("not now"), "{note}");
        assert_eq!(fixture.template_nics().await, ["default"]);
        (fixture.namespace.clone(), policy, before)
    };
    api.stop().await;
    // The pauses between retries grow up to half a minute, so the outage has to be as long as a real one. The result
    // does not depend on its length.
    let minute = tokio::time::sleep(Duration::from_mins(1));
    eventually("the leader has stopped", async || {
        nicplug.log().iter().any(|line| line["message"] == "no longer leading").then_some(())
    })
    .await;
    minute.await;
    api.start_again().await;
    policy.delete(&api.admin()).await;
    let (admin, controller) = (api.admin(), api.service_account("kubevirt", "kubevirt-controller"));
    let kubevirt = KubeVirtDouble::start(&api, &namespace);
    let fixture = PersistedVm { namespace, admin, controller, kubevirt };
    fixture.when_done().await;
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!((nics(&vm), generation(&vm)), (vec!["default".to_owned(), "dyniface1".to_owned()], before + 1));
    assert!(fixture.event("VirtualMachine", "InterfacePersisted").await.starts_with(r#""dyniface1""#));
}

// === Permissions ===

/// The permissions that persisting needs (docs/rbac.md): group, resource and verbs.
const RIGHTS: [(&str, &str, &[&str]); 6] = [
    ("coordination.k8s.io", "leases", &["create", "get", "update"]),
    ("events.k8s.io", "events", &["create"]),
    ("kubevirt.io", "virtualmachineinstances", &["get", "patch"]),
    ("kubevirt.io", "virtualmachines", &["get", "patch"]),
    ("kubevirt.io", "virtualmachines/status", &["patch"]),
    ("kubevirt.io", "kubevirts", &["list"]),
];

/// Returns the rules of these permissions and of the watches, without one verb of one resource.
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

/// The messages of the log that report a missing permission.
const MESSAGES: [&str; 4] = [
    "cannot write an Event",
    "NICs not persisted",
    "NICs not persisted: cannot read the object",
    "cannot read or write the Lease",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_permission_is_logged_and_when_it_is_granted_all_nics_are_persisted() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = PersistedVm::start(&api).await;
    keep_interface_requests(&fixture).await;
    let (user, folder) = ("nicplug", Folder::new("rights"));
    let role = Role { api: &api, name: user.to_owned() };
    role.grant(&rules(None)).await;
    let nicplug = replica_with(&api.kubeconfig_of(user, &folder), "rights").await;

    let rights = RIGHTS.iter().flat_map(|(_, resource, verbs)| verbs.iter().map(move |verb| (*resource, *verb)));
    for (index, (resource, verb)) in rights.enumerate() {
        let name = format!("nic-{index}");
        leader(&api, &["rights"]).await;
        // Before the permission is removed, because a leader renews the Lease at any time.
        let before = nicplug.log().len();
        role.grant(&rules(Some((resource, verb)))).await;
        match (resource, verb) {
            // A leader renews the Lease without a request of the test.
            ("leases", "update") => {}
            ("leases", _) => {
                let leases: Api<Lease> = Api::namespaced(fixture.admin.clone(), "default");
                leases.delete(LEASE, &DeleteParams::default()).await.unwrap();
            }
            ("kubevirts" | "virtualmachines/status", _) => fixture.request_in_status(&name).await,
            _ => drop(fixture.plug(&name, "net", Some(&name), Run::Real).await.granted()),
        }
        let reason = format!("cannot {verb} resource {resource:?}");
        let is_logged = |line: &Value| {
            let is_ours = line["message"].as_str().is_some_and(|message| MESSAGES.contains(&message));
            is_ours
                && line
                    .as_object()
                    .unwrap()
                    .values()
                    .any(|value| value.as_str().is_some_and(|text| text.contains(&reason)))
        };
        eventually(&reason, async || nicplug.log()[before..].iter().any(is_logged).then_some(())).await;

        role.grant(&rules(None)).await;
        match resource {
            "leases" => drop(fixture.plug(&name, "net", Some(&name), Run::Real).await.granted()),
            // This Event is lost, and the next one is written.
            "events" => {
                fixture.when_done().await;
                fixture.plug("nic-again", "net", Some("nic-again"), Run::Real).await.granted();
                let notes = async || fixture.notes("VirtualMachine", "InterfacePersisted").await;
                let is_written = async || notes().await.iter().any(|note| note.contains("nic-again")).then_some(());
                eventually("the next event", is_written).await;
                assert!(!notes().await.iter().any(|note| note.contains(&name)));
            }
            _ => {}
        }
        fixture.when_done().await;
        let is_done = |vm: &Value| {
            nics(vm).contains(&name) && vm["status"]["interfaceRequests"].as_array().is_none_or(Vec::is_empty)
        };
        fixture.when(Kind::Vm, &reason, is_done).await;
    }

    let granted = api.user(user);
    let vm = format!("{}/{VM}", Kind::Vm.path(&fixture.namespace));
    let kubevirt = format!("{}/kubevirt", Kind::KubeVirt.path(&fixture.namespace));
    for (method, path) in [(Method::DELETE, &vm), (Method::PUT, &vm), (Method::PATCH, &kubevirt)] {
        let response = send(&granted, method.clone(), path, "application/merge-patch+json", "{}").await;
        assert_eq!(response.code, 403, "{method} {path}: {response:?}");
    }
}

// === NICs that cannot be persisted ===

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_of_the_same_name_on_another_network_is_not_overwritten() {
    let Some(api) = api_server::shared().await else { return };
    // KubeVirt 1.9 gives the guest the network of the template.
    let fixture = PersistedVm::start_version(api, "v1.8.4").await;
    let _nicplug = replica(api, "other").await;
    fixture.plug("dyniface1", "net", None, Run::Real).await.granted();
    // The VMI has a NIC of that name, so KubeVirt copies nothing.
    let guest = vm().nic("dyniface1", "net-b").guest();
    let before = fixture.change(Kind::Vm, json!({"spec": {"template": {"spec": guest}}})).await;
    fixture.plug("dyniface2", "net", Some("dyniface1,dyniface2"), Run::Real).await.granted();
    let vmi = fixture.when(Kind::Vmi, "one NIC is persisted", |vmi| annotation(vmi) == Some("dyniface1")).await;
    assert_eq!(vmi["spec"]["networks"].as_array().unwrap().len(), 3);
    let note = fixture.event("VirtualMachine", "PersistFailed").await;
    let expected = r#"the template already has "dyniface1", on network "net-b", which nicplug does not overwrite; choose another name"#;
    assert_eq!(note, expected);
    let vm = fixture.get(Kind::Vm).await;
    assert_eq!(nics(&vm), ["default", "dyniface1", "dyniface2"]);
    let networks = |vm: &Value| vm["spec"]["template"]["spec"]["networks"][1].clone();
    assert_eq!(networks(&vm), networks(&before));

    // When the template is fixed, the NIC is persisted at the next heartbeat.
    let networks = support::builders::vm().nic("dyniface1", "net").nic("dyniface2", "net").guest()["networks"].clone();
    fixture.change(Kind::Vm, json!({"spec": {"template": {"spec": {"networks": networks}}}})).await;
    fixture.kubevirt.heartbeat(VM, 1).await;
    fixture.when_done().await;
    assert_eq!(fixture.notes("VirtualMachine", "PersistFailed").await, [note]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmi_without_a_vm_gets_an_event() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = PersistedVm::start(api).await;
    let _nicplug = replica(api, "alone").await;
    fixture.change(Kind::Vmi, json!({"metadata": {"ownerReferences": null}})).await;
    fixture.plug("dyniface1", "net", Some("dyniface1"), Run::Real).await.granted();
    let note = fixture.event("VirtualMachineInstance", "PersistFailed").await;
    assert!(note.starts_with("no VirtualMachine owns the VMI"), "{note}");
    assert_eq!(fixture.template_nics().await, ["default"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_was_deleted_and_created_again_is_not_changed() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = PersistedVm::start(api).await;
    let _nicplug = replica(api, "again").await;
    let vms = Kind::Vm.api(&fixture.admin, &fixture.namespace);
    let uid = vms.get(VM).await.unwrap().metadata.uid;
    let preconditions = Some(Preconditions { uid, resource_version: None });
    let orphan = DeleteParams {
        preconditions,
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    vms.delete(VM, &orphan).await.unwrap();
    // Without a VM there is nothing to change and no Event.
    fixture.plug("dyniface1", "net", Some("dyniface1"), Run::Real).await.granted();
    let again =
        requests::create(&fixture.admin, Kind::Vm, &fixture.namespace, &vm().build(), Run::Real).await.granted();
    fixture.kubevirt.heartbeat(VM, 1).await;
    let note = fixture.event("VirtualMachine", "PersistFailed").await;
    assert!(note.contains("the VMI was created from an earlier VirtualMachine"), "{note}");
    assert_eq!(generation(&fixture.get(Kind::Vm).await), generation(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmi_that_is_created_again_has_no_requests_of_the_old_one() {
    let Some(api) = api_server::shared().await else { return };
    let fixture = PersistedVm::start(api).await;
    let _nicplug = replica(api, "restart").await;
    fixture.annotate("first").await;
    let vmis = Kind::Vmi.api(&fixture.admin, &fixture.namespace);
    vmis.delete(VM, &DeleteParams::default()).await.unwrap();
    fixture.kubevirt.start_vm(VM).await;
    fixture.plug("first", "net", None, Run::Real).await.granted();
    fixture.plug("second", "net", Some("second"), Run::Real).await.granted();
    fixture.when_done().await;
    assert_eq!(fixture.template_nics().await, ["default", "second"]);
}

// === Requests in the status ===

/// Returns a request for a NIC, as it is in the status of a VM.
fn add_request(name: &str, network: &str) -> Value {
    json!({"addInterfaceOptions": {"name": name, "networkAttachmentDefinitionName": network}})
}

/// Installs a KubeVirt that no longer handles requests in the status, with a schema that still keeps them, as after an
/// update.
async fn keep_interface_requests(fixture: &PersistedVm) {
    crds::keep_interface_requests(&fixture.admin).await;
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "spec": {},
        "status": {"observedKubeVirtVersion": "v1.9.0"}});
    requests::create(&fixture.admin, Kind::KubeVirt, &fixture.namespace, &kubevirt, Run::Real).await.granted();
    let url = format!("{}/kubevirt/status", Kind::KubeVirt.path(&fixture.namespace));
    let version = json!({"status": kubevirt["status"]}).to_string();
    send(&fixture.admin, Method::PATCH, &url, "application/merge-patch+json", version).await.granted();
    // The API server uses the new schema a moment later.
    let probe = [json!({"removeInterfaceOptions": {"name": "probe"}})];
    eventually("the schema keeps them", async || {
        let vm = fixture.write_requests(&probe, Run::Dry).await.granted();
        vm["status"]["interfaceRequests"].is_array().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_the_status_is_reviewed_like_a_new_nic() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = PersistedVm::start(&api).await;
    keep_interface_requests(&fixture).await;
    requests::create(&fixture.admin, Kind::Nad, &fixture.namespace, &nad("net"), Run::Real).await.granted();
    let _nicplug = reviewing_replica(&api, &fixture.namespace, "reviewed").await;

    let malformed = [add_request("dyniface1", "net"), json!({"addInterfaceOptions": {"name": "dyniface2"}})];
    eventually("the webhook is called for a status", async || {
        (!fixture.write_requests(&malformed, Run::Dry).await.is_ok()).then_some(())
    })
    .await;
    for (requests, rule, path) in [
        (&malformed[..], "[NP115]", "status.interfaceRequests[1]"),
        (&[add_request("dyniface1", "no-such-net")], "[NP105]", "status.interfaceRequests[0].addInterfaceOptions"),
        (&[add_request("default", "net")], "[NP115]", "status.interfaceRequests[0]"),
    ] {
        let response = fixture.write_requests(requests, Run::Real).await;
        assert_eq!(response.code, 422, "{response:?}");
        let is_meant = |cause: &Cause| cause.message.ends_with(rule) && cause.field.starts_with(path);
        assert!(response.causes().iter().any(is_meant), "{rule} {response:?}");
    }
    assert_eq!(fixture.get(Kind::Vm).await["status"]["interfaceRequests"], Value::Null);

    fixture.write_requests(&[add_request("dyniface1", "net")], Run::Real).await.granted();
    let vm = fixture.when(Kind::Vm, "the NIC is added", |vm| nics(vm).len() == 2).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_the_status_are_carried_out_if_kubevirt_does_not_handle_them() {
    let Some(api) = ApiServer::start().await else { return };
    let fixture = PersistedVm::start(&api).await;
    let asked = ["dyniface1", "default"].map(|name| add_request(name, "net"));
    let vm = fixture.write_requests(&asked, Run::Real).await.granted();
    assert_eq!(vm["status"]["interfaceRequests"], Value::Null, "the new schema prunes them");

    keep_interface_requests(&fixture).await;
    let _nicplug = replica(&api, "status").await;
    fixture.write_requests(&asked, Run::Real).await.granted();
    let is_done = |vm: &Value| vm["status"]["interfaceRequests"].as_array().is_some_and(|left| left.len() == 1);
    let vm = fixture.when(Kind::Vm, "one NIC is added", is_done).await;
    assert_eq!(nics(&vm), ["default", "dyniface1"]);
    let note = fixture.event("VirtualMachine", "PersistFailed").await;
    assert!(note.starts_with(r#"the template already has "default", without a NetworkAttachmentDefinition"#), "{note}");
    assert!(fixture.event("VirtualMachine", "InterfacePersisted").await.contains("dyniface1"));
}
