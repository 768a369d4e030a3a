use super::*;
use crate::ingress::{
    signature::{SignatureError, verify_key},
    tests::wrapped,
};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
};
use ciborium::cbor;

/// A key of 2048 bits in PKCS #8, of no use but here.
const RSA_KEY: &[u8] = include_bytes!("rsa.der");

/// An authenticator, with a fixed key of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ingress) enum Authenticator {
    Es256,
    Rs256,
    EdDsa,
}

const ALL: [Authenticator; 3] = [
    Authenticator::Es256,
    Authenticator::Rs256,
    Authenticator::EdDsa,
];

/// What is signed, and by which site's wish.
struct Wish {
    r#type: &'static str,
    challenge: String,
}

impl Wish {
    fn of(payload: &[u8]) -> Self {
        Self {
            r#type: "webauthn.get",
            challenge: URL_SAFE_NO_PAD.encode(payload),
        }
    }

    fn json(&self) -> String {
        let Self { r#type, challenge } = self;
        format!(
            r#"{{"type":"{type}","challenge":"{challenge}","origin":"https://app.example","crossOrigin":false}}"#
        )
    }
}

fn es256() -> ic_secp256r1::PrivateKey {
    ic_secp256r1::PrivateKey::generate_insecure_key_for_testing(2)
}

fn rs256() -> RsaKeyPair {
    RsaKeyPair::from_pkcs8(RSA_KEY).expect("a key")
}

fn ed_dsa() -> ic_ed25519::PrivateKey {
    ic_ed25519::PrivateKey::deserialize_raw_32(&[11; 32])
}

fn cbor(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a vector takes every byte");
    bytes
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(bytes.to_vec())
}

impl Authenticator {
    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "WebAuthn ES256",
            Self::Rs256 => "WebAuthn RS256",
            Self::EdDsa => "WebAuthn EdDSA",
        }
    }

    /// The key's parameters in COSE.
    fn parameters(self) -> Vec<(i64, Value)> {
        match self {
            Self::Es256 => {
                let point = es256().public_key().serialize_sec1(false);
                vec![
                    (1, 2.into()),
                    (3, (-7).into()),
                    (-1, 1.into()),
                    (-2, bytes(&point[1..33])),
                    (-3, bytes(&point[33..])),
                ]
            }
            Self::Rs256 => {
                // DER of modulus and exponent, after heads of 9 and before one of 2 bytes.
                let public = rs256().public_key().as_ref().to_vec();
                vec![
                    (1, 3.into()),
                    (3, (-257).into()),
                    (-1, bytes(&public[9..265])),
                    (-2, bytes(&public[267..])),
                ]
            }
            Self::EdDsa => vec![
                (1, 1.into()),
                (3, (-8).into()),
                (-1, 6.into()),
                (-2, bytes(&ed_dsa().public_key().serialize_raw())),
            ],
        }
    }

    /// The key in COSE, in DER.
    pub(in crate::ingress) fn public_key(self) -> Vec<u8> {
        key(self.parameters())
    }

    fn sign_bytes(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Es256 => es256().sign_message_with_der_encoded_sig(message),
            Self::Rs256 => {
                let mut signature = vec![0; 256];
                rs256()
                    .sign(
                        &RSA_PKCS1_SHA256,
                        &SystemRandom::new(),
                        message,
                        &mut signature,
                    )
                    .expect("it signs");
                signature
            }
            Self::EdDsa => ed_dsa().sign_message(message).to_vec(),
        }
    }

    /// What it answers to a wish, before it is put in CBOR.
    fn answer(self, wish: &Wish) -> [Vec<u8>; 3] {
        let data = [&[7; 32][..], &[5, 0, 0, 0, 1]].concat();
        let json = wish.json();
        let message = [&data[..], &Sha256::digest(&json)].concat();
        [data, json.into_bytes(), self.sign_bytes(&message)]
    }

    /// A signature of a payload.
    pub(in crate::ingress) fn sign(self, payload: &[u8]) -> Vec<u8> {
        assertion(self.answer(&Wish::of(payload)))
    }
}

fn key(parameters: Vec<(i64, Value)>) -> Vec<u8> {
    let entries = parameters.into_iter();
    let entries = entries.map(|(label, value)| (label.into(), value));
    wrapped(1, &cbor(&Value::Map(entries.collect())))
}

fn assertion([data, json, signature]: [Vec<u8>; 3]) -> Vec<u8> {
    let json = String::from_utf8(json).expect("it is text");
    let value = cbor!({
        "authenticator_data" => bytes(&data),
        "client_data_json" => json,
        "signature" => bytes(&signature),
    });
    [&SELF_DESCRIBED[..], &cbor(&value.expect("CBOR"))].concat()
}

fn outcome(key: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    verify_key(key, signature, PAYLOAD, &[])
}

/// Longer than a block of base64, and no multiple of one.
const PAYLOAD: &[u8] = b"\x0Aic-request and what follows, \xff\xfe\xfd\xfc";

#[test]
fn authenticators_sign_with_keys_of_three_kinds() {
    for authenticator in ALL {
        let public_key = authenticator.public_key();
        let signature = authenticator.sign(PAYLOAD);
        assert_eq!(outcome(&public_key, &signature), Ok(()));
        for other in ALL {
            let by_other = outcome(&other.public_key(), &signature);
            assert_eq!(by_other.is_ok(), other == authenticator);
        }
    }
}

