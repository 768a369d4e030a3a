//! Maps a model file into memory, read-only.
//!
//! # Safety
//! A mapping shows later changes of the file. Model files are content-addressed and are not
//! changed in place; a process that truncates one while it is being opened gets this process
//! killed by the system, as with any mapped file. Weights are packed (copied) when a model is
//! opened, so the mapping lives only that long and the digest is taken of the same mapping.
use memmap2::Mmap;
use std::{fs::File, io, path::Path};

/// Maps the whole file at `path`.
///
/// # Errors
/// Whatever opening or mapping the file gives; an empty file cannot be mapped on every system and
/// may be refused.
#[allow(unsafe_code)]
pub fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is read-only and private to this process; nobody changes model files in
    // place (see the module's Safety section), so the bytes behind the slice stay as they are.
    unsafe { Mmap::map(&file) }
}
