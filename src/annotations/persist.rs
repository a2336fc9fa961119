//! Mirroring: a NIC that a running guest was given, and its VM's template has not, is written into the template, so that
//! it is there after a restart.
//!
//! A VMI asks for it with the annotation `nicplug.io/persist`, whenever that is set: before the NIC, with it or after it.
//! What happens is decided here, from the objects as they are stored; the reconciler in `cluster` only carries it out:
//!
//! 1. `*` becomes the names of the NICs that it stands for, so that whoever goes on after a crash does the same;
//! 2. the NICs are appended to the template, entry by entry as the VMI has them, under `test`s of both lists;
//! 3. the names that are done are taken out of the annotation; with the last one it goes.
//!
//! Each step is one JSON patch that applies to nothing but what was read, and a step that was done already has nothing
//! left to do. So it does not matter how often, or by how many at once, this is carried out: nothing is mirrored twice
//! and nothing is overwritten.
//!
//! Objects are plain JSON values here, and not views: what a newer KubeVirt writes into a NIC has to reach the template.
//! This is off the path of requests, so it may cost something.

mod parse;
pub mod status_requests;
mod template;

use json_patch::PatchOperation;
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::parse::{KEY, PersistRequest};
use self::template::Template;
use crate::{
    annotations::interfaces::{DEFAULT_NIC, Malformed},
    api::{
        json_patch::{add_op, pointer, remove_op, test_op},
        network::{Bindings, Interface, NadRef},
    },
};

/// What there is to do about a VMI.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: it asks for nothing, or its VM is going and takes the template with it.
    Nothing,
    /// `*` stands for these NICs: write their names into the annotation, by this patch of the VMI.
    Resolve {
        /// The names.
        names: Vec<String>,
        /// The patch of the VMI.
        operations: Vec<PatchOperation>,
    },
    /// Mirror NICs.
    Mirror(Plan),
}

/// What becomes of each name of the annotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// NICs that the template is to get.
    pub missing: Vec<String>,
    /// NICs that the template has already.
    pub present: Vec<String>,
    /// Names of which the VMI has no NIC, or only half of one: they are still to come.
    pub awaited: Vec<String>,
    /// Names that cannot be mirrored.
    pub refused: Vec<(String, Why)>,
    /// The patch of the VM that appends the missing ones; empty where none is missing.
    pub operations: Vec<PatchOperation>,
}

impl Plan {
    /// The names that are done once the VM is patched.
    pub fn done(&self) -> impl Iterator<Item = &str> {
        self.missing.iter().chain(&self.present).map(String::as_str)
    }
}

/// Why a NIC, or all that a VMI asks for, is not mirrored.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Why {
    /// The annotation cannot be read.
    #[error("{0}; write NAME[,NAME], or * for every NIC that the template lacks")]
    Malformed(Malformed),
    /// The VMI stands alone, or belongs to something that has no template of its own.
    #[error("no VirtualMachine owns the VMI, so there is no template to keep a NIC in; make a VirtualMachine of it")]
    NoVm,
    /// The VM was deleted and made again while the VMI ran on.
    #[error("the VirtualMachine of that name is not the one that the VMI was made from; add the NIC to its template")]
    OtherMachine,
    /// The template has a NIC of the name on another network.
    #[error("the template has {name:?} {there}, and nothing is overwritten; choose another name")]
    OtherNetwork {
        /// The name.
        name: String,
        /// What the template has.
        there: String,
    },
    /// The template has the NIC with another binding.
    #[error("the template has {name:?} with another binding, and nothing is overwritten; edit the template")]
    OtherBinding {
        /// The name.
        name: String,
    },
    /// A request in the status cannot be read.
    #[error("a request in status.interfaceRequests cannot be carried out: {what}; take it out and ask again")]
    Request {
        /// What is wrong with it.
        what: String,
    },
    /// The template has the NIC with `state: absent`.
    #[error("the template has {name:?} with state \"absent\"; take the state away there, or choose another name")]
    AbsentInTemplate {
        /// The name.
        name: String,
    },
    /// The VMI has the NIC with `state: absent`.
    #[error(
        "{name:?} is being unplugged (state \"absent\"), and what leaves is not kept; take it out of the annotation"
    )]
    Leaving {
        /// The name.
        name: String,
    },
}

