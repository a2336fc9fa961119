//! What the mutating webhook changes: as little as possible, on known paths, and nothing on a second call.

mod default_binding;

use json_patch::PatchOperation;

use crate::change::Change;

/// Every mutation, in the order in which their operations are applied.
static MUTATIONS: &[fn(&Change) -> Vec<PatchOperation>] = &[default_binding::repair];

/// The operations that a change needs; none when it is as it should be.
#[must_use]
pub fn repairs(change: &Change) -> Vec<PatchOperation> {
    MUTATIONS.iter().flat_map(|mutation| mutation(change)).collect()
}
