//! Fork-join: what tasks see, what comes back, what it costs, and that threads do not matter.
use crate::support::{Canister, ENGINE, LANES, number};
use lockstep_canister::{
    engine::{Engine, EntryPoint, Execution, Response},
    fork::{FORK, FORK_TASK},
};
use proptest::prelude::*;
use std::{num::NonZeroUsize, sync::LazyLock};

/// Engines of several thread counts; results may not depend on which.
static ENGINES: LazyLock<Vec<Engine>> = LazyLock::new(|| {
    [1, 2, 3, 8]
        .map(|threads| ENGINE.on_threads(NonZeroUsize::new(threads).unwrap()))
        .into()
});

/// A module with `tasks` as the functions of a table, and helpers:
/// `$windows (count start size)` writes the windows `start + i * size` to address 0, `$answer (i64)`
/// replies, `$fork` is the import.
fn forking(tasks: &[&str], rest: &str) -> String {
    let names: Vec<_> = (0..tasks.len())
        .map(|index| format!("$task{index}"))
        .collect();
    let functions: String = tasks
        .iter()
        .zip(&names)
        .map(|(body, name)| {
            format!(
                "(func {name} (param $environment i32) (param $index i32) (local $i i32) {body})\n"
            )
        })
        .collect();
    format!(
        r#"(module
        (import "ic0" "msg_reply" (func $reply))
        (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
        (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
        (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
        (import "ic0" "trap" (func $trap (param i32 i32)))
        (import "ic0" "debug_print" (func $print (param i32 i32)))
        (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
        (memory 4 100)
        (global $state (mut i64) (i64.const 5))
        (table 16 funcref) (elem (i32.const 0) {names})
        (func $windows (param $count i32) (param $start i32) (param $size i32) (local $i i32)
            (loop $next
                (if (i32.lt_u (local.get $i) (local.get $count)) (then
                    (i32.store (i32.mul (local.get $i) (i32.const 8))
                        (i32.add (local.get $start) (i32.mul (local.get $i) (local.get $size))))
                    (i32.store offset=4 (i32.mul (local.get $i) (i32.const 8)) (local.get $size))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br $next)))))
        (func $answer (param i64)
            (i64.store (i32.const 65528) (local.get 0))
            (call $append (i32.const 65528) (i32.const 8))
            (call $reply))
        {functions}
        {rest})"#,
        names = names.join(" "),
    )
}

/// Runs a message on every engine and requires one result.
fn everywhere(canister: &Canister, method: &str) -> Execution {
    let mut executions = ENGINES.iter().map(|engine| {
        let entry = EntryPoint::Update(method.into());
        canister.execute_on(engine, entry, b"")
    });
    let first = executions.next().expect("there are engines");
    for execution in executions {
        assert_same(&first, &execution);
    }
    first
}

fn assert_same(first: &Execution, second: &Execution) {
    assert_eq!(first.instructions, second.instructions);
    assert_eq!(first.time, second.time);
    assert_eq!(first.debug, second.debug);
    match (&first.result, &second.result) {
        (Ok((response, effects)), Ok((other, others))) => {
            assert_eq!(response, other);
            assert_eq!(effects.heap.digest(), others.heap.digest());
            assert_eq!(effects.globals, others.globals);
        }
        (Err(error), Err(other)) => assert_eq!(error, other),
        (first, second) => panic!("{first:?} and {second:?}"),
    }
}

fn answer(execution: &Execution) -> i64 {
    match &execution.result {
        Ok((Response::Reply(bytes), _)) => number(bytes),
        other => panic!("a reply expected: {other:?}"),
    }
}

fn error(execution: &Execution) -> String {
    match &execution.result {
        Err(error) => error.to_string(),
        Ok(_) => panic!("an error expected"),
    }
}

/// Every task adds its index, what the caller wrote before the fork, and the caller's global.
const SUM: &str = "(i64.store (i32.add (i32.const 65536) (i32.mul (local.get $index) (i32.const 8)))
    (i64.add (i64.extend_i32_u (local.get $index)) (i64.add (i64.load (local.get $environment)) (global.get $state))))";

#[test]
fn tasks_see_the_snapshot_and_windows_come_back() {
    let canister = Canister::new(&forking(
        &[&format!(
            "{SUM} (global.set $state (i64.const 99)) (i64.store (i32.const 70000) (i64.const 7))
            (i64.store (i32.const 1024) (i64.const 8)) (drop (memory.grow (i32.const 1)))"
        )],
        r#"(func (export "canister_update go") (local $i i32) (local $sum i64)
            (call $windows (i32.const 10) (i32.const 65536) (i32.const 8))
            (i64.store (i32.const 1024) (i64.const 1000))
            (global.set $state (i64.const 20))
            (call $fork (i32.const 0) (i32.const 1024) (i32.const 10) (i32.const 0) (i64.const 10000) (i32.const 100))
            (loop $next
                (local.set $sum (i64.add (local.get $sum) (i64.load (i32.add (i32.const 65536) (i32.mul (local.get $i) (i32.const 8))))))
                (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10))))
            ;; What tasks wrote outside of their windows, their globals and their growth are gone.
            (if (i64.ne (i64.load (i32.const 70000)) (i64.const 0)) (then unreachable))
            (if (i64.ne (i64.load (i32.const 1024)) (i64.const 1000)) (then unreachable))
            (if (i64.ne (global.get $state) (i64.const 20)) (then unreachable))
            (if (i32.ne (memory.size) (i32.const 4)) (then unreachable))
            (call $answer (local.get $sum)))"#,
    ));
    assert_eq!(answer(&everywhere(&canister, "go")), 10 * 1020 + 45);
}

