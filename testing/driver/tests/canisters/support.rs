//! Builds, installs and calls canisters.
use candid::{CandidType, Deserialize, utils::ArgumentEncoder};
use ic_management_canister_types::ProvisionalCreateCanisterWithCyclesArgs;
use ic_principal::Principal;
use lockstep_driver::{Reject, Subnet};
use serde_bytes::ByteBuf;
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// An account of ICRC-1.
#[derive(CandidType, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Account {
    pub(crate) owner: Principal,
    pub(crate) subaccount: Option<ByteBuf>,
}

/// The principal of a user.
pub(crate) fn user(number: u8) -> Principal {
    Principal::from_slice(&[number; 29])
}

/// An account without subaccount.
pub(crate) fn account(owner: Principal) -> Account {
    Account {
        owner,
        subaccount: None,
    }
}

/// A package and whether it is built without fork-join.
type Build = (&'static str, bool);

static BUILT: Mutex<BTreeMap<Build, Option<&'static [u8]>>> = Mutex::new(BTreeMap::new());

/// A canister's module, or nothing where there is no such toolchain.
pub(crate) fn wasm(package: &'static str) -> Option<&'static [u8]> {
    build(package, false)
}

/// As [`wasm`], with tasks that run one after another.
pub(crate) fn sequential_wasm(package: &'static str) -> Option<&'static [u8]> {
    build(package, true)
}

fn build(package: &'static str, sequential: bool) -> Option<&'static [u8]> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    *built.entry((package, sequential)).or_insert_with(|| {
        let (manifest, target) = ("canisters/Cargo.toml", "wasm32-unknown-unknown");
        // A folder each: modules have one name, and would replace each other.
        let (folder, arguments): (_, &[&str]) = match sequential {
            false => ("canisters", &["build"]),
            true => (
                "canisters-sequential",
                &["build", "--features", "sequential"],
            ),
        };
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        let products = lockstep_guests::build_in(manifest, target, package, arguments, &folder)?;
        let module = std::fs::read(products.join(format!("{package}.wasm")));
        Some(module.expect("it was just built").leak())
    })
}

/// A new canister with this code.
pub(crate) fn install(
    subnet: &mut Subnet,
    wasm: &[u8],
    arguments: &impl ArgumentEncoder,
) -> Principal {
    let canister = subnet.create_canister();
    subnet
        .install(canister, wasm, &encode(arguments))
        .expect("it is valid");
    canister
}

/// As [`install`], with few cycles beyond what an installation must have at hand.
pub(crate) fn install_poor(
    subnet: &mut Subnet,
    wasm: &[u8],
    arguments: &impl ArgumentEncoder,
) -> Principal {
    let settings = ProvisionalCreateCanisterWithCyclesArgs {
        amount: Some(310_000_000_000_u64.into()),
        ..ProvisionalCreateCanisterWithCyclesArgs::default()
    };
    let canister = subnet
        .create_canister_with(Principal::anonymous(), &settings)
        .expect("it is a canister like others");
    subnet
        .install(canister, wasm, &encode(arguments))
        .expect("it is valid");
    canister
}

/// Lets years pass until what a canister has is less than a message must have at hand.
pub(crate) fn starve(subnet: &mut Subnet, canister: Principal) {
    while subnet.cycles(canister) > 30_000_000_000 {
        subnet.advance_time(Duration::from_secs(365 * 24 * 60 * 60));
        subnet.tick();
    }
    assert!(subnet.cycles(canister) > 0, "its code is gone");
}

/// Calls an update method as the anonymous principal, who controls every canister.
pub(crate) fn update<R: CandidType + for<'a> Deserialize<'a>>(
    subnet: &mut Subnet,
    canister: Principal,
    method: &str,
    arguments: &impl ArgumentEncoder,
) -> Result<R, Reject> {
    let reply = subnet.update(canister, Principal::anonymous(), method, &encode(arguments))?;
    Ok(candid::decode_one(&reply).expect("the type is that of the interface"))
}

/// Calls a query method as the anonymous principal.
pub(crate) fn query<R: CandidType + for<'a> Deserialize<'a>>(
    subnet: &Subnet,
    canister: Principal,
    method: &str,
    arguments: &impl ArgumentEncoder,
) -> Result<R, Reject> {
    let reply = subnet.query(canister, Principal::anonymous(), method, &encode(arguments))?;
    Ok(candid::decode_one(&reply).expect("the type is that of the interface"))
}

/// Arguments in Candid.
pub(crate) fn encode(arguments: &impl ArgumentEncoder) -> Vec<u8> {
    candid::utils::encode_args_ref(arguments).expect("they have a Candid form")
}
