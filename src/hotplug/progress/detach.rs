//! The stages of a NIC that is detached.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    CONTROLLER_HAS_TIME, MigrationNeed, Observer, Progress, Stage, State,
    objects::{condition, end_of, has_nic, is_in_domain, with_sync_error},
};

impl Observer<'_> {
    pub(super) fn detach(self) -> Progress {
        let nic = &self.target.nic;
        let template = self.snapshot.vm.and_then(|vm| vm.pointer("/spec/template/spec"));
        if has_nic(template, nic) {
            return Progress::stopped("another client added it to the template again");
        }
        let mut reached = vec![(Stage::Template, "absent".to_owned())];
        let Some(vmi) = self.snapshot.vmi.filter(|vmi| end_of(vmi).is_none()) else {
            return Progress { reached, state: State::Done, migration: MigrationNeed::None };
        };
        let entry = self.status_entry();
        let steps = [
            (Stage::Spec, !has_nic(vmi.get("spec"), nic), "absent"),
            (Stage::Domain, entry.is_none_or(|entry| !is_in_domain(entry)), "unplugged from the guest"),
            (Stage::Status, entry.is_none(), "removed"),
        ];
        let mut migration = MigrationNeed::None;
        for (stage, is_reached, note) in steps {
            if !is_reached {
                migration = self.migration(vmi, reached.len());
                let reason = self.detach_reason(stage, vmi, migration);
                return Progress { reached, state: State::Waiting { stage, reason }, migration };
            }
            reached.push((stage, note.to_owned()));
        }
        Progress { reached, state: State::Done, migration }
    }

    fn detach_reason(self, stage: Stage, vmi: &Value, migration: MigrationNeed) -> String {
        let reason: Cow<str> = match stage {
            Stage::Spec => self.spec_reason(vmi),
            Stage::Domain => "the guest to release it".into(),
            _ => match migration {
                MigrationNeed::None => match condition(vmi, "MigrationRequired") {
                    Some(("False", _)) => CONTROLLER_HAS_TIME.into(),
                    _ => "its removal from the pod".into(),
                },
                _ => self.pod_reason(vmi, migration),
            },
        };
        with_sync_error(&reason, vmi)
    }
}
