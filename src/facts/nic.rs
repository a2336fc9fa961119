//! A NIC of a stored guest, kept small because a cluster may have a million of them.

use crate::api::{
    guest::GuestSpec,
    network::{Interface, Network},
};

/// An interface of a guest and the network of the same name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct GuestNic {
    /// The name that both have.
    pub name: Box<str>,
    /// `multus.networkName` as written, for a multus network.
    pub network: Option<Box<str>>,
    /// How it can be hotplugged.
    pub hotplug: HotplugMethod,
    /// Whether its state is `absent`.
    pub is_absent: bool,
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
        let networks = guest.networks_by_name();
        let network_of = |interface: &Interface| networks.get(interface.name.as_str()).copied();
        guest.interfaces().iter().map(|interface| Self::of(interface, network_of(interface))).collect()
    }

    fn of(interface: &Interface, network: Option<&Network>) -> Self {
        let multus = network.and_then(|network| network.multus.as_ref());
        Self {
            name: interface.name.as_str().into(),
            network: multus.map(|multus| multus.network_name.as_str().into()),
            hotplug: HotplugMethod::of(interface, network),
            is_absent: interface.is_absent(),
        }
    }
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
