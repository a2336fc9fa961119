//! The sentences of KubeVirt's guide to hotplug on a real API server, with a nicplug that watches the cluster. A change
//! of the cluster has an effect on the next request.
//!
//! A cluster has one KubeVirt resource, so this is one test whose steps depend on each other.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use hyper::http::Method;
use kube::{Client, api::DynamicObject, runtime::wait::await_condition};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::Kind,
        requests::{self, Change, Response, Run, send},
        webhooks::FailurePolicy,
    },
    builders::{INTERFACES, NETWORKS, VM, nad, names},
    kubevirt::KubeVirtDouble,
    replica::Deployment,
    wait::{LONG, eventually},
};
use tokio::time::timeout;

const NETWORK: &str = "new-fancy-net";
/// The namespace of the KubeVirt resource and of the DaemonSets of Multus.
const KUBEVIRT: &str = "kubevirt";

#[tokio::test]
async fn the_guide_to_hotplug_holds_through_the_registered_webhooks() {
    let Some(api) = api_server::shared().await else { return };
    let cluster = GuideCluster::start(api).await;
    cluster.a_feature_gate_has_an_effect_at_once().await;
    cluster.only_bridge_and_virtio_can_be_hotplugged().await;
    cluster.names_and_pairs_are_checked().await;
    cluster.a_network_has_to_exist_and_has_an_effect_at_once().await;
    cluster.without_dynamic_networks_a_migration_is_needed().await;
    cluster.an_annotation_plugs_and_unplugs_a_nic().await;
    cluster.a_stopped_vm_gets_a_nic_for_its_next_start().await;
    cluster.a_full_bus_denies_a_nic_with_its_port_budget().await;
    assert_eq!(cluster.kubevirt.errors(), Vec::<String>::new());
}

/// A cluster with KubeVirt, one VM and nicplug.
struct GuideCluster {
    api: &'static ApiServer,
    namespace: String,
    admin: Client,
    user: Client,
    kubevirt: KubeVirtDouble,
    _nicplug: Deployment,
}

// === The cluster ===

impl GuideCluster {
    /// Installs KubeVirt 1.3 without a feature gate, and starts a VM with one NIC.
    async fn start(api: &'static ApiServer) -> Self {
        let admin = api.admin();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUBEVIRT}});
        post(&admin, "/api/v1/namespaces", &namespace).await;
        post(
            &admin,
            &Kind::KubeVirt.path(KUBEVIRT),
            &json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": {"name": "kubevirt"}, "spec": {}}),
        )
        .await;
        let namespace = api.namespace("guide").await;
        api.let_edit("alice", &namespace).await;
        let kubeconfig = api.kubeconfig().to_str().unwrap();
        let flags = ["--kubeconfig", kubeconfig, "--persist", "off"];
        let nicplug = Deployment::start(api, &namespace, FailurePolicy::Fail, &flags, &[]).await;
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        let cluster = Self { api, namespace, user: api.user("alice"), admin, kubevirt, _nicplug: nicplug };
        cluster.run_version("v1.3.1").await;
        requests::create(&cluster.user, Kind::Vm, &cluster.namespace, &vm(VM, 1), Run::Real).await.granted();
        cluster.kubevirt.start_vm(VM).await;
        cluster
    }

    async fn run_version(&self, version: &str) {
        let path = format!("{}/kubevirt/status", Kind::KubeVirt.path(KUBEVIRT));
        let status = json!({"status": {"observedKubeVirtVersion": version}}).to_string();
        send(&self.admin, Method::PATCH, &path, "application/merge-patch+json", status).await.granted();
    }

    async fn configure(&self, spec: Value) {
        let change = Change::Merge(json!({"spec": spec}));
        requests::change(&self.admin, Kind::KubeVirt, KUBEVIRT, "kubevirt", change, Run::Real).await.granted();
    }

    async fn create_network(&self, name: &str) {
        requests::create(&self.admin, Kind::Nad, &self.namespace, &nad(name), Run::Real).await.granted();
    }

    /// Adds a NIC as the user, by a dry run.
    async fn try_nic(&self, vm: &str, interface: Value, network: &str) -> Response {
        let name = interface["name"].clone();
        let patch = json!([{"op": "add", "path": format!("{INTERFACES}/-"), "value": interface},
            {"op": "add", "path": format!("{NETWORKS}/-"),
                "value": {"name": name, "multus": {"networkName": network}}}]);
        requests::change(&self.user, Kind::Vm, &self.namespace, vm, Change::Json(patch), Run::Dry).await
    }

    async fn annotate(&self, key: &str, value: &str) -> Response {
        let change = Change::Merge(json!({"metadata": {"annotations": {key: value}}}));
        requests::change(&self.user, Kind::Vm, &self.namespace, VM, change, Run::Real).await
    }

    /// Waits for a state of the VMI.
    async fn vmi_when(&self, what: &str, is_right: impl Fn(&Value) -> bool) {
        let vmis = Kind::Vmi.api(&self.admin, &self.namespace);
        let condition = |vmi: Option<&DynamicObject>| vmi.is_some_and(|vmi| is_right(&vmi.data));
        let found = timeout(LONG, await_condition(vmis, VM, condition)).await;
        found.unwrap_or_else(|_| panic!("{what}: {:?}", self.kubevirt.errors())).unwrap();
    }

    async fn stored(&self, vm: &str) -> Value {
        serde_json::to_value(Kind::Vm.api(&self.admin, &self.namespace).get(vm).await.unwrap()).unwrap()
    }
}