/// The VM that a VMI was made from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// Its name, in the namespace of the VMI.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// The VM that owns a VMI, if one does.
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

/// The text of a VMI's annotation, if it has one.
#[must_use]
pub fn annotation(vmi: &Value) -> Option<&str> {
    vmi.pointer("/metadata/annotations").and_then(|annotations| annotations.get(KEY)).and_then(Value::as_str)
}

/// What there is to do about a VMI and the VM that owns it, which is `None` where that does not exist.
///
/// # Errors
/// Why nothing that the VMI asks for can be mirrored.
pub fn step(vmi: &Value, vm: Option<&Value>) -> Result<Step, Why> {
    let Some(text) = annotation(vmi) else { return Ok(Step::Nothing) };
    let request: PersistRequest = text.parse().map_err(Why::Malformed)?;
    let owner = owner(vmi).ok_or(Why::NoVm)?;
    let Some(vm) = vm.filter(|vm| vm.pointer("/metadata/deletionTimestamp").is_none()) else {
        return Ok(Step::Nothing);
    };
    if uid(vm) != owner.uid {
        return Err(Why::OtherMachine);
    }
    let (guest, template) = (Template::of_guest(vmi), Template::of_vm(vm));
    Ok(match request {
        PersistRequest::All => resolve(vmi, text, &guest, &template),
        PersistRequest::Names(names) => Step::Mirror(plan(&names, &guest, &template)),
    })
}

/// The patch of a VMI that takes names out of its annotation, and the annotation away with the last one.
#[must_use]
pub fn settle(vmi: &Value, done: &[&str]) -> Vec<PatchOperation> {
    let Some(text) = annotation(vmi) else { return Vec::new() };
    let Ok(PersistRequest::Names(names)) = text.parse() else { return Vec::new() };
    let left: Vec<String> = names.iter().filter(|name| !done.contains(&name.as_str())).cloned().collect();
    if left.len() == names.len() {
        return Vec::new();
    }
    rewrite(vmi, text, &left)
}

/// `*` stands for the NICs of which the template has no name. With none of those it stays, and waits for the next one.
fn resolve(vmi: &Value, text: &str, guest: &Template, template: &Template) -> Step {
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

/// The patch that gives the annotation these names in place of this text, in this VMI and in no other of its name.
fn rewrite(vmi: &Value, text: &str, names: &[String]) -> Vec<PatchOperation> {
    let path = || pointer("metadata", &["annotations", KEY]);
    let change = if names.is_empty() { remove_op(path()) } else { add_op(path(), json!(names.join(","))) };
    vec![test_op(pointer("metadata", &["uid"]), json!(uid(vmi))), test_op(path(), json!(text)), change]
}

fn plan(names: &[String], guest: &Template, template: &Template) -> Plan {
    let mut plan = Plan::default();
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
            plan.refused.push((name.clone(), Why::Leaving { name: name.clone() }));
        } else if !template.has(name) {
            plan.missing.push(name.clone());
            nics.push(pair);
        } else if let Some(why) = difference(name, guest, template) {
            plan.refused.push((name.clone(), why));
        } else {
            plan.present.push(name.clone());
        }
    }
    if !nics.is_empty() && template.gets_default_nic() && guest.has_default_nic() {
        // With the first NIC that is written the guest would lose it at its next boot.
        nics.splice(0..0, guest.nic(DEFAULT_NIC).pair());
    }
    plan.operations = template.append(&nics);
    plan
}

/// Whether a NIC is the one that KubeVirt gives to a template without any: it is there at every boot as things are.
fn is_default(name: &str, guest: &Template, template: &Template) -> bool {
    name == DEFAULT_NIC && template.gets_default_nic() && guest.has_default_nic()
}

