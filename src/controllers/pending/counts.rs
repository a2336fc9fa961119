//! How many NICs are pending, for metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::hotplug::place::{PendingReason, Place};

/// The places of a NIC that has not reached the guest.
pub const STAGES: [Place; 3] = [Place::Template, Place::Vmi, Place::Pod];

/// The number of pending NICs by place and reason, shared by all clones; all are 0 on a replica that does not lead.
#[derive(Clone, Debug, Default)]
pub struct PendingCounts(Arc<[[AtomicU64; PendingReason::ALL.len()]; STAGES.len()]>);

impl PendingCounts {
    /// Returns the number of NICs that are pending at a place for a reason.
    #[must_use]
    pub fn of(&self, place: Place, reason: PendingReason) -> u64 {
        self.counter(place, reason).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Replaces all numbers.
    pub(super) fn replace(&self, findings: impl IntoIterator<Item = (Place, PendingReason)>) {
        let mut numbers = [[0; PendingReason::ALL.len()]; STAGES.len()];
        for (place, reason) in findings {
            let row = STAGES.iter().position(|stage| *stage == place).and_then(|row| numbers.get_mut(row));
            if let Some(number) = row.and_then(|row| row.get_mut(reason as usize)) {
                *number += 1;
            }
        }
        for (counters, numbers) in self.0.iter().zip(numbers) {
            for (counter, number) in counters.iter().zip(numbers) {
                counter.store(number, Ordering::Relaxed);
            }
        }
    }

    fn counter(&self, place: Place, reason: PendingReason) -> Option<&AtomicU64> {
        let row = STAGES.iter().position(|stage| *stage == place)?;
        self.0.get(row)?.get(reason as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_and_reason_has_its_number() {
        let counts = PendingCounts::default();
        let findings = STAGES.into_iter().flat_map(|place| PendingReason::ALL.map(|reason| (place, reason)));
        counts.replace(findings.chain([(Place::Pod, PendingReason::Rule), (Place::Guest, PendingReason::Rule)]));
        for place in STAGES {
            for reason in PendingReason::ALL {
                let expected = if (place, reason) == (Place::Pod, PendingReason::Rule) { 2 } else { 1 };
                assert_eq!(counts.of(place, reason), expected, "{place:?} {reason:?}");
            }
        }
        counts.replace([]);
        assert_eq!(counts.of(Place::Pod, PendingReason::Rule), 0);
    }
}
