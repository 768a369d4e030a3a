//! What a client was told to have happened has happened, once, and is never undone; what failed has left nothing.
use super::Violations;
use std::collections::BTreeMap;

/// How a call ended, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent.
    Unknown,
    /// A certificate says that it was done, and that the list had this length then.
    Done {
        /// The length.
        length: u64,
    },
    /// A certificate says that it failed.
    Failed,
}

/// Calls by the number that each puts on the list.
#[derive(Debug, Clone, Default)]
pub struct Once {
    calls: BTreeMap<u64, Outcome>,
    /// What was found wrong.
    pub violations: Violations,
}

impl Once {
    /// A client sends a call, perhaps again.
    pub fn sent(&mut self, number: u64) {
        self.calls.entry(number).or_insert(Outcome::Unknown);
    }

    /// A client has verified an answer.
    pub fn answered(&mut self, number: u64, outcome: Outcome) {
        match self.calls.insert(number, outcome) {
            None => self
                .violations
                .add(format!("call {number} was answered and never sent")),
            Some(before) if before != Outcome::Unknown && before != outcome => {
                self.violations.add(format!(
                    "call {number} was answered twice: {before:?} and {outcome:?}"
                ));
            }
            Some(_) => {}
        }
    }

    /// How many calls have been answered.
    #[must_use]
    pub fn answers(&self) -> usize {
        let outcomes = self.calls.values();
        outcomes
            .filter(|outcome| **outcome != Outcome::Unknown)
            .count()
    }

    /// A node's list at the end.
    pub fn check(&mut self, node: usize, list: &[u64]) {
        let mut places: BTreeMap<u64, usize> = BTreeMap::new();
        for (index, number) in list.iter().enumerate() {
            if let Some(first) = places.insert(*number, index) {
                self.violations.add(format!(
                    "call {number} was executed twice, at {first} and {index}, says node {node}"
                ));
            }
            if !self.calls.contains_key(number) {
                self.violations.add(format!(
                    "call {number} was executed and never sent, says node {node}"
                ));
            }
        }
        for (number, outcome) in &self.calls {
            let place = places.get(number).map(|index| *index as u64 + 1);
            let fits = match outcome {
                Outcome::Unknown => true,
                Outcome::Done { length } => place == Some(*length),
                Outcome::Failed => place.is_none(),
            };
            if !fits {
                self.violations.add(format!(
                    "call {number} was answered with {outcome:?} and is at {place:?}, says node {node}"
                ));
            }
        }
    }
}
