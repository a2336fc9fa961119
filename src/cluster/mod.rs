//! Reads facts from the cluster or from manifests. It writes nothing and depends on no rule.

pub mod cache;
pub mod fetch;
pub mod files;
pub mod manifests;
pub mod persist_queue;
mod reference;
pub mod store;
pub mod watch;
