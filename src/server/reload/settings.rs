//! Reloads the settings file, which an administrator can change while the server runs, usually in a ConfigMap.
//!
//! A file is loaded as a whole, and only if it is valid in every part. Otherwise the previous settings stay in force,
//! and the error appears in one log line, in `/readyz?verbose`, in two metrics, and in the [`ReloadOutcome`] for the
//! caller. The server stays ready, with the previous settings.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::Stream;

use super::{Loaded, poll};
use crate::{
    cluster::{
        files::{self, FilesError},
        manifests,
    },
    server::readiness::Check,
    settings::{CurrentSettings, Settings, SettingsError},
};

/// Why a settings file cannot be used. The message is one line.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The settings are invalid.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The error.
        why: SettingsError,
    },
    /// The path is a pipe or a device.
    #[error("{}: is {what} and not a file: name a file", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The file is not text.
    #[error("{}: is not UTF-8 text: write the settings as YAML", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("{}: cannot be read ({why}): name an existing file that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        why: io::Error,
    },
}

/// Reads the settings of a file. `known` has the ids of all rules.
///
/// # Errors
/// The file cannot be read, or the settings cannot be used.
pub fn read(path: &Path, known: &[&str]) -> Result<Settings, FileError> {
    parse(path, known, &contents(path)?)
}

fn contents(path: &Path) -> Result<String, FileError> {
    files::read(path).map_err(|error| match error {
        FilesError::NotText { path } => FileError::NotText { path },
        FilesError::NotFile { path, what } => FileError::NotFile { path, what },
        FilesError::Unreadable { path, source } => FileError::Unreadable { path, why: source },
        other => FileError::Unreadable { path: path.to_owned(), why: io::Error::other(other) },
    })
}

/// Reads settings from the text of a file; `path` names it in errors.
///
/// # Errors
/// The settings cannot be used.
pub fn parse(path: &Path, known: &[&str], text: &str) -> Result<Settings, FileError> {
    let invalid = |why| FileError::Invalid { path: path.to_owned(), why };
    let syntax = |message: String| invalid(SettingsError::Syntax(message));
    // The reader of manifests explains what is wrong with a text that is not YAML.
    let objects = manifests::read(text).map_err(|error| syntax(error.to_string()))?;
    let documents: Vec<_> = manifests::documents(text).collect();
    match (documents.as_slice(), objects.as_slice()) {
        (_, [_, second, ..]) => {
            Err(syntax(format!("line {}: a second document begins; write all settings in one", second.line)))
        }
        (_, [one]) if !one.object.is_object() => {
            let message = "this is not an object; write keys with values, such as `rules: {NP103: warn}`";
            Err(syntax(format!("line {}: {message}", one.line)))
        }
        // A text of comments has no document.
        ([], _) => Ok(Settings::default()),
        ([one], _) => Settings::parse(&one.text_in_place(), known).map_err(invalid),
        _ => Err(syntax("there is more than one document; write all settings in one".to_owned())),
    }
}

/// The result of a change of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReloadOutcome<'o> {
    /// The file was refused for this reason, and the previous settings stay in force.
    Refused(&'o str),
    /// The settings of the file are in force, or in force again.
    Taken,
}

/// Reloads a settings file.
pub struct SettingsReloader {
    path: PathBuf,
    /// The ids of all rules.
    known: Vec<&'static str>,
    current: CurrentSettings,
    loaded: Loaded<String>,
    /// Why the present contents of the file are not in force.
    error: Option<String>,
    counts: ReloadCounts,
}

