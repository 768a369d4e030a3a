//! The canister that clients use: a list of the numbers that it was given.
use candid::Encode;
use ic_ed25519::PrivateKey;
use ic_management_canister_types::{
    CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use ic_principal::Principal;
use ic_transport_types::{Envelope, EnvelopeContent};
use lockstep_subnet::state::canister_id;
use std::borrow::Cow;

/// `add` appends its argument (eight bytes) and replies with the list's new length; it also lets the canister
/// send itself a message, at which it counts. `fail` appends, too, and traps. `draw` appends and replies with the length
/// when random bytes have come, which it keeps. `list` replies with that count and the list.
const MODULE: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "canister_self_size" (func $self_size (result i32)))
    (import "ic0" "canister_self_copy" (func $self_copy (param i32 i32 i32)))
    (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "ic0" "call_data_append" (func $call_data (param i32 i32)))
    (import "ic0" "call_perform" (func $call_perform (result i32)))
    (import "ic0" "trap" (func $trap (param i32 i32)))
    (memory 8)
    (global $length (mut i64) (i64.const 0))
    (global $noted (mut i64) (i64.const 0))
    (data (i32.const 100) "notedno")
    (data (i32.const 120) "raw_randDIDL\00\00")
    (table funcref (elem $drawn $undrawn))
    (func $put
        (call $argument (i32.const 0) (i32.const 0) (i32.const 8))
        (i64.store
            (i32.add (i32.const 1024) (i32.mul (i32.const 8) (i32.wrap_i64 (global.get $length))))
            (i64.load (i32.const 0)))
        (global.set $length (i64.add (global.get $length) (i64.const 1))))
    (func (export "canister_update add")
        (call $put)
        (call $self_copy (i32.const 16) (i32.const 0) (call $self_size))
        (call $call_new (i32.const 16) (call $self_size) (i32.const 100) (i32.const 5)
            (i32.const -1) (i32.const -1) (i32.const -1) (i32.const -1))
        (if (call $call_perform) (then (call $trap (i32.const 105) (i32.const 2))))
        (i64.store (i32.const 8) (global.get $length))
        (call $append (i32.const 8) (i32.const 8))
        (call $reply))
    (func (export "canister_update draw")
        (call $put)
        (call $call_new (i32.const 0) (i32.const 0) (i32.const 120) (i32.const 8)
            (i32.const 0) (i32.wrap_i64 (global.get $length)) (i32.const 1) (i32.const 0))
        (call $call_data (i32.const 128) (i32.const 6))
        (if (call $call_perform) (then (call $trap (i32.const 105) (i32.const 2)))))
    (func $drawn (param $length i32)
        (call $argument (i32.const 200) (i32.const 0) (i32.const 42))
        (i64.store (i32.const 8) (i64.extend_i32_u (local.get $length)))
        (call $append (i32.const 8) (i32.const 8))
        (call $reply))
    (func $undrawn (param i32)
        (call $trap (i32.const 105) (i32.const 2)))
    (func (export "canister_update fail")
        (call $put)
        (call $trap (i32.const 105) (i32.const 2)))
    (func (export "canister_update noted")
        (global.set $noted (i64.add (global.get $noted) (i64.const 1)))
        (call $reply))
    (func (export "canister_query list")
        (i64.store (i32.const 8) (global.get $noted))
        (call $append (i32.const 8) (i32.const 8))
        (call $append (i32.const 1024) (i32.mul (i32.const 8) (i32.wrap_i64 (global.get $length))))
        (call $reply)))"#;

/// Its id.
pub(crate) fn id() -> Principal {
    canister_id(7)
}

/// Signed calls that create and install it.
pub(crate) fn deployment(key: &PrivateKey, expiry_ns: u64) -> [Envelope<'static>; 2] {
    let create = ProvisionalCreateCanisterWithCyclesArgs {
        specified_id: Some(id()),
        ..Default::default()
    };
    let install = InstallCodeArgs {
        mode: CanisterInstallMode::Install,
        canister_id: id(),
        wasm_module: wat::parse_str(MODULE).expect("the text is a module"),
        arg: vec![],
        sender_canister_version: None,
    };
    let management = Principal::management_canister();
    [
        (
            "provisional_create_canister_with_cycles",
            Encode!(&create).expect("Candid"),
        ),
        ("install_code", Encode!(&install).expect("Candid")),
    ]
    .map(|(method, argument)| signed_call(key, management, method, argument, expiry_ns))
}

/// A call with a signature.
pub(crate) fn signed_call(
    key: &PrivateKey,
    canister: Principal,
    method: &str,
    argument: Vec<u8>,
    expiry_ns: u64,
) -> Envelope<'static> {
    let public_key = key.public_key().serialize_rfc8410_der();
    let content = EnvelopeContent::Call {
        nonce: None,
        ingress_expiry: expiry_ns,
        sender: Principal::self_authenticating(&public_key),
        canister_id: canister,
        method_name: method.into(),
        arg: argument,
        sender_info: None,
    };
    let signature = key.sign_message(&content.to_request_id().signable());
    Envelope {
        content: Cow::Owned(content),
        sender_pubkey: Some(public_key),
        sender_sig: Some(signature.to_vec()),
        sender_delegation: None,
    }
}

/// An anonymous query for the list.
pub(crate) fn list_query(expiry_ns: u64) -> Envelope<'static> {
    Envelope {
        content: Cow::Owned(EnvelopeContent::Query {
            nonce: None,
            ingress_expiry: expiry_ns,
            sender: Principal::anonymous(),
            canister_id: id(),
            method_name: "list".into(),
            arg: vec![],
            sender_info: None,
        }),
        sender_pubkey: None,
        sender_sig: None,
        sender_delegation: None,
    }
}
