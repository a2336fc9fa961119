//! Every device of a guest that has to do with PCI, one by one, as KubeVirt's converter and libvirt make them of the
//! VMI: the table of what counts. Both the sums and the picture are made from this one enumeration.
//!
//! | device                                                      | counted | needs on a PCIe board            |
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
//! Sources: KubeVirt v1.9.0 `pkg/virt-launcher/virtwrap/converter` (`compute/`, `pci-placement.go`), libvirt 11.3
//! `src/qemu/qemu_domain_address.c`.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{
    Attachment, DeviceKinds, HostKind, Note, Placement, Unreadable,
    machine::{Architecture, Machine},
    refusal::Refusal,
};
use crate::api::{
    Lazy,
    guest::{Disk, Filesystem, GuestSpec, HostDevice, Input, Named, Resources, Sound, Video, Watchdog},
    network::Interface,
};

/// Disks on one SATA controller.
const SATA_PORTS: u64 = 6;

/// What a device is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
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
    /// A NIC of the emulator.
    Interface,
    /// The random number generator.
    Rng,
    /// A further SATA controller.
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

impl Kind {
    /// The name in output.
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

    /// The turn in which libvirt gives it an address.
    pub(super) fn turn(self) -> u8 {
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

    /// Whether `useVirtioTransitional` turns it into a conventional PCI device. Other virtio devices stay modern.
    fn can_be_transitional(self) -> bool {
        matches!(
            self,
            Self::Balloon | Self::Disk | Self::Interface | Self::Rng | Self::ScsiController | Self::SerialController
        )
    }
}

/// What a device needs on a PCIe board. A flat bus has one slot for each that is not `Nowhere`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// A root port of its own.
    Port,
    /// A conventional PCI slot, on a bridge.
    Bridge,
    /// A slot of the root bus, where it takes no port.
    RootBus,
    /// Nothing.
    Nowhere,
}

/// One device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device<'v> {
    pub(super) kind: Kind,
    /// The name in the spec; empty for one that nobody listed.
    pub(super) name: &'v str,
    /// Whether KubeVirt counts it among the ports in use.
    pub(super) is_counted: bool,
    pub(super) place: Place,
    /// Whether `useVirtioTransitional` makes it a conventional PCI device.
    pub(super) is_transitional: bool,
    /// `pciAddress`.
    pub(super) address: Option<&'v str>,
    /// Why it is there, or why it is where it is.
    pub(super) why: &'static str,
}

impl<'v> Device<'v> {
    fn new(kind: Kind, name: &'v str, place: Place, why: &'static str) -> Self {
        Self { kind, name, is_counted: true, place, is_transitional: kind.can_be_transitional(), address: None, why }
    }

    fn uncounted(self) -> Self {
        Self { is_counted: false, ..self }
    }

    /// Of a model that `useVirtioTransitional` does not change.
    fn modern(self) -> Self {
        Self { is_transitional: false, ..self }
    }

    fn at(self, address: Option<&'v str>) -> Self {
        Self { address: address.filter(|address| !address.is_empty()), ..self }
    }
}

/// What the enumeration finds besides devices.
pub(super) trait Sink<'v> {
    /// A device. Each interface is one, absent ones are `Nowhere`.
    fn device(&mut self, device: Device<'v>);
    /// Something that cannot be known.
    fn note(&mut self, note: Note);
    /// A reason why the guest cannot boot.
    fn refusal(&mut self, refusal: Refusal);
}

/// The parts of a spec that are read for PCI only.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    disks: Vec<Disk<'a>>,
    filesystems: Vec<Filesystem<'a>>,
    gpus: Vec<HostDevice<'a>>,
    host_devices: Vec<HostDevice<'a>>,
    inputs: Vec<Input<'a>>,
    pub(super) resources: Resources<'a>,
    sound: Option<Sound<'a>>,
    video: Option<Video<'a>>,
    volumes: Vec<Named<'a>>,
    watchdog: Option<Watchdog<'a>>,
}