/// The example of the interface specification.
#[test]
fn the_key_of_the_specification_is_read() {
    let key = hex::decode(concat!(
        "305e300c060a2b0601040183b8430101034e00a50102032620012158207ffd83632072fd1bfeaf3fbaa43146e0",
        "ef95c3f55e3994a41bbf2b5174d771da22582032497eed0a7f6f000928765b8318162cfd80a94e525a6a368c23",
        "63063d04e6ed",
    ));
    let key = key.expect("hexadecimal");
    assert_eq!(
        outcome(&key, &Authenticator::Es256.sign(PAYLOAD)),
        Err(SignatureError::Invalid {
            key_type: "WebAuthn ES256",
            reason: "the key has not signed it"
        })
    );
}

#[test]
fn each_part_of_an_assertion_counts() {
    for authenticator in ALL {
        let public_key = authenticator.public_key();
        let refused = |signature: &[u8], expected: &str| {
            let error = outcome(&public_key, signature).expect_err("it is refused");
            let SignatureError::Invalid { key_type, reason } = error else {
                panic!("{error}");
            };
            assert_eq!((key_type, reason), (authenticator.name(), expected));
        };
        let unsigned = "the key has not signed it";
        let malformed = "it is no CBOR of authenticator_data, client_data_json and signature";
        let original = authenticator.answer(&Wish::of(PAYLOAD));
        for part in [0, 2] {
            for bit in 0..original[part].len() * 8 {
                let mut changed = original.clone();
                changed[part][bit / 8] ^= 1 << (bit % 8);
                refused(&assertion(changed), unsigned);
            }
            let mut longer = original.clone();
            longer[part].push(0);
            refused(&assertion(longer), unsigned);
            let mut shorter = original.clone();
            shorter[part].pop();
            refused(&assertion(shorter), unsigned);
        }
        let mut spaced = original.clone();
        spaced[1].push(b' ');
        refused(&assertion(spaced), unsigned);
        let mut no_json = original.clone();
        no_json[1].pop();
        refused(&assertion(no_json), "client_data_json is no client data");

        let another = Wish::of(b"another payload");
        let padded = Wish {
            challenge: Wish::of(PAYLOAD).challenge + "=",
            ..Wish::of(PAYLOAD)
        };
        for wish in [another, padded] {
            let reason = "the challenge is another than what is to be signed";
            refused(&assertion(authenticator.answer(&wish)), reason);
        }
        let registration = Wish {
            r#type: "webauthn.create",
            ..Wish::of(PAYLOAD)
        };
        let reason = "the client data is of no assertion";
        refused(&assertion(authenticator.answer(&registration)), reason);

        let signature = assertion(original);
        refused(&signature[3..], malformed);
        refused(&[&signature[..], &[0]].concat(), malformed);
        refused(&[], malformed);
        let mut bytes = &signature[3..];
        let value: Value = ciborium::from_reader(&mut bytes).expect("CBOR");
        let entries = value.into_map().expect("a map");
        let with = |entries: Vec<(Value, Value)>| {
            [&SELF_DESCRIBED[..], &cbor(&Value::Map(entries))].concat()
        };
        for index in 0..entries.len() {
            let mut fewer = entries.clone();
            let removed = fewer.remove(index);
            refused(&with(fewer), malformed);
            let mut twice = entries.clone();
            twice.push(removed);
            refused(&with(twice), malformed);
        }
        let mut more = entries;
        more.push(("more".into(), 1.into()));
        refused(&with(more), malformed);
    }
}

#[test]
fn each_parameter_of_a_key_counts() {
    for authenticator in ALL {
        let signature = authenticator.sign(PAYLOAD);
        let parameters = authenticator.parameters();
        let refused = |parameters: Vec<(i64, Value)>| {
            let error = outcome(&key(parameters.clone()), &signature);
            assert!(error.is_err(), "{authenticator:?} {parameters:?}");
        };
        for index in 0..parameters.len() {
            let mut fewer = parameters.clone();
            let removed = fewer.remove(index);
            refused(fewer);
            let mut twice = parameters.clone();
            twice.push(removed);
            refused(twice);
            for value in [
                Value::Null,
                0.into(),
                (-300).into(),
                bytes(&[]),
                bytes(&[1; 32]),
            ] {
                let mut other = parameters.clone();
                other[index].1 = value;
                refused(other);
            }
        }
    }
    // What is no COSE key at all.
    for cose in [&[][..], &[0xa0], &[0x80], &[0xff], b"\xa1\x01\x02"] {
        assert_eq!(
            outcome(&wrapped(1, cose), &[]),
            Err(SignatureError::Invalid {
                key_type: "WebAuthn",
                reason: "the key is neither ES256, RS256 nor Ed25519 in COSE"
            })
        );
    }
}

#[test]
fn small_rsa_keys_are_refused() {
    let mut parameters = Authenticator::Rs256.parameters();
    parameters[2].1 = bytes(&[0xff; 128]);
    let signature = Authenticator::Rs256.sign(PAYLOAD);
    assert!(outcome(&key(parameters), &signature).is_err());
}
