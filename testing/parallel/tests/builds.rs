//! The same source as a canister that forks, as one that does not, and on this machine: equal replies.
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment, Execution, Response},
    session::Sessions,
    state::{CanisterState, Installed},
};
use lockstep_parallel::METHODS;
use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroUsize},
    path::Path,
    sync::Arc,
};

const LANES: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// The canister's bytes, or nothing where there is no such toolchain.
fn build(name: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let arguments = [&["build", "--lib"], arguments].concat();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let target = "wasm32-unknown-unknown";
    let products = lockstep_guests::build(target, "lockstep-parallel", &arguments, &folder)?;
    Some(std::fs::read(products.join("lockstep_parallel.wasm")).unwrap())
}

/// The modules that a module imports from.
fn imports(wasm: &[u8]) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let wasmparser::Payload::ImportSection(section) = payload.unwrap() {
            let imports = section.into_imports();
            modules.extend(imports.map(|import| import.unwrap().module.to_owned()));
        }
    }
    modules
}

fn install(engine: &Engine, wasm: &[u8]) -> CanisterState {
    let id = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 7, 1, 1]);
    let mut state = CanisterState::new(id, BTreeSet::new(), 0);
    state.installed = Some(Installed::new(Arc::new(engine.compile(wasm).unwrap())));
    let execution = execute(engine, &state, EntryPoint::Init, 0);
    state.apply(&execution.result.unwrap().1);
    state
}

fn execute(engine: &Engine, state: &CanisterState, entry: EntryPoint, size: u32) -> Execution {
    let environment = Environment {
        time_ns: 0,
        subnet_id: Principal::management_canister(),
        root_key: b"",
        instruction_limit: 40_000_000_000,
        pace: None,
        lanes: LANES,
        data_certificate: None,
        sessions: &Sessions::default(),
    };
    let call = Call {
        entry,
        caller: Principal::anonymous(),
        argument: size.to_le_bytes().to_vec(),
    };
    engine.execute(state, &call, &environment)
}

fn reply(execution: &Execution) -> &[u8] {
    match &execution.result {
        Ok((Response::Reply(reply), _)) => reply,
        other => panic!("a reply expected: {other:?}"),
    }
}

#[test]
fn both_builds_and_every_number_of_threads_give_the_same() {
    let Some((forking, sequential)) =
        build("forking", &[]).zip(build("sequential", &["--features", "sequential"]))
    else {
        return;
    };
    let engine = Engine::new();
    assert_eq!(
        imports(&forking),
        BTreeSet::from(["ic0".into(), "lockstep".into()])
    );
    assert_eq!(imports(&sequential), BTreeSet::from(["ic0".into()]));
    let forking = install(&engine, &forking);
    let sequential = install(&engine, &sequential);
    for (name, method) in METHODS {
        for size in [0, 1, 5, 64, 301] {
            let entry = || EntryPoint::Update(name.into());
            let expected = method(size);
            let alone = execute(&engine, &sequential, entry(), size);
            assert_eq!(reply(&alone), expected, "{name} {size}, one after another");
            assert_eq!(alone.time, alone.instructions);
            let mut charges = BTreeSet::new();
            for threads in 1..=4 {
                let engine = engine.on_threads(NonZeroUsize::new(threads).unwrap());
                let forked = execute(&engine, &forking, entry(), size);
                assert_eq!(reply(&forked), expected, "{name} {size}, {threads} threads");
                charges.insert((forked.instructions, forked.time));
            }
            assert_eq!(charges.len(), 1, "{name} {size}: {charges:?}");
        }
    }
}
