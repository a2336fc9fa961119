//! A NIC of a stored guest, kept small because a cluster may have a million of them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::{
    api::{
        Text,
        guest::GuestSpec,
        mac::Mac,
        network::{Interface, NadRef, Network},
    },
    settings::HotplugSettings,
};

/// An interface of a guest and the network of the same name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct GuestNic {
    /// The name that both have.
    pub name: Box<str>,
    /// `multus.networkName` as written, for a multus network.
    pub network: Option<Box<str>>,
    /// How KubeVirt can hotplug it.
    pub hotplug: HotplugMethod,
    /// The binding plugin, if that is its binding.
    pub plugin: Option<Box<str>>,
    /// Whether its state is `absent`.
    pub is_absent: bool,
    /// Whether its state is `down`.
    pub is_down: bool,
    /// The role of its network.
    pub role: NetworkRole,
    /// `model` as written; `None` if unset or empty.
    pub model: Option<Box<str>>,
    /// The [`hash_of_interface`].
    pub interface_hash: u64,
    /// The [`hash_of_source`]; 0 without a network.
    pub source_hash: u64,
}

/// The role of a network in the pod.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NetworkRole {
    /// The pod network.
    Pod,
    /// The multus network that replaces the pod network.
    Default,
    /// Another network, or none.
    Additional,
}

/// How KubeVirt hotplugs a NIC into a running guest.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HotplugMethod {
    /// Not at all: the NIC is attached at boot only.
    None,
    /// In place or by live migration.
    Bridge,
    /// By live migration only.
    Sriov,
}

impl HotplugMethod {
    /// Returns the method for a NIC of this interface and network.
    #[must_use]
    pub fn of(interface: &Interface, network: Option<&Network>) -> Self {
        if !network.is_some_and(|network| network.multus.is_some() && !network.is_default()) {
            return Self::None;
        }
        match &interface.bindings {
            bindings if bindings.bridge.is_some() => Self::Bridge,
            bindings if bindings.sriov.is_some() => Self::Sriov,
            _ => Self::None,
        }
    }
}

impl GuestNic {
    /// Returns the NICs of a guest, in the order of its interfaces.
    #[must_use]
    pub fn all(guest: &GuestSpec) -> Vec<Self> {
        Self::named(guest, |_| true)
    }

    /// Returns the NICs of a guest whose names a function accepts.
    #[must_use]
    pub fn named(guest: &GuestSpec, is_wanted: impl Fn(&str) -> bool) -> Vec<Self> {
        let networks = guest.networks_by_name();
        let network_of = |interface: &Interface| networks.get(interface.name.as_str()).copied();
        let wanted = guest.interfaces().iter().filter(|interface| is_wanted(&interface.name));
        wanted.map(|interface| Self::of(interface, network_of(interface))).collect()
    }

    /// Returns the NetworkAttachmentDefinition of a NIC of a guest in this namespace. Multus looks for a default network
    /// without a namespace in that of its own; see [`nad_of`](super::nad::nad_of).
    #[must_use]
    pub fn nad<'n>(&'n self, own_namespace: &'n str, multus_namespace: &'n str) -> Option<NadRef<'n>> {
        let namespace = if self.role == NetworkRole::Default { multus_namespace } else { own_namespace };
        Some(NadRef::parse(self.network.as_deref()?, namespace))
    }

    /// Returns how the KubeVirt of these settings hotplugs the NIC.
    #[must_use]
    pub fn hotplug_under(&self, settings: &HotplugSettings) -> HotplugMethod {
        let is_further = self.network.is_some() && self.role == NetworkRole::Additional;
        let is_named = self.plugin.as_deref().is_some_and(|plugin| settings.bindings.iter().any(|name| name == plugin));
        if is_further && is_named { HotplugMethod::Bridge } else { self.hotplug }
    }

    pub(crate) fn of(interface: &Interface, network: Option<&Network>) -> Self {
        let multus = network.and_then(|network| network.multus.as_ref());
        Self {
            name: interface.name.as_str().into(),
            network: multus.map(|multus| multus.network_name.as_str().into()),
            hotplug: HotplugMethod::of(interface, network),
            plugin: interface.bindings.plugin.as_ref().map(|plugin| plugin.name.as_str().into()),
            is_absent: interface.is_absent(),
            is_down: interface.is_down(),
            role: match network {
                Some(network) if network.pod.is_some() => NetworkRole::Pod,
                Some(network) if network.is_default() => NetworkRole::Default,
                _ => NetworkRole::Additional,
            },
            model: written(interface.model.as_ref()).map(Into::into),
            interface_hash: hash_of_interface(interface),
            source_hash: network.map_or(0, hash_of_source),
        }
    }
}

