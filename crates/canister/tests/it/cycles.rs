//! Cycles that come with calls, the balance and burning; prices, variables and growth.
use crate::support::{CANISTER, Canister, ENGINE, caller, module, number, text};
use lockstep_canister::memory::Paged as _;
use lockstep_canister::{
    engine::{Call, EntryPoint, Environment, Execution, Response},
    prices::Prices,
    state::RunState,
};

const CYCLES: &str = r#"(import "ic0" "msg_cycles_available128" (func $available (param i32)))
(import "ic0" "msg_cycles_accept128" (func $accept (param i64 i64 i32)))
(import "ic0" "msg_cycles_accept" (func $accept64 (param i64) (result i64)))
(import "ic0" "msg_cycles_available" (func $available64 (result i64)))
(import "ic0" "cycles_burn128" (func $burn (param i64 i64 i32)))
(import "ic0" "canister_cycle_balance128" (func $balance (param i32)))
(import "ic0" "canister_cycle_balance" (func $balance64 (result i64)))
(import "ic0" "canister_liquid_cycle_balance128" (func $liquid (param i32)))
"#;

fn execute(
    canister: &Canister,
    call: &Call,
    change: impl FnOnce(&mut Environment<'_>),
) -> Execution {
    let mut environment = canister.environment();
    change(&mut environment);
    ENGINE.execute(&canister.state, call, &environment)
}

fn go() -> Call {
    Call::new(EntryPoint::Update("go".into()), caller(), Vec::new())
}

/// Amounts of 16 bytes.
fn amounts(response: &Response) -> Vec<u128> {
    let Response::Reply(reply) = response else {
        panic!("a reply, not {response:?}")
    };
    let amounts = reply.as_chunks().0.iter();
    amounts.map(|amount| u128::from_le_bytes(*amount)).collect()
}

#[test]
fn cycles_are_accepted_up_to_what_is_available() {
    let body = r#"
            (call $accept (i64.const 0) (i64.const 10) (i32.const 0))
            (call $available (i32.const 16))
            (call $balance (i32.const 32))
            (call $accept (i64.const 1) (i64.const 0) (i32.const 48))
            (call $available (i32.const 64))
            (call $balance (i32.const 80))
            (call $accept (i64.const 1) (i64.const 0) (i32.const 96))
            (call $append (i32.const 0) (i32.const 112)) (call $reply)"#;
    let canister = Canister::new(&module(&format!(
        r#"{CYCLES}(func (export "canister_update go") {body}) (func (export "canister_query ask") {body})"#
    )));
    let mut call = go();
    call.cycles_available = 1 << 64;
    let all = 1 << 64;
    for entry in [
        EntryPoint::Update("go".into()),
        EntryPoint::ReplicatedQuery("ask".into()),
    ] {
        call.entry = entry;
        let (response, effects) = execute(&canister, &call, |_| ()).result.expect("completes");
        assert_eq!(
            amounts(&response),
            [10, all - 10, 5_010, all - 10, 0, 5_000 + all, 0]
        );
        assert_eq!(effects.cycles_accepted, all);
        assert_eq!(effects.cycles_spent, 0);
    }
}

#[test]
fn answering_sends_the_rest_back() {
    let canister = Canister::new(&module(&format!(
        r#"{CYCLES}(global $seen (export "seen") (mut i64) (i64.const 0))
           (func (export "canister_update go")
            (drop (call $accept64 (i64.const 3)))
            (call $reply)
            (global.set $seen (i64.add (call $available64) (call $accept64 (i64.const 3)))))"#
    )));
    let mut call = go();
    call.cycles_available = 9;
    let (_, effects) = execute(&canister, &call, |_| ()).result.expect("completes");
    assert_eq!(effects.cycles_accepted, 3);
    assert_eq!(
        effects.globals,
        [lockstep_canister::state::GlobalValue::I64(0)]
    );
    call.answered = true;
    call.entry = EntryPoint::Update("go".into());
    let error = execute(&canister, &call, |_| ())
        .result
        .expect_err("answered before");
    assert_eq!(
        text(&error),
        "Canister violated contract: ic0.msg_reply: the call is already replied"
    );
}

#[test]
fn burning_leaves_what_keeps_the_canister_from_freezing() {
    let mut canister = Canister::new(&module(&format!(
        r#"{CYCLES}(func (export "canister_update go")
            (call $liquid (i32.const 0))
            (call $burn (i64.const 0) (i64.const 100) (i32.const 16))
            (call $burn (i64.const 1) (i64.const 0) (i32.const 32))
            (call $balance (i32.const 48))
            (call $liquid (i32.const 64))
            (call $append (i32.const 0) (i32.const 80)) (call $reply))"#
    )));
    let execution = execute(&canister, &go(), |environment| {
        environment.frozen_cycles = 1_000;
    });
    let (response, effects) = execution.result.expect("completes");
    assert_eq!(amounts(&response), [4_000, 100, 3_900, 1_000, 0]);
    assert_eq!(effects.cycles_spent, 4_000);
    canister.state.apply(&effects);
    assert_eq!(canister.state.cycles, 1_000);
}

