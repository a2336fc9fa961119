//! NP005.

use super::{Case, CauseType, Finding, rule};
use crate::api::{network::Network, quote::quote};

rule! {
    /// A network has no source, more than one, or an invalid one.
    ///
    /// ## Why
    /// The source defines what the NIC is attached to: the pod's network, a NetworkAttachmentDefinition, or a device.
    /// Each network needs exactly one, and a pod has only one default network: `pod`, or the one multus network with
    /// `default: true` that replaces it.
    ///
    /// ## Example
    /// ```yaml
    /// networks:
    /// - name: blue
    ///   pod: {}
    ///   multus: {networkName: blue-net}
    /// - name: green
    ///   multus: {networkName: ""}
    /// ```
    NP005, "network-source", Shape, Deny,
    field: "networks[]",
    fix: "set exactly one of pod, multus and resourceClaim",
}

fn check(case: &Case) -> Vec<Finding> {
    let networks = &case.change.after.guest.networks;
    let mut findings = Vec::new();
    findings.extend(several_pod_networks(case, networks));
    findings.extend(several_multus_defaults(case, networks));
    findings.extend(pod_and_multus_default(case, networks));
    findings.extend(networks.iter().enumerate().filter_map(|(index, network)| not_one_source(case, index, network)));
    findings.extend(empty_network_name(case, networks));
    findings
}

/// KubeVirt reports this fault at a field that does not exist, `spec.interfaces`, and so does nicplug.
fn several_pod_networks(case: &Case, networks: &[Network]) -> Option<Finding> {
    let second = second(networks, is_pod)?;
    let pods = NamedNetworks::of(networks, is_pod);
    let path = case.change.after.path;
    let what = format!("{} networks are the pod network, but only one may be: {}", pods.count, pods.names);
    let fix = format!("use multus for {path}.networks[{second}] and any later one, or remove them");
    Some(RULE.fault(CauseType::Duplicate, format!("{path}.interfaces"), what).with_fix(fix))
}

fn several_multus_defaults(case: &Case, networks: &[Network]) -> Option<Finding> {
    let second = second(networks, is_multus_default)?;
    let defaults = NamedNetworks::of(networks, is_multus_default);
    let what = format!("{} networks have multus.default, but only one may: {}", defaults.count, defaults.names);
    let fix = format!("remove multus.default from networks[{second}] and any later one");
    Some(RULE.fault(CauseType::Invalid, networks_field(case), what).with_fix(fix))
}

fn pod_and_multus_default(case: &Case, networks: &[Network]) -> Option<Finding> {
    let pod = networks.iter().find(|network| is_pod(network))?;
    let default = networks.iter().find(|network| is_multus_default(network))?;
    let (pod, default) = (pod.name.as_str(), default.name.as_str());
    let what = format!(
        "network {default} has multus.default, which replaces the pod network {pod}",
        default = quote(default),
        pod = quote(pod)
    );
    let fix = format!(
        "remove network {pod} and its interface, or remove multus.default from {default}",
        pod = quote(pod),
        default = quote(default)
    );
    Some(RULE.fault(CauseType::Invalid, networks_field(case), what).with_fix(fix))
}

/// An unknown source, maybe of a newer KubeVirt, counts if it is the only one, and never as one too many.
fn not_one_source(case: &Case, index: usize, network: &Network) -> Option<Finding> {
    let name = network.name.as_str();
    let what = match network.sources().count() {
        0 if network.unknown_sources == 0 => format!("network {name} has no source", name = quote(name)),
        0 | 1 => return None,
        count => {
            let sources: Vec<&str> = network.sources().collect();
            format!("network {name} has {count} sources: {}", sources.join(", "), name = quote(name))
        }
    };
    Some(RULE.fault(CauseType::Required, case.change.network_field(index), what))
}

