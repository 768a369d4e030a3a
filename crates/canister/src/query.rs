//! Queries that are not replicated, and the queries that composite ones call.
//!
//! # Design
//! A composite query's calls run at once, in the order in which they were made, and after each its callback.
//! What a query changes in its canister's memories, the callbacks of its calls find; then it vanishes. A
//! called query runs on the canister's state as it is, also when a query of the same canister waits for it.
//! The first answer ends a query, and the calls that are left are not made.
//!
//! # Determinism
//! [`evaluate`] is a function of its arguments. Calls end by depth and by instructions, not by time.
//!
//! # Units and bounds
//! [`Environment::instruction_limit`] is for the query and all that it calls together; every call takes
//! [`CALL`] of it beside what it runs. Queries that call may lie [`DEPTH_MAX`] deep.
//!
//! # Errors
//! An error of a called query is a rejection to its caller. Calls that lie too deep, and those for which no
//! instructions are left, end the first query.
use crate::{
    engine::{
        Call, CallerInfo, Closure, Engine, EntryPoint, Environment, ExecutionError, Instructions,
        OutgoingCall, Rejection, Response,
    },
    execute::{self, Entry, Refusal, Subject},
    heap::{Snapshot, View},
    host::{code, context},
    memory::PagedMemory,
    state::{CanisterState, GlobalValue, Installed},
};
use ic_principal::Principal;
use std::collections::{BTreeMap, VecDeque};

/// Most queries that wait for one another.
pub const DEPTH_MAX: usize = 6;
/// Instructions of a call beside those that it runs.
pub const CALL: Instructions = 50_000_000;

/// What a canister is asked.
#[derive(Clone, Debug)]
pub struct Query {
    /// The canister.
    pub canister: Principal,
    /// A query or composite query of it.
    pub method: String,
    /// Its argument.
    pub argument: Vec<u8>,
    /// Who asks.
    pub caller: Principal,
    /// What is known about them.
    pub caller_info: Option<CallerInfo>,
}

/// What came of a query.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The reply. A rejection by the canister is the error with code 406.
    pub result: Result<Vec<u8>, ExecutionError>,
    /// Instructions of the query and of all that it called.
    pub instructions: Instructions,
    /// What the first canister's code printed, in order.
    pub debug: Vec<String>,
}

/// Finds the canisters that may be asked; the error of others is what their callers see.
pub type Lookup<'a> = dyn Fn(&Principal) -> Result<&'a CanisterState, ExecutionError> + 'a;

/// Evaluates a query. `environment` is that of its canister; canisters that it calls get the same but for
/// the certificate and what is their own.
#[must_use]
pub fn evaluate(
    engine: &Engine,
    lookup: &Lookup<'_>,
    query: Query,
    environment: &Environment<'_>,
) -> Evaluation {
    let limit = environment.instruction_limit.min(i64::MAX.cast_unsigned());
    let mut graph = Graph {
        engine,
        lookup,
        environment: *environment,
        left: limit.cast_signed(),
        debug: Vec::new(),
    };
    let answer = engine.on_stack(|| graph.ask(query, 0));
    let result = answer
        .unwrap_or_else(Err)
        .and_then(|response| match response {
            Response::Reply(reply) => Ok(reply),
            Response::Reject(message) => Err(ExecutionError {
                code: code::REJECTED,
                message,
            }),
            Response::None => unreachable!("a query that does not answer is an error"),
        });
    Evaluation {
        result,
        instructions: limit - graph.left.max(0).cast_unsigned(),
        debug: graph.debug,
    }
}

/// How a query answered, with [`Response::Reply`] or [`Response::Reject`].
type Answer = Result<Response, ExecutionError>;

/// The queries of one evaluation.
struct Graph<'a, 'b> {
    engine: &'a Engine,
    lookup: &'a Lookup<'b>,
    environment: Environment<'a>,
    /// Instructions left for all; below zero when a call's own took more.
    left: i64,
    debug: Vec<String>,
}

/// A query between the parts that it runs in.
struct Context<'a> {
    state: &'a CanisterState,
    installed: &'a Installed,
    heap: Snapshot,
    globals: Vec<GlobalValue>,
    stable: PagedMemory,
    caller: Principal,
    caller_info: Option<CallerInfo>,
    depth: usize,
    instructions: Instructions,
    /// Calls that are made and not yet run.
    calls: VecDeque<OutgoingCall>,
}

