//! The events of a watch, one in each line.

use kube::core::Status;
use serde::Deserialize;

use crate::api::{JsonText, Text, nullable, object, read_object};

/// An event of a watch.
#[derive(Debug, PartialEq)]
pub enum Event<'l> {
    /// An object was created or changed: its JSON text.
    Applied(&'l str),
    /// An object was deleted: its last JSON text.
    Deleted(&'l str),
    /// Nothing happened up to a resource version: an object with only that.
    Bookmark(&'l str),
    /// The watch cannot go on.
    Error(Box<Status>),
}

impl<'l> Event<'l> {
    /// Reads a line; `None` if it is not an event. The object is not parsed.
    #[must_use]
    pub fn read(line: &'l str) -> Option<Self> {
        let (kind, object) = split_as_written_by_go(line).or_else(|| split_json(line))?;
        Some(match kind {
            "ADDED" | "MODIFIED" => Self::Applied(object),
            "DELETED" => Self::Deleted(object),
            "BOOKMARK" => Self::Bookmark(object),
            "ERROR" => Self::Error(serde_json::from_str(object).ok()?),
            _ => return None,
        })
    }

    /// Returns the resource version of the object.
    pub(super) fn resource_version(&self) -> Option<String> {
        match self {
            Self::Applied(object) | Self::Deleted(object) | Self::Bookmark(object) => resource_version_of(object),
            Self::Error(_) => None,
        }
    }
}

/// Splits a line of the form that Go's encoder writes, as every API server does. To parse it would take as long as all
/// other work on a heartbeat.
fn split_as_written_by_go(line: &str) -> Option<(&str, &str)> {
    let (kind, rest) = line.strip_prefix("{\"type\":\"")?.split_once('"')?;
    Some((kind, rest.strip_prefix(",\"object\":")?.strip_suffix('}')?))
}

/// Splits a line of any other form.
fn split_json(line: &str) -> Option<(&str, &str)> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow)]
        object: JsonText<'a>,
    }

    read_object(line).ok().map(|Line { kind, object }| (kind, object.as_str()))
}

fn resource_version_of(text: &str) -> Option<String> {
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
    fn a_line_is_read_in_any_form_of_json() {
        let object = r#"{"metadata":{"name":"a","resourceVersion":"7"},"spec":{"x":"}"}}"#;
        for line in [
            format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}"),
            format!("{{\"object\":{object},\"type\":\"MODIFIED\"}}"),
            format!(" {{ \"type\" : \"MODIFIED\" , \"object\" : {object} }} "),
        ] {
            let event = Event::read(&line).unwrap();
            assert_eq!((&event, event.resource_version().as_deref()), (&Event::Applied(object), Some("7")), "{line}");
        }
    }

    #[test]
    fn each_type_of_event_is_recognized() {
        let read = |kind: &str| format!("{{\"type\":\"{kind}\",\"object\":{{\"code\":410,\"message\":\"gone\"}}}}");
        let object = "{\"code\":410,\"message\":\"gone\"}";
        assert_eq!(Event::read(&read("ADDED")), Some(Event::Applied(object)));
        assert_eq!(Event::read(&read("DELETED")), Some(Event::Deleted(object)));
        assert_eq!(Event::read(&read("BOOKMARK")), Some(Event::Bookmark(object)));
        let error = read("ERROR");
        let Some(Event::Error(status)) = Event::read(&error) else { panic!("{error}") };
        assert_eq!((status.code, Event::Error(status).resource_version()), (410, None));
        for line in [read("NEWS"), "{}".to_owned(), "null".to_owned(), "no JSON".to_owned(), String::new()] {
            assert_eq!(Event::read(&line), None, "{line}");
        }
    }
}
