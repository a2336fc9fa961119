//! The judgement of manifests by the evaluation of the webhook.

use std::{
    cell::{LazyCell, OnceCell},
    collections::HashSet,
    fmt::Write as _,
    ops::Range,
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    ignore::Ignores,
    problem::{Checked, Level, Origin, Problem, Report, stable_field},
    reading::{Part, ReadDocument, ReadObject, Reading},
    source::{Before, Source, set_namespace, texts_with},
};
use crate::{
    admission::{Endpoint, Evaluator, Judged, Severity, parse},
    api::review::{GroupVersionKind, ObjectKind},
    change::{Change, MigrationStart},
    cluster::{
        files::{self, FilesError},
        manifests::{self, Document, Position},
        store::Store,
    },
    facts::{Fact, FactSource, Facts, KubeVirt},
    k8s::kind::Kind,
    kubevirt::Version,
    settings::Settings,
};

/// The longest line of a file that is shown.
const MAX_SOURCE: usize = 200;

/// The kinds of objects in the checked files that are facts for the others.
const FACT_KINDS: [&str; 6] =
    ["NetworkAttachmentDefinition", "Namespace", "KubeVirt", "ResourceQuota", "ConfigMap", "DaemonSet"];

/// Judges the manifests of a check.
pub(super) struct Judge {
    pub(super) store: Store,
    pub(super) settings: Settings,
    /// The namespace of an object that does not name one.
    pub(super) namespace: String,
    pub(super) before: Before,
    /// The version of KubeVirt that `--kubevirt-version` asks for.
    pub(super) version: Option<Version>,
    pub(super) ignores: Ignores,
    pub(super) report: Report,
}

/// A file that is checked.
struct CheckedFile {
    /// The name in outputs.
    name: String,
    text: Text,
}

/// A text and, once a problem is found in it, where its lines are.
#[derive(Default)]
struct Text {
    text: Arc<String>,
    lines: OnceCell<Vec<Range<usize>>>,
}

impl Text {
    fn new(text: Arc<String>) -> Self {
        Self { text, lines: OnceCell::new() }
    }

    /// Returns a line, counted from 1.
    fn line(&self, number: usize) -> Option<&str> {
        let lines = self.lines.get_or_init(|| {
            let mut end = 0;
            let range = |line: &str| {
                let start = end;
                end += line.len();
                start..end
            };
            self.text.split_inclusive('\n').map(range).collect()
        });
        let range = lines.get(number.checked_sub(1)?)?.clone();
        self.text.get(range)
    }

    /// Returns the line of a place; empty if it is too long to be shown.
    fn line_at(&self, at: Position) -> String {
        let line = self.line(at.line).unwrap_or_default().trim_end();
        if line.len() > MAX_SOURCE { String::new() } else { line.to_owned() }
    }
}

/// The facts of a store as if KubeVirt had another version.
pub(in crate::cli) struct WithVersion<'s> {
    pub(in crate::cli) store: &'s Store,
    pub(in crate::cli) version: Version,
}

impl WithVersion<'_> {
    fn replace(&self, facts: Facts) -> Facts {
        let kubevirt = facts.kubevirt.known().map(|kubevirt| (**kubevirt).clone()).unwrap_or_default();
        let kubevirt = KubeVirt { version: Some(self.version), ..kubevirt };
        Facts { kubevirt: Fact::Known(Arc::new(kubevirt)), ..facts }
    }
}

impl FactSource for WithVersion<'_> {
    fn reads_group(&self, group: &str, of: &str) -> bool {
        self.store.reads_group(group, of)
    }

    fn facts_for(&self, change: &Change) -> Facts {
        self.replace(self.store.facts_for(change))
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.replace(self.store.facts_for_migration(start))
    }
}

impl Judge {
    /// Adds the facts of the checked files themselves: a network of the same chart is known.
    pub(super) fn add_facts(&mut self, sources: &[Source]) {
        for (source, text) in texts_with(sources, &FACT_KINDS) {
            self.add_facts_of(source, &text);
        }
    }

    fn add_facts_of(&mut self, source: &Source, text: &Arc<String>) {
        for document in manifests::documents(text) {
            if !FACT_KINDS.iter().any(|kind| document.text().contains(kind)) {
                continue;
            }
            for mut manifest in document.read().unwrap_or_default() {
                if FACT_KINDS.contains(&manifest.kind()) {
                    if manifest.kind() != "Namespace" && manifest.kind() != "KubeVirt" {
                        set_namespace(&mut manifest.object, &self.namespace);
                    }
                    if let Err(error) = files::insert(&mut self.store, &manifest) {
                        let what = format!("{}; write the field as its API defines it", error.message);
                        let file = CheckedFile { name: source.name(), text: Text::new(Arc::clone(text)) };
                        self.add_fault(&file, error.at, &what, false);
                    }
                }
            }
        }
    }

