//! Deserializes views in place.
//!
//! A derived `Deserialize` builds each nested view separately and moves it up through every level of the object. Views
//! are large and deeply nested, so moving would be much of the work. Here an empty view is created once, and each value
//! is read directly into its field.
//!
//! Lists are bounded. An empty object has three bytes of text, and its view may have five hundred: a list of a million
//! of them would take a hundred times the memory of its text. So a list keeps a number of entries that no valid object
//! reaches, and skips the others.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{JsonText, NicTexts, Shared, Source, Text, WithPresence, json};

/// A view of a JSON object.
pub(crate) trait Fields<'de>: Default {
    /// The expected type in an error message.
    const EXPECTED: &'static str = "an object";

    /// The number of entries that a list of such objects keeps.
    const ENTRIES_AT_MOST: usize = ENTRIES_AT_MOST;

    /// Reads all fields of an object into an empty view.
    fn fill<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error>;

    /// Returns the number of entries of its own lists.
    fn nested_entries(&self) -> usize {
        0
    }

    /// Removes its own lists, because the lists of all entries together have more than [`NESTED_AT_MOST`] entries.
    fn remove_nested_lists(&mut self) {}
}

/// A field that few objects have takes one word in its view.
impl<'de, T: Fields<'de>> Fields<'de> for Box<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn fill<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error> {
        (**self).fill(map)
    }
}

/// The number of entries that a list keeps. KubeVirt's schema permits 256 interfaces, networks, disks or volumes.
pub(crate) const ENTRIES_AT_MOST: usize = 256;

/// The number of entries that the lists of all entries of a list keep together, such as the ports of all interfaces.
pub(crate) const NESTED_AT_MOST: usize = 1024;

/// Declares the fields of a view: the JSON key, the field, and the function of this module that reads it. Other keys
/// are skipped. A number in brackets is [`Fields::ENTRIES_AT_MOST`]. With `others PREFIX => FIELD`, the field lists the
/// first of the other keys that begin with the prefix.
macro_rules! fields {
    ($view:ident $([$at_most:expr])? {
        $($key:literal => $field:ident: $read:ident,)+
        $(others $prefix:path => $others:ident,)?
    }) => {
        impl<'de> $crate::api::fields::Fields<'de> for $view<'de> {
            $(const ENTRIES_AT_MOST: usize = $at_most;)?

            fn fill<A: ::serde::de::MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
                #[allow(non_camel_case_types, reason = "these are the names of the fields")]
                enum Field {
                    $($field),+
                }

                let mut seen = 0;
                while let Some(key) = map.next_key::<$crate::api::Text>()? {
                    match key.as_str() {
                        $($key => {
                            $crate::api::fields::mark_seen(&mut seen, Field::$field as u32, $key)?;
                            $crate::api::fields::$read(&mut map, &mut self.$field)?;
                        })+
                        _ => {
                            $($crate::api::fields::list_key(key, $prefix, &mut self.$others);)?
                            $crate::api::fields::skip(&mut map)?;
                        }
                    }
                }
                Ok(())
            }
        }

        impl<'de: 'a, 'a> ::serde::Deserialize<'de> for $view<'a> {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::api::fields::view(deserializer)
            }
        }
    };
}
pub(crate) use fields;

/// The most keys that [`list_key`] lists.
const MAX_KEYS: usize = 8;

/// Lists a key that begins with a prefix, up to a number of them.
pub(crate) fn list_key<'de>(key: Text<'de>, prefix: &str, keys: &mut Vec<Text<'de>>) {
    if key.starts_with(prefix) && keys.len() < MAX_KEYS {
        keys.push(key);
    }
}

/// Marks a field as read; an error if it was read before. A view has fewer than 32 fields.
pub(crate) fn mark_seen<E: Error>(seen: &mut u32, field: u32, key: &'static str) -> Result<(), E> {
    let bit = 1 << field;
    if *seen & bit != 0 {
        return Err(E::duplicate_field(key));
    }
    *seen |= bit;
    Ok(())
}

/// Reads a view.
pub(crate) fn view<'de, D: Deserializer<'de>, T: Fields<'de>>(deserializer: D) -> Result<T, D::Error> {
    let mut view = T::default();
    deserializer.deserialize_map(ViewVisitor(&mut view))?;
    Ok(view)
}

