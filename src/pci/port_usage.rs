//! The devices of a guest, counted by what they need. Small enough to keep for a hundred thousand guests.

use super::{
    DeviceRegistry, Note, PciOptions, UnreadableField,
    address::PciAddress,
    boot_error::BootError,
    devices::{self, Device, DeviceKind, DeviceLists, DeviceVisitor, SlotKind},
    machine_type::{Architecture, MachineType, supports_pcie_hotplug},
    quantity,
    scheme::LARGE_MEMORY,
};
use crate::api::{guest::GuestSpec, quote::quote};

/// The inputs of the port budget of a guest, except for its NICs.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of one guest")]
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PortUsage {
    /// The architecture.
    pub architecture: Architecture,
    /// The machine type.
    pub machine: MachineType,
    /// Whether the machine has PCIe ports in KubeVirt's view.
    pub supports_pcie_hotplug: bool,
    /// Whether the guest has more than 2Gi of memory at boot.
    pub has_large_memory: bool,
    /// `useVirtioTransitional`, if the architecture supports it.
    pub is_transitional: bool,
    /// Whether the root-complex annotation is set.
    pub root_complex: bool,
    /// Whether the pod has sidecars that may rewrite the domain.
    pub has_sidecars: bool,
    /// Whether the guest has dedicated CPUs and a PCI device of the host. With the gate `PCINUMAAwareTopology` KubeVirt
    /// places such devices on expander buses of their own (`PlacePCIDevicesWithNUMAAlignment` in
    /// `pkg/virt-launcher/virtwrap/converter/pci-placement.go` of v1.9.0).
    pub has_numa_devices: bool,
    /// The slot-count annotation.
    pub slot_count: SlotCount,
    /// Devices that KubeVirt counts.
    pub(super) counted: SlotTally,
    /// Devices that KubeVirt does not count.
    pub(super) uncounted: SlotTally,
    /// Devices with an explicit address.
    pub(super) addressed: Box<[AddressedDevice]>,
    /// Whether the chipset's SATA controller is in use.
    pub(super) has_sata: bool,
    /// The number of virtio disks. Each one that is hotplugged later takes a port.
    pub virtio_disks: u16,
    /// The reason why the guest cannot boot, regardless of its NICs.
    pub(super) boot_error: Option<Box<BootError>>,
}

impl PortUsage {
    /// Returns the usage with another slot-count annotation.
    #[must_use]
    pub fn with_slot_count(&self, slot_count: SlotCount) -> Self {
        Self { slot_count, ..self.clone() }
    }
}

/// The annotation [`super::SLOT_COUNT`], as Go's `strconv.Atoi` reads it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum SlotCount {
    /// Missing.
    Unset,
    /// A number.
    Number(i64),
    /// Other text, which is an error in versions that read the annotation.
    NotANumber(Box<str>),
}

impl SlotCount {
    fn read(text: Option<&str>) -> Self {
        let Some(text) = text else { return Self::Unset };
        // Rust reads the same form as Go: an optional sign and decimal digits.
        text.parse().map_or_else(|_| Self::NotANumber(text.into()), Self::Number)
    }
}

/// The number of devices by the kind of slot that they need.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct SlotTally {
    pub(super) ports: u16,
    pub(super) conventional: u16,
    pub(super) root_bus: u16,
    /// Devices that KubeVirt counts although they need no slot.
    pub(super) nowhere: u16,
}

impl SlotTally {
    pub(super) fn add(&mut self, slot_kind: SlotKind) {
        let count = match slot_kind {
            SlotKind::Port => &mut self.ports,
            SlotKind::Bridge => &mut self.conventional,
            SlotKind::RootBus => &mut self.root_bus,
            SlotKind::None => &mut self.nowhere,
        };
        *count = count.saturating_add(1);
    }

    pub(super) fn all(self) -> u64 {
        self.slots() + u64::from(self.nowhere)
    }

    /// Returns the slots that the devices take on a flat bus.
    pub(super) fn slots(self) -> u64 {
        u64::from(self.ports) + u64::from(self.conventional) + u64::from(self.root_bus)
    }
}

/// A device with an explicit address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct AddressedDevice {
    pub(super) address: PciAddress,
    pub(super) slot_kind: SlotKind,
}

/// A NIC as the port budget needs it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PciNic {
    /// The slot that it needs; `None` if the domain does not have it: absent, or of a plugin without a tap.
    pub slot_kind: Option<SlotKind>,
    /// `pciAddress`.
    pub address: Option<PciAddress>,
}

