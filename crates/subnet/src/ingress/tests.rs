mod mutations;

use super::{
    canister_signature::tests::{Signer as Canister, root_key},
    webauthn::tests::Authenticator,
    *,
};
use ic_transport_types::{Delegation, DelegationPermissions, SignedDelegation};
use proptest::prelude::*;
use std::borrow::Cow;

const NOW_NS: u64 = 1_700_000_000_000_000_000;

fn key() -> ic_ed25519::PrivateKey {
    ic_ed25519::PrivateKey::deserialize_raw_32(&[7; 32])
}

fn content(sender: Principal, expiry_ns: u64, nonce: Option<Vec<u8>>) -> EnvelopeContent {
    EnvelopeContent::Call {
        nonce,
        ingress_expiry: expiry_ns,
        sender,
        canister_id: Principal::management_canister(),
        method_name: "create_canister".into(),
        arg: b"DIDL\0\0".to_vec(),
        sender_info: None,
    }
}

fn signed(expiry_ns: u64) -> Envelope<'static> {
    let public_key = key().public_key().serialize_rfc8410_der();
    let content = content(
        Principal::self_authenticating(&public_key),
        expiry_ns,
        Some(vec![1; 8]),
    );
    let signature = key().sign_message(&content.to_request_id().signable());
    Envelope {
        content: Cow::Owned(content),
        sender_pubkey: Some(public_key),
        sender_sig: Some(signature.to_vec()),
        sender_delegation: None,
    }
}

fn check(envelope: &Envelope<'_>) -> Result<Ingress, IngressError> {
    Ingress::check(&envelope.encode_bytes().into(), &root_key(), NOW_NS)
}

#[test]
fn a_signed_call_is_taken_with_and_without_the_tag() {
    let bytes = signed(NOW_NS + 1).encode_bytes();
    assert!(bytes.starts_with(&SELF_DESCRIBED));
    let [tagged, bare] = [&bytes[..], &bytes[3..]].map(|bytes| {
        let bytes = Bytes::copy_from_slice(bytes);
        Ingress::check(&bytes, &root_key(), NOW_NS).expect("it is valid")
    });
    assert_eq!(tagged.id, bare.id);
    assert_eq!(tagged.method, "create_canister");
}

#[test]
fn keys_of_every_type_sign() {
    let message = signed(NOW_NS + 1).content.to_request_id().signable();
    let check = |public_key: &[u8], signature: &[u8]| {
        let sender = Principal::self_authenticating(public_key);
        let at = At {
            root_key: &root_key(),
            now_ns: NOW_NS,
        };
        signature::verify(
            &sender,
            Some(public_key),
            &[],
            Some(signature),
            &message,
            at,
        )
        .map(drop)
    };
    let k1 = ic_secp256k1::PrivateKey::generate_from_seed(b"seed");
    let r1 = ic_secp256r1::PrivateKey::generate_insecure_key_for_testing(1);
    let passkey = Authenticator::Es256;
    let canister = Canister::default();
    let signed = [
        (
            "ECDSA secp256k1",
            k1.public_key().serialize_der(),
            k1.sign_message_with_ecdsa(&message).to_vec(),
        ),
        (
            "ECDSA P-256",
            r1.public_key().serialize_der(),
            r1.sign_message(&message).to_vec(),
        ),
        (
            "WebAuthn ES256",
            passkey.public_key(),
            passkey.sign(&message),
        ),
        ("canister", canister.public_key(), canister.sign(&message)),
    ];
    for (key_type, public_key, signature) in signed {
        assert_eq!(check(&public_key, &signature), Ok(()), "{key_type}");
        for wrong in [vec![0; 64], signature[1..].to_vec(), vec![]] {
            let Err(IngressError::Signature(error)) = check(&public_key, &wrong) else {
                panic!("{key_type}");
            };
            let SignatureError::Invalid {
                key_type: named, ..
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!(named, key_type);
        }
        let bytes = 32 * 1024 + 1;
        let too_long = check(&public_key, &vec![0; bytes]);
        assert_eq!(too_long, Err(SignatureError::TooLong { bytes }.into()));
    }
    let unknown = [&[][..], b"a key", &wrapped(3, b"a key of a third kind")];
    for public_key in unknown {
        let refused = check(public_key, &[]);
        assert_eq!(refused, Err(SignatureError::UnknownKey.into()));
    }
    let bytes = 1025;
    let refused = check(&vec![0; bytes], &[]);
    assert_eq!(refused, Err(SignatureError::TooLong { bytes }.into()));
}

/// A key in DER, under the identifier 1.3.6.1.4.1.56387.1.`kind`.
pub(super) fn wrapped(kind: u8, key: &[u8]) -> Vec<u8> {
    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = content.len();
        let mut bytes = vec![tag];
        match length {
            0..0x80 => {}
            0x80..0x100 => bytes.push(0x81),
            _ => bytes.extend([0x82, (length >> 8) as u8]),
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(content);
        bytes
    }
    let identifier = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xb8, 0x43, 0x01, kind];
    let algorithm = value(0x30, &value(0x06, &identifier));
    let key = value(0x03, &[&[0], key].concat());
    value(0x30, &[algorithm, key].concat())
}

