//! What the KubeVirt resource says.

use std::collections::BTreeSet;

use crate::{
    api::cluster,
    kubevirt::{
        Version,
        gates::{Gate, GateLists},
    },
};

/// The configuration of KubeVirt that rules ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KubeVirt {
    /// `status.observedKubeVirtVersion`; `None` when it is not set or not readable.
    pub version: Option<Version>,
    /// Which feature gates are listed.
    pub gates: GateLists,
    /// Whether an interface on the pod network may have bridge binding.
    pub permits_bridge_on_pod_network: bool,
    /// Names of the binding plugins that are registered.
    pub binding_plugins: BTreeSet<String>,
}

impl KubeVirt {
    /// Whether a feature gate is on.
    #[must_use]
    pub fn has(&self, gate: Gate) -> bool {
        self.gates.is_on(gate, self.version)
    }
}

impl Default for KubeVirt {
    /// What a resource without any configuration says.
    fn default() -> Self {
        Self::from(cluster::KubeVirt::default())
    }
}

impl From<cluster::KubeVirt> for KubeVirt {
    fn from(resource: cluster::KubeVirt) -> Self {
        let developer = resource.spec.configuration.developer_configuration;
        let network = resource.spec.configuration.network;
        Self {
            version: resource.status.observed_version.parse().ok(),
            gates: GateLists { enabled: developer.feature_gates, disabled: developer.disabled_feature_gates },
            permits_bridge_on_pod_network: network.permit_bridge_interface_on_pod_network.unwrap_or(true),
            binding_plugins: network.binding.into_keys().collect(),
        }
    }
}
