//! Generates the guests of a fictional cluster, as users and the controllers of KubeVirt write them, of about 8 KiB per
//! object.
//!
//! Half of an object is `managedFields`, as in real clusters. As there, guests share the names of their NICs, their
//! networks and their devices. They differ in names, namespaces, UIDs, MAC addresses, revisions, claims and, on local
//! storage, in the message of the condition LiveMigratable.

use serde_json::{Map, Value, json};

const NAMESPACES: u64 = 100;
const NETWORKS: u64 = 40;
const ROLES: [&str; 6] = ["web", "database", "build-agent", "router", "desktop", "cache"];

/// A VirtualMachine and its VirtualMachineInstance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    number: u64,
    /// Whether no other guest has the names and networks of its NICs.
    is_unique: bool,
    /// Whether it has migrated to another node.
    has_moved: bool,
}

struct Nic {
    name: String,
    /// `networkName`; `None` for the pod network.
    network: Option<String>,
    binding: &'static str,
    mac: String,
}

impl Guest {
    /// Returns the guest with this number, whose NICs have common names and networks.
    pub(crate) fn new(number: u64) -> Self {
        Self { number, is_unique: false, has_moved: false }
    }

    /// Returns the guest with this number, whose NICs have unique names and networks.
    #[allow(dead_code, reason = "only one of the two programs with this module calls it")]
    pub(crate) fn unique(number: u64) -> Self {
        Self { number, is_unique: true, has_moved: false }
    }

    /// Returns the guest after a migration to another node.
    #[allow(dead_code, reason = "only one of the two programs with this module calls it")]
    pub(crate) fn moved(self) -> Self {
        Self { has_moved: true, ..self }
    }

    /// Returns a pseudorandom number below `limit`, which depends on the guest and on `stream` only.
    fn draw(self, stream: u64, limit: u64) -> u64 {
        scramble(self.number.wrapping_mul(64).wrapping_add(stream)) % limit
    }

    fn namespace(self) -> String {
        format!("team-{:02}", self.draw(0, NAMESPACES))
    }

    fn name(self) -> String {
        let role = usize::try_from(self.draw(1, 6)).ok().and_then(|index| ROLES.get(index)).unwrap_or(&"guest");
        format!("{role}-{:06}", self.number)
    }

    fn uid(self, stream: u64) -> String {
        let (high, low) = (self.draw(stream, u64::MAX), self.draw(stream + 1, u64::MAX));
        format!(
            "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 48 & 0xfff,
            low & 0xffff_ffff_ffff
        )
    }

