//! The instancetypes and preferences with which KubeVirt expands VMs, and the ControllerRevisions that store them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::listing::{AnyListing, Listing};
use crate::{
    api::vm::VirtualMachine,
    cluster::reference::Reference,
    change::ObjectView,
    facts::{Expansion, Fact, Instancetype, Preference},
    k8s::{Key, kind::Kind},
    pci::Devices,
};

/// The instancetypes and preferences of a cluster.
#[derive(Debug, Default)]
pub(super) struct Expanders {
    instancetypes: Listing<Arc<Instancetype>>,
    cluster_instancetypes: Listing<Arc<Instancetype>>,
    preferences: Listing<Arc<Preference>>,
    cluster_preferences: Listing<Arc<Preference>>,
    revisions: Listing<Revision>,
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
        Expansion {
            instancetype: instancetype.map_or(Fact::Absent, |reference| {
                let of_revision = |revision: &Revision| match revision {
                    Revision::Instancetype(name, object) => Some((name.clone(), Arc::clone(object))),
                    _ => None,
                };
                let live = |kind| match kind {
                    Kind::Instancetype => self.instancetypes.get(namespace, &reference.matcher.name),
                    _ => self.cluster_instancetypes.get("", &reference.matcher.name),
                };
                self.find(namespace, &reference, live, of_revision)
            }),
            preference: preference.map_or(Fact::Absent, |reference| {
                let of_revision = |revision: &Revision| match revision {
                    Revision::Preference(name, object) => Some((name.clone(), Arc::clone(object))),
                    _ => None,
                };
                let live = |kind| match kind {
                    Kind::Preference => self.preferences.get(namespace, &reference.matcher.name),
                    _ => self.cluster_preferences.get("", &reference.matcher.name),
                };
                self.find(namespace, &reference, live, of_revision)
            }),
        }
    }

    /// Finds what a VM names: its ControllerRevision, else the object. Unknown if it cannot be found, because KubeVirt
    /// starts no such VM.
    fn find<'s, T: 's>(
        &'s self,
        namespace: &str,
        reference: &Reference,
        live: impl Fn(Kind) -> Fact<&'s Arc<T>>,
        of_revision: impl Fn(&Revision) -> Option<(Box<str>, Arc<T>)>,
    ) -> Fact<Arc<T>> {
        if !reference.revision().is_empty() {
            match self.revisions.get(namespace, reference.revision()) {
                Fact::Known(revision) => match of_revision(revision) {
                    Some((name, object)) if reference.accepts(&name) => return Fact::Known(object),
                    Some(_) => {}
                    None => return Fact::Unknown,
                },
                // Files of facts may lack it. A cluster does not.
                Fact::Absent => {}
                Fact::Unknown => return Fact::Unknown,
            }
        }
        let object = reference.kind().map_or(Fact::Unknown, live);
        object.known().map_or(Fact::Unknown, |object| Fact::Known(Arc::clone(object)))
    }

    /// Returns the names of ControllerRevisions that a VM names and that are unknown.
    pub(super) fn missing(&self, namespace: &str, view: &ObjectView) -> impl Iterator<Item = Box<str>> {
        view.expanded_vm().into_iter().flat_map(move |vm| self.missing_of(namespace, vm))
    }

    pub(super) fn missing_of(&self, namespace: &str, vm: &VirtualMachine) -> Vec<Box<str>> {
        let names = Reference::both(vm).into_iter().flatten().map(|reference| reference.revision().into());
        names.filter(|name: &Box<str>| !name.is_empty() && !self.revisions.knows(namespace, name)).collect()
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

    pub(super) fn insert_instancetype(&mut self, kind: Kind, (namespace, name): &Key, object: Instancetype) {
        let listing = match kind {
            Kind::Instancetype => &mut self.instancetypes,
            _ => &mut self.cluster_instancetypes,
        };
        listing.insert(namespace, name, Arc::new(object));
    }

    pub(super) fn insert_preference(&mut self, kind: Kind, (namespace, name): &Key, object: Preference) {
        let listing = match kind {
            Kind::Preference => &mut self.preferences,
            _ => &mut self.cluster_preferences,
        };
        listing.insert(namespace, name, Arc::new(object));
    }

    pub(super) fn contains_instancetype(&self, kind: Kind, (namespace, name): &Key, object: &Instancetype) -> bool {
        let listing = match kind {
            Kind::Instancetype => &self.instancetypes,
            _ => &self.cluster_instancetypes,
        };
        listing.get(namespace, name).known().is_some_and(|known| ***known == *object)
    }

    pub(super) fn contains_preference(&self, kind: Kind, (namespace, name): &Key, object: &Preference) -> bool {
        let listing = match kind {
            Kind::Preference => &self.preferences,
            _ => &self.cluster_preferences,
        };
        listing.get(namespace, name).known().is_some_and(|known| ***known == *object)
    }

    /// Returns the listing of instancetypes, preferences or ControllerRevisions.
    pub(super) fn listing(&self, kind: Kind) -> &dyn AnyListing {
        match kind {
            Kind::Instancetype => &self.instancetypes,
            Kind::ClusterInstancetype => &self.cluster_instancetypes,
            Kind::Preference => &self.preferences,
            Kind::ClusterPreference => &self.cluster_preferences,
            _ => &self.revisions,
        }
    }

    pub(super) fn listing_mut(&mut self, kind: Kind) -> &mut dyn AnyListing {
        match kind {
            Kind::Instancetype => &mut self.instancetypes,
            Kind::ClusterInstancetype => &mut self.cluster_instancetypes,
            Kind::Preference => &mut self.preferences,
            Kind::ClusterPreference => &mut self.cluster_preferences,
            _ => &mut self.revisions,
        }
    }

    /// Whether no ControllerRevision of a VM is left.
    #[cfg(test)]
    pub(super) fn has_no_owned(&self) -> bool {
        self.owned.is_empty()
    }
}
