//! On a real API server: what a user is answered, what is stored, who owns it, and what never reaches the webhook.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cluster_support;

use std::{fs, process::Output};

use cluster_support::{
    Folder,
    apiserver::{self, ApiServer},
    crds::Kind,
    kubevirt_double::KubeVirtDouble,
    request::{self, Answer, Cause, Change, Run},
    webhook::{FailurePolicy, Registration, Webhook},
};
use hyper::http::Method;
use kube::{
    Client,
    api::{DynamicObject, ListParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use tokio::time::timeout;

const VM: &str = "vm-fedora";
const NETWORK: &str = "new-fancy-net";
const INTERFACES: &str = "/spec/template/spec/domain/devices/interfaces";
const NETWORKS: &str = "/spec/template/spec/networks";

// === The scene ===

/// A namespace with a network, a user who may edit in it, KubeVirt's double, and nicplug registered for it.
///
/// nicplug is told its facts by a file: KubeVirt 1.9, the network, and that [`VM`] runs with one NIC.
struct Scene {
    api: &'static ApiServer,
    namespace: String,
    user: Client,
    kubevirt: KubeVirtDouble,
    webhook: Webhook,
    registration: Registration,
    _facts: Folder,
}

impl Scene {
    /// None where there is no API server.
    async fn open(name: &str, policy: FailurePolicy) -> Option<Self> {
        let api = apiserver::shared().await?;
        let namespace = api.namespace(name).await;
        api.let_edit("alice", &namespace).await;
        let user = api.user("alice");
        let admin = api.admin();
        request::create(&admin, Kind::Nad, &namespace, &network(&namespace), Run::Real).await.granted();
        let facts = facts(&namespace);
        let webhook = Webhook::start(&["--facts", facts.path().to_str().unwrap()]).await;
        let registration = webhook.register(api, &namespace, policy).await;
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        Some(Self { api, namespace, user, kubevirt, webhook, registration, _facts: facts })
    }

    /// Makes the VM, and starts it.
    async fn run_vm(&self) {
        self.create(&vm(), Run::Real).await.granted();
        self.kubevirt.start_vm(VM).await;
    }

    async fn create(&self, vm: &Value, run: Run) -> Answer {
        request::create(&self.user, Kind::Vm, &self.namespace, vm, run).await
    }

    async fn change(&self, change: Change, run: Run) -> Answer {
        request::change(&self.user, Kind::Vm, &self.namespace, VM, change, run).await
    }

    /// The VM as it is stored.
    async fn stored(&self) -> Value {
        self.get(Kind::Vm).await
    }

    async fn get(&self, kind: Kind) -> Value {
        serde_json::to_value(kind.api(&self.user, &self.namespace).get(VM).await.unwrap()).unwrap()
    }

    /// Waits until the VMI is as it should be.
    async fn vmi_when(&self, is_right: impl Fn(&Value) -> bool) -> Value {
        let vmis = Kind::Vmi.api(&self.user, &self.namespace);
        let condition = |vmi: Option<&DynamicObject>| vmi.is_some_and(|vmi| is_right(&vmi.data));
        let found = timeout(cluster_support::LONG, await_condition(vmis, VM, condition)).await;
        let vmi = found.unwrap_or_else(|_| panic!("KubeVirt's double was refused: {:?}", self.kubevirt.refusals()));
        serde_json::to_value(vmi.unwrap()).unwrap()
    }

    /// kubectl as the user, with this manifest on its standard input; None where there is no kubectl.
    fn kubectl(&self, args: &[&str], manifest: &Value) -> Option<Output> {
        let mut command = self.api.kubectl()?;
        let folder = Folder::new("kubectl");
        let file = folder.path().join("manifest.json");
        fs::write(&file, manifest.to_string()).unwrap();
        command.args(["--as", "alice", "--namespace", &self.namespace]).args(args).arg("--filename").arg(file);
        Some(command.output().unwrap())
    }
}

/// A folder of the facts that nicplug is told.
fn facts(namespace: &str) -> Folder {
    let running = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": VM, "namespace": namespace}, "spec": vm()["spec"]["template"]["spec"],
        "status": {"phase": "Running", "conditions": [{"type": "LiveMigratable", "status": "True"}]}});
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "LiveUpdate"},
            "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}},
        "status": {"observedKubeVirtVersion": "v1.9.0"}});
    let folder = Folder::new("facts");
    for (name, object) in [("vmi", running), ("kubevirt", kubevirt), ("nad", network(namespace))] {
        fs::write(folder.path().join(name).with_extension("json"), object.to_string()).unwrap();
    }
    folder
}

