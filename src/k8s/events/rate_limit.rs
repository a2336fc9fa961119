//! A limit for Events of denials and changes: a controller retries without end, and may do so for a thousand guests at
//! once.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

/// How many Events may be written at once before [`INTERVAL`] applies.
const BURST: u32 = 25;

/// The time between two Events, of all objects together.
const INTERVAL: Duration = Duration::from_secs(1);

/// The time between two different Events of one object.
const OBJECT_INTERVAL: Duration = Duration::from_mins(1);

/// The time before the same Event of an object is repeated.
const REPEAT_INTERVAL: Duration = Duration::from_mins(10);

/// How many Events of one object about changes of it may be written at once before [`OBJECT_INTERVAL`] applies.
const CHANGE_BURST: u32 = 5;

/// Admits as many Events as a person can read and the API server can store.
#[derive(Debug, Default)]
pub struct RateLimiter {
    all: Bucket,
    /// The last Event of each object: at most as many as are admitted in [`REPEAT_INTERVAL`].
    last: HashMap<Box<str>, LastEvent>,
    /// The Events about changes of each object that had one lately: at most as many as are admitted in that time.
    changes: HashMap<Box<str>, Bucket>,
}

/// Admits a burst, and then one in each interval.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// When the next one would be due if one came in every interval; in the past after a pause.
    due: Option<Instant>,
}

impl Bucket {
    /// Returns the bucket with one more; `None` if it is not admitted.
    fn with_one(self, burst: u32, interval: Duration, now: Instant) -> Option<Self> {
        let due = self.due.map_or(now, |due| due.max(now));
        (due.duration_since(now) <= interval * (burst - 1)).then(|| Self { due: Some(due + interval) })
    }
}

#[derive(Debug)]
struct LastEvent {
    at: Instant,
    note_hash: u64,
}

impl RateLimiter {
    /// Whether an Event with this note may be written on an object now; if so, it counts as written.
    pub fn admits(&mut self, object: &str, note: &str, now: Instant) -> bool {
        let note_hash = hash(note);
        if let Some(last) = self.last.get(object) {
            let interval = if last.note_hash == note_hash { REPEAT_INTERVAL } else { OBJECT_INTERVAL };
            if now.duration_since(last.at) < interval {
                return false;
            }
        }
        let Some(all) = self.all.with_one(BURST, INTERVAL, now) else { return false };
        self.all = all;
        self.last.retain(|_, last| now.duration_since(last.at) < REPEAT_INTERVAL);
        self.last.insert(object.into(), LastEvent { at: now, note_hash });
        true
    }

    /// Whether an Event about a change of an object may be written now; if so, it counts as written. Each change is
    /// new, so equal notes count as different ones do.
    pub fn admits_change(&mut self, object: &str, now: Instant) -> bool {
        let own = self.changes.get(object).copied().unwrap_or_default();
        let Some(own) = own.with_one(CHANGE_BURST, OBJECT_INTERVAL, now) else { return false };
        let Some(all) = self.all.with_one(BURST, INTERVAL, now) else { return false };
        self.all = all;
        self.changes.retain(|_, bucket| bucket.due.is_some_and(|due| due > now));
        self.changes.insert(object.into(), own);
        true
    }
}

fn hash(note: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    note.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_object_gets_the_same_event_every_ten_minutes_and_another_every_minute() {
        let (mut rate_limiter, start) = (RateLimiter::default(), Instant::now());
        assert!(rate_limiter.admits("vm", "a", start));
        assert!(!rate_limiter.admits("vm", "a", start) && !rate_limiter.admits("vm", "b", start + 59 * SECOND));
        assert!(rate_limiter.admits("other", "a", start), "another object");
        assert!(rate_limiter.admits("vm", "b", start + 60 * SECOND));
        assert!(!rate_limiter.admits("vm", "b", start + 659 * SECOND));
        assert!(rate_limiter.admits("vm", "b", start + 660 * SECOND));
    }

    #[test]
    fn all_objects_together_get_one_event_a_second_after_a_burst() {
        let (mut rate_limiter, start) = (RateLimiter::default(), Instant::now());
        let mut admitted =
            |now| (0..1000).filter(|number| rate_limiter.admits(&format!("{number}{now:?}"), "a", now)).count();
        assert_eq!(admitted(start), 25);
        assert_eq!(admitted(start + SECOND / 2), 0);
        assert_eq!(admitted(start + 3 * SECOND), 3);
        assert_eq!(admitted(start + 1000 * SECOND), 25);
    }

    #[test]
    fn an_object_gets_five_events_about_changes_at_once_and_then_one_a_minute() {
        let (mut rate_limiter, start) = (RateLimiter::default(), Instant::now());
        let mut admitted = |object: &str, now| (0..20).filter(|_| rate_limiter.admits_change(object, now)).count();
        assert_eq!((admitted("vm", start), admitted("other", start)), (5, 5));
        assert_eq!(admitted("vm", start + 59 * SECOND), 0);
        assert_eq!(admitted("vm", start + 60 * SECOND), 1);
        assert_eq!(admitted("vm", start + 3600 * SECOND), 5);
        let many = |now| (0..1000).filter(|number| rate_limiter.admits_change(&number.to_string(), now)).count();
        assert_eq!({ many }(start + 7200 * SECOND), 25, "all objects together");
        assert_eq!(rate_limiter.changes.len(), 25, "the others have used up nothing of their own");
        rate_limiter.admits_change("vm", start + 9000 * SECOND);
        assert_eq!(rate_limiter.changes.len(), 1, "the others are forgotten");
    }

    #[test]
    fn events_older_than_the_repeat_interval_are_forgotten() {
        let (mut rate_limiter, start) = (RateLimiter::default(), Instant::now());
        for number in 0..5000_u32 {
            rate_limiter.admits(&number.to_string(), "a", start + number * SECOND);
        }
        assert!((500..=626).contains(&rate_limiter.last.len()), "{}", rate_limiter.last.len());
    }
}
