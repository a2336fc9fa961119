//! The change of a VM that plugs or unplugs one NIC, computed and reviewed before a client sends it to the API server.
//!
//! The change is the one that a [request by annotation](crate::annotations::interfaces) would cause, and the result is
//! the one that the webhook would return: both come from the same [`Evaluator`], which evaluates requests that are
//! built here in memory.

use std::{fmt::Display, sync::Arc};

use json_patch::{Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use crate::{
    admission::{self, Endpoint, Evaluation, Evaluator, ParsedBody, verdict},
    annotations::interfaces::{self, RejectedRequest, Removals, RequestError, RequestKind, RequestSyntaxError},
    api::{
        json_patch::pointer,
        mac::Mac,
        review::{self, ParsedRequest},
    },
    change::{Change, Nic},
    facts::{Fact, FactSource, Vmi, nad::closest_name},
    hotplug::{place::runs_by_status, progress::ClusterInfo},
    settings::Settings,
};

/// The path of the guest in a VM.
const TEMPLATE: &str = "spec.template.spec";

/// The change to make.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EditRequest {
    /// Add this NIC.
    Add(NewNic),
    /// Remove the NIC with this name.
    Remove(String),
}

/// A NIC to add to a VM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NewNic {
    /// The name of its interface and network.
    pub name: String,
    /// `multus.networkName`: `nad` or `namespace/nad`.
    pub network_name: String,
    /// `macAddress`; with `None` KubeVirt chooses one.
    pub mac: Option<Mac>,
    /// Whether the binding is SR-IOV instead of bridge.
    pub is_sriov: bool,
}

impl EditRequest {
    /// Returns the name of the NIC.
    #[must_use]
    pub fn nic(&self) -> &str {
        match self {
            Self::Add(nic) => &nic.name,
            Self::Remove(name) => name,
        }
    }

    fn kind(&self) -> RequestKind {
        match self {
            Self::Add(_) => RequestKind::Add,
            Self::Remove(_) => RequestKind::Remove,
        }
    }

    /// Returns the text of the annotation that requests the change.
    fn annotation_text(&self) -> String {
        match self {
            Self::Add(NewNic { name, network_name, .. }) => {
                json!([{"name": name, "networkAttachmentDefinitionName": network_name}]).to_string()
            }
            Self::Remove(name) => name.clone(),
        }
    }
}

/// A change of a VM, with its review.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The JSON patch; empty if the VM needs no change. It begins with tests of the lists of NICs, so that it fails if
    /// another client has changed them.
    pub patch: Patch,
    /// The VM after the change.
    pub object: Value,
    /// The result of the webhook for the change.
    pub verdict: ReviewResult,
    /// The facts of the cluster that decide how the NIC is attached.
    pub cluster_info: ClusterInfo,
    /// Known if the VM runs, absent if it does not.
    pub running: Fact<()>,
    /// Whether the NIC has the SR-IOV binding.
    pub is_sriov: bool,
}

impl Edit {
    /// Returns whether the VM needs a change.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.patch.is_empty()
    }
}

/// The result of the webhook for a change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReviewResult {
    /// Why the change is denied, each as `FIELD: MESSAGE`; empty if it is allowed.
    pub causes: Vec<String>,
    /// The warnings for the user.
    pub warnings: Vec<String>,
}

impl From<verdict::Verdict> for ReviewResult {
    fn from(verdict: verdict::Verdict) -> Self {
        let causes = verdict.causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message));
        Self { causes: causes.collect(), warnings: verdict.warnings }
    }
}

/// Why the change cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The name of the NIC, or of its network, is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The VM has another NIC with the name.
    #[error("{0}")]
    NameInUse(String),
    /// The VM has no NIC with the name, and neither has its running guest.
    #[error("{0}")]
    NotFound(String),
    /// The VM does not conform to the API of KubeVirt.
    #[error("the VM cannot be read: {0}")]
    Unreadable(String),
}

