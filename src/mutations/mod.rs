//! What the mutating webhook changes: as little as possible, on known paths, and nothing on a second call.

mod boot_slots;
mod default_binding;
mod interface_requests;

use json_patch::PatchOperation;

use crate::{change::Change, facts::Facts, settings::Settings};

/// What a mutation judges by.
#[derive(Clone, Copy, Debug)]
pub struct Case<'c> {
    /// The request.
    pub change: &'c Change<'c>,
    /// The cluster.
    pub facts: &'c Facts,
    /// The administrator's choices.
    pub settings: &'c Settings,
}

/// Every mutation, in the order in which their operations are applied. Each counts entries of lists as the request has
/// them, so the one that takes entries away comes last.
static MUTATIONS: &[fn(&Case) -> Vec<PatchOperation>] =
    &[default_binding::repair, boot_slots::repair, interface_requests::repair];

/// The operations that a change needs; none when it is as it should be.
#[must_use]
pub fn repairs(case: &Case) -> Vec<PatchOperation> {
    MUTATIONS.iter().flat_map(|mutation| mutation(case)).collect()
}
