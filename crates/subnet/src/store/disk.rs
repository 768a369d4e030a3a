//! A disk in memory that fails as disks do, for simulations of what runs on real ones.
//!
//! # Design
//! Writes reach a cache and are durable after a sync. [`MemoryDisk::lose_power`] loses what was not synced, but for
//! the sectors that the caller spares: a real disk writes them in any order. Whoever had the disk open before
//! reaches it no more. [`MemoryDisk::fail_at`] makes an operation fail, [`MemoryDisk::flip_bit`] changes what was
//! durable behind everybody's back.
//!
//! # Determinism
//! What is lost or changed is chosen by the caller, in an order that is always the same.
use redb::StorageBackend;
use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    /// Nothing happens.
    Refused,
    /// Of a write, the first half is done; otherwise nothing.
    Short,
}

#[derive(Debug, Default)]
struct Content {
    durable: Vec<u8>,
    cached: Vec<u8>,
    /// Sectors in which the two may differ.
    unsynced: BTreeSet<usize>,
    /// How often power was lost.
    generation: u64,
    operations: u64,
    fault: Option<(u64, DiskFault)>,
}

impl Content {
    /// Counts an operation that changes something; the fault that it meets.
    fn count(&mut self) -> Option<DiskFault> {
        self.operations += 1;
        let (at, fault) = self.fault?;
        if self.operations < at {
            return None;
        }
        self.fault = None;
        Some(fault)
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.cached.len() {
            self.cached.resize(end, 0);
        }
        self.cached[offset..end].copy_from_slice(bytes);
        self.unsynced
            .extend(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
    }

    fn sync(&mut self) {
        self.durable.resize(self.cached.len(), 0);
        for sector in std::mem::take(&mut self.unsynced) {
            self.keep(sector);
        }
    }

    /// Makes a sector durable as it is in the cache.
    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.cached.len());
        if start >= end {
            return;
        }
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.cached[start..end]);
    }
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Content>>);

impl MemoryDisk {
    /// Whether nothing has become durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().durable.is_empty()
    }

    /// What is not synced is lost, but for sectors of which `survives` says so. Who has it open can no longer
    /// change it.
    pub fn lose_power(&self, mut survives: impl FnMut() -> bool) {
        let mut content = self.lock();
        for sector in std::mem::take(&mut content.unsynced) {
            if survives() {
                content.keep(sector);
            }
        }
        content.cached = content.durable.clone();
        content.fault = None;
        content.generation += 1;
    }

    /// Lets the operation fail that comes `count` changing operations from now, 1 being the next.
    pub fn fail_at(&self, count: u64, fault: DiskFault) {
        let mut content = self.lock();
        content.fault = Some((content.operations + count, fault));
    }

    /// Changes a bit of a sector that something was written to; `chosen` says which. Nothing happens on an empty
    /// disk.
    pub fn flip_bit(&self, chosen: u64) {
        let mut content = self.lock();
        let sectors = content.durable.chunks(SECTOR_BYTES).enumerate();
        let written = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
        let written: Vec<usize> = written.map(|(index, _)| index).collect();
        let Some(which) = (chosen >> 16).checked_rem(written.len() as u64) else {
            return;
        };
        let start = written[which as usize] * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(content.durable.len());
        let bit = (chosen & 0xffff) as usize % ((end - start) * 8);
        let (byte, mask) = (start + bit / 8, 1 << (bit % 8));
        content.durable[byte] ^= mask;
        if let Some(cached) = content.cached.get_mut(byte) {
            *cached ^= mask;
        }
    }

    /// Everything durable, on a disk of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        let durable = self.lock().durable.clone();
        Self(Arc::new(Mutex::new(Content {
            cached: durable.clone(),
            durable,
            ..Content::default()
        })))
    }

    /// Takes over everything that another disk has, at once. Who has this one open can no longer change it.
    pub(super) fn replace(&self, other: &Self) {
        let durable = other.lock().durable.clone();
        let mut content = self.lock();
        content.cached.clone_from(&durable);
        content.durable = durable;
        content.unsynced.clear();
        content.generation += 1;
    }

    /// The disk as it is open until power is lost.
    pub(super) fn backend(&self) -> OpenDisk {
        OpenDisk {
            generation: self.lock().generation,
            disk: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`MemoryDisk::backend`].
#[derive(Debug)]
pub(super) struct OpenDisk {
    disk: MemoryDisk,
    generation: u64,
}

impl OpenDisk {
    fn content(&self) -> io::Result<MutexGuard<'_, Content>> {
        let content = self.disk.lock();
        if content.generation == self.generation {
            Ok(content)
        } else {
            Err(io::Error::other("the disk lost power"))
        }
    }
}

