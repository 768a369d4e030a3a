//! A height's rounds of turns: canisters side by side, their messages one after another.
//!
//! # Design
//! A round gives every canister that has something to do a turn. Canisters are ordered by when they last
//! had theirs in full, then by id, behind those whose compute allocation is due, and the i-th goes to lane
//! i modulo [`Genesis::scheduler_lanes`].
//! Lanes run side by side on as many threads as there are; a lane's canisters run one after another
//! until the lane's time is up, each at least one message. Then what the turns want done elsewhere takes
//! effect, in the order of the canisters' ids, and the next round begins, until nothing is left to do or
//! the height's time is used up. A message that takes more than a slice goes on at the next heights.
//!
//! # Determinism
//! Lanes share nothing while they run: each turn owns its canister, the memory that may still be
//! allocated and the room for messages are split between lanes before and counted anew after, and session
//! ids are interleaved. So neither the number of threads nor their speed can be seen. What they do share,
//! threads of long messages, is a cache.
use super::{
    lane::{Begins, Due, Lane, Taken, sessions_end},
    long::{LongRuns, free_places},
    management::memory_available,
    turn::{Output, Round, Work, rejection},
};
use crate::{
    application::Height,
    state::{
        CallResult, Canister, LongWork, LowMemory, Message, ReplicatedState, Response, Status, Task,
    },
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Engine, Instructions, UPDATE_INSTRUCTIONS},
    session::SessionIds,
    state::RunState,
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Bytes that all canisters of a subnet may use together.
pub(super) const SUBNET_MEMORY_BYTES: u64 = 2 << 40;

/// Bytes of calls that may wait together.
const MESSAGES_BYTES_MAX: u64 = 1 << 30;

/// What a height's messages amount to.
#[derive(Default)]
pub(super) struct Done {
    /// Messages executed.
    pub(super) executed: u64,
    /// Instructions of the time.
    pub(super) time: Instructions,
    /// Those of an installation's slice, which has a time of its own.
    pub(super) installation_time: Instructions,
    /// Instructions of canisters' messages that have ended.
    pub(super) by_canister: BTreeMap<Principal, Instructions>,
    /// What canisters printed.
    pub(super) printed: Vec<(Principal, String)>,
}

/// Runs messages until none is left or `budget` is used up; it may be used up twice, by the management
/// canister and then by all others.
pub(super) fn run_messages(
    state: &mut ReplicatedState,
    engine: &Engine,
    runs: &LongRuns,
    budget: Instructions,
) -> Done {
    let mut done = Done::default();
    super::management::run_all(state, engine, runs, budget, &mut done);
    super::upkeep::finish_stopping(state);
    let mut tasks = tasks(state);
    // The first round has a budget of its own, lest the management canister take all of every height.
    let mut left = budget;
    while left > 0 {
        let due = due(state, &mut tasks);
        if due.is_empty() {
            break;
        }
        let (taken, time) = take_turns(state, engine, runs, due, left);
        done.time += time;
        deliver(state, taken, &mut done);
        super::management::run_all(state, engine, runs, budget, &mut done);
        super::upkeep::finish_stopping(state);
        left = budget.saturating_sub(done.time);
    }
    runs.trim(state);
    done
}

/// What runs in this height without being called.
fn tasks(state: &ReplicatedState) -> BTreeMap<Principal, Vec<Task>> {
    let mut tasks = BTreeMap::new();
    for (id, canister) in state.canisters() {
        let Some(installed) = &canister.state.installed else {
            continue;
        };
        if canister.state.run_state != RunState::Running || canister.is_busy() {
            continue;
        }
        let deadline_ns = canister.state.global_timer_ns;
        let module = &installed.module;
        let due: Vec<Task> = [
            (
                canister.ledger.low_memory == LowMemory::Due && module.has_low_memory_hook(),
                Task::LowWasmMemory,
            ),
            (module.has_heartbeat(), Task::Heartbeat),
            (
                deadline_ns != 0 && deadline_ns <= state.time_ns && module.has_global_timer(),
                Task::GlobalTimer,
            ),
        ]
        .into_iter()
        .filter_map(|(is_due, task)| is_due.then_some(task))
        .collect();
        if !due.is_empty() {
            tasks.insert(*id, due);
        }
    }
    tasks
}

