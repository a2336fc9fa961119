//! Views that are filled where they stand.
//!
//! What serde derives makes each part of a view by itself and hands it up through every level of the object. Views are
//! large and their levels many, so much of the reading would be moving. Here a view is made once, empty, and what is
//! read goes to its place.

use std::{fmt, rc::Rc};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{JsonText, Shared, WithPresence, json};

/// A view of a JSON object.
pub(crate) trait Fields<'de>: Default {
    /// What an error says that was expected.
    const EXPECTED: &'static str = "an object";

    /// Reads all fields of an object into an empty view.
    fn fill<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error>;
}

/// Declares the fields of a view: the key in JSON, the field, and the function of this module that reads it. Other keys
/// are skipped.
macro_rules! fields {
    ($view:ident { $($key:literal => $field:ident: $read:ident,)+ }) => {
        impl<'de> $crate::api::fields::Fields<'de> for $view<'de> {
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
                        _ => $crate::api::fields::skip(&mut map)?,
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

/// Notes that a field was read; an error if it was before. A view has fewer than 32 fields.
pub(crate) fn mark_seen<E: Error>(seen: &mut u32, field: u32, key: &'static str) -> Result<(), E> {
    let bit = 1 << field;
    if *seen & bit != 0 {
        return Err(E::duplicate_field(key));
    }
    *seen |= bit;
    Ok(())
}

/// Reads a view by itself.
pub(crate) fn view<'de, D: Deserializer<'de>, T: Fields<'de>>(deserializer: D) -> Result<T, D::Error> {
    let mut view = T::default();
    deserializer.deserialize_map(ViewVisitor(&mut view))?;
    Ok(view)
}

/// A value that knows how to read itself.
pub(crate) fn value<'de, A: MapAccess<'de>, T: Deserialize<'de>>(map: &mut A, place: &mut T) -> Result<(), A::Error> {
    *place = map.next_value()?;
    Ok(())
}

/// A value for which `null` is the same as none at all.
pub(crate) fn nullable<'de, A, T>(map: &mut A, place: &mut T) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Default + Deserialize<'de>,
{
    *place = map.next_value::<Option<T>>()?.unwrap_or_default();
    Ok(())
}

/// An object.
pub(crate) fn object<'de, A: MapAccess<'de>, T: Fields<'de>>(map: &mut A, place: &mut T) -> Result<(), A::Error> {
    map.next_value_seed(ObjectOrNull(place)).map(drop)
}

/// An object whose absence matters.
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

/// An object of which a patch has to know whether it is written.
pub(crate) fn with_presence<'de, A: MapAccess<'de>, T: Fields<'de>>(
    map: &mut A,
    place: &mut WithPresence<T>,
) -> Result<(), A::Error> {
    place.is_present = map.next_value_seed(ObjectOrNull(&mut place.value))?;
    Ok(())
}

/// A list of objects.
pub(crate) fn objects<'de, A: MapAccess<'de>, T: Fields<'de>>(map: &mut A, place: &mut Vec<T>) -> Result<(), A::Error> {
    map.next_value_seed(ListOrNull(place)).map(drop)
}

/// A list of objects of which an empty one is not the same as none.
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

/// An object that the old object may repeat.
pub(crate) fn shared<'de, A, T>(map: &mut A, place: &mut Shared<'de, T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    map.next_value_seed(SharedObject { place, name: json::REPEATABLE })
}

/// As [`shared`], of an object that is mostly repeated: it is read when that is known.
pub(crate) fn deferred<'de, A, T>(map: &mut A, place: &mut Shared<'de, T>) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    T: Fields<'de>,
{
    map.next_value_seed(SharedObject { place, name: json::DEFERRED })
}

/// A value that nobody reads.
pub(crate) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

/// Fills a view from an object and from nothing else.
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

/// Fills a view; false where there is `null`.
struct ObjectOrNull<'v, T>(&'v mut T);

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

/// Fills a part that both objects of a request may have in common.
struct SharedObject<'v, 'de, T> {
    place: &'v mut Shared<'de, T>,
    /// What our own reader is asked for.
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

    /// From our own reader: the text of an object that was put off.
    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.place.deferred = Some(JsonText(text));
        Ok(())
    }

    /// From our own reader: the object was repeated.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.place.is_repeated = true;
        Ok(())
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match Rc::get_mut(&mut self.place.value) {
            Some(view) => ObjectOrNull(view).deserialize(deserializer).map(drop),
            None => Ok(()),
        }
    }
}

/// Fills an empty list with views; false where there is `null`.
struct ListOrNull<'v, T>(&'v mut Vec<T>);

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
        while list.next_element_seed(NewElement(&mut *self.0))?.is_some() {}
        Ok(true)
    }
}

/// Appends a view to a list and fills it there.
struct NewElement<'v, T>(&'v mut Vec<T>);

impl<'de, T: Fields<'de>> DeserializeSeed<'de> for NewElement<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.push(T::default());
        match self.0.last_mut() {
            Some(view) => deserializer.deserialize_map(ViewVisitor(view)),
            None => Ok(()),
        }
    }
}
