//! What products' columns are multiplied with, measured on a text.
//!
//! # Design
//! The text goes through the model in pieces, each from an empty sequence. For every weight of a product and every
//! column of it: the least, the greatest and the mean square of the activations that the column met. All weights that
//! read one buffer at one time have the same. Of a mixture's experts those have it that read the mixture's input,
//! over all tokens; what its last products read stays inside the operation and is not measured. What reads the output
//! of the last layer sees the last token of each pass alone.
//!
//! # Determinism
//! Activations are canonical. Squares are summed in f64, per column in the order of the tokens.
use crate::{
    execute::{Observer, Output, Sequence, SequenceError},
    graph::{Action, Graph, TensorId},
    model::Model,
};
use lockstep_numeric::Kernels;
use std::{collections::BTreeMap, sync::Arc};

/// Tokens of a pass.
const PASS_TOKENS: usize = 64;

/// The activations that the columns of one tensor met.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    /// How many each of them met.
    pub count: u64,
    /// The least.
    pub minima: Vec<f32>,
    /// The greatest.
    pub maxima: Vec<f32>,
    /// The mean of their squares.
    pub mean_squares: Vec<f32>,
}

impl Columns {
    /// Scale and zero-point with which INT8 covers each column's activations, 0 included: a value is near
    /// scale * (integer - zero-point), with integers from -128 to 127.
    #[must_use]
    pub fn int8(&self) -> Vec<(f32, i8)> {
        let ranges = self.minima.iter().zip(&self.maxima);
        ranges
            .map(|(minimum, maximum)| {
                let (low, high) = (minimum.min(0.0), maximum.max(0.0));
                let scale = (high - low) / 255.0;
                let zero_point = match scale > 0.0 {
                    true => (-128.0 - low / scale).round_ties_even(),
                    false => 0.0,
                };
                (scale, zero_point.clamp(-128.0, 127.0) as i8)
            })
            .collect()
    }
}

/// What a text says about a model's activations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// For each tensor that a product reads.
    pub tensors: BTreeMap<String, Columns>,
}

impl Calibration {
    /// Runs `text` through `model` in pieces of `context` tokens. `progress` hears how many tokens are done.
    ///
    /// # Errors
    /// When a token is unknown or `context` exceeds the model's.
    ///
    /// # Panics
    /// When `context` is 0.
    pub fn measure(
        model: &Arc<Model>,
        kernels: &Arc<Kernels>,
        text: &[u32],
        context: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, SequenceError> {
        let mut sums = Sums::new(model.graph());
        let mut sequence = Sequence::new(Arc::clone(model), Arc::clone(kernels), context);
        let mut done = 0;
        for piece in text.chunks(context) {
            sequence.clear();
            for tokens in piece.chunks(PASS_TOKENS) {
                sequence.begin(tokens, true)?;
                while sequence.step_observed(&mut sums).is_some() {}
                done += tokens.len();
                progress(done);
            }
        }
        Ok(sums.finish(model.graph()))
    }
}

/// What an operation gave, column by column.
#[derive(Default)]
struct Sum {
    count: u64,
    minima: Vec<f32>,
    maxima: Vec<f32>,
    squares: Vec<f64>,
}

/// Hears operations whose outputs products read.
struct Sums {
    /// For each operation the tensors that read its output.
    readers: Vec<Vec<TensorId>>,
    sums: Vec<Sum>,
}

impl Sums {
    fn new(graph: &Graph) -> Self {
        let readers: Vec<_> = (0..graph.operations.len())
            .map(|operation| readers(graph, operation))
            .collect();
        let sums = readers.iter().map(|_| Sum::default()).collect();
        Self { readers, sums }
    }

    fn finish(self, graph: &Graph) -> Calibration {
        let mut tensors = BTreeMap::new();
        for (readers, sum) in self.readers.iter().zip(&self.sums) {
            if sum.count == 0 {
                continue;
            }
            let mean = |square: &f64| (square / sum.count as f64) as f32;
            let columns = Columns {
                count: sum.count,
                // Which zero is the least or the greatest of two is the processor's choice.
                minima: sum.minima.iter().map(|value| value + 0.0).collect(),
                maxima: sum.maxima.iter().map(|value| value + 0.0).collect(),
                mean_squares: sum.squares.iter().map(mean).collect(),
            };
            for TensorId(id) in readers {
                tensors.insert(graph.tensors[*id].name.clone(), columns.clone());
            }
        }
        Calibration { tensors }
    }
}

impl Observer for Sums {
    fn observe(&mut self, output: Output<'_>) {
        if self.readers[output.operation].is_empty() {
            return;
        }
        let sum = &mut self.sums[output.operation];
        if sum.count == 0 {
            sum.minima = vec![f32::INFINITY; output.width];
            sum.maxima = vec![f32::NEG_INFINITY; output.width];
            sum.squares = vec![0.0; output.width];
        }
        for (_, row) in output.rows() {
            sum.count += 1;
            for (column, value) in row.iter().enumerate() {
                sum.minima[column] = sum.minima[column].min(*value);
                sum.maxima[column] = sum.maxima[column].max(*value);
                sum.squares[column] += f64::from(*value) * f64::from(*value);
            }
        }
    }
}

/// The tensors that read what an operation writes, before it is written again.
fn readers(graph: &Graph, operation: usize) -> Vec<TensorId> {
    let Some(written) = graph.operations[operation].action.output() else {
        return Vec::new();
    };
    let mut readers = Vec::new();
    for later in &graph.operations[operation + 1..] {
        match later.action {
            Action::MatMul { weight, input, .. } if input == written => readers.push(weight),
            Action::Experts(shape) if shape.input == written => {
                readers.extend([shape.gate, shape.up]);
            }
            _ => {}
        }
        if later.action.output() == Some(written) {
            break;
        }
    }
    readers
}
