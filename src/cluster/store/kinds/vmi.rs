//! VirtualMachineInstances.

use super::{Projected, StoredKind, own_key};
use crate::{
    api::{FieldError, read_object, vmi::VirtualMachineInstance},
    cluster::{
        persist_queue::ObjectRef,
        store::{Store, listing::AnyListing},
    },
    facts::{KubeVirt, Vmi},
    k8s::{Key, kind::Kind},
};

pub(super) struct Vmis;

impl StoredKind for Vmis {
    fn read(&self, text: &str, registry: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let object: VirtualMachineInstance = read_object(text)?;
        let vmi = Vmi::of(&object, &object, registry);
        let text = vmi.boot.depends_on_registry.then(|| text.into());
        let annotations = object.metadata.annotations.as_ref();
        let requests_persist = annotations.is_some_and(|annotations| annotations.persist.is_some());
        Ok((own_key(&object.metadata), Box::new(ProjectedVmi { vmi, requests_persist, text })))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        store.guests.vmis()
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        store.guests.vmis_mut()
    }

    fn remove(&self, store: &mut Store, namespace: &str, name: &str) {
        remove_revision(store, namespace, name);
        store.guests.remove_vmi(namespace, name);
        store.guests.vmis_mut().remove(namespace, name);
        store.persist_queue.set(ObjectRef::vmi(namespace, name), false);
    }
}

#[derive(Debug)]
struct ProjectedVmi {
    vmi: Vmi,
    /// Whether an annotation asks to persist NICs into its VM.
    requests_persist: bool,
    /// The JSON text, if the types of its devices depend on the KubeVirt resource.
    text: Option<Box<str>>,
}

impl Projected for ProjectedVmi {
    fn is_stored(&self, store: &Store, (namespace, name): &Key) -> bool {
        store.guests.contains_vmi(namespace, name, &self.vmi)
            && store.requests_persist(|| ObjectRef::vmi(namespace, name)) == self.requests_persist
    }

    fn put(self: Box<Self>, store: &mut Store, key: &Key) {
        let (namespace, name) = key;
        let Self { vmi, requests_persist, text } = *self;
        let before = store.guests.vmi(namespace, name);
        if before.known().is_some_and(|before| before.boot.revision != vmi.boot.revision) {
            remove_revision(store, namespace, name);
        }
        store.guests.upsert_vmi(namespace, name, vmi);
        store.set_dependent(Kind::Vmi, key, text);
        store.persist_queue.set(ObjectRef::vmi(namespace, name), requests_persist);
    }

    fn dependent_text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

/// Removes the ControllerRevision of a guest: it describes one run of it.
fn remove_revision(store: &mut Store, namespace: &str, name: &str) {
    let revision = store.guests.vmi(namespace, name).known().and_then(|vmi| vmi.boot.revision.clone());
    if let Some(revision) = revision {
        store.remove(Kind::Revision, namespace, &revision);
    }
}
