//! Support for the tests of rules; not a rule. Each helper builds a whole AdmissionReview and parses it, so that a rule
//! is tested with the input that it gets in production.

mod hotplug;

use std::{cell::Cell, sync::Arc};

pub(crate) use self::hotplug::Hotplug;
use super::{Case, Finding, FindingKind, Rule};
use crate::{
    api::{cluster, review},
    change::Change,
    facts::{Fact, Facts, KubeVirt},
    settings::{Enforcement, Settings},
};

thread_local! {
    /// The rule whose check panics on this thread.
    static PANICKING: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Makes the check of a rule panic on this thread, until the guard is dropped.
pub(crate) fn panic_in(id: &'static str) -> PanicGuard {
    PANICKING.set(Some(id));
    PanicGuard
}

/// See [`panic_in`].
pub(crate) struct PanicGuard;

impl Drop for PanicGuard {
    fn drop(&mut self) {
        PANICKING.set(None);
    }
}

pub(super) fn panic_if_requested(rule: &Rule) {
    assert_ne!(PANICKING.get(), Some(rule.id), "a panic that a test requested");
}

/// The findings that a test expects.
#[derive(Debug)]
pub(crate) enum Expect {
    /// None.
    Silent,
    /// Faults at these fields, in this order, and nothing else.
    Faults(&'static [&'static str]),
    /// Advice only.
    Advice,
    /// Unchecked only.
    Unchecked,
}

/// Evaluates a rule for VMs that are being created with these guests (`spec.template.spec`).
pub(crate) fn table(rule: &'static Rule, rows: &[(&str, Expect)]) {
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("CREATE", &vm_of(guest), "null"), &Facts::default(), expect);
    }
}

/// Does the same as [`table`], on KubeVirt v1.9.0 with this `spec.configuration`.
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

/// Evaluates a rule for updates of VMs whose guest was `{}`.
pub(crate) fn table_of_updates(rule: &'static Rule, rows: &[(&str, Expect)]) {
    for (guest, expect) in rows {
        assert_findings(rule, &review_of("UPDATE", &vm_of(guest), &vm_of("{}")), &Facts::default(), expect);
    }
}

/// Returns a guest (`spec.template.spec`) with one NIC named `a`, from the other fields of its interface and network.
pub(crate) fn nic(interface: &str, network: &str) -> String {
    format!(
        r#"{{"domain": {{"devices": {{"interfaces": [{{"name": "a", {interface}}}]}}}},
            "networks": [{{"name": "a", {network}}}]}}"#
    )
}

fn vm_of(guest: &str) -> String {
    format!(r#"{{"spec": {{"template": {{"spec": {guest}}}}}}}"#)
}

/// Returns the findings for an update of a VM, with all facts unknown.
pub(crate) fn findings_of_update(rule: &'static Rule, old: &str, new: &str) -> Vec<Finding> {
    findings(rule, &review_of("UPDATE", new, old), &Facts::default())
}

/// Does the same as [`findings_of_update`], with these facts.
pub(crate) fn findings_of_update_with(rule: &'static Rule, old: &str, new: &str, facts: &Facts) -> Vec<Finding> {
    findings(rule, &review_of("UPDATE", new, old), facts)
}

/// Returns the findings for an update of a VMI, with all facts unknown.
pub(crate) fn findings_of_vmi_update(rule: &'static Rule, old: &str, new: &str) -> Vec<Finding> {
    findings(rule, &review_of_kind("VirtualMachineInstance", "UPDATE", new, old), &Facts::default())
}

/// Returns the findings for an update of a VMI, with these facts.
pub(crate) fn findings_of_vmi_update_with(rule: &'static Rule, old: &str, new: &str, facts: &Facts) -> Vec<Finding> {
    findings(rule, &review_of_kind("VirtualMachineInstance", "UPDATE", new, old), facts)
}

/// Returns the findings for an update of a VM's status.
pub(crate) fn findings_of_status(rule: &'static Rule, old: &str, new: &str, facts: &Facts) -> Vec<Finding> {
    let review =
        review_of("UPDATE", new, old).replacen("\"operation\"", "\"subResource\": \"status\", \"operation\"", 1);
    let review::ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else {
        panic!("faulty: {review}")
    };
    let Some(change) = Change::of(&request) else { return Vec::new() };
    let settings = Settings::default();
    let case = Case::new(&change, facts, &settings);
    if rule.scope.covers(&change) { (rule.check)(&case) } else { Vec::new() }
}

fn review_of(operation: &str, object: &str, old_object: &str) -> String {
    review_of_kind("VirtualMachine", operation, object, old_object)
}

pub(crate) fn review_of_kind(kind: &str, operation: &str, object: &str, old_object: &str) -> String {
    let group = if kind == "VirtualMachinePool" { "pool.kubevirt.io" } else { "kubevirt.io" };
    format!(
        r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{
            "uid": "u", "kind": {{"group": "{group}", "version": "v1", "kind": "{kind}"}},
            "namespace": "demo", "name": "vm-fedora", "operation": "{operation}", "userInfo": {{"username": "alice"}},
            "object": {object}, "oldObject": {old_object}}}}}"#
    )
}

/// Parses a review and evaluates one rule.
pub(crate) fn findings(rule: &'static Rule, review: &str, facts: &Facts) -> Vec<Finding> {
    findings_under(rule, review, facts, &Settings::default())
}

pub(crate) fn findings_under(rule: &'static Rule, review: &str, facts: &Facts, settings: &Settings) -> Vec<Finding> {
    let review::ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else {
        panic!("faulty: {review}")
    };
    let change = Change::of(&request).unwrap();
    let case = Case::new(&change, facts, settings);
    if rule.scope.covers(&change) { (rule.check)(&case) } else { Vec::new() }
}

fn assert_findings(rule: &'static Rule, review: &str, facts: &Facts, expect: &Expect) {
    assert_as_expected(rule, review, &findings(rule, review, facts), expect);
}

fn assert_as_expected(rule: &'static Rule, review: &str, findings: &[Finding], expect: &Expect) {
    let is_as_expected = match expect {
        Expect::Silent => findings.is_empty(),
        Expect::Faults(fields) => {
            findings.iter().all(|finding| matches!(finding.kind, FindingKind::Fault(_)))
                && findings.iter().map(|finding| finding.field.as_str()).eq(fields.iter().copied())
        }
        Expect::Advice => is_each(findings, FindingKind::Advice),
        Expect::Unchecked => is_each(findings, FindingKind::Unchecked),
    };
    assert!(is_as_expected, "{}: expected {expect:?} of {review}, found {findings:#?}", rule.id);
    for finding in findings {
        assert_fits(finding);
    }
}

/// The longest warning, in characters; equal to the limit of the verdict, which rules must not import.
const WARNING_LENGTH: usize = 120;

/// Asserts that a finding which becomes a warning by default is short enough, even with names of 20 letters.
fn assert_fits(finding: &Finding) {
    let is_denial = matches!(finding.kind, FindingKind::Fault(_)) && finding.rule.enforcement == Enforcement::Deny;
    let names = ["dyniface1", "dyniface2", "vm-fedora", "vm-other", "new-fancy-net", "no-such-net", "demo"];
    let what = names.iter().fold(finding.what.clone(), |what, name| what.replace(name, &"x".repeat(20)));
    let length = what.chars().count() + " [NP000]".len();
    assert!(is_denial || length <= WARNING_LENGTH, "{length} characters: {what}");
}

fn is_each(findings: &[Finding], kind: FindingKind) -> bool {
    !findings.is_empty() && findings.iter().all(|finding| finding.kind == kind)
}
