//! NP008.

mod address;
mod dhcp;
mod port_ranges;
mod ports;

use std::fmt::Display;

use super::{Case, CauseType, Finding, rule};
use crate::{api::network::Interface, facts::FactKind, kubevirt::gates::Gate};

rule! {
    /// A field of an interface holds a value that KubeVirt does not take.
    ///
    /// ## Why
    /// Name, model, addresses, ports and DHCP options end up in the guest's domain, in firewall rules and in the answers
    /// of a DHCP server. What is malformed, out of range or there twice would make the VM fail when it starts.
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
    fix: "write a value that the field takes",
}

const MODELS: [&str; 7] = ["e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"];

fn check(case: &Case) -> Vec<Finding> {
    let guest = case.change.after.guest;
    let permits_ranges = case.has(Gate::PortRangesSpec);
    let mut findings = Vec::new();
    for (index, interface) in guest.interfaces().iter().enumerate() {
        let entry = Entry { case, index, interface };
        let network = case.change.nic(&interface.name).and_then(|nic| nic.network).map(|entry| entry.value);
        findings.extend(name(&entry));
        findings.extend(model(&entry));
        findings.extend(address::check(&entry));
        if network.is_some_and(|network| network.pod.is_some()) {
            findings.extend(ports::check(&entry));
            if permits_ranges == Some(true) {
                findings.extend(port_ranges::check(&entry));
            }
        }
        if permits_ranges == Some(false) {
            findings.extend(port_ranges::without_gate(&entry));
        }
        findings.extend(dhcp::check(&entry));
    }
    if permits_ranges.is_none() && guest.interfaces().iter().any(|interface| interface.port_ranges.is_some()) {
        findings
            .push(RULE.unknown(FactKind::KubeVirt, "portRanges were not checked: the KubeVirt resource is not known"));
    }
    findings
}

/// An interface and its place.
struct Entry<'c> {
    case: &'c Case<'c>,
    index: usize,
    interface: &'c Interface<'c>,
}

impl Entry<'_> {
    /// As messages write it.
    fn name(&self) -> String {
        format!("{:?}", self.interface.name.as_str())
    }

    /// Where it is written.
    fn path(&self) -> String {
        self.case.change.interface_field(self.index)
    }

    /// A fault of one of its fields.
    fn fault(&self, cause: CauseType, key: impl Display, what: String, fix: impl Into<String>) -> Finding {
        RULE.fault(cause, format!("{}.{key}", self.path()), what).with_fix(fix.into())
    }
}

fn name(entry: &Entry) -> Option<Finding> {
    let name = entry.interface.name.as_str();
    let is_valid = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    let what = match name.chars().find(|letter| !is_valid(*letter)) {
        Some(letter) => format!("interface name {name:?} has the character {letter:?}"),
        None if name.is_empty() => "the interface has no name".to_owned(),
        None => return None,
    };
    let fix = "name interface and network with letters, digits, - and _ only";
    Some(entry.fault(CauseType::Invalid, "name", what, fix))
}

fn model(entry: &Entry) -> Option<Finding> {
    let model = entry.interface.model_or_default();
    if MODELS.contains(&model) {
        return None;
    }
    let what = format!("model {model:?} of interface {} is not known to KubeVirt", entry.name());
    let fix = match MODELS.iter().find(|known| known.eq_ignore_ascii_case(model)) {
        Some(meant) => format!("write it as {meant}"),
        None => format!("use one of {}", MODELS.join(", ")),
    };
    Some(entry.fault(CauseType::NotSupported, "model", what, fix))
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
