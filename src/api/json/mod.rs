//! A JSON reader for views: as strict as serde_json about the values that it reads, and fast at skipping the others.
//!
//! A view reads some fifty values out of a body of a thousand, so most of the work is skipping. To skip a list or an
//! object, the reader only follows brackets and strings, 64 bytes at a time ([`skip`]). It does not check that the
//! bytes between them are JSON, because no verdict depends on them. All other text has to follow the grammar. The
//! reader itself reads plain strings and short whole numbers. It leaves rare values (strings with escapes, long or
//! broken numbers) to serde_json, so both give the same result.
//!
//! The reader accepts what serde_json accepts and returns the same values; a property test checks that. Its error gives
//! no reason: call serde_json to find it.

#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod pair;
mod scan;
mod skip;
mod skipped;

use std::{fmt, marker::PhantomData, mem};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeSeed, MapAccess, SeqAccess, Visitor,
        value::{BorrowedStrDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};

pub(super) use self::pair::{DEFERRED, POSTPONED, REPEATABLE, VARYING};
use self::{
    pair::Pair,
    scan::{after_number, short_whole_number, split_ascii_escaped, split_compact_key, split_plain_string, trim_start},
    skipped::{after_delimited, after_value},
};

/// The name of a newtype whose visitor receives the text of the value from [`Reader`], by `visit_borrowed_str`. To
/// every other deserializer it is an ordinary newtype.
pub(super) const TEXT_OF_VALUE: &str = "$nicplug::TextOfValue";

/// Values that are read may be nested one level less than this, as in serde_json. Skipped values have no limit.
const DEPTH: u8 = 128;

/// The text is not JSON, or not of the requested type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct JsonError;

impl fmt::Display for JsonError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("not JSON, or of another type")
    }
}

impl std::error::Error for JsonError {}

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Reads a text that holds exactly one value.
///
/// # Errors
/// [`JsonError`], wherever serde_json has an error too.
pub(super) fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonError> {
    read_seed(PhantomData, text)
}

/// As [`read`], with a seed.
///
/// # Errors
/// As [`read`].
pub(super) fn read_seed<'a, S: DeserializeSeed<'a>>(seed: S, text: &'a str) -> Result<S::Value, JsonError> {
    Reader { rest: text, depth: DEPTH, pair: None }.read(seed)
}

/// As [`read`], for a type that handles deferred and repeated objects: see [`REPEATABLE`].
///
/// # Errors
/// As [`read`].
pub(super) fn read_pair<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonError> {
    Reader { rest: text, depth: DEPTH, pair: Some(&mut Pair::default()) }.read(PhantomData)
}

/// Splits a value from the text after it; `None` if its end is not there, and so after a number that more digits may
/// follow. The text of the value is not checked; it is empty if none stands there.
pub(crate) fn split_value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let tail = if let [b'{' | b'[' | b'"', ..] = text {
        after_delimited(text)?
    } else {
        let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
        text.get(text.iter().position(is_end)?..)?
    };
    text.split_at_checked(text.len() - tail.len())
}

/// The state of the reader.
struct Reader<'p, 'de> {
    /// The rest of the text.
    rest: &'de str,
    /// The remaining levels of nesting plus one.
    depth: u8,
    /// `None` if the type that is read does not handle repeated objects.
    pair: Option<&'p mut Pair<'de>>,
}