impl<'a> Parts<'a> {
    /// Reads them.
    pub(super) fn read(spec: &GuestSpec<'a>) -> Result<Self, Unreadable> {
        let devices = &spec.domain.devices;
        Ok(Self {
            disks: part("domain.devices.disks", &devices.disks)?,
            filesystems: part("domain.devices.filesystems", &devices.filesystems)?,
            gpus: part("domain.devices.gpus", &devices.gpus)?,
            host_devices: part("domain.devices.hostDevices", &devices.host_devices)?,
            inputs: part("domain.devices.inputs", &devices.inputs)?,
            resources: part("domain.resources", &spec.domain.resources)?,
            sound: part("domain.devices.sound", &devices.sound)?,
            video: part("domain.devices.video", &devices.video)?,
            volumes: part("volumes", &spec.volumes)?,
            watchdog: part("domain.devices.watchdog", &devices.watchdog)?,
        })
    }
}

impl Parts<'_> {
    /// Disks after KubeVirt's defaulting, those of volumes that nobody listed included.
    pub(super) fn bus_disks(&self, architecture: Architecture) -> Vec<BusDisk<'_>> {
        let default_bus = architecture.default_disk_bus();
        let listed = self.disks.iter().map(|disk| BusDisk::of(disk, default_bus));
        let disks = self.disks.iter().map(|disk| disk.name.as_str());
        let names: BTreeSet<&str> =
            disks.chain(self.filesystems.iter().map(|filesystem| filesystem.name.as_str())).collect();
        let implied = self.volumes.iter().filter(|volume| !names.contains(volume.name.as_str()));
        let implied =
            implied.map(|volume| BusDisk { name: &volume.name, form: Form::Disk, bus: default_bus, address: None });
        listed.chain(implied).collect()
    }
}

fn part<'a, T: Deserialize<'a> + Default>(field: &'static str, lazy: &Lazy<'a, T>) -> Result<T, Unreadable> {
    lazy.read().map_err(|source| Unreadable { field, source })
}

/// Walks over all devices.
pub(super) fn walk<'v>(
    spec: &'v GuestSpec<'v>,
    parts: &'v Parts<'v>,
    disks: &[BusDisk<'v>],
    placement: &Placement<'_>,
    kinds: &dyn DeviceKinds,
    sink: &mut dyn Sink<'v>,
) {
    let architecture = Architecture::parse(spec.architecture.as_deref().unwrap_or_default());
    let machine = Machine::of(architecture, machine_kind(spec, architecture));
    let is_transitional = is_transitional(spec, architecture);
    let walk = Walk { spec, parts, architecture, machine, is_transitional, placement, kinds };
    walk.filesystems(sink);
    walk.interfaces(sink);
    walk.sound(sink);
    walk.controllers(disks, sink);
    walk.virtio_disks(disks, sink);
    walk.host_devices(sink);
    walk.small_devices(sink);
}

/// The machine type after KubeVirt's defaulting.
pub(super) fn machine_kind<'v>(spec: &'v GuestSpec<'_>, architecture: Architecture) -> &'v str {
    let kind = spec.domain.machine.kind.as_str();
    if kind.is_empty() { architecture.default_machine() } else { kind }
}

/// Whether virtio devices are conventional PCI devices.
pub(super) fn is_transitional(spec: &GuestSpec<'_>, architecture: Architecture) -> bool {
    spec.domain.devices.use_virtio_transitional == Some(true) && architecture != Architecture::S390x
}

struct Walk<'v, 'k> {
    spec: &'v GuestSpec<'v>,
    parts: &'v Parts<'v>,
    architecture: Architecture,
    machine: Machine,
    is_transitional: bool,
    placement: &'k Placement<'k>,
    kinds: &'k dyn DeviceKinds,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Cdrom,
    Disk,
    Lun,
}

/// A disk after KubeVirt's defaulting.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusDisk<'v> {
    name: &'v str,
    form: Form,
    bus: &'v str,
    address: Option<&'v str>,
}

impl<'v> BusDisk<'v> {
    fn of(disk: &'v Disk<'_>, default_bus: &'v str) -> Self {
        let (form, target) = match (&disk.disk, &disk.lun, &disk.cdrom) {
            (Some(target), ..) => (Form::Disk, Some(target)),
            (None, Some(target), _) => (Form::Lun, Some(target)),
            (None, None, Some(target)) => (Form::Cdrom, Some(target)),
            (None, None, None) => (Form::Disk, None),
        };
        let bus = target.map(|target| target.bus.as_str()).filter(|bus| !bus.is_empty()).unwrap_or(default_bus);
        let address = target.and_then(|target| target.pci_address.as_deref()).filter(|text| !text.is_empty());
        Self { name: &disk.name, form, bus, address }
    }
}

