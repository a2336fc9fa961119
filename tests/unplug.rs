//! `nicplug.io/unplug: dropped` on a real API server: GitOps removes a NIC from a manifest, nicplug writes it back as
//! absent, and KubeVirt's double unplugs it and removes the entry.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use kube::{
    Client,
    api::DynamicObject,
    runtime::wait::{await_condition, conditions::is_deleted},
};
use serde_json::{Value, json};
use support::{
    api_server::{
        self, ApiServer,
        crds::Kind,
        requests::{self, Change, Response, Run, send},
        webhooks::FailurePolicy,
    },
    builders::{INTERFACES, NETWORKS, VM, VmBuilder, nad, names},
    folder::Folder,
    kubevirt::{
        KubeVirtDouble,
        model::{self, condition, text},
    },
    replica::Deployment,
    wait::{LONG, eventually},
};
use tokio::time::timeout;

const NETWORK: &str = "new-fancy-net";
/// The namespace of the KubeVirt resource.
const KUBEVIRT: &str = "kubevirt";

/// A namespace with a VM, KubeVirt's double, and a nicplug that watches the cluster.
struct Cluster {
    api: &'static ApiServer,
    admin: Client,
    namespace: String,
    kubevirt: KubeVirtDouble,
    _nicplug: Deployment,
}

impl Cluster {
    /// Starts a VM by a manifest that is applied as `gitops`.
    async fn start(name: &str, manifest: &VmBuilder) -> Option<Self> {
        let api = api_server::shared().await?;
        let admin = api.admin();
        install_kubevirt(&admin).await;
        let namespace = api.namespace(name).await;
        requests::create(&admin, Kind::Nad, &namespace, &nad(NETWORK), Run::Real).await.granted();
        let flags = ["--kubeconfig", api.kubeconfig().to_str().unwrap(), "--persist", "off"];
        let nicplug = Deployment::start(api, &namespace, FailurePolicy::Fail, &flags, &[]).await;
        let kubevirt = KubeVirtDouble::start(api, &namespace);
        let cluster = Self { api, admin, namespace, kubevirt, _nicplug: nicplug };
        cluster.apply(manifest, Run::Real).await.granted();
        cluster.kubevirt.start_vm(VM).await;
        cluster.kubevirt.report_condition(VM, json!({"type": "LiveMigratable", "status": "True"})).await;
        Some(cluster)
    }

    /// Applies a manifest on the server, as `gitops` and without force.
    async fn apply(&self, manifest: &VmBuilder, run: Run) -> Response {
        self.write(Change::Apply("gitops", manifest.build()), run).await
    }

    async fn write(&self, change: Change, run: Run) -> Response {
        requests::change(&self.admin, Kind::Vm, &self.namespace, VM, change, run).await
    }

    async fn stored(&self) -> Value {
        serde_json::to_value(Kind::Vm.api(&self.admin, &self.namespace).get(VM).await.unwrap()).unwrap()
    }

    /// Applies a manifest with a further NIC, and waits until the guest has it and nicplug knows that.
    async fn hotplug(&self, with: &VmBuilder, without: &VmBuilder) {
        self.apply(with, Run::Real).await.granted();
        self.when_guest_has(&["default", "dyn"]).await;
        self.kubevirt.settle_nics(VM).await;
        self.when_dry_run_stores(without, &["default", "dyn absent"]).await;
    }

    /// Waits until nicplug knows the state of the guest in which a manifest has this result.
    async fn when_dry_run_stores(&self, manifest: &VmBuilder, nics: &[&str]) {
        eventually("nicplug knows the guest", async || {
            let response = self.apply(manifest, Run::Dry).await;
            (response.is_ok() && states(&response.body["spec"]["template"]["spec"]) == nics).then_some(())
        })
        .await;
    }

    async fn when_guest_has(&self, nics: &[&str]) {
        self.when(Kind::Vmi, nics, |vmi| states(&vmi["spec"]) == nics).await;
    }

    async fn when_template_has(&self, nics: &[&str]) {
        self.when(Kind::Vm, nics, |vm| states(&vm["spec"]["template"]["spec"]) == nics).await;
    }

