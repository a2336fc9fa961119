//! What is counted on the way of a request: fixed arrays of numbers that are only ever added to, with no lock.
//!
//! An answer costs four additions. They are relaxed, and not apart for each thread: at a hundred thousand answers a
//! second that is less than what one answer in a thousand takes.

use std::{
    array,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    admission::{Decision, DecisionLabels, Endpoint, verdict::sets::RuleSet},
    api::review::{ObjectKind, Operation},
    facts::FactKind,
};

/// Counters that everybody may add to and read.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    requests: Tally<{ Series::COUNT }>,
    durations: [Histogram; Endpoint::ALL.len()],
    refused: Tally<{ Refusal::ALL.len() }>,
    denied_by: Tally<{ RuleSet::ROOM }>,
    warned_by: Tally<{ RuleSet::ROOM }>,
    unknown: Tally<{ FactKind::ALL.len() }>,
    connections: AtomicU64,
    connections_ended: AtomicU64,
    handshakes_failed: AtomicU64,
}

impl Counts {
    /// How many requests had an outcome since the start.
    #[must_use]
    pub fn of(&self, decision: Decision) -> u64 {
        Series::all().filter(|series| series.decision == decision).map(|series| self.of_series(series)).sum()
    }

    pub(super) fn of_series(&self, series: Series) -> u64 {
        self.0.requests.of(series.place())
    }

    pub(super) fn durations(&self, endpoint: Endpoint) -> &Histogram {
        let [validate, mutate] = &self.0.durations;
        match endpoint {
            Endpoint::Validate => validate,
            Endpoint::Mutate => mutate,
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) -> u64 {
        self.0.refused.of(refusal as usize)
    }

    /// How many answers the rule denied, by its place in the registry.
    pub(super) fn denied_by(&self, rule: usize) -> u64 {
        self.0.denied_by.of(rule)
    }

    /// How many answers the rule put a warning in, by its place in the registry.
    pub(super) fn warned_by(&self, rule: usize) -> u64 {
        self.0.warned_by.of(rule)
    }

    pub(super) fn unknown(&self, kind: FactKind) -> u64 {
        self.0.unknown.of(kind as usize)
    }

    /// How many connections were opened, and how many of them have ended.
    pub(super) fn connections(&self) -> (u64, u64) {
        let ended = self.0.connections_ended.load(Ordering::Relaxed);
        (self.0.connections.load(Ordering::Relaxed), ended)
    }

    pub(super) fn handshakes_failed(&self) -> u64 {
        self.0.handshakes_failed.load(Ordering::Relaxed)
    }

    /// Counts an answer that took so long.
    pub(super) fn add(&self, labels: DecisionLabels, took: Duration) {
        let DecisionLabels { endpoint, kind, operation, decision, denied_by, warned_by, unknown } = labels;
        self.0.requests.add(Series { endpoint, kind, operation, decision }.place());
        self.durations(endpoint).add(took);
        denied_by.places().for_each(|place| self.0.denied_by.add(place));
        warned_by.places().for_each(|place| self.0.warned_by.add(place));
        unknown.kinds().for_each(|kind| self.0.unknown.add(kind as usize));
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        self.0.refused.add(refusal as usize);
    }

    pub(super) fn fail_handshake(&self) {
        self.0.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection, which is open until the return value is dropped.
    pub(super) fn open_connection(&self) -> Open {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }
}

/// A connection that is open.
pub(super) struct Open(Counts);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.connections_ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// What answers are told apart by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Series {
    pub(super) endpoint: Endpoint,
    pub(super) kind: ObjectKind,
    pub(super) operation: Operation,
    pub(super) decision: Decision,
}

impl Series {
    const COUNT: usize = Endpoint::ALL.len() * ObjectKind::ALL.len() * Operation::ALL.len() * Decision::ALL.len();

    /// Every combination, those that cannot be included.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Endpoint::ALL.into_iter().flat_map(|endpoint| {
            ObjectKind::ALL.into_iter().flat_map(move |kind| {
                Operation::ALL.into_iter().flat_map(move |operation| {
                    Decision::ALL.into_iter().map(move |decision| Self { endpoint, kind, operation, decision })
                })
            })
        })
    }

    /// Whether such an answer is to be expected; three of four combinations are none.
    pub(super) fn is_expected(self) -> bool {
        let is_judged =
            self.kind != ObjectKind::Other && matches!(self.operation, Operation::Create | Operation::Update);
        match self.decision {
            Decision::Malformed => self.kind == ObjectKind::Other && self.operation == Operation::Other,
            Decision::Unhandled => true,
            Decision::Allowed => is_judged,
            Decision::Denied | Decision::Warned => is_judged && self.endpoint == Endpoint::Validate,
            Decision::Patched => is_judged && self.endpoint == Endpoint::Mutate,
        }
    }

    fn place(self) -> usize {
        let Self { endpoint, kind, operation, decision } = self;
        let place = endpoint as usize * ObjectKind::ALL.len() + kind as usize;
        let place = place * Operation::ALL.len() + operation as usize;
        place * Decision::ALL.len() + decision as usize
    }
}

