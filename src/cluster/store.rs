//! Objects of the cluster, reduced to facts and found by name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Key,
    macs::{Holder, MacIndex},
};
use crate::{
    api::{
        cluster,
        network::NadRef,
        review::ObjectKind,
        vm::{Migration, Revision, VirtualMachine, VirtualMachineInstance},
    },
    change::{Change, MigrationStart, Nic},
    facts::{
        Attachment, Fact, FactSource, Facts, Instance, Isolation, KubeVirt, MacUser, Machine, Nads,
        attachment::Daemon,
        boot,
        nad::{Lookup, Nad, nearest},
    },
    pci::{self, NoKinds, Survey},
};

/// The ConfigMap that holds the configuration of a thick Multus.
const MULTUS_CONFIG: &str = "multus-daemon-config";

/// The label that KubeVirt gives to nodes that it runs on.
const KUBEVIRT_NODE: &str = "kubevirt.io/schedulable";

/// Kinds of objects whose devices may depend on the KubeVirt resource.
const INSTANCE: &str = "VirtualMachineInstance";
const REVISION: &str = "ControllerRevision";

/// Everything that is known of one cluster. Where a listing is `None` nobody may look; what is not in a listing that
/// exists is absent.
#[derive(Clone, Debug, Default)]
pub struct Store {
    kubevirt: Fact<Arc<KubeVirt>>,
    instances: Option<HashMap<Key, Arc<Instance>>>,
    machines: Option<HashMap<Key, Arc<Machine>>>,
    /// By namespace, then by name.
    nads: Option<HashMap<String, BTreeMap<String, Arc<Nad>>>>,
    isolation: Fact<Arc<Isolation>>,
    /// Those that have a part in attachments.
    daemons: Option<HashMap<Key, Daemon>>,
    /// Names, and whether KubeVirt has labelled the node.
    nodes: HashMap<String, bool>,
    /// Migrations that are not over, by the guest that moves.
    migrations: Option<HashMap<Key, BTreeSet<Arc<str>>>>,
    macs: Option<MacIndex>,
    /// The devices of the templates that guests were started from.
    revisions: Option<HashMap<Key, Arc<Survey>>>,
    /// Objects with devices that only the KubeVirt resource can tell the kind of, by kind of object and key: read again
    /// when that resource changes.
    dependent: HashMap<(&'static str, Key), Arc<str>>,
}

/// An object that a view cannot be made of.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name:?}: {field}: {message}")]
pub struct ObjectError {
    kind: String,
    name: String,
    field: String,
    message: String,
}

impl Store {
    /// A store that holds all there is: what is not inserted does not exist.
    #[must_use]
    pub fn of_a_whole_world() -> Self {
        Self {
            instances: Some(HashMap::new()),
            machines: Some(HashMap::new()),
            nads: Some(HashMap::new()),
            isolation: Fact::Absent,
            daemons: Some(HashMap::new()),
            migrations: Some(HashMap::new()),
            macs: Some(MacIndex::default()),
            revisions: Some(HashMap::new()),
            ..Self::default()
        }
    }