    async fn when(&self, kind: Kind, what: &[&str], is_right: impl Fn(&Value) -> bool) {
        let objects = kind.api(&self.admin, &self.namespace);
        let condition = |object: Option<&DynamicObject>| {
            object.is_some_and(|object| is_right(&serde_json::to_value(object).unwrap()))
        };
        let found = timeout(LONG, await_condition(objects, VM, condition)).await;
        found.unwrap_or_else(|_| panic!("{what:?}: {:?}", self.kubevirt.errors())).unwrap();
    }
}

async fn install_kubevirt(admin: &Client) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUBEVIRT}});
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "spec": {"workloadUpdateStrategy": {"workloadUpdateMethods": ["LiveMigrate"]}}});
    for (path, object) in [("/api/v1/namespaces".to_owned(), namespace), (Kind::KubeVirt.path(KUBEVIRT), kubevirt)] {
        let response = send(admin, hyper::http::Method::POST, &path, "application/json", object.to_string()).await;
        assert!(response.is_ok() || response.reason() == "AlreadyExists", "{response:?}");
    }
    let path = format!("{}/kubevirt/status", Kind::KubeVirt.path(KUBEVIRT));
    let status = json!({"status": {"observedKubeVirtVersion": "v1.9.0"}}).to_string();
    send(admin, hyper::http::Method::PATCH, &path, "application/merge-patch+json", status).await.granted();
}

/// Begins a manifest that asks for the unplug of dropped NICs.
fn manifest() -> VmBuilder {
    support::builders::vm().disk().annotation("nicplug.io/unplug", "dropped")
}

/// Returns the names of the NICs of a guest, with their states.
fn states(guest: &Value) -> Vec<String> {
    let name = |nic: &Value| format!("{} {}", text(&nic["name"]), text(&nic["state"])).trim().to_owned();
    model::interfaces(guest).iter().map(name).collect()
}

/// Returns the managers of `interfaces` and of `networks`, in alphabetical order.
fn managers(vm: &Value) -> [Vec<&str>; 2] {
    [INTERFACES, NETWORKS].map(|list| {
        let field = list.replace('/', "/f:");
        let entries = vm["metadata"]["managedFields"].as_array().unwrap().iter();
        let owning = entries.filter(|entry| entry["fieldsV1"].pointer(&field).is_some());
        let mut names: Vec<&str> = owning.map(|entry| entry["manager"].as_str().unwrap()).collect();
        names.sort_unstable();
        names
    })
}

#[track_caller]
fn assert_silent_about_drop(response: &Response) {
    assert!(!response.warnings.iter().any(|warning| warning.contains("NP108")), "{:?}", response.warnings);
}

