//! On a real API server: the response to a user, the stored object and its field managers, and the requests that the
//! webhook never gets.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::process::Output;

use hyper::http::Method;
use kube::{
    Client,
    api::{DynamicObject, ListParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::Kind,
        requests::{self, Change, Response, Run},
        webhooks::{FailurePolicy, Registration},
    },
    builders::{INTERFACES, NETWORKS, VM, VmBuilder, nad, names},
    cases::Cause,
    folder::Folder,
    kubevirt::KubeVirtDouble,
    metrics,
    replica::Deployment,
    wait::LONG,
};
use tokio::time::timeout;

const NETWORK: &str = "new-fancy-net";

// === The fixture ===

/// A namespace with a network, a user with edit rights, KubeVirt's double, and nicplug with its webhooks.
///
/// nicplug reads its facts from a file: KubeVirt 1.9, the network, and that [`VM`] runs with one NIC.
struct ReviewedNamespace {
    api: &'static ApiServer,
    namespace: String,
    user: Client,
    kubevirt: KubeVirtDouble,
    nicplug: Deployment,
    _facts: Folder,
}

impl ReviewedNamespace {
    /// Returns none if there is no API server.
    async fn start(name: &str, policy: FailurePolicy) -> Option<Self> {
        Self::start_with_guest(name, policy, &vm().build()).await
    }

    /// By the facts of nicplug, the guest runs with the NICs of this VM.
    async fn start_with_guest(name: &str, policy: FailurePolicy, guest: &Value) -> Option<Self> {
        Self::start_with(name, policy, guest, "").await
    }

    /// As [`start_with_guest`](Self::start_with_guest), with settings.
    async fn start_with(name: &str, policy: FailurePolicy, guest: &Value, settings: &str) -> Option<Self> {
        let api = api_server::shared().await?;
        let namespace = api.namespace(name).await;
        api.let_edit("alice", &namespace).await;
        let user = api.user("alice");
        requests::create(&api.admin(), Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
        let facts = facts(&namespace, guest);
        let settings_file = facts.write("settings", settings);
        let flags = ["--facts", facts.path().to_str().unwrap(), "--settings", &settings_file];
        let nicplug = Deployment::start(api, &namespace, policy, &flags, &[]).await;
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        Some(Self { api, namespace, user, kubevirt, nicplug, _facts: facts })
    }

    /// Creates and starts the VM.
    async fn run_vm(&self) {
        self.create(&vm().build(), Run::Real).await.granted();
        self.kubevirt.start_vm(VM).await;
    }

    async fn create(&self, vm: &Value, run: Run) -> Response {
        requests::create(&self.user, Kind::Vm, &self.namespace, vm, run).await
    }

    async fn change(&self, change: Change, run: Run) -> Response {
        requests::change(&self.user, Kind::Vm, &self.namespace, VM, change, run).await
    }

    /// Returns the stored VM.
    async fn stored(&self) -> Value {
        self.get(Kind::Vm).await
    }

    async fn get(&self, kind: Kind) -> Value {
        serde_json::to_value(kind.api(&self.user, &self.namespace).get(VM).await.unwrap()).unwrap()
    }

    /// Waits for a state of the VMI.
    async fn vmi_when(&self, is_right: impl Fn(&Value) -> bool) -> Value {
        let vmis = Kind::Vmi.api(&self.user, &self.namespace);
        let condition = |vmi: Option<&DynamicObject>| vmi.is_some_and(|vmi| is_right(&vmi.data));
        let found = timeout(LONG, await_condition(vmis, VM, condition)).await;
        let vmi = found.unwrap_or_else(|_| panic!("errors of KubeVirt's double: {:?}", self.kubevirt.errors()));
        serde_json::to_value(vmi.unwrap()).unwrap()
    }

    /// Runs kubectl as the user, with a manifest if one is given; returns none if there is no kubectl.
    fn kubectl(&self, args: &[&str], manifest: Option<&Value>) -> Option<Output> {
        let mut command = self.api.kubectl()?;
        command.args(["--as", "alice", "--namespace", &self.namespace]).args(args);
        let folder = Folder::new("kubectl");
        if let Some(manifest) = manifest {
            command.arg("--filename").arg(folder.write("manifest.json", &manifest.to_string()));
        }
        Some(command.output().unwrap())
    }
}

/// Writes the facts of nicplug into a folder.
fn facts(namespace: &str, guest: &Value) -> Folder {
    let running = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": VM, "namespace": namespace}, "spec": guest["spec"]["template"]["spec"],
        "status": {"phase": "Running", "conditions": [{"type": "LiveMigratable", "status": "True"}]}});
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {"vmRolloutStrategy": "LiveUpdate"},
            "workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}},
        "status": {"observedKubeVirtVersion": "v1.9.0"}});
    let mut network = nad(NETWORK);
    network["metadata"]["namespace"] = json!(namespace);
    let folder = Folder::new("facts");
    for (name, object) in [("vmi.json", running), ("kubevirt.json", kubevirt), ("nad.json", network)] {
        folder.write(name, &object.to_string());
    }
    folder
}

