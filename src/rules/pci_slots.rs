//! NP106.

use std::collections::BTreeSet;

use super::{Case, CauseType, Finding, plug_of, rule};
use crate::{
    facts::{
        Fact, Vmi,
        boot::{self, Stamp},
        nic::{GuestNic, HotplugMethod},
        vmi::StatusNic,
    },
    kubevirt::Version,
    pci::{self, BootSlots, Devices, HotplugCapacity, MachineType, PciNic},
};

rule! {
    /// A NIC is plugged into a running VM that has no free PCI port for it.
    ///
    /// ## Why
    /// A hotplugged NIC needs a free PCI port, and how many there are is fixed when the guest boots: it follows from
    /// the machine, the devices, the memory and the KubeVirt version. NICs, virtio disks and memory that are plugged
    /// later take one each. When none is left, libvirt fails inside virt-launcher, again and again. `nicplug slots`
    /// shows a guest's ports; nicplug remembers them at boot in the annotation `nicplug.io/boot-slots`.
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
    fix: "unplug a NIC (state: absent), or restart the VM, which boots with all of them",
}

fn check(case: &Case) -> Vec<Finding> {
    if case.change.nics.added.is_empty() && case.change.nics.modified.is_empty() {
        return Vec::new();
    }
    case.if_live(&RULE, |vmi| {
        let wanted: Vec<_> = case.plugged(vmi).filter(|nic| plug_of(nic) != HotplugMethod::None).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let ports = match Ports::of(case, vmi) {
            Ok(Some(ports)) => ports,
            Ok(None) => return Vec::new(),
            Err(why) => return vec![case.uncounted(&RULE, format!("free PCI ports were not counted: {why}"))],
        };
        let is_short = ports.left < wanted.len() as u64;
        let fix = if is_short { format!("{}; {}", ports.sum(), ways_out(case, wanted.len())) } else { String::new() };
        let mut findings: Vec<Finding> = wanted
            .iter()
            .skip(usize::try_from(ports.left).unwrap_or(usize::MAX))
            .map(|nic| {
                let (left, boot, place) = (ports.left, ports.at_boot, ports.boot.capacity.name());
                let what =
                    format!("no {place} is left for {:?}: {} wanted, {left} of {boot} free", nic.name, wanted.len());
                RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what).with_fix(fix.clone())
            })
            .collect();
        let missing = |left: u64| (wanted.len() as u64).saturating_sub(left);
        let is_guess = ports.at_worst_and_best.iter().any(|&left| missing(left) != missing(ports.left));
        if ports.is_estimate && (is_guess || !findings.is_empty()) {
            let place = ports.boot.capacity.name();
            let what = format!("{} free {place}s is an estimate: the VM booted before nicplug was there", ports.left);
            findings.push(RULE.advice(String::new(), what));
        }
        findings
    })
}

/// The room for NICs in a running guest.
struct Ports {
    /// What the guest booted with.
    boot: BootSlots,
    /// Free at boot.
    at_boot: u64,
    /// NICs that have a place now, or wait for one.
    nics: u64,
    /// Virtio disks now.
    disks: u64,
    machine: MachineType,
    /// Free now.
    left: u64,
    /// Whether the boot was reckoned from the guest as it is now.
    is_estimate: bool,
    /// What might be free now where nobody knows which NICs were there at boot; empty where that is known.
    at_worst_and_best: Vec<u64>,
}

impl Ports {
    /// Reckons from what is surest: our stamp, the ControllerRevision, the guest as it is now. `None` where nothing
    /// limits NICs.
    fn of(case: &Case, vmi: &Vmi) -> Result<Option<Self>, String> {
        let now = vmi.boot.current_devices.as_ref().ok_or("its devices cannot be read")?;
        let waiting = waiting_in_template(case, vmi);
        let nics = nics_in_place(vmi, now) + waiting;
        let disks = u64::from(now.port_usage.virtio_disks);
        let left = |boot: &BootSlots| boot.left(nics, disks, vmi.boot.has_hotplugged_memory);
        let is_estimate = vmi.boot.stamp == Stamp::Missing && case.facts.revision.known().is_none();
        let (boot, alternatives) = match (vmi.boot.stamp, &case.facts.revision) {
            (Stamp::Invalid, _) => return Err("annotation nicplug.io/boot-slots cannot be read".to_owned()),
            (Stamp::Valid(slots), _) => (slots, Vec::new()),
            (Stamp::Missing, Fact::Known(devices)) => (boot_slots(devices, &devices.nics, version(case)?)?, Vec::new()),
            (Stamp::Missing, Fact::Absent | Fact::Unknown) => {
                let version = version(case)?;
                let boot = boot_slots(now, &nics_at_boot(vmi, now, 0), version)?;
                (boot, estimates(vmi, now, version))
            }
        };
        let (Some(at_boot), Some(free)) = (boot.capacity.free(), left(&boot)) else { return Ok(None) };
        let at_worst_and_best = alternatives.iter().filter_map(left).collect();
        let machine = now.port_usage.machine;
        Ok(Some(Self { boot, at_boot, nics, disks, machine, left: free, is_estimate, at_worst_and_best }))
    }

