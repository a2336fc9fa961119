//! Delays between retries, which grow and are random.

use std::time::Duration;

/// The bounds of the delays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Delays {
    /// The first delay, before it is made random.
    pub first: Duration,
    /// No delay is longer.
    pub longest: Duration,
}

/// Delays that double from the first to the longest. Each is chosen at random between its half and its full length, so
/// that clients that failed together do not retry together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    delays: Delays,
    failures: u32,
}

impl Backoff {
    /// A backoff that begins with the first delay.
    #[must_use]
    pub const fn new(delays: Delays) -> Self {
        Self { delays, failures: 0 }
    }

    /// Returns the delay before the next retry, and doubles the one after it.
    pub fn next_delay(&mut self) -> Duration {
        let Delays { first, longest } = self.delays;
        let full = first.saturating_mul(2_u32.saturating_pow(self.failures)).min(longest);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// Begins again with the first delay.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Returns the duration plus up to a fifth.
#[must_use]
pub fn lengthened(duration: Duration) -> Duration {
    duration.mul_f64(1.0 + 0.2 * fastrand::f64())
}

/// Returns the duration minus up to a fifth.
#[must_use]
pub fn shortened(duration: Duration) -> Duration {
    duration.mul_f64(1.0 - 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_until_a_reset() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(Delays { first, longest });
        for full in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let delay = backoff.next_delay();
            assert!(full / 2 <= delay && delay <= full, "{delay:?} of {full:?}");
        }
        for _ in 0..100 {
            backoff.next_delay();
        }
        assert!(backoff.next_delay() <= longest);
        backoff.reset();
        assert!(backoff.next_delay() <= first);
    }

    #[test]
    fn two_clients_that_fail_together_do_not_retry_together() {
        let tries = || -> Vec<Duration> {
            let delays = Delays { first: Duration::from_millis(500), longest: Duration::from_secs(30) };
            let mut backoff = Backoff::new(delays);
            std::iter::repeat_with(|| backoff.next_delay()).take(8).collect()
        };
        assert_ne!(tries(), tries());
    }

    #[test]
    fn jitter_changes_a_duration_by_at_most_a_fifth() {
        let second = Duration::from_secs(1);
        for (draw, bounds) in [
            (lengthened as fn(Duration) -> Duration, second..=second.mul_f64(1.2)),
            (shortened, second.mul_f64(0.8)..=second),
        ] {
            let drawn: Vec<Duration> = (0..20).map(|_| draw(second)).collect();
            assert!(drawn.iter().all(|drawn| bounds.contains(drawn)), "{drawn:?}");
            assert!(drawn.iter().any(|one| one != &drawn[0]), "{drawn:?}");
        }
    }
}
