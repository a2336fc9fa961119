//! The change that a request makes: the object, and the NICs that differ.

mod network;
mod nics;

use std::{ptr, sync::Arc};

pub use self::{
    network::NetworkChange,
    nics::{Indexed, Nic, NicDiff, NicsByName},
};
use crate::api::{
    self, Text,
    guest::GuestSpec,
    is_same,
    metadata::{Annotations, Metadata},
    review::{GroupVersionKind, Object, ObjectKind, Operation, Request, UserInfo},
    vm::{GuestTemplate, InterfaceRequest, Matcher, PoolSpec, VirtualMachine},
    vmi::VirtualMachineInstance,
};

/// The most NICs that nicplug evaluates. A q35 machine has slots for some 230 devices, so no guest can have more; but a
/// longer list could slow down rules that compare each NIC with each.
pub const MAX_NICS: usize = 255;

/// The most ports, port ranges, NTP servers and private DHCP options that all interfaces of a guest have together.
pub const MAX_OPTIONS: usize = api::NESTED_AT_MOST;

/// The longest name of a NIC or of its network that nicplug evaluates, in bytes. KubeVirt's schema has no bound, and the
/// time of rules that compare each name with each grows with their length.
pub const MAX_NAME: usize = 1024;

/// A request that may change the NICs of a guest, or of a template for guests.
#[derive(Debug)]
pub struct Change<'r> {
    /// The object that the request names.
    pub subject: Subject<'r>,
    /// The name of the user.
    pub user: &'r str,
    user_info: &'r UserInfo<'r>,
    /// Whether this is a dry run, which stores nothing.
    pub dry_run: bool,
    /// The stored state; `None` if the request creates the object.
    pub before: Option<ObjectView<'r>>,
    /// The new state.
    pub after: ObjectView<'r>,
    /// The NICs that differ.
    pub nics: NicDiff<'r>,
    /// All NICs of the new object by name; `None` if the lists of NICs are unchanged, because no rule needs them then.
    by_name: Option<NicsByName<'r>>,
    /// `status.interfaceRequests[]` of a VM, if the request changes the status and adds entries. Then [`Self::nics`]
    /// holds the requested NICs, and their indices are those of the entries.
    pub requests: Option<StatusRequests<'r>>,
    /// The namespace where, by the settings, Multus looks for a default network without one.
    pub multus_namespace: Option<Arc<str>>,
}

impl<'r> Change<'r> {
    /// Returns the change of a request; `None` if there is nothing to evaluate: another kind, a subresource, a
    /// deletion, a connection, or a missing object. Of all subresources only the status of a VM can request NICs.
    #[must_use]
    pub fn of(request: &'r Request<'r>) -> Option<Self> {
        let requests = match request.sub_resource.as_str() {
            "" => None,
            "status" => Some(status_requests(request)?),
            _ => return None,
        };
        let after = ObjectView::of(request.object.as_ref()?)?;
        let before = match request.operation {
            Operation::Create => None,
            Operation::Update => Some(ObjectView::of(request.old_object.as_ref()?)?),
            Operation::Connect | Operation::Delete | Operation::Other => return None,
        };
        let name = if request.name.is_empty() { &after.metadata.name } else { &request.name };
        let kind = ObjectKind::of(&request.kind);
        let subject = Subject { kind, gvk: &request.kind, namespace: &request.namespace, name };
        let before_guest = before.map(|view| view.guest);
        let is_as_before = before_guest.is_some_and(|guest| guest.has_same_nics(after.guest));
        let by_name = (!is_as_before).then(|| NicsByName::of(after.guest));
        let nics = match (requests, &by_name) {
            (Some(requests), _) => NicDiff::requested(requests, &after),
            (None, Some(new)) => NicDiff::of(before_guest, new),
            (None, None) => NicDiff::default(),
        };
        let user_info = &request.user_info;
        let (user, dry_run, multus_namespace) = (&*user_info.username, request.dry_run, None);
        Some(Self { subject, user, user_info, dry_run, before, after, nics, by_name, requests, multus_namespace })
    }

