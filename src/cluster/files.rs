//! Facts from manifests on disk, for commands without a cluster and for tests.
//!
//! The files describe a complete cluster: an object that they lack does not exist. Only a KubeVirt resource must exist,
//! so without one it is unknown.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    manifests::{self, Manifest},
    store::Store,
};

/// Manifests cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file or folder cannot be read.
    #[error("facts: {} cannot be read", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A document is broken, or an object has a field of a wrong type.
    #[error("facts: {}:{line}: {message}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Reads a file, or all `.yaml`, `.yml` and `.json` files of a folder in the order of their names.
///
/// # Errors
/// See [`FilesError`]. Objects of kinds that nicplug does not read are skipped.
pub fn load(path: &Path) -> Result<Store, FilesError> {
    let mut store = Store::complete();
    for file in files_of(path)? {
        let text = fs::read_to_string(&file).map_err(|source| FilesError::Unreadable { path: file.clone(), source })?;
        let broken = |line, message| FilesError::Broken { path: file.clone(), line, message };
        let manifests = manifests::read(&text).map_err(|error| broken(error.line, error.message))?;
        for Manifest { line, object } in manifests {
            store.insert(&object).map_err(|error| broken(line, error.to_string()))?;
        }
    }
    Ok(store)
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let unreadable = |source| FilesError::Unreadable { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known)) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}
