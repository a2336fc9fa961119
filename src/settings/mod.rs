//! The settings of an administrator: the enforcement of each rule, and facts that nicplug cannot read from the cluster.

mod current;
mod live_changes;
mod namespaces;
pub mod overrides;
mod pattern;

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

pub use self::{
    current::CurrentSettings,
    live_changes::{LiveChanges, LiveChangesSettings},
    namespaces::{NamespaceEntry, NamespaceRules, OverridePolicy},
    pattern::ByPattern,
};
use self::{live_changes::WrittenLiveChanges, namespaces::WrittenNamespace};

/// The consequence of a finding.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// The request is denied.
    Deny,
    /// The request is allowed with a warning.
    Warn,
    /// The rule is not evaluated.
    Off,
}

impl Enforcement {
    const ALL: [Self; 3] = [Self::Deny, Self::Warn, Self::Off];

    /// Reads the name of an enforcement.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|enforcement| enforcement.as_str() == word)
    }

    /// Whether this allows fewer requests than the other.
    #[must_use]
    pub fn is_stricter_than(self, other: Self) -> bool {
        let rank = |enforcement| match enforcement {
            Self::Off => 0,
            Self::Warn => 1,
            Self::Deny => 2,
        };
        rank(self) > rank(other)
    }

    /// Returns the name in settings and tables.
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
    /// `api`.
    pub api: ApiSettings,
    /// `rules`: the enforcement of each rule that the settings name.
    pub rules: BTreeMap<String, Enforcement>,
    /// `attachment`.
    pub attachment: AttachmentSettings,
    /// `events`.
    pub events: EventSettings,
    /// `hotplug`.
    pub hotplug: HotplugSettings,
    /// `internalErrors`: what becomes of a request that a rule cannot judge because of an internal error.
    pub internal_errors: InternalErrors,
    /// `liveChanges`.
    pub live_changes: LiveChangesSettings,
    /// `namespaceOverride`: which enforcement the annotation of a namespace may set.
    pub namespace_override: OverridePolicy,
    /// `namespaces`: the settings of namespaces, by name or pattern.
    pub namespaces: ByPattern<NamespaceEntry>,
    /// `queueMemory`.
    pub queue_memory: QueueMemorySettings,
    /// `reservePorts`: the number of free hotplug ports at every boot, for a guest whose VM does not set its own.
    pub reserve_ports: Option<u64>,
    /// `unplug`: which change of a template unplugs a NIC, for a VM that does not set its own.
    pub unplug: UnplugPolicy,
}

/// `api`: the API groups of forks of KubeVirt.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// `api.groups`: for a group of KubeVirt, the groups in which forks serve the same kinds.
    pub groups: BTreeMap<KubeVirtGroup, Vec<String>>,
}

/// An API group of KubeVirt whose kinds nicplug judges.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub enum KubeVirtGroup {
    /// `kubevirt.io`.
    #[serde(rename = "kubevirt.io")]
    KubeVirt,
    /// `pool.kubevirt.io`.
    #[serde(rename = "pool.kubevirt.io")]
    Pool,
    /// `instancetype.kubevirt.io`: only read, as facts.
    #[serde(rename = "instancetype.kubevirt.io")]
    Instancetype,
}

impl KubeVirtGroup {
    /// Returns the name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KubeVirt => "kubevirt.io",
            Self::Pool => "pool.kubevirt.io",
            Self::Instancetype => "instancetype.kubevirt.io",
        }
    }
}

impl ApiSettings {
    /// Returns the groups of KubeVirt for which forks are named, with the groups of those.
    pub fn forks(&self) -> impl Iterator<Item = (&'static str, Vec<String>)> {
        self.groups.iter().map(|(of, forks)| (of.as_str(), forks.clone()))
    }

    /// Returns the group of KubeVirt that a group stands for: itself unless it is that of a fork.
    #[must_use]
    pub fn of_kubevirt<'g>(&self, group: &'g str) -> &'g str {
        let mut forked = self.groups.iter().filter(|(_, forks)| forks.iter().any(|fork| fork == group));
        forked.next().map_or(group, |(of, _)| of.as_str())
    }

    /// Whether objects of a group are judged as those of another one: it is the same group, or that of a fork.
    #[must_use]
    pub fn judges(&self, group: &str, as_group: &str) -> bool {
        let is_fork = |(of, forks): (&KubeVirtGroup, &Vec<String>)| {
            of.as_str() == as_group && forks.iter().any(|fork| fork == group)
        };
        group == as_group || self.groups.iter().any(is_fork)
    }
}

