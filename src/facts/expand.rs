//! The guest that KubeVirt creates from the template of a VM with an instancetype or a preference.
//!
//! An instancetype sets CPU, memory and devices of the host; KubeVirt refuses a template that sets them too. A preference
//! sets what the template leaves out. The order is that of KubeVirt: it applies the preferred `autoattach…` fields, adds
//! the input device and the default NIC, and then applies the instancetype and the preference to all devices. Only the
//! fields that rules read are set.
//!
//! Sources: KubeVirt v1.9.0 `pkg/instancetype/apply`, `pkg/instancetype/preference/apply`, and `createVMI` in
//! `pkg/virt-controller/watch/vm/vm.go`.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{
    Fact,
    instancetype::{Instancetype, Preference},
};
use crate::{
    api::{
        Lazy, Present, Sparse, Text,
        guest::{Devices as GuestDevices, GuestSpec, Quantity},
        instancetype::PciAnnotations,
        metadata::Annotations,
        network::{Interface, Network},
    },
    change::ObjectView,
    facts::boot,
    pci::{self, PciOptions},
};

/// The name of the NIC that KubeVirt gives to a guest without any.
const DEFAULT_NIC: &str = "default";

/// The name of the input device that KubeVirt adds for `autoattachInputDevice`.
const DEFAULT_INPUT: &str = "default-0";

/// The longest text of a field that a preference edits, in bytes: some five hundred for each of 256 disks. As values it
/// takes many times the memory, and several rules expand a guest.
const EDITED_AT_MOST: usize = 128 << 10;

/// What KubeVirt expands the template of a VM with. A part is absent if the VM does not name it, and unknown if it
/// cannot be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expansion {
    /// The instancetype.
    pub instancetype: Fact<Arc<Instancetype>>,
    /// The preference.
    pub preference: Fact<Arc<Preference>>,
}

/// The expansions of the two states of a VM. They are equal unless the change names other objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expansions {
    /// That of the stored state; without parts if the request creates the VM.
    pub before: Expansion,
    /// That of the new state.
    pub after: Expansion,
}

/// Passes the guest that KubeVirt creates for an object, and its PCI options, to a function. Returns `None` if KubeVirt
/// expands the guest with something that is unknown.
pub fn with_guest<T>(
    view: &ObjectView,
    expansion: Option<&Expansion>,
    read: impl FnOnce(&GuestSpec, &PciOptions) -> T,
) -> Option<T> {
    let annotations = view.guest_metadata.annotations.as_deref();
    let options = boot::pci_options(annotations);
    if !view.needs_expansion() {
        let options = if view.vmi.is_some() { options } else { options.for_template() };
        return Some(read(view.guest, &options));
    }
    let expansion = expansion?;
    let texts = expansion.texts(view.guest)?;
    Some(read(&expansion.guest(view.guest, &texts), &expansion.options(annotations)))
}

/// The JSON texts of the fields that an expansion changes; the expanded guest borrows them.
#[derive(Debug, Default)]
pub struct Texts {
    cpu: Option<String>,
    disks: Option<String>,
    inputs: Option<String>,
    sound: Option<String>,
    video: Option<String>,
}

impl Expansion {
    /// Returns the texts for [`Self::guest`]; `None` if a part of the expansion is unknown, or if a text is longer than
    /// any real one.
    #[must_use]
    pub fn texts(&self, guest: &GuestSpec) -> Option<Texts> {
        if matches!(self.instancetype, Fact::Unknown) || matches!(self.preference, Fact::Unknown) {
            return None;
        }
        let devices = &guest.domain.devices;
        let preference = self.preference.known();
        let topology = preference.map(|preference| preference.topology).unwrap_or_default();
        let cpu = self.instancetype.known().map(|instancetype| {
            let sockets = topology.vcpus(instancetype.vcpus);
            let dedicated = instancetype.has_dedicated_cpus;
            json!({"cores": 1, "sockets": sockets, "threads": 1, "dedicatedCpuPlacement": dedicated}).to_string()
        });
        let Some(preference) = preference else { return Some(Texts { cpu, ..Texts::default() }) };
        let edited = [devices.disks.text(), devices.inputs.text(), devices.sound.text(), devices.video.text()];
        if edited.into_iter().flatten().any(|text| text.len() > EDITED_AT_MOST) {
            return None;
        }
        Some(Texts {
            cpu,
            disks: preference.disks(guest),
            inputs: preference.inputs(devices),
            sound: preference.sound(devices),
            video: preference.video(devices),
        })
    }

