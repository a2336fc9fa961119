//! VirtualMachine and the kinds that hold a template of a VM or VMI, or refer to one
//! (`kubevirt.io/v1`, `kubevirt.io/v1alpha3`, `pool.kubevirt.io`).

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{
        Error, MapAccess, Visitor,
        value::{BorrowedStrDeserializer, StrDeserializer},
    },
};

use super::{
    Lazy, Present, Shared, Text, WithNics,
    fields::{Fields, fields},
    guest::GuestSpec,
    list::List,
    metadata::Metadata,
    network::{Bindings, Interface, Multus, Network},
    sparse::empty,
    vmi::Condition,
};

/// `VirtualMachine`. The guest's NICs are in its template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachine<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: Shared<'a, VirtualMachineSpec<'a>>,
    /// `status`.
    pub status: VirtualMachineStatus<'a>,
}

fields! {
    VirtualMachine {
        "metadata" => metadata: object,
        "spec" => spec: shared,
        "status" => status: object,
    }
}

impl VirtualMachine<'_> {
    /// Whether KubeVirt stops its guest: the VM is halted or being deleted.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.spec.is_halted() || self.metadata.deletion_timestamp.is_some()
    }

    /// Whether its condition `RestartRequired` is true.
    #[must_use]
    pub fn requires_restart(&self) -> bool {
        let conditions = self.status.conditions.read().unwrap_or_default();
        conditions.iter().any(|condition| condition.kind.as_str() == "RestartRequired" && condition.is_true())
    }

    /// Whether KubeVirt expands the template with an instancetype or a preference.
    #[must_use]
    pub fn needs_expansion(&self) -> bool {
        self.spec.instancetype.is_some() || self.spec.preference.is_some()
    }
}

/// `spec` of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachineSpec<'a> {
    /// `template`: KubeVirt creates the VirtualMachineInstance from it.
    pub template: GuestTemplate<'a>,
    /// `instancetype`: sets CPU and memory, and may set devices.
    pub instancetype: Option<Box<Matcher<'a>>>,
    /// `preference`: may set what the template leaves out, such as machine type, NIC model and disk bus.
    pub preference: Option<Box<Matcher<'a>>>,
    /// `runStrategy`: `Always`, `Halted`, `Manual`, …
    pub run_strategy: Option<Text<'a>>,
    /// `running`: the older field for `runStrategy` Always or Halted.
    pub running: Option<bool>,
}

fields! {
    VirtualMachineSpec {
        "template" => template: object,
        "instancetype" => instancetype: optional,
        "preference" => preference: optional,
        "runStrategy" => run_strategy: value,
        "running" => running: value,
    }
}

empty!(VirtualMachineSpec);

impl<'a> WithNics<'a> for VirtualMachineSpec<'a> {
    fn nics_mut(&mut self) -> (&mut Vec<Interface<'a>>, &mut Vec<Network<'a>>) {
        self.template.spec.nics_mut()
    }
}

/// `instancetype` or `preference` of a VirtualMachine: names the object whose spec KubeVirt applies to the guest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Matcher<'a> {
    /// `name`; empty until KubeVirt has inferred it from a volume.
    pub name: Text<'a>,
    /// `kind`, as a kind or resource name in any case; empty for the cluster-wide kind.
    pub kind: Text<'a>,
    /// `revisionName`: the ControllerRevision that applies instead of the object.
    pub revision_name: Text<'a>,
}

fields! {
    Matcher {
        "name" => name: nullable,
        "kind" => kind: nullable,
        "revisionName" => revision_name: nullable,
    }
}

impl VirtualMachineSpec<'_> {
    /// Whether KubeVirt stops a running guest. The other strategies leave it running.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.run_strategy.as_deref() == Some("Halted") || self.running == Some(false)
    }
}

/// `status` of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualMachineStatus<'a> {
    /// `interfaceRequests[]`: requests to add or remove NICs, up to KubeVirt 1.0. Later versions have no such field,
    /// and their schema prunes it.
    pub interface_requests: Vec<InterfaceRequest<'a>>,
    /// `conditions[]`.
    pub conditions: Lazy<'a, List<Condition<'a>>>,
    /// `instancetypeRef`.
    pub instancetype_ref: Lazy<'a, Option<MatcherRef<'a>>>,
    /// `preferenceRef`.
    pub preference_ref: Lazy<'a, Option<MatcherRef<'a>>>,
}