impl<'de> Reader<'_, 'de> {
    fn read<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<S::Value, JsonError> {
        let value = seed.deserialize(&mut self)?;
        match trim_start(self.rest) {
            "" => Ok(value),
            _ => Err(JsonError),
        }
    }

    /// Skips whitespace and returns the next byte without consuming it.
    #[inline]
    fn peek(&mut self) -> Result<u8, JsonError> {
        self.rest = trim_start(self.rest);
        self.rest.as_bytes().first().copied().ok_or(JsonError)
    }

    /// Consumes `expected` after optional whitespace.
    #[inline]
    fn take(&mut self, expected: char) -> Result<(), JsonError> {
        self.rest = trim_start(self.rest).strip_prefix(expected).ok_or(JsonError)?;
        Ok(())
    }

    fn take_word(&mut self, word: &str) -> Result<(), JsonError> {
        self.rest = self.rest.strip_prefix(word).ok_or(JsonError)?;
        Ok(())
    }

    /// Advances until only `tail` is left, and returns the text before it.
    #[inline]
    fn advance_to(&mut self, tail: &[u8]) -> Result<&'de str, JsonError> {
        let (passed, rest) = self.rest.split_at_checked(self.rest.len() - tail.len()).ok_or(JsonError)?;
        self.rest = rest;
        Ok(passed)
    }

    /// Skips a value and returns its text.
    #[inline]
    fn skip(&mut self) -> Result<&'de str, JsonError> {
        self.rest = trim_start(self.rest);
        let text = self.rest.as_bytes();
        let tail = match &mut self.pair {
            Some(pair) => pair.skipped.after_value(text),
            None => after_value(text),
        };
        self.advance_to(tail.ok_or(JsonError)?)
    }

    /// Consumes a string with its quotes.
    #[inline]
    fn string(&mut self) -> Result<StringValue<'de>, JsonError> {
        match self.plain_string() {
            Some(text) => Ok(StringValue::Plain(text)),
            None => self.escaped_string().map(StringValue::Unescaped),
        }
    }

    /// Consumes a string without escapes, if one follows.
    #[inline(never)]
    fn plain_string(&mut self) -> Option<&'de str> {
        let (text, tail) = split_plain_string(trim_start(self.rest))?;
        self.rest = tail;
        Some(text)
    }

    /// Consumes the key of the next entry of an object and its colon; `None` at the end of the object.
    ///
    /// A third of all values that are read are keys, so the form in which the API server writes them has a path of its
    /// own.
    fn key(&mut self, is_first: &mut bool) -> Result<Option<StringValue<'de>>, JsonError> {
        if self.rest.starts_with('}') {
            return Ok(None);
        }
        match split_compact_key(self.rest, *is_first) {
            Some((key, tail)) => {
                *is_first = false;
                self.rest = tail;
                Ok(Some(StringValue::Plain(key)))
            }
            None => self.any_key(is_first),
        }
    }

    /// As [`Self::key`], for a key with whitespace around it or with escapes.
    #[cold]
    fn any_key(&mut self, is_first: &mut bool) -> Result<Option<StringValue<'de>>, JsonError> {
        if self.peek()? == b'}' {
            return Ok(None);
        }
        // An entry has to follow a comma, so a closing bracket is an error there.
        if !mem::take(is_first) {
            self.take(',')?;
        }
        let key = self.string()?;
        self.take(':')?;
        Ok(Some(key))
    }

    #[cold]
    fn escaped_string(&mut self) -> Result<String, JsonError> {
        self.rest = trim_start(self.rest);
        if let Some((value, tail)) = split_ascii_escaped(self.rest) {
            self.rest = tail;
            return Ok(value);
        }
        let inside = self.rest.as_bytes().strip_prefix(b"\"").ok_or(JsonError)?;
        let text = self.advance_to(skip::after_string(inside).ok_or(JsonError)?)?;
        serde_json::from_str(text).map_err(|_| JsonError)
    }

    fn number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, JsonError> {
        let text = self.advance_to(after_number(self.rest.as_bytes()).ok_or(JsonError)?)?;
        match short_whole_number(text) {
            Some(number) => visitor.visit_u64(number),
            None => serde_json::Deserializer::from_str(text).deserialize_any(visitor).map_err(|_| JsonError),
        }
    }

    /// Reads the content of a list or an object. The opening bracket was seen but not consumed.
    #[inline]
    fn inside<T>(
        &mut self,
        [opening, closing]: [char; 2],
        read: impl FnOnce(&mut Self) -> Result<T, JsonError>,
    ) -> Result<T, JsonError> {
        self.depth -= 1;
        if self.depth == 0 {
            return Err(JsonError);
        }
        self.take(opening)?;
        let value = read(self)?;
        self.take(closing)?;
        self.depth += 1;
        Ok(value)
    }

    /// Advances to the next entry of a list; false at the end.
    #[inline]
    fn has_next(&mut self, is_first: &mut bool) -> Result<bool, JsonError> {
        let is_first = mem::take(is_first);
        match self.peek()? {
            b']' => Ok(false),
            // An entry has to follow a comma, so a closing bracket is an error there.
            b',' if !is_first => self.take(',').map(|()| true),
            _ if is_first => Ok(true),
            _ => Err(JsonError),
        }
    }
}

