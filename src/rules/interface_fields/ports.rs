//! `ports[]`: the ports of a NIC on the pod network that KubeVirt forwards to the guest.

use std::collections::BTreeSet;

use super::CheckedInterface;
use crate::{
    api::{network::Port, quote::quote},
    rules::{CauseType, Finding},
};

/// The longest IANA service name, in bytes (RFC 6335).
const NAME_LENGTH: usize = 15;

/// The highest port number.
pub(super) const LAST_PORT: i64 = 65_535;

/// Checks the ports of a NIC on the pod network; KubeVirt ignores them on other networks.
pub(super) fn check(interface: &CheckedInterface) -> Vec<Finding> {
    let ports = interface.fields.options.ports.as_deref().unwrap_or_default();
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        if !port.name.is_empty() && !names.insert(port.name.as_str()) {
            findings.push(duplicate(interface, index, port));
        }
        findings.extend(name(interface, index, port));
        findings.extend(number(interface, index, port));
        findings.extend(protocol(interface, index, port));
    }
    findings
}

fn duplicate(interface: &CheckedInterface, index: usize, port: &Port) -> Finding {
    let what = format!("port name {} of interface {} is already in use", quote(&port.name), interface.name());
    interface.fault(CauseType::Duplicate, format_args!("ports[{index}].name"), what, "choose another name, or omit it")
}

fn name(interface: &CheckedInterface, index: usize, port: &Port) -> Option<Finding> {
    let name = port.name.as_str();
    let reason = name_error(name)?;
    let what = format!("port name {name} of interface {} {reason}", interface.name(), name = quote(name));
    let fix = "use 1 to 15 of a-z, 0-9 and single inner hyphens, with at least one letter, as in http-2";
    Some(interface.fault(CauseType::Invalid, format_args!("ports[{index}].name"), what, fix))
}

/// Returns why a name is not an IANA service name (`IsValidPortName` of k8s.io/apimachinery). An empty one is not set.
fn name_error(name: &str) -> Option<&'static str> {
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() {
        None
    } else if name.len() > NAME_LENGTH {
        Some("is longer than 15 characters")
    } else if !name.bytes().all(is_valid) {
        Some("contains a character other than a-z, 0-9 and -")
    } else if !name.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Some("has no letter")
    } else if name.contains("--") {
        Some("has two hyphens in a row")
    } else if name.starts_with('-') || name.ends_with('-') {
        Some("starts or ends with a hyphen")
    } else {
        None
    }
}

fn number(interface: &CheckedInterface, index: usize, port: &Port) -> Option<Finding> {
    let (cause, what) = match port.port {
        1..=LAST_PORT => return None,
        0 => (CauseType::Required, format!("ports[{index}] of interface {} has no port", interface.name())),
        other => (CauseType::Invalid, format!("port {other} of interface {} is outside 1 to 65535", interface.name())),
    };
    Some(interface.fault(cause, format_args!("ports[{index}].port"), what, "write a port from 1 to 65535"))
}

fn protocol(interface: &CheckedInterface, index: usize, port: &Port) -> Option<Finding> {
    let protocol = port.protocol.as_str();
    if matches!(protocol, "" | "TCP" | "UDP") {
        return None;
    }
    let what = format!(
        "port {} of interface {} has the unsupported protocol {protocol}",
        port.port,
        interface.name(),
        protocol = quote(protocol)
    );
    let fix = "write TCP or UDP, or omit it for TCP";
    Some(interface.fault(CauseType::Invalid, format_args!("ports[{index}].protocol"), what, fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{
        interface_fields::RULE,
        testing::{Expect, nic, table},
    };

    const POD: &str = r#""pod": {}"#;
    const MULTUS: &str = r#""multus": {"networkName": "n"}"#;
    const NAME: &str = "spec.template.spec.domain.devices.interfaces[0].ports[0].name";
    const SECOND_NAME: &str = "spec.template.spec.domain.devices.interfaces[0].ports[1].name";
    const PORT: &str = "spec.template.spec.domain.devices.interfaces[0].ports[0].port";
    const PROTOCOL: &str = "spec.template.spec.domain.devices.interfaces[0].ports[0].protocol";

    #[test]
    fn verdicts() {
        for (ports, network, expect) in [
            ("[]", POD, Expect::Silent),
            ("null", POD, Expect::Silent),
            (
                r#"[{"port": 80}, {"port": 80}, {"name": "http", "port": 65535, "protocol": "UDP"}]"#,
                POD,
                Expect::Silent,
            ),
            (r#"[{"name": "a", "port": 1}, {"name": "a", "port": 2}]"#, POD, Expect::Faults(&[SECOND_NAME])),
            (
                r#"[{"name": "A", "port": 1}, {"name": "A", "port": 2}]"#,
                POD,
                Expect::Faults(&[NAME, SECOND_NAME, SECOND_NAME]),
            ),
            ("[{}]", POD, Expect::Faults(&[PORT])),
            (r#"[{"port": -1}]"#, POD, Expect::Faults(&[PORT])),
            (r#"[{"port": 65536}]"#, POD, Expect::Faults(&[PORT])),
            (r#"[{"port": 80, "protocol": "tcp"}]"#, POD, Expect::Faults(&[PROTOCOL])),
            (r#"[{"port": 80, "protocol": "SCTP"}]"#, MULTUS, Expect::Silent),
        ] {
            table(&RULE, &[(&nic(&format!(r#""ports": {ports}"#), network), expect)]);
        }
    }

    #[test]
    fn service_names() {
        for (name, is_valid) in [
            ("", true),
            ("http", true),
            ("a", true),
            ("1a", true),
            ("123456789-abcde", true),
            ("123456789-abcdef", false),
            ("1234", false),
            ("HTTP", false),
            ("a_b", false),
            ("a--b", false),
            ("-a", false),
            ("a-", false),
            ("é", false),
        ] {
            assert_eq!(name_error(name).is_none(), is_valid, "{name:?}");
        }
    }
}
