//! The double of KubeVirt's controllers does what KubeVirt was seen to do.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Client,
    api::DynamicObject,
    runtime::wait::{await_condition, conditions::is_deleted},
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{
    api_server::{
        self,
        crds::Kind,
        requests::{self, Change, Run},
    },
    builders::{NETWORKS, VM, VmBuilder, names},
    cases::{LiveRow, data, rows},
    kubevirt::{
        KubeVirtDouble,
        model::{self, Model, NeededMigration, Synced, condition, text},
        pools,
    },
    wait::LONG,
};
use tokio::time::timeout;

// === The replay of real control planes ===

type Row = LiveRow<Seen>;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Seen {
    /// Whether KubeVirt's own webhooks admitted the update.
    admitted: bool,
    template_after: Option<Vec<String>>,
    guest_before: Option<Vec<String>>,
    guest_after: Option<Vec<String>>,
    restart_required_after: bool,
    /// `True` is a migration at once, `False` the grace period.
    migration_required_before: Option<String>,
    migration_required_after: Option<String>,
    same_guest: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            admitted: true,
            template_after: None,
            guest_before: None,
            guest_after: None,
            restart_required_after: false,
            migration_required_before: None,
            migration_required_after: None,
            same_guest: true,
        }
    }
}

#[test]
fn the_double_does_what_kubevirt_1_9_0_was_seen_to_do() {
    assert_replayed("live.ndjson", 77, 74);
}

#[test]
fn the_double_does_what_kubevirt_1_8_4_was_seen_to_do() {
    assert_replayed("live-1.8.4.ndjson", 77, 74);
}

#[test]
fn the_double_does_what_kubevirt_1_6_6_was_seen_to_do() {
    assert_replayed("live-1.6.6.ndjson", 76, 73);
}

fn assert_replayed(file: &str, count: usize, admitted: usize) {
    let rows: Vec<Row> = rows(&data("live").join(file));
    let templates = templates(&rows);
    let replayed: Vec<&Row> = rows.iter().filter(|row| row.seen.admitted).collect();
    assert_eq!((rows.len(), replayed.len()), (count, admitted));
    let faults: Vec<String> = replayed.into_iter().filter_map(|row| fault(row, &templates)).collect();
    assert!(faults.is_empty(), "{file}:\n{}", faults.join("\n"));
}

/// The templates of VMs by uid and generation. The rows of one VM follow each other, so an earlier row has the template
/// that the guest of a later one was started with.
type Templates<'r> = BTreeMap<(&'r str, i64), &'r Value>;

fn templates(rows: &[Row]) -> Templates<'_> {
    let old = rows.iter().map(|row| &row.review["request"]["oldObject"]);
    old.map(|vm| ((text(&vm["metadata"]["uid"]), generation(vm)), &vm["spec"]["template"]["spec"])).collect()
}

fn generation(vm: &Value) -> i64 {
    vm["metadata"]["generation"].as_i64().unwrap()
}

/// Returns how the double differs from what was seen.
fn fault(row: &Row, templates: &Templates) -> Option<String> {
    let request = &row.review["request"];
    let (old, namespace) = (&request["oldObject"], text(&request["namespace"]));
    let fact = |kind: &'static str| row.facts.iter().filter(move |fact| fact["kind"] == kind);
    let model = Model::of(fact("KubeVirt").next().unwrap());
    let vmi = fact("VirtualMachineInstance").find(|vmi| vmi["metadata"]["name"] == request["name"]);
    let preference_name = &request["object"]["spec"]["preference"]["name"];
    let preference = fact("VirtualMachinePreference").find(|object| object["metadata"]["name"] == *preference_name);
    let preference = preference.map(|object| &object["spec"]);

    // The new object is stored with the status of the old one.
    let mut vm = request["object"].clone();
    vm["status"] = old["status"].clone();
    let started_with = vmi.and_then(|vmi| {
        let (_, generation) = text(&vmi["status"]["virtualMachineRevisionName"]).rsplit_once('-')?;
        templates.get(&(text(&old["metadata"]["uid"]), generation.parse().ok()?)).copied()
    });
    // A VM that is being deleted is not compared with its start.
    let start = started_with.unwrap_or(&old["spec"]["template"]["spec"]);
    let mut synced = model.sync(&vm, vmi, start, preference);
    if synced.guest.is_none() && !model::stops(&vm) {
        synced.guest = Some(model.new_guest(&synced.template, preference));
    }
    let found = Seen {
        admitted: true,
        template_after: Some(nics_of(&synced.template)),
        guest_before: vmi.map(|vmi| nics_of(&vmi["spec"])),
        guest_after: synced.guest.as_ref().map(nics_of),
        restart_required_after: synced.requires_restart,
        migration_required_before: vmi.and_then(|vmi| condition(vmi, "MigrationRequired")).map(str::to_owned),
        migration_required_after: vmi.and_then(|vmi| migration_after(&model, vmi, &synced, namespace)),
        same_guest: row.seen.same_guest,
    };
    (found != row.seen).then(|| format!("{}: {found:#?}\nwas seen as {:#?}", row.tag, row.seen))
}

