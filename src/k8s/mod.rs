//! How nicplug speaks to the API server: kinds, requests, patches, pauses, Events.

pub mod backoff;
pub mod events;
pub mod kind;
pub(crate) mod log_once;
pub(crate) mod patch;

/// Namespace and name.
pub(crate) type Key = (String, String);