impl SettingsReloader {
    /// Reads the file for the first time. `known` has the ids of all rules.
    ///
    /// # Errors
    /// As for [`read`]: there are no previous settings that could stay in force.
    pub fn open(path: &Path, known: &[&'static str]) -> Result<Self, FileError> {
        let contents = contents(path)?;
        let current = parse(path, known, &contents)?.into();
        let (path, known) = (path.to_owned(), known.to_vec());
        Ok(Self { path, known, current, loaded: Loaded(contents), error: None, counts: ReloadCounts::default() })
    }

    /// Returns the settings in force, for a reviewer.
    #[must_use]
    pub fn current(&self) -> CurrentSettings {
        self.current.clone()
    }

    /// Returns the counters for the metrics of a server.
    #[must_use]
    pub fn counts(&self) -> ReloadCounts {
        self.counts.clone()
    }

    /// Reads the file at once and with every tick, until the ticks end. It sets `check`, and calls `report` for each
    /// change.
    pub async fn run(mut self, check: Check, ticks: impl Stream<Item = ()>, mut report: impl FnMut(ReloadOutcome)) {
        poll(ticks, || self.reload(&check, &mut report)).await;
    }

    fn reload(&mut self, check: &Check, report: &mut impl FnMut(ReloadOutcome)) {
        let Self { path, known, .. } = &*self;
        match self.loaded.changed(|| contents(path), |contents| parse(path, known, contents)) {
            Ok(Some((contents, settings))) => {
                self.current.replace(settings);
                self.loaded = Loaded(contents);
                self.error = None;
                self.counts.add_taken();
                tracing::info!(file = %self.path.display(), "the settings were replaced");
                report(ReloadOutcome::Taken);
            }
            Ok(None) if self.error.take().is_some() => {
                self.counts.set_valid(true);
                tracing::info!(file = %self.path.display(), "the file has the settings in force again");
                report(ReloadOutcome::Taken);
            }
            Ok(None) => {}
            Err(error) => self.refuse(error.to_string(), report),
        }
        match &self.error {
            Some(error) => check.pass_with(format!("the previous settings stay in force: {error}")),
            None => check.pass(),
        }
    }

    /// Reports an error once, and not with every read.
    fn refuse(&mut self, error: String, report: &mut impl FnMut(ReloadOutcome)) {
        if self.error.as_ref() == Some(&error) {
            return;
        }
        self.counts.add_refused();
        tracing::warn!("the previous settings stay in force: {error}");
        report(ReloadOutcome::Refused(&error));
        self.error = Some(error);
    }
}

/// The numbers of changes by result, and whether the present file is in force. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ReloadCounts(Arc<ReloadCounters>);

#[derive(Debug, Default)]
struct ReloadCounters {
    refused: AtomicU64,
    taken: AtomicU64,
    is_invalid: AtomicBool,
}

impl ReloadCounts {
    pub(in crate::server) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    pub(in crate::server) fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    pub(in crate::server) fn is_valid(&self) -> bool {
        !self.0.is_invalid.load(Ordering::Relaxed)
    }

    fn add_refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        self.set_valid(false);
    }

    fn add_taken(&self) {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
        self.set_valid(true);
    }

    fn set_valid(&self, is_valid: bool) {
        self.0.is_invalid.store(!is_valid, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        server::{metrics::Metrics, readiness::Readiness},
        settings::Enforcement,
    };

    const KNOWN: &[&str] = &["NP103"];

    /// A settings file with its reloader. The file is deleted after the test.
    struct SettingsFile {
        path: PathBuf,
        reloader: SettingsReloader,
        readiness: Readiness,
        check: Check,
    }

    impl SettingsFile {
        fn open(name: &str, text: &str) -> Result<Self, FileError> {
            let path = std::env::temp_dir().join(format!("nicplug-settings-{name}-{}.yaml", std::process::id()));
            fs::write(&path, text).unwrap();
            let readiness = Readiness::default();
            let check = readiness.add("settings", "not read yet");
            let reloader = SettingsReloader::open(&path, KNOWN).inspect_err(|_| fs::remove_file(&path).unwrap())?;
            Ok(Self { path, reloader, readiness, check })
        }

        /// Writes the file, and returns the reports of the next read.
        fn write(&mut self, contents: &[u8]) -> Vec<String> {
            fs::write(&self.path, contents).unwrap();
            self.reload()
        }

        fn reload(&mut self) -> Vec<String> {
            let mut reports = Vec::new();
            self.reloader.reload(&self.check, &mut |outcome| {
                reports.push(match outcome {
                    ReloadOutcome::Refused(why) => why.to_owned(),
                    ReloadOutcome::Taken => "taken".to_owned(),
                });
            });
            assert!(self.readiness.is_ready());
            reports
        }

        fn enforcement(&self) -> Option<Enforcement> {
            self.reloader.current.load().enforcement("NP103", "demo")
        }

        /// The metrics: taken, refused, valid.
        fn metrics(&self) -> [u32; 3] {
            let mut metrics = Metrics::default();
            metrics.add_settings(self.reloader.counts());
            let text = metrics.text();
            let value = |series: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
                line.unwrap_or_else(|| panic!("{series}: {text}")).parse().unwrap()
            };
            [
                value("nicplug_settings_reloads_total{result=\"taken\"}"),
                value("nicplug_settings_reloads_total{result=\"refused\"}"),
                value("nicplug_settings_valid"),
            ]
        }
    }

