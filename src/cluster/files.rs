//! Manifests on disk, and facts from them, for commands without a cluster and for tests.
//!
//! The files of facts describe a complete cluster: an object that they lack does not exist. Only a KubeVirt resource
//! must exist, so without one it is unknown.

use std::{
    fs::{self, File, FileType},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    manifests::{self, Manifest, ManifestError, Position},
    store::Store,
};
use crate::settings::ApiSettings;

/// The largest input that is read: more than the objects of any cluster, and less than the memory of a workstation.
const MAX_BYTES: u64 = 512 << 20;

/// The endings of the names of manifests.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Manifests cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file or folder cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The path is a pipe or a device.
    #[error("{} is not a file but {what}; pipe the manifests into `-f -` instead", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The input is too large.
    #[error("{} has more than {} MiB; split it", path.display(), MAX_BYTES >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not UTF-8 text.
    #[error("{} is not UTF-8 text; save it as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A document is broken, or an object has a field of a wrong type.
    #[error("{}:{}:{}: {message}", path.display(), at.line, at.column)]
    Broken {
        /// The file.
        path: PathBuf,
        /// The place.
        at: Position,
        /// What is wrong.
        message: String,
    },
    /// A folder has no manifests.
    #[error("{} has no file that ends in .yaml, .yml or .json", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// No object is of a kind that nicplug reads.
    #[error("{} has no object that nicplug reads, such as a KubeVirt, a VirtualMachine or a NetworkAttachmentDefinition", path.display())]
    NothingKnown {
        /// The file or folder.
        path: PathBuf,
    },
}

/// Reads the facts of a file, or of all `.yaml`, `.yml` and `.json` files of a folder in the order of their names. The
/// objects in the groups of forks count as KubeVirt's.
///
/// # Errors
/// See [`FilesError`]. Objects of kinds that nicplug does not read are skipped, but one must be of a kind that it reads.
pub fn load(path: &Path, forks: &ApiSettings) -> Result<Store, FilesError> {
    let mut store = Store::complete().with_forks(forks.clone());
    let mut has_known = false;
    for file in list(path, false)? {
        has_known |= load_text(&mut store, &read(&file)?, &file)?;
    }
    if has_known { Ok(store) } else { Err(FilesError::NothingKnown { path: path.to_owned() }) }
}

fn load_text(store: &mut Store, text: &str, file: &Path) -> Result<bool, FilesError> {
    let broken = |at, message| FilesError::Broken { path: file.to_owned(), at, message };
    let mut has_known = false;
    for document in manifests::documents(text) {
        for manifest in document.read().map_err(|error| broken(error.at, error.message))? {
            has_known |= store.reads(&manifest.object);
            insert(store, &manifest).map_err(|error| broken(error.at, error.message))?;
        }
    }
    Ok(has_known)
}

/// Returns the first object of the files that is the wanted one.
///
/// # Errors
/// A file cannot be read, or a document before the object.
pub fn find(path: &Path, is_wanted: impl Fn(&Manifest) -> bool) -> Result<Option<Manifest>, FilesError> {
    for file in list(path, false)? {
        let broken =
            |error: ManifestError| FilesError::Broken { path: file.clone(), at: error.at, message: error.message };
        for document in manifests::documents(&read(&file)?) {
            let mut objects = document.read().map_err(broken)?.into_iter();
            if let Some(object) = objects.find(|object| is_wanted(object)) {
                return Ok(Some(object));
            }
        }
    }
    Ok(None)
}

/// Inserts an object into a store; skips objects of kinds that nicplug does not read.
///
/// # Errors
/// A field has a wrong type; with its place.
pub fn insert(store: &mut Store, manifest: &Manifest) -> Result<(), ManifestError> {
    store.insert(&manifest.object).map_err(|error| {
        let at = manifest.places.find(&error.field);
        ManifestError { at, message: error.to_string() }
    })
}

/// Returns the file itself, or the `.yaml`, `.yml` and `.json` files of a folder in the order of their names; with
/// `is_recursive` also those of the folders in it whose names do not begin with a dot.
///
/// # Errors
/// The path cannot be read, is neither a file nor a folder, or the folder has no such file.
pub fn list(path: &Path, is_recursive: bool) -> Result<Vec<PathBuf>, FilesError> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if !metadata.is_dir() {
        return match special(metadata.file_type()) {
            Some(what) => Err(FilesError::NotFile { path: path.to_owned(), what }),
            None => Ok(vec![path.to_owned()]),
        };
    }
    let mut files = Vec::new();
    add_files(path, is_recursive, &mut files)?;
    if files.is_empty() { Err(FilesError::NoFiles { path: path.to_owned() }) } else { Ok(files) }
}

/// Whether the name of a file has the ending of a manifest.
#[must_use]
pub fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
}

fn add_files(folder: &Path, is_recursive: bool, files: &mut Vec<PathBuf>) -> Result<(), FilesError> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(|source| unreadable(folder, source))?;
    entries.sort_by_cached_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // A link to a folder may lead back to a parent, so links are followed to files only.
        let kind = entry.file_type().ok();
        let is_folder = kind.is_some_and(|kind| kind.is_dir());
        let is_hidden = || entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_folder && is_recursive && !is_hidden() {
            add_files(&path, is_recursive, files)?;
        } else if is_manifest(&path) && (kind.is_some_and(|kind| kind.is_file()) || path.is_file()) {
            files.push(path);
        }
    }
    Ok(())
}

/// Reads a file of UTF-8 text.
///
/// # Errors
/// The file cannot be read, is a pipe or a device, is too large, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, FilesError> {
    // A pipe blocks when it is opened, so its type is checked before.
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if let Some(what) = special(metadata.file_type()) {
        return Err(FilesError::NotFile { path: path.to_owned(), what });
    }
    if metadata.len() > MAX_BYTES {
        return Err(FilesError::TooLarge { path: path.to_owned() });
    }
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    // One byte more, so that the end of the file is found without a larger buffer.
    let length = usize::try_from(metadata.len()).unwrap_or_default();
    read_into(Vec::with_capacity(length + 1), file, path)
}

/// Reads UTF-8 text; `path` names it in errors.
///
/// # Errors
/// As for [`read`].
pub fn read_from(reader: impl Read, path: &Path) -> Result<String, FilesError> {
    read_into(Vec::new(), reader, path)
}

fn read_into(mut bytes: Vec<u8>, reader: impl Read, path: &Path) -> Result<String, FilesError> {
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|source| unreadable(path, source))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(FilesError::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|_| FilesError::NotText { path: path.to_owned() })
}

fn unreadable(path: &Path, source: io::Error) -> FilesError {
    FilesError::Unreadable { path: path.to_owned(), source }
}

/// Returns what a file is if it is not an ordinary one.
fn special(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_dir() { None } else { Some(name_of_special(kind)) }
}

#[cfg(unix)]
fn name_of_special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;

    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn name_of_special(_: FileType) -> &'static str {
    "a device"
}
