//! NP105.

use super::{Case, CauseType, Finding, rule};
use crate::{
    api::network::{Bindings, NadRef},
    change::Nic,
    facts::{
        Fact, FactKind,
        nad::{CniConfig, NadLookup},
    },
    kubevirt::gates::Gate,
};

rule! {
    /// A NIC is plugged into a running VM on a NetworkAttachmentDefinition that is missing or cannot be used.
    ///
    /// ## Why
    /// KubeVirt accepts any `networkName`, and from 1.9 on it no longer reads NetworkAttachmentDefinitions itself: a
    /// mistake shows only on a pod, long after the change was stored. The rule checks that the definition exists, that
    /// its config is JSON and names a plugin, that an SR-IOV network names its resource, and that Multus' namespace
    /// isolation allows the VM's namespace to use it. For a VM that is being created the rule only warns: the
    /// definition may be created later.
    ///
    /// ## Example
    /// ```yaml
    /// networks:
    /// - name: dyniface1
    ///   multus:
    ///     networkName: no-such-net
    /// ```
    NP105, "network-attachment", Hotplug, Deny,
    field: "networks[].multus.networkName",
    fix: "create or fix the NetworkAttachmentDefinition, or use another one",
}

fn check(case: &Case) -> Vec<Finding> {
    if case.is_new() {
        let nics = case.change.nics.added.iter().filter(|nic| !nic.is_absent());
        let findings = nics.filter_map(|nic| evaluate(case, nic));
        return findings.map(Finding::into_advice).collect();
    }
    let mut findings = case.each_plugged(&RULE, |nic, _| evaluate(case, nic));
    findings.extend(moved_nics(case).filter_map(|nic| evaluate(case, nic)));
    findings
}

/// Returns the NICs of a running guest whose network is changed by migration.
fn moved_nics<'c>(case: &'c Case) -> impl Iterator<Item = &'c Nic<'c>> {
    let vmi = case.facts.live();
    let moves = case.facts.kubevirt.known().is_some_and(|kubevirt| kubevirt.has(Gate::LiveUpdateNadRef));
    let modified = case.change.nics.modified.iter().filter(move |_| moves);
    modified.filter_map(move |(old, new)| {
        let is_there = vmi.known().is_some_and(|vmi| vmi.has_nic(new.name));
        (is_there && old.network_name() != new.network_name()).then_some(new)
    })
}

fn evaluate(case: &Case, nic: &Nic) -> Option<Finding> {
    let written = nic.network_name().filter(|name| !name.is_empty())?;
    let index = nic.network?.index;
    let field = || case.change.network_name_field(index);
    if !is_well_formed(written) {
        let what = format!("networkName {written:?} is neither NAME nor NAMESPACE/NAME");
        let fix = "set networkName to the name of a NetworkAttachmentDefinition, or to NAMESPACE/NAME".to_owned();
        return Some(RULE.fault(CauseType::Invalid, field(), what).with_fix(fix));
    }
    let name = NadRef::parse(written, case.change.subject.namespace);
    let NadLookup { nad, suggestion } = case.facts.nads.lookup(name);
    let nad = match nad {
        Fact::Known(nad) => nad,
        Fact::Absent => return Some(missing(field(), name, suggestion)),
        Fact::Unknown => {
            return Some(RULE.unknown(
                FactKind::Nad,
                format!("NetworkAttachmentDefinition \"{name}\" was not checked: it is not known"),
            ));
        }
    };
    if let CniConfig::Broken(how) = &nad.config {
        let what = format!("network \"{name}\" cannot be used: its config {how}");
        return Some(
            RULE.fault(CauseType::Invalid, field(), what)
                .with_fix("fix spec.config of the NetworkAttachmentDefinition".to_owned()),
        );
    }
    // NP006 reports an interface with both bindings; which of the two is intended is not known.
    let is_sriov = |bindings: &Bindings| bindings.sriov.is_some() && bindings.bridge.is_none();
    if nic.interface.is_some_and(|entry| is_sriov(&entry.value.bindings)) && nad.resource.is_none() {
        let what = format!("network \"{name}\" has no SR-IOV resource");
        let fix = "annotate its NetworkAttachmentDefinition with k8s.v1.cni.cncf.io/resourceName";
        return Some(RULE.fault(CauseType::Invalid, field(), what).with_fix(fix.to_owned()));
    }
    evaluate_isolation(case, field, name)
}

/// Returns whether the name is `NAD` or `NAMESPACE/NAD`, split as Multus does it.
fn is_well_formed(written: &str) -> bool {
    written.split('/').count() <= 2 && written.split('/').all(|part| !part.is_empty())
}

fn missing(field: String, name: NadRef, suggestion: Option<String>) -> Finding {
    let NadRef { namespace, name } = name;
    let what = format!("NetworkAttachmentDefinition {name:?} does not exist in namespace {namespace:?}");
    let finding = RULE.fault(CauseType::NotFound, field, what);
    match suggestion {
        Some(suggestion) => finding.with_fix(format!("create it, or use {suggestion:?}, which exists")),
        None => finding,
    }
}

