//! A persistent map from labels to values that is a directory of the hash tree.
//!
//! # Design
//! A binary radix tree over the bits of labels. Clones share all nodes. A change makes new nodes from its
//! leaf to the root; their digests are computed when they are asked for. So a height costs what it changes,
//! times the depth, whatever the map holds.
//!
//! # Invariants
//! The shape is a function of the labels, whatever the order in which they came. A label reads as a 1 and
//! eight bits for each of its bytes and a 0 at its end: bits are ordered as labels are, and no label's bits
//! begin with all of another's.
use super::Tree;
use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// A value with its part of the hash tree.
pub(crate) trait Entry {
    /// What is below its label in the hash tree.
    fn tree(&self) -> Tree;

    /// Digest of everything in it that replicas agree on.
    fn digest(&self) -> [u8; 32];
}

/// A map from labels to shared values. Clones are cheap.
pub(crate) struct Trie<V> {
    root: Option<Arc<Node<V>>>,
    len: usize,
}

impl<V> Clone for Trie<V> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
            len: self.len,
        }
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<V: fmt::Debug> fmt::Debug for Trie<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

struct Node<V> {
    kind: Kind<V>,
    tree: OnceLock<Tree>,
    digest: OnceLock<[u8; 32]>,
}

enum Kind<V> {
    Leaf(Box<[u8]>, Arc<V>),
    Fork(Fork<V>),
}

struct Fork<V> {
    /// The first bit in which labels differ: 0 on the left.
    bit: usize,
    /// Labels on the right are not below it, those on the left are.
    split: Box<[u8]>,
    left: Arc<Node<V>>,
    right: Arc<Node<V>>,
}

impl<V> Trie<V> {
    /// How many labels there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value at a label.
    pub(crate) fn get(&self, label: &[u8]) -> Option<&Arc<V>> {
        let (found, value) = self.root.as_ref()?.nearest(label);
        (found == label).then_some(value)
    }

    /// Sets the value at a label and returns the one before.
    pub(crate) fn insert(&mut self, label: &[u8], value: Arc<V>) -> Option<Arc<V>> {
        let Some(root) = &self.root else {
            self.root = Some(Node::leaf(label.into(), value));
            self.len = 1;
            return None;
        };
        let (nearest, before) = root.nearest(label);
        let difference = first_difference(label, nearest);
        let before = difference.is_none().then(|| Arc::clone(before));
        self.len += usize::from(difference.is_some());
        self.root = Some(root.with(label, value, difference));
        before
    }

    /// Removes a label and returns its value.
    pub(crate) fn remove(&mut self, label: &[u8]) -> Option<Arc<V>> {
        let value = Arc::clone(self.get(label)?);
        self.root = self.root.take()?.without(label);
        self.len -= 1;
        Some(value)
    }

    /// Labels and values, by label.
    pub(crate) fn iter(&self) -> Iter<'_, V> {
        Iter {
            next: self.root.as_deref().into_iter().collect(),
        }
    }

    /// Labels and values, by label, without those whose labels are below `from`.
    pub(crate) fn iter_from(&self, from: &[u8]) -> Iter<'_, V> {
        let mut next = Vec::new();
        let mut place = self.root.as_deref();
        while let Some(node) = place.take() {
            match &node.kind {
                Kind::Leaf(label, _) if &**label < from => {}
                Kind::Leaf(..) => next.push(node),
                Kind::Fork(fork) if from < &*fork.split => {
                    next.push(&*fork.right);
                    place = Some(&fork.left);
                }
                Kind::Fork(fork) => place = Some(&fork.right),
            }
        }
        Iter { next }
    }

    /// Visits the labels at which this map does not share the value of an earlier one, in any order: with the value
    /// there, and the one here. Skips what the two share.
    pub(crate) fn changes(
        &self,
        before: &Self,
        visit: &mut impl FnMut(&[u8], Option<&Arc<V>>, Option<&Arc<V>>),
    ) {
        compare(before.root.as_ref(), self.root.as_ref(), visit);
    }
}

impl<V: Entry> Trie<V> {
    /// The directory.
    pub(crate) fn tree(&self) -> Tree {
        match &self.root {
            Some(root) => root.tree().clone(),
            None => Tree::directory(&[]),
        }
    }

