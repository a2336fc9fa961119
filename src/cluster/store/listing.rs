//! The objects of one kind by name, and what is known of those that are not among them.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{facts::Fact, k8s::Key};

/// The objects of one kind.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    namespaces: HashMap<Box<str>, HashMap<Box<str>, Entry<T>>>,
    /// Whether what is not in it does not exist.
    is_synced: bool,
    /// Counts how often the objects were listed anew.
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    state: State<T>,
    /// The last round in which the object was seen. An atomic, so that an object that is seen again unchanged can be
    /// marked by whoever may only read.
    generation: AtomicU32,
}

#[derive(Debug)]
enum State<T> {
    Known(T),
    /// It was asked for by name, and is not there.
    Absent,
    /// It is there, and cannot be read.
    Unreadable,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self { namespaces: HashMap::new(), is_synced: false, generation: 0 }
    }
}

impl<T> Listing<T> {
    fn entry(&self, namespace: &str, name: &str) -> Option<&Entry<T>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// The object of a name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Fact<&T> {
        match self.entry(namespace, name).map(|entry| &entry.state) {
            Some(State::Known(object)) => Fact::Known(object),
            Some(State::Absent) => Fact::Absent,
            None if self.is_synced => Fact::Absent,
            Some(State::Unreadable) | None => Fact::Unknown,
        }
    }

    /// Takes an object in and gives the one that it replaces.
    pub(crate) fn insert(&mut self, namespace: &str, name: &str, object: T) -> Option<T> {
        self.set(namespace, name, State::Known(object))
    }

    fn set(&mut self, namespace: &str, name: &str, state: State<T>) -> Option<T> {
        let entry = Entry { state, generation: AtomicU32::new(self.generation) };
        if let Some(there) = self.namespaces.get_mut(namespace).and_then(|names| names.get_mut(name)) {
            return known(std::mem::replace(there, entry));
        }
        self.namespaces.entry(namespace.into()).or_default().insert(name.into(), entry);
        None
    }

    /// Forgets all about a name, and gives the object that it had.
    pub(crate) fn take(&mut self, namespace: &str, name: &str) -> Option<T> {
        let names = self.namespaces.get_mut(namespace)?;
        let entry = names.remove(name);
        if names.is_empty() {
            self.namespaces.remove(namespace);
        }
        entry.and_then(known)
    }

    /// The objects with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, &T)> {
        let names = self.namespaces.iter().flat_map(|(namespace, names)| {
            names.iter().map(move |(name, entry)| (namespace.as_ref(), name.as_ref(), &entry.state))
        });
        names.filter_map(|(namespace, name, state)| match state {
            State::Known(object) => Some((namespace, name, object)),
            State::Absent | State::Unreadable => None,
        })
    }

    /// The objects of one namespace with their names.
    pub(crate) fn iter_in(&self, namespace: &str) -> impl Iterator<Item = (&str, &T)> {
        let names = self.namespaces.get(namespace).into_iter().flatten();
        names.filter_map(|(name, entry)| match &entry.state {
            State::Known(object) => Some((name.as_ref(), object)),
            State::Absent | State::Unreadable => None,
        })
    }

    /// Namespaces that have an object of the name.
    pub(crate) fn namespaces_with(&self, name: &str) -> impl Iterator<Item = &str> {
        let has = |names: &HashMap<Box<str>, Entry<T>>| {
            names.get(name).is_some_and(|entry| matches!(entry.state, State::Known(_)))
        };
        self.namespaces.iter().filter(move |(_, names)| has(names)).map(|(namespace, _)| namespace.as_ref())
    }

    /// Whether what is not in it does not exist.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Whether all objects are known.
    pub(crate) fn is_readable(&self) -> bool {
        self.is_synced && self.namespaces.values().all(is_readable)
    }

    /// Whether all objects of a namespace are known.
    pub(crate) fn is_whole_in(&self, namespace: &str) -> bool {
        self.is_synced && self.namespaces.get(namespace).is_none_or(is_readable)
    }
}

fn is_readable<T>(names: &HashMap<Box<str>, Entry<T>>) -> bool {
    !names.values().any(|entry| matches!(entry.state, State::Unreadable))
}

fn known<T>(entry: Entry<T>) -> Option<T> {
    match entry.state {
        State::Known(object) => Some(object),
        State::Absent | State::Unreadable => None,
    }
}

