//! virt-controller on the API server: what [`Model`] computes, written to the objects.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use tokio::sync::{MutexGuard, mpsc::UnboundedReceiver};

use super::{
    model::{self, Model, NeededMigration, PodNetworks, Synced, condition, interfaces, list_of, networks, text},
    plugged,
    pools::{self, Pools},
};
use crate::support::{api_server::crds::Kind, clock::Clock};

/// How long the dynamic-networks controller has to attach a NIC before the guest has to migrate.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(15);
/// Holds a VMI that is being deleted until KubeVirt has handled it.
const FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";

/// The controller of the VMs and VMIs of one namespace.
#[derive(Clone)]
pub(super) struct Controller {
    pub(super) vms: Api<DynamicObject>,
    pub(super) vmis: Api<DynamicObject>,
    revisions: Api<ControllerRevision>,
    /// VMIs, with the rights of `kubevirt-handler`.
    handled: Api<DynamicObject>,
    pub(super) pools: Pools,
    namespace: String,
    state: Arc<State>,
}

/// What the controllers have to look at.
enum Task {
    /// A VM and its VMI.
    Guest(String),
    Pool(String),
}

struct State {
    model: Model,
    clock: Clock,
    /// The networks of the pods, by VMI.
    pods: Mutex<BTreeMap<String, PodNetworks>>,
    /// Held while conditions of a VMI are read and written.
    conditions: tokio::sync::Mutex<()>,
    errors: Mutex<Vec<String>>,
}

impl Controller {
    pub(super) fn new(client: &Client, namespace: &str, model: Model, handled: Api<DynamicObject>) -> Self {
        let state = State {
            model,
            clock: Clock::default(),
            pods: Mutex::default(),
            conditions: tokio::sync::Mutex::default(),
            errors: Mutex::default(),
        };
        Self {
            vms: Kind::Vm.api(client, namespace),
            vmis: Kind::Vmi.api(client, namespace),
            revisions: Api::namespaced(client.clone(), namespace),
            handled,
            pools: Pools::new(client, namespace),
            namespace: namespace.to_owned(),
            state: Arc::new(state),
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.state.clock
    }

    pub(super) fn errors(&self) -> Vec<String> {
        self.state.errors.lock().unwrap().clone()
    }

    pub(super) async fn lock_conditions(&self) -> MutexGuard<'_, ()> {
        self.state.conditions.lock().await
    }

    pub(super) fn note(&self, result: kube::Result<()>) {
        match result {
            // Another client was faster: its write is an event too.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => {}
            Err(error) => self.state.errors.lock().unwrap().push(error.to_string()),
            Ok(()) => {}
        }
    }

    /// Acts whenever a VM or a VMI changes, or a test names a pool: in one task, so that its writes do not conflict.
    pub(super) async fn run(self, pools: UnboundedReceiver<String>) {
        let watch = |api: &Api<DynamicObject>| watcher(api.clone(), watcher::Config::default()).default_backoff();
        let events = stream::select(watch(&self.vms), watch(&self.vmis)).touched_objects();
        // The watcher reconnects after an error.
        let objects = events.filter_map(async |object| object.ok()).map(|object| Task::Guest(object.name_any()));
        let pools = stream::unfold(pools, async |mut pools| Some((Task::Pool(pools.recv().await?), pools)));
        let mut tasks = std::pin::pin!(stream::select(objects, pools));
        while let Some(task) = tasks.next().await {
            match task {
                Task::Guest(name) => {
                    self.note(self.reconcile(&name).await);
                    self.note(self.sync_migration(&name).await);
                    self.note(pools::reconcile_owner(&self, &name).await);
                }
                Task::Pool(name) => self.note(pools::reconcile(&self, &name).await),
            }
        }
    }

