//! Products, norms and what goes with them, in canonical arithmetic.
//!
//! | | on Lockstep | without (feature `sequential`, or any other target) |
//! |---|---|---|
//! | computed | by the host, on every core; in a task of [`parallel`](crate::parallel), on the task's | by the same functions in this module, compiled |
//! | result | fixed bit by bit | the same bits |
//! | price | that of the table | what the code takes: products 6 to 22 times the table's when built with `-C target-feature=+simd128`, 70 to 400 times without |
//! | installs on the Internet Computer | no: it allows imports from `ic0` alone | yes |
//!
//! | function | order of sums | price in instructions, beside 2,000 per call |
//! |---|---|---|
//! | [`matmul`] | k increasing | 1/4 per multiply-add, 1 per element of `b`, 1 per output |
//! | [`matmul_rows`] with F32, F16, BF16 | k increasing | the same, `weights` for `b` |
//! | [`matmul_rows`] with any other format | per block exact, blocks in order | 1/8 per multiply-add, 1 per element of the weights and of the input, 1 per output |
//! | [`rms_norm`] | 16 lanes, folded | 1 per element, 60 per row |
//! | [`softmax`] | 16 lanes, folded | 20 per element, 60 per row |
//! | [`silu_mul`] | | 20 per element |
//! | [`add`] | | 1/2 per element |
//! | [`exp`] | | 16 per element |
//!
//! Columns of `b`, rows of the weights and columns of rows that are normalised count in whole sixteens. Quantised weights are packed, and paid for, once for
//! every 16 Mi elements of the input: with one row of input, packing is most of the price.
//! Sums start at +0, f32 operations are rounded one by one, every NaN stored is 0x7fc00000, and exponentials are
//! correctly rounded. Other functions, of one number, are in [`elementary`]: those are compiled in on every network.
//!
//! # Panics
//! Lengths that disagree with the shape, products with more than 1,048,576 columns, columns that are no whole blocks of the format,
//! an INT8 zero-point that is no signed byte. On Lockstep the host ends the message for the last of these.
//!
//! # Examples
//! ```
//! use lockstep_cdk::kernels;
//!
//! // Two rows of three times three rows of two.
//! let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
//! let mut out = [0.0; 4];
//! kernels::matmul(&a, &b, (2, 3, 2), &mut out);
//! assert_eq!(out, [4.0, 5.0, 10.0, 11.0]);
//! ```
#[cfg(any(not(target_arch = "wasm32"), feature = "sequential"))]
#[path = "kernels/compiled.rs"]
mod host;
#[cfg(all(target_arch = "wasm32", not(feature = "sequential")))]
#[path = "kernels/imported.rs"]
mod host;

use lockstep_numeric::StoredRows;
pub use lockstep_numeric::{WeightFormat, elementary};

/// `out` (m x n) = `a` (m x k) times `b` (k x n), all row by row.
///
/// # Panics
/// Lengths disagree, or k exceeds 1,048,576.
pub fn matmul(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize), out: &mut [f32]) {
    check("a", a, m, k);
    check("b", b, k, n);
    check("out", out, m, n);
    assert!(
        k <= StoredRows::COLUMNS_MAX,
        "k is more than {}: {k}",
        StoredRows::COLUMNS_MAX
    );
    host::matmul(a, b, (m, k, n), out);
}

/// `out` (batch x rows) = `input` (batch x columns) times the transpose of `weights` (rows x columns), stored row by row
/// in a format, as GGUF files have them.
///
/// # Panics
/// Lengths disagree, there are more than 1,048,576 columns or no whole blocks of them, or an INT8 zero-point is no
/// signed byte.
pub fn matmul_rows(
    format: WeightFormat,
    weights: &[u8],
    input: &[f32],
    (batch, rows, columns): (usize, usize, usize),
    out: &mut [f32],
) {
    let bytes = StoredRows::bytes(format, rows, columns).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(weights.len(), bytes, "bytes of the weights");
    check("input", input, batch, columns);
    check("out", out, batch, rows);
    host::matmul_rows(format, weights, input, (batch, rows, columns), out);
}

