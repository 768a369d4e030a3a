//! Replicas agree, whatever their past: fresh, restarted, or with other caches.
use crate::support::{call, genesis, installation, open, open_as, step};
use bytes::Bytes;
use lockstep_subnet::{application::Application, replica::StoreError, state::canister_id};
use proptest::prelude::*;

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

    let path = directory.path().join("page missing");
    let replica = open(&path);
    step(&replica, installation(0).1);
    step(&replica, vec![call(canister_id(0), "increment", vec![], 1)]);
    drop(replica);
    let database = redb::Database::open(&path).expect("a database");
    let transaction = database.begin_write().expect("a transaction");
    let pages = redb::TableDefinition::<&[u8], &[u8]>::new("pages");
    transaction
        .open_table(pages)
        .expect("the table")
        .retain(|_, _| false)
        .expect("it is emptied");
    transaction.commit().expect("it is written");
    drop(database);
    let error = open_as(&path, genesis()).expect_err("pages are missing");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}