async fn post(admin: &Client, path: &str, object: &Value) {
    send(admin, Method::POST, path, "application/json", object.to_string()).await.granted();
}

/// Returns a VM with this many NICs: the first one on the pod network, the others on [`NETWORK`].
fn vm(name: &str, nics: usize) -> Value {
    let vm = support::builders::vm().named(name).disk();
    (1..nics).fold(vm, |vm, nic| vm.nic(&format!("nic{nic}"), NETWORK)).build()
}

fn bridge(name: &str) -> Value {
    json!({"name": name, "bridge": {}})
}

/// Returns the ids of the rules that denied a request, in the order of its causes.
#[track_caller]
fn denied_by(response: &Response) -> Vec<String> {
    assert_eq!((response.code, response.reason()), (422, "Invalid"), "{response:?}");
    response
        .causes()
        .iter()
        .map(|cause| cause.message.rsplit('[').next().unwrap().trim_end_matches(']').to_owned())
        .collect()
}

// === The steps ===

impl GuideCluster {
    /// "HotplugNICs" has to be in the feature gates (up to KubeVirt 1.3). A user who has just set it need not wait.
    async fn a_feature_gate_has_an_effect_at_once(&self) {
        self.create_network(NETWORK).await;
        for round in 0..3 {
            let off = self.try_nic(VM, bridge("dyniface1"), NETWORK).await;
            assert_eq!(denied_by(&off), ["NP101"], "round {round}");
            self.configure(json!({"configuration": {"developerConfiguration": {"featureGates": ["HotplugNICs"]}}}))
                .await;
            self.try_nic(VM, bridge("dyniface1"), NETWORK).await.granted();
            self.configure(json!({"configuration": {"developerConfiguration": {"featureGates": []}}})).await;
            // nicplug may use the old gates for a moment; a change that it allows then is harmless.
            eventually("nicplug knows that the gate is off", async || {
                (!self.try_nic(VM, bridge("dyniface1"), NETWORK).await.is_ok()).then_some(())
            })
            .await;
        }
        self.configure(json!({"configuration": {"developerConfiguration": {"featureGates": ["HotplugNICs"]}}})).await;
    }

