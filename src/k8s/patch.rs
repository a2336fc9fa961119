//! JSON patches in the type that kube sends.

use json_patch::PatchOperation;
use kube::api::Patch;

/// Converts operations into a patch of kube, which depends on another version of `json_patch`.
///
/// # Errors
/// An operation is not valid JSON; the types do not allow that.
pub(crate) fn to_kube(operations: Vec<PatchOperation>) -> Result<Patch<()>, serde_json::Error> {
    let operations = serde_json::to_value(json_patch::Patch(operations))?;
    serde_json::from_value(operations).map(Patch::Json)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::json_patch::{add_op, pointer};

    #[test]
    fn a_patch_is_sent_unchanged() {
        let operations = vec![add_op(pointer("spec", &["a/b"]), json!(1))];
        let Patch::Json(sent) = to_kube(operations).unwrap() else { panic!("not a JSON patch") };
        assert_eq!(serde_json::to_value(sent).unwrap(), json!([{"op": "add", "path": "/spec/a~1b", "value": 1}]));
    }
}