#[test]
fn two_forks_in_one_message_see_each_others_results() {
    let mut canister = Canister::new(&forking(
        &["(i64.store (i32.add (i32.const 65536) (i32.mul (local.get $index) (i32.const 8)))
            (i64.add (i64.const 1) (i64.mul (i64.const 2)
                (i64.load (i32.add (i32.const 65536) (i32.mul (i32.sub (i32.const 3) (local.get $index)) (i32.const 8)))))))"],
        r#"(func $step (call $fork (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i64.const 10000) (i32.const 100)))
        (func (export "canister_update go")
            (call $windows (i32.const 4) (i32.const 65536) (i32.const 8))
            (call $step) (call $step)
            (i64.store (i32.const 65536) (i64.add (i64.load (i32.const 65536)) (i64.const 100)))
            (call $step)
            (call $answer (i64.load (i32.const 65560))))
        (func (export "canister_update trap_after") (call $windows (i32.const 4) (i32.const 65536) (i32.const 8)) (call $step) unreachable)"#,
    ));
    // Task 3 reads what task 0 had: ((0 * 2 + 1) * 2 + 1 + 100) * 2 + 1.
    assert_eq!(answer(&everywhere(&canister, "go")), 207);
    // A trap after a fork takes the fork back, for this message and for those that follow.
    let before = canister.state.digest();
    assert!(
        canister
            .failure("trap_after")
            .message
            .ends_with("unreachable")
    );
    assert_eq!(canister.state.digest(), before);
    assert_eq!(number(&canister.update("go", b"")), 207);
    assert_ne!(canister.state.digest(), before);
}

