//! What the second object of a pair repeats: an update has the new object and the stored one, which are mostly equal.

use serde::de::{
    Visitor,
    value::{BorrowedStrDeserializer, SeqDeserializer},
};

use super::{JsonError, Reader, scan::strip_long_prefix, skipped::SkippedValues};

/// The name of a newtype that `read_pair` compares with the first object that was read under this name or [`DEFERRED`].
/// If the two are equal byte for byte, the reader skips the object and calls `visit_unit`. To every other deserializer it
/// is an ordinary newtype.
pub(in crate::api) const REPEATABLE: &str = "$nicplug::Repeatable";

/// As [`REPEATABLE`], but the visitor receives the text of the first object, by `visit_borrowed_str`.
pub(in crate::api) const DEFERRED: &str = "$nicplug::Deferred";

/// The names of newtypes for two lists that are often the only difference of a [`REPEATABLE`] object from the first one.
/// `read_pair` does not read such an object again: the visitor of the object receives the texts of its two lists, by
/// `visit_seq`. To every other deserializer, and elsewhere, they are ordinary newtypes.
pub(in crate::api) const VARYING: [&str; 2] = ["$nicplug::FirstVarying", "$nicplug::SecondVarying"];

/// The name of a newtype whose visitor receives the text of an object from `read_pair`, by `visit_borrowed_str`. To every
/// other deserializer it is an ordinary newtype, as it is for a value of another type.
pub(in crate::api) const POSTPONED: &str = "$nicplug::Postponed";

/// What the second object of a pair may repeat.
#[derive(Default)]
pub(super) struct Pair<'de> {
    pub(super) skipped: SkippedValues<'de>,
    first: FirstObject<'de>,
}

/// The first object that was read as [`REPEATABLE`] or [`DEFERRED`].
#[derive(Clone, Copy)]
enum FirstObject<'de> {
    /// With the texts of the [`VARYING`] lists, which are inside of it.
    NotRead { varying: [Option<&'de str>; 2] },
    /// Its text, and the parts around its [`VARYING`] lists if it has both in this order.
    Read { text: &'de str, around: Option<[&'de str; 3]> },
}

impl Default for FirstObject<'_> {
    fn default() -> Self {
        Self::NotRead { varying: [None; 2] }
    }
}

impl<'de> Reader<'_, 'de> {
    /// Reads an object unless it equals the first one; see [`REPEATABLE`], [`DEFERRED`] and [`VARYING`].
    pub(super) fn repeatable<V: Visitor<'de>>(&mut self, is_deferred: bool, visitor: V) -> Result<V::Value, JsonError> {
        if self.peek()? != b'{' {
            return visitor.visit_newtype_struct(self);
        }
        let Some(first) = self.pair.as_ref().map(|pair| pair.first) else { return visitor.visit_newtype_struct(self) };
        match first {
            // An object ends at its last bracket, so the text after a match does not matter.
            FirstObject::Read { text, .. } if self.pass(text).is_some() => visitor.visit_unit(),
            FirstObject::Read { around, .. } => match around.and_then(|around| self.pass_varying(around)) {
                Some(lists) => {
                    visitor.visit_seq(SeqDeserializer::new(lists.into_iter().map(BorrowedStrDeserializer::new)))
                }
                None => visitor.visit_newtype_struct(self),
            },
            FirstObject::NotRead { .. } if is_deferred => {
                let text = self.skip()?;
                self.set_first(FirstObject::Read { text, around: None });
                visitor.visit_borrowed_str(text)
            }
            FirstObject::NotRead { .. } => {
                let rest = self.rest;
                let value = visitor.visit_newtype_struct(&mut *self)?;
                let text = self.passed_since(rest)?;
                let lists = match self.pair.as_ref().map(|pair| pair.first) {
                    Some(FirstObject::NotRead { varying: [Some(one), Some(other)] }) => Some((one, other)),
                    _ => None,
                };
                let around = lists.and_then(|(one, other)| around(text, one, other));
                self.set_first(FirstObject::Read { text, around });
                Ok(value)
            }
        }
    }

    fn set_first(&mut self, first: FirstObject<'de>) {
        if let Some(pair) = &mut self.pair {
            pair.first = first;
        }
    }

    /// Passes a text, if it follows.
    #[inline]
    fn pass(&mut self, text: &str) -> Option<()> {
        let tail = strip_long_prefix(self.rest.as_bytes(), text.as_bytes())?;
        self.advance_to(tail).ok().map(drop)
    }

    /// Passes an object that equals the first one around its varying lists, and returns the texts of its own lists.
    fn pass_varying(&mut self, [before, between, after]: [&str; 3]) -> Option<[&'de str; 2]> {
        let start = self.rest;
        let lists = (|| {
            self.pass(before)?;
            let one = self.skip_list()?;
            self.pass(between)?;
            let other = self.skip_list()?;
            self.pass(after)?;
            Some([one, other])
        })();
        if lists.is_none() {
            self.rest = start;
        }
        lists
    }

    fn skip_list(&mut self) -> Option<&'de str> {
        if self.rest.starts_with('[') { self.skip().ok() } else { None }
    }

    /// Reads a value, and remembers its text if it is inside of the first object; see [`VARYING`].
    pub(super) fn varying<V: Visitor<'de>>(&mut self, number: usize, visitor: V) -> Result<V::Value, JsonError> {
        self.peek()?;
        let rest = self.rest;
        let value = visitor.visit_newtype_struct(&mut *self)?;
        let text = self.passed_since(rest)?;
        if let Some(Pair { first: FirstObject::NotRead { varying }, .. }) = &mut self.pair.as_deref_mut()
            && let Some(place) = varying.get_mut(number)
        {
            *place = Some(text);
        }
        Ok(value)
    }

    /// Returns the text that was passed since only `rest` was left.
    fn passed_since(&self, rest: &'de str) -> Result<&'de str, JsonError> {
        rest.get(..rest.len() - self.rest.len()).ok_or(JsonError)
    }

    /// Returns the text of an object; see [`POSTPONED`].
    pub(super) fn postponed<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, JsonError> {
        if self.peek()? != b'{' || self.pair.is_none() {
            return visitor.visit_newtype_struct(self);
        }
        visitor.visit_borrowed_str(self.skip()?)
    }
}

/// Returns the parts of a text around two others in it; `None` if they are not in this order in it.
fn around<'t>(text: &'t str, one: &str, other: &str) -> Option<[&'t str; 3]> {
    let range = |part: &str| {
        let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
        Some((start, start + part.len()))
    };
    let ((start, end), (other_start, other_end)) = (range(one)?, range(other)?);
    Some([text.get(..start)?, text.get(end..other_start)?, text.get(other_end..)?])
}
