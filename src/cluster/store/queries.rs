//! Answers from the store: the facts of a change or of a migration.

use std::{
    cell::{Cell, LazyCell},
    sync::Arc,
};

use super::{
    Store,
    expanders::Revision,
    guests::Guests,
    listing::AnyListing,
    mac_index::{UserOfMac, nad_of_index, names_in_index},
    ovn_conflicts::OvnConflicts,
};
use crate::{
    api::{
        mac::Mac,
        network::NadRef,
        review::ObjectKind,
        vm::{ControllerRevision, VirtualMachine},
    },
    change::{Change, MigrationStart, NetworkChange, Nic, ObjectView},
    facts::{
        Attachment, Expansion, Expansions, Fact, FactSource, Facts, GuestNetwork, KubeVirt, MacUser, Nads,
        NamespaceIsolation, NetworkUsers, Quota, Vm, Vmi,
        attachment::AttachmentDaemon,
        boot::Stamp,
        nad::{MULTUS_NAMESPACE, Nad, NadLookup, SIMILAR_AT_MOST, closest_name, nad_of},
        nodes::Nodes,
        wire::Wire,
    },
    k8s::{SERVICE_ACCOUNT, kind::Kind},
    pci::{self, Devices},
    settings::overrides::ParsedOverrides,
};

/// The service account of virt-controller.
const CONTROLLER: &str = "kubevirt-controller";

/// The service accounts of KubeVirt's components that write guests: virt-api, virt-controller and virt-handler.
pub(super) const COMPONENTS: [&str; 3] = ["kubevirt-apiserver", CONTROLLER, "kubevirt-handler"];

/// The longest name of a NetworkAttachmentDefinition, in bytes: of a longer one none is searched in other namespaces.
const NAD_NAME_AT_MOST: usize = 253;

/// How many users of a MAC address on one network, and how many networks of it, are searched for another guest.
const USERS_SEARCHED: usize = 500;

/// How many users and networks are searched for all NICs of a change. More than a guest with 256 NICs needs, unless its
/// addresses are in use everywhere.
const SEARCHED_AT_MOST: usize = 20_000;

/// For how many missing networks of one change another one is searched that may have been meant. A guest can have 256.
const SEARCHES: usize = 16;

impl Store {
    /// Returns the KubeVirt resource. One must exist, so without one it is unknown.
    #[must_use]
    pub fn kubevirt(&self) -> &Fact<Arc<KubeVirt>> {
        &self.kubevirt
    }

    /// Returns the VMs and VMIs.
    pub(in crate::cluster) fn guests(&self) -> &Guests {
        &self.guests
    }

    /// Returns the namespace where KubeVirt is installed.
    fn kubevirt_namespace(&self) -> Option<&str> {
        self.kubevirts.iter().map(|(namespace, name, _)| (namespace, name)).min().map(|(namespace, _)| namespace)
    }

    /// Whether a user is the service account of a component of KubeVirt: in the namespace where KubeVirt is installed,
    /// or in `kubevirt` if that is unknown.
    pub(in crate::cluster) fn is_of_kubevirt(&self, user: &str) -> bool {
        self.component(user).is_some()
    }

