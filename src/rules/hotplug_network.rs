//! NP104.

use super::{Case, CauseType, Finding, rule};
use crate::api::quote::quote;

rule! {
    /// A NIC is plugged into a running VM on a network that is attached at boot only.
    ///
    /// ## Why
    /// The pod network, the multus network that replaces it, and the device of a resource claim are set up when the pod
    /// is created. Only an additional multus network can be added while the pod runs.
    ///
    /// ## Example
    /// ```yaml
    /// networks:
    /// - name: dyniface1
    ///   pod: {}
    /// ```
    NP104, "hotplug-network", Hotplug, Deny,
    field: "networks[]",
    fix: "use multus: {networkName: NAD} without default: true, or stop the VM first",
}

fn check(case: &Case) -> Vec<Finding> {
    case.each_plugged(&RULE, |nic, _| {
        let entry = nic.network?;
        let source = match entry.value {
            network if network.pod.is_some() => "the pod network",
            network if network.is_default() => "the multus default network",
            network if network.resource_claim.is_some() && network.multus.is_none() => "a resource claim",
            _ => return None,
        };
        let what = format!("{} cannot be hotplugged: {source} is attached at boot only", quote(nic.name));
        Some(RULE.fault(CauseType::Invalid, case.change.network_field(entry.index), what))
    })
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, Hotplug};

    const BRIDGE: &str = r#"{"name": "dyniface1", "bridge": {}}"#;

    #[test]
    fn only_an_additional_multus_network_can_be_plugged() {
        const FAULT: Expect = Expect::Faults(&["spec.template.spec.networks[1]"]);
        for (source, expect) in [
            (r#""multus": {"networkName": "new-fancy-net"}"#, Expect::Silent),
            (r#""multus": {"networkName": "new-fancy-net", "default": true}"#, FAULT),
            (r#""pod": {}"#, FAULT),
            (r#""resourceClaim": {"claimName": "c", "requestName": "r"}"#, FAULT),
            (r#""carrierPigeon": {}"#, Expect::Silent),
        ] {
            Hotplug::of(BRIDGE).on(&format!(r#"{{"name": "dyniface1", {source}}}"#)).expect(&RULE, &expect);
        }
    }

    #[test]
    fn a_vm_that_is_not_known_to_run_is_not_checked() {
        let pod = r#"{"name": "dyniface1", "pod": {}}"#;
        Hotplug::of(BRIDGE).on(pod).stopped().expect(&RULE, &Expect::Silent);
        Hotplug::of(BRIDGE).on(pod).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
