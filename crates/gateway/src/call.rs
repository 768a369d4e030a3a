//! Calls: asynchronous (v2) and synchronous (v3, v4).
use crate::{
    CALL_WAIT, Gateway,
    answer::{Refusal, cbor, principal},
    limits::Client,
};
use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ic_transport_types::RejectResponse;
use lockstep_subnet::{
    ingress::RequestId,
    replica::{SubmitError, reject_response},
    tree::paths::Scope,
};
use serde::Serialize;
use std::sync::Arc;

/// What a synchronous call answers.
#[derive(Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum CallAnswer {
    Replied {
        #[serde(with = "serde_bytes")]
        certificate: Vec<u8>,
    },
    NonReplicatedRejection(RejectResponse),
}

/// How far a call got at this replica.
enum Taken {
    In(RequestId),
    Rejected(RejectResponse),
}

/// `/api/v2/canister/ID/call`.
pub(crate) async fn asynchronous(
    State(gateway): State<Gateway>,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    Ok(
        match submit(&gateway, client, Scope::Canister(principal(&id)?), body).await? {
            Taken::In(_) => StatusCode::ACCEPTED.into_response(),
            Taken::Rejected(reject) => cbor(&reject),
        },
    )
}

/// `/api/v3/canister/ID/call` and `/api/v4/canister/ID/call`.
pub(crate) async fn synchronous(
    State(gateway): State<Gateway>,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    call_and_wait(&gateway, client, Scope::Canister(principal(&id)?), body).await
}

/// `/api/v4/subnet/ID/call`.
pub(crate) async fn to_subnet(
    State(gateway): State<Gateway>,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    call_and_wait(&gateway, client, Scope::Subnet(principal(&id)?), body).await
}

async fn call_and_wait(
    gateway: &Gateway,
    client: Client,
    address: Scope,
    body: Bytes,
) -> Result<Response, Refusal> {
    let id = match submit(gateway, client, address, body).await? {
        Taken::In(id) => id,
        Taken::Rejected(reject) => return Ok(cbor(&CallAnswer::NonReplicatedRejection(reject))),
    };
    let answered = tokio::time::timeout(CALL_WAIT, gateway.replica.answered(id)).await;
    let Ok(certified) = answered else {
        return Ok(StatusCode::ACCEPTED.into_response());
    };
    let work = move || {
        let certificate = certified.call_certificate(&id);
        cbor(&CallAnswer::Replied { certificate })
    };
    // The call is in and done: who is refused the certificate now can ask for it later.
    let answer = gateway.work.run(client.source, work).await;
    Ok(answer.unwrap_or_else(|_| StatusCode::ACCEPTED.into_response()))
}

async fn submit(
    gateway: &Gateway,
    client: Client,
    address: Scope,
    body: Bytes,
) -> Result<Taken, Refusal> {
    let replica = Arc::clone(&gateway.replica);
    let work = move || replica.submit(address, &body);
    match gateway.work.run(client.source, work).await? {
        Ok(id) => Ok(Taken::In(id)),
        Err(SubmitError::Rejected(reject)) => Ok(Taken::Rejected(reject_response(&reject))),
        Err(error) => Err(error.into()),
    }
}