impl<'v> Walk<'v, '_> {
    fn emit(&self, sink: &mut dyn Sink<'v>, device: Device<'v>) {
        let place = if self.is_transitional && device.is_transitional && device.place == Place::Port {
            Place::Bridge
        } else {
            device.place
        };
        sink.device(Device { place, ..device });
    }

    fn filesystems(&self, sink: &mut dyn Sink<'v>) {
        for filesystem in self.parts.filesystems.iter().filter(|filesystem| filesystem.virtiofs.is_some()) {
            let device = Device::new(Kind::Filesystem, &filesystem.name, Place::Port, "virtiofs, not counted");
            self.emit(sink, device.uncounted());
        }
    }

    fn interfaces(&self, sink: &mut dyn Sink<'v>) {
        let interfaces = self.spec.interfaces();
        if self.spec.gets_default_nic() {
            let why = "the pod network, which KubeVirt adds";
            self.emit(sink, Device::new(Kind::Interface, "default", Place::Port, why));
        }
        for interface in interfaces {
            let device = self.interface(interface, sink);
            self.emit(sink, device);
        }
    }

    fn interface(&self, interface: &'v Interface<'v>, sink: &mut dyn Sink<'v>) -> Device<'v> {
        let nowhere = |why| Device::new(Kind::Interface, &interface.name, Place::Nowhere, why).uncounted();
        if interface.is_absent() {
            return nowhere("state absent: not in the guest");
        }
        let address = interface.pci_address.as_deref();
        if interface.bindings.sriov.is_some() {
            return Device::new(Kind::SriovInterface, &interface.name, Place::Port, "SR-IOV").at(address);
        }
        if let Some(plugin) = &interface.bindings.plugin {
            match self.kinds.binding(&plugin.name) {
                Attachment::Tap => {}
                Attachment::Unseen => return nowhere("no tap: KubeVirt defines no NIC"),
                Attachment::Unknown => sink.note(Note::UnknownBinding(plugin.name.to_string())),
            }
        } else if interface.bindings.names().next().is_none() && interface.bindings.unknown > 0 {
            sink.note(Note::NewerBinding(interface.name.to_string()));
        }
        let device = match interface.model_or_default() {
            "virtio" => Device::new(Kind::Interface, &interface.name, Place::Port, "model virtio"),
            // libvirt knows these two as conventional cards; a model that it does not know it puts on a port.
            "e1000" | "rtl8139" => {
                Device::new(Kind::Interface, &interface.name, Place::Bridge, "its model is a conventional card")
                    .modern()
            }
            _ => Device::new(Kind::Interface, &interface.name, Place::Port, "its model is a PCI Express card").modern(),
        };
        device.at(address)
    }

    fn sound(&self, sink: &mut dyn Sink<'v>) {
        let Some(sound) = &self.parts.sound else { return };
        let (place, why) = match (sound.model.as_str(), self.machine) {
            ("ac97", _) => (Place::Bridge, "ac97 is a conventional PCI card"),
            // On q35 slot 0x1b of the root bus is kept for it; other boards have no such place.
            (_, Machine::Q35 | Machine::I440fx) => (Place::RootBus, "ich9, part of the chipset"),
            _ => (Place::Bridge, "ich9 is a conventional PCI card"),
        };
        self.emit(sink, Device::new(Kind::Sound, &sound.name, place, why).uncounted());
    }

    fn controllers(&self, disks: &[BusDisk<'v>], sink: &mut dyn Sink<'v>) {
        let devices = &self.spec.domain.devices;
        let is_usb_real = self.needs_usb(disks);
        self.emit(
            sink,
            if is_usb_real {
                Device::new(Kind::UsbController, "", Place::Port, "for USB devices")
            } else {
                Device::new(Kind::UsbController, "", Place::Nowhere, "not there, though KubeVirt counts it")
            },
        );
        if devices.disable_hotplug != Some(true) {
            self.emit(sink, Device::new(Kind::ScsiController, "", Place::Port, "for hotplugged volumes"));
        } else if disks.iter().any(|disk| disk.bus == "scsi") {
            self.emit(sink, Device::new(Kind::ScsiController, "", Place::Port, "for disks on bus scsi"));
        }
        if devices.autoattach_serial_console == Some(false) {
            let why = "for the guest agent, not counted";
            self.emit(sink, Device::new(Kind::SerialController, "", Place::Port, why).uncounted().modern());
        } else {
            self.emit(sink, Device::new(Kind::SerialController, "", Place::Port, "for console and guest agent"));
        }
        for number in 0..sata_controllers(disks) {
            if number > 0 || self.machine != Machine::Q35 {
                let device = Device::new(Kind::SataController, "", Place::Bridge, "the board has not enough of them");
                self.emit(sink, device.uncounted());
            }
        }
        if !is_usb_real {
            self.refuse_usb_without_controller(disks, sink);
        }
    }

    /// `IsUSBNeeded` of the architecture; only disks of form `disk` are asked.
    fn needs_usb(&self, disks: &[BusDisk<'v>]) -> bool {
        let devices = &self.spec.domain.devices;
        match self.architecture {
            Architecture::Arm64 => true,
            Architecture::S390x => false,
            Architecture::Amd64 | Architecture::Other => {
                self.parts.inputs.iter().any(|input| input.bus.as_str() != "virtio")
                    || self.adds_an_input()
                    || disks.iter().any(|disk| disk.bus == "usb" && disk.form == Form::Disk)
                    || devices.client_passthrough.is_some()
                    || self
                        .parts
                        .host_devices
                        .iter()
                        .any(|device| self.kinds.host_device(&device.device_name) == HostKind::Usb)
            }
        }
    }

    /// Whether the VM controller adds a tablet when it makes a VMI of the template.
    fn adds_an_input(&self) -> bool {
        self.placement.is_template
            && self.spec.domain.devices.autoattach_input_device == Some(true)
            && self.parts.inputs.is_empty()
    }

    fn refuse_usb_without_controller(&self, disks: &[BusDisk<'v>], sink: &mut dyn Sink<'v>) {
        if self.architecture != Architecture::Amd64 {
            return;
        }
        if let Some(disk) = disks.iter().find(|disk| disk.bus == "usb") {
            let why = "bus usb, and KubeVirt makes no USB controller for a cdrom or lun alone";
            sink.refusal(Refusal::Device { device: format!("disk {:?}", disk.name), why });
        }
    }

    fn virtio_disks(&self, disks: &[BusDisk<'v>], sink: &mut dyn Sink<'v>) {
        for disk in disks {
            let why = match (disk.form, disk.bus) {
                (_, bus) if disk.address.is_some() && bus != "virtio" => {
                    Some("only a disk on bus virtio can have a pciAddress")
                }
                (Form::Lun, "virtio") => Some("the emulator has no lun on bus virtio; use bus scsi"),
                (Form::Lun, "sata" | "usb") => Some("libvirt takes a lun on bus scsi only"),
                (Form::Cdrom, "virtio") => {
                    Some("a cdrom on bus virtio cannot be ejected, which libvirt refuses; use bus sata")
                }
                _ => None,
            };
            if let Some(why) = why {
                sink.refusal(Refusal::Device { device: format!("disk {:?}", disk.name), why });
            }
            if disk.bus == "virtio" {
                self.emit(sink, Device::new(Kind::Disk, disk.name, Place::Port, "bus virtio").at(disk.address));
            }
        }
    }

    fn host_devices(&self, sink: &mut dyn Sink<'v>) {
        let gpus = self.parts.gpus.iter().map(|device| (Kind::Gpu, device));
        let others = self.parts.host_devices.iter().map(|device| (Kind::HostDevice, device));
        for (kind, device) in others.chain(gpus) {
            match self.kinds.host_device(&device.device_name) {
                HostKind::Mediated => {
                    let why = "a mediated device, not counted";
                    self.emit(sink, Device::new(kind, &device.name, Place::Port, why).uncounted());
                }
                HostKind::Usb => {}
                HostKind::Pci => {
                    let why = "a PCI device of the host";
                    self.emit(sink, Device::new(kind, &device.name, Place::Port, why));
                }
                HostKind::Unknown => {
                    sink.note(Note::UnknownHostDevice {
                        name: device.name.to_string(),
                        device_name: device.device_name.to_string(),
                    });
                    self.emit(
                        sink,
                        Device::new(kind, &device.name, Place::Port, "a device of the host, taken for PCI"),
                    );
                }
            }
        }
    }

    fn small_devices(&self, sink: &mut dyn Sink<'v>) {
        let devices = &self.spec.domain.devices;
        self.emit(
            sink,
            if devices.autoattach_mem_balloon == Some(false) {
                Device::new(Kind::Balloon, "", Place::Nowhere, "switched off, though KubeVirt counts it")
            } else {
                Device::new(Kind::Balloon, "", Place::Port, "unless autoattachMemBalloon is false")
            },
        );
        if devices.rng.is_some() {
            self.emit(sink, Device::new(Kind::Rng, "", Place::Port, "asked for by rng"));
        }
        self.watchdog(sink);
        self.video(sink);
        self.inputs(sink);
        if devices.autoattach_vsock == Some(true) {
            let why = "autoattachVSOCK, not counted";
            self.emit(sink, Device::new(Kind::Vsock, "", Place::Port, why).uncounted());
        }
    }

    fn watchdog(&self, sink: &mut dyn Sink<'v>) {
        let Some(watchdog) = &self.parts.watchdog else { return };
        if self.architecture == Architecture::Arm64 {
            let device = format!("watchdog {:?}", watchdog.name.as_str());
            sink.refusal(Refusal::Device { device, why: "KubeVirt has no watchdog on arm64" });
        }
        let (place, why) = if self.architecture == Architecture::S390x || watchdog.diag288.is_some() {
            (Place::Nowhere, "diag288 is no PCI device")
        } else {
            (Place::Bridge, "i6300esb is a conventional PCI card")
        };
        self.emit(sink, Device::new(Kind::Watchdog, &watchdog.name, place, why));
    }

    fn video(&self, sink: &mut dyn Sink<'v>) {
        let kind = self.parts.video.as_ref().map_or("", |video| video.kind.as_str());
        if self.spec.domain.devices.autoattach_graphics_device == Some(false) || matches!(kind, "ramfb" | "none") {
            return;
        }
        let (place, why) = match self.machine {
            Machine::Virt => (Place::Port, "the graphics card, not counted"),
            _ => (Place::RootBus, "the graphics card"),
        };
        self.emit(sink, Device::new(Kind::Video, "", place, why).uncounted());
    }

    fn inputs(&self, sink: &mut dyn Sink<'v>) {
        for input in &self.parts.inputs {
            let why = match (input.bus.as_str(), input.kind.as_str()) {
                ("" | "usb" | "virtio", "tablet") => None,
                ("" | "usb" | "virtio", _) => Some("KubeVirt knows inputs of type tablet only"),
                _ => Some("KubeVirt knows inputs on bus usb and virtio only"),
            };
            if let Some(why) = why {
                sink.refusal(Refusal::Device { device: format!("input {:?}", input.name.as_str()), why });
            }
            if input.bus.as_str() == "virtio" {
                self.emit(sink, Device::new(Kind::Input, &input.name, Place::Port, "bus virtio"));
            }
        }
        let has_graphics = self.spec.domain.devices.autoattach_graphics_device != Some(false);
        if self.architecture == Architecture::S390x && has_graphics {
            self.emit(sink, Device::new(Kind::Input, "", Place::Port, "the keyboard that KubeVirt adds on s390x"));
        }
    }
}

/// How many SATA controllers libvirt makes. KubeVirt names the disks of sata, scsi and usb in one row (sda, sdb, …),
/// and libvirt finds the controller by the place in that row, so a sata disk behind many others needs a far one.
pub(super) fn sata_controllers(disks: &[BusDisk<'_>]) -> u64 {
    let row = (0u64..).zip(disks.iter().filter(|disk| disk.bus != "virtio"));
    row.filter(|(_, disk)| disk.bus == "sata").map(|(index, _)| index / SATA_PORTS + 1).max().unwrap_or(0)
}
