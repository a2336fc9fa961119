//! `portRanges[]`: the port ranges that KubeVirt forwards to the guest (KubeVirt 1.9, feature gate PortRangesSpec).

use super::{CheckedInterface, ports::LAST_PORT};
use crate::{
    api::{network::PortRange, quote::quote},
    rules::{CauseType, Finding},
};

const RANGES_AT_MOST: usize = 10;

/// Checks an interface in a cluster without the gate, where even an empty list is a fault.
pub(super) fn without_gate(interface: &CheckedInterface) -> Option<Finding> {
    interface.fields.options.port_ranges.as_ref()?;
    let what = format!("interface {} has portRanges, but feature gate PortRangesSpec is off", interface.name());
    let fix = "use ports instead, or add PortRangesSpec to spec.configuration.developerConfiguration.featureGates of \
               the KubeVirt resource";
    Some(interface.fault(CauseType::Invalid, "name", what, fix))
}

/// Checks the ranges of a NIC on the pod network; KubeVirt ignores them on other networks.
pub(super) fn check(interface: &CheckedInterface) -> Vec<Finding> {
    let Some(ranges) = &interface.fields.options.port_ranges else { return Vec::new() };
    let mut findings = Vec::new();
    findings.extend(beside_ports(interface));
    findings.extend(without_masquerade(interface));
    if ranges.len() > RANGES_AT_MOST {
        findings.push(too_many(interface, ranges.len()));
        return findings;
    }
    let mut valid = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        match error_of(range) {
            Some(error) => findings.push(malformed(interface, index, &error)),
            None => valid.push(range),
        }
    }
    findings.extend(overlaps(interface, valid));
    findings
}

fn beside_ports(interface: &CheckedInterface) -> Option<Finding> {
    interface.fields.options.ports.as_ref()?;
    let what = format!("interface {} has both ports and portRanges", interface.name());
    Some(interface.fault(
        CauseType::Invalid,
        "name",
        what,
        "write each single port as a range with the same start and end",
    ))
}

fn without_masquerade(interface: &CheckedInterface) -> Option<Finding> {
    if interface.fields.bindings.masquerade.is_some() {
        return None;
    }
    let what = format!("interface {} has portRanges, which work with masquerade only", interface.name());
    Some(interface.fault(CauseType::Invalid, "name", what, "use masquerade, or remove portRanges"))
}

fn too_many(interface: &CheckedInterface, count: usize) -> Finding {
    let what = format!("interface {} has {count} portRanges, more than {RANGES_AT_MOST}", interface.name());
    interface.fault(CauseType::Invalid, "portRanges", what, "merge adjacent ranges")
}

/// The field of a range that is wrong, and the reason.
struct RangeError {
    key: &'static str,
    reason: String,
}

/// Returns the first error of a range.
fn error_of(range: &PortRange) -> Option<RangeError> {
    let is_port = |port: i64| (1..=LAST_PORT).contains(&port);
    let (key, reason) = match range {
        PortRange { protocol, .. } if !matches!(protocol.as_str(), "TCP" | "UDP") => {
            ("protocol", format!("has protocol {}, not TCP or UDP", quote(protocol)))
        }
        PortRange { start, .. } if !is_port(*start) => ("start", format!("starts at {start}, outside 1 to 65535")),
        PortRange { end, .. } if !is_port(*end) => ("end", format!("ends at {end}, outside 1 to 65535")),
        PortRange { start, end, .. } if start > end => ("start", format!("starts at {start}, after its end {end}")),
        PortRange { .. } => return None,
    };
    Some(RangeError { key, reason })
}

fn malformed(interface: &CheckedInterface, index: usize, error: &RangeError) -> Finding {
    let what = format!("portRanges[{index}] of interface {} {}", interface.name(), error.reason);
    let fix = "use protocol TCP or UDP and ports from 1 to 65535, with start not greater than end";
    interface.fault(CauseType::Invalid, format_args!("portRanges[{index}].{}", error.key), what, fix)
}

