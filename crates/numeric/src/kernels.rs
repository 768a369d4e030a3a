//! The kernels of one instruction set, run on one pool.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use crate::arch::{FloatMatmulKernel, KernelTable, MatmulKernel};
use crate::attention::{Attention, AttentionSegment};
use crate::elementary::Function;
use crate::isa::{Isa, IsaError};
use crate::kv::KvLayer;
use crate::pool::{Disjoint, Pool};
use crate::product::{self, Target};
use crate::quantized::{PANEL_WIDTH, QuantizedRows};
use crate::rope::{Pairs, Rotations};
use crate::weights::{ActivationFormat, PackedMatrix, TILE_ROWS, WeightFormat};

/// Elements below which splitting an element-wise kernel costs more than it saves.
const ELEMENTS_PER_PART: usize = 4096;

/// An instruction set and a pool: everything that decides speed, and nothing that decides a bit.
#[derive(Clone)]
pub struct Kernels {
    isa: Isa,
    table: &'static KernelTable,
    pool: Arc<Pool>,
}

impl Kernels {
    /// Kernels of `isa` on `pool`.
    ///
    /// # Errors
    /// This processor lacks the instruction set.
    pub fn new(isa: Isa, pool: Arc<Pool>) -> Result<Self, IsaError> {
        let table = isa.table().ok_or(IsaError::Missing { isa })?;
        Ok(Self { isa, table, pool })
    }

    /// The instruction set.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Quantises `batch` rows of `columns` elements for products with weights that read `format`; `out` is reshaped.
    ///
    /// # Panics
    /// The format is that of floats, `columns` is zero or no multiple of its block length, or `input` has another
    /// length.
    pub fn quantize(
        &self,
        format: ActivationFormat,
        input: &[f32],
        batch: usize,
        columns: usize,
        out: &mut QuantizedRows,
    ) {
        let kernel = match format {
            ActivationFormat::F32 => panic!("floats are not quantised"),
            ActivationFormat::Blocks32 => self.table.quantize_f32_i8_32,
            ActivationFormat::Blocks256 => self.table.quantize_f32_i8_256,
        };
        assert!(
            columns > 0 && columns.is_multiple_of(format.block_len()),
            "columns are not whole blocks: {columns}"
        );
        assert_eq!(input.len(), batch * columns, "input length");
        out.reshape(format, batch, columns);
        let panel_words = out.panel_words();
        let ranges: Vec<(Range<usize>, Range<usize>)> = (0..out.panel_count())
            .map(|panel| {
                let (first, width) = (out.first_row(panel), out.panel_width(panel));
                let start = panel * panel_words;
                (first..first + width, start..start + out.panel(panel).len())
            })
            .collect();
        let words = Disjoint::new(out.words_mut());
        self.run_rows(ranges.len(), columns * PANEL_WIDTH, &|panels| {
            for (rows, range) in &ranges[panels] {
                // SAFETY: panels do not overlap, and each is visited once.
                let words = unsafe { words.part(range.clone()) };
                let rows = &input[rows.start * columns..rows.end * columns];
                // SAFETY: the table belongs to an instruction set that this processor has.
                unsafe { kernel(rows, columns, words) };
            }
        });
    }

    /// output[b * rows + r] = row r of `weights` times row b of `input`, by the block chain of the format.
    ///
    /// # Panics
    /// The weights are not of a quantised format, the activations not of the format that it reads, or shapes disagree.
    pub fn matmul(&self, weights: &PackedMatrix, input: &QuantizedRows, output: &mut [f32]) {
        let kernel = self.quantized_product(weights.format());
        assert_eq!(
            input.format(),
            weights.format().activations(),
            "format of the activations"
        );
        assert_eq!(
            input.columns(),
            weights.columns(),
            "columns of activations and weights"
        );
        assert_eq!(
            output.len(),
            input.batch() * weights.rows(),
            "output length"
        );
        let target = Target::new(output, weights.rows());
        self.pool.run(weights.tile_count(), &|tiles| {
            product::quantized(kernel, weights.tiles(), tiles, input, &target)
        });
    }

    pub(crate) fn quantized_product(&self, format: WeightFormat) -> MatmulKernel {
        match format {
            WeightFormat::Q8_0 => self.table.matmul_q8_0_f32,
            WeightFormat::Q4_0 => self.table.matmul_q4_0_f32,
            WeightFormat::Q4_1 => self.table.matmul_q4_1_f32,
            WeightFormat::Q5_0 => self.table.matmul_q5_0_f32,
            WeightFormat::Q5_1 => self.table.matmul_q5_1_f32,
            WeightFormat::Q2_K => self.table.matmul_q2_k_f32,
            WeightFormat::Q3_K => self.table.matmul_q3_k_f32,
            WeightFormat::Q4_K => self.table.matmul_q4_k_f32,
            WeightFormat::Q5_K => self.table.matmul_q5_k_f32,
            WeightFormat::Q6_K => self.table.matmul_q6_k_f32,
            WeightFormat::Int8 => self.table.matmul_int8_f32,
            WeightFormat::IQ4_NL => self.table.matmul_iq4_nl_f32,
            WeightFormat::IQ4_XS => self.table.matmul_iq4_xs_f32,
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => {
                panic!("weights are not quantised: {format}")
            }
        }
    }

