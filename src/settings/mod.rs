//! What an administrator may choose: how strictly each rule is enforced, and what the cluster does not tell.

mod current;
pub mod overrides;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

pub use self::current::CurrentSettings;

/// What happens with what a rule finds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// The request is refused.
    Deny,
    /// The request goes on with a warning.
    Warn,
    /// The rule is not asked.
    Off,
}

impl Enforcement {
    const ALL: [Self; 3] = [Self::Deny, Self::Warn, Self::Off];

    /// The enforcement of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|enforcement| enforcement.as_str() == word)
    }

    /// Whether less passes than with another.
    #[must_use]
    pub fn is_stricter_than(self, other: Self) -> bool {
        let rank = |enforcement| match enforcement {
            Self::Off => 0,
            Self::Warn => 1,
            Self::Deny => 2,
        };
        rank(self) > rank(other)
    }

    /// As settings and tables write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Warn => "warn",
            Self::Off => "off",
        }
    }
}

/// The settings of a server or a command.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// `rules`: the enforcement of those that settings name.
    pub rules: BTreeMap<String, Enforcement>,
    /// `attachment`.
    pub attachment: AttachmentSettings,
    /// `namespaces`.
    pub namespaces: NamespaceSettings,
    /// `queueMemory`.
    pub queue_memory: QueueMemorySettings,
    /// `reservePorts`: free hotplug ports at every boot of a guest whose VM does not ask for another number.
    pub reserve_ports: Option<u64>,
}

/// `attachment`: how NICs reach a pod that runs already.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AttachmentSettings {
    /// `attachment.dynamicNetworks`: whether Multus' dynamic-networks controller is there.
    pub dynamic_networks: DynamicNetworks,
}

/// Whether Multus' dynamic-networks controller is there.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum DynamicNetworks {
    /// As the cluster's DaemonSets show.
    #[default]
    Auto,
    /// It is, whatever they show.
    Yes,
    /// It is not, whatever they show.
    No,
}

/// `namespaces`: what a namespace may decide for itself.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceSettings {
    /// `namespaces.override`: which enforcement the annotation of a namespace may ask for.
    #[serde(rename = "override")]
    pub override_policy: OverridePolicy,
}

/// Which enforcement the annotation of a namespace may ask for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum OverridePolicy {
    /// Any.
    Allow,
    /// None.
    Forbid,
    /// A stricter one than it would have. What the administrator of the cluster denies stays denied, whoever may edit
    /// a Namespace.
    #[default]
    Tighten,
}

/// `queueMemory`: how many queues of virtio NICs are too many.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct QueueMemorySettings {
    /// `queueMemory.maxQueues`: of all NICs of a guest together; 64 unless set. The one report of a guest whose
    /// memory was eaten up had 80 (kubevirt issue 18012: 8 vCPUs, 10 NICs, 8 GiB).
    pub max_queues: u32,
}

impl Default for QueueMemorySettings {
    fn default() -> Self {
        Self { max_queues: 64 }
    }
}

/// Settings that cannot be used. It is told in one line, which begins with the line of the text.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// The text is no YAML, or has an unknown key or value.
    #[error("{0}")]
    Syntax(String),
    /// A rule id that does not exist.
    #[error("line {line}: there is no rule {id:?}; `nicplug rules` lists the ids")]
    UnknownRule {
        /// As written.
        id: String,
        /// Where, from 1 on.
        line: u64,
    },
}

impl From<serde_saphyr::Error> for SettingsError {
    /// The parser draws the place in further lines, which a log has no room for.
    fn from(error: serde_saphyr::Error) -> Self {
        let drawn = error.to_string();
        let first = drawn.lines().next().unwrap_or_default();
        Self::Syntax(first.strip_prefix("error: ").unwrap_or(first).to_owned())
    }
}

