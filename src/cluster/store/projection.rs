//! The projection of an object to the few fields that the store keeps.
//!
//! A watch projects an object before it locks the store, and then compares: of a thousand updates of a guest in a day
//! only a handful change its facts.

use serde::Deserialize;

use super::kinds::{self, Projected};
use crate::{
    api::{FieldError, metadata::Metadata, read_object},
    facts::KubeVirt,
    k8s::{Key, kind::Kind},
};

/// A field of an object has a wrong type.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name:?}: {field}: {message}")]
pub struct ObjectError {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// An object, reduced to the fields that the store keeps.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) object: Box<dyn Projected>,
}

impl Projection {
    /// Reads an object; `registry` defines the types of its devices.
    ///
    /// # Errors
    /// A field has a wrong type.
    pub(crate) fn read(kind: Kind, text: &str, registry: &KubeVirt) -> Result<Self, ObjectError> {
        match kinds::of(kind).read(text, registry) {
            Ok((key, object)) => Ok(Self { kind, key, object }),
            Err(FieldError { field, message }) => {
                let (namespace, name) = key_of(text).unwrap_or_default();
                Err(ObjectError { kind, namespace, name, field, message })
            }
        }
    }
}

/// Returns namespace and name of an object of any kind, if they can be read.
pub(crate) fn key_of(text: &str) -> Option<Key> {
    read_key(text).ok()
}

/// Reads namespace and name of an object of any kind.
///
/// # Errors
/// They have a wrong type.
pub(super) fn read_key(text: &str) -> Result<Key, FieldError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Named<'a> {
        #[serde(borrow, deserialize_with = "crate::api::object")]
        metadata: Metadata<'a>,
    }

    let Named { metadata } = read_object(text)?;
    Ok((metadata.namespace.to_string(), metadata.name.to_string()))
}
