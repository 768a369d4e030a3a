//! Executes a block: the function from a state and a block to the next state.
//!
//! # Design
//! A height takes the block's calls into the queue, lets canisters take turns until the height's time
//! is used up (`round`), and then gives the generation sessions their slice of work. A call that has been taken in once is never executed again: its entry in the
//! history outlives its expiry.
//!
//! # Determinism
//! [`execute`] depends on the state and the block alone. What is [`Unfinished`] between heights is a cache:
//! generations and long messages that are missing are made again, with the same bits.
//!
//! # Errors
//! What goes wrong in a message is its answer. [`Halt`] is trouble of this replica only; the height
//! is then not executed, rather than executed differently.
mod lane;
mod long;
pub mod management;
pub mod protocol;
mod randomness;
mod round;
mod sessions;
mod turn;
mod upkeep;

use crate::{
    application::FinalizedBlock,
    ingress::{INGRESS_TTL_NS, Ingress},
    state::{Answer, Canister, Message, Reject, ReplicatedState, Status},
    sync::CheckpointId,
    tree::state::state_tree,
};
use ic_principal::Principal;
pub use lockstep_canister::engine::UPDATE_INSTRUCTIONS;
use lockstep_canister::{
    engine::{CallerInfo, Engine, Environment, ExecutionError, Instructions},
    models::{ModelHost, Work},
    query::{Query, evaluate},
    session::Sessions,
    state::{CanisterState, RunState},
};
use long::LongRuns;
use protocol::{NEWEST, OLDEST};
use sessions::Generations;
use std::{collections::BTreeMap, sync::Arc};

/// The error code of a canister's own rejection.
const CANISTER_REJECTED: u16 = 406;
/// Instructions of a query.
pub const QUERY_INSTRUCTIONS: Instructions = 5_000_000_000;
/// Instructions of each entry point that an installation runs.
pub const INSTALL_INSTRUCTIONS: Instructions = 300_000_000_000;
/// Instructions of `canister_inspect_message`.
pub const INSPECT_INSTRUCTIONS: Instructions = 200_000_000;

/// Why this replica cannot execute a block that others may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The rules of the height are not known here.
    #[error(
        "it is executed by version {version} of the protocol, and this program knows {OLDEST} to {NEWEST}: install one that knows it"
    )]
    Protocol {
        /// The version.
        version: u64,
    },
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
    /// Instructions of canisters' messages that ended at this height, but for those that installed code.
    pub by_canister: BTreeMap<Principal, Instructions>,
    /// What canisters printed, round by round, in the order of their ids.
    pub printed: Vec<(Principal, String)>,
}

/// What goes on at the next height where it stopped at the last one. A cache: it may be dropped between
/// heights.
#[derive(Debug)]
pub struct Unfinished {
    generations: Generations,
    messages: LongRuns,
}

impl Unfinished {
    /// Nothing yet.
    #[must_use]
    pub fn new(models: Arc<dyn ModelHost>) -> Self {
        Self {
            generations: Generations::new(models),
            messages: LongRuns::default(),
        }
    }

    /// Drops everything; it is made again when needed.
    pub fn clear(&mut self) {
        self.generations.clear();
        self.messages = LongRuns::default();
    }
}

/// Executes `block` on top of `state`.
///
/// # Errors
/// [`Halt`]; `unfinished` may then be ahead of `state` and must be cleared.
///
/// # Panics
/// When the block does not follow the state: blocks come in order.
pub fn execute(
    state: &ReplicatedState,
    block: &FinalizedBlock,
    engine: &Engine,
    unfinished: &mut Unfinished,
) -> Result<Outcome, Halt> {
    assert_eq!(
        block.height,
        state.height + 1,
        "blocks are executed in order"
    );
    let before = state;
    let version = before.protocol_version(block.height);
    if !protocol::is_known(version) {
        return Err(Halt::Protocol { version });
    }
    let mut state = before.clone();
    let root = || *state_tree(before).digest();
    state.randomness.note_root(before.height, root);
    if before.is_checkpoint() {
        state.checkpoint = Some(CheckpointId::of(before));
    }
    state.height = block.height;
    // Consensus orders times; a state's time never goes back, whatever it is handed.
    state.time_ns = block.payload.time_ns.max(state.time_ns);
    state.history.prune(state.time_ns);
    upkeep::begin_height(&mut state);
    randomness::begin_height(&mut state, &block.payload.beacons);
    if let Some(epochs) = state.epochs.after(block) {
        state.epochs = Arc::new(epochs);
    }
    for bytes in &block.payload.messages {
        if let Ok(call) = Ingress::decode(bytes) {
            take_in(&mut state, call);
        }
    }
    let budget = state.genesis.round_instructions;
    let done = round::run_messages(&mut state, engine, &unfinished.messages, budget);
    state.metrics.messages += done.executed;
    let instructions = done.time + done.installation_time;
    state.metrics.instructions += instructions;
    let work = sessions::advance(&mut state, &mut unfinished.generations)?;
    Ok(Outcome {
        state,
        calls: done.executed,
        instructions,
        work,
        by_canister: done.by_canister,
        printed: done.printed,
    })
}