    /// Returns one NIC on the pod network and up to two on other networks.
    fn nics(self) -> Vec<Nic> {
        let mac = |index: u64| {
            let [.., a, b, c, d] = self.number.to_be_bytes();
            format!("02:{index:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
        };
        let pod = Nic { name: "default".into(), network: None, binding: "masquerade", mac: mac(0) };
        let further = (1..=self.draw(2, 3)).map(|index| {
            let own = if self.is_unique { format!("-{}", self.number) } else { String::new() };
            // All namespaces share a few networks; most networks are in the namespace of the guest.
            let network = match self.draw(2 + index, NETWORKS) {
                shared @ 0..8 => format!("networks/vlan-{shared}{own}"),
                number => format!("vlan-{number}{own}"),
            };
            let binding = if self.draw(5, 10) == 0 { "sriov" } else { "bridge" };
            Nic { name: format!("net{index}{own}"), network: Some(network), binding, mac: mac(index) }
        });
        std::iter::once(pod).chain(further).collect()
    }

    fn disks(self) -> Vec<String> {
        let further = (0..self.draw(6, 4)).map(|index| format!("data{index}"));
        ["root".to_owned(), "cloudinit".to_owned()].into_iter().chain(further).collect()
    }

    /// Returns the VirtualMachine.
    #[allow(dead_code, reason = "only one of the two programs with this module calls it")]
    pub(crate) fn vm(self) -> Value {
        let spec = json!({
            "dataVolumeTemplates": [{"metadata": {"annotations": {"cdi.kubevirt.io/storage.usePopulator": "false"},
                    "creationTimestamp": null, "name": format!("{}-root", self.name())},
                "spec": {"sourceRef": {"kind": "DataSource", "name": "fedora", "namespace": "golden-images"},
                    "storage": {"resources": {"requests": {"storage": "30Gi"}}}}}],
            "runStrategy": "RerunOnFailure",
            "template": {"metadata": {"creationTimestamp": null, "labels": self.labels()}, "spec": self.spec(true)}});
        let applied = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {"annotations": {}, "name": self.name(), "namespace": self.namespace()}, "spec": spec});
        let condition = |kind: &str, status: &str| json!({"lastProbeTime": null, "lastTransitionTime": "2026-11-23T20:53:11Z", "status": status, "type": kind});
        let template = fields(&["architecture", "networks", "terminationGracePeriodSeconds", "volumes"]);
        let written = json!({"f:metadata": {"f:annotations": fields(&["kubectl.kubernetes.io/last-applied-configuration"]),
                "f:labels": label_fields()},
            "f:spec": {"f:dataVolumeTemplates": {}, "f:runStrategy": {}, "f:template": {"f:metadata": {"f:labels": label_fields()},
                "f:spec": {"f:domain": domain_fields(), "f:rest": template}}}});
        let status = json!({"f:status": {"f:conditions": condition_fields(), "f:volumeSnapshotStatuses": {},
            "f:created": {}, "f:desiredGeneration": {}, "f:observedGeneration": {}, "f:printableStatus": {}, "f:ready": {}, "f:runStrategy": {}}});
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
            "metadata": {
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied.to_string(),
                    "kubevirt.io/latest-observed-api-version": "v1", "kubevirt.io/storage-observed-api-version": "v1"},
                "creationTimestamp": "2026-11-23T20:52:09Z", "finalizers": ["kubevirt.io/virtualMachineControllerFinalize"],
                "generation": 3, "labels": self.labels(),
                "managedFields": [managed("kubectl-client-side-apply", "", &written), managed("virt-controller", "status", &status)],
                "name": self.name(), "namespace": self.namespace(), "resourceVersion": "324511", "uid": self.uid(10)},
            "spec": spec,
            "status": {"conditions": [condition("Ready", "True"), condition("LiveMigratable", "True"),
                    condition("StorageLiveMigratable", "True"), condition("AgentConnected", "True")],
                "created": true, "desiredGeneration": 3, "observedGeneration": 3, "printableStatus": "Running", "ready": true,
                "runStrategy": "RerunOnFailure",
                "volumeSnapshotStatuses": self.disks().iter().map(|name| json!({"enabled": name == "root", "name": name,
                    "reason": "Snapshot is not supported for this volumeSource type"})).collect::<Value>()}})
    }

    /// Returns the VirtualMachineInstance after this number of heartbeats.
    pub(crate) fn vmi(self, heartbeat: u64) -> Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": self.vmi_metadata(heartbeat), "spec": self.spec(false), "status": self.status(heartbeat)})
    }

    fn labels(self) -> Value {
        json!({"app.kubernetes.io/name": self.name(), "app.kubernetes.io/part-of": self.namespace(),
            "kubevirt.io/domain": self.name(), "kubevirt.io/size": "small"})
    }

    fn vmi_metadata(self, heartbeat: u64) -> Value {
        let owner = json!({".": {}, (format!("k:{{\"uid\":\"{}\"}}", self.uid(10))): {}});
        let written = json!({
            "f:metadata": {"f:annotations": fields(&["kubevirt.io/latest-observed-api-version", "kubevirt.io/vm-generation"]),
                "f:finalizers": {".": {}, "v:\"kubevirt.io/virtualMachineControllerFinalize\"": {}},
                "f:labels": label_fields(), "f:ownerReferences": owner},
            "f:spec": {"f:architecture": {}, "f:domain": domain_fields(), "f:evictionStrategy": {}, "f:networks": {},
                "f:terminationGracePeriodSeconds": {}, "f:volumes": {}},
            "f:status": {"f:activePods": fields(&[&self.uid(14)]), "f:conditions": condition_fields(),
                "f:currentCPUTopology": fields(&["cores", "sockets", "threads"]), "f:launcherContainerImageVersion": {},
                "f:phase": {}, "f:phaseTransitionTimestamps": {}, "f:runtimeUser": {}, "f:virtualMachineRevisionName": {}}});
        let seen = json!({"f:status": {"f:conditions": condition_fields(),
            "f:guestOSInfo": fields(&["id", "kernelRelease", "name", "version"]), "f:interfaces": {},
            "f:machine": fields(&["type"]), "f:memory": fields(&["guestAtBoot", "guestCurrent", "guestRequested"]),
            "f:migrationMethod": {}, "f:migrationTransport": {}, "f:selinuxContext": {}, "f:volumeStatus": {}}});
        json!({
            "annotations": {"kubevirt.io/latest-observed-api-version": "v1", "kubevirt.io/storage-observed-api-version": "v1",
                "kubevirt.io/vm-generation": "3", "nicplug.io/boot-slots":
                    format!("v1:port={},nics={},disks={}", 4 + self.draw(7, 8), self.nics().len(), self.disks().len())},
            "creationTimestamp": "2026-11-23T20:52:40Z",
            "finalizers": ["kubevirt.io/virtualMachineControllerFinalize", "foregroundDeleteVirtualMachine"],
            "generation": 12, "labels": self.labels(),
            "managedFields": [managed("virt-controller", "", &written), managed("virt-handler", "", &seen)],
            "name": self.name(), "namespace": self.namespace(), "resourceVersion": (324_000 + heartbeat).to_string(),
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "blockOwnerDeletion": true, "controller": true,
                "kind": "VirtualMachine", "name": self.name(), "uid": self.uid(10)}],
            "uid": self.uid(12)})
    }

    /// Returns the specification of the guest: of the VM's template, or of the VMI with the fields that KubeVirt adds.
    fn spec(self, is_template: bool) -> Value {
        let interface =
            |nic: &Nic| json!({"macAddress": nic.mac, "model": "virtio", "name": nic.name, (nic.binding): {}});
        let network = |nic: &Nic| match &nic.network {
            Some(network) => json!({"multus": {"networkName": network}, "name": nic.name}),
            None => json!({"name": nic.name, "pod": {}}),
        };
        let volume = |name: &String| match name.as_str() {
            "cloudinit" => {
                json!({"cloudInitNoCloud": {"networkData": "version: 2\nethernets:\n  eth0:\n    dhcp4: true\n",
                "userData": self.user_data()}, "name": name})
            }
            _ => json!({"dataVolume": {"name": format!("{}-{name}", self.name())}, "name": name}),
        };
        let memory = format!("{}Gi", 1 << self.draw(8, 6));
        let nics = self.nics();
        let mut spec = json!({
            "architecture": "amd64",
            "domain": {
                "cpu": {"cores": 1, "maxSockets": 16, "model": "host-model", "sockets": 1 << self.draw(9, 4), "threads": 1},
                "devices": {
                    "disks": self.disks().iter().map(|name| json!({"disk": {"bus": "virtio"}, "name": name})).collect::<Value>(),
                    "interfaces": nics.iter().map(interface).collect::<Value>(), "rng": {}},
                "features": {"acpi": {"enabled": true}}, "machine": {"type": "pc-q35-rhel9.6.0"},
                "memory": {"guest": memory, "maxGuest": "256Gi"}, "resources": {"requests": {"memory": memory}}},
            "evictionStrategy": "LiveMigrate",
            "networks": nics.iter().map(network).collect::<Value>(),
            "terminationGracePeriodSeconds": 180,
            "tolerations": [{"effect": "NoSchedule", "key": "virtualization", "operator": "Exists"}],
            "volumes": self.disks().iter().map(volume).collect::<Value>()});
        if let Some(spec) = spec.as_object_mut().filter(|_| !is_template) {
            let term = json!({"key": "node-labeller.kubevirt.io/obsolete-host-model", "operator": "DoesNotExist"});
            spec.insert(
                "affinity".into(),
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [term]}]}}}),
            );
        }
        spec
    }

    fn user_data(self) -> String {
        format!(
            "#cloud-config\nhostname: {}\nssh_authorized_keys:\n  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{}\n\
             package_update: true\npackages:\n  - qemu-guest-agent\n  - chrony\n  - podman\n  - tcpdump\n  - vim-enhanced\nruncmd:\n  - systemctl enable --now qemu-guest-agent\n",
            self.name(),
            self.uid(16)
        )
    }

    fn status(self, heartbeat: u64) -> Value {
        let time = format!("2026-11-24T{:02}:{:02}:00Z", heartbeat / 60 % 24, heartbeat % 60);
        let condition = |kind: &str, status: &str| json!({"lastProbeTime": time, "lastTransitionTime": "2026-11-23T20:53:11Z", "status": status, "type": kind});
        let phase = |phase: &str| json!({"phase": phase, "phaseTransitionTimestamp": "2026-11-23T20:53:05Z"});
        let node = format!("node-{:03}", self.draw(if self.has_moved { 22 } else { 18 }, 500));
        let volume = |(name, target): (String, char)| {
            json!({"name": name, "target": format!("vd{target}"), "persistentVolumeClaimInfo": {"accessModes": ["ReadWriteMany"],
                "capacity": {"storage": "30Gi"}, "claimName": format!("{}-{name}", self.name()), "filesystemOverhead": "0.06",
                "requests": {"storage": "30Gi"}, "volumeMode": "Block"}})
        };
        json!({
            "activePods": {(self.uid(14)): node},
            "conditions": [condition("Ready", "True"), condition("DataVolumesReady", "True"), self.migratable(),
                condition("StorageLiveMigratable", "True"), condition("AgentConnected", "True")],
            "currentCPUTopology": {"cores": 1, "sockets": 4, "threads": 1},
            "guestOSInfo": {"id": "fedora", "kernelRelease": "6.12.6-200.fc41.x86_64", "kernelVersion": "#1 SMP PREEMPT_DYNAMIC",
                "machine": "x86_64", "name": "Fedora Linux", "prettyName": "Fedora Linux 41 (Cloud Edition)",
                "version": "41 (Cloud Edition)", "versionId": "41"},
            "interfaces": self.nics().iter().map(|nic| self.interface_status(nic)).collect::<Value>(),
            "launcherContainerImageVersion": "quay.io/kubevirt/virt-launcher:v1.9.0",
            "machine": {"type": "pc-q35-rhel9.6.0"},
            "memory": {"guestAtBoot": "4Gi", "guestCurrent": "4Gi", "guestRequested": "4Gi"},
            "migrationMethod": "BlockMigration", "migrationTransport": "Unix", "nodeName": node, "phase": "Running",
            "phaseTransitionTimestamps": [phase("Pending"), phase("Scheduling"), phase("Scheduled"), phase("Running")],
            "qosClass": "Burstable", "runtimeUser": 107,
            "selinuxContext": format!("system_u:object_r:container_file_t:s0:c{},c{}", self.draw(19, 512), 512 + self.draw(20, 512)),
            "virtualMachineRevisionName": format!("revision-start-vm-{}-3", self.uid(10)),
            "volumeStatus": self.disks().into_iter().zip('a'..).map(volume).collect::<Value>()})
    }

    /// Returns the condition LiveMigratable. One guest in five is on local storage and cannot migrate.
    fn migratable(self) -> Value {
        if self.draw(21, 5) > 0 {
            return json!({"lastProbeTime": null, "lastTransitionTime": null, "status": "True", "type": "LiveMigratable"});
        }
        let message = format!(
            "cannot migrate VMI: PVC {}-root is not shared, live migration requires that all PVCs must be shared \
             (using ReadWriteMany access mode)",
            self.name()
        );
        json!({"lastProbeTime": null, "lastTransitionTime": null, "message": message, "reason": "DisksNotLiveMigratable",
            "status": "False", "type": "LiveMigratable"})
    }

    fn interface_status(self, nic: &Nic) -> Value {
        let address = format!("10.{}.{}.{}", self.number >> 16 & 0xff, self.number >> 8 & 0xff, self.number & 0xff);
        let (source, pod_interface) = match nic.network {
            Some(_) => ("domain, guest-agent, multus-status", format!("pod{:011x}", digest(&nic.name))),
            None => ("domain, guest-agent", "eth0".to_owned()),
        };
        json!({"infoSource": source, "interfaceName": "eth0", "ipAddress": address, "ipAddresses": [address], "linkState": "up",
            "mac": nic.mac, "name": nic.name, "podInterfaceName": pod_interface, "queueCount": 1})
    }
}

