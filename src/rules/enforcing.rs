//! How strictly rules are enforced where a request is made: as each rule has it, then as the settings say, and on top of
//! that as the namespace asks, as far as the settings let it.

use std::fmt;

use super::{Finding, FindingKind, Rule, find};
use crate::{
    facts::Facts,
    settings::{
        Enforcement, OverridePolicy, Settings,
        overrides::{ANNOTATION, Overrides, OverridesError, ParsedOverrides},
    },
};

/// How strictly rules are enforced where a request is made.
#[derive(Clone, Copy, Debug)]
pub struct Enforcing<'e> {
    settings: &'e Settings,
    /// What the namespace asks for, if it does, or why that has no effect.
    asked: Option<Result<&'e Overrides, Void<'e>>>,
}

impl<'e> From<&'e Settings> for Enforcing<'e> {
    /// As settings say, and no namespace.
    fn from(settings: &'e Settings) -> Self {
        Self { settings, asked: None }
    }
}

impl<'e> Enforcing<'e> {
    /// As settings say, and as the facts show that the namespace asks.
    #[must_use]
    pub fn new(settings: &'e Settings, facts: &'e Facts) -> Self {
        Self { settings, asked: facts.overrides.known().map(|annotation| usable(annotation, settings)) }
    }

    /// How a rule is enforced.
    #[must_use]
    pub fn of(&self, rule: &Rule) -> Enforcement {
        self.overridden(rule, rule.enforcement)
    }

    /// What becomes of a finding. What is wrong for certain is denied, unless settings or the namespace name the rule.
    #[must_use]
    pub fn of_finding(&self, finding: &Finding) -> Enforcement {
        match finding.kind {
            FindingKind::Certain(_) => self.overridden(finding.rule, Enforcement::Deny),
            _ => self.of(finding.rule),
        }
    }

    /// What is wrong with the annotation of the namespace, in words for whoever made a request there.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let overrides = match self.asked? {
            Ok(overrides) => overrides,
            Err(fault) => return Some(format!("namespace annotation {ANNOTATION} has no effect: {fault}")),
        };
        let mut idle = overrides.iter().filter(|(id, wanted)| find(id).is_some_and(|rule| self.of(rule) != *wanted));
        let (id, wanted) = idle.next()?;
        let others = match idle.count() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let wanted = wanted.as_str();
        let have = if others.is_empty() { "has" } else { "have" };
        Some(format!("namespace annotation {ANNOTATION} may only tighten: {id}={wanted}{others} {have} no effect"))
    }

    fn overridden(&self, rule: &Rule, own: Enforcement) -> Enforcement {
        let settled = self.settings.enforcement(rule.id).unwrap_or(own);
        let Some(Ok(overrides)) = self.asked else { return settled };
        let Some(wanted) = overrides.enforcement(rule.id) else { return settled };
        match self.settings.namespaces.override_policy {
            OverridePolicy::Allow => wanted,
            OverridePolicy::Tighten if wanted.is_stricter_than(settled) => wanted,
            OverridePolicy::Forbid | OverridePolicy::Tighten => settled,
        }
    }
}

/// Why an annotation has no effect.
#[derive(Clone, Copy, Debug)]
enum Void<'v> {
    Forbidden,
    Malformed(&'v OverridesError),
    UnknownRule(&'v str),
}

impl fmt::Display for Void<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => formatter.write_str("the settings forbid it"),
            Self::Malformed(error) => error.fmt(formatter),
            Self::UnknownRule(id) => write!(formatter, "there is no rule {id:?}"),
        }
    }
}

