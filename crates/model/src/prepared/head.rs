//! The head of a prepared file.
use super::PreparedError;
use crate::{
    digest::Digest,
    gguf::{GgufError, cursor::Cursor},
};
use lockstep_numeric::PACKED_LAYOUT_VERSION;
use std::{collections::BTreeMap, ops::Range};

/// Version of the format of prepared files.
pub const FORMAT_VERSION: u32 = 1;

pub(super) const MAGIC: &[u8; 8] = b"LSPACKED";
/// Where the head's own digest stands.
pub(super) const SEAL: Range<usize> = 64..96;
/// Bytes of the shortest entry of a tensor.
const ENTRY_BYTES_MIN: u64 = 8 + 8 + 8 + 32;

/// A tensor's place in the file and the digest of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) place: Range<usize>,
    pub(super) digest: Digest,
}

/// What the head says.
#[derive(Clone, Debug)]
pub(super) struct Head<'a> {
    /// Its own bytes.
    pub(super) bytes: usize,
    /// BLAKE3 of the GGUF files.
    pub(super) source: Digest,
    /// What stands before the tensors in each GGUF file, and that file's bytes.
    pub(super) parts: Vec<(&'a [u8], usize)>,
    pub(super) tensors: BTreeMap<&'a str, Entry>,
}

/// The digest that a head has to say.
pub(super) fn seal(head: &[u8]) -> Digest {
    Digest::of_parts(&[&head[..SEAL.start], &head[SEAL.end..]])
}

impl<'a> Head<'a> {
    /// Reads and checks the head of a whole file.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, PreparedError> {
        if !file.starts_with(MAGIC) {
            let found = file[..file.len().min(MAGIC.len())].to_vec();
            return Err(PreparedError::WrongMagic { found });
        }
        let mut cursor = Cursor::new(file);
        cursor.take(MAGIC.len() as u64)?;
        let (format, layout) = (cursor.u32()?, cursor.u32()?);
        if (format, layout) != (FORMAT_VERSION, PACKED_LAYOUT_VERSION) {
            return Err(PreparedError::Version { format, layout });
        }
        let (head_bytes, file_bytes) = (cursor.u64()?, cursor.u64()?);
        if file_bytes != file.len() as u64 {
            return Err(PreparedError::Size {
                wanted: file_bytes,
                found: file.len(),
            });
        }
        let bytes = usize::try_from(head_bytes).ok();
        let head = bytes.and_then(|bytes| file.get(..bytes));
        let head = head.filter(|head| head.len() >= SEAL.end);
        let head = head.ok_or(GgufError::Truncated {
            offset: 0,
            needed: head_bytes.max(SEAL.end as u64),
            available: file_bytes,
        })?;
        let source = digest(&mut cursor)?;
        let (wanted, found) = (digest(&mut cursor)?, seal(head));
        if wanted != found {
            return Err(PreparedError::HeadDigest { wanted, found });
        }
        let mut cursor = Cursor::new(head);
        cursor.take(SEAL.end as u64)?;
        let (part_count, tensor_count) = (cursor.u32()?, cursor.u32()?);
        cursor.expect(part_count.into(), 16)?;
        let lengths = (0..part_count)
            .map(|_| Ok((cursor.u64()?, cursor.u64()?)))
            .collect::<Result<Vec<_>, GgufError>>()?;
        cursor.expect(tensor_count.into(), ENTRY_BYTES_MIN)?;
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = cursor.string()?;
            let (offset, length) = (cursor.u64()?, cursor.u64()?);
            let digest = digest(&mut cursor)?;
            let place = place(offset, length, file.len());
            let misplaced = || PreparedError::Place {
                tensor: name.to_owned(),
            };
            let place = place.ok_or_else(misplaced)?;
            if tensors.insert(name, Entry { place, digest }).is_some() {
                return Err(misplaced());
            }
        }
        let part = |(whole, head): (u64, u64)| {
            let bytes = cursor.take(head)?;
            let whole = usize::try_from(whole)
                .ok()
                .filter(|whole| *whole >= bytes.len());
            let whole = whole.ok_or(GgufError::Truncated {
                offset: 0,
                needed: head,
                available: 0,
            })?;
            Ok((bytes, whole))
        };
        let parts = lengths.into_iter().map(part);
        let parts = parts.collect::<Result<Vec<_>, GgufError>>()?;
        if parts.is_empty() {
            return Err(GgufError::WrongMagic { found: Vec::new() }.into());
        }
        Ok(Self {
            bytes: head.len(),
            source,
            parts,
            tensors,
        })
    }
}

fn digest(cursor: &mut Cursor<'_>) -> Result<Digest, GgufError> {
    let mut digest = Digest::default();
    digest.0.copy_from_slice(cursor.take(32)?);
    Ok(digest)
}

fn place(offset: u64, length: u64, file_bytes: usize) -> Option<Range<usize>> {
    let end = offset.checked_add(length)?;
    let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
    (end <= file_bytes).then_some(start..end)
}
