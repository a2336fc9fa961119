//! `nicplug plan`: what a change of NICs would do, NIC by NIC, before it is made.

use std::{io::Write, process::ExitCode, str::FromStr, sync::Arc};

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{
    arguments::quoted,
    block_on,
    facts::SettingsArgs,
    guests::{self, Selection, name_in},
    interface::migration::create_command,
    kubeconfig::ClusterArgs,
    status::{Printout, print_notes, value_of_ports},
    terminal::Colour,
};
use crate::{
    admission::{NicOutlook, Outlook, Reason, Weight},
    api::mac::Mac,
    facts::{Fact, FactSource, kubevirt::AutoMigration},
    hotplug::{
        edit::{EditRequest, NewNic},
        place::{self, GuestReport},
        plan::{FieldChange, Plan, PlanStep, plan},
    },
    k8s::served_groups::ServedGroups,
    rules::{NicChange, PortCount, Timing},
};

/// The version of the JSON output.
const SCHEMA_VERSION: u32 = 1;

/// Show what adding, removing or changing NICs of a VM would do, without doing it.
///
/// For each NIC the command says whether the change reaches the guest at once, by a live migration, which KubeVirt or a
/// user starts, at the next restart, or never, and why; and how many PCI ports are free before and after. It judges the
/// changed VM by the same evaluation as the webhook. The exit status is 1 if a change can never work, 2 if something that
/// decides is not known or the VM cannot be read.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug plan vm-fedora --add dyniface1=new-fancy-net
  nicplug plan vm-fedora --add vlan7=infra/vlan7,sriov --remove dyniface1
  nicplug plan vm-fedora --set dyniface1.state=down")]
pub(super) struct PlanArgs {
    /// Name of the VirtualMachine, such as NAME or vm/NAME.
    #[arg(value_name = "VM")]
    vm: String,

    /// Add NICs: name and NetworkAttachmentDefinition of each; with `,sriov` it is bound by SR-IOV, and `,mac=MAC` sets
    /// its address.
    #[arg(long, value_name = "NIC=NAD", num_args = 1..)]
    add: Vec<NicArgument>,

    /// Remove NICs.
    #[arg(long, value_name = "NIC", num_args = 1..)]
    remove: Vec<String>,

    /// Set fields of NICs: state, model, mac or network.
    #[arg(long, value_name = "NIC.FIELD=VALUE", num_args = 1..)]
    set: Vec<FieldChange>,

    /// Output format.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The format of the output.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Format {
    /// Text for a terminal.
    #[default]
    Text,
    /// JSON for programs.
    Json,
    /// YAML.
    Yaml,
}

/// A NIC to add, written as `NAME=NAD`.
#[derive(Clone, Debug)]
pub(super) struct NicArgument(pub(super) NewNic);

impl FromStr for NicArgument {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.split(',');
        let (name, network) = parts.next().and_then(|first| first.split_once('=')).unwrap_or_default();
        ensure!(!name.is_empty() && !network.is_empty(), "write NIC=NAD, such as blue=new-fancy-net");
        let mut nic = NewNic { name: name.to_owned(), network_name: network.to_owned(), ..NewNic::default() };
        for option in parts {
            match option.split_once('=') {
                None if option == "sriov" => nic.is_sriov = true,
                Some(("mac", mac)) => {
                    nic.mac = Some(mac.parse::<Mac>().map_err(|_| anyhow::anyhow!("{mac:?} is not a MAC address"))?);
                }
                _ => bail!("{option:?} is not an option of a new NIC: the options are sriov and mac=MAC"),
            }
        }
        Ok(Self(nic))
    }
}

