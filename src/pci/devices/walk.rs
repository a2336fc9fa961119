//! Walks over the devices of a guest in the order in which libvirt gives them addresses.

use super::{
    Device, DeviceKind, DeviceVisitor, SlotKind, is_transitional,
    lists::{DefaultedDisk, DeviceLists, DiskForm, sata_controllers},
    machine_kind,
};
use crate::{
    api::{guest::GuestSpec, network::Interface, quote::quote},
    pci::{
        DeviceRegistry, DomainAttachment, HostDeviceKind, Note, PciOptions,
        boot_error::BootError,
        machine_type::{Architecture, MachineType},
    },
};

/// Passes every device of a guest to `visitor`.
pub(in crate::pci) fn walk<'v>(
    spec: &'v GuestSpec<'v>,
    parts: &'v DeviceLists<'v>,
    disks: &[DefaultedDisk<'v>],
    options: &PciOptions<'_>,
    registry: &dyn DeviceRegistry,
    visitor: &mut dyn DeviceVisitor<'v>,
) {
    let architecture = Architecture::parse(spec.architecture.as_deref().unwrap_or_default());
    let machine = MachineType::of(architecture, machine_kind(spec, architecture));
    let is_transitional = is_transitional(spec, architecture);
    let walk = DeviceWalk { spec, parts, architecture, machine, is_transitional, options, registry };
    walk.filesystems(visitor);
    walk.interfaces(visitor);
    walk.sound(visitor);
    walk.controllers(disks, visitor);
    walk.virtio_disks(disks, visitor);
    walk.host_devices(visitor);
    walk.small_devices(visitor);
}

struct DeviceWalk<'v, 'k> {
    spec: &'v GuestSpec<'v>,
    parts: &'v DeviceLists<'v>,
    architecture: Architecture,
    machine: MachineType,
    is_transitional: bool,
    options: &'k PciOptions<'k>,
    registry: &'k dyn DeviceRegistry,
}

