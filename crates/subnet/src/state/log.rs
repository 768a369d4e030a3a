//! What a canister printed, and why its messages trapped.
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes that a record takes beside its content.
const RECORD_BYTES: u64 = 16;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Counts the canister's lines from 0.
    pub index: u64,
    /// When it was written, nanoseconds since 1970.
    pub time_ns: u64,
    /// The text.
    #[serde(with = "serde_bytes")]
    pub content: Vec<u8>,
}

/// The last lines of a canister.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanisterLog {
    next_index: u64,
    records: VecDeque<LogRecord>,
    bytes: u64,
}

impl CanisterLog {
    /// Adds a line and forgets the oldest ones beyond `limit` bytes; a line longer than that is cut.
    pub fn push(&mut self, time_ns: u64, content: &[u8], limit: u64) {
        let longest = limit.saturating_sub(RECORD_BYTES).min(content.len() as u64);
        self.records.push_back(LogRecord {
            index: self.next_index,
            time_ns,
            content: content[..longest as usize].to_vec(),
        });
        self.next_index += 1;
        self.bytes += RECORD_BYTES + longest;
        self.shrink(limit);
    }

    /// Forgets the oldest lines beyond `limit` bytes.
    pub fn shrink(&mut self, limit: u64) {
        while self.bytes > limit
            && let Some(record) = self.records.pop_front()
        {
            self.bytes -= RECORD_BYTES + record.content.len() as u64;
        }
    }

    /// Forgets every line; the count goes on.
    pub fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    /// The lines, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &LogRecord> {
        self.records.iter()
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
