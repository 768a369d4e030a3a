//! Exact sums against arbitrary precision, in all orders and partitions, and against bytes of any kind.

use astro_float::{BigFloat, RoundingMode};
use proptest::prelude::*;

use super::*;
use crate::selftest::Generator;

/// What a test needs to know about a float beside [`Summand`].
trait Float: Summand + PartialEq {
    const MAX_FINITE: f64;
    /// What would come after the largest finite value: 2^128 or 2^1024.
    fn past_max() -> BigFloat;
    fn bits(self) -> u64;
    fn of_bits(bits: u64) -> Self;
    fn wide(self) -> f64;
}

impl Float for f32 {
    const MAX_FINITE: f64 = f32::MAX as f64;
    fn past_max() -> BigFloat {
        big(2.0 * (1u128 << 127) as f64)
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
    fn of_bits(bits: u64) -> Self {
        Self::from_bits(bits as u32)
    }
    fn wide(self) -> f64 {
        self.into()
    }
}

impl Float for f64 {
    const MAX_FINITE: f64 = f64::MAX;
    fn past_max() -> BigFloat {
        let half = big(f64::from_bits(2046 << 52));
        half.plus(&half)
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    fn of_bits(bits: u64) -> Self {
        Self::from_bits(bits)
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Bits that hold every sum of this page: 2,098 of f64, a few for the number of terms, doubled.
const PRECISION: usize = 2304;

/// The value, exactly. The library takes subnormals of f64 for half their value, so they arrive as normal numbers.
fn big(value: f64) -> BigFloat {
    if !value.is_subnormal() {
        return BigFloat::from_f64(value, PRECISION);
    }
    let power = (1u64 << 60) as f64;
    let scale = BigFloat::from_f64(1.0 / power, PRECISION);
    BigFloat::from_f64(value * power, PRECISION).mul(&scale, PRECISION, RoundingMode::None)
}

trait Plus {
    /// The sum, exactly.
    fn plus(&self, other: &Self) -> Self;
}

impl Plus for BigFloat {
    fn plus(&self, other: &Self) -> Self {
        self.add(other, PRECISION, RoundingMode::None)
    }
}

/// Checks that `rounded` is the exact value rounded once: it lies between the midpoints on both sides of the result,
/// on one only if the result is even.
fn assert_nearest<F: Float>(exact: &BigFloat, rounded: F) {
    if exact.is_zero() {
        assert_eq!(rounded.bits(), 0);
        return;
    }
    let negative = exact.is_negative();
    let sign = 1 << (F::KIND - 1);
    assert_eq!(rounded.bits() & sign != 0, negative);
    let magnitude = rounded.bits() & !sign;
    let value = |bits: u64| {
        let value = F::of_bits(bits).wide();
        if value.is_infinite() {
            F::past_max()
        } else {
            assert!(value <= F::MAX_FINITE);
            big(value)
        }
    };
    // Doubled, so that a midpoint is a sum.
    let twice = exact.abs().plus(&exact.abs());
    let even = magnitude & 1 == 0;
    if magnitude != 0 {
        let below = value(magnitude - 1).plus(&value(magnitude));
        let order = twice.cmp(&below).unwrap();
        assert!(
            order > 0 || (order == 0 && even),
            "{rounded:?} is too large"
        );
    }
    if F::of_bits(magnitude).wide().is_finite() {
        let above = value(magnitude).plus(&value(magnitude + 1));
        let order = twice.cmp(&above).unwrap();
        assert!(
            order < 0 || (order == 0 && even),
            "{rounded:?} is too small"
        );
    }
}

/// The sum that the contract prescribes for these terms, against which `sum` is checked.
fn check<F: Float>(sum: &ExactSum<F>, terms: &[F]) {
    let has = |test: fn(f64) -> bool| terms.iter().any(|term| test(term.wide()));
    let (plus, minus) = (
        has(|term| term == f64::INFINITY),
        has(|term| term == f64::NEG_INFINITY),
    );
    let rounded = sum.round();
    assert_eq!(sum.terms(), terms.len() as u64);
    if has(f64::is_nan) || (plus && minus) {
        assert_eq!(rounded.bits(), F::NAN.bits());
    } else if plus || minus {
        assert_eq!(rounded.bits(), F::infinity(minus).bits());
    } else {
        let exact = terms
            .iter()
            .fold(big(0.0), |sum, term| sum.plus(&big(term.wide())));
        assert_nearest(&exact, rounded);
    }
}

fn sum_of<F: Summand>(terms: &[F]) -> ExactSum<F> {
    let mut sum = ExactSum::new();
    sum.add_slice(terms).unwrap();
    sum
}

/// The same terms in another order, split at random, each part added one by one or as a slice, merged in a random tree.
fn shuffled<F: Summand>(terms: &[F], generator: &mut Generator) -> ExactSum<F> {
    let mut terms = terms.to_vec();
    for last in (1..terms.len()).rev() {
        terms.swap(last, generator.between(0, last));
    }
    let mut parts = vec![ExactSum::new()];
    let mut rest = &terms[..];
    while !rest.is_empty() {
        let (part, others) = rest.split_at(generator.between(1, rest.len()));
        let mut sum = ExactSum::new();
        if generator.between(0, 1) == 0 {
            sum.add_slice(part).unwrap();
        } else {
            part.iter().for_each(|term| sum.add(*term).unwrap());
        }
        parts.push(sum);
        rest = others;
    }
    while parts.len() > 1 {
        let other = parts.swap_remove(generator.between(0, parts.len() - 1));
        let into = generator.between(0, parts.len() - 1);
        parts[into].merge(&other).unwrap();
        if generator.between(0, 3) == 0 {
            parts[into] = ExactSum::from_bytes(&parts[into].to_bytes()).unwrap();
        }
    }
    parts.pop().unwrap()
}

/// A float of any bits, special values and neighbours in exponent far more often than by chance.
fn any<F: Float>(generator: &mut Generator, finite: bool) -> F {
    loop {
        let narrow = F::KIND == 32;
        let (width, exponents) = if narrow { (23, 255) } else { (52, 2047) };
        let bits = generator.bits();
        let fraction = match generator.between(0, 3) {
            0 => 0,
            1 => u64::MAX,
            _ => bits,
        } & ((1 << width) - 1);
        let exponent = match generator.between(0, 7) {
            0 => 0,
            1 => exponents,
            2 => exponents - 1,
            3 => 1,
            4 => generator.between(0, exponents),
            _ => exponents / 2 + generator.between(0, 60) - 30,
        } as u64;
        let sign = (bits >> 63) << (F::KIND - 1);
        let value = F::of_bits(sign | exponent << width | fraction);
        if !finite || value.wide().is_finite() {
            return value;
        }
    }
}

fn check_random<F: Float>(seed: u64, count: usize, finite: bool) {
    let mut generator = Generator::new(seed);
    let mut terms: Vec<F> = (0..count).map(|_| any(&mut generator, finite)).collect();
    if generator.between(0, 1) == 0 {
        // Most of it cancels.
        for index in 0..count / 2 {
            let sign = 1 << (F::KIND - 1);
            terms.push(F::of_bits(terms[index].bits() ^ sign));
        }
    }
    let sum = sum_of(&terms);
    check(&sum, &terms);
    let other = shuffled(&terms, &mut generator);
    assert_eq!(sum.to_bytes(), other.to_bytes());
    assert_eq!(sum, other);
    assert_eq!(sum.round().bits(), other.round().bits());
    assert_eq!(ExactSum::from_bytes(&sum.to_bytes()), Ok(sum));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_partition_gives_the_sum_rounded_once(seed: u64, count in 0usize..40, finite: bool) {
        check_random::<f32>(seed, count, finite);
        check_random::<f64>(seed, count, finite);
    }

    #[test]
    fn dot_products_are_exact(seed: u64, count in 0usize..40) {
        let mut generator = Generator::new(seed);
        let mut factors = || -> Vec<f32> { (0..count).map(|_| any(&mut generator, true)).collect() };
        let (a, b) = (factors(), factors());
        let mut sum = ExactSum32::new();
        sum.add_products(&a, &b).unwrap();
        let exact = a.iter().zip(&b).fold(big(0.0), |sum, (a, b)| {
            // Exact: 48 bits, exponents far inside those of f64.
            sum.plus(&big(f64::from(*a) * f64::from(*b)))
        });
        assert_nearest(&exact, sum.round());

        let mut reversed = ExactSum32::new();
        for (a, b) in a.iter().zip(&b).rev() {
            reversed.add_product(*b, *a).unwrap();
        }
        assert_eq!(sum.to_bytes(), reversed.to_bytes());
    }

    #[test]
    fn bytes_of_any_kind_are_a_sum_or_an_error(
        mut bytes in prop::collection::vec(any_byte(), 0..300),
        shape in 0u8..4,
    ) {
        fuzz::<f32>(&mut bytes, shape);
        fuzz::<f64>(&mut bytes, shape);
    }
}

fn any_byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(0),
        Just(255),
        Just(128),
        proptest::prelude::any::<u8>()
    ]
}

/// Reads random bytes, of the right length and header in most shapes; what is accepted works and comes back.
fn fuzz<F: Float>(bytes: &mut Vec<u8>, shape: u8) {
    if shape > 0 {
        bytes.resize(ExactSum::<F>::BYTES, bytes.first().copied().unwrap_or(0));
        bytes[0] = F::KIND;
        bytes[1] &= 7;
    }
    if shape > 1 {
        // Few enough terms, a magnitude that such a number may reach.
        bytes[9] &= 127;
        let fill = if bytes[8] & 1 == 0 { 0 } else { 255 };
        bytes[ExactSum::<F>::BYTES - 10..].fill(fill);
    }
    let Ok(mut sum) = ExactSum::<F>::from_bytes(bytes) else {
        return;
    };
    assert_eq!(sum.to_bytes(), *bytes);
    let rounded = sum.round();
    assert!(!rounded.wide().is_nan() || rounded.bits() == F::NAN.bits());
    let other = sum.clone();
    match sum.merge(&other) {
        Ok(()) => assert_eq!(sum.terms(), 2 * other.terms()),
        Err(_) => assert_eq!(sum, other),
    }
    let _ = sum.round();
}

#[test]
fn all_permutations_of_terms_that_absorb_each_other() {
    let terms = [1e38f32, -1e38, f32::from_bits(1), 3.0, -1.0, 2e-38];
    let (mut order, expected) = (terms, sum_of(&terms));
    check(&expected, &terms);
    let mut seen = 0;
    permute(&mut order, terms.len(), &mut |terms| {
        assert_eq!(sum_of(terms).to_bytes(), expected.to_bytes());
        seen += 1;
    });
    assert_eq!(seen, 720);
}

/// Heap's algorithm.
fn permute(terms: &mut [f32; 6], count: usize, visit: &mut impl FnMut(&[f32])) {
    if count <= 1 {
        visit(terms);
        return;
    }
    for index in 0..count {
        permute(terms, count - 1, visit);
        terms.swap(if count.is_multiple_of(2) { index } else { 0 }, count - 1);
    }
}

#[test]
fn sums_whose_value_is_known() {
    assert_eq!(sum_of(&[1.0f32; 4096]).round(), 4096.0);
    assert_eq!(sum_of(&[0.1f64; 10]).round(), 1.0);
    let alternating: Vec<f64> = (0..10_001)
        .map(|index| if index % 2 == 0 { 1e300 } else { -1e300 })
        .collect();
    assert_eq!(sum_of(&alternating).round(), 1e300);
    assert_eq!(sum_of(&alternating[1..]).round().to_bits(), 0);
    let subnormals = vec![f32::from_bits(1); 1 << 23];
    assert_eq!(sum_of(&subnormals).round(), f32::MIN_POSITIVE);
    assert_eq!(sum_of(&subnormals[1..]).round().to_bits(), 0x007f_ffff);
}

#[test]
fn zeros_are_positive() {
    assert_eq!(ExactSum32::new().round().to_bits(), 0);
    assert_eq!(sum_of(&[-0.0f32]).round().to_bits(), 0);
    assert_eq!(sum_of(&[-0.0f64, -0.0]).round().to_bits(), 0);
    assert_eq!(sum_of(&[1.0f64, -1.0]).round().to_bits(), 0);
}

#[test]
fn overflow_starts_half_a_place_above_the_largest() {
    let tiny = f32::from_bits(1);
    // The last place of the largest f32 is 2^104.
    let half = (1u128 << 103) as f32;
    assert_eq!(sum_of(&[f32::MAX, half, -tiny]).round(), f32::MAX);
    assert_eq!(sum_of(&[f32::MAX, half]).round(), f32::INFINITY);
    assert_eq!(sum_of(&[-f32::MAX, -half]).round(), f32::NEG_INFINITY);
    assert_eq!(sum_of(&[f32::MAX, f32::MAX, -f32::MAX]).round(), f32::MAX);

    let (tiny, half) = (f64::from_bits(1), f64::from_bits((1023 + 970) << 52));
    assert_eq!(sum_of(&[f64::MAX, half, -tiny]).round(), f64::MAX);
    assert_eq!(sum_of(&[f64::MAX, half]).round(), f64::INFINITY);
    assert_eq!(sum_of(&[f64::MAX, f64::MAX, f64::MIN]).round(), f64::MAX);
}

#[test]
fn a_bit_far_below_decides_a_tie() {
    // 1 + 2^-24 is a tie between 1 and 1 + 2^-23.
    let (half, tiny) = (f32::EPSILON / 2.0, f32::from_bits(1));
    assert_eq!(sum_of(&[1.0, half]).round(), 1.0);
    assert_eq!(sum_of(&[1.0, half, tiny]).round(), 1.0 + f32::EPSILON);
    assert_eq!(sum_of(&[1.0, half, -tiny]).round(), 1.0);
    assert_eq!(sum_of(&[1.0, 3.0 * half]).round(), 1.0 + 2.0 * f32::EPSILON);
}

#[test]
fn products_below_the_subnormals_count() {
    let tiny = f32::from_bits(1);
    let mut sum = ExactSum32::new();
    sum.add_product(-tiny, tiny).unwrap();
    assert_eq!(sum.round().to_bits(), 0x8000_0000);
    // 2^-150 is a tie between 0 and 2^-149; 2^-298 less goes to 0, more to 2^-149.
    sum.add_product(tiny, 0.5).unwrap();
    assert_eq!(sum.round().to_bits(), 0);
    sum.add_product(tiny, tiny).unwrap();
    assert_eq!(sum.round().to_bits(), 0);
    sum.add_product(tiny, tiny).unwrap();
    assert_eq!(sum.round().to_bits(), 1);

    let mut sum = ExactSum32::new();
    sum.add_products(&[f32::MAX, 3.0], &[f32::MAX, 5.0])
        .unwrap();
    sum.add_product(f32::MIN, f32::MAX).unwrap();
    assert_eq!(sum.round(), 15.0);
}

#[test]
fn products_with_values_that_are_not_finite() {
    let product = |a, b| {
        let mut sum = ExactSum32::new();
        sum.add_product(a, b).unwrap();
        sum.round().to_bits()
    };
    let (infinity, nan) = (f32::INFINITY, f32::from_bits(0xff80_0001));
    assert_eq!(product(infinity, 0.0), 0x7fc0_0000);
    assert_eq!(product(1.0, nan), 0x7fc0_0000);
    assert_eq!(product(infinity, -1.0), 0xff80_0000);
    assert_eq!(product(-infinity, -infinity), 0x7f80_0000);
}

#[test]
fn carries_move_up_in_time() {
    // As if 2^30 terms had been added: the digits are as large as they get.
    let mut sum = ExactSum64::new();
    let term = f64::from_bits((1023 << 52) | ((1 << 52) - 1));
    sum.add(term).unwrap();
    for digit in sum.digits.as_mut() {
        *digit *= i64::from(PENDING_MAX);
    }
    sum.pending = PENDING_MAX;
    sum.terms = PENDING_MAX.into();
    sum.add_slice(&[term; 1000]).unwrap();
    let mut doubled = sum_of(&[term]);
    for _ in 0..30 {
        let same = doubled.clone();
        doubled.merge(&same).unwrap();
    }
    doubled.add_slice(&[term; 1000]).unwrap();
    assert_eq!(sum, doubled);
    let exact = big(term).mul(
        &big((PENDING_MAX + 1000).into()),
        PRECISION,
        RoundingMode::None,
    );
    assert_nearest(&exact, sum.round());
}

#[test]
fn the_limit_of_terms_holds_and_no_sum_within_it_overflows() {
    fn largest<F: Float>(max: F) {
        for sign in [0, 1 << (F::KIND - 1)] {
            let mut sum = sum_of(&[F::of_bits(max.bits() | sign)]);
            for _ in 0..63 {
                let same = sum.clone();
                sum.merge(&same).unwrap();
            }
            assert_eq!(sum.terms(), MAX_TERMS);
            assert_eq!(sum.round().bits(), F::infinity(sign != 0).bits());
            let full = sum.to_bytes();
            assert_eq!(ExactSum::from_bytes(&full), Ok(sum.clone()));

            let error = |added| ExactError::TooManyTerms {
                held: MAX_TERMS,
                added,
            };
            assert_eq!(sum.add(max), Err(error(1)));
            assert_eq!(sum.add_slice(&[max; 3]), Err(error(3)));
            assert_eq!(sum.merge(&sum.clone()), Err(error(MAX_TERMS)));
            assert_eq!(sum.add_slice(&[]), Ok(()));
            assert_eq!(sum.to_bytes(), full);
        }
    }
    largest(f32::MAX);
    largest(f64::MAX);
    let mut products = ExactSum32::new();
    products.add_product(f32::MAX, f32::MIN).unwrap();
    for _ in 0..63 {
        let same = products.clone();
        products.merge(&same).unwrap();
    }
    assert_eq!(products.round(), f32::NEG_INFINITY);
    assert_eq!(ExactSum::from_bytes(&products.to_bytes()), Ok(products));
}

#[test]
fn bad_bytes_are_refused_by_name() {
    let good = sum_of(&[1.0f32, 2.5, f32::INFINITY]).to_bytes();
    assert_eq!(good.len(), 90);
    assert_eq!(ExactSum64::new().to_bytes().len(), 282);
    let read = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        ExactSum32::from_bytes(&bytes).unwrap_err()
    };
    let length = |actual| ExactError::Length {
        expected: 90,
        actual,
    };
    assert_eq!(read(&|bytes| bytes.truncate(89)), length(89));
    assert_eq!(read(&|bytes| bytes.truncate(9)), length(9));
    assert_eq!(read(&|bytes| bytes.clear()), length(0));
    assert_eq!(read(&|bytes| bytes.push(0)), length(91));
    let kind = ExactError::Kind {
        expected: 32,
        actual: 64,
    };
    assert_eq!(read(&|bytes| bytes[0] = 64), kind);
    assert_eq!(read(&|bytes| bytes[1] = 8), ExactError::Flags { flags: 8 });
    let too_many = ExactError::TooManyTerms {
        held: 0,
        added: MAX_TERMS + 3,
    };
    assert_eq!(read(&|bytes| bytes[9] = 128), too_many);
    // One infinity among one term leaves no term for the finite rest.
    let one = ExactError::Inconsistent { terms: 1 };
    assert_eq!(read(&|bytes| bytes[2] = 1), one);
    let none = ExactError::Inconsistent { terms: 0 };
    assert_eq!(read(&|bytes| bytes[2] = 0), none);
    // Two finite terms reach 2^555 units but not 2^555 itself; bit 555 is in byte 69 of the integer.
    let three = ExactError::Inconsistent { terms: 3 };
    assert_eq!(read(&|bytes| bytes[10 + 69] |= 8), three);
    assert_eq!(read(&|bytes| bytes[10 + 79] |= 128), three);
}

#[test]
fn special_values_have_the_canonical_bits() {
    assert_eq!(
        sum_of(&[f32::INFINITY, -1.0]).round().to_bits(),
        0x7f80_0000
    );
    let (plus, minus) = (f32::INFINITY, f32::NEG_INFINITY);
    assert_eq!(sum_of(&[plus, minus]).round().to_bits(), 0x7fc0_0000);
    let payload = f64::from_bits(0xfff0_0000_0000_0001);
    assert_eq!(sum_of(&[payload]).round().to_bits(), 0x7ff8_0000_0000_0000);
}
