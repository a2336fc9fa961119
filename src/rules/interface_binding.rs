//! NP006.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::network::{BindingName, Interface, Network},
    facts::FactKind,
    kubevirt::gates::Gate,
};

rule! {
    /// An interface has no binding, more than one, or one that its network or the cluster does not support.
    ///
    /// ## Why
    /// The binding defines how the guest's device is connected to the pod's. Each interface needs exactly one; a
    /// preference can set masquerade for an interface on the pod network that has none. masquerade and passtBinding work
    /// on the pod network only. The configuration of KubeVirt must permit a bridge on the pod network, and passtBinding.
    /// slirp, passt and macvtap are discontinued since KubeVirt 1.3 and rejected for new objects.
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

/// The address of KubeVirt's bridge in the pod. KubeVirt compares the text, so it accepts other notations of it.
const RESERVED_MAC: &str = "02:00:00:00:00:00";

fn check(case: &Case) -> Vec<Finding> {
    let guest = case.change.after.guest;
    let mut checker = Checker { case, findings: Vec::new(), needs_kubevirt: false };
    for (index, interface) in guest.interfaces().iter().enumerate() {
        let network = case.change.nic(&interface.name).and_then(|nic| nic.network).map(|entry| entry.value);
        checker.check(&BoundInterface { index, interface, network });
    }
    if checker.needs_kubevirt {
        let what = "whether the cluster permits the binding was not checked: the KubeVirt resource is not known";
        checker.findings.push(RULE.unknown(FactKind::KubeVirt, what));
    }
    checker.findings
}

/// An interface, its index and the network of its name.
struct BoundInterface<'c> {
    index: usize,
    interface: &'c Interface<'c>,
    network: Option<&'c Network<'c>>,
}

impl BoundInterface<'_> {
    fn is_on_pod_network(&self) -> bool {
        self.network.is_some_and(|network| network.pod.is_some())
    }

    /// Returns whether the network is certainly not the pod network; an unknown source of a newer KubeVirt might be.
    fn is_off_pod_network(&self) -> bool {
        !self.is_on_pod_network() && !self.network.is_some_and(Network::has_unknown_source)
    }
}

/// Checks interfaces and collects the findings.
struct Checker<'c> {
    case: &'c Case<'c>,
    findings: Vec<Finding>,
    /// Whether an interface could not be checked without the KubeVirt resource.
    needs_kubevirt: bool,
}