/// Queues a call, unless it is known, too late or one too many; its receiver pays for that.
fn take_in(state: &mut ReplicatedState, call: Ingress) {
    if call.expiry_ns < state.time_ns
        || state.history.get(&call.id).is_some()
        || state.history.is_full()
    {
        return;
    }
    let status = match charge_for(state, &call) {
        Ok(()) => Status::Received,
        Err(reject) => Status::Rejected(reject),
    };
    let accepted = status == Status::Received;
    let keep_until_ns = call
        .expiry_ns
        .max(state.time_ns.saturating_add(INGRESS_TTL_NS));
    let answer = Answer::new(call.sender, call.canister, keep_until_ns, status);
    state.history.insert(*call.id, answer);
    if accepted {
        state.enqueue(Message::Ingress(call));
    }
}

/// Takes the price of a user's message from the canister it is for, if there is one.
fn charge_for(state: &mut ReplicatedState, call: &Ingress) -> Result<(), Reject> {
    let payer = if call.canister == Principal::management_canister() {
        management::ingress_target(&call.method, &call.argument)?
    } else {
        Some(call.canister)
    };
    let Some(payer) = payer else { return Ok(()) };
    let prices = state.genesis.prices();
    let Some(canister) = state.canister_mut(&payer) else {
        if call.canister == payer {
            return Err(not_found(&payer));
        }
        // A call before it may create the canister that the management canister is asked about.
        return Ok(());
    };
    let price = prices.ingress((call.method.len() + call.argument.len()) as u64);
    let frozen = canister.state.frozen_cycles(prices);
    let owed = canister.ledger.long.as_ref().map_or(0, |long| long.owed);
    let needed = frozen + price + owed;
    // A canister without cycles can still be managed: that is how it gets some.
    if canister.state.cycles < needed && call.canister == payer {
        let text = format!(
            "Canister {payer} is out of cycles: please top up the canister with at least {} additional cycles",
            needed - canister.state.cycles
        );
        return Err(Reject::new(207, text));
    }
    match &mut canister.ledger.long {
        Some(long) => long.owed += price,
        None => canister.pay_ingress(price),
    }
    Ok(())
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
    check_running(&canister.state)?;
    Ok(canister)
}

fn check_running(canister: &CanisterState) -> Result<(), Reject> {
    let id = canister.id;
    match canister.run_state {
        RunState::Running => Ok(()),
        RunState::Stopping => Err(Reject::new(509, format!("Canister {id} is stopping"))),
        RunState::Stopped => Err(Reject::new(508, format!("Canister {id} is stopped"))),
    }
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
        lanes: state.genesis.fork_lanes,
        prices: state.genesis.prices(),
        ..Environment::new(sessions)
    }
}

/// A user's query.
#[derive(Debug, Clone)]
pub struct UserQuery<'a> {
    /// Whom it is for.
    pub canister: &'a Principal,
    /// Who asks.
    pub sender: &'a Principal,
    /// What is said of them.
    pub sender_info: Option<CallerInfo>,
    /// A query or composite query.
    pub method: &'a str,
    /// Its argument.
    pub argument: &'a [u8],
    /// What `ic0.data_certificate_copy` gives.
    pub certificate: Option<&'a [u8]>,
}

/// Answers a query from a state. Returns also what the canister printed.
///
/// # Errors
/// The rejection.
pub fn query(
    state: &ReplicatedState,
    engine: &Engine,
    asked: UserQuery<'_>,
) -> (Result<Vec<u8>, Reject>, Vec<String>) {
    if *asked.canister == Principal::management_canister() {
        let result = management::query(state, asked.sender, asked.method, asked.argument);
        return (result, Vec::new());
    }
    let lookup = |id: &Principal| -> Result<&CanisterState, ExecutionError> {
        let canister = running_canister(state, id)?;
        match &canister.state.installed {
            Some(_) => Ok(&canister.state),
            None => Err(no_code(id).into()),
        }
    };
    let asked_of = state.canisters().get(asked.canister);
    let prices = state.genesis.prices();
    let environment = Environment {
        data_certificate: asked.certificate,
        frozen_cycles: asked_of.map_or(0, |canister| canister.state.frozen_cycles(prices)),
        ..environment(state, &state.sessions, QUERY_INSTRUCTIONS)
    };
    let query = Query {
        canister: *asked.canister,
        method: asked.method.to_owned(),
        argument: asked.argument.to_vec(),
        caller: *asked.sender,
        caller_info: asked.sender_info,
    };
    let evaluation = evaluate(engine, &lookup, query, &environment);
    (evaluation.result.map_err(Reject::from), evaluation.debug)
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
