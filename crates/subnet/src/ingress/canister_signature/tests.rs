use super::*;
use crate::{
    ingress::{
        signature::{SignatureError, canister_key, verify_key},
        tests::wrapped,
    },
    state::{Genesis, canister_id},
    tree::{Tree, state::self_described_cbor},
};
use ic_certification::{Certificate as Written, Delegation, HashTree};
use serde::Serialize;
use std::collections::BTreeMap;

fn subnet_key(scalar: u8) -> ic_verify_bls_signature::PrivateKey {
    let mut bytes = [0; 32];
    bytes[31] = scalar;
    ic_verify_bls_signature::PrivateKey::deserialize(&bytes).expect("a scalar")
}

/// The key of the subnet that canisters are of here, DER.
pub(in crate::ingress) fn root_key() -> Vec<u8> {
    let node = ic_ed25519::PrivateKey::deserialize_raw_32(&[3; 32]);
    let nodes = [node.public_key().serialize_raw()];
    let public = subnet_key(5).public_key().serialize();
    let genesis = Genesis::new(&public, &nodes, BTreeMap::new());
    genesis.expect("the keys are keys").root_key
}

/// A canister that signs.
#[derive(Debug, Clone)]
pub(in crate::ingress) struct Signer {
    pub(in crate::ingress) canister: Principal,
    seed: &'static [u8],
}

impl Default for Signer {
    fn default() -> Self {
        Self {
            canister: canister_id(9),
            seed: b"a user",
        }
    }
}

/// A signature, part by part.
#[derive(Debug, Clone)]
struct Parts {
    subnet: u8,
    certified: Vec<u8>,
    tree: HashTree,
    delegation: Option<Delegation>,
}

#[derive(Serialize)]
struct Encoded {
    certificate: ByteBuf,
    tree: HashTree,
}

impl Signer {
    /// Its key, in DER.
    pub(in crate::ingress) fn public_key(&self) -> Vec<u8> {
        let id = self.canister.as_slice();
        wrapped(2, &[&[id.len() as u8], id, self.seed].concat())
    }

    fn parts(&self, payload: &[u8]) -> Parts {
        let signatures = Tree::directory(&[
            Tree::labeled(Sha256::digest(payload).to_vec(), Tree::leaf("")),
            Tree::labeled(vec![255; 32], Tree::leaf("")),
        ]);
        let seed = Sha256::digest(self.seed);
        let tree = Tree::named([("sig", Tree::labeled(seed.to_vec(), signatures))]);
        let path = vec![
            b"sig".to_vec(),
            seed.to_vec(),
            Sha256::digest(payload).to_vec(),
        ];
        Parts {
            subnet: 5,
            certified: tree.digest().to_vec(),
            tree: tree.witness(&[path]),
            delegation: None,
        }
    }

    fn encode(&self, parts: Parts) -> Vec<u8> {
        let data = Tree::named([("certified_data", Tree::leaf(parts.certified))]);
        let state = Tree::named([
            ("canister", Tree::labeled(self.canister.as_slice(), data)),
            ("time", Tree::leaf("now")),
        ]);
        let tree = state.witness(&[vec![b"canister".to_vec()], vec![b"time".to_vec()]]);
        let message = [ROOT_DOMAIN, &tree.digest()].concat();
        let certificate = Written {
            tree,
            signature: subnet_key(parts.subnet).sign(&message).serialize().to_vec(),
            delegation: parts.delegation,
        };
        self_described_cbor(&Encoded {
            certificate: ByteBuf::from(self_described_cbor(&certificate)),
            tree: parts.tree,
        })
    }

    /// A signature of a payload.
    pub(in crate::ingress) fn sign(&self, payload: &[u8]) -> Vec<u8> {
        self.encode(self.parts(payload))
    }
}

const PAYLOAD: &[u8] = b"\x0Aic-request and what follows";

fn outcome(public_key: &[u8], signature: &[u8], payload: &[u8]) -> Result<(), SignatureError> {
    verify_key(public_key, signature, payload, &root_key())
}

#[track_caller]
fn refused(public_key: &[u8], signature: &[u8], expected: &'static str) {
    assert_eq!(
        outcome(public_key, signature, PAYLOAD),
        Err(SignatureError::Invalid {
            key_type: "canister",
            reason: expected
        })
    );
}

