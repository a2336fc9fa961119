//! The metrics of a settings file.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{family, single};
use crate::server::reload::settings::ReloadCounts;

impl Collector for ReloadCounts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let reloads = [("taken", self.taken()), ("refused", self.refused())]
            .map(|(result, count)| ([("result", result)], ConstCounter::new(count)));
        let about = ("settings_reloads", "Changes of the settings file, by result");
        family(&mut encoder, about, MetricType::Counter, reloads)?;
        let is_valid = ConstGauge::new(i64::from(self.is_valid()));
        let about = ("settings_valid", "Whether the settings in force are those of the current file: 1 if so, else 0");
        single(&mut encoder, about, MetricType::Gauge, &is_valid)
    }
}
