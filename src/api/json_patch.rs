//! JSON patches (RFC 6902), made operation by operation for paths that are known to exist.
//!
//! A patch is never the difference of an object that was read and written again: what a view does not hold would be
//! lost on the way.

use json_patch::{AddOperation, PatchOperation, RemoveOperation, TestOperation, jsonptr::PointerBuf};
use serde_json::Value;

/// The operation `add`: it makes a field or replaces its value.
#[must_use]
pub fn add_op(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path, value })
}

/// The operation `remove`: it takes away a field that is there.
#[must_use]
pub fn remove_op(path: PointerBuf) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path })
}

/// The operation `test`: the patch fails as a whole where the field is missing or has another value.
#[must_use]
pub fn test_op(path: PointerBuf, value: Value) -> PatchOperation {
    PatchOperation::Test(TestOperation { path, value })
}

/// A JSON pointer (RFC 6901) to a field below a path that is written as in `spec.template.spec`.
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
    fn a_pointer_escapes_what_rfc_6901_says() {
        let path = pointer("spec.template.spec", &["a/b~c", "0"]);
        assert_eq!(path.as_str(), "/spec/template/spec/a~1b~0c/0");
    }

    #[test]
    fn an_operation_is_written_as_rfc_6902_says() {
        let patch = Patch(vec![add_op(pointer("spec", &["x"]), json!({}))]);
        assert_eq!(serde_json::to_value(patch).unwrap(), json!([{"op": "add", "path": "/spec/x", "value": {}}]));
    }
}
