//! A heap's versions, one of which lies whole in a file in memory.
//!
//! # Design
//! Version n differs from version n - 1 by a *delta*: some leaves and their bytes. The file holds the
//! *base*; deltas behind it say what later versions have there (redo), deltas up to it what earlier
//! ones had (undo). Moving the base by one version exchanges the delta's bytes with the file's. It
//! moves only while nobody maps the file, so that a mapping never changes under its reader. What no
//! living version needs is dropped.
//!
//! # Invariants
//! A leaf beyond the size of a version is zeros in that version.
use super::{
    LEAF_BYTES, Leaf,
    bytes::LeafBytes,
    mapping::Mapping,
    tree::{Tree, leaf_digest},
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io,
    ops::Bound,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A version's number in its image.
pub(super) type Number = u64;

/// What an image's lock guards.
#[derive(Default)]
pub(super) struct Versions {
    base: Number,
    newest: Number,
    /// By the later of the two versions; the earlier one is that of the entry before, or a living one. Two
    /// steps become one when nobody has the version between them.
    deltas: BTreeMap<Number, Delta>,
    live: BTreeSet<Number>,
    /// Views of the file.
    readers: usize,
    mapping: Mapping,
    /// Of the newest version, but for the stale leaves.
    tree: Tree,
    stale: BTreeSet<Leaf>,
}

/// Leaves with their bytes.
#[derive(Default)]
pub(super) struct Delta {
    leaves: BTreeMap<Leaf, LeafBytes>,
}

impl fmt::Debug for Delta {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Delta({} leaves)", self.leaves.len())
    }
}

impl Delta {
    pub(super) fn insert(&mut self, leaf: Leaf, bytes: &[u8; LEAF_BYTES]) {
        self.leaves.insert(leaf, LeafBytes::from(bytes));
    }

    pub(super) fn get(&self, leaf: Leaf) -> Option<&[u8; LEAF_BYTES]> {
        self.leaves.get(&leaf).map(|bytes| &**bytes)
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = Leaf> {
        self.leaves.keys().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Leaf, &[u8; LEAF_BYTES])> {
        self.leaves.iter().map(|(leaf, bytes)| (*leaf, &**bytes))
    }

    /// All leaves of both; where both have one, that of `first`. Costs what the smaller one has.
    fn merge(first: Self, second: Self) -> Self {
        let (mut first, mut second) = (first.leaves, second.leaves);
        let leaves = if first.len() >= second.len() {
            for (leaf, bytes) in second {
                first.entry(leaf).or_insert(bytes);
            }
            first
        } else {
            second.append(&mut first);
            second
        };
        Self { leaves }
    }
}

/// The file and the versions.
pub(super) struct Image {
    file: File,
    versions: Mutex<Versions>,
}

impl fmt::Debug for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = self.lock();
        formatter
            .debug_struct("Image")
            .field("base", &versions.base)
            .field("newest", &versions.newest)
            .field("live", &versions.live)
            .field("readers", &versions.readers)
            .finish_non_exhaustive()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Idle mappings of the file may be left, which would keep its memory.
        let emptied = ftruncate(&self.file, 0);
        debug_assert!(emptied.is_ok(), "{emptied:?}");
    }
}

