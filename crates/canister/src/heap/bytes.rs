//! Bytes of leaves.
//!
//! # Design
//! Every message needs some and drops as many; memory of those dropped is kept, so that the system need
//! not find, clear and take back pages for each message.
use super::LEAF_BYTES;
use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
};

type Bytes = [u8; LEAF_BYTES];

/// Most leaves whose memory is kept.
const KEPT_MAX: usize = 16 * 1024;

static KEPT: Mutex<Vec<Box<Bytes>>> = Mutex::new(Vec::new());

fn kept() -> MutexGuard<'static, Vec<Box<Bytes>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of one leaf.
pub(super) struct LeafBytes(Option<Box<Bytes>>);

const HAS: &str = "there until it is dropped";

impl From<&Bytes> for LeafBytes {
    fn from(bytes: &Bytes) -> Self {
        let kept = kept().pop();
        Self(Some(match kept {
            Some(mut memory) => {
                *memory = *bytes;
                memory
            }
            None => Box::new(*bytes),
        }))
    }
}

impl Drop for LeafBytes {
    fn drop(&mut self) {
        let mut kept = kept();
        if kept.len() < KEPT_MAX {
            kept.extend(self.0.take());
        }
    }
}

impl Deref for LeafBytes {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        self.0.as_ref().expect(HAS)
    }
}

impl DerefMut for LeafBytes {
    fn deref_mut(&mut self) -> &mut Bytes {
        self.0.as_mut().expect(HAS)
    }
}