/// Returns the status of `MigrationRequired` after the update.
fn migration_after(model: &Model, vmi: &Value, synced: &Synced, namespace: &str) -> Option<String> {
    if model::is_gone(vmi) {
        return None;
    }
    let pod = model::pod_networks(&vmi["spec"], namespace);
    let mut after = vmi.clone();
    after["spec"] = synced.guest.clone().unwrap();
    match model.needed_migration(&after, &pod) {
        NeededMigration::None => None,
        NeededMigration::AfterGracePeriod => Some("False".to_owned()),
        NeededMigration::AtOnce => Some("True".to_owned()),
    }
}

/// Returns the NICs of a guest as the rows have them: `name:binding:model:state:end of the MAC address@network`.
fn nics_of(guest: &Value) -> Vec<String> {
    let networks = model::networks(guest);
    let network_of = |name: &Value| {
        let network = networks.iter().find(|network| network["name"] == *name).unwrap();
        if network["pod"].is_null() { text(&network["multus"]["networkName"]) } else { "pod" }
    };
    let interfaces = model::interfaces(guest);
    let nic = |nic: &Value| {
        let mac = text(&nic["macAddress"]);
        let (name, binding) = (text(&nic["name"]), model::binding(nic).unwrap_or_default());
        let (model, state) = (text(&nic["model"]), text(&nic["state"]));
        format!("{name}:{binding}:{model}:{state}:{}@{}", &mac[mac.len().saturating_sub(5)..], network_of(&nic["name"]))
    };
    interfaces.iter().map(nic).collect()
}

// === On an API server ===

/// A namespace with KubeVirt's double and a VM that runs with the NICs `default`, on the pod network, and `lan`.
struct Cluster {
    admin: Client,
    namespace: String,
    kubevirt: KubeVirtDouble,
}

impl Cluster {
    async fn start(name: &str, version: &str) -> Option<Self> {
        Self::start_with(name, version, &vm().build()).await
    }

    async fn start_with(name: &str, version: &str, vm: &Value) -> Option<Self> {
        Self::start_model(name, Model::of_version(version), vm).await
    }

    async fn start_model(name: &str, model: Model, vm: &Value) -> Option<Self> {
        let api = api_server::shared().await?;
        let (admin, namespace) = (api.admin(), api.namespace(name).await);
        let kubevirt = KubeVirtDouble::start_model(api, &namespace, model);
        requests::create(&admin, Kind::Vm, &namespace, vm, Run::Real).await.granted();
        Some(Self { admin, namespace, kubevirt })
    }

    /// Starts a VM that runs.
    async fn running(name: &str, version: &str) -> Option<Self> {
        let cluster = Self::start(name, version).await?;
        cluster.kubevirt.start_vm(VM).await;
        Some(cluster)
    }

    /// Writes the template of the VM.
    async fn write(&self, vm: &VmBuilder) {
        self.write_spec(json!({"template": {"spec": vm.guest()}})).await;
    }

    async fn write_spec(&self, spec: Value) {
        let change = Change::Merge(json!({ "spec": spec }));
        requests::change(&self.admin, Kind::Vm, &self.namespace, VM, change, Run::Real).await.granted();
    }