impl Image {
    /// An image of `capacity` bytes whose only version, of zeros but for some leaves, is number 0.
    pub(super) fn new(
        capacity: u64,
        leaves: impl Iterator<Item = (Leaf, impl AsRef<[u8]>)>,
    ) -> io::Result<Self> {
        let file = File::from(memfd_create("lockstep heap", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, capacity)?;
        let mut versions = Versions {
            live: BTreeSet::from([0]),
            ..Versions::default()
        };
        for (leaf, bytes) in leaves {
            file.write_all_at(bytes.as_ref(), offset(leaf))?;
            versions.stale.insert(leaf);
        }
        Ok(Self {
            file,
            versions: Mutex::new(versions),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Versions> {
        // Nothing panics halfway through a change but by the memory of this machine failing, which ends
        // the replica.
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a view of `version`, and writes what differs there from the file, or is stale in the view. The
    /// base moves to the version if there is no other view and no later version lives.
    pub(super) fn enter(
        &self,
        version: Number,
        stale: &[Leaf],
        mut write: impl FnMut(Leaf, &[u8; LEAF_BYTES]),
    ) -> io::Result<()> {
        let mut versions = self.lock();
        if versions.readers == 0 && versions.rewind(&self.file, version)? {
            versions.move_base(&self.file, version)?;
        }
        for &leaf in stale {
            write(leaf, versions.content(&self.file, version, leaf)?);
        }
        for (leaf, bytes) in versions.patches(version) {
            write(leaf, bytes);
        }
        versions.readers += 1;
        Ok(())
    }

    /// Moves the base to the newest version, if nobody maps the file but the instance that has made it from
    /// the version it maps.
    pub(super) fn advance(&self, version: Number) -> io::Result<()> {
        let mut versions = self.lock();
        if versions.readers == 1 && versions.newest == version {
            versions.move_base(&self.file, version)?;
        }
        Ok(())
    }

    /// Ends what [`Self::enter`] began.
    pub(super) fn leave(&self) {
        self.lock().readers -= 1;
    }

    /// A leaf's bytes at a living version.
    pub(super) fn read_leaf(
        &self,
        version: Number,
        leaf: Leaf,
        bytes: &mut [u8; LEAF_BYTES],
    ) -> io::Result<()> {
        self.lock().read_leaf(&self.file, version, leaf, bytes)
    }

    /// Those of the leaves that are not as in a living version.
    pub(super) fn differences<'a>(
        &self,
        version: Number,
        leaves: impl Iterator<Item = (Leaf, &'a [u8; LEAF_BYTES])>,
    ) -> io::Result<Delta> {
        let mut versions = self.lock();
        let mut delta = Delta::default();
        for (leaf, bytes) in leaves {
            if versions.content(&self.file, version, leaf)? != bytes {
                delta.insert(leaf, bytes);
            }
        }
        Ok(delta)
    }

    /// How many of the leaves are not as in a living version.
    pub(super) fn count_differences<'a>(
        &self,
        version: Number,
        leaves: impl Iterator<Item = (Leaf, &'a [u8; LEAF_BYTES])>,
    ) -> io::Result<u64> {
        let mut versions = self.lock();
        let mut count = 0;
        for (leaf, bytes) in leaves {
            count += u64::from(versions.content(&self.file, version, leaf)? != bytes);
        }
        Ok(count)
    }

    /// The leaves that may differ between two living versions.
    pub(super) fn changed(&self, first: Number, second: Number) -> BTreeSet<Leaf> {
        let (earlier, later) = (first.min(second), first.max(second));
        let versions = self.lock();
        let between = versions.deltas.range(steps(earlier, later));
        between.flat_map(|(_, delta)| delta.leaves()).collect()
    }

    /// An image of its own whose only version is a living one of this, of `size` bytes.
    pub(super) fn branch(&self, capacity: u64, version: Number, size: u64) -> io::Result<Self> {
        let versions = self.lock();
        let mut delta = Delta::default();
        let mut bytes = [0; LEAF_BYTES];
        for leaf in 0..(size / LEAF_BYTES as u64) as Leaf {
            versions.read_leaf(&self.file, version, leaf, &mut bytes)?;
            if bytes != [0; LEAF_BYTES] {
                delta.insert(leaf, &bytes);
            }
        }
        Self::new(capacity, delta.iter())
    }

    /// What the tree over a living version says.
    pub(super) fn tree<T>(&self, version: Number, read: impl FnOnce(&Tree) -> T) -> io::Result<T> {
        let mut versions = self.lock();
        if version == versions.newest {
            let stale = std::mem::take(&mut versions.stale);
            let mut tree = std::mem::take(&mut versions.tree);
            let digests = versions.digests(&self.file, version, &stale);
            if let Ok(digests) = &digests {
                tree.update(digests.iter().copied());
            } else {
                versions.stale = stale;
            }
            versions.tree = tree;
            digests?;
            return Ok(read(&versions.tree));
        }
        let mut stale = versions.stale.clone();
        let later = versions.deltas.range(steps(version, versions.newest));
        stale.extend(later.flat_map(|(_, delta)| delta.leaves()));
        let mut tree = versions.tree.clone();
        tree.update(versions.digests(&self.file, version, &stale)?.into_iter());
        Ok(read(&tree))
    }

    /// A new version that differs from the living `version` by `delta`; gives the delta back when a
    /// living version is in the way.
    pub(super) fn append(
        &self,
        version: Number,
        delta: Delta,
    ) -> io::Result<Result<Number, Delta>> {
        let mut versions = self.lock();
        if !versions.rewind(&self.file, version)? {
            return Ok(Err(delta));
        }
        versions.newest += 1;
        let number = versions.newest;
        versions.stale.extend(delta.leaves());
        versions.deltas.insert(number, delta);
        versions.live.insert(number);
        Ok(Ok(number))
    }

    /// Forgets a version that nobody has any more.
    pub(super) fn release(&self, version: Number) {
        let mut versions = self.lock();
        versions.live.remove(&version);
        versions.prune();
        versions.join();
    }
}

impl Versions {
    fn read_leaf(
        &self,
        file: &File,
        version: Number,
        leaf: Leaf,
        bytes: &mut [u8; LEAF_BYTES],
    ) -> io::Result<()> {
        match self.step(version, leaf) {
            Some(found) => {
                *bytes = *found;
                Ok(())
            }
            None => file.read_exact_at(bytes, offset(leaf)),
        }
    }

    /// The step that says what a version has at a leaf, if not the file.
    fn step(&self, version: Number, leaf: Leaf) -> Option<&[u8; LEAF_BYTES]> {
        if version < self.base {
            let mut undo = self.deltas.range(steps(version, self.base));
            undo.find_map(|(_, delta)| delta.get(leaf))
        } else {
            let mut redo = self.deltas.range(steps(self.base, version)).rev();
            redo.find_map(|(_, delta)| delta.get(leaf))
        }
    }

    /// A leaf's bytes at a version.
    fn content(
        &mut self,
        file: &File,
        version: Number,
        leaf: Leaf,
    ) -> io::Result<&[u8; LEAF_BYTES]> {
        self.mapping.reach(file, leaf)?;
        Ok(self
            .step(version, leaf)
            .unwrap_or_else(|| self.mapping.leaf(leaf)))
    }

    /// What differs between the file and a version.
    fn patches(&self, version: Number) -> BTreeMap<Leaf, &[u8; LEAF_BYTES]> {
        let mut patches = BTreeMap::new();
        if version < self.base {
            for (_, delta) in self.deltas.range(steps(version, self.base)).rev() {
                patches.extend(delta.iter());
            }
        } else {
            for (_, delta) in self.deltas.range(steps(self.base, version)) {
                patches.extend(delta.iter());
            }
        }
        patches
    }

    fn digests(
        &mut self,
        file: &File,
        version: Number,
        leaves: &BTreeSet<Leaf>,
    ) -> io::Result<Vec<(Leaf, [u8; 32])>> {
        leaves
            .iter()
            .map(|&leaf| Ok((leaf, leaf_digest(self.content(file, version, leaf)?))))
            .collect()
    }

    /// Makes `version` the newest, dropping later ones; false when one of them lives or the file cannot
    /// be changed.
    fn rewind(&mut self, file: &File, version: Number) -> io::Result<bool> {
        if self.live.range(version + 1..).next().is_some() {
            return Ok(false);
        }
        if self.base > version {
            if self.readers > 0 {
                return Ok(false);
            }
            self.move_base(file, version)?;
        }
        for (_, delta) in self.deltas.split_off(&(version + 1)) {
            self.stale.extend(delta.leaves());
        }
        self.newest = version;
        Ok(true)
    }

    /// Exchanges deltas with the file until it holds `version`. Nobody maps it.
    fn move_base(&mut self, file: &File, version: Number) -> io::Result<()> {
        let steps: Vec<_> = if self.base < version {
            let redo = self.deltas.range(steps(self.base, version));
            redo.map(|(number, _)| *number).collect()
        } else {
            let undo = self.deltas.range(steps(version, self.base));
            undo.rev().map(|(number, _)| *number).collect()
        };
        let forward = self.base < version;
        for step in steps {
            // Nobody looks back behind the oldest living version.
            let keeps = !forward || self.live.range(..step).next().is_some();
            let mut delta = self.deltas.remove(&step).unwrap_or_default();
            for (&leaf, bytes) in &mut delta.leaves {
                self.mapping.reach(file, leaf)?;
                let place = self.mapping.leaf_mut(leaf);
                if keeps {
                    place.swap_with_slice(&mut **bytes);
                } else {
                    *place = **bytes;
                }
            }
            if keeps {
                self.deltas.insert(step, delta);
            }
        }
        self.base = version;
        Ok(())
    }

    /// Drops what no living version needs.
    fn prune(&mut self) {
        let oldest = self.live.first().copied().unwrap_or(self.base);
        let latest = self.live.last().copied().unwrap_or(self.base);
        // Undo for versions before the oldest, redo for versions behind the latest.
        self.deltas = self.deltas.split_off(&(oldest.min(self.base) + 1));
        for (_, delta) in self.deltas.split_off(&(latest.max(self.base) + 1)) {
            self.stale.extend(delta.leaves());
        }
        self.newest = latest.max(self.base);
    }

    /// Joins the steps that meet at a version nobody has any more. Where that is the file's, one undoes and
    /// the other redoes: it is joined when the base has moved on.
    fn join(&mut self) {
        let dead = |number: &Number| *number != self.base && !self.live.contains(number);
        let dead: Vec<_> = self.deltas.keys().copied().filter(dead).collect();
        for number in dead {
            self.join_at(number);
        }
    }

    fn join_at(&mut self, dead: Number) {
        let Some(next) = self.deltas.range(dead + 1..).next() else {
            return;
        };
        let next = *next.0;
        let earlier = self.deltas.remove(&dead).unwrap_or_default();
        let later = self.deltas.remove(&next).unwrap_or_default();
        let joined = if next <= self.base {
            Delta::merge(earlier, later)
        } else {
            Delta::merge(later, earlier)
        };
        self.deltas.insert(next, joined);
    }
}

/// The deltas on the way from a version to one that is not earlier.
fn steps(from: Number, to: Number) -> (Bound<Number>, Bound<Number>) {
    (Bound::Excluded(from), Bound::Included(to))
}

fn offset(leaf: Leaf) -> u64 {
    u64::from(leaf) * LEAF_BYTES as u64
}
