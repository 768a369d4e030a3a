//! Modules that nobody wrote: valid ones that use every proposal, and real ones that were damaged.
//!
//! # Design
//! A seed makes a module. Whatever it is, [`Engine::compile`] compiles it or says which rule it breaks, and a
//! module that compiles runs: every entry point with few instructions, on an engine that keeps instances and
//! on one that does not, with equal results. `instrument`'s own tests have programs that end and compare
//! them with what they must do; here nothing is known of a program but that it may not surprise.
mod damaged;
mod generated;

use crate::support::{Canister, ENGINE, LIMIT};
use lockstep_canister::{
    engine::{Closure, Engine, EntryPoint, Execution, Module, ModuleError, Rejection},
    state::Installed,
};
use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, sync::LazyLock, thread};

/// The argument of a message; to the canister that does as it is told, a program that touches memories and
/// replies.
const ARGUMENT: [u8; 6] = [3, 11, 5, 13, 1, 1];
/// Instructions of a message.
const INSTRUCTIONS: u64 = 300_000;
const _: () = assert!(INSTRUCTIONS < LIMIT);

/// The engine whose results are compared with those of [`ENGINE`].
static OTHER: LazyLock<Engine> = LazyLock::new(|| {
    let threads = NonZeroUsize::new(3).expect("not zero");
    ENGINE.on_threads(threads).without_kept_instances()
});

/// A sequence fixed by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(count).collect()
    }
}

/// Names the seed if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

/// What became of modules and their messages, by how each ended.
#[derive(Default)]
struct Tally(BTreeMap<String, u32>);

impl Tally {
    fn add(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// Requires that each of these ended so often: what is always refused, or always fails, shows little.
    fn assert_varied(&self, expected: &[(&str, u32)]) {
        for (what, count) in expected {
            let found = self.0.get(*what).copied().unwrap_or(0);
            assert!(found >= *count, "{what}: {found} of {:?}", self.0);
        }
    }

    /// Compiles a module and runs what it has.
    fn try_module(&mut self, wasm: &[u8]) {
        match ENGINE.compile(wasm) {
            Ok(module) => {
                self.add("compiled");
                self.run(module);
            }
            Err(error) => {
                self.add("refused");
                assert_clear(&error);
            }
        }
    }

    /// Installs a module and enters it wherever it can be entered.
    fn run(&mut self, module: Module) {
        let mut canister = Canister::before_init("(module)");
        canister.limit = INSTRUCTIONS;
        canister.state.installed = Some(Installed::new(Arc::new(module)));
        if !self.enter(&mut canister, EntryPoint::Init) {
            return;
        }
        for entry in entries() {
            self.enter(&mut canister, entry);
        }
    }

    /// Executes a message on both engines and applies what it changed. Whether it completed.
    fn enter(&mut self, canister: &mut Canister, entry: EntryPoint) -> bool {
        let argument = match entry {
            EntryPoint::Init | EntryPoint::PostUpgrade { .. } => &[],
            _ => ARGUMENT.as_slice(),
        };
        let before = canister.state.digest();
        let mut results = [&*ENGINE, &OTHER].map(|engine| {
            let execution = canister.execute_on(engine, entry.clone(), argument);
            assert_eq!(canister.state.digest(), before, "{entry:?}");
            let told = told(canister, &execution);
            (execution, told)
        });
        assert_eq!(results[0].1, results[1].1, "{entry:?}");
        let Execution { result, .. } = &mut results[0].0;
        match result {
            Ok((_, effects)) => {
                self.add("completed");
                canister.state.apply(effects);
                canister.sessions.apply(&effects.sessions);
                true
            }
            Err(error) => {
                self.add(format!("IC{:04}", error.code));
                false
            }
        }
    }
}

/// Everything that can be told of an execution.
fn told(canister: &Canister, execution: &Execution) -> String {
    let Execution {
        result,
        instructions,
        time,
        debug,
        hidden_backtrace,
    } = execution;
    assert!(*time <= INSTRUCTIONS, "{time}");
    let result = match result {
        Err(error) => format!("{error}"),
        Ok((response, effects)) => {
            let mut after = canister.state.clone();
            after.apply(effects);
            let (calls, sessions) = (&effects.calls, &effects.sessions);
            format!("{response:?} {:?} {calls:?} {sessions:?}", after.digest())
        }
    };
    format!("{result} {instructions} {time} {debug:?} {hidden_backtrace}")
}

/// The ways into a canister after its installation; those that a module lacks do nothing, or say so.
fn entries() -> Vec<EntryPoint> {
    let closure = |function| Closure {
        function,
        environment: 3,
    };
    let rejection = || Rejection {
        code: 4,
        message: "no".into(),
    };
    vec![
        EntryPoint::Update("u".into()),
        EntryPoint::Update("run".into()),
        EntryPoint::ReplicatedQuery("q".into()),
        EntryPoint::Query("q".into()),
        EntryPoint::Query("read".into()),
        EntryPoint::Query("c".into()),
        EntryPoint::Inspect("u".into()),
        EntryPoint::Heartbeat,
        EntryPoint::GlobalTimer,
        EntryPoint::LowWasmMemory,
        EntryPoint::Reply(closure(0)),
        EntryPoint::Reject(closure(1), rejection()),
        EntryPoint::Cleanup(closure(2), Some(rejection())),
        EntryPoint::PreUpgrade,
        EntryPoint::PostUpgrade { keep_heap: true },
        EntryPoint::Update("u".into()),
        EntryPoint::PostUpgrade { keep_heap: false },
        EntryPoint::Update("u".into()),
    ]
}

/// A refusal says what is refused and why.
fn assert_clear(error: &ModuleError) {
    const BEGINNINGS: [&str; 5] = [
        "Wasm module ",
        "Wasm component where a module is expected",
        "Duplicate function '",
        "The number of exported functions",
        "The sum of `<name>` lengths",
    ];
    let text = error.to_string();
    let clear = BEGINNINGS
        .iter()
        .any(|beginning| text.starts_with(beginning));
    assert!(clear, "{text}");
    // Validation is to find what the compiler would choke on.
    assert!(!text.contains("cannot be compiled"), "{text}");
}
