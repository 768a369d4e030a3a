//! The imports of module `lockstep`: models and generation sessions.
//!
//! A session is one generation by a resident model. Starting it and permitting tokens are effects
//! of the message like any other; the tokens themselves are generated over the following heights by
//! the subnet's scheduler, and a later message reads them.
//!
//! | import | where | what |
//! |---|---|---|
//! | `model_open(name: i32, name_size: i32) -> i64` | I U T Q | handle of a resident model, -1 when there is none of that name |
//! | `session_start(model: i64, prompt: i32, prompt_size: i32, seed: i64, temperature_milli: i32) -> i64` | I U T | id of a new session with nothing permitted yet |
//! | `session_advance(session: i64, tokens: i32) -> i32` | I U T | permits so many tokens more; 0, or -1 unknown session |
//! | `session_close(session: i64) -> i32` | I U T | drops the session; 0, or -1 unknown session |
//! | `session_status(session: i64) -> i32` | I U T Q | 0 running, 1 waiting for permission, 2 ended, 3 failed, -1 unknown session |
//! | `session_tokens(session: i64) -> i32` | I U T Q | tokens generated, -1 unknown session |
//! | `session_text_size(session: i64) -> i32` | I U T Q | bytes of text, -1 unknown session |
//! | `session_text_copy(session: i64, dst: i32, offset: i32, size: i32)` | I U T Q | copies text, which may end inside a UTF-8 character |
//! | `session_digest_copy(session: i64, dst: i32)` | I U T Q | copies the transcript's 32-byte digest |
//! | `session_error_size(session: i64) -> i32` | I U T Q | bytes of the reason why it failed, -1 when it did not |
//! | `session_error_copy(session: i64, dst: i32, offset: i32, size: i32)` | I U T Q | copies that reason |
//!
//! Contexts are those of the interface specification: I `init` and `post_upgrade`, U update and the
//! callbacks of its calls, T timer, heartbeat and low memory, Q queries of all kinds and the callbacks of
//! their calls. Elsewhere an import traps.
//!
//! # Invariants
//! A canister sees only its own sessions; any other id is unknown. A handle is a model's index in
//! the list of resident models ordered by name: good within the message, not to be kept.
//!
//! # Errors
//! A prompt that is not UTF-8 or exceeds [`PROMPT_BYTES_MAX`], a negative number of tokens or
//! temperature, an unknown handle, a session more than [`SESSIONS_PER_CANISTER_MAX`], and copying
//! from an unknown session or out of range trap.
use crate::{
    engine::Instructions,
    host::{
        Contexts, Host, Imports,
        context::{
            COMPOSITE_QUERY, COMPOSITE_REJECT, COMPOSITE_REPLY, INIT as I, QUERY, REJECT as RT,
            REPLICATED_QUERY, REPLY as RY, TASK as T, UPDATE as U,
        },
        enter, pay_to_copy, pay_to_read, violated,
    },
    session::{
        Ended, GenerationRequest, ModelDigest, Progress, SessionIds, SessionState, Sessions,
    },
};
use ic_principal::Principal;
use std::{collections::BTreeMap, sync::Arc};
use wasmtime::Caller;

/// Most bytes of a prompt.
pub const PROMPT_BYTES_MAX: usize = 64 * 1024;
/// Most sessions a canister may have open.
pub const SESSIONS_PER_CANISTER_MAX: usize = 64;
/// Price of `model_open`, plus one per byte of the name.
pub const MODEL_OPEN: Instructions = 1_000;
/// Price of `session_start`, plus one per byte of the prompt.
pub const SESSION_START: Instructions = 100_000;
/// Price of `session_advance` and `session_close`. Tokens are priced by the work they take.
pub const SESSION_CHANGE: Instructions = 5_000;
/// Price of every reading import, plus one per byte copied.
pub const SESSION_READ: Instructions = 500;

const CHANGES: Contexts = I | U | T | RY | RT;
const READS: Contexts =
    CHANGES | QUERY | REPLICATED_QUERY | COMPOSITE_QUERY | COMPOSITE_REPLY | COMPOSITE_REJECT;

