//! What the preference of a VM sets on its NICs: as nicplug read it, else as the running guest shows it.

use std::borrow::Cow;

use super::{
    Facts, Vmi,
    nic::{GuestNic, NetworkRole, hash_of_interface, written},
};
use crate::{
    api::{
        Present,
        guest::GuestSpec,
        network::{Interface, Network},
    },
    change::{Change, ObjectView},
    facts::Preference,
};

/// What the preference of a VM sets on its NICs where the template leaves it out.
#[derive(Clone, Copy, Debug, Default)]
pub struct NicPreference<'c> {
    /// The model of each NIC.
    pub model: Option<&'c str>,
    /// `networkInterfaceMultiqueue`.
    pub multiqueue: Option<bool>,
    /// `autoattachPodInterface`.
    pub autoattach_pod: Option<bool>,
    /// Whether a NIC on the pod network gets the masquerade binding.
    has_masquerade: bool,
}

impl<'c> NicPreference<'c> {
    /// Returns the preference of the stored VM, which the guest runs with.
    #[must_use]
    pub fn of_stored(change: &Change<'c>, facts: &'c Facts, vmi: &'c Vmi) -> Self {
        let Some(before) = change.before.filter(has_preference) else { return Self::default() };
        match facts.expansion_before().and_then(|expansion| expansion.preference.known()) {
            Some(preference) => Self::read(preference),
            None => Self::infer(&before, vmi),
        }
    }

    /// Returns the preference of the new VM. If it names another one that cannot be read, this is the stored one.
    #[must_use]
    pub fn of_new(change: &Change<'c>, facts: &'c Facts, vmi: &'c Vmi) -> Self {
        if !has_preference(&change.after) {
            return Self::default();
        }
        match facts.expansion().and_then(|expansion| expansion.preference.known()) {
            Some(preference) => Self::read(preference),
            None => Self::of_stored(change, facts, vmi),
        }
    }

    fn read(preference: &'c Preference) -> Self {
        let devices = &preference.devices;
        Self {
            model: Some(&*devices.interface_model).filter(|model| !model.is_empty()),
            multiqueue: devices.network_interface_multiqueue,
            autoattach_pod: devices.autoattach_pod_interface,
            has_masquerade: devices.interface_masquerade.is_some(),
        }
    }

    /// Infers the preference from the fields that the template leaves out and the guest has.
    fn infer(template: &ObjectView<'c>, vmi: &'c Vmi) -> Self {
        let nics = template.nics();
        let interface_of = |nic: &GuestNic| nics.get(&nic.name).and_then(|nic| nic.interface).map(|entry| entry.value);
        let has_no_model =
            |nic: &&GuestNic| interface_of(nic).is_some_and(|interface| written(interface.model.as_ref()).is_none());
        let is_masqueraded = |nic: &GuestNic| {
            let of_template = interface_of(nic).filter(|interface| interface.bindings.is_empty());
            nic.role == NetworkRole::Pod
                && of_template.is_some_and(|it| hash_of_interface(&masqueraded(it)) == nic.interface_hash)
        };
        let devices = &template.guest.domain.devices;
        let unless_set = |set: Option<bool>, of_guest: Option<bool>| if set.is_none() { of_guest } else { None };
        Self {
            model: vmi.nics.iter().filter(has_no_model).find_map(|nic| nic.model.as_deref()),
            multiqueue: unless_set(devices.network_interface_multiqueue, vmi.multiqueue),
            autoattach_pod: unless_set(devices.autoattach_pod_interface, vmi.autoattach_pod),
            has_masquerade: vmi.nics.iter().any(is_masqueraded),
        }
    }

    /// Returns the model of an interface.
    #[must_use]
    pub fn model_of<'i>(&self, interface: &'i Interface) -> Option<&'i str>
    where
        'c: 'i,
    {
        written(interface.model.as_ref()).or(self.model)
    }

    /// Returns the [`hash_of_interface`] of an interface with the preferred binding.
    #[must_use]
    pub fn hash_of(&self, interface: &Interface, network: Option<&Network>) -> u64 {
        let is_on_pod_network = network.is_some_and(|network| network.pod.is_some());
        let is_bound = !self.has_masquerade || !is_on_pod_network || !interface.bindings.is_empty();
        let interface = if is_bound { Cow::Borrowed(interface) } else { Cow::Owned(masqueraded(interface)) };
        hash_of_interface(&interface)
    }

    /// Returns the hash of each interface of a template, as by [`Self::hash_of`].
    pub fn hashes_of(&self, template: &GuestSpec) -> impl Iterator<Item = u64> {
        let network_of = |name: &str| template.networks.iter().find(|network| network.name.as_str() == name);
        template.interfaces().iter().map(move |interface| self.hash_of(interface, network_of(&interface.name)))
    }
}

fn has_preference(view: &ObjectView) -> bool {
    view.vm.is_some_and(|vm| vm.spec.preference.is_some())
}

fn masqueraded<'i>(interface: &Interface<'i>) -> Interface<'i> {
    let mut interface = interface.clone();
    interface.bindings.masquerade = Some(Present);
    interface
}
