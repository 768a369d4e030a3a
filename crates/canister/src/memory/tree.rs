//! A sparse array of leaves as a radix tree, whose versions share what they have in common.
//!
//! # Design
//! Seven levels of nodes of 16 children each, the highest bits of an index first. A change copies the nodes
//! on its path, unless this version alone has them.
//!
//! # Invariants
//! There is no leaf of zeros and no node without children, so equal contents have equal trees. Digests, which
//! [`PagedMemory::digest`](super::PagedMemory::digest) defines, are computed when they are first asked for.
//!
//! # Complexity
//! Reading takes a walk of seven steps, a change as many small copies, a digest as many short hashes for each
//! leaf that changed. Comparing two versions visits what they do not share.
use crate::heap::LEAF_BYTES;
use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

type Digest = [u8; 32];
/// The bytes of a leaf.
pub(crate) type LeafBytes = [u8; LEAF_BYTES];

const DIGIT_BITS: u32 = 4;
const FAN_OUT: usize = 1 << DIGIT_BITS;
const LEVELS: u32 = 7;
/// Leaves that a tree has place for: of 4 KiB, 1 TiB.
pub(super) const LEAVES_MAX: u64 = 1 << (DIGIT_BITS * LEVELS);

/// The level of the nodes above [`PIECE_LEAVES`] leaves.
const PIECE_LEVEL: u32 = 2;
/// Leaves below a node of that level.
pub(super) const PIECE_LEAVES: usize = 1 << (DIGIT_BITS * PIECE_LEVEL);

/// Bytes that do not change any more.
#[derive(Debug)]
pub(crate) struct Leaf {
    bytes: Box<LeafBytes>,
    digest: OnceLock<Digest>,
}

impl Leaf {
    pub(crate) fn bytes(&self) -> &LeafBytes {
        &self.bytes
    }

    fn digest(&self) -> &Digest {
        self.digest
            .get_or_init(|| *blake3::hash(&*self.bytes).as_bytes())
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: [Option<Child>; FAN_OUT],
    digest: OnceLock<Digest>,
}

impl Node {
    fn digest(&self) -> &Digest {
        self.digest.get_or_init(|| {
            let mut encoded = [0; 2 + FAN_OUT * size_of::<Digest>()];
            let mut present = 0_u16;
            let mut end = 2;
            for (digit, child) in self.children.iter().enumerate() {
                if let Some(child) = child {
                    present |= 1 << digit;
                    encoded[end..end + size_of::<Digest>()].copy_from_slice(child.digest());
                    end += size_of::<Digest>();
                }
            }
            encoded[..2].copy_from_slice(&present.to_le_bytes());
            *blake3::hash(&encoded[..end]).as_bytes()
        })
    }
}

/// Leaves are below the lowest level of nodes, and nowhere else.
#[derive(Clone, Debug)]
enum Child {
    Node(Arc<Node>),
    Leaf(Arc<Leaf>),
}

impl Child {
    fn digest(&self) -> &Digest {
        match self {
            Self::Node(node) => node.digest(),
            Self::Leaf(leaf) => leaf.digest(),
        }
    }
}

/// One version.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    root: Option<Child>,
}

impl Tree {
    pub(super) fn get(&self, index: u64) -> Option<&Arc<Leaf>> {
        let mut level = LEVELS;
        let mut child = self.root.as_ref()?;
        loop {
            match child {
                Child::Leaf(leaf) => return Some(leaf),
                Child::Node(node) => {
                    level -= 1;
                    child = node.children[digit(index, level)].as_ref()?;
                }
            }
        }
    }

    /// Replaces a leaf, unless it has these bytes already.
    ///
    /// # Panics
    /// The index is [`LEAVES_MAX`] or more.
    pub(super) fn put(&mut self, index: u64, bytes: Box<LeafBytes>) {
        assert!(index < LEAVES_MAX, "no place in the tree: {index}");
        let zeros = *bytes == [0; LEAF_BYTES];
        let same = match self.get(index) {
            Some(leaf) => leaf.bytes == bytes,
            None => zeros,
        };
        if same {
            return;
        }
        let leaf = (!zeros).then(|| {
            Child::Leaf(Arc::new(Leaf {
                bytes,
                digest: OnceLock::new(),
            }))
        });
        set(&mut self.root, LEVELS, index, leaf);
    }

    /// The digest of the root; `None` when all is zeros.
    pub(super) fn digest(&self) -> Option<&Digest> {
        self.root.as_ref().map(Child::digest)
    }

    /// The nodes that are above [`PIECE_LEAVES`] leaves each: their numbers and digests.
    pub(super) fn pieces(&self) -> Vec<(u64, Digest)> {
        let mut pieces = Vec::new();
        collect(self.root.as_ref(), LEVELS, 0, &mut pieces);
        pieces
    }

    /// The leaves in which two versions differ.
    pub(super) fn changed(&self, other: &Self) -> BTreeSet<u64> {
        let mut changed = BTreeSet::new();
        differences(self.root.as_ref(), other.root.as_ref(), 0, &mut changed);
        changed
    }
}

/// The child of a node at a level, the lowest being 0, under which an index is.
fn digit(index: u64, level: u32) -> usize {
    (index >> (level * DIGIT_BITS)) as usize % FAN_OUT
}

/// Sets the leaf at an index below a place, which is under a node of this level.
fn set(place: &mut Option<Child>, level: u32, index: u64, leaf: Option<Child>) {
    let Some(below) = level.checked_sub(1) else {
        *place = leaf;
        return;
    };
    let Child::Node(node) = place.get_or_insert_with(|| Child::Node(Arc::default())) else {
        unreachable!("a leaf above the lowest level");
    };
    let node = Arc::make_mut(node);
    node.digest = OnceLock::new();
    set(&mut node.children[digit(index, below)], below, index, leaf);
    if node.children.iter().all(Option::is_none) {
        *place = None;
    }
}

/// Collects the nodes of [`PIECE_LEVEL`] below a place at a level whose indices begin with `prefix`.
fn collect(place: Option<&Child>, level: u32, prefix: u64, pieces: &mut Vec<(u64, Digest)>) {
    let Some(Child::Node(node)) = place else {
        return;
    };
    if level == PIECE_LEVEL {
        pieces.push((prefix, *node.digest()));
        return;
    }
    for (digit, child) in node.children.iter().enumerate() {
        let prefix = (prefix << DIGIT_BITS) | digit as u64;
        collect(child.as_ref(), level - 1, prefix, pieces);
    }
}

/// Collects the leaves that differ below two places of the same indices, those that begin with `prefix`.
fn differences(
    one: Option<&Child>,
    other: Option<&Child>,
    prefix: u64,
    changed: &mut BTreeSet<u64>,
) {
    match (one, other) {
        (None, None) => {}
        (Some(Child::Node(node)), Some(Child::Node(other))) if Arc::ptr_eq(node, other) => {}
        (Some(Child::Leaf(leaf)), Some(Child::Leaf(other)))
            if Arc::ptr_eq(leaf, other) || leaf.bytes == other.bytes => {}
        (Some(Child::Leaf(_)), _) | (_, Some(Child::Leaf(_))) => {
            changed.insert(prefix);
        }
        _ => {
            for digit in 0..FAN_OUT {
                let [one, other] = [one, other].map(|place| child(place, digit));
                differences(one, other, (prefix << DIGIT_BITS) | digit as u64, changed);
            }
        }
    }
}

fn child(place: Option<&Child>, digit: usize) -> Option<&Child> {
    match place {
        Some(Child::Node(node)) => node.children[digit].as_ref(),
        _ => None,
    }
}