#[test]
fn what_a_canister_has_certified_is_signed() {
    let signer = Signer::default();
    let (key, signature) = (signer.public_key(), signer.sign(PAYLOAD));
    assert_eq!(outcome(&key, &signature, PAYLOAD), Ok(()));
    let unsigned = "its tree does not show that the canister signed this";
    assert_eq!(
        outcome(&key, &signature, b"another payload"),
        Err(SignatureError::Invalid {
            key_type: "canister",
            reason: unsigned
        })
    );
    let other_seed = Signer {
        seed: b"another user",
        ..signer.clone()
    };
    refused(&other_seed.public_key(), &signature, unsigned);
    let other_canister = Signer {
        canister: canister_id(10),
        ..signer
    };
    let unshown = "its certificate does not show the root of its tree";
    refused(&other_canister.public_key(), &signature, unshown);
}

#[test]
fn each_part_of_a_signature_counts() {
    let signer = Signer::default();
    let key = signer.public_key();
    let parts = signer.parts(PAYLOAD);
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts.clone();
        change(&mut parts);
        signer.encode(parts)
    };
    let uncertified = "its certificate is not signed by the subnet";
    refused(&key, &with(&|parts| parts.subnet = 6), uncertified);
    let unshown = "its certificate does not show the root of its tree";
    refused(&key, &with(&|parts| parts.certified[0] ^= 1), unshown);
    refused(&key, &with(&|parts| parts.certified.clear()), unshown);
    let unsigned = "its tree does not show that the canister signed this";
    let pruned = |parts: &mut Parts| parts.tree = ic_certification::pruned(parts.tree.digest());
    refused(&key, &with(&pruned), unsigned);
    let delegated = |parts: &mut Parts| {
        parts.delegation = Some(Delegation {
            subnet_id: vec![1; 29],
            certificate: vec![0; 9],
        });
    };
    let foreign = "its certificate is of another subnet";
    refused(&key, &with(&delegated), foreign);

    let original = signer.sign(PAYLOAD);
    for bit in 0..original.len() * 8 {
        let mut changed = original.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // Some bits of CBOR say the same in another way; what is said is never another thing.
        if outcome(&key, &changed, PAYLOAD).is_ok() {
            let read = |bytes: &[u8]| {
                let signature: Signature = decode(&bytes[3..]).expect("it was just read");
                let certificate = &signature.certificate;
                let certificate = Certificate::decode(certificate).expect("it was, too");
                (certificate.tree.0, certificate.signature, signature.tree.0)
            };
            assert_eq!(read(&changed), read(&original));
        }
    }
    let malformed = "it is no CBOR of certificate and tree";
    refused(&key, &original[3..], malformed);
    refused(&key, &[&original[..], &[0]].concat(), malformed);
    for length in 0..original.len() {
        assert!(outcome(&key, &original[..length], PAYLOAD).is_err());
    }
}

#[test]
fn keys_are_of_canisters_of_this_subnet() {
    let user = Signer {
        canister: Principal::self_authenticating([1; 44]),
        seed: b"",
    };
    refused(
        &user.public_key(),
        &user.sign(PAYLOAD),
        "the key is of no canister",
    );
    for bytes in [&[][..], &[30], &[10, 1, 2], &[255; 64]] {
        let key = wrapped(2, bytes);
        assert_eq!(canister_key(&key), None);
        assert_eq!(outcome(&key, &[], PAYLOAD), Err(SignatureError::UnknownKey));
    }
}

#[test]
fn deep_trees_are_refused() {
    let signer = Signer::default();
    let certificate = self_described_cbor(&ByteBuf::from(vec![0; 9]));
    // A map of a certificate and of labels in labels.
    let mut bytes = vec![0xd9, 0xd9, 0xf7, 0xa2, 0x6b];
    bytes.extend_from_slice(b"certificate");
    bytes.extend_from_slice(&certificate[3..]);
    bytes.extend_from_slice(b"\x64tree");
    bytes.extend(std::iter::repeat_n([0x83, 0x02, 0x41, 0x61], 4_000).flatten());
    bytes.push(0x80);
    refused(
        &signer.public_key(),
        &bytes,
        "it is no CBOR of certificate and tree",
    );
}
