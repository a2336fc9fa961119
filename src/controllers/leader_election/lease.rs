//! The rules of the election, without the network: what a replica may write into the Lease, and how long it then leads.
//!
//! The clocks of two replicas are never compared. A replica that wants to lead measures with its own clock how long the
//! record stays the same. The leader counts from the time when it *sent* its last renewal, the others from the later
//! time when they *saw* it, and the leader's limit is the shorter one. So the leader has stopped before another can
//! begin.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

/// The durations of a term. The defaults are those of client-go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timings {
    /// How long the others wait after the last change of the record, in whole seconds, the unit of the Lease.
    pub lease: Duration,
    /// How long a leader continues after the last renewal that it sent; shorter than `lease`.
    pub renew: Duration,
    /// The time between two attempts, plus up to a fifth at random.
    pub retry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), renew: seconds(10), retry: seconds(2) }
    }
}

/// The fields of a Lease that the election uses. Its times are never compared with a clock.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct LeaseRecord {
    /// Empty if no replica holds the Lease.
    holder: String,
    /// The time of the renewal by the holder's clock.
    renewed: Option<Timestamp>,
    /// For how long the Lease is held, in seconds.
    duration: Option<i32>,
    /// How often the holder has changed.
    transitions: i32,
}

impl LeaseRecord {
    fn of(lease: &Lease) -> Self {
        let Some(spec) = &lease.spec else { return Self::default() };
        Self {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            duration: spec.lease_duration_seconds,
            transitions: spec.lease_transitions.unwrap_or(0),
        }
    }
}

/// What a replica may do after it has read the Lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// The Lease does not exist: create it.
    Create,
    /// This replica holds it: renew it.
    Renew,
    /// No replica holds it, or its holder has not renewed it for its duration: take it.
    Take,
    /// Another replica holds it.
    Wait,
}

/// The election from the view of one replica.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    timings: Timings,
    /// The last record, and when this replica first saw it.
    seen: Option<(LeaseRecord, Instant)>,
    /// When the last successful write was sent.
    sent: Option<Instant>,
}

impl Election {
    pub(crate) fn new(identity: String, timings: Timings) -> Self {
        Self { identity, timings, seen: None, sent: None }
    }

    /// Notes the Lease that was read at `now`, and returns what may be written.
    pub(crate) fn observe(&mut self, lease: Option<&Lease>, now: Instant) -> Action {
        let Some(lease) = lease else {
            self.seen = None;
            return Action::Create;
        };
        let record = LeaseRecord::of(lease);
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let action = if record.holder == self.identity {
            Action::Renew
        } else if record.holder.is_empty() || now.saturating_duration_since(since) >= self.duration_of(&record) {
            Action::Take
        } else {
            Action::Wait
        };
        self.seen = Some((record, since));
        action
    }

    /// Returns the holder of the Lease, if known.
    pub(crate) fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|(record, _)| record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// Returns the Lease to write with this replica as holder. All other fields stay, `resourceVersion` above all: with
    /// it the API server rejects the write if another write came first.
    pub(crate) fn record(&self, lease: Option<&Lease>, wall: Timestamp) -> Lease {
        let mut lease = lease.cloned().unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        let is_own = spec.holder_identity.as_ref() == Some(&self.identity);
        if !is_own {
            spec.acquire_time = Some(MicroTime(wall));
            // A new Lease had no holder before.
            let changes = i32::from(spec.holder_identity.is_some());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(changes));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(seconds(self.timings.lease));
        spec.renew_time = Some(MicroTime(wall));
        lease
    }

    /// Notes that the record of this replica, sent at `sent`, is stored.
    pub(crate) fn note_write(&mut self, lease: &Lease, sent: Instant) {
        self.seen = Some((LeaseRecord::of(lease), sent));
        self.sent = Some(sent);
    }

    /// Ends the term of this replica.
    pub(crate) fn end_term(&mut self) {
        self.sent = None;
    }

