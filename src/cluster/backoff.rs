//! How long to wait before something is tried again: longer each time, and never all at once.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Waits that double from the first to the longest. Each is drawn from its upper half, so that what failed together does
/// not come back together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// How often it was waited.
    failures: u32,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The next wait.
    pub fn grow(&mut self) -> Duration {
        let whole = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + 0.5 * chance())
    }

    /// Begins again with the first wait.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A duration with up to a fifth more.
#[must_use]
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(1.0 + 0.2 * chance())
}

/// A random number from 0 up to 1. The seeds of hash maps are random enough to keep replicas apart.
fn chance() -> f64 {
    f64::from(u32::try_from(random() >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

/// 64 random bits, good enough to tell replicas apart and for nothing secret.
#[must_use]
pub fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, longest);
        for whole in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.grow();
            assert!(whole / 2 <= wait && wait <= whole, "{wait:?} of {whole:?}");
        }
        for _ in 0..100 {
            backoff.grow();
        }
        assert!(backoff.grow() <= longest);
        backoff.reset();
        assert!(backoff.grow() <= first);
    }

    #[test]
    fn jitter_adds_a_fifth_at_most_and_not_always_the_same() {
        let second = Duration::from_secs(1);
        let drawn: Vec<Duration> = (0..20).map(|_| jittered(second)).collect();
        assert!(drawn.iter().all(|drawn| (second..=second.mul_f64(1.2)).contains(drawn)), "{drawn:?}");
        assert!(drawn.iter().any(|one| one != &drawn[0]), "{drawn:?}");
    }
}
