//! `dhcpOptions`: what KubeVirt's DHCP server sends to the guest.

// Only the address type: pure modules must not use `std::net`.
use core::net::Ipv6Addr;
use std::collections::HashSet;

use super::{CheckedInterface, RULE};
use crate::{
    api::{network::PrivateOption, quote::quote},
    rules::{CauseType, Finding},
};

/// DHCP options for private use (RFC 3942), without 255, which ends the list.
const PRIVATE: std::ops::RangeInclusive<i64> = 224..=254;

/// Checks the options of one interface.
pub(super) fn check(interface: &CheckedInterface) -> Vec<Finding> {
    let Some(options) = &interface.fields.options.dhcp_options else { return Vec::new() };
    let mut findings = Vec::new();
    findings.extend(duplicate(interface, &options.private_options));
    for (index, option) in options.private_options.iter().enumerate() {
        if !PRIVATE.contains(&option.option) {
            findings.push(out_of_range(interface, index, option.option));
        }
    }
    for (index, server) in options.ntp_servers.iter().enumerate() {
        findings.extend(ntp_server(interface, index, server));
    }
    findings
}

fn duplicate(interface: &CheckedInterface, options: &[PrivateOption]) -> Option<Finding> {
    let mut seen = HashSet::new();
    let (index, option) = options.iter().enumerate().find(|(_, option)| !seen.insert(option.option))?;
    let what = format!("interface {} has private DHCP option {} more than once", interface.name(), option.option);
    let fix = format!("remove {}", option_path(interface, index));
    Some(fault_of_the_guest(interface, what, fix))
}

fn out_of_range(interface: &CheckedInterface, index: usize, option: i64) -> Finding {
    let what = format!("interface {} has private DHCP option {option}, outside 224 to 254", interface.name());
    let fix = format!("choose another number in {}", option_path(interface, index));
    fault_of_the_guest(interface, what, fix)
}

/// KubeVirt reports these faults at the whole spec, so nicplug does too, and the fix names the field.
fn fault_of_the_guest(interface: &CheckedInterface, what: String, fix: String) -> Finding {
    RULE.fault(CauseType::Invalid, interface.case.change.after.path.to_owned(), what).with_fix(fix)
}

fn option_path(interface: &CheckedInterface, index: usize) -> String {
    format!("{}.dhcpOptions.privateOptions[{index}]", interface.path())
}

fn ntp_server(interface: &CheckedInterface, index: usize, server: &str) -> Option<Finding> {
    if is_ipv4(server) {
        return None;
    }
    let what = format!(
        "interface {} has NTP server {server}, which is not an IPv4 address",
        interface.name(),
        server = quote(server)
    );
    let fix = "write an address such as 192.0.2.1; this DHCP option cannot carry names or IPv6 addresses";
    Some(interface.fault(CauseType::Invalid, format_args!("dhcpOptions.ntpServers[{index}]"), what, fix))
}

/// Returns whether KubeVirt accepts it as an IPv4 address: four numbers, with leading zeros or not, or mapped to IPv6.
fn is_ipv4(text: &str) -> bool {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().is_ok_and(|address| address.to_ipv4_mapped().is_some());
    }
    let is_byte = |part: &str| {
        let digits = part.trim_start_matches('0');
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number && (digits.is_empty() || digits.parse::<u8>().is_ok())
    };
    text.split('.').count() == 4 && text.split('.').all(is_byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::testing::{Expect, nic, table};

    const GUEST: &str = "spec.template.spec";
    const SERVER: &str = "spec.template.spec.domain.devices.interfaces[0].dhcpOptions.ntpServers[1]";

    #[test]
    fn verdicts() {
        for (options, expect) in [
            ("null", Expect::Silent),
            (r#"{"bootFileName": "x"}"#, Expect::Silent),
            (r#"{"privateOptions": [{"option": 224}, {"option": 254, "value": "x"}]}"#, Expect::Silent),
            (r#"{"privateOptions": [{"option": 223}]}"#, Expect::Faults(&[GUEST])),
            (r#"{"privateOptions": [{"option": 240}, {"option": 240}, {"option": 240}]}"#, Expect::Faults(&[GUEST])),
            (r#"{"privateOptions": [{}, {"option": 255}]}"#, Expect::Faults(&[GUEST, GUEST])),
            (r#"{"privateOptions": [{"option": 1}, {"option": 1}]}"#, Expect::Faults(&[GUEST, GUEST, GUEST])),
            (r#"{"ntpServers": ["192.0.2.1", "ntp.example"]}"#, Expect::Faults(&[SERVER])),
        ] {
            for network in [r#""pod": {}"#, r#""multus": {"networkName": "n"}"#] {
                let guest = nic(&format!(r#""dhcpOptions": {options}"#), network);
                table(
                    &RULE,
                    &[(
                        &guest,
                        match &expect {
                            Expect::Faults(fields) => Expect::Faults(fields),
                            _ => Expect::Silent,
                        },
                    )],
                );
            }
        }
    }

    #[test]
    fn notations_of_an_ipv4_address() {
        for (text, is_valid) in [
            ("1.2.3.4", true),
            ("01.2.3.4", true),
            ("0.0.0.0", true),
            ("255.255.255.255", true),
            ("::ffff:1.2.3.4", true),
            ("::FFFF:102:304", true),
            ("0:0:0:0:0:ffff:1.2.3.4", true),
            ("256.1.1.1", false),
            ("1.2.3", false),
            ("1.2.3.4.5", false),
            ("1.2.3.", false),
            ("1.2.3.+4", false),
            ("1.2.3.4 ", false),
            ("::1", false),
            ("::1.2.3.4", false),
            ("::ffff:1.2.3.4%eth0", false),
            ("", false),
        ] {
            assert_eq!(is_ipv4(text), is_valid, "{text:?}");
        }
    }
}