/// The canisters that have something to do, in the order of their turns. A long message has a turn at each
/// height.
fn due(state: &ReplicatedState, tasks: &mut BTreeMap<Principal, Vec<Task>>) -> Vec<Due> {
    let mut messages: BTreeMap<Principal, Vec<Work>> = BTreeMap::new();
    for (key, message) in &state.queue {
        let of_canister = messages.entry(*message.receiver()).or_default();
        of_canister.push(Work::Message(*key, Arc::clone(message)));
    }
    let no_place = free_places(state) == 0;
    let mut due = Vec::new();
    for (id, canister) in state.canisters() {
        let work = if let Some(long) = &canister.ledger.long {
            if canister.ledger.served_height == state.height {
                continue;
            }
            match long.work {
                LongWork::Task(task) => vec![Work::Task(task)],
                LongWork::Message(key) => {
                    vec![Work::Message(key, Arc::clone(&state.queue[&key]))]
                }
                LongWork::Installation { .. } => continue,
            }
        } else if canister.ledger.waits_for_slices && no_place {
            continue;
        } else {
            let tasks = tasks.remove(id).unwrap_or_default();
            let messages = messages.remove(id).unwrap_or_default();
            tasks.into_iter().map(Work::Task).chain(messages).collect()
        };
        if !work.is_empty() {
            due.push((Arc::clone(canister), work));
        }
    }
    due.sort_by_key(|(canister, _)| {
        let entitled = entitlement(canister, state.height);
        let ledger = &canister.ledger;
        (Reverse(entitled), ledger.served_height, canister.state.id)
    });
    let count = due.len() as u64;
    let due = due
        .into_iter()
        .enumerate()
        .map(|(number, (canister, work))| Due {
            number,
            work,
            session_ids: SessionIds {
                next: state.sessions.next_id + number as u64,
                step: count,
            },
            canister,
        });
    due.collect()
}

/// The percentage of the heights that a canister is entitled to by its compute allocation, if it is its
/// turn: one of `n` percent has `n` of 100 heights.
fn entitlement(canister: &Canister, height: Height) -> u64 {
    let percent = u64::from(canister.state.settings.compute_allocation);
    let turns = |heights: Height| heights.saturating_mul(percent) / 100;
    if turns(height) > turns(canister.ledger.served_height) {
        percent
    } else {
        0
    }
}

/// Runs the turns on their lanes, as far as the time allows; in the order of the canisters' ids.
fn take_turns(
    state: &ReplicatedState,
    engine: &Engine,
    runs: &LongRuns,
    due: Vec<Due>,
    budget: Instructions,
) -> (Vec<Taken>, Instructions) {
    let round = Arc::new(Round {
        engine: engine.clone(),
        genesis: Arc::clone(&state.genesis),
        prices: state.genesis.prices(),
        sessions: Arc::new(state.sessions.clone()),
        time_ns: state.time_ns,
    });
    let lanes = state.genesis.scheduler_lanes.get() as usize;
    let memory_available = memory_available(state) / lanes as u64;
    let waiting: u64 = state.queue.values().map(|message| message.bytes()).sum();
    let message_bytes = MESSAGES_BYTES_MAX.saturating_sub(waiting) / lanes as u64;
    let mut by_lane: Vec<Vec<Due>> = (0..lanes).map(|_| Vec::new()).collect();
    for (index, due) in due.into_iter().enumerate() {
        by_lane[index % lanes].push(due);
    }
    by_lane.retain(|lane| !lane.is_empty());
    let results = side_by_side(engine.threads(), by_lane, |due| {
        let lane = Lane {
            round: &round,
            runs,
            height: state.height,
            budget,
            memory_available,
            message_bytes,
            time: 0,
            taken: Vec::new(),
        };
        lane.run(due)
    });
    let time = results.iter().map(|(_, time)| *time).max().unwrap_or(0);
    let mut taken: Vec<Taken> = results.into_iter().flat_map(|(taken, _)| taken).collect();
    taken.sort_by_key(|taken| taken.canister.state.id);
    (taken, time)
}

