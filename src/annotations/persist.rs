//! Persisting NICs: a NIC that a running guest has, but not the template of its VM, is written into the template, so
//! that the VM has it after a restart.
//!
//! A VMI asks for this with the annotation `nicplug.io/persist`, which can be set before the NIC is added, with it, or
//! after it. This module decides the next step from the stored objects; the reconciler in `controllers` applies it:
//!
//! 1. replace `*` with the names of the NICs that it covers, so that a reconciler that continues after a crash does the
//!    same;
//! 2. append the NICs to the template, with all fields that the VMI has, under a `test` of both lists;
//! 3. remove the persisted names from the annotation, and the annotation itself with the last name.
//!
//! Each step is one JSON patch, which fails if the object has changed since it was read, and a completed step results
//! in an empty patch. So the steps can be repeated and run concurrently: no NIC is persisted twice, none is
//! overwritten.
//!
//! Objects are plain JSON values here instead of typed views, because fields of a newer KubeVirt must reach the
//! template too. Admission requests do not use this code, so it need not be fast.

mod guest_spec;
mod parse;
pub mod status_requests;

use json_patch::PatchOperation;
use serde::Deserialize;
use serde_json::{Value, json};

use self::guest_spec::GuestSpec;
pub use self::parse::{KEY, PersistRequest};
use crate::{
    annotations::interfaces::{DEFAULT_NIC, RequestSyntaxError},
    api::quote::quote,
    api::{
        json_patch::{add_op, pointer, remove_op, test_op},
        network::{Bindings, Interface, NadRef},
    },
};

/// The next step for a VMI.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: the VMI asks for nothing, or its VM does not exist or is being deleted.
    Nothing,
    /// Replace `*` in the annotation with the names of the NICs that it covers.
    Resolve {
        /// The names.
        names: Vec<String>,
        /// The patch of the VMI.
        operations: Vec<PatchOperation>,
    },
    /// Persist NICs.
    Persist(PersistPlan),
}

/// What to do for each name in the annotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PersistPlan {
    /// NICs to append to the template.
    pub missing: Vec<String>,
    /// NICs that the template already has.
    pub present: Vec<String>,
    /// Names without a complete NIC in the VMI; it may be added later.
    pub awaited: Vec<String>,
    /// NICs that cannot be persisted.
    pub rejected: Vec<(String, PersistError)>,
    /// The patch of the VM that appends the missing NICs; empty if none is missing.
    pub operations: Vec<PatchOperation>,
}

impl PersistPlan {
    /// Returns the names that are persisted once the VM is patched.
    pub fn done(&self) -> impl Iterator<Item = &str> {
        self.missing.iter().chain(&self.present).map(String::as_str)
    }
}

/// Why a NIC, or all NICs of a VMI, cannot be persisted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PersistError {
    /// The annotation is malformed.
    #[error("{0}; write NAME[,NAME], or * for every NIC that the template lacks")]
    Malformed(RequestSyntaxError),
    /// No VM owns the VMI.
    #[error(
        "no VirtualMachine owns the VMI, so its NICs cannot be persisted; create a VirtualMachine instead of a VMI"
    )]
    NoVm,
    /// The VM was deleted and created again while the VMI continued to run.
    #[error(
        "the VMI was created from an earlier VirtualMachine of the same name; add the NIC to the template yourself"
    )]
    OtherVm,
    /// The template has a NIC with this name on another network.
    #[error(
        "the template already has {}, {existing}, which nicplug does not overwrite; choose another name",
        quote(.name)
    )]
    OtherNetwork {
        /// The name.
        name: String,
        /// Describes the network of the NIC in the template.
        existing: String,
    },
    /// The template has the NIC with another binding.
    #[error(
        "the template already has {} with another binding, which nicplug does not overwrite; edit the template",
        quote(.name)
    )]
    OtherBinding {
        /// The name.
        name: String,
    },
    /// A request in the status is malformed.
    #[error("a request in status.interfaceRequests cannot be applied: {what}; remove it and request again")]
    Request {
        /// What is wrong with it.
        what: String,
    },
    /// The template has the NIC with `state: absent`.
    #[error("the template has {} with state \"absent\"; remove the state there, or choose another name", quote(.name))]
    AbsentInTemplate {
        /// The name.
        name: String,
    },
    /// The VMI has the NIC with `state: absent`.
    #[error(
        "{} is being unplugged (state \"absent\") and is not persisted; remove it from the annotation",
        quote(.name)
    )]
    BeingUnplugged {
        /// The name.
        name: String,
    },
}

