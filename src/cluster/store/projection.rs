//! The projection of an object to the few fields that the store keeps.
//!
//! A watch projects an object before it locks the store, and then compares: of a thousand updates of a guest in a day
//! only a handful change its facts.

use std::sync::Arc;

use serde::Deserialize;

use crate::{
    api::{
        FieldError,
        cluster::{self, KubeVirt as KubeVirtResource, NetworkAttachmentDefinition},
        instancetype::{self, StoredRevision},
        metadata::Metadata,
        read_object,
        vm::{ControllerRevision, Migration, VirtualMachine},
        vmi::VirtualMachineInstance,
    },
    facts::{
        Instancetype, KubeVirt, Preference, Quota, Vm, Vmi,
        attachment::AttachmentDaemon,
        boot,
        nad::{MultusConfig, Nad},
        nodes::Node,
    },
    k8s::{Key, kind::Kind},
    pci::{self, Devices, NoRegistry},
    settings::overrides::{Overrides, ParsedOverrides},
};

/// The ConfigMap that holds the configuration of a thick Multus.
pub(crate) const MULTUS_CONFIG: &str = "multus-daemon-config";

/// A field of an object has a wrong type.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name:?}: {field}: {message}")]
pub struct ObjectError {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// An object, reduced to the fields that the store keeps.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) key: Key,
    pub(crate) object: Projected,
}

/// The kept fields of an object, by its kind.
#[derive(Debug)]
pub(crate) enum Projected {
    /// The configuration of a thick Multus.
    ConfigMap(MultusConfig),
    /// `None` if it does not attach NICs.
    DaemonSet(Option<AttachmentDaemon>),
    Vmi(Box<ProjectedVmi>),
    KubeVirt(Box<KubeVirt>),
    Vm(Box<ProjectedVm>),
    /// The guest; `None` if the migration is over.
    Migration(Option<Arc<str>>),
    Nad(Nad),
    /// `None` if it does not change the enforcement of rules.
    Namespace(Option<Arc<ParsedOverrides>>),
    Node(Node),
    /// `None` if it does not limit the pods of every guest.
    ResourceQuota(Option<Quota>),
    /// Of a namespace or of the cluster, by the kind.
    Instancetype(Kind, Box<Instancetype>),
    /// Of a namespace or of the cluster, by the kind.
    Preference(Kind, Box<Preference>),
    /// `None` if it shows neither the devices of a guest nor what KubeVirt expands a VM with.
    Revision(Option<ProjectedRevision>),
    /// An object of the kind that no rule needs.
    Ignored(Kind),
}

#[derive(Debug)]
pub(crate) struct ProjectedVmi {
    pub(crate) vmi: Vmi,
    /// Whether an annotation asks to persist NICs into its VM.
    pub(crate) asks: bool,
    /// The JSON text, if the types of its devices depend on the KubeVirt resource.
    pub(crate) text: Option<Box<str>>,
}

#[derive(Debug)]
pub(crate) struct ProjectedVm {
    pub(crate) vm: Vm,
    /// Whether its status asks to persist NICs into its template.
    pub(crate) asks: bool,
}

/// A ControllerRevision.
#[derive(Debug)]
pub(crate) enum ProjectedRevision {
    /// The devices of the template from which a guest was started, and the text as for a VMI.
    Devices(Box<Devices>, Option<Box<str>>),
    /// The revision of a VM that KubeVirt expands, as JSON text.
    Template(Arc<str>),
    /// A stored instancetype, its name, and the VM that owns the revision.
    Instancetype { name: Box<str>, object: Box<Instancetype>, owner: Option<Box<str>> },
    /// A stored preference, its name, and the VM that owns the revision.
    Preference { name: Box<str>, object: Box<Preference>, owner: Option<Box<str>> },
}

impl Projection {
    /// Reads an object; `kinds` defines the types of its devices.
    ///
    /// # Errors
    /// A field has a wrong type.
    pub(crate) fn read(kind: Kind, text: &str, kinds: &KubeVirt) -> Result<Self, ObjectError> {
        project(kind, text, kinds).map_err(|FieldError { field, message }| {
            let (namespace, name) = key_of(text).unwrap_or_default();
            ObjectError { kind, namespace, name, field, message }
        })
    }

