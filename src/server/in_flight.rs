//! Limits of requests in flight and of log lines.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;

/// Counts the requests in flight. A counter suffices, because no request waits for a permit.
#[derive(Debug)]
pub(super) struct InFlight {
    count: AtomicUsize,
    limit: usize,
}

impl InFlight {
    pub(super) fn new(limit: usize) -> Self {
        Self { count: AtomicUsize::new(0), limit }
    }

    /// Returns the number of requests in flight.
    pub(super) fn count(&self) -> usize {
        // A request that is being refused is counted for a moment.
        self.count.load(Ordering::Relaxed).min(self.limit)
    }

    /// Returns a permit for one request; `None` if the limit is reached. Dropping the permit frees it.
    pub(super) fn enter(&self) -> Option<Permit<'_>> {
        let permit = Permit(self);
        let others = self.count.fetch_add(1, Ordering::Relaxed);
        (others < self.limit).then_some(permit)
    }
}

/// The permit of one request.
pub(super) struct Permit<'a>(&'a InFlight);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Allows one log line per second, so that clients cannot fill the log.
pub(super) struct LogLimit {
    origin: Instant,
    /// The second, counted from `origin`, in which the next line may be written.
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimit {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Returns the number of lines that were suppressed since the last one; `None` if this line must be suppressed.
    pub(super) fn pass(&self) -> Option<u64> {
        self.pass_at(self.origin.elapsed().as_secs())
    }

    fn pass_at(&self, second: u64) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let is_first = second >= next
            && self.next.compare_exchange(next, second + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_first {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_free_again_after_its_request() {
        let in_flight = InFlight::new(2);
        let first = in_flight.enter();
        let second = in_flight.enter();
        assert!(first.is_some() && second.is_some());
        assert!(in_flight.enter().is_none());
        assert!(in_flight.enter().is_none(), "a refused request takes no permit");
        assert_eq!(in_flight.count(), 2);
        drop(first);
        assert!(in_flight.enter().is_some());
    }

    #[test]
    fn one_log_line_per_second_passes_and_counts_the_suppressed_ones() {
        let limit = LogLimit::new();
        assert_eq!(limit.pass_at(0), Some(0));
        assert_eq!(limit.pass_at(0), None);
        assert_eq!(limit.pass_at(0), None);
        assert_eq!(limit.pass_at(7), Some(2));
        assert_eq!(limit.pass_at(7), None);
    }
}
