//! `namespaces`, the settings of single namespaces, and `namespaceOverride`, what these may set by themselves.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Enforcement, SettingsError, known_rules, live_changes::LiveChanges};

/// `namespaces.NAME`: the settings of the namespaces with this name or pattern.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamespaceEntry {
    /// `liveChanges`: `None` if the entry does not set it.
    pub live_changes: Option<LiveChanges>,
    /// `rules`: the enforcement of each rule that the entry names.
    pub rules: BTreeMap<String, Enforcement>,
}

/// The enforcement of rules in one namespace.
#[derive(Clone, Debug)]
pub struct NamespaceRules<'s>(Vec<&'s BTreeMap<String, Enforcement>>);

impl<'s> NamespaceRules<'s> {
    /// Takes the maps that apply to the namespace, the most specific first.
    pub(super) fn new(maps: impl Iterator<Item = &'s BTreeMap<String, Enforcement>>) -> Self {
        Self(maps.filter(|rules| !rules.is_empty()).collect())
    }

    /// Returns the enforcement of a rule, if the settings name the rule: for the namespace, or for all.
    #[must_use]
    pub fn enforcement(&self, rule: &str) -> Option<Enforcement> {
        self.0.iter().find_map(|rules| rules.get(rule)).copied()
    }
}

/// `namespaceOverride`: which enforcement the annotation of a namespace may set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum OverridePolicy {
    /// Any.
    Allow,
    /// None.
    Forbid,
    /// Only a stricter one. A request that the cluster administrator denies stays denied, even if other users can edit
    /// the Namespace.
    #[default]
    Tighten,
}

/// `namespaces.NAME` as it is written: the rules may not exist.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WrittenNamespace {
    live_changes: Option<LiveChanges>,
    rules: BTreeMap<String, Spanned<Enforcement>>,
}

impl WrittenNamespace {
    /// Returns the settings, if every rule exists.
    pub(super) fn read(self, known: &[&str]) -> Result<NamespaceEntry, SettingsError> {
        let Self { live_changes, rules } = self;
        known_rules(rules, known).map(|rules| NamespaceEntry { live_changes, rules })
    }
}