#[test]
fn the_lowest_trapping_task_counts() {
    let canister = Canister::new(&forking(
        &["(call $print (i32.const 1024) (i32.const 4))
            (if (i32.eq (local.get $index) (i32.const 3)) (then (call $trap (i32.const 1024) (i32.const 4))))
            (if (i32.ge_u (local.get $index) (i32.const 5)) (then unreachable))"],
        r#"(data (i32.const 1024) "oops")
        (func (export "canister_update go")
            (call $windows (i32.const 8) (i32.const 65536) (i32.const 8))
            (call $fork (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 0) (i64.const 10000) (i32.const 100)))"#,
    ));
    let execution = everywhere(&canister, "go");
    assert!(
        error(&execution)
            .contains("Canister called `ic0.trap` with message: 'oops' (task 3 of a fork)"),
        "{}",
        error(&execution)
    );
    assert_eq!(execution.debug, ["oops"; 4]);
}

/// Task i runs i * 100 rounds of a loop.
const LOOPS: &str = "(local.set $i (i32.mul (local.get $index) (i32.const 100)))
    (block $done (loop $next
        (br_if $done (i32.eqz (local.get $i)))
        (local.set $i (i32.sub (local.get $i) (i32.const 1)))
        (br $next)))";

#[test]
fn the_sum_is_paid_and_the_longest_lane_takes_the_time() {
    let module = forking(
        &[LOOPS],
        r#"(func $go (param $count i32) (local $before i64)
            (call $windows (local.get $count) (i32.const 65536) (i32.const 8))
            (local.set $before (call $counter (i32.const 0)))
            (call $fork (i32.const 0) (i32.const 0) (local.get $count) (i32.const 0) (i64.const 100000) (i32.const 100))
            (call $answer (i64.sub (call $counter (i32.const 0)) (local.get $before))))
        (func (export "canister_update none") (call $go (i32.const 0)))
        (func (export "canister_update two") (call $go (i32.const 2)))
        (func (export "canister_update three") (call $go (i32.const 3)))
        (func (export "canister_update five") (call $go (i32.const 5)))"#,
    );
    let canister = Canister::new(&module);
    let run = |method| everywhere(&canister, method);
    let [none, two, three, five] = ["none", "two", "three", "five"].map(run);
    assert_eq!(LANES.get(), 2);
    // What a task costs is c + r * index.
    let paid = |execution: &Execution, tasks: i64| {
        answer(execution) - answer(&none) - tasks * (FORK_TASK as i64 + 8)
    };
    let start = answer(&none);
    assert!(start > FORK as i64, "{start}");
    let both = paid(&two, 2);
    let third = paid(&three, 3) - both;
    let all = paid(&five, 5);
    // both = 2 c + r, third = c + 2 r, all = 5 c + 10 r
    let round = (2 * third - both) / 3;
    let call = third - 2 * round;
    assert_eq!((both, all), (2 * call + round, 5 * call + 10 * round));
    // Lanes {0, 2, 4} and {1, 3}: the first takes 3 c + 6 r of the time.
    let beside = five.instructions - five.time;
    assert_eq!(beside as i64, 2 * call + 4 * round);
    assert_eq!(none.instructions, none.time);
}

#[test]
fn quotas_bind() {
    let canister = Canister::new(&forking(
        &[
            LOOPS,
            "(i32.store (i32.const 131072) (i32.const 1)) (i32.store (i32.const 135168) (i32.const 1)) (i32.store (i32.const 139264) (i32.const 1))",
            // Writing what is there already is no change.
            "(i32.store (i32.const 131072) (i32.const 0)) (i32.store (i32.const 135168) (i32.const 0)) (i32.store (i32.const 139264) (i32.const 1))",
            "(if (i32.ne (memory.grow (i32.const 1)) (i32.const 4)) (then unreachable))",
            "(if (i32.ne (memory.grow (i32.const 2)) (i32.const -1)) (then unreachable))",
        ],
        r#"(func $go (param $task i32) (param $instructions i64) (param $pages i32)
            (call $windows (i32.const 3) (i32.const 65536) (i32.const 8))
            (call $fork (local.get $task) (i32.const 0) (i32.const 3) (i32.const 0) (local.get $instructions) (local.get $pages))
            (call $answer (i64.const 0)))
        (func (export "canister_update instructions") (call $go (i32.const 0) (i64.const 1000) (i32.const 2)))
        (func (export "canister_update reserved") (call $go (i32.const 0) (i64.const 4600000) (i32.const 2)))
        (func (export "canister_update too_much") (call $go (i32.const 0) (i64.const 4700000) (i32.const 2)))
        (func (export "canister_update pages") (call $go (i32.const 1) (i64.const 1000) (i32.const 2)))
        (func (export "canister_update enough_pages") (call $go (i32.const 1) (i64.const 1000) (i32.const 3)))
        (func (export "canister_update same") (call $go (i32.const 2) (i64.const 1000) (i32.const 2)))
        (func (export "canister_update grow") (call $go (i32.const 3) (i64.const 1000) (i32.const 16)))
        (func (export "canister_update grow_more") (call $go (i32.const 4) (i64.const 1000) (i32.const 16)))"#,
    ));
    let error = |method| error(&everywhere(&canister, method));
    assert!(
        error("instructions").contains("IC0522")
            && error("instructions").contains(
                "limit of 1000 instructions for single message execution. (task 1 of a fork)"
            ),
        "{}",
        error("instructions")
    );
    // Two of three tasks share a lane: 2 * 4.6 M fit into what is left of 10 M, 2 * 4.7 M do not.
    assert_eq!(answer(&everywhere(&canister, "reserved")), 0);
    assert!(error("too_much").contains("IC0522"));
    assert!(
        error("pages").contains(
            "Canister trapped: 3 private pages, more than the quota of 2 (task 0 of a fork)"
        ),
        "{}",
        error("pages")
    );
    for method in ["enough_pages", "same", "grow", "grow_more"] {
        assert_eq!(answer(&everywhere(&canister, method)), 0, "{method}");
    }
}

