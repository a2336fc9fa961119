//! The PCI ports of a VM in the cluster: what is free now, and the bus after the next restart.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
};

use anyhow::bail;
use serde_json::{Value, json};

use super::{NicArgument, Printout, SlotsArgs, draw, now::Now, plan_with, view::BusView};
use crate::{
    api::vm::VirtualMachine,
    cli::{
        block_on,
        guests::{self, Selection, name_in},
        plan::exit_status,
        status::print_notes,
        terminal::page_width,
    },
    cluster::store::Store,
    facts::FactSource,
    hotplug::place,
    kubevirt::{NEWEST_KNOWN, Version},
};

/// Prints the ports of the VM of the arguments.
pub(super) fn run(args: &SlotsArgs, output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let settings = args.settings.read()?;
    if args.facts.is_some() {
        writeln!(io::stderr(), "note: --facts is not used, because the cluster is read; it is for --file")?;
    }
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
            Some(vm) if !args.what_if.is_empty() => Some(plan_with(&args.what_if, vm, &facts, &settings)?),
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
            (Some(vm), vmi) => ("VirtualMachine", expanded(vm, vmi.as_ref(), &store, &mut notes), super::AFTER_RESTART),
            (None, Some(vmi)) => ("VirtualMachineInstance", vmi.clone(), super::AT_BOOT),
            (None, None) => bail!("VirtualMachine {name:?} was not read"),
        };
        let printout = Printout {
            when,
            now: Some(Now { report: &report, plan: plan.as_ref() }),
            ..Printout::of(kind, &object, &store, version, notes)?
        };
        let fails = printout.fails();
        let printed = printout.render(args.output, page_width())?;
        output.write_all(printed.as_bytes())?;
        print_notes(&guests)?;
        Ok(ExitCode::from(if fails { 1 } else { plan.as_ref().map_or(0, exit_status) }))
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
        (Some(vm), vmi) => ("VirtualMachine", expanded(vm.clone(), vmi, store, &mut notes)),
        (None, vmi) => ("VirtualMachineInstance", vmi.cloned().unwrap_or_default()),
    };
    let (layout, more) = draw(kind, &object, store, version)?;
    notes.extend(more);
    Ok(BusView::new("", &layout, version, notes))
}

/// Returns the VM as KubeVirt expands it with its instancetype and preference. If they were not read, the running guest
/// shows the devices, and the template the NICs.
fn expanded(mut vm: Value, vmi: Option<&Value>, store: &Store, notes: &mut Vec<String>) -> Value {
    let names = ["instancetype", "preference"];
    let is_set = |name: &&&str| vm.pointer(&format!("/spec/{name}")).is_some_and(|value| !value.is_null());
    let set: Vec<&str> = names.iter().filter(is_set).copied().collect();
    if set.is_empty() || is_known(&vm, store) {
        return vm;
    }
    let Some(running) = vmi.and_then(|vmi| vmi.get("spec")).cloned() else { return vm };
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

/// Whether the store has what KubeVirt expands the VM with.
fn is_known(vm: &Value, store: &Store) -> bool {
    let text = vm.to_string();
    serde_json::from_str::<VirtualMachine>(&text)
        .is_ok_and(|vm| store.expansion(&vm.metadata.namespace, &vm).texts(&vm.spec.template.spec).is_some())
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
        let store = Store::default();
        let same = expanded(vm.clone(), None, &store, &mut notes);
        assert!(same == vm && notes.is_empty());
        let expanded = expanded(vm, Some(&vmi), &store, &mut notes);
        let spec = &expanded["spec"]["template"]["spec"];
        assert_eq!(spec["domain"]["memory"]["guest"], "4Gi");
        assert_eq!(spec["domain"]["devices"], json!({"rng": {}, "interfaces": [{"name": "a"}]}));
        assert_eq!((spec["networks"][0]["name"].as_str(), notes.len()), (Some("a"), 1));
        assert!(expanded["spec"].get("instancetype").is_none());
    }

    #[test]
    fn an_instancetype_that_was_read_is_used_instead_of_the_running_guest() {
        let vm = json!({"metadata": {"namespace": "demo"}, "spec": {"instancetype": {"name": "u1"}, "template": {"spec": {
            "domain": {"devices": {"interfaces": [{"name": "a"}]}}}}}});
        let mut store = Store::default();
        store
            .insert(
                &json!({"apiVersion": "instancetype.kubevirt.io/v1beta1", "kind": "VirtualMachineClusterInstancetype",
                "metadata": {"name": "u1"}, "spec": {"cpu": {"guest": 1}, "memory": {"guest": "4Gi"}}}),
            )
            .unwrap();
        let vmi = json!({"spec": {"domain": {"devices": {"rng": {}}}}});
        let mut notes = Vec::new();
        assert_eq!(expanded(vm.clone(), Some(&vmi), &store, &mut notes), vm);
        assert!(notes.is_empty(), "{notes:?}");
    }
}
