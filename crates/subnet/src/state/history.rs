//! Calls the subnet has received and how they ended.
use super::Cached;
use crate::{ingress::RequestId, tree::Tree};
use ic_principal::Principal;
use lockstep_canister::engine::ExecutionError;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// A call that was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("IC{error_code:04}: {message}")]
pub struct Reject {
    /// `nnn` of the Internet Computer's error code `IC0nnn`.
    pub error_code: u16,
    /// For people.
    pub message: String,
}

impl Reject {
    /// A rejection with its error code.
    pub fn new(error_code: u16, message: impl Into<String>) -> Self {
        Self {
            error_code,
            message: message.into(),
        }
    }

    /// The reject code: the first digit of the error code.
    #[must_use]
    pub fn reject_code(&self) -> u8 {
        // Codes have three digits; anything else would be the canister's error.
        match self.error_code / 100 {
            code @ 1..=6 => code as u8,
            _ => 5,
        }
    }
}

impl From<Reject> for ExecutionError {
    fn from(reject: Reject) -> Self {
        Self {
            code: reject.error_code,
            message: reject.message,
        }
    }
}

impl From<ExecutionError> for Reject {
    fn from(error: ExecutionError) -> Self {
        Self {
            error_code: error.code,
            message: error.message,
        }
    }
}

/// How far a call has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Ordered, not executed.
    Received,
    /// Its execution has begun.
    Processing,
    /// Answered.
    Replied(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Refused or failed.
    Rejected(Reject),
}

/// An entry of the history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Who sent the call; only they may read the answer.
    pub sender: Principal,
    /// When the entry is forgotten, nanoseconds since 1970: after the call's expiry, so that the
    /// call cannot be executed again.
    pub keep_until_ns: u64,
    /// How far it has come.
    pub status: Status,
    #[serde(skip)]
    tree: Cached<Tree>,
}

impl Answer {
    /// An entry.
    #[must_use]
    pub fn new(sender: Principal, keep_until_ns: u64, status: Status) -> Self {
        Self {
            sender,
            keep_until_ns,
            status,
            tree: Cached::default(),
        }
    }

    /// Whether nothing more will happen to the call.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self.status, Status::Received | Status::Processing)
    }

    /// Its subtree of the state tree.
    pub(crate) fn tree(&self) -> &Tree {
        self.tree.get_or_init(|| match &self.status {
            Status::Received => Tree::named([("status", Tree::leaf("received"))]),
            Status::Processing => Tree::named([("status", Tree::leaf("processing"))]),
            Status::Replied(reply) => Tree::named([
                ("reply", Tree::leaf(reply.clone())),
                ("status", Tree::leaf("replied")),
            ]),
            Status::Rejected(reject) => Tree::named([
                (
                    "error_code",
                    Tree::leaf(format!("IC{:04}", reject.error_code)),
                ),
                ("reject_code", Tree::leaf(vec![reject.reject_code()])),
                ("reject_message", Tree::leaf(reject.message.clone())),
                ("status", Tree::leaf("rejected")),
            ]),
        })
    }
}

/// Calls by request id.
#[derive(Debug, Clone, Default)]
pub struct History(BTreeMap<[u8; 32], Arc<Answer>>);

impl History {
    /// Most entries it holds; calls beyond are not taken in.
    pub const ENTRIES_MAX: usize = 50_000;

    /// The entry of a call.
    #[must_use]
    pub fn get(&self, id: &RequestId) -> Option<&Arc<Answer>> {
        let id: &[u8; 32] = id;
        self.0.get(id)
    }

    /// Whether it takes no more calls.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= Self::ENTRIES_MAX
    }

    /// Sets the entry of a call.
    pub fn insert(&mut self, id: [u8; 32], answer: Answer) {
        self.0.insert(id, Arc::new(answer));
    }

    /// Sets how far a known call has come.
    pub fn set_status(&mut self, id: &[u8; 32], status: Status) {
        if let Some(entry) = self.0.get_mut(id) {
            let answer = Answer::new(entry.sender, entry.keep_until_ns, status);
            *entry = Arc::new(answer);
        }
    }

    /// Forgets entries whose time is over, unless their calls still wait.
    pub fn prune(&mut self, now_ns: u64) {
        self.0
            .retain(|_, answer| answer.keep_until_ns >= now_ns || !answer.is_final());
    }

    /// The entries, by request id.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<[u8; 32], Arc<Answer>> {
        &self.0
    }

    pub(super) fn encode(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.0.len() as u64).to_le_bytes());
        for (id, answer) in &self.0 {
            let sender = answer.sender.as_slice();
            hasher.update(id);
            hasher
                .update(&(sender.len() as u64).to_le_bytes())
                .update(sender);
            hasher.update(&answer.keep_until_ns.to_le_bytes());
            hasher.update(answer.tree().digest());
        }
    }
}
