//! Replicas agree, whatever their past: fresh, restarted, or with other caches.
use crate::support::{answer, call, genesis, install, installation, open, open_as, step};
use bytes::Bytes;
use ic_management_canister_types::CanisterInstallMode;
use lockstep_canister::memory::Paged;
use lockstep_subnet::{
    application::Application,
    replica::StoreError,
    state::{ReplicatedState, Status, canister_id},
};
use proptest::prelude::*;
use redb::ReadableDatabase;
use std::num::NonZeroU64;

/// A workload: calls for each height, chosen by numbers.
fn messages(height: u64, choices: &[u8]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    for (index, choice) in choices.iter().enumerate() {
        let canister = u64::from(choice / 8) % 3;
        let nonce = height * 1_000 + index as u64;
        let id = canister_id(canister);
        match choice % 8 {
            0 => messages.extend(installation(canister).1),
            1 | 2 => messages.push(call(id, "increment", vec![], nonce)),
            3 => messages.push(call(id, "generate", vec![], nonce)),
            4 => messages.push(call(id, "fail", vec![], nonce)),
            5 => messages.push(call(id, "refused", vec![], nonce)),
            6 => messages.push(Bytes::from_static(b"no envelope")),
            _ => messages.push(call(id, "read", vec![], nonce % 5)),
        }
    }
    messages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn a_restarted_replica_has_the_same_roots(
        workload in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..4), any::<bool>()), 4..10),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let steady = open(&directory.path().join("steady"));
        let path = directory.path().join("restarted");
        let mut restarted = open(&path);
        for replica in [&steady, &restarted] {
            step(replica, installation(0).1);
        }
        for (index, (choices, restart)) in workload.iter().enumerate() {
            let messages = messages(index as u64, choices);
            prop_assert_eq!(step(&steady, messages.clone()), step(&restarted, messages));
            if *restart {
                let digest = restarted.executed().state.digest();
                drop(restarted);
                restarted = open(&path);
                prop_assert_eq!(restarted.executed().state.digest(), digest);
                prop_assert_eq!(restarted.executed_height(), steady.executed_height());
                prop_assert_eq!(restarted.root(restarted.executed_height()), steady.root(steady.executed_height()));
            }
        }
    }
}

#[test]
fn a_long_message_goes_on_after_a_restart() {
    let genesis = || {
        let mut genesis = genesis();
        genesis.slice_instructions = NonZeroU64::new(150_000).expect("not zero");
        genesis
    };
    let directory = tempfile::tempdir().expect("a directory");
    let steady = open_as(&directory.path().join("steady"), genesis()).expect("a new store");
    let path = directory.path().join("restarted");
    let mut restarted = open_as(&path, genesis()).expect("a new store");
    let think = call(canister_id(0), "think", vec![], 2);
    let heights = [
        installation(0).1,
        [
            installation(1).1,
            vec![call(canister_id(0), "generate", vec![], 0)],
        ]
        .concat(),
        // Its first session is under way; the other canister starts one meanwhile.
        vec![think.clone(), call(canister_id(0), "increment", vec![], 3)],
        vec![call(canister_id(1), "generate", vec![], 4)],
    ];
    let mut busy = 0;
    for messages in heights.into_iter().chain(vec![vec![]; 40]) {
        let before = restarted.executed();
        assert_eq!(step(&steady, messages.clone()), step(&restarted, messages));
        let digest = restarted.executed().state.digest();
        drop(restarted);
        restarted = open_as(&path, genesis()).expect("the store");
        assert_eq!(restarted.executed().state.digest(), digest);
        let (before, after) = (&before.state, &restarted.executed().state);
        if before.is_busy(&canister_id(0)) && after.is_busy(&canister_id(0)) {
            busy += 1;
            // Its session stands still, as it does.
            let own = |state: &ReplicatedState| {
                let sessions = state.sessions.sessions.values();
                let mut own = sessions.filter(|session| session.owner == canister_id(0));
                own.next().cloned()
            };
            assert!(own(before).is_some());
            assert_eq!(own(before), own(after));
        }
    }
    assert!(busy > 5, "{busy}");
    assert_eq!(answer(&steady, &think), Status::Replied(vec![]));
    let state = &steady.executed().state;
    let sessions: Vec<_> = state.sessions.sessions.values().collect();
    assert_eq!(sessions.len(), 3);
    for session in sessions {
        assert!(session.progress.ended.is_some() || session.progress.tokens.len() == 9);
    }
}

/// Has 64 GiB of stable memory, in which it writes its argument to three places.
const LARGE: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
    (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
    (memory 1)
    (func (export "canister_init") (drop (call $grow (i64.const 1048576))))
    (func (export "canister_update write")
        (call $argument (i32.const 0) (i32.const 0) (i32.const 8))
        (call $write (i64.const 0) (i64.const 0) (i64.const 8))
        (call $write (i64.const 5000000000) (i64.const 0) (i64.const 8))
        (call $write (i64.const 68719476728) (i64.const 0) (i64.const 8))
        (call $reply)))"#;

