//! Calls of `lockstep_cdk::kernels`, as a function of any target and as a canister's update method.
//!
//! A request names a kernel, a shape and two operands; the answer is the bytes of what the kernel wrote.
use lockstep_cdk::{
    kernels::{self, WeightFormat},
    parallel::Plan,
};

#[cfg(target_arch = "wasm32")]
mod canister;

/// What a request calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kernel {
    /// `matmul`: rows and columns are those of the second operand's transpose.
    Matmul,
    /// `matmul_rows`.
    MatmulRows,
    /// `rms_norm`.
    RmsNorm,
    /// `softmax`.
    Softmax,
    /// `silu_mul`.
    SiluMul,
    /// `add`.
    Add,
    /// `exp`.
    Exp,
    /// `matmul_rows` of one row of input, 16 rows of weights per task of a fork.
    Forked,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 8] = [
        Self::Matmul,
        Self::MatmulRows,
        Self::RmsNorm,
        Self::Softmax,
        Self::SiluMul,
        Self::Add,
        Self::Exp,
        Self::Forked,
    ];
}

/// One call.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is called.
    pub kernel: Kernel,
    /// Format of the weights, of the kernels that have any.
    pub format: WeightFormat,
    /// Rows of the input.
    pub batch: usize,
    /// Rows of the weights.
    pub rows: usize,
    /// Columns of both.
    pub columns: usize,
    /// Bits of the norm's epsilon.
    pub epsilon: u32,
    /// The operand that a kernel changes, if it changes one; else weights, or the first.
    pub first: Vec<u8>,
    /// The other.
    pub second: Vec<u8>,
}

/// Words in front of the operands.
const HEADER_WORDS: usize = 7;

impl Request {
    /// As an argument.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let format = WeightFormat::ALL.iter().position(|f| *f == self.format);
        let header: [usize; HEADER_WORDS] = [
            self.kernel as usize,
            format.expect("one of all"),
            self.batch,
            self.rows,
            self.columns,
            self.epsilon as usize,
            self.first.len(),
        ];
        let words = header.map(|word| u32::try_from(word).expect("small").to_le_bytes());
        [&words.concat(), &self.first[..], &self.second[..]].concat()
    }

    /// From an argument.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn decode(argument: &[u8]) -> Self {
        let (header, operands) = argument.split_at(HEADER_WORDS * 4);
        let words = header.as_chunks::<4>().0;
        let word = |index: usize| u32::from_le_bytes(words[index]) as usize;
        let (first, second) = operands.split_at(word(6));
        Self {
            kernel: Kernel::ALL[word(0)],
            format: WeightFormat::ALL[word(1)],
            batch: word(2),
            rows: word(3),
            columns: word(4),
            epsilon: word(5) as u32,
            first: first.to_vec(),
            second: second.to_vec(),
        }
    }

    /// Calls the kernel.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        let (batch, rows, columns) = (self.batch, self.rows, self.columns);
        let (first, second) = (|| floats(&self.first), floats(&self.second));
        let changed = |change: &dyn Fn(&mut [f32])| {
            let mut values = first();
            change(&mut values);
            values
        };
        bytes(&match self.kernel {
            Kernel::Matmul => {
                let mut out = vec![1.0; batch * rows];
                kernels::matmul(&first(), &second, (batch, columns, rows), &mut out);
                out
            }
            Kernel::MatmulRows => {
                let mut out = vec![1.0; batch * rows];
                let shape = (batch, rows, columns);
                kernels::matmul_rows(self.format, &self.first, &second, shape, &mut out);
                out
            }
            Kernel::RmsNorm => {
                let mut out = vec![1.0; self.first.len() / 4];
                kernels::rms_norm(&first(), &second, f32::from_bits(self.epsilon), &mut out);
                out
            }
            Kernel::Softmax => changed(&|values| kernels::softmax(values, columns)),
            Kernel::SiluMul => changed(&|values| kernels::silu_mul(values, &second)),
            Kernel::Add => changed(&|values| kernels::add(values, &second)),
            Kernel::Exp => changed(&kernels::exp),
            Kernel::Forked => self.forked(second),
        })
    }

    fn forked(&self, input: Vec<f32>) -> Vec<f32> {
        let format = WeightFormat::ALL.iter().position(|f| *f == self.format);
        let format = format.expect("one of all");
        let mut out = vec![1.0; self.rows];
        let context = (format, self.first.as_slice(), input);
        Plan::new().for_each_chunk_mut(&mut out, 16, &context, |context, first, chunk| {
            let (format, weights, input) = (WeightFormat::ALL[context.0], context.1, &context.2);
            let row_bytes = format.row_bytes(input.len()).expect("whole blocks");
            let weights = &weights[first * row_bytes..][..chunk.len() * row_bytes];
            let shape = (1, chunk.len(), input.len());
            kernels::matmul_rows(format, weights, input, shape, chunk);
        });
        out
    }
}

/// Bytes as floats, every bit kept.
#[must_use]
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|word| f32::from_le_bytes(*word)).collect()
}

/// Floats as bytes.
#[must_use]
pub fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
