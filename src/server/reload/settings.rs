//! The settings of a file that somebody may change while the server runs: an administrator, by way of a ConfigMap.
//!
//! Settings are taken up only as a whole, and only if every word of them is understood. On any fault those of before
//! stay in force, and that is told: by one line in the log, by `/readyz?verbose`, by two metrics, and by whatever the
//! caller does with the [`News`]. The server stays ready: it judges as it did before.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::Stream;
use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{Taken, keep_looking};
use crate::{
    server::{
        health::Check,
        metrics::{family, single},
    },
    settings::{CurrentSettings, Settings, SettingsError},
};

/// A settings file that cannot be used. It is told in one line.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is there, and is not what it should be.
    #[error("{}: {why}", path.display())]
    Faulty {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: SettingsError,
    },
    /// It holds something else than text.
    #[error("{}: is no UTF-8 text: write the settings as YAML", path.display())]
    NoText {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{}: cannot be read ({why}): give a file that exists and that this user may read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
}

/// Reads the settings of a file. `known` are the ids of all rules.
///
/// # Errors
/// The file cannot be read, or the settings cannot be used.
pub fn read(path: &Path, known: &[&str]) -> Result<Settings, FileError> {
    parse(path, known, &contents(path)?)
}

fn contents(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|why| FileError::Unreadable { path: path.to_owned(), why })
}

fn parse(path: &Path, known: &[&str], contents: &[u8]) -> Result<Settings, FileError> {
    let text = str::from_utf8(contents).map_err(|_| FileError::NoText { path: path.to_owned() })?;
    Settings::parse(text, known).map_err(|why| FileError::Faulty { path: path.to_owned(), why })
}

/// What came of a change of the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum News<'n> {
    /// It was refused, for this reason; the settings of before stay.
    Refused(&'n str),
    /// What it holds is in force, or in force again.
    Taken,
}

/// Keeps the settings of a file in force.
pub struct Keeper {
    path: PathBuf,
    /// The ids of all rules.
    known: Vec<&'static str>,
    current: CurrentSettings,
    taken: Taken<Vec<u8>>,
    /// Why what the file holds is not in force.
    fault: Option<String>,
    tally: Tally,
}

impl Keeper {
    /// Reads the first settings. `known` are the ids of all rules.
    ///
    /// # Errors
    /// As for [`read`]: nothing better is in force yet.
    pub fn open(path: &Path, known: &[&'static str]) -> Result<Self, FileError> {
        let contents = contents(path)?;
        let current = parse(path, known, &contents)?.into();
        let (path, known) = (path.to_owned(), known.to_vec());
        Ok(Self { path, known, current, taken: Taken(contents), fault: None, tally: Tally::default() })
    }

    /// The settings in force, for a reviewer.
    #[must_use]
    pub fn current(&self) -> CurrentSettings {
        self.current.clone()
    }

    /// What came of changes so far, for the metrics of a server.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// RecheckCounts at once and with every tick, until there are none any more; `check` and `tell` hear how things stand.
    pub async fn keep(mut self, check: Check, ticks: impl Stream<Item = ()>, mut tell: impl FnMut(News)) {
        keep_looking(ticks, || self.look(&check, &mut tell)).await;
    }

    fn look(&mut self, check: &Check, tell: &mut impl FnMut(News)) {
        let Self { path, known, .. } = &*self;
        match self.taken.news(|| contents(path), |contents| parse(path, known, contents)) {
            Ok(Some((contents, settings))) => {
                self.current.replace(settings);
                self.taken = Taken(contents);
                self.fault = None;
                self.tally.note(Upshot::Taken);
                tracing::info!(file = %self.path.display(), "the settings are replaced");
                tell(News::Taken);
            }
            Ok(None) if self.fault.take().is_some() => {
                self.tally.set_valid(true);
                tracing::info!(file = %self.path.display(), "the file holds the settings in force again");
                tell(News::Taken);
            }
            Ok(None) => {}
            Err(error) => self.refuse(error.to_string(), tell),
        }
        match &self.fault {
            Some(fault) => check.pass_with(format!("the settings of before stay in force: {fault}")),
            None => check.pass(),
        }
    }

    /// Tells a fault once, and not with every look.
    fn refuse(&mut self, fault: String, tell: &mut impl FnMut(News)) {
        if self.fault.as_ref() == Some(&fault) {
            return;
        }
        self.tally.note(Upshot::Refused);
        tracing::warn!("the settings of before stay in force: {fault}");
        tell(News::Refused(&fault));
        self.fault = Some(fault);
    }
}

/// What a change of the file comes to.
#[derive(Clone, Copy, Debug)]
enum Upshot {
    Refused,
    Taken,
}

/// What came of changes so far. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    refused: AtomicU64,
    taken: AtomicU64,
    is_refused: AtomicBool,
}

impl Tally {
    fn note(&self, upshot: Upshot) {
        let (counter, is_valid) = match upshot {
            Upshot::Refused => (&self.0.refused, false),
            Upshot::Taken => (&self.0.taken, true),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.set_valid(is_valid);
    }

    fn set_valid(&self, is_valid: bool) {
        self.0.is_refused.store(!is_valid, Ordering::Relaxed);
    }
}

impl Collector for Tally {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Numbers { refused, taken, is_refused } = &*self.0;
        let reloads = [("taken", taken), ("refused", refused)]
            .map(|(result, count)| ([("result", result)], ConstCounter::new(count.load(Ordering::Relaxed))));
        let about = ("settings_reloads", "Changes of the settings file, by what came of them");
        family(&mut encoder, about, MetricType::Counter, reloads)?;
        let is_valid = ConstGauge::new(i64::from(!is_refused.load(Ordering::Relaxed)));
        let about = ("settings_valid", "Whether the settings file, as it is now, is in force: 1 or 0");
        single(&mut encoder, about, MetricType::Gauge, &is_valid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        server::{health::Readiness, metrics::Metrics},
        settings::Enforcement,
    };

