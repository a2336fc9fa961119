//! NP113.

use std::collections::BTreeSet;

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::{
        mac::Mac,
        network::{Interface, NadRef},
        quote::quote,
        review::ObjectKind,
    },
    change::{Nic, NicDiff},
    facts::{Fact, FactKind},
};

rule! {
    /// A NIC has the MAC address of another NIC of the VM, of another VM on the same wire, or of each replica.
    ///
    /// ## Why
    /// Two NICs with the same address on one wire receive each other's packets, and nothing reports it. The usual causes
    /// are a copied manifest and a backup that is restored beside the original. Addresses are compared by value: two
    /// notations of one address are equal. They are compared in the whole cluster: NetworkAttachmentDefinitions of
    /// different names are one wire if they name the same bridge and VLAN, the same interface, the same OVN network or
    /// the same SR-IOV resource. A VM of the same name in another namespace that does not run is not reported: it is the
    /// source of a migration, an import or a restore. NICs on the pod network are not compared.
    ///
    /// In the template of a pool or a replica set, an address goes to every replica. KubeVirt accepts multicast
    /// addresses and the address of zeros, with which a NIC does not work.
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
    NP113, "duplicate-mac", Shape, Warn,
    field: "domain.devices.interfaces[].macAddress",
    fix: "omit macAddress, or choose an address that is not in use",
}

fn check(case: &Case) -> Vec<Finding> {
    let change = case.change;
    // A VM that receives a migration from another cluster or namespace has the addresses of its source.
    if change.after.vm.is_some_and(|vm| vm.spec.run_strategy.as_deref() == Some("WaitAsReceiver")) {
        return Vec::new();
    }
    let judged: Vec<_> = judged_nics(&change.nics)
        .filter(|nic| !nic.is_absent())
        .filter_map(|nic| Some(JudgedNic { nic, mac: nic.mac()? }))
        .collect();
    // Most changes give no NIC an address.
    if judged.is_empty() {
        return Vec::new();
    }
    let addresses = Addresses::of(case, &judged);
    judged.iter().filter_map(|judged| evaluate(case, judged, &addresses)).collect()
}

/// A NIC that the change gives an address or a network.
struct JudgedNic<'c, 'r> {
    nic: &'c Nic<'r>,
    mac: Mac,
}

/// Returns the NICs that are new, or that get another address or another network.
fn judged_nics<'c, 'r>(nics: &'c NicDiff<'r>) -> impl Iterator<Item = &'c Nic<'r>> {
    nics.added.iter().chain(nics.modified.iter().filter(|pair| moves(pair)).map(|(_, nic)| nic))
}

/// Whether a changed NIC gets another address or another network.
fn moves((old, new): &(Nic, Nic)) -> bool {
    old.mac() != new.mac() || old.network_name() != new.network_name()
}

fn evaluate(case: &Case, &JudgedNic { nic, mac }: &JudgedNic, addresses: &Addresses) -> Option<Finding> {
    let field = format!("{}.macAddress", case.change.nic_field(nic));
    if mac.is_zero() {
        let what = format!("MAC address {mac} of {} is all zero: leave macAddress out", quote(nic.name));
        return Some(RULE.advice(field, what));
    }
    if mac.is_multicast() {
        let what =
            format!("MAC address {mac} of {} is multicast: libvirt does not start such a guest", quote(nic.name));
        return Some(RULE.advice(field, what));
    }
    if let Some(twin) = addresses.twin_of(nic, mac) {
        let what =
            format!("{} shares MAC address {mac} with {twin} of the same VM", quote(nic.name), twin = quote(twin));
        return Some(RULE.fault(CauseType::Duplicate, field, what));
    }
    let network = case.facts.nad_of(nic, case.change.subject.namespace)?.full_name();
    match case.change.subject.kind {
        ObjectKind::Vm | ObjectKind::Vmi => evaluate_users(case, nic, mac, &network, field),
        ObjectKind::Pool | ObjectKind::ReplicaSet => {
            let has_one = case.change.after.replicas.is_some_and(|replicas| replicas <= 1);
            let what = format!("every replica gets MAC address {mac} of {}", quote(nic.name));
            let finding = RULE.fault(CauseType::Duplicate, field, what).with_fix("leave macAddress out".to_owned());
            (!has_one).then_some(finding)
        }
        ObjectKind::Migration | ObjectKind::Nad | ObjectKind::Other => None,
    }
}

fn evaluate_users(case: &Case, nic: &Nic, mac: Mac, network: &str, field: String) -> Option<Finding> {
    match &case.facts.mac_users {
        Fact::Known(users) => {
            let user = users.iter().find(|user| user.mac == mac && *user.network == *network)?;
            let via = user.via.as_ref().map(|via| format!(", on the same wire as {}", NadRef::parse(via, "").shown()));
            let via = via.unwrap_or_default();
            let what = format!("{} shares MAC address {mac} with {}{via}", quote(nic.name), quote(&user.guest));
            Some(RULE.fault(CauseType::Duplicate, field, what))
        }
        Fact::Absent => None,
        Fact::Unknown => Some(RULE.unknown(
            FactKind::Vm,
            format!("whether another VM has MAC address {mac} of {} was not checked", quote(nic.name)),
        )),
    }
}

/// The addresses of a guest. Each is read once and found by a search: a guest can have 256 NICs.
struct Addresses<'c> {
    interfaces: &'c [Interface<'c>],
    /// The addresses, each with the index of its interface, in this order. Absent interfaces have none.
    sorted: Vec<(Mac, usize)>,
    judged: BTreeSet<&'c str>,
}

