//! Which requests are refused because the processor is what runs out.
//!
//! Without a refusal, requests wait in the queue of their thread until their clients have given up, and nicplug reviews
//! them in vain. A refusal costs little beside the review of an object with many NICs.
//!
//! The time from the accept of a connection to its first request can also be that of a slow client. So a request that
//! had to wait long waits once more for its turn: on an idle server that takes no time, and the request is reviewed.
//! Meanwhile hyper drops the request if its client has closed the connection.

use std::{cell::Cell, time::Duration};

use tokio::{task::yield_now, time::Instant};

use super::in_flight::LogLimit;

/// The part of the time to answer after which a request may be refused: one of so many. The rest is for the wait in the
/// kernel's queue, which is not known, for the turn, and for the answer.
const WAIT: u32 = 10;

/// The part of that wait that the thread must need for one turn: one of so many.
const TURN: u32 = 10;

/// A body that is not longer is reviewed in any case: the TLS handshake has already cost more than its review.
const SMALL: usize = 16 << 10;

/// The shortest wait that a request carries with it.
const SHORTEST: Duration = Duration::from_millis(10);

/// The time from the accept of a connection to its first request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited(Duration);

impl Waited {
    /// Returns the wait of a request; `None` if it is too short to matter, as almost all are.
    pub(super) fn of(wait: Duration) -> Option<Self> {
        (wait >= SHORTEST).then_some(Self(wait))
    }
}

thread_local! {
    /// The end of the time in which this thread counts as busy without another look: as long as the turn that was measured.
    static BUSY_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Refuses requests that waited too long for the processor.
pub(super) struct Overload {
    refused: LogLimit,
}

impl Overload {
    pub(super) fn new() -> Self {
        Self { refused: LogLimit::new() }
    }

    /// Whether to refuse a request with a body of so many bytes. `time` is that in which it must be answered.
    pub(super) async fn refuses(&self, waited: Option<Waited>, body: usize, time: Duration) -> bool {
        let longest = time / WAIT;
        let waited = waited.filter(|waited| waited.0 > longest && body > SMALL);
        let Some(Waited(waited)) = waited else { return false };
        let before = Instant::now();
        if BUSY_UNTIL.get().is_none_or(|end| end < before) {
            yield_now().await;
            let turn = before.elapsed();
            if turn <= longest / TURN {
                return false;
            }
            BUSY_UNTIL.set(Some(before + 2 * turn));
        }
        if let Some(suppressed) = self.refused.pass() {
            tracing::warn!(?waited, suppressed, "refused a request with 503: it waited too long for the processor");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Whether a request with a time of 5 s is refused: after such a wait, on a thread that needs so long for its other
    /// tasks, both in milliseconds.
    async fn is_refused(waited: u64, others: u64, body: usize) -> bool {
        let other_tasks = tokio::spawn(advance(Duration::from_millis(others)));
        let waited = Waited::of(Duration::from_millis(waited));
        let refused = Overload::new().refuses(waited, body, Duration::from_secs(5)).await;
        other_tasks.await.unwrap();
        refused
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_request_is_refused_if_it_waited_long_and_the_thread_is_busy() {
        let large = SMALL + 1;
        for (waited, others, body, expected) in [
            (0, 1_000, large, false),
            (500, 1_000, large, false),
            (501, 0, large, false),
            (60_000, 50, large, false),
            (501, 51, SMALL, false),
            (501, 51, large, true),
            // For 51 ms the thread counts as busy.
            (501, 50, large, true),
            (500, 0, large, false),
            (501, 0, large, true),
            (501, 10, large, true),
            (501, 0, large, false),
        ] {
            assert_eq!(is_refused(waited, others, body).await, expected, "{waited} ms, {others} ms, {body} bytes");
        }
    }
}
