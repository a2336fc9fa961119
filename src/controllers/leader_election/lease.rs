//! The rules of an election, without the network: what to write into the Lease, and until when whoever wrote it leads.
//!
//! Two clocks are never compared. A replica that wants to lead watches for how long, by its own clock, the record stays
//! as it is. The leader counts from the moment at which it *sent* its last renewal, the others from the moment at which
//! they *saw* it, which is later; and the leader's time is the shorter one. So it has stopped before another can begin.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};

/// How long a leader leads, and how often it says that it is there. The defaults are those of client-go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timings {
    /// For how long the others wait after a record that they saw, in whole seconds: the Lease has no finer unit.
    pub lease: Duration,
    /// For how long a leader goes on after the last renewal that it sent; shorter than `lease`.
    pub renew: Duration,
    /// How long between two attempts, to which a fifth is added at random.
    pub retry: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), renew: seconds(10), retry: seconds(2) }
    }
}

/// What a Lease says, as far as an election goes. Its times are compared with each other and with no clock.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Record {
    /// Empty when nobody holds it.
    holder: String,
    /// When the holder says that it renewed it.
    renewed: Option<Timestamp>,
    /// For how long it is held.
    duration: Option<i32>,
    /// How often the holder changed.
    transitions: i32,
}

impl Record {
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

/// What a replica may do about a Lease that it has just seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// There is none: create it.
    Create,
    /// It is ours: say that we are still there.
    Renew,
    /// Nobody holds it, or its holder has not been heard of for long enough: take it.
    Take,
    /// Another holds it.
    Wait,
}

/// One replica's part in an election.
#[derive(Debug)]
pub(crate) struct Election {
    identity: String,
    timings: Timings,
    /// The last record, and when it was first seen.
    seen: Option<(Record, Instant)>,
    /// When the last write that succeeded was sent.
    sent: Option<Instant>,
}

impl Election {
    pub(crate) fn new(identity: String, timings: Timings) -> Self {
        Self { identity, timings, seen: None, sent: None }
    }

    /// Notes what was read from the API server at `now`, and tells what may be written.
    pub(crate) fn see(&mut self, lease: Option<&Lease>, now: Instant) -> Action {
        let Some(lease) = lease else {
            self.seen = None;
            return Action::Create;
        };
        let record = Record::of(lease);
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let turn = if record.holder == self.identity {
            Action::Renew
        } else if record.holder.is_empty() || now.saturating_duration_since(since) >= self.duration_of(&record) {
            Action::Take
        } else {
            Action::Wait
        };
        self.seen = Some((record, since));
        turn
    }

