//! A request that takes a network from its guests, or changes it.

use std::sync::Arc;

use serde_json::Value;

use crate::api::{
    cluster::NetworkAttachmentDefinition,
    network::NadRef,
    review::{Object, Operation, Request},
};

/// A request that deletes a NetworkAttachmentDefinition or changes its `spec.config`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkChange<'r> {
    /// The namespace.
    pub namespace: &'r str,
    /// The name.
    pub name: &'r str,
    /// Whether the request deletes it.
    pub is_deletion: bool,
    /// The namespace where, by the settings, Multus looks for a default network without one.
    pub multus_namespace: Option<Arc<str>>,
}

impl<'r> NetworkChange<'r> {
    /// Returns the change of a request; `None` for any other request. A request to delete has only the old object.
    #[must_use]
    pub fn of(request: &'r Request<'r>) -> Option<Self> {
        let Some(Object::Nad(before)) = &request.old_object else { return None };
        let is_deletion = match (request.operation, &request.object) {
            _ if !request.sub_resource.is_empty() => return None,
            (Operation::Delete, _) => true,
            (Operation::Update, Some(Object::Nad(after))) if !has_same_config(before, after) => false,
            _ => return None,
        };
        let name = if request.name.is_empty() { &before.metadata.name } else { request.name.as_str() };
        Some(Self { namespace: &request.namespace, name, is_deletion, multus_namespace: None })
    }

    /// Returns the name of the network.
    #[must_use]
    pub fn network(&self) -> NadRef<'r> {
        NadRef { namespace: self.namespace, name: self.name }
    }
}

/// The longest CNI configuration, in bytes, whose values are compared instead of its text: they may take sixteen times
/// the memory of the text.
const COMPARED_AT_MOST: usize = 32 << 10;

/// Whether both have the same CNI configuration, in whatever layout.
fn has_same_config(one: &NetworkAttachmentDefinition, other: &NetworkAttachmentDefinition) -> bool {
    let (one, other) = (one.spec.config.as_str(), other.spec.config.as_str());
    let parse =
        |config: &str| (config.len() <= COMPARED_AT_MOST).then(|| serde_json::from_str::<Value>(config).ok()).flatten();
    one == other || parse(one).zip(parse(other)).is_some_and(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::review::{self, ParsedRequest};

    fn is_deletion(operation: &str, object: &str, old_object: &str) -> Option<bool> {
        let body = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
            "kind": {{"group": "k8s.cni.cncf.io", "version": "v1", "kind": "NetworkAttachmentDefinition"}},
            "namespace": "demo", "name": "blue", "operation": "{operation}", "object": {object},
            "oldObject": {old_object}}}}}"#
        );
        let ParsedRequest::Valid(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
        NetworkChange::of(&request).map(|change| {
            assert_eq!(change.network().full_name(), "demo/blue");
            change.is_deletion
        })
    }

    #[test]
    fn a_deletion_or_another_configuration_is_a_change() {
        let nad = |config: &str| {
            format!(r#"{{"metadata": {{"name": "blue"}}, "spec": {{"config": {}}}}}"#, Value::from(config))
        };
        let (bridge, spaced) = (nad(r#"{"type":"bridge"}"#), nad("{\n\"type\": \"bridge\"\n}"));
        let (ovs, broken) = (nad(r#"{"type":"ovs"}"#), nad("{"));
        for (operation, object, old_object, expected) in [
            ("DELETE", "null", &*bridge, Some(true)),
            ("UPDATE", &*ovs, &*bridge, Some(false)),
            ("UPDATE", &*broken, &*bridge, Some(false)),
            ("UPDATE", r#"{"metadata": {"name": "blue"}}"#, &*bridge, Some(false)),
            ("UPDATE", &*bridge, &*bridge, None),
            ("UPDATE", &*spaced, &*bridge, None),
            ("CREATE", &*bridge, "null", None),
        ] {
            assert_eq!(is_deletion(operation, object, old_object), expected, "{operation} {object}");
        }
    }
}
