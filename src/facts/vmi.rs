//! Facts about a running guest.

use std::sync::Arc;

use super::{
    boot::BootFacts,
    nic::{GuestNic, NetworkRole, macs_of},
    placement::Placement,
};
use crate::{
    api::{
        guest::{Cpu, GuestSpec},
        mac::Mac,
        vmi::{InterfaceStatus, MigrationState, Phase, VirtualMachineInstance, VirtualMachineInstanceStatus},
    },
    change::MAX_NICS,
    pci::{DeviceRegistry, NoRegistry, bytes_of_quantity},
};

/// A VirtualMachineInstance, reduced to the facts that rules use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vmi {
    /// `status.phase`.
    pub phase: Phase,
    /// Whether it is being deleted.
    pub is_deleting: bool,
    /// The NICs of its spec. Guests with equal lists share one.
    pub nics: Arc<Vec<GuestNic>>,
    /// The named entries of `status.interfaces[]`: the NICs that the guest has, or that its pod has for it. Guests with
    /// equal lists share one.
    pub status_nics: Arc<Vec<StatusNic>>,
    /// Its condition `LiveMigratable`.
    pub migratable: Migratable,
    /// Whether `status.migrationState` is a migration that has not ended.
    pub is_migrating: bool,
    /// The number of queues of each virtio NIC: the number of vCPUs with multiqueue, else 1; 0 if unknown.
    pub queues_per_nic: u32,
    /// `status.nodeName`: the node where it runs; empty if unknown. Guests on one node share it.
    pub node: Arc<str>,
    /// What it requires of its node; `None` if nothing, or if that cannot be read. Guests with equal requirements share
    /// one.
    pub placement: Option<Arc<Placement>>,
    /// The memory that its pod requests at least, in bytes; 0 if unknown.
    pub memory: u64,
    /// The number of CPUs that its pod has for vCPUs alone (`dedicatedCpuPlacement`); 0 if none, or if unknown.
    pub dedicated_cpus: u32,
    /// What the eviction of its pod does; `None` if the cluster decides.
    pub eviction_strategy: Option<EvictionStrategy>,
    /// `domain.devices.networkInterfaceMultiqueue`.
    pub multiqueue: Option<bool>,
    /// `domain.devices.autoattachPodInterface`.
    pub autoattach_pod: Option<bool>,
    /// The MAC addresses in the order of its NICs, as by [`macs_of`].
    pub macs: Arc<[Option<Mac>]>,
    /// The PCI bus at boot.
    pub boot: BootFacts,
}

/// An entry of `status.interfaces[]`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct StatusNic {
    /// `name`.
    pub name: Box<str>,
    /// `podInterfaceName`; empty if missing.
    pub pod_interface: Box<str>,
    /// Whether the hypervisor has the device. Also true without `infoSource`, which old versions do not set.
    pub is_in_domain: bool,
}

/// Whether a guest can be live-migrated.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Migratable {
    /// The condition is missing or unknown.
    #[default]
    Unknown,
    /// It can.
    Yes,
    /// It cannot.
    No {
        /// `reason` of the condition, such as `DisksNotLiveMigratable`.
        reason: Box<str>,
        /// `message` of the condition.
        message: Box<str>,
    },
}

