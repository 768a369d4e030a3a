//! Signed requests: decoding, authentication and the window in which they are valid.
//!
//! # Design
//! A request arrives as the CBOR envelope of the Internet Computer's HTTP interface. [`Ingress`] is
//! a decoded call: what blocks carry and replicas execute. Decoding and [`Request::authenticate`]
//! are functions of the bytes, the subnet's key and a time alone, so replicas that vote on a block agree about it.
//!
//! # Units and bounds
//! Envelopes are at most [`MESSAGE_BYTES_MAX`] long, nonces at most [`NONCE_BYTES_MAX`], chains of
//! delegations at most [`DELEGATIONS_MAX`] with [`TARGETS_MAX`] targets each, reads at most [`PATHS_MAX`] paths with
//! [`LABELS_MAX`] labels each. A request expires at most [`INGRESS_TTL_NS`] plus [`DRIFT_NS`] after the time it is
//! checked at.
//!
//! # Errors
//! [`IngressError`] names the rule that a request breaks. No input panics.
mod canister_signature;
mod delegation;
mod envelope;
mod signature;
mod webauthn;

use crate::tree::witness::SELF_DESCRIBED;
use bytes::Bytes;
pub use delegation::{Authority, DELEGATIONS_MAX, DelegationError, TARGETS_MAX};
use ic_principal::Principal;
pub use ic_transport_types::RequestId;
use ic_transport_types::{Envelope, EnvelopeContent, SenderInfo};
use lockstep_canister::engine::{CallerInfo, EntryPoint};
use signature::At;
pub use signature::SignatureError;

