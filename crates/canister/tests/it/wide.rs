//! Canisters whose memories have 64-bit addresses. They use no import that takes an address.
use crate::support::{Canister, ENGINE, refusal, text};
use lockstep_canister::{
    engine::{EntryPoint, Execution},
    heap::PAGE_BYTES,
    state::GlobalValue,
};

/// A memory of 4 GiB; methods leave their result in the first global.
const MODULE: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
    (memory i64 65536)
    (data (i64.const 0x1fff8) "data over two pages") (data $passive "passive")
    (global $result (mut i64) (i64.const 0))
    (global $far i64 (i64.const 0x150000000))
    (func $answer (param i64) (global.set $result (local.get 0)) (call $reply))
    (func (export "canister_update data") (call $answer (i64.load (i64.const 0x1fffc))))
    (func (export "canister_update grow") (call $answer (memory.grow (i64.const 32768))))
    (func (export "canister_update grow_too_far") (call $answer (memory.grow (i64.const 32769))))
    (func (export "canister_update grow_absurdly") (call $answer (memory.grow (i64.const 0x7fffffffffffffff))))
    (func (export "canister_update size") (call $answer (memory.size)))
    (func (export "canister_update write") (i64.store (global.get $far) (i64.const 77)) (call $answer (i64.const 0)))
    (func (export "canister_update read") (call $answer (i64.load (global.get $far))))
    (func (export "canister_query read_in_query") (if (i64.ne (i64.load (global.get $far)) (i64.const 77)) (then unreachable)) (call $reply))
    (func (export "canister_update behind") (drop (i64.load (i64.sub (i64.mul (memory.size) (i64.const 65536)) (i64.const 7)))))
    (func (export "canister_update last") (call $answer (i64.load (i64.sub (i64.mul (memory.size) (i64.const 65536)) (i64.const 8)))))
    (func (export "canister_update negative") (drop (i64.load (i64.const -8))))
    (func (export "canister_update wrapping") (drop (i64.load offset=0xffffffffffffff00 (i64.const 0x200))))
    (func $costs (param $size i64) (result i64) (local $before i64)
        (local.set $before (call $counter (i32.const 0)))
        (memory.fill (i64.const 0) (i32.const 1) (local.get $size))
        (memory.copy (i64.const 0x10000) (i64.const 0) (local.get $size))
        (memory.init $passive (i64.const 0x8000) (i32.const 0) (i32.const 7))
        (i64.sub (call $counter (i32.const 0)) (local.get $before)))
    (func (export "canister_update bulk") (call $answer (i64.sub (call $costs (i64.const 1000)) (call $costs (i64.const 0)))))
    (func (export "canister_update bulk_without_end") (drop (call $costs (i64.const -1))))
    (func (export "canister_update bulk_far") (drop (call $costs (i64.const 0x4000000000000000)))))"#;

/// A canister without a limit of its own.
fn unlimited(wat: &str) -> Canister {
    let mut canister = Canister::before_init(wat);
    canister.state.settings.wasm_memory_limit = 0;
    let init = canister.replicated(EntryPoint::Init, b"");
    init.result.expect("init succeeds");
    canister
}

fn result(execution: &Execution) -> i64 {
    match &execution.result {
        Ok((_, effects)) => match effects.globals[0] {
            GlobalValue::I64(value) => value,
            other => panic!("an i64, not {other:?}"),
        },
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn memory_beyond_four_gigabytes_is_as_any_other() {
    let mut canister = unlimited(MODULE);
    let mut update = |method: &str| {
        let execution = canister.replicated(EntryPoint::Update(method.into()), b"");
        result(&execution)
    };
    assert_eq!(update("data").to_le_bytes(), *b" over tw");
    assert_eq!(update("last"), 0);
    assert_eq!(update("size"), 65_536);
    assert_eq!(update("grow_too_far"), -1);
    assert_eq!(update("grow_absurdly"), -1);
    assert_eq!(update("grow"), 65_536);
    assert_eq!(update("grow"), -1);
    assert_eq!(update("write"), 0);
    assert_eq!(update("read"), 77);
    assert_eq!(update("size"), 98_304);
    assert_eq!(update("last"), 0);
    assert_eq!(update("bulk"), 2000);
    let heap = &canister.state.installed.as_ref().unwrap().heap;
    assert_eq!(heap.size_pages(), 98_304);
    assert_eq!(heap.page(0x1_5000_0000 / PAGE_BYTES as u64)[0], 77);
    for engine in [ENGINE.clone(), ENGINE.without_kept_instances()] {
        let entry = EntryPoint::Query("read_in_query".into());
        assert!(canister.execute_on(&engine, entry, b"").result.is_ok());
    }
    for method in ["behind", "negative", "wrapping"] {
        let error = canister.failure(method);
        let told = text(&error);
        assert!(
            told.starts_with("Canister trapped: heap out of bounds"),
            "{method}: {told}"
        );
    }
    for method in ["bulk_without_end", "bulk_far"] {
        assert_eq!(canister.failure(method).code, 522, "{method}");
    }
}

#[test]
fn modules_of_both_widths_have_their_own_bounds() {
    let grows = |memory: &str, ty: &str, delta: u32| {
        let mut canister = unlimited(&format!(
            r#"(module (import "ic0" "msg_reply" (func $reply)) (memory {memory})
            (global $result (mut i64) (i64.const 0))
            (func (export "canister_update go")
                (if (i64.eqz (global.get $result)) (then (global.set $result (i64.const 7))))
                (if ({ty}.eq (memory.grow ({ty}.const {delta})) ({ty}.const -1)) (then (global.set $result (i64.const -1))))
                (call $reply)))"#
        ));
        let execution = canister.replicated(EntryPoint::Update("go".into()), b"");
        result(&execution) != -1
    };
    assert!(grows("0", "i32", 65_536));
    assert!(!grows("1", "i32", 65_536));
    assert!(grows("i64 0", "i64", 98_304));
    assert!(!grows("i64 1", "i64", 98_304));
    assert!(!grows("i64 1 5", "i64", 5));
    assert!(!grows("i64 1 65536", "i64", 65_536));
}

#[test]
fn modules_that_are_too_wide_are_refused() {
    assert_eq!(
        refusal("(module (memory i64 98305))"),
        "Wasm module has a memory of 98305 pages, more than 98304"
    );
    let counts = "(module (table i64 1 funcref)
        (func (table.fill 0 (i64.const 0) (ref.null func) (i64.const 1))))";
    assert!(refusal(counts).contains("a table with 64-bit indices and contains 'table.fill'"));
    assert!(
        refusal(r#"(module (memory i64 1) (data (i64.const -1) "xx"))"#)
            .contains("invalid data segment of 2 bytes at 0xffffffffffffffff")
    );
    assert!(
        refusal(r#"(module (memory i64 1) (data (i64.const 0x10000) "x"))"#)
            .contains("invalid data segment")
    );
    let forks = r#"(module (import "lockstep" "fork" (func (param i32 i32 i32 i32 i64 i32)))
        (memory i64 1) (table 1 funcref))"#;
    assert!(refusal(forks).contains("has a 64-bit memory or table, which tasks cannot share"));
}
