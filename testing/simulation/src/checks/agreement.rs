//! Honest replicas execute the same blocks and come to the same roots, at every height, also when they do it again.
use super::Violations;
use lockstep_subnet::application::{FinalizedBlock, Height};
use std::collections::BTreeMap;

/// What was executed, by whom first.
#[derive(Debug, Clone, Default)]
pub struct Agreement {
    heights: BTreeMap<Height, Executed>,
    /// What was found wrong.
    pub violations: Violations,
}

#[derive(Debug, Clone)]
struct Executed {
    block: [u8; 32],
    root: [u8; 32],
    time_ns: u64,
    node: usize,
}

impl Agreement {
    /// A node has executed a block.
    pub fn executed(&mut self, node: usize, block: &FinalizedBlock, root: [u8; 32]) {
        let height = block.height;
        let time_ns = block.payload.time_ns;
        if let Some(before) = self.heights.get(&(height.saturating_sub(1)))
            && before.time_ns >= time_ns
        {
            self.violations
                .add(format!("time does not go on at height {height}"));
        }
        let first = self.heights.entry(height).or_insert(Executed {
            block: block.digest,
            root,
            time_ns,
            node,
        });
        if first.block != block.digest {
            self.violations.add(format!(
                "nodes {} and {node} have other blocks at height {height}",
                first.node
            ));
        } else if first.root != root {
            self.violations.add(format!(
                "nodes {} and {node} have other roots at height {height}: {} and {}",
                first.node,
                hex::encode(first.root),
                hex::encode(root)
            ));
        }
    }

    /// The root that was agreed on.
    #[must_use]
    pub fn root(&self, height: Height) -> Option<[u8; 32]> {
        self.heights.get(&height).map(|executed| executed.root)
    }

    /// The highest height that anyone executed.
    #[must_use]
    pub fn height(&self) -> Height {
        self.heights
            .last_key_value()
            .map_or(0, |(height, _)| *height)
    }
}
