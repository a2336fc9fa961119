//! The command that undoes a change.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{CommandContext, output::Console};
use crate::{
    cli::arguments::{program, quoted},
    hotplug::edit::EditRequest,
};

/// The fields of an interface that `addinterface` can write, or that a removal sets.
const RESTORED: [&str; 5] = ["name", "bridge", "sriov", "macAddress", "state"];

/// Prints how to undo the change of these VMs, each with its name and the VM before the change.
pub(super) fn print(context: CommandContext<'_>, console: &Console, changed: &[(&str, &Value)]) -> anyhow::Result<()> {
    let flags = context.args.cluster.repeated();
    let Undo { commands, notes } = undo(&context.job.request, changed);
    if !commands.is_empty() {
        console.info("To undo this:")?;
    }
    for command in commands {
        console.verbatim(&format!("  {} {command}{flags}", program()))?;
    }
    notes.iter().try_for_each(|note| console.note(note))?;
    Ok(())
}

/// How to undo a change.
#[derive(Debug, Default, Eq, PartialEq)]
struct Undo {
    /// The commands, without the name of the program.
    commands: Vec<String>,
    /// What they do not restore.
    notes: Vec<String>,
}

fn undo(request: &EditRequest, changed: &[(&str, &Value)]) -> Undo {
    let nic = request.nic();
    let mut undo = Undo::default();
    if let EditRequest::Add(_) = request {
        let names: Vec<&str> = changed.iter().map(|(name, _)| *name).collect();
        if !names.is_empty() {
            undo.commands.push(format!("removeinterface {} --name {}", names.join(" "), quoted(nic)));
        }
        return undo;
    }
    let mut by_flags: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, vm) in changed {
        match flags_of(vm, nic) {
            Ok((flags, lost)) => {
                by_flags.entry(flags).or_default().push(name);
                if !lost.is_empty() {
                    undo.notes.push(format!("{name}: the command does not restore {} of {nic:?}", lost.join(", ")));
                }
            }
            Err(why) => undo.notes.push(format!("{name}: addinterface cannot add {nic:?} again: {why}")),
        }
    }
    for (flags, names) in by_flags {
        undo.commands.push(format!("addinterface {} --name {}{flags}", names.join(" "), quoted(nic)));
    }
    undo
}

/// Returns the flags that add the NIC again, and the fields that they do not restore.
fn flags_of<'v>(vm: &'v Value, nic: &str) -> Result<(String, Vec<&'v str>), &'static str> {
    let find = |list: &str| {
        let entries = vm.pointer(&format!("/spec/template/spec/{list}")).and_then(Value::as_array);
        entries.into_iter().flatten().find(|entry| entry["name"] == nic)
    };
    let network = find("networks").and_then(|network| network.pointer("/multus/networkName")?.as_str());
    let (Some(network), Some(interface)) = (network, find("domain/devices/interfaces").and_then(Value::as_object))
    else {
        return Err("it is not on a NetworkAttachmentDefinition");
    };
    let is_sriov = interface.contains_key("sriov");
    if !is_sriov && !interface.contains_key("bridge") {
        return Err("its binding is neither bridge nor sriov");
    }
    let mac = interface.get("macAddress").and_then(Value::as_str);
    let mac = mac.map(|mac| format!(" --mac {}", quoted(mac))).unwrap_or_default();
    let sriov = if is_sriov { " --sriov" } else { "" };
    let lost = interface.keys().map(String::as_str).filter(|key| !RESTORED.contains(key)).collect();
    Ok((format!(" --nad {}{mac}{sriov}", quoted(network)), lost))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hotplug::edit::NewNic;

    fn vm(interface: &Value) -> Value {
        json!({"spec": {"template": {"spec": {"domain": {"devices": {"interfaces": [interface]}},
            "networks": [{"name": "blue", "multus": {"networkName": "infra/net"}}]}}}})
    }

    #[test]
    fn an_added_nic_is_removed_from_all_vms_by_one_command() {
        let add = EditRequest::Add(NewNic { name: "blue".to_owned(), ..NewNic::default() });
        let vm = Value::Null;
        let found = undo(&add, &[("a", &vm), ("b", &vm)]);
        assert_eq!(found.commands, ["removeinterface a b --name blue"]);
        assert_eq!(undo(&add, &[]), Undo::default());
    }

    #[test]
    fn a_removed_nic_is_added_by_a_command_for_each_way_in_which_it_was_attached() {
        let remove = EditRequest::Remove("blue".to_owned());
        let bridge = vm(&json!({"name": "blue", "bridge": {}}));
        let with_model = vm(&json!({"name": "blue", "bridge": {}, "model": "e1000"}));
        let sriov = vm(&json!({"name": "blue", "sriov": {}, "macAddress": "02:00:00:00:00:0a"}));
        let masquerade = vm(&json!({"name": "blue", "masquerade": {}}));
        let all = [("a", &bridge), ("b", &with_model), ("c", &sriov), ("d", &masquerade), ("e", &Value::Null)];
        let found = undo(&remove, &all);
        assert_eq!(
            found.commands,
            [
                "addinterface a b --name blue --nad infra/net",
                "addinterface c --name blue --nad infra/net --mac 02:00:00:00:00:0a --sriov"
            ]
        );
        assert_eq!(
            found.notes,
            [
                "b: the command does not restore model of \"blue\"",
                "d: addinterface cannot add \"blue\" again: its binding is neither bridge nor sriov",
                "e: addinterface cannot add \"blue\" again: it is not on a NetworkAttachmentDefinition"
            ]
        );
    }
}
