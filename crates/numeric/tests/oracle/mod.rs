//! Correctly rounded elementary functions from libraries that share no code with ours.
//!
//! A function of `pxfm` gives the value as f64 within an ulp or so. If everything within four ulps rounds to one f32,
//! that is the answer; otherwise the value to 192 bits from `astro-float` is compared with the midpoint between the two
//! candidates.

use std::cell::RefCell;
use std::cmp::Ordering;

use astro_float::{BigFloat, Consts, RoundingMode};

/// Bits of precision of the deciding evaluation.
const PRECISION: usize = 192;
/// Four units in the last place of an f64, relative.
const MARGIN: f64 = 1.0 / (1u64 << 50) as f64;

thread_local! {
    static CONSTANTS: RefCell<Consts> = RefCell::new(Consts::new().expect("memory for constants"));
}

/// A function and its two independent evaluations.
#[derive(Clone, Copy)]
pub(crate) struct Oracle {
    double: fn(f64) -> f64,
    exact: fn(&BigFloat, &mut Consts) -> BigFloat,
}

pub(crate) const EXP: Oracle = Oracle {
    double: pxfm::f_exp,
    exact: |x, constants| x.exp(PRECISION, RoundingMode::None, constants),
};

pub(crate) const SIN: Oracle = Oracle {
    double: pxfm::f_sin,
    exact: |x, constants| x.sin(PRECISION, RoundingMode::None, constants),
};

pub(crate) const COS: Oracle = Oracle {
    double: pxfm::f_cos,
    exact: |x, constants| x.cos(PRECISION, RoundingMode::None, constants),
};

impl Oracle {
    /// The correctly rounded value, and whether it took more than an f64 to find it.
    pub(crate) fn evaluate(&self, x: f32) -> (f32, bool) {
        let value = (self.double)(f64::from(x));
        if value.is_nan() {
            return (f32::from_bits(0x7fc0_0000), false);
        }
        let below = (value - value.abs() * MARGIN) as f32;
        let above = (value + value.abs() * MARGIN) as f32;
        if below.to_bits() == above.to_bits() || value == 0.0 || value.is_infinite() {
            return (value as f32, false);
        }
        // Exact: two neighbours in f32. Past the largest f32 comes 2^128.
        let above_wide = if above.is_infinite() {
            2.0 * (1u128 << 127) as f64
        } else {
            f64::from(above)
        };
        let middle = BigFloat::from_f64((f64::from(below) + above_wide) / 2.0, PRECISION);
        let exact = CONSTANTS.with_borrow_mut(|constants| {
            (self.exact)(&BigFloat::from_f64(f64::from(x), PRECISION), constants)
        });
        match exact.cmp(&middle).map(|difference| difference.cmp(&0)) {
            Some(Ordering::Less) => (below, true),
            Some(Ordering::Greater) => (above, true),
            other => panic!("no decision at {x:e}: {other:?}"),
        }
    }
}
