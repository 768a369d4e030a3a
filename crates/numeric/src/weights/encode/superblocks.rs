//! Superblocks of 256: sub-blocks with integer scales, and minima in some, of an f16.
use super::blocks::{nibbles, put_half};
use super::fit::{self, Affine, Codes, Integers, Levels, half, inverse};
use crate::weights::WeightFormat;

type Superblock = [f32; 256];

/// Sub-blocks at most.
const SUBS_MAX: usize = 16;
/// Rounds of improvement.
const ROUNDS: usize = 3;

/// Writes a superblock.
pub(super) fn encode(format: WeightFormat, x: &Superblock, w: &Superblock, bytes: &mut [u8]) {
    match format {
        WeightFormat::Q2_K => {
            let fitted = affine::<3, 15, 16>(x, w);
            for (j, byte) in bytes[..16].iter_mut().enumerate() {
                *byte = (fitted.scales[j] | fitted.minima[j] << 4) as u8;
            }
            pairs(&fitted.levels, &mut bytes[16..80]);
            put_half(&mut bytes[80..], fitted.scale);
            put_half(&mut bytes[82..], fitted.minimum);
        }
        WeightFormat::Q3_K => {
            let fitted = symmetric::<Integers<-4, 3>, 16>(x, w, -32, 31);
            for (k, level) in fitted.levels.iter().enumerate() {
                bytes[k % 32] |= (level >> 2) << (k / 32);
            }
            pairs(&fitted.levels, &mut bytes[32..96]);
            for (j, scale) in fitted.scales.iter().enumerate() {
                let stored = (scale + 32) as u8;
                bytes[96 + j % 8] |= (stored & 15) << (4 * (j / 8));
                bytes[104 + j % 4] |= (stored >> 4) << (2 * (j / 4));
            }
            put_half(&mut bytes[108..], fitted.scale);
        }
        WeightFormat::Q4_K => {
            let fitted = affine::<15, 63, 32>(x, w);
            fitted.put_six_bits(bytes);
            halves_of_64(&fitted.levels, &mut bytes[16..]);
        }
        WeightFormat::Q5_K => {
            let fitted = affine::<31, 63, 32>(x, w);
            fitted.put_six_bits(bytes);
            for (k, level) in fitted.levels.iter().enumerate() {
                bytes[16 + k % 32] |= (level >> 4) << (k / 32);
            }
            halves_of_64(&fitted.levels, &mut bytes[48..]);
        }
        WeightFormat::Q6_K => {
            let fitted = symmetric::<Integers<-32, 31>, 16>(x, w, -128, 127);
            for (k, level) in fitted.levels.iter().enumerate() {
                let (half, place) = (k / 128, k / 32 % 4);
                bytes[64 * half + k % 64] |= (level & 15) << (place / 2 * 4);
                bytes[128 + 32 * half + k % 32] |= (level >> 4) << (2 * place);
            }
            for (byte, scale) in bytes[192..208].iter_mut().zip(&fitted.scales) {
                *byte = (*scale as i8).cast_unsigned();
            }
            put_half(&mut bytes[208..], fitted.scale);
        }
        WeightFormat::IQ4_XS => {
            let fitted = symmetric::<Codes, 32>(x, w, -32, 31);
            put_half(bytes, fitted.scale);
            for (j, scale) in fitted.scales[..8].iter().enumerate() {
                let stored = (scale + 32) as u8;
                bytes[2 + j / 4] |= (stored >> 4) << (2 * (j % 4));
                bytes[4 + j / 2] |= (stored & 15) << (4 * (j % 2));
            }
            let levels = fitted.levels.as_chunks::<32>().0;
            for (levels, bytes) in levels.iter().zip(bytes[8..].chunks_exact_mut(16)) {
                nibbles(levels, bytes);
            }
        }
        _ => unreachable!("not a format of superblocks: {format}"),
    }
}

/// The two low bits of each, four that are 32 apart in a byte.
fn pairs(levels: &[u8; 256], bytes: &mut [u8]) {
    for (k, level) in levels.iter().enumerate() {
        bytes[32 * (k / 128) + k % 32] |= (level & 3) << (2 * (k / 32 % 4));
    }
}

/// The four low bits of each, two that are 32 apart in a byte.
fn halves_of_64(levels: &[u8; 256], bytes: &mut [u8]) {
    for (k, level) in levels.iter().enumerate() {
        bytes[k / 64 * 32 + k % 32] |= (level & 15) << (k / 32 % 2 * 4);
    }
}

