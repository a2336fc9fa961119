//! VirtualMachines.

use super::{Projected, StoredKind, own_key};
use crate::{
    api::{FieldError, read_object, vm::VirtualMachine},
    cluster::{
        persist_queue::ObjectRef,
        store::{Store, listing::AnyListing},
    },
    facts::{KubeVirt, Vm},
    k8s::Key,
};

pub(super) struct Vms;

impl StoredKind for Vms {
    fn read(&self, text: &str, _: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let object: VirtualMachine = read_object(text)?;
        let requests_persist = !object.status.interface_requests.is_empty();
        Ok((own_key(&object.metadata), Box::new(ProjectedVm { vm: Vm::from(&object), requests_persist })))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        store.guests.vms()
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        store.guests.vms_mut()
    }

    fn remove(&self, store: &mut Store, namespace: &str, name: &str) {
        store.guests.remove_vm(namespace, name);
        store.expanders.remove_owned_by(namespace, name);
        store.guests.vms_mut().remove(namespace, name);
        store.persist_queue.set(ObjectRef::vm(namespace, name), false);
    }
}

#[derive(Debug)]
struct ProjectedVm {
    vm: Vm,
    /// Whether its status asks to persist NICs into its template.
    requests_persist: bool,
}

impl Projected for ProjectedVm {
    fn is_stored(&self, store: &Store, (namespace, name): &Key) -> bool {
        store.guests.contains_vm(namespace, name, &self.vm)
            && store.requests_persist(|| ObjectRef::vm(namespace, name)) == self.requests_persist
    }

    fn put(self: Box<Self>, store: &mut Store, (namespace, name): &Key) {
        store.guests.upsert_vm(namespace, name, self.vm);
        store.persist_queue.set(ObjectRef::vm(namespace, name), self.requests_persist);
    }
}
