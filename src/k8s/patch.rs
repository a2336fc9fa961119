//! JSON patches on their way to the API server, and its answer that one does not apply.

use json_patch::PatchOperation;
use kube::{api::Patch, core::Status};

/// A patch as kube sends it, which has a version of these types of its own.
///
/// # Errors
/// It is no JSON: never in practice.
pub(crate) fn to_send(operations: Vec<PatchOperation>) -> Result<Patch<()>, serde_json::Error> {
    let operations = serde_json::to_value(json_patch::Patch(operations))?;
    serde_json::from_value(operations).map(Patch::Json)
}

/// Whether a JSON patch did not apply, because a `test` failed or a path is not there. Of such a one the API server tells
/// neither the object nor a cause, as it does of one that makes an invalid object (`applyJSPatch` in k8s.io/apiserver).
pub(crate) fn is_failed_test(status: &Status) -> bool {
    let is_bare = status.details.as_ref().is_none_or(|details| details.name.is_empty() && details.causes.is_empty());
    status.code == 422 && is_bare
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::json_patch::{add_op, pointer};

    #[test]
    fn a_test_that_failed_is_told_from_an_object_that_is_invalid() {
        let is_failed = |status: Value| is_failed_test(&serde_json::from_value(status).unwrap());
        let words = "the server rejected our request due to an error in our request";
        assert!(is_failed(json!({"code": 422, "reason": "Invalid", "message": words, "details": {}})));
        assert!(is_failed(json!({"code": 422, "reason": "Invalid", "message": words})));
        assert!(!is_failed(json!({"code": 422, "message": words, "details": {"name": "vm"}})));
        assert!(!is_failed(json!({"code": 422, "message": words, "details": {"causes": [{"field": "x"}]}})));
        assert!(!is_failed(json!({"code": 409, "message": words})));
    }

    #[test]
    fn a_patch_is_sent_as_it_is() {
        let operations = vec![add_op(pointer("spec", &["a/b"]), json!(1))];
        let Patch::Json(sent) = to_send(operations).unwrap() else { panic!() };
        assert_eq!(serde_json::to_value(sent).unwrap(), json!([{"op": "add", "path": "/spec/a~1b", "value": 1}]));
    }
}
