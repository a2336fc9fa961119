//! The PCI ports of a VM in the cluster: what is free now, and the bus after the next restart.

use std::{io::Write, process::ExitCode, sync::Arc};

use anyhow::bail;
use serde_json::{Value, json};

use super::{Format, NicArgument, SlotsArgs, draw, json, svg, text, view::BusView};
use crate::{
    cli::{
        block_on,
        guests::{self, Selection, name_in},
        status::{print_notes, value_of_ports},
        terminal::broken,
    },
    cluster::store::Store,
    facts::FactSource,
    hotplug::{
        edit::EditRequest,
        place::{self, GuestReport, Place},
        plan::{Plan, PlanStep, plan},
        progress::Direction,
    },
    kubevirt::{NEWEST_KNOWN, Version},
    rules::PortCount,
};

/// The version of the JSON output.
const SCHEMA_VERSION: u32 = 1;

/// Prints the ports of the VM of the arguments.
pub(super) fn run(args: &SlotsArgs, output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let settings = args.settings.read()?;
    block_on(async {
        let cluster = args.cluster.connect(&settings).await?;
        let name = name_in(args.vm.as_deref().unwrap_or_default())?.to_owned();
        let networks: Vec<String> = args.what_if.iter().map(|NicArgument(nic)| nic.network_name.clone()).collect();
        let mut guests = guests::read(&cluster, &Selection::Names(vec![name.clone()]), None, &networks).await?;
        let Some(guest) = guests.list.first() else { bail!("VirtualMachine {name:?} was not read") };
        let report = place::report(&guests.around(guest, &settings));
        let (vm, vmi) = (guest.vm.clone(), guest.vmi.known().cloned());
        let present = guests.store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
        let store = Arc::new(std::mem::take(&mut guests.store));
        let facts: Arc<dyn FactSource> = Arc::clone(&store) as _;
        let plan = match &vm {
            Some(vm) if !args.what_if.is_empty() => {
                let add = |NicArgument(nic): &NicArgument| PlanStep::Edit(EditRequest::Add(nic.clone()));
                Some(plan(vm, &args.what_if.iter().map(add).collect::<Vec<_>>(), &facts, &settings)?)
            }
            None if !args.what_if.is_empty() => bail!("--what-if needs a VirtualMachine: {name:?} is only a VMI"),
            _ => None,
        };
        let mut notes = Vec::new();
        let version = args.kubevirt_version.or(present);
        if version.is_none() {
            notes.push(format!("the version of KubeVirt is not known: treated as {NEWEST_KNOWN}"));
        }
        let version = version.unwrap_or(NEWEST_KNOWN);
        let changed = plan.as_ref().map(|plan| plan.object.clone());
        let (kind, object, when) = match (changed.or(vm), &vmi) {
            (Some(vm), vmi) => ("VirtualMachine", expanded(vm, vmi.as_ref(), &mut notes), "after the next restart"),
            (None, Some(vmi)) => ("VirtualMachineInstance", vmi.clone(), "as it would boot"),
            (None, None) => bail!("VirtualMachine {name:?} was not read"),
        };
        let (layout, more) = draw(kind, &object, &store, version)?;
        notes.extend(more);
        let shown = Shown { report: &report, plan: plan.as_ref() };
        let title = format!("{kind} {}/{}, {when}", report.namespace, report.name);
        let printed = match args.output {
            Format::Text => {
                let view = BusView::new(&title, &layout, version, notes);
                format!("{}\n{}", shown.text(), text::render(&view))
            }
            Format::Json => {
                let bus = serde_json::to_value(json::output(&layout, version, &notes))?;
                format!("{}\n", serde_json::to_string_pretty(&shown.json(&bus))?)
            }
            Format::Svg => {
                notes.extend(shown.lines());
                svg::render(&BusView::new(&title, &layout, version, notes))
            }
        };
        output.write_all(printed.as_bytes())?;
        print_notes(&guests)?;
        let is_refused = plan.as_ref().is_some_and(Plan::is_refused) || layout.budget.boot_error.is_some();
        let is_uncertain = plan.as_ref().is_some_and(Plan::is_uncertain);
        Ok(ExitCode::from(match (is_refused, is_uncertain) {
            (true, _) => 1,
            (false, true) => 2,
            (false, false) => 0,
        }))
    })
}

/// Returns the bus of a guest after its next restart, without a title.
pub(in crate::cli) fn bus_after_restart(
    vm: Option<&Value>,
    vmi: Option<&Value>,
    store: &Store,
    version: Version,
) -> anyhow::Result<BusView> {
    let mut notes = Vec::new();
    let (kind, object) = match (vm, vmi) {
        (Some(vm), vmi) => ("VirtualMachine", expanded(vm.clone(), vmi, &mut notes)),
        (None, vmi) => ("VirtualMachineInstance", vmi.cloned().unwrap_or_default()),
    };
    let (layout, more) = draw(kind, &object, store, version)?;
    notes.extend(more);
    Ok(BusView::new("", &layout, version, notes))
}

