//! What a replica counts.
use lockstep_subnet::replica::Replica;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};
use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// Where the height of the last final block can be asked for, if that is known.
pub(crate) type Finalized = Arc<OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>>;

/// A replica, asked when its metrics are read.
pub(super) struct Values {
    pub(super) replica: Arc<Replica>,
    pub(super) finalized: Finalized,
}

impl fmt::Debug for Values {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.replica.fmt(formatter)
    }
}

impl Collector for Values {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.replica.status();
        let gauges = [
            (
                "executed_height",
                "The last executed height",
                status.executed_height,
            ),
            (
                "certified_height",
                "The last certified height; 0 until one has been certified since the start",
                status.certified_height,
            ),
            (
                "canisters",
                "Canisters of the subnet",
                status.canisters as u64,
            ),
            (
                "sessions",
                "Generation sessions in the state",
                status.sessions as u64,
            ),
            (
                "sessions_running",
                "Generation sessions that are being worked on",
                status.sessions_running as u64,
            ),
            (
                "calls_waiting",
                "Calls that wait to be ordered",
                status.mempool_calls as u64,
            ),
            (
                "halted",
                "Whether the replica has halted",
                u64::from(status.halted.is_some()),
            ),
        ];
        let finalized = self.finalized.get().map(|height| {
            let help = "The last height that is known to be final";
            ("finalized_height", help, height())
        });
        for (name, help, value) in gauges.into_iter().chain(finalized) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let counters = [
            (
                "blocks_executed",
                "Blocks executed since the start",
                status.blocks_executed,
            ),
            (
                "calls_executed",
                "Calls executed since the start",
                status.calls_executed,
            ),
            (
                "queries_answered",
                "Queries answered since the start",
                status.queries_answered,
            ),
            (
                "instructions_executed",
                "Instructions of the time that messages took since the start",
                status.instructions_executed,
            ),
            (
                "session_work_done",
                "Multiply-accumulates done for sessions since the start",
                status.session_work_done,
            ),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}
