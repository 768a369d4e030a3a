//! What tasks that write all they can take of this machine: a process of its own, so that nothing else is
//! counted.
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment, Execution},
    session::Sessions,
    state::{CanisterState, Installed},
};
use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc};

/// A heap of 128 MiB, every page of which every task writes.
const MODULE: &str = r#"(module
    (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
    (import "ic0" "msg_reply" (func $reply))
    (memory 2048) (table 1 funcref) (elem (i32.const 0) $flood)
    (func $flood (param i32 i32) (local $at i32)
        (loop $next
            (i32.store (local.get $at) (i32.const 1))
            (local.set $at (i32.add (local.get $at) (i32.const 4096)))
            (br_if $next (i32.lt_u (local.get $at) (i32.const 0x8000000)))))
    (func (export "canister_update go") (call $fork (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 0) (i64.const 10000000) (i32.const 1000)) (call $reply))
    (func (export "canister_update all") (call $fork (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 0) (i64.const 10000000) (i32.const 100000)) (call $reply)))"#;

const HEAP_KB: u64 = 128 * 1024;

fn execute(engine: &Engine, state: &CanisterState, entry: EntryPoint) -> Execution {
    let sessions = Sessions::default();
    let call = Call::new(entry, Principal::anonymous(), Vec::new());
    engine.execute(state, &call, &Environment::new(&sessions))
}

/// The most memory this process has had, in KiB, if the system tells.
fn peak_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[test]
fn tasks_that_flood_end_by_their_quota_in_bounded_memory() {
    let one = Engine::new().with_task_bytes(HEAP_KB * 1024 * 5 / 2);
    let engine = one.on_threads(NonZeroUsize::new(8).unwrap());
    let module = engine.compile(&wat::parse_str(MODULE).unwrap()).unwrap();
    let mut state = CanisterState::new(Principal::from_slice(&[1]), BTreeSet::new(), 0);
    state.installed = Some(Installed::new(Arc::new(module)));
    let (_, init) = execute(&engine, &state, EntryPoint::Init).result.unwrap();
    state.apply(&init);

    let method = |name: &str| EntryPoint::Update(name.into());
    let error = execute(&engine, &state, method("go")).result.unwrap_err();
    let expected = "32768 private pages, more than the quota of 1000 (task 0 of a fork)";
    assert!(error.message.contains(expected), "{error}");
    assert!(execute(&engine, &state, method("all")).result.is_ok());
    match peak_kb() {
        // Two tasks at a time, not eight, the heap itself, and what a process has anyway.
        Some(peak) => assert!(peak < 6 * HEAP_KB, "{peak} KiB"),
        None => eprintln!("SKIPPED: this system does not tell how much memory a process has had"),
    }
}
