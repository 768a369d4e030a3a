//! A piece of a memory as it is sent: without its pages of zeros.
//!
//! # Encoding
//! 32 bytes whose bit i, from the lowest of the first byte on, says whether page i of 4 KiB has anything but zeros;
//! then those pages. A piece has one encoding.
use lockstep_canister::memory::{PIECE_BYTES, Paged};

/// Bytes of the pages.
pub(crate) const PAGE_BYTES: usize = 4096;
const PAGES: usize = PIECE_BYTES / PAGE_BYTES;
const HEADER_BYTES: usize = PAGES / 8;
/// Bytes of an encoded piece at most.
pub(super) const ENCODED_BYTES_MAX: usize = HEADER_BYTES + PIECE_BYTES;

/// The bytes of a piece.
pub(super) fn read<M: Paged>(memory: &M, index: u64) -> Vec<u8> {
    let mut piece = vec![0; PIECE_BYTES];
    let first = index * (PIECE_BYTES / M::BLOCK_BYTES) as u64;
    for (block, place) in (first..).zip(piece.chunks_exact_mut(M::BLOCK_BYTES)) {
        if let Some(bytes) = memory.block(block) {
            place.copy_from_slice(&bytes);
        }
    }
    piece
}

pub(super) fn encode(piece: &[u8]) -> Vec<u8> {
    let mut encoded = vec![0; HEADER_BYTES];
    for (index, page) in piece.chunks_exact(PAGE_BYTES).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            encoded[index / 8] |= 1 << (index % 8);
            encoded.extend(page);
        }
    }
    encoded
}

/// The bytes of an encoded piece; `None` when it is none.
pub(super) fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
    let (header, pages) = encoded.split_at_checked(HEADER_BYTES)?;
    let is_set = |index: &usize| header[index / 8] >> (index % 8) & 1 == 1;
    let set: Vec<usize> = (0..PAGES).filter(is_set).collect();
    if pages.len() != set.len() * PAGE_BYTES {
        return None;
    }
    let mut piece = vec![0; PIECE_BYTES];
    for (index, page) in set.into_iter().zip(pages.chunks_exact(PAGE_BYTES)) {
        piece[index * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(page);
    }
    Some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_piece_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            if let Some(piece) = decode(&bytes) {
                prop_assert_eq!(piece.len(), PIECE_BYTES);
            }
        }

        #[test]
        fn a_piece_comes_back(pages in proptest::collection::btree_map(0..PAGES, 1_u8.., 0..20)) {
            let mut piece = vec![0; PIECE_BYTES];
            for (index, byte) in &pages {
                piece[index * PAGE_BYTES + usize::from(*byte)] = *byte;
            }
            let encoded = encode(&piece);
            prop_assert_eq!(encoded.len(), HEADER_BYTES + pages.len() * PAGE_BYTES);
            prop_assert_eq!(decode(&encoded), Some(piece));
        }
    }
}