struct Symmetric {
    scale: f32,
    scales: [i32; SUBS_MAX],
    /// As stored.
    levels: [u8; 256],
}

/// Sub-blocks of `N`, with integer scales from `low` to `high`.
fn symmetric<L: Levels, const N: usize>(
    x: &Superblock,
    w: &Superblock,
    low: i32,
    high: i32,
) -> Symmetric {
    let (x, w) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let mut wanted = [0.0f32; SUBS_MAX];
    for ((wanted, x), w) in wanted.iter_mut().zip(x).zip(w) {
        *wanted = fit::scale::<L, N>(x, w);
    }
    let extreme = wanted.iter().fold(0.0f32, |extreme, scale| {
        if scale.abs() > extreme.abs() {
            *scale
        } else {
            extreme
        }
    });
    let mut best = (f32::INFINITY, 0.0, [0; SUBS_MAX]);
    for end in [low, high] {
        let mut scale = half(extreme / end as f32);
        for _ in 0..ROUNDS {
            let (error, scales) = integer_scales::<L, N>(x, w, &wanted, scale, low, high);
            if error < best.0 {
                best = (error, scale, scales);
            }
            // The best scale for these integers.
            let (mut xq, mut qq) = (0.0f64, 0.0f64);
            for ((x, w), s) in x.iter().zip(w).zip(scales) {
                let s = s as f32;
                let sums = fit::moments::<L, N>(x, w, inverse(scale * s));
                xq += f64::from(s) * f64::from(sums[0]);
                qq += f64::from(s) * f64::from(s) * f64::from(sums[1]);
            }
            let next = if qq > 0.0 {
                half((xq / qq) as f32)
            } else {
                0.0
            };
            if next == scale || !next.is_finite() {
                break;
            }
            scale = next;
        }
    }
    let (_, scale, scales) = best;
    let mut levels = [0; 256];
    for ((levels, x), s) in levels.as_chunks_mut::<N>().0.iter_mut().zip(x).zip(scales) {
        let inverse = inverse(scale * s as f32);
        *levels = x.map(|value| L::stored(L::nearest(value * inverse)));
    }
    Symmetric {
        scale,
        scales,
        levels,
    }
}

/// The integer scales with the least error, and that error.
fn integer_scales<L: Levels, const N: usize>(
    x: &[[f32; N]],
    w: &[[f32; N]],
    wanted: &[f32; SUBS_MAX],
    scale: f32,
    low: i32,
    high: i32,
) -> (f32, [i32; SUBS_MAX]) {
    let inverse = inverse(scale);
    let mut total = 0.0;
    let mut scales = [0; SUBS_MAX];
    for (j, (x, w)) in x.iter().zip(w).enumerate() {
        let near = fit::round_within(wanted[j] * inverse, low, high);
        let mut least = f32::INFINITY;
        for s in [near, near - 1, near + 1] {
            if !(low..=high).contains(&s) {
                continue;
            }
            let error = fit::error::<L, N>(x, w, scale * s as f32);
            if error < least {
                (least, scales[j]) = (error, s);
            }
        }
        total += least;
    }
    (total, scales)
}

struct WithMinima {
    scale: f32,
    minimum: f32,
    scales: [i32; SUBS_MAX],
    minima: [i32; SUBS_MAX],
    levels: [u8; 256],
}

impl WithMinima {
    /// Both f16, and eight scales and minima of six bits each in twelve bytes.
    fn put_six_bits(&self, bytes: &mut [u8]) {
        put_half(bytes, self.scale);
        put_half(&mut bytes[2..], self.minimum);
        let bytes = &mut bytes[4..16];
        for j in 0..4 {
            bytes[j] = self.scales[j] as u8 | (self.scales[j + 4] as u8 >> 4) << 6;
            bytes[j + 4] = self.minima[j] as u8 | (self.minima[j + 4] as u8 >> 4) << 6;
            bytes[j + 8] = self.scales[j + 4] as u8 & 15 | (self.minima[j + 4] as u8 & 15) << 4;
        }
    }
}

