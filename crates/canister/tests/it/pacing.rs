//! Messages that pause: the same results, and as many slices as what they use says.
use crate::support::{Canister, ENGINE};
use lockstep_canister::{
    engine::{EntryPoint, Execution, Response},
    pacer::{Pace, Pacer, Progress},
};
use proptest::prelude::*;
use std::{num::NonZeroU64, sync::LazyLock, thread};

/// Loops, calls, recursion, bulk operations, vectors, charging imports and forks, by the number in the argument.
const MODULE: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
    (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
    (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
    (import "ic0" "debug_print" (func $print (param i32 i32)))
    (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
    (memory 4 4)
    (global $sum (mut f64) (f64.const 1))
    (table 4 funcref) (elem (i32.const 0) $task $leaf)
    (func $leaf (param i32 i32)
        (i32.store offset=1024 (i32.and (local.get 0) (i32.const 0xfffc)) (local.get 1)))
    (func $recurse (param i32)
        (if (local.get 0) (then
            (call_indirect (param i32 i32) (local.get 0) (local.get 0) (i32.const 1))
            (call $recurse (i32.sub (local.get 0) (i32.const 1))))))
    ;; A task spins in proportion to its index, in vectors, and fills its window.
    (func $task (param $environment i32) (param $index i32) (local $i i32) (local $v v128)
        (local.set $i (i32.add (i32.const 1) (i32.mul (local.get $index) (local.get $environment))))
        (loop $next
            (local.set $v (f32x4.add (local.get $v) (f32x4.splat (f32.const 0.1))))
            (local.set $i (i32.sub (local.get $i) (i32.const 1)))
            (br_if $next (local.get $i)))
        (v128.store (i32.add (i32.const 131072) (i32.mul (local.get $index) (i32.const 16))) (local.get $v)))
    (func $work (param $n i32) (local $i i32)
        (i64.store (i32.const 65520) (call $counter (i32.const 0)))
        (loop $next
            (global.set $sum (f64.add (f64.mul (global.get $sum) (f64.const 1.25)) (f64.const 1)))
            (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 7))) (then
                (call $recurse (i32.and (local.get $i) (i32.const 15)))))
            (if (i32.eqz (i32.rem_u (local.get $i) (i32.const 31))) (then
                (memory.fill (i32.const 70000) (local.get $i) (i32.const 3000))
                (call $stable_write (i64.const 0) (i64.const 65536) (i64.const 5000))))
            (i32.store (i32.and (i32.mul (local.get $i) (i32.const 52)) (i32.const 0xfffc)) (local.get $i))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (local.get $n)))))
    (func $n (result i32) (call $argument (i32.const 16) (i32.const 0) (i32.const 4)) (i32.load (i32.const 16)))
    (func $answer
        (i64.store (i32.const 65512) (call $counter (i32.const 0)))
        (call $append (i32.const 65512) (i32.const 16)) (call $reply))
    (func (export "canister_init") (drop (call $stable_grow (i64.const 1))))
    (func (export "canister_update work") (call $work (call $n)) (call $answer))
    (func (export "canister_update trap") (local $i i32)
        (call $work (call $n))
        (loop $next
            (drop (i32.load (local.get $i)))
            (local.set $i (i32.add (local.get $i) (i32.const 4)))
            (br $next)))
    (func (export "canister_update unreachable") (call $work (call $n)) unreachable)
    (func (export "canister_update forever") (loop $next (br $next)))
    (func (export "canister_update fork") (local $i i32)
        (call $work (call $n))
        (loop $next
            (i32.store (i32.mul (local.get $i) (i32.const 8)) (i32.add (i32.const 131072) (i32.mul (local.get $i) (i32.const 16))))
            (i32.store offset=4 (i32.mul (local.get $i) (i32.const 8)) (i32.const 16))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 8))))
        (call $fork (i32.const 0) (call $n) (i32.const 8) (i32.const 0) (i64.const 1000000) (i32.const 100))
        (call $work (i32.const 40))
        (call $answer)))"#;

static CANISTER: LazyLock<Canister> = LazyLock::new(|| Canister::new(MODULE));

