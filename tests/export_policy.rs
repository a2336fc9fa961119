//! `nicplug export-policy`: a real API server evaluates the policies over all cases, and they find what the rules find.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Output},
    sync::Arc,
};

use futures_util::{StreamExt, stream};
use hyper::http::Method;
use json_patch::Patch;
use kube::Client;
use nicplug::{
    admission::{Reviewer, policies::EXPRESSED},
    cluster::manifests,
    rules::{RULES, find},
    settings::Settings,
};
use serde_json::{Map, Value, json};
use support::{
    api_server::{
        self, ApiServer,
        requests::{Response, path_of, send},
    },
    builders::{GUEST_KINDS, GuestKind, VmBuilder, bare_vm, object},
    cases::{Answer, data, entries, json_file, patch_for, rows, store, text_and_rules},
    folder::Folder,
    kubevirt::pools,
    wait::eventually,
};

/// How many requests are under way at once.
const AT_ONCE: usize = 8;

/// KubeVirt's CRDs allow 256 interfaces and 256 networks.
const MOST_NICS: usize = 256;

#[tokio::test]
async fn the_policies_find_what_the_rules_find() {
    let Some(api) = api_server::shared().await else { return };
    pools::install_definition(&api.admin()).await;
    let namespace = api.namespace("policies").await;
    let admin = api.admin();
    let settings = EXPRESSED
        .iter()
        .fold(String::from("rules:\n"), |settings, policy| format!("{settings}  {}: warn\n", policy.rule));
    let folder = Folder::new("policies");
    let settings = folder.write("settings.yaml", &settings);
    apply(api, &["--kubernetes-version", api.version(), "--settings", &settings]).await;

    let outcomes: Vec<Outcome> = stream::iter(all_cases().into_iter().enumerate())
        .map(|(number, case)| check(&admin, &namespace, number, case))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;

    let count = |matches: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| matches(outcome)).count();
    let rejected = count(|outcome| matches!(outcome, Outcome::Rejected));
    assert!(rejected * 10 < outcomes.len(), "the schema rejects {rejected} of {}", outcomes.len());
    assert!(count(|outcome| matches!(outcome, Outcome::Reviewed { mutated: true, .. })) > 10);
    for policy in EXPRESSED {
        let found =
            |outcome: &&Outcome| matches!(outcome, Outcome::Reviewed { found, .. } if found.contains(policy.rule));
        let silent =
            |outcome: &&Outcome| matches!(outcome, Outcome::Reviewed { found, .. } if !found.contains(policy.rule));
        let (found, silent) = (outcomes.iter().filter(found).count(), outcomes.iter().filter(silent).count());
        assert!(found >= 3 && silent >= 100, "{}: found in {found} cases, not in {silent}", policy.rule);
    }
    largest(&admin, &namespace).await;
}

#[tokio::test]
async fn a_policy_denies_with_the_sentence_of_the_rule_outside_of_excluded_namespaces() {
    let Some(api) = ApiServer::start().await else { return };
    let (reviewed, excluded) = (api.namespace("reviewed").await, api.namespace("excluded").await);
    let admin = api.admin();
    apply(&api, &["--exclude-namespace", &excluded]).await;
    let faulty = bare_vm("vm").nic("blue", "net").interface(json!({"name": "blue", "bridge": {}})).build();
    let answer = create(&admin, &reviewed, &faulty, "").await;
    assert_eq!(
        answer.message(),
        "virtualmachines.kubevirt.io \"vm\" is forbidden: ValidatingAdmissionPolicy \
         'nicplug-np002-duplicate-interface-name' with binding 'nicplug-np002-duplicate-interface-name' denied \
         request: interface name \"blue\" is already in use; choose a name that no other interface uses, and give its network \
         the same name [NP002]"
    );
    assert!(create(&admin, &excluded, &faulty, "").await.is_ok());
}

