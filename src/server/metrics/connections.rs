//! The metrics of connections.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{gauge, single};
use crate::server::counts::Counts;

#[derive(Debug)]
pub(super) struct ConnectionCollector {
    pub(super) counts: Counts,
    pub(super) limit: usize,
}

impl Collector for ConnectionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (opened, closed) = self.counts.connections();
        let open = ConstGauge::new(i64::try_from(opened.saturating_sub(closed)).unwrap_or(i64::MAX));
        single(&mut encoder, ("connections", "Open connections"), MetricType::Gauge, &open)?;
        let about = ("connections_limit", "Open connections from which on others are closed for new ones");
        single(&mut encoder, about, MetricType::Gauge, &gauge(self.limit))?;
        let about = ("connections_opened", "Connections that were opened");
        single(&mut encoder, about, MetricType::Counter, &ConstCounter::new(opened))?;

        let removed = ConstCounter::new(self.counts.removed().count());
        let about = ("connections_removed", "Connections that were closed for new ones at the limit");
        single(&mut encoder, about, MetricType::Counter, &removed)?;
        let failed = ConstCounter::new(self.counts.failed_handshakes());
        let about = ("handshake_failures", "Connections without a completed TLS handshake; port checks are included");
        single(&mut encoder, about, MetricType::Counter, &failed)
    }
}