    /// Returns the name of the service account, if the user is a component of KubeVirt.
    fn component<'u>(&self, user: &'u str) -> Option<&'u str> {
        let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
        let is_component = COMPONENTS.contains(&name) && namespace == self.kubevirt_namespace().unwrap_or("kubevirt");
        is_component.then_some(name)
    }

    pub(super) fn vmi(&self, namespace: &str, name: &str) -> Fact<Arc<Vmi>> {
        self.guests.vmi(namespace, name).map(Arc::clone)
    }

    pub(super) fn vm(&self, namespace: &str, name: &str) -> Fact<Arc<Vm>> {
        self.guests.vm(namespace, name).map(Arc::clone)
    }

    pub(super) fn revision(&self, namespace: &str, vmi: &Fact<Arc<Vmi>>) -> Fact<Arc<Devices>> {
        let Some((name, stamp)) = vmi.known().and_then(|vmi| Some((vmi.boot.revision.as_deref()?, vmi.boot.stamp)))
        else {
            return Fact::Absent;
        };
        match self.expanders.revision(namespace, name) {
            Fact::Known(Revision::Devices(devices)) => Fact::Known(Arc::clone(devices)),
            // Only a guest without the annotation needs them.
            Fact::Known(Revision::Template(text)) if stamp == Stamp::Missing => self.expanded_devices(namespace, text),
            Fact::Known(_) | Fact::Absent => Fact::Absent,
            Fact::Unknown => Fact::Unknown,
        }
    }

    /// Returns what KubeVirt expands a VM with.
    #[must_use]
    pub fn expansion(&self, namespace: &str, vm: &VirtualMachine) -> Expansion {
        self.expanders.expansion(namespace, vm)
    }

    /// Counts the devices of a guest that KubeVirt expanded, from the JSON text of the revision of its VM.
    fn expanded_devices(&self, namespace: &str, revision: &str) -> Fact<Arc<Devices>> {
        let Some(vm) = vm_of(revision) else { return Fact::Absent };
        let expansion = self.expanders.expansion(namespace, &vm);
        let template = &vm.spec.template;
        let Some(texts) = expansion.texts(&template.spec) else { return Fact::Unknown };
        let options = expansion.options(template.metadata.annotations.as_deref());
        match pci::count_devices(&expansion.guest(&template.spec, &texts), &options, &*self.registry()) {
            Ok(devices) => Fact::Known(Arc::new(devices)),
            Err(_) => Fact::Absent,
        }
    }

    /// Returns what KubeVirt expands the VM of a change with; `None` if it names nothing.
    fn expansions(&self, change: &Change) -> Option<Box<Expansions>> {
        let expansion = |view: &ObjectView| match view.expanded_vm() {
            Some(vm) => self.expanders.expansion(change.subject.namespace, vm),
            None => Expansion { instancetype: Fact::Absent, preference: Fact::Absent },
        };
        let needs = |view: &ObjectView| view.needs_expansion();
        if !needs(&change.after) && !change.before.as_ref().is_some_and(needs) {
            return None;
        }
        let after = expansion(&change.after);
        let before = change.before.as_ref().map_or_else(Expansion::default, expansion);
        Some(Box::new(Expansions { before, after }))
    }

    /// Returns the names of the ControllerRevisions that the VM of a change names, or the revision of its guest does,
    /// and that are unknown.
    pub(in crate::cluster) fn missing_revisions(&self, change: &Change, facts: &Facts) -> Vec<Box<str>> {
        let namespace = change.subject.namespace;
        let views = change.before.iter().chain([&change.after]);
        let mut names: Vec<Box<str>> = views.flat_map(|view| self.expanders.missing(namespace, view)).collect();
        if facts.revision == Fact::Unknown
            && let Some(name) = facts.vmi.known().and_then(|vmi| vmi.boot.revision.as_deref())
            && let Fact::Known(Revision::Template(text)) = self.expanders.revision(namespace, name)
            && let Some(vm) = vm_of(text)
        {
            names.extend(self.expanders.missing_of(namespace, &vm));
        }
        names
    }

    /// Returns the facts of a guest that do not depend on a request.
    fn facts_of_guest(&self, namespace: &str, name: &str) -> Facts {
        let vmi = self.vmi(namespace, name);
        Facts {
            kubevirt: self.kubevirt.clone(),
            revision: self.revision(namespace, &vmi),
            vmi,
            vm: self.vm(namespace, name),
            attachment: self.attachment(),
            nodes: self.nodes(),
            quotas: self.quotas_of(namespace),
            migration: self.migration(namespace, name),
            overrides: self.overrides(namespace),
            ..Facts::default()
        }
    }

    pub(super) fn attachment(&self) -> Fact<Attachment> {
        if !self.daemons.is_readable() {
            return Fact::Unknown;
        }
        let mut attachment = Attachment::of(self.attachment_daemons());
        // Without any DaemonSet, a missing Multus proves nothing.
        if self.daemons.count() == 0 {
            attachment.multus = Fact::Unknown;
        }
        Fact::Known(attachment)
    }

    /// Returns the DaemonSets that attach NICs.
    fn attachment_daemons(&self) -> impl Iterator<Item = &AttachmentDaemon> {
        self.daemons.iter().filter_map(|(_, _, daemon)| daemon.as_ref())
    }

    /// Returns whether the network-resources-injector mutates pods.
    pub(super) fn resource_injector(&self) -> Fact<()> {
        let mut all = self.mutating_webhooks.iter();
        if all.any(|(_, _, is_injector)| *is_injector) {
            return Fact::Known(());
        }
        if self.mutating_webhooks.is_readable() { Fact::Absent } else { Fact::Unknown }
    }

    /// Returns the namespace isolation of Multus: a thick one reads its ConfigMap, a thin one has flags. Absent if
    /// neither turns it on; unknown if several of them differ.
    pub(super) fn isolation(&self) -> Fact<Arc<NamespaceIsolation>> {
        let daemons = || self.attachment_daemons();
        let of_flags = daemons()
            .filter(|daemon| daemon.is_thin_multus || daemon.isolation.is_some())
            .map(|daemon| daemon.isolation.clone().map_or(Fact::Absent, |isolation| Fact::Known(Arc::new(isolation))));
        let are_all_thin = daemons().any(|daemon| daemon.is_thin_multus)
            && !daemons().any(|daemon| daemon.is_thick_multus || daemon.is_controller);
        if !self.multus_configs.is_readable() && !are_all_thin {
            return Fact::Unknown;
        }
        let of_configs = self.multus_configs.iter().map(|(_, _, config)| config.isolation.clone());
        let mut all = of_configs.chain(of_flags);
        let Some(first) = all.next() else { return Fact::Absent };
        if all.all(|other| other == first) { first } else { Fact::Unknown }
    }

    /// Returns the namespace where Multus looks for default networks: that of the settings, or `multusNamespace` of
    /// Multus' configuration; `None` if neither is set.
    pub(in crate::cluster) fn multus_namespace(&self, configured: Option<&Arc<str>>) -> Option<Arc<str>> {
        let configs = self.multus_configs.iter().filter_map(|(_, _, config)| config.namespace.as_ref());
        configured.or_else(|| configs.min()).or(self.assumed_multus_namespace.as_ref()).map(Arc::clone)
    }

    /// Returns the nodes that run guests. A cluster has a node, so none means that they are unknown.
    pub(super) fn nodes(&self) -> Fact<Arc<Nodes>> {
        if !self.nodes.is_readable() || self.nodes.count() == 0 {
            return Fact::Unknown;
        }
        let all = || Nodes::of(self.nodes.iter().map(|(_, name, node)| (name, node)));
        Fact::Known(Arc::clone(self.nodes.derived(|| Arc::new(all()))))
    }

    /// Returns the quotas of a namespace that limit the pods of guests.
    fn quotas_of(&self, namespace: &str) -> Fact<Vec<Arc<Quota>>> {
        if !self.quotas.is_readable_in(namespace) {
            return Fact::Unknown;
        }
        let mut quotas: Vec<_> = self.quotas.iter_in(namespace).map(|(_, quota)| Arc::clone(quota)).collect();
        quotas.sort_by(|one, other| one.name.cmp(&other.name));
        Fact::Known(quotas)
    }

    pub(super) fn migration(&self, namespace: &str, name: &str) -> Fact<Arc<str>> {
        let of_guest = self.migrations.iter_in(namespace).filter(|(_, guest)| &***guest == name);
        match of_guest.map(|(migration, _)| migration).min() {
            Some(migration) => Fact::Known(migration.into()),
            None if self.migrations.is_readable_in(namespace) => Fact::Absent,
            None => Fact::Unknown,
        }
    }

    /// Returns the enforcement that the annotations of a namespace ask for.
    pub(super) fn overrides(&self, namespace: &str) -> Fact<Arc<ParsedOverrides>> {
        self.overrides.get("", namespace).map(Arc::clone)
    }

    fn nads_of(&self, change: &Change, multus_namespace: &str) -> Nads {
        let mut nads = Nads::with_capacity(change.nics.added_or_modified().count());
        let own = change.subject.namespace;
        let mut searches_left = SEARCHES;
        for nic in change.nics.added_or_modified() {
            let Some(name) = nad_of(nic, own, multus_namespace) else { continue };
            let mut lookup = self.find_nad(name, searches_left > 0);
            if lookup.nad == Fact::Absent {
                searches_left = searches_left.saturating_sub(1);
            }
            // A default network that Multus does not find is often one of the VM's own namespace.
            if lookup.suggestion.is_some() && self.nads.get(own, name.name).known().is_some() {
                lookup.suggestion = Some(NadRef { namespace: own, ..name }.full_name());
            }
            nads.insert(name, lookup);
        }
        nads
    }

    /// Returns a network; if it does not exist, also one that may have been meant, if `searches`.
    pub(in crate::cluster) fn find_nad(&self, name: NadRef, searches: bool) -> NadLookup {
        let nad = self.nads.get(name.namespace, name.name).map(Arc::clone);
        let is_possible = name.name.len() <= NAD_NAME_AT_MOST;
        let suggestion = if searches && is_possible && nad == Fact::Absent { self.similar_nad(name) } else { None };
        let conflict = nad.known().and_then(|nad| self.conflicting_nad(nad));
        NadLookup { nad, suggestion, conflict }
    }

    /// Returns another definition of the same OVN network with other settings.
    fn conflicting_nad(&self, nad: &Nad) -> Option<String> {
        let network = nad.network.ovn.as_ref()?;
        let conflicts =
            self.nads.derived(|| {
                OvnConflicts::of(self.nads.iter().filter_map(|(namespace, name, nad)| {
                    Some((NadRef { namespace, name }, nad.network.ovn.as_deref()?))
                }))
            });
        conflicts.with(network).map(str::to_owned)
    }

    /// Returns the facts about the migration of a guest as it is, with the networks of its NICs. `multus_namespace` is the
    /// namespace of the settings where Multus looks for default networks.
    #[must_use]
    pub fn facts_to_move(&self, guest: &MigrationStart, multus_namespace: Option<&Arc<str>>) -> Facts {
        let facts = self.facts_for_migration(guest);
        let multus_namespace = self.multus_namespace(multus_namespace);
        let multus_namespace = multus_namespace.as_deref().unwrap_or(MULTUS_NAMESPACE);
        let guest_networks = self.networks_of_guest(guest.namespace, &facts.vmi, multus_namespace);
        Facts { guest_networks, ..facts }
    }

    /// Returns the networks of a guest's NICs.
    fn networks_of_guest(&self, namespace: &str, vmi: &Fact<Arc<Vmi>>, multus_namespace: &str) -> Vec<GuestNetwork> {
        let nics = vmi.known().into_iter().flat_map(|vmi| vmi.nics.iter()).filter(|nic| !nic.is_absent);
        let networks = nics.filter_map(|nic| {
            let NadRef { namespace, name } = nic.nad(namespace, multus_namespace)?;
            let nad = Arc::clone(self.nads.get(namespace, name).known()?);
            Some(GuestNetwork { nic: nic.name.clone(), nad })
        });
        networks.collect()
    }

    /// Returns a network of the same name in another namespace, or one of a similar name in the same namespace.
    fn similar_nad(&self, name: NadRef) -> Option<String> {
        if let Some(namespace) = self.nads.namespaces_with(name.name).min() {
            return Some(NadRef { namespace, name: name.name }.full_name());
        }
        // Of more networks any: they have no order here.
        let names = self.nads.iter_in(name.namespace).map(|(name, _)| name).take(SIMILAR_AT_MOST.into());
        closest_name(name.name, names).map(|near| format!("{}/{near}", name.namespace))
    }

    /// Returns other guests that have a MAC address of the change on the same network or wire; unknown if none is found
    /// and not all guests are known.
    fn mac_users(&self, change: &Change, multus_namespace: &str) -> Fact<Vec<MacUser>> {
        let own_namespace = change.subject.namespace;
        // Most changes have no MAC address.
        let own = LazyCell::new(|| format!("{own_namespace}/{}", change.subject.name));
        let left = Cell::new(SEARCHED_AT_MOST);
        let user = |nic: &Nic| {
            self.mac_user(nic.mac()?, nad_of(nic, own_namespace, multus_namespace)?, &own, multus_namespace, &left)
        };
        let users: Vec<MacUser> = change.nics.added_or_modified().filter_map(user).collect();
        if users.is_empty() && !self.guests.is_synced() {
            return Fact::Unknown;
        }
        Fact::Known(users)
    }

    /// Returns a guest other than `own` that has the address on the network, or on another network of the same wire.
    ///
    /// A VM of the same name in another namespace that does not run is the source of a migration between namespaces, an
    /// import or a restored backup: the addresses do not conflict.
    /// `left` is how many users and networks may still be searched.
    pub(super) fn mac_user(
        &self,
        mac: Mac,
        nad: NadRef,
        own: &str,
        multus_namespace: &str,
        left: &Cell<usize>,
    ) -> Option<MacUser> {
        let is_in_budget = || {
            let before = left.get();
            left.set(before.saturating_sub(1));
            before > 0
        };
        let macs = self.guests.macs();
        let is_source = |user: &UserOfMac| !user.is_running && name_of(user.guest) == name_of(own);
        let user_on = |network: &str| {
            let mut users = macs.users(mac, network).take(USERS_SEARCHED).take_while(|_| is_in_budget());
            users.find(|user| user.guest != own && !is_source(user))
        };
        let found = |via: Option<NadRef>, user: UserOfMac| {
            let via = via.map(NadRef::full_name);
            MacUser { mac, network: nad.full_name(), via, guest: user.guest.to_owned() }
        };
        if let Some(user) = names_in_index(nad, multus_namespace).find_map(|network| user_on(&network)) {
            return Some(found(None, user));
        }
        let wire = self.wire(nad)?;
        macs.networks(mac).take(USERS_SEARCHED).take_while(|_| is_in_budget()).find_map(|network| {
            let other = nad_of_index(network, multus_namespace);
            let is_same_wire = other != nad && self.wire(other) == Some(wire);
            is_same_wire.then(|| user_on(network)).flatten().map(|user| found(Some(other), user))
        })
    }

    fn wire(&self, nad: NadRef) -> Option<&Wire> {
        self.nads.get(nad.namespace, nad.name).known().and_then(|nad| nad.network.wire.as_ref())
    }
}