/// KubeVirt reports the first such network only, and so does nicplug; the message names the others.
fn empty_network_name(case: &Case, networks: &[Network]) -> Option<Finding> {
    let is_empty = |network: &Network| network.multus.as_ref().is_some_and(|multus| multus.network_name.is_empty());
    let first = networks.iter().position(is_empty)?;
    let empty = NamedNetworks::of(networks, is_empty);
    let what = match empty.count {
        1 => format!("multus.networkName is empty in network {}", empty.names),
        _ => format!("multus.networkName is empty in networks {}", empty.names),
    };
    let fix = "set it to a NetworkAttachmentDefinition: NAME or NAMESPACE/NAME".to_owned();
    Some(RULE.fault(CauseType::Required, case.change.network_field(first), what).with_fix(fix))
}

fn networks_field(case: &Case) -> String {
    format!("{}.networks", case.change.after.path)
}

fn is_pod(network: &Network) -> bool {
    network.pod.is_some()
}

fn is_multus_default(network: &Network) -> bool {
    network.multus.as_ref().is_some_and(|multus| multus.default)
}

/// Returns the index of the second network that matches.
fn second(networks: &[Network], matches: impl Fn(&Network) -> bool) -> Option<usize> {
    networks.iter().enumerate().filter(|(_, network)| matches(network)).nth(1).map(|(index, _)| index)
}

/// The number and the names of networks, for a message.
struct NamedNetworks {
    count: usize,
    /// At most three names: `"a", "b", …`.
    names: String,
}

impl NamedNetworks {
    fn of(networks: &[Network], matches: impl Fn(&Network) -> bool) -> Self {
        const NAMES_AT_MOST: usize = 3;
        let matching = || networks.iter().filter(|network| matches(network));
        let count = matching().count();
        let mut names: Vec<String> =
            matching().take(NAMES_AT_MOST).map(|network| format!("{}", quote(&network.name))).collect();
        if count > NAMES_AT_MOST {
            names.push("…".to_owned());
        }
        Self { count, names: names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::rules::testing::{Expect, table};

    #[test]
    fn one_default_network() {
        table(
            &RULE,
            &[
                (
                    r#"{"networks": [{"name": "a", "pod": {}}, {"name": "b", "multus": {"networkName": "n"}}]}"#,
                    Expect::Silent,
                ),
                (r#"{"networks": [{"name": "a", "multus": {"networkName": "n", "default": true}}]}"#, Expect::Silent),
                (
                    r#"{"networks": [{"name": "a", "pod": {}}, {"name": "b", "pod": {}}, {"name": "c", "pod": {}}]}"#,
                    Expect::Faults(&["spec.template.spec.interfaces"]),
                ),
                (
                    r#"{"networks": [{"name": "a", "multus": {"networkName": "n", "default": true}},
                        {"name": "b", "pod": {}}, {"name": "c", "multus": {"networkName": "n", "default": true}}]}"#,
                    Expect::Faults(&["spec.template.spec.networks", "spec.template.spec.networks"]),
                ),
            ],
        );
    }

    #[test]
    fn one_source() {
        table(
            &RULE,
            &[
                (r#"{"networks": [{"name": "a", "resourceClaim": {}}]}"#, Expect::Silent),
                (r#"{"networks": [{"name": "a"}]}"#, Expect::Faults(&["spec.template.spec.networks[0]"])),
                (r#"{"networks": [{"name": "a", "pod": null}]}"#, Expect::Faults(&["spec.template.spec.networks[0]"])),
                (
                    r#"{"networks": [{"name": "a", "pod": {}, "resourceClaim": {}}]}"#,
                    Expect::Faults(&["spec.template.spec.networks[0]"]),
                ),
                (
                    r#"{"networks": [{"name": "a", "pod": {}}, {"name": "b", "multus": {}}, {"name": "c", "multus": {}}]}"#,
                    Expect::Faults(&["spec.template.spec.networks[1]"]),
                ),
            ],
        );
    }

    #[test]
    fn an_unknown_source_counts_as_one_and_never_as_one_too_many() {
        table(
            &RULE,
            &[
                (r#"{"networks": [{"name": "a", "carrierPigeon": {}}]}"#, Expect::Silent),
                (r#"{"networks": [{"name": "a", "pod": {}, "options": {}}]}"#, Expect::Silent),
                (r#"{"networks": [{"name": "a", "mtu": 9000}]}"#, Expect::Faults(&["spec.template.spec.networks[0]"])),
            ],
        );
    }
}
