//! The metric of the webhook activation.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};
use tokio::sync::watch;

use super::{gauge, single};
use crate::controllers::webhook_activation::Activation;

#[derive(Debug)]
pub(super) struct ActivationCollector(pub(super) watch::Receiver<Activation>);

impl Collector for ActivationCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let is_active = *self.0.borrow() == Activation::Active;
        let about = ("webhook_active", "Whether the API server calls the webhooks: 1 if so, else 0");
        single(&mut encoder, about, MetricType::Gauge, &gauge(usize::from(is_active)))
    }
}
