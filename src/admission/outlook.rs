//! What becomes of each NIC that an update of a VM changes, by the evaluation that answers the webhook: the same facts,
//! findings, enforcement and verdict.

use std::collections::BTreeSet;

use super::{
    Evaluation, Evaluator, ParsedBody,
    enforcement::EnforcementPolicy,
    evaluation::{Basis, is_of_running_vm},
    verdict::{self, Effect, Restart, Verdict},
};
use crate::{
    api::{quote::quote, review::ParsedRequest},
    change::{Change, Nic},
    facts::{Facts, kubevirt::AutoMigration},
    rules::{self, AtRestart, Case, Finding, FindingKind, FreePorts, NicChange, Scope, Timing, free_ports, timings},
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

    /// Whether the change waits for the next restart, or never comes, because of what a rule found.
    #[must_use]
    pub fn is_postponed(&self) -> bool {
        self.reasons.iter().any(|reason| reason.weight == Weight::Postponed)
    }

    /// Returns when the change reaches the guest, and why.
    #[must_use]
    pub fn sentence(&self) -> String {
        let cited = |reason: &Reason| format!("{} [{}]", reason.what, reason.rule);
        let denials: Vec<String> = self.denials().map(cited).collect();
        if !denials.is_empty() {
            return format!("never: {}", denials.join("; "));
        }
        let fails = |reason: &&Reason| reason.weight == Weight::Postponed && reason.at_restart == AtRestart::Fails;
        if let Some(reason) = self.reasons.iter().find(fails) {
            return format!("never, and the VM does not start with it: {}", cited(reason));
        }
        match (&self.timing, self.change) {
            (Timing::AtOnce, NicChange::Add) => "at once: Multus attaches it to the running pod".to_owned(),
            (Timing::AtOnce, NicChange::Modify) => "at once".to_owned(),
            (Timing::AtOnce, NicChange::Remove) => "at once, as soon as the guest releases it".to_owned(),
            (Timing::OnSomeNodes { ready, desired }, _) => format!(
                "at once if the guest is on one of the {ready} of {desired} nodes where Multus' dynamic-networks \
                 controller is ready, otherwise by a live migration"
            ),
            (Timing::ByMigration(AutoMigration::On), _) => "by a live migration, which KubeVirt starts".to_owned(),
            (Timing::ByMigration(AutoMigration::Off(setting)), _) => {
                format!("by a live migration, which a user must start: KubeVirt lacks {setting}")
            }
            (Timing::ByMigration(AutoMigration::TooOld(version)), _) => {
                format!("by a live migration, which a user must start: KubeVirt {version} starts none")
            }
            (Timing::ByMigration(AutoMigration::ShutDown), _) => {
                "at the next start: KubeVirt shuts the guest down, because workloadUpdateMethods has Evict".to_owned()
            }
            (Timing::ByMigration(AutoMigration::Unknown), _) => {
                "by a live migration; whether KubeVirt starts it is not known".to_owned()
            }
            (Timing::AtRestart(why), _) => format!("at the next restart: {why}"),
            (Timing::AtStart, _) => "at the next start: the VM does not run".to_owned(),
            (Timing::Unchanged, NicChange::Remove) => "nothing to do: the guest does not have it".to_owned(),
            (Timing::Unchanged, _) => "nothing to do: the running guest is so already".to_owned(),
            (Timing::Unknown(why), _) => format!("not known: {why}"),
        }
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
    /// What the next restart does, if it is a fault of a rule of scope hotplug.
    pub at_restart: AtRestart,
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
    /// It is a fault for which the change waits for the next restart instead of being denied.
    Postponed,
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
        Some(self.with_findings(&change, &facts, |case, findings, restart, policy| {
            let (nics, others) = by_nic(case, findings, restart, policy);
            Outlook { verdict: verdict::combine(findings, restart, policy), nics, others, ports: free_ports(case) }
        }))
    }

    /// Returns the change of the NICs of a running VM that an evaluation allowed, and what becomes of each NIC; `None`
    /// for another decision, or if the guest is as the change wants it already.
    #[must_use]
    pub fn foresee<'e, 'r>(&self, evaluation: &'e Evaluation<'r>) -> Option<(&'e Change<'r>, Vec<NicOutlook>)> {
        let Basis::Change(change, facts) = evaluation.basis.as_deref()? else { return None };
        if !evaluation.verdict.is_allowed() || !is_of_running_vm(change, facts) {
            return None;
        }
        let (nics, _) = self.with_findings(change, facts, by_nic);
        let is_change = nics.iter().any(|nic| nic.timing != Timing::Unchanged);
        is_change.then_some((change, nics))
    }

    /// Applies the rules, and returns what a function makes of their findings.
    fn with_findings<T>(
        &self,
        change: &Change,
        facts: &Facts,
        make: impl FnOnce(&Case, &[Finding], Restart, &EnforcementPolicy) -> T,
    ) -> T {
        let case = Case::new(change, facts, self.settings);
        let policy = EnforcementPolicy::new(self.settings, facts, change.subject.namespace);
        let findings = rules::evaluate(&case, |rule| policy.is_off(rule));
        make(&case, &findings, Restart::of(&findings, change, facts, &policy), &policy)
    }
}

