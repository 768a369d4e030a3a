//! Answers in memory: within a bound of bytes until they are sent.
use super::{Client, Full};
use crate::{
    Gateway,
    answer::{Reason, Refusal},
};
use axum::{
    body::HttpBody,
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::sync::Arc;

/// Lets an answer go if there is room for it. The connection holds the room until the answer is sent.
pub(crate) async fn hold(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let Client { source, .. } = Client::who_sent(&request);
    let mut response = next.run(request).await;
    let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    match gateway.answers.take(source, bytes) {
        Ok(room) => {
            response.extensions_mut().insert(Arc::new(room));
            response
        }
        Err(Full::All) => Refusal::because(
            StatusCode::SERVICE_UNAVAILABLE,
            Reason::AnswersFull,
            "too many bytes of answers are not read yet; try again later".to_owned(),
        )
        .into_response(),
        Err(Full::OfOne) => Refusal::because(
            StatusCode::TOO_MANY_REQUESTS,
            Reason::AddressAnswers,
            "too many bytes of answers to your address are not read yet".to_owned(),
        )
        .into_response(),
    }
}
