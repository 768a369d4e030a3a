//! A canister on one engine, without a subnet.
use ic_principal::Principal;
use lockstep_canister::{
    engine::{
        Call, Engine, EntryPoint, Environment, Execution, ExecutionError, Module, ModuleError,
        Response, TaskExecution,
    },
    pacer::Pace,
    session::Sessions,
    state::{CanisterState, Installed},
};
use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{Arc, LazyLock},
};

pub(crate) static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::new);
pub(crate) const CANISTER: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 7, 1, 1];
/// Lanes of the subnet.
pub(crate) const LANES: NonZeroU32 = NonZeroU32::new(2).unwrap();
pub(crate) const LIMIT: u64 = 10_000_000;
pub(crate) const TIME_NS: u64 = 1_700_000_000_000_000_000;

pub(crate) fn compile(wat: &str) -> Result<Module, ModuleError> {
    ENGINE.compile(&wat::parse_str(wat).expect("the test's text is well formed"))
}

pub(crate) fn refusal(wat: &str) -> String {
    compile(wat)
        .expect_err("the module must be refused")
        .to_string()
}

pub(crate) fn caller() -> Principal {
    Principal::from_slice(&[1, 2, 3])
}

pub(crate) struct Canister {
    pub(crate) state: CanisterState,
    pub(crate) sessions: Sessions,
    pub(crate) limit: u64,
}

impl Canister {
    /// Installs a module whose `canister_init`, if any, succeeds.
    pub(crate) fn new(wat: &str) -> Self {
        let mut canister = Self::before_init(wat);
        canister
            .replicated(EntryPoint::Init, b"")
            .result
            .expect("init succeeds");
        canister
    }

    pub(crate) fn before_init(wat: &str) -> Self {
        let mut state = CanisterState::new(
            Principal::from_slice(&CANISTER),
            BTreeSet::from([caller()]),
            5_000,
        );
        state.installed = Some(Installed::new(Arc::new(
            compile(wat).expect("the module is valid"),
        )));
        Self {
            state,
            sessions: Sessions::default(),
            limit: LIMIT,
        }
    }

    /// Executes and drops the effects.
    pub(crate) fn execute(&self, entry: EntryPoint, argument: &[u8]) -> Execution {
        self.execute_on(&ENGINE, entry, argument)
    }

    /// As [`Self::execute`], on other threads.
    pub(crate) fn execute_on(
        &self,
        engine: &Engine,
        entry: EntryPoint,
        argument: &[u8],
    ) -> Execution {
        self.execute_paced(engine, entry, argument, None)
    }

    /// As [`Self::execute_on`], in slices; all of a message.
    pub(crate) fn execute_paced(
        &self,
        engine: &Engine,
        entry: EntryPoint,
        argument: &[u8],
        pace: Option<&Pace>,
    ) -> Execution {
        let _ending = pace.map(Pace::ending);
        self.execute_part(engine, entry, argument, pace)
    }

    /// One execution of a message in slices.
    pub(crate) fn execute_part(
        &self,
        engine: &Engine,
        entry: EntryPoint,
        argument: &[u8],
        pace: Option<&Pace>,
    ) -> Execution {
        let environment = Environment {
            pace,
            ..self.environment()
        };
        engine.execute(&self.state, &call(entry, argument), &environment)
    }

    /// One task of a message without argument.
    pub(crate) fn execute_task_on(
        &self,
        engine: &Engine,
        entry: EntryPoint,
        fork: u32,
        task: u32,
    ) -> Option<TaskExecution> {
        let environment = self.environment();
        engine.execute_task(&self.state, &call(entry, b""), &environment, fork, task)
    }

    /// What messages see.
    pub(crate) fn environment(&self) -> Environment<'_> {
        Environment {
            time_ns: TIME_NS,
            subnet_id: Principal::from_slice(&[9; 29]),
            root_key: b"root key",
            instruction_limit: self.limit,
            lanes: LANES,
            data_certificate: Some(b"certificate"),
            ..Environment::new(&self.sessions)
        }
    }

    /// Executes and applies the effects of a message that completed.
    pub(crate) fn replicated(&mut self, entry: EntryPoint, argument: &[u8]) -> Execution {
        let execution = self.execute(entry, argument);
        if let Ok((_, effects)) = &execution.result {
            self.state.apply(effects);
            self.sessions.apply(&effects.sessions);
        }
        execution
    }

    /// The reply of an update.
    pub(crate) fn update(&mut self, method: &str, argument: &[u8]) -> Vec<u8> {
        reply(self.replicated(EntryPoint::Update(method.into()), argument))
    }

    /// The reply of a query.
    pub(crate) fn query(&self, method: &str) -> Vec<u8> {
        reply(self.execute(EntryPoint::Query(method.into()), b""))
    }

    /// The error of an update.
    pub(crate) fn failure(&mut self, method: &str) -> ExecutionError {
        self.replicated(EntryPoint::Update(method.into()), b"")
            .result
            .expect_err("the message must not complete")
    }
}

fn call(entry: EntryPoint, argument: &[u8]) -> Call {
    Call::new(entry, caller(), argument.to_vec())
}

fn reply(execution: Execution) -> Vec<u8> {
    match execution.result.expect("the message completes").0 {
        Response::Reply(bytes) => bytes,
        other => panic!("a reply, not {other:?}"),
    }
}

/// The text of an error without the canister's name in front.
pub(crate) fn text(error: &ExecutionError) -> &str {
    let prefix = format!("Error from Canister {}: ", Principal::from_slice(&CANISTER));
    error
        .message
        .strip_prefix(&prefix)
        .expect("every error names its canister")
}

/// A module with the reply imports, the imports that `body` begins with (one a line), one page of memory and `$answer`, which replies with the i64 given.
pub(crate) fn module(body: &str) -> String {
    let is_import = |line: &&str| line.trim_start().starts_with("(import ");
    let imports: String = body.lines().filter(is_import).collect();
    let body: Vec<&str> = body.lines().filter(|line| !is_import(line)).collect();
    let body = body.join("\n");
    format!(
        r#"(module
            (import "ic0" "msg_reply" (func $reply))
            (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
            (import "ic0" "performance_counter" (func $performance (param i32) (result i64)))
            {imports}
            (memory (export "memory") 1)
            (func $answer (param i64)
                (i64.store (i32.const 65528) (local.get 0))
                (call $append (i32.const 65528) (i32.const 8))
                (call $reply))
            {body})"#
    )
}

pub(crate) fn number(reply: &[u8]) -> i64 {
    i64::from_le_bytes(reply.try_into().expect("eight bytes"))
}

/// Installs a module and runs what it has; the results do not matter.
pub(crate) fn run_everything(module: Module) {
    let mut canister = Canister::before_init("(module)");
    canister.limit = 100_000;
    canister.state.installed = Some(Installed::new(Arc::new(module)));
    if canister.replicated(EntryPoint::Init, b"").result.is_ok() {
        drop(canister.replicated(EntryPoint::Update("go".into()), b""));
    }
}
