//! The store that watches write and requests read.
//!
//! A request holds the lock for some microseconds, to copy the facts that it needs. A watch parses before it locks, and
//! an object whose facts are unchanged, as after nearly every heartbeat, takes only the read lock.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::mpsc;

pub use super::store::guests::NicAttachment;
use super::store::{
    Store,
    projection::{ObjectError, Projection},
};
use crate::{
    change::{Change, MigrationStart, NetworkChange},
    facts::{Fact, FactSource, Facts, boot::Stamp},
    k8s::{Key, kind::Kind, served_groups::ServedGroups},
};

/// How many objects are removed under one lock: a request waits for no more than these.
const REMOVED_AT_ONCE: usize = 256;

/// How many ControllerRevisions may wait to be fetched.
const WANTED_REVISIONS: usize = 64;

/// A store with many readers and few writers.
#[derive(Debug)]
pub struct Cache {
    store: RwLock<Store>,
    /// Where the objects of KubeVirt come from.
    groups: ServedGroups,
    /// ControllerRevisions that a request needed.
    wanted_revisions: mpsc::Sender<WantedRevision>,
}

/// A ControllerRevision that a request needed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WantedRevision {
    /// Its namespace and name.
    pub(super) key: Key,
    /// Whether a guest names it. Otherwise a VM does, which any user can write, so that only what stores an instancetype
    /// or a preference is kept.
    pub(super) is_of_guest: bool,
}

/// What an object changed in the store.
#[derive(Debug)]
pub enum Effect {
    /// Nothing: its facts are known already.
    Unchanged,
    /// Its facts are new or different.
    Changed,
    /// It cannot be read, and that is new.
    Unreadable(ObjectError),
}

impl Cache {
    /// Returns a cache of a store, and the ControllerRevisions that requests needed.
    #[must_use]
    pub fn new(store: Store) -> (Self, mpsc::Receiver<WantedRevision>) {
        Self::of_groups(store, ServedGroups::default())
    }

    /// As [`Self::new`], for a cluster that may serve a fork of KubeVirt.
    pub(super) fn of_groups(store: Store, groups: ServedGroups) -> (Self, mpsc::Receiver<WantedRevision>) {
        let (wanted_revisions, wanted) = mpsc::channel(WANTED_REVISIONS);
        (Self { store: RwLock::new(store), groups, wanted_revisions }, wanted)
    }

    /// Locks the store for reading.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Store> {
        // A writer that panicked has left at most one object half inserted.
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inserts or replaces an object, from its JSON text.
    pub fn apply(&self, kind: Kind, text: &str) -> Effect {
        let registry = self.read().registry();
        match Projection::read(kind, text, &registry) {
            Ok(projection) if self.read().contains(&projection) => Effect::Unchanged,
            Ok(projection) => {
                self.write().upsert(projection, &registry);
                Effect::Changed
            }
            Err(error) if self.read().is_unreadable(&error) => Effect::Unchanged,
            Err(error) => {
                self.write().mark_unreadable(&error);
                Effect::Unreadable(error)
            }
        }
    }

    /// Removes an object: it was deleted.
    pub(super) fn remove(&self, kind: Kind, (namespace, name): &Key) {
        self.write().remove(kind, namespace, name);
    }

    /// Whether the object is known, or known to be absent.
    pub(super) fn knows(&self, kind: Kind, (namespace, name): &Key) -> bool {
        self.read().knows(kind, namespace, name)
    }

    /// Notes that an object does not exist.
    pub(super) fn mark_absent(&self, kind: Kind, (namespace, name): &Key) {
        self.write().mark_absent(kind, namespace, name);
    }

    /// Begins a new list of all objects of the kind; known objects stay until [`finish_sync`](Self::finish_sync).
    pub fn begin_sync(&self, kind: Kind) {
        self.write().begin_sync(kind);
    }

    /// Ends a list of all objects of the kind: removes those that it lacked, and makes every other object absent.
    pub fn finish_sync(&self, kind: Kind) {
        let not_seen = self.read().not_seen(kind);
        self.remove_all(kind, &not_seen);
        self.write().finish_sync(kind);
    }

    /// Removes all objects of the kind and makes them unknown.
    pub(super) fn clear(&self, kind: Kind) {
        self.write().end_sync(kind);
        let all = self.read().keys(kind);
        self.remove_all(kind, &all);
    }

    fn remove_all(&self, kind: Kind, keys: &[Key]) {
        for some in keys.chunks(REMOVED_AT_ONCE) {
            let mut store = self.write();
            for (namespace, name) in some {
                store.remove(kind, namespace, name);
            }
        }
    }

    /// Returns how many objects of a kind are known.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.read().count(kind)
    }

    /// Returns the VMs with a NIC that their running guest does not have yet, and the names of those NICs.
    #[must_use]
    pub fn unattached_nics(&self) -> Vec<(Key, Vec<String>)> {
        let store = self.read();
        let owned = |(key, nics): (&Key, Vec<&str>)| (key.clone(), nics.into_iter().map(str::to_owned).collect());
        store.guests().unattached().map(owned).collect()
    }

    /// Returns where a NIC of a VM is.
    #[must_use]
    pub fn attachment_of(&self, namespace: &str, vm: &str, nic: &str) -> NicAttachment {
        self.read().guests().attachment_of(namespace, vm, nic)
    }

    /// Returns the group in which the cluster serves the kinds of a group of KubeVirt.
    #[must_use]
    pub fn served_group<'g>(&'g self, group: &'g str) -> &'g str {
        self.groups.of(group)
    }

    /// Whether a user is the service account of a component of KubeVirt.
    #[must_use]
    pub fn is_of_kubevirt(&self, user: &str) -> bool {
        self.read().is_of_kubevirt(user)
    }

    /// Requests the ControllerRevision of a guest if its port budget depends on it, so that the next request has it.
    fn want_revision(&self, namespace: &str, facts: &Facts) {
        let Fact::Known(vmi) = &facts.vmi else { return };
        let needs = vmi.is_live() && vmi.boot.stamp == Stamp::Missing && facts.revision == Fact::Unknown;
        if let Some(name) = vmi.boot.revision.as_deref().filter(|_| needs) {
            self.want(namespace, name, true);
        }
    }

    /// Requests a ControllerRevision. If the queue is full, the next request tries again.
    fn want(&self, namespace: &str, name: &str, is_of_guest: bool) {
        let key = (namespace.to_owned(), name.to_owned());
        let _ = self.wanted_revisions.try_send(WantedRevision { key, is_of_guest });
    }
}

impl FactSource for Cache {
    fn reads_group(&self, group: &str, of: &str) -> bool {
        self.groups.serves(group, of)
    }

    fn facts_for(&self, change: &Change) -> Facts {
        let store = self.read();
        let facts = store.facts_for(change);
        let missing = match facts.expansions {
            Some(_) => store.missing_revisions(change, &facts),
            None => Vec::new(),
        };
        drop(store);
        let namespace = change.subject.namespace;
        self.want_revision(namespace, &facts);
        for name in &missing {
            self.want(namespace, name, false);
        }
        facts
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.read().facts_for_migration(start)
    }

    fn facts_for_network(&self, change: &NetworkChange) -> Facts {
        self.read().facts_for_network(change)
    }
}
