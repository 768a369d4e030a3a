//! What epochs change in the state and its certificates.
use crate::support::{block, genesis, open_as};
use lockstep_subnet::{
    application::{Application as _, FinalizedBlock, SWITCH_DELAY, Switch},
    execution::protocol,
    members::{Member, Members},
    replica::Replica,
    state::Genesis,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

/// The height whose block orders the epoch.
const ORDERED: u64 = 3;
const FIRST: u64 = ORDERED + SWITCH_DELAY;

fn before() -> Genesis {
    Genesis {
        protocol_version: protocol::OLDEST,
        ..genesis()
    }
}

/// Members with the query key of a seed.
fn members(seed: u8) -> Members {
    let key = ic_ed25519::PrivateKey::deserialize_raw_32(&[seed; 32]);
    let node = Member {
        identity: [seed; 32],
        query_key: key.public_key().serialize_raw(),
        address: "10.0.0.1:1".to_owned(),
    };
    Members {
        nodes: vec![node],
        sharing: vec![1, 2, 3],
    }
}

fn switch(protocol_version: u64) -> Arc<Switch> {
    Arc::new(Switch {
        epoch: 1,
        protocol_version,
        members: members(8),
    })
}

fn block_with(height: u64, protocol_version: u64) -> FinalizedBlock {
    let mut block = block(height, Vec::new());
    if height == ORDERED {
        block.payload.switch = Some(switch(protocol_version));
    }
    block
}

/// What the tree says of the epoch, the protocol's version, and the nodes' keys.
fn told(replica: &Replica) -> (Option<Vec<u8>>, Vec<u8>, Vec<Vec<u8>>) {
    let executed = replica.executed();
    let value = |name: &str| executed.tree.value(&[b"lockstep", name.as_bytes()]);
    let version = value("protocol_version").expect("it is there");
    let keys = executed.state.node_keys().values().cloned().collect();
    (value("epoch").map(<[u8]>::to_vec), version.to_vec(), keys)
}

fn open(path: &Path) -> Replica {
    open_as(path, before()).expect("the store can be used")
}

#[test]
fn an_epoch_has_its_nodes_and_rules_from_its_first_height_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    let steady = open(&directory.path().join("steady"));
    let mut replica = open(&path);
    let old: Vec<_> = before().nodes.into_values().collect();
    let new: Vec<_> = members(8).node_keys().into_values().collect();
    for height in 1..=FIRST + 2 {
        let block = block_with(height, protocol::NEWEST);
        assert_eq!(replica.execute(&block), steady.execute(&block));
        if height < FIRST {
            assert_eq!(told(&replica), (None, vec![5], old.clone()));
        } else {
            assert_eq!(told(&replica), (Some(vec![1]), vec![6], new.clone()));
        }
        // What was ordered outlives a restart.
        drop(replica);
        replica = open(&path);
    }
    let epochs = replica.epochs();
    let epoch = epochs.last().expect("it was ordered");
    assert_eq!((epoch.number, epoch.first_height), (1, FIRST));
    assert_eq!(epoch.parent, Some(block(FIRST - 1, Vec::new()).digest));
    assert_eq!(replica.protocol_version(), protocol::NEWEST);
}

#[test]
fn a_program_that_does_not_know_the_rules_halts_before_the_first_height() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let unknown = protocol::NEWEST + 1;
    for height in 1..FIRST {
        replica.execute(&block_with(height, unknown));
    }
    let next = catch_unwind(AssertUnwindSafe(|| {
        replica.execute(&block_with(FIRST, unknown))
    }));
    assert!(next.is_err());
    let reason = replica.halted().expect("it has halted");
    assert!(
        reason.contains("version 7 of the protocol, and this program knows 5 to 6"),
        "{reason}"
    );
    assert_eq!(replica.executed_height(), FIRST - 1);
}
