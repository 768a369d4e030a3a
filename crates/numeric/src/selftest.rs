//! Does this processor compute the frozen digests?
//!
//! # Design
//! Every kernel is one [`Case`]: a function from a seed to output bits, with shapes and values, special ones included,
//! drawn from a counter-based generator. The frozen digest of a case is the BLAKE3 digest of its output for fixed
//! seeds. The same cases, with other seeds, compare every instruction set with the portable kernels in the tests. A
//! kernel's declaration asks for its case, so a kernel cannot go untested.

mod cases;
mod generator;

pub use cases::cases;
pub use generator::Generator;

use std::fmt;

use thiserror::Error;

use crate::{ARITHMETIC_VERSION, Kernels};

/// The frozen digests, `name = "hexadecimal digits"` line by line.
const FROZEN: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../vectors/numeric.toml"
));

/// Seeds that a frozen digest covers.
const FROZEN_SEEDS: std::ops::Range<u64> = 0..16;

/// One kernel and how to exercise it.
pub struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Kernels, &mut Generator) -> Vec<u32>,
}

/// This processor, or this build, does not compute what the arithmetic's version prescribes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SelfTestError {
    /// A kernel's output differs.
    #[error("kernel {kernel} on {isa} differs from arithmetic version {version}: {actual}")]
    Differs {
        /// Name of the first kernel that differs.
        kernel: &'static str,
        /// Name of the instruction set.
        isa: &'static str,
        /// The version whose digest was expected.
        version: u32,
        /// The digest computed.
        actual: String,
    },
    /// There is no frozen digest for a kernel.
    #[error("no frozen digest of kernel: {kernel}")]
    NotFrozen {
        /// Name of the kernel.
        kernel: &'static str,
    },
}

impl Case {
    /// Name of the kernel.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The bits the kernel computes for the inputs that `seed` stands for.
    #[must_use]
    pub fn output(&self, kernels: &Kernels, seed: u64) -> Vec<u32> {
        (self.run)(kernels, &mut Generator::new(seed))
    }

    /// BLAKE3 digest, in hexadecimal, of the outputs for the frozen seeds.
    #[must_use]
    pub fn digest(&self, kernels: &Kernels) -> String {
        let mut hasher = blake3::Hasher::new();
        for seed in FROZEN_SEEDS {
            for word in self.output(kernels, seed) {
                hasher.update(&word.to_le_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Case({})", self.name)
    }
}

/// Compares every kernel with its frozen digest; a node does so before it starts.
///
/// # Errors
/// The first kernel that differs.
pub fn selftest(kernels: &Kernels) -> Result<(), SelfTestError> {
    compare(kernels, FROZEN)
}

/// Compares every kernel with its digest in `frozen`.
fn compare(kernels: &Kernels, frozen: &str) -> Result<(), SelfTestError> {
    for case in cases() {
        let expected =
            find(frozen, case.name).ok_or(SelfTestError::NotFrozen { kernel: case.name })?;
        let actual = case.digest(kernels);
        if actual != expected {
            return Err(SelfTestError::Differs {
                kernel: case.name,
                isa: kernels.isa().name(),
                version: ARITHMETIC_VERSION,
                actual,
            });
        }
    }
    Ok(())
}

/// The digest of a kernel in lines of `name = "digest"`.
fn find<'a>(frozen: &'a str, name: &str) -> Option<&'a str> {
    frozen.lines().find_map(|line| {
        let (key, value) = line.split_once(" = ")?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests;
