//! Events about allowed changes of the NICs of running VMs: when each reaches the guest, in the words of `nicplug
//! plan`. A console or Argo CD may not show its user the warnings of the answer.
//!
//! The controller of changes writes the Event when the API server has stored the change. An answer does not wait for
//! it, only for the prediction, which applies the rules once more.

use std::fmt::Write;

use super::denial_events::event_objects;
use crate::{
    admission::{Evaluation, Evaluator, NicOutlook},
    api::quote::quote,
    change::Change,
    controllers::changes::{AllowedChange, ChangeFollower, TemplateNics},
    k8s::events::EventReason,
    rules::{NicChange, Timing},
    settings::Settings,
};

/// How many NICs a note names: an Event has room for 1024 bytes.
const MAX_NICS: usize = 5;

/// Hands allowed changes to the controller of changes.
pub(super) struct ChangeEvents {
    follower: ChangeFollower,
}

impl ChangeEvents {
    pub(super) fn new(follower: ChangeFollower) -> Self {
        Self { follower }
    }

    /// Has the change of an evaluation followed, if an Event belongs to it.
    pub(super) fn follow(&self, evaluator: Evaluator, evaluation: &Evaluation, settings: &Settings) {
        if let Some(change) = allowed_change(evaluator, evaluation, settings) {
            self.follower.follow(change);
        }
    }
}

/// Returns the change of a running VM that an evaluation allowed, and the Event about it: one that has to wait for the
/// restart, or any other unless the settings forbid it.
fn allowed_change(evaluator: Evaluator, evaluation: &Evaluation, settings: &Settings) -> Option<AllowedChange> {
    // Such a change of virt-controller has an Event of its own.
    if evaluation.change_not_denied().is_some() {
        return None;
    }
    let foreseen = settings.events.changes.then(|| evaluator.foresee(evaluation)).flatten();
    if let Some(change) = evaluation.postponed_change().filter(|change| !change.dry_run) {
        let mut parts = vec![evaluation.verdict().postponed.message()];
        let nics = foreseen.iter().flat_map(|(_, nics)| nics).filter(|nic| !nic.is_postponed());
        parts.extend(described(nics));
        return expected(change, EventReason::InterfacePostponed, &parts.join("; "));
    }
    let (change, nics) = foreseen?;
    expected(change, EventReason::InterfaceChangeStored, &described(nics.iter())?)
}

fn expected(change: &Change, reason: EventReason, message: &str) -> Option<AllowedChange> {
    let (vm, _) = event_objects(change)?;
    let note = format!("change of the running {} {:?}: {message}", change.subject.gvk.kind, change.subject.name);
    let nics = TemplateNics::of(change.after.guest);
    Some(AllowedChange { reason, vm, generation: change.after.metadata.generation, nics, note })
}

