//! The mutations of the mutating webhook: as few as possible, on known paths, and none on a second call.

mod boot_slots;
mod default_binding;
mod interface_requests;

use json_patch::PatchOperation;

use crate::{change::Change, facts::Facts, settings::Settings};

/// The input of a mutation: a change, the facts about its surroundings, and the settings.
#[derive(Clone, Copy, Debug)]
pub struct MutationInput<'m> {
    /// The request.
    pub change: &'m Change<'m>,
    /// What is known about the cluster.
    pub facts: &'m Facts,
    /// The administrator's settings.
    pub settings: &'m Settings,
}

/// Every mutation, in the order in which its operations are applied. Each uses the list indices of the request, so the
/// one that removes entries comes last.
static MUTATIONS: &[fn(&MutationInput) -> Vec<PatchOperation>] =
    &[default_binding::operations, boot_slots::operations, interface_requests::operations];

/// Returns the operations for a change; none if it needs no mutation.
#[must_use]
pub fn operations(input: &MutationInput) -> Vec<PatchOperation> {
    MUTATIONS.iter().flat_map(|mutation| mutation(input)).collect()
}
