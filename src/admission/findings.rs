//! The findings behind a decision, for commands that show the place of each.

use super::{
    Decision, Endpoint, Evaluation, Evaluator,
    enforcement::EnforcementPolicy,
    verdict::judged::{self, Judged},
};
use crate::{
    change::MigrationStart,
    rules::{self, Case},
};

impl Evaluator<'_> {
    /// Returns the findings that made an evaluation deny or warn, in the order of the document. It applies the rules
    /// again, so only a command that shows them pays for it.
    #[must_use]
    pub fn findings(&self, evaluation: &Evaluation) -> Vec<Judged> {
        let is_judged = matches!(evaluation.decision(), Decision::Denied | Decision::Warned);
        let Some(request) = evaluation.request().filter(|_| is_judged && evaluation.endpoint() == Endpoint::Validate)
        else {
            return Vec::new();
        };
        if evaluation.verdict.denied_by.is_empty() && evaluation.verdict.warned_by.is_empty() {
            // The object cannot be read, or has too many NICs.
            return judged::of_causes(&evaluation.verdict.causes);
        }
        if let Some(start) = MigrationStart::of(request) {
            let facts = self.facts.facts_for_migration(&start);
            let policy = EnforcementPolicy::new(self.settings, &facts);
            let findings = rules::evaluate_migration(&start, &facts, self.settings, |rule| policy.is_off(rule));
            return judged::without_restart(&findings, policy);
        }
        let Some(change) = self.change_of(request) else { return Vec::new() };
        let facts = self.facts_for(&change);
        let policy = EnforcementPolicy::new(self.settings, &facts);
        let case = Case { change: &change, facts: &facts, settings: self.settings };
        judged::of_change(&rules::evaluate(&case, |rule| policy.is_off(rule)), &change, &facts, policy)
    }
}