    /// Returns the JSON text, if the types of its devices depend on the KubeVirt resource.
    pub(crate) fn dependent_text(&self) -> Option<&str> {
        match &self.object {
            Projected::Vmi(vmi) => vmi.text.as_deref(),
            Projected::Revision(Some(ProjectedRevision::Devices(_, text))) => text.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.object {
            Projected::ConfigMap(_) => Kind::ConfigMap,
            Projected::DaemonSet(_) => Kind::DaemonSet,
            Projected::Vmi(_) => Kind::Vmi,
            Projected::KubeVirt(_) => Kind::KubeVirt,
            Projected::Vm(_) => Kind::Vm,
            Projected::Migration(_) => Kind::Migration,
            Projected::Nad(_) => Kind::Nad,
            Projected::Namespace(_) => Kind::Namespace,
            Projected::Node(_) => Kind::Node,
            Projected::ResourceQuota(_) => Kind::ResourceQuota,
            Projected::Revision(_) => Kind::Revision,
            Projected::Instancetype(kind, _) | Projected::Preference(kind, _) | Projected::Ignored(kind) => kind,
        }
    }
}

fn project(kind: Kind, text: &str, kinds: &KubeVirt) -> Result<Projection, FieldError> {
    Ok(match kind {
        Kind::ConfigMap => {
            let config: cluster::ConfigMap = read_object(text)?;
            let is_of_multus = config.metadata.name == MULTUS_CONFIG;
            let object = if is_of_multus {
                Projected::ConfigMap(MultusConfig::read(&config))
            } else {
                Projected::Ignored(Kind::ConfigMap)
            };
            Projection { key: (config.metadata.namespace, config.metadata.name), object }
        }
        Kind::DaemonSet => {
            let set: cluster::DaemonSet = read_object(text)?;
            let object = Projected::DaemonSet(AttachmentDaemon::of(&set));
            Projection { key: (set.metadata.namespace, set.metadata.name), object }
        }
        Kind::Vmi => {
            let vmi: VirtualMachineInstance = read_object(text)?;
            Projection { key: own_key(&vmi.metadata), object: Projected::Vmi(Box::new(project_vmi(&vmi, text, kinds))) }
        }
        Kind::KubeVirt => {
            let key = read_key(text)?;
            let resource: KubeVirtResource = read_object(text)?;
            Projection { key, object: Projected::KubeVirt(Box::new(KubeVirt::from(resource))) }
        }
        Kind::Vm => {
            let vm: VirtualMachine = read_object(text)?;
            Projection { key: own_key(&vm.metadata), object: Projected::Vm(Box::new(project_vm(&vm))) }
        }
        Kind::Migration => {
            let migration: Migration = read_object(text)?;
            let guest = (!migration.is_over()).then(|| migration.spec.vmi_name.as_str().into());
            Projection { key: own_key(&migration.metadata), object: Projected::Migration(guest) }
        }
        Kind::Nad => {
            let nad: NetworkAttachmentDefinition = read_object(text)?;
            let key = (nad.metadata.namespace.clone(), nad.metadata.name.clone());
            Projection { key, object: Projected::Nad(Nad::from(nad)) }
        }
        Kind::Namespace => {
            let namespace: cluster::Namespace = read_object(text)?;
            let cluster::NamespaceMetadata { name, annotations } = namespace.metadata;
            Projection {
                key: (String::new(), name),
                object: Projected::Namespace(annotations.rules.as_deref().and_then(overrides)),
            }
        }
        Kind::Node => {
            let node: cluster::Node = read_object(text)?;
            let object = Projected::Node(Node::from(&node));
            Projection { key: (node.metadata.namespace, node.metadata.name), object }
        }
        Kind::ResourceQuota => {
            let quota: cluster::ResourceQuota = read_object(text)?;
            let object = Projected::ResourceQuota(Quota::of(&quota));
            Projection { key: (quota.metadata.namespace, quota.metadata.name), object }
        }
        Kind::Instancetype | Kind::ClusterInstancetype => {
            let read: instancetype::Instancetype = read_object(text)?;
            let object = Projected::Instancetype(kind, Box::new(Instancetype::from(&read)));
            Projection { key: (read.metadata.namespace, read.metadata.name), object }
        }
        Kind::Preference | Kind::ClusterPreference => {
            let read: instancetype::Preference = read_object(text)?;
            let object = Projected::Preference(kind, Box::new(Preference::from(&read)));
            Projection { key: (read.metadata.namespace, read.metadata.name), object }
        }
        Kind::Revision => {
            let read: ControllerRevision = read_object(text)?;
            let stored: StoredRevision = read_object(text)?;
            let revision = match Kind::of(Kind::Instancetype.group(), &stored.data.kind) {
                Some(kind) => stored_object(kind, &read, &stored, text)?,
                None => revision(&read, text, kinds),
            };
            Projection { key: own_key(&read.metadata), object: Projected::Revision(revision) }
        }
    })
}

/// Returns the enforcement that an annotation asks for, if any.
fn overrides(annotation: &str) -> Option<Arc<ParsedOverrides>> {
    let annotated = Overrides::parse(annotation);
    let asks = annotated.as_ref().map_or(true, |overrides| !overrides.is_empty());
    asks.then(|| Arc::new(annotated))
}

fn project_vmi(object: &VirtualMachineInstance, text: &str, kinds: &KubeVirt) -> ProjectedVmi {
    let vmi = Vmi::of(object, object, kinds);
    let text = vmi.boot.depends_on_registry.then(|| text.into());
    let annotations = object.metadata.annotations.as_ref();
    ProjectedVmi { vmi, asks: annotations.is_some_and(|annotations| annotations.persist.is_some()), text }
}

fn project_vm(vm: &VirtualMachine) -> ProjectedVm {
    let asks = !vm.status.interface_requests.is_empty();
    ProjectedVm { vm: Vm::from(vm), asks }
}

/// Reads the instancetype or the preference that a ControllerRevision stores.
fn stored_object(
    kind: Kind,
    revision: &ControllerRevision,
    stored: &StoredRevision,
    text: &str,
) -> Result<Option<ProjectedRevision>, FieldError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Data<T: Default> {
        #[serde(deserialize_with = "crate::api::object", bound(deserialize = "T: Deserialize<'de>"))]
        data: T,
    }