    async fn reconcile(&self, name: &str) -> kube::Result<()> {
        let (Some(vm), vmi) = (get(&self.vms, name).await?, get(&self.vmis, name).await?) else { return Ok(()) };
        let vmi = vmi.filter(|vmi| vmi["metadata"]["ownerReferences"][0]["uid"] == vm["metadata"]["uid"]);
        let is_running = vmi.as_ref().is_some_and(|vmi| !model::is_gone(vmi));
        if model::is_being_deleted(&vm) {
            let is_orphaning = list_of(&vm["metadata"]["finalizers"]).contains(&json!("orphan"));
            return if is_running && !is_orphaning { self.delete_vmi(name).await } else { Ok(()) };
        }
        if vmi.is_none() && pools::is_of_pool(&vm) && !model::stops(&vm) {
            return self.start_vm(name).await.map(drop);
        }
        let stops = is_running && model::stops(&vm);
        if stops {
            let finalizers = json!({"metadata": {"finalizers": [FINALIZER]}});
            self.vmis.patch(name, &PatchParams::default(), &Patch::Merge(finalizers)).await?;
            self.delete_vmi(name).await?;
        }
        let start = self.start_template(&vm, vmi.as_ref()).await?;
        let synced = self.state.model.sync(&vm, vmi.as_ref(), &start, None);
        let written = self.write(name, &vm, vmi.as_ref(), &synced).await;
        if stops {
            // virt-handler has stopped the guest.
            let finalizers = json!({"metadata": {"finalizers": null}});
            self.vmis.patch(name, &PatchParams::default(), &Patch::Merge(finalizers)).await?;
        }
        written
    }

    /// Writes what has changed, in the order of virt-controller, except for the status of the VM, which it writes even if
    /// another write is denied.
    async fn write(&self, name: &str, vm: &Value, vmi: Option<&Value>, synced: &Synced) -> kube::Result<()> {
        self.set_restart_required(vm, synced.requires_restart).await?;
        if let (Some(vmi), Some(guest)) = (vmi, &synced.guest)
            && *guest != vmi["spec"]
        {
            let patch: Patch<()> = Patch::Json(serde_json::from_value(patch_of_nics(&vmi["spec"], guest)).unwrap());
            self.vmis.patch(name, &controller(), &patch).await?;
        }
        if synced.template != vm["spec"]["template"]["spec"] {
            let mut updated = vm.clone();
            updated["spec"]["template"]["spec"] = synced.template.clone();
            self.replace_vm(name, updated).await?;
        }
        Ok(())
    }

    /// Updates a VM as a whole, as KubeVirt does, under the resource version that was read.
    pub(super) async fn replace_vm(&self, name: &str, vm: Value) -> kube::Result<()> {
        let vm: DynamicObject = serde_json::from_value(vm).unwrap();
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        self.vms.replace(name, &parameters, &vm).await.map(drop)
    }

    async fn set_restart_required(&self, vm: &Value, is_required: bool) -> kube::Result<()> {
        if is_required == (condition(vm, "RestartRequired") == Some("True")) {
            return Ok(());
        }
        let mut conditions = list_of(&vm["status"]["conditions"]);
        conditions.retain(|condition| condition["type"] != "RestartRequired");
        if is_required {
            conditions.push(json!({"type": "RestartRequired", "status": "True",
                "message": "a non-live-updatable field was changed in the template spec"}));
        }
        let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
        self.vms.patch_status(text(&vm["metadata"]["name"]), &controller(), &patch).await.map(drop)
    }