#[tokio::test]
async fn a_nic_that_is_removed_from_a_manifest_is_unplugged_and_the_manifest_can_be_applied_repeatedly() {
    let (without, with) = (manifest(), manifest().nic("dyn", NETWORK));
    let Some(cluster) = Cluster::start("unplug", &without).await else { return };
    cluster.hotplug(&with, &without).await;

    // The first apply without the NIC. The API server attributes the entry to the manager of the lists.
    let response = cluster.apply(&without, Run::Real).await;
    assert_silent_about_drop(&response);
    let applied = response.granted();
    assert_eq!(states(&applied["spec"]["template"]["spec"]), ["default", "dyn absent"]);
    assert_eq!(names(&applied, NETWORKS), ["default", "dyn"]);
    assert_eq!(managers(&applied), [["gitops"], ["gitops"]]);

    // While the guest loses the NIC, the same manifest changes nothing: not even the resource version.
    cluster.when_guest_has(&["default", "dyn absent"]).await;
    for _ in 0..2 {
        let before = cluster.stored().await;
        let response = cluster.apply(&without, Run::Real).await;
        assert_silent_about_drop(&response);
        assert_eq!(response.granted(), before);
    }
    assert_eq!(condition(&cluster.stored().await, "RestartRequired"), None);

    // KubeVirt removes both entries, and nicplug does not write them again.
    cluster.kubevirt.settle_nics(VM).await;
    cluster.when_guest_has(&["default"]).await;
    cluster.when_template_has(&["default"]).await;
    let cleared = cluster.stored().await;
    assert_eq!(managers(&cleared), [["virt-controller"], ["virt-controller"]]);

    // KubeVirt took over the lists, with the values of the manifest: an apply conflicts with nothing.
    cluster.when_dry_run_stores(&without, &["default"]).await;
    let response = cluster.apply(&without, Run::Real).await;
    assert!(response.warnings.is_empty(), "{:?}", response.warnings);
    let again = response.granted();
    assert_eq!(
        (&again["spec"], &again["metadata"]["generation"]),
        (&cleared["spec"], &cleared["metadata"]["generation"])
    );
    assert_eq!(managers(&again), [["gitops", "virt-controller"], ["gitops", "virt-controller"]]);
    assert_eq!(cluster.apply(&without, Run::Real).await.granted(), again);
    assert_eq!(condition(&again, "RestartRequired"), None);
    assert_eq!(cluster.kubevirt.errors(), Vec::<String>::new());

    // Other lists conflict with KubeVirt's write, so they need force, which GitOps tools use. The NIC can be added again.
    assert_eq!(cluster.apply(&with, Run::Real).await.reason(), "Conflict");
    let applied = cluster.write(Change::ForceApply("gitops", with.build()), Run::Real).await.granted();
    assert_eq!(managers(&applied), [["gitops"], ["gitops"]]);
    cluster.when_guest_has(&["default", "dyn"]).await;
}

#[tokio::test]
async fn a_nic_of_another_manager_is_unplugged_when_a_forced_apply_removes_it() {
    let without = manifest();
    let Some(cluster) = Cluster::start("unplug-forced", &without).await else { return };
    let plug = json!([{"op": "add", "path": format!("{INTERFACES}/-"), "value": {"name": "dyn", "bridge": {}}},
        {"op": "add", "path": format!("{NETWORKS}/-"), "value": {"name": "dyn", "multus": {"networkName": NETWORK}}}]);
    cluster.write(Change::Json(plug), Run::Real).await.granted();
    cluster.when_guest_has(&["default", "dyn"]).await;
    cluster.kubevirt.settle_nics(VM).await;
    let refused = cluster.apply(&without, Run::Real).await;
    assert_eq!(refused.reason(), "Conflict", "{refused:?}");
    let force = || Change::ForceApply("gitops", without.build());
    eventually("nicplug knows the guest", async || {
        let response = cluster.write(force(), Run::Dry).await.granted();
        (states(&response["spec"]["template"]["spec"]) == ["default", "dyn absent"]).then_some(())
    })
    .await;
    let applied = cluster.write(force(), Run::Real).await.granted();
    assert_eq!(states(&applied["spec"]["template"]["spec"]), ["default", "dyn absent"]);
    assert_eq!(managers(&applied), [["gitops"], ["gitops"]]);
    cluster.when_guest_has(&["default", "dyn absent"]).await;
    cluster.kubevirt.settle_nics(VM).await;
    cluster.when_template_has(&["default"]).await;
}

#[tokio::test]
async fn kubectl_apply_without_the_nic_unplugs_it() {
    let (without, with) = (manifest(), manifest().nic("dyn", NETWORK));
    let Some(cluster) = Cluster::start("unplug-kubectl", &without).await else { return };
    let folder = Folder::new("kubectl");
    let apply = |manifest: &VmBuilder| {
        let mut command = cluster.api.kubectl()?;
        command.args(["--namespace", &cluster.namespace, "apply", "--filename"]);
        let output = command.arg(folder.write("manifest.json", &manifest.build().to_string())).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stderr).unwrap())
    };
    let Some(_) = apply(&with) else { return };
    cluster.when_guest_has(&["default", "dyn"]).await;
    cluster.kubevirt.settle_nics(VM).await;
    let force = || Change::ForceApply("gitops", without.build());
    eventually("nicplug knows the guest", async || {
        let response = cluster.write(force(), Run::Dry).await.granted();
        (states(&response["spec"]["template"]["spec"]) == ["default", "dyn absent"]).then_some(())
    })
    .await;
    let mut generations = Vec::new();
    for _ in 0..3 {
        let warnings = apply(&without).unwrap();
        assert!(!warnings.contains("NP108"), "{warnings}");
        let stored = cluster.stored().await;
        assert_eq!(states(&stored["spec"]["template"]["spec"]), ["default", "dyn absent"]);
        generations.push(stored["metadata"]["generation"].clone());
    }
    assert!(generations.iter().all(|generation| *generation == generations[0]), "{generations:?}");
    cluster.when_guest_has(&["default", "dyn absent"]).await;
    cluster.kubevirt.settle_nics(VM).await;
    cluster.when_template_has(&["default"]).await;
}

