//! The canister's builds, and a message to one.
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment, Execution},
    session::Sessions,
    state::{CanisterState, Installed},
};
use std::{collections::BTreeSet, num::NonZeroU32, path::Path, sync::Arc};

/// Below a folder: with imports, compiled, and compiled with vectors; nothing where there is no such toolchain.
pub(crate) fn builds(folder: &Path) -> Option<[Vec<u8>; 3]> {
    let simd = "--config=target.wasm32-unknown-unknown.rustflags=['-Ctarget-feature=+simd128']";
    Some([
        build(&folder.join("imported"), &[])?,
        build(&folder.join("compiled"), &["--features", "sequential"])?,
        build(&folder.join("vectors"), &["--features", "sequential", simd])?,
    ])
}

fn build(folder: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let arguments = [&["build", "--lib"], arguments].concat();
    let target = "wasm32-unknown-unknown";
    let products = lockstep_guests::build(target, "lockstep-kernels", &arguments, folder)?;
    Some(std::fs::read(products.join("lockstep_kernels.wasm")).unwrap())
}

pub(crate) fn install(engine: &Engine, wasm: &[u8]) -> CanisterState {
    let id = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 7, 1, 1]);
    let mut state = CanisterState::new(id, BTreeSet::new(), 0);
    state.installed = Some(Installed::new(Arc::new(engine.compile(wasm).unwrap())));
    let execution = execute(engine, &state, EntryPoint::Init, Vec::new());
    state.apply(&execution.result.unwrap().1);
    state
}

pub(crate) fn execute(
    engine: &Engine,
    state: &CanisterState,
    entry: EntryPoint,
    argument: Vec<u8>,
) -> Execution {
    let sessions = Sessions::default();
    let environment = Environment {
        lanes: NonZeroU32::new(4).unwrap(),
        ..Environment::new(&sessions)
    };
    let call = Call::new(entry, Principal::anonymous(), argument);
    engine.execute(state, &call, &environment)
}
