//! Facts about networks: NetworkAttachmentDefinitions, and which namespaces may use them.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{Fact, cni::CniNetwork};
use crate::{
    api::{cluster, network::NadRef},
    change::Nic,
};

/// The longest name of a resource, in bytes: a prefix of 253, a slash and a name of 63. Of a longer one the beginning
/// counts, which no node offers either.
const RESOURCE_AT_MOST: usize = 253 + 1 + 63;

/// A NetworkAttachmentDefinition, reduced to the facts that rules use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nad {
    /// Whether `spec.config` is valid.
    pub config: CniConfig,
    /// The annotation `k8s.v1.cni.cncf.io/resourceName`: the device-plugin resource that a pod on the network gets.
    pub resource: Option<Box<str>>,
    /// The network that a valid config describes; empty for any other config.
    pub network: CniNetwork,
}

/// `spec.config` of a NetworkAttachmentDefinition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CniConfig {
    /// Empty: the configuration is a file on each node.
    OnNodes,
    /// It names one plugin or more.
    Valid,
    /// It is not JSON, or not a CNI configuration. The text is the reason; it continues a sentence that begins with
    /// "config".
    Broken(Box<str>),
}

impl From<cluster::NetworkAttachmentDefinition> for Nad {
    fn from(nad: cluster::NetworkAttachmentDefinition) -> Self {
        Self::read(&nad.spec.config, &nad.metadata.annotations.resource_name)
    }
}

impl Nad {
    /// Reads `spec.config` of a NetworkAttachmentDefinition with this resource, which is empty if there is none.
    #[must_use]
    pub fn read(config: &str, resource: &str) -> Self {
        let resource = resource.trim();
        let resource =
            Some(&resource[..resource.floor_char_boundary(RESOURCE_AT_MOST)]).filter(|name| !name.is_empty());
        let parsed = serde_json::from_str::<Value>(config);
        let network = parsed.as_ref().map(|config| CniNetwork::of(config, resource)).unwrap_or_default();
        let config = CniConfig::of(config, parsed);
        let network = if config == CniConfig::Valid { network } else { CniNetwork::default() };
        Self { config, resource: resource.map(Box::from), network }
    }
}

impl CniConfig {
    /// Checks a CNI configuration: one plugin (`type`) or a list of plugins (`plugins`).
    fn of(text: &str, parsed: serde_json::Result<Value>) -> Self {
        if text.trim().is_empty() {
            return Self::OnNodes;
        }
        match parsed {
            Err(error) => {
                Self::Broken(format!("is not JSON (line {}, column {})", error.line(), error.column()).into())
            }
            Ok(Value::Object(config)) => match config.get("plugins") {
                None if has_type(config.get("type")) => Self::Valid,
                None => Self::Broken("has neither type nor plugins".into()),
                Some(Value::Array(plugins)) if plugins.is_empty() => {
                    Self::Broken("has an empty list of plugins".into())
                }
                Some(Value::Array(plugins)) => match plugins.iter().position(|plugin| !has_type(plugin.get("type"))) {
                    Some(index) => Self::Broken(format!("has no type in plugins[{index}]").into()),
                    None => Self::Valid,
                },
                Some(_) => Self::Broken("has plugins that are not a list".into()),
            },
            Ok(_) => Self::Broken("is not a JSON object".into()),
        }
    }
}

fn has_type(kind: Option<&Value>) -> bool {
    kind.and_then(Value::as_str).is_some_and(|kind| !kind.is_empty())
}

/// The NetworkAttachmentDefinitions that a change names, sorted by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Nads(Vec<Found>);

#[derive(Clone, Debug)]
struct Found {
    namespace: String,
    name: String,
    lookup: NadLookup,
}

/// The result of looking up one name.
#[derive(Clone, Debug, Default)]
pub struct NadLookup {
    /// The NetworkAttachmentDefinition.
    pub nad: Fact<Arc<Nad>>,
    /// If it does not exist: a similar existing name, as in `networkName`.
    pub suggestion: Option<String>,
    /// Another NetworkAttachmentDefinition, as `namespace/name`, that gives the same OVN network other settings.
    pub conflict: Option<String>,
}

/// The namespace where Multus looks for a default network without a namespace, unless its configuration names another.
pub const MULTUS_NAMESPACE: &str = "kube-system";

