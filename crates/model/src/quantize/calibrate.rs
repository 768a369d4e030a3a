//! What products' columns are multiplied with, measured on a text.
//!
//! # Design
//! The text goes through the model in pieces, each from an empty sequence. For every weight of a product and every
//! column of it: the least, the greatest and the mean square of the activations that the column met. All weights that
//! read one buffer at one time have the same. What reads the output of the last layer sees the last token of each pass
//! alone.
//!
//! Each expert of a mixture is measured by itself, over the tokens that went through it: its gate and up projections on
//! their rows of the mixture's input, its down projection on what the expert makes of these in between. A router sends
//! an expert rows of one kind, and the channels inside an expert have nothing to do with another's, so each has an
//! importance of its own. The mean squares of a few rows are chance, though, and columns that a text happens to leave
//! out would be given up. An expert's importance is therefore taken as if it had met 16 rows more, with the mean squares
//! of all experts: these count for little where a text sends an expert hundreds of tokens, and are all there is where it
//! sends none. Where no expert was measured, nothing is weighed.
//!
//! # Determinism
//! Activations are canonical. Squares are summed in f64, per column in the order of the tokens, however these are cut into
//! passes; over all experts of a tensor, in the order of their numbers.
use crate::{
    execute::{ExpertInputs, Observer, Output, Sequence, SequenceError},
    graph::{Action, ExpertsShape, Graph, Operation, TensorId},
    model::Model,
};
use lockstep_numeric::Kernels;
use std::{collections::BTreeMap, sync::Arc};

/// Tokens of a pass.
const PASS_TOKENS: usize = 64;

/// Rows that an expert is taken to have met beside its own, with the mean squares of all.
const PRIOR_ROWS: f64 = 16.0;

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
    /// For each tensor that a product reads; where it is of experts, what all of them met.
    pub tensors: BTreeMap<String, Columns>,
    /// For each tensor of experts what each of them met; one that no token reached has no columns.
    pub experts: BTreeMap<String, Vec<Columns>>,
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

    /// How much each column of a tensor matters, or of one expert's part of it; nothing where none was measured.
    pub(super) fn importance(&self, tensor: &str, expert: usize) -> Option<Vec<f32>> {
        let all = &self.tensors.get(tensor)?.mean_squares;
        let own = self.experts.get(tensor).and_then(|each| each.get(expert));
        let Some(own) = own.filter(|own| own.count > 0) else {
            return Some(all.clone());
        };
        let rows = own.count as f64;
        let mean = |(own, all): (&f32, &f32)| {
            let squares = f64::from(*own) * rows + f64::from(*all) * PRIOR_ROWS;
            (squares / (rows + PRIOR_ROWS)) as f32
        };
        Some(own.mean_squares.iter().zip(all).map(mean).collect())
    }
}

/// What an operation gave or an expert read, column by column.
#[derive(Clone, Default)]
struct Sum {
    count: u64,
    minima: Vec<f32>,
    maxima: Vec<f32>,
    squares: Vec<f64>,
}

impl Sum {
    /// Counts rows of the same width.
    fn add_rows(&mut self, rows: usize, values: &[f32]) {
        let width = values.len() / rows;
        self.widen(width);
        self.count += rows as u64;
        for row in values.chunks_exact(width) {
            for (column, value) in row.iter().enumerate() {
                self.minima[column] = self.minima[column].min(*value);
                self.maxima[column] = self.maxima[column].max(*value);
                self.squares[column] += f64::from(*value) * f64::from(*value);
            }
        }
    }

    /// What all of `sums` have counted.
    fn of_all<'a>(sums: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for sum in sums.filter(|sum| sum.count > 0) {
            all.widen(sum.squares.len());
            all.count += sum.count;
            for column in 0..sum.squares.len() {
                all.minima[column] = all.minima[column].min(sum.minima[column]);
                all.maxima[column] = all.maxima[column].max(sum.maxima[column]);
                all.squares[column] += sum.squares[column];
            }
        }
        all
    }

    /// Makes room for so many columns before anything is counted.
    fn widen(&mut self, width: usize) {
        if self.count == 0 {
            self.minima = vec![f32::INFINITY; width];
            self.maxima = vec![f32::NEG_INFINITY; width];
            self.squares = vec![0.0; width];
        }
    }

    fn columns(&self) -> Columns {
        let mean = |square: &f64| (square / self.count as f64) as f32;
        Columns {
            count: self.count,
            // Which zero is the least or the greatest of two is the processor's choice.
            minima: self.minima.iter().map(|value| value + 0.0).collect(),
            maxima: self.maxima.iter().map(|value| value + 0.0).collect(),
            mean_squares: self.squares.iter().map(mean).collect(),
        }
    }
}

