//! The wire of a network: NetworkAttachmentDefinitions of different names may connect NICs to the same one.

use serde_json::Value;

/// What a CNI plugin connects a NIC to. NICs on NetworkAttachmentDefinitions with equal wires receive each other's
/// packets.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Wire {
    kind: WireKind,
    /// The name of the bridge, the interface, the network or the resource.
    name: Box<str>,
    /// 0 without a VLAN.
    vlan: u64,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum WireKind {
    /// A bridge of Linux or Open vSwitch.
    Bridge,
    /// An interface of the node.
    Interface,
    /// A physical network of OVN-Kubernetes.
    Physical,
    /// An OVN-Kubernetes network inside the cluster.
    Ovn,
    /// A pool of SR-IOV devices.
    Devices,
    /// A provider of Kube-OVN.
    KubeOvn,
}

impl Wire {
    /// Returns the wire of a CNI configuration; `resource` is the device-plugin resource of its
    /// NetworkAttachmentDefinition. `None` if the configuration does not show it: then the NetworkAttachmentDefinition
    /// itself stands for its wire.
    #[must_use]
    pub fn of(config: &Value, resource: Option<&str>) -> Option<Self> {
        let plugin = match config.get("plugins") {
            Some(plugins) => plugins.get(0)?,
            None => config,
        };
        let text = |key: &str| plugin.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let name_of_network = || config.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let (kind, name, vlan) = match text("type")? {
            "bridge" | "cnv-bridge" => (WireKind::Bridge, text("bridge").unwrap_or("cni0"), "vlan"),
            "ovs" => (WireKind::Bridge, text("bridge")?, "vlan"),
            "macvlan" | "ipvlan" | "macvtap" => (WireKind::Interface, text("master")?, ""),
            "vlan" => (WireKind::Interface, text("master")?, "vlanId"),
            "ovn-k8s-cni-overlay" if text("topology") == Some("localnet") => {
                (WireKind::Physical, text("physicalNetworkName").or_else(name_of_network)?, "vlanID")
            }
            "ovn-k8s-cni-overlay" => (WireKind::Ovn, name_of_network()?, ""),
            "sriov" => (WireKind::Devices, resource?, "vlan"),
            "kube-ovn" => (WireKind::KubeOvn, text("provider")?, ""),
            _ => return None,
        };
        let vlan = plugin.get(vlan).and_then(Value::as_u64).unwrap_or(0);
        Some(Self { kind, name: name.into(), vlan })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn networks_are_one_wire_if_their_plugins_connect_to_the_same() {
        let bridge = json!({"name": "a", "type": "bridge", "bridge": "br-blue", "vlan": 20});
        for (one, other, is_same) in [
            (bridge.clone(), json!({"name": "b", "type": "cnv-bridge", "bridge": "br-blue", "vlan": 20}), true),
            (
                bridge.clone(),
                json!({"plugins": [{"type": "bridge", "bridge": "br-blue", "vlan": 20}, {"type": "t"}]}),
                true,
            ),
            (bridge.clone(), json!({"type": "bridge", "bridge": "br-blue", "vlan": 30}), false),
            (bridge.clone(), json!({"type": "bridge", "bridge": "br-red", "vlan": 20}), false),
            (bridge, json!({"type": "macvlan", "master": "br-blue"}), false),
            (json!({"type": "bridge"}), json!({"type": "bridge", "bridge": "cni0"}), true),
            (json!({"type": "macvlan", "master": "eth1"}), json!({"type": "ipvlan", "master": "eth1"}), true),
            (json!({"type": "vlan", "master": "eth1", "vlanId": 5}), json!({"type": "vlan", "master": "eth1"}), false),
            (
                json!({"name": "n", "type": "ovn-k8s-cni-overlay", "topology": "localnet", "vlanID": 4}),
                json!({"name": "m", "type": "ovn-k8s-cni-overlay", "topology": "localnet", "vlanID": 4,
                    "physicalNetworkName": "n"}),
                true,
            ),
            (
                json!({"name": "n", "type": "ovn-k8s-cni-overlay", "topology": "layer2", "netAttachDefName": "demo/a"}),
                json!({"name": "n", "type": "ovn-k8s-cni-overlay", "topology": "layer2", "netAttachDefName": "demo/b"}),
                true,
            ),
            (json!({"type": "sriov"}), json!({"type": "sriov", "name": "x"}), true),
            (json!({"type": "sriov", "vlan": 7}), json!({"type": "sriov"}), false),
            (json!({"type": "kube-ovn", "provider": "p"}), json!({"type": "kube-ovn", "provider": "q"}), false),
        ] {
            let wire = |config: &Value| Wire::of(config, Some("example.com/vf"));
            assert!(wire(&one).is_some() && wire(&other).is_some(), "{one} {other}");
            assert_eq!(wire(&one) == wire(&other), is_same, "{one} {other}");
        }
    }

    #[test]
    fn a_configuration_that_does_not_show_its_wire_has_none() {
        for config in [
            json!({}),
            json!({"type": "macvlan"}),
            json!({"type": "ovs"}),
            json!({"type": "sriov"}),
            json!({"type": "teleport", "bridge": "br-blue"}),
            json!({"plugins": []}),
            json!({"plugins": [{}]}),
        ] {
            assert_eq!(Wire::of(&config, None), None, "{config}");
        }
    }
}
