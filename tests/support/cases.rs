//! Files of `tests/data`, reviewers over them, and the answers that they give.

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
    settings::{ApiSettings, Enforcement, Settings},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Returns the path of a file or folder of `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Returns the path of a file or folder in `../shared`, which not every checkout has.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(name);
    if !path.exists() {
        println!("skipped: ../shared/{name} does not exist");
        return None;
    }
    Some(path)
}

/// Returns the entries of a folder, sorted by name.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

/// Reads a JSON file.
pub(crate) fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A row of a file in `tests/data/live`: an update of a VM on a real control plane, and what was seen a few seconds
/// later.
#[derive(Deserialize)]
pub(crate) struct LiveRow<Seen> {
    pub(crate) tag: String,
    pub(crate) review: Value,
    pub(crate) facts: Vec<Value>,
    pub(crate) seen: Seen,
}

/// Reads a file of cases, one JSON object per line.
pub(crate) fn rows<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns a store with these objects, as if they were the whole cluster.
pub(crate) fn store(objects: &[Value]) -> Store {
    let mut store = Store::complete();
    for object in objects {
        store.insert(object).unwrap();
    }
    store
}

/// Returns a reviewer over a file of facts, or over no facts if the file does not exist.
pub(crate) fn reviewer_of_file(facts: &Path) -> Reviewer {
    let source: Arc<dyn FactSource> =
        if facts.exists() { Arc::new(files::load(facts, &ApiSettings::default()).unwrap()) } else { Arc::new(NoFacts) };
    Reviewer::new(source, Settings::default())
}

/// Returns settings that enforce every rule in the same way.
pub(crate) fn every_rule(enforcement: Enforcement) -> Settings {
    RULES.iter().fold(Settings::default(), |settings, rule| settings.with_rule(rule.id, enforcement))
}

/// Returns the operations of the patch in the answer of `/mutate`.
pub(crate) fn patch_for(reviewer: &Reviewer, review: &Value) -> Vec<PatchOperation> {
    let answer = reviewer.review(Endpoint::Mutate, review.to_string().as_bytes());
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["response"]["allowed"], json!(true), "{body}");
    match &body["response"]["patch"] {
        Value::Null => Vec::new(),
        patch => serde_json::from_slice(&BASE64.decode(patch.as_str().unwrap()).unwrap()).unwrap(),
    }
}

/// An answer of `/validate`.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) is_allowed: bool,
    pub(crate) causes: Vec<Cause>,
    /// Without the name of the object, with which each begins.
    pub(crate) warnings: Vec<String>,
}

/// An entry of `details.causes[]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Cause {
    pub(crate) reason: String,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl Cause {
    /// Returns the causes in the status of a response.
    pub(crate) fn all_of(status: &Value) -> Vec<Self> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let cause = |value: &Value| Self {
            reason: text(&value["reason"]),
            field: text(&value["field"]),
            message: text(&value["message"]),
        };
        status["details"]["causes"].as_array().into_iter().flatten().map(cause).collect()
    }
}

impl Answer {
    /// Sends a review to `/validate` and reads the answer.
    pub(crate) fn to(reviewer: &Reviewer, review: &Value) -> Self {
        let answer = reviewer.review(Endpoint::Validate, review.to_string().as_bytes());
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let response = &body["response"];
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let request = &review["request"];
        let names = [&request["name"], &request["object"]["metadata"]["name"]].map(|name| name.as_str().unwrap_or(""));
        let name = names.into_iter().find(|name| !name.is_empty());
        let warning = |value: &Value| {
            let (line, prefix) = (text(value), name.map(|name| format!("{name}: ")).unwrap_or_default());
            let without = line.strip_prefix(&prefix).map(str::to_owned);
            without.unwrap_or_else(|| panic!("the warning {line:?} does not begin with {prefix:?}"))
        };
        Self {
            // An answer without a verdict, as for a body without a request, allows nothing.
            is_allowed: response["allowed"] == json!(true),
            causes: Cause::all_of(&response["status"]),
            warnings: list(&response["warnings"]).iter().map(warning).collect(),
        }
    }

    /// Returns whether it has neither causes nor warnings.
    pub(crate) fn is_silent(&self) -> bool {
        self.causes.is_empty() && self.warnings.is_empty()
    }
}

/// Splits a message into its text and the rule ids in the brackets at its end.
pub(crate) fn text_and_rules(message: &str) -> (&str, Vec<&str>) {
    let parts = message.strip_suffix(']').and_then(|message| message.rsplit_once(" ["));
    parts.map_or((message, Vec::new()), |(text, ids)| (text, ids.split(", ").collect()))
}