#[tokio::test]
async fn a_nic_that_cannot_be_unplugged_stays_until_a_restart_and_np108_warns() {
    let sriov = json!({"name": "vf", "sriov": {}});
    let with = || manifest().nic("lan", NETWORK).nic_with(sriov.clone(), json!({"multus": {"networkName": NETWORK}}));
    let Some(cluster) = Cluster::start("unplug-refused", &with()).await else { return };
    let drop_all = async |annotation: &str, expected: &[&str]| {
        let bare = support::builders::vm().disk().annotation("nicplug.io/unplug", annotation);
        eventually("the drop has this result", async || {
            let response = cluster.apply(&bare, Run::Dry).await;
            (states(&response.body["spec"]["template"]["spec"]) == expected).then_some(response)
        })
        .await
    };
    let warns_of = |response: &Response, nic: &str, rule: &str| {
        let quoted = format!("{nic:?}");
        response.warnings.iter().any(|warning| warning.contains(&quoted) && warning.contains(rule))
    };
    let response = drop_all("dropped", &["default", "lan absent"]).await;
    assert!(warns_of(&response, "vf", "NP108") && !warns_of(&response, "lan", "NP108"), "{:?}", response.warnings);

    // Without the annotation, and with a value that does not exist, KubeVirt asks for a restart as ever.
    for (value, is_known) in [("absent", true), ("drop", false)] {
        let response = drop_all(value, &["default"]).await;
        assert!(warns_of(&response, "vf", "NP108") && warns_of(&response, "lan", "NP108"), "{:?}", response.warnings);
        assert_eq!(warns_of(&response, value, "NP115"), !is_known, "{:?}", response.warnings);
    }

    // KubeVirt unplugs no NIC of a guest with ordinal names.
    let seen =
        |name: &str, pod: &str| json!({"name": name, "infoSource": "domain, multus-status", "podInterfaceName": pod});
    let ordinal = json!({"interfaces": [seen("default", "eth0"), seen("lan", "net1"), seen("vf", "net2")]});
    cluster.kubevirt.report(VM, ordinal).await;
    let response = drop_all("dropped", &["default"]).await;
    assert!(warns_of(&response, "lan", "NP108"), "{:?}", response.warnings);
}

#[tokio::test]
async fn a_vm_that_the_same_apply_stops_loses_the_nic_with_its_guest() {
    let with = manifest().nic("dyn", NETWORK);
    let Some(cluster) = Cluster::start("unplug-stop", &with).await else { return };
    let vmis = Kind::Vmi.api(&cluster.admin, &cluster.namespace);
    let uid = vmis.get(VM).await.unwrap().metadata.uid.unwrap();
    // virt-controller copies a NIC of the stopping VM to the VMI that goes, which nicplug does not deny.
    let stopped = manifest().run_strategy("Halted").nic("other", NETWORK);
    let applied = cluster.apply(&stopped, Run::Real).await.granted();
    assert_eq!(states(&applied["spec"]["template"]["spec"]), ["default", "other"]);
    timeout(LONG, await_condition(vmis, VM, is_deleted(&uid))).await.unwrap().unwrap();
    assert_eq!(cluster.kubevirt.errors(), Vec::<String>::new());
}
