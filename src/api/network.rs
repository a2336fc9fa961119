//! A NIC: an entry of `domain.devices.interfaces[]` and the entry of `networks[]` with the same name.
//!
//! Both have hand-written deserializers that also count unknown fields: one with an object as value may be a source or
//! a binding of a newer KubeVirt, and then neither is missing.

use std::fmt;

use serde::{Deserialize, Deserializer, de::MapAccess};

use super::{
    Empty, Present, Shape, Sparse, Text,
    fields::{self, Fields, NESTED_AT_MOST, fields},
    mac::Mac,
    quote::{QUOTED_AT_MOST, cut, quote},
};

/// An entry of `networks[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Network<'a> {
    /// `name`: empty if missing.
    pub name: Text<'a>,
    /// `pod`: the pod's own network.
    pub pod: Option<Sparse<PodNetwork<'a>>>,
    /// `multus`: a network of a NetworkAttachmentDefinition.
    pub multus: Option<Multus<'a>>,
    /// `resourceClaim`: a network of a DRA device (KubeVirt v1.9, alpha).
    pub resource_claim: Option<Box<ResourceClaimSource<'a>>>,
    /// The number of unknown fields with an object as value: sources of a newer KubeVirt.
    pub unknown_sources: u8,
}

impl Network<'_> {
    /// Returns the names of the known sources that are set.
    pub fn sources(&self) -> impl Iterator<Item = &'static str> {
        [
            self.pod.as_ref().map(|_| "pod"),
            self.multus.as_ref().map(|_| "multus"),
            self.resource_claim.as_ref().map(|_| "resourceClaim"),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether its only source is unknown, so that no rule can tell what it allows.
    #[must_use]
    pub fn has_unknown_source(&self) -> bool {
        self.unknown_sources > 0 && self.sources().next().is_none()
    }

    /// Whether this is the default network of the pod: `pod`, or the multus network that replaces it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.pod.is_some() || self.multus.as_ref().is_some_and(|multus| multus.default)
    }
}

/// `networks[].pod`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct PodNetwork<'a> {
    /// `vmNetworkCIDR`.
    pub cidr: Text<'a>,
    /// `vmIPv6NetworkCIDR`.
    pub ipv6_cidr: Text<'a>,
}

fields! {
    PodNetwork {
        "vmNetworkCIDR" => cidr: nullable,
        "vmIPv6NetworkCIDR" => ipv6_cidr: nullable,
    }
}

impl Empty for PodNetwork<'_> {
    fn empty<'v>() -> &'v Self
    where
        Self: 'v,
    {
        const { &PodNetwork { cidr: Text::EMPTY, ipv6_cidr: Text::EMPTY } }
    }
}

/// `networks[].multus`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Multus<'a> {
    /// `name` or `namespace/name` of a NetworkAttachmentDefinition.
    pub network_name: Text<'a>,
    /// Whether the network replaces the pod's default network.
    pub default: bool,
}

fields! {
    Multus {
        "networkName" => network_name: nullable,
        "default" => default: nullable,
    }
}

/// `networks[].resourceClaim`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct ResourceClaimSource<'a> {
    /// An entry of `resourceClaims[]`.
    pub claim_name: Text<'a>,
    /// A request of that claim.
    pub request_name: Text<'a>,
}

fields! {
    ResourceClaimSource {
        "claimName" => claim_name: nullable,
        "requestName" => request_name: nullable,
    }
}

/// An entry of `domain.devices.interfaces[]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface<'a> {
    /// `name`: empty if missing.
    pub name: Text<'a>,
    /// The bindings that are set.
    pub bindings: Bindings<'a>,
    /// `model`: unset means virtio.
    pub model: Option<Text<'a>>,
    /// `macAddress`.
    pub mac_address: Option<Text<'a>>,
    /// `state`: unset, `absent`, `up` or `down`.
    pub state: Option<Text<'a>>,
    /// The fields that few interfaces have.
    pub options: Sparse<InterfaceOptions<'a>>,
}

/// Fields of an interface that are rarely set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InterfaceOptions<'a> {
    /// `pciAddress`.
    pub pci_address: Option<Text<'a>>,
    /// `ports[]`; an empty list differs from a missing one, as in KubeVirt.
    pub ports: Option<Vec<Port<'a>>>,
    /// `portRanges[]` (KubeVirt v1.9, alpha); an empty list differs from a missing one.
    pub port_ranges: Option<Vec<PortRange<'a>>>,
    /// `dhcpOptions`.
    pub dhcp_options: Option<DhcpOptions<'a>>,
    /// `bootOrder`.
    pub boot_order: Option<u64>,
    /// `acpiIndex`.
    pub acpi_index: Option<i64>,
    /// `tag`.
    pub tag: Option<Text<'a>>,
    /// Whether its lists were not kept, because the lists of all interfaces have too many entries.
    pub has_too_many_entries: bool,
}

