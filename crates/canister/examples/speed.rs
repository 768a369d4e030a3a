//! Prints how fast programs run as messages of a canister, counted and with canonical NaNs, beside the same
//! Wasm in plain wasmtime.
//!
//! `cargo run --release -p lockstep-canister --example speed [PROGRAM]`
//!
//! Every figure is a ratio of medians over repetitions that alternate between the two. What is measured is
//! the time that the thread had a core, so that other work on the machine disturbs less.

#![allow(clippy::disallowed_methods)] // A geometric mean, for people.

use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment},
    session::Sessions,
    state::{CanisterState, Installed},
};
use lockstep_speed::{METHODS, ORDINARY};
use std::{collections::BTreeSet, path::Path, sync::Arc};
use wasm_encoder::{CodeSection, FunctionSection, Module, RawSection, reencode::Reencode};
use wasmparser::{Parser, Payload};

const REPETITIONS: usize = 9;
/// Bytes of the module whose installation is timed.
const LARGE_BYTES: usize = 2 << 20;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/speed");
    let target = "wasm32-unknown-unknown";
    let products = lockstep_guests::build(target, "lockstep-speed", &["build", "--lib"], &folder);
    let Some(products) = products else { return };
    let wasm = std::fs::read(products.join("lockstep_speed.wasm")).expect("it was built");
    let plain = wasmtime::Engine::default();
    let engine = Engine::new();
    let mut ordinary = 1.0;
    println!(
        "{:>10} {:>9} {:>9} {:>6}",
        "program", "plain ms", "here ms", "ratio"
    );
    let mut both = Both::new(&plain, &engine, &wasm);
    let only = std::env::args().nth(1);
    for (index, method) in METHODS.into_iter().enumerate() {
        if only.as_deref().is_some_and(|only| only != method) {
            continue;
        }
        let [alone, here] = medians(|way| both.run(way, method));
        if index < ORDINARY {
            ordinary *= alone / here;
        }
        row(method, alone, here);
        if index + 1 == ORDINARY {
            println!(
                "{:>10} {:>26.3}",
                "geomean",
                f64::powf(ordinary, 1.0 / ORDINARY as f64)
            );
        }
    }
    if only.is_some() {
        return;
    }
    let large = large(&wasm);
    let [alone, here] = medians(|way| {
        let begun = seconds();
        match way {
            Way::Plain => drop(wasmtime::Module::new(&plain, &large).expect("a valid module")),
            Way::Here => drop(engine.compile(&large).expect("a valid module")),
        }
        seconds() - begun
    });
    row(&format!("install {} KB", large.len() / 1000), alone, here);
}

fn row(name: &str, plain: f64, here: f64) {
    println!(
        "{name:>10} {:>9.1} {:>9.1} {:>6.3}",
        plain * 1e3,
        here * 1e3,
        plain / here
    );
}

/// Seconds for which this thread has run.
fn seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes a time.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "every thread has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[derive(Clone, Copy)]
enum Way {
    Plain,
    Here,
}

/// Median seconds of either way.
fn medians(mut run: impl FnMut(Way) -> f64) -> [f64; 2] {
    let mut seconds = [vec![], vec![]];
    for _ in 0..REPETITIONS {
        for (way, seconds) in [Way::Plain, Way::Here].into_iter().zip(&mut seconds) {
            seconds.push(run(way));
        }
    }
    seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[REPETITIONS / 2]
    })
}

/// A module plain and as a canister.
struct Both {
    module: wasmtime::Module,
    engine: Engine,
    state: CanisterState,
}

impl Both {
    fn new(plain: &wasmtime::Engine, engine: &Engine, wasm: &[u8]) -> Self {
        let installed = engine.compile(wasm).expect("a valid module");
        let mut state = CanisterState::new(Principal::from_slice(&[7, 1, 1]), BTreeSet::new(), 0);
        state.installed = Some(Installed::new(Arc::new(installed)));
        let mut both = Self {
            module: wasmtime::Module::new(plain, wasm).expect("a valid module"),
            engine: engine.clone(),
            state,
        };
        let init = both.execute(EntryPoint::Init).expect("nothing to do");
        both.state.apply(&init);
        both
    }

    /// Seconds of a method in a fresh instance.
    fn run(&mut self, way: Way, method: &str) -> f64 {
        match way {
            Way::Plain => {
                let mut store = wasmtime::Store::new(self.module.engine(), ());
                let begun = seconds();
                let instance =
                    wasmtime::Instance::new(&mut store, &self.module, &[]).expect("no imports");
                let method = instance
                    .get_typed_func::<(), ()>(&mut store, &format!("canister_update {method}"));
                method
                    .expect("exported")
                    .call(&mut store, ())
                    .expect("no trap");
                seconds() - begun
            }
            Way::Here => {
                let begun = seconds();
                // Programs do not answer.
                self.execute(EntryPoint::Update(method.to_owned()))
                    .expect("it completes");
                seconds() - begun
            }
        }
    }

    fn execute(&self, entry: EntryPoint) -> Result<lockstep_canister::engine::Effects, u16> {
        let sessions = Sessions::default();
        let environment = Environment {
            instruction_limit: 1 << 50,
            ..Environment::new(&sessions)
        };
        let call = Call::new(entry, Principal::anonymous(), vec![]);
        let execution = self.engine.execute(&self.state, &call, &environment);
        execution
            .result
            .map(|(_, effects)| effects)
            .map_err(|error| error.code)
    }
}

/// The module with its functions again and again, until it is large.
fn large(wasm: &[u8]) -> Vec<u8> {
    let mut reencoder = wasm_encoder::reencode::RoundtripReencoder;
    let sections = || {
        Parser::new(0)
            .parse_all(wasm)
            .map(|payload| payload.expect("valid"))
    };
    let bodies = sections().find_map(|payload| match payload {
        Payload::CodeSectionStart { range, .. } => Some(range),
        _ => None,
    });
    let copies = LARGE_BYTES.div_ceil(bodies.expect("it has code").len());
    let mut module = Module::new();
    let mut code = CodeSection::new();
    for payload in sections() {
        match payload {
            Payload::FunctionSection(section) => {
                let mut functions = FunctionSection::new();
                for _ in 0..copies {
                    reencoder
                        .parse_function_section(&mut functions, section.clone())
                        .expect("valid");
                }
                module.section(&functions);
            }
            Payload::CodeSectionStart { range, .. } => {
                let reader = wasmparser::BinaryReader::new(&wasm[range.clone()], range.start);
                let section = wasmparser::CodeSectionReader::new(reader).expect("valid");
                for _ in 0..copies {
                    reencoder
                        .parse_code_section(&mut code, section.clone())
                        .expect("valid");
                }
                module.section(&code);
            }
            Payload::CodeSectionEntry(_) | Payload::CustomSection(_) => {}
            other => {
                if let Some((id, range)) = other.as_section() {
                    let data = &wasm[range];
                    module.section(&RawSection { id, data });
                }
            }
        }
    }
    module.finish()
}
