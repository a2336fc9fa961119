//! Facts about the PCI bus with which a guest booted.

use std::sync::Arc;

use crate::{
    api::{metadata::Annotations, vmi::VirtualMachineInstance},
    pci::{self, BootSlots, DeviceRegistry, Devices, NoRegistry, PciOptions, count_devices},
};

/// The sources of information about the PCI bus at boot, from the most to the least reliable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BootFacts {
    /// The annotation that nicplug wrote when the VMI was created.
    pub stamp: Stamp,
    /// The ControllerRevision with the VM spec from which the VMI was created.
    pub revision: Option<Box<str>>,
    /// The current devices of the guest, its NICs in the order of its spec; `None` if they cannot be read. Guests with
    /// equal devices share one value.
    pub current_devices: Option<Arc<Devices>>,
    /// Whether memory was hotplugged since boot.
    pub has_hotplugged_memory: bool,
    /// Whether the devices depend on the KubeVirt resource.
    pub depends_on_registry: bool,
}

/// The annotation `nicplug.io/boot-slots`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Stamp {
    /// The VMI was created without nicplug.
    #[default]
    Missing,
    /// Written by nicplug.
    Valid(BootSlots),
    /// Written by another client or by a newer nicplug.
    Invalid,
}

impl BootFacts {
    /// Reads a VMI; `spec` and `status` may be two states of it.
    #[must_use]
    pub fn of(spec: &VirtualMachineInstance, status: &VirtualMachineInstance, registry: &dyn DeviceRegistry) -> Self {
        let annotations = spec.metadata.annotations.as_deref();
        let options = pci_options(annotations);
        let without_registry = count_devices(&spec.spec, &options, &NoRegistry);
        let depends_on_registry = without_registry.as_ref().is_ok_and(|devices| !devices.notes.is_empty());
        let current_devices =
            if depends_on_registry { count_devices(&spec.spec, &options, registry) } else { without_registry };
        Self {
            stamp: Stamp::read(annotations),
            revision: status.status.virtual_machine_revision_name.as_deref().map(Into::into),
            current_devices: current_devices.ok().map(Arc::new),
            has_hotplugged_memory: status.status.memory.is_hotplugged(),
            depends_on_registry,
        }
    }
}

impl Stamp {
    fn read(annotations: Option<&Annotations>) -> Self {
        match annotations.and_then(|annotations| annotations.boot_slots.as_deref()).map(str::parse) {
            None => Self::Missing,
            Some(Ok(slots)) => Self::Valid(slots),
            Some(Err(_)) => Self::Invalid,
        }
    }
}

/// Reads the annotations of a guest that concern its PCI bus.
#[must_use]
pub fn pci_options<'a>(annotations: Option<&'a Annotations<'_>>) -> PciOptions<'a> {
    PciOptions {
        slot_count: annotations.and_then(|annotations| annotations.slot_count.as_deref()),
        root_complex: annotations.and_then(|annotations| annotations.root_complex.as_deref()) == Some("true"),
        has_sidecars: pci::names_sidecars(annotations.and_then(|annotations| annotations.hook_sidecars.as_deref())),
        is_template: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::KubeVirt;

    fn boot(text: &str, registry: &dyn DeviceRegistry) -> BootFacts {
        let vmi: VirtualMachineInstance = serde_json::from_str(text).unwrap();
        BootFacts::of(&vmi, &vmi, registry)
    }

    #[test]
    fn a_stamp_is_valid_or_invalid() {
        let with = |stamp: &str| {
            boot(&format!(r#"{{"metadata": {{"annotations": {{"nicplug.io/boot-slots": "{stamp}"}}}}}}"#), &NoRegistry)
                .stamp
        };
        assert!(matches!(with("v1:port=4,nics=1,disks=2"), Stamp::Valid(_)));
        assert_eq!(with("lots"), Stamp::Invalid);
        assert_eq!(boot("{}", &NoRegistry).stamp, Stamp::Missing);
    }

    #[test]
    fn what_may_rewrite_the_domain_is_read_from_the_guest() {
        let of = |annotations: &str, cpu: &str, devices: &str| {
            let text = format!(
                r#"{{"metadata": {{"annotations": {{{annotations}}}}},
                    "spec": {{"domain": {{"cpu": {cpu}, "devices": {devices}}}}}}}"#
            );
            let usage = boot(&text, &NoRegistry).current_devices.unwrap().port_usage.clone();
            (usage.has_sidecars, usage.has_numa_devices)
        };
        let sidecars = |value: &str| of(&format!(r#""hooks.kubevirt.io/hookSidecars": "{value}""#), "{}", "{}").0;
        assert!(sidecars(r#"[{\"image\": \"example.com/hook\"}]"#) && !sidecars("[]") && !sidecars(""));
        let dedicated = r#"{"dedicatedCpuPlacement": true, "numa": {"guestMappingPassthrough": {}}}"#;
        let gpu = r#"{"gpus": [{"name": "g", "deviceName": "example.com/gpu"}]}"#;
        let sriov = r#"{"interfaces": [{"name": "a", "sriov": {}}]}"#;
        for (cpu, devices, expected) in
            [(dedicated, gpu, true), (dedicated, sriov, true), (dedicated, "{}", false), ("{}", gpu, false)]
        {
            assert_eq!(of("", cpu, devices), (false, expected), "{cpu} {devices}");
        }
    }

    #[test]
    fn a_device_name_is_resolved_by_the_kubevirt_resource() {
        let text = r#"{"spec": {"domain": {"devices": {"gpus": [{"name": "g", "deviceName": "example.com/x"}]}}}}"#;
        let unknown = boot(text, &NoRegistry);
        assert!(unknown.depends_on_registry);
        let kubevirt = KubeVirt::from(
            serde_json::from_str::<crate::api::cluster::KubeVirt>(
                r#"{"spec": {"configuration": {"permittedHostDevices": {"mediatedDevices": [{"resourceName": "example.com/x"}]}}}}"#,
            )
            .unwrap(),
        );
        assert_ne!(
            boot(text, &kubevirt).current_devices.unwrap().port_usage,
            unknown.current_devices.unwrap().port_usage
        );
        assert!(!boot("{}", &kubevirt).depends_on_registry);
    }
}