    /// How the figure comes about.
    fn sum(&self) -> String {
        let Self { boot, at_boot, nics, disks, machine, .. } = self;
        let (machine, place) = (machine.as_str(), boot.capacity.name());
        format!(
            "it booted with {at_boot} free {place}s ({machine}, NICs: {}, virtio disks: {}), now NICs: {nics}, disks: {disks}",
            boot.nics, boot.disks
        )
    }
}

/// The ways out: unplug, restart and with how many ports, the reservation.
fn ways_out(case: &Case, wanted: usize) -> String {
    let restart = match room_after_restart(case) {
        Some(HotplugCapacity::Unlimited) | None => RULE.fix.to_owned(),
        Some(room) => format!("{} and then has {} free", RULE.fix, room.free().unwrap_or_default()),
    };
    format!("{restart}; annotation nicplug.io/reserve-ports: \"{wanted}\" keeps more free at every boot")
}

fn version(case: &Case) -> Result<Version, String> {
    let version = case.facts.kubevirt.known().and_then(|kubevirt| kubevirt.version);
    version.ok_or_else(|| "KubeVirt's version is not known".to_owned())
}

fn boot_slots(devices: &Devices, nics: &[PciNic], version: Version) -> Result<BootSlots, String> {
    BootSlots::of(&devices.port_usage, nics, version)
        .ok_or_else(|| "by nicplug's model the guest cannot boot".to_owned())
}

/// NICs that have a place on the bus, or wait for one: those of the spec, and absent ones that the domain still has.
fn nics_in_place(vmi: &Vmi, now: &Devices) -> u64 {
    let is_in_place = |(nic, counted): &(&GuestNic, &PciNic)| {
        if nic.is_absent {
            vmi.status_nic(&nic.name).is_some_and(|seen| seen.is_in_domain)
        } else {
            counted.slot_kind.is_some()
        }
    };
    if vmi.nics.is_empty() {
        // The default NIC of a guest that has none of its own.
        return now.nics.iter().filter(|nic| nic.slot_kind.is_some()).count() as u64;
    }
    vmi.nics.iter().zip(&now.nics).filter(is_in_place).count() as u64
}

/// NICs of the stored template that KubeVirt has not copied yet: they were asked for before this change.
fn waiting_in_template(case: &Case, vmi: &Vmi) -> u64 {
    let Some(before) = case.change.before.filter(|before| before.vmi.is_none()) else { return 0 };
    let template = GuestNic::all(before.guest);
    let waits = |nic: &&GuestNic| nic.hotplug != HotplugMethod::None && !nic.is_absent && !vmi.has_nic(&nic.name);
    let asked_now: BTreeSet<&str> = case.plugged(vmi).map(|nic| nic.name).collect();
    template.iter().filter(waits).filter(|nic| !asked_now.contains(&*nic.name)).count() as u64
}

/// The NICs that the guest booted with, as far as its status tells: all but those that wait for their device, and but
/// the last `plugged` that might have been plugged since. One that is absent now was there.
fn nics_at_boot(vmi: &Vmi, now: &Devices, plugged: usize) -> Vec<PciNic> {
    let place = PciNic::hotplugged(&now.port_usage);
    let pairs: Vec<_> = vmi.nics.iter().zip(&now.nics).filter(|(nic, _)| !is_waiting(vmi, nic)).collect();
    let mut to_skip = plugged;
    let mut nics: Vec<PciNic> = Vec::with_capacity(pairs.len());
    for (nic, counted) in pairs.into_iter().rev() {
        if to_skip > 0 && nic.hotplug != HotplugMethod::None {
            to_skip -= 1;
        } else {
            nics.push(if nic.is_absent { place } else { *counted });
        }
    }
    nics.reverse();
    // A guest without any interface of its own has the default one, which its spec does not show.
    if vmi.nics.is_empty() { now.nics.clone() } else { nics }
}

/// What the guest might have booted with, if some of its NICs were plugged since.
fn estimates(vmi: &Vmi, now: &Devices, version: Version) -> Vec<BootSlots> {
    let pluggable = vmi.nics.iter().filter(|nic| nic.hotplug != HotplugMethod::None && !is_waiting(vmi, nic)).count();
    (1..=pluggable)
        .filter_map(|plugged| BootSlots::of(&now.port_usage, &nics_at_boot(vmi, now, plugged), version))
        .collect()
}

/// Whether a NIC of a running guest has no device yet: then it was not there at boot.
fn is_waiting(vmi: &Vmi, nic: &GuestNic) -> bool {
    let is_told = vmi.status_nics.iter().any(|seen| seen.is_in_domain);
    let has_device = vmi.status_nic(&nic.name).is_some_and(|seen: &StatusNic| seen.is_in_domain);
    is_told && nic.hotplug != HotplugMethod::None && !nic.is_absent && !has_device
}

