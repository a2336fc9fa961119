//! The NICs of a guest by name, and the difference between two states of a guest.

use std::slice;

use super::{ObjectView, StatusRequests};
use crate::api::{
    guest::GuestSpec,
    mac::Mac,
    network::{Interface, Network},
    vm::AddInterface,
};

/// The NICs that a request changes, in the order of the new object (removed ones: of the stored object).
#[derive(Debug, Default)]
pub struct NicDiff<'r> {
    /// NICs of the new object only.
    pub added: Vec<Nic<'r>>,
    /// NICs of the stored object only.
    pub removed: Vec<Nic<'r>>,
    /// NICs whose state becomes `absent`.
    pub set_absent: Vec<Nic<'r>>,
    /// NICs with another difference: stored and new.
    pub modified: Vec<(Nic<'r>, Nic<'r>)>,
}

impl<'r> NicDiff<'r> {
    /// Returns the NICs that are added or modified, as in the new object; not those that are only set absent.
    pub fn added_or_modified(&self) -> impl Iterator<Item = &Nic<'r>> {
        self.added.iter().chain(self.modified.iter().map(|(_, nic)| nic))
    }

    /// Whether no NIC differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.set_absent.is_empty() && self.modified.is_empty()
    }
}

/// An interface and the network of the same name. The last one of a name counts, as in KubeVirt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nic<'r> {
    /// The name that both have.
    pub name: &'r str,
    /// `domain.devices.interfaces[index]`.
    pub interface: Option<Indexed<'r, Interface<'r>>>,
    /// `networks[index]`.
    pub network: Option<Indexed<'r, Network<'r>>>,
}

impl<'r> Nic<'r> {
    /// Returns `multus.networkName` as written.
    #[must_use]
    pub fn network_name(&self) -> Option<&'r str> {
        self.network?.value.multus.as_ref().map(|multus| multus.network_name.as_str())
    }

    fn is_complete(&self) -> bool {
        self.interface.is_some() && self.network.is_some()
    }

    /// Whether its state is `absent`.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.interface.is_some_and(|entry| entry.value.is_absent())
    }

    /// Whether its state is `down`.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.interface.is_some_and(|entry| entry.value.is_down())
    }

    /// Returns its MAC address; `None` if it is missing or invalid.
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        self.interface?.value.mac()
    }

    /// Whether both are equal, except for the indices in their lists.
    fn is_same(&self, other: &Self) -> bool {
        self.interface.map(|entry| entry.value) == other.interface.map(|entry| entry.value)
            && self.network.map(|entry| entry.value) == other.network.map(|entry| entry.value)
    }
}

/// An entry of a list and its index.
#[derive(Debug, PartialEq)]
pub struct Indexed<'r, T> {
    /// Counted from 0.
    pub index: usize,
    /// The entry.
    pub value: &'r T,
}

impl<T> Clone for Indexed<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Indexed<'_, T> {}

impl<'r> NicDiff<'r> {
    /// Compares two guests. Allocates nothing if they are equal, and takes n·log n in the number of NICs otherwise.
    #[must_use]
    pub fn between(before: Option<&'r GuestSpec<'r>>, after: &'r GuestSpec<'r>) -> Self {
        if before.is_some_and(|before| before.has_same_nics(after)) {
            return Self::default();
        }
        Self::of(before, &NicsByName::of(after))
    }

    pub(super) fn of(before: Option<&'r GuestSpec<'r>>, new: &NicsByName<'r>) -> Self {
        let old = before.map(NicsByName::of).unwrap_or_default();
        let mut diff = Self::default();
        for nic in new {
            match old.get(nic.name) {
                Some(old) if old.is_same(nic) => {}
                Some(old) if old.is_complete() && nic.interface.is_some() => {
                    if nic.is_absent() && !old.is_absent() {
                        push(&mut diff.set_absent, *nic);
                    } else {
                        push(&mut diff.modified, (*old, *nic));
                    }
                }
                Some(old) if old.is_complete() => {}
                _ => push(&mut diff.added, *nic),
            }
        }
        let is_gone = |nic: &&Nic| new.get(nic.name).is_none_or(|nic| nic.interface.is_none());
        for nic in old.iter().filter(|nic| nic.is_complete()).filter(is_gone) {
            push(&mut diff.removed, *nic);
        }
        diff.sort();
        diff
    }

