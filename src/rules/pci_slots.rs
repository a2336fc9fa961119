//! NP106.

pub(super) mod counts;

use std::collections::BTreeSet;

use super::{Case, CauseType, Finding, Rule, rule};
use crate::{
    api::{guest::GuestSpec, quote::quote},
    facts::{
        Fact, Vmi,
        boot::Stamp,
        expand::with_guest,
        nic::{GuestNic, HotplugMethod},
    },
    kubevirt::Version,
    pci::{self, BootSlots, Devices, HotplugCapacity, MachineType, PciNic, PciOptions},
};

rule! {
    /// A NIC is plugged into a running VM that has no free PCI port for it.
    ///
    /// ## Why
    /// A hotplugged NIC needs a free PCI port, and their number is fixed when the guest boots: it depends on the
    /// machine, the devices, the memory and the KubeVirt version. NICs, virtio disks and memory that are plugged later
    /// use one each. When no port is left, libvirt fails in virt-launcher, again and again. `nicplug slots` shows the
    /// ports of a guest; nicplug records them at boot in the annotation `nicplug.io/boot-slots`.
    ///
    /// The figures are an estimate, and the rule only warns, where something may rewrite the domain of the guest: the
    /// annotation `hooks.kubevirt.io/hookSidecars`, the gate Plugins, or the gate PCINUMAAwareTopology for a guest with
    /// dedicated CPUs and a PCI device of the host.
    ///
    /// ## Example
    /// On KubeVirt 1.9 a guest of 1Gi with four NICs at boot has no free port:
    /// ```yaml
    /// interfaces:
    /// - {name: default, masquerade: {}}
    /// - {name: blue, bridge: {}}
    /// - {name: green, bridge: {}}
    /// - {name: red, bridge: {}}
    /// - {name: dyniface1, bridge: {}}   # added while it runs
    /// ```
    NP106, "pci-slots", Hotplug, Deny,
    field: "domain.devices.interfaces[]",
    fix: "unplug a NIC (state: absent), or restart the VM, which boots with all NICs",
}

fn check(case: &Case) -> Vec<Finding> {
    if case.change.nics.added.is_empty() && case.change.nics.modified.is_empty() {
        return Vec::new();
    }
    case.if_live(&RULE, |vmi| {
        let wanted: Vec<_> = case.plugged(vmi).filter(|nic| case.plug_of(nic) != HotplugMethod::None).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let ports = match Ports::of(case, vmi) {
            Ok(Some(ports)) => ports,
            Ok(None) => return Vec::new(),
            Err(why) => return vec![case.uncounted(&RULE, format!("free PCI ports were not counted: {why}"))],
        };
        let is_short = ports.left < wanted.len() as u64;
        let fix = if is_short { format!("{}; {}", ports.details(), fixes(case, wanted.len())) } else { String::new() };
        let mut findings: Vec<Finding> = wanted
            .iter()
            .skip(usize::try_from(ports.left).unwrap_or(usize::MAX))
            .map(|nic| {
                let (left, boot, port) = (ports.left, ports.at_boot, ports.boot.capacity.name());
                let what = format!(
                    "no free {port} for {}: {} requested, {left} of {boot} free",
                    quote(nic.name),
                    wanted.len()
                );
                RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what).with_fix(fix.clone())
            })
            .collect();
        if let Some(why) = ports.rewrite {
            return estimated(&RULE, findings, why);
        }
        let missing = |left: u64| (wanted.len() as u64).saturating_sub(left);
        let is_uncertain = ports.alternatives.iter().any(|&left| missing(left) != missing(ports.left));
        if ports.is_estimate && (is_uncertain || !findings.is_empty()) {
            let (left, port) = (ports.left, ports.boot.capacity.name());
            let what = format!("{left} free {port}s are an estimate: the VM booted before nicplug was installed");
            findings.push(RULE.advice(String::new(), what));
        }
        findings
    })
}

/// Returns findings about port counts as advice, with one more that says why they are an estimate.
pub(super) fn estimated(rule: &'static Rule, findings: Vec<Finding>, why: &str) -> Vec<Finding> {
    if findings.is_empty() {
        return findings;
    }
    let estimate = rule.advice(String::new(), format!("free PCI ports are an estimate: {why}"));
    findings.into_iter().map(Finding::into_advice).chain([estimate]).collect()
}

