//! Objects of the cluster that facts are made from. They are read when they change and not on the way of a request,
//! so they own their strings.

use serde::Deserialize;

use super::{nullable, object};

/// `KubeVirt`: the one resource that configures KubeVirt (`kubevirt.io/v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KubeVirt {
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: KubeVirtSpec,
    /// `status`.
    #[serde(deserialize_with = "object")]
    pub status: KubeVirtStatus,
}

/// `spec` of KubeVirt.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KubeVirtSpec {
    /// `configuration`.
    #[serde(deserialize_with = "object")]
    pub configuration: Configuration,
}

/// `spec.configuration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Configuration {
    /// `developerConfiguration`.
    #[serde(deserialize_with = "object")]
    pub developer_configuration: DeveloperConfiguration,
}

/// `spec.configuration.developerConfiguration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeveloperConfiguration {
    /// `featureGates[]`.
    #[serde(deserialize_with = "nullable")]
    pub feature_gates: Vec<String>,
    /// `disabledFeatureGates[]`.
    #[serde(deserialize_with = "nullable")]
    pub disabled_feature_gates: Vec<String>,
}

/// `status` of KubeVirt.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeVirtStatus {
    /// `observedKubeVirtVersion`, as in `v1.9.0`.
    #[serde(rename = "observedKubeVirtVersion", deserialize_with = "nullable")]
    pub observed_version: String,
}
