//! The reconciler that mirrors NICs of running guests into the templates of their VMs; [`persist`](crate::annotations::persist) says
//! what is to be done, this does it.
//!
//! One replica does it at a time (`lease.rs`), and it would do no harm if two did: every write is a JSON patch that
//! applies to nothing but what was read. Whatever stands in the way is tried again: a conflict at once and then more
//! slowly, a refusal rarely, an API server that is away for as long as it takes.

mod client;
mod reconcile;
mod stats;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kube::Client;
use tokio::time::{Instant, sleep_until};

pub use self::stats::{Progress, Setback, Standing};
use self::{
    client::Objects,
    reconcile::{Outcome, Visit},
};
use crate::{
    cluster::persist_queue::{Asker, Pending},
    k8s::{
        backoff::{Backoff, Pauses},
        events::Events,
    },
};

/// Who reports what was done and what was not, as a qualified name.
const CONTROLLER: &str = "nicplug.io/persist";

/// How many objects are visited at once: one that takes long holds nobody up.
const AT_ONCE: usize = 8;

/// The reconciler.
pub struct Mirror {
    objects: Objects,
    events: Events,
    pending: Pending,
    progress: Progress,
}

impl Mirror {
    /// A reconciler for what is pending; `identity` is the replica's, for the events that it writes.
    #[must_use]
    pub fn new(client: Client, pending: Pending, identity: &str) -> Self {
        let events = Events::new(client.clone(), CONTROLLER, identity);
        Self { objects: Objects::new(client), events, pending, progress: Progress::default() }
    }

    /// What was done so far.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Works without end; dropped, it stops at once. Whoever begins looks at all that ask.
    pub async fn work(&self) -> Infallible {
        self.pending.renew();
        let mut agenda = Agenda::default();
        let mut visits = FuturesUnordered::new();
        loop {
            let has_room = visits.len() < AT_ONCE;
            let due = agenda.next_due();
            let begin = tokio::select! {
                Some((asker, told, outcome)) = visits.next(), if !visits.is_empty() => {
                    self.close(&mut agenda, asker, told, &outcome)
                }
                () = until(due.as_ref().map(|(at, _)| *at)), if has_room => due.map(|(_, asker)| asker),
                asker = self.pending.next(), if has_room => agenda.is_free(&asker).then_some(asker),
            };
            if let Some(asker) = begin.filter(|asker| self.is_asking(&mut agenda, asker)) {
                let told = agenda.begin(&asker);
                visits.push(self.visit(asker, told));
            }
        }
    }

    async fn visit(&self, asker: Asker, mut told: BTreeSet<String>) -> (Asker, BTreeSet<String>, Outcome) {
        let outcome = Visit::new(self, &mut told).pay(&asker).await;
        (asker, told, outcome)
    }

    /// Notes what came of a visit; gives the object back if it changed meanwhile.
    fn close(&self, agenda: &mut Agenda, asker: Asker, told: BTreeSet<String>, outcome: &Outcome) -> Option<Asker> {
        if let Outcome::Away(why) = outcome {
            tracing::warn!(?asker, why, "the API server cannot be reached; it is tried again");
        }
        let has_changed = agenda.end(&asker, told, outcome, Instant::now());
        match outcome {
            Outcome::Settled => {}
            Outcome::Away(_) => self.progress.add_setback(Setback::Away),
            Outcome::Busy => self.progress.add_setback(Setback::Busy),
            Outcome::Failed => self.progress.add_setback(Setback::Impossible),
            Outcome::Refused => self.progress.add_setback(Setback::Refused),
        }
        has_changed.then_some(asker)
    }

    /// Whether the object still asks; one that does not is forgotten.
    fn is_asking(&self, agenda: &mut Agenda, asker: &Asker) -> bool {
        let asks = self.pending.is_asking(asker);
        if !asks {
            agenda.entries.remove(asker);
        }
        asks
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}

/// Who is visited now, and who is to be visited when.
#[derive(Debug, Default)]
struct Agenda {
    entries: BTreeMap<Asker, Entry>,
}

#[derive(Debug)]
struct Entry {
    is_visited: bool,
    /// Whether it changed during the visit.
    has_changed: bool,
    /// When it is visited again though it does not change.
    due: Option<Instant>,
    /// Whether a change has to wait for that too.
    is_held: bool,
    reason: Reason,
    backoff: Backoff,
    /// What was told of it.
    told: BTreeSet<String>,
}

/// Why an object is visited again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Reason {
    None,
    Away,
    Busy,
    Failed,
    Refused,
}

impl Reason {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Settled => Self::None,
            Outcome::Away(_) => Self::Away,
            Outcome::Busy => Self::Busy,
            Outcome::Failed => Self::Failed,
            Outcome::Refused => Self::Refused,
        }
    }

    /// What failed may be mended in the VM, which nobody tells of: it is looked at again, rarely.
    fn backoff(self) -> Backoff {
        let (first, longest) = match self {
            Self::None | Self::Busy => (Duration::from_millis(20), Duration::from_secs(2)),
            Self::Away => (Duration::from_millis(200), Duration::from_secs(15)),
            Self::Refused => (Duration::from_secs(1), Duration::from_mins(2)),
            Self::Failed => (Duration::from_secs(10), Duration::from_mins(5)),
        };
        Backoff::new(Pauses { first, longest })
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            is_visited: false,
            has_changed: false,
            due: None,
            is_held: false,
            reason: Reason::None,
            backoff: Reason::None.backoff(),
            told: BTreeSet::new(),
        }
    }
}

