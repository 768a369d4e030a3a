//! Generation sessions: the part of a model's run that is replicated state.
//!
//! The key-value cache and the activations of an unfinished token are not state: they can be
//! computed again from what is here.
use crate::state::Encoder;
use ic_principal::Principal;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

pub use crate::lockstep_api::SESSION_START;

/// BLAKE3 of a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelDigest(pub [u8; 32]);

/// What a canister asked for when it started a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRequest {
    /// The user's message; the model's chat template is put around it.
    pub prompt: String,
    /// Seed of the sampler.
    pub seed: u64,
    /// Temperature in thousandths; 0 is greedy.
    pub temperature_milli: u32,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// The model produced its end-of-text token.
    EndOfText,
    /// The model's context is full.
    ContextFull,
    /// Refused or failed, with the reason.
    Failed(String),
}

/// How far a generation has come; the same on every replica at every height.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Prompt tokens, templated; empty before the first slice.
    pub prompt_tokens: u32,
    /// Generated tokens, the end-of-text token included.
    pub tokens: Vec<u32>,
    /// Text of the generated tokens (may end inside a UTF-8 character).
    pub text: Vec<u8>,
    /// Head of the transcript's BLAKE3 chain.
    pub chain: [u8; 32],
    /// Prompt positions already processed when no token has been generated yet.
    pub prefilled: u32,
    /// Operations of the current pass already done.
    pub operations_done: u32,
    /// Work done so far in total.
    pub work: u64,
    /// Set when nothing more will come.
    pub ended: Option<Ended>,
}

/// One session in replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// The canister that owns it; no other sees it.
    pub owner: Principal,
    /// The model.
    pub model: ModelDigest,
    /// The request.
    pub request: GenerationRequest,
    /// Tokens its owner has allowed in total.
    pub permitted_tokens: u32,
    /// Progress.
    pub progress: Progress,
}

impl SessionState {
    /// Whether the scheduler should give it work.
    #[must_use]
    pub fn runnable(&self) -> bool {
        self.progress.ended.is_none()
            && (self.progress.tokens.len() as u64) < u64::from(self.permitted_tokens)
    }
}

/// All sessions and the models that may be opened. Clones share sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Resident models by name.
    pub models: BTreeMap<String, ModelDigest>,
    /// Sessions by id.
    #[serde(with = "arc_map")]
    pub sessions: BTreeMap<u64, Arc<SessionState>>,
    /// The id the next session gets.
    pub next_id: u64,
}

impl SessionState {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bytes(self.owner.as_slice());
        encoder.raw(&self.model.0);
        encoder.bytes(self.request.prompt.as_bytes());
        encoder.u64(self.request.seed);
        encoder.u32(self.request.temperature_milli);
        encoder.u32(self.permitted_tokens);
        let progress = &self.progress;
        encoder.u32(progress.prompt_tokens);
        encoder.u64(progress.tokens.len() as u64);
        for token in &progress.tokens {
            encoder.u32(*token);
        }
        encoder.bytes(&progress.text);
        encoder.raw(&progress.chain);
        encoder.u32(progress.prefilled);
        encoder.u32(progress.operations_done);
        encoder.u64(progress.work);
        let (tag, reason) = match &progress.ended {
            None => (0, ""),
            Some(Ended::EndOfText) => (1, ""),
            Some(Ended::ContextFull) => (2, ""),
            Some(Ended::Failed(reason)) => (3, reason.as_str()),
        };
        encoder.raw(&[tag]);
        encoder.bytes(reason.as_bytes());
    }
}

/// The ids that one message may give to sessions: those of messages that run side by side differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionIds {
    /// The first.
    pub next: u64,
    /// From each to the next.
    pub step: u64,
}

impl SessionIds {
    /// Goes on behind those that a message's changes use.
    pub fn skip(&mut self, changes: &BTreeMap<u64, Option<SessionState>>) {
        let last = changes.keys().next_back();
        while last.is_some_and(|last| self.next <= *last) {
            self.take();
        }
    }

    /// Takes one.
    pub fn take(&mut self) -> u64 {
        let id = self.next;
        self.next += self.step;
        id
    }
}

impl Sessions {
    /// The ids for a message that nothing runs beside.
    #[must_use]
    pub fn ids(&self) -> SessionIds {
        SessionIds {
            next: self.next_id,
            step: 1,
        }
    }

    /// Takes over the sessions a message started, changed or closed, and moves
    /// [`Self::next_id`] behind the ids it used.
    pub fn apply(&mut self, changes: &BTreeMap<u64, Option<SessionState>>) {
        for (&id, change) in changes {
            self.next_id = self.next_id.max(id + 1);
            match change {
                Some(session) => self.sessions.insert(id, Arc::new(session.clone())),
                None => self.sessions.remove(&id),
            };
        }
    }

    /// BLAKE3 over every field.
    ///
    /// The encoding: the tag `lockstep sessions 1`, then the fields in the order of the
    /// declarations, each map as its length and its entries by key. Integers are little-endian;
    /// byte strings and lists are preceded by their length as u64; `ended` is a tag byte (0 none,
    /// 1 end of text, 2 context full, 3 failed) and the reason, empty unless failed.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut encoder = Encoder::new(b"lockstep sessions 1");
        encoder.u64(self.models.len() as u64);
        for (name, model) in &self.models {
            encoder.bytes(name.as_bytes());
            encoder.raw(&model.0);
        }
        encoder.u64(self.sessions.len() as u64);
        for (id, session) in &self.sessions {
            encoder.u64(*id);
            session.encode(&mut encoder);
        }
        encoder.u64(self.next_id);
        encoder.finish()
    }
}

mod arc_map {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<u64, Arc<SessionState>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(id, session)| (id, session.as_ref())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u64, Arc<SessionState>>, D::Error> {
        Ok(BTreeMap::<u64, SessionState>::deserialize(deserializer)?
            .into_iter()
            .map(|(id, session)| (id, Arc::new(session)))
            .collect())
    }
}
