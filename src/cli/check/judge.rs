//! The judgement of manifests by the evaluation of the webhook.

use std::{
    cell::OnceCell,
    collections::HashSet,
    fmt::Write as _,
    ops::Range,
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
};

use serde_json::{Value, json};

use super::{
    ignore::{Ignores, MARKER},
    problem::{Checked, Level, Origin, Problem, Report, stable_field},
    source::{Before, Source, key_of, set_namespace},
};
use crate::{
    admission::{Endpoint, Evaluator, Judged, Severity, parse},
    api::review::{GroupVersionKind, ObjectKind},
    change::{Change, MigrationStart},
    cluster::{
        files::{self, FilesError},
        manifests::{self, Comment, Manifest, ManifestError, Places, Position},
        store::Store,
    },
    facts::{Fact, FactSource, Facts, KubeVirt},
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

/// A text and, once a problem is found in it, where its lines are.
struct Text {
    text: Arc<str>,
    lines: OnceCell<Vec<Range<usize>>>,
}

impl Text {
    fn new(text: Arc<str>) -> Self {
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

/// How many documents are read before those that are judged.
const READ_AHEAD: usize = 64;

/// A part of the input, in its order.
enum Part {
    File(Result<Arc<str>, FilesError>),
    Document { comments: Vec<Comment>, manifests: Result<Vec<Manifest>, ManifestError> },
}

/// Reads the sources, and passes their parts on until the receiver is gone.
fn read_parts(sources: &[Source], parts: &SyncSender<(usize, Part)>) {
    for (index, source) in sources.iter().enumerate() {
        let text = source.read().map(Arc::<str>::from);
        let copy = text.as_ref().map_or_else(|_| Arc::from(""), Arc::clone);
        if parts.send((index, Part::File(text))).is_err() {
            return;
        }
        for document in manifests::documents(&copy) {
            let comments = if document.text().contains(MARKER) { document.comments() } else { Vec::new() };
            let part = Part::Document { comments, manifests: document.read() };
            if parts.send((index, part)).is_err() {
                return;
            }
        }
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
    pub(super) fn add_facts(&mut self, source: &Source) {
        let Ok(text) = source.read() else { return };
        let text = Text::new(text.into());
        for document in manifests::documents(&text.text) {
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
                        self.add_fault(source, &text, error.at, &what, false);
                    }
                }
            }
        }
    }

    /// Judges all objects of the sources. Another thread reads them, which takes longer than to judge them.
    pub(super) fn judge_all(&mut self, sources: &[Source], begin: impl Fn(&str)) {
        std::thread::scope(|scope| {
            let (sender, parts) = mpsc::sync_channel(READ_AHEAD);
            scope.spawn(move || read_parts(sources, &sender));
            let mut text = Text::new("".into());
            for (index, part) in parts {
                let Some(source) = sources.get(index) else { continue };
                match part {
                    Part::File(read) => {
                        begin(&source.name());
                        text = self.start_file(source, read);
                    }
                    Part::Document { comments, manifests } => self.judge_document(source, &text, &comments, manifests),
                }
            }
        });
    }

    fn start_file(&mut self, source: &Source, read: Result<Arc<str>, FilesError>) -> Text {
        self.report.files += 1;
        match read {
            Ok(text) => Text::new(text),
            Err(error) => {
                let mut what = error.to_string();
                if let Some(cause) = std::error::Error::source(&error) {
                    let _ = write!(what, " ({cause})");
                }
                let text = Text::new("".into());
                self.add_fault(source, &text, Position::start(), &what, true);
                text
            }
        }
    }

    fn judge_document(
        &mut self,
        source: &Source,
        text: &Text,
        comments: &[Comment],
        manifests: Result<Vec<Manifest>, ManifestError>,
    ) {
        self.report.documents += 1;
        if !comments.is_empty() {
            self.ignores.add_comments(&source.name(), comments, |number| text.line(number));
        }
        match manifests {
            Ok(manifests) => manifests.into_iter().for_each(|manifest| self.judge_manifest(source, text, manifest)),
            Err(error) => self.add_fault(source, text, error.at, &error.message, true),
        }
    }

    fn judge_manifest(&mut self, source: &Source, text: &Text, mut manifest: Manifest) {
        let (api_version, kind) = (manifest.api_version().to_owned(), manifest.kind().to_owned());
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let gvk = GroupVersionKind { group: group.into(), version: version.into(), kind: kind.as_str().into() };
        let kind = ObjectKind::of(&gvk);
        if kind == ObjectKind::Other || !self.settings.api.judges(group, kind.group()) {
            return;
        }
        set_namespace(&mut manifest.object, &self.namespace);
        let before = self.before.get(&key_of(&manifest.object)).cloned();
        let object = format!("{} {}/{}", manifest.kind(), manifest.namespace(), manifest.name());
        let (object_after, judged) = self.findings(&manifest, &gvk, before.as_ref());
        for judged in judged {
            if let Some(missing) = judged.missing {
                self.report.add_unknown(missing, origin_of(&judged));
                continue;
            }
            let problem = problem_of(source, text, &manifest, &object, &object_after, judged);
            self.report.problems.push(problem);
        }
        self.report.checked.push(Checked { file: source.name(), object });
        if matches!(kind, ObjectKind::Vm | ObjectKind::Vmi) && before.is_none() {
            // The next object with the same MAC address is found. A field of a wrong type was reported above.
            let _ = self.store.insert(&manifest.object);
        }
    }

    /// Returns the object as the mutating webhook makes it, and what the validating webhook finds in it. With
    /// `--kubevirt-version`, findings that the present version does not have say so.
    fn findings(&self, manifest: &Manifest, gvk: &GroupVersionKind, before: Option<&Value>) -> (Value, Vec<Judged>) {
        let Some(version) = self.version else {
            return evaluate(&self.store, &self.settings, manifest, gvk, before);
        };
        let facts = WithVersion { store: &self.store, version };
        let (object, mut judged) = evaluate(&facts, &self.settings, manifest, gvk, before);
        let present = self.store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
        if present.is_some_and(|present| present != version) {
            let identity = |judged: &Judged| (origin_of(judged).id(), judged.field.clone());
            let (_, today) = evaluate(&self.store, &self.settings, manifest, gvk, before);
            let today: HashSet<_> = today.iter().map(identity).collect();
            for judged in judged.iter_mut().filter(|judged| !today.contains(&identity(judged))) {
                let _ = write!(judged.what, " (new with KubeVirt {version})");
            }
        }
        (object, judged)
    }

    fn add_fault(&mut self, source: &Source, text: &Text, at: Position, what: &str, is_unreadable: bool) {
        let problem = Problem::of_file(&source.name(), at, Level::Error, Origin::Manifest, what);
        self.report.problems.push(Problem { source: text.line_at(at), is_unreadable, ..problem });
    }
}

/// Evaluates an object as the two webhooks do, one after the other.
fn evaluate(
    facts: &dyn FactSource,
    settings: &Settings,
    manifest: &Manifest,
    gvk: &GroupVersionKind,
    before: Option<&Value>,
) -> (Value, Vec<Judged>) {
    let evaluator = Evaluator::new(facts, settings);
    let mut object = manifest.object.clone();
    let body = review(manifest, gvk, &object, before);
    let patch = evaluator.evaluate(Endpoint::Mutate, &parse(body.as_bytes())).into_patch();
    let body = if patch.is_empty() {
        body
    } else {
        // The patch was made for this object.
        let _ = json_patch::patch(&mut object, &patch);
        review(manifest, gvk, &object, before)
    };
    let parsed = parse(body.as_bytes());
    let judged = evaluator.findings(&evaluator.evaluate(Endpoint::Validate, &parsed));
    (object, judged)
}

/// Returns what the webhook would find in an object of `kubevirt.io` that is created now.
pub(in crate::cli) fn findings_of_new(
    facts: &dyn FactSource,
    settings: &Settings,
    kind: &'static str,
    object: Value,
) -> Vec<Judged> {
    let manifest = Manifest { line: 1, object, places: Places::default() };
    let gvk = GroupVersionKind { group: "kubevirt.io".into(), version: "v1".into(), kind: kind.into() };
    evaluate(facts, settings, &manifest, &gvk, None).1
}

/// Returns the AdmissionReview that the API server would send.
fn review(manifest: &Manifest, gvk: &GroupVersionKind, object: &Value, before: Option<&Value>) -> String {
    let head = json!({
        "uid": "check",
        "kind": {"group": gvk.group.as_str(), "version": gvk.version.as_str(), "kind": gvk.kind.as_str()},
        "operation": if before.is_some() { "UPDATE" } else { "CREATE" },
        "namespace": manifest.namespace(),
        "name": manifest.name(),
    });
    let head = head.to_string();
    let mut body = String::from(r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"#);
    body.push_str(head.strip_suffix('}').unwrap_or(&head));
    let _ = write!(body, r#","object":{object}"#);
    if let Some(before) = before {
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

fn problem_of(
    source: &Source,
    text: &Text,
    manifest: &Manifest,
    object: &str,
    object_after: &Value,
    judged: Judged,
) -> Problem {
    let level = match judged.severity {
        Severity::Denied => Level::Error,
        Severity::Warned => Level::Warning,
        Severity::Unchecked => Level::Note,
    };
    let at = manifest.places.find(&judged.field);
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
        source: text.line_at(at),
        ..Problem::of_file(&source.name(), at, level, origin, "")
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
