//! The state tree of a replicated state: what its certificate covers.
//!
//! # Design
//! Besides the Internet Computer's paths there is `/lockstep`: the digest of the whole state, so
//! that a certificate covers memories and sessions too, the versions that fix its meaning, the epoch's number, and the
//! last checkpoint from which others can go on.
use super::{Tree, witness::SELF_DESCRIBED};
use crate::{
    execution::protocol::CERTIFIED_EPOCHS,
    state::{Canister, ReplicatedState, canister_id},
};
use ic_principal::Principal;
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the canonical arithmetic that sessions run on.
pub const ARITHMETIC_VERSION: u64 = 1;
/// What agents take this subnet for.
const SUBNET_TYPE: &str = "application";

/// The smallest and the largest canister id.
#[must_use]
pub fn canister_range() -> (Principal, Principal) {
    (canister_id(0), canister_id(u64::MAX))
}

/// The tree of a state.
#[must_use]
pub fn state_tree(state: &ReplicatedState) -> Tree {
    let genesis = &state.genesis;
    let ranges = self_described_cbor(&[canister_range()]);
    let canisters = state
        .canisters()
        .iter()
        .map(|(id, canister)| Tree::labeled(id.as_slice(), canister.tree(canister_tree).clone()));
    let below_subnet = |child| Tree::labeled(genesis.subnet_id.as_slice(), child);
    let range_start = canister_range().0;
    Tree::named([
        ("canister", directory(canisters)),
        (
            "canister_ranges",
            below_subnet(Tree::labeled(
                range_start.as_slice(),
                Tree::leaf(ranges.clone()),
            )),
        ),
        ("lockstep", lockstep_tree(state)),
        ("request_status", state.history.tree()),
        ("subnet", below_subnet(subnet_tree(state, ranges))),
        ("time", Tree::leaf(number(state.time_ns))),
    ])
}

fn lockstep_tree(state: &ReplicatedState) -> Tree {
    let mut entries = vec![Tree::labeled(
        "arithmetic_version",
        Tree::leaf(number(ARITHMETIC_VERSION)),
    )];
    if let Some(checkpoint) = &state.checkpoint {
        let height = ("height", Tree::leaf(number(checkpoint.height)));
        let manifest = ("manifest", Tree::leaf(checkpoint.manifest));
        entries.push(Tree::labeled("checkpoint", Tree::named([height, manifest])));
    }
    let protocol_version = state.protocol_version(state.height);
    if protocol_version >= CERTIFIED_EPOCHS {
        let epoch = number(state.epoch());
        entries.push(Tree::labeled("epoch", Tree::leaf(epoch)));
    }
    entries.extend([
        Tree::labeled("protocol_version", Tree::leaf(number(protocol_version))),
        Tree::labeled("state", Tree::leaf(state.digest())),
    ]);
    Tree::directory(&entries)
}

fn subnet_tree(state: &ReplicatedState, ranges: Vec<u8>) -> Tree {
    let genesis = &state.genesis;
    let node_keys = state.node_keys();
    let nodes = node_keys.iter().map(|(id, key)| {
        Tree::labeled(
            id.as_slice(),
            Tree::named([("public_key", Tree::leaf(key.clone()))]),
        )
    });
    Tree::named([
        ("canister_ranges", Tree::leaf(ranges)),
        ("metrics", Tree::leaf(self_described_cbor(&metrics(state)))),
        ("node", directory(nodes)),
        ("public_key", Tree::leaf(genesis.root_key.clone())),
        ("type", Tree::leaf(SUBNET_TYPE)),
    ])
}

/// What agents read of a subnet's work.
#[derive(Serialize)]
struct Metrics {
    num_canisters: u64,
    canister_state_bytes: u64,
    /// The lower 64 bits at 0; at 1 the upper ones, if there are some.
    consumed_cycles_total: BTreeMap<u8, Option<u64>>,
    update_transactions_total: u64,
}

fn metrics(state: &ReplicatedState) -> Metrics {
    let consumed = state.cycles_consumed();
    let high = (consumed >> 64) as u64;
    Metrics {
        num_canisters: state.canisters().len() as u64,
        canister_state_bytes: state.canister_bytes(),
        consumed_cycles_total: [(0, Some(consumed as u64)), (1, (high > 0).then_some(high))].into(),
        update_transactions_total: state.metrics.messages,
    }
}

fn canister_tree(Canister { state, ledger, .. }: &Canister) -> Tree {
    let controllers: Vec<&Principal> = state.controllers.iter().collect();
    let mut entries = vec![
        Tree::labeled(
            "canister_creation_timestamp",
            Tree::leaf(number(ledger.created_ns)),
        ),
        Tree::labeled("certified_data", Tree::leaf(state.certified_data.clone())),
        Tree::labeled("controllers", Tree::leaf(self_described_cbor(&controllers))),
    ];
    if let Some(installed) = &state.installed {
        entries.push(Tree::labeled(
            "last_install_timestamp",
            Tree::leaf(number(ledger.code_since_ns)),
        ));
        let metadata = installed.module.metadata().iter();
        let metadata = metadata
            .map(|(name, (_, content))| Tree::labeled(name.as_str(), Tree::leaf(content.clone())));
        entries.push(Tree::labeled("metadata", directory(metadata)));
        entries.push(Tree::labeled(
            "module_hash",
            Tree::leaf(installed.module.hash()),
        ));
    }
    Tree::directory(&entries)
}

fn directory(entries: impl Iterator<Item = Tree>) -> Tree {
    Tree::directory(&entries.collect::<Vec<_>>())
}

/// A number as the tree has it.
pub(crate) fn number(value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    leb128::write::unsigned(&mut bytes, value).expect("a vector takes every byte");
    bytes
}

/// CBOR preceded by tag 55799.
pub(crate) fn self_described_cbor(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = SELF_DESCRIBED.to_vec();
    ciborium::into_writer(value, &mut bytes).expect("a vector takes every byte");
    bytes
}
