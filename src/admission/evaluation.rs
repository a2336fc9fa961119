//! The second step: a parsed body becomes a decision, with everything that logs, metrics and Events report about it.

use std::sync::Arc;

use json_patch::PatchOperation;

use super::{
    Endpoint, ParsedBody,
    enforcement::EnforcementPolicy,
    patch::Patch,
    verdict::{
        self, Cause, Verdict,
        sets::{FactSet, RuleSet},
    },
};
use crate::{
    api::review::{BodyError, GroupVersionKind, InvalidField, ObjectKind, Operation, ParsedRequest, Request},
    change::{Change, MAX_NAME, MAX_NICS, MAX_OPTIONS, MigrationStart, NetworkChange, Oversized},
    facts::{Fact, FactSource, Facts, Vmi},
    rules::{self, Case, CauseType},
    settings::Settings,
};

/// The result of a request.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Decision {
    /// The request is allowed without a change or a warning.
    Allowed,
    /// The request is denied.
    Denied,
    /// The body has no request of an AdmissionReview.
    Malformed,
    /// The request is allowed, and the answer changes its object.
    Patched,
    /// The request is allowed because nicplug does not review its kind, operation or subresource.
    Unhandled,
    /// The request is allowed with a warning for its user.
    Warned,
}

impl Decision {
    /// Every decision.
    pub const ALL: [Self; 6] =
        [Self::Allowed, Self::Denied, Self::Malformed, Self::Patched, Self::Unhandled, Self::Warned];

    /// Returns the name for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::Patched => "patched",
            Self::Unhandled => "unhandled",
            Self::Warned => "warned",
        }
    }

    fn of(verdict: &Verdict) -> Self {
        match (verdict.is_allowed(), verdict.warnings.is_empty()) {
            (false, _) => Self::Denied,
            (true, false) => Self::Warned,
            (true, true) => Self::Allowed,
        }
    }
}

/// The labels of a decision in the metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DecisionLabels {
    /// The endpoint that was called.
    pub endpoint: Endpoint,
    /// The kind of the object.
    pub kind: ObjectKind,
    /// The operation on the object.
    pub operation: Operation,
    /// The decision.
    pub decision: Decision,
    /// The rules that deny the request.
    pub denied_by: RuleSet,
    /// The rules that warn.
    pub warned_by: RuleSet,
    /// The rules that failed by an internal error.
    pub failed: RuleSet,
    /// The facts that a rule needed and that were unknown.
    pub unknown: FactSet,
}

/// The result of [`Evaluator::evaluate`].
#[derive(Debug)]
pub struct Evaluation<'r> {
    pub(super) endpoint: Endpoint,
    pub(super) decision: Decision,
    pub(super) request: Result<&'r Request<'r>, &'r BodyError>,
    pub(super) verdict: Verdict,
    pub(super) patch: Option<Patch>,
    /// `None` for a decision other than a denial, a patch, a warning about [`Verdict::not_denied`] or
    /// [`Verdict::postponed`], or a change of the NICs of a running VM.
    pub(super) basis: Option<Box<Basis<'r>>>,
}

