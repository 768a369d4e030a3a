//! Signatures of senders: which key types there are and how a key names a principal.
use super::{
    IngressError,
    delegation::{self, Authority},
};
use ic_principal::Principal;
use ic_transport_types::SignedDelegation;

/// Object identifiers as they stand in a DER public key, with the name of the key type.
const UNSUPPORTED: [(&[u8], &str); 2] = [
    // 1.3.6.1.4.1.56387.1.1
    (
        &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xb8, 0x43, 0x01, 0x01],
        "WebAuthn (COSE)",
    ),
    // 1.3.6.1.4.1.56387.1.2
    (
        &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xb8, 0x43, 0x01, 0x02],
        "canister signature",
    ),
];
/// Longest public key that is looked at, bytes.
const KEY_BYTES_MAX: usize = 1024;

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
    /// A key type that is not supported.
    #[error("keys of type {key_type} are not supported; use Ed25519, ECDSA P-256 or secp256k1")]
    KeyType {
        /// The type, as far as it was recognised.
        key_type: &'static str,
    },
    /// The signature does not fit.
    #[error("the {key_type} signature is invalid")]
    Invalid {
        /// The type of the key.
        key_type: &'static str,
    },
}

/// Checks that `sender` signed `message`, or let another key sign it: what that may do in its name.
pub(super) fn verify(
    sender: &Principal,
    public_key: Option<&[u8]>,
    chain: &[SignedDelegation],
    signature: Option<&[u8]>,
    message: &[u8],
    now_ns: u64,
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
    let (key, authority) = delegation::follow(public_key, chain, now_ns)?;
    verify_key(key, signature, message)?;
    Ok(authority)
}

/// Checks that a key has signed `message`.
pub(super) fn verify_key(
    public_key: &[u8],
    signature: &[u8],
    message: &[u8],
) -> Result<(), SignatureError> {
    if public_key.len() > KEY_BYTES_MAX {
        return Err(SignatureError::KeyType {
            key_type: "unknown (too long)",
        });
    }
    let (key_type, valid) =
        if let Ok(key) = ic_ed25519::PublicKey::deserialize_rfc8410_der(public_key) {
            ("Ed25519", key.verify_signature(message, signature).is_ok())
        } else if let Ok(key) = ic_secp256k1::PublicKey::deserialize_der(public_key) {
            ("ECDSA secp256k1", key.verify_signature(message, signature))
        } else if let Ok(key) = ic_secp256r1::PublicKey::deserialize_der(public_key) {
            ("ECDSA P-256", key.verify_signature(message, signature))
        } else {
            let known = UNSUPPORTED.iter().find(|(identifier, _)| {
                public_key
                    .windows(identifier.len())
                    .any(|window| window == *identifier)
            });
            return Err(SignatureError::KeyType {
                key_type: known.map_or("unknown", |(_, name)| name),
            });
        };
    if valid {
        Ok(())
    } else {
        Err(SignatureError::Invalid { key_type })
    }
}
