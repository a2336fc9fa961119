//! The kinds of objects that nicplug reads, and their names in the API.

use std::fmt;

/// A kind of object that nicplug reads.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `ConfigMap`: the configuration of Multus.
    ConfigMap,
    /// `DaemonSet`: those of Multus and of its dynamic-networks controller.
    DaemonSet,
    /// `VirtualMachineInstance`.
    Vmi,
    /// `KubeVirt`.
    KubeVirt,
    /// `VirtualMachine`.
    Vm,
    /// `VirtualMachineInstanceMigration`.
    Migration,
    /// `NetworkAttachmentDefinition`.
    Nad,
    /// `Namespace`.
    Namespace,
    /// `Node`.
    Node,
    /// `ResourceQuota`.
    ResourceQuota,
    /// `VirtualMachineInstancetype`.
    Instancetype,
    /// `VirtualMachineClusterInstancetype`.
    ClusterInstancetype,
    /// `VirtualMachinePreference`.
    Preference,
    /// `VirtualMachineClusterPreference`.
    ClusterPreference,
    /// `ControllerRevision`: of a VirtualMachine, or of an instancetype or a preference that it names.
    Revision,
    /// `MutatingWebhookConfiguration`: that of the network-resources-injector.
    MutatingWebhooks,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::ConfigMap,
        Self::DaemonSet,
        Self::Vmi,
        Self::KubeVirt,
        Self::Vm,
        Self::Migration,
        Self::Nad,
        Self::Namespace,
        Self::Node,
        Self::ResourceQuota,
        Self::Instancetype,
        Self::ClusterInstancetype,
        Self::Preference,
        Self::ClusterPreference,
        Self::Revision,
        Self::MutatingWebhooks,
    ];

    /// The kinds with which KubeVirt expands VMs.
    pub const EXPANDING: [Self; 4] =
        [Self::Instancetype, Self::ClusterInstancetype, Self::Preference, Self::ClusterPreference];

    /// Whether a cluster without the kind lacks nothing: no VM can then name such an object.
    #[must_use]
    pub fn is_optional(self) -> bool {
        Self::EXPANDING.contains(&self)
    }

    /// Returns the kind of a group and a name, in any version.
    #[must_use]
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.group() == group && known.kind() == kind)
    }

    /// Returns the API group; empty for the core group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::ConfigMap | Self::Namespace | Self::Node | Self::ResourceQuota => "",
            Self::DaemonSet | Self::Revision => "apps",
            Self::Vmi | Self::KubeVirt | Self::Vm | Self::Migration => "kubevirt.io",
            Self::Nad => "k8s.cni.cncf.io",
            Self::MutatingWebhooks => "admissionregistration.k8s.io",
            Self::Instancetype | Self::ClusterInstancetype | Self::Preference | Self::ClusterPreference => {
                "instancetype.kubevirt.io"
            }
        }
    }

    /// Returns the version that nicplug reads: in each group the one that every release in use serves.
    #[must_use]
    pub fn version(self) -> &'static str {
        if Self::EXPANDING.contains(&self) { "v1beta1" } else { "v1" }
    }

    /// Returns `kind` of an object.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::DaemonSet => "DaemonSet",
            Self::Vmi => "VirtualMachineInstance",
            Self::KubeVirt => "KubeVirt",
            Self::Vm => "VirtualMachine",
            Self::Migration => "VirtualMachineInstanceMigration",
            Self::Nad => "NetworkAttachmentDefinition",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ResourceQuota => "ResourceQuota",
            Self::Instancetype => "VirtualMachineInstancetype",
            Self::ClusterInstancetype => "VirtualMachineClusterInstancetype",
            Self::Preference => "VirtualMachinePreference",
            Self::ClusterPreference => "VirtualMachineClusterPreference",
            Self::Revision => "ControllerRevision",
            Self::MutatingWebhooks => "MutatingWebhookConfiguration",
        }
    }

    /// Returns the resource name of URLs and roles.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::DaemonSet => "daemonsets",
            Self::Vmi => "virtualmachineinstances",
            Self::KubeVirt => "kubevirts",
            Self::Vm => "virtualmachines",
            Self::Migration => "virtualmachineinstancemigrations",
            Self::Nad => "network-attachment-definitions",
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::ResourceQuota => "resourcequotas",
            Self::Instancetype => "virtualmachineinstancetypes",
            Self::ClusterInstancetype => "virtualmachineclusterinstancetypes",
            Self::Preference => "virtualmachinepreferences",
            Self::ClusterPreference => "virtualmachineclusterpreferences",
            Self::Revision => "controllerrevisions",
            Self::MutatingWebhooks => "mutatingwebhookconfigurations",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_group_and_name_together() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.group(), kind.kind()), Some(kind));
        }
        assert_eq!(Kind::of("apps", "Node"), None);
        assert_eq!(Kind::of("", "Secret"), None);
    }
}
