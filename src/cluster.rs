//! Where facts come from. It knows objects and no rule.

pub mod ask;
pub mod backoff;
pub mod cache;
pub mod calls;
pub mod certificates;
pub mod events;
pub mod files;
mod guests;
pub mod kind;
pub mod lease;
mod listing;
mod macs;
pub mod manifests;
pub mod mirror;
mod patching;
pub mod pending;
mod pool;
mod projection;
pub mod store;
mod told;
pub mod watch;

/// Namespace and name.
type Key = (String, String);
