//! The default NIC that the guest gets at its next boot, entries that KubeVirt removes, and links under a probe.

use super::RULE;
use crate::{
    api::probe::Probe,
    change::Nic,
    facts::Fact,
    rules::{Case, Finding},
};

/// Evaluates a change of a VM, running or stopped.
pub(super) fn check(case: &Case) -> Vec<Finding> {
    let findings = [last_nic(case), link_under_probe(case)];
    findings.into_iter().flatten().chain(absent_entries(case)).collect()
}

/// Returns a finding about a template that loses its last NIC.
fn last_nic(case: &Case) -> Option<Finding> {
    let change = case.change;
    let before = change.before?;
    if change.requests.is_some() || !change.after.guest.gets_default_nic() || before.guest.interfaces().is_empty() {
        return None;
    }
    let binding = case.facts.kubevirt.known().map(|kubevirt| kubevirt.default_binding).unwrap_or_default().as_str();
    let what =
        format!("no NIC is left in the template: at its next boot the guest gets KubeVirt's own pod NIC ({binding})");
    let field = format!("{}.domain.devices.interfaces", change.after.path);
    Some(RULE.advice(field, what))
}

/// Returns findings about new entries with state `absent` for NICs that the guest does not have. KubeVirt removes such
/// an entry from the template (`ClearDetachedInterfaces`), so a client that applies the manifest again writes it again.
fn absent_entries(case: &Case) -> Vec<Finding> {
    let change = case.change;
    if case.is_new() || change.requests.is_some() {
        return Vec::new();
    }
    let nics = &change.nics;
    let is_missing = |nic: &Nic| match case.live() {
        Fact::Known(vmi) => !vmi.has_nic(nic.name) && vmi.status_nic(nic.name).is_none(),
        Fact::Absent => true,
        Fact::Unknown => false,
    };
    let absent = nics.added_or_modified().filter(|nic| nic.is_absent() && is_missing(nic));
    let found = absent.map(|nic| {
        let what = format!(
            "KubeVirt removes the absent entry {:?}, which the guest lacks; each apply brings it back",
            nic.name
        );
        RULE.advice(change.absent_field(nic), what)
    });
    found.collect()
}

/// Returns a finding about a link that goes down on the pod's default network, where the kubelet's probes arrive.
fn link_under_probe(case: &Case) -> Option<Finding> {
    let change = case.change;
    let guest = change.after.guest;
    let changed = change.nics.modified.iter().filter(|(old, new)| !old.is_down() && new.is_down()).map(|(_, new)| new);
    let added = change.nics.added.iter().filter(|nic| nic.is_down());
    let is_on_default = |nic: &&Nic| nic.network.is_some_and(|network| network.value.is_default());
    let nic = changed.chain(added).find(is_on_default)?;
    let name = nic.name;
    let is_by_network = |probe: Option<Probe>| probe.is_some_and(Probe::is_by_network);
    let what = if is_by_network(guest.liveness_probe.read().ok().flatten()) {
        format!("the link of {name:?} goes down: its liveness probe fails and KubeVirt kills the guest")
    } else if is_by_network(guest.readiness_probe.read().ok().flatten()) {
        format!("the link of {name:?} goes down: its readiness probe fails and the guest is not ready")
    } else {
        return None;
    };
    let field = format!("{}.state", change.nic_field(nic));
    Some(RULE.advice(field, what))
}

#[cfg(test)]
mod tests {
    use super::RULE;
    use crate::{
        facts::{Fact, Facts},
        rules::testing::{Expect, Hotplug, findings_of_update, findings_of_update_with, table_of_updates},
    };

    const NET: &str = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#;
    const NIC: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const ABSENT: &str = r#"{"name": "dyniface1", "bridge": {}, "state": "absent"}"#;

