//! A NIC: an entry of `domain.devices.interfaces[]` and the entry of `networks[]` with the same name.
//!
//! Both are read by hand-written visitors, because a field that nicplug does not know has to be seen: an object-valued
//! one may be a source or a binding of a newer KubeVirt, and then nothing is missing.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::{JsonObject, Present, Shape, Text, nullable, objects};

/// An entry of `networks[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network<'a> {
    /// `name`: empty when it is missing.
    pub name: Text<'a>,
    /// `pod`: the pod's own network.
    pub pod: Option<Present>,
    /// `multus`: a network of a NetworkAttachmentDefinition.
    pub multus: Option<Multus<'a>>,
    /// `resourceClaim`: a network of a DRA device (KubeVirt v1.9, alpha).
    pub resource_claim: Option<ClaimSource<'a>>,
    /// How many object-valued fields nicplug does not know: sources of a newer KubeVirt.
    pub unknown_sources: u8,
}

impl Network<'_> {
    /// The names of the sources that are set and that nicplug knows.
    pub fn sources(&self) -> impl Iterator<Item = &'static str> {
        [
            self.pod.map(|_| "pod"),
            self.multus.as_ref().map(|_| "multus"),
            self.resource_claim.as_ref().map(|_| "resourceClaim"),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether the only source it has is one of a newer KubeVirt: nothing can be said of what goes with it.
    #[must_use]
    pub fn is_of_unknown_source(&self) -> bool {
        self.unknown_sources > 0 && self.sources().next().is_none()
    }

    /// Whether this is the network that the pod has anyway: `pod`, or the multus network that replaces it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.pod.is_some() || self.multus.as_ref().is_some_and(|multus| multus.default)
    }
}

/// `networks[].multus`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Multus<'a> {
    /// `name` or `namespace/name` of a NetworkAttachmentDefinition.
    #[serde(borrow, deserialize_with = "nullable")]
    pub network_name: Text<'a>,
    /// Whether the network takes the place of the pod's default network.
    #[serde(deserialize_with = "nullable")]
    pub default: bool,
}

/// `networks[].resourceClaim`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimSource<'a> {
    /// An entry of `resourceClaims[]`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub claim_name: Text<'a>,
    /// A request of that claim.
    #[serde(borrow, deserialize_with = "nullable")]
    pub request_name: Text<'a>,
}

/// An entry of `domain.devices.interfaces[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface<'a> {
    /// `name`: empty when it is missing.
    pub name: Text<'a>,
    /// The bindings that are set.
    pub bindings: Bindings<'a>,
    /// `model`: unset means virtio.
    pub model: Option<Text<'a>>,
    /// `macAddress`.
    pub mac_address: Option<Text<'a>>,
    /// `pciAddress`.
    pub pci_address: Option<Text<'a>>,
    /// `state`: unset, `absent`, `up` or `down`.
    pub state: Option<Text<'a>>,
    /// `ports[]`; an empty list is not the same as none, as in KubeVirt.
    pub ports: Option<Vec<Port<'a>>>,
    /// `portRanges[]` (KubeVirt v1.9, alpha); an empty list is not the same as none.
    pub port_ranges: Option<Vec<PortRange<'a>>>,
    /// `dhcpOptions`.
    pub dhcp_options: Option<DhcpOptions<'a>>,
    /// `bootOrder`.
    pub boot_order: Option<u64>,
    /// `acpiIndex`.
    pub acpi_index: Option<i64>,
    /// `tag`.
    pub tag: Option<Text<'a>>,
}

impl Interface<'_> {
    /// Whether `state: absent` asks for its removal from the running guest.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.state.as_deref() == Some("absent")
    }

    /// The model of the device, which is virtio unless set.
    #[must_use]
    pub fn model_or_default(&self) -> &str {
        self.model.as_deref().filter(|model| !model.is_empty()).unwrap_or("virtio")
    }
}

/// Which bindings an interface has. KubeVirt wants exactly one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bindings<'a> {
    /// `bridge`.
    pub bridge: Option<Present>,
    /// `masquerade`.
    pub masquerade: Option<Present>,
    /// `sriov`.
    pub sriov: Option<Present>,
    /// `passtBinding`.
    pub passt_binding: Option<Present>,
    /// `binding`: a binding plugin that the KubeVirt resource registers.
    pub plugin: Option<Plugin<'a>>,
    /// `slirp`, discontinued in KubeVirt v1.3.
    pub slirp: Option<Present>,
    /// `macvtap`, discontinued in KubeVirt v1.3.
    pub macvtap: Option<Present>,
    /// `passt`, discontinued in KubeVirt v1.3.
    pub passt: Option<Present>,
    /// How many object-valued fields nicplug does not know: bindings of a newer KubeVirt.
    pub unknown: u8,
}

