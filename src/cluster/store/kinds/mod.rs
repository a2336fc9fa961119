//! The kinds of objects that the store keeps. The file of a kind says what is read of an object, what is kept of it, and
//! what else of the store depends on it. A new kind is one file, two lines here, and a field of the [`Store`].

mod config_map;
mod daemon_set;
mod instancetype;
mod kubevirt;
mod migration;
mod mutating_webhooks;
mod nad;
mod namespace;
mod node;
mod plain;
mod preference;
mod resource_quota;
mod revision;
mod vm;
mod vmi;

use std::fmt;

pub(crate) use self::{config_map::MULTUS_CONFIG, revision::stores_expander};
use super::{Store, listing::AnyListing};
use crate::{
    api::{FieldError, metadata::Metadata},
    facts::KubeVirt,
    k8s::{Key, kind::Kind},
};

/// Returns how the store keeps the objects of a kind.
pub(super) fn of(kind: Kind) -> &'static dyn StoredKind {
    match kind {
        Kind::ConfigMap => &config_map::KIND,
        Kind::DaemonSet => &daemon_set::KIND,
        Kind::Vmi => &vmi::Vmis,
        Kind::KubeVirt => &kubevirt::KubeVirts,
        Kind::Vm => &vm::Vms,
        Kind::Migration => &migration::KIND,
        Kind::Nad => &nad::KIND,
        Kind::Namespace => &namespace::KIND,
        Kind::Node => &node::NodeKind,
        Kind::ResourceQuota => &resource_quota::KIND,
        Kind::Instancetype => &instancetype::OF_NAMESPACE,
        Kind::ClusterInstancetype => &instancetype::OF_CLUSTER,
        Kind::Preference => &preference::OF_NAMESPACE,
        Kind::ClusterPreference => &preference::OF_CLUSTER,
        Kind::Revision => &revision::Revisions,
        Kind::MutatingWebhooks => &mutating_webhooks::KIND,
    }
}

/// A kind of objects that the store keeps.
pub(super) trait StoredKind: Sync {
    /// Reads an object from its JSON text; `registry` defines the types of its devices.
    ///
    /// # Errors
    /// A field has a wrong type.
    fn read(&self, text: &str, registry: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError>;

    /// Returns the objects.
    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing;

    /// Returns the objects.
    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing;

    /// Removes an object with all that depends on it.
    fn remove(&self, store: &mut Store, namespace: &str, name: &str) {
        self.listing_mut(store).remove(namespace, name);
    }
}

/// An object, reduced to the fields that the store keeps.
pub(super) trait Projected: fmt::Debug {
    /// Whether the store keeps the same already.
    fn is_stored(&self, store: &Store, key: &Key) -> bool;

    /// Inserts or replaces the object.
    fn put(self: Box<Self>, store: &mut Store, key: &Key);

    /// Returns the JSON text, if the types of its devices depend on the KubeVirt resource.
    fn dependent_text(&self) -> Option<&str> {
        None
    }
}

fn own_key(metadata: &Metadata) -> Key {
    (metadata.namespace.to_string(), metadata.name.to_string())
}
