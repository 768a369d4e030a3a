//! Memory for keys and values, in pages that are handed out within a budget.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use super::KvFormat;
use crate::aligned::AlignedBytes;

/// Positions of a page: a whole number of tiles.
pub(crate) const PAGE_POSITIONS: usize = 64;

/// There are not enough pages left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for keys and values: {needed} bytes more, {used} of {budget} in use")]
pub struct KvFull {
    /// Bytes of the pages that are wanted.
    pub needed: usize,
    /// Bytes in use.
    pub used: usize,
    /// Bytes there may be.
    pub budget: usize,
}

/// Where the texts of a model get their pages from: each has 64 positions of one layer, and all are alike.
///
/// # Units and bounds
/// Bytes in use are at most the budget. Pages that are given back are kept and handed out again.
///
/// # Determinism
/// Which pages a text has, and whether it shares some, changes no bit. Whether there is room depends on all texts of the
/// pool, so nothing that is replicated may use one with a budget that other work can use up.
pub struct KvPool {
    format: KvFormat,
    kv_heads: usize,
    head_dim: usize,
    budget: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages_used: usize,
    free: Vec<AlignedBytes>,
}

/// A page of a pool, which it goes back to.
pub(crate) struct Page {
    bytes: AlignedBytes,
    pool: Arc<KvPool>,
}

impl KvPool {
    /// For layers of `kv_heads` heads of `head_dim` elements, with at most `budget` bytes.
    ///
    /// # Panics
    /// A dimension is zero, the format does not take it, or a page exceeds the address space.
    #[must_use]
    pub fn new(format: KvFormat, kv_heads: usize, head_dim: usize, budget: usize) -> Arc<Self> {
        assert!(
            kv_heads > 0 && head_dim > 0,
            "no heads or no dimensions: {kv_heads} x {head_dim}"
        );
        assert!(
            format.takes(head_dim),
            "{format} takes no heads of {head_dim}"
        );
        let row = format.row_bytes(head_dim).checked_mul(kv_heads);
        row.and_then(|row| row.checked_mul(2 * PAGE_POSITIONS))
            .filter(|bytes| *bytes <= isize::MAX as usize / 2)
            .expect("a page fits the address space");
        Arc::new(Self {
            format,
            kv_heads,
            head_dim,
            budget,
            state: Mutex::default(),
        })
    }

    /// How keys and values are stored.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Number of key/value heads.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes there may be in use.
    #[must_use]
    pub fn budget(&self) -> usize {
        self.budget
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pages_used * self.page_bytes()
    }

    /// Bytes of a page.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// Bytes of a head's keys, and of its values as many again.
    pub(super) fn keys_bytes(&self) -> usize {
        PAGE_POSITIONS * self.format.row_bytes(self.head_dim)
    }

    /// Bytes of a head's keys and values.
    pub(super) fn head_bytes(&self) -> usize {
        2 * self.keys_bytes()
    }

    /// So many pages with any content, or none at all.
    pub(super) fn take(self: &Arc<Self>, count: usize) -> Result<Vec<Page>, KvFull> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let page_bytes = self.page_bytes();
        let used = state.pages_used * page_bytes;
        let needed = count.saturating_mul(page_bytes);
        if needed > self.budget.saturating_sub(used) {
            return Err(KvFull {
                needed,
                used,
                budget: self.budget,
            });
        }
        state.pages_used += count;
        let kept = state.free.len().saturating_sub(count);
        let mut bytes = state.free.split_off(kept);
        drop(state);
        bytes.resize_with(count, || AlignedBytes::zeroed(page_bytes));
        let page = |bytes| Page {
            bytes,
            pool: Arc::clone(self),
        };
        Ok(bytes.into_iter().map(page).collect())
    }
}

impl fmt::Debug for KvPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KvPool")
            .field("format", &self.format)
            .field("kv_heads", &self.kv_heads)
            .field("head_dim", &self.head_dim)
            .field("budget", &self.budget)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

impl Page {
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let bytes = mem::replace(&mut self.bytes, AlignedBytes::zeroed(0));
        let state = &self.pool.state;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pages_used -= 1;
        state.free.push(bytes);
    }
}
