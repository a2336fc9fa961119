//! Applies the annotations `nicplug.io/add-interfaces` and `nicplug.io/remove-interfaces` of a VM and removes them. A
//! request that cannot be applied stays, and `/validate`, which gets the object afterwards, reports why.

use std::collections::BTreeSet;

use json_patch::{PatchOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use super::MutationInput;
use crate::{
    annotations::interfaces::{self, DEFAULT_NIC, InterfaceChanges, RequestKind},
    api::{
        json_patch::{add_op, pointer, remove_op},
        network::{Interface, Network},
    },
    change::Nic,
    facts::{Fact, NicPreference},
};

pub(super) fn operations(input: &MutationInput) -> Vec<PatchOperation> {
    let Ok(changes) = interfaces::requested_changes(input.change) else { return Vec::new() };
    // Removals come before additions, and from the end of the lists, so that no index shifts before it is used.
    let mut operations = restore(input, &changes);
    operations.extend(remove(input, &changes));
    operations.extend(add(input, &changes));
    let annotation = |kind: &RequestKind| pointer("metadata", &["annotations", kind.key()]);
    operations.extend(changes.requests.iter().map(|kind| remove_op(annotation(kind))));
    operations
}

/// Adds unplugged NICs again by removing their state.
fn restore(input: &MutationInput, changes: &InterfaceChanges) -> Vec<PatchOperation> {
    let names: BTreeSet<&str> = changes.restore.iter().copied().collect();
    let wanted = |interface: &Interface| interface.is_absent() && names.contains(interface.name.as_str());
    let indices = indices(input.change.after.guest.interfaces(), wanted);
    indices.into_iter().map(|index| remove_op(state_of(input, index))).collect()
}

fn remove(input: &MutationInput, changes: &InterfaceChanges) -> Vec<PatchOperation> {
    let nics = input.change.after.nics();
    let removed = changes.remove.iter().filter_map(|name| nics.get(name));
    let (unplugged, dropped): (Vec<&Nic>, Vec<&Nic>) = removed.partition(|nic| is_unplugged(input, nic));
    let [unplugged, dropped] = [unplugged, dropped].map(names_of);
    let guest = input.change.after.guest;

    let is_plugged = |interface: &Interface| !interface.is_absent() && unplugged.contains(interface.name.as_str());
    let absent = indices(guest.interfaces(), is_plugged);
    let mut operations: Vec<PatchOperation> =
        absent.into_iter().map(|index| add_op(state_of(input, index), json!("absent"))).collect();
    let interfaces = indices(guest.interfaces(), |interface: &Interface| dropped.contains(interface.name.as_str()));
    operations.extend(interfaces.into_iter().rev().map(|index| remove_op(interface(input, &[&index.to_string()]))));
    let networks = indices(&guest.networks, |network: &Network| dropped.contains(network.name.as_str()));
    operations.extend(networks.into_iter().rev().map(|index| remove_op(network(input, &[&index.to_string()]))));
    operations
}

/// Returns whether a NIC is removed by `state: absent` instead of being dropped from the lists. A running guest unplugs
/// a NIC only this way.
///
/// If it is unknown whether the guest runs, `absent` is safe, because a guest also boots without an absent NIC. A NIC
/// that cannot be unplugged at all is dropped in this input.
fn is_unplugged(input: &MutationInput, nic: &Nic) -> bool {
    let (Some(interface), network) = (nic.interface, nic.network) else { return false };
    let can_be_absent =
        interface.value.bindings.bridge.is_some() && network.is_none_or(|network| !network.value.is_default());
    match input.facts.live() {
        _ if input.change.before.is_none() || input.change.after.stops() => false,
        Fact::Known(_) => true,
        Fact::Absent => false,
        Fact::Unknown => can_be_absent,
    }
}

fn add(input: &MutationInput, changes: &InterfaceChanges) -> Vec<PatchOperation> {
    if changes.add.is_empty() {
        return Vec::new();
    }
    let guest = input.change.after.guest;
    let (mut interfaces, mut networks) = default_nic(input);
    let model = model(input);
    for addition in &changes.add {
        interfaces.push(match model {
            Some(model) => json!({"name": addition.name, "bridge": {}, "model": model}),
            None => json!({"name": addition.name, "bridge": {}}),
        });
        networks.push(json!({"name": addition.name, "multus": {"networkName": addition.network_name}}));
    }
    let mut operations = Vec::new();
    if guest.domain.devices.is_present {
        operations.extend(append(guest.interfaces().is_empty(), |below| interface(input, below), interfaces));
    } else {
        let devices = pointer(input.change.after.path, &["domain", "devices"]);
        operations.push(add_op(devices, json!({"interfaces": interfaces})));
    }
    operations.extend(append(guest.networks.is_empty(), |below| network(input, below), networks));
    operations
}

/// Returns the model to write into a plugged NIC. It is virtio without one, but if the preference of the VM sets a
/// model, KubeVirt takes the missing one for a change that needs a restart.
fn model(input: &MutationInput) -> Option<&'static str> {
    let Fact::Known(vmi) = input.facts.live() else { return None };
    if input.change.before.is_none() || input.change.after.stops() {
        return None;
    }
    NicPreference::of_new(input.change, input.facts, vmi).model.map(|_| "virtio")
}

