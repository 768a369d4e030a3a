//! Signatures that authenticators make: passkeys, security keys.
//!
//! # Design
//! The interface specification's "Web Authentication": an authenticator signs what a browser tells it, and the browser
//! tells it the payload as the challenge. The key is a COSE key (RFC 9053): ECDSA on P-256 (ES256), RSA with PKCS #1 v1.5
//! (RS256), or Ed25519 (EdDSA). Which site asked, and whether somebody touched the authenticator, is not looked at.
//!
//! # Units and bounds
//! Keys and signatures are bounded by [`signature`](super::signature) before they come here. RSA keys have 2048 bits or
//! more; the bound of the key is theirs, too.
use crate::tree::witness::SELF_DESCRIBED;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ciborium::Value;
use serde::Deserialize;
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

/// Labels of a COSE key's parameters; below zero their meaning depends on the key's type.
mod label {
    pub(super) const KEY_TYPE: i8 = 1;
    pub(super) const ALGORITHM: i8 = 3;
    pub(super) const CURVE: i8 = -1;
    pub(super) const X: i8 = -2;
    pub(super) const Y: i8 = -3;
    pub(super) const RSA_MODULUS: i8 = -1;
    pub(super) const RSA_EXPONENT: i8 = -2;
}

/// What an authenticator gives.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assertion {
    authenticator_data: ByteBuf,
    client_data_json: String,
    signature: ByteBuf,
}

/// What the browser told the authenticator, as far as it matters here.
#[derive(Deserialize)]
struct ClientData {
    r#type: String,
    challenge: String,
}

enum Key {
    Es256(ic_secp256r1::PublicKey),
    Rs256 { modulus: Vec<u8>, exponent: Vec<u8> },
    EdDsa(ic_ed25519::PublicKey),
}

impl Key {
    /// Decodes a COSE key that nothing follows.
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let value: Value = ciborium::from_reader(&mut bytes).ok()?;
        let Value::Map(entries) = value else {
            return None;
        };
        let find = |label: i8| {
            let mut found = entries.iter().filter(|(key, _)| *key == Value::from(label));
            let (_, value) = found.next()?;
            found.next().is_none().then_some(value)
        };
        let number = |label| i8::try_from(find(label)?.as_integer()?).ok();
        let blob = |label| find(label)?.as_bytes().map(Vec::as_slice);
        if !bytes.is_empty() {
            return None;
        }
        match (number(label::KEY_TYPE)?, number(label::ALGORITHM)) {
            // Octet key pair, EdDSA, Ed25519.
            (1, Some(-8)) if number(label::CURVE) == Some(6) => {
                let key = ic_ed25519::PublicKey::deserialize_raw(blob(label::X)?);
                key.ok().map(Self::EdDsa)
            }
            // Elliptic curve with both coordinates, ES256, P-256.
            (2, Some(-7)) if number(label::CURVE) == Some(1) => {
                let (x, y) = (blob(label::X)?, blob(label::Y)?);
                let key = ic_secp256r1::PublicKey::deserialize_from_xy(x, y);
                key.ok().map(Self::Es256)
            }
            // RSA, RS256. The number of the algorithm takes more than a byte.
            (3, None) if *find(label::ALGORITHM)? == Value::from(-257) => Some(Self::Rs256 {
                modulus: blob(label::RSA_MODULUS)?.to_vec(),
                exponent: blob(label::RSA_EXPONENT)?.to_vec(),
            }),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Es256(_) => "WebAuthn ES256",
            Self::Rs256 { .. } => "WebAuthn RS256",
            Self::EdDsa(_) => "WebAuthn EdDSA",
        }
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(key) => key.verify_signature_with_der_encoded_sig(message, signature),
            Self::Rs256 { modulus, exponent } => {
                let key = RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                };
                let outcome = key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature);
                outcome.is_ok()
            }
            Self::EdDsa(key) => key.verify_signature(message, signature).is_ok(),
        }
    }
}

/// Checks a signature of `payload` by a COSE key: what kind of key it is and what is wrong, if something is.
pub(super) fn verify(
    key: &[u8],
    signature: &[u8],
    payload: &[u8],
) -> (&'static str, Result<(), &'static str>) {
    let Some(key) = Key::decode(key) else {
        let reason = "the key is neither ES256, RS256 nor Ed25519 in COSE";
        return ("WebAuthn", Err(reason));
    };
    (key.name(), check(&key, signature, payload))
}

fn check(key: &Key, signature: &[u8], payload: &[u8]) -> Result<(), &'static str> {
    let malformed = "it is no CBOR of authenticator_data, client_data_json and signature";
    let mut bytes = signature.strip_prefix(&SELF_DESCRIBED).ok_or(malformed)?;
    let assertion: Assertion = ciborium::from_reader(&mut bytes).map_err(|_| malformed)?;
    if !bytes.is_empty() {
        return Err(malformed);
    }
    let client_data: ClientData = serde_json::from_str(&assertion.client_data_json)
        .map_err(|_| "client_data_json is no client data")?;
    if client_data.r#type != "webauthn.get" {
        return Err("the client data is of no assertion");
    }
    if client_data.challenge != URL_SAFE_NO_PAD.encode(payload) {
        return Err("the challenge is another than what is to be signed");
    }
    let mut message = assertion.authenticator_data.into_vec();
    message.extend_from_slice(&Sha256::digest(&assertion.client_data_json));
    if key.has_signed(&message, &assertion.signature) {
        Ok(())
    } else {
        Err("the key has not signed it")
    }
}

#[cfg(test)]
pub(super) mod tests;
