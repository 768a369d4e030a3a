//! Instructions, stack and memory run out wherever a canister can be entered: the right error, and nothing is
//! changed.
use crate::{
    contexts::{EXPORTS, contexts},
    support::{Canister, ENGINE, LIMIT, caller, text},
};
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment, Execution, ExecutionError, Response},
    heap::{Heap, PAGE_BYTES},
    memory::{Paged, PagedMemory},
    query::{CALL, Query, evaluate},
    state::GlobalValue,
};

/// Pages of stable memory: 8 GiB and one more.
const STABLE_PAGES: u64 = 8 * 16_384 + 1;
/// Leaves of 4 KiB in a GiB.
const LEAVES_PER_GIB: u64 = 1 << 18;
/// Instructions of a task.
const TASK_LIMIT: u64 = 1_000_000;

/// A module that is entered everywhere, or in its start function alone, and then changes what it can and goes
/// `way`. Its own words come first in a backtrace, so that they are the same from everywhere.
fn module(way: &str, start: bool) -> String {
    let everywhere = EXPORTS.map(|export| format!("(export \"{export}\")"));
    let everywhere = everywhere.concat();
    let entry = if start {
        format!("(start $enter) (func {everywhere}) (func $callback (param i32))")
    } else {
        format!("(func {everywhere} (call $enter)) (func $callback (param i32) (call $enter))")
    };
    format!(
        r#"(module
        (import "ic0" "msg_reply" (func $reply))
        (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
        (import "ic0" "stable64_size" (func $stable_size (result i64)))
        (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
        (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
        (import "ic0" "stable64_read" (func $stable_read (param i64 i64 i64)))
        (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
        (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
        (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
        (import "ic0" "call_on_cleanup" (func $on_cleanup (param i32 i32)))
        (import "ic0" "call_perform" (func $perform (result i32)))
        (memory 1) (table 4 funcref) (elem (i32.const 0) $callback $task $trap)
        (global $kept (mut i64) (i64.const 5))
        (func $enter
            (i64.store (i32.const 8) (i64.const -1))
            (global.set $kept (i64.const -1))
            (drop (memory.grow (i32.const 1)))
            (drop (call $stable_grow (i64.const 1)))
            (call $stable_write (i64.const 0) (i64.const 8) (i64.const 8))
            (call $way))
        {entry}
        (func $deep (param i64) (call $deep (local.get 0)) (call $deep (local.get 0)))
        (func $scan (param $leaves i64) (local $at i64)
            (loop $next
                (call $stable_read (i64.const 0) (local.get $at) (i64.const 1))
                (local.set $at (i64.add (local.get $at) (i64.const 4096)))
                (br_if $next (i64.lt_u (local.get $at) (i64.mul (local.get $leaves) (i64.const 4096))))))
        (func $two_tasks (param $pages i32)
            ;; Windows of no bytes.
            (i64.store (i32.const 1024) (i64.const 2048)) (i64.store (i32.const 1032) (i64.const 2048))
            (call $fork (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 1024) (i64.const {TASK_LIMIT}) (local.get $pages)))
        {way}
        ;; Composite queries: calls of its own method `a`, or of one that there is not, and what runs then.
        (func $ask (param $method i32) (param $callback i32)
            (call $self (i32.const 100) (i32.const 0) (i32.const 10))
            (i32.store8 (i32.const 120) (local.get $method))
            (call $new (i32.const 100) (i32.const 10) (i32.const 120) (i32.const 1)
                (local.get $callback) (i32.const 0) (local.get $callback) (i32.const 0))
            (if (local.get $callback) (then (call $on_cleanup (i32.const 0) (i32.const 0))))
            (drop (call $perform)))
        (func $trap (param i32) unreachable)
        (func (export "canister_query a") (call $reply))
        (func (export "canister_composite_query reply") (call $ask (i32.const 97) (i32.const 0)))
        (func (export "canister_composite_query reject") (call $ask (i32.const 98) (i32.const 0)))
        (func (export "canister_composite_query cleanup") (call $ask (i32.const 97) (i32.const 2)))
        (func (export "canister_update probe")
            (i64.store (i32.const 16) (global.get $kept))
            (i64.store (i32.const 24) (i64.extend_i32_u (memory.size)))
            (i64.store (i32.const 32) (call $stable_size))
            (call $stable_read (i64.const 40) (i64.const 0) (i64.const 8))
            (call $append (i32.const 8) (i32.const 40)) (call $reply)))"#
    )
}

/// Without tasks.
fn plain(way: &str, start: bool) -> String {
    module(
        &format!("(func $task (param i32 i32)) (func $way {way})"),
        start,
    )
}

/// A fork both of whose tasks go this way, with so many private pages each.
fn in_tasks(way: &str, pages: u32) -> String {
    let functions = format!(
        "(func $way (call $two_tasks (i32.const {pages})))
         (func $task (param $environment i32) (param $index i32) (call $of_task))
         (func $of_task {way})"
    );
    module(&functions, false)
}

/// A canister that some messages have left with bytes in its heap, a global, and more stable memory than any
/// message may touch.
fn canister(wat: &str) -> Canister {
    let mut canister = Canister::before_init(wat);
    let installed = canister.state.installed.as_mut().expect("installed");
    installed.heap = Heap::from_pages(1, [(0, [7; PAGE_BYTES])]);
    installed.globals = vec![GlobalValue::I64(6)];
    let block = vec![8; PagedMemory::BLOCK_BYTES].into_boxed_slice();
    canister.state.stable = PagedMemory::from_blocks(STABLE_PAGES, vec![(0, block)]);
    canister
}

/// What the next message finds.
fn probe(canister: &Canister) -> Vec<u8> {
    let execution = canister.execute(EntryPoint::Update("probe".into()), b"");
    match execution.result.expect("it replies").0 {
        Response::Reply(bytes) => bytes,
        other => panic!("a reply, not {other:?}"),
    }
}

fn found() -> Vec<u8> {
    let pages = [1, STABLE_PAGES].map(u64::to_le_bytes).concat();
    [&[7; 8][..], &6_u64.to_le_bytes(), &pages, &[8; 8]].concat()
}

/// The code of an error and its text, but for the functions that ran.
fn reason(error: &ExecutionError) -> (u16, &str) {
    let text = text(error);
    let reason = text.split("\nCanister Backtrace:").next();
    (error.code, reason.expect("the first part"))
}

fn run(canister: &Canister, entry: &EntryPoint, engine: &Engine) -> Execution {
    let call = Call::new(entry.clone(), caller(), Vec::new());
    let environment = canister.environment();
    engine.execute(&canister.state, &call, &environment)
}

/// Enters everywhere on engines that keep instances and that do not; the results, which are equal. What a message
/// that failed has done, the next one does not find.
fn everywhere(
    canister: &Canister,
    mut check: impl FnMut(&str, &EntryPoint, Result<(), (u16, &str)>, u64),
) {
    let before = canister.state.digest();
    for (letter, _, entry) in contexts() {
        let [kept, fresh] = [ENGINE.clone(), ENGINE.without_kept_instances()]
            .map(|engine| run(canister, &entry, &engine));
        assert_eq!(kept.instructions, fresh.instructions, "{entry:?}");
        let [kept, fresh] = [&kept, &fresh].map(|execution| {
            let result = execution.result.as_ref();
            (result.map(|_| ()).map_err(reason), execution.instructions)
        });
        assert_eq!(kept, fresh, "{entry:?}");
        check(letter, &entry, kept.0, kept.1);
        assert_eq!(canister.state.digest(), before, "{entry:?}");
        assert_eq!(probe(canister), found(), "after {entry:?}");
    }
}

/// As [`everywhere`], where everything fails in the same way.
fn fails_everywhere(canister: &Canister, code: u16, reason: &str) {
    everywhere(canister, |_, entry, result, instructions| {
        assert_eq!(result, Err((code, reason)), "{entry:?}");
        assert!(instructions <= canister.limit);
        assert_eq!(instructions == canister.limit, code == 522, "{entry:?}");
    });
}

/// Ways to come to an end: code, code of the error and its text.
fn ways(limit: u64) -> Vec<(&'static str, u16, String)> {
    let exceeded = format!(
        "Canister exceeded the limit of {limit} instructions for single message execution."
    );
    let trapped = |reason: &str| (502, format!("Canister trapped: {reason}"));
    let mut ways = Vec::new();
    for way in [
        "(loop $forever (br $forever))",
        "(memory.fill (i32.const 0) (i32.const 1) (i32.const 0x7fffffff))",
        "(call $stable_read (i64.const 0) (i64.const 0) (i64.const 0x100000000))",
    ] {
        ways.push((way, 522, exceeded.clone()));
    }
    for (way, reason) in [
        ("(call $deep (i64.const 1))", "stack overflow"),
        (
            "(drop (i32.load (i32.const 0x20000)))",
            "heap out of bounds",
        ),
        (
            "(memory.fill (i32.const 0x1ffff) (i32.const 1) (i32.const 2))",
            "heap out of bounds",
        ),
        ("unreachable", "unreachable"),
        (
            "(call $stable_read (i64.const 0) (i64.const -1) (i64.const 1))",
            "stable memory out of bounds",
        ),
    ] {
        let (code, text) = trapped(reason);
        ways.push((way, code, text));
    }
    ways
}

#[test]
fn every_entry_ends_with_the_right_error_and_changes_nothing() {
    for (way, code, text) in ways(LIMIT) {
        fails_everywhere(&canister(&plain(way, false)), code, &text);
    }
}

#[test]
fn so_does_the_start_function() {
    for (way, code, text) in ways(LIMIT) {
        let canister = canister(&plain(way, true));
        everywhere(&canister, |letter, entry, result, _| {
            let expected = if letter == "I" {
                Err((code, text.as_str()))
            } else {
                Ok(())
            };
            match (letter, result) {
                // They do nothing here, and queries must answer.
                ("RQ" | "NRQ" | "CQ", Err((506, _))) => {}
                _ => assert_eq!(result, expected, "{way} {entry:?}"),
            }
        });
    }
}

#[test]
fn so_do_tasks() {
    for (way, code, text) in ways(TASK_LIMIT) {
        let canister = canister(&in_tasks(way, 64));
        let text = format!("{text} (task 0 of a fork)");
        everywhere(&canister, |_, entry, result, instructions| {
            assert_eq!(result, Err((code, text.as_str())), "{way} {entry:?}");
            assert!(instructions < LIMIT);
        });
    }
    // Four pages of 4 KiB, written over other bytes.
    let way = "(memory.fill (i32.const 4096) (i32.const 1) (i32.const 16384))";
    let text = "Canister trapped: 4 private pages, more than the quota of 3 (task 0 of a fork)";
    fails_everywhere(&canister(&in_tasks(way, 3)), 502, text);
    let canister = canister(&in_tasks(way, 4));
    everywhere(&canister, |letter, entry, result, _| match letter {
        "RQ" | "NRQ" | "CQ" => assert_eq!(result.unwrap_err().0, 506),
        _ => assert_eq!(result, Ok(()), "{entry:?}"),
    });
}

#[test]
fn so_do_callbacks_of_composite_queries() {
    for (way, code, text) in ways(LIMIT) {
        let mut canister = canister(&plain(way, false));
        canister.limit = 2 * CALL;
        for method in ["reply", "reject", "cleanup"] {
            let query = Query {
                canister: canister.state.id,
                method: method.into(),
                argument: Vec::new(),
                caller: caller(),
                caller_info: None,
            };
            let lookup = |_: &_| Ok(&canister.state);
            let environment = canister.environment();
            let evaluation = evaluate(&ENGINE, &lookup, query, &environment);
            let error = evaluation.result.expect_err("it fails");
            assert_eq!(evaluation.instructions == canister.limit, code == 522);
            // A callback has what is left.
            let reason = if code == 522 {
                "Canister exceeded the limit of "
            } else {
                text.as_str()
            };
            let told = self::text(&error);
            if method == "cleanup" {
                let (callback, cleanup) = told.split_once("\n\n").expect("two parts");
                assert!(
                    callback.starts_with("Canister trapped: unreachable"),
                    "{callback}"
                );
                let also = format!("call_on_cleanup also failed:\n\n{reason}");
                assert!(cleanup.starts_with(&also), "{way}: {told}");
                assert_eq!(error.code, 502);
            } else {
                assert_eq!(error.code, code, "{way} {method}: {told}");
                assert!(told.starts_with(reason), "{way} {method}: {told}");
            }
            assert_eq!(probe(&canister), found(), "after {way} {method}");
        }
    }
}

/// Where no other test looks.
#[test]
fn a_message_touches_so_much_stable_memory_wherever_it_is() {
    let limit_gib = |letter: &str, entry: &EntryPoint| match (letter, entry) {
        (_, EntryPoint::PostUpgrade { keep_heap: true }) | ("G" | "U" | "RQ" | "NRQ", _) => None,
        ("I", _) => Some(8),
        ("CQ" | "F", _) => Some(1),
        _ => Some(2),
    };
    let text = "Canister exceeded memory access limits: Exceeded the limit for the number of accessed pages in the stable memory in a single message execution: limit 2097152 KB for regular messages and 1048576 KB for queries.";
    for gib in [1, 2, 8] {
        for leaves in [gib * LEAVES_PER_GIB, gib * LEAVES_PER_GIB + 1] {
            let way = format!("(call $scan (i64.const {leaves}))");
            let mut canister = canister(&plain(&way, false));
            canister.limit = 1 << 40;
            for (letter, _, entry) in contexts() {
                if limit_gib(letter, &entry) != Some(gib) {
                    continue;
                }
                let execution = run(&canister, &entry, &ENGINE);
                let failed = execution.result.as_ref().err().map(reason);
                let failed = failed.filter(|(code, _)| *code != 506);
                let expected = (leaves > gib * LEAVES_PER_GIB).then_some((524, text));
                assert_eq!(failed, expected, "{leaves} {entry:?}");
            }
            assert_eq!(probe(&canister), found());
        }
    }
}

#[test]
fn heaps_grow_to_the_canisters_limit_wherever_it_holds() {
    // The way into the module grows it by a page of its own.
    let way = "(if (i32.eq (memory.grow (i32.const 2)) (i32.const -1)) (then unreachable))";
    let limited = |start| {
        let mut canister = canister(&plain(way, start));
        canister.state.settings.wasm_memory_limit = 4 * PAGE_BYTES as u64 - 1;
        canister
    };
    everywhere(&limited(false), |letter, entry, result, _| match letter {
        "I" | "U" => {
            let (code, text) = result.expect_err("the limit holds");
            assert_eq!(code, 539, "{entry:?}");
            let expected = "Canister exceeded its current Wasm memory limit of 262143 bytes. The peak Wasm memory usage was 262144 bytes.";
            assert!(text.starts_with(expected), "{text}");
        }
        "RQ" | "NRQ" | "CQ" => assert_eq!(result.unwrap_err().0, 506),
        _ => assert_eq!(result, Ok(()), "{entry:?}"),
    });
    for entry in [
        EntryPoint::Init,
        EntryPoint::PostUpgrade { keep_heap: true },
    ] {
        let error = run(&limited(true), &entry, &ENGINE).result.unwrap_err();
        assert_eq!(error.code, 539, "{entry:?}");
    }
}

#[test]
fn nothing_grows_where_nothing_is_left() {
    let way = "(if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
        (if (i64.ne (call $stable_grow (i64.const 1)) (i64.const -1)) (then unreachable))
        (if (i32.ne (memory.size) (i32.const 1)) (then unreachable))";
    for start in [false, true] {
        let canister = canister(&plain(way, start));
        for (_, _, entry) in contexts() {
            let environment = Environment {
                memory_available: PAGE_BYTES as u64 - 1,
                ..canister.environment()
            };
            let call = Call::new(entry.clone(), caller(), Vec::new());
            let execution = ENGINE.execute(&canister.state, &call, &environment);
            match execution.result {
                Err(error) => assert_eq!(error.code, 506, "{entry:?}: {error}"),
                Ok((_, effects)) => {
                    assert_eq!(effects.heap.size_pages(), 1, "{entry:?}");
                    assert_eq!(effects.stable.size_pages(), STABLE_PAGES, "{entry:?}");
                }
            }
        }
    }
}