    /// Returns the guest that KubeVirt creates from a template.
    #[must_use]
    pub fn guest<'t>(&'t self, template: &GuestSpec<'t>, texts: &'t Texts) -> GuestSpec<'t> {
        let mut guest = template.clone();
        if let Some(preference) = self.preference.known() {
            preference.apply_autoattach(guest.domain.value_mut().devices.value_mut());
            preference.add_default_nic(&mut guest);
        }
        let domain = guest.domain.value_mut();
        replace(&mut domain.cpu, texts.cpu.as_deref());
        if let Some(instancetype) = self.instancetype.known() {
            let devices = domain.devices.value_mut();
            replace(&mut devices.gpus, instancetype.gpus.as_deref());
            replace(&mut devices.host_devices, instancetype.host_devices.as_deref());
            if !instancetype.memory.is_empty() {
                domain.memory.guest = Some(Quantity::from(&*instancetype.memory));
            }
        }
        let devices = domain.devices.value_mut();
        replace(&mut devices.disks, texts.disks.as_deref());
        replace(&mut devices.inputs, texts.inputs.as_deref());
        replace(&mut devices.sound, texts.sound.as_deref());
        replace(&mut devices.video, texts.video.as_deref());
        if let Some(preference) = self.preference.known() {
            preference.apply(&mut guest);
        }
        guest
    }

    /// Returns the PCI options of the guest: its annotations come from the template, else from the instancetype, else
    /// from the preference.
    #[must_use]
    pub fn options<'t>(&'t self, template: Option<&'t Annotations<'_>>) -> PciOptions<'t> {
        let of_instancetype = self.instancetype.known().map(|instancetype| &instancetype.annotations);
        let of_preference = self.preference.known().map(|preference| &preference.annotations);
        let or_added = |of_template: Option<&'t str>, of_added: fn(&'t PciAnnotations) -> Option<&'t str>| {
            of_template.or_else(|| of_instancetype.into_iter().chain(of_preference).find_map(of_added))
        };
        let slot_count = template.and_then(|annotations| annotations.slot_count.as_deref());
        let root_complex = template.and_then(|annotations| annotations.root_complex.as_deref());
        let sidecars = template.and_then(|annotations| annotations.hook_sidecars.as_deref());
        PciOptions {
            slot_count: or_added(slot_count, |annotations| annotations.slot_count.as_deref()),
            root_complex: or_added(root_complex, |annotations| annotations.root_complex.as_deref()) == Some("true"),
            has_sidecars: pci::names_sidecars(or_added(sidecars, |annotations| annotations.hook_sidecars.as_deref())),
            is_template: true,
        }
    }
}

impl Preference {
    fn apply_autoattach(&self, devices: &mut GuestDevices) {
        let preferred = &self.devices;
        for (preferred, field) in [
            (preferred.autoattach_graphics_device, &mut devices.autoattach_graphics_device),
            (preferred.autoattach_mem_balloon, &mut devices.autoattach_mem_balloon),
            (preferred.autoattach_pod_interface, &mut devices.autoattach_pod_interface),
            (preferred.autoattach_serial_console, &mut devices.autoattach_serial_console),
            (preferred.autoattach_input_device, &mut devices.autoattach_input_device),
        ] {
            *field = field.or(preferred);
        }
    }

    /// Adds the NIC that KubeVirt gives to a guest without any, if the preference sets its model.
    fn add_default_nic(&self, guest: &mut GuestSpec) {
        if self.devices.interface_model.is_empty() || !guest.gets_default_nic() {
            return;
        }
        let mut interface = Interface { name: DEFAULT_NIC.into(), ..Interface::default() };
        interface.bindings.bridge = Some(Present);
        guest.domain.value_mut().devices.value_mut().interfaces.push(interface);
        let pod = Some(Sparse::default());
        guest.networks.push(Network { name: DEFAULT_NIC.into(), pod, ..Network::default() });
    }

