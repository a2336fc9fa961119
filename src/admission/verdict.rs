//! The verdict: the result of the findings and of the enforcement of their rules.

pub mod judged;
mod postponed;
pub mod sets;

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

pub use self::postponed::Postponed;
use self::sets::{FactSet, RuleSet};
use super::enforcement::EnforcementPolicy;
use crate::{
    annotations::keys::ON_RESTART,
    api::{quote::cut, review::ObjectKind},
    change::Change,
    facts::{Fact, Facts},
    rules::{AtRestart, CauseType, Finding, FindingKind, Rule, Scope},
    settings::{Enforcement, LiveChanges},
};

/// The maximum length of a warning in characters: Kubernetes recommends 120, and may cut longer ones at 256. The answer
/// adds the name of the object.
pub const WARNING_LENGTH: usize = 120;

/// The maximum number of causes in one answer. A user fixes ten at a time; a hostile object has a million.
const MAX_CAUSES: usize = 100;

/// The maximum length of all causes in one answer, in bytes of JSON: with the rest of the answer they stay below 64 KiB.
const CAUSES_LENGTH: usize = 44 << 10;

/// The maximum length of the message of one cause in characters: longer than any text of a rule.
const MESSAGE_LENGTH: usize = 1000;

/// The maximum number of warnings in one answer: Kubernetes cuts them at 4096 characters in total, those of the names
/// included.
const MAX_WARNINGS: usize = 20;

/// How a user lets a change wait that cannot be made to the running VM. It follows the fix.
pub(super) const WAIT_ADVICE: &str =
    "; to let it wait for the next restart, annotate the VM with nicplug.io/apply=on-restart";

/// The result of the rules for a request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// The causes of the denial, in the order of the document; none if the request is allowed.
    pub causes: Vec<Cause>,
    /// The causes for which another user would be denied: virt-controller retries a denied request without limit.
    pub not_denied: Vec<Cause>,
    /// The faults of a change that waits for the next restart of the VM.
    pub postponed: Postponed,
    /// The warnings for the user.
    pub warnings: Vec<String>,
    /// The rules that deny the request.
    pub denied_by: RuleSet,
    /// The rules that warn.
    pub warned_by: RuleSet,
    /// The rules that failed by an internal error.
    pub failed: RuleSet,
    /// The facts that a rule needed and that were unknown.
    pub unknown: FactSet,
}

impl Verdict {
    /// Whether the request is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.causes.is_empty()
    }

    /// Returns all causes in one text, for clients that show only `status.message`.
    #[must_use]
    pub fn message(&self) -> String {
        message(&self.causes)
    }

    /// Returns all causes for which another user would be denied, in one text.
    #[must_use]
    pub fn message_of_not_denied(&self) -> String {
        message(&self.not_denied)
    }
}

fn message(causes: &[Cause]) -> String {
    match causes {
        [cause] => format!("{}: {}", cause.field, cause.message),
        causes => {
            let mut text = format!("{} faults", causes.len());
            for (number, cause) in causes.iter().enumerate() {
                // Writing to a string cannot fail.
                let _ = write!(text, "; ({}) {}: {}", number + 1, cause.field, cause.message);
            }
            text
        }
    }
}

/// One cause of a denial. kubectl prints only `FIELD: MESSAGE`, so the message must be complete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// Kubernetes' cause type.
    pub reason: CauseType,
    /// The path of the field.
    pub field: String,
    /// The error, how to fix it, and the id of the rule.
    pub message: String,
}

/// Returns the verdict on a change.
#[must_use]
pub fn decide(findings: &[Finding], change: &Change, facts: &Facts, policy: &EnforcementPolicy) -> Verdict {
    combine(findings, Restart::of(findings, change, facts, policy), policy)
}

/// Returns the verdict on the start of a migration or on a change of a network, which a restart cannot replace.
#[must_use]
pub fn decide_without_restart(findings: &[Finding], policy: &EnforcementPolicy) -> Verdict {
    combine(findings, Restart::NotApplicable, policy)
}

