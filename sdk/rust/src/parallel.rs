//! Data-parallel work on every core, inside one message.
//!
//! A slice is cut into chunks, a task per chunk. Every task sees the canister's memory as it was when
//! the work began, writes to its own chunk of the output, and nothing else of what it does remains: what
//! it allocates, prints into statics or puts into atomics is gone when it ends. Tasks cannot see each
//! other, and the result does not depend on how many cores there are.
//!
//! | | on Lockstep | without (feature `sequential`, or any other target) |
//! |---|---|---|
//! | tasks | side by side | one after another, with the same result |
//! | price | the sum of the tasks' instructions, and a fee per call and task | the sum |
//! | time towards the message's limit | the longest lane's tasks | the sum |
//! | installs on the Internet Computer | no: it allows imports from `ic0` alone | yes |
//!
//! Elements are plain data ([`bytemuck::Pod`]): no pointers, no interior mutability. What tasks read
//! besides is a [`Shared`] value. Tasks are functions, not closures that capture, so that nothing else
//! gets in:
//!
//! ```compile_fail
//! let count = std::cell::Cell::new(0);
//! // A closure that captures is no `fn`.
//! lockstep_cdk::parallel::Plan::default().for_each_chunk_mut(&mut [0; 9], 3, &(), |_, _, _| count.set(1));
//! ```
//!
//! # Errors
//! A task that traps or uses up its quota ends the message; the error names the task's index.
//!
//! # Examples
//! ```
//! use lockstep_cdk::parallel::Plan;
//!
//! // y = a x, a row of `a` per element of `y`, 16 rows per task.
//! let (rows, columns) = (64, 8);
//! let (a, x) = (vec![0.5_f32; rows * columns], vec![2.0_f32; columns]);
//! let mut y = vec![0.0_f32; rows];
//! Plan::default().for_each_chunk_mut(&mut y, 16, &(a, x), |(a, x), first, chunk| {
//!     let rows = a[first * x.len()..].chunks(x.len());
//!     for (y, row) in chunk.iter_mut().zip(rows) {
//!         *y = row.iter().zip(x).map(|(a, x)| a * x).sum();
//!     }
//! });
//! assert_eq!(y, [8.0; 64]);
//! ```
use bytemuck::Pod;
use std::collections::{BTreeMap, BTreeSet};

/// Instructions that one message may take of the time.
const MESSAGE_INSTRUCTIONS: u64 = 40_000_000_000;
/// Instructions kept back for what follows the tasks.
const KEPT_BACK: u64 = 1_000_000_000;

/// What tasks may read besides their chunk: no interior mutability can be reached from it.
///
/// # Safety
/// Nothing that can be reached from a shared reference to the type can be changed through it.
pub unsafe trait Shared {}

macro_rules! shared {
    ($([$($parameter:ident),*] $ty:ty;)*) => {
        // SAFETY: owns its parts, which are shared themselves, and has no other state to change.
        $(unsafe impl<$($parameter: Shared),*> Shared for $ty {})*
    };
}
shared! {
    [] (); [] bool; [] char; [] str; [] String;
    [] u8; [] u16; [] u32; [] u64; [] u128; [] usize;
    [] i8; [] i16; [] i32; [] i64; [] i128; [] isize;
    [] f32; [] f64;
    [T] [T]; [T] Vec<T>; [T] Option<T>; [T] Box<T>; [T] BTreeSet<T>;
    [A] (A,); [A, B] (A, B); [A, B, C] (A, B, C); [A, B, C, D] (A, B, C, D);
    [A, B, C, D, E] (A, B, C, D, E); [A, B, C, D, E, F] (A, B, C, D, E, F);
    [K, V] BTreeMap<K, V>;
}
// SAFETY: a shared reference gives no more than the value does.
unsafe impl<T: Shared + ?Sized> Shared for &T {}
// SAFETY: its elements are shared.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// How much each task may use. All tasks of a call have the same quotas, which are set aside when it
/// begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    instructions: Option<u64>,
    pages: Option<u32>,
}

