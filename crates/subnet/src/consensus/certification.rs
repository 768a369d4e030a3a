//! The threshold signature that makes a state root an Internet Computer certificate.
//!
//! # Design
//!
//! Nodes sign `\x0Dic-state-root || root` with shares of the subnet's BLS12-381 key (signatures in
//! G1, the ciphersuite without proof of possession); any `n - f` shares give the one signature
//! that clients verify. The height is not signed: it stands in the state tree, under `time`.
//!
//! Aggregation numbers its items from 0 and the chain's first executed block is 1, so item `i`
//! holds the root after height `i + 1`.
use bytes::Bytes;
use commonware_codec::Encode as _;
use commonware_consensus::{aggregation::types::Item, types};
use commonware_cryptography::{
    Digest,
    bls12381::{
        certificate::threshold::{Certificate, Generic},
        primitives::{
            Error,
            group::{DST, G1, G2, GT},
            sharing::Sharing,
            variant::{MinSig, Variant},
        },
    },
    certificate::{
        self, AssemblyError, Attestation, Membership, Scheme, Subject, Verification, Verifier,
    },
    ed25519::PublicKey,
};
use commonware_parallel::Strategy;
use commonware_utils::{N3f1, iter::NonEmpty, ordered::Set};
use rand_core::CryptoRng;

use crate::application::Height;

/// The domain that the Internet Computer puts before a state root, behind its length.
const NAMESPACE: &[u8] = b"ic-state-root";

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

/// The height whose root `index` stands for.
pub(crate) fn height_of(index: types::Height) -> Height {
    index.get() + 1
}

/// The signature of a certificate in its compressed form; none if the point is malformed.
pub(crate) fn signature_bytes(certificate: &Certificate<IcVariant>) -> Option<[u8; 48]> {
    certificate.get()?.encode().as_ref().try_into().ok()
}

/// What is signed: the item's digest, nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Root(Bytes);

impl Root {
    fn of<D: Digest>(item: &Item<D>) -> Self {
        Self(Bytes::copy_from_slice(item.digest.as_ref()))
    }
}

impl Subject for Root {
    type Namespace = Vec<u8>;

    fn namespace<'a>(&self, derived: &'a Vec<u8>) -> &'a [u8] {
        derived
    }

    fn message(&self) -> Bytes {
        self.0.clone()
    }
}

/// The aggregation scheme whose certificates are the Internet Computer's.
#[derive(Clone, Debug)]
pub(crate) struct IcScheme(Generic<PublicKey, IcVariant, Vec<u8>>);

impl IcScheme {
    /// A member that signs with `share`; none if the share is not of this sharing.
    ///
    /// # Panics
    ///
    /// If the sharing is for another number of participants or another threshold.
    pub(crate) fn signer(
        participants: Set<PublicKey>,
        sharing: Sharing<IcVariant>,
        share: commonware_cryptography::bls12381::primitives::group::Share,
    ) -> Option<Self> {
        Generic::signer::<N3f1>(NAMESPACE, participants, sharing, share).map(Self)
    }
}

impl Verifier for IcScheme {
    type Subject<'a, D: Digest> = &'a Item<D>;
    type Faults = N3f1;
    type PublicKey = PublicKey;
    type Certificate = Certificate<IcVariant>;

    fn verify_certificate<R: CryptoRng, D: Digest>(
        &self,
        rng: &mut R,
        item: &Item<D>,
        certificate: &Self::Certificate,
        _: &impl Strategy,
    ) -> bool {
        self.0.verify_certificate(rng, Root::of(item), certificate)
    }

    fn is_batchable() -> bool {
        true
    }

    fn max_certificate_size(_: u32) -> usize {
        48
    }

    fn certificate_codec_config(&self) {}

    fn certificate_codec_config_unbounded() {}
}

impl Scheme for IcScheme {
    type Signature = G1;

    fn me(&self) -> Option<Membership> {
        self.0.signer_index().map(Membership::Signer)
    }

    fn participants(&self) -> &Set<PublicKey> {
        self.0.participants()
    }

    fn sign<D: Digest>(&self, item: &Item<D>) -> Option<Attestation<Self>> {
        self.0.sign(Root::of(item))
    }

    fn verify_attestation<R: CryptoRng, D: Digest>(
        &self,
        _: &mut R,
        item: &Item<D>,
        attestation: &Attestation<Self>,
        _: &impl Strategy,
    ) -> bool {
        self.0.verify_attestation(Root::of(item), attestation)
    }

    fn verify_attestations<R, D, I>(
        &self,
        rng: &mut R,
        item: &Item<D>,
        attestations: I,
        strategy: &impl Strategy,
    ) -> Verification<Self>
    where
        R: CryptoRng,
        D: Digest,
        I: IntoIterator<Item = Attestation<Self>>,
        I::IntoIter: Send,
    {
        self.0
            .verify_attestations(rng, Root::of(item), attestations, strategy)
    }

    fn optimistic_assemble<'a, R, D, I, J>(
        &self,
        rng: &mut R,
        item: &Item<D>,
        pending: I,
        verified: J,
        strategy: &impl Strategy,
    ) -> Result<Self::Certificate, Verification<Self>>
    where
        R: CryptoRng,
        D: Digest,
        I: IntoIterator<Item = Attestation<Self>>,
        I::IntoIter: ExactSizeIterator + Send,
        J: IntoIterator<Item = &'a Attestation<Self>>,
        J::IntoIter: Send,
    {
        certificate::optimistic_assemble::<Self, _, D, _, _>(
            self, rng, item, pending, verified, strategy,
        )
    }

    fn assemble<I>(
        &self,
        attestations: NonEmpty<I>,
        strategy: &impl Strategy,
    ) -> Result<Self::Certificate, AssemblyError>
    where
        I: Iterator<Item = Attestation<Self>> + Send,
    {
        self.0.assemble::<Self, _>(attestations, strategy)
    }

    fn is_attributable() -> bool {
        false
    }
}
