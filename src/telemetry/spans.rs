//! Exports one span per request to an OpenTelemetry collector, with OTLP over HTTP in JSON
//! (opentelemetry.io/docs/specs/otlp).
//!
//! This module replaces the crates of OpenTelemetry. `opentelemetry`, `_sdk` and `-otlp` 0.32 (JSON, no HTTP client)
//! would add 16 crates to the 176 that nicplug has on Linux, Protobuf and a random number generator among them, and 19
//! crates with their HTTP client for hyper. nicplug needs one kind of span without children, in a format that is stable
//! since 2023, and it needs the number of dropped spans, which their SDK does not expose.
//!
//! No request waits for the collector: a span goes to a queue of fixed length, and is dropped and counted if the queue
//! is full. A task exports the spans in batches.

pub mod context;
mod otlp;

use std::{
    future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};

pub use self::otlp::{Collector, CollectorError};
use self::{
    context::TraceContext,
    otlp::{ExportError, Resource},
};

/// The capacity of the queue; a span has about 500 bytes.
const QUEUE_CAPACITY: usize = 2048;
/// The maximum number of spans in one message.
const BATCH_SIZE: usize = 512;
/// The time that the first span of a batch waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// The number of attempts to send a batch before it is dropped. It is limited because the queue fills meanwhile.
const ATTEMPTS: u32 = 3;
/// The pause after the first failed attempt; the second pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The time to export the last batches when the program exits.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The span of one request.
#[derive(Clone, Debug)]
pub struct Span {
    /// The name of the operation.
    pub name: &'static str,
    /// The parent span; `None` for a new trace.
    pub parent: Option<TraceContext>,
    /// The start of the request.
    pub start: SystemTime,
    /// The end of the request.
    pub end: SystemTime,
    /// The attributes.
    pub attributes: Vec<(&'static str, String)>,
}

/// The queue of spans for a collector. Clones share it.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: mpsc::Sender<Span>,
    counters: Arc<SpanCounters>,
}

/// Why a span was dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DropReason {
    /// The collector could not be reached, or rejected the span.
    Collector,
    /// The queue was full.
    Queue,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Collector, Self::Queue];

    /// Returns the name for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Queue => "queue",
        }
    }
}

#[derive(Debug, Default)]
struct SpanCounters {
    exported: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl SpanCounters {
    fn add_dropped(&self, reason: DropReason, count: u64) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Spans {
    /// Puts a span into the queue without waiting. If the queue is full, the span is dropped and counted.
    pub fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.counters.add_dropped(DropReason::Queue, 1);
        }
    }

    /// Returns the number of spans that the collector accepted.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.counters.exported.load(Ordering::Relaxed)
    }

    /// Returns the number of dropped spans.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.dropped.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// Returns a queue and its exporter. `resource` has the attributes of the resource, with OpenTelemetry's names.