/// What becomes of a request that a rule cannot judge because of an internal error.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum InternalErrors {
    /// It is denied.
    Deny,
    /// The other rules decide, and a warning says that the rule was not checked.
    #[default]
    Warn,
}

impl From<InternalErrors> for Enforcement {
    fn from(internal_errors: InternalErrors) -> Self {
        match internal_errors {
            InternalErrors::Deny => Self::Deny,
            InternalErrors::Warn => Self::Warn,
        }
    }
}

/// Which change of a VM's template unplugs a NIC from the running guest.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum UnplugPolicy {
    /// `state: absent` only, as KubeVirt has it.
    #[default]
    Absent,
    /// Also an update that drops the NIC from the template.
    Dropped,
}

impl UnplugPolicy {
    /// Reads a policy by its name.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "absent" => Some(Self::Absent),
            "dropped" => Some(Self::Dropped),
            _ => None,
        }
    }
}

/// `attachment`: how a NIC is attached to a running pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AttachmentSettings {
    /// `attachment.dynamicNetworks`: whether Multus' dynamic-networks controller is installed.
    pub dynamic_networks: DynamicNetworks,
    /// `attachment.neverInPlace`: the CNI plugins, by `type`, that attach a NIC only while the pod is created.
    pub never_in_place: Vec<String>,
    /// `attachment.neverByMigration`: the CNI plugins, by `type`, with whose NICs a guest cannot migrate.
    pub never_by_migration: Vec<String>,
    /// `attachment.multusNamespace`: where Multus looks for a default network without a namespace; `None` if its
    /// configuration decides.
    #[serde(deserialize_with = "non_empty")]
    pub multus_namespace: Option<Arc<str>>,
}

/// Reads a text; an empty one is none.
fn non_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<str>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()).map(Arc::from))
}

/// `hotplug`: what this KubeVirt hotplugs beside bridge and SR-IOV.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct HotplugSettings {
    /// `hotplug.bindings`: the binding plugins, by name, with which it hotplugs a NIC as with bridge binding.
    pub bindings: Vec<String>,
}

/// `events`: which Events nicplug writes about NICs that were admitted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EventSettings {
    /// `events.changes`: whether a stored change of the NICs of a running VM has an Event.
    pub changes: bool,
    /// `events.pendingAfterSeconds`: how long a running guest may lack a NIC before an Event reports it; 0 for none.
    pub pending_after_seconds: u32,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self { changes: true, pending_after_seconds: 120 }
    }
}

impl EventSettings {
    /// Returns how long a running guest may lack a NIC before an Event reports it; `None` for no such Event.
    #[must_use]
    pub fn pending_after(&self) -> Option<Duration> {
        let seconds = u64::from(self.pending_after_seconds);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

/// Whether Multus' dynamic-networks controller is installed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum DynamicNetworks {
    /// The DaemonSets of the cluster decide.
    #[default]
    Auto,
    /// It is installed, regardless of the DaemonSets.
    Yes,
    /// It is not installed, regardless of the DaemonSets.
    No,
}

/// `queueMemory`: the limit for queues of virtio NICs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct QueueMemorySettings {
    /// `queueMemory.maxQueues`: the sum over all NICs of a guest; 64 unless set. The only report of a guest whose
    /// memory was exhausted had 80 queues (kubevirt issue 18012: 8 vCPUs, 10 NICs, 8 GiB).
    pub max_queues: u32,
}

impl Default for QueueMemorySettings {
    fn default() -> Self {
        Self { max_queues: 64 }
    }
}

/// Settings that cannot be used. The message is one line that begins with the position in the text.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// The text is not YAML, or has an unknown key or value.
    #[error("{0}")]
    Syntax(String),
    /// `liveChanges` is neither a word nor a map.
    #[error("line {line} column {column}: liveChanges must be deny, warn, or a map with default, users and groups")]
    LiveChanges {
        /// The line, counted from 1.
        line: u64,
        /// The column, counted from 1.
        column: u64,
    },
    /// The rule id does not exist.
    #[error("line {line}: unknown rule {id:?}")]
    UnknownRule {
        /// The id as written.
        id: String,
        /// The line, counted from 1.
        line: u64,
    },
}

