//! The metrics of the persist controller.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::{family, gauge, single};
use crate::controllers::persist::{PersistStatus, ReconcileError};

#[derive(Debug)]
pub(super) struct PersistCollector(pub(super) PersistStatus);

impl Collector for PersistCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let PersistStatus { queue, stats } = &self.0;
        let about = ("persist_pending", "Objects that request that a NIC is copied into the template of a VM");
        single(&mut encoder, about, MetricType::Gauge, &gauge(queue.len()))?;
        let interfaces = ConstCounter::new(stats.persisted());
        let about = ("persist_interfaces", "NICs that this replica wrote into a template");
        single(&mut encoder, about, MetricType::Counter, &interfaces)?;
        let failures = ReconcileError::ALL
            .map(|reason| ([("reason", reason.as_str())], ConstCounter::new(stats.failures(reason))));
        family(&mut encoder, ("persist_failures", "Failed reconciliations, by reason"), MetricType::Counter, failures)
    }
}
