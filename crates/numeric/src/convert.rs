//! Conversions between floating-point formats (f16, bf16, f32, f64) and the canonical NaN.
//!
//! # Determinism
//! Widening is exact. Narrowing rounds half to even, overflows to infinity and gives one NaN for every NaN: 0x7e00 for
//! f16, 0x7fc0 for bf16, 0x7fc00000 for f32. A NaN widened from f16 keeps sign and payload, as the processors'
//! instructions do apart from the quiet bit; one widened from bf16 keeps all its bits. No kernel lets either be
//! observed, since every store goes through [`canonical`].

/// Bits of the only f32 NaN a kernel stores.
pub const CANONICAL_NAN_BITS: u32 = 0x7fc0_0000;

/// Bits of the only f16 NaN a kernel stores.
pub const CANONICAL_NAN_F16_BITS: u16 = 0x7e00;

/// Bits of the only bf16 NaN a kernel stores.
pub const CANONICAL_NAN_BF16_BITS: u16 = 0x7fc0;

/// The only f32 NaN a kernel stores.
#[must_use]
pub fn canonical_nan() -> f32 {
    f32::from_bits(CANONICAL_NAN_BITS)
}

/// `value` with every NaN replaced by the canonical one.
#[inline]
#[must_use]
pub fn canonical(value: f32) -> f32 {
    if value.is_nan() {
        f32::from_bits(CANONICAL_NAN_BITS)
    } else {
        value
    }
}

/// Widens the f16 with these bits, exactly.
#[inline]
#[must_use]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    if magnitude >= 0x7c00 {
        let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
        return f32::from_bits(sign | 0x7f80_0000 | quiet | ((magnitude & 0x3ff) << 13));
    }
    if magnitude >= 0x0400 {
        return f32::from_bits(sign | ((magnitude << 13) + ((127 - 15) << 23)));
    }
    // Subnormal or zero: an integer of at most 10 bits times 2^-24, both exact in f32.
    let value = magnitude as f32 * f32::from_bits((127 - 24) << 23);
    f32::from_bits(sign | value.to_bits())
}

/// Narrows to f16, rounding half to even; every NaN gives 0x7e00.
#[inline]
#[must_use]
pub fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return CANONICAL_NAN_F16_BITS;
    }
    if magnitude >= 0x4780_0000 {
        // 65536 and above, infinity included.
        return sign | 0x7c00;
    }
    if magnitude >= 0x3880_0000 {
        // Normal in f16; the carry of the rounding may reach the exponent, up to infinity.
        let rebased = magnitude - ((127 - 15) << 23);
        let rounded = rebased + 0xfff + ((rebased >> 13) & 1);
        return sign | (rounded >> 13) as u16;
    }
    // Subnormal in f16: adding 0.5, whose last place is 2^-24, rounds at f16's last place.
    let shifted = f32::from_bits(magnitude) + 0.5;
    sign | (shifted.to_bits() - 0x3f00_0000) as u16
}

