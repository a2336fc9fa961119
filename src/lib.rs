//! nicplug is an admission webhook for KubeVirt: it reviews every change of a virtual machine's network interfaces
//! before the API server stores it, and reports a change that cannot work with its reason and its fix.
//!
//! The steps of a review, which is also the order in which to read the code:
//!
//! ```text
//! bytes ─▶ api::review ─▶ change ─▶ rules, mutations ─▶ verdict ─▶ bytes      admission does all steps
//!                           ▲            ▲
//!                         facts       settings                               cluster state, configuration
//! ```
//!
//! All modules up to [`hotplug`] are pure: they use no network, no clock, no file and no global state. [`cluster`]
//! reads the cluster, [`controllers`] write to it, both by means of [`k8s`]; [`server`] serves the webhooks; [`cli`]
//! has the commands. `tests/layers.rs` checks which module uses which.

// In reading order: a module uses only modules above it.
pub mod api;

pub mod kubevirt;

pub mod pci;

pub mod change;

pub mod settings;

pub mod facts;

pub mod annotations;

pub mod rules;

pub mod mutations;

pub mod admission;

pub mod hotplug;

pub mod certificates;

pub mod k8s;

pub mod cluster;

pub mod controllers;

pub mod telemetry;

pub mod server;

pub mod cli;
