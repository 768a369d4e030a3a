//! The methods of the management canister: who may call them, and which canister they are about.
use super::{Manager, decode, no_method};
use crate::{execution::CANISTER_REJECTED, state::Reject};
use candid::CandidType;
use ic_principal::Principal;
use serde::Deserialize;
use serde_bytes::ByteBuf;

/// What a call to a method is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// No canister that exists: the call is sent anywhere on the subnet.
    Subnet,
    /// The argument's `canister_id`.
    Canister,
    /// The argument's `target_canister`.
    Chunked,
}

/// Which users are not bound to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// All.
    Everybody,
    /// The target's controllers.
    Controllers,
    /// Those who may see its status.
    Status,
    /// Those who may see its snapshots.
    Snapshots,
}

/// Who may call a method.
#[derive(Debug, Clone, Copy)]
struct Method {
    target: Target,
    /// Users, in replicated calls.
    users: bool,
    /// Canisters.
    canisters: bool,
    /// Users, in queries.
    queries: bool,
    access: Access,
}

/// Calls that both may make and that are about a canister.
const BOTH: Method = Method {
    target: Target::Canister,
    users: true,
    canisters: true,
    queries: false,
    access: Access::Everybody,
};
/// The same for those of the target's controllers.
const CONTROLLED: Method = Method {
    access: Access::Controllers,
    ..BOTH
};
/// Calls that only canisters may make.
const CANISTERS: Method = Method {
    users: false,
    ..BOTH
};
/// Those among them that are about no canister.
const OF_SUBNET: Method = Method {
    target: Target::Subnet,
    ..CANISTERS
};

fn find(method: &str) -> Result<Method, Reject> {
    Ok(match method {
        "create_canister" | "provisional_create_canister_with_cycles" => Method {
            target: Target::Subnet,
            ..BOTH
        },
        "provisional_top_up_canister" => BOTH,
        "list_canister_snapshots"
        | "read_canister_snapshot_metadata"
        | "read_canister_snapshot_data" => Method {
            access: Access::Snapshots,
            ..BOTH
        },
        "canister_status" => Method {
            queries: true,
            access: Access::Status,
            ..BOTH
        },
        "canister_metrics" => Method {
            queries: true,
            ..CONTROLLED
        },
        "update_settings"
        | "upload_chunk"
        | "clear_chunk_store"
        | "stored_chunks"
        | "install_code"
        | "uninstall_code"
        | "start_canister"
        | "stop_canister"
        | "delete_canister"
        | "take_canister_snapshot"
        | "load_canister_snapshot"
        | "delete_canister_snapshot"
        | "upload_canister_snapshot_metadata"
        | "upload_canister_snapshot_data" => CONTROLLED,
        "install_chunked_code" => Method {
            target: Target::Chunked,
            ..CONTROLLED
        },
        "canister_info" | "fetch_canister_logs" => Method {
            queries: true,
            ..CANISTERS
        },
        "canister_metadata" | "deposit_cycles" => CANISTERS,
        "list_canisters" => Method {
            canisters: false,
            queries: true,
            ..OF_SUBNET
        },
        "raw_rand" | "subnet_info" | "subnet_metrics" | "node_metrics_history" => OF_SUBNET,
        method if missing(method).is_some() => OF_SUBNET,
        method => return Err(no_method(method)),
    })
}

/// What this subnet lacks that a method of the Internet Computer needs.
fn missing(method: &str) -> Option<&'static str> {
    Some(match method {
        "ecdsa_public_key" | "sign_with_ecdsa" => "threshold ECDSA",
        "schnorr_public_key" | "sign_with_schnorr" => "threshold Schnorr signatures",
        "vetkd_public_key" | "vetkd_derive_key" => "threshold key derivation",
        "http_request" | "flexible_http_request" => "HTTP outcalls",
        "node_metrics_history" => "record of who proposed its blocks",
        "bitcoin_get_balance"
        | "bitcoin_get_utxos"
        | "bitcoin_send_transaction"
        | "bitcoin_get_current_fee_percentiles"
        | "bitcoin_get_block_headers" => "Bitcoin integration",
        _ => return None,
    })
}

/// Which canister's address a user's call is sent to; `None`: any.
///
/// # Errors
/// The rejection of a method that users cannot call, or of an argument that names no canister.
pub fn ingress_target(method: &str, argument: &[u8]) -> Result<Option<Principal>, Reject> {
    let found = find(method)?;
    if !found.users {
        return Err(only_canisters(method));
    }
    found.target(argument)
}

/// Which canister's address a query is sent to; `None`: any.
///
/// # Errors
/// The rejection of a method that is no query, or of an argument that names no canister.
pub fn query_target(method: &str, argument: &[u8]) -> Result<Option<Principal>, Reject> {
    let found = find(method)?;
    if !found.queries {
        let text = format!("Query method {method} not found on the management canister");
        return Err(Reject::new(536, text));
    }
    found.target(argument)
}

/// Which canister a call is about, if it is about one.
///
/// # Errors
/// The rejection of a method that does not exist, or of an argument that names no canister.
pub(super) fn target(method: &str, argument: &[u8]) -> Result<Option<Principal>, Reject> {
    find(method)?.target(argument)
}

/// Which users are not bound to be refused by a method.
pub(super) fn access(method: &str) -> Access {
    find(method).map_or(Access::Everybody, |found| found.access)
}

impl Method {
    fn target(&self, argument: &[u8]) -> Result<Option<Principal>, Reject> {
        // The large fields are named, so that they are taken over as they are, not skipped byte by byte.
        #[derive(CandidType, Deserialize)]
        struct Canister {
            canister_id: Principal,
            #[serde(rename = "wasm_module")]
            _wasm_module: Option<ByteBuf>,
            #[serde(rename = "arg")]
            _arg: Option<ByteBuf>,
            #[serde(rename = "chunk")]
            _chunk: Option<ByteBuf>,
        }
        #[derive(CandidType, Deserialize)]
        struct Chunked {
            target_canister: Principal,
            #[serde(rename = "arg")]
            _arg: Option<ByteBuf>,
        }
        Ok(match self.target {
            Target::Subnet => None,
            Target::Canister => Some(decode::<Canister>(argument)?.canister_id),
            Target::Chunked => Some(decode::<Chunked>(argument)?.target_canister),
        })
    }
}

impl Manager<'_> {
    /// Refuses what the caller may not call or this subnet cannot do.
    pub(super) fn check_method(&self, method: &str, by_user: bool) -> Result<(), Reject> {
        let found = find(method)?;
        if by_user && !found.users {
            return Err(only_canisters(method));
        }
        if !by_user && !found.canisters {
            let text = format!("{method} can only be called as a query");
            return Err(Reject::new(CANISTER_REJECTED, text));
        }
        match missing(method) {
            None => Ok(()),
            Some(what) => {
                let text = format!("This subnet has no {what}: {method} is not available");
                Err(Reject::new(407, text))
            }
        }
    }
}

fn only_canisters(method: &str) -> Reject {
    let text = format!("Only canisters can call ic00 method {method}");
    Reject::new(CANISTER_REJECTED, text)
}
