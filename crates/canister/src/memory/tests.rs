use super::*;
use crate::stable::{StableError, StableMemory};
use proptest::prelude::*;
use std::collections::BTreeMap;

const LAST_PAGE: u64 = STABLE_PAGES_MAX - 1;

/// A stable memory as bytes by address.
#[derive(Clone, Default)]
struct Model {
    size_pages: u64,
    bytes: BTreeMap<u64, u8>,
}

impl Model {
    fn write(&mut self, offset: u64, source: &[u8]) -> Result<(), StableError> {
        self.check(offset, source.len())?;
        for (address, byte) in (offset..).zip(source) {
            match byte {
                0 => self.bytes.remove(&address),
                byte => self.bytes.insert(address, *byte),
            };
        }
        Ok(())
    }

    fn read(&self, offset: u64, target: &mut [u8]) -> Result<(), StableError> {
        self.check(offset, target.len())?;
        for (address, byte) in (offset..).zip(target) {
            *byte = self.bytes.get(&address).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn check(&self, offset: u64, size: usize) -> Result<(), StableError> {
        let end = u128::from(offset) + size as u128;
        match end <= u128::from(self.size_pages) * PAGE_BYTES as u128 {
            true => Ok(()),
            false => Err(StableError::OutOfBounds),
        }
    }

    /// Its leaves that are not zeros.
    fn leaves(&self) -> BTreeMap<u64, Box<[u8]>> {
        let mut leaves = BTreeMap::new();
        for (address, byte) in &self.bytes {
            let leaf = leaves
                .entry(address / LEAF_BYTES as u64)
                .or_insert_with(|| vec![0; LEAF_BYTES].into_boxed_slice());
            leaf[*address as usize % LEAF_BYTES] = *byte;
        }
        leaves
    }

    /// The memory with these contents and no history.
    fn direct(&self) -> PagedMemory {
        PagedMemory::from_blocks(self.size_pages, self.leaves().into_iter().rev().collect())
    }

    /// The digest by its definition, from the leaves up.
    fn digest(&self) -> [u8; 32] {
        let mut level: BTreeMap<u64, [u8; 32]> = self
            .leaves()
            .iter()
            .map(|(index, bytes)| (*index, *blake3::hash(bytes).as_bytes()))
            .collect();
        for _ in 0..7 {
            let mut above: BTreeMap<u64, (u16, Vec<u8>)> = BTreeMap::new();
            for (index, digest) in level {
                let (present, digests) = above.entry(index / 16).or_default();
                *present |= 1 << (index % 16);
                digests.extend(digest);
            }
            level = above
                .into_iter()
                .map(|(index, (present, digests))| {
                    let encoded = [&present.to_le_bytes(), digests.as_slice()].concat();
                    (index, *blake3::hash(&encoded).as_bytes())
                })
                .collect();
        }
        let root = level.get(&0).map_or(&[][..], |root| root);
        *blake3::hash(&[&self.size_pages.to_le_bytes(), root].concat()).as_bytes()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Grow(u64),
    Write(u64, Vec<u8>),
    Read(u64, usize),
    /// Ends the message, which is applied or dropped.
    Finish(bool),
    /// What tasks of a fork would read.
    Snapshot,
}

fn offset() -> impl Strategy<Value = u64> {
    let near = prop_oneof![
        Just(0),
        Just(LEAF_BYTES as u64),
        Just(16 * LEAF_BYTES as u64),
        Just(4 << 30),
        Just(64 << 30),
        Just(LAST_PAGE * PAGE_BYTES as u64 + PAGE_BYTES as u64),
        any::<u64>(),
    ];
    (near, -9000_i64..9000).prop_map(|(near, distance)| near.saturating_add_signed(distance))
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..20),
        (any::<u8>(), 0_usize..9000).prop_map(|(byte, size)| vec![byte; size]),
        (0_usize..9000).prop_map(|size| vec![0; size]),
    ];
    prop_oneof![
        1 => prop_oneof![0_u64..4, Just(1 << 20), Just(LAST_PAGE), any::<u64>()].prop_map(Step::Grow),
        6 => (offset(), bytes).prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
        2 => (offset(), 0_usize..9000).prop_map(|(offset, size)| Step::Read(offset, size)),
        1 => any::<bool>().prop_map(Step::Finish),
        1 => Just(Step::Snapshot),
    ]
}

fn assert_same(memory: &PagedMemory, model: &Model) {
    let direct = model.direct();
    assert_eq!(*memory, direct);
    assert_eq!(memory.digest(), model.digest());
    assert_eq!(direct.digest(), model.digest());
    let leaves: Vec<u64> = model.leaves().into_keys().collect();
    let present = memory.changed(&PagedMemory::default());
    assert!(present.iter().eq(&leaves));
    for (index, bytes) in model.leaves() {
        assert_eq!(memory.block(index).as_deref(), Some(&*bytes));
    }
}

proptest! {
    #[test]
    fn it_is_a_plain_memory(
        start in prop_oneof![Just(0), Just(3), Just(1 << 20), Just(STABLE_PAGES_MAX)],
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut model = Model { size_pages: start, ..Model::default() };
        let mut memory = PagedMemory::from_blocks(start, Vec::new());
        let mut committed = model.clone();
        let mut view = StableMemory::new(&memory, u64::MAX);
        let mut versions = Vec::new();
        for step in steps {
            match step {
                Step::Grow(pages) => {
                    let grown = model.size_pages.checked_add(pages).filter(|new| *new <= STABLE_PAGES_MAX);
                    prop_assert_eq!(view.grow(pages), grown.map(|_| model.size_pages));
                    model.size_pages = grown.unwrap_or(model.size_pages);
                }
                Step::Write(offset, bytes) => {
                    let written = view.write(offset, &bytes);
                    prop_assert_eq!(written.map(drop), model.write(offset, &bytes));
                }
                Step::Read(offset, size) => {
                    let (mut bytes, mut expected) = (vec![7; size], vec![7; size]);
                    prop_assert_eq!(view.read(offset, &mut bytes), model.read(offset, &mut expected));
                    prop_assert_eq!(bytes, expected);
                }
                Step::Snapshot => versions.push((view.snapshot(), model.clone())),
                Step::Finish(applied) => {
                    let finished = view.snapshot();
                    assert_same(&finished, &model);
                    if applied {
                        versions.push((memory, committed));
                        (memory, committed) = (finished, model.clone());
                    } else {
                        model = committed.clone();
                    }
                    view = StableMemory::new(&memory, u64::MAX);
                }
            }
            prop_assert_eq!(view.size_pages(), model.size_pages);
        }
        versions.push((view.snapshot(), model));
        versions.push((memory, committed));
        for (version, model) in &versions {
            assert_same(version, model);
        }
        for (one, model) in &versions {
            for (other, others) in &versions {
                let (leaves, other_leaves) = (model.leaves(), others.leaves());
                let differs = |index: &u64| leaves.get(index) != other_leaves.get(index);
                let all = leaves.keys().chain(other_leaves.keys()).copied();
                prop_assert_eq!(one.changed(other), all.filter(differs).collect());
            }
        }
    }
}

#[test]
fn versions_share_what_did_not_change() {
    let blocks = (0..100).map(|index| (index * 1000, vec![7; LEAF_BYTES].into_boxed_slice()));
    let old = PagedMemory::from_blocks(STABLE_PAGES_MAX, blocks.collect());
    let mut view = StableMemory::new(&old, u64::MAX);
    let at = 42_000 * LEAF_BYTES as u64;
    assert_eq!(view.write(at, &[8]), Ok(1));
    assert_eq!(view.write(at + 1, &[8]), Ok(0));
    // Neither what is already there nor zeros where there is nothing are changes.
    assert_eq!(view.write(0, &[7; 50]), Ok(1));
    assert_eq!(view.write(5 * LEAF_BYTES as u64, &[0; 50]), Ok(1));
    let new = view.snapshot();
    assert_eq!(new.changed(&old), BTreeSet::from([42_000]));
    let shared = |index| match (new.leaf(index), old.leaf(index)) {
        (Some(new), Some(old)) => Arc::ptr_eq(new, old),
        _ => false,
    };
    let indices = (0..100).map(|index| index * 1000);
    assert!(indices.filter(|index| !shared(*index)).eq([42_000]));
    assert!(new.block(5).is_none());
}

#[test]
fn a_write_of_zeros_undoes_a_write() {
    let mut view = StableMemory::new(&PagedMemory::default(), u64::MAX);
    assert_eq!(view.grow(STABLE_PAGES_MAX), Some(0));
    let empty = view.snapshot();
    let last = STABLE_PAGES_MAX * PAGE_BYTES as u64 - 1;
    assert_eq!(view.write(last, &[1]), Ok(1));
    let written = view.snapshot();
    assert_ne!(written.digest(), empty.digest());
    assert_ne!(written, empty);
    assert_eq!(view.write(last, &[0]), Ok(1));
    let undone = view.snapshot();
    assert_eq!(undone.digest(), empty.digest());
    assert_eq!(undone, empty);
    assert_ne!(empty.digest(), PagedMemory::default().digest());
}

#[test]
fn pieces_are_what_the_digest_is_made_of() {
    fn check<M: Paged>(blocks: &[u64]) {
        let block = |seed: u64| vec![(seed % 255) as u8 + 1; M::BLOCK_BYTES].into_boxed_slice();
        let contents = blocks.iter().map(|index| (*index, block(*index)));
        let memory = M::from_blocks(M::PAGES_MAX, contents.collect());
        let per_piece = (PIECE_BYTES / M::BLOCK_BYTES) as u64;
        let mut expected = BTreeMap::new();
        for index in blocks {
            let piece = expected
                .entry(index / per_piece)
                .or_insert_with(|| vec![0; PIECE_BYTES]);
            let start = (index % per_piece) as usize * M::BLOCK_BYTES;
            piece[start..start + M::BLOCK_BYTES].copy_from_slice(&block(*index));
        }
        let expected = expected.into_iter();
        let expected: Vec<_> = expected
            .map(|(index, bytes)| (index, M::piece_digest(&bytes)))
            .collect();
        assert_eq!(memory.pieces(), expected);
    }
    check::<PagedMemory>(&[]);
    check::<PagedMemory>(&[0, 5, 255, 256, 70_000, STABLE_PAGES_MAX * 16 - 1]);
    check::<Heap>(&[]);
    check::<Heap>(&[0, 15, 16, 98_303]);
}
