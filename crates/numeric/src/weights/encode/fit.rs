//! Least squares over a block whose elements have integers of a few bits.
use super::F16_MAX;
use crate::convert::{f16_to_f32, f32_to_f16};
use crate::weights::CODES;

/// Lanes of a sum.
const LANES: usize = 8;
/// 1.5 * 2^23: added and subtracted again it rounds a number below 2^22 half to even.
const ROUND: f32 = 12_582_912.0;
/// A magnitude whose share of any scale that can be stored is nothing.
const NEGLIGIBLE: f32 = 1e-30;

/// The integers that elements may have.
pub(super) trait Levels {
    /// What the element of largest magnitude is brought to, candidate by candidate.
    fn reaches() -> impl Iterator<Item = f32>;
    /// The one nearest to a number that is not NaN.
    fn nearest(value: f32) -> f32;
    /// How it is stored.
    fn stored(level: f32) -> u8;
}

/// All integers of a range, stored less its first.
pub(super) struct Integers<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Integers<LOW, HIGH> {
    fn reaches() -> impl Iterator<Item = f32> {
        [LOW, HIGH].into_iter().flat_map(|end| {
            let end = end as f32;
            let step = end.abs().min(8.0) / 16.0 * end.signum();
            (-4i8..=6).map(move |count| end + step * f32::from(count))
        })
    }

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        (value.max(LOW as f32).min(HIGH as f32) + ROUND) - ROUND
    }

    fn stored(level: f32) -> u8 {
        (level as i32 - LOW) as u8
    }
}

/// The integers that nibbles of IQ4_NL and IQ4_XS stand for.
pub(super) struct Codes;

/// The number of the code nearest to each integer from -128 on; of two the lower.
const NEAREST_CODE: [u8; 256] = {
    let mut numbers = [0; 256];
    let mut index = 0;
    while index < 256 {
        let value = index as i32 - 128;
        let mut number = 0;
        while number + 1 < CODES.len()
            && (CODES[number + 1] as i32 - value).abs() < (CODES[number] as i32 - value).abs()
        {
            number += 1;
        }
        numbers[index] = number as u8;
        index += 1;
    }
    numbers
};

impl Codes {
    #[inline(always)]
    fn number(value: f32) -> u8 {
        let rounded = Integers::<-128, 127>::nearest(value);
        NEAREST_CODE[(rounded as i32 + 128) as usize & 255]
    }
}

impl Levels for Codes {
    fn reaches() -> impl Iterator<Item = f32> {
        [-127.0, 113.0]
            .into_iter()
            .flat_map(|end: f32| (-4i8..=6).map(move |count| end + end / 16.0 * f32::from(count)))
    }

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        f32::from(CODES[usize::from(Self::number(value))])
    }

    fn stored(level: f32) -> u8 {
        Self::number(level)
    }
}

/// Sums of `COUNT` terms of each element.
#[inline(always)]
fn sums<const N: usize, const COUNT: usize>(terms: impl Fn(usize) -> [f32; COUNT]) -> [f32; COUNT] {
    let mut lanes = [[0.0f32; LANES]; COUNT];
    for first in (0..N).step_by(LANES) {
        for lane in 0..LANES {
            let terms = terms(first + lane);
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[lane] += term;
            }
        }
    }
    lanes.map(|l| ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])))
}

/// 1 / scale, or 0 where that is not a number that can be used.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Rounded to f16.
pub(super) fn half(value: f32) -> f32 {
    f16_to_f32(f32_to_f16(value))
}

/// An integer near a number, within bounds.
pub(super) fn round_within(value: f32, low: i32, high: i32) -> i32 {
    let value = value.max(low as f32).min(high as f32);
    ((value + ROUND) - ROUND) as i32
}

/// The weighted sum of squared errors with a scale.
pub(super) fn error<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N], scale: f32) -> f32 {
    let inverse = inverse(scale);
    let [error] = sums::<N, 1>(|k| {
        let difference = x[k] - scale * L::nearest(x[k] * inverse);
        [w[k] * (difference * difference)]
    });
    error
}

/// The sums over w x q and w q q of elements brought to their levels by a factor.
pub(super) fn moments<L: Levels, const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    factor: f32,
) -> [f32; 2] {
    sums::<N, 2>(|k| {
        let level = L::nearest(x[k] * factor);
        let weighted = w[k] * level;
        [weighted * x[k], weighted * level]
    })
}

/// The scale, not yet rounded to what is stored, that leaves the least error; 0 when there is nothing to scale.
pub(super) fn scale<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N]) -> f32 {
    let extreme = x.iter().fold(0.0f32, |extreme, value| {
        if value.abs() > extreme.abs() {
            *value
        } else {
            extreme
        }
    });
    if extreme.abs() < NEGLIGIBLE {
        return 0.0;
    }
    // What a scale explains of the sum of squares, and the scale.
    let mut best = (0.0, 0.0);
    for reach in L::reaches() {
        let [xq, qq] = moments::<L, N>(x, w, reach / extreme);
        let explained = xq * inverse(qq) * xq;
        if explained > best.0 {
            best = (explained, xq * inverse(qq));
        }
    }
    best.1
}

