//! The metric of denials.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter},
};

use super::family;
use crate::server::denials::DenialCounts;

impl Collector for DenialCounts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let numbers = self.numbers();
        let values = numbers.iter().map(|(namespace, requester, number)| {
            let mut labels = vec![("requester", requester.as_str())];
            if self.has_namespaces() {
                labels.push(("resource_namespace", namespace));
            }
            (labels, ConstCounter::new(*number))
        });
        let about = ("denials", "Denied requests, by the kind of their user, and by namespace if that is switched on");
        family(&mut encoder, about, MetricType::Counter, values)
    }
}