/// The PCI ports of a running guest, as far as they limit NICs.
pub(super) struct Ports {
    /// The ports at boot, and the NICs and disks of that time.
    pub(super) boot: BootSlots,
    /// The number of ports that were free at boot.
    at_boot: u64,
    /// The number of NICs that have a port now, or wait for one.
    pub(super) nics: u64,
    /// The number of virtio disks now.
    disks: u64,
    machine: MachineType,
    /// The number of ports that are free now.
    pub(super) left: u64,
    /// Whether the ports at boot were computed from the devices of now.
    is_estimate: bool,
    /// What may rewrite the domain, so that the figures are an estimate.
    rewrite: Option<&'static str>,
    /// Other possible values of `left`, if the NICs at boot are not known.
    alternatives: Vec<u64>,
}

impl Ports {
    /// Computes the ports from the most reliable source: nicplug's annotation, else the ControllerRevision, else the
    /// guest as it is now. Returns `None` if nothing limits the NICs.
    pub(super) fn of(case: &Case, vmi: &Vmi) -> Result<Option<Self>, String> {
        let now = vmi.boot.current_devices.as_ref().ok_or("its devices cannot be read")?;
        let waiting = waiting_in_template(case, vmi);
        let nics = nics_in_place(vmi, now) + waiting;
        let disks = u64::from(now.port_usage.virtio_disks);
        let left = |boot: &BootSlots| boot.left(nics, disks, vmi.boot.has_hotplugged_memory);
        let is_estimate = vmi.boot.stamp == Stamp::Missing && case.facts.revision.known().is_none();
        let (boot, other_boots) = match (vmi.boot.stamp, &case.facts.revision) {
            (Stamp::Invalid, _) => return Err("annotation nicplug.io/boot-slots cannot be read".to_owned()),
            (Stamp::Valid(slots), _) => (slots, Vec::new()),
            (Stamp::Missing, Fact::Known(devices)) => (boot_slots(devices, &devices.nics, version(case)?)?, Vec::new()),
            (Stamp::Missing, Fact::Absent | Fact::Unknown) => {
                let version = version(case)?;
                let defined = defined_nics(case, vmi, now);
                let boot = boot_slots(now, &nics_at_boot(&defined, 0), version)?;
                (boot, estimates(&defined, now, version))
            }
        };
        let (Some(at_boot), Some(free)) = (boot.capacity.free(), left(&boot)) else { return Ok(None) };
        let alternatives = other_boots.iter().filter_map(left).collect();
        let machine = now.port_usage.machine;
        let rewrite = case.domain_rewrite(&now.port_usage);
        Ok(Some(Self { boot, at_boot, nics, disks, machine, left: free, is_estimate, rewrite, alternatives }))
    }

    /// Describes how the number of free ports was computed.
    fn details(&self) -> String {
        let Self { boot, at_boot, nics, disks, machine, .. } = self;
        let (machine, port) = (machine.as_str(), boot.capacity.name());
        format!(
            "it booted with {at_boot} free {port}s ({machine}, NICs: {}, virtio disks: {}), now NICs: {nics}, \
             disks: {disks}",
            boot.nics, boot.disks
        )
    }
}

/// Describes the possible fixes: unplug, restart (with the free ports after it), reservation.
fn fixes(case: &Case, wanted: usize) -> String {
    let restart = match room_after_restart(case) {
        Some(HotplugCapacity::Unlimited) | None => RULE.fix.to_owned(),
        Some(room) => format!("{} and then has {} free", RULE.fix, room.free().unwrap_or_default()),
    };
    format!("{restart}; annotation nicplug.io/reserve-ports: \"{wanted}\" reserves free ports at every boot")
}

fn version(case: &Case) -> Result<Version, String> {
    let version = case.version();
    version.ok_or_else(|| "KubeVirt's version is not known".to_owned())
}

fn boot_slots(devices: &Devices, nics: &[PciNic], version: Version) -> Result<BootSlots, String> {
    BootSlots::of(&devices.port_usage, nics, version)
        .ok_or_else(|| "according to nicplug's model the guest cannot boot".to_owned())
}

/// Counts the NICs that have a port or wait for one: those of the spec, and absent ones that the domain still has.
fn nics_in_place(vmi: &Vmi, now: &Devices) -> u64 {
    let is_in_place = |(nic, counted): &(&GuestNic, &PciNic)| {
        if nic.is_absent {
            vmi.status_nic(&nic.name).is_some_and(|seen| seen.is_in_domain)
        } else {
            counted.slot_kind.is_some()
        }
    };
    if vmi.nics.is_empty() {
        // Only the default NIC, which KubeVirt gives to a guest without any.
        return now.nics.iter().filter(|nic| nic.slot_kind.is_some()).count() as u64;
    }
    vmi.nics.iter().zip(&now.nics).filter(is_in_place).count() as u64
}

