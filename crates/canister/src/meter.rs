//! What an execution has used.
use crate::{
    engine::Instructions,
    gate::Gate,
    instance::{get, set},
};
use std::sync::Arc;
use wasmtime::{AsContextMut, Global, Val};

/// The counters of an instance and the gate where it gets its instructions.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    /// What is left of the grants taken; below zero, what is lacking.
    pub(crate) counter: Global,
    pub(crate) cursor: Global,
    pub(crate) gate: Arc<Gate>,
}

impl Meter {
    /// Takes instructions; false when there are not so many.
    pub(crate) fn charge(&self, mut store: impl AsContextMut, cost: Instructions) -> bool {
        let mut left = self.left(&mut store).saturating_sub_unsigned(cost);
        let mut paid = true;
        if left < 0 {
            let used = self.taken(&mut store).saturating_add(left.unsigned_abs());
            match self.gate.skip(used) {
                Some((granted, cursor)) => {
                    left = (granted - used).cast_signed();
                    set(&self.cursor, &mut store, Val::I32(cursor));
                }
                None => paid = false,
            }
        }
        set(&self.counter, &mut store, Val::I64(left));
        paid
    }

    /// Instructions used, where compiled code has written back what it has left.
    pub(crate) fn used(&self, mut store: impl AsContextMut) -> Instructions {
        let left = self.left(&mut store);
        if left < 0 {
            self.taken(store).saturating_add(left.unsigned_abs())
        } else {
            self.taken(store) - left.cast_unsigned()
        }
    }

    /// All grants that were taken.
    pub(crate) fn taken(&self, store: impl AsContextMut) -> Instructions {
        let cursor = get(&self.cursor, store).i32();
        self.gate.taken(cursor.expect("the cursor is an i32"))
    }

    fn left(&self, store: impl AsContextMut) -> i64 {
        let counter = get(&self.counter, store).i64();
        counter.expect("the counter is an i64")
    }
}
