//! NP110.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::{review::ObjectKind, vmi::Phase},
    change::{Nic, NicDiff},
    facts::{Fact, Vmi, nic::HotplugMethod},
};

rule! {
    /// NICs are plugged into or unplugged from a guest that is not running yet, or no longer.
    ///
    /// ## Why
    /// A guest in phase Succeeded or Failed, or one that is being deleted, can no longer change: a NIC that is added to
    /// it is lost. In the phases Scheduling and Scheduled the pod exists with the old list of NICs, and a NIC that is
    /// added in the meantime waits until the guest runs. In phase Pending the guest has no pod: KubeVirt copies bridge
    /// and sriov NICs to the VMI and creates the pod with them. A VM that the same update stops, or that is being
    /// deleted, is not checked: KubeVirt uses its template at the next start.
    ///
    /// ## Example
    /// ```yaml
    /// kind: VirtualMachineInstance
    /// status:
    ///   phase: Succeeded
    /// ```
    NP110, "vmi-phase", Hotplug, Deny,
    field: "domain.devices.interfaces[]",
    fix: "start the VM again, then change its NICs",
}

fn check(case: &Case) -> Vec<Finding> {
    let NicDiff { added, set_absent, .. } = &case.change.nics;
    if case.is_new() || case.change.after.stops() || (added.is_empty() && set_absent.is_empty()) {
        return Vec::new();
    }
    // If the VMI is not known, other rules report that already.
    let Fact::Known(vmi) = &case.facts.vmi else { return Vec::new() };
    if vmi.is_live() && vmi.has_no_pod_yet() {
        return added.iter().chain(set_absent).map(|nic| evaluate_pending(case, nic)).collect();
    }
    if vmi.is_live() {
        return evaluate_start(case, vmi);
    }
    // A VM whose guest has stopped is not running: its template is used at the next start.
    if case.change.subject.kind != ObjectKind::Vmi {
        return Vec::new();
    }
    let state = if vmi.is_deleting { "is being deleted".to_owned() } else { format!("is {}", vmi.phase) };
    let evaluate = |nic| {
        let what = format!("{:?} {state}: its NICs can no longer change", case.change.subject.name);
        RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what)
    };
    added.iter().chain(set_absent).map(evaluate).collect()
}

fn evaluate_pending(case: &Case, nic: &Nic) -> Finding {
    let (guest, name) = (case.change.subject.name, nic.name);
    let what = if nic.is_absent() {
        format!("{guest:?} has no pod yet: it starts without {name:?}")
    } else if case.plug_of(nic) == HotplugMethod::None {
        format!("{name:?} comes with the next boot only: KubeVirt copies bridge and sriov NICs")
    } else {
        format!("{guest:?} has no pod yet: it starts with {name:?}")
    };
    RULE.advice(case.change.nic_field(nic), what)
}

fn evaluate_start(case: &Case, vmi: &Vmi) -> Vec<Finding> {
    if vmi.phase == Phase::Running {
        return Vec::new();
    }
    let name = case.change.subject.name;
    let what = format!("{name:?} is not running yet (phase {}): NICs change once it runs", vmi.phase);
    vec![RULE.advice(String::new(), what)]
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        api::vmi::Phase,
        rules::testing::{Expect, Hotplug},
    };

    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;

    fn in_phase(phase: Phase) -> Hotplug {
        Hotplug::of(NIC).vmi(|vmi| vmi.phase = phase)
    }

    #[test]
    fn a_vmi_that_has_stopped_gets_no_nic() {
        const FAULT: Expect = Expect::Faults(&["spec.domain.devices.interfaces[1]"]);
        in_phase(Phase::Succeeded).on_vmi().expect(&RULE, &FAULT);
        in_phase(Phase::Failed).on_vmi().expect(&RULE, &FAULT);
        Hotplug::of(NIC).vmi(|vmi| vmi.is_deleting = true).on_vmi().expect(&RULE, &FAULT);
        in_phase(Phase::Running).on_vmi().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_vm_whose_vmi_has_stopped_is_not_running() {
        in_phase(Phase::Succeeded).expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn before_phase_running_there_is_a_warning() {
        in_phase(Phase::Other("Scheduling".into())).expect(&RULE, &Expect::Advice);
        in_phase(Phase::Unset).on_vmi().expect(&RULE, &Expect::Advice);
    }

    #[test]
    fn a_guest_without_a_pod_starts_with_the_copied_nics() {
        let absent = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
        let net = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
        for (hotplug, what) in [
            (Hotplug::of(NIC), r#""vm-fedora" has no pod yet: it starts with "dyniface1""#),
            (
                Hotplug::modify((NIC, net), (absent, net)),
                r#""vm-fedora" has no pod yet: it starts without "dyniface1""#,
            ),
            (
                Hotplug::of(r#"{"name": "dyniface1", "macvtap": {}}"#),
                r#""dyniface1" comes with the next boot only: KubeVirt copies bridge and sriov NICs"#,
            ),
        ] {
            let hotplug = hotplug.vmi(|vmi| vmi.phase = Phase::Other("Pending".into()));
            hotplug.expect(&RULE, &Expect::Advice);
            assert_eq!(hotplug.findings(&RULE)[0].what, what);
        }
    }

    #[test]
    fn a_vm_that_stops_is_not_checked() {
        let scheduling = || in_phase(Phase::Other("Scheduling".into()));
        scheduling().spec(r#""runStrategy": "Halted""#).expect(&RULE, &Expect::Silent);
        scheduling().spec(r#""runStrategy": "Manual""#).expect(&RULE, &Expect::Advice);
    }

    #[test]
    fn other_rules_report_an_unknown_vmi() {
        Hotplug::of(NIC).vmi_unknown().expect(&RULE, &Expect::Silent);
    }
}
