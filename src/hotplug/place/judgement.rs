//! What the rules say about a NIC that a VM has already, as if it were added now.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    super::{edit::review_of, progress::ClusterInfo},
    HotplugMethod, Place, Surroundings, text,
};
use crate::{
    admission::{self, Evaluator, NicOutlook, Reason, Weight},
    api::{review::ParsedRequest, vmi::VirtualMachineInstance},
    change::Change,
    facts::{FactSource, Facts, Vmi, nic::GuestNic},
    pci::BootSlots,
    rules::{self, FreePorts, PortCount, Scope},
};

/// The annotation in which nicplug records the ports of a guest at boot.
const BOOT_SLOTS: &str = "nicplug.io/boot-slots";

/// Rules about the copy of the template to the guest, or about what runs at the moment: they do not prevent a NIC from
/// getting further.
const NOT_A_CAUSE: &[&str] = &["live-change", "migration-running", "persist", "interface-request", "name-in-use"];

/// The rules about what keeps a NIC of the VMI out of the pod.
const BEFORE_POD: &[&str] = &["attachment-path", "network-attachment", "resource-claim"];

/// The rules about what keeps a NIC of the pod out of the guest.
const BEFORE_GUEST: &[&str] = &["pci-slots", "queue-memory"];

/// The facts about a VM, and the answers of the rules.
pub(super) struct Judgement {
    pub(super) cluster_info: ClusterInfo,
    pub(super) ports: FreePorts,
}

impl Judgement {
    /// Evaluates the VM as it is.
    pub(super) fn of(around: &Surroundings) -> Self {
        let alone = if around.vm.is_none() { around.vmi.known().map(|vmi| vm_of(vmi)) } else { None };
        let ports = FreePorts::unknown("the VM cannot be read");
        let mut judgement = Self { cluster_info: ClusterInfo::default(), ports };
        let Some(vm) = around.vm.or(alone.as_ref()) else { return judgement };
        let body = review_of(vm, vm, true);
        let body = admission::parse(&body);
        if let Ok(ParsedRequest::Valid(request)) = &body
            && let Some(change) = Change::of(request)
        {
            judgement.cluster_info = ClusterInfo::of(&around.facts.facts_for(&change), around.settings);
        }
        if let Some(outlook) = Evaluator::new(around.facts, around.settings).outlook(&body) {
            judgement.ports = outlook.ports;
        }
        if alone.is_some() {
            judgement.ports.after_restart = PortCount::Unknown("a VirtualMachineInstance does not restart".to_owned());
        }
        judgement
    }
}

/// Returns the VM whose template is a VMI that has none, so that its ports can be counted.
fn vm_of(vmi: &Value) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"namespace": text(vmi, "/metadata/namespace"), "name": text(vmi, "/metadata/name")},
        "spec": {"runStrategy": "Always", "template": {"metadata": {}, "spec": vmi.get("spec")}},
    })
}

/// Returns what keeps a NIC from getting further than this place, as the rules find it: the worst first.
pub(super) fn obstacles(around: &Surroundings, nic: &str, place: Place) -> Vec<Reason> {
    let Some(outlook) = outlook_without(around, nic) else { return Vec::new() };
    let mut reasons: Vec<Reason> = outlook.reasons.into_iter().filter(|reason| is_obstacle(reason, place)).collect();
    reasons.sort_by_key(|reason| reason.weight as u8);
    reasons
}

fn is_obstacle(reason: &Reason, place: Place) -> bool {
    let name = rules::find(reason.rule).map(|rule| rule.name).unwrap_or_default();
    let is_of_place = match place {
        Place::Template => !NOT_A_CAUSE.contains(&name),
        Place::Vmi => BEFORE_POD.contains(&name),
        Place::Pod => BEFORE_GUEST.contains(&name),
        Place::Guest => false,
    };
    // The reason says already that a migration is needed, but not what hinders it.
    let is_telling = match reason.weight {
        Weight::Denied | Weight::Postponed => true,
        Weight::Warned => reason.scope == Scope::Hotplug,
        Weight::Advice => ["live migration, and", "cannot be attached", "may have to wait"]
            .iter()
            .any(|part| reason.what.contains(part)),
        Weight::Unchecked => false,
    };
    is_of_place && is_telling
}

/// Evaluates the addition of a NIC to a VM and a guest that lack it.
fn outlook_without(around: &Surroundings, nic: &str) -> Option<NicOutlook> {
    let vm = around.vm?;
    let mut before = vm.clone();
    for pointer in ["/spec/template/spec/domain/devices/interfaces", "/spec/template/spec/networks"] {
        if let Some(entries) = before.pointer_mut(pointer).and_then(Value::as_array_mut) {
            entries.retain(|entry| text(entry, "/name") != nic);
        }
    }
    let body = review_of(&before, vm, true);
    let facts = Without { facts: around.facts, nic };
    let outlook = Evaluator::new(&facts, around.settings).outlook(&admission::parse(&body))?;
    outlook.nics.into_iter().find(|outlook| outlook.name == nic)
}

/// Facts in which the guest lacks a NIC.
struct Without<'f> {
    facts: &'f dyn FactSource,
    nic: &'f str,
}

impl FactSource for Without<'_> {
    fn reads_group(&self, group: &str, of: &str) -> bool {
        self.facts.reads_group(group, of)
    }

    fn facts_for(&self, change: &Change) -> Facts {
        let mut facts = self.facts.facts_for(change);
        facts.vmi = facts.vmi.map(|vmi| Arc::new(without(&vmi, self.nic)));
        facts
    }
}

fn without(vmi: &Vmi, nic: &str) -> Vmi {
    let mut vmi = vmi.clone();
    let Some(index) = vmi.nics.iter().position(|other| &*other.name == nic) else { return vmi };
    let keep = |position: usize| position != index;
    vmi.nics = Arc::new(kept(&vmi.nics, keep));
    vmi.macs = kept(&vmi.macs, keep).into();
    vmi.status_nics = Arc::new(vmi.status_nics.iter().filter(|seen| &*seen.name != nic).cloned().collect());
    if let Some(devices) = &mut vmi.boot.current_devices {
        let mut changed = (**devices).clone();
        changed.nics = kept(&changed.nics, keep);
        *devices = Arc::new(changed);
    }
    vmi
}

fn kept<T: Clone>(list: &[T], keep: impl Fn(usize) -> bool) -> Vec<T> {
    list.iter().enumerate().filter(|(position, _)| keep(*position)).map(|(_, entry)| entry.clone()).collect()
}

/// Returns how KubeVirt hotplugs each NIC of a guest.
pub(super) fn plugs(vmi: Option<&Value>) -> BTreeMap<String, HotplugMethod> {
    let text = vmi.map(Value::to_string).unwrap_or_default();
    let Ok(vmi) = serde_json::from_str::<VirtualMachineInstance>(&text) else { return BTreeMap::new() };
    GuestNic::all(&vmi.spec).into_iter().map(|nic| (nic.name.into(), nic.hotplug)).collect()
}

/// Returns the number of NICs that the guest booted with, as nicplug recorded it.
pub(super) fn boot_nics(vmi: Option<&Value>) -> Option<u64> {
    let annotation = vmi?.pointer("/metadata/annotations")?.get(BOOT_SLOTS)?.as_str()?;
    annotation.parse::<BootSlots>().ok().map(|slots| slots.nics)
}
