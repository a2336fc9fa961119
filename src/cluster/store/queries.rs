//! Answers from the store: the facts of a change or of a migration.

use std::{cell::LazyCell, sync::Arc};

use super::{Store, listing::AnyListing};
use crate::{
    api::{network::NadRef, review::ObjectKind},
    change::{Change, MigrationStart, Nic},
    facts::{
        Attachment, Fact, FactSource, Facts, KubeVirt, MacUser, Nads, NamespaceIsolation, Quota, Vm, Vmi,
        nad::{NadLookup, closest_name},
        nodes::Nodes,
    },
    pci::Devices,
    settings::overrides::ParsedOverrides,
};

/// The service accounts of KubeVirt's components that write guests: virt-api, virt-controller and virt-handler.
pub(super) const COMPONENTS: [&str; 3] = ["kubevirt-apiserver", "kubevirt-controller", "kubevirt-handler"];

impl Store {
    /// Returns the KubeVirt resource. One must exist, so without one it is unknown.
    #[must_use]
    pub fn kubevirt(&self) -> &Fact<Arc<KubeVirt>> {
        &self.kubevirt
    }

    /// Returns the namespace where KubeVirt is installed.
    fn kubevirt_namespace(&self) -> Option<&str> {
        self.kubevirts.iter().map(|(namespace, name, _)| (namespace, name)).min().map(|(namespace, _)| namespace)
    }

    /// Whether a user is the service account of a component of KubeVirt: in the namespace where KubeVirt is installed,
    /// or in `kubevirt` if that is unknown.
    pub(in crate::cluster) fn is_of_kubevirt(&self, user: &str) -> bool {
        let account = user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        account.is_some_and(|(namespace, name)| {
            COMPONENTS.contains(&name) && namespace == self.kubevirt_namespace().unwrap_or("kubevirt")
        })
    }

    pub(super) fn vmi(&self, namespace: &str, name: &str) -> Fact<Arc<Vmi>> {
        self.guests.vmi(namespace, name).map(Arc::clone)
    }

    pub(super) fn vm(&self, namespace: &str, name: &str) -> Fact<Arc<Vm>> {
        self.guests.vm(namespace, name).map(Arc::clone)
    }

    fn revision(&self, namespace: &str, vmi: &Fact<Arc<Vmi>>) -> Fact<Arc<Devices>> {
        match vmi.known().and_then(|vmi| vmi.boot.revision.as_deref()) {
            Some(name) => self.revisions.get(namespace, name).map(Arc::clone),
            None => Fact::Absent,
        }
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

    fn attachment(&self) -> Fact<Attachment> {
        if !self.daemons.is_readable() {
            return Fact::Unknown;
        }
        Fact::Known(Attachment::of(self.daemons.iter().map(|(_, _, daemon)| daemon)))
    }

    /// Absent if no ConfigMap configures Multus; unknown if several ConfigMaps differ.
    pub(super) fn isolation(&self) -> Fact<Arc<NamespaceIsolation>> {
        if !self.isolations.is_readable() {
            return Fact::Unknown;
        }
        let mut all = self.isolations.iter().map(|(_, _, isolation)| isolation);
        let Some(first) = all.next() else { return Fact::Absent };
        if all.all(|other| other == first) { first.clone() } else { Fact::Unknown }
    }

    /// Returns the nodes that run guests. A cluster has a node, so none means that they are unknown.
    pub(super) fn nodes(&self) -> Fact<Arc<Nodes>> {
        if !self.nodes.is_readable() || self.nodes.count() == 0 {
            return Fact::Unknown;
        }
        let all = || Nodes::of(self.nodes.iter().map(|(_, name, node)| (name, node)));
        Fact::Known(Arc::clone(self.guest_nodes.get_or_init(|| Arc::new(all()))))
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

    fn nads_of(&self, change: &Change) -> Nads {
        let mut nads = Nads::default();
        for name in networks_of(change).filter_map(Nic::network_name) {
            let name = NadRef::parse(name, change.subject.namespace);
            nads.insert(name, self.find_nad(name));
        }
        nads
    }

    pub(in crate::cluster) fn find_nad(&self, name: NadRef) -> NadLookup {
        let nad = self.nads.get(name.namespace, name.name).map(Arc::clone);
        let instead = if matches!(nad, Fact::Absent) { self.similar_nad(name) } else { None };
        NadLookup { nad, suggestion: instead }
    }

    /// Returns a network of the same name in another namespace, or one of a similar name in the same namespace.
    fn similar_nad(&self, name: NadRef) -> Option<String> {
        if let Some(namespace) = self.nads.namespaces_with(name.name).min() {
            return Some(NadRef { namespace, name: name.name }.to_string());
        }
        let names = self.nads.iter_in(name.namespace).map(|(name, _)| name);
        closest_name(name.name, names).map(|near| NadRef { namespace: name.namespace, name: near }.to_string())
    }

    /// Returns other guests that have a MAC address of the change on the same network; unknown if none is found and not
    /// all guests are known.
    fn mac_users(&self, change: &Change) -> Fact<Vec<MacUser>> {
        let own_namespace = change.subject.namespace;
        // Most changes have no MAC address.
        let own = LazyCell::new(|| format!("{own_namespace}/{}", change.subject.name));
        let user = |nic: &Nic| {
            let mac = nic.interface?.value.mac_address.as_deref()?.parse().ok()?;
            let network = NadRef::parse(nic.network_name()?, own_namespace).to_string();
            let guest = self.guests.other_user(mac, &network, &own)?.to_owned();
            Some(MacUser { mac, network, guest })
        };
        let users: Vec<MacUser> = networks_of(change).filter_map(user).collect();
        if users.is_empty() && !self.guests.is_synced() {
            return Fact::Unknown;
        }
        Fact::Known(users)
    }
}

impl FactSource for Store {
    fn facts_for(&self, change: &Change) -> Facts {
        let subject = change.subject;
        let guest = match subject.kind {
            ObjectKind::Vm | ObjectKind::Vmi => self.facts_of_guest(subject.namespace, subject.name),
            ObjectKind::Migration | ObjectKind::Other | ObjectKind::Pool | ObjectKind::ReplicaSet => {
                let overrides = self.overrides(subject.namespace);
                Facts { kubevirt: self.kubevirt.clone(), vmi: Fact::Absent, overrides, ..Facts::default() }
            }
        };
        Facts { nads: self.nads_of(change), isolation: self.isolation(), mac_users: self.mac_users(change), ..guest }
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.facts_of_guest(start.namespace, start.vmi_name)
    }
}

/// Returns the NICs whose networks are facts of a change.
fn networks_of<'c, 'r>(change: &'c Change<'r>) -> impl Iterator<Item = &'c Nic<'r>> {
    change.nics.added.iter().chain(change.nics.modified.iter().map(|(_, nic)| nic))
}
