//! A canister's turn: its messages, one after another, until there are none or the lane's time is up.
//!
//! # Design
//! A turn owns its canister and reads what does not change while lanes run. What it wants done
//! elsewhere are [`Output`]s, which take effect after all lanes have ended.
//!
//! # Cycles
//! An execution is paid for in advance, up to its limit, and gets back what it did not use. A callback
//! is paid for by its call. Before it the balance must cover that beside
//! the freezing threshold; what it grows by may bring it below.
mod settle;

pub(super) use settle::{rejection, response};

use super::{UPDATE_INSTRUCTIONS, long::LongRun};
use crate::{
    application::Height,
    state::{
        CallContext, CallResult, Canister, Genesis, LowMemory, Message, Origin, Reject, Response,
        Status, Task,
    },
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{
        self, Call, Cycles, Effects, Engine, EntryPoint, Environment, Execution, Instructions,
    },
    pacer::Pace,
    prices::Prices,
    session::{SessionIds, SessionState, Sessions},
};
use std::{collections::BTreeMap, sync::Arc};

/// Time of a message beside its instructions: finding it, switching to the canister, taking its effects
/// over.
pub(super) const MESSAGE_OVERHEAD: Instructions = 2_000_000;

/// What every message of a height sees.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) engine: Engine,
    pub(super) genesis: Arc<Genesis>,
    pub(super) prices: Prices,
    pub(super) sessions: Arc<Sessions>,
    pub(super) time_ns: u64,
}

impl Round {
    /// The same for a message that began at another time.
    pub(super) fn at(&self, time_ns: u64) -> Self {
        Self {
            engine: self.engine.clone(),
            genesis: Arc::clone(&self.genesis),
            sessions: Arc::clone(&self.sessions),
            time_ns,
            ..*self
        }
    }
}

/// What a turn wants done outside of its canister.
#[derive(Debug)]
pub(super) enum Output {
    /// To be delivered.
    Message(Message),
    /// What became of a user's call.
    Answer([u8; 32], Status),
    /// Sessions started, changed or closed.
    Sessions(BTreeMap<u64, Option<SessionState>>),
}

/// What a canister executes at a time.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Task(Task),
    /// A message and its key.
    Message(u64, Arc<Message>),
}

impl Work {
    /// The key of a message.
    pub(super) fn key(&self) -> Option<u64> {
        match self {
            Self::Task(_) => None,
            Self::Message(key, _) => Some(*key),
        }
    }

    /// The id of a user's call.
    pub(super) fn call(&self) -> Option<[u8; 32]> {
        match self {
            Self::Task(_) => None,
            Self::Message(_, message) => message.ingress().map(|call| *call.id),
        }
    }
}

/// A canister's turn under way.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) round: Arc<Round>,
    pub(super) canister: Canister,
    pub(super) sessions: Arc<Sessions>,
    pub(super) session_ids: SessionIds,
    /// Bytes by which the canister may grow.
    pub(super) memory_available: u64,
    /// Bytes that its calls may take while they wait.
    pub(super) message_bytes: u64,
    pub(super) outputs: Vec<Output>,
    /// Instructions of the time of the work under way or done last.
    pub(super) time: Instructions,
    /// Instructions of all its work, tasks of forks counted one by one.
    pub(super) instructions: Instructions,
    /// In which slices they are taken.
    pub(super) pace: Option<Pace>,
    /// What the messages printed.
    pub(super) printed: Vec<String>,
}

/// What a message did in the view of its call context.
type Outcome = Result<(engine::Response, Effects), Reject>;

impl Turn {
    /// The turn for one more message, which has wanted nothing yet.
    pub(super) fn next(&self) -> Self {
        Self {
            round: Arc::clone(&self.round),
            canister: self.canister.clone(),
            sessions: Arc::clone(&self.sessions),
            outputs: Vec::new(),
            printed: Vec::new(),
            pace: None,
            ..*self
        }
    }

    /// Takes over the turn after that message.
    pub(super) fn follow(&mut self, mut next: Self) {
        self.outputs.append(&mut next.outputs);
        self.printed.append(&mut next.printed);
        next.outputs = std::mem::take(&mut self.outputs);
        next.printed = std::mem::take(&mut self.printed);
        *self = next;
    }

    /// Begins a piece of work on a thread of its own.
    pub(super) fn begin(mut self, work: Work, height: Height) -> LongRun<Self> {
        let slice = self.round.genesis.slice_instructions;
        LongRun::begin(slice, height, move |pace| {
            self.run(&work, pace);
            self
        })
    }

    /// Does a piece of work, in slices of `pace`.
    pub(super) fn run(&mut self, work: &Work, pace: Pace) {
        self.time = 0;
        self.pace = Some(pace);
        match work {
            Work::Task(task) => self.run_task(*task),
            Work::Message(_, message) => self.process(message),
        }
    }

