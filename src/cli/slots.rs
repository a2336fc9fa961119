//! `nicplug slots`: draws a guest's PCI bus, and shows how many ports are free for hotplug.

mod cluster;
mod file;
mod json;
mod nics;
mod now;
mod svg;
mod text;
mod view;

use std::{io::Write, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::Value;

pub(super) use self::{cluster::bus_after_restart, view::BusView};
use self::{nics::NicDetails, now::Now};
use super::{facts::SettingsArgs, kubeconfig::ClusterArgs, plan::NicArgument, version::newer_note};
use crate::{
    api::{vm::VirtualMachine, vmi::VirtualMachineInstance},
    cluster::store::Store,
    facts::{Fact, FactSource, KubeVirt, boot},
    hotplug::{
        edit::EditRequest,
        plan::{Plan, PlanStep, plan},
    },
    kubevirt::Version,
    pci::BusLayout,
    settings::Settings,
};

/// When the bus of a VM in the cluster is the one that is shown.
const AFTER_RESTART: &str = "after the next restart";

/// When the bus of a VMI is the one that is shown: its NICs and disks of now are taken to be there at boot.
const AT_BOOT: &str = "as it would boot with these devices";

/// Show which device uses which PCI port of a guest, and how many ports are free for hotplugged NICs.
///
/// With the name of a VM the command reads the cluster. It shows what is free in the running guest now, by the record
/// that nicplug made at boot, and then the guest after its next restart. With a file it shows the guest at its boot; each
/// NIC, virtio disk and memory device that is hotplugged later uses a port. A VMI in the file or in --facts is shown as
/// it runs too.
///
/// The exit status is 1 if the guest cannot boot or a NIC of --what-if can never work, 2 if the VM cannot be read or it is
/// not known what becomes of such a NIC.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  nicplug slots vm-fedora
  nicplug slots vm-fedora --what-if vlan7=infra/vlan7
  nicplug slots -f vm.yaml -o svg > slots.svg
  nicplug slots -f vm.yaml --facts facts --what-if vlan7=infra/vlan7")]
pub(super) struct SlotsArgs {
    /// Name of a VirtualMachine in the cluster, such as NAME or vm/NAME; with --file, in the file.
    #[arg(value_name = "VM", required_unless_present = "file")]
    vm: Option<String>,

    /// A VirtualMachine or VirtualMachineInstance in YAML or JSON; `-` is standard input. Of several, VM names one.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Show the VM as if it had these NICs too; name and NetworkAttachmentDefinition of each. Nothing is changed.
    #[arg(long, value_name = "NIC=NAD", num_args = 1..)]
    what_if: Vec<NicArgument>,

    /// The KubeVirt version that starts the guest, such as v1.6.0 [default: that of --facts, else the newest known].
    #[arg(long, value_name = "VERSION")]
    kubevirt_version: Option<Version>,

    /// A file or a folder with the KubeVirt resource: its version, binding plugins and permitted host devices are used.
    /// The instancetype and the preference of a VM, its VMI, and the networks of --what-if are read from there too. Only
    /// with --file.
    #[arg(long, value_name = "FILE_OR_DIR", env = "NICPLUG_FACTS")]
    facts: Option<PathBuf>,

    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,

    #[command(flatten)]
    settings: SettingsArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text for a terminal.
    Text,
    /// JSON for programs.
    Json,
    /// A drawing for documents.
    Svg,
}

impl SlotsArgs {
    /// Prints the bus. The exit status is 1 for a guest that cannot boot, or if a NIC of --what-if cannot work.
    pub(super) fn run(self, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        match &self.file {
            Some(path) => file::run(&self, path, output),
            None => cluster::run(&self, output),
        }
    }
}

/// What is printed about a guest: the ports of now if it runs, and its bus at boot.
struct Printout<'p> {
    kind: &'p str,
    namespace: String,
    name: String,
    /// When the guest has this bus; empty for a manifest.
    when: &'static str,
    layout: BusLayout,
    version: Version,
    notes: Vec<String>,
    nics: NicDetails,
    now: Option<Now<'p>>,
}

impl<'p> Printout<'p> {
    /// Returns the bus of a VM or VMI, with notes on what is not known about it.
    fn of(
        kind: &'p str,
        object: &Value,
        store: &Store,
        version: Version,
        mut notes: Vec<String>,
    ) -> anyhow::Result<Self> {
        let (layout, more) = draw(kind, object, store, version)?;
        notes.extend(more);
        notes.extend(newer_note(version));
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self {
            kind,
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            when: "",
            layout,
            version,
            notes,
            nics: NicDetails::of(kind, object),
            now: None,
        })
    }

    /// Whether the guest cannot boot.
    fn fails(&self) -> bool {
        self.layout.budget.boot_error.is_some()
    }

    fn title(&self) -> String {
        match self.namespace.as_str() {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }

    fn render(mut self, format: Format, width: Option<usize>) -> anyhow::Result<String> {
        if let Format::Json = format {
            return json::render(&self);
        }
        if let Some(Now { report, .. }) = &self.now {
            self.nics.add_report(&report.nics);
        }
        let title = self.title();
        let mut view = BusView::new(&title, &self.layout, self.version, self.notes);
        self.nics.describe(&mut view);
        view.when = self.when;
        Ok(match (format, &self.now) {
            (Format::Svg, now) => {
                view.now = now.as_ref().map(Now::view);
                svg::render(&view)
            }
            (_, Some(now)) => format!("{}\n{}", now.text(width), text::render(&view, width)),
            (_, None) => text::render(&view, width),
        })
    }
}