/// Bytes of the longest envelope.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of the longest nonce.
pub const NONCE_BYTES_MAX: usize = 32;
/// How long before its expiry a request may be sent, nanoseconds.
pub const INGRESS_TTL_NS: u64 = 300_000_000_000;
/// How far clocks may differ, nanoseconds.
pub const DRIFT_NS: u64 = 60_000_000_000;
/// Most paths that a request reads.
pub const PATHS_MAX: usize = 1000;
/// Most labels of a path.
pub const LABELS_MAX: usize = 127;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngressError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("the request is too large: {bytes} bytes, the limit is {MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not an envelope.
    #[error("the request is not a CBOR envelope: {reason}")]
    Malformed {
        /// What the decoder says.
        reason: String,
    },
    /// A call where a query was expected, or the like.
    #[error("the endpoint takes a {expected} request, this is a {actual}")]
    WrongType {
        /// What the endpoint takes.
        expected: &'static str,
        /// What arrived.
        actual: &'static str,
    },
    /// The nonce is longer than [`NONCE_BYTES_MAX`].
    #[error("the nonce is too long: {bytes} bytes, the limit is {NONCE_BYTES_MAX}")]
    NonceTooLong {
        /// Its length.
        bytes: usize,
    },
    /// Its time has passed.
    #[error(
        "specified ingress_expiry not within expected range: expired at {expiry_ns} ns, the time is {now_ns} ns"
    )]
    Expired {
        /// `ingress_expiry`.
        expiry_ns: u64,
        /// The time it was checked at.
        now_ns: u64,
    },
    /// Its expiry is too far away.
    #[error(
        "specified ingress_expiry not within expected range: {expiry_ns} ns is later than the latest allowed, {latest_ns} ns"
    )]
    ExpiryTooFar {
        /// `ingress_expiry`.
        expiry_ns: u64,
        /// The latest that is allowed.
        latest_ns: u64,
    },
    /// The sender is not who signed.
    #[error("the sender is not authenticated")]
    Signature(#[from] SignatureError),
    /// Who signed may not do that in the sender's name.
    #[error("the delegations do not hold")]
    Delegation(#[from] DelegationError),
}

/// A decoded request.
#[derive(Debug, Clone)]
pub struct Request {
    envelope: Envelope<'static>,
    id: RequestId,
}

impl Request {
    /// Decodes an envelope; tag 55799 may precede it. Checks nothing but sizes and form.
    ///
    /// # Errors
    /// [`IngressError::TooLarge`], [`IngressError::Malformed`], [`IngressError::NonceTooLong`].
    pub fn decode(bytes: &[u8]) -> Result<Self, IngressError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(IngressError::TooLarge { bytes: bytes.len() });
        }
        let untagged = bytes.strip_prefix(&SELF_DESCRIBED).unwrap_or(bytes);
        let envelope =
            envelope::decode(untagged).map_err(|reason| IngressError::Malformed { reason })?;
        if let EnvelopeContent::Call {
            nonce: Some(nonce), ..
        }
        | EnvelopeContent::Query {
            nonce: Some(nonce), ..
        } = envelope.content.as_ref()
            && nonce.len() > NONCE_BYTES_MAX
        {
            return Err(IngressError::NonceTooLong { bytes: nonce.len() });
        }
        let id = ic_transport_types::to_request_id(envelope.content.as_ref()).map_err(|error| {
            IngressError::Malformed {
                reason: error.to_string(),
            }
        })?;
        Ok(Self { envelope, id })
    }

    /// What was signed.
    #[must_use]
    pub fn content(&self) -> &EnvelopeContent {
        self.envelope.content.as_ref()
    }

    /// The representation-independent hash of the content.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Checks, at `now_ns`, the window of validity, the signature and that delegations allow the request. `root_key` is
    /// the subnet's key in DER, under which canisters sign. Anonymous queries and reads may carry any expiry. Which
    /// canister a read is about is for whoever looks at its paths.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn authenticate(&self, root_key: &[u8], now_ns: u64) -> Result<Authority, IngressError> {
        let content = self.content();
        let is_call = matches!(content, EnvelopeContent::Call { .. });
        if is_call || *content.sender() != Principal::anonymous() {
            check_expiry(content.ingress_expiry(), now_ns)?;
        }
        let public_key = self.envelope.sender_pubkey.as_deref();
        let authority = signature::verify(
            content.sender(),
            public_key,
            self.envelope.sender_delegation.as_deref().unwrap_or(&[]),
            self.envelope.sender_sig.as_deref(),
            &self.id.signable(),
            At { root_key, now_ns },
        )?;
        if let EnvelopeContent::Call { sender_info, .. }
        | EnvelopeContent::Query { sender_info, .. } = content
            && let Some(info) = sender_info
        {
            signature::verify_info(info, public_key, root_key)?;
        }
        if is_call {
            authority.check_call()?;
        }
        if let EnvelopeContent::Call { canister_id, .. }
        | EnvelopeContent::Query { canister_id, .. } = content
        {
            authority.check_target(canister_id)?;
        }
        Ok(authority)
    }

    /// [`Self::authenticate`], for a call.
    ///
    /// # Errors
    /// The rule that is broken, or [`IngressError::WrongType`].
    pub fn authenticate_call(
        &self,
        root_key: &[u8],
        now_ns: u64,
    ) -> Result<Authority, IngressError> {
        match self.content() {
            EnvelopeContent::Call { .. } => self.authenticate(root_key, now_ns),
            _ => Err(self.wrong_type("call")),
        }
    }

    /// The error for a request of another type than `expected`.
    #[must_use]
    pub fn wrong_type(&self, expected: &'static str) -> IngressError {
        let actual = match self.content() {
            EnvelopeContent::Call { .. } => "call",
            EnvelopeContent::Query { .. } => "query",
            EnvelopeContent::ReadState { .. } => "read_state",
        };
        IngressError::WrongType { expected, actual }
    }
}

/// A call as blocks carry it.
#[derive(Debug, Clone)]
pub struct Ingress {
    /// The envelope as it was sent.
    pub bytes: Bytes,
    /// Hash of the content.
    pub id: RequestId,
    /// Who sent it.
    pub sender: Principal,
    /// The canister it is for.
    pub canister: Principal,
    /// The method.
    pub method: String,
    /// Its argument.
    pub argument: Vec<u8>,
    /// What the canister that signs for the sender says of them.
    pub caller_info: Option<CallerInfo>,
    /// When it stops being valid, nanoseconds since 1970.
    pub expiry_ns: u64,
    /// When who signed it may no longer do so in the sender's name, if that was checked.
    pub authority_until_ns: u64,
}

