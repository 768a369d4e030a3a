//! Fixed point against exact rational arithmetic in i128, all words of 16 bits where that is cheap.

use proptest::prelude::*;

use super::*;
use crate::selftest::Generator;

/// The rational `numerator` / `denominator` rounded to an integer: the candidates are the integers on both sides, the
/// choice is by their distances.
fn expected(numerator: i128, denominator: i128, rounding: Rounding) -> i128 {
    let (numerator, denominator) = if denominator < 0 {
        (-numerator, -denominator)
    } else {
        (numerator, denominator)
    };
    let mut low = numerator / denominator;
    if low * denominator > numerator {
        low -= 1;
    }
    let high = low + 1;
    let (to_low, to_high) = (
        numerator - low * denominator,
        high * denominator - numerator,
    );
    if to_low == 0 {
        return low;
    }
    let even = if low % 2 == 0 { low } else { high };
    match rounding {
        Rounding::HalfEven if to_low == to_high => even,
        Rounding::HalfUp if to_low == to_high => high,
        Rounding::HalfEven | Rounding::HalfUp if to_low < to_high => low,
        Rounding::HalfEven | Rounding::HalfUp => high,
        Rounding::TowardZero if numerator < 0 => high,
        Rounding::TowardZero | Rounding::Floor => low,
        // A fraction of more than 2^-96 is all the oracle sees; the callers stay above it.
        Rounding::Stochastic(draw) if i128::from(draw.to_bits()) * denominator < to_low << 32 => {
            high
        }
        Rounding::Stochastic(_) => low,
    }
}

/// All roundings, the stochastic one with draws at the ends, in the middle and anywhere.
fn roundings(draw: u32) -> [Rounding; 8] {
    let stochastic = |bits| Rounding::Stochastic(Draw::from_bits(bits));
    [
        Rounding::HalfEven,
        Rounding::HalfUp,
        Rounding::TowardZero,
        Rounding::Floor,
        stochastic(0),
        stochastic(1 << 31),
        stochastic(u32::MAX),
        stochastic(draw),
    ]
}

fn saturated<T: Word>(value: i128) -> i128 {
    let (low, high): (i64, i64) = (T::MIN.into(), T::MAX.into());
    value.clamp(low.into(), high.into())
}

/// Both forms of a result against the exact integer.
fn check<T: Word, const F: u32>(
    saturating: Fixed<T, F>,
    checked: Option<Fixed<T, F>>,
    exact: i128,
) {
    assert_eq!(i128::from(saturating.wide()), saturated::<T>(exact));
    assert_eq!(
        checked,
        (saturated::<T>(exact) == exact).then_some(saturating)
    );
}

/// Every operation on two words.
fn check_pair<T: Word, const F: u32>(a: T, b: T, draw: u32) {
    let (x, y) = (Fixed::<T, F>::from_bits(a), Fixed::<T, F>::from_bits(b));
    let (a, b) = (i128::from(x.wide()), i128::from(y.wide()));
    check(x.saturating_add(y), x.checked_add(y), a + b);
    check(x.saturating_sub(y), x.checked_sub(y), a - b);
    for rounding in roundings(draw) {
        check(
            x.saturating_mul(y, rounding),
            x.checked_mul(y, rounding),
            expected(a * b, 1 << F, rounding),
        );
        if b == 0 {
            let end = [T::MIN, T::ZERO, T::MAX][(a.signum() + 1) as usize];
            assert_eq!(x.saturating_div(y, rounding).to_bits(), end);
            assert_eq!(x.checked_div(y, rounding), None);
        } else {
            check(
                x.saturating_div(y, rounding),
                x.checked_div(y, rounding),
                expected(a << F, b, rounding),
            );
        }
    }
}

