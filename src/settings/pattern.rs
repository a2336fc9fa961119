//! Values for names and patterns of names.

use std::{cmp::Reverse, collections::BTreeSet, fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

/// A map from names and patterns to values. In a pattern `*` stands for any characters, and also for none.
///
/// The entries are sorted: the most specific first. That is a name without `*`, then the pattern with the most
/// characters apart from `*`; of equally specific ones the first in the alphabet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ByPattern<T>(Box<[(Pattern, T)]>);

/// The longest name that a pattern other than `*` matches, in bytes. A request may have a longer one of a user.
const NAME_AT_MOST: usize = 1024;

impl<T> Default for ByPattern<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T> FromIterator<(Pattern, T)> for ByPattern<T> {
    fn from_iter<I: IntoIterator<Item = (Pattern, T)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.rank().cmp(&other.rank()));
        Self(entries.into())
    }
}

impl<T> ByPattern<T> {
    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns all entries, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = (&Pattern, &T)> {
        self.0.iter().map(|(pattern, value)| (pattern, value))
    }

    /// Returns the value of the most specific entry that matches the name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&T> {
        self.all(name).next()
    }

    /// Returns the value of the most specific entry that matches one of the names.
    #[must_use]
    pub fn find_any(&self, names: &[impl Deref<Target = str>]) -> Option<&T> {
        // A user may have many groups, and most entries have no `*`.
        let sorted: BTreeSet<&str> = names.iter().map(|name| &**name).collect();
        let matches = |pattern: &Pattern| match pattern.name() {
            Some(name) => sorted.contains(name),
            None => sorted.iter().any(|name| pattern.matches(name)),
        };
        self.0.iter().find(|(pattern, _)| matches(pattern)).map(|(_, value)| value)
    }

    /// Returns the map with other values.
    pub(super) fn try_map<U, E>(self, change: impl Fn(T) -> Result<U, E>) -> Result<ByPattern<U>, E> {
        let entries = self.0.into_iter().map(|(pattern, value)| Ok((pattern, change(value)?)));
        entries.collect::<Result<_, E>>().map(ByPattern)
    }

    /// Returns the values of all entries that match the name, the most specific first.
    pub fn all<'m>(&'m self, name: &str) -> impl Iterator<Item = &'m T> {
        self.0.iter().filter(|(pattern, _)| pattern.matches(name)).map(|(_, value)| value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByPattern<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
            type Value = ByPattern<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map of names or patterns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries.into_iter().collect())
            }
        }

        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

/// A name, or a pattern with `*`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(Box<str>);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Box::<str>::deserialize(deserializer)? {
            text if text.is_empty() => Err(D::Error::custom("a name is empty; write a name, or * for all")),
            text => Ok(Self(text)),
        }
    }
}

impl Pattern {
    /// Returns the name; `None` for a pattern of names.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }

    /// Whether it is a pattern that matches some names only.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.name().is_none() && !self.matches("")
    }

    fn rank(&self) -> (bool, Reverse<usize>, &str) {
        let stars = self.0.matches('*').count();
        (stars > 0, Reverse(self.0.chars().count() - stars), &self.0)
    }

    fn matches(&self, name: &str) -> bool {
        if name.len() > NAME_AT_MOST {
            return &*self.0 == "*";
        }
        let mut parts = self.0.split('*');
        let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else { return false };
            rest = after;
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(patterns: &[&str]) -> ByPattern<String> {
        patterns.iter().map(|&pattern| (Pattern(pattern.into()), pattern.to_owned())).collect()
    }

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_is_special() {
        for (pattern, name, expected) in [
            ("demo", "demo", true),
            ("demo", "demo2", false),
            ("de*", "demo", true),
            ("demo*", "demo", true),
            ("*mo", "demo", true),
            ("*", "", true),
            ("**", "demo", true),
            ("d*m*o", "demo", true),
            ("d*mm*o", "demo", false),
            ("dem*emo", "demo", false),
            ("a*b*c", "abbc", true),
            ("system:serviceaccount:harvester-system:*", "system:serviceaccount:harvester-system:default", true),
            ("system:serviceaccount:harvester-system:*", "system:serviceaccount:harvester:default", false),
            ("d.mo", "demo", false),
            ("d?mo", "demo", false),
            ("[d]emo", "demo", false),
            ("é*", "été", true),
            ("n*", &"n".repeat(NAME_AT_MOST), true),
            ("n*", &"n".repeat(NAME_AT_MOST + 1), false),
            ("*", &"n".repeat(NAME_AT_MOST + 1), true),
        ] {
            assert_eq!(map(&[pattern]).find(name).is_some(), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_most_specific_entry_is_the_first() {
        let map = map(&["*", "team-*", "team-a", "*-a", "t*-a", "a*", "*a"]);
        for (name, expected) in [
            ("team-a", &["team-a", "team-*", "t*-a", "*-a", "*a", "*"][..]),
            ("team-b", &["team-*", "*"]),
            // Two that are equally specific are in the order of the alphabet.
            ("aa", &["*a", "a*", "*"]),
            ("b", &["*"]),
        ] {
            assert_eq!(map.all(name).collect::<Vec<_>>(), expected, "{name}");
            assert_eq!(map.find(name).map(String::as_str), expected.first().copied(), "{name}");
        }
        assert_eq!(map.find_any(&["b", "team-b"]).map(String::as_str), Some("team-*"));
        assert_eq!(map.find_any(&[""; 0]), None);
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_the_naive_search_does(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            fn naive(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([], name) => name.is_empty(),
                    ([b'*', pattern @ ..], name) => (0..=name.len()).any(|at| naive(pattern, &name[at..])),
                    ([first, pattern @ ..], [letter, name @ ..]) => first == letter && naive(pattern, name),
                    _ => false,
                }
            }
            prop_assert_eq!(Pattern(pattern.as_str().into()).matches(&name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
