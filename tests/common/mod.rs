//! What several tests share: where the cases are, requests to make, and answers to read.

// Each test compiles this module for itself and uses a part of it; its helpers fail as tests do.
#![allow(dead_code, clippy::indexing_slicing, clippy::print_stdout, clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use json_patch::PatchOperation;
use nicplug::{
    admission::{Endpoint, Reviewer},
    cluster::{files, store::Store},
    facts::{FactSource, NoFacts},
    rules::RULES,
    settings::{Enforcement, Settings},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A file or folder of `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A file or folder of the project's shared material, which a clone elsewhere does not have.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if !path.exists() {
        println!("skipped: {name} is not beside this checkout");
        return None;
    }
    Some(path)
}

/// The entries of a folder, by name.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// A file of JSON.
pub(crate) fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A file of cases, one a line.
pub(crate) fn rows<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A cluster of these objects and no others.
pub(crate) fn store(objects: &[Value]) -> Store {
    let mut store = Store::complete();
    for object in objects {
        store.insert(object).unwrap();
    }
    store
}

/// A reviewer over a file of facts; nothing is known where there is none.
pub(crate) fn reviewer_of_file(facts: &Path) -> Reviewer {
    let source: Arc<dyn FactSource> =
        if facts.exists() { Arc::new(files::load(facts).unwrap()) } else { Arc::new(NoFacts) };
    Reviewer::new(source, Settings::default())
}

/// Settings that enforce every rule alike.
pub(crate) fn every_rule(enforcement: Enforcement) -> Settings {
    RULES.iter().fold(Settings::default(), |settings, rule| settings.with_rule(rule.id, enforcement))
}

/// The kinds that hold a guest: group, kind, and where the guest is.
pub(crate) const KINDS: [Kind; 4] = [
    ("kubevirt.io", "VirtualMachine", "spec.template.spec"),
    ("kubevirt.io", "VirtualMachineInstance", "spec"),
    ("kubevirt.io", "VirtualMachineInstanceReplicaSet", "spec.template.spec"),
    ("pool.kubevirt.io", "VirtualMachinePool", "spec.virtualMachineTemplate.spec.template.spec"),
];

pub(crate) type Kind = (&'static str, &'static str, &'static str);

/// The object `vm-fedora` of a kind with this guest.
pub(crate) fn object((group, kind, path): Kind, guest: &Value) -> Value {
    let spec = path.split('.').rev().fold(guest.clone(), |inner, key| json!({ key: inner }));
    let metadata = json!({"name": "vm-fedora", "namespace": "demo"});
    let mut object = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": metadata});
    object.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

/// The update of an object, or its making where `old` is null.
pub(crate) fn review((group, kind, _): Kind, old: &Value, new: &Value) -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": group, "version": "v1", "kind": kind}, "name": "vm-fedora", "namespace": "demo",
        "operation": if old.is_null() { "CREATE" } else { "UPDATE" }, "userInfo": {"username": "alice"},
        "object": new, "oldObject": old}})
}

/// The operations of the patch that `/mutate` answers.
pub(crate) fn patch_for(reviewer: &Reviewer, review: &Value) -> Vec<PatchOperation> {
    let answer = reviewer.review(Endpoint::Mutate, review.to_string().as_bytes());
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["response"]["allowed"], json!(true), "{body}");
    match &body["response"]["patch"] {
        Value::Null => Vec::new(),
        patch => serde_json::from_slice(&BASE64.decode(patch.as_str().unwrap()).unwrap()).unwrap(),
    }
}

/// What `/validate` answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) is_allowed: bool,
    pub(crate) causes: Vec<Cause>,
    pub(crate) warnings: Vec<String>,
}

/// An entry of `details.causes[]`.
#[derive(Debug)]
pub(crate) struct Cause {
    pub(crate) reason: String,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Answer {
    pub(crate) fn to(reviewer: &Reviewer, review: &Value) -> Self {
        let answer = reviewer.review(Endpoint::Validate, review.to_string().as_bytes());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let response = &body["response"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let cause = |value: &Value| Cause {
            reason: text(&value["reason"]),
            field: text(&value["field"]),
            message: text(&value["message"]),
        };
        Self {
            // An answer that is no verdict, as to a body without a request, allows nothing.
            is_allowed: response["allowed"] == json!(true),
            causes: list(&response["status"]["details"]["causes"]).iter().map(cause).collect(),
            warnings: list(&response["warnings"]).iter().map(text).collect(),
        }
    }

    /// Neither causes nor warnings.
    pub(crate) fn is_silent(&self) -> bool {
        self.causes.is_empty() && self.warnings.is_empty()
    }
}

/// The text of a message and the rule ids in the brackets at its end; none where there are no brackets.
pub(crate) fn text_and_rules(message: &str) -> (&str, Vec<&str>) {
    let parts = message.strip_suffix(']').and_then(|message| message.rsplit_once(" ["));
    parts.map_or((message, Vec::new()), |(text, ids)| (text, ids.split(", ").collect()))
}