impl PlanArgs {
    /// Prints the plan.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let steps = self.steps();
        ensure!(!steps.is_empty(), "nothing to plan: pass --add, --remove or --set");
        self.ensure_consistent()?;
        let settings = self.settings.read()?;
        block_on(async {
            let cluster = self.cluster.connect(&settings).await?;
            let name = name_in(&self.vm)?.to_owned();
            let selection = Selection::Names(vec![name.clone()]);
            let mut guests = guests::read(&cluster, &selection, None, &self.networks()).await?;
            let report = guests.list.first().map(|guest| place::report(&guests.around(guest, &settings)));
            let vm = guests.list.first().and_then(|guest| guest.vm.clone());
            let (Some(report), Some(vm)) = (report, vm) else {
                bail!("{name:?} is a VirtualMachineInstance without a VirtualMachine: only a VM can be changed");
            };
            let facts: Arc<dyn FactSource> = Arc::new(std::mem::take(&mut guests.store));
            let plan = plan(&vm, &steps, &facts, &settings)?;
            let planned = Planned {
                groups: &cluster.groups,
                report: &report,
                after_restart: after_restart(&plan, &report),
                plan: &plan,
            };
            let text = match self.output {
                Format::Text => planned.text(Printout::for_stdout())?,
                Format::Json => format!("{}\n", serde_json::to_string_pretty(&planned.json())?),
                Format::Yaml => format!("{}\n", serde_saphyr::to_string(&planned.json())?.trim_end()),
            };
            output.write_all(text.as_bytes())?;
            print_notes(&guests)?;
            Ok(ExitCode::from(exit_status(&plan)))
        })
    }

    fn steps(&self) -> Vec<PlanStep> {
        let added = self.add.iter().map(|NicArgument(nic)| PlanStep::Edit(EditRequest::Add(nic.clone())));
        let removed = self.remove.iter().map(|name| PlanStep::Edit(EditRequest::Remove(name.clone())));
        let set = self.set.iter().map(|change| PlanStep::Set(change.clone()));
        removed.chain(added).chain(set).collect()
    }

    /// Checks that no NIC that is removed is changed.
    fn ensure_consistent(&self) -> anyhow::Result<()> {
        for name in &self.remove {
            ensure!(
                !self.set.iter().any(|change| change.nic == *name),
                "{name:?} is in --remove and in --set: a NIC that is removed cannot be changed"
            );
        }
        Ok(())
    }

    /// Returns the networks that the plan adds.
    fn networks(&self) -> Vec<String> {
        let added = self.add.iter().map(|NicArgument(nic)| nic.network_name.clone());
        let set = self.set.iter().filter(|change| change.field == crate::hotplug::plan::NicField::Network);
        added.chain(set.map(|change| change.value.clone())).collect()
    }
}

/// Returns 1 if a change can never work, else 2 if something that decides is not known.
pub(super) fn exit_status(plan: &Plan) -> u8 {
    match (plan.is_refused(), plan.is_uncertain()) {
        (true, _) => 1,
        (false, true) => 2,
        (false, false) => 0,
    }
}

/// Returns the free ports after a restart with the change.
fn after_restart(plan: &Plan, report: &GuestReport) -> PortCount {
    let planned = plan.outlook.as_ref().map(|outlook| outlook.ports.after_restart.clone());
    planned.unwrap_or_else(|| report.ports.after_restart.clone())
}

/// A plan, and the VM before it.
struct Planned<'p> {
    groups: &'p ServedGroups,
    report: &'p GuestReport,
    plan: &'p Plan,
    after_restart: PortCount,
}

