//! NP105.

mod plugin;

use super::{AtRestart, Case, CauseType, Finding, FindingKind, live_change::forecast::Swap, rule};
use crate::{
    api::{
        network::{Bindings, NadRef},
        quote::quote,
        review::ObjectKind,
    },
    change::{Nic, NicDiff},
    facts::{Fact, FactKind, nad::CniConfig},
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
    /// It also checks whether the plugin of the config can serve the NIC. With OVN-Kubernetes it denies a second NIC of
    /// the VM on one definition, a `netAttachDefName` other than the definition itself, `topology: layer3` or
    /// `role: primary` for a further network, and a chain of plugins. For a VM that is created or stopped these are
    /// warnings. In every case it only warns about
    /// - bridge binding on macvlan (except `mode: passthru`), ipvlan, sriov or ib-sriov;
    /// - sriov binding on a plugin without a device, such as bridge or macvlan;
    /// - two definitions that give one network of OVN-Kubernetes different settings;
    /// - a default network without a namespace that does not exist in the namespace of Multus.
    ///
    /// OVN-Kubernetes allows two NICs on one definition from v1.3.0 on, but its version cannot be read from the cluster:
    /// with v1.3.0 or later, set `NP105: warn`.
    /// OVN-Kubernetes accepts a layer3 network, but the address belongs to the node and is lost by a migration.
    ///
    /// Except for a layer3 network, a restart does not help: no pod can be created with the NIC, so a VM whose template
    /// has it does not start.
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
    findings.extend(Swap::all(case).iter().filter_map(|swap| evaluate(case, &swap.nic)));
    findings.extend(nics_of_stopped(case).filter_map(|nic| evaluate_stopped(case, nic)));
    findings
}

/// Returns the NICs of a stopped VM that are new, or that get another binding or network.
fn nics_of_stopped<'c>(case: &'c Case) -> impl Iterator<Item = &'c Nic<'c>> {
    let is_stopped = case.change.subject.kind == ObjectKind::Vm && case.facts.live() == Fact::Absent;
    let NicDiff { added, modified, .. } = &case.change.nics;
    let bindings = |nic: &Nic<'c>| nic.interface.map(|entry| &entry.value.bindings);
    let changed = modified
        .iter()
        .filter(move |(old, new)| old.network_name() != new.network_name() || bindings(old) != bindings(new));
    let nics = added.iter().chain(changed.map(|(_, new)| new));
    nics.filter(move |nic| is_stopped && !nic.is_absent())
}

/// Evaluates a NIC of a stopped VM: everything may still change before its start, so only a network that exists is
/// worth a warning.
fn evaluate_stopped(case: &Case, nic: &Nic) -> Option<Finding> {
    let name = case.facts.nad_of(nic, case.change.subject.namespace)?;
    let lookup = case.facts.nads.lookup(name);
    let finding = match &lookup.nad {
        Fact::Known(_) => plugin::evaluate(case, nic, name, &lookup),
        Fact::Absent => missing_default(case, nic, name, lookup.suggestion.as_deref()),
        Fact::Unknown => None,
    };
    finding.map(Finding::into_advice)
}

fn evaluate(case: &Case, nic: &Nic) -> Option<Finding> {
    let written = nic.network_name().filter(|name| !name.is_empty())?;
    let index = nic.network?.index;
    let field = || case.change.network_name_field(index);
    if !is_well_formed(written) {
        let what = format!("networkName {written} is neither NAME nor NAMESPACE/NAME", written = quote(written));
        let fix = "set networkName to the name of a NetworkAttachmentDefinition, or to NAMESPACE/NAME".to_owned();
        return Some(unusable(CauseType::Invalid, field(), what).with_fix(fix));
    }
    let name = case.facts.nad_of(nic, case.change.subject.namespace)?;
    let lookup = case.facts.nads.lookup(name);
    let nad = match &lookup.nad {
        Fact::Known(nad) => nad,
        Fact::Absent => {
            let suggestion = lookup.suggestion.as_deref();
            return missing_default(case, nic, name, suggestion).or_else(|| Some(missing(field(), name, suggestion)));
        }
        Fact::Unknown => {
            return Some(RULE.unknown(
                FactKind::Nad,
                format!("NetworkAttachmentDefinition \"{}\" was not checked: it is not known", name.shown()),
            ));
        }
    };
    if let CniConfig::Broken(how) = &nad.config {
        let what = format!("network \"{}\" cannot be used: its config {how}", name.shown());
        return Some(
            unusable(CauseType::Invalid, field(), what)
                .with_fix("fix spec.config of the NetworkAttachmentDefinition".to_owned()),
        );
    }
    // NP006 reports an interface with both bindings; which of the two is intended is not known.
    let is_sriov = |bindings: &Bindings| bindings.sriov.is_some() && bindings.bridge.is_none();
    if nic.interface.is_some_and(|entry| is_sriov(&entry.value.bindings)) && nad.resource.is_none() {
        let what = format!("network \"{}\" has no SR-IOV resource", name.shown());
        let fix = "annotate its NetworkAttachmentDefinition with k8s.v1.cni.cncf.io/resourceName";
        return Some(unusable(CauseType::Invalid, field(), what).with_fix(fix.to_owned()));
    }
    let is_default = nic.network?.value.is_default();
    let isolated = if is_default { None } else { evaluate_isolation(case, field, name) };
    match isolated {
        Some(finding) if finding.kind != FindingKind::Unchecked => Some(finding),
        unchecked => plugin::evaluate(case, nic, name, &lookup).or(unchecked),
    }
}

