//! How strictly each rule is enforced for one request: the rule's own default, overridden by the settings, overridden
//! by the annotation of the request's namespace as far as the settings allow it.

use std::fmt;

use crate::{
    api::quote::quote,
    change::Change,
    facts::Facts,
    rules::{Finding, FindingKind, Rule, find},
    settings::{
        Enforcement, LiveChanges, NamespaceRules, OverridePolicy, Settings,
        overrides::{ANNOTATION, Overrides, OverridesError, ParsedOverrides},
    },
};

/// How strictly each rule is enforced for one request.
#[derive(Clone, Debug)]
pub struct EnforcementPolicy<'e> {
    settings: &'e Settings,
    /// The enforcement that the settings have for the namespace.
    rules: NamespaceRules<'e>,
    /// The overrides of the namespace, or why they have no effect; `None` where the namespace has none.
    overrides: Option<Result<&'e Overrides, RejectedOverrides<'e>>>,
}

#[cfg(test)]
impl<'e> From<&'e Settings> for EnforcementPolicy<'e> {
    /// Returns the policy of the settings alone, without a namespace.
    fn from(settings: &'e Settings) -> Self {
        Self { settings, rules: settings.rules_in(""), overrides: None }
    }
}

impl<'e> EnforcementPolicy<'e> {
    /// Returns the policy of the settings for a namespace and of its annotation in the facts.
    #[must_use]
    pub fn new(settings: &'e Settings, facts: &'e Facts, namespace: &str) -> Self {
        let overrides = facts.overrides.known().map(|annotation| accept(annotation, settings));
        Self { settings, rules: settings.rules_in(namespace), overrides }
    }

    /// Returns how a rule is enforced.
    #[must_use]
    pub fn for_rule(&self, rule: &Rule) -> Enforcement {
        self.overridden(rule, rule.enforcement)
    }

    /// Whether a rule is not evaluated.
    #[must_use]
    pub fn is_off(&self, rule: &Rule) -> bool {
        self.for_rule(rule) == Enforcement::Off
    }

    /// Returns how a finding is enforced: a certain fault is denied unless settings or the namespace name its rule.
    #[must_use]
    pub fn for_finding(&self, finding: &Finding) -> Enforcement {
        match finding.kind {
            FindingKind::Certain(_) => self.overridden(finding.rule, Enforcement::Deny),
            FindingKind::InternalError => self.settings.internal_errors.into(),
            FindingKind::Advice | FindingKind::Fault(_) | FindingKind::Unchecked => self.for_rule(finding.rule),
        }
    }

    /// Returns what becomes of a change that cannot be made to the running VM.
    #[must_use]
    pub fn live_changes(&self, change: &Change) -> LiveChanges {
        self.settings.live_changes(change.user, || change.groups(), change.subject.namespace)
    }

    /// Returns a warning for the user if the namespace's annotation, or a part of it, has no effect.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let overrides = match self.overrides? {
            Ok(overrides) => overrides,
            Err(rejected) => return Some(format!("namespace annotation {ANNOTATION} has no effect: {rejected}")),
        };
        let mut ignored =
            overrides.iter().filter(|(id, wanted)| find(id).is_some_and(|rule| self.for_rule(rule) != *wanted));
        let (id, wanted) = ignored.next()?;
        let others = match ignored.count() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let wanted = wanted.as_str();
        let have = if others.is_empty() { "has" } else { "have" };
        Some(format!("namespace annotation {ANNOTATION} may only tighten: {id}={wanted}{others} {have} no effect"))
    }

    fn overridden(&self, rule: &Rule, default: Enforcement) -> Enforcement {
        let configured = self.rules.enforcement(rule.id).unwrap_or(default);
        let Some(Ok(overrides)) = self.overrides else { return configured };
        let Some(wanted) = overrides.enforcement(rule.id) else { return configured };
        match self.settings.namespace_override {
            OverridePolicy::Allow => wanted,
            OverridePolicy::Tighten if wanted.is_stricter_than(configured) => wanted,
            OverridePolicy::Forbid | OverridePolicy::Tighten => configured,
        }
    }
}

/// Why the annotation of a namespace has no effect.
#[derive(Clone, Copy, Debug)]
enum RejectedOverrides<'r> {
    Forbidden,
    Malformed(&'r OverridesError),
    UnknownRule(&'r str),
}

impl fmt::Display for RejectedOverrides<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => formatter.write_str("the settings forbid it"),
            Self::Malformed(error) => error.fmt(formatter),
            Self::UnknownRule(id) => write!(formatter, "unknown rule {id}", id = quote(id)),
        }
    }
}

