//! Every code a message can end with, with its text.
use crate::support::{CANISTER, Canister, LIMIT, compile, module, text};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{EntryPoint, Response},
    state::CanisterState,
};
use std::collections::BTreeSet;

/// Runs `body` as an update; its code and text.
fn failure(body: &str) -> (u16, String) {
    failure_within(LIMIT, body)
}

fn failure_within(limit: u64, body: &str) -> (u16, String) {
    let mut canister = Canister::new(&module(&format!(
        r#"(import "ic0" "trap" (func $trap (param i32 i32)))
           (import "ic0" "msg_reject" (func $reject (param i32 i32)))
           (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
           (import "ic0" "stable64_read" (func $stable_read (param i64 i64 i64)))
           (import "ic0" "certified_data_set" (func $certify (param i32 i32)))
           (type $none (func)) (type $other (func (param i32)))
           (table 2 funcref) (elem (i32.const 0) $deep)
           (global $zero (mut i32) (i32.const 0))
           (data (i32.const 0) "no \ff luck")
           (func $deep (param i32) (call $deep (local.get 0)))
           (func (export "canister_update go") {body})"#
    )));
    canister.limit = limit;
    let error = canister.failure("go");
    (error.code, text(&error).to_owned())
}

#[test]
fn traps_of_the_code() {
    let trapped = |reason: &str| (502, format!("Canister trapped: {reason}"));
    assert_eq!(failure("unreachable"), trapped("unreachable"));
    assert_eq!(
        failure("(drop (i32.load (i32.const 65536)))"),
        trapped("heap out of bounds")
    );
    assert_eq!(
        failure("(drop (i32.div_s (i32.const 1) (global.get $zero)))"),
        trapped("integer division by 0")
    );
    assert_eq!(
        failure(
            "(drop (i32.div_s (i32.const 0x80000000) (i32.sub (global.get $zero) (i32.const 1))))"
        ),
        trapped("integer overflow")
    );
    assert_eq!(
        failure("(drop (i32.trunc_f32_s (f32.const nan)))"),
        trapped("failed to convert float to integer")
    );
    assert_eq!(
        failure("(call_indirect (type $none) (i32.const 0))"),
        trapped("indirect call signature mismatch")
    );
    assert_eq!(
        failure("(call_indirect (type $none) (i32.const 1))"),
        trapped("indirect call to null")
    );
    assert_eq!(
        failure("(call_indirect (type $none) (i32.const 2))"),
        trapped("table out of bounds")
    );
    assert_eq!(
        failure("(call $deep (i32.const 0))"),
        trapped(&format!(
            "stack overflow\nCanister Backtrace:{}",
            "\ndeep".repeat(20)
        ))
    );
    assert_eq!(
        failure("(call $stable_read (i64.const 0) (i64.const 0) (i64.const 1))"),
        trapped("stable memory out of bounds")
    );
}

#[test]
fn trap_call_carries_its_text() {
    let error = failure("(call $trap (i32.const 0) (i32.const 9))");
    assert_eq!(
        error,
        (
            503,
            "Canister called `ic0.trap` with message: 'no \u{fffd} luck'".into()
        )
    );
}

#[test]
fn contract_violations() {
    let violated = |reason: &str| (504, format!("Canister violated contract: {reason}"));
    assert_eq!(
        failure("(call $reply) (call $reply)"),
        violated("ic0.msg_reply: the call is already replied")
    );
    assert_eq!(
        failure("(call $reject (i32.const 0) (i32.const 9))"),
        violated("ic0.msg_reject: invalid UTF-8 string provided")
    );
    assert_eq!(
        failure("(call $copy (i32.const 0) (i32.const 0) (i32.const 1))"),
        violated("ic0.msg_arg_data_copy payload: src=0 + length=1 exceeds the slice size=0")
    );
    assert_eq!(
        failure("(call $append (i32.const 65530) (i32.const 7))"),
        violated("msg.reply: src=65530 + length=7 exceeds the slice size=65536")
    );
    assert_eq!(
        failure("(call $certify (i32.const 0) (i32.const 33))"),
        violated(
            "ic0_certified_data_set failed because the passed data must be no larger than 32 bytes. Found 33 bytes."
        )
    );
    assert_eq!(
        failure_within(
            200_000_000,
            "(drop (memory.grow (i32.const 64))) (call $append (i32.const 0) (i32.const 2097153))"
        ),
        violated(
            "ic0.msg_reply_data_append: application payload size (2097153) cannot be larger than 2097152."
        )
    );
}

#[test]
fn queries_answer_and_updates_may_do_so_later() {
    let mut canister = Canister::new(
        r#"(module (func (export "canister_query q")) (func (export "canister_composite_query c")) (func (export "canister_update u")))"#,
    );
    for entry in [
        EntryPoint::Query("q".into()),
        EntryPoint::ReplicatedQuery("q".into()),
        EntryPoint::Query("c".into()),
    ] {
        let error = canister.execute(entry, b"").result.expect_err("no answer");
        assert_eq!(
            (error.code, text(&error)),
            (506, "Canister did not produce a response")
        );
    }
    let update = canister.replicated(EntryPoint::Update("u".into()), b"");
    assert_eq!(update.result.expect("completes").0, Response::None);
}

#[test]
fn out_of_instructions() {
    let expected = (
        522,
        format!(
            "Canister exceeded the limit of {LIMIT} instructions for single message execution."
        ),
    );
    assert_eq!(failure("(loop (br 0))"), expected);
    assert_eq!(
        failure(
            "(drop (memory.grow (i32.const 160))) (memory.fill (i32.const 0) (i32.const 1) (i32.const 10000000))"
        ),
        expected
    );
    assert_eq!(
        failure(
            "(drop (memory.grow (i32.const 160))) (call $trap (i32.const 0) (i32.const 10000000))"
        ),
        expected
    );
}

#[test]
fn missing_method_and_missing_code() {
    let mut canister = Canister::new(&module(
        r#"(func (export "canister_query q") (call $reply))"#,
    ));
    let error = canister.failure("q");
    assert_eq!(
        (error.code, text(&error)),
        (536, "Canister has no update method 'q'.")
    );
    let error = canister
        .execute(EntryPoint::Query("p".into()), b"")
        .result
        .expect_err("no such method");
    assert_eq!(
        (error.code, text(&error)),
        (536, "Canister has no query method 'p'.")
    );
    canister.state = CanisterState::new(Principal::from_slice(&CANISTER), BTreeSet::new(), 0);
    let error = canister.failure("q");
    assert_eq!(
        (error.code, text(&error)),
        (
            537,
            "Attempted to execute a message, but the canister contains no Wasm module"
        )
    );
    assert_eq!(error.to_string(), format!("IC0537: {}", error.message));
}

#[test]
fn reject_is_an_answer_and_keeps_changes() {
    let mut canister = Canister::new(
        r#"(module (import "ic0" "msg_reject" (func $reject (param i32 i32))) (memory 1) (data (i32.const 0) "sorry")
            (func (export "canister_update go") (i32.store8 (i32.const 0) (i32.const 0x77)) (call $reject (i32.const 0) (i32.const 5))))"#,
    );
    let first = canister
        .replicated(EntryPoint::Update("go".into()), b"")
        .result
        .expect("completes");
    assert_eq!(first.0, Response::Reject("worry".into()));
    assert_eq!(first.1.heap.page(0)[..5], *b"worry");
}

