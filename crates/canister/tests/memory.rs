//! What tasks that write all they can take of this machine: a process of its own, so that nothing else is
//! counted.
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment, Execution},
    session::Sessions,
    state::{CanisterState, Installed},
};
use std::{collections::BTreeSet, fs, num::NonZeroUsize, sync::Arc, thread};

/// `flood` writes every page of a heap of so many bytes in each of eight tasks, `grow` makes a heap of one page that
/// large first; the argument is the quota of private pages.
fn module(pages: u64, bytes: u64) -> String {
    // 4 GiB are 0.
    let end = bytes as u32;
    let grown = bytes / 65_536 - 1;
    format!(
        r#"(module
    (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (memory {pages}) (table 3 funcref) (elem (i32.const 0) $flood $grow $nested)
    (func $flood (param i32 i32) (local $at i32)
        (loop $next
            (i32.store (local.get $at) (i32.const 1))
            (local.set $at (i32.add (local.get $at) (i32.const 4096)))
            (br_if $next (i32.ne (local.get $at) (i32.const {end})))))
    (func $grow (param i32 i32)
        (if (i32.eq (memory.grow (i32.const {grown})) (i32.const -1)) (then unreachable))
        (call $flood (i32.const 0) (i32.const 0)))
    (func $run (param $task i32) (param $count i32) (param $instructions i64) (param $quota i32)
        ;; Windows of no bytes.
        (memory.fill (i32.const 0) (i32.const 0) (i32.const 64))
        (call $fork (local.get $task) (i32.const 0) (local.get $count) (i32.const 0) (local.get $instructions) (local.get $quota)))
    (func $nested (param i32 i32) (call $run (i32.const 0) (i32.const 4) (i64.const 20000000) (i32.const 100000)))
    (func $entry (param $task i32) (param $instructions i64)
        (call $argument (i32.const 128) (i32.const 0) (i32.const 4))
        (call $run (local.get $task) (i32.const 8) (local.get $instructions) (i32.load (i32.const 128)))
        (call $reply))
    (func (export "canister_update flood") (call $entry (i32.const 0) (i64.const 20000000)))
    (func (export "canister_update grow") (call $entry (i32.const 1) (i64.const 20000000)))
    (func (export "canister_update nested") (call $entry (i32.const 2) (i64.const 100000000))))"#
    )
}

/// Pages of 64 KiB.
const HEAP_PAGES: u64 = 1024;
const HEAP_KB: u64 = 64 * HEAP_PAGES;
/// Pages of 4 KiB that are enough for every task.
const ENOUGH: u32 = 100_000;

fn execute(engine: &Engine, state: &CanisterState, entry: EntryPoint, quota: u32) -> Execution {
    let sessions = Sessions::default();
    let call = Call::new(entry, Principal::anonymous(), quota.to_le_bytes().to_vec());
    engine.execute(state, &call, &Environment::new(&sessions))
}

fn install(engine: &Engine, pages: u64, bytes: u64) -> CanisterState {
    let wasm = wat::parse_str(module(pages, bytes)).unwrap();
    let module = engine.compile(&wasm).unwrap();
    let mut state = CanisterState::new(Principal::from_slice(&[1]), BTreeSet::new(), 0);
    state.settings.wasm_memory_limit = 0;
    state.installed = Some(Installed::new(Arc::new(module)));
    let (_, init) = execute(engine, &state, EntryPoint::Init, 0).result.unwrap();
    state.apply(&init);
    state
}

/// A line of what the system tells of this process, in KiB.
fn told_kb(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// By how much the memory of this process grew at most, in KiB, if the system tells.
fn growth_kb(run: impl FnOnce()) -> Option<u64> {
    // The peak is from now on.
    fs::write("/proc/self/clear_refs", "5").ok()?;
    let before = told_kb("VmRSS:")?;
    run();
    Some(told_kb("VmHWM:")?.saturating_sub(before))
}

#[track_caller]
fn bounded(kb_max: u64, run: impl FnOnce()) {
    match growth_kb(run) {
        Some(growth) => assert!(growth < kb_max, "{growth} KiB"),
        None => eprintln!("SKIPPED: this system does not tell how much memory a process has had"),
    }
}

/// Runs a method, which leaves the canister as it is.
fn run(engine: &Engine, state: &CanisterState, name: &str, quota: u32) -> Result<(), String> {
    let before = state.digest();
    let result = execute(engine, state, EntryPoint::Update(name.into()), quota).result;
    assert_eq!(state.digest(), before);
    result.map(drop).map_err(|error| error.message)
}

/// One test, lest two be counted together.
#[test]
fn tasks_that_flood_end_by_their_quota_in_bounded_memory() {
    // Room for two heaps, and threads for eight.
    let engine = Engine::new().with_task_bytes(HEAP_KB * 1024 * 5 / 2);
    let engine = engine.on_threads(NonZeroUsize::new(8).unwrap());
    let large = install(&engine, HEAP_PAGES, HEAP_KB * 1024);
    let small = install(&engine, 1, HEAP_KB * 1024);
    let run = |state: &CanisterState, name: &str, quota| run(&engine, state, name, quota);
    let ends = |state: &CanisterState, name: &str, quota, expected: &str| {
        let error = run(state, name, quota).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };

    // All are written to, and one page more than the quota is too much.
    let beyond = "16384 private pages, more than the quota of 16383 (task 0 of a fork)";
    bounded(4 * HEAP_KB, || ends(&large, "flood", 16_383, beyond));
    bounded(4 * HEAP_KB, || {
        assert_eq!(run(&large, "flood", 16_384), Ok(()))
    });
    // Growth counts page by page, what is written of it or not.
    let refused = "Canister trapped: unreachable (task 0 of a fork)";
    bounded(HEAP_KB, || ends(&small, "grow", 1023 * 16 - 1, refused));
    let beyond = "16384 private pages, more than the quota of 16383 (task 0 of a fork)";
    bounded(4 * HEAP_KB, || ends(&small, "grow", 16_383, beyond));
    bounded(4 * HEAP_KB, || {
        assert_eq!(run(&small, "grow", 16_384), Ok(()))
    });
    // Tasks of tasks run within what their task has, one after another.
    bounded(5 * HEAP_KB, || {
        assert_eq!(run(&large, "nested", ENOUGH), Ok(()))
    });
    // So do messages side by side, each of which forks.
    bounded(5 * HEAP_KB, || {
        thread::scope(|scope| {
            for name in ["flood", "grow", "flood", "grow"] {
                let state = if name == "grow" { &small } else { &large };
                scope.spawn(move || assert_eq!(run(state, name, ENOUGH), Ok(())));
            }
        });
    });
}

/// The same at the size that a heap of 32-bit addresses has at most; by itself, lest two be counted together.
#[test]
#[ignore = "it takes 8 GiB of memory and a minute"]
fn tasks_that_flood_four_gigabytes_run_one_after_another() {
    let heap_kb = 4 << 20;
    let engine = Engine::new().with_task_bytes(heap_kb * 1024);
    let engine = engine.on_threads(NonZeroUsize::new(8).unwrap());
    let state = install(&engine, 65_536, heap_kb * 1024);
    // What a task has written, and the heap itself, with which that is compared.
    bounded(2 * heap_kb, || {
        let error = run(&engine, &state, "flood", 1_000).unwrap_err();
        let expected = "1048576 private pages, more than the quota of 1000 (task 0 of a fork)";
        assert!(error.contains(expected), "{error}");
    });
    bounded(2 * heap_kb, || {
        assert_eq!(run(&engine, &state, "flood", 1 << 20), Ok(()));
    });
}
