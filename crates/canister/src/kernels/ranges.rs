//! Ranges of a canister's memory that a kernel reads and writes.
use crate::host::violated;
use std::ops::Range;

/// Bytes of an f32, to which its address is aligned.
const FLOAT_BYTES: u64 = size_of::<f32>() as u64;
const _: () = assert!(
    cfg!(target_endian = "little"),
    "floats lie in memory as Wasm has them"
);

/// What one argument names.
#[derive(Clone, Debug)]
pub(super) struct Argument {
    what: &'static str,
    range: Range<usize>,
}

/// A kernel's arguments, checked one by one.
pub(super) struct Checker {
    pub(super) kernel: &'static str,
    /// Bytes of the canister's memory.
    pub(super) memory_bytes: usize,
}

impl Checker {
    /// `count` floats from `start` on.
    pub(super) fn floats(
        &self,
        what: &'static str,
        start: i32,
        count: u64,
    ) -> wasmtime::Result<Argument> {
        let start = u64::from(start.cast_unsigned());
        if !start.is_multiple_of(FLOAT_BYTES) {
            return self.refuse(format_args!("{what} is not aligned to 4 bytes: {start}"));
        }
        match count.checked_mul(FLOAT_BYTES) {
            Some(size) => self.bytes(what, start, size),
            None => self.refuse(format_args!("{what} is too large: {count} floats")),
        }
    }

    /// `size` bytes from `start` on.
    pub(super) fn bytes(
        &self,
        what: &'static str,
        start: u64,
        size: u64,
    ) -> wasmtime::Result<Argument> {
        match start.checked_add(size) {
            Some(end) if end <= self.memory_bytes as u64 => Ok(Argument {
                what,
                range: start as usize..end as usize,
            }),
            _ => self.refuse(format_args!(
                "{what} lies outside of the heap: start={start} + bytes={size} exceeds {}",
                self.memory_bytes
            )),
        }
    }

    /// Refuses an output that shares a byte with an input.
    pub(super) fn apart(&self, output: &Argument, inputs: &[&Argument]) -> wasmtime::Result<()> {
        for input in inputs {
            let start = output.range.start.max(input.range.start);
            if start < output.range.end.min(input.range.end) {
                return self.refuse(format_args!("{} overlaps {}", output.what, input.what));
            }
        }
        Ok(())
    }

    pub(super) fn refuse<T>(&self, reason: impl std::fmt::Display) -> wasmtime::Result<T> {
        violated(format!("lockstep.{}: {reason}", self.kernel))
    }
}

/// The bytes of an output that is not empty, and of inputs apart from it.
pub(super) fn split<'a, const N: usize>(
    memory: &'a mut [u8],
    output: &Argument,
    inputs: [&Argument; N],
) -> (&'a mut [u8], [&'a [u8]; N]) {
    let (before, rest) = memory.split_at_mut(output.range.start);
    let (written, after) = rest.split_at_mut(output.range.len());
    let (before, after) = (&*before, &*after);
    let read = inputs.map(|input| {
        let Range { start, end } = input.range;
        if start == end {
            &[]
        } else if end <= output.range.start {
            &before[start..end]
        } else {
            &after[start - output.range.end..end - output.range.end]
        }
    });
    (written, read)
}

impl Argument {
    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// Aligned bytes as floats.
pub(super) fn floats(bytes: &[u8]) -> &[f32] {
    // What is empty may lie anywhere.
    if bytes.is_empty() {
        &[]
    } else {
        bytemuck::cast_slice(bytes)
    }
}