/// The input of a decision. Only denials, patches, warnings instead of denials and changes of running VMs keep it,
/// because it is large and no other decision needs it again.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "every basis is in a box")]
pub(super) enum Basis<'r> {
    /// A change, and the facts that were known.
    Change(Change<'r>, Facts),
    /// The start of a migration, and the facts that were known.
    Migration(MigrationStart<'r>, Facts),
    /// A change of a network, and the facts that were known.
    Network(NetworkChange<'r>, Facts),
    /// A change with too many NICs: no facts were read.
    Oversize(Change<'r>),
}

impl<'r> Evaluation<'r> {
    /// Returns the decision.
    #[must_use]
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// Returns the endpoint that was called.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Returns the request; `None` for a malformed body.
    #[must_use]
    pub fn request(&self) -> Option<&'r Request<'r>> {
        self.request.ok()
    }

    /// Returns the causes of a denial and the warnings.
    #[must_use]
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Returns the verdict, without the rest.
    #[must_use]
    pub fn into_verdict(self) -> Verdict {
        self.verdict
    }

    /// Returns the operations on the object; none unless the decision is [`Decision::Patched`].
    #[must_use]
    pub fn into_patch(self) -> Vec<PatchOperation> {
        self.patch.map(|patch| patch.operations).unwrap_or_default()
    }

    /// Returns the labels for the metrics.
    #[must_use]
    pub fn labels(&self) -> DecisionLabels {
        let Verdict { denied_by, warned_by, failed, unknown, .. } = self.verdict;
        let (kind, operation) = match self.request {
            // An object of another group.
            Ok(request) if self.decision == Decision::Unhandled && !is_of_kubevirt(&request.kind) => {
                (ObjectKind::Other, request.operation)
            }
            Ok(request) => (ObjectKind::of(&request.kind), request.operation),
            Err(_) => (ObjectKind::Other, Operation::Other),
        };
        DecisionLabels {
            endpoint: self.endpoint,
            kind,
            operation,
            decision: self.decision,
            denied_by,
            warned_by,
            failed,
            unknown,
        }
    }

    /// Returns the change that was denied; `None` for another decision, and for a denial of something else: of a
    /// migration, or of an object that cannot be read.
    #[must_use]
    pub fn denied_change(&self) -> Option<&Change<'r>> {
        match self.basis.as_deref()? {
            Basis::Change(change, _) | Basis::Oversize(change) if self.decision == Decision::Denied => Some(change),
            _ => None,
        }
    }

    /// Returns the change of virt-controller that was allowed although a rule would deny it to another user.
    #[must_use]
    pub fn change_not_denied(&self) -> Option<&Change<'r>> {
        match self.basis.as_deref()? {
            Basis::Change(change, _) if self.decision != Decision::Denied && !self.verdict.not_denied.is_empty() => {
                Some(change)
            }
            _ => None,
        }
    }

    /// Returns the change that is stored for the next restart of its VM although the running guest cannot have it.
    #[must_use]
    pub fn postponed_change(&self) -> Option<&Change<'r>> {
        match self.basis.as_deref()? {
            Basis::Change(change, _) if self.decision != Decision::Denied && !self.verdict.postponed.is_empty() => {
                Some(change)
            }
            _ => None,
        }
    }

    /// Whether both have the same answer.
    #[must_use]
    pub fn has_same_answer(&self, other: &Self) -> bool {
        (self.decision, &self.verdict, &self.patch) == (other.decision, &other.verdict, &other.patch)
    }

    pub(super) fn new(endpoint: Endpoint, request: &'r Request<'r>, decision: Decision) -> Self {
        let verdict = Verdict::default();
        Self { endpoint, decision, request: Ok(request), verdict, patch: None, basis: None }
    }

    fn with_verdict(
        endpoint: Endpoint,
        request: &'r Request<'r>,
        verdict: Verdict,
        is_foreseen: bool,
        basis: impl FnOnce() -> Basis<'r>,
    ) -> Self {
        let decision = Decision::of(&verdict);
        let is_instead_of_denial = !verdict.not_denied.is_empty() || !verdict.postponed.is_empty();
        let is_kept = is_foreseen || is_instead_of_denial || decision == Decision::Denied;
        let basis = is_kept.then(|| Box::new(basis()));
        Self { endpoint, decision, request: Ok(request), verdict, patch: None, basis }
    }

    /// A denial that is not from a rule.
    fn denied(endpoint: Endpoint, request: &'r Request<'r>, field: String, message: String) -> Self {
        let cause = Cause { reason: CauseType::Invalid, field, message };
        let verdict = Verdict { causes: vec![cause], ..Verdict::default() };
        Self { endpoint, decision: Decision::Denied, request: Ok(request), verdict, patch: None, basis: None }
    }

    fn malformed(endpoint: Endpoint, error: &'r BodyError) -> Self {
        let verdict = Verdict::default();
        Self { endpoint, decision: Decision::Malformed, request: Err(error), verdict, patch: None, basis: None }
    }
}

/// Evaluates requests with one source of facts and with settings that do not change meanwhile.
#[derive(Clone, Copy)]
pub struct Evaluator<'e> {
    pub(super) facts: &'e dyn FactSource,
    pub(super) settings: &'e Settings,
}

impl<'e> Evaluator<'e> {
    /// Returns an evaluator.
    #[must_use]
    pub fn new(facts: &'e dyn FactSource, settings: &'e Settings) -> Self {
        Self { facts, settings }
    }

    /// Evaluates a body that was [parsed](super::parse).
    #[must_use]
    pub fn evaluate<'r>(&self, endpoint: Endpoint, body: &'r ParsedBody<'r>) -> Evaluation<'r> {
        match body {
            Ok(ParsedRequest::Valid(request) | ParsedRequest::Invalid(request, _)) if !self.judges(&request.kind) => {
                Evaluation::new(endpoint, request, Decision::Unhandled)
            }
            Ok(ParsedRequest::Valid(request)) => self.evaluate_request(endpoint, request),
            Ok(ParsedRequest::Invalid(request, fault)) => evaluate_fault(endpoint, request, fault),
            Err(error) => Evaluation::malformed(endpoint, error),
        }
    }