#[test]
fn the_enforcement_of_the_settings_becomes_actions_of_bindings() {
    let folder = Folder::new("policies");
    let settings = folder.write(
        "settings.yaml",
        "rules: {NP001: off, NP002: warn}\nhotplug: {bindings: [l2, \"o'vn\"]}\n\
         api: {groups: {kubevirt.io: [x.example]}}\nliveChanges: {users: {ci: warn}}\n\
         namespaces: {lab: {liveChanges: warn, rules: {NP003: off, NP004: warn}},\n\
         \x20   \"dev-*\": {liveChanges: warn}}\n",
    );
    let output = export(&["--settings", &settings, "--opt-in"]);
    let yaml = String::from_utf8(output.stdout).unwrap();
    let summary = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        summary,
        format!(
            "exported {} of {} rules, without the default binding; 17 need the webhook, 1 set to off: the comments \
             say why\n",
            EXPRESSED.len() - 1,
            RULES.len()
        )
    );
    for comment in [
        "# NP001 duplicate-network-name: off in the settings.\n",
        "# Setting liveChanges.users.\n",
        "# Setting namespaces with a pattern:",
        "# The default binding: MutatingAdmissionPolicy is stable since Kubernetes 1.36;",
        "# NP105 network-attachment: a policy cannot read the NetworkAttachmentDefinition",
    ] {
        assert!(yaml.contains(comment), "{comment}\n{yaml}");
    }
    assert!(yaml.contains("interface.binding.name in ['l2', 'o\\'vn']"), "{yaml}");
    assert!(yaml.contains("- apiGroups: [\"kubevirt.io\", \"x.example\"]\n      apiVersions: [\"*\"]"), "{yaml}");
    let actions: BTreeMap<String, (Value, Value)> = objects(&yaml)
        .into_iter()
        .filter(|object| object["kind"] == "ValidatingAdmissionPolicyBinding")
        .map(|binding| {
            let name = binding["metadata"]["name"].as_str().unwrap().to_owned();
            let namespaces = &binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"];
            (name, (binding["spec"]["validationActions"].clone(), namespaces.clone()))
        })
        .collect();
    let review = json!({"key": "nicplug.io/review", "operator": "In", "values": ["enabled"]});
    let name = |operator: &str, names: &[&str]| json!({"key": "kubernetes.io/metadata.name", "operator": operator, "values": names});
    let system = || name("NotIn", &["kube-system"]);
    assert!(!actions.keys().any(|name| name.contains("np001")), "{actions:?}");
    assert_eq!(actions.keys().filter(|name| name.contains("np003")).count(), 1, "off in one namespace");
    for (binding, action, namespaces) in [
        ("nicplug-np002-duplicate-interface-name", "Warn", json!([system(), review])),
        ("nicplug-np003-interface-without-network", "Deny", json!([name("NotIn", &["kube-system", "lab"]), review])),
        ("nicplug-np004-network-without-interface", "Deny", json!([name("NotIn", &["kube-system", "lab"]), review])),
        ("nicplug-np004-network-without-interface-warn", "Warn", json!([name("In", &["lab"]), system(), review])),
        ("nicplug-np103-hotplug-model", "Deny", json!([name("NotIn", &["kube-system", "lab"]), review])),
        ("nicplug-np103-hotplug-model-warn", "Warn", json!([name("In", &["lab"]), system(), review])),
    ] {
        assert_eq!(actions[binding], (json!([action]), namespaces), "{binding}");
    }
}

