//! Instances are kept from message to message, and no message can tell.
use crate::support::{Canister, ENGINE, number};
use lockstep_canister::engine::{Engine, EntryPoint, Execution, Response};
use proptest::prelude::*;
use std::{sync::Arc, thread};

/// Methods take two u32 at address 0.
const MODULE: &str = r#"(module
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "debug_print" (func $print (param i32 i32)))
    (import "ic0" "trap" (func $trap (param i32 i32)))
    (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
    (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
    (memory 2 40)
    (data (i32.const 512) "some data") (data $passive "passive")
    (table 4 funcref) (elem (i32.const 0) $task $task_that_traps)
    (global $a (mut i32) (i32.const 1)) (global $b (mut i64) (i64.const 2))
    (global $c (mut f32) (f32.const 3)) (global $d (mut f64) (f64.const 4))
    (global $e (mut v128) (v128.const i64x2 5 6)) (global $fixed i32 (i32.const 7))
    (func $x (result i32) (i32.load (i32.const 0)))
    (func $y (result i32) (i32.load (i32.const 4)))
    (func $begin
        (call $argument (i32.const 0) (i32.const 0) (i32.const 8))
        (global.set $a (i32.add (global.get $a) (call $x)))
        (global.set $b (i64.add (global.get $b) (i64.extend_i32_u (call $y))))
        (global.set $c (f32.add (global.get $c) (f32.const 0.5)))
        (global.set $d (f64.mul (global.get $d) (f64.const 1.5)))
        (global.set $e (i32x4.add (global.get $e) (i32x4.splat (call $x)))))
    (func $end
        (i64.store (i32.const 16) (call $counter (i32.const 0)))
        (i64.store (i32.const 24) (i64.add (global.get $b) (i64.load (i32.const 512))))
        (i32.store (i32.const 32) (memory.size))
        (i32.store (i32.const 36) (i32.add (global.get $a) (global.get $fixed)))
        (call $append (i32.const 0) (i32.const 64)) (call $reply))
    (func $task (param i32 i32)
        (drop (memory.grow (i32.const 1)))
        (global.set $b (i64.const 99))
        (i32.store (i32.add (i32.const 65536) (i32.mul (local.get 1) (i32.const 4))) (i32.add (global.get $a) (i32.load (local.get 0)))))
    (func $task_that_traps (param i32 i32)
        (call $task (local.get 0) (local.get 1))
        (if (i32.eq (local.get 1) (call $y)) (then (call $recurse))))
    (func $recurse (local i64 i64) (call $recurse) (i64.store (i32.const 8) (i64.const 1)))
    (func $forks (param $task i32)
        (i32.store (i32.const 128) (i32.const 65536)) (i32.store (i32.const 132) (i32.const 4))
        (i32.store (i32.const 136) (i32.const 65540)) (i32.store (i32.const 140) (i32.const 4))
        (i32.store (i32.const 144) (i32.const 65544)) (i32.store (i32.const 148) (i32.const 4))
        (call $fork (local.get $task) (i32.const 256) (i32.const 3) (i32.const 128) (i64.const 3000000) (i32.const 30)))
    (func $write
        (i32.store (i32.add (i32.const 256) (i32.rem_u (i32.mul (call $x) (i32.const 4)) (i32.const 131000))) (call $y)))
    (func (export "canister_update write") (call $begin) (call $write) (call $end))
    (func (export "canister_query ask") (call $begin) (call $write) (drop (memory.grow (i32.const 1))) (call $end))
    (func (export "canister_update grow") (call $begin)
        (drop (memory.grow (i32.and (call $x) (i32.const 3))))
        (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (call $y)) (call $end))
    (func (export "canister_update passive") (call $begin)
        (memory.init $passive (i32.add (i32.const 1024) (call $x)) (i32.const 1) (i32.const 4)) (call $end))
    (func (export "canister_update print") (call $begin) (call $print (i32.const 0) (i32.const 8)) (call $end))
    (func (export "canister_update fork") (call $begin) (call $write) (call $forks (i32.const 0)) (call $write) (call $end))
    (func (export "canister_query fork_in_query") (call $begin) (call $write) (call $forks (i32.const 0)) (call $end))
    (func (export "canister_update fork_traps") (call $begin) (call $write) (call $forks (i32.const 1)) (call $end))
    (func (export "canister_update unreachable") (call $begin) (call $write) unreachable)
    (func (export "canister_update outside") (call $begin)
        (drop (memory.grow (i32.const 2))) (drop (i32.load (i32.mul (memory.size) (i32.const 65536)))) (call $end))
    (func (export "canister_update recurse") (call $begin) (call $recurse) (call $end))
    (func (export "canister_update endless") (call $begin) (loop $next (call $write) (br $next)))
    (func (export "canister_update called_trap") (call $begin) (call $trap (i32.const 512) (i32.const 9)))
    (func (export "canister_update silent") (call $begin)))"#;

const UPDATES: [&str; 13] = [
    "write",
    "write",
    "grow",
    "passive",
    "print",
    "fork",
    "fork_traps",
    "unreachable",
    "outside",
    "recurse",
    "endless",
    "called_trap",
    "silent",
];
const QUERIES: [&str; 2] = ["ask", "fork_in_query"];

/// What a message did, for comparison.
fn told(execution: &Execution) -> String {
    let result = match &execution.result {
        Ok((response, effects)) => {
            let digest = effects.heap.digest();
            format!("{response:?} {digest:?} {:?}", effects.globals)
        }
        Err(error) => error.to_string(),
    };
    format!(
        "{result} {} {} {:?}",
        execution.instructions, execution.time, execution.debug
    )
}

/// A step: which canister, whether a query, which method, its arguments.
type Step = (bool, bool, usize, u32, u32);

/// What every step does on an engine.
fn run(engine: &Engine, canisters: &mut [Canister; 2], steps: &[Step]) -> Vec<String> {
    let mut lines = Vec::new();
    for &(second, query, method, x, y) in steps {
        let canister = &mut canisters[usize::from(second)];
        let argument = [x.to_le_bytes(), y.to_le_bytes()].concat();
        let entry = if query {
            EntryPoint::Query(QUERIES[method % QUERIES.len()].into())
        } else {
            EntryPoint::Update(UPDATES[method % UPDATES.len()].into())
        };
        let execution = canister.execute_on(engine, entry, &argument);
        lines.push(told(&execution));
        if let (false, Ok((_, effects))) = (query, &execution.result) {
            canister.state.apply(effects);
            lines.push(hex::encode(canister.state.digest()));
        }
    }
    lines
}

/// Two canisters of one module, which take each other's instances.
fn canisters() -> [Canister; 2] {
    let first = Canister::new(MODULE);
    let mut second = Canister::new(MODULE);
    second.state.installed = first.state.installed.clone();
    let limit = 12_000_000;
    [first, second].map(|canister| Canister { limit, ..canister })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_kept_instance_is_as_a_new_one(
        steps in prop::collection::vec((any::<bool>(), prop::bool::weighted(0.3), any::<usize>(), 0..200_000_u32, 0..5_u32), 1..30),
    ) {
        let fresh = run(&ENGINE.without_kept_instances(), &mut canisters(), &steps);
        let kept = run(&ENGINE, &mut canisters(), &steps);
        prop_assert_eq!(fresh, kept);
    }
}

#[test]
fn instances_wander_between_canisters_and_threads() {
    let canisters = Arc::new(canisters());
    let ask = |second: bool, x: u32| {
        let argument = [x.to_le_bytes(), 3_u32.to_le_bytes()].concat();
        let canister = &canisters[usize::from(second)];
        let methods = QUERIES.map(|method| EntryPoint::Query(method.into()));
        methods.map(|entry| told(&canister.execute_on(&ENGINE, entry, &argument)))
    };
    let expected: Vec<_> = (0..4).map(|x| ask(x % 2 == 1, x)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..40 {
                    let x = round % 4;
                    assert_eq!(ask(x % 2 == 1, x), expected[x as usize]);
                }
            });
        }
    });
}