fn accept<'a>(annotation: &'a ParsedOverrides, settings: &Settings) -> Result<&'a Overrides, RejectedOverrides<'a>> {
    if settings.namespace_override == OverridePolicy::Forbid {
        return Err(RejectedOverrides::Forbidden);
    }
    let overrides = annotation.as_ref().map_err(RejectedOverrides::Malformed)?;
    // `find` ignores case; the settings require upper case, and so does the annotation.
    match overrides.iter().find(|(id, _)| find(id).is_none_or(|rule| rule.id != *id)) {
        Some((id, _)) => Err(RejectedOverrides::UnknownRule(id)),
        None => Ok(overrides),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{facts::Fact, rules::CauseType, settings::overrides::Overrides};

    const ENFORCEMENTS: [Enforcement; 3] = [Enforcement::Deny, Enforcement::Off, Enforcement::Warn];

    fn facts(annotation: &str) -> Facts {
        Facts { overrides: Fact::Known(Arc::new(Overrides::parse(annotation))), ..Facts::default() }
    }

    fn settings(namespace_override: OverridePolicy) -> Settings {
        Settings { namespace_override, ..Settings::default() }
    }

    /// Returns how NP103 is enforced, and the warning.
    fn np103(settings: &Settings, annotation: &str) -> (Enforcement, Option<String>) {
        let facts = facts(annotation);
        let policy = EnforcementPolicy::new(settings, &facts, "demo");
        (policy.for_rule(find("NP103").unwrap()), policy.warning())
    }

    #[test]
    fn a_namespace_overrides_the_settings_as_far_as_they_allow() {
        for configured in ENFORCEMENTS {
            for wanted in ENFORCEMENTS {
                let annotation = format!("NP103={}", wanted.as_str());
                let np103 =
                    |override_policy| np103(&settings(override_policy).with_rule("NP103", configured), &annotation);
                assert_eq!(np103(OverridePolicy::Allow), (wanted, None));
                assert_eq!(np103(OverridePolicy::Forbid).0, configured);
                let (enforcement, warning) = np103(OverridePolicy::Tighten);
                let expected = if wanted.is_stricter_than(configured) { wanted } else { configured };
                assert_eq!(
                    (enforcement, warning.is_some()),
                    (expected, expected != wanted),
                    "{configured:?} {wanted:?}"
                );
            }
        }
    }

    #[test]
    fn a_rule_that_is_not_named_keeps_its_default() {
        let (enforcement, warning) = np103(&settings(OverridePolicy::Allow), "NP104=off");
        assert_eq!((enforcement, warning), (find("NP103").unwrap().enforcement, None));
        let unknown = Facts::default();
        assert_eq!(EnforcementPolicy::new(&Settings::default(), &unknown, "demo").warning(), None);
    }

    #[test]
    fn an_annotation_with_a_mistake_has_no_effect_and_causes_a_warning() {
        let malformed = |annotation: &str| Overrides::parse(annotation).unwrap_err().to_string();
        for (override_policy, annotation, reason) in [
            (OverridePolicy::Allow, "NP103=off,NP999=warn", "unknown rule \"NP999\"".to_owned()),
            (OverridePolicy::Allow, "np103=off", "unknown rule \"np103\"".to_owned()),
            (OverridePolicy::Allow, "NP103=off,NP104", malformed("NP103=off,NP104")),
            (OverridePolicy::Tighten, "NP103=off,NP104=no", malformed("NP103=off,NP104=no")),
            (OverridePolicy::Forbid, "NP103=off", "the settings forbid it".to_owned()),
        ] {
            let (enforcement, warning) = np103(&settings(override_policy), annotation);
            assert_eq!(enforcement, Enforcement::Deny, "{annotation}");
            assert_eq!(warning.unwrap(), format!("namespace annotation nicplug.io/rules has no effect: {reason}"));
        }
    }

    #[test]
    fn only_the_entries_that_would_loosen_a_rule_have_no_effect() {
        let settings = settings(OverridePolicy::Tighten).with_rule("NP113", Enforcement::Warn);
        let facts = facts("NP113=deny, NP103=off, NP104=warn, NP105=deny");
        let policy = EnforcementPolicy::new(&settings, &facts, "demo");
        assert_eq!(policy.for_rule(find("NP113").unwrap()), Enforcement::Deny);
        assert_eq!(policy.for_rule(find("NP103").unwrap()), Enforcement::Deny);
        let warning = policy.warning().unwrap();
        let expected = "namespace annotation nicplug.io/rules may only tighten: NP103=off and 1 more have no effect";
        assert_eq!(warning, expected);
    }

    #[test]
    fn a_certain_fault_is_loosened_only_where_loosening_is_allowed() {
        let rule = find("NP107").unwrap();
        assert_eq!(rule.enforcement, Enforcement::Warn);
        let finding = rule.certain(CauseType::Invalid, String::new(), String::new());
        for (override_policy, expected) in
            [(OverridePolicy::Tighten, Enforcement::Deny), (OverridePolicy::Allow, Enforcement::Warn)]
        {
            let (settings, facts) = (settings(override_policy), facts("NP107=warn"));
            assert_eq!(EnforcementPolicy::new(&settings, &facts, "demo").for_finding(&finding), expected);
        }
    }
}
