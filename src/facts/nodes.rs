//! Facts about the nodes that run guests.

use std::sync::Arc;

use crate::api::cluster;

/// The label of nodes that KubeVirt runs on. Its value is `false` while KubeVirt starts no guest there.
pub const KUBEVIRT_NODE: &str = "kubevirt.io/schedulable";

/// Labels that KubeVirt writes by the dozen about the CPU of a node. They are not stored.
const CPU_LABELS: [&str; 7] = [
    "cpu-feature.node.kubevirt.io/",
    "cpu-model.node.kubevirt.io/",
    "cpu-model-migration.node.kubevirt.io/",
    "cpu-vendor.node.kubevirt.io/",
    "host-model-cpu.node.kubevirt.io/",
    "host-model-required-features.node.kubevirt.io/",
    "hyperv.node.kubevirt.io/",
];

/// Whether labels of this key are not stored, so that it is not known which nodes have them.
#[must_use]
pub fn is_unstored_label(key: &str) -> bool {
    CPU_LABELS.iter().any(|prefix| key.starts_with(prefix))
}

/// A Node, reduced to the facts that rules use. Nodes share equal labels and names of resources.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Node {
    /// The value of the label `kubevirt.io/schedulable`; `None` without the label.
    pub schedulable: Option<bool>,
    /// `spec.unschedulable`: cordoned.
    pub is_cordoned: bool,
    /// The labels, each as `key=value`.
    pub labels: Box<[Arc<str>]>,
    /// The device-plugin resources that the node offers; `None` if `status.allocatable` is missing.
    pub resources: Option<Box<[Arc<str>]>>,
}

impl Node {
    /// Returns the value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find_map(|label| label.split_once('=').filter(|(known, _)| *known == key)).map(|(_, v)| v)
    }

    /// Whether KubeVirt and the scheduler start guests on the node.
    #[must_use]
    pub fn is_available(&self) -> bool {
        !self.is_cordoned && self.schedulable != Some(false)
    }

    /// Whether the node offers a resource; true if that is not known.
    #[must_use]
    pub fn may_offer(&self, resource: &str) -> bool {
        let Some(offered) = &self.resources else { return true };
        !is_device_resource(resource) || offered.iter().any(|offered| **offered == *resource)
    }

    /// Returns the labels and the names of resources, so that nodes can share them.
    pub fn texts_mut(&mut self) -> impl Iterator<Item = &mut Arc<str>> {
        self.labels.iter_mut().chain(self.resources.iter_mut().flatten())
    }

    /// Returns the labels and the names of resources.
    pub fn texts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.labels.iter().chain(self.resources.iter().flatten())
    }
}

impl From<&cluster::Node> for Node {
    fn from(node: &cluster::Node) -> Self {
        let labels = &node.metadata.labels;
        let stored = labels.iter().filter(|(key, _)| !is_unstored_label(key));
        let allocatable = &node.status.allocatable;
        let offered = allocatable.iter().filter(|(name, quantity)| is_device_resource(name) && quantity.is_some());
        let offered = offered.map(|(name, _)| Arc::from(name.as_str())).collect();
        Self {
            schedulable: labels.get(KUBEVIRT_NODE).map(|value| value == "true"),
            is_cordoned: node.spec.unschedulable,
            labels: stored.map(|(key, value)| Arc::from(format!("{key}={value}"))).collect(),
            resources: (!allocatable.is_empty()).then_some(offered),
        }
    }
}

/// Whether a resource is one of a device plugin, as networks have it, and neither built in nor one of KubeVirt's.
fn is_device_resource(name: &str) -> bool {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    domain.is_some_and(|domain| {
        domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io") && domain != "devices.kubevirt.io"
    })
}

/// The nodes that run guests, sorted by name: those that KubeVirt has labelled, or all nodes if it has labelled none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Nodes(Vec<(Box<str>, Arc<Node>)>);

impl Nodes {
    /// Returns those of all nodes that run guests.
    #[must_use]
    pub fn of<'n>(all: impl Iterator<Item = (&'n str, &'n Arc<Node>)>) -> Self {
        let mut nodes: Vec<(Box<str>, Arc<Node>)> = all.map(|(name, node)| (name.into(), Arc::clone(node))).collect();
        if nodes.iter().any(|(_, node)| node.schedulable.is_some()) {
            nodes.retain(|(_, node)| node.schedulable.is_some());
        }
        nodes.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(nodes)
    }

    /// Returns the number of nodes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns a node by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.iter().find(|(known, _)| *known == name).map(|(_, node)| node)
    }

    /// Returns the name and the node of an index in [`iter`](Self::iter).
    #[must_use]
    pub fn at(&self, index: usize) -> Option<(&str, &Node)> {
        self.0.get(index).map(|(name, node)| (&**name, &**node))
    }

    /// Iterates over names and nodes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(name, node)| (&**name, &**node))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(object: Value) -> Node {
        Node::from(&serde_json::from_value::<cluster::Node>(object).unwrap())
    }

    #[test]
    fn only_the_facts_of_a_node_that_rules_use_are_kept() {
        let labels =
            json!({"kubevirt.io/schedulable": "true", "zone": "a", "cpu-feature.node.kubevirt.io/vmx": "true"});
        let allocatable = json!({"cpu": "16", "example.com/vf": "4", "example.com/none": "0", "example.com/int": 2,
            "devices.kubevirt.io/kvm": "1k", "attachable.kubernetes.io/x": "1"});
        let node = node(json!({"metadata": {"labels": labels}, "spec": {"unschedulable": true},
            "status": {"allocatable": allocatable}}));
        assert_eq!((node.label("zone"), node.label("cpu-feature.node.kubevirt.io/vmx")), (Some("a"), None));
        assert_eq!((node.schedulable, node.is_cordoned, node.is_available()), (Some(true), true, false));
        for (resource, may_offer) in [
            ("example.com/vf", true),
            ("example.com/int", true),
            ("example.com/none", false),
            ("example.com/other", false),
            ("devices.kubevirt.io/kvm", true),
        ] {
            assert_eq!(node.may_offer(resource), may_offer, "{resource}");
        }
    }

    #[test]
    fn a_node_without_a_status_may_offer_everything() {
        assert!(node(json!({})).may_offer("example.com/vf") && node(json!({})).is_available());
    }

    #[test]
    fn only_nodes_that_kubevirt_has_labelled_run_guests() {
        let [plain, yes, no] = ["", r#""kubevirt.io/schedulable": "true""#, r#""kubevirt.io/schedulable": "false""#]
            .map(|label| {
                Arc::new(node(serde_json::from_str(&format!(r#"{{"metadata": {{"labels": {{{label}}}}}}}"#)).unwrap()))
            });
        let names = |all: &[(&str, &Arc<Node>)]| -> Vec<String> {
            Nodes::of(all.iter().copied()).iter().map(|(name, _)| name.to_owned()).collect()
        };
        assert_eq!(names(&[("b", &plain), ("a", &plain)]), ["a", "b"]);
        assert_eq!(names(&[("c", &plain), ("b", &yes), ("a", &no)]), ["a", "b"]);
        assert!(yes.is_available() && !no.is_available());
    }
}
