//! Objects of the cluster, reduced to facts, by name.

pub(super) mod expanders;
pub(super) mod guests;
pub(super) mod interner;
pub(super) mod kinds;
pub(super) mod listing;
pub(super) mod mac_index;
pub(super) mod network_index;
mod ovn_conflicts;
pub(super) mod projection;
mod queries;

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

pub use self::projection::ObjectError;
use self::{
    expanders::Expanders,
    guests::Guests,
    interner::Interner,
    listing::{AnyListing, Listing},
    ovn_conflicts::OvnConflicts,
    projection::Projection,
};
use super::persist_queue::{ObjectRef, PersistQueue};
use crate::{
    facts::{
        Fact, KubeVirt, Quota,
        attachment::AttachmentDaemon,
        nad::{MultusConfig, Nad},
        nodes::{Node, Nodes},
    },
    k8s::{Key, kind::Kind},
    settings::ApiSettings,
    settings::overrides::ParsedOverrides,
};

/// All facts of one cluster. An object in the store is known. Any other object is absent if its kind is synced or if it
/// was read by name and not found; otherwise it is unknown.
#[derive(Debug, Default)]
pub struct Store {
    kubevirts: Listing<Arc<KubeVirt>>,
    /// The one that applies.
    kubevirt: Fact<Arc<KubeVirt>>,
    guests: Guests,
    /// With the OVN networks whose definitions have different settings.
    nads: Listing<Arc<Nad>, OvnConflicts>,
    /// The ConfigMaps of Multus.
    multus_configs: Listing<MultusConfig>,
    /// Where Multus looks for default networks if neither the settings nor its configuration in this store say so.
    assumed_multus_namespace: Option<Arc<str>>,
    /// The groups of forks of KubeVirt, whose objects count as KubeVirt's.
    forks: ApiSettings,
    /// All DaemonSets; `None` for one that attaches no NICs.
    daemons: Listing<Option<AttachmentDaemon>>,
    /// All MutatingWebhookConfigurations: whether one is that of the network-resources-injector.
    mutating_webhooks: Listing<bool>,
    /// The annotations of namespaces that change the enforcement of rules.
    overrides: Listing<Arc<ParsedOverrides>>,
    /// With those that run guests.
    nodes: Listing<Arc<Node>, Arc<Nodes>>,
    /// The quotas that limit the pods of every guest in their namespace.
    quotas: Listing<Arc<Quota>>,
    /// The labels and resources of nodes: most nodes have the same.
    node_texts: Interner<str>,
    /// The guest of each migration that is not over.
    migrations: Listing<Arc<str>>,
    /// The instancetypes and preferences, and all ControllerRevisions.
    expanders: Expanders,
    /// The JSON text of objects with devices whose types depend on the KubeVirt resource: read again when that changes.
    dependent: HashMap<(Kind, Key), Arc<str>>,
    /// The objects that ask to persist NICs.
    persist_queue: PersistQueue,
}

impl Store {
    /// An empty store that puts the objects that ask to persist NICs into a queue.
    #[must_use]
    pub fn with_persist_queue(persist_queue: PersistQueue) -> Self {
        Self { persist_queue, ..Self::default() }
    }

    /// A store of a complete cluster: an object that is not inserted does not exist.
    #[must_use]
    pub fn complete() -> Self {
        let mut store = Self::default();
        for kind in Kind::ALL {
            store.finish_sync(kind);
        }
        store
    }

    /// Sets where Multus looks for default networks if neither the settings nor its configuration in this store say so.
    pub fn assume_multus_namespace(&mut self, namespace: Option<Arc<str>>) {
        self.assumed_multus_namespace = namespace;
    }

    /// Counts the objects in the groups of these forks as KubeVirt's.
    #[must_use]
    pub fn with_forks(self, forks: ApiSettings) -> Self {
        Self { forks, ..self }
    }

