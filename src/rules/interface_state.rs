//! NP007.

use super::{Case, CauseType, Finding, rule};
use crate::api::{network::Interface, quote::quote};

rule! {
    /// An interface has an invalid `state`, or one that its binding or network does not support.
    ///
    /// ## Why
    /// `down` and `up` set the link, which KubeVirt cannot do for SR-IOV. `absent` unplugs the NIC, which works only
    /// with the bridge binding, and never for the default network of the pod.
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
    fix: "state may be absent, down or up; leave it out for a link that is up",
}

const STATES: [&str; 3] = ["absent", "down", "up"];

fn check(case: &Case) -> Vec<Finding> {
    let guest = case.change.after.guest;
    // NP005 reports several default networks; here the first one counts.
    let default = guest.networks.iter().find(|network| network.is_default()).map(|network| network.name.as_str());
    let mut findings = Vec::new();
    for (index, interface) in guest.interfaces().iter().enumerate() {
        let Some(state) = interface.state.as_deref().filter(|state| !state.is_empty()) else { continue };
        // The default network cannot be unplugged with any binding, so that finding is enough.
        let problem = unknown_state(interface, state)
            .or_else(|| link_of_sriov(interface, state))
            .or_else(|| unplug_of_default(interface, default))
            .or_else(|| unplug_without_bridge(case, interface));
        let field = || format!("{}.state", case.change.interface_field(index));
        findings.extend(problem.map(|(what, fix)| {
            let fault = RULE.fault(CauseType::Invalid, field(), what);
            if fix.is_empty() { fault } else { fault.with_fix(fix) }
        }));
    }
    findings
}

/// A message and its fix; an empty fix stands for that of the rule.
type Problem = Option<(String, String)>;

fn unknown_state(interface: &Interface, state: &str) -> Problem {
    if STATES.contains(&state) {
        return None;
    }
    let meant = STATES.iter().find(|known| known.eq_ignore_ascii_case(state.trim()));
    let fix = meant.map(|meant| format!("write it as {meant}", meant = quote(meant))).unwrap_or_default();
    Some((format!("interface {} has the invalid state {state}", quote(&interface.name), state = quote(state)), fix))
}

fn link_of_sriov(interface: &Interface, state: &str) -> Problem {
    if interface.bindings.sriov.is_none() || !matches!(state, "down" | "up") {
        return None;
    }
    let what = format!(
        "SR-IOV interface {} has state {state}, but its link cannot be set",
        quote(&interface.name),
        state = quote(state)
    );
    Some((what, "leave state out and set the link inside the guest".to_owned()))
}

fn unplug_without_bridge(case: &Case, interface: &Interface) -> Problem {
    let bindings = &interface.bindings;
    if !interface.is_absent() || bindings.bridge.is_some() || bindings.is_unknown() {
        return None;
    }
    let what =
        format!("interface {} cannot be unplugged: state absent needs the bridge binding", quote(&interface.name));
    let restart = if case.live().known().is_some() { " and restart the VM" } else { "" };
    Some((what, format!("to remove the NIC, delete its interface and network{restart}")))
}

fn unplug_of_default(interface: &Interface, default: Option<&str>) -> Problem {
    if !interface.is_absent() || default != Some(interface.name.as_str()) {
        return None;
    }
    let what = format!("interface {} cannot be unplugged: it is on the pod's default network", quote(&interface.name));
    Some((what, "write it as \"down\" to turn off only the link".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, Hotplug, nic, table};

    const STATE: &[&str] = &["spec.template.spec.domain.devices.interfaces[0].state"];
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
            (r#""masquerade": {}, "state": "absent""#, r#""pod": {}"#, Expect::Faults(STATE)),
        ] {
            table(&RULE, &[(&nic(interface, network), expect)]);
        }
    }

    #[test]
    fn a_binding_of_a_newer_kubevirt_may_be_unplugged() {
        table(&RULE, &[(&nic(r#""teleport": {}, "state": "absent""#, MULTUS), Expect::Silent)]);
    }

    #[test]
    fn each_state_has_one_fix_and_only_a_running_vm_restarts() {
        const POD: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
        let of =
            |interface: &str| Hotplug::modify((r#"{"name": "dyniface1", "masquerade": {}}"#, POD), (interface, POD));
        let fix = |case: &Hotplug| case.findings(&RULE).remove(0).fix.into_owned();
        let absent = || of(r#"{"name": "dyniface1", "masquerade": {}, "state": "absent"}"#);
        assert_eq!(fix(&absent()), "to remove the NIC, delete its interface and network and restart the VM");
        assert_eq!(fix(&absent().stopped()), "to remove the NIC, delete its interface and network");
        for (state, expected) in [
            ("Down", "write it as \"down\""),
            ("gone", "state may be absent, down or up; leave it out for a link that is up"),
        ] {
            let interface = format!(r#"{{"name": "dyniface1", "masquerade": {{}}, "state": "{state}"}}"#);
            assert_eq!(fix(&of(&interface)), expected, "{state}");
        }
    }
}