impl Store {
    /// Returns the running guests that use a network; unknown if none is found and not all guests are known.
    fn network_users(&self, change: &NetworkChange) -> Fact<NetworkUsers> {
        let namespace = self.multus_namespace(change.multus_namespace.as_ref());
        let namespace = namespace.as_deref().unwrap_or(MULTUS_NAMESPACE);
        let users = self.guests.users_of_network(change.network(), namespace);
        if users.count == 0 && !self.guests.knows_all_vmis() { Fact::Unknown } else { Fact::Known(users) }
    }

    /// Returns who still uses a network, if this store has the guests of `known` that were read again and no others.
    /// Unknown if none of them does and others may.
    #[must_use]
    pub fn users_left(&self, change: &NetworkChange, known: &NetworkUsers) -> Fact<NetworkUsers> {
        let others = known.count - known.guests.len();
        let was_read = |guest: &String| {
            guest.split_once('/').is_some_and(|(namespace, name)| self.knows(Kind::Vmi, namespace, name))
        };
        match self.network_users(change) {
            Fact::Known(users) if users.count > 0 => Fact::Known(NetworkUsers { count: users.count + others, ..users }),
            _ if others == 0 && known.guests.iter().all(was_read) => Fact::Known(NetworkUsers::default()),
            _ => Fact::Unknown,
        }
    }
}

