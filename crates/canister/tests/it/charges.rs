//! What system calls cost beside the weight of the `call`, as `performance_counter` shows it, for memories of both widths.
use crate::support::{Canister, ENGINE, caller, module, number};
use lockstep_canister::{
    engine::{Call, EntryPoint},
    state::GlobalValue,
};
use std::collections::BTreeMap;

/// What reading the counter costs.
pub(crate) const PERFORMANCE_COUNTER: i64 = 200;

/// Name, arguments, result and price; `p` is a pointer.
const CALLS: &str = "
msg_arg_data_size | | p | 500
msg_arg_data_copy | p0 p0 p2 | | 502
msg_caller_size | | p | 500
msg_caller_copy | p0 p0 p1 | | 501
msg_caller_info_data_size | | p | 500
msg_caller_info_data_copy | p0 p0 p0 | | 500
msg_caller_info_signer_size | | p | 500
msg_caller_info_signer_copy | p0 p0 p0 | | 500
msg_deadline | | i64 | 500
msg_reply_data_append | p0 p3 | | 650
msg_reject | p0 p3 | | 650
msg_reply | | | 500
msg_cycles_available128 | p0 | | 500
msg_cycles_accept128 | i640 i640 p0 | | 500
cycles_burn128 | i640 i640 p0 | | 500
canister_self_size | | p | 500
canister_self_copy | p0 p0 p10 | | 510
canister_cycle_balance128 | p0 | | 500
canister_liquid_cycle_balance128 | p0 | | 500
canister_status | | i32 | 500
canister_version | | i64 | 500
subnet_self_size | | p | 500
subnet_self_copy | p0 p0 p10 | | 510
subnet_self_node_count | | i32 | 500
root_key_size | | p | 500
root_key_copy | p0 p0 p0 | | 500
certified_data_set | p0 p32 | | 532
data_certificate_present | | i32 | 500
time | | i64 | 500
global_timer_set | i640 | i64 | 500
performance_counter | i320 | i64 | 200
is_controller | p0 p29 | i32 | 1029
in_replicated_execution | | i32 | 500
cost_call | i641 i642 p0 | | 500
cost_create_canister | p0 | | 500
cost_http_request | i641 i642 p0 | | 500
cost_sign_with_ecdsa | p0 p2 i323 p0 | i32 | 502
cost_sign_with_schnorr | p0 p2 i323 p0 | i32 | 502
cost_vetkd_derive_key | p0 p2 i323 p0 | i32 | 502
env_var_count | | p | 500
env_var_name_size | p0 | p | 500
env_var_name_copy | p0 p0 p0 p1 | | 501
env_var_name_exists | p0 p2 | i32 | 500
env_var_value_size | p200 p1 | p | 500
env_var_value_copy | p200 p1 p0 p0 p1 | | 501
stable64_size | | i64 | 0
stable64_grow | i641 | i64 | 100
stable64_read | i640 i640 i641 | | 21
stable64_read | i640 i640 i641024 | | 1044
stable64_write | i640 i640 i641 | | 1021
stable64_write | i640 i640 i641024 | | 2044
debug_print | p0 p1 | | 152
debug_print | p0 p1024 | | 53348
debug_print | p0 p8192 | | 213092
";

/// As [`CALLS`], for 32-bit memories alone.
const NARROW_CALLS: &str = "
msg_cycles_available | | i64 | 500
msg_cycles_accept | i640 | i64 | 500
canister_cycle_balance | | i64 | 500
stable_size | | i32 | 0
stable_grow | i321 | i32 | 100
stable_read | i320 i320 i321 | | 21
stable_write | i320 i320 i321 | | 1021
";

/// As [`CALLS`], each while a call is under construction.
const CALLS_OF_CALLS: &str = "
call_new | p100 p10 p200 p1 p0 p0 p0 p0 | | 1511
call_data_append | p0 p1 | | 550
call_data_append | p0 p1024 | | 51700
call_on_cleanup | p0 p0 | | 500
call_with_best_effort_response | i321 | | 500
call_cycles_add128 | i640 i641 | | 500
call_perform | | i32 | 5000
";

