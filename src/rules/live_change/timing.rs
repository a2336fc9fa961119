//! What becomes of each NIC that a change of a VM touches: at once, by a migration, or at the next restart.
//!
//! It uses the parts by which the rules decide, so that it contradicts none of them. A finding of a rule about the NIC
//! overrules it; `admission` combines both.

use std::collections::BTreeSet;

use super::{RULE, forecast::Forecast};
use crate::{
    change::Nic,
    facts::{
        Fact, Vmi,
        attachment::InPlace,
        kubevirt::AutoMigration,
        nic::{HotplugMethod, NetworkRole},
    },
    rules::{Case, attachment_path::plugin_without_hotplug},
};

/// When a change of a NIC reaches the guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Timing {
    /// KubeVirt makes it in the running guest.
    AtOnce,
    /// Multus attaches the NIC if the guest runs on one of the nodes with a ready dynamic-networks controller; otherwise
    /// a migration does.
    OnSomeNodes {
        /// The number of nodes on which the controller is ready.
        ready: u32,
        /// The number of nodes on which it should be ready.
        desired: u32,
    },
    /// A live migration makes it, which KubeVirt starts or a user.
    ByMigration(AutoMigration),
    /// It waits for the next restart, for this reason.
    AtRestart(String),
    /// No guest runs: it takes effect at the next start.
    AtStart,
    /// The guest is so already: it has the added NIC, or lacks the removed one.
    Unchanged,
    /// A fact that decides it is not known.
    Unknown(String),
}

/// What a change does to a NIC of a VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NicChange {
    /// The NIC is new.
    Add,
    /// The NIC is unplugged, or the template no longer has it.
    Remove,
    /// A field of the NIC is new.
    Modify,
}

/// Returns each changed NIC with its field, and when its change reaches the guest, apart from what rules find.
#[must_use]
pub fn timings<'c>(case: &Case<'c>) -> Vec<(Nic<'c>, NicChange, Timing)> {
    let nics = &case.change.nics;
    let added = nics.added.iter().map(|nic| (*nic, NicChange::Add));
    let removed = nics.removed.iter().chain(&nics.set_absent).map(|nic| (*nic, NicChange::Remove));
    let modified = nics.modified.iter().map(|(_, nic)| (*nic, NicChange::Modify));
    let all: Vec<_> = added.chain(modified).chain(removed).collect();
    let timings = match case.live() {
        Fact::Absent => vec![Timing::AtStart; all.len()],
        Fact::Unknown => vec![Timing::Unknown("its VirtualMachineInstance is not known".to_owned()); all.len()],
        Fact::Known(vmi) => RULE
            .isolated(|| of_running(case, vmi, &all))
            .unwrap_or_else(|| vec![Timing::Unknown("an internal error in nicplug".to_owned()); all.len()]),
    };
    all.into_iter().zip(timings).map(|((nic, change), timing)| (nic, change, timing)).collect()
}

/// Returns when each of these changes reaches a running guest.
fn of_running(case: &Case, vmi: &Vmi, all: &[(Nic, NicChange)]) -> Vec<Timing> {
    let forecast = Forecast::of(case, vmi);
    let plugged: BTreeSet<&str> = case.plugged(vmi).map(|nic| nic.name).collect();
    let timing = |(nic, change): &(Nic, NicChange)| {
        if plugged.contains(nic.name) {
            return plug(case, vmi, nic);
        }
        match change {
            // The guest has the NIC, or the new NIC is absent.
            NicChange::Add => Timing::Unchanged,
            NicChange::Modify => modify(case, vmi, nic, &forecast),
            NicChange::Remove => remove(case, vmi, nic),
        }
    };
    all.iter().map(timing).collect()
}

fn plug(case: &Case, vmi: &Vmi, nic: &Nic) -> Timing {
    match case.plug_of(nic) {
        HotplugMethod::None => Timing::AtRestart("KubeVirt plugs no NIC of this kind into a running guest".to_owned()),
        HotplugMethod::Sriov => migration(case, vmi),
        HotplugMethod::Bridge if plugin_without_hotplug(case, nic).is_some() => migration(case, vmi),
        HotplugMethod::Bridge => match case.in_place() {
            Fact::Known(InPlace::Yes) => Timing::AtOnce,
            Fact::Known(InPlace::SomeNodes { ready, desired }) => Timing::OnSomeNodes { ready, desired },
            Fact::Known(InPlace::No) | Fact::Absent => migration(case, vmi),
            Fact::Unknown => {
                Timing::Unknown("the DaemonSets that decide between Multus and a migration are not known".to_owned())
            }
        },
    }
}

fn modify(case: &Case, vmi: &Vmi, nic: &Nic, forecast: &Forecast) -> Timing {
    if let Some(field) = forecast.waiting_field(nic.name) {
        return Timing::AtRestart(format!("KubeVirt does not change {field} of a running guest"));
    }
    match forecast.swapped.iter().find(|swap| swap.nic.name == nic.name) {
        Some(swap) if swap.guest.role == NetworkRole::Additional => migration(case, vmi),
        Some(_) => Timing::AtRestart("KubeVirt changes the default network of no running guest".to_owned()),
        None => Timing::AtOnce,
    }
}

fn remove(case: &Case, vmi: &Vmi, nic: &Nic) -> Timing {
    let is_dropped = case.change.nics.removed.iter().any(|removed| removed.name == nic.name);
    match vmi.nic(nic.name) {
        Some(guest) if is_dropped && !guest.is_absent => {
            Timing::AtRestart("the template drops it without state: absent".to_owned())
        }
        Some(_) => Timing::AtOnce,
        None if vmi.status_nic(nic.name).is_some() => Timing::AtOnce,
        None => Timing::Unchanged,
    }
}

fn migration(case: &Case, vmi: &Vmi) -> Timing {
    let kubevirt = case.facts.kubevirt.known();
    Timing::ByMigration(kubevirt.map_or(AutoMigration::Unknown, |kubevirt| kubevirt.auto_migration(vmi)))
}