/// Computes the change of a VM, as it was read from the API server, and reviews it.
///
/// # Errors
/// See [`EditError`]. A change that the rules deny is not an error: its verdict contains the denial.
pub fn edit(
    vm: &Value,
    request: &EditRequest,
    facts: &Arc<dyn FactSource>,
    settings: &Settings,
    dry_run: bool,
) -> Result<Edit, EditError> {
    let evaluator = Evaluator::new(facts.as_ref(), settings);
    check_name(request)?;
    let (before, requested) = with_annotation(vm, request);
    let body = review_of(&before, &requested, dry_run);
    let body = admission::parse(&body);
    let (cluster_info, running, is_sriov) = with_change(&body, |change| {
        check_request(change, request)?;
        let facts = facts.facts_for(change);
        check_present(change, request, facts.live())?;
        let cluster_info = ClusterInfo::of(&facts, settings);
        let running = match facts.live() {
            _ if change.after.stops() => Fact::Absent,
            Fact::Known(_) => Fact::Known(()),
            Fact::Absent => Fact::Absent,
            Fact::Unknown => runs_by_status(vm),
        };
        Ok((cluster_info, running, is_sriov(change, request)))
    })?;
    let mut operations = operations_of(evaluator.evaluate(Endpoint::Mutate, &body));
    if let EditRequest::Add(nic) = request {
        for operation in &mut operations {
            if let PatchOperation::Add(add) = operation {
                apply_options(&mut add.value, nic);
            }
        }
    }
    let mut object = vm.clone();
    let mut verdict = ReviewResult::default();
    if !operations.is_empty() {
        operations.splice(0..0, tests_of(vm));
        json_patch::patch(&mut object, &operations).map_err(unreadable)?;
        let body = review_of(vm, &object, dry_run);
        verdict = evaluator.evaluate(Endpoint::Validate, &admission::parse(&body)).into_verdict().into();
    }
    Ok(Edit { patch: Patch(operations), object, verdict, cluster_info, running, is_sriov })
}

/// Returns whether the tests of a patch still succeed for a VM that may have changed since the patch was computed.
#[must_use]
pub fn still_fits(patch: &Patch, vm: &Value) -> bool {
    let tests = patch.iter().filter(|operation| matches!(operation, PatchOperation::Test(_)));
    let tests: Vec<PatchOperation> = tests.cloned().collect();
    json_patch::patch(&mut vm.clone(), &tests).is_ok()
}

/// Checks that a removal names one NIC; the annotation could name several.
fn check_name(request: &EditRequest) -> Result<(), EditError> {
    let EditRequest::Remove(name) = request else { return Ok(()) };
    let names: Result<Removals, RequestSyntaxError> = name.parse();
    match names {
        Ok(names) if names.iter().eq([name.as_str()]) => Ok(()),
        _ => {
            Err(EditError::Malformed(format!("{name:?} is not a valid NIC name: use 1 to 63 letters, digits, - and _")))
        }
    }
}

/// Returns the VM without any request, and with the annotation for this one. A stored annotation is removed, because a
/// request counts only in the update that sets it.
fn with_annotation(vm: &Value, request: &EditRequest) -> (Value, Value) {
    let mut before = vm.clone();
    if let Some(annotations) = before.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        for kind in RequestKind::ALL {
            annotations.remove(kind.key());
        }
    }
    let mut requested = before.clone();
    if let Some(metadata) = requested.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if annotations.is_null() {
            *annotations = json!({});
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(request.kind().key().to_owned(), request.annotation_text().into());
        }
    }
    (before, requested)
}

