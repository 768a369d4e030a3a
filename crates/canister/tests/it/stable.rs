//! Stable memory: how large it may be, what of it a message may touch, and what tasks of a fork see.
use crate::support::{Canister, ENGINE, module, number, text};
use lockstep_canister::{
    engine::{EntryPoint, ExecutionError, Response, STABLE_LEAF_WRITTEN, STABLE_PAGES_MAX},
    memory::Paged,
};
use std::{collections::BTreeSet, num::NonZeroUsize};

const GIB: i64 = 1 << 30;
/// Leaves of 4 KiB in a GiB.
const LEAVES_PER_GIB: i64 = GIB / 4096;

/// Methods take one or two i64.
const STABLE: &str = r#"
(import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
(import "ic0" "msg_arg_data_size" (func $argument_size (result i32)))
(import "ic0" "stable64_size" (func $size (result i64)))
(import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
(import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
(import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
(import "ic0" "stable_size" (func $size32 (result i32)))
(import "ic0" "stable_grow" (func $grow32 (param i32) (result i32)))
(import "ic0" "stable_write" (func $write32 (param i32 i32 i32)))
(import "ic0" "stable_read" (func $read32 (param i32 i32 i32)))
(import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
    (table 4 funcref) (elem (i32.const 0) $reader $writer $scanner $nested)
    (global $upgrade_leaves (mut i64) (i64.const 0))
    (func $arguments (call $argument (i32.const 16) (i32.const 0) (call $argument_size)))
    (func $first (result i64) (call $arguments) (i64.load (i32.const 16)))
    (func $second (result i64) (i64.load (i32.const 24)))
    (func $windows (local $i i32)
        (loop $next
            (i32.store (i32.add (i32.const 256) (i32.mul (local.get $i) (i32.const 8)))
                (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 8))))
            (i32.store (i32.add (i32.const 260) (i32.mul (local.get $i) (i32.const 8))) (i32.const 8))
            (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4)))))
    (func $fork4 (param $task i32) (param $environment i32) (param $instructions i64)
        (call $windows)
        (call $fork (local.get $task) (local.get $environment) (i32.const 4) (i32.const 256) (local.get $instructions) (i32.const 9)))
    ;; Reads one byte of so many leaves from one on.
    (func $scan (param $first i64) (param $count i64)
        (loop $next
            (if (i64.ne (local.get $count) (i64.const 0)) (then
                (call $read (i64.const 0) (i64.mul (local.get $first) (i64.const 4096)) (i64.const 1))
                (local.set $first (i64.add (local.get $first) (i64.const 1)))
                (local.set $count (i64.sub (local.get $count) (i64.const 1)))
                (br $next)))))
    (func $get (param $offset i64) (result i64)
        (call $read (i64.const 8) (local.get $offset) (i64.const 8))
        (i64.load (i32.const 8)))
    (func $set (param $offset i64) (param $value i64)
        (i64.store (i32.const 8) (local.get $value))
        (call $write (local.get $offset) (i64.const 8) (i64.const 8)))
    ;; Tasks: what is at eight times the index, and the sizes.
    (func $reader (param i32) (param $index i32)
        (call $read32 (i32.const 8) (i32.mul (local.get $index) (i32.const 8)) (i32.const 4))
        (i64.store (i32.add (i32.const 1024) (i32.mul (local.get $index) (i32.const 8)))
            (i64.add (i64.extend_i32_u (i32.load (i32.const 8)))
                (i64.add (i64.mul (call $size) (i64.const 1000)) (i64.mul (i64.extend_i32_u (call $size32)) (i64.const 1000000))))))
    (func $writer (param i32) (param i32) (call $set (i64.const 0) (i64.const 1)))
    (func $scanner (param $count i32) (param i32) (call $scan (i64.const 0) (i64.extend_i32_u (local.get $count))))
    ;; Only the first forks.
    (func $nested (param i32) (param $index i32)
        (if (i32.eqz (local.get $index)) (then
            (call $fork4 (i32.const 0) (i32.const 0) (i64.const 10000))
            (i64.store (i32.const 1024) (i64.add (i64.load (i32.const 1032)) (call $get (i64.const 0)))))))
    (func (export "canister_pre_upgrade") (call $scan (i64.const 0) (global.get $upgrade_leaves)))
    (func (export "canister_update upgrade_leaves") (global.set $upgrade_leaves (call $first)) (call $answer (i64.const 0)))
    (func (export "canister_update grow") (call $answer (call $grow (call $first))))
    (func (export "canister_update set") (call $set (call $first) (call $second)) (call $answer (i64.const 0)))
    (func (export "canister_update get") (call $answer (call $get (call $first))))
    (func (export "canister_update scan") (call $scan (i64.const 5) (call $first)) (call $answer (i64.const 0)))
    (func (export "canister_query look") (call $scan (i64.const 5) (call $first)) (call $answer (i64.const 0)))
    (func (export "canister_update size32") (call $answer (i64.extend_i32_u (call $size32))))
    (func (export "canister_update grow32") (call $answer (i64.extend_i32_s (call $grow32 (i32.wrap_i64 (call $first))))))
    (func (export "canister_update read32") (call $read32 (i32.const 0) (i32.const 0) (i32.const 0)) (call $answer (i64.const 0)))
    (func (export "canister_update write32") (call $write32 (i32.const 0) (i32.const 0) (i32.const 0)) (call $answer (i64.const 0)))
    ;; Writes 7 to address 8, forks, and adds what tasks found.
    (func (export "canister_update fork") (local $sum i64) (local $i i32)
        (memory.fill (i32.const 1024) (i32.const 0) (i32.const 32))
        (call $set (i64.const 8) (i64.const 7))
        (call $fork4 (i32.wrap_i64 (call $first)) (i32.wrap_i64 (call $second)) (i64.const 10000000))
        (loop $next
            (local.set $sum (i64.add (local.get $sum) (i64.load (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 8))))))
            (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4))))
        (call $set (i64.const 16) (local.get $sum))
        (call $answer (local.get $sum)))
    ;; The same on top of so many leaves of its own.
    (func (export "canister_update scan_and_fork")
        (call $scan (i64.const 0) (call $first))
        (call $fork4 (i32.const 2) (i32.wrap_i64 (call $second)) (i64.const 10000000))
        (call $answer (i64.const 0)))
