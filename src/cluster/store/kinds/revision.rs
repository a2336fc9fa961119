//! ControllerRevisions of VMs: the devices of the templates from which guests were started.

use std::sync::Arc;

use super::{Projected, StoredKind, own_key};
use crate::{
    api::{FieldError, read_object, vm::ControllerRevision},
    cluster::store::{Store, listing::AnyListing},
    facts::{KubeVirt, boot},
    k8s::{Key, kind::Kind},
    pci::{self, Devices, NoRegistry},
};

pub(super) struct Revisions;

impl StoredKind for Revisions {
    fn read(&self, text: &str, registry: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let object: ControllerRevision = read_object(text)?;
        Ok((own_key(&object.metadata), Box::new(project(&object, text, registry))))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        &store.revisions
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        &mut store.revisions
    }
}

/// The devices of a template; `None` if it does not show all devices of the guest.
#[derive(Debug)]
struct ProjectedRevision {
    devices: Option<Devices>,
    text: Option<Box<str>>,
}

/// A ControllerRevision of a VM holds its spec. With an instancetype or a preference, the template does not show all
/// devices of the guest.
fn project(revision: &ControllerRevision, text: &str, registry: &KubeVirt) -> ProjectedRevision {
    let spec = &revision.data.spec;
    let unknown = ProjectedRevision { devices: None, text: None };
    if spec.instancetype.is_some() || spec.preference.is_some() {
        return unknown;
    }
    let placement = boot::pci_options(spec.template.metadata.annotations.as_ref()).for_template();
    let Ok(devices) = pci::count_devices(&spec.template.spec, &placement, registry) else { return unknown };
    let without_registry = pci::count_devices(&spec.template.spec, &placement, &NoRegistry);
    let depends_on_registry = without_registry.is_ok_and(|devices| !devices.notes.is_empty());
    ProjectedRevision { devices: Some(devices), text: depends_on_registry.then(|| text.into()) }
}

impl Projected for ProjectedRevision {
    fn is_stored(&self, _: &Store, _: &Key) -> bool {
        false
    }

    fn put(self: Box<Self>, store: &mut Store, key: &Key) {
        let (namespace, name) = key;
        store.set_dependent(Kind::Revision, key, self.text);
        match self.devices {
            Some(devices) => drop(store.revisions.insert(namespace, name, Arc::new(devices))),
            // It exists, and does not show the devices.
            None => store.mark_absent(Kind::Revision, namespace, name),
        }
    }

    fn dependent_text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}
