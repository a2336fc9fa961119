//! Limits of requests in flight, of log lines, and of retries after failed accepts.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

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

/// Pauses between failed accepts: with no file descriptors left, an immediate retry would only burn a core.
#[derive(Default)]
pub(super) struct Backoff {
    pause: Duration,
    end: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(1);

    /// When to try again, if not at once.
    pub(super) fn pause(&self) -> Option<Instant> {
        self.end
    }

    /// Twice the last pause, within bounds.
    pub(super) fn grow(&mut self) -> Duration {
        self.pause = (self.pause * 2).clamp(Self::FIRST, Self::LONGEST);
        self.end = Some(Instant::now() + self.pause);
        self.pause
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
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

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        assert!(backoff.pause().is_none());
        let pauses: Vec<_> = std::iter::repeat_with(|| backoff.grow()).take(10).collect();
        assert_eq!(pauses[0], Backoff::FIRST);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[9], Backoff::LONGEST);
        assert!(backoff.pause().is_some());
        backoff.reset();
        assert!(backoff.pause().is_none());
        assert_eq!(backoff.grow(), Backoff::FIRST);
    }
}