fields! {
    VirtualMachineStatus {
        "interfaceRequests" => interface_requests: objects,
        "conditions" => conditions: value,
        "instancetypeRef" => instancetype_ref: value,
        "preferenceRef" => preference_ref: value,
    }
}

/// `status.instancetypeRef` or `status.preferenceRef`: what KubeVirt has stored for a [`Matcher`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MatcherRef<'a> {
    /// `controllerRevisionRef`.
    pub controller_revision_ref: ControllerRevisionRef<'a>,
}

fields! {
    MatcherRef {
        "controllerRevisionRef" => controller_revision_ref: object,
    }
}

/// `controllerRevisionRef` of a [`MatcherRef`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ControllerRevisionRef<'a> {
    /// `name`; empty if there is none yet.
    pub name: Text<'a>,
}

fields! {
    ControllerRevisionRef {
        "name" => name: nullable,
    }
}

/// `status.interfaceRequests[]`. One of the two fields is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceRequest<'a> {
    /// `addInterfaceOptions`.
    pub add_interface_options: Option<AddInterface<'a>>,
    /// `removeInterfaceOptions`.
    pub remove_interface_options: Option<RemoveInterface<'a>>,
}

impl InterfaceRequest<'_> {
    /// Returns the name of the NIC to add or to remove.
    pub(crate) fn name(&self) -> Option<&str> {
        let added = self.add_interface_options.as_ref().map(|options| &*options.interface.name);
        added.or_else(|| Some(&*self.remove_interface_options.as_ref()?.name))
    }
}

fields! {
    InterfaceRequest {
        "addInterfaceOptions" => add_interface_options: optional,
        "removeInterfaceOptions" => remove_interface_options: optional,
    }
}

/// `addInterfaceOptions`, as the NIC that KubeVirt creates from it: `bridge: {}` on a multus network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddInterface<'a> {
    /// The interface, with the requested name.
    pub interface: Interface<'a>,
    /// The network: `multus.networkName` is the `networkAttachmentDefinitionName`.
    pub network: Network<'a>,
}

impl<'de> Fields<'de> for AddInterface<'de> {
    fn fill<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error> {
        let mut options = AddInterfaceOptions::default();
        options.fill(map)?;
        let AddInterfaceOptions { name, network_name } = options;
        self.interface.bindings = Bindings { bridge: Some(Present), ..Bindings::default() };
        self.interface.name = name.clone();
        self.network.name = name;
        self.network.multus = Some(Multus { network_name, default: false });
        Ok(())
    }
}

/// `addInterfaceOptions`, as written.
#[derive(Default)]
struct AddInterfaceOptions<'a> {
    name: Text<'a>,
    network_name: Text<'a>,
}

fields! {
    AddInterfaceOptions {
        "name" => name: nullable,
        "networkAttachmentDefinitionName" => network_name: nullable,
    }
}

/// `removeInterfaceOptions`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RemoveInterface<'a> {
    /// `name`: of the NIC.
    pub name: Text<'a>,
}

fields! {
    RemoveInterface {
        "name" => name: nullable,
    }
}

/// `spec.template`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestTemplate<'a> {
    /// `metadata`: KubeVirt copies its annotations to the VirtualMachineInstance.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: GuestSpec<'a>,
}

fields! {
    GuestTemplate {
        "metadata" => metadata: object,
        "spec" => spec: object,
    }
}

/// `ControllerRevision` (`apps/v1`) of a VirtualMachine: the spec from which a VirtualMachineInstance was created.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControllerRevision<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `data`.
    pub data: ControllerRevisionData<'a>,
}

fields! {
    ControllerRevision {
        "metadata" => metadata: object,
        "data" => data: object,
    }
}

/// `data` of a ControllerRevision of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControllerRevisionData<'a> {
    /// `spec`: of the VirtualMachine.
    pub spec: VirtualMachineSpec<'a>,
}

fields! {
    ControllerRevisionData {
        "spec" => spec: object,
    }
}

/// `VirtualMachineInstanceReplicaSet`. Its template has the same type as that of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaSet<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: ReplicaSetSpec<'a>,
}

fields! {
    ReplicaSet {
        "metadata" => metadata: object,
        "spec" => spec: object,
    }
}

/// `spec` of a VirtualMachineInstanceReplicaSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaSetSpec<'a> {
    /// `replicas`: 1 if it is not set.
    pub replicas: Option<i64>,
    /// `template`.
    pub template: GuestTemplate<'a>,
}