/// Returns what becomes of each NIC, and the findings about no single NIC.
fn by_nic(
    case: &Case,
    findings: &[Finding],
    restart: Restart,
    policy: &EnforcementPolicy,
) -> (Vec<NicOutlook>, Vec<Reason>) {
    let reason = |finding: &Finding| reason(finding, Effect::of(finding, restart, policy));
    let mut others: Vec<&Finding> = findings.iter().collect();
    let mut nics = Vec::new();
    let removed: BTreeSet<&str> = case.change.nics.removed.iter().map(|nic| nic.name).collect();
    for (nic, nic_change, timing) in timings(case) {
        let marks = NicMarks::of(case.change, &nic, removed.contains(nic.name));
        let (own, rest) = others.into_iter().partition(|finding| marks.are_in(finding));
        others = rest;
        let reasons: Vec<Reason> = own.into_iter().filter_map(reason).collect();
        let timing = overruled(timing, &reasons);
        nics.push(NicOutlook { name: nic.name.to_owned(), change: nic_change, timing, reasons });
    }
    (nics, others.into_iter().filter_map(reason).collect())
}

/// How a finding shows that it is about a NIC. They are written once, and compared with each finding.
struct NicMarks {
    /// The fields of its interface and its network in the new object.
    fields: [Option<String>; 2],
    /// Its name, as messages quote it.
    quoted: String,
}

impl NicMarks {
    fn of(change: &Change, nic: &Nic, is_removed: bool) -> Self {
        let interface = nic.interface.map(|entry| change.interface_field(entry.index));
        let network = nic.network.map(|entry| change.network_field(entry.index));
        // The indices of a removed NIC are those of the stored object.
        let fields = if is_removed { [None, None] } else { [interface, network] };
        Self { fields, quoted: quote(nic.name).to_string() }
    }

    /// Whether a finding points at the interface or the network, or names the NIC and points at the whole list.
    fn are_in(&self, finding: &Finding) -> bool {
        let is_below = |path: &String| {
            let rest = finding.field.strip_prefix(path.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.fields.iter().flatten().any(is_below)
            || !finding.field.ends_with(']') && !finding.field.contains("].") && finding.what.contains(&self.quoted)
    }
}

/// Returns a finding with what it does to the request; `None` if its rule is off.
fn reason(finding: &Finding, effect: Effect) -> Option<Reason> {
    let weight = match (effect, finding.kind) {
        (Effect::Ignored, _) => return None,
        (Effect::Denies(_), _) => Weight::Denied,
        (Effect::Postpones(_), _) => Weight::Postponed,
        (Effect::NotDenied(_), _) | (Effect::Warns, FindingKind::Certain(_) | FindingKind::Fault(_)) => Weight::Warned,
        (Effect::Warns, FindingKind::Advice) => Weight::Advice,
        (Effect::Warns, FindingKind::InternalError | FindingKind::Unchecked) => Weight::Unchecked,
    };
    let Finding { rule, what, fix, at_restart, .. } = finding;
    let (what, fix) = (what.clone(), fix.clone().into_owned());
    Some(Reason { rule: rule.id, scope: rule.scope, weight, at_restart: *at_restart, what, fix })
}

/// Returns the timing, or that of a fault which denies nothing here: of a rule about what a running guest cannot do,
/// whose change waits for the restart. Faults of the other rules warn of something else, such as a lost address.
fn overruled(timing: Timing, reasons: &[Reason]) -> Timing {
    if matches!(timing, Timing::AtStart | Timing::AtRestart(_)) {
        return timing;
    }
    let waits = |reason: &&Reason| match reason.weight {
        Weight::Postponed => true,
        Weight::Warned if reason.scope == Scope::Hotplug => rules::find(reason.rule)
            .is_some_and(|rule| rule.enforcement == Enforcement::Deny || rule.name == LIVE_CHANGE),
        _ => false,
    };
    let fault = reasons.iter().find(waits);
    fault.map_or(timing, |fault| Timing::AtRestart(fault.what.clone()))
}