/// The VM that owns a VMI.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// Its name, in the namespace of the VMI.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// Returns the VM that owns a VMI.
#[must_use]
pub fn owner(vmi: &Value) -> Option<Owner> {
    let references = vmi.pointer("/metadata/ownerReferences").and_then(Value::as_array)?;
    let is_vm = |reference: &&Value| {
        let group = text(reference, "apiVersion").split('/').next().unwrap_or_default();
        group == "kubevirt.io" && text(reference, "kind") == "VirtualMachine"
    };
    let vm = references.iter().find(is_vm)?;
    Some(Owner { name: text(vm, "name").to_owned(), uid: text(vm, "uid").to_owned() })
}

/// Returns the text of a VMI's annotation.
#[must_use]
pub fn annotation(vmi: &Value) -> Option<&str> {
    vmi.pointer("/metadata/annotations").and_then(|annotations| annotations.get(KEY)).and_then(Value::as_str)
}

/// Returns the next step for a VMI; `vm` is its owner, `None` if that does not exist.
///
/// # Errors
/// No NIC of the VMI can be persisted.
pub fn step(vmi: &Value, vm: Option<&Value>) -> Result<Step, PersistError> {
    let Some(text) = annotation(vmi) else { return Ok(Step::Nothing) };
    let request: PersistRequest = text.parse().map_err(PersistError::Malformed)?;
    let owner = owner(vmi).ok_or(PersistError::NoVm)?;
    let Some(vm) = vm.filter(|vm| vm.pointer("/metadata/deletionTimestamp").is_none()) else {
        return Ok(Step::Nothing);
    };
    if uid(vm) != owner.uid {
        return Err(PersistError::OtherVm);
    }
    let (guest, template) = (GuestSpec::of_vmi(vmi), GuestSpec::of_vm(vm));
    Ok(match request {
        PersistRequest::All => resolve(vmi, text, &guest, &template),
        PersistRequest::Names(names) => Step::Persist(plan(&names, &guest, &template)),
    })
}

/// Returns the patch of a VMI that removes names from its annotation, and the annotation with the last name.
#[must_use]
pub fn remove_names(vmi: &Value, done: &[&str]) -> Vec<PatchOperation> {
    let Some(text) = annotation(vmi) else { return Vec::new() };
    let Ok(PersistRequest::Names(names)) = text.parse() else { return Vec::new() };
    let remaining: Vec<String> = names.iter().filter(|name| !done.contains(&name.as_str())).cloned().collect();
    if remaining.len() == names.len() {
        return Vec::new();
    }
    rewrite(vmi, text, &remaining)
}

/// Resolves `*` to the NICs whose names the template does not have. Without any the annotation stays and waits for one.
fn resolve(vmi: &Value, text: &str, guest: &GuestSpec, template: &GuestSpec) -> Step {
    let is_missing = |name: &&str| {
        let nic = guest.nic(name);
        nic.pair().is_some() && !nic.is_absent() && !template.has(name) && !is_default(name, guest, template)
    };
    let names: Vec<String> = guest.names().filter(is_missing).map(str::to_owned).collect();
    if names.is_empty() {
        return Step::Nothing;
    }
    let operations = rewrite(vmi, text, &names);
    Step::Resolve { names, operations }
}

/// Returns the patch that replaces the text of the annotation with these names. It fails for another VMI of the same
/// name.
fn rewrite(vmi: &Value, text: &str, names: &[String]) -> Vec<PatchOperation> {
    let path = || pointer("metadata", &["annotations", KEY]);
    let change = if names.is_empty() { remove_op(path()) } else { add_op(path(), json!(names.join(","))) };
    vec![test_op(pointer("metadata", &["uid"]), json!(uid(vmi))), test_op(path(), json!(text)), change]
}

