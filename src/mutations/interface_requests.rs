//! Grants the annotations `nicplug.io/add-interfaces` and `nicplug.io/remove-interfaces` of a VM, and takes them away.
//! What cannot be granted stays, and /validate, which sees the object after this, says why.

use std::collections::BTreeSet;

use json_patch::{PatchOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use super::Case;
use crate::{
    annotations::interfaces::{self, DEFAULT_NIC, Kind, Plan},
    api::{
        json_patch::{add_op, pointer, remove_op},
        network::{Interface, Network},
    },
    change::Nic,
    facts::Fact,
};

pub(super) fn repair(case: &Case) -> Vec<PatchOperation> {
    let Ok(plan) = interfaces::plan(case.change) else { return Vec::new() };
    // What is taken away comes first, from the back: so no index is moved before it is used.
    let mut operations = restore(case, &plan);
    operations.extend(remove(case, &plan));
    operations.extend(add(case, &plan));
    let annotation = |kind: &Kind| pointer("metadata", &["annotations", kind.key()]);
    operations.extend(plan.asked.iter().map(|kind| remove_op(annotation(kind))));
    operations
}

/// NICs that were unplugged and are wanted back.
fn restore(case: &Case, plan: &Plan) -> Vec<PatchOperation> {
    let names: BTreeSet<&str> = plan.restore.iter().copied().collect();
    let wanted = |interface: &Interface| interface.is_absent() && names.contains(interface.name.as_str());
    let indices = indices(case.change.after.guest.interfaces(), wanted);
    indices.into_iter().map(|index| remove_op(state_of(case, index))).collect()
}

fn remove(case: &Case, plan: &Plan) -> Vec<PatchOperation> {
    let nics = case.change.after.nics();
    let leaving = plan.remove.iter().filter_map(|name| nics.get(name));
    let (unplugged, dropped): (Vec<&Nic>, Vec<&Nic>) = leaving.partition(|nic| is_unplugged(case, nic));
    let [unplugged, dropped] = [unplugged, dropped].map(names_of);
    let guest = case.change.after.guest;

    let is_plugged = |interface: &Interface| !interface.is_absent() && unplugged.contains(interface.name.as_str());
    let absent = indices(guest.interfaces(), is_plugged);
    let mut operations: Vec<PatchOperation> =
        absent.into_iter().map(|index| add_op(state_of(case, index), json!("absent"))).collect();
    let interfaces = indices(guest.interfaces(), |interface: &Interface| dropped.contains(interface.name.as_str()));
    operations.extend(interfaces.into_iter().rev().map(|index| remove_op(interface(case, &[&index.to_string()]))));
    let networks = indices(&guest.networks, |network: &Network| dropped.contains(network.name.as_str()));
    operations.extend(networks.into_iter().rev().map(|index| remove_op(network(case, &[&index.to_string()]))));
    operations
}

/// Whether a NIC leaves by `state: absent`, and not by being dropped: a guest that runs lets it go only so.
///
/// So does a guest of which nobody knows whether it runs: a NIC that is absent is not in a guest that boots either.
/// Only what cannot be unplugged anyway is dropped then.
fn is_unplugged(case: &Case, nic: &Nic) -> bool {
    let (Some(interface), network) = (nic.interface, nic.network) else { return false };
    let can_be_absent =
        interface.value.bindings.bridge.is_some() && network.is_none_or(|network| !network.value.is_default());
    match case.facts.live() {
        _ if case.change.before.is_none() => false,
        Fact::Known(_) => true,
        Fact::Absent => false,
        Fact::Unknown => can_be_absent,
    }
}

fn add(case: &Case, plan: &Plan) -> Vec<PatchOperation> {
    if plan.add.is_empty() {
        return Vec::new();
    }
    let guest = case.change.after.guest;
    let (mut interfaces, mut networks) = default_nic(case);
    for addition in &plan.add {
        interfaces.push(json!({"name": addition.name, "bridge": {}}));
        networks.push(json!({"name": addition.name, "multus": {"networkName": addition.network_name}}));
    }
    let mut operations = Vec::new();
    if guest.domain.devices.is_present {
        operations.extend(append(guest.interfaces().is_empty(), |below| interface(case, below), interfaces));
    } else {
        let devices = pointer(case.change.after.path, &["domain", "devices"]);
        operations.push(add_op(devices, json!({"interfaces": interfaces})));
    }
    operations.extend(append(guest.networks.is_empty(), |below| network(case, below), networks));
    operations
}

/// The NIC that KubeVirt gives to a guest without any: with the first NIC that is written the guest would lose it.
fn default_nic(case: &Case) -> (Vec<Value>, Vec<Value>) {
    if !case.change.after.guest.gets_default_nic() {
        return (Vec::new(), Vec::new());
    }
    let binding = case.facts.kubevirt.known().map(|kubevirt| kubevirt.default_binding).unwrap_or_default();
    let interface = json!({"name": DEFAULT_NIC, binding.as_str(): {}});
    (vec![interface], vec![json!({"name": DEFAULT_NIC, "pod": {}})])
}

/// Appends to a list. An empty one may be missing or null as well: it is written whole.
fn append(is_empty: bool, list: impl Fn(&[&str]) -> PointerBuf, entries: Vec<Value>) -> Vec<PatchOperation> {
    if is_empty {
        return vec![add_op(list(&[]), Value::Array(entries))];
    }
    entries.into_iter().map(|entry| add_op(list(&["-"]), entry)).collect()
}

fn names_of<'n>(nics: Vec<&Nic<'n>>) -> BTreeSet<&'n str> {
    nics.into_iter().map(|nic| nic.name).collect()
}

