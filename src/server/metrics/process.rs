//! The metrics that every program can have, under the names that Prometheus' own clients use.

use std::{fmt, fs, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::DescriptorEncoder,
    metrics::{MetricType, gauge::ConstGauge},
};

use super::{seconds, single};

#[derive(Debug)]
pub(super) struct ProcessCollector {
    start: SystemTime,
}

impl ProcessCollector {
    /// Returns the collector of a process that started at this time.
    pub(super) fn new(start: SystemTime) -> Self {
        Self { start }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let start = ConstGauge::new(seconds(self.start));
        let about = ("process_start_time_seconds", "When the server started, in seconds since 1970");
        single(&mut encoder, about, MetricType::Gauge, &start)?;
        // The file exists on Linux only.
        let Some(bytes) = fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_memory(&status))
        else {
            return Ok(());
        };
        let about = ("process_resident_memory_bytes", "Resident memory of the process");
        single(&mut encoder, about, MetricType::Gauge, &ConstGauge::new(bytes))
    }
}

/// Returns `VmRSS` in bytes.
fn resident_memory(status: &str) -> Option<i64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))?;
    kib.trim().parse::<i64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_read_as_the_kernel_writes_it() {
        let status = "Name:\tnicplug\nVmHWM:\t   14000 kB\nVmRSS:\t   13372 kB\n";
        assert_eq!(resident_memory(status), Some(13372 * 1024));
        assert_eq!(resident_memory("Name:\tkthreadd\n"), None);
    }
}
