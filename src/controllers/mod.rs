//! What this process changes in the cluster: who leads, NICs that persist, certificates, and when the webhooks are called.

pub mod certificates;
pub mod leader_election;
pub mod persist;
pub mod webhook_activation;