    impl Drop for SettingsFile {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    #[test]
    fn a_change_is_in_force_after_the_next_read_and_an_unchanged_file_is_not_reported() {
        let mut file = SettingsFile::open("change", "rules: {NP103: deny}").unwrap();
        assert_eq!((file.reload(), file.metrics()), (vec![], [0, 0, 1]));
        assert_eq!(file.write(b"rules: {NP103: warn}"), ["taken"]);
        assert_eq!(file.enforcement(), Some(Enforcement::Warn));
        assert_eq!((file.reload(), file.metrics()), (vec![], [1, 0, 1]));
        assert_eq!(file.readiness.report(), "[+]settings ok\nready\n");
    }

    #[test]
    fn on_an_error_the_previous_settings_stay_and_the_error_is_reported_once_with_its_line() {
        let mut file = SettingsFile::open("errors", "rules: {NP103: warn}").unwrap();
        let path = file.path.display().to_string();
        let errors: [(&[u8], &str); 5] = [
            (b"rules:\n  NP103: loud\n", "line 2 column 10: unknown variant `loud`"),
            (b"rules:\n  NP104: warn\n", "line 2: unknown rule \"NP104\""),
            (b"rules: {NP103: deny", "line 1"),
            (b"rule: {}", "line 1"),
            (b"rules: {} # \xff", "is not UTF-8 text"),
        ];
        for (count, (contents, error)) in (1..).zip(errors) {
            let reports = file.write(contents);
            assert!(reports.len() == 1 && reports[0].starts_with(&format!("{path}: {error}")), "{reports:?}");
            assert_eq!((file.reload(), file.metrics()), (vec![], [0, count, 0]));
            assert_eq!(file.enforcement(), Some(Enforcement::Warn));
            let report = file.readiness.report();
            assert!(report.contains("[+]settings ok: the previous settings stay in force: "), "{report}");
            assert!(report.contains(error) && report.lines().count() == 2, "{report}");
        }
        assert_eq!(file.write(b"rules: {NP103: warn}"), ["taken"], "it is in force again");
        assert_eq!(file.metrics(), [0, 5, 1]);
        assert_eq!(file.readiness.report(), "[+]settings ok\nready\n");
        assert_eq!(file.write(b"rules: {NP103: off}"), ["taken"]);
        assert_eq!((file.enforcement(), file.metrics()), (Some(Enforcement::Off), [1, 5, 1]));
    }

    #[test]
    fn a_deleted_file_changes_nothing() {
        let mut file = SettingsFile::open("gone", "rules: {NP103: warn}").unwrap();
        fs::remove_file(&file.path).unwrap();
        let reports = file.reload();
        assert!(reports.len() == 1 && reports[0].contains("cannot be read"), "{reports:?}");
        assert_eq!((file.enforcement(), file.metrics()), (Some(Enforcement::Warn), [0, 1, 0]));
    }

    #[test]
    fn an_invalid_file_at_the_start_is_an_error() {
        let error = SettingsFile::open("start", "rules:\n  NP103: loud\n").err().unwrap().to_string();
        assert!(error.contains("line 2 column 10"), "{error}");
        let error = SettingsReloader::open(Path::new("/missing/settings.yaml"), KNOWN).err().unwrap().to_string();
        assert!(error.starts_with("/missing/settings.yaml: cannot be read"), "{error}");
    }
}
