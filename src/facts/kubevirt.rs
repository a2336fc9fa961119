//! Facts from the KubeVirt resource.

use std::collections::BTreeMap;

use super::vmi::{EvictionStrategy, Migratable, Vmi};
use crate::{
    api::cluster,
    kubevirt::{
        Version,
        gates::{Gate, GateLists},
    },
    pci::{self, DeviceRegistry, HostDeviceKind, PortUsage},
};

/// The first version that starts a migration itself to attach a NIC.
const AUTO_MIGRATION_SINCE: Version = Version::new(1, 6, 0);

/// The configuration of KubeVirt, reduced to the facts that rules use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KubeVirt {
    /// `status.observedKubeVirtVersion`; `None` if missing or invalid.
    pub version: Option<Version>,
    /// The listed feature gates.
    pub gates: GateLists,
    /// Whether an interface on the pod network may have bridge binding.
    pub permits_bridge_on_pod_network: bool,
    /// The binding of the default NIC, which KubeVirt adds to a guest without NICs.
    pub default_binding: DefaultBinding,
    /// The registered binding plugins, and whether KubeVirt defines a NIC for each.
    pub binding_plugins: BTreeMap<String, pci::DomainAttachment>,
    /// The permitted host devices by name.
    pub host_devices: BTreeMap<String, HostDeviceKind>,
    /// `spec.configuration.vmRolloutStrategy`; `None` means the default of the version.
    pub rollout: Option<Rollout>,
    /// Whether `spec.workloadUpdateStrategy.workloadUpdateMethods` has `LiveMigrate`.
    pub updates_by_migration: bool,
    /// Whether they have `Evict`.
    pub updates_by_eviction: bool,
    /// What an eviction does to a guest that does not say so itself.
    pub eviction_strategy: EvictionStrategy,
}

/// `spec.configuration.network.defaultNetworkInterface`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DefaultBinding {
    /// The default.
    #[default]
    Bridge,
    /// Network address translation.
    Masquerade,
    /// Discontinued: up to KubeVirt 1.2.
    Slirp,
}

impl DefaultBinding {
    /// Returns the field name in an interface.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Masquerade => "masquerade",
            Self::Slirp => "slirp",
        }
    }
}

/// `vmRolloutStrategy`: when a change of a VM reaches its running guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rollout {
    /// As soon as possible.
    LiveUpdate,
    /// At the next restart.
    Stage,
}

/// Whether KubeVirt starts a migration for a NIC that needs one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AutoMigration {
    /// Yes.
    On,
    /// No: the KubeVirt resource lacks this setting.
    Off(&'static str),
    /// No: KubeVirt evicts the pod instead, which shuts the guest down.
    ShutDown,
    /// No: the version is older than 1.6.
    TooOld(Version),
    /// The version is not known.
    Unknown,
}

impl KubeVirt {
    /// Whether both resources register the same binding plugins and host devices.
    #[must_use]
    pub fn registers_same_devices(&self, other: &Self) -> bool {
        self.binding_plugins == other.binding_plugins && self.host_devices == other.host_devices
    }

    /// Whether a feature gate is on.
    #[must_use]
    pub fn has(&self, gate: Gate) -> bool {
        self.gates.is_on(gate, self.version)
    }

