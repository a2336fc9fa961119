//! The steps of the demo, and the requests that an API server would send for them.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cluster::{manifests, store::Store};

const BEATS: &str = include_str!("beats.yaml");
const STEPS: &str = include_str!("steps.yaml");
const CLUSTER: &str = include_str!("cluster.yaml");
const VM: &str = include_str!("vm.yaml");

/// The path of the guest's spec in a VM.
pub(super) const GUEST: &str = "/spec/template/spec";

/// The only user with permission to change the spec of a VMI.
const CONTROLLER: &str = "system:serviceaccount:kubevirt:kubevirt-controller";

/// One change of the demo; steps.yaml describes the fields.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Step {
    pub(super) title: String,
    pub(super) note: String,
    cluster: String,
    stopped: bool,
    guest: Value,
    status: BTreeMap<String, Value>,
    slots: String,
    stored: String,
    template: String,
    vmi: bool,
    pub(super) delete: String,
    pub(super) apply: String,
    pub(super) annotate: BTreeMap<String, String>,
    pub(super) command: String,
    pub(super) arrives: String,
    pub(super) expect: Expect,
    pub(super) unreviewed: bool,
    pub(super) then: String,
}

/// The expected result of a step.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    #[default]
    Allowed,
    Denied,
    Patched,
}

/// The NICs of a step.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Nics {
    interfaces: Vec<Value>,
    networks: Vec<Value>,
}

/// Returns the six beats.
pub(super) fn beats() -> anyhow::Result<Vec<Step>> {
    serde_saphyr::from_str(BEATS).context("cannot read the beats of the demo")
}

/// Returns the further steps in order.
pub(super) fn steps() -> anyhow::Result<Vec<Step>> {
    serde_saphyr::from_str(STEPS).context("cannot read the steps of the demo")
}

/// Returns a step that both webhooks change or check, for the curl commands.
pub(super) fn example() -> anyhow::Result<Step> {
    let steps = steps()?;
    steps.into_iter().find(|step| step.expect == Expect::Patched).context("no step is patched")
}

impl Step {
    /// Returns the kind of the changed object, as errors name it.
    pub(super) fn kind(&self) -> &'static str {
        match (self.vmi, self.delete.is_empty()) {
            (_, false) => "NetworkAttachmentDefinition",
            (true, true) => "VirtualMachineInstance",
            (false, true) => "VirtualMachine",
        }
    }

    /// Whether the user only annotates the VM.
    pub(super) fn is_annotation(&self) -> bool {
        !self.annotate.is_empty() && self.apply == self.stored && !self.vmi
    }

    /// Returns the VM after the change, and its VMI before it.
    pub(super) fn vm_and_vmi(&self) -> anyhow::Result<(Value, Value)> {
        Ok((self.vm(&self.apply)?, self.vmi(&self.vm(&self.stored)?)?))
    }

    /// Returns the cluster of the step.
    pub(super) fn cluster(&self) -> anyhow::Result<Store> {
        let mut store = Store::complete();
        for manifest in manifests::read(CLUSTER)?.iter().chain(&manifests::read(&self.cluster)?) {
            store.insert(&manifest.object)?;
        }
        let vm = self.vm(&self.stored)?;
        store.insert(&if self.template.is_empty() { vm.clone() } else { self.vm(&self.template)? })?;
        if !self.stopped {
            store.insert(&self.vmi(&vm)?)?;
        }
        Ok(store)
    }

    /// Returns the VM with these NICs in addition to its default NIC.
    fn vm(&self, nics: &str) -> anyhow::Result<Value> {
        let mut vm: Value = serde_saphyr::from_str(VM)?;
        if let (Some(guest), false) = (vm.pointer_mut(GUEST), self.guest.is_null()) {
            json_patch::merge(guest, &self.guest);
        }
        let nics: Nics = if nics.is_empty() { Nics::default() } else { serde_saphyr::from_str(nics)? };
        let mut extend = |path: &str, more: Vec<Value>| {
            let list = vm.pointer_mut(&format!("{GUEST}/{path}")).and_then(Value::as_array_mut);
            list.context("vm.yaml lacks the lists of NICs")?.extend(more);
            anyhow::Ok(())
        };
        extend("domain/devices/interfaces", nics.interfaces)?;
        extend("networks", nics.networks)?;
        Ok(vm)
    }

    /// Returns the VMI of the running VM.
    fn vmi(&self, vm: &Value) -> anyhow::Result<Value> {
        let spec = vm.pointer(GUEST).context("vm.yaml lacks a template")?;
        let entry = |name: &Value| json!({"name": name, "infoSource": "domain, guest-agent, multus-status"});
        let interfaces = spec.pointer("/domain/devices/interfaces").and_then(Value::as_array);
        let names = interfaces.into_iter().flatten().filter_map(|interface| interface.get("name"));
        let mut status = BTreeMap::from([
            ("phase".to_owned(), json!("Running")),
            (
                "conditions".to_owned(),
                json!([{"type": "Ready", "status": "True"}, {"type": "LiveMigratable", "status": "True"}]),
            ),
            ("interfaces".to_owned(), names.map(entry).collect()),
        ]);
        status.extend(self.status.clone());
        let owner =
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vmi-fedora", "uid": "fedora"});
        let annotations = if self.slots.is_empty() { json!({}) } else { json!({"nicplug.io/boot-slots": self.slots}) };
        let metadata =
            json!({"name": "vmi-fedora", "namespace": "demo", "annotations": annotations, "ownerReferences": [owner]});
        Ok(json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": metadata,
            "spec": spec,
            "status": status,
        }))
    }
}