/// What the products of an expert read.
#[derive(Clone, Default)]
struct ExpertSums {
    input: Sum,
    gated: Sum,
}

/// Hears operations whose outputs products read, and experts.
struct Sums {
    /// For each operation the tensors that read its output.
    readers: Vec<Vec<TensorId>>,
    sums: Vec<Sum>,
    /// For each operation those of its experts, if it has some.
    experts: Vec<Vec<ExpertSums>>,
}

impl Sums {
    fn new(graph: &Graph) -> Self {
        let readers: Vec<_> = (0..graph.operations.len())
            .map(|operation| readers(graph, operation))
            .collect();
        let experts = |operation: &Operation| match operation.action {
            Action::Experts(ExpertsShape { scores, .. }) => {
                vec![ExpertSums::default(); graph.buffers[scores.0].width]
            }
            _ => Vec::new(),
        };
        Self {
            sums: vec![Sum::default(); readers.len()],
            experts: graph.operations.iter().map(experts).collect(),
            readers,
        }
    }

    fn finish(self, graph: &Graph) -> Calibration {
        let name = |TensorId(id): TensorId| graph.tensors[id].name.clone();
        let mut found = Calibration::default();
        for (readers, sum) in self.readers.iter().zip(&self.sums) {
            if sum.count > 0 {
                let columns = sum.columns();
                let readers = readers.iter().map(|id| (name(*id), columns.clone()));
                found.tensors.extend(readers);
            }
        }
        for (operation, experts) in graph.operations.iter().zip(&self.experts) {
            let Action::Experts(shape) = operation.action else {
                continue;
            };
            for (tensor, sum) in [
                (shape.gate, (|sums| &sums.input) as fn(&ExpertSums) -> &Sum),
                (shape.up, |sums| &sums.input),
                (shape.down, |sums| &sums.gated),
            ] {
                let sums = || experts.iter().map(sum);
                let all = Sum::of_all(sums());
                if all.count > 0 {
                    let each = sums().map(Sum::columns).collect();
                    found.tensors.insert(name(tensor), all.columns());
                    found.experts.insert(name(tensor), each);
                }
            }
        }
        found
    }
}

impl Observer for Sums {
    fn observe(&mut self, output: Output<'_>) {
        if !self.readers[output.operation].is_empty() {
            let rows = output.values.len() / output.width;
            self.sums[output.operation].add_rows(rows, output.values);
        }
    }

    fn observe_expert(&mut self, inputs: ExpertInputs<'_>) {
        let sums = &mut self.experts[inputs.operation][inputs.expert];
        sums.input.add_rows(inputs.rows, inputs.input);
        sums.gated.add_rows(inputs.rows, inputs.gated);
    }
}

/// The tensors that read what an operation writes, before it is written again.
fn readers(graph: &Graph, operation: usize) -> Vec<TensorId> {
    let Some(written) = graph.operations[operation].action.output() else {
        return Vec::new();
    };
    let mut readers = Vec::new();
    for later in &graph.operations[operation + 1..] {
        if let Action::MatMul { weight, input, .. } = later.action
            && input == written
        {
            readers.push(weight);
        }
        if later.action.output() == Some(written) {
            break;
        }
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arch, fixture};
    use lockstep_numeric::{Isa, Pool};
    use std::num::NonZeroUsize;

    #[test]
    fn what_experts_read_does_not_depend_on_passes() {
        let of = arch::TINY.iter().find(|of| of.experts.is_some()).unwrap();
        let file = fixture::tiny(of, 7, fixture::Weights::Mixed).build();
        let model = Model::from_bytes(&file).unwrap();
        let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
        let kernels = Arc::new(Kernels::new(Isa::Portable, pool).unwrap());
        let text: Vec<u32> = (0..50).map(|index| (index * index * 5 + 1) % 268).collect();
        let measured = |pass_tokens| {
            let mut sums = Sums::new(model.graph());
            let mut sequence = Sequence::new(Arc::clone(&model), Arc::clone(&kernels), text.len());
            for tokens in text.chunks(pass_tokens) {
                sequence.begin(tokens, false).unwrap();
                while sequence.step_observed(&mut sums).is_some() {}
            }
            sums.finish(model.graph())
        };
        let whole = measured(text.len());
        assert!(whole.experts.contains_key("blk.1.ffn_down_exps.weight"));
        for pass_tokens in [1, 7, 32] {
            assert_eq!(measured(pass_tokens), whole, "{pass_tokens}");
        }
    }
}
