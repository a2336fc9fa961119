//! Emits an Event on a guest if a request of KubeVirt is denied, or would be denied to another user: a user reads the
//! answer to their own request, but not the answer to a controller's request.
//!
//! An answer does not wait for its Event. The rate of Events is limited, per object and for all objects together;
//! Events above the limit are dropped and counted.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use k8s_openapi::api::core::v1::ObjectReference;

use crate::{
    admission::Evaluation,
    api::review::ObjectKind,
    change::Change,
    cluster::cache::Cache,
    k8s::events::{DropReason, EventQueue, EventReason, PendingEvent, RateLimiter},
};

/// Emits Events for denied requests of KubeVirt's components, and for changes of its own that others may not make.
pub(super) struct DenialEvents {
    cache: Arc<Cache>,
    queue: EventQueue,
    rate_limiter: Mutex<RateLimiter>,
}

impl DenialEvents {
    pub(super) fn new(cache: Arc<Cache>, queue: EventQueue) -> Self {
        Self { cache, queue, rate_limiter: Mutex::default() }
    }

    /// Emits an Event if the evaluation denies a change of one of KubeVirt's components, or would deny it to others.
    pub(super) fn emit(&self, evaluation: &Evaluation) {
        if let Some((change, reason, note)) = self.event_of(evaluation) {
            self.emit_on_guest(change, reason, note);
        }
    }

    /// Whether a user is a component of KubeVirt.
    pub(super) fn is_of_kubevirt(&self, user: &str) -> bool {
        self.cache.is_of_kubevirt(user)
    }

    fn event_of<'e, 'r>(&self, evaluation: &'e Evaluation<'r>) -> Option<(&'e Change<'r>, EventReason, String)> {
        let verdict = evaluation.verdict();
        if let Some(change) = evaluation.denied_change() {
            let is_reported = !change.dry_run && self.cache.is_of_kubevirt(change.user);
            return is_reported
                .then(|| (change, EventReason::InterfaceRefused, denial_note(change, &verdict.message())));
        }
        // Only virt-controller has such a change.
        let change = evaluation.change_not_denied().filter(|change| !change.dry_run)?;
        let note = warning_note(change, &verdict.message_of_not_denied());
        Some((change, EventReason::InterfaceNotAttached, note))
    }

    fn emit_on_guest(&self, change: &Change, reason: EventReason, note: String) {
        let Some((object, related)) = event_objects(change) else { return };
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (kind, namespace, name) = (text(&object.kind), text(&object.namespace), text(&object.name));
        // The repeated denials of a controller leave room for an Event of another reason.
        let key = format!("{kind}/{namespace}/{name} {}", reason.as_str());
        let is_admitted =
            self.rate_limiter.lock().unwrap_or_else(PoisonError::into_inner).admits(&key, &note, Instant::now());
        if is_admitted {
            self.queue.emit(PendingEvent { reason, object, related, note, name: None });
        } else {
            self.queue.count_dropped(DropReason::Rate);
        }
    }
}

fn warning_note(change: &Change, message: &str) -> String {
    format!("KubeVirt updated {} {:?}: {message}", change.subject.gvk.kind, change.subject.name)
}

fn denial_note(change: &Change, message: &str) -> String {
    let Change { subject, before, .. } = change;
    let verb = if before.is_some() { "update" } else { "create" };
    format!("KubeVirt may not {verb} {} {:?}: {}", subject.gvk.kind, subject.name, message)
}

