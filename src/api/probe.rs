//! The probes of a guest.

use serde::Deserialize;

use super::Present;

/// `livenessProbe` or `readinessProbe`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Probe {
    /// `tcpSocket`.
    pub tcp_socket: Option<Present>,
    /// `httpGet`.
    pub http_get: Option<Present>,
}

impl Probe {
    /// Whether the kubelet probes the guest over the pod's network.
    #[must_use]
    pub fn is_by_network(self) -> bool {
        self.tcp_socket.is_some() || self.http_get.is_some()
    }
}