/// Returns the body of a review of an update. The stored object is indented: a review whose two objects have the same
/// text is taken for a heartbeat, and its objects are not read.
pub(super) fn review_of(before: &Value, after: &Value, dry_run: bool) -> Vec<u8> {
    let text = |pointer: &str| after.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    // A fork of KubeVirt serves VMs in a group of its own.
    let group = text("/apiVersion").split_once('/').map_or("kubevirt.io", |(group, _)| group);
    let kind = json!({"group": group, "version": "v1", "kind": "VirtualMachine"});
    let resource = json!({"group": group, "version": "v1", "resource": "virtualmachines"});
    let review = json!({"apiVersion": review::API_VERSION, "kind": "AdmissionReview", "request": {
        "uid": "made-by-a-command", "kind": kind, "resource": resource, "operation": "UPDATE", "dryRun": dry_run,
        "namespace": text("/metadata/namespace"), "name": text("/metadata/name"), "userInfo": {}, "object": after}});
    let head = review.to_string();
    let head = head.strip_suffix("}}").unwrap_or(&head);
    format!("{head},\"oldObject\":{before:#}}}}}").into_bytes()
}

fn with_change<T>(body: &ParsedBody, use_change: impl FnOnce(&Change) -> Result<T, EditError>) -> Result<T, EditError> {
    match body {
        Ok(ParsedRequest::Valid(request)) => match Change::of(request) {
            Some(change) => use_change(&change),
            None => Err(EditError::Unreadable("it is not a VirtualMachine".to_owned())),
        },
        Ok(ParsedRequest::Invalid(_, fault)) => Err(EditError::Unreadable(fault.message.clone())),
        Err(error) => Err(unreadable(error)),
    }
}

/// Checks that the request can be applied; the rules check the result later.
fn check_request(change: &Change, request: &EditRequest) -> Result<(), EditError> {
    if let Err(rejected) = interfaces::requested_changes(change) {
        let to_error = |rejected: RejectedRequest| match rejected.error {
            RequestError::Malformed(error) => EditError::Malformed(error.what().to_owned()),
            RequestError::NoDomain => EditError::Unreadable(rejected.error.to_string()),
            error => EditError::NameInUse(error.to_string()),
        };
        return Err(rejected.into_iter().next().map_or_else(|| unreadable("the request was rejected"), to_error));
    }
    let nics = change.after.nics();
    match request {
        EditRequest::Add(nic) => nics.get(nic.name.as_str()).map_or(Ok(()), |existing| check_same(existing, nic)),
        EditRequest::Remove(_) => Ok(()),
    }
}

/// Checks that the template has the NIC to remove, or that the guest still has it.
fn check_present(change: &Change, request: &EditRequest, guest: Fact<&Vmi>) -> Result<(), EditError> {
    let EditRequest::Remove(name) = request else { return Ok(()) };
    let nics = change.after.nics();
    if nics.get(name).is_some() || guest.known().is_some_and(|vmi| vmi.has_nic(name)) {
        return Ok(());
    }
    let names: Vec<&str> = nics.iter().map(|nic| nic.name).collect();
    let hint = match closest_name(name, names.iter().copied()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None if names.is_empty() => "; it has no NIC".to_owned(),
        None => format!("; it has: {}", names.join(", ")),
    };
    Err(EditError::NotFound(format!("VirtualMachine {:?} has no NIC {name:?}{hint}", change.subject.name)))
}

/// Checks that an existing NIC has the binding and the MAC address of the NIC to add.
fn check_same(existing: &Nic, nic: &NewNic) -> Result<(), EditError> {
    let Some(interface) = existing.interface.map(|entry| entry.value) else { return Ok(()) };
    let name = &nic.name;
    if nic.is_sriov && interface.bindings.sriov.is_none() {
        return Err(EditError::NameInUse(format!("{name:?} already exists, without the sriov binding")));
    }
    let Some(wanted) = nic.mac else { return Ok(()) };
    match interface.mac_address.as_deref() {
        Some(mac) if mac.parse() == Ok(wanted) => Ok(()),
        Some(mac) => Err(EditError::NameInUse(format!("{name:?} already exists, with MAC address {mac:?}"))),
        None => Err(EditError::NameInUse(format!("{name:?} already exists, with a MAC address that KubeVirt chose"))),
    }
}