#[test]
fn bad_forks_trap_before_anything_runs() {
    let canister = Canister::new(&forking(
        &["unreachable"],
        r#"(func $go (param $task i32) (param $count i32)
            (call $fork (local.get $task) (i32.const 0) (local.get $count) (i32.const 0) (i64.const 1000) (i32.const 2)))
        (func (export "canister_update overlap")
            (call $windows (i32.const 3) (i32.const 65536) (i32.const 8)) (i32.store (i32.const 4) (i32.const 9)) (call $go (i32.const 0) (i32.const 3)))
        (func (export "canister_update outside")
            (call $windows (i32.const 3) (i32.const 262136) (i32.const 8)) (call $go (i32.const 0) (i32.const 3)))
        (func (export "canister_update far")
            (i32.store (i32.const 0) (i32.const -1)) (i32.store (i32.const 4) (i32.const -1)) (call $go (i32.const 0) (i32.const 1)))
        (func (export "canister_update many") (call $go (i32.const 0) (i32.const 65537)))
        (func (export "canister_update negative") (call $go (i32.const 0) (i32.const -1)))
        (func (export "canister_update null")
            (call $windows (i32.const 1) (i32.const 65536) (i32.const 8)) (call $go (i32.const 9) (i32.const 1)))
        (func (export "canister_update table")
            (call $windows (i32.const 1) (i32.const 65536) (i32.const 8)) (call $go (i32.const 99) (i32.const 1)))
        (func (export "canister_update list") (call $fork (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 262136) (i64.const 1000) (i32.const 2)))"#,
    ));
    for (method, expected) in [
        (
            "overlap",
            "lockstep.fork: windows overlap or lie outside of the heap",
        ),
        (
            "outside",
            "lockstep.fork: windows overlap or lie outside of the heap",
        ),
        (
            "far",
            "lockstep.fork: windows overlap or lie outside of the heap",
        ),
        ("many", "lockstep.fork: 65537 tasks, more than 65536"),
        (
            "negative",
            "lockstep.fork: 4294967295 tasks, more than 65536",
        ),
        (
            "null",
            "Canister trapped: indirect call to null (task 0 of a fork)",
        ),
        (
            "table",
            "Canister trapped: table out of bounds (task 0 of a fork)",
        ),
        ("list", "exceeds the slice size=262144"),
    ] {
        let error = error(&everywhere(&canister, method));
        let reason = error.split("\nCanister Backtrace:").next().unwrap();
        assert!(reason.ends_with(expected), "{method}: {error}");
    }
}

