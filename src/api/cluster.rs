//! Objects of the cluster from which facts are built. They are read when they change and not during a request, so they
//! own their strings.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{Present, metadata, nullable, object, objects};

/// `KubeVirt`: the resource that configures KubeVirt (`kubevirt.io/v1`).
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
#[serde(default, rename_all = "camelCase")]
pub struct KubeVirtSpec {
    /// `configuration`.
    #[serde(deserialize_with = "object")]
    pub configuration: Configuration,
    /// `workloadUpdateStrategy`.
    #[serde(deserialize_with = "object")]
    pub workload_update_strategy: WorkloadUpdateStrategy,
}

/// `spec.workloadUpdateStrategy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadUpdateStrategy {
    /// `workloadUpdateMethods[]`: `LiveMigrate`, `Evict`.
    #[serde(deserialize_with = "nullable")]
    pub workload_update_methods: Vec<String>,
}

/// `spec.configuration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Configuration {
    /// `evictionStrategy`: of guests without their own; empty means `None`.
    #[serde(deserialize_with = "nullable")]
    pub eviction_strategy: String,
    /// `developerConfiguration`.
    #[serde(deserialize_with = "object")]
    pub developer_configuration: DeveloperConfiguration,
    /// `network`.
    #[serde(deserialize_with = "object")]
    pub network: NetworkConfiguration,
    /// `permittedHostDevices`.
    #[serde(deserialize_with = "object")]
    pub permitted_host_devices: PermittedHostDevices,
    /// `vmRolloutStrategy`: `LiveUpdate` or `Stage`; empty means the default of the version.
    #[serde(deserialize_with = "nullable")]
    pub vm_rollout_strategy: String,
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
    /// `defaultNetworkInterface`: the binding of the default NIC of a guest without NICs; empty means bridge.
    #[serde(deserialize_with = "nullable")]
    pub default_network_interface: String,
    /// `permitBridgeInterfaceOnPodNetwork`: unset means true.
    pub permit_bridge_interface_on_pod_network: Option<bool>,
    /// `binding`: the registered binding plugins, by name.
    #[serde(deserialize_with = "nullable")]
    pub binding: BTreeMap<String, BindingPlugin>,
}

/// `spec.configuration.network.binding.NAME`: a registered binding plugin.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BindingPlugin {
    /// `domainAttachmentType`: `tap`, `managedTap`, or empty if the plugin itself adds the device.
    #[serde(deserialize_with = "nullable")]
    pub domain_attachment_type: String,
}

/// `spec.configuration.permittedHostDevices`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PermittedHostDevices {
    /// `pciHostDevices[]`.
    #[serde(deserialize_with = "objects")]
    pub pci_host_devices: Vec<PermittedDevice>,
    /// `mediatedDevices[]`.
    #[serde(deserialize_with = "objects")]
    pub mediated_devices: Vec<PermittedDevice>,
    /// `usb[]`.
    #[serde(deserialize_with = "objects")]
    pub usb: Vec<PermittedDevice>,
}

/// An entry of `permittedHostDevices`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PermittedDevice {
    /// `resourceName`: the name in a VM's `deviceName`.
    #[serde(deserialize_with = "nullable")]
    pub resource_name: String,
}

/// `metadata` of an object from which facts are built.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// `name`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `namespace`; empty for a cluster-scoped object.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// `labels`.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// `annotations`.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
}

/// `NetworkAttachmentDefinition` (`k8s.cni.cncf.io/v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NetworkAttachmentDefinition {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: NadMetadata,
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: NetworkAttachmentSpec,
}

/// `metadata` of a NetworkAttachmentDefinition. Requests have it too, so it holds neither labels nor other annotations:
/// a body may consist of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NadMetadata {
    /// `name`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `namespace`.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// `annotations`.
    #[serde(deserialize_with = "object")]
    pub annotations: NadAnnotations,
}

/// `metadata.annotations` of a NetworkAttachmentDefinition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NadAnnotations {
    /// `k8s.v1.cni.cncf.io/resourceName`: the device-plugin resource that a pod on the network gets; empty for none.
    #[serde(rename = "k8s.v1.cni.cncf.io/resourceName", deserialize_with = "nullable")]
    pub resource_name: String,
}

/// `spec` of a NetworkAttachmentDefinition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NetworkAttachmentSpec {
    /// `config`: the CNI configuration as JSON in a string; empty if it is a file on each node.
    #[serde(deserialize_with = "nullable")]
    pub config: String,
}

/// `DaemonSet` (`apps/v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: DaemonSetSpec,
    /// `status`.
    #[serde(deserialize_with = "object")]
    pub status: DaemonSetStatus,
}

/// `spec` of a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSetSpec {
    /// `template`.
    #[serde(deserialize_with = "object")]
    pub template: PodTemplate,
}

/// `spec.template` of a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodTemplate {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: PodSpec,
}

