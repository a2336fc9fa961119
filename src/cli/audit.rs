//! `nicplug audit`: evaluates every VM and VMI of a cluster as if its NICs were added now.

mod evaluation;
mod html;
mod json;
mod publish;
mod reports;
mod sarif;
mod text;

use std::{
    io::{self, BufWriter, Write},
    mem,
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use self::{
    evaluation::{AuditedGuest, Buses, Finding, GuestAuditor, Topic},
    publish::{Published, Publisher},
};
use super::{
    block_on,
    check::{Level, UnknownFacts, count, unchecked},
    facts::SettingsArgs,
    guests::pages::Scope,
    kubeconfig::{Cluster, ClusterArgs},
    progress::Progress,
    status::Printout,
    version::newer_note,
};
use crate::{
    kubevirt::{NEWEST_KNOWN, Version},
    settings::Settings,
};

/// Evaluate every VM and VMI as if its NICs were added now, and list what is wrong, the worst first.
///
/// The findings are those of the webhook about a VM that is created now, and what `status` shows: NICs that are not in
/// the guest and why, guests without a free PCI port now or after the next restart, templates that would not boot, and
/// guests that cannot migrate. The command reads the cluster page by page. It needs the permission to list VMs; the other
/// objects that it reads only make the answer better, and it lists what it could not read. Only -o report changes
/// something: it writes one report for each guest with findings, and removes those that no longer apply.
///
/// The exit status is 0 if nothing was found that a user has to do something about, 1 if something was found, 2 if the
/// VMs cannot be read, one cannot be judged, or a report cannot be written.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug audit
  nicplug audit -A -o html > audit.html
  nicplug audit -A --kubevirt-version v1.10.0
  nicplug audit -l app=web -o sarif > audit.sarif
  nicplug audit -A -o report")]
pub(super) struct AuditArgs {
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Only VMs with these labels, such as app=web.
    #[arg(short = 'l', long, value_name = "LABELS")]
    selector: Option<String>,

    /// Judge as if KubeVirt had this version, to try an upgrade [default: that of the cluster].
    #[arg(long, value_name = "VERSION")]
    kubevirt_version: Option<Version>,

    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,

    /// Exit with status 0 if something was found.
    #[arg(long)]
    exit_zero: bool,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The format of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// Text for people.
    Text,
    /// JSON for programs.
    Json,
    /// One page for a browser, which loads nothing else.
    Html,
    /// Reports in the cluster: openreports.io/v1alpha1, else wgpolicyk8s.io/v1alpha2.
    Report,
    /// SARIF 2.1.0.
    Sarif,
}

/// The result of an audit.
#[derive(Debug, Default)]
struct AuditReport {
    /// What was audited, as in `namespace "demo"`.
    scope: String,
    /// The version of KubeVirt by which the guests were judged.
    version: String,
    /// The moment, in RFC 3339.
    time: String,
    /// The guests, the worst first.
    guests: Vec<AuditedGuest>,
    /// The facts that were not known, each with the rules that need it.
    unknown: UnknownFacts,
    /// The PCI buses of the guests, if they are to be shown.
    buses: Buses,
    /// What could not be read, and what was taken for granted.
    notes: Vec<String>,
}

impl AuditReport {
    /// Returns each finding with its guest: by topic, then by rule and text, then by guest.
    fn findings(&self) -> Vec<(&AuditedGuest, &Finding)> {
        let mut all: Vec<(&AuditedGuest, &Finding)> =
            self.guests.iter().flat_map(|guest| guest.findings.iter().map(move |finding| (guest, finding))).collect();
        all.sort_by_key(|(guest, finding)| {
            (finding.topic, finding.rule.map(|rule| rule.id), &finding.what, &guest.namespace, &guest.name)
        });
        all
    }

    fn count(&self, is_counted: impl Fn(&Finding) -> bool) -> usize {
        self.guests.iter().flat_map(|guest| &guest.findings).filter(|finding| is_counted(finding)).count()
    }

    fn count_level(&self, level: Level) -> usize {
        self.count(|finding| finding.level == level)
    }

    /// Returns how many findings each topic has, without topics that have none.
    fn topics(&self) -> Vec<(Topic, usize)> {
        let counts = Topic::ALL.map(|topic| (topic, self.count(|finding| finding.topic == topic)));
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Returns what was not checked, could not be read, or was taken for granted.
    fn remarks(&self) -> Vec<String> {
        let unchecked = unchecked(&self.unknown).into_iter().map(|what| format!("Not checked {what}"));
        unchecked.chain(self.notes.iter().cloned()).collect()
    }

    fn exit_status(&self) -> u8 {
        let not_judged = self.count(|finding| finding.topic == Topic::NotJudged);
        let found = self.count(|finding| finding.level != Level::Note);
        if not_judged > 0 { 2 } else { u8::from(found > 0) }
    }
}

impl AuditArgs {
    /// Prints the audit.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let settings = self.settings.read()?;
        let (report, published) = block_on(async {
            let cluster = self.cluster.connect(&settings).await?;
            if self.output != Format::Report {
                return Ok((self.report(&cluster, &settings).await?, None));
            }
            // A cluster without reports is an error at once, and not after all VMs were read.
            let publisher = Publisher::new(&cluster).await?;
            let report = self.report(&cluster, &settings).await?;
            let namespace = if self.all_namespaces { "" } else { cluster.namespace.as_str() };
            let published = publisher.publish(&report, namespace, self.selector.is_some()).await?;
            Ok((report, Some(published)))
        })?;
        let mut output = BufWriter::new(output);
        match self.output {
            Format::Text => output.write_all(text::render(&report, Printout::for_stdout()).as_bytes())?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut output, &json::document(&report)).map_err(io::Error::from)?;
                writeln!(output)?;
            }
            Format::Html => html::write(&report, &mut output)?,
            Format::Sarif => output.write_all(sarif::render(&report)?.as_bytes())?,
            Format::Report => {
                let nothing = Published::default();
                let published = published.as_ref().unwrap_or(&nothing);
                output.write_all(text::render_published(&report, published, Printout::for_stdout()).as_bytes())?;
            }
        }
        output.flush()?;
        let has_failed = published.is_some_and(|published| !published.failures.is_empty());
        Ok(match report.exit_status() {
            _ if has_failed => ExitCode::from(2),
            1 if self.exit_zero => ExitCode::SUCCESS,
            status => ExitCode::from(status),
        })
    }

    async fn report(&self, cluster: &Cluster, settings: &Settings) -> anyhow::Result<AuditReport> {
        let progress = Progress::start("Reading the cluster");
        let scope = Scope::new(cluster, self.all_namespaces, self.selector.as_deref())?;
        let mut found = scope.facts().await?;
        let mut unread = mem::take(&mut found.unread);
        let present = found.store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
        let mut report = AuditReport {
            scope: self.scope(cluster),
            version: self.kubevirt_version.or(present).unwrap_or(NEWEST_KNOWN).to_string(),
            time: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            ..AuditReport::default()
        };
        let auditor = GuestAuditor {
            found: &found,
            settings,
            present,
            wanted: self.kubevirt_version,
            has_bus: self.output == Format::Html,
        };
        let AuditReport { guests, unknown, buses, .. } = &mut report;
        let evaluate = |guest| {
            guests.push(auditor.audit(&guest, unknown, buses));
            progress.set_text(&format!("{} evaluated", count(guests.len(), "VM")));
        };
        scope.each(&mut unread, evaluate).await?;
        report.guests.sort_by_cached_key(AuditedGuest::rank);
        report.notes = unread.notes();
        if present.is_none() {
            let assumed =
                if self.kubevirt_version.is_none() { format!(": treated as {NEWEST_KNOWN}") } else { String::new() };
            report.notes.push(format!("The version of KubeVirt is not known{assumed}"));
        }
        report.notes.extend(self.kubevirt_version.or(present).and_then(newer_note));
        Ok(report)
    }

    fn scope(&self, cluster: &Cluster) -> String {
        let place = if self.all_namespaces {
            "all namespaces".to_owned()
        } else {
            format!("namespace {:?}", cluster.namespace)
        };
        match &self.selector {
            Some(labels) => format!("{place}, labels {labels}"),
            None => place,
        }
    }
}
