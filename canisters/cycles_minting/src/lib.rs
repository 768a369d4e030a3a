//! The queries of the cycles-minting canister that clients use: where canisters can be created, and what ICP is worth.
//!
//! # Design
//! The network has one subnet, and no market: the rate is what the canister was installed with. It is certified as on the
//! Internet Computer, by a hash tree of one leaf.
//!
//! # Invariants
//! The certified data is the root of the hash tree over the rate, after installations and upgrades alike.
use candid::{CandidType, Deserialize, Principal};
use ic_cdk::{api, init, post_upgrade, pre_upgrade, query};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use std::cell::Cell;

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../cycles_minting.did").len()] =
    *include_bytes!("../cycles_minting.did");

/// Where the rate lies in the hash tree.
const RATE_LABEL: &[u8] = b"ICP_XDR_CONVERSION_RATE";

#[derive(CandidType, Deserialize)]
struct InitArgs {
    development_xdr_permyriad_per_icp: u64,
}

#[derive(CandidType, Deserialize, Clone, Copy, Default)]
struct Rate {
    xdr_permyriad_per_icp: u64,
    timestamp_seconds: u64,
}

#[derive(CandidType)]
struct CertifiedRate {
    data: Rate,
    hash_tree: ByteBuf,
    certificate: ByteBuf,
}

#[derive(CandidType)]
struct Listed<T> {
    data: Vec<(T, Vec<Principal>)>,
}

thread_local! {
    static RATE: Cell<Rate> = Cell::default();
}

#[init]
fn init(args: InitArgs) {
    certify(Rate {
        xdr_permyriad_per_icp: args.development_xdr_permyriad_per_icp,
        timestamp_seconds: api::time() / 1_000_000_000,
    });
}

#[pre_upgrade]
fn pre_upgrade() {
    ic_cdk::storage::stable_save((RATE.get(),)).expect("the state is encodable");
}

#[post_upgrade]
fn post_upgrade() {
    let (rate,) =
        ic_cdk::storage::stable_restore().expect("the state was saved before the upgrade");
    certify(rate);
}

fn certify(rate: Rate) {
    RATE.set(rate);
    api::certified_data_set(root(&encoded(rate)));
}

fn encoded(rate: Rate) -> Vec<u8> {
    candid::encode_one(rate).expect("numbers have a Candid form")
}

#[query]
fn get_default_subnets() -> Vec<Principal> {
    vec![api::subnet_self()]
}

/// None: the subnet has no type that asks for it by name.
#[query]
fn get_subnet_types_to_subnets() -> Listed<String> {
    Listed { data: Vec::new() }
}

/// None: everybody may create canisters on the one subnet.
#[query]
fn get_principals_authorized_to_create_canisters_to_subnets() -> Listed<Principal> {
    Listed { data: Vec::new() }
}

#[query]
fn get_icp_xdr_conversion_rate() -> CertifiedRate {
    let data = RATE.get();
    CertifiedRate {
        data,
        hash_tree: ByteBuf::from(tree(&encoded(data))),
        // An update call has none; its reply is certified itself.
        certificate: ByteBuf::from(api::data_certificate().unwrap_or_default()),
    }
}

/// The root hash of a tree of one labeled leaf.
fn root(leaf: &[u8]) -> [u8; 32] {
    let leaf = Sha256::new()
        .chain_update(b"\x10ic-hashtree-leaf")
        .chain_update(leaf)
        .finalize();
    let labeled = Sha256::new()
        .chain_update(b"\x13ic-hashtree-labeled")
        .chain_update(RATE_LABEL)
        .chain_update(leaf);
    labeled.finalize().into()
}

/// The tree itself in CBOR: `[2, label, [3, leaf]]`, preceded by the tag of self-described CBOR.
fn tree(leaf: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xd9, 0xd9, 0xf7, 0x83, 0x02];
    blob(&mut bytes, RATE_LABEL);
    bytes.extend([0x82, 0x03]);
    blob(&mut bytes, leaf);
    bytes
}

/// Both blobs here are shorter than 256 bytes.
fn blob(bytes: &mut Vec<u8>, blob: &[u8]) {
    let length = u8::try_from(blob.len()).expect("the rate's form is short");
    match length {
        0..24 => bytes.push(0x40 | length),
        _ => bytes.extend([0x58, length]),
    }
    bytes.extend(blob);
}
