//! Correctly rounded elementary functions from libraries that share no code with ours.
//!
//! A function of `pxfm` gives the value as f64, by its documentation within half an ulp: each decides by Ziv's test
//! with a proven bound whether its fast path suffices, and goes on to double-double or 128 bits where it does not. If
//! everything within 2^-50, eight times that, rounds to one f32, that is the answer; otherwise the value to 192 bits
//! from `astro-float` is compared with the midpoint between the two candidates. `astro-float` has no erf; its
//! alternating series is summed here with enough bits for the cancellation. [`Oracle::margin_holds`] compares the two
//! evaluations themselves.

use std::cell::RefCell;
use std::cmp::Ordering;

use astro_float::{BigFloat, Consts, RoundingMode};

/// Bits of precision of the deciding evaluation.
const PRECISION: usize = 192;
/// Half-width, relative, of the interval that is taken to contain the exact value.
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

pub(crate) const LOG: Oracle = Oracle {
    double: pxfm::f_log,
    exact: |x, constants| x.ln(PRECISION, RoundingMode::None, constants),
};

pub(crate) const TANH: Oracle = Oracle {
    double: pxfm::f_tanh,
    exact: |x, constants| x.tanh(PRECISION, RoundingMode::None, constants),
};

pub(crate) const ERF: Oracle = Oracle {
    double: pxfm::f_erf,
    exact: erf,
};

/// erf x = 2 / sqrt(pi) * sum over k of (-1)^k x^(2k + 1) / (k! (2k + 1)); from 6 on, where 1 - erf x < 2^-55, one.
///
/// No term exceeds e^36 < 2^52, and the sum is at least x / 2 below 1 and 1/2 above: of the 128 bits beyond
/// [`PRECISION`] cancellation takes 54 at most.
fn erf(x: &BigFloat, constants: &mut Consts) -> BigFloat {
    const BITS: usize = PRECISION + 128;
    const ROUNDING: RoundingMode = RoundingMode::None;
    let one = BigFloat::from_u64(1, BITS);
    if x.abs().cmp(&BigFloat::from_u64(6, BITS)) >= Some(0) {
        return if x.is_negative() { one.neg() } else { one };
    }
    let square = x.mul(x, BITS, ROUNDING).neg();
    let (mut power, mut sum) = (x.clone(), x.clone());
    for k in 1u64.. {
        let index = BigFloat::from_u64(k, BITS);
        power = power
            .mul(&square, BITS, ROUNDING)
            .div(&index, BITS, ROUNDING);
        let odd = BigFloat::from_u64(2 * k + 1, BITS);
        let term = power.div(&odd, BITS, ROUNDING);
        let (Some(size), Some(total)) = (term.exponent(), sum.exponent()) else {
            break;
        };
        sum = sum.add(&term, BITS, ROUNDING);
        // Terms grow as long as k < x^2 < 36.
        if k > 40 && size < total - BITS as i32 {
            break;
        }
    }
    let root = constants.pi(BITS, ROUNDING).sqrt(BITS, ROUNDING);
    let two = BigFloat::from_u64(2, BITS);
    sum.mul(&two, BITS, ROUNDING).div(&root, BITS, ROUNDING)
}

impl Oracle {
    /// The function of `x` to [`PRECISION`] bits.
    fn evaluate_exactly(&self, x: f32) -> BigFloat {
        CONSTANTS.with_borrow_mut(|constants| {
            (self.exact)(&BigFloat::from_f64(f64::from(x), PRECISION), constants)
        })
    }

    /// Whether the f64 value lies within a quarter of the margin from the exact one. True where there is no normal one.
    pub(crate) fn margin_holds(&self, x: f32) -> bool {
        let value = (self.double)(f64::from(x));
        // A subnormal f64 lies far below every f32 and needs no precision; `BigFloat::from_f64` misreads it.
        if !value.is_normal() || !x.is_finite() {
            return true;
        }
        let wide = BigFloat::from_f64(value, PRECISION);
        let margin = BigFloat::from_f64(value.abs() * MARGIN / 4.0, PRECISION);
        let error = self
            .evaluate_exactly(x)
            .sub(&wide, PRECISION, RoundingMode::None);
        // Not `abs_cmp`, which heeds the signs in this version of `astro-float`.
        error
            .abs()
            .cmp(&margin)
            .is_some_and(|difference| difference <= 0)
    }

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
        match self
            .evaluate_exactly(x)
            .cmp(&middle)
            .map(|difference| difference.cmp(&0))
        {
            Some(Ordering::Less) => (below, true),
            Some(Ordering::Greater) => (above, true),
            other => panic!("no decision at {x:e}: {other:?}"),
        }
    }
}
