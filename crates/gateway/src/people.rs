//! JSON for people, read-only: the network, the last blocks, what canisters use.
//!
//! | address | answer |
//! |---|---|
//! | `/_/lockstep/status` | [`Status`](lockstep_subnet::replica::Status) |
//! | `/_/lockstep/network` | [`Network`] |
//! | `/_/lockstep/blocks?after=HEIGHT&limit=COUNT` | an array of [`RecentBlock`], oldest first: the last ones beyond the height |
//! | `/_/lockstep/canisters?after=ID&limit=COUNT` | [`CanisterPage`]: those behind the id, in the order of ids |
//! | `/_/lockstep/canisters/ID` | [`CanisterSummary`], or status 404 |
//!
//! All but the path is optional. Nothing here is certified: it is what this replica says about itself. It shows sizes,
//! balances and counts, no content of memories, arguments or replies. What it says about canisters it says to clients on
//! this machine alone, unless [`Settings::public_console`](crate::Settings::public_console) is set.
use crate::{
    Gateway,
    answer::{Refusal, principal},
    limits::Client,
};
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use lockstep_subnet::replica::{CanisterPage, CanisterSummary, RecentBlock, Replica};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// Blocks of an answer that names no limit.
const BLOCKS: usize = 32;
/// Canisters of an answer that names no limit.
const CANISTERS: usize = 50;

/// Where the replicas of a network serve people, by index. Clones share one list, which may grow while it is in use:
/// ports are known when they are bound.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<RwLock<BTreeMap<usize, String>>>);

impl Peers {
    /// Sets the address of a replica: scheme, host and port, nothing else. An address that is none is left out.
    pub fn set(&self, index: usize, url: &str) {
        let parsed = url.parse::<Uri>().ok();
        let origin = parsed.and_then(|uri| {
            let scheme = uri
                .scheme_str()
                .filter(|scheme| ["http", "https"].contains(scheme))?;
            Some(format!("{scheme}://{}", uri.authority()?))
        });
        // It becomes part of a policy, whose separators these are.
        let origin = origin.filter(|origin| !origin.contains([';', ',', '\'', '@', '*']));
        let mut urls = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match origin {
            Some(origin) => urls.insert(index, origin),
            None => urls.remove(&index),
        };
    }

    /// The addresses, by index.
    pub(crate) fn urls(&self) -> Vec<String> {
        let urls = self.0.read().unwrap_or_else(PoisonError::into_inner);
        urls.values().cloned().collect()
    }
}

/// The network as a replica knows it.
#[derive(Debug, Serialize)]
pub(crate) struct Network {
    /// This node.
    node_id: String,
    /// Its subnet.
    subnet_id: String,
    /// The subnet's public key, DER, in hexadecimal.
    root_key: String,
    /// Where the replicas' consoles are, this one's among them.
    replicas: Vec<String>,
    /// Version of the software.
    version: &'static str,
}

/// The routes.
pub(crate) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/_/lockstep/network", get(network))
        .route("/_/lockstep/blocks", get(blocks))
}

/// The routes that show balances and controllers, which on the Internet Computer only controllers see.
pub(crate) fn canister_routes() -> Router<Gateway> {
    Router::new()
        .route("/_/lockstep/canisters", get(canisters))
        .route("/_/lockstep/canisters/{id}", get(canister))
}

async fn network(State(gateway): State<Gateway>) -> Json<Network> {
    let replica = &gateway.replica;
    let genesis = replica.genesis();
    Json(Network {
        node_id: replica.node_id().to_text(),
        subnet_id: genesis.subnet_id.to_text(),
        root_key: hex::encode(&genesis.root_key),
        replicas: gateway.peers.urls(),
        version: env!("CARGO_PKG_VERSION"),
    })
}

#[derive(Deserialize)]
struct BlockRange {
    after: Option<u64>,
    limit: Option<usize>,
}

async fn blocks(
    State(replica): State<Arc<Replica>>,
    Query(range): Query<BlockRange>,
) -> Json<Vec<RecentBlock>> {
    let limit = range.limit.unwrap_or(BLOCKS);
    Json(replica.recent_blocks(range.after.unwrap_or(0), limit))
}

#[derive(Deserialize)]
struct CanisterRange {
    after: Option<String>,
    limit: Option<usize>,
}

async fn canisters(
    State(gateway): State<Gateway>,
    client: Client,
    Query(range): Query<CanisterRange>,
) -> Result<Json<CanisterPage>, Refusal> {
    let after = range.after.as_deref().map(principal).transpose()?;
    let limit = range.limit.unwrap_or(CANISTERS).max(1);
    let replica = Arc::clone(&gateway.replica);
    let work = move || replica.canisters(after.as_ref(), limit);
    Ok(Json(gateway.work.run(client.source, work).await?))
}

async fn canister(
    State(replica): State<Arc<Replica>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let id = principal(&id)?;
    let found: Option<CanisterSummary> = replica.canister(&id);
    Ok(match found {
        Some(canister) => Json(canister).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            format!("there is no canister {id}\n"),
        )
            .into_response(),
    })
}
