//! NP116.

use super::{AtRestart, Case, CauseType, Finding, live_change::forecast::Forecast, rule};
use crate::{
    api::review::ObjectKind,
    change::Nic,
    facts::{Fact, kubevirt::Rollout, nic::NetworkRole},
};

rule! {
    /// NICs of a running VM change at once although the cluster's rollout strategy is Stage.
    ///
    /// ## Why
    /// With `vmRolloutStrategy: Stage` an administrator wants changes of a VM to wait for its next restart. KubeVirt
    /// does this for CPUs and memory, but not for NICs (kubevirt issue 17328): it plugs and unplugs them, sets their links
    /// up and down, and changes their networks at once. It starts the migrations for that too.
    ///
    /// ## Example
    /// ```yaml
    /// kind: KubeVirt
    /// spec:
    ///   configuration:
    ///     vmRolloutStrategy: Stage
    /// ```
    NP116, "rollout-strategy", Hotplug, Warn,
    field: "domain.devices.interfaces[]",
    fix: "change NICs while the VM is stopped",
}

fn check(case: &Case) -> Vec<Finding> {
    // The strategy concerns changes of a VM; KubeVirt applies changes of a VMI at once in any case.
    let is_vm = case.change.subject.kind == ObjectKind::Vm;
    let is_staged = match &case.facts.kubevirt {
        Fact::Known(kubevirt) => kubevirt.rollout == Some(Rollout::Stage),
        Fact::Absent | Fact::Unknown => false,
    };
    if !is_vm || !is_staged {
        return Vec::new();
    }
    let fault = |nic: &Nic, part: &str| {
        let what =
            format!("vmRolloutStrategy is Stage, yet KubeVirt changes {:?}{part} of the running VM at once", nic.name);
        RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what).at_restart(AtRestart::AppliedAtOnce)
    };
    let plugged = case.each_plugged(&RULE, |nic, _| Some(fault(nic, "")));
    let unplugged = case.each_unplugged(&RULE, |nic, _| Some(fault(nic, "")));
    let mut findings: Vec<Finding> = plugged.into_iter().chain(unplugged).take(1).collect();
    if findings.is_empty() && !case.change.nics.modified.is_empty() {
        let changed = |vmi| {
            let Forecast { links, swapped, .. } = Forecast::of(case, vmi);
            let link = links.first().map(|nic| fault(nic, if nic.is_down() { " (link down)" } else { " (link up)" }));
            let applied = swapped.iter().find(|swap| swap.guest.role == NetworkRole::Additional);
            link.or_else(|| applied.map(|swap| fault(&swap.nic, " (network)"))).into_iter().collect()
        };
        findings = case.if_live(&RULE, changed);
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, Hotplug};

    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);

    #[test]
    fn only_stage_is_reported() {
        for (strategy, expect) in [("Stage", FAULT), ("LiveUpdate", Expect::Silent), ("", Expect::Silent)] {
            Hotplug::of(NIC).rollout(strategy, &["LiveMigrate"]).expect(&RULE, &expect);
            let absent = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
            Hotplug::modify((NIC, NET), (absent, NET)).rollout(strategy, &[]).expect(&RULE, &expect);
        }
    }

    #[test]
    fn links_and_networks_change_at_once_too() {
        let down = r#"{"name": "dyniface1", "bridge": {}, "state": "down"}"#;
        let other = r#"{"name": "dyniface1", "multus": {"networkName": "net-b"}}"#;
        let qualified = r#"{"name": "dyniface1", "multus": {"networkName": "demo/new-fancy-net"}}"#;
        for (new, text) in [((down, NET), "(link down)"), ((NIC, other), "(network)")] {
            let changed = Hotplug::modify((NIC, NET), new).rollout("Stage", &["LiveMigrate"]);
            changed.expect(&RULE, &FAULT);
            assert!(changed.findings(&RULE)[0].what.contains(text), "{text}");
        }
        Hotplug::modify((NIC, NET), (NIC, qualified)).rollout("Stage", &[]).expect(&RULE, &Expect::Silent);
        let old = Hotplug::modify((NIC, NET), (NIC, other)).kubevirt("v1.8.4", &[]).rollout("Stage", &[]);
        old.expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_stopped_vm_is_not_checked() {
        Hotplug::of(NIC).rollout("Stage", &[]).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn only_unknown_facts_that_matter_are_reported() {
        Hotplug::of(NIC).kubevirt_unknown().expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).rollout("Stage", &[]).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
