//! A clock that a test can move.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// A clock with an offset to the real one. Clones share the offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    /// Seconds ahead of the real clock.
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// Returns a clock that is behind the real one.
    pub(crate) fn behind(by: Duration) -> Self {
        Self { offset: Arc::new(AtomicI64::new(-i64::try_from(by.as_secs()).unwrap())) }
    }

    pub(crate) fn now(&self) -> SystemTime {
        let offset = self.offset.load(Ordering::SeqCst);
        let distance = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.offset.fetch_add(i64::try_from(by.as_secs()).unwrap(), Ordering::SeqCst);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now().duration_since(SystemTime::UNIX_EPOCH).unwrap()))
    }
}
