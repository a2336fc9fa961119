//! Whether the network-resources-injector adds to a pod the resources that its networks name. Since KubeVirt 1.9
//! KubeVirt itself does not (`pkg/virt-controller/services/template.go`).

use super::RULE;
use crate::{
    change::Nic,
    facts::{Fact, nad::Nad},
    kubevirt::gates::Gate,
    rules::{Case, Finding},
};

/// The plugins that need the device of a resource.
const DEVICE_PLUGINS: [&str; 3] = ["sriov", "ib-sriov", "host-device"];

/// Evaluates the NICs that a new pod of the guest gets. One finding is enough: its reason is the same for all NICs.
pub(super) fn check(case: &Case) -> Option<Finding> {
    if case.facts.resource_injector != Fact::Absent || case.has(Gate::ExternalNetResourceInjection) != Some(true) {
        return None;
    }
    if case.is_new() {
        return case.change.nics.added.iter().filter(|nic| !nic.is_absent()).find_map(|nic| evaluate(case, nic));
    }
    let vmi = *case.live().known()?;
    // A bridge NIC that is attached in place needs no new pod, and so no resource.
    case.plugged(vmi).filter(|nic| super::is_by_migration(case, nic)).find_map(|nic| evaluate(case, nic))
}

fn evaluate(case: &Case, nic: &Nic) -> Option<Finding> {
    let nad = case.facts.known_nad(nic, case.change.subject.namespace)?;
    let resource = nad.resource.as_deref()?;
    let name = nic.name;
    let what = if needs_device(nic, &nad) {
        format!("{name:?} gets no device: the cluster lacks the webhook of the network-resources-injector")
    } else {
        let short = resource.rsplit('/').next().unwrap_or(resource);
        format!("{name:?} may start on a node without {short}: the network-resources-injector has no webhook")
    };
    let fix = "deploy the network-resources-injector".to_owned();
    Some(RULE.advice(case.change.nic_field(nic), what).with_fix(fix))
}

fn needs_device(nic: &Nic, nad: &Nad) -> bool {
    let is_sriov = nic.interface.is_some_and(|entry| entry.value.bindings.sriov.is_some());
    is_sriov || nad.network.plugins.iter().any(|plugin| DEVICE_PLUGINS.contains(&&**plugin))
}

#[cfg(test)]
mod tests {
    use super::{super::RULE, *};
    use crate::{facts::attachment::InPlace, rules::testing::Hotplug};

    const BRIDGE: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const SRIOV: &str = r#"{"name": "dyniface1", "sriov": {}}"#;

    fn warns(case: Hotplug, kind: &str, resource: &str, injector: Fact<()>) -> Option<String> {
        let nad = Nad::read(&format!(r#"{{"type": "{kind}"}}"#), resource);
        let case = case.with_nad("demo/new-fancy-net", nad).facts(|facts| facts.resource_injector = injector);
        let mut findings = case.findings(&RULE).into_iter();
        findings.find(|finding| finding.what.contains("injector")).map(|finding| finding.what)
    }

    #[test]
    fn a_missing_injector_is_reported_for_networks_with_a_resource() {
        let (no_device, no_node) = ("\"dyniface1\" gets no device", "\"dyniface1\" may start on a node without vf:");
        for (nic, kind, resource, injector, expected) in [
            (SRIOV, "sriov", "example.com/vf", Fact::Absent, no_device),
            (BRIDGE, "host-device", "example.com/vf", Fact::Absent, no_device),
            (BRIDGE, "ovs", "example.com/vf", Fact::Absent, no_node),
            (BRIDGE, "bridge", "", Fact::Absent, ""),
            (SRIOV, "sriov", "example.com/vf", Fact::Known(()), ""),
            (SRIOV, "sriov", "example.com/vf", Fact::Unknown, ""),
        ] {
            for case in [Hotplug::of(nic).created(), Hotplug::of(nic).in_place(InPlace::No)] {
                let what = warns(case, kind, resource, injector).unwrap_or_default();
                assert!(what.starts_with(expected) && what.is_empty() == expected.is_empty(), "{kind}: {what}");
                assert!(what.chars().count() + " [NP112]".len() <= 120, "{what}");
            }
        }
    }

    #[test]
    fn kubevirt_itself_reads_the_resources_before_1_9_and_in_place_none_is_needed() {
        let sriov = |version: &str, gates: &[&str]| {
            let case = Hotplug::of(SRIOV).kubevirt(version, gates);
            warns(case, "sriov", "example.com/vf", Fact::Absent).is_some()
        };
        assert!(sriov("v1.9.0", &[]));
        assert!(!sriov("v1.8.4", &[]));
        assert!(sriov("v1.8.4", &["ExternalNetResourceInjection"]));
        assert_eq!(warns(Hotplug::of(BRIDGE), "ovs", "example.com/br", Fact::Absent), None);
        assert_eq!(warns(Hotplug::of(SRIOV).stopped(), "sriov", "example.com/vf", Fact::Absent), None);
    }
}
