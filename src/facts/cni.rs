//! The network that the CNI configuration of a NetworkAttachmentDefinition describes, reduced to the facts that rules
//! use: a cluster may have thousands of definitions.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::wire::Wire;

/// The plugin of OVN-Kubernetes.
const OVN: &str = "ovn-k8s-cni-overlay";

/// The keys of an OVN configuration in which two definitions of one network may differ.
const OVN_OWN_KEYS: [&str; 2] = ["cniVersion", "netAttachDefName"];

/// A network of a valid CNI configuration; empty for one that is a file on each node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CniNetwork {
    /// `type` of each plugin, in the order of the chain.
    pub plugins: Box<[Box<str>]>,
    /// Whether the first plugin has `mode: passthru`, in which macvlan keeps the MAC address of its parent.
    pub is_passthru: bool,
    /// The layer 2 segment that it joins; `None` if the configuration does not show it.
    pub wire: Option<Wire>,
    /// Its settings in OVN-Kubernetes.
    pub ovn: Option<Box<OvnNetwork>>,
    /// `ipam.type` of the first plugin.
    pub ipam: Option<Box<str>>,
}

/// A network of OVN-Kubernetes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OvnNetwork {
    /// `name`: definitions of the same name are one network.
    pub name: Box<str>,
    /// `topology`: `layer2`, `layer3` or `localnet`; empty for the default network of the cluster.
    pub topology: Box<str>,
    /// Whether `role` is `primary`.
    pub is_primary: bool,
    /// `netAttachDefName`: the definition that holds the configuration, as `namespace/name`.
    pub nad_name: Box<str>,
    /// Whether it assigns addresses that a migration does not keep: it has subnets and no `allowPersistentIPs`.
    pub assigns_anew: bool,
    /// A hash of the settings that every definition of the network must share.
    pub settings: u64,
}

impl CniNetwork {
    /// Reads a configuration, whose definition names this device-plugin resource.
    pub(super) fn of(config: &Value, resource: Option<&str>) -> Self {
        let chain = match config.get("plugins").and_then(Value::as_array) {
            Some(plugins) => plugins.as_slice(),
            None => std::slice::from_ref(config),
        };
        let Some(first) = chain.first() else { return Self::default() };
        let network = text(config, "name");
        Self {
            plugins: chain.iter().map(|plugin| text(plugin, "type").into()).collect(),
            is_passthru: text(first, "mode") == "passthru",
            wire: Wire::of(config, resource),
            ovn: (text(first, "type") == OVN).then(|| Box::new(OvnNetwork::of(first, network))),
            ipam: first.get("ipam").map(|ipam| text(ipam, "type")).filter(|kind| !kind.is_empty()).map(Box::from),
        }
    }

    /// Returns the type of the first plugin, which creates the interface; empty if the configuration is not known.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.plugins.first().map_or("", |kind| kind)
    }

    /// Whether the plugin moves an SR-IOV virtual function into the pod.
    #[must_use]
    pub fn is_sriov(&self) -> bool {
        matches!(self.kind(), "sriov" | "ib-sriov")
    }

    /// Returns what assigns a new address to each pod, so that a migration changes it.
    #[must_use]
    pub fn assigns_anew(&self) -> Option<&str> {
        match (self.ipam.as_deref(), &self.ovn) {
            (Some(ipam @ ("host-local" | "whereabouts" | "dhcp")), _) => Some(ipam),
            (_, Some(ovn)) if ovn.assigns_anew => Some("OVN-Kubernetes"),
            _ => None,
        }
    }
}

impl OvnNetwork {
    fn of(plugin: &Value, network: &str) -> Self {
        let has = |key: &str| !text(plugin, key).is_empty();
        let is_persistent = plugin.get("allowPersistentIPs").and_then(Value::as_bool) == Some(true);
        let mut settings = DefaultHasher::new();
        for (key, value) in plugin.as_object().into_iter().flatten() {
            if !OVN_OWN_KEYS.contains(&key.as_str()) {
                (key, value.to_string()).hash(&mut settings);
            }
        }
        Self {
            name: network_name(plugin, network).into(),
            topology: text(plugin, "topology").into(),
            is_primary: text(plugin, "role") == "primary",
            nad_name: text(plugin, "netAttachDefName").into(),
            assigns_anew: has("subnets") && !is_persistent,
            settings: settings.finish(),
        }
    }
}

/// Returns the name of a network: that of the list of plugins, or else that of the plugin.
fn network_name<'v>(plugin: &'v Value, of_list: &'v str) -> &'v str {
    if of_list.is_empty() { text(plugin, "name") } else { of_list }
}

fn text<'v>(object: &'v Value, key: &str) -> &'v str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(config: &str) -> CniNetwork {
        CniNetwork::of(&serde_json::from_str(config).unwrap(), Some("example.com/vf"))
    }

    #[test]
    fn a_config_has_one_plugin_or_a_chain() {
        for (config, plugins) in [
            (r#"{"type": "bridge"}"#, &["bridge"][..]),
            (r#"{"plugins": [{"type": "macvlan"}, {"type": "tuning"}]}"#, &["macvlan", "tuning"]),
            (r#"{"plugins": []}"#, &[]),
        ] {
            let network = network(config);
            assert!(network.plugins.iter().map(|kind| &**kind).eq(plugins.iter().copied()), "{config}");
            assert_eq!(network.kind(), plugins.first().copied().unwrap_or_default());
        }
    }

    #[test]
    fn an_address_is_assigned_anew_unless_it_is_persistent() {
        for (config, assigned_by) in [
            (r#"{"type": "bridge"}"#, None),
            (r#"{"type": "bridge", "ipam": {}}"#, None),
            (r#"{"type": "bridge", "ipam": {"type": "static"}}"#, None),
            (r#"{"type": "bridge", "ipam": {"type": "whereabouts"}}"#, Some("whereabouts")),
            (r#"{"type": "ovn-k8s-cni-overlay"}"#, None),
            (r#"{"type": "ovn-k8s-cni-overlay", "subnets": "10.0.0.0/24"}"#, Some("OVN-Kubernetes")),
            (r#"{"type": "ovn-k8s-cni-overlay", "subnets": "10.0.0.0/24", "allowPersistentIPs": true}"#, None),
        ] {
            assert_eq!(network(config).assigns_anew(), assigned_by, "{config}");
        }
    }

    #[test]
    fn the_definitions_of_one_ovn_network_share_their_settings() {
        let settings = |rest: &str| {
            let config = format!(r#"{{"type": "ovn-k8s-cni-overlay", "name": "blue", "topology": "layer2"{rest}}}"#);
            network(&config).ovn.unwrap().settings
        };
        assert_eq!(settings(r#", "netAttachDefName": "a/blue", "cniVersion": "0.3.1""#), settings(""));
        assert_ne!(settings(r#", "mtu": 1400"#), settings(""));
    }
}
