//! The mutations of the mutating webhook: as few as possible, on known paths, and none on a second call.

mod boot_slots;
mod default_binding;
mod dropped_interfaces;
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

/// Every mutation, in the order in which its operations are applied. Those that use the list indices of the request come
/// before the one that removes entries; the last one only appends, to lists that an earlier one may have created.
static MUTATIONS: &[fn(&MutationInput) -> Vec<PatchOperation>] = &[
    default_binding::operations,
    boot_slots::operations,
    interface_requests::operations,
    dropped_interfaces::operations,
];

/// Returns the operations for a change; none if it needs no mutation.
#[must_use]
pub fn operations(input: &MutationInput) -> Vec<PatchOperation> {
    MUTATIONS.iter().flat_map(|mutation| mutation(input)).collect()
}