impl PciNic {
    /// Returns a virtio NIC as hotplug adds it.
    #[must_use]
    pub fn hotplugged(port_usage: &PortUsage) -> Self {
        let slot_kind = if port_usage.is_transitional { SlotKind::Bridge } else { SlotKind::Port };
        Self { slot_kind: Some(slot_kind), address: None }
    }
}

/// The devices of a guest.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Devices {
    /// All devices except for the NICs.
    pub port_usage: PortUsage,
    /// One per interface, including absent ones, in order.
    pub nics: Vec<PciNic>,
    /// Assumptions behind these numbers.
    pub notes: Vec<Note>,
}

/// Counts the devices in the spec of a VMI, with or without KubeVirt's defaults.
///
/// # Errors
/// A field has another type than in KubeVirt's API.
pub fn count_devices(
    spec: &GuestSpec<'_>,
    options: &PciOptions<'_>,
    registry: &dyn DeviceRegistry,
) -> Result<Devices, UnreadableField> {
    let parts = DeviceLists::read(spec)?;
    Ok(count(spec, &parts, options, registry))
}

/// Returns the names of the disks of a guest that are on bus virtio.
///
/// # Errors
/// A field has another type than in KubeVirt's API.
pub fn virtio_disks(spec: &GuestSpec<'_>) -> Result<Vec<String>, UnreadableField> {
    let parts = DeviceLists::read(spec)?;
    let architecture = Architecture::parse(spec.architecture.as_deref().unwrap_or_default());
    let disks = parts.defaulted_disks(architecture);
    Ok(disks.iter().filter(|disk| disk.bus == "virtio").map(|disk| disk.name.to_owned()).collect())
}

pub(super) fn count<'v>(
    spec: &'v GuestSpec<'v>,
    parts: &'v DeviceLists<'v>,
    options: &PciOptions<'_>,
    registry: &dyn DeviceRegistry,
) -> Devices {
    let mut counter = Counter::default();
    let architecture = Architecture::parse(spec.architecture.as_deref().unwrap_or_default());
    let kind = devices::machine_kind(spec, architecture);
    let machine = MachineType::of(architecture, kind);
    if machine == MachineType::Unsupported {
        counter.boot_error(BootError::MachineType { kind: kind.to_owned(), architecture });
    }
    let has_large_memory = has_large_memory(spec, parts, &mut counter.notes);
    let disks = parts.defaulted_disks(architecture);
    devices::walk(spec, parts, &disks, options, registry, &mut counter);
    let port_usage = PortUsage {
        architecture,
        machine,
        supports_pcie_hotplug: supports_pcie_hotplug(architecture, kind),
        has_large_memory,
        is_transitional: devices::is_transitional(spec, architecture),
        root_complex: options.root_complex,
        has_sidecars: options.has_sidecars,
        has_numa_devices: counter.has_host_devices && spec.domain.cpu.read().is_ok_and(|cpu| cpu.has_dedicated_cpus),
        slot_count: SlotCount::read(options.slot_count),
        counted: counter.counted,
        uncounted: counter.uncounted,
        addressed: counter.addressed.into_boxed_slice(),
        has_sata: devices::sata_controllers(&disks) > 0,
        virtio_disks: counter.virtio_disks,
        boot_error: counter.boot_error.map(Box::new),
    };
    Devices { port_usage, nics: counter.nics, notes: counter.notes }
}

/// Whether the memory of the guest at boot is above the threshold: `memory.guest`, else the memory that KubeVirt
/// derives from the resources, else one huge page.
fn has_large_memory(spec: &GuestSpec<'_>, parts: &DeviceLists<'_>, notes: &mut Vec<Note>) -> bool {
    let memory = &spec.domain.memory;
    let page = || memory.hugepages.as_ref().and_then(|pages| pages.page_size.as_ref());
    let amount = memory
        .guest
        .as_ref()
        .or(parts.resources.requests.memory.as_ref())
        .or(parts.resources.limits.memory.as_ref())
        .or_else(page);
    let Some(amount) = amount else { return false };
    let bytes = quantity::bytes(amount.as_str());
    if bytes.is_none() {
        notes.push(Note::UnreadableMemory(amount.as_str().to_owned()));
    }
    bytes.is_some_and(|bytes| bytes > LARGE_MEMORY)
}

/// Counts the devices of a guest.
#[derive(Debug, Default)]
struct Counter {
    counted: SlotTally,
    uncounted: SlotTally,
    addressed: Vec<AddressedDevice>,
    nics: Vec<PciNic>,
    notes: Vec<Note>,
    virtio_disks: u16,
    has_host_devices: bool,
    boot_error: Option<BootError>,
}

