//! The controller of VirtualMachinePools (`pkg/virt-controller/watch/pool/pool.go`): it creates the VMs of a pool and
//! writes a changed template into each. It deletes each guest whose VM has another template, at most `maxUnavailable`
//! together, and its VM starts it anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use hyper::http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    KubeVirtDouble,
    controller::{Controller, get},
    model::text,
};
use crate::support::{
    api_server::{crds::Kind, requests::send},
    wait::LONG,
};

const KIND: &str = "VirtualMachinePool";
/// The label that names the revision of a pool, on VMs and VMIs.
const REVISION: &str = "kubevirt.io/vm-pool-revision-name";

/// The pools of one namespace.
#[derive(Clone)]
pub(super) struct Pools {
    pools: Api<DynamicObject>,
    /// `spec.virtualMachineTemplate` by the name of the revision.
    revisions: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Pools {
    pub(super) fn new(client: &Client, namespace: &str) -> Self {
        Self { pools: Kind::Pool.api(client, namespace), revisions: Arc::default() }
    }
}

impl KubeVirtDouble {
    /// Rolls out a pool after it was created or changed. From then on the controllers continue by themselves.
    pub(crate) fn sync_pool(&self, name: &str) {
        self.pools.send(name.to_owned()).unwrap();
    }
}

/// Installs a definition of pools that accepts any content.
pub(crate) async fn install_definition(admin: &Client) {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "virtualmachinepools.pool.kubevirt.io"},
        "spec": {"group": "pool.kubevirt.io", "scope": "Namespaced",
            "names": {"kind": KIND, "plural": "virtualmachinepools", "singular": "virtualmachinepool"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": any}}]}});
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send(admin, Method::POST, path, "application/json", definition.to_string()).await.granted();
    let definitions: Api<CustomResourceDefinition> = Api::all(admin.clone());
    let established = await_condition(definitions, "virtualmachinepools.pool.kubevirt.io", is_crd_established());
    timeout(LONG, established).await.expect("the definition is established").unwrap();
}

/// Returns whether a pool owns a VM.
pub(super) fn is_of_pool(vm: &Value) -> bool {
    vm["metadata"]["ownerReferences"][0]["kind"] == KIND
}

/// Rolls out the pool that owns a VM, if one does.
pub(super) async fn reconcile_owner(controller: &Controller, vm: &str) -> kube::Result<()> {
    match get(&controller.vms, vm).await? {
        Some(vm) if is_of_pool(&vm) => reconcile(controller, text(&vm["metadata"]["ownerReferences"][0]["name"])).await,
        _ => Ok(()),
    }
}

pub(super) async fn reconcile(controller: &Controller, name: &str) -> kube::Result<()> {
    let Some(pool) = get(&controller.pools.pools, name).await? else { return Ok(()) };
    let template = &pool["spec"]["virtualMachineTemplate"];
    let revision = format!("{name}-{}", pool["metadata"]["generation"]);
    controller.pools.revisions.lock().unwrap().entry(revision.clone()).or_insert_with(|| template.clone());
    let template_of = |object: &Value| {
        let label = text(&object["metadata"]["labels"][REVISION]);
        controller.pools.revisions.lock().unwrap().get(label).cloned()
    };
    let replicas = pool["spec"]["replicas"].as_u64().unwrap_or(1);
    let mut vms = vms_of(controller, &pool).await?;
    for index in 0..replicas {
        let vm_name = format!("{name}-{index}");
        if !vms.iter().any(|vm| vm["metadata"]["name"] == vm_name.as_str()) {
            let vm: DynamicObject = serde_json::from_value(new_vm(&pool, &vm_name, &revision)).unwrap();
            controller.vms.create(&PostParams::default(), &vm).await?;
        }
    }
    let strategy = &pool["spec"]["updateStrategy"];
    if !strategy["unmanaged"].is_null() {
        return Ok(());
    }
    let is_outdated = |vm: &Value| template_of(vm).as_ref() != Some(template);
    let outdated: Vec<Value> = vms.extract_if(.., |vm| is_outdated(vm)).collect();
    for vm in outdated {
        let mut updated = new_vm(&pool, text(&vm["metadata"]["name"]), &revision);
        let mut metadata = vm["metadata"].clone();
        for field in ["labels", "annotations"] {
            metadata[field] = updated["metadata"][field].take();
        }
        updated["metadata"] = metadata;
        controller.replace_vm(text(&vm["metadata"]["name"]), updated).await?;
    }
    if !strategy["opportunistic"].is_null() {
        return Ok(());
    }
    replace_guests(controller, &pool, &vms, &template_of).await
}

/// Deletes the guests of VMs that have another template, as many as may be unavailable.
async fn replace_guests(
    controller: &Controller,
    pool: &Value,
    vms: &[Value],
    template_of: &(impl Fn(&Value) -> Option<Value> + Sync),
) -> kube::Result<()> {
    let mut running = Vec::new();
    for vm in vms {
        let vmi = get(&controller.vmis, text(&vm["metadata"]["name"])).await?;
        running.extend(vmi.filter(|vmi| vmi["status"]["phase"] == "Running").map(|vmi| (vm, vmi)));
    }
    let unavailable = vms.len() - running.len();
    let mut updatable = max_unavailable(&pool["spec"]).saturating_sub(unavailable);
    for (vm, vmi) in running {
        let [wanted, present] = [vm, &vmi].map(|object| object["metadata"]["labels"][REVISION].clone());
        if wanted == present || updatable == 0 {
            continue;
        }
        let name = text(&vm["metadata"]["name"]);
        let guest_of = |template: Option<Value>| template.map(|template| template["spec"]["template"].clone());
        if guest_of(template_of(vm)) == guest_of(template_of(&vmi)) {
            let label = Patch::Merge(json!({"metadata": {"labels": {REVISION: wanted}}}));
            controller.vmis.patch(name, &PatchParams::default(), &label).await?;
        } else {
            controller.delete_vmi(name).await?;
        }
        updatable -= 1;
    }
    Ok(())
}

async fn vms_of(controller: &Controller, pool: &Value) -> kube::Result<Vec<Value>> {
    let all = controller.vms.list(&ListParams::default()).await?;
    let all = all.into_iter().map(|vm| serde_json::to_value(vm).unwrap());
    let is_owned = |vm: &Value| vm["metadata"]["ownerReferences"][0]["uid"] == pool["metadata"]["uid"];
    Ok(all.filter(is_owned).collect())
}

/// Returns a VM of a pool.
fn new_vm(pool: &Value, name: &str, revision: &str) -> Value {
    let template = &pool["spec"]["virtualMachineTemplate"];
    let owner = json!({"apiVersion": "pool.kubevirt.io/v1beta1", "kind": KIND, "name": pool["metadata"]["name"],
        "uid": pool["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true});
    let mut vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "spec": template["spec"],
        "metadata": {"name": name, "ownerReferences": [owner], "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"]}});
    vm["metadata"]["labels"][REVISION] = json!(revision);
    vm["spec"]["template"]["metadata"]["labels"][REVISION] = json!(revision);
    vm
}

/// Returns how many guests of a pool may be unavailable together: by default all, and at least one.
fn max_unavailable(spec: &Value) -> usize {
    let replicas = spec["replicas"].as_u64().unwrap_or(1);
    let limit = match &spec["maxUnavailable"] {
        Value::String(percentage) => replicas * percentage.trim_end_matches('%').parse::<u64>().unwrap() / 100,
        Value::Number(number) => number.as_u64().unwrap(),
        _ => replicas,
    };
    usize::try_from(limit.max(1)).unwrap()
}