    /// Reads the groups of the user.
    #[must_use]
    pub fn groups(&self) -> Vec<Text<'r>> {
        self.user_info.groups()
    }

    /// Whether the request changes nothing that a rule or mutation reads, as the heartbeat of a VMI.
    #[must_use]
    pub fn is_irrelevant(&self) -> bool {
        let Some(before) = &self.before else { return false };
        self.nics.is_empty()
            && is_same(before.guest, self.after.guest)
            && before.metadata.annotations == self.after.metadata.annotations
            && before.guest_metadata.annotations == self.after.guest_metadata.annotations
            && before.matchers() == self.after.matchers()
            && !self.requests_nics()
            // Entries beyond the bound are not compared, unless the guests are one text.
            && (ptr::eq(before.guest, self.after.guest) || self.oversized_list().is_none())
    }

    /// Whether an annotation of the VM requests to add or remove NICs, even if it is unchanged, or a new entry of its
    /// status does.
    #[must_use]
    pub fn requests_nics(&self) -> bool {
        if self.requests.is_some() {
            return true;
        }
        let asks = |has: &Annotations| has.add_interfaces.is_some() || has.remove_interfaces.is_some();
        let is_vm = self.subject.kind == ObjectKind::Vm;
        is_vm && self.after.metadata.annotations.as_deref().is_some_and(asks)
    }

    /// Whether the change sets `nicplug.io/unplug` of a VM.
    #[must_use]
    pub fn sets_unplug(&self) -> bool {
        let written = |view: &ObjectView<'r>| view.annotation(|annotations| annotations.unplug.as_deref());
        let after = written(&self.after);
        self.subject.kind == ObjectKind::Vm && after.is_some() && self.before.as_ref().and_then(written) != after
    }

    /// Whether a VM or VMI has an annotation of nicplug that nicplug does not know, or the one whose value may be wrong.
    #[must_use]
    pub fn may_misspell(&self) -> bool {
        let is_suspect = |has: &Annotations| has.apply.is_some() || !has.unknown.is_empty();
        let views = [self.after.metadata, self.after.guest_metadata];
        matches!(self.subject.kind, ObjectKind::Vm | ObjectKind::Vmi)
            && views.into_iter().any(|metadata| metadata.annotations.as_deref().is_some_and(is_suspect))
    }

    /// Whether the object has `nicplug.io/persist`, and the change sets it or adds a NIC.
    #[must_use]
    pub fn requests_persist(&self) -> bool {
        let written = |view: &ObjectView<'r>| view.annotation(|annotations| annotations.persist.as_deref());
        let is_guest = matches!(self.subject.kind, ObjectKind::Vm | ObjectKind::Vmi);
        let (before, after) = (self.before.as_ref().and_then(written), written(&self.after));
        is_guest && after.is_some() && (before != after || !self.nics.added.is_empty())
    }

    /// Whether the update of a VM or VMI changes the disks of its guest.
    #[must_use]
    pub fn changes_disks(&self) -> bool {
        let disks = |view: &ObjectView<'r>| view.guest.domain.devices.disks;
        matches!(self.subject.kind, ObjectKind::Vm | ObjectKind::Vmi)
            && self.before.as_ref().is_some_and(|before| disks(before) != disks(&self.after))
    }

    /// Whether a VM changes in a field that changes NICs of the guest without being part of one.
    #[must_use]
    pub fn changes_all_nics(&self) -> bool {
        let fields = |view: &ObjectView<'r>| {
            let devices = &view.guest.domain.devices;
            (devices.network_interface_multiqueue, devices.autoattach_pod_interface)
        };
        let differs = |before: &ObjectView<'r>| fields(before) != fields(&self.after);
        self.after.vm.is_some() && (self.before.as_ref().is_some_and(differs) || self.changes_preference())
    }

    /// Whether the update of a VM names another preference, which may change every NIC.
    #[must_use]
    pub fn changes_preference(&self) -> bool {
        let preference = |view: &ObjectView<'r>| view.matchers()[1].map(|matcher| (&matcher.name, &matcher.kind));
        self.before.as_ref().is_some_and(|before| preference(before) != preference(&self.after))
    }

    /// Returns a part of the object that is larger than nicplug evaluates: a list, in the new or the stored object, or
    /// a name, in the new one.
    #[must_use]
    pub fn oversized(&self) -> Option<Oversized> {
        self.oversized_list().or_else(|| self.oversized_name())
    }

    fn oversized_name(&self) -> Option<Oversized> {
        let is_long = |name: &str| name.len() > MAX_NAME;
        if let Some(requests) = self.requests {
            let index = requests.all.iter().position(|request| {
                let options = request.add_interface_options.as_ref();
                let network = options.and_then(|options| options.network.multus.as_ref());
                request.name().is_some_and(is_long) || network.is_some_and(|multus| is_long(&multus.network_name))
            })?;
            return Some(Oversized::Name(requests.field(index)));
        }
        let guest = self.after.guest;
        if let Some(index) = guest.interfaces().iter().position(|interface| is_long(&interface.name)) {
            return Some(Oversized::Name(format!("{}.name", self.interface_field(index))));
        }
        let index = guest.networks.iter().position(|network| {
            is_long(&network.name) || network.multus.as_ref().is_some_and(|multus| is_long(&multus.network_name))
        })?;
        Some(Oversized::Name(self.network_field(index)))
    }

    fn oversized_list(&self) -> Option<Oversized> {
        if self.requests.is_some_and(|requests| requests.all.len() > MAX_NICS) {
            return Some(Oversized::Nics("status.interfaceRequests".to_owned()));
        }
        [Some(self.after), self.before].into_iter().flatten().find_map(|view| {
            let (guest, path) = (view.guest, view.path);
            if guest.interfaces().len() > MAX_NICS {
                Some(Oversized::Nics(format!("{path}.domain.devices.interfaces")))
            } else if guest.networks.len() > MAX_NICS {
                Some(Oversized::Nics(format!("{path}.networks")))
            } else {
                let index = guest.interfaces().iter().position(|interface| interface.options.has_too_many_entries)?;
                Some(Oversized::Options(format!("{path}.domain.devices.interfaces[{index}]")))
            }
        })
    }

    /// Returns all NICs of the new object by name; none unless the request [changes NICs](Self::changes_nics).
    pub fn nics_by_name(&self) -> impl Iterator<Item = &Nic<'r>> {
        self.by_name.iter().flatten()
    }

    /// Returns a NIC of the new object; `None` unless the request [changes NICs](Self::changes_nics).
    #[must_use]
    pub fn nic(&self, name: &str) -> Option<&Nic<'r>> {
        self.by_name.as_ref()?.get(name)
    }

    /// Whether the lists of NICs are new or changed, so that rules have to check them.
    #[must_use]
    pub fn changes_nics(&self) -> bool {
        self.by_name.is_some()
    }

    /// Returns the field of an interface: `….domain.devices.interfaces[index]`, or that of its status request.
    #[must_use]
    pub fn interface_field(&self, index: usize) -> String {
        if let Some(requests) = self.requests {
            return requests.field(index);
        }
        format!("{}.domain.devices.interfaces[{index}]", self.after.path)
    }

    /// Returns the field of a network: `….networks[index]`, or that of its status request.
    #[must_use]
    pub fn network_field(&self, index: usize) -> String {
        match self.requests {
            Some(requests) => requests.field(index),
            None => format!("{}.networks[{index}]", self.after.path),
        }
    }

    /// Returns the field that names the NetworkAttachmentDefinition of a network.
    #[must_use]
    pub fn network_name_field(&self, index: usize) -> String {
        let key = if self.requests.is_some() { "networkAttachmentDefinitionName" } else { "multus.networkName" };
        format!("{}.{key}", self.network_field(index))
    }

    /// Returns the field that removes a NIC: its state, or the name in the status request.
    #[must_use]
    pub fn absent_field(&self, nic: &Nic) -> String {
        format!("{}.{}", self.nic_field(nic), if self.requests.is_some() { "name" } else { "state" })
    }

    /// Returns the name of the NIC in whose entry of the new object a field is; `None` for any other field.
    #[must_use]
    pub fn nic_name_at(&self, field: &str) -> Option<&'r str> {
        let entry = |field: &str| field.split_once(']')?.0.parse::<usize>().ok();
        if let Some(requests) = self.requests {
            return requests.all.get(entry(field.strip_prefix("status.interfaceRequests[")?)?)?.name();
        }
        let field = field.strip_prefix(self.after.path)?;
        let guest = self.after.guest;
        if let Some(index) = field.strip_prefix(".networks[") {
            return guest.networks.get(entry(index)?).map(|network| network.name.as_str());
        }
        let index = entry(field.strip_prefix(".domain.devices.interfaces[")?)?;
        guest.interfaces().get(index).map(|interface| interface.name.as_str())
    }

    /// Returns the field of a NIC: that of its interface, else that of its network.
    #[must_use]
    pub fn nic_field(&self, nic: &Nic) -> String {
        match (nic.interface, nic.network) {
            (Some(entry), _) => self.interface_field(entry.index),
            (None, Some(entry)) => self.network_field(entry.index),
            (None, None) => format!("{}.domain.devices.interfaces", self.after.path),
        }
    }
}

