//! Kinds on whose objects nothing in the store depends, except what their listing derives.

use std::fmt;

use super::{Projected, StoredKind};
use crate::{
    api::FieldError,
    cluster::store::{
        Store,
        listing::{AnyListing, Listing},
    },
    facts::{Fact, KubeVirt},
    k8s::Key,
};

/// Namespace and name of an object, and what is kept of it: `None` if no rule needs it.
type Read<T> = Result<(Key, Option<T>), FieldError>;

/// A kind of which the store keeps a `T` for each object that a rule may need, and derives a `D` from all of them.
pub(super) struct Plain<T: 'static, D: 'static = ()> {
    /// Reads an object from its JSON text.
    pub(super) read: fn(&str) -> Read<T>,
    /// Returns the objects.
    pub(super) listing: fn(&Store) -> &Listing<T, D>,
    /// Returns the objects.
    pub(super) listing_mut: fn(&mut Store) -> &mut Listing<T, D>,
}

impl<T: fmt::Debug + PartialEq + 'static, D: fmt::Debug + 'static> StoredKind for Plain<T, D> {
    fn read(&self, text: &str, _: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let (key, object) = (self.read)(text)?;
        let Self { listing, listing_mut, .. } = *self;
        Ok((key, Box::new(PlainObject { object, listing, listing_mut })))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        (self.listing)(store)
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        (self.listing_mut)(store)
    }
}

#[derive(Debug)]
struct PlainObject<T, D> {
    object: Option<T>,
    listing: fn(&Store) -> &Listing<T, D>,
    listing_mut: fn(&mut Store) -> &mut Listing<T, D>,
}

impl<T: fmt::Debug + PartialEq, D: fmt::Debug> Projected for PlainObject<T, D> {
    fn is_stored(&self, store: &Store, (namespace, name): &Key) -> bool {
        let listing = (self.listing)(store);
        match (&self.object, listing.get(namespace, name)) {
            (Some(object), Fact::Known(stored)) => object == stored,
            (Some(_), _) => false,
            (None, _) => !listing.has_entry(namespace, name),
        }
    }

    fn put(self: Box<Self>, store: &mut Store, (namespace, name): &Key) {
        let listing = (self.listing_mut)(store);
        match self.object {
            Some(object) => drop(listing.insert(namespace, name, object)),
            None => listing.remove(namespace, name),
        }
    }
}