/// Returns a set of fields in the format of `managedFields`.
fn fields(names: &[&str]) -> Value {
    let fields: Map<_, _> = names.iter().map(|name| (format!("f:{name}"), json!({}))).collect();
    Value::Object(fields)
}

fn managed(manager: &str, subresource: &str, fields: &Value) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "fieldsType": "FieldsV1", "fieldsV1": fields, "manager": manager,
        "operation": "Update", "subresource": subresource, "time": "2026-11-23T20:52:40Z"})
}

fn condition_fields() -> Value {
    let names = ["Ready", "LiveMigratable", "StorageLiveMigratable", "AgentConnected", "DataVolumesReady"];
    let of = fields(&["lastProbeTime", "lastTransitionTime", "message", "reason", "status", "type"]);
    let all: Map<_, _> = names.iter().map(|name| (format!("k:{{\"type\":\"{name}\"}}"), of.clone())).collect();
    Value::Object(all)
}

fn label_fields() -> Value {
    fields(&["app.kubernetes.io/name", "app.kubernetes.io/part-of", "kubevirt.io/domain", "kubevirt.io/size"])
}

fn domain_fields() -> Value {
    json!({"f:cpu": fields(&["cores", "maxSockets", "model", "sockets", "threads"]),
        "f:devices": fields(&["disks", "interfaces", "rng"]), "f:features": {"f:acpi": fields(&["enabled"])},
        "f:firmware": fields(&["serial", "uuid"]), "f:machine": fields(&["type"]),
        "f:memory": fields(&["guest", "maxGuest"]), "f:resources": {"f:requests": fields(&["memory"])}})
}

/// Returns a hash of a name, of eleven hexadecimal digits as in KubeVirt's names of pod interfaces.
fn digest(name: &str) -> u64 {
    name.bytes().fold(0, |digest, byte| scramble(digest ^ u64::from(byte))) >> 20
}

/// Returns the SplitMix64 hash of a number.
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
