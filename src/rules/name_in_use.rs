//! NP117.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::{quote::quote, review::ObjectKind},
    change::Nic,
    facts::{Fact, Vmi, attachment::InPlace},
};

rule! {
    /// A NIC is plugged with a name that the running guest still uses, or in the same update as an unplug.
    ///
    /// ## Why
    /// After an unplug the link of the old NIC can stay in the pod and on the node, and a new NIC with the same name
    /// then collides with it (kubevirt issues 14074 and 13721). The dynamic-networks controller of Multus loses the
    /// state of a pod when one update adds and removes networks (its issue 157).
    ///
    /// ## Example
    /// `dyniface1` was unplugged a moment ago, is still in `status.interfaces` of the VMI, and is added again:
    /// ```yaml
    /// interfaces:
    /// - name: dyniface1
    ///   bridge: {}
    /// ```
    NP117, "name-in-use", Hotplug, Warn,
    field: "domain.devices.interfaces[].name",
    fix: "use a name that the VM has not had before, and add a NIC only after an unplug has finished",
}

fn check(case: &Case) -> Vec<Finding> {
    let mut findings = case.each_plugged(&RULE, |nic, vmi| evaluate_name(case, nic, vmi));
    findings.extend(added_again(case));
    findings.extend(plug_and_unplug(case));
    findings
}

fn evaluate_name(case: &Case, nic: &Nic, vmi: &Vmi) -> Option<Finding> {
    vmi.status_nic(nic.name)?;
    let what = format!("{} is still in the VMI's status: a stale link may collide; use another name", quote(nic.name));
    Some(RULE.fault(CauseType::Duplicate, name_field(case, nic), what))
}

/// Returns a finding for each NIC of a VM that is added again while the guest is still unplugging it.
fn added_again(case: &Case) -> Vec<Finding> {
    let nics = &case.change.nics;
    let Fact::Known(vmi) = case.live() else { return Vec::new() };
    if case.is_new() || case.change.subject.kind != ObjectKind::Vm {
        return Vec::new();
    }
    let is_being_unplugged = |nic: &&Nic| !nic.is_absent() && vmi.nic(nic.name).is_some_and(|nic| nic.is_absent);
    let evaluate = |nic: &Nic| {
        let what =
            format!("{} is still being unplugged and may come back late or never; use another name", quote(nic.name));
        RULE.fault(CauseType::Duplicate, name_field(case, nic), what)
    };
    nics.added_or_modified().filter(is_being_unplugged).map(evaluate).collect()
}

fn plug_and_unplug(case: &Case) -> Option<Finding> {
    if !matches!(case.in_place(), Fact::Known(InPlace::Yes | InPlace::SomeNodes { .. })) {
        return None;
    }
    let Fact::Known(vmi) = case.live() else { return None };
    let (added, removed) = (case.plugged(vmi).next()?, case.unplugged(vmi).next()?.name);
    let what = format!(
        "one update adds {} and removes {removed}: Multus may lose one; use two updates",
        quote(added.name),
        removed = quote(removed)
    );
    Some(RULE.fault(CauseType::Invalid, case.change.nic_field(added), what))
}

fn name_field(case: &Case, nic: &Nic) -> String {
    format!("{}.name", case.change.nic_field(nic))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::attachment::InPlace,
        rules::testing::{Expect, Hotplug},
    };

    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const ABSENT: &str = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const SECOND: &str = r#"{"name": "dyniface2", "bridge": {}}"#;
    const SECOND_NET: &str = r#"{"name": "dyniface2", "multus": {"networkName": "new-fancy-net"}}"#;
    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1].name"]);

    #[test]
    fn a_name_that_is_still_in_the_status_is_reported() {
        Hotplug::of(NIC).expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).seen("dyniface1", "pod9a6a0c3b4d8").expect(&RULE, &FAULT);
        Hotplug::of(NIC).seen("dyniface2", "pod9a6a0c3b4d8").expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_nic_that_is_added_again_too_soon_is_reported() {
        Hotplug::modify((ABSENT, NET), (NIC, NET)).expect(&RULE, &FAULT);
        Hotplug::modify((NIC, NET), (ABSENT, NET)).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn plug_and_unplug_in_one_update_is_reported_if_the_controller_attaches_nics() {
        let both = || Hotplug::modify((NIC, NET), (ABSENT, NET)).with(SECOND, SECOND_NET);
        both().expect(&RULE, &Expect::Faults(&["spec.template.spec.domain.devices.interfaces[2]"]));
        both().in_place(InPlace::No).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_vm_that_is_not_known_to_run_is_not_checked() {
        Hotplug::of(NIC).stopped().expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
