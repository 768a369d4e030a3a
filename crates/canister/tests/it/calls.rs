//! Calls to other canisters, and what runs when they are answered.
use crate::charges::PERFORMANCE_COUNTER;
use crate::support::{CANISTER, Canister, ENGINE, caller, module, number, text};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{
        Call, CallerInfo, Closure, EntryPoint, Environment, Execution, OutgoingCall, Rejection,
        Response,
    },
    prices::Prices,
};
use std::collections::BTreeMap;

const CALLEE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 8, 1, 1];
const RICH: u128 = 1_000_000_000_000_000;

/// A module that can call: `$callee (i32)` begins a call to method `ping` of [`CALLEE`] with the callbacks
/// 1 and 2 and that environment; element 3 of the table is no function of the right type, 4 is null.
fn calling(body: &str) -> String {
    module(&format!(
        r#"(import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
(import "ic0" "call_on_cleanup" (func $on_cleanup (param i32 i32)))
(import "ic0" "call_data_append" (func $data (param i32 i32)))
(import "ic0" "call_with_best_effort_response" (func $timeout (param i32)))
(import "ic0" "call_cycles_add128" (func $add (param i64 i64)))
(import "ic0" "call_perform" (func $perform (result i32)))
(import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
(import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
(import "ic0" "msg_reject_code" (func $reject_code (result i32)))
(import "ic0" "msg_reject_msg_size" (func $reject_size (result i32)))
(import "ic0" "msg_reject_msg_copy" (func $reject_copy (param i32 i32 i32)))
(import "ic0" "msg_deadline" (func $deadline (result i64)))
(import "ic0" "msg_cycles_refunded" (func $refunded (result i64)))
(import "ic0" "canister_cycle_balance" (func $balance (result i64)))
        (data (i32.const 0) "\00\00\00\00\00\00\00\08\01\01ping argument")
        (type $callback (func (param i32)))
        (table 5 funcref)
        (elem (i32.const 1) $on_reply $on_reject $init)
        (global $state (mut i64) (i64.const 0))
        (func $init)
        (func $callee (param $environment i32)
            (call $new (i32.const 0) (i32.const 10) (i32.const 10) (i32.const 4)
                (i32.const 1) (local.get $environment) (i32.const 2) (i32.const 9)))
        (func $on_reply (param $environment i32)
            (global.set $state (i64.extend_i32_u (local.get $environment)))
            (call $arg_copy (i32.const 100) (i32.const 0) (call $arg_size))
            (call $append (i32.const 100) (call $arg_size))
            (call $reply))
        (func $on_reject (param $environment i32)
            (i64.store (i32.const 100) (i64.extend_i32_u (call $reject_code)))
            (call $reject_copy (i32.const 108) (i32.const 0) (call $reject_size))
            (call $append (i32.const 100) (i32.add (i32.const 8) (call $reject_size)))
            (call $reply))
        {body}"#
    ))
}

fn rich(body: &str) -> Canister {
    let mut canister = Canister::new(&calling(body));
    canister.state.cycles = RICH;
    canister
}

fn update<'a>(canister: &'a Canister, change: impl FnOnce(&mut Environment<'a>)) -> Execution {
    let mut environment = canister.environment();
    change(&mut environment);
    let call = Call::new(EntryPoint::Update("go".into()), caller(), Vec::new());
    ENGINE.execute(&canister.state, &call, &environment)
}

fn execute(canister: &Canister, call: &Call) -> Execution {
    ENGINE.execute(&canister.state, call, &canister.environment())
}

fn callee() -> Principal {
    Principal::from_slice(&CALLEE)
}

#[test]
fn a_call_is_an_effect() {
    let canister = rich(
        r#"(func (export "canister_update go")
            (call $callee (i32.const 77))
            (call $data (i32.const 15) (i32.const 3)) (call $data (i32.const 18) (i32.const 5))
            (call $on_cleanup (i32.const 3) (i32.const 4))
            (call $timeout (i32.const 1000))
            (call $add (i64.const 0) (i64.const 1000))
            (call $answer (i64.extend_i32_u (call $perform))))"#,
    );
    let (response, effects) = update(&canister, |_| ()).result.expect("completes");
    assert_eq!(response, Response::Reply(vec![0; 8]));
    let prepaid = Prices::new(13).response_prepayment(false);
    assert_eq!(
        effects.calls,
        [OutgoingCall {
            callee: callee(),
            method: "ping".into(),
            argument: b"argument".to_vec(),
            cycles: 1000,
            timeout_seconds: Some(300),
            on_reply: Closure {
                function: 1,
                environment: 77
            },
            on_reject: Closure {
                function: 2,
                environment: 9
            },
            on_cleanup: Some(Closure {
                function: 3,
                environment: 4
            }),
            prepaid,
        }]
    );
    // 260,000 and 1,000 a byte: four of the name, eight of the argument.
    assert_eq!(effects.cycles_spent, 1000 + 272_000 + prepaid);
    assert_eq!(effects.cycles_accepted, 0);
}

#[test]
fn calls_leave_in_order_and_an_unfinished_one_is_dropped() {
    let canister = rich(
        r#"(func (export "canister_update go")
            (call $callee (i32.const 1)) (drop (call $perform))
            (call $callee (i32.const 2)) (call $add (i64.const 0) (i64.const 5))
            (call $callee (i32.const 3)) (drop (call $perform))
            (call $callee (i32.const 4)) (call $add (i64.const 0) (i64.const 6)))"#,
    );
    let (response, effects) = update(&canister, |_| ()).result.expect("completes");
    assert_eq!(response, Response::None);
    let environments: Vec<_> = effects
        .calls
        .iter()
        .map(|call| (call.on_reply.environment, call.cycles))
        .collect();
    assert_eq!(environments, [(1, 0), (3, 0)]);
    let each = 264_000 + Prices::new(13).response_prepayment(false);
    assert_eq!(effects.cycles_spent, 2 * each);
}

