//! The metrics of the log.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::single;
use crate::telemetry::LogQueue;

impl Collector for LogQueue {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let about = (
            "log_lines_dropped",
            "Log lines that were not written, because standard error was full or its reader too slow",
        );
        single(&mut encoder, about, MetricType::Counter, &ConstCounter::new(self.dropped()))
    }
}
