//! The reconciler that persists NICs of running guests into the templates of their VMs. The steps come from
//! [`annotations::persist`](crate::annotations::persist); this module carries them out.
//!
//! Only the leader reconciles, and a second leader would do no harm: every write is a JSON patch that applies only to
//! the object that was read. Every failure is retried: a conflict at once and then more slowly, a refusal rarely, and
//! while the API server is unavailable without limit.

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

use self::{client::ObjectClient, reconcile::Reconcile};
pub use self::{
    reconcile::ReconcileError,
    stats::{PersistStats, PersistStatus},
};
use crate::{
    cluster::persist_queue::{ObjectRef, PersistQueue},
    k8s::{
        backoff::{Backoff, Delays},
        events::Events,
    },
};

/// The reporting controller of Events, as a qualified name.
const CONTROLLER: &str = "nicplug.io/persist";

/// How many objects are reconciled at once, so that a slow one does not delay the others.
const AT_ONCE: usize = 8;

/// Persists NICs of the objects in a queue.
pub struct Reconciler {
    client: ObjectClient,
    events: Events,
    queue: PersistQueue,
    stats: PersistStats,
}

impl Reconciler {
    /// A reconciler of a queue; `identity` names the replica in the Events that it writes.
    #[must_use]
    pub fn new(client: Client, queue: PersistQueue, identity: &str) -> Self {
        let events = Events::new(client.clone(), CONTROLLER, identity);
        Self { client: ObjectClient::new(client), events, queue, stats: PersistStats::default() }
    }

    /// Returns the counters.
    #[must_use]
    pub fn stats(&self) -> &PersistStats {
        &self.stats
    }

    /// Reconciles without end, beginning with all objects that ask. Stops at once when the future is dropped.
    pub async fn run(&self) -> Infallible {
        self.queue.requeue_all();
        let mut scheduler = Scheduler::default();
        let mut running = FuturesUnordered::new();
        loop {
            let has_room = running.len() < AT_ONCE;
            let due = scheduler.next_due();
            let next = tokio::select! {
                Some(Reconciled { object, reported, result }) = running.next(), if !running.is_empty() => {
                    if let Err(reason) = result {
                        self.stats.count_failure(reason);
                    }
                    let is_due = scheduler.end(&object, reported, result, Instant::now());
                    is_due.then_some(object)
                }
                () = until(due.as_ref().map(|(at, _)| *at)), if has_room => due.map(|(_, object)| object),
                object = self.queue.next(), if has_room => scheduler.may_begin(&object).then_some(object),
            };
            let Some(object) = next else { continue };
            if self.queue.contains(&object) {
                let reported = scheduler.begin(&object);
                running.push(self.reconcile(object, reported));
            } else {
                scheduler.remove(&object);
            }
        }
    }

    async fn reconcile(&self, object: ObjectRef, mut reported: BTreeSet<String>) -> Reconciled {
        let result = Reconcile::new(self, &mut reported).run(&object).await;
        Reconciled { object, reported, result }
    }
}

/// A reconciliation that has ended.
struct Reconciled {
    object: ObjectRef,
    /// What was reported about the object.
    reported: BTreeSet<String>,
    result: Result<(), ReconcileError>,
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}

/// Decides when an object is reconciled: one reconciliation at a time, and retries after a delay.
#[derive(Debug, Default)]
struct Scheduler {
    objects: BTreeMap<ObjectRef, Schedule>,
}

/// The schedule of an object that is being reconciled or waits for a retry.
#[derive(Debug, Default)]
struct Schedule {
    is_running: bool,
    /// Whether the object changed during the reconciliation.
    has_changed: bool,
    /// Why and when it is retried without a change.
    retry: Option<Retry>,
    /// What was reported about the object.
    reported: BTreeSet<String>,
}

#[derive(Debug)]
struct Retry {
    reason: ReconcileError,
    backoff: Backoff,
    /// `None` during the reconciliation.
    due: Option<Instant>,
}

impl Retry {
    fn new(reason: ReconcileError) -> Self {
        // No watch reports that an impossible request became possible by a change of the VM, so it is retried, rarely.
        let (first, longest) = match reason {
            ReconcileError::Conflict => (Duration::from_millis(20), Duration::from_secs(2)),
            ReconcileError::Unavailable => (Duration::from_millis(200), Duration::from_secs(15)),
            ReconcileError::Refused => (Duration::from_secs(1), Duration::from_mins(2)),
            ReconcileError::Impossible => (Duration::from_secs(10), Duration::from_mins(5)),
        };
        Self { reason, backoff: Backoff::new(Delays { first, longest }), due: None }
    }

    /// Whether a change of the object must wait for the retry. Only an impossible request becomes possible by a change.
    fn delays_changes(&self) -> bool {
        self.due.is_some() && self.reason != ReconcileError::Impossible
    }
}

impl Scheduler {
    /// Whether an object that changed may be reconciled now; otherwise the change is noted.
    fn may_begin(&mut self, object: &ObjectRef) -> bool {
        let Some(schedule) = self.objects.get_mut(object) else { return true };
        if schedule.is_running {
            schedule.has_changed = true;
            return false;
        }
        !schedule.retry.as_ref().is_some_and(Retry::delays_changes)
    }

