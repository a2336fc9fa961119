//! The Kubernetes and KubeVirt objects, with the fields that the rules read.
//!
//! Every type here is a *view*: it borrows from the bytes of the request, holds only the fields that some rule reads,
//! and skips the rest (`managedFields`, status details, …) without allocating. A view is never written back: patch
//! operations on known paths change the object, so a field of a newer KubeVirt is never lost.
//!
//! `null` means the same as a missing field, as in Go's JSON decoder. A mutating webhook receives objects before the
//! API server checks them against the schema, so a field may have any type. A view reports a wrong type with the
//! field's path.

pub mod cluster;
mod fields;
pub mod guest;
pub mod hash;
pub mod instancetype;
mod json;
pub mod json_patch;
mod list;
pub mod mac;
pub mod metadata;
pub mod network;
pub mod placement;
pub mod probe;
pub(crate) mod quote;
pub mod review;
mod shared;
mod sparse;
pub mod vm;
pub mod vmi;

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Deref, ptr};

use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

#[cfg(fuzzing)]
pub use self::json::fuzzing::compare;
use self::shared::{NicTexts, Source, WithNics};
pub(crate) use self::{fields::NESTED_AT_MOST, json::split_value};
pub use self::{
    list::List,
    shared::Shared,
    sparse::{Empty, Sparse},
};

/// A string of the request: borrowed if the JSON text holds it without escapes, owned otherwise.
///
/// `Cow<str>` alone would be owned inside an `Option` or a `Vec`: serde's `borrow` does not reach through them.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The empty text.
    pub(crate) const EMPTY: Self = Self(Cow::Borrowed(""));

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text)))
            }
        }

        deserializer.deserialize_str(TextVisitor)
    }
}

/// The longest text of a field that is read on demand, in bytes: several rules read it, and a decision may take several
/// evaluations. The disks or volumes of a real guest have some kilobytes.
const READ_ON_DEMAND: usize = 256 << 10;

/// The JSON text of a value, exactly as in the request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct JsonText<'a>(&'a str);

impl<'a> JsonText<'a> {
    pub(crate) fn as_str(self) -> &'a str {
        self.0
    }

    /// Reads the value. If that fails, serde_json reads it again to report the reason, which may quote the whole value.
    fn read<T: Deserialize<'a>>(self) -> Result<T, serde_json::Error> {
        if self.0.len() > READ_ON_DEMAND {
            return Err(Error::custom(format_args!("it has {} bytes, more than {READ_ON_DEMAND}", self.0.len())));
        }
        json::read(self.0).or_else(|json::JsonError| serde_json::from_str(self.0))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = JsonText<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any value")
            }

            /// Called by [`json`]'s reader.
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(JsonText(text))
            }

            /// Called by serde_json.
            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                Ok(JsonText(<&RawValue>::deserialize(deserializer)?.get()))
            }
        }

        deserializer.deserialize_newtype_struct(json::TEXT_OF_VALUE, TextVisitor)
    }
}

/// Reads a view of an object from its JSON text. If that fails, serde_json reads it again to report the reason.
///
/// # Errors
/// A field has another type than in the view.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, FieldError> {
    if let Ok(JsonObject(object)) = json::read(text) {
        return Ok(object);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map(|JsonObject(object)| object).map_err(|error| {
        let message = quote::cut_middle(error.inner().to_string());
        FieldError { field: error.path().to_string(), message }
    })
}

/// A field that has another type than in its view.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FieldError {
    /// The path from the root of the object.
    pub(crate) field: String,
    /// The type that was found, and the expected one.
    pub(crate) message: String,
}

/// A field that few requests need: skipped when the body is parsed, read on demand.
#[derive(Debug)]
pub struct Lazy<'a, T> {
    text: Option<JsonText<'a>>,
    reads: PhantomData<fn() -> T>,
}

impl<'a, T: Deserialize<'a> + Default> Lazy<'a, T> {
    /// Reads the field; a missing one is `T::default()`.
    ///
    /// # Errors
    /// The JSON value has another type than `T`.
    pub fn read(&self) -> Result<T, serde_json::Error> {
        match self.text {
            Some(text) => text.read::<Option<T>>().map(Option::unwrap_or_default),
            None => Ok(T::default()),
        }
    }
}

impl<'a, T> Lazy<'a, T> {
    /// A field with this JSON text.
    pub(crate) fn of(text: &'a str) -> Self {
        Self { text: Some(JsonText(text)), reads: PhantomData }
    }

    /// Returns the JSON text; `None` if the object lacks the field.
    pub(crate) fn text(&self) -> Option<&'a str> {
        self.text.map(JsonText::as_str)
    }
}

impl<T> Clone for Lazy<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Lazy<'_, T> {}

impl<T> Default for Lazy<'_, T> {
    fn default() -> Self {
        Self { text: None, reads: PhantomData }
    }
}

/// Compares the JSON text. The API server writes object and oldObject with one encoder, so equal values have equal
/// text.
impl<T> PartialEq for Lazy<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<'de: 'a, 'a, T> Deserialize<'de> for Lazy<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { text: Some(JsonText::deserialize(deserializer)?), reads: PhantomData })
    }
}