/// A module that measures a call, perhaps after the beginning of a call to itself.
fn measuring(line: &str, pointer: &str, call_begun: bool) -> (String, i64) {
    let [name, arguments, result, price] = line
        .split('|')
        .map(str::trim)
        .collect::<Vec<_>>()
        .try_into()
        .expect("four columns");
    let typed = |word: &str| word.replacen('p', pointer, 1);
    let arguments: Vec<String> = arguments.split_whitespace().map(typed).collect();
    let parameters: String = arguments
        .iter()
        .map(|word| format!("{} ", &word[..3]))
        .collect();
    let constants: String = arguments
        .iter()
        .map(|word| format!("({}.const {}) ", &word[..3], &word[3..]))
        .collect();
    let drop = if result.is_empty() { "" } else { "drop" };
    let result = typed(result);
    let number = |value: usize| format!("({pointer}.const {value})");
    let begin = if call_begun {
        let new: String = [100, 10, 200, 1, 0, 0, 0, 0].map(number).concat();
        format!("(call $new {new})")
    } else {
        String::new()
    };
    let eight = format!("{pointer} {pointer} ").repeat(4);
    let memory = if pointer == "i64" { "i64 1" } else { "1" };
    let [zero, ten, hundred] = [0, 10, 100].map(number);
    let stable = "(func $stable (param i64) (result i64))";
    let wat = format!(
        r#"(module
            (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
            (import "ic0" "canister_self_copy" (func $self (param {pointer} {pointer} {pointer})))
            (import "ic0" "call_new" (func $new (param {eight})))
            (import "ic0" "stable64_grow" {stable})
            (import "ic0" "{name}" (func $it (param {parameters}) (result {result})))
            (memory {memory})
            (data {at} "a")
            (global $result (mut i64) (i64.const 0))
            (func (export "canister_init") (drop (call $stable (i64.const 1))))
            (func (export "canister_update go") (local i64)
                (call $self {hundred} {zero} {ten})
                {begin}
                (local.set 0 (call $counter (i32.const 0)))
                {constants} (call $it) {drop}
                (global.set $result (i64.sub (call $counter (i32.const 0)) (local.get 0)))))"#,
        at = number(200),
    );
    (wat, price.parse().expect("a price"))
}

fn price_of(wat: &str) -> i64 {
    let mut canister = Canister::before_init(wat);
    let variables = BTreeMap::from([("a".to_owned(), "value".to_owned())]);
    canister.state.settings.environment_variables = variables;
    let init = canister.replicated(EntryPoint::Init, b"");
    init.result.expect("init succeeds");
    let call = Call::new(
        EntryPoint::Update("go".into()),
        caller(),
        b"argument".to_vec(),
    );
    let execution = ENGINE.execute(&canister.state, &call, &canister.environment());
    let (_, effects) = execution
        .result
        .unwrap_or_else(|error| panic!("{error}\n{wat}"));
    match effects.globals[0] {
        GlobalValue::I64(counted) => counted - PERFORMANCE_COUNTER,
        other => panic!("an i64, not {other:?}"),
    }
}

#[test]
fn system_calls_cost_what_they_do_on_the_internet_computer() {
    let both = ["i32", "i64"];
    let tables = [
        (CALLS, &both[..], false),
        (NARROW_CALLS, &both[..1], false),
        (CALLS_OF_CALLS, &both[..], true),
    ];
    for (table, widths, call_begun) in tables {
        for line in table.trim().lines() {
            for pointer in widths {
                let (wat, price) = measuring(line, pointer, call_begun);
                assert_eq!(price_of(&wat), price, "{line} with {pointer}");
            }
        }
    }
}

#[test]
fn lines_of_the_log_cost_by_the_room_that_is_left() {
    // 4,096 bytes hold three lines of 1,024 beside the 40 that each takes; of the fourth 904 find room.
    let mut canister = Canister::new(&module(
        r#"(import "ic0" "debug_print" (func $print (param i32 i32)))
           (func $prints (param i32) (result i64) (local i64)
            (local.set 1 (call $performance (i32.const 0)))
            (call $print (i32.const 0) (local.get 0))
            (i64.sub (call $performance (i32.const 0)) (local.get 1)))
           (func (export "canister_update fourth")
            (drop (call $prints (i32.const 1024)))
            (drop (call $prints (i32.const 1024)))
            (drop (call $prints (i32.const 1024)))
            (call $answer (call $prints (i32.const 1024))))
           (func (export "canister_update fifth")
            (drop (call $prints (i32.const 1024)))
            (drop (call $prints (i32.const 1024)))
            (drop (call $prints (i32.const 1024)))
            (drop (call $prints (i32.const 1024)))
            (call $answer (call $prints (i32.const 1024))))"#,
    ));
    let full = PERFORMANCE_COUNTER + 100 + 2 * 1_024 + 50 * 904;
    assert_eq!(number(&canister.update("fourth", b"")), full);
    assert_eq!(number(&canister.update("fifth", b"")), full);
}

#[test]
fn a_trap_costs_its_text() {
    let canister = Canister::new(
        r#"(module (import "ic0" "trap" (func $trap (param i32 i32))) (memory 1)
            (func (export "canister_heartbeat") (call $trap (i32.const 0) (i32.const 4))))"#,
    );
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    assert_eq!(execution.result.expect_err("traps").code, 503);
    // Entry, two constants, the call and what the system takes.
    assert_eq!(execution.instructions, 1 + 2 + 5 + 500 + 4 + 2 * 4 + 50 * 4);
}
