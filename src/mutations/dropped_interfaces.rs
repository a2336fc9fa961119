//! Unplugs a NIC that an update drops from the template of a running VM, if the annotation `nicplug.io/unplug` or the
//! settings ask for it: the mutation writes the NIC back with `state: absent`, and KubeVirt removes the entry when the
//! NIC is unplugged.
//!
//! A client that applies a manifest without the NIC drops the entry with each apply. So the mutation writes it until the
//! guest has lost the NIC; a shorter time would leave a NIC that is being unplugged without an entry, for which KubeVirt
//! asks for a restart. The entry stands at the end of both lists, so a repeated apply changes nothing.

use std::sync::Arc;

use json_patch::PatchOperation;
use serde_json::{Map, Value, json};

use super::{
    MutationInput,
    interface_requests::{append, interface, network},
};
use crate::{
    annotations::{
        interfaces::{self, InterfaceChanges},
        unplug,
    },
    api::{
        Text,
        json_patch::{add_op, pointer},
        network::{DhcpOptions, Interface, Port, PortRange},
        review::ObjectKind,
    },
    change::{Indexed, Nic},
    facts::{
        Fact, KubeVirt, Vmi,
        nic::{HotplugMethod, NetworkRole},
        vmi::StatusNic,
    },
    kubevirt::{Version, gates::Gate},
    settings::UnplugPolicy,
};

/// The first version with hot-unplug.
const UNPLUGS_SINCE: Version = Version::new(1, 0, 0);

pub(super) fn operations(input: &MutationInput) -> Vec<PatchOperation> {
    if !is_requested(input) {
        return Vec::new();
    }
    let Fact::Known(vmi) = input.facts.live() else { return Vec::new() };
    if !can_unplug(input.facts.kubevirt.known(), vmi) {
        return Vec::new();
    }
    let requested = interfaces::requested_changes(input.change).unwrap_or_default();
    let is_added = |nic: &Nic| requested.add.iter().any(|addition| addition.name == nic.name);
    let removed = input.change.nics.removed.iter();
    let dropped: Vec<&Nic> = removed.filter(|nic| !is_added(nic) && is_unplugged(input, nic, vmi)).collect();
    write_absent(input, &dropped, &requested)
}

/// Returns whether the update drops NICs of a VM that keeps running, and the VM or the settings ask for an unplug.
///
/// virt-controller itself drops the entries of NICs that are unplugged.
fn is_requested(input: &MutationInput) -> bool {
    let change = input.change;
    let drops = change.subject.kind == ObjectKind::Vm && change.requests.is_none() && !change.nics.removed.is_empty();
    drops
        && unplug::policy(&change.after, input.settings) == UnplugPolicy::Dropped
        && !change.after.stops()
        && change.after.guest.domain.is_present
        && !input.facts.by_controller
}

/// Returns whether KubeVirt can unplug NICs of a guest. It unplugs none with an ordinal pod interface (`net1`).
fn can_unplug(kubevirt: Option<&Arc<KubeVirt>>, vmi: &Vmi) -> bool {
    let is_too_old = kubevirt.is_some_and(|kubevirt| {
        kubevirt.version.is_some_and(|version| version < UNPLUGS_SINCE || !kubevirt.has(Gate::HotplugNics))
    });
    let mut further = vmi.nics.iter().filter(|nic| nic.network.is_some() && nic.role == NetworkRole::Additional);
    let is_ordinal = further.any(|nic| vmi.status_nic(&nic.name).is_some_and(StatusNic::has_ordinal_name));
    !is_too_old && !is_ordinal
}

