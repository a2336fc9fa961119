//! `nicplug why`: why a NIC is not in the guest, in one sentence, and what to do.

use std::{io::Write, process::ExitCode};

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;

use super::{
    block_on,
    facts::SettingsArgs,
    guests::{self, Selection, name_in},
    interface::migration::create_command,
    kubeconfig::ClusterArgs,
    status::{Printout, age, print_notes},
    terminal::Colour,
};
use crate::{
    facts::{Fact, nad::closest_name},
    hotplug::place::{GuestReport, Need, NicReport, report},
    k8s::served_groups::ServedGroups,
};

/// Explain why a NIC of a VM is not in the guest, and what to do about it.
///
/// The sentence comes from the template, the VMI and its conditions, the annotations of the pod, migrations and Events,
/// as far as the user may read them, and from the rules that judge a new NIC. The exit status is 1 if a user has to do
/// something about a NIC, 2 if the VM cannot be read or has no such NIC.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug why vm-fedora
  nicplug why vm-fedora dyniface1")]
pub(super) struct WhyArgs {
    /// Name of the VirtualMachine, such as NAME, vm/NAME or vmi/NAME.
    #[arg(value_name = "VM")]
    vm: String,

    /// Name of the NIC [default: every NIC that is not where it belongs].
    #[arg(value_name = "NIC")]
    nic: Option<String>,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

impl WhyArgs {
    /// Prints the explanation.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let settings = self.settings.read()?;
        block_on(async {
            let cluster = self.cluster.connect(&settings).await?;
            let name = name_in(&self.vm)?.to_owned();
            let guests = guests::read(&cluster, &Selection::Names(vec![name]), None, &[]).await?;
            let Some(guest) = guests.list.first() else { bail!("VirtualMachine {:?} was not read", self.vm) };
            let report = report(&guests.around(guest, &settings));
            let nics = self.select(&report)?;
            let text = explain(&cluster.groups, &report, &nics, Timestamp::now(), Printout::for_stdout())?;
            output.write_all(text.as_bytes())?;
            if nics.iter().any(|nic| nic.need != Need::Nothing) {
                print_notes(&guests)?;
            }
            let is_stuck = nics.iter().any(|nic| nic.need == Need::Action);
            Ok(if is_stuck { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        })
    }

    /// Returns the NIC of the argument, or all that are not where they belong.
    fn select<'r>(&self, report: &'r GuestReport) -> anyhow::Result<Vec<&'r NicReport>> {
        let Some(name) = &self.nic else {
            return Ok(report.nics.iter().filter(|nic| nic.need != Need::Nothing).collect());
        };
        let names = || report.nics.iter().map(|nic| nic.name.as_str());
        match report.nics.iter().find(|nic| nic.name == *name) {
            Some(nic) => Ok(vec![nic]),
            None => match closest_name(name, names()) {
                Some(near) => bail!("VirtualMachine {:?} has no NIC {name:?}; did you mean {near:?}?", report.name),
                None if report.nics.is_empty() => bail!("VirtualMachine {:?} has no NIC", report.name),
                None => {
                    let all: Vec<&str> = names().collect();
                    bail!("VirtualMachine {:?} has no NIC {name:?}; it has: {}", report.name, all.join(", "))
                }
            },
        }
    }
}

