//! Where files are in their repository: GitHub and GitLab show a finding only if its path begins at the root of the
//! repository, wherever nicplug was started and however the file was named.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    fs,
    path::{Component, Path, PathBuf},
};

use super::source::STDIN;

/// Where files are.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Locations {
    /// By the name in outputs. Standard input has none.
    files: HashMap<String, Location>,
}

/// Where a file is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Location {
    /// The work tree of git that has the file, or else the working directory; `None` if the file is in neither.
    pub(super) root: Option<PathBuf>,
    /// The path in the root, or else from that of the file system, with `/` between its parts.
    pub(super) path: String,
}

impl Locations {
    /// Finds the files with these names.
    pub(super) fn of<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let working = fs::canonicalize(".").ok();
        let mut folders: HashMap<PathBuf, Option<Folder>> = HashMap::new();
        let names: HashSet<&str> = names.collect();
        let locate = |name: &str| {
            let path = Path::new(name);
            let (parent, file) = (path.parent()?, path.file_name()?);
            let folder = folders.entry(parent.to_owned()).or_insert_with(|| Folder::of(parent, working.as_deref()));
            let Folder { root, path } = folder.as_ref()?;
            Some((name.to_owned(), Location { root: root.clone(), path: format!("{path}{}", file.to_str()?) }))
        };
        Self { files: names.into_iter().filter(|name| *name != STDIN).filter_map(locate).collect() }
    }

    /// Returns the path of a file in its repository.
    pub(super) fn path<'n>(&'n self, name: &'n str) -> &'n str {
        match self.files.get(name) {
            Some(location) => &location.path,
            None => name.strip_prefix("./").unwrap_or(name),
        }
    }

    /// Whether a file with this path is in the repository of one of the files.
    pub(super) fn contains(&self, path: &str) -> bool {
        let roots: HashSet<&Path> = self.files.values().filter_map(|location| location.root.as_deref()).collect();
        roots.into_iter().any(|root| root.join(path).exists())
    }

    /// Returns the root of the repository of a file.
    pub(super) fn root(&self, name: &str) -> Option<&Path> {
        self.files.get(name)?.root.as_deref()
    }
}

/// A folder with files.
struct Folder {
    root: Option<PathBuf>,
    /// The path in the root; with `/` at its end, except for the root.
    path: String,
}

impl Folder {
    /// Finds a folder; `None` if it does not exist or has a name that is not UTF-8.
    fn of(folder: &Path, working: Option<&Path>) -> Option<Self> {
        // git does not follow links to folders: a file belongs to the repository where it really is.
        let folder = fs::canonicalize(if folder == Path::new("") { Path::new(".") } else { folder }).ok()?;
        // `.git` is a file in a submodule and in a further work tree.
        Self::within(&folder, working, |parent| parent.join(".git").exists())
    }

    fn within(folder: &Path, working: Option<&Path>, is_work_tree: impl Fn(&Path) -> bool) -> Option<Self> {
        let work_tree = folder.ancestors().find(|parent| is_work_tree(parent));
        let root = work_tree.or(working.filter(|working| folder.starts_with(working)));
        let inner = root.map_or(Some(folder), |root| folder.strip_prefix(root).ok())?;
        Some(Self { root: root.map(Path::to_owned), path: with_slashes(inner)? })
    }
}

/// Returns a path with `/` after each part, on Windows too.
fn with_slashes(path: &Path) -> Option<String> {
    let mut text = String::new();
    for component in path.components() {
        match component {
            Component::RootDir => {}
            Component::Prefix(prefix) => text.push_str(prefix.as_os_str().to_str()?.trim_start_matches(r"\\?\")),
            other => text.push_str(other.as_os_str().to_str()?),
        }
        text.push('/');
    }
    Some(text)
}

/// Returns the URI of a folder, with `/` at its end.
pub(super) fn uri_of_folder(folder: &Path) -> Option<String> {
    let path = with_slashes(folder)?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    // The colon of a drive of Windows stays.
    Some(format!("file:///{}", path.split(':').map(uri).collect::<Vec<_>>().join(":")))
}

/// Returns a path as a URI reference: other characters than those of RFC 3986 are encoded.
pub(super) fn uri(path: &str) -> String {
    path.bytes().fold(String::new(), |mut uri, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
        uri
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_a_uri_with_a_slash_at_its_end() {
        assert_eq!(uri_of_folder(Path::new("/")).unwrap(), "file:///");
        assert_eq!(uri_of_folder(Path::new("/a b/ü%")).unwrap(), "file:///a%20b/%C3%BC%25/");
    }

    #[test]
    fn a_path_begins_at_the_work_tree_or_else_at_the_working_directory() {
        for (folder, work_trees, working, expected) in [
            ("/r/deploy/a", &["/r"][..], "/r", (Some("/r"), "deploy/a/")),
            ("/r/deploy/a", &["/r"], "/r/deploy", (Some("/r"), "deploy/a/")),
            ("/r/deploy/a", &["/r"], "/elsewhere", (Some("/r"), "deploy/a/")),
            ("/r/deploy", &["/r/deploy", "/r"], "/r", (Some("/r/deploy"), "")),
            ("/w/deploy", &[], "/w", (Some("/w"), "deploy/")),
            ("/w", &[], "/w", (Some("/w"), "")),
            ("/other/deploy", &["/r"], "/w", (None, "/other/deploy/")),
        ] {
            let is_work_tree = |folder: &Path| work_trees.iter().any(|tree| folder == Path::new(tree));
            let found = Folder::within(Path::new(folder), Some(Path::new(working)), is_work_tree).unwrap();
            assert_eq!((found.root.as_deref(), &*found.path), (expected.0.map(Path::new), expected.1), "{folder}");
        }
    }
}