    /// Sets or removes `MigrationRequired` of a running guest.
    pub(super) async fn sync_migration(&self, name: &str) -> kube::Result<()> {
        let _guard = self.lock_conditions().await;
        let Some(vmi) = get(&self.vmis, name).await? else {
            self.forget_pod(name);
            return Ok(());
        };
        if model::is_gone(&vmi) || vmi["status"]["phase"] != "Running" {
            return Ok(());
        }
        let needed = self.state.model.needed_migration(&vmi, &self.pod_of(name, &vmi));
        let mut conditions = list_of(&vmi["status"]["conditions"]);
        let existing = conditions.iter().find(|condition| condition["type"] == "MigrationRequired").cloned();
        let status = existing.as_ref().map(|condition| text(&condition["status"]).to_owned());
        let now = Timestamp::try_from(self.state.clock.now()).unwrap();
        let has_waited = |condition: &Value| {
            let since: Timestamp = text(&condition["lastTransitionTime"]).parse().unwrap_or(now);
            now.duration_since(since).unsigned_abs() > GRACE_PERIOD
        };
        let status = match (needed, status.as_deref()) {
            (NeededMigration::None, None)
            | (NeededMigration::AtOnce | NeededMigration::AfterGracePeriod, Some("True")) => {
                return Ok(());
            }
            (NeededMigration::None, Some(_)) => None,
            (NeededMigration::AtOnce, _) => Some(("True", "AutoMigrationDueToLiveUpdate")),
            (NeededMigration::AfterGracePeriod, Some(_)) if existing.as_ref().is_some_and(has_waited) => {
                Some(("True", "AutoMigrationDueToLiveUpdate"))
            }
            (NeededMigration::AfterGracePeriod, Some(_)) => return Ok(()),
            (NeededMigration::AfterGracePeriod, None) => Some(("False", "AutoMigrationPending")),
        };
        conditions.retain(|condition| condition["type"] != "MigrationRequired");
        conditions.extend(status.map(|(status, reason)| {
            json!({"type": "MigrationRequired", "status": status, "reason": reason,
                "lastTransitionTime": now.to_string()})
        }));
        let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
        self.vmis.patch(name, &controller(), &patch).await.map(drop)
    }

    /// Returns the networks of a pod: a NIC that has a status entry keeps the network with which it was attached.
    fn pod_of(&self, name: &str, vmi: &Value) -> PodNetworks {
        let in_status = list_of(&vmi["status"]["interfaces"]);
        let mut pods = self.state.pods.lock().unwrap();
        let pod = pods.entry(name.to_owned()).or_default();
        let is_attached = |nic: &str| in_status.iter().any(|entry| entry["name"] == nic);
        pod.retain(|nic, _| is_attached(nic));
        for (nic, network) in model::pod_networks(&vmi["spec"], &self.namespace) {
            if is_attached(&nic) {
                pod.entry(nic).or_insert(network);
            }
        }
        pod.clone()
    }

    /// Forgets the networks of a pod that no longer exists.
    pub(super) fn forget_pod(&self, name: &str) {
        self.state.pods.lock().unwrap().remove(name);
    }

    pub(super) async fn delete_vmi(&self, name: &str) -> kube::Result<()> {
        self.vmis.delete(name, &DeleteParams::default()).await.map(drop)
    }

    /// Starts a guest and boots it.
    pub(super) async fn start_vm(&self, name: &str) -> kube::Result<Value> {
        self.schedule_vm(name).await?;
        let vmi = self.boot(name).await?;
        let status = json!({"status": {"created": true, "ready": true, "printableStatus": "Running"}});
        self.vms.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(vmi)
    }

    /// Creates the VMI of a VM, which the request to start a halted VM makes run always.
    pub(super) async fn schedule_vm(&self, name: &str) -> kube::Result<Value> {
        let mut vm = self.vms.get(name).await?;
        if vm.data["spec"]["runStrategy"] == "Halted" {
            let patch = Patch::Merge(json!({"spec": {"runStrategy": "Always"}}));
            vm = self.vms.patch(name, &controller(), &patch).await?;
        }
        self.set_restart_required(&serde_json::to_value(&vm).unwrap(), false).await?;
        let revision = self.make_revision(&vm).await?;
        let guest = self.state.model.new_guest(&vm.data["spec"]["template"]["spec"], None);
        let vmi: DynamicObject = serde_json::from_value(vmi_of(&vm, &guest)).unwrap();
        self.vmis.create(&PostParams::default(), &vmi).await?;
        self.forget_pod(name);
        self.report(name, json!({"phase": "Pending", "virtualMachineRevisionName": revision})).await
    }