/// What can be done with a listing whatever its objects are.
pub(crate) trait AnyListing {
    /// How many objects are in it.
    fn count(&self) -> usize;
    /// Whether an object is known, or known not to be there.
    fn knows(&self, namespace: &str, name: &str) -> bool;
    /// Notes that an object was seen again in this round.
    fn mark(&self, namespace: &str, name: &str);
    /// Whether an object is there and cannot be read.
    fn is_unreadable(&self, namespace: &str, name: &str) -> bool;
    /// Notes that an object is there and cannot be read.
    fn note_unreadable(&mut self, namespace: &str, name: &str);
    /// Notes that an object is not there.
    fn note_absent(&mut self, namespace: &str, name: &str);
    /// Forgets all about a name.
    fn remove(&mut self, namespace: &str, name: &str);
    /// From now on every object is listed anew.
    fn begin_round(&mut self);
    /// From now on what is not in the listing does not exist, or is not known.
    fn set_complete(&mut self, is_synced: bool);
    /// Objects that were not seen in this round.
    fn unseen(&self) -> Vec<Key>;
    /// All objects.
    fn keys(&self) -> Vec<Key>;
}

impl<T> AnyListing for Listing<T> {
    fn count(&self) -> usize {
        self.namespaces.values().map(HashMap::len).sum()
    }

    fn knows(&self, namespace: &str, name: &str) -> bool {
        !matches!(self.get(namespace, name), Fact::Unknown)
    }

    fn mark(&self, namespace: &str, name: &str) {
        if let Some(entry) = self.entry(namespace, name) {
            entry.generation.store(self.generation, Ordering::Relaxed);
        }
    }

    fn is_unreadable(&self, namespace: &str, name: &str) -> bool {
        self.entry(namespace, name).is_some_and(|entry| matches!(entry.state, State::Unreadable))
    }

    fn note_unreadable(&mut self, namespace: &str, name: &str) {
        self.set(namespace, name, State::Unreadable);
    }

    fn note_absent(&mut self, namespace: &str, name: &str) {
        self.set(namespace, name, State::Absent);
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        self.take(namespace, name);
    }

    fn begin_round(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn set_complete(&mut self, is_synced: bool) {
        self.is_synced = is_synced;
    }

    fn unseen(&self) -> Vec<Key> {
        self.keys_where(|entry| entry.generation.load(Ordering::Relaxed) != self.generation)
    }

    fn keys(&self) -> Vec<Key> {
        self.keys_where(|_| true)
    }
}

impl<T> Listing<T> {
    fn keys_where(&self, is_wanted: impl Fn(&Entry<T>) -> bool) -> Vec<Key> {
        let mut keys = Vec::new();
        for (namespace, names) in &self.namespaces {
            let wanted = names.iter().filter(|(_, entry)| is_wanted(entry));
            keys.extend(wanted.map(|(name, _)| (namespace.to_string(), name.to_string())));
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_unknown_until_the_listing_is_complete() {
        let mut listing = Listing::default();
        listing.insert("demo", "a", 1);
        assert_eq!((listing.get("demo", "a"), listing.get("demo", "b")), (Fact::Known(&1), Fact::Unknown));
        listing.set_complete(true);
        assert_eq!(listing.get("demo", "b"), Fact::Absent);
        listing.set_complete(false);
        listing.note_absent("demo", "b");
        assert_eq!((listing.get("demo", "b"), listing.get("demo", "c")), (Fact::Absent, Fact::Unknown));
    }

    #[test]
    fn an_object_that_cannot_be_read_is_unknown_and_makes_only_its_namespace_incomplete() {
        let mut listing = Listing::default();
        listing.insert("demo", "a", 1);
        listing.set_complete(true);
        listing.note_unreadable("demo", "b");
        assert_eq!((listing.get("demo", "b"), listing.get("demo", "a")), (Fact::Unknown, Fact::Known(&1)));
        assert!(!listing.is_readable() && !listing.is_whole_in("demo") && listing.is_whole_in("other"));
        listing.insert("demo", "b", 2);
        assert!(listing.is_readable());
    }

    #[test]
    fn a_round_finds_what_it_did_not_see_whatever_rounds_were_broken_off() {
        let mut listing = Listing::default();
        for name in ["a", "b", "c"] {
            listing.insert("demo", name, 1);
        }
        for seen in ["a", "b"] {
            listing.begin_round();
            listing.mark("demo", seen);
        }
        listing.begin_round();
        listing.mark("demo", "c");
        listing.insert("demo", "d", 1);
        let mut unseen = listing.unseen();
        unseen.sort();
        assert_eq!(unseen, [("demo".to_owned(), "a".to_owned()), ("demo".to_owned(), "b".to_owned())]);
    }
}
