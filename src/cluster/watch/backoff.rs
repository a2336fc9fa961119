//! Pauses between tries that fail: longer each time, up to a bound, and not the same for all who try.

use std::{hash::BuildHasher, time::Duration};

/// The bounds of pauses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pauses {
    /// The first one, before it is spread.
    pub first: Duration,
    /// None is longer.
    pub longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

/// How long to wait for the next try.
#[derive(Debug)]
pub(super) struct Backoff {
    pauses: Pauses,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(pauses: Pauses) -> Self {
        Self { pauses, failures: 0 }
    }

    /// The next pause: twice as long as the last one, spread over its second half. When an API server comes back, all
    /// who wait for it must not come at once.
    pub(super) fn next(&mut self) -> Duration {
        let whole = self.pauses.first.saturating_mul(1 << self.failures.min(16)).min(self.pauses.longest);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(random_share())
    }

    /// A try has succeeded.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1, from the keys that the standard library draws for its hash maps.
pub(super) fn random_share() -> f64 {
    let bits = std::hash::RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(bits >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_success() {
        let pauses = Pauses { first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        let mut backoff = Backoff::new(pauses);
        for whole in [1, 2, 4, 8, 10, 10].map(Duration::from_secs) {
            let pause = backoff.next();
            assert!(whole / 2 <= pause && pause <= whole, "{pause:?} for {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= pauses.first);
    }

    #[test]
    fn two_who_fail_together_do_not_try_together() {
        let tries = || -> Vec<Duration> {
            let mut backoff = Backoff::new(Pauses::default());
            std::iter::repeat_with(|| backoff.next()).take(8).collect()
        };
        assert_ne!(tries(), tries());
    }

    #[test]
    fn shares_are_spread() {
        let shares: Vec<f64> = std::iter::repeat_with(random_share).take(1000).collect();
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        let mean = shares.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