    /// BLAKE3 over the count of labels, a little-endian u64, and the digest of the root: of a leaf, BLAKE3 over 0, the
    /// label preceded by its length as u64, and the value's digest; of a fork, over 1 and the digests of both halves.
    /// Zeros where there is none.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let root = self.root.as_ref().map_or([0; 32], |root| *root.digest());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.len as u64).to_le_bytes());
        hasher.update(&root);
        *hasher.finalize().as_bytes()
    }
}

impl<V> Node<V> {
    fn new(kind: Kind<V>) -> Arc<Self> {
        Arc::new(Self {
            kind,
            tree: OnceLock::new(),
            digest: OnceLock::new(),
        })
    }

    fn leaf(label: Box<[u8]>, value: Arc<V>) -> Arc<Self> {
        Self::new(Kind::Leaf(label, value))
    }

    /// The leaf to which the label's bits lead.
    fn nearest(&self, label: &[u8]) -> (&[u8], &Arc<V>) {
        let mut node = self;
        loop {
            match &node.kind {
                Kind::Leaf(label, value) => return (label, value),
                Kind::Fork(fork) => node = fork.side(label),
            }
        }
    }

    /// The node with another leaf, whose label first differs from all here in a bit, or is here already.
    fn with(self: &Arc<Self>, label: &[u8], value: Arc<V>, difference: Option<usize>) -> Arc<Self> {
        match (&self.kind, difference) {
            (Kind::Fork(fork), _) if difference.is_none_or(|bit| fork.bit < bit) => {
                let side = fork.side(label).with(label, value, difference);
                fork.with_side(label, side)
            }
            (_, None) => Self::leaf(label.into(), value),
            (_, Some(difference)) => {
                let leaf = Self::leaf(label.into(), value);
                let other = Arc::clone(self);
                let (left, right) = if bit(label, difference) {
                    (other, leaf)
                } else {
                    (leaf, other)
                };
                let split = split(right.any_label(), difference);
                Self::new(Kind::Fork(Fork {
                    bit: difference,
                    split,
                    left,
                    right,
                }))
            }
        }
    }

    /// The node without a leaf that is in it.
    fn without(self: &Arc<Self>, label: &[u8]) -> Option<Arc<Self>> {
        let Kind::Fork(fork) = &self.kind else {
            return None;
        };
        Some(match fork.side(label).without(label) {
            Some(side) => fork.with_side(label, side),
            None if bit(label, fork.bit) => Arc::clone(&fork.left),
            None => Arc::clone(&fork.right),
        })
    }

    fn any_label(&self) -> &[u8] {
        self.nearest(&[]).0
    }

    fn fork_bit(&self) -> Option<usize> {
        match &self.kind {
            Kind::Leaf(..) => None,
            Kind::Fork(fork) => Some(fork.bit),
        }
    }
}

impl<V: Entry> Node<V> {
    fn tree(&self) -> &Tree {
        self.tree.get_or_init(|| match &self.kind {
            Kind::Leaf(label, value) => Tree::labeled(&**label, value.tree()),
            Kind::Fork(fork) => Tree::fork(
                fork.left.tree().clone(),
                fork.right.tree().clone(),
                fork.split.to_vec(),
            ),
        })
    }

    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            match &self.kind {
                Kind::Leaf(label, value) => {
                    hasher.update(&[0]);
                    hasher.update(&(label.len() as u64).to_le_bytes());
                    hasher.update(label);
                    hasher.update(&value.digest());
                }
                Kind::Fork(fork) => {
                    hasher.update(&[1]);
                    hasher.update(fork.left.digest());
                    hasher.update(fork.right.digest());
                }
            }
            *hasher.finalize().as_bytes()
        })
    }
}

impl<V> Fork<V> {
    fn side(&self, label: &[u8]) -> &Arc<Node<V>> {
        if bit(label, self.bit) {
            &self.right
        } else {
            &self.left
        }
    }

    fn other_side(&self, label: &[u8]) -> &Arc<Node<V>> {
        if bit(label, self.bit) {
            &self.left
        } else {
            &self.right
        }
    }

