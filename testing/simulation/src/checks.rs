//! What must hold, whatever happens: each property in a file of its own.
mod agreement;
mod certificates;
mod once;

pub use agreement::Agreement;
pub use certificates::Certificates;
pub use once::{Once, Outcome};

/// What was found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<String>);

impl Violations {
    /// How many are told; one fault shows many times.
    const MAX: usize = 20;

    pub(crate) fn add(&mut self, violation: String) {
        if self.0.len() < Self::MAX {
            self.0.push(violation);
        }
    }

    /// In the order in which they were found.
    #[must_use]
    pub fn all(&self) -> &[String] {
        &self.0
    }
}