fn evaluate_isolation(case: &Case, field: impl FnOnce() -> String, name: NadRef) -> Option<Finding> {
    let own = case.change.subject.namespace;
    if name.namespace == own {
        return None;
    }
    match &case.facts.isolation {
        Fact::Known(isolation) if !isolation.is_global(name.namespace) => {
            let what = format!("Multus isolates namespaces: a VM in {own:?} may not use \"{name}\"");
            let fix = format!(
                "use a network of namespace {own:?} or \"default\", or add {:?} to globalNamespaces of Multus",
                name.namespace
            );
            Some(RULE.fault(CauseType::Invalid, field(), what).with_fix(fix))
        }
        Fact::Known(_) | Fact::Absent => None,
        Fact::Unknown => Some(RULE.unknown(
            FactKind::ConfigMap,
            format!("whether Multus allows other namespaces to use \"{name}\" was not checked"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::RULE;
    use crate::{
        facts::{Fact, NamespaceIsolation},
        rules::testing::{Expect, Hotplug},
    };

    const BRIDGE: &str = r#"{"name": "dyniface1", "bridge": {}}"#;
    const SRIOV: &str = r#"{"name": "dyniface1", "sriov": {}}"#;
    const FAULT: Expect = Expect::Faults(&["spec.template.spec.networks[1].multus.networkName"]);

    fn on(name: &str) -> String {
        format!(r#"{{"name": "dyniface1", "multus": {{"networkName": "{name}"}}}}"#)
    }

    #[test]
    fn the_definition_has_to_exist_in_its_namespace() {
        for (name, expect) in [
            ("new-fancy-net", Expect::Silent),
            ("demo/new-fancy-net", Expect::Silent),
            ("other/red", Expect::Silent),
            ("red", FAULT),
            ("no-such-net", FAULT),
            ("other/new-fancy-net", FAULT),
            ("a/b/c", FAULT),
            ("/new-fancy-net", FAULT),
            ("demo/", FAULT),
            ("", Expect::Silent),
        ] {
            Hotplug::of(BRIDGE).nad("other/red", "{\"type\": \"bridge\"}").on(&on(name)).expect(&RULE, &expect);
        }
    }

    #[test]
    fn the_denial_names_the_namespace_and_a_definition_of_the_same_name() {
        let findings = Hotplug::of(BRIDGE).nad("other/red", "").on(&on("red")).findings(&RULE);
        assert!(findings[0].what.contains(r#""red" does not exist in namespace "demo""#), "{findings:?}");
        assert!(findings[0].fix.contains(r#""other/red""#), "{findings:?}");
    }

    #[test]
    fn its_config_has_to_name_a_plugin() {
        for (config, expect) in [
            ("", Expect::Silent),
            (r#"{"plugins": [{"type": "bridge"}]}"#, Expect::Silent),
            ("{not json", FAULT),
            (r#"{"cniVersion": "0.3.1"}"#, FAULT),
        ] {
            Hotplug::of(BRIDGE).nad("demo/new-fancy-net", config).expect(&RULE, &expect);
        }
    }

    #[test]
    fn sriov_needs_a_resource() {
        Hotplug::of(SRIOV).expect(&RULE, &FAULT);
        Hotplug::of(SRIOV).sriov_nad("demo/new-fancy-net").expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn isolation_denies_only_when_it_is_known() {
        let isolated = || {
            let isolation = NamespaceIsolation { global_namespaces: vec!["infra".to_owned()] };
            Fact::Known(Arc::new(isolation))
        };
        let case = |name: &str, isolation: Fact<Arc<NamespaceIsolation>>| {
            Hotplug::of(BRIDGE).nad(name, "").on(&on(name)).facts(|facts| facts.isolation = isolation)
        };
        case("other/red", isolated()).expect(&RULE, &FAULT);
        case("infra/red", isolated()).expect(&RULE, &Expect::Silent);
        case("default/red", isolated()).expect(&RULE, &Expect::Silent);
        case("other/red", Fact::Absent).expect(&RULE, &Expect::Silent);
        case("other/red", Fact::Unknown).expect(&RULE, &Expect::Unchecked);
        case("demo/red", Fact::Unknown).expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_new_vm_may_name_a_definition_that_does_not_exist_yet() {
        Hotplug::of(BRIDGE).on(&on("no-such-net")).created().expect(&RULE, &Expect::Advice);
        Hotplug::of(BRIDGE).created().expect(&RULE, &Expect::Silent);
        Hotplug::of(BRIDGE).on(&on("no-such-net")).stopped().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn a_network_that_is_changed_by_migration_has_to_exist_too() {
        let moved = |version: &str| {
            Hotplug::modify((BRIDGE, &on("new-fancy-net")), (BRIDGE, &on("no-such-net"))).kubevirt(version, &[])
        };
        moved("v1.9.0").expect(&RULE, &FAULT);
        moved("v1.5.0").expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn unknown_networks_are_reported_and_deny_nothing() {
        Hotplug::of(BRIDGE).facts(|facts| facts.nads = crate::facts::Nads::default()).expect(&RULE, &Expect::Unchecked);
        Hotplug::of(BRIDGE).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
