//! The metric of the election of the replica that persists NICs and reports pending ones.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use tokio::sync::watch;

use super::{gauge, single};

#[derive(Debug)]
pub(super) struct LeaderCollector(pub(super) watch::Receiver<bool>);

impl Collector for LeaderCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let about = ("leader", "Whether this replica is the leader: 1 if so, else 0");
        single(&mut encoder, about, MetricType::Gauge, &gauge(usize::from(*self.0.borrow())))
    }
}