    /// Returns what may rewrite the domain of a guest after nicplug's model of it ends; its ports are then an estimate.
    ///
    /// Sidecars and plugins get the domain before libvirt defines it (`OnDefineDomain`). The gates exist since 1.8 and 1.9.
    #[must_use]
    pub fn domain_rewrite(&self, usage: &PortUsage) -> Option<&'static str> {
        let since = |minor| self.version.is_none_or(|version| version.is_at_least(1, minor));
        let is_pcie = usage.machine.is_pcie();
        if usage.has_sidecars {
            Some("a hook sidecar may rewrite the domain")
        } else if usage.has_numa_devices && is_pcie && since(8) && self.has(Gate::PciNumaAwareTopology) {
            Some("KubeVirt places host devices by NUMA node")
        } else if since(9) && self.has(Gate::Plugins) {
            Some("a KubeVirt plugin may rewrite the domain")
        } else {
            None
        }
    }

    /// Returns whether KubeVirt starts a migration for a NIC that needs one. Such migrations came with 1.6 (kubevirt pull
    /// request 14259). The workload updater starts them whatever `vmRolloutStrategy` is.
    ///
    /// A guest that it does not migrate itself, or that cannot migrate, it evicts, if the methods include `Evict`
    /// (`getUpdateData` in `pkg/virt-controller/watch/workload-updater/workload-updater.go`).
    #[must_use]
    pub fn auto_migration(&self, vmi: &Vmi) -> AutoMigration {
        // KubeVirt treats a VM without the condition as one that cannot migrate.
        self.auto_migration_of(vmi.migratable == Migratable::Yes, vmi.eviction_strategy)
    }

    /// As [`auto_migration`](Self::auto_migration), for a guest that can or cannot migrate, with its own eviction strategy.
    #[must_use]
    pub fn auto_migration_of(&self, can_migrate: bool, strategy: Option<EvictionStrategy>) -> AutoMigration {
        let strategy = strategy.unwrap_or(self.eviction_strategy);
        let evicts = self.updates_by_eviction && !(self.updates_by_migration && can_migrate);
        match self.version {
            None => AutoMigration::Unknown,
            Some(version) if version < AUTO_MIGRATION_SINCE => AutoMigration::TooOld(version),
            Some(_) if evicts => match strategy {
                EvictionStrategy::None => AutoMigration::ShutDown,
                EvictionStrategy::LiveMigrateIfPossible if !can_migrate => AutoMigration::ShutDown,
                EvictionStrategy::LiveMigrate | EvictionStrategy::LiveMigrateIfPossible if can_migrate => {
                    AutoMigration::On
                }
                _ => AutoMigration::Off("workloadUpdateMethods LiveMigrate"),
            },
            Some(_) if self.updates_by_migration => AutoMigration::On,
            Some(_) => AutoMigration::Off("workloadUpdateMethods LiveMigrate"),
        }
    }
}

impl Default for KubeVirt {
    /// The facts of a resource without configuration.
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
            default_binding: match network.default_network_interface.as_str() {
                "masquerade" => DefaultBinding::Masquerade,
                "slirp" => DefaultBinding::Slirp,
                _ => DefaultBinding::Bridge,
            },
            binding_plugins: network.binding.into_iter().map(|(name, plugin)| (name, attachment_of(&plugin))).collect(),
            host_devices: host_devices(configuration.permitted_host_devices),
            rollout: match configuration.vm_rollout_strategy.as_str() {
                "LiveUpdate" => Some(Rollout::LiveUpdate),
                "Stage" => Some(Rollout::Stage),
                _ => None,
            },
            updates_by_migration: methods.iter().any(|method| method == "LiveMigrate"),
            updates_by_eviction: methods.iter().any(|method| method == "Evict"),
            eviction_strategy: EvictionStrategy::parse(&configuration.eviction_strategy).unwrap_or_default(),
        }
    }
}

impl DeviceRegistry for KubeVirt {
    fn binding(&self, name: &str) -> pci::DomainAttachment {
        self.binding_plugins.get(name).copied().unwrap_or(pci::DomainAttachment::Unknown)
    }

    fn host_device(&self, device_name: &str) -> HostDeviceKind {
        self.host_devices.get(device_name).copied().unwrap_or(HostDeviceKind::Unknown)
    }
}

/// KubeVirt defines an interface for these two attachment types, and leaves all others to the plugin.
fn attachment_of(plugin: &cluster::BindingPlugin) -> pci::DomainAttachment {
    match plugin.domain_attachment_type.as_str() {
        "tap" | "managedTap" => pci::DomainAttachment::Tap,
        _ => pci::DomainAttachment::NoNic,
    }
}

