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

pub use self::stats::{PersistStatus, Progress, ReconcileError};
use self::{
    client::Objects,
    reconcile::{Outcome, Reconcile},
};
use crate::{
    cluster::persist_queue::{ObjectRef, Pending},
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
pub struct Reconciler {
    objects: Objects,
    events: Events,
    pending: Pending,
    progress: Progress,
}

impl Reconciler {
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
        let mut scheduler = Scheduler::default();
        let mut visits = FuturesUnordered::new();
        loop {
            let has_room = visits.len() < AT_ONCE;
            let due = scheduler.next_due();
            let begin = tokio::select! {
                Some((object_ref, told, outcome)) = visits.next(), if !visits.is_empty() => {
                    self.close(&mut scheduler, object_ref, told, &outcome)
                }
                () = until(due.as_ref().map(|(at, _)| *at)), if has_room => due.map(|(_, object_ref)| object_ref),
                object_ref = self.pending.next(), if has_room => scheduler.is_free(&object_ref).then_some(object_ref),
            };
            if let Some(object_ref) = begin.filter(|object_ref| self.is_asking(&mut scheduler, object_ref)) {
                let told = scheduler.begin(&object_ref);
                visits.push(self.visit(object_ref, told));
            }
        }
    }

    async fn visit(&self, object_ref: ObjectRef, mut told: BTreeSet<String>) -> (ObjectRef, BTreeSet<String>, Outcome) {
        let outcome = Reconcile::new(self, &mut told).pay(&object_ref).await;
        (object_ref, told, outcome)
    }

    /// Notes what came of a visit; gives the object back if it changed meanwhile.
    fn close(
        &self,
        scheduler: &mut Scheduler,
        object_ref: ObjectRef,
        told: BTreeSet<String>,
        outcome: &Outcome,
    ) -> Option<ObjectRef> {
        if let Outcome::Away(why) = outcome {
            tracing::warn!(?object_ref, why, "the API server cannot be reached; it is tried again");
        }
        let has_changed = scheduler.end(&object_ref, told, outcome, Instant::now());
        match outcome {
            Outcome::Settled => {}
            Outcome::Away(_) => self.progress.add_setback(ReconcileError::Away),
            Outcome::Busy => self.progress.add_setback(ReconcileError::Busy),
            Outcome::Failed => self.progress.add_setback(ReconcileError::Impossible),
            Outcome::Refused => self.progress.add_setback(ReconcileError::Refused),
        }
        has_changed.then_some(object_ref)
    }

    /// Whether the object still asks; one that does not is forgotten.
    fn is_asking(&self, scheduler: &mut Scheduler, object_ref: &ObjectRef) -> bool {
        let asks = self.pending.is_asking(object_ref);
        if !asks {
            scheduler.entries.remove(object_ref);
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
struct Scheduler {
    entries: BTreeMap<ObjectRef, Entry>,
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

impl Scheduler {
    /// Whether an object that changed may be visited now; else the change is noted.
    fn is_free(&mut self, object_ref: &ObjectRef) -> bool {
        let Some(entry) = self.entries.get_mut(object_ref) else { return true };
        if entry.is_visited {
            entry.has_changed = true;
        }
        !entry.is_visited && !entry.is_held
    }

    /// Notes the begin of a visit; returns what was told of the object.
    fn begin(&mut self, object_ref: &ObjectRef) -> BTreeSet<String> {
        let entry = self.entries.entry(object_ref.clone()).or_default();
        (entry.is_visited, entry.has_changed, entry.due, entry.is_held) = (true, false, None, false);
        std::mem::take(&mut entry.told)
    }

    /// Notes the end of a visit; tells whether the next one is due at once.
    fn end(&mut self, object_ref: &ObjectRef, told: BTreeSet<String>, outcome: &Outcome, now: Instant) -> bool {
        let reason = Reason::of(outcome);
        let Some(entry) = self.entries.get_mut(object_ref) else { return false };
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
            self.entries.remove(object_ref);
        }
        false
    }

    /// The next visit that is due without a change, and when.
    fn next_due(&self) -> Option<(Instant, ObjectRef)> {
        let due = self.entries.iter().filter_map(|(object_ref, entry)| Some((entry.due?, object_ref)));
        due.min().map(|(at, object_ref)| (at, object_ref.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object_ref(name: &str) -> ObjectRef {
        ObjectRef::vmi("demo", name)
    }

    fn end(scheduler: &mut Scheduler, name: &str, outcome: &Outcome) -> bool {
        scheduler.end(&object_ref(name), BTreeSet::new(), outcome, Instant::now())
    }

    #[test]
    fn an_object_is_visited_by_one_at_a_time_and_again_if_it_changed_meanwhile() {
        let mut scheduler = Scheduler::default();
        assert!(scheduler.is_free(&object_ref("a")));
        scheduler.begin(&object_ref("a"));
        assert!(!scheduler.is_free(&object_ref("a")));
        assert!(scheduler.is_free(&object_ref("b")));
        assert!(end(&mut scheduler, "a", &Outcome::Settled), "it changed");
        scheduler.begin(&object_ref("a"));
        assert!(!end(&mut scheduler, "a", &Outcome::Settled));
        assert!(scheduler.entries.is_empty(), "nothing is kept of what is done");
    }

    #[test]
    fn what_has_to_wait_is_not_hurried_by_a_change_and_what_failed_is() {
        let mut scheduler = Scheduler::default();
        for (outcome, is_hurried) in [
            (Outcome::Away("x".to_owned()), false),
            (Outcome::Busy, false),
            (Outcome::Refused, false),
            (Outcome::Failed, true),
        ] {
            scheduler.begin(&object_ref("a"));
            assert!(!end(&mut scheduler, "a", &outcome));
            let (at, due) = scheduler.next_due().unwrap();
            assert!(at > Instant::now() - Duration::from_secs(1) && due == object_ref("a"));
            assert_eq!(scheduler.is_free(&object_ref("a")), is_hurried, "{outcome:?}");
            scheduler.begin(&object_ref("a"));
            scheduler.is_free(&object_ref("a"));
            assert_eq!(end(&mut scheduler, "a", &outcome), is_hurried, "{outcome:?}");
        }
    }

    #[test]
    fn waits_grow_while_the_reason_stays_and_begin_again_with_another() {
        let mut scheduler = Scheduler::default();
        let now = Instant::now();
        let mut wait = |outcome: &Outcome| {
            scheduler.begin(&object_ref("a"));
            scheduler.end(&object_ref("a"), BTreeSet::new(), outcome, now);
            scheduler.next_due().unwrap().0 - now
        };
        let waits: Vec<Duration> = (0..12).map(|_| wait(&Outcome::Refused)).collect();
        assert!(waits[0] <= Duration::from_secs(1) && waits[11] >= Duration::from_mins(1), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_mins(2)), "{waits:?}");
        assert!(wait(&Outcome::Busy) <= Duration::from_millis(20));
        assert!(wait(&Outcome::Refused) <= Duration::from_secs(1));
    }

    #[test]
    fn the_earliest_is_due_first() {
        let mut scheduler = Scheduler::default();
        assert_eq!(scheduler.next_due(), None);
        for (name, outcome) in [("a", Outcome::Failed), ("b", Outcome::Busy)] {
            scheduler.begin(&object_ref(name));
            end(&mut scheduler, name, &outcome);
        }
        assert_eq!(scheduler.next_due().map(|(_, object_ref)| object_ref), Some(object_ref("b")));
    }
}