    /// Whether objects of this kind are judged. Another operator may have a kind of the same name in its own group.
    #[must_use]
    pub fn judges(&self, kind: &GroupVersionKind) -> bool {
        self.settings.api.judges(&kind.group, ObjectKind::of(kind).group())
    }

    fn evaluate_request<'r>(&self, endpoint: Endpoint, request: &'r Request<'r>) -> Evaluation<'r> {
        if let Some(start) = MigrationStart::of(request) {
            return self.evaluate_migration(endpoint, request, start);
        }
        if let Some(change) = self.network_change_of(request) {
            return self.evaluate_network(endpoint, request, change);
        }
        if request.is_unchanged {
            return Evaluation::new(endpoint, request, Decision::Allowed);
        }
        let Some(change) = self.change_of(request) else {
            return Evaluation::new(endpoint, request, Decision::Unhandled);
        };
        if change.is_irrelevant() {
            return Evaluation::new(endpoint, request, Decision::Allowed);
        }
        if let Some(part) = change.oversized() {
            return evaluate_oversize(endpoint, request, change, part);
        }
        match endpoint {
            Endpoint::Validate => {
                let facts = self.facts_for(&change);
                let verdict = decide(&change, &facts, self.settings);
                let is_foreseen = is_of_running_vm(&change, &facts);
                let basis = || Basis::Change(change, facts);
                Evaluation::with_verdict(endpoint, request, verdict, is_foreseen, basis)
            }
            // The API server silently drops a patch of a status request that changes anything but the status.
            Endpoint::Mutate if change.requests.is_some() => Evaluation::new(endpoint, request, Decision::Allowed),
            Endpoint::Mutate => self.mutate(request, change),
        }
    }

    /// Returns the change of a VM, VMI, pool or replica set, with the settings that its facts depend on.
    pub(super) fn change_of<'r>(&self, request: &'r Request<'r>) -> Option<Change<'r>> {
        let mut change = Change::of(request)?;
        change.multus_namespace.clone_from(&self.settings.attachment.multus_namespace);
        Some(change)
    }

    /// Returns the change of a network, with the settings that its facts depend on.
    pub(super) fn network_change_of<'r>(&self, request: &'r Request<'r>) -> Option<NetworkChange<'r>> {
        let mut change = NetworkChange::of(request)?;
        change.multus_namespace.clone_from(&self.settings.attachment.multus_namespace);
        Some(change)
    }

    fn evaluate_migration<'r>(
        &self,
        endpoint: Endpoint,
        request: &'r Request<'r>,
        start: MigrationStart<'r>,
    ) -> Evaluation<'r> {
        if endpoint == Endpoint::Mutate {
            return Evaluation::new(endpoint, request, Decision::Unhandled);
        }
        let facts = self.facts_for_migration(request, &start);
        let verdict = decide_migration(&start, &facts, self.settings);
        Evaluation::with_verdict(endpoint, request, verdict, false, || Basis::Migration(start, facts))
    }

    fn evaluate_network<'r>(
        &self,
        endpoint: Endpoint,
        request: &'r Request<'r>,
        change: NetworkChange<'r>,
    ) -> Evaluation<'r> {
        if endpoint == Endpoint::Mutate {
            return Evaluation::new(endpoint, request, Decision::Unhandled);
        }
        let facts = self.facts.facts_for_network(&change);
        let verdict = decide_network(&change, &facts, self.settings);
        Evaluation::with_verdict(endpoint, request, verdict, false, || Basis::Network(change, facts))
    }

    /// Returns the facts for the start of a migration; none if they are about the objects of another group.
    pub(super) fn facts_for_migration(&self, request: &Request, start: &MigrationStart) -> Facts {
        if self.has_facts_of(&request.kind) { self.facts.facts_for_migration(start) } else { Facts::default() }
    }

    /// Whether the facts are about objects of the group of this kind. A cluster may serve KubeVirt and a fork of it.
    #[must_use]
    pub fn has_facts_of(&self, kind: &GroupVersionKind) -> bool {
        self.facts.reads_group(&kind.group, ObjectKind::of(kind).group())
    }

    /// Returns the facts for a change. The request is newer than the facts: a request for a VMI gives its stored spec
    /// and its new status, and a request for a VM gives the whole VM.
    pub(super) fn facts_for(&self, change: &Change) -> Facts {
        let mut facts = self.facts.facts_for(change);
        if !self.has_facts_of(change.subject.gvk) {
            facts = facts.without_kubevirt();
        }
        let before = change.before.and_then(|before| before.vmi);
        if let (Some(before), Some(after)) = (before, change.after.vmi) {
            let kinds = facts.kubevirt.known().map(Arc::clone).unwrap_or_default();
            facts.vmi = Fact::Known(Arc::new(Vmi::of(before, after, &*kinds)));
        }
        if change.after.vmi.is_none() {
            facts.vm = Fact::Unknown;
        }
        facts
    }
}

