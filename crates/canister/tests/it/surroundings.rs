//! What a message is told about where it runs.
use crate::support::{CANISTER, Canister, TIME_NS, caller, module, number};
use lockstep_canister::engine::{EntryPoint, Response};

#[test]
fn surroundings() {
    let reads = |name: &str| {
        format!(
            r#"(import "ic0" "{name}_size" (func ${name}_size (result i32)))
(import "ic0" "{name}_copy" (func ${name}_copy (param i32 i32 i32)))
"#
        )
    };
    let query = |name: &str| {
        format!(
            r#"(func (export "canister_query {name}") (call ${name}_copy (i32.const 8) (i32.const 0) (call ${name}_size))
            (call $append (i32.const 8) (call ${name}_size)) (call $reply))"#
        )
    };
    let names = [
        "msg_caller",
        "canister_self",
        "subnet_self",
        "data_certificate",
    ];
    let body: String = names
        .iter()
        .map(|name| reads(name))
        .chain(names.iter().map(|name| query(name)))
        .collect();
    let canister = Canister::new(&module(&format!(
        r#"{body}
(import "ic0" "time" (func $time (result i64)))
(import "ic0" "in_replicated_execution" (func $replicated (result i32)))
(import "ic0" "subnet_self_node_count" (func $nodes (result i32)))
(import "ic0" "canister_cycle_balance" (func $balance (result i64)))
           (func (export "canister_query time") (call $answer (call $time)))
           (func (export "canister_query replicated") (call $answer (i64.extend_i32_u (call $replicated))))
           (func (export "canister_query nodes") (call $answer (i64.extend_i32_u (call $nodes))))
           (func (export "canister_query balance") (call $answer (call $balance)))"#
    )));
    assert_eq!(canister.query("msg_caller"), caller().as_slice());
    assert_eq!(canister.query("canister_self"), CANISTER);
    assert_eq!(canister.query("subnet_self"), [9; 29]);
    assert_eq!(canister.query("data_certificate"), b"certificate");
    assert_eq!(number(&canister.query("time")), TIME_NS as i64);
    assert_eq!(number(&canister.query("balance")), 5_000);
    assert_eq!(number(&canister.query("replicated")), 0);
    assert_eq!(number(&canister.query("nodes")), 13);
    let replicated = canister
        .execute(EntryPoint::ReplicatedQuery("replicated".into()), b"")
        .result
        .expect("completes");
    assert_eq!(replicated.0, Response::Reply(1_i64.to_le_bytes().to_vec()));
}

#[test]
fn inspection_accepts_only_when_told_to() {
    let accepts = |wat: &str| {
        let execution = Canister::new(wat).execute(EntryPoint::Inspect("m".into()), b"");
        execution.result.expect("completes").1.accepted
    };
    assert!(accepts("(module)"));
    assert!(!accepts(
        r#"(module (func (export "canister_inspect_message")))"#
    ));
    assert!(accepts(
        r#"(module (import "ic0" "accept_message" (func $a)) (func (export "canister_inspect_message") (call $a)))"#
    ));
}
