//! What is known of networks: NetworkAttachmentDefinitions and who may use them.

use std::sync::Arc;

use serde_json::Value;

use super::Fact;
use crate::api::{cluster, network::NadRef};

/// The annotation that names the device plugin's resource of an SR-IOV network.
const RESOURCE_NAME: &str = "k8s.v1.cni.cncf.io/resourceName";

/// A NetworkAttachmentDefinition, reduced to what rules ask of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nad {
    /// What `spec.config` is worth.
    pub config: CniConfig,
    /// Whether the annotation `k8s.v1.cni.cncf.io/resourceName` names a resource.
    pub has_resource: bool,
}

/// `spec.config` of a NetworkAttachmentDefinition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CniConfig {
    /// Empty: the configuration is a file on each node.
    OnNodes,
    /// It names its plugins.
    Valid,
    /// No JSON, or not what CNI reads; how, in words that follow "config".
    Broken(Box<str>),
}

impl From<cluster::NetworkAttachmentDefinition> for Nad {
    fn from(nad: cluster::NetworkAttachmentDefinition) -> Self {
        let resource = nad.metadata.annotations.get(RESOURCE_NAME);
        Self {
            config: CniConfig::read(&nad.spec.config),
            has_resource: resource.is_some_and(|name| !name.trim().is_empty()),
        }
    }
}

impl CniConfig {
    /// Judges a CNI configuration: one plugin (`type`) or a list of them (`plugins`).
    #[must_use]
    pub fn read(text: &str) -> Self {
        if text.trim().is_empty() {
            return Self::OnNodes;
        }
        match serde_json::from_str::<Value>(text) {
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
                Some(_) => Self::Broken("has plugins that are no list".into()),
            },
            Ok(_) => Self::Broken("is no JSON object".into()),
        }
    }
}

fn has_type(kind: Option<&Value>) -> bool {
    kind.and_then(Value::as_str).is_some_and(|kind| !kind.is_empty())
}

/// The NetworkAttachmentDefinitions that a change names, and no others: a guest has few NICs.
#[derive(Clone, Debug, Default)]
pub struct Nads(Vec<Found>);

#[derive(Clone, Debug)]
struct Found {
    namespace: String,
    name: String,
    lookup: NadLookup,
}

/// What was found under one name.
#[derive(Clone, Debug, Default)]
pub struct NadLookup {
    /// The NetworkAttachmentDefinition.
    pub nad: Fact<Arc<Nad>>,
    /// Where there is none: one that may be meant, as a `networkName` would name it.
    pub suggestion: Option<String>,
}

impl Nads {
    /// Notes what was found under a name.
    pub fn insert(&mut self, name: NadRef, lookup: NadLookup) {
        self.0.retain(|found| !found.is_of(name));
        self.0.push(Found { namespace: name.namespace.to_owned(), name: name.name.to_owned(), lookup });
    }

    /// What was found under a name: unknown where nobody looked.
    #[must_use]
    pub fn lookup(&self, name: NadRef) -> NadLookup {
        let found = self.0.iter().find(|found| found.is_of(name));
        found.map(|found| found.lookup.clone()).unwrap_or_default()
    }
}

impl Found {
    fn is_of(&self, name: NadRef) -> bool {
        self.name == name.name && self.namespace == name.namespace
    }
}

/// Which of some names is most like another, if any is near enough to be a slip of the pen: two letters off at most,
/// and less than half of the name.
#[must_use]
pub fn closest_name<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let limit = (name.chars().count() / 2).min(3);
    let distances = names.map(|other| (distance(name, other), other));
    distances.filter(|&(distance, _)| distance < limit).min().map(|(_, other)| other)
}

/// How many letters have to be put in, left out or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (cell, opposite) in row.iter_mut().skip(1).zip(other.chars()) {
            let changed = diagonal + usize::from(letter != opposite);
            diagonal = *cell;
            left = changed.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Multus' `namespaceIsolation`: a pod may use the networks of its own namespace and of a few others only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamespaceIsolation {
    /// `globalNamespaces`, besides `default`.
    pub global_namespaces: Vec<String>,
}

impl NamespaceIsolation {
    /// Reads it from the ConfigMap `multus-daemon-config`: absent when it is off there, unknown when it cannot be read.
    #[must_use]
    pub fn read(config: &cluster::ConfigMap) -> Fact<Arc<Self>> {
        let Some(text) = config.data.get("daemon-config.json") else { return Fact::Absent };
        let Ok(config) = serde_json::from_str::<Value>(text) else { return Fact::Unknown };
        if config.get("namespaceIsolation").and_then(Value::as_bool) != Some(true) {
            return Fact::Absent;
        }
        let namespaces = config.get("globalNamespaces").and_then(Value::as_str).unwrap_or_default();
        let namespaces = namespaces.split(',').map(str::trim).filter(|namespace| !namespace.is_empty());
        Fact::Known(Arc::new(Self { global_namespaces: namespaces.map(str::to_owned).collect() }))
    }

    /// Whether every namespace may use the networks of this one.
    #[must_use]
    pub fn is_global(&self, namespace: &str) -> bool {
        namespace == "default" || self.global_namespaces.iter().any(|global| global == namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_judged_as_cni_reads_it() {
        for (text, broken) in [
            ("", None),
            (" \n", None),
            (r#"{"type": "bridge"}"#, None),
            (r#"{"cniVersion": "0.3.1", "plugins": [{"type": "bridge"}, {"type": "tuning"}]}"#, None),
            ("{not json", Some("is not JSON")),
            ("[]", Some("is no JSON object")),
            (r#"{"cniVersion": "0.3.1"}"#, Some("has neither type nor plugins")),
            (r#"{"type": 5}"#, Some("has neither type nor plugins")),
            (r#"{"type": ""}"#, Some("has neither type nor plugins")),
            (r#"{"plugins": []}"#, Some("has an empty list of plugins")),
            (r#"{"plugins": [{"type": "bridge"}, {}]}"#, Some("has no type in plugins[1]")),
            (r#"{"plugins": {}}"#, Some("has plugins that are no list")),
        ] {
            match (CniConfig::read(text), broken) {
                (CniConfig::Broken(how), Some(broken)) => assert!(how.starts_with(broken), "{text}: {how}"),
                (CniConfig::Valid | CniConfig::OnNodes, None) => {}
                (config, _) => panic!("{text}: {config:?}"),
            }
        }
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_name() {
        let names = ["new-fancy-net", "net-b", "other"];
        for (name, expected) in [
            ("new-fency-net", Some("new-fancy-net")),
            ("newfancynet", Some("new-fancy-net")),
            ("net-c", Some("net-b")),
            ("no-such-net", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(closest_name(name, names.into_iter()), expected, "{name}");
        }
    }

    #[test]
    fn the_distance_counts_letters() {
        for (one, other, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn isolation_is_off_unless_it_says_true() {
        let read = |text: &str| {
            let data = [("daemon-config.json".to_owned(), text.to_owned())].into();
            NamespaceIsolation::read(&cluster::ConfigMap { data, ..cluster::ConfigMap::default() })
        };
        assert_eq!(NamespaceIsolation::read(&cluster::ConfigMap::default()), Fact::Absent);
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