impl<'b> Graph<'_, 'b> {
    /// Runs a query and what it calls. The outer error ends the evaluation.
    fn ask(&mut self, query: Query, depth: usize) -> Result<Answer, ExecutionError> {
        let entry = EntryPoint::Query(query.method);
        let entered = (self.lookup)(&query.canister)
            .and_then(|state| execute::enter(state, &entry).map(|entered| (state, entered)));
        let (state, (installed, place)) = match entered {
            Ok(entered) => entered,
            Err(error) => {
                self.pay_call(depth);
                return Ok(Err(error));
            }
        };
        let mut context = Context {
            state,
            installed,
            heap: Snapshot::from(&installed.heap),
            globals: installed.globals.clone(),
            stable: state.stable.clone(),
            caller: query.caller,
            caller_info: query.caller_info,
            depth,
            instructions: 0,
            calls: VecDeque::new(),
        };
        let ran = self.run(&mut context, &place, entry, query.argument);
        self.pay_call(depth);
        match ran {
            Err(refusal) => Ok(Err(execute::named(&state.id, refusal))),
            Ok(Response::None) => self.go_on(context),
            Ok(response) => Ok(Ok(response)),
        }
    }

    /// Takes the price of the call that this query came by, if it came by one.
    fn pay_call(&mut self, depth: usize) {
        if depth > 0 {
            self.left -= CALL.cast_signed();
        }
    }

    /// Makes a query's calls until it answers.
    fn go_on(&mut self, mut context: Context<'b>) -> Result<Answer, ExecutionError> {
        loop {
            if context.depth >= DEPTH_MAX {
                return Err(ExecutionError {
                    code: code::QUERIES_TOO_DEEP,
                    message: "Composite query calls exceeded the maximum call depth.".into(),
                });
            }
            self.check_instructions()?;
            let Some(call) = context.calls.pop_front() else {
                let text = "Canister did not produce a response";
                let refusal = (code::DID_NOT_REPLY, text.into());
                return Ok(Err(execute::named(&context.state.id, refusal)));
            };
            let query = Query {
                canister: call.callee,
                method: call.method,
                argument: call.argument,
                caller: context.state.id,
                caller_info: None,
            };
            let answer = self.ask(query, context.depth + 1)?;
            self.check_instructions()?;
            let callbacks = (call.on_reply, call.on_reject, call.on_cleanup);
            match self.call_back(&mut context, answer, callbacks) {
                Ok(Response::None) => {}
                Ok(response) => return Ok(Ok(response)),
                // Another callback may still answer.
                Err(_) if !context.calls.is_empty() => {}
                Err(refusal) => return Ok(Err(execute::named(&context.state.id, refusal))),
            }
        }
    }

    fn check_instructions(&self) -> Result<(), ExecutionError> {
        if self.left > 0 {
            return Ok(());
        }
        Err(ExecutionError {
            code: code::QUERIES_TOO_LONG,
            message: "Composite query calls exceeded the instruction limit.".into(),
        })
    }

    fn call_back(
        &mut self,
        context: &mut Context<'_>,
        answer: Answer,
        (on_reply, on_reject, on_cleanup): (Closure, Closure, Option<Closure>),
    ) -> Result<Response, Refusal> {
        let (entry, argument) = match answer {
            Ok(Response::Reply(reply)) => (EntryPoint::Reply(on_reply), reply),
            Ok(Response::Reject(message)) => {
                let rejection = Rejection { code: 4, message };
                (EntryPoint::Reject(on_reject, rejection), Vec::new())
            }
            Ok(Response::None) => unreachable!("a query that does not answer is an error"),
            Err(error) => {
                let rejection = Rejection::from(&error);
                (EntryPoint::Reject(on_reject, rejection), Vec::new())
            }
        };
        let (place, rejection) = match &entry {
            EntryPoint::Reject(closure, rejection) => (
                Entry::callback(context::COMPOSITE_REJECT, *closure),
                Some(rejection.clone()),
            ),
            _ => (Entry::callback(context::COMPOSITE_REPLY, on_reply), None),
        };
        let result = self.run(context, &place, entry, argument);
        let (Err((code, text)), Some(closure)) = (&result, on_cleanup) else {
            return result;
        };
        let place = Entry::callback(context::COMPOSITE_CLEANUP, closure);
        let entry = EntryPoint::Cleanup(closure, rejection);
        match self.run(context, &place, entry, Vec::new()) {
            Ok(_) => result,
            Err((_, cleanup)) => Err((
                *code,
                format!("{text}\n\ncall_on_cleanup also failed:\n\n{cleanup}"),
            )),
        }
    }

    /// Runs one part of a query: what it changed and the calls it made go into `context`, unless it failed.
    fn run(
        &mut self,
        context: &mut Context<'_>,
        place: &Entry,
        entry: EntryPoint,
        argument: Vec<u8>,
    ) -> Result<Response, Refusal> {
        let mut environment = self.environment;
        environment.pace = None;
        environment.instruction_limit = self.left.max(0).cast_unsigned();
        if context.depth > 0 {
            environment.data_certificate = None;
            environment.frozen_cycles = context.state.frozen_cycles(environment.prices);
        }
        let calls = BTreeMap::new();
        environment.calls_under_way = &calls;
        let call = Call {
            caller_info: context.caller_info.clone(),
            context_instructions: context.instructions,
            ..Call::new(entry, context.caller, argument)
        };
        let subject = Subject {
            state: context.state,
            installed: context.installed,
            heap: context.heap.clone(),
            globals: &context.globals,
            stable: context.stable.clone(),
        };
        let mut running = execute::prepare(self.engine, subject, &call, &environment, place)?;
        let ended = execute::complete(&mut running, place);
        self.left -= ended.instructions.cast_signed();
        context.instructions += ended.instructions;
        if context.depth == 0 {
            self.debug.extend(ended.debug);
        }
        let goes_on = matches!(ended.result, Ok(Response::None));
        let globals = running.globals();
        running.end(|mut message| {
            if goes_on {
                context.globals = globals;
                context.calls.append(&mut message.exchange.calls.into());
                context.stable = message.stable.snapshot();
                if let Some(heap) = message.view.as_ref().map(View::changes) {
                    context.heap = heap;
                }
            }
        });
        ended.result
    }
}
