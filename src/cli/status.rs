//! `nicplug status`: where each NIC is, and why it is not further.

mod age;
mod json;
mod printout;
mod table;

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use futures_util::{FutureExt, Stream, StreamExt, stream::select_all};
use jiff::Timestamp;
use kube::{
    Api,
    api::DynamicObject,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::sleep;

pub(super) use self::{age::age, json::value_of_ports, printout::Printout, table::place_of};
use super::{
    block_on,
    check::count,
    facts::SettingsArgs,
    guests::{self, FoundGuests, Selection},
    interface::resource,
    kubeconfig::{Cluster, ClusterArgs},
    terminal::{Colour, Painter, page_width, stderr_width, wrap_in},
};
use crate::{
    hotplug::place::{GuestReport, Need, report},
    k8s::kind::Kind,
    settings::Settings,
};

/// The shortest time between two readings of --watch.
const INTERVAL: Duration = Duration::from_secs(1);

/// Show where each NIC of a VM is (template, VMI, pod or guest), why it is not further, and the free PCI ports.
///
/// A NIC of a running VM goes from the template of the VM to the VMI, to the pod and to the guest. The column SINCE shows
/// how long it has been there at least. The column PORTS shows the free ports for hotplug, now and after the next
/// restart; `~` marks an estimate, `?` what is not known. The command needs the permission to read VMs; the other objects
/// that it reads only make the answer better, and it lists what it could not read. The exit status is 1 if a user has to
/// do something about a NIC, 2 if the VMs cannot be read.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug status
  nicplug status vm-fedora -o wide
  nicplug status -A --problems
  nicplug status -l app=web -w")]
pub(super) struct StatusArgs {
    /// Names of VirtualMachines, such as NAME, vm/NAME or vmi/NAME [default: all of the namespace].
    #[arg(value_name = "VM")]
    vms: Vec<String>,

    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["vms", "namespace"])]
    all_namespaces: bool,

    /// Only VMs with these labels, such as app=web.
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "vms")]
    selector: Option<String>,

    /// Only NICs about which a user has to do something.
    #[arg(long)]
    problems: bool,

    /// After the first output, print each NIC again whose place or reason has changed, until the command is ended.
    #[arg(short, long)]
    watch: bool,

    /// Output format.
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    output: Option<Format>,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The format of the output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Format {
    /// The table with binding, model and MAC address.
    Wide,
    /// JSON for programs.
    Json,
    /// YAML.
    Yaml,
}