    /// Returns the NICs that the status of a VM requests to add, and those of its template that it requests to remove.
    pub(super) fn requested(requests: StatusRequests<'r>, after: &ObjectView<'r>) -> Self {
        let nics = after.nics();
        let mut diff = Self::default();
        for (index, request) in requests.added() {
            if let Some(AddInterface { interface, network }) = &request.add_interface_options {
                diff.added.push(Nic {
                    name: &interface.name,
                    interface: Some(Indexed { index, value: interface }),
                    network: Some(Indexed { index, value: network }),
                });
            }
            let removed = request.remove_interface_options.as_ref().and_then(|options| nics.get(&options.name));
            diff.set_absent.extend(removed.map(|nic| Nic {
                interface: nic.interface.map(|entry| Indexed { index, ..entry }),
                network: nic.network.map(|entry| Indexed { index, ..entry }),
                ..*nic
            }));
        }
        diff
    }

    fn sort(&mut self) {
        let indices = |nic: &Nic| (nic.interface.map(|entry| entry.index), nic.network.map(|entry| entry.index));
        self.added.sort_by_key(indices);
        self.removed.sort_by_key(indices);
        self.set_absent.sort_by_key(indices);
        self.modified.sort_by_key(|(_, nic)| indices(nic));
    }
}

/// Appends an entry. Most requests change one NIC, and a vector begins with room for four.
fn push<T>(list: &mut Vec<T>, entry: T) {
    if list.capacity() == 0 {
        list.reserve_exact(1);
    }
    list.push(entry);
}

/// The NICs of a guest, sorted by name.
#[derive(Debug, Default)]
pub struct NicsByName<'r>(Vec<Nic<'r>>);

impl<'r> NicsByName<'r> {
    pub(super) fn of(guest: &'r GuestSpec<'r>) -> Self {
        let interfaces = guest.interfaces().iter().enumerate().map(|(index, value)| Nic {
            name: &value.name,
            interface: Some(Indexed { index, value }),
            network: None,
        });
        let networks = guest.networks.iter().enumerate().map(|(index, value)| Nic {
            name: &value.name,
            interface: None,
            network: Some(Indexed { index, value }),
        });
        let mut nics: Vec<Nic> = interfaces.chain(networks).collect();
        nics.sort_by_key(|nic| nic.name);
        nics.dedup_by(|next, nic| {
            let is_same = next.name == nic.name;
            if is_same {
                nic.interface = next.interface.or(nic.interface);
                nic.network = next.network.or(nic.network);
            }
            is_same
        });
        Self(nics)
    }

    /// Returns the NIC of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Nic<'r>> {
        let index = self.0.binary_search_by_key(&name, |nic| nic.name).ok()?;
        self.0.get(index)
    }

    /// Returns all NICs.
    pub fn iter(&self) -> slice::Iter<'_, Nic<'r>> {
        self.0.iter()
    }
}