#[test]
fn the_default_binding_has_the_api_of_the_kubernetes_version() {
    for (flags, version) in [
        (&[][..], None),
        (&["--kubernetes-version", "1.35"], None),
        (&["--kubernetes-version", "1.36"], Some("v1")),
        (&["--kubernetes-version=v1.37.2", "--mutating=never"], None),
        (&["--kubernetes-version=1.34", "--mutating=always"], Some("v1beta1")),
        (&["--kubernetes-version=1.32", "--mutating=always"], Some("v1alpha1")),
        (&["--kubernetes-version=1.31", "--mutating=always"], None),
    ] {
        let yaml = String::from_utf8(export(flags).stdout).unwrap();
        let objects = objects(&yaml);
        let mut found = objects.iter().filter(|object| object["kind"] == "MutatingAdmissionPolicy");
        let expected = version.map(|version| json!(format!("admissionregistration.k8s.io/{version}")));
        assert_eq!(found.next().map(|policy| policy["apiVersion"].clone()), expected, "{flags:?}");
    }
    let output = run(&["--kubernetes-version", "1.29"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "nicplug: Kubernetes 1.29 has no stable ValidatingAdmissionPolicy; 1.30 and newer have\n");
}

/// Comments are for people: they fit a screen, and the expressions are no wider than the code of nicplug.
#[test]
fn the_lines_of_the_output_are_short() {
    let yaml = String::from_utf8(export(&["--kubernetes-version=1.37"]).stdout).unwrap();
    let is_text = |line: &&str| line.starts_with("      ") && line.ends_with(']') && line.contains(" [NP");
    for line in yaml.lines().filter(|line| !is_text(line)) {
        let limit = if line.starts_with('#') { 100 } else { 130 };
        assert!(line.chars().count() <= limit && line.trim_end() == line, "{line:?}");
    }
}

// === Policies ===

fn run(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nicplug")).arg("export-policy").args(flags).output().unwrap()
}

fn export(flags: &[&str]) -> Output {
    let output = run(flags);
    assert!(output.status.success(), "{output:?}");
    output
}

fn objects(yaml: &str) -> Vec<Value> {
    manifests::read(yaml).unwrap().into_iter().map(|manifest| manifest.object).collect()
}

/// Installs the policies, and waits until the API server evaluates them.
async fn apply(api: &ApiServer, flags: &[&str]) {
    let admin = api.admin();
    let yaml = String::from_utf8(export(flags).stdout).unwrap();
    for object in objects(&yaml) {
        let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        let kind = kind.to_lowercase();
        let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
        let path = format!("/apis/{version}/{plural}");
        send(&admin, Method::POST, &path, "application/json", object.to_string()).await.granted();
    }
    let namespace = api.namespace("probe").await;
    // A policy of each rule about the shape of NICs finds something, and the last installed one is one of them.
    let faulty = bare_vm("probe")
        .nic_with(json!({"name": "a", "masquerade": {}, "sriov": {}, "model": "x", "state": "x"}), json!({}))
        .interface(json!({"name": "b"}))
        .network(json!({"name": "c", "resourceClaim": {}}))
        .network(json!({"name": "c", "pod": {}}))
        .interface(json!({"name": "b"}))
        .build();
    eventually("the policies are evaluated", || async {
        let answer = create(&admin, &namespace, &faulty, "?dryRun=All").await;
        let shape = EXPRESSED.iter().filter(|policy| policy.rule < "NP100").count();
        (!answer.is_ok() || found_by_policies(&answer).len() == shape).then_some(())
    })
    .await;
    if yaml.contains("kind: MutatingAdmissionPolicy\n") {
        let old = bare_vm("mutated").build();
        let old = create(&admin, &namespace, &old, "").await.granted();
        let new = bare_vm("mutated").nic_with(json!({"name": "a"}), json!({"multus": {"networkName": "n"}})).build();
        eventually("the default binding is set", || async {
            let mut object = old.clone();
            object["spec"] = new["spec"].clone();
            let answer = replace(&admin, &object, "?dryRun=All").await.granted();
            answer.pointer("/spec/template/spec/domain/devices/interfaces/0/bridge").map(|_| ())
        })
        .await;
    }
}

/// Returns the messages of the policies by the id of the rule.
fn found_by_policies(answer: &Response) -> BTreeMap<String, String> {
    let of_policy = |warning: &String| {
        let (_, rest) = warning.split_once("ValidatingAdmissionPolicy 'nicplug-")?;
        let (name, rest) = rest.split_once('\'')?;
        let message = rest.split_once("': ").map_or(rest, |(_, message)| message);
        Some((name.split('-').next()?.to_uppercase(), message.to_owned()))
    };
    let mut found = BTreeMap::new();
    for (rule, message) in answer.warnings.iter().filter_map(of_policy) {
        // Several validations of one policy may fail; the first one counts.
        found.entry(rule).or_insert(message);
    }
    found
}

async fn create(admin: &Client, namespace: &str, object: &Value, query: &str) -> Response {
    let mut object = object.clone();
    object["metadata"]["namespace"] = json!(namespace);
    let path = path_of(&object);
    let (path, _) = path.rsplit_once('/').unwrap();
    send(admin, Method::POST, &format!("{path}{query}"), "application/json", object.to_string()).await
}

async fn replace(admin: &Client, object: &Value, query: &str) -> Response {
    let path = format!("{}{query}", path_of(object));
    send(admin, Method::PUT, &path, "application/json", object.to_string()).await
}

// === Cases ===

/// A write, and the guest of the VM if it runs.
#[derive(Clone, Debug)]
struct Case {
    old: Option<Value>,
    new: Value,
    vmi: Option<Value>,
    facts: Vec<Value>,
}

enum Outcome {
    /// The schema of the kind does not permit the object.
    Rejected,
    Reviewed {
        found: BTreeSet<String>,
        mutated: bool,
    },
}

async fn check(admin: &Client, namespace: &str, number: usize, case: Case) -> Outcome {
    let name = format!("case-{number}");
    let Case { old, mut new, mut vmi, facts } = case;
    let stored = match old {
        None => None,
        Some(mut old) => {
            old["metadata"]["name"] = json!(name);
            let stored = create(admin, namespace, &old, "").await;
            if !stored.is_ok() {
                return Outcome::Rejected;
            }
            let mut stored = stored.body;
            if vmi.is_some() && stored["kind"] == "VirtualMachine" {
                stored["status"] = json!({"created": true, "ready": true, "printableStatus": "Running"});
                let path = format!("{}/status", path_of(&stored));
                stored = send(admin, Method::PUT, &path, "application/json", stored.to_string()).await.granted();
            }
            Some(stored)
        }
    };
    new["metadata"]["name"] = json!(name);
    new["metadata"]["namespace"] = json!(namespace);
    let mut object = new.clone();
    if let Some(stored) = &stored {
        object = stored.clone();
        object["spec"] = new["spec"].clone();
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("annotations");
        metadata.extend(new["metadata"].get("annotations").map(|has| ("annotations".to_owned(), has.clone())));
    }
    let response = match &stored {
        None => create(admin, namespace, &new, "?dryRun=All").await,
        Some(_) => replace(admin, &object, "?dryRun=All").await,
    };
    if !response.is_ok() {
        assert!(!response.message().contains("ValidatingAdmissionPolicy"), "{response:?}");
        return Outcome::Rejected;
    }

    if let Some(vmi) = &mut vmi {
        vmi["metadata"]["name"] = json!(name);
        vmi["metadata"]["namespace"] = json!(namespace);
    }
    let facts: Vec<Value> = facts.into_iter().chain(vmi).collect();
    let reviewer = Reviewer::new(Arc::new(store(&facts)), Settings::default());
    let found = found_by_policies(&response);
    // The API server has removed the fields that the schema lacks before it evaluated the policies.
    let reviewed = response.body;
    let mut object = without_default_binding(&reviewed, &object);
    let operations = patch_for(&reviewer, &review(namespace, stored.as_ref(), &object));
    let bridges = operations.into_iter().filter(|operation| operation.path().to_string().ends_with("/bridge"));
    let patch = Patch(bridges.collect());
    let mutated = !patch.is_empty();
    json_patch::patch(&mut object, &patch).unwrap();
    assert_eq!(reviewed["spec"], object["spec"], "{object:#}");

    let answer = Answer::to(&reviewer, &review(namespace, stored.as_ref(), &object));
    for policy in EXPRESSED.iter().filter(|policy| is_claimed(policy.rule, &object)) {
        let causes = answer.causes.iter().map(|cause| text_and_rules(&cause.message));
        let mut sentences = causes.filter(|(_, rules)| *rules == [policy.rule]).map(|(text, _)| text).peekable();
        let Some(message) = found.get(policy.rule) else {
            assert!(sentences.peek().is_none(), "{} finds nothing in {object:#}\n{answer:#?}", policy.rule);
            continue;
        };
        assert!(!message.contains("resulted in error"), "{message} in {object:#}");
        let what = message.split("; ").next().unwrap();
        let summary = find(policy.rule).unwrap().summary();
        if what == summary.trim_end_matches('.') && object.to_string().contains("\\n") {
            // The API server takes no message of several lines.
            continue;
        }
        let has_said = sentences.any(|sentence| sentence.split("; ").next().unwrap() == what);
        assert!(has_said, "{} has found: {message}\nin {object:#}\n{answer:#?}", policy.rule);
    }
    Outcome::Reviewed { found: found.into_keys().collect(), mutated }
}

/// Returns a reviewed object without the bindings that the one that was sent does not have.
fn without_default_binding(reviewed: &Value, sent: &Value) -> Value {
    let mut object = reviewed.clone();
    let path = format!("/{}/domain/devices/interfaces", path_of_guest(sent).replace('.', "/"));
    let sent = sent.pointer(&path).and_then(Value::as_array).into_iter().flatten();
    let reviewed = object.pointer_mut(&path).and_then(Value::as_array_mut).into_iter().flatten();
    for (reviewed, _) in reviewed.zip(sent).filter(|(_, sent)| sent.get("bridge").is_none()) {
        reviewed.as_object_mut().unwrap().remove("bridge");
    }
    object
}

/// Whether a policy claims to find what its rule finds in an object: the rest is among its limits.
fn is_claimed(rule: &str, object: &Value) -> bool {
    let guest = guest_of(object);
    let interfaces: Vec<&Value> = guest["domain"]["devices"]["interfaces"].as_array().into_iter().flatten().collect();
    match rule {
        "NP006" => object["spec"].get("preference").is_none(),
        "NP008" => interfaces.iter().all(|interface| {
            let servers = interface["dhcpOptions"]["ntpServers"].as_array().into_iter().flatten();
            interface.get("portRanges").is_none()
                && servers.into_iter().all(|server| !server.as_str().unwrap().contains(':'))
        }),
        "NP102" | "NP103" | "NP104" => object["kind"] == "VirtualMachine",
        _ => true,
    }
}

fn guest_of(object: &Value) -> &Value {
    path_of_guest(object).split('.').fold(object, |value, key| &value[key])
}

fn path_of_guest(object: &Value) -> &'static str {
    let kind = object["kind"].as_str().unwrap();
    GUEST_KINDS.into_iter().find(|(_, name, _)| *name == kind).unwrap().2
}

