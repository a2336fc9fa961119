//! The metrics of the watches of a cluster.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{family, gauge};
use crate::cluster::{
    cache::Cache,
    watch::{WatchError, WatchState, WatchStatuses},
};

#[derive(Debug)]
pub(super) struct FactCollector {
    pub(super) cache: Arc<Cache>,
    pub(super) status: WatchStatuses,
}

impl Collector for FactCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let records = || self.status.iter();
        let states = records().flat_map(|record| {
            let (kind, current) = (record.kind.kind(), record.state().0.as_str());
            WatchState::NAMES
                .map(|name| ([("kind", kind), ("state", name)], ConstGauge::new(i64::from(name == current))))
        });
        let about = ("facts_state", "State of the facts of a kind: 1 for the current state, 0 for the others");
        family(&mut encoder, about, MetricType::Gauge, states)?;

        let objects = records().map(|record| ([("kind", record.kind.kind())], gauge(self.cache.count(record.kind))));
        family(&mut encoder, ("facts_objects", "Objects of the kind in memory"), MetricType::Gauge, objects)?;

        let ages = records().filter_map(|record| {
            let age = record.time_since_last_event()?.as_secs_f64();
            Some(([("kind", record.kind.kind())], ConstGauge::new(age)))
        });
        let about =
            ("facts_last_event_age_seconds", "Seconds since the last event of the watch: an object or a bookmark");
        family(&mut encoder, about, MetricType::Gauge, ages)?;

        let errors = records().flat_map(|record| {
            WatchError::ALL.map(|error| {
                let labels = [("kind", record.kind.kind()), ("error", error.as_str())];
                (labels, ConstCounter::new(record.error_count(error)))
            })
        });
        let about = ("facts_errors", "Errors of watches, by kind of object and of error");
        family(&mut encoder, about, MetricType::Counter, errors)
    }
}