/// Whether a change that cannot be made to the running VM can wait for its next restart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Restart<'c> {
    /// It waits: the user requested it, or the settings allow it.
    Awaited(&'c Change<'c>),
    /// virt-controller makes the change for the owner of the guest, and retries it without limit.
    Controller,
    /// There is no VM to restart.
    NotApplicable,
    /// The user can request it.
    Possible,
}

impl<'c> Restart<'c> {
    pub(super) fn of(findings: &[Finding], change: &'c Change, facts: &Facts, policy: &EnforcementPolicy) -> Self {
        // Only a fault needs the settings for the user and the groups.
        let has_fault =
            || findings.iter().any(|finding| finding.rule.scope == Scope::Hotplug && finding.kind.cause().is_some());
        if acts_for_an_owner(change, facts) {
            Self::Controller
        } else if change.subject.kind != ObjectKind::Vm || change.before.is_none() || !has_fault() {
            Self::NotApplicable
        } else if waits_for_restart(change) || policy.live_changes(change) == LiveChanges::Warn {
            Self::Awaited(change)
        } else {
            Self::Possible
        }
    }
}

/// What a finding does to the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    /// It denies the request.
    Denies(CauseType),
    /// Its rule is off.
    Ignored,
    /// It would deny the request to another user than virt-controller.
    NotDenied(CauseType),
    /// The change waits for the next restart.
    Postpones(CauseType),
    /// It warns.
    Warns,
}

impl Effect {
    pub(super) fn of(finding: &Finding, restart: Restart, policy: &EnforcementPolicy) -> Self {
        let reason = match (finding.kind.cause(), policy.for_finding(finding)) {
            (_, Enforcement::Off) => return Self::Ignored,
            (Some(reason), Enforcement::Deny) => reason,
            _ => return Self::Warns,
        };
        match restart {
            _ if finding.rule.scope != Scope::Hotplug => Self::Denies(reason),
            // KubeVirt does not let this change wait.
            Restart::Awaited(_) if finding.at_restart == AtRestart::AppliedAtOnce => Self::Denies(reason),
            Restart::Awaited(_) => Self::Postpones(reason),
            Restart::Controller => Self::NotDenied(reason),
            Restart::NotApplicable | Restart::Possible => Self::Denies(reason),
        }
    }
}

/// Returns the verdict on findings; `restart` is whether the change can wait for the next restart.
pub(super) fn combine(findings: &[Finding], restart: Restart, policy: &EnforcementPolicy) -> Verdict {
    let mut verdict = Verdict::default();
    let mut warnings = WarningGroups::default();
    let mut postponing: Vec<&Rule> = Vec::new();
    for finding in in_order(findings) {
        if finding.kind == FindingKind::InternalError {
            verdict.failed.insert(finding.rule);
        }
        match Effect::of(finding, restart, policy) {
            Effect::Ignored => {}
            Effect::Postpones(reason) => {
                verdict.warned_by.insert(finding.rule);
                verdict.postponed.add(finding, cause(reason, finding, restart));
                postponing.push(finding.rule);
            }
            Effect::NotDenied(reason) => {
                verdict.warned_by.insert(finding.rule);
                warnings.add(&finding.what, finding.rule);
                verdict.not_denied.push(cause(reason, finding, restart));
            }
            Effect::Denies(reason) => {
                verdict.denied_by.insert(finding.rule);
                verdict.causes.push(cause(reason, finding, restart));
            }
            Effect::Warns => {
                verdict.warned_by.insert(finding.rule);
                verdict.unknown.extend(finding.missing);
                warnings.add(&finding.what, finding.rule);
            }
        }
    }
    verdict.warnings.extend(policy.warning());
    verdict.warnings.extend(warnings.lines());
    let awaited = match restart {
        Restart::Awaited(change) if !verdict.postponed.is_empty() => {
            postponing.sort_by_key(|rule| rule.id);
            postponing.dedup_by_key(|rule| rule.id);
            Some(warning(&verdict.postponed.warning(change), &postponing))
        }
        _ => None,
    };
    limit(&mut verdict);
    // It says what happens to the change, so it is listed however many others there are.
    verdict.warnings.extend(awaited);
    verdict
}

