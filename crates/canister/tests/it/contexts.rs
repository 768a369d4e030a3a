//! Which import may be called where, and what it answers.
use crate::support::{CANISTER, Canister, TIME_NS, caller, module, number, text};
use lockstep_canister::engine::{EntryPoint, Response};
use lockstep_canister::heap::{Heap, PAGE_BYTES};

/// Contexts by the export that runs in them; a module exports all and calls `import` in each.
fn entries() -> Vec<(&'static str, &'static str, EntryPoint)> {
    vec![
        ("init", "canister_init", EntryPoint::Init),
        (
            "init",
            "canister_post_upgrade",
            EntryPoint::PostUpgrade { keep_heap: false },
        ),
        (
            "pre upgrade",
            "canister_pre_upgrade",
            EntryPoint::PreUpgrade,
        ),
        (
            "update",
            "canister_update m",
            EntryPoint::Update("m".into()),
        ),
        (
            "replicated query",
            "canister_query n",
            EntryPoint::ReplicatedQuery("n".into()),
        ),
        (
            "non replicated query",
            "canister_query n",
            EntryPoint::Query("n".into()),
        ),
        (
            "inspect message",
            "canister_inspect_message",
            EntryPoint::Inspect("m".into()),
        ),
        (
            "system task",
            "canister_global_timer",
            EntryPoint::GlobalTimer,
        ),
        ("system task", "canister_heartbeat", EntryPoint::Heartbeat),
    ]
}

/// The contexts in which calling an import (with zeros) is a contract violation of its context.
fn forbidden(module: &str, name: &str, parameters: &str, results: usize) -> Vec<&'static str> {
    let zeros: String = parameters
        .split_whitespace()
        .map(|ty| format!("({ty}.const 0) "))
        .collect();
    let call = format!("(call $it {zeros}) {}", "drop ".repeat(results));
    let result = if results == 1 { "(result RESULT)" } else { "" };
    let exports = [
        "canister_init",
        "canister_post_upgrade",
        "canister_pre_upgrade",
        "canister_update m",
        "canister_query n",
    ]
    .into_iter()
    .chain([
        "canister_inspect_message",
        "canister_global_timer",
        "canister_heartbeat",
    ]);
    let functions: String = exports
        .map(|export| format!("(func (export \"{export}\") {call})\n"))
        .collect();
    let wasm = |result: &str| {
        format!(
            "(module (import \"{module}\" \"{name}\" (func $it (param {parameters}) {result})) (memory 1) {functions})"
        )
    };
    let wat = match crate::support::compile(&wasm(&result.replace("RESULT", "i32"))) {
        Ok(_) => wasm(&result.replace("RESULT", "i32")),
        Err(_) => wasm(&result.replace("RESULT", "i64")),
    };
    let mut found = Vec::new();
    for (context, _, entry) in entries() {
        let mut canister = Canister::before_init(&wat);
        if !matches!(entry, EntryPoint::Init | EntryPoint::PostUpgrade { .. }) {
            let installed = canister.state.installed.as_mut().expect("installed");
            installed.heap = Heap::from_pages(1, [(0, [0; PAGE_BYTES])]);
        }
        let wording = format!(
            "Canister violated contract: \"{module}_{name}\" cannot be executed in {context} mode"
        );
        match canister.execute(entry, b"").result {
            Err(error) if error.code == 504 && text(&error) == wording => found.push(context),
            _ => {}
        }
    }
    found.dedup();
    found
}

#[test]
fn forbidden_contexts() {
    let queries = ["replicated query", "non replicated query"];
    let messages = ["update", "replicated query", "non replicated query"];
    let except = |allowed: &[&str]| -> Vec<&str> {
        let mut contexts: Vec<_> = entries()
            .into_iter()
            .map(|(context, ..)| context)
            .filter(|context| !allowed.contains(context))
            .collect();
        contexts.dedup();
        contexts
    };
    assert_eq!(forbidden("ic0", "msg_reply", "", 0), except(&messages));
    assert_eq!(
        forbidden("ic0", "msg_reject", "i32 i32", 0),
        except(&messages)
    );
    assert_eq!(forbidden("ic0", "msg_reject_code", "", 1), except(&[]));
    assert_eq!(
        forbidden("ic0", "msg_arg_data_size", "", 1),
        ["pre upgrade", "system task"]
    );
    assert_eq!(
        forbidden("ic0", "msg_method_name_size", "", 1),
        except(&["inspect message"])
    );
    assert_eq!(
        forbidden("ic0", "accept_message", "", 0),
        except(&["inspect message"])
    );
    assert_eq!(
        forbidden("ic0", "call_perform", "", 1),
        except(&["update", "system task"])
    );
    assert_eq!(
        forbidden("ic0", "certified_data_set", "i32 i32", 0),
        [queries.as_slice(), &["inspect message"]].concat()
    );
    assert_eq!(
        forbidden("ic0", "global_timer_set", "i64", 1),
        [queries.as_slice(), &["inspect message"]].concat()
    );
    assert_eq!(
        forbidden("ic0", "data_certificate_size", "", 1),
        except(&["non replicated query"])
    );
    assert_eq!(
        forbidden("ic0", "root_key_size", "", 1),
        ["non replicated query", "inspect message"]
    );
    assert_eq!(forbidden("ic0", "time", "", 1), Vec::<&str>::new());
    assert_eq!(forbidden("ic0", "stable64_size", "", 1), Vec::<&str>::new());
    assert_eq!(
        forbidden("lockstep", "session_close", "i64", 1),
        [&["pre upgrade"], queries.as_slice(), &["inspect message"]].concat()
    );
    assert_eq!(
        forbidden("lockstep", "session_status", "i64", 1),
        ["pre upgrade", "inspect message"]
    );
}

#[test]
fn start_may_call_little() {
    let start = |name: &str, result: &str| {
        let wat = format!(
            "(module (import \"ic0\" \"{name}\" (func $it (result {result}))) (start $s) (func $s (drop (call $it))))"
        );
        Canister::before_init(&wat)
            .execute(EntryPoint::Init, b"")
            .result
    };
    assert!(start("stable64_size", "i64").is_ok());
    let error = start("time", "i64").expect_err("not in start");
    assert_eq!(
        text(&error),
        "Canister violated contract: \"ic0_time\" cannot be executed in start mode"
    );
}

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
(import "ic0" "canister_cycle_balance" (func $balance (result i64)))
           (func (export "canister_query time") (call $answer (call $time)))
           (func (export "canister_query replicated") (call $answer (i64.extend_i32_u (call $replicated))))
           (func (export "canister_query balance") (call $answer (call $balance)))"#
    )));
    assert_eq!(canister.query("msg_caller"), caller().as_slice());
    assert_eq!(canister.query("canister_self"), CANISTER);
    assert_eq!(canister.query("subnet_self"), [9; 29]);
    assert_eq!(canister.query("data_certificate"), b"certificate");
    assert_eq!(number(&canister.query("time")), TIME_NS as i64);
    assert_eq!(number(&canister.query("balance")), 5_000);
    assert_eq!(number(&canister.query("replicated")), 0);
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
