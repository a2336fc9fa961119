//! The counters of requests and connections: fixed arrays of atomics, without a lock.
//!
//! An answer costs four relaxed additions. All threads share the counters: at a hundred thousand answers per second,
//! contention takes less than 0.1 % of the time.

use std::{
    array,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    admission::{Decision, DecisionLabels, Endpoint, verdict::sets::RuleSet},
    api::review::{ObjectKind, Operation},
    facts::FactKind,
};

/// The counters of a server. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    requests: CounterArray<{ Series::COUNT }>,
    durations: [Histogram; Endpoint::ALL.len()],
    refused: CounterArray<{ RefusalReason::ALL.len() }>,
    denied_by: CounterArray<{ RuleSet::CAPACITY }>,
    warned_by: CounterArray<{ RuleSet::CAPACITY }>,
    failed: CounterArray<{ RuleSet::CAPACITY }>,
    unknown: CounterArray<{ FactKind::ALL.len() }>,
    connections_opened: AtomicU64,
    connections_closed: AtomicU64,
    failed_handshakes: AtomicU64,
    removed: RemovedConnections,
}

impl Counts {
    /// Returns the number of requests with a decision since the start.
    #[must_use]
    pub fn of(&self, decision: Decision) -> u64 {
        Series::all().filter(|series| series.decision == decision).map(|series| self.of_series(series)).sum()
    }

    pub(super) fn of_series(&self, series: Series) -> u64 {
        self.0.requests.get(series.index())
    }

    pub(super) fn durations(&self, endpoint: Endpoint) -> &Histogram {
        let [validate, mutate] = &self.0.durations;
        match endpoint {
            Endpoint::Validate => validate,
            Endpoint::Mutate => mutate,
        }
    }

    pub(super) fn refused(&self, reason: RefusalReason) -> u64 {
        self.0.refused.get(reason as usize)
    }

    /// Returns the number of answers that a rule denied, by the index of the rule.
    pub(super) fn denied_by(&self, rule: usize) -> u64 {
        self.0.denied_by.get(rule)
    }

    /// Returns the number of answers in which a rule warned, by the index of the rule.
    pub(super) fn warned_by(&self, rule: usize) -> u64 {
        self.0.warned_by.get(rule)
    }

    /// Returns the number of answers without the verdict of a rule because of an internal error, by the index of the rule.
    pub(super) fn failed(&self, rule: usize) -> u64 {
        self.0.failed.get(rule)
    }

    pub(super) fn unknown(&self, kind: FactKind) -> u64 {
        self.0.unknown.get(kind as usize)
    }

    /// Returns the number of connections that were opened, and of those that were closed again.
    pub(super) fn connections(&self) -> (u64, u64) {
        let closed = self.0.connections_closed.load(Ordering::Relaxed);
        (self.0.connections_opened.load(Ordering::Relaxed), closed)
    }

    /// Returns the counter of connections that were removed at their limit.
    pub(super) fn removed(&self) -> &RemovedConnections {
        &self.0.removed
    }

    pub(super) fn failed_handshakes(&self) -> u64 {
        self.0.failed_handshakes.load(Ordering::Relaxed)
    }

    /// Counts an answer and the time that it took.
    pub(super) fn add(&self, labels: DecisionLabels, took: Duration) {
        let DecisionLabels { endpoint, kind, operation, decision, denied_by, warned_by, failed, unknown } = labels;
        self.0.requests.add(Series { endpoint, kind, operation, decision }.index());
        self.durations(endpoint).add(took);
        denied_by.indices().for_each(|index| self.0.denied_by.add(index));
        warned_by.indices().for_each(|index| self.0.warned_by.add(index));
        failed.indices().for_each(|index| self.0.failed.add(index));
        unknown.kinds().for_each(|kind| self.0.unknown.add(kind as usize));
    }

    pub(super) fn add_refused(&self, reason: RefusalReason) {
        self.0.refused.add(reason as usize);
    }