    /// Takes an object in, in place of an older one of its name; one of a kind that no rule asks for is skipped.
    ///
    /// # Errors
    /// A field that is read has a wrong type.
    pub fn insert(&mut self, object: &Value) -> Result<(), ObjectError> {
        let field = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let group = field("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let text = object.to_string();
        match (group, field("kind")) {
            ("kubevirt.io", "KubeVirt") => {
                let resource: cluster::KubeVirt = view(object, &text)?;
                self.kubevirt = Fact::Known(Arc::new(KubeVirt::from(resource)));
                for ((kind, _), text) in self.dependent.clone() {
                    match kind {
                        REVISION => self.insert_revision(&view(object, &text)?, &text),
                        _ => self.insert_instance(&view(object, &text)?, &text),
                    }
                }
            }
            ("kubevirt.io", "VirtualMachine") => self.insert_machine(&view(object, &text)?),
            ("kubevirt.io", "VirtualMachineInstance") => self.insert_instance(&view(object, &text)?, &text),
            ("kubevirt.io", "VirtualMachineInstanceMigration") => self.insert_migration(&view(object, &text)?),
            ("k8s.cni.cncf.io", "NetworkAttachmentDefinition") => self.insert_nad(view(object, &text)?),
            ("apps", "DaemonSet") => self.insert_daemon_set(view(object, &text)?),
            ("apps", "ControllerRevision") => self.insert_revision(&view(object, &text)?, &text),
            ("", "ConfigMap") => self.insert_config_map(&view(object, &text)?),
            ("", "Node") => {
                let node: cluster::Node = view(object, &text)?;
                let is_labelled = node.metadata.labels.contains_key(KUBEVIRT_NODE);
                self.nodes.insert(node.metadata.name, is_labelled);
            }
            _ => {}
        }
        Ok(())
    }

    fn insert_machine(&mut self, vm: &VirtualMachine) {
        let key = (vm.metadata.namespace.to_string(), vm.metadata.name.to_string());
        self.macs.get_or_insert_default().replace(&key, Holder::Machine, &vm.spec.template.spec);
        self.machines.get_or_insert_default().insert(key, Arc::new(Machine::from(vm)));
    }

    fn insert_instance(&mut self, vmi: &VirtualMachineInstance, text: &str) {
        let key = (vmi.metadata.namespace.to_string(), vmi.metadata.name.to_string());
        self.macs.get_or_insert_default().replace(&key, Holder::Instance, &vmi.spec);
        let kinds = self.kubevirt.known().map(Arc::clone).unwrap_or_default();
        let instance = Instance::of(vmi, vmi, &*kinds);
        self.depend(INSTANCE, &key, instance.boot.depends_on_kinds.then_some(text));
        self.instances.get_or_insert_default().insert(key, Arc::new(instance));
    }

    /// A revision of a VM holds its spec. One whose template an instancetype or a preference adds to does not show the
    /// devices that the guest was started with.
    fn insert_revision(&mut self, revision: &Revision, text: &str) {
        let spec = &revision.data.spec;
        if spec.instancetype.is_some() || spec.preference.is_some() {
            return;
        }
        let placement = boot::placement(spec.template.metadata.annotations.as_ref()).for_template();
        let kinds = self.kubevirt.known().map(Arc::clone).unwrap_or_default();
        if let Ok(survey) = pci::survey(&spec.template.spec, &placement, &*kinds) {
            let key = (revision.metadata.namespace.to_string(), revision.metadata.name.to_string());
            let by_itself = pci::survey(&spec.template.spec, &placement, &NoKinds);
            self.depend(REVISION, &key, by_itself.is_ok_and(|survey| !survey.notes.is_empty()).then_some(text));
            self.revisions.get_or_insert_default().insert(key, Arc::new(survey));
        }
    }

    fn depend(&mut self, kind: &'static str, key: &Key, text: Option<&str>) {
        let entry = (kind, key.clone());
        match text {
            Some(text) => self.dependent.insert(entry, text.into()),
            None => self.dependent.remove(&entry),
        };
    }

    fn revision(&self, namespace: &str, instance: &Fact<Arc<Instance>>) -> Fact<Arc<Survey>> {
        match instance.known().and_then(|instance| instance.boot.revision.as_deref()) {
            Some(name) => look_up(self.revisions.as_ref(), namespace, name),
            None => Fact::Absent,
        }
    }

    fn insert_migration(&mut self, migration: &Migration) {
        let key = (migration.metadata.namespace.to_string(), migration.spec.vmi_name.to_string());
        let active = self.migrations.get_or_insert_default().entry(key).or_default();
        let name = migration.metadata.name.as_str();
        if migration.is_over() {
            active.remove(name);
        } else {
            active.insert(name.into());
        }
    }

    fn insert_nad(&mut self, nad: cluster::NetworkAttachmentDefinition) {
        let (namespace, name) = (nad.metadata.namespace.clone(), nad.metadata.name.clone());
        let nads = self.nads.get_or_insert_default();
        nads.entry(namespace).or_default().insert(name, Arc::new(Nad::from(nad)));
    }

    fn insert_daemon_set(&mut self, daemon_set: cluster::DaemonSet) {
        let daemons = self.daemons.get_or_insert_default();
        let daemon = Daemon::of(&daemon_set);
        let key = (daemon_set.metadata.namespace, daemon_set.metadata.name);
        match daemon {
            Some(daemon) => daemons.insert(key, daemon),
            None => daemons.remove(&key),
        };
    }

    fn insert_config_map(&mut self, config: &cluster::ConfigMap) {
        if config.metadata.name == MULTUS_CONFIG {
            self.isolation = Isolation::read(config);
        }
    }

    /// The KubeVirt resource.
    #[must_use]
    pub fn kubevirt(&self) -> &Fact<Arc<KubeVirt>> {
        &self.kubevirt
    }

    fn instance(&self, namespace: &str, name: &str) -> Fact<Arc<Instance>> {
        look_up(self.instances.as_ref(), namespace, name)
    }

    fn machine(&self, namespace: &str, name: &str) -> Fact<Arc<Machine>> {
        look_up(self.machines.as_ref(), namespace, name)
    }

    /// What a guest of the name is known by, apart from what a request asks of it.
    fn facts_of_guest(&self, namespace: &str, name: &str) -> Facts {
        let instance = self.instance(namespace, name);
        Facts {
            kubevirt: self.kubevirt.clone(),
            revision: self.revision(namespace, &instance),
            instance,
            machine: self.machine(namespace, name),
            attachment: self.attachment(),
            nodes: self.count_nodes(),
            migration: self.migration(namespace, name),
            ..Facts::default()
        }
    }

    fn attachment(&self) -> Fact<Attachment> {
        match &self.daemons {
            Some(daemons) => Fact::Known(Attachment::of(daemons.values())),
            None => Fact::Unknown,
        }
    }

    /// Nodes that KubeVirt runs on, which are all of them where it has labelled none. A cluster has a node: none seen
    /// means that nobody looked.
    fn count_nodes(&self) -> Fact<usize> {
        let labelled = self.nodes.values().filter(|&&is_labelled| is_labelled).count();
        match (labelled, self.nodes.len()) {
            (0, 0) => Fact::Unknown,
            (0, all) => Fact::Known(all),
            (labelled, _) => Fact::Known(labelled),
        }
    }

    fn migration(&self, namespace: &str, name: &str) -> Fact<Arc<str>> {
        let Some(migrations) = &self.migrations else { return Fact::Unknown };
        let active = migrations.get(&(namespace.to_owned(), name.to_owned()));
        active.and_then(BTreeSet::first).map_or(Fact::Absent, |name| Fact::Known(Arc::clone(name)))
    }

    fn nads_of(&self, change: &Change) -> Nads {
        let mut nads = Nads::default();
        for name in networks_of(change).filter_map(Nic::network_name) {
            let name = NadRef::parse(name, change.subject.namespace);
            nads.insert(name, self.look_for_nad(name));
        }
        nads
    }

    fn look_for_nad(&self, name: NadRef) -> Lookup {
        let Some(nads) = &self.nads else { return Lookup::default() };
        let here = nads.get(name.namespace);
        match here.and_then(|here| here.get(name.name)) {
            Some(nad) => Lookup { nad: Fact::Known(Arc::clone(nad)), instead: None },
            None => Lookup { nad: Fact::Absent, instead: nad_instead_of(name, nads) },
        }
    }

    fn mac_users(&self, change: &Change) -> Fact<Vec<MacUser>> {
        let Some(macs) = &self.macs else { return Fact::Unknown };
        let own = (change.subject.namespace, change.subject.name);
        let user = |nic: &Nic| {
            let mac = nic.interface?.value.mac_address.as_deref()?.parse().ok()?;
            let network = NadRef::parse(nic.network_name()?, own.0).to_string();
            let (namespace, name) = macs.other_user(mac, &network, own)?;
            Some(MacUser { mac, network, guest: format!("{namespace}/{name}") })
        };
        Fact::Known(networks_of(change).filter_map(user).collect())
    }
}

/// The NICs whose networks a change asks about.
fn networks_of<'c, 'r>(change: &'c Change<'r>) -> impl Iterator<Item = &'c Nic<'r>> {
    change.nics.added.iter().chain(change.nics.modified.iter().map(|(_, nic)| nic))
}

/// A network of the same name elsewhere, or one of nearly that name in the same namespace.
fn nad_instead_of(name: NadRef, nads: &HashMap<String, BTreeMap<String, Arc<Nad>>>) -> Option<String> {
    let elsewhere = nads.iter().filter(|(_, nads)| nads.contains_key(name.name)).map(|(namespace, _)| namespace).min();
    if let Some(namespace) = elsewhere {
        return Some(NadRef { namespace, name: name.name }.to_string());
    }
    let names = nads.get(name.namespace)?.keys().map(String::as_str);
    nearest(name.name, names).map(|near| NadRef { namespace: name.namespace, name: near }.to_string())
}

fn look_up<T>(listing: Option<&HashMap<Key, Arc<T>>>, namespace: &str, name: &str) -> Fact<Arc<T>> {
    let Some(listing) = listing else { return Fact::Unknown };
    match listing.get(&(namespace.to_owned(), name.to_owned())) {
        Some(object) => Fact::Known(Arc::clone(object)),
        None => Fact::Absent,
    }
}

impl FactSource for Store {
    fn facts_for(&self, change: &Change) -> Facts {
        let subject = change.subject;
        let guest = match subject.kind {
            ObjectKind::VirtualMachine | ObjectKind::Instance => self.facts_of_guest(subject.namespace, subject.name),
            ObjectKind::Migration | ObjectKind::Other | ObjectKind::Pool | ObjectKind::ReplicaSet => {
                Facts { kubevirt: self.kubevirt.clone(), instance: Fact::Absent, ..Facts::default() }
            }
        };
        Facts {
            nads: self.nads_of(change),
            isolation: self.isolation.clone(),
            mac_users: self.mac_users(change),
            ..guest
        }
    }