fn review(namespace: &str, old: Option<&Value>, new: &Value) -> Value {
    let (group, version) = new["apiVersion"].as_str().unwrap().split_once('/').unwrap();
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": group, "version": version, "kind": new["kind"]},
        "name": new["metadata"]["name"], "namespace": namespace,
        "operation": if old.is_some() { "UPDATE" } else { "CREATE" }, "userInfo": {"username": "alice"},
        "object": new, "oldObject": old}})
}

/// A KubeVirt that permits everything, so that no rule finds what only the KubeVirt resource shows.
fn permissive() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
        "metadata": {"name": "kubevirt", "namespace": "kubevirt"},
        "spec": {"configuration": {"developerConfiguration": {"featureGates":
            ["NetworkDevicesWithDRA", "PasstBinding", "PortRangesSpec"]}}},
        "status": {"observedKubeVirtVersion": "v1.9.0"}})
}

/// Returns the VMI of a running VM.
fn vmi_of(vm: &Value) -> Value {
    let owner = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": vm["metadata"]["name"],
        "uid": "u", "controller": true});
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": vm["metadata"]["name"], "ownerReferences": [owner]},
        "spec": vm["spec"]["template"]["spec"], "status": {"phase": "Running"}})
}

fn all_cases() -> Vec<Case> {
    let mut cases = recorded();
    cases.extend(spellings());
    cases.extend(updates());
    cases
}

