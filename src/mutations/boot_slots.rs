//! The annotation `nicplug.io/boot-slots` of every VMI: its PCI ports at boot. Only nicplug may set it: nicplug writes
//! it when the VMI is created, over any value of a user, and restores it when an update changes it. The reservation of
//! ports is written together with it, because it must be on the VMI before the guest boots.

use json_patch::PatchOperation;
use serde_json::json;

use super::MutationInput;
use crate::{
    annotations::reserve_ports::{self, ReservePorts},
    api::{
        json_patch::{add_op, pointer, remove_op},
        metadata::Annotations,
        vmi::VirtualMachineInstance,
    },
    facts::boot,
    pci::{self, BootSlots, Reservation, SLOT_COUNT, SlotCount},
};

const BOOT_SLOTS: &str = "nicplug.io/boot-slots";

pub(super) fn operations(input: &MutationInput) -> Vec<PatchOperation> {
    match (input.change.before.map(|before| before.vmi), input.change.after.vmi) {
        (None, Some(vmi)) => annotate_new(input, vmi),
        (Some(Some(old)), Some(new)) => {
            set(new, &[(BOOT_SLOTS, boot_slots_of(old.metadata.annotations.as_deref()).map(str::to_owned))])
        }
        (_, None) | (Some(None), Some(_)) => Vec::new(),
    }
}

/// Annotates a VMI that is being created.
fn annotate_new(input: &MutationInput, vmi: &VirtualMachineInstance) -> Vec<PatchOperation> {
    let slots = boot_slots(input, vmi);
    let slot_count = slots.as_ref().and_then(|(count, _)| *count);
    let mut wanted = vec![(BOOT_SLOTS, slots.map(|(_, slots)| slots.to_string()))];
    if let Some(count) = slot_count {
        wanted.push((SLOT_COUNT, Some(count.to_string())));
    }
    set(vmi, &wanted)
}

/// Returns the ports at boot, and the slot count that a reservation needs; `None` if they cannot be computed.
fn boot_slots(input: &MutationInput, vmi: &VirtualMachineInstance) -> Option<(Option<u64>, BootSlots)> {
    let kubevirt = input.facts.kubevirt.known()?;
    let version = kubevirt.version?;
    let placement = boot::pci_options(vmi.metadata.annotations.as_deref());
    let devices = pci::count_devices(&vmi.spec, &placement, &**kubevirt).ok()?;
    let reserved = match reserve_ports::requested(&input.change.after, input.facts, input.settings) {
        ReservePorts::Ports(wanted) => match pci::reserve(&devices.port_usage, &devices.nics, version, wanted) {
            Reservation::SlotCount { value, .. } => Some(value),
            Reservation::Enough { .. } | Reservation::Impossible { .. } => None,
        },
        ReservePorts::None | ReservePorts::Malformed { .. } => None,
    };
    let port_usage = match reserved.and_then(|value| i64::try_from(value).ok()) {
        Some(count) => devices.port_usage.with_slot_count(SlotCount::Number(count)),
        None => devices.port_usage,
    };
    Some((reserved, BootSlots::of(&port_usage, &devices.nics, version)?))
}