/// Returns the NetworkAttachmentDefinition of a NIC.
///
/// KubeVirt adds the namespace of the VM to the name of a further network. It writes the name of a default network into
/// the pod's annotation `v1.multus-cni.io/default-network` as it is, and Multus looks for a name without a namespace in
/// its own namespace (`pkg/network/pod/annotations/generator.go`; Multus' `tryLoadK8sPodDefaultNetwork`).
#[must_use]
pub fn nad_of<'n>(nic: &Nic<'n>, own_namespace: &'n str, multus_namespace: &'n str) -> Option<NadRef<'n>> {
    let is_default = nic.network?.value.is_default();
    Some(NadRef::parse(nic.network_name()?, if is_default { multus_namespace } else { own_namespace }))
}

impl Nads {
    /// Returns an empty collection with room for a number of names.
    #[must_use]
    pub fn with_capacity(names: usize) -> Self {
        Self(Vec::with_capacity(names))
    }

    /// Stores the result for a name.
    pub fn insert(&mut self, name: NadRef, lookup: NadLookup) {
        match self.place(name) {
            Ok(place) => {
                if let Some(found) = self.0.get_mut(place) {
                    found.lookup = lookup;
                }
            }
            Err(place) => {
                let found = Found { namespace: name.namespace.to_owned(), name: name.name.to_owned(), lookup };
                self.0.insert(place, found);
            }
        }
    }

    /// Returns the result for a name; unknown if there is none.
    #[must_use]
    pub fn lookup(&self, name: NadRef) -> NadLookup {
        let found = self.place(name).ok().and_then(|place| self.0.get(place));
        found.map(|found| found.lookup.clone()).unwrap_or_default()
    }

    /// Returns the index of a name, or the one at which it has to be inserted.
    fn place(&self, name: NadRef) -> Result<usize, usize> {
        self.0.binary_search_by(|found| found.name().cmp(&name))
    }

    /// Completes lookups of networks that were read again by earlier ones that saw the networks of all namespaces: by a
    /// network that may have been meant, and by other settings for the same OVN network. A network that was not read
    /// again stays known if it existed. If it was absent, it stays so only if another one is still absent: otherwise
    /// the earlier lookups were behind the cluster.
    #[must_use]
    pub fn completed_by(mut self, earlier: &Self, was_read: impl Fn(NadRef) -> bool) -> Self {
        let is_absent = |found: &Found| found.lookup.nad == Fact::Absent;
        let absent: BTreeSet<String> =
            self.0.iter().filter(|found| is_absent(found)).map(|found| found.name().full_name()).collect();
        let is_up_to_date = self.0.iter().any(|found| {
            is_absent(found) && was_read(found.name()) && earlier.lookup(found.name()).nad == Fact::Absent
        });
        for Found { namespace, name, lookup } in &mut self.0 {
            let name = NadRef { namespace, name };
            let mut earlier = earlier.lookup(name);
            // What may have been meant may be gone, too.
            earlier.suggestion = earlier.suggestion.filter(|network| !absent.contains(network));
            if !was_read(name) && (earlier.nad.known().is_some() || is_up_to_date) {
                *lookup = earlier;
            } else if earlier.nad == lookup.nad {
                lookup.conflict = earlier.conflict;
                lookup.suggestion = earlier.suggestion.or(lookup.suggestion.take());
            }
        }
        self
    }
}

impl Found {
    fn name(&self) -> NadRef<'_> {
        NadRef { namespace: &self.namespace, name: &self.name }
    }
}

/// How many networks of a namespace are searched for one with a similar name.
pub(crate) const SIMILAR_AT_MOST: u16 = 500;

/// The longest name that is compared with others, in bytes: the time grows with the product of the two lengths. Most
/// names in a cluster have 63 at most.
const NAME_AT_MOST: usize = 64;

/// Returns the closest of some names to another, if it is close enough for a typing error: at most two edits, and fewer
/// than half of the name (Levenshtein distance).
#[must_use]
pub fn closest_name<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if name.len() > NAME_AT_MOST {
        return None;
    }
    let length = name.chars().count();
    let limit = (length / 2).min(3);
    // Each letter that one of them has more is an edit.
    let of_similar_length = names.filter(|other| other.chars().count().abs_diff(length) < limit);
    let distances = of_similar_length.map(|other| (strsim::levenshtein(name, other), other));
    distances.filter(|&(distance, _)| distance < limit).min().map(|(_, other)| other)
}

/// Multus' `namespaceIsolation`: a pod may use the networks of its own namespace and of a few others only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamespaceIsolation {
    /// `globalNamespaces`, besides `default`.
    pub global_namespaces: Vec<String>,
}

/// The configuration of a thick Multus, reduced to the facts that rules use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MultusConfig {
    /// The namespace isolation; absent if it is off, unknown if the configuration is invalid.
    pub isolation: Fact<Arc<NamespaceIsolation>>,
    /// `multusNamespace`, if it is set.
    pub namespace: Option<Arc<str>>,
}