/// A part of an object that is larger than nicplug evaluates, and its field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Oversized {
    /// A list of NICs with more than [`MAX_NICS`] entries.
    Nics(String),
    /// The interface from which on ports and DHCP options are too many.
    Options(String),
    /// A name of more than [`MAX_NAME`] bytes.
    Name(String),
}

/// The object that a request names.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'r> {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its group, version and kind in the request.
    pub gvk: &'r GroupVersionKind<'r>,
    /// Its namespace.
    pub namespace: &'r str,
    /// Its name; empty if the API server generates it.
    pub name: &'r str,
}

/// The parts of an object that rules read, for any kind: the guest, and where the object holds it.
#[derive(Clone, Copy, Debug)]
pub struct ObjectView<'r> {
    /// `metadata` of the object.
    pub metadata: &'r Metadata<'r>,
    /// `metadata` of the guest: for a VM that of the template, for a VMI its own.
    pub guest_metadata: &'r Metadata<'r>,
    /// The specification of the guest.
    pub guest: &'r GuestSpec<'r>,
    /// The path of the guest in the object, such as `spec.template.spec`.
    pub path: &'static str,
    /// The VMI, if the object is one.
    pub vmi: Option<&'r VirtualMachineInstance<'r>>,
    /// The VM, if the object is one.
    pub vm: Option<&'r VirtualMachine<'r>>,
    /// `spec.replicas` of a pool or replica set; `None` if it is not set.
    pub replicas: Option<i64>,
    /// The pool, if the object is one.
    pub pool: Option<&'r PoolSpec<'r>>,
}

