//! The canister that does as it is told.
use ic_principal::Principal;
use lockstep_canister::engine::Engine;
use lockstep_driver::{Reject, Subnet};
use lockstep_hostile::{Step, encode};
use std::{path::Path, sync::LazyLock, time::Duration};

static WASM: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    let target = "wasm32-unknown-unknown";
    let arguments = ["build", "--lib"];
    let products = lockstep_guests::build(target, "lockstep-hostile", &arguments, &folder)?;
    Some(std::fs::read(products.join("lockstep_hostile.wasm")).expect("it was just built"))
});

pub(crate) fn anonymous() -> Principal {
    Principal::anonymous()
}

/// The canister's module, or nothing where there is no such toolchain.
pub(crate) fn wasm() -> Option<&'static [u8]> {
    WASM.as_deref()
}

/// A subnet with so many of them.
pub(crate) fn subnet(count: usize) -> Option<(Subnet, Vec<Principal>)> {
    let mut subnet = Subnet::new();
    let ids = install(&mut subnet, count)?;
    Some((subnet, ids))
}

/// Installs so many of them.
pub(crate) fn install(subnet: &mut Subnet, count: usize) -> Option<Vec<Principal>> {
    let wasm = wasm()?;
    let ids = (0..count).map(|_| {
        let id = subnet.create_canister();
        subnet.install(id, wasm, b"").expect("it is valid");
        id
    });
    Some(ids.collect())
}

/// Runs a program as an update of the anonymous user.
pub(crate) fn run(
    subnet: &mut Subnet,
    canister: Principal,
    program: &[Step],
) -> Result<Vec<u8>, Reject> {
    subnet.update(canister, Principal::anonymous(), "run", &encode(program))
}

/// A subnet on which every canister has one message per block, a second each.
pub(crate) fn slow_subnet(count: usize) -> Option<(Subnet, Vec<Principal>)> {
    let mut subnet = slow();
    subnet.set_block_time(Duration::from_secs(1));
    let ids = install(&mut subnet, count)?;
    Some((subnet, ids))
}

/// A subnet without canisters, on which each will have one message per block.
pub(crate) fn slow() -> Subnet {
    let mut genesis = Subnet::new().state().genesis.as_ref().clone();
    genesis.round_instructions = 1;
    Subnet::with_genesis(Engine::new(), genesis)
}
