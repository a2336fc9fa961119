//! What nicplug tells about an update of a running VM, compared with what KubeVirt was seen to do.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{collections::BTreeSet, fs, path::Path, process::Command, sync::Arc};

use nicplug::{admission::Reviewer, cluster::manifests, settings::Settings};
use serde::Deserialize;
use serde_json::{Value, json};
use support::cases::{Answer, LiveRow, data, entries, json_file, reviewer_of_file, rows, store, text_and_rules};

type Row = LiveRow<Seen>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    /// Whether KubeVirt's own webhooks admitted the update.
    admitted: bool,
    #[serde(default)]
    restart_required_before: bool,
    #[serde(default)]
    restart_required_after: bool,
    /// The status of the condition `MigrationRequired`: `True` means at once, `False` after a grace period.
    migration_required_before: Option<String>,
    migration_required_after: Option<String>,
}

impl Seen {
    fn asks_for_restart(&self) -> bool {
        self.restart_required_after && !self.restart_required_before
    }

    /// Returns whether a migration is newly required; `None` in the grace period, after which it may be.
    fn asks_for_migration(&self) -> Option<bool> {
        match self.migration_required_after.as_deref() {
            Some("False") => None,
            Some(after) => Some(after == "True" && self.migration_required_before.as_deref() != Some(after)),
            None => Some(false),
        }
    }
}

/// Updates that KubeVirt stores and that nicplug denies: the NIC never reaches the guest, or its network is missing.
const DENIED: [&str; 4] = ["add-plugin", "add-e1000e", "not-migratable-bridge", "nad-change-missing"];

#[test]
fn restarts_and_migrations_are_told_exactly_as_kubevirt_1_9_0_asks_for_them() {
    assert_told("live.ndjson", 77, &DENIED);
}

#[test]
fn restarts_and_migrations_are_told_exactly_as_kubevirt_1_8_4_asks_for_them() {
    // Without its gate 1.8 applies a changed network at the next boot, so that it may be missing until then.
    assert_told("live-1.8.4.ndjson", 77, &DENIED[..3]);
}

#[test]
fn restarts_and_migrations_are_told_exactly_as_kubevirt_1_6_6_asks_for_them() {
    assert_told("live-1.6.6.ndjson", 76, &DENIED[..3]);
}

fn assert_told(file: &str, count: usize, denied: &[&str]) {
    let rows: Vec<Row> = rows(&data("live").join(file));
    assert_eq!(rows.len(), count);
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.seen.admitted) {
        let reviewer = Reviewer::new(Arc::new(store(&row.facts)), Settings::default());
        let answer = Answer::to(&reviewer, &row.review);
        // The tags of the older versions begin with the version.
        let tag =
            row.tag.split_once('/').filter(|(version, _)| file.contains(version)).map_or(&*row.tag, |(_, tag)| tag);
        if !answer.is_allowed || denied.contains(&tag) {
            if answer.is_allowed || !denied.contains(&tag) {
                wrong.push(format!("{}: allowed {}", row.tag, answer.is_allowed));
            }
            continue;
        }
        let is_of_live_change = |warning: &&String| text_and_rules(warning).1.contains(&"NP108");
        let tells_restart = answer.warnings.iter().filter(is_of_live_change).any(|warning| warning.contains("restart"));
        let tells_migration = answer.warnings.iter().any(|warning| warning.contains("migration"));
        let is_migration_right = row.seen.asks_for_migration().is_none_or(|asks| asks == tells_migration);
        if tells_restart != row.seen.asks_for_restart() || !is_migration_right {
            wrong.push(format!("{}: restart {tells_restart}, migration {tells_migration}: {answer:?}", row.tag));
        }
    }
    assert!(wrong.is_empty(), "{file}:\n{}", wrong.join("\n"));
}

/// `expect.json` of a case.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Expect {
    allowed: bool,
    /// The ids of the rules that deny.
    causes: BTreeSet<String>,
    warnings_include: Vec<String>,
    /// Neither causes nor warnings.
    silent: bool,
    /// Words of some message or warning, in any case.
    says: Vec<String>,
    says_not: Vec<String>,
    /// The output of `nicplug slots` for `manifest.yaml`, instead of a review.
    slots: Option<Slots>,
    /// Where the case comes from, why it is right, and what was seen: for the reader.
    #[serde(rename = "source")]
    _source: Value,
    #[serde(rename = "why")]
    _why: Value,
    #[serde(rename = "seen")]
    _seen: Value,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            allowed: true,
            causes: BTreeSet::new(),
            warnings_include: Vec::new(),
            silent: false,
            says: Vec::new(),
            says_not: Vec::new(),
            slots: None,
            _source: Value::Null,
            _why: Value::Null,
            _seen: Value::Null,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slots {
    kubevirt: String,
    /// Whether the guest cannot boot.
    refused: bool,
}

