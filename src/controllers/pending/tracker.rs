//! The NICs that running guests lack, since when, and what was reported about each.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use crate::{
    cluster::cache::NicAttachment,
    hotplug::place::{PendingReason, Place},
    k8s::Key,
};

/// The delay until a NIC that stays pending is read again; it doubles each time.
const FIRST_REREAD: Duration = Duration::from_mins(1);

/// The longest such delay.
const LONGEST_REREAD: Duration = Duration::from_mins(30);

/// How long a NIC is remembered after it has arrived or was removed: as long as the API server keeps Events by default.
const MEMORY: Duration = Duration::from_hours(1);

/// A NIC of a VM.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct NicKey {
    /// The namespace and the name of the VM.
    pub(super) vm: Key,
    /// The name of the NIC.
    pub(super) nic: String,
}

/// The state of a NIC.
#[derive(Debug, Default)]
struct Tracked {
    /// The uid of the VM; empty until the VM was read.
    uid: String,
    /// Since when the running guest lacks it; `None` while the guest has it, or does not run.
    since: Option<SystemTime>,
    /// Where it is and why, as last read; `None` if it was not read, or is where it belongs.
    finding: Option<(Place, PendingReason)>,
    /// When it is read again.
    reread: Option<SystemTime>,
    /// The delay of the next reread.
    delay: Duration,
    /// The reasons that were reported since it last arrived.
    reported: BTreeSet<PendingReason>,
    /// How often its arrival was reported.
    arrivals: u32,
    /// When it arrived or was removed.
    ended: Option<SystemTime>,
}

/// The NICs that are followed.
#[derive(Debug, Default)]
pub(super) struct Tracker(BTreeMap<NicKey, Tracked>);

/// An Event of an earlier leader about a NIC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum EarlierEvent {
    /// It was reported as pending for a reason.
    Pending(PendingReason),
    /// Its arrival was reported.
    Attached,
}

impl Tracker {
    /// Notes Events of earlier leaders, in the order of their times.
    pub(super) fn restore(
        &mut self,
        events: impl IntoIterator<Item = (NicKey, String, EarlierEvent)>,
        now: SystemTime,
    ) {
        for (key, uid, event) in events {
            let tracked = self.0.entry(key).or_default();
            tracked.belongs_to(&uid);
            match event {
                EarlierEvent::Pending(reason) => {
                    tracked.reported.insert(reason);
                    tracked.ended = None;
                }
                EarlierEvent::Attached => tracked.arrive(now),
            }
        }
    }

    /// Notes which NICs the running guests lack now.
    pub(super) fn observe(&mut self, lacking: &[(Key, Vec<String>)], now: SystemTime) {
        let keys = lacking
            .iter()
            .flat_map(|(vm, nics)| nics.iter().map(move |nic| NicKey { vm: vm.clone(), nic: nic.clone() }));
        let keys: BTreeSet<NicKey> = keys.collect();
        for (key, tracked) in &mut self.0 {
            if !keys.contains(key) {
                (tracked.since, tracked.finding, tracked.reread) = (None, None, None);
            }
        }
        for key in keys {
            let tracked = self.0.entry(key).or_default();
            tracked.ended = None;
            if tracked.since.is_none() {
                (tracked.since, tracked.delay) = (Some(now), FIRST_REREAD);
            }
        }
    }

    /// Returns the NICs that were reported and have arrived since, with the uids of their VMs; forgets those that do
    /// not exist any more.
    pub(super) fn arrived(
        &mut self,
        attachment: impl Fn(&NicKey) -> NicAttachment,
        now: SystemTime,
    ) -> Vec<(NicKey, String)> {
        let mut arrived = Vec::new();
        self.0.retain(|key, tracked| {
            if tracked.since.is_some() {
                return true;
            }
            if let Some(ended) = tracked.ended {
                return now.duration_since(ended).is_ok_and(|age| age < MEMORY);
            }
            match attachment(key) {
                NicAttachment::Attached if tracked.reported.is_empty() => tracked.arrivals > 0,
                NicAttachment::Attached => {
                    arrived.push((key.clone(), tracked.uid.clone()));
                    true
                }
                NicAttachment::Gone => {
                    tracked.ended = Some(now);
                    !tracked.reported.is_empty()
                }
                NicAttachment::Lacking | NicAttachment::Unknown => true,
                NicAttachment::NotRunning => !tracked.reported.is_empty(),
            }
        });
        arrived
    }

    /// Notes that the arrival of a NIC was reported.
    pub(super) fn reported_arrival(&mut self, key: &NicKey, now: SystemTime) {
        if let Some(tracked) = self.0.get_mut(key) {
            tracked.arrive(now);
        }
    }

