//! The change of a VM that plugs or unplugs one NIC, made and judged before anybody is asked to store it.
//!
//! What is written is what a [request by annotation](crate::annotations::interfaces) would write, and the verdict is the one that the
//! webhook would give: both come from the same [`Reviewer`], which answers reviews that are made here in memory.

use std::{fmt::Display, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use json_patch::{Patch, PatchOperation, TestOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use crate::{
    admission::{Answer, Endpoint, Reviewer},
    annotations::interfaces::{self, Kind, Malformed, Removals},
    api::{
        json_patch::pointer,
        mac::Mac,
        review::{self, ParsedRequest},
    },
    change::{Change, Nic},
    facts::{Fact, FactSource},
    hotplug::progress::ClusterInfo,
    rules,
    settings::Settings,
};

/// The path of the lists in a VM.
const TEMPLATE: &str = "spec.template.spec";

/// What is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EditRequest {
    /// One NIC more.
    Add(NewNic),
    /// The NIC of this name no more.
    Remove(String),
}

/// A NIC that a VM is to have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NewNic {
    /// Of interface and network.
    pub name: String,
    /// `multus.networkName`: `nad` or `namespace/nad`.
    pub network_name: String,
    /// `macAddress`; `None` leaves it to KubeVirt.
    pub mac: Option<Mac>,
    /// Bound by SR-IOV, and not by bridge.
    pub is_sriov: bool,
}

impl EditRequest {
    /// The name of the NIC.
    #[must_use]
    pub fn nic(&self) -> &str {
        match self {
            Self::Add(nic) => &nic.name,
            Self::Remove(name) => name,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Add(_) => Kind::Add,
            Self::Remove(_) => Kind::Remove,
        }
    }

    /// The annotation that asks for it.
    fn request(&self) -> String {
        match self {
            Self::Add(NewNic { name, network_name, .. }) => {
                json!([{"name": name, "networkAttachmentDefinitionName": network_name}]).to_string()
            }
            Self::Remove(name) => name.clone(),
        }
    }
}

/// A change that can be made.
#[derive(Clone, Debug)]
pub struct Edit {
    /// What to change; empty when the VM is as it is wanted. It begins with tests of what it was made for, so that it
    /// fails where somebody else was faster.
    pub patch: Patch,
    /// The VM after it.
    pub object: Value,
    /// What nicplug says to it.
    pub verdict: Verdict,
    /// What the NIC will meet.
    pub cluster_info: ClusterInfo,
    /// Whether the VM runs; absent when it does not.
    pub running: Fact<()>,
    /// Whether the NIC is bound by SR-IOV.
    pub is_sriov: bool,
}

impl Edit {
    /// Whether there is something to change.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.patch.is_empty()
    }
}

/// What nicplug says to a change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Why it is refused, each as `FIELD: MESSAGE`; none when it is not.
    pub causes: Vec<String>,
    /// What the user should read.
    pub warnings: Vec<String>,
}

/// Why there is no such change.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The name is none that a NIC can have, or the network's is none.
    #[error("{0}")]
    Malformed(String),
    /// The VM has a NIC of the name, and it is another one.
    #[error("{0}")]
    Taken(String),
    /// The VM is not what the API of KubeVirt says.
    #[error("the VM cannot be read: {0}")]
    Unreadable(String),
}