/// Returns the operations that set or remove these annotations of a VMI, without those that are correct already.
fn set(vmi: &VirtualMachineInstance, wanted: &[(&'static str, Option<String>)]) -> Vec<PatchOperation> {
    if !vmi.metadata.is_present {
        // Every object from the API server has metadata; without it the patch has no parent for the annotations.
        return Vec::new();
    }
    let annotations = vmi.metadata.annotations.as_deref();
    let present = |key: &str| if key == BOOT_SLOTS { boot_slots_of(annotations) } else { slot_count_of(annotations) };
    let mut operations = Vec::new();
    for (key, value) in wanted {
        let path = || pointer("metadata", &["annotations", key]);
        match (value.as_deref(), present(key)) {
            (Some(value), now) if now != Some(value) => operations.push(add_op(path(), json!(value))),
            (None, Some(_)) => operations.push(remove_op(path())),
            _ => {}
        }
    }
    if annotations.is_none() && !operations.is_empty() {
        operations.insert(0, add_op(pointer("metadata", &["annotations"]), json!({})));
    }
    operations
}

fn boot_slots_of<'a>(annotations: Option<&'a Annotations<'_>>) -> Option<&'a str> {
    annotations?.boot_slots.as_deref()
}

fn slot_count_of<'a>(annotations: Option<&'a Annotations<'_>>) -> Option<&'a str> {
    annotations?.slot_count.as_deref()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::{
        api::{
            cluster,
            review::{self, ParsedRequest},
        },
        change::Change,
        facts::{Fact, Facts, KubeVirt, Vm},
        settings::Settings,
    };

    const ADDED: &str =
        r#"{"op":"add","path":"/metadata/annotations/nicplug.io~1boot-slots","value":"v1:port=4,nics=1,disks=0"}"#;
    const REMOVED: &str = r#"{"op":"remove","path":"/metadata/annotations/nicplug.io~1boot-slots"}"#;

    fn facts(version: &str) -> Facts {
        let mut resource = cluster::KubeVirt::default();
        version.clone_into(&mut resource.status.observed_version);
        Facts { kubevirt: Fact::Known(Arc::new(KubeVirt::from(resource))), ..Facts::default() }
    }

    fn vmi(annotations: &str) -> String {
        format!(
            r#"{{"metadata": {{"name": "vm"{annotations}}}, "spec": {{"networks": [{{"name": "a", "pod": {{}}}}],
                "domain": {{"devices": {{"interfaces": [{{"name": "a", "masquerade": {{}}}}]}}}}}}}}"#
        )
    }

    fn operations_for(object: &str, old: Option<&str>, facts: &Facts, settings: &Settings) -> Vec<String> {
        let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
        let old_object = old.unwrap_or("null");
        let text = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
                "operation": "{operation}", "kind": {{"group": "kubevirt.io", "kind": "VirtualMachineInstance"}},
                "object": {object}, "oldObject": {old_object}}}}}"#
        );
        let ParsedRequest::Valid(request) = review::read(text.as_bytes()).unwrap() else { panic!("{text}") };
        let change = Change::of(&request).unwrap();
        let operations = operations(&MutationInput { change: &change, facts, settings });
        // The patch applies, and the patched object needs no patch.
        let mut patched: Value = serde_json::from_str(object).unwrap();
        json_patch::patch(&mut patched, &json_patch::Patch(operations.clone())).unwrap();
        if !operations.is_empty() {
            assert!(operations_for(&patched.to_string(), old, facts, settings).is_empty(), "{patched}");
        }
        operations.iter().map(|operation| serde_json::to_string(operation).unwrap()).collect()
    }

    fn create(annotations: &str, version: &str) -> Vec<String> {
        operations_for(&vmi(annotations), None, &facts(version), &Settings::default())
    }

    #[test]
    fn a_new_vmi_is_annotated_over_any_value_of_a_user() {
        let map = r#"{"op":"add","path":"/metadata/annotations","value":{}}"#;
        let with = |slots: &str| format!(r#", "annotations": {{"nicplug.io/boot-slots": "{slots}"}}"#);
        assert_eq!(create("", "v1.9.0"), [map, ADDED]);
        assert_eq!(create(r#", "annotations": {}"#, "v1.9.0"), [ADDED]);
        assert_eq!(create(&with("v1:port=99,nics=0,disks=0"), "v1.9.0"), [ADDED]);
        assert!(create(&with("v1:port=4,nics=1,disks=0"), "v1.9.0").is_empty());
    }

    #[test]
    fn an_object_without_metadata_is_not_annotated() {
        assert!(operations_for(r#"{"spec": {}}"#, None, &facts("v1.9.0"), &Settings::default()).is_empty());
    }

    #[test]
    fn an_unknown_version_is_not_annotated() {
        assert!(create("", "").is_empty());
        let forged = create(r#", "annotations": {"nicplug.io/boot-slots": "v1:port=99,nics=0,disks=0"}"#, "");
        assert_eq!(forged, [REMOVED]);
    }

    #[test]
    fn a_reservation_becomes_the_smallest_sufficient_slot_count() {
        let reserve = |version| create(r#", "annotations": {"nicplug.io/reserve-ports": "6"}"#, version);
        let slot_count =
            r#"{"op":"add","path":"/metadata/annotations/kubevirt.io~1pci-interface-slot-count","value":"6"}"#;
        assert_eq!(reserve("v1.9.0"), [&ADDED.replace("port=4", "port=6"), slot_count]);
        // A version that does not read the annotation gets none, and so does a guest that has enough.
        assert_eq!(reserve("v1.5.0"), [ADDED]);
        assert_eq!(create(r#", "annotations": {"nicplug.io/reserve-ports": "4"}"#, "v1.9.0"), [ADDED]);
        // A slot count of the user stays.
        let with_slot_count = create(
            r#", "annotations": {"nicplug.io/reserve-ports": "6", "kubevirt.io/pci-interface-slot-count": "3"}"#,
            "v1.9.0",
        );
        assert_eq!(with_slot_count, [ADDED]);
    }

    #[test]
    fn the_vm_and_the_settings_can_reserve_ports_too() {
        let vm = Vm { reserve_ports: Some("6".into()), ..Vm::default() };
        let by_vm = Facts { vm: Fact::Known(Arc::new(vm)), ..facts("v1.9.0") };
        let settings = Settings { reserve_ports: Some(6), ..Settings::default() };
        for (facts, settings) in [(&by_vm, &Settings::default()), (&facts("v1.9.0"), &settings)] {
            let operations = operations_for(&vmi(r#", "annotations": {}"#), None, facts, settings);
            assert_eq!(operations.len(), 2, "{operations:?}");
        }
    }

    #[test]
    fn an_update_cannot_change_the_annotation() {
        let with = |slots: &str| vmi(&format!(r#", "annotations": {{"nicplug.io/boot-slots": "{slots}"}}"#));
        let (annotated, changed) = (with("v1:port=4,nics=1,disks=0"), with("v1:port=99,nics=1,disks=0"));
        let bare = vmi(r#", "annotations": {}"#);
        let update = |new: &str, old: &str| operations_for(new, Some(old), &Facts::default(), &Settings::default());
        assert_eq!(update(&changed, &annotated), [ADDED]);
        assert_eq!(update(&bare, &annotated), [ADDED]);
        assert_eq!(update(&changed, &bare), [REMOVED]);
        assert!(update(&annotated, &annotated).is_empty());
    }
}
