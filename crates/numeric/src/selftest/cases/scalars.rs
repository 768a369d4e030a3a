//! Conversions, fixed point, stochastic rounding and exact sums.

use super::Generator;
use crate::Kernels;
use crate::convert::{bf16_to_f32, canonical, f32_to_bf16, f64_to_f32};
use crate::exact::{ExactSum, ExactSum32, ExactSum64, Summand};
use crate::fixed::{Fixed, Rounding, Word};
use crate::scalar;
use crate::stochastic::Draws;

/// Any f64: a pattern of any bits, or one that an f32 has, or between two f32.
fn any_f64(generator: &mut Generator) -> f64 {
    let bits = generator.bits();
    match bits % 4 {
        0 => f64::from_bits(generator.bits()),
        1 => widen(generator.any()),
        2 => f64::from_bits(widen(generator.any()).to_bits() ^ 1 << (bits >> 58)),
        _ => f64::from(generator.ordinary(4.0)) * f64::from(generator.ordinary(1e9)),
    }
}

/// Exact, with one NaN: the conversion leaves a NaN's payload to the machine, and inputs must not depend on it.
fn widen(value: f32) -> f64 {
    if value.is_nan() {
        f64::from_bits(0x7ff8_0000_0000_0000)
    } else {
        value.into()
    }
}

/// The low and the high word.
fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

pub(super) fn convert_bf16(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    (0..2000)
        .flat_map(|_| {
            let narrow = u32::from(f32_to_bf16(generator.any()));
            // No kernel lets a widened NaN's payload be observed.
            let wide = canonical(bf16_to_f32(generator.bits() as u16)).to_bits();
            [narrow, wide, f64_to_f32(any_f64(generator)).to_bits()]
        })
        .collect()
}

pub(super) fn minimum_maximum(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    (0..2000)
        .flat_map(|_| {
            let (a, b) = (generator.any(), generator.any());
            [scalar::minimum(a, b), scalar::maximum(a, b)].map(f32::to_bits)
        })
        .collect()
}

pub(super) fn float_to_integer(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let mut output = Vec::new();
    for _ in 0..200 {
        for value in [
            generator.any(),
            generator.ordinary(300.0),
            generator.ordinary(5e9),
        ] {
            output.extend([
                scalar::f32_to_i8(value) as u32,
                scalar::f32_to_i16(value) as u32,
                scalar::f32_to_i32(value) as u32,
                scalar::f32_to_u8(value).into(),
                scalar::f32_to_u32(value),
            ]);
            output.extend(words(scalar::f32_to_i64(value) as u64));
        }
        let value = any_f64(generator);
        output.extend([
            scalar::f64_to_i8(value) as u32,
            scalar::f64_to_i16(value) as u32,
            scalar::f64_to_i32(value) as u32,
            scalar::f64_to_u8(value).into(),
            scalar::f64_to_u32(value),
        ]);
        output.extend(words(scalar::f64_to_i64(value) as u64));
        output.push(scalar::i32_to_f32(generator.bits() as i32).to_bits());
    }
    output
}

/// Every operation on fixed point under `rounding`; a result out of range leaves a mark.
fn fixed<T: Word, const FRACTION: u32>(
    generator: &mut Generator,
    rounding: Rounding,
    output: &mut Vec<u32>,
) {
    const ABSENT: u32 = 0x5555_5555;
    let mut draw = || {
        // From the whole range or near zero.
        let bits = generator.bits();
        let word = (bits as i32) >> (32 - T::BITS) >> (bits >> 32 & 15);
        Fixed::<T, FRACTION>::from_bits(T::try_from(word.into()).unwrap_or(T::ZERO))
    };
    let (a, b) = (draw(), draw());
    let bits = |value: Fixed<T, FRACTION>| Into::<i32>::into(value.to_bits()) as u32;
    let value = any_f64(generator);
    let integer = generator.bits() as i32 >> generator.between(0, 31);
    for (saturating, checked) in [
        (a.saturating_add(b), a.checked_add(b)),
        (a.saturating_sub(b), a.checked_sub(b)),
        (a.saturating_neg(), a.checked_neg()),
        (a.saturating_mul(b, rounding), a.checked_mul(b, rounding)),
        (a.saturating_div(b, rounding), a.checked_div(b, rounding)),
        (
            Fixed::saturating_from_f64(value, rounding),
            Fixed::checked_from_f64(value, rounding),
        ),
        (
            Fixed::saturating_from_integer(integer),
            Fixed::checked_from_integer(integer),
        ),
    ] {
        output.extend([bits(saturating), checked.map_or(ABSENT, bits)]);
    }
    let to_16: Fixed<i16, 6> = a.saturating_rescale(rounding);
    let to_32: Fixed<i32, 20> = a.saturating_rescale(rounding);
    output.extend([to_16.to_bits() as u32, to_32.to_bits() as u32]);
    output.extend([a.to_integer(rounding) as u32, a.to_f32().to_bits()]);
    output.extend(words(a.to_f64().to_bits()));
}

