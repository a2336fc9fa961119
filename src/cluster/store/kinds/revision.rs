//! ControllerRevisions: of VMs, from which guests were started, and of the instancetypes and preferences of VMs.

use std::sync::Arc;

use serde::Deserialize;

use super::{Projected, StoredKind, own_key};
use crate::{
    api::{
        FieldError,
        instancetype::{self as api, StoredRevision},
        read_object,
        vm::ControllerRevision,
    },
    cluster::store::{Store, expanders::Revision, listing::AnyListing},
    facts::{Instancetype, KubeVirt, Preference, boot},
    k8s::{Key, kind::Kind},
    pci::{self, NoRegistry},
};

pub(super) struct Revisions;

impl StoredKind for Revisions {
    fn read(&self, text: &str, registry: &KubeVirt) -> Result<(Key, Box<dyn Projected>), FieldError> {
        let object: ControllerRevision = read_object(text)?;
        let stored: StoredRevision = read_object(text)?;
        let projected = match Kind::of(Kind::Instancetype.group(), &stored.data.kind) {
            Some(kind) => project_stored(kind, &object, &stored, text)?,
            None => project(&object, text, registry),
        };
        Ok((own_key(&object.metadata), Box::new(projected)))
    }

    fn listing<'s>(&self, store: &'s Store) -> &'s dyn AnyListing {
        &store.expanders.revisions
    }

    fn listing_mut<'s>(&self, store: &'s mut Store) -> &'s mut dyn AnyListing {
        &mut store.expanders.revisions
    }
}

/// Whether a ControllerRevision stores an instancetype or a preference.
pub(crate) fn stores_expander(text: &str) -> bool {
    let stored = read_object::<StoredRevision>(text).unwrap_or_default();
    Kind::of(Kind::Instancetype.group(), &stored.data.kind).is_some()
}

/// A ControllerRevision; without a revision if it shows nothing that a rule needs.
#[derive(Debug, Default)]
struct ProjectedRevision {
    revision: Option<Revision>,
    /// The JSON text, if the types of its devices depend on the KubeVirt resource.
    text: Option<Box<str>>,
    /// The VM that owns the revision of an instancetype or a preference.
    owner: Option<Box<str>>,
}

/// A ControllerRevision of a VM holds its spec. With an instancetype or a preference, the template alone does not show
/// the devices of the guest.
fn project(revision: &ControllerRevision, text: &str, registry: &KubeVirt) -> ProjectedRevision {
    let spec = &revision.data.spec;
    if spec.instancetype.is_some() || spec.preference.is_some() {
        return ProjectedRevision { revision: Some(Revision::Template(text.into())), ..ProjectedRevision::default() };
    }
    let options = boot::pci_options(spec.template.metadata.annotations.as_deref()).for_template();
    let Ok(devices) = pci::count_devices(&spec.template.spec, &options, registry) else {
        return ProjectedRevision::default();
    };
    let without_registry = pci::count_devices(&spec.template.spec, &options, &NoRegistry);
    let depends_on_registry = without_registry.is_ok_and(|devices| !devices.notes.is_empty());
    let text = depends_on_registry.then(|| text.into());
    ProjectedRevision { revision: Some(Revision::Devices(Arc::new(devices))), text, owner: None }
}

/// Reads the instancetype or the preference that a ControllerRevision stores.
fn project_stored(
    kind: Kind,
    revision: &ControllerRevision,
    stored: &StoredRevision,
    text: &str,
) -> Result<ProjectedRevision, FieldError> {
    let name = stored.object_name().into();
    let revision_of = match kind {
        Kind::Instancetype | Kind::ClusterInstancetype => {
            let Stored { data } = read_object::<Stored<api::Instancetype>>(text)?;
            Some(Revision::Instancetype(name, Arc::new(Instancetype::from(&data))))
        }
        Kind::Preference | Kind::ClusterPreference => {
            let Stored { data } = read_object::<Stored<api::Preference>>(text)?;
            Some(Revision::Preference(name, Arc::new(Preference::from(&data))))
        }
        _ => None,
    };
    let owner = revision.metadata.owner_references.iter().find(|owner| owner.kind.as_str() == Kind::Vm.kind());
    let owner = owner.map(|owner| owner.name.as_str().into());
    Ok(ProjectedRevision { revision: revision_of, text: None, owner })
}

/// A ControllerRevision, of which only the stored object is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored<T: Default> {
    #[serde(deserialize_with = "crate::api::object", bound(deserialize = "T: Deserialize<'de>"))]
    data: T,
}

impl Projected for ProjectedRevision {
    fn is_stored(&self, _: &Store, _: &Key) -> bool {
        false
    }

    fn put(self: Box<Self>, store: &mut Store, key: &Key) {
        let Self { revision, text, owner } = *self;
        store.set_dependent(Kind::Revision, key, text);
        match revision {
            Some(revision) => store.expanders.insert_revision(key, revision, owner.as_deref()),
            // It exists, and shows nothing that a rule needs.
            None => store.mark_absent(Kind::Revision, &key.0, &key.1),
        }
    }

    fn dependent_text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}
