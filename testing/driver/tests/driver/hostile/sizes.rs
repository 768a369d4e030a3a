//! Messages as long as they may be, and a byte longer.
use super::{Witness, told};
use crate::support::anonymous;
use bytes::Bytes;
use ic_principal::Principal;
use ic_transport_types::{Envelope, EnvelopeContent};
use lockstep_driver::Subnet;
use lockstep_subnet::ingress::{Ingress, IngressError, MESSAGE_BYTES_MAX};
use std::borrow::Cow;

const MIB: usize = 1 << 20;

/// Says how long its argument is, replies with as many bytes as asked for, and asks another canister for either.
const SIZES: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "msg_arg_data_size" (func $argument_size (result i32)))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "msg_reject_code" (func $reject_code (result i32)))
    (import "ic0" "msg_reject_msg_size" (func $reject_size (result i32)))
    (import "ic0" "msg_reject_msg_copy" (func $reject (param i32 i32 i32)))
    (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "ic0" "call_data_append" (func $data (param i32 i32)))
    (import "ic0" "call_perform" (func $perform (result i32)))
    (memory 200) (table 2 funcref) (elem (i32.const 0) $size $on_reject)
    (data (i32.const 100) "size") (data (i32.const 110) "reply")
    (func $answer (param i32)
        (i32.store (i32.const 0) (local.get 0)) (call $append (i32.const 0) (i32.const 4)) (call $reply))
    (func $size (param i32) (call $answer (call $argument_size)))
    (func $on_reject (param i32)
        (i32.store (i32.const 0) (call $reject_code)) (call $append (i32.const 0) (i32.const 4))
        (call $reject (i32.const 200) (i32.const 0) (call $reject_size))
        (call $append (i32.const 200) (call $reject_size)) (call $reply))
    (func $as_long_as_asked
        (call $argument (i32.const 0) (i32.const 0) (i32.const 4))
        (call $append (i32.const 65536) (i32.load (i32.const 0))) (call $reply))
    (func $ask (param $name i32) (param $name_size i32)
        (call $argument (i32.const 0) (i32.const 0) (i32.const 14))
        (call $new (i32.const 4) (i32.const 10) (local.get $name) (local.get $name_size)
            (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)))
    (func (export "canister_update size") (call $size (i32.const 0)))
    (func (export "canister_update reply") (call $as_long_as_asked))
    (func (export "canister_query read") (call $as_long_as_asked))
    (func (export "canister_update ask_size") (call $ask (i32.const 100) (i32.const 4))
        (call $data (i32.const 65536) (i32.load (i32.const 0))) (drop (call $perform)))
    (func (export "canister_update ask_reply") (call $ask (i32.const 110) (i32.const 5))
        (call $data (i32.const 0) (i32.const 4)) (drop (call $perform))))"#;

/// A subnet of two canisters that ask each other, and one more.
fn subnet() -> (Subnet, [Principal; 3]) {
    let mut subnet = Subnet::new();
    let wasm = wat::parse_str(SIZES).unwrap();
    let ids = [(); 3].map(|()| {
        let id = subnet.create_canister();
        subnet.install(id, &wasm, b"").unwrap();
        id
    });
    (subnet, ids)
}

fn number(bytes: usize) -> [u8; 4] {
    (bytes as u32).to_le_bytes()
}

/// A user's call as the driver makes it.
fn envelope(subnet: &Subnet, canister: Principal, argument_bytes: usize) -> Bytes {
    let content = EnvelopeContent::Call {
        nonce: Some(vec![0; 8]),
        ingress_expiry: subnet.time_ns() + 240_000_000_000,
        sender: anonymous(),
        canister_id: canister,
        method_name: "size".into(),
        arg: vec![7; argument_bytes],
        sender_info: None,
    };
    let content = Cow::Owned(content);
    let envelope = Envelope {
        content,
        sender_pubkey: None,
        sender_sig: None,
        sender_delegation: None,
    };
    envelope.encode_bytes().into()
}