impl<'v> DeviceWalk<'v, '_> {
    fn emit(&self, visitor: &mut dyn DeviceVisitor<'v>, mut device: Device<'v>) {
        if self.is_transitional && device.is_transitional && device.slot_kind == SlotKind::Port {
            device.slot_kind = SlotKind::Bridge;
        }
        visitor.device(&device);
    }

    fn filesystems(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        for filesystem in self.parts.filesystems.iter().filter(|filesystem| filesystem.virtiofs.is_some()) {
            let device = Device::new(DeviceKind::Filesystem, &filesystem.name, SlotKind::Port, "virtiofs, not counted");
            self.emit(visitor, device.uncounted());
        }
    }

    fn interfaces(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        let interfaces = self.spec.interfaces();
        if self.spec.gets_default_nic() {
            let why = "the default NIC, which KubeVirt adds";
            self.emit(visitor, Device::new(DeviceKind::Interface, "default", SlotKind::Port, why));
        }
        for interface in interfaces {
            let device = self.interface(interface, visitor);
            self.emit(visitor, device);
        }
    }

    fn interface(&self, interface: &'v Interface<'v>, visitor: &mut dyn DeviceVisitor<'v>) -> Device<'v> {
        let nowhere = |why| Device::new(DeviceKind::Interface, &interface.name, SlotKind::None, why).uncounted();
        if interface.is_absent() {
            return nowhere("state absent: not in the guest");
        }
        let address = interface.options.pci_address.as_deref();
        if interface.bindings.sriov.is_some() {
            return Device::new(DeviceKind::SriovInterface, &interface.name, SlotKind::Port, "SR-IOV").at(address);
        }
        if let Some(plugin) = &interface.bindings.plugin {
            match self.registry.binding(&plugin.name) {
                DomainAttachment::Tap => {}
                DomainAttachment::NoNic => return nowhere("no tap: KubeVirt defines no NIC"),
                DomainAttachment::Unknown => visitor.note(Note::UnknownBinding(plugin.name.to_string())),
            }
        } else if interface.bindings.names().next().is_none() && interface.bindings.unknown > 0 {
            visitor.note(Note::NewerBinding(interface.name.to_string()));
        }
        let device = match interface.model_or_default() {
            "virtio" => Device::new(DeviceKind::Interface, &interface.name, SlotKind::Port, "model virtio"),
            // libvirt treats these two as conventional cards, and puts an unknown model on a port.
            "e1000" | "rtl8139" => Device::new(
                DeviceKind::Interface,
                &interface.name,
                SlotKind::Bridge,
                "its model is a conventional card",
            )
            .modern(),
            _ => Device::new(DeviceKind::Interface, &interface.name, SlotKind::Port, "its model is a PCI Express card")
                .modern(),
        };
        device.at(address)
    }

    fn sound(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        let Some(sound) = &self.parts.sound else { return };
        let (slot_kind, why) = match (sound.model.as_str(), self.machine) {
            ("ac97", _) => (SlotKind::Bridge, "ac97 is a conventional PCI card"),
            // On q35, slot 0x1b of the root bus is reserved for it. Other machine types have no such slot.
            (_, MachineType::Q35 | MachineType::I440fx) => (SlotKind::RootBus, "ich9, part of the chipset"),
            _ => (SlotKind::Bridge, "ich9 is a conventional PCI card"),
        };
        self.emit(visitor, Device::new(DeviceKind::Sound, &sound.name, slot_kind, why).uncounted());
    }

    fn controllers(&self, disks: &[DefaultedDisk<'v>], visitor: &mut dyn DeviceVisitor<'v>) {
        let devices = &self.spec.domain.devices;
        let has_usb_controller = self.needs_usb(disks);
        self.emit(
            visitor,
            if has_usb_controller {
                Device::new(DeviceKind::UsbController, "", SlotKind::Port, "for USB devices")
            } else {
                Device::new(DeviceKind::UsbController, "", SlotKind::None, "does not exist, but KubeVirt counts it")
            },
        );
        if devices.disable_hotplug != Some(true) {
            self.emit(visitor, Device::new(DeviceKind::ScsiController, "", SlotKind::Port, "for hotplugged volumes"));
        } else if disks.iter().any(|disk| disk.bus == "scsi") {
            self.emit(visitor, Device::new(DeviceKind::ScsiController, "", SlotKind::Port, "for disks on bus scsi"));
        }
        if devices.autoattach_serial_console == Some(false) {
            let why = "for the guest agent, not counted";
            self.emit(visitor, Device::new(DeviceKind::SerialController, "", SlotKind::Port, why).uncounted().modern());
        } else {
            self.emit(
                visitor,
                Device::new(DeviceKind::SerialController, "", SlotKind::Port, "for console and guest agent"),
            );
        }
        for number in 0..sata_controllers(disks) {
            if number > 0 || self.machine != MachineType::Q35 {
                let device = Device::new(
                    DeviceKind::SataController,
                    "",
                    SlotKind::Bridge,
                    "for more SATA disks than the machine supports",
                );
                self.emit(visitor, device.uncounted());
            }
        }
        if !has_usb_controller {
            self.refuse_usb_without_controller(disks, visitor);
        }
    }

    /// KubeVirt's `IsUSBNeeded` of the architecture, which considers only disks of form `disk`.
    fn needs_usb(&self, disks: &[DefaultedDisk<'v>]) -> bool {
        let devices = &self.spec.domain.devices;
        match self.architecture {
            Architecture::Arm64 => true,
            Architecture::S390x => false,
            Architecture::Amd64 | Architecture::Other => {
                self.parts.inputs.iter().any(|input| input.bus.as_str() != "virtio")
                    || self.adds_an_input()
                    || disks.iter().any(|disk| disk.bus == "usb" && disk.form == DiskForm::Disk)
                    || devices.client_passthrough.is_some()
                    || self
                        .parts
                        .host_devices
                        .iter()
                        .any(|device| self.registry.host_device(&device.device_name) == HostDeviceKind::Usb)
            }
        }
    }

    /// Whether the VM controller adds a tablet when it creates a VMI from the template.
    fn adds_an_input(&self) -> bool {
        self.options.is_template
            && self.spec.domain.devices.autoattach_input_device == Some(true)
            && self.parts.inputs.is_empty()
    }

    fn refuse_usb_without_controller(&self, disks: &[DefaultedDisk<'v>], visitor: &mut dyn DeviceVisitor<'v>) {
        if self.architecture != Architecture::Amd64 {
            return;
        }
        if let Some(disk) = disks.iter().find(|disk| disk.bus == "usb") {
            let why = "bus usb, but KubeVirt creates no USB controller for a cdrom or lun alone";
            visitor.boot_error(BootError::Device { device: format!("disk {}", quote(disk.name)), why });
        }
    }

    fn virtio_disks(&self, disks: &[DefaultedDisk<'v>], visitor: &mut dyn DeviceVisitor<'v>) {
        for disk in disks {
            let why = match (disk.form, disk.bus) {
                (_, bus) if disk.address.is_some() && bus != "virtio" => {
                    Some("only a disk on bus virtio can have a pciAddress")
                }
                (DiskForm::Lun, "virtio") => Some("the emulator has no lun on bus virtio; use bus scsi"),
                (DiskForm::Lun, "sata" | "usb") => Some("libvirt supports a lun on bus scsi only"),
                (DiskForm::Cdrom, "virtio") => {
                    Some("libvirt refuses a cdrom on bus virtio, which cannot be ejected; use bus sata")
                }
                _ => None,
            };
            if let Some(why) = why {
                visitor.boot_error(BootError::Device { device: format!("disk {}", quote(disk.name)), why });
            }
            if disk.bus == "virtio" {
                self.emit(
                    visitor,
                    Device::new(DeviceKind::Disk, disk.name, SlotKind::Port, "bus virtio").at(disk.address),
                );
            }
        }
    }

    fn host_devices(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        let gpus = self.parts.gpus.iter().map(|device| (DeviceKind::Gpu, device));
        let others = self.parts.host_devices.iter().map(|device| (DeviceKind::HostDevice, device));
        for (kind, device) in others.chain(gpus) {
            match self.registry.host_device(&device.device_name) {
                HostDeviceKind::Mediated => {
                    let why = "a mediated device, not counted";
                    self.emit(visitor, Device::new(kind, &device.name, SlotKind::Port, why).uncounted());
                }
                HostDeviceKind::Usb => {}
                HostDeviceKind::Pci => {
                    let why = "a PCI device of the host";
                    self.emit(visitor, Device::new(kind, &device.name, SlotKind::Port, why));
                }
                HostDeviceKind::Unknown => {
                    visitor.note(Note::UnknownHostDevice {
                        name: device.name.to_string(),
                        device_name: device.device_name.to_string(),
                    });
                    self.emit(
                        visitor,
                        Device::new(kind, &device.name, SlotKind::Port, "a device of the host, assumed to be PCI"),
                    );
                }
            }
        }
    }

    fn small_devices(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        let devices = &self.spec.domain.devices;
        self.emit(
            visitor,
            if devices.autoattach_mem_balloon == Some(false) {
                Device::new(DeviceKind::Balloon, "", SlotKind::None, "disabled, but KubeVirt counts it")
            } else {
                Device::new(DeviceKind::Balloon, "", SlotKind::Port, "unless autoattachMemBalloon is false")
            },
        );
        if devices.rng.is_some() {
            self.emit(visitor, Device::new(DeviceKind::Rng, "", SlotKind::Port, "requested by rng"));
        }
        self.watchdog(visitor);
        self.video(visitor);
        self.inputs(visitor);
        if devices.autoattach_vsock == Some(true) {
            let why = "autoattachVSOCK, not counted";
            self.emit(visitor, Device::new(DeviceKind::Vsock, "", SlotKind::Port, why).uncounted());
        }
    }

    fn watchdog(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        let Some(watchdog) = &self.parts.watchdog else { return };
        if self.architecture == Architecture::Arm64 {
            let device = format!("watchdog {}", quote(&watchdog.name));
            visitor.boot_error(BootError::Device { device, why: "KubeVirt has no watchdog on arm64" });
        }
        let (slot_kind, why) = if self.architecture == Architecture::S390x || watchdog.diag288.is_some() {
            (SlotKind::None, "diag288 is not a PCI device")
        } else {
            (SlotKind::Bridge, "i6300esb is a conventional PCI card")
        };
        self.emit(visitor, Device::new(DeviceKind::Watchdog, &watchdog.name, slot_kind, why));
    }

    fn video(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        let kind = self.parts.video.as_ref().map_or("", |video| video.kind.as_str());
        if self.spec.domain.devices.autoattach_graphics_device == Some(false) || matches!(kind, "ramfb" | "none") {
            return;
        }
        let (slot_kind, why) = match self.machine {
            MachineType::Virt => (SlotKind::Port, "the graphics card, not counted"),
            _ => (SlotKind::RootBus, "the graphics card"),
        };
        self.emit(visitor, Device::new(DeviceKind::Video, "", slot_kind, why).uncounted());
    }

    fn inputs(&self, visitor: &mut dyn DeviceVisitor<'v>) {
        for input in self.parts.inputs.iter() {
            let why = match (input.bus.as_str(), input.kind.as_str()) {
                ("" | "usb" | "virtio", "tablet") => None,
                ("" | "usb" | "virtio", _) => Some("KubeVirt supports inputs of type tablet only"),
                _ => Some("KubeVirt supports inputs on bus usb and virtio only"),
            };
            if let Some(why) = why {
                visitor.boot_error(BootError::Device { device: format!("input {}", quote(&input.name)), why });
            }
            if input.bus.as_str() == "virtio" {
                self.emit(visitor, Device::new(DeviceKind::Input, &input.name, SlotKind::Port, "bus virtio"));
            }
        }
        let has_graphics = self.spec.domain.devices.autoattach_graphics_device != Some(false);
        if self.architecture == Architecture::S390x && has_graphics {
            self.emit(
                visitor,
                Device::new(DeviceKind::Input, "", SlotKind::Port, "the keyboard that KubeVirt adds on s390x"),
            );
        }
    }
}
