mod experts;

use super::*;
use crate::{Model, arch, fixture};
use lockstep_numeric::{Isa, Kernels};
use std::{num::NonZeroUsize, sync::Arc};

fn pool(threads: usize) -> Arc<Pool> {
    Arc::new(Pool::new(NonZeroUsize::new(threads).unwrap()))
}

fn quantize(
    source: &[u8],
    policy: &Policy,
    calibration: Option<&Calibration>,
    threads: usize,
) -> Result<Vec<u8>, QuantizeError> {
    let gguf = Gguf::parse(source)?;
    let plan = Plan::new(&gguf, policy, calibration, true)?;
    let mut file = Vec::new();
    let mut heard = 0;
    plan.write(&pool(threads), &mut file, |_| heard += 1)?;
    assert_eq!(heard, plan.tensors().len());
    assert_eq!(file.len() as u64, plan.file_bytes());
    Ok(file)
}

/// Tokens of the pieces of [`text`].
const CONTEXT: usize = 100;

fn text() -> Vec<u32> {
    let token = |index: u32| (index * index * 7 + 3) % 268;
    (0..150).map(token).collect()
}

fn calibration(source: &[u8], isa: Isa, threads: usize) -> Calibration {
    let model = Model::from_bytes(source).unwrap();
    let kernels = Arc::new(Kernels::new(isa, pool(threads)).unwrap());
    let mut heard = Vec::new();
    let progress = |done| heard.push(done);
    let found = Calibration::measure(&model, &kernels, &text(), CONTEXT, progress).unwrap();
    assert_eq!(heard, [64, 100, 150]);
    found
}

#[test]
fn every_architecture_in_every_format_is_a_model() {
    for of in arch::TINY {
        let source = fixture::tiny(of, 5, fixture::Weights::Float).build();
        for format in WeightFormat::ALL {
            if format == WeightFormat::Int8 {
                continue;
            }
            let policy = Policy::new(format.name()).unwrap();
            let file = quantize(&source, &policy, None, 2).unwrap();
            Model::from_bytes(&file).unwrap_or_else(|error| panic!("{format}: {error}"));
            let gguf = Gguf::parse(&file).unwrap();
            assert_eq!(gguf.unsigned("general.quantization_version"), Ok(2));
            if format == WeightFormat::F32 {
                let before = Gguf::parse(&source).unwrap();
                for name in before.tensors().keys() {
                    assert_eq!(before.tensor_bytes(name), gguf.tensor_bytes(name));
                }
            }
        }
    }
}

#[test]
fn the_file_does_not_depend_on_threads_or_instruction_sets() {
    let source = fixture::tiny_llama(3).build();
    let first = calibration(&source, Isa::Portable, 1);
    for isa in Isa::available() {
        assert_eq!(calibration(&source, isa, 3), first, "{isa}");
    }
    for format in ["Q4_0", "Q4_K", "IQ4_XS"] {
        let policy = Policy::new(format).unwrap();
        let alone = quantize(&source, &policy, Some(&first), 1).unwrap();
        assert_eq!(quantize(&source, &policy, Some(&first), 4).unwrap(), alone);
        assert_ne!(quantize(&source, &policy, None, 4).unwrap(), alone);
    }
}

#[test]
fn a_calibration_knows_what_each_product_reads() {
    for of in arch::TINY {
        let source = fixture::tiny(of, 5, fixture::Weights::Float).build();
        let found = calibration(&source, Isa::Portable, 1);
        let model = Model::from_bytes(&source).unwrap();
        let products: std::collections::BTreeSet<_> = model
            .graph()
            .operations
            .iter()
            .filter_map(|operation| match operation.action {
                crate::graph::Action::MatMul { weight, .. } => {
                    Some(model.graph().tensors[weight.0].name.clone())
                }
                _ => None,
            })
            .collect();
        for name in &products {
            let columns = &found.tensors[name];
            let gguf = Gguf::parse(&source).unwrap();
            let width = gguf.tensor(name).unwrap().columns;
            assert_eq!(columns.mean_squares.len(), width, "{name}");
            // The head sees one token per pass.
            assert!(
                [150, 3].contains(&columns.count),
                "{name}: {}",
                columns.count
            );
            for column in 0..width {
                let largest = columns.maxima[column].max(-columns.minima[column]);
                assert!(columns.minima[column] <= columns.maxima[column]);
                assert!(columns.mean_squares[column] <= largest * largest * 1.0001);
                let (scale, zero_point) = columns.int8()[column];
                for value in [columns.minima[column], columns.maxima[column]] {
                    let integer = (value / scale).round() + f32::from(zero_point);
                    assert!((-129.0..=128.0).contains(&integer), "{name}: {integer}");
                }
            }
        }
    }
}

#[test]
fn quantised_weights_need_a_word() {
    let source = fixture::tiny_llama(3).build();
    let gguf = Gguf::parse(&source).unwrap();
    let error = Plan::new(&gguf, &Policy::new("Q5_0").unwrap(), None, false).unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("tensor is quantised already, and quantising it again loses more: "),
        "{error}"
    );
    // What keeps its format keeps its bytes.
    let policy = Policy::new("Q8_0").unwrap();
    let file = quantize(&source, &policy, None, 1).unwrap();
    let again = quantize(&file, &policy, None, 1).unwrap();
    assert_eq!(file, again);
    let gguf = Gguf::parse(&file).unwrap();
    Plan::new(&gguf, &policy, None, false).unwrap();
}

#[test]
fn what_is_not_finite_is_refused_by_name() {
    let name = "blk.0.ffn_up.weight";
    let mut values = vec![0.25f32; 64 * 96];
    values[64 * 3 + 5] = f32::NAN;
    let bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let source = fixture::tiny(&arch::TINY[0], 1, fixture::Weights::Float)
        .without_tensor(name)
        .tensor(name, &[64, 96], TensorType::F32, bytes)
        .build();
    for format in ["Q4_0", "F32", "F16"] {
        let error = quantize(&source, &Policy::new(format).unwrap(), None, 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot encode tensor: blk.0.ffn_up.weight"
        );
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "value of row 3, column 5 is not finite: NaN");
    }
}

#[test]
fn a_writer_that_fails_is_reported() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let source = fixture::tiny_llama(3).build();
    let gguf = Gguf::parse(&source).unwrap();
    let plan = Plan::new(&gguf, &Policy::new("Q8_0").unwrap(), None, true).unwrap();
    let error = plan.write(&pool(1), &mut Full, |_| ()).unwrap_err();
    assert!(matches!(error, QuantizeError::Write(_)), "{error}");
}

#[test]
fn several_files_become_one() {
    let whole = fixture::tiny_llama(3);
    let parts = whole.split(3);
    let refs: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let gguf = Gguf::parse_parts(&refs).unwrap();
    let plan = Plan::new(&gguf, &Policy::new("Q8_0").unwrap(), None, true).unwrap();
    let mut file = Vec::new();
    plan.write(&pool(1), &mut file, |_| ()).unwrap();
    let of_whole = quantize(&whole.build(), &Policy::new("Q8_0").unwrap(), None, 1).unwrap();
    assert_eq!(file, of_whole);
}