/// Reads a value with its own `Deserialize`.
pub(crate) fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A, place: &mut T) -> Result<(), A::Error> {
    *place = map.next_value()?;
    Ok(())
}

/// Reads a value; `null` is the default.
pub(crate) fn nullable<'de, A, T>(map: &mut A, place: &mut T) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Default + Deserialize<'de>,
{
    *place = map.next_value::<Option<T>>()?.unwrap_or_default();
    Ok(())
}

/// Reads the value of an annotation; `null` is an empty text.
pub(crate) fn annotation<'de, A: MapAccess<'de>>(map: &mut A, place: &mut Option<Text<'de>>) -> Result<(), A::Error> {
    *place = Some(map.next_value::<Option<_>>()?.unwrap_or_default());
    Ok(())
}

/// Reads an object.
pub(crate) fn object<'de, A: MapAccess<'de>, T: Fields<'de>>(map: &mut A, place: &mut T) -> Result<(), A::Error> {
    map.next_value_seed(ObjectOrNull(place)).map(drop)
}

/// Reads an optional object.
pub(crate) fn optional<'de, A, T>(map: &mut A, place: &mut Option<T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    let view = place.insert(T::default());
    if !map.next_value_seed(ObjectOrNull(view))? {
        *place = None;
    }
    Ok(())
}

/// Reads an object and records whether it is present.
pub(crate) fn with_presence<'de, A: MapAccess<'de>, T: Fields<'de>>(
    map: &mut A,
    place: &mut WithPresence<T>,
) -> Result<(), A::Error> {
    place.is_present = map.next_value_seed(ObjectOrNull(&mut place.value))?;
    Ok(())
}

/// Reads a list of objects.
pub(crate) fn objects<'de, A: MapAccess<'de>, T: Fields<'de>>(map: &mut A, place: &mut Vec<T>) -> Result<(), A::Error> {
    map.next_value_seed(ListOrNull(place)).map(drop)
}

/// Reads the first of the two lists that a hotplug changes: see [`json::VARYING`].
pub(crate) fn first_varying<'de, A, T>(map: &mut A, place: &mut Vec<T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    map.next_value_seed(VaryingList { list: ListOrNull(place), name: json::VARYING[0] })
}

/// Reads the second of them.
pub(crate) fn second_varying<'de, A, T>(map: &mut A, place: &mut Vec<T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    map.next_value_seed(VaryingList { list: ListOrNull(place), name: json::VARYING[1] })
}

/// Reads an optional list of objects; an empty list differs from a missing one.
pub(crate) fn optional_objects<'de, A, T>(map: &mut A, place: &mut Option<Vec<T>>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    let list = place.insert(Vec::new());
    if !map.next_value_seed(ListOrNull(list))? {
        *place = None;
    }
    Ok(())
}

/// Reads a list of texts that keeps one more than [`NESTED_AT_MOST`] entries.
pub(crate) fn texts<'de, A: MapAccess<'de>>(map: &mut A, place: &mut Vec<Text<'de>>) -> Result<(), A::Error> {
    map.next_value_seed(TextsOrNull(place))
}

/// Reads an object that the old object may repeat.
pub(crate) fn shared<'de, A, T>(map: &mut A, place: &mut Shared<'de, T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    map.next_value_seed(SharedObject { place, name: json::REPEATABLE })
}

/// As [`shared`], but reading is deferred, because the object is usually repeated.
pub(crate) fn deferred<'de, A, T>(map: &mut A, place: &mut Shared<'de, T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    map.next_value_seed(SharedObject { place, name: json::DEFERRED })
}

/// As [`deferred`], for an object that is rarely repeated, and read only if the request changes something.
pub(crate) fn postponed<'de, A, T>(map: &mut A, place: &mut Shared<'de, T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    map.next_value_seed(SharedObject { place, name: json::POSTPONED })
}

/// Skips a value.
pub(crate) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

/// Fills a view from a JSON object; any other type is an error.
struct ViewVisitor<'v, T>(&'v mut T);

impl<'de, T: Fields<'de>> Visitor<'de> for ViewVisitor<'_, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(T::EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        self.0.fill(map)
    }
}

/// Fills a view; returns false for `null`.
pub(crate) struct ObjectOrNull<'v, T>(pub(crate) &'v mut T);

