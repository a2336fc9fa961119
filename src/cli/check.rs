//! `nicplug check`: judges manifests as the cluster would, before they are applied.

mod baseline;
mod cluster;
mod formats;
mod ignore;
mod judge;
mod location;
mod problem;
mod reading;
mod source;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use self::{
    cluster::ClusterState,
    formats::Style,
    ignore::Ignores,
    judge::{Judge, guest_of},
    source::{Before, Source, sources},
};
pub(super) use self::{
    formats::sarif_of,
    judge::{WithVersion, findings_of_new},
    problem::{Checked, Level, Origin, Problem, Report, UnknownFacts, count, summary, unchecked},
};
use super::{block_on, facts::SettingsArgs, kubeconfig::ClusterArgs, progress::Progress, version::newer_note};
use crate::{
    cluster::{files, store::Store},
    k8s::kind::Kind,
    kubevirt::Version,
    settings::Settings,
};

/// The file of ignored objects that is read if it exists.
const IGNORE_FILE: &str = ".nicplugignore";

/// Check manifests as the cluster would judge them, before they are applied.
///
/// The verdict is that of the webhook. A finding on the cluster, such as a missing network, needs --facts. A comment
/// `# nicplug:ignore NP105 until=2027-01-31 why` at the end of a line, or above it, hides findings of that rule there;
/// the webhook ignores such comments.
///
/// The exit status is 0 if nothing was found, 1 if the cluster would deny an object, 2 if something cannot be judged.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  nicplug check -f vm.yaml\n  nicplug check -f deploy/ -R --facts cluster.yaml\n  \
    helm template ./chart | nicplug check -f -\n  nicplug check -f deploy/ --git origin/main -o github\n  \
    nicplug check -f deploy/ -o text --output-file nicplug.sarif")]
pub(super) struct CheckArgs {
    /// Files, folders, or `-` for standard input: manifests in YAML or JSON, with any number of documents.
    #[arg(short, long = "file", visible_alias = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Files, as with --file.
    #[arg(value_name = "FILE", required_unless_present = "files")]
    more_files: Vec<PathBuf>,

    /// Read the folders in a folder too, except hidden ones.
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Objects of the cluster in YAML or JSON, a file or a folder, as for `nicplug review`. Networks in the checked
    /// files are known without them.
    #[arg(long, value_name = "FILE_OR_DIR", env = "NICPLUG_FACTS")]
    facts: Option<PathBuf>,

    /// Read the facts from a cluster, and compare with the VMs and VMIs there. This reads and changes nothing else.
    #[arg(long, conflicts_with = "facts")]
    cluster: bool,

    /// Compare with the objects of a file or folder: what is there is changed, and only the rest is new.
    #[arg(long, value_name = "FILE_OR_DIR", conflicts_with = "git")]
    against: Option<PathBuf>,

    /// Compare with what the files were in a revision of git, such as origin/main.
    #[arg(long, value_name = "REVISION")]
    git: Option<String>,

    /// Judge as if KubeVirt had this version, to try an upgrade [default: that of --facts].
    #[arg(long, value_name = "VERSION")]
    kubevirt_version: Option<Version>,

    #[command(flatten)]
    settings: SettingsArgs,

    /// The format of standard output.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,

    /// Write a file too, in the format of its ending (.sarif, .json, .xml for JUnit, .txt), or as FORMAT=FILE.
    #[arg(long, value_name = "[FORMAT=]FILE")]
    output_file: Vec<OutputFile>,

    /// Treat warnings as errors.
    #[arg(long)]
    warnings_as_errors: bool,

    /// Lines such as `NP105 VirtualMachine shop/web-* until=2027-01-31 why` [default: .nicplugignore, if it exists].
    #[arg(long, value_name = "FILE")]
    ignore_file: Option<PathBuf>,

    /// Report only what this baseline does not have.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,

    /// Write all findings into a baseline, and exit with status 0.
    #[arg(long, value_name = "FILE", conflicts_with = "baseline")]
    write_baseline: Option<PathBuf>,

    /// Of these flags `--namespace` applies without --cluster too: to objects that do not name their namespace.
    #[command(flatten)]
    connection: ClusterArgs,
}