/// Returns the VM as KubeVirt expands it with its instancetype and preference, which the running guest shows: the devices
/// of the guest, and the NICs of the template.
fn expanded(mut vm: Value, vmi: Option<&Value>, notes: &mut Vec<String>) -> Value {
    let names = ["instancetype", "preference"];
    let is_set = |name: &&&str| vm.pointer(&format!("/spec/{name}")).is_some_and(|value| !value.is_null());
    let set: Vec<&str> = names.iter().filter(is_set).copied().collect();
    let (Some(running), false) = (vmi.and_then(|vmi| vmi.get("spec")).cloned(), set.is_empty()) else { return vm };
    let template = vm.pointer("/spec/template/spec").cloned().unwrap_or_default();
    let mut spec = running;
    for pointer in ["/domain/devices/interfaces", "/networks"] {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(object) = spec.pointer_mut(parent).and_then(Value::as_object_mut) {
            object.insert(key.to_owned(), template.pointer(pointer).cloned().unwrap_or_else(|| json!([])));
        }
    }
    if let Some(place) = vm.pointer_mut("/spec/template").and_then(Value::as_object_mut) {
        place.insert("spec".to_owned(), spec);
    }
    if let Some(spec) = vm.get_mut("spec").and_then(Value::as_object_mut) {
        for name in &set {
            spec.remove(*name);
        }
    }
    notes.push(format!("spec.{} is set: memory and devices are those of the running guest", set.join(" and spec.")));
    vm
}

/// The ports of now.
struct Shown<'s> {
    report: &'s GuestReport,
    plan: Option<&'s Plan>,
}

impl Shown<'_> {
    /// Returns the names of the NICs that were plugged after the boot, and of those that are on their way.
    fn later(&self) -> (Vec<&str>, Vec<&str>) {
        let attached = || self.report.nics.iter().filter(|nic| nic.direction == Direction::Attach);
        let is_running = self.report.ports.now != PortCount::NotRunning;
        let plugged = attached().filter(|nic| nic.place == Place::Guest && nic.is_of_boot == Some(false));
        let waiting = attached().filter(|nic| is_running && nic.place < Place::Guest);
        (plugged.map(|nic| nic.name.as_str()).collect(), waiting.map(|nic| nic.name.as_str()).collect())
    }

    fn lines(&self) -> Vec<String> {
        let ports = &self.report.ports;
        let mut lines = vec![match &ports.now {
            PortCount::Free { free, at_boot, name, estimate } => {
                let about = if estimate.is_some() { "about " } else { "" };
                let ports = if *free == 1 { format!("{name} is") } else { format!("{name}s are") };
                format!("Now: {about}{free} {ports} free, of {at_boot} at boot")
            }
            PortCount::Unlimited => "Now: ports do not limit the number of NICs".to_owned(),
            PortCount::NotRunning => "Now: no guest runs".to_owned(),
            PortCount::Unknown(why) => format!("Now: the free ports are not known: {why}"),
        }];
        if !ports.details.is_empty() {
            lines.push(format!("  {}", ports.details));
        }
        if let PortCount::Free { estimate: Some(why), .. } = ports.now {
            lines.push(format!("  an estimate: {why}"));
        }
        let (plugged, waiting) = self.later();
        for (what, names) in [("Plugged after the boot", plugged), ("On the way, each with a port", waiting)] {
            if !names.is_empty() {
                lines.push(format!("{what}: {}", names.join(", ")));
            }
        }
        let Some(plan) = self.plan else { return lines };
        for (nic, why) in plan.impossible.iter().chain(&plan.unchanged) {
            lines.push(format!("What if {nic}: {why}"));
        }
        let Some(outlook) = &plan.outlook else { return lines };
        for nic in &outlook.nics {
            let denied = nic.denials().next();
            let what = denied.map_or_else(
                || "it works".to_owned(),
                |reason| format!("never: {}; {} [{}]", reason.what, reason.fix, reason.rule),
            );
            lines.push(format!("What if {}: {what}", nic.name));
        }
        if let (Some(free), false) = (plan.free_after(), plan.is_refused()) {
            lines.push(format!("With them {free} are free now"));
        }
        lines
    }

    fn text(&self) -> String {
        let mut all = String::new();
        for line in self.lines() {
            let indent = if line.starts_with(' ') { "  " } else { "" };
            for part in broken(&line, text::WIDTH - indent.len()) {
                all.push_str(indent);
                all.push_str(&part);
                all.push('\n');
            }
        }
        all
    }

    fn json(&self, bus: &Value) -> Value {
        let (plugged, waiting) = self.later();
        json!({
            "kind": "PciSlots",
            "schemaVersion": SCHEMA_VERSION,
            "namespace": self.report.namespace,
            "name": self.report.name,
            "now": value_of_ports(&self.report.ports.now),
            "details": self.report.ports.details,
            "pluggedLater": plugged,
            "onTheWay": waiting,
            "whatIf": self.plan.map(|plan| json!({"isRefused": plan.is_refused(), "freeAfterChange": plan.free_after()})),
            "afterRestart": bus,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_with_an_instancetype_has_the_devices_of_its_guest_and_the_nics_of_its_template() {
        let vm = json!({"spec": {"instancetype": {"name": "u1.small"}, "template": {"spec": {
            "domain": {"devices": {"interfaces": [{"name": "a"}]}}, "networks": [{"name": "a"}]}}}});
        let vmi = json!({"spec": {"domain": {"memory": {"guest": "4Gi"}, "devices": {"rng": {}, "interfaces": []}}}});
        let mut notes = Vec::new();
        let same = expanded(vm.clone(), None, &mut notes);
        assert!(same == vm && notes.is_empty());
        let expanded = expanded(vm, Some(&vmi), &mut notes);
        let spec = &expanded["spec"]["template"]["spec"];
        assert_eq!(spec["domain"]["memory"]["guest"], "4Gi");
        assert_eq!(spec["domain"]["devices"], json!({"rng": {}, "interfaces": [{"name": "a"}]}));
        assert_eq!((spec["networks"][0]["name"].as_str(), notes.len()), (Some("a"), 1));
        assert!(expanded["spec"].get("instancetype").is_none());
    }
}
