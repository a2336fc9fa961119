//! Where facts come from. It knows objects and no rule.

pub mod cache;
pub mod fetch;
pub mod files;
pub mod manifests;
pub mod persist_queue;
pub mod store;
pub mod watch;
