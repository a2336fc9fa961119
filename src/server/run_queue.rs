//! The queue of a thread: the tasks that wait for the processor.
//!
//! A request is read, reviewed and answered in one run of its task. So while many tasks wait, the server knows neither
//! how many of them have requests nor for how long they wait, and it would review requests whose clients have given up:
//! the more clients wait, the fewer get an answer in time.
//!
//! If the queue has not been empty for some time, a complete request goes to its end once. Meanwhile the thread reads
//! the other requests, which takes less time than to review them, and hyper drops those whose clients have gone. A
//! request that waited for too long is refused.

use std::{cell::Cell, time::Duration};

use tokio::{task::yield_now, time::Instant};

/// The time without an empty queue after which requests are sent to its end. Less is not worth the time that it takes.
const BUSY: Duration = Duration::from_millis(100);

thread_local! {
    /// Since when the queue of this thread is not empty, as far as requests have asked; `None` since it was empty.
    static BUSY_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Notes that the queue of this thread is empty. The runtime calls it before the thread sleeps.
pub(super) fn note_empty() {
    BUSY_SINCE.set(None);
}

/// Whether the queue of this thread has not been empty for some time.
pub(super) fn is_long(now: Instant) -> bool {
    let since = BUSY_SINCE.get().unwrap_or(now);
    BUSY_SINCE.set(Some(since));
    now.saturating_duration_since(since) >= BUSY
}

/// Goes to the end of the queue; returns how long it took to get to its start.
pub(super) async fn wait() -> Duration {
    let start = Instant::now();
    yield_now().await;
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_queue_is_long_until_it_is_empty() {
        let start = Instant::now();
        note_empty();
        assert!(!is_long(start));
        assert!(!is_long(start + BUSY / 2));
        assert!(is_long(start + BUSY));
        note_empty();
        assert!(!is_long(start + BUSY));
    }

    #[test]
    fn the_runtime_notes_an_empty_queue_but_not_a_task_that_waits_in_it() {
        static EMPTY: AtomicUsize = AtomicUsize::new(0);
        let count = || {
            EMPTY.fetch_add(1, Relaxed);
        };
        let runtime = Builder::new_current_thread().on_thread_park(count).build().unwrap();
        let runs = Arc::new(AtomicUsize::new(0));
        let other = Arc::clone(&runs);
        runtime.block_on(async {
            let before = EMPTY.load(Relaxed);
            let task = tokio::spawn(async move { other.fetch_add(1, Relaxed) });
            wait().await;
            assert_eq!((runs.load(Relaxed), EMPTY.load(Relaxed)), (1, before), "the other task ran meanwhile");
            task.await.unwrap();
        });
    }
}
