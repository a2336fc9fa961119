//! On which nodes a guest may run: its `nodeSelector` and its required node affinity.

use super::nodes::{Node, is_unstored_label};
use crate::api::{
    guest::GuestSpec,
    placement::{Affinity, NodeRequirement, NodeSelector, NodeSelectorTerm},
};

/// What a guest requires of its node. Guests with equal requirements share one.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Placement {
    /// Keys and values of `nodeSelector`.
    selector: Box<[(Box<str>, Box<str>)]>,
    /// The terms of the required node affinity: the node must match one of them, if there are any.
    terms: Box<[Box<[Requirement]>]>,
    /// Whether they were not read, because they are longer than any real ones.
    is_too_long: bool,
}

/// The longest text of `nodeSelector` and `affinity` that is read, in bytes: the names of two thousand nodes.
const TEXT_AT_MOST: usize = 64 << 10;

/// The most requirements and terms that are compared with each node.
const REQUIREMENTS_AT_MOST: usize = 256;

/// A requirement on a label, or on the name of the node.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Requirement {
    /// The key of a label; `None` for the name of the node.
    label: Option<Box<str>>,
    operator: Operator,
    /// Sorted for [`Operator::In`] and [`Operator::NotIn`].
    values: Box<[Box<str>]>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Greater,
    Less,
    /// One that nicplug does not know, so that every node matches.
    Unknown,
}

impl Placement {
    /// Reads the requirements of a guest; `None` if it has none.
    #[must_use]
    pub fn of_guest(guest: &GuestSpec) -> Option<Self> {
        let texts = [guest.node_selector.text(), guest.affinity.text()];
        if texts.into_iter().flatten().map(str::len).sum::<usize>() > TEXT_AT_MOST {
            return Some(Self { is_too_long: true, ..Self::default() });
        }
        let placement =
            Self::of(guest.node_selector.read().unwrap_or_default(), guest.affinity.read().unwrap_or_default())?;
        let requirements = placement.terms.iter().map(|term| term.len() + 1).sum::<usize>() + placement.selector.len();
        if requirements > REQUIREMENTS_AT_MOST {
            return Some(Self { is_too_long: true, ..Self::default() });
        }
        Some(placement)
    }

    /// Whether the requirements are known.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.is_too_long
    }

    pub(crate) fn of(selector: NodeSelector, affinity: Affinity) -> Option<Self> {
        let selector = selector.into_iter().map(|(key, value)| (key.into(), value.into()));
        let terms = affinity.node_affinity.required.node_selector_terms.into_iter().map(requirements);
        let placement = Self { selector: selector.collect(), terms: terms.collect(), is_too_long: false };
        (placement != Self::default()).then_some(placement)
    }

    /// Whether the guest may run on a node.
    #[must_use]
    pub fn allows(&self, name: &str, node: &Node) -> bool {
        let has_label = |(key, value): &(Box<str>, Box<str>)| {
            is_unstored_label(key) || node.label(key).is_some_and(|label| *label == **value)
        };
        // A term without requirements matches no node.
        let matches = |term: &[Requirement]| !term.is_empty() && term.iter().all(|one| one.holds(name, node));
        self.selector.iter().all(has_label) && (self.terms.is_empty() || self.terms.iter().any(|term| matches(term)))
    }

    /// Returns the field that has the requirements.
    #[must_use]
    pub fn field(&self) -> &'static str {
        if self.selector.is_empty() { "node affinity" } else { "nodeSelector" }
    }
}

fn requirements(term: NodeSelectorTerm) -> Box<[Requirement]> {
    let on_labels = term.match_expressions.into_iter().map(|one| Requirement::of(one, true));
    on_labels.chain(term.match_fields.into_iter().map(|one| Requirement::of(one, false))).collect()
}

impl Requirement {
    fn of(requirement: NodeRequirement, is_on_label: bool) -> Self {
        let NodeRequirement { key, operator, values } = requirement;
        let mut values: Box<[Box<str>]> = values.into_iter().map(Into::into).collect();
        if matches!(operator.as_str(), "In" | "NotIn") {
            values.sort_unstable();
        }
        Self {
            operator: match operator.as_str() {
                // The only field of a node that Kubernetes selects by.
                _ if !is_on_label && key != "metadata.name" => Operator::Unknown,
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::Greater,
                "Lt" => Operator::Less,
                _ => Operator::Unknown,
            },
            label: is_on_label.then(|| key.into()),
            values,
        }
    }

    fn holds(&self, name: &str, node: &Node) -> bool {
        let value = match self.label.as_deref() {
            Some(key) if is_unstored_label(key) => return true,
            Some(key) => node.label(key),
            None => Some(name),
        };
        let is_listed =
            || value.is_some_and(|value| self.values.binary_search_by(|listed| (**listed).cmp(value)).is_ok());
        let numbers = || Some((value?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => is_listed(),
            Operator::NotIn => !is_listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Greater => numbers().is_some_and(|(value, limit)| value > limit),
            Operator::Less => numbers().is_some_and(|(value, limit)| value < limit),
            Operator::Unknown => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn node() -> Node {
        let labels = ["zone=a", "cores=16"].map(Arc::from);
        Node { labels: labels.into(), ..Node::default() }
    }

    #[test]
    fn a_node_selector_requires_every_label() {
        for (selector, allows) in [
            (json!({}), true),
            (json!({"zone": "a"}), true),
            (json!({"zone": "a", "cores": "16"}), true),
            (json!({"zone": "a", "cores": "8"}), false),
            (json!({"other": ""}), false),
            (json!({"cpu-model.node.kubevirt.io/Haswell": "true"}), true),
        ] {
            let placement = Placement::of(serde_json::from_value(selector.clone()).unwrap(), Affinity::default());
            assert_eq!(placement.is_none_or(|placement| placement.allows("n", &node())), allows, "{selector}");
        }
    }

    #[test]
    fn a_required_affinity_requires_every_expression_of_one_term() {
        let on =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        let label = |requirement| json!({"matchExpressions": [requirement]});
        for (terms, allows) in [
            (json!([label(on("zone", "In", &["a", "b"]))]), true),
            (json!([label(on("zone", "In", &["b"]))]), false),
            (json!([label(on("zone", "In", &["b"])), label(on("cores", "Gt", &["8"]))]), true),
            (json!([{"matchExpressions": [on("zone", "In", &["a"]), on("cores", "Lt", &["8"])]}]), false),
            (json!([label(on("zone", "NotIn", &["a"]))]), false),
            (json!([label(on("other", "NotIn", &["a"]))]), true),
            (json!([label(on("zone", "Exists", &[]))]), true),
            (json!([label(on("zone", "DoesNotExist", &[]))]), false),
            (json!([label(on("zone", "Gt", &["8"]))]), false),
            (json!([label(on("zone", "Resembles", &["z"]))]), true),
            (json!([label(on("host-model-cpu.node.kubevirt.io/Haswell", "In", &["true"]))]), true),
            (json!([{"matchFields": [on("metadata.name", "In", &["n"])]}]), true),
            (json!([{"matchFields": [on("metadata.name", "In", &["m"])]}]), false),
            (json!([{}]), false),
            (json!([]), true),
        ] {
            let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": terms}}});
            let placement = Placement::of(NodeSelector::new(), serde_json::from_value(affinity).unwrap());
            assert_eq!(placement.is_none_or(|placement| placement.allows("n", &node())), allows, "{terms}");
        }
    }
}