/// Whether the user requested that impossible changes wait for the next restart.
fn waits_for_restart(change: &Change) -> bool {
    change.after.annotation(|annotations| annotations.apply.as_deref()) == Some(ON_RESTART)
}

/// Whether virt-controller makes the change because of another object, which it does until the change is allowed: it
/// updates the VMs of pools, restores and clones and the VMIs of replica sets, and the VMI of a VM that it stops.
///
/// A VMI whose VM a user manages is not included: there a denial holds back the copy of a NIC that waits for the restart.
fn acts_for_an_owner(change: &Change, facts: &Facts) -> bool {
    if !facts.by_controller || change.before.is_none() {
        return false;
    }
    if change.subject.kind != ObjectKind::Vmi {
        return true;
    }
    let mut owners = change.after.metadata.owner_references.iter();
    let is_of_set = owners.any(|owner| &*owner.kind == "VirtualMachineInstanceReplicaSet");
    let follows_owner = facts.vm.known().is_some_and(|vm| vm.stops || vm.is_managed);
    is_of_set || follows_owner || matches!(facts.live(), Fact::Absent)
}

fn cause(reason: CauseType, finding: &Finding, restart: Restart) -> Cause {
    let advice =
        if finding.rule.scope == Scope::Hotplug && matches!(restart, Restart::Possible) { WAIT_ADVICE } else { "" };
    let message = format!("{}; {}{advice} [{}]", finding.what, finding.fix, finding.rule.id);
    Cause {
        reason,
        field: finding.field.clone(),
        message: cut(&without_control_characters(&message), MESSAGE_LENGTH).into_owned(),
    }
}

/// The texts of warnings in the order in which they were found first, each with all rules that have this text.
#[derive(Default)]
struct WarningGroups<'f> {
    texts: Vec<&'f str>,
    rules: BTreeMap<&'f str, Vec<&'static Rule>>,
}

impl<'f> WarningGroups<'f> {
    fn add(&mut self, text: &'f str, rule: &'static Rule) {
        let rules = self.rules.entry(text).or_insert_with(|| {
            self.texts.push(text);
            Vec::new()
        });
        if rules.last().is_none_or(|last| last.id != rule.id) {
            rules.push(rule);
        }
    }

    fn lines(&self) -> Vec<String> {
        self.texts.iter().filter_map(|text| Some(warning(text, self.rules.get(text)?))).collect()
    }
}

/// Returns a warning of at most [`WARNING_LENGTH`] characters. A longer text, for example one with a very long name, is
/// cut, but its rule id is not.
fn warning(text: &str, rules: &[&Rule]) -> String {
    let text = without_control_characters(text);
    let ids = ids_that_fit(rules, WARNING_LENGTH.saturating_sub(text.chars().count()));
    let space = WARNING_LENGTH.saturating_sub(ids.chars().count());
    if text.chars().count() <= space {
        return format!("{text}{ids}");
    }
    let kept: String = text.chars().take(space.saturating_sub(1)).collect();
    format!("{}…{ids}", kept.trim_end())
}

/// Returns ` [NP101, NP102]`, or ` [NP101 and 5 more]` if that is too long.
fn ids_that_fit(rules: &[&Rule], space: usize) -> String {
    let ids: Vec<&str> = rules.iter().map(|rule| rule.id).collect();
    let all = format!(" [{}]", ids.join(", "));
    match ids.as_slice() {
        [first, rest @ ..] if !rest.is_empty() && all.chars().count() > space => {
            format!(" [{first} and {} more]", rest.len())
        }
        _ => all,
    }
}

