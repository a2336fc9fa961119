//! An ordinary manifest draws no warning when it is created.

// Helpers of tests fail as tests do.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use json_patch::Patch;
use nicplug::admission::Reviewer;
use serde_json::{Value, json};
use support::cases::{Answer, data, entries, patch_for, reviewer_of_file};

/// The only warnings, each with the name of its object and the reason why it is true.
const EXPECTED: &[(&str, &str)] = &[
    // KubeVirt up to 1.9 gives a guest with four NICs no free port: tests/data/pci.ndjson.
    (
        "four-nics",
        "the VM has no free hotplug port after its next boot (NICs: 4): set nicplug.io/reserve-ports=1 [NP107]",
    ),
];

/// At most one manifest in this many may draw a warning.
const ONE_IN: usize = 20;

#[test]
fn an_ordinary_manifest_draws_no_warning() {
    let folder = data("templates");
    let reviewer = reviewer_of_file(&folder.join("facts.yaml"));
    let is_facts = |path: &Path| path.file_name().is_some_and(|name| name == "facts.yaml");
    let files = entries(&folder).into_iter().filter(|path| !is_facts(path));
    let texts: Vec<String> = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let manifests: Vec<Value> = texts.iter().flat_map(|text| guests(text)).collect();
    assert!(manifests.len() >= 50, "{} manifests", manifests.len());

    let answers: Vec<(&str, Answer)> =
        manifests.iter().map(|manifest| (name(manifest), create(&reviewer, manifest))).collect();
    for (name, answer) in &answers {
        assert!(answer.is_allowed, "{name}: {:?}", answer.causes);
    }
    let warned =
        answers.iter().flat_map(|(name, answer)| answer.warnings.iter().map(|warning| (*name, warning.as_str())));
    assert_eq!(warned.collect::<Vec<_>>(), EXPECTED);
    let with_warning = answers.iter().filter(|(_, answer)| !answer.warnings.is_empty()).count();
    assert!(with_warning * ONE_IN <= answers.len(), "{with_warning} of {} manifests", answers.len());
}

/// The examples of docs/rules.md are left out: each shows a fault.
#[test]
fn the_manifests_of_the_documents_and_examples_draw_no_warning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let reviewer = reviewer_of_file(&data("templates/facts.yaml"));
    let mut texts = Vec::new();
    for folder in [root.to_owned(), root.join("docs"), root.join("examples")] {
        for path in entries(&folder) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("yaml") => texts.push(fs::read_to_string(path).unwrap()),
                Some("md") if !path.ends_with("docs/rules.md") => {
                    texts.extend(yaml_blocks(&fs::read_to_string(path).unwrap()));
                }
                _ => {}
            }
        }
    }
    let manifests: Vec<Value> = texts.iter().flat_map(|text| guests(text)).collect();
    assert!(manifests.len() >= 2, "{} manifests: are they still found?", manifests.len());
    for manifest in &manifests {
        let answer = create(&reviewer, manifest);
        assert!(answer.is_allowed && answer.warnings.is_empty(), "{}: {answer:?}", name(manifest));
    }
}

/// Returns the objects of a YAML text that nicplug reviews and that have a complete spec.
fn guests(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let kind = |document: &Value| document["kind"].as_str().unwrap_or_default().to_owned();
    let is_guest = |document: &Value| {
        matches!(
            kind(document).as_str(),
            "VirtualMachine" | "VirtualMachineInstance" | "VirtualMachineInstanceReplicaSet" | "VirtualMachinePool"
        ) && document["spec"].is_object()
            && document["metadata"]["name"].is_string()
    };
    documents.into_iter().filter(is_guest).collect()
}

/// Returns the YAML in the code blocks of a document.
fn yaml_blocks(markdown: &str) -> Vec<String> {
    let blocks = markdown.split("```yaml\n").skip(1);
    blocks.filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

/// Creates an object through both webhooks, as the API server does.
fn create(reviewer: &Reviewer, manifest: &Value) -> Answer {
    let mut object = manifest.clone();
    let patch = patch_for(reviewer, &review(&object));
    json_patch::patch(&mut object, &Patch(patch)).unwrap();
    Answer::to(reviewer, &review(&object))
}

fn review(object: &Value) -> Value {
    let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap();
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": group, "version": version, "kind": object["kind"]},
            "name": object["metadata"]["name"],
            "namespace": object["metadata"].get("namespace").unwrap_or(&json!("demo")),
            "operation": "CREATE",
            "userInfo": {"username": "alice"},
            "object": object,
        },
    })
}

fn name(manifest: &Value) -> &str {
    manifest["metadata"]["name"].as_str().unwrap()
}
