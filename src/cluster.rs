//! Where facts come from. It knows objects and no rule.

pub mod backoff;
pub mod files;
pub mod lease;
mod macs;
pub mod manifests;
pub mod pending;
pub mod store;

/// Namespace and name.
type Key = (String, String);
