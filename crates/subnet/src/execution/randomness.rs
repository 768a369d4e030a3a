//! Blocks bring the signatures that calls of `raw_rand` wait for.
use super::{round::put, turn::response};
use crate::{
    application::{Beacon, Height},
    state::{Reject, ReplicatedState},
};

/// How many heights a call waits. Signatures come after one or two: that one does not come so long
/// means that more nodes fail than may.
const WAIT_MAX: Height = 10_000;
// Roots are needed as long as signatures of them are waited for.
const _: () = assert!(WAIT_MAX < crate::store::ROOTS_MAX);

/// Answers the calls whose signatures a block brings, and those that have waited too long.
pub(super) fn begin_height(state: &mut ReplicatedState, beacons: &[Beacon]) {
    let mut answers = Vec::new();
    for beacon in beacons {
        for (call, bytes) in state.randomness.draw(beacon) {
            let reply = candid::encode_one(bytes.to_vec()).expect("a vector has a Candid form");
            answers.push((call, Ok(reply)));
        }
    }
    let oldest = state.height.saturating_sub(WAIT_MAX);
    for call in state.randomness.give_up(oldest) {
        let text = "The signature that random bytes come from was not to be had.";
        answers.push((call, Err(Reject::new(208, text))));
    }
    for (call, answer) in answers {
        if let Some(output) = response(&call.origin, answer, call.cycles) {
            put(state, output);
        }
    }
}