/// Returns the default NIC, if KubeVirt gives it to the guest: the first NIC in the template would remove it.
fn default_nic(input: &MutationInput) -> (Vec<Value>, Vec<Value>) {
    if !input.change.after.guest.gets_default_nic() {
        return (Vec::new(), Vec::new());
    }
    let binding = input.facts.kubevirt.known().map(|kubevirt| kubevirt.default_binding).unwrap_or_default();
    let interface = json!({"name": DEFAULT_NIC, binding.as_str(): {}});
    (vec![interface], vec![json!({"name": DEFAULT_NIC, "pod": {}})])
}

/// Appends to a list. An empty list may also be missing or null, so it is written as a whole.
pub(super) fn append(is_empty: bool, list: impl Fn(&[&str]) -> PointerBuf, entries: Vec<Value>) -> Vec<PatchOperation> {
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

fn state_of(input: &MutationInput, index: usize) -> PointerBuf {
    interface(input, &[&index.to_string(), "state"])
}

pub(super) fn interface(input: &MutationInput, below: &[&str]) -> PointerBuf {
    pointer(input.change.after.path, &[&["domain", "devices", "interfaces"], below].concat())
}

pub(super) fn network(input: &MutationInput, below: &[&str]) -> PointerBuf {
    pointer(input.change.after.path, &[&["networks"], below].concat())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::{
            cluster,
            instancetype::PreferredDevices,
            review::{self, ParsedRequest},
            vmi::VirtualMachineInstance,
        },
        change::Change,
        facts::{Expansion, Expansions, Facts, KubeVirt, Preference, Vmi},
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

    /// Returns a guest with a default NIC, `a` and `b` on bridges and `s` on SR-IOV.
    fn guest() -> Value {
        json!({"domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}, {"name": "a", "bridge": {}},
            {"name": "s", "sriov": {}}, {"name": "b", "bridge": {}}]}},
            "networks": [{"name": "default", "pod": {}}, {"name": "b", "multus": {"networkName": "net"}},
                {"name": "s", "multus": {"networkName": "net"}}, {"name": "a", "multus": {"networkName": "net"}}]})
    }

    fn vm(guest: &Value, annotations: &Value) -> Value {
        json!({"metadata": {"name": "vm", "annotations": annotations}, "spec": {"template": {"spec": guest}}})
    }

    fn operations_for(kind: &str, object: &Value, old: &Value, facts: &Facts) -> Vec<PatchOperation> {
        let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "namespace": "demo", "operation": operation, "kind": {"group": "kubevirt.io", "kind": kind},
            "object": object, "oldObject": old}})
        .to_string();
        let ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else { panic!("{review}") };
        let change = Change::of(&request).unwrap();
        operations(&MutationInput { change: &change, facts, settings: &Settings::default() })
    }

    /// Applies a request; returns the guest and the annotations. A second call changes nothing.
    fn apply(before: &Value, annotations: &Value, facts: &Facts) -> (Value, Value) {
        let (old, mut new) = (vm(before, &json!({})), vm(before, annotations));
        let operations = operations_for("VirtualMachine", &new, &old, facts);
        json_patch::patch(&mut new, &json_patch::Patch(operations)).unwrap();
        let again = operations_for("VirtualMachine", &new, &old, facts);
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
            let (guest, annotations) = apply(&guest(), &json!({ADD: "c=net,d=x/y", "other": "1"}), &facts);
            assert_eq!(list(&guest, "/domain/devices/interfaces"), ["default", "a", "s", "b", "c", "d"]);
            assert_eq!(guest["domain"]["devices"]["interfaces"][4], json!({"name": "c", "bridge": {}}));
            assert_eq!(guest["networks"][5], json!({"name": "d", "multus": {"networkName": "x/y"}}));
            assert_eq!(annotations, json!({"other": "1"}));
        }
    }

    #[test]
    fn under_a_preferred_model_a_nic_of_a_running_vm_is_virtio_in_words() {
        let preferring = |model: &str, facts: Facts| {
            let devices = PreferredDevices { interface_model: model.into(), ..PreferredDevices::default() };
            let preference = Preference { devices, ..Preference::default() };
            let expansion = Expansion { instancetype: Fact::Absent, preference: Fact::Known(Arc::new(preference)) };
            let expansions = Expansions { before: expansion.clone(), after: expansion };
            Facts { expansions: Some(Box::new(expansions)), ..facts }
        };
        let running_with = |model: &str| {
            let spec = json!({"domain": {"devices": {"interfaces": [{"name": "a", "model": model}]}}});
            let vmi = json!({"spec": spec}).to_string();
            let vmi = Vmi::from(&serde_json::from_str::<VirtualMachineInstance>(&vmi).unwrap());
            Facts { vmi: Fact::Known(Arc::new(vmi)), expansions: Some(Box::default()), ..Facts::default() }
        };
        for (has_preference, facts, model) in [
            (true, preferring("e1000e", live()), Some("virtio")),
            (true, preferring("virtio", live()), Some("virtio")),
            (true, preferring("", live()), None),
            (true, preferring("e1000e", stopped()), None),
            (true, preferring("e1000e", unknown()), None),
            (false, live(), None),
            // The preference cannot be read, and the guest shows what it sets.
            (true, running_with("e1000e"), Some("virtio")),
            (true, running_with(""), None),
        ] {
            let mut old = vm(&guest(), &json!({}));
            if has_preference {
                old["spec"]["preference"] = json!({"name": "pe"});
            }
            let mut new = old.clone();
            new["metadata"]["annotations"] = json!({ADD: "c=net"});
            let operations = operations_for("VirtualMachine", &new, &old, &facts);
            json_patch::patch(&mut new, &json_patch::Patch(operations)).unwrap();
            let added = &new["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][4];
            assert_eq!((added["name"].as_str(), added["model"].as_str()), (Some("c"), model), "{facts:?}");
        }
    }

    #[test]
    fn a_request_without_effect_is_only_removed() {
        for request in [json!({ADD: "a=net"}), json!({ADD: "b=demo/net,s=net"}), json!({REMOVE: "z"})] {
            assert_eq!(apply(&guest(), &request, &live()), (guest(), json!({})), "{request}");
        }
    }

    #[test]
    fn a_request_that_cannot_be_applied_stays_as_a_whole() {
        for request in [
            json!({ADD: "a=other"}),
            json!({ADD: "c=net,default=net"}),
            json!({ADD: "c=net,=x"}),
            json!({ADD: ""}),
            json!({ADD: "c=net", REMOVE: "b,?"}),
            json!({ADD: "c=net", REMOVE: "c"}),
        ] {
            assert_eq!(apply(&guest(), &request, &live()), (guest(), request.clone()), "{request}");
        }
    }

    #[test]
    fn a_nic_of_a_running_vm_is_removed_by_state_and_one_of_a_stopped_vm_from_the_lists() {
        let names = |list: [&str; 4]| list.map(str::to_owned).to_vec();
        let (absent, annotations) = apply(&guest(), &json!({REMOVE: "b,a"}), &live());
        let all = (names(["default", "a absent", "s", "b absent"]), names(["default", "b", "s", "a"]));
        assert_eq!(nics(&absent), all);
        assert_eq!(annotations, json!({}));
        assert_eq!(apply(&absent, &json!({REMOVE: "a"}), &live()).0, absent);

        let (left, _) = apply(&guest(), &json!({REMOVE: "b,a"}), &stopped());
        assert_eq!(
            nics(&left),
            (vec!["default".to_owned(), "s".to_owned()], vec!["default".to_owned(), "s".to_owned()])
        );
        let (left, _) = apply(&absent, &json!({REMOVE: "a"}), &stopped());
        assert_eq!(list(&left, "/networks"), ["default", "b", "s"]);
    }

    #[test]
    fn if_the_vmi_is_unknown_a_nic_is_removed_by_state_where_possible() {
        let (guest, _) = apply(&guest(), &json!({REMOVE: "a,s"}), &unknown());
        assert_eq!(list(&guest, "/domain/devices/interfaces"), ["default", "a absent", "b"]);
        assert_eq!(list(&guest, "/networks"), ["default", "b", "a"]);
    }

    #[test]
    fn an_unplugged_nic_is_added_again() {
        let (absent, _) = apply(&guest(), &json!({REMOVE: "a"}), &live());
        assert_eq!(apply(&absent, &json!({ADD: "a=net"}), &live()).0, guest());
        let other = apply(&absent, &json!({ADD: "a=other"}), &live());
        assert_eq!(other, (absent, json!({ADD: "a=other"})));
    }

    #[test]
    fn both_requests_are_applied_together() {
        let (both, annotations) = apply(&guest(), &json!({ADD: "c=net", REMOVE: "a,default"}), &stopped());
        assert_eq!(list(&both, "/domain/devices/interfaces"), ["s", "b", "c"]);
        assert_eq!(list(&both, "/networks"), ["b", "s", "c"]);
        assert_eq!(annotations, json!({}));
    }

    #[test]
    fn the_first_nic_is_added_with_the_default_nic() {
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
            let (guest, _) = apply(&json!({"domain": {"devices": {}}}), &json!({ADD: "a=net"}), &facts);
            let expected = json!({"domain": {"devices": {"interfaces": [{"name": "default", binding: {}},
                {"name": "a", "bridge": {}}]}},
                "networks": [{"name": "default", "pod": {}}, {"name": "a", "multus": {"networkName": "net"}}]});
            assert_eq!(guest, expected);
        }
        // The default NIC has the name.
        let bare = json!({"domain": {"devices": {}}});
        let request = json!({ADD: "default=net"});
        assert_eq!(apply(&bare, &request, &stopped()), (bare.clone(), request.clone()));
    }

    #[test]
    fn missing_null_and_empty_lists_are_created() {
        let nics = |devices: Value, networks: Value| json!({"domain": {"cpu": {"cores": 2}, "devices": devices}, "networks": networks});
        let expected = json!({"autoattachPodInterface": false, "rng": {}, "interfaces": [{"name": "a", "bridge": {}}]});
        for list in [Value::Null, json!([])] {
            let devices = json!({"autoattachPodInterface": false, "rng": {}, "interfaces": list});
            let (guest, _) = apply(&nics(devices, list), &json!({ADD: "a=net"}), &stopped());
            assert_eq!(guest, nics(expected.clone(), json!([{"name": "a", "multus": {"networkName": "net"}}])));
        }
        for domain in [json!({"cpu": {}}), json!({"cpu": {}, "devices": null})] {
            let (guest, _) = apply(&json!({"domain": domain}), &json!({ADD: "a=net"}), &stopped());
            assert_eq!(list(&guest, "/domain/devices/interfaces"), ["default", "a"]);
            assert_eq!(guest["domain"]["cpu"], json!({}));
        }
        // The schema of KubeVirt rejects a guest without a domain.
        for guest in [json!({}), json!({"domain": null})] {
            assert_eq!(apply(&guest, &json!({ADD: "a=net"}), &stopped()), (guest, json!({ADD: "a=net"})));
        }
    }

    #[test]
    fn a_new_vm_is_changed_as_requested_even_if_a_vmi_of_its_name_runs() {
        let mut new = vm(&guest(), &json!({ADD: "c=net", REMOVE: "a"}));
        let operations = operations_for("VirtualMachine", &new, &Value::Null, &live());
        json_patch::patch(&mut new, &json_patch::Patch(operations)).unwrap();
        assert_eq!(list(&new["spec"]["template"]["spec"], "/networks"), ["default", "b", "s", "c"]);
    }

    #[test]
    fn only_the_update_that_sets_the_annotation_counts_and_only_on_a_vm() {
        let requested = vm(&guest(), &json!({ADD: "c=net"}));
        let is_applied = |kind: &str, new: &Value, old: &Value| !operations_for(kind, new, old, &live()).is_empty();
        assert!(!is_applied("VirtualMachine", &requested, &requested));
        assert!(is_applied("VirtualMachine", &requested, &vm(&guest(), &json!({ADD: "c=other"}))));
        assert!(!is_applied("VirtualMachineInstanceReplicaSet", &requested, &vm(&guest(), &json!({}))));
    }
}
