//! What canisters printed.
use super::{decode, encode, find};
use crate::{
    execution::CANISTER_REJECTED,
    state::{LogRecord, Reject, ReplicatedState},
};
use ic_management_canister_types::{
    CanisterLogFilter, CanisterLogRecord, FetchCanisterLogsArgs, FetchCanisterLogsResult,
};
use ic_principal::Principal;

/// Most bytes of records in a response.
const RESPONSE_BYTES_MAX: usize = 2_000_000;
/// Bytes that a record takes in Candid beside its content, at most.
const RECORD_BYTES: usize = 32;

pub(super) fn fetch_canister_logs(
    state: &ReplicatedState,
    sender: &Principal,
    argument: &[u8],
) -> Result<Vec<u8>, Reject> {
    let arguments: FetchCanisterLogsArgs = decode(argument)?;
    let canister = find(state, &arguments.canister_id)?;
    let visibility = &canister.state.settings.log_visibility;
    if !canister.state.shows(visibility, sender) {
        let text = format!("Caller {sender} is not allowed to access canister logs");
        return Err(Reject::new(CANISTER_REJECTED, text));
    }
    let records = canister.ledger.log.records();
    let records = match arguments.filter {
        // The newest ones are what is asked for.
        None => {
            let mut records = fitting(records.rev());
            records.reverse();
            records
        }
        // From the first one on, so that one can go on behind the last.
        Some(CanisterLogFilter::ByIdx { start, end }) => {
            fitting(records.filter(|record| (start..end).contains(&record.index)))
        }
        Some(CanisterLogFilter::ByTimestampNanos { start, end }) => {
            fitting(records.filter(|record| (start..end).contains(&record.time_ns)))
        }
    };
    Ok(encode(&FetchCanisterLogsResult {
        canister_log_records: records,
    }))
}

/// The first records, as many as fit into a response.
fn fitting<'log>(records: impl Iterator<Item = &'log LogRecord>) -> Vec<CanisterLogRecord> {
    let mut left = RESPONSE_BYTES_MAX;
    let fits = |record: &&LogRecord| {
        let bytes = RECORD_BYTES + record.content.len();
        left.checked_sub(bytes).is_some_and(|rest| {
            left = rest;
            true
        })
    };
    records
        .take_while(fits)
        .map(|record| CanisterLogRecord {
            idx: record.index,
            timestamp_nanos: record.time_ns,
            content: record.content.clone(),
        })
        .collect()
}