/// Why a request was refused before anybody looked whether it is a review.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// The body ended before its end, or its chunks are malformed.
    BodyBroken,
    /// The body did not arrive in time.
    BodyLate,
    /// The body has more bytes than the limit.
    BodyTooLarge,
    /// The content type is not JSON.
    MediaType,
    /// The method is not POST.
    Method,
    /// Too many requests at once.
    Overload,
    /// There is no such path.
    Path,
}

impl Refusal {
    pub(super) const ALL: [Self; 7] = [
        Self::BodyBroken,
        Self::BodyLate,
        Self::BodyTooLarge,
        Self::MediaType,
        Self::Method,
        Self::Overload,
        Self::Path,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BodyBroken => "body_broken",
            Self::BodyLate => "body_late",
            Self::BodyTooLarge => "body_too_large",
            Self::MediaType => "media_type",
            Self::Method => "method",
            Self::Overload => "overload",
            Self::Path => "path",
        }
    }
}

/// How long something took, by classes.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    classes: Tally<{ Histogram::BOUNDS.len() + 1 }>,
    /// The sum of all, in nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// The longest time of each class but the last, in nanoseconds: 25 µs to 10 s. An answer from memory is in the
    /// first ones; one that the cluster was asked for, or whose body was slow, in those of milliseconds; and beyond ten
    /// seconds no API server waits by default.
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

    fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.classes.add(Self::BOUNDS.partition_point(|bound| *bound < nanos));
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// The sum of all, in seconds.
    pub(super) fn sum(&self) -> f64 {
        Duration::from_nanos(self.sum.load(Ordering::Relaxed)).as_secs_f64()
    }

    /// The upper bound of each class in seconds, and how many are in it and in no class before it.
    pub(super) fn classes(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = Self::BOUNDS.iter().map(|bound| Duration::from_nanos(*bound).as_secs_f64());
        bounds.chain([f64::INFINITY]).enumerate().map(|(place, bound)| (bound, self.classes.of(place)))
    }
}

/// Numbers by their place.
#[derive(Debug)]
struct Tally<const N: usize>([AtomicU64; N]);

impl<const N: usize> Tally<N> {
    fn of(&self, place: usize) -> u64 {
        self.0.get(place).map_or(0, |number| number.load(Ordering::Relaxed))
    }

    fn add(&self, place: usize) {
        if let Some(number) = self.0.get(place) {
            number.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<const N: usize> Default for Tally<N> {
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
    fn every_series_has_a_place_of_its_own() {
        let places: BTreeSet<usize> = Series::all().map(Series::place).collect();
        assert!(places.into_iter().eq(0..Series::COUNT));
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place);
        }
    }

    #[test]
    fn each_answer_is_counted_by_itself() {
        let counts = Counts::default();
        for (times, decision) in Decision::ALL.into_iter().enumerate() {
            let labels = DecisionLabels {
                endpoint: Endpoint::Mutate,
                kind: ObjectKind::Pool,
                operation: Operation::Update,
                decision,
                denied_by: RuleSet::NONE,
                warned_by: RuleSet::NONE,
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
    fn a_time_is_in_the_first_class_that_is_no_shorter() {
        let histogram = Histogram::default();
        for micros in [0, 25, 26, 1_000, 10_000_000, 10_000_001] {
            histogram.add(Duration::from_micros(micros));
        }
        let filled: Vec<(f64, u64)> = histogram.classes().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(25e-6, 2), (50e-6, 1), (1e-3, 1), (10.0, 1), (f64::INFINITY, 1)]);
        assert!((histogram.sum() - 20.001_052).abs() < 1e-9, "{}", histogram.sum());
        assert!(Histogram::BOUNDS.is_sorted_by(|one, other| one < other));
    }

    #[test]
    fn a_connection_is_open_until_it_is_dropped() {
        let counts = Counts::default();
        let open = counts.open_connection();
        assert_eq!(counts.connections(), (1, 0));
        drop(open);
        assert_eq!(counts.connections(), (1, 1));
    }
}
