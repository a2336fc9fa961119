//! The texts that a check reads: files, folders and standard input, now and as they were before.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cluster::{
    files::{self, FilesError},
    manifests::{self, Manifest},
};

/// The name of standard input in outputs.
const STDIN: &str = "<stdin>";

/// A text with manifests.
#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    /// Standard input, which can be read only once.
    Text(String),
}

impl Source {
    /// Returns the name in outputs.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(_) => STDIN.to_owned(),
        }
    }

    /// Returns the text. A file is read each time, so that the memory does not grow with the number of files.
    pub(super) fn read(&self) -> Result<String, FilesError> {
        match self {
            Self::File(path) => files::read(path),
            Self::Text(text) => Ok(text.clone()),
        }
    }
}

/// Returns the sources that `--file` names.
pub(super) fn sources(paths: &[PathBuf], is_recursive: bool) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            sources.push(Source::Text(files::read_from(io::stdin().lock(), Path::new("standard input"))?));
            continue;
        }
        sources.extend(files::list(path, is_recursive)?.into_iter().map(Source::File));
    }
    Ok(sources)
}

/// The objects as they were before, by kind, namespace and name.
#[derive(Debug, Default)]
pub(super) struct Before(HashMap<String, Value>);

impl Before {
    /// Reads the objects of a folder or file.
    pub(super) fn of_folder(path: &Path, is_recursive: bool, namespace: &str) -> anyhow::Result<Self> {
        let mut before = Self::default();
        for file in files::list(path, is_recursive).context("--against")? {
            let text = files::read(&file).context("--against")?;
            before.add(&text, namespace).with_context(|| format!("--against: {}", file.display()))?;
        }
        Ok(before)
    }

    /// Reads the objects that the same files and folders had in a revision of git.
    pub(super) fn of_git(revision: &str, paths: &[PathBuf], namespace: &str) -> anyhow::Result<Self> {
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
            let arguments = ["ls-tree", "-r", "-z", "--full-name", "--name-only", revision, "--"];
            let output = Command::new("git").current_dir(folder).args(arguments).arg(name).output();
            let output = output.context("--git: the program `git` cannot be run")?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                bail!("--git {revision}: {}", error.trim().trim_start_matches("fatal: "));
            }
            let names = String::from_utf8(output.stdout).context("--git: a file name is not UTF-8")?;
            let names: Vec<&str> =
                names.split('\0').filter(|name| files::is_manifest(Path::new(name)) || !path.is_dir()).collect();
            let mut git = GitFiles::open(folder)?;
            for name in names.into_iter().filter(|name| !name.is_empty()) {
                let text = git.read(revision, name).with_context(|| format!("--git {revision}: {name}"))?;
                before.add(&text, namespace).with_context(|| format!("--git {revision}: {name}"))?;
            }
            git.close();
        }
        Ok(before)
    }

    /// Returns the object as it was.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Adds an object of a cluster.
    pub(super) fn insert(&mut self, object: Value) {
        self.0.insert(key_of(&object), object);
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Value> {
        self.0.values()
    }

    fn add(&mut self, text: &str, namespace: &str) -> anyhow::Result<()> {
        for document in manifests::documents(text) {
            for Manifest { mut object, .. } in document.read()? {
                set_namespace(&mut object, namespace);
                self.0.insert(key_of(&object), object);
            }
        }
        Ok(())
    }
}

/// Sets the namespace of an object that does not name one.
pub(super) fn set_namespace(object: &mut Value, namespace: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let own = metadata.entry("namespace").or_insert(Value::Null);
    if own.as_str().is_none_or(str::is_empty) {
        *own = namespace.into();
    }
}

/// Returns what identifies an object in its cluster, whatever its version.
pub(super) fn key_of(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let group = text("/apiVersion").split_once('/').map_or("", |(group, _)| group);
    format!("{group} {} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
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

    /// Returns the text of a file, whose name is relative to the root of the repository.
    fn read(&mut self, revision: &str, name: &str) -> anyhow::Result<String> {
        writeln!(self.input, "{revision}:{name}")?;
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
        String::from_utf8(contents).context("it is not UTF-8 text")
    }

    fn close(self) {
        let Self { mut child, input, output } = self;
        drop(input);
        drop(output);
        // The process ends at the end of its input; its status says nothing more.
        let _ = child.wait();
    }
}