    fn facts_for_migration(&self, start: &MigrationStart) -> Facts {
        self.facts_of_guest(start.namespace, start.vmi_name)
    }
}

/// Reads a view of an object that was written to `text`.
fn view<'t, T: Deserialize<'t>>(object: &Value, text: &'t str) -> Result<T, ObjectError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| ObjectError {
        kind: object.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned(),
        name: object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        field: error.path().to_string(),
        message: error.inner().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_kind_is_skipped_and_a_wrong_type_is_told_by_its_path() {
        let mut store = Store::of_a_whole_world();
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
        let mut store = Store::of_a_whole_world();
        assert_eq!(store.instance("demo", "a"), Fact::Absent);
        assert_eq!(Store::default().instance("demo", "a"), Fact::Unknown);
        store
            .insert(&json!({"apiVersion": "kubevirt.io/v1alpha3", "kind": "VirtualMachineInstance",
                "metadata": {"name": "a", "namespace": "demo"}, "status": {"phase": "Running"}}))
            .unwrap();
        assert!(store.instance("demo", "a").known().unwrap().is_live());
    }

    #[test]
    fn a_network_that_is_not_there_is_looked_for_elsewhere() {
        let mut store = Store::of_a_whole_world();
        for (namespace, name) in [("demo", "blue"), ("other", "red")] {
            store
                .insert(&json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                    "metadata": {"namespace": namespace, "name": name}}))
                .unwrap();
        }
        for (name, is_there, instead) in [
            ("blue", true, None),
            ("bleu", false, None),
            ("blues", false, Some("demo/blue")),
            ("red", false, Some("other/red")),
            ("green", false, None),
        ] {
            let found = store.look_for_nad(NadRef { namespace: "demo", name });
            assert_eq!(found.nad.known().is_some(), is_there, "{name}");
            assert_eq!(found.instead.as_deref(), instead, "{name}");
        }
        let nowhere = Store::default().look_for_nad(NadRef { namespace: "demo", name: "red" });
        assert_eq!(nowhere.nad, Fact::Unknown);
    }

    #[test]
    fn only_nodes_that_kubevirt_runs_on_count() {
        let mut store = Store::of_a_whole_world();
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
        let mut store = Store::of_a_whole_world();
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
}