/// Returns a fault of a network with which no pod can be created, neither now nor at a restart.
fn unusable(cause: CauseType, field: String, what: String) -> Finding {
    RULE.fault(cause, field, what).at_restart(AtRestart::Fails)
}

/// Returns whether the name is `NAD` or `NAMESPACE/NAD`, split as Multus does it.
fn is_well_formed(written: &str) -> bool {
    written.split('/').count() <= 2 && written.split('/').all(|part| !part.is_empty())
}

/// Advises about a default network without a namespace that Multus does not find in its own namespace.
fn missing_default(case: &Case, nic: &Nic, name: NadRef, suggestion: Option<&str>) -> Option<Finding> {
    let network = nic.network.filter(|network| network.value.is_default())?;
    if nic.network_name()?.contains('/') {
        return None;
    }
    let NadRef { namespace, name } = name;
    let elsewhere = suggestion.map(|found| NadRef::parse(found, namespace)).filter(|found| found.name == name);
    let where_it_is = match elsewhere {
        Some(NadRef { namespace, name }) => {
            format!("it exists in {}: write {namespace}/{name}", quote(namespace))
        }
        None => "none exists there".to_owned(),
    };
    let what = format!("Multus looks for default network {name} in {namespace}; {where_it_is}", name = quote(name));
    Some(RULE.advice(case.change.network_name_field(network.index), what))
}

fn missing(field: String, name: NadRef, suggestion: Option<&str>) -> Finding {
    let NadRef { namespace, name } = name;
    let what = format!(
        "NetworkAttachmentDefinition {name} does not exist in namespace {namespace}",
        name = quote(name),
        namespace = quote(namespace)
    );
    let finding = unusable(CauseType::NotFound, field, what);
    match suggestion {
        Some(suggestion) => finding.with_fix(format!("create it, or use {suggestion:?}, which exists")),
        None => finding,
    }
}

fn evaluate_isolation(case: &Case, field: impl FnOnce() -> String, name: NadRef) -> Option<Finding> {
    let own = case.change.subject.namespace;
    let shown = name.shown();
    if name.namespace == own {
        return None;
    }
    match &case.facts.isolation {
        Fact::Known(isolation) if !isolation.is_global(name.namespace) => {
            let what = format!("Multus isolates namespaces: a VM in {own} may not use \"{shown}\"", own = quote(own));
            let fix = format!(
                "use a network of namespace {own} or \"default\", or add {} to globalNamespaces of Multus",
                quote(name.namespace),
                own = quote(own)
            );
            Some(unusable(CauseType::Invalid, field(), what).with_fix(fix))
        }
        Fact::Known(_) | Fact::Absent => None,
        Fact::Unknown => Some(RULE.unknown(
            FactKind::ConfigMap,
            format!("whether Multus allows other namespaces to use \"{shown}\" was not checked"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::RULE;
    use crate::{
        api::network::NadRef,
        facts::{Fact, NamespaceIsolation, nad::NadLookup},
        rules::{
            FindingKind,
            testing::{Expect, Hotplug},
        },
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
    fn multus_looks_for_a_default_network_in_its_own_namespace() {
        let network =
            |name: &str| format!(r#"{{"name": "dyniface1", "multus": {{"networkName": "{name}", "default": true}}}}"#);
        let case = |namespace: Option<&str>, suggestion: Option<&str>| {
            let suggestion = suggestion.map(str::to_owned);
            let lookup = NadLookup { nad: Fact::Absent, suggestion, conflict: None };
            let searched = NadRef { namespace: namespace.unwrap_or("kube-system"), name: "tenant" };
            Hotplug::of(BRIDGE).on(&network("tenant")).facts(|facts| {
                facts.multus_namespace = namespace.map(Arc::from);
                facts.nads.insert(searched, lookup);
            })
        };
        for (namespace, suggestion, end) in [
            (None, Some("demo/tenant"), "in kube-system; it exists in \"demo\": write demo/tenant"),
            (Some("multus"), Some("demo/tenant"), "in multus; it exists in \"demo\": write demo/tenant"),
            (None, Some("kube-system/tenants"), "in kube-system; none exists there"),
            (None, None, "in kube-system; none exists there"),
        ] {
            for case in [case(namespace, suggestion).created(), case(namespace, suggestion).stopped()] {
                let findings = case.findings(&RULE);
                assert_eq!((findings.len(), findings[0].kind), (1, FindingKind::Advice), "{findings:?}");
                assert!(findings[0].what.ends_with(end), "{findings:?}");
            }
        }
        let isolated = Fact::Known(Arc::new(NamespaceIsolation::default()));
        let elsewhere = Hotplug::of(BRIDGE).nad("other/red", "").on(&network("other/red"));
        elsewhere.facts(|facts| facts.isolation = isolated).created().expect(&RULE, &Expect::Silent);
    }

    #[test]
    fn unknown_networks_are_reported_and_deny_nothing() {
        Hotplug::of(BRIDGE).facts(|facts| facts.nads = crate::facts::Nads::default()).expect(&RULE, &Expect::Unchecked);
        Hotplug::of(BRIDGE).vmi_unknown().expect(&RULE, &Expect::Unchecked);
    }
}
