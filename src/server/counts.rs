//! How many requests had which outcome.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::admission::Outcome;

/// Counters that everybody may add to and read.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<[AtomicU64; Outcome::ALL.len()]>);

impl Counts {
    /// How many requests had an outcome since the start.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.counter(outcome).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, outcome: Outcome) {
        if let Some(counter) = self.counter(outcome) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, outcome: Outcome) -> Option<&AtomicU64> {
        let place = Outcome::ALL.iter().position(|known| *known == outcome)?;
        self.0.get(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_by_itself() {
        let counts = Counts::default();
        for (times, outcome) in Outcome::ALL.into_iter().enumerate() {
            for _ in 0..times {
                counts.add(outcome);
            }
        }
        let counted: Vec<u64> = Outcome::ALL.into_iter().map(|outcome| counts.of(outcome)).collect();
        assert_eq!(counted, [0, 1, 2, 3, 4]);
    }
}