/// The reviews of `tests/data`.
fn recorded() -> Vec<Case> {
    let of_files = |folder: &str, file: &str| {
        let folders = entries(&data(folder)).into_iter().map(move |path| path.join(file));
        folders.filter(|path| path.exists()).map(|path| json_file(&path)).collect::<Vec<_>>()
    };
    let reviews = entries(&data("reviews")).into_iter().filter(|path| path.extension().is_some_and(|it| it == "json"));
    let of_rows = ["shape.ndjson", "hotplug.ndjson", "live/live.ndjson"]
        .into_iter()
        .flat_map(|file| rows::<Value>(&data(file)).into_iter().map(|row| row["review"].clone()));
    let all = reviews.map(|path| json_file(&path)).chain(of_files("admission", "request.json")).chain(of_rows);
    all.filter_map(|review| case_of(&review["request"])).collect()
}

/// Returns the case of a request; the guest runs if the stored VM is to run.
fn case_of(request: &Value) -> Option<Case> {
    let kind = request["kind"]["kind"].as_str()?;
    let (group, ..) = GUEST_KINDS.into_iter().find(|(_, name, _)| *name == kind)?;
    let is_write = ["CREATE", "UPDATE"].map(Value::from).contains(&request["operation"]);
    if !is_write || request["subResource"].as_str().is_some_and(|name| !name.is_empty()) {
        return None;
    }
    let version = if group == "kubevirt.io" { "v1" } else { "v1beta1" };
    let object = |key: &str| {
        let annotations: Map<String, Value> =
            request[key]["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        request[key].is_object().then(|| {
            json!({"apiVersion": format!("{group}/{version}"), "kind": kind,
                "metadata": {"annotations": annotations}, "spec": request[key]["spec"]})
        })
    };
    let old = object("oldObject").filter(|_| request["operation"] == "UPDATE");
    let runs = |vm: &&Value| {
        kind == "VirtualMachine" && vm["spec"]["runStrategy"] != "Halted" && vm["spec"]["running"] != false
    };
    let vmi = old.as_ref().filter(runs).map(vmi_of);
    Some(Case { old, new: object("object")?, vmi, facts: vec![permissive()] })
}

/// New objects with values that are right or wrong.
fn spellings() -> Vec<Case> {
    let nics = bindings().into_iter().chain(names_and_addresses()).chain(ports()).chain(options());
    let mut guests: Vec<Value> = nics.map(|(interface, network)| guest_with(&interface, network)).collect();
    guests.extend(lists_of_networks());
    guests.extend(claims());
    // The policies read the guest of each kind in the same way, so each guest is the content of one kind.
    let kinds = GUEST_KINDS.into_iter().cycle();
    let mut cases: Vec<Case> = guests.iter().zip(kinds).map(|(guest, kind)| creation(kind, guest)).collect();
    // Only the definition of pools keeps fields that KubeVirt 1.9 does not have.
    let newer = [
        (json!({"teleport": {}}), multus()),
        (json!({"teleport": {}, "state": "absent"}), multus()),
        (json!({"teleport": {}, "bridge": {}, "sriov": {}}), multus()),
        (json!({"teleport": {}, "masquerade": {}, "state": "absent"}), json!({"carrierPigeon": {}})),
        (json!({"bridge": {}, "speed": 9}), json!({"carrierPigeon": {}})),
        (json!({"speed": 9}), json!({"mtu": 9000})),
        (json!({"teleport": {}}), json!({"resourceClaim": {"claimName": "c", "requestName": "r"}})),
    ];
    cases.extend(newer.map(|(interface, network)| creation(GUEST_KINDS[3], &guest_with(&interface, network))));
    cases
}

/// An interface, and its network without the name.
type Nic = (Value, Value);

fn pod() -> Value {
    json!({"pod": {}})
}

fn multus() -> Value {
    json!({"multus": {"networkName": "net"}})
}

/// Returns a guest with one NIC, which is named `a` unless the interface has a name.
fn guest_with(interface: &Value, network: Value) -> Value {
    let mut named = json!({"name": "a"});
    named.as_object_mut().unwrap().extend(interface.as_object().unwrap().clone());
    bare_vm("case").nic_with(named, network).guest()
}

