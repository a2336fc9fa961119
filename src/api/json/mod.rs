//! A JSON reader for views: as strict as serde_json in what is read, and quick where a view is not interested.
//!
//! A view reads some fifty values out of a body of a thousand, so most of the work is to walk past what nobody reads.
//! A list or an object is walked past by its brackets and strings alone, 64 bytes at a time ([`skip`]); whether what
//! stands between them is JSON is not asked, since whatever it is, no verdict rests on it. All else is held to the
//! grammar. Plain strings and short whole numbers are read here; whatever is rare (escapes in a string that is read,
//! long or broken numbers) is handed to serde_json with its text, so there is one truth about it.
//!
//! The reader accepts what serde_json accepts and yields the same values: a property test holds it to that. It does
//! not say what is wrong with the rest; who wants to know asks serde_json.

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

use self::{
    scan::{after_number, short_whole_number, split_plain_string, without_blanks},
    skipped::SkippedValues,
};

/// As a newtype's name it asks the [`Reader`] for the text of a value: it is given by `visit_borrowed_str`. Every
/// other deserializer takes it for a newtype like any other.
pub(super) const TEXT_OF_VALUE: &str = "$nicplug::TextOfValue";

/// As a newtype's name it asks the [`Reader`] of a [pair](read_pair) to compare the object with the first one that it was
/// asked for by this name or the next: where they are the same byte for byte, `visit_unit` says so, and it is not read.
/// Every other deserializer takes it for a newtype like any other.
pub(super) const REPEATABLE: &str = "$nicplug::Repeatable";

/// As [`REPEATABLE`], but of the first one the text is given, by `visit_borrowed_str`.
pub(super) const DEFERRED: &str = "$nicplug::Deferred";

/// How deep what is read may be nested: one less than this, as in serde_json. What is skipped has no bound.
const DEPTH: u8 = 128;

/// The text is not JSON, or not of the type that was asked for.
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

/// Reads a text that holds one value and nothing else.
///
/// # Errors
/// [`JsonError`], where serde_json would have one too.
pub(super) fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonError> {
    read_seed(PhantomData, text)
}

/// As [`read`], of a type that only a seed knows.
///
/// # Errors
/// As [`read`].
pub(super) fn read_seed<'a, S: DeserializeSeed<'a>>(seed: S, text: &'a str) -> Result<S::Value, JsonError> {
    Reader { rest: text, depth: DEPTH, skipped: SkippedValues::default(), first: FirstObject::Disabled }.read(seed)
}

/// As [`read`], of a type that knows what to do about objects that are put off or repeated: see [`REPEATABLE`].
///
/// # Errors
/// As [`read`].
pub(super) fn read_pair<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonError> {
    Reader { rest: text, depth: DEPTH, skipped: SkippedValues::default(), first: FirstObject::NotRead }
        .read(PhantomData)
}

/// Where the reading has come to.
struct Reader<'de> {
    /// What is left of the text.
    rest: &'de str,
    /// How many levels of nesting are left, and one.
    depth: u8,
    skipped: SkippedValues<'de>,
    first: FirstObject<'de>,
}

/// The first object that was asked for as [`REPEATABLE`] or [`DEFERRED`].
#[derive(Clone, Copy)]
enum FirstObject<'de> {
    /// Nobody would know what to do if it were repeated.
    Disabled,
    NotRead,
    /// Its text.
    Read(&'de str),
}

