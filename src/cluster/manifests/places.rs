//! Where the fields of an object are in its file.

use std::collections::BTreeMap;

/// A place in a text.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// The length in characters on that line; 1 if it is not known.
    pub length: usize,
}

impl Position {
    /// Returns the first place of a text.
    #[must_use]
    pub fn start() -> Self {
        Self { line: 1, column: 1, length: 1 }
    }
}

/// The place of a value, and of each value in it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Places {
    /// Where the value begins.
    pub at: Position,
    pub(super) children: Children,
}

/// The places of the values in a value.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Children {
    #[default]
    None,
    Entries(Vec<Places>),
    /// Each key with its own place.
    Fields(BTreeMap<String, (Position, Places)>),
}

impl Places {
    /// Returns the place of a field such as `spec.networks[0].name` or `metadata.annotations[nicplug.io/persist]`: of
    /// its value, or of its key if the value has several lines. A field that the text does not have is at its nearest
    /// parent.
    #[must_use]
    pub fn find(&self, path: &str) -> Position {
        let mut at = self.at;
        let mut places = self;
        for segment in segments(path) {
            let next = match (&places.children, segment) {
                (Children::Entries(entries), segment) => {
                    segment.parse::<usize>().ok().and_then(|index| entries.get(index)).map(|entry| (entry.at, entry))
                }
                (Children::Fields(fields), segment) => fields.get(segment).map(|(key, value)| {
                    let is_scalar = matches!(value.children, Children::None);
                    (if is_scalar { value.at } else { *key }, value)
                }),
                (Children::None, _) => None,
            };
            let Some((found, value)) = next else { break };
            (at, places) = (found, value);
        }
        at
    }

    /// Returns the places of the entries of a field that is a list.
    pub(super) fn entries_of(self, key: &str) -> Vec<Self> {
        match self.children {
            Children::Fields(mut fields) => match fields.remove(key).map(|(_, list)| list.children) {
                Some(Children::Entries(entries)) => entries,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

/// Splits the path of a field into keys and indices. A key in brackets may contain dots and quotes.
#[must_use]
pub fn segments(path: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(bracket) = rest.strip_prefix('[') {
            let (inside, after) = bracket.split_once(']').unwrap_or((bracket, ""));
            segments.push(inside.trim_matches('"'));
            rest = after;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            if !key.is_empty() {
                segments.push(key);
            }
            rest = after;
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_at_dots_and_brackets() {
        for (path, expected) in [
            ("", &[][..]),
            ("spec", &["spec"]),
            ("spec.networks[10].multus.networkName", &["spec", "networks", "10", "multus", "networkName"]),
            ("metadata.annotations[nicplug.io/persist]", &["metadata", "annotations", "nicplug.io/persist"]),
            ("a[\"b.c\"].d", &["a", "b.c", "d"]),
            ("a[0", &["a", "0"]),
        ] {
            assert_eq!(segments(path), expected, "{path}");
        }
    }
}