impl Counter {
    fn address(&mut self, device: &Device<'_>) -> Option<PciAddress> {
        let text = device.address?;
        let address = text.parse().ok();
        if address.is_none() {
            let device = format!("{} {}", device.kind.as_str(), quote(device.name));
            self.boot_error(BootError::Device { device, why: "its pciAddress is not of the form 0000:01:00.0" });
        }
        address
    }
}

impl<'v> DeviceVisitor<'v> for Counter {
    fn device(&mut self, device: &Device<'v>) {
        let address = self.address(device);
        if matches!(device.kind, DeviceKind::Gpu | DeviceKind::HostDevice | DeviceKind::SriovInterface) {
            self.has_host_devices |= device.slot_kind != SlotKind::None;
        }
        if matches!(device.kind, DeviceKind::Interface | DeviceKind::SriovInterface) {
            self.nics.push(PciNic {
                slot_kind: Some(device.slot_kind).filter(|&slot_kind| slot_kind != SlotKind::None),
                address,
            });
            return;
        }
        if device.kind == DeviceKind::Disk {
            self.virtio_disks = self.virtio_disks.saturating_add(1);
        }
        if let Some(address) = address {
            self.addressed.push(AddressedDevice { address, slot_kind: device.slot_kind });
        }
        if device.is_counted { &mut self.counted } else { &mut self.uncounted }.add(device.slot_kind);
    }

    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    fn boot_error(&mut self, boot_error: BootError) {
        self.boot_error.get_or_insert(boot_error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::NoRegistry;

    fn port_usage(spec: &str, options: PciOptions<'_>) -> PortUsage {
        let spec: GuestSpec = serde_json::from_str(spec).unwrap();
        count_devices(&spec, &options, &NoRegistry).unwrap().port_usage
    }

    #[test]
    fn go_and_nicplug_read_the_same_numbers() {
        for (text, number) in [("007", 7), ("+5", 5), ("-1", -1), ("0", 0), ("9223372036854775807", i64::MAX)] {
            assert_eq!(SlotCount::read(Some(text)), SlotCount::Number(number), "{text}");
        }
        for text in ["", " 5", "5 ", "5.0", "0x8", "1e1", "junk", "9223372036854775808", "1_000", "+", "-"] {
            assert_eq!(SlotCount::read(Some(text)), SlotCount::NotANumber(text.into()), "{text}");
        }
        assert_eq!(SlotCount::read(None), SlotCount::Unset);
    }

    #[test]
    fn memory_is_that_of_the_guest_else_the_request_else_the_limit_else_a_huge_page() {
        for (domain, is_large) in [
            (r#"{"memory": {"guest": "4Gi"}}"#, true),
            (
                r#"{"memory": {"guest": "1Gi", "hugepages": {"pageSize": "4Gi"}}, "resources": {"requests": {"memory": "4Gi"}}}"#,
                false,
            ),
            (r#"{"resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "1Gi"}}}"#, true),
            (r#"{"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "4Gi"}}}"#, false),
            (r#"{"resources": {"requests": {}, "limits": {"memory": 2147483649}}}"#, true),
            (r#"{"memory": {"hugepages": {"pageSize": "4Gi"}}}"#, true),
            (r#"{"memory": {"guest": "2Gi", "maxGuest": "8Gi"}}"#, false),
            ("{}", false),
        ] {
            let port_usage = port_usage(&format!(r#"{{"domain": {domain}}}"#), PciOptions::default());
            assert_eq!(port_usage.has_large_memory, is_large, "{domain}");
        }
    }

    #[test]
    fn port_usage_stays_small() {
        assert!(size_of::<PortUsage>() <= 96, "{}", size_of::<PortUsage>());
        assert!(size_of::<PciNic>() <= 12, "{}", size_of::<PciNic>());
    }

    #[test]
    fn only_the_exact_value_true_selects_the_root_bus() {
        for (value, wanted) in [("true", true), ("True", false), ("1", false), ("", false)] {
            let options = PciOptions::of(|key| (key == crate::pci::ROOT_COMPLEX).then_some(value));
            assert_eq!(options.root_complex, wanted, "{value:?}");
        }
    }

    #[test]
    fn the_error_of_a_wrong_type_names_the_field() {
        let spec: GuestSpec = serde_json::from_str(r#"{"domain": {"devices": {"gpus": {"name": "a"}}}}"#).unwrap();
        let error = count_devices(&spec, &PciOptions::default(), &NoRegistry).unwrap_err();
        assert_eq!(error.to_string(), "domain.devices.gpus cannot be read");
    }
}