#[test]
fn tasks_may_call_pure_functions_only() {
    let canister = Canister::new(&forking(
        &["(drop (call $stable_grow (i64.const 1)))"],
        r#"(func (export "canister_update go")
            (call $windows (i32.const 1) (i32.const 65536) (i32.const 8))
            (call $fork (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 1000) (i32.const 2)))"#,
    ));
    let error = error(&everywhere(&canister, "go"));
    assert!(
        error.contains(
            "\"ic0_stable64_grow\" cannot be executed in fork task mode (task 0 of a fork)"
        ),
        "{error}"
    );
}

#[test]
fn tasks_may_fork() {
    let canister = Canister::new(&forking(
        &[
            // Four inner tasks fill parts of this task's window; it adds what it has of its own.
            "(local.set $i (i32.add (i32.const 65536) (i32.mul (local.get $index) (i32.const 32))))
            (i64.store (i32.const 2048) (i64.extend_i32_u (i32.mul (local.get $index) (i32.const 10))))
            (call $windows (i32.const 4) (local.get $i) (i32.const 8))
            (call $fork (i32.const 1) (local.get $i) (i32.const 4) (i32.const 0) (i64.const 1000) (i32.const 10))",
            "(i64.store (i32.add (local.get $environment) (i32.mul (local.get $index) (i32.const 8)))
                (i64.add (i64.load (i32.const 2048)) (i64.extend_i32_u (local.get $index))))",
        ],
        r#"(func (export "canister_update go") (local $sum i64) (local $at i32)
            (call $windows (i32.const 3) (i32.const 65536) (i32.const 32))
            (call $fork (i32.const 0) (i32.const 0) (i32.const 3) (i32.const 0) (i64.const 2000000) (i32.const 10))
            (local.set $at (i32.const 65536))
            (loop $next
                (local.set $sum (i64.add (local.get $sum) (i64.load (local.get $at))))
                (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 65632))))
            (call $answer (local.get $sum)))"#,
    ));
    // Sum over i < 3, j < 4 of 10 i + j.
    assert_eq!(answer(&everywhere(&canister, "go")), 4 * 30 + 3 * 6);
}

#[test]
fn queries_fork_side_by_side() {
    let mut canister = Canister::new(&forking(
        &[SUM],
        r#"(func $go
            (call $windows (i32.const 6) (i32.const 65536) (i32.const 8))
            (i64.store (i32.const 1024) (i64.add (i64.load (i32.const 1024)) (i64.const 100)))
            (call $fork (i32.const 0) (i32.const 1024) (i32.const 6) (i32.const 0) (i64.const 1000) (i32.const 10))
            (call $answer (i64.load (i32.const 65568))))
        (func (export "canister_query ask") (call $go))
        (func (export "canister_update go") (call $go))"#,
    ));
    for round in 1..4 {
        // Queries see the state before the update, also while it runs.
        let snapshot = &canister;
        std::thread::scope(|scope| {
            let queries = [(); 4].map(|()| scope.spawn(|| number(&snapshot.query("ask"))));
            let update = snapshot.execute(EntryPoint::Update("go".into()), b"");
            assert_eq!(answer(&update), 100 * round + 9);
            for query in queries {
                assert_eq!(query.join().unwrap(), 100 * round + 9);
            }
        });
        assert_eq!(number(&canister.update("go", b"")), 100 * round + 9);
    }
}

#[test]
fn endless_nesting_ends_by_rule() {
    let canister = Canister::new(&forking(
        &[
            "(call $fork (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.div_u (call $left) (i64.const 2)) (i32.const 10))",
        ],
        r#"(func $left (result i64) (i64.const 10))
        (func (export "canister_update go")
            (call $windows (i32.const 1) (i32.const 65536) (i32.const 8))
            (call $fork (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 8000000) (i32.const 10)))"#,
    ));
    let error = error(&everywhere(&canister, "go"));
    assert!(error.contains("IC0522"), "{error}");
}

