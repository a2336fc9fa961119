//! The whole way of a request: bytes → review → change → rules → verdict → patch → bytes.

mod denial;
mod recheck;
pub mod verdict;

use std::sync::Arc;

use arc_swap::Guard;
use json_patch::{Patch, PatchOperation};
use serde::Serialize;

use self::verdict::{
    Cause, Verdict,
    sets::{FactSet, RuleSet},
};
pub use self::{
    denial::Denial,
    recheck::{FactDependencies, Recheck},
};
use crate::{
    api::review::{
        self, BodyError, Failure, InvalidField, ObjectKind, Operation, ParsedRequest, Request, Response,
        ResponseReview, Status, StatusCause, StatusDetails,
    },
    change::{Change, MAX_NICS, MigrationStart},
    facts::{Fact, FactSource, Facts, Vmi},
    mutations,
    rules::{self, Case, CauseType, Enforcing},
    settings::{CurrentSettings, Settings},
};

/// Which of the two webhooks was called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// `/validate`: may deny and warn.
    Validate,
    /// `/mutate`: may patch.
    Mutate,
}

impl Endpoint {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Validate, Self::Mutate];

    /// As logs and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Mutate => "mutate",
        }
    }
}

/// What goes back to the API server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The HTTP status: 200 for every review that could be answered, 400 for a body that is none.
    pub status: u16,
    /// The body, `application/json`.
    pub body: Vec<u8>,
    /// What it says, to be counted.
    pub decision: Decision,
    /// What it is about, to be counted too.
    pub labels: DecisionLabels,
}

/// What a request was, and who had something to say about it: a few numbers that cost an answer nothing to carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DecisionLabels {
    /// The kind of its objects.
    pub kind: ObjectKind,
    /// What was to be done with them.
    pub operation: Operation,
    /// The rules that deny it.
    pub denied_by: RuleSet,
    /// The rules that warn.
    pub warned_by: RuleSet,
    /// Which facts were wanted, and not known.
    pub unknown: FactSet,
}

impl DecisionLabels {
    /// Of a request of which nothing is known.
    const NONE: Self = Self {
        kind: ObjectKind::Other,
        operation: Operation::Other,
        denied_by: RuleSet::NONE,
        warned_by: RuleSet::NONE,
        unknown: FactSet::NONE,
    };

    fn of(request: &Request, verdict: &Verdict) -> Self {
        Self {
            kind: ObjectKind::of(&request.kind),
            operation: request.operation,
            denied_by: verdict.denied_by,
            warned_by: verdict.warned_by,
            unknown: verdict.unknown,
        }
    }
}

/// What an answer says.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Decision {
    /// The request goes on as it is.
    Allowed,
    /// The request is refused.
    Denied,
    /// The body was no AdmissionReview request.
    Malformed,
    /// The request goes on, changed.
    Patched,
    /// A kind, operation or subresource that nicplug does not judge: allowed.
    Unhandled,
    /// The request goes on as it is, with something that its user should read.
    Warned,
}

impl Decision {
    /// Every outcome.
    pub const ALL: [Self; 6] =
        [Self::Allowed, Self::Denied, Self::Malformed, Self::Patched, Self::Unhandled, Self::Warned];

    /// As logs and metrics write it.
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

/// Judges requests with the facts and settings that it was given. Settings may be replaced while it does.
#[derive(Clone)]
pub struct Reviewer {
    facts: Arc<dyn FactSource>,
    settings: CurrentSettings,
}

impl Reviewer {
    /// A reviewer over a source of facts.
    #[must_use]
    pub fn new(facts: Arc<dyn FactSource>, settings: impl Into<CurrentSettings>) -> Self {
        Self { facts, settings: settings.into() }
    }

    /// Answers the body of a request. Takes microseconds, never waits and never fails: every body has an answer.
    #[must_use]
    pub fn review(&self, endpoint: Endpoint, body: &[u8]) -> Answer {
        self.evaluator(&self.settings()).review(endpoint, body)
    }

    /// The settings of now, for a [`hearing`](Self::hearing).
    #[must_use]
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Hears one request, to its end under these settings.
    #[must_use]
    pub fn evaluator<'h>(&'h self, settings: &'h Settings) -> Evaluator<'h> {
        Evaluator { facts: self.facts.as_ref(), settings }
    }
}

/// A reviewer with one request before it: settings that are replaced meanwhile are for the next one.
#[derive(Clone, Copy)]
pub struct Evaluator<'h> {
    facts: &'h dyn FactSource,
    settings: &'h Settings,
}