impl Planned<'_> {
    fn text(&self, mut page: Printout) -> anyhow::Result<String> {
        let GuestReport { namespace, name, runs, ports, .. } = self.report;
        let state = match runs {
            Fact::Known(()) => "running",
            Fact::Absent => "not running",
            Fact::Unknown => "whether it runs is not known",
        };
        page.paragraph(Some(Colour::Bold), "", "  ", &format!("VirtualMachine {namespace}/{name}, {state}"));
        for (nic, why) in &self.plan.impossible {
            page.paragraph(Some(Colour::Red), "  ", "      ", &format!("! {nic}: never: {why}"));
        }
        for (nic, why) in &self.plan.unchanged {
            page.paragraph(Some(Colour::Dim), "  ", "      ", &format!("= {nic}: nothing to do: {why}"));
        }
        if let Some(outlook) = &self.plan.outlook {
            outlook.nics.iter().for_each(|nic| print_nic(&mut page, nic));
            for reason in outlook.others.iter().filter(|reason| reason.weight != Weight::Unchecked) {
                let colour = if reason.weight == Weight::Denied { Colour::Red } else { Colour::Yellow };
                page.paragraph(Some(colour), "  ", "      ", &format!("! {} [{}]", reason.what, reason.rule));
            }
            for text in unchecked(outlook) {
                page.paragraph(Some(Colour::Dim), "  ", "      ", &format!("? {text}"));
            }
        }
        let now = match (ports.now.free(), self.plan.free_after()) {
            (Some(_), Some(after)) => format!("{} now, {after} after the change", words(&ports.now)),
            _ if ports.now == PortCount::NotRunning => "none now, as no guest runs".to_owned(),
            _ => format!("{} now", words(&ports.now)),
        };
        let restart = words(&self.after_restart);
        page.paragraph(None, "  ", "    ", &format!("Free ports for hotplug: {now}; {restart} after the next restart"));
        self.commands(&mut page)?;
        Ok(page.into_text())
    }

    /// Adds the commands that make the change.
    fn commands(&self, page: &mut Printout) -> anyhow::Result<()> {
        if self.plan.is_refused() {
            page.paragraph(None, "", "  ", "No command: a change is denied as a whole; leave out what never works");
            return Ok(());
        }
        let Some(outlook) = self.plan.outlook.as_ref().filter(|_| !self.plan.patch.is_empty()) else { return Ok(()) };
        page.paragraph(None, "", "  ", "To make the change, as long as the VM stays as it is:");
        page.verbatim("  ", &self.patch_command()?);
        let is_manual = |nic: &NicOutlook| match nic.timing {
            Timing::ByMigration(start) => !matches!(start, AutoMigration::On | AutoMigration::ShutDown),
            _ => false,
        };
        if outlook.nics.iter().any(is_manual) {
            page.paragraph(None, "", "  ", "Then, to start the migration:");
            page.verbatim("", &create_command(self.groups, &self.report.namespace, &self.report.name)?);
        }
        Ok(())
    }

    fn patch_command(&self) -> anyhow::Result<String> {
        let patch = quoted(&serde_json::to_string(&self.plan.patch)?);
        let GuestReport { namespace, name, .. } = self.report;
        Ok(format!("kubectl patch virtualmachine {name} --namespace={namespace} --type=json --patch={patch}"))
    }

    fn json(&self) -> Value {
        let pairs = |list: &[(String, String)]| {
            list.iter().map(|(nic, why)| json!({"name": nic, "why": why})).collect::<Vec<_>>()
        };
        let outlook = self.plan.outlook.as_ref();
        json!({
            "kind": "NicPlan",
            "schemaVersion": SCHEMA_VERSION,
            "namespace": self.report.namespace,
            "name": self.report.name,
            "runs": self.report.is_running(),
            "isRefused": self.plan.is_refused(),
            "nics": outlook.map(|outlook| outlook.nics.iter().map(nic_json).collect::<Vec<_>>()).unwrap_or_default(),
            "impossible": pairs(&self.plan.impossible),
            "unchanged": pairs(&self.plan.unchanged),
            "ports": {
                "now": value_of_ports(&self.report.ports.now),
                "freeAfterChange": self.plan.free_after(),
                "afterRestart": value_of_ports(&self.after_restart),
            },
            "patch": self.plan.patch,
        })
    }
}