impl<'de, T: Fields<'de>> DeserializeSeed<'de> for ObjectOrNull<'_, T> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, T: Fields<'de>> Visitor<'de> for ObjectOrNull<'_, T> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(T::EXPECTED)
    }

    fn visit_none<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(ViewVisitor(self.0))?;
        Ok(true)
    }
}

/// Fills a field that both objects of a request may share.
struct SharedObject<'v, 'de, T> {
    place: &'v mut Shared<'de, T>,
    /// The name of the newtype: see [`json::REPEATABLE`].
    name: &'static str,
}

impl<'de, T: Fields<'de>> DeserializeSeed<'de> for SharedObject<'_, 'de, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_newtype_struct(self.name, self)
    }
}

impl<'de, T: Fields<'de>> Visitor<'de> for SharedObject<'_, 'de, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(T::EXPECTED)
    }

    /// Called by [`json`]'s reader with the text of a deferred object.
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.place.source = Source::Deferred(JsonText(text));
        Ok(())
    }

    /// Called by [`json`]'s reader for a repeated object.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.place.source = Source::Repeated;
        Ok(())
    }

    /// Called by [`json`]'s reader for an object that differs from the first one in its lists of NICs only.
    fn visit_seq<A: SeqAccess<'de>>(self, mut lists: A) -> Result<(), A::Error> {
        let (Some(interfaces), Some(networks)) = (lists.next_element()?, lists.next_element()?) else {
            return Err(Error::invalid_length(0, &self));
        };
        self.place.source = Source::RepeatedExceptNics(Box::new(NicTexts { interfaces, networks }));
        Ok(())
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let mut view = Arc::<T>::default();
        if let Some(view) = Arc::get_mut(&mut view) {
            ObjectOrNull(view).deserialize(deserializer)?;
        }
        self.place.value = Some(view);
        Ok(())
    }
}

/// Fills a list under the name of a newtype: see [`json::VARYING`].
struct VaryingList<'v, T> {
    list: ListOrNull<'v, T>,
    name: &'static str,
}

impl<'de, T: Fields<'de>> DeserializeSeed<'de> for VaryingList<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_newtype_struct(self.name, self)
    }
}

impl<'de, T: Fields<'de>> Visitor<'de> for VaryingList<'_, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.expecting(formatter)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.list.deserialize(deserializer).map(drop)
    }
}

/// Fills an empty list with views; returns false for `null`.
pub(super) struct ListOrNull<'v, T>(pub(super) &'v mut Vec<T>);

impl<'de, T: Fields<'de>> DeserializeSeed<'de> for ListOrNull<'_, T> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, T: Fields<'de>> Visitor<'de> for ListOrNull<'_, T> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_none<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        let mut nested = 0;
        while self.0.len() < T::ENTRIES_AT_MOST {
            if list.next_element_seed(NewElement(&mut *self.0))?.is_none() {
                return Ok(true);
            }
            if let Some(view) = self.0.last_mut() {
                nested += view.nested_entries();
                if nested > NESTED_AT_MOST {
                    view.remove_nested_lists();
                }
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(true)
    }
}

/// Fills an empty list with texts.
struct TextsOrNull<'v, 'de>(&'v mut Vec<Text<'de>>);

impl<'de> DeserializeSeed<'de> for TextsOrNull<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for TextsOrNull<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while self.0.len() <= NESTED_AT_MOST {
            match list.next_element()? {
                Some(text) => self.0.push(text),
                None => return Ok(()),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// The entries for which a list allocates first. Most guests have one or two NICs and disks, and the view of one is
/// large: without this number a vector begins with four.
const FIRST_ENTRIES: usize = 2;

pub(super) fn reserve_first<T>(entries: &mut Vec<T>) {
    if entries.capacity() == 0 {
        entries.reserve_exact(FIRST_ENTRIES);
    }
}

/// Appends a view to a list and fills it there.
pub(super) struct NewElement<'v, T>(pub(super) &'v mut Vec<T>);

impl<'de, T: Fields<'de>> DeserializeSeed<'de> for NewElement<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        reserve_first(self.0);
        self.0.push(T::default());
        match self.0.last_mut() {
            Some(view) => deserializer.deserialize_map(ViewVisitor(view)),
            None => Ok(()),
        }
    }
}
