//! The lists of devices in a spec, and its disks after KubeVirt's defaulting.

use std::{cell::LazyCell, collections::BTreeSet};

use serde::Deserialize;

use crate::{
    api::{
        Lazy, List,
        guest::{Disk, Filesystem, GuestSpec, HostDevice, Input, Resources, Sound, Video, Volume, Watchdog},
    },
    pci::{UnreadableField, machine_type::Architecture},
};

/// The number of disks on one SATA controller.
const SATA_PORTS: u64 = 6;

/// The fields of a spec that only the PCI model reads.
#[derive(Debug)]
pub(in crate::pci) struct DeviceLists<'a> {
    pub(super) disks: List<Disk<'a>>,
    pub(super) filesystems: List<Filesystem<'a>>,
    pub(super) gpus: List<HostDevice<'a>>,
    pub(super) host_devices: List<HostDevice<'a>>,
    pub(super) inputs: List<Input<'a>>,
    pub(in crate::pci) resources: Resources<'a>,
    pub(super) sound: Option<Sound<'a>>,
    pub(super) video: Option<Video<'a>>,
    volumes: List<Volume<'a>>,
    pub(super) watchdog: Option<Watchdog<'a>>,
}

impl<'a> DeviceLists<'a> {
    /// Reads the fields of a spec.
    pub(in crate::pci) fn read(spec: &GuestSpec<'a>) -> Result<Self, UnreadableField> {
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

impl DeviceLists<'_> {
    /// Returns the disks after KubeVirt's defaulting, including those of volumes without a disk entry.
    pub(in crate::pci) fn defaulted_disks(&self, architecture: Architecture) -> Vec<DefaultedDisk<'_>> {
        let default_bus = architecture.default_disk_bus();
        let listed = self.disks.iter().map(|disk| DefaultedDisk::of(disk, default_bus));
        let names = LazyCell::new(|| -> BTreeSet<&str> {
            let disks = self.disks.iter().map(|disk| disk.name.as_str());
            disks.chain(self.filesystems.iter().map(|filesystem| filesystem.name.as_str())).collect()
        });
        // Most manifests list disks and volumes in the same order, and then the set is not needed.
        let is_at = |index: usize, name: &str| self.disks.get(index).is_some_and(|disk| disk.name.as_str() == name);
        let implied = self.volumes.iter().enumerate();
        let implied = implied.filter(|(index, volume)| {
            let name = volume.name.as_str();
            !is_at(*index, name) && !names.contains(name)
        });
        let implied = implied.map(|(_, volume)| DefaultedDisk {
            name: &volume.name,
            form: DiskForm::Disk,
            bus: default_bus,
            address: None,
        });
        let mut disks = Vec::with_capacity(self.disks.len());
        disks.extend(listed.chain(implied));
        disks
    }
}

fn part<'a, T: Deserialize<'a> + Default>(field: &'static str, lazy: &Lazy<'a, T>) -> Result<T, UnreadableField> {
    lazy.read().map_err(|source| UnreadableField { field, source })
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DiskForm {
    Cdrom,
    Disk,
    Lun,
}

/// A disk after KubeVirt's defaulting.
#[derive(Clone, Copy, Debug)]
pub(in crate::pci) struct DefaultedDisk<'v> {
    pub(in crate::pci) name: &'v str,
    pub(super) form: DiskForm,
    pub(in crate::pci) bus: &'v str,
    pub(super) address: Option<&'v str>,
}

impl<'v> DefaultedDisk<'v> {
    fn of(disk: &'v Disk<'_>, default_bus: &'v str) -> Self {
        let (form, target) = match (&disk.disk, &disk.lun, &disk.cdrom) {
            (Some(target), ..) => (DiskForm::Disk, Some(target)),
            (None, Some(target), _) => (DiskForm::Lun, Some(target)),
            (None, None, Some(target)) => (DiskForm::Cdrom, Some(target)),
            (None, None, None) => (DiskForm::Disk, None),
        };
        let bus = target.map(|target| target.bus.as_str()).filter(|bus| !bus.is_empty()).unwrap_or(default_bus);
        let address = target.and_then(|target| target.pci_address.as_deref()).filter(|text| !text.is_empty());
        Self { name: &disk.name, form, bus, address }
    }
}

/// Returns the number of SATA controllers that libvirt creates. KubeVirt numbers the disks of sata, scsi and usb
/// together (sda, sdb, …), and libvirt derives the controller from that number. So a sata disk after many others needs
/// further controllers.
pub(in crate::pci) fn sata_controllers(disks: &[DefaultedDisk<'_>]) -> u64 {
    let numbered = (0u64..).zip(disks.iter().filter(|disk| disk.bus != "virtio"));
    numbered.filter(|(_, disk)| disk.bus == "sata").map(|(index, _)| index / SATA_PORTS + 1).max().unwrap_or(0)
}