fields! {
    ReplicaSetSpec {
        "replicas" => replicas: value,
        "template" => template: object,
    }
}

/// `VirtualMachinePool`. It holds the template of a VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: PoolSpec<'a>,
}

fields! {
    Pool {
        "metadata" => metadata: object,
        "spec" => spec: object,
    }
}

/// `spec` of a VirtualMachinePool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolSpec<'a> {
    /// `virtualMachineTemplate`: the VirtualMachine's metadata and spec.
    pub virtual_machine_template: VirtualMachine<'a>,
    /// `replicas`: 1 if it is not set.
    pub replicas: Option<i64>,
    /// `maxUnavailable`: the number of guests that may be restarted together, or a percentage; 100 % if it is not set.
    pub max_unavailable: Option<IntOrString<'a>>,
    /// `updateStrategy`: proactive if it is not set.
    pub update_strategy: UpdateStrategy,
}

fields! {
    PoolSpec {
        "virtualMachineTemplate" => virtual_machine_template: object,
        "replicas" => replicas: value,
        "maxUnavailable" => max_unavailable: value,
        "updateStrategy" => update_strategy: nullable,
    }
}

/// `updateStrategy` of a VirtualMachinePool. At most one field is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct UpdateStrategy {
    /// `unmanaged`: the pool does not change its VMs.
    pub unmanaged: Option<Present>,
    /// `opportunistic`: the pool changes its VMs, but restarts no guest.
    pub opportunistic: Option<Present>,
    /// `proactive`: the pool restarts its guests.
    pub proactive: Option<Proactive>,
}

impl UpdateStrategy {
    /// Whether selectors choose the guests that the pool restarts.
    #[must_use]
    pub fn selects_guests(&self) -> bool {
        let policy = self.proactive.as_ref().and_then(|proactive| proactive.selection_policy.as_ref());
        policy.is_some_and(|policy| policy.selectors.is_some())
    }
}

/// `updateStrategy.proactive` of a VirtualMachinePool.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Proactive {
    /// `selectionPolicy`.
    pub selection_policy: Option<SelectionPolicy>,
}

/// `updateStrategy.proactive.selectionPolicy` of a VirtualMachinePool.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct SelectionPolicy {
    /// `selectors`.
    pub selectors: Option<Present>,
}

/// A whole number or a text, such as a percentage.
#[derive(Clone, Debug, PartialEq)]
pub enum IntOrString<'a> {
    /// A number.
    Int(i64),
    /// A text.
    String(Text<'a>),
}

/// A derived one would copy a value of any other type, however large, before it reports the type.
impl<'de: 'a, 'a> Deserialize<'de> for IntOrString<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntOrStringVisitor;

        impl<'de> Visitor<'de> for IntOrStringVisitor {
            type Value = IntOrString<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number or a string")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(IntOrString::Int(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let number = i64::try_from(number);
                number.map(IntOrString::Int).map_err(|_| E::custom("the number is too large"))
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Text::deserialize(BorrowedStrDeserializer::new(text)).map(IntOrString::String)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Text::deserialize(StrDeserializer::new(text)).map(IntOrString::String)
            }
        }

        deserializer.deserialize_any(IntOrStringVisitor)
    }
}

/// `VirtualMachineInstanceMigration`: a request to migrate a VirtualMachineInstance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Migration<'a> {
    /// `metadata`.
    pub metadata: Metadata<'a>,
    /// `spec`.
    pub spec: MigrationSpec<'a>,
    /// `status`.
    pub status: MigrationStatus<'a>,
}

fields! {
    Migration {
        "metadata" => metadata: object,
        "spec" => spec: object,
        "status" => status: object,
    }
}

impl Migration<'_> {
    /// Whether the migration has ended, successfully or not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }
}

/// `spec` of a VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationSpec<'a> {
    /// `vmiName`: the VirtualMachineInstance, in the migration's namespace.
    pub vmi_name: Text<'a>,
}

fields! {
    MigrationSpec {
        "vmiName" => vmi_name: nullable,
    }
}

/// `status` of a VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MigrationStatus<'a> {
    /// `phase`: `Pending`, …, `Running`, `Succeeded`, `Failed`; empty at first.
    pub phase: Text<'a>,
}

fields! {
    MigrationStatus {
        "phase" => phase: nullable,
    }
}