/// A string value.
enum StringValue<'de> {
    Plain(&'de str),
    Unescaped(String),
}

impl<'de> Deserializer<'de> for &mut Reader<'_, 'de> {
    type Error = JsonError;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.peek()? {
            b'"' => match self.string()? {
                StringValue::Plain(text) => visitor.visit_borrowed_str(text),
                StringValue::Unescaped(text) => visitor.visit_string(text),
            },
            b'{' => self.inside(['{', '}'], |reader| visitor.visit_map(Entries { reader, is_first: true })),
            b'[' => self.inside(['[', ']'], |reader| visitor.visit_seq(Entries { reader, is_first: true })),
            b'-' | b'0'..=b'9' => self.number(visitor),
            b't' => {
                self.take_word("true")?;
                visitor.visit_bool(true)
            }
            b'f' => {
                self.take_word("false")?;
                visitor.visit_bool(false)
            }
            _ => {
                self.take_word("null")?;
                visitor.visit_unit()
            }
        }
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.peek()? == b'n' {
            self.take_word("null")?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    /// As any value; most strings are plain.
    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.plain_string() {
            Some(text) => visitor.visit_borrowed_str(text),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match name {
            TEXT_OF_VALUE => visitor.visit_borrowed_str(self.skip()?),
            REPEATABLE => self.repeatable(false, visitor),
            DEFERRED => self.repeatable(true, visitor),
            POSTPONED => self.postponed(visitor),
            name if name == VARYING[0] => self.varying(0, visitor),
            name if name == VARYING[1] => self.varying(1, visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let text = self.skip()?;
        serde_json::Deserializer::from_str(text).deserialize_enum(name, variants, visitor).map_err(|_| JsonError)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        // Half of all skipped values are plain strings, so try that first.
        if self.plain_string().is_none() {
            self.skip()?;
        }
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

/// The entries of a list or an object.
struct Entries<'r, 'p, 'de> {
    reader: &'r mut Reader<'p, 'de>,
    is_first: bool,
}

impl<'de> SeqAccess<'de> for Entries<'_, '_, 'de> {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, JsonError> {
        if self.reader.has_next(&mut self.is_first)? {
            return seed.deserialize(&mut *self.reader).map(Some);
        }
        Ok(None)
    }
}

impl<'de> MapAccess<'de> for Entries<'_, '_, 'de> {
    type Error = JsonError;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        match self.reader.key(&mut self.is_first)? {
            Some(StringValue::Plain(key)) => seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some),
            Some(StringValue::Unescaped(key)) => seed.deserialize(StringDeserializer::new(key)).map(Some),
            None => Ok(None),
        }
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, JsonError> {
        seed.deserialize(&mut *self.reader)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;
    use crate::api::JsonText;

    /// Compares the reader with serde_json: for values that are read, that are skipped, and whose text is taken. For
    /// the last two the results have to be equal only if the text is JSON.
    fn compare(text: &str) -> Result<(), TestCaseError> {
        let expected: Option<Value> = serde_json::from_str(text).ok();
        for (value, name) in [(read(text).ok(), "read"), (read_pair(text).ok(), "read_pair")] {
            prop_assert_eq!(&value, &expected, "{}: {:?}", name, text);
        }
        let skipped = [read::<IgnoredAny>(text), read_pair(text)];
        let text_of_value = [read::<JsonText>(text).ok(), read_pair(text).ok()];
        if let Ok(expected) = serde_json::from_str::<JsonText>(text) {
            prop_assert!(skipped.iter().all(Result::is_ok), "skipped: {:?}", text);
            prop_assert_eq!(text_of_value, [Some(expected); 2], "text: {:?}", text);
        }
        Ok(())
    }

    fn string() -> impl Strategy<Value = String> {
        prop_oneof![
            r#""[ -!#-\[\]-~]{0,20}""#,
            r#""([a-zä€😀\x7f]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude00|\\u[dD][0-9a-f]{3}){0,12}""#,
        ]
    }

    fn number() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<u64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| number.to_string()),
            "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
        ]
    }

    /// JSON with whitespace anywhere, long values that come twice, and a few invalid scalars.
    fn json() -> impl Strategy<Value = String> {
        let blank = || "[ \n\r\t]{0,2}";
        let scalar = prop_oneof![
            string(),
            number(),
            prop::sample::select(vec!["null", "true", "false", "nul", "-", "01", "1.", "\"\\q\"", "+1", "NaN"])
                .prop_map(str::to_owned),
        ];
        scalar.prop_recursive(5, 40, 6, move |inner| {
            let entry = (blank(), string(), blank(), blank(), inner.clone(), blank());
            prop_oneof![
                prop::collection::vec((blank(), inner.clone(), blank()), 0..5).prop_map(|entries| {
                    let entries: Vec<_> = entries.into_iter().map(|(a, value, b)| format!("{a}{value}{b}")).collect();
                    format!("[{}]", entries.join(","))
                }),
                prop::collection::vec(entry, 0..5).prop_map(|entries| {
                    let entries =
                        entries.into_iter().map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"));
                    format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
                }),
                inner.prop_map(|value| format!("[{value},{{\"again\":{value}}},{value}]")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn json_is_read_as_serde_json_reads_it(text in json()) {
            compare(&text)?;
        }

        #[test]
        fn damaged_json_is_refused_as_serde_json_refuses_it(
            text in json(),
            place in any::<Index>(),
            length in 0..3_usize,
            insertion in prop_oneof![r#"[]\[{}",:\\0-9eE.+u \x00-\x1f-]{0,2}"#, ".{0,2}"],
        ) {
            let mut letters: Vec<char> = text.chars().collect();
            let start = place.index(letters.len() + 1);
            let end = (start + length).min(letters.len());
            letters.splice(start..end, insertion.chars());
            compare(&letters.into_iter().collect::<String>())?;
        }

        #[test]
        fn a_string_ends_at_its_closing_quote_at_any_offset(prefix in "[ -!#-\\[\\]-~ä€]{0,20}", special in "[\"\\\\\x00-\x1f\x7f]") {
            compare(&format!("\"{prefix}{special}"))?;
            compare(&format!("\"{prefix}{special}\""))?;
            compare(&format!("\"{prefix}{special}tail, longer than eight\""))?;
        }
    }

    #[test]
    fn nesting_has_the_limit_of_serde_json() {
        for depth in [62, 63, 64, 65, 126, 127, 128, 129, 1000] {
            let (lists, ends) = ("[".repeat(depth), "]".repeat(depth));
            compare(&format!("{lists}{ends}")).unwrap();
            compare(&format!("{lists}1, {{}}{ends}")).unwrap();
            compare(&format!("{lists}1{}", "]".repeat(depth - 1))).unwrap();
            let (objects, ends) = ("{\"a\": ".repeat(depth), "}".repeat(depth));
            compare(&format!("{objects}[null, 1]{ends}")).unwrap();
            compare(&format!("{objects}[null, 1{ends}")).unwrap();
        }
    }

    #[test]
    fn a_value_that_only_begins_like_an_earlier_one_is_not_taken_for_it() {
        let long = r#"{"a":"a value that is long enough to be remembered"}"#;
        for other in [
            long.to_owned(),
            long.replace("remembered", "remembere!"),
            long.replace("\"}", "\",\"b\":1}"),
            long.replace('}', "]"),
            long.replace("\"}", ""),
        ] {
            compare(&format!("{{\"x\":{long},\"y\":{other},\"z\":[{long},{other}]}}")).unwrap();
        }
    }

    #[test]
    fn a_plain_string_is_borrowed() {
        assert_eq!(read::<&str>(r#" "plain" "#), Ok("plain"));
        assert_eq!(read::<&str>(r#""\n""#), Err(JsonError));
        assert_eq!(read::<String>(r#""\n""#).as_deref(), Ok("\n"));
    }
}
