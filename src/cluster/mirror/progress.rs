//! Numbers for whoever watches: how much waits, how much is done.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What was done so far by this replica, shared by all its clones.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    mirrored: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
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
        self.0.retried.load(Ordering::Relaxed)
    }

    pub(super) fn add_mirrored(&self, count: usize) {
        self.0.mirrored.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn add_failed(&self) {
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_retried(&self) {
        self.0.retried.fetch_add(1, Ordering::Relaxed);
    }
}
