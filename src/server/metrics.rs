//! `/metrics`: numbers that are kept elsewhere, written down when somebody asks.
//!
//! Every label has a few values that are known beforehand. Names and namespaces are no labels: there may be a hundred
//! thousand of them.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{
    counts::Counts,
    second_look::{Looks, Upshot},
    settings_file::Tally,
};
use crate::{
    admission::Outcome,
    cluster::{
        cache::Cache,
        events::Outbox,
        watch::{Mishap, State, Status},
    },
};

/// OpenMetrics, which every Prometheus since 2.5 reads.
pub(super) const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a server.
#[derive(Debug, Default)]
pub(super) struct Metrics(Registry);

impl Metrics {
    /// The metrics that every server has.
    pub(super) fn new(counts: Counts) -> Self {
        let mut registry = Registry::with_prefix("nicplug");
        registry.register_collector(Box::new(Requests(counts)));
        Self(registry)
    }

    /// Adds those of the watches of a cluster.
    pub(super) fn add_facts(&mut self, cache: Arc<Cache>, status: Status) {
        self.0.register_collector(Box::new(Facts { cache, status }));
    }

    /// Adds those of denials that were checked at the cluster.
    pub(super) fn add_looks(&mut self, looks: Looks) {
        self.0.register_collector(Box::new(looks));
    }

    /// Adds those of events.
    pub(super) fn add_events(&mut self, outbox: Outbox) {
        self.0.register_collector(Box::new(outbox));
    }

    /// Adds those of a settings file.
    pub(super) fn add_settings(&mut self, tally: Tally) {
        self.0.register_collector(Box::new(tally));
    }

    /// All of them, as Prometheus reads them.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &self.0);
        text
    }
}

/// A metric that is made when it is asked for: one value for each set of labels.
pub(super) fn family<'v, M, L>(
    encoder: &mut DescriptorEncoder,
    (name, help): (&str, &str),
    kind: MetricType,
    values: impl IntoIterator<Item = (L, M)>,
) -> fmt::Result
where
    M: EncodeMetric,
    L: AsRef<[(&'static str, &'v str)]>,
{
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        value.encode(metric.encode_family(&labels.as_ref())?)?;
    }
    Ok(())
}

#[derive(Debug)]
struct Requests(Counts);

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let values =
            Outcome::ALL.map(|outcome| ([("outcome", outcome.as_str())], ConstCounter::new(self.0.of(outcome))));
        family(&mut encoder, ("requests", "Reviews answered, by what was said"), MetricType::Counter, values)
    }
}

impl Collector for Looks {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let values = Upshot::ALL.map(|result| ([("result", result.as_str())], ConstCounter::new(self.of(result))));
        let about =
            ("second_looks", "Answers that were checked at the cluster before they were given, by what came of it");
        family(&mut encoder, about, MetricType::Counter, values)
    }
}

#[derive(Debug)]
struct Facts {
    cache: Arc<Cache>,
    status: Status,
}

impl Collector for Facts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let records = || self.status.records();
        let states = records().flat_map(|record| {
            let (kind, current) = (record.kind.kind(), record.state().0.as_str());
            State::NAMES.map(|name| ([("kind", kind), ("state", name)], ConstGauge::new(i64::from(name == current))))
        });
        let about = ("facts_state", "What the facts of a kind are worth: 1 for the state that it is in");
        family(&mut encoder, about, MetricType::Gauge, states)?;

        let objects = records().map(|record| {
            let count = i64::try_from(self.cache.count(record.kind)).unwrap_or(i64::MAX);
            ([("kind", record.kind.kind())], ConstGauge::new(count))
        });
        family(&mut encoder, ("facts_objects", "Objects that are known"), MetricType::Gauge, objects)?;

        let silences = records().filter_map(|record| {
            let silence = record.silence()?.as_secs_f64();
            Some(([("kind", record.kind.kind())], ConstGauge::new(silence)))
        });
        let about = ("facts_silence_seconds", "Since the API server was last heard of: an object or a bookmark");
        family(&mut encoder, about, MetricType::Gauge, silences)?;

        let mishaps = records().flat_map(|record| {
            let of = |mishap: Mishap| {
                let labels = [("kind", record.kind.kind()), ("error", mishap.as_str())];
                (labels, ConstCounter::new(record.count(mishap)))
            };
            Mishap::ALL.map(of)
        });
        let about = ("facts_errors", "What has happened to watches, by kind of object and of error");
        family(&mut encoder, about, MetricType::Counter, mishaps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::store::Store;

    #[test]
    fn every_series_is_there_before_anything_happens() {
        let counts = Counts::default();
        let mut metrics = Metrics::new(counts.clone());
        metrics.add_facts(Arc::new(Cache::new(Store::default()).0), Status::default());
        metrics.add_looks(Looks::default());
        counts.add(Outcome::Denied);
        let text = metrics.text();
        for line in [
            "# TYPE nicplug_requests counter",
            "nicplug_requests_total{outcome=\"allowed\"} 0",
            "nicplug_requests_total{outcome=\"denied\"} 1",
            "nicplug_facts_state{kind=\"Node\",state=\"starting\"} 1",
            "nicplug_facts_state{kind=\"Node\",state=\"synced\"} 0",
            "nicplug_facts_objects{kind=\"VirtualMachine\"} 0",
            "nicplug_facts_errors_total{kind=\"KubeVirt\",error=\"expired\"} 0",
            "nicplug_second_looks_total{result=\"upheld\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