impl StorageBackend for OpenDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content()?.cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content()?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start
            .checked_add(out.len())
            .and_then(|end| content.cached.get(start..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.content()?;
        if content.count().is_some() {
            return Err(io::Error::other("the disk refused to change a length"));
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        // What is cut off and grown again is zeros.
        let (from, to) = (content.cached.len().min(len), content.cached.len().max(len));
        content.cached.resize(len, 0);
        content
            .unsynced
            .extend(from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.content()?;
        if content.count().is_some() {
            return Err(io::Error::other("the disk refused to sync"));
        }
        content.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.content()?;
        let fault = content.count();
        let written = match fault {
            None => data,
            Some(DiskFault::Refused) => &[],
            Some(DiskFault::Short) => &data[..data.len() / 2],
        };
        content.write(usize::try_from(offset).map_err(io::Error::other)?, written);
        match fault {
            None => Ok(()),
            Some(_) => Err(io::Error::other("the disk refused to write")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_survives_and_what_is_not_survives_by_sectors() {
        let disk = MemoryDisk::default();
        let open = disk.backend();
        open.write(0, &[1; 2 * SECTOR_BYTES]).unwrap();
        open.sync_data().unwrap();
        open.write(0, &[2; 3 * SECTOR_BYTES]).unwrap();
        let mut number = 0;
        disk.lose_power(|| {
            number += 1;
            number == 2
        });
        assert_eq!(number, 3);
        assert!(open.write(0, &[3]).is_err(), "who had it open is cut off");
        let open = disk.backend();
        let mut found = [0; 2 * SECTOR_BYTES];
        open.read(0, &mut found).unwrap();
        assert_eq!(found[..SECTOR_BYTES], [1; SECTOR_BYTES]);
        assert_eq!(found[SECTOR_BYTES..], [2; SECTOR_BYTES]);
        assert_eq!(open.len().unwrap(), 2 * SECTOR_BYTES as u64);
    }

    #[test]
    fn an_operation_fails_once_when_it_is_told_to() {
        let disk = MemoryDisk::default();
        let open = disk.backend();
        disk.fail_at(2, DiskFault::Short);
        open.write(0, &[1; 4]).unwrap();
        assert!(open.write(0, &[2; 4]).is_err());
        let mut found = [0; 4];
        open.read(0, &mut found).unwrap();
        assert_eq!(found, [2, 2, 1, 1]);
        disk.fail_at(1, DiskFault::Refused);
        assert!(open.sync_data().is_err());
        assert!(disk.is_empty());
        open.sync_data().unwrap();
        assert!(!disk.is_empty());
        let copy = disk.copy();
        disk.flip_bit(9);
        open.read(0, &mut found).unwrap();
        assert_eq!(found, [2, 0, 1, 1]);
        copy.backend().read(0, &mut found).unwrap();
        assert_eq!(found, [2, 2, 1, 1], "a copy is another disk");
    }

    #[test]
    fn a_length_cut_and_grown_again_holds_zeros() {
        let disk = MemoryDisk::default();
        let open = disk.backend();
        open.write(0, &[7; 4]).unwrap();
        open.sync_data().unwrap();
        open.set_len(1).unwrap();
        open.set_len(4).unwrap();
        open.sync_data().unwrap();
        let mut found = [9; 4];
        open.read(0, &mut found).unwrap();
        assert_eq!(found, [7, 0, 0, 0]);
        assert!(open.read(1, &mut found).is_err());
    }
}