/// Widens the bf16 with these bits, exactly: a bf16 is the upper half of an f32.
#[inline]
#[must_use]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Narrows to bf16, rounding half to even; every NaN gives 0x7fc0.
#[inline]
#[must_use]
pub fn f32_to_bf16(value: f32) -> u16 {
    if value.is_nan() {
        return CANONICAL_NAN_BF16_BITS;
    }
    // The carry of the rounding may reach the exponent, up to infinity; it leaves infinity as it is.
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Narrows to f32, rounding half to even, subnormals included; every NaN gives the canonical one.
#[inline]
#[must_use]
pub fn f64_to_f32(value: f64) -> f32 {
    canonical(value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power_of_two(exponent: i32) -> f64 {
        f64::from_bits(((1023 + exponent) as u64) << 52)
    }

    #[test]
    fn every_f16_widens_to_its_value_and_comes_back() {
        for bits in 0..=u16::MAX {
            let wide = f16_to_f32(bits);
            let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
            if exponent == 31 && fraction != 0.0 {
                assert!(wide.is_nan());
                assert_eq!(f32_to_f16(wide), CANONICAL_NAN_F16_BITS);
                continue;
            }
            let magnitude = match exponent {
                31 => f64::INFINITY,
                0 => fraction * power_of_two(-24),
                _ => (1024.0 + fraction) * power_of_two(exponent - 25),
            };
            let value = if bits & 0x8000 == 0 {
                magnitude
            } else {
                -magnitude
            };
            assert_eq!(f64::from(wide).to_bits(), value.to_bits(), "{bits:#06x}");
            assert_eq!(f32_to_f16(wide), bits);
        }
    }

    #[test]
    fn narrowing_rounds_half_to_even_between_all_neighbours() {
        for bits in 0..0x7bff_u16 {
            let (low, high) = (f16_to_f32(bits), f16_to_f32(bits + 1));
            // Exact: neighbours differ by one f16 place and f32 has 13 more bits.
            let middle = (low + high) / 2.0;
            let even = if bits & 1 == 0 { bits } else { bits + 1 };
            assert_eq!(f32_to_f16(middle), even);
            assert_eq!(f32_to_f16(f32::from_bits(middle.to_bits() - 1)), bits);
            assert_eq!(f32_to_f16(f32::from_bits(middle.to_bits() + 1)), bits + 1);
            assert_eq!(f32_to_f16(-middle), even | 0x8000);
        }
        assert_eq!(f32_to_f16(65519.996), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(f32::INFINITY), 0x7c00);
        assert_eq!(f32_to_f16(f32::from_bits(1)), 0);
    }

    #[test]
    fn every_bf16_widens_to_its_value_and_comes_back() {
        for bits in 0..=u16::MAX {
            let wide = bf16_to_f32(bits);
            let (exponent, fraction) = (i32::from(bits >> 7 & 255), f64::from(bits & 0x7f));
            if exponent == 255 && fraction != 0.0 {
                assert!(wide.is_nan());
                assert_eq!(f32_to_bf16(wide), CANONICAL_NAN_BF16_BITS);
                continue;
            }
            let magnitude = match exponent {
                255 => f64::INFINITY,
                0 => fraction * power_of_two(-133),
                _ => (128.0 + fraction) * power_of_two(exponent - 134),
            };
            let value = if bits & 0x8000 == 0 {
                magnitude
            } else {
                -magnitude
            };
            assert_eq!(f64::from(wide).to_bits(), value.to_bits(), "{bits:#06x}");
            assert_eq!(f32_to_bf16(wide), bits);
        }
    }

    #[test]
    fn bf16_rounds_half_to_even_between_all_neighbours() {
        // All finite magnitudes; past the largest comes infinity.
        for bits in 0..0x7f80_u16 {
            let even = bits + (bits & 1);
            let lower = u32::from(bits) << 16;
            for (rest, expected) in [
                (1, bits),
                (0x7fff, bits),
                (0x8000, even),
                (0x8001, bits + 1),
                (0xffff, bits + 1),
            ] {
                let value = f32::from_bits(lower | rest);
                assert_eq!(f32_to_bf16(value), expected, "{value:e}");
                assert_eq!(f32_to_bf16(-value), expected | 0x8000, "{value:e}");
            }
        }
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
        assert_eq!(f32_to_bf16(f32::from_bits(0xff80_0001)), 0x7fc0);
    }

    #[test]
    fn f64_narrows_to_the_nearest_f32() {
        for bits in (0..0x7f7f_ffff_u32).step_by(4099) {
            let (low, high) = (f32::from_bits(bits), f32::from_bits(bits + 1));
            // Exact: f64 has 29 more bits.
            let middle = (f64::from(low) + f64::from(high)) / 2.0;
            let even = if bits & 1 == 0 { low } else { high };
            assert_eq!(f64_to_f32(middle).to_bits(), even.to_bits());
            assert_eq!(f64_to_f32(middle.next_down()).to_bits(), bits);
            assert_eq!(f64_to_f32(middle.next_up()).to_bits(), bits + 1);
            assert_eq!(f64_to_f32(-middle).to_bits(), (-even).to_bits());
        }
        assert_eq!(f64_to_f32(1e300), f32::INFINITY);
        let payload = f64::from_bits(0xfff0_0000_0000_0001);
        assert_eq!(f64_to_f32(payload).to_bits(), CANONICAL_NAN_BITS);
    }
}
