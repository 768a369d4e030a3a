//! Answers: CBOR bodies and refusals.
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use ic_principal::Principal;
use lockstep_subnet::{
    ingress::IngressError,
    replica::{NoRoom, ReadError, SubmitError},
    tree::paths::PathError,
};
use serde::Serialize;
use std::{error::Error, time::Duration};

/// Which bound of the server, or which state of the replica, refused a connection or a request.
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
    /// Too many calls of one sender wait.
    CallsOfSender,
    /// Too many calls for one canister wait.
    CallsForCanister,
    /// Too many calls wait.
    CallsFull,
    /// The subnet keeps as many answers as it can.
    HistoryFull,
    /// Nothing is certified yet, or the node has not caught up.
    NotReady,
    /// The replica has halted.
    Halted,
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
            Self::CallsOfSender => "calls_of_sender",
            Self::CallsForCanister => "calls_for_canister",
            Self::CallsFull => "calls_full",
            Self::HistoryFull => "history_full",
            Self::NotReady => "not_ready",
            Self::Halted => "halted",
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

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        let (status, reason) = match &error {
            SubmitError::Invalid(error) => (ingress_status(error), None),
            SubmitError::NoRoom(NoRoom::OfSender) => {
                (StatusCode::TOO_MANY_REQUESTS, Some(Reason::CallsOfSender))
            }
            SubmitError::NoRoom(NoRoom::ForCanister) => (
                StatusCode::SERVICE_UNAVAILABLE,
                Some(Reason::CallsForCanister),
            ),
            SubmitError::NoRoom(NoRoom::Full) => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::CallsFull))
            }
            SubmitError::HistoryFull => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::HistoryFull))
            }
            SubmitError::Halted => (StatusCode::SERVICE_UNAVAILABLE, Some(Reason::Halted)),
            SubmitError::OtherAddress { .. } | SubmitError::Rejected(_) => {
                (StatusCode::BAD_REQUEST, None)
            }
        };
        Self {
            reason,
            ..Self::new(status, &error)
        }
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
            ReadError::NotReady | ReadError::Halted => StatusCode::SERVICE_UNAVAILABLE,
        };
        let refusal = Self::new(status, &error);
        match error {
            ReadError::NotReady => refusal.reason(Reason::NotReady),
            ReadError::Halted => refusal.reason(Reason::Halted),
            _ => refusal,
        }
    }
}

/// The status for a request that breaks a rule of the interface.
fn ingress_status(error: &IngressError) -> StatusCode {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_refuses_for_a_time_has_a_reason() {
        let too_much = |error: Refusal, status: u16, reason: &str| {
            let response = error.into_response();
            assert_eq!(response.status().as_u16(), status);
            assert!(response.headers().contains_key(header::RETRY_AFTER));
            let named = response.extensions().get::<Reason>().copied();
            assert_eq!(named.map(Reason::name), Some(reason));
        };
        too_much(
            SubmitError::from(NoRoom::OfSender).into(),
            429,
            "calls_of_sender",
        );
        too_much(
            SubmitError::from(NoRoom::ForCanister).into(),
            503,
            "calls_for_canister",
        );
        too_much(SubmitError::from(NoRoom::Full).into(), 503, "calls_full");
        too_much(SubmitError::HistoryFull.into(), 503, "history_full");
        too_much(SubmitError::Halted.into(), 503, "halted");
        too_much(ReadError::NotReady.into(), 503, "not_ready");
        too_much(ReadError::Halted.into(), 503, "halted");
        // Rules of the interface are not counted among bounds.
        let target = Principal::anonymous();
        let response = Refusal::from(ReadError::OtherAddress { target }).into_response();
        assert_eq!(response.extensions().get::<Reason>(), None);
    }
}