fn pacer(slice: u64) -> Pacer {
    Pacer::new(NonZeroU64::new(slice).expect("a slice has instructions"))
}

fn call(canister: &Canister, method: &str, n: u32, slice: Option<u64>) -> (Execution, u64) {
    let entry = EntryPoint::Update(method.into());
    let Some(slice) = slice else {
        return (canister.execute(entry, &n.to_le_bytes()), 1);
    };
    let pacer = pacer(slice);
    thread::scope(|scope| {
        let execute =
            || canister.execute_paced(&ENGINE, entry, &n.to_le_bytes(), Some(pacer.pace()));
        let thread = scope.spawn(execute);
        let mut slices = 1;
        while pacer.wait() == Progress::Paused {
            slices += 1;
            pacer.resume();
        }
        (thread.join().expect("no panic"), slices)
    })
}

fn assert_same(paced: &Execution, whole: &Execution) {
    assert_eq!(paced.instructions, whole.instructions);
    assert_eq!(paced.time, whole.time);
    assert_eq!(paced.debug, whole.debug);
    match (&paced.result, &whole.result) {
        (Ok((paced, effects)), Ok((whole, expected))) => {
            assert_eq!(paced, whole);
            assert_eq!(effects.heap.digest(), expected.heap.digest());
            assert_eq!(effects.globals, expected.globals);
            assert_eq!(effects.stable.digest(), expected.stable.digest());
        }
        (Err(paced), Err(whole)) => assert_eq!(paced, whole),
        (paced, whole) => panic!("paced {paced:?}, whole {whole:?}"),
    }
}

fn check(canister: &Canister, method: &str, n: u32, slice: u64) -> u64 {
    let (whole, _) = call(canister, method, n, None);
    let (paced, slices) = call(canister, method, n, Some(slice));
    assert_same(&paced, &whole);
    assert_eq!(
        slices,
        whole.time.div_ceil(slice).max(1),
        "{method} {n} {slice}: {}",
        whole.time
    );
    slices
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn pauses_change_nothing(
        method in prop::sample::select(vec!["work", "trap", "unreachable", "fork"]),
        n in 1_u32..1500,
        slice in prop_oneof![1_000_u64..10_000, 10_000_u64..200_000, Just(65_536_u64), 100_000_u64..3_000_000],
    ) {
        check(&CANISTER, method, n, slice);
    }

    #[test]
    fn limits_are_met_with_pauses(limit in 500_u64..400_000, slice in 1_000_u64..100_000) {
        let mut canister = Canister::new(MODULE);
        canister.limit = limit;
        let slices = check(&canister, "forever", 0, slice);
        prop_assert_eq!(slices, limit.div_ceil(slice));
        check(&canister, "work", 200, slice);
        check(&canister, "trap", 10, slice);
        check(&canister, "fork", 10, slice);
    }
}

#[test]
fn a_slice_ends_with_its_last_instruction() {
    let whole = call(&CANISTER, "work", 100, None).0;
    assert!(whole.result.is_ok());
    for slice in [whole.time, whole.time - 1, whole.time + 1, whole.time / 2] {
        check(&CANISTER, "work", 100, slice);
    }
}

#[test]
fn a_charge_may_take_many_slices() {
    // The makespan of the fork is charged at once, and so is its price.
    let slices = check(&CANISTER, "fork", 1000, 1_000);
    assert!(slices > 500);
}

#[test]
fn many_pause_at_a_time() {
    thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || check(&CANISTER, "fork", 100 + n, 20_000));
        }
    });
}

#[test]
fn an_execution_waits_until_it_is_resumed_or_cancelled() {
    let entry = || EntryPoint::Update("forever".into());
    for resumed in [0, 1, 100] {
        let pacer = pacer(10_000);
        let execution = thread::scope(|scope| {
            let thread =
                scope.spawn(|| CANISTER.execute_paced(&ENGINE, entry(), b"", Some(pacer.pace())));
            for _ in 0..resumed {
                assert_eq!(pacer.wait(), Progress::Paused);
                pacer.resume();
            }
            assert_eq!(pacer.wait(), Progress::Paused);
            pacer.cancel();
            assert_eq!(pacer.wait(), Progress::Ended);
            thread.join().expect("no panic")
        });
        let error = execution.result.expect_err("it does not end by itself");
        assert!(error.message.ends_with("Canister execution was cancelled."));
    }
}

