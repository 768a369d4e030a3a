//! What lives on between messages, and what does not.
use crate::support::{Canister, module, number, text};
use lockstep_canister::{
    engine::{EntryPoint, STABLE_PAGES_MAX},
    memory::Paged,
    state::GlobalValue,
};
use std::collections::BTreeSet;

const STATEFUL: &str = r#"
(import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
(import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
(import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
(import "ic0" "stable_size" (func $size32 (result i32)))
(import "ic0" "certified_data_set" (func $certify (param i32 i32)))
(import "ic0" "global_timer_set" (func $timer (param i64) (result i64)))
    (global $count (mut i64) (i64.const 10))
    (global $v (mut v128) (v128.const i64x2 1 2))
    (global $f (mut f32) (f32.const 1.5))
    (global $fixed i32 (i32.const 3))
    (data (i32.const 0) "seed")
    (func $init (export "canister_init") (drop (call $grow (i64.const 2))))
    (func $step
        (global.set $count (i64.add (global.get $count) (i64.const 1)))
        (global.set $v (i64x2.add (global.get $v) (v128.const i64x2 1 1)))
        (global.set $f (f32.add (global.get $f) (f32.const 0.25)))
        (i64.store (i32.const 64) (global.get $count))
        (i64.store (i32.const 0) (i64.add (i64.load (i32.const 0)) (i64.const 1)))
        (call $write (i64.const 65532) (i64.const 64) (i64.const 8))
        (call $certify (i32.const 64) (i32.const 1))
        (drop (call $timer (i64.const 99))))
    (func (export "canister_update step") (call $step) (call $answer (global.get $count)))
    (func (export "canister_update fail") (call $step) unreachable)
    (func (export "canister_query peek") (call $step) (call $answer (global.get $count)))
    (func (export "canister_query heap") (call $answer (i64.load (i32.const 64))))
    (func (export "canister_query seed") (call $answer (i64.load (i32.const 0))))
    (func (export "canister_query stable") (call $read (i64.const 64) (i64.const 65532) (i64.const 8)) (call $answer (i64.load (i32.const 64))))
    (func (export "canister_query pages") (call $answer (i64.extend_i32_u (call $size32))))
    (func (export "canister_update grow") (call $answer (call $grow (i64.const 8191998))))
    (func (export "canister_update grow_heap") (call $answer (i64.extend_i32_s (memory.grow (i32.const 2)))))
    (func (export "canister_update shrink_nothing") (call $answer (i64.extend_i32_s (memory.grow (i32.const 65536)))))
"#;

#[test]
fn state_lives_on() {
    let mut canister = Canister::new(&module(STATEFUL));
    let seed = i64::from(u32::from_le_bytes(*b"seed"));
    assert_eq!(number(&canister.query("seed")), seed);
    for step in 1..4 {
        assert_eq!(number(&canister.update("step", b"")), 10 + step);
        assert_eq!(number(&canister.query("heap")), 10 + step);
        assert_eq!(number(&canister.query("seed")), seed + step);
        assert_eq!(number(&canister.query("stable")), 10 + step);
    }
    let globals = &canister
        .state
        .installed
        .as_ref()
        .expect("installed")
        .globals;
    let v128 = 4_u128 | 5 << 64;
    assert_eq!(
        *globals,
        [
            GlobalValue::I64(13),
            GlobalValue::V128(v128),
            GlobalValue::F32(2.25_f32.to_bits())
        ]
    );
    assert_eq!(canister.state.certified_data, [13]);
    assert_eq!(canister.state.global_timer_ns, 99);
    assert_eq!(number(&canister.query("pages")), 2);
}

#[test]
fn a_trap_changes_nothing() {
    let mut canister = Canister::new(&module(STATEFUL));
    canister.update("step", b"");
    let before = canister.state.digest();
    assert_eq!(canister.failure("fail").code, 502);
    assert_eq!(canister.state.digest(), before);
    assert_eq!(number(&canister.query("stable")), 11);
}

#[test]
fn queries_change_nothing() {
    let mut canister = Canister::new(&module(
        &STATEFUL
            .replace("(call $certify (i32.const 64) (i32.const 1))\n", "")
            .replace("(drop (call $timer (i64.const 99)))", ""),
    ));
    let before = canister.state.digest();
    for entry in [
        EntryPoint::Query("peek".into()),
        EntryPoint::ReplicatedQuery("peek".into()),
    ] {
        canister.replicated(entry, b"").result.expect("completes");
        assert_eq!(canister.state.digest(), before);
    }
    canister.update("step", b"");
    assert_ne!(canister.state.digest(), before);
}

#[test]
fn a_message_changes_the_pages_that_it_writes() {
    let mut canister = Canister::new(&module(STATEFUL));
    canister.update("grow_heap", b"");
    let old = canister.state.clone();
    canister.update("step", b"");
    let heap = |state: &lockstep_canister::state::CanisterState| {
        state.installed.as_ref().expect("installed").heap.clone()
    };
    let (before, after) = (heap(&old), heap(&canister.state));
    assert_eq!(after.size_pages(), 3);
    assert_eq!(after.changed(&before), BTreeSet::from([0]));
    assert_ne!(after.page(0), before.page(0));
    assert_eq!(old.stable.size_pages(), 2);
    assert_eq!(
        canister.state.stable.changed(&old.stable),
        BTreeSet::from([15])
    );
}

#[test]
fn growth_fails_by_rule() {
    let mut canister = Canister::new(&module(STATEFUL));
    assert_eq!(number(&canister.update("grow_heap", b"")), 1);
    assert_eq!(number(&canister.update("grow_heap", b"")), 3);
    assert_eq!(number(&canister.update("shrink_nothing", b"")), -1);
    assert_eq!(number(&canister.update("grow", b"")), 2);
    assert_eq!(canister.state.stable.size_pages(), STABLE_PAGES_MAX);
    assert_eq!(number(&canister.update("grow", b"")), -1);
}

#[test]
fn upgrades_keep_stable_memory_alone() {
    let mut canister = Canister::new(&module(STATEFUL));
    canister.update("step", b"");
    canister
        .replicated(EntryPoint::PreUpgrade, b"")
        .result
        .expect("completes");
    canister
        .replicated(EntryPoint::PostUpgrade { keep_heap: false }, b"")
        .result
        .expect("completes");
    assert_eq!(number(&canister.query("heap")), 0);
    assert_eq!(number(&canister.query("stable")), 11);
    assert_eq!(
        number(&canister.update("step", b"")),
        11,
        "globals start anew"
    );
}

#[test]
fn start_runs_once_at_installation() {
    let mut canister = Canister::new(&module(
        r#"(start $s) (func $s (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1))))
           (func (export "canister_update go") (call $answer (i64.load (i32.const 8))))"#,
    ));
    assert_eq!(number(&canister.update("go", b"")), 1);
    assert_eq!(number(&canister.update("go", b"")), 1);
}

#[test]
fn an_active_segment_is_gone_after_installation() {
    let mut canister = Canister::new(&module(
        r#"(data $d (i32.const 0) "abc")
           (func (export "canister_update none") (memory.init $d (i32.const 9) (i32.const 0) (i32.const 0)) (call $answer (i64.const 1)))
           (func (export "canister_update some") (memory.init $d (i32.const 9) (i32.const 0) (i32.const 1)))"#,
    ));
    assert_eq!(number(&canister.update("none", b"")), 1);
    assert_eq!(
        text(&canister.failure("some")),
        "Canister trapped: heap out of bounds"
    );
}

#[test]
fn nans_are_canonical() {
    let mut canister = Canister::new(&module(
        r#"(global $zero (mut f32) (f32.const 0)) (global $payload (mut f64) (f64.const nan:0x123))
           (func (export "canister_update f32") (call $answer (i64.extend_i32_u (i32.reinterpret_f32 (f32.div (global.get $zero) (global.get $zero))))))
           (func (export "canister_update f64") (call $answer (i64.reinterpret_f64 (f64.add (global.get $payload) (f64.const 1)))))
           (func (export "canister_update simd")
              (call $answer (i64x2.extract_lane 0 (f32x4.sqrt (f32x4.splat (f32.sub (global.get $zero) (f32.const 1)))))))"#,
    ));
    assert_eq!(number(&canister.update("f32", b"")), 0x7fc0_0000);
    assert_eq!(number(&canister.update("f64", b"")), 0x7ff8_0000_0000_0000);
    assert_eq!(number(&canister.update("simd", b"")), 0x7fc0_0000_7fc0_0000);
}

#[test]
fn the_same_messages_give_the_same_digest() {
    let run = || {
        let mut canister = Canister::new(&module(STATEFUL));
        (0..3).for_each(|_| drop(canister.update("step", b"")));
        canister.state.digest()
    };
    assert_eq!(run(), run());
}
