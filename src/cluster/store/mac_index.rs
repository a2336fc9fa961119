//! Which guests have which MAC addresses on which networks.

use std::{collections::BTreeMap, sync::Arc};

use super::interner::Interner;
use crate::{
    api::{guest::GuestSpec, mac::Mac, network::NadRef},
    facts::nic::GuestNic,
};

/// The address of each NIC of a guest, in the order of its NICs; `None` where it has none that can be read.
pub(crate) type Macs = Box<[Option<Mac>]>;

/// A MAC address on a NetworkAttachmentDefinition.
pub(crate) type Place<'n> = (Mac, NadRef<'n>);

/// An object that has NICs. A VM and its VMI are two, and one guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Holder {
    /// The VM, by its template.
    Vm,
    /// The VMI.
    Vmi,
}

/// The index by address. What an object has is not kept a second time: who takes it out tells what it had.
#[derive(Debug, Default)]
pub(crate) struct MacIndex {
    /// One sorted table: nearly every address has one guest, for which a table of its own would be many times larger.
    users: BTreeMap<User, Holders>,
    /// The networks and guests of the table, as `namespace/name`.
    names: Interner<str>,
}

/// A guest that has an address on a network.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct User {
    mac: Mac,
    network: Arc<str>,
    guest: Arc<str>,
}

impl User {
    fn new((mac, network): Place, guest: &Arc<str>) -> Self {
        Self { mac, network: network.to_string().into(), guest: Arc::clone(guest) }
    }
}

/// Which objects of the guest have it.
#[derive(Debug, Default, Eq, PartialEq)]
struct Holders {
    vm: bool,
    vmi: bool,
}

impl Holders {
    fn set(&mut self, holder: Holder, has: bool) {
        match holder {
            Holder::Vm => self.vm = has,
            Holder::Vmi => self.vmi = has,
        }
    }
}

impl MacIndex {
    /// Notes what an object of a guest has.
    pub(crate) fn add<'n>(&mut self, guest: &str, holder: Holder, places: impl Iterator<Item = Place<'n>>) {
        let guest = guest.into();
        for place in places {
            let mut user = User::new(place, &guest);
            if !self.users.contains_key(&user) {
                self.names.share(&mut user.network);
                self.names.share(&mut user.guest);
            }
            self.users.entry(user).or_default().set(holder, true);
        }
    }

    /// Forgets what an object of a guest had.
    pub(crate) fn remove<'n>(&mut self, guest: &str, holder: Holder, places: impl Iterator<Item = Place<'n>>) {
        let guest = guest.into();
        for place in places {
            let user = User::new(place, &guest);
            let Some(holders) = self.users.get_mut(&user) else { continue };
            holders.set(holder, false);
            if *holders == Holders::default() {
                self.users.remove(&user);
                self.names.release(&user.network);
                self.names.release(&user.guest);
            }
        }
    }

    /// A guest other than `own` that has the address on the network: of several the first by name.
    pub(crate) fn other_user(&self, mac: Mac, network: &str, own: &str) -> Option<&str> {
        let network = self.names.find(network)?;
        let first = User { mac, network: Arc::clone(&network), guest: Arc::default() };
        let users = self.users.range(first..).map(|(user, _)| user);
        let mut guests = users.take_while(|user| user.mac == mac && user.network == network).map(|user| &*user.guest);
        guests.find(|guest| *guest != own)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.names.len() == 0
    }
}

/// The addresses of the NICs of a guest.
pub(crate) fn macs_of(guest: &GuestSpec) -> Macs {
    let interfaces = guest.interfaces().iter();
    let macs: Macs = interfaces.map(|interface| interface.mac_address.as_deref()?.parse().ok()).collect();
    if macs.iter().any(Option::is_some) { macs } else { Macs::default() }
}