fn indices<T>(list: &[T], is_wanted: impl Fn(&T) -> bool) -> Vec<usize> {
    list.iter().enumerate().filter(|(_, entry)| is_wanted(entry)).map(|(index, _)| index).collect()
}

fn state_of(case: &Case, index: usize) -> PointerBuf {
    interface(case, &[&index.to_string(), "state"])
}

fn interface(case: &Case, below: &[&str]) -> PointerBuf {
    pointer(case.change.after.path, &[&["domain", "devices", "interfaces"], below].concat())
}

fn network(case: &Case, below: &[&str]) -> PointerBuf {
    pointer(case.change.after.path, &[&["networks"], below].concat())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::{
            cluster,
            review::{self, ParsedRequest},
            vmi::VirtualMachineInstance,
        },
        change::Change,
        facts::{Facts, KubeVirt, Vmi},
        settings::Settings,
    };

    const ADD: &str = "nicplug.io/add-interfaces";
    const REMOVE: &str = "nicplug.io/remove-interfaces";

    fn stopped() -> Facts {
        Facts { vmi: Fact::Absent, ..Facts::default() }
    }

    fn live() -> Facts {
        let vmi = Vmi::from(&VirtualMachineInstance::default());
        Facts { vmi: Fact::Known(Arc::new(vmi)), ..Facts::default() }
    }

    fn unknown() -> Facts {
        Facts::default()
    }

    /// A guest of a default NIC, `a` and `b` on bridges and `s` on SR-IOV.
    fn guest() -> Value {
        json!({"domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}, {"name": "a", "bridge": {}},
            {"name": "s", "sriov": {}}, {"name": "b", "bridge": {}}]}},
            "networks": [{"name": "default", "pod": {}}, {"name": "b", "multus": {"networkName": "net"}},
                {"name": "s", "multus": {"networkName": "net"}}, {"name": "a", "multus": {"networkName": "net"}}]})
    }

    fn vm(guest: &Value, annotations: &Value) -> Value {
        json!({"metadata": {"name": "vm", "annotations": annotations}, "spec": {"template": {"spec": guest}}})
    }

    fn operations(kind: &str, object: &Value, old: &Value, facts: &Facts) -> Vec<PatchOperation> {
        let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "namespace": "demo", "operation": operation, "kind": {"group": "kubevirt.io", "kind": kind},
            "object": object, "oldObject": old}})
        .to_string();
        let ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else { panic!("{review}") };
        let change = Change::of(&request).unwrap();
        repair(&Case { change: &change, facts, settings: &Settings::default() })
    }

    /// The guest and the annotations after the request; a second call finds nothing to do.
    fn granted(before: &Value, annotations: &Value, facts: &Facts) -> (Value, Value) {
        let (old, mut new) = (vm(before, &json!({})), vm(before, annotations));
        let operations = operations("VirtualMachine", &new, &old, facts);
        json_patch::patch(&mut new, &json_patch::Patch(operations)).unwrap();
        let again = self::operations("VirtualMachine", &new, &old, facts);
        if new["metadata"]["annotations"] != *annotations {
            assert!(again.is_empty(), "{again:?}");
        }
        (new["spec"]["template"]["spec"].take(), new["metadata"]["annotations"].take())
    }

    fn list(guest: &Value, pointer: &str) -> Vec<String> {
        let entries = guest.pointer(pointer).unwrap().as_array().unwrap();
        let name = |entry: &Value| {
            let state = entry["state"].as_str().map(|state| format!(" {state}")).unwrap_or_default();
            format!("{}{state}", entry["name"].as_str().unwrap())
        };
        entries.iter().map(name).collect()
    }

    fn nics(guest: &Value) -> (Vec<String>, Vec<String>) {
        (list(guest, "/domain/devices/interfaces"), list(guest, "/networks"))
    }

    #[test]
    fn a_nic_is_appended_to_both_lists_live_stopped_and_unknown() {
        for facts in [live(), stopped(), unknown()] {
            let (guest, annotations) = granted(&guest(), &json!({ADD: "c=net,d=x/y", "other": "1"}), &facts);
            assert_eq!(list(&guest, "/domain/devices/interfaces"), ["default", "a", "s", "b", "c", "d"]);
            assert_eq!(guest["domain"]["devices"]["interfaces"][4], json!({"name": "c", "bridge": {}}));
            assert_eq!(guest["networks"][5], json!({"name": "d", "multus": {"networkName": "x/y"}}));
            assert_eq!(annotations, json!({"other": "1"}));
        }
    }

    #[test]
    fn what_is_there_already_changes_nothing_but_the_annotation() {
        for request in [json!({ADD: "a=net"}), json!({ADD: "b=demo/net,s=net"}), json!({REMOVE: "z"})] {
            assert_eq!(granted(&guest(), &request, &live()), (guest(), json!({})), "{request}");
        }
    }

    #[test]
    fn what_cannot_be_granted_stays_as_a_whole() {
        for request in [
            json!({ADD: "a=other"}),
            json!({ADD: "c=net,default=net"}),
            json!({ADD: "c=net,=x"}),
            json!({ADD: ""}),
            json!({ADD: "c=net", REMOVE: "b,?"}),
            json!({ADD: "c=net", REMOVE: "c"}),
        ] {
            assert_eq!(granted(&guest(), &request, &live()), (guest(), request.clone()), "{request}");
        }
    }

    #[test]
    fn a_live_vm_lets_go_by_state_and_a_stopped_one_by_dropping() {
        let names = |list: [&str; 4]| list.map(str::to_owned).to_vec();
        let (absent, annotations) = granted(&guest(), &json!({REMOVE: "b,a"}), &live());
        let all = (names(["default", "a absent", "s", "b absent"]), names(["default", "b", "s", "a"]));
        assert_eq!(nics(&absent), all);
        assert_eq!(annotations, json!({}));
        assert_eq!(granted(&absent, &json!({REMOVE: "a"}), &live()).0, absent);

        let (left, _) = granted(&guest(), &json!({REMOVE: "b,a"}), &stopped());
        assert_eq!(
            nics(&left),
            (vec!["default".to_owned(), "s".to_owned()], vec!["default".to_owned(), "s".to_owned()])
        );
        let (left, _) = granted(&absent, &json!({REMOVE: "a"}), &stopped());
        assert_eq!(list(&left, "/networks"), ["default", "b", "s"]);
    }

    #[test]
    fn where_nobody_knows_whether_it_runs_absent_is_safe_and_dropped_is_what_cannot_be_absent() {
        let (guest, _) = granted(&guest(), &json!({REMOVE: "a,s"}), &unknown());
        assert_eq!(list(&guest, "/domain/devices/interfaces"), ["default", "a absent", "b"]);
        assert_eq!(list(&guest, "/networks"), ["default", "b", "a"]);
    }

    #[test]
    fn an_unplugged_nic_comes_back() {
        let (absent, _) = granted(&guest(), &json!({REMOVE: "a"}), &live());
        assert_eq!(granted(&absent, &json!({ADD: "a=net"}), &live()).0, guest());
        let other = granted(&absent, &json!({ADD: "a=other"}), &live());
        assert_eq!(other, (absent, json!({ADD: "a=other"})));
    }

    #[test]
    fn both_requests_go_together() {
        let (both, annotations) = granted(&guest(), &json!({ADD: "c=net", REMOVE: "a,default"}), &stopped());
        assert_eq!(list(&both, "/domain/devices/interfaces"), ["s", "b", "c"]);
        assert_eq!(list(&both, "/networks"), ["b", "s", "c"]);
        assert_eq!(annotations, json!({}));
    }

    #[test]
    fn the_first_nic_brings_the_one_that_kubevirt_would_give() {
        let kubevirt = |binding: &str| {
            let mut resource = cluster::KubeVirt::default();
            binding.clone_into(&mut resource.spec.configuration.network.default_network_interface);
            Facts { kubevirt: Fact::Known(Arc::new(KubeVirt::from(resource))), ..stopped() }
        };
        for (facts, binding) in [
            (kubevirt(""), "bridge"),
            (kubevirt("masquerade"), "masquerade"),
            (kubevirt("slirp"), "slirp"),
            (unknown(), "bridge"),
        ] {
            let (guest, _) = granted(&json!({"domain": {"devices": {}}}), &json!({ADD: "a=net"}), &facts);
            let expected = json!({"domain": {"devices": {"interfaces": [{"name": "default", binding: {}},
                {"name": "a", "bridge": {}}]}},
                "networks": [{"name": "default", "pod": {}}, {"name": "a", "multus": {"networkName": "net"}}]});
            assert_eq!(guest, expected);
        }
        // Its name is taken.
        let bare = json!({"domain": {"devices": {}}});
        let request = json!({ADD: "default=net"});
        assert_eq!(granted(&bare, &request, &stopped()), (bare.clone(), request.clone()));
    }

    #[test]
    fn lists_that_are_missing_null_or_empty_are_made() {
        let nics = |devices: Value, networks: Value| json!({"domain": {"cpu": {"cores": 2}, "devices": devices}, "networks": networks});
        let wished = json!({"autoattachPodInterface": false, "rng": {}, "interfaces": [{"name": "a", "bridge": {}}]});
        for list in [Value::Null, json!([])] {
            let devices = json!({"autoattachPodInterface": false, "rng": {}, "interfaces": list});
            let (guest, _) = granted(&nics(devices, list), &json!({ADD: "a=net"}), &stopped());
            assert_eq!(guest, nics(wished.clone(), json!([{"name": "a", "multus": {"networkName": "net"}}])));
        }
        for domain in [json!({"cpu": {}}), json!({"cpu": {}, "devices": null})] {
            let (guest, _) = granted(&json!({"domain": domain}), &json!({ADD: "a=net"}), &stopped());
            assert_eq!(list(&guest, "/domain/devices/interfaces"), ["default", "a"]);
            assert_eq!(guest["domain"]["cpu"], json!({}));
        }
        // A guest without a domain is none: its schema refuses it.
        for guest in [json!({}), json!({"domain": null})] {
            assert_eq!(granted(&guest, &json!({ADD: "a=net"}), &stopped()), (guest, json!({ADD: "a=net"})));
        }
    }

    #[test]
    fn a_new_vm_is_made_as_asked_even_where_a_vmi_of_its_name_runs() {
        let mut new = vm(&guest(), &json!({ADD: "c=net", REMOVE: "a"}));
        let operations = operations("VirtualMachine", &new, &Value::Null, &live());
        json_patch::patch(&mut new, &json_patch::Patch(operations)).unwrap();
        assert_eq!(list(&new["spec"]["template"]["spec"], "/networks"), ["default", "b", "s", "c"]);
    }

    #[test]
    fn only_the_update_that_asks_is_granted_and_only_of_a_vm() {
        let asked = vm(&guest(), &json!({ADD: "c=net"}));
        let granted = |kind: &str, new: &Value, old: &Value| !operations(kind, new, old, &live()).is_empty();
        assert!(!granted("VirtualMachine", &asked, &asked));
        assert!(granted("VirtualMachine", &asked, &vm(&guest(), &json!({ADD: "c=other"}))));
        assert!(!granted("VirtualMachineInstanceReplicaSet", &asked, &vm(&guest(), &json!({}))));
    }
}
