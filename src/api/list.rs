//! Lists with a bound that a text of a request cannot exceed unnoticed.

use std::{fmt, marker::PhantomData, ops::Deref};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

use super::fields::{ENTRIES_AT_MOST, Fields, NewElement, reserve_first};

/// A list of objects. More than `ENTRIES_AT_MOST` entries are an error.
#[derive(Debug)]
pub struct List<T>(Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Fields<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<'v, T>(&'v mut Vec<T>);

        impl<'de, T: Fields<'de>> Visitor<'de> for ListVisitor<'_, T> {
            type Value = ();

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
                while list.next_element_seed(NewElement(&mut *self.0))?.is_some() {
                    if self.0.len() > ENTRIES_AT_MOST {
                        return Err(too_many(ENTRIES_AT_MOST));
                    }
                }
                Ok(())
            }
        }

        let mut entries = Vec::new();
        deserializer.deserialize_seq(ListVisitor(&mut entries))?;
        Ok(Self(entries))
    }
}

fn too_many<E: Error>(at_most: usize) -> E {
    E::custom(format_args!("the list has more than {at_most} entries"))
}

/// Reads a list; more entries than the bound are an error.
pub(crate) fn bounded<'de, D, T>(deserializer: D, at_most: usize) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct BoundedVisitor<T> {
        at_most: usize,
        entries: PhantomData<T>,
    }

    impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundedVisitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = list.next_element()? {
                if entries.len() == self.at_most {
                    return Err(too_many(self.at_most));
                }
                reserve_first(&mut entries);
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_seq(BoundedVisitor { at_most, entries: PhantomData })
}