fn nic_json(nic: &NicOutlook) -> Value {
    let change = match nic.change {
        NicChange::Add => "add",
        NicChange::Modify => "modify",
        NicChange::Remove => "remove",
    };
    let when = match &nic.timing {
        _ if nic.denials().next().is_some() => "never",
        Timing::AtOnce => "atOnce",
        Timing::OnSomeNodes { .. } => "atOnceOrByMigration",
        Timing::ByMigration(AutoMigration::On) => "byAutomaticMigration",
        Timing::ByMigration(AutoMigration::ShutDown) => "byShutDown",
        Timing::ByMigration(_) => "byManualMigration",
        Timing::AtRestart(_) => "atRestart",
        Timing::AtStart => "atStart",
        Timing::Unchanged => "unchanged",
        Timing::Unknown(_) => "unknown",
    };
    let reasons = nic.reasons.iter().map(|reason| json!({"rule": reason.rule, "what": reason.what, "fix": reason.fix}));
    let reasons: Vec<Value> = reasons.collect();
    json!({"name": nic.name, "change": change, "when": when, "why": nic.sentence(), "reasons": reasons})
}

fn print_nic(page: &mut Printout, nic: &NicOutlook) {
    let mark = match nic.change {
        NicChange::Add => '+',
        NicChange::Modify => '~',
        NicChange::Remove => '-',
    };
    let is_denied = nic.denials().next().is_some();
    let colour = match &nic.timing {
        _ if is_denied => Colour::Red,
        Timing::AtOnce | Timing::AtStart | Timing::Unchanged => Colour::Green,
        _ => Colour::Yellow,
    };
    page.paragraph(Some(colour), "  ", "      ", &format!("{mark} {}: {}", nic.name, nic.sentence()));
    for reason in nic.denials() {
        page.paragraph(None, "      ", "      ", &format!("to do: {}", reason.fix));
    }
    for note in notes(nic) {
        page.paragraph(None, "      ", "      ", &note);
    }
}

/// Returns what rules found about a NIC beside what its sentence says.
pub(super) fn notes(nic: &NicOutlook) -> impl Iterator<Item = String> {
    let is_note = |reason: &&Reason| {
        matches!(reason.weight, Weight::Postponed | Weight::Warned | Weight::Advice) && !is_told(nic, reason)
    };
    nic.reasons.iter().filter(is_note).map(|reason| format!("note: {} [{}]", reason.what, reason.rule))
}

/// Whether the sentence about a NIC says what a rule found already.
fn is_told(nic: &NicOutlook, reason: &Reason) -> bool {
    let parts: &[&str] = match nic.timing {
        Timing::ByMigration(_) => {
            &["no migration starts", "which KubeVirt starts", "until you create", "have to create"]
        }
        Timing::AtRestart(_) => &["changes at the next restart", "until a restart"],
        _ => &[],
    };
    nic.sentence().contains(&reason.what) || parts.iter().any(|part| reason.what.contains(part))
}

/// Returns what the rules could not check, each once.
pub(super) fn unchecked(outlook: &Outlook) -> Vec<String> {
    let all = outlook.nics.iter().flat_map(|nic| &nic.reasons).chain(&outlook.others);
    let mut texts: Vec<String> = Vec::new();
    for reason in all.filter(|reason| reason.weight == Weight::Unchecked) {
        if !texts.contains(&reason.what) {
            texts.push(reason.what.clone());
        }
    }
    texts
}

