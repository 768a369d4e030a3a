//! Double-double arithmetic: an unevaluated sum of two f64 with about 106 significant bits.
//!
//! # Determinism
//! Dekker's and Knuth's error-free transformations without FMA; a fixed sequence of f64 operations. The functions are
//! `const`: tables are computed from their definitions when the crate is compiled.
//!
//! # Units and bounds
//! Relative error of [`DoubleDouble::add`], [`DoubleDouble::mul`] and [`DoubleDouble::quotient`] below 2^-100 for
//! operands of like size and no overflow or underflow in the splitting, i.e. magnitudes between 2^-400 and 2^400.

/// `high + low` with |low| at most half a unit in the last place of `high`.
#[derive(Clone, Copy, Debug)]
pub(super) struct DoubleDouble {
    pub(super) high: f64,
    pub(super) low: f64,
}

impl DoubleDouble {
    pub(super) const ZERO: Self = Self {
        high: 0.0,
        low: 0.0,
    };
    pub(super) const ONE: Self = Self {
        high: 1.0,
        low: 0.0,
    };

    pub(super) const fn from_bits(high: u64, low: u64) -> Self {
        Self {
            high: f64::from_bits(high),
            low: f64::from_bits(low),
        }
    }

    pub(super) const fn new(high: f64) -> Self {
        Self { high, low: 0.0 }
    }

    /// Knuth's two-sum of two f64: exact.
    pub(super) const fn sum(a: f64, b: f64) -> Self {
        let high = a + b;
        let b_part = high - a;
        let low = (a - (high - b_part)) + (b - b_part);
        Self { high, low }
    }

    /// Dekker's product of two f64: exact.
    pub(super) const fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        let (a_high, a_low) = split(a);
        let (b_high, b_low) = split(b);
        let low = ((a_high * b_high - high) + a_high * b_low + a_low * b_high) + a_low * b_low;
        Self { high, low }
    }

    const fn renormalise(high: f64, low: f64) -> Self {
        let sum = high + low;
        Self {
            high: sum,
            low: low - (sum - high),
        }
    }

    pub(super) const fn add(self, other: Self) -> Self {
        let high = Self::sum(self.high, other.high);
        let low = Self::sum(self.low, other.low);
        let partial = Self::renormalise(high.high, high.low + low.high);
        Self::renormalise(partial.high, partial.low + low.low)
    }

    pub(super) const fn mul(self, other: Self) -> Self {
        let product = Self::product(self.high, other.high);
        Self::renormalise(
            product.high,
            product.low + (self.high * other.low + self.low * other.high),
        )
    }

    pub(super) const fn negate(self) -> Self {
        Self {
            high: -self.high,
            low: -self.low,
        }
    }

    /// Division by a small integer, exact in f64.
    pub(super) const fn divide(self, divisor: f64) -> Self {
        let quotient = self.high / divisor;
        let back = Self::product(quotient, divisor);
        let remainder = ((self.high - back.high) - back.low) + self.low;
        Self::renormalise(quotient, remainder / divisor)
    }

    /// Long division: three digits of 53 bits.
    pub(super) const fn quotient(self, divisor: Self) -> Self {
        let first = self.high / divisor.high;
        let rest = self.add(divisor.mul(Self::new(-first)));
        let second = rest.high / divisor.high;
        let rest = rest.add(divisor.mul(Self::new(-second)));
        Self::sum(first, second).add(Self::new(rest.high / divisor.high))
    }

    /// Multiplication by a power of two within f64's normal range: exact.
    pub(super) const fn scale(self, factor: f64) -> Self {
        Self {
            high: self.high * factor,
            low: self.low * factor,
        }
    }

    /// The exact sum rounded once to f32, half to even, subnormals and overflow included.
    ///
    /// Round-to-odd at 53 bits first: with at least two more bits than the target, the second rounding is then the
    /// only one that counts.
    pub(super) const fn to_f32(self) -> f32 {
        let bits = self.high.to_bits();
        if self.low == 0.0 || bits & 1 == 1 {
            return self.high as f32;
        }
        let away = (self.low > 0.0) == (self.high > 0.0);
        let odd = if away { bits + 1 } else { bits - 1 };
        f64::from_bits(odd) as f32
    }
}

/// Veltkamp's split into two halves of 26 bits.
const fn split(value: f64) -> (f64, f64) {
    const FACTOR: f64 = ((1u64 << 27) + 1) as f64;
    let scaled = FACTOR * value;
    let high = scaled - (scaled - value);
    (high, value - high)
}

/// ln 2 / 16 in three parts; the first has 32 significant bits, so that its product with an index below 2^20 is exact.
pub(super) const LN2_16: [f64; 3] = [
    f64::from_bits(0x3fa6_2e42_fee0_0000),
    f64::from_bits(0x3daa_39ef_3579_3c76),
    f64::from_bits(0x3a4c_c01f_97b5_7a08),
];

