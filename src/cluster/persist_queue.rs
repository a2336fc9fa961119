//! Which objects ask for something to be mirrored into a VM's template: noted by the watches as objects come and go,
//! waited for by the reconciler.
//!
//! A key stands for the question only. What there is to do is read from the cluster when its turn comes, so that a key
//! too many costs two reads and does no harm.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// An object that asks.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ObjectRef {
    /// A VirtualMachineInstance with the annotation `nicplug.io/persist`.
    Vmi {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A VirtualMachine with `status.interfaceRequests`.
    Vm {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl ObjectRef {
    /// A VirtualMachineInstance.
    #[must_use]
    pub fn vmi(namespace: &str, name: &str) -> Self {
        Self::Vmi { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// A VirtualMachine.
    #[must_use]
    pub fn vm(namespace: &str, name: &str) -> Self {
        Self::Vm { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// The objects that ask: one set, shared by all its clones.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    keys: Mutex<Keys>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Keys {
    /// Those that ask now.
    asking: BTreeSet<ObjectRef>,
    /// Those of them that nobody has looked at since they last changed.
    fresh: BTreeSet<ObjectRef>,
}

impl Pending {
    /// Notes what a watch has seen: whether the object asks, each time that it arrives or changes; and that it does not,
    /// when it has gone. Who asks and has changed is looked at again: a NIC may have come after its annotation.
    pub fn set(&self, key: ObjectRef, asks: bool) {
        let mut keys = self.keys();
        if asks {
            keys.asking.insert(key.clone());
            keys.fresh.insert(key);
            drop(keys);
            self.shared.news.notify_one();
        } else {
            keys.asking.remove(&key);
            keys.fresh.remove(&key);
        }
    }

    /// Whether the object asks.
    #[must_use]
    pub fn is_asking(&self, key: &ObjectRef) -> bool {
        self.keys().asking.contains(key)
    }

    /// How many objects ask.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys().asking.len()
    }

    /// Whether no object asks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys().asking.is_empty()
    }

    /// Makes all that ask fresh again, for who begins to look at them: what another has looked at may not be done.
    pub fn renew(&self) {
        let mut keys = self.keys();
        let Keys { asking, fresh } = &mut *keys;
        fresh.clone_from(asking);
        drop(keys);
        self.shared.news.notify_one();
    }

    /// Waits for the next fresh key and takes it. Dropping the future loses no key. Meant for one who waits at a time.
    pub async fn next(&self) -> ObjectRef {
        loop {
            if let Some(key) = self.keys().fresh.pop_first() {
                return key;
            }
            self.shared.news.notified().await;
        }
    }

    /// A set of keys has no state that a panic elsewhere could leave half made.
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Context};

    use futures_util::FutureExt;

    use super::*;

    fn key(name: &str) -> ObjectRef {
        ObjectRef::vmi("demo", name)
    }

    fn next(pending: &Pending) -> Option<ObjectRef> {
        pending.next().now_or_never()
    }

    #[test]
    fn each_key_is_taken_once_and_again_when_it_changes() {
        let pending = Pending::default();
        let watch = pending.clone();
        watch.set(key("b"), true);
        watch.set(key("a"), true);
        watch.set(key("a"), true);
        assert_eq!(next(&pending), Some(key("a")));
        assert_eq!(next(&pending), Some(key("b")));
        assert_eq!(next(&pending), None);
        assert_eq!(pending.len(), 2);
        watch.set(key("b"), true);
        assert_eq!(next(&pending), Some(key("b")));
    }

    #[test]
    fn what_no_longer_asks_is_not_taken() {
        let pending = Pending::default();
        pending.set(key("a"), true);
        pending.set(key("a"), false);
        assert_eq!(next(&pending), None);
        assert!(pending.is_empty() && !pending.is_asking(&key("a")));
        // A VM and a VMI of one name are two.
        pending.set(ObjectRef::vm("demo", "a"), true);
        assert!(!pending.is_asking(&key("a")));
    }

    #[test]
    fn a_new_leader_looks_at_all_that_ask() {
        let pending = Pending::default();
        pending.set(key("a"), true);
        assert_eq!(next(&pending), Some(key("a")));
        pending.renew();
        assert_eq!(next(&pending), Some(key("a")));
    }

    #[test]
    fn who_waits_is_woken_by_a_key() {
        let pending = Pending::default();
        let mut waits = pin!(pending.next());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        pending.set(key("a"), true);
        assert_eq!(waits.now_or_never(), Some(key("a")));
    }
}
