//! Bytes aligned to 64, so that no vector load of a packed weight crosses a cache line.

/// Bytes in a cache line, and the alignment.
pub(crate) const LINE_BYTES: usize = 64;

#[derive(Clone)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

/// Zero-initialised bytes on a 64-byte boundary.
#[derive(Clone)]
pub(crate) struct AlignedBytes {
    lines: Vec<Line>,
}

impl AlignedBytes {
    /// `length` rounded up to whole lines.
    pub(crate) fn zeroed(length: usize) -> Self {
        Self {
            lines: vec![Line([0; LINE_BYTES]); length.div_ceil(LINE_BYTES)],
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: a Line is 64 initialised bytes without padding (its size equals its alignment), and the slice covers
        // exactly the vector's lines for as long as the borrow lasts.
        unsafe {
            std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * LINE_BYTES)
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the vector is borrowed exclusively.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.lines.as_mut_ptr().cast(),
                self.lines.len() * LINE_BYTES,
            )
        }
    }
}
