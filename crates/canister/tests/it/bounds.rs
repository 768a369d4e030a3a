//! What a message may do: limits reached, and crossed by one, that no other test is about.
use crate::support::{Canister, ENGINE, caller, compile, module, number, refusal, text};
use lockstep_canister::engine::{Call, EntryPoint, Environment, Execution, Response};

const MIB: u32 = 1 << 20;

/// Runs a method of a module with this body that may use many instructions.
fn run(body: &str, entry: EntryPoint) -> Execution {
    let mut canister = Canister::new(&module(body));
    canister.limit = 20_000_000_000;
    canister.execute(entry, b"")
}

fn update(body: &str) -> Execution {
    let go = format!("{body}\n(func (export \"canister_update go\") (call $go))");
    run(&go, EntryPoint::Update("go".into()))
}

fn answer(execution: Execution) -> i64 {
    match execution.result.expect("completes").0 {
        Response::Reply(reply) => number(&reply),
        other => panic!("a reply, not {other:?}"),
    }
}

fn violation(execution: Execution) -> String {
    let error = execution.result.expect_err("too much");
    assert_eq!(error.code, 504);
    let text = text(&error).strip_prefix("Canister violated contract: ");
    text.expect("it says so").to_owned()
}

#[test]
fn memories_of_32_bits_begin_with_up_to_4_gib() {
    compile("(module (memory 65536))").expect("at the limit");
    assert_eq!(
        refusal("(module (memory 65537))"),
        "Wasm module has a memory of 65537 pages, more than 65536"
    );
}

#[test]
fn tables_have_up_to_a_million_elements() {
    compile("(module (table 999999 funcref) (table 1 funcref))").expect("at the limit");
    assert_eq!(
        refusal("(module (table 1000000 funcref) (table 1 funcref))"),
        "Wasm module has tables of 1000001 elements, more than 1000000"
    );
    let grown = |by: i32| {
        answer(update(&format!(
            "(table 10 funcref)
             (func $go (call $answer (i64.extend_i32_s (table.grow (ref.null func) (i32.const {by})))))"
        )))
    };
    assert_eq!(grown(999_990), 10);
    assert_eq!(grown(999_991), -1);
}