    fn apply<'t>(&'t self, guest: &mut GuestSpec<'t>) {
        if guest.architecture.as_deref().is_none_or(str::is_empty) && !self.architecture.is_empty() {
            guest.architecture = Some(Text::from(&*self.architecture));
        }
        let networks = &guest.networks;
        let domain = guest.domain.value_mut();
        if domain.machine.kind.is_empty() {
            domain.machine.kind = Text::from(&*self.machine);
        }
        let (devices, preferred) = (domain.devices.value_mut(), &self.devices);
        devices.use_virtio_transitional = devices.use_virtio_transitional.or(preferred.use_virtio_transitional);
        let multiqueue = devices.network_interface_multiqueue.or(preferred.network_interface_multiqueue);
        devices.network_interface_multiqueue = multiqueue;
        // KubeVirt cannot distinguish false from unset here, so the preference wins.
        devices.disable_hotplug = preferred.disable_hotplug.or(devices.disable_hotplug);
        devices.rng = devices.rng.or(preferred.rng);
        for interface in &mut devices.interfaces {
            let network = networks.iter().find(|network| network.name == interface.name);
            self.apply_to_interface(interface, network);
        }
    }

    /// Sets what the preference prefers and an interface leaves out.
    fn apply_to_interface<'t>(&'t self, interface: &mut Interface<'t>, network: Option<&Network>) {
        let has_model = interface.model.as_deref().is_some_and(|model| !model.is_empty());
        if !has_model && !self.devices.interface_model.is_empty() {
            interface.model = Some(Text::from(&*self.devices.interface_model));
        }
        if self.binds(interface, network) {
            interface.bindings.masquerade = Some(Present);
        }
    }

    /// Whether the preference sets the binding of an interface: masquerade, on the pod network.
    #[must_use]
    pub fn binds(&self, interface: &Interface, network: Option<&Network>) -> bool {
        let is_on_pod_network = network.is_some_and(|network| network.pod.is_some());
        self.devices.interface_masquerade.is_some() && is_on_pod_network && interface.bindings.is_empty()
    }

    /// Returns the disks with the preferred buses, including those that KubeVirt adds for volumes without a disk.
    fn disks(&self, guest: &GuestSpec) -> Option<String> {
        let buses =
            [("disk", &self.devices.disk_bus), ("cdrom", &self.devices.cdrom_bus), ("lun", &self.devices.lun_bus)];
        if buses.iter().all(|(_, bus)| bus.is_empty()) {
            return None;
        }
        let devices = &guest.domain.devices;
        let (volumes, filesystems) = (guest.volumes.read().ok()?, devices.filesystems.read().ok()?);
        edit_list(&devices.disks, |disks| {
            let listed: BTreeSet<&str> = disks.iter().filter_map(|disk| disk.get("name")?.as_str()).collect();
            let has_disk = |name: &str| {
                listed.contains(name) || filesystems.iter().any(|filesystem| filesystem.name.as_str() == name)
            };
            let implied = volumes.iter().filter(|volume| !has_disk(&volume.name));
            let implied: Vec<Value> = implied.map(|volume| json!({"name": volume.name.as_str()})).collect();
            disks.extend(implied);
            for disk in disks.iter_mut().filter_map(Value::as_object_mut) {
                let form = buses.iter().find(|(form, _)| disk.get(*form).is_some_and(|target| !target.is_null()));
                let (form, bus) = form.unwrap_or(&buses[0]);
                let target = disk.entry(*form).or_insert_with(|| json!({}));
                if target.is_null() {
                    *target = json!({});
                }
                set_if_empty(target, "bus", bus);
            }
        })
    }

    fn inputs(&self, devices: &GuestDevices) -> Option<String> {
        let preferred = &self.devices;
        if preferred.input_bus.is_empty() && preferred.input_type.is_empty() {
            return None;
        }
        let is_attached = devices.autoattach_input_device.or(preferred.autoattach_input_device) == Some(true);
        edit_list(&devices.inputs, |inputs| {
            let is_added = inputs.is_empty() && is_attached;
            if is_added {
                inputs.push(json!({"name": DEFAULT_INPUT}));
            }
            for input in inputs {
                set_if_empty(input, "bus", &preferred.input_bus);
                set_if_empty(input, "type", &preferred.input_type);
                if is_added {
                    set_if_empty(input, "type", "tablet");
                }
            }
        })
    }

    fn sound(&self, devices: &GuestDevices) -> Option<String> {
        let mut sound: Value = serde_json::from_str(devices.sound.text()?).ok()?;
        (sound.is_object() && set_if_empty(&mut sound, "model", &self.devices.sound_model)).then(|| sound.to_string())
    }

    fn video(&self, devices: &GuestDevices) -> Option<String> {
        let mut video = match devices.video.text() {
            Some(text) => serde_json::from_str(text).ok()?,
            None => Value::Null,
        };
        if video.is_null() {
            video = json!({});
        }
        set_if_empty(&mut video, "type", &self.devices.video_type).then(|| video.to_string())
    }
}

