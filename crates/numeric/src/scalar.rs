//! Minimum, maximum and conversions between floats and integers.
//!
//! # Determinism
//! [`minimum`] and [`maximum`] are the operations of these names in IEEE 754-2019, 9.6: a NaN wins, -0 is below +0.
//! Float to integer rounds half to even, then saturates; a NaN gives 0. Integer to float rounds half to even once, and
//! is exact up to 2^24 in magnitude for f32.

use crate::convert::canonical_nan;

/// The smaller of two values; the canonical NaN if one of them is a NaN; -0 of -0 and +0.
#[inline]
#[must_use]
pub fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        canonical_nan()
    } else if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// The larger of two values; the canonical NaN if one of them is a NaN; +0 of -0 and +0.
#[inline]
#[must_use]
pub fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        canonical_nan()
    } else if a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

/// The f32 nearest to an integer, ties to even.
#[inline]
#[must_use]
pub fn i32_to_f32(value: i32) -> f32 {
    value as f32
}

/// One function per pair of types. `as` saturates and turns a NaN into 0, which is what the language promises.
macro_rules! float_to_integer {
    ($($name:ident: $float:ty => $integer:ty;)*) => {$(
        #[doc = concat!(
            "The ", stringify!($integer), " nearest to an ", stringify!($float),
            ", ties to even; saturated; 0 for a NaN."
        )]
        #[inline]
        #[must_use]
        pub fn $name(value: $float) -> $integer {
            value.round_ties_even() as $integer
        }
    )*};
}

float_to_integer! {
    f32_to_i8: f32 => i8;
    f32_to_i16: f32 => i16;
    f32_to_i32: f32 => i32;
    f32_to_i64: f32 => i64;
    f32_to_u8: f32 => u8;
    f32_to_u32: f32 => u32;
    f64_to_i8: f64 => i8;
    f64_to_i16: f64 => i16;
    f64_to_i32: f64 => i32;
    f64_to_i64: f64 => i64;
    f64_to_u8: f64 => u8;
    f64_to_u32: f64 => u32;
}

#[cfg(test)]
mod tests;
