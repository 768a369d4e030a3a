//! The epochs of a subnet: from which height on which nodes order blocks, and by which rules they execute them.
//!
//! # Design
//! The first epoch is the genesis. A block that carries a [`Switch`] orders the next one, which begins [`SWITCH_DELAY`]
//! heights later, so that every node knows it from executed blocks before it has to vote on one of it. As long as an
//! ordered epoch has not begun no other is ordered.
//!
//! # Determinism
//! A function of the blocks: that a switch is wanted was decided by those who voted for its block.
use crate::{
    application::{FinalizedBlock, Height, SWITCH_DELAY, Switch},
    members::Members,
};
use serde::{Deserialize, Serialize};

/// Epochs that are kept: the last, the one before, whose blocks others may still need, and one that has not begun.
const KEPT: usize = 3;

/// An epoch that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its number.
    pub number: u64,
    /// Its first height.
    pub first_height: Height,
    /// The digest of the block before that; `None`: it was not executed yet.
    pub parent: Option<[u8; 32]>,
    /// The version of the rules.
    pub protocol_version: u64,
    /// Its nodes.
    pub members: Members,
}

/// The epochs after the genesis, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs(Vec<Epoch>);

impl Epochs {
    /// Those that matter still, the oldest first.
    #[must_use]
    pub fn ordered(&self) -> &[Epoch] {
        &self.0
    }

    /// The last one that was ordered, begun or not; `None`: the genesis.
    #[must_use]
    pub fn last(&self) -> Option<&Epoch> {
        self.0.last()
    }

    /// The one that a height belongs to; `None`: the genesis.
    #[must_use]
    pub fn at(&self, height: Height) -> Option<&Epoch> {
        let mut begun = self.0.iter().rev();
        begun.find(|epoch| epoch.first_height <= height)
    }

    /// Whether the block of a height changes anything: one that orders an epoch, or the last one before one.
    fn is_changed_by(&self, block: &FinalizedBlock) -> bool {
        let next = self.last();
        block.payload.switch.is_some()
            || next.is_some_and(|next| next.first_height == block.height + 1)
    }

    /// The epochs after a block, if they are others than before.
    #[must_use]
    pub fn after(&self, block: &FinalizedBlock) -> Option<Self> {
        if !self.is_changed_by(block) {
            return None;
        }
        let mut epochs = self.clone();
        epochs.note(block.height, block.digest);
        if let Some(switch) = &block.payload.switch {
            epochs.order(block.height, switch);
        }
        Some(epochs)
    }

    /// Notes the digest of a block: the last of an epoch is what the next one begins from.
    fn note(&mut self, height: Height, digest: [u8; 32]) {
        let next = self.0.last_mut();
        if let Some(next) = next.filter(|next| next.first_height == height + 1) {
            next.parent = Some(digest);
        }
    }

    fn order(&mut self, height: Height, switch: &Switch) {
        let last = self.last();
        let has_begun = last.is_none_or(|last| last.first_height <= height);
        if !has_begun || switch.epoch != last.map_or(0, |last| last.number) + 1 {
            return;
        }
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push(Epoch {
            number: switch.epoch,
            first_height: height + SWITCH_DELAY,
            parent: None,
            protocol_version: switch.protocol_version,
            members: switch.members.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::Payload;
    use std::sync::Arc;

    /// Whether a block changes the epochs.
    fn take(epochs: &mut Epochs, height: Height, switch: Option<u64>) -> bool {
        let switch = switch.map(|epoch| {
            let members = Members {
                nodes: Vec::new(),
                sharing: vec![epoch as u8],
            };
            Arc::new(Switch {
                epoch,
                protocol_version: 7,
                members,
            })
        });
        let after = epochs.after(&FinalizedBlock {
            height,
            digest: [height as u8; 32],
            payload: Payload {
                switch,
                ..Payload::default()
            },
        });
        let is_other = after.as_ref().is_some_and(|after| after != epochs);
        *epochs = after.unwrap_or_else(|| epochs.clone());
        is_other
    }

    #[test]
    fn an_epoch_begins_a_while_after_its_order_and_one_at_a_time() {
        let mut epochs = Epochs::default();
        let numbers = |epochs: &Epochs, heights: &[Height]| -> Vec<Option<u64>> {
            let at = |height: &Height| epochs.at(*height).map(|epoch| epoch.number);
            heights.iter().map(at).collect()
        };
        let first = 10 + SWITCH_DELAY;
        assert!(!take(&mut epochs, 10, Some(2)), "the next number is 1");
        assert!(!take(&mut epochs, 10, None) && take(&mut epochs, 10, Some(1)));
        assert!(!take(&mut epochs, 11, Some(1)) && !take(&mut epochs, first - 2, Some(2)));
        assert_eq!(epochs.last().unwrap().parent, None);
        assert!(take(&mut epochs, first - 1, Some(2)), "the parent is noted");
        assert!(!take(&mut epochs, first, None));
        let parent = [(first - 1) as u8; 32];
        assert_eq!(epochs.last().unwrap().parent, Some(parent));
        let of = numbers(&epochs, &[0, first - 1, first, 1_000]);
        assert_eq!(of, [None, None, Some(1), Some(1)]);

        let second = first + SWITCH_DELAY;
        assert!(take(&mut epochs, first, Some(2)));
        assert_eq!(numbers(&epochs, &[second - 1, second]), [Some(1), Some(2)]);
        assert!(take(&mut epochs, 200, Some(3)) && take(&mut epochs, 300, Some(4)));
        assert_eq!(epochs.ordered().len(), KEPT);
        let of = numbers(&epochs, &[second - 1, second, 300 + SWITCH_DELAY]);
        assert_eq!(of, [None, Some(2), Some(4)]);
    }
}