/// Returns a number of ports in words.
fn words(ports: &PortCount) -> String {
    match ports {
        PortCount::Free { free, estimate: None, .. } => free.to_string(),
        PortCount::Free { free, estimate: Some(_), .. } => format!("about {free}"),
        PortCount::Unlimited => "any number".to_owned(),
        PortCount::NotRunning => "none".to_owned(),
        PortCount::Unknown(why) => format!("not known ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::verdict::Verdict,
        rules::{AtRestart, FreePorts},
    };

    fn nic(name: &str, change: NicChange, timing: Timing) -> NicOutlook {
        NicOutlook { name: name.to_owned(), change, timing, reasons: Vec::new() }
    }

    /// Returns the plan of a VM with two free ports, at a width.
    fn planned(nics: Vec<NicOutlook>, width: usize) -> String {
        let free = |free| PortCount::Free { free, at_boot: 4, name: "hotplug port", estimate: None };
        let ports = FreePorts { now: free(2), details: String::new(), after_restart: free(3) };
        let (namespace, name) = ("demo".to_owned(), "vm".to_owned());
        let runs = Fact::Known(());
        let report = GuestReport { namespace, name, has_vm: true, runs, nics: Vec::new(), ports: ports.clone() };
        let outlook = Outlook { verdict: Verdict::default(), nics, others: Vec::new(), ports };
        let plan = Plan {
            patch: Vec::new(),
            object: Value::Null,
            outlook: Some(outlook),
            impossible: vec![("none".to_owned(), "the template has no NIC \"none\"".to_owned())],
            unchanged: vec![("blue".to_owned(), "the template has it already".to_owned())],
        };
        let after_restart = after_restart(&plan, &report);
        let groups = &ServedGroups::default();
        Planned { groups, report: &report, plan: &plan, after_restart }.text(Printout::of(Some(width))).unwrap()
    }

    fn nics() -> Vec<NicOutlook> {
        let off = Timing::ByMigration(AutoMigration::Off("workloadUpdateMethods LiveMigrate"));
        let mut denied = nic("white", NicChange::Add, Timing::AtOnce);
        denied.reasons = vec![Reason {
            rule: "NP103",
            scope: crate::rules::Scope::Hotplug,
            weight: Weight::Denied,
            at_restart: AtRestart::Applied,
            what: "model e1000e of \"white\" cannot be hotplugged".to_owned(),
            fix: "use virtio".to_owned(),
        }];
        vec![nic("red", NicChange::Add, off), denied, nic("green", NicChange::Remove, Timing::AtOnce)]
    }

    #[test]
    fn the_plan_fits_eighty_columns() {
        assert_eq!(
            planned(nics(), 80),
            "\
VirtualMachine demo/vm, running
  ! none: never: the template has no NIC \"none\"
  = blue: nothing to do: the template has it already
  + red: by a live migration, which a user must start: KubeVirt lacks
      workloadUpdateMethods LiveMigrate
  + white: never: model e1000e of \"white\" cannot be hotplugged [NP103]
      to do: use virtio
  - green: at once, as soon as the guest releases it
  Free ports for hotplug: 2 now, 1 after the change; 3 after the next restart
No command: a change is denied as a whole; leave out what never works
"
        );
    }

    #[test]
    fn the_plan_uses_a_hundred_and_twenty_columns() {
        let text = planned(nics(), 120);
        let line =
            "  + red: by a live migration, which a user must start: KubeVirt lacks workloadUpdateMethods LiveMigrate";
        assert!(text.lines().any(|shown| shown == line), "{text}");
    }

    #[test]
    fn a_nic_that_is_removed_is_not_changed() {
        let args = |words: &[&str]| {
            let matches = PlanArgs::augment_args(clap::Command::new("plan")).try_get_matches_from(words).unwrap();
            <PlanArgs as clap::FromArgMatches>::from_arg_matches(&matches).unwrap()
        };
        for (words, expected) in [
            (&["plan", "vm", "--remove", "a", "--add", "b=net", "--set", "c.state=down"][..], None),
            (&["plan", "vm", "--remove", "a", "--set", "a.state=down"], Some("--remove and in --set")),
        ] {
            let error = args(words).ensure_consistent().err().map(|error| error.to_string());
            assert_eq!(error.is_some(), expected.is_some(), "{words:?}");
            assert!(error.is_none_or(|error| error.contains(expected.unwrap())), "{words:?}");
        }
    }

    #[test]
    fn a_new_nic_is_read_from_its_text() {
        let NicArgument(nic) = "blue=infra/net,sriov,mac=02-00-00-00-00-0A".parse().unwrap();
        assert_eq!((nic.name.as_str(), nic.network_name.as_str(), nic.is_sriov), ("blue", "infra/net", true));
        assert_eq!(nic.mac.unwrap().to_string(), "02:00:00:00:00:0a");
        for text in ["blue", "=net", "blue=", "blue=net,fast", "blue=net,mac=1", ""] {
            assert!(text.parse::<NicArgument>().is_err(), "{text:?}");
        }
    }
}
