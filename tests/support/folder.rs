//! Temporary folders, and volumes as the kubelet mounts them.

use std::{
    fs,
    mem::ManuallyDrop,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// A new folder under `target/tmp`, which is removed when this is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(purpose: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{purpose}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        // An earlier process with the same id may have left one.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Keeps the folder when this is dropped.
    pub(crate) fn keep(self) -> PathBuf {
        ManuallyDrop::new(self).0.clone()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file of this folder and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let file = self.0.join(name);
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A volume as the kubelet mounts a ConfigMap or a Secret: each file is a symbolic link into `..data`, and `..data` is
/// a symbolic link to a folder that the kubelet replaces as a whole.
pub(crate) struct Volume {
    folder: Folder,
    updates: usize,
}

impl Volume {
    /// Mounts files, each a name and a text.
    pub(crate) fn mount(files: &[(&str, &str)]) -> Self {
        let folder = Folder::new("volume");
        for (name, _) in files {
            symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
        }
        let mut volume = Self { folder, updates: 0 };
        volume.update(files);
        volume
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a new folder, moves the link `..data` to it and removes the old folder.
    pub(crate) fn update(&mut self, files: &[(&str, &str)]) {
        let path = self.folder.path();
        let before = fs::read_link(path.join("..data"));
        self.updates += 1;
        let data = format!("..2026_11_25_{}", self.updates);
        fs::create_dir(path.join(&data)).unwrap();
        for (name, text) in files {
            fs::write(path.join(&data).join(name), text).unwrap();
        }
        symlink(&data, path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
        if let Ok(before) = before {
            fs::remove_dir_all(path.join(before)).unwrap();
        }
    }
}