/// Every operation on one word.
fn check_one<T: Word, const F: u32>(bits: T, draw: u32) {
    let x = Fixed::<T, F>::from_bits(bits);
    let wide = i128::from(x.wide());
    check(x.saturating_neg(), x.checked_neg(), -wide);
    let unit = 0.5f64.powi_exact(F);
    assert_eq!(x.to_f64().to_bits(), (wide as f64 * unit).to_bits());
    assert_eq!(x.to_f32().to_bits(), (x.to_f64() as f32).to_bits());
    let integer: i32 = bits.into();
    let from = (
        Fixed::<T, F>::saturating_from_integer(integer),
        Fixed::<T, F>::checked_from_integer(integer),
    );
    check(from.0, from.1, i128::from(integer) << F);
    for rounding in roundings(draw) {
        let exact = expected(wide, 1 << F, rounding);
        assert_eq!(i128::from(x.to_integer(rounding)), exact);
        assert_eq!(Fixed::checked_from_f64(x.to_f64(), rounding), Some(x));
        check_rescale::<T, F, i16, 0>(x, rounding);
        check_rescale::<T, F, i16, 7>(x, rounding);
        check_rescale::<T, F, i16, 15>(x, rounding);
        check_rescale::<T, F, i32, 0>(x, rounding);
        check_rescale::<T, F, i32, 16>(x, rounding);
        check_rescale::<T, F, i32, 31>(x, rounding);
    }
}

fn check_rescale<T: Word, const F: u32, U: Word, const TO: u32>(
    x: Fixed<T, F>,
    rounding: Rounding,
) {
    check::<U, TO>(
        x.saturating_rescale(rounding),
        x.checked_rescale(rounding),
        expected(i128::from(x.wide()) << TO, 1 << F, rounding),
    );
}

/// Every conversion of a float whose lowest bit is at least 2^-64 and highest below 2^62.
fn check_float<T: Word, const F: u32>(mantissa: i64, exponent: i32, draw: u32) {
    let value = if exponent < 0 {
        mantissa as f64 / (1u128 << -exponent) as f64
    } else {
        mantissa as f64 * (1u64 << exponent) as f64
    };
    let (numerator, denominator) = if exponent < 0 {
        (i128::from(mantissa) << F, 1i128 << -exponent)
    } else {
        (i128::from(mantissa) << exponent << F, 1)
    };
    for rounding in roundings(draw) {
        let exact = expected(numerator, denominator, rounding);
        check::<T, F>(
            Fixed::saturating_from_f64(value, rounding),
            Fixed::checked_from_f64(value, rounding),
            exact,
        );
        if f64::from(value as f32) == value {
            check::<T, F>(
                Fixed::saturating_from_f32(value as f32, rounding),
                Fixed::checked_from_f32(value as f32, rounding),
                exact,
            );
        }
    }
}

trait PowerOfHalf {
    fn powi_exact(self, exponent: u32) -> f64;
}

impl PowerOfHalf for f64 {
    fn powi_exact(self, exponent: u32) -> f64 {
        (0..exponent).fold(1.0, |power, _| power * self)
    }
}

#[test]
fn all_words_of_16_bits_in_operations_on_one() {
    let mut generator = Generator::new(3);
    for bits in i16::MIN..=i16::MAX {
        let draw = generator.bits() as u32;
        check_one::<i16, 0>(bits, draw);
        check_one::<i16, 8>(bits, draw);
        check_one::<i16, 15>(bits, draw);
    }
}