/// Begins a VM with a disk and one NIC, on the pod network.
fn vm() -> VmBuilder {
    support::builders::vm().disk()
}

/// Returns that VM with a second NIC, `dyniface1`, with this binding.
fn vm_with(binding: &str) -> Value {
    let network = json!({"multus": {"networkName": NETWORK}});
    vm().nic_with(json!({"name": "dyniface1", binding: {}}), network).build()
}

fn append(object: &mut Value, list: &str, entry: Value) {
    object.pointer_mut(list).unwrap().as_array_mut().unwrap().push(entry);
}

/// Returns each kind of write that changes the stored object into this one.
fn writes(wanted: &Value, stored: &Value) -> [Change; 4] {
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

// === The cluster ===

#[tokio::test]
async fn a_vm_has_a_status_subresource_and_a_vmi_has_none() {
    let Some(api) = api_server::shared().await else { return };
    let text = requests::text(&api.admin(), "/apis/kubevirt.io/v1").await;
    let resources: Value = serde_json::from_str(&text).unwrap();
    let names = names(&resources, "/resources");
    assert!(names.iter().any(|name| name == "virtualmachines/status"), "{names:?}");
    assert!(!names.iter().any(|name| name == "virtualmachineinstances/status"), "{names:?}");
}

#[tokio::test]
async fn an_api_server_that_one_test_has_alone_stops_and_starts_again() {
    let Some(mut api) = ApiServer::start().await else { return };
    let (namespace, admin) = (api.namespace("again").await, api.admin());
    let vms = Kind::Vm.api(&admin, &namespace);
    requests::create(&admin, Kind::Vm, &namespace, &vm().build(), Run::Real).await.granted();
    api.stop().await;
    assert!(matches!(vms.get(VM).await, Err(kube::Error::Service(_) | kube::Error::HyperError(_))));
    api.start_again().await;
    assert_eq!(vms.get(VM).await.unwrap().data["spec"], vm().build()["spec"]);
}

#[tokio::test]
async fn the_double_starts_a_vm_as_kubevirt_does() {
    let Some(fixture) = ReviewedNamespace::start("start", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    let (vm, vmi) = (fixture.stored().await, fixture.get(Kind::Vmi).await);
    let owner = &vmi["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["uid"], &owner["controller"]), (&vm["metadata"]["uid"], &json!(true)));
    assert_eq!(vmi["spec"], vm["spec"]["template"]["spec"]);
    assert_eq!(vmi["status"]["phase"], "Running");
    // The mutating webhook writes the layout of the PCI bus into an annotation of the VMI.
    assert!(vmi["metadata"]["annotations"]["nicplug.io/boot-slots"].is_string(), "{vmi}");
}

// === Responses ===

/// Checks that masquerade was denied: it cannot be hotplugged, and it does not work on a Multus network.
fn assert_denied(response: &Response, write: &str) {
    assert_eq!((response.code, response.reason()), (422, "Invalid"), "{write}: {response:?}");
    let causes = response.causes();
    let [Cause { reason, field, message }, binding] = &causes[..] else { panic!("{write}: {causes:?}") };
    assert_eq!(reason, "FieldValueInvalid");
    assert_eq!(field, "spec.template.spec.domain.devices.interfaces[1]");
    assert!(message.starts_with("\"dyniface1\" cannot be hotplugged") && message.ends_with("[NP102]"), "{message}");
    assert!(binding.message.ends_with("[NP006]"), "{binding:?}");
    assert_eq!(response.body["details"]["name"], VM);
    for part in [message, &binding.message] {
        assert!(response.message().contains(part.as_str()), "{write}: {}", response.message());
    }
}

#[tokio::test]
async fn a_nic_that_cannot_be_hotplugged_is_denied_for_each_kind_of_write() {
    let Some(fixture) = ReviewedNamespace::start("refused", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    let before = fixture.stored().await;
    for change in writes(&vm_with("masquerade"), &before) {
        for run in [Run::Dry, Run::Real] {
            let write = format!("{run:?} {change:?}");
            assert_denied(&fixture.change(change.clone(), run).await, &write);
        }
    }
    // The double writes the VM's status; nothing else has changed.
    let after = fixture.stored().await;
    assert_eq!(
        (&after["spec"], &after["metadata"]["generation"]),
        (&before["spec"], &before["metadata"]["generation"])
    );
}

#[tokio::test]
async fn a_nic_that_can_be_hotplugged_is_stored_for_each_kind_of_write() {
    let Some(fixture) = ReviewedNamespace::start("granted", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    let (before, with) = (fixture.stored().await, vm_with("bridge"));
    for change in writes(&with, &before) {
        let response = fixture.change(change.clone(), Run::Dry).await.granted();
        assert_eq!(names(&response, INTERFACES), ["default", "dyniface1"], "{change:?}");
    }
    assert_eq!(names(&fixture.stored().await, INTERFACES), ["default"], "a dry run stores nothing");
    for write in 0..writes(&with, &before).len() {
        // Each write starts from a VM with one NIC.
        let without = fixture.change(Change::Merge(json!({"spec": vm().build()["spec"]})), Run::Real).await.granted();
        let change = writes(&with, &without)[write].clone();
        let response = fixture.change(change.clone(), Run::Real).await.granted();
        assert_eq!(names(&response, NETWORKS), ["default", "dyniface1"], "{change:?}");
    }
}

#[tokio::test]
async fn a_vm_that_could_not_boot_is_denied_at_its_creation() {
    let Some(fixture) = ReviewedNamespace::start("create", FailurePolicy::Fail).await else { return };
    let mut twice = vm_with("bridge");
    append(&mut twice, INTERFACES, json!({"name": "dyniface1", "bridge": {}}));
    for run in [Run::Dry, Run::Real] {
        let response = fixture.create(&twice, run).await;
        assert_eq!((response.code, response.reason()), (422, "Invalid"), "{response:?}");
        let causes = response.causes();
        assert_eq!(causes.len(), 1, "{causes:?}");
        assert_eq!(causes[0].reason, "FieldValueDuplicate");
        assert_eq!(causes[0].field, "spec.template.spec.domain.devices.interfaces[2].name");
        assert!(causes[0].message.ends_with("[NP002]"), "{causes:?}");
    }
    let vms = Kind::Vm.api(&fixture.user, &fixture.namespace);
    assert!(vms.list(&ListParams::default()).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn the_older_api_version_is_reviewed_too() {
    let Some(fixture) = ReviewedNamespace::start("version", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    let path = format!("{}/{VM}", Kind::Vm.path(&fixture.namespace).replace("/v1/", "/v1alpha3/"));
    let merge = json!({"spec": vm_with("masquerade")["spec"]}).to_string();
    let content_type = "application/merge-patch+json";
    let response = requests::send(&fixture.user, Method::PATCH, &path, content_type, merge).await;
    assert_denied(&response, "v1alpha3");
}

#[tokio::test]
async fn kubectl_prints_the_causes_of_a_denial() {
    let Some(fixture) = ReviewedNamespace::start("kubectl", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    for command in [&["apply"][..], &["apply", "--server-side", "--force-conflicts"], &["replace"]] {
        let Some(output) = fixture.kubectl(command, Some(&vm_with("masquerade"))) else { return };
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{command:?}: {printed}");
        let head = format!("The VirtualMachine \"{VM}\" is invalid: \n");
        let first = "* spec.template.spec.domain.devices.interfaces[1]: \"dyniface1\" cannot be hotplugged";
        assert!(printed.contains(&head) && printed.contains(first), "{command:?}: {printed}");
        assert!(printed.contains("[NP102]\n* ") && printed.contains("[NP006]"), "{command:?}: {printed}");
    }
    let output = fixture.kubectl(&["apply", "--server-side", "--force-conflicts"], Some(&vm_with("bridge"))).unwrap();
    assert!(output.status.success(), "{output:?}");
}

// === WebhookActivation of the webhooks ===

#[tokio::test]
async fn a_nic_is_plugged_and_unplugged_and_the_writes_of_kubevirt_are_reviewed_too() {
    let Some(fixture) = ReviewedNamespace::start("story", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    let updates = async || fixture.api.webhook_calls(&fixture.nicplug.registration.validating, "UPDATE").await;
    assert_eq!(updates().await, 0);

    fixture.change(Change::Merge(json!({"spec": vm_with("bridge")["spec"]})), Run::Real).await.granted();
    let vmi = fixture.vmi_when(|vmi| vmi["spec"]["networks"].as_array().unwrap().len() == 2).await;
    assert_eq!(names(&vmi, "/spec/domain/devices/interfaces"), ["default", "dyniface1"]);
    assert_eq!(names(&vmi, "/spec/networks"), ["default", "dyniface1"]);
    assert!(updates().await >= 2, "the user's update and KubeVirt's update");
    fixture.kubevirt.settle_nics(VM).await;

    let absent = json!([{"op": "add", "path": format!("{INTERFACES}/1/state"), "value": "absent"}]);
    fixture.change(Change::Json(absent), Run::Real).await.granted();
    fixture.vmi_when(|vmi| vmi["spec"]["domain"]["devices"]["interfaces"][1]["state"] == "absent").await;
    assert!(updates().await >= 4);
    assert_eq!(fixture.kubevirt.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn a_network_in_use_is_deleted_or_changed_with_a_warning_or_not_at_all() {
    let warning =
        |namespace: &str| format!("blue: network \"{namespace}/blue\" is in use by 1 running guest: {VM} [NP119]");
    for (name, deny, settings) in [("network-warn", false, ""), ("network-deny", true, "rules: {NP119: deny}")] {
        let network = json!({"multus": {"networkName": "blue"}});
        let guest = vm().nic_with(json!({"name": "lan", "bridge": {}}), network).build();
        let fixture = ReviewedNamespace::start_with(name, FailurePolicy::Fail, &guest, settings).await;
        let Some(fixture) = fixture else { return };
        let ReviewedNamespace { api, namespace, user, nicplug, .. } = &fixture;
        let calls = async || {
            let hook = &nicplug.registration.networks;
            [api.webhook_calls(hook, "UPDATE").await, api.webhook_calls(hook, "DELETE").await]
        };
        for network in ["blue", "unused"] {
            requests::create(user, Kind::Nad, namespace, &nad(network), Run::Real).await.granted();
        }
        let change = async |change: Value| {
            requests::change(user, Kind::Nad, namespace, "blue", Change::Merge(change), Run::Real).await
        };
        let delete = async |network: &str| {
            let path = format!("{}/{network}", Kind::Nad.path(namespace));
            requests::send(user, Method::DELETE, &path, "application/json", "").await
        };
        // Neither a creation nor another label is sent.
        change(json!({"metadata": {"labels": {"a": "b"}}})).await.granted();
        assert_eq!(calls().await, [0, 0]);
        let config = nad("blue")["spec"]["config"].as_str().unwrap().replace(',', ", \n");
        let layout = change(json!({"spec": {"config": config}})).await;
        let other = change(json!({"spec": {"config": r#"{"type": "ovs"}"#}})).await;
        let (unused, blue) = (delete("unused").await, delete("blue").await);
        // The API server repeats a call if its cache was behind.
        assert!(calls().await.iter().all(|&count| count >= 2));
        for response in [layout, unused] {
            assert!(response.is_ok() && response.warnings.is_empty(), "{response:?}");
        }
        for response in [other, blue] {
            if deny {
                assert_eq!((response.code, response.reason()), (422, "Invalid"), "{response:?}");
                assert!(response.message().contains("[NP119]"), "{response:?}");
            } else {
                assert!(response.is_ok(), "{response:?}");
                assert_eq!(response.warnings, [warning(namespace)]);
            }
        }
    }
}

#[tokio::test]
async fn a_thousand_heartbeats_of_a_vmi_cause_no_call() {
    const HEARTBEATS: u32 = 1000;
    let Some(fixture) = ReviewedNamespace::start("heartbeats", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    let Registration { mutating, validating, .. } = &fixture.nicplug.registration;
    let excluded = async |webhook: &str| fixture.api.webhook_exclusions(webhook, "UPDATE").await;
    // The first status of a VMI is excluded as well.
    let before = (excluded(mutating).await, excluded(validating).await);
    for number in 0..HEARTBEATS {
        fixture.kubevirt.heartbeat(VM, number).await;
    }
    let after = (excluded(mutating).await, excluded(validating).await);
    // The API server evaluates an update again if the object in its cache was out of date.
    for more in [after.0 - before.0, after.1 - before.1] {
        assert!(more >= HEARTBEATS.into(), "{more} of {HEARTBEATS} were excluded by the match conditions");
    }

    let calls = async |operation: &str| {
        let mutating = fixture.api.webhook_calls(mutating, operation).await;
        (mutating, fixture.api.webhook_calls(validating, operation).await)
    };
    assert_eq!(calls("UPDATE").await, (0, 0));
    let created_before = calls("CREATE").await;
    let served_before = metrics::sum(&fixture.nicplug.replica.page("/metrics").await, "nicplug_requests_total", &[]);

    // An update that plugs a NIC into the same VMI is sent to the webhook that reviews it.
    let nic = json!([{"op": "add", "path": "/spec/domain/devices/interfaces/-", "value": {"name": "a", "bridge": {}}},
        {"op": "add", "path": "/spec/networks/-", "value": {"name": "a", "multus": {"networkName": NETWORK}}}]);
    let kubevirt = fixture.api.service_account("kubevirt", "kubevirt-controller");
    requests::change(&kubevirt, Kind::Vmi, &fixture.namespace, VM, Change::Json(nic), Run::Dry).await.granted();
    let (created, updated) = (calls("CREATE").await, calls("UPDATE").await);
    assert!(updated.0 == 0 && updated.1 > 0, "{updated:?}");

    // nicplug has counted the same number of requests as the API server.
    let log = fixture.nicplug.replica.stop().await;
    let stopped = log.iter().find(|line| line["message"] == "stopped").unwrap();
    let outcomes = ["allowed", "denied", "malformed", "patched", "unhandled", "warned"];
    let served: u64 = outcomes.iter().map(|decision| stopped[decision].as_u64().unwrap()).sum();
    let created = created.0 - created_before.0 + created.1 - created_before.1;
    assert_eq!(served - served_before, created + updated.0 + updated.1, "{stopped}");
}

#[tokio::test]
async fn without_a_replica_the_policy_fail_denies_a_change_and_ignore_allows_it() {
    for (name, policy) in [("fail", FailurePolicy::Fail), ("ignore", FailurePolicy::Ignore)] {
        let Some(fixture) = ReviewedNamespace::start(name, policy).await else { return };
        fixture.run_vm().await;
        let ReviewedNamespace { user, namespace, kubevirt, nicplug, .. } = fixture;
        nicplug.replica.stop().await;
        let merge = || Change::Merge(json!({"spec": vm_with("masquerade")["spec"]}));
        let response = requests::change(&user, Kind::Vm, &namespace, VM, merge(), Run::Real).await;
        match policy {
            FailurePolicy::Fail => {
                assert_eq!((response.code, response.reason()), (500, "InternalError"), "{response:?}");
                let expected = format!("failed calling webhook \"{}\"", nicplug.registration.validating);
                assert!(response.message().contains(&expected), "{}", response.message());
            }
            FailurePolicy::Ignore => assert_eq!(names(&response.granted(), INTERFACES), ["default", "dyniface1"]),
        }
        // Heartbeats are not sent to the webhook, so the status of a guest is stored without a replica.
        kubevirt.heartbeat(VM, 1).await;
    }
}

// === Field managers ===

const ADD_INTERFACES: &str = "nicplug.io/add-interfaces";

/// Returns that VM with an annotation that requests a NIC.
fn vm_with_request() -> Value {
    vm().annotation(ADD_INTERFACES, format!("dyniface1={NETWORK}")).build()
}

/// Returns the managers of the list of interfaces, and of the list of networks.
fn managers(vm: &Value) -> [Vec<&str>; 2] {
    [INTERFACES, NETWORKS].map(|list| {
        let field = list.replace('/', "/f:");
        let entries = vm["metadata"]["managedFields"].as_array().unwrap().iter();
        let owning = entries.filter(|entry| entry["fieldsV1"].pointer(&field).is_some());
        owning.map(|entry| entry["manager"].as_str().unwrap()).collect()
    })
}

/// Checks that the VM has the NIC and that the request is removed.
#[track_caller]
fn assert_plugged(vm: &Value) {
    for list in [INTERFACES, NETWORKS] {
        assert!(names(vm, list).iter().any(|name| name == "dyniface1"), "{vm}");
    }
    assert!(vm["metadata"]["annotations"][ADD_INTERFACES].is_null(), "{vm}");
}

#[tokio::test]
async fn a_nic_by_annotation_does_not_change_the_managers_of_the_lists() {
    // When the old manifest is applied again, the guest has the NIC.
    let guest = vm_with("bridge");
    let Some(fixture) = ReviewedNamespace::start_with_guest("owner", FailurePolicy::Fail, &guest).await else { return };
    let applied = fixture.change(Change::Apply("gitops", vm().build()), Run::Real).await.granted();
    assert_eq!(managers(&applied), [["gitops"], ["gitops"]]);
    let annotate = Change::Merge(json!({"metadata": vm_with_request()["metadata"]}));
    let annotated = fixture.change(annotate, Run::Real).await.granted();
    assert_plugged(&annotated);
    assert_eq!(managers(&annotated), [["gitops"], ["gitops"]]);

    // The manager of the lists can write the old ones again: there is no conflict, and the NIC is removed.
    let response = fixture.change(Change::Apply("gitops", vm().build()), Run::Real).await;
    assert!(
        response.warnings.iter().any(|warning| warning.contains("dyniface1") && warning.ends_with("[NP108]")),
        "{response:?}"
    );
    assert_eq!(names(&response.granted(), INTERFACES), ["default"]);
}

#[tokio::test]
async fn new_lists_by_annotation_have_no_manager() {
    let Some(fixture) = ReviewedNamespace::start("new-lists", FailurePolicy::Fail).await else { return };
    let mut bare = vm().build();
    bare["spec"]["template"]["spec"]["domain"]["devices"] = json!({"autoattachPodInterface": false});
    bare["spec"]["template"]["spec"].as_object_mut().unwrap().remove("networks");
    fixture.change(Change::Apply("gitops", bare.clone()), Run::Real).await.granted();
    let annotate = Change::Merge(json!({"metadata": vm_with_request()["metadata"]}));
    let annotated = fixture.change(annotate, Run::Real).await.granted();
    assert_plugged(&annotated);
    assert_eq!(managers(&annotated), [[""; 0], [""; 0]]);
    // A manifest without the lists does not change them.
    let again = fixture.change(Change::Apply("gitops", bare), Run::Real).await.granted();
    assert_plugged(&again);
}

#[tokio::test]
async fn a_manifest_with_a_request_by_annotation_can_be_applied_repeatedly() {
    let Some(fixture) = ReviewedNamespace::start("again", FailurePolicy::Fail).await else { return };
    for _ in 0..3 {
        let applied = fixture.change(Change::Apply("gitops", vm_with_request()), Run::Real).await.granted();
        assert_plugged(&applied);
        assert_eq!(managers(&applied), [["gitops"], ["gitops"]]);
    }
}

#[tokio::test]
async fn kubectl_applies_a_manifest_with_a_request_by_annotation_repeatedly() {
    let Some(fixture) = ReviewedNamespace::start("again", FailurePolicy::Fail).await else { return };
    for _ in 0..3 {
        let Some(output) = fixture.kubectl(&["apply"], Some(&vm_with_request())) else { return };
        assert!(output.status.success(), "{output:?}");
        assert_plugged(&fixture.stored().await);
    }
}

#[tokio::test]
async fn kubectl_annotate_adds_and_removes_a_nic() {
    let Some(fixture) = ReviewedNamespace::start("annotate", FailurePolicy::Fail).await else { return };
    fixture.run_vm().await;
    let annotate = |request: &str| fixture.kubectl(&["annotate", "vm", VM, request], None);
    let Some(output) = annotate(&format!("{ADD_INTERFACES}=dyniface1={NETWORK}")) else { return };
    assert!(output.status.success(), "{output:?}");
    assert_plugged(&fixture.stored().await);
    let output = annotate("nicplug.io/remove-interfaces=dyniface1").unwrap();
    assert!(output.status.success(), "{output:?}");
    let stored = fixture.stored().await;
    assert_eq!(stored.pointer(INTERFACES).unwrap()[1]["state"], "absent");
    assert!(stored["metadata"]["annotations"].is_null(), "{stored}");
    let output = annotate(&format!("{ADD_INTERFACES}=dyniface2=no-such-net")).unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    let field = "spec.template.spec.networks[2].multus.networkName";
    let start = format!("The VirtualMachine \"{VM}\" is invalid: {field}: NetworkAttachmentDefinition \"no-such-net\"");
    assert!(printed.contains(&start), "{printed}");
}