#[test]
fn the_window_of_validity_is_closed_on_both_sides() {
    let latest = NOW_NS + INGRESS_TTL_NS + DRIFT_NS;
    assert!(check(&signed(NOW_NS)).is_ok());
    assert!(check(&signed(latest)).is_ok());
    assert!(matches!(
        check(&signed(NOW_NS - 1)),
        Err(IngressError::Expired { .. })
    ));
    assert!(matches!(
        check(&signed(latest + 1)),
        Err(IngressError::ExpiryTooFar { .. })
    ));
}

#[test]
fn nobody_can_speak_for_another() {
    let mut envelope = signed(NOW_NS + 1);
    envelope.sender_sig = Some(vec![0; 64]);
    assert!(matches!(
        check(&envelope),
        Err(IngressError::Signature(SignatureError::Invalid { .. }))
    ));
    envelope.sender_sig = None;
    assert!(matches!(
        check(&envelope),
        Err(IngressError::Signature(SignatureError::Missing { .. }))
    ));
    let mut envelope = signed(NOW_NS + 1);
    envelope.content = Cow::Owned(content(Principal::from_slice(&[9, 2]), NOW_NS + 1, None));
    assert!(matches!(
        check(&envelope),
        Err(IngressError::Signature(SignatureError::OtherSender { .. }))
    ));
    envelope.content = Cow::Owned(content(Principal::anonymous(), NOW_NS + 1, None));
    assert!(matches!(
        check(&envelope),
        Err(IngressError::Signature(SignatureError::AnonymousSigned))
    ));
}

#[test]
fn long_nonces_and_long_envelopes_are_refused() {
    let envelope = Envelope {
        content: Cow::Owned(content(
            Principal::anonymous(),
            NOW_NS + 1,
            Some(vec![0; 33]),
        )),
        sender_pubkey: None,
        sender_sig: None,
        sender_delegation: None,
    };
    assert_eq!(
        check(&envelope).unwrap_err(),
        IngressError::NonceTooLong { bytes: 33 }
    );
    let bytes = MESSAGE_BYTES_MAX + 1;
    assert_eq!(
        Request::decode(&vec![0; bytes]).unwrap_err(),
        IngressError::TooLarge { bytes }
    );
}