impl Checker<'_> {
    fn check(&mut self, nic: &BoundInterface) {
        self.count(nic);
        self.masquerade(nic);
        self.bridge(nic);
        self.passt(nic);
        self.plugin(nic);
        self.discontinued(nic);
    }

    fn count(&mut self, nic: &BoundInterface) {
        let (bindings, name) = (&nic.interface.bindings, nic.interface.name.as_str());
        let what = match bindings.current().count() {
            0 if bindings.unknown > 0 => return,
            1 => return,
            0 if bindings.is_empty() && nic.is_on_pod_network() => match self.is_bound_by_preference(nic) {
                Some(true) => return,
                Some(false) => format!("interface {name:?} has no binding"),
                None => {
                    let what = format!("the binding of {name:?} was not checked: the preference cannot be read");
                    self.findings.push(RULE.unchecked(what));
                    return;
                }
            },
            0 => match bindings.discontinued().next() {
                Some(old) => format!("interface {name:?} has only the discontinued binding {old}"),
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

    /// Returns whether the preference of the VM sets the binding; `None` if the preference is unknown.
    fn is_bound_by_preference(&self, nic: &BoundInterface) -> Option<bool> {
        let [_, matcher] = self.case.change.after.matchers();
        if matcher.is_none() {
            return Some(false);
        }
        let preference = self.case.facts.expansion()?.preference.known()?;
        Some(preference.binds(nic.interface, nic.network))
    }

    fn masquerade(&mut self, nic: &BoundInterface) {
        if nic.interface.bindings.masquerade.is_none() {
            return;
        }
        let name = nic.interface.name.as_str();
        if nic.is_off_pod_network() {
            let what = format!("interface {name:?} has masquerade, which works on the pod network only");
            self.fault(nic, "name", what, "use bridge instead, or attach the NIC to the pod network");
        }
        if nic.interface.mac_address.as_deref() == Some(RESERVED_MAC) {
            let what = format!("interface {name:?} has MAC address {RESERVED_MAC:?}, which KubeVirt's own bridge uses");
            self.fault(nic, "macAddress", what, "choose another address");
        }
    }

    fn bridge(&mut self, nic: &BoundInterface) {
        if nic.interface.bindings.bridge.is_none() || !nic.is_on_pod_network() {
            return;
        }
        match self.case.facts.kubevirt.known() {
            None => self.needs_kubevirt = true,
            Some(kubevirt) if kubevirt.permits_bridge_on_pod_network => {}
            Some(_) => {
                let what = format!(
                    "interface {:?} has bridge on the pod network, which the cluster does not permit",
                    nic.interface.name.as_str()
                );
                let fix = "use masquerade instead, or set permitBridgeInterfaceOnPodNetwork: true in \
                           spec.configuration.network of the KubeVirt resource";
                self.fault(nic, "name", what, fix);
            }
        }
    }

    fn passt(&mut self, nic: &BoundInterface) {
        if nic.interface.bindings.passt_binding.is_none() {
            return;
        }
        let name = nic.interface.name.as_str();
        match self.case.has(Gate::PasstBinding) {
            None => self.needs_kubevirt = true,
            Some(true) => {}
            Some(false) => {
                let what = format!("interface {name:?} has passtBinding, but feature gate PasstBinding is off");
                let fix = "use masquerade instead, or add PasstBinding to \
                           spec.configuration.developerConfiguration.featureGates of the KubeVirt resource";
                self.fault(nic, "name", what, fix);
            }
        }
        if nic.is_off_pod_network() {
            let what = format!("interface {name:?} has passtBinding, which works on the pod network only");
            self.fault(nic, "name", what, "use bridge instead, or attach the NIC to the pod network");
        }
    }

    /// KubeVirt accepts a plugin that is not registered, and the VM then waits for it forever.
    fn plugin(&mut self, nic: &BoundInterface) {
        let Some(plugin) = &nic.interface.bindings.plugin else { return };
        let Some(kubevirt) = self.case.facts.kubevirt.known() else { return };
        if kubevirt.binding_plugins.contains_key(plugin.name.as_str()) {
            return;
        }
        let what = format!(
            "interface {:?} has {}, which is not registered in KubeVirt",
            nic.interface.name.as_str(),
            BindingName::Plugin(plugin.name.as_str())
        );
        let field = format!("{}.binding.name", self.case.change.interface_field(nic.index));
        self.findings.push(RULE.advice(field, what));
    }

    /// An existing object may keep a discontinued binding.
    fn discontinued(&mut self, nic: &BoundInterface) {
        if self.case.change.before.is_some() {
            return;
        }
        for binding in nic.interface.bindings.discontinued() {
            let fix = match binding {
                BindingName::BuiltIn("macvtap") => {
                    "use binding instead, with a plugin that is registered in the KubeVirt resource"
                }
                _ => "use passtBinding or masquerade instead",
            };
            let what =
                format!("interface {:?} has {binding}, discontinued since KubeVirt 1.3", nic.interface.name.as_str());
            self.fault(nic, &binding.to_string(), what, fix);
        }
    }

    fn fault(&mut self, nic: &BoundInterface, key: &str, what: String, fix: &str) {
        let field = format!("{}.{key}", self.case.change.interface_field(nic.index));
        self.findings.push(RULE.fault(CauseType::Invalid, field, what).with_fix(fix.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, Hotplug, nic, table, table_of_updates, table_on};

    const INTERFACE: &str = "spec.template.spec.domain.devices.interfaces[0]";
    const NAME: &str = "spec.template.spec.domain.devices.interfaces[0].name";
    const SLIRP: &str = "spec.template.spec.domain.devices.interfaces[0].slirp";
    const MAC: &str = "spec.template.spec.domain.devices.interfaces[0].macAddress";
    const POD: &str = r#""pod": {}"#;
    const SECOND: Expect = Expect::Faults(&["spec.template.spec.domain.devices.interfaces[1]"]);
    const MULTUS: &str = r#""multus": {"networkName": "n"}"#;

    #[test]
    fn a_preference_can_bind_an_interface_on_the_pod_network() {
        let unbound = |network: &str| {
            Hotplug::of(r#"{"name": "dyniface1"}"#).on(&format!(r#"{{"name": "dyniface1", {network}}}"#)).created()
        };
        let masquerade = r#""preferredInterfaceMasquerade": {}"#;
        unbound(POD).preferring(masquerade).expect(&RULE, &Expect::Silent);
        unbound(POD).preferring("").expect(&RULE, &SECOND);
        unbound(POD).expect(&RULE, &SECOND);
        unbound(MULTUS).preferring(masquerade).expect(&RULE, &SECOND);
        unbound(POD).preferring(masquerade).unread().expect(&RULE, &Expect::Unchecked);
    }

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
    fn discontinued_bindings_are_rejected_on_create_only() {
        for (interface, expect) in
            [(r#""slirp": {}"#, Expect::Faults(&[INTERFACE])), (r#""bridge": {}, "macvtap": {}"#, Expect::Silent)]
        {
            table_of_updates(&RULE, &[(&nic(interface, MULTUS), expect)]);
        }
    }

    #[test]
    fn masquerade_needs_the_pod_network_and_another_address() {
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
    fn the_cluster_has_to_permit_some_bindings() {
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
    fn unknown_facts_are_reported_and_deny_nothing() {
        for interface in [r#""bridge": {}"#, r#""passtBinding": {}"#] {
            table(&RULE, &[(&nic(interface, POD), Expect::Unchecked)]);
        }
        table(&RULE, &[(&nic(r#""binding": {"name": "x"}"#, POD), Expect::Silent)]);
    }
}
