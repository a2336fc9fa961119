//! Equal values of many objects, stored once.
//!
//! Most guests of a cluster have the same NICs, networks and devices as hundreds of others. An interner counts the uses
//! of each value and removes it with the last one, so it holds only values of present objects.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
};

/// Distinct values, each with the number of its uses.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized>(HashMap<Arc<T>, usize>);

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash + ?Sized> Interner<T> {
    /// Adds a use of a value, and replaces it by the stored one that is equal.
    pub(crate) fn intern(&mut self, value: &mut Arc<T>) {
        match self.0.entry(Arc::clone(value)) {
            Entry::Occupied(mut known) => {
                *known.get_mut() += 1;
                *value = Arc::clone(known.key());
            }
            Entry::Vacant(entry) => drop(entry.insert(1)),
        }
    }

    /// Returns the stored value that is equal to this one.
    #[cfg(test)]
    pub(crate) fn find(&self, value: &T) -> Option<Arc<T>> {
        self.0.get_key_value(value).map(|(shared, _)| Arc::clone(shared))
    }

    /// Removes a use of a value.
    pub(crate) fn release(&mut self, value: &T) {
        if let Some(uses) = self.0.get_mut(value) {
            *uses -= 1;
            if *uses == 0 {
                self.0.remove(value);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_values_are_stored_once() {
        let mut interner = Interner::<str>::default();
        let [mut one, mut same, mut other] = ["a", "a", "b"].map(Arc::from);
        for value in [&mut one, &mut same, &mut other] {
            interner.intern(value);
        }
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert_eq!((interner.find("b"), interner.find("c")), (Some(other), None));
    }

    proptest! {
        #[test]
        fn an_interner_holds_only_values_in_use(steps in prop::collection::vec((0_u8..4, any::<bool>()), 0..64)) {
            let mut interner = Interner::default();
            let mut uses = BTreeMap::<u8, usize>::new();
            for (value, is_use) in steps {
                let uses = uses.entry(value).or_default();
                if is_use {
                    *uses += 1;
                    interner.intern(&mut Arc::new(value));
                } else {
                    *uses = uses.saturating_sub(1);
                    interner.release(&value);
                }
            }
            uses.retain(|_, uses| *uses > 0);
            prop_assert_eq!(interner.len(), uses.len());
            for (value, uses) in uses {
                for _ in 0..uses {
                    prop_assert!(interner.find(&value).is_some());
                    interner.release(&value);
                }
                prop_assert!(interner.find(&value).is_none());
            }
            prop_assert_eq!(interner.len(), 0);
        }
    }
}
