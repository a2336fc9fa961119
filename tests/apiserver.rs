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
        Self::with_guest(name, policy, &vm()).await
    }

    /// The same with a guest that runs, as nicplug is told, with the NICs of this VM.
    async fn with_guest(name: &str, policy: FailurePolicy, guest: &Value) -> Option<Self> {
        let api = apiserver::shared().await?;
        let namespace = api.namespace(name).await;
        api.let_edit("alice", &namespace).await;
        let user = api.user("alice");
        let admin = api.admin();
        request::create(&admin, Kind::Nad, &namespace, &network(&namespace), Run::Real).await.granted();
        let facts = facts(&namespace, guest);
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

    /// kubectl as the user, with the name of a file of this manifest at the end; None where there is no kubectl.
    fn kubectl(&self, args: &[&str], manifest: Option<&Value>) -> Option<Output> {
        let mut command = self.api.kubectl()?;
        command.args(["--as", "alice", "--namespace", &self.namespace]).args(args);
        let folder = Folder::new("kubectl");
        if let Some(manifest) = manifest {
            let file = folder.path().join("manifest.json");
            fs::write(&file, manifest.to_string()).unwrap();
            command.arg("--filename").arg(file);
        }
        Some(command.output().unwrap())
    }
}

/// A folder of the facts that nicplug is told.
fn facts(namespace: &str, guest: &Value) -> Folder {
    let running = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": VM, "namespace": namespace}, "spec": guest["spec"]["template"]["spec"],
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
    for way in 0..every_way(&with, &before).len() {
        // Each way starts where the VM has one NIC.
        let without = scene.change(Change::Merge(json!({"spec": vm()["spec"]})), Run::Real).await.granted();
        let change = every_way(&with, &without)[way].clone();
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
        let Some(output) = scene.kubectl(way, Some(&vm_with("masquerade"))) else { return };
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{way:?}: {printed}");
        let head = format!("The VirtualMachine \"{VM}\" is invalid: \n");
        let first = "* spec.template.spec.domain.devices.interfaces[1]: \"dyniface1\" cannot be hotplugged";
        assert!(printed.contains(&head) && printed.contains(first), "{way:?}: {printed}");
        assert!(printed.contains("[NP102]\n* ") && printed.contains("[NP006]"), "{way:?}: {printed}");
    }
    let output = scene.kubectl(&["apply", "--server-side", "--force-conflicts"], Some(&vm_with("bridge"))).unwrap();
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
    let vmi = scene.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    assert_eq!(names(&vmi, "/spec/domain/devices/interfaces"), ["default", "dyniface1"]);
    assert_eq!(names(&vmi, "/spec/networks"), ["default", "dyniface1"]);
    assert!(updates().await >= 2, "one of the user, one of KubeVirt");

    let absent = json!([{"op": "add", "path": format!("{INTERFACES}/1/state"), "value": "absent"}]);
    scene.change(Change::Json(absent), Run::Real).await.granted();
    scene.vmi_when(|vmi| vmi["spec"]["domain"]["devices"]["interfaces"][1]["state"] == "absent").await;
    assert!(updates().await >= 4);
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

    let calls = async |operation: &str| {
        let mutating = scene.api.webhook_calls(mutating, operation).await;
        (mutating, scene.api.webhook_calls(validating, operation).await)
    };
    assert_eq!(calls("UPDATE").await, (0, 0));

    // An update of the same VMI that plugs a NIC in does come.
    let nic = json!([{"op": "add", "path": "/spec/domain/devices/interfaces/-", "value": {"name": "a", "bridge": {}}},
        {"op": "add", "path": "/spec/networks/-", "value": {"name": "a", "multus": {"networkName": NETWORK}}}]);
    let kubevirt = scene.api.service_account("kubevirt", "kubevirt-controller");
    request::change(&kubevirt, Kind::Vmi, &scene.namespace, VM, Change::Json(nic), Run::Dry).await.granted();
    let (made, updated) = (calls("CREATE").await, calls("UPDATE").await);
    assert!(updated.0 > 0 && updated.1 > 0, "{updated:?}");

    // The server has counted the same: no call came that the API server does not know of.
    let log = scene.webhook.stop().await;
    let stopped = log.iter().find(|line| line["message"] == "stopped").unwrap();
    let outcomes = ["allowed", "denied", "malformed", "patched", "unhandled", "warned"];
    let served: u64 = outcomes.iter().map(|decision| stopped[decision].as_u64().unwrap()).sum();
    assert_eq!(served, made.0 + made.1 + updated.0 + updated.1, "{stopped}");
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

// === Who owns it ===

const REQUEST: &str = "nicplug.io/add-interfaces";

/// That VM as a manifest that asks for a NIC by annotation.
fn vm_that_asks() -> Value {
    let mut vm = vm();
    vm["metadata"]["annotations"] = json!({REQUEST: format!("dyniface1={NETWORK}")});
    vm
}

/// Who manages the list of interfaces, and the list of networks.
fn owners(vm: &Value) -> [Vec<&str>; 2] {
    [INTERFACES, NETWORKS].map(|list| {
        let field = list.replace('/', "/f:");
        let entries = vm["metadata"]["managedFields"].as_array().unwrap().iter();
        let owning = entries.filter(|entry| entry["fieldsV1"].pointer(&field).is_some());
        owning.map(|entry| entry["manager"].as_str().unwrap()).collect()
    })
}

/// The NIC is there, and the annotation that asked for it is not.
#[track_caller]
fn assert_plugged(vm: &Value) {
    for list in [INTERFACES, NETWORKS] {
        assert!(names(vm, list).iter().any(|name| name == "dyniface1"), "{vm}");
    }
    assert!(vm["metadata"]["annotations"][REQUEST].is_null(), "{vm}");
}

#[tokio::test]
async fn a_nic_by_annotation_leaves_the_lists_with_whoever_manages_them() {
    // The NIC will have reached the guest when the old manifest is applied again.
    let guest = vm_with("bridge");
    let Some(scene) = Scene::with_guest("owner", FailurePolicy::Fail, &guest).await else { return };
    let applied = scene.change(Change::Apply("gitops", vm()), Run::Real).await.granted();
    assert_eq!(owners(&applied), [["gitops"], ["gitops"]]);
    let annotate = Change::Merge(json!({"metadata": vm_that_asks()["metadata"]}));
    let annotated = scene.change(annotate, Run::Real).await.granted();
    assert_plugged(&annotated);
    assert_eq!(owners(&annotated), [["gitops"], ["gitops"]]);

    // Whoever manages the lists may write the old ones again: no conflict, and the NIC is gone.
    let answer = scene.change(Change::Apply("gitops", vm()), Run::Real).await;
    assert!(
        answer.warnings.iter().any(|warning| warning.contains("dyniface1") && warning.ends_with("[NP108]")),
        "{answer:?}"
    );
    assert_eq!(names(&answer.granted(), INTERFACES), ["default"]);
}

#[tokio::test]
async fn a_nic_by_annotation_in_lists_that_are_new_is_nobodys() {
    let Some(scene) = Scene::open("nobody", FailurePolicy::Fail).await else { return };
    let mut bare = vm();
    bare["spec"]["template"]["spec"]["domain"]["devices"] = json!({"autoattachPodInterface": false});
    bare["spec"]["template"]["spec"].as_object_mut().unwrap().remove("networks");
    scene.change(Change::Apply("gitops", bare.clone()), Run::Real).await.granted();
    let annotate = Change::Merge(json!({"metadata": vm_that_asks()["metadata"]}));
    let annotated = scene.change(annotate, Run::Real).await.granted();
    assert_plugged(&annotated);
    assert_eq!(owners(&annotated), [[""; 0], [""; 0]]);
    // A manifest that does not name the lists lets them be.
    let again = scene.change(Change::Apply("gitops", bare), Run::Real).await.granted();
    assert_plugged(&again);
}

#[tokio::test]
async fn a_manifest_that_asks_by_annotation_can_be_applied_again_and_again() {
    let Some(scene) = Scene::open("again", FailurePolicy::Fail).await else { return };
    for _ in 0..3 {
        let applied = scene.change(Change::Apply("gitops", vm_that_asks()), Run::Real).await.granted();
        assert_plugged(&applied);
        assert_eq!(owners(&applied), [["gitops"], ["gitops"]]);
    }
}

#[tokio::test]
async fn kubectl_applies_a_manifest_that_asks_by_annotation_again_and_again() {
    let Some(scene) = Scene::open("again", FailurePolicy::Fail).await else { return };
    for _ in 0..3 {
        let Some(output) = scene.kubectl(&["apply"], Some(&vm_that_asks())) else { return };
        assert!(output.status.success(), "{output:?}");
        assert_plugged(&scene.stored().await);
    }
}

#[tokio::test]
async fn kubectl_annotates_a_nic_in_and_out() {
    let Some(scene) = Scene::open("annotate", FailurePolicy::Fail).await else { return };
    scene.run_vm().await;
    let annotate = |request: &str| scene.kubectl(&["annotate", "vm", VM, request], None);
    let Some(output) = annotate(&format!("{REQUEST}=dyniface1={NETWORK}")) else { return };
    assert!(output.status.success(), "{output:?}");
    assert_plugged(&scene.stored().await);
    let output = annotate("nicplug.io/remove-interfaces=dyniface1").unwrap();
    assert!(output.status.success(), "{output:?}");
    let stored = scene.stored().await;
    assert_eq!(stored.pointer(INTERFACES).unwrap()[1]["state"], "absent");
    assert!(stored["metadata"]["annotations"].is_null(), "{stored}");
    let output = annotate(&format!("{REQUEST}=dyniface2=no-such-net")).unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    let field = "spec.template.spec.networks[2].multus.networkName";
    let start = format!("The VirtualMachine \"{VM}\" is invalid: {field}: NetworkAttachmentDefinition \"no-such-net\"");
    assert!(printed.contains(&start), "{printed}");
}