"#;

fn canister(pages: u64) -> Canister {
    let mut canister = Canister::new(&module(STABLE));
    canister.limit = 1 << 40;
    assert_eq!(call(&mut canister, "grow", &[pages as i64]), Ok(0));
    canister
}

/// The answer of an update, or why there is none.
fn call(canister: &mut Canister, method: &str, arguments: &[i64]) -> Result<i64, (u16, String)> {
    let entry = EntryPoint::Update(method.into());
    let execution = canister.replicated(entry, &encode(arguments));
    match execution.result {
        Ok((Response::Reply(bytes), _)) => Ok(number(&bytes)),
        Ok((other, _)) => panic!("a reply, not {other:?}"),
        Err(error) => Err(failure(&error)),
    }
}

fn failure(error: &ExecutionError) -> (u16, String) {
    let reason = text(error).split("\nCanister Backtrace:").next();
    (error.code, reason.expect("the first part").to_owned())
}

fn encode(arguments: &[i64]) -> Vec<u8> {
    let words = arguments.iter().flat_map(|word| word.to_le_bytes());
    words.collect()
}

fn too_large() -> Result<i64, (u16, String)> {
    let text = "Canister trapped: 32 bit stable memory api used on a memory larger than 4GB";
    Err((502, text.into()))
}

fn too_much(suffix: &str) -> (u16, String) {
    let text = format!(
        "Canister exceeded memory access limits: Exceeded the limit for the number of accessed pages in the stable memory in a single message execution: limit 2097152 KB for regular messages and 1048576 KB for queries.{suffix}"
    );
    (524, text)
}

#[test]
fn it_may_have_500_gib() {
    let mut canister = canister(STABLE_PAGES_MAX);
    assert_eq!(STABLE_PAGES_MAX << 16, 500 << 30);
    assert_eq!(call(&mut canister, "grow", &[1]), Ok(-1));
    assert_eq!(call(&mut canister, "grow", &[-1]), Ok(-1));
    assert_eq!(call(&mut canister, "grow", &[0]), Ok(500 << 14));
    let old = canister.state.clone();
    let places = [0, 64 * GIB - 4, 500 * GIB - 8];
    let values = [1, 2 | 2 << 32, 3];
    for (place, value) in places.into_iter().zip(values) {
        assert_eq!(call(&mut canister, "set", &[place, value]), Ok(0));
    }
    for (place, value) in places.into_iter().zip(values) {
        assert_eq!(call(&mut canister, "get", &[place]), Ok(value));
        assert_eq!(call(&mut canister, "get", &[place ^ (1 << 20)]), Ok(0));
    }
    let last = (500 << 18) - 1;
    let changed = BTreeSet::from([0, (64 << 18) - 1, 64 << 18, last]);
    assert_eq!(canister.state.stable.changed(&old.stable), changed);
    let out = Err((502, "Canister trapped: stable memory out of bounds".into()));
    for place in [500 * GIB - 7, -8, -1, i64::MIN] {
        assert_eq!(call(&mut canister, "set", &[place, 1]), out);
        assert_eq!(call(&mut canister, "get", &[place]), out);
    }
    assert_ne!(canister.state.digest(), old.digest());
    for place in places {
        assert_eq!(call(&mut canister, "set", &[place, 0]), Ok(0));
    }
    assert_eq!(canister.state.stable, old.stable);
    assert_eq!(canister.state.stable.digest(), old.stable.digest());
}

