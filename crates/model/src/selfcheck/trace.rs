//! Digests of what each operation of a check computes.
use crate::{
    digest::Digest,
    execute::{Observer, Output},
};
use std::{collections::BTreeMap, mem};

/// A digest of every row of every operation of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Place of the text among those of a pass.
    segment: usize,
    /// Per position: (operation, digest), in order of operations.
    positions: BTreeMap<usize, Vec<(usize, u64)>>,
}

impl Trace {
    /// An empty trace of the text at a place of the passes.
    pub(super) fn of(segment: usize) -> Self {
        Self {
            segment,
            ..Self::default()
        }
    }

    /// Adds a row; those of a position come in order of operations.
    pub fn add(&mut self, position: usize, operation: usize, digest: u64) {
        let operations = self.positions.entry(position).or_default();
        operations.push((operation, digest));
    }

    /// Every (position, operation, digest), in this order.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize, u64)> {
        self.positions.iter().flat_map(|(&position, operations)| {
            let operations = operations.iter();
            operations.map(move |&(operation, digest)| (position, operation, digest))
        })
    }

    /// Moves the positions before `end` into a trace of their own.
    pub(super) fn take(&mut self, end: usize) -> Self {
        let later = self.positions.split_off(&end);
        Self {
            segment: self.segment,
            positions: mem::replace(&mut self.positions, later),
        }
    }

    /// The first (position, operation) whose rows differ, of the rows that both have.
    pub(super) fn first_difference(&self, other: &Self) -> Option<(usize, usize)> {
        let positions = self.positions.iter().zip(&other.positions);
        positions
            .into_iter()
            .find_map(|((&position, left), (_, right))| {
                let mut pairs = left.iter().zip(right);
                let (&(operation, _), _) = pairs.find(|(left, right)| left != right)?;
                Some((position, operation))
            })
    }
}

impl Observer for Trace {
    fn observe(&mut self, output: Output<'_>) {
        if output.segment != self.segment {
            return;
        }
        for (position, row) in output.rows() {
            let [a, b, c, d, e, f, g, h, ..] = Digest::of_floats(row).0;
            let digest = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            self.add(position, output.operation, digest);
        }
    }
}