impl Vmi {
    /// Combines spec and status of two states of a VMI, as in an update: the stored object has the spec in effect, and
    /// the new object has the newer status. `registry` resolves the names of its devices.
    #[must_use]
    pub fn of(spec: &VirtualMachineInstance, status: &VirtualMachineInstance, registry: &dyn DeviceRegistry) -> Self {
        let interfaces = status.status.interfaces.iter().take(MAX_NICS);
        // The exact capacity, because the list stays in memory.
        let mut status_nics = Vec::with_capacity(interfaces.len());
        status_nics.extend(interfaces.filter(|interface| !interface.name.is_empty()).map(StatusNic::from));
        Self {
            phase: status.status.phase.clone(),
            is_deleting: status.metadata.deletion_timestamp.is_some(),
            nics: GuestNic::all(&spec.spec).into(),
            status_nics: status_nics.into(),
            migratable: Migratable::from(&*status.status),
            is_migrating: status.status.migration_state.as_ref().is_some_and(MigrationState::is_running),
            queues_per_nic: queues_per_nic(&spec.spec).unwrap_or(0),
            node: status.status.node_name.as_str().into(),
            placement: Placement::of_guest(&spec.spec).map(Arc::new),
            memory: requested_memory(&spec.spec).unwrap_or(0),
            dedicated_cpus: dedicated_cpus(&spec.spec),
            eviction_strategy: EvictionStrategy::parse(&spec.spec.eviction_strategy),
            multiqueue: spec.spec.domain.devices.network_interface_multiqueue,
            autoattach_pod: spec.spec.domain.devices.autoattach_pod_interface,
            macs: macs_of(&spec.spec),
            boot: BootFacts::of(spec, status, registry),
        }
    }

    /// Whether KubeVirt has not created the guest's pod yet. KubeVirt then does not hotplug a changed NIC: it copies
    /// the change to the VMI, and creates the pod with it.
    #[must_use]
    pub fn has_no_pod_yet(&self) -> bool {
        match &self.phase {
            Phase::Unset => true,
            Phase::Other(phase) => &**phase == "Pending",
            Phase::Running | Phase::Succeeded | Phase::Failed => false,
        }
    }

    /// Whether the guest can still change: it is neither being deleted nor in a final phase.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.is_deleting && !self.phase.is_final()
    }

    /// Returns the generation of the VM from which it was created: the end of its revision's name,
    /// `revision-start-vm-UID-GENERATION`.
    #[must_use]
    pub fn start_generation(&self) -> Option<i64> {
        self.boot.revision.as_deref()?.rsplit('-').next()?.parse().ok()
    }

    /// Whether KubeVirt takes the pod interfaces of its further NICs for ordinal ones (`net1`), whose NICs it does not
    /// unplug: the first known name decides, and without any known name they count as ordinal.
    #[must_use]
    pub fn has_ordinal_names(&self) -> bool {
        let further = |nic: &&GuestNic| nic.network.is_some() && nic.role == NetworkRole::Additional;
        let seen = |nic: &GuestNic| self.status_nic(&nic.name).filter(|seen| !seen.pod_interface.is_empty());
        let mut further = self.nics.iter().filter(further).peekable();
        further.peek().is_some() && further.find_map(seen).is_none_or(StatusNic::has_ordinal_name)
    }

    /// Returns the NIC of a name in the spec.
    #[must_use]
    pub fn nic(&self, name: &str) -> Option<&GuestNic> {
        self.nics.iter().find(|nic| &*nic.name == name)
    }

    /// Whether the spec has a NIC of the name.
    #[must_use]
    pub fn has_nic(&self, name: &str) -> bool {
        self.nic(name).is_some()
    }

    /// Returns the NIC of a name in the status.
    #[must_use]
    pub fn status_nic(&self, name: &str) -> Option<&StatusNic> {
        self.status_nics.iter().find(|nic| &*nic.name == name)
    }
}

impl From<&VirtualMachineInstance<'_>> for Vmi {
    fn from(vmi: &VirtualMachineInstance) -> Self {
        Self::of(vmi, vmi, &NoRegistry)
    }
}

impl StatusNic {
    /// Whether the pod interface has an ordinal name, `net1`, `net2`, …, as in KubeVirt up to 0.59.
    #[must_use]
    pub fn has_ordinal_name(&self) -> bool {
        let number = self.pod_interface.strip_prefix("net").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    }
}

