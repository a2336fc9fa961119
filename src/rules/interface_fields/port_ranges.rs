//! `portRanges[]`: whole ranges of ports that are let through (KubeVirt 1.9, feature gate PortRangesSpec).

use super::{Entry, ports::LAST_PORT};
use crate::{
    api::network::PortRange,
    rules::{CauseType, Finding},
};

const RANGES_AT_MOST: usize = 10;

/// Judges an interface of a cluster that does not know ranges: an empty list is one, too.
pub(super) fn without_gate(entry: &Entry) -> Option<Finding> {
    entry.interface.port_ranges.as_ref()?;
    let what = format!("interface {} has portRanges and feature gate PortRangesSpec is off", entry.name());
    let fix = "use ports, or add PortRangesSpec to spec.configuration.developerConfiguration.featureGates of the \
               KubeVirt resource";
    Some(entry.fault(CauseType::Invalid, "name", what, fix))
}

/// Judges the ranges of a NIC on the pod network; elsewhere KubeVirt does not look at them.
pub(super) fn check(entry: &Entry) -> Vec<Finding> {
    let Some(ranges) = &entry.interface.port_ranges else { return Vec::new() };
    let mut findings = Vec::new();
    findings.extend(beside_ports(entry));
    findings.extend(without_masquerade(entry));
    if ranges.len() > RANGES_AT_MOST {
        findings.push(too_many(entry, ranges.len()));
        return findings;
    }
    let mut whole = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        match fault_of(range) {
            Some(fault) => findings.push(malformed(entry, index, &fault)),
            None => whole.push(range),
        }
    }
    findings.extend(overlaps(entry, whole));
    findings
}

fn beside_ports(entry: &Entry) -> Option<Finding> {
    entry.interface.ports.as_ref()?;
    let what = format!("interface {} has both ports and portRanges", entry.name());
    Some(entry.fault(CauseType::Invalid, "name", what, "write single ports as ranges that start and end at them"))
}

fn without_masquerade(entry: &Entry) -> Option<Finding> {
    if entry.interface.bindings.masquerade.is_some() {
        return None;
    }
    let what = format!("portRanges of interface {} work with masquerade only", entry.name());
    Some(entry.fault(CauseType::Invalid, "name", what, "set masquerade, or take portRanges out"))
}

fn too_many(entry: &Entry, count: usize) -> Finding {
    let what = format!("interface {} has {count} portRanges, more than {RANGES_AT_MOST}", entry.name());
    entry.fault(CauseType::Invalid, "portRanges", what, "join ranges that touch")
}

/// Which field of a range is wrong, and how.
struct Fault {
    key: &'static str,
    reason: String,
}

/// The first fault of a range.
fn fault_of(range: &PortRange) -> Option<Fault> {
    let is_port = |port: i64| (1..=LAST_PORT).contains(&port);
    let (key, reason) = match range {
        PortRange { protocol, .. } if !matches!(protocol.as_str(), "TCP" | "UDP") => {
            ("protocol", format!("has protocol {:?}, not TCP or UDP", protocol.as_str()))
        }
        PortRange { start, .. } if !is_port(*start) => ("start", format!("starts at {start}, outside 1 to 65535")),
        PortRange { end, .. } if !is_port(*end) => ("end", format!("ends at {end}, outside 1 to 65535")),
        PortRange { start, end, .. } if start > end => {
            ("start", format!("starts at {start} and ends before, at {end}"))
        }
        PortRange { .. } => return None,
    };
    Some(Fault { key, reason })
}

fn malformed(entry: &Entry, index: usize, fault: &Fault) -> Finding {
    let what = format!("portRanges[{index}] of interface {} {}", entry.name(), fault.reason);
    let fix = "write protocol TCP or UDP, and ports from 1 to 65535, the lower one first";
    entry.fault(CauseType::Invalid, format_args!("portRanges[{index}].{}", fault.key), what, fix)
}

/// Neighbours of one protocol, by start, that have a port in common.
fn overlaps(entry: &Entry, mut ranges: Vec<&PortRange>) -> Vec<Finding> {
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
                entry.name()
            );
            entry.fault(CauseType::Invalid, "portRanges", what, "join the two")
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
            // By start each range is held against the one before it alone.
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