/// Fixed point in one word under all roundings, with three fractions.
fn fixed_words<T: Word, const LOW: u32, const MIDDLE: u32, const HIGH: u32>(
    generator: &mut Generator,
) -> Vec<u32> {
    let mut output = Vec::new();
    let draws = Draws::new(generator.bits(), generator.bits());
    for index in 0..40 {
        for rounding in [
            Rounding::HalfEven,
            Rounding::HalfUp,
            Rounding::TowardZero,
            Rounding::Floor,
            Rounding::Stochastic(draws.at(index)),
        ] {
            fixed::<T, LOW>(generator, rounding, &mut output);
            fixed::<T, MIDDLE>(generator, rounding, &mut output);
            fixed::<T, HIGH>(generator, rounding, &mut output);
        }
    }
    output
}

pub(super) fn fixed_16(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    fixed_words::<i16, 0, 8, 15>(generator)
}

pub(super) fn fixed_32(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    fixed_words::<i32, 0, 16, 31>(generator)
}

pub(super) fn stochastic(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let draws = Draws::new(generator.bits(), generator.bits());
    let first = generator.bits();
    let mut filled = vec![draws.at(0); 1000];
    draws.fill(first, &mut filled);
    filled
        .iter()
        .flat_map(|draw| {
            let value = Fixed::<i32, 31>::from_bits(generator.bits() as i32);
            let rounded: Fixed<i16, 9> = value.saturating_rescale(Rounding::Stochastic(*draw));
            [draw.to_bits(), rounded.to_bits() as u32]
        })
        .collect()
}

/// The bytes of a sum as words.
fn sum_words<F: Summand>(sum: &ExactSum<F>, output: &mut Vec<u32>) {
    output.extend(sum.to_bytes().iter().map(|byte| u32::from(*byte)));
}

pub(super) fn exact_f32(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let mut output = Vec::new();
    let mut all = ExactSum32::new();
    for _ in 0..8 {
        let count = generator.between(0, 600);
        let mut sum = ExactSum32::new();
        let (a, b) = (generator.values(count, 3.0), generator.values(count, 1e-3));
        sum.add_slice(&a).expect("few terms");
        output.push(sum.round().to_bits());
        sum.add_products(&a, &b).expect("few terms");
        sum.add(generator.any()).expect("few terms");
        output.push(sum.round().to_bits());
        all.merge(&sum).expect("few terms");
        sum_words(&all, &mut output);
    }
    output
}

pub(super) fn exact_f64(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let mut output = Vec::new();
    let mut all = ExactSum64::new();
    for _ in 0..6 {
        let count = generator.between(0, 600);
        // Of any exponent in one of two sums.
        let wild = generator.between(0, 1) == 0;
        let values: Vec<f64> = (0..count)
            .map(|_| {
                let value = if wild {
                    any_f64(generator)
                } else {
                    f64::from(generator.ordinary(2.0)) * f64::from(generator.ordinary(1e-6))
                };
                if value.is_finite() { value } else { 0.0 }
            })
            .collect();
        let mut sum = ExactSum64::new();
        sum.add_slice(&values).expect("few terms");
        output.extend(words(sum.round().to_bits()));
        all.merge(&sum).expect("few terms");
        sum_words(&all, &mut output);
        sum.add(any_f64(generator)).expect("few terms");
        output.extend(words(sum.round().to_bits()));
    }
    output
}
