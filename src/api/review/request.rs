//! `request` of an AdmissionReview.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny},
};

use crate::api::{
    JsonObject, JsonText, Source, Text,
    cluster::NetworkAttachmentDefinition,
    fields::{Fields, ObjectOrNull},
    json::JsonError,
    metadata::{Annotations, Metadata},
    nullable,
    vm::{Migration, Pool, ReplicaSet, VirtualMachine},
    vmi::VirtualMachineInstance,
};

/// `request` of an AdmissionReview.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// `uid`: the response has to repeat it.
    pub uid: Text<'a>,
    /// `kind`: of the objects, after any conversion to the version that the webhook registered.
    pub kind: GroupVersionKind<'a>,
    /// `subResource`, such as `status`; empty for the resource itself.
    pub sub_resource: Text<'a>,
    /// `namespace`.
    pub namespace: Text<'a>,
    /// `name`: empty if the API server generates it (`generateName`).
    pub name: Text<'a>,
    /// `operation`.
    pub operation: Operation,
    /// `userInfo`.
    pub user_info: UserInfo<'a>,
    /// `dryRun`.
    pub dry_run: bool,
    /// `object`: the new state.
    pub object: Option<Object<'a>>,
    /// `oldObject`: the stored state.
    pub old_object: Option<Object<'a>>,
    /// Whether this is an update that changes neither spec nor annotations, as heartbeats do. The specs were compared
    /// as text then; they are empty in the objects, and so is the status of a VMI.
    pub is_unchanged: bool,
}

/// A group, version and kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GroupVersionKind<'a> {
    /// `group`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub group: Text<'a>,
    /// `version`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub version: Text<'a>,
    /// `kind`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub kind: Text<'a>,
}

/// `userInfo` of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UserInfo<'a> {
    /// `username`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub username: Text<'a>,
    /// `groups`: few requests need them, so they stay JSON text.
    #[serde(borrow)]
    groups: Option<JsonText<'a>>,
}

impl<'a> UserInfo<'a> {
    /// Reads `groups`; none if they are not a list of strings, or longer than any real list.
    #[must_use]
    pub fn groups(&self) -> Vec<Text<'a>> {
        /// The longest list in bytes: more than a thousand long names.
        const LENGTH: usize = 128 << 10;
        /// The most groups. Each is compared with each pattern of the settings.
        const COUNT: usize = 2048;
        let groups = self.groups.filter(|groups| groups.as_str().len() <= LENGTH);
        let groups: Vec<_> = groups.and_then(|groups| groups.read().ok()).unwrap_or_default();
        if groups.len() <= COUNT { groups } else { Vec::new() }
    }
}

/// `operation` of a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Operation {
    /// `CONNECT`: has no object that nicplug reads.
    Connect,
    /// `CREATE`.
    Create,
    /// `DELETE`: has no object, or none that matters.
    Delete,
    /// `UPDATE`.
    Update,
    /// Missing, or unknown to nicplug.
    #[default]
    Other,
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        let known = Self::ALL.into_iter().find(|operation| operation.as_str() == text.as_str());
        Ok(known.unwrap_or(Self::Other))
    }
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Create, Self::Delete, Self::Update, Self::Other];

    /// Returns the name in requests; `other` for an unknown operation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Create => "CREATE",
            Self::Delete => "DELETE",
            Self::Update => "UPDATE",
            Self::Other => "other",
        }
    }
}

/// The kinds whose objects nicplug reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ObjectKind {
    /// `VirtualMachineInstance`.
    Vmi,
    /// `VirtualMachineInstanceMigration`.
    Migration,
    /// `NetworkAttachmentDefinition`.
    Nad,
    /// Any other kind, whose objects are skipped.
    Other,
    /// `VirtualMachinePool`.
    Pool,
    /// `VirtualMachineInstanceReplicaSet`.
    ReplicaSet,
    /// `VirtualMachine`.
    Vm,
}