/// The f16 near `scale` that leaves the least error.
pub(super) fn settle<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N], scale: f32) -> f32 {
    let mut best = half(scale);
    let mut least = error::<L, N>(x, w, best);
    for _ in 0..3 {
        let [xq, qq] = moments::<L, N>(x, w, inverse(best));
        let next = half(xq * inverse(qq));
        let error = error::<L, N>(x, w, next);
        if error < least {
            (best, least) = (next, error);
        } else {
            break;
        }
    }
    best
}

/// A scale and the value of integer 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Affine {
    pub(super) scale: f32,
    pub(super) minimum: f32,
}

impl Affine {
    /// The integer of an element, from 0 to `MAX`.
    #[inline(always)]
    pub(super) fn level<const MAX: i32>(self, inverse: f32, value: f32) -> f32 {
        let level = (value - self.minimum) * inverse;
        (level.max(0.0).min(MAX as f32) + ROUND) - ROUND
    }

    /// The weighted sum of squared errors.
    pub(super) fn error<const MAX: i32, const N: usize>(self, x: &[f32; N], w: &[f32; N]) -> f32 {
        let inverse = inverse(self.scale);
        let [error] = sums::<N, 1>(|k| {
            let level = self.level::<MAX>(inverse, x[k]);
            let difference = x[k] - (self.scale * level + self.minimum);
            [w[k] * (difference * difference)]
        });
        error
    }

    /// The sums of w, w x, w q, w q q and w q x.
    pub(super) fn moments<const MAX: i32, const N: usize>(
        self,
        x: &[f32; N],
        w: &[f32; N],
    ) -> [f64; 5] {
        let inverse = inverse(self.scale);
        let sums = sums::<N, 5>(|k| {
            let level = self.level::<MAX>(inverse, x[k]);
            let weighted = w[k] * level;
            [
                w[k],
                w[k] * x[k],
                weighted,
                weighted * level,
                weighted * x[k],
            ]
        });
        sums.map(f64::from)
    }

    /// The best for the integers that this one gives; `below` if the minimum must not be above 0.
    fn improved<const MAX: i32, const N: usize>(
        self,
        x: &[f32; N],
        w: &[f32; N],
        below: bool,
    ) -> Option<Self> {
        let [one, x_sum, q, qq, qx] = self.moments::<MAX, N>(x, w);
        let determinant = one * qq - q * q;
        let (mut scale, mut minimum) = match determinant > 0.0 {
            true => (
                (one * qx - q * x_sum) / determinant,
                (qq * x_sum - q * qx) / determinant,
            ),
            false => return None,
        };
        if below && minimum > 0.0 {
            (scale, minimum) = (qx / qq, 0.0);
        }
        let found = Self {
            scale: scale as f32,
            minimum: minimum as f32,
        };
        (found.scale > 0.0 && found.scale.is_finite() && found.minimum.is_finite()).then_some(found)
    }

    /// The one, not yet rounded to what is stored, that leaves the least error.
    pub(super) fn fit<const MAX: i32, const N: usize>(
        x: &[f32; N],
        w: &[f32; N],
        below: bool,
    ) -> Self {
        let low = x.iter().copied().fold(f32::INFINITY, f32::min);
        let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let low = if below { low.min(0.0) } else { low };
        let extent = high - low;
        if extent < NEGLIGIBLE {
            return Self {
                scale: 0.0,
                minimum: low,
            };
        }
        let mut best = Self {
            scale: extent / MAX as f32,
            minimum: low,
        };
        let mut least = best.error::<MAX, N>(x, w);
        // How much narrower or wider the candidates' ranges are, step by step.
        let step = match MAX {
            ..4 => 0.06,
            4..16 => 0.03,
            _ => 0.015,
        };
        for count in -1i8..=8 {
            let narrower = step * f32::from(count);
            let mut candidate = Self {
                scale: extent * (1.0 - narrower) / MAX as f32,
                minimum: low + extent * narrower * 0.5,
            };
            for _ in 0..2 {
                let Some(next) = candidate.improved::<MAX, N>(x, w, below) else {
                    break;
                };
                candidate = next;
                let error = candidate.error::<MAX, N>(x, w);
                if error < least {
                    (best, least) = (candidate, error);
                }
            }
        }
        best
    }

    /// Both rounded to f16, with the least error.
    pub(super) fn settle<const MAX: i32, const N: usize>(self, x: &[f32; N], w: &[f32; N]) -> Self {
        let rounded = |affine: Self| Self {
            scale: half(affine.scale.min(F16_MAX)),
            minimum: half(affine.minimum.clamp(-F16_MAX, F16_MAX)),
        };
        let mut best = rounded(self);
        let mut least = best.error::<MAX, N>(x, w);
        for _ in 0..3 {
            let Some(next) = best.improved::<MAX, N>(x, w, false).map(rounded) else {
                break;
            };
            let error = next.error::<MAX, N>(x, w);
            if error < least {
                (best, least) = (next, error);
            } else {
                break;
            }
        }
        best
    }
}
