//! An index of networks: in which namespaces running guests use them.
//!
//! It has an entry for each network and namespace, and none for a guest, so that it takes no memory per guest. Requests
//! that change a network are rare; they read the guests of these namespaces one by one.

use std::collections::{HashMap, hash_map::Entry};

use crate::{api::network::NadRef, facts::nic::GuestNic};

/// Stands for the namespace where Multus looks for default networks without one, which may change.
pub(crate) const OF_MULTUS: &str = "";

/// The number of NICs on each network (`namespace/name`), by the namespace of their guests.
#[derive(Debug, Default)]
pub(crate) struct NetworkIndex(HashMap<Box<str>, HashMap<Box<str>, usize>>);

impl NetworkIndex {
    /// Adds the NICs of a guest.
    pub(crate) fn add(&mut self, nics: &[GuestNic], namespace: &str) {
        for network in networks(nics, namespace) {
            let namespaces = self.0.entry(network.full_name().into()).or_default();
            match namespaces.get_mut(namespace) {
                Some(count) => *count += 1,
                None => drop(namespaces.insert(namespace.into(), 1)),
            }
        }
    }

    /// Removes the NICs of a guest, which were added.
    pub(crate) fn remove(&mut self, nics: &[GuestNic], namespace: &str) {
        for network in networks(nics, namespace) {
            let Entry::Occupied(mut namespaces) = self.0.entry(network.full_name().into()) else { continue };
            let Some(count) = namespaces.get_mut().get_mut(namespace) else { continue };
            *count -= 1;
            if *count == 0 {
                namespaces.get_mut().remove(namespace);
            }
            if namespaces.get().is_empty() {
                namespaces.remove();
            }
        }
    }

    /// Returns the namespaces with guests on a network.
    pub(crate) fn namespaces(&self, network: NadRef) -> impl Iterator<Item = &str> {
        self.0.get(&*network.full_name()).into_iter().flat_map(HashMap::keys).map(AsRef::as_ref)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the network of each NIC that the guest keeps.
pub(crate) fn networks<'n>(nics: &'n [GuestNic], namespace: &'n str) -> impl Iterator<Item = NadRef<'n>> {
    nics.iter().filter(|nic| !nic.is_absent).filter_map(move |nic| nic.nad(namespace, OF_MULTUS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::network::Interface, facts::nic::NetworkRole};

    fn nic(network: &str, role: NetworkRole, is_absent: bool) -> GuestNic {
        let interface: Interface = serde_json::from_str("{}").unwrap();
        GuestNic { network: Some(network.into()), role, is_absent, ..GuestNic::of(&interface, None) }
    }

    #[test]
    fn the_index_has_the_namespaces_of_the_guests_that_are_left() {
        let further = |network| nic(network, NetworkRole::Additional, false);
        let guests = [
            ("demo", vec![further("blue"), further("prod/red"), nic("green", NetworkRole::Additional, true)]),
            ("demo", vec![further("blue"), further("blue")]),
            ("prod", vec![further("demo/blue"), nic("tenant", NetworkRole::Default, false)]),
        ];
        let mut index = NetworkIndex::default();
        for (namespace, nics) in &guests {
            index.add(nics, namespace);
        }
        let namespaces = |index: &NetworkIndex, namespace, name| {
            let mut found: Vec<_> = index.namespaces(NadRef { namespace, name }).map(str::to_owned).collect();
            found.sort();
            found
        };
        assert_eq!(namespaces(&index, "demo", "blue"), ["demo", "prod"]);
        assert_eq!(namespaces(&index, "prod", "red"), ["demo"]);
        assert_eq!(namespaces(&index, OF_MULTUS, "tenant"), ["prod"], "Multus looks for it in its own namespace");
        assert_eq!(namespaces(&index, "demo", "green"), Vec::<String>::new(), "it is being unplugged");
        index.remove(&guests[0].1, "demo");
        assert_eq!(namespaces(&index, "demo", "blue"), ["demo", "prod"], "another guest still has it");
        for (namespace, nics) in &guests[1..] {
            index.remove(nics, namespace);
        }
        assert!(index.is_empty());
    }
}
