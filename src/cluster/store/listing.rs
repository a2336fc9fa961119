//! The objects of one kind by name, and whether an object that is missing here exists.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{facts::Fact, k8s::Key};

/// The objects of one kind, and a `D` that is derived from all of them.
#[derive(Debug)]
pub(crate) struct Listing<T, D = ()> {
    namespaces: HashMap<Box<str>, HashMap<Box<str>, Slot<T>>>,
    /// Made when it is needed; empty after an object has changed.
    derived: OnceLock<D>,
    /// Whether an object that is missing here does not exist.
    is_synced: bool,
    /// How often the objects were listed.
    generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    state: State<T>,
    /// The last list in which the object was seen. It is atomic, so that an unchanged object can be marked under a read
    /// lock.
    generation: AtomicU32,
}

#[derive(Debug)]
enum State<T> {
    Known(T),
    /// It was read by name and not found.
    Absent,
    /// It exists and cannot be read.
    Unreadable,
}

impl<T, D> Default for Listing<T, D> {
    fn default() -> Self {
        Self { namespaces: HashMap::new(), derived: OnceLock::new(), is_synced: false, generation: 0 }
    }
}

impl<T, D> Listing<T, D> {
    fn slot(&self, namespace: &str, name: &str) -> Option<&Slot<T>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// Returns the object of a name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Fact<&T> {
        match self.slot(namespace, name).map(|slot| &slot.state) {
            Some(State::Known(object)) => Fact::Known(object),
            Some(State::Absent) => Fact::Absent,
            None if self.is_synced => Fact::Absent,
            Some(State::Unreadable) | None => Fact::Unknown,
        }
    }

    /// Whether it has an entry of the name: an object, or that it does not exist or cannot be read.
    pub(crate) fn has_entry(&self, namespace: &str, name: &str) -> bool {
        self.slot(namespace, name).is_some()
    }

    /// Inserts an object and returns the one that it replaces.
    pub(crate) fn insert(&mut self, namespace: &str, name: &str, object: T) -> Option<T> {
        self.set(namespace, name, State::Known(object))
    }

    fn set(&mut self, namespace: &str, name: &str, state: State<T>) -> Option<T> {
        self.derived = OnceLock::new();
        let slot = Slot { state, generation: AtomicU32::new(self.generation) };
        if let Some(present) = self.namespaces.get_mut(namespace).and_then(|names| names.get_mut(name)) {
            return known(std::mem::replace(present, slot));
        }
        self.namespaces.entry(namespace.into()).or_default().insert(name.into(), slot);
        None
    }

    /// Removes a name and returns its object.
    pub(crate) fn take(&mut self, namespace: &str, name: &str) -> Option<T> {
        self.derived = OnceLock::new();
        let names = self.namespaces.get_mut(namespace)?;
        let slot = names.remove(name);
        if names.is_empty() {
            self.namespaces.remove(namespace);
        }
        slot.and_then(known)
    }

    /// Returns what a function derives from the objects. It is called once until an object changes.
    pub(crate) fn derived(&self, derive: impl FnOnce() -> D) -> &D {
        self.derived.get_or_init(derive)
    }

    /// Iterates over the objects with their namespaces and names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, &T)> {
        let names = self.namespaces.iter().flat_map(|(namespace, names)| {
            names.iter().map(move |(name, slot)| (namespace.as_ref(), name.as_ref(), &slot.state))
        });
        names.filter_map(|(namespace, name, state)| match state {
            State::Known(object) => Some((namespace, name, object)),
            State::Absent | State::Unreadable => None,
        })
    }

    /// Iterates over the objects of a namespace with their names.
    pub(crate) fn iter_in(&self, namespace: &str) -> impl Iterator<Item = (&str, &T)> {
        let names = self.namespaces.get(namespace).into_iter().flatten();
        names.filter_map(|(name, slot)| match &slot.state {
            State::Known(object) => Some((name.as_ref(), object)),
            State::Absent | State::Unreadable => None,
        })
    }

    /// Iterates over the namespaces that have an object of the name.
    pub(crate) fn namespaces_with(&self, name: &str) -> impl Iterator<Item = &str> {
        let has = |names: &HashMap<Box<str>, Slot<T>>| {
            names.get(name).is_some_and(|slot| matches!(slot.state, State::Known(_)))
        };
        self.namespaces.iter().filter(move |(_, names)| has(names)).map(|(namespace, _)| namespace.as_ref())
    }

    /// Whether an object that is missing here does not exist.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Whether all objects are known, and none is unreadable.
    pub(crate) fn is_readable(&self) -> bool {
        self.is_synced && self.namespaces.values().all(is_readable)
    }

    /// Whether all objects of a namespace are known, and none is unreadable.
    pub(crate) fn is_readable_in(&self, namespace: &str) -> bool {
        self.is_synced && self.namespaces.get(namespace).is_none_or(is_readable)
    }
}

fn is_readable<T>(names: &HashMap<Box<str>, Slot<T>>) -> bool {
    !names.values().any(|slot| matches!(slot.state, State::Unreadable))
}

fn known<T>(slot: Slot<T>) -> Option<T> {
    match slot.state {
        State::Known(object) => Some(object),
        State::Absent | State::Unreadable => None,
    }
}

