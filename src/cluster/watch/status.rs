//! How each watch is doing: told by /readyz?verbose, by the metrics, and by one log line for each change.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::KINDS;
use crate::k8s::kind::Kind;

/// What the facts of a kind are worth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// Unknown: they were not listed yet. Why not, where it was tried.
    Starting(Option<String>),
    /// As the cluster has them.
    Synced,
    /// As the cluster had them when the connection was lost; why it was.
    Stale(String),
    /// Unknown: nobody gave us the right to look. What the API server says.
    Forbidden(String),
    /// Unknown: the cluster has no such kind, so whatever brings it is not installed.
    NotInstalled,
}

impl State {
    /// The names of all states.
    pub const NAMES: [&'static str; 5] = ["starting", "synced", "stale", "forbidden", "not_installed"];

    /// As metrics write it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Starting(_) => "starting",
            Self::Synced => "synced",
            Self::Stale(_) => "stale",
            Self::Forbidden(_) => "forbidden",
            Self::NotInstalled => "not_installed",
        }
    }
}

/// What may happen to a watch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WatchError {
    /// The API server could not be reached, or could not answer.
    Away,
    /// The place in the history that the watch wanted to go on from is gone: all objects are listed anew.
    Expired,
    /// It is not permitted.
    Forbidden,
    /// There is no such kind.
    NotInstalled,
    /// An object cannot be read.
    Unreadable,
}

impl WatchError {
    /// Every mishap.
    pub const ALL: [Self; 5] = [Self::Away, Self::Expired, Self::Forbidden, Self::NotInstalled, Self::Unreadable];

    /// As metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::NotInstalled => "not_installed",
            Self::Unreadable => "unreadable",
        }
    }
}

/// How all watches are doing. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Status(Vec<Arc<WatchStatus>>);

/// How the watch of one kind is doing.
#[derive(Debug)]
pub struct WatchStatus {
    /// The kind.
    pub kind: Kind,
    state: Mutex<(State, Instant)>,
    origin: Instant,
    /// When the API server was last heard of, in milliseconds from `origin` and one; 0 for never. Written by every
    /// heartbeat, so it is no part of what is locked.
    heard: AtomicU64,
    mishaps: [AtomicU64; WatchError::ALL.len()],
}

impl Default for Status {
    fn default() -> Self {
        Self(KINDS.into_iter().map(|kind| Arc::new(WatchStatus::new(kind))).collect())
    }
}

impl Status {
    /// One record for each kind that is watched.
    pub fn records(&self) -> impl Iterator<Item = &Arc<WatchStatus>> {
        self.0.iter()
    }

    /// The record of a kind, if it is watched.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<&Arc<WatchStatus>> {
        self.records().find(|record| record.kind == kind)
    }
}

impl WatchStatus {
    fn new(kind: Kind) -> Self {
        let origin = Instant::now();
        Self {
            kind,
            state: Mutex::new((State::Starting(None), origin)),
            origin,
            heard: AtomicU64::new(0),
            mishaps: [const { AtomicU64::new(0) }; WatchError::ALL.len()],
        }
    }

    /// The state, and for how long it has lasted.
    #[must_use]
    pub fn state(&self) -> (State, Duration) {
        let (state, since) = &*self.lock();
        (state.clone(), since.elapsed())
    }

    /// How long the API server has not been heard of: no object and no bookmark. `None` before the first list.
    #[must_use]
    pub fn time_since_last_event(&self) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// How often something has happened.
    #[must_use]
    pub fn count(&self, mishap: WatchError) -> u64 {
        self.counter(mishap).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.store(now + 1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, mishap: WatchError) {
        if let Some(counter) = self.counter(mishap) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, mishap: WatchError) -> Option<&AtomicU64> {
        self.mishaps.get(WatchError::ALL.iter().position(|known| *known == mishap)?)
    }

    /// Whether there are facts of the kind, fresh or stale.
    pub(super) fn has_facts(&self) -> bool {
        matches!(self.lock().0, State::Synced | State::Stale(_))
    }

    /// Goes over to a state. The first of its kind is logged; what else is said about it meanwhile is kept to be shown.
    pub(super) fn enter(&self, state: State) {
        let mut current = self.lock();
        let is_new = current.0.as_str() != state.as_str()
            || matches!((&current.0, &state), (State::Starting(None), State::Starting(Some(_))));
        let lasted = current.1.elapsed();
        if is_new {
            self.log(&state, lasted);
        }
        let since = if current.0.as_str() == state.as_str() { current.1 } else { Instant::now() };
        *current = (state, since);
    }

    fn log(&self, state: &State, lasted: Duration) {
        let kind = self.kind.kind();
        match state {
            State::Starting(None) => {}
            State::Starting(Some(error)) => {
                tracing::warn!(kind, error, "facts cannot be listed yet: they are unknown, and it is tried again");
            }
            State::Synced => tracing::info!(kind, after = ?lasted, "facts are in step with the cluster"),
            State::Stale(error) => {
                tracing::warn!(kind, error, "watch lost: the facts stay as they were, and it is tried again");
            }
            State::Forbidden(error) => {
                tracing::warn!(kind, error, "facts unknown: grant list and watch, and they come by themselves");
            }
            State::NotInstalled => {
                tracing::warn!(
                    kind,
                    "facts unknown: the cluster has no such kind; once it has, they come by themselves"
                );
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (State, Instant)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lasts_while_only_its_reason_changes() {
        let record = WatchStatus::new(Kind::Nad);
        record.enter(State::Stale("one".to_owned()));
        let since = record.lock().1;
        record.enter(State::Stale("two".to_owned()));
        assert_eq!(record.lock().1, since);
        assert_eq!(record.state().0, State::Stale("two".to_owned()));
        assert!(record.has_facts());
        record.enter(State::NotInstalled);
        assert!(!record.has_facts());
    }

    #[test]
    fn mishaps_are_counted_by_their_kind() {
        let record = WatchStatus::new(Kind::Nad);
        for (times, mishap) in WatchError::ALL.into_iter().enumerate() {
            for _ in 0..times {
                record.add(mishap);
            }
        }
        assert_eq!(WatchError::ALL.map(|mishap| record.count(mishap)), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn silence_begins_with_the_first_word() {
        let record = WatchStatus::new(Kind::Nad);
        assert_eq!(record.time_since_last_event(), None);
        record.touch();
        assert!(
            record
                .time_since_last_event()
                .is_some_and(|time_since_last_event| time_since_last_event < Duration::from_mins(1))
        );
    }

    #[test]
    fn every_watched_kind_has_a_record() {
        let status = Status::default();
        assert!(KINDS.iter().all(|kind| status.of(*kind).is_some()));
        assert!(status.of(Kind::Revision).is_none());
    }
}