/// The room that the VM would boot with, as its template is to be.
fn room_after_restart(case: &Case) -> Option<HotplugCapacity> {
    let after = &case.change.after;
    if after.vmi.is_some() || after.needs_expansion {
        return None;
    }
    let placement = boot::pci_options(after.guest_metadata.annotations.as_ref()).for_template();
    let kinds = case.facts.kubevirt.known()?;
    let devices = pci::count_devices(after.guest, &placement, &**kinds).ok()?;
    Some(BootSlots::of(&devices.port_usage, &devices.nics, kinds.version?)?.capacity)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        pci::{NoRegistry, PciOptions},
        rules::{
            FindingKind,
            testing::{Expect, Hotplug},
        },
    };

    /// A change that plugs so many NICs into a guest with the default one. On KubeVirt 1.9 it has four free ports.
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

    /// The places of the interfaces that no port is left for.
    fn without_port(hotplug: &Hotplug) -> Vec<String> {
        let findings = hotplug.findings(&RULE);
        let faults = findings.iter().filter(|finding| matches!(finding.kind, FindingKind::Fault(_)));
        let place = |field: &str| field.rsplit_once('[').map(|(_, place)| place.trim_end_matches(']').to_owned());
        faults.filter_map(|fault| place(&fault.field)).collect()
    }

    /// The devices of a guest, to be changed.
    fn devices(vmi: &mut Vmi) -> &mut Devices {
        Arc::make_mut(vmi.boot.current_devices.as_mut().unwrap())
    }

    fn stamped(hotplug: Hotplug, slots: &str) -> Hotplug {
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
    fn the_stamp_is_surer_than_the_guest_as_it_is_now() {
        stamped(plug(1), "v1:port=0,nics=1,disks=0")
            .expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]));
        stamped(plug(5), "v1:port=9,nics=1,disks=0").expect(&RULE, &Expect::Silent);
        stamped(plug(5), "v1:any,nics=1,disks=0").expect(&RULE, &Expect::Silent);
        plug(1).vmi(|vmi| vmi.boot.stamp = Stamp::Invalid).expect(&RULE, &Expect::Unchecked);
    }

    #[test]
    fn the_revision_is_surer_than_the_guest_as_it_is_now() {
        let template = r#"{"domain": {"devices": {"interfaces": [
            {"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}, {"name": "c", "bridge": {}}, {"name": "d", "bridge": {}}]}}}"#;
        let spec = serde_json::from_str(template).unwrap();
        let revision = pci::count_devices(&spec, &PciOptions::default(), &NoRegistry).unwrap();
        // Four NICs at boot and no free port; three of them are gone, and their ports are free.
        plug(4)
            .facts(|facts| facts.revision = Fact::Known(Arc::new(revision)))
            .expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces[4]"]));
    }

    #[test]
    fn what_was_plugged_since_takes_ports() {
        let with =
            |change: fn(&mut Vmi)| stamped(plug(4), "v1:port=4,nics=1,disks=0").vmi(change).findings(&RULE).len();
        assert_eq!(with(|_| {}), 0);
        assert_eq!(with(|vmi| vmi.boot.has_hotplugged_memory = true), 1);
        assert_eq!(with(|vmi| devices(vmi).port_usage.virtio_disks = 2), 2);
    }

    #[test]
    fn an_absent_nic_holds_its_port_until_the_domain_has_dropped_it() {
        let absent = |is_in_domain: bool| {
            stamped(plug(5).having(&["old"]), "v1:port=4,nics=2,disks=0")
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
    fn a_guess_that_matters_is_called_one() {
        // Four NICs: none free if they were there at boot, one if three were plugged since.
        let findings = plug(1).having(&["a", "b", "c"]).findings(&RULE);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(findings[1].what.contains("estimate"), "{findings:?}");
        // Two NICs: three free either way.
        plug(1).having(&["a"]).expect(&RULE, &Expect::Silent);
        // A denial that rests on it says so too; one that rests on the stamp does not.
        assert!(plug(5).findings(&RULE).iter().any(|finding| finding.what.contains("estimate")));
        let sure = stamped(plug(5), "v1:port=4,nics=1,disks=0").findings(&RULE);
        assert!(!sure.iter().any(|finding| finding.what.contains("estimate")), "{sure:?}");
    }

    #[test]
    fn the_denial_tells_the_sum_and_the_ways_out() {
        let finding = plug(5).findings(&RULE).remove(0);
        assert_eq!(finding.what, "no hotplug port is left for \"d5\": 5 wanted, 4 of 4 free");
        for part in [
            "it booted with 4 free hotplug ports (q35, NICs: 1, virtio disks: 0), now NICs: 1, disks: 0",
            "unplug a NIC",
            "restart the VM, which boots with all of them and then has 0 free",
            "nicplug.io/reserve-ports: \"5\"",
        ] {
            assert!(finding.fix.contains(part), "{part}: {}", finding.fix);
        }
    }

    #[test]
    fn boards_without_ports_have_rules_of_their_own() {
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
        stamped(plug(40), "v1:any,nics=1,disks=0").expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn unknown_facts_are_told_and_deny_nothing() {
        plug(9).kubevirt("", &["HotplugNICs"]).expect(&RULE, &Expect::Unchecked);
        plug(9).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        plug(9).instance_unknown().expect(&RULE, &Expect::Unchecked);
        plug(9).stopped().expect(&RULE, &Expect::Silent);
    }
}
