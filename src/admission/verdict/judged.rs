//! The findings of a verdict one by one, for commands that show the field of each.

use super::{Cause, Effect, Restart, in_order, without_control_characters};
use crate::{
    admission::enforcement::EnforcementPolicy,
    change::Change,
    facts::{FactKind, Facts},
    rules::{Finding, FindingKind, Rule},
};

/// A finding, and what it does to the request.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The rule; `None` if the object cannot be read, or if the annotation of the namespace has no effect.
    pub rule: Option<&'static Rule>,
    /// The path of the field; empty if the finding is not about a field.
    pub field: String,
    /// What is wrong.
    pub what: String,
    /// How to fix it; empty for advice.
    pub fix: String,
    /// What the finding does to the request.
    pub severity: Severity,
    /// The kind of the unknown fact, if that is why something was not checked.
    pub missing: Option<FactKind>,
}

/// What a finding does to a request.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// It denies the request.
    Denied,
    /// The request is allowed with a warning.
    Warned,
    /// The request is allowed, and something was not checked.
    Unchecked,
}

/// Returns the findings on a change that the policy does not ignore.
pub(in crate::admission) fn of_change(
    findings: &[Finding],
    change: &Change,
    facts: &Facts,
    policy: &EnforcementPolicy,
) -> Vec<Judged> {
    of(findings, Restart::of(findings, change, facts, policy), policy)
}

/// Returns the findings on the start of a migration or on a change of a network that the policy does not ignore.
pub(in crate::admission) fn without_restart(findings: &[Finding], policy: &EnforcementPolicy) -> Vec<Judged> {
    of(findings, Restart::NotApplicable, policy)
}

/// Returns the causes of a denial that is not from a rule.
pub(in crate::admission) fn of_causes(causes: &[Cause]) -> Vec<Judged> {
    let judged = |cause: &Cause| {
        let (what, fix) = cause.message.split_once("; ").unwrap_or((&cause.message, ""));
        Judged { field: cause.field.clone(), fix: fix.to_owned(), ..without_rule(what, Severity::Denied) }
    };
    causes.iter().map(judged).collect()
}

fn of(findings: &[Finding], restart: Restart, policy: &EnforcementPolicy) -> Vec<Judged> {
    let of_namespace = policy.warning().map(|warning| without_rule(&warning, Severity::Warned));
    let judged = in_order(findings).filter_map(|finding| judge(finding, Effect::of(finding, restart, policy)));
    of_namespace.into_iter().chain(judged).collect()
}

fn judge(finding: &Finding, effect: Effect) -> Option<Judged> {
    let severity = match effect {
        Effect::Ignored => return None,
        Effect::Denies(_) => Severity::Denied,
        Effect::Warns if matches!(finding.kind, FindingKind::Unchecked | FindingKind::InternalError) => {
            Severity::Unchecked
        }
        Effect::NotDenied(_) | Effect::Postpones(_) | Effect::Warns => Severity::Warned,
    };
    Some(Judged {
        rule: Some(finding.rule),
        field: finding.field.clone(),
        what: without_control_characters(&finding.what).into_owned(),
        fix: without_control_characters(&finding.fix).into_owned(),
        severity,
        missing: finding.missing,
    })
}

fn without_rule(what: &str, severity: Severity) -> Judged {
    let (field, fix) = (String::new(), String::new());
    Judged { rule: None, field, what: what.to_owned(), fix, severity, missing: None }
}
