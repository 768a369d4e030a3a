//! Memory and processor time of this process, as Linux tells them in `/proc`. Elsewhere there are none.
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};
use std::{fmt, fs};

/// This process, asked when its metrics are read.
#[derive(Debug)]
pub(super) struct Values;

impl Collector for Values {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let memory = fs::read_to_string("/proc/self/status");
        let memory = memory.ok().and_then(|text| resident_bytes(&text));
        if let Some(bytes) = memory {
            let gauge = ConstGauge::new(bytes);
            let (name, help) = ("process_resident_memory", "Memory that this process has");
            let unit = Some(&Unit::Bytes);
            let metric = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let time = fs::read_to_string("/proc/self/stat");
        if let Some(ticks) = time.ok().and_then(|text| processor_ticks(&text)) {
            let per_second = rustix::param::clock_ticks_per_second();
            let counter = ConstCounter::new(ticks as f64 / per_second as f64);
            let (name, help) = ("process_cpu", "Processor time of this process");
            let unit = Some(&Unit::Seconds);
            let metric = encoder.encode_descriptor(name, help, unit, counter.metric_type())?;
            counter.encode(metric)?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            let gauge = ConstGauge::new(i64::try_from(files.count()).unwrap_or(i64::MAX));
            let (name, help) = ("process_open_files", "Files that this process has open");
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

/// `VmRSS` of `/proc/<process>/status`.
fn resident_bytes(status: &str) -> Option<i64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// `utime` and `stime` of `/proc/<process>/stat`.
fn processor_ticks(stat: &str) -> Option<u64> {
    // The name of the program stands before them in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194560 90 0 0 0 12 30 0 0 20 0 1 0 5 1 1 1";
        assert_eq!(processor_ticks(stat), Some(42));
        assert_eq!(processor_ticks("7 (a R 1"), None);
        let status = "Name:\tx\nVmHWM:\t   9 kB\nVmRSS:\t    2 kB\n";
        assert_eq!(resident_bytes(status), Some(2048));
        assert_eq!(resident_bytes("VmRSS:\tmany kB\n"), None);
    }
}