    /// Waits for a state of an object, and returns the object.
    async fn when(&self, kind: Kind, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        self.when_named(kind, VM, what, is_right).await
    }

    async fn when_named(&self, kind: Kind, name: &str, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
        let objects = kind.api(&self.admin, &self.namespace);
        let condition = |object: Option<&DynamicObject>| {
            object.is_some_and(|object| is_right(&serde_json::to_value(object).unwrap()))
        };
        let found = timeout(LONG, await_condition(objects, name, condition)).await;
        let found = found.unwrap_or_else(|_| panic!("{what}: {:?}", self.kubevirt.errors()));
        serde_json::to_value(found.unwrap()).unwrap()
    }

    async fn when_restart_required(&self, is_required: bool) {
        let wanted = is_required.then_some("True");
        let is_right = |vm: &Value| condition(vm, "RestartRequired") == wanted;
        self.when(Kind::Vm, &format!("RestartRequired is {wanted:?}"), is_right).await;
    }

    async fn when_migration_required(&self, wanted: Option<&str>) {
        let is_right = |vmi: &Value| condition(vmi, "MigrationRequired") == wanted;
        self.when(Kind::Vmi, &format!("MigrationRequired is {wanted:?}"), is_right).await;
    }

    async fn when_guest_has(&self, nics: &[&str]) -> Value {
        let is_right = |vmi: &Value| states(&vmi["spec"]) == nics;
        self.when(Kind::Vmi, &format!("the guest has {nics:?}"), is_right).await
    }

    async fn when_template_has(&self, nics: &[&str]) -> Value {
        let is_right = |vm: &Value| states(&vm["spec"]["template"]["spec"]) == nics;
        self.when(Kind::Vm, &format!("the template has {nics:?}"), is_right).await
    }
}

fn vm() -> VmBuilder {
    support::builders::vm().disk().nic("lan", "net-a")
}

/// Returns the VM with a third NIC.
fn vm_with(interface: Value) -> VmBuilder {
    vm().nic_with(interface, json!({"multus": {"networkName": "net-b"}}))
}

/// Returns the names of the NICs of a guest, with their states.
fn states(guest: &Value) -> Vec<String> {
    let name = |nic: &Value| format!("{} {}", text(&nic["name"]), text(&nic["state"])).trim().to_owned();
    model::interfaces(guest).iter().map(name).collect()
}

const GRACE_PERIOD: Duration = Duration::from_secs(16);

