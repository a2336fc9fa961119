//! Where a guest may run: `nodeSelector` and the node affinity of a VirtualMachineInstance. They are read when a guest
//! changes and not during a request, so they own their strings.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{nullable, object, objects};

/// `nodeSelector`: labels that the node must have.
pub type NodeSelector = BTreeMap<String, String>;

/// `affinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Affinity {
    /// `nodeAffinity`.
    #[serde(deserialize_with = "object")]
    pub node_affinity: NodeAffinity,
}

/// `affinity.nodeAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// `requiredDuringSchedulingIgnoredDuringExecution`.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "object")]
    pub required: RequiredAffinity,
}

/// `requiredDuringSchedulingIgnoredDuringExecution`: the node must match one of the terms.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequiredAffinity {
    /// `nodeSelectorTerms[]`.
    #[serde(deserialize_with = "objects")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// An entry of `nodeSelectorTerms[]`: the node must match all of its requirements.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// `matchExpressions[]`: on labels.
    #[serde(deserialize_with = "objects")]
    pub match_expressions: Vec<NodeRequirement>,
    /// `matchFields[]`: on `metadata.name`.
    #[serde(deserialize_with = "objects")]
    pub match_fields: Vec<NodeRequirement>,
}

/// An entry of `matchExpressions[]` or `matchFields[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeRequirement {
    /// `key`.
    #[serde(deserialize_with = "nullable")]
    pub key: String,
    /// `operator`: `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`.
    #[serde(deserialize_with = "nullable")]
    pub operator: String,
    /// `values[]`.
    #[serde(deserialize_with = "nullable")]
    pub values: Vec<String>,
}