fn host_devices(permitted: cluster::PermittedHostDevices) -> BTreeMap<String, HostDeviceKind> {
    let lists = [
        (permitted.pci_host_devices, HostDeviceKind::Pci),
        (permitted.mediated_devices, HostDeviceKind::Mediated),
        (permitted.usb, HostDeviceKind::Usb),
    ];
    let named = |(list, kind): (Vec<cluster::PermittedDevice>, HostDeviceKind)| {
        list.into_iter().map(move |device| (device.resource_name, kind))
    };
    lists.into_iter().flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_by_the_resource() {
        let text = r#"{"spec": {"configuration": {
            "network": {"binding": {"side": {"sidecarImage": "x"}, "plug": {"domainAttachmentType": "managedTap"}}},
            "permittedHostDevices": {"pciHostDevices": [{"resourceName": "a.com/pci"}],
                "mediatedDevices": [{"resourceName": "a.com/vgpu"}], "usb": [{"resourceName": "a.com/usb"}]}}}}"#;
        let kubevirt = KubeVirt::from(serde_json::from_str::<cluster::KubeVirt>(text).unwrap());
        for (name, attachment) in [
            ("side", pci::DomainAttachment::NoNic),
            ("plug", pci::DomainAttachment::Tap),
            ("other", pci::DomainAttachment::Unknown),
        ] {
            assert_eq!(kubevirt.binding(name), attachment, "{name}");
        }
        for (name, kind) in [
            ("a.com/pci", HostDeviceKind::Pci),
            ("a.com/vgpu", HostDeviceKind::Mediated),
            ("a.com/usb", HostDeviceKind::Usb),
            ("a.com/other", HostDeviceKind::Unknown),
        ] {
            assert_eq!(kubevirt.host_device(name), kind, "{name}");
        }
    }

    #[test]
    fn a_migration_starts_automatically_since_1_6_if_live_migrate_is_listed_whatever_the_rollout_strategy() {
        for (version, strategy, methods, expected) in [
            ("v1.9.0", "LiveUpdate", "[\"LiveMigrate\"]", AutoMigration::On),
            ("v1.6.0", "", "[\"Evict\", \"LiveMigrate\"]", AutoMigration::On),
            ("v1.9.0", "Stage", "[\"LiveMigrate\"]", AutoMigration::On),
            ("v1.9.0", "", "null", AutoMigration::Off("workloadUpdateMethods LiveMigrate")),
            ("v1.9.0", "Stage", "[\"Evict\"]", AutoMigration::ShutDown),
            ("v1.5.2", "LiveUpdate", "[\"LiveMigrate\"]", AutoMigration::TooOld(Version::new(1, 5, 2))),
            ("", "LiveUpdate", "[\"LiveMigrate\"]", AutoMigration::Unknown),
        ] {
            let text = format!(
                r#"{{"spec": {{"configuration": {{"vmRolloutStrategy": "{strategy}"}},
                    "workloadUpdateStrategy": {{"workloadUpdateMethods": {methods}}}}},
                    "status": {{"observedKubeVirtVersion": "{version}"}}}}"#
            );
            let kubevirt = KubeVirt::from(serde_json::from_str::<cluster::KubeVirt>(&text).unwrap());
            let vmi = Vmi { migratable: Migratable::Yes, ..Vmi::default() };
            assert_eq!(kubevirt.auto_migration(&vmi), expected, "{text}");
        }
    }

    #[test]
    fn an_eviction_does_what_the_strategy_of_the_guest_or_else_of_the_cluster_says() {
        let off = || AutoMigration::Off("workloadUpdateMethods LiveMigrate");
        for (own, of_cluster, migrates, if_migratable, if_not) in [
            ("", "", false, AutoMigration::ShutDown, AutoMigration::ShutDown),
            ("", "LiveMigrate", false, AutoMigration::On, off()),
            ("None", "LiveMigrate", false, AutoMigration::ShutDown, AutoMigration::ShutDown),
            ("LiveMigrateIfPossible", "", false, AutoMigration::On, AutoMigration::ShutDown),
            ("External", "", false, off(), off()),
            ("", "", true, AutoMigration::On, AutoMigration::ShutDown),
        ] {
            let mut resource = cluster::KubeVirt::default();
            resource.status.observed_version = "v1.9.0".to_owned();
            resource.spec.configuration.eviction_strategy = of_cluster.to_owned();
            let methods = if migrates { &["Evict", "LiveMigrate"][..] } else { &["Evict"] };
            resource.spec.workload_update_strategy.workload_update_methods =
                methods.iter().map(|&method| method.to_owned()).collect();
            let kubevirt = KubeVirt::from(resource);
            let not = Migratable::No { reason: "".into(), message: "".into() };
            for (migratable, expected) in [(Migratable::Yes, if_migratable), (not, if_not)] {
                let eviction_strategy = EvictionStrategy::parse(own);
                let vmi = Vmi { migratable, eviction_strategy, ..Vmi::default() };
                assert_eq!(kubevirt.auto_migration(&vmi), expected, "{own} {of_cluster} {migrates} {vmi:?}");
            }
        }
    }
}
