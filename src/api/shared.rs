//! A field that both objects of an update share.

use std::{mem, ops::Deref, sync::Arc};

use serde::Deserialize;

use super::{
    Empty, JsonText,
    fields::ListOrNull,
    is_same, json,
    network::{Interface, Network},
};

/// A field that the old object may repeat byte for byte, as a heartbeat repeats the spec. A repeated field is read once
/// only, and a deferred one that is repeated is not read at all. Of one that differs in its lists of NICs only these are
/// read. A postponed one is never compared: it is only deferred.
///
/// The value is empty until a deferred field is read, or a repeated one is taken from the other object. Reading a
/// request does both, except if the request changes nothing.
#[derive(Debug)]
pub struct Shared<'a, T> {
    /// `None` means empty.
    pub(super) value: Option<Arc<T>>,
    pub(super) source: Source<'a>,
}

/// Where the value of a [`Shared`] field comes from.
#[derive(Clone, Debug, Default)]
pub(super) enum Source<'a> {
    /// It was read, or the object lacks the field.
    #[default]
    Own,
    /// This text, which was not read yet.
    Deferred(JsonText<'a>),
    /// The other object has the same.
    Repeated,
    /// The other object has the same, except for its lists of NICs, which were not read yet.
    RepeatedExceptNics(Box<NicTexts<'a>>),
}

/// The texts of the lists of NICs.
#[derive(Clone, Debug)]
pub(super) struct NicTexts<'a> {
    pub(super) interfaces: JsonText<'a>,
    pub(super) networks: JsonText<'a>,
}

impl<T> Default for Shared<'_, T> {
    fn default() -> Self {
        Self { value: None, source: Source::Own }
    }
}

impl<'a, T: Deserialize<'a>> Shared<'a, T> {
    /// Reads the value, if it was deferred.
    pub(super) fn read(&mut self) -> Result<(), json::JsonError> {
        if let Source::Deferred(text) = &self.source {
            self.value = Some(Arc::new(json::read(text.0)?));
            self.source = Source::Own;
        }
        Ok(())
    }
}

impl<T> From<T> for Shared<'_, T> {
    fn from(value: T) -> Self {
        Self { value: Some(Arc::new(value)), ..Self::default() }
    }
}

/// A view that has the lists of NICs of a guest.
pub(super) trait WithNics<'a> {
    fn nics_mut(&mut self) -> (&mut Vec<Interface<'a>>, &mut Vec<Network<'a>>);
}

impl<'a, T> Shared<'a, T> {
    /// Takes the value of the other object, if this one repeats it. That one has to be read before.
    ///
    /// # Errors
    /// A list of NICs cannot be read.
    pub(super) fn resolve_from(&mut self, other: &mut Self) -> Result<(), json::JsonError>
    where
        T: WithNics<'a> + Clone,
    {
        match mem::take(&mut self.source) {
            Source::Own => return Ok(()),
            _ if !matches!(other.source, Source::Own) => return Err(json::JsonError),
            Source::Repeated => self.value.clone_from(&other.value),
            Source::RepeatedExceptNics(texts) => {
                let copied = other.value.as_mut().and_then(Arc::get_mut).ok_or(json::JsonError)?;
                let mut copy = copy_without_nics(copied);
                let lists = copy.nics_mut();
                json::read_seed(ListOrNull(lists.0), texts.interfaces.0)?;
                json::read_seed(ListOrNull(lists.1), texts.networks.0)?;
                self.value = Some(Arc::new(copy));
            }
            Source::Deferred(_) => return Err(json::JsonError),
        }
        Ok(())
    }
}

/// Copies a view, but leaves its lists of NICs empty.
fn copy_without_nics<'a, T: WithNics<'a> + Clone>(view: &mut T) -> T {
    let (interfaces, networks) = view.nics_mut();
    let nics = (mem::take(interfaces), mem::take(networks));
    let copy = view.clone();
    let (interfaces, networks) = view.nics_mut();
    (*interfaces, *networks) = nics;
    copy
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), source: self.source.clone() }
    }
}

impl<T: Empty> Deref for Shared<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_deref().unwrap_or_else(T::empty)
    }
}

impl<T: Empty + PartialEq> PartialEq for Shared<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        is_same(&**self, &**other)
    }
}