impl Plan {
    /// Quotas that suffice for any task that fits into a message by itself, when there are few tasks:
    /// what the message has left, shared among all, and any number of pages.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            instructions: None,
            pages: None,
        }
    }

    /// Instructions per task. The subnet runs so many lanes of tasks side by side, and the tasks of a lane
    /// together must fit into what the message has left.
    #[must_use]
    pub const fn instructions(mut self, instructions: u64) -> Self {
        self.instructions = Some(instructions);
        self
    }

    /// Pages of 4 KiB that a task may change or add, its chunk's included.
    #[must_use]
    pub const fn pages(mut self, pages: u32) -> Self {
        self.pages = Some(pages);
        self
    }

    /// Calls `task` for each chunk of `chunk_len` elements, the last one shorter, with the index of its
    /// first element.
    ///
    /// # Panics
    /// `chunk_len` is zero.
    pub fn for_each_chunk_mut<T: Pod, C: Shared + ?Sized>(
        &self,
        data: &mut [T],
        chunk_len: usize,
        context: &C,
        task: fn(&C, usize, &mut [T]),
    ) {
        assert!(chunk_len > 0, "a chunk has elements");
        if data.is_empty() || size_of::<T>() == 0 {
            return;
        }
        fork::run(self, data, chunk_len, context, task);
    }

    /// The results of `task` for every element of `input`, computed in chunks of `chunk_len`.
    ///
    /// # Panics
    /// `chunk_len` is zero.
    #[must_use]
    pub fn map<I: Pod + Shared, O: Pod, C: Shared + ?Sized>(
        &self,
        input: &[I],
        chunk_len: usize,
        context: &C,
        task: fn(&C, &I) -> O,
    ) -> Vec<O> {
        let mut output = vec![O::zeroed(); input.len()];
        let context = Mapping {
            input,
            context,
            task,
        };
        self.for_each_chunk_mut(&mut output, chunk_len, &context, |mapping, first, chunk| {
            for (output, input) in chunk.iter_mut().zip(&mapping.input[first..]) {
                *output = (mapping.task)(mapping.context, input);
            }
        });
        output
    }

    /// Folds each chunk of `chunk_len` elements by `fold`, then the results in order by `combine`; `None`
    /// without elements. The length of the chunks decides how sums associate, and so it is part of a
    /// float result; the number of cores is not.
    ///
    /// # Panics
    /// `chunk_len` is zero.
    pub fn reduce<I: Pod + Shared, A: Pod, C: Shared + ?Sized>(
        &self,
        input: &[I],
        chunk_len: usize,
        context: &C,
        fold: fn(&C, &[I]) -> A,
        combine: fn(A, A) -> A,
    ) -> Option<A> {
        assert!(chunk_len > 0, "a chunk has elements");
        let mut parts = vec![A::zeroed(); input.len().div_ceil(chunk_len)];
        let folding = Folding {
            input,
            chunk_len,
            context,
            fold,
        };
        self.for_each_chunk_mut(&mut parts, 1, &folding, |folding, index, part| {
            let first = index * folding.chunk_len;
            let end = (first + folding.chunk_len).min(folding.input.len());
            part[0] = (folding.fold)(folding.context, &folding.input[first..end]);
        });
        parts.into_iter().reduce(combine)
    }

    /// Instructions for each of `count` tasks when `used` of the message's are gone.
    fn quota(&self, count: usize, used: u64) -> u64 {
        self.instructions.unwrap_or_else(|| {
            let left = MESSAGE_INSTRUCTIONS.saturating_sub(KEPT_BACK + used);
            left / count as u64
        })
    }
}

struct Mapping<'a, I, O, C: ?Sized> {
    input: &'a [I],
    context: &'a C,
    task: fn(&C, &I) -> O,
}

// SAFETY: references to shared values, and a function.
unsafe impl<I: Shared, O, C: Shared + ?Sized> Shared for Mapping<'_, I, O, C> {}

struct Folding<'a, I, A, C: ?Sized> {
    input: &'a [I],
    chunk_len: usize,
    context: &'a C,
    fold: fn(&C, &[I]) -> A,
}

// SAFETY: references to shared values, a number and a function.
unsafe impl<I: Shared, A, C: Shared + ?Sized> Shared for Folding<'_, I, A, C> {}

/// One chunk after another.
#[cfg(any(not(target_arch = "wasm32"), feature = "sequential"))]
mod fork {
    use super::{Plan, Pod, Shared};

    pub(super) fn run<T: Pod, C: Shared + ?Sized>(
        plan: &Plan,
        data: &mut [T],
        chunk_len: usize,
        context: &C,
        task: fn(&C, usize, &mut [T]),
    ) {
        // Quotas are the engine's to enforce.
        let _ = plan.quota(1, 0);
        for (index, chunk) in data.chunks_mut(chunk_len).enumerate() {
            task(context, index * chunk_len, chunk);
        }
    }
}

