//! The instancetypes and preferences with which KubeVirt expands VMs, and the ControllerRevisions that store them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::listing::{AnyListing, Listing};
use crate::{
    api::vm::VirtualMachine,
    change::ObjectView,
    cluster::reference::Reference,
    facts::{Expansion, Fact, Instancetype, Preference},
    k8s::{Key, kind::Kind},
    pci::Devices,
};

/// The instancetypes and preferences of a cluster.
#[derive(Debug, Default)]
pub(super) struct Expanders {
    pub(super) instancetypes: Listing<Arc<Instancetype>>,
    pub(super) cluster_instancetypes: Listing<Arc<Instancetype>>,
    pub(super) preferences: Listing<Arc<Preference>>,
    pub(super) cluster_preferences: Listing<Arc<Preference>>,
    pub(super) revisions: Listing<Revision>,
    /// The known ControllerRevisions of instancetypes and preferences by the VM that owns them: they are dropped with it.
    owned: HashMap<Key, BTreeSet<Box<str>>>,
}

/// A ControllerRevision.
#[derive(Debug)]
pub(super) enum Revision {
    /// Of a VM without instancetype and preference: the devices of the guest that was started from it.
    Devices(Arc<Devices>),
    /// Of a VM that KubeVirt expanded: the whole object as JSON text.
    Template(Arc<str>),
    /// Of an instancetype with this name.
    Instancetype(Box<str>, Arc<Instancetype>),
    /// Of a preference with this name.
    Preference(Box<str>, Arc<Preference>),
}

impl Expanders {
    /// Returns what KubeVirt expands a VM with.
    pub(super) fn expansion(&self, namespace: &str, vm: &VirtualMachine) -> Expansion {
        let [instancetype, preference] = Reference::both(vm);
        let instancetypes = [&self.instancetypes, &self.cluster_instancetypes];
        let preferences = [&self.preferences, &self.cluster_preferences];
        Expansion {
            instancetype: self.find(namespace, instancetype, instancetypes, |revision| match revision {
                Revision::Instancetype(name, object) => Some((name, object)),
                _ => None,
            }),
            preference: self.find(namespace, preference, preferences, |revision| match revision {
                Revision::Preference(name, object) => Some((name, object)),
                _ => None,
            }),
        }
    }

    /// Finds what a VM names: its ControllerRevision, else the object. Unknown if it cannot be found, because KubeVirt
    /// starts no such VM.
    fn find<T>(
        &self,
        namespace: &str,
        reference: Option<Reference>,
        [of_namespace, of_cluster]: [&Listing<Arc<T>>; 2],
        of_revision: impl Fn(&Revision) -> Option<(&str, &Arc<T>)>,
    ) -> Fact<Arc<T>> {
        let Some(reference) = reference else { return Fact::Absent };
        if !reference.revision().is_empty() {
            match self.revisions.get(namespace, reference.revision()) {
                Fact::Known(revision) => match of_revision(revision) {
                    Some((name, object)) if reference.accepts(name) => return Fact::Known(Arc::clone(object)),
                    Some(_) => {}
                    None => return Fact::Unknown,
                },
                // Files of facts may lack it. A cluster does not.
                Fact::Absent => {}
                Fact::Unknown => return Fact::Unknown,
            }
        }
        let object = reference.object(namespace).map_or(Fact::Unknown, |path| {
            let listing = match path.kind {
                Kind::ClusterInstancetype | Kind::ClusterPreference => of_cluster,
                _ => of_namespace,
            };
            listing.get(&path.namespace, path.name())
        });
        object.known().map_or(Fact::Unknown, |object| Fact::Known(Arc::clone(object)))
    }

    /// Returns the names of ControllerRevisions that a VM names and that are unknown.
    pub(super) fn missing(&self, namespace: &str, view: &ObjectView) -> impl Iterator<Item = Box<str>> {
        view.expanded_vm().into_iter().flat_map(move |vm| self.missing_of(namespace, vm))
    }

    pub(super) fn missing_of(&self, namespace: &str, vm: &VirtualMachine) -> Vec<Box<str>> {
        let is_missing = |name: &str| !name.is_empty() && !self.revisions.knows(namespace, name);
        let references = Reference::both(vm).into_iter().flatten();
        references.filter(|reference| is_missing(reference.revision())).map(|it| it.revision().into()).collect()
    }