/// The calling canister's sessions and what the message has done to them.
#[derive(Debug, Default)]
pub(crate) struct SessionTable {
    owner: Option<Principal>,
    models: Vec<(String, ModelDigest)>,
    sessions: BTreeMap<u64, Arc<SessionState>>,
    ids: Option<SessionIds>,
    changes: BTreeMap<u64, Option<SessionState>>,
    /// Sessions that are open.
    open: usize,
}

impl SessionTable {
    pub(crate) fn new(sessions: &Sessions, ids: SessionIds, owner: Principal) -> Self {
        let own = sessions
            .sessions
            .iter()
            .filter(|(_, session)| session.owner == owner);
        let own: BTreeMap<u64, Arc<SessionState>> = own
            .map(|(id, session)| (*id, Arc::clone(session)))
            .collect();
        Self {
            owner: Some(owner),
            models: sessions
                .models
                .iter()
                .map(|(name, digest)| (name.clone(), *digest))
                .collect(),
            open: own.len(),
            sessions: own,
            ids: Some(ids),
            changes: BTreeMap::new(),
        }
    }

    pub(crate) fn into_changes(self) -> BTreeMap<u64, Option<SessionState>> {
        self.changes
    }

    fn get(&self, id: i64) -> Option<&SessionState> {
        let id = u64::try_from(id).ok()?;
        match self.changes.get(&id) {
            Some(change) => change.as_ref(),
            None => self.sessions.get(&id).map(Arc::as_ref),
        }
    }

    fn start(&mut self, model: ModelDigest, request: GenerationRequest) -> Option<u64> {
        if self.open >= SESSIONS_PER_CANISTER_MAX {
            return None;
        }
        let id = self.ids.as_mut()?.take();
        let session = SessionState {
            owner: self.owner?,
            model,
            request,
            permitted_tokens: 0,
            progress: Progress::default(),
        };
        self.changes.insert(id, Some(session));
        self.open += 1;
        Some(id)
    }

    fn change(
        &mut self,
        id: i64,
        change: impl FnOnce(SessionState) -> Option<SessionState>,
    ) -> i32 {
        let Some(session) = self.get(id).cloned() else {
            return -1;
        };
        let changed = change(session);
        self.open -= usize::from(changed.is_none());
        self.changes.insert(id.cast_unsigned(), changed);
        0
    }
}

fn status(session: &SessionState) -> i32 {
    match session.progress.ended {
        Some(Ended::Failed(_)) => 3,
        Some(Ended::EndOfText | Ended::ContextFull) => 2,
        None if session.runnable() => 0,
        None => 1,
    }
}

fn error(session: &SessionState) -> Option<&str> {
    match &session.progress.ended {
        Some(Ended::Failed(reason)) => Some(reason),
        _ => None,
    }
}

/// A size or count for the canister; sizes stay far below 2^31.
fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

macro_rules! import {
    ($imports:ident, $name:ident in $contexts:expr, $cost:expr, ($caller:ident $(, $argument:ident: $ty:ty)*) -> $result:ty $body:block) => {
        $imports.add("lockstep", stringify!($name), |mut caller: Caller<'_, Host> $(, $argument: $ty)*| -> wasmtime::Result<$result> {
            #[allow(dead_code)]
            const NAME: &str = stringify!($name);
            let $caller = &mut caller;
            enter($caller, ("lockstep", NAME), $contexts, $cost)?;
            $body
        });
    };
}

