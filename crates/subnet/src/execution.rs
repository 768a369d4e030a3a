//! Executes a block: the function from a state and a block to the next state.
//!
//! # Design
//! A height takes the block's calls into the queue, runs calls in the order of the queue until the
//! round's instructions are used up, fires due timers, and then gives the generation sessions their
//! slice of work. A call that has been taken in once is never executed again: its entry in the
//! history outlives its expiry.
//!
//! # Determinism
//! [`execute`] depends on its arguments alone. Generations that are alive between heights are a
//! cache: one that is missing is made again from replicated progress, with the same bits.
//!
//! # Errors
//! What goes wrong in a message is its answer. [`Halt`] is trouble of this replica only; the height
//! is then not executed, rather than executed differently.
pub mod management;
pub mod sessions;

use crate::{
    application::FinalizedBlock,
    ingress::{INGRESS_TTL_NS, Ingress},
    state::{Answer, Canister, Reject, ReplicatedState, Status},
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Effects, Engine, EntryPoint, Environment, Execution, Instructions, Response},
    models::Work,
    session::Sessions,
    state::CanisterState,
};
use sessions::Generations;
use std::sync::Arc;

/// Instructions of an update call or a timer.
pub const UPDATE_INSTRUCTIONS: Instructions = 40_000_000_000;
/// Instructions of a query.
pub const QUERY_INSTRUCTIONS: Instructions = 5_000_000_000;
/// Instructions of each entry point that an installation runs.
pub const INSTALL_INSTRUCTIONS: Instructions = 300_000_000_000;
/// Instructions of `canister_inspect_message`.
pub const INSPECT_INSTRUCTIONS: Instructions = 200_000_000;

/// Why this replica cannot execute a block that others may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// A session cannot go on here.
    #[error("session {session} cannot go on: {reason}")]
    ModelUnavailable {
        /// The session.
        session: u64,
        /// What the model host says.
        reason: String,
    },
}

/// The next state and what it took.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The state after the block.
    pub state: ReplicatedState,
    /// Calls that were executed.
    pub calls: u64,
    /// Instructions of the time that messages took, in which the lanes of a fork run side by side.
    pub instructions: Instructions,
    /// Work done for sessions.
    pub work: Work,
}

/// Executes `block` on top of `state`.
///
/// # Errors
/// [`Halt`]; `generations` may then hold generations that are ahead of `state` and must be dropped.
///
/// # Panics
/// When the block does not follow the state: blocks come in order.
pub fn execute(
    state: &ReplicatedState,
    block: &FinalizedBlock,
    engine: &Engine,
    generations: &mut Generations,
) -> Result<Outcome, Halt> {
    assert_eq!(
        block.height,
        state.height + 1,
        "blocks are executed in order"
    );
    let mut state = state.clone();
    state.height = block.height;
    // Consensus orders times; a state's time never goes back, whatever it is handed.
    state.time_ns = block.payload.time_ns.max(state.time_ns);
    state.history.prune(state.time_ns);
    for bytes in &block.payload.messages {
        if let Ok(call) = Ingress::decode(bytes) {
            take_in(&mut state, call);
        }
    }
    let (mut calls, mut instructions) = (0, 0);
    while instructions < state.genesis.round_instructions
        && let Some((_, call)) = state.queue.pop_first()
    {
        calls += 1;
        let (result, used) = run(&mut state, engine, &call);
        instructions += used;
        let status = result.map_or_else(Status::Rejected, Status::Replied);
        state
            .history
            .insert(*call.id, answer(&state, &call, status));
    }
    instructions += fire_timers(&mut state, engine);
    let work = sessions::advance(&mut state, generations)?;
    Ok(Outcome {
        state,
        calls,
        instructions,
        work,
    })
}

/// Queues a call, unless it is known, too late or one too many.
fn take_in(state: &mut ReplicatedState, call: Ingress) {
    if call.expiry_ns < state.time_ns
        || state.history.get(&call.id).is_some()
        || state.history.is_full()
    {
        return;
    }
    state
        .history
        .insert(*call.id, answer(state, &call, Status::Received));
    state.queue.insert(state.next_queue_key, Arc::new(call));
    state.next_queue_key += 1;
}

fn answer(state: &ReplicatedState, call: &Ingress, status: Status) -> Answer {
    let keep_until_ns = call
        .expiry_ns
        .max(state.time_ns.saturating_add(INGRESS_TTL_NS));
    Answer::new(call.sender, keep_until_ns, status)
}