/// `evictionStrategy`: what the eviction of a guest's pod does (`pod-eviction-admitter.go` of virt-api).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum EvictionStrategy {
    /// It shuts the guest down.
    #[default]
    None,
    /// It migrates the guest, or is rejected if the guest cannot migrate.
    LiveMigrate,
    /// It migrates the guest, or shuts it down if it cannot migrate.
    LiveMigrateIfPossible,
    /// It leaves the guest to another controller.
    External,
}

impl EvictionStrategy {
    /// Reads the name; `None` if it is empty or unknown.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "None" => Self::None,
            "LiveMigrate" => Self::LiveMigrate,
            "LiveMigrateIfPossible" => Self::LiveMigrateIfPossible,
            "External" => Self::External,
            _ => return None,
        })
    }
}

impl From<&InterfaceStatus<'_>> for StatusNic {
    fn from(status: &InterfaceStatus) -> Self {
        Self {
            name: status.name.as_str().into(),
            pod_interface: status.pod_interface_name.as_str().into(),
            is_in_domain: status.info_source.is_empty() || status.is_reported_by("domain"),
        }
    }
}

impl From<&VirtualMachineInstanceStatus<'_>> for Migratable {
    fn from(status: &VirtualMachineInstanceStatus) -> Self {
        let condition = status.conditions.iter().find(|condition| condition.kind.as_str() == "LiveMigratable");
        match condition {
            Some(condition) if condition.status.as_str() == "True" => Self::Yes,
            Some(condition) if condition.status.as_str() == "False" => {
                Self::No { reason: condition.reason.as_str().into(), message: condition.message.as_str().into() }
            }
            _ => Self::Unknown,
        }
    }
}

/// Returns what a guest requires of its node. A field that cannot be read requires nothing.
/// Returns the memory that the pod of a guest requests at least; `None` if it cannot be read, or if the guest has huge
/// pages, which quotas count separately.
fn requested_memory(guest: &GuestSpec) -> Option<u64> {
    let memory = &guest.domain.memory;
    if memory.hugepages.is_some() {
        return None;
    }
    let requested = guest.domain.resources.read().ok()?.requests.memory;
    bytes_of_quantity(requested.as_ref().or(memory.guest.as_ref())?.as_str())
}

/// Returns the number of queues of each virtio NIC: with `networkInterfaceMultiqueue` one per vCPU at boot, at most
/// 256, else one. `None` if `domain.cpu` cannot be read.
#[must_use]
pub fn queues_per_nic(guest: &GuestSpec) -> Option<u32> {
    if guest.domain.devices.network_interface_multiqueue != Some(true) {
        return Some(1);
    }
    Some(vcpus(guest.domain.cpu.read().ok()?).min(256))
}

/// Returns the number of vCPUs.
fn vcpus(Cpu { cores, sockets, threads, .. }: Cpu) -> u32 {
    [cores, sockets, threads].into_iter().map(|count| count.max(1)).fold(1, u32::saturating_mul)
}