#[test]
fn the_balance_shows_what_calls_hold_and_cost() {
    let canister = rich(
        r#"(func (export "canister_update go")
            (call $callee (i32.const 1))
            (call $add (i64.const 0) (i64.const 5))
            (i64.store (i32.const 200) (call $balance))
            (call $callee (i32.const 1))
            (i64.store (i32.const 208) (call $balance))
            (call $add (i64.const 0) (i64.const 7))
            (drop (call $perform))
            (i64.store (i32.const 216) (call $balance))
            (call $append (i32.const 200) (i32.const 24)) (call $reply))"#,
    );
    let reply = match update(&canister, |_| ()).result.expect("completes").0 {
        Response::Reply(reply) => reply,
        other => panic!("a reply, not {other:?}"),
    };
    let seen: Vec<u128> = reply
        .as_chunks()
        .0
        .iter()
        .map(|number| u128::from(u64::from_le_bytes(*number)))
        .collect();
    let cost = 264_000 + Prices::new(13).response_prepayment(false);
    assert_eq!(seen, [RICH - 5, RICH, RICH - 7 - cost]);
}

#[test]
fn a_call_that_cannot_be_paid_is_not_made() {
    let canister = rich(
        r#"(func (export "canister_update go")
            (call $callee (i32.const 1)) (call $add (i64.const 0) (i64.const 10))
            (i64.store (i32.const 200) (i64.extend_i32_u (call $perform)))
            (i64.store (i32.const 208) (call $balance))
            (call $append (i32.const 200) (i32.const 16)) (call $reply))"#,
    );
    let cost = 264_000 + Prices::new(13).response_prepayment(false) + 10;
    let with_frozen = |frozen_cycles| {
        let execution = update(&canister, |environment| {
            environment.frozen_cycles = frozen_cycles;
        });
        let (response, effects) = execution.result.expect("completes");
        let Response::Reply(reply) = response else {
            panic!("a reply, not {response:?}")
        };
        (number(&reply[..8]), number(&reply[8..]), effects)
    };
    let (code, balance, effects) = with_frozen(RICH - cost);
    assert_eq!((code, balance as u128), (0, RICH - cost));
    assert_eq!(effects.cycles_spent, cost);
    let (code, balance, effects) = with_frozen(RICH - cost + 1);
    assert_eq!((code, balance as u128), (2, RICH));
    assert_eq!((effects.cycles_spent, effects.calls.len()), (0, 0));
}

#[test]
fn at_most_500_calls_are_under_way_to_a_canister() {
    let canister = rich(
        r#"(func (export "canister_update go") (local $made i64)
            (loop $next
                (call $callee (i32.const 1))
                (if (i32.eqz (call $perform)) (then
                    (local.set $made (i64.add (local.get $made) (i64.const 1)))
                    (br $next))))
            (call $answer (local.get $made)))"#,
    );
    let made = |under_way: &BTreeMap<Principal, usize>| {
        let execution = update(&canister, |environment| {
            environment.calls_under_way = under_way;
        });
        match execution.result.expect("completes") {
            (Response::Reply(reply), effects) => {
                assert_eq!(number(&reply) as usize, effects.calls.len());
                effects.calls.len()
            }
            other => panic!("a reply, not {other:?}"),
        }
    };
    assert_eq!(made(&BTreeMap::new()), 500);
    assert_eq!(made(&BTreeMap::from([(callee(), 497)])), 3);
    assert_eq!(made(&BTreeMap::from([(callee(), 501)])), 0);
    assert_eq!(made(&BTreeMap::from([(caller(), 499)])), 500);
}

