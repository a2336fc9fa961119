//! Walks over the devices of a guest in the order in which libvirt gives them addresses.

use super::{
    Device, Kind, Place, Sink, is_transitional,
    lists::{BusDisk, Form, Parts, sata_controllers},
    machine_kind,
};
use crate::{
    api::{guest::GuestSpec, network::Interface},
    pci::{
        Attachment, DeviceKinds, HostKind, Note, Placement,
        machine::{Architecture, Machine},
        refusal::Refusal,
    },
};

/// Walks over all devices.
pub(in crate::pci) fn walk<'v>(
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

struct Walk<'v, 'k> {
    spec: &'v GuestSpec<'v>,
    parts: &'v Parts<'v>,
    architecture: Architecture,
    machine: Machine,
    is_transitional: bool,
    placement: &'k Placement<'k>,
    kinds: &'k dyn DeviceKinds,
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