/// Returns whether a dropped NIC can be unplugged: KubeVirt accepts `state: absent` only for bridge binding on a network
/// that is not the default one (`pkg/network/admitter/admit.go`, v1.9.0).
fn is_unplugged(input: &MutationInput, nic: &Nic, vmi: &Vmi) -> bool {
    let (Some(interface), Some(network)) = (nic.interface, nic.network) else { return false };
    let is_bridge = HotplugMethod::of(interface.value, Some(network.value)) == HotplugMethod::Bridge;
    let is_in_guest = match vmi.nic(nic.name) {
        Some(guest) => guest.hotplug == HotplugMethod::Bridge,
        // KubeVirt is about to copy the NIC; it has removed one whose entry is absent.
        None => !interface.value.is_absent(),
    };
    // A new template that keeps the network of the NIC is invalid.
    is_bridge && interface.value.bindings.unknown == 0 && is_in_guest && input.change.nic(nic.name).is_none()
}

/// Appends the NICs of the old template, with state `absent`.
fn write_absent(input: &MutationInput, dropped: &[&Nic], requested: &InterfaceChanges) -> Vec<PatchOperation> {
    let interfaces: Vec<Value> =
        dropped.iter().filter_map(|nic| nic.interface).map(|Indexed { value, .. }| absent(value)).collect();
    let networks: Vec<Value> = dropped.iter().filter_map(|nic| network_of(nic)).collect();
    if interfaces.is_empty() {
        return Vec::new();
    }
    let guest = input.change.after.guest;
    let is_missing = |list_is_empty: bool| list_is_empty && requested.add.is_empty();
    let mut operations = if guest.domain.devices.is_present || !requested.add.is_empty() {
        append(is_missing(guest.interfaces().is_empty()), |below| interface(input, below), interfaces)
    } else {
        let devices = pointer(input.change.after.path, &["domain", "devices"]);
        vec![add_op(devices, json!({ "interfaces": interfaces }))]
    };
    operations.extend(append(is_missing(guest.networks.is_empty()), |below| network(input, below), networks));
    operations
}

fn network_of(nic: &Nic) -> Option<Value> {
    let multus = nic.network?.value.multus.as_ref()?;
    Some(json!({"name": nic.name, "multus": {"networkName": multus.network_name.as_str()}}))
}

/// Returns an interface with bridge binding and state `absent`, otherwise with the fields of the old template: KubeVirt
/// asks for a restart if another one differs from the guest.
fn absent(interface: &Interface) -> Value {
    let mut fields = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(key.to_owned(), value);
        }
    };
    set("name", Some(json!(interface.name.as_str())));
    set("bridge", Some(json!({})));
    set("state", Some(json!("absent")));
    set("model", interface.model.as_ref().map(|text| json!(text.as_str())));
    set("macAddress", interface.mac_address.as_ref().map(|text| json!(text.as_str())));
    set("pciAddress", interface.options.pci_address.as_ref().map(|text| json!(text.as_str())));
    set("ports", interface.options.ports.as_ref().map(|ports| ports.iter().map(port).collect()));
    set("portRanges", interface.options.port_ranges.as_ref().map(|ranges| ranges.iter().map(port_range).collect()));
    set("dhcpOptions", interface.options.dhcp_options.as_ref().map(dhcp_options));
    set("bootOrder", interface.options.boot_order.map(Value::from));
    set("acpiIndex", interface.options.acpi_index.map(Value::from));
    set("tag", interface.options.tag.as_ref().map(|text| json!(text.as_str())));
    Value::Object(fields)
}

fn port(port: &Port) -> Value {
    without_empty(json!({"name": port.name.as_str(), "protocol": port.protocol.as_str(), "port": port.port}))
}

fn port_range(range: &PortRange) -> Value {
    without_empty(json!({"protocol": range.protocol.as_str(), "start": range.start, "end": range.end}))
}

fn dhcp_options(options: &DhcpOptions) -> Value {
    let servers: Vec<&str> = options.ntp_servers.iter().map(Text::as_str).collect();
    let private = options.private_options.iter();
    let private: Vec<Value> =
        private.map(|option| json!({"option": option.option, "value": option.value.as_str()})).collect();
    without_empty(json!({"bootFileName": options.boot_file_name.as_str(),
        "tftpServerName": options.tftp_server_name.as_str(), "ntpServers": servers, "privateOptions": private}))
}