    const KNOWN: &[&str] = &["NP103"];

    /// A settings file, gone after the test, and who keeps it.
    struct Scene {
        path: PathBuf,
        keeper: Keeper,
        readiness: Readiness,
        check: Check,
    }

    impl Scene {
        fn open(name: &str, text: &str) -> Result<Self, FileError> {
            let path = std::env::temp_dir().join(format!("nicplug-settings-{name}-{}.yaml", std::process::id()));
            fs::write(&path, text).unwrap();
            let readiness = Readiness::default();
            let check = readiness.add("settings", "not looked at");
            let keeper = Keeper::open(&path, KNOWN).inspect_err(|_| fs::remove_file(&path).unwrap())?;
            Ok(Self { path, keeper, readiness, check })
        }

        /// What is told when the file has come to hold this.
        fn holds(&mut self, contents: &[u8]) -> Vec<String> {
            fs::write(&self.path, contents).unwrap();
            self.look()
        }

        fn look(&mut self) -> Vec<String> {
            let mut told = Vec::new();
            self.keeper.look(&self.check, &mut |news| {
                told.push(match news {
                    News::Refused(why) => why.to_owned(),
                    News::Taken => "taken".to_owned(),
                });
            });
            assert!(self.readiness.is_ready());
            told
        }

        fn enforcement(&self) -> Option<Enforcement> {
            self.keeper.current.load().enforcement("NP103")
        }

        /// What the metrics say: taken, refused, valid.
        fn numbers(&self) -> [u32; 3] {
            let mut metrics = Metrics::default();
            metrics.add_settings(self.keeper.tally());
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

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.path);
        }
    }

    #[test]
    fn a_change_is_in_force_at_the_next_look_and_a_file_that_stays_is_left_alone() {
        let mut scene = Scene::open("change", "rules: {NP103: deny}").unwrap();
        assert_eq!((scene.look(), scene.numbers()), (vec![], [0, 0, 1]));
        assert_eq!(scene.holds(b"rules: {NP103: warn}"), ["taken"]);
        assert_eq!(scene.enforcement(), Some(Enforcement::Warn));
        assert_eq!((scene.look(), scene.numbers()), (vec![], [1, 0, 1]));
        assert_eq!(scene.readiness.report(), "[+]settings ok\nready\n");
    }

    #[test]
    fn on_every_fault_the_settings_of_before_stay_and_the_fault_is_told_once_with_its_line() {
        let mut scene = Scene::open("faults", "rules: {NP103: warn}").unwrap();
        let path = scene.path.display().to_string();
        let faults: [(&[u8], &str); 5] = [
            (b"rules:\n  NP103: loud\n", "line 2 column 10: unknown variant `loud`"),
            (b"rules:\n  NP104: warn\n", "line 2: there is no rule \"NP104\""),
            (b"rules: {NP103: deny", "line 1"),
            (b"rule: {}", "line 1"),
            (b"rules: {} # \xff", "is no UTF-8 text"),
        ];
        for (count, (contents, fault)) in (1..).zip(faults) {
            let told = scene.holds(contents);
            assert!(told.len() == 1 && told[0].starts_with(&format!("{path}: {fault}")), "{told:?}");
            assert_eq!((scene.look(), scene.numbers()), (vec![], [0, count, 0]));
            assert_eq!(scene.enforcement(), Some(Enforcement::Warn));
            let report = scene.readiness.report();
            assert!(report.contains("[+]settings ok: the settings of before stay in force: "), "{report}");
            assert!(report.contains(fault) && report.lines().count() == 2, "{report}");
        }
        assert_eq!(scene.holds(b"rules: {NP103: warn}"), ["taken"], "it is in force again");
        assert_eq!(scene.numbers(), [0, 5, 1]);
        assert_eq!(scene.readiness.report(), "[+]settings ok\nready\n");
        assert_eq!(scene.holds(b"rules: {NP103: off}"), ["taken"]);
        assert_eq!((scene.enforcement(), scene.numbers()), (Some(Enforcement::Off), [1, 5, 1]));
    }

    #[test]
    fn a_file_that_is_gone_changes_nothing() {
        let mut scene = Scene::open("gone", "rules: {NP103: warn}").unwrap();
        fs::remove_file(&scene.path).unwrap();
        let told = scene.look();
        assert!(told.len() == 1 && told[0].contains("cannot be read"), "{told:?}");
        assert_eq!((scene.enforcement(), scene.numbers()), (Some(Enforcement::Warn), [0, 1, 0]));
    }

    #[test]
    fn at_the_start_a_bad_file_is_an_error() {
        let error = Scene::open("start", "rules:\n  NP103: loud\n").err().unwrap().to_string();
        assert!(error.contains("line 2 column 10"), "{error}");
        let error = Keeper::open(Path::new("/missing/settings.yaml"), KNOWN).err().unwrap().to_string();
        assert!(error.starts_with("/missing/settings.yaml: cannot be read"), "{error}");
    }
}