impl<'c> Addresses<'c> {
    fn of(case: &Case<'c>, judged: &[JudgedNic<'c, 'c>]) -> Self {
        let interfaces = case.change.after.guest.interfaces();
        let present = interfaces.iter().enumerate().filter(|(_, interface)| !interface.is_absent());
        let mut sorted: Vec<_> = present.filter_map(|(index, interface)| Some((interface.mac()?, index))).collect();
        sorted.sort_unstable();
        Self { interfaces, sorted, judged: judged.iter().map(|judged| judged.nic.name).collect() }
    }

    /// Returns another NIC of the guest with the address. Of two NICs that get it, only the later one is reported.
    fn twin_of(&self, nic: &Nic, mac: Mac) -> Option<&'c str> {
        let index = nic.interface?.index;
        let start = self.sorted.partition_point(|(other, _)| *other < mac);
        let of_mac = self.sorted.get(start..)?.iter().take_while(|(other, _)| *other == mac);
        let others = of_mac.filter(|(_, other)| *other != index);
        let named = others.filter_map(|(_, other)| Some((*other, &*self.interfaces.get(*other)?.name)));
        let mut twins = named.filter(|(other, name)| *other < index || !self.judged.contains(name));
        twins.next().map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::{Fact, Facts, MacUser},
        rules::testing::{Expect, Hotplug, findings},
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
            Hotplug::of(NIC).with(&twin(mac), TWIN_NET).stopped().expect(&RULE, &expect);
        }
    }

    #[test]
    fn a_changed_address_is_compared_and_an_unchanged_one_is_not() {
        let other = Fact::Known(vec![user("demo/new-fancy-net", None)]);
        let modify =
            |old: &str, new: &str| Hotplug::modify((old, NET), (new, NET)).facts(|it| it.mac_users = other.clone());
        let without = r#"{"name": "dyniface1", "bridge": {}}"#;
        let down = r#"{"name": "dyniface1", "bridge": {}, "macAddress": "02-00-00-00-00-AA", "state": "down"}"#;
        modify(without, NIC).expect(&RULE, &ALONE);
        modify(without, NIC).stopped().expect(&RULE, &ALONE);
        modify(NIC, down).expect(&RULE, &Expect::Silent);
        modify(NIC, without).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn an_address_that_no_nic_can_have_is_reported() {
        for (mac, part) in [("00:00:00:00:00:00", "all zero"), ("01:00:5e:00:00:01", "multicast")] {
            let case = Hotplug::of(&format!(r#"{{"name": "dyniface1", "bridge": {{}}, "macAddress": "{mac}"}}"#));
            case.expect(&RULE, &Expect::Advice);
            assert!(case.findings(&RULE)[0].what.contains(part));
        }
    }

    #[test]
    fn the_address_of_a_template_goes_to_every_replica() {
        const MULTUS: &str = r#""multus": {"networkName": "n"}"#;

        let review = |replicas: &str, network: &str| {
            format!(
                r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
                    "kind": {{"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachineInstanceReplicaSet"}},
                    "namespace": "demo", "name": "web", "operation": "CREATE", "object": {{"spec": {{{replicas}
                    "template": {{"spec": {{"domain": {{"devices": {{"interfaces": [{{"name": "lan", "bridge": {{}},
                    "macAddress": "02:00:00:00:00:aa"}}]}}}}, "networks": [{{"name": "lan", {network}}}]}}}}}}}}}}}}"#
            )
        };
        for (replicas, network, count) in [
            ("", MULTUS, 1),
            (r#""replicas": 3,"#, MULTUS, 1),
            (r#""replicas": 1,"#, MULTUS, 0),
            ("", r#""pod": {}"#, 0),
        ] {
            let found = findings(&RULE, &review(replicas, network), &Facts::default());
            assert_eq!(found.len(), count, "{replicas} {network}: {found:?}");
            assert!(found.iter().all(|it| it.what == "every replica gets MAC address 02:00:00:00:00:aa of \"lan\""));
        }
    }

    fn user(network: &str, via: Option<&str>) -> MacUser {
        MacUser {
            mac: "02:00:00:00:00:aa".parse().unwrap(),
            network: network.to_owned(),
            via: via.map(str::to_owned),
            guest: "demo/vm-other".to_owned(),
        }
    }

    #[test]
    fn another_vm_on_the_network_is_named() {
        let case =
            Hotplug::of(NIC).facts(|facts| facts.mac_users = Fact::Known(vec![user("demo/new-fancy-net", None)]));
        case.expect(&RULE, &ALONE);
        assert!(case.findings(&RULE)[0].what.contains("\"demo/vm-other\""));
        let elsewhere = Hotplug::of(NIC).facts(|facts| facts.mac_users = Fact::Known(vec![user("demo/net-b", None)]));
        elsewhere.expect(&RULE, &Expect::Silent);
        let on_wire = vec![user("demo/new-fancy-net", Some("prod/n"))];
        let on_wire = Hotplug::of(NIC).facts(|facts| facts.mac_users = Fact::Known(on_wire));
        assert!(on_wire.findings(&RULE)[0].what.ends_with("with \"demo/vm-other\", on the same wire as prod/n"));
    }

    #[test]
    fn unknown_facts_are_reported() {
        Hotplug::of(NIC).facts(|facts| facts.mac_users = Fact::Unknown).expect(&RULE, &Expect::Unchecked);
        let added = Hotplug::modify((r#"{"name": "dyniface1", "bridge": {}}"#, NET), (NIC, NET));
        added.facts(|facts| facts.mac_users = Fact::Unknown).expect(&RULE, &Expect::Unchecked);
    }
}
