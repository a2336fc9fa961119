//! An index of guests by MAC address and network.

use std::{collections::BTreeMap, sync::Arc};

use super::{interner::Interner, network_index::OF_MULTUS};
use crate::{
    api::{mac::Mac, network::NadRef},
    facts::nic::GuestNic,
};

/// A MAC address on a NetworkAttachmentDefinition.
pub(crate) type MacOnNetwork<'n> = (Mac, NadRef<'n>);

/// An object that has NICs. A VM and its VMI are two objects and one guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Holder {
    /// The VM, by its template.
    Vm,
    /// The VMI.
    Vmi,
}

/// The index. It does not store the addresses of each object: the caller that removes an object passes them.
#[derive(Debug, Default)]
pub(crate) struct MacIndex {
    /// One sorted map: nearly every address has one guest, and a map for each address would be many times larger.
    users: BTreeMap<User, Holders>,
    /// The networks, as `namespace/name`.
    networks: Interner<str>,
}

/// A guest that has an address on a network.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct User {
    mac: Mac,
    network: Arc<str>,
    guest: Arc<str>,
}

impl User {
    fn new((mac, network): MacOnNetwork, guest: &Arc<str>) -> Self {
        Self { mac, network: network.full_name().into(), guest: Arc::clone(guest) }
    }
}

/// A guest that has an address on a network, as `namespace/name`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UserOfMac<'i> {
    pub(crate) guest: &'i str,
    /// Whether its VMI has the address.
    pub(crate) is_running: bool,
}

/// Returns the definition of a network in the index, with the namespace where Multus looks for default networks.
pub(crate) fn nad_of_index<'i>(network: &'i str, multus_namespace: &'i str) -> NadRef<'i> {
    let nad = NadRef::parse(network, OF_MULTUS);
    if nad.namespace == OF_MULTUS { NadRef { namespace: multus_namespace, ..nad } } else { nad }
}

/// Returns the names of a definition in the index. A default network has another one if Multus may look for it there.
pub(crate) fn names_in_index(nad: NadRef, multus_namespace: &str) -> impl Iterator<Item = String> {
    let of_multus = (nad.namespace == multus_namespace).then(|| NadRef { namespace: OF_MULTUS, ..nad }.full_name());
    std::iter::once(nad.full_name()).chain(of_multus)
}

/// Which objects of the guest have the address.
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
    /// Adds the addresses of an object. They share the name of the guest, which an interner for all guests would have to
    /// hold once more.
    pub(crate) fn add<'n>(&mut self, guest: &str, holder: Holder, macs: impl Iterator<Item = MacOnNetwork<'n>>) {
        let guest = guest.into();
        for mac in macs {
            let mut user = User::new(mac, &guest);
            if !self.users.contains_key(&user) {
                self.networks.intern(&mut user.network);
            }
            self.users.entry(user).or_default().set(holder, true);
        }
    }

    /// Removes the addresses of an object.
    pub(crate) fn remove<'n>(&mut self, guest: &str, holder: Holder, macs: impl Iterator<Item = MacOnNetwork<'n>>) {
        let guest = guest.into();
        for mac in macs {
            let user = User::new(mac, &guest);
            let Some(holders) = self.users.get_mut(&user) else { continue };
            holders.set(holder, false);
            if *holders == Holders::default() {
                self.users.remove(&user);
                self.networks.release(&user.network);
            }
        }
    }

    /// Returns the guests that have the address on a network, by name.
    pub(crate) fn users(&self, mac: Mac, network: &str) -> impl Iterator<Item = UserOfMac<'_>> {
        let first = User { mac, network: network.into(), guest: Arc::default() };
        let network = Arc::clone(&first.network);
        let users = self.users.range(first..).take_while(move |(user, _)| user.mac == mac && user.network == network);
        users.map(|(user, holders)| UserOfMac { guest: &user.guest, is_running: holders.vmi })
    }

    /// Returns the networks on which guests have the address, in order. It does not look at each guest.
    pub(crate) fn networks(&self, mac: Mac) -> impl Iterator<Item = &str> {
        // No name of a guest is after this one.
        let last_guest: Arc<str> = char::MAX.to_string().into();
        let after = move |network: &Arc<str>| {
            let last = User { mac, network: Arc::clone(network), guest: Arc::clone(&last_guest) };
            self.users.range(last..).next().filter(|(user, _)| user.mac == mac).map(|(user, _)| &user.network)
        };
        let first = User { mac, network: Arc::default(), guest: Arc::default() };
        let first = self.users.range(first..).next().filter(|(user, _)| user.mac == mac);
        std::iter::successors(first.map(|(user, _)| &user.network), move |network| after(network)).map(|name| &**name)
    }

    #[cfg(test)]
    pub(crate) fn other_user(&self, mac: Mac, network: &str, own: &str) -> Option<&str> {
        self.users(mac, network).find(|user| user.guest != own).map(|user| user.guest)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.networks.len() == 0
    }
}

