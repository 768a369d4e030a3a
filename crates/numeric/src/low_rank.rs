//! Products of low rank, added to a product with weights: y = y + scale * (B · (A · x)).
//!
//! # Design
//! A has a row per rank and a column per input, B a row per output and a column per rank. A lies row by row, B in tiles of
//! 16 rows. The thread that computes some outputs of the weights adds these products to them. t is computed by the first
//! thread before its outputs, while the others begin with theirs, of which they have more; where there is much of it, by a
//! job of its own that all share.
//!
//! # Determinism
//! t = A · x is `lanes16` by the place of the input, u = B · t is `sequential`; y = y + (scale * u), both rounded. x are the
//! f32 activations, whatever the weights read. Factors are widened exactly. Neither neighbours in a batch nor threads appear
//! in a result.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::aligned::AlignedBytes;
use crate::arch::{LowRankDownKernel, LowRankUpKernel};
use crate::kernels::Kernels;
use crate::pool::Disjoint;
use crate::product::{self, Target};
use crate::quantized::QuantizedRows;
use crate::weights::{PackedMatrix, TILE_ROWS, WeightFormat};

/// Elements of A times rows, from which on all threads share t.
const SHARED_MIN: usize = 1 << 16;
/// Values of t that cost as much as a tile of a product with one row.
const VALUES_PER_TILE: usize = 3;

/// The two factors of a product of low rank.
#[derive(Clone)]
pub struct LowRank {
    format: WeightFormat,
    rank: usize,
    inputs: usize,
    outputs: usize,
    scale: f32,
    /// Shared with the others that were packed with it.
    storage: Arc<AlignedBytes>,
    /// Where A begins.
    start: usize,
}

/// Two factors as they are given: A, B, the rank, the scale.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// `rank` x inputs, row by row.
    pub a: &'a [f32],
    /// Outputs x `rank`, row by row.
    pub b: &'a [f32],
    /// Rows of A and columns of B.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f32,
}

impl LowRank {
    /// Packs pairs of factors into one piece of memory, each as F32; or as F16, if each of its values is one.
    ///
    /// # Panics
    /// A dimension is zero, or lengths disagree with them.
    #[must_use]
    pub fn pack(pairs: &[Factors<'_>]) -> Vec<Self> {
        let mut end = 0;
        let shapes: Vec<(WeightFormat, usize)> = pairs
            .iter()
            .map(|pair| {
                let start = end;
                let format = pair.check();
                let (inputs, outputs) = (pair.a.len() / pair.rank, pair.b.len() / pair.rank);
                end = start
                    + [inputs, outputs].map(sixteens).iter().sum::<usize>()
                        * pair.rank
                        * element_bytes(format);
                (format, start)
            })
            .collect();
        let mut storage = AlignedBytes::zeroed(end);
        for (pair, (format, start)) in pairs.iter().zip(&shapes) {
            pair.put(*format, &mut storage.as_mut_slice()[*start..]);
        }
        let storage = Arc::new(storage);
        let shapes = pairs.iter().zip(shapes);
        shapes
            .map(|(pair, (format, start))| Self {
                format,
                rank: pair.rank,
                inputs: pair.a.len() / pair.rank,
                outputs: pair.b.len() / pair.rank,
                scale: pair.scale,
                storage: Arc::clone(&storage),
                start,
            })
            .collect()
    }

    /// F16 or F32.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Rows of A and columns of B.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Columns of A.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows of B.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// What the product is multiplied by.
    #[must_use]
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Bytes it occupies in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        (sixteens(self.inputs) + sixteens(self.outputs)) * self.rank * element_bytes(self.format)
    }

    /// A, row by row.
    #[must_use]
    pub fn a(&self) -> Vec<f32> {
        let stride = sixteens(self.inputs);
        let places = (0..self.rank)
            .flat_map(|row| (0..self.inputs).map(move |column| row * stride + column));
        let bytes = self.down_bytes();
        places.map(|at| get(self.format, bytes, at)).collect()
    }

    /// B, row by row.
    #[must_use]
    pub fn b(&self) -> Vec<f32> {
        let places = (0..self.outputs).flat_map(|row| {
            let first = row / TILE_ROWS * self.rank * TILE_ROWS + row % TILE_ROWS;
            (0..self.rank).map(move |column| first + column * TILE_ROWS)
        });
        let bytes = self.up_bytes(0..self.outputs.div_ceil(TILE_ROWS));
        places.map(|at| get(self.format, bytes, at)).collect()
    }

    fn down_bytes(&self) -> &[u8] {
        let length = sixteens(self.inputs) * self.rank * element_bytes(self.format);
        &self.storage.as_slice()[self.start..][..length]
    }

