//! Products of low rank: `lanes16` over the inputs, then `sequential` over the rank.

use super::Simd;
use super::float::FloatFormat;
use crate::arch::portable::fold_lanes;
use crate::weights::TILE_ROWS;

/// As many elements as any vector has.
const LANES_MAX: usize = 16;
/// Rows of A that are taken together.
const TOGETHER: usize = 4;

/// Rows of A, each filled up with zeros to whole sixteens, times a row of the input.
#[inline(always)]
pub(crate) fn down<S: Simd, W: FloatFormat, const SIXTEEN: usize>(
    simd: S,
    factors: &[u8],
    input: &[f32],
    output: &mut [f32],
) {
    let (whole, rest) = input.as_chunks::<16>();
    let row_bytes = input.len().next_multiple_of(16) * W::BYTES;
    assert_eq!(factors.len(), output.len() * row_bytes, "bytes of A");
    // Times a padding of A, +0, it changes no sum.
    let mut padded = [0.0; 16];
    padded[..rest.len()].copy_from_slice(rest);
    let rows = factors.chunks(TOGETHER * row_bytes);
    for (factors, output) in rows.zip(output.chunks_mut(TOGETHER)) {
        // SAFETY: as many rows of A as outputs, of the length asserted above.
        unsafe {
            match output.len() {
                TOGETHER => rows_of::<S, W, SIXTEEN, TOGETHER>(
                    simd, factors, row_bytes, whole, &padded, output,
                ),
                _ => {
                    for (factors, output) in
                        factors.chunks(row_bytes).zip(output.chunks_exact_mut(1))
                    {
                        rows_of::<S, W, SIXTEEN, 1>(
                            simd, factors, row_bytes, whole, &padded, output,
                        );
                    }
                }
            }
        }
    }
}

/// # Safety
/// There are `R` rows of A and outputs; a row has as many sixteens as `whole`, and one more if its bytes say so.
#[inline(always)]
unsafe fn rows_of<S: Simd, W: FloatFormat, const SIXTEEN: usize, const R: usize>(
    simd: S,
    factors: &[u8],
    row_bytes: usize,
    whole: &[[f32; 16]],
    padded: &[f32; 16],
    output: &mut [f32],
) {
    let mut sums = [[simd.splat_f32(0.0); SIXTEEN]; R];
    let count = row_bytes / (16 * W::BYTES);
    for sixteen in 0..count {
        let x = whole.get(sixteen).unwrap_or(padded).as_ptr();
        for v in 0..SIXTEEN {
            // SAFETY: sixteen `sixteen` of the input and of each row.
            unsafe {
                let x = simd.load_f32(x.add(v * S::LANES));
                let place = (sixteen * 16 + v * S::LANES) * W::BYTES;
                for r in 0..R {
                    let weight = W::load(simd, factors.as_ptr().add(r * row_bytes + place));
                    sums[r][v] = simd.add(sums[r][v], simd.mul(weight, x));
                }
            }
        }
    }
    for r in 0..R {
        let mut lanes = [0.0; 16];
        for v in 0..SIXTEEN {
            // SAFETY: `SIXTEEN` vectors make 16 elements.
            unsafe { simd.store_f32(lanes.as_mut_ptr().add(v * S::LANES), sums[r][v]) };
        }
        output[r] = crate::convert::canonical(fold_lanes(lanes));
    }
}

/// Adds scale * (B · inner) to outputs, of which there may be fewer than rows of B's tiles.
#[inline(always)]
pub(crate) fn up<S: Simd, W: FloatFormat>(
    simd: S,
    tiles: &[u8],
    inner: &[f32],
    scale: f32,
    output: &mut [f32],
) {
    let rank = inner.len();
    let tile_bytes = TILE_ROWS * rank * W::BYTES;
    assert_eq!(
        tiles.len(),
        output.len().div_ceil(TILE_ROWS) * tile_bytes,
        "bytes of tiles"
    );
    let scale = simd.splat_f32(scale);
    for first in (0..output.len()).step_by(S::LANES) {
        let at = first / TILE_ROWS * tile_bytes + first % TILE_ROWS * W::BYTES;
        let mut sum = simd.splat_f32(0.0);
        for (r, t) in inner.iter().enumerate() {
            // SAFETY: within the tile of output `first`, whose bytes are asserted above.
            unsafe {
                let weight = W::load(simd, tiles.as_ptr().add(at + r * TILE_ROWS * W::BYTES));
                sum = simd.add(sum, simd.mul(weight, simd.splat_f32(*t)));
            }
        }
        let addend = simd.mul(scale, sum);
        if let Some(place) = output.get_mut(first..first + S::LANES) {
            // SAFETY: a whole vector.
            unsafe {
                let y = simd.load_f32(place.as_ptr());
                simd.store_f32(place.as_mut_ptr(), simd.canonical(simd.add(y, addend)));
            }
        } else {
            let rest = &mut output[first..];
            let mut all = [0.0; LANES_MAX];
            all[..rest.len()].copy_from_slice(rest);
            // SAFETY: the array holds the largest vector.
            unsafe {
                let y = simd.load_f32(all.as_ptr());
                simd.store_f32(all.as_mut_ptr(), simd.canonical(simd.add(y, addend)));
            }
            rest.copy_from_slice(&all[..rest.len()]);
        }
    }
}
