//! The values of a document with their places, as they are in its text.
//!
//! A tree borrows its texts, so that a document without an anchor, an escape or a text of several lines is read without
//! a copy of them.

use std::{borrow::Cow, collections::HashMap};

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::{Number, Value};

use super::ManifestError;

const NAMESPACE: &str = "namespace";

/// How many keys of an object are compared one by one; more are found by their hashes.
const MAX_COMPARED: usize = 16;

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

/// A value with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree<'t> {
    /// Where the value begins.
    pub at: Position,
    pub(super) content: Content<'t>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content<'t> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'t, str>),
    List(Vec<Tree<'t>>),
    /// In the order of the text. No two keys are equal.
    Object(Vec<Entry<'t>>),
}

/// A key of an object, its place and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry<'t> {
    pub(super) key: Cow<'t, str>,
    pub(super) at: Position,
    pub(super) value: Tree<'t>,
}

impl<'t> Tree<'t> {
    /// Returns the place of a field such as `spec.networks[0].name` or `metadata.annotations[nicplug.io/persist]`: of
    /// its value, or of its key if the value has several lines. A field that the text does not have is at its nearest
    /// parent.
    #[must_use]
    pub fn find(&self, path: &str) -> Position {
        let (mut at, mut value) = (self.at, self);
        for segment in segments(path) {
            let next = match &value.content {
                Content::List(entries) => {
                    segment.parse::<usize>().ok().and_then(|index| entries.get(index)).map(|entry| (entry.at, entry))
                }
                Content::Object(_) => value.entry(segment).map(|Entry { at, value, .. }| {
                    let has_children = matches!(value.content, Content::List(_) | Content::Object(_));
                    (if has_children { *at } else { value.at }, value)
                }),
                _ => None,
            };
            let Some(found) = next else { break };
            (at, value) = found;
        }
        at
    }

    /// Returns the value of a field; `None` if it is missing.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Returns a field that is a text; empty if it is missing or something else.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        match self.get(key).map(|value| &value.content) {
            Some(Content::Text(text)) => text,
            _ => "",
        }
    }

    /// Sets the namespace of an object that does not name one.
    pub fn set_namespace(&mut self, namespace: &str) {
        let Content::Object(entries) = &mut self.content else { return };
        let Some(Entry { value: metadata, .. }) = entries.iter_mut().find(|entry| entry.key == "metadata") else {
            return;
        };
        if !metadata.text(NAMESPACE).is_empty() {
            return;
        }
        let at = metadata.at;
        let value = Tree { at, content: Content::Text(Cow::Owned(namespace.to_owned())) };
        let Content::Object(entries) = &mut metadata.content else { return };
        match entries.iter_mut().find(|entry| entry.key == NAMESPACE) {
            Some(entry) => entry.value = value,
            None => entries.push(Entry { key: Cow::Borrowed(NAMESPACE), at, value }),
        }
    }

    /// Returns the value without places.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(number) => Value::Number(number.clone()),
            Content::Text(text) => Value::String(text.clone().into_owned()),
            Content::List(entries) => entries.iter().map(Self::to_value).collect(),
            Content::Object(entries) => {
                entries.iter().map(|entry| (entry.key.clone().into_owned(), entry.value.to_value())).collect()
            }
        }
    }

    /// Returns the JSON text of the value.
    ///
    /// # Errors
    /// None: every tree has a JSON text.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Returns the tree with copies of its texts.
    pub(super) fn into_owned(self) -> Tree<'static> {
        let own = |text: Cow<str>| Cow::Owned(text.into_owned());
        let content = match self.content {
            Content::Null => Content::Null,
            Content::Bool(value) => Content::Bool(value),
            Content::Number(number) => Content::Number(number),
            Content::Text(text) => Content::Text(own(text)),
            Content::List(entries) => Content::List(entries.into_iter().map(Tree::into_owned).collect()),
            Content::Object(entries) => {
                let entry = |Entry { key, at, value }: Entry| Entry { key: own(key), at, value: value.into_owned() };
                Content::Object(entries.into_iter().map(entry).collect())
            }
        };
        Tree { at: self.at, content }
    }

    /// Returns the items if this is a `List`.
    pub(super) fn into_items(self) -> Result<Vec<Tree<'t>>, Self> {
        let is_list = self.text("kind").ends_with("List");
        match self.content {
            Content::Object(mut entries) if is_list => {
                let items = entries.iter().position(|entry| entry.key == "items");
                match items.and_then(|index| entries.get_mut(index)).map(|entry| &mut entry.value.content) {
                    Some(Content::List(items)) => Ok(std::mem::take(items)),
                    _ => Err(Self { at: self.at, content: Content::Object(entries) }),
                }
            }
            content => Err(Self { at: self.at, content }),
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry<'t>> {
        match &self.content {
            Content::Object(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }
}

impl Serialize for Tree<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.content {
            Content::Null => serializer.serialize_unit(),
            Content::Bool(value) => serializer.serialize_bool(*value),
            Content::Number(number) => number.serialize(serializer),
            Content::Text(text) => serializer.serialize_str(text),
            Content::List(entries) => {
                let mut list = serializer.serialize_seq(Some(entries.len()))?;
                entries.iter().try_for_each(|entry| list.serialize_element(entry))?;
                list.end()
            }
            Content::Object(entries) => {
                let mut object = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|entry| object.serialize_entry(&entry.key, &entry.value))?;
                object.end()
            }
        }
    }
}

