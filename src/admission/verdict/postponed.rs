//! The faults of a change that is stored for the next restart of the VM, instead of being denied.

use std::fmt::Write;

use super::{Cause, MAX_CAUSES, message};
use crate::{
    change::Change,
    rules::{AtRestart, Finding},
};

/// The longest list of names in a warning.
const MAX_NAMES: usize = 2;

/// The faults that deny nothing because the change may wait for the next restart of the VM.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Postponed {
    /// What the next restart applies.
    pub applied: Vec<Cause>,
    /// What prevents the next start of the guest.
    pub failing: Vec<Cause>,
}

impl Postponed {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.failing.is_empty()
    }

    /// Returns all faults in one text; those that a restart does not cure come first.
    #[must_use]
    pub fn message(&self) -> String {
        let parts = [
            ("never attached, not even at a restart, so that the VM does not start with it: ", &self.failing),
            ("waits for the next restart: ", &self.applied),
        ];
        let texts = parts.into_iter().filter(|(_, causes)| !causes.is_empty());
        texts.map(|(head, causes)| format!("{head}{}", message(causes))).collect::<Vec<_>>().join("; ")
    }

    /// Adds a fault.
    pub(super) fn add(&mut self, finding: &Finding, cause: Cause) {
        match finding.at_restart {
            AtRestart::Fails => self.failing.push(cause),
            AtRestart::Applied | AtRestart::AppliedAtOnce => self.applied.push(cause),
        }
    }

    /// Returns the text of the warning: which NICs wait, and which never come.
    pub(super) fn warning(&self, change: &Change) -> String {
        let failing = Names::of(change, &self.failing, &Names::default());
        let waiting = Names::of(change, &self.applied, &failing);
        if self.failing.is_empty() {
            return match waiting.0.as_slice() {
                [] => "the change of the running VM waits for its next restart".to_owned(),
                _ => format!("the change of {} waits for the next restart of the VM", waiting.list()),
            };
        }
        let failing = failing.list();
        if waiting.0.is_empty() {
            return format!("{failing} is never attached, not even at a restart: the VM does not start with it");
        }
        let waiting = waiting.list();
        format!(
            "{failing} is never attached: the VM does not start with it; the change of {waiting} waits for a restart"
        )
    }

    pub(super) fn limit(&mut self) {
        self.applied.truncate(MAX_CAUSES);
        self.failing.truncate(MAX_CAUSES);
    }
}

/// The names of NICs, in the order in which they were found.
#[derive(Default)]
struct Names<'n>(Vec<&'n str>);

impl<'n> Names<'n> {
    /// Returns the names of the NICs of these causes, apart from some.
    fn of(change: &Change<'n>, causes: &[Cause], apart: &Names) -> Self {
        let mut names = Vec::new();
        for name in causes.iter().filter_map(|cause| change.nic_name_at(&cause.field)) {
            if !names.contains(&name) && !apart.0.contains(&name) {
                names.push(name);
            }
        }
        Self(names)
    }

    fn list(&self) -> String {
        let mut list = String::new();
        for (index, name) in self.0.iter().take(MAX_NAMES).enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(list, "{}{name:?}", if index == 0 { "" } else { ", " });
        }
        match self.0.len() {
            0 => "a NIC".to_owned(),
            count if count > MAX_NAMES => format!("{list} and {} more", count - MAX_NAMES),
            _ => list,
        }
    }
}
