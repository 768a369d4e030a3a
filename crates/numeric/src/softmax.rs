//! Softmax and argmax over one vector.

use thiserror::Error;

use crate::arch::portable;
use crate::environment;

/// A logit is not finite, so no largest one can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("logit is not finite at index {index} of {count}")]
pub struct NonFinite {
    /// Index of the first such value; equal to `count` when there are no values at all.
    pub index: usize,
    /// Number of values.
    pub count: usize,
}

/// Replaces `values` by their softmax: m = maximum, e = exp(x - m), y = e / lanes16(e). An empty slice stays empty.
pub fn softmax(values: &mut [f32]) {
    environment::assert_default();
    portable::softmax_f32_f32(values);
}

/// The lowest index of the largest value.
///
/// # Errors
/// A value is NaN or infinite, or there is none.
pub fn argmax(values: &[f32]) -> Result<usize, NonFinite> {
    let count = values.len();
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(NonFinite { index, count });
    }
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    if count == 0 {
        Err(NonFinite { index: 0, count })
    } else {
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_lowest_index_and_refuses_non_finite_values() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), Ok(1));
        assert_eq!(argmax(&[-0.0, 0.0]), Ok(0));
        assert_eq!(
            argmax(&[1.0, f32::NAN]),
            Err(NonFinite { index: 1, count: 2 })
        );
        assert_eq!(
            argmax(&[f32::INFINITY]),
            Err(NonFinite { index: 0, count: 1 })
        );
        assert_eq!(argmax(&[]), Err(NonFinite { index: 0, count: 0 }));
    }

    #[test]
    fn softmax_of_special_values() {
        let mut values = [0.0, -0.0];
        softmax(&mut values);
        assert_eq!(values, [0.5, 0.5]);
        let mut values = [1.0, f32::NEG_INFINITY];
        softmax(&mut values);
        assert_eq!(values, [1.0, 0.0]);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = [bad, 1.0];
            softmax(&mut values);
            assert!(values[0].to_bits() == 0x7fc0_0000, "{values:?}");
        }
        softmax(&mut []);
    }
}