impl<'n, 'r> IntoIterator for &'n NicsByName<'r> {
    type Item = &'n Nic<'r>;
    type IntoIter = slice::Iter<'n, Nic<'r>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guest(text: &str) -> GuestSpec<'_> {
        serde_json::from_str(text).unwrap()
    }

    fn names<'r>(nics: &[Nic<'r>]) -> Vec<&'r str> {
        nics.iter().map(|nic| nic.name).collect()
    }

    #[test]
    fn every_kind_of_difference_is_found_by_name() {
        let before = r#"{"domain": {"devices": {"interfaces": [
            {"name": "same", "bridge": {}}, {"name": "gone", "bridge": {}}, {"name": "leaves", "bridge": {}}, {"name": "changes", "bridge": {}}]}},
            "networks": [{"name": "same", "pod": {}}, {"name": "gone", "pod": {}}, {"name": "leaves", "pod": {}}, {"name": "changes", "pod": {}}]}"#;
        let after = r#"{"domain": {"devices": {"interfaces": [
            {"name": "new", "bridge": {}}, {"name": "changes", "sriov": {}}, {"name": "leaves", "bridge": {}, "state": "absent"}, {"name": "same", "bridge": {}}]}},
            "networks": [{"name": "changes", "pod": {}}, {"name": "leaves", "pod": {}}, {"name": "same", "pod": {}}, {"name": "new", "pod": {}}]}"#;
        let (before, after) = (guest(before), guest(after));
        let diff = NicDiff::between(Some(&before), &after);
        assert_eq!(names(&diff.added), ["new"]);
        assert_eq!(names(&diff.removed), ["gone"]);
        assert_eq!(names(&diff.set_absent), ["leaves"]);
        assert_eq!(diff.modified.iter().map(|(_, nic)| nic.name).collect::<Vec<_>>(), ["changes"]);
    }

    #[test]
    fn an_incomplete_nic_that_becomes_complete_is_added() {
        let before = guest(r#"{"networks": [{"name": "a", "pod": {}}]}"#);
        let after = guest(
            r#"{"networks": [{"name": "a", "pod": {}}], "domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}]}}}"#,
        );
        assert_eq!(names(&NicDiff::between(Some(&before), &after).added), ["a"]);
        assert!(NicDiff::between(Some(&before), &before).is_empty());
    }

    #[test]
    fn a_nic_that_loses_its_interface_is_removed() {
        let before = guest(
            r#"{"networks": [{"name": "a", "pod": {}}], "domain": {"devices": {"interfaces": [{"name": "a", "bridge": {}}]}}}"#,
        );
        let after = guest(r#"{"networks": [{"name": "a", "pod": {}}]}"#);
        assert_eq!(names(&NicDiff::between(Some(&before), &after).removed), ["a"]);
    }

    /// Guests of up to five NICs with few names, so that equal names are frequent.
    fn any_guest() -> impl Strategy<Value = String> {
        let nic = (0..6u8, any::<bool>(), any::<bool>(), 0..3u8);
        proptest::collection::vec(nic, 0..5).prop_map(|nics| {
            let mut interfaces = Vec::new();
            let mut networks = Vec::new();
            for (name, interface, network, state) in nics {
                let state = ["", r#","state":"absent""#, r#","model":"e1000e""#][usize::from(state)];
                if interface {
                    interfaces.push(format!(r#"{{"name":"n{name}","bridge":{{}}{state}}}"#));
                }
                if network {
                    networks.push(format!(r#"{{"name":"n{name}","multus":{{"networkName":"net"}}}}"#));
                }
            }
            format!(
                r#"{{"domain":{{"devices":{{"interfaces":[{}]}}}},"networks":[{}]}}"#,
                interfaces.join(","),
                networks.join(",")
            )
        })
    }

    proptest! {
        #[test]
        fn nothing_differs_from_itself(text in any_guest()) {
            let guest = guest(&text);
            prop_assert!(NicDiff::between(Some(&guest), &guest).is_empty());
        }

        #[test]
        fn added_and_removed_swap_with_the_arguments(one in any_guest(), other in any_guest()) {
            let (one, other) = (guest(&one), guest(&other));
            let there = NicDiff::between(Some(&one), &other);
            let back = NicDiff::between(Some(&other), &one);
            let complete = |nics: &[Nic]| {
                let mut names: Vec<String> =
                    nics.iter().filter(|nic| nic.is_complete()).map(|nic| nic.name.to_owned()).collect();
                names.sort();
                names
            };
            let gone_completely = |diff: &NicDiff, kept: &GuestSpec| {
                let kept = NicsByName::of(kept);
                let mut names: Vec<String> = diff
                    .removed
                    .iter()
                    .filter(|nic| kept.get(nic.name).is_none_or(|nic| !nic.is_complete()))
                    .map(|nic| nic.name.to_owned())
                    .collect();
                names.sort();
                names
            };
            // A NIC that loses only its network is modified in one direction and added in the other.
            let lost_network = |diff: &NicDiff| {
                diff.modified.iter().filter(|(_, new)| !new.is_complete()).map(|(_, new)| new.name.to_owned())
                    .chain(diff.set_absent.iter().filter(|nic| !nic.is_complete()).map(|nic| nic.name.to_owned()))
                    .collect::<Vec<_>>()
            };
            let mut gone = gone_completely(&back, &one);
            gone.extend(lost_network(&back));
            gone.sort();
            prop_assert_eq!(complete(&there.added), gone);
        }
    }
}