/// Returns a fault for each two neighbours of one protocol, sorted by start, that share a port.
fn overlaps(interface: &CheckedInterface, mut ranges: Vec<&PortRange>) -> Vec<Finding> {
    ranges.sort_by_key(|range| (range.protocol.as_str(), range.start, range.end));
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    pairs
        .filter(|(one, next)| one.protocol == next.protocol && next.start <= one.end)
        .map(|(one, next)| {
            let what = format!(
                "{} portRanges {}-{} and {}-{} of interface {} overlap",
                one.protocol,
                one.start,
                one.end,
                next.start,
                next.end,
                interface.name()
            );
            interface.fault(CauseType::Invalid, "portRanges", what, "merge them")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::rules::{
        interface_fields::RULE,
        testing::{Expect, nic, table, table_on},
    };

    const ON: &str = r#"{"developerConfiguration": {"featureGates": ["PortRangesSpec"]}}"#;
    const POD: &str = r#""pod": {}"#;
    const NAME: &str = "spec.template.spec.domain.devices.interfaces[0].name";
    const RANGES: &str = "spec.template.spec.domain.devices.interfaces[0].portRanges";
    const PROTOCOL: &str = "spec.template.spec.domain.devices.interfaces[0].portRanges[0].protocol";
    const START: &str = "spec.template.spec.domain.devices.interfaces[0].portRanges[0].start";
    const END: &str = "spec.template.spec.domain.devices.interfaces[0].portRanges[0].end";

    fn ranges(rest: &str, ranges: &[(&str, i64, i64)], network: &str) -> String {
        let ranges: Vec<String> = ranges
            .iter()
            .map(|(protocol, start, end)| format!(r#"{{"protocol": "{protocol}", "start": {start}, "end": {end}}}"#))
            .collect();
        nic(&format!(r#"{rest}, "portRanges": [{}]"#, ranges.join(", ")), network)
    }

    fn on_pod(list: &[(&str, i64, i64)]) -> String {
        ranges(r#""masquerade": {}"#, list, POD)
    }

    #[test]
    fn verdicts() {
        for (guest, expect) in [
            (on_pod(&[("TCP", 1, 65_535), ("UDP", 1, 65_535)]), Expect::Silent),
            (on_pod(&[("TCP", 11, 20), ("TCP", 1, 10), ("UDP", 5, 15)]), Expect::Silent),
            (on_pod(&[("", 0, 0)]), Expect::Faults(&[PROTOCOL])),
            (on_pod(&[("tcp", 0, 0)]), Expect::Faults(&[PROTOCOL])),
            (on_pod(&[("TCP", 0, 0)]), Expect::Faults(&[START])),
            (on_pod(&[("TCP", 65_536, 1)]), Expect::Faults(&[START])),
            (on_pod(&[("TCP", 1, 65_536)]), Expect::Faults(&[END])),
            (on_pod(&[("TCP", 2, 1)]), Expect::Faults(&[START])),
            (on_pod(&[("TCP", 10, 20), ("UDP", 1, 1), ("TCP", 1, 10)]), Expect::Faults(&[RANGES])),
            // Sorted by start, each range is compared only with the one before it.
            (on_pod(&[("TCP", 1, 100), ("TCP", 2, 3), ("TCP", 4, 5)]), Expect::Faults(&[RANGES])),
            (on_pod(&[("TCP", 1, 9), ("TCP", 1, 9), ("TCP", 1, 9)]), Expect::Faults(&[RANGES, RANGES])),
            (on_pod(&[("SCTP", 1, 1); 11]), Expect::Faults(&[RANGES])),
            (ranges(r#""bridge": {}"#, &[("TCP", 1, 1)], POD), Expect::Faults(&[NAME])),
            (ranges(r#""masquerade": {}, "ports": []"#, &[("TCP", 1, 1)], POD), Expect::Faults(&[NAME])),
            (ranges(r#""bridge": {}"#, &[("SCTP", 0, 0)], r#""multus": {}"#), Expect::Silent),
        ] {
            table_on(&RULE, ON, &[(&guest, expect)]);
        }
    }

    #[test]
    fn without_the_gate_there_is_one_fault_and_without_facts_none() {
        let faulty = on_pod(&[("SCTP", 1, 1)]);
        for guest in [&faulty, &on_pod(&[]), &ranges(r#""bridge": {}"#, &[], r#""multus": {}"#)] {
            table_on(&RULE, "{}", &[(guest, Expect::Faults(&[NAME]))]);
        }
        table(&RULE, &[(&faulty, Expect::Unchecked)]);
    }
}