#[test]
fn amounts_beyond_64_bits_trap_in_the_old_imports() {
    let mut canister = Canister::new(&module(&format!(
        r#"{CYCLES}(func (export "canister_update balance") (call $answer (call $balance64)))
           (func (export "canister_update available") (call $answer (call $available64)))"#
    )));
    canister.state.cycles = 1 << 64;
    let mut call = Call::new(EntryPoint::Update("available".into()), caller(), Vec::new());
    call.cycles_available = 1 << 64;
    let errors = [
        canister.failure("balance"),
        execute(&canister, &call, |_| ())
            .result
            .expect_err("too much"),
    ];
    for error in errors {
        assert_eq!(
            (error.code, text(&error)),
            (
                502,
                "Canister trapped: cycles amount exceeds 64-bit representation"
            )
        );
    }
}

#[test]
fn costs_are_those_of_the_subnet() {
    let canister = Canister::new(&module(
        r#"(import "ic0" "cost_call" (func $call (param i64 i64 i32)))
(import "ic0" "cost_create_canister" (func $create (param i32)))
(import "ic0" "cost_http_request" (func $http (param i64 i64 i32)))
(import "ic0" "cost_sign_with_schnorr" (func $schnorr (param i32 i32 i32 i32) (result i32)))
           (func (export "canister_update go")
            (call $call (i64.const 4) (i64.const 6) (i32.const 0))
            (call $create (i32.const 16))
            (call $http (i64.const 10) (i64.const 20) (i32.const 32))
            (i64.store (i32.const 48) (i64.extend_i32_u (call $schnorr (i32.const 80) (i32.const 3) (i32.const 1) (i32.const 64))))
            (i64.store (i32.const 56) (i64.extend_i32_u (call $schnorr (i32.const 80) (i32.const 3) (i32.const 2) (i32.const 64))))
            (call $append (i32.const 0) (i32.const 64)) (call $reply))"#,
    ));
    let prices = Prices::new(34);
    let execution = execute(&canister, &go(), |environment| environment.prices = prices);
    let (response, _) = execution.result.expect("completes");
    assert_eq!(
        amounts(&response),
        [
            prices.request(10) + prices.response_prepayment(false),
            prices.create_canister(),
            prices.http_request(10, 20),
            2 | 1 << 64,
        ]
    );
}

const VARIABLES: &str = r#"(import "ic0" "env_var_count" (func $count (result i32)))
(import "ic0" "env_var_name_size" (func $name_size (param i32) (result i32)))
(import "ic0" "env_var_name_copy" (func $name_copy (param i32 i32 i32 i32)))
(import "ic0" "env_var_name_exists" (func $exists (param i32 i32) (result i32)))
(import "ic0" "env_var_value_size" (func $value_size (param i32 i32) (result i32)))
(import "ic0" "env_var_value_copy" (func $value_copy (param i32 i32 i32 i32 i32)))
(import "ic0" "canister_status" (func $status (result i32)))
"#;

#[test]
fn environment_variables_are_read_by_index_and_name() {
    let mut canister = Canister::new(&module(&format!(
        r#"{VARIABLES}(data (i32.const 0) "home\ff")
           (func (export "canister_update go")
            (call $name_copy (i32.const 1) (i32.const 100) (i32.const 0) (call $name_size (i32.const 1)))
            (call $value_copy (i32.const 0) (i32.const 4) (i32.const 104) (i32.const 1) (i32.sub (call $value_size (i32.const 0) (i32.const 4)) (i32.const 1)))
            (i32.store8 (i32.const 108) (call $count))
            (i32.store8 (i32.const 109) (call $exists (i32.const 0) (i32.const 4)))
            (i32.store8 (i32.const 110) (call $exists (i32.const 0) (i32.const 3)))
            (call $append (i32.const 100) (i32.const 11)) (call $reply))
           (func (export "canister_update outside") (drop (call $name_size (i32.const 2))))
           (func (export "canister_update unknown") (drop (call $value_size (i32.const 0) (i32.const 3))))
           (func (export "canister_update long") (drop (call $exists (i32.const 0) (i32.const 129))))
           (func (export "canister_update binary") (drop (call $exists (i32.const 0) (i32.const 5))))
           (func (export "canister_update status") (call $answer (i64.extend_i32_u (call $status))))"#
    )));
    let variables = &mut canister.state.settings.environment_variables;
    variables.insert("home".into(), "/root".into());
    variables.insert("a".into(), String::new());
    assert_eq!(canister.update("go", b""), *b"homeroot\x02\x01\x00");
    let failure = |canister: &mut Canister, method| {
        let error = canister.failure(method);
        assert_eq!(error.code, 504);
        text(&error).to_owned()
    };
    assert_eq!(
        failure(&mut canister, "outside"),
        "Environment variable index 2 is out of bounds. The number of environment variables is 2."
    );
    assert_eq!(
        failure(&mut canister, "unknown"),
        "Environment variable hom not found."
    );
    assert_eq!(
        failure(&mut canister, "long"),
        "Canister violated contract: ic0.env_var_name_exists: Variable name is too large."
    );
    assert_eq!(
        failure(&mut canister, "binary"),
        "Canister violated contract: ic0.env_var_name_exists: Variable name is not a valid UTF-8 string."
    );
    for (state, status) in [
        (RunState::Running, 1),
        (RunState::Stopping, 2),
        (RunState::Stopped, 3),
    ] {
        canister.state.run_state = state;
        assert_eq!(number(&canister.update("status", b"")), status);
    }
}