fn bindings() -> Vec<Nic> {
    let mut nics = Vec::new();
    for binding in ["bridge", "masquerade", "sriov", "passtBinding", "slirp", "macvtap", "passt"] {
        for state in [None, Some(""), Some("absent"), Some("down"), Some("up"), Some("Down"), Some("gone")] {
            for network in [pod(), multus(), json!({"multus": {"networkName": "net", "default": true}})] {
                let mut interface = json!({ binding: {} });
                if let Some(state) = state {
                    interface["state"] = json!(state);
                }
                nics.push((interface, network));
            }
        }
    }
    let others = [
        json!({}),
        json!({"binding": {"name": "l2"}}),
        json!({"bridge": {}, "binding": {"name": "l2"}}),
        json!({"bridge": {}, "sriov": {}, "masquerade": {}}),
        json!({"slirp": {}, "bridge": {}}),
        json!({"binding": {"name": "l2"}, "state": "absent"}),
        json!({"masquerade": {}, "macAddress": "02:00:00:00:00:00"}),
    ];
    nics.extend(others.into_iter().flat_map(|interface| [(interface.clone(), pod()), (interface, multus())]));
    nics
}

fn names_and_addresses() -> Vec<Nic> {
    const NAMES: &str = "a|Net-1_x|_||eth 0|a.b|é|a\n";
    const MODELS: &str = "|virtio|igb|e1000e|VirtIO|vmxnet3|virtio-net";
    const MACS: &str = "|de:ad:00:00:be:af|DE-AD-00-00-BE-AF|aabb.ccdd.eeff|deadbeef0001|de:ad:00:00:be:af:aa:bb|\
        aabb.ccdd.eeff.0011|00000000fe80000000000000|0000.0000.fe80.0000.0000.0000.0200.5e10.0000.0001|\
        de:ad:00:00:be|de:ad:00:00:be:af:|:de:ad:00:00:be:af|de:ad-00:00:be:af|de:ad:0:0:be:af|de:ad:00:00:be:zz|\
         de:ad:00:00:be:af|dead.beef.0001.|deadbeef000|deadbeef000é|x|de:ad:00:00:be:af\n| de:ad:00:00:be:af";
    const PCI: &str = "|0000:81:00.1|abCD:FF:1f.7|0000:81:00.8|0000:81:00.f|0000:81:00|000:81:00.1|00000:81:00.1|\
        0000-81-00.1|0000:8g:00.1|0000:81:00.1 ";
    let fields = [("name", NAMES), ("model", MODELS), ("macAddress", MACS), ("pciAddress", PCI)];
    let spelled = fields.into_iter().flat_map(|(key, values)| values.split('|').map(move |value| (key, value)));
    spelled.map(|(key, value)| (json!({"bridge": {}, key: value}), multus())).collect()
}

fn ports() -> Vec<Nic> {
    const NAMES: &str = "http|a|1a|123456789-abcde|123456789-abcdef|1234|HTTP|a_b|a--b|-a|a-|é|-|1-|a--";
    let lists = [
        json!([]),
        json!([{"port": 80}, {"port": 80}, {"name": "http", "port": 65535, "protocol": "UDP"}]),
        json!([{"name": "a", "port": 1}, {"name": "a", "port": 2}]),
        json!([{"name": "A", "port": 1}, {"name": "A", "port": 2}]),
        json!([{"port": 0}]),
        json!([{"port": 80}, {"port": -1}]),
        json!([{"port": 65536}]),
        json!([{"port": 80, "protocol": "tcp"}]),
        json!([{"port": 80, "protocol": "SCTP"}]),
    ];
    let names = NAMES.split('|').map(|name| json!([{"name": name, "port": 1}]));
    let on_both = |ports: Value| {
        [(json!({"masquerade": {}, "ports": ports.clone()}), pod()), (json!({"bridge": {}, "ports": ports}), multus())]
    };
    lists.into_iter().chain(names).flat_map(on_both).collect()
}

fn options() -> Vec<Nic> {
    const SERVERS: &str = "1.2.3.4|01.2.3.4|0.0.0.0|255.255.255.255|256.1.1.1|1.2.3|1.2.3.4.5|1.2.3.|1.2.3.+4|1.2.3.4 |\
        |ntp.example|000.0255.1.1|0256.1.1.1";
    let private = |numbers: &[u8]| {
        let options: Vec<Value> = numbers.iter().map(|number| json!({"option": number, "value": "x"})).collect();
        json!({ "privateOptions": options })
    };
    let lists = [json!({"bootFileName": "x"}), private(&[224, 254]), private(&[223]), private(&[240, 240])];
    let servers = SERVERS.split('|').map(|server| json!({"ntpServers": ["192.0.2.1", server]}));
    let on_both = |options: Value| {
        let interface = |binding: &str| json!({ binding: {}, "dhcpOptions": options });
        [(interface("masquerade"), pod()), (interface("bridge"), multus())]
    };
    lists.into_iter().chain([private(&[1, 1, 255])]).chain(servers).flat_map(on_both).collect()
}