#[test]
fn functions_of_32_bits_end_at_4_gib() {
    let mut canister = canister(65_535);
    assert_eq!(call(&mut canister, "grow32", &[2]), Ok(-1));
    assert_eq!(call(&mut canister, "grow32", &[-1]), Ok(-1));
    assert_eq!(call(&mut canister, "grow32", &[1]), Ok(65_535));
    assert_eq!(call(&mut canister, "grow32", &[0]), Ok(65_536));
    assert_eq!(call(&mut canister, "size32", &[]), Ok(65_536));
    assert_eq!(call(&mut canister, "read32", &[]), Ok(0));
    assert_eq!(call(&mut canister, "write32", &[]), Ok(0));
    assert_eq!(call(&mut canister, "grow", &[1]), Ok(65_536));
    for method in ["size32", "read32", "write32"] {
        assert_eq!(call(&mut canister, method, &[]), too_large());
    }
    assert_eq!(call(&mut canister, "grow32", &[0]), too_large());
}

#[test]
fn a_message_touches_so_much() {
    let mut canister = canister(STABLE_PAGES_MAX);
    let leaves = 2 * LEAVES_PER_GIB;
    assert_eq!(call(&mut canister, "scan", &[leaves]), Ok(0));
    assert_eq!(
        call(&mut canister, "scan", &[leaves + 1]),
        Err(too_much(""))
    );
    for entry in [
        EntryPoint::Query("look".into()),
        EntryPoint::ReplicatedQuery("look".into()),
    ] {
        let look = |leaves| canister.execute(entry.clone(), &encode(&[leaves])).result;
        assert!(look(LEAVES_PER_GIB).is_ok());
        let error = look(LEAVES_PER_GIB + 1).expect_err("it touches too much");
        assert_eq!(failure(&error), too_much(""));
    }
    for (leaves, fits) in [(8 * LEAVES_PER_GIB, true), (8 * LEAVES_PER_GIB + 1, false)] {
        assert_eq!(call(&mut canister, "upgrade_leaves", &[leaves]), Ok(0));
        let result = canister.execute(EntryPoint::PreUpgrade, b"").result;
        let error = result.err().map(|error| failure(&error));
        assert_eq!(error, (!fits).then(|| too_much("")));
    }
}

#[test]
fn the_first_write_to_a_leaf_costs_more() {
    let canister = canister(STABLE_PAGES_MAX);
    let cost = |arguments: &[i64]| {
        let execution = canister.execute(EntryPoint::Update("set".into()), &encode(arguments));
        assert!(execution.result.is_ok());
        execution.instructions
    };
    assert_eq!(cost(&[4092, 1]) - cost(&[4088, 1]), STABLE_LEAF_WRITTEN);
    assert_eq!(cost(&[4088, 0]), cost(&[400 * GIB, 1]));
}

/// Calls on engines of several thread counts, and requires one result.
fn everywhere(
    canister: &mut Canister,
    method: &str,
    arguments: &[i64],
) -> Result<i64, (u16, String)> {
    let mut results = [1, 2, 8].map(|threads| {
        let engine = ENGINE.on_threads(NonZeroUsize::new(threads).expect("not zero"));
        let entry = EntryPoint::Update(method.into());
        let execution = canister.execute_on(&engine, entry, &encode(arguments));
        let result = execution.result.map(|(_, effects)| effects.stable.digest());
        (result, execution.instructions, execution.time)
    });
    results.sort_by_key(|result| format!("{result:?}"));
    assert_eq!(results[0], results[2]);
    call(canister, method, arguments)
}

#[test]
fn tasks_read_what_was_written_before_the_fork() {
    let mut canister = canister(3);
    assert_eq!(call(&mut canister, "set", &[0, 100]), Ok(0));
    assert_eq!(call(&mut canister, "set", &[24, 10_000]), Ok(0));
    let found = 4 * 3_003_000 + 10_107;
    assert_eq!(everywhere(&mut canister, "fork", &[0, 0]), Ok(found));
    assert_eq!(call(&mut canister, "get", &[8]), Ok(7));
    assert_eq!(call(&mut canister, "get", &[16]), Ok(found));
    // Tasks of a task: what the second of them found, and what the task reads itself.
    assert_eq!(
        everywhere(&mut canister, "fork", &[3, 0]),
        Ok(3_003_007 + 100)
    );
}

#[test]
fn tasks_do_not_write() {
    let mut canister = canister(1);
    let text = "Canister violated contract: \"ic0_stable64_write\" cannot be executed in fork task mode (task 0 of a fork)";
    let refused = Err((504, text.into()));
    assert_eq!(everywhere(&mut canister, "fork", &[1, 0]), refused);
}

#[test]
fn what_tasks_read_counts() {
    let mut canister = canister(STABLE_PAGES_MAX);
    let all = 2 * LEAVES_PER_GIB;
    let fork =
        |canister: &mut Canister, own, each| everywhere(canister, "scan_and_fork", &[own, each]);
    assert_eq!(fork(&mut canister, all - 400, 100), Ok(0));
    // The fourth task reads what is left to every task, but not beside the others.
    let exceeded = |task: u32| Err(too_much(&format!(" (task {task} of a fork)")));
    assert_eq!(fork(&mut canister, all - 399, 100), exceeded(3));
    assert_eq!(fork(&mut canister, all - 99, 100), exceeded(0));
}
