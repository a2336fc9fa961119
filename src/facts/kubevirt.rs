//! What the KubeVirt resource says.

use std::collections::BTreeSet;

use crate::{
    api::cluster,
    kubevirt::{
        Version,
        gates::{Gate, GateLists},
    },
};

/// The first version that migrates a VM by itself to attach a NIC.
const MIGRATES_SINCE: Version = Version::new(1, 6, 0);

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
    /// `spec.configuration.vmRolloutStrategy`; `None` when it is left to the version's default.
    pub rollout: Option<Rollout>,
    /// Whether `spec.workloadUpdateStrategy.workloadUpdateMethods` has `LiveMigrate`.
    pub updates_by_migration: bool,
}

/// `vmRolloutStrategy`: when a change of a VM reaches its running guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rollout {
    /// As soon as it can.
    LiveUpdate,
    /// At the next restart.
    Stage,
}

/// Whether KubeVirt migrates a VM when a NIC waits for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AutoMigration {
    /// It does.
    On,
    /// It does not, for want of these settings of the KubeVirt resource.
    Off(&'static str),
    /// No version before 1.6 does.
    TooOld(Version),
    /// The version is not known.
    Unknown,
}

impl KubeVirt {
    /// Whether a feature gate is on.
    #[must_use]
    pub fn has(&self, gate: Gate) -> bool {
        self.gates.is_on(gate, self.version)
    }

    /// Whether a NIC that waits for a migration gets one. The rollout strategy is LiveUpdate by default since 1.6
    /// (kubevirt pull request 14068), the version that brought such migrations (14259).
    #[must_use]
    pub fn auto_migration(&self) -> AutoMigration {
        match (self.version, self.rollout, self.updates_by_migration) {
            (None, ..) => AutoMigration::Unknown,
            (Some(version), ..) if version < MIGRATES_SINCE => AutoMigration::TooOld(version),
            (_, Some(Rollout::Stage), true) => AutoMigration::Off("vmRolloutStrategy LiveUpdate"),
            (_, Some(Rollout::Stage), false) => {
                AutoMigration::Off("vmRolloutStrategy LiveUpdate, workloadUpdateMethods LiveMigrate")
            }
            (_, _, false) => AutoMigration::Off("workloadUpdateMethods LiveMigrate"),
            (_, _, true) => AutoMigration::On,
        }
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
        let configuration = resource.spec.configuration;
        let network = configuration.network;
        let developer = configuration.developer_configuration;
        let methods = resource.spec.workload_update_strategy.workload_update_methods;
        Self {
            version: resource.status.observed_version.parse().ok(),
            gates: GateLists { enabled: developer.feature_gates, disabled: developer.disabled_feature_gates },
            permits_bridge_on_pod_network: network.permit_bridge_interface_on_pod_network.unwrap_or(true),
            binding_plugins: network.binding.into_keys().collect(),
            rollout: match configuration.vm_rollout_strategy.as_str() {
                "LiveUpdate" => Some(Rollout::LiveUpdate),
                "Stage" => Some(Rollout::Stage),
                _ => None,
            },
            updates_by_migration: methods.iter().any(|method| method == "LiveMigrate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_starts_by_itself_since_1_6_where_both_settings_allow_it() {
        for (version, strategy, methods, expected) in [
            ("v1.9.0", "LiveUpdate", "[\"LiveMigrate\"]", AutoMigration::On),
            ("v1.6.0", "", "[\"Evict\", \"LiveMigrate\"]", AutoMigration::On),
            ("v1.9.0", "Stage", "[\"LiveMigrate\"]", AutoMigration::Off("vmRolloutStrategy LiveUpdate")),
            ("v1.9.0", "", "null", AutoMigration::Off("workloadUpdateMethods LiveMigrate")),
            (
                "v1.9.0",
                "Stage",
                "[\"Evict\"]",
                AutoMigration::Off("vmRolloutStrategy LiveUpdate, workloadUpdateMethods LiveMigrate"),
            ),
            ("v1.5.2", "LiveUpdate", "[\"LiveMigrate\"]", AutoMigration::TooOld(Version::new(1, 5, 2))),
            ("", "LiveUpdate", "[\"LiveMigrate\"]", AutoMigration::Unknown),
        ] {
            let text = format!(
                r#"{{"spec": {{"configuration": {{"vmRolloutStrategy": "{strategy}"}},
                    "workloadUpdateStrategy": {{"workloadUpdateMethods": {methods}}}}},
                    "status": {{"observedKubeVirtVersion": "{version}"}}}}"#
            );
            let kubevirt = KubeVirt::from(serde_json::from_str::<cluster::KubeVirt>(&text).unwrap());
            assert_eq!(kubevirt.auto_migration(), expected, "{text}");
        }
    }
}