/// A task per chunk, by `lockstep.fork`.
#[cfg(all(target_arch = "wasm32", not(feature = "sequential")))]
mod fork {
    use super::{Plan, Pod, Shared};
    use crate::sys;
    use std::slice;

    /// What a task is told by its address.
    struct Environment<'a, T, C: ?Sized> {
        data: *mut T,
        length: usize,
        chunk_len: usize,
        context: &'a C,
        task: fn(&C, usize, &mut [T]),
    }

    pub(super) fn run<T: Pod, C: Shared + ?Sized>(
        plan: &Plan,
        data: &mut [T],
        chunk_len: usize,
        context: &C,
        task: fn(&C, usize, &mut [T]),
    ) {
        let windows: Vec<sys::Window> = data
            .chunks(chunk_len)
            .map(|chunk| sys::Window {
                start: chunk.as_ptr() as usize,
                bytes: size_of_val(chunk),
            })
            .collect();
        let instructions = plan.quota(windows.len(), sys::instructions_used());
        let environment = Environment {
            data: data.as_mut_ptr(),
            length: data.len(),
            chunk_len,
            context,
            task,
        };
        // SAFETY: `enter::<T, C>` reads the environment, and the windows are parts of `data`, which is
        // borrowed mutably: nothing else refers to them while the host fills them with plain data.
        unsafe {
            sys::fork(
                enter::<T, C>,
                (&raw const environment).cast(),
                &windows,
                instructions,
                plan.pages.unwrap_or(u32::MAX),
            );
        }
    }

    /// # Safety
    /// `environment` points to an `Environment<T, C>` whose data has a chunk `index`.
    unsafe extern "C" fn enter<T: Pod, C: Shared + ?Sized>(environment: *const (), index: u32) {
        // SAFETY: as the caller's; the task has its own copy of all memory, so that the chunk is borrowed
        // once.
        let (environment, first, chunk) = unsafe {
            let environment = &*environment.cast::<Environment<'_, T, C>>();
            let first = index as usize * environment.chunk_len;
            let length = environment.chunk_len.min(environment.length - first);
            let chunk = slice::from_raw_parts_mut(environment.data.add(first), length);
            (environment, first, chunk)
        };
        (environment.task)(environment.context, first, chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_slice_once() {
        let mut data = [0_u32; 10];
        Plan::new().for_each_chunk_mut(&mut data, 4, &100, |offset, first, chunk| {
            for (index, value) in chunk.iter_mut().enumerate() {
                *value += offset + (first + index) as u32;
            }
        });
        assert_eq!(data, std::array::from_fn(|index| 100 + index as u32));
        Plan::new().for_each_chunk_mut(&mut [0_u8; 0], 4, &(), |(), _, _| unreachable!());
    }

    #[test]
    fn map_keeps_order() {
        let input: Vec<u16> = (0..100).collect();
        let output = Plan::new().map(&input, 7, &3, |factor, value| u64::from(*value) * factor);
        assert_eq!(output, (0..100).map(|value| value * 3).collect::<Vec<_>>());
    }

    #[test]
    fn reduce_associates_by_chunks() {
        // Next to 1e8 floats are 8 apart: 4 alone is lost there, 16 is not.
        let input = [1e8_f32, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0];
        let sum = |chunk_len| {
            let fold = |(): &(), part: &[f32]| part.iter().sum();
            Plan::new().reduce(&input, chunk_len, &(), fold, |a, b| a + b)
        };
        assert_eq!(sum(8), Some(1e8));
        assert_eq!(sum(4), Some(1e8 + 16.0));
        assert_eq!(
            Plan::new().reduce(
                &[] as &[f32],
                4,
                &(),
                |(), part| part.iter().sum::<f32>(),
                |a, b| a + b
            ),
            None
        );
    }

    #[test]
    fn quotas_share_what_is_left() {
        assert_eq!(Plan::new().quota(3, 9_000_000_000), 10_000_000_000);
        assert_eq!(Plan::new().quota(3, u64::MAX - KEPT_BACK), 0);
        assert_eq!(Plan::new().instructions(5).quota(3, 0), 5);
    }
}
