//! Calls the subnet has received and how they ended.
use super::Cached;
use crate::{
    ingress::RequestId,
    tree::{
        Tree,
        trie::{Entry, Trie},
    },
};
use ic_principal::Principal;
use lockstep_canister::engine::ExecutionError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

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
    /// Answered; how is no longer kept.
    Done,
}

/// An entry of the history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Who sent the call; only they may read the answer.
    pub sender: Principal,
    /// The canister that the call was for.
    pub receiver: Principal,
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
    pub fn new(sender: Principal, receiver: Principal, keep_until_ns: u64, status: Status) -> Self {
        Self {
            sender,
            receiver,
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

    fn bytes(&self) -> u64 {
        match &self.status {
            Status::Received | Status::Processing | Status::Done => 0,
            Status::Replied(reply) => reply.len() as u64,
            Status::Rejected(reject) => reject.message.len() as u64,
        }
    }

    fn status_tree(&self) -> &Tree {
        self.tree.get_or_init(|| match &self.status {
            Status::Received => Tree::named([("status", Tree::leaf("received"))]),
            Status::Processing => Tree::named([("status", Tree::leaf("processing"))]),
            Status::Done => Tree::named([("status", Tree::leaf("done"))]),
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

impl Entry for Answer {
    fn tree(&self) -> Tree {
        self.status_tree().clone()
    }

    /// BLAKE3 over the sender and the receiver, each preceded by its length, the end of keeping (numbers are
    /// little-endian u64) and the digest of the subtree.
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for principal in [&self.sender, &self.receiver] {
            let principal = principal.as_slice();
            hasher.update(&(principal.len() as u64).to_le_bytes());
            hasher.update(principal);
        }
        hasher.update(&self.keep_until_ns.to_le_bytes());
        hasher.update(self.status_tree().digest());
        *hasher.finalize().as_bytes()
    }
}

/// Calls by request id. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct History {
    answers: Trie<Answer>,
    /// Where each is kept until, big-endian, and its request id.
    ends: Trie<()>,
    /// The same of those that have a reply or a reason.
    told: Trie<()>,
    /// Of all replies and reasons.
    bytes: u64,
}

const END_BYTES: usize = size_of::<u64>();

impl History {
    /// Most entries it holds; calls beyond are not taken in. Some 300 s of 1,500 calls per second.
    pub const ENTRIES_MAX: usize = 500_000;
    /// Most bytes of replies and reasons that it keeps. Beyond, those whose time is over first are [`Status::Done`].
    pub const BYTES_MAX: u64 = 1 << 30;

    /// The entry of a call.
    #[must_use]
    pub fn get(&self, id: &RequestId) -> Option<&Arc<Answer>> {
        self.answers.get(&id[..])
    }

    /// Whether it takes no more calls.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.answers.len() >= Self::ENTRIES_MAX
    }

    /// Sets the entry of a call.
    pub fn insert(&mut self, id: [u8; 32], answer: Answer) {
        self.remove(&id);
        let end = end(&id, &answer);
        if answer.bytes() > 0 {
            self.told.insert(&end, Arc::new(()));
        }
        self.ends.insert(&end, Arc::new(()));
        self.bytes += answer.bytes();
        self.answers.insert(&id, Arc::new(answer));
    }

    fn remove(&mut self, id: &[u8]) {
        if let Some(answer) = self.answers.remove(id) {
            let end = end(id, &answer);
            self.ends.remove(&end);
            self.told.remove(&end);
            self.bytes -= answer.bytes();
        }
    }

    /// Sets how far a known call has come.
    pub fn set_status(&mut self, id: &[u8; 32], status: Status) {
        if let Some(entry) = self.answers.get(id) {
            let (sender, receiver) = (entry.sender, entry.receiver);
            let answer = Answer::new(sender, receiver, entry.keep_until_ns, status);
            self.insert(*id, answer);
        }
    }

    /// Keeps no more than so many bytes of replies and reasons.
    fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max
            && let Some((end, _)) = self.told.iter().next()
            && let Ok(id) = <[u8; 32]>::try_from(&end[END_BYTES..])
        {
            self.set_status(&id, Status::Done);
        }
    }

    /// Forgets entries whose time is over, unless their calls still wait, and what is too much of their replies.
    pub fn prune(&mut self, now_ns: u64) {
        let ends = self.ends.iter().map(|(end, _)| end);
        let over = ends.take_while(|end| end[..END_BYTES] < now_ns.to_be_bytes()[..]);
        let is_final = |id: &&[u8]| {
            let answer = self.answers.get(id);
            answer.is_some_and(|answer| answer.is_final())
        };
        let ids = over.map(|end| &end[END_BYTES..]).filter(is_final);
        let ids: Vec<Vec<u8>> = ids.map(<[u8]>::to_vec).collect();
        for id in ids {
            self.remove(&id);
        }
        self.shrink(Self::BYTES_MAX);
    }

    /// Visits the request ids whose entries are not those of an earlier history, in any order, with the entry now.
    pub(crate) fn changes(&self, before: &Self, mut visit: impl FnMut(&[u8], Option<&Answer>)) {
        self.answers.changes(&before.answers, &mut |id, _, answer| {
            visit(id, answer.map(|answer| &**answer));
        });
    }

    /// Request ids and their entries, by id, from one on.
    pub(crate) fn from<'a>(
        &'a self,
        id: &[u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a Answer)> + use<'a> {
        let answers = self.answers.iter_from(id);
        answers.map(|(id, answer)| (id, &**answer))
    }

    /// The directory of answers in the state tree.
    pub(crate) fn tree(&self) -> Tree {
        self.answers.tree()
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        self.answers.digest()
    }
}