#[test]
fn a_module_that_compiles_keeps_its_own_names() {
    let module = compile(&module(
        r#"(func (export "canister_update u")) (func (export "canister_query q"))"#,
    ))
    .expect("valid");
    assert!(module.has_update("u") && !module.has_update("q"));
    assert!(module.has_query("q") && !module.has_query("u"));
}

#[test]
fn traps_tell_which_functions_ran() {
    let mut canister = Canister::new(
        r#"(module
        (import "ic0" "trap" (func $ic0_trap (param i32 i32)))
        (import "ic0" "msg_reply" (func $reply))
        (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
        (memory 1) (data (i32.const 0) "oops")
        (func $_ZN3app6helper17h0123456789abcdefE (drop (i32.load (i32.const 65536))))
        (func (call $_ZN3app6helper17h0123456789abcdefE))
        (func $outer (call 4))
        (func $deep (param i32)
            (if (i32.eqz (local.get 0)) (then unreachable))
            (call $deep (i32.sub (local.get 0) (i32.const 1))) (drop (i32.load (i32.const 0))))
        (func $tail (return_call $outer))
        (func (export "canister_update load") (call $outer))
        (func $method (export "canister_update trap") (call $ic0_trap (i32.const 0) (i32.const 4)))
        (func $stable (export "canister_update stable") (call $read (i64.const 0) (i64.const 0) (i64.const 1)))
        (func $broken (export "canister_update contract") (call $reply) (call $reply))
        (func $looped (export "canister_update loop") (loop $next (br $next)))
        (func (export "canister_update deep") (call $deep (i32.const 100)))
        (func (export "canister_update tail") (call $tail)))"#,
    );
    let mut told = |method: &str| text(&canister.failure(method)).to_owned();
    // Some functions have no name.
    assert_eq!(
        told("load"),
        "Canister trapped: heap out of bounds\nCanister Backtrace:\napp::helper\n\
         unknown function at index 4\nouter\nunknown function at index 8"
    );
    assert_eq!(
        told("trap"),
        "Canister called `ic0.trap` with message: 'oops'\nCanister Backtrace:\nmethod"
    );
    assert_eq!(
        told("stable"),
        "Canister trapped: stable memory out of bounds\nCanister Backtrace:\nstable"
    );
    // The innermost frames only, and those that tail calls have left.
    assert_eq!(
        told("deep"),
        format!(
            "Canister trapped: unreachable\nCanister Backtrace:{}",
            "\ndeep".repeat(20)
        )
    );
    assert_eq!(
        told("tail"),
        "Canister trapped: heap out of bounds\nCanister Backtrace:\napp::helper\n\
         unknown function at index 4\nouter\nunknown function at index 14"
    );
    assert!(!told("contract").contains("Backtrace"));
    assert!(!told("loop").contains("Backtrace"));
}

#[test]
fn names_that_cannot_be_read_are_left_out() {
    let module = |names: &str| {
        format!(
            r#"(module (func $inner unreachable) (func (export "canister_update go") (call $inner))
            (@custom "name" (after last) "{names}"))"#
        )
    };
    // Subsection 1, functions: one entry. Then one for a function that is not there, one that is too long,
    // and no subsection at all.
    for (names, expected) in [
        (
            r"\01\05\01\00\02hi",
            "\nCanister Backtrace:\nhi\nunknown function at index 1",
        ),
        (r"\01\05\01\07\02hi", ""),
        (
            r"\01\05\02\00\02hi",
            "\nCanister Backtrace:\nhi\nunknown function at index 1",
        ),
        (r"\01\7f\01\00\02hi", ""),
        (r"\ff\ff\ff\ff\ff", ""),
        ("", ""),
    ] {
        let text_without_names = module(names).replace("$inner", "0");
        let text_without_names = text_without_names.replacen("(func 0 ", "(func ", 1);
        let mut canister = Canister::new(&text_without_names);
        let told = text(&canister.failure("go")).to_owned();
        assert_eq!(
            told,
            format!("Canister trapped: unreachable{expected}"),
            "{names}"
        );
    }
}
