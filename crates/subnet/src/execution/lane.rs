//! A lane: turns of canisters, one after another, until its time is up.
//!
//! # Design
//! A message is executed on a copy of its turn, which takes the turn's place when the message has ended.
//! One that is long ([`long`](super::long)) ends its turn.
use super::{
    long::LongRuns,
    turn::{MESSAGE_OVERHEAD, Output, Round, Turn, Work},
};
use crate::{
    application::Height,
    state::{Canister, Long, LongWork},
};
use lockstep_canister::{
    engine::Instructions,
    pacer::Pace,
    session::{SESSION_START, SessionIds},
};
use std::sync::Arc;

/// A turn to be taken.
#[derive(Debug)]
pub(super) struct Due {
    /// Its number in the round.
    pub(super) number: usize,
    pub(super) canister: Arc<Canister>,
    /// Its long message, or tasks and then messages.
    pub(super) work: Vec<Work>,
    pub(super) session_ids: SessionIds,
}

/// A turn that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) canister: Canister,
    /// Keys of the messages that were executed.
    pub(super) keys: Vec<u64>,
    pub(super) outputs: Vec<Output>,
    /// Messages and tasks executed.
    pub(super) executed: u64,
    /// Their instructions.
    pub(super) instructions: Instructions,
    pub(super) printed: Vec<String>,
    /// A message that turned out to be long, if there is place for it.
    pub(super) begins: Option<Begins>,
}

/// A long message that has had its first slice.
#[derive(Debug)]
pub(super) struct Begins {
    /// The turn's number in the round.
    pub(super) number: usize,
    pub(super) long: Long,
    /// Whose call it is, if a user's.
    pub(super) call: Option<[u8; 32]>,
}

/// A lane under way.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    pub(super) round: &'a Arc<Round>,
    pub(super) runs: &'a LongRuns,
    pub(super) height: Height,
    /// Instructions after which no turn begins.
    pub(super) budget: Instructions,
    /// Bytes by which its canisters may grow.
    pub(super) memory_available: u64,
    /// Bytes that its canisters' calls may take while they wait.
    pub(super) message_bytes: u64,
    /// Instructions of the time so far.
    pub(super) time: Instructions,
    pub(super) taken: Vec<Taken>,
}