impl From<serde_saphyr::Error> for SettingsError {
    /// Keeps the first line only. The parser prints an excerpt of the text in further lines, which do not fit a log.
    fn from(error: serde_saphyr::Error) -> Self {
        let message = error.to_string();
        let first = message.lines().next().unwrap_or_default();
        Self::Syntax(first.strip_prefix("error: ").unwrap_or(first).to_owned())
    }
}

impl Settings {
    /// Reads settings from YAML. `known` holds the ids of all rules.
    ///
    /// # Errors
    /// An unknown key, rule id or value, or text that is not YAML.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, SettingsError> {
        #[derive(Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Document {
            api: ApiSettings,
            rules: BTreeMap<String, Spanned<Enforcement>>,
            attachment: AttachmentSettings,
            events: EventSettings,
            hotplug: HotplugSettings,
            #[serde(rename = "internalErrors")]
            internal_errors: InternalErrors,
            #[serde(rename = "liveChanges")]
            live_changes: Option<Spanned<WrittenLiveChanges>>,
            #[serde(rename = "namespaceOverride")]
            namespace_override: OverridePolicy,
            namespaces: ByPattern<WrittenNamespace>,
            #[serde(rename = "queueMemory")]
            queue_memory: QueueMemorySettings,
            #[serde(rename = "reservePorts")]
            reserve_ports: Option<u8>,
            unplug: UnplugPolicy,
        }

        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        // The reader of the file has checked its size and its aliases.
        let options = serde_saphyr::options! { budget: None };
        let document: Document = serde_saphyr::from_str_with_options(text, options)?;
        let live_changes = match document.live_changes {
            None => LiveChangesSettings::default(),
            Some(Spanned { value: WrittenLiveChanges(Some(settings)), .. }) => settings,
            Some(Spanned { referenced, .. }) => {
                return Err(SettingsError::LiveChanges { line: referenced.line(), column: referenced.column() });
            }
        };
        Ok(Self {
            api: document.api,
            rules: known_rules(document.rules, known)?,
            attachment: document.attachment,
            events: document.events,
            hotplug: document.hotplug,
            live_changes,
            namespace_override: document.namespace_override,
            namespaces: document.namespaces.try_map(|namespace| namespace.read(known))?,
            queue_memory: document.queue_memory,
            reserve_ports: document.reserve_ports.map(u64::from),
            internal_errors: document.internal_errors,
            unplug: document.unplug,
        })
    }

    /// Returns the enforcement of a rule in a namespace, if the settings name the rule: for the namespace, or for all.
    #[must_use]
    pub fn enforcement(&self, rule: &str, namespace: &str) -> Option<Enforcement> {
        self.rules_in(namespace).enforcement(rule)
    }

    /// Returns the enforcement of all rules in a namespace. It compares the namespace with each entry of
    /// `namespaces`, so a request does this once and not for each rule.
    #[must_use]
    pub fn rules_in(&self, namespace: &str) -> NamespaceRules<'_> {
        let of_namespace = self.namespaces.all(namespace).map(|entry| &entry.rules);
        NamespaceRules::new(of_namespace.chain([&self.rules]))
    }

    /// Returns what becomes of a change that cannot be made to a running VM: the first that is set for the user, for
    /// one of the groups, for the namespace, or for all. `groups` is called only if the settings name groups.
    #[must_use]
    pub fn live_changes<G: Deref<Target = str>>(
        &self,
        user: &str,
        groups: impl FnOnce() -> Vec<G>,
        namespace: &str,
    ) -> LiveChanges {
        let LiveChangesSettings { default, users, groups: by_group } = &self.live_changes;
        let of_groups = || if by_group.is_empty() { None } else { by_group.find_any(&groups()) };
        let of_namespace = || self.namespaces.all(namespace).find_map(|entry| entry.live_changes);
        users.find(user).or_else(of_groups).copied().or_else(of_namespace).unwrap_or(*default)
    }

    /// Returns the settings with another enforcement of a rule.
    #[must_use]
    pub fn with_rule(mut self, id: &str, enforcement: Enforcement) -> Self {
        self.rules.insert(id.to_owned(), enforcement);
        self
    }
}