    /// Returns until when this replica leads without a further renewal; `None` if it does not lead.
    pub(crate) fn leads_until(&self) -> Option<Instant> {
        self.sent.map(|sent| sent + self.timings.renew)
    }

    /// Returns how long to wait for a holder: the duration in its record, or the own one if there is none.
    fn duration_of(&self, record: &LeaseRecord) -> Duration {
        let written = record.duration.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        written.map_or(self.timings.lease, Duration::from_secs)
    }
}

/// Returns the Lease to write when its holder stops: the next leader need not wait.
pub(crate) fn released(lease: &Lease, wall: Timestamp) -> Lease {
    let mut lease = lease.clone();
    let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(String::new());
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(wall));
    lease
}

fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn election(identity: &str) -> Election {
        Election::new(identity.to_owned(), Timings::default())
    }

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Returns a Lease with this holder, renewed at this second of its clock, held for this many seconds.
    fn lease(holder: &str, renewed: i64, duration: Option<i32>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            renew_time: Some(MicroTime(wall(renewed))),
            lease_duration_seconds: duration,
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_is_taken_when_its_record_has_not_changed_for_its_duration() {
        // Seconds since the start, the record (the holder and its clock), and the allowed action.
        let (a, b, free) = (Some(("a", 100)), Some(("b", 7)), Some(("", 7)));
        for (duration, steps) in [
            (Some(15), &[(0, b, Action::Wait), (14, b, Action::Wait), (15, b, Action::Take)][..]),
            (Some(15), &[(0, b, Action::Wait), (14, Some(("b", 8)), Action::Wait), (28, Some(("b", 8)), Action::Wait)]),
            (Some(15), &[(0, b, Action::Wait), (14, Some(("b", 8)), Action::Wait), (29, Some(("b", 8)), Action::Take)]),
            // The clock of the other replica goes backwards, or is years ahead.
            (
                Some(15),
                &[(0, b, Action::Wait), (9, Some(("b", -9)), Action::Wait), (20, Some(("b", -9)), Action::Wait)],
            ),
            (
                Some(15),
                &[(0, Some(("b", 4_000_000_000)), Action::Wait), (15, Some(("b", 4_000_000_000)), Action::Take)],
            ),
            (
                Some(15),
                &[(0, None, Action::Create), (1, b, Action::Wait), (15, b, Action::Wait), (16, b, Action::Take)],
            ),
            (Some(15), &[(0, b, Action::Wait), (1, free, Action::Take)]),
            (Some(15), &[(0, a, Action::Renew)]),
            (Some(60), &[(0, b, Action::Wait), (59, b, Action::Wait), (60, b, Action::Take)]),
            (None, &[(0, b, Action::Wait), (14, b, Action::Wait), (15, b, Action::Take)]),
            (Some(-3), &[(0, b, Action::Wait), (14, b, Action::Wait), (15, b, Action::Take)]),
        ] {
            let (mut election, start) = (election("a"), Instant::now());
            for (second, record, action) in steps {
                let lease = record.map(|(holder, renewed)| lease(holder, renewed, duration));
                let now = start + Duration::from_secs(*second);
                assert_eq!(election.observe(lease.as_ref(), now), *action, "{steps:?} at {second}");
            }
        }
    }

    #[test]
    fn a_write_keeps_all_other_fields_and_counts_the_holders() {
        let election = election("a");
        let mut found = lease("b", 1, Some(15));
        found.metadata.resource_version = Some("7".to_owned());
        found.metadata.labels = Some([("x".to_owned(), "y".to_owned())].into());
        let taken = election.record(Some(&found), wall(9));
        assert_eq!(taken.metadata, found.metadata);
        let spec = taken.spec.clone().unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(1), Some(15)));
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(wall(9))), Some(MicroTime(wall(9)))));

        let renewed = election.record(Some(&taken), wall(11)).spec.unwrap();
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!((renewed.acquire_time, renewed.renew_time), (Some(MicroTime(wall(9))), Some(MicroTime(wall(11)))));
        assert_eq!(election.record(None, wall(9)).spec.unwrap().lease_transitions, Some(0));

        let left = released(&taken, wall(12));
        assert_eq!(
            Election::new("c".to_owned(), Timings::default()).observe(Some(&left), Instant::now()),
            Action::Take
        );
        assert_eq!(left.metadata, found.metadata);
    }

    #[test]
    fn a_term_begins_when_the_record_is_sent() {
        let (mut election, sent) = (election("a"), Instant::now());
        assert_eq!(election.leads_until(), None);
        election.note_write(&lease("a", 1, Some(15)), sent);
        assert_eq!(election.leads_until(), Some(sent + Duration::from_secs(10)));
        assert_eq!(election.holder(), Some("a"));
        election.end_term();
        assert_eq!(election.leads_until(), None);
    }

    /// One attempt of a replica: a read, and a write if it is allowed.
    #[derive(Clone, Copy, Debug)]
    struct Attempt {
        replica: usize,
        /// Milliseconds since the last attempt of any replica.
        pause: u64,
        /// The network delays in milliseconds: to the API server and back, for the read and for the write.
        delays: [u64; 4],
        /// Whether the response to the write gets lost.
        is_lost: bool,
    }

    fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
        let attempt = (0..3_usize, 0..6_000_u64, prop::array::uniform4(0..4_000_u64), prop::bool::weighted(0.2))
            .prop_map(|(replica, pause, delays, is_lost)| Attempt { replica, pause, delays, is_lost });
        prop::collection::vec(attempt, 1..120)
    }

    /// An API server with one Lease, which rejects a write if another one came first.
    #[derive(Default)]
    struct Server {
        lease: Option<Lease>,
        version: u64,
    }

    impl Server {
        fn write(&mut self, mut lease: Lease) -> Option<Lease> {
            let stored = self.lease.as_ref().map(|lease| lease.metadata.resource_version.clone());
            if stored.unwrap_or_default() != lease.metadata.resource_version {
                return None;
            }
            self.version += 1;
            lease.metadata.resource_version = Some(self.version.to_string());
            self.lease = Some(lease.clone());
            Some(lease)
        }
    }

    proptest! {
        #[test]
        fn no_two_replicas_lead_at_once_on_a_slow_and_lossy_network(attempts in attempts()) {
            let start = Instant::now();
            // Requests are processed in the order in which they reach the server.
            let mut elections: Vec<Election> = ["a", "b", "c"].map(election).into();
            let mut server = Server::default();
            let mut terms: Vec<(usize, Instant, Instant)> = Vec::new();
            let mut busy_until = [start; 3];
            let mut clock = start;
            for Attempt { replica, pause, delays, is_lost } in attempts {
                let millis = |count: u64| Duration::from_millis(count);
                clock += millis(pause);
                let begin = clock.max(busy_until[replica]);
                let read_at = begin + millis(delays[0]);
                let sent = read_at + millis(delays[1]);
                let stored_at = sent + millis(delays[2]);
                clock = stored_at;
                busy_until[replica] = stored_at + millis(delays[3]);
                let found = server.lease.clone();
                let election = &mut elections[replica];
                if election.observe(found.as_ref(), sent) == Action::Wait {
                    continue;
                }
                // Each replica has a different wrong clock.
                let seconds = stored_at.duration_since(start).as_secs() + 999 * replica as u64;
                let wall = wall(i64::try_from(seconds).unwrap());
                let record = election.record(found.as_ref(), wall);
                let Some(stored) = server.write(record) else { continue };
                if is_lost {
                    continue;
                }
                election.note_write(&stored, sent);
                terms.push((replica, busy_until[replica], election.leads_until().unwrap()));
            }
            for (index, (one, begin, end)) in terms.iter().enumerate() {
                for (other, other_begin, other_end) in terms.iter().skip(index + 1) {
                    let overlap = begin.max(other_begin) < end.min(other_end);
                    prop_assert!(one == other || !overlap, "{one} and {other}");
                }
            }
        }
    }
}
