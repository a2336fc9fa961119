//! Requests in the status of a VM (`status.interfaceRequests[]`) that KubeVirt does not apply itself.
//!
//! Up to 1.0 KubeVirt's controller applies them, and nicplug does nothing. Later versions do not have the field, and
//! their schema prunes it, so a request can exist only where an old schema remained after an update. Then only nicplug
//! applies it.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::{PersistError, guest_spec::GuestSpec, text, uid};
use crate::{
    annotations::interfaces::{DEFAULT_NIC, check_addition, check_removal},
    api::{
        json_patch::{add_op, pointer, remove_op, test_op},
        network::NadRef,
    },
    kubevirt::Version,
};

/// The first version whose controller does not read the requests.
const IGNORED_SINCE: Version = Version::new(1, 1, 0);

/// What to do with the requests of a VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatusRequestPlan {
    /// The names whose requests are completed once the VM is patched.
    pub done: Vec<String>,
    /// Why the other requests cannot be applied.
    pub rejected: Vec<PersistError>,
    /// The patch of the VM; empty if the template needs no change.
    pub operations: Vec<PatchOperation>,
    /// The patch of its status that removes the completed requests.
    pub status_operations: Vec<PatchOperation>,
}

/// Returns whether a VM has requests in its status.
#[must_use]
pub fn has_requests(vm: &Value) -> bool {
    !list(vm).is_empty()
}

/// Returns whether nicplug applies requests on this KubeVirt version; on an unknown version it does not.
#[must_use]
pub fn is_handled_by_nicplug(version: Option<Version>) -> bool {
    version.is_some_and(|version| version >= IGNORED_SINCE)
}

/// Returns what to do with the requests of a VM, which runs as this VMI. The default NIC, which KubeVirt gives to a
/// template without any, gets `default_binding`.
#[must_use]
pub fn plan(vm: &Value, vmi: Option<&Value>, default_binding: &str) -> StatusRequestPlan {
    let template = GuestSpec::of_vm(vm);
    let mut lists = Lists {
        namespace: template.namespace,
        interfaces: template.interfaces().to_vec(),
        networks: template.networks().to_vec(),
    };
    let mut plan = StatusRequestPlan::default();
    let mut remaining = Vec::new();
    for request in list(vm) {
        match lists.apply(request, vmi.is_some()) {
            Ok(name) => plan.done.push(name),
            Err(error) => {
                plan.rejected.push(error);
                remaining.push(request.clone());
            }
        }
    }
    if template.gets_default_nic() && !lists.interfaces.is_empty() {
        lists.interfaces.insert(0, json!({"name": DEFAULT_NIC, default_binding: {}}));
        lists.networks.insert(0, json!({"name": DEFAULT_NIC, "pod": {}}));
    }
    if lists.interfaces != template.interfaces() || lists.networks != template.networks() {
        plan.operations = template.rewrite(lists.interfaces, lists.networks);
    }
    if !plan.done.is_empty() {
        plan.status_operations = replace_requests(vm, remaining);
    }
    plan
}

fn replace_requests(vm: &Value, remaining: Vec<Value>) -> Vec<PatchOperation> {
    let path = || pointer("status", &["interfaceRequests"]);
    let change = if remaining.is_empty() { remove_op(path()) } else { add_op(path(), Value::Array(remaining)) };
    vec![test_op(pointer("metadata", &["uid"]), json!(uid(vm))), test_op(path(), json!(list(vm))), change]
}

/// The lists of a template, to which the requests are applied one by one.
struct Lists<'v> {
    namespace: &'v str,
    interfaces: Vec<Value>,
    networks: Vec<Value>,
}

impl Lists<'_> {
    /// Applies one request; returns the name of its NIC.
    fn apply(&mut self, request: &Value, is_live: bool) -> Result<String, PersistError> {
        let malformed = |what: String| PersistError::Request { what };
        match (request.get("addInterfaceOptions"), request.get("removeInterfaceOptions")) {
            (Some(options), None) => {
                let (name, network) = (text(options, "name"), text(options, "networkAttachmentDefinitionName"));
                check_addition(name, network).map_err(malformed)?;
                self.add(name, network)?;
                Ok(name.to_owned())
            }
            (None, Some(options)) => {
                let name = text(options, "name");
                check_removal(name).map_err(malformed)?;
                self.remove(name, is_live);
                Ok(name.to_owned())
            }
            _ => Err(malformed(
                "it does not have exactly one of addInterfaceOptions and removeInterfaceOptions".to_owned(),
            )),
        }
    }

    fn add(&mut self, name: &str, network: &str) -> Result<(), PersistError> {
        let is_named = |entry: &&Value| text(entry, "name") == name;
        let existing = self.networks.iter().rfind(is_named);
        let interface = self.interfaces.iter().rfind(is_named);
        if existing.is_none() && interface.is_none() {
            self.interfaces.push(json!({"name": name, "bridge": {}}));
            self.networks.push(json!({"name": name, "multus": {"networkName": network}}));
            return Ok(());
        }
        let existing_name = existing.and_then(super::network_name);
        let is_same = existing_name
            .is_some_and(|existing| NadRef::parse(existing, self.namespace) == NadRef::parse(network, self.namespace));
        match interface {
            Some(interface) if is_same && text(interface, "state") == "absent" => {
                Err(PersistError::AbsentInTemplate { name: name.to_owned() })
            }
            Some(_) if is_same => Ok(()),
            _ => Err(PersistError::OtherNetwork {
                name: name.to_owned(),
                existing: super::describe_network(existing_name),
            }),
        }
    }

    /// Unplugs a bridge NIC of a running guest with `state: absent`; removes every other NIC from the lists.
    fn remove(&mut self, name: &str, is_live: bool) {
        let is_named = |entry: &Value| text(entry, "name") == name;
        let is_pod = self.networks.iter().any(|network| is_named(network) && network.get("pod").is_some());
        let bridge =
            self.interfaces.iter_mut().find(|interface| is_named(interface) && interface.get("bridge").is_some());
        match bridge.and_then(Value::as_object_mut) {
            Some(interface) if is_live && !is_pod => {
                interface.insert("state".to_owned(), json!("absent"));
            }
            _ => {
                self.interfaces.retain(|interface| !is_named(interface));
                self.networks.retain(|network| !is_named(network));
            }
        }
    }
}