pub(super) fn without_control_characters(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

fn limit(verdict: &mut Verdict) {
    let kept = count_that_fits(&verdict.causes);
    let left_out = verdict.causes.len() - kept;
    if left_out > 0 {
        verdict.causes.truncate(kept);
        verdict
            .warnings
            .insert(0, format!("{left_out} further faults are not listed: fix the first {kept} and apply again"));
    }
    verdict.not_denied.truncate(MAX_CAUSES);
    verdict.postponed.limit();
    let left_out = verdict.warnings.len().saturating_sub(MAX_WARNINGS);
    if left_out > 0 {
        verdict.warnings.truncate(MAX_WARNINGS);
        verdict.warnings.push(format!("{left_out} further warnings are not listed"));
    }
}

/// Returns the number of causes that fit into one answer, at least one if there is any.
fn count_that_fits(causes: &[Cause]) -> usize {
    /// The JSON around the texts of a cause.
    const FRAME: usize = 96;
    let escapes = |text: &str| text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    let mut left = CAUSES_LENGTH;
    let mut fits = |cause: &Cause| {
        // The message of the answer repeats each cause.
        let length = FRAME + 2 * (cause.field.len() + cause.message.len() + escapes(&cause.message));
        let rest = left.checked_sub(length);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    causes.iter().take(MAX_CAUSES).take_while(|cause| fits(cause)).count().max(usize::from(!causes.is_empty()))
}

/// Returns the findings in the order of the document: keys alphabetically, as the API server writes them, and list
/// entries by their index. Findings of one field stay in the order of the rules. A hostile object has a million
/// findings, so each field is split once and not for each comparison.
fn in_order(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    let mut sorted: Vec<(Vec<PathSegment>, &Finding)> =
        findings.iter().map(|finding| (segments(&finding.field).collect(), finding)).collect();
    sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
    sorted.into_iter().map(|(_, finding)| finding)
}

/// A part of a path. Keys are sorted as text and indices as numbers; no parent has both.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
enum PathSegment<'p> {
    Index(usize),
    Key(&'p str),
}

fn segments(path: &str) -> impl Iterator<Item = PathSegment<'_>> {
    path.split(['.', '[']).map(|part| {
        let index = part.strip_suffix(']').and_then(|digits| digits.parse().ok());
        index.map_or(PathSegment::Key(part), PathSegment::Index)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        api::review::{self, ParsedRequest},
        facts::{FactKind, Vm, Vmi},
        rules::{self, AtRestart},
        settings::Settings,
    };

    fn with_change<T>(annotation: &str, use_it: impl FnOnce(&Change) -> T) -> T {
        let vm = |name: &str| {
            format!(
                r#"{{"metadata": {{"name": "vm", "annotations": {{{annotation}}}}}, "spec": {{"template": {{"spec": {{
                "networks": [{{"name": "{name}"}}]}}}}}}}}"#
            )
        };
        let body = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
            "kind": {{"group": "kubevirt.io", "kind": "VirtualMachine"}}, "operation": "UPDATE",
            "object": {}, "oldObject": {}}}}}"#,
            vm("new"),
            vm("old")
        );
        let ParsedRequest::Valid(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
        use_it(&Change::of(&request).unwrap())
    }

    fn fault(id: &str, field: &str) -> Finding {
        rules::find(id).unwrap().fault(CauseType::Invalid, field.to_owned(), format!("{field} is wrong"))
    }

    #[test]
    fn causes_are_in_the_order_of_the_document() {
        let findings = vec![
            fault("NP001", "spec.networks[10].name"),
            fault("NP001", "spec.networks[9].name"),
            fault("NP003", "spec.networks"),
            fault("NP002", "spec.domain.devices.interfaces[2]"),
        ];
        let verdict = with_change("", |change| {
            decide(&findings, change, &Facts::default(), &EnforcementPolicy::from(&Settings::default()))
        });
        let fields: Vec<&str> = verdict.causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.domain.devices.interfaces[2]", "spec.networks", "spec.networks[9].name", "spec.networks[10].name"]
        );
        assert!(verdict.message().starts_with("4 faults; (1) spec.domain"), "{}", verdict.message());
    }

    #[test]
    fn settings_change_a_denial_into_a_warning_or_nothing() {
        for (enforcement, causes, warnings) in
            [(Enforcement::Deny, 1, 0), (Enforcement::Warn, 0, 1), (Enforcement::Off, 0, 0)]
        {
            let settings = Settings::default().with_rule("NP001", enforcement);
            let verdict = with_change("", |change| {
                decide(&[fault("NP001", "spec.x")], change, &Facts::default(), &EnforcementPolicy::from(&settings))
            });
            assert_eq!((verdict.causes.len(), verdict.warnings.len()), (causes, warnings), "{enforcement:?}");
        }
    }

    #[test]
    fn on_restart_changes_only_the_hotplug_denials_and_into_one_warning() {
        let findings = vec![fault("NP102", "spec.a"), fault("NP103", "spec.b"), fault("NP001", "spec.c")];
        let verdict = with_change(r#""nicplug.io/apply": "on-restart""#, |change| {
            decide(&findings, change, &Facts::default(), &EnforcementPolicy::from(&Settings::default()))
        });
        assert_eq!(verdict.causes.len(), 1);
        assert_eq!(verdict.warnings, ["the change of the running VM waits for its next restart [NP102, NP103]"]);
    }

    const FAILS: &str = "spec.template.spec.networks[0].multus.networkName";

    /// The verdict on the update of a VM with four networks by alice.
    fn verdict_by_settings(settings: &str, operation: &str, findings: &[Finding]) -> Verdict {
        let vm = |names: &[&str]| {
            let networks: Vec<_> = names.iter().map(|name| format!(r#"{{"name": "{name}"}}"#)).collect();
            let networks = networks.join(", ");
            format!(
                r#"{{"metadata": {{"name": "vm"}}, "spec": {{"template": {{"spec": {{"networks": [{networks}],
                "domain": {{"devices": {{"interfaces": [{networks}]}}}}}}}}}}}}"#
            )
        };
        let (new, old) = (vm(&["red", "blue", "green", "grey"]), vm(&[]));
        let old = if operation == "CREATE" { "null".to_owned() } else { old };
        let body = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
            "kind": {{"group": "kubevirt.io", "kind": "VirtualMachine"}}, "operation": "{operation}",
            "namespace": "demo", "userInfo": {{"username": "alice", "groups": ["dev"]}},
            "object": {new}, "oldObject": {old}}}}}"#
        );
        let ParsedRequest::Valid(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
        let settings = Settings::parse(settings, &rules::ids()).unwrap();
        let change = Change::of(&request).unwrap();
        decide(findings, &change, &Facts::default(), &EnforcementPolicy::from(&settings))
    }

    #[test]
    fn the_settings_let_a_change_wait_for_the_user_the_groups_the_namespace_or_all() {
        let fault = || [fault("NP103", "spec.template.spec.domain.devices.interfaces[1].model")];
        for (settings, operation, waits) in [
            ("", "UPDATE", false),
            ("liveChanges: warn", "UPDATE", true),
            ("liveChanges: {users: {\"al*\": warn}}", "UPDATE", true),
            ("liveChanges: {users: {bob: warn}}", "UPDATE", false),
            ("liveChanges: {groups: {dev: warn}}", "UPDATE", true),
            ("liveChanges: {default: warn, groups: {dev: deny}}", "UPDATE", false),
            ("namespaces: {demo: {liveChanges: warn}}", "UPDATE", true),
            ("{liveChanges: warn, rules: {NP103: deny}}", "UPDATE", true),
            // Nothing runs yet.
            ("liveChanges: warn", "CREATE", false),
        ] {
            let verdict = verdict_by_settings(settings, operation, &fault());
            assert_eq!(verdict.is_allowed(), waits, "{settings} {operation}");
            let (denied, warned): (&[_], &[_]) = if waits { (&[], &["NP103"]) } else { (&["NP103"], &[]) };
            assert_eq!(verdict.denied_by.ids().collect::<Vec<_>>(), denied, "{settings}");
            assert_eq!(verdict.warned_by.ids().collect::<Vec<_>>(), warned, "{settings}");
            let warnings = ["the change of \"blue\" waits for the next restart of the VM [NP103]"];
            assert_eq!(verdict.warnings, if waits { &warnings[..] } else { &[] }, "{settings} {operation}");
            assert_eq!(verdict.postponed.applied.len(), usize::from(waits), "{settings}");
        }
    }

    #[test]
    fn one_warning_names_what_waits_for_a_restart_and_what_never_comes() {
        let model = |index: u8| fault("NP103", &format!("spec.template.spec.domain.devices.interfaces[{index}].model"));
        let missing = || fault("NP105", FAILS).at_restart(AtRestart::Fails);
        for (findings, expected) in [
            (vec![model(1)], "the change of \"blue\" waits for the next restart of the VM [NP103]"),
            (
                vec![model(3), fault("NP102", "spec.template.spec.networks[1]"), model(1)],
                "the change of \"blue\", \"grey\" waits for the next restart of the VM [NP102, NP103]",
            ),
            (
                vec![model(1), model(2), model(3)],
                "the change of \"blue\", \"green\" and 1 more waits for the next restart of the VM [NP103]",
            ),
            (
                vec![fault("NP108", "spec.template.spec.domain.devices.interfaces")],
                "the change of the running VM waits for its next restart [NP108]",
            ),
            (
                vec![missing()],
                "\"red\" is never attached, not even at a restart: the VM does not start with it [NP105]",
            ),
            // What a restart does not cure counts, whatever else of the NIC waits.
            (
                vec![model(0), missing()],
                "\"red\" is never attached, not even at a restart: the VM does not start with it [NP103, NP105]",
            ),
            (
                vec![model(1), missing()],
                "\"red\" is never attached: the VM does not start with it; the change of \"blue\" waits for a restart \
                 [NP103, NP105]",
            ),
        ] {
            let rules = rules::ids().iter().map(|id| format!("{id}: deny")).collect::<Vec<_>>().join(", ");
            let settings = format!("{{liveChanges: warn, rules: {{{rules}}}}}");
            let verdict = verdict_by_settings(&settings, "UPDATE", &findings);
            assert_eq!(verdict.warnings, [expected]);
            assert!(verdict.is_allowed());
            assert!(expected.chars().count() <= WARNING_LENGTH, "{expected}");
        }
        let message = verdict_by_settings("liveChanges: warn", "UPDATE", &[model(1), missing()]).postponed.message();
        let (never, waits) = message.split_once("; waits for the next restart: spec.template").unwrap();
        let start = "never attached, not even at a restart, so that the VM does not start with it: spec.template";
        assert!(never.starts_with(start) && never.ends_with("[NP105]"), "{message}");
        assert!(waits.ends_with("[NP103]") && !message.contains("on-restart"), "{message}");
    }

    #[test]
    fn a_change_that_kubevirt_applies_at_once_and_a_fault_of_the_shape_are_denied() {
        let findings = [
            fault("NP001", "spec.a"),
            fault("NP103", "spec.b"),
            fault("NP116", "spec.c").at_restart(AtRestart::AppliedAtOnce),
        ];
        let verdict = verdict_by_settings("{liveChanges: warn, rules: {NP116: deny}}", "UPDATE", &findings);
        assert_eq!(verdict.denied_by.ids().collect::<Vec<_>>(), ["NP001", "NP116"]);
        assert_eq!(verdict.warned_by.ids().collect::<Vec<_>>(), ["NP103"]);
        // A fault that denies nothing is a warning of its own.
        let verdict = verdict_by_settings("liveChanges: warn", "UPDATE", &findings[1..]);
        let expected = ["spec.c is wrong [NP116]", "the change of the running VM waits for its next restart [NP103]"];
        assert_eq!(verdict.warnings, expected);
        let advice = (0..30).map(|index| {
            rules::find("NP001").unwrap().advice(format!("spec.a[{index}]"), format!("spec.a[{index}] is odd"))
        });
        let findings: Vec<_> = advice.chain(findings.into_iter().skip(1).take(1)).collect();
        let verdict = verdict_by_settings("liveChanges: warn", "UPDATE", &findings);
        assert_eq!(verdict.warnings.last(), Some(&expected[1].to_owned()), "{:?}", verdict.warnings);
    }

    #[test]
    fn a_verdict_has_the_rules_with_findings_and_the_unknown_facts() {
        let unknown = rules::find("NP105").unwrap().unknown(FactKind::Nad, "not known");
        let findings = [fault("NP103", "spec.a"), fault("NP103", "spec.b"), fault("NP001", "spec.c"), unknown];
        let settings = Settings::default().with_rule("NP001", Enforcement::Warn);
        let verdict =
            with_change("", |change| decide(&findings, change, &Facts::default(), &EnforcementPolicy::from(&settings)));
        assert_eq!(verdict.denied_by.ids().collect::<Vec<_>>(), ["NP103"]);
        assert_eq!(verdict.warned_by.ids().collect::<Vec<_>>(), ["NP001", "NP105"]);
        assert_eq!(verdict.unknown.kinds().collect::<Vec<_>>(), [FactKind::Nad]);
        // A rule that is off is not included.
        let settings = settings.with_rule("NP103", Enforcement::Off).with_rule("NP105", Enforcement::Off);
        let verdict =
            with_change("", |change| decide(&findings, change, &Facts::default(), &EnforcementPolicy::from(&settings)));
        assert!(verdict.denied_by.is_empty() && verdict.unknown == FactSet::default());
    }

    /// The verdict on an update by virt-controller with NP103 and NP001.
    fn verdict_for_controller(kind: &str, owner: &str, vm: Fact<Vm>, vmi: Fact<Vmi>) -> Verdict {
        let object = |name: &str| {
            format!(
                r#"{{"metadata": {{"name": "web-0", "ownerReferences": [{{"kind": "{owner}", "name": "web", "uid": "1"}}]}},
                "spec": {{"networks": [{{"name": "{name}"}}], "template": {{}}}}}}"#
            )
        };
        let body = format!(
            r#"{{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {{"uid": "u",
            "kind": {{"group": "kubevirt.io", "kind": "{kind}"}}, "operation": "UPDATE",
            "object": {}, "oldObject": {}}}}}"#,
            object("new"),
            object("old")
        );
        let ParsedRequest::Valid(request) = review::read(body.as_bytes()).unwrap() else { panic!("{body}") };
        let facts = Facts { by_controller: true, vm: vm.map(Arc::new), vmi: vmi.map(Arc::new), ..Facts::default() };
        let findings = [fault("NP103", "spec.a"), fault("NP001", "spec.b")];
        let policy = Settings::default();
        decide(&findings, &Change::of(&request).unwrap(), &facts, &EnforcementPolicy::from(&policy))
    }

    #[test]
    fn virt_controller_is_denied_no_hotplug_of_a_managed_guest() {
        let (vm, vmi) = ("VirtualMachine", "VirtualMachineInstance");
        let running = || Fact::Known(Vmi::default());
        let deleting = || Fact::Known(Vmi { is_deleting: true, ..Vmi::default() });
        let plain = || Fact::Known(Vm::default());
        for (kind, owner, its_vm, its_vmi, is_denied) in [
            (vm, "VirtualMachinePool", Fact::Unknown, running(), false),
            (vmi, "VirtualMachineInstanceReplicaSet", Fact::Absent, running(), false),
            (vmi, vm, plain(), running(), true),
            (vmi, vm, plain(), deleting(), false),
            (vmi, vm, Fact::Known(Vm { stops: true, ..Vm::default() }), running(), false),
            (vmi, vm, Fact::Known(Vm { is_managed: true, ..Vm::default() }), running(), false),
            (vmi, vm, Fact::Unknown, running(), true),
        ] {
            let verdict = verdict_for_controller(kind, owner, its_vm, its_vmi);
            let denied: Vec<_> = verdict.denied_by.ids().collect();
            assert_eq!(denied, if is_denied { vec!["NP001", "NP103"] } else { vec!["NP001"] }, "{kind} {owner}");
            assert_eq!(verdict.not_denied.len(), usize::from(!is_denied), "{kind} {owner}");
            if !is_denied {
                assert_eq!(verdict.warnings, ["spec.a is wrong [NP103]"]);
                let message = verdict.message_of_not_denied();
                assert!(message.starts_with("spec.a: ") && message.ends_with("[NP103]"), "{message}");
                assert!(!message.contains("on-restart"), "{message}");
            }
        }
    }

    #[test]
    fn a_hotplug_denial_names_the_annotation() {
        let verdict = with_change("", |change| {
            decide(
                &[fault("NP103", "spec.a")],
                change,
                &Facts::default(),
                &EnforcementPolicy::from(&Settings::default()),
            )
        });
        assert!(verdict.causes[0].message.contains("nicplug.io/apply=on-restart"), "{:?}", verdict.causes);
        assert!(verdict.causes[0].message.ends_with(" [NP103]"));
    }

    #[test]
    fn a_warning_is_cut_before_its_rule_id_and_has_no_control_characters() {
        let rule = rules::find("NP101").unwrap();
        let long = warning(&"x\n".repeat(200), &[rule]);
        assert_eq!(long.chars().count(), WARNING_LENGTH);
        assert!(long.ends_with("x… [NP101]"), "{long}");
        assert!(!long.chars().any(char::is_control));
        assert_eq!(warning("short", &[rule]), "short [NP101]");
    }

    #[test]
    fn an_answer_is_limited_for_any_object() {
        let findings: Vec<Finding> =
            (0..5000).map(|index| fault("NP001", &format!("spec.networks[{index}]"))).collect();
        let verdict = with_change("", |change| {
            decide(&findings, change, &Facts::default(), &EnforcementPolicy::from(&Settings::default()))
        });
        assert_eq!(verdict.causes.len(), MAX_CAUSES);
        assert!(verdict.warnings[0].starts_with("4900 further faults"), "{:?}", verdict.warnings);
    }

    #[test]
    fn equal_warnings_appear_once() {
        let finding = || rules::find("NP101").unwrap().unchecked("not known");
        let verdict = with_change("", |change| {
            decide(&[finding(), finding()], change, &Facts::default(), &EnforcementPolicy::from(&Settings::default()))
        });
        assert_eq!(verdict.warnings, ["not known [NP101]"]);
    }

    #[test]
    fn rules_with_the_same_text_share_a_warning() {
        let finding = |id, what: &str| rules::find(id).unwrap().unchecked(what);
        let warnings = |what: &str| {
            let findings = vec![finding("NP101", what), finding("NP102", what), finding("NP103", what)];
            with_change("", |change| {
                decide(&findings, change, &Facts::default(), &EnforcementPolicy::from(&Settings::default()))
            })
            .warnings
        };
        assert_eq!(warnings("not known"), ["not known [NP101, NP102, NP103]"]);
        assert_eq!(warnings(&"x".repeat(100)), [format!("{} [NP101 and 2 more]", "x".repeat(100))]);
    }
}