/// Counts the NICs of the stored template that KubeVirt has not copied yet: an earlier change added them.
fn waiting_in_template(case: &Case, vmi: &Vmi) -> u64 {
    let Some(before) = case.change.before.filter(|before| before.vmi.is_none()) else { return 0 };
    let added_now: BTreeSet<&str> = case.plugged(vmi).map(|nic| nic.name).collect();
    let missing = GuestNic::named(before.guest, |name| !vmi.has_nic(name) && !added_now.contains(name));
    let waits = |nic: &&GuestNic| case.plug_of_guest(nic) != HotplugMethod::None && !nic.is_absent;
    missing.iter().filter(waits).count() as u64
}

/// A NIC of a running guest that has its device.
struct DefinedNic {
    pci: PciNic,
    /// Whether it may have been plugged since the boot.
    is_pluggable: bool,
}

/// Returns the NICs of a guest without those that wait for their device, as far as its status shows.
fn defined_nics(case: &Case, vmi: &Vmi, now: &Devices) -> Vec<DefinedNic> {
    let place = PciNic::hotplugged(&now.port_usage);
    if vmi.nics.is_empty() {
        // A guest without any interface in its spec has the default one.
        return now.nics.iter().map(|&pci| DefinedNic { pci, is_pluggable: false }).collect();
    }
    let in_domain: BTreeSet<&str> =
        vmi.status_nics.iter().filter(|seen| seen.is_in_domain).map(|seen| &*seen.name).collect();
    let nics = vmi.nics.iter().zip(&now.nics).filter_map(|(nic, counted)| {
        let is_pluggable = case.plug_of_guest(nic) != HotplugMethod::None;
        let is_waiting = !in_domain.is_empty() && is_pluggable && !nic.is_absent && !in_domain.contains(&*nic.name);
        // A NIC that is absent now was there at boot.
        let pci = if nic.is_absent { place } else { *counted };
        (!is_waiting).then_some(DefinedNic { pci, is_pluggable })
    });
    nics.collect()
}

/// Returns the NICs that the guest booted with, if the last `plugged` ones were plugged later.
fn nics_at_boot(defined: &[DefinedNic], plugged: usize) -> Vec<PciNic> {
    let mut to_skip = plugged;
    let mut nics: Vec<PciNic> = Vec::with_capacity(defined.len());
    for nic in defined.iter().rev() {
        if to_skip > 0 && nic.is_pluggable {
            to_skip -= 1;
        } else {
            nics.push(nic.pci);
        }
    }
    nics.reverse();
    nics
}

/// Returns what the guest may have booted with, if some of its NICs were plugged later.
fn estimates(defined: &[DefinedNic], now: &Devices, version: Version) -> Vec<BootSlots> {
    let pluggable = defined.iter().filter(|nic| nic.is_pluggable).count();
    let at_boot = (1..=pluggable).map(|plugged| nics_at_boot(defined, plugged));
    at_boot.filter_map(|nics| BootSlots::of(&now.port_usage, &nics, version)).collect()
}

/// Returns the room that the VM would have after a restart with the new template.
fn room_after_restart(case: &Case) -> Option<HotplugCapacity> {
    room_of(case, &devices_after_restart(case)?)
}

fn room_of(case: &Case, devices: &Devices) -> Option<HotplugCapacity> {
    Some(BootSlots::of(&devices.port_usage, &devices.nics, case.version()?)?.capacity)
}

