//! The reading of the checked files by a thread of its own, so that the next documents are read while others are judged.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::Scope,
};

use super::{ignore::MARKER, source::Source};
use crate::{
    api::review::{GroupVersionKind, ObjectKind},
    cluster::{
        files::FilesError,
        manifests::{self, Comment, DocumentPlace, ManifestError, Tree},
    },
    settings::ApiSettings,
};

/// How many documents, and how many bytes of them, are passed on at once: to wake a thread for each document costs more
/// than to read it.
const BATCH_DOCUMENTS: usize = 128;
const BATCH_BYTES: usize = 256 << 10;

/// How many batches are read before those that are judged.
const READ_AHEAD: usize = 2;

/// A part of the input, in its order.
pub(super) enum Part {
    /// A file begins: its number in the sources, and its text.
    File(usize, Result<Arc<String>, FilesError>),
    /// A document of the last file.
    Document(ReadDocument),
}

/// A document of a file.
pub(super) struct ReadDocument {
    pub(super) place: DocumentPlace,
    pub(super) comments: Vec<Comment>,
    /// The objects that are judged.
    pub(super) objects: Result<Vec<ReadObject>, ManifestError>,
}

/// An object that is judged.
pub(super) struct ReadObject {
    /// Its number in its document.
    pub(super) number: usize,
    pub(super) api_version: String,
    pub(super) kind: ObjectKind,
    /// `kind` in its text.
    pub(super) kind_text: String,
    /// That of the check if the object does not name one.
    pub(super) namespace: String,
    /// Empty if the API server generates it.
    pub(super) name: String,
    pub(super) generate_name: String,
    /// The JSON text with the namespace.
    pub(super) json: String,
}

impl ReadObject {
    /// Returns group, version and kind.
    pub(super) fn gvk(&self) -> GroupVersionKind<'_> {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        GroupVersionKind { group: group.into(), version: version.into(), kind: self.kind_text.as_str().into() }
    }

    /// Returns the name; that of which the API server makes one if there is none.
    pub(super) fn shown_name(&self) -> &str {
        if self.name.is_empty() { &self.generate_name } else { &self.name }
    }
}

/// Which objects are read, and how.
#[derive(Clone, Copy)]
pub(super) struct Reading<'r> {
    pub(super) sources: &'r [Source],
    /// The namespace of an object that does not name one.
    pub(super) namespace: &'r str,
    pub(super) api: &'r ApiSettings,
}

impl<'r> Reading<'r> {
    /// Starts to read, and returns the batches. The thread ends when the receiver is gone.
    pub(super) fn start<'s>(self, scope: &'s Scope<'s, 'r>) -> Receiver<Vec<Part>> {
        let (sender, batches) = sync_channel(READ_AHEAD);
        scope.spawn(move || {
            let mut batch = Batch { sender, parts: Vec::new(), bytes: 0 };
            let _ = self.read(&mut batch);
        });
        batches
    }

    fn read(self, batch: &mut Batch) -> ControlFlow<()> {
        for (number, source) in self.sources.iter().enumerate() {
            let text = source.read();
            let copy = text.as_ref().map(Arc::clone).unwrap_or_default();
            batch.add(Part::File(number, text), 0)?;
            for document in manifests::documents(&copy) {
                let comments = if document.text().contains(MARKER) { document.comments() } else { Vec::new() };
                let objects = document.trees().map(|trees| self.objects(trees));
                let part = ReadDocument { place: document.place(), comments, objects };
                batch.add(Part::Document(part), document.text().len())?;
            }
        }
        batch.send()
    }

    fn objects(self, trees: Vec<Tree>) -> Vec<ReadObject> {
        trees.into_iter().enumerate().filter_map(|(number, tree)| self.object(number, tree)).collect()
    }

    /// Returns an object; `None` if it is not judged.
    fn object(self, number: usize, mut tree: Tree) -> Option<ReadObject> {
        let api_version = tree.text("apiVersion").to_owned();
        let kind_text = tree.text("kind").to_owned();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let gvk = GroupVersionKind { kind: kind_text.as_str().into(), ..GroupVersionKind::default() };
        let kind = ObjectKind::of(&gvk);
        if kind == ObjectKind::Other || !self.api.judges(group, kind.group()) {
            return None;
        }
        tree.set_namespace(self.namespace);
        let metadata = |key: &str| tree.get("metadata").map_or("", |metadata| metadata.text(key)).to_owned();
        Some(ReadObject {
            number,
            kind,
            namespace: metadata("namespace"),
            name: metadata("name"),
            generate_name: metadata("generateName"),
            // Every tree has a JSON text.
            json: tree.to_json().unwrap_or_default(),
            api_version,
            kind_text,
        })
    }
}

/// The parts that are passed on next.
struct Batch {
    sender: SyncSender<Vec<Part>>,
    parts: Vec<Part>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, part: Part, bytes: usize) -> ControlFlow<()> {
        self.parts.push(part);
        self.bytes += bytes;
        if self.parts.len() >= BATCH_DOCUMENTS || self.bytes >= BATCH_BYTES {
            self.send()
        } else {
            ControlFlow::Continue(())
        }
    }

    fn send(&mut self) -> ControlFlow<()> {
        self.bytes = 0;
        match self.sender.send(std::mem::take(&mut self.parts)) {
            Ok(()) => ControlFlow::Continue(()),
            // The receiver is gone.
            Err(_) => ControlFlow::Break(()),
        }
    }
}