/// The format of an output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
    /// SARIF 2.1.0.
    Sarif,
    /// XML of JUnit.
    Junit,
    /// Annotations of GitHub Actions.
    Github,
    /// Code Quality of GitLab.
    Gitlab,
}

/// A file that gets an output.
#[derive(Clone, Debug, Eq, PartialEq)]
struct OutputFile {
    format: Format,
    path: PathBuf,
}

impl FromStr for OutputFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, path)) = text.split_once('=').filter(|(name, _)| !name.contains(['/', '.'])) {
            let unknown = |_| format!("unknown format {name:?}; write one of {}", Format::names());
            return Ok(Self { format: Format::from_str(name, false).map_err(unknown)?, path: path.into() });
        }
        let path = PathBuf::from(text);
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("sarif") => Format::Sarif,
            Some("json") => Format::Json,
            Some("xml") => Format::Junit,
            Some("txt") => Format::Text,
            _ => {
                return Err(format!("the ending names no format; write FORMAT={text} with one of {}", Format::names()));
            }
        };
        Ok(Self { format, path })
    }
}

impl Format {
    /// Returns the names of all formats.
    fn names() -> String {
        let names = Self::value_variants().iter().filter_map(Self::to_possible_value);
        names.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(", ")
    }
}

impl CheckArgs {
    /// Checks the files and writes the results.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let mut report = self.report()?;
        if self.warnings_as_errors {
            report.raise_warnings();
        }
        // JUnit has a case for each object.
        report.locate_files(self.formats().any(|format| format == Format::Junit));
        report.add_fingerprints();
        if let Some(path) = &self.write_baseline {
            fs::write(path, baseline::write(&report)?)
                .with_context(|| format!("{} cannot be written", path.display()))?;
            let count = report.count(Level::Error) + report.count(Level::Warning);
            writeln!(io::stderr(), "{} has {count} findings; use it with --baseline", path.display())?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(path) = &self.baseline {
            baseline::apply(&mut report, &path.display().to_string(), &files::read(path).context("--baseline")?)?;
        }
        for OutputFile { format, path } in &self.output_file {
            let text = formats::render(&report, *format, Style::PLAIN)?;
            fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        }
        let text = formats::render(&report, self.output, Style::of_stdout())?;
        io::stdout().lock().write_all(text.as_bytes())?;
        Ok(exit_code(&report))
    }

    /// Returns the format of each output.
    fn formats(&self) -> impl Iterator<Item = Format> {
        let files = self.output_file.iter().map(|file| file.format);
        files.chain([self.output])
    }

    fn report(&self) -> anyhow::Result<Report> {
        let paths: Vec<PathBuf> = self.files.iter().chain(&self.more_files).cloned().collect();
        let sources = sources(&paths, self.recursive)?;
        let progress = Progress::start(if self.cluster { "Reading the cluster" } else { "Reading the files" });
        let mut report = Report::default();
        let settings = self.settings.read()?;
        let (state, namespace) = self.cluster_state(&settings)?;
        let mut before = match (&self.against, &self.git) {
            (Some(path), _) => Some(Before::of_folder(path, self.recursive, &namespace)?),
            (None, Some(revision)) => Some(Before::of_git(revision, &paths, self.recursive, &namespace)?),
            (None, None) => None,
        };
        report.assumptions.extend(before.iter_mut().flat_map(Before::take_notes));
        let (store, before) = match (state, &self.facts) {
            (Some(state), _) => {
                report.assumptions.extend(state.notes);
                (state.store.with_forks(settings.api.clone()), before.unwrap_or(state.before))
            }
            (None, Some(path)) => (files::load(path, &settings.api).context("--facts")?, before.unwrap_or_default()),
            (None, None) => {
                let store = store_of(before.as_ref(), &mut report).with_forks(settings.api.clone());
                (store, before.unwrap_or_default())
            }
        };
        let mut ignores = Ignores::default();
        if let Some(path) = self.ignore_path() {
            ignores.add_file(&path.display().to_string(), &files::read(path).context("--ignore-file")?);
        }
        let mut judge = Judge { store, settings, namespace, before, version: self.kubevirt_version, ignores, report };
        judge.add_facts(&sources);
        self.note_version(&judge.store, &mut judge.report);
        judge.judge_all(&sources, |name| progress.set_text(&format!("Checking {name}")));
        let Judge { mut ignores, mut report, .. } = judge;
        if report.documents == 0 && report.problems.is_empty() {
            bail!("the input has no documents; is the command before the pipe right?");
        }
        let before = report.problems.len();
        report.problems.retain(|problem| !ignores.covers(problem));
        report.ignored = before - report.problems.len();
        report.problems.extend(ignores.into_problems(&report.checked));
        if self.baseline.is_some() {
            report.names = sources.iter().map(Source::name).collect();
        }
        let order: HashMap<String, usize> = sources.iter().map(Source::name).zip(0..).collect();
        report.problems.sort_by_key(|problem| (order.get(&problem.file).copied().unwrap_or(usize::MAX), problem.at));
        Ok(report)
    }

