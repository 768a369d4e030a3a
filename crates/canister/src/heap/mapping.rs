//! A file in memory as leaves that can be changed in place.
use super::{LEAF_BYTES, Leaf};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{fs::File, io, ptr::NonNull};

/// Leaves mapped at first; twice as many whenever one lies behind.
const LEAVES_MIN: usize = 256;

/// The first leaves of a file, shared with all who map it.
#[derive(Default)]
pub(super) struct Mapping {
    start: Option<NonNull<[u8; LEAF_BYTES]>>,
    leaves: usize,
}

// SAFETY: the mapping belongs to this value; access is through references to it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `file` as far as `leaf`, which lies in it.
    pub(super) fn reach(&mut self, file: &File, leaf: Leaf) -> io::Result<()> {
        let wanted = leaf as usize + 1;
        if wanted <= self.leaves {
            return Ok(());
        }
        let in_file = file.metadata()?.len() as usize / LEAF_BYTES;
        let leaves = wanted.next_power_of_two().max(LEAVES_MIN).min(in_file);
        // SAFETY: new addresses. Other mappings of the file are private to instances, which do not run
        // while the leaves they see change.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                leaves * LEAF_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file,
                0,
            )
        }?;
        *self = Self {
            start: Some(NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?),
            leaves,
        };
        Ok(())
    }

    /// A leaf that was reached. Reading one that was never written makes it take memory.
    pub(super) fn leaf(&self, leaf: Leaf) -> &[u8; LEAF_BYTES] {
        // SAFETY: mapped, and changed through `leaf_mut` alone.
        unsafe { self.at(leaf).as_ref() }
    }

    pub(super) fn leaf_mut(&mut self, leaf: Leaf) -> &mut [u8; LEAF_BYTES] {
        // SAFETY: mapped, and borrowed by nobody else in this process.
        unsafe { self.at(leaf).as_mut() }
    }

    fn at(&self, leaf: Leaf) -> NonNull<[u8; LEAF_BYTES]> {
        assert!((leaf as usize) < self.leaves, "leaf not reached: {leaf}");
        let start = self.start.expect("leaves are mapped");
        // SAFETY: within the mapping.
        unsafe { start.add(leaf as usize) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: the whole mapping, to which no reference is left.
            let unmapped = unsafe { munmap(start.as_ptr().cast(), self.leaves * LEAF_BYTES) };
            debug_assert!(unmapped.is_ok(), "{unmapped:?}");
        }
    }
}
