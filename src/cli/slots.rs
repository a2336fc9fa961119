//! `nicplug slots`: a guest's PCI bus as a picture, and how many hotplug ports are free.

mod board;
mod json;
mod svg;
mod text;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use self::board::Board;
use crate::{
    api::vm::{VirtualMachine, VirtualMachineInstance},
    cluster::manifests::{self, Manifest},
    kubevirt::{NEWEST_KNOWN, Version},
    pci::{self, Attachment, DeviceKinds, HostKind, Picture, Placement},
};

/// Show who takes which PCI port of a guest, and how many are free for hotplugged NICs.
///
/// The figures are those of the boot: a NIC, virtio disk or memory hotplugged later takes a port each.
#[derive(Args, Debug)]
pub(super) struct SlotsArgs {
    /// A VirtualMachine or VirtualMachineInstance in YAML or JSON; `-` for standard input. Of several the first counts.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// The KubeVirt version that starts the guest, such as v1.6.0. Without it: what --facts says, else the newest known.
    #[arg(long, value_name = "VERSION")]
    kubevirt_version: Option<Version>,

    /// A file with the cluster's KubeVirt resource: its version, binding plugins and permitted host devices.
    #[arg(long, value_name = "FILE", env = "NICPLUG_FACTS")]
    facts: Option<PathBuf>,

    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// For a program.
    Json,
    /// For a document.
    Svg,
}

impl SlotsArgs {
    /// Prints the picture. A guest that cannot boot is an answer too: the exit status stays 0.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let kinds = match &self.facts {
            Some(path) => read_cluster(path)?,
            None => ClusterKinds::default(),
        };
        let version = self.kubevirt_version.or(kinds.version).unwrap_or(NEWEST_KNOWN);
        let guest = read_guest(&self.file)?;
        let (picture, mut notes) = draw(&guest, &kinds, version)?;
        notes.extend(picture.notes.iter().map(ToString::to_string));
        if version.is_newer_than_known() {
            notes
                .push(format!("KubeVirt {version} is newer than nicplug knows ({NEWEST_KNOWN}): judged as the newest"));
        }
        let board = Board::new(&title(&guest), &picture, version, notes);
        let text = match self.output {
            Format::Text => text::render(&board),
            Format::Json => json::render(&picture, version, &board.notes)?,
            Format::Svg => svg::render(&board),
        };
        output.write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn title(guest: &Manifest) -> String {
    let name = |key| guest.object.pointer(key).and_then(Value::as_str).unwrap_or_default();
    match (name("/metadata/namespace"), name("/metadata/name")) {
        ("", name) => format!("{} {name}", guest.kind()),
        (namespace, name) => format!("{} {namespace}/{name}", guest.kind()),
    }
}

/// The first VM or VMI of a file.
fn read_guest(path: &Path) -> anyhow::Result<Manifest> {
    let manifests = manifests::read(&read(path)?).with_context(|| format!("{} cannot be read", path.display()))?;
    let is_guest = |manifest: &Manifest| {
        manifest.api_version().starts_with("kubevirt.io/")
            && matches!(manifest.kind(), "VirtualMachine" | "VirtualMachineInstance")
    };
    let Some(guest) = manifests.into_iter().find(is_guest) else {
        bail!("{} has no VirtualMachine or VirtualMachineInstance of kubevirt.io", path.display());
    };
    Ok(guest)
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).context("standard input cannot be read")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
}

fn draw(guest: &Manifest, kinds: &ClusterKinds, version: Version) -> anyhow::Result<(Picture, Vec<String>)> {
    let text = guest.object.to_string();
    let pointer = if guest.kind() == "VirtualMachine" { "/spec/template/metadata" } else { "/metadata" };
    let annotations = guest.object.pointer(pointer).and_then(|metadata| metadata.get("annotations"));
    let placement = Placement::of(|key| annotations?.get(key)?.as_str());
    if guest.kind() == "VirtualMachineInstance" {
        let vmi: VirtualMachineInstance = serde_json::from_str(&text).context("the VirtualMachineInstance")?;
        return Ok((pci::picture(&vmi.spec, &placement, kinds, version)?, Vec::new()));
    }
    let vm: VirtualMachine = serde_json::from_str(&text).context("the VirtualMachine")?;
    let mut notes = Vec::new();
    for (field, is_set) in
        [("instancetype", vm.spec.instancetype.is_some()), ("preference", vm.spec.preference.is_some())]
    {
        if is_set {
            notes.push(format!("spec.{field} is set: memory and devices may come from there, unseen"));
        }
    }
    Ok((pci::picture(&vm.spec.template.spec, &placement.for_template(), kinds, version)?, notes))
}

/// What a KubeVirt resource tells of names.
#[derive(Debug, Default)]
struct ClusterKinds {
    version: Option<Version>,
    bindings: BTreeMap<String, Attachment>,
    devices: BTreeMap<String, HostKind>,
}

impl DeviceKinds for ClusterKinds {
    fn binding(&self, name: &str) -> Attachment {
        self.bindings.get(name).copied().unwrap_or(Attachment::Unknown)
    }

    fn host_device(&self, device_name: &str) -> HostKind {
        self.devices.get(device_name).copied().unwrap_or(HostKind::Unknown)
    }
}

/// Reads the KubeVirt resource among the objects of a file.
fn read_cluster(path: &Path) -> anyhow::Result<ClusterKinds> {
    let manifests = manifests::read(&read(path)?).with_context(|| format!("facts: {}", path.display()))?;
    let is_kubevirt =
        |manifest: &&Manifest| manifest.kind() == "KubeVirt" && manifest.api_version().starts_with("kubevirt.io/");
    let Some(kubevirt) = manifests.iter().find(is_kubevirt) else { return Ok(ClusterKinds::default()) };
    let configuration = kubevirt.object.pointer("/spec/configuration");
    let permitted = configuration.and_then(|configuration| configuration.get("permittedHostDevices"));
    let mut devices = BTreeMap::new();
    for (list, kind) in
        [("pciHostDevices", HostKind::Pci), ("mediatedDevices", HostKind::Mediated), ("usb", HostKind::Usb)]
    {
        let entries = permitted.and_then(|permitted| permitted.get(list)?.as_array()).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.get("resourceName")?.as_str());
        devices.extend(names.map(|name| (name.to_owned(), kind)));
    }
    let plugins = configuration.and_then(|configuration| configuration.pointer("/network/binding")?.as_object());
    let attachment = |plugin: &Value| match plugin.get("domainAttachmentType").and_then(Value::as_str) {
        Some("tap" | "managedTap") => Attachment::Tap,
        _ => Attachment::Unseen,
    };
    let bindings = plugins.into_iter().flatten().map(|(name, plugin)| (name.clone(), attachment(plugin))).collect();
    let version = kubevirt.object.pointer("/status/observedKubeVirtVersion").and_then(Value::as_str);
    Ok(ClusterKinds { version: version.and_then(|version| version.parse().ok()), bindings, devices })
}
