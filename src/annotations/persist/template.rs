//! The NICs of a guest as JSON: those of a VM's template or of a VMI, and the patch that appends to the former.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::uid;
use crate::{
    annotations::interfaces::DEFAULT_NIC,
    api::json_patch::{add_op, pointer, test_op},
};

/// Where a VM holds its guest.
const GUEST: &str = "spec.template.spec";

/// A guest, and the object that it is written in.
pub(crate) struct Template<'v> {
    object: &'v Value,
    guest: &'v Value,
    /// Of the object.
    pub(crate) namespace: &'v str,
}

/// An interface and the network of its name, where they are written; of two with one name the last one counts, as in
/// KubeVirt.
#[derive(Clone, Copy)]
pub(crate) struct Nic<'v> {
    interface: Option<&'v Value>,
    network: Option<&'v Value>,
}

impl<'v> Nic<'v> {
    /// Both entries, if both are written.
    pub(crate) fn pair(&self) -> Option<(&'v Value, &'v Value)> {
        self.interface.zip(self.network)
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.interface.is_some_and(|interface| super::text(interface, "state") == "absent")
    }
}

impl<'v> Template<'v> {
    /// The guest of a VM.
    pub(crate) fn of_vm(vm: &'v Value) -> Self {
        Self::at(vm, "/spec/template/spec")
    }

    /// The guest of a VMI.
    pub(crate) fn of_guest(vmi: &'v Value) -> Self {
        Self::at(vmi, "/spec")
    }

    fn at(object: &'v Value, pointer: &str) -> Self {
        let guest = object.pointer(pointer).unwrap_or(&Value::Null);
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
        Self { object, guest, namespace }
    }

    /// The names of the interfaces, in their order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'v str> {
        self.interfaces().iter().map(|interface| super::text(interface, "name"))
    }

    /// The NIC of a name, as far as it is there.
    pub(crate) fn nic(&self, name: &str) -> Nic<'v> {
        let find = |list: &'v [Value]| list.iter().rfind(|entry| super::text(entry, "name") == name);
        Nic { interface: find(self.interfaces()), network: find(self.networks()) }
    }

    /// Whether any of the two lists has the name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let nic = self.nic(name);
        nic.interface.is_some() || nic.network.is_some()
    }

    /// Whether KubeVirt gives the guest a NIC on the pod network at its next boot, because none is written.
    pub(crate) fn gets_default_nic(&self) -> bool {
        let wants_pod_network =
            self.guest.pointer("/domain/devices/autoattachPodInterface") != Some(&Value::Bool(false));
        wants_pod_network && self.interfaces().is_empty() && self.networks().is_empty()
    }

    /// Whether the guest has the NIC that KubeVirt gives to one without any.
    pub(crate) fn has_default_nic(&self) -> bool {
        self.nic(DEFAULT_NIC).pair().is_some_and(|(_, network)| network.get("pod").is_some())
    }

    /// The patch of the VM that appends these NICs: it applies to this very VM, and only while both lists are as they
    /// were read.
    pub(crate) fn append(&self, nics: &[(&Value, &Value)]) -> Vec<PatchOperation> {
        if nics.is_empty() {
            return Vec::new();
        }
        let mut operations = self.as_read();
        let interfaces = nics.iter().map(|(interface, _)| (*interface).clone()).collect();
        operations.extend(self.entries(&["domain", "devices", "interfaces"], interfaces));
        operations.extend(self.entries(&["networks"], nics.iter().map(|(_, network)| (*network).clone()).collect()));
        operations
    }

    /// The patch of the VM that gives it these lists in place of its own, under the same tests.
    pub(crate) fn rewrite(&self, interfaces: Vec<Value>, networks: Vec<Value>) -> Vec<PatchOperation> {
        let mut operations = self.as_read();
        operations.push(self.make(&["domain", "devices", "interfaces"], Value::Array(interfaces)));
        operations.push(self.make(&["networks"], Value::Array(networks)));
        operations
    }

    /// The tests that this is the very VM that was read, and that both lists are as they were.
    fn as_read(&self) -> Vec<PatchOperation> {
        vec![
            test_op(pointer("metadata", &["uid"]), json!(uid(self.object))),
            self.unchanged(&["domain", "devices", "interfaces"]),
            self.unchanged(&["networks"]),
        ]
    }

    /// The test that a field is what it was read as. Of one that is missing nothing can be tested but what it is missing
    /// from.
    fn unchanged(&self, path: &[&str]) -> PatchOperation {
        let (mut value, mut depth) = (self.guest, 0);
        for (place, key) in path.iter().enumerate() {
            let Some(below) = value.get(key) else { break };
            (value, depth) = (below, place + 1);
        }
        test_op(pointer(GUEST, path.get(..depth).unwrap_or_default()), value.clone())
    }

    /// Appends entries to a list. An empty one may be missing or null as well, and so may what it stands in.
    fn entries(&self, path: &[&str], entries: Vec<Value>) -> Vec<PatchOperation> {
        if list(self.guest, path).is_empty() {
            return vec![self.make(path, Value::Array(entries))];
        }
        let end = || pointer(GUEST, &[path, &["-"]].concat());
        entries.into_iter().map(|entry| add_op(end(), entry)).collect()
    }

    /// Writes a value with the objects around it that are not there.
    fn make(&self, path: &[&str], value: Value) -> PatchOperation {
        let (mut at, mut depth) = (self.guest, 0);
        for key in path {
            let Some(below) = at.get(key).filter(|below| below.is_object()) else { break };
            (at, depth) = (below, depth + 1);
        }
        let depth = (depth + 1).min(path.len());
        let wrapped = path.iter().skip(depth).rev().fold(value, |value, key| json!({*key: value}));
        add_op(pointer(GUEST, path.get(..depth).unwrap_or_default()), wrapped)
    }

    pub(crate) fn interfaces(&self) -> &'v [Value] {
        list(self.guest, &["domain", "devices", "interfaces"])
    }

    pub(crate) fn networks(&self) -> &'v [Value] {
        list(self.guest, &["networks"])
    }
}

fn list<'v>(guest: &'v Value, path: &[&str]) -> &'v [Value] {
    let value = path.iter().try_fold(guest, |value, key| value.get(key));
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
