//! The minting canister's queries.
use crate::support::{install, query, wasm};
use candid::{CandidType, Deserialize, Principal};
use lockstep_driver::Subnet;
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

#[derive(CandidType)]
struct InitArgs {
    development_xdr_permyriad_per_icp: u64,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
struct Rate {
    xdr_permyriad_per_icp: u64,
    timestamp_seconds: u64,
}

#[derive(CandidType, Deserialize)]
struct CertifiedRate {
    data: Rate,
    hash_tree: ByteBuf,
}

#[derive(CandidType, Deserialize)]
struct Listed<T> {
    data: Vec<(T, Vec<Principal>)>,
}

const RATE: InitArgs = InitArgs {
    development_xdr_permyriad_per_icp: 45_678,
};

#[test]
fn it_knows_the_one_subnet() {
    let Some(wasm) = wasm("cycles_minting") else {
        return;
    };
    let mut subnet = Subnet::new();
    let id = install(&mut subnet, wasm, &(RATE,));
    let subnets: Vec<Principal> = query(&subnet, id, "get_default_subnets", &()).unwrap();
    assert_eq!(subnets, [subnet.state().genesis.subnet_id]);
    let types: Listed<String> = query(&subnet, id, "get_subnet_types_to_subnets", &()).unwrap();
    assert!(types.data.is_empty());
    let method = "get_principals_authorized_to_create_canisters_to_subnets";
    let authorized: Listed<Principal> = query(&subnet, id, method, &()).unwrap();
    assert!(authorized.data.is_empty());
}

#[test]
fn the_rate_is_certified_also_after_an_upgrade() {
    let Some(wasm) = wasm("cycles_minting") else {
        return;
    };
    let mut subnet = Subnet::new();
    let id = install(&mut subnet, wasm, &(RATE,));
    let read = |subnet: &Subnet| -> CertifiedRate {
        query(subnet, id, "get_icp_xdr_conversion_rate", &()).unwrap()
    };
    let rate = read(&subnet);
    assert_eq!(rate.data.xdr_permyriad_per_icp, 45_678);
    assert!(rate.data.timestamp_seconds <= subnet.time_ns() / 1_000_000_000);
    check_certified(&subnet, id, &rate);
    subnet.upgrade(id, wasm, b"", None).unwrap();
    let upgraded = read(&subnet);
    assert_eq!(upgraded.data, rate.data);
    check_certified(&subnet, id, &upgraded);
}

/// The hash tree is a leaf with the rate, and its root is what the canister has certified.
fn check_certified(subnet: &Subnet, id: Principal, rate: &CertifiedRate) {
    let label = b"ICP_XDR_CONVERSION_RATE";
    let leaf = candid::encode_one(&rate.data).unwrap();
    let expected = [
        &[0xd9, 0xd9, 0xf7, 0x83, 2, 0x40 | label.len() as u8][..],
        label,
        &[0x82, 3, 0x58, leaf.len() as u8],
        &leaf,
    ]
    .concat();
    assert_eq!(*rate.hash_tree, expected);
    let leaf = Sha256::digest([b"\x10ic-hashtree-leaf", leaf.as_slice()].concat());
    let root = Sha256::digest([&b"\x13ic-hashtree-labeled"[..], label, &leaf].concat());
    let certified = &subnet.canister(id).unwrap().state.certified_data;
    assert_eq!(certified[..], root[..]);
}