impl<'de> Reader<'de> {
    fn read<S: DeserializeSeed<'de>>(mut self, seed: S) -> Result<S::Value, JsonError> {
        let value = seed.deserialize(&mut self)?;
        match without_blanks(self.rest) {
            "" => Ok(value),
            _ => Err(JsonError),
        }
    }

    /// Goes past blanks and gives the byte that follows, without taking it.
    #[inline]
    fn peek(&mut self) -> Result<u8, JsonError> {
        self.rest = without_blanks(self.rest);
        self.rest.as_bytes().first().copied().ok_or(JsonError)
    }

    /// Takes `expected`, which may stand after blanks.
    #[inline]
    fn take(&mut self, expected: char) -> Result<(), JsonError> {
        self.rest = without_blanks(self.rest).strip_prefix(expected).ok_or(JsonError)?;
        Ok(())
    }

    fn take_word(&mut self, word: &str) -> Result<(), JsonError> {
        self.rest = self.rest.strip_prefix(word).ok_or(JsonError)?;
        Ok(())
    }

    /// Goes to where only `tail` is left of the text, and gives the text on the way.
    #[inline]
    fn advance_to(&mut self, tail: &[u8]) -> Result<&'de str, JsonError> {
        let (passed, rest) = self.rest.split_at_checked(self.rest.len() - tail.len()).ok_or(JsonError)?;
        self.rest = rest;
        Ok(passed)
    }

    /// Goes past a value; its text.
    #[inline]
    fn skip(&mut self) -> Result<&'de str, JsonError> {
        self.rest = without_blanks(self.rest);
        let tail = self.skipped.after_value(self.rest.as_bytes()).ok_or(JsonError)?;
        self.advance_to(tail)
    }

    /// Takes a string, its quotes included.
    #[inline]
    fn string(&mut self) -> Result<StringValue<'de>, JsonError> {
        match self.plain_string() {
            Some(text) => Ok(StringValue::Plain(text)),
            None => self.escaped_string().map(StringValue::Unescaped),
        }
    }

    /// Takes a string that has no escapes, if that is what follows.
    #[inline(never)]
    fn plain_string(&mut self) -> Option<&'de str> {
        let (text, tail) = split_plain_string(without_blanks(self.rest))?;
        self.rest = tail;
        Some(text)
    }

    /// Takes the key of the next entry of an object and its colon; `None` at the end of the object.
    ///
    /// Written as one for speed: every third part of what is read are keys.
    fn key(&mut self, is_first: &mut bool) -> Result<Option<StringValue<'de>>, JsonError> {
        self.rest = without_blanks(self.rest);
        if self.rest.starts_with('}') {
            return Ok(None);
        }
        // What follows a comma is an entry, which no closing bracket can be.
        let entry = if mem::take(is_first) { self.rest } else { self.rest.strip_prefix(',').ok_or(JsonError)? };
        let entry = without_blanks(entry);
        let (key, tail) = if let Some((key, tail)) = split_plain_string(entry) {
            (StringValue::Plain(key), tail)
        } else {
            self.rest = entry;
            (StringValue::Unescaped(self.escaped_string()?), self.rest)
        };
        self.rest = without_blanks(tail).strip_prefix(':').ok_or(JsonError)?;
        Ok(Some(key))
    }

    #[cold]
    fn escaped_string(&mut self) -> Result<String, JsonError> {
        self.rest = without_blanks(self.rest);
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

    /// Reads an object unless it is the same as the first one; see [`REPEATABLE`] and [`DEFERRED`].
    fn repeatable<V: Visitor<'de>>(&mut self, is_deferred: bool, visitor: V) -> Result<V::Value, JsonError> {
        if self.peek()? != b'{' {
            return visitor.visit_newtype_struct(self);
        }
        match self.first {
            FirstObject::Disabled => visitor.visit_newtype_struct(self),
            // An object ends where its last bracket stands, whatever follows.
            FirstObject::Read(text) => match self.rest.strip_prefix(text) {
                Some(tail) => {
                    self.rest = tail;
                    visitor.visit_unit()
                }
                None => visitor.visit_newtype_struct(self),
            },
            FirstObject::NotRead if is_deferred => {
                let text = self.skip()?;
                self.first = FirstObject::Read(text);
                visitor.visit_borrowed_str(text)
            }
            FirstObject::NotRead => {
                let text = self.rest;
                let value = visitor.visit_newtype_struct(&mut *self)?;
                let read = text.get(..text.len() - self.rest.len()).ok_or(JsonError)?;
                self.first = FirstObject::Read(read);
                Ok(value)
            }
        }
    }

    /// Reads the inside of a list or an object, of which the opening bracket was seen and not taken.
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

    /// Goes to the next entry of a list, if there is one.
    #[inline]
    fn has_next(&mut self, is_first: &mut bool) -> Result<bool, JsonError> {
        let is_first = mem::take(is_first);
        match self.peek()? {
            b']' => Ok(false),
            // What follows a comma is an entry, which no closing bracket can be.
            b',' if !is_first => self.take(',').map(|()| true),
            _ if is_first => Ok(true),
            _ => Err(JsonError),
        }
    }
}

/// A string that was read.
enum StringValue<'de> {
    Plain(&'de str),
    Unescaped(String),
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
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

    /// As any value; by far the most are plain.
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
        // Half of what nobody reads are plain strings: taken without asking what they are.
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
struct Entries<'r, 'de> {
    reader: &'r mut Reader<'de>,
    is_first: bool,
}

impl<'de> SeqAccess<'de> for Entries<'_, 'de> {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, JsonError> {
        if self.reader.has_next(&mut self.is_first)? {
            return seed.deserialize(&mut *self.reader).map(Some);
        }
        Ok(None)
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
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

    /// Holds our reader to serde_json: for what is read, for what is skipped, and for the text of what is put off. Of the
    /// last two only what is JSON has to be the same.
    fn compare(text: &str) -> Result<(), TestCaseError> {
        let values = [read::<Value>(text).ok(), serde_json::from_str(text).ok()];
        prop_assert_eq!(&values[0], &values[1], "read: {:?}", text);
        let skipped = read::<IgnoredAny>(text);
        let deferred = read::<JsonText>(text).ok();
        if let Ok(expected) = serde_json::from_str::<JsonText>(text) {
            prop_assert!(skipped.is_ok(), "skipped: {:?}", text);
            prop_assert_eq!(deferred, Some(expected), "put off: {:?}", text);
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

    /// JSON with blanks anywhere, long values that come twice, and a few scalars that are none.
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
        fn what_is_json_is_read_as_serde_json_reads_it(text in json()) {
            compare(&text)?;
        }

        #[test]
        fn what_is_no_longer_json_is_refused_as_serde_json_refuses_it(
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
        fn a_string_ends_where_it_ends_wherever_it_stands(prefix in "[ -!#-\\[\\]-~ä€]{0,20}", special in "[\"\\\\\x00-\x1f\x7f]") {
            compare(&format!("\"{prefix}{special}"))?;
            compare(&format!("\"{prefix}{special}\""))?;
            compare(&format!("\"{prefix}{special}tail, longer than eight\""))?;
        }
    }

    #[test]
    fn nesting_is_bounded_where_serde_json_bounds_it() {
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
    fn a_value_that_begins_like_one_before_is_not_taken_for_it() {
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
