//! Answers: CBOR bodies and refusals.
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use ic_principal::Principal;
use lockstep_subnet::{ingress::IngressError, replica::ReadError, tree::paths::PathError};
use serde::Serialize;
use std::{error::Error, time::Duration};

/// Which bound of the server refused a connection or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Too many connections in all.
    Connections,
    /// Too many connections from one address.
    AddressConnections,
    /// No TLS handshake, or none in time.
    Handshake,
    /// No request in time, or an answer that was not read.
    SlowConnection,
    /// Too many requests from one address.
    Rate,
    /// The body is too large.
    BodyTooLarge,
    /// The body did not come in time.
    SlowBody,
    /// The body is not what its header says.
    BrokenBody,
    /// Too many bytes of bodies.
    BodiesFull,
    /// The same of one address.
    AddressBodies,
    /// Too many bytes of answers that are not read.
    AnswersFull,
    /// The same of one address.
    AddressAnswers,
    /// Too much to compute.
    Overload,
    /// The same of one address.
    AddressOverload,
}

impl Reason {
    /// What metrics and logs call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::AddressConnections => "address_connections",
            Self::Handshake => "handshake",
            Self::SlowConnection => "slow_connection",
            Self::Rate => "rate",
            Self::BodyTooLarge => "body_too_large",
            Self::SlowBody => "slow_body",
            Self::BrokenBody => "broken_body",
            Self::BodiesFull => "bodies_full",
            Self::AddressBodies => "address_bodies",
            Self::AnswersFull => "answers_full",
            Self::AddressAnswers => "address_answers",
            Self::Overload => "overload",
            Self::AddressOverload => "address_overload",
        }
    }
}

/// A request that is refused: a status and a line of text.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
    reason: Option<Reason>,
    retry_after: Duration,
}

impl Refusal {
    /// A refusal with the text of an error and its causes.
    pub(crate) fn new(status: StatusCode, error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Self::saying(status, text)
    }

    /// A refusal with a text.
    pub(crate) fn saying(status: StatusCode, text: String) -> Self {
        Self {
            status,
            text,
            reason: None,
            retry_after: Duration::from_secs(1),
        }
    }

    /// A refusal by a bound of the server.
    pub(crate) fn because(status: StatusCode, reason: Reason, text: String) -> Self {
        Self::saying(status, text).reason(reason)
    }

    /// Names the bound.
    pub(crate) fn reason(self, reason: Reason) -> Self {
        let reason = Some(reason);
        Self { reason, ..self }
    }

    /// Says when to try again, if the status is one after which that may help.
    pub(crate) fn after(self, retry_after: Duration) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    /// Work that ended without a result: a panic in it, or a shutdown.
    pub(crate) fn internal() -> Self {
        let text = "the replica could not finish the request".to_owned();
        Self::saying(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.text + "\n").into_response();
        if matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            // Whole seconds, rounded up.
            let seconds = self.retry_after.as_millis().div_ceil(1_000).max(1) as u64;
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(reason) = self.reason {
            response.extensions_mut().insert(reason);
        }
        response
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        let status = match &error {
            ReadError::Invalid(error) => ingress_status(error),
            ReadError::Path(PathError::Forbidden { .. } | PathError::Delegation(_)) => {
                StatusCode::FORBIDDEN
            }
            ReadError::Path(_) | ReadError::OtherAddress { .. } => StatusCode::BAD_REQUEST,
            ReadError::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, &error)
    }
}

/// The status for a request that breaks a rule of the interface.
pub(crate) fn ingress_status(error: &IngressError) -> StatusCode {
    match error {
        IngressError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        IngressError::Signature(_) | IngressError::Delegation(_) => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// The principal in an address.
pub(crate) fn principal(text: &str) -> Result<Principal, Refusal> {
    Principal::from_text(text).map_err(|error| {
        let text = format!("the address does not hold a principal: {error}");
        Refusal::saying(StatusCode::BAD_REQUEST, text)
    })
}

/// A CBOR answer.
pub(crate) fn encoded(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/cbor")], bytes).into_response()
}

/// A CBOR answer, preceded by the tag of self-described CBOR.
pub(crate) fn cbor(value: &impl Serialize) -> Response {
    let mut bytes = vec![0xd9, 0xd9, 0xf7];
    ciborium::into_writer(value, &mut bytes).expect("a vector takes every byte");
    encoded(bytes)
}