/// Per row of `weight.len()` elements: s = the sum of the squares, r = 1 / sqrt(s / n + epsilon), out = (x * r) * w.
///
/// # Panics
/// Lengths disagree.
pub fn rms_norm(input: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let rows = input.len().checked_div(weight.len()).unwrap_or(0);
    check("input", input, rows, weight.len());
    assert_eq!(input.len(), out.len(), "lengths of input and out");
    host::rms_norm(input, weight, epsilon, rows, out);
}

/// Replaces each row of `columns` elements by its softmax.
///
/// # Panics
/// `values` are not whole rows.
pub fn softmax(values: &mut [f32], columns: usize) {
    let rows = values.len().checked_div(columns).unwrap_or(0);
    check("values", values, rows, columns);
    host::softmax(values, rows, columns);
}

/// gate = (gate / (1 + exp(-gate))) * up.
///
/// # Panics
/// Lengths disagree.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "lengths of gate and up");
    host::silu_mul(gate, up);
}

/// accumulator = accumulator + addend.
///
/// # Panics
/// Lengths disagree.
pub fn add(accumulator: &mut [f32], addend: &[f32]) {
    assert_eq!(
        accumulator.len(),
        addend.len(),
        "lengths of accumulator and addend"
    );
    host::add(accumulator, addend);
}

/// Replaces each value by its exponential.
pub fn exp(values: &mut [f32]) {
    host::exp(values);
}

fn check(what: &str, values: &[f32], rows: usize, columns: usize) {
    assert!(
        rows.checked_mul(columns) == Some(values.len()),
        "{what} is not {rows} x {columns}: {} elements",
        values.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(call: impl FnOnce() + std::panic::UnwindSafe) -> String {
        let panic = std::panic::catch_unwind(call).expect_err("a panic");
        match panic.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => panic
                .downcast_ref::<&str>()
                .map_or(String::new(), |text| (*text).to_owned()),
        }
    }

    #[test]
    fn shapes_that_disagree_are_refused() {
        let short = || matmul(&[0.0; 5], &[0.0; 6], (2, 3, 2), &mut [0.0; 4]);
        assert_eq!(refusal(short), "a is not 2 x 3: 5 elements");
        let overflow = || matmul(&[], &[], (usize::MAX, 2, 0), &mut []);
        assert_eq!(
            refusal(overflow),
            format!("a is not {} x 2: 0 elements", usize::MAX)
        );
        let long = || matmul(&[], &[], (0, 1 << 21, 0), &mut []);
        assert_eq!(refusal(long), "k is more than 1048576: 2097152");
        let partial = || matmul_rows(WeightFormat::Q8_0, &[], &[], (0, 0, 31), &mut []);
        assert_eq!(
            refusal(partial),
            "columns are not a multiple of the block length 32 of Q8_0: 31"
        );
        let uneven = || softmax(&mut [0.0; 5], 2);
        assert_eq!(refusal(uneven), "values is not 2 x 2: 5 elements");
        let no_weight = || rms_norm(&[1.0], &[], 0.0, &mut [0.0]);
        assert_eq!(refusal(no_weight), "input is not 0 x 0: 1 elements");
    }

    #[test]
    fn nothing_is_fine() {
        matmul(&[], &[], (0, 5, 0), &mut []);
        let mut out = [1.0; 4];
        matmul(&[], &[], (2, 0, 2), &mut out);
        assert_eq!(out.map(f32::to_bits), [0; 4]);
        rms_norm(&[], &[], 0.0, &mut []);
        softmax(&mut [], 0);
        silu_mul(&mut [], &[]);
        add(&mut [], &[]);
        exp(&mut []);
    }
}