impl MultusConfig {
    /// Reads the ConfigMap `multus-daemon-config`.
    #[must_use]
    pub fn read(config: &cluster::ConfigMap) -> Self {
        let Some(text) = config.data.get("daemon-config.json") else {
            return Self { isolation: Fact::Absent, namespace: None };
        };
        let Ok(config) = serde_json::from_str::<Value>(text) else { return Self::default() };
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        let isolation = match config.get("namespaceIsolation").and_then(Value::as_bool) {
            Some(true) => Fact::Known(Arc::new(NamespaceIsolation::new(text("globalNamespaces")))),
            _ => Fact::Absent,
        };
        let namespace = Some(text("multusNamespace")).filter(|namespace| !namespace.is_empty());
        Self { isolation, namespace: namespace.map(Arc::from) }
    }
}

impl NamespaceIsolation {
    /// Reads a list of global namespaces, separated by commas.
    #[must_use]
    pub fn new(global_namespaces: &str) -> Self {
        let namespaces = global_namespaces.split(',').map(str::trim).filter(|namespace| !namespace.is_empty());
        Self { global_namespaces: namespaces.map(str::to_owned).collect() }
    }

    /// Whether every namespace may use the networks of `namespace`.
    #[must_use]
    pub fn is_global(&self, namespace: &str) -> bool {
        namespace == "default" || self.global_namespaces.iter().any(|global| global == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_checked_as_cni_reads_it() {
        for (text, broken) in [
            ("", None),
            (" \n", None),
            (r#"{"type": "bridge"}"#, None),
            (r#"{"cniVersion": "0.3.1", "plugins": [{"type": "bridge"}, {"type": "tuning"}]}"#, None),
            ("{not json", Some("is not JSON")),
            ("[]", Some("is not a JSON object")),
            (r#"{"cniVersion": "0.3.1"}"#, Some("has neither type nor plugins")),
            (r#"{"type": 5}"#, Some("has neither type nor plugins")),
            (r#"{"type": ""}"#, Some("has neither type nor plugins")),
            (r#"{"plugins": []}"#, Some("has an empty list of plugins")),
            (r#"{"plugins": [{"type": "bridge"}, {}]}"#, Some("has no type in plugins[1]")),
            (r#"{"plugins": {}}"#, Some("has plugins that are not a list")),
        ] {
            match (Nad::read(text, "").config, broken) {
                (CniConfig::Broken(how), Some(broken)) => assert!(how.starts_with(broken), "{text}: {how}"),
                (CniConfig::Valid | CniConfig::OnNodes, None) => {}
                (config, _) => panic!("{text}: {config:?}"),
            }
        }
    }

    #[test]
    fn a_typing_error_finds_the_name() {
        let names = ["new-fancy-net", "net-b", "other"];
        for (name, expected) in [
            ("new-fency-net", Some("new-fancy-net")),
            ("newfancynet", Some("new-fancy-net")),
            ("net-c", Some("net-b")),
            ("no-such-net", None),
            ("new-fancy-net12", Some("new-fancy-net")),
            ("new-fancy-net-12", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest_name(name, names.into_iter()), expected, "{name}");
        }
        let (longest, longer) = ("n".repeat(64), "n".repeat(65));
        assert_eq!(closest_name(&longest, [&*longer].into_iter()), Some(&*longer));
        assert_eq!(closest_name(&longer, [&*longest].into_iter()), None);
    }

    #[test]
    fn a_hint_is_kept_as_long_as_the_network_itself_is_the_same() {
        let name = NadRef { namespace: "demo", name: "net" };
        let nad = |config: &str| Fact::Known(Arc::new(Nad::read(config, "")));
        let lookup = |nad: &Fact<Arc<Nad>>, suggestion: Option<&str>, conflict: Option<&str>| NadLookup {
            nad: nad.clone(),
            suggestion: suggestion.map(str::to_owned),
            conflict: conflict.map(str::to_owned),
        };
        let hints = |fresh: NadLookup, earlier: NadLookup| {
            let [mut fresh_nads, mut earlier_nads] = [Nads::default(), Nads::default()];
            fresh_nads.insert(name, fresh);
            earlier_nads.insert(name, earlier);
            let lookup = fresh_nads.completed_by(&earlier_nads, |_| true).lookup(name);
            (lookup.suggestion, lookup.conflict)
        };
        let some = |text: &str| Some(text.to_owned());
        let absent = |suggestion| lookup(&Fact::Absent, suggestion, None);
        assert_eq!(hints(absent(None), absent(Some("other/net"))), (some("other/net"), None));
        assert_eq!(hints(absent(Some("demo/nets")), absent(Some("other/net"))), (some("other/net"), None));
        assert_eq!(hints(absent(Some("demo/nets")), absent(None)), (some("demo/nets"), None));
        assert_eq!(hints(absent(None), absent(Some("demo/nets"))), (some("demo/nets"), None));
        let [one, other] = [r#"{"type": "bridge"}"#, r#"{"type": "macvlan"}"#].map(nad);
        let conflicting = |nad| lookup(nad, None, Some("other/net"));
        assert_eq!(hints(lookup(&one, None, None), conflicting(&one)), (None, some("other/net")));
        assert_eq!(hints(lookup(&other, None, None), conflicting(&one)), (None, None));
        assert_eq!(hints(lookup(&one, None, None), absent(Some("other/net"))), (None, None));
    }

    #[test]
    fn a_network_that_was_not_read_again_stays_known_only_if_it_existed() {
        let name = NadRef { namespace: "demo", name: "net" };
        let known = Fact::Known(Arc::new(Nad::read(r#"{"type": "bridge"}"#, "")));
        for (earlier, was_read, expected) in [
            (&known, false, &known),
            (&known, true, &Fact::Unknown),
            (&Fact::Absent, false, &Fact::Unknown),
            (&Fact::Absent, true, &Fact::Unknown),
        ] {
            let [mut fresh_nads, mut earlier_nads] = [Nads::default(), Nads::default()];
            fresh_nads.insert(name, NadLookup::default());
            earlier_nads.insert(name, NadLookup { nad: earlier.clone(), suggestion: None, conflict: None });
            assert_eq!(&fresh_nads.completed_by(&earlier_nads, |_| was_read).lookup(name).nad, expected);
        }
    }

    #[test]
    fn a_network_that_is_absent_now_is_not_suggested() {
        let [near, meant] = ["nett", "net"].map(|name| NadRef { namespace: "demo", name });
        let lookup = |nad: Fact<Arc<Nad>>, suggestion: Option<&str>| NadLookup {
            nad,
            suggestion: suggestion.map(str::to_owned),
            conflict: None,
        };
        let exists = Fact::Known(Arc::new(Nad::read("", "")));
        for (now, expected) in [(exists.clone(), Some("demo/net")), (Fact::Absent, None)] {
            let [mut fresh_nads, mut earlier_nads] = [Nads::default(), Nads::default()];
            fresh_nads.insert(near, lookup(Fact::Absent, None));
            fresh_nads.insert(meant, lookup(now, None));
            earlier_nads.insert(near, lookup(Fact::Absent, Some("demo/net")));
            earlier_nads.insert(meant, lookup(exists.clone(), None));
            let nads = fresh_nads.completed_by(&earlier_nads, |_| true);
            assert_eq!(nads.lookup(near).suggestion.as_deref(), expected);
        }
    }

    #[test]
    fn a_network_that_was_not_read_again_stays_absent_if_another_one_is_still_absent() {
        let [read, unread] = ["read", "unread"].map(|name| NadRef { namespace: "demo", name });
        let absent = || NadLookup { nad: Fact::Absent, suggestion: None, conflict: None };
        for (now, expected) in [(Fact::Absent, Fact::Absent), (Fact::Unknown, Fact::Unknown)] {
            let [mut fresh_nads, mut earlier_nads] = [Nads::default(), Nads::default()];
            fresh_nads.insert(read, NadLookup { nad: now, ..NadLookup::default() });
            fresh_nads.insert(unread, NadLookup::default());
            earlier_nads.insert(read, absent());
            earlier_nads.insert(unread, absent());
            let nads = fresh_nads.completed_by(&earlier_nads, |name| name == read);
            assert_eq!(nads.lookup(unread).nad, expected);
        }
    }

    #[test]
    fn isolation_is_off_unless_set_to_true() {
        let read = |text: &str| {
            let data = [("daemon-config.json".to_owned(), text.to_owned())].into();
            MultusConfig::read(&cluster::ConfigMap { data, ..cluster::ConfigMap::default() }).isolation
        };
        assert_eq!(MultusConfig::read(&cluster::ConfigMap::default()).isolation, Fact::Absent);
        assert_eq!(read("{}"), Fact::Absent);
        assert_eq!(read(r#"{"namespaceIsolation": false}"#), Fact::Absent);
        assert_eq!(read("{"), Fact::Unknown);
        let on = read(r#"{"namespaceIsolation": true, "globalNamespaces": "kube-system, infra"}"#);
        let on = on.known().unwrap();
        for (namespace, is_global) in [("default", true), ("infra", true), ("kube-system", true), ("other", false)] {
            assert_eq!(on.is_global(namespace), is_global, "{namespace}");
        }
    }
}
