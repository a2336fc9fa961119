//! The state of each watch: for /readyz?verbose, for the metrics, and for one log line at each change.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::KINDS;
use crate::k8s::{api_error::ApiError, kind::Kind};

/// Whether the facts of a kind are known and current.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WatchState {
    /// Unknown: the objects were not listed yet; the error of the last try.
    Starting(Option<String>),
    /// Current.
    Synced,
    /// Known as of the time when the watch was lost; the error.
    Stale(String),
    /// Unknown: nicplug has no permission; the API server's message.
    Forbidden(String),
    /// Unknown: the cluster has no such kind, so the operator that defines it is not installed.
    NotInstalled,
}

impl WatchState {
    /// The names of all states.
    pub const NAMES: [&'static str; 5] = ["starting", "synced", "stale", "forbidden", "not_installed"];

    /// Returns the label value of metrics.
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

/// An error of a watch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WatchError {
    /// The API server could not be reached, or could not answer.
    Unavailable,
    /// The API server no longer has the resource version: all objects are listed again.
    Expired,
    /// nicplug has no permission.
    Forbidden,
    /// The cluster has no such kind.
    NotInstalled,
    /// An object cannot be read.
    Unreadable,
}

impl WatchError {
    /// Every error.
    pub const ALL: [Self; 5] =
        [Self::Unavailable, Self::Expired, Self::Forbidden, Self::NotInstalled, Self::Unreadable];

    /// Returns the label value of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Expired => "expired",
            Self::Forbidden => "forbidden",
            Self::NotInstalled => "not_installed",
            Self::Unreadable => "unreadable",
        }
    }
}

impl From<&ApiError> for WatchError {
    fn from(error: &ApiError) -> Self {
        match error {
            ApiError::Expired => Self::Expired,
            ApiError::Forbidden(_) => Self::Forbidden,
            ApiError::NotFound(_) | ApiError::NotInstalled => Self::NotInstalled,
            ApiError::Conflict
            | ApiError::Refused(_)
            | ApiError::TimedOut(_)
            | ApiError::Unauthenticated(_)
            | ApiError::Unavailable(_)
            | ApiError::Unreadable(_) => Self::Unavailable,
        }
    }
}

/// The status of all watches, shared by all clones.
#[derive(Clone, Debug)]
pub struct WatchStatuses(Vec<Arc<WatchStatus>>);

/// The status of the watch of one kind.
#[derive(Debug)]
pub struct WatchStatus {
    /// The kind.
    pub kind: Kind,
    /// The state, and since when it lasts.
    state: Mutex<(WatchState, Instant)>,
    origin: Instant,
    /// When the last event came, in milliseconds from `origin` plus one; 0 for never. Every heartbeat writes it, so it
    /// is not behind the lock.
    last_event: AtomicU64,
    errors: [AtomicU64; WatchError::ALL.len()],
}

impl Default for WatchStatuses {
    fn default() -> Self {
        Self(KINDS.into_iter().map(|kind| Arc::new(WatchStatus::new(kind))).collect())
    }
}

impl WatchStatuses {
    /// Iterates over the watched kinds.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<WatchStatus>> {
        self.0.iter()
    }

    /// Returns the status of a kind, if it is watched.
    #[must_use]
    pub fn of(&self, kind: Kind) -> Option<&Arc<WatchStatus>> {
        self.iter().find(|status| status.kind == kind)
    }
}

impl WatchStatus {
    fn new(kind: Kind) -> Self {
        let origin = Instant::now();
        Self {
            kind,
            state: Mutex::new((WatchState::Starting(None), origin)),
            origin,
            last_event: AtomicU64::new(0),
            errors: [const { AtomicU64::new(0) }; WatchError::ALL.len()],
        }
    }

    /// Returns the state, and for how long it has lasted.
    #[must_use]
    pub fn state(&self) -> (WatchState, Duration) {
        let (state, since) = &*self.lock();
        (state.clone(), since.elapsed())
    }