    let name = stored.object_name().into();
    let owner = revision.metadata.owner_references.iter().find(|owner| owner.kind.as_str() == Kind::Vm.kind());
    let owner = owner.map(|owner| owner.name.as_str().into());
    Ok(match kind {
        Kind::Instancetype | Kind::ClusterInstancetype => {
            let Data { data } = read_object::<Data<instancetype::Instancetype>>(text)?;
            Some(ProjectedRevision::Instancetype { name, object: Box::new(Instancetype::from(&data)), owner })
        }
        Kind::Preference | Kind::ClusterPreference => {
            let Data { data } = read_object::<Data<instancetype::Preference>>(text)?;
            Some(ProjectedRevision::Preference { name, object: Box::new(Preference::from(&data)), owner })
        }
        _ => None,
    })
}

/// A ControllerRevision of a VM holds its spec. With an instancetype or a preference, the template alone does not show
/// the devices of the guest.
fn revision(revision: &ControllerRevision, text: &str, kinds: &KubeVirt) -> Option<ProjectedRevision> {
    let spec = &revision.data.spec;
    if spec.instancetype.is_some() || spec.preference.is_some() {
        return Some(ProjectedRevision::Template(text.into()));
    }
    let placement = boot::pci_options(spec.template.metadata.annotations.as_ref()).for_template();
    let devices = pci::count_devices(&spec.template.spec, &placement, kinds).ok()?;
    let without_kinds = pci::count_devices(&spec.template.spec, &placement, &NoRegistry);
    let depends_on_registry = without_kinds.is_ok_and(|devices| !devices.notes.is_empty());
    Some(ProjectedRevision::Devices(Box::new(devices), depends_on_registry.then(|| text.into())))
}

fn own_key(metadata: &Metadata) -> Key {
    (metadata.namespace.to_string(), metadata.name.to_string())
}

/// Returns namespace and name of an object of any kind, if they can be read.
pub(crate) fn key_of(text: &str) -> Option<Key> {
    read_key(text).ok()
}

fn read_key(text: &str) -> Result<Key, FieldError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Named<'a> {
        #[serde(borrow, deserialize_with = "crate::api::object")]
        metadata: Metadata<'a>,
    }

    let Named { metadata } = read_object(text)?;
    Ok(own_key(&metadata))
}