#[test]
fn a_pacer_that_is_gone_lets_nobody_wait() {
    // Inside of code, inside of an import, and before anything ran.
    for (method, resumed) in [("forever", 3), ("fork", 2), ("work", 0)] {
        let pacer = pacer(50_000);
        let pace = pacer.pace().clone();
        let thread = thread::spawn(move || {
            let entry = EntryPoint::Update(method.into());
            CANISTER.execute_paced(&ENGINE, entry, &1000_u32.to_le_bytes(), Some(&pace))
        });
        for _ in 0..resumed {
            assert_eq!(pacer.wait(), Progress::Paused);
            pacer.resume();
        }
        drop(pacer);
        let execution = thread.join().expect("no panic");
        assert!(execution.result.is_err());
    }
}

#[test]
fn an_execution_that_runs_nothing_ends() {
    let pacer = pacer(1);
    let entry = EntryPoint::Update("none".into());
    let execution = CANISTER.execute_paced(&ENGINE, entry, b"", Some(pacer.pace()));
    assert!(execution.result.is_err());
    assert_eq!(pacer.wait(), Progress::Ended);
}

#[test]
fn what_takes_one_slice_does_not_ask_for_a_second() {
    let whole = call(&CANISTER, "work", 300, None).0;
    for (slice, fits) in [(whole.time, true), (whole.time - 1, false), (1_000, false)] {
        let pace = Pace::only_slice(NonZeroU64::new(slice).expect("some"));
        let entry = EntryPoint::Update("work".into());
        let execution = CANISTER.execute_paced(&ENGINE, entry, &300_u32.to_le_bytes(), Some(&pace));
        assert_eq!(pace.is_refused(), !fits, "{slice}");
        if fits {
            assert_same(&execution, &whole);
        }
    }
}

#[test]
fn a_message_may_have_several_executions() {
    let whole = call(&CANISTER, "work", 300, None).0;
    // The second one begins in the middle of a slice, or at its start.
    for slice in [
        whole.time / 3,
        whole.time * 2 / 3,
        whole.time,
        whole.time * 2,
    ] {
        let pacer = pacer(slice);
        let slices = thread::scope(|scope| {
            scope.spawn(|| {
                let first = pacer.pace();
                let second = first.after(whole.time);
                let _ending = first.ending();
                for pace in [first, &second] {
                    let entry = EntryPoint::Update("work".into());
                    let argument = 300_u32.to_le_bytes();
                    let execution = CANISTER.execute_part(&ENGINE, entry, &argument, Some(pace));
                    assert_same(&execution, &whole);
                }
            });
            let mut slices = 1;
            while pacer.wait() == Progress::Paused {
                slices += 1;
                pacer.resume();
            }
            slices
        });
        assert_eq!(slices, (2 * whole.time).div_ceil(slice), "{slice}");
    }
}

#[test]
fn slices_may_be_granted_ahead() {
    let whole = call(&CANISTER, "work", 300, None).0;
    let pacer = pacer(10_000);
    for _ in 0..whole.time.div_ceil(10_000) - 1 {
        pacer.resume();
    }
    let entry = EntryPoint::Update("work".into());
    let paced = CANISTER.execute_paced(&ENGINE, entry, &300_u32.to_le_bytes(), Some(pacer.pace()));
    assert_eq!(pacer.wait(), Progress::Ended);
    assert_same(&paced, &whole);
}

#[test]
fn the_counter_counts_on_over_pauses() {
    let (paced, slices) = call(&CANISTER, "work", 500, Some(5_000));
    assert!(slices > 10);
    let counter = |execution: Execution| {
        let Ok((Response::Reply(reply), _)) = execution.result else {
            panic!("{:?}", execution.result)
        };
        u64::from_le_bytes(reply[..8].try_into().expect("eight bytes"))
    };
    let whole = call(&CANISTER, "work", 500, None).0;
    assert_eq!(counter(paced), counter(whole));
}
