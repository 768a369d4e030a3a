//! Bytes aligned to 64, so that no vector load of a packed weight crosses a cache line.

/// Bytes in a cache line, and the alignment.
pub(crate) const LINE_BYTES: usize = 64;

#[derive(Clone)]
#[repr(C, align(64))]
struct Line([u8; LINE_BYTES]);

/// Zero-initialised bytes on a 64-byte boundary.
pub(crate) struct AlignedBytes {
    memory: Memory,
    length: usize,
}

enum Memory {
    Lines(Vec<Line>),
    /// Pages of their own, large ones where the system has them: weights are read from end to end for every token, and
    /// with small pages the processor spends a good part of that on finding them.
    #[cfg(target_os = "linux")]
    Pages(memmap2::MmapMut),
}

/// From here on, large pages pay.
#[cfg(target_os = "linux")]
const PAGES_MIN: usize = 4 << 20;

impl AlignedBytes {
    /// `length` rounded up to whole lines.
    pub(crate) fn zeroed(length: usize) -> Self {
        let length = length.next_multiple_of(LINE_BYTES);
        #[cfg(target_os = "linux")]
        if length >= PAGES_MIN
            && let Ok(pages) = memmap2::MmapMut::map_anon(length)
        {
            // A system without large pages refuses; small ones do as well.
            let _ = pages.advise(memmap2::Advice::HugePage);
            return Self {
                memory: Memory::Pages(pages),
                length,
            };
        }
        Self {
            memory: Memory::Lines(vec![Line([0; LINE_BYTES]); length / LINE_BYTES]),
            length,
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.memory {
            // SAFETY: a Line is 64 initialised bytes without padding (its size equals its alignment), and the slice
            // covers exactly the vector's lines for as long as the borrow lasts.
            Memory::Lines(lines) => unsafe {
                std::slice::from_raw_parts(lines.as_ptr().cast(), self.length)
            },
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            // SAFETY: as in `as_slice`, and the vector is borrowed exclusively.
            Memory::Lines(lines) => unsafe {
                std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), self.length)
            },
            #[cfg(target_os = "linux")]
            Memory::Pages(pages) => pages,
        }
    }
}