impl StatusArgs {
    /// Prints the status.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let settings = self.settings.read()?;
        let is_table = !matches!(self.output, Some(Format::Json | Format::Yaml));
        ensure!(is_table || !self.watch, "--watch prints a table: leave -o out, or use -o wide");
        block_on(async {
            let cluster = self.cluster.connect(&settings).await?;
            if self.watch {
                self.follow(&cluster, &settings, output).await
            } else {
                self.show(&cluster, &settings, output).await
            }
        })
    }

    fn selection(&self) -> Selection {
        match self.vms.as_slice() {
            _ if self.all_namespaces => Selection::Cluster,
            [] => Selection::Namespace,
            names => Selection::Names(names.to_vec()),
        }
    }

    async fn read(&self, cluster: &Cluster, settings: &Settings) -> anyhow::Result<(FoundGuests, Vec<GuestReport>)> {
        let guests = guests::read(cluster, &self.selection(), self.selector.as_deref(), &[]).await?;
        let mut reports: Vec<GuestReport> =
            guests.list.iter().map(|guest| report(&guests.around(guest, settings))).collect();
        if self.problems {
            for guest in &mut reports {
                guest.nics.retain(|nic| nic.need == Need::Action);
            }
            reports.retain(|guest| !guest.nics.is_empty());
        }
        Ok((guests, reports))
    }

    fn layout(&self) -> table::Layout {
        table::Layout {
            has_namespace: self.all_namespaces,
            is_wide: self.output == Some(Format::Wide),
            width: page_width(),
            now: Timestamp::now(),
        }
    }

    async fn show(&self, cluster: &Cluster, settings: &Settings, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let (guests, reports) = self.read(cluster, settings).await?;
        match self.output {
            Some(Format::Json) => {
                let text = serde_json::to_string_pretty(&json::value(&reports, &guests.unread))?;
                writeln!(output, "{text}")?;
            }
            Some(Format::Yaml) => {
                let text = serde_saphyr::to_string(&json::value(&reports, &guests.unread))?;
                writeln!(output, "{}", text.trim_end())?;
            }
            Some(Format::Wide) | None if reports.is_empty() => self.print_nothing(cluster, &guests)?,
            Some(Format::Wide) | None => {
                write!(output, "{}", table::render(&reports, &self.layout(), Painter::for_stdout()))?;
            }
        }
        if matches!(self.output, Some(Format::Wide) | None) {
            print_notes(&guests)?;
        }
        Ok(exit_code(&reports))
    }

    fn print_nothing(&self, cluster: &Cluster, guests: &FoundGuests) -> anyhow::Result<()> {
        let place =
            if self.all_namespaces { "the cluster".to_owned() } else { format!("namespace {:?}", cluster.namespace) };
        let text = if !guests.list.is_empty() {
            format!("No NIC needs anything from you ({} checked)", count(guests.list.len(), "VM"))
        } else if self.selector.is_some() {
            format!("No VM in {place} has these labels")
        } else {
            format!("No VM in {place}")
        };
        note(&text)
    }

    /// Prints the table, and then each line that changes.
    async fn follow(
        &self,
        cluster: &Cluster,
        settings: &Settings,
        output: &mut impl Write,
    ) -> anyhow::Result<ExitCode> {
        let mut changes = self.changes(cluster);
        let mut printed: BTreeMap<String, String> = BTreeMap::new();
        let mut is_first = true;
        loop {
            let (guests, reports) = match self.read(cluster, settings).await {
                Ok(read) => read,
                Err(error) if is_first => return Err(error),
                // The API server may be away for a moment; the next change leads to another reading.
                Err(error) => {
                    note(&format!("{error:#}"))?;
                    Self::wait(&mut changes).await;
                    continue;
                }
            };
            let layout = self.layout();
            let rows = table::rows(&reports, &layout);
            let new = rows.iter().filter(|row| printed.get(&row.key) != Some(&row.state));
            let new: Vec<table::NicRow> = new.cloned().collect();
            if is_first || !new.is_empty() {
                write!(output, "{}", table::lines(&new, &layout, is_first, Painter::for_stdout()))?;
                output.flush()?;
            }
            if is_first {
                print_notes(&guests)?;
            }
            is_first = false;
            printed = rows.into_iter().map(|row| (row.key, row.state)).collect();
            Self::wait(&mut changes).await;
        }
    }

    /// Waits for a change, and a moment for the changes that follow it.
    async fn wait(changes: &mut (impl Stream<Item = ()> + Unpin)) {
        changes.next().await;
        sleep(INTERVAL).await;
        while changes.next().now_or_never().flatten().is_some() {}
    }

    /// Watches VMs, VMIs and migrations. A watch without permission is silent; the others still lead to readings.
    fn changes(&self, cluster: &Cluster) -> impl Stream<Item = ()> + Unpin {
        let watch = |kind| {
            let resource = resource(kind);
            let api: Api<DynamicObject> = if self.all_namespaces {
                Api::all_with(cluster.client.clone(), &resource)
            } else {
                Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource)
            };
            let events = watcher(api, watcher::Config::default()).default_backoff().touched_objects();
            events.filter_map(async |event| event.ok().map(drop)).boxed()
        };
        select_all([Kind::Vm, Kind::Vmi, Kind::Migration].map(watch))
    }
}

fn exit_code(reports: &[GuestReport]) -> ExitCode {
    let has_problem = reports.iter().flat_map(|guest| &guest.nics).any(|nic| nic.need == Need::Action);
    if has_problem { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Prints what could not be read.
pub(super) fn print_notes(guests: &FoundGuests) -> anyhow::Result<()> {
    guests.unread.notes().iter().try_for_each(|text| note(text))
}

fn note(text: &str) -> anyhow::Result<()> {
    let text = Painter::for_stderr().paint(Colour::Dim, &wrap_in(stderr_width(), text, "", "  "));
    writeln!(std::io::stderr().lock(), "{text}")?;
    Ok(())
}