#[test]
fn modules_that_cannot_fork_are_refused() {
    let module = |rest: &str| {
        format!(
            r#"(module (import "lockstep" "fork" (func (param i32 i32 i32 i32 i64 i32))) {rest})"#
        )
    };
    for (rest, reason) in [
        ("(memory 1)", "lacks a table of functions"),
        ("(table 1 funcref)", "lacks a memory"),
        (
            "(memory 1) (table 1 funcref) (func (table.set (i32.const 0) (ref.null func)))",
            "contains 'table.set'",
        ),
        (
            "(memory 1) (table 1 funcref) (data $d \"x\") (func (data.drop $d))",
            "contains 'data.drop'",
        ),
    ] {
        let refusal = crate::support::refusal(&module(rest));
        assert!(refusal.contains(reason), "{refusal}");
    }
    assert!(crate::support::compile(&module("(memory 1) (table 1 funcref)")).is_ok());
}

/// A step of a generated task: on the task's own state, on shared memory, on control.
#[derive(Clone, Debug)]
enum Step {
    /// Writes at a place that all tasks write.
    Race(u16),
    /// Writes into the window, from a place that others may have written.
    Read(u16),
    Loop(u8),
    Grow,
    Recurse(u8),
    Global,
    Counter,
    TrapIf(u8),
    Spin(u8),
    Fork,
}

impl Step {
    fn code(&self) -> String {
        let window = "(i32.add (i32.const 65536) (i32.mul (local.get $index) (i32.const 64)))";
        match self {
            Self::Race(at) => format!(
                "(i32.store (i32.const {}) (i32.add (local.get $index) (i32.load (i32.const {}))))",
                131_072 + u32::from(*at) * 4,
                131_072 + u32::from(at.wrapping_mul(7)) * 4 % 100_000,
            ),
            Self::Read(at) => format!(
                "(i32.store {window} (i32.add (i32.load {window}) (i32.load (i32.const {}))))",
                65_536 + u32::from(*at) * 4,
            ),
            Self::Loop(rounds) => format!(
                "(local.set $i (i32.const {rounds})) (loop $next (local.set $i (i32.sub (local.get $i) (i32.const 1)))
                (i32.store offset=4 {window} (local.get $i)) (br_if $next (i32.gt_s (local.get $i) (i32.const 0))))"
            ),
            Self::Grow => format!("(i32.store offset=8 {window} (memory.grow (local.get $index)))"),
            Self::Recurse(depth) => {
                format!("(call $recurse (i32.mul (i32.const {depth}) (local.get $index)))")
            }
            Self::Global => format!(
                "(global.set $state (i64.add (global.get $state) (i64.extend_i32_u (local.get $index))))
                (i64.store offset=16 {window} (global.get $state))"
            ),
            Self::Counter => format!("(i64.store offset=24 {window} (call $counter (i32.const 0)))"),
            Self::TrapIf(index) => {
                format!("(if (i32.eq (local.get $index) (i32.const {index})) (then unreachable))")
            }
            Self::Spin(index) => format!(
                "(if (i32.eq (local.get $index) (i32.const {index})) (then (loop $forever (br $forever))))"
            ),
            Self::Fork => format!(
                "(call $windows (i32.const 2) {window} (i32.const 8))
                (call $fork (i32.const 1) (local.get $index) (i32.const 2) (i32.const 0) (i64.const 500) (i32.const 30))"
            ),
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u16>().prop_map(|at| Step::Race(at % 30_000)),
        3 => any::<u16>().prop_map(|at| Step::Read(at % 30_000)),
        2 => any::<u8>().prop_map(Step::Loop),
        1 => Just(Step::Grow),
        2 => (0..40_u8).prop_map(Step::Recurse),
        2 => Just(Step::Global),
        1 => Just(Step::Counter),
        1 => (0..40_u8).prop_map(Step::TrapIf),
        1 => (0..40_u8).prop_map(Step::Spin),
        1 => Just(Step::Fork),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Tasks that race, trap, loop, grow, recurse and fork: equal memory, charges and errors with 1, 2, 3
    /// and 8 threads.
    #[test]
    fn threads_do_not_matter(
        body in prop::collection::vec(step(), 1..8),
        count in 1..20_u32,
        instructions in prop_oneof![Just(3_000_u64), Just(700_000)],
        pages in prop_oneof![Just(3_u32), Just(200)],
    ) {
        let code: String = body.iter().map(Step::code).collect();
        let canister = Canister::new(&forking(
            &[&code, "(i64.store (i32.add (i32.const 65536) (i32.add (i32.mul (local.get $environment) (i32.const 64)) (i32.mul (local.get $index) (i32.const 8))))
                (i64.add (global.get $state) (i64.extend_i32_u (local.get $index))))"],
            &format!(
                r#"(func $recurse (param $depth i32) (if (local.get $depth) (then (call $recurse (i32.sub (local.get $depth) (i32.const 1))))))
                (func (export "canister_update go")
                    (i32.store (i32.const 131072) (i32.const 77))
                    (call $windows (i32.const {count}) (i32.const 65536) (i32.const 64))
                    (call $fork (i32.const 0) (i32.const 0) (i32.const {count}) (i32.const 0) (i64.const {instructions}) (i32.const {pages}))
                    (i32.store (i32.const 131076) (i32.load (i32.const 65540)))
                    (call $windows (i32.const {count}) (i32.const 65536) (i32.const 64))
                    (call $fork (i32.const 0) (i32.const 0) (i32.const {count}) (i32.const 0) (i64.const {instructions}) (i32.const {pages}))
                    (call $answer (call $counter (i32.const 0))))"#
            ),
        ));
        everywhere(&canister, "go");
    }
}

#[test]
fn the_default_engine_agrees() {
    let canister = Canister::new(&forking(
        &[SUM],
        r#"(func (export "canister_update go")
            (call $windows (i32.const 6) (i32.const 65536) (i32.const 8))
            (call $fork (i32.const 0) (i32.const 1024) (i32.const 6) (i32.const 0) (i64.const 1000) (i32.const 10))
            (call $answer (i64.load (i32.const 65568))))"#,
    ));
    let execution = everywhere(&canister, "go");
    assert_eq!(answer(&execution), 9);
    assert_same(
        &execution,
        &canister.execute_on(&ENGINE, EntryPoint::Update("go".into()), b""),
    );
}