/// Instructions whose effect lives in the instance.
#[test]
fn changed_tables_and_dropped_segments_are_as_new_in_the_next_message() {
    let mut canister = Canister::new(&crate::support::module(
        r#"(table $t 2 funcref) (elem (i32.const 0) $one $one) (elem $passive func $two)
        (data $data "x")
        (type $number (func (result i64)))
        (func $one (result i64) (i64.const 1)) (func $two (result i64) (i64.const 2))
        (func (export "canister_update change")
            (memory.init $data (i32.const 0) (i32.const 0) (i32.const 1)) (data.drop $data)
            (table.init $passive (i32.const 1) (i32.const 0) (i32.const 1)) (elem.drop $passive)
            (call $answer (i64.add
                (call_indirect (type $number) (i32.const 1))
                (i64.extend_i32_s (table.grow (ref.null func) (i32.const 5))))))"#,
    ));
    for _ in 0..3 {
        assert_eq!(number(&canister.update("change", b"")), 4);
    }
}

#[test]
fn modules_and_engines_may_go_in_any_order() {
    let engine = Engine::new();
    let module = Arc::new(engine.compile(&wat::parse_str(MODULE).unwrap()).unwrap());
    let mut canister = Canister::new(MODULE);
    let installed = canister.state.installed.as_mut().unwrap();
    installed.module = Arc::clone(&module);
    let argument = [0; 8];
    let ask = |canister: &Canister, engine: &Engine| {
        let execution = canister.execute_on(engine, EntryPoint::Query("ask".into()), &argument);
        assert!(matches!(execution.result, Ok((Response::Reply(_), _))));
    };
    ask(&canister, &engine);
    ask(&canister, &engine);
    drop(engine);
    drop(canister);
    drop(module);
}

#[test]
fn a_message_without_instructions_finds_none_that_another_has_left() {
    let module = r#"(module (import "ic0" "msg_reply" (func $reply))
        (func (export "canister_update long") (local $turns i32)
            (loop (br_if 0 (i32.lt_u (local.tee $turns (i32.add (local.get $turns) (i32.const 1))) (i32.const 100000))))
            (call $reply))
        (func (export "canister_update divides") (drop (i32.div_u (i32.const 1) (i32.const 0)))))"#;
    let mut canister = Canister::new(module);
    canister.update("long", b"");
    canister.limit = 0;
    for method in ["divides", "long"] {
        let entry = || EntryPoint::Update(method.into());
        let kept = canister.execute(entry(), b"");
        let fresh = canister.execute_on(&ENGINE.without_kept_instances(), entry(), b"");
        for execution in [kept, fresh] {
            assert_eq!((execution.instructions, execution.time), (0, 0), "{method}");
            assert_eq!(execution.result.unwrap_err().code, 522, "{method}");
        }
    }
}
