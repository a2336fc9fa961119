//! A double of KubeVirt's controllers: it changes the objects of one namespace as they do, and runs no guest.
//!
//! As the service account `kubevirt-controller`:
//!
//! - it [starts a VM](KubeVirtDouble::start_vm): it creates a ControllerRevision of the spec and a running VMI;
//! - it hotplugs: it copies a bridge or SR-IOV NIC of the template, unless it is absent, to the VMI with its network;
//! - it hot-unplugs: it copies `state: absent` of a bridge NIC to the VMI.
//!
//! As `kubevirt-handler` it writes the VMI's status when a test calls it. It migrates and deletes nothing, and does not
//! change the VM's template.

pub(crate) mod model;

use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use nicplug::hotplug::progress::pod_interface;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::api_server::{ApiServer, crds::Kind};

/// The controllers of one namespace, which end when this is dropped.
pub(crate) struct KubeVirtDouble {
    controller: Controller,
    /// VMIs, with the rights of `kubevirt-handler`.
    handled: Api<DynamicObject>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Controller {
    vms: Api<DynamicObject>,
    vmis: Api<DynamicObject>,
    revisions: Api<ControllerRevision>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl KubeVirtDouble {
    /// Starts the controllers of a namespace.
    pub(crate) fn start(api: &ApiServer, namespace: &str) -> Self {
        let controller = Controller::new(&api.service_account("kubevirt", "kubevirt-controller"), namespace);
        let handled = Kind::Vmi.api(&api.service_account("kubevirt", "kubevirt-handler"), namespace);
        let task = tokio::spawn(controller.clone().run());
        Self { controller, handled, task }
    }

    /// Starts a VM as `virtctl start` does and returns its VMI. The VMI is in phase Running and has a status entry for
    /// each NIC, reported by the domain, the guest agent and Multus.
    pub(crate) async fn start_vm(&self, name: &str) -> Value {
        let vm = self.controller.vms.get(name).await.unwrap();
        let revision = self.controller.make_revision(&vm).await;
        let vmi: DynamicObject = serde_json::from_value(vmi_of(&vm)).unwrap();
        let vmi = self.controller.vmis.create(&PostParams::default(), &vmi).await.unwrap();
        let interfaces = list(&vmi.data["spec"]["domain"]["devices"]["interfaces"]);
        let names: Vec<&str> = interfaces.iter().map(|interface| interface["name"].as_str().unwrap()).collect();
        let status = json!({"phase": "Running", "virtualMachineRevisionName": revision,
            "interfaces": names.iter().map(|name| plugged(name)).collect::<Vec<_>>()});
        let vmi = self.report(name, status).await;
        let status = json!({"status": {"created": true, "ready": true, "printableStatus": "Running"}});
        self.controller.vms.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        vmi
    }

    /// Writes fields of a VMI's status by merge patch, and returns the VMI.
    pub(crate) async fn report(&self, vmi: &str, status: Value) -> Value {
        let patch = Patch::Merge(json!({ "status": status }));
        let vmi = self.handled.patch(vmi, &PatchParams::default(), &patch).await.unwrap();
        serde_json::to_value(vmi).unwrap()
    }

    /// Writes the status entries of NICs, each a name and an `infoSource` such as `domain, guest-agent`.
    pub(crate) async fn report_nics(&self, vmi: &str, nics: &[(&str, &str)]) -> Value {
        let entry = |(name, source): &(&str, &str)| {
            let mut entry = plugged(name);
            entry["infoSource"] = json!(source);
            entry
        };
        self.report(vmi, json!({"interfaces": nics.iter().map(entry).collect::<Vec<_>>()})).await
    }

    /// Writes one condition, such as `LiveMigratable`, and keeps the others.
    pub(crate) async fn report_condition(&self, vmi: &str, condition: Value) -> Value {
        let current = self.handled.get(vmi).await.unwrap();
        let mut conditions = list(&current.data["status"]["conditions"]);
        conditions.retain(|other| other["type"] != condition["type"]);
        conditions.push(condition);
        self.report(vmi, json!({ "conditions": conditions })).await
    }

    /// Writes a status as the guest agent's heartbeats do: no field changes that nicplug reads.
    pub(crate) async fn heartbeat(&self, vmi: &str, number: u32) {
        self.report(vmi, json!({"guestOSInfo": {"kernelVersion": number.to_string()}})).await;
    }

    /// Returns the errors of the controllers so far.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.controller.errors.lock().unwrap().clone()
    }
}

impl Drop for KubeVirtDouble {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Controller {
    fn new(client: &Client, namespace: &str) -> Self {
        Self {
            vms: Kind::Vm.api(client, namespace),
            vmis: Kind::Vmi.api(client, namespace),
            revisions: Api::namespaced(client.clone(), namespace),
            errors: Arc::default(),
        }
    }