    pub(super) fn add_failed_handshake(&self) {
        self.0.failed_handshakes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection, which is open until the guard is dropped.
    pub(super) fn add_connection(&self) -> ConnectionGuard {
        self.0.connections_opened.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(self.clone())
    }
}

/// How many connections were removed at their limit, and when it was reached the last time.
#[derive(Debug)]
pub(super) struct RemovedConnections {
    origin: Instant,
    count: AtomicU64,
    /// The last time, in milliseconds since `origin`, and one more; 0 if there was none.
    last: AtomicU64,
}

impl RemovedConnections {
    /// The time for which the limit counts as reached.
    const SHOWN: Duration = Duration::from_mins(1);

    /// Counts connections that are removed now; 0 if the limit is reached and none can be removed.
    pub(super) fn add(&self, count: usize) {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now.saturating_add(1), Ordering::Relaxed);
        self.count.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Returns the number of connections that were removed.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the time since the limit was reached, unless that was long ago.
    pub(super) fn last(&self) -> Option<Duration> {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed).checked_sub(1)?);
        Some(self.origin.elapsed().saturating_sub(last)).filter(|age| *age < Self::SHOWN)
    }
}

impl Default for RemovedConnections {
    fn default() -> Self {
        Self { origin: Instant::now(), count: AtomicU64::new(0), last: AtomicU64::new(0) }
    }
}

/// Counts a connection as closed when it is dropped.
pub(super) struct ConnectionGuard(Counts);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.0.connections_closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// The labels of one series of answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Series {
    pub(super) endpoint: Endpoint,
    pub(super) kind: ObjectKind,
    pub(super) operation: Operation,
    pub(super) decision: Decision,
}

impl Series {
    const COUNT: usize = Endpoint::ALL.len() * ObjectKind::ALL.len() * Operation::ALL.len() * Decision::ALL.len();

    /// Returns every combination of labels, the impossible ones included.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Endpoint::ALL.into_iter().flat_map(|endpoint| {
            ObjectKind::ALL.into_iter().flat_map(move |kind| {
                Operation::ALL.into_iter().flat_map(move |operation| {
                    Decision::ALL.into_iter().map(move |decision| Self { endpoint, kind, operation, decision })
                })
            })
        })
    }

    /// Whether such an answer is possible; three of four combinations are not.
    pub(super) fn is_expected(self) -> bool {
        let is_reviewed =
            self.kind != ObjectKind::Other && matches!(self.operation, Operation::Create | Operation::Update);
        match self.decision {
            Decision::Malformed => self.kind == ObjectKind::Other && self.operation == Operation::Other,
            Decision::Unhandled => true,
            Decision::Allowed => is_reviewed,
            Decision::Denied | Decision::Warned => is_reviewed && self.endpoint == Endpoint::Validate,
            Decision::Patched => is_reviewed && self.endpoint == Endpoint::Mutate,
        }
    }

    fn index(self) -> usize {
        let Self { endpoint, kind, operation, decision } = self;
        let index = endpoint as usize * ObjectKind::ALL.len() + kind as usize;
        let index = index * Operation::ALL.len() + operation as usize;
        index * Decision::ALL.len() + decision as usize
    }
}

/// Why a request was refused without a review.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum RefusalReason {
    /// The client closed the connection within the body, or the chunks of the body are malformed.
    BodyBroken,
    /// All bodies together are larger than the limit.
    BodiesTooLarge,
    /// The body did not arrive in time.
    BodyLate,
    /// The body arrived too slowly.
    BodySlow,
    /// The body is longer than the limit.
    BodyTooLarge,
    /// The content type is not JSON.
    MediaType,
    /// The method is not POST.
    Method,
    /// The limit of requests in flight is reached.
    Overload,
    /// The path is unknown.
    Path,
    /// The request waited too long for the processor.
    Processor,
}

impl RefusalReason {
    pub(super) const ALL: [Self; 10] = [
        Self::BodyBroken,
        Self::BodiesTooLarge,
        Self::BodyLate,
        Self::BodySlow,
        Self::BodyTooLarge,
        Self::MediaType,
        Self::Method,
        Self::Overload,
        Self::Path,
        Self::Processor,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BodyBroken => "body_broken",
            Self::BodiesTooLarge => "bodies_too_large",
            Self::BodyLate => "body_late",
            Self::BodySlow => "body_slow",
            Self::BodyTooLarge => "body_too_large",
            Self::MediaType => "media_type",
            Self::Method => "method",
            Self::Overload => "overload",
            Self::Path => "path",
            Self::Processor => "processor",
        }
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: CounterArray<{ Histogram::BOUNDS.len() + 1 }>,
    /// The sum of all durations, in nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// The upper bound of each bucket but the last, in nanoseconds: 25 µs to 10 s. An answer from memory is in the
    /// first buckets; an answer with a recheck or with a slow body is in those of milliseconds; the API server does not
    /// wait longer than ten seconds by default.
    const BOUNDS: [u64; 18] = [
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
    ];

