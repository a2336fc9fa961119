//! The store that watches write and requests read.
//!
//! A request holds the lock for some microseconds to copy what it needs. A watch does its work before it locks, and an
//! object that comes to the same facts as before, as nearly every heartbeat does, never locks anybody out.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::mpsc;

use super::store::{
    Store,
    projection::{ObjectError, Projection},
};
use crate::{
    change::{Change, MigrationStart},
    facts::{Fact, FactSource, Facts, boot::Stamp},
    k8s::{Key, kind::Kind},
};

/// How many objects are taken out at a time: a request waits for these at most.
const AT_A_TIME: usize = 256;

/// How many ControllerRevisions may be waited for.
const REVISIONS_AT_MOST: usize = 64;

/// A store that many may read, and a few may write.
#[derive(Debug)]
pub struct Cache {
    store: RwLock<Store>,
    /// Where the names of ControllerRevisions go that a request would have needed.
    wanted_revisions: mpsc::Sender<Key>,
}

/// What an object did to the store.
#[derive(Debug)]
pub enum Effect {
    /// Nothing: it comes to what was known.
    Unchanged,
    /// It is known now, or known otherwise.
    Changed,
    /// It cannot be read, though it could be before, or is new.
    Unreadable(ObjectError),
}

impl Cache {
    /// A cache over a store, and where it tells the namespaces and names of ControllerRevisions that requests need.
    #[must_use]
    pub fn new(store: Store) -> (Self, mpsc::Receiver<(String, String)>) {
        let (wanted_revisions, wanted) = mpsc::channel(REVISIONS_AT_MOST);
        (Self { store: RwLock::new(store), wanted_revisions }, wanted)
    }

    /// What is known, for as long as the guard lives.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Store> {
        // A writer that panicked has left one object half taken in at most.
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in an object from its JSON text.
    pub fn apply(&self, kind: Kind, text: &str) -> Effect {
        let kinds = self.read().kinds();
        match Projection::read(kind, text, &kinds) {
            Ok(projection) if self.read().contains(&projection) => Effect::Unchanged,
            Ok(projection) => {
                self.write().upsert(projection, &kinds);
                Effect::Changed
            }
            Err(error) if self.read().is_unreadable(&error) => Effect::Unchanged,
            Err(error) => {
                self.write().note_unreadable(&error);
                Effect::Unreadable(error)
            }
        }
    }

    /// Takes an object out: it is gone.
    pub(super) fn remove(&self, kind: Kind, (namespace, name): &Key) {
        self.write().remove(kind, namespace, name);
    }

    /// Whether it is known what the object is, or that it is not there.
    pub(super) fn knows(&self, kind: Kind, (namespace, name): &Key) -> bool {
        self.read().knows(kind, namespace, name)
    }

    /// Notes that an object was looked for and is not there.
    pub(super) fn absent(&self, kind: Kind, (namespace, name): &Key) {
        self.write().absent(kind, namespace, name);
    }

    /// All objects of the kind are about to be seen anew.
    pub fn begin_sync(&self, kind: Kind) {
        self.write().begin_sync(kind);
    }

    /// All objects of the kind were seen: what was not is gone, and what is not there is absent.
    pub fn finish_sync(&self, kind: Kind) {
        let unseen = self.read().unseen(kind);
        self.remove_all(kind, &unseen);
        self.write().finish_sync(kind);
    }

    /// Nobody may look at objects of the kind any more.
    pub(super) fn clear(&self, kind: Kind) {
        self.write().make_incomplete(kind);
        let all = self.read().keys(kind);
        self.remove_all(kind, &all);
    }

    fn remove_all(&self, kind: Kind, keys: &[Key]) {
        for some in keys.chunks(AT_A_TIME) {
            let mut store = self.write();
            for (namespace, name) in some {
                store.remove(kind, namespace, name);
            }
        }
    }

    /// How many objects of a kind are known.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.read().count(kind)
    }

    /// Whether a user is one of KubeVirt's components.
    #[must_use]
    pub fn is_of_kubevirt(&self, user: &str) -> bool {
        self.read().is_of_kubevirt(user)
    }

    /// Where the sum of a guest's PCI ports would need the template that it was started from, it is fetched: the next
    /// request finds it.
    fn want_revision(&self, namespace: &str, facts: &Facts) {
        let Fact::Known(vmi) = &facts.vmi else { return };
        let needs = vmi.is_live() && vmi.boot.stamp == Stamp::Missing && facts.revision == Fact::Unknown;
        if let Some(name) = vmi.boot.revision.as_deref().filter(|_| needs) {
            // When so many are wanted that the queue is full, the next request asks again.
            let _ = self.wanted_revisions.try_send((namespace.to_owned(), name.to_owned()));
        }
    }
}

impl FactSource for Cache {
    fn facts_for(&self, change: &Change) -> Facts {
        let facts = self.read().facts_for(change);
        self.want_revision(change.subject.namespace, &facts);
        facts
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.read().facts_for_migration(start)
    }
}
