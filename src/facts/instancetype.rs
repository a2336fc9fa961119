//! Facts about instancetypes and preferences: what they set on a guest that rules read.

use crate::api::instancetype::{self as api, PciAnnotations, PreferredDevices};

/// A VirtualMachineInstancetype or VirtualMachineClusterInstancetype, reduced to the fields that rules use.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Instancetype {
    /// `cpu.guest`: the number of vCPUs.
    pub vcpus: u32,
    /// `cpu.dedicatedCPUPlacement`.
    pub has_dedicated_cpus: bool,
    /// `memory.guest`: a quantity; empty if unset.
    pub memory: Box<str>,
    /// `gpus[]`, as a JSON list; `None` if it is empty.
    pub gpus: Option<Box<str>>,
    /// `hostDevices[]`, as a JSON list; `None` if it is empty.
    pub host_devices: Option<Box<str>>,
    /// The annotations that change the PCI bus.
    pub annotations: PciAnnotations,
}

/// A VirtualMachinePreference or VirtualMachineClusterPreference, reduced to the fields that rules use. An empty text
/// means that it prefers nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Preference {
    /// `preferredArchitecture`.
    pub architecture: Box<str>,
    /// `machine.preferredMachineType`.
    pub machine: Box<str>,
    /// `cpu.preferredCPUTopology`.
    pub topology: Topology,
    /// `devices`.
    pub devices: PreferredDevices,
    /// The annotations that change the PCI bus.
    pub annotations: PciAnnotations,
}

/// How the vCPUs of an instancetype are divided into sockets, cores and threads. Only their product concerns the rules,
/// and it is smaller than the number of vCPUs where a division has a remainder.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Topology {
    /// All vCPUs are sockets, or all are cores, or all are threads.
    #[default]
    Single,
    /// The vCPUs are spread in units of this number of vCPUs.
    Spread(u32),
}

impl Topology {
    /// The ratio of sockets to cores, or of cores to threads, if the preference has none.
    const DEFAULT_RATIO: u32 = 2;

    fn of(spec: &api::PreferenceSpec) -> Self {
        if !matches!(&*spec.cpu.topology, "preferSpread" | "spread") {
            return Self::Single;
        }
        let spread = &spec.cpu.spread_options;
        let of_spec = Some(spec.prefer_spread_socket_to_core_ratio).filter(|&ratio| ratio != 0);
        let ratio = spread.ratio.or(of_spec).unwrap_or(Self::DEFAULT_RATIO);
        let threads = if &*spread.across == "SocketsCoresThreads" { 2 } else { 1 };
        Self::Spread(ratio.saturating_mul(threads))
    }

    /// Returns how many of these vCPUs the guest gets.
    #[must_use]
    pub fn vcpus(self, count: u32) -> u32 {
        match self {
            Self::Spread(unit) if count > 1 && unit > 0 => count / unit * unit,
            Self::Spread(_) | Self::Single => count,
        }
    }
}

impl From<&api::Instancetype> for Instancetype {
    fn from(object: &api::Instancetype) -> Self {
        let spec = &object.spec;
        Self {
            vcpus: spec.cpu.guest,
            has_dedicated_cpus: spec.cpu.has_dedicated_cpus,
            memory: spec.memory.guest.clone(),
            gpus: list_of(&spec.gpus),
            host_devices: list_of(&spec.host_devices),
            annotations: spec.annotations.clone(),
        }
    }
}

/// Returns the devices as the JSON text that a guest has for them.
fn list_of(devices: &[api::InstancetypeDevice]) -> Option<Box<str>> {
    let entry =
        |device: &api::InstancetypeDevice| serde_json::json!({"name": device.name, "deviceName": device.device_name});
    let list: Vec<_> = devices.iter().map(entry).collect();
    (!list.is_empty()).then(|| serde_json::Value::Array(list).to_string().into())
}

impl From<&api::Preference> for Preference {
    fn from(object: &api::Preference) -> Self {
        let spec = &object.spec;
        Self {
            architecture: spec.preferred_architecture.clone(),
            machine: spec.machine.kind.clone(),
            topology: Topology::of(spec),
            devices: spec.devices.clone(),
            annotations: spec.annotations.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_drops_the_vcpus_that_a_division_leaves() {
        for (cpu, ratio, count, vcpus) in [
            (r"{}", 0, 5, 5),
            (r#"{"preferredCPUTopology": "cores"}"#, 0, 5, 5),
            (r#"{"preferredCPUTopology": "preferSpread"}"#, 0, 5, 4),
            (r#"{"preferredCPUTopology": "spread"}"#, 0, 1, 1),
            (r#"{"preferredCPUTopology": "spread"}"#, 4, 10, 8),
            (r#"{"preferredCPUTopology": "spread", "spreadOptions": {"ratio": 3}}"#, 4, 10, 9),
            (r#"{"preferredCPUTopology": "spread", "spreadOptions": {"across": "CoresThreads"}}"#, 0, 7, 6),
            (r#"{"preferredCPUTopology": "spread", "spreadOptions": {"across": "SocketsCoresThreads"}}"#, 0, 10, 8),
        ] {
            let text = format!(r#"{{"spec": {{"cpu": {cpu}, "preferSpreadSocketToCoreRatio": {ratio}}}}}"#);
            let preference = Preference::from(&serde_json::from_str::<api::Preference>(&text).unwrap());
            assert_eq!(preference.topology.vcpus(count), vcpus, "{text} {count}");
        }
    }

    #[test]
    fn an_instancetype_keeps_the_quantity_and_the_names_of_devices() {
        for (guest, memory) in [(r#""2Gi""#, "2Gi"), ("2147483648", "2147483648"), ("null", "")] {
            let text = format!(
                r#"{{"spec": {{"cpu": {{"guest": 4}}, "memory": {{"guest": {guest}}},
                    "gpus": [{{"name": "g", "deviceName": "example.com/gpu", "tag": "t"}}]}}}}"#
            );
            let instancetype = Instancetype::from(&serde_json::from_str::<api::Instancetype>(&text).unwrap());
            assert_eq!((instancetype.vcpus, &*instancetype.memory), (4, memory));
            assert_eq!(instancetype.gpus.as_deref(), Some(r#"[{"deviceName":"example.com/gpu","name":"g"}]"#));
            assert_eq!(instancetype.host_devices, None);
        }
    }
}
