//! KubeVirt's guide to hotplug, sentence by sentence, on a real API server: through the registered webhooks, with a
//! nicplug that knows nothing but what it watches. What a cluster is told a moment before counts at once.
//!
//! A cluster has one KubeVirt resource, so this is one story, told in order.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cluster_support;

use cluster_support::{
    LONG,
    apiserver::{self, ApiServer},
    crds::Kind,
    kubevirt_double::KubeVirtDouble,
    request::{self, Answer, Change, Run, send},
    webhook::{FailurePolicy, Webhook},
};
use hyper::http::Method;
use kube::{Client, api::DynamicObject, runtime::wait::await_condition};
use serde_json::{Value, json};
use tokio::time::timeout;

const VM: &str = "vm-fedora";
const NETWORK: &str = "new-fancy-net";
const INTERFACES: &str = "/spec/template/spec/domain/devices/interfaces";
const NETWORKS: &str = "/spec/template/spec/networks";
/// Where the KubeVirt resource is, and with it the DaemonSets of Multus.
const HOME: &str = "kubevirt";

#[tokio::test]
async fn the_guide_to_hotplug_holds_through_the_registered_webhooks() {
    let Some(api) = apiserver::shared().await else { return };
    let story = Story::begin(api).await;
    story.the_gate_counts_as_soon_as_it_is_set().await;
    story.only_bridge_and_virtio_can_be_plugged().await;
    story.names_and_pairs_are_checked().await;
    story.a_network_has_to_exist_and_counts_as_soon_as_it_does().await;
    story.without_dynamic_networks_it_takes_a_migration().await;
    story.an_annotation_plugs_and_unplugs().await;
    story.a_stopped_vm_takes_a_nic_for_its_next_start().await;
    story.a_full_bus_refuses_with_its_sum().await;
    assert_eq!(story.kubevirt.refusals(), Vec::<String>::new());
}

struct Story {
    api: &'static ApiServer,
    namespace: String,
    admin: Client,
    user: Client,
    kubevirt: KubeVirtDouble,
    /// Ends with the story.
    _webhook: Webhook,
}

// === The scene ===

impl Story {
    /// A cluster with KubeVirt 1.3 and no feature gate, and a VM that runs with one NIC.
    async fn begin(api: &'static ApiServer) -> Self {
        let admin = api.admin();
        let home = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}});
        post(&admin, "/api/v1/namespaces", &home).await;
        post(
            &admin,
            &Kind::KubeVirt.path(HOME),
            &json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": {"name": "kubevirt"}, "spec": {}}),
        )
        .await;
        let namespace = api.namespace("guide").await;
        api.let_edit("alice", &namespace).await;
        let kubeconfig = api.kubeconfig().to_str().unwrap();
        let webhook = Webhook::start(&["--kubeconfig", kubeconfig, "--persist", "off"]).await;
        webhook.register(api, &namespace, FailurePolicy::Fail).await;
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        let story = Self { api, namespace, user: api.user("alice"), admin, kubevirt, _webhook: webhook };
        story.run_version("v1.3.1").await;
        request::create(&story.user, Kind::Vm, &story.namespace, &vm(VM, 1), Run::Real).await.granted();
        story.kubevirt.start_vm(VM).await;
        story
    }

    async fn run_version(&self, version: &str) {
        let path = format!("{}/kubevirt/status", Kind::KubeVirt.path(HOME));
        let status = json!({"status": {"observedKubeVirtVersion": version}}).to_string();
        send(&self.admin, Method::PATCH, &path, "application/merge-patch+json", status).await.granted();
    }

    async fn configure(&self, spec: Value) {
        let change = Change::Merge(json!({"spec": spec}));
        request::change(&self.admin, Kind::KubeVirt, HOME, "kubevirt", change, Run::Real).await.granted();
    }

    async fn make_network(&self, name: &str) {
        let nad = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name}, "spec": {"config": "{\"type\": \"bridge\"}"}});
        request::create(&self.admin, Kind::Nad, &self.namespace, &nad, Run::Real).await.granted();
    }

    /// Tries to give the VM a NIC of this binding, as the user, and stores nothing.
    async fn try_nic(&self, vm: &str, interface: Value, network: &str) -> Answer {
        let name = interface["name"].clone();
        let patch = json!([{"op": "add", "path": format!("{INTERFACES}/-"), "value": interface},
            {"op": "add", "path": format!("{NETWORKS}/-"), "value": {"name": name, "multus": {"networkName": network}}}]);
        request::change(&self.user, Kind::Vm, &self.namespace, vm, Change::Json(patch), Run::Dry).await
    }

    async fn annotate(&self, key: &str, value: &str) -> Answer {
        let change = Change::Merge(json!({"metadata": {"annotations": {key: value}}}));
        request::change(&self.user, Kind::Vm, &self.namespace, VM, change, Run::Real).await
    }

    /// Waits until the guest is as it should be.
    async fn guest_when(&self, what: &str, is_right: impl Fn(&Value) -> bool) {
        let vmis = Kind::Vmi.api(&self.admin, &self.namespace);
        let condition = |vmi: Option<&DynamicObject>| vmi.is_some_and(|vmi| is_right(&vmi.data));
        let found = timeout(LONG, await_condition(vmis, VM, condition)).await;
        found.unwrap_or_else(|_| panic!("{what}: {:?}", self.kubevirt.refusals())).unwrap();
    }

    async fn stored(&self, vm: &str) -> Value {
        serde_json::to_value(Kind::Vm.api(&self.admin, &self.namespace).get(vm).await.unwrap()).unwrap()
    }
}

