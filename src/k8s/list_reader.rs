//! Reads the text of a list while it arrives, so that a page of 250 objects is never in memory as a whole.

use serde::Deserialize;

use super::api_error::ApiError;
use crate::api::{nullable, read_object, split_value};

/// Reads a list in parts of any length.
#[derive(Debug, Default)]
pub(super) struct ListReader {
    /// The bytes that were received and not read.
    received: Vec<u8>,
    /// The number of received bytes from which reading is tried again. It doubles, so that a long object is not searched
    /// for its end with each part.
    try_at: usize,
    place: Place,
    metadata: ListMetadata,
}

/// What follows in the list.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Place {
    /// The list itself.
    #[default]
    List,
    /// The first field, or the end of the list.
    FirstField,
    /// A comma and another field, or the end of the list.
    NextField,
    /// The first object, or the end of `items`.
    FirstItem,
    /// A comma and another object, or the end of `items`.
    NextItem,
    /// Nothing.
    End,
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMetadata {
    /// `resourceVersion`: from which to watch.
    #[serde(deserialize_with = "nullable")]
    pub(super) resource_version: String,
    /// `continue`: the token for the next page; empty on the last one.
    #[serde(deserialize_with = "nullable", rename = "continue")]
    pub(super) next: String,
}

impl ListReader {
    /// Reads the next bytes of the list, and calls `take` with the JSON text of each object that is complete.
    ///
    /// # Errors
    /// [`ApiError::Unreadable`]: the text is not a list.
    pub(super) fn read(&mut self, bytes: &[u8], take: &mut impl FnMut(&str)) -> Result<(), ApiError> {
        self.received.extend_from_slice(bytes);
        if self.received.len() < self.try_at {
            return Ok(());
        }
        self.read_received(take)
    }

    /// Ends the list and returns its metadata.
    ///
    /// # Errors
    /// [`ApiError::Unreadable`]: the list has no end.
    pub(super) fn finish(mut self, take: &mut impl FnMut(&str)) -> Result<ListMetadata, ApiError> {
        self.read_received(take)?;
        match self.place {
            Place::End => Ok(self.metadata),
            _ => Err(unreadable("the list has no end")),
        }
    }

    fn read_received(&mut self, take: &mut impl FnMut(&str)) -> Result<(), ApiError> {
        let received = std::mem::take(&mut self.received);
        let mut rest = received.trim_ascii_start();
        while !rest.is_empty() {
            match self.step(rest, take)? {
                Some(tail) => rest = tail.trim_ascii_start(),
                None => break,
            }
        }
        let read = received.len() - rest.len();
        self.received = received;
        self.received.drain(..read);
        self.try_at = 2 * self.received.len();
        Ok(())
    }

    /// Reads the next part of the list and returns the text after it; `None` if the part is not complete.
    fn step<'t>(&mut self, text: &'t [u8], take: &mut impl FnMut(&str)) -> Result<Option<&'t [u8]>, ApiError> {
        let (place, after) = match (self.place, text) {
            (Place::List, [b'{', tail @ ..]) => (Place::FirstField, Some(tail)),
            (Place::FirstField | Place::NextField, [b'}', tail @ ..]) => (Place::End, Some(tail)),
            (Place::FirstField, _) => return self.field(text),
            (Place::NextField, [b',', tail @ ..]) => return self.field(tail.trim_ascii_start()),
            (Place::FirstItem | Place::NextItem, [b']', tail @ ..]) => (Place::NextField, Some(tail)),
            (Place::FirstItem, _) => (Place::NextItem, item(text, take)?),
            (Place::NextItem, [b',', tail @ ..]) => (Place::NextItem, item(tail.trim_ascii_start(), take)?),
            (Place::List | Place::NextField | Place::NextItem | Place::End, _) => {
                return Err(unreadable("the text is not a list"));
            }
        };
        if after.is_some() {
            self.place = place;
        }
        Ok(after)
    }

    /// Reads a field; of `items` only the opening bracket.
    fn field<'t>(&mut self, text: &'t [u8]) -> Result<Option<&'t [u8]>, ApiError> {
        let Some((key, tail)) = value(text)? else { return Ok(None) };
        let tail = match tail.trim_ascii_start() {
            [] => return Ok(None),
            [b':', tail @ ..] => tail.trim_ascii_start(),
            _ => return Err(unreadable("a field of the list has no value")),
        };
        let key: String = serde_json::from_slice(key).map_err(|error| unreadable(&error.to_string()))?;
        if let ("items", [b'[', tail @ ..]) = (key.as_str(), tail) {
            self.place = Place::FirstItem;
            return Ok(Some(tail));
        }
        let Some((value, tail)) = value(tail)? else { return Ok(None) };
        if key == "metadata" && value != b"null" {
            self.metadata = read_object(text_of(value)?).map_err(|error| unreadable(&error.message))?;
        }
        self.place = Place::NextField;
        Ok(Some(tail))
    }
}

/// A value, and the text after it.
type Split<'t> = (&'t [u8], &'t [u8]);