/// Makes the change of a VM, as the API gives it, and judges it.
///
/// # Errors
/// See [`EditError`]. A change that is refused by rules is no error: its verdict says so.
pub fn edit(
    vm: &Value,
    request: &EditRequest,
    facts: &Arc<dyn FactSource>,
    settings: &Settings,
    dry_run: bool,
) -> Result<Edit, EditError> {
    let reviewer = Reviewer::new(Arc::clone(facts), settings.clone());
    check_name(request)?;
    let (before, asked) = ask_by_annotation(vm, request);
    let body = review_of(&before, &asked, dry_run);
    let (cluster_info, running, is_sriov) = read(&body, |change| {
        check_plan(change, request)?;
        let facts = facts.facts_for(change);
        let cluster_info = ClusterInfo {
            in_place: rules::in_place(&facts.attachment, settings),
            kubevirt: facts.kubevirt.known().map(Arc::clone),
        };
        let running = match facts.live() {
            Fact::Known(_) => Fact::Known(()),
            Fact::Absent => Fact::Absent,
            Fact::Unknown => Fact::Unknown,
        };
        Ok((cluster_info, running, is_sriov(change, request)))
    })?;
    let mut operations = operations_of(&reviewer.review(Endpoint::Mutate, &body))?;
    if let EditRequest::Add(nic) = request {
        for operation in &mut operations {
            if let PatchOperation::Add(add) = operation {
                dress(&mut add.value, nic);
            }
        }
    }
    let mut object = vm.clone();
    let mut verdict = Verdict::default();
    if !operations.is_empty() {
        operations.splice(0..0, tests_of(vm));
        json_patch::patch(&mut object, &operations).map_err(unreadable)?;
        verdict = verdict_of(&reviewer.review(Endpoint::Validate, &review_of(vm, &object, dry_run)))?;
    }
    Ok(Edit { patch: Patch(operations), object, verdict, cluster_info, running, is_sriov })
}

/// Whether a patch still fits a VM that may have been changed since the patch was made: whether its tests hold.
#[must_use]
pub fn still_fits(patch: &Patch, vm: &Value) -> bool {
    let tests = patch.iter().filter(|operation| matches!(operation, PatchOperation::Test(_)));
    let tests: Vec<PatchOperation> = tests.cloned().collect();
    json_patch::patch(&mut vm.clone(), &tests).is_ok()
}

/// A removal by annotation could name several: of a command it is one.
fn check_name(request: &EditRequest) -> Result<(), EditError> {
    let EditRequest::Remove(name) = request else { return Ok(()) };
    let names: Result<Removals, Malformed> = name.parse();
    match names {
        Ok(names) if names.iter().eq([name.as_str()]) => Ok(()),
        _ => Err(EditError::Malformed(format!(
            "{name:?} is no name of a NIC: that has letters, digits, - and _, at most 63 of them"
        ))),
    }
}

/// The VM without any request, and with the one that asks for the wish: a request that somebody left behind, or the
/// same one, would not count.
fn ask_by_annotation(vm: &Value, request: &EditRequest) -> (Value, Value) {
    let mut before = vm.clone();
    if let Some(annotations) = before.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        for kind in Kind::ALL {
            annotations.remove(kind.key());
        }
    }
    let mut asked = before.clone();
    if let Some(metadata) = asked.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if annotations.is_null() {
            *annotations = json!({});
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(request.kind().key().to_owned(), request.request().into());
        }
    }
    (before, asked)
}

fn review_of(before: &Value, after: &Value, dry_run: bool) -> Vec<u8> {
    let text = |pointer: &str| after.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = json!({"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"});
    let resource = json!({"group": "kubevirt.io", "version": "v1", "resource": "virtualmachines"});
    json!({"apiVersion": review::API_VERSION, "kind": "AdmissionReview", "request": {
        "uid": "made-by-a-command", "kind": kind, "resource": resource, "operation": "UPDATE", "dryRun": dry_run,
        "namespace": text("/metadata/namespace"), "name": text("/metadata/name"), "userInfo": {},
        "object": after, "oldObject": before}})
    .to_string()
    .into_bytes()
}

fn read<T>(body: &[u8], look: impl FnOnce(&Change) -> Result<T, EditError>) -> Result<T, EditError> {
    match review::read(body) {
        Ok(ParsedRequest::Valid(request)) => match Change::of(&request) {
            Some(change) => look(&change),
            None => Err(EditError::Unreadable("it is no VirtualMachine".to_owned())),
        },
        Ok(ParsedRequest::Invalid(_, fault)) => Err(EditError::Unreadable(fault.message)),
        Err(error) => Err(unreadable(error)),
    }
}

