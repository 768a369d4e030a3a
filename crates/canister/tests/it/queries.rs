//! Composite queries: what they call, what their callbacks find, and where they end.
use crate::support::{CANISTER, Canister, ENGINE, caller, module};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{EntryPoint, ExecutionError},
    query::{CALL, DEPTH_MAX, Evaluation, Query, evaluate},
    state::CanisterState,
};
use std::collections::BTreeMap;

const LIMIT: u64 = 5_000_000_000;

/// `$ask (i32 byte) (i32 env)` calls the method named by the byte at the address given, of the canister
/// whose id's eighth byte is the first number. Callbacks: 1 replies with the count, the argument of the
/// reply callback and its environment; 2 replies with the reject code and message; 3 traps; 4 cleans up.
fn asking(body: &str) -> String {
    module(&format!(
        r#"(import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
(import "ic0" "call_on_cleanup" (func $on_cleanup (param i32 i32)))
(import "ic0" "call_data_append" (func $data (param i32 i32)))
(import "ic0" "call_perform" (func $perform (result i32)))
(import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
(import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
(import "ic0" "msg_reject_code" (func $reject_code (result i32)))
(import "ic0" "msg_reject_msg_size" (func $reject_size (result i32)))
(import "ic0" "msg_reject_msg_copy" (func $reject_copy (param i32 i32 i32)))
(import "ic0" "msg_reject" (func $reject (param i32 i32)))
(import "ic0" "data_certificate_present" (func $certified (result i32)))
(import "ic0" "msg_caller_copy" (func $caller (param i32 i32 i32)))
(import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
(import "ic0" "stable64_size" (func $stable_size (result i64)))
(import "ic0" "debug_print" (func $print (param i32 i32)))
        (data (i32.const 0) "\00\00\00\00\00\00\00\08\01\01")
        (data (i32.const 32) "abcdefghijklmnopqrstuvwxyz")
        (table 6 funcref)
        (elem (i32.const 1) $on_reply $on_reject $on_trap $on_clean $on_silent)
        (global $count (mut i32) (i32.const 0))
        (func $bump
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.store8 (i32.const 300) (i32.add (i32.load8_u (i32.const 300)) (i32.const 1)))
            (drop (call $stable_grow (i64.const 1))))
        (func $begin (param $canister i32) (param $letter i32) (param $callback i32) (param $env i32)
            (i32.store8 (i32.const 7) (local.get $canister))
            (call $new (i32.const 0) (i32.const 10) (i32.add (i32.const 32) (local.get $letter)) (i32.const 1)
                (local.get $callback) (local.get $env) (i32.const 2) (local.get $env)))
        (func $ask (param i32 i32 i32 i32)
            (call $begin (local.get 0) (local.get 1) (local.get 2) (local.get 3))
            (drop (call $perform)))
        (func $byte (param i32) (i32.store8 (i32.const 200) (local.get 0)) (call $append (i32.const 200) (i32.const 1)))
        (func $counts
            (call $byte (global.get $count)) (call $byte (i32.load8_u (i32.const 300)))
            (call $byte (i32.wrap_i64 (call $stable_size))))
        (func $on_reply (param i32)
            (call $bump) (call $counts)
            (call $byte (local.get 0)) (call $byte (call $certified))
            (call $arg_copy (i32.const 400) (i32.const 0) (call $arg_size))
            (call $append (i32.const 400) (call $arg_size)) (call $reply))
        (func $on_reject (param i32)
            (call $byte (call $reject_code))
            (call $reject_copy (i32.const 400) (i32.const 0) (call $reject_size))
            (call $append (i32.const 400) (call $reject_size)) (call $reply))
        (func $on_trap (param i32) (call $bump) unreachable)
        (func $on_clean (param i32) (call $bump) (if (local.get 0) (then unreachable)))
        (func $on_silent (param i32) (call $bump) (call $print (i32.add (i32.const 32) (local.get 0)) (i32.const 1)))
        {body}"#
    ))
}

/// A canister whose id's eighth byte is `id`.
fn canister(id: u8, body: &str) -> CanisterState {
    let mut canister = Canister::new(&asking(body)).state;
    let mut bytes = CANISTER;
    bytes[7] = id;
    canister.id = Principal::from_slice(&bytes);
    canister
}

struct Subnet(BTreeMap<Principal, CanisterState>);

impl Subnet {
    fn new(canisters: impl IntoIterator<Item = CanisterState>) -> Self {
        Self(
            canisters
                .into_iter()
                .map(|canister| (canister.id, canister))
                .collect(),
        )
    }

    fn evaluate(&self, method: &str, limit: u64) -> Evaluation {
        let first = Canister::new("(module)");
        let mut environment = first.environment();
        environment.instruction_limit = limit;
        let lookup = |id: &Principal| {
            self.0.get(id).ok_or_else(|| ExecutionError {
                code: 301,
                message: format!("Canister {id} not found"),
            })
        };
        let query = Query {
            canister: Principal::from_slice(&CANISTER),
            method: method.into(),
            argument: b"argument".to_vec(),
            caller: caller(),
            caller_info: None,
        };
        let before: Vec<_> = self.0.values().map(CanisterState::digest).collect();
        let evaluation = evaluate(&ENGINE, &lookup, query, &environment);
        let after: Vec<_> = self.0.values().map(CanisterState::digest).collect();
        assert_eq!(before, after, "queries change nothing");
        evaluation
    }

    fn reply(&self, method: &str) -> Vec<u8> {
        self.evaluate(method, LIMIT).result.expect("it replies")
    }

    fn error(&self, method: &str) -> (u16, String) {
        let error = self.evaluate(method, LIMIT).result.expect_err("an error");
        (error.code, error.message)
    }
}

/// Canister 8: `a` echoes its argument and caller, `b` rejects, `c` traps, `d` says whether it is certified.
fn callee() -> CanisterState {
    canister(
        8,
        r#"(func (export "canister_query a")
                (call $arg_copy (i32.const 400) (i32.const 0) (call $arg_size))
                (call $append (i32.const 400) (call $arg_size))
                (call $caller (i32.const 400) (i32.const 7) (i32.const 1)) (call $append (i32.const 400) (i32.const 1)) (call $reply))
            (func (export "canister_query b") (call $reject (i32.const 32) (i32.const 3)))
            (func (export "canister_query c") unreachable)
            (func (export "canister_query d") (call $byte (call $certified)) (call $reply))
            (func (export "canister_update u") (call $reply))"#,
    )
}

#[test]
fn a_plain_query_answers_at_once() {
    let subnet = Subnet::new([canister(
        7,
        r#"(func (export "canister_query q") (call $print (i32.const 32) (i32.const 2)) (call $byte (call $certified)) (call $reply))
           (func (export "canister_query r") (call $reject (i32.const 32) (i32.const 3)))"#,
    )]);
    let evaluation = subnet.evaluate("q", LIMIT);
    assert_eq!(evaluation.result, Ok(vec![1]));
    assert_eq!(evaluation.debug, ["ab"]);
    assert!(evaluation.instructions > 0);
    assert_eq!(subnet.error("r"), (406, "abc".into()));
    let id = Principal::from_slice(&CANISTER);
    assert_eq!(
        subnet.error("x"),
        (
            536,
            format!("Error from Canister {id}: Canister has no query method 'x'.")
        )
    );
}

#[test]
fn callbacks_find_what_the_query_left() {
    let subnet = Subnet::new([
        callee(),
        canister(
            7,
            r#"(func (export "canister_composite_query q") (call $bump) (call $begin (i32.const 8) (i32.const 0) (i32.const 1) (i32.const 9))
                   (call $data (i32.const 32) (i32.const 4)) (drop (call $perform)))
               (func (export "canister_composite_query twice")
                   (call $ask (i32.const 8) (i32.const 0) (i32.const 5) (i32.const 1))
                   (call $ask (i32.const 8) (i32.const 1) (i32.const 1) (i32.const 1))
                   (call $ask (i32.const 8) (i32.const 3) (i32.const 1) (i32.const 2)))
               (func (export "canister_composite_query certified") (call $ask (i32.const 8) (i32.const 3) (i32.const 1) (i32.const 2)))
               (func (export "canister_composite_query silent") (call $ask (i32.const 8) (i32.const 0) (i32.const 5) (i32.const 0)))"#,
        ),
    ]);
    // Global, heap and stable memory counted in the query and in its callback; the environment; no
    // certificate; the argument and the calling canister.
    assert_eq!(subnet.reply("q"), *b"\x02\x02\x02\x09\x00abcd\x07");
    assert_eq!(
        subnet.reply("q"),
        *b"\x02\x02\x02\x09\x00abcd\x07",
        "nothing stays"
    );
    // The first callback is silent, the second answers, the third call is not made.
    let evaluation = subnet.evaluate("twice", LIMIT);
    assert_eq!(evaluation.result, Ok(b"\x04abc".to_vec()));
    assert_eq!(evaluation.debug, ["b"]);
    assert!((2 * CALL..3 * CALL).contains(&evaluation.instructions));
    // Certificates are for the first canister alone.
    assert_eq!(subnet.reply("certified"), *b"\x01\x01\x01\x02\x00\x00");
    let (code, message) = subnet.error("silent");
    assert_eq!(code, 506);
    assert!(
        message.ends_with("Canister did not produce a response"),
        "{message}"
    );
}

