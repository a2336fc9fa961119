//! The free PCI ports of a VM, as rule NP106 counts them, for commands that show them.

use super::{Ports, RULE, boot_slots, devices_after_restart, room_of};
use crate::{
    facts::{Fact, boot},
    pci::{self, HotplugCapacity},
    rules::Case,
};

/// The ports for hotplugged NICs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FreePorts {
    /// Those of the running guest, before the change: its NICs and those that wait in the stored template have theirs.
    pub now: PortCount,
    /// How they were counted, from the devices at boot and now; empty if they were not.
    pub details: String,
    /// Those of the guest after a restart with the new template.
    pub after_restart: PortCount,
}

/// Why the ports of a guest without a record of its boot are an estimate.
const BOOTED_BEFORE: &str = "the guest booted before nicplug recorded its ports";

impl FreePorts {
    /// Returns the ports of a guest about which nothing is known, for this reason.
    #[must_use]
    pub fn unknown(why: &str) -> Self {
        let unknown = || PortCount::Unknown(why.to_owned());
        Self { now: unknown(), details: String::new(), after_restart: unknown() }
    }
}

/// A number of free ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortCount {
    /// So many are free.
    Free {
        /// The number of free ports.
        free: u64,
        /// The number that was free, or will be free, at boot.
        at_boot: u64,
        /// The name of such a port in messages.
        name: &'static str,
        /// Why the number is an estimate, if it is one.
        estimate: Option<&'static str>,
    },
    /// Ports do not limit the number of NICs.
    Unlimited,
    /// No guest runs.
    NotRunning,
    /// They cannot be counted, for this reason.
    Unknown(String),
}

impl PortCount {
    /// Returns the count as an estimate for this reason, if there is one.
    fn estimated(self, why: Option<&'static str>) -> Self {
        match self {
            Self::Free { free, at_boot, name, estimate } => {
                Self::Free { free, at_boot, name, estimate: why.or(estimate) }
            }
            other => other,
        }
    }

    /// Returns the number of free ports, if it is known and limited.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        match self {
            Self::Free { free, .. } => Some(*free),
            Self::NotRunning | Self::Unknown(_) | Self::Unlimited => None,
        }
    }

    /// Returns the number as a short text: `2`, `~2` for an estimate, `any`, `-` without a guest, `?` if unknown.
    #[must_use]
    pub fn short(&self) -> String {
        match self {
            Self::Free { free, estimate: None, .. } => free.to_string(),
            Self::Free { free, estimate: Some(_), .. } => format!("~{free}"),
            Self::Unlimited => "any".to_owned(),
            Self::NotRunning => "-".to_owned(),
            Self::Unknown(_) => "?".to_owned(),
        }
    }
}

impl From<HotplugCapacity> for PortCount {
    fn from(capacity: HotplugCapacity) -> Self {
        match capacity.free() {
            None => Self::Unlimited,
            Some(free) => Self::Free { free, at_boot: free, name: capacity.name(), estimate: None },
        }
    }
}

/// Counts the free ports.
#[must_use]
pub fn free_ports(case: &Case) -> FreePorts {
    let count = || {
        let (now, details) = now(case);
        FreePorts { now, details, after_restart: after_restart(case) }
    };
    RULE.isolated(count).unwrap_or_else(|| FreePorts::unknown("an internal error in nicplug"))
}

fn now(case: &Case) -> (PortCount, String) {
    let vmi = match case.live() {
        Fact::Absent => return (PortCount::NotRunning, String::new()),
        Fact::Unknown => {
            return (PortCount::Unknown("its VirtualMachineInstance is not known".to_owned()), String::new());
        }
        Fact::Known(vmi) => vmi,
    };
    match Ports::of(case, vmi) {
        Ok(None) => (PortCount::Unlimited, String::new()),
        Err(why) => (PortCount::Unknown(why), String::new()),
        Ok(Some(ports)) => {
            let count = PortCount::Free {
                free: ports.left,
                at_boot: ports.at_boot,
                name: ports.boot.capacity.name(),
                estimate: ports.rewrite.or(ports.is_estimate.then_some(BOOTED_BEFORE)),
            };
            (count, ports.details())
        }
    }
}

fn after_restart(case: &Case) -> PortCount {
    let devices = devices_after_restart(case);
    let room = devices.as_ref().and_then(|devices| room_of(case, devices));
    if let Some(capacity) = room.or_else(|| room_of_expanded(case)) {
        let rewrite = devices.and_then(|devices| case.domain_rewrite(&devices.port_usage));
        return PortCount::from(capacity).estimated(rewrite);
    }
    PortCount::Unknown(if case.version().is_none() {
        "KubeVirt's version is not known".to_owned()
    } else if case.change.after.vmi.is_some() {
        "a VirtualMachineInstance does not restart".to_owned()
    } else if case.change.after.needs_expansion() {
        "an instancetype or preference that was not read changes the devices, and no running guest shows them"
            .to_owned()
    } else {
        "according to nicplug's model the guest cannot boot".to_owned()
    })
}

/// Returns the room of a VM with an instancetype or a preference: its running guest shows what these add to the
/// template, and the NICs are those of the template.
fn room_of_expanded(case: &Case) -> Option<HotplugCapacity> {
    let after = &case.change.after;
    let (Fact::Known(vmi), true) = (case.live(), after.vm.is_some() && after.needs_expansion()) else { return None };
    let options = boot::pci_options(after.guest_metadata.annotations.as_deref()).for_template();
    let kinds = case.facts.kubevirt.known()?;
    let nics = pci::count_devices(after.guest, &options, &**kinds).ok()?.nics;
    let devices = vmi.boot.current_devices.as_ref()?;
    Some(boot_slots(devices, &nics, kinds.version?).ok()?.capacity)
}