    /// Who is known to hold the Lease.
    pub(crate) fn holder(&self) -> Option<&str> {
        self.seen.as_ref().map(|(record, _)| record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// The Lease as it is to be written in our name. What is not ours stays as it was, `resourceVersion` above all: the
    /// API server refuses the write if another one came first.
    pub(crate) fn record(&self, lease: Option<&Lease>, wall: Timestamp) -> Lease {
        let mut lease = lease.cloned().unwrap_or_default();
        let spec = lease.spec.get_or_insert_default();
        let is_ours = spec.holder_identity.as_ref() == Some(&self.identity);
        if !is_ours {
            spec.acquire_time = Some(MicroTime(wall));
            // A Lease that was just made had no holder before.
            let changes = i32::from(spec.holder_identity.is_some());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(changes));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(seconds(self.timings.lease));
        spec.renew_time = Some(MicroTime(wall));
        lease
    }

    /// Notes that our record, which was sent at `sent`, is stored.
    pub(crate) fn wrote(&mut self, lease: &Lease, sent: Instant) {
        self.seen = Some((Record::of(lease), sent));
        self.sent = Some(sent);
    }

    /// Notes that we lead no longer.
    pub(crate) fn resign(&mut self) {
        self.sent = None;
    }

    /// Until when we lead without a further renewal; `None` when we do not lead.
    pub(crate) fn leads_until(&self) -> Option<Instant> {
        self.sent.map(|sent| sent + self.timings.renew)
    }

    /// How long a holder is waited for: as long as it said itself, and where it said nothing as long as we would want.
    fn duration_of(&self, record: &Record) -> Duration {
        let said = record.duration.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        said.map_or(self.timings.lease, Duration::from_secs)
    }
}

/// The Lease as it is to be written by a holder that leaves: the next one need not wait.
pub(crate) fn release(lease: &Lease, wall: Timestamp) -> Lease {
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

    /// A Lease of this holder, renewed at this second of its clock, held for so many seconds.
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
    fn a_lease_is_taken_when_its_record_has_not_changed_for_as_long_as_its_holder_said() {
        // Seconds since the start, the record (the holder and its clock), and what may be done.
        let (a, b, nobody) = (Some(("a", 100)), Some(("b", 7)), Some(("", 7)));
        for (duration, steps) in [
            (Some(15), &[(0, b, Action::Wait), (14, b, Action::Wait), (15, b, Action::Take)][..]),
            (Some(15), &[(0, b, Action::Wait), (14, Some(("b", 8)), Action::Wait), (28, Some(("b", 8)), Action::Wait)]),
            (Some(15), &[(0, b, Action::Wait), (14, Some(("b", 8)), Action::Wait), (29, Some(("b", 8)), Action::Take)]),
            // The clock of the other goes backwards, or is years ahead.
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
            (Some(15), &[(0, b, Action::Wait), (1, nobody, Action::Take)]),
            (Some(15), &[(0, a, Action::Renew)]),
            (Some(60), &[(0, b, Action::Wait), (59, b, Action::Wait), (60, b, Action::Take)]),
            (None, &[(0, b, Action::Wait), (14, b, Action::Wait), (15, b, Action::Take)]),
            (Some(-3), &[(0, b, Action::Wait), (14, b, Action::Wait), (15, b, Action::Take)]),
        ] {
            let (mut election, start) = (election("a"), Instant::now());
            for (second, record, turn) in steps {
                let lease = record.map(|(holder, renewed)| lease(holder, renewed, duration));
                let now = start + Duration::from_secs(*second);
                assert_eq!(election.see(lease.as_ref(), now), *turn, "{steps:?} at {second}");
            }
        }
    }

    #[test]
    fn a_record_keeps_what_is_not_ours_and_counts_the_holders() {
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

        let left = release(&taken, wall(12));
        assert_eq!(
            super::Election::new("c".to_owned(), Timings::default()).see(Some(&left), Instant::now()),
            Action::Take
        );
        assert_eq!(left.metadata, found.metadata);
    }

    #[test]
    fn a_leader_leads_from_the_moment_at_which_it_sent_its_record() {
        let (mut election, sent) = (election("a"), Instant::now());
        assert_eq!(election.leads_until(), None);
        election.wrote(&lease("a", 1, Some(15)), sent);
        assert_eq!(election.leads_until(), Some(sent + Duration::from_secs(10)));
        assert_eq!(election.holder(), Some("a"));
        election.resign();
        assert_eq!(election.leads_until(), None);
    }

    /// One attempt of a replica: it reads, and writes if it may.
    #[derive(Clone, Copy, Debug)]
    struct Attempt {
        replica: usize,
        /// Milliseconds since the last attempt of any replica.
        pause: u64,
        /// How long the way to the API server takes, for each of its two requests, and back.
        ways: [u64; 4],
        /// Whether the answer to the write gets lost.
        is_lost: bool,
    }

    fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
        let attempt = (0..3_usize, 0..6_000_u64, prop::array::uniform4(0..4_000_u64), prop::bool::weighted(0.2))
            .prop_map(|(replica, pause, ways, is_lost)| Attempt { replica, pause, ways, is_lost });
        prop::collection::vec(attempt, 1..120)
    }

    /// The API server: one Lease, and writes that are refused when another came first.
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
        fn no_two_lead_at_once_however_slow_and_lossy_the_network_is(attempts in attempts()) {
            let start = Instant::now();
            // Replicas act in the order in which their requests reach the server.
            let mut elections: Vec<Election> = ["a", "b", "c"].map(election).into();
            let mut server = Server::default();
            let mut reigns: Vec<(usize, Instant, Instant)> = Vec::new();
            let mut busy_until = [start; 3];
            let mut clock = start;
            for Attempt { replica, pause, ways, is_lost } in attempts {
                let millis = |count: u64| Duration::from_millis(count);
                clock += millis(pause);
                let begin = clock.max(busy_until[replica]);
                let read_at = begin + millis(ways[0]);
                let sent = read_at + millis(ways[1]);
                let stored_at = sent + millis(ways[2]);
                clock = stored_at;
                busy_until[replica] = stored_at + millis(ways[3]);
                let found = server.lease.clone();
                let election = &mut elections[replica];
                if election.see(found.as_ref(), sent) == Action::Wait {
                    continue;
                }
                // The clock of each replica is wrong in its own way.
                let seconds = stored_at.duration_since(start).as_secs() + 999 * replica as u64;
                let wall = wall(i64::try_from(seconds).unwrap());
                let record = election.record(found.as_ref(), wall);
                let Some(stored) = server.write(record) else { continue };
                if is_lost {
                    continue;
                }
                election.wrote(&stored, sent);
                reigns.push((replica, busy_until[replica], election.leads_until().unwrap()));
            }
            for (index, (one, begin, end)) in reigns.iter().enumerate() {
                for (other, other_begin, other_end) in reigns.iter().skip(index + 1) {
                    let overlap = begin.max(other_begin) < end.min(other_end);
                    prop_assert!(one == other || !overlap, "{one} and {other}");
                }
            }
        }
    }
}
