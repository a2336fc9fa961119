//! NP109.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::quote::quote,
    change::Nic,
    facts::{Fact, FactKind, Vmi},
    kubevirt::{Version, gates::Gate},
};

rule! {
    /// A NIC is unplugged from a running VM that cannot hot-unplug it.
    ///
    /// ## Why
    /// Hot-unplug exists since KubeVirt 1.0. In a VM that KubeVirt 0.59 or older started, the pod interfaces are named
    /// by order, `net1`, `net2`, …, and KubeVirt unplugs none of them: the change is stored and has no effect. A live
    /// migration renames the pod interfaces since KubeVirt 1.9 (feature gate PodSecondaryInterfaceNamingUpgrade).
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: dyniface1
    ///   bridge: {}
    ///   state: absent
    /// ```
    NP109, "hot-unplug", Hotplug, Deny,
    field: "domain.devices.interfaces[].state",
    fix: "stop the VM, then remove the NIC (after a restart the VM supports hot-unplug)",
}

/// The first version with hot-unplug.
const SINCE: Version = Version::new(1, 0, 0);

fn check(case: &Case) -> Vec<Finding> {
    case.each_unplugged(&RULE, |nic, vmi| evaluate(case, nic, vmi))
}

fn evaluate(case: &Case, nic: &Nic, vmi: &Vmi) -> Option<Finding> {
    let name = nic.name;
    let field = case.change.absent_field(nic);
    let version = match &case.facts.kubevirt {
        Fact::Known(kubevirt) => kubevirt.version,
        Fact::Absent | Fact::Unknown => None,
    };
    if let Some(version) = version.filter(|&version| version < SINCE) {
        let what = format!(
            "{name} cannot be unplugged: hot-unplug needs KubeVirt {SINCE}, this is {version}",
            name = quote(name)
        );
        let fix = "stop the VM, then remove the NIC; or update KubeVirt".to_owned();
        return Some(RULE.fault(CauseType::Invalid, field, what).with_fix(fix));
    }
    if let Some(ordinal) = ordinal_interface(vmi) {
        let what = format!(
            "{name} cannot be unplugged: pod interface {ordinal} shows that KubeVirt 0.59 or older started the VM",
            name = quote(name),
            ordinal = quote(ordinal)
        );
        let fault = RULE.fault(CauseType::Invalid, field, what);
        let is_renamed = case.has(Gate::PodSecondaryInterfaceNamingUpgrade) == Some(true);
        let fix = "migrate the VM once, which renames its pod interfaces, or stop it and remove the NIC then";
        return Some(if is_renamed { fault.with_fix(fix.to_owned()) } else { fault });
    }
    let is_unknown = version.is_none();
    is_unknown.then(|| {
        RULE.unknown(
            FactKind::KubeVirt,
            format!("unplug of {name} was not checked: KubeVirt's version is not known", name = quote(name)),
        )
    })
}

/// Returns a pod interface that is named by order. With one such interface KubeVirt unplugs no NIC of the VM at all.
fn ordinal_interface(vmi: &Vmi) -> Option<&str> {
    let seen = vmi.status_nics.iter().filter(|seen| seen.has_ordinal_name());
    let mut further = seen.filter(|seen| vmi.nic(&seen.name).is_some_and(|nic| nic.network.is_some()));
    further.next().map(|seen| &*seen.pod_interface)
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, Hotplug};

    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1].state"]);
    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const ABSENT: &str = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;

    fn unplug() -> Hotplug {
        Hotplug::modify((NIC, NET), (ABSENT, NET))
    }

    #[test]
    fn a_pod_of_an_old_kubevirt_does_not_support_unplug() {
        for (pod_interface, expect) in [("pod9a6a0c3b4d8", Expect::Silent), ("", Expect::Silent), ("net1", FAULT)] {
            unplug().seen("dyniface1", pod_interface).expect(&RULE, &expect);
        }
        let fix = |version: &str| {
            unplug().kubevirt(version, &[]).seen("dyniface1", "net1").findings(&RULE).remove(0).fix.into_owned()
        };
        assert!(fix("v1.9.0").starts_with("migrate the VM once"));
        assert!(fix("v1.8.4").starts_with("stop the VM"));
    }

    #[test]
    fn an_old_kubevirt_does_not_support_unplug() {
        unplug().kubevirt("v0.59.2", &["HotplugNICs"]).expect(&RULE, &FAULT);
        unplug().kubevirt("v1.0.0", &["HotplugNICs"]).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_stopped_vm_is_not_checked() {
        unplug().kubevirt("v0.59.2", &[]).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn unknown_facts_are_reported_and_deny_nothing() {
        unplug().kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        unplug().vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
