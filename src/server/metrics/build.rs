//! The version of the program.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, info::Info},
};

use super::single;

#[derive(Debug)]
pub(super) struct BuildCollector;

impl Collector for BuildCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // The toolchain of every build is the one that rust-version names.
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("rust", env!("CARGO_PKG_RUST_VERSION"))];
        let about = ("build", "The version of nicplug, and of the Rust compiler that built it");
        single(&mut encoder, about, MetricType::Info, &Info::new(labels))
    }
}