/// Maps `items` on up to `threads` threads; results in the order of the items.
fn side_by_side<T: Send, R: Send>(
    threads: usize,
    items: Vec<T>,
    map: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let count = items.len();
    let threads = threads.min(count);
    if threads <= 1 {
        return items.into_iter().map(map).collect();
    }
    let results: Vec<Mutex<Option<R>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let items = Mutex::new(items.into_iter().enumerate());
    let work = || {
        loop {
            let next = lock(&items).next();
            let Some((index, item)) = next else { return };
            *lock(&results[index]) = Some(map(item));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let results = results.into_iter().map(|result| {
        let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
        result.expect("every item was mapped")
    });
    results.collect()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the first of the messages that turned out to be long go on, as many as there is place for. The
/// others have not begun.
fn begin_long(state: &mut ReplicatedState, taken: &mut [Taken]) {
    let mut places = free_places(state);
    let mut begun: Vec<(Begins, &mut Canister)> = taken
        .iter_mut()
        .filter_map(|taken| Some((taken.begins.take()?, &mut taken.canister)))
        .collect();
    begun.sort_by_key(|(begins, _)| begins.number);
    for (Begins { long, call, .. }, canister) in begun {
        if places == 0 {
            canister.ledger.waits_for_slices = true;
            continue;
        }
        places -= 1;
        if let Some(id) = call {
            state.history.set_status(&id, Status::Processing);
        }
        if canister.uses_sessions() {
            let end = sessions_end(long.session_ids, UPDATE_INSTRUCTIONS);
            state.sessions.next_id = state.sessions.next_id.max(end);
        }
        canister.ledger.long = Some(long);
    }
}

/// Puts turns into the state and delivers what they sent, in order.
fn deliver(state: &mut ReplicatedState, mut taken: Vec<Taken>, done: &mut Done) {
    begin_long(state, &mut taken);
    let mut outputs = Vec::new();
    for turn in taken {
        done.executed += turn.executed;
        let id = turn.canister.state.id;
        if turn.instructions > 0 {
            *done.by_canister.entry(id).or_default() += turn.instructions;
        }
        done.printed
            .extend(turn.printed.into_iter().map(|line| (id, line)));
        for key in turn.keys {
            state.queue.remove(&key);
        }
        let Canister {
            state: canister,
            ledger,
            stored,
            ..
        } = turn.canister;
        state.insert_canister(Canister::restore(canister, ledger, stored));
        outputs.extend(turn.outputs);
    }
    for output in outputs {
        put(state, output);
    }
}

/// Makes an output take effect.
pub(super) fn put(state: &mut ReplicatedState, output: Output) {
    match output {
        Output::Answer(id, status) => state.history.set_status(&id, status),
        Output::Sessions(changes) => state.sessions.apply(&changes),
        Output::Message(message) => send(state, message),
    }
}

/// Queues a message, or the answer that nobody is there to take it.
fn send(state: &mut ReplicatedState, message: Message) {
    let receiver = *message.receiver();
    if receiver == Principal::management_canister() || state.canisters().contains_key(&receiver) {
        return state.enqueue(message);
    }
    match message {
        Message::Request(request) => state.enqueue(Message::Response(Response {
            receiver: request.sender,
            callback: request.callback,
            result: CallResult::Reject(rejection(super::not_found(&receiver))),
            refund: request.cycles,
        })),
        // Nobody waits for an answer to a response: its canister is gone, and its cycles with it.
        Message::Response(response) => {
            let consumed = &mut state.metrics.consumed_by_deleted;
            *consumed = consumed.saturating_add(response.refund);
        }
        Message::Ingress(_) => {}
    }
}