    fn process(&mut self, message: &Message) {
        match message {
            Message::Ingress(call) => {
                let origin = Origin::User {
                    id: *call.id,
                    sender: call.sender,
                    info: call.caller_info.clone(),
                };
                self.enter(origin, &call.method, &call.argument, 0);
            }
            Message::Request(request) => {
                let origin = Origin::Canister {
                    sender: request.sender,
                    callback: request.callback,
                    deadline_ns: request.deadline_ns,
                };
                self.enter(origin, &request.method, &request.argument, request.cycles);
            }
            Message::Response(response) => self.resume(response),
        }
    }

    /// Runs what is due without being called.
    fn run_task(&mut self, task: Task) {
        let entry = match task {
            Task::LowWasmMemory => {
                self.canister.ledger.low_memory = LowMemory::Done;
                EntryPoint::LowWasmMemory
            }
            Task::Heartbeat => EntryPoint::Heartbeat,
            Task::GlobalTimer => {
                self.canister.state.global_timer_ns = 0;
                EntryPoint::GlobalTimer
            }
        };
        let caller = Principal::management_canister();
        let call = Call::new(entry, caller, Vec::new());
        let context = self.open(Origin::System, 0);
        let outcome = self.run_paid(context, &call);
        self.settle(context, outcome);
    }

    /// A call's first message.
    fn enter(&mut self, origin: Origin, method: &str, argument: &[u8], cycles: Cycles) {
        let entry = match self.entry(&origin, method, cycles) {
            Ok(entry) => entry,
            Err(reject) => return self.respond(&origin, Err(reject), cycles),
        };
        let call = Call {
            cycles_available: cycles,
            deadline_ns: origin.deadline_ns(),
            caller_info: origin.caller_info(),
            ..Call::new(entry, origin.caller(), argument.to_vec())
        };
        let context = self.open(origin, cycles);
        let outcome = self.run_paid(context, &call);
        self.settle(context, outcome);
    }

    /// Where a call enters, if the canister takes it.
    fn entry(&self, origin: &Origin, method: &str, cycles: Cycles) -> Result<EntryPoint, Reject> {
        let state = &self.canister.state;
        super::check_running(state)?;
        let Some(installed) = &state.installed else {
            return Err(super::no_code(&state.id));
        };
        if let Origin::Canister {
            sender,
            deadline_ns,
            ..
        } = origin
        {
            if *deadline_ns != 0 && *deadline_ns <= self.round.time_ns {
                return Err(Reject::new(601, "Call deadline has expired."));
            }
            let least = state.settings.minimum_call_cycles;
            if cycles < least && *sender != state.id {
                let text = format!(
                    "Canister {} requires at least {least} cycles to be attached to an incoming call, but only {cycles} were",
                    state.id
                );
                return Err(Reject::new(520, text));
            }
        }
        let module = &installed.module;
        if module.has_composite_query(method) {
            let text = format!(
                "Error from Canister {}: Composite query cannot be called in replicated mode",
                state.id
            );
            return Err(Reject::new(527, text));
        }
        if !module.has_update(method) && module.has_query(method) {
            Ok(EntryPoint::ReplicatedQuery(method.to_owned()))
        } else {
            Ok(EntryPoint::Update(method.to_owned()))
        }
    }