/// Whether the wish can be granted, beside what rules say.
fn check_plan(change: &Change, request: &EditRequest) -> Result<(), EditError> {
    if let Err(refusals) = interfaces::plan(change) {
        let words = |refusal: interfaces::Refusal| match refusal.why {
            interfaces::Why::Malformed(why) => EditError::Malformed(why.what().to_owned()),
            interfaces::Why::NoDomain => EditError::Unreadable(refusal.why.to_string()),
            why => EditError::Taken(why.to_string()),
        };
        return Err(refusals.into_iter().next().map_or_else(|| unreadable("the request was refused"), words));
    }
    let nics = change.after.nics();
    match request {
        EditRequest::Add(nic) => nics.get(nic.name.as_str()).map_or(Ok(()), |there| check_likeness(there, nic)),
        EditRequest::Remove(_) => Ok(()),
    }
}

/// A NIC that is there already has to be what is asked for, in what is asked for.
fn check_likeness(there: &Nic, nic: &NewNic) -> Result<(), EditError> {
    let Some(interface) = there.interface.map(|entry| entry.value) else { return Ok(()) };
    let name = &nic.name;
    if nic.is_sriov && interface.bindings.sriov.is_none() {
        return Err(EditError::Taken(format!("{name:?} is there already, not bound by SR-IOV")));
    }
    let Some(wanted) = nic.mac else { return Ok(()) };
    match interface.mac_address.as_deref() {
        Some(mac) if mac.parse() == Ok(wanted) => Ok(()),
        Some(mac) => Err(EditError::Taken(format!("{name:?} is there already, with MAC address {mac:?}"))),
        None => Err(EditError::Taken(format!("{name:?} is there already, with a MAC address of KubeVirt's choice"))),
    }
}

fn is_sriov(change: &Change, request: &EditRequest) -> bool {
    let nics = change.after.nics();
    let interface = nics.get(request.nic()).and_then(|nic| nic.interface);
    let is_wanted = matches!(request, EditRequest::Add(nic) if nic.is_sriov);
    is_wanted || interface.is_some_and(|entry| entry.value.bindings.sriov.is_some())
}

/// Gives the interface that is added what an annotation cannot ask for.
fn dress(value: &mut Value, nic: &NewNic) {
    match value {
        Value::Array(entries) => entries.iter_mut().for_each(|entry| dress(entry, nic)),
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
                dress(interfaces, nic);
            }
        }
        _ => {}
    }
}

/// The operations of a patch, without those on the annotation that was never stored.
fn operations_of(answer: &Answer) -> Result<Vec<PatchOperation>, EditError> {
    let answer: Value = serde_json::from_slice(&answer.body).map_err(unreadable)?;
    let Some(patch) = answer.pointer("/response/patch").and_then(Value::as_str) else { return Ok(Vec::new()) };
    let patch = BASE64.decode(patch).map_err(unreadable)?;
    let Patch(operations) = serde_json::from_slice(&patch).map_err(unreadable)?;
    let annotations = pointer("metadata", &["annotations"]);
    Ok(operations
        .into_iter()
        .filter(|operation| !operation.path().as_str().starts_with(annotations.as_str()))
        .collect())
}

/// Tests of both lists; where one is missing, which no test can tell, of the whole object.
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

fn verdict_of(answer: &Answer) -> Result<Verdict, EditError> {
    let answer: Value = serde_json::from_slice(&answer.body).map_err(unreadable)?;
    let list = |pointer: &str| answer.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let cause = |cause: &Value| format!("{}: {}", text(cause, "field"), text(cause, "message"));
    Ok(Verdict {
        causes: list("/response/status/details/causes").iter().map(cause).collect(),
        warnings: list("/response/warnings").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    })
}

