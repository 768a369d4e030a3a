//! What the replica says about itself, for agents, for people and for whoever restarts or routes around it.
use crate::{
    Gateway,
    answer::{Reason, Refusal, cbor},
};
use axum::{
    Json,
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use lockstep_subnet::replica::Status;
use serde::Serialize;
use std::time::Duration;
use tokio::time::timeout;

/// What is answered also while the replica catches up.
const ALWAYS: [&str; 4] = ["/health", "/ready", "/metrics", "/_/lockstep/status"];
/// When clients are asked to come back meanwhile.
const CATCHING_UP: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct AgentStatus<'replica> {
    #[serde(with = "serde_bytes")]
    root_key: &'replica [u8],
    impl_version: &'static str,
    replica_health_status: &'static str,
    certified_height: u64,
}

/// How far a replica can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Healthy,
    /// What the subnet has done meanwhile is not executed yet.
    CatchingUp,
    /// Nothing has been certified since the start.
    Uncertified,
    /// The certified state is this many nanoseconds old.
    Behind(u64),
    Halted(String),
}

impl Condition {
    fn of(gateway: &Gateway) -> Self {
        if let Some(reason) = gateway.replica.halted() {
            return Self::Halted(reason.to_owned());
        }
        if !gateway.is_ready() {
            return Self::CatchingUp;
        }
        let Some(certified) = gateway.replica.certified() else {
            return Self::Uncertified;
        };
        // Blocks come also when there is nothing to do, so that the age is small on a replica that keeps up.
        let age_ns = gateway
            .clock
            .now_ns()
            .saturating_sub(certified.executed.state.time_ns);
        if u128::from(age_ns) > gateway.settings.behind_max.as_nanos() {
            return Self::Behind(age_ns);
        }
        Self::Healthy
    }

    /// The words that agents know. A replica that has halted shows a state that will not change.
    fn for_agents(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::CatchingUp | Self::Uncertified => "waiting_for_certified_state",
            Self::Behind(_) | Self::Halted(_) => "certified_state_behind",
        }
    }
}

/// `/api/v2/status`.
pub(crate) async fn status(State(gateway): State<Gateway>) -> Response {
    cbor(&AgentStatus {
        root_key: &gateway.replica.genesis().root_key,
        impl_version: env!("CARGO_PKG_VERSION"),
        replica_health_status: Condition::of(&gateway).for_agents(),
        certified_height: gateway.replica.certified_height(),
    })
}

/// `/_/lockstep/status`.
pub(crate) async fn for_people(State(gateway): State<Gateway>) -> Json<Status> {
    Json(gateway.replica.status())
}

/// `/health`: whether the process answers at all.
pub(crate) async fn health() -> &'static str {
    "live\n"
}

/// `/ready`: whether clients should be sent here: there is a certified state, it is recent, and the replica goes on.
pub(crate) async fn ready(State(gateway): State<Gateway>) -> Response {
    let text = match Condition::of(&gateway) {
        Condition::Healthy => return "ready\n".into_response(),
        Condition::CatchingUp => "the replica catches up".to_owned(),
        Condition::Uncertified => "nothing has been certified since the start".to_owned(),
        Condition::Behind(age_ns) => {
            format!("the certified state is {} s old", age_ns / 1_000_000_000)
        }
        Condition::Halted(reason) => format!("the replica has halted: {reason}"),
    };
    Refusal::saying(StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// Asks clients of a replica that has not caught up to come back: it would answer from a state that the subnet has left
/// behind, or refuse calls to canisters that it does not know yet.
pub(crate) async fn when_ready(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let ready = async {
        let mut ready = gateway.ready.subscribe();
        ready.wait_for(|ready| *ready).await.is_ok()
    };
    if ALWAYS.contains(&request.uri().path())
        || timeout(gateway.settings.ready_wait, ready).await == Ok(true)
    {
        return next.run(request).await;
    }
    Refusal::because(
        StatusCode::SERVICE_UNAVAILABLE,
        Reason::NotReady,
        "this replica has not caught up with its subnet; try again later, or at another".to_owned(),
    )
    .after(CATCHING_UP)
    .into_response()
}