fn is_sriov(change: &Change, request: &EditRequest) -> bool {
    let nics = change.after.nics();
    let interface = nics.get(request.nic()).and_then(|nic| nic.interface);
    let is_wanted = matches!(request, EditRequest::Add(nic) if nic.is_sriov);
    is_wanted || interface.is_some_and(|entry| entry.value.bindings.sriov.is_some())
}

/// Adds the options that an annotation cannot request to the new interface.
fn apply_options(value: &mut Value, nic: &NewNic) {
    match value {
        Value::Array(entries) => entries.iter_mut().for_each(|entry| apply_options(entry, nic)),
        Value::Object(fields) if fields.contains_key("bridge") => {
            if fields.get("name").and_then(Value::as_str) != Some(nic.name.as_str()) {
                return;
            }
            if nic.is_sriov {
                fields.remove("bridge");
                fields.insert("sriov".to_owned(), json!({}));
            }
            if let Some(mac) = nic.mac {
                fields.insert("macAddress".to_owned(), mac.to_string().into());
            }
        }
        Value::Object(fields) => {
            if let Some(interfaces) = fields.get_mut("interfaces") {
                apply_options(interfaces, nic);
            }
        }
        _ => {}
    }
}

/// Returns the operations of a patch, without those on the annotation, which is not stored.
fn operations_of(evaluation: Evaluation) -> Vec<PatchOperation> {
    let annotations = pointer("metadata", &["annotations"]);
    let mut operations = evaluation.into_patch();
    operations.retain(|operation| !operation.path().as_str().starts_with(annotations.as_str()));
    operations
}

/// Returns tests of both lists. If one is missing, which a JSON patch cannot test, it tests the resourceVersion
/// instead.
fn tests_of(vm: &Value) -> Vec<PatchOperation> {
    let tests = lists().map(|path| {
        let value = vm.pointer(path.as_str()).filter(|value| !value.is_null())?.clone();
        Some(PatchOperation::Test(TestOperation { path, value }))
    });
    let tests: Option<Vec<PatchOperation>> = tests.collect();
    tests.unwrap_or_else(|| {
        let path = pointer("metadata", &["resourceVersion"]);
        let value = vm.pointer(path.as_str()).cloned();
        value.map(|value| PatchOperation::Test(TestOperation { path, value })).into_iter().collect()
    })
}

fn lists() -> impl Iterator<Item = PointerBuf> {
    [&["domain", "devices", "interfaces"][..], &["networks"]].into_iter().map(|below| pointer(TEMPLATE, below))
}

