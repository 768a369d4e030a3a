//! Random programs in slices against the same at once.
use super::generate::{Random, program};
use crate::{
    engine::{Call, Engine, EntryPoint, Environment, Execution},
    pacer::{Pace, Pacer, Progress},
    session::Sessions,
    state::{CanisterState, Installed},
};
use ic_principal::Principal;
use std::{collections::BTreeSet, num::NonZeroU64, sync::Arc, thread};

const SLICE_MIN: u64 = 1_000;

fn execute(
    engine: &Engine,
    state: &CanisterState,
    entry: EntryPoint,
    limit: u64,
    pace: Option<&Pace>,
) -> Execution {
    let sessions = Sessions::default();
    let environment = Environment {
        instruction_limit: limit,
        pace,
        ..Environment::new(&sessions)
    };
    let call = Call::new(entry, Principal::anonymous(), vec![]);
    engine.execute(state, &call, &environment)
}

/// Digest of the heap and the globals, or the error.
type Outcome = Result<([u8; 32], Vec<u128>), String>;

/// What can be told apart.
fn outcome(execution: Execution) -> (u64, u64, Outcome) {
    let result = execution.result.map(|(_, effects)| {
        let globals = effects.globals.iter().map(|value| {
            use crate::state::GlobalValue as G;
            match *value {
                G::I32(value) => value.cast_unsigned().into(),
                G::I64(value) => value.cast_unsigned().into(),
                G::F32(bits) => bits.into(),
                G::F64(bits) => bits.into(),
                G::V128(bits) => bits,
            }
        });
        (effects.heap.digest(), globals.collect())
    });
    let result = result.map_err(|error| error.message);
    (execution.instructions, execution.time, result)
}

#[test]
fn slices_change_nothing() {
    let engine = Engine::new();
    let mut longest = 0;
    for seed in 0..300 {
        let mut random = Random(seed);
        let module = engine.compile(&program(&mut random, seed % 2 == 0));
        let id = Principal::from_slice(&[7, 1, 1]);
        let mut state = CanisterState::new(id, BTreeSet::new(), 0);
        state.installed = Some(Installed::new(Arc::new(module.expect("a valid module"))));
        let init = execute(&engine, &state, EntryPoint::Init, 0, None);
        state.apply(&init.result.expect("nothing to do").1);
        // Sometimes too little.
        let limit = if seed % 4 == 0 { 1_500 } else { 1 << 40 };
        let slice = SLICE_MIN + random.next() % 1_000;
        let whole = execute(&engine, &state, EntryPoint::Heartbeat, limit, None);
        let pacer = Pacer::new(NonZeroU64::new(slice).expect("a slice has instructions"));
        let (paced, slices) = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _ending = pacer.pace().ending();
                execute(
                    &engine,
                    &state,
                    EntryPoint::Heartbeat,
                    limit,
                    Some(pacer.pace()),
                )
            });
            let mut slices = 1;
            while pacer.wait() == Progress::Paused {
                slices += 1;
                pacer.resume();
            }
            (thread.join().expect("no panic"), slices)
        });
        assert_eq!(slices, whole.time.div_ceil(slice).max(1), "program {seed}");
        longest = longest.max(slices);
        assert_eq!(outcome(paced), outcome(whole), "program {seed}");
    }
    assert!(longest > 3, "the longest takes {longest} slices");
}
