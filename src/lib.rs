//! nicplug is an admission webhook for KubeVirt: it judges every change of a virtual machine's network interfaces
//! before it is stored, and says in one sentence what would not work.
//!
//! The way of a request, and of whoever reads the code:
//!
//! ```text
//! bytes ─▶ api::review ─▶ change ─▶ rules ─▶ verdict ─▶ patch ─▶ bytes        admission: the whole way, on one page
//!                           ▲         ▲
//!                         facts    settings                                  what is known, what is wanted
//! ```
//!
//! Everything up to [`admission`] is pure: it knows no network, no clock, no file and no global. Around it stand
//! `cluster`, which gathers facts, `server`, which speaks TLS and HTTP, and `cli`, the commands.

// In reading order: each uses what stands above it.
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