#[test]
fn answers_are_as_long_as_they_may_be() {
    let replies = |first: u32, second: u32| {
        format!(
            "(func $go (drop (memory.grow (i32.const 64)))
                (call $append (i32.const 0) (i32.const {first}))
                (call $append (i32.const 0) (i32.const {second})) (call $reply))
             (func (export \"canister_query ask\") (call $go))"
        )
    };
    let ask = |second: u32| {
        let entry = EntryPoint::Query("ask".into());
        run(&replies(MIB, second), entry)
    };
    let ask_replicated = |second: u32| {
        let entry = EntryPoint::ReplicatedQuery("ask".into());
        run(&replies(MIB, second), entry)
    };
    let bytes = |execution: Execution| match execution.result.expect("completes").0 {
        Response::Reply(reply) => reply.len() as u32,
        other => panic!("a reply, not {other:?}"),
    };
    let text = |bytes: u32, limit: u32| {
        format!(
            "ic0.msg_reply_data_append: application payload size ({bytes}) cannot be larger than {limit}."
        )
    };
    assert_eq!(bytes(update(&replies(MIB, MIB))), 2 * MIB);
    let longer = violation(update(&replies(MIB, MIB + 1)));
    assert_eq!(longer, text(2 * MIB + 1, 2 * MIB));
    assert_eq!(bytes(ask_replicated(MIB)), 2 * MIB);
    let longer = violation(ask_replicated(MIB + 1));
    assert_eq!(longer, text(2 * MIB + 1, 2 * MIB));
    assert_eq!(bytes(ask(2 * MIB)), 3 * MIB);
    let longer = violation(ask(2 * MIB + 1));
    assert_eq!(longer, text(3 * MIB + 1, 3 * MIB));
}

#[test]
fn rejections_are_as_long_as_they_may_be() {
    let reject = |bytes: u32| {
        update(&format!(
            "(import \"ic0\" \"msg_reject\" (func $reject (param i32 i32)))
             (func $go (drop (memory.grow (i32.const 64))) (call $reject (i32.const 0) (i32.const {bytes})))"
        ))
    };
    match reject(2 * MIB).result.expect("completes").0 {
        Response::Reject(text) => assert_eq!(text.len() as u32, 2 * MIB),
        other => panic!("a rejection, not {other:?}"),
    }
    assert_eq!(
        violation(reject(2 * MIB + 1)),
        "ic0.msg_reject: application payload size (2097153) cannot be larger than 2097152."
    );
}

#[test]
fn what_is_printed_beyond_32_kib_is_dropped() {
    // A line takes 16 bytes beside its text.
    let lines = |first: u32, second: u32| {
        let execution = update(&format!(
            "(import \"ic0\" \"debug_print\" (func $print (param i32 i32)))
             (func $go (call $print (i32.const 0) (i32.const {first}))
                (call $print (i32.const 0) (i32.const {second})) (call $reply))"
        ));
        assert!(execution.result.is_ok());
        execution.debug.len()
    };
    assert_eq!(lines(20_000, 32_768 - 20_032), 2);
    assert_eq!(lines(20_000, 32_768 - 20_031), 1);
    assert_eq!(lines(40_000, 0), 0);
}

#[test]
fn a_call_names_its_method_in_up_to_20000_bytes() {
    let named = |bytes: u32| {
        update(&format!(
            "(import \"ic0\" \"call_new\" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
             (func $go (call $new (i32.const 0) (i32.const 10) (i32.const 0) (i32.const {bytes})
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (call $answer (i64.const 1)))"
        ))
    };
    assert_eq!(answer(named(20_000)), 1);
    assert_eq!(
        violation(named(20_001)),
        "Size of method_name 20001 exceeds the allowed limit of 20000."
    );
}

#[test]
fn a_fork_has_up_to_65536_tasks() {
    let forked = |count: u32| {
        update(&format!(
            "(import \"lockstep\" \"fork\" (func $fork (param i32 i32 i32 i32 i64 i32)))
             (table 1 funcref) (elem (i32.const 0) $task)
             (func $task (param i32) (param $index i32)
                (i32.store8 (i32.add (i32.const 0x100000) (local.get $index)) (i32.const 1)))
             (func $go (local $index i32) (local $sum i64)
                (drop (memory.grow (i32.const 31)))
                (loop $next
                    (i32.store (i32.mul (local.get $index) (i32.const 8)) (i32.add (i32.const 0x100000) (local.get $index)))
                    (i32.store offset=4 (i32.mul (local.get $index) (i32.const 8)) (i32.const 1))
                    (br_if $next (i32.lt_u (local.tee $index (i32.add (local.get $index) (i32.const 1))) (i32.const {count}))))
                (call $fork (i32.const 0) (i32.const 0) (i32.const {count}) (i32.const 0) (i64.const 100) (i32.const 1))
                (local.set $index (i32.const 0))
                (loop $next
                    (local.set $sum (i64.add (local.get $sum) (i64.load8_u (i32.add (i32.const 0x100000) (local.get $index)))))
                    (br_if $next (i32.lt_u (local.tee $index (i32.add (local.get $index) (i32.const 1))) (i32.const {count}))))
                (call $answer (local.get $sum)))"
        ))
    };
    assert_eq!(answer(forked(65_536)), 65_536);
    let error = forked(65_537).result.expect_err("too many");
    let reason = "Canister trapped: lockstep.fork: 65537 tasks, more than 65536";
    assert!(text(&error).starts_with(reason), "{error}");
}

#[test]
fn the_calls_of_a_message_have_so_many_bytes_together() {
    let canister = Canister::new(&module(
        r#"(import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
(import "ic0" "call_data_append" (func $data (param i32 i32)))
(import "ic0" "call_perform" (func $perform (result i32)))
           (func $call (param $bytes i32) (result i64)
            (call $new (i32.const 0) (i32.const 10) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
            (call $data (i32.const 0) (local.get $bytes))
            (i64.extend_i32_u (call $perform)))
           (func (export "canister_update go")
            (call $answer (i64.add (i64.mul (call $call (i32.const 996)) (i64.const 100))
                (i64.add (i64.mul (call $call (i32.const 496)) (i64.const 10)) (call $call (i32.const 0))))))"#,
    ));
    let made = |bytes: u64| {
        let environment = Environment {
            message_bytes: bytes,
            ..canister.environment()
        };
        let mut state = canister.state.clone();
        state.cycles = 1 << 60;
        let call = Call::new(EntryPoint::Update("go".into()), caller(), Vec::new());
        let execution = ENGINE.execute(&state, &call, &environment);
        let (response, effects) = execution.result.expect("completes");
        let Response::Reply(reply) = response else {
            panic!("it replies")
        };
        (number(&reply), effects.calls.len())
    };
    // 2 where a call is not made. The names of methods count.
    assert_eq!(made(1_504), (0, 3));
    assert_eq!(made(1_503), (2, 2));
    assert_eq!(made(1_499), (20, 2));
    assert_eq!(made(999), (200, 2));
    assert_eq!(made(3), (222, 0));
}
