//! What the integration tests share. Each test file compiles this module for itself and uses a part of it.
//!
//! | module | contents |
//! | --- | --- |
//! | [`api_server`] | a real API server, its users and roles, and the chart's Service and webhooks on it |
//! | [`builders`] | VMs, VMIs, networks and reviews |
//! | [`cases`] | files of `tests/data`, reviewers over them, and their answers |
//! | [`certificates`] | replicas that renew their own certificates |
//! | [`client`] | TLS clients that behave as the API server does |
//! | [`clock`] | a clock that a test can move |
//! | [`commands`] | commands of the built program, on a namespace of the API server |
//! | [`folder`] | temporary folders, and volumes as the kubelet mounts them |
//! | [`installation`] | what `deploy/install.yaml` installs, and the flags of its replicas |
//! | [`kube_proxy`] | one address in front of several replicas |
//! | [`kubevirt`] | a double of KubeVirt's controllers |
//! | [`link`] | a network between nicplug and the API server that loses connections silently |
//! | [`metrics`] | values of a metrics page |
//! | [`replica`] | the built program, `nicplug serve` |
//! | [`server`] | the server in the test's own process, and a client that writes raw bytes |
//! | [`terminal`] | commands of the built program on a pseudo-terminal |
//! | [`wait`] | waiting for events |
//! | [`wording`] | words that user-facing texts may not have |
//!
//! A test on the API server begins with
//!
//! ```ignore
//! let Some(api) = api_server::shared().await else { return };
//! let namespace = api.namespace("hotplug").await;
//! ```
//!
//! and works in its own namespace, since starting an API server takes seconds and one serves all tests of a file. The
//! cluster has no controllers except the doubles, and no kubelet. Nothing empties a deleted namespace: all data is
//! removed when the test process ends.

// The helpers fail as tests do.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub(crate) mod api_server;
pub(crate) mod builders;
pub(crate) mod cases;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod commands;
pub(crate) mod folder;
pub(crate) mod installation;
pub(crate) mod kube_proxy;
pub(crate) mod kubevirt;
pub(crate) mod link;
pub(crate) mod metrics;
pub(crate) mod replica;
pub(crate) mod server;
pub(crate) mod terminal;
pub(crate) mod wait;
pub(crate) mod wording;
