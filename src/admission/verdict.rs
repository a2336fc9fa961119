//! The verdict: what findings come to, as rules are enforced.

pub mod sets;

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use self::sets::{FactSet, RuleSet};
use super::enforcement::EnforcementPolicy;
use crate::{
    api::review::ObjectKind,
    change::Change,
    rules::{CauseType, Finding, FindingKind, Rule, Scope},
    settings::Enforcement,
};

/// How long a warning may be, in characters: Kubernetes asks for 120 and may cut above 256.
pub const WARNING_LENGTH: usize = 120;

/// How many causes one answer lists. A person mends ten at a time; a hostile object has a million.
const CAUSES_AT_MOST: usize = 100;

/// How many warnings one answer carries: Kubernetes cuts all of them at 4096 characters together.
const WARNINGS_AT_MOST: usize = 30;

/// What becomes of a request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Why it is denied, in the order of the document; none when it is allowed.
    pub causes: Vec<Cause>,
    /// What whoever made the request should read.
    pub warnings: Vec<String>,
    /// The rules that deny it.
    pub denied_by: RuleSet,
    /// The rules that warn.
    pub warned_by: RuleSet,
    /// Which facts were wanted, and not known.
    pub unknown: FactSet,
}

impl Verdict {
    /// Whether the request may go on.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.causes.is_empty()
    }

    /// All causes in one text, for clients that show `status.message` alone.
    #[must_use]
    pub fn message(&self) -> String {
        match self.causes.as_slice() {
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
}

/// One reason of a denial. kubectl prints nothing but `FIELD: MESSAGE`, so the message stands alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cause {
    /// Kubernetes' cause type.
    pub reason: CauseType,
    /// The path of the field.
    pub field: String,
    /// What is wrong, how to fix it and the rule's id.
    pub message: String,
}

/// Weighs findings: what is denied, what is warned of.
#[must_use]
pub fn decide(findings: &[Finding], change: &Change, policy: EnforcementPolicy) -> Verdict {
    let restart = match change.subject.kind {
        ObjectKind::Vm if waits_for_restart(change) => Restart::Awaited,
        ObjectKind::Vm => Restart::Possible,
        _ => Restart::NotApplicable,
    };
    weigh_all(findings, restart, policy)
}

/// Weighs what was found about the start of a migration, which no restart makes better.
#[must_use]
pub fn decide_migration(findings: &[Finding], policy: EnforcementPolicy) -> Verdict {
    weigh_all(findings, Restart::NotApplicable, policy)
}

/// Whether what cannot be done now may wait for the next restart of a VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Restart {
    /// The user said that it shall.
    Awaited,
    /// There is no VM that could be restarted.
    NotApplicable,
    /// The user may say so.
    Possible,
}

fn weigh_all(findings: &[Finding], restart: Restart, policy: EnforcementPolicy) -> Verdict {
    let mut verdict = Verdict::default();
    let mut warned = Warned::default();
    let mut postponed: Vec<&Rule> = Vec::new();
    for finding in in_order(findings) {
        match (finding.kind, policy.for_finding(finding)) {
            (_, Enforcement::Off) => {}
            (FindingKind::Fault(_), Enforcement::Deny)
                if restart == Restart::Awaited && finding.rule.scope == Scope::Hotplug =>
            {
                verdict.warned_by.insert(finding.rule);
                postponed.push(finding.rule);
            }
            (FindingKind::Certain(reason) | FindingKind::Fault(reason), Enforcement::Deny) => {
                verdict.denied_by.insert(finding.rule);
                verdict.causes.push(cause(reason, finding, restart));
            }
            _ => {
                verdict.warned_by.insert(finding.rule);
                verdict.unknown.extend(finding.missing);
                warned.add(&finding.what, finding.rule);
            }
        }
    }
    verdict.warnings.extend(policy.warning());
    verdict.warnings.extend(warned.lines());
    if !postponed.is_empty() {
        postponed.dedup_by_key(|rule| rule.id);
        verdict.warnings.push(warning("the change of the running VM waits for its next restart", &postponed));
    }
    limit(&mut verdict);
    verdict
}

/// Whether the user wants what cannot be done now to wait for the next restart.
fn waits_for_restart(change: &Change) -> bool {
    change.after.annotation(|annotations| annotations.apply.as_deref()) == Some("on-restart")
}

