//! Writes to the cluster: the leader's Lease, NICs into templates, Events about stored changes and pending NICs,
//! certificates, and the activation of the webhooks.

pub mod certificates;
pub mod changes;
pub mod leader_election;
pub mod pending;
pub mod persist;
pub mod webhook_activation;
