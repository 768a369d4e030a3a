//! Mixtures of experts: which experts a row goes through, and what they make of it.
//!
//! # Determinism
//! A row's experts and the order in which their results are added depend on the row alone. That rows with an expert in
//! common go through it together changes no bit of any of them.
use crate::{graph::ExpertsShape, model::Model};
use lockstep_numeric::{ActivationFormat, Kernels, PackedMatrix, QuantizedRows, elementary};

/// The least that weights are divided by.
const WEIGHTS_SUM_MIN: f32 = 1.0 / 16_384.0;

/// Memory that is used again by the next operation.
#[derive(Default)]
pub(super) struct Scratch {
    /// Expert, row, weight; in this order.
    chosen: Vec<(usize, usize, f32)>,
    input: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    result: Vec<f32>,
    quantized: QuantizedRows,
}

/// The experts of a row by the scores it gives them, and their weights.
fn choose(scores: &[f32], bias: Option<&[f32]>, used: usize) -> Vec<(usize, f32)> {
    let weight = |score: &f32| 1.0 / (1.0 + elementary::exp(-score));
    let weights: Vec<f32> = scores.iter().map(weight).collect();
    let rank = |expert: usize| {
        let rank = weights[expert] + bias.map_or(0.0, |bias| bias[expert]);
        // The sign of a NaN that arithmetic gives is the processor's choice, and has a place in the order.
        if rank.is_nan() { f32::NAN } else { rank }
    };
    let mut experts: Vec<usize> = (0..weights.len()).collect();
    // Equal ones stay in their order.
    experts.sort_by(|left, right| rank(*right).total_cmp(&rank(*left)));
    experts.truncate(used);
    experts.sort_unstable();
    let sum = experts
        .iter()
        .fold(0.0, |sum, expert| sum + weights[*expert]);
    let sum = lockstep_numeric::scalar::maximum(sum, WEIGHTS_SUM_MIN);
    let divided = experts
        .into_iter()
        .map(|expert| (expert, weights[expert] / sum));
    divided.collect()
}

/// output = weight times each of `rows` rows.
fn product(
    kernels: &Kernels,
    weight: &PackedMatrix,
    input: &[f32],
    rows: usize,
    quantized: &mut QuantizedRows,
    output: &mut Vec<f32>,
) {
    output.clear();
    output.resize(rows * weight.rows(), 0.0);
    match weight.format().activations() {
        ActivationFormat::F32 => kernels.matmul_float(weight, input, rows, output),
        format => {
            kernels.quantize(format, input, rows, weight.columns(), quantized);
            kernels.matmul(weight, quantized, output);
        }
    }
}

impl Scratch {
    /// See [`ExpertsShape`]. `hear` gets each expert that has rows with what its first products read and what its last
    /// one reads.
    pub(super) fn run(
        &mut self,
        model: &Model,
        kernels: &Kernels,
        shape: &ExpertsShape,
        (input, scores): (&[f32], &[f32]),
        output: &mut [f32],
        mut hear: impl FnMut(usize, &[f32], &[f32]),
    ) {
        let [gates, ups, downs] = [shape.gate, shape.up, shape.down].map(|id| model.experts(id));
        let bias = shape.bias.map(|id| model.vector(id));
        let (width, count) = (gates[0].columns(), gates.len());
        output.fill(0.0);
        self.chosen.clear();
        for (row, scores) in scores.chunks_exact(count).enumerate() {
            let chosen = choose(scores, bias, shape.used).into_iter();
            self.chosen
                .extend(chosen.map(|(expert, weight)| (expert, row, weight)));
        }
        self.chosen.sort_by_key(|(expert, row, _)| (*expert, *row));
        for chosen in self.chosen.chunk_by(|left, right| left.0 == right.0) {
            let (expert, rows) = (chosen[0].0, chosen.len());
            self.input.clear();
            for (_, row, _) in chosen {
                self.input.extend_from_slice(&input[row * width..][..width]);
            }
            let quantized = &mut self.quantized;
            product(
                kernels,
                &gates[expert],
                &self.input,
                rows,
                quantized,
                &mut self.gate,
            );
            product(
                kernels,
                &ups[expert],
                &self.input,
                rows,
                quantized,
                &mut self.up,
            );
            kernels.silu_mul(&mut self.gate, &self.up);
            hear(expert, &self.input, &self.gate);
            product(
                kernels,
                &downs[expert],
                &self.gate,
                rows,
                quantized,
                &mut self.result,
            );
            for ((_, row, weight), result) in chosen.iter().zip(self.result.chunks_exact_mut(width))
            {
                kernels.scale(result, *weight);
                kernels.add(&mut output[row * width..][..width], result);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_taken_and_of_equal_ones_the_first() {
        let experts = |scores: &[f32], bias: Option<&[f32]>, used| {
            let chosen = choose(scores, bias, used);
            chosen.iter().map(|(expert, _)| *expert).collect::<Vec<_>>()
        };
        assert_eq!(experts(&[0.0, 1.0, -1.0, 1.0], None, 1), [1]);
        assert_eq!(experts(&[0.0, 1.0, -1.0, 1.0], None, 2), [1, 3]);
        assert_eq!(experts(&[2.0, 2.0, 2.0, 2.0], None, 3), [0, 1, 2]);
        // A bias changes who is taken, and not with which weight.
        let bias = [0.0, 0.0, 0.9, 0.0];
        assert_eq!(experts(&[0.0, 1.0, -1.0, 1.0], Some(&bias), 2), [1, 2]);
        let weights = choose(&[0.0, 1.0, -1.0, 1.0], Some(&bias), 2);
        let sigmoid = |x: f32| 1.0 / (1.0 + elementary::exp(-x));
        let sum = sigmoid(1.0) + sigmoid(-1.0);
        assert_eq!(weights, [(1, sigmoid(1.0) / sum), (2, sigmoid(-1.0) / sum)]);
        // Weights that vanish are not blown up.
        assert_eq!(choose(&[-200.0; 2], None, 2), [(0, 0.0), (1, 0.0)]);
        assert_eq!(experts(&[f32::NAN, 1.0], None, 2), [0, 1]);
        // Whatever sign a NaN has.
        for bits in [0x7fc0_0000, 0xffc0_0000] {
            let nan = f32::from_bits(bits);
            assert_eq!(experts(&[2.0, nan, 1.0], None, 1), [1]);
            assert_eq!(experts(&[2.0, 0.0, 1.0], Some(&[0.0, nan, 0.0]), 1), [1]);
        }
    }
}
