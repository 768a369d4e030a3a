//! What an HTTP outcall has to carry under pricing version 2, by what it uses.
//!
//! # Design
//! Nodes of a *committee* perform the outcall: all of the subnet, one, or some. The payment is a base fee; what each node
//! of the committee may use; and the delivery of results in a block, which every share of the payment must be able to
//! fund. What is not spent comes back.
//!
//! # Units and bounds
//! Bytes, milliseconds and instructions as given, cycles saturating. The figures already count the nodes, so nothing is
//! scaled.
use super::Prices;
use crate::message::Cycles;
use candid::{CandidType, Deserialize, Reserved};

const BASE: Cycles = 1_000_000;
const REQUEST_BYTE: Cycles = 50;
const REPLICATED_NODE: Cycles = 140_000;
const REPLICATED_NODE_SQUARED: Cycles = 800;
const GOSSIPED_NODE: Cycles = 90_000;
/// A response of a committee, for each node and as such.
const RESPONSE_NODE: Cycles = 2_000;
const RESPONSE: Cycles = 100_000;
const DOWNLOADED_BYTE: Cycles = 50;
const MILLISECOND: Cycles = 300;
/// Instructions of the transform for a cycle, whatever the subnet's size.
const INSTRUCTIONS_PER_CYCLE: u128 = 13;
/// A byte sent from a node of the committee to a node of the subnet.
const GOSSIPED_BYTE: Cycles = 50;
/// A byte in a block, for each node and as such.
const BLOCK_BYTE_NODE: Cycles = 10;
const BLOCK_BYTE: Cycles = 600;
/// Bytes of a response of a committee beside its content.
const RESPONSE_OVERHEAD_BYTES: u128 = 181;
/// Bytes of the largest rejection, which may be delivered in the place of any response.
const REJECTION_BYTES_MAX: u64 = 1_025;

/// An HTTP outcall as `ic0.cost_http_request_v2` is told of it.
#[derive(CandidType, Deserialize, Clone, Debug)]
pub struct Outcall {
    /// Bytes of URL, headers, body and transform.
    pub request_bytes: u64,
    /// From the request to the end of the response.
    pub http_roundtrip_time_ms: u64,
    /// Bytes of the response.
    pub raw_response_bytes: u64,
    /// Bytes of the response after the transform.
    pub transformed_response_bytes: u64,
    /// Instructions of the transform.
    pub transform_instructions: u64,
    /// Who performs it; every node unless something is said.
    pub outcall_type: Option<OutcallType>,
}

/// Who performs an outcall.
#[derive(CandidType, Deserialize, Clone, Debug)]
pub enum OutcallType {
    /// Every node of the subnet.
    #[serde(rename = "fully_replicated")]
    FullyReplicated(Reserved),
    /// One node.
    #[serde(rename = "non_replicated")]
    NonReplicated(Reserved),
    /// A committee; all nodes and more than two thirds of responses unless something is said.
    #[serde(rename = "flexible")]
    Flexible(Option<Committee>),
}

/// The nodes that perform an outcall, and whose responses are delivered.
#[derive(CandidType, Deserialize, Clone, Copy, Debug)]
pub struct Committee {
    /// Responses without which it fails.
    pub min_responses: u32,
    /// Responses that are delivered at most.
    pub max_responses: u32,
    /// Nodes that perform it.
    pub total_requests: u32,
}

