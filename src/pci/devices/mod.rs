//! Every device of a guest that concerns PCI, as KubeVirt's converter and libvirt create it from the VMI. Both the port
//! budget and the bus layout use this enumeration.
//!
//! | device                                                      | counted | needs on a PCIe machine          |
//! | ----------------------------------------------------------- | ------- | -------------------------------- |
//! | NIC: virtio, e1000e, igb, ne2k_pci, pcnet; SR-IOV            | yes     | port                             |
//! | NIC: e1000, rtl8139                                          | yes     | bridge                           |
//! | NIC: absent, or of a plugin without a tap                    | no      | nothing                          |
//! | host device, GPU: PCI / mediated / USB                       | yes/no/no | port / port / nothing          |
//! | disk on bus virtio                                           | yes     | port                             |
//! | SATA controllers: one per six names from sda on              | no      | bridge; the first of q35 nothing |
//! | SCSI controller: unless disableHotplug without a scsi disk   | yes     | port                             |
//! | virtio-serial: KubeVirt's / libvirt's own without a console  | yes/no  | port                             |
//! | USB controller: there / not there (amd64 without USB)        | yes     | port / nothing                   |
//! | input on bus virtio                                          | yes     | port                             |
//! | balloon: on / off                                            | yes     | port / nothing                   |
//! | rng                                                          | yes     | port                             |
//! | watchdog: i6300esb / diag288                                 | yes     | bridge / nothing                 |
//! | vsock, virtiofs                                              | no      | port                             |
//! | video: q35, pc / virt                                        | no      | root bus / port                  |
//! | sound: ich9 on q35, pc / elsewhere; ac97                     | no      | root bus / bridge; bridge        |
//!
//! With `useVirtioTransitional` (not on s390x) NIC, disk, SCSI, virtio-serial, balloon and rng need the bridge instead
//! of a port. On a flat bus each device that needs anything has one slot.
//!
//! Sources: KubeVirt v1.9.0 `pkg/virt-launcher/virtwrap/converter` (`compute/`, `pci-options.go`), libvirt 11.3
//! `src/qemu/qemu_domain_address.c`.

mod lists;
mod walk;

pub(super) use self::{
    lists::{DeviceLists, sata_controllers},
    walk::walk,
};
use super::{Note, boot_error::BootError, machine_type::Architecture};
use crate::api::guest::GuestSpec;

/// The kind of a device.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DeviceKind {
    /// The virtio balloon.
    Balloon,
    /// A virtio disk.
    Disk,
    /// A virtiofs filesystem.
    Filesystem,
    /// A GPU or vGPU.
    Gpu,
    /// A host device.
    HostDevice,
    /// A virtio input device.
    Input,
    /// An emulated NIC.
    Interface,
    /// The random number generator.
    Rng,
    /// An additional SATA controller.
    SataController,
    /// The SCSI controller.
    ScsiController,
    /// The virtio-serial controller.
    SerialController,
    /// A sound card.
    Sound,
    /// An SR-IOV NIC.
    SriovInterface,
    /// The USB controller.
    UsbController,
    /// The graphics card.
    Video,
    /// The vsock device.
    Vsock,
    /// The watchdog.
    Watchdog,
}

impl DeviceKind {
    /// Returns the name in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Balloon => "balloon",
            Self::Disk => "disk",
            Self::Filesystem => "filesystem",
            Self::Gpu => "gpu",
            Self::HostDevice => "hostDevice",
            Self::Input => "input",
            Self::Interface => "interface",
            Self::Rng => "rng",
            Self::SataController => "sata",
            Self::ScsiController => "scsi",
            Self::SerialController => "virtio-serial",
            Self::Sound => "sound",
            Self::SriovInterface => "sriov",
            Self::UsbController => "usb",
            Self::Video => "video",
            Self::Vsock => "vsock",
            Self::Watchdog => "watchdog",
        }
    }

    /// Returns the position in the order in which libvirt assigns addresses.
    pub(super) fn address_order(self) -> u8 {
        match self {
            Self::Filesystem => 0,
            Self::Interface => 1,
            Self::Sound => 2,
            Self::SataController | Self::ScsiController | Self::SerialController | Self::UsbController => 3,
            Self::Disk => 4,
            Self::Gpu | Self::HostDevice | Self::SriovInterface => 5,
            Self::Balloon => 6,
            Self::Rng => 7,
            Self::Watchdog => 8,
            Self::Video => 9,
            Self::Input => 10,
            Self::Vsock => 11,
        }
    }

    /// Whether `useVirtioTransitional` makes it a conventional PCI device. Other virtio devices stay modern.
    fn can_be_transitional(self) -> bool {
        matches!(
            self,
            Self::Balloon | Self::Disk | Self::Interface | Self::Rng | Self::ScsiController | Self::SerialController
        )
    }
}

/// The kind of slot that a device needs on a PCIe machine. On a flat bus each device needs one slot, except for `None`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SlotKind {
    /// A root port of its own.
    Port,
    /// A conventional PCI slot, on a bridge.
    Bridge,
    /// A slot of the root bus, without a port.
    RootBus,
    /// No slot.
    None,
}

/// One device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device<'v> {
    pub(super) kind: DeviceKind,
    /// The name in the spec; empty for a device that is not listed there.
    pub(super) name: &'v str,
    /// Whether KubeVirt counts it among the ports in use.
    pub(super) is_counted: bool,
    pub(super) slot_kind: SlotKind,
    /// Whether `useVirtioTransitional` makes it a conventional PCI device.
    pub(super) is_transitional: bool,
    /// `pciAddress`.
    pub(super) address: Option<&'v str>,
    /// The reason why the guest has it, or why it has that slot.
    pub(super) why: &'static str,
}

impl<'v> Device<'v> {
    fn new(kind: DeviceKind, name: &'v str, slot_kind: SlotKind, why: &'static str) -> Self {
        Self {
            kind,
            name,
            is_counted: true,
            slot_kind,
            is_transitional: kind.can_be_transitional(),
            address: None,
            why,
        }
    }

    fn uncounted(self) -> Self {
        Self { is_counted: false, ..self }
    }

    /// Marks a model that `useVirtioTransitional` does not change.
    fn modern(self) -> Self {
        Self { is_transitional: false, ..self }
    }

    fn at(self, address: Option<&'v str>) -> Self {
        Self { address: address.filter(|address| !address.is_empty()), ..self }
    }
}

/// Receives the devices of a guest, and the problems that the walk finds.
pub(super) trait DeviceVisitor<'v> {
    /// Receives a device. Each interface is one; an absent interface needs no slot.
    fn device(&mut self, device: &Device<'v>);
    /// Receives an assumption.
    fn note(&mut self, note: Note);
    /// Receives a reason why the guest cannot boot.
    fn boot_error(&mut self, boot_error: BootError);
}

/// Returns the machine type after KubeVirt's defaulting.
pub(super) fn machine_kind<'v>(spec: &'v GuestSpec<'_>, architecture: Architecture) -> &'v str {
    let kind = spec.domain.machine.kind.as_str();
    if kind.is_empty() { architecture.default_machine() } else { kind }
}

/// Whether virtio devices are conventional PCI devices.
pub(super) fn is_transitional(spec: &GuestSpec<'_>, architecture: Architecture) -> bool {
    spec.domain.devices.use_virtio_transitional == Some(true) && architecture != Architecture::S390x
}
