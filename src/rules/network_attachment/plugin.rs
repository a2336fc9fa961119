//! Which NICs a CNI plugin can serve.

use super::RULE;
use crate::{
    api::network::{NadRef, Network},
    api::quote::quote,
    change::Nic,
    facts::{
        cni::OvnNetwork,
        nad::{Nad, NadLookup},
    },
    rules::{AtRestart, Case, CauseType, Finding},
};

/// The plugins that create an interface without a device, so that there is none for the sriov binding.
const WITHOUT_DEVICE: [&str; 9] = ["bridge", "cnv-bridge", "ovs", "macvlan", "ipvlan", "vlan", "ptp", "tap", "dummy"];

/// Evaluates whether the plugins of a network can serve a NIC.
pub(super) fn evaluate(case: &Case, nic: &Nic, name: NadRef, lookup: &NadLookup) -> Option<Finding> {
    let nad = lookup.nad.known()?;
    let index = nic.network?.index;
    let field = || case.change.network_name_field(index);
    let ovn = nad.network.ovn.as_deref();
    let fault = ovn.and_then(|ovn| evaluate_ovn(case, nic, name, nad, ovn));
    if let Some(OvnFault { what, fix, at_restart }) = fault {
        return Some(RULE.fault(CauseType::Invalid, field(), what).with_fix(fix).at_restart(at_restart));
    }
    let what = unsuitable_binding(nic, nad).or_else(|| {
        let (ovn, other) = (ovn?, lookup.conflict.as_deref()?);
        let network = &ovn.name;
        let name = name.shown();
        Some(format!(
            "\"{name}\" and {other} are one OVN network {network} with different settings: one of them is rejected",
            other = quote(other),
            network = quote(network)
        ))
    });
    what.map(|what| RULE.advice(field(), what))
}

/// Why OVN-Kubernetes does not attach a NIC.
struct OvnFault {
    what: String,
    fix: String,
    at_restart: AtRestart,
}

impl OvnFault {
    fn new(what: String, fix: &str) -> Self {
        Self { what, fix: fix.to_owned(), at_restart: AtRestart::Fails }
    }
}

fn evaluate_ovn(case: &Case, nic: &Nic, name: NadRef, nad: &Nad, ovn: &OvnNetwork) -> Option<OvnFault> {
    let is_default = nic.network.is_some_and(|network| network.value.is_default());
    let shown = name.shown();
    if nad.network.plugins.len() > 1 {
        let what = format!("network \"{shown}\" cannot be used: OVN-Kubernetes takes no chained plugins");
        return Some(OvnFault::new(what, "leave only the plugin of OVN-Kubernetes in its config"));
    }
    if !ovn.topology.is_empty() && *ovn.nad_name != *name.full_name() {
        let written = &ovn.nad_name;
        let what = format!(
            "netAttachDefName {written} of \"{shown}\" is not \"{shown}\": OVN-Kubernetes ignores the network",
            written = quote(written)
        );
        return Some(OvnFault::new(what, &format!("set netAttachDefName in its config to \"{shown}\"")));
    }
    if !is_default && (ovn.is_primary || &*ovn.topology == "layer3") {
        let kind = if ovn.is_primary { "a primary OVN network" } else { "an OVN layer3 network" };
        let what = format!("\"{shown}\" is {kind}: a VM cannot use it as a further network");
        let fault = OvnFault::new(what, "use an OVN network of topology layer2 or localnet, of role secondary");
        // OVN-Kubernetes attaches a layer3 network to the pod.
        let at_restart = if ovn.is_primary { AtRestart::Fails } else { AtRestart::Applied };
        return Some(OvnFault { at_restart, ..fault });
    }
    let other = other_nic(case, nic, name)?;
    let what = format!(
        "OVN-Kubernetes network \"{shown}\" is used by two NICs of the VM ({other}, {})",
        quote(nic.name),
        other = quote(other)
    );
    let fix = "give the second NIC a NetworkAttachmentDefinition of its own with the same network name";
    Some(OvnFault::new(what, fix))
}

