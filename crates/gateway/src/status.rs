//! What the replica says about itself, for agents and for people.
use crate::answer::cbor;
use axum::{Json, extract::State, response::Response};
use lockstep_subnet::replica::{Replica, Status};
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct AgentStatus<'replica> {
    #[serde(with = "serde_bytes")]
    root_key: &'replica [u8],
    impl_version: &'static str,
    replica_health_status: &'static str,
    certified_height: u64,
}

/// `/api/v2/status`.
pub(crate) async fn status(State(replica): State<Arc<Replica>>) -> Response {
    let health = match (replica.halted(), replica.certified_height()) {
        (Some(_), _) => "halted",
        (None, 0) => "certified_state_behind",
        (None, _) => "healthy",
    };
    cbor(&AgentStatus {
        root_key: &replica.genesis().root_key,
        impl_version: env!("CARGO_PKG_VERSION"),
        replica_health_status: health,
        certified_height: replica.certified_height(),
    })
}

/// `/_/lockstep/status`.
pub(crate) async fn for_people(State(replica): State<Arc<Replica>>) -> Json<Status> {
    Json(replica.status())
}
