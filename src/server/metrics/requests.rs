//! The metrics of requests.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter},
};

use super::{family, gauge, single};
use crate::{
    admission::Endpoint,
    server::{
        body::BodyBudget,
        counts::{Counts, Histogram, RefusalReason, Series},
        in_flight::InFlight,
    },
};

#[derive(Debug)]
pub(super) struct RequestCollector {
    pub(super) counts: Counts,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) bodies: Arc<BodyBudget>,
}

impl Collector for RequestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let answers = Series::all().map(|series| (series, self.counts.of_series(series)));
        // An unexpected combination is exported if it occurs all the same.
        let answers = answers.filter(|(series, count)| series.is_expected() || *count > 0);
        let answers = answers.map(|(series, count)| {
            let labels = [
                ("endpoint", series.endpoint.as_str()),
                ("kind", series.kind.as_str()),
                ("operation", series.operation.as_str()),
                ("decision", series.decision.as_str()),
            ];
            (labels, ConstCounter::new(count))
        });
        let about = ("requests", "Answered reviews, by request and decision");
        family(&mut encoder, about, MetricType::Counter, answers)?;

        let durations = Endpoint::ALL.map(|endpoint| {
            let labels = [("endpoint", endpoint.as_str())];
            (labels, self.counts.durations(endpoint))
        });
        let about = (
            "request_duration_seconds",
            "Time from the header of a review to its answer, including the transfer of the body and a recheck",
        );
        family(&mut encoder, about, MetricType::Histogram, durations)?;

        let about = ("requests_in_flight", "Reviews that nicplug is answering");
        single(&mut encoder, about, MetricType::Gauge, &gauge(self.in_flight.count()))?;
        let about = ("request_body_bytes", "Bytes of the bodies that nicplug is reading or answering");
        single(&mut encoder, about, MetricType::Gauge, &gauge(self.bodies.taken()))?;

        let refused = RefusalReason::ALL
            .map(|reason| ([("reason", reason.as_str())], ConstCounter::new(self.counts.refused(reason))));
        let about = ("requests_refused", "Requests that were refused without a review, by reason");
        family(&mut encoder, about, MetricType::Counter, refused)
    }
}

impl EncodeMetric for &Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let buckets: Vec<(f64, u64)> = self.buckets().collect();
        // The count is the sum of the buckets, so both agree even if a value is added meanwhile.
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
