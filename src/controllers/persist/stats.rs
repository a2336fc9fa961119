//! Numbers for whoever watches: how much waits, how much is done.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

use crate::cluster::persist_queue::Pending;

/// How the mirroring of a replica stands, now and later.
#[derive(Clone, Debug)]
pub struct PersistStatus {
    /// What waits. Every replica sees it, whether it leads or not.
    pub pending: Pending,
    /// What this replica did.
    pub progress: Progress,
    /// Whether this replica is the one that does it.
    pub leads: watch::Receiver<bool>,
}

/// What was done so far by this replica, shared by all its clones.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    mirrored: AtomicU64,
    failed: AtomicU64,
    setbacks: [AtomicU64; ReconcileError::ALL.len()],
}

/// Why a visit of an object did not do what it was for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReconcileError {
    /// The API server could not be reached.
    Away,
    /// Others wrote to the object all the time.
    Busy,
    /// The object asks for what cannot be done.
    Impossible,
    /// Somebody refused what was to be written.
    Refused,
}

impl ReconcileError {
    /// Every setback.
    pub const ALL: [Self; 4] = [Self::Away, Self::Busy, Self::Impossible, Self::Refused];

    /// As metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Impossible => "impossible",
            Self::Refused => "refused",
        }
    }
}

impl Progress {
    /// NICs that were written into a template.
    #[must_use]
    pub fn mirrored(&self) -> u64 {
        self.0.mirrored.load(Ordering::Relaxed)
    }

    /// Failures that were told: each once, however often it is met.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Attempts that were put off, for a conflict, a refusal or an API server that was away.
    #[must_use]
    pub fn retried(&self) -> u64 {
        [ReconcileError::Away, ReconcileError::Busy, ReconcileError::Refused]
            .map(|reason| self.setbacks(reason))
            .iter()
            .sum()
    }

    /// Visits that ended so: each one, and what cannot be done is visited again and again.
    #[must_use]
    pub fn setbacks(&self, reason: ReconcileError) -> u64 {
        self.error(reason).map_or(0, |number| number.load(Ordering::Relaxed))
    }

    pub(crate) fn add_mirrored(&self, count: usize) {
        self.0.mirrored.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_setback(&self, reason: ReconcileError) {
        if let Some(number) = self.error(reason) {
            number.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn error(&self, reason: ReconcileError) -> Option<&AtomicU64> {
        self.0.setbacks.get(reason as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setbacks_are_counted_by_their_reason() {
        let progress = Progress::default();
        for (times, reason) in ReconcileError::ALL.into_iter().enumerate() {
            for _ in 0..times {
                progress.add_setback(reason);
            }
        }
        assert_eq!(ReconcileError::ALL.map(|reason| progress.setbacks(reason)), [0, 1, 2, 3]);
        // What cannot be done is not put off: it waits for somebody to change it.
        assert_eq!(progress.retried(), 1 + 3);
    }
}
