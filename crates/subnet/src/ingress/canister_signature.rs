//! Signatures by canisters, as Internet Identity makes them.
//!
//! # Design
//! The interface specification's "Canister signatures": a canister signs by certifying the root of a tree that has the
//! hash of the payload. The signature is that tree, pruned, with a certificate of this subnet that shows the canister's
//! certified data. How old the certificate is makes no difference: a signature holds as long as the subnet's key. This
//! subnet is its own root, so a certificate under a delegation is of another network, and is refused. Trees need not be
//! checked for order: a signed root is that of an honest tree, and the other one is the canister's own.
//!
//! # Determinism
//! A function of key, signature, payload and the subnet's key.
//!
//! # Complexity
//! Linear in the signature, which [`signature`](super::signature) bounds; the pairing comes last.
use crate::{
    state::is_canister_id,
    tree::witness::{Certificate, SELF_DESCRIBED, Witness},
};
use blst::{
    BLST_ERROR,
    min_sig::{PublicKey, Signature as BlsSignature},
};
use ic_certification::LookupResult;
use ic_principal::Principal;
use serde::Deserialize;
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

/// Bytes of a point of BLS12-381 G2, with which the subnet's key in DER ends.
const ROOT_POINT_BYTES: usize = 96;
/// The ciphersuite of certificates.
const CIPHERSUITE: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
/// What stands before a signed root.
const ROOT_DOMAIN: &[u8] = b"\x0Dic-state-root";

/// A key: a canister, and which of its signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<'a> {
    pub(super) canister: Principal,
    seed: &'a [u8],
}

impl<'a> Key<'a> {
    /// Decodes what stands in the public key: the length of the canister's id, the id, and the seed.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first()?;
        let (id, seed) = rest.split_at_checked(usize::from(*length))?;
        let canister = Principal::try_from_slice(id).ok()?;
        Some(Self { canister, seed })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    certificate: ByteBuf,
    tree: Witness,
}

/// Checks a signature of `payload`; `root_key` is the subnet's key in DER.
pub(super) fn verify(
    key: Key<'_>,
    signature: &[u8],
    payload: &[u8],
    root_key: &[u8],
) -> Result<(), &'static str> {
    if !is_canister_id(&key.canister) {
        return Err("the key is of no canister");
    }
    let bytes = signature.strip_prefix(&SELF_DESCRIBED);
    let signature = bytes.and_then(decode);
    let signature = signature.ok_or("it is no CBOR of certificate and tree")?;
    let tree = signature.tree.0;
    let certificate = Certificate::decode(&signature.certificate);
    let certificate = certificate.ok_or("its certificate is malformed")?;
    if certificate.delegation.is_some() {
        return Err("its certificate is of another subnet");
    }
    let signed: [&[u8]; 3] = [b"sig", &Sha256::digest(key.seed), &Sha256::digest(payload)];
    if tree.lookup_path(signed) != LookupResult::Found(b"") {
        return Err("its tree does not show that the canister signed this");
    }
    let certified_data: [&[u8]; 3] = [b"canister", key.canister.as_slice(), b"certified_data"];
    let root = tree.digest();
    if certificate.tree.0.lookup_path(certified_data) != LookupResult::Found(&root) {
        return Err("its certificate does not show the root of its tree");
    }
    if is_certified(&certificate, root_key) {
        Ok(())
    } else {
        Err("its certificate is not signed by the subnet")
    }
}

/// Decodes what nothing follows.
fn decode(mut bytes: &[u8]) -> Option<Signature> {
    let signature = ciborium::from_reader(&mut bytes).ok()?;
    bytes.is_empty().then_some(signature)
}

fn is_certified(certificate: &Certificate, root_key: &[u8]) -> bool {
    let Some(point) = root_key.last_chunk::<ROOT_POINT_BYTES>() else {
        return false;
    };
    let signature = BlsSignature::from_bytes(&certificate.signature);
    let (Ok(key), Ok(signature)) = (PublicKey::from_bytes(point), signature) else {
        return false;
    };
    let message = [ROOT_DOMAIN, &certificate.tree.0.digest()].concat();
    // The subnet's own key is believed, the signature is not.
    let verdict = signature.verify(true, &message, CIPHERSUITE, &[], &key, false);
    verdict == BLST_ERROR::BLST_SUCCESS
}

#[cfg(test)]
pub(super) mod tests;
