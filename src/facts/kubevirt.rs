//! What the KubeVirt resource says.

use crate::{
    api::cluster,
    kubevirt::{
        Version,
        gates::{Gate, GateLists},
    },
};

/// The configuration of KubeVirt that rules ask for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KubeVirt {
    /// `status.observedKubeVirtVersion`; `None` when it is not set or not readable.
    pub version: Option<Version>,
    /// Which feature gates are listed.
    pub gates: GateLists,
}

impl KubeVirt {
    /// Whether a feature gate is on.
    #[must_use]
    pub fn has(&self, gate: Gate) -> bool {
        self.gates.is_on(gate, self.version)
    }
}

impl From<cluster::KubeVirt> for KubeVirt {
    fn from(resource: cluster::KubeVirt) -> Self {
        let developer = resource.spec.configuration.developer_configuration;
        Self {
            version: resource.status.observed_version.parse().ok(),
            gates: GateLists { enabled: developer.feature_gates, disabled: developer.disabled_feature_gates },
        }
    }
}
