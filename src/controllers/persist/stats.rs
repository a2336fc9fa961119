//! Counters of the reconciler, for metrics and health checks.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::reconcile::ReconcileError;
use crate::cluster::persist_queue::PersistQueue;

/// The state of persisting on this replica. Each clone shows the present values.
#[derive(Clone, Debug)]
pub struct PersistStatus {
    /// The objects that ask. Every replica sees them, with or without the lead.
    pub queue: PersistQueue,
    /// The counters of this replica.
    pub stats: PersistStats,
}

/// Counters since the start of this replica, shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct PersistStats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    persisted: AtomicU64,
    reported_failures: AtomicU64,
    failures: [AtomicU64; ReconcileError::ALL.len()],
}

impl PersistStats {
    /// Returns how many NICs were written into templates.
    #[must_use]
    pub fn persisted(&self) -> u64 {
        self.0.persisted.load(Ordering::Relaxed)
    }

    /// Returns how many failures were reported by an Event: each once, however often its reconciliation is retried.
    #[must_use]
    pub fn reported_failures(&self) -> u64 {
        self.0.reported_failures.load(Ordering::Relaxed)
    }

    /// Returns how many reconciliations are retried because of a conflict, a refusal, or an unavailable API server.
    #[must_use]
    pub fn retried(&self) -> u64 {
        [ReconcileError::Unavailable, ReconcileError::Conflict, ReconcileError::Refused]
            .map(|reason| self.failures(reason))
            .iter()
            .sum()
    }

    /// Returns how many reconciliations failed for a reason, retries included.
    #[must_use]
    pub fn failures(&self, reason: ReconcileError) -> u64 {
        self.counter(reason).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    pub(crate) fn count_persisted(&self, nics: usize) {
        self.0.persisted.fetch_add(nics as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_reported_failure(&self) {
        self.0.reported_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failure(&self, reason: ReconcileError) {
        if let Some(counter) = self.counter(reason) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, reason: ReconcileError) -> Option<&AtomicU64> {
        self.0.failures.get(reason as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_reason() {
        let stats = PersistStats::default();
        for (times, reason) in ReconcileError::ALL.into_iter().enumerate() {
            for _ in 0..times {
                stats.count_failure(reason);
            }
        }
        assert_eq!(ReconcileError::ALL.map(|reason| stats.failures(reason)), [0, 1, 2, 3]);
        // An impossible request is not counted as retried: the user must change it first.
        assert_eq!(stats.retried(), 1 + 3);
    }
}