    pub(crate) fn float_product(&self, format: WeightFormat) -> FloatMatmulKernel {
        match format {
            WeightFormat::F32 => self.table.matmul_f32_f32,
            WeightFormat::F16 => self.table.matmul_f16_f32,
            WeightFormat::Bf16 => self.table.matmul_bf16_f32,
            _ => panic!("weights are quantised: {format}"),
        }
    }

    /// output[b * rows + r] = row r of F32, F16 or BF16 `weights` times row b of `input`, `sequential`.
    ///
    /// # Panics
    /// The weights are quantised, or shapes disagree.
    pub fn matmul_float(
        &self,
        weights: &PackedMatrix,
        input: &[f32],
        batch: usize,
        output: &mut [f32],
    ) {
        let kernel = self.float_product(weights.format());
        let (rows, columns) = (weights.rows(), weights.columns());
        assert_eq!(input.len(), batch * columns, "input length");
        assert_eq!(output.len(), batch * rows, "output length");
        let target = Target::new(output, rows);
        self.pool.run(weights.tile_count(), &|tiles| {
            product::float(kernel, weights.tiles(), tiles, columns, input, &target)
        });
    }

    /// Per row of `weight.len()` elements: s = lanes16(x * x); r = 1 / sqrt(s / n + epsilon); y = (x * r) * w.
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn rms_norm(
        &self,
        input: &[f32],
        weight: &[f32],
        epsilon: f32,
        batch: usize,
        output: &mut [f32],
    ) {
        let columns = weight.len();
        assert_eq!(input.len(), batch * columns, "input length");
        assert_eq!(output.len(), input.len(), "output length");
        let output = Disjoint::new(output);
        self.run_rows(batch, columns, &|rows| {
            for row in rows {
                let elements = row * columns..(row + 1) * columns;
                // SAFETY: rows do not overlap, and each is visited once.
                let output = unsafe { output.part(elements.clone()) };
                // SAFETY: the table belongs to an instruction set that this processor has.
                unsafe { (self.table.rms_norm_f32_f32)(&input[elements], weight, epsilon, output) };
            }
        });
    }

    /// Rotates rows of heads x dimension values, each by its row of `rotations`.
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn rope(&self, rotations: &Rotations, pairs: Pairs, values: &mut [f32], heads: usize) {
        let kernel = match pairs {
            Pairs::Interleaved => self.table.rope_interleaved_f32_f32,
            Pairs::Halves => self.table.rope_halves_f32_f32,
        };
        let (rows, width) = (rotations.rows(), heads * rotations.dimension());
        assert_eq!(values.len(), rows * width, "length of values");
        let values = Disjoint::new(values);
        self.run_rows(rows, width, &|rows| {
            for row in rows {
                // SAFETY: rows do not overlap, and each is visited once.
                let values = unsafe { values.part(row * width..(row + 1) * width) };
                // SAFETY: the table belongs to an instruction set that this processor has.
                unsafe { kernel(rotations.row(row), values) };
            }
        });
    }

    /// Stores keys and values of consecutive positions from `first_position` on, in the cache's format; shapes of both:
    /// batch x kv_heads x head_dim.
    ///
    /// # Panics
    /// Lengths disagree or a position is not reserved.
    pub fn store_kv(
        &self,
        cache: &mut KvLayer,
        first_position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let width = cache.kv_heads() * cache.head_dim();
        assert!(
            keys.len().is_multiple_of(width) && keys.len() == values.len(),
            "keys and values are not whole rows of {width}"
        );
        let last = first_position + keys.len() / width;
        assert!(
            last <= cache.capacity(),
            "position exceeds the cache: {last}"
        );
        crate::environment::assert_default();
        let pool = (keys.len() >= ELEMENTS_PER_PART).then_some(self.pool());
        cache.store(self.table, pool, first_position, keys, values);
    }

