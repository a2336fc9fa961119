//! `liveChanges`: what becomes of a change that cannot be made to a running VM.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::ByPattern;

/// What becomes of a change that cannot be made to a running VM.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum LiveChanges {
    /// It is denied, unless the VM has the annotation `nicplug.io/apply: on-restart`.
    #[default]
    Deny,
    /// It is stored for the next restart, with a warning and an Event.
    Warn,
}

impl LiveChanges {
    /// Returns the name in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Warn => "warn",
        }
    }
}

/// `liveChanges`: for whom a change that cannot be made to a running VM is denied. The settings have a map, or a word
/// for the default alone.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct LiveChangesSettings {
    /// `liveChanges.default`: for a request that no other setting matches.
    pub default: LiveChanges,
    /// `liveChanges.users`: by the user name of the request.
    pub users: ByPattern<LiveChanges>,
    /// `liveChanges.groups`: by the groups of that user.
    pub groups: ByPattern<LiveChanges>,
}

/// `liveChanges` as it is written: `None` if it is neither a word nor a map. The parser reports no useful position of an
/// error in a value that may be of several types, so the caller does.
pub(super) struct WrittenLiveChanges(pub(super) Option<LiveChangesSettings>);

impl<'de> Deserialize<'de> for WrittenLiveChanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrMap;

        impl<'de> Visitor<'de> for WordOrMap {
            type Value = Option<LiveChangesSettings>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("deny, warn, or a map")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_str<E>(self, word: &str) -> Result<Self::Value, E> {
                let default = [LiveChanges::Deny, LiveChanges::Warn].into_iter().find(|known| known.as_str() == word);
                Ok(default.map(|default| LiveChangesSettings { default, ..LiveChangesSettings::default() }))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(None)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                LiveChangesSettings::deserialize(MapAccessDeserializer::new(map)).map(Some)
            }
        }

        deserializer.deserialize_any(WordOrMap).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn live_changes(text: &str, user: &str, groups: &[&'static str], namespace: &str) -> LiveChanges {
        Settings::parse(text, &[]).unwrap().live_changes(user, || groups.to_vec(), namespace)
    }

    #[test]
    fn a_user_comes_before_its_groups_these_before_the_namespace_and_that_before_the_default() {
        let users = "liveChanges: {users: {alice: deny, \"a*\": warn}}";
        let groups = "liveChanges: {groups: {ops: warn, \"o*\": deny, \"*\": warn}}";
        let namespaces = "namespaces: {demo: {liveChanges: warn}, \"*\": {liveChanges: deny}}";
        let unset = "namespaces: {demo: {}, \"d*\": {liveChanges: warn}}";
        let all = "liveChanges:\n  default: deny\n  users: {alice: warn}\n  groups: {ops: deny, dev: warn}\n\
                   namespaceOverride: allow\nnamespaces: {demo: {liveChanges: warn}}";
        for (text, user, groups, namespace, is_warned) in [
            ("", "alice", &["ops"][..], "demo", false),
            ("liveChanges: deny", "alice", &[], "demo", false),
            ("liveChanges: warn", "alice", &[], "demo", true),
            ("liveChanges: {}", "alice", &[], "demo", false),
            ("liveChanges: {default: warn}", "alice", &[], "demo", true),
            (users, "alice", &[], "demo", false),
            (users, "albert", &[], "demo", true),
            (users, "bob", &[], "demo", false),
            (groups, "alice", &["ops"], "demo", true),
            (groups, "alice", &["other"], "demo", false),
            // The most specific entry of all groups counts.
            (groups, "alice", &["other", "ops"], "demo", true),
            (groups, "alice", &["dev"], "demo", true),
            (groups, "alice", &[], "demo", false),
            (namespaces, "alice", &[], "demo", true),
            (namespaces, "alice", &[], "prod", false),
            (unset, "alice", &[], "demo", true),
            (all, "alice", &["ops"], "prod", true),
            (all, "bob", &["ops"], "demo", false),
            (all, "bob", &["dev"], "prod", true),
            (all, "bob", &[], "demo", true),
            (all, "bob", &[], "prod", false),
        ] {
            let expected = if is_warned { LiveChanges::Warn } else { LiveChanges::Deny };
            assert_eq!(live_changes(text, user, groups, namespace), expected, "{text} {user} {groups:?} {namespace}");
        }
    }

    #[test]
    fn groups_are_read_only_if_the_settings_name_some() {
        for text in ["", "liveChanges: warn", "liveChanges: {users: {bob: warn}}", "liveChanges: {groups: {}}"] {
            let settings = Settings::parse(text, &[]).unwrap();
            let read = || -> Vec<&str> { panic!("{text}") };
            let _ = settings.live_changes("alice", read, "demo");
        }
    }

    #[test]
    fn an_error_names_the_mistake_and_its_position() {
        for (text, error) in [
            ("liveChanges: maybe", "line 1 column 14: liveChanges must be deny, warn, or a map"),
            ("rules: {}\nliveChanges: off", "line 2 column 14: liveChanges must be deny, warn, or a map"),
            ("rules: {}\nliveChanges: [warn]", "line 2 column 14: liveChanges must be deny, warn, or a map"),
            ("liveChanges:\n  default: maybe", "line 2 column 12: unknown variant `maybe`, expected one of deny, warn"),
            ("liveChanges:\n  user: {a: warn}", "line 2 column 3: unknown field `user`, expected one of default"),
            ("liveChanges:\n  users:\n    alice: of", "line 3 column 12: unknown variant `of`"),
            ("liveChanges:\n  users: {\"\": warn}", "line 2 column 11: a name is empty"),
            ("liveChanges:\n  groups: [ops]", "line 2 column 11: expected mapping"),
            ("namespaces: {demo: warn}", "line 1 column 20: expected mapping"),
            ("namespaces:\n  demo: {liveChanges: no}", "line 2 column 23: unknown variant `no`"),
            ("namespaces:\n  demo: {live: warn}", "line 2 column 10: unknown field `live`"),
            ("namespaces:\n  \"\": {liveChanges: warn}", "line 2 column 3: a name is empty"),
            ("liveChanges: {users: {a: warn, a: deny}}", "line 1 column 32: duplicate mapping key"),
        ] {
            let found = Settings::parse(text, &[]).unwrap_err().to_string();
            assert!(found.starts_with(error) && found.lines().count() == 1, "{text}: {found}");
        }
    }
}
