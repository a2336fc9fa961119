//! The metrics of the export of spans.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::{family, single};
use crate::telemetry::spans::{DropReason, Spans};

impl Collector for Spans {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let exported = ConstCounter::new(self.exported());
        let about = ("spans_exported", "Spans of requests that the collector accepted");
        single(&mut encoder, about, MetricType::Counter, &exported)?;
        let dropped =
            DropReason::ALL.map(|reason| ([("reason", reason.as_str())], ConstCounter::new(self.dropped(reason))));
        let about = ("spans_dropped", "Spans of requests that were lost, by reason");
        family(&mut encoder, about, MetricType::Counter, dropped)
    }
}