    pub(super) fn revision(&self, namespace: &str, name: &str) -> Fact<&Revision> {
        self.revisions.get(namespace, name)
    }

    pub(super) fn insert_revision(&mut self, (namespace, name): &Key, revision: Revision, owner: Option<&str>) {
        if let Some(vm) = owner.filter(|_| matches!(revision, Revision::Instancetype(..) | Revision::Preference(..))) {
            self.owned.entry((namespace.clone(), vm.to_owned())).or_default().insert(name.as_str().into());
        }
        self.revisions.insert(namespace, name, revision);
    }

    /// Removes the ControllerRevisions that a VM owns.
    pub(super) fn remove_owned_by(&mut self, namespace: &str, vm: &str) {
        if self.owned.is_empty() {
            return;
        }
        for name in self.owned.remove(&(namespace.to_owned(), vm.to_owned())).into_iter().flatten() {
            self.revisions.take(namespace, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::Store, *};

    const UID: &str = "vm-a-pe-v1beta1-uid-1";

    fn preference(kind: &str, metadata: &Value, model: &str) -> Value {
        json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": kind, "metadata": metadata,
            "spec": {"devices": {"preferredInterfaceModel": model}}})
    }

    fn revision(name: &str, object: &Value) -> Value {
        let labels = json!({"instancetype.kubevirt.io/object-name": object["metadata"]["name"]});
        let owners = json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm-a", "uid": "u"}]);
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "data": object,
            "metadata": {"name": name, "namespace": "demo", "labels": labels, "ownerReferences": owners}})
    }

    /// A cluster with two preferences of the name `pe`, and without ControllerRevisions.
    fn cluster() -> Store {
        let mut store = Store::complete();
        store.end_sync(Kind::Revision);
        for object in [
            preference("VirtualMachinePreference", &json!({"name": "pe", "namespace": "demo"}), "e1000e"),
            preference("VirtualMachineClusterPreference", &json!({"name": "pe"}), "rtl8139"),
        ] {
            store.insert(&object).unwrap();
        }
        store
    }

    fn model(store: &Store, matcher: &Value, stored: &str) -> Option<String> {
        let text = json!({"metadata": {"namespace": "demo", "name": "vm-a"}, "spec": {"preference": matcher},
            "status": {"preferenceRef": {"controllerRevisionRef": {"name": stored}}}})
        .to_string();
        let expansion = store.expansion("demo", &serde_json::from_str(&text).unwrap());
        assert_eq!(expansion.instancetype, Fact::Absent);
        expansion.preference.known().map(|preference| preference.devices.interface_model.to_string())
    }

    #[test]
    fn an_object_is_found_by_its_kind_in_any_case() {
        let store = cluster();
        for (matcher, expected) in [
            (json!({"name": "pe", "kind": "VirtualMachinePreference"}), Some("e1000e")),
            (json!({"name": "pe", "kind": "virtualmachinepreferences"}), Some("e1000e")),
            (json!({"name": "pe", "kind": "VirtualMachineClusterPreference"}), Some("rtl8139")),
            (json!({"name": "pe"}), Some("rtl8139")),
            (json!({"name": "pe", "kind": "VirtualMachineInstancetype"}), None),
            (json!({"name": "other"}), None),
            (json!({}), None),
        ] {
            assert_eq!(model(&store, &matcher, "").as_deref(), expected, "{matcher}");
            assert_eq!(model(&Store::default(), &matcher, ""), None, "{matcher}");
        }
    }

    #[test]
    fn a_controller_revision_precedes_the_object() {
        let mut store = cluster();
        let named = json!({"name": "pe", "kind": "VirtualMachinePreference"});
        let by_revision = json!({"name": "pe", "kind": "VirtualMachinePreference", "revisionName": UID});
        // It is not read yet.
        assert_eq!((model(&store, &named, UID), model(&store, &by_revision, "")), (None, None));
        store.mark_absent(Kind::Revision, "demo", UID);
        assert_eq!(model(&store, &named, UID).as_deref(), Some("e1000e"));
        let pe = preference("VirtualMachinePreference", &json!({"name": "pe", "namespace": "demo"}), "pcnet");
        store.insert(&revision(UID, &pe)).unwrap();
        assert_eq!(model(&store, &named, UID).as_deref(), Some("pcnet"));
        assert_eq!(model(&store, &by_revision, "other").as_deref(), Some("pcnet"));
        // The revision of the status is that of the preference before.
        let other = json!({"name": "pf", "kind": "VirtualMachinePreference"});
        assert_eq!(model(&store, &other, UID), None);
        let pf = preference("VirtualMachinePreference", &json!({"name": "pf", "namespace": "demo"}), "ne2k_pci");
        store.insert(&pf).unwrap();
        assert_eq!(model(&store, &other, UID).as_deref(), Some("ne2k_pci"));
        // Such a revision stores something else.
        let instancetype = json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineInstancetype",
            "metadata": {"name": "pe"}, "spec": {"cpu": {"guest": 1}, "memory": {"guest": "1Gi"}}});
        store.insert(&revision(UID, &instancetype)).unwrap();
        assert_eq!(model(&store, &named, UID), None);
    }

    #[test]
    fn the_controller_revisions_of_a_deleted_vm_are_removed() {
        let mut store = cluster();
        let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": "vm-a", "namespace": "demo"}});
        let pe = preference("VirtualMachinePreference", &json!({"name": "pe", "namespace": "demo"}), "pcnet");
        store.insert(&vm).unwrap();
        store.insert(&revision(UID, &pe)).unwrap();
        assert_eq!(store.count(Kind::Revision), 1);
        store.insert(&vm).unwrap();
        assert_eq!(store.count(Kind::Revision), 1);
        store.remove(Kind::Vm, "demo", "vm-a");
        assert_eq!(store.count(Kind::Revision), 0);
        assert!(store.expanders.owned.is_empty());
    }

    #[test]
    fn an_object_that_changes_nothing_a_rule_reads_is_known_already() {
        let mut store = cluster();
        let registry = store.registry();
        let is_known = |store: &Store, object: &Value, kind| {
            store.contains(&super::super::Projection::read(kind, &object.to_string(), &registry).unwrap())
        };
        let mut object = preference("VirtualMachinePreference", &json!({"name": "pe", "namespace": "demo"}), "e1000e");
        object["spec"]["features"] = json!({"preferredAcpi": {}});
        assert!(is_known(&store, &object, Kind::Preference));
        object["spec"]["devices"]["preferredInterfaceModel"] = json!("virtio");
        assert!(!is_known(&store, &object, Kind::Preference));
        let instancetype =
            json!({"metadata": {"name": "u1"}, "spec": {"cpu": {"guest": 1}, "memory": {"guest": "1Gi"}}});
        assert!(!is_known(&store, &instancetype, Kind::ClusterInstancetype));
        store.apply(Kind::ClusterInstancetype, &instancetype.to_string()).unwrap();
        assert!(is_known(&store, &instancetype, Kind::ClusterInstancetype));
    }

    #[test]
    fn the_devices_at_boot_are_those_of_the_expanded_template() {
        let mut store = Store::complete();
        store.end_sync(Kind::Revision);
        let boot = "revision-start-vm-uid-1";
        let vmi = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "vm-a", "namespace": "demo"}, "spec": {"domain": {"devices": {}}},
            "status": {"phase": "Running", "virtualMachineRevisionName": boot}});
        let devices = |store: &Store| {
            let vmi = store.vmi("demo", "vm-a");
            store.revision("demo", &vmi).map(|devices| devices.port_usage.virtio_disks)
        };
        store.insert(&vmi).unwrap();
        assert_eq!(devices(&store), Fact::Unknown);
        let spec = json!({"preference": {"name": "pe", "kind": "VirtualMachinePreference", "revisionName": UID},
            "template": {"spec": {"domain": {"devices": {"disks": [{"name": "d", "disk": {}}]}}}}});
        store
            .insert(&json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
                "metadata": {"name": boot, "namespace": "demo"}, "data": {"spec": spec}}))
            .unwrap();
        assert_eq!(devices(&store), Fact::Unknown);
        let mut pe = preference("VirtualMachinePreference", &json!({"name": "pe", "namespace": "demo"}), "");
        pe["spec"]["devices"]["preferredDiskBus"] = json!("virtio");
        store.insert(&revision(UID, &pe)).unwrap();
        assert_eq!(devices(&store), Fact::Known(1));
    }
}