fn plan(names: &[String], guest: &GuestSpec, template: &GuestSpec) -> PersistPlan {
    let mut plan = PersistPlan::default();
    let mut nics = Vec::new();
    for name in names {
        let nic = guest.nic(name);
        let Some(pair) = nic.pair() else {
            plan.awaited.push(name.clone());
            continue;
        };
        if is_default(name, guest, template) {
            plan.present.push(name.clone());
        } else if nic.is_absent() {
            plan.rejected.push((name.clone(), PersistError::BeingUnplugged { name: name.clone() }));
        } else if !template.has(name) {
            plan.missing.push(name.clone());
            nics.push(pair);
        } else if let Some(error) = conflict(name, guest, template) {
            plan.rejected.push((name.clone(), error));
        } else {
            plan.present.push(name.clone());
        }
    }
    if !nics.is_empty() && template.gets_default_nic() && guest.has_default_nic() {
        // The first NIC in the template would remove the default one at the next boot.
        nics.splice(0..0, guest.nic(DEFAULT_NIC).pair());
    }
    plan.operations = template.append(&nics);
    plan
}

/// Returns whether a NIC is the default one, which KubeVirt adds at every boot while the template has none.
fn is_default(name: &str, guest: &GuestSpec, template: &GuestSpec) -> bool {
    name == DEFAULT_NIC && template.gets_default_nic() && guest.has_default_nic()
}

/// Returns an error if the template has another NIC with the name of the guest's. Only network and binding count: other
/// fields, such as a MAC address, may be set by KubeVirt in the VMI only, or in the template only.
fn conflict(name: &str, guest: &GuestSpec, template: &GuestSpec) -> Option<PersistError> {
    let (wanted, existing) = (guest.nic(name), template.nic(name));
    let other_network = |existing: String| Some(PersistError::OtherNetwork { name: name.to_owned(), existing });
    let ((interface, network), (existing_interface, existing_network)) = match (wanted.pair(), existing.pair()) {
        (Some(wanted), Some(existing)) => (wanted, existing),
        (Some(_), None) => return other_network("without its interface or its network".to_owned()),
        (None, _) => return None,
    };
    if !is_same_network(network, existing_network, template.namespace) {
        return other_network(describe_network(network_name(existing_network)));
    }
    if existing.is_absent() {
        return Some(PersistError::AbsentInTemplate { name: name.to_owned() });
    }
    (bindings(interface) != bindings(existing_interface)).then(|| PersistError::OtherBinding { name: name.to_owned() })
}

fn is_same_network(one: &Value, other: &Value, namespace: &str) -> bool {
    match (network_name(one), network_name(other)) {
        (Some(one), Some(other)) => NadRef::parse(one, namespace) == NadRef::parse(other, namespace),
        _ => one == other,
    }
}

fn describe_network(network_name: Option<&str>) -> String {
    match network_name {
        Some(network) => format!("on network {network}", network = quote(network)),
        None => "without a NetworkAttachmentDefinition".to_owned(),
    }
}

fn network_name(network: &Value) -> Option<&str> {
    network.pointer("/multus/networkName").and_then(Value::as_str)
}

fn bindings(interface: &Value) -> Option<Bindings<'_>> {
    Interface::deserialize(interface).ok().map(|interface| interface.bindings)
}

fn uid(object: &Value) -> &str {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default()
}

