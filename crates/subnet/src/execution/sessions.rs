//! Gives generation sessions their work at each height.
//!
//! # Design
//! Each height has a fixed budget of work. Runnable sessions take turns by id, starting after the
//! one served last, and each turn offers an equal share of what is left. A session stops only
//! between operations, so it may overrun its share; what the height overruns is a debt that later
//! budgets pay first. An unused budget is not saved: it would let a burst outgrow a height.
//!
//! # Determinism
//! Turns and shares follow from replicated state and from the work that sessions report, which
//! contract makes the same everywhere. Key-value caches live in [`Generations`], outside the state.
use super::Halt;
use crate::state::ReplicatedState;
use lockstep_canister::{
    models::{Generation, GenerationError, ModelHost, Work},
    session::{Ended, SessionState},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Most generations kept alive for sessions that wait for their owner.
const IDLE_GENERATIONS_MAX: usize = 8;

/// Generations with their key-value caches, by session. A cache: any part may be dropped at any
/// time between heights.
pub(super) struct Generations {
    host: Arc<dyn ModelHost>,
    live: BTreeMap<u64, Box<dyn Generation>>,
}

impl fmt::Debug for Generations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Generations")
            .field("live", &self.live.keys())
            .finish_non_exhaustive()
    }
}

impl Generations {
    /// None yet.
    #[must_use]
    pub(super) fn new(host: Arc<dyn ModelHost>) -> Self {
        Self {
            host,
            live: BTreeMap::new(),
        }
    }

    /// Drops them all; they are made again when needed.
    pub(super) fn clear(&mut self) {
        self.live.clear();
    }

    fn get(
        &mut self,
        id: u64,
        session: &SessionState,
    ) -> Result<&mut Box<dyn Generation>, GenerationError> {
        use std::collections::btree_map::Entry;
        match self.live.entry(id) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let generation =
                    self.host
                        .start(&session.model, &session.request, &session.progress)?;
                Ok(entry.insert(generation))
            }
        }
    }

    /// Drops what is over, and the oldest idle ones when they are many.
    fn trim(&mut self, state: &ReplicatedState) {
        let session = |id: &u64| state.sessions.sessions.get(id);
        self.live
            .retain(|id, _| session(id).is_some_and(|session| session.progress.ended.is_none()));
        let idle = |id: &&u64| session(id).is_some_and(|session| !session.runnable());
        let idle: Vec<u64> = self.live.keys().filter(idle).copied().collect();
        for id in &idle[..idle.len().saturating_sub(IDLE_GENERATIONS_MAX)] {
            self.live.remove(id);
        }
    }
}

/// Spends one height's budget on the runnable sessions and returns the work done.
pub(super) fn advance(
    state: &mut ReplicatedState,
    generations: &mut Generations,
) -> Result<Work, Halt> {
    let budget = state.genesis.session_work_per_height;
    let mut left = budget.saturating_sub(state.schedule.debt);
    state.schedule.debt = state.schedule.debt.saturating_sub(budget);
    let mut total = 0;
    while left > 0 {
        let turns = turns(state);
        if turns.is_empty() {
            break;
        }
        let mut work_of_pass = 0;
        for (index, id) in turns.iter().enumerate() {
            if left == 0 {
                break;
            }
            let share = left.div_ceil((turns.len() - index) as u64);
            let work = advance_session(state, generations, *id, share)?;
            state.schedule.last_session = *id;
            state.schedule.debt += work.saturating_sub(left);
            left = left.saturating_sub(work);
            work_of_pass += work;
        }
        total += work_of_pass;
        if work_of_pass == 0 {
            break;
        }
    }
    generations.trim(state);
    Ok(total)
}

/// The runnable sessions, beginning after the one served last; those of a canister with a long message
/// stand still, as it does.
fn turns(state: &ReplicatedState) -> Vec<u64> {
    let runnable = |range: (std::ops::Bound<u64>, std::ops::Bound<u64>)| {
        let sessions = state.sessions.sessions.range(range);
        sessions
            .filter(|(_, session)| session.runnable() && !state.is_busy(&session.owner))
            .map(|(id, _)| *id)
    };
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let last = state.schedule.last_session;
    runnable((Excluded(last), Unbounded))
        .chain(runnable((Unbounded, Included(last))))
        .collect()
}

fn advance_session(
    state: &mut ReplicatedState,
    generations: &mut Generations,
    id: u64,
    share: Work,
) -> Result<Work, Halt> {
    let session = state
        .sessions
        .sessions
        .get_mut(&id)
        .expect("a turn is a session");
    let session = Arc::make_mut(session);
    let result = generations.get(id, session).and_then(|generation| {
        let work = generation.advance(session.permitted_tokens, share)?;
        Ok((work, generation.progress().clone()))
    });
    match result {
        Ok((work, progress)) => {
            session.progress = progress;
            Ok(work)
        }
        Err(GenerationError::Rejected(reason)) => {
            session.progress.ended = Some(Ended::Failed(reason));
            Ok(0)
        }
        Err(GenerationError::Unavailable(reason)) => Err(Halt::ModelUnavailable {
            session: id,
            reason,
        }),
    }
}