    /// Removes the objects of the kind that were not seen since [`begin_sync`](Self::begin_sync). From now on an object
    /// of the kind that is not in the store does not exist.
    pub fn finish_sync(&mut self, kind: Kind) {
        for (namespace, name) in self.not_seen(kind) {
            self.remove(kind, &namespace, &name);
        }
        self.listing_mut(kind).set_synced(true);
    }

    /// Begins a new list of all objects of the kind. Known objects stay until [`finish_sync`](Self::finish_sync).
    pub fn begin_sync(&mut self, kind: Kind) {
        self.listing_mut(kind).begin_sync();
    }

    /// Removes all objects of the kind, and makes them unknown.
    pub fn clear(&mut self, kind: Kind) {
        self.end_sync(kind);
        for (namespace, name) in self.keys(kind) {
            self.remove(kind, &namespace, &name);
        }
    }

    /// Inserts or replaces an object. Skips objects of other kinds.
    ///
    /// The views of `api` borrow from JSON text, so a value is written as text first.
    ///
    /// # Errors
    /// A field has a wrong type. The object then exists and its facts are unknown.
    pub fn insert(&mut self, object: &Value) -> Result<(), ObjectError> {
        match self.kind_of(object) {
            Some(kind) => self.apply(kind, &object.to_string()),
            None => Ok(()),
        }
    }

    /// Whether the store keeps facts of objects of this kind.
    #[must_use]
    pub fn reads(&self, object: &Value) -> bool {
        self.kind_of(object).is_some()
    }

    fn kind_of(&self, object: &Value) -> Option<Kind> {
        let field = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let group = field("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        Kind::of(self.forks.of_kubevirt(group), field("kind"))
    }

    /// Inserts or replaces an object, from its JSON text.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    pub fn apply(&mut self, kind: Kind, text: &str) -> Result<(), ObjectError> {
        let registry = self.registry();
        let projection = Projection::read(kind, text, &registry).inspect_err(|error| self.mark_unreadable(error))?;
        self.upsert(projection, &registry);
        Ok(())
    }

