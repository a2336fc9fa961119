//! Spans for OpenTelemetry: one a request, sent to a collector by OTLP over HTTP in JSON (opentelemetry.io/docs/specs/otlp).
//!
//! Our own, and not the crates of OpenTelemetry, after weighing them: `opentelemetry`, `_sdk` and `-otlp` 0.32 (JSON, no
//! HTTP client) add 16 crates to the 176 that we have on Linux, Protobuf and a random number generator among them, and 19
//! with the HTTP client that they have for hyper. What we need is one kind of span without children, in a format that is
//! stable since 2023; and what we must have, the number of spans that were lost, their SDK keeps to itself.
//!
//! Nobody waits for a collector: a span is put into a queue of a fixed length, and is lost and counted where that is
//! full. A task takes them from there in batches.

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
    otlp::{Resource, Trouble},
};

/// How many spans may wait; one is some 500 bytes.
const QUEUE: usize = 2048;
/// How many go in one message.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a batch is sent before it is lost. Meanwhile the queue fills, and no batch may wait for ever.
const ATTEMPTS: u32 = 3;
/// The pause after the first failure; the second is twice as long.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the last batches may take when the program ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// One request.
#[derive(Clone, Debug)]
pub struct Span {
    /// What was done.
    pub name: &'static str,
    /// Whose part it is; `None` for a trace of its own.
    pub parent: Option<TraceContext>,
    /// When it began.
    pub start: SystemTime,
    /// When it was over.
    pub end: SystemTime,
    /// What it was about, in words.
    pub attributes: Vec<(&'static str, String)>,
}

/// Takes spans for a collector. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Spans {
    queue: mpsc::Sender<Span>,
    numbers: Arc<Numbers>,
}

/// Why a span was lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DropReason {
    /// The collector could not be reached, or did not take it.
    Collector,
    /// Too many were waiting.
    Queue,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 2] = [Self::Collector, Self::Queue];

    /// As metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Queue => "queue",
        }
    }
}

#[derive(Debug, Default)]
struct Numbers {
    exported: AtomicU64,
    lost: [AtomicU64; DropReason::ALL.len()],
}

impl Numbers {
    fn lose(&self, loss: DropReason, count: u64) {
        if let Some(number) = self.lost.get(loss as usize) {
            number.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Spans {
    /// Puts a span into the queue, or counts it as lost. Never waits.
    pub fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.numbers.lose(DropReason::Queue, 1);
        }
    }

    /// How many spans a collector has taken.
    #[must_use]
    pub fn exported(&self) -> u64 {
        self.numbers.exported.load(Ordering::Relaxed)
    }

    /// How many spans were lost.
    #[must_use]
    pub fn lost(&self, loss: DropReason) -> u64 {
        self.numbers.lost.get(loss as usize).map_or(0, |number| number.load(Ordering::Relaxed))
    }
}

/// A queue, and who brings what is in it to the collector. `about` says whose spans they are: attributes of the
/// resource, by OpenTelemetry's names.
#[must_use]
pub fn queue(collector: Collector, about: Vec<(&'static str, String)>) -> (Spans, Exporter) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let numbers = Arc::new(Numbers::default());
    let exporter = Exporter {
        collector,
        resource: Resource::new(about),
        queue,
        batch: Vec::new(),
        numbers: Arc::clone(&numbers),
        is_well: true,
    };
    (Spans { queue: sender, numbers }, exporter)
}

/// Brings spans to the collector.
#[derive(Debug)]
pub struct Exporter {
    collector: Collector,
    resource: Resource,
    queue: mpsc::Receiver<Span>,
    batch: Vec<Span>,
    numbers: Arc<Numbers>,
    /// Whether the last message was taken, so that trouble is logged once.
    is_well: bool,
}

impl Exporter {
    /// Works until `end`, and then brings away what is left, if that is quickly done.
    pub async fn run(mut self, end: impl Future<Output = ()>) {
        tracing::info!(collector = %self.collector, "exporting a span for each request");
        let end = pin!(end);
        let end = end.shared();
        loop {
            tokio::select! {
                () = end.clone() => break,
                () = self.collect() => {}
            }
            let too_late = async {
                end.clone().await;
                sleep(FAREWELL).await;
            };
            tokio::select! {
                () = too_late => break self.lose_batch(),
                () = self.send() => {}
            }
        }
        self.queue.close();
        if timeout(FAREWELL, self.finish()).await.is_err() {
            self.lose_batch();
        }
        self.numbers.lose(DropReason::Collector, self.queue.len() as u64);
    }

    /// Collects one batch. Dropped at any point it leaves what it has where it is.
    async fn collect(&mut self) {
        if self.batch.is_empty() && self.queue.recv_many(&mut self.batch, BATCH).await == 0 {
            // Nobody can send any more.
            return future::pending().await;
        }
        let due = Instant::now() + PATIENCE;
        while self.batch.len() < BATCH {
            let room = BATCH - self.batch.len();
            if !matches!(timeout_at(due, self.queue.recv_many(&mut self.batch, room)).await, Ok(1..)) {
                return;
            }
        }
    }

    async fn finish(&mut self) {
        loop {
            let room = BATCH.saturating_sub(self.batch.len());
            if room > 0 {
                self.queue.recv_many(&mut self.batch, room).await;
            }
            if self.batch.is_empty() {
                return;
            }
            self.send().await;
        }
    }

    /// Sends the batch, again if that may help.
    async fn send(&mut self) {
        let body = self.resource.message(&self.batch);
        let mut pause = PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.collector.post(body.clone()).await {
                Ok(rejected) => return self.taken(rejected),
                Err(trouble) if attempt == ATTEMPTS || !trouble.may_pass() => return self.not_taken(&trouble),
                Err(trouble) => tracing::debug!(%trouble, "spans were not taken yet"),
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    fn taken(&mut self, rejected: u64) {
        let all = self.batch.len() as u64;
        let rejected = rejected.min(all);
        self.numbers.exported.fetch_add(all - rejected, Ordering::Relaxed);
        self.numbers.lose(DropReason::Collector, rejected);
        self.batch.clear();
        if !std::mem::replace(&mut self.is_well, true) {
            tracing::info!(collector = %self.collector, "spans are taken again");
        }
    }

    fn not_taken(&mut self, trouble: &Trouble) {
        self.lose_batch();
        if std::mem::replace(&mut self.is_well, false) {
            tracing::warn!(collector = %self.collector, %trouble, "spans are lost until the collector takes them");
        }
    }

    fn lose_batch(&mut self) {
        self.numbers.lose(DropReason::Collector, self.batch.len() as u64);
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
    async fn a_full_queue_loses_and_counts_and_nobody_waits() {
        let collector = "http://127.0.0.1:1".parse().unwrap();
        let (spans, _exporter) = queue(collector, Vec::new());
        for _ in 0..QUEUE + 3 {
            spans.send(span());
        }
        assert_eq!(DropReason::ALL.map(|loss| spans.lost(loss)), [0, 3]);
    }

    #[tokio::test]
    async fn what_no_collector_takes_is_counted_as_lost_at_the_end_too() {
        // Port 1 is nobody's.
        let (spans, exporter) = queue("http://127.0.0.1:1".parse().unwrap(), Vec::new());
        for _ in 0..5 {
            spans.send(span());
        }
        exporter.run(future::ready(())).await;
        assert_eq!((spans.exported(), DropReason::ALL.map(|loss| spans.lost(loss))), (0, [5, 0]));
        spans.send(span());
        assert_eq!(spans.lost(DropReason::Queue), 1, "nobody brings it away any more");
    }
}
