//! A labelled hash tree whose digests are kept, from which certificates are cut.
//!
//! # Design
//! [`Tree`] is the full tree of a state in the Internet Computer's format. Subtrees are shared
//! between heights, so that a block costs what it changes plus the joints above it. A
//! [`ic_certification::HashTree`] is made only for a reader: [`Tree::witness`] keeps the paths that
//! were asked for and prunes the rest, leaving the neighbours of what is absent.
//!
//! # Invariants
//! Labels below one node increase strictly; siblings form a binary tree: balanced, or the radix tree of a
//! `trie::Trie`.
pub mod paths;
pub mod state;
pub(crate) mod trie;
pub(crate) mod witness;

use ic_certification::hash_tree::{HashTree, empty, fork, label, leaf, pruned};
use sha2::{Digest, Sha256};
use std::{ops::Deref, sync::Arc};

/// A path, or what is left of one: labels from the root.
pub type Path = [Vec<u8>];

/// A full hash tree. Clones share it.
#[derive(Debug, Clone)]
pub struct Tree(Arc<Node>);

#[derive(Debug)]
struct Node {
    digest: [u8; 32],
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Empty,
    Leaf(Vec<u8>),
    Labeled(Vec<u8>, Tree),
    /// Two halves, and a label behind those of the left one and not behind those of the right one.
    Fork(Tree, Tree, Vec<u8>),
}

fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([domain.len() as u8]);
    hasher.update(domain);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

impl Tree {
    /// A value.
    #[must_use]
    pub fn leaf(value: impl Into<Vec<u8>>) -> Self {
        let value = value.into();
        Self(Arc::new(Node {
            digest: hash("ic-hashtree-leaf", &[&value]),
            kind: Kind::Leaf(value),
        }))
    }

    /// One label above a tree. Many of them, in order, make a [`Self::directory`].
    #[must_use]
    pub fn labeled(label: impl Into<Vec<u8>>, child: Self) -> Self {
        let label = label.into();
        let digest = hash("ic-hashtree-labeled", &[&label, child.digest()]);
        Self(Arc::new(Node {
            digest,
            kind: Kind::Labeled(label, child),
        }))
    }

    /// Joins labelled trees.
    ///
    /// # Panics
    /// When the labels do not increase strictly, or an entry is not [`Self::labeled`].
    #[must_use]
    pub fn directory(entries: &[Self]) -> Self {
        let labels = || entries.iter().map(Self::own_label);
        assert!(
            labels().zip(labels().skip(1)).all(|(a, b)| a < b),
            "labels of a tree must increase"
        );
        Self::join(entries)
    }

    /// Labels with their children, in any order.
    #[must_use]
    pub fn named<const N: usize>(entries: [(&str, Self); N]) -> Self {
        let mut entries = entries.map(|(name, child)| Self::labeled(name, child));
        entries.sort_by(|a, b| a.own_label().cmp(b.own_label()));
        Self::directory(&entries)
    }

    fn own_label(&self) -> &[u8] {
        match &self.0.kind {
            Kind::Labeled(label, _) => label,
            _ => panic!("an entry of a tree has a label"),
        }
    }

    fn join(entries: &[Self]) -> Self {
        match entries {
            [] => Self(Arc::new(Node {
                digest: hash("ic-hashtree-empty", &[]),
                kind: Kind::Empty,
            })),
            [one] => one.clone(),
            _ => {
                let (left, right) = entries.split_at(entries.len() / 2);
                let split = right[0].own_label().to_vec();
                Self::fork(Self::join(left), Self::join(right), split)
            }
        }
    }

    /// Two halves of a directory and a label that is not behind those of the right one and behind those of the left
    /// one.
    fn fork(left: Self, right: Self, split: Vec<u8>) -> Self {
        Self(Arc::new(Node {
            digest: hash("ic-hashtree-fork", &[left.digest(), right.digest()]),
            kind: Kind::Fork(left, right, split),
        }))
    }

    /// The root hash.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.0.digest
    }

    /// The value at `path`, if there is one.
    #[must_use]
    pub fn value(&self, path: &[&[u8]]) -> Option<&[u8]> {
        match (&self.0.kind, path) {
            (Kind::Leaf(value), []) => Some(value),
            (Kind::Labeled(label, child), [first, rest @ ..]) if label == first => {
                child.value(rest)
            }
            (Kind::Fork(left, right, split), [first, ..]) => {
                if *first < split.as_slice() {
                    left.value(path)
                } else {
                    right.value(path)
                }
            }
            _ => None,
        }
    }

    /// The tree with nothing but `paths`: below the end of a path everything is kept; what a path
    /// asks for in vain is shown to be absent; all else is a hash.
    #[must_use]
    pub fn witness<P: Deref<Target = Path>>(&self, paths: &[P]) -> HashTree<Vec<u8>> {
        let mut wanted: Vec<&Path> = paths.iter().map(Deref::deref).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.cut(&wanted)
    }

    /// `wanted` is sorted; none of it lies outside this subtree's range of labels, except to show
    /// a neighbour.
    fn cut(&self, wanted: &[&Path]) -> HashTree<Vec<u8>> {
        if wanted.is_empty() {
            return pruned(*self.digest());
        }
        let whole = wanted[0].is_empty();
        match &self.0.kind {
            Kind::Empty => empty(),
            Kind::Leaf(value) => leaf(value.clone()),
            Kind::Labeled(name, child) if whole => label(name.clone(), child.cut(wanted)),
            Kind::Labeled(name, child) => {
                let below: Vec<&Path> = wanted
                    .iter()
                    .filter(|path| path[0] == *name)
                    .map(|path| &path[1..])
                    .collect();
                label(name.clone(), child.cut(&below))
            }
            Kind::Fork(left, right, _) if whole => fork(left.cut(wanted), right.cut(wanted)),
            Kind::Fork(left, right, _) => {
                let (last, next) = (left.last_label(), right.first_label());
                let (mut to_left, mut to_right) = (Vec::new(), Vec::new());
                for path in wanted {
                    let first = path[0].as_slice();
                    // A label that falls between the halves is absent from both: each shows its
                    // outermost label as evidence.
                    if first < next {
                        to_left.push(*path);
                    }
                    if first > last {
                        to_right.push(*path);
                    }
                }
                fork(left.cut(&to_left), right.cut(&to_right))
            }
        }
    }

    fn first_label(&self) -> &[u8] {
        match &self.0.kind {
            Kind::Labeled(label, _) => label,
            Kind::Fork(left, _, _) => left.first_label(),
            Kind::Empty | Kind::Leaf(_) => &[],
        }
    }

    fn last_label(&self) -> &[u8] {
        match &self.0.kind {
            Kind::Labeled(label, _) => label,
            Kind::Fork(_, right, _) => right.last_label(),
            Kind::Empty | Kind::Leaf(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests;