fn unreadable(error: impl Display) -> EditError {
    EditError::Unreadable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::store::Store, facts::NoFacts};

    /// A VM with its default NIC and `a`, as it is stored.
    fn vm() -> Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "vm", "namespace": "demo", "resourceVersion": "7", "uid": "u"},
            "spec": {"template": {"spec": {
                "domain": {"devices": {"interfaces": [{"name": "default", "masquerade": {}}, {"name": "a", "bridge": {}}]}},
                "networks": [{"name": "default", "pod": {}}, {"name": "a", "multus": {"networkName": "net"}}]}}}})
    }

    /// A cluster with the network, where the VM runs or does not.
    fn cluster(is_running: bool) -> Arc<dyn FactSource> {
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
        for object in &objects {
            store.insert(object).unwrap();
        }
        Arc::new(store)
    }

    fn nic(name: &str) -> NewNic {
        NewNic { name: name.to_owned(), network_name: "net".to_owned(), ..NewNic::default() }
    }

    fn edited(vm: &Value, request: &EditRequest, facts: &Arc<dyn FactSource>) -> Result<Edit, EditError> {
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
        let edit = edited(&vm(), &EditRequest::Add(nic("b")), &cluster(true)).unwrap();
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
            let edit = edited(&vm, &EditRequest::Add(request.clone()), &cluster(false)).unwrap();
            let interfaces = &edit.object["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"];
            let interface = interfaces.as_array().unwrap().last().unwrap();
            assert_eq!(*interface, json!({"name": "b", "sriov": {}, "macAddress": "02:00:00:00:00:aa"}));
            assert!(edit.is_sriov);
        }
    }

    fn without_lists() -> Value {
        let mut vm = vm();
        vm["spec"]["template"]["spec"] = json!({"domain": {"devices": {}}});
        vm
    }

    #[test]
    fn where_a_list_is_missing_the_whole_object_is_tested() {
        let edit = edited(&without_lists(), &EditRequest::Add(nic("b")), &cluster(false)).unwrap();
        assert_eq!(paths(&edit), ["test /metadata/resourceVersion", "add /domain/devices/interfaces", "add /networks"]);
        let interfaces = &edit.object["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"];
        assert_eq!(*interfaces, json!([{"name": "default", "bridge": {}}, {"name": "b", "bridge": {}}]));
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        for request in [EditRequest::Add(nic("a")), EditRequest::Remove("z".to_owned())] {
            let edit = edited(&vm(), &request, &cluster(true)).unwrap();
            assert!(!edit.is_needed(), "{:?}", paths(&edit));
            assert_eq!(edit.object, vm());
        }
    }

    #[test]
    fn a_request_that_was_left_behind_is_not_in_the_way() {
        let mut vm = vm();
        vm["metadata"]["annotations"] = json!({"nicplug.io/add-interfaces": "b=net", "mine": "1"});
        let edit = edited(&vm, &EditRequest::Add(nic("b")), &cluster(true)).unwrap();
        assert_eq!(paths(&edit).len(), 4);
        assert_eq!(edit.object["metadata"], vm["metadata"]);
        vm["metadata"]["annotations"] = Value::Null;
        assert!(edited(&vm, &EditRequest::Add(nic("b")), &cluster(true)).unwrap().is_needed());
    }

    #[test]
    fn a_nic_leaves_a_running_vm_by_state_and_a_stopped_one_whole() {
        let request = EditRequest::Remove("a".to_owned());
        let live = edited(&vm(), &request, &cluster(true)).unwrap();
        assert_eq!(paths(&live), [TESTS.to_vec(), vec!["add /domain/devices/interfaces/1/state"]].concat());
        let stopped = edited(&vm(), &request, &cluster(false)).unwrap();
        assert_eq!(stopped.running, Fact::Absent);
        let removes = ["remove /domain/devices/interfaces/1", "remove /networks/1"];
        assert_eq!(paths(&stopped), [TESTS, removes].concat());
        let again = edited(&live.object, &request, &cluster(true)).unwrap();
        assert!(!again.is_needed());
        let back = edited(&live.object, &EditRequest::Add(nic("a")), &cluster(true)).unwrap();
        assert_eq!(back.object, vm());
    }

    #[test]
    fn another_nic_of_the_name_is_told_apart() {
        let mac = |text: &str| Some(text.parse().unwrap());
        let mut vm = vm();
        vm["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"][1]["macAddress"] = json!("02:00:00:00:00:AA");
        for (request, part) in [
            (NewNic { network_name: "other".to_owned(), ..nic("a") }, "on network \"net\""),
            (NewNic { mac: mac("02:00:00:00:00:bb"), ..nic("a") }, "with MAC address \"02:00:00:00:00:AA\""),
            (NewNic { is_sriov: true, ..nic("a") }, "not bound by SR-IOV"),
            (nic("default"), "on no network of a NetworkAttachmentDefinition"),
        ] {
            let error = edited(&vm, &EditRequest::Add(request), &cluster(true)).unwrap_err();
            assert!(matches!(&error, EditError::Taken(why) if why.contains(part)), "{error}");
        }
        let same = NewNic { mac: mac("02-00-00-00-00-aa"), network_name: "demo/net".to_owned(), ..nic("a") };
        assert!(!edited(&vm, &EditRequest::Add(same), &cluster(true)).unwrap().is_needed());
    }

    #[test]
    fn a_name_that_is_none_is_told_as_such() {
        for request in [
            EditRequest::Add(nic("a b")),
            EditRequest::Add(NewNic { network_name: "x/y/z".to_owned(), ..nic("b") }),
            EditRequest::Remove("a,default".to_owned()),
            EditRequest::Remove(String::new()),
        ] {
            let error = edited(&vm(), &request, &cluster(true)).unwrap_err();
            assert!(matches!(error, EditError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn the_verdict_is_the_one_of_the_webhook() {
        let nowhere = NewNic { network_name: "nowhere".to_owned(), ..nic("b") };
        let denied = edited(&vm(), &EditRequest::Add(nowhere), &cluster(true)).unwrap();
        assert_eq!(denied.verdict.causes.len(), 1, "{:?}", denied.verdict);
        let cause = &denied.verdict.causes[0];
        assert!(cause.starts_with("spec.template.spec.networks[2].multus.networkName: "), "{cause}");
        assert!(cause.ends_with("[NP105]"), "{cause}");
        let unknown = edited(&vm(), &EditRequest::Add(nic("b")), &(Arc::new(NoFacts) as Arc<dyn FactSource>)).unwrap();
        assert!(unknown.verdict.causes.is_empty() && !unknown.verdict.warnings.is_empty(), "{:?}", unknown.verdict);
        assert_eq!(unknown.running, Fact::Unknown);
    }

    #[test]
    fn what_is_no_vm_is_an_error() {
        for vm in [
            json!({"metadata": {"name": "vm"}}),
            json!({"metadata": {"name": "vm"}, "spec": {"template": {"spec": {"networks": 5}}}}),
        ] {
            assert!(edited(&vm, &EditRequest::Add(nic("b")), &cluster(true)).is_err(), "{vm}");
        }
    }

    #[test]
    fn a_patch_fits_until_the_lists_of_nics_change() {
        let Edit { patch, .. } = edited(&vm(), &EditRequest::Add(nic("b")), &cluster(true)).unwrap();
        let mut other = vm();
        other["metadata"]["resourceVersion"] = json!("8");
        assert!(still_fits(&patch, &other));
        other["spec"]["template"]["spec"]["networks"][0]["name"] = json!("else");
        assert!(!still_fits(&patch, &other));
    }
}