/// Returns the number of CPUs that the pod of a guest has for vCPUs alone. Without a topology the resources of the guest
/// decide it, so that it is unknown (`WithCPUPinning` in `pkg/virt-controller/services/renderresources.go`).
fn dedicated_cpus(guest: &GuestSpec) -> u32 {
    let Ok(cpu) = guest.domain.cpu.read() else { return 0 };
    let has_topology = [cpu.cores, cpu.sockets, cpu.threads].iter().any(|&count| count > 0);
    if cpu.has_dedicated_cpus && has_topology { vcpus(cpu) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi(text: &str) -> Vmi {
        Vmi::from(&serde_json::from_str::<VirtualMachineInstance>(text).unwrap())
    }

    #[test]
    fn an_update_has_the_stored_spec_and_the_new_status() {
        let old: VirtualMachineInstance =
            serde_json::from_str(r#"{"spec": {"domain": {"devices": {"interfaces": [{"name": "a"}]}}}}"#).unwrap();
        let new: VirtualMachineInstance = serde_json::from_str(
            r#"{"metadata": {"deletionTimestamp": "2026-11-01T00:00:00Z"}, "status": {"phase": "Running"}}"#,
        )
        .unwrap();
        let vmi = Vmi::of(&old, &new, &NoRegistry);
        assert!(vmi.has_nic("a") && vmi.is_deleting);
        assert_eq!(vmi.phase, Phase::Running);
    }

    #[test]
    fn the_condition_decides_whether_it_can_migrate() {
        let of = |condition: &str| {
            vmi(&format!(r#"{{"status": {{"conditions": [{{"type": "Ready", "status": "True"}}{condition}]}}}}"#))
                .migratable
        };
        assert_eq!(of(""), Migratable::Unknown);
        assert_eq!(of(r#", {"type": "LiveMigratable", "status": "True"}"#), Migratable::Yes);
        assert_eq!(of(r#", {"type": "LiveMigratable", "status": "Unknown"}"#), Migratable::Unknown);
        let no = of(r#", {"type": "LiveMigratable", "status": "False", "reason": "DisksNotLiveMigratable"}"#);
        assert_eq!(no, Migratable::No { reason: "DisksNotLiveMigratable".into(), message: "".into() });
    }

    #[test]
    fn an_ordinal_pod_interface_is_net_and_a_number() {
        for (name, has_ordinal_name) in [
            ("net1", true),
            ("net12", true),
            ("eth0", false),
            ("net", false),
            ("net1a", false),
            ("pod9a6a0c3b4d8", false),
        ] {
            let nic = StatusNic { pod_interface: name.into(), ..StatusNic::default() };
            assert_eq!(nic.has_ordinal_name(), has_ordinal_name, "{name}");
        }
    }

    #[test]
    fn the_requested_memory_is_that_of_the_resources_or_of_the_guest() {
        for (domain, memory) in [
            ("{}", 0),
            (r#"{"memory": {"guest": "8Gi"}}"#, 8 << 30),
            (r#"{"memory": {"guest": "8Gi"}, "resources": {"requests": {"memory": "4Gi"}}}"#, 4 << 30),
            (r#"{"memory": {"guest": "8Gi", "hugepages": {"pageSize": "2Mi"}}}"#, 0),
        ] {
            assert_eq!(vmi(&format!(r#"{{"spec": {{"domain": {domain}}}}}"#)).memory, memory, "{domain}");
        }
    }

    #[test]
    fn dedicated_cpus_follow_the_topology() {
        for (cpu, cpus) in [
            (r#"{"cores": 4, "dedicatedCpuPlacement": true}"#, 4),
            (r#"{"cores": 4, "sockets": 2, "dedicatedCpuPlacement": true}"#, 8),
            (r#"{"cores": 4}"#, 0),
            (r#"{"dedicatedCpuPlacement": true}"#, 0),
        ] {
            assert_eq!(vmi(&format!(r#"{{"spec": {{"domain": {{"cpu": {cpu}}}}}}}"#)).dedicated_cpus, cpus, "{cpu}");
        }
    }

    #[test]
    fn queues_follow_the_vcpus() {
        for (domain, queues) in [
            (r#"{"cpu": {"cores": 4}}"#, Some(1)),
            (r#"{"cpu": {"cores": 4, "sockets": 2}, "devices": {"networkInterfaceMultiqueue": true}}"#, Some(8)),
            (r#"{"devices": {"networkInterfaceMultiqueue": true}}"#, Some(1)),
            (r#"{"cpu": {"cores": 999}, "devices": {"networkInterfaceMultiqueue": true}}"#, Some(256)),
            (r#"{"cpu": {"cores": "many"}, "devices": {"networkInterfaceMultiqueue": true}}"#, None),
        ] {
            let text = format!(r#"{{"domain": {domain}}}"#);
            assert_eq!(queues_per_nic(&serde_json::from_str(&text).unwrap()), queues, "{domain}");
        }
    }
}