fn unreadable(error: impl Display) -> EditError {
    EditError::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::store::Store, facts::NoFacts};

    /// Returns a stored VM with its default NIC and `a`.
    fn vm() -> Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "vm", "namespace": "demo", "resourceVersion": "7", "uid": "u"},
            "spec": {"template": {"spec": {
                "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}, {"name": "a", "bridge": {}}]}},
                "networks": [{"name": "default", "pod": {}}, {"name": "a", "multus": {"networkName": "net"}}]}}}})
    }

    /// Returns a cluster with the network, where the VM runs or not.
    fn cluster(is_running: bool) -> Arc<dyn FactSource> {
        cluster_with(is_running, &[])
    }

    fn cluster_with(is_running: bool, others: &[Value]) -> Arc<dyn FactSource> {
        let mut store = Store::complete();
        let mut objects = vec![
            json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
                "status": {"observedKubeVirtVersion": "v1.9.0"}}),
            json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                "metadata": {"name": "net", "namespace": "demo"}}),
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "dnc", "namespace": "kube-system"},
                "spec": {"template": {"spec": {"containers": [{"command": ["/dynamic-networks-controller"]}]}}},
                "status": {"numberReady": 1, "desiredNumberScheduled": 1}}),
        ];
        if is_running {
            objects.push(json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                "metadata": {"name": "vm", "namespace": "demo"}, "spec": vm()["spec"]["template"]["spec"],
                "status": {"phase": "Running"}}));
        }
        for object in objects.iter().chain(others) {
            store.insert(object).unwrap();
        }
        Arc::new(store)
    }

    fn nic(name: &str) -> NewNic {
        NewNic { name: name.to_owned(), network_name: "net".to_owned(), ..NewNic::default() }
    }

    fn edit_in(vm: &Value, request: &EditRequest, facts: &Arc<dyn FactSource>) -> Result<Edit, EditError> {
        edit(vm, request, facts, &Settings::default(), false)
    }

    fn paths(edit: &Edit) -> Vec<String> {
        let line = |operation: &PatchOperation| {
            let kind = serde_json::to_value(operation).unwrap()["op"].as_str().unwrap().to_owned();
            format!("{kind} {}", operation.path().as_str().replace("/spec/template/spec", ""))
        };
        edit.patch.iter().map(line).collect()
    }

    const TESTS: [&str; 2] = ["test /domain/devices/interfaces", "test /networks"];

    #[test]
    fn a_nic_is_appended_after_a_test_of_both_lists() {
        let edit = edit_in(&vm(), &EditRequest::Add(nic("b")), &cluster(true)).unwrap();
        let adds = ["add /domain/devices/interfaces/-", "add /networks/-"];
        assert_eq!(paths(&edit), [TESTS, adds].concat());
        assert_eq!(edit.object["spec"]["template"]["spec"]["networks"][2]["name"], "b");
        assert_eq!(edit.object["metadata"], vm()["metadata"]);
        assert!(edit.verdict.causes.is_empty(), "{:?}", edit.verdict);
        assert_eq!(edit.running, Fact::Known(()));
        assert_eq!(edit.cluster_info.in_place.known(), Some(&crate::facts::attachment::InPlace::Yes));
    }

    #[test]
    fn a_mac_address_and_sriov_are_written_too() {
        let request = NewNic { mac: Some("02-00-00-00-00-AA".parse().unwrap()), is_sriov: true, ..nic("b") };
        for vm in [vm(), without_lists()] {
            let edit = edit_in(&vm, &EditRequest::Add(request.clone()), &cluster(false)).unwrap();
            let interfaces = &edit.object["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"];
            let interface = interfaces.as_array().unwrap().last().unwrap();
            assert_eq!(*interface, json!({"name": "b", "sriov": {}, "macAddress": "02:00:00:00:00:aa"}));
            assert!(edit.is_sriov);
        }
    }

    #[test]
    fn under_a_preferred_model_the_nic_of_a_running_vm_names_its_own() {
        let mut vm = vm();
        vm["spec"]["preference"] = json!({"name": "pe", "kind": "VirtualMachinePreference"});
        let preference = json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachinePreference",
            "metadata": {"name": "pe", "namespace": "demo"}, "spec": {"devices": {"preferredInterfaceModel": "e1000e"}}});
        for (is_running, is_sriov, model) in
            [(true, false, json!("virtio")), (true, true, json!("virtio")), (false, false, Value::Null)]
        {
            let request = EditRequest::Add(NewNic { is_sriov, ..nic("b") });
            let edit = edit_in(&vm, &request, &cluster_with(is_running, std::slice::from_ref(&preference))).unwrap();
            let interfaces = &edit.object["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"];
            assert_eq!(interfaces[2]["model"], model);
            assert!(
                !edit.verdict.warnings.iter().any(|warning| warning.contains("has no model")),
                "{:?}",
                edit.verdict
            );
        }
    }

    fn without_lists() -> Value {
        let mut vm = vm();
        vm["spec"]["template"]["spec"] = json!({"domain": {"devices": {}}});
        vm
    }

    #[test]
    fn if_a_list_is_missing_the_resource_version_is_tested() {
        let edit = edit_in(&without_lists(), &EditRequest::Add(nic("b")), &cluster(false)).unwrap();
        assert_eq!(paths(&edit), ["test /metadata/resourceVersion", "add /domain/devices/interfaces", "add /networks"]);
        let interfaces = &edit.object["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"];
        assert_eq!(*interfaces, json!([{"name": "default", "bridge": {}}, {"name": "b", "bridge": {}}]));
    }

    #[test]
    fn a_vm_that_needs_no_change_stays_as_it_is() {
        let mut going = vm();
        going["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][1]["state"] = json!("absent");
        for (vm, request) in [(vm(), EditRequest::Add(nic("a"))), (going, EditRequest::Remove("a".to_owned()))] {
            let edit = edit_in(&vm, &request, &cluster(true)).unwrap();
            assert!(!edit.is_needed(), "{:?}", paths(&edit));
            assert_eq!(edit.object, vm);
        }
    }

    #[test]
    fn a_stale_annotation_does_not_matter() {
        let mut vm = vm();
        vm["metadata"]["annotations"] = json!({"nicplug.io/add-interfaces": "b=net", "mine": "1"});
        let edit = edit_in(&vm, &EditRequest::Add(nic("b")), &cluster(true)).unwrap();
        assert_eq!(paths(&edit).len(), 4);
        assert_eq!(edit.object["metadata"], vm["metadata"]);
        vm["metadata"]["annotations"] = Value::Null;
        assert!(edit_in(&vm, &EditRequest::Add(nic("b")), &cluster(true)).unwrap().is_needed());
    }

    #[test]
    fn a_nic_of_a_running_vm_is_removed_by_state_and_one_of_a_stopped_vm_from_the_lists() {
        let request = EditRequest::Remove("a".to_owned());
        let live = edit_in(&vm(), &request, &cluster(true)).unwrap();
        assert_eq!(paths(&live), [TESTS.to_vec(), vec!["add /domain/devices/interfaces/1/state"]].concat());
        let stopped = edit_in(&vm(), &request, &cluster(false)).unwrap();
        assert_eq!(stopped.running, Fact::Absent);
        let removes = ["remove /domain/devices/interfaces/1", "remove /networks/1"];
        assert_eq!(paths(&stopped), [TESTS, removes].concat());
        let again = edit_in(&live.object, &request, &cluster(true)).unwrap();
        assert!(!again.is_needed());
        let added_again = edit_in(&live.object, &EditRequest::Add(nic("a")), &cluster(true)).unwrap();
        assert_eq!(added_again.object, vm());
    }

    #[test]
    fn another_nic_with_the_name_is_an_error() {
        let mac = |text: &str| Some(text.parse().unwrap());
        let mut vm = vm();
        vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][1]["macAddress"] = json!("02:00:00:00:00:AA");
        for (request, part) in [
            (NewNic { network_name: "other".to_owned(), ..nic("a") }, "on network \"net\""),
            (NewNic { mac: mac("02:00:00:00:00:bb"), ..nic("a") }, "with MAC address \"02:00:00:00:00:AA\""),
            (NewNic { is_sriov: true, ..nic("a") }, "without the sriov binding"),
            (nic("default"), "without a NetworkAttachmentDefinition"),
        ] {
            let error = edit_in(&vm, &EditRequest::Add(request), &cluster(true)).unwrap_err();
            assert!(matches!(&error, EditError::NameInUse(message) if message.contains(part)), "{error}");
        }
        let same = NewNic { mac: mac("02-00-00-00-00-aa"), network_name: "demo/net".to_owned(), ..nic("a") };
        assert!(!edit_in(&vm, &EditRequest::Add(same), &cluster(true)).unwrap().is_needed());
    }

    #[test]
    fn a_nic_that_neither_the_template_nor_the_guest_has_is_not_found() {
        let vm = vm();
        let head = "VirtualMachine \"vm\" has no NIC";
        for (name, hint) in [("defaul", "did you mean \"default\"?"), ("blue", "it has: a, default")] {
            for facts in [cluster(true), cluster(false), Arc::new(NoFacts)] {
                let error = edit_in(&vm, &EditRequest::Remove(name.to_owned()), &facts).unwrap_err();
                assert!(matches!(error, EditError::NotFound(_)), "{error}");
                assert_eq!(error.to_string(), format!("{head} {name:?}; {hint}"));
            }
        }
        let mut without = vm.clone();
        without["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"] = json!([]);
        without["spec"]["template"]["spec"]["networks"] = json!([]);
        let edit = edit_in(&without, &EditRequest::Remove("a".to_owned()), &cluster(true)).unwrap();
        assert!(!edit.is_needed(), "the guest still has it, and KubeVirt unplugs it");
    }

    #[test]
    fn a_malformed_name_is_an_error() {
        for request in [
            EditRequest::Add(nic("a b")),
            EditRequest::Add(NewNic { network_name: "x/y/z".to_owned(), ..nic("b") }),
            EditRequest::Remove("a,default".to_owned()),
            EditRequest::Remove(String::new()),
        ] {
            let error = edit_in(&vm(), &request, &cluster(true)).unwrap_err();
            assert!(matches!(error, EditError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn the_verdict_is_the_one_of_the_webhook() {
        let nowhere = NewNic { network_name: "nowhere".to_owned(), ..nic("b") };
        let denied = edit_in(&vm(), &EditRequest::Add(nowhere), &cluster(true)).unwrap();
        assert_eq!(denied.verdict.causes.len(), 1, "{:?}", denied.verdict);
        let cause = &denied.verdict.causes[0];
        assert!(cause.starts_with("spec.template.spec.networks[2].multus.networkName: "), "{cause}");
        assert!(cause.ends_with("[NP105]"), "{cause}");
        let unknown = edit_in(&vm(), &EditRequest::Add(nic("b")), &(Arc::new(NoFacts) as Arc<dyn FactSource>)).unwrap();
        assert!(unknown.verdict.causes.is_empty() && !unknown.verdict.warnings.is_empty(), "{:?}", unknown.verdict);
        assert_eq!(unknown.running, Fact::Unknown);
    }

    #[test]
    fn without_its_vmi_the_status_of_the_vm_shows_whether_it_runs() {
        for (status, expected) in [
            (json!({}), Fact::Unknown),
            (json!({"created": true}), Fact::Known(())),
            (json!({"created": false}), Fact::Absent),
        ] {
            let mut vm = vm();
            vm["status"] = status;
            let facts: Arc<dyn FactSource> = Arc::new(NoFacts);
            assert_eq!(edit_in(&vm, &EditRequest::Add(nic("b")), &facts).unwrap().running, expected);
        }
    }

    #[test]
    fn an_object_that_is_not_a_vm_is_an_error() {
        for vm in [
            json!({"metadata": {"name": "vm"}}),
            json!({"metadata": {"name": "vm"}, "spec": {"template": {"spec": {"networks": 5}}}}),
        ] {
            assert!(edit_in(&vm, &EditRequest::Add(nic("b")), &cluster(true)).is_err(), "{vm}");
        }
    }

    #[test]
    fn a_patch_fits_until_the_lists_of_nics_change() {
        let Edit { patch, .. } = edit_in(&vm(), &EditRequest::Add(nic("b")), &cluster(true)).unwrap();
        let mut other = vm();
        other["metadata"]["resourceVersion"] = json!("8");
        assert!(still_fits(&patch, &other));
        other["spec"]["template"]["spec"]["networks"][0]["name"] = json!("else");
        assert!(!still_fits(&patch, &other));
    }
}
