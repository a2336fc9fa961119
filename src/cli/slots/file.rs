//! The PCI ports of a VM or VMI in a file.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};

use super::{AT_BOOT, Printout, SlotsArgs, now::Now, plan_with};
use crate::{
    cli::{
        arguments::program,
        guests::{has_boot_record, name_in},
        plan::exit_status,
        terminal::page_width,
    },
    cluster::{
        files,
        manifests::{self, Manifest},
        store::Store,
    },
    facts::Fact,
    hotplug::place::{self, Surroundings},
    k8s::kind::Kind,
    kubevirt::NEWEST_KNOWN,
    settings::ApiSettings,
};

/// Prints the ports of the guest of a file.
pub(super) fn run(args: &SlotsArgs, path: &Path, output: &mut impl Write) -> anyhow::Result<ExitCode> {
    if let Some(flag) = args.cluster.given() {
        bail!("{flag} selects a cluster, and -f reads a file: leave one of them out");
    }
    let settings = args.settings.read()?;
    let mut store = match &args.facts {
        Some(path) => files::load(path, &settings.api).context("--facts")?,
        None => Store::default(),
    };
    let version = store.kubevirt().known().and_then(|kubevirt| kubevirt.version);
    let version = args.kubevirt_version.or(version).unwrap_or(NEWEST_KNOWN);
    let is_stdin = path == Path::new("-");
    let source = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let text = if is_stdin { files::read_from(io::stdin().lock(), Path::new(&source))? } else { files::read(path)? };
    let guests = manifests::read(&text).with_context(|| source.clone())?;
    let Selected { guest, vmi } = select(guests, &settings.api, args.vm.as_deref(), &source)?;
    let is_vmi = guest.kind() == VMI;
    if is_vmi && !args.what_if.is_empty() {
        bail!("--what-if needs a VirtualMachine: {:?} is only a VMI", guest.name());
    }
    let vmi = match (vmi, &args.facts) {
        (None, _) if is_vmi => Some(guest.clone()),
        (None, Some(facts)) => {
            let is_wanted = |object: &Manifest| {
                is_guest(object, &settings.api) && object.kind() == VMI && place_of(object) == place_of(&guest)
            };
            files::find(facts, is_wanted).context("--facts")?
        }
        (vmi, _) => vmi,
    };
    // Only a VMI that the cluster has started shows what is free now.
    let running = vmi.filter(|vmi| vmi.object.pointer("/status/phase").is_some() || has_boot_record(&vmi.object));
    match &running {
        Some(vmi) => files::insert(&mut store, vmi).with_context(|| source.clone())?,
        // The VM of a file is shown as it boots.
        None => store.mark_absent(Kind::Vmi, guest.namespace(), guest.name()),
    }
    let store = Arc::new(store);
    let plan = match args.what_if.as_slice() {
        [] => None,
        nics => Some(plan_with(nics, &guest.object, &(Arc::clone(&store) as _), &settings)?),
    };
    let report = (running.is_some() || plan.is_some()).then(|| {
        place::report(&Surroundings {
            vm: (!is_vmi).then_some(&guest.object),
            vmi: running.as_ref().map_or(Fact::Absent, |vmi| Fact::Known(&vmi.object)),
            pods: None,
            migrations: None,
            events: None,
            facts: &*store,
            settings: &settings,
        })
    });
    let object = plan.as_ref().map_or(&guest.object, |plan| &plan.object);
    let printout = Printout {
        when: if is_vmi && report.is_some() { AT_BOOT } else { "" },
        now: report.as_ref().map(|report| Now { report, plan: plan.as_ref() }),
        ..Printout::of(guest.kind(), object, &store, version, Vec::new())?
    };
    let fails = printout.fails();
    output.write_all(printout.render(args.output, page_width())?.as_bytes())?;
    Ok(ExitCode::from(if fails { 1 } else { plan.as_ref().map_or(0, exit_status) }))
}

const VMI: &str = "VirtualMachineInstance";

/// The guest of a file.
#[derive(Debug)]
struct Selected {
    /// The VM; the VMI if there is no VM.
    guest: Manifest,
    /// The VMI of the VM.
    vmi: Option<Manifest>,
}

