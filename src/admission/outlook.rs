//! What becomes of each NIC that an update of a VM changes, by the evaluation that answers the webhook: the same facts,
//! findings, enforcement and verdict.

use super::{
    Evaluator, ParsedBody,
    enforcement::EnforcementPolicy,
    verdict::{self, Verdict},
};
use crate::{
    api::{quote::quote, review::ParsedRequest},
    change::{Change, Nic},
    facts::Facts,
    rules::{self, Case, Finding, FindingKind, FreePorts, NicChange, Scope, Timing, free_ports, timings},
    settings::Enforcement,
};

/// The rule about changes that wait for a restart; it warns by default.
const LIVE_CHANGE: &str = "live-change";

/// The result of a change, NIC by NIC.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The answer of the webhook.
    pub verdict: Verdict,
    /// The NICs that the change adds, modifies or removes.
    pub nics: Vec<NicOutlook>,
    /// The findings that are about no single NIC.
    pub others: Vec<Reason>,
    /// The free ports of the guest.
    pub ports: FreePorts,
}

/// The result of a change for one NIC.
#[derive(Clone, Debug)]
pub struct NicOutlook {
    /// The name of the NIC.
    pub name: String,
    /// What the change does to it.
    pub change: NicChange,
    /// When that reaches the guest; without meaning if the change is [denied](Self::denials).
    pub timing: Timing,
    /// What the rules found about it.
    pub reasons: Vec<Reason>,
}

impl NicOutlook {
    /// Returns the reasons for which the webhook denies the change of this NIC.
    pub fn denials(&self) -> impl Iterator<Item = &Reason> {
        self.reasons.iter().filter(|reason| reason.weight == Weight::Denied)
    }
}

/// A finding of a rule, with its enforcement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reason {
    /// The rule.
    pub rule: &'static str,
    /// The requests that the rule covers.
    pub scope: Scope,
    /// How it counts.
    pub weight: Weight,
    /// What was found.
    pub what: String,
    /// How to fix it; empty for advice.
    pub fix: String,
}

/// How a finding counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Weight {
    /// The webhook denies the change for it.
    Denied,
    /// It is a fault, and the webhook warns of it.
    Warned,
    /// It is advice.
    Advice,
    /// Something was not checked.
    Unchecked,
}

impl Evaluator<'_> {
    /// Evaluates the update of a VM NIC by NIC; `None` for another request, or if an object cannot be read.
    #[must_use]
    pub fn outlook(&self, body: &ParsedBody) -> Option<Outlook> {
        let Ok(ParsedRequest::Valid(request)) = body else { return None };
        let change = self.change_of(request).filter(|change| change.after.vm.is_some() && change.before.is_some())?;
        let facts = self.facts_for(&change);
        Some(self.outlook_of(&change, &facts))
    }

    fn outlook_of(&self, change: &Change, facts: &Facts) -> Outlook {
        let case = Case { change, facts, settings: self.settings };
        let policy = EnforcementPolicy::new(self.settings, facts, change.subject.namespace);
        let findings = rules::evaluate(&case, |rule| policy.is_off(rule));
        let verdict = verdict::decide(&findings, change, facts, policy);
        let mut others: Vec<&Finding> = findings.iter().collect();
        let mut nics = Vec::new();
        for (nic, nic_change, timing) in timings(&case) {
            let (own, rest) = others.into_iter().partition(|finding| is_about(finding, change, &nic));
            others = rest;
            let reasons: Vec<Reason> = own.into_iter().filter_map(|found| reason(found, policy, &verdict)).collect();
            let timing = overruled(timing, &reasons);
            nics.push(NicOutlook { name: nic.name.to_owned(), change: nic_change, timing, reasons });
        }
        let others = others.into_iter().filter_map(|found| reason(found, policy, &verdict)).collect();
        Outlook { verdict, nics, others, ports: free_ports(&case) }
    }
}

/// Whether a finding is about a NIC: it points at its interface or its network, or it names the NIC and points at the
/// whole list.
fn is_about(finding: &Finding, change: &Change, nic: &Nic) -> bool {
    let is_below = |path: String| {
        let rest = finding.field.strip_prefix(path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let is_removed = change.nics.removed.iter().any(|removed| removed.name == nic.name);
    if !is_removed
        && (nic.interface.is_some_and(|entry| is_below(change.interface_field(entry.index)))
            || nic.network.is_some_and(|entry| is_below(change.network_field(entry.index))))
    {
        return true;
    }
    !finding.field.ends_with(']')
        && !finding.field.contains("].")
        && finding.what.contains(&quote(nic.name).to_string())
}

/// Returns a finding as the policy weighs it; `None` if its rule is off.
fn reason(finding: &Finding, policy: EnforcementPolicy, verdict: &Verdict) -> Option<Reason> {
    // A rule of a change that waits for a restart, or that virt-controller makes, does not deny it.
    let denies = verdict.denied_by.ids().any(|id| id == finding.rule.id);
    let weight = match (finding.kind, policy.for_finding(finding)) {
        (_, Enforcement::Off) => return None,
        (FindingKind::Certain(_) | FindingKind::Fault(_), Enforcement::Deny) if denies => Weight::Denied,
        (FindingKind::Certain(_) | FindingKind::Fault(_), _) => Weight::Warned,
        (FindingKind::Advice, _) => Weight::Advice,
        (FindingKind::InternalError, Enforcement::Deny) if denies => Weight::Denied,
        (FindingKind::InternalError | FindingKind::Unchecked, _) => Weight::Unchecked,
    };
    let Finding { rule, what, fix, .. } = finding;
    Some(Reason { rule: rule.id, scope: rule.scope, weight, what: what.clone(), fix: fix.clone().into_owned() })
}

/// Returns the timing, or that of a fault which only warns here: of a rule about what a running guest cannot do, whose
/// change waits for the restart. Faults of the other rules warn of something else, such as a lost address.
fn overruled(timing: Timing, reasons: &[Reason]) -> Timing {
    if matches!(timing, Timing::AtStart | Timing::AtRestart(_)) {
        return timing;
    }
    let waits = |reason: &&Reason| {
        let rule =
            rules::find(reason.rule).filter(|rule| rule.scope == Scope::Hotplug && reason.weight == Weight::Warned);
        rule.is_some_and(|rule| rule.enforcement == Enforcement::Deny || rule.name == LIVE_CHANGE)
    };
    let fault = reasons.iter().find(waits);
    fault.map_or(timing, |fault| Timing::AtRestart(fault.what.clone()))
}
