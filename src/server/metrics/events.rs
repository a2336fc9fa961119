//! The metrics of Events.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::{family, single};
use crate::k8s::events::{DropReason, EventQueue};

impl Collector for EventQueue {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let about = ("events_sent", "Events of reviews and settings that the API server accepted");
        single(&mut encoder, about, MetricType::Counter, &ConstCounter::new(self.sent()))?;
        let dropped =
            DropReason::ALL.map(|reason| ([("reason", reason.as_str())], ConstCounter::new(self.dropped(reason))));
        let about = ("events_dropped", "Events that were not sent, by reason");
        family(&mut encoder, about, MetricType::Counter, dropped)
    }
}