    /// Returns the state of the cluster, with `--cluster`, and the namespace of objects that do not name one.
    fn cluster_state(&self, settings: &Settings) -> anyhow::Result<(Option<ClusterState>, String)> {
        if !self.cluster {
            if let Some(flag) = self.connection.connection.given() {
                bail!("{flag} selects a cluster, which only --cluster reads: add --cluster, or leave {flag} out");
            }
            return Ok((None, self.connection.namespace().unwrap_or("default").to_owned()));
        }
        block_on(async {
            let cluster = self.connection.connect(settings).await?;
            let state = cluster::read(&cluster).await?;
            Ok((Some(state), cluster.namespace))
        })
    }

    fn note_version(&self, store: &Store, report: &mut Report) {
        let Some(version) = self.kubevirt_version else { return };
        report.assumptions.extend(newer_note(version));
        if store.kubevirt().known().is_none() {
            let note =
                "the KubeVirt resource is not known: its defaults are assumed, without feature gates and plugins";
            report.assumptions.push(note.to_owned());
        }
    }

    fn ignore_path(&self) -> Option<&Path> {
        let default = Path::new(IGNORE_FILE);
        self.ignore_file.as_deref().or_else(|| default.is_file().then_some(default))
    }
}

fn exit_code(report: &Report) -> ExitCode {
    if report.problems.iter().any(|problem| problem.is_unreadable) {
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(report.count(Level::Error) > 0))
}

/// Returns the facts without a cluster: none. Each guest that was there before is taken to run, because the rules of
/// hotplug would not apply otherwise.
fn store_of(before: Option<&Before>, report: &mut Report) -> Store {
    let mut store = Store::default();
    let Some(before) = before else { return store };
    store.finish_sync(Kind::Vmi);
    let guests: Vec<_> = before.objects().filter_map(guest_of).collect();
    if !guests.is_empty() {
        report.assumptions.push("each VM that was there before and is not halted is taken to run".to_owned());
    }
    for guest in guests {
        // A field of a wrong type is in what was there before, which this check does not judge.
        let _ = store.insert(&guest);
    }
    store
}

/// Returns the ids of all rules of a report, sorted, each with what the problems come from.
fn rules_of(report: &Report) -> BTreeMap<&'static str, Origin> {
    report.problems.iter().map(|problem| (problem.origin.id(), problem.origin)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_a_file_is_named_or_in_its_ending() {
        for (text, expected) in [
            ("out.sarif", Ok((Format::Sarif, "out.sarif"))),
            ("a/out.xml", Ok((Format::Junit, "a/out.xml"))),
            ("gitlab=out.json", Ok((Format::Gitlab, "out.json"))),
            ("sarif=a=b", Ok((Format::Sarif, "a=b"))),
            ("./a=b.json", Ok((Format::Json, "./a=b.json"))),
            ("sarf=out", Err("unknown format \"sarf\"; write one of text, json, sarif, junit, github, gitlab")),
            ("out", Err("the ending names no format; write FORMAT=out with one of text,")),
            ("out.yaml", Err("the ending names no format; write FORMAT=out.yaml with one of text,")),
        ] {
            match (text.parse::<OutputFile>(), expected) {
                (Ok(OutputFile { format, path }), Ok(expected)) => {
                    assert_eq!((format, path.to_str().unwrap()), expected, "{text}");
                }
                (Err(message), Err(part)) => assert!(message.starts_with(part), "{text}: {message}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