    /// Returns the VMs, at most `limit`, with a NIC that is pending for `after` and must be read, the longest overdue
    /// first.
    pub(super) fn due(&self, after: Duration, now: SystemTime, limit: usize) -> Vec<Key> {
        let due_at = |tracked: &Tracked| Some(tracked.since? + after).map(|first| tracked.reread.unwrap_or(first));
        let due = self.0.iter().filter_map(|(key, tracked)| Some((due_at(tracked).filter(|at| *at <= now)?, &key.vm)));
        let mut due: Vec<(SystemTime, &Key)> = due.collect();
        due.sort();
        let mut vms: Vec<Key> = Vec::new();
        for (_, vm) in due {
            if vms.len() < limit && !vms.contains(vm) {
                vms.push(vm.clone());
            }
        }
        vms
    }

    /// Notes where a NIC is, as its VM with this uid was read: `None` if it is where it belongs. Returns the reason if it
    /// must be reported.
    pub(super) fn judge(
        &mut self,
        key: &NicKey,
        uid: &str,
        finding: Option<(Place, PendingReason)>,
        now: SystemTime,
    ) -> Option<PendingReason> {
        let tracked = self.0.get_mut(key).filter(|tracked| tracked.since.is_some())?;
        tracked.belongs_to(uid);
        tracked.postpone(now);
        tracked.finding = finding;
        finding.map(|(_, reason)| reason).filter(|reason| !tracked.reported.contains(reason))
    }

    /// Notes that the NICs of a VM could not be read.
    pub(super) fn postpone(&mut self, vm: &Key, now: SystemTime) {
        for (_, tracked) in self.0.iter_mut().filter(|(key, _)| key.vm == *vm) {
            tracked.postpone(now);
        }
    }

    /// Notes that a NIC was reported as pending.
    pub(super) fn reported_pending(&mut self, key: &NicKey, reason: PendingReason) {
        if let Some(tracked) = self.0.get_mut(key) {
            tracked.reported.insert(reason);
        }
    }

    /// Returns how often the NIC was reported as arrived: a NIC that is pending again has Events again.
    pub(super) fn arrivals(&self, key: &NicKey) -> u32 {
        self.0.get(key).map_or(0, |tracked| tracked.arrivals)
    }

    /// Returns where the pending NICs are, and why.
    pub(super) fn findings(&self) -> impl Iterator<Item = (Place, PendingReason)> {
        self.0.values().filter_map(|tracked| tracked.finding)
    }
}

impl Tracked {
    /// Forgets what was reported about a VM that had the name before.
    fn belongs_to(&mut self, uid: &str) {
        if !self.uid.is_empty() && self.uid != uid {
            self.reported.clear();
            self.arrivals = 0;
        }
        uid.clone_into(&mut self.uid);
    }

    fn arrive(&mut self, now: SystemTime) {
        self.arrivals += 1;
        self.reported.clear();
        self.ended = Some(now);
    }

