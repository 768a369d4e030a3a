//! The threshold signature that makes a state root an Internet Computer certificate.
//!
//! # Design
//!
//! Nodes sign `\x0Dic-state-root || root` with shares of the subnet's BLS12-381 key (signatures in
//! G1, the ciphersuite without proof of possession); any `n - f` shares give the one signature
//! that clients verify. The height is not signed: it stands in the state tree, under `time`.
//!
//! A node sends everybody its share of the heights that it executes ([`collector`]). One that still lacks a
//! certificate at the next tick sends its share again and says so, and gets the certificate from whoever has it
//! ([`kept`]). So a certificate that a node has missed comes from any peer, and it makes no difference who was
//! restarted since.
//!
//! # Security
//!
//! A signature does not say which height its root belongs to. That a root is of a height is what this
//! node has executed or, where that is another root, what `n - f` nodes say of themselves.
pub(crate) mod collector;
pub(crate) mod kept;
pub(crate) mod message;
#[cfg(test)]
mod tests;

use crate::application::Height;
use bytes::Bytes;
use commonware_codec::{DecodeExt as _, Encode as _};
use commonware_cryptography::bls12381::primitives::{
    Error,
    group::{DST, G1, G2, GT, Share},
    ops::{self, threshold},
    sharing::Sharing,
    variant::{MinSig, PartialSignature, Variant},
};
use commonware_parallel::{Sequential, Strategy};
use commonware_utils::Participant;
use rand_core::CryptoRng;

/// The domain that the Internet Computer puts before a state root, behind its length.
const NAMESPACE: &[u8] = b"ic-state-root";

/// A state root.
pub(crate) type Root = [u8; 32];
/// A signature in its compressed form.
pub(crate) type Signature = [u8; 48];
/// The subnet's key.
pub(crate) type PublicKey = G2;
/// A node's part of a signature.
pub(crate) type Partial = PartialSignature<IcVariant>;

/// A certified height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) height: Height,
    pub(crate) root: Root,
    pub(crate) signature: Signature,
}

/// [`MinSig`] with the ciphersuite of the Internet Computer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IcVariant;

impl Variant for IcVariant {
    type Public = G2;
    type Signature = G1;

    const PROOF_OF_POSSESSION: DST = MinSig::PROOF_OF_POSSESSION;
    const MESSAGE: DST = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

    fn verify(public: &G2, hashed: &G1, signature: &G1) -> Result<(), Error> {
        MinSig::verify(public, hashed, signature)
    }

    fn batch_verify(
        rng: &mut impl CryptoRng,
        publics: &[G2],
        hashed: &[G1],
        signatures: &[G1],
        strategy: &impl Strategy,
    ) -> Result<(), Error> {
        MinSig::batch_verify(rng, publics, hashed, signatures, strategy)
    }

    fn pairing(public: &G2, signature: &G1) -> GT {
        MinSig::pairing(public, signature)
    }
}

/// Makes and checks signatures with a node's share of the subnet's key.
#[derive(Clone)]
pub(crate) struct Signer {
    sharing: Sharing<IcVariant>,
    share: Share,
}

impl Signer {
    pub(crate) fn new(sharing: Sharing<IcVariant>, share: Share) -> Self {
        Self { sharing, share }
    }

    /// This node's number.
    fn index(&self) -> u32 {
        self.share.index.get()
    }

    /// How many shares make a signature.
    fn quorum(&self) -> usize {
        self.sharing.required() as usize
    }

    pub(super) fn sign(&self, root: &Root) -> Signature {
        let partial = threshold::sign_message::<IcVariant>(&self.share, NAMESPACE, root);
        compressed(&partial.value)
    }

    /// What node `node` has signed, if it is a point; nothing else is checked.
    pub(super) fn partial(node: u32, signature: &Signature) -> Option<Partial> {
        let value = G1::decode(Bytes::copy_from_slice(signature)).ok()?;
        let index = Participant::new(node);
        Some(Partial { index, value })
    }

    fn is_partial(&self, root: &Root, partial: &Partial) -> bool {
        threshold::verify_message::<IcVariant>(&self.sharing, NAMESPACE, root, partial).is_ok()
    }

    /// The signature that the shares of a quorum make, if it is one: shares are not checked before.
    pub(super) fn recover<'a>(
        &self,
        root: &Root,
        partials: impl IntoIterator<Item = &'a Partial>,
    ) -> Option<Signature> {
        let signature =
            threshold::recover::<IcVariant, _>(&self.sharing, partials, &Sequential).ok()?;
        let signature = compressed(&signature);
        self.is_signature(root, &signature).then_some(signature)
    }

    fn is_signature(&self, root: &Root, signature: &Signature) -> bool {
        is_signature(self.sharing.public(), root, signature)
    }
}

fn compressed(point: &G1) -> Signature {
    let bytes = point.encode();
    bytes
        .as_ref()
        .try_into()
        .expect("a compressed G1 point has 48 bytes")
}

/// Whether it is the signature of a root.
fn is_signature(public_key: &PublicKey, root: &Root, signature: &Signature) -> bool {
    let signature = G1::decode(Bytes::copy_from_slice(signature));
    signature.is_ok_and(|signature| {
        ops::verify_message::<IcVariant>(public_key, NAMESPACE, root, &signature).is_ok()
    })
}