/// A field that also records whether the object has it, which a patch has to know. `null` counts as missing.
#[derive(Clone, Debug, Default)]
pub struct WithPresence<T> {
    value: T,
    /// Whether the object has the field.
    pub is_present: bool,
}

/// A missing field equals an empty one.
impl<T: PartialEq> PartialEq for WithPresence<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> WithPresence<T> {
    /// Returns the value for a change.
    pub(crate) fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Deref for WithPresence<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Whether two values are equal. A shared value is not compared with itself.
pub(crate) fn is_same<T: PartialEq>(one: &T, other: &T) -> bool {
    ptr::eq(one, other) || one == other
}

/// A field of which only the presence matters, such as `rng: {}`. Use it as `Option<Present>`: `null` counts as
/// missing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Present;

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// The kind of JSON value in a field that nicplug does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shape {
    /// `{…}`: may be a network source or an interface binding of a newer KubeVirt.
    Object,
    /// `null`, a scalar or a list: neither a source nor a binding.
    Other,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;

        macro_rules! other {
            ($($method:ident: $type:ty),*) => {
                $(fn $method<E: Error>(self, _: $type) -> Result<Shape, E> { Ok(Shape::Other) })*
            };
        }

        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any value")
            }

            other!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

            fn visit_unit<E: Error>(self) -> Result<Shape, E> {
                Ok(Shape::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Shape::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Shape::Object)
            }
        }

        deserializer.deserialize_any(ShapeVisitor)
    }
}

/// Reads `null` as the default of the field, for `#[serde(default, deserialize_with = "nullable")]`.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// As [`nullable`], for a field that holds an object.
///
/// A derived `Deserialize` also accepts a JSON list, field by field in order. No Kubernetes API does.
pub(crate) fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<JsonObject<T>>::deserialize(deserializer)?.map_or_else(T::default, |object| object.0))
}

/// As [`object`], for a list of objects.
pub(crate) fn objects<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let Objects(objects) = Option::<Objects<T>>::deserialize(deserializer)?.unwrap_or(Objects(Vec::new()));
    Ok(objects.into_iter().map(|object| object.0).collect())
}

/// A list of objects, of at most [`OBJECTS_AT_MOST`] entries.
struct Objects<T>(Vec<JsonObject<T>>);

/// More entries than in any list that nicplug reads.
const OBJECTS_AT_MOST: usize = 4096;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Objects<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        list::bounded(deserializer, OBJECTS_AT_MOST).map(Self)
    }
}

/// A `T` that must be a JSON object.
struct JsonObject<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = JsonObject<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(JsonObject)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_escapes_is_borrowed_and_one_with_escapes_is_owned() {
        let texts: Vec<Text> = serde_json::from_str(r#"["plain", "quoted \"x\""]"#).unwrap();
        assert!(matches!(texts[0].0, Cow::Borrowed("plain")));
        assert_eq!(texts[1].as_str(), "quoted \"x\"");
    }

    #[test]
    fn a_lazy_field_reads_null_and_missing_as_the_default() {
        #[derive(Deserialize)]
        struct Fields<'a> {
            #[serde(borrow, default)]
            first: Lazy<'a, Vec<u8>>,
            #[serde(borrow, default)]
            second: Lazy<'a, Vec<u8>>,
            #[serde(borrow, default)]
            third: Lazy<'a, Vec<u8>>,
        }
        let fields: Fields = serde_json::from_str(r#"{"first": [1, 2], "second": null}"#).unwrap();
        assert_eq!(fields.first.read().unwrap(), [1, 2]);
        assert!(fields.second.read().unwrap().is_empty());
        assert!(fields.third.read().unwrap().is_empty());
    }

    #[test]
    fn a_field_records_whether_it_is_present() {
        let domain = |text: &'static str| serde_json::from_str::<guest::Domain>(text).map(|domain| domain.devices);
        let [empty, null, missing] =
            [r#"{"devices": {}}"#, r#"{"devices": null}"#, "{}"].map(|text| domain(text).unwrap());
        assert_eq!([empty.is_present, null.is_present, missing.is_present], [true, false, false]);
        assert_eq!(empty, missing);
        assert!(domain(r#"{"devices": []}"#).is_err());
    }

    #[test]
    fn a_duplicate_field_is_an_error() {
        let metadata = |text: &str| serde_json::from_str::<metadata::Metadata>(text).map(drop);
        assert!(metadata(r#"{"name": "a", "uid": "a", "other": 1, "other": 2}"#).is_ok());
        let error = metadata(r#"{"name": "a", "uid": "a", "name": "a"}"#).unwrap_err().to_string();
        assert!(error.starts_with("duplicate field `name`"), "{error}");
        let devices = r#"{"autoattachVSOCK": true, "rng": {}, "rng": null}"#;
        assert!(serde_json::from_str::<guest::Devices>(devices).is_err());
    }

    #[test]
    fn only_a_json_object_can_be_a_source() {
        for (text, shape) in
            [("{\"a\":1}", Shape::Object), ("[{}]", Shape::Other), ("null", Shape::Other), ("1.5", Shape::Other)]
        {
            assert_eq!(serde_json::from_str::<Shape>(text).unwrap(), shape, "{text}");
        }
    }
}
