//! The stages of a NIC that is attached.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    MigrationNeed, Observer, Progress, Stage, State, Target,
    objects::{condition, end_of, has_nic, interface_in_guest, is_reported_by, name_of, with_sync_error},
};

impl<'s> Observer<'s> {
    pub(super) fn attach(self) -> Progress {
        let Some(vm) = self.snapshot.vm else { return Progress::stopped("the VM was deleted") };
        if !has_nic(vm.pointer("/spec/template/spec"), &self.target.nic) {
            return Progress::stopped("another client removed it from the template");
        }
        let Some(vmi) = self.snapshot.vmi else {
            return Progress::stopped("the VM does not run; it will have the NIC at its next start");
        };
        if let Some(end) = end_of(vmi) {
            return Progress::stopped(&format!("the guest {end}; it will have the NIC at its next start"));
        }
        let evidence = self.evidence(vmi);
        // A NIC that has reached a stage has reached all stages before it, even if nothing shows them.
        let last = evidence.iter().rposition(|(_, shown)| shown.is_some());
        let count = last.map_or(1, |last| last + 1);
        let reached = evidence.iter().take(count);
        let reached =
            reached.map(|(stage, shown)| (*stage, shown.clone().unwrap_or_else(|| "reached, not observed".to_owned())));
        let reached = reached.collect();
        let migration = self.migration(vmi, count);
        let state = match evidence.get(count) {
            None => State::Done,
            Some((stage, _)) => State::Waiting { stage: *stage, reason: self.attach_reason(*stage, vmi, migration) },
        };
        Progress { reached, state, migration }
    }

    /// Returns the stages of an attach, each with what shows that it is reached.
    fn evidence(self, vmi: &'s Value) -> Vec<(Stage, Option<String>)> {
        let Target { vm, nic, .. } = self.target;
        let entry = self.status_entry();
        let has_source = |source: &str| entry.is_some_and(|entry| is_reported_by(entry, source));
        let mut evidence = vec![
            (Stage::Template, Some(format!("VirtualMachine {vm:?} has it"))),
            (Stage::Spec, has_nic(vmi.get("spec"), nic).then(|| "KubeVirt has copied it".to_owned())),
            (Stage::Annotation, self.requested().map(|pod| format!("requested on pod {pod:?}"))),
            (
                Stage::Multus,
                has_source("multus-status").then(|| format!("attached to the pod as {:?}", self.interfaces()[0])),
            ),
            (Stage::Domain, has_source("domain").then(|| "plugged into the guest".to_owned())),
        ];
        if condition(vmi, "AgentConnected").is_some_and(|(status, _)| status == "True") {
            evidence.push((Stage::Agent, has_source("guest-agent").then(|| interface_in_guest(entry))));
        }
        evidence
    }

    fn attach_reason(self, stage: Stage, vmi: &Value, migration: MigrationNeed) -> String {
        let reason = match stage {
            Stage::Template | Stage::Status => Cow::default(),
            Stage::Spec => self.spec_reason(vmi),
            Stage::Annotation | Stage::Multus if self.has_migrated() => format!(
                "KubeVirt to update the VMI's status; migration {:?} has succeeded",
                self.snapshot.started_migration.unwrap_or_default()
            )
            .into(),
            Stage::Annotation if migration == MigrationNeed::None => match self.pod() {
                Some(pod) => format!("KubeVirt to request it from Multus on pod {:?}", name_of(pod)).into(),
                None if self.snapshot.pods.is_none() => {
                    "KubeVirt to request it from Multus; you have no permission to read pods".into()
                }
                None => "a running pod of the guest".into(),
            },
            Stage::Annotation | Stage::Multus => self.pod_reason(vmi, migration),
            Stage::Domain => "libvirt to plug it into the guest".into(),
            Stage::Agent => "the guest agent to report it".into(),
        };
        with_sync_error(&reason, vmi)
    }
}