    /// Removes an object: it was deleted.
    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        kinds::of(kind).remove(self, namespace, name);
        self.dependent.remove(&(kind, (namespace.to_owned(), name.to_owned())));
    }

    /// Notes that an object was read by name and not found.
    pub fn mark_absent(&mut self, kind: Kind, namespace: &str, name: &str) {
        self.remove(kind, namespace, name);
        self.listing_mut(kind).mark_absent(namespace, name);
    }

    /// Notes that an object exists and cannot be read.
    pub(super) fn mark_unreadable(&mut self, error: &ObjectError) {
        let ObjectError { kind, namespace, name, .. } = error;
        self.remove(*kind, namespace, name);
        self.listing_mut(*kind).mark_unreadable(namespace, name);
    }

    /// Whether an object was unreadable before; marks it as seen.
    pub(super) fn is_unreadable(&self, error: &ObjectError) -> bool {
        let ObjectError { kind, namespace, name, .. } = error;
        self.listing(*kind).mark_seen(namespace, name);
        self.listing(*kind).is_unreadable(namespace, name)
    }

    /// Returns how many objects of the kind are in the store.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.listing(kind).count()
    }

    /// Whether an object is known, or known to be absent.
    pub(super) fn knows(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        self.listing(kind).knows(namespace, name)
    }

    /// Returns the objects that were not seen since [`begin_sync`](Self::begin_sync).
    pub(super) fn not_seen(&self, kind: Kind) -> Vec<Key> {
        self.listing(kind).not_seen()
    }

    /// Returns all objects of the kind.
    pub(super) fn keys(&self, kind: Kind) -> Vec<Key> {
        self.listing(kind).keys()
    }

    /// From now on an object of the kind that is not in the store is unknown.
    pub(super) fn end_sync(&mut self, kind: Kind) {
        self.listing_mut(kind).set_synced(false);
    }

    fn listing(&self, kind: Kind) -> &dyn AnyListing {
        kinds::of(kind).listing(self)
    }

    fn listing_mut(&mut self, kind: Kind) -> &mut dyn AnyListing {
        kinds::of(kind).listing_mut(self)
    }

    /// Returns the KubeVirt resource, which defines the types of devices; an empty one if it is unknown.
    pub(super) fn registry(&self) -> Arc<KubeVirt> {
        self.kubevirt.known().map(Arc::clone).unwrap_or_default()
    }

    /// Whether an object is in the store with the same facts; marks it as seen if so.
    pub(super) fn contains(&self, projection: &Projection) -> bool {
        let Projection { kind, key, object } = projection;
        let is_stored = object.is_stored(self, key);
        if is_stored {
            self.listing(*kind).mark_seen(&key.0, &key.1);
        }
        is_stored
    }

    /// Inserts or replaces an object that was projected with `registry`, which may be outdated.
    pub(super) fn upsert(&mut self, projection: Projection, registry: &KubeVirt) {
        let Projection { kind, key, object } = projection;
        if let Some(text) = object.dependent_text()
            && !self.registry().registers_same_devices(registry)
            && let Ok(current) = Projection::read(kind, text, &self.registry())
        {
            return current.object.put(self, &key);
        }
        object.put(self, &key);
    }

    /// Whether an object asks to persist NICs.
    fn requests_persist(&self, object_ref: impl FnOnce() -> ObjectRef) -> bool {
        !self.persist_queue.is_empty() && self.persist_queue.contains(&object_ref())
    }

    fn set_dependent(&mut self, kind: Kind, key: &Key, text: Option<Box<str>>) {
        let key = (kind, key.clone());
        match text {
            Some(text) => self.dependent.insert(key, text.into()),
            None => self.dependent.remove(&key),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::{queries::COMPONENTS, *};
    use crate::{api::network::NadRef, change::NetworkChange, facts::FactSource, settings::overrides::Overrides};

    #[test]
    fn an_object_in_the_group_of_a_fork_counts_only_if_the_settings_name_it() {
        let kubevirt = json!({"apiVersion": "kubevirt.example.com/v1", "kind": "KubeVirt", "metadata": {"name": "k"},
            "status": {"observedKubeVirtVersion": "v1.9.0"}});
        let forks: ApiSettings =
            serde_json::from_value(json!({"groups": {"kubevirt.io": ["kubevirt.example.com"]}})).unwrap();
        for (forks, is_known) in [(forks, true), (ApiSettings::default(), false)] {
            let mut store = Store::complete().with_forks(forks);
            assert_eq!(store.reads(&kubevirt), is_known);
            store.insert(&kubevirt).unwrap();
            assert_eq!(store.kubevirt().known().is_some(), is_known);
        }
    }

    #[test]
    fn an_unknown_kind_is_skipped_and_a_wrong_type_is_reported_with_its_path() {
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
    fn a_missing_object_is_absent_in_a_complete_store_and_unknown_elsewhere() {
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
    fn a_missing_network_is_found_under_a_similar_name_or_elsewhere() {
        let mut store = Store::complete();
        for (namespace, name) in [("demo", "blue"), ("other", "red")] {
            store
                .insert(&json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                    "metadata": {"namespace": namespace, "name": name}}))
                .unwrap();
        }
        for (name, exists, instead) in [
            ("blue", true, None),
            ("bleu", false, None),
            ("blues", false, Some("demo/blue")),
            ("red", false, Some("other/red")),
            ("green", false, None),
        ] {
            let found = store.find_nad(NadRef { namespace: "demo", name }, true);
            assert_eq!(found.nad.known().is_some(), exists, "{name}");
            assert_eq!(found.suggestion.as_deref(), instead, "{name}");
        }
        let nowhere = Store::default().find_nad(NadRef { namespace: "demo", name: "red" }, true);
        assert_eq!(nowhere.nad, Fact::Unknown);
    }

    #[test]
    fn who_uses_a_network_is_unknown_until_all_guests_are_known() {
        let change = NetworkChange { namespace: "demo", name: "blue", is_deletion: true, multus_namespace: None };
        assert_eq!(Store::default().facts_for_network(&change).network_users, Fact::Unknown);
        let users = Store::complete().facts_for_network(&change).network_users;
        assert_eq!(users.known().map(|users| users.count), Some(0));
    }

    #[test]
    fn the_injector_is_missing_only_where_all_webhooks_are_known() {
        assert_eq!(Store::default().resource_injector(), Fact::Unknown);
        let mut store = Store::complete();
        let webhooks = |name: &str| {
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": name}})
        };
        assert_eq!(store.resource_injector(), Fact::Absent);
        store.insert(&webhooks("virt-api-mutator")).unwrap();
        assert_eq!(store.resource_injector(), Fact::Absent);
        store.insert(&webhooks("network-resources-injector-config")).unwrap();
        assert_eq!(store.resource_injector(), Fact::Known(()));
        store.clear(Kind::MutatingWebhooks);
        assert_eq!(store.resource_injector(), Fact::Unknown);
    }

    #[test]
    fn only_namespaces_that_change_the_enforcement_are_kept() {
        let mut store = Store::complete();
        let namespace = |annotations: Value| {
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "demo", "annotations": annotations}})
        };
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
    fn the_components_of_kubevirt_are_service_accounts_in_its_namespace() {
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
    fn only_nodes_that_kubevirt_has_labelled_count() {
        let count = |store: &Store| store.nodes().map(|nodes| nodes.count());
        let mut store = Store::complete();
        assert_eq!(count(&store), Fact::Unknown);
        for name in ["a", "b"] {
            store.insert(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).unwrap();
        }
        assert_eq!(count(&store), Fact::Known(2));
        store
            .insert(&json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": "b", "labels": {"kubevirt.io/schedulable": "false"}}}))
            .unwrap();
        assert_eq!(count(&store), Fact::Known(1));
    }

    #[test]
    fn nodes_share_equal_labels_and_a_heartbeat_changes_nothing() {
        let mut store = Store::complete();
        let node = |name: &str, heartbeat: &str| {
            json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {"zone": "a"}},
                "status": {"allocatable": {"cpu": heartbeat, "example.com/vf": heartbeat}}})
        };
        for name in ["a", "b"] {
            store.insert(&node(name, "4")).unwrap();
        }
        let before = store.nodes();
        assert_eq!(store.node_texts.len(), 2);
        let projection = Projection::read(Kind::Node, &node("a", "3").to_string(), &store.registry()).unwrap();
        assert!(store.contains(&projection));
        assert!(Arc::ptr_eq(before.known().unwrap(), store.nodes().known().unwrap()));
        store.insert(&node("a", "0")).unwrap();
        let offers = |name| store.nodes().known().and_then(|nodes| Some(nodes.get(name)?.may_offer("example.com/vf")));
        assert_eq!((offers("a"), offers("b")), (Some(false), Some(true)));
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

    #[test]
    fn an_unreadable_migration_that_is_over_counts_no_longer() {
        let migration = |rest: Value| object("kubevirt.io/v1", Kind::Migration, "m", &rest).to_string();
        let mut store = Store::complete();
        store.apply(Kind::Migration, &migration(json!({"spec": {"vmiName": 5}}))).unwrap_err();
        assert_eq!(store.migration("demo", "vm"), Fact::Unknown);
        let over = migration(json!({"spec": {"vmiName": "vm"}, "status": {"phase": "Succeeded"}}));
        let projection = Projection::read(Kind::Migration, &over, &store.registry()).unwrap();
        assert!(!store.contains(&projection));
        store.apply(Kind::Migration, &over).unwrap();
        assert_eq!(store.migration("demo", "vm"), Fact::Absent);
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
    fn a_guest_on_another_network_of_the_wire_is_found() {
        let mut store = Store::complete();
        let nad = |name: &str, bridge: &str| {
            let config = format!(r#"{{"type": "bridge", "bridge": "{bridge}"}}"#);
            object("k8s.cni.cncf.io/v1", Kind::Nad, name, &json!({"spec": {"config": config}}))
        };
        for (name, bridge) in [("net", "blue"), ("other", "blue"), ("elsewhere", "red")] {
            store.insert(&nad(name, bridge)).unwrap();
        }
        let mac = "02:00:00:00:00:01";
        let vm = json!({"spec": {"template": {"spec": guest(mac, false)}}});
        store.insert(&object("kubevirt.io/v1", Kind::Vm, "a", &vm)).unwrap();
        let find = |store: &Store, network, own: &str| {
            let user = store.mac_user(
                mac.parse().unwrap(),
                NadRef { namespace: "demo", name: network },
                own,
                "kube-system",
                &Cell::new(9),
            );
            user.map(|user| (user.guest, user.via))
        };
        let on_wire = Some(("demo/a".to_owned(), Some("demo/net".to_owned())));
        assert_eq!(find(&store, "net", "demo/b"), Some(("demo/a".to_owned(), None)));
        assert_eq!(find(&store, "other", "demo/b"), on_wire);
        assert_eq!(find(&store, "elsewhere", "demo/b"), None);
        assert_eq!(find(&store, "missing", "demo/b"), None);
        assert_eq!(find(&store, "other", "demo/a"), None, "its own address");
        assert_eq!(find(&store, "other", "restored/a"), None, "a stopped source of the same name");
        let running = json!({"spec": guest(mac, false), "status": {"phase": "Running"}});
        store.insert(&object("kubevirt.io/v1", Kind::Vmi, "a", &running)).unwrap();
        assert_eq!(find(&store, "other", "restored/a"), on_wire);
        store.insert(&nad("other", "red")).unwrap();
        assert_eq!(find(&store, "other", "demo/b"), None);
    }

    #[test]
    fn a_default_network_without_a_namespace_is_the_one_in_the_namespace_of_multus() {
        let mac = "02:00:00:00:00:01";
        let mut store = Store::complete();
        let config = |namespace: &str| {
            let text = json!({"multusNamespace": namespace}).to_string();
            object("v1", Kind::ConfigMap, "multus-daemon-config", &json!({"data": {"daemon-config.json": text}}))
        };
        let mut vm = json!({"spec": {"template": {"spec": guest(mac, false)}}});
        vm["spec"]["template"]["spec"]["networks"][0]["multus"]["default"] = json!(true);
        store.insert(&object("kubevirt.io/v1", Kind::Vm, "a", &vm)).unwrap();
        let setting = Arc::from("of-settings");
        let find = |store: &Store, namespace, configured| {
            let multus_namespace = store.multus_namespace(configured);
            let multus_namespace = multus_namespace.as_deref().unwrap_or("kube-system");
            let name = NadRef { namespace, name: "net" };
            store
                .mac_user(mac.parse().unwrap(), name, "demo/b", multus_namespace, &Cell::new(9))
                .map(|user| user.network)
        };
        assert_eq!(find(&store, "kube-system", None).as_deref(), Some("kube-system/net"));
        assert_eq!(find(&store, "demo", None), None, "not that of the VM");
        store.insert(&config("of-multus")).unwrap();
        assert_eq!(find(&store, "of-multus", None).as_deref(), Some("of-multus/net"));
        assert_eq!(find(&store, "kube-system", None), None);
        assert_eq!(find(&store, "of-settings", Some(&setting)).as_deref(), Some("of-settings/net"));
        assert_eq!(find(&store, "of-multus", Some(&setting)), None);
    }

    #[test]
    fn one_object_makes_no_other_object_absent() {
        let mut store = Store::default();
        store.insert(&object("kubevirt.io/v1", Kind::Vm, "a", &json!({}))).unwrap();
        store.mark_absent(Kind::Vm, "demo", "b");
        assert!(store.vm("demo", "a").known().is_some());
        assert_eq!((store.vm("demo", "b"), store.vm("demo", "c")), (Fact::Absent, Fact::Unknown));
        store.finish_sync(Kind::Vm);
        assert_eq!(store.vm("demo", "c"), Fact::Absent);
        store.clear(Kind::Vm);
        assert_eq!(store.vm("demo", "a"), Fact::Unknown);
        assert_eq!(store.count(Kind::Vm), 0);
    }

    #[test]
    fn a_removed_object_leaves_nothing_behind() {
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
            ("v1", Kind::ResourceQuota, "team", &json!({"status": {"hard": {"pods": "1"}}})),
            (
                "admissionregistration.k8s.io/v1",
                Kind::MutatingWebhooks,
                "virt-api-mutator",
                &json!({"metadata": {"name": "virt-api-mutator"}}),
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
            (Kind::ResourceQuota, "team"),
        ] {
            store.remove(kind, "demo", name);
        }
        store.remove(Kind::Namespace, "", "demo");
        store.remove(Kind::Node, "", "n");
        store.remove(Kind::MutatingWebhooks, "", "virt-api-mutator");
        for kind in Kind::ALL {
            assert_eq!(store.count(kind), 0, "{kind}");
        }
        assert!(store.guests.is_empty() && store.dependent.is_empty());
        assert_eq!((store.node_texts.len(), store.kubevirt()), (0, &Fact::Unknown));
        assert_eq!((store.migration("demo", "vm"), store.isolation()), (Fact::Absent, Fact::Absent));
    }

    #[test]
    fn a_new_list_keeps_known_objects_until_it_is_complete() {
        let mut store = Store::complete();
        for (name, mac) in [("a", "02:00:00:00:00:0a"), ("b", "02:00:00:00:00:0b"), ("c", "02:00:00:00:00:0c")] {
            store.insert(&object("kubevirt.io/v1", Kind::Vmi, name, &json!({"spec": guest(mac, false)}))).unwrap();
        }
        store.begin_sync(Kind::Vmi);
        let same = object("kubevirt.io/v1", Kind::Vmi, "a", &json!({"spec": guest("02:00:00:00:00:0a", false)}));
        let projection = Projection::read(Kind::Vmi, &same.to_string(), &store.registry()).unwrap();
        assert!(store.contains(&projection));
        let other = object("kubevirt.io/v1", Kind::Vmi, "b", &json!({"spec": guest("02:00:00:00:00:bb", false)}));
        let projection = Projection::read(Kind::Vmi, &other.to_string(), &store.registry()).unwrap();
        assert!(!store.contains(&projection));
        store.upsert(projection, &store.registry());
        assert!(store.vmi("demo", "c").known().is_some(), "the list is not complete yet");
        store.finish_sync(Kind::Vmi);
        assert_eq!(store.vmi("demo", "c"), Fact::Absent);
        assert!(store.vmi("demo", "a").known().is_some() && store.vmi("demo", "b").known().is_some());
        assert_eq!(user_of(&store, "02:00:00:00:00:0c"), None);
        assert_eq!(user_of(&store, "02:00:00:00:00:bb").as_deref(), Some("demo/b"));
    }

    #[test]
    fn a_broken_object_makes_only_itself_unknown() {
        let mut store = Store::complete();
        for name in ["a", "b"] {
            store.insert(&object("k8s.cni.cncf.io/v1", Kind::Nad, name, &json!({}))).unwrap();
        }
        let broken = object("k8s.cni.cncf.io/v1", Kind::Nad, "a", &json!({"spec": {"config": 5}}));
        let error = store.insert(&broken).unwrap_err().to_string();
        assert!(error.contains("NetworkAttachmentDefinition \"a\": spec.config"), "{error}");
        let find = |name| store.find_nad(NadRef { namespace: "demo", name }, true).nad;
        assert_eq!(find("a"), Fact::Unknown);
        assert!(find("b").known().is_some());
        assert_eq!(find("c"), Fact::Absent);
    }

    #[test]
    fn devices_are_read_again_when_the_kubevirt_resource_changes_their_types() {
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
    fn configurations_of_multus_that_differ_are_unknown() {
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

    fn daemon_set(name: &str, command: &str, args: &[&str]) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"namespace": "kube-system", "name": name},
            "spec": {"template": {"spec": {"containers": [{"command": [command], "args": args}]}}},
            "status": {"numberReady": 1, "desiredNumberScheduled": 1}})
    }

    #[test]
    fn flags_of_a_thin_multus_isolate_namespaces() {
        let mut store = Store::complete();
        store.insert(&daemon_set("multus", "/thin_entrypoint", &["--namespace-isolation=true"])).unwrap();
        assert!(store.isolation().known().is_some());
        store.insert(&daemon_set("multus", "/thin_entrypoint", &[])).unwrap();
        assert_eq!(store.isolation(), Fact::Absent);
        let data = json!({"daemon-config.json": "{\"namespaceIsolation\": true}"});
        store
            .insert(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": {"namespace": "kube-system", "name": "multus-daemon-config"}}))
            .unwrap();
        assert_eq!(store.isolation(), Fact::Unknown);
        store.insert(&daemon_set("multus", "/multus-daemon", &[])).unwrap();
        assert!(store.isolation().known().is_some());
        let mut unreadable = Store::default();
        assert_eq!(unreadable.isolation(), Fact::Unknown);
        unreadable.insert(&daemon_set("multus", "/thin_entrypoint", &[])).unwrap();
        assert_eq!(unreadable.isolation(), Fact::Absent);
    }

    #[test]
    fn a_missing_multus_is_known_only_after_some_daemon_set_was_seen() {
        let multus = |store: &Store| store.attachment().known().unwrap().multus;
        let mut store = Store::complete();
        assert_eq!(multus(&store), Fact::Unknown);
        store.insert(&daemon_set("kube-proxy", "/usr/local/bin/kube-proxy", &[])).unwrap();
        assert_eq!(multus(&store), Fact::Absent);
        store.insert(&daemon_set("multus", "/thin_entrypoint", &[])).unwrap();
        assert!(multus(&store).known().is_some_and(|nodes| nodes.ready == 1));
        store.clear(Kind::DaemonSet);
        store.finish_sync(Kind::DaemonSet);
        assert_eq!(multus(&store), Fact::Unknown);
    }

    #[test]
    fn definitions_of_one_ovn_network_are_compared() {
        let mut store = Store::complete();
        for (namespace, network, mtu) in
            [("a", "blue", 1400), ("b", "blue", 1400), ("c", "red", 1400), ("d", "blue", 1500)]
        {
            let config = json!({"type": "ovn-k8s-cni-overlay", "name": network, "topology": "layer2", "mtu": mtu,
                "netAttachDefName": format!("{namespace}/net")});
            store
                .insert(&json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
                    "metadata": {"namespace": namespace, "name": "net"}, "spec": {"config": config.to_string()}}))
                .unwrap();
        }
        let conflict = |store: &Store, namespace| store.find_nad(NadRef { namespace, name: "net" }, true).conflict;
        assert_eq!(conflict(&store, "a").as_deref(), Some("d/net"));
        assert_eq!(conflict(&store, "d").as_deref(), Some("a/net"));
        assert_eq!(conflict(&store, "c"), None);
        store.remove(Kind::Nad, "a", "net");
        assert_eq!(conflict(&store, "d").as_deref(), Some("b/net"));
        store.remove(Kind::Nad, "d", "net");
        assert_eq!(conflict(&store, "b"), None);
    }
}