/// Returns another NIC of the guest on the same definition. Of two NICs that the change adds, only the second has one.
fn other_nic<'c>(case: &'c Case, nic: &Nic, name: NadRef) -> Option<&'c str> {
    let change = case.change;
    let guest = change.after.guest;
    let own_index = nic.network?.index;
    let is_same = |network: &Network| {
        let further = network.multus.as_ref().filter(|_| !network.is_default());
        further.is_some_and(|multus| NadRef::parse(&multus.network_name, change.subject.namespace) == name)
    };
    let is_new = |index| change.nics.added.iter().any(|nic| nic.network.is_some_and(|network| network.index == index));
    let others = guest.networks.iter().enumerate().filter(|(index, network)| *index != own_index && is_same(network));
    let mut others = others.filter(|(index, _)| *index < own_index || !is_new(*index));
    let is_present = |name: &str| change.nic(name).is_some_and(|nic| nic.interface.is_some() && !nic.is_absent());
    let found = others.find(|(_, other)| other.name.as_str() != nic.name && is_present(&other.name));
    found.map(|(_, other)| other.name.as_str())
}

/// Returns why the binding of a NIC does not fit the plugin.
fn unsuitable_binding(nic: &Nic, nad: &Nad) -> Option<String> {
    let name = nic.network_name()?;
    let bindings = &nic.interface?.value.bindings;
    let network = &nad.network;
    let kind = network.kind();
    let is_bridge = bindings.bridge.is_some() || bindings.is_empty();
    if is_bridge && network.plugins.iter().any(|kind| &**kind == "ipvlan") {
        return Some(format!(
            "bridge binding on ipvlan network {name} cannot work: all its interfaces have one MAC",
            name = quote(name)
        ));
    }
    if is_bridge && !network.is_passthru && network.plugins.iter().any(|kind| &**kind == "macvlan") {
        return Some(format!(
            "bridge binding on macvlan network {name} mostly passes no traffic: the guest's MAC differs",
            name = quote(name)
        ));
    }
    if is_bridge && network.is_sriov() {
        return Some(format!(
            "bridge binding on SR-IOV network {name}: its VF reaches the pod only; use sriov: {{}}",
            name = quote(name)
        ));
    }
    let is_sriov = bindings.sriov.is_some() && bindings.bridge.is_none();
    (is_sriov && WITHOUT_DEVICE.contains(&kind))
        .then(|| format!("sriov binding on network {name} of type {kind}, which gives no VF", name = quote(name)))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::nad::{Nad, NadLookup, Nads},
        rules::{
            FindingKind,
            testing::{Expect, Hotplug},
        },
    };

    const BRIDGE: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const SRIOV: &str = r#"{"name": "dyniface1", "sriov": {}}"#;
    const NAD: &str = "demo/new-fancy-net";

    fn ovn(rest: &str) -> String {
        format!(r#"{{"type": "ovn-k8s-cni-overlay", "name": "blue"{rest}}}"#)
    }

    fn layer2(rest: &str) -> String {
        ovn(&format!(r#", "topology": "layer2", "netAttachDefName": "{NAD}"{rest}"#))
    }

    #[test]
    fn a_binding_has_to_fit_the_plugin() {
        for (interface, config, part) in [
            (BRIDGE, r#"{"type": "bridge"}"#, None),
            (BRIDGE, r#"{"type": "macvlan"}"#, Some("mostly passes no traffic")),
            (r#"{"name": "dyniface1"}"#, r#"{"type": "macvlan", "mode": "bridge"}"#, Some("macvlan network")),
            (BRIDGE, r#"{"type": "macvlan", "mode": "passthru"}"#, None),
            (BRIDGE, r#"{"plugins": [{"type": "ipvlan"}, {"type": "tuning"}]}"#, Some("have one MAC")),
            (BRIDGE, r#"{"type": "sriov"}"#, Some("use sriov: {}")),
            (BRIDGE, r#"{"type": "ib-sriov"}"#, Some("use sriov: {}")),
            (SRIOV, r#"{"type": "sriov"}"#, None),
            (SRIOV, r#"{"type": "host-device"}"#, None),
            (SRIOV, r#"{"type": "ovs"}"#, Some("of type ovs, which gives no VF")),
            (r#"{"name": "dyniface1", "binding": {"name": "x"}}"#, r#"{"type": "macvlan"}"#, None),
        ] {
            let case = Hotplug::of(interface).with_nad(NAD, Nad::read(config, "example.com/vf"));
            let expect = if part.is_some() { Expect::Advice } else { Expect::Silent };
            case.expect(&RULE, &expect);
            let findings = case.findings(&RULE);
            assert!(part.is_none_or(|part| findings[0].what.contains(part)), "{findings:?}");
        }
    }

    #[test]
    fn an_ovn_network_has_to_name_its_definition_and_to_be_of_use_to_a_vm() {
        for (config, part) in [
            (layer2(""), None),
            (ovn(""), None),
            (ovn(r#", "topology": "layer2""#), Some("netAttachDefName \"\" of")),
            (ovn(r#", "topology": "layer2", "netAttachDefName": "a/b""#), Some("OVN-Kubernetes ignores the network")),
            (layer2(r#", "role": "primary""#), Some("a primary OVN network")),
            (layer2("").replace("layer2", "layer3"), Some("an OVN layer3 network")),
            (
                format!(r#"{{"name": "blue", "plugins": [{}, {{"type": "tuning"}}]}}"#, layer2("")),
                Some("no chained plugins"),
            ),
        ] {
            let findings = Hotplug::of(BRIDGE).nad(NAD, &config).findings(&RULE);
            assert_eq!(findings.len(), usize::from(part.is_some()), "{config}: {findings:?}");
            let Some(part) = part else { continue };
            assert!(matches!(findings[0].kind, FindingKind::Fault(_)), "{findings:?}");
            assert!(findings[0].what.contains(part), "{findings:?}");
            let created = Hotplug::of(BRIDGE).nad(NAD, &config).created().findings(&RULE);
            assert_eq!(created[0].kind, FindingKind::Advice);
        }
    }

    #[test]
    fn two_nics_of_a_vm_may_not_share_an_ovn_definition() {
        let network = r#"{"name": "dyniface2", "multus": {"networkName": "demo/new-fancy-net"}}"#;
        let two = || Hotplug::of(BRIDGE).nad(NAD, &layer2(""));
        let findings = two().with(r#"{"name": "dyniface2", "bridge": {}}"#, network).findings(&RULE);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].what.ends_with(r#"("dyniface1", "dyniface2")"#), "{findings:?}");
        let absent = two().with(r#"{"name": "dyniface2", "bridge": {}, "state": "absent"}"#, network);
        absent.expect(&RULE, &Expect::Silent);
        let on_a_bridge = Hotplug::of(BRIDGE).with(r#"{"name": "dyniface2", "bridge": {}}"#, network);
        on_a_bridge.expect(&RULE, &Expect::Silent);
        assert_eq!(two().having(&["here"]).findings(&RULE).len(), 1);
    }

    #[test]
    fn two_definitions_of_one_ovn_network_have_equal_settings() {
        let lookup = |facts: &Nads| facts.lookup(crate::api::network::NadRef::parse(NAD, "demo"));
        let case = Hotplug::of(BRIDGE).nad(NAD, &layer2("")).facts(|facts| {
            let found = NadLookup { conflict: Some("prod/blue".to_owned()), ..lookup(&facts.nads) };
            facts.nads.insert(crate::api::network::NadRef::parse(NAD, "demo"), found);
        });
        assert_eq!(case.findings(&RULE)[0].kind, FindingKind::Advice);
    }

    #[test]
    fn a_stopped_vm_is_warned() {
        let findings = Hotplug::of(BRIDGE).nad(NAD, &ovn(r#", "topology": "layer2""#)).stopped().findings(&RULE);
        assert_eq!(findings[0].kind, FindingKind::Advice);
        Hotplug::of(BRIDGE).nad(NAD, r#"{"type": "macvlan"}"#).stopped().expect(&RULE, &Expect::Advice);
        Hotplug::of(BRIDGE).stopped().expect(&RULE, &Expect::Silent);
    }
}
