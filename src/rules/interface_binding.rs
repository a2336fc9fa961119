//! NP006.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::network::{BindingName, Interface, Network},
    facts::FactKind,
    kubevirt::gates::Gate,
};

rule! {
    /// An interface has no binding, more than one, or one that cannot be used with its network.
    ///
    /// ## Why
    /// The binding says how the guest's device is joined to the pod's. Each interface has exactly one. masquerade and
    /// passtBinding know the pod network only; a bridge on the pod network, and passtBinding, need the cluster's leave;
    /// slirp, passt and macvtap are discontinued since KubeVirt 1.3 and refused for new objects.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: blue
    ///   masquerade: {}
    /// networks:
    /// - name: blue
    ///   multus: {networkName: blue-net}
    /// ```
    NP006, "interface-binding", Shape, Deny,
    field: "domain.devices.interfaces[]",
    fix: "set exactly one of bridge, masquerade, sriov, passtBinding and binding",
}

/// The address of KubeVirt's bridge in the pod. KubeVirt compares the text, so other writings of it pass.
const RESERVED_MAC: &str = "02:00:00:00:00:00";

fn check(case: &Case) -> Vec<Finding> {
    let guest = case.change.after.guest;
    let mut evaluate = Judge { case, findings: Vec::new(), needs_kubevirt: false };
    for (index, interface) in guest.interfaces().iter().enumerate() {
        let network = case.change.nic(&interface.name).and_then(|nic| nic.network).map(|entry| entry.value);
        evaluate.interface(&Nic { index, interface, network });
    }
    if evaluate.needs_kubevirt {
        evaluate.findings.push(
            RULE.unknown(
                FactKind::KubeVirt,
                "which bindings the cluster permits was not checked: KubeVirt is not known",
            ),
        );
    }
    evaluate.findings
}

struct Nic<'c> {
    index: usize,
    interface: &'c Interface<'c>,
    network: Option<&'c Network<'c>>,
}

impl Nic<'_> {
    fn is_on_pod_network(&self) -> bool {
        self.network.is_some_and(|network| network.pod.is_some())
    }

    /// A source of a newer KubeVirt may be anything, so also what a binding wants.
    fn is_off_pod_network(&self) -> bool {
        !self.is_on_pod_network() && !self.network.is_some_and(Network::has_unknown_source)
    }
}

struct Judge<'c> {
    case: &'c Case<'c>,
    findings: Vec<Finding>,
    /// Whether some interface could not be judged without the KubeVirt resource.
    needs_kubevirt: bool,
}

