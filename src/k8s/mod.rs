//! Access to the API server: kinds, requests, errors, patches, retries, Events.

pub mod api_error;
pub mod backoff;
pub mod events;
pub(crate) mod follow;
pub mod kind;
mod list_reader;
pub(crate) mod log_once;
pub(crate) mod patch;
pub mod request;
pub(crate) mod resource;
pub mod served_groups;

/// The prefix of the names of service accounts, before `NAMESPACE:NAME`.
pub(crate) const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Namespace and name.
pub(crate) type Key = (String, String);
