//! Builders for the tables in rule files: a whole review is made and read, so a rule is tested on what it really gets.

use std::sync::Arc;

use super::{Case, Finding, FindingKind, Rule};
use crate::{
    api::{cluster, review, vm::Phase},
    change::Change,
    facts::{Fact, Facts, Instance, KubeVirt},
    settings::Settings,
};

/// What a rule should say.
#[derive(Debug)]
pub(crate) enum Expect {
    /// Nothing.
    Silent,
    /// Faults at these fields, in this order, and nothing else.
    Faults(&'static [&'static str]),
    /// Advice only.
    Advice,
    /// That something was not checked, and nothing else.
    Unchecked,
}

/// Judges VMs that are being created with these guests (`spec.template.spec`).
pub(crate) fn table(rule: &'static Rule, rows: &[(&str, Expect)]) {
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("CREATE", &vm_of(guest), "null"), &Facts::default(), expect);
    }
}

/// As [`table`], on a KubeVirt v1.9.0 with this `spec.configuration`.
pub(crate) fn table_on(rule: &'static Rule, configuration: &str, rows: &[(&str, Expect)]) {
    let resource = format!(
        r#"{{"spec": {{"configuration": {configuration}}}, "status": {{"observedKubeVirtVersion": "v1.9.0"}}}}"#
    );
    let resource: cluster::KubeVirt = serde_json::from_str(&resource).unwrap();
    let facts = Facts { kubevirt: Fact::Known(Arc::new(KubeVirt::from(resource))), ..Facts::default() };
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("CREATE", &vm_of(guest), "null"), &facts, expect);
    }
}

/// Judges VMs whose guest was `{}` until now.
pub(crate) fn table_of_updates(rule: &'static Rule, rows: &[(&str, Expect)]) {
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("UPDATE", &vm_of(guest), &vm_of("{}")), &Facts::default(), expect);
    }
}

/// A guest (`spec.template.spec`) of one NIC named `a`: the rest of the interface and of the network.
pub(crate) fn nic(interface: &str, network: &str) -> String {
    format!(
        r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "a", {interface}}}]}}}},
            "networks": [{{"name": "a", {network}}}]}}"#
    )
}

fn vm_of(guest: &str) -> String {
    format!(r#"{{"spec": {{"template": {{"spec": {guest}}}}}}}"#)
}

/// A NIC that is added to the VM `vm-fedora`, which has one masquerade NIC and runs on KubeVirt 1.9.
pub(crate) struct Hotplug {
    interface: String,
    network: String,
    facts: Facts,
}

impl Hotplug {
    /// The interface to add, named `dyniface1`, on the multus network `new-fancy-net`.
    pub(crate) fn of(interface: &str) -> Self {
        let instance = Instance { phase: Phase::Running, is_deleting: false, nics: vec!["defaultnetwork".to_owned()] };
        let facts = Facts { instance: Fact::Known(Arc::new(instance)), ..Facts::default() };
        let network = r#"{"name": "dyniface1", "multus": {"networkName": "new-fancy-net"}}"#.to_owned();
        Self { interface: interface.to_owned(), network, facts }.kubevirt("v1.9.0", &[])
    }

    /// Another network to attach to.
    pub(crate) fn on(mut self, network: &str) -> Self {
        network.clone_into(&mut self.network);
        self
    }

    /// Another KubeVirt.
    pub(crate) fn kubevirt(mut self, version: &str, gates: &[&str]) -> Self {
        let mut resource = cluster::KubeVirt::default();
        version.clone_into(&mut resource.status.observed_version);
        resource.spec.configuration.developer_configuration.feature_gates =
            gates.iter().map(|&gate| gate.to_owned()).collect();
        self.facts.kubevirt = Fact::Known(Arc::new(KubeVirt::from(resource)));
        self
    }

    /// Nobody may read the KubeVirt resource.
    pub(crate) fn kubevirt_unknown(mut self) -> Self {
        self.facts.kubevirt = Fact::Unknown;
        self
    }

    /// The VM does not run.
    pub(crate) fn stopped(mut self) -> Self {
        self.facts.instance = Fact::Absent;
        self
    }

    /// Nobody may read VMIs.
    pub(crate) fn instance_unknown(mut self) -> Self {
        self.facts.instance = Fact::Unknown;
        self
    }

    /// Holds the rule to what it should say.
    pub(crate) fn expect(&self, rule: &'static Rule, expect: &Expect) {
        assert_findings(rule, &self.review(), &self.facts, expect);
    }

    /// The request as the API server would send it.
    pub(crate) fn review(&self) -> String {
        let vm = |interface: &str, network: &str| {
            format!(
                r#"{{"metadata": {{"name": "vm-fedora", "namespace": "demo"}}, "spec": {{"template": {{"spec": {{
                    "domain": {{"devices": {{"interfaces": [{{"name": "defaultnetwork", "masquerade": {{}}}}{interface}]}}}},
                    "networks": [{{"name": "defaultnetwork", "pod": {{}}}}{network}]}}}}}}}}"#
            )
        };
        let new = vm(&format!(", {}", self.interface), &format!(", {}", self.network));
        review_of("UPDATE", &new, &vm("", ""))
    }
}

fn review_of(operation: &str, object: &str, old_object: &str) -> String {
    format!(
        r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{
            "uid": "u", "kind": {{"group": "kubevirt.io", "version": "v1", "kind": "VirtualMachine"}},
            "namespace": "demo", "name": "vm-fedora", "operation": "{operation}", "userInfo": {{"username": "alice"}},
            "object": {object}, "oldObject": {old_object}}}}}"#
    )
}

/// Reads a review and judges it with one rule.
pub(crate) fn findings(rule: &'static Rule, review: &str, facts: &Facts) -> Vec<Finding> {
    let review::Reading::Whole(request) = review::read(review.as_bytes()).unwrap() else { panic!("faulty: {review}") };
    let change = Change::of(&request).unwrap();
    let settings = Settings::default();
    let case = Case { change: &change, facts, settings: &settings };
    if rule.scope.covers(&change) { (rule.check)(&case) } else { Vec::new() }
}

fn assert_findings(rule: &'static Rule, review: &str, facts: &Facts, expect: &Expect) {
    let findings = findings(rule, review, facts);
    let is_as_expected = match expect {
        Expect::Silent => findings.is_empty(),
        Expect::Faults(fields) => {
            findings.iter().all(|finding| matches!(finding.kind, FindingKind::Fault(_)))
                && findings.iter().map(|finding| finding.field.as_str()).eq(fields.iter().copied())
        }
        Expect::Advice => is_each(&findings, FindingKind::Advice),
        Expect::Unchecked => is_each(&findings, FindingKind::Unchecked),
    };
    assert!(is_as_expected, "{}: expected {expect:?} of {review}, found {findings:#?}", rule.id);
}

fn is_each(findings: &[Finding], kind: FindingKind) -> bool {
    !findings.is_empty() && findings.iter().all(|finding| finding.kind == kind)
}