#[test]
fn misuse_is_a_contract_violation() {
    let failure = |body: &str| {
        let mut canister = rich(&format!(r#"(func (export "canister_update go") {body})"#));
        let error = canister.failure("go");
        assert_eq!(error.code, 504, "{error}");
        text(&error).to_owned()
    };
    let none = |name: &str| {
        format!("Canister violated contract: {name} called when no call is under construction.")
    };
    assert_eq!(failure("(drop (call $perform))"), none("ic0.call_perform"));
    assert_eq!(
        failure("(call $data (i32.const 0) (i32.const 0))"),
        none("ic0.call_data_append")
    );
    assert_eq!(
        failure("(call $on_cleanup (i32.const 0) (i32.const 0))"),
        none("ic0.call_on_cleanup")
    );
    assert_eq!(
        failure("(call $timeout (i32.const 0))"),
        none("ic0.call_with_best_effort_response")
    );
    assert_eq!(
        failure("(call $add (i64.const 0) (i64.const 0))"),
        none("ic0_call_cycles_add128")
    );
    assert_eq!(
        failure("(call $callee (i32.const 0)) (drop (call $perform)) (drop (call $perform))"),
        none("ic0.call_perform")
    );
    assert_eq!(
        failure(
            "(call $callee (i32.const 0)) (call $on_cleanup (i32.const 0) (i32.const 0)) (call $on_cleanup (i32.const 0) (i32.const 0))"
        ),
        "Canister violated contract: ic0.call_on_cleanup can be called at most once between `ic0.call_new` and `ic0.call_perform`"
    );
    assert_eq!(
        failure(
            "(call $callee (i32.const 0)) (call $timeout (i32.const 0)) (call $timeout (i32.const 1))"
        ),
        "Canister violated contract: ic0_call_with_best_effort_response failed because a timeout is already set."
    );
    assert_eq!(
        failure("(call $callee (i32.const 0)) (call $add (i64.const 1) (i64.const 0))"),
        format!(
            "Canister {} is out of cycles",
            Principal::from_slice(&CANISTER)
        )
    );
    let new = |callee: u32, name: u32| {
        failure(&format!(
            "(call $new (i32.const 0) (i32.const {callee}) (i32.const 0) (i32.const {name}) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"
        ))
    };
    assert_eq!(new(30, 0), "Canister provided invalid principal id");
    assert_eq!(
        new(0, 20_001),
        "Canister violated contract: Size of method_name 20001 exceeds the allowed limit of 20000."
    );
    assert_eq!(
        new(65_537, 0),
        "Canister violated contract: ic0.call_new callee_src: src=0 + length=65537 exceeds the slice size=65536"
    );
}

#[test]
fn an_argument_may_have_10_mib() {
    let outcome = |bytes: usize| {
        let mut canister = rich(&format!(
            r#"(func (export "canister_update go")
                (drop (memory.grow (i32.const 200)))
                (call $callee (i32.const 0)) (call $data (i32.const 0) (i32.const {bytes}))
                (call $answer (i64.extend_i32_u (call $perform))))"#
        ));
        canister.limit = 1_000_000_000;
        update(&canister, |_| ()).result
    };
    let most = 10 * 1024 * 1024 - 4;
    let (_, effects) = outcome(most).expect("completes");
    assert_eq!(effects.calls[0].argument.len(), most);
    let error = outcome(most + 1).expect_err("too long");
    assert_eq!(
        text(&error),
        format!(
            "Canister violated contract: Request to {}:ping has a payload size of 10485761, which exceeds the allowed limit of 10485760.",
            callee()
        )
    );
}

fn callback(entry: EntryPoint, argument: &[u8]) -> Call {
    Call::new(entry, caller(), argument.to_vec())
}

fn closure(function: u64) -> Closure {
    Closure {
        function,
        environment: 0xffff_ffff_0000_0007,
    }
}

#[test]
fn callbacks_run_with_their_environment_and_keep_what_they_change() {
    let mut canister =
        rich(r#"(func (export "canister_query state") (call $answer (global.get $state)))"#);
    let execution = execute(
        &canister,
        &callback(EntryPoint::Reply(closure(1)), b"the reply"),
    );
    let (response, effects) = execution.result.expect("completes");
    assert_eq!(response, Response::Reply(b"the reply".to_vec()));
    canister.state.apply(&effects);
    assert_eq!(number(&canister.query("state")), 7);
    let rejection = Rejection {
        code: 4,
        message: "not today".into(),
    };
    let execution = execute(
        &canister,
        &callback(EntryPoint::Reject(closure(2), rejection), b""),
    );
    let (response, _) = execution.result.expect("completes");
    assert_eq!(
        response,
        Response::Reply([&4_u64.to_le_bytes()[..], b"not today"].concat())
    );
}

#[test]
fn a_callback_that_is_none_ends_the_message() {
    let failure = |function| {
        let execution = execute(
            &rich(""),
            &callback(EntryPoint::Reply(closure(function)), b""),
        );
        let error = execution.result.expect_err("no callback");
        (error.code, text(&error).to_owned())
    };
    let violated = |text: &str| (504, format!("Canister violated contract: {text}"));
    assert_eq!(failure(0), violated("unexpected null function reference"));
    assert_eq!(
        failure(3),
        violated("function invocation does not match its signature")
    );
    for outside in [5, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(
            failure(outside),
            (
                513,
                format!(
                    "Canister requested to invoke a non-existent Wasm function {outside} from table 0"
                )
            )
        );
    }
    let bare = Canister::new("(module)");
    let execution = execute(&bare, &callback(EntryPoint::Reply(closure(0)), b""));
    assert_eq!(
        text(&execution.result.expect_err("no table")),
        "Canister violated contract: table not found"
    );
}

#[test]
fn a_context_is_answered_once() {
    let canister = rich("");
    let mut call = callback(EntryPoint::Reply(closure(1)), b"");
    call.answered = true;
    let error = execute(&canister, &call)
        .result
        .expect_err("answered before");
    assert_eq!(
        (error.code, text(&error)),
        (
            504,
            "Canister violated contract: ic0.msg_reply_data_append: the call is already replied."
        )
    );
}

#[test]
fn callbacks_see_deadline_refund_caller_and_context() {
    let mut canister = rich(
        r#"(import "ic0" "msg_caller_info_data_size" (func $info_size (result i32)))
(import "ic0" "msg_caller_info_data_copy" (func $info_copy (param i32 i32 i32)))
(import "ic0" "msg_caller_info_signer_size" (func $signer_size (result i32)))
(elem (i32.const 4) $see)
        (func $see (param i32)
            (i64.store (i32.const 200) (call $deadline))
            (i64.store (i32.const 208) (call $refunded))
            (i64.store (i32.const 216) (i64.sub (call $performance (i32.const 1)) (call $performance (i32.const 0))))
            (i64.store (i32.const 224) (i64.extend_i32_u (call $reject_code)))
            (i64.store (i32.const 232) (i64.extend_i32_u (call $signer_size)))
            (call $info_copy (i32.const 240) (i32.const 0) (call $info_size))
            (call $append (i32.const 200) (i32.add (i32.const 40) (call $info_size)))
            (call $reply))"#,
    );
    let mut call = callback(EntryPoint::Reply(closure(4)), b"");
    call.deadline_ns = 5;
    call.cycles_refunded = 6;
    call.context_instructions = 1_000_000;
    call.caller_info = Some(CallerInfo {
        data: b"info".to_vec(),
        signer: callee(),
    });
    canister.limit = 1_000_000;
    let Response::Reply(reply) = execute(&canister, &call).result.expect("completes").0 else {
        panic!("it replies")
    };
    let (numbers, info) = reply.split_at(40);
    let numbers: Vec<_> = numbers
        .as_chunks::<8>()
        .0
        .iter()
        .map(|number| i64::from_le_bytes(*number))
        .collect();
    // Between the two readings of the counter lies one system call.
    assert_eq!(numbers, [5, 6, 1_000_000 - PERFORMANCE_COUNTER, 0, 10]);
    assert_eq!(info, b"info");
}

#[test]
fn a_cleanup_sees_why_and_may_not_call() {
    let canister = rich(
        r#"(elem (i32.const 4) $cleanup)
        (func $cleanup (param i32) (global.set $state (i64.extend_i32_u (call $reject_code))))"#,
    );
    let rejected = Rejection {
        code: 5,
        message: "trapped".into(),
    };
    for (rejection, seen) in [(None, 0), (Some(rejected), 5)] {
        let entry = EntryPoint::Cleanup(closure(4), rejection);
        let (response, effects) = execute(&canister, &callback(entry, b""))
            .result
            .expect("completes");
        assert_eq!(response, Response::None);
        assert_eq!(
            effects.globals,
            [lockstep_canister::state::GlobalValue::I64(seen)]
        );
    }
}