/// Whether a request changes the NICs of a VM whose guest runs, and is stored if no other webhook refuses it. KubeVirt
/// itself writes the NICs of `status.interfaceRequests` to the template afterwards.
pub(super) fn is_of_running_vm(change: &Change, facts: &Facts) -> bool {
    !change.dry_run
        && !change.nics.is_empty()
        && change.after.vm.is_some()
        && change.before.is_some()
        && change.requests.is_none()
        && facts.live().known().is_some()
}

/// Whether a kind is of the group in which KubeVirt or Multus serves it.
fn is_of_kubevirt(kind: &GroupVersionKind) -> bool {
    kind.group.as_str() == ObjectKind::of(kind).group()
}

/// Applies the rules to a change.
pub(super) fn decide(change: &Change, facts: &Facts, settings: &Settings) -> Verdict {
    let policy = EnforcementPolicy::new(settings, facts, change.subject.namespace);
    let findings = rules::evaluate(&Case::new(change, facts, settings), |rule| policy.is_off(rule));
    verdict::decide(&findings, change, facts, &policy)
}

/// Applies the rules to the start of a migration.
pub(super) fn decide_migration(start: &MigrationStart, facts: &Facts, settings: &Settings) -> Verdict {
    let policy = EnforcementPolicy::new(settings, facts, start.namespace);
    let findings = rules::evaluate_migration(start, facts, settings, |rule| policy.is_off(rule));
    verdict::decide_without_restart(&findings, &policy)
}

/// Applies the rules to a change of a network.
pub(super) fn decide_network(change: &NetworkChange, facts: &Facts, settings: &Settings) -> Verdict {
    let policy = EnforcementPolicy::new(settings, facts, change.namespace);
    let findings = rules::evaluate_network(change, facts, |rule| policy.is_off(rule));
    verdict::decide_without_restart(&findings, &policy)
}

fn evaluate_fault<'r>(endpoint: Endpoint, request: &'r Request<'r>, fault: &InvalidField) -> Evaluation<'r> {
    // The API server calls mutating webhooks before it checks the schema, and the schema or /validate gives the better
    // message. A user cannot fix the stored object with this request.
    // No rule judges the fields of a network.
    let is_network = ObjectKind::of(&request.kind) == ObjectKind::Nad;
    if endpoint == Endpoint::Mutate || fault.in_old_object || is_network {
        return Evaluation::new(endpoint, request, Decision::Unhandled);
    }
    let message = format!("{}; write the field as the KubeVirt API defines it", fault.message);
    Evaluation::denied(endpoint, request, fault.field.clone(), message)
}

