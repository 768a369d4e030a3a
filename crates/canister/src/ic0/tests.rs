//! That both widths have the same imports.
use super::define;
use crate::host::{ImportSets, Signature};
use wasmparser::ValType::{self, I32, I64};

fn sets() -> ImportSets {
    let mut sets = ImportSets::new(&wasmtime::Engine::default());
    define(&mut sets);
    sets
}

fn signature(parameters: &[ValType], results: &[ValType]) -> Signature {
    Signature {
        parameters: parameters.to_vec(),
        results: results.to_vec(),
    }
}

#[test]
fn pointers_are_as_wide_as_the_memory_and_nothing_else_is() {
    let sets = sets();
    for (name, narrow, wide) in [
        (
            "msg_arg_data_size",
            (&[][..], &[I32][..]),
            (&[][..], &[I64][..]),
        ),
        ("msg_arg_data_copy", (&[I32; 3], &[]), (&[I64; 3], &[])),
        ("call_new", (&[I32; 8], &[]), (&[I64; 8], &[])),
        ("call_perform", (&[], &[I32]), (&[], &[I32])),
        (
            "call_with_best_effort_response",
            (&[I32], &[]),
            (&[I32], &[]),
        ),
        (
            "msg_cycles_accept128",
            (&[I64, I64, I32], &[]),
            (&[I64; 3], &[]),
        ),
        (
            "cost_sign_with_ecdsa",
            (&[I32; 4], &[I32]),
            (&[I64, I64, I32, I64], &[I32]),
        ),
        ("env_var_count", (&[], &[I32]), (&[], &[I64])),
        ("is_controller", (&[I32; 2], &[I32]), (&[I64; 2], &[I32])),
        ("stable64_read", (&[I64; 3], &[]), (&[I64; 3], &[])),
        ("time", (&[], &[I64]), (&[], &[I64])),
    ] {
        let of = |(parameters, results): (&[ValType], &[ValType])| signature(parameters, results);
        assert_eq!(
            sets.of(false).signature("ic0", name),
            Some(&of(narrow)),
            "{name}"
        );
        assert_eq!(
            sets.of(true).signature("ic0", name),
            Some(&of(wide)),
            "{name}"
        );
    }
}

#[test]
fn wide_memories_lack_the_old_imports_alone() {
    let sets = sets();
    let missing: Vec<_> = sets
        .narrow
        .names("ic0")
        .filter(|name| sets.wide.signature("ic0", name).is_none())
        .collect();
    assert_eq!(
        missing,
        [
            "call_cycles_add",
            "canister_cycle_balance",
            "msg_cycles_accept",
            "msg_cycles_available",
            "msg_cycles_refunded",
            "stable_grow",
            "stable_read",
            "stable_size",
            "stable_write",
        ]
    );
    assert!(
        sets.wide
            .names("ic0")
            .all(|name| sets.narrow.signature("ic0", name).is_some())
    );
}