    /// Judges all objects of the sources. `begin` gets the name of a file now and then.
    pub(super) fn judge_all(&mut self, sources: &[Source], begin: impl Fn(&str)) {
        let (namespace, api) = (self.namespace.clone(), self.settings.api.clone());
        let reading = Reading { sources, namespace: &namespace, api: &api };
        std::thread::scope(|scope| {
            let mut file = CheckedFile { name: String::new(), text: Text::default() };
            for batch in reading.start(scope) {
                begin(&file.name);
                for part in batch {
                    match part {
                        Part::File(number, text) => {
                            file.name = sources.get(number).map(Source::name).unwrap_or_default();
                            self.start_file(&mut file, text);
                        }
                        Part::Document(document) => self.judge_document(&file, document),
                    }
                }
            }
        });
    }

    fn start_file(&mut self, file: &mut CheckedFile, text: Result<Arc<String>, FilesError>) {
        self.report.files += 1;
        file.text = Text::default();
        match text {
            Ok(text) => file.text = Text::new(text),
            Err(error) => {
                let mut what = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    let _ = write!(what, " ({cause})");
                }
                self.add_fault(file, Position::start(), &what, true);
            }
        }
    }

    fn judge_document(&mut self, file: &CheckedFile, document: ReadDocument) {
        self.report.documents += 1;
        if !document.comments.is_empty() {
            self.ignores.add_comments(&file.name, &document.comments, |number| file.text.line(number));
        }
        // Most documents have no finding, so their fields have no places until one is found.
        let trees = LazyCell::new(|| Document::at(&file.text.text, document.place).trees().unwrap_or_default());
        match document.objects {
            Ok(objects) => objects.iter().for_each(|object| {
                self.judge_object(file, object, |field| trees.get(object.number).map(|tree| tree.find(field)));
            }),
            Err(error) => self.add_fault(file, error.at, &error.message, true),
        }
    }

    fn judge_object(&mut self, file: &CheckedFile, object: &ReadObject, find: impl Fn(&str) -> Option<Position>) {
        let before = self.before.get(&object.api_version, &object.kind_text, &object.namespace, &object.name).cloned();
        let subject = Subject {
            gvk: object.gvk(),
            namespace: &object.namespace,
            name: object.shown_name(),
            json: &object.json,
            before: before.as_ref(),
        };
        let shown = format!("{} {}/{}", object.kind_text, subject.namespace, subject.name);
        let (patched, judged) = self.findings(&subject);
        let after = LazyCell::new(|| patched.unwrap_or_else(|| serde_json::from_str(&object.json).unwrap_or_default()));
        for judged in judged {
            if let Some(missing) = judged.missing {
                self.report.add_unknown(missing, origin_of(&judged));
                continue;
            }
            let at = find(&judged.field).unwrap_or_else(Position::start);
            self.report.problems.push(problem_of(file, at, &shown, &after, judged));
        }
        self.report.checked.push(Checked { file: file.name.clone(), object: shown });
        let kind = match object.kind {
            ObjectKind::Vm => Kind::Vm,
            ObjectKind::Vmi => Kind::Vmi,
            _ => return,
        };
        if before.is_none() {
            // The next object with the same MAC address is found. A field of a wrong type was reported above.
            let _ = self.store.apply(kind, &object.json);
        }
    }

    /// Returns the object as the mutating webhook makes it, `None` if it does not change it, and what the validating
    /// webhook finds in it. With `--kubevirt-version`, findings that the present version does not have say so.
    fn findings(&self, subject: &Subject) -> (Option<Value>, Vec<Judged>) {
        let Some(version) = self.version else { return evaluate(&self.store, &self.settings, subject) };
        let facts = WithVersion { store: &self.store, version };
        let (object, mut judged) = evaluate(&facts, &self.settings, subject);
        let present = self.store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
        if present.is_some_and(|present| present != version) {
            let identity = |judged: &Judged| (origin_of(judged).id(), judged.field.clone());
            let (_, today) = evaluate(&self.store, &self.settings, subject);
            let today: HashSet<_> = today.iter().map(identity).collect();
            for judged in judged.iter_mut().filter(|judged| !today.contains(&identity(judged))) {
                let _ = write!(judged.what, " (new with KubeVirt {version})");
            }
        }
        (object, judged)
    }

    fn add_fault(&mut self, file: &CheckedFile, at: Position, what: &str, is_unreadable: bool) {
        let problem = Problem::of_file(&file.name, at, Level::Error, Origin::Manifest, what);
        self.report.problems.push(Problem { source: file.text.line_at(at), is_unreadable, ..problem });
    }
}

/// An object that the API server would send to the webhooks.
struct Subject<'s> {
    gvk: GroupVersionKind<'s>,
    namespace: &'s str,
    name: &'s str,
    json: &'s str,
    /// The object as it was; `None` for a new one.
    before: Option<&'s Value>,
}

