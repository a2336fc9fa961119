//! The metric of rechecks.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::family;
use crate::server::recheck::{RecheckCounts, RecheckResult};

impl Collector for RecheckCounts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let values =
            RecheckResult::ALL.map(|result| ([("result", result.as_str())], ConstCounter::new(self.of(result))));
        let about = ("rechecks", "Answers that were checked with the API server before they were returned, by result");
        family(&mut encoder, about, MetricType::Counter, values)
    }
}
