//! Objects of the cluster, reduced to facts and found by name.

pub(super) mod guests;
pub(super) mod interner;
pub(super) mod listing;
pub(super) mod mac_index;
pub(super) mod projection;

use std::{cell::LazyCell, collections::HashMap, sync::Arc};

use serde_json::Value;

pub use self::projection::ObjectError;
use self::{
    guests::Guests,
    listing::{AnyListing, Listing},
    projection::{Projected, ProjectedRevision, ProjectedVm, ProjectedVmi, Projection},
};
use super::persist_queue::{ObjectRef, Pending};
use crate::{
    api::{network::NadRef, review::ObjectKind},
    change::{Change, MigrationStart, Nic},
    facts::{
        Attachment, Fact, FactSource, Facts, KubeVirt, MacUser, Nads, NamespaceIsolation, Vm, Vmi,
        attachment::AttachmentDaemon,
        nad::{Nad, NadLookup, closest_name},
    },
    k8s::{Key, kind::Kind},
    pci::Devices,
    settings::overrides::ParsedOverrides,
};

/// The service accounts of KubeVirt's components that write guests: virt-api, virt-controller and virt-handler.
const COMPONENTS: [&str; 3] = ["kubevirt-apiserver", "kubevirt-controller", "kubevirt-handler"];

/// Everything that is known of one cluster. An object that is in it is known. One that is not is absent where the
/// listing of its kind is complete, or where it was looked for by name, and unknown elsewhere.
#[derive(Debug, Default)]
pub struct Store {
    kubevirts: Listing<Arc<KubeVirt>>,
    /// The one that counts of them.
    kubevirt: Fact<Arc<KubeVirt>>,
    guests: Guests,
    nads: Listing<Arc<Nad>>,
    /// What each ConfigMap of Multus says.
    isolations: Listing<Fact<Arc<NamespaceIsolation>>>,
    /// Those that have a part in attachments.
    daemons: Listing<AttachmentDaemon>,
    /// Of namespaces that ask for another enforcement, what they ask for.
    overrides: Listing<Arc<ParsedOverrides>>,
    /// Whether KubeVirt has labelled the node.
    nodes: Listing<bool>,
    labelled_nodes: usize,
    /// The guests that move, by migrations that are not over.
    migrations: Listing<Arc<str>>,
    /// The devices of the templates that guests were started from.
    revisions: Listing<Arc<Devices>>,
    /// Objects with devices that only the KubeVirt resource can tell the kind of: read again when that changes.
    dependent: HashMap<(Kind, Key), Arc<str>>,
    /// LogOnce of each object that asks for NICs to be mirrored.
    pending: Pending,
}

impl Store {
    /// An empty store that tells which objects ask for NICs to be mirrored.
    #[must_use]
    pub fn telling(pending: Pending) -> Self {
        Self { pending, ..Self::default() }
    }

    /// A store that holds all there is: what is not inserted does not exist.
    #[must_use]
    pub fn complete() -> Self {
        let mut store = Self::default();
        for kind in Kind::ALL {
            store.finish_sync(kind);
        }
        store
    }

    /// From now on an object of the kind that is not in the store does not exist. Objects that were not seen since
    /// [`relist`](Self::relist) are taken out.
    pub fn finish_sync(&mut self, kind: Kind) {
        for (namespace, name) in self.unseen(kind) {
            self.remove(kind, &namespace, &name);
        }
        self.roll_mut(kind).set_complete(true);
    }

    /// All objects of the kind are about to be seen anew. Until [`know`](Self::know) those that are there stay.
    pub fn begin_sync(&mut self, kind: Kind) {
        self.roll_mut(kind).begin_round();
    }

    /// From now on nobody may look at objects of the kind: those that are there are taken out, and unknown like all
    /// others.
    pub fn clear(&mut self, kind: Kind) {
        self.make_incomplete(kind);
        for (namespace, name) in self.keys(kind) {
            self.remove(kind, &namespace, &name);
        }
    }

    /// Takes an object in, in place of an older one of its name; one of a kind that no rule asks for is skipped.
    ///
    /// # Errors
    /// A field that is read has a wrong type. The object is there, then, and not known.
    pub fn insert(&mut self, object: &Value) -> Result<(), ObjectError> {
        let field = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let group = field("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        match Kind::of(group, field("kind")) {
            Some(kind) => self.apply(kind, &object.to_string()),
            None => Ok(()),
        }
    }