/// The key of an entry in the order of their ends.
fn end(id: &[u8], answer: &Answer) -> Vec<u8> {
    [&answer.keep_until_ns.to_be_bytes()[..], id].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_principal::Principal;

    fn answer(keep_until_ns: u64, status: Status) -> Answer {
        let receiver = Principal::management_canister();
        Answer::new(Principal::anonymous(), receiver, keep_until_ns, status)
    }

    #[test]
    fn answers_are_forgotten_when_their_time_is_over_and_they_are_final() {
        let mut history = History::default();
        history.insert([1; 32], answer(10, Status::Replied(vec![7])));
        history.insert([2; 32], answer(20, Status::Received));
        history.insert([3; 32], answer(300, Status::Processing));
        let known = |history: &History| -> Vec<u8> {
            history.answers.iter().map(|(id, _)| id[0]).collect()
        };
        assert_eq!(history.bytes, 1);
        history.prune(10);
        assert_eq!(known(&history), [1, 2, 3]);
        history.prune(21);
        assert_eq!(known(&history), [2, 3]);
        history.set_status(&[2; 32], Status::Replied(Vec::new()));
        // Another time for a known one.
        history.insert([3; 32], answer(25, Status::Replied(Vec::new())));
        history.prune(26);
        assert!(known(&history).is_empty());
        assert_eq!(history.digest(), History::default().digest());
        assert_eq!(
            (history.ends.len(), history.told.len(), history.bytes),
            (0, 0, 0)
        );
    }

    #[test]
    fn replies_that_are_too_much_are_forgotten_by_the_ends_of_their_time() {
        let mut history = History::default();
        for (id, keep_until_ns) in [(1, 30), (2, 10), (3, 20)] {
            history.insert(
                [id; 32],
                answer(keep_until_ns, Status::Replied(vec![id; 10])),
            );
        }
        history.insert([4; 32], answer(5, Status::Received));
        history.shrink(30);
        assert_eq!(history.bytes, 30);
        history.shrink(19);
        let done = history
            .answers
            .iter()
            .filter(|(_, answer)| answer.status == Status::Done);
        assert_eq!(done.map(|(id, _)| id[0]).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(history.bytes, 10);
        history.prune(40);
        assert_eq!(
            history
                .answers
                .iter()
                .map(|(id, _)| id[0])
                .collect::<Vec<_>>(),
            [4]
        );
    }

    #[test]
    fn every_field_is_in_the_digest() {
        let digest = |answer: Answer| {
            let mut history = History::default();
            history.insert([1; 32], answer);
            history.digest()
        };
        let all = [
            answer(10, Status::Received),
            answer(11, Status::Received),
            answer(10, Status::Processing),
            answer(10, Status::Replied(vec![1])),
            Answer {
                sender: Principal::from_slice(&[1]),
                ..answer(10, Status::Received)
            },
            Answer {
                receiver: Principal::from_slice(&[1]),
                ..answer(10, Status::Received)
            },
        ];
        let digests: std::collections::BTreeSet<_> = all.into_iter().map(digest).collect();
        assert_eq!(digests.len(), 6);
    }
}