/// Returns the AdmissionReview of a step.
pub(super) fn review(step: &Step) -> anyhow::Result<Value> {
    if !step.delete.is_empty() {
        return Ok(deletion(step));
    }
    let (resource, user) =
        if step.vmi { ("virtualmachineinstances", CONTROLLER) } else { ("virtualmachines", "alice") };
    let object_of = |nics: &str| {
        let vm = step.vm(nics)?;
        if step.vmi { step.vmi(&vm) } else { Ok(vm) }
    };
    let mut object = object_of(&step.apply)?;
    let annotations = object.pointer_mut("/metadata/annotations").context("vm.yaml lacks annotations")?;
    *annotations = json!(step.annotate);
    Ok(json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "3ae79a1a-f3d7-409c-82ac-948f2f6306e8",
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": step.kind()},
            "resource": {"group": "kubevirt.io", "version": "v1", "resource": resource},
            "namespace": "demo",
            "name": "vmi-fedora",
            "operation": "UPDATE",
            "userInfo": {"username": user},
            "object": object,
            "oldObject": object_of(&step.stored)?,
        },
    }))
}

/// Returns the AdmissionReview of the deletion of a network.
fn deletion(step: &Step) -> Value {
    let (group, kind) = ("k8s.cni.cncf.io", step.kind());
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "3ae79a1a-f3d7-409c-82ac-948f2f6306e8",
            "kind": {"group": group, "version": "v1", "kind": kind},
            "resource": {"group": group, "version": "v1", "resource": "network-attachment-definitions"},
            "namespace": "demo",
            "name": step.delete,
            "operation": "DELETE",
            "userInfo": {"username": "alice"},
            "object": null,
            "oldObject": {"metadata": {"name": step.delete, "namespace": "demo"}},
        },
    })
}

/// Applies the patch of a response to the object of the review, as the API server does, and returns the patch.
pub(super) fn apply_patch(review: &mut Value, answer: &Value) -> anyhow::Result<Option<Value>> {
    let Some(text) = answer.pointer("/response/patch").and_then(Value::as_str) else { return Ok(None) };
    let patch: Value = serde_json::from_slice(&BASE64.decode(text)?)?;
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())?;
    let object = review.pointer_mut("/request/object").context("the review has no object")?;
    json_patch::patch(object, &operations)?;
    Ok(Some(patch))
}