impl<'r> ObjectView<'r> {
    fn of(object: &'r Object<'r>) -> Option<Self> {
        Some(match object {
            Object::Vmi(vmi) => {
                Self { vmi: Some(vmi), ..Self::with_guest(&vmi.metadata, &vmi.metadata, &vmi.spec, "spec") }
            }
            Object::Vm(vm) => {
                Self { vm: Some(vm), ..Self::with_template(&vm.metadata, &vm.spec.template, "spec.template.spec") }
            }
            Object::ReplicaSet(set) => Self {
                replicas: set.spec.replicas,
                ..Self::with_template(&set.metadata, &set.spec.template, "spec.template.spec")
            },
            Object::Pool(pool) => {
                let vm = &pool.spec.virtual_machine_template;
                let path = "spec.virtualMachineTemplate.spec.template.spec";
                Self {
                    replicas: pool.spec.replicas,
                    pool: Some(&pool.spec),
                    ..Self::with_template(&pool.metadata, &vm.spec.template, path)
                }
            }
            Object::Migration(_) | Object::Nad(_) | Object::Other => return None,
        })
    }

    fn with_template(metadata: &'r Metadata<'r>, template: &'r GuestTemplate<'r>, path: &'static str) -> Self {
        Self::with_guest(metadata, &template.metadata, &template.spec, path)
    }

    fn with_guest(
        metadata: &'r Metadata<'r>,
        guest_metadata: &'r Metadata<'r>,
        guest: &'r GuestSpec<'r>,
        path: &'static str,
    ) -> Self {
        Self { metadata, guest_metadata, guest, path, vmi: None, vm: None, replicas: None, pool: None }
    }

    /// Returns the VM that KubeVirt expands: the object, or the template of a pool.
    #[must_use]
    pub fn expanded_vm(&self) -> Option<&'r VirtualMachine<'r>> {
        self.vm.or(self.pool.map(|pool| &pool.virtual_machine_template))
    }

    /// Whether KubeVirt expands the template with an instancetype or a preference.
    #[must_use]
    pub fn needs_expansion(&self) -> bool {
        self.expanded_vm().is_some_and(VirtualMachine::needs_expansion)
    }

    /// Returns what names the instancetype and the preference.
    #[must_use]
    pub fn matchers(&self) -> [Option<&'r Matcher<'r>>; 2] {
        let spec = self.expanded_vm().map(|vm| &vm.spec);
        [spec.and_then(|spec| spec.instancetype.as_deref()), spec.and_then(|spec| spec.preference.as_deref())]
    }

    /// Whether the object is a VM whose guest KubeVirt stops: the VM is halted or being deleted.
    #[must_use]
    pub fn stops(&self) -> bool {
        self.vm.is_some_and(VirtualMachine::stops)
    }

