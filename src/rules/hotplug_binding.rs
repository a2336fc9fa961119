//! NP102.

use super::{Case, CauseType, Finding, rule};
use crate::{
    change::Nic,
    facts::{Fact, FactKind, nic::HotplugMethod},
    kubevirt::Version,
};

rule! {
    /// A NIC is plugged into a running VM with a binding that cannot be hotplugged.
    ///
    /// ## Why
    /// KubeVirt's controller copies only NICs with bridge or SR-IOV binding from the VM's template to the running
    /// guest. A NIC with any other binding is accepted but never attached, and no condition or event reports it. SR-IOV
    /// is attached by live migration, and only since KubeVirt 1.1.
    ///
    /// A vendor's KubeVirt may hotplug binding plugins too: name them in the setting `hotplug.bindings`. Their NICs then
    /// count as bridge NICs in every rule about hotplug.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: dyniface1
    ///   masquerade: {}
    /// ```
    NP102, "hotplug-binding", Hotplug, Deny,
    field: "domain.devices.interfaces[]",
    fix: "use bridge: {} (or sriov: {} with an SR-IOV network)",
}

/// The first version that hotplugs SR-IOV NICs.
const SRIOV_SINCE: Version = Version::new(1, 1, 0);

fn check(case: &Case) -> Vec<Finding> {
    case.each_plugged(&RULE, |nic, _| {
        let bindings = &nic.interface?.value.bindings;
        // NP006 reports an interface with no binding or several; an unknown binding may be one of a newer KubeVirt.
        let mut names = bindings.names();
        let binding = names.next()?;
        if bindings.unknown > 0 || names.next().is_some() || bindings.bridge.is_some() {
            return None;
        }
        if case.hotplugs_plugin(bindings).is_some() {
            return None;
        }
        if bindings.sriov.is_some() {
            // NP104 reports a network that cannot be hotplugged with any binding.
            return (case.plug_of(nic) == HotplugMethod::Sriov).then(|| evaluate_sriov(case, nic));
        }
        let what = format!("{:?} cannot be hotplugged: {binding} is attached at boot only", nic.name);
        Some(RULE.fault(CauseType::Invalid, case.change.nic_field(nic), what))
    })
}

fn evaluate_sriov(case: &Case, nic: &Nic) -> Finding {
    let field = case.change.nic_field(nic);
    let version = match &case.facts.kubevirt {
        Fact::Known(kubevirt) => kubevirt.version,
        Fact::Absent | Fact::Unknown => None,
    };
    match version {
        Some(version) if version < SRIOV_SINCE => {
            let what =
                format!("{:?} cannot be hotplugged: sriov needs KubeVirt {SRIOV_SINCE}, this is {version}", nic.name);
            RULE.fault(CauseType::Invalid, field, what).with_fix("use bridge: {}, or update KubeVirt".to_owned())
        }
        Some(_) => RULE
            .advice(field, format!("SR-IOV NIC {:?} cannot be attached in place: it needs a live migration", nic.name)),
        None => RULE.unknown(
            FactKind::KubeVirt,
            format!("SR-IOV hotplug of {:?} was not checked: KubeVirt's version is not known", nic.name),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        rules::testing::{Expect, Hotplug},
        settings::Settings,
    };

    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);

    #[test]
    fn only_bridge_and_sriov_can_be_hotplugged() {
        for (binding, expect) in [
            (r#""bridge": {}"#, Expect::Silent),
            (r#""sriov": {}"#, Expect::Advice),
            (r#""masquerade": {}"#, FAULT),
            (r#""passtBinding": {}"#, FAULT),
            (r#""slirp": {}"#, FAULT),
            (r#""binding": {"name": "ovn"}"#, FAULT),
            (r#""model": "virtio""#, Expect::Silent),
            (r#""hologram": {}"#, Expect::Silent),
        ] {
            let interface = format!(r#"{{"name": "dyniface1", {binding}}}"#);
            Hotplug::of(&interface).kubevirt("v1.9.0", &[]).expect(&RULE, &expect);
        }
    }

    #[test]
    fn a_setting_names_the_plugins_that_a_vendor_hotplugs() {
        let settings = Settings::parse("hotplug: {bindings: [managedtap]}", &[]).unwrap();
        for (plugin, expect) in [("managedtap", Expect::Silent), ("ovn", FAULT)] {
            let interface = format!(r#"{{"name": "dyniface1", "binding": {{"name": "{plugin}"}}}}"#);
            Hotplug::of(&interface).settings(settings.clone()).expect(&RULE, &expect);
        }
    }

    #[test]
    fn sriov_needs_1_1() {
        let sriov = r#"{"name": "dyniface1", "sriov": {}}"#;
        Hotplug::of(sriov).kubevirt("v1.0.1", &["HotplugNICs"]).expect(&RULE, &FAULT);
        Hotplug::of(sriov).kubevirt("v1.1.0", &["HotplugNICs"]).expect(&RULE, &Expect::Advice);
        Hotplug::of(sriov).kubevirt_unknown().expect(&RULE, &Expect::Unchecked);
    }

    #[test]
    fn a_stopped_vm_may_boot_with_any_binding() {
        Hotplug::of(r#"{"name": "dyniface1", "masquerade": {}}"#).stopped().expect(&RULE, &Expect::Silent);
    }
}