impl Empty for InterfaceOptions<'_> {
    fn empty<'v>() -> &'v Self
    where
        Self: 'v,
    {
        const {
            &InterfaceOptions {
                pci_address: None,
                ports: None,
                port_ranges: None,
                dhcp_options: None,
                boot_order: None,
                acpi_index: None,
                tag: None,
                has_too_many_entries: false,
            }
        }
    }
}

impl Interface<'_> {
    /// Whether `state: absent` requests its removal from the running guest.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.state.as_deref() == Some("absent")
    }

    /// Whether `state: down` takes its link down.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.state.as_deref() == Some("down")
    }

    /// Returns the MAC address; `None` if it is missing or invalid.
    #[must_use]
    pub fn mac(&self) -> Option<Mac> {
        self.mac_address.as_deref()?.parse().ok()
    }

    /// Returns the model of the device, which is virtio unless set.
    #[must_use]
    pub fn model_or_default(&self) -> &str {
        self.model.as_deref().filter(|model| !model.is_empty()).unwrap_or("virtio")
    }
}

/// The bindings of an interface. KubeVirt requires exactly one.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
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
    /// The number of unknown fields with an object as value: bindings of a newer KubeVirt.
    pub unknown: u8,
}

impl Bindings<'_> {
    /// Returns the names of all bindings that are set, in the order of KubeVirt's API; a plugin has its own name.
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

    /// Returns the names of the bindings that are set and not discontinued.
    pub fn current(&self) -> impl Iterator<Item = BindingName<'_>> {
        self.names().filter(|name| !DISCONTINUED.contains(name))
    }

    /// Returns the names of the discontinued bindings that are set.
    pub fn discontinued(&self) -> impl Iterator<Item = BindingName<'_>> {
        self.names().filter(|name| DISCONTINUED.contains(name))
    }

    /// Whether the only binding is unknown, so that no rule can tell what it supports.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.unknown > 0 && self.names().next().is_none()
    }

    /// Whether neither a known nor an unknown binding is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unknown == 0 && self.names().next().is_none()
    }
}

/// Bindings that KubeVirt has refused for new VMs since v1.3.
const DISCONTINUED: [BindingName; 3] =
    [BindingName::BuiltIn("slirp"), BindingName::BuiltIn("macvtap"), BindingName::BuiltIn("passt")];

/// The name of a binding in messages.
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
            Self::Plugin(name) => write!(formatter, "binding plugin {name}", name = quote(name)),
        }
    }
}

/// `interfaces[].binding`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Plugin<'a> {
    /// A key of the KubeVirt resource's `spec.configuration.network.binding`.
    pub name: Text<'a>,
}

fields! {
    Plugin {
        "name" => name: nullable,
    }
}

/// `interfaces[].ports[]`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Port<'a> {
    /// An IANA service name.
    pub name: Text<'a>,
    /// TCP (the default) or UDP.
    pub protocol: Text<'a>,
    /// 1 to 65535; 0 if missing.
    pub port: i64,
}

fields! {
    Port [NESTED_AT_MOST + 1] {
        "name" => name: nullable,
        "protocol" => protocol: nullable,
        "port" => port: nullable,
    }
}

/// `interfaces[].portRanges[]`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct PortRange<'a> {
    /// TCP or UDP.
    pub protocol: Text<'a>,
    /// The first port.
    pub start: i64,
    /// The last port.
    pub end: i64,
}

fields! {
    PortRange [NESTED_AT_MOST + 1] {
        "protocol" => protocol: nullable,
        "start" => start: nullable,
        "end" => end: nullable,
    }
}

/// `interfaces[].dhcpOptions`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct DhcpOptions<'a> {
    /// `bootFileName`.
    pub boot_file_name: Text<'a>,
    /// `tftpServerName`.
    pub tftp_server_name: Text<'a>,
    /// `ntpServers[]`: IPv4 addresses.
    pub ntp_servers: Vec<Text<'a>>,
    /// `privateOptions[]`.
    pub private_options: Vec<PrivateOption<'a>>,
}

fields! {
    DhcpOptions {
        "bootFileName" => boot_file_name: nullable,
        "tftpServerName" => tftp_server_name: nullable,
        "ntpServers" => ntp_servers: texts,
        "privateOptions" => private_options: objects,
    }
}