impl Lane<'_> {
    /// Takes turns until the time is up.
    pub(super) fn run(mut self, due: Vec<Due>) -> (Vec<Taken>, Instructions) {
        for due in due {
            if self.time >= self.budget {
                break;
            }
            let taken = if due.canister.is_busy() {
                self.go_on(due)
            } else {
                self.take(due)
            };
            self.taken.push(taken);
        }
        (self.taken, self.time)
    }

    fn slice(&self) -> Instructions {
        self.round.genesis.slice_instructions.get()
    }

    /// A turn of tasks and messages.
    fn take(&mut self, due: Due) -> Taken {
        let mut turn = Turn {
            round: Arc::clone(self.round),
            canister: due.canister.as_ref().clone(),
            sessions: Arc::clone(&self.round.sessions),
            session_ids: due.session_ids,
            // Its own allocation is kept for it.
            memory_available: self.memory_available + due.canister.state.memory_kept(),
            message_bytes: self.message_bytes,
            outputs: Vec::new(),
            time: 0,
            instructions: 0,
            pace: None,
            printed: Vec::new(),
        };
        turn.canister.ledger.waits_for_slices = false;
        let (mut keys, mut executed, mut begins) = (Vec::new(), 0, None);
        let mut work = due.work.into_iter().peekable();
        // Tasks that take all the time would otherwise keep the canister from its messages for ever.
        while let Some(next) = work.next_if(|work| {
            matches!(work, Work::Task(_)) || keys.is_empty() || self.time < self.budget
        }) {
            let Some(ended) = self.execute(&turn, &next) else {
                begins = Some(Begins {
                    number: due.number,
                    long: long(&turn, &next, self.height),
                    call: next.call(),
                });
                break;
            };
            turn.follow(ended);
            executed += 1;
            keys.extend(next.key());
        }
        self.memory_available = turn
            .memory_available
            .saturating_sub(turn.canister.state.memory_kept());
        self.message_bytes = turn.message_bytes;
        // The first of a lane has had all the time there is, and a long message its slice.
        if work.peek().is_none() || self.taken.is_empty() || begins.is_some() {
            turn.canister.ledger.served_height = self.height;
        }
        Taken {
            canister: turn.canister,
            keys,
            outputs: turn.outputs,
            executed,
            instructions: turn.instructions,
            printed: turn.printed,
            begins,
        }
    }

    /// Executes a message with one slice: the turn after it, if that is enough.
    fn execute(&mut self, turn: &Turn, work: &Work) -> Option<Turn> {
        let id = turn.canister.state.id;
        // Of a message that there was no place for: it has not begun.
        self.runs.turns.forget(&id);
        let mut next = turn.next();
        let ended = if self.runs.expects(&id) {
            let run = next.begin(work.clone(), self.height).go_on(1);
            run.map_err(|run| self.runs.turns.put(id, run)).ok()
        } else {
            let pace = Pace::only_slice(self.round.genesis.slice_instructions);
            next.run(work, pace.clone());
            (!pace.is_refused()).then_some(next)
        };
        self.runs.note(id, ended.is_none());
        let time = ended.as_ref().map_or(self.slice(), |turn| turn.time);
        self.time += MESSAGE_OVERHEAD + time;
        ended
    }

    /// The next slice of a long message.
    fn go_on(&mut self, due: Due) -> Taken {
        let mut canister = due.canister.as_ref().clone();
        let long = canister.ledger.long.take().expect("it is busy");
        let work = due.work.into_iter().next().expect("it has a long message");
        let keys = work.key().into_iter().collect();
        let id = canister.state.id;
        let run = self.runs.turns.take(&id, &long).unwrap_or_else(|| {
            let turn = Turn {
                round: Arc::new(self.round.at(long.time_ns)),
                canister: canister.clone(),
                sessions: Arc::clone(&self.round.sessions),
                session_ids: long.session_ids,
                memory_available: long.memory_available,
                message_bytes: long.message_bytes,
                outputs: Vec::new(),
                time: 0,
                instructions: 0,
                pace: None,
                printed: Vec::new(),
            };
            turn.begin(work, long.begun)
        });
        self.time += MESSAGE_OVERHEAD;
        let turn = match run.go_on(long.slices + 1) {
            Ok(turn) => turn,
            Err(run) => {
                self.time += self.slice();
                let long = Long {
                    slices: long.slices + 1,
                    ..long
                };
                canister.ledger.long = Some(long);
                self.runs.turns.put(id, run);
                canister.ledger.served_height = self.height;
                return Taken {
                    canister,
                    keys: Vec::new(),
                    outputs: Vec::new(),
                    executed: 0,
                    instructions: 0,
                    printed: Vec::new(),
                    begins: None,
                };
            }
        };
        self.time += turn.time.saturating_sub(long.slices * self.slice());
        let before = canister.state.memory_bytes();
        let grown = turn.canister.state.memory_bytes().saturating_sub(before);
        self.memory_available = self.memory_available.saturating_sub(grown);
        let sent = long.message_bytes.saturating_sub(turn.message_bytes);
        self.message_bytes = self.message_bytes.saturating_sub(sent);
        let mut canister = turn.canister;
        canister.pay_ingress(long.owed);
        canister.ledger.served_height = self.height;
        Taken {
            canister,
            keys,
            outputs: turn.outputs,
            executed: 1,
            instructions: turn.instructions,
            printed: turn.printed,
            begins: None,
        }
    }
}

/// A message that needs more than the slice that it has had.
fn long(turn: &Turn, work: &Work, height: Height) -> Long {
    let work = match work {
        Work::Task(task) => LongWork::Task(*task),
        Work::Message(key, _) => LongWork::Message(*key),
    };
    Long {
        memory_available: turn.memory_available,
        message_bytes: turn.message_bytes,
        session_ids: turn.session_ids,
        ..Long::new(work, height, turn.round.time_ns)
    }
}

/// The end of the ids that a message with so many instructions may use.
pub(super) fn sessions_end(ids: SessionIds, limit: Instructions) -> u64 {
    ids.next + ids.step * (limit / SESSION_START + 1)
}
