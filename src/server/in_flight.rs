//! Small guards against too much: of requests at once, of log lines.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;

/// Counts the requests in flight. A counter and no semaphore: nobody waits, so there is no queue to lock.
#[derive(Debug)]
pub(super) struct InFlight {
    count: AtomicUsize,
    limit: usize,
}

impl InFlight {
    pub(super) fn new(limit: usize) -> Self {
        Self { count: AtomicUsize::new(0), limit }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        // For a moment it counts one too many that is being refused.
        self.count.load(Ordering::Relaxed).min(self.limit)
    }

    /// A place for one request until the return value is dropped; `None` when all are taken.
    pub(super) fn enter(&self) -> Option<Permit<'_>> {
        let place = Permit(self);
        let others = self.count.fetch_add(1, Ordering::Relaxed);
        (others < self.limit).then_some(place)
    }
}

/// One request in flight.
pub(super) struct Permit<'a>(&'a InFlight);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets one log line a second through, so that strangers cannot fill the log.
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

    /// How many lines were held back since the last one, or `None` when this one is held back too.
    pub(super) fn pass(&self) -> Option<u64> {
        self.pass_at(self.origin.elapsed().as_secs())
    }

    fn pass_at(&self, second: u64) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let won = second >= next
            && self.next.compare_exchange(next, second + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if won {
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
    fn a_place_is_free_again_when_its_request_is_over() {
        let in_flight = InFlight::new(2);
        let first = in_flight.enter();
        let second = in_flight.enter();
        assert!(first.is_some() && second.is_some());
        assert!(in_flight.enter().is_none());
        assert!(in_flight.enter().is_none(), "a refused request takes no place");
        assert_eq!(in_flight.count(), 2);
        drop(first);
        assert!(in_flight.enter().is_some());
    }

    #[test]
    fn one_log_line_a_second_passes_and_tells_of_the_others() {
        let limit = LogLimit::new();
        assert_eq!(limit.pass_at(0), Some(0));
        assert_eq!(limit.pass_at(0), None);
        assert_eq!(limit.pass_at(0), None);
        assert_eq!(limit.pass_at(7), Some(2));
        assert_eq!(limit.pass_at(7), None);
    }
}