#[test]
fn a_task_that_traps_can_be_found_and_run_alone() {
    let canister = Canister::new(&forking(
        &[
            "(call $print (i32.const 1024) (i32.const 4))
            (i64.store (i32.add (i32.const 65536) (i32.mul (local.get $index) (i32.const 8)))
                (i64.add (global.get $state) (i64.extend_i32_u (local.get $index))))
            (if (i32.and (i32.eq (local.get $index) (i32.const 3)) (local.get $environment)) (then (call $helper)))
            (if (i32.eq (local.get $index) (i32.const 4)) (then (loop $next (br $next))))
            (if (i32.eq (local.get $index) (i32.const 5)) (then
                (call $windows (i32.const 2) (i32.const 131072) (i32.const 8))
                (call $fork (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 0) (i64.const 100) (i32.const 10))))",
            "(if (local.get $index) (then (call $helper)))",
        ],
        r#"(data (i32.const 1024) "oops")
        (func $helper (drop (i32.div_u (i32.const 1) (i32.const 0))))
        (func $caller (param $environment i32) (param $count i32)
            (call $windows (local.get $count) (i32.const 65536) (i32.const 8))
            (call $fork (i32.const 0) (local.get $environment) (local.get $count) (i32.const 0) (i64.const 1000000) (i32.const 100)))
        (func $method (export "canister_update go")
            (call $caller (i32.const 0) (i32.const 4))
            (global.set $state (i64.add (i64.const 100) (i64.load (i32.const 65544))))
            (call $caller (i32.const 1) (i32.const 6)))
        (func $other (export "canister_update nested") (call $caller (i32.const 0) (i32.const 4))
            (i32.store (i32.const 131072) (i32.const 1)) (call $caller (i32.const 0) (i32.const 6)))"#,
    ));
    let whole = everywhere(&canister, "go");
    let expected = "Canister trapped: integer division by 0 (task 3 of a fork)\n\
        Canister Backtrace:\nhelper\ntask0\ncaller\nmethod";
    assert!(error(&whole).ends_with(expected), "{}", error(&whole));

    let alone = |method: &str, fork, task| {
        let mut executions = ENGINES.iter().map(|engine| {
            let entry = EntryPoint::Update(method.into());
            canister.execute_task_on(engine, entry, fork, task)
        });
        let first = executions.next().expect("there are engines");
        executions.for_each(|execution| assert_eq!(execution, first));
        first
    };
    let trapped = alone("go", 1, 3).expect("there is such a task");
    assert_eq!(trapped.result.unwrap_err().to_string(), error(&whole));
    assert_eq!(trapped.debug, ["oops"]);
    // Task 1 of the first fork had 5 + 1 in its window.
    let first = alone("go", 0, 1).expect("there is such a task");
    assert_eq!(first.result.as_deref(), Ok(6_i64.to_le_bytes().as_slice()));
    let second = alone("go", 1, 2).expect("there is such a task");
    assert_eq!(
        second.result.as_deref(),
        Ok(108_i64.to_le_bytes().as_slice())
    );
    assert!(first.instructions > 10 && first.instructions < trapped.instructions);
    // A task behind the one that ended the message runs as well.
    let behind = alone("go", 1, 4).expect("there is such a task");
    let error_behind = behind.result.unwrap_err().to_string();
    assert!(
        error_behind
            .ends_with("1000000 instructions for single message execution. (task 4 of a fork)"),
        "{error_behind}"
    );
    // A fork inside a task.
    let nested = alone("nested", 1, 5).expect("there is such a task");
    let nested = nested.result.unwrap_err().to_string();
    assert!(
        nested.ends_with(
            "integer division by 0 (task 1 of a fork) (task 5 of a fork)\n\
             Canister Backtrace:\nhelper\ntask1\ntask0\ncaller\nother"
        ),
        "{nested}"
    );
    assert_eq!(alone("go", 0, 4), None);
    assert_eq!(alone("go", 2, 0), None);
}

