//! What an observer hears of experts.
use super::*;
use crate::{
    arch,
    graph::{Action, ExpertsShape, TensorId},
};
use lockstep_numeric::elementary;
use std::collections::BTreeMap;

/// Bits of what an expert's first products read, and of what its last one reads.
type Row = (Bits, Bits);

/// By operation and expert.
#[derive(Default, Debug, PartialEq)]
struct Heard(BTreeMap<(usize, usize), Vec<Row>>);

impl Observer for Heard {
    fn observe(&mut self, _: Output<'_>) {}

    fn observe_expert(&mut self, inputs: ExpertInputs<'_>) {
        let rows = |values: &[f32]| -> Vec<Bits> {
            let rows = values.chunks_exact(values.len() / inputs.rows);
            rows.map(bits).collect()
        };
        let rows = rows(inputs.input).into_iter().zip(rows(inputs.gated));
        let expert = (inputs.operation, inputs.expert);
        self.0.entry(expert).or_default().extend(rows);
    }
}

fn model() -> Arc<Model> {
    let of = arch::TINY.iter().find(|of| of.experts.is_some()).unwrap();
    Model::from_bytes(&fixture::tiny(of, 5, fixture::Weights::Float).build()).unwrap()
}

fn new_sequence(model: &Arc<Model>) -> Sequence {
    Sequence::new(Arc::clone(model), Arc::clone(&PORTABLE), LENGTH)
}

/// What is heard of a text alone, and its last logits.
fn alone(model: &Arc<Model>, tokens: &[u32]) -> (Heard, Bits) {
    let (mut heard, mut sequence) = (Heard::default(), new_sequence(model));
    sequence.begin(tokens, true).unwrap();
    while sequence.step_observed(&mut heard).is_some() {}
    (heard, bits(sequence.logits()))
}

#[test]
fn hearing_experts_changes_no_bit_and_neighbours_do_not_either() {
    let model = model();
    let texts = [tokens(0), tokens(2)];
    let [(mut expected, first), (other, second)] = texts.each_ref().map(|text| alone(&model, text));
    for (text, logits) in texts.iter().zip([&first, &second]) {
        let mut unheard = new_sequence(&model);
        unheard.begin(text, true).unwrap();
        unheard.finish();
        assert_eq!(bits(unheard.logits()), *logits);
    }
    // In a batch an expert reads the first text's rows and then the other's.
    for (expert, rows) in other.0 {
        expected.0.entry(expert).or_default().extend(rows);
    }
    let mut sequences = [new_sequence(&model), new_sequence(&model)];
    let members = sequences.iter_mut().zip(&texts);
    let mut members: Vec<_> = members
        .map(|(sequence, tokens)| Member {
            sequence,
            tokens,
            logits: true,
        })
        .collect();
    let mut together = Heard::default();
    Batch::new(Arc::clone(&model), Arc::clone(&PORTABLE))
        .run_observed(&mut members, &mut together)
        .unwrap();
    assert_eq!(together, expected);
    assert_eq!(
        sequences.map(|sequence| bits(sequence.logits())),
        [first, second]
    );
}

#[test]
fn what_is_heard_of_an_expert_is_what_its_products_read() {
    let model = model();
    let (heard, _) = alone(&model, &tokens(0));
    let floats =
        |bits: &Bits| -> Vec<f32> { bits.iter().map(|bits| f32::from_bits(*bits)).collect() };
    let mut rows = 0;
    for ((operation, expert), read) in heard.0 {
        let Action::Experts(ExpertsShape { gate, up, .. }) =
            model.graph().operations[operation].action
        else {
            panic!("operation has no experts: {operation}");
        };
        let product = |weight: TensorId, row: usize, input: &[f32]| -> f64 {
            let mut weights = vec![0.0; input.len()];
            model.experts(weight)[expert].read_row(row, &mut weights);
            let terms = weights.iter().zip(input);
            terms
                .map(|(weight, value)| f64::from(*weight) * f64::from(*value))
                .sum()
        };
        rows += read.len();
        for (input, gated) in &read {
            let input = floats(input);
            for (channel, found) in floats(gated).into_iter().enumerate() {
                let (gate, up) = (product(gate, channel, &input), product(up, channel, &input));
                let exp = elementary::exp(-gate as f32);
                let expected = gate / (1.0 + f64::from(exp)) * up;
                assert!(
                    (f64::from(found) - expected).abs() < 1e-5,
                    "{found} {expected}"
                );
            }
        }
    }
    // Two experts of six, in two layers.
    assert_eq!(rows, 2 * 2 * LENGTH);
}