/// Plans the NICs of `--what-if`.
fn plan_with(
    nics: &[NicArgument],
    vm: &Value,
    facts: &Arc<dyn FactSource>,
    settings: &Settings,
) -> anyhow::Result<Plan> {
    let steps = nics.iter().map(|NicArgument(nic)| PlanStep::Edit(EditRequest::Add(nic.clone())));
    Ok(plan(vm, &steps.collect::<Vec<_>>(), facts, settings)?)
}

/// Returns the bus of a VM or VMI, and what is not known about it.
fn draw(kind: &str, object: &Value, store: &Store, version: Version) -> anyhow::Result<(BusLayout, Vec<String>)> {
    let mut notes = Vec::new();
    let layout = layout_of(kind, object, store, version, &mut notes)?;
    notes.extend(layout.notes.iter().map(ToString::to_string));
    Ok((layout, notes))
}

fn layout_of(
    kind: &str,
    object: &Value,
    store: &Store,
    version: Version,
    notes: &mut Vec<String>,
) -> anyhow::Result<BusLayout> {
    let text = object.to_string();
    let kinds = store.kubevirt().known().map(Arc::clone).unwrap_or_default();
    let kinds: &KubeVirt = &kinds;
    if kind == "VirtualMachineInstance" {
        let vmi: VirtualMachineInstance = serde_json::from_str(&text).context("the VirtualMachineInstance")?;
        let options = boot::pci_options(vmi.metadata.annotations.as_deref());
        return Ok(BusLayout::of(&vmi.spec, &options, kinds, version)?);
    }
    let vm: VirtualMachine = serde_json::from_str(&text).context("the VirtualMachine")?;
    let (spec, annotations) = (&vm.spec.template.spec, vm.spec.template.metadata.annotations.as_deref());
    let expansion = store.expansion(&vm.metadata.namespace, &vm);
    if let Some(texts) = expansion.texts(spec) {
        let (guest, options) = (expansion.guest(spec, &texts), expansion.options(annotations));
        return Ok(BusLayout::of(&guest, &options, kinds, version)?);
    }
    let is_unknown = [matches!(expansion.instancetype, Fact::Unknown), matches!(expansion.preference, Fact::Unknown)];
    for (field, is_unknown) in ["instancetype", "preference"].into_iter().zip(is_unknown) {
        if is_unknown {
            notes.push(format!("what spec.{field} names is not known: it may change memory and devices"));
        }
    }
    let options = boot::pci_options(annotations).for_template();
    Ok(BusLayout::of(spec, &options, kinds, version)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::manifests::{self, Manifest},
        kubevirt::NEWEST_KNOWN,
    };

    const VM: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata:
  name: vm-a
  annotations: {kubevirt.io/pci-interface-slot-count: "20"}
spec:
  instancetype: {name: u1.small}
  template:
    metadata:
      annotations: {kubevirt.io/pci-interface-slot-count: "6"}
    spec:
      domain:
        memory: {guest: 1Gi}
        devices:
          disks: [{name: root, disk: {bus: virtio}}]
          gpus: [{name: gpu, deviceName: nvidia.com/vgpu}]
          interfaces: [{name: default, masquerade: {}}, {name: blue, binding: {name: side}}]
      volumes: [{name: root}, {name: seed}]
"#;

    const KUBEVIRT: &str = r"
apiVersion: kubevirt.io/v1
kind: KubeVirt
spec:
  configuration:
    network: {binding: {side: {sidecarImage: a}, plug: {domainAttachmentType: managedTap}}}
    permittedHostDevices:
      pciHostDevices: [{resourceName: a.com/pci}]
      mediatedDevices: [{resourceName: nvidia.com/vgpu}]
      usb: [{resourceName: a.com/usb}]
status: {observedKubeVirtVersion: v1.8.2}
";

    fn show(text: &str, store: &Store, version: Version, format: Format) -> String {
        let Manifest { object, .. } = manifests::read(text).unwrap().remove(0);
        let kind = object["kind"].as_str().unwrap();
        Printout::of(kind, &object, store, version, Vec::new()).unwrap().render(format, Some(80)).unwrap()
    }

    fn kubevirt() -> Store {
        store_of(KUBEVIRT)
    }

    fn store_of(facts: &str) -> Store {
        let mut store = Store::default();
        for manifest in manifests::read(facts).unwrap() {
            store.insert(&manifest.object).unwrap();
        }
        store
    }

    fn json(text: &str, store: &Store) -> Value {
        let output: Value = serde_json::from_str(&show(text, store, NEWEST_KNOWN, Format::Json)).unwrap();
        output["afterRestart"].clone()
    }

    #[test]
    fn a_vm_is_read_through_its_template() {
        let output = json(VM, &kubevirt());
        // The slot count is the template's 6, and there are two interfaces: the NIC without a tap uses no port, but
        // counts.
        assert_eq!(output["placeholders"], 4);
        assert_eq!(output["freePorts"], 5);
        assert_eq!(output["kubevirtVersion"], "v1.9.0");
        assert_eq!(output["refused"], Value::Null);
        assert_eq!(output["notes"].as_array().map(Vec::len), Some(1), "{}", output["notes"]);
        let devices = output["devices"].as_array().unwrap();
        let on = |name: &str| devices.iter().find(|device| device["name"] == name).map(|device| device["on"].clone());
        assert_eq!(on("default"), Some("root port".into()));
        assert_eq!(on("blue"), Some("none".into()));
        assert_eq!(on("gpu"), Some("root port".into()));
    }

    #[test]
    fn the_notes_name_what_is_unknown() {
        let output = json(VM, &Store::default());
        let notes = output["notes"].as_array().unwrap();
        for word in ["instancetype", "\"side\"", "nvidia.com/vgpu"] {
            assert!(
                notes.iter().any(|note| note.as_str().is_some_and(|note| note.contains(word))),
                "{word}: {notes:?}"
            );
        }
        let newer = show(VM, &Store::default(), Version::new(1, 12, 0), Format::Text);
        assert_eq!(newer.matches("newer than nicplug knows").count(), 1);
    }

    #[test]
    fn a_vm_is_expanded_with_the_instancetype_and_the_preference_of_the_facts() {
        let vm = r"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm-a, namespace: demo}
spec:
  instancetype: {name: u1.medium}
  preference: {kind: VirtualMachinePreference, name: old}
  template:
    spec:
      domain:
        devices:
          disks: [{name: root}]
          interfaces: [{name: default, masquerade: {}}]
      networks: [{name: default, pod: {}}]
      volumes: [{name: root}, {name: seed}]
";
        let facts = format!(
            "{KUBEVIRT}{}",
            r"
---
apiVersion: instancetype.kubevirt.io/v1beta1
kind: VirtualMachineClusterInstancetype
metadata: {name: u1.medium}
spec: {cpu: {guest: 1}, memory: {guest: 4Gi}, gpus: [{name: gpu, deviceName: a.com/pci}]}
---
apiVersion: instancetype.kubevirt.io/v1beta1
kind: VirtualMachinePreference
metadata: {name: old, namespace: demo}
spec: {devices: {preferredDiskBus: virtio, preferredInterfaceModel: e1000}}
"
        );
        let output = json(vm, &store_of(&facts));
        assert_eq!(output["notes"], serde_json::json!([]));
        let devices = output["devices"].as_array().unwrap();
        let on = |name: &str| devices.iter().find(|device| device["name"] == name).map(|device| device["on"].clone());
        for (name, place) in [("gpu", "root port"), ("root", "root port"), ("seed", "root port"), ("default", "bridge")]
        {
            assert_eq!(on(name), Some(place.into()), "{name}");
        }
        let text = show(vm, &store_of(&facts), NEWEST_KNOWN, Format::Text);
        assert!(text.contains("more than 2Gi"), "{text}");
        let notes = json(vm, &Store::default())["notes"].as_array().map(Vec::len);
        assert_eq!(notes, Some(2));
    }

    #[test]
    fn the_text_fits_eighty_columns_and_shows_each_port_on_one_line() {
        let text = show(VM, &kubevirt(), NEWEST_KNOWN, Format::Text);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("   1 ■ default              interface     model virtio\n"), "{text}");
        assert!(
            text.contains("   2 □ free                               reserved by a placeholder of KubeVirt\n"),
            "{text}"
        );
        assert!(text.contains("5 of 11 root ports free for hotplug\n"), "{text}");
    }

    #[test]
    fn a_template_gets_the_tablet_that_the_vm_controller_adds() {
        let vm = "apiVersion: kubevirt.io/v1\nkind: VirtualMachine\n\
                  spec: {template: {spec: {domain: {devices: {autoattachInputDevice: true}}}}}";
        let vmi = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\n\
                   spec: {domain: {devices: {autoattachInputDevice: true}}}";
        let usb = |text| {
            let output = json(text, &Store::default());
            let devices = output["devices"].as_array().unwrap().clone();
            devices.into_iter().find(|device| device["kind"] == "usb").map(|device| device["on"].clone())
        };
        assert_eq!(usb(vm), Some("root port".into()));
        assert_eq!(usb(vmi), Some("none".into()));
    }

    #[test]
    fn a_guest_that_cannot_boot_has_a_reason_and_no_ports() {
        let vmi = r#"{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"annotations": {"kubevirt.io/pci-interface-slot-count": "5.0"}}, "spec": {}}"#;
        let output = json(vmi, &Store::default());
        assert!(output["refused"].as_str().unwrap().contains("\"5.0\""));
        for field in ["placeholders", "extraControllers", "freePorts"] {
            assert_eq!(output[field], Value::Null, "{field}");
        }
        assert_eq!(output["portsInUse"], 5);
    }
}
