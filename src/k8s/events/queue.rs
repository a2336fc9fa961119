//! Events that no caller waits for: queued at once, and sent one after the other in the background.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::sync::mpsc;

use super::{EventReason, Events, NamedEvent};

/// How many Events may wait: a slow API server delays no caller, and costs no more memory than this.
const CAPACITY: usize = 256;

/// An Event that waits to be sent.
#[derive(Clone, Debug)]
pub struct PendingEvent {
    /// What it reports.
    pub reason: EventReason,
    /// The object that it is about.
    pub object: ObjectReference,
    /// Another object that is involved.
    pub related: Option<ObjectReference>,
    /// The text for people.
    pub note: String,
    /// The name of the Event, if it must not exist twice; else it gets one of its own.
    pub name: Option<String>,
}

/// A queue of Events. Clones share it; the task that sends the Events ends with the last clone.
#[derive(Clone, Debug)]
pub struct EventQueue {
    events: mpsc::Sender<PendingEvent>,
    counts: Arc<EventCounts>,
}

#[derive(Debug, Default)]
struct EventCounts {
    sent: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

/// Why an Event was not sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DropReason {
    /// The API server could not be reached, or rejected the Event.
    Failed,
    /// The queue was full.
    Full,
    /// The rate limit of the object, or of all objects, was reached.
    Rate,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Failed, Self::Full, Self::Rate];

    /// Returns the label value of metrics.
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
    /// Starts the task that sends; needs a runtime.
    #[must_use]
    pub fn start(events: Events) -> Self {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let counts = Arc::<EventCounts>::default();
        tokio::spawn(send(events, receiver, Arc::clone(&counts)));
        Self { events: sender, counts }
    }

    /// A queue without a task that sends.
    #[cfg(test)]
    pub(crate) fn without_sender() -> Self {
        Self { events: mpsc::channel(1).0, counts: Arc::default() }
    }

    /// Queues an Event without waiting; drops it if the queue is full.
    pub fn emit(&self, event: PendingEvent) {
        if self.events.try_send(event).is_err() {
            self.count_dropped(DropReason::Full);
        }
    }

    /// Counts an Event that was not queued.
    pub fn count_dropped(&self, reason: DropReason) {
        self.counts.count_dropped(reason);
    }

    /// Returns how many Events were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Ordering::Relaxed)
    }

    /// Returns how many Events were dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counts.counter(reason).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl EventCounts {
    fn count_dropped(&self, reason: DropReason) {
        if let Some(counter) = self.counter(reason) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, reason: DropReason) -> Option<&AtomicU64> {
        self.dropped.get(DropReason::ALL.iter().position(|known| *known == reason)?)
    }
}

async fn send(events: Events, mut queue: mpsc::Receiver<PendingEvent>, counts: Arc<EventCounts>) {
    while let Some(PendingEvent { reason, object, related, note, name }) = queue.recv().await {
        let is_stored = match name {
            Some(name) => {
                let event = NamedEvent { name, reason, annotations: BTreeMap::new(), related, note };
                events.emit_once(event, &object).await
            }
            None => events.emit(reason, &object, related, &note).await,
        };
        if is_stored {
            counts.sent.fetch_add(1, Ordering::Relaxed);
        } else {
            counts.count_dropped(DropReason::Failed);
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
    use crate::k8s::events::pod_reference;

    /// A queue to an API server that answers with this status, or never.
    fn queue(status: Option<StatusCode>) -> EventQueue {
        let service = service_fn(move |_: Request<kube::client::Body>| -> BoxFuture<'static, io::Result<_>> {
            let Some(status) = status else { return pending().boxed() };
            let mut response = Response::new(Body::from("{}"));
            *response.status_mut() = status;
            ready(Ok(response)).boxed()
        });
        EventQueue::start(Events::new(Client::new(service, "default"), "nicplug.io/test", "test"))
    }

    fn event() -> PendingEvent {
        PendingEvent {
            reason: EventReason::SettingsReloaded,
            object: pod_reference("demo", "a", None),
            related: None,
            note: "a".to_owned(),
            name: None,
        }
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn sent_and_failed_events_are_counted() {
        let good = queue(Some(StatusCode::CREATED));
        good.emit(event());
        until(|| good.sent() == 1).await;
        let bad = queue(Some(StatusCode::FORBIDDEN));
        bad.emit(event());
        until(|| bad.dropped(DropReason::Failed) == 1).await;
        assert_eq!((good.dropped(DropReason::Failed), bad.sent()), (0, 0));
    }

    #[tokio::test]
    async fn an_api_server_that_never_answers_delays_no_caller() {
        let queue = queue(None);
        // The task that sends does not run in between.
        for _ in 0..CAPACITY + 3 {
            queue.emit(event());
        }
        assert_eq!((queue.dropped(DropReason::Full), queue.sent()), (3, 0));
    }
}