impl Bindings<'_> {
    /// The names of all bindings that are set, in the order of KubeVirt's API; a plugin by its own name.
    pub fn names(&self) -> impl Iterator<Item = BindingName<'_>> {
        let set = |present: Option<Present>, name| present.map(|_| BindingName::BuiltIn(name));
        [
            set(self.bridge, "bridge"),
            set(self.slirp, "slirp"),
            set(self.masquerade, "masquerade"),
            set(self.sriov, "sriov"),
            set(self.macvtap, "macvtap"),
            set(self.passt, "passt"),
            set(self.passt_binding, "passtBinding"),
            self.plugin.as_ref().map(|plugin| BindingName::Plugin(plugin.name.as_str())),
        ]
        .into_iter()
        .flatten()
    }

    /// The names of those bindings that KubeVirt still counts: all but the discontinued ones.
    pub fn current(&self) -> impl Iterator<Item = BindingName<'_>> {
        self.names().filter(|name| !DISCONTINUED.contains(name))
    }

    /// The names of the discontinued bindings that are set.
    pub fn discontinued(&self) -> impl Iterator<Item = BindingName<'_>> {
        self.names().filter(|name| DISCONTINUED.contains(name))
    }

    /// Whether the only binding it has is one of a newer KubeVirt: nothing can be said of what goes with it.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.unknown > 0 && self.names().next().is_none()
    }

    /// Whether nothing at all is set that is, or may be, a binding.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unknown == 0 && self.names().next().is_none()
    }
}

/// Bindings that KubeVirt refuses for new VMs since v1.3.
const DISCONTINUED: [BindingName; 3] =
    [BindingName::BuiltIn("slirp"), BindingName::BuiltIn("macvtap"), BindingName::BuiltIn("passt")];

/// A binding as a message names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BindingName<'v> {
    /// A field of the interface, such as `masquerade`.
    BuiltIn(&'static str),
    /// The name of a binding plugin.
    Plugin(&'v str),
}

impl fmt::Display for BindingName<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(name) => formatter.write_str(name),
            Self::Plugin(name) => write!(formatter, "binding plugin {name:?}"),
        }
    }
}

/// `interfaces[].binding`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Plugin<'a> {
    /// A key of the KubeVirt resource's `spec.configuration.network.binding`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
}

/// `interfaces[].ports[]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct Port<'a> {
    /// An IANA service name.
    #[serde(borrow, deserialize_with = "nullable")]
    pub name: Text<'a>,
    /// TCP (the default) or UDP.
    #[serde(borrow, deserialize_with = "nullable")]
    pub protocol: Text<'a>,
    /// 1 to 65535; 0 when it is missing.
    #[serde(deserialize_with = "nullable")]
    pub port: i64,
}

/// `interfaces[].portRanges[]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct PortRange<'a> {
    /// TCP or UDP.
    #[serde(borrow, deserialize_with = "nullable")]
    pub protocol: Text<'a>,
    /// The first port.
    #[serde(deserialize_with = "nullable")]
    pub start: i64,
    /// The last port.
    #[serde(deserialize_with = "nullable")]
    pub end: i64,
}

/// `interfaces[].dhcpOptions`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct DhcpOptions<'a> {
    /// `bootFileName`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub boot_file_name: Text<'a>,
    /// `tftpServerName`.
    #[serde(borrow, deserialize_with = "nullable")]
    pub tftp_server_name: Text<'a>,
    /// `ntpServers[]`: IPv4 addresses.
    #[serde(borrow, deserialize_with = "nullable")]
    pub ntp_servers: Vec<Text<'a>>,
    /// `privateOptions[]`.
    #[serde(borrow, deserialize_with = "objects")]
    pub private_options: Vec<PrivateOption<'a>>,
}

/// `interfaces[].dhcpOptions.privateOptions[]`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct PrivateOption<'a> {
    /// 224 to 254.
    #[serde(deserialize_with = "nullable")]
    pub option: i64,
    /// The value.
    #[serde(borrow, deserialize_with = "nullable")]
    pub value: Text<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Network<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NetworkVisitor;

        impl<'de> Visitor<'de> for NetworkVisitor {
            type Value = Network<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a network object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut network = Network::default();
                while let Some(key) = map.next_key::<Text>()? {
                    match key.as_str() {
                        "name" => network.name = or_default(&mut map)?,
                        "pod" => network.pod = map.next_value()?,
                        "multus" => network.multus = object(&mut map)?,
                        "resourceClaim" => network.resource_claim = object(&mut map)?,
                        _ => network.unknown_sources = count_object(network.unknown_sources, &mut map)?,
                    }
                }
                Ok(network)
            }
        }

        deserializer.deserialize_map(NetworkVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Interface<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InterfaceVisitor;

        impl<'de> Visitor<'de> for InterfaceVisitor {
            type Value = Interface<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an interface object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut interface = Interface::default();
                while let Some(key) = map.next_key::<Text>()? {
                    read_interface_field(&mut interface, &key, &mut map)?;
                }
                Ok(interface)
            }
        }

        deserializer.deserialize_map(InterfaceVisitor)
    }
}

