//! Modules that were valid.
use super::{Random, Seed, Tally, assert_clear};
use crate::support::ENGINE;
use std::{fs, ops::Range, path::Path};

/// Modules of the ordinary tests.
const MODULES: u64 = 1_500;
const GUESTS: u64 = 60;
/// Modules of the long one.
const MANY_MODULES: u64 = 200_000;

/// Every section, and most kinds of what may be in them.
const SECTIONS: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "stable64_grow" (func $stable_grow (param i64) (result i64)))
    (import "ic0" "stable64_write" (func $stable_write (param i64 i64 i64)))
    (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
    (type $none (func)) (type $callback (func (param i32)))
    (table $table 6 funcref)
    (memory (export "memory") 2 40)
    (global $number (mut i64) (i64.const 5)) (global $vector (mut v128) (v128.const i64x2 1 2))
    (global $constant i32 (i32.const 1024)) (global $float (mut f64) (f64.const 1.5))
    (elem (i32.const 0) $task $callback $callback) (elem $passive func $task)
    (data (i32.const 0) "some data") (data $bytes "passive")
    (start $start)
    (func $start (global.set $number (i64.const 6)))
    (func $callback (param i32)
        (global.set $float (f64.div (global.get $float) (f64.convert_i32_s (local.get 0)))))
    (func $task (param $environment i32) (param $index i32)
        (i64.store (i32.add (local.get $environment) (i32.mul (local.get $index) (i32.const 8)))
            (i64.add (global.get $number) (i64.extend_i32_u (local.get $index)))))
    (func $pair (param i32) (result i32 i32) (local.get 0) (i32.mul (local.get 0) (i32.const 3)))
    (func $switch (param i32) (result i32)
        (block $two (block $one (block $zero (br_table $zero $one $two (local.get 0))) (return (i32.const 7)))
            (return (i32.const 8))) (i32.const 9))
    (func $loops (param $turns i32) (local $sum i32)
        (loop $next
            (local.set $sum (i32.add (local.get $sum) (call $switch (i32.and (local.get $turns) (i32.const 3)))))
            (br_if $next (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (i32.store (i32.const 64) (local.get $sum)))
    (func $floats
        (global.set $vector (f32x4.add (global.get $vector) (f32x4.splat (f32.demote_f64 (global.get $float)))))
        (f64.store (i32.const 72) (f64.sqrt (global.get $float))))
    (func (export "canister_init") (call $floats))
    (func (export "canister_post_upgrade") (call $loops (i32.const 3)))
    (func (export "canister_pre_upgrade") (call $floats))
    (func (export "canister_heartbeat") (drop (memory.grow (i32.const 1))))
    (func (export "canister_query q") (call $append (i32.const 0) (i32.const 80)) (call $reply))
    (func (export "canister_update u")
        (call $loops (i32.const 50))
        (memory.init $bytes (i32.const 80) (i32.const 0) (i32.const 7))
        (memory.copy (i32.const 90) (i32.const 80) (i32.const 7)) (memory.fill (i32.const 100) (i32.const 7) (i32.const 9))
        (i32.store (i32.const 512) (i32.const 2048)) (i32.store (i32.const 516) (i32.const 8))
        (i32.store (i32.const 520) (i32.const 2056)) (i32.store (i32.const 524) (i32.const 8))
        (call $fork (i32.const 0) (i32.const 2048) (i32.const 2) (i32.const 512) (i64.const 9000) (i32.const 9))
        (drop (call $stable_grow (i64.const 1)))
        (call $stable_write (i64.const 9) (i64.const 2048) (i64.const 16))
        (call_indirect (type $callback) (i32.const 3) (i32.const 1))
        (i32.store (i32.const 96) (i32.add (call $pair (i32.const 5))))
        (call $append (i32.const 2048) (i32.const 16)) (call $reply))
    (@custom "icp:public candid:service" "service : {}"))"#;

/// A 64-bit memory.
const WIDE: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (memory i64 2 9)
    (data (i64.const 10) "data")
    (global $far (mut i64) (i64.const 100000))
    (table 2 funcref) (elem (i32.const 0) $callback)
    (func $callback (param i64) (i64.store (i64.const 16) (local.get 0)))
    (func $down (param i64) (result i64)
        (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 1))
            (else (return_call $down (i64.sub (local.get 0) (i64.const 1))))))
    (func (export "canister_update u")
        (i64.store (global.get $far) (call $down (i64.const 20)))
        (global.set $far (i64.add (global.get $far) (i64.const 8)))
        (drop (memory.grow (i64.const 1)))
        (memory.fill (i64.const 1000) (i32.const 1) (i64.const 100))
        (call $reply))
    (func (export "canister_query q") (drop (i64.load (global.get $far))) (call $reply)))"#;