#[must_use]
pub fn queue(collector: Collector, resource: Vec<(&'static str, String)>) -> (Spans, Exporter) {
    let (sender, queue) = mpsc::channel(QUEUE_CAPACITY);
    let counters = Arc::new(SpanCounters::default());
    let exporter = Exporter {
        collector,
        resource: Resource::new(resource),
        queue,
        batch: Vec::new(),
        counters: Arc::clone(&counters),
        has_failed: false,
    };
    (Spans { queue: sender, counters }, exporter)
}

/// Sends spans to the collector.
#[derive(Debug)]
pub struct Exporter {
    collector: Collector,
    resource: Resource,
    queue: mpsc::Receiver<Span>,
    batch: Vec<Span>,
    counters: Arc<SpanCounters>,
    /// Whether the last message failed, so that a lasting error is logged once.
    has_failed: bool,
}

impl Exporter {
    /// Exports spans until `end`, and then the remaining ones if that is quick.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        tracing::info!(collector = %self.collector, "exporting a span for each request");
        let end = pin!(end);
        let end = end.shared();
        loop {
            tokio::select! {
                () = end.clone() => break,
                () = self.collect() => {}
            }
            let shutdown_timeout = async {
                end.clone().await;
                sleep(SHUTDOWN_TIMEOUT).await;
            };
            tokio::select! {
                () = shutdown_timeout => break self.drop_batch(),
                () = self.send() => {}
            }
        }
        self.queue.close();
        if timeout(SHUTDOWN_TIMEOUT, self.finish()).await.is_err() {
            self.drop_batch();
        }
        self.counters.add_dropped(DropReason::Collector, self.queue.len() as u64);
    }

    /// Collects one batch. If the future is dropped, the collected spans stay in `self.batch`.
    async fn collect(&mut self) {
        if self.batch.is_empty() && self.queue.recv_many(&mut self.batch, BATCH_SIZE).await == 0 {
            // Every sender was dropped, so no span can arrive.
            return future::pending().await;
        }
        let due = Instant::now() + BATCH_WAIT;
        while self.batch.len() < BATCH_SIZE {
            let room = BATCH_SIZE - self.batch.len();
            if !matches!(timeout_at(due, self.queue.recv_many(&mut self.batch, room)).await, Ok(1..)) {
                return;
            }
        }
    }

    async fn finish(&mut self) {
        loop {
            let room = BATCH_SIZE.saturating_sub(self.batch.len());
            if room > 0 {
                self.queue.recv_many(&mut self.batch, room).await;
            }
            if self.batch.is_empty() {
                return;
            }
            self.send().await;
        }
    }

    /// Sends the batch, several times if the error can be temporary.
    async fn send(&mut self) {
        let body = self.resource.message(&self.batch);
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.collector.post(body.clone()).await {
                Ok(rejected) => return self.note_exported(rejected),
                Err(error) if attempt == ATTEMPTS || !error.is_retryable() => return self.note_failed(&error),
                Err(error) => tracing::debug!(%error, "an attempt to export spans failed"),
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    fn note_exported(&mut self, rejected: u64) {
        let all = self.batch.len() as u64;
        let rejected = rejected.min(all);
        self.counters.exported.fetch_add(all - rejected, Ordering::Relaxed);
        self.counters.add_dropped(DropReason::Collector, rejected);
        self.batch.clear();
        if std::mem::take(&mut self.has_failed) {
            tracing::info!(collector = %self.collector, "spans are exported again");
        }
    }

    fn note_failed(&mut self, error: &ExportError) {
        self.drop_batch();
        if !std::mem::replace(&mut self.has_failed, true) {
            tracing::warn!(collector = %self.collector, %error, "spans are dropped until the collector accepts them");
        }
    }

    fn drop_batch(&mut self) {
        self.counters.add_dropped(DropReason::Collector, self.batch.len() as u64);
        self.batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        let now = SystemTime::UNIX_EPOCH;
        Span { name: "validate", parent: None, start: now, end: now, attributes: Vec::new() }
    }

    #[tokio::test]
    async fn a_span_for_a_full_queue_is_dropped_and_counted() {
        let collector = "http://127.0.0.1:1".parse().unwrap();
        let (spans, _exporter) = queue(collector, Vec::new());
        for _ in 0..QUEUE_CAPACITY + 3 {
            spans.send(span());
        }
        assert_eq!(DropReason::ALL.map(|reason| spans.dropped(reason)), [0, 3]);
    }

    #[tokio::test]
    async fn spans_that_no_collector_accepts_are_counted_as_dropped_at_the_end() {
        // No program listens on port 1.
        let (spans, exporter) = queue("http://127.0.0.1:1".parse().unwrap(), Vec::new());
        for _ in 0..5 {
            spans.send(span());
        }
        exporter.run(future::ready(())).await;
        assert_eq!((spans.exported(), DropReason::ALL.map(|reason| spans.dropped(reason))), (0, [5, 0]));
        spans.send(span());
        assert_eq!(spans.dropped(DropReason::Queue), 1, "the exporter has ended");
    }
}
