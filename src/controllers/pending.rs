//! The controller that follows the NICs that were admitted: one that a running guest lacks for a time gets an Event on
//! its VM with the reason, and a second Event when the guest has it.
//!
//! The store of the watches says which guests lack a NIC. Only after the time are the VM and what is around it read from
//! the API server. Each NIC has one Event for each kind of reason: the name of an Event is made from them, and a new
//! leader reads the Events that exist, so neither a restart nor a second leader repeats one.

mod counts;
mod objects;
mod tracker;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write,
    future,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;

pub use self::counts::{PendingCounts, STAGES};
use self::{
    objects::{INTERFACE, REASON, Reader, earlier_events},
    tracker::{NicKey, Tracker},
};
use crate::{
    cluster::cache::Cache,
    hotplug::{
        place::{Need, NicReport, Place},
        progress::Direction,
    },
    k8s::{
        Key,
        events::{EventReason, Events, NamedEvent, name_of_event, reference},
        kind::Kind,
        log_once::LogOnce,
        request::ApiClient,
    },
    settings::CurrentSettings,
};

/// How often the store is searched for NICs that guests lack.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// The reporting controller of Events, as a qualified name.
const CONTROLLER: &str = "nicplug.io/pending";

/// How many VMs are read at one tick; the others follow at the next ones.
const READ_AT_ONCE: usize = 20;

/// How long a response of the API server may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Reports NICs that running guests lack.
pub struct PendingController {
    client: ApiClient,
    events: Events,
    cache: Arc<Cache>,
    settings: CurrentSettings,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    counts: PendingCounts,
}

impl PendingController {
    /// A controller with this clock; `identity` names the replica in the Events that it writes.
    #[must_use]
    pub fn new(
        client: Client,
        cache: Arc<Cache>,
        settings: CurrentSettings,
        identity: &str,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        Self {
            events: Events::new(client.clone(), CONTROLLER, identity),
            client: ApiClient::new(client, TIMEOUT),
            cache,
            settings,
            clock: Box::new(clock),
            counts: PendingCounts::default(),
        }
    }

    /// Returns the numbers of pending NICs.
    #[must_use]
    pub fn counts(&self) -> &PendingCounts {
        &self.counts
    }

    /// Searches at each tick, without end. Only the leader runs this; the numbers are 0 again when the future is dropped.
    pub async fn run(&self, ticks: impl Stream<Item = ()>) -> Infallible {
        let _reset = ResetOnDrop(&self.counts);
        let mut ticks = pin!(ticks);
        let mut tracker = None;
        let mut log_once = LogOnce::default();
        loop {
            if ticks.next().await.is_none() {
                future::pending::<()>().await;
            }
            let Some(after) = self.settings.load().events.pending_after() else {
                tracker = None;
                self.counts.replace([]);
                continue;
            };
            let tracker = if let Some(tracker) = &mut tracker {
                tracker
            } else {
                let restored = self.restored().await;
                if let Some(error) = log_once.changed(restored.as_ref().err().cloned()) {
                    tracing::warn!(error, "cannot read the Events about pending NICs");
                }
                let Ok(restored) = restored else { continue };
                tracker.insert(restored)
            };
            self.tick(tracker, after).await;
        }
    }