    /// Reports that a guest runs with the NICs of its VMI.
    pub(super) async fn boot(&self, name: &str) -> kube::Result<Value> {
        let vmi = self.handled.get(name).await?;
        let nics: Vec<Value> = interfaces(&vmi.data["spec"]).iter().map(|nic| plugged(text(&nic["name"]))).collect();
        self.report(name, json!({"phase": "Running", "interfaces": nics})).await
    }

    /// Writes fields of a VMI's status by merge patch, and returns the VMI.
    pub(super) async fn report(&self, name: &str, status: Value) -> kube::Result<Value> {
        let patch = Patch::Merge(json!({ "status": status }));
        let vmi = self.handled.patch(name, &PatchParams::default(), &patch).await?;
        Ok(serde_json::to_value(vmi).unwrap())
    }

    /// Stores the spec that a VM is started with.
    async fn make_revision(&self, vm: &DynamicObject) -> kube::Result<String> {
        let (uid, generation) = (vm.uid().unwrap(), vm.metadata.generation.unwrap());
        let name = format!("revision-start-vm-{uid}-{generation}");
        let revision = json!({"metadata": {"name": name, "ownerReferences": [owner(vm)]},
            "data": {"spec": vm.data["spec"]}, "revision": generation});
        let revision: ControllerRevision = serde_json::from_value(revision).unwrap();
        match self.revisions.create(&PostParams::default(), &revision).await {
            Ok(_) => {}
            // The VM was started with this spec before.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(name)
    }

    /// Returns the template that a guest was started with: that of the VM without a guest.
    async fn start_template(&self, vm: &Value, vmi: Option<&Value>) -> kube::Result<Value> {
        let revision = vmi.map(|vmi| text(&vmi["status"]["virtualMachineRevisionName"])).unwrap_or_default();
        let revision = if revision.is_empty() { None } else { self.revisions.get_opt(revision).await? };
        let data = revision.map(|revision| revision.data.0);
        Ok(data.unwrap_or_else(|| vm.clone())["spec"]["template"]["spec"].take())
    }
}

/// The field manager of virt-controller.
const MANAGER: &str = "virt-controller";

fn controller() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

pub(super) async fn get(api: &Api<DynamicObject>, name: &str) -> kube::Result<Option<Value>> {
    Ok(api.get_opt(name).await?.map(|object| serde_json::to_value(object).unwrap()))
}

/// Returns the VMI of a VM.
fn vmi_of(vm: &DynamicObject, guest: &Value) -> Value {
    let template = &vm.data["spec"]["template"];
    let mut metadata = json!({"name": vm.name_any(), "ownerReferences": [owner(vm)],
        "annotations": template["metadata"]["annotations"], "labels": template["metadata"]["labels"]});
    metadata["labels"]["vm.kubevirt.io/name"] = vm.name_any().into();
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata, "spec": guest})
}

fn owner(vm: &DynamicObject) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": vm.name_any(), "uid": vm.uid(),
        "controller": true, "blockOwnerDeletion": true})
}

/// Returns the patch that replaces both lists of NICs, if they are as they were read.
fn patch_of_nics(before: &Value, after: &Value) -> Value {
    let lists = [
        ("/spec/domain/devices/interfaces", interfaces(before), interfaces(after)),
        ("/spec/networks", networks(before), networks(after)),
    ];
    let operations =
        lists.into_iter().filter(|(_, before, after)| before != after).flat_map(|(path, before, after)| {
            let test = (!before.is_empty()).then(|| json!({"op": "test", "path": path, "value": before}));
            test.into_iter().chain([json!({"op": "add", "path": path, "value": after})])
        });
    operations.collect()
}
