//! Instruction sets with kernels of their own, and the choice among them at run time.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::arch::{self, KernelTable};

/// Environment variable that overrides the choice of [`Isa::detect`].
const OVERRIDE_VARIABLE: &str = "LOCKSTEP_ISA";

/// An instruction set for which kernels exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: the specification.
    Portable,
    /// x86-64 with AVX2, F16C and FMA; the last for the exponential function alone.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL, and what [`Isa::Avx2`] needs.
    Avx512,
    /// As [`Isa::Avx512`], with VNNI.
    Avx512Vnni,
    /// aarch64 with NEON, which is all of them.
    Neon,
    /// As [`Isa::Neon`], with the dot product instructions.
    NeonDotprod,
    /// wasm32 with 128-bit vectors.
    Simd128,
}

/// Why an instruction set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IsaError {
    /// The name is none of ours.
    #[error("unknown instruction set, expected {expected}: {name}", expected = Isa::names())]
    Unknown {
        /// The name given.
        name: String,
    },
    /// The processor lacks it.
    #[error("instruction set missing on this processor: {isa}")]
    Missing {
        /// The instruction set asked for.
        isa: Isa,
    },
}

impl Isa {
    /// Every instruction set this crate knows, slowest first.
    pub const ALL: [Self; 7] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Neon,
        Self::NeonDotprod,
        Self::Simd128,
    ];

    /// The instruction sets this processor has, slowest first; the first is always [`Isa::Portable`].
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The fastest available instruction set, or the one named by the environment variable `LOCKSTEP_ISA`.
    ///
    /// # Errors
    /// The variable names an unknown or missing instruction set.
    pub fn detect() -> Result<Self, IsaError> {
        Self::choose(std::env::var_os(OVERRIDE_VARIABLE).as_deref())
    }

    /// The named instruction set, or the fastest available one.
    fn choose(name: Option<&OsStr>) -> Result<Self, IsaError> {
        let Some(name) = name else {
            return Ok(Self::available().last().copied().unwrap_or(Self::Portable));
        };
        let isa: Self = name.to_string_lossy().parse()?;
        if isa.is_available() {
            Ok(isa)
        } else {
            Err(IsaError::Missing { isa })
        }
    }

    /// Lower-case name, as [`FromStr`] reads it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Neon => "neon",
            Self::NeonDotprod => "neondotprod",
            Self::Simd128 => "simd128",
        }
    }

    /// The names of all, as a sentence lists them.
    fn names() -> String {
        let names = Self::ALL.map(Self::name);
        let (last, rest) = names.split_last().expect("there are some");
        format!("{} or {last}", rest.join(", "))
    }

    fn is_available(self) -> bool {
        self.table().is_some()
    }

    /// The kernels, if this processor can run them.
    pub(crate) fn table(self) -> Option<&'static KernelTable> {
        match self {
            Self::Portable => Some(&arch::portable::TABLE),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => arch::x86_64::avx2::table(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => arch::x86_64::avx512::plain::table(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => arch::x86_64::avx512::vnni::table(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => arch::aarch64::neon::plain::table(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => arch::aarch64::neon::dotprod::table(),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => arch::wasm32::simd128::table(),
            #[allow(unreachable_patterns, reason = "those of other architectures")]
            _ => None,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| IsaError::Unknown {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        assert_eq!(
            "sse9".parse::<Isa>(),
            Err(IsaError::Unknown {
                name: "sse9".to_owned()
            })
        );
    }

    #[test]
    fn a_name_overrides_the_fastest() {
        assert_eq!(Isa::choose(Some(OsStr::new("portable"))), Ok(Isa::Portable));
        assert_eq!(Isa::choose(None).ok(), Isa::available().last().copied());
        let error = Isa::choose(Some(OsStr::new("fast"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown instruction set, expected portable, avx2, avx512, avx512vnni, neon, neondotprod or simd128: fast"
        );
        for isa in Isa::ALL {
            let chosen = Isa::choose(Some(OsStr::new(isa.name())));
            let expected = if Isa::available().contains(&isa) {
                Ok(isa)
            } else {
                Err(IsaError::Missing { isa })
            };
            assert_eq!(chosen, expected);
        }
    }

    #[test]
    fn portable_is_always_available_and_first() {
        assert_eq!(Isa::available()[0], Isa::Portable);
    }
}