/// `spec.template.spec` of a DaemonSet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodSpec {
    /// `containers[]`.
    #[serde(deserialize_with = "objects")]
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    /// `image`.
    #[serde(deserialize_with = "nullable")]
    pub image: String,
    /// `command[]`: empty if it is that of the image.
    #[serde(deserialize_with = "nullable")]
    pub command: Vec<String>,
    /// `args[]`.
    #[serde(deserialize_with = "nullable")]
    pub args: Vec<String>,
}

/// `status` of a DaemonSet.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DaemonSetStatus {
    /// `numberReady`: the number of nodes whose pod is ready.
    #[serde(deserialize_with = "nullable")]
    pub number_ready: u32,
    /// `desiredNumberScheduled`: the number of nodes that should run the pod.
    #[serde(deserialize_with = "nullable")]
    pub desired_number_scheduled: u32,
}

/// `ConfigMap` (`v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `data`.
    #[serde(deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
}

/// `Namespace` (`v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: NamespaceMetadata,
}

/// `metadata` of a Namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceMetadata {
    /// `name`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `annotations`.
    #[serde(deserialize_with = "object")]
    pub annotations: NamespaceAnnotations,
}

/// The annotations of a Namespace that nicplug reads.
#[derive(Clone, Debug, Default)]
pub struct NamespaceAnnotations {
    /// `nicplug.io/rules`: how strictly rules are enforced in the namespace.
    pub rules: Option<String>,
    /// The other keys that begin with [`metadata::PREFIX`].
    pub others: Vec<String>,
}

impl<'de> Deserialize<'de> for NamespaceAnnotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamespaceAnnotationsVisitor)
    }
}

struct NamespaceAnnotationsVisitor;

impl<'de> Visitor<'de> for NamespaceAnnotationsVisitor {
    type Value = NamespaceAnnotations;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map of annotations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NamespaceAnnotations, A::Error> {
        let mut annotations = NamespaceAnnotations::default();
        while let Some(key) = map.next_key::<Cow<str>>()? {
            if key == "nicplug.io/rules" {
                annotations.rules = map.next_value()?;
                continue;
            }
            map.next_value::<IgnoredAny>()?;
            if key.starts_with(metadata::PREFIX) {
                annotations.others.push(key.into_owned());
            }
        }
        Ok(annotations)
    }
}

/// `Node` (`v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: NodeSpec,
    /// `status`.
    #[serde(deserialize_with = "object")]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// `unschedulable`: the node is cordoned.
    #[serde(deserialize_with = "nullable")]
    pub unschedulable: bool,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// `allocatable`: how much of each resource pods may use.
    #[serde(deserialize_with = "nullable")]
    pub allocatable: BTreeMap<String, Amount>,
}

/// `ResourceQuota` (`v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceQuota {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `spec`.
    #[serde(deserialize_with = "object")]
    pub spec: ResourceQuotaSpec,
    /// `status`.
    #[serde(deserialize_with = "object")]
    pub status: ResourceQuotaStatus,
}

/// `spec` of a ResourceQuota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResourceQuotaSpec {
    /// `scopes[]`: the pods that it counts; empty for all.
    #[serde(deserialize_with = "nullable")]
    pub scopes: Vec<String>,
    /// `scopeSelector`: the same.
    pub scope_selector: Option<Present>,
}

/// `status` of a ResourceQuota.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ResourceQuotaStatus {
    /// `hard`: the limit of each resource.
    #[serde(deserialize_with = "nullable")]
    pub hard: BTreeMap<String, Amount>,
    /// `used`: how much of each is in use.
    #[serde(deserialize_with = "nullable")]
    pub used: BTreeMap<String, Amount>,
}

/// `MutatingWebhookConfiguration` (`admissionregistration.k8s.io/v1`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MutatingWebhookConfiguration {
    /// `metadata`.
    #[serde(deserialize_with = "object")]
    pub metadata: Metadata,
    /// `webhooks[]`.
    #[serde(deserialize_with = "objects")]
    pub webhooks: Vec<MutatingWebhook>,
}

/// `webhooks[]` of a MutatingWebhookConfiguration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MutatingWebhook {
    /// `name`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `clientConfig`.
    #[serde(deserialize_with = "object")]
    pub client_config: WebhookClientConfig,
}

/// `webhooks[].clientConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WebhookClientConfig {
    /// `service`: empty if the webhook is at a URL.
    #[serde(deserialize_with = "object")]
    pub service: WebhookService,
}

/// `webhooks[].clientConfig.service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct WebhookService {
    /// `name`.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

/// A quantity of a resource, as text or as a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// As in `"4"` or `"1k"`.
    Text(String),
    /// As in `4`.
    Number(serde_json::Number),
}

impl Amount {
    /// Returns the quantity as text.
    #[must_use]
    pub fn as_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        }
    }

    /// Whether it is more than zero.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.as_text().bytes().any(|byte| (b'1'..=b'9').contains(&byte))
    }
}