/// Sub-blocks of `N` with integers up to `MAX`, and scales and minima up to `SCALE_MAX`.
fn affine<const MAX: i32, const SCALE_MAX: i32, const N: usize>(
    x: &Superblock,
    w: &Superblock,
) -> WithMinima {
    let (x, w) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let mut wanted = [Affine::default(); SUBS_MAX];
    for ((wanted, x), w) in wanted.iter_mut().zip(x).zip(w) {
        *wanted = Affine::fit::<MAX, N>(x, w, true);
    }
    let largest = |of: fn(&Affine) -> f32| wanted.iter().map(of).fold(0.0, f32::max);
    let mut scale = half(largest(|one| one.scale) / SCALE_MAX as f32);
    let mut minimum = half(largest(|one| -one.minimum) / SCALE_MAX as f32);
    let mut best = (f32::INFINITY, 0.0, 0.0, [(0, 0); SUBS_MAX]);
    for _ in 0..ROUNDS {
        let (error, integers) = integer_pairs::<MAX, SCALE_MAX, N>(x, w, &wanted, scale, minimum);
        if error < best.0 {
            best = (error, scale, minimum, integers);
        }
        let Some(next) = improved::<MAX, N>(x, w, scale, minimum, &integers) else {
            break;
        };
        if next == (scale, minimum) {
            break;
        }
        (scale, minimum) = next;
    }
    let (_, scale, minimum, integers) = best;
    let mut levels = [0; 256];
    for ((levels, x), pair) in levels
        .as_chunks_mut::<N>()
        .0
        .iter_mut()
        .zip(x)
        .zip(integers)
    {
        let one = both(scale, minimum, pair);
        let inverse = inverse(one.scale);
        *levels = x.map(|value| one.level::<MAX>(inverse, value) as u8);
    }
    WithMinima {
        scale,
        minimum,
        scales: integers.map(|pair| pair.0),
        minima: integers.map(|pair| pair.1),
        levels,
    }
}

fn both(scale: f32, minimum: f32, (s, m): (i32, i32)) -> Affine {
    Affine {
        scale: scale * s as f32,
        minimum: -(minimum * m as f32),
    }
}

/// The integer scales and minima with the least error, and that error.
fn integer_pairs<const MAX: i32, const SCALE_MAX: i32, const N: usize>(
    x: &[[f32; N]],
    w: &[[f32; N]],
    wanted: &[Affine; SUBS_MAX],
    scale: f32,
    minimum: f32,
) -> (f32, [(i32, i32); SUBS_MAX]) {
    let (inverse_scale, inverse_minimum) = (inverse(scale), inverse(minimum));
    let mut total = 0.0;
    let mut integers = [(0, 0); SUBS_MAX];
    for (j, (x, w)) in x.iter().zip(w).enumerate() {
        let s = fit::round_within(wanted[j].scale * inverse_scale, 0, SCALE_MAX);
        let m = fit::round_within(-wanted[j].minimum * inverse_minimum, 0, SCALE_MAX);
        let mut least = f32::INFINITY;
        for s in [s, s - 1, s + 1] {
            for m in [m, m - 1, m + 1] {
                if !(0..=SCALE_MAX).contains(&s) || !(0..=SCALE_MAX).contains(&m) {
                    continue;
                }
                let error = both(scale, minimum, (s, m)).error::<MAX, N>(x, w);
                if error < least {
                    (least, integers[j]) = (error, (s, m));
                }
            }
        }
        total += least;
    }
    (total, integers)
}

/// The best scales for the integers that these give.
fn improved<const MAX: i32, const N: usize>(
    x: &[[f32; N]],
    w: &[[f32; N]],
    scale: f32,
    minimum: f32,
    integers: &[(i32, i32); SUBS_MAX],
) -> Option<(f32, f32)> {
    // x is near scale * a - minimum * b with a = s q and b = m.
    let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for ((x, w), pair) in x.iter().zip(w).zip(integers) {
        let [one, x_sum, q, qq, qx] = both(scale, minimum, *pair).moments::<MAX, N>(x, w);
        let (s, m) = (f64::from(pair.0), f64::from(pair.1));
        aa += s * s * qq;
        ab += s * m * q;
        bb += m * m * one;
        ax += s * qx;
        bx += m * x_sum;
    }
    let determinant = aa * bb - ab * ab;
    let (scale, minimum) = if determinant > 0.0 {
        (
            (ax * bb - ab * bx) / determinant,
            (ab * ax - aa * bx) / determinant,
        )
    } else if aa > 0.0 {
        (ax / aa, 0.0)
    } else {
        return None;
    };
    let (scale, minimum) = (half(scale as f32), half(minimum as f32));
    (scale > 0.0 && scale.is_finite() && minimum >= 0.0 && minimum.is_finite())
        .then_some((scale, minimum))
}