#[tokio::test]
async fn a_nic_is_hotplugged_migrated_and_unplugged_until_no_entry_is_left() {
    let Some(cluster) = Cluster::running("plug", "v1.9.0").await else { return };
    cluster.write(&vm_with(json!({"name": "dyn", "bridge": {}}))).await;
    cluster.when_guest_has(&["default", "lan", "dyn"]).await;
    cluster.when_migration_required(Some("False")).await;
    cluster.kubevirt.advance(GRACE_PERIOD / 2).await;
    cluster.when_migration_required(Some("False")).await;
    cluster.kubevirt.advance(GRACE_PERIOD).await;
    cluster.when_migration_required(Some("True")).await;
    cluster.kubevirt.migrate(VM).await;
    cluster.when_migration_required(None).await;

    cluster.write(&vm_with(json!({"name": "dyn", "bridge": {}, "state": "absent"}))).await;
    cluster.when_guest_has(&["default", "lan", "dyn absent"]).await;
    cluster.kubevirt.settle_nics(VM).await;
    cluster.when_guest_has(&["default", "lan"]).await;
    let vm = cluster.when_template_has(&["default", "lan"]).await;
    assert_eq!(names(&vm, NETWORKS), ["default", "lan"]);
    assert_eq!(condition(&vm, "RestartRequired"), None);

    // An absent entry for a NIC that the guest lacks is removed too.
    cluster.write(&vm_with(json!({"name": "dyn", "bridge": {}, "state": "absent"}))).await;
    cluster.when_template_has(&["default", "lan"]).await;
    assert_eq!(cluster.kubevirt.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn the_template_is_compared_with_the_guest() {
    let Some(cluster) = Cluster::running("compare", "v1.9.0").await else { return };
    let lan = |interface: Value| {
        support::builders::vm().disk().nic_with(interface, json!({"multus": {"networkName": "net-a"}}))
    };
    cluster.write(&lan(json!({"name": "lan", "bridge": {}, "model": "virtio"}))).await;
    cluster.when_restart_required(true).await;
    cluster.write(&vm()).await;
    cluster.when_restart_required(false).await;
    cluster.write(&lan(json!({"name": "lan", "bridge": {}, "state": "down"}))).await;
    cluster.when_guest_has(&["default", "lan down"]).await;
    cluster.write(&support::builders::vm().disk()).await;
    cluster.when_restart_required(true).await;
    // A NIC is copied all the same; the guest keeps the one that was dropped.
    cluster.write(&support::builders::vm().disk().nic("dyn", "net-b")).await;
    cluster.when_guest_has(&["default", "lan down", "dyn"]).await;
    cluster.when_restart_required(true).await;
}

#[tokio::test]
async fn a_network_name_is_copied_where_the_version_does() {
    let moved = || support::builders::vm().disk().nic("lan", "net-b");
    let Some(cluster) = Cluster::running("swap", "v1.9.0").await else { return };
    cluster.write(&support::builders::vm().disk().nic("lan", &format!("{}/net-a", cluster.namespace))).await;
    let name = |vmi: &Value| vmi["spec"]["networks"][1]["multus"]["networkName"].clone();
    cluster.when(Kind::Vmi, "the name is copied", |vmi| text(&name(vmi)).ends_with("/net-a")).await;
    cluster.when_migration_required(None).await;
    cluster.write(&moved()).await;
    cluster.when_migration_required(Some("True")).await;
    cluster.kubevirt.migrate(VM).await;
    cluster.when_migration_required(None).await;
    cluster.when_restart_required(false).await;

    let Some(cluster) = Cluster::running("swap-1-8", "v1.8.4").await else { return };
    cluster.write(&moved()).await;
    cluster.when_restart_required(true).await;
    let vmi = cluster.when(Kind::Vmi, "the name is kept", |vmi| name(vmi) == "net-a").await;
    assert_eq!(condition(&vmi, "MigrationRequired"), None);

    let gates = json!({"featureGates": ["LiveUpdateNADRef"]});
    let model = Model::of(&json!({"spec": {"configuration": {"developerConfiguration": gates}},
        "status": {"observedKubeVirtVersion": "v1.8.4"}}));
    let Some(cluster) = Cluster::start_model("swap-gate", model, &vm().build()).await else { return };
    cluster.kubevirt.start_vm(VM).await;
    cluster.write(&moved()).await;
    cluster.when_migration_required(Some("True")).await;
}

#[tokio::test]
async fn a_guest_with_ordinal_names_keeps_its_nics() {
    let Some(cluster) = Cluster::running("ordinal", "v1.9.0").await else { return };
    let seen =
        |name: &str, pod: &str| json!({"name": name, "infoSource": "domain, multus-status", "podInterfaceName": pod});
    cluster.kubevirt.report(VM, json!({"interfaces": [seen("default", "eth0"), seen("lan", "net1")]})).await;
    let both = support::builders::vm()
        .disk()
        .nic_with(json!({"name": "lan", "bridge": {}, "state": "absent"}), json!({"multus": {"networkName": "net-a"}}));
    cluster.write(&both.nic("dyn", "net-b")).await;
    // The new NIC is copied in the same step in which the state is not.
    cluster.when_guest_has(&["default", "lan", "dyn"]).await;
    cluster.when_template_has(&["default", "lan absent", "dyn"]).await;
}

#[tokio::test]
async fn a_vm_without_nics_gets_the_default_nic_until_a_first_one_is_written() {
    let bare = || support::builders::bare_vm(VM).run_strategy("Always").disk();
    let Some(cluster) = Cluster::start_with("default-nic", "v1.9.0", &bare().build()).await else { return };
    let vmi = cluster.kubevirt.start_vm(VM).await;
    assert_eq!(vmi["spec"]["domain"]["devices"]["interfaces"], json!([{"name": "default", "bridge": {}}]));
    assert_eq!(vmi["spec"]["networks"], json!([{"name": "default", "pod": {}}]));
    cluster.write(&bare().nic("lan", "net-a")).await;
    cluster.when_guest_has(&["default", "lan"]).await;
    cluster.when_restart_required(true).await;
}

#[tokio::test]
async fn a_guest_without_a_pod_is_born_with_the_nic() {
    let Some(cluster) = Cluster::start("pending", "v1.9.0").await else { return };
    cluster.kubevirt.schedule_vm(VM).await;
    cluster.write(&vm_with(json!({"name": "dyn", "sriov": {}}))).await;
    let vmi = cluster.when_guest_has(&["default", "lan", "dyn"]).await;
    assert_eq!(condition(&vmi, "MigrationRequired"), None);
    let vmi = cluster.kubevirt.boot(VM).await;
    assert_eq!(names(&vmi, "/status/interfaces"), ["default", "lan", "dyn"]);
    cluster.when_migration_required(None).await;
}

#[tokio::test]
async fn a_halted_vm_loses_its_guest_and_gets_its_nics_at_the_next_start() {
    let Some(cluster) = Cluster::running("halted", "v1.9.0").await else { return };
    let uid = cluster.when_guest_has(&["default", "lan"]).await["metadata"]["uid"].clone();
    let vmis = Kind::Vmi.api(&cluster.admin, &cluster.namespace);
    let guest = vm_with(json!({"name": "dyn", "bridge": {}})).guest();
    cluster.write_spec(json!({"runStrategy": "Halted", "template": {"spec": guest}})).await;
    timeout(LONG, await_condition(vmis, VM, is_deleted(text(&uid)))).await.unwrap().unwrap();
    // The double copies the NIC to the VMI that goes.
    assert_eq!(cluster.kubevirt.errors(), Vec::<String>::new());
    // Without a guest an absent entry has no use.
    cluster.write(&vm_with(json!({"name": "dyn", "bridge": {}, "state": "absent"}))).await;
    cluster.when_template_has(&["default", "lan"]).await;
    let vmi = cluster.kubevirt.start_vm(VM).await;
    assert_eq!(names(&vmi, "/status/interfaces"), ["default", "lan"]);
}

#[tokio::test]
async fn a_pool_writes_its_vms_and_starts_their_guests_anew() {
    let Some(cluster) = Cluster::start("pool", "v1.9.0").await else { return };
    pools::install_definition(&cluster.admin).await;
    let pool = |vm: &VmBuilder| {
        json!({"apiVersion": "pool.kubevirt.io/v1beta1", "kind": "VirtualMachinePool", "metadata": {"name": "web"},
            "spec": {"replicas": 2, "maxUnavailable": 1, "virtualMachineTemplate": {"spec": vm.build()["spec"]}}})
    };
    requests::create(&cluster.admin, Kind::Pool, &cluster.namespace, &pool(&vm()), Run::Real).await.granted();
    cluster.kubevirt.sync_pool("web");
    let guest = async |name: &str, nics: &[&str]| {
        let is_right = |vmi: &Value| vmi["status"]["phase"] == "Running" && states(&vmi["spec"]) == nics;
        cluster.when_named(Kind::Vmi, name, "the guest runs", is_right).await["metadata"]["uid"].clone()
    };
    let before = [guest("web-0", &["default", "lan"]).await, guest("web-1", &["default", "lan"]).await];

    let change = Change::Merge(pool(&vm_with(json!({"name": "dyn", "bridge": {}, "model": "e1000e"}))));
    requests::change(&cluster.admin, Kind::Pool, &cluster.namespace, "web", change, Run::Real).await.granted();
    cluster.kubevirt.sync_pool("web");
    for (name, before) in ["web-0", "web-1"].into_iter().zip(before) {
        let is_new = |vmi: &Value| vmi["metadata"]["uid"] != before && vmi["status"]["phase"] == "Running";
        let vmi = cluster.when_named(Kind::Vmi, name, "the guest is replaced", is_new).await;
        assert_eq!(states(&vmi["spec"]), ["default", "lan", "dyn"]);
    }
    assert_eq!(cluster.kubevirt.errors(), Vec::<String>::new());
}