    /// Takes an object in from its JSON text.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn apply(&mut self, kind: Kind, text: &str) -> Result<(), ObjectError> {
        let kinds = self.kinds();
        let projection = Projection::read(kind, text, &kinds).inspect_err(|error| self.note_unreadable(error))?;
        self.upsert(projection, &kinds);
        Ok(())
    }

    /// Takes an object out: it is gone.
    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        match kind {
            Kind::Vm => {
                self.guests.remove_vm(namespace, name);
                self.pending.set(ObjectRef::vm(namespace, name), false);
            }
            Kind::Vmi => {
                self.drop_revision_of(namespace, name);
                self.guests.remove_vmi(namespace, name);
                self.pending.set(ObjectRef::vmi(namespace, name), false);
            }
            Kind::Node => self.count_label(namespace, name, false),
            _ => {}
        }
        self.roll_mut(kind).remove(namespace, name);
        self.dependent.remove(&(kind, key));
        if kind == Kind::KubeVirt {
            self.choose_kubevirt();
        }
    }

    /// Notes that an object was looked for by name and is not there.
    pub fn absent(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.remove(kind, namespace, name);
        self.roll_mut(kind).note_absent(namespace, name);
    }

    /// Notes an object that is there and cannot be read.
    pub(super) fn note_unreadable(&mut self, error: &ObjectError) {
        let ObjectError { kind, namespace, name, .. } = error;
        self.remove(*kind, namespace, name);
        self.roll_mut(*kind).note_unreadable(namespace, name);
    }

    /// Whether an object was there and could not be read when it was last seen; it then counts as seen.
    pub(super) fn is_unreadable(&self, error: &ObjectError) -> bool {
        let ObjectError { kind, namespace, name, .. } = error;
        self.roll(*kind).mark(namespace, name);
        self.roll(*kind).is_unreadable(namespace, name)
    }

    /// How many objects of the kind are in the store.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.roll(kind).count()
    }

    /// Whether an object is known, or known not to be there.
    pub(super) fn knows(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.roll(kind).knows(namespace, name)
    }

    /// Objects that were not seen since [`relist`](Self::relist).
    pub(super) fn unseen(&self, kind: Kind) -> Vec<Key> {
        self.roll(kind).unseen()
    }

    /// All objects of the kind.
    pub(super) fn keys(&self, kind: Kind) -> Vec<Key> {
        self.roll(kind).keys()
    }

    /// From now on an object of the kind that is not in the store is unknown.
    pub(super) fn make_incomplete(&mut self, kind: Kind) {
        self.roll_mut(kind).set_complete(false);
    }

    fn roll(&self, kind: Kind) -> &dyn AnyListing {
        match kind {
            Kind::ConfigMap => &self.isolations,
            Kind::DaemonSet => &self.daemons,
            Kind::Vmi => self.guests.vmis(),
            Kind::KubeVirt => &self.kubevirts,
            Kind::Vm => self.guests.vms(),
            Kind::Migration => &self.migrations,
            Kind::Nad => &self.nads,
            Kind::Namespace => &self.overrides,
            Kind::Node => &self.nodes,
            Kind::Revision => &self.revisions,
        }
    }

    fn roll_mut(&mut self, kind: Kind) -> &mut dyn AnyListing {
        match kind {
            Kind::ConfigMap => &mut self.isolations,
            Kind::DaemonSet => &mut self.daemons,
            Kind::Vmi => self.guests.vmis_mut(),
            Kind::KubeVirt => &mut self.kubevirts,
            Kind::Vm => self.guests.vms_mut(),
            Kind::Migration => &mut self.migrations,
            Kind::Nad => &mut self.nads,
            Kind::Namespace => &mut self.overrides,
            Kind::Node => &mut self.nodes,
            Kind::Revision => &mut self.revisions,
        }
    }

    /// What the names of devices stand for.
    pub(super) fn kinds(&self) -> Arc<KubeVirt> {
        self.kubevirt.known().map(Arc::clone).unwrap_or_default()
    }

    /// Whether an object is in the store just as it is now; it then counts as seen.
    pub(super) fn contains(&self, projection: &Projection) -> bool {
        let Projection { key, what } = projection;
        let (namespace, name) = (key.0.as_str(), key.1.as_str());
        let is_known = match what {
            Projected::ConfigMap(isolation) => contains(&self.isolations, key, isolation),
            Projected::DaemonSet(Some(daemon)) => contains(&self.daemons, key, daemon),
            Projected::DaemonSet(None) => return self.daemons.get(namespace, name).known().is_none(),
            Projected::Vmi(new) => {
                self.guests.contains_vmi(namespace, name, &new.vmi, &new.macs)
                    && self.asks(|| ObjectRef::vmi(namespace, name)) == new.asks
            }
            Projected::KubeVirt(kubevirt) => holds_arc(&self.kubevirts, key, kubevirt),
            Projected::Vm(new) => {
                self.guests.contains_vm(namespace, name, &new.vm, &new.macs)
                    && self.asks(|| ObjectRef::vm(namespace, name)) == new.asks
            }
            Projected::Migration(Some(guest)) => contains(&self.migrations, key, guest),
            Projected::Migration(None) => return self.migrations.get(namespace, name).known().is_none(),
            Projected::Nad(nad) => holds_arc(&self.nads, key, nad),
            Projected::Namespace(Some(overrides)) => contains(&self.overrides, key, overrides),
            Projected::Namespace(None) => return self.overrides.get(namespace, name).known().is_none(),
            Projected::Node(is_labelled) => contains(&self.nodes, key, is_labelled),
            Projected::Revision(_) => false,
            Projected::Nothing(_) => return true,
        };
        if is_known {
            self.roll(projection.kind()).mark(namespace, name);
        }
        is_known
    }

    /// Takes an object in that was projected with `kinds`, which may be those of a moment ago.
    pub(super) fn upsert(&mut self, projection: Projection, kinds: &KubeVirt) {
        let kind = projection.kind();
        if let Some(text) = projection.dependent_text()
            && !self.kinds().registers_same_devices(kinds)
            && let Ok(anew) = Projection::read(kind, text, &self.kinds())
        {
            return self.put_current(kind, anew);
        }
        self.put_current(kind, projection);
    }

    fn put_current(&mut self, kind: Kind, projection: Projection) {
        let Projection { key, what } = projection;
        let (namespace, name) = (key.0.as_str(), key.1.as_str());
        match what {
            Projected::ConfigMap(isolation) => drop(self.isolations.insert(namespace, name, isolation)),
            Projected::DaemonSet(Some(daemon)) => drop(self.daemons.insert(namespace, name, daemon)),
            Projected::Vmi(vmi) => self.upsert_vmi(&key, *vmi),
            Projected::KubeVirt(kubevirt) => {
                self.kubevirts.insert(namespace, name, Arc::new(*kubevirt));
                self.choose_kubevirt();
            }
            Projected::Vm(new) => {
                let ProjectedVm { vm, macs, asks } = *new;
                self.guests.upsert_vm(namespace, name, vm, macs);
                self.pending.set(ObjectRef::vm(namespace, name), asks);
            }
            Projected::Migration(Some(guest)) => drop(self.migrations.insert(namespace, name, guest)),
            Projected::Nad(nad) => drop(self.nads.insert(namespace, name, Arc::new(nad))),
            Projected::Namespace(Some(overrides)) => drop(self.overrides.insert(namespace, name, overrides)),
            Projected::Node(is_labelled) => {
                self.count_label(namespace, name, is_labelled);
                self.nodes.insert(namespace, name, is_labelled);
            }
            Projected::Revision(Some(revision)) => self.put_revision(&key, revision),
            // It is there, and tells nothing.
            Projected::Revision(None) => self.absent(kind, namespace, name),
            Projected::DaemonSet(None) | Projected::Migration(None) | Projected::Namespace(None) => {
                self.remove(kind, namespace, name);
            }
            Projected::Nothing(_) => {}
        }
    }

    fn upsert_vmi(&mut self, key: &Key, new: ProjectedVmi) {
        let ProjectedVmi { vmi, macs, asks, text } = new;
        let before = self.guests.vmi(&key.0, &key.1);
        if before.known().is_some_and(|before| before.boot.revision != vmi.boot.revision) {
            self.drop_revision_of(&key.0, &key.1);
        }
        self.guests.upsert_vmi(&key.0, &key.1, vmi, macs);
        self.depend(Kind::Vmi, key, text);
        self.pending.set(ObjectRef::vmi(&key.0, &key.1), asks);
    }

    /// Whether an object asks for NICs to be mirrored.
    fn asks(&self, object_ref: impl FnOnce() -> ObjectRef) -> bool {
        !self.pending.is_empty() && self.pending.is_asking(&object_ref())
    }

    fn put_revision(&mut self, key: &Key, new: ProjectedRevision) {
        self.revisions.insert(&key.0, &key.1, Arc::new(new.devices));
        self.depend(Kind::Revision, key, new.text);
    }

    fn depend(&mut self, kind: Kind, key: &Key, text: Option<Box<str>>) {
        let entry = (kind, key.clone());
        match text {
            Some(text) => self.dependent.insert(entry, text.into()),
            None => self.dependent.remove(&entry),
        };
    }

    /// A revision is of use to the one run of a guest that was started from it.
    fn drop_revision_of(&mut self, namespace: &str, name: &str) {
        let vmi = self.guests.vmi(namespace, name).known().map(|vmi| Arc::clone(vmi));
        if let Some(revision) = vmi.as_ref().and_then(|vmi| vmi.boot.revision.as_deref()) {
            self.remove(Kind::Revision, namespace, revision);
        }
    }

    fn count_label(&mut self, namespace: &str, name: &str, is_labelled: bool) {
        let was_labelled = self.nodes.get(namespace, name) == Fact::Known(&true);
        self.labelled_nodes = self.labelled_nodes + usize::from(is_labelled) - usize::from(was_labelled);
    }

    /// A cluster has one KubeVirt resource; of several the first by name counts.
    fn choose_kubevirt(&mut self) {
        let before = self.kinds();
        let first = self.kubevirts.iter().min_by_key(|(namespace, name, _)| (*namespace, *name));
        self.kubevirt = first.map_or(Fact::Unknown, |(_, _, kubevirt)| Fact::Known(Arc::clone(kubevirt)));
        let now = self.kinds();
        if before.registers_same_devices(&now) {
            return;
        }
        for ((kind, _), text) in self.dependent.clone() {
            // It could be read before, and nothing in it has changed.
            if let Ok(projection) = Projection::read(kind, &text, &now) {
                self.put_current(kind, projection);
            }
        }
    }

    /// The KubeVirt resource. It has to exist, so where there is none it is unknown.
    #[must_use]
    pub fn kubevirt(&self) -> &Fact<Arc<KubeVirt>> {
        &self.kubevirt
    }

    /// Where KubeVirt is installed.
    fn kubevirt_namespace(&self) -> Option<&str> {
        self.kubevirts.iter().map(|(namespace, name, _)| (namespace, name)).min().map(|(namespace, _)| namespace)
    }

    /// Whether a user is one of KubeVirt's components; where nobody knows where they are installed, they are looked for
    /// where they mostly are.
    pub(super) fn is_of_kubevirt(&self, user: &str) -> bool {
        let account = user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
        account.is_some_and(|(namespace, name)| {
            COMPONENTS.contains(&name) && namespace == self.kubevirt_namespace().unwrap_or("kubevirt")
        })
    }

    fn vmi(&self, namespace: &str, name: &str) -> Fact<Arc<Vmi>> {
        self.guests.vmi(namespace, name).map(Arc::clone)
    }

    fn vm(&self, namespace: &str, name: &str) -> Fact<Arc<Vm>> {
        self.guests.vm(namespace, name).map(Arc::clone)
    }

    fn revision(&self, namespace: &str, vmi: &Fact<Arc<Vmi>>) -> Fact<Arc<Devices>> {
        match vmi.known().and_then(|vmi| vmi.boot.revision.as_deref()) {
            Some(name) => self.revisions.get(namespace, name).map(Arc::clone),
            None => Fact::Absent,
        }
    }

    /// What a guest of the name is known by, apart from what a request asks of it.
    fn facts_of_guest(&self, namespace: &str, name: &str) -> Facts {
        let vmi = self.vmi(namespace, name);
        Facts {
            kubevirt: self.kubevirt.clone(),
            revision: self.revision(namespace, &vmi),
            vmi,
            vm: self.vm(namespace, name),
            attachment: self.attachment(),
            nodes: self.count_nodes(),
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

    /// Absent when no Multus is configured by a ConfigMap; unknown when there are several that disagree.
    fn isolation(&self) -> Fact<Arc<NamespaceIsolation>> {
        if !self.isolations.is_readable() {
            return Fact::Unknown;
        }
        let mut all = self.isolations.iter().map(|(_, _, isolation)| isolation);
        let Some(first) = all.next() else { return Fact::Absent };
        if all.all(|other| other == first) { first.clone() } else { Fact::Unknown }
    }

    /// Nodes that KubeVirt runs on, which are all of them where it has labelled none. A cluster has a node: none seen
    /// means that nobody looked.
    fn count_nodes(&self) -> Fact<usize> {
        match (self.nodes.is_synced(), self.labelled_nodes, self.nodes.count()) {
            (false, ..) | (true, 0, 0) => Fact::Unknown,
            (true, 0, all) => Fact::Known(all),
            (true, labelled, _) => Fact::Known(labelled),
        }
    }

    fn migration(&self, namespace: &str, name: &str) -> Fact<Arc<str>> {
        let of_guest = self.migrations.iter_in(namespace).filter(|(_, guest)| &***guest == name);
        match of_guest.map(|(migration, _)| migration).min() {
            Some(migration) => Fact::Known(migration.into()),
            None if self.migrations.is_whole_in(namespace) => Fact::Absent,
            None => Fact::Unknown,
        }
    }

    /// In a cluster without such a namespace this looks nothing up.
    fn overrides(&self, namespace: &str) -> Fact<Arc<ParsedOverrides>> {
        self.overrides.get("", namespace).map(Arc::clone)
    }

    fn nads_of(&self, change: &Change) -> Nads {
        let mut nads = Nads::default();
        for name in networks_of(change).filter_map(Nic::network_name) {
            let name = NadRef::parse(name, change.subject.namespace);
            nads.insert(name, self.look_for_nad(name));
        }
        nads
    }

    pub(super) fn look_for_nad(&self, name: NadRef) -> NadLookup {
        let nad = self.nads.get(name.namespace, name.name).map(Arc::clone);
        let suggestion = if matches!(nad, Fact::Absent) { self.nad_instead_of(name) } else { None };
        NadLookup { nad, suggestion }
    }

    /// A network of the same name elsewhere, or one of nearly that name in the same namespace.
    fn nad_instead_of(&self, name: NadRef) -> Option<String> {
        if let Some(namespace) = self.nads.namespaces_with(name.name).min() {
            return Some(NadRef { namespace, name: name.name }.to_string());
        }
        let names = self.nads.iter_in(name.namespace).map(|(name, _)| name);
        closest_name(name.name, names).map(|near| NadRef { namespace: name.namespace, name: near }.to_string())
    }

    /// Those that are found, and where some may not be seen and none is found, unknown.
    fn mac_users(&self, change: &Change) -> Fact<Vec<MacUser>> {
        let own_namespace = change.subject.namespace;
        // Most changes write no address.
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

/// The NICs whose networks a change asks about.
fn networks_of<'c, 'r>(change: &'c Change<'r>) -> impl Iterator<Item = &'c Nic<'r>> {
    change.nics.added.iter().chain(change.nics.modified.iter().map(|(_, nic)| nic))
}

fn contains<T: PartialEq>(listing: &Listing<T>, key: &Key, object: &T) -> bool {
    listing.get(&key.0, &key.1).known().is_some_and(|known| *known == object)
}

fn holds_arc<T: PartialEq>(listing: &Listing<Arc<T>>, key: &Key, object: &T) -> bool {
    listing.get(&key.0, &key.1).known().is_some_and(|known| ***known == *object)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::overrides::Overrides;

    #[test]
    fn an_unknown_kind_is_skipped_and_a_wrong_type_is_told_by_its_path() {
        let mut store = Store::complete();
        store.insert(&json!({"apiVersion": "v1", "kind": "Secret", "data": 5})).unwrap();
        let error = store
            .insert(&json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                "metadata": {"name": "a"}, "spec": {"networks": [{"name": 1}]}}))
            .unwrap_err()
            .to_string();
        assert!(error.contains("VirtualMachineInstance \"a\": spec.networks[0].name"), "{error}");
    }

    #[test]
    fn what_a_whole_world_does_not_hold_is_absent_and_elsewhere_it_is_unknown() {
        let mut store = Store::complete();
        assert_eq!(store.vmi("demo", "a"), Fact::Absent);
        assert_eq!(Store::default().vmi("demo", "a"), Fact::Unknown);
        store
            .insert(&json!({"apiVersion": "kubevirt.io/v1alpha3", "kind": "VirtualMachineInstance",
                "metadata": {"name": "a", "namespace": "demo"}, "status": {"phase": "Running"}}))
            .unwrap();
        assert!(store.vmi("demo", "a").known().unwrap().is_live());
    }

    #[test]
    fn a_network_that_is_not_there_is_looked_for_elsewhere() {
        let mut store = Store::complete();
        for (namespace, name) in [("demo", "blue"), ("other", "red")] {
            store
                .insert(&json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                    "metadata": {"namespace": namespace, "name": name}}))
                .unwrap();
        }
        for (name, is_there, suggestion) in [
            ("blue", true, None),
            ("bleu", false, None),
            ("blues", false, Some("demo/blue")),
            ("red", false, Some("other/red")),
            ("green", false, None),
        ] {
            let found = store.look_for_nad(NadRef { namespace: "demo", name });
            assert_eq!(found.nad.known().is_some(), is_there, "{name}");
            assert_eq!(found.suggestion.as_deref(), suggestion, "{name}");
        }
        let nowhere = Store::default().look_for_nad(NadRef { namespace: "demo", name: "red" });
        assert_eq!(nowhere.nad, Fact::Unknown);
    }

    #[test]
    fn only_namespaces_that_ask_for_something_are_kept_and_all_others_ask_for_nothing() {
        let mut store = Store::complete();
        let namespace = |annotations: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo", "annotations": annotations}});
        let asked = |text: &str| Fact::Known(Arc::new(Overrides::parse(text)));
        for (annotations, expected) in [
            (Value::Null, Fact::Absent),
            (json!({"nicplug.io/rules": "NP103=warn"}), asked("NP103=warn")),
            (json!({"nicplug.io/rules": "NP103"}), asked("NP103")),
            (json!({"example.com/a": "b"}), Fact::Absent),
            (json!({"nicplug.io/rules": "NP103=off"}), asked("NP103=off")),
            (json!({"nicplug.io/rules": " "}), Fact::Absent),
        ] {
            store.insert(&namespace(annotations.clone())).unwrap();
            assert_eq!(store.overrides("demo"), expected, "{annotations}");
            assert_eq!(store.count(Kind::Namespace), usize::from(expected != Fact::Absent), "{annotations}");
            assert_eq!(store.overrides("other"), Fact::Absent);
        }
        assert_eq!(Store::default().overrides("demo"), Fact::Unknown);
    }

    #[test]
    fn the_components_of_kubevirt_are_known_by_where_it_is_installed() {
        let mut store = Store::complete();
        let account = |namespace: &str, name: &str| format!("system:serviceaccount:{namespace}:{name}");
        assert!(store.is_of_kubevirt(&account("kubevirt", "kubevirt-controller")));
        assert!(!store.is_of_kubevirt(&account("demo", "kubevirt-controller")));
        store.insert(&object("kubevirt.io/v1", Kind::KubeVirt, "kubevirt", &json!({}))).unwrap();
        for name in COMPONENTS {
            assert!(store.is_of_kubevirt(&account("demo", name)), "{name}");
            assert!(!store.is_of_kubevirt(&account("kubevirt", name)), "{name}");
        }
        for user in
            ["", "alice", "kubevirt-controller", "system:serviceaccount:demo", "system:serviceaccount:demo:default"]
        {
            assert!(!store.is_of_kubevirt(user), "{user}");
        }
    }

    #[test]
    fn only_nodes_that_kubevirt_runs_on_count() {
        let mut store = Store::complete();
        assert_eq!(store.count_nodes(), Fact::Unknown);
        for name in ["a", "b"] {
            store.insert(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).unwrap();
        }
        assert_eq!(store.count_nodes(), Fact::Known(2));
        store
            .insert(&json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": "b", "labels": {"kubevirt.io/schedulable": "false"}}}))
            .unwrap();
        assert_eq!(store.count_nodes(), Fact::Known(1));
    }

    #[test]
    fn a_migration_counts_until_it_is_over() {
        let mut store = Store::complete();
        let migration = |phase: &str| {
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
                "metadata": {"namespace": "demo", "name": "m"}, "spec": {"vmiName": "vm"}, "status": {"phase": phase}})
        };
        for (phase, expected) in [
            ("", Fact::Known("m".into())),
            ("Running", Fact::Known("m".into())),
            ("Succeeded", Fact::Absent),
            ("Failed", Fact::Absent),
        ] {
            store.insert(&migration(phase)).unwrap();
            assert_eq!(store.migration("demo", "vm"), expected, "{phase:?}");
        }
        assert_eq!(Store::default().migration("demo", "vm"), Fact::Unknown);
    }

    fn object(api_version: &str, kind: Kind, name: &str, rest: &Value) -> Value {
        let mut object = json!({"apiVersion": api_version, "kind": kind.kind(),
            "metadata": {"namespace": "demo", "name": name}});
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        object
    }

    fn guest(mac: &str, gpu: bool) -> Value {
        let gpus = if gpu { json!([{"name": "g", "deviceName": "example.com/gpu"}]) } else { json!([]) };
        json!({"domain": {"devices": {"gpus": gpus, "interfaces": [{"name": "a", "bridge": {}, "macAddress": mac}]}},
            "networks": [{"name": "a", "multus": {"networkName": "net"}}]})
    }

    fn user_of(store: &Store, mac: &str) -> Option<String> {
        store.guests.other_user(mac.parse().unwrap(), "demo/net", "demo/asking").map(str::to_owned)
    }

    #[test]
    fn an_object_alone_makes_itself_known_and_no_other_absent() {
        let mut store = Store::default();
        store.insert(&object("kubevirt.io/v1", Kind::Vm, "a", &json!({}))).unwrap();
        store.absent(Kind::Vm, "demo", "b");
        assert!(store.vm("demo", "a").known().is_some());
        assert_eq!((store.vm("demo", "b"), store.vm("demo", "c")), (Fact::Absent, Fact::Unknown));
        store.finish_sync(Kind::Vm);
        assert_eq!(store.vm("demo", "c"), Fact::Absent);
        store.clear(Kind::Vm);
        assert_eq!(store.vm("demo", "a"), Fact::Unknown);
        assert_eq!(store.count(Kind::Vm), 0);
    }

    #[test]
    fn what_is_taken_out_leaves_nothing_behind() {
        let mac = "02:00:00:00:00:01";
        let mut store = Store::complete();
        let vmi = json!({"spec": guest(mac, true), "status": {"virtualMachineRevisionName": "r"}});
        let migration = json!({"spec": {"vmiName": "vm"}});
        let config = json!({"data": {"daemon-config.json": "{\"namespaceIsolation\": true}"}});
        let template = json!({"template": {"spec": guest(mac, true)}});
        for (version, kind, name, rest) in [
            ("kubevirt.io/v1", Kind::Vmi, "vm", &vmi),
            ("kubevirt.io/v1", Kind::Vm, "vm", &json!({"spec": template})),
            ("kubevirt.io/v1", Kind::Migration, "m", &migration),
            ("kubevirt.io/v1", Kind::KubeVirt, "kubevirt", &json!({})),
            ("k8s.cni.cncf.io/v1", Kind::Nad, "net", &json!({})),
            ("apps/v1", Kind::Revision, "r", &json!({"data": {"spec": template}})),
            (
                "apps/v1",
                Kind::DaemonSet,
                "multus",
                &json!({"spec": {"template": {"spec": {"containers":
                [{"command": ["multus-daemon"]}]}}}}),
            ),
            ("v1", Kind::ConfigMap, "multus-daemon-config", &config),
            (
                "v1",
                Kind::Namespace,
                "demo",
                &json!({"metadata": {"name": "demo", "annotations": {"nicplug.io/rules": "NP103=off"}}}),
            ),
            ("v1", Kind::Node, "n", &json!({"metadata": {"name": "n", "labels": {"kubevirt.io/schedulable": "true"}}})),
        ] {
            store.insert(&object(version, kind, name, rest)).unwrap();
            assert_eq!(store.count(kind), 1, "{kind}");
        }
        assert_eq!(user_of(&store, mac).as_deref(), Some("demo/vm"));
        assert!(store.isolation().known().is_some());
        assert_eq!(store.dependent.len(), 2);
        for (kind, name) in [
            (Kind::Vmi, "vm"),
            (Kind::Vm, "vm"),
            (Kind::Migration, "m"),
            (Kind::KubeVirt, "kubevirt"),
            (Kind::Nad, "net"),
            (Kind::DaemonSet, "multus"),
            (Kind::ConfigMap, "multus-daemon-config"),
        ] {
            store.remove(kind, "demo", name);
        }
        store.remove(Kind::Namespace, "", "demo");
        store.remove(Kind::Node, "", "n");
        for kind in Kind::ALL {
            assert_eq!(store.count(kind), 0, "{kind}");
        }
        assert!(store.guests.is_empty() && store.dependent.is_empty());
        assert_eq!((store.labelled_nodes, store.kubevirt()), (0, &Fact::Unknown));
        assert_eq!((store.migration("demo", "vm"), store.isolation()), (Fact::Absent, Fact::Absent));
    }

    #[test]
    fn a_new_listing_keeps_what_was_known_until_it_is_whole() {
        let mut store = Store::complete();
        for (name, mac) in [("a", "02:00:00:00:00:0a"), ("b", "02:00:00:00:00:0b"), ("c", "02:00:00:00:00:0c")] {
            store.insert(&object("kubevirt.io/v1", Kind::Vmi, name, &json!({"spec": guest(mac, false)}))).unwrap();
        }
        store.begin_sync(Kind::Vmi);
        let same = object("kubevirt.io/v1", Kind::Vmi, "a", &json!({"spec": guest("02:00:00:00:00:0a", false)}));
        let projection = Projection::read(Kind::Vmi, &same.to_string(), &store.kinds()).unwrap();
        assert!(store.contains(&projection));
        let other = object("kubevirt.io/v1", Kind::Vmi, "b", &json!({"spec": guest("02:00:00:00:00:bb", false)}));
        let projection = Projection::read(Kind::Vmi, &other.to_string(), &store.kinds()).unwrap();
        assert!(!store.contains(&projection));
        store.upsert(projection, &store.kinds());
        assert!(store.vmi("demo", "c").known().is_some(), "nobody has said yet that it is gone");
        store.finish_sync(Kind::Vmi);
        assert_eq!(store.vmi("demo", "c"), Fact::Absent);
        assert!(store.vmi("demo", "a").known().is_some() && store.vmi("demo", "b").known().is_some());
        assert_eq!(user_of(&store, "02:00:00:00:00:0c"), None);
        assert_eq!(user_of(&store, "02:00:00:00:00:bb").as_deref(), Some("demo/b"));
    }

    #[test]
    fn a_broken_object_is_unknown_and_takes_no_other_with_it() {
        let mut store = Store::complete();
        for name in ["a", "b"] {
            store.insert(&object("k8s.cni.cncf.io/v1", Kind::Nad, name, &json!({}))).unwrap();
        }
        let broken = object("k8s.cni.cncf.io/v1", Kind::Nad, "a", &json!({"spec": {"config": 5}}));
        let error = store.insert(&broken).unwrap_err().to_string();
        assert!(error.contains("NetworkAttachmentDefinition \"a\": spec.config"), "{error}");
        let find = |name| store.look_for_nad(NadRef { namespace: "demo", name }).nad;
        assert_eq!(find("a"), Fact::Unknown);
        assert!(find("b").known().is_some());
        assert_eq!(find("c"), Fact::Absent);
    }

    #[test]
    fn devices_are_read_again_when_the_kubevirt_resource_says_what_they_are() {
        let mut store = Store::complete();
        let vmi = object("kubevirt.io/v1", Kind::Vmi, "vm", &json!({"spec": guest("", true)}));
        store.insert(&vmi).unwrap();
        let notes = |store: &Store| {
            let vmi = store.vmi("demo", "vm");
            vmi.known().and_then(|vmi| vmi.boot.current_devices.as_ref()).map(|devices| devices.notes.len())
        };
        assert_eq!(notes(&store), Some(1));
        let devices = json!({"pciHostDevices": [{"resourceName": "example.com/gpu"}]});
        let configuration = json!({"configuration": {"permittedHostDevices": devices}});
        let kubevirt = object("kubevirt.io/v1", Kind::KubeVirt, "kubevirt", &json!({"spec": configuration}));
        store.insert(&kubevirt).unwrap();
        assert_eq!(notes(&store), Some(0));
        store.remove(Kind::KubeVirt, "demo", "kubevirt");
        assert_eq!(notes(&store), Some(1));
    }

    #[test]
    fn configurations_of_multus_that_disagree_tell_nothing() {
        let mut store = Store::complete();
        for (namespace, text) in [("one", "{\"namespaceIsolation\": true}"), ("two", "{}")] {
            store
                .insert(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"daemon-config.json": text},
                    "metadata": {"namespace": namespace, "name": "multus-daemon-config"}}))
                .unwrap();
        }
        assert_eq!(store.isolation(), Fact::Unknown);
        store.remove(Kind::ConfigMap, "two", "multus-daemon-config");
        assert!(store.isolation().known().is_some());
    }
}