impl Ingress {
    /// Decodes a call without checking who signed it: for messages in final blocks, which a
    /// majority of honest replicas has checked.
    ///
    /// # Errors
    /// [`IngressError`] when the bytes are not a call.
    pub fn decode(bytes: &Bytes) -> Result<Self, IngressError> {
        Self::from_request(bytes, Request::decode(bytes)?)
    }

    /// Decodes a call and authenticates it as [`Request::authenticate`] does.
    ///
    /// # Errors
    /// [`IngressError`] says what is wrong with it.
    pub fn check(bytes: &Bytes, root_key: &[u8], now_ns: u64) -> Result<Self, IngressError> {
        let request = Request::decode(bytes)?;
        let authority = request.authenticate_call(root_key, now_ns)?;
        Ok(Self {
            authority_until_ns: authority.until_ns,
            ..Self::from_request(bytes, request)?
        })
    }

    /// Whether a call that was authenticated before is still valid at `now_ns`.
    ///
    /// # Errors
    /// [`IngressError::Expired`] or [`IngressError::ExpiryTooFar`]. A delegation that has ended counts as the call's
    /// own end.
    pub fn check_again(&self, now_ns: u64) -> Result<(), IngressError> {
        check_expiry(self.expiry_ns, now_ns)?;
        if self.authority_until_ns < now_ns {
            let expiry_ns = self.authority_until_ns;
            return Err(IngressError::Expired { expiry_ns, now_ns });
        }
        Ok(())
    }

    /// When it can no longer be taken in, nanoseconds since 1970.
    #[must_use]
    pub fn end_ns(&self) -> u64 {
        self.expiry_ns.min(self.authority_until_ns)
    }

    fn from_request(bytes: &Bytes, request: Request) -> Result<Self, IngressError> {
        let id = request.id;
        match request.envelope.content.into_owned() {
            EnvelopeContent::Call {
                ingress_expiry,
                sender,
                canister_id,
                method_name,
                arg,
                sender_info,
                ..
            } => Ok(Self {
                bytes: bytes.clone(),
                id,
                sender,
                canister: canister_id,
                method: method_name,
                argument: arg,
                caller_info: sender_info.and_then(caller_info),
                expiry_ns: ingress_expiry,
                authority_until_ns: u64::MAX,
            }),
            EnvelopeContent::Query { .. } => Err(IngressError::WrongType {
                expected: "call",
                actual: "query",
            }),
            EnvelopeContent::ReadState { .. } => Err(IngressError::WrongType {
                expected: "call",
                actual: "read_state",
            }),
        }
    }

    /// The entry point that decides whether the call is worth ordering.
    #[must_use]
    pub fn inspection(&self) -> EntryPoint {
        EntryPoint::Inspect(self.method.clone())
    }
}

/// What a canister is told of its caller; none if the signer is no principal.
pub(crate) fn caller_info(info: SenderInfo) -> Option<CallerInfo> {
    let signer = Principal::try_from_slice(&info.signer).ok()?;
    Some(CallerInfo {
        data: info.info,
        signer,
    })
}

/// Whether a request that expires at `expiry_ns` is valid at `now_ns`.
///
/// # Errors
/// [`IngressError::Expired`] or [`IngressError::ExpiryTooFar`].
pub fn check_expiry(expiry_ns: u64, now_ns: u64) -> Result<(), IngressError> {
    let latest_ns = now_ns.saturating_add(INGRESS_TTL_NS + DRIFT_NS);
    if expiry_ns < now_ns {
        return Err(IngressError::Expired { expiry_ns, now_ns });
    }
    if expiry_ns > latest_ns {
        return Err(IngressError::ExpiryTooFar {
            expiry_ns,
            latest_ns,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
