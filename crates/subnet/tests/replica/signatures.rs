//! Canisters that sign for their users, as Internet Identity does, and what they say about them.
use crate::support::{
    START_NS, answer, call, certify, envelope, install, installation, open_stopped, step,
};
use bytes::Bytes;
use ic_certification::{HashTree, labeled, leaf};
use ic_management_canister_types::CanisterInstallMode;
use ic_principal::Principal;
use ic_transport_types::{Envelope, EnvelopeContent, QueryResponse, SenderInfo};
use lockstep_subnet::{
    application::Application as _,
    ingress::{IngressError, SignatureError},
    replica::{Replica, SubmitError},
    state::Status,
    tree::paths::Scope,
};
use serde::Serialize;
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;

/// Certifies its argument, gives the certificate, and says what it is told about callers, at once and in a callback.
const CANISTER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "msg_arg_data_size" (func $size (result i32)))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "certified_data_set" (func $certify (param i32 i32)))
    (import "ic0" "data_certificate_size" (func $certificate_size (result i32)))
    (import "ic0" "data_certificate_copy" (func $certificate (param i32 i32 i32)))
    (import "ic0" "msg_caller_info_data_size" (func $info_size (result i32)))
    (import "ic0" "msg_caller_info_data_copy" (func $info (param i32 i32 i32)))
    (import "ic0" "msg_caller_info_signer_size" (func $signer_size (result i32)))
    (import "ic0" "msg_caller_info_signer_copy" (func $signer (param i32 i32 i32)))
    (import "ic0" "canister_self_size" (func $self_size (result i32)))
    (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
    (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "ic0" "call_perform" (func $perform (result i32)))
    (memory 2)
    (table 1 funcref)
    (elem (i32.const 0) $after)
    (data (i32.const 100) "told")
    (func $tell
        (call $info (i32.const 1000) (i32.const 0) (call $info_size))
        (call $append (i32.const 1000) (call $info_size))
        (call $signer (i32.const 1000) (i32.const 0) (call $signer_size))
        (call $append (i32.const 1000) (call $signer_size))
        (call $reply))
    (func $after (param i32) (call $tell))
    (func (export "canister_update certify")
        (call $argument (i32.const 1000) (i32.const 0) (call $size))
        (call $certify (i32.const 1000) (call $size))
        (call $reply))
    (func (export "canister_query certificate")
        (call $certificate (i32.const 1000) (i32.const 0) (call $certificate_size))
        (call $append (i32.const 1000) (call $certificate_size))
        (call $reply))
    (func (export "canister_query told") (call $tell))
    (func (export "canister_update later")
        (call $self (i32.const 16) (i32.const 0) (call $self_size))
        (call $new (i32.const 16) (call $self_size) (i32.const 100) (i32.const 4)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (drop (call $perform))))"#;

const SEED: &[u8] = b"a user";
const INFO: &[u8] = b"who that is";
const EXPIRY_NS: u64 = START_NS + 200_000_000_000;

#[derive(Serialize)]
struct Signature {
    certificate: ByteBuf,
    tree: HashTree,
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The key with which a canister signs for the user, DER.
fn public_key(canister: Principal) -> Vec<u8> {
    let id = canister.as_slice();
    let key = [&[0, id.len() as u8], id, SEED].concat();
    let algorithm = b"\x30\x0c\x06\x0a\x2b\x06\x01\x04\x01\x83\xb8\x43\x01\x02";
    let length = (algorithm.len() + 2 + key.len()) as u8;
    [
        &[0x30, length],
        &algorithm[..],
        &[0x03, key.len() as u8],
        &key,
    ]
    .concat()
}

fn query(replica: &Replica, canister: Principal, envelope: &[u8]) -> Vec<u8> {
    let response = replica.query(Scope::Canister(canister), envelope);
    match serde_cbor::from_slice(&response.expect("it is answered")).expect("CBOR") {
        QueryResponse::Replied { reply, .. } => reply.arg,
        QueryResponse::Rejected { reject, .. } => panic!("{reject:?}"),
    }
}

/// Lets the canister sign a payload.
fn sign(replica: &Replica, canister: Principal, payload: &[u8]) -> Vec<u8> {
    let tree = labeled("sig", labeled(hash(SEED), labeled(hash(payload), leaf(""))));
    let nonce = replica.executed_height();
    let certified = call(canister, "certify", tree.digest().to_vec(), nonce);
    step(replica, vec![certified]);
    certify(replica);
    let asked = EnvelopeContent::Query {
        ingress_expiry: EXPIRY_NS,
        sender: Principal::anonymous(),
        canister_id: canister,
        method_name: "certificate".into(),
        arg: vec![],
        nonce: None,
        sender_info: None,
    };
    let certificate = ByteBuf::from(query(replica, canister, &envelope(asked)));
    let mut bytes = vec![0xd9, 0xd9, 0xf7];
    let signature = Signature { certificate, tree };
    bytes.extend(serde_cbor::to_vec(&signature).expect("a vector takes every byte"));
    bytes
}

/// A request of the user.
fn signed(replica: &Replica, canister: Principal, content: EnvelopeContent) -> Bytes {
    let message = content.to_request_id().signable();
    let envelope = Envelope {
        content: Cow::Owned(content),
        sender_pubkey: Some(public_key(canister)),
        sender_sig: Some(sign(replica, canister, &message)),
        sender_delegation: None,
    };
    envelope.encode_bytes().into()
}

fn update(canister: Principal, method: &str, sender_info: Option<SenderInfo>) -> EnvelopeContent {
    EnvelopeContent::Call {
        nonce: None,
        ingress_expiry: EXPIRY_NS,
        sender: Principal::self_authenticating(public_key(canister)),
        canister_id: canister,
        method_name: method.into(),
        arg: vec![],
        sender_info,
    }
}

fn with_canisters(test: impl FnOnce(&Replica, Principal, Principal)) {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open_stopped(&directory.path().join("state"));
    let ids = [7, 8].map(|index| {
        let (id, calls) = installation(index);
        let code = install(id, CanisterInstallMode::Install, CANISTER, index);
        step(&replica, vec![calls[0].clone(), code]);
        id
    });
    test(&replica, ids[0], ids[1]);
}

#[test]
fn a_canister_signs_for_its_user() {
    with_canisters(|replica, identity, _| {
        let told = signed(replica, identity, update(identity, "told", None));
        let address = Scope::Canister(identity);
        replica.submit(address, &told).expect("it is signed");
        step(replica, vec![told.clone()]);
        assert_eq!(answer(replica, &told), Status::Replied(vec![]));

        // With the signature of another request.
        let content = update(identity, "later", None);
        let other = Envelope {
            content: Cow::Owned(content),
            sender_pubkey: Some(public_key(identity)),
            sender_sig: Some(sign(replica, identity, b"another request")),
            sender_delegation: None,
        };
        let refused = replica.submit(address, &other.encode_bytes().into());
        assert_eq!(
            refused,
            Err(SubmitError::Invalid(IngressError::Signature(
                SignatureError::Invalid {
                    key_type: "canister",
                    reason: "its tree does not show that the canister signed this"
                }
            )))
        );
    });
}

#[test]
fn what_the_signer_says_of_the_user_is_told() {
    with_canisters(|replica, identity, other| {
        let sender_info = SenderInfo {
            info: INFO.to_vec(),
            signer: identity.as_slice().to_vec(),
            sig: sign(replica, identity, &[b"\x0Eic-sender-info", INFO].concat()),
        };
        let expected = [INFO, identity.as_slice()].concat();
        let address = Scope::Canister(identity);
        for method in ["told", "later"] {
            let content = update(identity, method, Some(sender_info.clone()));
            let called = signed(replica, identity, content);
            replica.submit(address, &called).expect("it is signed");
            step(replica, vec![called.clone()]);
            assert_eq!(answer(replica, &called), Status::Replied(expected.clone()));
        }
        let asked = EnvelopeContent::Query {
            ingress_expiry: EXPIRY_NS,
            sender: Principal::self_authenticating(public_key(identity)),
            canister_id: identity,
            method_name: "told".into(),
            arg: vec![],
            nonce: None,
            sender_info: Some(sender_info.clone()),
        };
        let asked = signed(replica, identity, asked);
        assert_eq!(query(replica, identity, &asked), expected);

        let refused = |sender_info: SenderInfo, expected: &'static str| {
            let content = update(identity, "told", Some(sender_info));
            let call = signed(replica, identity, content);
            let reason = IngressError::Signature(SignatureError::SenderInfo { reason: expected });
            assert_eq!(
                replica.submit(address, &call),
                Err(SubmitError::Invalid(reason))
            );
        };
        let changed = SenderInfo {
            info: b"who that is not".to_vec(),
            ..sender_info.clone()
        };
        refused(
            changed,
            "its tree does not show that the canister signed this",
        );
        let of_another = SenderInfo {
            signer: other.as_slice().to_vec(),
            ..sender_info.clone()
        };
        refused(of_another, "its signer is not the canister of the key");
        let long = SenderInfo {
            info: vec![0; (16 << 10) + 1],
            ..sender_info.clone()
        };
        refused(long, "it is too long");

        // Who does not sign by a canister has nobody to say it.
        let plain = ic_ed25519::PrivateKey::deserialize_raw_32(&[8; 32]);
        let key = plain.public_key().serialize_rfc8410_der();
        let mut content = update(identity, "told", Some(sender_info));
        if let EnvelopeContent::Call { sender, .. } = &mut content {
            *sender = Principal::self_authenticating(&key);
        }
        let signature = plain.sign_message(&content.to_request_id().signable());
        let call = Envelope {
            content: Cow::Owned(content),
            sender_pubkey: Some(key),
            sender_sig: Some(signature.to_vec()),
            sender_delegation: None,
        };
        let reason = "the sender's key is of no canister";
        assert_eq!(
            replica.submit(address, &call.encode_bytes().into()),
            Err(SubmitError::Invalid(IngressError::Signature(
                SignatureError::SenderInfo { reason }
            )))
        );
    });
}