/// Replaces a field, if there is a text for it.
fn replace<'t, T>(field: &mut Lazy<'t, T>, text: Option<&'t str>) {
    if let Some(text) = text {
        *field = Lazy::of(text);
    }
}

/// Changes a list of objects and returns its new text; `None` if it is not a list.
fn edit_list<T>(field: &Lazy<'_, T>, edit: impl FnOnce(&mut Vec<Value>)) -> Option<String> {
    let list: Option<Vec<Value>> = field.text().map_or(Ok(None), serde_json::from_str).ok()?;
    let mut list = list.unwrap_or_default();
    edit(&mut list);
    Some(Value::Array(list).to_string())
}

/// Sets a text field of an object that is missing, null or empty. Returns whether it was set.
fn set_if_empty(object: &mut Value, key: &str, text: &str) -> bool {
    let Some(fields) = object.as_object_mut() else { return false };
    let is_empty = fields.get(key).is_none_or(|value| value.is_null() || value.as_str() == Some(""));
    if !is_empty || text.is_empty() {
        return false;
    }
    fields.insert(key.to_owned(), text.into());
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::instancetype as api,
        facts::vmi::queues_per_nic,
        pci::{NoRegistry, count_devices},
    };

    fn expansion(instancetype: &str, preference: &str) -> Expansion {
        let fact = |text: &str| if text.is_empty() { Fact::Absent } else { Fact::Known(text.to_owned()) };
        let read_type = |text: String| Instancetype::from(&serde_json::from_str::<api::Instancetype>(&text).unwrap());
        let read_preference = |text: String| Preference::from(&serde_json::from_str::<api::Preference>(&text).unwrap());
        let spec = |text: String| format!(r#"{{"spec": {text}}}"#);
        Expansion {
            instancetype: fact(instancetype).map(|text| Arc::new(read_type(spec(text)))),
            preference: fact(preference).map(|text| Arc::new(read_preference(spec(text)))),
        }
    }

    /// What the rules read of a guest: its devices, the queues of a NIC, and model and bindings of each NIC.
    fn summary(guest: &GuestSpec, options: &PciOptions) -> String {
        let devices = count_devices(guest, options, &NoRegistry).unwrap();
        let nics: Vec<_> = guest.interfaces().iter().map(|nic| (&nic.name, &nic.model, &nic.bindings)).collect();
        format!("{devices:?} {:?} {nics:?}", queues_per_nic(guest))
    }

    /// Asserts that a template expands to the same guest as another one that writes everything out.
    fn assert_expanded(template: &str, instancetype: &str, preference: &str, written_out: &str) {
        let expansion = expansion(instancetype, preference);
        let template: GuestSpec = serde_json::from_str(template).unwrap();
        let texts = expansion.texts(&template).unwrap();
        let written: GuestSpec = serde_json::from_str(written_out).unwrap();
        let options = PciOptions::default().for_template();
        let expanded = summary(&expansion.guest(&template, &texts), &options);
        assert_eq!(expanded, summary(&written, &options), "{instancetype} {preference} {written_out}");
    }

    /// Returns a guest with this domain, a pod network, a further network and two volumes.
    fn guest(domain: &str) -> String {
        format!(
            r#"{{"domain": {{{domain}}}, "networks": [{{"name": "a", "pod": {{}}}},
                {{"name": "b", "multus": {{"networkName": "n"}}}}], "volumes": [{{"name": "v"}}, {{"name": "w"}}]}}"#
        )
    }

    fn devices(text: &str) -> String {
        guest(&format!(r#""devices": {{{text}}}"#))
    }

    const NICS: &str =
        r#""interfaces": [{"name": "a", "masquerade": {}}, {"name": "b", "bridge": {}, "model": "virtio"}]"#;

    #[test]
    fn an_instancetype_sets_cpu_memory_and_devices() {
        for (template, instancetype, preference, written_out) in [
            (
                guest(r#""devices": {"networkInterfaceMultiqueue": true}"#),
                r#"{"cpu": {"guest": 6}, "memory": {"guest": "8Gi"}}"#,
                String::new(),
                guest(
                    r#""cpu": {"sockets": 6}, "memory": {"guest": "8Gi"}, "devices": {"networkInterfaceMultiqueue": true}"#,
                ),
            ),
            (
                devices(""),
                r#"{"cpu": {"guest": 1}, "memory": {"guest": "1Gi"}, "gpus": [{"name": "g", "deviceName": "e.com/g"}],
                    "hostDevices": [{"name": "h", "deviceName": "e.com/h"}]}"#,
                String::new(),
                guest(
                    r#""memory": {"guest": "1Gi"}, "devices": {"gpus": [{"name": "g", "deviceName": "e.com/g"}],
                        "hostDevices": [{"name": "h", "deviceName": "e.com/h"}]}"#,
                ),
            ),
            (
                guest(r#""devices": {"networkInterfaceMultiqueue": true}"#),
                r#"{"cpu": {"guest": 7}, "memory": {"guest": "1Gi"}}"#,
                r#"{"cpu": {"preferredCPUTopology": "preferSpread"}}"#.to_owned(),
                guest(
                    r#""cpu": {"cores": 2, "sockets": 3}, "memory": {"guest": "1Gi"},
                        "devices": {"networkInterfaceMultiqueue": true}"#,
                ),
            ),
        ] {
            assert_expanded(&template, instancetype, &preference, &written_out);
        }
    }

    #[test]
    fn a_preference_sets_what_the_template_leaves_out() {
        let prefers = |text: &str| format!(r#"{{"devices": {{{text}}}}}"#);
        for (template, instancetype, preference, written_out) in [
            (
                devices(NICS),
                "",
                prefers(r#""preferredInterfaceModel": "e1000""#),
                devices(
                    r#""interfaces": [{"name": "a", "masquerade": {}, "model": "e1000"},
                        {"name": "b", "bridge": {}, "model": "virtio"}]"#,
                ),
            ),
            (
                devices(r#""interfaces": [{"name": "a"}, {"name": "b"}]"#),
                "",
                prefers(r#""preferredInterfaceMasquerade": {}"#),
                devices(r#""interfaces": [{"name": "a", "masquerade": {}}, {"name": "b"}]"#),
            ),
            (
                devices(
                    r#""disks": [{"name": "x", "disk": {}}, {"name": "y", "disk": {"bus": "sata"}}, {"name": "v"},
                        {"name": "c", "cdrom": {}}, {"name": "l", "lun": {"bus": ""}}]"#,
                ),
                "",
                prefers(r#""preferredDiskBus": "virtio", "preferredCdromBus": "sata", "preferredLunBus": "scsi""#),
                devices(
                    r#""disks": [{"name": "x", "disk": {"bus": "virtio"}}, {"name": "y", "disk": {"bus": "sata"}},
                        {"name": "v", "disk": {"bus": "virtio"}}, {"name": "c", "cdrom": {"bus": "sata"}},
                        {"name": "l", "lun": {"bus": "scsi"}}, {"name": "w", "disk": {"bus": "virtio"}}]"#,
                ),
            ),
            (
                devices(r#""autoattachMemBalloon": true"#),
                "",
                prefers(
                    r#""preferredAutoattachGraphicsDevice": false, "preferredAutoattachMemBalloon": false,
                        "preferredAutoattachSerialConsole": false, "preferredAutoattachInputDevice": true,
                        "preferredRng": {}, "preferredUseVirtioTransitional": true, "preferredDisableHotplug": true,
                        "preferredNetworkInterfaceMultiQueue": true"#,
                ),
                devices(
                    r#""autoattachGraphicsDevice": false, "autoattachMemBalloon": true,
                        "autoattachSerialConsole": false, "autoattachInputDevice": true, "rng": {},
                        "useVirtioTransitional": true, "disableHotplug": true, "networkInterfaceMultiqueue": true"#,
                ),
            ),
            (
                devices(r#""autoattachInputDevice": true, "sound": {"name": "s"}"#),
                "",
                prefers(
                    r#""preferredInputBus": "virtio", "preferredSoundModel": "ac97", "preferredVideoType": "ramfb""#,
                ),
                devices(
                    r#""inputs": [{"name": "default-0", "bus": "virtio", "type": "tablet"}],
                        "sound": {"name": "s", "model": "ac97"}, "video": {"type": "ramfb"}"#,
                ),
            ),
            (
                devices(r#""inputs": [{"name": "i", "bus": "usb", "type": "tablet"}]"#),
                "",
                prefers(r#""preferredInputBus": "virtio", "preferredSoundModel": "ac97""#),
                devices(r#""inputs": [{"name": "i", "bus": "usb", "type": "tablet"}]"#),
            ),
            (
                devices(NICS),
                "",
                r#"{"preferredArchitecture": "arm64", "machine": {"preferredMachineType": "virt"}}"#.to_owned(),
                devices(NICS).replacen('{', r#"{"architecture": "arm64", "#, 1).replacen(
                    r#""domain": {"#,
                    r#""domain": {"machine": {"type": "virt"}, "#,
                    1,
                ),
            ),
        ] {
            assert_expanded(&template, instancetype, &preference, &written_out);
        }
    }

    /// KubeVirt adds the default NIC before it applies the preferred model.
    #[test]
    fn the_default_nic_gets_the_preferred_model() {
        let prefers = |text: &str| format!(r#"{{"devices": {{{text}}}}}"#);
        for (template, instancetype, preference, written_out) in [
            (
                r#"{"domain": {}}"#.to_owned(),
                "",
                prefers(r#""preferredInterfaceModel": "rtl8139""#),
                r#"{"domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}, "model": "rtl8139"}]}},
                    "networks": [{"name": "default", "pod": {}}]}"#
                    .to_owned(),
            ),
            (
                r#"{"domain": {}}"#.to_owned(),
                "",
                prefers(r#""preferredInterfaceModel": "rtl8139", "preferredAutoattachPodInterface": false"#),
                r#"{"domain": {"devices": {"autoattachPodInterface": false}}}"#.to_owned(),
            ),
        ] {
            assert_expanded(&template, instancetype, &preference, &written_out);
        }
    }

    #[test]
    fn an_annotation_comes_from_the_template_first_and_from_the_preference_last() {
        let annotations = |count: &str, root: &str| {
            format!(
                r#"{{"annotations": {{"kubevirt.io/pci-interface-slot-count": "{count}",
                    "kubevirt.io/placePCIDevicesOnRootComplex": "{root}"}}}}"#
            )
        };
        let both = expansion(&annotations("5", "true"), &annotations("6", "false"));
        let template: Annotations = serde_json::from_str(r#"{"kubevirt.io/pci-interface-slot-count": "4"}"#).unwrap();
        let options = |expansion: &Expansion, template: Option<&Annotations>| {
            let options = expansion.options(template);
            (options.slot_count.map(str::to_owned), options.root_complex)
        };
        assert_eq!(options(&both, Some(&template)), (Some("4".to_owned()), true));
        assert_eq!(options(&both, None), (Some("5".to_owned()), true));
        assert_eq!(options(&expansion("", &annotations("6", "false")), None), (Some("6".to_owned()), false));
        assert_eq!(options(&expansion("", "{}"), None), (None, false));
    }

    #[test]
    fn nothing_is_expanded_while_a_part_is_unknown() {
        let guest = GuestSpec::default();
        for (instancetype, preference, is_known) in [
            (Fact::Absent, Fact::Absent, true),
            (Fact::Known(Arc::default()), Fact::Known(Arc::default()), true),
            (Fact::Unknown, Fact::Absent, false),
            (Fact::Known(Arc::default()), Fact::Unknown, false),
        ] {
            let expansion = Expansion { instancetype, preference };
            assert_eq!(expansion.texts(&guest).is_some(), is_known, "{expansion:?}");
        }
    }
}
