//! What experts read is measured expert by expert, and each is encoded by what it reads.
use super::*;
use crate::{
    execute::{ExpertInputs, Observer, Output, Sequence},
    graph::Action,
};
use std::collections::BTreeMap;

/// The layers with mixtures, and the experts of each.
const LAYERS: [usize; 2] = [1, 2];
const COUNT: usize = 6;
const USED: usize = 2;

fn source() -> fixture::GgufBuilder {
    let of = arch::TINY.iter().find(|of| of.experts.is_some()).unwrap();
    fixture::tiny(of, 5, fixture::Weights::Float)
}

fn name(layer: usize, part: &str) -> String {
    format!("blk.{layer}.ffn_{part}_exps.weight")
}

/// The rows that an expert's first products read, and those that its last one reads.
type Read = (Vec<f32>, Vec<f32>);

/// What experts read, by layer and expert.
struct Heard {
    layers: BTreeMap<usize, usize>,
    read: BTreeMap<(usize, usize), Read>,
}

impl Observer for Heard {
    fn observe(&mut self, _: Output<'_>) {}

    fn observe_expert(&mut self, inputs: ExpertInputs<'_>) {
        let expert = (self.layers[&inputs.operation], inputs.expert);
        let (input, gated) = self.read.entry(expert).or_default();
        input.extend(inputs.input);
        gated.extend(inputs.gated);
    }
}

/// What experts read of the text that [`calibration`] measures.
fn hear(source: &[u8]) -> BTreeMap<(usize, usize), Read> {
    let model = Model::from_bytes(source).unwrap();
    let kernels = Arc::new(Kernels::new(Isa::Portable, pool(1)).unwrap());
    let operations = model.graph().operations.iter().enumerate();
    let mixtures = operations.filter(|(_, made)| matches!(made.action, Action::Experts(_)));
    let mut heard = Heard {
        layers: mixtures.map(|(index, _)| index).zip(LAYERS).collect(),
        read: BTreeMap::new(),
    };
    let mut sequence = Sequence::new(Arc::clone(&model), kernels, CONTEXT);
    for piece in text().chunks(CONTEXT) {
        sequence.clear();
        sequence.begin(piece, false).unwrap();
        while sequence.step_observed(&mut heard).is_some() {}
    }
    heard.read
}

/// The values of each expert.
fn weights(file: &[u8], name: &str) -> Vec<Vec<f32>> {
    let gguf = Gguf::parse(file).unwrap();
    let info = gguf.tensor(name).unwrap();
    let format = weight_format(info.tensor_type).unwrap();
    let stored = gguf.tensor_bytes(name).unwrap();
    let mut values = Vec::new();
    decode(format, info.rows, info.columns, stored, &mut values).unwrap();
    let experts = values.chunks_exact(values.len() / COUNT);
    experts.map(<[f32]>::to_vec).collect()
}

/// The sum of the squares of matrix * row over all of `rows`.
fn squares_of_products(matrix: &[f64], rows: &[f32], columns: usize) -> f64 {
    let product = |weights: &[f64], row: &[f32]| -> f64 {
        let terms = weights.iter().zip(row);
        terms
            .map(|(weight, value)| weight * f64::from(*value))
            .sum()
    };
    let of_row = |row| {
        let products = matrix
            .chunks_exact(columns)
            .map(|weights| product(weights, row));
        products.map(|product| product * product).sum::<f64>()
    };
    rows.chunks_exact(columns).map(of_row).sum()
}

/// By how much the outputs of all down projections are wrong, on what they read.
fn down_error(source: &[u8], file: &[u8], heard: &BTreeMap<(usize, usize), Read>) -> f64 {
    let mut error = 0.0;
    for layer in LAYERS {
        let name = name(layer, "down");
        let columns = Gguf::parse(source).unwrap().tensor(&name).unwrap().columns;
        let both = weights(source, &name).into_iter().zip(weights(file, &name));
        for (expert, (before, after)) in both.enumerate() {
            let both = before.iter().zip(&after);
            let wrong: Vec<f64> = both
                .map(|(before, after)| f64::from(*after) - f64::from(*before))
                .collect();
            let rows = heard
                .get(&(layer, expert))
                .map_or(&[][..], |(_, gated)| gated);
            error += squares_of_products(&wrong, rows, columns);
        }
    }
    error
}

fn naive_columns(rows: &[f32], width: usize) -> Columns {
    let rows = rows.chunks_exact(width);
    let column = |column: usize| rows.clone().map(move |row| row[column]);
    let squares = |index| column(index).map(|value| f64::from(value) * f64::from(value));
    let count = rows.len();
    let mean = |index| (squares(index).fold(0.0, |sum, square| sum + square) / count as f64) as f32;
    Columns {
        count: count as u64,
        minima: (0..width)
            .map(|index| column(index).reduce(f32::min).unwrap())
            .collect(),
        maxima: (0..width)
            .map(|index| column(index).reduce(f32::max).unwrap())
            .collect(),
        mean_squares: (0..width).map(mean).collect(),
    }
}

#[test]
fn each_expert_is_measured_on_what_it_reads() {
    let source = source().build();
    let (found, heard) = (calibration(&source, Isa::Portable, 1), hear(&source));
    assert_eq!(found.experts.len(), 3 * LAYERS.len());
    let gguf = Gguf::parse(&source).unwrap();
    for layer in LAYERS {
        for part in ["gate", "up", "down"] {
            let name = name(layer, part);
            let width = gguf.tensor(&name).unwrap().columns;
            let experts = &found.experts[&name];
            assert_eq!(experts.len(), COUNT);
            for (expert, columns) in experts.iter().enumerate() {
                let (input, gated) = &heard[&(layer, expert)];
                let rows = if part == "down" { gated } else { input };
                assert_eq!(columns, &naive_columns(rows, width), "{name}: {expert}");
            }
            let all = &found.tensors[&name];
            assert_eq!(all.count, (USED * text().len()) as u64);
            let counts = experts.iter().map(|columns| columns.count);
            assert_eq!(counts.sum::<u64>(), all.count);
        }
        // Every token goes through as many experts, and the router reads what they read.
        let router = &found.tensors[&format!("blk.{layer}.ffn_gate_inp.weight")];
        let all = &found.tensors[&name(layer, "gate")];
        assert_eq!((&all.minima, &all.maxima), (&router.minima, &router.maxima));
        for (all, router) in all.mean_squares.iter().zip(&router.mean_squares) {
            assert!((all / router - 1.0).abs() < 1e-6, "{all} {router}");
        }
    }
}

#[test]
fn calibrated_down_projections_are_less_wrong_and_their_own_calibration_is_best() {
    let source = source().build();
    let (own, heard) = (calibration(&source, Isa::Portable, 1), hear(&source));
    for isa in Isa::available() {
        assert_eq!(calibration(&source, isa, 3), own, "{isa}");
    }
    let together = Calibration {
        experts: BTreeMap::new(),
        ..own.clone()
    };
    for format in ["Q4_0", "Q4_1", "IQ4_NL"] {
        let policy = Policy::new(format).unwrap();
        let error = |calibration: Option<&Calibration>| {
            let file = quantize(&source, &policy, calibration, 1).unwrap();
            let again = quantize(&source, &policy, calibration, 3).unwrap();
            assert!(file == again, "{format}");
            down_error(&source, &file, &heard)
        };
        let [own, together, without] = [Some(&own), Some(&together), None].map(error);
        assert!(own < 0.97 * without, "{format}: {own} {without}");
        assert!(own < together, "{format}: {own} {together}");
    }
}

#[test]
fn an_expert_that_no_token_reached_is_encoded_by_what_the_others_read() {
    const LAYER: usize = 1;
    const EXPERT: usize = 3;
    let mut bias = [0f32; COUNT];
    bias[EXPERT] = -8.0;
    let bytes = bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
    let bias = format!("blk.{LAYER}.exp_probs_b.bias");
    let source = source()
        .without_tensor(&bias)
        .tensor(&bias, &[COUNT as u64], TensorType::F32, bytes)
        .build();
    let found = calibration(&source, Isa::Portable, 1);
    let policy = Policy::new("Q4_0").unwrap();
    let file = quantize(&source, &policy, Some(&found), 2).unwrap();
    Model::from_bytes(&file).unwrap();
    for part in ["gate", "up", "down"] {
        let name = name(LAYER, part);
        assert_eq!(found.experts[&name][EXPERT], Columns::default());
        assert!(found.experts[&name][EXPERT - 1].count > 0);
        let columns = &found.tensors[&name];
        let values = &weights(&source, &name)[EXPERT];
        let mut expected = Vec::new();
        let importance = columns.mean_squares.as_slice();
        let width = importance.len();
        encode_rows(
            &pool(1),
            WeightFormat::Q4_0,
            values,
            width,
            Some(importance),
            &mut expected,
        )
        .unwrap();
        let gguf = Gguf::parse(&file).unwrap();
        let stored = gguf.tensor_bytes(&name).unwrap();
        assert_eq!(
            &stored[EXPERT * expected.len()..][..expected.len()],
            expected,
            "{name}"
        );
    }
}

#[test]
fn a_text_without_tokens_weighs_nothing() {
    let source = source().build();
    let model = Model::from_bytes(&source).unwrap();
    let kernels = Arc::new(Kernels::new(Isa::Portable, pool(1)).unwrap());
    let found = Calibration::measure(&model, &kernels, &[], CONTEXT, |_| ()).unwrap();
    assert_eq!(found, Calibration::default());
    let policy = Policy::new("Q4_0").unwrap();
    let file = quantize(&source, &policy, Some(&found), 2).unwrap();
    assert!(file == quantize(&source, &policy, None, 2).unwrap());
}