#[test]
fn memory_for_tasks_decides_when_they_run_and_nothing_else() {
    let canister = Canister::new(&forking(
        &[
            "(i64.store (i32.add (i32.const 65536) (i32.mul (local.get $index) (i32.const 8)))
                (i64.extend_i32_s (memory.grow (i32.add (local.get $index) (i32.const 1)))))
            (drop (memory.grow (i32.const 2)))
            (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
            (if (i32.eq (local.get $index) (local.get $environment)) (then
                (call $windows (i32.const 2) (i32.const 131072) (i32.const 8))
                (call $fork (i32.const 0) (i32.const -1) (i32.const 2) (i32.const 0) (i64.const 1000) (i32.const 1000))))
            (if (i32.eq (local.get $index) (i32.const 11)) (then unreachable))",
        ],
        r#"(func $go (param $count i32)
            (call $windows (local.get $count) (i32.const 65536) (i32.const 8))
            (call $fork (i32.const 0) (i32.const 5) (local.get $count) (i32.const 0) (i64.const 700000) (i32.const 200))
            (call $answer (i64.load (i32.const 65576))))
        (func (export "canister_update fits") (call $go (i32.const 10)))
        (func (export "canister_update traps") (call $go (i32.const 12)))"#,
    ));
    // Room for: no task, one that does not grow, three of them, all.
    let engines = [0, 5 << 16, 15 << 16, 1 << 40]
        .into_iter()
        .flat_map(|bytes| {
            ENGINES
                .iter()
                .map(move |engine| engine.with_task_bytes(bytes))
        });
    for engine in engines {
        for method in ["fits", "traps"] {
            let entry = || EntryPoint::Update(method.into());
            let expected = canister.execute_on(&ENGINE, entry(), b"");
            assert_eq!(expected.result.is_ok(), method == "fits", "{expected:?}");
            assert_same(&expected, &canister.execute_on(&engine, entry(), b""));
        }
    }
}