fn evaluate_oversize<'r>(
    endpoint: Endpoint,
    request: &'r Request<'r>,
    change: Change<'r>,
    part: Oversized,
) -> Evaluation<'r> {
    if endpoint == Endpoint::Mutate {
        return Evaluation::new(endpoint, request, Decision::Allowed);
    }
    let (field, message) = match part {
        Oversized::Nics(field) => {
            (field, format!("more than {MAX_NICS} entries, but a guest can have at most {MAX_NICS}; remove some"))
        }
        Oversized::Options(field) => {
            (field, format!("the interfaces have more than {MAX_OPTIONS} ports and DHCP options; remove some"))
        }
        Oversized::Name(field) => {
            (field, format!("the name has more than {MAX_NAME} bytes, the most that nicplug evaluates; shorten it"))
        }
    };
    Evaluation {
        basis: Some(Box::new(Basis::Oversize(change))),
        ..Evaluation::denied(endpoint, request, field, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{admission::parse, facts::Vm};

    /// A cluster that does not have the change yet.
    struct OldCluster;

    impl FactSource for OldCluster {
        fn facts_for(&self, _: &Change) -> Facts {
            Facts { vm: Fact::Known(Arc::new(Vm::default())), ..Facts::default() }
        }
    }

    fn review_of(kind: &str, object: &str) -> String {
        format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
            "operation": "CREATE", "kind": {{"group": "kubevirt.io", "kind": "{kind}"}},
            "userInfo": {{"username": "alice"}}, "object": {object}}}}}"#
        )
    }

    #[test]
    fn the_vm_of_a_request_replaces_the_one_of_the_cluster() {
        for (kind, is_of_cluster) in [("VirtualMachine", false), ("VirtualMachineInstance", true)] {
            let review = review_of(kind, "{}");
            let Ok(ParsedRequest::Valid(request)) = parse(review.as_bytes()) else { panic!("{review}") };
            let settings = Settings::default();
            let facts = Evaluator::new(&OldCluster, &settings).facts_for(&Change::of(&request).unwrap());
            assert_eq!(facts.vm.known().is_some(), is_of_cluster, "{kind}");
        }
    }

    #[test]
    fn a_group_of_a_fork_is_judged_only_if_the_settings_name_it_and_without_facts_about_guests() {
        let review = review_of("VirtualMachine", r#"{"spec": {"template": {"spec": {"networks": [{"name": "a"}]}}}}"#);
        let named = Settings::parse("api: {groups: {kubevirt.io: [kubevirt.example.com]}}", &[]).unwrap();
        for (group, settings, decision, kind) in [
            ("kubevirt.io", Settings::default(), Decision::Denied, ObjectKind::Vm),
            ("kubevirt.example.com", named.clone(), Decision::Denied, ObjectKind::Vm),
            ("kubevirt.example.com", Settings::default(), Decision::Unhandled, ObjectKind::Other),
            ("other.example.com", named.clone(), Decision::Unhandled, ObjectKind::Other),
        ] {
            let review = review.replace("kubevirt.io", group);
            let body = parse(review.as_bytes());
            let evaluation = Evaluator::new(&OldCluster, &settings).evaluate(Endpoint::Validate, &body);
            assert_eq!((evaluation.decision, evaluation.labels().kind), (decision, kind), "{group}");
        }
        // An object of another operator need not have the fields of a VM.
        let body = review_of("VirtualMachine", r#"{"spec": []}"#).replace("kubevirt.io", "vm.example.com");
        let body = parse(body.as_bytes());
        let settings = Settings::default();
        let evaluation = Evaluator::new(&OldCluster, &settings).evaluate(Endpoint::Validate, &body);
        assert_eq!(evaluation.decision, Decision::Unhandled);

        let review = review_of("VirtualMachineInstance", "{}").replace("kubevirt.io", "kubevirt.example.com");
        let Ok(ParsedRequest::Valid(request)) = parse(review.as_bytes()) else { panic!("{review}") };
        let facts = Evaluator::new(&OldCluster, &named).facts_for(&Change::of(&request).unwrap());
        assert_eq!((facts.vm, facts.vmi), (Fact::Unknown, Fact::Unknown));
    }

    /// The user and the message of a denied change.
    fn denied_change(networks: &str) -> Option<(String, String)> {
        let review = review_of("VirtualMachineInstance", &format!(r#"{{"spec": {{"networks": {networks}}}}}"#));
        let (body, settings) = (parse(review.as_bytes()), Settings::default());
        let evaluation = Evaluator::new(&OldCluster, &settings).evaluate(Endpoint::Validate, &body);
        evaluation.denied_change().map(|change| (change.user.to_owned(), evaluation.verdict().message()))
    }

    #[test]
    fn a_denial_keeps_its_change_and_its_message() {
        let (user, message) = denied_change(r#"[{"name": "a", "pod": {}}]"#).unwrap();
        assert_eq!(user, "alice");
        assert!(message.starts_with("spec.networks[0]") && message.ends_with("[NP004]"), "{message}");
        let (_, message) = denied_change(&format!("[{}]", vec![r#"{"name": "a"}"#; 300].join(","))).unwrap();
        assert!(message.starts_with("spec.networks: more than 255 entries"), "{message}");
        let named = |length: usize| denied_change(&format!(r#"[{{"name": "{}", "pod": {{}}}}]"#, "n".repeat(length)));
        let (_, message) = named(1024).unwrap();
        assert!(message.ends_with("[NP004]"), "{message}");
        let (_, message) = named(1025).unwrap();
        assert!(message.starts_with("spec.networks[0]: the name has more than 1024 bytes"), "{message}");
        assert_eq!(denied_change("[]"), None, "allowed");
        assert_eq!(denied_change("5"), None, "cannot be read");
    }
}