/// Bytes, some of which were changed, left out, doubled, moved or taken from another module.
fn damage(random: &mut Random, of: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = of.to_vec();
    // Changed bits alone leave more modules valid.
    let kinds = if random.below(2) == 0 { 3 } else { 8 };
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        let range = part(random, &bytes);
        match random.below(kinds) {
            0..=2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            3 => {
                // Lengths, counts and indices at the ends of what they can be.
                let extreme = [0x00, 0x01, 0x7f, 0x80, 0xff][random.below(5)];
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = extreme;
                }
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(range)),
            6 => {
                let doubled = bytes[range].to_vec();
                bytes.splice(at..at, doubled);
            }
            _ => {
                let range = part(random, other);
                let end = (at + range.len()).min(bytes.len());
                bytes.splice(at..end, other[range].iter().copied());
            }
        }
    }
    bytes
}

/// A range of up to 64 bytes.
fn part(random: &mut Random, of: &[u8]) -> Range<usize> {
    let start = random.below(of.len());
    let end = (start + random.below(65)).min(of.len());
    start..end
}

fn run(seeds: Range<u64>, modules: &[Vec<u8>]) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let [of, other] = [(); 2].map(|()| &modules[random.below(modules.len())]);
        tally.try_module(&damage(&mut random, of, other));
    }
    tally
}

fn texts() -> Vec<Vec<u8>> {
    let texts = [SECTIONS, WIDE];
    let modules = texts.map(|wat| wat::parse_str(wat).expect("the text is a module"));
    for module in &modules {
        ENGINE.compile(module).expect("valid before it is damaged");
    }
    modules.into()
}

/// A module that a compiler made, or nothing where there is none.
fn guest() -> Option<Vec<u8>> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    let target = "wasm32-unknown-unknown";
    let products =
        lockstep_guests::build(target, "lockstep-hostile", &["build", "--lib"], &folder)?;
    Some(fs::read(products.join("lockstep_hostile.wasm")).expect("it was just built"))
}

#[test]
fn damaged_texts() {
    let tally = run(0..MODULES, &texts());
    tally.assert_varied(&[("refused", 1_000), ("compiled", 200), ("completed", 2_000)]);
    tally.assert_varied(&[("IC0502", 20), ("IC0504", 100), ("IC0522", 100)]);
}

#[test]
fn damaged_guests() {
    let Some(guest) = guest() else { return };
    let tally = run(0..GUESTS, &[guest]);
    tally.assert_varied(&[("refused", 30), ("compiled", 10), ("completed", 50)]);
}

#[test]
fn damaged_archives() {
    let wasm = &texts()[0];
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, wasm).expect("in memory");
    let packed = encoder.finish().expect("in memory");
    for length in 0..packed.len() {
        let error = ENGINE.compile(&packed[..length]).expect_err("cut");
        assert_clear(&error);
    }
    for seed in 0..MODULES {
        let _seed = Seed(seed);
        let damaged = damage(&mut Random(seed), &packed, wasm);
        if let Err(error) = ENGINE.compile(&damaged) {
            assert_clear(&error);
        }
    }
}

#[test]
#[ignore = "it takes an hour"]
fn many_damaged_modules() {
    let mut modules = texts();
    println!("{:?}", run(MODULES..MANY_MODULES, &modules).0);
    modules.extend(guest());
    println!("{:?}", run(MODULES..MANY_MODULES / 100, &modules).0);
}