impl Evaluator<'_> {
    /// As [`Reviewer::review`].
    #[must_use]
    pub fn review(&self, endpoint: Endpoint, body: &[u8]) -> Answer {
        match review::read(body) {
            Ok(ParsedRequest::Valid(request)) => self.evaluate(endpoint, &request),
            Ok(ParsedRequest::Invalid(request, fault)) => answer_fault(endpoint, &request, &fault),
            Err(error) => answer_malformed(&error),
        }
    }

    fn evaluate(&self, endpoint: Endpoint, request: &Request) -> Answer {
        if let Some(start) = MigrationStart::of(request) {
            return self.evaluate_migration(endpoint, request, &start);
        }
        if request.is_unchanged {
            return respond(request, &Verdict::default(), None, Decision::Allowed);
        }
        let Some(change) = Change::of(request) else {
            return respond(request, &Verdict::default(), None, Decision::Unhandled);
        };
        if change.is_irrelevant() {
            return respond(request, &Verdict::default(), None, Decision::Allowed);
        }
        if let Some((field, count)) = change.oversized_list() {
            return answer_oversize(endpoint, request, field, count);
        }
        match endpoint {
            Endpoint::Validate => {
                let verdict = evaluate(&change, &self.facts_for(&change), self.settings);
                respond(request, &verdict, None, Decision::of(&verdict))
            }
            // The API server drops a patch of a status that reaches beyond it, and tells nobody.
            Endpoint::Mutate if change.requests.is_some() => {
                respond(request, &Verdict::default(), None, Decision::Allowed)
            }
            Endpoint::Mutate => match self.repairs(&change) {
                repairs if repairs.is_empty() => respond(request, &Verdict::default(), None, Decision::Allowed),
                repairs => respond(request, &Verdict::default(), Some(&Patch(repairs)), Decision::Patched),
            },
        }
    }

    fn evaluate_migration(&self, endpoint: Endpoint, request: &Request, start: &MigrationStart) -> Answer {
        if endpoint == Endpoint::Mutate {
            return respond(request, &Verdict::default(), None, Decision::Unhandled);
        }
        let verdict = evaluate_migration(start, &self.facts.facts_for_migration(start), self.settings);
        respond(request, &verdict, None, Decision::of(&verdict))
    }

    fn repairs(&self, change: &Change) -> Vec<PatchOperation> {
        let facts = self.facts_for(change);
        mutations::repairs(&mutations::Case { change, facts: &facts, settings: self.settings })
    }

    /// The facts for a change; what the request itself tells wins over what was known before: of an instance the spec
    /// that is stored and the status that is new, and of a VM all.
    fn facts_for(&self, change: &Change) -> Facts {
        let mut facts = self.facts.facts_for(change);
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

/// The judgement: pure, and the same for the server, for commands and for tests.
#[must_use]
pub fn evaluate(change: &Change, facts: &Facts, settings: &Settings) -> Verdict {
    let enforcing = Enforcing::new(settings, facts);
    verdict::decide(&rules::evaluate(&Case { change, facts, settings }, enforcing), change, enforcing)
}

fn evaluate_migration(start: &MigrationStart, facts: &Facts, settings: &Settings) -> Verdict {
    let enforcing = Enforcing::new(settings, facts);
    verdict::decide_migration(&rules::evaluate_migration(start, facts, settings, enforcing), enforcing)
}

fn answer_fault(endpoint: Endpoint, request: &Request, fault: &InvalidField) -> Answer {
    // A mutating webhook runs before the schema is checked: the schema, or /validate, says it better. And what is
    // wrong in the stored object is not the user's to mend now.
    if endpoint == Endpoint::Mutate || fault.in_old_object {
        return respond(request, &Verdict::default(), None, Decision::Unhandled);
    }
    let message = format!("{}; write the field as the KubeVirt API has it", fault.message);
    deny(request, fault.field.clone(), message)
}

fn answer_oversize(endpoint: Endpoint, request: &Request, field: String, count: usize) -> Answer {
    if endpoint == Endpoint::Mutate {
        return respond(request, &Verdict::default(), None, Decision::Allowed);
    }
    let message = format!("{count} entries, and no guest has room for more than {MAX_NICS}; take some out");
    deny(request, field, message)
}

/// A denial that is no rule's.
fn deny(request: &Request, field: String, message: String) -> Answer {
    let cause = Cause { reason: CauseType::Invalid, field, message };
    let verdict = Verdict { causes: vec![cause], ..Verdict::default() };
    respond(request, &verdict, None, Decision::Denied)
}

fn answer_malformed(error: &BodyError) -> Answer {
    #[derive(Serialize)]
    struct Refusal {
        error: String,
    }

    let body = to_json(&Refusal { error: error.to_string() });
    Answer { status: 400, body, decision: Decision::Malformed, labels: DecisionLabels::NONE }
}

fn respond(request: &Request, verdict: &Verdict, patch: Option<&Patch>, decision: Decision) -> Answer {
    let labels = DecisionLabels::of(request, verdict);
    if verdict.is_allowed() && patch.is_none() && verdict.warnings.is_empty() {
        return Answer { status: 200, body: review::allowed_response(&request.uid), decision, labels };
    }
    let response = Response {
        uid: &request.uid,
        allowed: verdict.is_allowed(),
        status: status(request, verdict),
        patch,
        warnings: &verdict.warnings,
    };
    Answer { status: 200, body: to_json(&ResponseReview::new(&response)), decision, labels }
}

fn status<'r>(request: &'r Request, verdict: &'r Verdict) -> Status<'r> {
    if verdict.is_allowed() {
        return Status { code: 200, failure: None };
    }
    let causes = verdict.causes.iter().map(|cause| StatusCause {
        reason: cause.reason.as_str(),
        message: &cause.message,
        field: &cause.field,
    });
    let details = StatusDetails {
        group: &request.kind.group,
        kind: &request.kind.kind,
        name: &request.name,
        causes: causes.collect(),
    };
    let failure = Failure { reason: "Invalid", message: verdict.message(), details };
    Status { code: 422, failure: Some(failure) }
}

/// What most answers have room in, in bytes.
const ANSWER_LENGTH: usize = 192;

fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(ANSWER_LENGTH);
    // Strings, numbers and lists of them always have a JSON form; there is nothing here that could fail.
    let _ = serde_json::to_writer(&mut text, value);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{facts::Vm, settings::Enforcement};

    /// A cluster that has not heard of the change yet.
    struct Late;

    impl FactSource for Late {
        fn facts_for(&self, _: &Change) -> Facts {
            Facts { vm: Fact::Known(Arc::new(Vm::default())), ..Facts::default() }
        }
    }

    #[test]
    fn a_hearing_goes_on_under_the_settings_that_it_began_with() {
        let review = r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "CREATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachineInstance"},
            "object": {"spec": {"networks": [{"name": "a", "pod": {}}]}}}}"#;
        let current = CurrentSettings::default();
        let reviewer = Reviewer::new(Arc::new(Late), current.clone());
        let settings = reviewer.settings();
        let evaluator = reviewer.evaluator(&settings);
        assert_eq!(evaluator.review(Endpoint::Validate, review.as_bytes()).decision, Decision::Denied);
        current.replace(Settings::default().with_rule("NP004", Enforcement::Warn));
        assert_eq!(evaluator.review(Endpoint::Validate, review.as_bytes()).decision, Decision::Denied);
        assert_eq!(reviewer.review(Endpoint::Validate, review.as_bytes()).decision, Decision::Warned);
    }

    #[test]
    fn of_a_vm_the_request_knows_more_than_the_cluster_does() {
        for (kind, is_of_cluster) in [("VirtualMachine", false), ("VirtualMachineInstance", true)] {
            let review = format!(
                r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
                    "operation": "CREATE", "kind": {{"group": "kubevirt.io", "kind": "{kind}"}}, "object": {{}}}}}}"#
            );
            let ParsedRequest::Valid(request) = review::read(review.as_bytes()).unwrap() else { panic!("{review}") };
            let reviewer = Reviewer::new(Arc::new(Late), Settings::default());
            let facts = reviewer.evaluator(&Settings::default()).facts_for(&Change::of(&request).unwrap());
            assert_eq!(facts.vm.known().is_some(), is_of_cluster, "{kind}");
        }
    }
}