#[test]
fn errors_of_the_called_are_rejections() {
    let asks = |canister: u8, letter: usize| {
        format!(
            r#"(func (export "canister_composite_query {canister}{letter}") (call $ask (i32.const {canister}) (i32.const {letter}) (i32.const 1) (i32.const 0)))"#
        )
    };
    let body = [asks(8, 1), asks(8, 2), asks(8, 20), asks(9, 0)].concat();
    let subnet = Subnet::new([callee(), canister(7, &body)]);
    let id = callee().id;
    let rejected = |code: u8, text: String| [&[code][..], text.as_bytes()].concat();
    assert_eq!(subnet.reply("81"), rejected(4, "abc".into()));
    assert_eq!(
        subnet.reply("82"),
        rejected(
            5,
            format!("IC0502: Error from Canister {id}: Canister trapped: unreachable")
        )
    );
    assert_eq!(
        subnet.reply("820"),
        rejected(
            5,
            format!("IC0536: Error from Canister {id}: Canister has no query method 'u'.")
        )
    );
    let mut missing = CANISTER;
    missing[7] = 9;
    assert_eq!(
        subnet.reply("90"),
        rejected(
            3,
            format!(
                "IC0301: Canister {} not found",
                Principal::from_slice(&missing)
            )
        )
    );
}

