//! Requests in memory: headers and bodies, read whole before anything else is done, within bounds of bytes and time.
//!
//! # Design
//! What a request takes of the room goes with its bytes: who has them gives it back when it drops them, not when the
//! request is answered.
use super::{Client, Full, Share};
use crate::{
    Gateway,
    answer::{Reason, Refusal},
};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{future::poll_fn, pin::Pin};
use tokio::time::{Instant, timeout_at};

/// Bytes that a header's field takes beside its name and its value, as HTTP/2 counts them.
const FIELD_BYTES: usize = 32;

/// Reads the body of a request, then lets it be answered.
pub(crate) async fn gather(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let version = request.version();
    let client = Client::who_sent(&request);
    let (parts, body) = request.into_parts();
    let refusal = match read(&gateway, client, &parts.headers, body).await {
        Ok(gathered) => {
            let bytes = Bytes::from_owner(gathered);
            return next.run(Request::from_parts(parts, bytes.into())).await;
        }
        Err(refusal) => refusal,
    };
    let mut response = refusal.into_response();
    if version < Version::HTTP_2 {
        // What follows on the connection is the rest of the body.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// A body, with its room.
struct Gathered {
    bytes: Vec<u8>,
    room: Share,
}

impl Gathered {
    /// Adds bytes, if there is room for them.
    fn add(&mut self, data: &[u8]) -> Result<(), Full> {
        self.room.grow(data.len())?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl AsRef<[u8]> for Gathered {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How long a body still has: for all of it, and for the next part.
struct Pace {
    end: Instant,
    part_end: Instant,
    part_bytes: usize,
}

async fn read(
    gateway: &Gateway,
    client: Client,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Gathered, Refusal> {
    let settings = &gateway.settings;
    let bytes_max = settings.body_bytes_max;
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    let mut gathered = Gathered {
        bytes: Vec::new(),
        room: gateway
            .bodies
            .take(client.source, header_bytes(headers))
            .map_err(full)?,
    };
    let now = Instant::now();
    let mut pace = Pace {
        end: now + settings.body_timeout,
        part_end: now + settings.body_part_timeout,
        part_bytes: 0,
    };
    loop {
        let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = match timeout_at(pace.end.min(pace.part_end), frame).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(gathered),
            Err(_) if pace.part_bytes >= settings.body_part_bytes && Instant::now() < pace.end => {
                pace.part_end = Instant::now() + settings.body_part_timeout;
                pace.part_bytes = 0;
                continue;
            }
            Err(_) => return Err(too_slow()),
        };
        let frame = frame.map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, &error).reason(Reason::BrokenBody)
        })?;
        // Trailers mean nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if gathered.bytes.len() + data.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        pace.part_bytes += data.len();
        gathered.add(&data).map_err(full)?;
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    let bytes = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
    bytes.sum()
}

fn full(full: Full) -> Refusal {
    match full {
        Full::All => Refusal::because(
            StatusCode::SERVICE_UNAVAILABLE,
            Reason::BodiesFull,
            "too many bytes of requests are under way; try again later".to_owned(),
        ),
        Full::OfOne => Refusal::because(
            StatusCode::TOO_MANY_REQUESTS,
            Reason::AddressBodies,
            "too many bytes of requests from your address are under way".to_owned(),
        ),
    }
}

fn too_slow() -> Refusal {
    Refusal::because(
        StatusCode::REQUEST_TIMEOUT,
        Reason::SlowBody,
        "the request's body comes too slowly".to_owned(),
    )
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::because(
        StatusCode::PAYLOAD_TOO_LARGE,
        Reason::BodyTooLarge,
        format!("the request's body is too large: the limit is {bytes_max} bytes"),
    )
}