impl FactSource for Store {
    /// Files may hold the objects of any group that the settings name: only requests for those are judged.
    fn reads_group(&self, _group: &str, _of: &str) -> bool {
        true
    }

    fn facts_for(&self, change: &Change) -> Facts {
        let subject = change.subject;
        let guest = match subject.kind {
            ObjectKind::Vm | ObjectKind::Vmi => self.facts_of_guest(subject.namespace, subject.name),
            ObjectKind::Migration | ObjectKind::Nad | ObjectKind::Other | ObjectKind::Pool | ObjectKind::ReplicaSet => {
                let overrides = self.overrides(subject.namespace);
                Facts { kubevirt: self.kubevirt.clone(), vmi: Fact::Absent, overrides, ..Facts::default() }
            }
        };
        let multus_namespace = self.multus_namespace(change.multus_namespace.as_ref());
        let of_multus = multus_namespace.as_deref().unwrap_or(MULTUS_NAMESPACE);
        let plugs_or_moves = change.nics.added_or_modified().next().is_some();
        let networks = || self.networks_of_guest(subject.namespace, &guest.vmi, of_multus);
        Facts {
            nads: self.nads_of(change, of_multus),
            isolation: self.isolation(),
            resource_injector: self.resource_injector(),
            guest_networks: if plugs_or_moves { networks() } else { Vec::new() },
            mac_users: self.mac_users(change, of_multus),
            multus_namespace,
            expansions: self.expansions(change),
            by_controller: self.component(change.user) == Some(CONTROLLER),
            ..guest
        }
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.facts_of_guest(start.namespace, start.vmi_name)
    }

    fn facts_for_network(&self, change: &NetworkChange) -> Facts {
        let (network_users, overrides) = (self.network_users(change), self.overrides(change.namespace));
        Facts { network_users, overrides, ..Facts::default() }
    }
}

/// Returns the VM whose spec a ControllerRevision stores, from the JSON text of the revision.
fn vm_of(revision: &str) -> Option<VirtualMachine<'_>> {
    let ControllerRevision { data, .. } = serde_json::from_str(revision).ok()?;
    Some(VirtualMachine { spec: data.spec.into(), ..VirtualMachine::default() })
}

/// Returns the name in `namespace/name`.
fn name_of(guest: &str) -> &str {
    guest.split_once('/').map_or(guest, |(_, name)| name)
}