#[test]
fn memories_grow_by_what_is_available_to_both() {
    let canister = Canister::new(&module(
        r#"(import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
(import "ic0" "stable_grow" (func $grow32 (param i32) (result i32)))
           (func (export "canister_update go") (local $seen i64)
            (local.set $seen (i64.extend_i32_s (memory.grow (i32.const 2))))
            (local.set $seen (i64.add (i64.mul (local.get $seen) (i64.const 10)) (call $grow (i64.const 2))))
            (local.set $seen (i64.add (i64.mul (local.get $seen) (i64.const 10)) (i64.extend_i32_s (memory.grow (i32.const 2)))))
            (local.set $seen (i64.add (i64.mul (local.get $seen) (i64.const 10)) (call $grow (i64.const 2))))
            (local.set $seen (i64.add (i64.mul (local.get $seen) (i64.const 10)) (i64.extend_i32_s (memory.grow (i32.const 1)))))
            (call $answer (local.get $seen)))"#,
    ));
    let grown = |pages: u64| {
        let execution = execute(&canister, &go(), |environment| {
            environment.memory_available = pages * 65_536 + 65_535;
        });
        let (response, effects) = execution.result.expect("completes");
        let Response::Reply(reply) = response else {
            panic!("it replies")
        };
        (
            number(&reply),
            effects.heap.size_pages(),
            effects.stable.size_pages(),
        )
    };
    // Heap 1 -> 3, stable 0 -> 2, and so on; -1 where nothing is left.
    assert_eq!(grown(9), (10_325, 6, 4));
    assert_eq!(grown(5), (((10 * 10 - 1) * 10 - 1) * 10 + 3, 4, 2));
    assert_eq!(grown(0), ((((-10 - 1) * 10 - 1) * 10 - 1) * 10 - 1, 1, 0));
}

#[test]
fn the_canisters_own_limit_of_its_heap_ends_updates_and_installations() {
    let wat = module(
        r#"(func $grow (drop (memory.grow (i32.const 2))))
           (func (export "canister_update go") (call $grow) (call $reply))
           (func (export "canister_query ask") (call $grow) (call $reply))
           (func (export "canister_heartbeat") (call $grow))
           (func (export "canister_pre_upgrade") (call $grow))
           (func (export "canister_update nothing") (call $reply))"#,
    );
    let mut canister = Canister::new(&wat);
    let limited = |bytes: u64, limit: u64| {
        (
            539,
            format!(
                "Canister exceeded its current Wasm memory limit of {limit} bytes. The peak Wasm memory usage was {bytes} bytes. If the canister reaches 4GiB, then it may stop functioning and may become unrecoverable. Please reach out to the canister owner to investigate the reason for the increased memory usage. It might be necessary to move data from the Wasm memory to the stable memory. If such high Wasm memory usage is expected and safe, then the developer can increase the Wasm memory limit in the canister settings."
            ),
        )
    };
    let failure = |canister: &mut Canister, method| {
        let error = canister.failure(method);
        (error.code, text(&error).to_owned())
    };
    canister.state.settings.wasm_memory_limit = 3 * 65_536;
    canister.update("go", b"");
    assert_eq!(
        failure(&mut canister, "go"),
        limited(5 * 65_536, 3 * 65_536)
    );
    for entry in [
        EntryPoint::Query("ask".into()),
        EntryPoint::ReplicatedQuery("ask".into()),
        EntryPoint::Heartbeat,
        EntryPoint::PreUpgrade,
    ] {
        canister.execute(entry, b"").result.expect("not limited");
    }
    canister.update("nothing", b"");
    canister.state.settings.wasm_memory_limit = 3 * 65_536 - 1;
    assert_eq!(
        failure(&mut canister, "nothing"),
        limited(3 * 65_536, 3 * 65_536 - 1)
    );
    canister.state.settings.wasm_memory_limit = 65_535;
    let error = canister
        .execute(EntryPoint::Init, b"")
        .result
        .expect_err("too large at first");
    assert_eq!(
        (error.code, text(&error).to_owned()),
        limited(65_536, 65_535)
    );
    canister.state.settings.wasm_memory_limit = 0;
    canister.update("go", b"");
    assert_eq!(canister.state.id.as_slice(), CANISTER);
}
