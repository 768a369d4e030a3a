//! The digest of a heap: a tree over its pages of 4 KiB, of which a change costs one path.
//!
//! # Invariants
//! Nodes exist where something differs from zeros, so a sparse heap has a sparse tree, and equal
//! contents have equal trees whatever their history.
use super::{LEAF_BYTES, Leaf};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

type Digest = [u8; 32];

const FAN_OUT: usize = 256;
/// FAN_OUT^3 leaves are 64 GiB.
const LEVELS: usize = 3;

/// Digests of zeros: of a leaf, and of a node of each level.
static ZEROS: LazyLock<[Digest; LEVELS + 1]> = LazyLock::new(|| {
    let mut next = leaf_digest(&[0; LEAF_BYTES]);
    std::array::from_fn(|_| {
        let digest = next;
        next = Node::of_equal(digest).digest();
        digest
    })
});

/// Digests of the children of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node(Box<[Digest; FAN_OUT]>);

impl Node {
    fn of_equal(child: Digest) -> Self {
        Self(Box::new([child; FAN_OUT]))
    }

    fn digest(&self) -> Digest {
        *blake3::hash(self.0.as_flattened()).as_bytes()
    }
}

/// The tree of one content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    levels: [BTreeMap<u32, Node>; LEVELS],
}

impl Tree {
    /// Takes over leaves that changed.
    pub(super) fn update(&mut self, leaves: impl Iterator<Item = (Leaf, Digest)>) {
        let mut changed: BTreeMap<u32, Digest> = leaves.collect();
        for (level, nodes) in self.levels.iter_mut().enumerate() {
            let mut touched = BTreeSet::new();
            for (child, digest) in changed {
                let parent = child / FAN_OUT as u32;
                let node = nodes
                    .entry(parent)
                    .or_insert_with(|| Node::of_equal(ZEROS[level]));
                node.0[child as usize % FAN_OUT] = digest;
                touched.insert(parent);
            }
            changed = touched
                .into_iter()
                .map(|index| (index, nodes[&index].digest()))
                .collect();
            nodes.retain(|index, _| {
                changed
                    .get(index)
                    .is_none_or(|digest| *digest != ZEROS[level + 1])
            });
        }
    }

    /// The nodes above the leaves that have anything but zeros below, with their digests.
    pub(super) fn lowest(&self) -> Vec<(u32, Digest)> {
        let nodes = self.levels[0].keys();
        nodes
            .map(|index| {
                let parent = &self.levels[1][&(index / FAN_OUT as u32)];
                (*index, parent.0[*index as usize % FAN_OUT])
            })
            .collect()
    }

    /// The digest over all.
    pub(super) fn root(&self) -> Digest {
        match self.levels[LEVELS - 1].get(&0) {
            Some(node) => node.digest(),
            None => ZEROS[LEVELS],
        }
    }
}

/// The digest of the node above these leaves, one behind the other, and zeros behind them.
pub(super) fn node_digest(leaves: &[[u8; LEAF_BYTES]]) -> Digest {
    let mut node = Node::of_equal(ZEROS[0]);
    for (digest, bytes) in node.0.iter_mut().zip(leaves) {
        *digest = leaf_digest(bytes);
    }
    node.digest()
}

/// The digest of a leaf's bytes.
pub(super) fn leaf_digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(seed: u8) -> Digest {
        leaf_digest(&[seed; LEAF_BYTES])
    }

    #[test]
    fn history_does_not_show() {
        let mut direct = Tree::default();
        direct.update([(3, digest(1)), (70_000, digest(2))].into_iter());
        let mut detour = Tree::default();
        detour.update([(3, digest(9)), (5, digest(9)), (1 << 23, digest(4))].into_iter());
        assert_ne!(direct.root(), detour.root());
        detour.update([(5, digest(0)), (1 << 23, digest(0))].into_iter());
        detour.update([(70_000, digest(2)), (3, digest(1))].into_iter());
        assert_eq!(direct, detour);
        assert_eq!(direct.root(), detour.root());
        direct.update([(3, digest(0)), (70_000, digest(0))].into_iter());
        assert_eq!(direct, Tree::default());
        assert_eq!(direct.root(), ZEROS[LEVELS]);
    }

    #[test]
    fn lowest_nodes_have_the_digests_of_their_leaves() {
        let mut tree = Tree::default();
        tree.update([(3, digest(1)), (70_000, digest(2)), (9, digest(0))].into_iter());
        let node = |place: usize, seed| {
            let mut leaves = vec![[0; LEAF_BYTES]; FAN_OUT];
            leaves[place] = [seed; LEAF_BYTES];
            node_digest(&leaves)
        };
        assert_eq!(
            tree.lowest(),
            [(0, node(3, 1)), (70_000 / 256, node(70_000 % 256, 2))]
        );
    }

    #[test]
    fn the_root_is_the_digest_of_digests() {
        let mut tree = Tree::default();
        tree.update([(0, digest(7))].into_iter());
        let mut expected = digest(7);
        for level in 0..LEVELS {
            let children = [[expected].as_slice(), &[ZEROS[level]; FAN_OUT - 1]].concat();
            expected = *blake3::hash(children.as_flattened()).as_bytes();
        }
        assert_eq!(tree.root(), expected);
    }
}