fn creation(kind: GuestKind, guest: &Value) -> Case {
    let mut new = object(kind, guest);
    match kind.1 {
        "VirtualMachine" => new["spec"]["runStrategy"] = json!("Halted"),
        "VirtualMachineInstanceReplicaSet" => new["spec"]["selector"] = json!({"matchLabels": {"a": "b"}}),
        "VirtualMachinePool" => new["apiVersion"] = json!("pool.kubevirt.io/v1beta1"),
        _ => {}
    }
    Case { old: None, new, vmi: None, facts: vec![permissive()] }
}

/// Guests whose networks, or pairs of interface and network, are right or wrong.
fn lists_of_networks() -> Vec<Value> {
    let multus = || json!({"name": "b", "multus": {"networkName": "net"}});
    let networks = [
        vec![json!({"name": "a"})],
        vec![json!({"name": "a", "pod": {}, "multus": {"networkName": "net"}})],
        vec![json!({"name": "a", "pod": {}}), json!({"name": "b", "pod": {}})],
        vec![json!({"name": "a", "pod": {}}), json!({"name": "b", "pod": {}}), json!({"name": "c", "pod": {}})],
        vec![json!({"name": "a", "pod": {}}), json!({"name": "b", "multus": {"networkName": "net", "default": true}})],
        vec![
            json!({"name": "a", "multus": {"networkName": "net", "default": true}}),
            json!({"name": "b", "multus": {"networkName": "net", "default": true}}),
        ],
        vec![json!({"name": "a", "multus": {"networkName": ""}})],
        vec![json!({"name": "a", "multus": {"networkName": ""}}), json!({"name": "b", "multus": {"networkName": ""}})],
        vec![json!({"name": "a", "pod": {}}), json!({"name": "a", "multus": {"networkName": "net"}})],
        vec![json!({"name": "a", "multus": {"networkName": "net"}}), json!({"name": "a", "pod": {}})],
        vec![json!({"pod": {}}), multus()],
        vec![json!({"name": "x"}), multus(), multus()],
        vec![],
    ];
    let interfaces = [
        vec![json!({"name": "a", "masquerade": {}})],
        vec![json!({"name": "a", "bridge": {}}), json!({"name": "b", "bridge": {}})],
        vec![json!({"name": "a", "bridge": {}}), json!({"name": "a"}), json!({"name": "b"}), json!({"name": "b"})],
        vec![],
    ];
    let guest = |networks: &[Value], interfaces: &[Value]| {
        let vm = interfaces.iter().fold(bare_vm("case"), |vm, interface| vm.interface(interface.clone()));
        networks.iter().fold(vm, |vm, network| vm.network(network.clone())).guest()
    };
    networks.iter().flat_map(|networks| interfaces.iter().map(|interfaces| guest(networks, interfaces))).collect()
}

/// Guests with resource claims.
fn claims() -> Vec<Value> {
    let network = |name: &str, claim: Value| json!({"name": name, "resourceClaim": claim});
    let claim = |claim: &str, request: &str| json!({"claimName": claim, "requestName": request});
    let lists = [
        vec![network("a", claim("nics", "one"))],
        vec![network("a", claim("nics", "one")), network("b", claim("nics", "two"))],
        vec![network("a", claim("nics", "one")), network("b", claim("nics", "one"))],
        vec![network("a", claim("other", "one"))],
        vec![network("a", claim("", "one")), network("b", claim("nics", ""))],
        vec![network("a", claim("nics", "one")), json!({"name": "b", "multus": {"networkName": "net"}})],
    ];
    let bindings = [json!({"sriov": {}}), json!({"binding": {"name": "l2"}}), json!({"bridge": {}})];
    let guest = |networks: &[Value], binding: &Value| {
        let mut vm = bare_vm("case");
        for network in networks {
            let mut interface = binding.clone();
            interface["name"] = network["name"].clone();
            vm = vm.interface(interface).network(network.clone());
        }
        let mut guest = vm.guest();
        guest["resourceClaims"] = json!([{"name": "nics"}]);
        guest
    };
    lists.iter().flat_map(|networks| bindings.iter().map(|binding| guest(networks, binding))).collect()
}