    /// Returns an annotation of the object.
    #[must_use]
    pub fn annotation(&self, read: impl Fn(&'r Annotations<'r>) -> Option<&'r str>) -> Option<&'r str> {
        self.metadata.annotations.as_deref().and_then(read)
    }

    /// Returns all NICs of the guest by name.
    #[must_use]
    pub fn nics(&self) -> NicsByName<'r> {
        NicsByName::of(self.guest)
    }
}

/// The `status.interfaceRequests[]` of a VM.
#[derive(Clone, Copy, Debug)]
pub struct StatusRequests<'r> {
    all: &'r [InterfaceRequest<'r>],
    before: &'r [InterfaceRequest<'r>],
}

impl<'r> StatusRequests<'r> {
    /// Returns the entries that the stored object does not have, and their indices.
    pub fn added(self) -> impl Iterator<Item = (usize, &'r InterfaceRequest<'r>)> {
        self.all.iter().enumerate().filter(move |(_, request)| !self.before.contains(request))
    }

    fn field(self, index: usize) -> String {
        let field = format!("status.interfaceRequests[{index}]");
        match self.all.get(index) {
            Some(InterfaceRequest { add_interface_options: Some(_), .. }) => format!("{field}.addInterfaceOptions"),
            Some(InterfaceRequest { remove_interface_options: Some(_), .. }) => {
                format!("{field}.removeInterfaceOptions")
            }
            _ => field,
        }
    }
}

/// Returns the requests in the status of a VM, if an update adds any.
fn status_requests<'r>(request: &'r Request<'r>) -> Option<StatusRequests<'r>> {
    let (Some(Object::Vm(vm)), Some(Object::Vm(old))) = (&request.object, &request.old_object) else {
        return None;
    };
    let requests = StatusRequests { all: &vm.status.interface_requests, before: &old.status.interface_requests };
    (request.operation == Operation::Update && requests.added().next().is_some()).then_some(requests)
}

/// A request to migrate a running guest to another node.
#[derive(Clone, Copy, Debug)]
pub struct MigrationStart<'r> {
    /// The namespace of the migration and of the guest.
    pub namespace: &'r str,
    /// The name of the VMI.
    pub vmi_name: &'r str,
}

impl<'r> MigrationStart<'r> {
    /// Returns the migration that a request starts; `None` for any other request.
    #[must_use]
    pub fn of(request: &'r Request<'r>) -> Option<Self> {
        let is_start = request.operation == Operation::Create && request.sub_resource.is_empty();
        match &request.object {
            Some(Object::Migration(migration)) if is_start => {
                Some(Self { namespace: &request.namespace, vmi_name: &migration.spec.vmi_name })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::review::{self, ParsedRequest};

    #[test]
    fn a_field_belongs_to_the_nic_of_its_entry() {
        let vm =
            |spec: &str, status: &str| format!(r#"{{"spec": {{"template": {{"spec": {spec}}}}}, "status": {status}}}"#);
        let spec =
            r#"{"networks": [{"name": "a"}, {"name": "b"}], "domain": {"devices": {"interfaces": [{"name": "c"}]}}}"#;
        let requests = r#"{"interfaceRequests": [{"addInterfaceOptions": {"name": "d"}},
            {"removeInterfaceOptions": {"name": "e"}}, {}]}"#;
        let in_template = "spec.template.spec";
        for (new, sub_resource, field, expected) in [
            (vm(spec, "{}"), "", format!("{in_template}.networks[1].multus.networkName"), Some("b")),
            (vm(spec, "{}"), "", format!("{in_template}.domain.devices.interfaces[0]"), Some("c")),
            (vm(spec, "{}"), "", format!("{in_template}.domain.devices.interfaces[1]"), None),
            (vm(spec, "{}"), "", format!("{in_template}.domain.devices.interfaces"), None),
            (vm(spec, "{}"), "", "metadata.annotations[0]".to_owned(), None),
            (vm("{}", requests), "status", "status.interfaceRequests[0].addInterfaceOptions".to_owned(), Some("d")),
            (vm("{}", requests), "status", "status.interfaceRequests[1].removeInterfaceOptions".to_owned(), Some("e")),
            (vm("{}", requests), "status", "status.interfaceRequests[2]".to_owned(), None),
        ] {
            let body = format!(
                r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
                "kind": {{"group": "kubevirt.io", "kind": "VirtualMachine"}}, "operation": "UPDATE",
                "subResource": "{sub_resource}", "object": {new}, "oldObject": {{}}}}}}"#
            );
            let ParsedRequest::Valid(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
            assert_eq!(Change::of(&request).unwrap().nic_name_at(&field), expected, "{field}");
        }
    }
}