/// A listing of objects of any type.
pub(crate) trait AnyListing {
    /// Returns how many objects are in it.
    fn count(&self) -> usize;
    /// Whether an object is known, or known to be absent.
    fn knows(&self, namespace: &str, name: &str) -> bool;
    /// Notes that an object was seen in the present list.
    fn mark_seen(&self, namespace: &str, name: &str);
    /// Whether an object exists and cannot be read.
    fn is_unreadable(&self, namespace: &str, name: &str) -> bool;
    /// Notes that an object exists and cannot be read.
    fn mark_unreadable(&mut self, namespace: &str, name: &str);
    /// Notes that an object does not exist.
    fn mark_absent(&mut self, namespace: &str, name: &str);
    /// Removes a name.
    fn remove(&mut self, namespace: &str, name: &str);
    /// Begins a new list.
    fn begin_sync(&mut self);
    /// Sets whether an object that is missing here does not exist, or is unknown.
    fn set_synced(&mut self, is_synced: bool);
    /// Returns the objects that were not seen in the present list.
    fn not_seen(&self) -> Vec<Key>;
    /// Returns all objects.
    fn keys(&self) -> Vec<Key>;
}

impl<T, D> AnyListing for Listing<T, D> {
    fn count(&self) -> usize {
        self.namespaces.values().map(HashMap::len).sum()
    }

    fn knows(&self, namespace: &str, name: &str) -> bool {
        !matches!(self.get(namespace, name), Fact::Unknown)
    }

    fn mark_seen(&self, namespace: &str, name: &str) {
        if let Some(slot) = self.slot(namespace, name) {
            slot.generation.store(self.generation, Ordering::Relaxed);
        }
    }

    fn is_unreadable(&self, namespace: &str, name: &str) -> bool {
        self.slot(namespace, name).is_some_and(|slot| matches!(slot.state, State::Unreadable))
    }

    fn mark_unreadable(&mut self, namespace: &str, name: &str) {
        self.set(namespace, name, State::Unreadable);
    }

    fn mark_absent(&mut self, namespace: &str, name: &str) {
        self.set(namespace, name, State::Absent);
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        self.take(namespace, name);
    }

    fn begin_sync(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn set_synced(&mut self, is_synced: bool) {
        self.is_synced = is_synced;
    }

    fn not_seen(&self) -> Vec<Key> {
        self.keys_where(|slot| slot.generation.load(Ordering::Relaxed) != self.generation)
    }

    fn keys(&self) -> Vec<Key> {
        self.keys_where(|_| true)
    }
}

impl<T, D> Listing<T, D> {
    fn keys_where(&self, is_wanted: impl Fn(&Slot<T>) -> bool) -> Vec<Key> {
        let mut keys = Vec::new();
        for (namespace, names) in &self.namespaces {
            let wanted = names.iter().filter(|(_, slot)| is_wanted(slot));
            keys.extend(wanted.map(|(name, _)| (namespace.to_string(), name.to_string())));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_object_is_unknown_until_the_listing_is_synced() {
        let mut listing = Listing::<i32>::default();
        listing.insert("demo", "a", 1);
        assert_eq!((listing.get("demo", "a"), listing.get("demo", "b")), (Fact::Known(&1), Fact::Unknown));
        listing.set_synced(true);
        assert_eq!(listing.get("demo", "b"), Fact::Absent);
        listing.set_synced(false);
        listing.mark_absent("demo", "b");
        assert_eq!((listing.get("demo", "b"), listing.get("demo", "c")), (Fact::Absent, Fact::Unknown));
    }

    #[test]
    fn an_unreadable_object_is_unknown_and_so_is_its_namespace() {
        let mut listing = Listing::<i32>::default();
        listing.insert("demo", "a", 1);
        listing.set_synced(true);
        listing.mark_unreadable("demo", "b");
        assert_eq!((listing.get("demo", "b"), listing.get("demo", "a")), (Fact::Unknown, Fact::Known(&1)));
        assert!(!listing.is_readable() && !listing.is_readable_in("demo") && listing.is_readable_in("other"));
        listing.insert("demo", "b", 2);
        assert!(listing.is_readable());
    }

    #[test]
    fn what_is_derived_is_made_again_after_each_change() {
        let mut listing = Listing::<i32, i32>::default();
        let sum = |listing: &Listing<i32, i32>| *listing.derived(|| listing.iter().map(|(.., object)| object).sum());
        assert_eq!(sum(&listing), 0);
        listing.insert("demo", "a", 1);
        listing.insert("demo", "b", 2);
        assert_eq!(sum(&listing), 3);
        listing.insert("demo", "b", 4);
        assert_eq!(sum(&listing), 5);
        listing.mark_unreadable("demo", "a");
        assert_eq!(sum(&listing), 4);
        listing.remove("demo", "b");
        assert_eq!(sum(&listing), 0);
    }

    #[test]
    fn a_list_finds_the_objects_that_it_lacks_even_after_broken_lists() {
        let mut listing = Listing::<i32>::default();
        for name in ["a", "b", "c"] {
            listing.insert("demo", name, 1);
        }
        for seen in ["a", "b"] {
            listing.begin_sync();
            listing.mark_seen("demo", seen);
        }
        listing.begin_sync();
        listing.mark_seen("demo", "c");
        listing.insert("demo", "d", 1);
        let mut not_seen = listing.not_seen();
        not_seen.sort();
        assert_eq!(not_seen, [("demo".to_owned(), "a".to_owned()), ("demo".to_owned(), "b".to_owned())]);
    }
}