/// Updates of VMs and VMIs that add, remove and change NICs, of running and of stopped VMs.
fn updates() -> Vec<Case> {
    let nics = [
        (json!({"name": "default", "masquerade": {}}), json!({"pod": {}})),
        (json!({"name": "lan", "bridge": {}}), multus()),
        (json!({"name": "unbound"}), multus()),
        (json!({"name": "vf", "sriov": {}}), multus()),
        (json!({"name": "plugin", "binding": {"name": "l2"}}), multus()),
        (json!({"name": "old", "bridge": {}, "model": "e1000e"}), multus()),
        (json!({"name": "leaving", "bridge": {}, "model": "e1000e", "state": "absent"}), multus()),
        (json!({"name": "second", "masquerade": {}}), multus()),
        (json!({"name": "replaced", "bridge": {}}), json!({"multus": {"networkName": "net", "default": true}})),
        (json!({"name": "claimed", "sriov": {}}), json!({"resourceClaim": {"claimName": "c", "requestName": "r"}})),
        (json!({"name": "passt", "passtBinding": {}}), json!({"pod": {}})),
    ];
    let lists: Vec<Vec<usize>> = [vec![], vec![0], vec![1]]
        .into_iter()
        .chain((1..nics.len()).map(|nic| vec![0, nic]))
        .chain([vec![0, 1, 2], vec![2, 2], vec![0, 5, 7]])
        .collect();
    let with = |name: &str, list: &[usize]| -> VmBuilder {
        list.iter().fold(bare_vm(name).run_strategy("Always"), |vm, index| {
            let (interface, network) = nics[*index].clone();
            vm.nic_with(interface, network)
        })
    };
    let mut cases = Vec::new();
    // The stored object needs less variety.
    for old in [&lists[0], &lists[1], &lists[2], &lists[3], &lists[7]] {
        for new in lists.iter().filter(|new| *new != old) {
            let (before, after) = (with("case", old), with("case", new));
            let facts = vec![permissive()];
            let (old, new) = (before.build(), after.build());
            let vmi = Some(vmi_of(&old));
            cases.push(Case { old: Some(old.clone()), new: new.clone(), vmi: vmi.clone(), facts: facts.clone() });
            cases.push(Case { old: Some(old.clone()), new: new.clone(), vmi: None, facts: facts.clone() });
            let halted = after.clone().run_strategy("Halted").build();
            cases.push(Case { old: Some(old.clone()), new: halted, vmi: vmi.clone(), facts: facts.clone() });
            let waits = after.clone().annotation("nicplug.io/apply", "on-restart").build();
            cases.push(Case { old: Some(old), new: waits, vmi, facts: facts.clone() });
            cases.push(Case { old: Some(before.build_vmi()), new: after.build_vmi(), vmi: None, facts });
        }
    }
    cases
}

/// The longest lists of the schema cost no expression too much.
async fn largest(admin: &Client, namespace: &str) {
    let nic = |number: usize, interface: Value, network: Value| {
        let mut interface = interface;
        interface["name"] = json!(format!("nic-{number}"));
        (interface, network)
    };
    let vm = |make: &dyn Fn(usize) -> (Value, Value)| {
        let add = |vm: VmBuilder, number| {
            let (interface, network) = make(number);
            vm.nic_with(interface, network)
        };
        (0..MOST_NICS).fold(bare_vm("largest").run_strategy("Always"), add).build()
    };
    let good = vm(&|number| nic(number, json!({"bridge": {}}), multus()));
    let faulty = vm(&|number| {
        let ports: Vec<Value> = (0..4).map(|_| json!({"name": "A", "port": 0, "protocol": "x"})).collect();
        let interface =
            json!({"masquerade": {}, "slirp": {}, "state": "Gone", "model": "x", "macAddress": "x", "ports": ports});
        nic(number, interface, json!({"pod": {}, "multus": {"networkName": ""}}))
    });
    let same = vm(&|_| nic(0, json!({"sriov": {}}), json!({"resourceClaim": {"claimName": "c", "requestName": "r"}})));
    let claims = vm(&|number| {
        nic(number, json!({"sriov": {}}), json!({"resourceClaim": {"claimName": "c", "requestName": "r"}}))
    });
    for (object, is_right) in [(&good, true), (&faulty, false), (&same, false), (&claims, false)] {
        let answer = create(admin, namespace, object, "?dryRun=All").await;
        assert_is_evaluated(&answer);
        assert_eq!(found_by_policies(&answer).is_empty(), is_right, "{:?}", answer.warnings);
    }
    // A running VM whose NICs are all replaced.
    let old = vm(&|number| nic(number + 1000, json!({"bridge": {}}), multus()));
    let mut stored = create(admin, namespace, &old, "").await.granted();
    stored["status"] = json!({"printableStatus": "Running"});
    let path = format!("{}/status", path_of(&stored));
    let stored = send(admin, Method::PUT, &path, "application/json", stored.to_string()).await.granted();
    let plain = vm(&|number| nic(number, json!({"model": "e1000e"}), multus()));
    for (new, expected) in [(&plain, "NP103"), (&faulty, "NP104")] {
        let mut object = stored.clone();
        object["spec"] = new["spec"].clone();
        let answer = replace(admin, &object, "?dryRun=All").await;
        assert_is_evaluated(&answer);
        assert!(found_by_policies(&answer).contains_key(expected), "{:?}", answer.warnings);
    }
}

fn assert_is_evaluated(answer: &Response) {
    assert!(answer.is_ok(), "{answer:?}");
    let failed = answer.warnings.iter().find(|text| text.contains("resulted in error") || text.contains("budget"));
    assert!(failed.is_none(), "{failed:?}");
}

#[test]
fn the_documents_name_what_is_exported() {
    let page = fs::read_to_string(data("../../docs/export-policy.md")).unwrap();
    for policy in EXPRESSED {
        assert!(page.contains(policy.rule), "{}", policy.rule);
    }
}
