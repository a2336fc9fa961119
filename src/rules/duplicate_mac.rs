//! NP113.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::{
        mac::Mac,
        network::{Interface, NadRef},
    },
    change::Nic,
    facts::{Fact, FactKind},
};

rule! {
    /// A NIC has the MAC address of another NIC of the VM, or of another VM on the same network.
    ///
    /// ## Why
    /// Two NICs with the same address on one network receive each other's packets, and nothing reports it. The usual
    /// cause is a copied manifest. Addresses are compared by value: two notations of one address are equal.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: dyniface1
    ///   bridge: {}
    ///   macAddress: 02:00:00:00:00:01
    /// - name: dyniface2
    ///   bridge: {}
    ///   macAddress: 02-00-00-00-00-01
    /// ```
    NP113, "duplicate-mac", Hotplug, Warn,
    field: "domain.devices.interfaces[].macAddress",
    fix: "omit macAddress, or choose an address that is not in use",
}

fn check(case: &Case) -> Vec<Finding> {
    let added = &case.change.nics.added;
    if added.iter().all(|nic| mac_of(nic).is_none()) {
        return Vec::new();
    }
    if case.is_new() {
        return added.iter().filter(|nic| !nic.is_absent()).filter_map(|nic| evaluate(case, nic)).collect();
    }
    case.each_plugged(&RULE, |nic, _| evaluate(case, nic))
}

fn evaluate(case: &Case, nic: &Nic) -> Option<Finding> {
    let mac = mac_of(nic)?;
    let field = format!("{}.macAddress", case.change.nic_field(nic));
    if let Some(twin) = twin_of(case, nic, mac) {
        let what = format!("{:?} shares MAC address {mac} with {twin:?} of the same VM", nic.name);
        return Some(RULE.fault(CauseType::Duplicate, field, what));
    }
    let network = NadRef::parse(nic.network_name()?, case.change.subject.namespace).to_string();
    match &case.facts.mac_users {
        Fact::Known(users) => {
            let user = users.iter().find(|user| user.mac == mac && user.network == network)?;
            let what = format!("{:?} shares MAC address {mac} with {:?}", nic.name, user.guest);
            Some(RULE.fault(CauseType::Duplicate, field, what))
        }
        Fact::Absent => None,
        Fact::Unknown => Some(RULE.unknown(
            FactKind::Vm,
            format!("whether another VM has MAC address {mac} of {:?} was not checked", nic.name),
        )),
    }
}

fn mac_of(nic: &Nic) -> Option<Mac> {
    mac_of_interface(nic.interface?.value)
}

fn mac_of_interface(interface: &Interface) -> Option<Mac> {
    interface.mac_address.as_deref()?.parse().ok()
}

/// Returns another NIC of the guest with the address. Of two new NICs only the later one is reported.
fn twin_of<'c>(case: &Case<'c>, nic: &Nic, mac: Mac) -> Option<&'c str> {
    let index = nic.interface?.index;
    let is_added = |name: &str| case.change.nics.added.iter().any(|nic| nic.name == name);
    let interfaces = case.change.after.guest.interfaces().iter().enumerate();
    let mut twins = interfaces.filter(|(other, interface)| {
        let is_twin = *other != index && mac_of_interface(interface) == Some(mac) && !interface.is_absent();
        let is_reported_there = || *other > index && is_added(&interface.name);
        is_twin && !is_reported_there()
    });
    twins.next().map(|(_, interface)| interface.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::{Fact, MacUser},
        rules::testing::{Expect, Hotplug},
    };

    const FAULT: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[2].macAddress"]);
    const ALONE: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1].macAddress"]);
    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}, "macAddress": "02-00-00-00-00-AA"}"#;
    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const TWIN_NET: &str = r#"{"name": "dyniface2", "multus": {"networkName": "new-fancy-net"}}"#;

    fn twin(mac: &str) -> String {
        format!(r#"{{"name": "dyniface2", "bridge": {{}}, "macAddress": "{mac}"}}"#)
    }

    #[test]
    fn a_duplicate_address_within_a_vm_is_found_in_any_notation() {
        for (mac, expect) in [
            ("02:00:00:00:00:aa", FAULT),
            ("0200.0000.00aa", FAULT),
            ("02:00:00:00:00:ab", Expect::Silent),
            ("nonsense", Expect::Silent),
        ] {
            Hotplug::of(NIC).with(&twin(mac), TWIN_NET).expect(&RULE, &expect);
            Hotplug::of(NIC).with(&twin(mac), TWIN_NET).created().expect(&RULE, &expect);
            Hotplug::of(NIC).with(&twin(mac), TWIN_NET).stopped().expect(&RULE, &Expect::Silent);
        }
    }

    #[test]
    fn another_vm_on_the_network_is_named() {
        let user = |network: &str| MacUser {
            mac: "02:00:00:00:00:aa".parse().unwrap(),
            network: network.to_owned(),
            guest: "demo/vm-other".to_owned(),
        };
        let case = Hotplug::of(NIC).facts(|facts| facts.mac_users = Fact::Known(vec![user("demo/new-fancy-net")]));
        case.expect(&RULE, &ALONE);
        assert!(case.findings(&RULE)[0].what.contains("\"demo/vm-other\""));
        let elsewhere = Hotplug::of(NIC).facts(|facts| facts.mac_users = Fact::Known(vec![user("demo/net-b")]));
        elsewhere.expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn unknown_facts_are_reported() {
        Hotplug::of(NIC).facts(|facts| facts.mac_users = Fact::Unknown).expect(&RULE, &Expect::Unchecked);
        let without_mac = Hotplug::modify((r#"{"name": "dyniface1", "bridge": {}}"#, NET), (NIC, NET));
        without_mac.facts(|facts| facts.mac_users = Fact::Unknown).expect(&RULE, &Expect::Silent);
    }
}
