//! The NICs of a guest as JSON, in a VM's template or in a VMI, and the patches of a template.

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::uid;
use crate::{
    annotations::interfaces::DEFAULT_NIC,
    api::json_patch::{add_op, pointer, test_op},
};

/// The path of the guest in a VM.
const GUEST: &str = "spec.template.spec";

/// The spec of a guest, in a VM's template or in a VMI.
pub(crate) struct GuestSpec<'v> {
    /// The VM or VMI.
    object: &'v Value,
    guest: &'v Value,
    /// The namespace of the object.
    pub(crate) namespace: &'v str,
}

/// The interface and the network with a name, as far as they exist. Of two with the same name the last one counts, as
/// in KubeVirt.
#[derive(Clone, Copy)]
pub(crate) struct NicEntries<'v> {
    interface: Option<&'v Value>,
    network: Option<&'v Value>,
}

impl<'v> NicEntries<'v> {
    /// Returns both entries, if both exist.
    pub(crate) fn pair(&self) -> Option<(&'v Value, &'v Value)> {
        self.interface.zip(self.network)
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.interface.is_some_and(|interface| super::text(interface, "state") == "absent")
    }
}

impl<'v> GuestSpec<'v> {
    /// Returns the guest of a VM's template.
    pub(crate) fn of_vm(vm: &'v Value) -> Self {
        Self::at(vm, "/spec/template/spec")
    }

    /// Returns the guest of a VMI.
    pub(crate) fn of_vmi(vmi: &'v Value) -> Self {
        Self::at(vmi, "/spec")
    }

    fn at(object: &'v Value, pointer: &str) -> Self {
        let guest = object.pointer(pointer).unwrap_or(&Value::Null);
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
        Self { object, guest, namespace }
    }

    /// Returns the names of the interfaces, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'v str> {
        self.interfaces().iter().map(|interface| super::text(interface, "name"))
    }

    /// Returns the entries with a name.
    pub(crate) fn nic(&self, name: &str) -> NicEntries<'v> {
        let find = |list: &'v [Value]| list.iter().rfind(|entry| super::text(entry, "name") == name);
        NicEntries { interface: find(self.interfaces()), network: find(self.networks()) }
    }

    /// Returns whether one of the two lists has the name.
    pub(crate) fn has(&self, name: &str) -> bool {
        let nic = self.nic(name);
        nic.interface.is_some() || nic.network.is_some()
    }

    /// Returns whether KubeVirt gives the guest a NIC on the pod network at its next boot, because the spec has none.
    pub(crate) fn gets_default_nic(&self) -> bool {
        let wants_pod_network =
            self.guest.pointer("/domain/devices/autoattachPodInterface") != Some(&Value::Bool(false));
        wants_pod_network && self.interfaces().is_empty() && self.networks().is_empty()
    }

    /// Returns whether the guest has the default NIC, which KubeVirt gives to a guest without any.
    pub(crate) fn has_default_nic(&self) -> bool {
        self.nic(DEFAULT_NIC).pair().is_some_and(|(_, network)| network.get("pod").is_some())
    }

    /// Returns the patch of the VM that appends these NICs. It fails for another VM of the same name, and if one of the
    /// two lists has changed.
    pub(crate) fn append(&self, nics: &[(&Value, &Value)]) -> Vec<PatchOperation> {
        if nics.is_empty() {
            return Vec::new();
        }
        let mut operations = self.unchanged_tests();
        let interfaces = nics.iter().map(|(interface, _)| (*interface).clone()).collect();
        operations.extend(self.entries(&["domain", "devices", "interfaces"], interfaces));
        operations.extend(self.entries(&["networks"], nics.iter().map(|(_, network)| (*network).clone()).collect()));
        operations
    }

    /// Returns the patch of the VM that replaces both lists, under the same tests.
    pub(crate) fn rewrite(&self, interfaces: Vec<Value>, networks: Vec<Value>) -> Vec<PatchOperation> {
        let mut operations = self.unchanged_tests();
        operations.push(self.create(&["domain", "devices", "interfaces"], Value::Array(interfaces)));
        operations.push(self.create(&["networks"], Value::Array(networks)));
        operations
    }

    /// Returns the tests that this is the VM that was read, and that neither list has changed.
    fn unchanged_tests(&self) -> Vec<PatchOperation> {
        vec![
            test_op(pointer("metadata", &["uid"]), json!(uid(self.object))),
            self.unchanged(&["domain", "devices", "interfaces"]),
            self.unchanged(&["networks"]),
        ]
    }

    /// Returns the test that a field has not changed. If the field is missing, the patch tests its parent instead.
    fn unchanged(&self, path: &[&str]) -> PatchOperation {
        let (mut value, mut depth) = (self.guest, 0);
        for (index, key) in path.iter().enumerate() {
            let Some(below) = value.get(key) else { break };
            (value, depth) = (below, index + 1);
        }
        test_op(pointer(GUEST, path.get(..depth).unwrap_or_default()), value.clone())
    }

    /// Returns the operations that append entries to a list. An empty list, or its parent, may be missing or null.
    fn entries(&self, path: &[&str], entries: Vec<Value>) -> Vec<PatchOperation> {
        if list(self.guest, path).is_empty() {
            return vec![self.create(path, Value::Array(entries))];
        }
        let end = || pointer(GUEST, &[path, &["-"]].concat());
        entries.into_iter().map(|entry| add_op(end(), entry)).collect()
    }

    /// Returns the operation that adds a value together with its missing parents.
    fn create(&self, path: &[&str], value: Value) -> PatchOperation {
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