impl ObjectKind {
    /// The group and the name of each kind whose objects nicplug reads.
    const NAMES: [(&'static str, &'static str, Self); 6] = [
        ("kubevirt.io", "VirtualMachine", Self::Vm),
        ("kubevirt.io", "VirtualMachineInstance", Self::Vmi),
        ("kubevirt.io", "VirtualMachineInstanceMigration", Self::Migration),
        ("kubevirt.io", "VirtualMachineInstanceReplicaSet", Self::ReplicaSet),
        ("pool.kubevirt.io", "VirtualMachinePool", Self::Pool),
        ("k8s.cni.cncf.io", "NetworkAttachmentDefinition", Self::Nad),
    ];

    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Vmi, Self::Migration, Self::Nad, Self::Other, Self::Pool, Self::ReplicaSet, Self::Vm];

    /// Returns `kind` of such an object; `other` if its objects are skipped.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.names().map_or("other", |(_, name)| name)
    }

    /// Returns the kind for a kind of any version. Forks of KubeVirt serve it in a group of their own: the settings
    /// decide whether objects of another group than [`Self::group`] are judged.
    #[must_use]
    pub fn of(kind: &GroupVersionKind) -> Self {
        let name = kind.kind.as_str();
        Self::NAMES.iter().find(|(_, of, _)| *of == name).map_or(Self::Other, |&(.., kind)| kind)
    }

    /// Returns the group in which KubeVirt or Multus serves the kind; empty for [`Self::Other`].
    #[must_use]
    pub fn group(self) -> &'static str {
        self.names().map_or("", |(group, _)| group)
    }

    /// Returns the group and the name.
    fn names(self) -> Option<(&'static str, &'static str)> {
        Self::NAMES.iter().find(|(.., kind)| *kind == self).map(|&(group, name, _)| (group, name))
    }
}

