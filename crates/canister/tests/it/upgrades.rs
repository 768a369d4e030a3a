//! Upgrades that keep the heap.
use crate::support::{Canister, ENGINE, caller, compile, module, number, text};
use lockstep_canister::{
    engine::{Call, EntryPoint, Environment, Execution},
    state::{GlobalValue, Installed},
};
use std::sync::Arc;

fn first() -> Canister {
    let mut canister = Canister::new(&module(
        r#"(global $count (mut i64) (i64.const 1)) (data (i32.const 0) "first")
           (func (export "canister_update step")
               (global.set $count (i64.const 99))
               (i64.store (i32.const 100) (i64.const 7))
               (drop (memory.grow (i32.const 1)))
               (i64.store (i32.const 70000) (i64.const 8))
               (call $answer (global.get $count)))"#,
    ));
    canister.update("step", b"");
    canister
}

/// Puts other code in the place of the canister's, its heap still the old one.
fn upgrade(
    canister: &mut Canister,
    wat: &str,
    change: impl FnOnce(&mut Environment<'_>),
) -> Execution {
    let heap = canister.state.installed.take().expect("installed").heap;
    canister.state.installed = Some(Installed {
        module: Arc::new(compile(wat).expect("valid")),
        heap,
        globals: Vec::new(),
    });
    let execution = {
        let mut environment = canister.environment();
        change(&mut environment);
        let entry = EntryPoint::PostUpgrade { keep_heap: true };
        let call = Call::new(entry, caller(), Vec::new());
        ENGINE.execute(&canister.state, &call, &environment)
    };
    if let Ok((_, effects)) = &execution.result {
        canister.state.apply(effects);
    }
    execution
}

fn second(memory: &str) -> String {
    format!(
        r#"(module
            (import "ic0" "msg_reply" (func $reply))
            (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
            (memory {memory}) (global $other (mut i32) (i32.const 5)) (global $count (mut i64) (i64.const 2))
            (data (i32.const 0) "second") (data $later "later")
            (start $start) (func $start (i64.store (i32.const 200) (i64.load (i32.const 100))))
            (func (export "canister_post_upgrade") (memory.init $later (i32.const 300) (i32.const 0) (i32.const 5)))
            (func (export "canister_query go")
                (call $append (i32.const 0) (i32.const 5)) (call $append (i32.const 300) (i32.const 5))
                (call $append (i32.const 200) (i32.const 8)) (call $append (i32.const 70000) (i32.const 8)) (call $reply)))"#
    )
}

#[test]
fn the_heap_stays_and_everything_else_starts_anew() {
    let mut canister = first();
    let execution = upgrade(&mut canister, &second("1"), |_| ());
    let (_, effects) = execution.result.expect("completes");
    assert_eq!(effects.globals, [GlobalValue::I32(5), GlobalValue::I64(2)]);
    assert_eq!(effects.heap.size_pages(), 2);
    // The start function has run, segments are not placed but can be.
    let reply = canister.query("go");
    assert_eq!(reply[..10], *b"firstlater");
    assert_eq!((number(&reply[10..18]), number(&reply[18..])), (7, 8));
}

#[test]
fn a_kept_heap_grows_to_the_size_of_the_new_memory() {
    let mut canister = first();
    let execution = upgrade(&mut canister, &second("4"), |environment| {
        environment.memory_available = 2 * 65_536;
    });
    let (_, effects) = execution.result.expect("completes");
    assert_eq!(effects.heap.size_pages(), 4);
    assert_eq!(canister.query("go")[..5], *b"first");
    let execution = upgrade(&mut first(), &second("4"), |environment| {
        environment.memory_available = 2 * 65_536 - 1;
    });
    let error = execution.result.expect_err("no room");
    assert_eq!(
        (error.code, text(&error)),
        (507, "Canister cannot grow its memory usage.")
    );
}

#[test]
fn a_heap_that_does_not_fit_is_not_kept() {
    for wat in [second("1 1"), "(module)".into()] {
        let execution = upgrade(&mut first(), &wat, |_| ());
        let error = execution.result.expect_err("too large");
        assert_eq!(error.code, 505);
        assert!(
            text(&error).contains("Wasm memory of 2 pages cannot be kept"),
            "{error}"
        );
    }
}

#[test]
fn modules_say_that_they_keep_their_heap() {
    let keeps = |section: &str| {
        compile(&format!("(module {section})"))
            .expect("valid")
            .keeps_heap()
    };
    assert!(!keeps(""));
    assert!(keeps(
        r#"(@custom "icp:private enhanced-orthogonal-persistence" "")"#
    ));
    assert!(!keeps(
        r#"(@custom "icp:public enhanced-orthogonal-persistence" "")"#
    ));
}