/// Returns the devices that the VM would have after a restart with the new template.
fn devices_after_restart(case: &Case) -> Option<Devices> {
    let after = &case.change.after;
    if after.vmi.is_some() {
        return None;
    }
    let kinds = case.facts.kubevirt.known()?;
    let count = |guest: &GuestSpec, options: &PciOptions| pci::count_devices(guest, options, &**kinds).ok();
    with_guest(after, case.facts.expansion(), count)?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        facts::vmi::StatusNic,
        pci::NoRegistry,
        rules::{
            FindingKind,
            testing::{Expect, Hotplug},
        },
    };

    /// Returns a change that plugs NICs into a guest with the default one. On KubeVirt 1.9 it has four free ports.
    fn plug(count: usize) -> Hotplug {
        let nic = |number: usize| {
            (
                format!(r#"{{"name": "d{number}", "bridge": {{}}}}"#),
                format!(r#"{{"name": "d{number}", "multus": {{"networkName": "new-fancy-net"}}}}"#),
            )
        };
        let mut hotplug = Hotplug::of(&nic(1).0).on(&nic(1).1);
        for number in 2..=count {
            let (interface, network) = nic(number);
            hotplug = hotplug.with(&interface, &network);
        }
        hotplug
    }

    /// Returns the indices of the interfaces without a free port.
    fn without_port(hotplug: &Hotplug) -> Vec<String> {
        let findings = hotplug.findings(&RULE);
        let faults = findings.iter().filter(|finding| matches!(finding.kind, FindingKind::Fault(_)));
        let index = |field: &str| field.rsplit_once('[').map(|(_, index)| index.trim_end_matches(']').to_owned());
        faults.filter_map(|fault| index(&fault.field)).collect()
    }

    /// Returns the devices of a guest.
    fn devices(vmi: &mut Vmi) -> &mut Devices {
        Arc::make_mut(vmi.boot.current_devices.as_mut().unwrap())
    }

    fn with_boot_slots(hotplug: Hotplug, slots: &str) -> Hotplug {
        hotplug.vmi(|vmi| vmi.boot.stamp = Stamp::Valid(slots.parse().unwrap()))
    }

    #[test]
    fn as_many_nics_fit_as_ports_are_free() {
        plug(4).expect(&RULE, &Expect::Silent);
        assert_eq!(without_port(&plug(5)), ["5"]);
        plug(1).kubevirt("v0.59.0", &["HotplugNICs"]).expect(&RULE, &Expect::Silent);
        assert_eq!(without_port(&plug(2).kubevirt("v0.59.0", &["HotplugNICs"])), ["2"]);
    }

    #[test]
    fn the_annotation_is_preferred_to_the_guest_as_it_is_now() {
        with_boot_slots(plug(1), "v1:port=0,nics=1,disks=0")
            .expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]));
        with_boot_slots(plug(5), "v1:port=9,nics=1,disks=0").expect(&RULE, &Expect::Silent);
        with_boot_slots(plug(5), "v1:any,nics=1,disks=0").expect(&RULE, &Expect::Silent);
        plug(1).vmi(|vmi| vmi.boot.stamp = Stamp::Invalid).expect(&RULE, &Expect::Unchecked);
    }

    #[test]
    fn the_revision_is_preferred_to_the_guest_as_it_is_now() {
        let template = r#"{"domain": {"devices": {"interfaces": [
            {"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}, {"name": "c", "bridge": {}}, {"name": "d", "bridge": {}}]}}}"#;
        let spec = serde_json::from_str(template).unwrap();
        let revision = pci::count_devices(&spec, &PciOptions::default(), &NoRegistry).unwrap();
        // Four NICs at boot and no free port; three of them were unplugged, and their ports are free.
        plug(4)
            .facts(|facts| facts.revision = Fact::Known(Arc::new(revision)))
            .expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces[4]"]));
    }

    #[test]
    fn devices_that_were_plugged_later_use_ports() {
        let with = |change: fn(&mut Vmi)| {
            with_boot_slots(plug(4), "v1:port=4,nics=1,disks=0").vmi(change).findings(&RULE).len()
        };
        assert_eq!(with(|_| {}), 0);
        assert_eq!(with(|vmi| vmi.boot.has_hotplugged_memory = true), 1);
        assert_eq!(with(|vmi| devices(vmi).port_usage.virtio_disks = 2), 2);
    }

    #[test]
    fn an_absent_nic_uses_its_port_until_the_domain_has_removed_it() {
        let absent = |is_in_domain: bool| {
            with_boot_slots(plug(5).having(&["old"]), "v1:port=4,nics=2,disks=0")
                .vmi(|vmi| {
                    Arc::make_mut(&mut vmi.nics)[1].is_absent = true;
                    let seen = StatusNic { name: "old".into(), is_in_domain, ..StatusNic::default() };
                    Arc::make_mut(&mut vmi.status_nics).push(seen);
                })
                .findings(&RULE)
                .len()
        };
        assert_eq!((absent(true), absent(false)), (1, 0));
    }

    #[test]
    fn two_requests_in_a_row_are_both_counted() {
        // The template has two NICs that have not reached the guest yet.
        let waiting = |hotplug: Hotplug| {
            hotplug.having(&["first", "second"]).vmi(|vmi| {
                Arc::make_mut(&mut vmi.nics).truncate(1);
                devices(vmi).nics.truncate(1);
            })
        };
        waiting(plug(2)).expect(&RULE, &Expect::Silent);
        assert_eq!(without_port(&waiting(plug(3))).len(), 1);
    }

    #[test]
    fn a_nic_without_a_device_was_not_there_at_boot() {
        // Three bridges in the spec, of which the domain has none yet: they wait for three of the four ports.
        let waiting = |count| without_port(&plug(count).having(&["a", "b", "c"]).seen("defaultnetwork", "eth0")).len();
        assert_eq!((waiting(1), waiting(2)), (0, 1));
    }

    #[test]
    fn an_estimate_that_matters_is_reported_as_one() {
        // Four NICs: no port is free if they were there at boot, one if three were plugged later.
        let findings = plug(1).having(&["a", "b", "c"]).findings(&RULE);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[1].what.contains("estimate"), "{findings:?}");
        // Two NICs: three ports are free either way.
        plug(1).having(&["a"]).expect(&RULE, &Expect::Silent);
        // So does a denial based on an estimate; one based on the annotation does not.
        assert!(plug(5).findings(&RULE).iter().any(|finding| finding.what.contains("estimate")));
        let sure = with_boot_slots(plug(5), "v1:port=4,nics=1,disks=0").findings(&RULE);
        assert!(!sure.iter().any(|finding| finding.what.contains("estimate")), "{sure:?}");
    }

    #[test]
    fn a_domain_that_something_may_rewrite_makes_the_denial_an_advice() {
        let texts = |hotplug: Hotplug| -> Vec<String> {
            let findings = hotplug.findings(&RULE);
            let is_advice = findings.iter().all(|finding| finding.kind == FindingKind::Advice);
            assert!(is_advice, "{findings:?}");
            findings.into_iter().map(|finding| finding.what).collect()
        };
        let sidecars = |count| plug(count).vmi(|vmi| devices(vmi).port_usage.has_sidecars = true);
        let numa = |count| plug(count).vmi(|vmi| devices(vmi).port_usage.has_numa_devices = true);
        let full = "no free hotplug port for \"d5\": 5 requested, 4 of 4 free";
        for (hotplug, why) in [
            (sidecars(5), "a hook sidecar may rewrite the domain"),
            (numa(5).kubevirt("v1.9.0", &["PCINUMAAwareTopology"]), "KubeVirt places host devices by NUMA node"),
            (plug(5).kubevirt("v1.9.0", &["Plugins"]), "a KubeVirt plugin may rewrite the domain"),
        ] {
            assert_eq!(texts(hotplug), [full.to_owned(), format!("free PCI ports are an estimate: {why}")]);
        }
        assert_eq!(without_port(&numa(5)), ["5"], "without the gate nothing moves the devices");
        assert_eq!(without_port(&plug(5).kubevirt("v1.9.0", &["PCINUMAAwareTopology"])), ["5"]);
        sidecars(4).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn the_denial_shows_the_counts_and_the_fixes() {
        let finding = plug(5).findings(&RULE).remove(0);
        assert_eq!(finding.what, "no free hotplug port for \"d5\": 5 requested, 4 of 4 free");
        for part in [
            "it booted with 4 free hotplug ports (q35, NICs: 1, virtio disks: 0), now NICs: 1, disks: 0",
            "unplug a NIC",
            "restart the VM, which boots with all NICs and then has 0 free",
            "nicplug.io/reserve-ports: \"5\"",
        ] {
            assert!(finding.fix.contains(part), "{part}: {}", finding.fix);
        }
    }

    #[test]
    fn machines_without_ports_have_other_limits() {
        let on = |domain: &str, count| {
            let text = format!(
                r#"{{"spec": {{"domain": {{{domain} "interfaces": [{{"name": "a", "masquerade": {{}}}}]}}}}}}}}"#
            );
            let boot = Vmi::from(&serde_json::from_str(&text).unwrap()).boot;
            plug(count).vmi(|vmi| vmi.boot = boot).findings(&RULE).len()
        };
        assert_eq!(on(r#""machine": {"type": "pc"}, "devices": {"#, 20), 0);
        assert!(on(r#""machine": {"type": "pc"}, "devices": {"#, 40) > 0);
        assert_eq!(on(r#""devices": {"useVirtioTransitional": true,"#, 20), 0);
        assert!(on(r#""devices": {"useVirtioTransitional": true,"#, 40) > 0);
        with_boot_slots(plug(40), "v1:any,nics=1,disks=0").expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn unknown_facts_are_reported_and_deny_nothing() {
        plug(9).kubevirt("", &["HotplugNICs"]).expect(&RULE, &Expect::Unchecked);
        plug(9).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        plug(9).vmi_unknown().expect(&RULE, &Expect::Unchecked);
        plug(9).stopped().expect(&RULE, &Expect::Silent);
    }
}
