//! NP007.

use super::{Case, CauseType, Finding, rule};
use crate::api::network::Interface;

rule! {
    /// The state of an interface is no state, or none that this interface can have.
    ///
    /// ## Why
    /// `down` and `up` set the link, which KubeVirt cannot do for SR-IOV. `absent` unplugs the NIC, which works for
    /// bridge binding only, and never for the default network of the pod.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: default
    ///   masquerade: {}
    ///   state: absent
    /// networks:
    /// - name: default
    ///   pod: {}
    /// ```
    NP007, "interface-state", Shape, Deny,
    field: "domain.devices.interfaces[].state",
    fix: "write absent, down or up, or leave it out",
}

const STATES: [&str; 3] = ["absent", "down", "up"];

fn check(case: &Case) -> Vec<Finding> {
    let guest = case.change.after.guest;
    // The first one, whatever follows: NP005 says what is wrong with several.
    let default = guest.networks.iter().find(|network| network.is_default()).map(|network| network.name.as_str());
    let mut findings = Vec::new();
    for (index, interface) in guest.interfaces().iter().enumerate() {
        let Some(state) = interface.state.as_deref().filter(|state| !state.is_empty()) else { continue };
        let wrong = [
            not_a_state(interface, state),
            link_of_sriov(interface, state),
            unplug_without_bridge(interface),
            unplug_of_default(interface, default),
        ];
        let field = || format!("{}.state", case.change.interface_field(index));
        findings.extend(wrong.into_iter().flatten().map(|(what, fix)| {
            let fault = RULE.fault(CauseType::Invalid, field(), what);
            if fix.is_empty() { fault } else { fault.with_fix(fix) }
        }));
    }
    findings
}

/// What is wrong, and the fix where it is not the rule's own.
type Wrong = Option<(String, String)>;

fn not_a_state(interface: &Interface, state: &str) -> Wrong {
    if STATES.contains(&state) {
        return None;
    }
    let meant = STATES.iter().find(|known| known.eq_ignore_ascii_case(state.trim()));
    let fix = meant.map(|meant| format!("write it as {meant}")).unwrap_or_default();
    Some((format!("state {state:?} of interface {:?} is none of absent, down and up", interface.name.as_str()), fix))
}

fn link_of_sriov(interface: &Interface, state: &str) -> Wrong {
    if interface.bindings.sriov.is_none() || !matches!(state, "down" | "up") {
        return None;
    }
    let what = format!("the link of SR-IOV interface {:?} cannot be set {state}", interface.name.as_str());
    Some((what, "leave the state out and set the link in the guest".to_owned()))
}

fn unplug_without_bridge(interface: &Interface) -> Wrong {
    let bindings = &interface.bindings;
    if !interface.is_absent() || bindings.bridge.is_some() || bindings.is_unknown() {
        return None;
    }
    let what =
        format!("interface {:?} cannot be unplugged: absent works with bridge binding only", interface.name.as_str());
    Some((what, "leave the state out; to be rid of the NIC, take it and its network out and restart the VM".to_owned()))
}

fn unplug_of_default(interface: &Interface, default: Option<&str>) -> Wrong {
    if !interface.is_absent() || default != Some(interface.name.as_str()) {
        return None;
    }
    let what =
        format!("interface {:?} cannot be unplugged: it is on the pod's default network", interface.name.as_str());
    Some((what, "leave the state out; down takes only the link away".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, nic, table};

    const STATE: &[&str] = &["spec.template.spec.domain.devices.interfaces[0].state"];
    const TWICE: &[&str] = &[
        "spec.template.spec.domain.devices.interfaces[0].state",
        "spec.template.spec.domain.devices.interfaces[0].state",
    ];
    const MULTUS: &str = r#""multus": {"networkName": "n"}"#;
    const DEFAULT: &str = r#""multus": {"networkName": "n", "default": true}"#;

    #[test]
    fn verdicts() {
        for (interface, network, expect) in [
            (r#""bridge": {}"#, MULTUS, Expect::Silent),
            (r#""bridge": {}, "state": """#, MULTUS, Expect::Silent),
            (r#""bridge": {}, "state": "up""#, MULTUS, Expect::Silent),
            (r#""masquerade": {}, "state": "down""#, r#""pod": {}"#, Expect::Silent),
            (r#""bridge": {}, "state": "absent""#, MULTUS, Expect::Silent),
            (r#""bridge": {}, "state": "gone""#, MULTUS, Expect::Faults(STATE)),
            (r#""bridge": {}, "state": "Absent""#, MULTUS, Expect::Faults(STATE)),
            (r#""sriov": {}, "state": "up""#, MULTUS, Expect::Faults(STATE)),
            (r#""sriov": {}, "state": "absent""#, MULTUS, Expect::Faults(STATE)),
            (r#""binding": {"name": "x"}, "state": "absent""#, MULTUS, Expect::Faults(STATE)),
            (r#""bridge": {}, "state": "absent""#, DEFAULT, Expect::Faults(STATE)),
            (r#""bridge": {}, "state": "absent""#, r#""pod": {}"#, Expect::Faults(STATE)),
            (r#""masquerade": {}, "state": "absent""#, r#""pod": {}"#, Expect::Faults(TWICE)),
        ] {
            table(&RULE, &[(&nic(interface, network), expect)]);
        }
    }

    #[test]
    fn a_binding_of_a_newer_kubevirt_may_be_unplugged() {
        table(&RULE, &[(&nic(r#""teleport": {}, "state": "absent""#, MULTUS), Expect::Silent)]);
    }
}