    fn postpone(&mut self, now: SystemTime) {
        self.reread = Some(now + self.delay);
        self.delay = (self.delay * 2).min(LONGEST_REREAD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_mins(2);
    const PENDING: (Place, PendingReason) = (Place::Vmi, PendingReason::ManualMigration);

    fn at(minutes: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_mins(minutes)
    }

    fn vm(name: &str) -> Key {
        ("demo".to_owned(), name.to_owned())
    }

    fn blue(vm_name: &str) -> NicKey {
        NicKey { vm: vm(vm_name), nic: "blue".to_owned() }
    }

    fn lacking(vms: &[&str]) -> Vec<(Key, Vec<String>)> {
        vms.iter().map(|name| (vm(name), vec!["blue".to_owned()])).collect()
    }

    /// Reports what is due for the VM, and returns the reason.
    fn report(tracker: &mut Tracker, finding: (Place, PendingReason), minutes: u64) -> Option<PendingReason> {
        if tracker.due(AFTER, at(minutes), 10).is_empty() {
            return None;
        }
        let reason = tracker.judge(&blue("a"), "1", Some(finding), at(minutes))?;
        tracker.reported_pending(&blue("a"), reason);
        Some(reason)
    }

    #[test]
    fn a_nic_is_due_after_the_time_and_then_more_rarely() {
        let mut tracker = Tracker::default();
        tracker.observe(&lacking(&["a", "b"]), at(0));
        assert!(tracker.due(AFTER, at(1), 10).is_empty());
        assert_eq!(tracker.due(AFTER, at(2), 10), [vm("a"), vm("b")]);
        assert_eq!(tracker.due(AFTER, at(2), 1), [vm("a")], "the others follow at the next tick");
        let mut dates = Vec::new();
        for minutes in 2..70 {
            tracker.observe(&lacking(&["a"]), at(minutes));
            if !tracker.due(AFTER, at(minutes), 10).is_empty() {
                tracker.judge(&blue("a"), "1", Some(PENDING), at(minutes));
                dates.push(minutes);
            }
        }
        assert_eq!(dates, [2, 3, 5, 9, 17, 33, 63]);
        assert_eq!(tracker.findings().collect::<Vec<_>>(), [PENDING]);
    }

    #[test]
    fn each_reason_is_reported_once_and_the_arrival_too() {
        let mut tracker = Tracker::default();
        tracker.observe(&lacking(&["a"]), at(0));
        assert_eq!(report(&mut tracker, PENDING, 2), Some(PendingReason::ManualMigration));
        assert_eq!(report(&mut tracker, PENDING, 3), None);
        assert_eq!(report(&mut tracker, (Place::Vmi, PendingReason::Migration), 5), Some(PendingReason::Migration));
        assert_eq!(report(&mut tracker, PENDING, 9), None, "it was reported before");
        tracker.observe(&[], at(10));
        assert_eq!(tracker.findings().count(), 0);
        assert_eq!(tracker.arrived(|_| NicAttachment::NotRunning, at(10)), [], "the VM restarts");
        let arrived = [(blue("a"), "1".to_owned())];
        assert_eq!(tracker.arrived(|_| NicAttachment::Attached, at(11)), arrived);
        assert_eq!(tracker.arrived(|_| NicAttachment::Attached, at(12)), arrived, "until the Event is stored");
        tracker.reported_arrival(&blue("a"), at(12));
        assert_eq!((tracker.arrived(|_| NicAttachment::Attached, at(13)), tracker.arrivals(&blue("a"))), (vec![], 1));
        tracker.observe(&lacking(&["a"]), at(20));
        assert_eq!(report(&mut tracker, PENDING, 22), Some(PendingReason::ManualMigration), "it is pending again");
        tracker.observe(&[], at(23));
        tracker.arrived(|_| NicAttachment::Gone, at(23));
        tracker.arrived(|_| NicAttachment::Gone, at(84));
        assert!(tracker.0.is_empty(), "{tracker:?}");
    }

    #[test]
    fn a_new_leader_repeats_no_event() {
        let pending = || (blue("a"), "1".to_owned(), EarlierEvent::Pending(PendingReason::ManualMigration));
        let mut waits = Tracker::default();
        waits.restore([pending()], at(0));
        waits.observe(&lacking(&["a"]), at(0));
        assert_eq!(report(&mut waits, PENDING, 2), None);
        let mut arrived = Tracker::default();
        arrived.restore([pending()], at(0));
        assert_eq!(arrived.arrived(|_| NicAttachment::Unknown, at(0)), []);
        assert_eq!(arrived.arrived(|_| NicAttachment::Attached, at(0)), [(blue("a"), "1".to_owned())]);
        let mut over = Tracker::default();
        over.restore([pending(), (blue("a"), "1".to_owned(), EarlierEvent::Attached)], at(0));
        assert_eq!((over.arrived(|_| NicAttachment::Attached, at(0)), over.arrivals(&blue("a"))), (vec![], 1));
        let mut recreated = Tracker::default();
        recreated.restore([(blue("a"), "0".to_owned(), EarlierEvent::Pending(PENDING.1))], at(0));
        recreated.observe(&lacking(&["a"]), at(0));
        assert_eq!(report(&mut recreated, PENDING, 2), Some(PENDING.1), "that was another VM");
    }

    #[test]
    fn a_nic_that_arrives_in_time_is_forgotten() {
        let mut tracker = Tracker::default();
        tracker.observe(&lacking(&["a"]), at(0));
        tracker.observe(&[], at(1));
        assert_eq!(tracker.arrived(|_| NicAttachment::Attached, at(1)), []);
        assert!(tracker.0.is_empty(), "{tracker:?}");
        // A restart of the VM begins the time again.
        tracker.observe(&lacking(&["a"]), at(2));
        tracker.observe(&[], at(3));
        tracker.observe(&lacking(&["a"]), at(4));
        assert!(tracker.due(AFTER, at(5), 10).is_empty());
        tracker.postpone(&vm("a"), at(6));
        assert!(tracker.due(AFTER, at(6), 10).is_empty(), "it could not be read");
    }
}