fn list(vm: &Value) -> &[Value] {
    vm.pointer("/status/interfaceRequests").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(nics: &[&str], requests: &Value) -> Value {
        let interfaces: Vec<Value> = nics.iter().map(|name| json!({"name": name, "bridge": {}, "new": 1})).collect();
        let networks: Vec<Value> =
            nics.iter().map(|name| json!({"name": name, "multus": {"networkName": "net"}})).collect();
        json!({"metadata": {"name": "vm", "namespace": "demo", "uid": "vm-1"},
            "spec": {"template": {"spec": {"domain": {"devices": {"interfaces": interfaces}}, "networks": networks}}},
            "status": {"ready": true, "interfaceRequests": requests}})
    }

    fn add(name: &str, network: &str) -> Value {
        json!({"addInterfaceOptions": {"name": name, "networkAttachmentDefinitionName": network}})
    }

    fn remove(name: &str) -> Value {
        json!({"removeInterfaceOptions": {"name": name}})
    }

    /// Applies the plan; returns the NICs of the VM and the number of remaining requests. A second plan changes
    /// nothing.
    fn apply_plan(vm: &Value, is_live: bool) -> (String, usize) {
        let (vmi, mut vm) = (json!({}), vm.clone());
        let vmi = is_live.then_some(&vmi);
        let planned = plan(&vm, vmi, "masquerade");
        json_patch::patch(&mut vm, &json_patch::Patch(planned.operations)).unwrap();
        json_patch::patch(&mut vm, &json_patch::Patch(planned.status_operations)).unwrap();
        let again = plan(&vm, vmi, "masquerade");
        assert!(again.operations.is_empty() && again.status_operations.is_empty(), "{again:?}");
        let name = |interface: &Value| format!("{}{}", text(interface, "name"), text(interface, "state"));
        let interfaces = GuestSpec::of_vm(&vm).interfaces().iter().map(name).collect::<Vec<_>>().join(" ");
        assert_eq!(GuestSpec::of_vm(&vm).interfaces().len(), GuestSpec::of_vm(&vm).networks().len());
        assert_eq!(vm["status"]["ready"], json!(true));
        (interfaces, list(&vm).len())
    }

    #[test]
    fn requests_are_applied_in_order_and_removed() {
        for (nics, requests, is_live, then, left) in [
            (&["a"][..], json!([add("b", "net")]), true, "a b", 0),
            (&["a"], json!([add("a", "demo/net"), add("b", "x/net")]), true, "a b", 0),
            (&["a"], json!([add("b", "net"), remove("a")]), true, "aabsent b", 0),
            (&["a"], json!([add("b", "net"), remove("a")]), false, "b", 0),
            (&["a"], json!([remove("z")]), false, "a", 0),
            (&["a"], json!([add("a", "other"), add("b", "net"), add("", "net"), {}]), true, "a b", 3),
            (&[], json!([add("b", "net")]), false, "default b", 0),
        ] {
            assert_eq!(apply_plan(&vm(nics, &requests), is_live), (then.to_owned(), left), "{nics:?} {requests}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_applied_is_reported() {
        let rejected = plan(&vm(&["a"], &json!([add("a", "other"), add("?", "net")])), None, "bridge").rejected;
        let messages: Vec<String> = rejected.iter().map(ToString::to_string).collect();
        assert!(messages[0].starts_with("the template already has \"a\", on network \"net\""), "{messages:?}");
        assert!(messages[1].contains("the name contains the invalid character '?'"), "{messages:?}");
    }

    #[test]
    fn nicplug_applies_requests_only_if_kubevirt_ignores_them() {
        for (version, is_handled) in [("v1.0.1", false), ("v0.59.2", false), ("v1.1.0", true), ("v1.9.0", true)] {
            assert_eq!(is_handled_by_nicplug(version.parse().ok()), is_handled, "{version}");
        }
        assert!(!is_handled_by_nicplug(None));
        assert!(
            has_requests(&vm(&[], &json!([{}]))) && !has_requests(&vm(&[], &json!([]))) && !has_requests(&json!({}))
        );
    }
}