#[test]
fn users_calls() {
    let (mut subnet, [id, _, other]) = subnet();
    let beside = envelope(&subnet, id, MIB).len() - MIB;
    let longest = MESSAGE_BYTES_MAX - beside;
    assert!(Ingress::decode(&envelope(&subnet, id, longest)).is_ok());
    let error = Ingress::decode(&envelope(&subnet, id, longest + 1)).unwrap_err();
    let bytes = MESSAGE_BYTES_MAX + 1;
    assert_eq!(error, IngressError::TooLarge { bytes });
    assert_eq!(
        error.to_string(),
        "the request is too large: 2097153 bytes, the limit is 2097152"
    );
    let witness = Witness::new(&subnet, other);
    let argument = vec![7; longest];
    let reply = subnet.update(id, anonymous(), "size", &argument);
    assert_eq!(reply.unwrap(), number(longest));
    witness.check(&subnet);
}

fn too_long(id: Principal, bytes: usize, limit: usize) -> String {
    format!(
        "Error from Canister {id}: Canister violated contract: ic0.msg_reply_data_append: application payload size ({bytes}) cannot be larger than {limit}."
    )
}

#[test]
fn replies_to_users() {
    let (mut subnet, [id, _, other]) = subnet();
    let witness = Witness::new(&subnet, other);
    let reply = subnet.update(id, anonymous(), "reply", &number(2 * MIB));
    assert_eq!(reply.unwrap().len(), 2 * MIB);
    let longer = 2 * MIB + 1;
    let reject = subnet.update(id, anonymous(), "reply", &number(longer));
    assert_eq!(
        told(reject.unwrap_err()),
        (504, too_long(id, longer, 2 * MIB))
    );
    // A query as an update is bound as updates are.
    let reject = subnet.update(id, anonymous(), "read", &number(longer));
    assert_eq!(
        told(reject.unwrap_err()),
        (504, too_long(id, longer, 2 * MIB))
    );
    let reply = subnet.query(id, anonymous(), "read", &number(3 * MIB));
    assert_eq!(reply.unwrap().len(), 3 * MIB);
    let longer = 3 * MIB + 1;
    let reject = subnet.query(id, anonymous(), "read", &number(longer));
    assert_eq!(
        told(reject.unwrap_err()),
        (504, too_long(id, longer, 3 * MIB))
    );
    witness.check(&subnet);
}

#[test]
fn calls_and_replies_between_canisters() {
    let (mut subnet, [id, callee, other]) = subnet();
    let witness = Witness::new(&subnet, other);
    let mut ask = |method: &str, bytes: usize| {
        let argument = [&number(bytes)[..], callee.as_slice()].concat();
        let result = subnet.update(id, anonymous(), method, &argument);
        witness.check(&subnet);
        result.map_err(told)
    };
    // The method's name counts.
    let longest = 10 * MIB - "size".len();
    for bytes in [2_000_000, 2 * MIB, longest] {
        // Four bytes come back, which hold the size.
        assert_eq!(ask("ask_size", bytes), Ok(number(4).to_vec()));
    }
    let (code, text) = ask("ask_size", longest + 1).unwrap_err();
    let expected = format!(
        "Error from Canister {id}: Canister violated contract: Request to {callee}:size has a payload size of 10485761, which exceeds the allowed limit of 10485760."
    );
    assert_eq!((code, text), (504, expected));
    assert_eq!(ask("ask_reply", 2 * MIB), Ok(number(2 * MIB).to_vec()));
    let longer = 2 * MIB + 1;
    let reply = ask("ask_reply", longer).unwrap();
    assert_eq!(reply[..4], 5_u32.to_le_bytes());
    let expected = format!("IC0504: {}", too_long(callee, longer, 2 * MIB));
    assert_eq!(reply[4..], *expected.as_bytes());
}
