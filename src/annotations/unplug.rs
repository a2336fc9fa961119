//! `nicplug.io/unplug`: whether a NIC that an update drops from the template of a running VM is unplugged.

use crate::{
    change::{Change, ObjectView},
    settings::{Settings, UnplugPolicy},
};

/// The annotation of a VirtualMachine.
pub const KEY: &str = "nicplug.io/unplug";

/// Returns the policy of a VM: from its annotation, else from the settings. An unknown value counts as
/// `absent`, so that nicplug unplugs no NIC by mistake.
#[must_use]
pub fn policy(view: &ObjectView, settings: &Settings) -> UnplugPolicy {
    match text(view) {
        Some(text) => UnplugPolicy::parse(text).unwrap_or_default(),
        None => settings.unplug,
    }
}

/// Returns the unknown value that a change writes; none if an earlier change did.
#[must_use]
pub fn new_unknown_value<'r>(change: &Change<'r>) -> Option<&'r str> {
    let written = if change.sets_unplug() { text(&change.after) } else { None };
    written.filter(|text| UnplugPolicy::parse(text).is_none())
}

fn text<'r>(view: &ObjectView<'r>) -> Option<&'r str> {
    view.annotation(|annotations| annotations.unplug.as_deref())
}