/// An object of a request.
#[derive(Debug)]
pub enum Object<'a> {
    /// A VirtualMachineInstance.
    Vmi(Box<VirtualMachineInstance<'a>>),
    /// A VirtualMachineInstanceMigration.
    Migration(Box<Migration<'a>>),
    /// A NetworkAttachmentDefinition. Requests for it are rare, so it is not borrowed.
    Nad(Box<NetworkAttachmentDefinition>),
    /// An object of a kind that nicplug does not read.
    Other,
    /// A VirtualMachinePool.
    Pool(Box<Pool<'a>>),
    /// A VirtualMachineInstanceReplicaSet.
    ReplicaSet(Box<ReplicaSet<'a>>),
    /// A VirtualMachine.
    Vm(Box<VirtualMachine<'a>>),
}

impl Request<'_> {
    /// Returns the name of the object; empty if the API server has not generated it yet.
    #[must_use]
    pub fn object_name(&self) -> &str {
        if !self.name.is_empty() {
            return &self.name;
        }
        match &self.object {
            Some(Object::Nad(nad)) => &nad.metadata.name,
            Some(object) => object.metadata().map_or("", |metadata| &metadata.name),
            None => "",
        }
    }

    /// Reads the deferred objects, except if the request changes nothing.
    pub(super) fn resolve(&mut self) -> Result<(), JsonError> {
        self.is_unchanged = self.changes_nothing();
        if self.is_unchanged { Ok(()) } else { self.read_deferred() }
    }

    pub(super) fn read_deferred(&mut self) -> Result<(), JsonError> {
        for object in self.object.iter_mut().chain(&mut self.old_object) {
            object.read_deferred()?;
        }
        if let (Some(new), Some(old)) = (&mut self.object, &mut self.old_object) {
            old.resolve_from(new)?;
            new.resolve_from(old)?;
        }
        let mut objects = self.object.iter().chain(&self.old_object);
        objects.all(|object| matches!(object.source_of_spec(), Source::Own)).then_some(()).ok_or(JsonError)
    }

    fn changes_nothing(&self) -> bool {
        let (Some(new), Some(old)) = (&self.object, &self.old_object) else { return false };
        let is_update = self.operation == Operation::Update && self.sub_resource.is_empty();
        is_update && old.repeats_spec() && !new.repeats_spec() && new.has_same_annotations(old)
    }
}

impl<'a> Object<'a> {
    fn read_deferred(&mut self) -> Result<(), JsonError> {
        match self {
            Self::Vmi(vmi) => vmi.spec.read().and(vmi.status.read()),
            Self::Pool(pool) => pool.spec.virtual_machine_template.spec.read(),
            Self::Vm(vm) => vm.spec.read(),
            Self::Migration(_) | Self::Nad(_) | Self::Other | Self::ReplicaSet(_) => Ok(()),
        }
    }

    fn source_of_spec(&self) -> &Source<'a> {
        match self {
            Self::Vmi(vmi) => &vmi.spec.source,
            Self::Pool(pool) => &pool.spec.virtual_machine_template.spec.source,
            Self::Vm(vm) => &vm.spec.source,
            Self::Migration(_) | Self::Nad(_) | Self::Other | Self::ReplicaSet(_) => &Source::Own,
        }
    }

    fn repeats_spec(&self) -> bool {
        matches!(self.source_of_spec(), Source::Repeated)
    }

    fn resolve_from(&mut self, other: &mut Self) -> Result<(), JsonError> {
        match (self, other) {
            (Self::Vmi(own), Self::Vmi(other)) => own.spec.resolve_from(&mut other.spec),
            (Self::Pool(own), Self::Pool(other)) => {
                let other = &mut other.spec.virtual_machine_template.spec;
                own.spec.virtual_machine_template.spec.resolve_from(other)
            }
            (Self::Vm(own), Self::Vm(other)) => own.spec.resolve_from(&mut other.spec),
            _ => Ok(()),
        }
    }

    /// Whether both have the same annotations, and none whose mere presence requests a change.
    fn has_same_annotations(&self, other: &Self) -> bool {
        let (own, other) = (self.annotations(), other.annotations());
        own == other && own.is_none_or(|own| own.add_interfaces.is_none() && own.remove_interfaces.is_none())
    }

    fn annotations(&self) -> Option<&Annotations<'a>> {
        self.metadata()?.annotations.as_deref()
    }

    /// Returns the metadata of an object of KubeVirt.
    fn metadata(&self) -> Option<&Metadata<'a>> {
        match self {
            Self::Vmi(vmi) => Some(&vmi.metadata),
            Self::Migration(migration) => Some(&migration.metadata),
            Self::Nad(_) | Self::Other => None,
            Self::Pool(pool) => Some(&pool.metadata),
            Self::ReplicaSet(set) => Some(&set.metadata),
            Self::Vm(vm) => Some(&vm.metadata),
        }
    }
}

/// Reads an object of the kind; `None` for `null`.
impl<'de> DeserializeSeed<'de> for ObjectKind {
    type Value = Option<Object<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        fn boxed<'de, D, T>(deserializer: D, wrap: fn(Box<T>) -> Object<'de>) -> Result<Option<Object<'de>>, D::Error>
        where
            D: Deserializer<'de>,
            T: Fields<'de>,
        {
            // Filled in its box: a view is long.
            let mut view = Box::<T>::default();
            let is_present = ObjectOrNull(&mut *view).deserialize(deserializer)?;
            Ok(is_present.then(|| wrap(view)))
        }

        match self {
            Self::Vmi => boxed(deserializer, Object::Vmi),
            Self::Migration => boxed(deserializer, Object::Migration),
            Self::Nad => {
                let nad = Option::<JsonObject<_>>::deserialize(deserializer)?;
                Ok(nad.map(|JsonObject(nad)| Object::Nad(Box::new(nad))))
            }
            Self::Other => Option::<IgnoredAny>::deserialize(deserializer).map(|object| object.map(|_| Object::Other)),
            Self::Pool => boxed(deserializer, Object::Pool),
            Self::ReplicaSet => boxed(deserializer, Object::ReplicaSet),
            Self::Vm => boxed(deserializer, Object::Vm),
        }
    }
}
