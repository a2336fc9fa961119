//! The requests of the load, each chosen at random. All are dry runs.

use hyper::http::Method;
use json_patch::merge;
use kube::Client;
use serde_json::{Value, json};

use super::history::{ELSEWHERE, GUEST, History, MAC, NETWORK, NIC, STATIC};
use crate::support::{
    api_server::{
        crds::Kind,
        requests::{Response, try_send},
    },
    builders::{VmBuilder, bare_vm, vm},
};

/// A dry run, and the review that the API server makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    method: Method,
    path: String,
    content_type: &'static str,
    body: String,
    /// The group, version and kind.
    gvk: [&'static str; 3],
    operation: &'static str,
    namespace: String,
    name: String,
    before: Value,
    /// The new state before any mutation.
    pub(crate) after: Value,
}

impl Request {
    pub(crate) fn random(history: &History, random: &mut fastrand::Rng) -> Self {
        let namespace = history.namespace.as_str();
        let stored = || history.fixed.iter().find(|object| object["metadata"]["name"] == GUEST).unwrap();
        let created = bare_vm(&format!("new-{}", random.u16(..)));
        match random.usize(0..17) {
            // Verdicts that depend on the request alone.
            0 => Self::create(Kind::Vm, namespace, created.build()),
            1 => Self::create(Kind::Vm, namespace, created.nic("a", NETWORK).nic("a", NETWORK).build()),
            2 | 3 => Self::create(Kind::Vm, namespace, with_nics(created, random).build()),
            4 | 5 => Self::create(Kind::Vmi, namespace, with_nics(created, random).build_vmi()),
            6 => Self::create(Kind::Migration, namespace, migration()),
            7 => Self::delete_network(history),
            8..=10 => Self::update(namespace, stored(), &template(&with_nics(vm().nic(NIC, STATIC), random))),
            11 => Self::update(namespace, stored(), &template(&vm().nic("second", NETWORK).nic(NIC, STATIC))),
            12 => Self::update(namespace, stored(), &template(&vm())),
            13 => {
                let absent = json!({"name": NIC, "bridge": {}, "state": "absent"});
                let network = json!({"multus": {"networkName": STATIC}});
                Self::update(namespace, stored(), &template(&vm().nic_with(absent, network)))
            }
            14 => {
                let mut patch = template(&with_nics(vm().nic(NIC, STATIC), random));
                merge(&mut patch, &annotation("apply", "on-restart"));
                Self::update(namespace, stored(), &patch)
            }
            15 => Self::update(namespace, stored(), &annotation("add-interfaces", &additions(random))),
            _ => {
                let names = [NIC, "default", "blue,default", "unknown"];
                Self::update(namespace, stored(), &annotation("remove-interfaces", names[random.usize(0..4)]))
            }
        }
    }

    fn create(kind: Kind, namespace: &str, mut object: Value) -> Self {
        let body = object.to_string();
        object["metadata"]["namespace"] = json!(namespace);
        let kind_name = match kind {
            Kind::Vm => "VirtualMachine",
            Kind::Vmi => "VirtualMachineInstance",
            _ => "VirtualMachineInstanceMigration",
        };
        Self {
            kind,
            method: Method::POST,
            path: kind.path(namespace),
            content_type: "application/json",
            body,
            gvk: ["kubevirt.io", "v1", kind_name],
            operation: "CREATE",
            namespace: namespace.to_owned(),
            name: object["metadata"]["name"].as_str().unwrap().to_owned(),
            before: Value::Null,
            after: object,
        }
    }

    /// Updates the VM by a merge patch.
    fn update(namespace: &str, stored: &Value, patch: &Value) -> Self {
        let mut after = stored.clone();
        merge(&mut after, patch);
        Self {
            kind: Kind::Vm,
            method: Method::PATCH,
            path: format!("{}/{GUEST}", Kind::Vm.path(namespace)),
            content_type: "application/merge-patch+json",
            body: patch.to_string(),
            gvk: ["kubevirt.io", "v1", "VirtualMachine"],
            operation: "UPDATE",
            namespace: namespace.to_owned(),
            name: GUEST.to_owned(),
            before: stored.clone(),
            after,
        }
    }

