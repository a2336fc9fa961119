//! The reading of the checked files by threads of its own, so that the next documents are read while others are judged.
//!
//! One thread reads the files and finds where documents begin. As many as there are processors read the documents, which
//! is most of the work of a check. The batches are received in their order, because an object is judged by those before it.

use std::{
    ops::ControlFlow,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::Scope,
};

use super::{
    ignore::MARKER,
    source::{Source, readers},
};
use crate::{
    api::review::{GroupVersionKind, ObjectKind},
    cluster::{
        files::FilesError,
        manifests::{self, Comment, Document, DocumentPlace, ManifestError, Tree},
    },
    settings::ApiSettings,
};

/// How many documents, and how many bytes of them, are passed on at once: to wake a thread for each document costs more
/// than to read it.
const BATCH_DOCUMENTS: usize = 128;
const BATCH_BYTES: usize = 256 << 10;

/// How many batches each thread reads before those that are judged.
const READ_AHEAD: usize = 2;

/// A part of the input, in its order.
pub(super) enum Part<D = ReadDocument> {
    /// A file begins: its number in the sources, and its text.
    File(usize, Result<Arc<String>, FilesError>),
    /// A document of the last file.
    Document(D),
}

/// A document that is not read yet.
struct UnreadDocument {
    file: Arc<String>,
    place: DocumentPlace,
}

/// Parts to read, and where to send them then.
struct Job {
    parts: Vec<Part<UnreadDocument>>,
    sender: SyncSender<Vec<Part>>,
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
    /// Starts to read, and returns the batches. The threads end when the iterator is gone.
    pub(super) fn start<'s>(self, scope: &'s Scope<'s, 'r>) -> impl Iterator<Item = Vec<Part>> + use<'s, 'r> {
        let readers = readers();
        let (jobs, queue) = sync_channel::<Job>(readers * READ_AHEAD);
        let (order, batches) = sync_channel::<Receiver<Vec<Part>>>(readers * READ_AHEAD);
        scope.spawn(move || {
            let _ = self.split(&mut Batch { jobs, order, parts: Vec::new(), bytes: 0 });
        });
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..readers {
            let queue = Arc::clone(&queue);
            scope.spawn(move || self.read(&queue));
        }
        // A batch is missing only if its thread panicked, and then the scope does too.
        batches.into_iter().map_while(|batch| batch.recv().ok())
    }

    /// Reads the files, and passes their documents on.
    fn split(self, batch: &mut Batch) -> ControlFlow<()> {
        for (number, source) in self.sources.iter().enumerate() {
            let text = source.read();
            let file = text.as_ref().map(Arc::clone).unwrap_or_default();
            batch.add(Part::File(number, text), 0)?;
            for document in manifests::documents(&file) {
                let length = document.text().len();
                let unread = UnreadDocument { file: Arc::clone(&file), place: document.place() };
                batch.add(Part::Document(unread), length)?;
            }
        }
        batch.send()
    }

    /// Reads documents until there are no more.
    fn read(self, queue: &Mutex<Receiver<Job>>) {
        let next = || queue.lock().ok()?.recv().ok();
        while let Some(Job { parts, sender }) = next() {
            let read = |part| match part {
                Part::File(number, text) => Part::File(number, text),
                Part::Document(document) => Part::Document(self.document(&document)),
            };
            // This fails if the check has ended.
            let _ = sender.send(parts.into_iter().map(read).collect());
        }
    }

    fn document(self, UnreadDocument { file, place }: &UnreadDocument) -> ReadDocument {
        let document = Document::at(file, *place);
        let comments = if document.text().contains(MARKER) { document.comments() } else { Vec::new() };
        let objects = document.trees().map(|trees| self.objects(trees));
        ReadDocument { place: *place, comments, objects }
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
    jobs: SyncSender<Job>,
    order: SyncSender<Receiver<Vec<Part>>>,
    parts: Vec<Part<UnreadDocument>>,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, part: Part<UnreadDocument>, bytes: usize) -> ControlFlow<()> {
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
        let (sender, batch) = sync_channel(1);
        let job = Job { parts: std::mem::take(&mut self.parts), sender };
        // An error says that the receiver is gone.
        if self.order.send(batch).is_ok() && self.jobs.send(job).is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;
    use crate::cli::check::source::sources;

    /// Reads a file of `count` VMs and an empty one after it, and passes the parts on.
    fn read<T>(count: usize, receive: impl FnOnce(&mut dyn Iterator<Item = Part>) -> T) -> T {
        let folder = folder_of(count);
        let sources = sources(std::slice::from_ref(&folder), false).unwrap();
        let api = ApiSettings::default();
        let reading = Reading { sources: &sources, namespace: "demo", api: &api };
        let result = thread::scope(|scope| receive(&mut reading.start(scope).flatten()));
        fs::remove_dir_all(folder).unwrap();
        result
    }

    fn folder_of(count: usize) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("nicplug-reading-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let vm = |number| {
            format!("---\napiVersion: kubevirt.io/v1\nkind: VirtualMachine\nmetadata: {{name: vm-{number}}}\n")
        };
        fs::write(folder.join("a.yaml"), (0..count).map(vm).collect::<String>()).unwrap();
        fs::write(folder.join("b.yaml"), "").unwrap();
        folder
    }

    #[test]
    fn documents_are_received_in_their_order_however_long_each_takes() {
        let count = BATCH_DOCUMENTS * 20 + 1;
        let names = read(count, |parts| {
            let name = |part: Part| match part {
                Part::File(number, _) => format!("file {number}"),
                Part::Document(document) => document.objects.unwrap().pop().map_or_else(String::new, |vm| vm.name),
            };
            parts.map(name).filter(|name| !name.is_empty()).collect::<Vec<_>>()
        });
        let vms = (0..count).map(|number| format!("vm-{number}"));
        let expected: Vec<_> = ["file 0".to_owned()].into_iter().chain(vms).chain(["file 1".to_owned()]).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_threads_end_when_their_documents_are_not_received() {
        assert!(matches!(read(BATCH_DOCUMENTS * 50, |parts| parts.next()), Some(Part::File(0, Ok(_)))));
    }
}
