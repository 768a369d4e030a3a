//! Bodies of requests: read whole before anything else is done, within bounds of bytes and time.
use crate::{
    Gateway,
    answer::{Reason, Refusal},
};
use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{future::poll_fn, pin::Pin, sync::Arc};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

/// Reads the body of a request, then lets it be answered.
pub(crate) async fn gather(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let version = request.version();
    let (parts, body) = request.into_parts();
    let read = timeout(gateway.settings.body_timeout, read(&gateway, body));
    let refusal = match read.await {
        Ok(Ok((bytes, _room))) => {
            // The room is given back with the answer.
            let request = Request::from_parts(parts, bytes.into());
            return next.run(request).await;
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::because(
            StatusCode::REQUEST_TIMEOUT,
            Reason::SlowBody,
            format!(
                "the request's body did not come within {} s",
                gateway.settings.body_timeout.as_secs()
            ),
        ),
    };
    let mut response = refusal.into_response();
    if version < Version::HTTP_2 {
        // What follows on the connection is the rest of the body.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

async fn read(
    gateway: &Gateway,
    mut body: Body,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Refusal> {
    let bytes_max = gateway.settings.body_bytes_max;
    let declared = body.size_hint().lower();
    if declared > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let mut bytes = Vec::new();
    let mut room: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, &error).reason(Reason::BrokenBody)
        })?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        let more = u32::try_from(data.len())
            .ok()
            .and_then(|more| {
                Arc::clone(&gateway.bodies)
                    .try_acquire_many_owned(more)
                    .ok()
            })
            .ok_or_else(|| {
                Refusal::because(
                    StatusCode::SERVICE_UNAVAILABLE,
                    Reason::BodiesFull,
                    "too many bytes of requests are under way; try again later".to_owned(),
                )
            })?;
        match &mut room {
            Some(room) => room.merge(more),
            None => room = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, room))
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::because(
        StatusCode::PAYLOAD_TOO_LARGE,
        Reason::BodyTooLarge,
        format!("the request's body is too large: the limit is {bytes_max} bytes"),
    )
}