    fn vm(guest: &str) -> String {
        format!(r#"{{"spec": {{"template": {{"spec": {guest}}}}}}}"#)
    }

    #[test]
    fn an_absent_entry_for_a_nic_that_the_guest_lacks_is_removed() {
        let added = Hotplug::of(ABSENT);
        added.expect(&RULE, &Expect::Advice);
        assert!(added.findings(&RULE)[0].what.contains("removes the absent entry \"dyniface1\""));
        Hotplug::of(ABSENT).stopped().expect(&RULE, &Expect::Advice);
        Hotplug::of(ABSENT).seen("dyniface1", "").expect(&RULE, &Expect::Silent);
        Hotplug::of(ABSENT).vmi_unknown().expect(&RULE, &Expect::Silent);
        Hotplug::of(ABSENT).created().expect(&RULE, &Expect::Silent);
        Hotplug::modify((NIC, NET), (ABSENT, NET)).expect(&RULE, &Expect::Silent);
        Hotplug::modify((NIC, NET), (ABSENT, NET)).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_template_that_loses_its_last_nic_gets_the_default_one() {
        let lan = |rest: &str| {
            vm(&format!(
                r#"{{"networks": [{{"name": "lan", "multus": {{"networkName": "n"}}}}],
                "domain": {{"devices": {{"interfaces": [{{"name": "lan", "bridge": {{}}}}]{rest}}}}}}}"#
            ))
        };
        let findings = findings_of_update(&RULE, &lan(""), &vm("{}"));
        let ends = |end: &str| findings.iter().any(|finding| finding.what.ends_with(end));
        assert!(ends("at its next boot the guest gets KubeVirt's own pod NIC (bridge)"), "{findings:?}");
        let without = r#"{"domain": {"devices": {"autoattachPodInterface": false}}}"#;
        let findings = findings_of_update(&RULE, &lan(r#", "autoattachPodInterface": false"#), &vm(without));
        assert!(findings.iter().all(|finding| !finding.what.contains("pod NIC")), "{findings:?}");
    }

    #[test]
    fn the_first_nic_of_a_stopped_vm_replaces_the_default_one() {
        let first = r#"{"networks": [{"name": "lan", "multus": {"networkName": "n"}}],
            "domain": {"devices": {"interfaces": [{"name": "lan", "bridge": {}}]}}}"#;
        let facts = Facts { vmi: Fact::Absent, ..Facts::default() };
        let found = findings_of_update_with(&RULE, &vm("{}"), &vm(first), &facts);
        assert_eq!(found[0].what, "adding \"lan\" removes the default pod-network NIC at the next boot");
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_link_under_a_probe_by_network_is_reported() {
        const DOWN: &str = r#", "state": "down""#;
        const POD: &str = r#""pod": {}"#;

        let guest = |probes: &str, state: &str, network: &str| {
            format!(
                r#"{{{probes} "networks": [{{"name": "default", {network}}}],
                "domain": {{"devices": {{"interfaces": [{{"name": "default", "masquerade": {{}}{state}}}]}}}}}}"#
            )
        };
        for (probes, state, network, expected) in [
            (r#""livenessProbe": {"tcpSocket": {"port": 22}},"#, DOWN, POD, Some("kills the guest")),
            (r#""livenessProbe": {"httpGet": {"port": 80}},"#, DOWN, POD, Some("kills the guest")),
            (r#""readinessProbe": {"httpGet": {"port": 80}},"#, DOWN, POD, Some("not ready")),
            (r#""livenessProbe": {"guestAgentPing": {}},"#, DOWN, POD, None),
            (r#""livenessProbe": {"tcpSocket": {"port": 22}},"#, r#", "state": "up""#, POD, None),
            (r#""livenessProbe": {"tcpSocket": {"port": 22}},"#, DOWN, r#""multus": {"networkName": "n"}"#, None),
            ("", DOWN, POD, None),
        ] {
            let old = vm(&guest(probes, "", network));
            let findings = findings_of_update(&RULE, &old, &vm(&guest(probes, state, network)));
            let found = findings.iter().find(|finding| finding.what.starts_with("the link of"));
            assert_eq!(found.is_some(), expected.is_some(), "{probes} {state} {network}: {findings:?}");
            assert!(expected.is_none_or(|part| found.is_some_and(|found| found.what.contains(part))), "{findings:?}");
        }
        table_of_updates(&RULE, &[("{}", Expect::Silent)]);
    }
}