/// Returns an object without its empty texts and lists, which the view of a missing field has too.
fn without_empty(mut object: Value) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.retain(|_, value| *value != json!("") && *value != json!([]));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            cluster,
            review::{self, ParsedRequest},
            vmi::VirtualMachineInstance,
        },
        change::Change,
        facts::Facts,
        settings::Settings,
    };

    const DROPPED: &str = r#"{"nicplug.io/unplug": "dropped"}"#;

    /// Returns a guest with a default NIC and further ones, each an interface; those without a network get one.
    fn guest(further: &[Value]) -> Value {
        let mut interfaces = vec![json!({"name": "default", "masquerade": {}})];
        let mut networks = vec![json!({"name": "default", "pod": {}})];
        for interface in further {
            interfaces.push(interface.clone());
            networks.push(json!({"name": interface["name"], "multus": {"networkName": "net"}}));
        }
        json!({"domain": {"devices": {"interfaces": interfaces}}, "networks": networks})
    }

    fn bridge(name: &str) -> Value {
        json!({"name": name, "bridge": {}})
    }

    fn unplugged(name: &str) -> Value {
        json!({"name": name, "bridge": {}, "state": "absent"})
    }

    fn facts_of(guest: &Value, pod_interfaces: &[(&str, &str)], version: &str) -> Facts {
        let seen = pod_interfaces.iter().map(|(name, pod)| json!({"name": name, "podInterfaceName": pod}));
        let vmi = json!({"metadata": {"name": "vm"}, "spec": guest,
            "status": {"phase": "Running", "interfaces": seen.collect::<Vec<_>>()}})
        .to_string();
        let vmi: VirtualMachineInstance = serde_json::from_str(&vmi).unwrap();
        let mut resource = cluster::KubeVirt::default();
        version.clone_into(&mut resource.status.observed_version);
        Facts {
            vmi: Fact::Known(Arc::new(Vmi::from(&vmi))),
            kubevirt: Fact::Known(Arc::new(KubeVirt::from(resource))),
            ..Facts::default()
        }
    }

    fn running(guest: &Value) -> Facts {
        facts_of(guest, &[], "v1.9.0")
    }

    /// An update of a VM, and what is known of it.
    struct Update<'t> {
        old: &'t Value,
        new: &'t Value,
        annotations: &'t str,
        spec: &'t str,
        settings: Settings,
    }

    impl<'t> Update<'t> {
        fn of(old: &'t Value, new: &'t Value) -> Self {
            Self { old, new, annotations: DROPPED, spec: r#"{"runStrategy": "Always"}"#, settings: Settings::default() }
        }

        /// Returns the guest that is stored. A second call of the webhook changes nothing.
        fn apply(&self, facts: &Facts) -> Value {
            let vm = |guest: &Value| {
                let mut vm =
                    json!({"metadata": {"name": "vm"}, "spec": serde_json::from_str::<Value>(self.spec).unwrap()});
                vm["metadata"]["annotations"] = serde_json::from_str(self.annotations).unwrap();
                vm["spec"]["template"] = json!({ "spec": guest });
                vm
            };
            let (old, mut new) = (vm(self.old), vm(self.new));
            for _ in 0..2 {
                let operations = self.operations(&old, &new, facts);
                json_patch::patch(&mut new, &json_patch::Patch(operations)).unwrap();
            }
            assert!(self.operations(&old, &new, facts).is_empty(), "{new}");
            new["spec"]["template"]["spec"].take()
        }

        fn operations(&self, old: &Value, new: &Value, facts: &Facts) -> Vec<PatchOperation> {
            let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
                "namespace": "demo", "operation": "UPDATE", "object": new, "oldObject": old,
                "kind": {"group": "kubevirt.io", "kind": "VirtualMachine"}}})
            .to_string();
            let ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else { panic!("{review}") };
            let change = Change::of(&request).unwrap();
            crate::mutations::operations(&MutationInput { change: &change, facts, settings: &self.settings })
        }
    }

    #[test]
    fn a_dropped_nic_is_written_back_as_absent_with_its_network() {
        let (old, new) = (guest(&[bridge("a"), bridge("b"), bridge("c")]), guest(&[bridge("b")]));
        let stored = Update::of(&old, &new).apply(&running(&old));
        assert_eq!(stored, guest(&[bridge("b"), unplugged("a"), unplugged("c")]));
        // The manifest is applied again while the guest has the NICs, and while it loses them.
        for guest in [&old, &stored] {
            assert_eq!(Update::of(&stored, &new).apply(&running(guest)), stored);
        }
        // The guest has lost them. KubeVirt may still have to remove the entries.
        assert_eq!(Update::of(&stored, &new).apply(&running(&new)), new);
        assert_eq!(Update::of(&new, &new).apply(&running(&new)), new);
    }

    #[test]
    fn a_nic_that_is_dropped_before_the_guest_has_it_is_unplugged_too() {
        let (old, new) = (guest(&[bridge("a")]), guest(&[]));
        assert_eq!(Update::of(&old, &new).apply(&running(&new)), guest(&[unplugged("a")]));
    }

    #[test]
    fn every_field_of_the_nic_is_kept() {
        let mut full = json!({"name": "a", "bridge": {}, "model": "virtio", "macAddress": "02:00:00:00:00:01",
            "pciAddress": "0000:81:00.0", "bootOrder": 2, "acpiIndex": 3, "tag": "lan", "portRanges": [],
            "ports": [{"port": 80}, {"name": "ssh", "protocol": "TCP", "port": 22}],
            "dhcpOptions": {"bootFileName": "f", "ntpServers": ["192.0.2.1"], "privateOptions": [
                {"option": 240, "value": "x"}]}});
        let (old, new) = (guest(&[full.clone(), json!({"name": "b", "bridge": {}, "dhcpOptions": {}})]), guest(&[]));
        full["state"] = json!("absent");
        let stored = Update::of(&old, &new).apply(&running(&old));
        let expected = [full, json!({"name": "b", "bridge": {}, "dhcpOptions": {}, "state": "absent"})];
        assert_eq!(stored, guest(&expected));
    }

    #[test]
    fn missing_and_empty_lists_are_created() {
        let old = json!({"domain": {"devices": {"autoattachPodInterface": false, "interfaces": [bridge("a")]}},
            "networks": [{"name": "a", "multus": {"networkName": "net"}}]});
        for (devices, networks) in
            [(json!({}), Value::Null), (json!({"interfaces": []}), json!([])), (Value::Null, json!([]))]
        {
            let new = json!({"domain": {"devices": devices}, "networks": networks});
            let stored = Update::of(&old, &new).apply(&running(&old));
            assert_eq!(stored["domain"]["devices"]["interfaces"], json!([unplugged("a")]));
            assert_eq!(stored["networks"], old["networks"]);
        }
        let stored = Update::of(&old, &json!({"domain": {}})).apply(&running(&old));
        assert_eq!(stored["domain"]["devices"], json!({"interfaces": [unplugged("a")]}));
    }

    #[test]
    fn a_nic_that_kubevirt_cannot_unplug_stays_dropped() {
        let default_network = |interface: Value| {
            json!({"domain": {"devices": {"interfaces": [interface]}},
                "networks": [{"name": "x", "multus": {"networkName": "net", "default": true}}]})
        };
        let sriov = guest(&[json!({"name": "x", "sriov": {}})]);
        let pod_bridge =
            json!({"domain": {"devices": {"interfaces": [bridge("x")]}}, "networks": [{"name": "x", "pod": {}}]});
        let newer = guest(&[json!({"name": "x", "bridge": {}, "teleport": {}})]);
        let new = guest(&[]);
        for old in [sriov, pod_bridge, default_network(bridge("x")), newer] {
            assert_eq!(Update::of(&old, &new).apply(&running(&old)), new, "{old}");
        }
        // The template asks for a bridge after the next restart; the guest has SR-IOV.
        let (old, guest_now) = (guest(&[bridge("x")]), guest(&[json!({"name": "x", "sriov": {}})]));
        assert_eq!(Update::of(&old, &new).apply(&running(&guest_now)), new);
    }

    #[test]
    fn no_nic_of_a_guest_with_ordinal_names_or_on_an_old_kubevirt_is_written() {
        let (old, new) = (guest(&[bridge("a")]), guest(&[]));
        for (pod_interface, version, is_written) in [
            ("pod0c5d1e0d8b2", "v1.9.0", true),
            ("", "v1.9.0", true),
            ("net1", "v1.9.0", false),
            ("pod0c5d1e0d8b2", "v0.59.2", false),
            // HotplugNICs is not listed.
            ("pod0c5d1e0d8b2", "v1.3.1", false),
            ("pod0c5d1e0d8b2", "", true),
        ] {
            let facts = facts_of(&old, &[("a", pod_interface)], version);
            let stored = Update::of(&old, &new).apply(&facts);
            assert_eq!(stored != new, is_written, "{pod_interface} {version}");
        }
    }

    #[test]
    fn only_a_vm_that_asks_for_it_and_keeps_running_is_changed() {
        let (old, new) = (guest(&[bridge("a")]), guest(&[]));
        let is_written = |update: Update, facts: &Facts| update.apply(facts) != new;
        let update = || Update::of(&old, &new);
        let by_settings = || Settings { unplug: UnplugPolicy::Dropped, ..Settings::default() };
        assert!(is_written(update(), &running(&old)));
        assert!(is_written(Update { annotations: "{}", settings: by_settings(), ..update() }, &running(&old)));
        for annotations in ["{}", r#"{"nicplug.io/unplug": "absent"}"#, r#"{"nicplug.io/unplug": "drop"}"#] {
            let settings = if annotations == "{}" { Settings::default() } else { by_settings() };
            assert!(!is_written(Update { annotations, settings, ..update() }, &running(&old)), "{annotations}");
        }
        for spec in [r#"{"runStrategy": "Halted"}"#, r#"{"running": false}"#] {
            assert!(!is_written(Update { spec, ..update() }, &running(&old)), "{spec}");
        }
        for vmi in [Fact::Absent, Fact::Unknown] {
            assert!(!is_written(update(), &Facts { vmi, ..running(&old) }));
        }
        assert!(!is_written(update(), &Facts { by_controller: true, ..running(&old) }));
    }

    #[test]
    fn a_nic_that_an_annotation_adds_again_is_not_unplugged() {
        let (old, new) = (guest(&[bridge("a"), bridge("b")]), guest(&[]));
        let annotations = r#"{"nicplug.io/unplug": "dropped", "nicplug.io/add-interfaces": "a=net"}"#;
        let update = Update::of(&old, &new);
        let vm = |annotations: &str, guest: &Value| {
            json!({"metadata": {"name": "vm", "annotations": serde_json::from_str::<Value>(annotations).unwrap()},
                "spec": {"runStrategy": "Always", "template": {"spec": guest}}})
        };
        for bare in [new.clone(), json!({"domain": {"devices": {"autoattachPodInterface": false}}})] {
            let mut stored = vm(annotations, &bare);
            let operations = update.operations(&vm(DROPPED, &old), &stored, &running(&old));
            json_patch::patch(&mut stored, &json_patch::Patch(operations)).unwrap();
            let interfaces = stored["spec"]["template"]["spec"]["domain"]["devices"]["interfaces"].as_array().unwrap();
            assert_eq!(interfaces[interfaces.len() - 2..], [bridge("a"), unplugged("b")]);
            assert!(update.operations(&vm(DROPPED, &old), &stored, &running(&old)).is_empty());
        }
    }
}
