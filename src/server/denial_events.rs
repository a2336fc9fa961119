//! Tells on a guest what KubeVirt was refused: a person reads the answer to a request, and nobody reads a controller's.
//!
//! An answer waits for none of it. What is told is bounded for each object and for all together, and what is beyond
//! that is dropped and counted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::{
    admission::Evaluation,
    api::review::ObjectKind,
    change::Change,
    cluster::cache::Cache,
    k8s::events::{DropReason, EventQueue, EventReason, PendingEvent, RateLimiter},
};
use k8s_openapi::api::core::v1::ObjectReference;

/// Hears of every denial, and tells those of KubeVirt's own components.
pub(super) struct DenialEvents {
    cache: Arc<Cache>,
    queue: EventQueue,
    rate_limiter: Mutex<RateLimiter>,
}

impl DenialEvents {
    pub(super) fn new(cache: Arc<Cache>, queue: EventQueue) -> Self {
        Self { cache, queue, rate_limiter: Mutex::default() }
    }

    /// Emits an Event if the evaluation denies a change of one of KubeVirt's components.
    pub(super) fn emit(&self, evaluation: &Evaluation) {
        let Some(change) = evaluation.denied_change() else { return };
        if !change.dry_run && self.cache.is_of_kubevirt(change.user) {
            self.emit_denial(change, &evaluation.verdict().message());
        }
    }

    fn emit_denial(&self, change: &Change, message: &str) {
        let Some((object, related)) = addressee(change) else { return };
        let note = note(change, message);
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = format!("{}/{}/{}", text(&object.kind), text(&object.namespace), text(&object.name));
        let is_admitted =
            self.rate_limiter.lock().unwrap_or_else(PoisonError::into_inner).admits(&key, &note, Instant::now());
        if is_admitted {
            self.queue.emit(PendingEvent { reason: EventReason::InterfaceRefused, object, related, note });
        } else {
            self.queue.count_dropped(DropReason::Rate);
        }
    }
}

fn note(change: &Change, message: &str) -> String {
    let Change { subject, before, .. } = change;
    let verb = if before.is_some() { "update" } else { "create" };
    format!("KubeVirt may not {verb} {} {:?}: {}", subject.gvk.kind, subject.name, message)
}

/// The object that users look at, and the one that was refused if that is another: of a VMI that runs for a VM, the VM.
fn addressee(change: &Change) -> Option<(ObjectReference, Option<ObjectReference>)> {
    let subject = change.subject;
    let api_version = format!("{}/{}", subject.gvk.group, subject.gvk.version);
    let reference = |kind: &str, name: &str, uid: &str| ObjectReference {
        api_version: Some(api_version.clone()),
        kind: Some(kind.to_owned()),
        namespace: Some(subject.namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: (!uid.is_empty()).then(|| uid.to_owned()),
        ..ObjectReference::default()
    };
    let metadata = change.after.metadata;
    let itself = reference(&subject.gvk.kind, subject.name, &metadata.uid);
    match subject.kind {
        ObjectKind::VirtualMachine => Some((itself, None)),
        ObjectKind::Vmi => match metadata.owner_references.iter().find(|owner| &*owner.kind == "VirtualMachine") {
            Some(owner) => Some((reference(&owner.kind, &owner.name, &owner.uid), Some(itself))),
            // One that is still to be named can be told of nowhere.
            None => (!subject.name.is_empty()).then_some((itself, None)),
        },
        ObjectKind::Migration | ObjectKind::Other | ObjectKind::Pool | ObjectKind::ReplicaSet => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::review::{self, Reading};

    /// On which object it is told that this may not be made, and which one is related: kind, name and uid of each.
    fn told_on(kind: &str, metadata: &Value) -> Option<[Value; 2]> {
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "CREATE", "namespace": "demo", "name": metadata["name"],
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": kind}, "object": {"metadata": metadata}}})
        .to_string();
        let Reading::Whole(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
        let (object, related) = addressee(&Change::of(&request).unwrap())?;
        let parts = |object: ObjectReference| json!([object.api_version, object.kind, object.name, object.uid]);
        Some([parts(object), related.map_or(Value::Null, parts)])
    }

    #[test]
    fn it_is_told_on_the_vm_if_there_is_one() {
        let owned = json!([{"kind": "VirtualMachine", "name": "vm", "uid": "1"}]);
        let vm = json!(["kubevirt.io/v1", "VirtualMachine", "vm", "1"]);
        let (kind, vmi) = ("VirtualMachineInstance", json!(["kubevirt.io/v1", "VirtualMachineInstance", "vm", "2"]));
        assert_eq!(told_on("VirtualMachine", &json!({"name": "vm", "uid": "1"})), Some([vm.clone(), Value::Null]));
        let metadata = json!({"name": "vm", "uid": "2", "ownerReferences": owned});
        assert_eq!(told_on(kind, &metadata), Some([vm, vmi.clone()]));
        assert_eq!(told_on(kind, &json!({"name": "vm", "uid": "2"})), Some([vmi, Value::Null]));
        // What is being made has no uid yet.
        let unborn = json!(["kubevirt.io/v1", "VirtualMachineInstance", "vm", null]);
        assert_eq!(told_on(kind, &json!({"name": "vm"})), Some([unborn, Value::Null]));
        assert_eq!(told_on(kind, &json!({"name": ""})), None);
        assert_eq!(told_on("VirtualMachineInstanceReplicaSet", &json!({"name": "set"})), None);
    }
}
