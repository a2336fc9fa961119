//! Values that many objects have alike, kept once for all of them.
//!
//! Most guests of a cluster have their NICs, networks and devices in common with hundreds of others. A pool counts how
//! often each value is used, and forgets it with its last use: what it holds is what the objects of the moment have.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
};

/// The different values, and how many objects use each.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized>(HashMap<Arc<T>, usize>);

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash + ?Sized> Interner<T> {
    /// One more use of a value, which becomes the one that all who use it share.
    pub(crate) fn share(&mut self, value: &mut Arc<T>) {
        match self.0.entry(Arc::clone(value)) {
            Entry::Occupied(mut known) => {
                *known.get_mut() += 1;
                *value = Arc::clone(known.key());
            }
            Entry::Vacant(place) => drop(place.insert(1)),
        }
    }

    /// The value that is equal to this one, if anybody uses it.
    pub(crate) fn find(&self, value: &T) -> Option<Arc<T>> {
        self.0.get_key_value(value).map(|(shared, _)| Arc::clone(shared))
    }

    /// One use less of a value.
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
    fn equal_values_are_one() {
        let mut pool = Interner::<str>::default();
        let [mut one, mut same, mut other] = ["a", "a", "b"].map(Arc::from);
        for value in [&mut one, &mut same, &mut other] {
            pool.share(value);
        }
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert_eq!((pool.find("b"), pool.find("c")), (Some(other), None));
    }

    proptest! {
        #[test]
        fn a_pool_holds_what_is_used_and_nothing_else(steps in prop::collection::vec((0_u8..4, any::<bool>()), 0..64)) {
            let mut pool = Interner::default();
            let mut uses = BTreeMap::<u8, usize>::new();
            for (value, is_use) in steps {
                let uses = uses.entry(value).or_default();
                if is_use {
                    *uses += 1;
                    pool.share(&mut Arc::new(value));
                } else {
                    *uses = uses.saturating_sub(1);
                    pool.release(&value);
                }
            }
            uses.retain(|_, uses| *uses > 0);
            prop_assert_eq!(pool.len(), uses.len());
            for (value, uses) in uses {
                for _ in 0..uses {
                    prop_assert!(pool.find(&value).is_some());
                    pool.release(&value);
                }
                prop_assert!(pool.find(&value).is_none());
            }
            prop_assert_eq!(pool.len(), 0);
        }
    }
}
