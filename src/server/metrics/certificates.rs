//! The metrics of the serving certificate.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use super::{family, seconds, single};
use crate::server::tls::CertResolver;

#[derive(Debug)]
pub(super) struct CertificateCollector(pub(super) CertResolver);

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let server = self.0.validity().map(|validity| validity.not_after);
        let expiries =
            [("server", server), ("ca", self.0.ca_expiry())].into_iter().filter_map(|(certificate, expiry)| {
                Some(([("certificate", certificate)], ConstGauge::new(seconds(expiry?))))
            });
        let about = (
            "certificate_expiry_timestamp_seconds",
            "When the serving certificate or its CA expires, in seconds since 1970",
        );
        family(&mut encoder, about, MetricType::Gauge, expiries)?;

        let failures = ConstCounter::new(self.0.load_failures());
        let about =
            ("certificate_load_failures", "Certificates that were rejected while the previous one stayed in use");
        single(&mut encoder, about, MetricType::Counter, &failures)
    }
}