async fn post(admin: &Client, path: &str, object: &Value) {
    send(admin, Method::POST, path, "application/json", object.to_string()).await.granted();
}

/// A VM of 1Gi with one disk and so many NICs: the first on the pod network, the others on [`NETWORK`].
fn vm(name: &str, nics: usize) -> Value {
    let further = 1..nics;
    let mut interfaces = vec![json!({"name": "default", "masquerade": {}})];
    interfaces.extend(further.clone().map(|nic| json!({"name": format!("nic{nic}"), "bridge": {}})));
    let mut networks = vec![json!({"name": "default", "pod": {}})];
    networks.extend(further.map(|nic| json!({"name": format!("nic{nic}"), "multus": {"networkName": NETWORK}})));
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
        "spec": {"runStrategy": "Always", "template": {"spec": {
            "domain": {"devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}], "interfaces": interfaces},
                "memory": {"guest": "1Gi"}},
            "networks": networks,
            "volumes": [{"name": "root", "containerDisk": {"image": "example.com/disk"}}]}}}})
}

fn bridge(name: &str) -> Value {
    json!({"name": name, "bridge": {}})
}

fn names(object: &Value, list: &str) -> Vec<String> {
    let entries = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
    entries.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

/// The ids of the rules that refused a request, in the order of its causes.
#[track_caller]
fn refused_by(answer: &Answer) -> Vec<String> {
    assert_eq!((answer.code, answer.reason()), (422, "Invalid"), "{answer:?}");
    answer
        .causes()
        .iter()
        .map(|cause| cause.message.rsplit('[').next().unwrap().trim_end_matches(']').to_owned())
        .collect()
}

// === The sentences ===

impl Story {
    /// "HotplugNICs" has to be in the feature gates (up to KubeVirt 1.3), and whoever has just set it need not wait.
    async fn the_gate_counts_as_soon_as_it_is_set(&self) {
        self.make_network(NETWORK).await;
        for round in 0..3 {
            let off = self.try_nic(VM, bridge("dyniface1"), NETWORK).await;
            assert_eq!(refused_by(&off), ["NP101"], "round {round}");
            self.configure(json!({"configuration": {"developerConfiguration": {"featureGates": ["HotplugNICs"]}}}))
                .await;
            self.try_nic(VM, bridge("dyniface1"), NETWORK).await.granted();
            self.configure(json!({"configuration": {"developerConfiguration": {"featureGates": []}}})).await;
            // That it was on may be known for a moment longer; a change that was let through then is not lost.
            cluster_support::eventually("the gate is seen to be off", async || {
                (!self.try_nic(VM, bridge("dyniface1"), NETWORK).await.is_ok()).then_some(())
            })
            .await;
        }
        self.configure(json!({"configuration": {"developerConfiguration": {"featureGates": ["HotplugNICs"]}}})).await;
    }

    async fn only_bridge_and_virtio_can_be_plugged(&self) {
        let masquerade = self.try_nic(VM, json!({"name": "dyniface1", "masquerade": {}}), NETWORK).await;
        assert_eq!(refused_by(&masquerade), ["NP102", "NP006"]);
        let e1000e = self.try_nic(VM, json!({"name": "dyniface1", "bridge": {}, "model": "e1000e"}), NETWORK).await;
        assert_eq!(refused_by(&e1000e), ["NP103"]);
        let virtio = json!({"name": "dyniface1", "bridge": {}, "model": "virtio"});
        self.try_nic(VM, virtio, NETWORK).await.granted();
        // What is left out is bridge, as virtctl had it.
        let bare = self.try_nic(VM, json!({"name": "dyniface1"}), NETWORK).await.granted();
        assert_eq!(bare.pointer(INTERFACES).unwrap()[1], bridge("dyniface1"));
    }

    async fn names_and_pairs_are_checked(&self) {
        let twice = refused_by(&self.try_nic(VM, bridge("default"), NETWORK).await);
        assert!(twice.contains(&"NP001".to_owned()) && twice.contains(&"NP002".to_owned()), "{twice:?}");
        let alone = json!([{"op": "add", "path": format!("{INTERFACES}/-"), "value": bridge("dyniface1")}]);
        let answer = request::change(&self.user, Kind::Vm, &self.namespace, VM, Change::Json(alone), Run::Dry).await;
        let alone = refused_by(&answer);
        assert!(alone.contains(&"NP003".to_owned()), "{alone:?}");
    }

    /// A NetworkAttachmentDefinition that was made a moment ago denies nothing.
    async fn a_network_has_to_exist_and_counts_as_soon_as_it_does(&self) {
        for name in ["red", "green", "blue"] {
            let missing = self.try_nic(VM, bridge("dyniface1"), name).await;
            assert_eq!(refused_by(&missing), ["NP105"]);
            assert!(missing.causes()[0].message.contains(&format!("\"{name}\"")), "{missing:?}");
            self.make_network(name).await;
            self.try_nic(VM, bridge("dyniface1"), name).await.granted();
        }
    }

    async fn without_dynamic_networks_it_takes_a_migration(&self) {
        let says_migration = |answer: &Answer| {
            answer
                .warnings
                .iter()
                .any(|text| text.contains("VirtualMachineInstanceMigration") && text.ends_with("[NP112]"))
        };
        self.kubevirt.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        cluster_support::eventually("NP112 tells of the migration", async || {
            let answer = self.try_nic(VM, bridge("dyniface1"), NETWORK).await;
            says_migration(&answer).then_some(())
        })
        .await;

        let controller = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "dynamic-networks-controller-ds", "namespace": HOME},
            "spec": {"selector": {"matchLabels": {"app": "dynamic-networks-controller"}}, "template": {
                "metadata": {"labels": {"app": "dynamic-networks-controller"}},
                "spec": {"containers": [{"name": "controller", "image": "example.com/dynamic-networks-controller",
                    "command": ["/dynamic-networks-controller"]}]}}}});
        let path = format!("/apis/apps/v1/namespaces/{HOME}/daemonsets");
        post(&self.admin, &path, &controller).await;
        let status = json!({"status": {"numberReady": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
            "numberMisscheduled": 0}});
        let path = format!("{path}/dynamic-networks-controller-ds/status");
        send(&self.admin, Method::PATCH, &path, "application/merge-patch+json", status.to_string()).await.granted();
        cluster_support::eventually("NICs are attached in place", async || {
            let answer = self.try_nic(VM, bridge("dyniface1"), NETWORK).await;
            (answer.is_ok() && !says_migration(&answer)).then_some(())
        })
        .await;
    }

    async fn an_annotation_plugs_and_unplugs(&self) {
        let request = format!("dyniface1={NETWORK}");
        let granted = self.annotate("nicplug.io/add-interfaces", &request).await.granted();
        assert_eq!(granted["metadata"]["annotations"]["nicplug.io/add-interfaces"], Value::Null, "it is granted");
        assert_eq!(names(&granted, INTERFACES), ["default", "dyniface1"]);
        assert_eq!(names(&granted, NETWORKS), ["default", "dyniface1"]);
        self.guest_when("the NIC reaches the guest", |vmi| {
            names(vmi, "/spec/domain/devices/interfaces") == ["default", "dyniface1"]
        })
        .await;
        self.kubevirt.report_nics(VM, &[("default", "domain"), ("dyniface1", "domain, multus-status")]).await;
        // Again: nothing is there to do, and nothing is refused.
        let again = self.annotate("nicplug.io/add-interfaces", &request).await.granted();
        assert_eq!(names(&again, INTERFACES), ["default", "dyniface1"]);

        let malformed = self.annotate("nicplug.io/add-interfaces", "dyniface2=").await;
        assert_eq!(refused_by(&malformed), ["NP115"]);

        let removed = self.annotate("nicplug.io/remove-interfaces", "dyniface1").await.granted();
        assert_eq!(removed.pointer(INTERFACES).unwrap()[1]["state"], "absent");
        self.guest_when("the NIC leaves the guest", |vmi| {
            vmi.pointer("/spec/domain/devices/interfaces/1/state").is_some_and(|state| state == "absent")
        })
        .await;

        // kubectl does the same, with the words of the README.
        let Some(mut kubectl) = self.api.kubectl() else { return };
        kubectl.args(["--as", "alice", "--namespace", &self.namespace, "annotate", "vm", VM]);
        let output = kubectl.arg(format!("nicplug.io/add-interfaces=dyniface2={NETWORK}")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(names(&self.stored(VM).await, INTERFACES).contains(&"dyniface2".to_owned()));
    }

    async fn a_stopped_vm_takes_a_nic_for_its_next_start(&self) {
        let mut stopped = vm("stopped", 1);
        stopped["spec"]["runStrategy"] = json!("Halted");
        request::create(&self.user, Kind::Vm, &self.namespace, &stopped, Run::Real).await.granted();
        // Whatever can boot may be written, also what could not be plugged in.
        let e1000e = json!({"name": "dyniface1", "bridge": {}, "model": "e1000e"});
        self.try_nic("stopped", e1000e, NETWORK).await.granted();
        let change = Change::Merge(json!({"metadata": {"annotations":
            {"nicplug.io/add-interfaces": format!("dyniface1={NETWORK}")}}}));
        let answer = request::change(&self.user, Kind::Vm, &self.namespace, "stopped", change, Run::Real).await;
        assert_eq!(names(&answer.granted(), INTERFACES), ["default", "dyniface1"]);
        let change = Change::Merge(json!({"metadata": {"annotations": {"nicplug.io/remove-interfaces": "dyniface1"}}}));
        let answer = request::change(&self.user, Kind::Vm, &self.namespace, "stopped", change, Run::Real).await;
        assert_eq!(names(&answer.granted(), INTERFACES), ["default"]);
    }

    /// A VM that boots with four NICs on KubeVirt 1.9.0 has no free port.
    async fn a_full_bus_refuses_with_its_sum(&self) {
        self.run_version("v1.9.0").await;
        // The stamp is written when the guest is made: by then the new version has to be known.
        cluster_support::eventually("the version is seen", async || {
            let gate_off = json!({"configuration": {"developerConfiguration": {"featureGates": []}}});
            self.configure(gate_off).await;
            self.try_nic(VM, bridge("dyniface3"), NETWORK).await.is_ok().then_some(())
        })
        .await;
        request::create(&self.user, Kind::Vm, &self.namespace, &vm("full", 4), Run::Real).await.granted();
        let vmi = self.kubevirt.start_vm("full").await;
        assert!(vmi["metadata"]["annotations"]["nicplug.io/boot-slots"].is_string(), "{vmi}");
        cluster_support::eventually("the guest is seen to run", async || {
            let answer = self.try_nic("full", bridge("dyniface1"), NETWORK).await;
            if answer.is_ok() {
                return None;
            }
            assert_eq!(refused_by(&answer), ["NP106"]);
            assert!(answer.causes()[0].message.contains("0 of 0 free"), "{answer:?}");
            Some(())
        })
        .await;
    }
}