/// 2^(j/16) for j from 0 to 15.
pub(super) const EXP2_16: [DoubleDouble; 16] = [
    DoubleDouble::from_bits(0x3ff0_0000_0000_0000, 0x0000_0000_0000_0000),
    DoubleDouble::from_bits(0x3ff0_b558_6cf9_890f, 0x3c98_a62e_4adc_610b),
    DoubleDouble::from_bits(0x3ff1_72b8_3c7d_517b, 0xbc81_9041_b9d7_8a76),
    DoubleDouble::from_bits(0x3ff2_387a_6e75_6238, 0x3c99_b07e_b6c7_0573),
    DoubleDouble::from_bits(0x3ff3_06fe_0a31_b715, 0x3c86_f46a_d231_82e4),
    DoubleDouble::from_bits(0x3ff3_dea6_4c12_3422, 0x3c8a_da09_11f0_9ebc),
    DoubleDouble::from_bits(0x3ff4_bfda_d536_2a27, 0x3c7d_4397_afec_42e2),
    DoubleDouble::from_bits(0x3ff5_ab07_dd48_5429, 0x3c96_324c_0546_47ad),
    DoubleDouble::from_bits(0x3ff6_a09e_667f_3bcd, 0xbc9b_dd34_13b2_6456),
    DoubleDouble::from_bits(0x3ff7_a114_73eb_0187, 0xbc84_1577_ee04_992f),
    DoubleDouble::from_bits(0x3ff8_ace5_422a_a0db, 0x3c96_e9f1_5686_4b27),
    DoubleDouble::from_bits(0x3ff9_c491_82a3_f090, 0x3c7c_7c46_b071_f2be),
    DoubleDouble::from_bits(0x3ffa_e89f_995a_d3ad, 0x3c97_a1cd_345d_cc81),
    DoubleDouble::from_bits(0x3ffc_199b_dd85_529c, 0x3c81_1065_8950_48dd),
    DoubleDouble::from_bits(0x3ffd_5818_dcfb_a487, 0x3c82_ed02_d75b_3707),
    DoubleDouble::from_bits(0x3ffe_a4af_a2a4_90da, 0xbc9e_9c23_179c_2893),
];

/// exp of a double-double whose magnitude is below 600, with a relative error below 2^-95.
pub(super) const fn exp(x: DoubleDouble) -> DoubleDouble {
    let n = (x.high * 23.083_120_654_223_414).round_ties_even();
    let r = x
        .add(DoubleDouble::product(-n, LN2_16[0]))
        .add(DoubleDouble::product(-n, LN2_16[1]))
        .add(DoubleDouble::product(-n, LN2_16[2]));
    // |r| <= 0.0218, so the term left out is below 2^-88 * 2^-40.
    let mut sum = DoubleDouble::ONE;
    let mut k = 16;
    while k > 0 {
        sum = sum.mul(r).divide(k as f64).add(DoubleDouble::ONE);
        k -= 1;
    }
    let n = n as i64;
    let factor = f64::from_bits(((1023 + (n >> 4)) as u64) << 52);
    sum.mul(EXP2_16[(n & 15) as usize]).scale(factor)
}

/// ln of a positive normal f64 within 2^-90 (absolute, or relative where that is more), by Newton's iteration on [`exp`] from a start good to 2^-30 or better.
pub(super) const fn ln(x: f64) -> DoubleDouble {
    const LN2: DoubleDouble = DoubleDouble {
        high: std::f64::consts::LN_2,
        low: 2.319_046_813_846_299_6e-17,
    };
    let bits = x.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    let mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    // ln m = 2 artanh((m - 1) / (m + 1)), |t| <= 1/3; 24 terms leave an error below 2^-76.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let mut series = 0.0;
    let mut k = 24;
    while k > 0 {
        k -= 1;
        series = series * (t * t) + 1.0 / (2 * k + 1) as f64;
    }
    let start = LN2
        .mul(DoubleDouble::new(exponent as f64))
        .add(DoubleDouble::new(2.0 * t * series));
    // y + (x exp(-y) - 1): the error 2^-52 of the start is squared.
    let ratio = exp(start.negate()).mul(DoubleDouble::new(x));
    start.add(ratio.add(DoubleDouble::new(-1.0)))
}

/// base^exponent for a positive base, as the f64 nearest to a double-double value with a relative error below 2^-85.
///
/// A fixed sequence of f64 operations: the same bits on every target. |exponent * ln base| must be below 600.
pub(crate) fn power_of_positive_base(base: f64, numerator: f64, denominator: f64) -> f64 {
    exp(ln(base)
        .mul(DoubleDouble::new(numerator))
        .divide(denominator))
    .high
}