/// Returns the MAC addresses of a guest on NetworkAttachmentDefinitions, without NICs that are being removed.
pub(crate) fn macs_on_networks<'n>(
    nics: &'n [GuestNic],
    macs: &[Option<Mac>],
    namespace: &'n str,
) -> impl Iterator<Item = MacOnNetwork<'n>> {
    nics.iter()
        .zip(macs)
        .filter(|(nic, _)| !nic.is_absent)
        .filter_map(move |(nic, mac)| Some(((*mac)?, nic.nad(namespace, OF_MULTUS)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::collections::BTreeSet;

    use super::*;
    use crate::{api::guest::GuestSpec, facts::nic::macs_of};

    const NETWORKS: [NadRef; 2] =
        [NadRef { namespace: "demo", name: "net" }, NadRef { namespace: "other", name: "net" }];

    fn mac(last: u8) -> Mac {
        format!("02:00:00:00:00:{last:02x}").parse().unwrap()
    }

    #[test]
    fn only_nics_that_stay_and_have_a_network_and_an_address_are_indexed() {
        let text = r#"{"domain": {"devices": {"interfaces": [
                {"name": "a", "bridge": {}, "macAddress": "02-00-00-00-00-AA"}, {"name": "b", "bridge": {}},
                {"name": "c", "bridge": {}, "macAddress": "none"}, {"name": "d", "macAddress": "02:00:00:00:00:dd"},
                {"name": "e", "bridge": {}, "macAddress": "02:00:00:00:00:ee", "state": "absent"},
                {"name": "f", "bridge": {}, "macAddress": "02:00:00:00:00:ff"}]}},
            "networks": [{"name": "a", "multus": {"networkName": "net"}},
                {"name": "b", "multus": {"networkName": "net"}},
                {"name": "c", "multus": {"networkName": "net"}}, {"name": "d", "pod": {}},
                {"name": "e", "multus": {"networkName": "net"}},
                {"name": "f", "multus": {"networkName": "other/net"}}]}"#;
        let guest: GuestSpec = serde_json::from_str(text).unwrap();
        let (nics, macs) = (GuestNic::all(&guest), macs_of(&guest));
        let macs: Vec<_> = macs_on_networks(&nics, &macs, "demo").collect();
        assert_eq!(macs, [(mac(0xaa), NETWORKS[0]), (mac(0xff), NETWORKS[1])]);
    }

    #[test]
    fn a_vm_and_its_vmi_are_one_guest() {
        let (mac, used) = (mac(1), (mac(1), NETWORKS[0]));
        let mut index = MacIndex::default();
        index.add("demo/one", Holder::Vm, [used].into_iter());
        index.add("demo/one", Holder::Vmi, [used].into_iter());
        assert_eq!(index.other_user(mac, "demo/net", "demo/one"), None);
        assert_eq!(index.other_user(mac, "demo/net", "demo/two"), Some("demo/one"));
        assert_eq!(index.other_user(mac, "other/net", "demo/two"), None);
        index.remove("demo/one", Holder::Vm, [used].into_iter());
        assert_eq!(index.other_user(mac, "demo/net", "demo/two"), Some("demo/one"), "its VMI still has it");
        index.remove("demo/one", Holder::Vmi, [used].into_iter());
        assert!(index.is_empty());
    }

    proptest! {
        #[test]
        fn the_index_has_exactly_the_present_objects(
            steps in prop::collection::vec(
                (0_u8..3, any::<bool>(), any::<bool>(), prop::collection::vec((0_u8..3, 0_usize..2), 0..4)),
                0..24,
            )
        ) {
            let mut index = MacIndex::default();
            let mut model = BTreeMap::<(String, bool), Vec<(u8, usize)>>::new();
            let holder = |is_vm| if is_vm { Holder::Vm } else { Holder::Vmi };
            let of = |macs: &[(u8, usize)]| -> Vec<_> {
                macs.iter().map(|&(last, network)| (mac(last), NETWORKS[network])).collect()
            };
            for (guest, is_vm, exists, macs) in steps {
                let object = (format!("demo/{guest}"), is_vm);
                if let Some(before) = model.remove(&object) {
                    index.remove(&object.0, holder(is_vm), of(&before).into_iter());
                }
                if exists {
                    index.add(&object.0, holder(is_vm), of(&macs).into_iter());
                    model.insert(object, macs);
                }
            }
            for own in 0_u8..4 {
                let own = format!("demo/{own}");
                for (last, network) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
                    let has_it = |macs: &Vec<(u8, usize)>| macs.contains(&(last, network));
                    let others = model.iter().filter(|((guest, _), macs)| *guest != own && has_it(macs));
                    let first = others.map(|((guest, _), _)| guest.as_str()).min();
                    let of_mac = model.values().flatten().filter(|(of, _)| *of == last);
                    let networks: BTreeSet<_> = of_mac.map(|(_, network)| NETWORKS[*network].full_name()).collect();
                    prop_assert!(index.networks(mac(last)).eq(networks.iter().map(String::as_str)));
                    prop_assert_eq!(index.other_user(mac(last), &NETWORKS[network].full_name(), &own), first);
                }
            }
            for ((guest, is_vm), macs) in &model {
                index.remove(guest, holder(*is_vm), of(macs).into_iter());
            }
            prop_assert!(index.is_empty());
        }
    }
}