/// Returns the enforcement of rules that exist.
fn known_rules(
    rules: BTreeMap<String, Spanned<Enforcement>>,
    known: &[&str],
) -> Result<BTreeMap<String, Enforcement>, SettingsError> {
    if let Some((id, enforcement)) = rules.iter().find(|(id, _)| !known.contains(&id.as_str())) {
        return Err(SettingsError::UnknownRule { id: id.clone(), line: enforcement.referenced.line() });
    }
    Ok(rules.into_iter().map(|(id, enforcement)| (id, enforcement.value)).collect())
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
            assert_eq!(settings.enforcement("NP103", "demo"), Some(enforcement));
            assert_eq!(settings.enforcement("NP101", "demo"), None);
            assert_eq!(enforcement.as_str(), word);
        }
    }

    #[test]
    fn a_namespace_can_have_rules_of_its_own_and_the_most_specific_entry_counts() {
        let text = "rules: {NP101: warn, NP103: warn}\nnamespaces:\n  \"*\": {rules: {NP101: deny}}\n  \
                    \"lab-*\": {rules: {NP103: off}}\n  lab-1: {rules: {NP103: deny}, liveChanges: warn}";
        let settings = Settings::parse(text, KNOWN).unwrap();
        for (namespace, np101, np103) in [
            ("demo", Enforcement::Deny, Enforcement::Warn),
            ("lab-2", Enforcement::Deny, Enforcement::Off),
            ("lab-1", Enforcement::Deny, Enforcement::Deny),
        ] {
            let found = ["NP101", "NP103"].map(|rule| settings.enforcement(rule, namespace));
            assert_eq!(found, [Some(np101), Some(np103)], "{namespace}");
        }
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        for text in ["", "\n# nothing\n", "rules: {}"] {
            assert_eq!(Settings::parse(text, KNOWN).unwrap(), Settings::default(), "{text:?}");
        }
    }

    #[test]
    fn facts_that_the_cluster_does_not_show_can_be_set() {
        let settings =
            Settings::parse("attachment: {dynamicNetworks: yes}\nqueueMemory: {maxQueues: 16}", KNOWN).unwrap();
        assert_eq!(settings.attachment.dynamic_networks, DynamicNetworks::Yes);
        assert_eq!(settings.queue_memory.max_queues, 16);
        let settings = Settings::parse("attachment: {neverInPlace: [kube-ovn]}", KNOWN).unwrap();
        assert_eq!(settings.attachment.never_in_place, ["kube-ovn"]);
        let settings = Settings::parse("attachment: {neverByMigration: [host-device]}", KNOWN).unwrap();
        assert_eq!(settings.attachment.never_by_migration, ["host-device"]);
        for (text, namespace) in [("openshift-multus", Some("openshift-multus")), ("\"\"", None)] {
            let settings = Settings::parse(&format!("attachment: {{multusNamespace: {text}}}"), KNOWN).unwrap();
            assert_eq!(settings.attachment.multus_namespace.as_deref(), namespace);
        }
        let settings = Settings::parse("hotplug: {bindings: [managedtap]}", KNOWN).unwrap();
        assert_eq!(settings.hotplug.bindings, ["managedtap"]);
        let settings = Settings::parse("attachment: {dynamicNetworks: \"no\"}", KNOWN).unwrap();
        assert_eq!(settings.attachment.dynamic_networks, DynamicNetworks::No);
        assert_eq!(settings.queue_memory.max_queues, 64);
    }

    #[test]
    fn a_namespace_may_only_be_stricter_unless_the_settings_allow_more() {
        for (text, override_policy) in [
            ("", OverridePolicy::Tighten),
            ("namespaces: {}", OverridePolicy::Tighten),
            ("namespaces: {override: {}}", OverridePolicy::Tighten),
            ("namespaceOverride: allow", OverridePolicy::Allow),
            ("namespaceOverride: forbid", OverridePolicy::Forbid),
            ("namespaceOverride: tighten", OverridePolicy::Tighten),
        ] {
            assert_eq!(Settings::parse(text, KNOWN).unwrap().namespace_override, override_policy, "{text:?}");
        }
    }

    #[test]
    fn an_error_names_the_mistake() {
        for (text, part) in [
            ("attachment: {dynamicNetwork: no}", "dynamicNetwork"),
            ("attachment: {dynamicNetworks: maybe}", "maybe"),
            ("hotplug: {binding: [managedtap]}", "binding"),
            ("queueMemory: {maxQueues: -1}", "line 1"),
            ("namespaceOverride: loosen", "unknown variant `loosen`"),
            ("rules:\n  NP103: warn\n  NP999: warn", "line 3: unknown rule \"NP999\""),
            ("namespaces:\n  lab:\n    rules:\n      NP999: warn", "line 4: unknown rule \"NP999\""),
            ("namespaces: {lab: {rules: {NP103: loud}}}", "unknown variant `loud`"),
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