#[test]
fn a_callback_that_traps_is_cleaned_up() {
    let asks = |name: &str, cleanup: &str, after: &str| {
        format!(
            r#"(func (export "canister_composite_query {name}")
                (call $begin (i32.const 8) (i32.const 0) (i32.const 3) (i32.const 0)) {cleanup} (drop (call $perform)) {after})"#
        )
    };
    let good = "(call $on_cleanup (i32.const 4) (i32.const 0))";
    let bad = "(call $on_cleanup (i32.const 4) (i32.const 1))";
    let then = "(call $ask (i32.const 8) (i32.const 0) (i32.const 1) (i32.const 5))";
    let body = [
        asks("none", "", ""),
        asks("good", good, ""),
        asks("bad", bad, ""),
        asks("then", "", then),
        asks("goodthen", good, then),
    ]
    .concat();
    let subnet = Subnet::new([callee(), canister(7, &body)]);
    let id = Principal::from_slice(&CANISTER);
    let trapped = format!(
        "Error from Canister {id}: Canister trapped: unreachable\nCanister Backtrace:\non_trap"
    );
    assert_eq!(subnet.error("none"), (502, trapped.clone()));
    assert_eq!(subnet.error("good"), (502, trapped.clone()));
    let (code, text) = subnet.error("bad");
    let both =
        format!("{trapped}\n\ncall_on_cleanup also failed:\n\nCanister trapped: unreachable\n");
    assert!(code == 502 && text.starts_with(&both), "{text}");
    // What the callback changed is gone, what its cleanup changed is not.
    assert_eq!(subnet.reply("then")[..4], *b"\x01\x01\x01\x05");
    assert_eq!(subnet.reply("goodthen")[..4], *b"\x02\x02\x02\x05");
}