impl Settings {
    /// Reads settings from YAML. `known` are the ids of all rules.
    ///
    /// # Errors
    /// An unknown key, rule id or value, or no YAML at all.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, SettingsError> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Document {
            rules: BTreeMap<String, Spanned<Enforcement>>,
            attachment: AttachmentSettings,
            namespaces: NamespaceSettings,
            #[serde(rename = "queueMemory")]
            queue_memory: QueueMemorySettings,
            #[serde(rename = "reservePorts")]
            reserve_ports: Option<u8>,
        }

        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let Document { rules, attachment, namespaces, queue_memory, reserve_ports } = serde_saphyr::from_str(text)?;
        if let Some((id, enforcement)) = rules.iter().find(|(id, _)| !known.contains(&id.as_str())) {
            return Err(SettingsError::UnknownRule { id: id.clone(), line: enforcement.referenced.line() });
        }
        let rules = rules.into_iter().map(|(id, enforcement)| (id, enforcement.value)).collect();
        Ok(Self { rules, attachment, namespaces, queue_memory, reserve_ports: reserve_ports.map(u64::from) })
    }

    /// How a rule is enforced, if the settings say so.
    #[must_use]
    pub fn enforcement(&self, rule: &str) -> Option<Enforcement> {
        self.rules.get(rule).copied()
    }

    /// The same settings with one rule enforced in another way.
    #[must_use]
    pub fn with_rule(mut self, id: &str, enforcement: Enforcement) -> Self {
        self.rules.insert(id.to_owned(), enforcement);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["NP101", "NP103"];

    #[test]
    fn a_rule_can_be_set_to_each_enforcement() {
        for (word, enforcement) in [("deny", Enforcement::Deny), ("warn", Enforcement::Warn), ("off", Enforcement::Off)]
        {
            let settings = Settings::parse(&format!("rules: {{NP103: {word}}}"), KNOWN).unwrap();
            assert_eq!(settings.enforcement("NP103"), Some(enforcement));
            assert_eq!(settings.enforcement("NP101"), None);
            assert_eq!(enforcement.as_str(), word);
        }
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        for text in ["", "\n# nothing\n", "rules: {}"] {
            assert_eq!(Settings::parse(text, KNOWN).unwrap(), Settings::default(), "{text:?}");
        }
    }

    #[test]
    fn what_the_cluster_does_not_tell_can_be_set() {
        let settings =
            Settings::parse("attachment: {dynamicNetworks: yes}\nqueueMemory: {maxQueues: 16}", KNOWN).unwrap();
        assert_eq!(settings.attachment.dynamic_networks, DynamicNetworks::Yes);
        assert_eq!(settings.queue_memory.max_queues, 16);
        let settings = Settings::parse("attachment: {dynamicNetworks: \"no\"}", KNOWN).unwrap();
        assert_eq!(settings.attachment.dynamic_networks, DynamicNetworks::No);
        assert_eq!(settings.queue_memory.max_queues, 64);
    }

    #[test]
    fn a_namespace_may_only_be_stricter_unless_settings_say_otherwise() {
        for (text, override_policy) in [
            ("", OverridePolicy::Tighten),
            ("namespaces: {}", OverridePolicy::Tighten),
            ("namespaces: {override: allow}", OverridePolicy::Allow),
            ("namespaces: {override: forbid}", OverridePolicy::Forbid),
            ("namespaces: {override: tighten}", OverridePolicy::Tighten),
        ] {
            assert_eq!(Settings::parse(text, KNOWN).unwrap().namespaces.override_policy, override_policy, "{text:?}");
        }
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, part) in [
            ("attachment: {dynamicNetwork: no}", "dynamicNetwork"),
            ("attachment: {dynamicNetworks: maybe}", "maybe"),
            ("queueMemory: {maxQueues: -1}", "line 1"),
            ("namespaces: {override: loosen}", "unknown variant `loosen`"),
            ("rules:\n  NP103: warn\n  NP999: warn", "line 3: there is no rule \"NP999\""),
            ("rules:\n  NP103: loud", "line 2 column 10: unknown variant `loud`"),
            ("rule: {NP103: warn}", "rule"),
            ("rules: [NP103]", "line 1"),
        ] {
            let error = Settings::parse(text, KNOWN).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.starts_with("line ") && error.lines().count() == 1,
                "{text}: {error}"
            );
        }
    }
}
