//! Queries and certified reads.
use crate::answer::{Refusal, blocking, encoded, principal};
use axum::{
    body::Bytes,
    extract::{Path, State},
    response::Response,
};
use ic_transport_types::ReadStateResponse;
use lockstep_subnet::{replica::Replica, tree::paths::Scope};
use std::sync::Arc;

/// `/api/v2/canister/ID/query` and its v3.
pub(crate) async fn query(
    State(replica): State<Arc<Replica>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    answer_query(replica, Scope::Canister(principal(&id)?), body).await
}

/// `/api/v3/subnet/ID/query`.
pub(crate) async fn subnet_query(
    State(replica): State<Arc<Replica>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    answer_query(replica, Scope::Subnet(principal(&id)?), body).await
}

/// `/api/v2/canister/ID/read_state` and its v3.
pub(crate) async fn canister_state(
    State(replica): State<Arc<Replica>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    read_state(replica, Scope::Canister(principal(&id)?), body).await
}

/// `/api/v2/subnet/ID/read_state` and its v3.
pub(crate) async fn subnet_state(
    State(replica): State<Arc<Replica>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, Refusal> {
    read_state(replica, Scope::Subnet(principal(&id)?), body).await
}

async fn answer_query(
    replica: Arc<Replica>,
    address: Scope,
    body: Bytes,
) -> Result<Response, Refusal> {
    Ok(encoded(
        blocking(move || replica.query(address, &body)).await??,
    ))
}

async fn read_state(
    replica: Arc<Replica>,
    address: Scope,
    body: Bytes,
) -> Result<Response, Refusal> {
    let certificate = blocking(move || replica.read_state(address, &body)).await??;
    Ok(crate::answer::cbor(&ReadStateResponse { certificate }))
}
