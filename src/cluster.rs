//! Where facts come from. It knows objects and no rule.

pub mod ask;
pub mod files;
pub mod kind;
mod listing;
mod macs;
pub mod manifests;
mod projection;
pub mod store;

/// Namespace and name.
type Key = (String, String);