/// Evaluates an object as the two webhooks do, one after the other. Returns the object if the first one changes it.
fn evaluate(facts: &dyn FactSource, settings: &Settings, subject: &Subject) -> (Option<Value>, Vec<Judged>) {
    let evaluator = Evaluator::new(facts, settings);
    let body = review(subject);
    let request = parse(body.as_bytes());
    let patch = evaluator.evaluate(Endpoint::Mutate, &request).into_patch();
    if patch.is_empty() {
        return (None, evaluator.findings(&request));
    }
    let mut object = serde_json::from_str(subject.json).unwrap_or_default();
    // The patch was made for this object.
    let _ = json_patch::patch(&mut object, &patch);
    let json = object.to_string();
    let Subject { ref gvk, namespace, name, before, .. } = *subject;
    let gvk = GroupVersionKind {
        group: gvk.group.as_str().into(),
        version: gvk.version.as_str().into(),
        kind: gvk.kind.as_str().into(),
    };
    let body = review(&Subject { gvk, namespace, name, before, json: &json });
    (Some(object), evaluator.findings(&parse(body.as_bytes())))
}

/// Returns what the webhook would find in an object of `kubevirt.io` that is created now.
pub(in crate::cli) fn findings_of_new(
    facts: &dyn FactSource,
    settings: &Settings,
    kind: &'static str,
    object: &Value,
) -> Vec<Judged> {
    let metadata = |key: &str| object.pointer("/metadata").and_then(|metadata| metadata.get(key)?.as_str());
    let gvk = GroupVersionKind { group: "kubevirt.io".into(), version: "v1".into(), kind: kind.into() };
    let subject = Subject {
        gvk,
        namespace: metadata("namespace").unwrap_or_default(),
        name: metadata("name").or_else(|| metadata("generateName")).unwrap_or_default(),
        json: &object.to_string(),
        before: None,
    };
    evaluate(facts, settings, &subject).1
}

/// Returns the AdmissionReview that the API server would send.
fn review(subject: &Subject) -> String {
    let Subject { gvk, namespace, name, json, before } = subject;
    let text = |text: &str| Value::from(text).to_string();
    let operation = if before.is_some() { "UPDATE" } else { "CREATE" };
    let (group, version, kind) = (text(gvk.group.as_str()), text(gvk.version.as_str()), text(gvk.kind.as_str()));
    let (namespace, name) = (text(namespace), text(name));
    let mut body = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"check",
        "kind":{{"group":{group},"version":{version},"kind":{kind}}},"operation":"{operation}",
        "namespace":{namespace},"name":{name},"object":"#
    );
    body.push_str(json);
    if let Some(before) = before {
        // Writing to a string cannot fail.
        let _ = write!(body, r#","oldObject":{before}"#);
    }
    body.push_str("}}");
    body
}

fn origin_of(judged: &Judged) -> Origin {
    match judged.rule {
        Some(rule) => Origin::Rule(rule),
        None if judged.severity == Severity::Denied => Origin::Manifest,
        None => Origin::Namespace,
    }
}

fn problem_of(file: &CheckedFile, at: Position, object: &str, object_after: &Value, judged: Judged) -> Problem {
    let level = match judged.severity {
        Severity::Denied => Level::Error,
        Severity::Warned => Level::Warning,
        Severity::Unchecked => Level::Note,
    };
    let origin = origin_of(&judged);
    // YAML reads `y`, `off` and `5` as other types than text.
    let is_untyped_text = matches!(origin, Origin::Manifest) && judged.what.ends_with("expected a string");
    let fix = if is_untyped_text { "write the value in quotes".to_owned() } else { judged.fix };
    Problem {
        object: object.to_owned(),
        stable_field: stable_field(object_after, &judged.field),
        field: judged.field,
        what: judged.what,
        fix,
        source: file.text.line_at(at),
        ..Problem::of_file(&file.name, at, level, origin, "")
    }
}

/// Returns the running guest of a VM as it was started from its template; `None` if the VM is halted.
pub(super) fn guest_of(vm: &Value) -> Option<Value> {
    let spec = vm.get("spec")?;
    let is_halted = spec.get("running") == Some(&json!(false))
        || matches!(spec.get("runStrategy").and_then(Value::as_str), Some("Halted" | "Manual"));
    if vm.get("kind") != Some(&json!("VirtualMachine")) || is_halted {
        return None;
    }
    let template = spec.get("template")?;
    let name = vm.pointer("/metadata/name")?;
    let namespace = vm.pointer("/metadata/namespace")?;
    Some(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": template.pointer("/metadata/annotations").cloned().unwrap_or(json!({})),
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": ""}],
        },
        "spec": template.get("spec")?,
        "status": {"phase": "Running"},
    }))
}
