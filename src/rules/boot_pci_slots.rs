//! NP107.

use super::{Case, CauseType, Finding, rule};
use crate::{
    annotations::reserve_ports::{self, ReservePorts},
    api::review::ObjectKind,
    change::ObjectView,
    facts::boot,
    kubevirt::Version,
    pci::{self, BootError, DeviceRegistry, Devices, PortBudget, Reservation},
};

rule! {
    /// A VM boots with no free PCI port for a hotplugged NIC, with fewer than it reserves, or not at all.
    ///
    /// ## Why
    /// How many NICs can be plugged into a running guest is decided when it boots. On KubeVirt 1.6.4 to 1.9 a guest
    /// with no NIC, or with four and more, has mostly no free port at all, and nobody tells. The annotation
    /// `nicplug.io/reserve-ports: "N"` on the VM asks for N free ports at every boot. A template that libvirt or
    /// KubeVirt refuses for certain is denied: a slot count that is no number, a full root complex, an address used
    /// twice.
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
    let mut findings: Vec<Finding> = judge_wish(case).into_iter().collect();
    match evaluate(case, &case.change.after) {
        Ok(after) => findings.extend(tell(case, &after).filter(|_| is_news(case, &after))),
        Err(why) if case.is_new() => {
            findings.push(case.uncounted(&RULE, format!("PCI ports at boot were not counted: {why}")));
        }
        Err(_) => {}
    }
    findings
}

/// Whether the guest would not have booted the same way before.
fn is_news(case: &Case, after: &Answer) -> bool {
    let before = case.change.before.map(|before| evaluate(case, &before));
    before.is_none_or(|before| before.as_ref() != Ok(after))
}

/// What a guest would boot with.
#[derive(Debug, PartialEq)]
enum Answer {
    /// Enough: free ports, or the reservation that was asked for.
    Enough,
    /// No free port, with so many NICs.
    None(usize),
    /// The reservation cannot be had.
    Short { wanted: u64, most: u64, why: &'static str },
    /// It does not boot.
    Refused(BootError),
}

fn evaluate(case: &Case, view: &ObjectView) -> Result<Answer, String> {
    let kubevirt = case.facts.kubevirt.known().ok_or("the KubeVirt resource is not known")?;
    let version = kubevirt.version.ok_or("KubeVirt's version is not known")?;
    let devices = devices(view, &**kubevirt)?;
    let budget = PortBudget::of(&devices.port_usage, &devices.nics, version);
    if let Some(refusal) = budget.boot_error {
        return Ok(Answer::Refused(refusal));
    }
    if view.needs_expansion {
        return Err("instancetype or preference adds devices".to_owned());
    }
    let wanted = match reserve_ports::wish(view, case.facts, case.settings) {
        ReservePorts::Ports(wanted) => wanted,
        ReservePorts::None | ReservePorts::Malformed { .. } => 0,
    };
    Ok(answer(&devices, version, wanted, budget.hotplug_capacity()))
}

fn answer(devices: &Devices, version: Version, wanted: u64, room: Option<u64>) -> Answer {
    let by_itself = if room == Some(0) { Answer::None(devices.nics.len()) } else { Answer::Enough };
    if wanted == 0 {
        return by_itself;
    }
    match pci::reserve(&devices.port_usage, &devices.nics, version, wanted) {
        Reservation::Impossible { why, most } => Answer::Short { wanted, most, why },
        Reservation::SlotCount { .. } => Answer::Enough,
        Reservation::Enough { .. } => by_itself,
    }
}

fn devices(view: &ObjectView, kinds: &dyn DeviceRegistry) -> Result<Devices, String> {
    let placement = boot::pci_options(view.guest_metadata.annotations.as_ref());
    let placement = if view.vmi.is_some() { placement } else { placement.for_template() };
    pci::count_devices(view.guest, &placement, kinds).map_err(|error| error.to_string())
}

fn tell(case: &Case, answer: &Answer) -> Option<Finding> {
    let path = case.change.after.path;
    let devices = || format!("{path}.domain.devices");
    Some(match answer {
        Answer::Enough => return None,
        Answer::None(nics) => {
            let what =
                format!("at boot no PCI port is free for hotplug ({nics} NICs): nicplug.io/reserve-ports keeps some");
            RULE.fault(CauseType::Invalid, devices(), what)
        }
        Answer::Short { wanted, most, why } => {
            let what = format!("{wanted} free PCI ports cannot be reserved, {most} at most: {why}");
            let fix = "ask for fewer, or take devices out of the template".to_owned();
            RULE.fault(CauseType::Invalid, devices(), what).with_fix(fix)
        }
        Answer::Refused(refusal) => refuse(path, case.change.subject.kind, refusal),
    })
}

fn refuse(path: &str, kind: ObjectKind, refusal: &BootError) -> Finding {
    let field = match refusal {
        BootError::SlotCount { .. } | BootError::RootComplexFull { .. } => annotations_of(path, kind),
        refusal => format!("{path}.{}", refusal.field()),
    };
    let what = format!("the guest cannot boot: {refusal}");
    let (finding, fix) = match refusal {
        BootError::SlotCount { .. } => {
            (RULE.certain(CauseType::Invalid, field, what), "write a whole number, or take the annotation out")
        }
        BootError::RootComplexFull { .. } => {
            (RULE.certain(CauseType::Invalid, field, what), "take devices out, or the annotation")
        }
        BootError::AddressTaken { .. } => {
            (RULE.certain(CauseType::Duplicate, field, what), "give each device an address of its own, or none")
        }
        BootError::MachineType { .. }
        | BootError::AddressImpossible { .. }
        | BootError::Device { .. }
        | BootError::OutOfPorts { .. } => {
            (RULE.fault(CauseType::Invalid, field, what), "change it before the VM is started")
        }
    };
    finding.with_fix(fix.to_owned())
}

/// Where the annotations are that the guest boots with.
fn annotations_of(path: &str, kind: ObjectKind) -> String {
    match (kind, path.rsplit_once(".spec")) {
        (ObjectKind::Vmi, _) | (_, None) => "metadata.annotations".to_owned(),
        (_, Some((template, _))) => format!("{template}.metadata.annotations"),
    }
}

/// A reservation that cannot be read, where it is written anew.
fn judge_wish(case: &Case) -> Option<Finding> {
    let ReservePorts::Malformed { text, field } = reserve_ports::wish(&case.change.after, case.facts, case.settings)
    else {
        return None;
    };
    let before = case.change.before.map(|before| reserve_ports::wish(&before, case.facts, case.settings));
    if before == Some(ReservePorts::Malformed { text, field }) {
        return None;
    }
    let what = format!("nicplug.io/reserve-ports is {text:?}, which is no number of ports");
    let fix = format!("write a whole number from 0 to {}, in quotes", reserve_ports::MOST);
    Some(RULE.certain(CauseType::Invalid, field.to_owned(), what).with_fix(fix))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        rules::{
            FindingKind,
            testing::{Expect, Hotplug},
        },
        settings::Settings,
    };