    /// Returns what earlier leaders reported. Without the permission to read Events, their names prevent a repetition
    /// as long as the API server keeps them.
    async fn restored(&self) -> Result<Tracker, String> {
        let mut tracker = Tracker::default();
        match earlier_events(&self.client).await {
            Ok(events) => tracker.restore(events, (self.clock)()),
            Err(error) if error.is_forbidden() => {
                tracing::warn!(%error, "no permission to read Events: an arrival may not be reported after a restart");
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(tracker)
    }

    async fn tick(&self, tracker: &mut Tracker, after: Duration) {
        let now = (self.clock)();
        tracker.observe(&self.cache.unattached_nics(), now);
        let attachment = |key: &NicKey| self.cache.attachment_of(&key.vm.0, &key.vm.1, &key.nic);
        for (key, uid) in tracker.arrived(attachment, now) {
            let name = event_name(&key, &uid, "attached", tracker.arrivals(&key));
            let annotations = BTreeMap::from([(INTERFACE.to_owned(), key.nic.clone())]);
            let note = format!("{:?} is in the guest", key.nic);
            let event = NamedEvent { name, reason: EventReason::InterfaceAttached, annotations, related: None, note };
            if self.events.emit_once(event, &self.vm_reference(&key.vm, uid)).await {
                tracker.reported_arrival(&key, now);
            }
        }
        let mut reader = Reader::new(&self.client);
        for vm in tracker.due(after, now, READ_AT_ONCE) {
            self.read(tracker, &mut reader, &vm, now).await;
        }
        self.counts.replace(tracker.findings());
    }

    /// Returns the reference of an Event to a VM, in the group in which the cluster serves VMs.
    fn vm_reference(&self, (namespace, name): &Key, uid: String) -> ObjectReference {
        ObjectReference {
            api_version: Some(format!("{}/{}", self.cache.served_group(Kind::Vm.group()), Kind::Vm.version())),
            kind: Some("VirtualMachine".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(uid).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }
    }

    /// Reads a VM and reports its pending NICs.
    async fn read(&self, tracker: &mut Tracker, reader: &mut Reader<'_>, vm: &Key, now: SystemTime) {
        let settings = self.settings.load();
        let (object, report) = match reader.report(vm, &*self.cache, &settings).await {
            Ok(Some(found)) => found,
            Ok(None) => return tracker.postpone(vm, now),
            Err(error) => {
                tracing::warn!(namespace = vm.0, vm = vm.1, %error, "cannot read a VM with a pending NIC");
                return tracker.postpone(vm, now);
            }
        };
        let object = reference(&object);
        let uid = object.uid.clone().unwrap_or_default();
        for nic in &report.nics {
            let key = NicKey { vm: vm.clone(), nic: nic.name.clone() };
            let is_pending =
                nic.need != Need::Nothing && nic.direction == Direction::Attach && nic.place < Place::Guest;
            let finding = nic.reason.filter(|_| is_pending).map(|reason| (nic.place, reason));
            let Some(reason) = tracker.judge(&key, &uid, finding, now) else { continue };
            let name = event_name(&key, &uid, reason.as_str(), tracker.arrivals(&key));
            let annotations = BTreeMap::from([
                (INTERFACE.to_owned(), nic.name.clone()),
                (REASON.to_owned(), reason.as_str().to_owned()),
            ]);
            let event =
                NamedEvent { name, reason: EventReason::InterfacePending, annotations, related: None, note: note(nic) };
            if self.events.emit_once(event, &object).await {
                tracker.reported_pending(&key, reason);
                let (namespace, vm) = vm;
                tracing::info!(namespace, vm, nic = nic.name, why = nic.why, "a NIC is pending");
            }
        }
    }
}

/// Sets the numbers to 0 when the term of the leader ends.
struct ResetOnDrop<'c>(&'c PendingCounts);

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.replace([]);
    }
}

/// Returns the sentence of `nicplug why`, and what to do.
fn note(nic: &NicReport) -> String {
    let mut note = nic.sentence(None);
    if !nic.fix.is_empty() {
        let _ = write!(note, "; to do: {}", nic.fix);
    }
    if !nic.unread.is_empty() {
        let _ = write!(note, "; not read, so the reason may be another one: {}", nic.unread.join(", "));
    }
    note
}

/// Returns the name of the Event about a NIC: the same for the same NIC and reason, until the NIC has arrived.
fn event_name(key: &NicKey, uid: &str, what: &str, arrivals: u32) -> String {
    let NicKey { vm: (_, name), nic } = key;
    name_of_event(name, &format!("{uid} {nic} {what} {arrivals}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_event_differs_by_vm_nic_reason_and_arrival() {
        let key = |vm: &str, nic: &str| NicKey { vm: ("demo".to_owned(), vm.to_owned()), nic: nic.to_owned() };
        let first = event_name(&key("vm", "blue"), "1", "restart", 0);
        assert_eq!(first, event_name(&key("vm", "blue"), "1", "restart", 0));
        assert!(first.starts_with("vm.") && first.len() == "vm.".len() + 16, "{first}");
        for other in [
            event_name(&key("vm", "red"), "1", "restart", 0),
            event_name(&key("vm", "blue"), "2", "restart", 0),
            event_name(&key("vm", "blue"), "1", "migration", 0),
            event_name(&key("vm", "blue"), "1", "restart", 1),
        ] {
            assert_ne!(first, other);
        }
        assert!(event_name(&key(&"a".repeat(253), "blue"), "1", "restart", 0).len() <= 253);
    }
}
