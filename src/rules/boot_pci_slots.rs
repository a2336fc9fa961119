//! NP107.

mod frozen_slots;
mod reserved_ports;

use super::{Case, CauseType, Finding, pci_slots::estimated, rule};
use crate::{
    annotations::reserve_ports::{self, ReservePorts},
    api::quote::quote,
    api::review::ObjectKind,
    change::ObjectView,
    facts::{Expansion, boot, expand::with_guest},
    kubevirt::Version,
    pci::{self, BootError, DeviceRegistry, Devices, PortBudget, Reservation},
};

rule! {
    /// A VM would boot with no free PCI port for a hotplugged NIC, with fewer than it reserves, or not at all.
    ///
    /// ## Why
    /// The number of NICs that can be plugged into a running guest is fixed when it boots. On KubeVirt 1.6.4 to 1.9 a
    /// guest with no NIC, or with four or more, usually has no free port at all, and nothing reports it. The annotation
    /// `nicplug.io/reserve-ports: "N"` on the VM reserves N free ports at every boot. A template that libvirt or
    /// KubeVirt certainly rejects is denied: a slot count that is not a number, a full root complex, an address that is
    /// used twice. Some versions of KubeVirt 1.6 to 1.8 add PCIe root ports to guests of s390x and i440fx, which have no
    /// PCIe: with two NICs or more, or with more than 2Gi of memory and one NIC, such a guest does not boot.
    ///
    /// A virtio disk that is hotplugged takes a port too. If it takes one that the annotation reserves, the rule advises.
    ///
    /// Counts of ports are an estimate, and never deny, where something may rewrite the domain of the guest: the
    /// annotation `hooks.kubevirt.io/hookSidecars`, the gate Plugins, or the gate PCINUMAAwareTopology for a guest with
    /// dedicated CPUs and a PCI device of the host.
    ///
    /// KubeVirt freezes the PCI topology of a guest in two annotations of the template: `kubevirt.io/pci-topology-version`
    /// and `kubevirt.io/pci-interface-slot-count`. If a tool applies its own manifest and prunes them, every device of
    /// the guest gets another address at the next boot.
    ///
    /// ## Example
    /// ```yaml
    /// apiVersion: kubevirt.io/v1
    /// kind: VirtualMachine
    /// metadata:
    ///   annotations:
    ///     nicplug.io/reserve-ports: "2"
    /// ```
    NP107, "boot-pci-slots", Boot, Warn,
    field: "domain.devices",
    fix: "annotate the VM with nicplug.io/reserve-ports: \"1\" before it boots",
}

fn check(case: &Case) -> Vec<Finding> {
    let reserved = reserved_ports::check(case);
    if !case.is_new() && case.change.after.vmi.is_some() {
        // A running guest boots no more. Its VM is judged for the next boot.
        return reserved.into_iter().collect();
    }
    let first = malformed_reservation(case).into_iter().chain(frozen_slots::check(case));
    let mut findings: Vec<Finding> = first.chain(reserved).collect();
    match evaluate(case, &case.change.after, case.facts.expansion()) {
        Ok((after, rewrite)) => {
            let found = finding_of(case, &after).filter(|_| differs_from_before(case, &after));
            let found: Vec<Finding> = found.into_iter().collect();
            findings.extend(match rewrite.filter(|_| after.is_port_count()) {
                Some(why) => estimated(&RULE, found, why),
                None => found,
            });
        }
        Err(why) if case.is_new() && (why != UNEXPANDED || wanted_ports(case, &case.change.after) > 0) => {
            findings.push(case.uncounted(&RULE, format!("PCI ports at boot were not counted: {why}")));
        }
        Err(_) => {}
    }
    findings
}

/// Why ports are not counted if KubeVirt expands the template with something that nicplug cannot read. Only a VM that
/// reserves ports needs the figure.
const UNEXPANDED: &str = "the instancetype or preference cannot be read";

/// Returns whether the change alters the outcome: a template with an old fault is reported only once.
fn differs_from_before(case: &Case, after: &BootOutcome) -> bool {
    let before = case.change.before.map(|before| evaluate(case, &before, case.facts.expansion_before()));
    before.is_none_or(|before| before.as_ref().map(|(outcome, _)| outcome) != Ok(after))
}

