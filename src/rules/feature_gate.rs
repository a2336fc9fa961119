//! NP101.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::quote::quote,
    change::Nic,
    facts::{Fact, FactKind, KubeVirt},
    kubevirt::{Version, gates::Gate},
};

rule! {
    /// A NIC is plugged into or unplugged from a running VM while feature gate HotplugNICs is off.
    ///
    /// ## Why
    /// Up to KubeVirt 1.3 the gate must be listed in the KubeVirt resource. Without it the change of the VM is stored
    /// but never reaches the running guest. Since 1.4 hotplug is generally available and always on.
    ///
    /// ## Example
    /// A NIC is added to a running VM on KubeVirt 1.3, with this configuration:
    /// ```yaml
    /// apiVersion: kubevirt.io/v1
    /// kind: KubeVirt
    /// spec:
    ///   configuration:
    ///     developerConfiguration:
    ///       featureGates: []
    /// ```
    NP101, "feature-gate", Hotplug, Deny,
    field: "domain.devices.interfaces[]",
    fix: "add HotplugNICs to spec.configuration.developerConfiguration.featureGates of the KubeVirt resource",
}

/// The first version with hot-unplug. For older ones NP109 reports the unplug, with a better message.
const UNPLUGS_SINCE: Version = Version::new(1, 0, 0);

fn check(case: &Case) -> Vec<Finding> {
    let plugged = case.each_plugged(&RULE, |nic, _| match &case.facts.kubevirt {
        Fact::Known(kubevirt) => evaluate(case, nic, kubevirt, "hotplugged"),
        Fact::Absent | Fact::Unknown => Some(RULE.unknown(
            FactKind::KubeVirt,
            "feature gate HotplugNICs was not checked: the KubeVirt resource is not known",
        )),
    });
    let unplugged = case.each_unplugged(&RULE, |nic, _| {
        let kubevirt = case.facts.kubevirt.known()?;
        let unplugs = kubevirt.version.is_some_and(|version| version >= UNPLUGS_SINCE);
        unplugs.then(|| evaluate(case, nic, kubevirt, "unplugged"))?
    });
    plugged.into_iter().chain(unplugged).collect()
}

fn evaluate(case: &Case, nic: &Nic, kubevirt: &KubeVirt, action: &str) -> Option<Finding> {
    if kubevirt.has(Gate::HotplugNics) {
        return None;
    }
    let version = kubevirt.version.map_or("of unknown version".to_owned(), |version| version.to_string());
    let what = format!("{} cannot be {action}: feature gate HotplugNICs is off in KubeVirt {version}", quote(nic.name));
    Some(RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, Hotplug};

    const BRIDGE: &str = r#"{"name": "dyniface1", "bridge": {}}"#;

    #[test]
    fn verdicts_by_version_and_gate() {
        for (version, listed, expect) in [
            ("v0.59.0", false, Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"])),
            ("v1.3.1", false, Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"])),
            ("v1.3.1", true, Expect::Silent),
            ("v1.4.0", false, Expect::Silent),
            ("v1.9.0", false, Expect::Silent),
            ("", false, Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"])),
            ("", true, Expect::Silent),
        ] {
            let gates: &[&str] = if listed { &["HotplugNICs"] } else { &[] };
            Hotplug::of(BRIDGE).kubevirt(version, gates).expect(&RULE, &expect);
        }
    }

    #[test]
    fn an_unplug_needs_the_gate_too() {
        const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
        const ABSENT: &str = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;
        for (version, expect) in [
            ("v0.59.0", Expect::Silent),
            ("v1.3.1", Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"])),
            ("v1.9.0", Expect::Silent),
        ] {
            Hotplug::modify((BRIDGE, NET), (ABSENT, NET)).kubevirt(version, &[]).expect(&RULE, &expect);
        }
    }

    #[test]
    fn a_stopped_vm_needs_no_gate() {
        Hotplug::of(BRIDGE).kubevirt("v1.3.1", &[]).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn unknown_facts_are_reported_and_deny_nothing() {
        Hotplug::of(BRIDGE).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
        Hotplug::of(BRIDGE).kubevirt("v1.3.1", &[]).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
