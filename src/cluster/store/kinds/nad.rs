//! NetworkAttachmentDefinitions.

use std::sync::{Arc, OnceLock};

use super::{Projected, StoredKind};
use crate::{
    api::{FieldError, cluster::NetworkAttachmentDefinition, read_object},
    cluster::store::{Store, listing::AnyListing},
    facts::{KubeVirt, Nad},
    k8s::Key,
};

pub(super) struct NadKind;

impl StoredKind for NadKind {
    fn read(&self, text: &str, _: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let nad: NetworkAttachmentDefinition = read_object(text)?;
        let key = (nad.metadata.namespace.clone(), nad.metadata.name.clone());
        Ok((key, Box::new(Nad::from(nad))))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        &store.nads
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        &mut store.nads
    }

    fn remove(&self, store: &mut Store, namespace: &str, name: &str) {
        store.ovn_conflicts = OnceLock::new();
        store.nads.remove(namespace, name);
    }
}

impl Projected for Nad {
    fn is_stored(&self, store: &Store, (namespace, name): &Key) -> bool {
        store.nads.get(namespace, name).known().is_some_and(|stored| stored.as_ref() == &*self)
    }

    fn put(self: Box<Self>, store: &mut Store, (namespace, name): &Key) {
        store.ovn_conflicts = OnceLock::new();
        store.nads.insert(namespace, name, Arc::from(self));
    }
}
