//! Which modules install.
use crate::support::{ENGINE, compile, module, refusal};

#[test]
fn imports_come_from_two_modules() {
    assert_eq!(
        refusal(r#"(module (import "env" "abort" (func)))"#),
        "Wasm module has an invalid import section. Module imports function 'abort' from 'env' that is not exported by the runtime."
    );
    assert!(
        refusal(r#"(module (import "ic0" "no_such" (func)))"#).contains("'no_such' from 'ic0'")
    );
    assert_eq!(
        refusal(r#"(module (import "ic0" "msg_reply" (func (param i32))))"#),
        "Wasm module has an invalid function signature. Expected input params [] for 'msg_reply', got [I32]."
    );
    assert_eq!(
        refusal(r#"(module (import "ic0" "time" (func (result i32))))"#),
        "Wasm module has an invalid function signature. Expected return results [I64] for 'time', got [I32]."
    );
    assert!(
        refusal(r#"(module (import "ic0" "msg_reply" (memory 1)))"#).contains("is not a function")
    );
}

#[test]
fn exports() {
    assert!(
        refusal(r#"(module (func (export "canister_foo")))"#)
            .contains("reserved function 'canister_foo'")
    );
    assert!(
        refusal(r#"(module (func (export "lockstep counter")))"#)
            .contains("reserved symbol 'lockstep counter'")
    );
    assert!(
        refusal(r#"(module (func (export "canister_init") (param i32)))"#)
            .contains("Expected type () -> () for 'canister_init'")
    );
    assert!(
        refusal(r#"(module (memory (export "canister_update m") 1))"#)
            .contains("is not a function")
    );
    let twice =
        r#"(module (func (export "canister_update m")) (func (export "canister_query m")))"#;
    assert!(refusal(twice).contains("Duplicate function 'm' exported multiple times"));
}

#[test]
fn proposals() {
    assert!(refusal("(module (memory 1) (memory 1))").contains("2 memories, at most one"));
    assert!(refusal("(module (memory 1 1 shared))").contains("threads must be enabled"));
    let relaxed = "(module (func (result v128) (f32x4.relaxed_madd (v128.const i64x2 0 0) (v128.const i64x2 0 0) (v128.const i64x2 0 0))))";
    assert!(refusal(relaxed).contains("relaxed SIMD support is not enabled"));
    assert!(
        refusal("(module (global (mut funcref) (ref.null func)))")
            .contains("mutable global of a reference type")
    );
}

#[test]
fn segments_and_tables_stay_in_bounds() {
    assert!(
        refusal(r#"(module (memory 1) (data (i32.const 65535) "ab"))"#)
            .contains("invalid data segment of 2 bytes at 0xffff")
    );
    assert!(
        refusal("(module (table 1 funcref) (elem (i32.const 1) $f) (func $f))")
            .contains("invalid element segment of 1 elements at 0x1")
    );
    assert!(refusal("(module (table 1000001 funcref))").contains("tables of 1000001 elements"));
}

#[test]
fn metadata_is_kept() {
    let module = compile(r#"(module (@custom "icp:public candid:service" "service : {}") (@custom "icp:private notes" "x") (@custom "other" "y"))"#)
        .expect("valid");
    let metadata: Vec<_> = module
        .metadata()
        .iter()
        .map(|(name, (public, content))| (name.as_str(), *public, content.as_slice()))
        .collect();
    assert_eq!(
        metadata,
        [
            ("candid:service", true, b"service : {}".as_slice()),
            ("notes", false, b"x".as_slice())
        ]
    );
    assert!(
        refusal(r#"(module (@custom "icp:public a" "") (@custom "icp:private a" ""))"#)
            .contains("Duplicate custom section: 'a'")
    );
}

#[test]
fn gzip_is_unpacked_and_hashed_as_installed() {
    let wasm = wat::parse_str("(module)").expect("well formed");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &wasm).expect("in memory");
    let packed = encoder.finish().expect("in memory");
    let module = ENGINE.compile(&packed).expect("valid");
    assert_eq!(module.wasm(), packed);
    assert_ne!(module.hash(), ENGINE.compile(&wasm).expect("valid").hash());
    assert!(ENGINE.compile(&packed[..packed.len() - 9]).is_err());
}

#[test]
fn damaged_modules_are_refused_or_run_but_never_panic() {
    let wasm = wat::parse_str(module(
        r#"(table 3 funcref) (elem (i32.const 0) $f) (data (i32.const 3) "data") (data "passive") (global (mut i32) (i32.const 1))
           (start $f) (func $f) (type $t (func))
           (func (export "canister_update go") (local i32)
              (block (loop (br_if 1 (local.get 0)) (local.set 0 (i32.const 1)) (br 0)))
              (call_indirect (type $t) (i32.const 0)) (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 4)) (call $answer (i64.const 1)))"#,
    ))
    .expect("well formed");
    ENGINE.compile(&wasm).expect("valid before it is damaged");
    for length in 0..wasm.len() {
        // A cut between two sections can leave a valid module.
        drop(ENGINE.compile(&wasm[..length]));
    }
    for position in 0..wasm.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff, wasm[position] ^ 0x40] {
            let mut damaged = wasm.clone();
            damaged[position] = value;
            let Ok(module) = ENGINE.compile(&damaged) else {
                continue;
            };
            crate::support::run_everything(module);
        }
    }
}