/// Adds the explanation of each NIC to a page.
fn explain(
    groups: &ServedGroups,
    report: &GuestReport,
    nics: &[&NicReport],
    now: Timestamp,
    mut page: Printout,
) -> anyhow::Result<String> {
    if nics.is_empty() {
        let what = match (report.nics.len(), &report.runs) {
            (0, _) => "has no NIC in its template".to_owned(),
            (_, Fact::Absent) => "does not run: its NICs come at the next start".to_owned(),
            (1, _) => "has its NIC in the guest".to_owned(),
            (count, _) => format!("has its {count} NICs in the guest"),
        };
        page.paragraph(None, "", "  ", &format!("{:?} {what}", report.name));
    }
    for nic in nics {
        let colour = match nic.need {
            Need::Nothing => Colour::Green,
            Need::Time => Colour::Yellow,
            Need::Action => Colour::Red,
        };
        let age = nic.since.as_deref().and_then(|since| age(since, now));
        page.paragraph(Some(colour), "", "  ", &nic.sentence(age.as_deref()));
        if !nic.fix.is_empty() {
            page.paragraph(None, "", "  ", &format!("To do: {}", nic.fix));
        } else if nic.need == Need::Time {
            page.paragraph(None, "", "  ", "To do: nothing yet");
        }
        if nic.needs_migration {
            page.verbatim("", &create_command(groups, &report.namespace, &report.name)?);
        }
        if !nic.unread.is_empty() {
            let unread = nic.unread.join(", ");
            page.paragraph(None, "", "  ", &format!("Not read, so the reason may be another one: {unread}"));
        }
    }
    Ok(page.into_text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hotplug::{place::Place, progress::Direction},
        rules::{FreePorts, PortCount},
    };

    fn nic(place: Place, need: Need, why: &str, fix: &str) -> NicReport {
        NicReport {
            name: "blue".to_owned(),
            network: "net".to_owned(),
            binding: "bridge".to_owned(),
            model: "virtio".to_owned(),
            mac: None,
            place,
            direction: Direction::Attach,
            since: Some("2026-11-27T11:00:00Z".to_owned()),
            is_of_boot: None,
            need,
            reason: None,
            why: why.to_owned(),
            fix: fix.to_owned(),
            needs_migration: need == Need::Action,
            unread: if need == Need::Time { vec!["Events"] } else { Vec::new() },
        }
    }

    fn text(nic: NicReport, width: Option<usize>) -> String {
        let ports =
            FreePorts { now: PortCount::NotRunning, details: String::new(), after_restart: PortCount::Unlimited };
        let report = GuestReport {
            namespace: "demo".to_owned(),
            name: "vm".to_owned(),
            has_vm: true,
            runs: Fact::Known(()),
            nics: vec![nic],
            ports,
        };
        let nics: Vec<&NicReport> = report.nics.iter().collect();
        explain(&ServedGroups::default(), &report, &nics, "2026-11-27T12:00:00Z".parse().unwrap(), Printout::of(width))
            .unwrap()
    }

    #[test]
    fn a_nic_that_needs_a_migration_is_explained_with_the_command() {
        let why =
            "waits for a live migration, which a user must start (KubeVirt lacks workloadUpdateMethods LiveMigrate)";
        let stuck = || nic(Place::Vmi, Need::Action, why, "start a live migration");
        for width in [80, 120] {
            let text = text(stuck(), Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        }
        assert_eq!(
            text(stuck(), None),
            "\"blue\" is in the VMI, and not in the pod (for 60m at least): it waits for a live migration, which a user \
             must start (KubeVirt lacks workloadUpdateMethods LiveMigrate)\nTo do: start a live migration\nkubectl create \
             -f - <<EOF\napiVersion: kubevirt.io/v1\nkind: VirtualMachineInstanceMigration\nmetadata:\n  generateName: \
             nicplug-\n  namespace: demo\nspec:\n  vmiName: vm\nEOF\n"
        );
    }

    #[test]
    fn what_was_not_read_is_named() {
        let waits = nic(Place::Pod, Need::Time, "waits for libvirt to plug it into the guest", "");
        assert_eq!(
            text(waits, Some(80)),
            "\"blue\" is in the pod, and not in the guest (for 60m at least): it waits for\n  libvirt to plug it into \
             the guest\nTo do: nothing yet\nNot read, so the reason may be another one: Events\n"
        );
    }

    #[test]
    fn a_nic_in_the_guest_needs_nothing() {
        let settled = nic(Place::Guest, Need::Nothing, "", "");
        assert_eq!(text(settled, Some(80)), "\"blue\" is in the guest (for 60m at least)\n");
    }
}