/// Splits a value from the text after it; `None` if it is not complete.
fn value(text: &[u8]) -> Result<Option<Split<'_>>, ApiError> {
    match split_value(text) {
        Some(([], _)) => Err(unreadable("a value of the list is missing")),
        split => Ok(split),
    }
}

/// Gives an object on and returns the text after it; `None` if the object is not complete.
fn item<'t>(text: &'t [u8], take: &mut impl FnMut(&str)) -> Result<Option<&'t [u8]>, ApiError> {
    let Some((object, tail)) = value(text)? else { return Ok(None) };
    take(text_of(object)?);
    Ok(Some(tail))
}

fn text_of(bytes: &[u8]) -> Result<&str, ApiError> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| unreadable("the list is not UTF-8"))
}

fn unreadable(why: &str) -> ApiError {
    ApiError::Unreadable(why.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Reads a list that arrives in parts of a length, and returns the objects, the resource version and the token.
    fn read(text: &[u8], length: usize) -> Result<(Vec<String>, String, String), ApiError> {
        let mut objects = Vec::new();
        let mut take = |object: &str| objects.push(object.to_owned());
        let mut reader = ListReader::default();
        for part in text.chunks(length) {
            reader.read(part, &mut take)?;
        }
        let ListMetadata { resource_version, next } = reader.finish(&mut take)?;
        Ok((objects, resource_version, next))
    }

    #[test]
    fn a_list_is_read_wherever_its_parts_end() {
        let objects = [r#"{"a":"}],\"{ä"}"#, "{}", r#"{"b":[1,{"c":null}]}"#];
        let items = objects.join(",");
        let spaced = objects.join(" ,\n");
        for text in [
            format!(r#"{{"kind":"List","metadata":{{"resourceVersion":"9","continue":"c"}},"items":[{items}]}}"#),
            format!(r#"{{"apiVersion":"v1","items":[{items}],"metadata":{{"resourceVersion":"9","continue":"c"}}}}"#),
            format!(
                " {{ \"items\" : [ {spaced} ] , \"x\" : 1.5 , \"metadata\" : {{\"continue\":\"c\",\"resourceVersion\":\"9\"}} }}\n"
            ),
        ] {
            for length in 1..=text.len() {
                let (read, version, next) = read(text.as_bytes(), length).unwrap();
                assert_eq!((read, version.as_str(), next.as_str()), (objects.map(str::to_owned).to_vec(), "9", "c"));
            }
        }
    }

    #[test]
    fn a_list_without_objects_or_metadata_is_empty() {
        for text in ["{}", r#"{"items":null}"#, r#"{"items":[],"metadata":null}"#, r#"{"kind":"Status","code":200}"#] {
            assert_eq!(read(text.as_bytes(), 3), Ok((Vec::new(), String::new(), String::new())), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_list_is_an_error() {
        let texts = [
            "",
            "[]",
            "null",
            "{",
            r#"{"items":[{}"#,
            r#"{"items":[{}]"#,
            r#"{"items":[{}}}"#,
            r#"{"items":[{} {}]}"#,
            r#"{"items":[{},]}"#,
            r#"{"items":[,{}]}"#,
            r#"{"items":[{}]"kind":"List"}"#,
            r#"{"kind" "List"}"#,
            r#"{kind:"List"}"#,
            r#"{"kind":}"#,
            r#"{"metadata":[]}"#,
            r#"{"metadata":{"continue":1}}"#,
            r#"{"items":[]} {}"#,
        ];
        for text in texts {
            for length in [1, 5, 100] {
                let result = read(text.as_bytes(), length);
                assert!(matches!(&result, Err(ApiError::Unreadable(why)) if !why.is_empty()), "{text}: {result:?}");
            }
        }
        assert!(read(b"{\"items\":[{\"a\":\"\xff\"}]}", 100).is_err());
    }

    proptest! {
        #[test]
        fn the_parts_of_any_text_make_no_difference(
            text in r#"\{?("items":|"metadata":|\[|\]|\{|\}|"[a-z\\"]{0,3}"|[0-9]{0,2}|null|,|:| ){0,20}"#,
            length in 1..9_usize,
        ) {
            prop_assert_eq!(read(text.as_bytes(), length), read(text.as_bytes(), usize::MAX));
        }

        #[test]
        fn any_list_is_read_as_serde_json_reads_it(
            texts in prop::collection::vec(".{0,40}", 0..6),
            length in 1..200_usize,
            is_pretty in any::<bool>(),
        ) {
            let items: Vec<Value> = texts.iter().map(|text| json!({text: [text, {"x": text}]})).collect();
            let list = json!({"items": items, "metadata": {"resourceVersion": "7"}});
            let text = if is_pretty { serde_json::to_string_pretty(&list) } else { serde_json::to_string(&list) };
            let (read, version, _) = read(text.unwrap().as_bytes(), length).unwrap();
            let read: Vec<Value> = read.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!((read, version), (items, "7".to_owned()));
        }
    }
}