    /// Notes the begin of a reconciliation; returns what was reported about the object.
    fn begin(&mut self, object: &ObjectRef) -> BTreeSet<String> {
        let schedule = self.objects.entry(object.clone()).or_default();
        (schedule.is_running, schedule.has_changed) = (true, false);
        if let Some(retry) = &mut schedule.retry {
            retry.due = None;
        }
        std::mem::take(&mut schedule.reported)
    }

    /// Notes the end of a reconciliation; returns whether the next one is due at once.
    fn end(
        &mut self,
        object: &ObjectRef,
        reported: BTreeSet<String>,
        result: Result<(), ReconcileError>,
        now: Instant,
    ) -> bool {
        let Some(schedule) = self.objects.get_mut(object) else { return false };
        (schedule.is_running, schedule.reported) = (false, reported);
        schedule.retry = result.err().map(|reason| {
            let same = schedule.retry.take().filter(|retry| retry.reason == reason);
            let mut retry = same.unwrap_or_else(|| Retry::new(reason));
            retry.due = Some(now + retry.backoff.next_delay());
            retry
        });
        let is_due = schedule.has_changed && !schedule.retry.as_ref().is_some_and(Retry::delays_changes);
        if schedule.retry.is_none() && !is_due {
            self.remove(object);
        }
        is_due
    }

    /// Forgets an object.
    fn remove(&mut self, object: &ObjectRef) {
        self.objects.remove(object);
    }

    /// Returns the next retry, and when it is due.
    fn next_due(&self) -> Option<(Instant, ObjectRef)> {
        let due = self.objects.iter().filter_map(|(object, schedule)| Some((schedule.retry.as_ref()?.due?, object)));
        due.min().map(|(at, object)| (at, object.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi(name: &str) -> ObjectRef {
        ObjectRef::vmi("demo", name)
    }

    fn end(scheduler: &mut Scheduler, name: &str, result: Result<(), ReconcileError>) -> bool {
        scheduler.end(&vmi(name), BTreeSet::new(), result, Instant::now())
    }

    #[test]
    fn an_object_has_one_reconciliation_at_a_time_and_another_after_a_change() {
        let mut scheduler = Scheduler::default();
        assert!(scheduler.may_begin(&vmi("a")));
        scheduler.begin(&vmi("a"));
        assert!(!scheduler.may_begin(&vmi("a")));
        assert!(scheduler.may_begin(&vmi("b")));
        assert!(end(&mut scheduler, "a", Ok(())), "it changed");
        scheduler.begin(&vmi("a"));
        assert!(!end(&mut scheduler, "a", Ok(())));
        assert!(scheduler.objects.is_empty(), "a completed object is forgotten");
    }

    #[test]
    fn a_change_does_not_shorten_a_delay_except_after_an_impossible_request() {
        let mut scheduler = Scheduler::default();
        for (reason, is_at_once) in [
            (ReconcileError::Unavailable, false),
            (ReconcileError::Conflict, false),
            (ReconcileError::Refused, false),
            (ReconcileError::Impossible, true),
        ] {
            scheduler.begin(&vmi("a"));
            assert!(!end(&mut scheduler, "a", Err(reason)));
            let (at, due) = scheduler.next_due().unwrap();
            assert!(at > Instant::now() - Duration::from_secs(1) && due == vmi("a"));
            assert_eq!(scheduler.may_begin(&vmi("a")), is_at_once, "{reason:?}");
            scheduler.begin(&vmi("a"));
            assert_eq!(scheduler.next_due(), None);
            scheduler.may_begin(&vmi("a"));
            assert_eq!(end(&mut scheduler, "a", Err(reason)), is_at_once, "{reason:?}");
        }
    }

    #[test]
    fn delays_grow_while_the_reason_stays_and_begin_again_with_another_one() {
        let mut scheduler = Scheduler::default();
        let now = Instant::now();
        let mut delay = |reason: ReconcileError| {
            scheduler.begin(&vmi("a"));
            scheduler.end(&vmi("a"), BTreeSet::new(), Err(reason), now);
            scheduler.next_due().unwrap().0 - now
        };
        let delays: Vec<Duration> = (0..12).map(|_| delay(ReconcileError::Refused)).collect();
        assert!(delays[0] <= Duration::from_secs(1) && delays[11] >= Duration::from_mins(1), "{delays:?}");
        assert!(delays.iter().all(|delay| *delay <= Duration::from_mins(2)), "{delays:?}");
        assert!(delay(ReconcileError::Conflict) <= Duration::from_millis(20));
        assert!(delay(ReconcileError::Refused) <= Duration::from_secs(1));
    }

    #[test]
    fn the_earliest_retry_is_due_first() {
        let mut scheduler = Scheduler::default();
        assert_eq!(scheduler.next_due(), None);
        for (name, reason) in [("a", ReconcileError::Impossible), ("b", ReconcileError::Conflict)] {
            scheduler.begin(&vmi(name));
            end(&mut scheduler, name, Err(reason));
        }
        assert_eq!(scheduler.next_due().map(|(_, object)| object), Some(vmi("b")));
    }
}