/// Returns the sentence of each NIC that changes; `None` without any.
fn described<'o>(nics: impl Iterator<Item = &'o NicOutlook>) -> Option<String> {
    let nics: Vec<&NicOutlook> = nics.filter(|nic| nic.timing != Timing::Unchanged).collect();
    let (first, rest) = nics.split_at(nics.len().min(MAX_NICS));
    let sentences = first.iter().map(|nic| {
        let verb = match nic.change {
            NicChange::Add => "add",
            NicChange::Modify => "change",
            NicChange::Remove => "remove",
        };
        format!("{verb} {}: {}", quote(&nic.name), nic.sentence())
    });
    let mut text = sentences.collect::<Vec<_>>().join("; ");
    if !rest.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, "; and {} more", rest.len());
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        admission::{Endpoint, parse},
        cluster::store::Store,
    };

    fn vm(annotations: &Value, nics: &[Value]) -> Value {
        let networks = nics.iter().map(|nic| json!({"name": nic["name"], "multus": {"networkName": "net"}}));
        json!({"metadata": {"name": "vm", "namespace": "demo", "uid": "1", "generation": 3, "annotations": annotations},
            "spec": {"runStrategy": "Always", "template": {"spec": {
                "domain": {"devices": {"interfaces": nics}}, "networks": networks.collect::<Vec<_>>()}}}})
    }

    fn nic(name: &str) -> Value {
        json!({"name": name, "bridge": {}})
    }

    /// A cluster with the VM, whose guest has NIC `old` if it runs.
    fn store(runs: bool) -> Store {
        let mut store = Store::complete();
        let daemon = |name: &str, command: &str| {
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": "kube-system"},
                "spec": {"template": {"spec": {"containers": [{"command": [command]}]}}},
                "status": {"numberReady": 2, "desiredNumberScheduled": 2}})
        };
        let guest = vm(&json!({}), &[nic("old")])["spec"]["template"]["spec"].clone();
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"namespace": "demo", "name": "vm",
                "annotations": {"nicplug.io/boot-slots": "v1:port=9,nics=1,disks=0"}},
            "spec": guest, "status": {"phase": "Running", "interfaces": [{"name": "old", "infoSource": "domain"}]}});
        let objects = [
            json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"namespace": "kubevirt",
                "name": "kubevirt"}, "status": {"observedKubeVirtVersion": "v1.9.0"}}),
            json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {"namespace": "demo", "name": "net"}, "spec": {}}),
            daemon("multus", "/usr/src/multus-cni/bin/multus-daemon"),
            daemon("dnc", "/dynamic-networks-controller"),
        ];
        for object in objects.into_iter().chain(runs.then_some(vmi)) {
            store.insert(&object).unwrap();
        }
        store
    }

    /// Returns the reason and the note of the Event about an update from a VM with NIC `old`.
    fn event_of(runs: bool, dry_run: bool, settings: &str, after: &Value) -> Option<(&'static str, String)> {
        let body = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "UPDATE", "namespace": "demo", "name": "vm", "dryRun": dry_run,
            "kind": {"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"},
            "userInfo": {"username": "alice"}, "oldObject": vm(&json!({}), &[nic("old")]), "object": after}})
        .to_string();
        let (store, settings) = (store(runs), Settings::parse(settings, &["NP103"]).unwrap());
        let body = parse(body.as_bytes());
        let evaluator = Evaluator::new(&store, &settings);
        let change = allowed_change(evaluator, &evaluator.evaluate(Endpoint::Validate, &body), &settings)?;
        assert_eq!((change.generation, change.vm.uid.as_deref()), (3, Some("1")));
        Some((change.reason.as_str(), change.note))
    }

    #[test]
    fn an_allowed_change_of_a_running_vm_has_an_event_with_the_words_of_the_plan() {
        let plain = json!({});
        let added = vm(&plain, &[nic("old"), nic("new")]);
        let removed = vm(&plain, &[json!({"name": "old", "bridge": {}, "state": "absent"}), nic("new")]);
        let start =
            "change of the running VirtualMachine \"vm\": add \"new\": at once: Multus attaches it to the running pod";
        let stored = |note: String| Some(("InterfaceChangeStored", note));
        assert_eq!(event_of(true, false, "", &added), stored(start.to_owned()));
        let both = format!("{start}; remove \"old\": at once, as soon as the guest releases it");
        assert_eq!(event_of(true, false, "", &removed), stored(both));
        let denied = vm(&plain, &[nic("old"), json!({"name": "new", "bridge": {}, "model": "e1000e"})]);
        for (runs, dry_run, settings, after) in [
            (false, false, "", &added),
            (true, true, "", &added),
            (true, false, "events: {changes: false}", &added),
            (true, false, "", &vm(&plain, &[nic("old")])),
            (true, false, "", &denied),
        ] {
            assert_eq!(event_of(runs, dry_run, settings, after), None, "{runs} {dry_run} {settings} {after}");
        }
        let many: Vec<Value> = ["old", "a", "b", "c", "d", "e", "f"].map(nic).to_vec();
        let (_, note) = event_of(true, false, "", &vm(&plain, &many)).unwrap();
        assert!(note.contains("add \"e\"") && note.ends_with("; and 1 more") && note.len() < 1024, "{note}");
    }

    #[test]
    fn a_change_that_waits_has_one_event_which_names_what_does_not_wait_too() {
        let waiting = json!({"nicplug.io/apply": "on-restart"});
        let nics = [nic("old"), json!({"name": "slow", "bridge": {}, "model": "e1000e"}), nic("new")];
        for (settings, has_rest) in [("", true), ("events: {changes: false}", false)] {
            let (reason, note) = event_of(true, false, settings, &vm(&waiting, &nics)).unwrap();
            assert_eq!(reason, "InterfacePostponed");
            let start = "change of the running VirtualMachine \"vm\": waits for the next restart: spec.template.spec.";
            assert!(note.starts_with(start) && note.contains("e1000e") && note.contains("[NP103]"), "{note}");
            assert_eq!(
                note.ends_with("; add \"new\": at once: Multus attaches it to the running pod"),
                has_rest,
                "{note}"
            );
            assert!(!note.contains("add \"slow\""), "{note}");
        }
        assert_eq!(event_of(true, true, "", &vm(&waiting, &nics)), None, "a dry run stores nothing");
    }
}