    const DEVICES: Expect = Expect::Faults(&["spec.template.spec.domain.devices"]);

    /// A new VM with the default NIC, `dyniface1`, and so many on bridges.
    fn vm(bridges: usize) -> Hotplug {
        let names: Vec<String> = (0..bridges).map(|number| format!("b{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#).having(&names).created()
    }

    #[test]
    fn a_new_vm_without_free_ports_is_warned_of() {
        vm(1).expect(&RULE, &Expect::Silent);
        vm(2).expect(&RULE, &DEVICES);
        vm(2).kubevirt("v1.10.0", &[]).expect(&RULE, &Expect::Silent);
        vm(2).kubevirt("v1.5.0", &[]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_template_is_judged_once() {
        let update = |names: &[&str]| Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#).having(names);
        update(&["a"]).expect(&RULE, &Expect::Silent);
        update(&["a", "b"]).expect(&RULE, &DEVICES);
        let nic = (r#"{"name": "d", "bridge": {}}"#, r#"{"name": "d", "multus": {"networkName": "new-fancy-net"}}"#);
        let up = (r#"{"name": "d", "bridge": {}, "state": "up"}"#, nic.1);
        Hotplug::modify(nic, up).having(&["a", "b"]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_reservation_keeps_ports_or_is_told_to_be_in_vain() {
        let reserve = |ports: &str| vm(2).annotated(&format!(r#""nicplug.io/reserve-ports": "{ports}""#));
        reserve("3").expect(&RULE, &Expect::Silent);
        reserve("3").kubevirt("v1.5.0", &[]).expect(&RULE, &DEVICES);
        let short = reserve("3").kubevirt("v1.5.0", &[]).findings(&RULE).remove(0);
        assert!(short.what.starts_with("3 free PCI ports cannot be reserved, 1 at most"), "{short:?}");
        let by_settings = Settings { reserve_ports: Some(3), ..Settings::default() };
        vm(2).settings(by_settings).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_reservation_that_is_no_number_is_denied() {
        for text in ["many", "", "-1", "1.5", "256"] {
            let finding =
                vm(0).annotated(&format!(r#""nicplug.io/reserve-ports": "{text}""#)).findings(&RULE).remove(0);
            assert!(matches!(finding.kind, FindingKind::Certain(_)), "{finding:?}");
            assert_eq!(finding.field, "metadata.annotations");
            assert!(finding.what.contains(&format!("{text:?}")), "{finding:?}");
        }
    }

    #[test]
    fn what_cannot_boot_for_certain_is_denied_and_what_probably_cannot_is_warned_of() {
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
        let junk =
            vm(0).on_vmi().annotated(r#""kubevirt.io/pci-interface-slot-count": "0x8""#).findings(&RULE).remove(0);
        assert!(matches!(junk.kind, FindingKind::Certain(_)), "{junk:?}");
        assert_eq!(junk.field, "metadata.annotations");
    }

    #[test]
    fn unknown_facts_are_told_once_when_the_vm_is_made() {
        vm(2).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        vm(2).kubevirt("", &["HotplugNICs"]).expect(&RULE, &Expect::Unchecked);
        Hotplug::of(r#"{"name": "dyniface1", "bridge": {}}"#).kubevirt_unknown().expect(&RULE, &Expect::Silent);
    }
}
