//! The texts that a check reads: files, folders and standard input, now and as they were before.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    string::FromUtf8Error,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cluster::{
    files::{self, FilesError},
    manifests::{self, Manifest},
};

/// The name of standard input in outputs.
pub(super) const STDIN: &str = "<stdin>";

/// How many bytes of the files are kept after the first of two readings: those of most checks, so that each file is
/// opened once, and few enough for any machine.
const MAX_KEPT: usize = 32 << 20;

/// A text with manifests.
#[derive(Debug)]
pub(super) struct Source {
    /// `None` for standard input.
    path: Option<PathBuf>,
    /// The text, if it is kept. That of standard input always is, because it can be read only once.
    text: OnceLock<Arc<String>>,
}

impl Source {
    fn file(path: PathBuf) -> Self {
        Self { path: Some(path), text: OnceLock::new() }
    }

    /// Returns the name in outputs.
    pub(super) fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| STDIN.to_owned(), |path| path.display().to_string())
    }

    /// Returns the text. A file that is not kept is read each time, so that the memory does not grow with the files.
    pub(super) fn read(&self) -> Result<Arc<String>, FilesError> {
        match (self.text.get(), &self.path) {
            (Some(text), _) => Ok(Arc::clone(text)),
            (None, Some(path)) => files::read(path).map(Arc::new),
            (None, None) => Ok(Arc::default()),
        }
    }

    /// Keeps a text for the next reading, if `kept` bytes of others leave room for it.
    fn keep(&self, text: Arc<String>, kept: &AtomicUsize) {
        let length = text.len();
        if kept.fetch_add(length, Ordering::Relaxed) + length <= MAX_KEPT {
            self.text.get_or_init(|| text);
        } else {
            kept.fetch_sub(length, Ordering::Relaxed);
        }
    }
}

/// Returns how many threads read: as many as there are processors.
pub(super) fn readers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Reads all sources by as many threads as there are processors. Keeps texts for the next reading, and returns those
/// with one of the words, in the order of their sources.
pub(super) fn texts_with<'s>(sources: &'s [Source], words: &[&str]) -> Vec<(&'s Source, Arc<String>)> {
    let kept = AtomicUsize::new(0);
    let read = |source: &'s Source| {
        // The error is reported when the file is judged.
        let text = source.read().ok()?;
        let found = words.iter().any(|word| text.contains(word)).then(|| (source, Arc::clone(&text)));
        source.keep(text, &kept);
        found
    };
    let length = sources.len().div_ceil(readers()).max(1);
    thread::scope(|scope| {
        let read = |part: &'s [Source]| scope.spawn(move || part.iter().filter_map(read).collect::<Vec<_>>());
        let threads: Vec<_> = sources.chunks(length).map(read).collect();
        let texts = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        texts.flatten().collect()
    })
}

/// Returns the sources that `--file` names.
pub(super) fn sources(paths: &[PathBuf], is_recursive: bool) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let text = files::read_from(io::stdin().lock(), Path::new("standard input"))?;
            sources.push(Source { path: None, text: Arc::new(text).into() });
            continue;
        }
        sources.extend(files::list(path, is_recursive)?.into_iter().map(Source::file));
    }
    Ok(sources)
}

/// The objects as they were before.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// By kind, namespace and name.
    objects: HashMap<String, Value>,
    /// Why some of them are unknown.
    notes: Vec<String>,
}

impl Before {
    /// Reads the objects of a folder or file.
    pub(super) fn of_folder(path: &Path, is_recursive: bool, namespace: &str) -> anyhow::Result<Self> {
        let mut before = Self::default();
        for file in files::list(path, is_recursive).context("--against")? {
            match files::read(&file) {
                Ok(text) => before.add(&text, namespace, &format!("--against {}", file.display())),
                Err(error) => before.notes.push(format!("--against: {error}; its objects are taken to be new")),
            }
        }
        Ok(before)
    }

