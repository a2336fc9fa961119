//! How a change reaches the guest, in words.

use crate::{
    facts::{Fact, kubevirt::AutoMigration},
    hotplug::{
        edit::{Edit, EditRequest},
        progress::{AttachMethod, attach_method},
    },
};

/// Returns how the NIC of a VM is plugged or unplugged; `None` if the VM was not changed and runs.
pub(super) fn sentence(vm: &str, request: &EditRequest, edit: &Edit, migrates: bool) -> Option<String> {
    let nic = request.nic();
    let is_new = edit.is_needed();
    Some(match (&edit.running, request) {
        (Fact::Absent, EditRequest::Add(_)) => format!("{vm:?} does not run: it will have {nic:?} at its next start"),
        (Fact::Absent, EditRequest::Remove(_)) if is_new => format!("{vm:?} does not run: {nic:?} is removed"),
        (Fact::Unknown, _) if is_new => {
            format!("it is unknown whether {vm:?} runs; if it does, KubeVirt applies the change to the guest")
        }
        (Fact::Known(()), _) if is_new => {
            let end = if needs_hint(request, edit, migrates) { ": pass --migrate, or run" } else { "" };
            format!("{nic:?} is {}{end}", how(request, edit, migrates))
        }
        _ => return None,
    })
}

/// Returns how the NIC reaches the guest, or leaves it, after the words "it is".
pub(super) fn how(request: &EditRequest, edit: &Edit, migrates: bool) -> String {
    match (&edit.running, request) {
        (Fact::Absent, EditRequest::Add(_)) => "added for the next start: the VM does not run".to_owned(),
        (Fact::Absent, EditRequest::Remove(_)) => "removed from the template: the VM does not run".to_owned(),
        (Fact::Unknown, _) => "changed in the template: it is unknown whether the VM runs".to_owned(),
        (Fact::Known(()), EditRequest::Remove(_)) => "unplugged as soon as the guest releases it".to_owned(),
        (Fact::Known(()), EditRequest::Add(_)) => attached(&method_of(edit), migrates),
    }
}

fn attached(method: &AttachMethod, migrates: bool) -> String {
    match method {
        AttachMethod::InPlace => "attached at once: Multus' dynamic-networks controller is ready".to_owned(),
        AttachMethod::InPlaceOnSomeNodes { ready, desired } => format!(
            "attached at once if the guest is on one of the {ready} of {desired} nodes where Multus' dynamic-networks \
             controller is ready, otherwise by a live migration"
        ),
        AttachMethod::Migration(AutoMigration::On) => "attached by a live migration, which KubeVirt starts".to_owned(),
        AttachMethod::Migration(_) if migrates => "attached by a live migration".to_owned(),
        AttachMethod::Migration(_) => "attached by a live migration, which a user must start".to_owned(),
        AttachMethod::Unknown => {
            "attached by Multus or by a live migration: the DaemonSets that decide it cannot be read".to_owned()
        }
    }
}

/// Whether the user gets the command that starts the migration of a running VM.
pub(super) fn needs_hint(request: &EditRequest, edit: &Edit, migrates: bool) -> bool {
    matches!(request, EditRequest::Add(_)) && waits_for_manual_migration(edit) && !migrates
}

fn method_of(edit: &Edit) -> AttachMethod {
    attach_method(edit.is_sriov, &edit.cluster_info)
}

/// Whether the NIC needs a migration that KubeVirt does not start, as far as is known.
pub(super) fn needs_manual_migration(edit: &Edit) -> bool {
    matches!(method_of(edit), AttachMethod::Migration(migration) if migration != AutoMigration::On)
}

/// As [`needs_manual_migration`], and the VM runs.
pub(super) fn waits_for_manual_migration(edit: &Edit) -> bool {
    edit.running == Fact::Known(()) && needs_manual_migration(edit)
}

/// Whether the change leads to a migration, or may do so.
pub(super) fn may_migrate(request: &EditRequest, edit: &Edit, migrates: bool) -> bool {
    if edit.running == Fact::Absent {
        return false;
    }
    match (request, method_of(edit)) {
        (_, AttachMethod::InPlace) => false,
        (
            EditRequest::Add(_),
            AttachMethod::Migration(AutoMigration::On)
            | AttachMethod::InPlaceOnSomeNodes { .. }
            | AttachMethod::Unknown,
        ) => true,
        (_, _) => migrates,
    }
}