    /// Some tiles of B.
    fn up_bytes(&self, tiles: Range<usize>) -> &[u8] {
        let tile_bytes = TILE_ROWS * self.rank * element_bytes(self.format);
        let start = self.start + self.down_bytes().len();
        &self.storage.as_slice()[start..][tiles.start * tile_bytes..tiles.end * tile_bytes]
    }
}

impl Factors<'_> {
    /// Checks the shape, and says in which format all values are.
    fn check(&self) -> WeightFormat {
        let Self { a, b, rank, .. } = *self;
        assert!(rank > 0 && !a.is_empty() && !b.is_empty(), "empty factors");
        assert!(
            a.len().is_multiple_of(rank) && b.len().is_multiple_of(rank),
            "factors are not whole rows of rank {rank}"
        );
        let is_half = |value: &f32| {
            let narrowed = crate::convert::f32_to_f16(*value);
            crate::convert::f16_to_f32(narrowed).to_bits() == value.to_bits()
        };
        match a.iter().chain(b).all(is_half) {
            true => WeightFormat::F16,
            false => WeightFormat::F32,
        }
    }

    /// Writes A and B to their places.
    fn put(&self, format: WeightFormat, place: &mut [u8]) {
        let Self { a, b, rank, .. } = *self;
        let inputs = a.len() / rank;
        let (down, up) = place.split_at_mut(sixteens(inputs) * rank * element_bytes(format));
        for (row, values) in a.chunks_exact(inputs).enumerate() {
            for (column, value) in values.iter().enumerate() {
                put(format, *value, down, row * sixteens(inputs) + column);
            }
        }
        for (row, values) in b.chunks_exact(rank).enumerate() {
            let (tile, lane) = (row / TILE_ROWS, row % TILE_ROWS);
            for (column, value) in values.iter().enumerate() {
                let at = (tile * rank + column) * TILE_ROWS + lane;
                put(format, *value, up, at);
            }
        }
    }
}

impl fmt::Debug for LowRank {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            format,
            outputs,
            rank,
            inputs,
            ..
        } = self;
        write!(formatter, "LowRank({format} {outputs}x{rank}x{inputs})")
    }
}

/// A length filled up to whole sixteens.
fn sixteens(length: usize) -> usize {
    length.next_multiple_of(TILE_ROWS)
}

fn element_bytes(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F16 => 2,
        _ => 4,
    }
}

fn put(format: WeightFormat, value: f32, bytes: &mut [u8], at: usize) {
    match format {
        WeightFormat::F16 => bytes[2 * at..2 * at + 2]
            .copy_from_slice(&crate::convert::f32_to_f16(value).to_le_bytes()),
        _ => bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes()),
    }
}

fn get(format: WeightFormat, bytes: &[u8], at: usize) -> f32 {
    match format {
        WeightFormat::F16 => {
            crate::convert::f16_to_f32(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]))
        }
        _ => crate::arch::portable::float_at(bytes, 4 * at),
    }
}

/// Rows of a batch whose product has something added.
#[derive(Clone, Debug)]
pub struct AdaptedRows<'a> {
    /// The rows.
    pub rows: Range<usize>,
    /// What is added.
    pub factors: &'a LowRank,
}

/// A row with the place of its t among all of them.
struct Row<'a> {
    row: usize,
    factors: &'a LowRank,
    inner: Range<usize>,
}