    /// The answer to a call of the canister's.
    fn resume(&mut self, response: &Response) {
        let ledger = &mut self.canister.ledger;
        self.canister.state.receive(response.refund);
        let Some(callback) = ledger.callbacks.remove(&response.callback) else {
            return;
        };
        let prices = self.round.prices;
        let transmission = prices.transmission(response.result.bytes());
        let mut purse = callback.prepaid.saturating_sub(transmission);
        let consumed = &mut ledger.consumed.transmission;
        *consumed = consumed.saturating_add(transmission.min(callback.prepaid));
        let context_id = callback.context;
        let Some(context) = ledger.contexts.get_mut(&context_id) else {
            self.canister.state.receive(purse);
            return;
        };
        context.calls_under_way -= 1;
        if context.abandoned {
            if context.calls_under_way == 0 {
                ledger.contexts.remove(&context_id);
            }
            self.canister.state.receive(purse);
            return;
        }
        let (entry, argument) = match &response.result {
            CallResult::Reply(reply) => (EntryPoint::Reply(callback.on_reply), reply.clone()),
            CallResult::Reject(rejection) => (
                EntryPoint::Reject(callback.on_reject, rejection.clone()),
                Vec::new(),
            ),
        };
        let mut call = Call {
            cycles_available: context.cycles,
            cycles_refunded: response.refund,
            deadline_ns: context.origin.deadline_ns(),
            caller_info: context.origin.caller_info(),
            answered: context.answered,
            context_instructions: context.instructions,
            ..Call::new(entry, context.origin.caller(), argument)
        };
        let mut execution = self.execute(&call, UPDATE_INSTRUCTIONS);
        let mut instructions = execution.instructions;
        if let (Err(error), Some(cleanup)) = (&mut execution.result, callback.on_cleanup) {
            let rejection = match &response.result {
                CallResult::Reply(_) => None,
                CallResult::Reject(rejection) => Some(rejection.clone()),
            };
            call.entry = EntryPoint::Cleanup(cleanup, rejection);
            let left = UPDATE_INSTRUCTIONS.saturating_sub(instructions);
            let cleanup = self.execute(&call, left);
            instructions += cleanup.instructions;
            match cleanup.result {
                Ok((_, effects)) => self.apply(context_id, effects),
                Err(also) => {
                    error.message = format!(
                        "{}\n\ncall_on_cleanup also failed:\n\n{}",
                        error.message, also.message
                    );
                }
            }
        }
        let memory64 = self.memory64();
        let used = prices.execution(instructions, memory64);
        self.canister.ledger.consumed.instructions += used.min(purse);
        purse = purse.saturating_sub(used);
        self.canister.state.receive(purse);
        self.count(context_id, instructions);
        self.settle(context_id, execution.result.map_err(Reject::from));
    }

    fn open(&mut self, origin: Origin, cycles: Cycles) -> u64 {
        let ledger = &mut self.canister.ledger;
        let id = ledger.next_context;
        ledger.next_context += 1;
        let context = CallContext {
            origin,
            cycles,
            answered: false,
            calls_under_way: 0,
            instructions: 0,
            abandoned: false,
        };
        ledger.contexts.insert(id, context);
        id
    }

    /// Executes a message that the canister pays for.
    fn run_paid(&mut self, context: u64, call: &Call) -> Outcome {
        let prices = self.round.prices;
        let memory64 = self.memory64();
        let price = prices.execution(UPDATE_INSTRUCTIONS, memory64);
        let state = &mut self.canister.state;
        let needed = state.frozen_cycles(prices) + price;
        if state.cycles < needed {
            let text = format!(
                "Canister {} is out of cycles: please top up the canister with at least {} additional cycles",
                state.id,
                needed - state.cycles
            );
            return Err(Reject::new(207, text));
        }
        state.cycles -= price;
        let execution = self.execute(call, UPDATE_INSTRUCTIONS);
        let used = prices.execution(execution.instructions, memory64);
        self.canister.state.receive(price.saturating_sub(used));
        self.canister.ledger.consumed.instructions += used;
        self.count(context, execution.instructions);
        execution.result.map_err(Reject::from)
    }

    fn execute(&mut self, call: &Call, limit: Instructions) -> Execution {
        let state = &self.canister.state;
        let calls_under_way = self.canister.ledger.calls_under_way();
        let pace = self.pace.as_ref().map(|pace| pace.after(self.time));
        let environment = Environment {
            time_ns: self.round.time_ns,
            subnet_id: self.round.genesis.subnet_id,
            root_key: &self.round.genesis.root_key,
            instruction_limit: limit,
            pace: pace.as_ref(),
            lanes: self.round.genesis.fork_lanes,
            session_ids: self.session_ids,
            prices: self.round.prices,
            frozen_cycles: state.frozen_cycles(self.round.prices),
            memory_available: self.memory_available,
            message_bytes: self.message_bytes,
            calls_under_way: &calls_under_way,
            ..Environment::new(&self.sessions)
        };
        let execution = self.round.engine.execute(state, call, &environment);
        self.time += execution.time;
        self.instructions += execution.instructions;
        self.log(&execution);
        execution
    }

    fn log(&mut self, execution: &Execution) {
        let limit = self.canister.state.settings.log_memory_limit;
        let log = &mut self.canister.ledger.log;
        for line in &execution.debug {
            log.push(self.round.time_ns, line.as_bytes(), limit);
            self.printed.push(line.clone());
        }
        if let Err(error) = &execution.result {
            let backtrace = &execution.hidden_backtrace;
            let line = format!("[TRAP]: {}{backtrace}", error.message);
            log.push(self.round.time_ns, line.as_bytes(), limit);
        }
        self.canister.account();
    }

    fn count(&mut self, context: u64, instructions: Instructions) {
        if let Some(context) = self.canister.ledger.contexts.get_mut(&context) {
            context.instructions += instructions;
        }
    }

    fn memory64(&self) -> bool {
        let installed = self.canister.state.installed.as_ref();
        installed.is_some_and(|installed| installed.module.memory64())
    }
}
