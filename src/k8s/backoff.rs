//! How long to wait before something is tried again: longer each time, and never all at once.

use std::time::Duration;

/// The bounds of waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pauses {
    /// The first one, before it is spread.
    pub first: Duration,
    /// None is longer.
    pub longest: Duration,
}

/// Waits that double from the first to the longest. Each is drawn from its upper half, so that what failed together does
/// not come back together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    pauses: Pauses,
    /// How often it was waited.
    failures: u32,
}

impl Backoff {
    /// Waits within these bounds.
    #[must_use]
    pub const fn new(pauses: Pauses) -> Self {
        Self { pauses, failures: 0 }
    }

    /// The next wait.
    pub fn grow(&mut self) -> Duration {
        let Pauses { first, longest } = self.pauses;
        let whole = first.saturating_mul(2_u32.saturating_pow(self.failures)).min(longest);
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

/// A duration with up to a fifth less.
#[must_use]
pub fn shortened(duration: Duration) -> Duration {
    duration.mul_f64(1.0 - 0.2 * chance())
}

/// A random number from 0 up to 1.
fn chance() -> f64 {
    fastrand::f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(Pauses { first, longest });
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
    fn two_who_fail_together_do_not_try_together() {
        let tries = || -> Vec<Duration> {
            let pauses = Pauses { first: Duration::from_millis(500), longest: Duration::from_secs(30) };
            let mut backoff = Backoff::new(pauses);
            std::iter::repeat_with(|| backoff.grow()).take(8).collect()
        };
        assert_ne!(tries(), tries());
    }

    #[test]
    fn jitter_adds_or_takes_a_fifth_at_most_and_not_always_the_same() {
        let second = Duration::from_secs(1);
        for (draw, bounds) in [
            (jittered as fn(Duration) -> Duration, second..=second.mul_f64(1.2)),
            (shortened, second.mul_f64(0.8)..=second),
        ] {
            let drawn: Vec<Duration> = (0..20).map(|_| draw(second)).collect();
            assert!(drawn.iter().all(|drawn| bounds.contains(drawn)), "{drawn:?}");
            assert!(drawn.iter().any(|one| one != &drawn[0]), "{drawn:?}");
        }
    }

    #[test]
    fn chances_are_spread() {
        let chances: Vec<f64> = std::iter::repeat_with(chance).take(1000).collect();
        assert!(chances.iter().all(|chance| (0.0..1.0).contains(chance)));
        let mean = chances.iter().sum::<f64>() / 1000.0;
        assert!((0.4..0.6).contains(&mean), "{mean}");
    }
}