    fn add(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets.add(Self::BOUNDS.partition_point(|bound| *bound < nanos));
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns the sum of all durations, in seconds.
    pub(super) fn sum(&self) -> f64 {
        Duration::from_nanos(self.sum.load(Ordering::Relaxed)).as_secs_f64()
    }

    /// Returns the upper bound of each bucket in seconds, and the number of durations in this bucket alone.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Self::BOUNDS.iter().map(|bound| Duration::from_nanos(*bound).as_secs_f64());
        bounds.chain([f64::INFINITY]).enumerate().map(|(index, bound)| (bound, self.buckets.get(index)))
    }
}

/// Counters by index. An index beyond the end is ignored.
#[derive(Debug)]
struct CounterArray<const N: usize>([AtomicU64; N]);

impl<const N: usize> CounterArray<N> {
    fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn add(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<const N: usize> Default for CounterArray<N> {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::admission::verdict::sets::FactSet;

    #[test]
    fn every_series_has_its_own_index() {
        let indices: BTreeSet<usize> = Series::all().map(Series::index).collect();
        assert!(indices.into_iter().eq(0..Series::COUNT));
        for (index, reason) in RefusalReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[test]
    fn each_decision_has_its_own_counter() {
        let counts = Counts::default();
        for (times, decision) in Decision::ALL.into_iter().enumerate() {
            let labels = DecisionLabels {
                endpoint: Endpoint::Mutate,
                kind: ObjectKind::Pool,
                operation: Operation::Update,
                decision,
                denied_by: RuleSet::NONE,
                warned_by: RuleSet::NONE,
                failed: RuleSet::NONE,
                unknown: FactSet::NONE,
            };
            for _ in 0..times {
                counts.add(labels, Duration::ZERO);
            }
        }
        assert_eq!(Decision::ALL.map(|decision| counts.of(decision)), [0, 1, 2, 3, 4, 5]);
        let counted = Series::all().filter(|series| counts.of_series(*series) > 0);
        assert!(counted.into_iter().all(|it| it.kind == ObjectKind::Pool && it.endpoint == Endpoint::Mutate));
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_that_is_not_shorter() {
        let histogram = Histogram::default();
        for micros in [0, 25, 26, 1_000, 10_000_000, 10_000_001] {
            histogram.add(Duration::from_micros(micros));
        }
        let filled: Vec<(f64, u64)> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(25e-6, 2), (50e-6, 1), (1e-3, 1), (10.0, 1), (f64::INFINITY, 1)]);
        assert!((histogram.sum() - 20.001_052).abs() < 1e-9, "{}", histogram.sum());
        assert!(Histogram::BOUNDS.is_sorted_by(|one, other| one < other));
    }

    #[test]
    fn the_limit_of_connections_counts_as_reached_for_a_minute() {
        let removed = RemovedConnections::default();
        assert_eq!((removed.count(), removed.last()), (0, None));
        removed.add(0);
        assert_eq!((removed.count(), removed.last().is_some()), (0, true));
        removed.add(3);
        assert_eq!((removed.count(), removed.last().is_some()), (3, true));
        let minute_ago = Instant::now().checked_sub(RemovedConnections::SHOWN).unwrap();
        let removed = RemovedConnections { origin: minute_ago, last: AtomicU64::new(1), ..removed };
        assert_eq!(removed.last(), None);
    }

    #[test]
    fn a_connection_is_open_until_its_guard_is_dropped() {
        let counts = Counts::default();
        let open = counts.add_connection();
        assert_eq!(counts.connections(), (1, 0));
        drop(open);
        assert_eq!(counts.connections(), (1, 1));
    }
}