/// Returns the object that the Event is about, and the denied object if that is another one: a user looks at the VM of
/// a VMI.
pub(super) fn event_objects(change: &Change) -> Option<(ObjectReference, Option<ObjectReference>)> {
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
        ObjectKind::Vm => Some((itself, None)),
        ObjectKind::Vmi => match metadata.owner_references.iter().find(|owner| &*owner.kind == "VirtualMachine") {
            Some(owner) => Some((reference(&owner.kind, &owner.name, &owner.uid), Some(itself))),
            // An object without a name yet cannot have an Event.
            None => (!subject.name.is_empty()).then_some((itself, None)),
        },
        ObjectKind::Migration | ObjectKind::Nad | ObjectKind::Other | ObjectKind::Pool | ObjectKind::ReplicaSet => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        admission::{Endpoint, Evaluator, parse},
        api::review::{self, ParsedRequest},
        cluster::store::Store,
        settings::Settings,
    };

    /// The objects of the Event if the creation of this object is denied: apiVersion, kind, name and uid of each.
    fn objects(kind: &str, metadata: &Value) -> Option<[Value; 2]> {
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "CREATE", "namespace": "demo", "name": metadata["name"],
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": kind}, "object": {"metadata": metadata}}})
        .to_string();
        let ParsedRequest::Valid(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
        let (object, related) = event_objects(&Change::of(&request).unwrap())?;
        let parts = |object: ObjectReference| json!([object.api_version, object.kind, object.name, object.uid]);
        Some([parts(object), related.map_or(Value::Null, parts)])
    }

    #[test]
    fn the_event_is_about_the_vm_if_there_is_one() {
        let owned = json!([{"kind": "VirtualMachine", "name": "vm", "uid": "1"}]);
        let vm = json!(["kubevirt.io/v1", "VirtualMachine", "vm", "1"]);
        let (kind, vmi) = ("VirtualMachineInstance", json!(["kubevirt.io/v1", "VirtualMachineInstance", "vm", "2"]));
        assert_eq!(objects("VirtualMachine", &json!({"name": "vm", "uid": "1"})), Some([vm.clone(), Value::Null]));
        let metadata = json!({"name": "vm", "uid": "2", "ownerReferences": owned});
        assert_eq!(objects(kind, &metadata), Some([vm, vmi.clone()]));
        assert_eq!(objects(kind, &json!({"name": "vm", "uid": "2"})), Some([vmi, Value::Null]));
        // An object that is being created has no uid yet.
        let without_uid = json!(["kubevirt.io/v1", "VirtualMachineInstance", "vm", null]);
        assert_eq!(objects(kind, &json!({"name": "vm"})), Some([without_uid, Value::Null]));
        assert_eq!(objects(kind, &json!({"name": ""})), None);
        assert_eq!(objects("VirtualMachineInstanceReplicaSet", &json!({"name": "set"})), None);
    }

    #[test]
    fn a_change_that_is_only_warned_about_has_an_event_of_its_own() {
        let guest = |interfaces: &Value| {
            json!({"domain": {"devices": {"interfaces": interfaces}},
                "networks": [{"name": "blue", "multus": {"networkName": "blue"}}]})
        };
        let vm = |interfaces: &Value| {
            json!({"metadata": {"name": "web-0", "namespace": "demo", "uid": "1",
                "ownerReferences": [{"kind": "VirtualMachinePool", "name": "web", "uid": "2"}]},
                "spec": {"template": {"spec": guest(interfaces)}}})
        };
        let body = |user: &str, dry_run: bool| {
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
                "operation": "UPDATE", "namespace": "demo", "name": "web-0", "dryRun": dry_run,
                "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
                "userInfo": {"username": user}, "oldObject": vm(&json!([])),
                "object": vm(&json!([{"name": "blue", "bridge": {}, "model": "e1000e"}]))}})
            .to_string()
        };
        let store = || {
            let mut store = Store::default();
            for object in [
                json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
                    "metadata": {"namespace": "kubevirt", "name": "kubevirt"}}),
                json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                    "metadata": {"namespace": "demo", "name": "web-0"}, "status": {"phase": "Running"}}),
            ] {
                store.insert(&object).unwrap();
            }
            store
        };
        let events = DenialEvents::new(Arc::new(Cache::new(store()).0), EventQueue::without_sender());
        let settings = Settings::default();
        let store = store();
        for (account, dry_run, expected) in [
            (
                "kubevirt-controller",
                false,
                Some((EventReason::InterfaceNotAttached, "KubeVirt updated VirtualMachine \"web-0\": ")),
            ),
            ("kubevirt-controller", true, None),
            (
                "kubevirt-apiserver",
                false,
                Some((EventReason::InterfaceRefused, "KubeVirt may not update VirtualMachine \"web-0\": ")),
            ),
            ("default", false, None),
        ] {
            let body = body(&format!("system:serviceaccount:kubevirt:{account}"), dry_run);
            let body = parse(body.as_bytes());
            let evaluation = Evaluator::new(&store, &settings).evaluate(Endpoint::Validate, &body);
            let event = events.event_of(&evaluation).map(|(_, reason, note)| (reason, note));
            assert_eq!(event.as_ref().map(|(reason, _)| *reason), expected.map(|(reason, _)| reason), "{account}");
            let starts = event.as_ref().zip(expected).is_none_or(|((_, note), (_, start))| {
                note.starts_with(start) && note.contains("e1000e") && note.contains("[NP103]")
            });
            assert!(starts, "{account}: {event:?}");
        }
    }
}
