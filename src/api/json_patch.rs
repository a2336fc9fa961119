//! Operations of JSON patches (RFC 6902), for paths that are known to exist.
//!
//! A patch is never computed as the difference of two serialized views, because a view lacks most fields of its object.

use json_patch::{AddOperation, PatchOperation, RemoveOperation, TestOperation, jsonptr::PointerBuf};
use serde_json::Value;

/// Returns the operation `add`, which creates a field or replaces its value.
#[must_use]
pub fn add_op(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path, value })
}

/// Returns the operation `remove`, which removes an existing field.
#[must_use]
pub fn remove_op(path: PointerBuf) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path })
}

/// Returns the operation `test`: the whole patch fails if the field is missing or has another value.
#[must_use]
pub fn test_op(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path, value })
}

/// Returns a JSON pointer (RFC 6901) to a field below a dotted path such as `spec.template.spec`.
#[must_use]
pub fn pointer(path: &str, below: &[&str]) -> PointerBuf {
    PointerBuf::from_tokens(path.split('.').chain(below.iter().copied()))
}

#[cfg(test)]
mod tests {
    use json_patch::Patch;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_is_escaped_as_in_rfc_6901() {
        let path = pointer("spec.template.spec", &["a/b~c", "0"]);
        assert_eq!(path.as_str(), "/spec/template/spec/a~1b~0c/0");
    }

    #[test]
    fn an_operation_is_serialized_as_in_rfc_6902() {
        let patch = Patch(vec![add_op(pointer("spec", &["x"]), json!({}))]);
        assert_eq!(serde_json::to_value(patch).unwrap(), json!([{"op": "add", "path": "/spec/x", "value": {}}]));
    }
}
