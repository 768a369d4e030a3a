//! Signatures of senders: which key types there are and how a key names a principal.
//!
//! # Design
//! All that the interface specification's "Signatures" has: Ed25519, ECDSA on P-256 and secp256k1, and two kinds of
//! keys that are wrapped in DER under identifiers of their own: [`webauthn`] and [`canister_signature`].
//!
//! # Units and bounds
//! A key has at most [`KEY_BYTES_MAX`], a signature [`SIGNATURE_BYTES_MAX`]: no longer one is looked at. What is said of a
//! sender has at most [`INFO_BYTES_MAX`].
use super::{
    IngressError, canister_signature,
    delegation::{self, Authority},
    webauthn,
};
use ic_principal::Principal;
use ic_transport_types::{SenderInfo, SignedDelegation};
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

/// Longest public key that is looked at, bytes.
const KEY_BYTES_MAX: usize = 1024;
/// Longest signature that is looked at, bytes: one by a canister carries a certificate and a tree.
const SIGNATURE_BYTES_MAX: usize = 32 * 1024;
/// Longest information about a sender, bytes: call contexts keep it.
const INFO_BYTES_MAX: usize = 16 * 1024;
/// What stands before it where it is signed.
const INFO_DOMAIN: &[u8] = b"\x0Eic-sender-info";
/// DER-wrapped COSE.
const COSE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.56387.1.1");
/// Signatures by canisters.
const CANISTER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.56387.1.2");

/// Why a signature does not authenticate a sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The anonymous sender signs nothing.
    #[error("an anonymous request must carry neither public key, delegation nor signature")]
    AnonymousSigned,
    /// Key or signature is missing.
    #[error("a request of {sender} must carry sender_pubkey and sender_sig")]
    Missing {
        /// Who the request says sent it.
        sender: Principal,
    },
    /// The key belongs to another principal.
    #[error("sender {sender} does not match the public key, whose principal is {key_principal}")]
    OtherSender {
        /// Who the request says sent it.
        sender: Principal,
        /// Whose key it is.
        key_principal: Principal,
    },
    /// No key that is known.
    #[error(
        "the public key is none in DER of Ed25519, ECDSA P-256, ECDSA secp256k1, WebAuthn or a canister"
    )]
    UnknownKey,
    /// Key or signature are longer than any that is looked at.
    #[error(
        "public key or signature is too long: {bytes} bytes, the limits are {KEY_BYTES_MAX} and {SIGNATURE_BYTES_MAX}"
    )]
    TooLong {
        /// Bytes of the one that is.
        bytes: usize,
    },
    /// The signature does not fit.
    #[error("the {key_type} signature is invalid: {reason}")]
    Invalid {
        /// The type of the key.
        key_type: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// What is said of the sender is not said by who signs for them.
    #[error("the sender_info is invalid: {reason}")]
    SenderInfo {
        /// What is wrong.
        reason: &'static str,
    },
}

/// Who checks what was signed, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    /// The subnet's key in DER, under which canisters sign.
    pub(super) root_key: &'a [u8],
    /// Nanoseconds since 1970.
    pub(super) now_ns: u64,
}

/// Checks that `sender` signed `message`, or let another key sign it: what that may do in its name.
pub(super) fn verify(
    sender: &Principal,
    public_key: Option<&[u8]>,
    chain: &[SignedDelegation],
    signature: Option<&[u8]>,
    message: &[u8],
    at: At<'_>,
) -> Result<Authority, IngressError> {
    if *sender == Principal::anonymous() {
        return match (public_key, chain, signature) {
            (None, [], None) => Ok(Authority::default()),
            _ => Err(SignatureError::AnonymousSigned.into()),
        };
    }
    let (Some(public_key), Some(signature)) = (public_key, signature) else {
        return Err(SignatureError::Missing { sender: *sender }.into());
    };
    let key_principal = Principal::self_authenticating(public_key);
    if key_principal != *sender {
        let sender = *sender;
        return Err(SignatureError::OtherSender {
            sender,
            key_principal,
        }
        .into());
    }
    let (key, authority) = delegation::follow(public_key, chain, at)?;
    verify_key(key, signature, message, at.root_key)?;
    Ok(authority)
}

/// Checks that a key has signed `message`.
pub(super) fn verify_key(
    public_key: &[u8],
    signature: &[u8],
    message: &[u8],
    root_key: &[u8],
) -> Result<(), SignatureError> {
    for (bytes, bytes_max) in [
        (public_key.len(), KEY_BYTES_MAX),
        (signature.len(), SIGNATURE_BYTES_MAX),
    ] {
        if bytes > bytes_max {
            return Err(SignatureError::TooLong { bytes });
        }
    }
    let plain = |valid: bool| valid.then_some(()).ok_or("the key has not signed it");
    let (key_type, verdict) =
        if let Ok(key) = ic_ed25519::PublicKey::deserialize_rfc8410_der(public_key) {
            let valid = key.verify_signature(message, signature).is_ok();
            ("Ed25519", plain(valid))
        } else if let Ok(key) = ic_secp256k1::PublicKey::deserialize_der(public_key) {
            let valid = key.verify_signature(message, signature);
            ("ECDSA secp256k1", plain(valid))
        } else if let Ok(key) = ic_secp256r1::PublicKey::deserialize_der(public_key) {
            let valid = key.verify_signature(message, signature);
            ("ECDSA P-256", plain(valid))
        } else if let Some(key) = wrapped(public_key, COSE) {
            webauthn::verify(key, signature, message)
        } else if let Some(key) = canister_key(public_key) {
            let verdict = canister_signature::verify(key, signature, message, root_key);
            ("canister", verdict)
        } else {
            return Err(SignatureError::UnknownKey);
        };
    verdict.map_err(|reason| SignatureError::Invalid { key_type, reason })
}

/// Checks that the canister that signs for a sender says this of them, too.
pub(super) fn verify_info(
    info: &SenderInfo,
    public_key: Option<&[u8]>,
    root_key: &[u8],
) -> Result<(), SignatureError> {
    let verdict = match public_key.and_then(canister_key) {
        None => Err("the sender's key is of no canister"),
        Some(key) if key.canister.as_slice() != info.signer => {
            Err("its signer is not the canister of the key")
        }
        Some(_) if info.info.len() > INFO_BYTES_MAX || info.sig.len() > SIGNATURE_BYTES_MAX => {
            Err("it is too long")
        }
        Some(key) => {
            let payload = [INFO_DOMAIN, &info.info].concat();
            canister_signature::verify(key, &info.sig, &payload, root_key)
        }
    };
    verdict.map_err(|reason| SignatureError::SenderInfo { reason })
}

/// The key of a canister, if this is one.
pub(super) fn canister_key(public_key: &[u8]) -> Option<canister_signature::Key<'_>> {
    canister_signature::Key::decode(wrapped(public_key, CANISTER)?)
}

/// What stands under an identifier in DER.
fn wrapped(public_key: &[u8], identifier: ObjectIdentifier) -> Option<&[u8]> {
    if public_key.len() > KEY_BYTES_MAX {
        return None;
    }
    let info = SubjectPublicKeyInfoRef::try_from(public_key).ok()?;
    let is_it = info.algorithm.oid == identifier && info.algorithm.parameters.is_none();
    info.subject_public_key.as_bytes().filter(|_| is_it)
}