/// Returns the MAC address of each NIC of a guest, in the order of its interfaces; `None` if it is missing or invalid.
/// The list is empty if no NIC has one.
#[must_use]
pub fn macs_of(guest: &GuestSpec) -> Arc<[Option<Mac>]> {
    let interfaces = guest.interfaces();
    if interfaces.iter().all(|interface| interface.mac().is_none()) {
        return Arc::default();
    }
    interfaces.iter().map(Interface::mac).collect()
}

/// Returns a text; KubeVirt takes an empty one for none.
#[must_use]
pub fn written<'t>(text: Option<&'t Text<'_>>) -> Option<&'t str> {
    text.map(Text::as_str).filter(|text| !text.is_empty())
}

/// Returns a hash of the fields of an interface that change only at the next boot, except for its name, `model` and
/// `macAddress`. KubeVirt takes an empty list for none, but `dhcpOptions: {}` differs from none.
#[must_use]
pub fn hash_of_interface(interface: &Interface) -> u64 {
    let mut hasher = DefaultHasher::new();
    interface.bindings.hash(&mut hasher);
    written(interface.options.pci_address.as_ref()).hash(&mut hasher);
    interface.options.ports.as_deref().unwrap_or_default().hash(&mut hasher);
    interface.options.port_ranges.as_deref().unwrap_or_default().hash(&mut hasher);
    interface.options.dhcp_options.hash(&mut hasher);
    interface.options.boot_order.hash(&mut hasher);
    interface.options.acpi_index.filter(|&index| index != 0).hash(&mut hasher);
    written(interface.options.tag.as_ref()).hash(&mut hasher);
    hasher.finish()
}

/// Returns a hash of the source of a network, without the name of the NetworkAttachmentDefinition.
#[must_use]
pub fn hash_of_source(network: &Network) -> u64 {
    let mut hasher = DefaultHasher::new();
    network.pod.hash(&mut hasher);
    network.multus.as_ref().map(|multus| multus.default).hash(&mut hasher);
    network.resource_claim.hash(&mut hasher);
    network.unknown_sources.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bridge_or_sriov_nic_on_a_secondary_multus_network_can_be_hotplugged() {
        for (binding, source, plug) in [
            (r#""bridge": {}"#, r#""multus": {"networkName": "n"}"#, HotplugMethod::Bridge),
            (r#""sriov": {}"#, r#""multus": {"networkName": "n"}"#, HotplugMethod::Sriov),
            (r#""masquerade": {}"#, r#""multus": {"networkName": "n"}"#, HotplugMethod::None),
            (r#""bridge": {}"#, r#""multus": {"networkName": "n", "default": true}"#, HotplugMethod::None),
            (r#""bridge": {}"#, r#""pod": {}"#, HotplugMethod::None),
        ] {
            let text = format!(
                r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "a", {binding}}}]}}}},
                    "networks": [{{"name": "a", {source}}}]}}"#
            );
            let nics = GuestNic::all(&serde_json::from_str(&text).unwrap());
            assert_eq!(nics.first().map(|nic| nic.hotplug), Some(plug), "{text}");
        }
    }
}
