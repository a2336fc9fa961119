//! A part of a view that most objects leave empty.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
};

use serde::de::MapAccess;

use super::fields::Fields;

/// A value that takes one word until one of its fields is set.
///
/// A view of a whole VM would be twice as long with these values inside, and it is allocated, moved and dropped twice
/// for each update.
#[derive(Clone)]
pub struct Sparse<T>(Option<Box<T>>);

/// A type with an empty value that is never dropped.
pub trait Empty {
    /// Returns the value in which no field is set.
    fn empty<'v>() -> &'v Self
    where
        Self: 'v;
}

/// Implements [`Empty`] for a view that has a default.
macro_rules! empty {
    ($view:ident) => {
        impl $crate::api::Empty for $view<'_> {
            fn empty<'v>() -> &'v Self
            where
                Self: 'v,
            {
                static EMPTY: ::std::sync::LazyLock<$view<'static>> = ::std::sync::LazyLock::new($view::default);
                &EMPTY
            }
        }
    };
}
pub(super) use empty;

impl<T: Empty> Deref for Sparse<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(T::empty)
    }
}

impl<T> Sparse<T> {
    /// Whether none of its fields was set.
    pub(crate) fn is_unset(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Default> Sparse<T> {
    /// Returns the value to set its fields.
    pub(crate) fn value_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T> Default for Sparse<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Empty + PartialEq> PartialEq for Sparse<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.0.is_none() && other.0.is_none()) || **self == **other
    }
}

impl<T: Empty + Eq> Eq for Sparse<T> {}

impl<T: Empty + Hash> Hash for Sparse<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<T: Empty + fmt::Debug> fmt::Debug for Sparse<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

impl<'de, T: Fields<'de> + Empty + PartialEq> Fields<'de> for Sparse<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn fill<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error> {
        let mut value = T::default();
        value.fill(map)?;
        if value != *T::empty() {
            self.0 = Some(Box::new(value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::metadata::Metadata;

    fn metadata(annotations: &str) -> Metadata<'_> {
        let text = format!(r#"{{"annotations": {annotations}}}"#);
        serde_json::from_str(Box::leak(text.into_boxed_str())).unwrap()
    }

    #[test]
    fn a_value_is_boxed_only_if_a_field_is_set() {
        for (annotations, is_boxed) in [
            ("{}", false),
            (r#"{"other": "1"}"#, false),
            (r#"{"nicplug.io/persist": "lan"}"#, true),
            (r#"{"nicplug.io/unknown": "1"}"#, true),
        ] {
            let metadata = metadata(annotations);
            assert_eq!(metadata.annotations.unwrap().0.is_some(), is_boxed, "{annotations}");
        }
    }

    #[test]
    fn an_empty_value_equals_one_whose_fields_were_not_set() {
        let mut written = Sparse::<crate::api::metadata::Annotations>::default();
        written.value_mut();
        assert_eq!(written, Sparse::default());
        written.value_mut().persist = Some("lan".into());
        assert_ne!(written, Sparse::default());
        assert_eq!(written.persist.as_deref(), Some("lan"));
    }
}