/// A chain: canister `i` asks `i + 1`, the last one answers.
fn chain(length: u8) -> Subnet {
    Subnet::new((0..length).map(|index| {
        let id = 7 + index;
        if index + 1 == length {
            canister(id, r#"(func (export "canister_query a") (call $byte (i32.const 42)) (call $reply))"#)
        } else {
            canister(
                id,
                &format!(
                    r#"(func (export "canister_composite_query a") (call $ask (i32.const {}) (i32.const 0) (i32.const 1) (i32.const 0)))"#,
                    id + 1
                ),
            )
        }
    }))
}

#[test]
fn queries_wait_for_one_another_so_deep_and_no_deeper() {
    let reply = chain(DEPTH_MAX as u8 + 1).reply("a");
    assert_eq!(reply.len(), 5 * DEPTH_MAX + 1);
    assert_eq!(reply.last(), Some(&42));
    assert_eq!(
        chain(DEPTH_MAX as u8 + 2).error("a"),
        (
            525,
            "Composite query calls exceeded the maximum call depth.".into()
        )
    );
}

#[test]
fn a_loop_ends_by_its_depth() {
    let subnet = Subnet::new([canister(
        7,
        r#"(func (export "canister_composite_query a") (call $ask (i32.const 7) (i32.const 0) (i32.const 1) (i32.const 0)))
           (func (export "canister_composite_query once") (call $bump) (call $ask (i32.const 7) (i32.const 1) (i32.const 1) (i32.const 0)))
           (func (export "canister_query b") (call $counts) (call $reply))"#,
    )]);
    assert_eq!(subnet.error("a").0, 525);
    // A canister that asks itself is asked as it was.
    assert_eq!(subnet.reply("once"), *b"\x02\x02\x02\x00\x00\x00\x00\x00");
}

#[test]
fn all_calls_together_have_the_instructions_of_one_query() {
    let subnet = Subnet::new([
        callee(),
        canister(
            7,
            r#"(func (export "canister_composite_query q") (local $i i32)
                (loop $next
                    (call $ask (i32.const 8) (i32.const 0) (i32.const 5) (i32.const 0))
                    (local.set $i (i32.add (local.get $i) (i32.const 1)))
                    (br_if $next (i32.lt_u (local.get $i) (i32.const 4))))
                (call $ask (i32.const 8) (i32.const 0) (i32.const 1) (i32.const 0)))"#,
        ),
    ]);
    assert!(subnet.evaluate("q", 6 * CALL).result.is_ok());
    let evaluation = subnet.evaluate("q", 4 * CALL);
    let error = evaluation.result.expect_err("too few");
    assert_eq!(
        (error.code, error.message.as_str()),
        (526, "Composite query calls exceeded the instruction limit.")
    );
    assert_eq!(evaluation.instructions, 4 * CALL);
}

#[test]
fn composite_queries_are_not_replicated() {
    let canister = Canister::new(r#"(module (func (export "canister_composite_query c")))"#);
    for entry in [
        EntryPoint::ReplicatedQuery("c".into()),
        EntryPoint::Update("c".into()),
    ] {
        let error = canister.execute(entry, b"").result.expect_err("refused");
        assert_eq!(
            (error.code, error.message.as_str()),
            (527, "Composite query cannot be called in replicated mode")
        );
    }
}

#[test]
fn the_same_query_gives_the_same_bits() {
    let run = || {
        let evaluation = chain(4).evaluate("a", LIMIT);
        (evaluation.result, evaluation.instructions, evaluation.debug)
    };
    assert_eq!(run(), run());
}