fn read_interface_field<'de, A: MapAccess<'de>>(
    interface: &mut Interface<'de>,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    let bindings = &mut interface.bindings;
    match key {
        "name" => interface.name = or_default(map)?,
        "bridge" => bindings.bridge = map.next_value()?,
        "masquerade" => bindings.masquerade = map.next_value()?,
        "sriov" => bindings.sriov = map.next_value()?,
        "passtBinding" => bindings.passt_binding = map.next_value()?,
        "binding" => bindings.plugin = object(map)?,
        "slirp" => bindings.slirp = map.next_value()?,
        "macvtap" => bindings.macvtap = map.next_value()?,
        "passt" => bindings.passt = map.next_value()?,
        "model" => interface.model = map.next_value()?,
        "macAddress" => interface.mac_address = map.next_value()?,
        "pciAddress" => interface.pci_address = map.next_value()?,
        "state" => interface.state = map.next_value()?,
        "ports" => interface.ports = objects_of(map)?,
        "portRanges" => interface.port_ranges = objects_of(map)?,
        "dhcpOptions" => interface.dhcp_options = object(map)?,
        "bootOrder" => interface.boot_order = map.next_value()?,
        "acpiIndex" => interface.acpi_index = map.next_value()?,
        "tag" => interface.tag = map.next_value()?,
        _ => bindings.unknown = count_object(bindings.unknown, map)?,
    }
    Ok(())
}

fn or_default<'de, A: MapAccess<'de>, T: Default + Deserialize<'de>>(map: &mut A) -> Result<T, A::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
}

fn object<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A) -> Result<Option<T>, A::Error> {
    Ok(map.next_value::<Option<JsonObject<T>>>()?.map(|object| object.0))
}

fn objects_of<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A) -> Result<Option<Vec<T>>, A::Error> {
    let objects = map.next_value::<Option<Vec<JsonObject<T>>>>()?;
    Ok(objects.map(|objects| objects.into_iter().map(|object| object.0).collect()))
}

fn count_object<'de, A: MapAccess<'de>>(count: u8, map: &mut A) -> Result<u8, A::Error> {
    Ok(match map.next_value::<Shape>()? {
        Shape::Object => count.saturating_add(1),
        Shape::Other => count,
    })
}

/// The identity of a NetworkAttachmentDefinition that a `networkName` means.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NadRef<'a> {
    /// The namespace, which is the VM's own unless `networkName` says another.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
}

impl<'a> NadRef<'a> {
    /// Splits `name` or `namespace/name` as KubeVirt and Multus do.
    #[must_use]
    pub fn parse(network_name: &'a str, own_namespace: &'a str) -> Self {
        match network_name.split_once('/') {
            Some((namespace, name)) => Self { namespace, name },
            None => Self { namespace: own_namespace, name: network_name },
        }
    }
}

impl fmt::Display for NadRef<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(text: &str) -> Interface<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_binding_of_a_newer_kubevirt_is_counted_and_its_other_fields_are_not() {
        let newer =
            interface(r#"{"name": "a", "teleport": {"speed": 9}, "colour": "blue", "list": [{}], "none": null}"#);
        assert_eq!(newer.bindings.unknown, 1);
        assert!(!newer.bindings.is_empty());
        assert!(interface(r#"{"name": "a", "model": "virtio", "bridge": null}"#).bindings.is_empty());
    }

    #[test]
    fn a_source_of_a_newer_kubevirt_is_counted() {
        let network: Network = serde_json::from_str(r#"{"name": "a", "carrierPigeon": {}}"#).unwrap();
        assert_eq!((network.unknown_sources, network.pod.is_some()), (1, false));
    }

    #[test]
    fn all_bindings_are_named() {
        let all = interface(r#"{"name": "a", "masquerade": {}, "bridge": {}, "binding": {"name": "ovn"}}"#);
        let names: Vec<String> = all.bindings.names().map(|name| name.to_string()).collect();
        assert_eq!(names, ["bridge", "masquerade", "binding plugin \"ovn\""]);
    }

    #[test]
    fn a_network_name_may_carry_a_namespace() {
        assert_eq!(NadRef::parse("net", "demo"), NadRef { namespace: "demo", name: "net" });
        assert_eq!(NadRef::parse("infra/net", "demo").to_string(), "infra/net");
    }
}
