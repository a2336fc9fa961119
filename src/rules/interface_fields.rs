//! NP008.

mod address;
mod dhcp;
mod port_ranges;
mod ports;

use std::fmt::Display;

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::{network::Interface, quote::quote},
    facts::FactKind,
    kubevirt::gates::Gate,
};

rule! {
    /// A field of an interface has a value that KubeVirt rejects.
    ///
    /// ## Why
    /// Name, model, addresses, ports and DHCP options are used in the guest's domain, in firewall rules and in the
    /// replies of a DHCP server. A value that is malformed, out of range or duplicate would make the VM fail when it
    /// starts.
    ///
    /// ## Example
    /// ```yaml
    /// interfaces:
    /// - name: blue
    ///   bridge: {}
    ///   model: vmxnet3
    ///   macAddress: "de:ad:00:00:be"
    /// ```
    NP008, "interface-fields", Shape, Deny,
    field: "domain.devices.interfaces[]",
    fix: "use a value that KubeVirt accepts for the field",
}

const MODELS: [&str; 7] = ["e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"];

fn check(case: &Case) -> Vec<Finding> {
    let guest = case.change.after.guest;
    let permits_ranges = case.has(Gate::PortRangesSpec);
    let mut findings = Vec::new();
    for (index, interface) in guest.interfaces().iter().enumerate() {
        let checked = CheckedInterface { case, index, fields: interface };
        findings.extend(name(&checked));
        findings.extend(model(&checked));
        // Most interfaces have no other field that is checked here.
        if interface.mac_address.is_none() && interface.options.is_unset() {
            continue;
        }
        let network = case.change.nic(&interface.name).and_then(|nic| nic.network).map(|entry| entry.value);
        findings.extend(address::check(&checked));
        if network.is_some_and(|network| network.pod.is_some()) {
            findings.extend(ports::check(&checked));
            if permits_ranges == Some(true) {
                findings.extend(port_ranges::check(&checked));
            }
        }
        if permits_ranges == Some(false) {
            findings.extend(port_ranges::without_gate(&checked));
        }
        findings.extend(dhcp::check(&checked));
    }
    if permits_ranges.is_none() && guest.interfaces().iter().any(|interface| interface.options.port_ranges.is_some()) {
        findings
            .push(RULE.unknown(FactKind::KubeVirt, "portRanges were not checked: the KubeVirt resource is not known"));
    }
    findings
}

/// An interface and its index.
struct CheckedInterface<'c> {
    case: &'c Case<'c>,
    index: usize,
    fields: &'c Interface<'c>,
}

impl CheckedInterface<'_> {
    /// Returns the name in quotes, for messages.
    fn name(&self) -> String {
        format!("{}", quote(&self.fields.name))
    }

    /// Returns the path of the interface.
    fn path(&self) -> String {
        self.case.change.interface_field(self.index)
    }

    /// Returns a fault at one of its fields.
    fn fault(&self, cause: CauseType, key: impl Display, what: String, fix: impl Into<String>) -> Finding {
        RULE.fault(cause, format!("{}.{key}", self.path()), what).with_fix(fix.into())
    }
}

fn name(interface: &CheckedInterface) -> Option<Finding> {
    let name = interface.fields.name.as_str();
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    // A byte of another letter than those of ASCII is invalid too, so the first invalid byte begins a letter.
    let invalid = name.bytes().position(|byte| !is_valid(byte));
    let what = match invalid.and_then(|place| name.get(place..)?.chars().next()) {
        Some(letter) => format!("interface name {name} contains the invalid character {letter:?}", name = quote(name)),
        None if name.is_empty() => "the interface has no name".to_owned(),
        None => return None,
    };
    let fix = "use only letters, digits, - and _ in the name of the interface and its network";
    Some(interface.fault(CauseType::Invalid, "name", what, fix))
}

fn model(interface: &CheckedInterface) -> Option<Finding> {
    interface.fields.model.as_ref()?;
    let model = interface.fields.model_or_default();
    if MODELS.contains(&model) {
        return None;
    }
    let what = format!(
        "interface {} has model {model}, which KubeVirt does not support",
        interface.name(),
        model = quote(model)
    );
    let fix = match MODELS.iter().find(|known| known.eq_ignore_ascii_case(model)) {
        Some(meant) => format!("write it as {meant}"),
        None => format!("use one of {}", MODELS.join(", ")),
    };
    Some(interface.fault(CauseType::NotSupported, "model", what, fix))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, nic, table};

    const NAME: &[&str] = &["spec.template.spec.domain.devices.interfaces[0].name"];
    const MODEL: &[&str] = &["spec.template.spec.domain.devices.interfaces[0].model"];

    #[test]
    fn names() {
        for (name, expect) in [
            ("a", Expect::Silent),
            ("Net-1_x", Expect::Silent),
            ("_", Expect::Silent),
            ("", Expect::Faults(NAME)),
            ("eth 0", Expect::Faults(NAME)),
            ("a.b", Expect::Faults(NAME)),
            ("é", Expect::Faults(NAME)),
            ("a\\n", Expect::Faults(NAME)),
        ] {
            let guest = format!(r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "{name}"}}]}}}}}}"#);
            table(&RULE, &[(&guest, expect)]);
        }
        table(&RULE, &[(r#"{"domain": {"devices": {"interfaces": [{}]}}}"#, Expect::Faults(NAME))]);
    }

    #[test]
    fn models() {
        for (model, expect) in [
            ("", Expect::Silent),
            ("virtio", Expect::Silent),
            ("igb", Expect::Silent),
            ("VirtIO", Expect::Faults(MODEL)),
            ("vmxnet3", Expect::Faults(MODEL)),
        ] {
            table(&RULE, &[(&nic(&format!(r#""model": "{model}""#), r#""pod": {}"#), expect)]);
        }
    }
}
