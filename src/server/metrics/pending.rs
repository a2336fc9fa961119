//! The metric of pending NICs.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, gauge::ConstGauge},
};

use super::family;
use crate::{
    controllers::pending::{PendingCounts, STAGES},
    hotplug::place::PendingReason,
};

#[derive(Debug)]
pub(super) struct PendingCollector(pub(super) PendingCounts);

impl Collector for PendingCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let values = STAGES.into_iter().flat_map(|place| {
            PendingReason::ALL.map(|reason| {
                let number = i64::try_from(self.0.of(place, reason)).unwrap_or(i64::MAX);
                ([("stage", place.as_str()), ("reason", reason.as_str())], ConstGauge::new(number))
            })
        });
        let about = ("interfaces_pending", "NICs that the running guest lacks after events.pendingAfterSeconds");
        family(&mut encoder, about, MetricType::Gauge, values)
    }
}