fn is_guest(manifest: &Manifest, api: &ApiSettings) -> bool {
    let group = manifest.api_version().split_once('/').map_or("", |(group, _)| group);
    api.of_kubevirt(group) == "kubevirt.io" && matches!(manifest.kind(), "VirtualMachine" | VMI)
}

fn place_of(manifest: &Manifest) -> (&str, &str) {
    (manifest.namespace(), manifest.name())
}

/// Returns the guest of a file: the only one, or that with the name.
fn select(all: Vec<Manifest>, api: &ApiSettings, argument: Option<&str>, source: &str) -> anyhow::Result<Selected> {
    let name = argument.map(name_in).transpose()?;
    let guests: Vec<Manifest> = all.into_iter().filter(|manifest| is_guest(manifest, api)).collect();
    let names: Vec<String> = guests.iter().map(|guest| format!("{} {}", guest.kind(), guest.name())).collect();
    let names = names.join(", ");
    if guests.is_empty() {
        bail!("{source} has no VirtualMachine or VirtualMachineInstance of kubevirt.io");
    }
    let chosen = guests.into_iter().filter(|guest| name.is_none_or(|name| guest.name() == name));
    let (mut vms, mut vmis): (Vec<Manifest>, Vec<Manifest>) = chosen.partition(|guest| guest.kind() != VMI);
    let is_pair = vms
        .iter()
        .chain(&vmis)
        .all(|guest| vms.iter().all(|vm| (vm.name(), vm.namespace()) == (guest.name(), guest.namespace())));
    match (vms.len(), vmis.len(), vms.pop(), vmis.pop()) {
        (1, 1, Some(guest), vmi) if is_pair => Ok(Selected { guest, vmi }),
        (1, 0, Some(guest), _) | (0, 1, _, Some(guest)) => Ok(Selected { guest, vmi: None }),
        (0, 0, ..) => bail!("{source} has no VM named {:?}; it has {names}", name.unwrap_or_default()),
        _ if name.is_some() => bail!("{source} has several guests named {:?}; keep one", name.unwrap_or_default()),
        _ => bail!("{source} has several guests; name one of {names}, as in `{} slots NAME -f FILE`", program()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(kind: &str, name: &str) -> String {
        format!("apiVersion: kubevirt.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\n---\n")
    }

    #[test]
    fn the_only_guest_of_a_file_is_shown_and_of_several_the_one_that_is_named() {
        let (a, b, vmi) = (manifest("VirtualMachine", "a"), manifest("VirtualMachine", "b"), manifest(VMI, "a"));
        let other = "kind: ConfigMap\n---\n";
        for (text, name, expected) in [
            (format!("{other}{a}"), None, Ok("VirtualMachine a false")),
            (vmi.clone(), None, Ok("VirtualMachineInstance a false")),
            (format!("{vmi}{a}"), None, Ok("VirtualMachine a true")),
            (format!("{a}{b}{vmi}"), Some("vm/a"), Ok("VirtualMachine a true")),
            (format!("{a}{b}"), Some("b"), Ok("VirtualMachine b false")),
            (other.to_owned(), None, Err("x has no VirtualMachine")),
            (format!("{a}{b}"), None, Err("x has several guests; name one of VirtualMachine a, VirtualMachine b,")),
            (format!("{b}{vmi}"), None, Err("x has several guests; name one of")),
            (format!("{a}{a}"), Some("a"), Err("x has several guests named \"a\"")),
            (a.clone(), Some("c"), Err("x has no VM named \"c\"; it has VirtualMachine a")),
            (a.clone(), Some("pod/a"), Err("\"pod/a\" is not a VM")),
        ] {
            let found = select(manifests::read(&text).unwrap(), &ApiSettings::default(), name, "x");
            match (found, expected) {
                (Ok(Selected { guest, vmi }), Ok(expected)) => {
                    assert_eq!(format!("{} {} {}", guest.kind(), guest.name(), vmi.is_some()), expected);
                }
                (Err(error), Err(expected)) => assert!(error.to_string().starts_with(expected), "{error}"),
                (found, expected) => panic!("{found:?} and not {expected:?}"),
            }
        }
    }
}