fn text<'v>(object: &'v Value, key: &str) -> &'v str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a guest with NICs from `name=network[:state]`, where `pod` is the pod network.
    fn guest(nics: &[&str]) -> Value {
        let parts = |nic: &&str| {
            let (nic, state) = nic.split_once(':').map_or((*nic, None), |(nic, state)| (nic, Some(state)));
            let (name, network) = nic.split_once('=').unwrap();
            let mut interface = json!({"name": name, "bridge": {}, "newField": {"of": "a newer KubeVirt"}});
            if let Some(state) = state {
                interface["state"] = json!(state);
            }
            let source = if network == "pod" { json!({}) } else { json!({"networkName": network}) };
            let kind = if network == "pod" { "pod" } else { "multus" };
            (interface, json!({"name": name, kind: source}))
        };
        let (interfaces, networks): (Vec<Value>, Vec<Value>) = nics.iter().map(parts).unzip();
        json!({"domain": {"cpu": {"cores": 2}, "devices": {"rng": {}, "interfaces": interfaces}}, "networks": networks})
    }

    fn vm(nics: &[&str]) -> Value {
        json!({"metadata": {"name": "vm", "namespace": "demo", "uid": "vm-1"}, "spec": {"running": true,
            "template": {"metadata": {}, "spec": guest(nics)}}})
    }

    fn new_vmi(annotation: &str, nics: &[&str]) -> Value {
        json!({"metadata": {"name": "vm", "namespace": "demo", "uid": "vmi-1", "annotations": {KEY: annotation, "other": "1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x"},
                {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm", "uid": "vm-1"}]},
            "spec": guest(nics)})
    }

    fn patch(object: &mut Value, operations: Vec<PatchOperation>) {
        json_patch::patch(object, &json_patch::Patch(operations)).unwrap();
    }

    /// Applies all steps, as the reconciler does; returns whether there were any.
    fn apply_all_steps(vmi: &mut Value, vm: &mut Value) -> bool {
        let mut has_changed = false;
        loop {
            match step(vmi, Some(vm)).unwrap() {
                Step::Nothing => return has_changed,
                Step::Resolve { operations, .. } => patch(vmi, operations),
                Step::Persist(plan) => {
                    let without_names = remove_names(vmi, &plan.done().collect::<Vec<_>>());
                    if without_names.is_empty() {
                        return has_changed;
                    }
                    patch(vm, plan.operations);
                    patch(vmi, without_names);
                }
            }
            has_changed = true;
        }
    }

    fn names(vm: &Value) -> Vec<&str> {
        let lists = ["/spec/template/spec/domain/devices/interfaces", "/spec/template/spec/networks"];
        let [interfaces, networks] = lists.map(|list| {
            let list = vm.pointer(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            list.iter().map(|entry| entry["name"].as_str().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(interfaces, networks);
        interfaces
    }

    #[test]
    fn missing_nics_are_appended_and_nothing_else_changes() {
        for (annotation, running, template, then, left) in [
            ("a", &["d=pod", "a=net"][..], &["d=pod"][..], &["d", "a"][..], None),
            ("a", &["d=pod", "a=net", "b=net"], &["d=pod"], &["d", "a"], None),
            ("b,a", &["d=pod", "a=net", "b=x/net"], &["d=pod", "c=net"], &["d", "c", "b", "a"], None),
            ("a,b", &["d=pod", "a=net"], &["d=pod"], &["d", "a"], Some("b")),
            ("b", &["d=pod", "a=net"], &["d=pod"], &["d"], Some("b")),
            ("a", &["d=pod", "a=net"], &["d=pod", "a=demo/net"], &["d", "a"], None),
            ("*", &["d=pod", "a=net", "b=net", "c=net:absent"], &["d=pod", "b=other"], &["d", "b", "a"], None),
            ("*", &["d=pod"], &["d=pod"], &["d"], Some("*")),
            ("a", &["d=pod", "a=net:down"], &["d=pod"], &["d", "a"], None),
            ("a,b", &["d=pod", "a=net", "b=net"], &["d=pod", "a=other"], &["d", "a", "b"], Some("a")),
        ] {
            let (mut vmi, mut vm) = (new_vmi(annotation, running), vm(template));
            let (kept_vmi, kept_vm) = (vmi.clone(), vm.clone());
            apply_all_steps(&mut vmi, &mut vm);
            assert_eq!(names(&vm), then, "{annotation} {running:?} {template:?}");
            assert_eq!(vmi["metadata"]["annotations"][KEY].as_str(), left, "{annotation} {running:?} {template:?}");

            // A second run changes nothing.
            assert!(!apply_all_steps(&mut vmi, &mut vm));
            vmi["metadata"]["annotations"] = kept_vmi["metadata"]["annotations"].clone();
            assert_eq!(vmi, kept_vmi);
            let devices = ["domain", "devices", "interfaces"];
            let entries = devices.iter().fold(&vm["spec"]["template"]["spec"], |value, key| &value[*key]);
            let old = devices.iter().fold(&kept_vm["spec"]["template"]["spec"], |value, key| &value[*key]);
            assert!(entries.as_array().unwrap().starts_with(old.as_array().unwrap()));
        }
    }

    #[test]
    fn an_entry_keeps_unknown_fields_and_those_of_a_preference() {
        let (mut vmi, mut vm) = (new_vmi("a", &["d=pod", "a=net:up"]), vm(&["d=pod"]));
        vm["spec"]["preference"] = json!({"name": "fedora"});
        vmi["spec"]["domain"]["devices"]["interfaces"][1]["model"] = json!("virtio");
        apply_all_steps(&mut vmi, &mut vm);
        let spec = &vm["spec"]["template"]["spec"];
        assert_eq!(spec["domain"]["devices"]["interfaces"][1], vmi["spec"]["domain"]["devices"]["interfaces"][1]);
        assert_eq!(spec["domain"]["devices"]["interfaces"][1]["model"], "virtio");
        assert_eq!(spec["networks"][1], vmi["spec"]["networks"][1]);
        assert_eq!(spec["domain"]["devices"]["rng"], json!({}));
    }

    #[test]
    fn a_crash_between_two_patches_does_not_change_the_result() {
        let start = || (new_vmi("*", &["d=pod", "a=net"]), vm(&["d=pod"]));
        let (mut vmi, mut vm) = start();
        apply_all_steps(&mut vmi, &mut vm);
        let end = (vmi, vm);

        let (mut vmi, mut vm) = start();
        let Step::Resolve { names, operations } = step(&vmi, Some(&vm)).unwrap() else { panic!() };
        assert_eq!(names, ["a"]);
        patch(&mut vmi, operations);
        let Step::Persist(plan) = step(&vmi, Some(&vm)).unwrap() else { panic!() };
        assert_eq!(plan.missing, ["a"]);
        patch(&mut vm, plan.operations);
        // The reconciler crashes here. The star did not cover a NIC that is added now.
        let later = guest(&["d=pod", "a=net", "b=net"]);
        let before = std::mem::replace(&mut vmi["spec"], later);
        let Step::Persist(plan) = step(&vmi, Some(&vm)).unwrap() else { panic!() };
        assert_eq!((plan.missing.len(), plan.present.as_slice()), (0, &["a".to_owned()][..]));
        apply_all_steps(&mut vmi, &mut vm);
        vmi["spec"] = before;
        assert_eq!((vmi, vm), end);
    }

    #[test]
    fn a_patch_applies_only_to_the_object_that_was_read() {
        let vmi = new_vmi("a", &["d=pod", "a=net"]);
        for template in [vm(&["d=pod"]), without_lists()] {
            let Step::Persist(plan) = step(&vmi, Some(&template)).unwrap() else { panic!() };
            let fails = |change: &dyn Fn(&mut Value)| {
                let mut changed = template.clone();
                change(&mut changed);
                json_patch::patch(&mut changed, &json_patch::Patch(plan.operations.clone())).is_err()
            };
            assert!(!fails(&|vm| vm["metadata"]["labels"] = json!({"x": "y"})));
            assert!(!fails(&|vm| vm["spec"]["running"] = json!(false)));
            assert!(fails(&|vm| vm["metadata"]["uid"] = json!("vm-2")));
            assert!(fails(&|vm| vm["spec"]["template"]["spec"] = guest(&["d=pod", "a=net"])));
            assert!(fails(&|vm| vm["spec"]["template"]["spec"]["networks"] = json!([{"name": "z"}])));
            assert!(fails(&|vm| vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = json!([{}])));
        }
        let without_names = remove_names(&vmi, &["a"]);
        for (pointer, value) in
            [("uid", json!("vmi-2")), ("annotations", json!({KEY: "a,b"})), ("annotations", json!({}))]
        {
            let mut changed = vmi.clone();
            changed["metadata"][pointer] = value;
            assert!(json_patch::patch(&mut changed, &json_patch::Patch(without_names.clone())).is_err(), "{pointer}");
        }
    }

    fn without_lists() -> Value {
        let mut vm = vm(&[]);
        vm["spec"]["template"]["spec"] = json!({"domain": {"cpu": {}, "devices": {"rng": {}}}});
        vm
    }

    #[test]
    fn the_first_nic_is_persisted_with_the_default_nic() {
        let devices = |devices: Value| {
            let mut vm = vm(&[]);
            vm["spec"]["template"]["spec"] = json!({"domain": {"cpu": {}, "devices": devices}});
            vm
        };
        for (mut vm, running, then) in [
            (without_lists(), &["default=pod", "a=net"][..], &["default", "a"][..]),
            (devices(Value::Null), &["default=pod", "a=net"], &["default", "a"]),
            (devices(json!({"interfaces": null})), &["default=pod", "a=net"], &["default", "a"]),
            (devices(json!({"interfaces": []})), &["default=pod", "a=net"], &["default", "a"]),
            (devices(json!({"autoattachPodInterface": false})), &["a=net"], &["a"]),
            // It runs without the default NIC, as a preference may request, or has another NIC with that name.
            (without_lists(), &["a=net"], &["a"]),
            (without_lists(), &["default=net", "a=net"], &["a"]),
        ] {
            let mut vmi = new_vmi("a", running);
            apply_all_steps(&mut vmi, &mut vm);
            assert_eq!(names(&vm), then, "{running:?}");
            assert_eq!(vm["spec"]["template"]["spec"]["domain"]["cpu"], json!({}));
        }
        // KubeVirt adds the default NIC itself.
        let (mut vmi, mut vm) = (new_vmi("default", &["default=pod"]), without_lists());
        apply_all_steps(&mut vmi, &mut vm);
        assert_eq!((vm, annotation(&vmi)), (without_lists(), None));
        let star = new_vmi("*", &["default=pod"]);
        assert_eq!(step(&star, Some(&without_lists())), Ok(Step::Nothing));
    }

    #[test]
    fn a_conflict_of_one_name_is_reported_and_nothing_is_overwritten() {
        let name = || "a".to_owned();
        let other = |existing: &str| PersistError::OtherNetwork { name: name(), existing: existing.to_owned() };
        let mut sriov = vm(&["a=net"]);
        sriov["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = json!([{"name": "a", "sriov": {}}]);
        let mut half = vm(&[]);
        half["spec"]["template"]["spec"]["networks"] = json!([{"name": "a", "pod": {}}]);
        for (running, vm, error) in [
            ("a=net", vm(&["a=other"]), other("on network \"other\"")),
            ("a=net", vm(&["a=other/net"]), other("on network \"other/net\"")),
            ("a=net", vm(&["a=pod"]), other("without a NetworkAttachmentDefinition")),
            ("a=net", half, other("without its interface or its network")),
            ("a=net", sriov, PersistError::OtherBinding { name: name() }),
            ("a=net", vm(&["a=net:absent"]), PersistError::AbsentInTemplate { name: name() }),
            ("a=net:absent", vm(&[]), PersistError::BeingUnplugged { name: name() }),
        ] {
            let Step::Persist(plan) = step(&new_vmi("a", &[running]), Some(&vm)).unwrap() else { panic!() };
            assert_eq!(plan, PersistPlan { rejected: vec![(name(), error)], ..PersistPlan::default() });
        }
    }

    #[test]
    fn errors_that_concern_all_nics_are_reported() {
        let standalone = |owner: Value| {
            let mut vmi = new_vmi("a", &["a=net"]);
            vmi["metadata"]["ownerReferences"] = owner;
            vmi
        };
        let other_group =
            json!([{"apiVersion": "example.com/v1", "kind": "VirtualMachine", "name": "vm", "uid": "vm-1"}]);
        for vmi in [standalone(Value::Null), standalone(json!([])), standalone(other_group)] {
            assert_eq!(step(&vmi, None), Err(PersistError::NoVm));
        }
        let mut again = vm(&[]);
        again["metadata"]["uid"] = json!("vm-2");
        assert_eq!(step(&new_vmi("a", &["a=net"]), Some(&again)), Err(PersistError::OtherVm));
        let malformed = step(&new_vmi("a,,b", &["a=net"]), Some(&vm(&[]))).unwrap_err();
        assert!(malformed.to_string().starts_with("entry 2, column 3: the name is empty; write NAME"), "{malformed}");
    }

    #[test]
    fn nothing_is_done_without_an_annotation_or_for_a_deleted_vm() {
        let mut without_annotation = new_vmi("a", &["a=net"]);
        without_annotation["metadata"]["annotations"] = json!({"other": "1"});
        let mut deleted = vm(&[]);
        deleted["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
        for (vmi, vm) in [
            (&without_annotation, Some(vm(&[]))),
            (&new_vmi("a", &["a=net"]), None),
            (&new_vmi("a", &["a=net"]), Some(deleted)),
        ] {
            assert_eq!(step(vmi, vm.as_ref()), Ok(Step::Nothing));
        }
        // A VMI that is being deleted may have got its NIC just before.
        let mut last = new_vmi("a", &["a=net"]);
        last["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
        assert!(
            matches!(step(&last, Some(&vm(&[]))), Ok(Step::Persist(PersistPlan { missing, .. })) if missing == ["a"])
        );
    }
}