/// The fields of an object that is not complete.
#[derive(Default)]
pub(super) struct Fields<'t> {
    entries: Vec<Entry<'t>>,
    /// The number of each key in `entries`; empty if they are few.
    numbers: HashMap<Cow<'t, str>, usize>,
}

impl<'t> Fields<'t> {
    pub(super) fn find(&self, key: &str) -> Option<&Entry<'t>> {
        if self.numbers.is_empty() {
            self.entries.iter().find(|entry| entry.key == key)
        } else {
            self.numbers.get(key).and_then(|&number| self.entries.get(number))
        }
    }

    /// Refuses a key that the object has already: one of the two values would be lost.
    pub(super) fn check(&self, key: &str, at: Position) -> Result<(), ManifestError> {
        let Some(first) = self.find(key) else { return Ok(()) };
        let message = format!("the key {key:?} is in line {} already; keep one of the two", first.at.line);
        Err(ManifestError { at, message })
    }

    /// Adds a field that the object does not have.
    pub(super) fn push(&mut self, key: Cow<'t, str>, at: Position, value: Tree<'t>) {
        self.entries.push(Entry { key, at, value });
        if self.entries.len() > MAX_COMPARED {
            let new = self.entries.iter().enumerate().skip(self.numbers.len());
            self.numbers.extend(new.map(|(number, entry)| (entry.key.clone(), number)));
        }
    }
}

impl<'t> From<Fields<'t>> for Content<'t> {
    fn from(fields: Fields<'t>) -> Self {
        Self::Object(fields.entries)
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
    use serde_json::json;

    use super::{super::documents, *};

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

    fn tree(text: &str) -> Tree<'_> {
        documents(text).next().unwrap().trees().unwrap().remove(0)
    }

    #[test]
    fn a_second_key_is_found_among_few_keys_and_among_many() {
        for count in [1, MAX_COMPARED, MAX_COMPARED + 1, 1000] {
            let keys: Vec<String> = (0..count).map(|number| format!("k{number}: {number}\n")).collect();
            assert_eq!(tree(&keys.concat()).to_value().as_object().unwrap().len(), count);
            for again in [0, count / 2, count - 1] {
                let text = format!("{}k{again}: x\n", keys.concat());
                let error = documents(&text).next().unwrap().trees().unwrap_err();
                assert_eq!(error.at.line, count + 1);
                assert!(error.message.contains(&format!("\"k{again}\" is in line {} already", again + 1)), "{error}");
            }
        }
    }

    #[test]
    fn a_tree_borrows_its_texts_and_has_the_json_text_of_its_value() {
        for text in [
            "a: [plain, 'quoted', \"e\\tx\", 1.5, -2, true, null]\nb: |\n  x\n",
            r#"{"a": ["plain", "e\tx", 1.5, -2, true, null], "b": {}}"#,
        ] {
            let tree = tree(text);
            assert_eq!(serde_json::from_str::<Value>(&tree.to_json().unwrap()).unwrap(), tree.to_value());
            let Some(Content::List(entries)) = tree.get("a").map(|list| &list.content) else { panic!("{tree:?}") };
            assert!(matches!(entries[0].content, Content::Text(Cow::Borrowed("plain"))), "{tree:?}");
            assert_eq!(tree.clone().into_owned(), tree);
        }
    }

    #[test]
    fn only_an_object_without_a_namespace_gets_one() {
        for (text, expected) in [
            ("metadata: {name: a}", json!({"metadata": {"name": "a", "namespace": "shop"}})),
            ("metadata: {namespace: b}", json!({"metadata": {"namespace": "b"}})),
            ("metadata: {namespace: ''}", json!({"metadata": {"namespace": "shop"}})),
            ("metadata: {namespace: }", json!({"metadata": {"namespace": "shop"}})),
            ("metadata: a", json!({"metadata": "a"})),
            ("kind: A", json!({"kind": "A"})),
            ("[a]", json!(["a"])),
        ] {
            let mut tree = tree(text);
            tree.set_namespace("shop");
            assert_eq!(tree.to_value(), expected, "{text}");
        }
    }
}
