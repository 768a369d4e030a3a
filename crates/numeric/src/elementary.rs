//! Elementary functions whose result is the correctly rounded f32, for every input.
//!
//! # Design
//! Each function has a fast path in f64 with a proven relative error bound, Ziv's rounding test (do both ends of the
//! error interval round to the same f32?) and, for the few inputs that fail it, a path in double-double arithmetic
//! (about 100 bits), whose result is rounded once through round-to-odd.
//!
//! # Determinism
//! Only + - * / and integer operations on f32 and f64, each rounded once; no FMA, no function of the platform's
//! mathematics library. As the result is the correctly rounded one, any other method that computes it correctly
//! rounded, a vector unit's included, gives the same bits.
//!
//! # Units and bounds
//! Angles in radians. A NaN result is the canonical one.

mod double_double;
mod erf;
pub(crate) mod exp;
mod log;
mod piecewise;
mod tanh;
mod trigonometric;

pub use erf::erf;
pub(crate) use exp::HARD_INPUTS as HARD_EXP;
pub use exp::exp;
pub use log::log;
pub use tanh::tanh;
pub use trigonometric::{cos, sin, sin_cos};

pub(crate) use double_double::power_of_positive_base;

/// An elementary function by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// [`exp`].
    Exp,
    /// [`log`].
    Log,
    /// [`sin`].
    Sin,
    /// [`cos`].
    Cos,
    /// [`tanh`].
    Tanh,
    /// [`erf`].
    Erf,
}

impl Function {
    /// Every function.
    pub const ALL: [Self; 6] = [
        Self::Exp,
        Self::Log,
        Self::Sin,
        Self::Cos,
        Self::Tanh,
        Self::Erf,
    ];

    /// Its value.
    #[must_use]
    pub fn at(self, value: f32) -> f32 {
        match self {
            Self::Exp => exp(value),
            Self::Log => log(value),
            Self::Sin => sin(value),
            Self::Cos => cos(value),
            Self::Tanh => tanh(value),
            Self::Erf => erf(value),
        }
    }
}

/// Half-width, relative, of the interval in which the fast paths guarantee the exact value. Each fast path's own error
/// is below 2^-51; the factor of two covers the rounding of the interval's ends.
pub(crate) const RELATIVE_ERROR: f64 = 1.0 / (1u64 << 50) as f64;

/// The f32 to which everything in the error interval around `value` rounds, if there is just one.
#[inline]
fn round_if_safe(value: f64) -> Option<f32> {
    let low = (value - value * RELATIVE_ERROR) as f32;
    let high = (value + value * RELATIVE_ERROR) as f32;
    (low.to_bits() == high.to_bits()).then_some(low)
}
