//! The admission of one request in three steps: [`parse`] reads the body, [`Evaluator::evaluate`] applies the rules or
//! the mutations, and [`Evaluation::render`] writes the body of the answer.
//!
//! Each body is parsed once. The [`Evaluation`] holds everything that a server logs, counts and reports, so that no
//! code reads the answer again. A denial that depends on the cluster can be evaluated again with newer facts; see
//! [`Evaluator::recheck`].
//!
//! [`policies`] has the rules that an API server can evaluate itself.

mod enforcement;
mod evaluation;
mod findings;
mod outlook;
mod patch;
mod patching;
pub mod policies;
mod recheck;
mod render;
pub mod verdict;

use std::sync::Arc;

use arc_swap::Guard;

pub use self::{
    evaluation::{Decision, DecisionLabels, Evaluation, Evaluator},
    outlook::{NicOutlook, Outlook, Reason, Weight},
    recheck::{FactDependencies, Recheck},
    verdict::judged::{Judged, Severity},
};
use crate::{
    api::review::{self, BodyError, ParsedRequest},
    facts::FactSource,
    settings::{CurrentSettings, Settings},
};

/// One of the two webhooks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// `/validate`: can deny and warn.
    Validate,
    /// `/mutate`: can patch.
    Mutate,
}

impl Endpoint {
    /// Both endpoints.
    pub const ALL: [Self; 2] = [Self::Validate, Self::Mutate];

    /// Returns the name for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Mutate => "mutate",
        }
    }
}

/// The body of an HTTP request after [`parse`]: a request, or the reason why the body has none.
pub type ParsedBody<'b> = Result<ParsedRequest<'b>, BodyError>;

/// Reads the body of an HTTP request.
///
/// # Errors
/// See [`BodyError`]. It can be evaluated too: the answer is HTTP 400.
pub fn parse(body: &[u8]) -> ParsedBody<'_> {
    review::read(body)
}

/// The answer to the API server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The HTTP status: 200 for each AdmissionReview, 400 for any other body.
    pub status: u16,
    /// The body, `application/json`.
    pub body: Vec<u8>,
    /// The decision in the body.
    pub decision: Decision,
}

/// Reviews requests with a source of facts and with settings, which can be replaced at any time.
#[derive(Clone)]
pub struct Reviewer {
    facts: Arc<dyn FactSource>,
    settings: CurrentSettings,
}

impl Reviewer {
    /// Returns a reviewer with a source of facts.
    #[must_use]
    pub fn new(facts: Arc<dyn FactSource>, settings: impl Into<CurrentSettings>) -> Self {
        Self { facts, settings: settings.into() }
    }

    /// Answers the body of a request: all three steps in one call. It takes microseconds, does not wait and does not
    /// fail, because each body has an answer.
    ///
    /// Never inlined: `benches/instructions.py` counts the instructions between its call and its return.
    #[must_use]
    #[inline(never)]
    pub fn review(&self, endpoint: Endpoint, body: &[u8]) -> Answer {
        let body = parse(body);
        let evaluation = self.evaluator(&self.settings()).evaluate(endpoint, &body);
        Answer { status: evaluation.http_status(), body: evaluation.render(), decision: evaluation.decision() }
    }

    /// Returns the present settings, for an [`evaluator`](Self::evaluator).
    #[must_use]
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Returns an evaluator with fixed settings: settings that are replaced meanwhile apply to later requests.
    #[must_use]
    pub fn evaluator<'e>(&'e self, settings: &'e Settings) -> Evaluator<'e> {
        Evaluator::new(self.facts.as_ref(), settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{change::Change, facts::Facts, settings::Enforcement};

    /// A cluster about which nothing is known.
    struct Unknown;

    impl FactSource for Unknown {
        fn facts_for(&self, _: &Change) -> Facts {
            Facts::default()
        }
    }

    #[test]
    fn a_panic_in_a_rule_costs_only_the_verdict_of_that_rule() {
        let body = parse(
            br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "CREATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachineInstance"},
            "object": {"spec": {"networks": [{"name": "a", "pod": {}}]}}}}"#,
        );
        let evaluate = |settings: &str| {
            let settings = Settings::parse(settings, &crate::rules::ids()).unwrap();
            let evaluation = Evaluator::new(&Unknown, &settings).evaluate(Endpoint::Validate, &body);
            let labels = evaluation.labels();
            let ids = |set: verdict::sets::RuleSet| set.ids().collect::<Vec<_>>();
            (ids(labels.denied_by), ids(labels.failed), String::from_utf8(evaluation.render()).unwrap())
        };
        let (denied_by, failed, _) = evaluate("");
        assert_eq!((denied_by, failed), (vec!["NP004"], vec![]));
        {
            let _guard = crate::rules::testing::panic_in("NP003");
            let (denied_by, failed, text) = evaluate("");
            assert_eq!((denied_by, failed), (vec!["NP004"], vec!["NP003"]));
            assert!(text.contains("internal error in NP003: the rule was not checked [NP003]"), "{text}");
        }
        let _guard = crate::rules::testing::panic_in("NP004");
        let (denied_by, failed, text) = evaluate("");
        assert_eq!((denied_by, failed), (vec![], vec!["NP004"]), "{text}");
        let (denied_by, failed, text) = evaluate("internalErrors: deny");
        assert_eq!((denied_by, failed), (vec!["NP004"], vec!["NP004"]));
        assert!(text.contains("internal error in NP004: the rule was not checked; report the error"), "{text}");
    }

    #[test]
    fn an_evaluator_keeps_its_settings_until_it_is_dropped() {
        let body = parse(
            br#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u",
            "operation": "CREATE", "kind": {"group": "kubevirt.io", "kind": "VirtualMachineInstance"},
            "object": {"spec": {"networks": [{"name": "a", "pod": {}}]}}}}"#,
        );
        let current = CurrentSettings::default();
        let reviewer = Reviewer::new(Arc::new(Unknown), current.clone());
        let settings = reviewer.settings();
        let evaluator = reviewer.evaluator(&settings);
        assert_eq!(evaluator.evaluate(Endpoint::Validate, &body).decision(), Decision::Denied);
        current.replace(Settings::default().with_rule("NP004", Enforcement::Warn));
        assert_eq!(evaluator.evaluate(Endpoint::Validate, &body).decision(), Decision::Denied);
        let settings = reviewer.settings();
        assert_eq!(reviewer.evaluator(&settings).evaluate(Endpoint::Validate, &body).decision(), Decision::Warned);
    }
}
