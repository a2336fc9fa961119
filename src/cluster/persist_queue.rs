//! The objects that ask to persist NICs into a VM's template: the watches add and remove them, the reconciler takes
//! them.
//!
//! The queue holds only names. The reconciler reads the objects from the API server, so an entry too many costs two
//! reads and does no harm.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The name of an object that may ask to persist NICs.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ObjectRef {
    /// A VirtualMachineInstance with the annotation `nicplug.io/persist`.
    Vmi {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
    },
    /// A VirtualMachine with `status.interfaceRequests`.
    Vm {
        /// The namespace.
        namespace: String,
        /// The name.
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

impl fmt::Display for ObjectRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmi { namespace, name } => write!(formatter, "VirtualMachineInstance {namespace}/{name}"),
            Self::Vm { namespace, name } => write!(formatter, "VirtualMachine {namespace}/{name}"),
        }
    }
}

/// The objects that ask to persist NICs: one set, shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct PersistQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    objects: Mutex<Objects>,
    has_due: Notify,
}

#[derive(Debug, Default)]
struct Objects {
    /// All that ask.
    asking: BTreeSet<ObjectRef>,
    /// Those of them that have changed since they were last taken.
    due: BTreeSet<ObjectRef>,
}

impl PersistQueue {
    /// Notes whether an object asks: at each change, and `false` when it is deleted. An object that asks is due again
    /// after each change: a NIC may have come after the annotation.
    pub fn set(&self, object: ObjectRef, asks: bool) {
        let mut objects = self.lock();
        if asks {
            objects.asking.insert(object.clone());
            objects.due.insert(object);
            drop(objects);
            self.shared.has_due.notify_one();
        } else {
            objects.asking.remove(&object);
            objects.due.remove(&object);
        }
    }

    /// Whether the object asks.
    #[must_use]
    pub fn contains(&self, object: &ObjectRef) -> bool {
        self.lock().asking.contains(object)
    }

    /// Returns how many objects ask.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().asking.len()
    }

    /// Whether no object asks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().asking.is_empty()
    }

    /// Makes all objects due, for a new leader: another replica may have taken them without success.
    pub fn requeue_all(&self) {
        let mut objects = self.lock();
        let Objects { asking, due } = &mut *objects;
        due.clone_from(asking);
        drop(objects);
        self.shared.has_due.notify_one();
    }

    /// Waits for the next object that is due and takes it. Dropping the future loses no object. Only one caller may
    /// wait.
    pub async fn next(&self) -> ObjectRef {
        loop {
            if let Some(object) = self.lock().due.pop_first() {
                return object;
            }
            self.shared.has_due.notified().await;
        }
    }

    /// A panic elsewhere leaves no set half changed.
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.shared.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Context};

    use futures_util::FutureExt;

    use super::*;

    fn vmi(name: &str) -> ObjectRef {
        ObjectRef::vmi("demo", name)
    }

    fn next(queue: &PersistQueue) -> Option<ObjectRef> {
        queue.next().now_or_never()
    }

    #[test]
    fn each_object_is_taken_once_and_again_after_a_change() {
        let queue = PersistQueue::default();
        let watch = queue.clone();
        watch.set(vmi("b"), true);
        watch.set(vmi("a"), true);
        watch.set(vmi("a"), true);
        assert_eq!(next(&queue), Some(vmi("a")));
        assert_eq!(next(&queue), Some(vmi("b")));
        assert_eq!(next(&queue), None);
        assert_eq!(queue.len(), 2);
        watch.set(vmi("b"), true);
        assert_eq!(next(&queue), Some(vmi("b")));
    }

    #[test]
    fn an_object_that_no_longer_asks_is_not_taken() {
        let queue = PersistQueue::default();
        queue.set(vmi("a"), true);
        queue.set(vmi("a"), false);
        assert_eq!(next(&queue), None);
        assert!(queue.is_empty() && !queue.contains(&vmi("a")));
        // A VM and a VMI of the same name are two objects.
        queue.set(ObjectRef::vm("demo", "a"), true);
        assert!(!queue.contains(&vmi("a")));
    }

    #[test]
    fn a_new_leader_takes_all_objects_that_ask() {
        let queue = PersistQueue::default();
        queue.set(vmi("a"), true);
        assert_eq!(next(&queue), Some(vmi("a")));
        queue.requeue_all();
        assert_eq!(next(&queue), Some(vmi("a")));
    }

    #[test]
    fn a_waiting_caller_is_woken_by_an_object() {
        let queue = PersistQueue::default();
        let mut waits = pin!(queue.next());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        queue.set(vmi("a"), true);
        assert_eq!(waits.now_or_never(), Some(vmi("a")));
    }
}
