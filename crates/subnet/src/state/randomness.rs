//! Calls of `raw_rand` and the bytes that they get.
//!
//! # Design
//! A call that is executed at a height waits for the subnet's signature of the state root after that height,
//! which a later block brings ([`Beacon`]). The signature is unique, and nobody knows it before more than f honest nodes
//! have executed the height: when the call is ordered its bytes are unknown to everybody, and nobody can
//! choose among several. A leader that leaves a signature out delays the answer until the next one that does not.
//! The roots that signatures are waited for are part of the state, so that a node that has it from others can verify them.
use super::Origin;
use crate::application::{Beacon, Height};
use lockstep_canister::engine::Cycles;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Context of the key derivation.
const CONTEXT: &str = "lockstep subnet 2026 raw_rand 2";

/// A call that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawing {
    /// Who is owed the bytes.
    pub origin: Origin,
    /// Cycles that came with the call.
    pub cycles: Cycles,
}

/// The calls that wait, by the height at which they were executed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Randomness {
    waiting: BTreeMap<Height, Waiting>,
}

/// The calls of a height, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Waiting {
    calls: Vec<Drawing>,
    /// The root after the height, set at the next one.
    root: Option<[u8; 32]>,
}

impl Randomness {
    /// Lets a call wait for the signature of a height.
    pub fn wait(&mut self, height: Height, drawing: Drawing) {
        self.waiting.entry(height).or_default().calls.push(drawing);
    }

    /// Notes the root after a height, if its signature is waited for.
    pub fn note_root(&mut self, height: Height, root: impl FnOnce() -> [u8; 32]) {
        if let Some(waiting) = self.waiting.get_mut(&height) {
            waiting.root = Some(root());
        }
    }

    /// The root after a height before the last, if its signature is waited for.
    #[must_use]
    pub fn root(&self, height: Height) -> Option<[u8; 32]> {
        self.waiting.get(&height)?.root
    }

    /// The heights whose signatures are waited for, the lowest first.
    pub fn wanted(&self) -> impl Iterator<Item = Height> {
        self.waiting.keys().copied()
    }

    /// Whether calls wait for the signature of a height.
    #[must_use]
    pub fn is_wanted(&self, height: Height) -> bool {
        self.waiting.contains_key(&height)
    }

    /// The calls that wait.
    pub fn waiting(&self) -> impl Iterator<Item = &Drawing> {
        self.waiting.values().flat_map(|waiting| &waiting.calls)
    }

    /// The calls that a signature answers, each with its bytes: the keyed hash of its number, under a key derived from
    /// height and signature.
    pub fn draw(&mut self, beacon: &Beacon) -> Vec<(Drawing, [u8; 32])> {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&beacon.height.to_le_bytes());
        hasher.update(&beacon.signature);
        let seed = hasher.finalize();
        let waiting = self.waiting.remove(&beacon.height).unwrap_or_default();
        let numbered = (0_u64..).zip(waiting.calls);
        numbered
            .map(|(number, call)| {
                let value = blake3::keyed_hash(seed.as_bytes(), &number.to_le_bytes());
                (call, *value.as_bytes())
            })
            .collect()
    }

    /// Gives up the calls of heights below one.
    pub fn give_up(&mut self, below: Height) -> Vec<Drawing> {
        let kept = self.waiting.split_off(&below);
        let given_up = std::mem::replace(&mut self.waiting, kept);
        let given_up = given_up.into_values();
        given_up.flat_map(|waiting| waiting.calls).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_principal::Principal;

    fn drawing(callback: u64) -> Drawing {
        Drawing {
            origin: Origin::Canister {
                sender: Principal::anonymous(),
                callback,
                deadline_ns: 0,
            },
            cycles: 0,
        }
    }

    fn beacon(height: Height, byte: u8) -> Beacon {
        Beacon {
            height,
            signature: [byte; 48],
        }
    }

    #[test]
    fn each_call_gets_bytes_of_its_own_that_signature_and_height_decide() {
        let mut randomness = Randomness::default();
        for (height, callback) in [(5, 1), (5, 2), (7, 3)] {
            randomness.wait(height, drawing(callback));
        }
        assert!(randomness.wanted().eq([5, 7]));
        randomness.note_root(5, || [3; 32]);
        randomness.note_root(6, || unreachable!("nobody waits for it"));
        assert_eq!(
            [5, 6, 7].map(|height| randomness.root(height)),
            [Some([3; 32]), None, None]
        );
        assert_eq!(randomness.clone().draw(&beacon(6, 1)), []);
        let drawn = randomness.clone().draw(&beacon(5, 1));
        assert_eq!(drawn, randomness.clone().draw(&beacon(5, 1)));
        let calls: Vec<_> = drawn.iter().map(|(call, _)| call.clone()).collect();
        assert_eq!(calls, [drawing(1), drawing(2)]);
        let others = randomness.clone().draw(&beacon(5, 2));
        let seventh = randomness.draw(&beacon(7, 1));
        let all = drawn.iter().chain(&others).chain(&seventh);
        let different: std::collections::BTreeSet<_> = all.map(|(_, bytes)| *bytes).collect();
        assert_eq!(different.len(), 5);
        assert!(randomness.wanted().eq([5]));
    }

    #[test]
    fn old_calls_are_given_up() {
        let mut randomness = Randomness::default();
        for height in [5, 6, 7] {
            randomness.wait(height, drawing(height));
        }
        assert_eq!(randomness.give_up(7), [drawing(5), drawing(6)]);
        assert!(randomness.wanted().eq([7]));
    }
}