    async fn only_bridge_and_virtio_can_be_hotplugged(&self) {
        let masquerade = self.try_nic(VM, json!({"name": "dyniface1", "masquerade": {}}), NETWORK).await;
        assert_eq!(denied_by(&masquerade), ["NP102", "NP006"]);
        let e1000e = self.try_nic(VM, json!({"name": "dyniface1", "bridge": {}, "model": "e1000e"}), NETWORK).await;
        assert_eq!(denied_by(&e1000e), ["NP103"]);
        let virtio = json!({"name": "dyniface1", "bridge": {}, "model": "virtio"});
        self.try_nic(VM, virtio, NETWORK).await.granted();
        // The default binding is bridge, as it was for virtctl.
        let bare = self.try_nic(VM, json!({"name": "dyniface1"}), NETWORK).await.granted();
        assert_eq!(bare.pointer(INTERFACES).unwrap()[1], bridge("dyniface1"));
    }

    async fn names_and_pairs_are_checked(&self) {
        let twice = denied_by(&self.try_nic(VM, bridge("default"), NETWORK).await);
        assert!(twice.contains(&"NP001".to_owned()) && twice.contains(&"NP002".to_owned()), "{twice:?}");
        let alone = json!([{"op": "add", "path": format!("{INTERFACES}/-"), "value": bridge("dyniface1")}]);
        let response = requests::change(&self.user, Kind::Vm, &self.namespace, VM, Change::Json(alone), Run::Dry).await;
        let alone = denied_by(&response);
        assert!(alone.contains(&"NP003".to_owned()), "{alone:?}");
    }

    /// A NetworkAttachmentDefinition that was created a moment ago causes no denial.
    async fn a_network_has_to_exist_and_has_an_effect_at_once(&self) {
        for name in ["red", "green", "blue"] {
            let missing = self.try_nic(VM, bridge("dyniface1"), name).await;
            assert_eq!(denied_by(&missing), ["NP105"]);
            assert!(missing.causes()[0].message.contains(&format!("\"{name}\"")), "{missing:?}");
            self.create_network(name).await;
            self.try_nic(VM, bridge("dyniface1"), name).await.granted();
        }
    }