/// The lengths of the blocks of stable memory that a store has.
fn stable_blocks(path: &std::path::Path, index: u64) -> Vec<usize> {
    let database = redb::Database::open(path).expect("a database");
    let pages = redb::TableDefinition::<&[u8], &[u8]>::new("pages");
    let transaction = database.begin_read().expect("a transaction");
    let table = transaction.open_table(pages).expect("the table");
    let id = canister_id(index);
    let prefix = [&[id.as_slice().len() as u8], id.as_slice(), &[1]].concat();
    let rows = table.range(prefix.as_slice()..).expect("rows");
    let rows = rows.map(|row| row.expect("a row"));
    rows.filter(|(key, _)| key.value().starts_with(&prefix))
        .map(|(_, block)| block.value().len())
        .collect()
}

#[test]
fn a_large_stable_memory_costs_what_is_in_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    let (id, calls) = installation(0);
    let write = |number: u64, nonce| call(id, "write", number.to_le_bytes().to_vec(), nonce);
    let mut replica = open(&path);
    step(&replica, calls);
    let reinstall = install(id, CanisterInstallMode::Reinstall, LARGE, 1);
    step(&replica, vec![reinstall.clone()]);
    assert!(matches!(answer(&replica, &reinstall), Status::Replied(_)));
    for (nonce, (number, blocks)) in (2..).zip([(7, 3), (u64::MAX, 3), (0, 0), (9, 3)]) {
        let message = write(number, nonce);
        step(&replica, vec![message.clone()]);
        assert!(matches!(answer(&replica, &message), Status::Replied(_)));
        let digest = replica.executed().state.digest();
        drop(replica);
        assert_eq!(stable_blocks(&path, 0), vec![4096; blocks]);
        replica = open(&path);
        let state = &replica.executed().state;
        assert_eq!(state.digest(), digest);
        let stable = &state.canisters()[&id].state.stable;
        assert_eq!(stable.size_pages(), 1 << 20);
        for place in [0_u64, 5_000_000_000, 68_719_476_728] {
            let found = stable.block(place / 4096).map_or(0, |bytes| {
                let start = (place % 4096) as usize;
                u64::from_le_bytes(bytes[start..start + 8].try_into().expect("8 bytes"))
            });
            assert_eq!(found, number);
        }
    }
    let reinstall = install(id, CanisterInstallMode::Reinstall, LARGE, 6);
    step(&replica, vec![reinstall]);
    drop(replica);
    assert_eq!(stable_blocks(&path, 0), Vec::<usize>::new());
}

#[test]
fn foreign_damaged_and_other_stores_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    std::fs::write(&path, vec![b'x'; 10_000]).expect("a file");
    let error = open_as(&path, genesis()).expect_err("it is no database");
    assert!(matches!(error, StoreError::Database { .. }), "{error}");

    let path = directory.path().join("other program");
    let database = redb::Database::create(&path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    transaction
        .open_table(redb::TableDefinition::<u64, u64>::new("numbers"))
        .expect("a table");
    transaction.commit().expect("it is written");
    drop(database);
    let error = open_as(&path, genesis()).expect_err("it is another program's");
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");

    let path = directory.path().join("other genesis");
    drop(open(&path));
    let mut other = genesis();
    other.session_work_per_height += 1;
    let error = open_as(&path, other).expect_err("it is another subnet's");
    assert!(matches!(error, StoreError::OtherGenesis { .. }), "{error}");

    for (name, reason, damage) in DAMAGES {
        let path = directory.path().join(name);
        let replica = open(&path);
        step(&replica, installation(0).1);
        step(&replica, vec![call(canister_id(0), "increment", vec![], 1)]);
        drop(replica);
        let database = redb::Database::open(&path).expect("a database");
        let transaction = database.begin_write().expect("a transaction");
        let pages = redb::TableDefinition::<&[u8], &[u8]>::new("pages");
        let mut table = transaction.open_table(pages).expect("the table");
        let id = canister_id(0);
        damage(
            &mut table,
            &[&[id.as_slice().len() as u8], id.as_slice(), &[1]].concat(),
        );
        drop(table);
        transaction.commit().expect("it is written");
        drop(database);
        let error = open_as(&path, genesis()).expect_err("blocks are damaged");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().ends_with(reason), "{error}");
    }
}

type Blocks<'transaction> = redb::Table<'transaction, &'static [u8], &'static [u8]>;
/// What is done to the blocks of a store, given how the keys of a stable memory begin.
type Damage = fn(&mut Blocks<'_>, &[u8]);

const DAMAGES: [(&str, &str, Damage); 4] = [
    (
        "missing",
        "its content does not have the digest that was written",
        |blocks, _| blocks.retain(|_, _| false).expect("it is emptied"),
    ),
    (
        "changed",
        "its content does not have the digest that was written",
        |blocks, prefix| set(blocks, prefix, 15, 4096),
    ),
    (
        "outside",
        "a block is outside of its memory: 16",
        |blocks, prefix| set(blocks, prefix, 16, 4096),
    ),
    ("short", "a block has 4095 bytes", |blocks, prefix| {
        set(blocks, prefix, 0, 4095);
    }),
];

fn set(blocks: &mut Blocks<'_>, prefix: &[u8], index: u64, size: usize) {
    let key = [prefix, &index.to_be_bytes()].concat();
    blocks
        .insert(key.as_slice(), vec![1; size].as_slice())
        .expect("it is written");
}