#[test]
fn problems_from_public_reports_are_told() {
    assert_folder("reports");
}

#[test]
fn what_a_real_control_plane_did_is_told() {
    assert_folder("real");
}

/// What nicplug knows of the preference of a VM.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The ControllerRevision that KubeVirt stored for the VM.
    Revision,
    /// The object itself.
    Object,
    /// Nothing but what the running guest shows.
    Guest,
}

/// Returns the facts of a case whose VM has the preference `pe` with model e1000e.
fn facts_of_preference(source: Source) -> Vec<Value> {
    let text = fs::read_to_string(data("real/hotplug-under-preferred-e1000e/facts.yaml")).unwrap();
    let mut objects: Vec<Value> = manifests::read(&text).unwrap().into_iter().map(|manifest| manifest.object).collect();
    let is_stored = |object: &Value| object["data"]["kind"] == "VirtualMachinePreference";
    let stored: Vec<Value> = objects.iter().filter(|object| is_stored(object)).cloned().collect();
    assert_eq!(stored.len(), 1);
    if !matches!(source, Source::Revision) {
        objects.retain(|object| !is_stored(object));
    }
    if let Source::Object = source {
        objects.push(stored[0]["data"].clone());
    }
    objects
}

#[test]
fn under_a_preferred_e1000e_the_answers_are_what_kubevirt_was_seen_to_do() {
    let plugged = |fields: Value| {
        let mut nic = json!({"name": "dyn", "bridge": {}});
        nic.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!([{"name": "default", "masquerade": {}}, nic])
    };
    for (interfaces, causes, expected) in [
        // Writing out what the preference has set changes nothing.
        (json!([{"name": "default", "masquerade": {}, "model": "e1000e"}]), vec![], None),
        (
            json!([{"name": "default", "masquerade": {}, "model": "virtio"}]),
            vec![],
            Some("model of \"default\" changes at the next restart"),
        ),
        (plugged(json!({})), vec![], Some("\"dyn\" has no model: the preference's \"e1000e\"")),
        (plugged(json!({"model": "virtio"})), vec![], None),
        // NP103 judges the NIC as it is written: KubeVirt copies it so.
        (plugged(json!({"model": "e1000e"})), vec!["NP103"], None),
    ] {
        for source in [Source::Revision, Source::Object, Source::Guest] {
            let reviewer = Reviewer::new(Arc::new(store(&facts_of_preference(source))), Settings::default());
            let mut review = json_file(&data("real/hotplug-under-preferred-e1000e/review.json"));
            let spec = &mut review["request"]["object"]["spec"]["template"]["spec"];
            let is_plugged = interfaces.as_array().unwrap().len() == 2;
            spec["domain"]["devices"]["interfaces"] = interfaces.clone();
            spec["networks"].as_array_mut().unwrap().truncate(1 + usize::from(is_plugged));
            let answer = Answer::to(&reviewer, &review);
            let denying: Vec<&str> = answer.causes.iter().flat_map(|cause| text_and_rules(&cause.message).1).collect();
            assert_eq!(denying, causes, "{source:?} {interfaces}: {answer:?}");
            let restarts: Vec<&String> =
                answer.warnings.iter().filter(|warning| text_and_rules(warning).1.contains(&"NP108")).collect();
            match expected {
                Some(expected) => {
                    assert!(restarts.len() == 1 && restarts[0].starts_with(expected), "{source:?}: {answer:?}");
                }
                None => assert!(restarts.is_empty(), "{source:?} {interfaces}: {answer:?}"),
            }
        }
    }
}

