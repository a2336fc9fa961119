//! What every program may tell of itself, under the names that Prometheus' own clients use.

use std::{fmt, fs, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, gauge::ConstGauge},
};

use super::{seconds, single};

/// The process that this is.
#[derive(Debug)]
pub(super) struct Process {
    start: SystemTime,
}

impl Process {
    /// One that began at this time.
    pub(super) fn new(start: SystemTime) -> Self {
        Self { start }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let start = ConstGauge::new(seconds(self.start));
        let about = ("process_start_time_seconds", "When the server began, in seconds since 1970");
        single(&mut encoder, about, MetricType::Gauge, &start)?;
        // Nowhere but on Linux.
        let Some(bytes) = fs::read_to_string("/proc/self/status").ok().and_then(|status| resident(&status)) else {
            return Ok(());
        };
        let about = ("process_resident_memory_bytes", "Memory that the process has now");
        single(&mut encoder, about, MetricType::Gauge, &ConstGauge::new(bytes))
    }
}

/// `VmRSS`, in bytes.
fn resident(status: &str) -> Option<i64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))?;
    kib.trim().parse::<i64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(resident("Name:\tnicplug\nVmHWM:\t   14000 kB\nVmRSS:\t   13372 kB\n"), Some(13372 * 1024));
        assert_eq!(resident("Name:\tkthreadd\n"), None);
    }
}
