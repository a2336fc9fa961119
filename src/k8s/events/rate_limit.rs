//! How much may be told: a controller that is refused tries again and again, and of a thousand guests all at once.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// How many events may come at once, before they have to keep to the pace.
const BURST: u32 = 25;

/// The pace of all events together.
const PAUSE: Duration = Duration::from_secs(1);

/// How long nothing is told on an object on which something was told.
const PAUSE_OF_OBJECT: Duration = Duration::from_mins(1);

/// How long the same is not told again.
const PAUSE_OF_WORDS: Duration = Duration::from_mins(10);

/// Lets through so many events that a person can read them, and an API server bear them.
#[derive(Debug, Default)]
pub struct RateLimiter {
    /// When the next event would be due if all kept to the pace; in the past where there was a rest.
    due: Option<Instant>,
    /// When what was told on an object. No more than the pace lets through in [`PAUSE_OF_WORDS`].
    told: HashMap<Box<str>, Told>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    words: u64,
}

impl RateLimiter {
    /// Whether these words may be told on an object now; if so they count as told.
    pub fn admits(&mut self, object: &str, words: &str, now: Instant) -> bool {
        let words = hash(words);
        if let Some(told) = self.told.get(object) {
            let pause = if told.words == words { PAUSE_OF_WORDS } else { PAUSE_OF_OBJECT };
            if now.duration_since(told.at) < pause {
                return false;
            }
        }
        if !self.keeps_to_the_pace(now) {
            return false;
        }
        self.told.retain(|_, told| now.duration_since(told.at) < PAUSE_OF_WORDS);
        self.told.insert(object.into(), Told { at: now, words });
        true
    }

    fn keeps_to_the_pace(&mut self, now: Instant) -> bool {
        let due = self.due.map_or(now, |due| due.max(now));
        let keeps = due.duration_since(now) <= PAUSE * (BURST - 1);
        if keeps {
            self.due = Some(due + PAUSE);
        }
        keeps
    }
}

fn hash(words: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_same_is_told_once_in_ten_minutes_and_something_else_once_a_minute() {
        let (mut rate_limiter, start) = (RateLimiter::default(), Instant::now());
        assert!(rate_limiter.admits("vm", "a", start));
        assert!(!rate_limiter.admits("vm", "a", start) && !rate_limiter.admits("vm", "b", start + 59 * SECOND));
        assert!(rate_limiter.admits("other", "a", start), "another object");
        assert!(rate_limiter.admits("vm", "b", start + 60 * SECOND));
        assert!(!rate_limiter.admits("vm", "b", start + 659 * SECOND));
        assert!(rate_limiter.admits("vm", "b", start + 660 * SECOND));
    }

    #[test]
    fn all_together_keep_to_a_pace_after_a_burst() {
        let (mut rate_limiter, start) = (RateLimiter::default(), Instant::now());
        let mut admitted =
            |now| (0..1000).filter(|number| rate_limiter.admits(&format!("{number}{now:?}"), "a", now)).count();
        assert_eq!(admitted(start), 25);
        assert_eq!(admitted(start + SECOND / 2), 0);
        assert_eq!(admitted(start + 3 * SECOND), 3);
        assert_eq!(admitted(start + 1000 * SECOND), 25);
    }

    #[test]
    fn no_more_is_remembered_than_matters() {
        let (mut rate_limiter, start) = (RateLimiter::default(), Instant::now());
        for number in 0..5000_u32 {
            rate_limiter.admits(&number.to_string(), "a", start + number * SECOND);
        }
        assert!((500..=626).contains(&rate_limiter.told.len()), "{}", rate_limiter.told.len());
    }
}
