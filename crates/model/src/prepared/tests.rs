use super::*;
use crate::{
    Sequence,
    arch::TINY,
    fixture::{self, Weights},
    graph::TensorId,
    prepared::head::{SEAL, seal},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use proptest::prelude::*;
use std::{fs, io::Cursor, num::NonZeroUsize};

/// The prepared file of a GGUF file.
fn prepare(parts: &[&[u8]]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let source = write(parts, &mut file, |at, of| assert!(at <= of)).unwrap();
    assert_eq!(source, Digest::of_parts(parts));
    file.into_inner()
}

fn open(bytes: &[u8]) -> Result<Arc<Model>, ModelError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    Model::open_prepared(file.path())
}

fn error(bytes: &[u8]) -> String {
    open(bytes).unwrap_err().to_string()
}

/// The bits of the logits behind every token of a text.
fn logits(model: &Arc<Model>) -> Vec<u32> {
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Arc::new(Kernels::new(Isa::detect().unwrap(), pool).unwrap());
    let mut sequence = Sequence::new(Arc::clone(model), kernels, 12);
    let mut bits = Vec::new();
    for token in 3..15 {
        sequence.begin(&[token * 7], true).unwrap();
        sequence.finish();
        bits.extend(sequence.logits().iter().map(|value| value.to_bits()));
    }
    bits
}

#[test]
fn a_prepared_model_is_the_same_in_every_architecture() {
    for of in TINY {
        for weights in [Weights::Mixed, Weights::Float] {
            let bytes = fixture::tiny(of, 9, weights).build();
            let stored = Model::from_bytes(&bytes).unwrap();
            let file = prepare(&[&bytes]);
            assert_eq!(source(&file).unwrap(), Digest::of(&bytes));
            assert_eq!(check(&file).unwrap(), Digest::of(&bytes));
            let model = open(&file).unwrap();
            assert_eq!(model.digest(), stored.digest());
            assert_eq!(model.name(), stored.name());
            assert_eq!(model.graph(), stored.graph());
            assert_eq!(model.resident_bytes(), stored.resident_bytes());
            assert_eq!(stored.mapped_bytes(), 0);
            assert!(model.mapped_bytes() > model.resident_bytes() / 2);
            for tensor in (0..model.graph().tensors.len()).map(TensorId) {
                assert_eq!(model.tensor_bytes(tensor), stored.tensor_bytes(tensor));
            }
            assert_eq!(logits(&model), logits(&stored), "{}", of.architecture);
        }
    }
}

#[test]
fn a_model_of_several_files_is_prepared_as_one() {
    let whole = fixture::tiny_llama(3);
    let parts = whole.split(3);
    let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
    let file = prepare(&parts);
    let model = open(&file).unwrap();
    let stored = Model::from_parts(&parts).unwrap();
    assert_eq!(model.digest(), stored.digest());
    assert_eq!(logits(&model), logits(&stored));
    assert_eq!(file, prepare(&parts));
}

#[test]
fn other_files_say_why() {
    let bytes = fixture::tiny_llama(1).build();
    let file = prepare(&[&bytes]);
    assert_eq!(
        error(&bytes),
        "not a prepared model: it starts with bytes [47, 47, 55, 46, 03, 00, 00, 00]"
    );
    let mut other = file.clone();
    other[12] = 9;
    assert_eq!(
        error(&other),
        "prepared by another version of this program: format 1 with layout 9 instead of 1 with 1"
    );
    let (length, short) = (file.len(), file.len() - 64);
    assert_eq!(
        error(&file[..short]),
        format!("prepared file has not the {length} bytes that its head says: {short}")
    );
    assert_eq!(error(&file[..20]), "head of the prepared file is damaged");
    let mut other = file.clone();
    other[300] ^= 1;
    assert!(
        error(&other).starts_with("head of the prepared file has not the digest"),
        "{}",
        error(&other)
    );
    let missing = Model::open_prepared(Path::new("/nonexistent/a.packed")).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "cannot read model file: /nonexistent/a.packed"
    );
}

#[test]
fn a_changed_matrix_is_found_by_the_whole_check_alone() {
    let bytes = fixture::tiny_llama(1).build();
    let mut file = prepare(&[&bytes]);
    *file.last_mut().unwrap() ^= 1;
    assert!(open(&file).is_ok());
    let error = check(&file).unwrap_err().to_string();
    assert!(
        error.starts_with("tensor of the prepared file has not the digest"),
        "{error}"
    );
}

#[test]
fn what_is_no_model_is_not_prepared() {
    let mut file = Cursor::new(Vec::new());
    let error = write(&[b"GGUF"], &mut file, |_, _| ()).unwrap_err();
    assert!(matches!(error, ModelError::File(_)), "{error}");
    let bytes = fixture::tiny_llama(1)
        .without_tensor("output_norm.weight")
        .build();
    let error = write(&[&bytes], &mut file, |_, _| ()).unwrap_err();
    assert_eq!(error.to_string(), "tensor is missing: output_norm.weight");
    assert!(file.into_inner().is_empty());
}

/// The bytes of a file's head.
fn head_bytes(file: &[u8]) -> usize {
    Head::read(file).unwrap().bytes
}

proptest! {
    #[test]
    fn sealed_heads_of_any_bytes_give_an_error_or_a_model(
        changes in prop::collection::vec((0usize..1 << 20, any::<u8>()), 1..4),
        in_table in any::<bool>(),
    ) {
        let bytes = fixture::tiny(&TINY[TINY.len() - 1], 2, Weights::Mixed).build();
        let mut file = prepare(&[&bytes]);
        let head = head_bytes(&file);
        // Half of the time where the head's own numbers are.
        let range = if in_table { 2048 } else { head };
        for (at, byte) in changes {
            file[16 + at % (range - 16)] = byte;
        }
        let _ = open(&file);
        let seal = seal(&file[..head]);
        file[SEAL].copy_from_slice(&seal.0);
        let _ = check(&file);
        if let Ok(model) = open(&file) {
            let kernels = Kernels::new(Isa::Portable, Arc::new(Pool::new(NonZeroUsize::MIN)));
            let mut sequence = Sequence::new(model, Arc::new(kernels.unwrap()), 2);
            if sequence.begin(&[5], true).is_ok() {
                sequence.finish();
            }
        }
    }
}