/// The free ports of a guest after its next boot.
#[derive(Debug, PartialEq)]
enum BootOutcome {
    /// At least one, or all reserved ones.
    Enough,
    /// None, with this number of NICs.
    NoFreePort(usize),
    /// Fewer than reserved.
    TooFew { wanted: u64, most: u64, why: &'static str },
    /// The guest does not boot.
    NoBoot(BootError),
}

impl BootOutcome {
    /// Whether another domain than the one that nicplug models may have another outcome. KubeVirt itself refuses the
    /// other guests before anything can rewrite the domain.
    fn is_port_count(&self) -> bool {
        match self {
            Self::Enough => false,
            Self::NoFreePort(_) | Self::TooFew { .. } => true,
            Self::NoBoot(error) => match error {
                BootError::SlotCount { .. } | BootError::MachineType { .. } | BootError::Device { .. } => false,
                BootError::RootComplexFull { .. }
                | BootError::AddressTaken { .. }
                | BootError::AddressImpossible { .. }
                | BootError::NoPcie { .. }
                | BootError::OutOfPorts { .. } => true,
            },
        }
    }
}

/// Returns the outcome of the next boot, and what may rewrite the domain before it.
fn evaluate(
    case: &Case,
    view: &ObjectView,
    expansion: Option<&Expansion>,
) -> Result<(BootOutcome, Option<&'static str>), String> {
    let kubevirt = case.facts.kubevirt.known().ok_or("the KubeVirt resource is not known")?;
    let version = kubevirt.version.ok_or("KubeVirt's version is not known")?;
    let expanded = expanded_devices(view, expansion, &**kubevirt)?;
    let is_complete = expanded.is_some();
    let devices = expanded.map_or_else(|| devices_of_template(view, &**kubevirt), Ok)?;
    let budget = PortBudget::of(&devices.port_usage, &devices.nics, version);
    let rewrite = kubevirt.domain_rewrite(&devices.port_usage);
    if let Some(refusal) = budget.boot_error {
        return Ok((BootOutcome::NoBoot(refusal), rewrite));
    }
    if !is_complete {
        return Err(UNEXPANDED.to_owned());
    }
    Ok((outcome(&devices, version, wanted_ports(case, view), budget.hotplug_capacity()), rewrite))
}

/// Returns how many free ports a guest reserves.
fn wanted_ports(case: &Case, view: &ObjectView) -> u64 {
    match reserve_ports::requested(view, case.facts, case.settings) {
        ReservePorts::Ports(wanted) => wanted,
        ReservePorts::None | ReservePorts::Malformed { .. } => 0,
    }
}

fn outcome(devices: &Devices, version: Version, wanted: u64, room: Option<u64>) -> BootOutcome {
    let without_reservation =
        if room == Some(0) { BootOutcome::NoFreePort(devices.nics.len()) } else { BootOutcome::Enough };
    if wanted == 0 {
        return without_reservation;
    }
    match pci::reserve(&devices.port_usage, &devices.nics, version, wanted) {
        Reservation::Impossible { why, most } => BootOutcome::TooFew { wanted, most, why },
        Reservation::SlotCount { .. } => BootOutcome::Enough,
        Reservation::Enough { .. } => without_reservation,
    }
}

/// Counts the devices of the guest that KubeVirt creates; `None` if it expands the guest with something unknown.
fn expanded_devices(
    view: &ObjectView,
    expansion: Option<&Expansion>,
    kinds: &dyn DeviceRegistry,
) -> Result<Option<Devices>, String> {
    let devices = with_guest(view, expansion, |guest, options| pci::count_devices(guest, options, kinds));
    devices.transpose().map_err(|error| error.to_string())
}

/// Counts the devices that the template itself has.
fn devices_of_template(view: &ObjectView, kinds: &dyn DeviceRegistry) -> Result<Devices, String> {
    let options = boot::pci_options(view.guest_metadata.annotations.as_deref()).for_template();
    pci::count_devices(view.guest, &options, kinds).map_err(|error| error.to_string())
}

fn finding_of(case: &Case, outcome: &BootOutcome) -> Option<Finding> {
    let path = case.change.after.path;
    let devices = || format!("{path}.domain.devices");
    Some(match outcome {
        BootOutcome::Enough => return None,
        BootOutcome::NoFreePort(nics) => {
            let what = format!(
                "the VM has no free hotplug port after its next boot (NICs: {nics}): set nicplug.io/reserve-ports=1"
            );
            RULE.fault(CauseType::Invalid, devices(), what)
        }
        BootOutcome::TooFew { wanted, most, why } => {
            let what = format!("{wanted} free PCI ports cannot be reserved, {most} at most: {why}");
            let fix = "reserve fewer ports, or remove devices from the template".to_owned();
            RULE.fault(CauseType::Invalid, devices(), what).with_fix(fix)
        }
        BootOutcome::NoBoot(refusal) => no_boot(path, case.change.subject.kind, refusal),
    })
}

fn no_boot(path: &str, kind: ObjectKind, refusal: &BootError) -> Finding {
    let field = match refusal {
        BootError::SlotCount { .. } | BootError::RootComplexFull { .. } => annotations_of(path, kind),
        refusal => format!("{path}.{}", refusal.field()),
    };
    let what = format!("the guest cannot boot: {refusal}");
    let (finding, fix) = match refusal {
        BootError::SlotCount { .. } => {
            (RULE.certain(CauseType::Invalid, field, what), "write a whole number, or remove the annotation")
        }
        BootError::RootComplexFull { .. } => {
            (RULE.certain(CauseType::Invalid, field, what), "remove devices, or remove the annotation")
        }
        BootError::AddressTaken { .. } => {
            (RULE.certain(CauseType::Duplicate, field, what), "give each device a different address, or none")
        }
        BootError::NoPcie { .. } => {
            (RULE.fault(CauseType::Invalid, field, what), "update KubeVirt before the VM is started")
        }
        BootError::MachineType { .. }
        | BootError::AddressImpossible { .. }
        | BootError::Device { .. }
        | BootError::OutOfPorts { .. } => {
            (RULE.fault(CauseType::Invalid, field, what), "fix it before the VM is started")
        }
    };
    finding.with_fix(fix.to_owned())
}

/// Returns the path of the annotations that the guest boots with.
fn annotations_of(path: &str, kind: ObjectKind) -> String {
    match (kind, path.rsplit_once(".spec")) {
        (ObjectKind::Vmi, _) | (_, None) => "metadata.annotations".to_owned(),
        (_, Some((template, _))) => format!("{template}.metadata.annotations"),
    }
}

/// Returns a finding for a malformed reservation that the change sets.
fn malformed_reservation(case: &Case) -> Option<Finding> {
    let after = reserve_ports::requested(&case.change.after, case.facts, case.settings);
    let ReservePorts::Malformed { text, field } = after else { return None };
    let before = case.change.before.map(|before| reserve_ports::requested(&before, case.facts, case.settings));
    if before == Some(after) {
        return None;
    }
    let what = format!("nicplug.io/reserve-ports is {text}, not a number of ports", text = quote(text));
    let fix = format!("write a whole number from 0 to {}, in quotes", reserve_ports::MOST);
    Some(RULE.certain(CauseType::Invalid, field.to_owned(), what).with_fix(fix))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::RULE;
    use crate::{
        facts::{Fact, Instancetype},
        rules::{
            FindingKind,
            testing::{Expect, Hotplug},
        },
        settings::Settings,
    };

    const DEVICES: Expect = Expect::Faults(&["spec.template.spec.domain.devices"]);

    /// Returns a new VM with the default NIC, `dyniface1`, and this number of bridge NICs.
    fn vm(bridges: usize) -> Hotplug {
        let names: Vec<String> = (0..bridges).map(|number| format!("b{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#).having(&names).created()
    }

    #[test]
    fn a_count_is_an_estimate_where_the_domain_may_be_rewritten() {
        let findings = vm(2).kubevirt("v1.9.0", &["Plugins"]).findings(&RULE);
        assert!(findings.iter().all(|finding| finding.kind == FindingKind::Advice), "{findings:?}");
        let whats: Vec<&str> = findings.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(whats.len(), 2, "{whats:?}");
        assert_eq!(whats[1], "free PCI ports are an estimate: a KubeVirt plugin may rewrite the domain");
        vm(1).kubevirt("v1.9.0", &["Plugins"]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_new_vm_without_free_ports_is_reported() {
        vm(1).expect(&RULE, &Expect::Silent);
        vm(2).expect(&RULE, &DEVICES);
        vm(2).kubevirt("v1.10.0", &[]).expect(&RULE, &Expect::Silent);
        vm(2).kubevirt("v1.5.0", &[]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_template_is_reported_once() {
        let update = |names: &[&str]| Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#).having(names);
        update(&["a"]).expect(&RULE, &Expect::Silent);
        update(&["a", "b"]).expect(&RULE, &DEVICES);
        let nic = (r#"{"name": "d", "bridge": {}}"#, r#"{"name": "d", "multus": {"networkName": "new-fancy-net"}}"#);
        let up = (r#"{"name": "d", "bridge": {}, "state": "up"}"#, nic.1);
        Hotplug::modify(nic, up).having(&["a", "b"]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_reservation_that_does_not_fit_is_reported() {
        let reserve = |ports: &str| vm(2).annotated(&format!(r#""nicplug.io/reserve-ports": "{ports}""#));
        reserve("3").expect(&RULE, &Expect::Silent);
        reserve("3").kubevirt("v1.5.0", &[]).expect(&RULE, &DEVICES);
        let short = reserve("3").kubevirt("v1.5.0", &[]).findings(&RULE).remove(0);
        assert!(short.what.starts_with("3 free PCI ports cannot be reserved, 1 at most"), "{short:?}");
        let by_settings = Settings { reserve_ports: Some(3), ..Settings::default() };
        vm(2).settings(by_settings).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_reservation_that_is_not_a_number_is_denied() {
        for text in ["many", "", "-1", "1.5", "256"] {
            let finding =
                vm(0).annotated(&format!(r#""nicplug.io/reserve-ports": "{text}""#)).findings(&RULE).remove(0);
            assert!(matches!(finding.kind, FindingKind::Certain(_)), "{finding:?}");
            assert_eq!(finding.field, "metadata.annotations");
            assert!(finding.what.contains(&format!("{text:?}")), "{finding:?}");
        }
    }

    #[test]
    fn a_guest_that_certainly_cannot_boot_is_denied_and_one_that_probably_cannot_causes_a_warning() {
        for (domain, is_certain) in [
            (
                r#""devices": {"disks": [{"name": "a", "disk": {"bus": "virtio", "pciAddress": "0000:03:00.0"}},
                {"name": "b", "disk": {"bus": "virtio", "pciAddress": "0000:03:00.0"}}],"#,
                true,
            ),
            (r#""machine": {"type": "Q35"}, "devices": {"#, false),
        ] {
            let finding = vm(0).domain(domain).findings(&RULE).remove(0);
            assert_eq!(matches!(finding.kind, FindingKind::Certain(_)), is_certain, "{finding:?}");
            assert!(finding.what.starts_with("the guest cannot boot: "), "{finding:?}");
        }
        let malformed =
            vm(0).on_vmi().annotated(r#""kubevirt.io/pci-interface-slot-count": "0x8""#).findings(&RULE).remove(0);
        assert!(matches!(malformed.kind, FindingKind::Certain(_)), "{malformed:?}");
        assert_eq!(malformed.field, "metadata.annotations");
    }

    #[test]
    fn a_machine_without_pcie_does_not_boot_on_some_versions() {
        let i440fx = |version| vm(1).domain(r#""machine": {"type": "pc"}, "devices": {"#).kubevirt(version, &[]);
        for version in ["v1.6.5", "v1.8.2"] {
            let findings = i440fx(version).findings(&RULE);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(matches!(findings[0].kind, FindingKind::Fault(_)), "{findings:?}");
        }
        let what = &i440fx("v1.8.2").findings(&RULE)[0].what;
        assert_eq!(what, "the guest cannot boot: KubeVirt v1.8.2 adds PCIe ports that i440fx lacks (fixed in v1.8.3)");
        i440fx("v1.8.3").expect(&RULE, &Expect::Silent);
        i440fx("v1.9.0").expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_vm_is_judged_as_kubevirt_expands_it() {
        vm(0).preferring("").expect(&RULE, &Expect::Silent);
        // libvirt refuses a cdrom on bus virtio.
        let cdrom = vm(0).domain(r#""devices": {"disks": [{"name": "d", "cdrom": {}}], "#);
        let finding = cdrom.preferring(r#""preferredCdromBus": "virtio""#).findings(&RULE).remove(0);
        assert!(finding.what.starts_with("the guest cannot boot: disk \"d\": libvirt refuses a cdrom"), "{finding:?}");
        // With four NICs no port is free, unless the guest has more than 2Gi of memory.
        for (memory, expect) in [("1Gi", DEVICES), ("4Gi", Expect::Silent)] {
            let instancetype = Instancetype { memory: memory.into(), ..Instancetype::default() };
            let expanded = vm(2).preferring("").facts(|facts| {
                facts.expansions.as_mut().unwrap().after.instancetype = Fact::Known(Arc::new(instancetype));
            });
            expanded.expect(&RULE, &expect);
        }
    }

    #[test]
    fn a_vm_that_cannot_be_expanded_is_reported_only_if_it_reserves_ports() {
        vm(2).preferring("").unread().expect(&RULE, &Expect::Silent);
        let reserving = vm(2).preferring("").unread().annotated(r#""nicplug.io/reserve-ports": "1""#);
        reserving.expect(&RULE, &Expect::Unchecked);
        let by_settings = Settings { reserve_ports: Some(1), ..Settings::default() };
        vm(2).preferring("").unread().settings(by_settings).expect(&RULE, &Expect::Unchecked);
        // What the template itself has is judged nevertheless.
        let twice = vm(0).domain(
            r#""devices": {"disks": [{"name": "a", "disk": {"bus": "virtio", "pciAddress": "0000:03:00.0"}},
                {"name": "b", "disk": {"bus": "virtio", "pciAddress": "0000:03:00.0"}}],"#,
        );
        let finding = twice.preferring("").unread().findings(&RULE).remove(0);
        assert!(matches!(finding.kind, FindingKind::Certain(_)), "{finding:?}");
    }

    #[test]
    fn unknown_facts_are_reported_only_when_the_vm_is_created() {
        vm(2).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        vm(2).kubevirt("", &["HotplugNICs"]).expect(&RULE, &Expect::Unchecked);
        Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#).kubevirt_unknown().expect(&RULE, &Expect::Silent);
    }
}
