//! Nodes. Most nodes of a cluster have the same labels and resources, so these are kept once.

use std::sync::Arc;

use super::{Projected, StoredKind};
use crate::{
    api::{FieldError, cluster, read_object},
    cluster::store::{Store, listing::AnyListing},
    facts::{KubeVirt, nodes::Node},
    k8s::Key,
};

pub(super) struct NodeKind;

impl StoredKind for NodeKind {
    fn read(&self, text: &str, _: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let object: cluster::Node = read_object(text)?;
        let node = Node::from(&object);
        Ok(((object.metadata.namespace, object.metadata.name), Box::new(node)))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        &store.nodes
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        &mut store.nodes
    }

    fn remove(&self, store: &mut Store, _: &str, name: &str) {
        if let Some(node) = store.nodes.take("", name) {
            node.texts().for_each(|text| store.node_texts.release(text));
        }
        store.nodes.remove("", name);
    }
}

impl Projected for Node {
    fn is_stored(&self, store: &Store, (namespace, name): &Key) -> bool {
        store.nodes.get(namespace, name).known().is_some_and(|stored| ***stored == *self)
    }

    fn put(mut self: Box<Self>, store: &mut Store, (namespace, name): &Key) {
        self.texts_mut().for_each(|text| store.node_texts.intern(text));
        NodeKind.remove(store, namespace, name);
        store.nodes.insert("", name, Arc::from(self));
    }
}
