//! Which pages of a private mapping have been touched, and which of those written.
//!
//! # Design
//! A page of a private file mapping that was written is no longer the file's: present or swapped out,
//! and not of a file; one that was only read is present and the file's. Linux tells it by the ioctl
//! `PAGEMAP_SCAN` on `/proc/self/pagemap` (since 6.7, skips what is not mapped) or, on older kernels, by
//! reading the table itself, 8 bytes per page.
use super::LEAF_BYTES;
use rustix::{
    io::Errno,
    ioctl::{self, Ioctl, IoctlOutput, Opcode},
};
use std::{
    ffi::c_void,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

const PATH: &str = "/proc/self/pagemap";
/// Ranges asked for at a time.
const REGIONS: usize = 1024;
/// Entries read at a time where the kernel cannot scan.
const ENTRIES: usize = 64 * 1024;

/// Categories of `PAGEMAP_SCAN`.
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;

/// Bits of a table entry.
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_FILE: u64 = 1 << 61;

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

// SAFETY: the opcode is that of `PAGEMAP_SCAN`, whose argument is a `Scan`, which it changes.
unsafe impl Ioctl for &mut Scan {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ioctl::opcode::read_write::<Scan>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut::<Scan>(self).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<usize> {
        Ok(output as usize)
    }
}

/// Addresses of touched pages, one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Touched {
    pub(super) addresses: Range<usize>,
    pub(super) written: bool,
}

impl Touched {
    /// Those of the addresses that lie in a range, which starts before all of them.
    pub(super) fn within(&self, range: &Range<usize>) -> Option<Range<usize>> {
        let end = self.addresses.end.min(range.end);
        (self.addresses.start < end).then_some(self.addresses.start..end)
    }
}

/// Whether the kernel was found to know no `PAGEMAP_SCAN`.
static CANNOT_SCAN: AtomicBool = AtomicBool::new(false);

/// Whether [`touched`] costs what was touched rather than what is mapped.
pub(super) fn can_scan() -> bool {
    !CANNOT_SCAN.load(Ordering::Relaxed)
}

/// The touched pages of a private file mapping, in order.
///
/// # Errors
/// The system does not tell.
pub(super) fn touched(mapping: Range<usize>) -> io::Result<Vec<Touched>> {
    if can_scan() {
        match scan(mapping.clone()) {
            Err(Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => {
                CANNOT_SCAN.store(true, Ordering::Relaxed);
            }
            ranges => return Ok(ranges?),
        }
    }
    read(mapping)
}

fn table() -> io::Result<&'static File> {
    static TABLE: OnceLock<File> = OnceLock::new();
    match TABLE.get() {
        Some(table) => Ok(table),
        None => {
            let opened = File::open(PATH)?;
            Ok(TABLE.get_or_init(|| opened))
        }
    }
}

pub(super) fn scan(mapping: Range<usize>) -> Result<Vec<Touched>, Errno> {
    let table = table().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let mut found = Vec::new();
    let mut regions = [Region::default(); REGIONS];
    let mut start = mapping.start as u64;
    while start < mapping.end as u64 {
        let mut request = Scan {
            size: size_of::<Scan>() as u64,
            start,
            end: mapping.end as u64,
            vec: regions.as_mut_ptr() as u64,
            vec_len: REGIONS as u64,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            return_mask: IS_FILE,
            ..Scan::default()
        };
        // SAFETY: the kernel reads the table of this process's mappings, and writes the request and as
        // many regions as it says there are.
        let count = unsafe { ioctl::ioctl(table, &mut request) }?;
        for region in &regions[..count] {
            let addresses = region.start as usize..region.end as usize;
            push(&mut found, addresses, region.categories & IS_FILE == 0);
        }
        let last = regions[..count].last().map_or(start, |region| region.end);
        let next = request.walk_end.max(last);
        if next <= start {
            return Err(Errno::IO);
        }
        start = next;
    }
    Ok(found)
}

pub(super) fn read(mapping: Range<usize>) -> io::Result<Vec<Touched>> {
    let table = table()?;
    let mut found = Vec::new();
    let mut entries = vec![0; ENTRIES * 8];
    let last = mapping.end / LEAF_BYTES;
    let mut page = mapping.start / LEAF_BYTES;
    while page < last {
        let count = ENTRIES.min(last - page);
        let entries = &mut entries[..count * 8];
        table.read_exact_at(entries, page as u64 * 8)?;
        for (index, entry) in entries.as_chunks().0.iter().enumerate() {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 {
                let start = (page + index) * LEAF_BYTES;
                push(
                    &mut found,
                    start..start + LEAF_BYTES,
                    entry & ENTRY_FILE == 0,
                );
            }
        }
        page += count;
    }
    Ok(found)
}

/// Adds addresses, joined to those before where they touch and are alike.
fn push(found: &mut Vec<Touched>, addresses: Range<usize>, written: bool) {
    match found.last_mut() {
        Some(last) if last.addresses.end == addresses.start && last.written == written => {
            last.addresses.end = addresses.end;
        }
        _ => found.push(Touched { addresses, written }),
    }
}