    /// Reads the objects that the same files and folders had in a revision of git. Of a folder it reads what
    /// [`files::list`] does: no hidden folder in it, and its folders only with `is_recursive`.
    pub(super) fn of_git(
        revision: &str,
        paths: &[PathBuf],
        is_recursive: bool,
        namespace: &str,
    ) -> anyhow::Result<Self> {
        if revision.starts_with('-') {
            bail!("--git {revision} is not a revision; name a branch, a tag or a commit");
        }
        let mut before = Self::default();
        for path in paths {
            if path == Path::new("-") {
                bail!(
                    "--git needs files in a repository, and `-f -` is standard input; name the files or use --against"
                );
            }
            let (folder, name) = match path.parent().filter(|_| !path.is_dir()) {
                Some(folder) => (folder, path.file_name().unwrap_or_default()),
                None => (path.as_path(), ".".as_ref()),
            };
            let folder = if folder == Path::new("") { Path::new(".") } else { folder };
            // Names are relative to the folder.
            let arguments = ["ls-tree", "-r", "-z", "--name-only", revision, "--"];
            let output = Command::new("git").current_dir(folder).args(arguments).arg(name).output();
            let output = output.context("--git: the program `git` cannot be run")?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                bail!("--git {revision}: {}", error.trim().trim_start_matches("fatal: "));
            }
            let names = String::from_utf8(output.stdout).context("--git: a file name is not UTF-8")?;
            let is_read = |name: &&str| !name.is_empty() && (!path.is_dir() || is_listed(name, is_recursive));
            let mut git = GitFiles::open(folder)?;
            for name in names.split('\0').filter(is_read) {
                let what = format!("--git {revision}: {}", folder.join(name).display());
                match git.read(revision, name).with_context(|| what.clone())? {
                    Ok(text) => before.add(&text, namespace, &what),
                    Err(_) => before.notes.push(format!("{what} is not UTF-8 text; its objects are taken to be new")),
                }
            }
            git.close();
        }
        Ok(before)
    }

    /// Returns the object as it was.
    pub(super) fn get(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        if self.objects.is_empty() { None } else { self.objects.get(&key(api_version, kind, namespace, name)) }
    }

    /// Adds an object of a cluster.
    pub(super) fn insert(&mut self, object: Value) {
        self.objects.insert(key_of(&object), object);
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Value> {
        self.objects.values()
    }

    /// Returns why some objects are unknown.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Adds the objects of a text. What was broken before may be fixed now, so it is only noted.
    fn add(&mut self, text: &str, namespace: &str, what: &str) {
        for document in manifests::documents(text) {
            match document.read() {
                Ok(manifests) => {
                    for Manifest { mut object, .. } in manifests {
                        set_namespace(&mut object, namespace);
                        self.insert(object);
                    }
                }
                Err(error) => self.notes.push(format!("{what}: {error}; its objects are taken to be new")),
            }
        }
    }
}

/// Whether a file of a folder is read, given its name relative to the folder.
fn is_listed(name: &str, is_recursive: bool) -> bool {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    let is_hidden = folders.split('/').any(|folder| folder.starts_with('.'));
    files::is_manifest(Path::new(file)) && !is_hidden && (is_recursive || folders.is_empty())
}

/// Sets the namespace of an object that does not name one.
pub(super) fn set_namespace(object: &mut Value, namespace: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let own = metadata.entry("namespace").or_insert(Value::Null);
    if own.as_str().is_none_or(str::is_empty) {
        *own = namespace.into();
    }
}

fn key_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    key(text("/apiVersion"), text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

/// Returns what identifies an object in its cluster, whatever its version.
fn key(api_version: &str, kind: &str, namespace: &str, name: &str) -> String {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    format!("{group} {kind} {namespace}/{name}")
}

/// Reads files of revisions with one process of git.
struct GitFiles {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl GitFiles {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("git");
        command.current_dir(folder).args(["cat-file", "--batch"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("--git: the program `git` cannot be run");
        };
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    /// Returns the text of a file, whose name is relative to the folder; the error inside if it is not UTF-8.
    fn read(&mut self, revision: &str, name: &str) -> anyhow::Result<Result<String, FromUtf8Error>> {
        writeln!(self.input, "{revision}:./{name}")?;
        self.input.flush()?;
        let mut header = String::new();
        self.output.read_line(&mut header)?;
        // `<hash> blob <size>`, and the contents, and a line break.
        let size: usize =
            match header.trim_end().rsplit_once(" blob ").or_else(|| header.trim_end().rsplit_once("blob ")) {
                Some((_, size)) => size.parse()?,
                None => bail!("it is not a file there"),
            };
        let mut contents = vec![0; size + 1];
        self.output.read_exact(&mut contents)?;
        contents.pop();
        Ok(String::from_utf8(contents))
    }

    fn close(self) {
        let Self { mut child, input, output } = self;
        drop(input);
        drop(output);
        // The process ends at the end of its input; its status says nothing more.
        let _ = child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_revision_the_same_files_are_read_as_of_the_folder() {
        for (name, alone, recursive) in [
            ("vm.yaml", true, true),
            (".vm.yaml", true, true),
            ("a/vm.yml", false, true),
            ("a/b/vm.json", false, true),
            (".github/vm.yaml", false, false),
            ("a/.b/vm.yaml", false, false),
            ("notes.txt", false, false),
        ] {
            assert_eq!((is_listed(name, false), is_listed(name, true)), (alone, recursive), "{name}");
        }
    }
}