/// The ports of a new VM with an instancetype and a preference, as in most public manifests.
#[test]
fn a_vm_of_an_instancetype_is_reviewed_as_kubevirt_expands_it() {
    let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt", "metadata": {"name": "kubevirt"},
        "status": {"observedKubeVirtVersion": "v1.9.0"}});
    let object = |kind: &str, name: &str, spec: &Value| json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let instancetype = |memory: &str| {
        let spec = json!({"cpu": {"guest": 2}, "memory": {"guest": memory}});
        object("VirtualMachineClusterInstancetype", "u1.small", &spec)
    };
    let preferring =
        |bus: &str| object("VirtualMachineClusterPreference", "fedora", &json!({"devices": {"preferredDiskBus": bus}}));
    let (virtio, sata) = (preferring("virtio"), preferring("sata"));
    let names = ["default", "a", "b", "c"];
    let nic = |name: &&str| json!({"name": name, "bridge": {}});
    let network = |name: &&str| json!({"name": name, "multus": {"networkName": "net"}});
    let review = |annotations: Value| {
        let mut networks: Vec<Value> = names.iter().map(network).collect();
        networks[0] = json!({"name": "default", "pod": {}});
        let mut interfaces: Vec<Value> = names.iter().map(nic).collect();
        interfaces[0] = json!({"name": "default", "masquerade": {}});
        let devices = json!({"interfaces": interfaces, "disks": [{"name": "root"}]});
        let template = json!({"domain": {"devices": devices}, "networks": networks,
            "volumes": [{"name": "root"}, {"name": "seed"}]});
        let vm = json!({"metadata": {"name": "vm", "namespace": "demo", "annotations": annotations},
            "spec": {"instancetype": {"name": "u1.small"}, "preference": {"name": "fedora"},
                "template": {"spec": template}}});
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u", "name": "vm",
            "namespace": "demo", "operation": "CREATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"},
            "object": vm}})
    };
    let nad = json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "net", "namespace": "demo"}, "spec": {"config": "{\"type\": \"bridge\"}"}});
    let reserving = || json!({"nicplug.io/reserve-ports": "1"});
    let (small, large) = (instancetype("2Gi"), instancetype("4Gi"));
    for (others, annotations, expected) in [
        // More memory brings more ports, and virtio disks take them.
        (vec![&small, &sata], json!({}), Some("no free hotplug port after its next boot (NICs: 4)")),
        (vec![&large, &sata], json!({}), None),
        (vec![&large, &virtio], json!({}), Some("no free hotplug port after its next boot (NICs: 4)")),
        (vec![&small, &virtio], reserving(), None),
        // Without the instancetype nothing is counted, and only a VM that reserves ports gets a warning.
        (vec![&sata], json!({}), None),
        (vec![&sata], reserving(), Some("were not counted: the instancetype or preference cannot be read")),
    ] {
        let facts: Vec<Value> = [vec![&kubevirt, &nad], others].concat().into_iter().cloned().collect();
        let reviewer = Reviewer::new(Arc::new(store(&facts)), Settings::default());
        let answer = Answer::to(&reviewer, &review(annotations));
        let warning = answer.warnings.first().map(String::as_str).unwrap_or_default();
        assert!(answer.causes.is_empty(), "{answer:?}");
        assert_eq!(answer.warnings.len(), usize::from(expected.is_some()), "{answer:?}");
        assert!(warning.contains(expected.unwrap_or_default()), "{answer:?}");
    }
}

fn assert_folder(name: &str) {
    let cases = entries(&data(name));
    assert!(!cases.is_empty());
    let wrong: Vec<String> = cases
        .iter()
        .flat_map(|case| faults(case).into_iter().map(move |fault| format!("{}: {fault}", case.display())))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns what differs from the expected answer.
fn faults(case: &Path) -> Vec<String> {
    let expect: Expect = serde_json::from_value(json_file(&case.join("expect.json"))).unwrap();
    if let Some(slots) = &expect.slots {
        return faults_of_slots(&case.join("manifest.yaml"), slots);
    }
    let reviewer = reviewer_of_file(&case.join("facts.yaml"));
    let answer = Answer::to(&reviewer, &json_file(&case.join("review.json")));
    let ids = |messages: &[String]| -> BTreeSet<String> {
        messages.iter().flat_map(|message| text_and_rules(message).1).map(str::to_owned).collect()
    };
    let messages: Vec<String> = answer.causes.iter().map(|cause| cause.message.clone()).collect();
    let (causes, warnings) = (ids(&messages), ids(&answer.warnings));
    let text = [messages.join("\n"), answer.warnings.join("\n")].join("\n").to_lowercase();
    let says = |words: &String| text.contains(&words.to_lowercase());
    let mut faults = Vec::new();
    if answer.is_allowed != expect.allowed || causes != expect.causes {
        faults.push(format!("allowed {}, causes {causes:?}: {messages:?}", answer.is_allowed));
    }
    if expect.silent && !answer.is_silent() {
        faults.push(format!("not silent: {:?}", answer.warnings));
    }
    let missing = expect.warnings_include.iter().filter(|id| !warnings.contains(*id));
    faults.extend(missing.map(|id| format!("no warning of {id}: {:?}", answer.warnings)));
    faults
        .extend(expect.says.iter().filter(|words| !says(words)).map(|words| format!("does not say {words:?}: {text}")));
    faults.extend(expect.says_not.iter().filter(|words| says(words)).map(|words| format!("says {words:?}: {text}")));
    faults
}

fn faults_of_slots(manifest: &Path, expect: &Slots) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nicplug"));
    command.args(["slots", "--output", "json", "--kubevirt-version", &expect.kubevirt, "--file"]).arg(manifest);
    let output = command.output().unwrap();
    let refused = match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(slots) => slots["afterRestart"]["refused"].is_string(),
        Err(_) => true,
    };
    if refused == expect.refused { Vec::new() } else { vec![format!("refused {refused}")] }
}
