//! Queries and certified reads.
use crate::{
    Gateway,
    answer::{Refusal, cbor, encoded, principal},
    limits::Client,
};
use axum::{
    body::Bytes,
    extract::{Path, State},
    response::Response,
};
use ic_transport_types::ReadStateResponse;
use lockstep_subnet::{replica::ReadError, tree::paths::Scope};
use std::sync::Arc;

/// `/api/v2/canister/ID/query` and its v3.
pub(crate) async fn query(
    State(gateway): State<Gateway>,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    answer_query(&gateway, client, Scope::Canister(principal(&id)?), body).await
}

/// `/api/v3/subnet/ID/query`.
pub(crate) async fn subnet_query(
    State(gateway): State<Gateway>,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    answer_query(&gateway, client, Scope::Subnet(principal(&id)?), body).await
}

/// `/api/v2/canister/ID/read_state` and its v3.
pub(crate) async fn canister_state(
    State(gateway): State<Gateway>,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    read_state(&gateway, client, Scope::Canister(principal(&id)?), body).await
}

/// `/api/v2/subnet/ID/read_state` and its v3.
pub(crate) async fn subnet_state(
    State(gateway): State<Gateway>,
    client: Client,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    read_state(&gateway, client, Scope::Subnet(principal(&id)?), body).await
}

async fn answer_query(
    gateway: &Gateway,
    client: Client,
    address: Scope,
    body: Bytes,
) -> Result<Response, Refusal> {
    let replica = Arc::clone(&gateway.replica);
    let work = move || replica.query(address, &body);
    Ok(encoded(gateway.queries.run(client.source, work).await??))
}

async fn read_state(
    gateway: &Gateway,
    client: Client,
    address: Scope,
    body: Bytes,
) -> Result<Response, Refusal> {
    let replica = Arc::clone(&gateway.replica);
    let work = move || {
        let certificate = replica.read_state(address, &body)?;
        Ok::<_, ReadError>(cbor(&ReadStateResponse { certificate }))
    };
    Ok(gateway.work.run(client.source, work).await??)
}