fn run(
    state: &mut ReplicatedState,
    engine: &Engine,
    call: &Ingress,
) -> (Result<Vec<u8>, Reject>, Instructions) {
    if call.canister == Principal::management_canister() {
        return management::update(state, engine, call);
    }
    let (entry, execution) = match enter(state, engine, call) {
        Ok(entered) => entered,
        Err(reject) => return (Err(reject), 0),
    };
    let result = execution
        .result
        .map_err(Reject::from)
        .and_then(|(response, effects)| {
            let canister = state
                .canister_mut(&call.canister)
                .expect("the canister has just run");
            canister.state.version += 1;
            if matches!(entry, EntryPoint::Update(_)) {
                canister.state.apply(&effects);
                state.sessions.apply(&effects.sessions);
            }
            reply(&call.canister, response)
        });
    (result, execution.time)
}

fn enter(
    state: &ReplicatedState,
    engine: &Engine,
    call: &Ingress,
) -> Result<(EntryPoint, Execution), Reject> {
    let canister = running_canister(state, &call.canister)?;
    let Some(installed) = &canister.state.installed else {
        return Err(no_code(&call.canister));
    };
    let is_query =
        !installed.module.has_update(&call.method) && installed.module.has_query(&call.method);
    let entry = if is_query {
        EntryPoint::ReplicatedQuery(call.method.clone())
    } else {
        EntryPoint::Update(call.method.clone())
    };
    let message = Call {
        entry: entry.clone(),
        caller: call.sender,
        argument: call.argument.clone(),
    };
    let environment = environment(state, &state.sessions, UPDATE_INSTRUCTIONS);
    Ok((
        entry,
        engine.execute(&canister.state, &message, &environment),
    ))
}

/// A canister that takes messages.
///
/// # Errors
/// The Internet Computer's rejections for canisters that do not exist or are stopped.
pub fn running_canister<'state>(
    state: &'state ReplicatedState,
    id: &Principal,
) -> Result<&'state Canister, Reject> {
    let canister = state.canisters().get(id).ok_or_else(|| not_found(id))?;
    if canister.stopped {
        return Err(Reject::new(
            508,
            format!("Canister {id} is stopped and therefore does not accept messages"),
        ));
    }
    Ok(canister)
}

/// What a message sees at this state.
#[must_use]
pub fn environment<'state>(
    state: &'state ReplicatedState,
    sessions: &'state Sessions,
    instruction_limit: Instructions,
) -> Environment<'state> {
    Environment {
        time_ns: state.time_ns,
        subnet_id: state.genesis.subnet_id,
        root_key: &state.genesis.root_key,
        instruction_limit,
        pace: None,
        lanes: state.genesis.fork_lanes,
        data_certificate: None,
        sessions,
    }
}

/// A message's response as the answer to its call.
///
/// # Errors
/// The rejection, when the canister rejected or did not answer.
pub fn reply(canister: &Principal, response: Response) -> Result<Vec<u8>, Reject> {
    match response {
        Response::Reply(reply) => Ok(reply),
        Response::Reject(message) => Err(Reject::new(406, message)),
        Response::None => Err(Reject::new(
            506,
            format!("Error from Canister {canister}: Canister did not produce a response"),
        )),
    }
}

pub(crate) fn not_found(id: &Principal) -> Reject {
    Reject::new(301, format!("Canister {id} not found"))
}

pub(crate) fn no_code(id: &Principal) -> Reject {
    let text = format!(
        "Error from Canister {id}: Attempted to execute a message on canister {id} that does not have any code installed"
    );
    Reject::new(537, text)
}

/// Runs the global timers that are due. One that traps changes nothing but is off all the same.
fn fire_timers(state: &mut ReplicatedState, engine: &Engine) -> Instructions {
    let is_due = |canister: &CanisterState| {
        let deadline_ns = canister.global_timer_ns;
        deadline_ns != 0 && deadline_ns <= state.time_ns && canister.installed.is_some()
    };
    let due: Vec<Principal> = state
        .canisters()
        .iter()
        .filter(|(_, canister)| !canister.stopped && is_due(&canister.state))
        .map(|(id, _)| *id)
        .collect();
    let mut instructions = 0;
    for id in due {
        let canister = state.canister_mut(&id).expect("it is due");
        canister.state.global_timer_ns = 0;
        let entry = EntryPoint::GlobalTimer;
        let call = Call {
            entry,
            caller: Principal::management_canister(),
            argument: Vec::new(),
        };
        let canister = &state.canisters()[&id].state;
        let execution = engine.execute(
            canister,
            &call,
            &environment(state, &state.sessions, UPDATE_INSTRUCTIONS),
        );
        instructions += execution.time;
        if let Ok((_, effects)) = execution.result {
            apply(state, &id, &effects);
        }
    }
    instructions
}

fn apply(state: &mut ReplicatedState, id: &Principal, effects: &Effects) {
    let canister = state.canister_mut(id).expect("the canister has just run");
    canister.state.version += 1;
    canister.state.apply(effects);
    state.sessions.apply(&effects.sessions);
}
