//! Requests in the status of a VM (`status.interfaceRequests[]`), where KubeVirt does not carry them out itself.
//!
//! Up to 1.0 its controller does, and leaving them to it is all there is to do. Later versions have no such field: their
//! schema prunes it, so such a request is met only where an old schema outlived the update. Then nobody else would ever
//! look at it.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::{Why, template::Template, text, uid};
use crate::{
    annotations::interfaces::{DEFAULT_NIC, check_addition, check_removal},
    api::{
        json_patch::{add_op, pointer, remove_op, test_op},
        network::NadRef,
    },
    kubevirt::Version,
};

/// The first version whose controller does not read the requests.
const FORGOTTEN_SINCE: Version = Version::new(1, 1, 0);

/// What becomes of the requests of a VM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The names whose requests are done once the VM is patched.
    pub done: Vec<String>,
    /// What stands against the others.
    pub refused: Vec<Why>,
    /// The patch of the VM; empty where its template is as asked.
    pub operations: Vec<PatchOperation>,
    /// The patch of its status that takes out what is done.
    pub settled: Vec<PatchOperation>,
}

/// Whether a VM has requests in its status.
#[must_use]
pub fn asks(vm: &Value) -> bool {
    !list(vm).is_empty()
}

/// Whether requests are nicplug's to carry out on a KubeVirt of this version; on an unknown one they are not.
#[must_use]
pub fn is_ours(version: Option<Version>) -> bool {
    version.is_some_and(|version| version >= FORGOTTEN_SINCE)
}

/// What becomes of the requests of a VM, which runs as this VMI. `default_binding` binds the NIC that KubeVirt gives to a
/// template without any, where the VMI does not show it.
#[must_use]
pub fn plan(vm: &Value, vmi: Option<&Value>, default_binding: &str) -> Plan {
    let template = Template::of_vm(vm);
    let mut lists = Lists {
        namespace: template.namespace,
        interfaces: template.interfaces().to_vec(),
        networks: template.networks().to_vec(),
    };
    let mut plan = Plan::default();
    let mut left = Vec::new();
    for request in list(vm) {
        match lists.grant(request, vmi.is_some()) {
            Ok(name) => plan.done.push(name),
            Err(why) => {
                plan.refused.push(why);
                left.push(request.clone());
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
        plan.settled = settle(vm, left);
    }
    plan
}

fn settle(vm: &Value, left: Vec<Value>) -> Vec<PatchOperation> {
    let path = || pointer("status", &["interfaceRequests"]);
    let change = if left.is_empty() { remove_op(path()) } else { add_op(path(), Value::Array(left)) };
    vec![test_op(pointer("metadata", &["uid"]), json!(uid(vm))), test_op(path(), json!(list(vm))), change]
}

/// The lists of a template on their way to what is asked for.
struct Lists<'v> {
    namespace: &'v str,
    interfaces: Vec<Value>,
    networks: Vec<Value>,
}

impl Lists<'_> {
    /// Carries out one request; gives the name that it was about.
    fn grant(&mut self, request: &Value, is_live: bool) -> Result<String, Why> {
        let malformed = |what: String| Why::Request { what };
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
            _ => Err(malformed("it has not one of addInterfaceOptions and removeInterfaceOptions".to_owned())),
        }
    }

    fn add(&mut self, name: &str, network: &str) -> Result<(), Why> {
        let is_named = |entry: &&Value| text(entry, "name") == name;
        let there = self.networks.iter().rfind(is_named);
        let interface = self.interfaces.iter().rfind(is_named);
        if there.is_none() && interface.is_none() {
            self.interfaces.push(json!({"name": name, "bridge": {}}));
            self.networks.push(json!({"name": name, "multus": {"networkName": network}}));
            return Ok(());
        }
        let named = there.and_then(super::network_name);
        let is_same =
            named.is_some_and(|named| NadRef::parse(named, self.namespace) == NadRef::parse(network, self.namespace));
        match interface {
            Some(interface) if is_same && text(interface, "state") == "absent" => {
                Err(Why::AbsentInTemplate { name: name.to_owned() })
            }
            Some(_) if is_same => Ok(()),
            _ => Err(Why::OtherNetwork { name: name.to_owned(), there: super::place_of(named) }),
        }
    }

    /// A running guest lets go of a bridge by its state; everything else is dropped.
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

    /// The NICs of the VM and the requests that are left, once the plan is carried out; a second one changes nothing.
    fn granted(vm: &Value, is_live: bool) -> (String, usize) {
        let (vmi, mut vm) = (json!({}), vm.clone());
        let vmi = is_live.then_some(&vmi);
        let planned = plan(&vm, vmi, "masquerade");
        json_patch::patch(&mut vm, &json_patch::Patch(planned.operations)).unwrap();
        json_patch::patch(&mut vm, &json_patch::Patch(planned.settled)).unwrap();
        let again = plan(&vm, vmi, "masquerade");
        assert!(again.operations.is_empty() && again.settled.is_empty(), "{again:?}");
        let name = |interface: &Value| format!("{}{}", text(interface, "name"), text(interface, "state"));
        let interfaces = Template::of_vm(&vm).interfaces().iter().map(name).collect::<Vec<_>>().join(" ");
        assert_eq!(Template::of_vm(&vm).interfaces().len(), Template::of_vm(&vm).networks().len());
        assert_eq!(vm["status"]["ready"], json!(true));
        (interfaces, list(&vm).len())
    }

    #[test]
    fn requests_are_carried_out_in_their_order_and_taken_out() {
        for (nics, requests, is_live, then, left) in [
            (&["a"][..], json!([add("b", "net")]), true, "a b", 0),
            (&["a"], json!([add("a", "demo/net"), add("b", "x/net")]), true, "a b", 0),
            (&["a"], json!([add("b", "net"), remove("a")]), true, "aabsent b", 0),
            (&["a"], json!([add("b", "net"), remove("a")]), false, "b", 0),
            (&["a"], json!([remove("z")]), false, "a", 0),
            (&["a"], json!([add("a", "other"), add("b", "net"), add("", "net"), {}]), true, "a b", 3),
            (&[], json!([add("b", "net")]), false, "default b", 0),
        ] {
            assert_eq!(granted(&vm(nics, &requests), is_live), (then.to_owned(), left), "{nics:?} {requests}");
        }
    }

    #[test]
    fn what_stands_against_a_request_is_told() {
        let refused = plan(&vm(&["a"], &json!([add("a", "other"), add("?", "net")])), None, "bridge").refused;
        let told: Vec<String> = refused.iter().map(ToString::to_string).collect();
        assert!(told[0].starts_with("the template has \"a\" on network \"net\""), "{told:?}");
        assert!(told[1].contains("the name has the character '?'"), "{told:?}");
    }

    #[test]
    fn only_a_kubevirt_that_forgot_the_field_leaves_it_to_nicplug() {
        for (version, ours) in [("v1.0.1", false), ("v0.59.2", false), ("v1.1.0", true), ("v1.9.0", true)] {
            assert_eq!(is_ours(version.parse().ok()), ours, "{version}");
        }
        assert!(!is_ours(None));
        assert!(asks(&vm(&[], &json!([{}]))) && !asks(&vm(&[], &json!([]))) && !asks(&json!({})));
    }
}
