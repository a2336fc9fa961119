//! One line of a watch: something that has happened to an object.

use kube::core::Status;
use serde::Deserialize;

use crate::api::{JsonText, Text, nullable, object, read_object};

/// Something that has happened.
#[derive(Debug, PartialEq)]
pub enum Event<'l> {
    /// An object is new, or has changed: its JSON text.
    Applied(&'l str),
    /// An object is gone: its JSON text, as it was at last.
    Deleted(&'l str),
    /// Nothing has happened up to a place in the history: an object that has nothing but its version.
    Bookmark(&'l str),
    /// The watch cannot go on.
    Error(Box<Status>),
}

impl<'l> Event<'l> {
    /// Reads a line; `None` when it is no event. An object is not looked into: whoever takes it in does that.
    #[must_use]
    pub fn read(line: &'l str) -> Option<Self> {
        let (kind, object) = as_go_writes(line).or_else(|| as_json(line))?;
        Some(match kind {
            "ADDED" | "MODIFIED" => Self::Applied(object),
            "DELETED" => Self::Deleted(object),
            "BOOKMARK" => Self::Bookmark(object),
            "ERROR" => Self::Error(serde_json::from_str(object).ok()?),
            _ => return None,
        })
    }

    /// The place in the history that the event has brought the watch to.
    pub(super) fn version(&self) -> Option<String> {
        match self {
            Self::Applied(object) | Self::Deleted(object) | Self::Bookmark(object) => version_of(object),
            Self::Error(_) => None,
        }
    }
}

/// Kind and object of a line that is written as every API server writes it. There is nothing left to parse then, which
/// would take as long as all the rest.
fn as_go_writes(line: &str) -> Option<(&str, &str)> {
    let (kind, rest) = line.strip_prefix("{\"type\":\"")?.split_once('"')?;
    Some((kind, rest.strip_prefix(",\"object\":")?.strip_suffix('}')?))
}

fn as_json(line: &str) -> Option<(&str, &str)> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow)]
        object: JsonText<'a>,
    }

    read_object(line).ok().map(|Line { kind, object }| (kind, object.as_str()))
}

fn version_of(text: &str) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Versioned<'a> {
        #[serde(borrow, deserialize_with = "object")]
        metadata: Metadata<'a>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Metadata<'a> {
        #[serde(borrow, deserialize_with = "nullable")]
        resource_version: Text<'a>,
    }

    let Versioned { metadata } = read_object(text).ok()?;
    Some(metadata.resource_version.to_string()).filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_however_it_is_written() {
        let object = r#"{"metadata":{"name":"a","resourceVersion":"7"},"spec":{"x":"}"}}"#;
        for line in [
            format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}"),
            format!("{{\"object\":{object},\"type\":\"MODIFIED\"}}"),
            format!(" {{ \"type\" : \"MODIFIED\" , \"object\" : {object} }} "),
        ] {
            let event = Event::read(&line).unwrap();
            assert_eq!((&event, event.version().as_deref()), (&Event::Applied(object), Some("7")), "{line}");
        }
    }

    #[test]
    fn each_kind_of_event_is_told_apart() {
        let read = |kind: &str| format!("{{\"type\":\"{kind}\",\"object\":{{\"code\":410,\"message\":\"gone\"}}}}");
        let object = "{\"code\":410,\"message\":\"gone\"}";
        assert_eq!(Event::read(&read("ADDED")), Some(Event::Applied(object)));
        assert_eq!(Event::read(&read("DELETED")), Some(Event::Deleted(object)));
        assert_eq!(Event::read(&read("BOOKMARK")), Some(Event::Bookmark(object)));
        let error = read("ERROR");
        let Some(Event::Error(status)) = Event::read(&error) else { panic!("{error}") };
        assert_eq!((status.code, Event::Error(status).version()), (410, None));
        for line in [read("NEWS"), "{}".to_owned(), "null".to_owned(), "no JSON".to_owned(), String::new()] {
            assert_eq!(Event::read(&line), None, "{line}");
        }
    }
}
