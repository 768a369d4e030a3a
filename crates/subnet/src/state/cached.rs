//! A derived value that is computed once and forgotten by clones.
use std::sync::OnceLock;

/// Holds what is derived from its neighbours in a struct. A clone is about to be changed, so it
/// starts empty.
#[derive(Debug)]
pub struct Cached<T>(OnceLock<T>);

impl<T> Cached<T> {
    /// The value, computed at the first call.
    pub fn get_or_init(&self, compute: impl FnOnce() -> T) -> &T {
        self.0.get_or_init(compute)
    }
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}