    /// Updates VMIs from their VMs whenever either changes.
    async fn run(self) {
        let watch = |api: &Api<DynamicObject>| watcher(api.clone(), watcher::Config::default()).default_backoff();
        let events = stream::select(watch(&self.vms), watch(&self.vmis)).applied_objects();
        // The watcher reconnects after an error.
        let mut objects = std::pin::pin!(events.filter_map(async |object| object.ok()));
        while let Some(object) = objects.next().await {
            if let Err(error) = self.sync(&object.name_any()).await {
                self.errors.lock().unwrap().push(error.to_string());
            }
        }
    }

    async fn sync(&self, name: &str) -> kube::Result<()> {
        let (Some(vm), Some(vmi)) = (self.vms.get_opt(name).await?, self.vmis.get_opt(name).await?) else {
            return Ok(());
        };
        let is_final = matches!(vmi.data["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if is_final || vmi.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let Some(patch) = hotplug(&vm.data["spec"]["template"]["spec"], &vmi.data["spec"]) else { return Ok(()) };
        let patch: Patch<()> = Patch::Json(serde_json::from_value(patch).unwrap());
        self.vmis.patch(name, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Stores the spec that a VM is started with.
    async fn make_revision(&self, vm: &DynamicObject) -> String {
        let (uid, generation) = (vm.uid().unwrap(), vm.metadata.generation.unwrap());
        let name = format!("revision-start-vm-{uid}-{generation}");
        let revision = json!({"metadata": {"name": name, "ownerReferences": [owner(vm)]},
            "data": {"spec": vm.data["spec"]}, "revision": generation});
        let revision: ControllerRevision = serde_json::from_value(revision).unwrap();
        match self.revisions.create(&PostParams::default(), &revision).await {
            Ok(_) => {}
            // The VM was started with this spec before.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{error}"),
        }
        name
    }
}

/// Returns the VMI of a VM.
fn vmi_of(vm: &DynamicObject) -> Value {
    let template = &vm.data["spec"]["template"];
    let mut metadata = json!({"name": vm.name_any(), "ownerReferences": [owner(vm)],
        "annotations": template["metadata"]["annotations"], "labels": template["metadata"]["labels"]});
    metadata["labels"]["vm.kubevirt.io/name"] = vm.name_any().into();
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata,
        "spec": template["spec"]})
}

fn owner(vm: &DynamicObject) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": vm.name_any(), "uid": vm.uid(),
        "controller": true, "blockOwnerDeletion": true})
}

/// Returns the patch that updates a VMI's NICs from the VM's template; none if they are up to date.
fn hotplug(template: &Value, vmi: &Value) -> Option<Value> {
    let (before, networks) = (list(&vmi["domain"]["devices"]["interfaces"]), list(&vmi["networks"]));
    let (mut interfaces, mut after) = (before.clone(), networks.clone());
    for wanted in list(&template["domain"]["devices"]["interfaces"]) {
        let is_absent = wanted["state"] == "absent";
        match interfaces.iter_mut().find(|interface| interface["name"] == wanted["name"]) {
            Some(interface) if is_absent && interface.get("bridge").is_some() => interface["state"] = json!("absent"),
            None if !is_absent && (wanted.get("bridge").is_some() || wanted.get("sriov").is_some()) => {
                after.extend(list(&template["networks"]).into_iter().filter(|net| net["name"] == wanted["name"]));
                interfaces.push(wanted);
            }
            _ => {}
        }
    }
    let lists = [("/spec/domain/devices/interfaces", before, interfaces), ("/spec/networks", networks, after)];
    let operations =
        lists.into_iter().filter(|(_, before, after)| before != after).flat_map(|(path, before, after)| {
            let test = (!before.is_empty()).then(|| json!({"op": "test", "path": path, "value": before}));
            test.into_iter().chain([json!({"op": "add", "path": path, "value": after})])
        });
    let operations: Vec<Value> = operations.collect();
    (!operations.is_empty()).then_some(Value::Array(operations))
}

/// Returns the status of a NIC that is plugged in. KubeVirt names its interface in the pod.
fn plugged(name: &str) -> Value {
    json!({"name": name, "infoSource": "domain, guest-agent, multus-status", "podInterfaceName": pod_interface(name)})
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