    fn delete_network(history: &History) -> Self {
        let stored = history.fixed.iter().find(|object| object["metadata"]["name"] == STATIC).unwrap();
        Self {
            kind: Kind::Nad,
            method: Method::DELETE,
            path: format!("{}/{STATIC}", Kind::Nad.path(&history.namespace)),
            content_type: "application/json",
            body: String::new(),
            gvk: ["k8s.cni.cncf.io", "v1", "NetworkAttachmentDefinition"],
            operation: "DELETE",
            namespace: history.namespace.clone(),
            name: STATIC.to_owned(),
            before: stored.clone(),
            after: Value::Null,
        }
    }

    pub(crate) async fn send(&self, admin: &Client) -> Result<Response, kube::Error> {
        let Self { method, path, content_type, body, .. } = self;
        try_send(admin, method.clone(), &format!("{path}?dryRun=All"), content_type, body.as_str()).await
    }

    /// Returns the review with this new state.
    pub(crate) fn review(&self, after: &Value) -> Vec<u8> {
        let [group, version, kind] = self.gvk;
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "kind": {"group": group, "version": version, "kind": kind},
            "name": self.name, "namespace": self.namespace, "operation": self.operation,
            "userInfo": {"username": "admin", "groups": ["system:masters", "system:authenticated"]}, "dryRun": true,
            "object": after, "oldObject": self.before}})
        .to_string()
        .into_bytes()
    }

    /// Returns the name of the webhook that validates it.
    pub(crate) fn webhook(&self) -> &'static str {
        if self.kind == Kind::Nad { "validate-networks.nicplug.io" } else { "validate.nicplug.io" }
    }

    /// Whether it asks to remove NICs by the annotation.
    pub(crate) fn removes(&self) -> bool {
        !self.after["metadata"]["annotations"]["nicplug.io/remove-interfaces"].is_null()
    }

    /// Whether the mutating webhook is registered for its kind.
    pub(crate) fn is_mutated(&self) -> bool {
        matches!(self.kind, Kind::Vm | Kind::Vmi)
    }
}

/// Returns a patch of the template.
fn template(vm: &VmBuilder) -> Value {
    json!({"spec": {"template": {"spec": vm.guest()}}})
}

fn annotation(key: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {format!("nicplug.io/{key}"): value}}})
}

fn additions(random: &mut fastrand::Rng) -> String {
    let one = |name: &str, random: &mut fastrand::Rng| format!("{name}={}", network(random));
    match random.usize(0..4) {
        0 => format!("{},{}", one("one", random), one("two", random)),
        1 => one(NIC, random),
        2 => one("Not A Name", random),
        _ => one("one", random),
    }
}

fn migration() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration", "metadata": {"name": "move"},
        "spec": {"vmiName": GUEST}})
}

/// Adds some NICs, of every kind that the rules tell apart; sometimes more than a guest has PCI ports.
fn with_nics(mut vm: VmBuilder, random: &mut fastrand::Rng) -> VmBuilder {
    let count = if random.u8(0..8) == 0 { random.usize(10..40) } else { random.usize(0..4) };
    for index in 0..count {
        let name = if random.u8(0..16) == 0 { "n0".to_owned() } else { format!("n{index}") };
        let mut interface = json!({ "name": name });
        match random.usize(0..8) {
            0 => {}
            1 => interface["sriov"] = json!({}),
            2 => interface["masquerade"] = json!({}),
            _ => interface["bridge"] = json!({}),
        }
        match random.usize(0..12) {
            0 => interface["macAddress"] = json!(MAC),
            1 => interface["model"] = json!("e1000e"),
            2 => interface["model"] = json!("virtio"),
            3 => interface["state"] = json!("absent"),
            _ => {}
        }
        vm = match random.usize(0..16) {
            0 => vm.nic_with(interface, json!({"pod": {}})),
            1 => vm.interface(interface),
            _ => vm.nic_with(interface, json!({"multus": {"networkName": network(random)}})),
        };
    }
    vm
}

/// Returns the name of a network: one that exists, one that may, or one that does not.
fn network(random: &mut fastrand::Rng) -> &'static str {
    [STATIC, STATIC, NETWORK, NETWORK, NETWORK, NETWORK, "flipp", ELSEWHERE][random.usize(0..8)]
}
