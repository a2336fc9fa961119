//! Events for which nobody waits: handed in at once, and sent one after the other in the background.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;

use super::{EventReason, Events};

/// How many may wait: an API server that is slow or away makes nobody else slow, and takes no more memory than this.
const ROOM: usize = 256;

/// An event to be sent.
#[derive(Clone, Debug)]
pub struct PendingEvent {
    /// What is told.
    pub tale: EventReason,
    /// On which object.
    pub object: ObjectReference,
    /// Another object that has to do with it.
    pub related: Option<ObjectReference>,
    /// In which words.
    pub note: String,
}

/// Where letters are handed in. Clones hand in to the same sender, who ends with the last of them.
#[derive(Clone, Debug)]
pub struct EventQueue {
    letters: mpsc::Sender<PendingEvent>,
    numbers: Arc<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    sent: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

/// Why an event was not sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DropReason {
    /// The API server could not be reached, or did not take it.
    Failed,
    /// Too many wait to be sent.
    Full,
    /// Enough was told, of that object or of all.
    Rate,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Failed, Self::Full, Self::Rate];

    /// As metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Full => "full",
            Self::Rate => "rate",
        }
    }
}

impl EventQueue {
    /// Begins to send; needs a runtime.
    #[must_use]
    pub fn open(events: Events) -> Self {
        let (letters, handed_in) = mpsc::channel(ROOM);
        let numbers = Arc::<Numbers>::default();
        tokio::spawn(send(events, handed_in, Arc::clone(&numbers)));
        Self { letters, numbers }
    }

    /// One that nobody sends from.
    #[cfg(test)]
    pub(crate) fn unsent() -> Self {
        Self { letters: mpsc::channel(1).0, numbers: Arc::default() }
    }

    /// Hands a letter in, and does not wait: where too many wait already it is dropped.
    pub fn hand_in(&self, letter: PendingEvent) {
        if self.letters.try_send(letter).is_err() {
            self.drop_one(DropReason::Full);
        }
    }

    /// Counts an event that was not handed in.
    pub fn drop_one(&self, loss: DropReason) {
        self.numbers.drop_one(loss);
    }

    /// How many were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.numbers.sent.load(Ordering::Relaxed)
    }

    /// How many were not, for a reason.
    #[must_use]
    pub fn dropped(&self, loss: DropReason) -> u64 {
        self.numbers.counter(loss).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl Numbers {
    fn drop_one(&self, loss: DropReason) {
        if let Some(counter) = self.counter(loss) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, loss: DropReason) -> Option<&AtomicU64> {
        self.dropped.get(DropReason::ALL.iter().position(|known| *known == loss)?)
    }
}

async fn send(events: Events, mut handed_in: mpsc::Receiver<PendingEvent>, numbers: Arc<Numbers>) {
    while let Some(PendingEvent { tale, object, related, note }) = handed_in.recv().await {
        if events.tell(tale, &object, related, &note).await {
            numbers.sent.fetch_add(1, Ordering::Relaxed);
        } else {
            numbers.drop_one(DropReason::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        io,
    };

    use axum::body::Body;
    use futures_util::{FutureExt, future::BoxFuture};
    use hyper::{Request, Response, StatusCode};
    use kube::Client;
    use tower::service_fn;

    use super::*;
    use crate::k8s::events::pod;

    /// An outbox to an API server that answers with this status, or never.
    fn queue(status: Option<StatusCode>) -> EventQueue {
        let service = service_fn(move |_: Request<kube::client::Body>| -> BoxFuture<'static, io::Result<_>> {
            let Some(status) = status else { return pending().boxed() };
            let mut response = Response::new(Body::from("{}"));
            *response.status_mut() = status;
            ready(Ok(response)).boxed()
        });
        EventQueue::open(Events::new(Client::new(service, "default"), "nicplug.io/test", "test"))
    }

    fn letter() -> PendingEvent {
        PendingEvent {
            tale: EventReason::SettingsTaken,
            object: pod("demo", "a", None),
            related: None,
            note: "a".to_owned(),
        }
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_sent_and_what_fails_is_counted() {
        let good = queue(Some(StatusCode::CREATED));
        good.hand_in(letter());
        until(|| good.sent() == 1).await;
        let bad = queue(Some(StatusCode::FORBIDDEN));
        bad.hand_in(letter());
        until(|| bad.dropped(DropReason::Failed) == 1).await;
        assert_eq!((good.dropped(DropReason::Failed), bad.sent()), (0, 0));
    }

    #[tokio::test]
    async fn an_api_server_that_never_answers_makes_nobody_wait() {
        let queue = queue(None);
        // The sender does not even run in between.
        for _ in 0..ROOM + 3 {
            queue.hand_in(letter());
        }
        assert_eq!((queue.dropped(DropReason::Full), queue.sent()), (3, 0));
    }
}
