//! Which guests have which MAC addresses on which networks.

use std::collections::{HashMap, HashSet};

use super::Key;
use crate::api::{guest::GuestSpec, mac::Mac, network::NadRef};

/// A MAC address on a NetworkAttachmentDefinition, `namespace/name`.
pub(super) type Place = (Mac, String);

/// An object that has NICs. A VM and its VMI are two, and one guest.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Holder {
    /// The VM, by its template.
    Machine,
    /// The VMI.
    Instance,
}

/// The index, both ways: by place to answer, by object to forget.
#[derive(Clone, Debug, Default)]
pub(super) struct MacIndex {
    guests: HashMap<Place, HashSet<(Key, Holder)>>,
    places: HashMap<(Key, Holder), Vec<Place>>,
}

impl MacIndex {
    /// What an object has.
    pub(super) fn places(&self, key: &Key, holder: Holder) -> &[Place] {
        self.places.get(&(key.clone(), holder)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Notes what an object has now, and forgets what it had.
    pub(super) fn replace(&mut self, key: &Key, holder: Holder, places: Vec<Place>) {
        self.remove(key, holder);
        for place in &places {
            self.guests.entry(place.clone()).or_default().insert((key.clone(), holder));
        }
        if !places.is_empty() {
            self.places.insert((key.clone(), holder), places);
        }
    }

    /// Forgets what an object had.
    pub(super) fn remove(&mut self, key: &Key, holder: Holder) {
        let object = (key.clone(), holder);
        for place in self.places.remove(&object).unwrap_or_default() {
            if let Some(guests) = self.guests.get_mut(&place) {
                guests.remove(&object);
                if guests.is_empty() {
                    self.guests.remove(&place);
                }
            }
        }
    }

    /// A guest other than `own` that has the address on the network: of several the first by name.
    pub(super) fn other_user(&self, mac: Mac, network: &str, own: (&str, &str)) -> Option<&Key> {
        let guests = self.guests.get(&(mac, network.to_owned()))?;
        guests.iter().map(|(key, _)| key).filter(|(namespace, name)| (namespace.as_str(), name.as_str()) != own).min()
    }
}

/// The places of the NICs that a guest has.
pub(super) fn places_of(guest: &GuestSpec, namespace: &str) -> Vec<Place> {
    let interfaces = guest.interfaces().iter().filter(|interface| !interface.is_absent());
    let place = |interface: &crate::api::network::Interface| {
        let mac = interface.mac_address.as_deref()?.parse().ok()?;
        let network = guest.networks.iter().rfind(|network| network.name == interface.name)?;
        let nad = NadRef::parse(&network.multus.as_ref()?.network_name, namespace);
        Some((mac, nad.to_string()))
    };
    interfaces.filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("demo".to_owned(), name.to_owned())
    }

    fn guest(mac: &str) -> String {
        format!(
            r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "a", "bridge": {{}}, "macAddress": "{mac}"}}]}}}},
                "networks": [{{"name": "a", "multus": {{"networkName": "net"}}}}]}}"#
        )
    }

    #[test]
    fn a_vm_and_its_vmi_are_one_guest_and_what_changes_is_forgotten() {
        let mac: Mac = "02:00:00:00:00:aa".parse().unwrap();
        let (text, other) = (guest("02-00-00-00-00-AA"), guest("02:00:00:00:00:bb"));
        let mut index = MacIndex::default();
        let places = |text: &str| places_of(&serde_json::from_str(text).unwrap(), "demo");
        index.replace(&key("one"), Holder::Machine, places(&text));
        index.replace(&key("one"), Holder::Instance, places(&text));
        assert_eq!(index.places(&key("one"), Holder::Instance), [(mac, "demo/net".to_owned())]);
        assert_eq!(index.other_user(mac, "demo/net", ("demo", "one")), None);
        assert_eq!(index.other_user(mac, "demo/net", ("demo", "two")), Some(&key("one")));
        assert_eq!(index.other_user(mac, "other/net", ("demo", "two")), None);
        index.replace(&key("one"), Holder::Machine, places(&other));
        assert_eq!(index.other_user(mac, "demo/net", ("demo", "two")), Some(&key("one")), "its VMI has it still");
        index.remove(&key("one"), Holder::Instance);
        assert_eq!(index.other_user(mac, "demo/net", ("demo", "two")), None);
        index.remove(&key("one"), Holder::Machine);
        assert!(index.guests.is_empty() && index.places.is_empty());
    }
}
