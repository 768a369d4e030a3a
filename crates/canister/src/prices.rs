//! What a canister pays, in cycles.
//!
//! The published table of the Internet Computer for a subnet of 13 nodes; other sizes pay in proportion,
//! rounded down.
mod outcalls;

pub use outcalls::{Committee, Outcall, OutcallType};

use crate::{engine::Instructions, message::Cycles};

/// Nodes for which the table is written.
const NODES: u128 = 13;
/// Most bytes of a reply, for which a call prepays.
pub const REPLY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Instructions of a callback, for which a call prepays.
pub const CALLBACK_INSTRUCTIONS: Instructions = 40_000_000_000;
const GIB: u128 = 1 << 30;

/// The prices on one subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    nodes: u32,
}

impl Prices {
    /// Prices as on a subnet of so many nodes.
    #[must_use]
    pub fn new(nodes: u32) -> Self {
        Self { nodes }
    }

    /// Nodes of the subnet.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    fn scaled(&self, cycles: Cycles) -> Cycles {
        cycles.saturating_mul(u128::from(self.nodes)) / NODES
    }

    /// Creating a canister.
    #[must_use]
    pub fn create_canister(&self) -> Cycles {
        self.scaled(500_000_000_000)
    }

    /// Executing a message that took so many instructions.
    #[must_use]
    pub fn execution(&self, instructions: Instructions, memory64: bool) -> Cycles {
        let factor = if memory64 { 2 } else { 1 };
        self.scaled(5_000_000 + factor * u128::from(instructions))
    }

    /// Taking in a user's message of so many bytes: those of its method's name and its argument.
    #[must_use]
    pub fn ingress(&self, bytes: u64) -> Cycles {
        self.scaled(1_200_000 + 2_000 * u128::from(bytes))
    }

    /// Transmitting a call to another canister, answer not included.
    #[must_use]
    pub fn request(&self, bytes: u64) -> Cycles {
        self.scaled(260_000) + self.transmission(bytes)
    }

    /// Transmitting so many bytes of a response.
    #[must_use]
    pub fn transmission(&self, bytes: u64) -> Cycles {
        self.scaled(1_000 * u128::from(bytes))
    }

    /// What a call prepays for its response: the longest transmission and the longest callback.
    #[must_use]
    pub fn response_prepayment(&self, memory64: bool) -> Cycles {
        self.transmission(REPLY_BYTES_MAX) + self.execution(CALLBACK_INSTRUCTIONS, memory64)
    }

    /// Storing so many bytes for so long.
    #[must_use]
    pub fn storage(&self, bytes: u64, nanoseconds: u64) -> Cycles {
        let per_second = self.scaled(127_000).saturating_mul(u128::from(bytes));
        per_second.saturating_mul(u128::from(nanoseconds)) / (GIB * 1_000_000_000)
    }

    /// Holding a compute allocation of so many percent for so long.
    #[must_use]
    pub fn compute(&self, percent: u8, nanoseconds: u64) -> Cycles {
        let per_second = self.scaled(10_000_000 * u128::from(percent));
        per_second.saturating_mul(u128::from(nanoseconds)) / 1_000_000_000
    }

    /// An HTTP outcall under pricing version 1, with so many bytes of request and at most so many of response.
    #[must_use]
    pub fn http_request(&self, request_bytes: u64, response_bytes: u64) -> Cycles {
        let nodes = u128::from(self.nodes);
        let bytes = 400 * u128::from(request_bytes) + 800 * u128::from(response_bytes);
        (3_000_000 + 60_000 * nodes + bytes) * nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_prices_of_thirteen_nodes() {
        let prices = Prices::new(13);
        assert_eq!(prices.create_canister(), 500_000_000_000);
        assert_eq!(prices.execution(1_000_000_000, false), 1_005_000_000);
        assert_eq!(prices.execution(1_000_000_000, true), 2_005_000_000);
        assert_eq!(prices.ingress(1_000), 3_200_000);
        assert_eq!(prices.request(1_000), 1_260_000);
        assert_eq!(prices.transmission(1_000), 1_000_000);
        assert_eq!(prices.storage(1 << 30, 1_000_000_000), 127_000);
        assert_eq!(prices.compute(1, 1_000_000_000), 10_000_000);
        assert_eq!(prices.http_request(0, 0), 49_140_000);
    }

    #[test]
    fn other_sizes_pay_in_proportion() {
        assert_eq!(Prices::new(34).execution(0, false), 13_076_923);
        assert_eq!(Prices::new(34).request(0), 680_000);
    }
}