/// Where a guest's NICs are: those on NetworkAttachmentDefinitions that have an address, and are not to be removed.
pub(crate) fn places<'n>(
    nics: &'n [GuestNic],
    macs: &[Option<Mac>],
    namespace: &'n str,
) -> impl Iterator<Item = Place<'n>> {
    nics.iter().zip(macs).filter(|(nic, _)| !nic.is_absent).filter_map(move |(nic, mac)| {
        let network = nic.network.as_deref()?;
        Some(((*mac)?, NadRef::parse(network, namespace)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NETWORKS: [NadRef; 2] =
        [NadRef { namespace: "demo", name: "net" }, NadRef { namespace: "other", name: "net" }];

    fn mac(last: u8) -> Mac {
        format!("02:00:00:00:00:{last:02x}").parse().unwrap()
    }

    #[test]
    fn a_place_is_an_address_on_the_network_of_a_nic_that_stays() {
        let text = r#"{"domain": {"devices": {"interfaces": [
                {"name": "a", "bridge": {}, "macAddress": "02-00-00-00-00-AA"}, {"name": "b", "bridge": {}},
                {"name": "c", "bridge": {}, "macAddress": "none"}, {"name": "d", "macAddress": "02:00:00:00:00:dd"},
                {"name": "e", "bridge": {}, "macAddress": "02:00:00:00:00:ee", "state": "absent"},
                {"name": "f", "bridge": {}, "macAddress": "02:00:00:00:00:ff"}]}},
            "networks": [{"name": "a", "multus": {"networkName": "net"}}, {"name": "b", "multus": {"networkName": "net"}},
                {"name": "c", "multus": {"networkName": "net"}}, {"name": "d", "pod": {}},
                {"name": "e", "multus": {"networkName": "net"}}, {"name": "f", "multus": {"networkName": "other/net"}}]}"#;
        let guest: GuestSpec = serde_json::from_str(text).unwrap();
        let (nics, macs) = (GuestNic::all(&guest), macs_of(&guest));
        let places: Vec<_> = places(&nics, &macs, "demo").collect();
        assert_eq!(places, [(mac(0xaa), NETWORKS[0]), (mac(0xff), NETWORKS[1])]);
    }

    #[test]
    fn a_vm_and_its_vmi_are_one_guest_and_what_changes_is_forgotten() {
        let (mac, place) = (mac(1), (mac(1), NETWORKS[0]));
        let mut index = MacIndex::default();
        index.add("demo/one", Holder::Vm, [place].into_iter());
        index.add("demo/one", Holder::Vmi, [place].into_iter());
        assert_eq!(index.other_user(mac, "demo/net", "demo/one"), None);
        assert_eq!(index.other_user(mac, "demo/net", "demo/two"), Some("demo/one"));
        assert_eq!(index.other_user(mac, "other/net", "demo/two"), None);
        index.remove("demo/one", Holder::Vm, [place].into_iter());
        assert_eq!(index.other_user(mac, "demo/net", "demo/two"), Some("demo/one"), "its VMI has it still");
        index.remove("demo/one", Holder::Vmi, [place].into_iter());
        assert!(index.is_empty());
    }

    proptest! {
        #[test]
        fn the_index_knows_who_is_there_and_nobody_else(
            steps in prop::collection::vec((0_u8..3, any::<bool>(), any::<bool>(), prop::collection::vec((0_u8..3, 0_usize..2), 0..4)), 0..24)
        ) {
            let mut index = MacIndex::default();
            let mut model = BTreeMap::<(String, bool), Vec<(u8, usize)>>::new();
            let holder = |is_vm| if is_vm { Holder::Vm } else { Holder::Vmi };
            let of = |places: &[(u8, usize)]| places.iter().map(|&(last, network)| (mac(last), NETWORKS[network])).collect::<Vec<_>>();
            for (guest, is_vm, is_there, places) in steps {
                let object = (format!("demo/{guest}"), is_vm);
                if let Some(before) = model.remove(&object) {
                    index.remove(&object.0, holder(is_vm), of(&before).into_iter());
                }
                if is_there {
                    index.add(&object.0, holder(is_vm), of(&places).into_iter());
                    model.insert(object, places);
                }
            }
            for own in 0_u8..4 {
                let own = format!("demo/{own}");
                for (last, network) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
                    let others = model.iter().filter(|((guest, _), places)| *guest != own && places.contains(&(last, network)));
                    let first = others.map(|((guest, _), _)| guest.as_str()).min();
                    prop_assert_eq!(index.other_user(mac(last), &NETWORKS[network].to_string(), &own), first);
                }
            }
            for ((guest, is_vm), places) in &model {
                index.remove(guest, holder(*is_vm), of(places).into_iter());
            }
            prop_assert!(index.is_empty());
        }
    }
}