/// `interfaces[].dhcpOptions.privateOptions[]`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct PrivateOption<'a> {
    /// 224 to 254.
    pub option: i64,
    /// The value.
    pub value: Text<'a>,
}

fields! {
    PrivateOption [NESTED_AT_MOST + 1] {
        "option" => option: nullable,
        "value" => value: nullable,
    }
}

impl<'de> Fields<'de> for Network<'de> {
    const EXPECTED: &'static str = "a network object";

    fn fill<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Text>()? {
            match key.as_str() {
                "name" => fields::nullable(&mut map, &mut self.name)?,
                "pod" => fields::optional(&mut map, &mut self.pod)?,
                "multus" => fields::optional(&mut map, &mut self.multus)?,
                "resourceClaim" => fields::optional(&mut map, &mut self.resource_claim)?,
                _ => count_object(&mut map, &mut self.unknown_sources)?,
            }
        }
        Ok(())
    }
}

impl<'de> Fields<'de> for Interface<'de> {
    const EXPECTED: &'static str = "an interface object";

    fn fill<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Text>()? {
            read_interface_field(self, &key, &mut map)?;
        }
        Ok(())
    }

    fn nested_entries(&self) -> usize {
        let InterfaceOptions { ports, port_ranges, dhcp_options, .. } = &*self.options;
        let options =
            dhcp_options.as_ref().map_or(0, |options| options.ntp_servers.len() + options.private_options.len());
        ports.as_ref().map_or(0, Vec::len) + port_ranges.as_ref().map_or(0, Vec::len) + options
    }

    fn remove_nested_lists(&mut self) {
        let options = self.options.value_mut();
        (options.ports, options.port_ranges, options.dhcp_options) = (None, None, None);
        options.has_too_many_entries = true;
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Network<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fields::view(deserializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Interface<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fields::view(deserializer)
    }
}

fn read_interface_field<'de, A: MapAccess<'de>>(
    interface: &mut Interface<'de>,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    let bindings = &mut interface.bindings;
    match key {
        "name" => fields::nullable(map, &mut interface.name),
        "bridge" => fields::value(map, &mut bindings.bridge),
        "masquerade" => fields::value(map, &mut bindings.masquerade),
        "sriov" => fields::value(map, &mut bindings.sriov),
        "passtBinding" => fields::value(map, &mut bindings.passt_binding),
        "binding" => fields::optional(map, &mut bindings.plugin),
        "slirp" => fields::value(map, &mut bindings.slirp),
        "macvtap" => fields::value(map, &mut bindings.macvtap),
        "passt" => fields::value(map, &mut bindings.passt),
        "model" => fields::value(map, &mut interface.model),
        "macAddress" => fields::value(map, &mut interface.mac_address),
        "pciAddress" => fields::value(map, &mut interface.options.value_mut().pci_address),
        "state" => fields::value(map, &mut interface.state),
        "ports" => fields::optional_objects(map, &mut interface.options.value_mut().ports),
        "portRanges" => fields::optional_objects(map, &mut interface.options.value_mut().port_ranges),
        "dhcpOptions" => fields::optional(map, &mut interface.options.value_mut().dhcp_options),
        "bootOrder" => fields::value(map, &mut interface.options.value_mut().boot_order),
        "acpiIndex" => fields::value(map, &mut interface.options.value_mut().acpi_index),
        "tag" => fields::value(map, &mut interface.options.value_mut().tag),
        _ => count_object(map, &mut bindings.unknown),
    }
}

fn count_object<'de, A: MapAccess<'de>>(map: &mut A, count: &mut u8) -> Result<(), A::Error> {
    if map.next_value::<Shape>()? == Shape::Object {
        *count = count.saturating_add(1);
    }
    Ok(())
}

/// The NetworkAttachmentDefinition that a `networkName` refers to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NadRef<'a> {
    /// The namespace, which is that of the VM unless `networkName` has one.
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

    /// Returns `namespace/name`, whole.
    #[must_use]
    pub fn full_name(self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Returns `namespace/name` for a message, in which a long text is cut. Two definitions may be shown alike.
    #[must_use]
    pub fn shown(self) -> impl fmt::Display + use<'a> {
        fmt::from_fn(move |formatter| {
            write!(formatter, "{}/{}", cut(self.namespace, QUOTED_AT_MOST), cut(self.name, QUOTED_AT_MOST))
        })
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
        assert_eq!(NadRef::parse("infra/net", "demo").full_name(), "infra/net");
    }
}