    async fn without_dynamic_networks_a_migration_is_needed(&self) {
        let needs_migration = |response: &Response| {
            response
                .warnings
                .iter()
                .any(|text| text.contains("VirtualMachineInstanceMigration") && text.ends_with("[NP112]"))
        };
        self.kubevirt.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        eventually("NP112 warns of the migration", async || {
            let response = self.try_nic(VM, bridge("dyniface1"), NETWORK).await;
            needs_migration(&response).then_some(())
        })
        .await;

        let controller = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "dynamic-networks-controller-ds", "namespace": KUBEVIRT},
            "spec": {"selector": {"matchLabels": {"app": "dynamic-networks-controller"}}, "template": {
                "metadata": {"labels": {"app": "dynamic-networks-controller"}},
                "spec": {"containers": [{"name": "controller", "image": "example.com/dynamic-networks-controller",
                    "command": ["/dynamic-networks-controller"]}]}}}});
        let path = format!("/apis/apps/v1/namespaces/{KUBEVIRT}/daemonsets");
        post(&self.admin, &path, &controller).await;
        let status = json!({"status": {"numberReady": 2, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
            "numberMisscheduled": 0}});
        let path = format!("{path}/dynamic-networks-controller-ds/status");
        send(&self.admin, Method::PATCH, &path, "application/merge-patch+json", status.to_string()).await.granted();
        eventually("NICs are attached in place", async || {
            let response = self.try_nic(VM, bridge("dyniface1"), NETWORK).await;
            (response.is_ok() && !needs_migration(&response)).then_some(())
        })
        .await;
    }

    async fn an_annotation_plugs_and_unplugs_a_nic(&self) {
        let request = format!("dyniface1={NETWORK}");
        let granted = self.annotate("nicplug.io/add-interfaces", &request).await.granted();
        assert_eq!(
            granted["metadata"]["annotations"]["nicplug.io/add-interfaces"],
            Value::Null,
            "the request is removed"
        );
        assert_eq!(names(&granted, INTERFACES), ["default", "dyniface1"]);
        assert_eq!(names(&granted, NETWORKS), ["default", "dyniface1"]);
        self.vmi_when("the NIC reaches the guest", |vmi| {
            names(vmi, "/spec/domain/devices/interfaces") == ["default", "dyniface1"]
        })
        .await;
        self.kubevirt.report_nics(VM, &[("default", "domain"), ("dyniface1", "domain, multus-status")]).await;
        // The same request again changes nothing and is allowed.
        let again = self.annotate("nicplug.io/add-interfaces", &request).await.granted();
        assert_eq!(names(&again, INTERFACES), ["default", "dyniface1"]);

        let malformed = self.annotate("nicplug.io/add-interfaces", "dyniface2=").await;
        assert_eq!(denied_by(&malformed), ["NP115"]);

        let removed = self.annotate("nicplug.io/remove-interfaces", "dyniface1").await.granted();
        assert_eq!(removed.pointer(INTERFACES).unwrap()[1]["state"], "absent");
        self.vmi_when("the NIC leaves the guest", |vmi| {
            vmi.pointer("/spec/domain/devices/interfaces/1/state").is_some_and(|state| state == "absent")
        })
        .await;

        // kubectl does the same, with the command of the README.
        let Some(mut kubectl) = self.api.kubectl() else { return };
        kubectl.args(["--as", "alice", "--namespace", &self.namespace, "annotate", "vm", VM]);
        let output = kubectl.arg(format!("nicplug.io/add-interfaces=dyniface2={NETWORK}")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(names(&self.stored(VM).await, INTERFACES).contains(&"dyniface2".to_owned()));
    }

    async fn a_stopped_vm_gets_a_nic_for_its_next_start(&self) {
        let mut stopped = vm("stopped", 1);
        stopped["spec"]["runStrategy"] = json!("Halted");
        requests::create(&self.user, Kind::Vm, &self.namespace, &stopped, Run::Real).await.granted();
        // Every NIC that can boot is allowed, also if it cannot be hotplugged.
        let e1000e = json!({"name": "dyniface1", "bridge": {}, "model": "e1000e"});
        self.try_nic("stopped", e1000e, NETWORK).await.granted();
        let change = Change::Merge(json!({"metadata": {"annotations":
            {"nicplug.io/add-interfaces": format!("dyniface1={NETWORK}")}}}));
        let response = requests::change(&self.user, Kind::Vm, &self.namespace, "stopped", change, Run::Real).await;
        assert_eq!(names(&response.granted(), INTERFACES), ["default", "dyniface1"]);
        let change = Change::Merge(json!({"metadata": {"annotations": {"nicplug.io/remove-interfaces": "dyniface1"}}}));
        let response = requests::change(&self.user, Kind::Vm, &self.namespace, "stopped", change, Run::Real).await;
        assert_eq!(names(&response.granted(), INTERFACES), ["default"]);
    }

    /// A VM that boots with four NICs on KubeVirt 1.9.0 has no free port.
    async fn a_full_bus_denies_a_nic_with_its_port_budget(&self) {
        self.run_version("v1.9.0").await;
        // The annotation of the PCI layout is written when the VMI is created: nicplug has to know the version before.
        eventually("nicplug knows the version", async || {
            let gate_off = json!({"configuration": {"developerConfiguration": {"featureGates": []}}});
            self.configure(gate_off).await;
            self.try_nic(VM, bridge("dyniface3"), NETWORK).await.is_ok().then_some(())
        })
        .await;
        requests::create(&self.user, Kind::Vm, &self.namespace, &vm("full", 4), Run::Real).await.granted();
        let vmi = self.kubevirt.start_vm("full").await;
        assert!(vmi["metadata"]["annotations"]["nicplug.io/boot-slots"].is_string(), "{vmi}");
        eventually("nicplug knows that the guest runs", async || {
            let response = self.try_nic("full", bridge("dyniface1"), NETWORK).await;
            if response.is_ok() {
                return None;
            }
            assert_eq!(denied_by(&response), ["NP106"]);
            assert!(response.causes()[0].message.contains("0 of 0 free"), "{response:?}");
            Some(())
        })
        .await;
    }
}