impl Agenda {
    /// Whether an object that changed may be visited now; else the change is noted.
    fn is_free(&mut self, asker: &Asker) -> bool {
        let Some(entry) = self.entries.get_mut(asker) else { return true };
        if entry.is_visited {
            entry.has_changed = true;
        }
        !entry.is_visited && !entry.is_held
    }

    /// Notes the begin of a visit; returns what was told of the object.
    fn begin(&mut self, asker: &Asker) -> BTreeSet<String> {
        let entry = self.entries.entry(asker.clone()).or_default();
        (entry.is_visited, entry.has_changed, entry.due, entry.is_held) = (true, false, None, false);
        std::mem::take(&mut entry.told)
    }

    /// Notes the end of a visit; tells whether the next one is due at once.
    fn end(&mut self, asker: &Asker, told: BTreeSet<String>, outcome: &Outcome, now: Instant) -> bool {
        let reason = Reason::of(outcome);
        let Some(entry) = self.entries.get_mut(asker) else { return false };
        (entry.is_visited, entry.told) = (false, told);
        if entry.reason != reason {
            (entry.reason, entry.backoff) = (reason, reason.backoff());
        }
        entry.due = (reason != Reason::None).then(|| now + entry.backoff.grow());
        entry.is_held = matches!(reason, Reason::Away | Reason::Busy | Reason::Refused);
        if entry.has_changed && !entry.is_held {
            return true;
        }
        if reason == Reason::None {
            self.entries.remove(asker);
        }
        false
    }

    /// The next visit that is due without a change, and when.
    fn next_due(&self) -> Option<(Instant, Asker)> {
        let due = self.entries.iter().filter_map(|(asker, entry)| Some((entry.due?, asker)));
        due.min().map(|(at, asker)| (at, asker.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(name: &str) -> Asker {
        Asker::instance("demo", name)
    }

    fn end(agenda: &mut Agenda, name: &str, outcome: &Outcome) -> bool {
        agenda.end(&asker(name), BTreeSet::new(), outcome, Instant::now())
    }

    #[test]
    fn an_object_is_visited_by_one_at_a_time_and_again_if_it_changed_meanwhile() {
        let mut agenda = Agenda::default();
        assert!(agenda.is_free(&asker("a")));
        agenda.begin(&asker("a"));
        assert!(!agenda.is_free(&asker("a")));
        assert!(agenda.is_free(&asker("b")));
        assert!(end(&mut agenda, "a", &Outcome::Settled), "it changed");
        agenda.begin(&asker("a"));
        assert!(!end(&mut agenda, "a", &Outcome::Settled));
        assert!(agenda.entries.is_empty(), "nothing is kept of what is done");
    }

    #[test]
    fn what_has_to_wait_is_not_hurried_by_a_change_and_what_failed_is() {
        let mut agenda = Agenda::default();
        for (outcome, is_hurried) in [
            (Outcome::Away("x".to_owned()), false),
            (Outcome::Busy, false),
            (Outcome::Refused, false),
            (Outcome::Failed, true),
        ] {
            agenda.begin(&asker("a"));
            assert!(!end(&mut agenda, "a", &outcome));
            let (at, due) = agenda.next_due().unwrap();
            assert!(at > Instant::now() - Duration::from_secs(1) && due == asker("a"));
            assert_eq!(agenda.is_free(&asker("a")), is_hurried, "{outcome:?}");
            agenda.begin(&asker("a"));
            agenda.is_free(&asker("a"));
            assert_eq!(end(&mut agenda, "a", &outcome), is_hurried, "{outcome:?}");
        }
    }

    #[test]
    fn waits_grow_while_the_reason_stays_and_begin_again_with_another() {
        let mut agenda = Agenda::default();
        let now = Instant::now();
        let mut wait = |outcome: &Outcome| {
            agenda.begin(&asker("a"));
            agenda.end(&asker("a"), BTreeSet::new(), outcome, now);
            agenda.next_due().unwrap().0 - now
        };
        let waits: Vec<Duration> = (0..12).map(|_| wait(&Outcome::Refused)).collect();
        assert!(waits[0] <= Duration::from_secs(1) && waits[11] >= Duration::from_mins(1), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_mins(2)), "{waits:?}");
        assert!(wait(&Outcome::Busy) <= Duration::from_millis(20));
        assert!(wait(&Outcome::Refused) <= Duration::from_secs(1));
    }

    #[test]
    fn the_earliest_is_due_first() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.next_due(), None);
        for (name, outcome) in [("a", Outcome::Failed), ("b", Outcome::Busy)] {
            agenda.begin(&asker(name));
            end(&mut agenda, name, &outcome);
        }
        assert_eq!(agenda.next_due().map(|(_, asker)| asker), Some(asker("b")));
    }
}
