//! Odd functions in f64 by Taylor polynomials around the multiples of 1/16.
//!
//! # Units and bounds
//! For tanh and erf between 0 and where they round to 1, the relative error of [`Piecewise::value`] is below 2^-51.
//!
//! From 5/32 up, with c the multiple of 1/16 nearest to x and d = x - c, the result is f(c) + d * p(d). d is exact and
//! |d| <= 1/32, so the terms left out are below 2^-60 of the result. Both functions being concave, f(c) is at most 6/5
//! of the result and d * p(d) at most 1/5. In units of 2^-53 of the result: f(c) is rounded once, 6/5; the last sum
//! once, 1; the product, the last step of p and its constant term once each, and the steps before count for less than a
//! tenth, together 0.7.
//!
//! Below, the result is x * (a + z * q(z)) with z = x * x exact and at most 0.025: the terms left out are below 2^-60;
//! the constant a, the sum and the product are rounded once each, 3; z * q(z), at most 0.01, is off by at most 0.03.

use super::double_double::DoubleDouble;

/// Coefficients of a polynomial around a multiple of 1/16.
const TERMS: usize = 11;
/// Coefficients of the odd polynomial around zero.
const ODD_TERMS: usize = 9;
/// The first multiple of 1/16 whose own polynomial is used.
const FIRST_ROW: usize = 3;

/// An odd function, tabulated up to (ROWS - 1/2) / 16.
pub(super) struct Piecewise<const ROWS: usize> {
    /// Of x, x^3, x^5 and so on around zero.
    odd: [f64; ODD_TERMS],
    /// Of 1, d, d^2 and so on around i/16.
    rows: [[f64; TERMS]; ROWS],
}

/// A function's first `N` Taylor coefficients around a point.
pub(super) type Taylor<const N: usize> = [DoubleDouble; N];

/// Coefficients needed around zero, those of even powers included.
pub(super) const ZERO_TERMS: usize = 2 * ODD_TERMS;

/// Coefficients needed around every other point.
pub(super) const ROW_TERMS: usize = TERMS;

impl<const ROWS: usize> Piecewise<ROWS> {
    /// The table from the expansions around zero and around i/16.
    pub(super) const fn new(
        zero: &Taylor<ZERO_TERMS>,
        expansions: &[Taylor<ROW_TERMS>; ROWS],
    ) -> Self {
        let mut table = Self {
            odd: [0.0; ODD_TERMS],
            rows: [[0.0; TERMS]; ROWS],
        };
        let mut k = 0;
        while k < ODD_TERMS {
            table.odd[k] = zero[2 * k + 1].high;
            k += 1;
        }
        let mut row = 0;
        while row < ROWS {
            let mut k = 0;
            while k < TERMS {
                table.rows[row][k] = expansions[row][k].high;
                k += 1;
            }
            row += 1;
        }
        table
    }

    /// The function at `x`, an f32 from 0 to below (ROWS - 1/2) / 16.
    pub(super) fn value(&self, x: f64) -> f64 {
        let row = (x * 16.0 + 0.5) as usize;
        if row < FIRST_ROW {
            let z = x * x;
            return x * horner(&self.odd, z);
        }
        horner(&self.rows[row], x - row as f64 / 16.0)
    }
}

#[inline]
fn horner<const N: usize>(coefficients: &[f64; N], x: f64) -> f64 {
    let mut sum = coefficients[N - 1];
    for coefficient in coefficients[..N - 1].iter().rev() {
        sum = sum * x + coefficient;
    }
    sum
}