impl Judge<'_> {
    fn interface(&mut self, nic: &Nic) {
        self.count(nic);
        self.masquerade(nic);
        self.bridge(nic);
        self.passt(nic);
        self.plugin(nic);
        self.discontinued(nic);
    }

    fn count(&mut self, nic: &Nic) {
        let (bindings, name) = (&nic.interface.bindings, nic.interface.name.as_str());
        let what = match bindings.current().count() {
            0 if bindings.unknown > 0 => return,
            1 => return,
            0 => match bindings.discontinued().next() {
                Some(old) => format!("interface {name:?} has no binding but {old}, which is discontinued"),
                None => format!("interface {name:?} has no binding"),
            },
            count => {
                let names: Vec<String> = bindings.current().map(|name| name.to_string()).collect();
                format!("interface {name:?} has {count} bindings: {}", names.join(", "))
            }
        };
        let field = self.case.change.interface_field(nic.index);
        self.findings.push(RULE.fault(CauseType::Invalid, field, what));
    }

    fn masquerade(&mut self, nic: &Nic) {
        if nic.interface.bindings.masquerade.is_none() {
            return;
        }
        let name = nic.interface.name.as_str();
        if nic.is_off_pod_network() {
            let what = format!("masquerade of interface {name:?} works on the pod network only");
            self.fault(nic, "name", what, "set bridge in its place, or attach the NIC to the pod network");
        }
        if nic.interface.mac_address.as_deref() == Some(RESERVED_MAC) {
            let what = format!("MAC address {RESERVED_MAC:?} of interface {name:?} is that of KubeVirt's own bridge");
            self.fault(nic, "macAddress", what, "choose another address");
        }
    }

    fn bridge(&mut self, nic: &Nic) {
        if nic.interface.bindings.bridge.is_none() || !nic.is_on_pod_network() {
            return;
        }
        match self.case.facts.kubevirt.known() {
            None => self.needs_kubevirt = true,
            Some(kubevirt) if kubevirt.permits_bridge_on_pod_network => {}
            Some(_) => {
                let what = format!("bridge of interface {:?} is on the pod network", nic.interface.name.as_str());
                let fix = "set masquerade in its place, or permitBridgeInterfaceOnPodNetwork in \
                           spec.configuration.network of the KubeVirt resource";
                self.fault(nic, "name", what, fix);
            }
        }
    }

    fn passt(&mut self, nic: &Nic) {
        if nic.interface.bindings.passt_binding.is_none() {
            return;
        }
        let name = nic.interface.name.as_str();
        match self.case.has(Gate::PasstBinding) {
            None => self.needs_kubevirt = true,
            Some(true) => {}
            Some(false) => {
                let what = format!("interface {name:?} has passtBinding and feature gate PasstBinding is off");
                let fix = "set masquerade in its place, or add PasstBinding to \
                           spec.configuration.developerConfiguration.featureGates of the KubeVirt resource";
                self.fault(nic, "name", what, fix);
            }
        }
        if nic.is_off_pod_network() {
            let what = format!("passtBinding of interface {name:?} works on the pod network only");
            self.fault(nic, "name", what, "set bridge in its place, or attach the NIC to the pod network");
        }
    }

    /// KubeVirt takes a plugin that it does not know, and the VM waits for it in vain.
    fn plugin(&mut self, nic: &Nic) {
        let Some(plugin) = &nic.interface.bindings.plugin else { return };
        let Some(kubevirt) = self.case.facts.kubevirt.known() else { return };
        if kubevirt.binding_plugins.contains_key(plugin.name.as_str()) {
            return;
        }
        let what = format!(
            "{} of interface {:?} is not registered in the KubeVirt resource",
            BindingName::Plugin(plugin.name.as_str()),
            nic.interface.name.as_str()
        );
        let field = format!("{}.binding.name", self.case.change.interface_field(nic.index));
        self.findings.push(RULE.advice(field, what));
    }

    /// An object that has such a binding already may keep it.
    fn discontinued(&mut self, nic: &Nic) {
        if self.case.change.before.is_some() {
            return;
        }
        for binding in nic.interface.bindings.discontinued() {
            let fix = match binding {
                BindingName::BuiltIn("macvtap") => "set binding in its place, to a plugin that the cluster has",
                _ => "set passtBinding or masquerade in its place",
            };
            let what =
                format!("{binding} of interface {:?} is discontinued since KubeVirt 1.3", nic.interface.name.as_str());
            self.fault(nic, &binding.to_string(), what, fix);
        }
    }

    fn fault(&mut self, nic: &Nic, key: &str, what: String, fix: &str) {
        let field = format!("{}.{key}", self.case.change.interface_field(nic.index));
        self.findings.push(RULE.fault(CauseType::Invalid, field, what).with_fix(fix.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, nic, table, table_of_updates, table_on};

    const INTERFACE: &str = "spec.template.spec.domain.devices.interfaces[0]";
    const NAME: &str = "spec.template.spec.domain.devices.interfaces[0].name";
    const SLIRP: &str = "spec.template.spec.domain.devices.interfaces[0].slirp";
    const MAC: &str = "spec.template.spec.domain.devices.interfaces[0].macAddress";
    const POD: &str = r#""pod": {}"#;
    const MULTUS: &str = r#""multus": {"networkName": "n"}"#;

    #[test]
    fn exactly_one_binding() {
        for (interface, expect) in [
            (r#""bridge": {}"#, Expect::Silent),
            (r#""sriov": {}"#, Expect::Silent),
            (r#""bridge": null"#, Expect::Faults(&[INTERFACE])),
            (r#""bridge": {}, "sriov": {}"#, Expect::Faults(&[INTERFACE])),
            (r#""bridge": {}, "binding": {"name": "x"}"#, Expect::Faults(&[INTERFACE])),
            (r#""slirp": {}"#, Expect::Faults(&[INTERFACE, SLIRP])),
            (r#""bridge": {}, "slirp": {}"#, Expect::Faults(&[SLIRP])),
            (r#""teleport": {}"#, Expect::Silent),
            (r#""bridge": {}, "offload": {}"#, Expect::Silent),
        ] {
            table(&RULE, &[(&nic(interface, MULTUS), expect)]);
        }
    }

    #[test]
    fn discontinued_bindings_are_refused_on_create_only() {
        for (interface, expect) in
            [(r#""slirp": {}"#, Expect::Faults(&[INTERFACE])), (r#""bridge": {}, "macvtap": {}"#, Expect::Silent)]
        {
            table_of_updates(&RULE, &[(&nic(interface, MULTUS), expect)]);
        }
    }

    #[test]
    fn masquerade_wants_the_pod_network_and_another_address() {
        for (interface, network, expect) in [
            (r#""masquerade": {}"#, POD, Expect::Silent),
            (r#""masquerade": {}"#, r#""carrierPigeon": {}"#, Expect::Silent),
            (r#""masquerade": {}"#, MULTUS, Expect::Faults(&[NAME])),
            (r#""masquerade": {}, "macAddress": "02:00:00:00:00:00""#, POD, Expect::Faults(&[MAC])),
            (r#""masquerade": {}, "macAddress": "02-00-00-00-00-00""#, POD, Expect::Silent),
            (r#""bridge": {}, "macAddress": "02:00:00:00:00:00""#, MULTUS, Expect::Silent),
        ] {
            table(&RULE, &[(&nic(interface, network), expect)]);
        }
    }

    #[test]
    fn what_the_cluster_has_to_permit() {
        let forbids = r#"{"network": {"permitBridgeInterfaceOnPodNetwork": false},
            "developerConfiguration": {"disabledFeatureGates": ["PasstBinding"]}}"#;
        for (interface, network, configuration, expect) in [
            (r#""bridge": {}"#, POD, "{}", Expect::Silent),
            (r#""bridge": {}"#, POD, forbids, Expect::Faults(&[NAME])),
            (r#""bridge": {}"#, MULTUS, forbids, Expect::Silent),
            (r#""passtBinding": {}"#, POD, "{}", Expect::Silent),
            (r#""passtBinding": {}"#, POD, forbids, Expect::Faults(&[NAME])),
            (r#""passtBinding": {}"#, MULTUS, forbids, Expect::Faults(&[NAME, NAME])),
            (r#""binding": {"name": "x"}"#, POD, "{}", Expect::Advice),
            (r#""binding": {"name": "x"}"#, POD, r#"{"network": {"binding": {"x": {}}}}"#, Expect::Silent),
        ] {
            table_on(&RULE, configuration, &[(&nic(interface, network), expect)]);
        }
    }

    #[test]
    fn unknown_facts_are_told_and_deny_nothing() {
        for interface in [r#""bridge": {}"#, r#""passtBinding": {}"#] {
            table(&RULE, &[(&nic(interface, POD), Expect::Unchecked)]);
        }
        table(&RULE, &[(&nic(r#""binding": {"name": "x"}"#, POD), Expect::Silent)]);
    }
}