    /// Causal attention. The rows of a batch belong to the segments in order; the query of head h at a position reads
    /// the stored positions of its segment up to its own, of key/value head h / (heads / kv_heads). Shapes of queries
    /// and output: batch x heads x head_dim.
    ///
    /// # Panics
    /// Lengths disagree, `heads` is no multiple of the key/value heads, or a position exceeds a cache's capacity.
    pub fn attention(
        &self,
        queries: &[f32],
        heads: usize,
        segments: &[AttentionSegment<'_>],
        output: &mut [f32],
    ) {
        let mut elements = 0;
        for segment in segments {
            let cache = segment.cache;
            assert!(
                heads > 0 && heads.is_multiple_of(cache.kv_heads()),
                "heads do not share evenly: {heads}"
            );
            let last = segment.first_position + segment.rows;
            assert!(
                last <= cache.capacity(),
                "position exceeds the cache: {last}"
            );
            let window = segment.window.map_or(usize::MAX, NonZeroUsize::get);
            let first = (segment.first_position + 1).saturating_sub(window);
            assert!(
                segment.rows == 0 || first >= cache.first_position(),
                "position was dropped from the cache: {first}"
            );
            elements += segment.rows * heads * cache.head_dim();
        }
        assert_eq!(queries.len(), elements, "queries of all segments");
        assert_eq!(output.len(), elements, "output length");
        if elements == 0 {
            return;
        }
        Attention {
            table: self.table,
            queries,
            heads,
            segments,
        }
        .run(&self.pool, output);
    }

    /// As [`crate::softmax`].
    pub fn softmax(&self, values: &mut [f32]) {
        crate::environment::assert_default();
        // SAFETY: the table belongs to an instruction set that this processor has.
        unsafe { (self.table.softmax_f32_f32)(values) };
    }

    /// Replaces each row of `columns` elements by its softmax.
    ///
    /// # Panics
    /// `values` are not whole rows.
    pub fn softmax_rows(&self, values: &mut [f32], columns: usize) {
        if values.is_empty() {
            return;
        }
        assert!(
            columns > 0 && values.len().is_multiple_of(columns),
            "values are not whole rows of {columns}"
        );
        let rows = values.len() / columns;
        let values = Disjoint::new(values);
        self.run_rows(rows, columns, &|rows| {
            for row in rows {
                // SAFETY: rows do not overlap, and each is visited once.
                let values = unsafe { values.part(row * columns..(row + 1) * columns) };
                // SAFETY: the table belongs to an instruction set that this processor has.
                unsafe { (self.table.softmax_f32_f32)(values) };
            }
        });
    }

    /// Replaces each value by the function's.
    pub fn apply(&self, function: Function, values: &mut [f32]) {
        let count = values.len();
        let values = Disjoint::new(values);
        self.run_rows(count.div_ceil(TILE_ROWS), TILE_ROWS, &|chunks| {
            let elements = chunks.start * TILE_ROWS..(chunks.end * TILE_ROWS).min(count);
            // SAFETY: the ranges do not overlap, and each is visited once.
            let values = unsafe { values.part(elements) };
            match function {
                // SAFETY: the table belongs to an instruction set that this processor has.
                Function::Exp => unsafe { (self.table.exp_f32_f32)(values) },
                _ => {
                    for value in values {
                        *value = function.at(*value);
                    }
                }
            }
        });
    }

    /// Replaces each value by its exponential.
    pub fn exp(&self, values: &mut [f32]) {
        crate::environment::assert_default();
        // SAFETY: the table belongs to an instruction set that this processor has.
        unsafe { (self.table.exp_f32_f32)(values) };
    }

    /// gate = (gate / (1 + exp(-gate))) * up.
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn silu_mul(&self, gate: &mut [f32], up: &[f32]) {
        self.zip(self.table.silu_mul_f32_f32, gate, up);
    }

    /// gate = (gate / (1 + exp(-t))) * up with t = (2 sqrt(2 / pi) * gate) * (1 + (0.044715 * gate) * gate): the Gaussian
    /// error linear unit as it is commonly approximated, 0.5 x (1 + tanh(t / 2)) (Hendrycks and Gimpel, 2016).
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn gelu_mul(&self, gate: &mut [f32], up: &[f32]) {
        self.zip(self.table.gelu_mul_f32_f32, gate, up);
    }

    /// values = values * factor.
    pub fn scale(&self, values: &mut [f32], factor: f32) {
        crate::environment::assert_default();
        for value in values {
            *value = crate::convert::canonical(*value * factor);
        }
    }

    /// accumulator = accumulator + addend.
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn add(&self, accumulator: &mut [f32], addend: &[f32]) {
        self.zip(self.table.add_f32_f32, accumulator, addend);
    }

    /// values = values * factors.
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn mul(&self, values: &mut [f32], factors: &[f32]) {
        self.zip(self.table.mul_f32_f32, values, factors);
    }

    /// Changes each of `values` by the one of `others` at the same place.
    fn zip(&self, kernel: unsafe fn(&mut [f32], &[f32]), values: &mut [f32], others: &[f32]) {
        assert_eq!(values.len(), others.len(), "lengths of both operands");
        let count = values.len();
        let values = Disjoint::new(values);
        self.run_rows(count.div_ceil(TILE_ROWS), TILE_ROWS, &|chunks| {
            let elements = chunks.start * TILE_ROWS..(chunks.end * TILE_ROWS).min(count);
            // SAFETY: the ranges do not overlap, and each is visited once.
            let values = unsafe { values.part(elements.clone()) };
            // SAFETY: the table belongs to an instruction set that this processor has.
            unsafe { kernel(values, &others[elements]) };
        });
    }

    pub(crate) fn table(&self) -> &'static KernelTable {
        self.table
    }

    /// Runs over rows on the pool, or in place when there is too little work to share.
    pub(crate) fn run_rows(
        &self,
        rows: usize,
        columns: usize,
        task: &(dyn Fn(Range<usize>) + Sync),
    ) {
        if rows.saturating_mul(columns) < 2 * ELEMENTS_PER_PART {
            crate::environment::assert_default();
            task(0..rows);
        } else {
            self.pool.run(rows, task);
        }
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Kernels({}, {:?})", self.isa, self.pool)
    }
}
