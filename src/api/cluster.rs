//! Objects of the cluster that facts are made from. They are read when they change and not on the way of a request,
//! so they own their strings.

use std::collections::BTreeMap;

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
    /// `network`.
    #[serde(deserialize_with = "object")]
    pub network: NetworkConfiguration,
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

/// `spec.configuration.network`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NetworkConfiguration {
    /// `permitBridgeInterfaceOnPodNetwork`: unset means true.
    pub permit_bridge_interface_on_pod_network: Option<bool>,
    /// `binding`: the binding plugins that are registered, by name.
    #[serde(deserialize_with = "nullable")]
    pub binding: BTreeMap<String, BindingPlugin>,
}

/// `spec.configuration.network.binding.NAME`: a binding plugin that is registered.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BindingPlugin {
    /// `domainAttachmentType`: `tap`, `managedTap`, or empty when the plugin itself adds the device.
    #[serde(deserialize_with = "nullable")]
    pub domain_attachment_type: String,
}