/// Defines all of `lockstep`.
pub(crate) fn define(imports: &mut Imports) {
    import!(imports, model_open in READS, MODEL_OPEN, (caller, name: i32, name_size: i32) -> i64 {
        let name = pay_to_read(caller, NAME, name, name_size)?;
        let models = &caller.data().sessions.models;
        Ok(models.iter().position(|(known, _)| known.as_bytes() == name).map_or(-1, |index| index as i64))
    });
    import!(imports, session_start in CHANGES, SESSION_START,
        (caller, model: i64, prompt: i32, prompt_size: i32, seed: i64, temperature_milli: i32) -> i64
    {
        let size = prompt_size.cast_unsigned() as usize;
        if size > PROMPT_BYTES_MAX {
            return violated(format!("lockstep.{NAME}: the prompt is {size} bytes, more than {PROMPT_BYTES_MAX}"));
        }
        let Ok(prompt) = String::from_utf8(pay_to_read(caller, NAME, prompt, prompt_size)?) else {
            return violated(format!("lockstep.{NAME}: the prompt is not UTF-8"));
        };
        let Ok(temperature_milli) = u32::try_from(temperature_milli) else {
            return violated(format!("lockstep.{NAME}: negative temperature: {temperature_milli}"));
        };
        let sessions = &mut caller.data_mut().sessions;
        let Some((_, model)) = usize::try_from(model).ok().and_then(|index| sessions.models.get(index)) else {
            return violated(format!("lockstep.{NAME}: unknown model handle: {model}"));
        };
        match sessions.start(*model, GenerationRequest { prompt, seed: seed.cast_unsigned(), temperature_milli }) {
            Some(id) => Ok(id.cast_signed()),
            None => violated(format!("lockstep.{NAME}: the canister already has {SESSIONS_PER_CANISTER_MAX} sessions")),
        }
    });
    import!(imports, session_advance in CHANGES, SESSION_CHANGE, (caller, session: i64, tokens: i32) -> i32 {
        let Ok(tokens) = u32::try_from(tokens) else {
            return violated(format!("lockstep.{NAME}: negative number of tokens: {tokens}"));
        };
        Ok(caller.data_mut().sessions.change(session, |mut session| {
            session.permitted_tokens = session.permitted_tokens.saturating_add(tokens);
            Some(session)
        }))
    });
    import!(imports, session_close in CHANGES, SESSION_CHANGE, (caller, session: i64) -> i32 {
        Ok(caller.data_mut().sessions.change(session, |_| None))
    });
    import!(imports, session_status in READS, SESSION_READ, (caller, session: i64) -> i32 {
        Ok(caller.data().sessions.get(session).map_or(-1, status))
    });
    import!(imports, session_tokens in READS, SESSION_READ, (caller, session: i64) -> i32 {
        Ok(caller.data().sessions.get(session).map_or(-1, |session| small(session.progress.tokens.len())))
    });
    import!(imports, session_text_size in READS, SESSION_READ, (caller, session: i64) -> i32 {
        Ok(caller.data().sessions.get(session).map_or(-1, |session| small(session.progress.text.len())))
    });
    import!(imports, session_text_copy in READS, SESSION_READ, (caller, session: i64, dst: i32, offset: i32, size: i32) -> () {
        check_known(caller, NAME, session)?;
        pay_to_copy(caller, NAME, |host| host.sessions.get(session).map_or(&[], |session| &session.progress.text), (dst, offset, size))
    });
    import!(imports, session_digest_copy in READS, SESSION_READ, (caller, session: i64, dst: i32) -> () {
        check_known(caller, NAME, session)?;
        pay_to_copy(caller, NAME, |host| host.sessions.get(session).map_or(&[], |session| &session.progress.chain), (dst, 0, 32))
    });
    import!(imports, session_error_size in READS, SESSION_READ, (caller, session: i64) -> i32 {
        Ok(caller.data().sessions.get(session).and_then(error).map_or(-1, |reason| small(reason.len())))
    });
    import!(imports, session_error_copy in READS, SESSION_READ, (caller, session: i64, dst: i32, offset: i32, size: i32) -> () {
        check_known(caller, NAME, session)?;
        pay_to_copy(caller, NAME, |host| host.sessions.get(session).and_then(error).unwrap_or_default().as_bytes(), (dst, offset, size))
    });
}

fn check_known(caller: &Caller<'_, Host>, name: &str, session: i64) -> wasmtime::Result<()> {
    match caller.data().sessions.get(session) {
        Some(_) => Ok(()),
        None => violated(format!("lockstep.{name}: unknown session: {session}")),
    }
}