fn cause(reason: CauseType, finding: &Finding, restart: Restart) -> Cause {
    let way_out = if finding.rule.scope == Scope::Hotplug && restart == Restart::Possible {
        "; to let it wait for the next restart, annotate the VM with nicplug.io/apply=on-restart"
    } else {
        ""
    };
    let message = format!("{}; {}{way_out} [{}]", finding.what, finding.fix, finding.rule.id);
    Cause { reason, field: finding.field.clone(), message: without_control_characters(&message).into_owned() }
}

/// What is warned of, in the order in which it was first found, with every rule that says the same.
#[derive(Default)]
struct Warned<'f> {
    texts: Vec<&'f str>,
    rules: BTreeMap<&'f str, Vec<&'static Rule>>,
}

impl<'f> Warned<'f> {
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

/// A warning of at most [`WARNING_LENGTH`] characters: a text that is longer, as one with a very long name can be, is
/// cut, but never its rule id.
fn warning(what: &str, rules: &[&Rule]) -> String {
    let what = without_control_characters(what);
    let ids = ids_that_fit(rules, WARNING_LENGTH.saturating_sub(what.chars().count()));
    let room = WARNING_LENGTH.saturating_sub(ids.chars().count());
    if what.chars().count() <= room {
        return format!("{what}{ids}");
    }
    let kept: String = what.chars().take(room.saturating_sub(1)).collect();
    format!("{}…{ids}", kept.trim_end())
}

/// ` [NP101, NP102]`; where that has no room ` [NP101 and 5 more]`.
fn ids_that_fit(rules: &[&Rule], room: usize) -> String {
    let ids: Vec<&str> = rules.iter().map(|rule| rule.id).collect();
    let all = format!(" [{}]", ids.join(", "));
    match ids.as_slice() {
        [first, rest @ ..] if !rest.is_empty() && all.chars().count() > room => {
            format!(" [{first} and {} more]", rest.len())
        }
        _ => all,
    }
}

fn without_control_characters(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

fn limit(verdict: &mut Verdict) {
    let left_out = verdict.causes.len().saturating_sub(CAUSES_AT_MOST);
    if left_out > 0 {
        verdict.causes.truncate(CAUSES_AT_MOST);
        verdict.warnings.insert(
            0,
            format!("{left_out} further faults are not listed: mend the first {CAUSES_AT_MOST} and apply again"),
        );
    }
    let left_out = verdict.warnings.len().saturating_sub(WARNINGS_AT_MOST);
    if left_out > 0 {
        verdict.warnings.truncate(WARNINGS_AT_MOST);
        verdict.warnings.push(format!("{left_out} further warnings are not listed"));
    }
}

/// Findings in the order of the document: keys by the alphabet, as the API server writes them, and list entries by
/// their number. Those of one field keep the order of the rules. A hostile object has a million, so each field is taken
/// apart once and not at each comparison.
fn in_order(findings: &[Finding]) -> impl Iterator<Item = &Finding> {
    let mut places: Vec<(Vec<Segment>, &Finding)> =
        findings.iter().map(|finding| (segments(&finding.field).collect(), finding)).collect();
    places.sort_by(|(one, _), (other, _)| one.cmp(other));
    places.into_iter().map(|(_, finding)| finding)
}

/// Keys sort by text, numbers by value; nothing holds both in one place.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
enum Segment<'p> {
    Index(usize),
    Key(&'p str),
}

fn segments(path: &str) -> impl Iterator<Item = Segment<'_>> {
    path.split(['.', '[']).map(|part| {
        let index = part.strip_suffix(']').and_then(|digits| digits.parse().ok());
        index.map_or(Segment::Key(part), Segment::Index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::review::{self, ParsedRequest},
        facts::FactKind,
        rules,
        settings::Settings,
    };

    fn judged<T>(annotation: &str, use_it: impl FnOnce(&Change) -> T) -> T {
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
    fn causes_come_in_the_order_of_the_document() {
        let findings = vec![
            fault("NP001", "spec.networks[10].name"),
            fault("NP001", "spec.networks[9].name"),
            fault("NP003", "spec.networks"),
            fault("NP002", "spec.domain.devices.interfaces[2]"),
        ];
        let verdict = judged("", |change| decide(&findings, change, EnforcementPolicy::from(&Settings::default())));
        let fields: Vec<&str> = verdict.causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.domain.devices.interfaces[2]", "spec.networks", "spec.networks[9].name", "spec.networks[10].name"]
        );
        assert!(verdict.message().starts_with("4 faults; (1) spec.domain"), "{}", verdict.message());
    }

    #[test]
    fn settings_turn_a_denial_into_a_warning_or_nothing() {
        for (enforcement, causes, warnings) in
            [(Enforcement::Deny, 1, 0), (Enforcement::Warn, 0, 1), (Enforcement::Off, 0, 0)]
        {
            let settings = Settings::default().with_rule("NP001", enforcement);
            let verdict =
                judged("", |change| decide(&[fault("NP001", "spec.x")], change, EnforcementPolicy::from(&settings)));
            assert_eq!((verdict.causes.len(), verdict.warnings.len()), (causes, warnings), "{enforcement:?}");
        }
    }

    #[test]
    fn on_restart_turns_all_hotplug_denials_into_one_warning_and_no_other() {
        let findings = vec![fault("NP102", "spec.a"), fault("NP103", "spec.b"), fault("NP001", "spec.c")];
        let verdict = judged(r#""nicplug.io/apply": "on-restart""#, |change| {
            decide(&findings, change, EnforcementPolicy::from(&Settings::default()))
        });
        assert_eq!(verdict.causes.len(), 1);
        assert_eq!(verdict.warnings, ["the change of the running VM waits for its next restart [NP102, NP103]"]);
    }

    #[test]
    fn a_verdict_knows_which_rules_spoke_and_what_they_did_not_know() {
        let unknown = rules::find("NP105").unwrap().unknown(FactKind::Nad, "not known");
        let findings = [fault("NP103", "spec.a"), fault("NP103", "spec.b"), fault("NP001", "spec.c"), unknown];
        let settings = Settings::default().with_rule("NP001", Enforcement::Warn);
        let verdict = judged("", |change| decide(&findings, change, EnforcementPolicy::from(&settings)));
        assert_eq!(verdict.denied_by.ids().collect::<Vec<_>>(), ["NP103"]);
        assert_eq!(verdict.warned_by.ids().collect::<Vec<_>>(), ["NP001", "NP105"]);
        assert_eq!(verdict.unknown.kinds().collect::<Vec<_>>(), [FactKind::Nad]);
        // A rule that is off did not speak.
        let settings = settings.with_rule("NP103", Enforcement::Off).with_rule("NP105", Enforcement::Off);
        let verdict = judged("", |change| decide(&findings, change, EnforcementPolicy::from(&settings)));
        assert!(verdict.denied_by.is_empty() && verdict.unknown == FactSet::default());
    }

    #[test]
    fn a_hotplug_denial_names_the_way_out() {
        let verdict = judged("", |change| {
            decide(&[fault("NP103", "spec.a")], change, EnforcementPolicy::from(&Settings::default()))
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
    fn an_answer_stays_small_whatever_the_object_holds() {
        let findings: Vec<Finding> =
            (0..5000).map(|index| fault("NP001", &format!("spec.networks[{index}]"))).collect();
        let verdict = judged("", |change| decide(&findings, change, EnforcementPolicy::from(&Settings::default())));
        assert_eq!(verdict.causes.len(), CAUSES_AT_MOST);
        assert!(verdict.warnings[0].starts_with("4900 further faults"), "{:?}", verdict.warnings);
    }

    #[test]
    fn the_same_warning_is_given_once() {
        let finding = || rules::find("NP101").unwrap().unchecked("not known");
        let verdict =
            judged("", |change| decide(&[finding(), finding()], change, EnforcementPolicy::from(&Settings::default())));
        assert_eq!(verdict.warnings, ["not known [NP101]"]);
    }

    #[test]
    fn rules_that_say_the_same_share_a_warning() {
        let finding = |id, what: &str| rules::find(id).unwrap().unchecked(what);
        let said = |what: &str| {
            let findings = vec![finding("NP101", what), finding("NP102", what), finding("NP103", what)];
            judged("", |change| decide(&findings, change, EnforcementPolicy::from(&Settings::default()))).warnings
        };
        assert_eq!(said("not known"), ["not known [NP101, NP102, NP103]"]);
        assert_eq!(said(&"x".repeat(100)), [format!("{} [NP101 and 2 more]", "x".repeat(100))]);
    }
}
