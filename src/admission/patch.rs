//! The patch of an answer.

use json_patch::PatchOperation;

/// A JSON patch (RFC 6902), with its text.
#[derive(Debug, PartialEq)]
pub(super) struct Patch {
    pub(super) operations: Vec<PatchOperation>,
    /// The operations as JSON.
    pub(super) text: Vec<u8>,
}

impl Patch {
    /// Returns the patch of these operations.
    pub(super) fn of(operations: Vec<PatchOperation>) -> Self {
        // Writing cannot fail: every operation has a JSON form.
        let text = serde_json::to_vec(&operations).unwrap_or_default();
        Self { operations, text }
    }
}
