//! NP110.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::{review::ObjectKind, vmi::Phase},
    change::NicDiff,
    facts::{Fact, Vmi},
};

rule! {
    /// NICs are plugged into a guest that is not running yet, or no longer.
    ///
    /// ## Why
    /// A guest in phase Succeeded or Failed, or one that is being deleted, changes no more: what is added to it is lost.
    /// Before phase Running the pod is made from the old list of NICs, and what is added meanwhile waits for the guest.
    ///
    /// ## Example
    /// ```yaml
    /// kind: VirtualMachineInstance
    /// status:
    ///   phase: Succeeded
    /// ```
    NP110, "vmi-phase", Hotplug, Deny,
    field: "domain.devices.interfaces[]",
    fix: "start the VM again and change its NICs then",
}

fn check(case: &Case) -> Vec<Finding> {
    let NicDiff { added, set_absent, .. } = &case.change.nics;
    if case.is_new() || (added.is_empty() && set_absent.is_empty()) {
        return Vec::new();
    }
    // Without the guest nothing can be told, and rules that need it to run tell that already.
    let Fact::Known(vmi) = &case.facts.vmi else { return Vec::new() };
    if vmi.is_live() {
        return judge_start(case, vmi);
    }
    // A VM whose guest is over is not running: its template waits for the next one.
    if case.change.subject.kind != ObjectKind::Vmi {
        return Vec::new();
    }
    let state = if vmi.is_deleting { "is being deleted".to_owned() } else { format!("is {}", vmi.phase) };
    let evaluate = |nic| {
        let what = format!("{:?} {state}: its NICs do not change any more", case.change.subject.name);
        RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what)
    };
    added.iter().chain(set_absent).map(evaluate).collect()
}

fn judge_start(case: &Case, vmi: &Vmi) -> Vec<Finding> {
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
    fn a_vmi_that_is_over_gets_no_nic() {
        const FAULT: Expect = Expect::Faults(&["spec.domain.devices.interfaces[1]"]);
        in_phase(Phase::Succeeded).on_vmi().expect(&RULE, &FAULT);
        in_phase(Phase::Failed).on_vmi().expect(&RULE, &FAULT);
        Hotplug::of(NIC).vmi(|vmi| vmi.is_deleting = true).on_vmi().expect(&RULE, &FAULT);
        in_phase(Phase::Running).on_vmi().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_vm_whose_vmi_is_over_is_stopped() {
        in_phase(Phase::Succeeded).expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn before_running_it_is_a_warning() {
        in_phase(Phase::Other("Scheduling".into())).expect(&RULE, &Expect::Advice);
        in_phase(Phase::Unset).on_vmi().expect(&RULE, &Expect::Advice);
    }

    #[test]
    fn an_unknown_guest_is_for_other_rules_to_tell() {
        Hotplug::of(NIC).instance_unknown().expect(&RULE, &Expect::Silent);
    }
}