impl Kernels {
    /// As [`Self::matmul`] of `quantized`, or as [`Self::matmul_float`] of `input` where that is none; then y = y + scale * u
    /// with u = B · t, t = A · x, in the rows that say so.
    ///
    /// # Panics
    /// As those two, and when factors have other inputs or outputs than the weights, or rows overlap, are not ascending or
    /// not in the batch.
    pub fn matmul_adapted(
        &self,
        weights: &PackedMatrix,
        quantized: Option<&QuantizedRows>,
        input: &[f32],
        adapted: &[AdaptedRows<'_>],
        output: &mut [f32],
    ) {
        let (outputs, columns) = (weights.rows(), weights.columns());
        let batch = output.len() / outputs;
        assert_eq!(output.len(), batch * outputs, "output length");
        assert_eq!(input.len(), batch * columns, "input length");
        let rows = rows_of(adapted, batch, outputs, columns);
        let product: &(dyn Fn(Range<usize>, &Target<'_>) + Sync) = match quantized {
            Some(rows) => {
                let kernel = self.quantized_product(weights.format());
                assert_eq!(rows.format(), weights.format().activations(), "activations");
                let shape = (rows.batch(), rows.columns());
                assert_eq!(shape, (batch, columns), "shape of the activations");
                &move |tiles, target| {
                    product::quantized(kernel, weights.tiles(), tiles, rows, target)
                }
            }
            None => {
                let kernel = self.float_product(weights.format());
                &move |tiles, target| {
                    product::float(kernel, weights.tiles(), tiles, columns, input, target)
                }
            }
        };
        let target = Target::new(output, outputs);
        let inner = OnceLock::new();
        let values = rows.last().map_or(0, |row| row.inner.end);
        // The first thread's share of the tiles is smaller by what t costs.
        let mut ahead = values.div_ceil(VALUES_PER_TILE + batch);
        if values.saturating_mul(columns) >= SHARED_MIN {
            inner.get_or_init(|| self.down(&rows, input, columns));
            ahead = 0;
        }
        // A task that never began would leave the others waiting.
        crate::environment::assert_default();
        self.pool().run(ahead + weights.tile_count(), &|range| {
            if range.start == 0 {
                inner.get_or_init(|| self.down(&rows, input, columns));
            }
            let tiles = range.start.max(ahead) - ahead..range.end.max(ahead) - ahead;
            product(tiles.clone(), &target);
            let inner = inner.wait();
            for row in &rows {
                let kernel = self.low_rank_up(row.factors.format);
                let bytes = row.factors.up_bytes(tiles.clone());
                let inner = &inner[row.inner.clone()];
                // SAFETY: these tiles of a row are this thread's alone.
                let output = unsafe { target.outputs(tiles.clone(), row.row) };
                // SAFETY: the table belongs to an instruction set that this processor has.
                unsafe { kernel(bytes, inner, row.factors.scale, output) };
            }
        });
    }

    /// t = A · x of all rows.
    fn down(&self, rows: &[Row<'_>], input: &[f32], columns: usize) -> Vec<f32> {
        let mut inner = vec![0.0; rows.last().map_or(0, |row| row.inner.end)];
        let place = Disjoint::new(&mut inner);
        self.pool().run(rows.len(), &|range| {
            for Row {
                row,
                factors,
                inner,
            } in &rows[range]
            {
                // SAFETY: places of rows do not overlap, and each is visited once.
                let inner = unsafe { place.part(inner.clone()) };
                let input = &input[row * columns..(row + 1) * columns];
                let kernel = self.low_rank_down(factors.format);
                // SAFETY: the table belongs to an instruction set that this processor has.
                unsafe { kernel(factors.down_bytes(), input, inner) };
            }
        });
        inner
    }

    fn low_rank_down(&self, format: WeightFormat) -> LowRankDownKernel {
        match format {
            WeightFormat::F16 => self.table().low_rank_down_f16_f32,
            _ => self.table().low_rank_down_f32_f32,
        }
    }

    fn low_rank_up(&self, format: WeightFormat) -> LowRankUpKernel {
        match format {
            WeightFormat::F16 => self.table().low_rank_up_f16_f32,
            _ => self.table().low_rank_up_f32_f32,
        }
    }
}

/// All rows that have something added.
fn rows_of<'a>(
    adapted: &[AdaptedRows<'a>],
    batch: usize,
    outputs: usize,
    columns: usize,
) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for part in adapted {
        let factors = part.factors;
        let shape = (factors.inputs, factors.outputs);
        assert_eq!(shape, (columns, outputs), "shape of the factors");
        for row in part.rows.clone() {
            let last = rows.last();
            let follows = last.is_none_or(|last| last.row < row);
            assert!(follows && row < batch, "row out of order: {row}");
            let start = last.map_or(0, |last| last.inner.end);
            rows.push(Row {
                row,
                factors,
                inner: start..start + factors.rank,
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::Generator;
    use crate::{ActivationFormat, Isa, Pool};
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    const COLUMNS: usize = 32 * 9;
    const ROWS: usize = 75;

    fn kernels(isa: Isa, threads: usize) -> Kernels {
        let pool = Pool::new(NonZeroUsize::new(threads).unwrap());
        Kernels::new(isa, Arc::new(pool)).unwrap()
    }

    fn factors(generator: &mut Generator, rank: usize, is_half: bool) -> (Vec<f32>, Vec<f32>) {
        let mut of = |count: usize| -> Vec<f32> {
            let values = (0..count * rank).map(|_| generator.ordinary(1.0));
            let narrow = |value| crate::convert::f16_to_f32(crate::convert::f32_to_f16(value));
            let narrow = |value| if is_half { narrow(value) } else { value };
            values.map(narrow).collect()
        };
        (of(COLUMNS), of(ROWS))
    }

    fn one(a: &[f32], b: &[f32], rank: usize, scale: f32) -> LowRank {
        let pair = Factors { a, b, rank, scale };
        LowRank::pack(&[pair, pair]).remove(1)
    }

    #[test]
    fn factors_are_given_back_and_held_as_narrow_as_they_are() {
        let mut generator = Generator::new(1);
        for (rank, is_half) in [(1, true), (8, false), (8, true), (17, false)] {
            let (a, b) = factors(&mut generator, rank, is_half);
            let packed = one(&a, &b, rank, 0.5);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&packed.a()), bits(&a));
            assert_eq!(bits(&packed.b()), bits(&b));
            assert_eq!(packed.format() == WeightFormat::F16, is_half);
            assert_eq!((packed.rank(), packed.inputs()), (rank, COLUMNS));
            let stored = (a.len() + b.len()) * element_bytes(packed.format());
            // 75 rows of B become 80.
            let padding = rank * 5 * element_bytes(packed.format());
            assert_eq!(packed.resident_bytes(), stored + padding);
        }
    }

    #[test]
    fn a_row_has_the_bits_that_its_definition_says_whoever_is_beside_it() {
        for isa in Isa::available() {
            let mut generator = Generator::new(2);
            let alone = kernels(Isa::Portable, 1);
            let together = kernels(isa, 3);
            for (batch, rank, format) in [
                (1, 8, WeightFormat::Q4_1),
                (9, 8, WeightFormat::Q4_1),
                (7, 3, WeightFormat::F16),
                (64, 20, WeightFormat::Q8_0),
            ] {
                let bytes = generator.bytes(ROWS * format.row_bytes(COLUMNS).unwrap());
                // Without NaNs and infinities among them.
                let bytes: Vec<u8> = bytes.iter().map(|byte| byte & 0x33).collect();
                let weights = PackedMatrix::pack(format, ROWS, COLUMNS, &bytes).unwrap();
                let input: Vec<f32> = (0..batch * COLUMNS)
                    .map(|_| generator.ordinary(2.0))
                    .collect();
                // Each row has its own, but the third none.
                let packed: Vec<LowRank> = (0..batch)
                    .map(|row| {
                        let (a, b) = factors(&mut generator, rank + row / 8, row % 5 != 4);
                        one(&a, &b, rank + row / 8, 0.25)
                    })
                    .collect();
                let rows = packed.iter().enumerate().filter(|(row, _)| *row != 2);
                let adapted: Vec<_> = rows
                    .map(|(row, factors)| AdaptedRows {
                        rows: row..row + 1,
                        factors,
                    })
                    .collect();
                let quantize = |input: &[f32], batch| {
                    let activations = format.activations();
                    let mut quantized = QuantizedRows::default();
                    (activations != ActivationFormat::F32).then(|| {
                        alone.quantize(activations, input, batch, COLUMNS, &mut quantized);
                        quantized
                    })
                };
                let mut output = vec![0.0; batch * ROWS];
                let quantized = quantize(&input, batch);
                together.matmul_adapted(
                    &weights,
                    quantized.as_ref(),
                    &input,
                    &adapted,
                    &mut output,
                );
                for (row, output) in output.chunks_exact(ROWS).enumerate() {
                    let input = &input[row * COLUMNS..(row + 1) * COLUMNS];
                    let mut wanted = vec![0.0; ROWS];
                    match quantize(input, 1) {
                        Some(quantized) => alone.matmul(&weights, &quantized, &mut wanted),
                        None => alone.matmul_float(&weights, input, 1, &mut wanted),
                    }
                    if row != 2 {
                        add(&packed[row], input, &mut wanted);
                    }
                    let same = output.iter().zip(&wanted).all(|(a, b)| a == b);
                    assert!(same, "{isa} {format} row {row} of {batch}");
                }
            }
        }
    }

    /// By the definition.
    fn add(factors: &LowRank, x: &[f32], y: &mut [f32]) {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
        let (a, b, rank) = (factors.a(), factors.b(), factors.rank());
        let lanes16 = |row: &[f32]| {
            let mut lanes = [0.0; 16];
            for (k, (a, x)) in row.iter().zip(x).enumerate() {
                lanes[k % 16] += a * x;
            }
            crate::arch::portable::fold_lanes(lanes)
        };
        let t: Vec<f32> = a.chunks_exact(x.len()).map(lanes16).collect();
        for (y, row) in y.iter_mut().zip(b.chunks_exact(rank)) {
            *y += factors.scale() * dot(row, &t);
        }
    }
}
