//! NP116.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::review::ObjectKind,
    change::Nic,
    facts::{Fact, Vmi, kubevirt::Rollout},
};

rule! {
    /// NICs of a running VM change at once although the cluster's rollout strategy is Stage.
    ///
    /// ## Why
    /// With `vmRolloutStrategy: Stage` an administrator wants changes of a VM to wait for its next restart. KubeVirt
    /// does this for CPUs and memory, but not for NICs (kubevirt issue 17328): it plugs and unplugs them at once.
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
    let evaluate = |nic: &Nic, _: &Vmi| {
        let what =
            format!("the rollout strategy is Stage, but KubeVirt changes {:?} of a running VM at once", nic.name);
        Some(RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what))
    };
    let plugged = case.each_plugged(&RULE, evaluate);
    let unplugged = case.each_unplugged(&RULE, evaluate);
    plugged.into_iter().chain(unplugged).take(1).collect()
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
    fn a_stopped_vm_is_not_checked() {
        Hotplug::of(NIC).rollout("Stage", &[]).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn only_unknown_facts_that_matter_are_reported() {
        Hotplug::of(NIC).kubevirt_unknown().expect(&RULE, &Expect::Silent);
        Hotplug::of(NIC).rollout("Stage", &[]).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