    /// The fork with another node on the label's side.
    fn with_side(&self, label: &[u8], node: Arc<Node<V>>) -> Arc<Node<V>> {
        let other = Arc::clone(self.other_side(label));
        let (left, right) = if bit(label, self.bit) {
            (other, node)
        } else {
            (node, other)
        };
        Node::new(Kind::Fork(Self {
            bit: self.bit,
            split: self.split.clone(),
            left,
            right,
        }))
    }
}

/// Labels and values of a [`Trie`], by label.
pub(crate) struct Iter<'a, V> {
    next: Vec<&'a Node<V>>,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a [u8], &'a Arc<V>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match &self.next.pop()?.kind {
                Kind::Leaf(label, value) => return Some((label, value)),
                Kind::Fork(fork) => self.next.extend([&*fork.right, &*fork.left]),
            }
        }
    }
}

/// Visits what differs between two nodes: see [`Trie::changes`].
fn compare<V>(
    before: Option<&Arc<Node<V>>>,
    after: Option<&Arc<Node<V>>>,
    visit: &mut impl FnMut(&[u8], Option<&Arc<V>>, Option<&Arc<V>>),
) {
    let (Some(old), Some(new)) = (before, after) else {
        for (label, value) in leaves(before) {
            visit(label, Some(value), None);
        }
        for (label, value) in leaves(after) {
            visit(label, None, Some(value));
        }
        return;
    };
    if Arc::ptr_eq(old, new) {
        return;
    }
    let (old_label, new_label) = (old.any_label(), new.any_label());
    let difference = first_difference(old_label, new_label).unwrap_or(usize::MAX);
    let of_leaf = usize::MAX;
    let bits = (
        old.fork_bit().unwrap_or(of_leaf),
        new.fork_bit().unwrap_or(of_leaf),
    );
    match (&old.kind, &new.kind) {
        _ if difference < bits.0.min(bits.1) => {
            compare(before, None, visit);
            compare(None, after, visit);
        }
        (Kind::Leaf(label, old), Kind::Leaf(_, new)) => {
            if !Arc::ptr_eq(old, new) {
                visit(label, Some(old), Some(new));
            }
        }
        (Kind::Fork(old), Kind::Fork(new)) if old.bit == new.bit => {
            compare(Some(&old.left), Some(&new.left), visit);
            compare(Some(&old.right), Some(&new.right), visit);
        }
        // One of them lies on a side of the other.
        (Kind::Fork(fork), _) if bits.0 < bits.1 => {
            compare(Some(fork.side(new_label)), after, visit);
            compare(Some(fork.other_side(new_label)), None, visit);
        }
        (_, Kind::Fork(fork)) => {
            compare(before, Some(fork.side(old_label)), visit);
            compare(None, Some(fork.other_side(old_label)), visit);
        }
        (Kind::Fork(_), Kind::Leaf(..)) => unreachable!("a leaf's bit is behind that of a fork"),
    }
}

fn leaves<V>(node: Option<&Arc<Node<V>>>) -> Iter<'_, V> {
    Iter {
        next: node.map(|node| &**node).into_iter().collect(),
    }
}

/// Bits of a label for one of its bytes.
const BITS: usize = 9;

fn bit(label: &[u8], index: usize) -> bool {
    match (label.get(index / BITS), index % BITS) {
        (None, _) => false,
        (Some(_), 0) => true,
        (Some(byte), place) => byte >> (BITS - 1 - place) & 1 == 1,
    }
}

/// The first bit in which two labels differ.
fn first_difference(first: &[u8], second: &[u8]) -> Option<usize> {
    let equal = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    match (first.get(equal), second.get(equal)) {
        (None, None) => None,
        (Some(a), Some(b)) => Some(equal * BITS + 1 + (a ^ b).leading_zeros() as usize),
        _ => Some(equal * BITS),
    }
}

/// The smallest label with the bits of one, which has a 1 at `bit`, up to that.
fn split(label: &[u8], bit: usize) -> Box<[u8]> {
    let mut split: Box<[u8]> = label[..=bit / BITS].into();
    if let Some(last) = split.last_mut() {
        let kept = bit % BITS;
        *last = (u16::from(*last) & (0xff00 >> kept)) as u8;
    }
    split
}

#[cfg(test)]
mod tests;