fn network(namespace: &str) -> Value {
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": NETWORK, "namespace": namespace},
        "spec": {"config": json!({"cniVersion": "0.3.1", "type": "bridge", "name": NETWORK}).to_string()}})
}

/// A VM with one NIC, on the pod network.
fn vm() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": VM},
        "spec": {"runStrategy": "Always", "template": {"spec": {
            "domain": {"devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "default", "masquerade": {}}]}, "memory": {"guest": "1Gi"}},
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [{"name": "root", "containerDisk": {"image": "example.com/disk"}}]}}}})
}

/// That VM with a second NIC, `dyniface1`, bound like this.
fn vm_with(binding: &str) -> Value {
    let mut vm = vm();
    append(&mut vm, INTERFACES, json!({"name": "dyniface1", binding: {}}));
    append(&mut vm, NETWORKS, json!({"name": "dyniface1", "multus": {"networkName": NETWORK}}));
    vm
}

fn append(object: &mut Value, list: &str, entry: Value) {
    object.pointer_mut(list).unwrap().as_array_mut().unwrap().push(entry);
}

/// The names in a list of the object.
fn names(object: &Value, list: &str) -> Vec<String> {
    let entries = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
    entries.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

/// Every way to write that object over the one that is stored.
fn every_way(wanted: &Value, stored: &Value) -> [Change; 4] {
    let at = |list: &str| wanted.pointer(list).unwrap().clone();
    let mut whole = wanted.clone();
    whole["metadata"] = stored["metadata"].clone();
    [
        Change::Merge(json!({"spec": wanted["spec"]})),
        Change::Json(json!([{"op": "replace", "path": INTERFACES, "value": at(INTERFACES)},
            {"op": "replace", "path": NETWORKS, "value": at(NETWORKS)}])),
        Change::ForceApply("gitops", wanted.clone()),
        Change::Replace(whole),
    ]
}

// === What is there ===

#[tokio::test]
async fn a_vm_has_a_status_of_its_own_and_a_vmi_has_not() {
    let Some(api) = apiserver::shared().await else { return };
    let text = request::text(&api.admin(), "/apis/kubevirt.io/v1").await;
    let resources: Value = serde_json::from_str(&text).unwrap();
    let names = names(&resources, "/resources");
    assert!(names.iter().any(|name| name == "virtualmachines/status"), "{names:?}");
    assert!(!names.iter().any(|name| name == "virtualmachineinstances/status"), "{names:?}");
}

#[tokio::test]
async fn an_api_server_of_a_tests_own_goes_away_and_comes_back() {
    let Some(mut api) = ApiServer::start().await else { return };
    let (namespace, admin) = (api.namespace("again").await, api.admin());
    let vms = Kind::Vm.api(&admin, &namespace);
    request::create(&admin, Kind::Vm, &namespace, &vm(), Run::Real).await.granted();
    api.stop().await;
    assert!(matches!(vms.get(VM).await, Err(kube::Error::Service(_) | kube::Error::HyperError(_))));
    api.start_again().await;
    assert_eq!(vms.get(VM).await.unwrap().data["spec"], vm()["spec"]);
}

#[tokio::test]
async fn the_double_starts_a_vm_as_kubevirt_does() {
    let Some(scene) = Scene::open("start", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    let (vm, vmi) = (scene.stored().await, scene.get(Kind::Vmi).await);
    let owner = &vmi["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["uid"], &owner["controller"]), (&vm["metadata"]["uid"], &json!(true)));
    assert_eq!(vmi["spec"], vm["spec"]["template"]["spec"]);
    assert_eq!(vmi["status"]["phase"], "Running");
    // The mutating webhook notes on a VMI what its PCI bus is like.
    assert!(vmi["metadata"]["annotations"]["nicplug.io/boot-slots"].is_string(), "{vmi}");
}

// === What a user is answered ===

/// A NIC that is bound by masquerade cannot be plugged into a VM that runs, and not onto such a network at all.
fn assert_refused(answer: &Answer, way: &str) {
    assert_eq!((answer.code, answer.reason()), (422, "Invalid"), "{way}: {answer:?}");
    let causes = answer.causes();
    let [Cause { reason, field, message }, binding] = &causes[..] else { panic!("{way}: {causes:?}") };
    assert_eq!(reason, "FieldValueInvalid");
    assert_eq!(field, "spec.template.spec.domain.devices.interfaces[1]");
    assert!(message.starts_with("\"dyniface1\" cannot be hotplugged") && message.ends_with("[NP102]"), "{message}");
    assert!(binding.message.ends_with("[NP006]"), "{binding:?}");
    assert_eq!(answer.body["details"]["name"], VM);
    for part in [message, &binding.message] {
        assert!(answer.message().contains(part.as_str()), "{way}: {}", answer.message());
    }
}

#[tokio::test]
async fn a_nic_that_cannot_be_plugged_in_is_refused_however_it_is_written() {
    let Some(scene) = Scene::open("refused", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    let before = scene.stored().await;
    for change in every_way(&vm_with("masquerade"), &before) {
        for run in [Run::Dry, Run::Real] {
            let way = format!("{run:?} {change:?}");
            assert_refused(&scene.change(change.clone(), run).await, &way);
        }
    }
    // The VM's status is written beside; all else is as it was.
    let after = scene.stored().await;
    assert_eq!(
        (&after["spec"], &after["metadata"]["generation"]),
        (&before["spec"], &before["metadata"]["generation"])
    );
}

#[tokio::test]
async fn a_nic_that_can_be_plugged_in_is_stored_however_it_is_written() {
    let Some(scene) = Scene::open("granted", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    let (before, with) = (scene.stored().await, vm_with("bridge"));
    for change in every_way(&with, &before) {
        let answer = scene.change(change.clone(), Run::Dry).await.granted();
        assert_eq!(names(&answer, INTERFACES), ["default", "dyniface1"], "{change:?}");
    }
    assert_eq!(names(&scene.stored().await, INTERFACES), ["default"], "a dry run stores nothing");
    for change in every_way(&with, &before) {
        // Each way starts from a VM as it was: a template may be changed back before anybody has seen it.
        let mut without = vm();
        without["metadata"]["resourceVersion"] = Value::Null;
        let change = match change {
            Change::Replace(mut whole) => {
                whole["metadata"] = scene.stored().await["metadata"].clone();
                Change::Replace(whole)
            }
            change => change,
        };
        let answer = scene.change(change.clone(), Run::Real).await.granted();
        assert_eq!(names(&answer, NETWORKS), ["default", "dyniface1"], "{change:?}");
    }
}

#[tokio::test]
async fn a_vm_that_could_not_boot_is_refused_when_it_is_made() {
    let Some(scene) = Scene::open("create", FailurePolicy::Fail).await else { return };
    let mut twice = vm_with("bridge");
    append(&mut twice, INTERFACES, json!({"name": "dyniface1", "bridge": {}}));
    for run in [Run::Dry, Run::Real] {
        let answer = scene.create(&twice, run).await;
        assert_eq!((answer.code, answer.reason()), (422, "Invalid"), "{answer:?}");
        let causes = answer.causes();
        assert_eq!(causes.len(), 1, "{causes:?}");
        assert_eq!(causes[0].reason, "FieldValueDuplicate");
        assert_eq!(causes[0].field, "spec.template.spec.domain.devices.interfaces[2].name");
        assert!(causes[0].message.ends_with("[NP002]"), "{causes:?}");
    }
    let vms = Kind::Vm.api(&scene.user, &scene.namespace);
    assert!(vms.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn the_other_version_of_the_api_is_no_way_around() {
    let Some(scene) = Scene::open("version", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    let path = format!("{}/{VM}", Kind::Vm.path(&scene.namespace).replace("/v1/", "/v1alpha3/"));
    let merge = json!({"spec": vm_with("masquerade")["spec"]}).to_string();
    let content_type = "application/merge-patch+json";
    let answer = request::send(&scene.user, Method::PATCH, &path, content_type, merge).await;
    assert_refused(&answer, "v1alpha3");
}

#[tokio::test]
async fn kubectl_prints_what_is_wrong_and_what_to_do() {
    let Some(scene) = Scene::open("kubectl", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    for way in [&["apply"][..], &["apply", "--server-side", "--force-conflicts"], &["replace"]] {
        let Some(output) = scene.kubectl(way, &vm_with("masquerade")) else { return };
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{way:?}: {printed}");
        let head = format!("The VirtualMachine \"{VM}\" is invalid: \n");
        let first = "* spec.template.spec.domain.devices.interfaces[1]: \"dyniface1\" cannot be hotplugged";
        assert!(printed.contains(&head) && printed.contains(first), "{way:?}: {printed}");
        assert!(printed.contains("[NP102]\n* ") && printed.contains("[NP006]"), "{way:?}: {printed}");
    }
    let output = scene.kubectl(&["apply", "--server-side", "--force-conflicts"], &vm_with("bridge")).unwrap();
    assert!(output.status.success(), "{output:?}");
}

// === What becomes of it ===

#[tokio::test]
async fn a_nic_comes_to_the_guest_and_leaves_it_with_kubevirt_asking_the_webhook_too() {
    let Some(scene) = Scene::open("story", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    let updates = async || scene.api.webhook_calls(&scene.registration.validating, "UPDATE").await;
    assert_eq!(updates().await, 0);

    scene.change(Change::Merge(json!({"spec": vm_with("bridge")["spec"]})), Run::Real).await.granted();
    let list = "/spec/domain/devices/interfaces";
    scene.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    let vmi = scene.get(Kind::Vmi).await;
    assert_eq!((names(&vmi, list), names(&vmi, "/spec/networks")), (names(&vmi, list), names(&vmi, list)));
    assert_eq!(updates().await, 2, "one of the user, one of KubeVirt");

    let absent = json!([{"op": "add", "path": format!("{INTERFACES}/1/state"), "value": "absent"}]);
    scene.change(Change::Json(absent), Run::Real).await.granted();
    scene.vmi_when(|vmi| vmi["spec"]["domain"]["devices"]["interfaces"][1]["state"] == "absent").await;
    assert_eq!(updates().await, 4);
    assert_eq!(scene.kubevirt.refusals(), Vec::<String>::new());
}

#[tokio::test]
async fn a_thousand_heartbeats_of_a_vmi_are_not_one_call() {
    const BEATS: u32 = 1000;
    let Some(scene) = Scene::open("heartbeats", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    let Registration { mutating, validating } = &scene.registration;
    let excluded = async |webhook: &str| scene.api.webhook_exclusions(webhook, "UPDATE").await;
    // The status of a VMI that has just been started is such a beat too.
    let before = (excluded(mutating).await, excluded(validating).await);
    for beat in 0..BEATS {
        scene.kubevirt.beat(VM, beat).await;
    }
    let after = (excluded(mutating).await, excluded(validating).await);
    // The API server judges an update again where its first look at the object was out of date.
    for more in [after.0 - before.0, after.1 - before.1] {
        assert!(more >= BEATS.into(), "{more} of {BEATS} were excluded by the match conditions");
    }

    let mut calls = 0;
    for (webhook, operation) in [mutating, validating].into_iter().flat_map(|it| [(it, "CREATE"), (it, "UPDATE")]) {
        let counted = scene.api.webhook_calls(webhook, operation).await;
        assert!(operation == "CREATE" || counted == 0, "{webhook} was called {counted} times");
        calls += counted;
    }
    // The server has counted the same: no call came that the API server does not know of.
    let log = scene.webhook.stop().await;
    let stopped = log.iter().find(|line| line["message"] == "stopped").unwrap();
    let outcomes = ["allowed", "denied", "malformed", "patched", "unhandled"];
    let served: u64 = outcomes.iter().map(|outcome| stopped[outcome].as_u64().unwrap()).sum();
    assert_eq!(served, calls, "{stopped}");
}

#[tokio::test]
async fn with_the_webhook_away_fail_stops_a_change_and_ignore_lets_it_through() {
    for (name, policy) in [("fail", FailurePolicy::Fail), ("ignore", FailurePolicy::Ignore)] {
        let Some(scene) = Scene::open(name, policy).await else { return };
        scene.run_vm().await;
        let Scene { user, namespace, kubevirt, webhook, registration, .. } = scene;
        webhook.stop().await;
        let merge = || Change::Merge(json!({"spec": vm_with("masquerade")["spec"]}));
        let answer = request::change(&user, Kind::Vm, &namespace, VM, merge(), Run::Real).await;
        match policy {
            FailurePolicy::Fail => {
                assert_eq!((answer.code, answer.reason()), (500, "InternalError"), "{answer:?}");
                let words = format!("failed calling webhook \"{}\"", registration.mutating);
                assert!(answer.message().contains(&words), "{}", answer.message());
            }
            FailurePolicy::Ignore => assert_eq!(names(&answer.granted(), INTERFACES), ["default", "dyniface1"]),
        }
        // Heartbeats are not even asked about: with the webhook away, a guest's status still arrives.
        kubevirt.beat(VM, 1).await;
    }
}
