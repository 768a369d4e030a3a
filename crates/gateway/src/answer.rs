//! Answers: CBOR bodies and refusals.
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use ic_principal::Principal;
use lockstep_subnet::{ingress::IngressError, replica::ReadError, tree::paths::PathError};
use serde::Serialize;
use std::error::Error;

/// A request that is refused: a status and a line of text.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    text: String,
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
        Self { status, text }
    }

    /// Work that ended without a result: a panic in it, or a shutdown.
    pub(crate) fn internal() -> Self {
        let text = "the replica could not finish the request".to_owned();
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            text,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.text + "\n").into_response()
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
    Principal::from_text(text).map_err(|error| Refusal {
        status: StatusCode::BAD_REQUEST,
        text: format!("the address does not hold a principal: {error}"),
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

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Refusal::internal())
}