fn usable<'a>(annotation: &'a ParsedOverrides, settings: &Settings) -> Result<&'a Overrides, Void<'a>> {
    if settings.namespaces.override_policy == OverridePolicy::Forbid {
        return Err(Void::Forbidden);
    }
    let overrides = annotation.as_ref().map_err(Void::Malformed)?;
    // As in settings, an id is written in capital letters.
    match overrides.iter().find(|(id, _)| find(id).is_none_or(|rule| rule.id != *id)) {
        Some((id, _)) => Err(Void::UnknownRule(id)),
        None => Ok(overrides),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        facts::Fact,
        rules::CauseType,
        settings::{NamespaceSettings, overrides::Overrides},
    };

    const WORDS: [Enforcement; 3] = [Enforcement::Deny, Enforcement::Off, Enforcement::Warn];

    fn facts(annotation: &str) -> Facts {
        Facts { overrides: Fact::Known(Arc::new(Overrides::parse(annotation))), ..Facts::default() }
    }

    fn settings(override_policy: OverridePolicy) -> Settings {
        Settings { namespaces: NamespaceSettings { override_policy }, ..Settings::default() }
    }

    /// How NP103 is enforced, and what is complained of.
    fn under(settings: &Settings, annotation: &str) -> (Enforcement, Option<String>) {
        let facts = facts(annotation);
        let enforcing = Enforcing::new(settings, &facts);
        (enforcing.of(find("NP103").unwrap()), enforcing.complaint())
    }

    #[test]
    fn a_namespace_comes_after_settings_as_far_as_they_let_it() {
        for settled in WORDS {
            for wanted in WORDS {
                let annotation = format!("NP103={}", wanted.as_str());
                let under =
                    |override_policy| under(&settings(override_policy).with_rule("NP103", settled), &annotation);
                assert_eq!(under(OverridePolicy::Allow), (wanted, None));
                assert_eq!(under(OverridePolicy::Forbid).0, settled);
                let (enforcement, complaint) = under(OverridePolicy::Tighten);
                let expected = if wanted.is_stricter_than(settled) { wanted } else { settled };
                assert_eq!(
                    (enforcement, complaint.is_some()),
                    (expected, expected != wanted),
                    "{settled:?} {wanted:?}"
                );
            }
        }
    }

    #[test]
    fn a_rule_that_nobody_names_is_enforced_as_it_has_it() {
        let (enforcement, complaint) = under(&settings(OverridePolicy::Allow), "NP104=off");
        assert_eq!((enforcement, complaint), (find("NP103").unwrap().enforcement, None));
        let unknown = Facts::default();
        assert_eq!(Enforcing::new(&Settings::default(), &unknown).complaint(), None);
    }

    #[test]
    fn an_annotation_that_is_wrong_anywhere_has_no_effect_and_that_is_told() {
        for (override_policy, annotation, fault) in [
            (OverridePolicy::Allow, "NP103=off,NP999=warn", "has no effect: there is no rule \"NP999\""),
            (OverridePolicy::Allow, "np103=off", "has no effect: there is no rule \"np103\""),
            (
                OverridePolicy::Allow,
                "NP103=off,NP104",
                "has no effect: \"NP104\" is not RULE=ENFORCEMENT, such as NP103=warn",
            ),
            (OverridePolicy::Tighten, "NP103=off,NP104=no", "has no effect: \"no\" is not one of deny, warn, off"),
            (OverridePolicy::Forbid, "NP103=off", "has no effect: the settings forbid it"),
        ] {
            let (enforcement, complaint) = under(&settings(override_policy), annotation);
            assert_eq!(enforcement, Enforcement::Deny, "{annotation}");
            assert_eq!(complaint.unwrap(), format!("namespace annotation nicplug.io/rules {fault}"));
        }
    }

    #[test]
    fn what_would_loosen_has_no_effect_by_itself_and_the_rest_has() {
        let settings = settings(OverridePolicy::Tighten).with_rule("NP113", Enforcement::Warn);
        let facts = facts("NP113=deny, NP103=off, NP104=warn, NP105=deny");
        let enforcing = Enforcing::new(&settings, &facts);
        assert_eq!(enforcing.of(find("NP113").unwrap()), Enforcement::Deny);
        assert_eq!(enforcing.of(find("NP103").unwrap()), Enforcement::Deny);
        let complaint = enforcing.complaint().unwrap();
        let expected = "namespace annotation nicplug.io/rules may only tighten: NP103=off and 1 more have no effect";
        assert_eq!(complaint, expected);
    }

    #[test]
    fn what_is_wrong_for_certain_is_loosened_only_where_loosening_is_allowed() {
        let rule = find("NP107").unwrap();
        assert_eq!(rule.enforcement, Enforcement::Warn);
        let finding = rule.certain(CauseType::Invalid, String::new(), String::new());
        for (override_policy, expected) in
            [(OverridePolicy::Tighten, Enforcement::Deny), (OverridePolicy::Allow, Enforcement::Warn)]
        {
            let (settings, facts) = (settings(override_policy), facts("NP107=warn"));
            assert_eq!(Enforcing::new(&settings, &facts).of_finding(&finding), expected);
        }
    }
}