    /// Returns how long no event came, neither an object nor a bookmark. `None` before the first list.
    #[must_use]
    pub fn time_since_last_event(&self) -> Option<Duration> {
        let last_event = self.last_event.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.origin.elapsed().saturating_sub(Duration::from_millis(last_event)))
    }

    /// Returns how often an error occurred.
    #[must_use]
    pub fn error_count(&self, error: WatchError) -> u64 {
        self.counter(error).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Notes that an event came.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.last_event.store(now + 1, Ordering::Relaxed);
    }

    pub(super) fn count_error(&self, error: WatchError) {
        if let Some(counter) = self.counter(error) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, error: WatchError) -> Option<&AtomicU64> {
        self.errors.get(WatchError::ALL.iter().position(|known| *known == error)?)
    }

    /// Whether facts of the kind are known, current or stale.
    pub(super) fn has_facts(&self) -> bool {
        matches!(self.lock().0, WatchState::Synced | WatchState::Stale(_))
    }

    /// Changes the state, and logs that; a change of only its error is not logged.
    pub(super) fn enter(&self, state: WatchState) {
        let mut current = self.lock();
        let is_new = current.0.as_str() != state.as_str()
            || matches!((&current.0, &state), (WatchState::Starting(None), WatchState::Starting(Some(_))));
        let lasted = current.1.elapsed();
        if is_new {
            self.log(&state, lasted);
        }
        let since = if current.0.as_str() == state.as_str() { current.1 } else { Instant::now() };
        *current = (state, since);
    }

    fn log(&self, state: &WatchState, lasted: Duration) {
        let kind = self.kind.kind();
        match state {
            WatchState::Starting(None) => {}
            WatchState::Starting(Some(error)) => {
                tracing::warn!(kind, error, "cannot list the objects yet: their facts are unknown, retrying");
            }
            WatchState::Synced => tracing::info!(kind, after = ?lasted, "facts are synced"),
            WatchState::Stale(error) => {
                tracing::warn!(kind, error, "watch lost: its facts stay as they are, retrying");
            }
            WatchState::Forbidden(error) => {
                tracing::warn!(kind, error, "facts unknown: grant list and watch; nicplug retries by itself");
            }
            WatchState::NotInstalled if self.kind.is_optional() => {
                tracing::debug!(kind, "the cluster has no such kind; nicplug retries by itself");
            }
            WatchState::NotInstalled => {
                tracing::warn!(kind, "facts unknown: the cluster has no such kind; nicplug retries by itself");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, (WatchState, Instant)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lasts_while_only_its_reason_changes() {
        let status = WatchStatus::new(Kind::Nad);
        status.enter(WatchState::Stale("one".to_owned()));
        let since = status.lock().1;
        status.enter(WatchState::Stale("two".to_owned()));
        assert_eq!(status.lock().1, since);
        assert_eq!(status.state().0, WatchState::Stale("two".to_owned()));
        assert!(status.has_facts());
        status.enter(WatchState::NotInstalled);
        assert!(!status.has_facts());
    }

    #[test]
    fn errors_are_counted_by_kind() {
        let status = WatchStatus::new(Kind::Nad);
        for (times, error) in WatchError::ALL.into_iter().enumerate() {
            for _ in 0..times {
                status.count_error(error);
            }
        }
        assert_eq!(WatchError::ALL.map(|error| status.error_count(error)), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_time_since_the_last_event_begins_with_the_first_event() {
        let status = WatchStatus::new(Kind::Nad);
        assert_eq!(status.time_since_last_event(), None);
        status.touch();
        assert!(status.time_since_last_event().is_some_and(|time| time < Duration::from_mins(1)));
    }

    #[test]
    fn every_watched_kind_has_a_status() {
        let statuses = WatchStatuses::default();
        assert!(KINDS.iter().all(|kind| statuses.of(*kind).is_some()));
        assert!(statuses.of(Kind::Revision).is_none());
    }
}
