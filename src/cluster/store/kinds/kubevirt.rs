//! The KubeVirt resource, which defines the types of devices of all guests.

use std::sync::Arc;

use super::{Projected, StoredKind};
use crate::{
    api::{FieldError, cluster, read_object},
    cluster::store::{
        Store,
        listing::AnyListing,
        projection::{Projection, read_key},
    },
    facts::{Fact, KubeVirt},
    k8s::Key,
};

pub(super) struct KubeVirts;

impl StoredKind for KubeVirts {
    fn read(&self, text: &str, _: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let key = read_key(text)?;
        let resource: cluster::KubeVirt = read_object(text)?;
        Ok((key, Box::new(KubeVirt::from(resource))))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        &store.kubevirts
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        &mut store.kubevirts
    }

    fn remove(&self, store: &mut Store, namespace: &str, name: &str) {
        store.kubevirts.remove(namespace, name);
        choose(store);
    }
}

impl Projected for KubeVirt {
    fn is_stored(&self, store: &Store, (namespace, name): &Key) -> bool {
        store.kubevirts.get(namespace, name).known().is_some_and(|stored| ***stored == *self)
    }

    fn put(self: Box<Self>, store: &mut Store, (namespace, name): &Key) {
        store.kubevirts.insert(namespace, name, Arc::from(self));
        choose(store);
    }
}

/// Selects the KubeVirt resource that applies: a cluster has one, and of several the first by name is used.
fn choose(store: &mut Store) {
    let before = store.registry();
    let first = store.kubevirts.iter().min_by_key(|(namespace, name, _)| (*namespace, *name));
    store.kubevirt = first.map_or(Fact::Unknown, |(_, _, kubevirt)| Fact::Known(Arc::clone(kubevirt)));
    let now = store.registry();
    if before.registers_same_devices(&now) {
        return;
    }
    for ((kind, _), text) in store.dependent.clone() {
        // The text was readable before, so this does not fail.
        if let Ok(Projection { key, object, .. }) = Projection::read(kind, &text, &now) {
            object.put(store, &key);
        }
    }
}
