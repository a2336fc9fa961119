//! VMs, VMIs, networks and reviews.

use serde_json::{Map, Value, json};

/// The name of the VM of most tests.
pub(crate) const VM: &str = "vm-fedora";
/// Where a VM has its interfaces.
pub(crate) const INTERFACES: &str = "/spec/template/spec/domain/devices/interfaces";
/// Where a VM has its networks.
pub(crate) const NETWORKS: &str = "/spec/template/spec/networks";

/// Builds a VirtualMachine, or a VirtualMachineInstance from the same parts.
#[derive(Clone)]
pub(crate) struct VmBuilder {
    name: String,
    run_strategy: &'static str,
    annotations: Map<String, Value>,
    template_metadata: Value,
    interfaces: Vec<Value>,
    networks: Vec<Value>,
    has_disk: bool,
}

/// Begins a VM named [`VM`] that always runs, with one NIC: `default`, on the pod network.
pub(crate) fn vm() -> VmBuilder {
    bare_vm(VM).run_strategy("Always").nic_with(json!({"name": "default", "masquerade": {}}), json!({"pod": {}}))
}

/// Begins a stopped VM without NICs.
pub(crate) fn bare_vm(name: &str) -> VmBuilder {
    VmBuilder {
        name: name.to_owned(),
        run_strategy: "Halted",
        annotations: Map::new(),
        template_metadata: Value::Null,
        interfaces: Vec::new(),
        networks: Vec::new(),
        has_disk: false,
    }
}

impl VmBuilder {
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub(crate) fn run_strategy(mut self, run_strategy: &'static str) -> Self {
        self.run_strategy = run_strategy;
        self
    }

    pub(crate) fn annotation(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Sets the metadata of the template.
    pub(crate) fn template_metadata(mut self, metadata: Value) -> Self {
        self.template_metadata = metadata;
        self
    }

    /// Adds a NIC that is bound by bridge to a network of Multus.
    pub(crate) fn nic(self, name: &str, network: &str) -> Self {
        self.nic_with(json!({"name": name, "bridge": {}}), json!({"multus": {"networkName": network}}))
    }

    /// Adds an interface, and its network without the name.
    pub(crate) fn nic_with(self, interface: Value, mut network: Value) -> Self {
        network["name"] = interface["name"].clone();
        self.interface(interface).network(network)
    }

    /// Adds an interface without a network.
    pub(crate) fn interface(mut self, interface: Value) -> Self {
        self.interfaces.push(interface);
        self
    }

    /// Adds a network without an interface.
    pub(crate) fn network(mut self, network: Value) -> Self {
        self.networks.push(network);
        self
    }

    /// Adds a root disk.
    pub(crate) fn disk(mut self) -> Self {
        self.has_disk = true;
        self
    }

    /// Returns the part that a VM's template and a VMI have in common.
    pub(crate) fn guest(&self) -> Value {
        let mut guest = json!({"domain": {"devices": {}, "memory": {"guest": "1Gi"}}});
        if !self.interfaces.is_empty() {
            guest["domain"]["devices"]["interfaces"] = self.interfaces.clone().into();
        }
        if !self.networks.is_empty() {
            guest["networks"] = self.networks.clone().into();
        }
        if self.has_disk {
            guest["domain"]["devices"]["disks"] = json!([{"name": "root", "disk": {"bus": "virtio"}}]);
            guest["volumes"] = json!([{"name": "root", "containerDisk": {"image": "example.com/disk"}}]);
        }
        guest
    }

    /// Returns the VirtualMachine.
    pub(crate) fn build(&self) -> Value {
        let mut template = json!({"spec": self.guest()});
        if !self.template_metadata.is_null() {
            template["metadata"] = self.template_metadata.clone();
        }
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": self.metadata(),
            "spec": {"runStrategy": self.run_strategy, "template": template}})
    }

    /// Returns the VirtualMachineInstance.
    pub(crate) fn build_vmi(&self) -> Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": self.metadata(),
            "spec": self.guest()})
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({"name": self.name});
        if !self.annotations.is_empty() {
            metadata["annotations"] = self.annotations.clone().into();
        }
        metadata
    }
}

/// Returns a NetworkAttachmentDefinition of the bridge plugin.
pub(crate) fn nad(name: &str) -> Value {
    let config = json!({"cniVersion": "0.3.1", "type": "bridge", "name": name}).to_string();
    json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": {"name": name},
        "spec": {"config": config}})
}

/// Returns the names in a list of an object.
pub(crate) fn names(object: &Value, list: &str) -> Vec<String> {
    let entries = object.pointer(list).and_then(Value::as_array).into_iter().flatten();
    entries.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

/// Returns the annotations of an object. The API server stores no empty map of them.
pub(crate) fn annotations_of(object: &Value) -> Map<String, Value> {
    object["metadata"]["annotations"].as_object().cloned().unwrap_or_default()
}

// === Reviews ===

/// A kind that contains a guest: its group, its name, and the path of the guest.
pub(crate) type GuestKind = (&'static str, &'static str, &'static str);

/// The kinds that contain a guest.
pub(crate) const GUEST_KINDS: [GuestKind; 4] = [
    ("kubevirt.io", "VirtualMachine", "spec.template.spec"),
    ("kubevirt.io", "VirtualMachineInstance", "spec"),
    ("kubevirt.io", "VirtualMachineInstanceReplicaSet", "spec.template.spec"),
    ("pool.kubevirt.io", "VirtualMachinePool", "spec.virtualMachineTemplate.spec.template.spec"),
];

/// Returns the object [`VM`] of a kind, with this guest.
pub(crate) fn object((group, kind, path): GuestKind, guest: &Value) -> Value {
    let spec = path.split('.').rev().fold(guest.clone(), |inner, key| json!({ key: inner }));
    let metadata = json!({"name": VM, "namespace": "demo"});
    let mut object = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": metadata});
    object.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

/// Returns the review of an update, or of a creation if `old` is null.
pub(crate) fn review((group, kind, _): GuestKind, old: &Value, new: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": group, "version": "v1", "kind": kind}, "name": VM, "namespace": "demo",
        "operation": if old.is_null() { "CREATE" } else { "UPDATE" }, "userInfo": {"username": "alice"},
        "object": new, "oldObject": old}})
}
