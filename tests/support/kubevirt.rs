//! A double of KubeVirt's controllers: it changes the objects of one namespace as they were seen to do
//! (`tests/kubevirt_double.rs` replays that), and runs no guest.
//!
//! As the service account `kubevirt-controller` it acts by itself, whenever an object changes:
//!
//! - it compares the template with the guest, and sets or removes `RestartRequired` of the VM;
//! - it copies NICs, states and network names to the VMI, as far as its version does;
//! - it removes entries with `state: absent` from the VMI and the template when the guest has lost the NIC;
//! - it sets and removes `MigrationRequired` of the VMI; the grace period passes when a test moves the clock;
//! - it deletes the VMI of a VM that is halted or deleted;
//! - it rolls out [pools], if the test asks for that.
//!
//! A test [starts a VM](KubeVirtDouble::start_vm): a VM that always runs is not started by itself. As `kubevirt-handler`
//! the double writes the VMI's status when a test calls it: it attaches, detaches and migrates nothing by itself.

mod controller;
pub(crate) mod model;
pub(crate) mod pools;

use std::time::Duration;

use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use nicplug::hotplug::progress::pod_interface;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use self::{
    controller::Controller,
    model::{Model, interfaces, list_of, text},
};
use super::api_server::{ApiServer, crds::Kind};

/// The controllers of one namespace, which end when this is dropped.
pub(crate) struct KubeVirtDouble {
    controller: Controller,
    /// VMIs, with the rights of `kubevirt-handler`.
    handled: Api<DynamicObject>,
    task: JoinHandle<()>,
    /// Names the pools to roll out.
    pools: UnboundedSender<String>,
}

impl KubeVirtDouble {
    /// Starts the controllers of a namespace, those of KubeVirt 1.9.
    pub(crate) fn start(api: &ApiServer, namespace: &str) -> Self {
        Self::start_version(api, namespace, "v1.9.0")
    }

    /// Starts the controllers of another version.
    pub(crate) fn start_version(api: &ApiServer, namespace: &str, version: &str) -> Self {
        Self::start_model(api, namespace, Model::of_version(version))
    }

    /// Starts the controllers of a KubeVirt that is configured in another way.
    pub(crate) fn start_model(api: &ApiServer, namespace: &str, model: Model) -> Self {
        let client = api.service_account("kubevirt", "kubevirt-controller");
        let handled = Kind::Vmi.api(&api.service_account("kubevirt", "kubevirt-handler"), namespace);
        let controller = Controller::new(&client, namespace, model, handled.clone());
        let (pools, to_roll_out) = unbounded_channel();
        let task = tokio::spawn(controller.clone().run(to_roll_out));
        Self { controller, handled, task, pools }
    }

    /// Starts a VM as `virtctl start` does and returns its VMI. The VMI is in phase Running and has a status entry for
    /// each NIC, reported by the domain, the guest agent and Multus.
    pub(crate) async fn start_vm(&self, name: &str) -> Value {
        self.controller.start_vm(name).await.unwrap()
    }

    /// Starts a VM whose guest has no pod yet, and returns its VMI, which is in phase Pending.
    pub(crate) async fn schedule_vm(&self, name: &str) -> Value {
        self.controller.schedule_vm(name).await.unwrap()
    }

    /// Boots a guest that is scheduled, with the NICs of its VMI.
    pub(crate) async fn boot(&self, vmi: &str) -> Value {
        self.controller.boot(vmi).await.unwrap()
    }

    /// Attaches and detaches the NICs of a guest, as virt-handler and Multus' dynamic-networks controller do: each NIC of
    /// the spec has a status entry, and an absent one has none.
    pub(crate) async fn settle_nics(&self, vmi: &str) -> Value {
        let current = serde_json::to_value(self.handled.get(vmi).await.unwrap()).unwrap();
        let in_status = list_of(&current["status"]["interfaces"]);
        let wanted = interfaces(&current["spec"]).into_iter().filter(|nic| nic["state"] != "absent");
        let entry = |nic: Value| {
            let present = in_status.iter().find(|entry| entry["name"] == nic["name"]);
            present.cloned().unwrap_or_else(|| plugged(text(&nic["name"])))
        };
        self.report(vmi, json!({"interfaces": wanted.map(entry).collect::<Vec<_>>()})).await
    }

    /// Migrates a guest: its new pod has the networks of the VMI.
    pub(crate) async fn migrate(&self, vmi: &str) -> Value {
        self.controller.forget_pod(vmi);
        let settled = self.settle_nics(vmi).await;
        self.controller.sync_migration(vmi).await.unwrap();
        settled
    }

    /// Lets time pass, and the controllers look at each guest again.
    pub(crate) async fn advance(&self, by: Duration) {
        self.controller.clock().advance(by);
        for vmi in self.handled.list(&ListParams::default()).await.unwrap() {
            self.controller.sync_migration(&vmi.name_any()).await.unwrap();
        }
    }

    /// Lets the grace period of the dynamic-networks controller pass for each NIC that the guests lack now.
    pub(crate) async fn end_grace_period(&self) {
        // The first step sets the condition where the controllers have not done so yet.
        for _ in 0..2 {
            self.advance(controller::GRACE_PERIOD + Duration::from_secs(1)).await;
        }
    }

    /// Writes fields of a VMI's status by merge patch, and returns the VMI.
    pub(crate) async fn report(&self, vmi: &str, status: Value) -> Value {
        self.controller.report(vmi, status).await.unwrap()
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
        let _guard = self.controller.lock_conditions().await;
        let current = self.handled.get(vmi).await.unwrap();
        let mut conditions = list_of(&current.data["status"]["conditions"]);
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
        self.controller.errors()
    }
}

impl Drop for KubeVirtDouble {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the status of a NIC that is plugged in. KubeVirt names its interface in the pod.
fn plugged(name: &str) -> Value {
    json!({"name": name, "infoSource": "domain, guest-agent, multus-status", "podInterfaceName": pod_interface(name)})
}