impl Prices {
    /// What an HTTP outcall under pricing version 2 should carry.
    #[must_use]
    pub fn http_outcall(&self, outcall: &Outcall) -> Cycles {
        let nodes = u128::from(self.nodes);
        let delivered = outcall.transformed_response_bytes.max(REJECTION_BYTES_MAX);
        let delivered = u128::from(delivered);
        let request = BASE + REQUEST_BYTE * u128::from(outcall.request_bytes);
        let usage = DOWNLOADED_BYTE * u128::from(outcall.raw_response_bytes)
            + MILLISECOND * u128::from(outcall.http_roundtrip_time_ms)
            + u128::from(outcall.transform_instructions) / INSTRUCTIONS_PER_CYCLE;
        let gossip = GOSSIPED_BYTE * delivered * nodes;
        let in_block = |bytes: u128| {
            let byte = (BLOCK_BYTE_NODE * nodes + BLOCK_BYTE) * nodes;
            byte.saturating_mul(bytes)
        };
        let responses =
            |count: u32| (RESPONSE_NODE * nodes + RESPONSE).saturating_mul(u128::from(count));
        let gossiped_base = |min_responses: u32| {
            let base = request + GOSSIPED_NODE * nodes;
            base.saturating_add(responses(min_responses))
        };
        let (base, committee, usage, delivery) = match &outcall.outcall_type {
            None | Some(OutcallType::FullyReplicated(_)) => {
                let base =
                    request + REPLICATED_NODE * nodes + REPLICATED_NODE_SQUARED * nodes * nodes;
                // Only those that agree on the response can be made to pay for it.
                let agreeing = nodes - nodes.saturating_sub(1) / 3;
                let share = in_block(delivered).div_ceil(agreeing.max(1));
                (base, nodes, usage, share.saturating_mul(nodes))
            }
            Some(OutcallType::NonReplicated(_)) => {
                (gossiped_base(1), 1, usage + gossip, in_block(delivered))
            }
            Some(OutcallType::Flexible(committee)) => {
                let committee = committee.unwrap_or(Committee {
                    min_responses: (u64::from(self.nodes) * 2 / 3 + 1) as u32,
                    max_responses: self.nodes,
                    total_requests: self.nodes,
                });
                let (total, min) = (committee.total_requests, committee.min_responses);
                let delivery = if committee.max_responses == 0 {
                    0
                } else {
                    let bytes = (RESPONSE_OVERHEAD_BYTES + delivered) * u128::from(total);
                    let more = responses(total.saturating_sub(min)).saturating_mul(nodes);
                    in_block(bytes).saturating_add(more)
                };
                let total = u128::from(total);
                (gossiped_base(min), total, usage + gossip, delivery)
            }
        };
        // Every node of the committee holds a whole share of the delivery.
        let share = usage.saturating_add(delivery.div_ceil(committee.max(1)));
        base.saturating_mul(nodes)
            .saturating_add(share.saturating_mul(committee))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(nodes: u32, transformed_bytes: u64, outcall_type: Option<OutcallType>) -> Cycles {
        Prices::new(nodes).http_outcall(&Outcall {
            request_bytes: 100,
            http_roundtrip_time_ms: 2_000,
            raw_response_bytes: 1_000,
            transformed_response_bytes: transformed_bytes,
            transform_instructions: 26,
            outcall_type,
        })
    }

    fn committee(min: u32, max: u32, total: u32) -> Option<OutcallType> {
        Some(OutcallType::Flexible(Some(Committee {
            min_responses: min,
            max_responses: max,
            total_requests: total,
        })))
    }

    #[test]
    fn published_prices_of_thirteen_nodes() {
        let everybody = 38_482_600 + 13 * 650_002 + 27_415_557;
        assert_eq!(cost(13, 2_000, None), everybody);
        let replicated = Some(OutcallType::FullyReplicated(Reserved));
        assert_eq!(cost(13, 2_000, replicated), everybody);
        let one = Some(OutcallType::NonReplicated(Reserved));
        assert_eq!(cost(13, 2_000, one), 29_913_000 + 1_950_002 + 18_980_000);
        let some = 31_551_000 + 5_850_006 + 62_093_070 + 1_638_000;
        assert_eq!(cost(13, 2_000, committee(2, 3, 3)), some);
        assert_eq!(cost(13, 2_000, committee(2, 2, 3)), some);
        // Nobody waits for a response.
        let fire = cost(13, 2_000, committee(0, 0, 3));
        assert_eq!(fire, 13 * (1_005_000 + 1_170_000) + 5_850_006);
    }

    #[test]
    fn a_rejection_can_always_be_delivered() {
        let smallest = 38_482_600 + 13 * 650_002 + 14_050_478;
        assert_eq!(cost(13, 0, None), smallest);
        assert_eq!(cost(13, 1_025, None), smallest);
        assert!(cost(13, 1_026, None) > smallest);
    }

    #[test]
    fn a_committee_is_the_subnet_unless_something_is_said() {
        let unsaid = Some(OutcallType::Flexible(None));
        assert_eq!(
            cost(13, 9_000, unsaid),
            cost(13, 9_000, committee(9, 13, 13))
        );
    }

    #[test]
    fn the_largest_numbers_saturate() {
        let most = u64::MAX;
        for outcall_type in [
            None,
            committee(u32::MAX, u32::MAX, u32::MAX),
            committee(0, 1, 0),
        ] {
            for nodes in [1, 13, 1_000] {
                let cost = Prices::new(nodes).http_outcall(&Outcall {
                    request_bytes: most,
                    http_roundtrip_time_ms: most,
                    raw_response_bytes: most,
                    transformed_response_bytes: most,
                    transform_instructions: most,
                    outcall_type: outcall_type.clone(),
                });
                assert!(cost > u128::from(most));
            }
        }
    }
}
