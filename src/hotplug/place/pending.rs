//! The reason why a NIC is not further: the sentence for people, and its kind for metrics.

use super::{Direction, MigrationNeed, Need, NicReport, Place};
use crate::{
    admission::{Reason, Weight},
    rules::{AtRestart, Scope},
};

/// The kind of reason why a NIC is not further.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PendingReason {
    /// KubeVirt, Multus or libvirt has to make the next step.
    Controller,
    /// Another program reported a problem in an Event.
    Event,
    /// A user must start a live migration.
    ManualMigration,
    /// It waits for a live migration that runs, or that KubeVirt starts.
    Migration,
    /// It needs a live migration, and the guest cannot migrate.
    NotMigratable,
    /// It comes at the next restart only.
    Restart,
    /// A rule finds what prevents it.
    Rule,
}

impl PendingReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Controller,
        Self::Event,
        Self::ManualMigration,
        Self::Migration,
        Self::NotMigratable,
        Self::Restart,
        Self::Rule,
    ];

    /// Returns the label value of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Event => "event",
            Self::ManualMigration => "manual-migration",
            Self::Migration => "migration",
            Self::NotMigratable => "not-migratable",
            Self::Restart => "restart",
            Self::Rule => "rule",
        }
    }

    /// Returns the reason of a diagnosis of which only the need is known.
    pub(super) fn by_need(need: Need) -> Option<Self> {
        match need {
            Need::Nothing => None,
            Need::Time => Some(Self::Controller),
            Need::Action => Some(Self::Rule),
        }
    }

    /// Returns the reason of a NIC that waits for `next`, with what the rules find.
    pub(super) fn of(next: &str, place: Place, obstacles: &[Reason], migration: MigrationNeed) -> Self {
        if next.contains("cannot migrate") {
            Self::NotMigratable
        } else if next.starts_with("a restart") || place == Place::Template && waits_for_restart(obstacles) {
            Self::Restart
        } else if obstacles.iter().any(|obstacle| obstacle.weight != Weight::Unchecked) {
            Self::Rule
        } else {
            match migration {
                MigrationNeed::Manual => Self::ManualMigration,
                MigrationNeed::Automatic | MigrationNeed::Running => Self::Migration,
                MigrationNeed::None => Self::Controller,
            }
        }
    }
}

/// Whether rules deny the copy of a NIC to the running guest, or have let it wait, and the next restart cures each
/// fault: KubeVirt does not bring such a NIC to the guest before, whatever allowed it in the template.
fn waits_for_restart(obstacles: &[Reason]) -> bool {
    let is_fault = |obstacle: &&Reason| matches!(obstacle.weight, Weight::Denied | Weight::Postponed);
    let is_cured = |fault: &Reason| fault.scope == Scope::Hotplug && fault.at_restart == AtRestart::Applied;
    let mut faults = obstacles.iter().filter(is_fault).peekable();
    faults.peek().is_some() && faults.all(is_cured)
}

impl NicReport {
    /// Returns the sentence that says where the NIC is and why it is not further; `age` is for how long it has been
    /// there at least.
    #[must_use]
    pub fn sentence(&self, age: Option<&str>) -> String {
        let name = format!("{:?}", self.name);
        let since = age.map(|age| format!(" (for {age} at least)")).unwrap_or_default();
        if self.need == Need::Nothing && self.why.is_empty() {
            let place = if self.place == Place::Guest { "in the guest" } else { "in the VMI" };
            return format!("{name} is {place}{since}");
        }
        let place = match (self.direction, self.place) {
            (Direction::Attach, Place::Template) => "only in the template",
            (Direction::Attach, Place::Vmi) => "in the VMI, and not in the pod",
            (Direction::Attach, Place::Pod) => "in the pod, and not in the guest",
            (Direction::Attach, Place::Guest) => "in the guest",
            (Direction::Detach, Place::Guest) => "still in the guest",
            (Direction::Detach, Place::Pod) => "still in the pod",
            (Direction::Detach, Place::Vmi) => "still in the VMI",
            (Direction::Detach, Place::Template) => "not in the guest",
        };
        let why = &self.why;
        if self.need == Need::Nothing { format!("{name} {why}") } else { format!("{name} is {place}{since}: it {why}") }
    }
}
