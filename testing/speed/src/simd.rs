//! Vector loops.
use std::arch::wasm32::{f32x4_add, f32x4_mul, f32x4_splat, v128, v128_load, v128_store};

const ROWS: usize = 4;
const DEPTH: usize = 256;
const COLUMNS: usize = 256;

/// Multiplies f32 matrices, four rows and two vectors of columns at a time in registers.
#[must_use]
pub fn product() -> u64 {
    let a: Vec<f32> = (0..ROWS * 16 * DEPTH)
        .map(|index| (index % 17) as f32)
        .collect();
    let b: Vec<f32> = (0..DEPTH * COLUMNS)
        .map(|index| (index % 13) as f32)
        .collect();
    let mut c = vec![0.0; ROWS * 16 * COLUMNS];
    for _ in 0..160 {
        let rows = a
            .chunks_exact(ROWS * DEPTH)
            .zip(c.chunks_exact_mut(ROWS * COLUMNS));
        for (a, c) in rows {
            for column in (0..COLUMNS).step_by(8) {
                block(a, &b, c, column);
            }
        }
    }
    u64::from(c[77].to_bits())
}

/// Four rows of `c`, eight columns from `column`.
#[target_feature(enable = "simd128")]
fn block(a: &[f32], b: &[f32], c: &mut [f32], column: usize) {
    assert!(a.len() == ROWS * DEPTH && b.len() == DEPTH * COLUMNS);
    assert!(c.len() == ROWS * COLUMNS && column + 8 <= COLUMNS);
    let mut sums = [[f32x4_splat(0.0); 2]; ROWS];
    for depth in 0..DEPTH {
        let at = b[depth * COLUMNS + column..][..8].as_ptr().cast::<v128>();
        // SAFETY: eight floats are there; loads may be at any address.
        let columns = unsafe { [v128_load(at), v128_load(at.add(1))] };
        for (row, sums) in sums.iter_mut().enumerate() {
            let factor = f32x4_splat(a[row * DEPTH + depth]);
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = f32x4_add(*sum, f32x4_mul(factor, column));
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        let at = c[row * COLUMNS + column..][..8].as_mut_ptr().cast::<v128>();
        // SAFETY: as above.
        unsafe {
            v128_store(at, sums[0]);
            v128_store(at.add(1), sums[1]);
        }
    }
}

/// `y = a * x + y` over arrays that fit the second-level cache.
#[must_use]
pub fn stream() -> u64 {
    const SIZE: usize = 32_768;
    let x: Vec<f32> = (0..SIZE).map(|index| index as f32).collect();
    let mut y = vec![1.0_f32; SIZE];
    for _ in 0..12_000 {
        add(&x, &mut y);
    }
    u64::from(y[99].to_bits())
}

#[target_feature(enable = "simd128")]
fn add(x: &[f32], y: &mut [f32]) {
    let factor = f32x4_splat(0.5);
    let (x, y) = (x.as_chunks::<4>().0, y.as_chunks_mut::<4>().0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x.as_ptr().cast(), y.as_mut_ptr().cast());
        // SAFETY: four floats are there; loads and stores may be at any address.
        unsafe { v128_store(y, f32x4_add(f32x4_mul(factor, v128_load(x)), v128_load(y))) };
    }
}