/// In what the template's NIC of a name is another one than the guest's. What KubeVirt or the template alone may have
/// written, such as a MAC address, makes no difference.
fn difference(name: &str, guest: &Template, template: &Template) -> Option<Why> {
    let (mine, there) = (guest.nic(name), template.nic(name));
    let other_network = |there: String| Some(Why::OtherNetwork { name: name.to_owned(), there });
    let ((interface, network), (interface_there, network_there)) = match (mine.pair(), there.pair()) {
        (Some(mine), Some(there)) => (mine, there),
        (Some(_), None) => return other_network("without its interface or its network".to_owned()),
        (None, _) => return None,
    };
    if !is_same_network(network, network_there, template.namespace) {
        return other_network(place_of(network_name(network_there)));
    }
    if there.is_absent() {
        return Some(Why::AbsentInTemplate { name: name.to_owned() });
    }
    (bindings(interface) != bindings(interface_there)).then(|| Why::OtherBinding { name: name.to_owned() })
}

fn is_same_network(one: &Value, other: &Value, namespace: &str) -> bool {
    match (network_name(one), network_name(other)) {
        (Some(one), Some(other)) => NadRef::parse(one, namespace) == NadRef::parse(other, namespace),
        _ => one == other,
    }
}

fn place_of(network_name: Option<&str>) -> String {
    match network_name {
        Some(network) => format!("on network {network:?}"),
        None => "on no network of a NetworkAttachmentDefinition".to_owned(),
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

    /// NICs as `name=network[:state]`, where `pod` is the pod's network.
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

    fn make_vmi(annotation: &str, nics: &[&str]) -> Value {
        json!({"metadata": {"name": "vm", "namespace": "demo", "uid": "vmi-1", "annotations": {KEY: annotation, "other": "1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x"},
                {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm", "uid": "vm-1"}]},
            "spec": guest(nics)})
    }

    fn apply(object: &mut Value, operations: Vec<PatchOperation>) {
        json_patch::patch(object, &json_patch::Patch(operations)).unwrap();
    }

    /// Does what a reconciler does, to the end; tells whether there was anything to do.
    fn carry_out(vmi: &mut Value, vm: &mut Value) -> bool {
        let mut acted = false;
        loop {
            match step(vmi, Some(vm)).unwrap() {
                Step::Nothing => return acted,
                Step::Resolve { operations, .. } => apply(vmi, operations),
                Step::Mirror(plan) => {
                    let settled = settle(vmi, &plan.done().collect::<Vec<_>>());
                    if settled.is_empty() {
                        return acted;
                    }
                    apply(vm, plan.operations);
                    apply(vmi, settled);
                }
            }
            acted = true;
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
    fn what_is_asked_for_and_missing_is_appended_and_the_rest_of_both_objects_stays() {
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
            let (mut vmi, mut vm) = (make_vmi(annotation, running), vm(template));
            let (kept_vmi, kept_vm) = (vmi.clone(), vm.clone());
            carry_out(&mut vmi, &mut vm);
            assert_eq!(names(&vm), then, "{annotation} {running:?} {template:?}");
            assert_eq!(vmi["metadata"]["annotations"][KEY].as_str(), left, "{annotation} {running:?} {template:?}");

            // Once more changes nothing.
            assert!(!carry_out(&mut vmi, &mut vm));
            vmi["metadata"]["annotations"] = kept_vmi["metadata"]["annotations"].clone();
            assert_eq!(vmi, kept_vmi);
            let devices = ["domain", "devices", "interfaces"];
            let entries = devices.iter().fold(&vm["spec"]["template"]["spec"], |value, key| &value[*key]);
            let old = devices.iter().fold(&kept_vm["spec"]["template"]["spec"], |value, key| &value[*key]);
            assert!(entries.as_array().unwrap().starts_with(old.as_array().unwrap()));
        }
    }

    #[test]
    fn an_entry_goes_over_whole_with_what_nicplug_does_not_know_and_what_a_preference_gave_it() {
        let (mut vmi, mut vm) = (make_vmi("a", &["d=pod", "a=net:up"]), vm(&["d=pod"]));
        vm["spec"]["preference"] = json!({"name": "fedora"});
        vmi["spec"]["domain"]["devices"]["interfaces"][1]["model"] = json!("virtio");
        carry_out(&mut vmi, &mut vm);
        let spec = &vm["spec"]["template"]["spec"];
        assert_eq!(spec["domain"]["devices"]["interfaces"][1], vmi["spec"]["domain"]["devices"]["interfaces"][1]);
        assert_eq!(spec["domain"]["devices"]["interfaces"][1]["model"], "virtio");
        assert_eq!(spec["networks"][1], vmi["spec"]["networks"][1]);
        assert_eq!(spec["domain"]["devices"]["rng"], json!({}));
    }

    #[test]
    fn a_crash_between_any_two_patches_changes_nothing_of_the_end() {
        let start = || (make_vmi("*", &["d=pod", "a=net"]), vm(&["d=pod"]));
        let (mut vmi, mut vm) = start();
        carry_out(&mut vmi, &mut vm);
        let end = (vmi, vm);

        let (mut vmi, mut vm) = start();
        let Step::Resolve { names, operations } = step(&vmi, Some(&vm)).unwrap() else { panic!() };
        assert_eq!(names, ["a"]);
        apply(&mut vmi, operations);
        let Step::Mirror(plan) = step(&vmi, Some(&vm)).unwrap() else { panic!() };
        assert_eq!(plan.missing, ["a"]);
        apply(&mut vm, plan.operations);
        // Here it crashes. A NIC that comes now was not meant by the star.
        let later = guest(&["d=pod", "a=net", "b=net"]);
        let before = std::mem::replace(&mut vmi["spec"], later);
        let Step::Mirror(plan) = step(&vmi, Some(&vm)).unwrap() else { panic!() };
        assert_eq!((plan.missing.len(), plan.present.as_slice()), (0, &["a".to_owned()][..]));
        carry_out(&mut vmi, &mut vm);
        vmi["spec"] = before;
        assert_eq!((vmi, vm), end);
    }

    #[test]
    fn a_patch_applies_to_nothing_but_what_was_read() {
        let vmi = make_vmi("a", &["d=pod", "a=net"]);
        for template in [vm(&["d=pod"]), without_lists()] {
            let Step::Mirror(plan) = step(&vmi, Some(&template)).unwrap() else { panic!() };
            let refused = |change: &dyn Fn(&mut Value)| {
                let mut changed = template.clone();
                change(&mut changed);
                json_patch::patch(&mut changed, &json_patch::Patch(plan.operations.clone())).is_err()
            };
            assert!(!refused(&|vm| vm["metadata"]["labels"] = json!({"x": "y"})));
            assert!(!refused(&|vm| vm["spec"]["running"] = json!(false)));
            assert!(refused(&|vm| vm["metadata"]["uid"] = json!("vm-2")));
            assert!(refused(&|vm| vm["spec"]["template"]["spec"] = guest(&["d=pod", "a=net"])));
            assert!(refused(&|vm| vm["spec"]["template"]["spec"]["networks"] = json!([{"name": "z"}])));
            assert!(refused(&|vm| vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = json!([{}])));
        }
        let settled = settle(&vmi, &["a"]);
        for (pointer, value) in
            [("uid", json!("vmi-2")), ("annotations", json!({KEY: "a,b"})), ("annotations", json!({}))]
        {
            let mut changed = vmi.clone();
            changed["metadata"][pointer] = value;
            assert!(json_patch::patch(&mut changed, &json_patch::Patch(settled.clone())).is_err(), "{pointer}");
        }
    }

    fn without_lists() -> Value {
        let mut vm = vm(&[]);
        vm["spec"]["template"]["spec"] = json!({"domain": {"cpu": {}, "devices": {"rng": {}}}});
        vm
    }

    #[test]
    fn the_first_nic_brings_the_one_that_kubevirt_gives() {
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
            // It runs without, as a preference may want it, or has another of that name.
            (without_lists(), &["a=net"], &["a"]),
            (without_lists(), &["default=net", "a=net"], &["a"]),
        ] {
            let mut vmi = make_vmi("a", running);
            carry_out(&mut vmi, &mut vm);
            assert_eq!(names(&vm), then, "{running:?}");
            assert_eq!(vm["spec"]["template"]["spec"]["domain"]["cpu"], json!({}));
        }
        // By itself it is there already.
        let (mut vmi, mut vm) = (make_vmi("default", &["default=pod"]), without_lists());
        carry_out(&mut vmi, &mut vm);
        assert_eq!((vm, annotation(&vmi)), (without_lists(), None));
        let star = make_vmi("*", &["default=pod"]);
        assert_eq!(step(&star, Some(&without_lists())), Ok(Step::Nothing));
    }

    #[test]
    fn what_stands_against_one_name_is_told_and_nothing_is_overwritten() {
        let name = || "a".to_owned();
        let other = |there: &str| Why::OtherNetwork { name: name(), there: there.to_owned() };
        let mut sriov = vm(&["a=net"]);
        sriov["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = json!([{"name": "a", "sriov": {}}]);
        let mut half = vm(&[]);
        half["spec"]["template"]["spec"]["networks"] = json!([{"name": "a", "pod": {}}]);
        for (running, vm, why) in [
            ("a=net", vm(&["a=other"]), other("on network \"other\"")),
            ("a=net", vm(&["a=other/net"]), other("on network \"other/net\"")),
            ("a=net", vm(&["a=pod"]), other("on no network of a NetworkAttachmentDefinition")),
            ("a=net", half, other("without its interface or its network")),
            ("a=net", sriov, Why::OtherBinding { name: name() }),
            ("a=net", vm(&["a=net:absent"]), Why::AbsentInTemplate { name: name() }),
            ("a=net:absent", vm(&[]), Why::Leaving { name: name() }),
        ] {
            let Step::Mirror(plan) = step(&make_vmi("a", &[running]), Some(&vm)).unwrap() else { panic!() };
            assert_eq!(plan, Plan { refused: vec![(name(), why)], ..Plan::default() });
        }
    }

    #[test]
    fn what_stands_against_all_of_it_is_told() {
        let standalone = |owner: Value| {
            let mut vmi = make_vmi("a", &["a=net"]);
            vmi["metadata"]["ownerReferences"] = owner;
            vmi
        };
        let stranger = json!([{"apiVersion": "example.com/v1", "kind": "VirtualMachine", "name": "vm", "uid": "vm-1"}]);
        for vmi in [standalone(Value::Null), standalone(json!([])), standalone(stranger)] {
            assert_eq!(step(&vmi, None), Err(Why::NoVm));
        }
        let mut again = vm(&[]);
        again["metadata"]["uid"] = json!("vm-2");
        assert_eq!(step(&make_vmi("a", &["a=net"]), Some(&again)), Err(Why::OtherMachine));
        let malformed = step(&make_vmi("a,,b", &["a=net"]), Some(&vm(&[]))).unwrap_err();
        assert!(malformed.to_string().starts_with("entry 2, column 3: the name is empty; write NAME"), "{malformed}");
    }

    #[test]
    fn nothing_is_done_without_an_annotation_or_for_a_vm_that_goes() {
        let mut quiet = make_vmi("a", &["a=net"]);
        quiet["metadata"]["annotations"] = json!({"other": "1"});
        let mut going = vm(&[]);
        going["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
        for (vmi, vm) in
            [(&quiet, Some(vm(&[]))), (&make_vmi("a", &["a=net"]), None), (&make_vmi("a", &["a=net"]), Some(going))]
        {
            assert_eq!(step(vmi, vm.as_ref()), Ok(Step::Nothing));
        }
        // What goes itself may have been given a NIC a moment ago.
        let mut last = make_vmi("a", &["a=net"]);
        last["metadata"]["deletionTimestamp"] = json!("2026-11-24T00:00:00Z");
        assert!(matches!(step(&last, Some(&vm(&[]))), Ok(Step::Mirror(Plan { missing, .. })) if missing == ["a"]));
    }
}