#[test]
fn envelopes_cannot_be_padded() {
    let bytes = signed(NOW_NS + 1).encode_bytes();
    let whole: ciborium::Value = ciborium::from_reader(&bytes[3..]).expect("CBOR");
    let add = |map: &mut ciborium::Value| {
        let entries = map.as_map_mut().expect("a map");
        entries.push(("padding".into(), vec![0_u8; 9].into()));
    };
    let mut outside = whole.clone();
    add(&mut outside);
    let mut inside = whole.clone();
    let content = inside.as_map_mut().expect("a map").iter_mut();
    let content = content.map(|(_, value)| value).find(|value| value.is_map());
    add(content.expect("the content"));
    let decode = |value: &ciborium::Value| {
        let mut bytes = Vec::new();
        ciborium::into_writer(value, &mut bytes).expect("a vector takes every byte");
        Ingress::check(&bytes.into(), &root_key(), NOW_NS)
    };
    decode(&whole).expect("it is valid");
    for padded in [outside, inside] {
        assert!(matches!(
            decode(&padded),
            Err(IngressError::Malformed { .. })
        ));
    }
}

/// A call that another key signed, by a delegation with something changed before it is signed.
fn delegated(change: impl FnOnce(&mut Delegation)) -> Envelope<'static> {
    let other = ic_ed25519::PrivateKey::deserialize_raw_32(&[8; 32]);
    let mut delegation = Delegation {
        pubkey: other.public_key().serialize_rfc8410_der(),
        expiration: NOW_NS + 3,
        targets: None,
        permissions: None,
    };
    change(&mut delegation);
    let signature = key().sign_message(&delegation.signable()).to_vec();
    let envelope = signed(NOW_NS + 10);
    let message = envelope.content.to_request_id().signable();
    Envelope {
        sender_sig: Some(other.sign_message(&message).to_vec()),
        sender_delegation: Some(vec![SignedDelegation {
            delegation,
            signature,
        }]),
        ..envelope
    }
}

#[test]
fn another_key_may_sign_if_delegations_say_so() {
    let call = check(&delegated(|_| {})).expect("it is allowed");
    assert_eq!(call.id, signed(NOW_NS + 10).content.to_request_id());
    // Until the delegation ends, which is before the call does.
    assert_eq!(call.check_again(NOW_NS + 3), Ok(()));
    let ended = IngressError::Expired {
        expiry_ns: NOW_NS + 3,
        now_ns: NOW_NS + 4,
    };
    assert_eq!(call.check_again(NOW_NS + 4), Err(ended));
    let targets = |targets: &[Principal]| {
        let targets = Some(targets.to_vec());
        check(&delegated(|delegation| delegation.targets = targets)).map(drop)
    };
    let management = Principal::management_canister();
    assert_eq!(targets(&[Principal::anonymous(), management]), Ok(()));
    assert_eq!(
        targets(&[Principal::anonymous()]),
        Err(DelegationError::NotATarget {
            canister: management
        }
        .into())
    );
    let queries = |delegation: &mut Delegation| {
        delegation.permissions = Some(DelegationPermissions::Queries);
    };
    assert_eq!(
        check(&delegated(queries)).map(drop),
        Err(DelegationError::OnlyQueries.into())
    );
    let mut by_the_sender = delegated(|_| {});
    by_the_sender.sender_sig = signed(NOW_NS + 10).sender_sig;
    assert!(matches!(
        check(&by_the_sender),
        Err(IngressError::Signature(SignatureError::Invalid { .. }))
    ));
}

proptest! {
    #[test]
    fn no_mutation_panics_or_keeps_the_signature_for_other_content(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
        by_delegation in any::<bool>(),
    ) {
        let original = if by_delegation {
            delegated(|_| {})
        } else {
            signed(NOW_NS + 1)
        };
        let original = original.encode_bytes();
        let mut bytes = original.clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        let id = Ingress::check(&original.into(), &root_key(), NOW_NS).expect("it is valid").id;
        if let Ok(call) = Ingress::check(&bytes.into(), &root_key(), NOW_NS) {
            prop_assert!(call.id == id || call.sender == Principal::anonymous());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(&bytes);
    }
}