#[test]
fn words_at_the_ends_and_around_zero_in_operations_on_two() {
    let ends = |min: i64, max: i64| {
        let middle = max / 2;
        [
            min,
            min + 1,
            -middle - 1,
            -3,
            -2,
            -1,
            0,
            1,
            2,
            3,
            middle,
            max - 1,
            max,
        ]
    };
    for a in ends(i16::MIN.into(), i16::MAX.into()) {
        for b in ends(i16::MIN.into(), i16::MAX.into()) {
            check_pair::<i16, 0>(a as i16, b as i16, 1);
            check_pair::<i16, 8>(a as i16, b as i16, 1);
            check_pair::<i16, 15>(a as i16, b as i16, 1);
        }
    }
    for a in ends(i32::MIN.into(), i32::MAX.into()) {
        check_one::<i32, 0>(a as i32, 1);
        check_one::<i32, 31>(a as i32, 1);
        for b in ends(i32::MIN.into(), i32::MAX.into()) {
            check_pair::<i32, 0>(a as i32, b as i32, 1);
            check_pair::<i32, 16>(a as i32, b as i32, 1);
            check_pair::<i32, 31>(a as i32, b as i32, 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn operations_on_two_equal_exact_arithmetic(a: i32, b: i32, down in 0u32..32, draw: u32) {
        // Shifted down, so that quotients and sums in range are common too.
        let (a, b) = (a >> (down / 2), b >> down);
        check_pair::<i32, 0>(a, b, draw);
        check_pair::<i32, 5>(a, b, draw);
        check_pair::<i32, 16>(a, b, draw);
        check_pair::<i32, 31>(a, b, draw);
        check_one::<i32, 0>(a, draw);
        check_one::<i32, 13>(a, draw);
        check_one::<i32, 31>(a, draw);
        let (a, b) = (a as i16, b as i16);
        check_pair::<i16, 0>(a, b, draw);
        check_pair::<i16, 11>(a, b, draw);
        check_pair::<i16, 15>(a, b, draw);
    }

    #[test]
    fn floats_round_once(mantissa in -(1i64 << 53)..=1 << 53, down in 0u32..53, exponent in -64i32..9, draw: u32) {
        let mantissa = mantissa >> down;
        check_float::<i16, 0>(mantissa, exponent, draw);
        check_float::<i16, 15>(mantissa, exponent, draw);
        check_float::<i32, 0>(mantissa, exponent, draw);
        check_float::<i32, 16>(mantissa, exponent, draw);
        check_float::<i32, 31>(mantissa, exponent, draw);
    }
}

#[test]
fn floats_out_of_every_range() {
    type F = Fixed32<16>;
    for rounding in roundings(9) {
        assert_eq!(F::saturating_from_f64(f64::NAN, rounding), F::ZERO);
        assert_eq!(F::saturating_from_f64(f64::INFINITY, rounding), F::MAX);
        assert_eq!(F::saturating_from_f64(f64::NEG_INFINITY, rounding), F::MIN);
        assert_eq!(F::saturating_from_f64(f64::MAX, rounding), F::MAX);
        assert_eq!(F::saturating_from_f64(f64::MIN, rounding), F::MIN);
        for value in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN,
        ] {
            assert_eq!(F::checked_from_f64(value, rounding), None);
        }
    }
}

#[test]
fn tiny_floats_show_no_more_than_their_sign() {
    type F = Fixed32<0>;
    let draw = |bits| Rounding::Stochastic(Draw::from_bits(bits));
    for exponent in [34, 60, 85, 86, 87, 140, 900, 1022, 1074] {
        let tiny = 0.5f64.powi_exact(exponent);
        for (rounding, positive, negative) in [
            (Rounding::HalfEven, 0, 0),
            (Rounding::HalfUp, 0, 0),
            (Rounding::TowardZero, 0, 0),
            (Rounding::Floor, 0, -1),
            (draw(0), 1, 0),
            (draw(1), 0, 0),
            (draw(u32::MAX), 0, 0),
        ] {
            let round = |value| F::saturating_from_f64(value, rounding).to_bits();
            assert_eq!(round(tiny), positive, "2^-{exponent} {rounding:?}");
            assert_eq!(round(-tiny), negative, "-2^-{exponent} {rounding:?}");
        }
    }
    assert_eq!(F::saturating_from_f64(-0.0, Rounding::Floor), F::ZERO);
}

#[test]
fn stochastic_rounding_goes_up_for_its_share_of_draws() {
    // 3/16 between 0 and 1: exactly the draws below 3/16 of 2^32.
    let x = Fixed16::<4>::from_bits(3);
    let at = |bits| x.to_integer(Rounding::Stochastic(Draw::from_bits(bits)));
    assert_eq!([0, (3 << 28) - 1, 3 << 28, u32::MAX].map(at), [1, 1, 0, 0]);
    let draws = crate::stochastic::Draws::new(1, 2);
    let up: i32 = (0..1 << 16)
        .map(|index| x.to_integer(Rounding::Stochastic(draws.at(index))))
        .sum();
    // The count of these draws; 3/16 of 65,536 is 12,288, the standard deviation 100.
    assert_eq!(up, 12_364);
}
