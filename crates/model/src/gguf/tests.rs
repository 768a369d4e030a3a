use super::*;
use crate::{
    Generation, Model, Params, Prompt, Work,
    fixture::{GgufBuilder, tiny_llama},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use proptest::prelude::*;
use std::{num::NonZeroUsize, sync::Arc};

fn error(builder: GgufBuilder) -> GgufError {
    Gguf::parse(&builder.build()).unwrap_err()
}

fn one_tensor(dimensions: &[u64], tensor_type: TensorType, bytes: usize) -> GgufBuilder {
    GgufBuilder::default().tensor("weight", dimensions, tensor_type, vec![0; bytes])
}

#[test]
fn every_value_type_round_trips() {
    let values = [
        Value::U8(1),
        Value::I8(-2),
        Value::U16(3),
        Value::I16(-4),
        Value::U32(5),
        Value::I32(-6),
        Value::F32(7.5),
        Value::Bool(true),
        Value::String("eight ö".to_owned()),
        Value::Array(vec![Value::I32(9), Value::I32(-9)]),
        Value::Array(vec![Value::Array(vec![Value::U8(1)])]),
        Value::U64(10),
        Value::I64(-11),
        Value::F64(12.25),
    ];
    let builder = values
        .iter()
        .enumerate()
        .fold(GgufBuilder::default(), |builder, (index, value)| {
            builder.set(&format!("key{index}"), value.clone())
        });
    let file = builder.build();
    let gguf = Gguf::parse(&file).unwrap();
    for (index, value) in values.iter().enumerate() {
        assert_eq!(gguf.value(&format!("key{index}")).unwrap(), value);
    }
}

#[test]
fn tensors_are_found_where_they_were_put() {
    let file = GgufBuilder::default()
        .tensor("a", &[3], TensorType::F32, (0..12).collect())
        .tensor("b", &[32, 2], TensorType::Q8_0, (0..68).collect())
        .build();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(
        gguf.tensor_bytes("a").unwrap(),
        (0..12).collect::<Vec<u8>>()
    );
    assert_eq!(
        gguf.tensor_bytes("b").unwrap(),
        (0..68).collect::<Vec<u8>>()
    );
    let info = gguf.tensor("b").unwrap();
    assert_eq!((info.rows, info.columns), (2, 32));
}

#[test]
fn malformed_files_are_named() {
    assert_eq!(
        Gguf::parse(b"GGML").unwrap_err().to_string(),
        "not a GGUF file: it starts with bytes [47, 47, 4d, 4c] instead of \"GGUF\""
    );
    assert_eq!(
        Gguf::parse(b"GGUF\x01\0\0\0").unwrap_err(),
        GgufError::UnsupportedVersion { version: 1 }
    );
    assert!(matches!(
        error(one_tensor(&[u64::MAX / 2, 4], TensorType::F32, 4)),
        GgufError::ShapeOverflow { .. }
    ));
    assert!(matches!(
        error(one_tensor(&[33], TensorType::Q8_0, 34)),
        GgufError::PartialBlock { columns: 33, .. }
    ));
    assert!(matches!(
        error(one_tensor(&[0, 4], TensorType::F32, 4)),
        GgufError::EmptyTensor { .. }
    ));
    assert_eq!(
        error(one_tensor(&[9], TensorType::F32, 32)).to_string(),
        "tensor ends past the file: 36 bytes at 0 of 32 bytes of data: weight"
    );
    // The second tensor is put 32 bytes behind the first, which claims 64.
    assert!(matches!(
        error(one_tensor(&[16], TensorType::F32, 32).tensor(
            "b",
            &[8],
            TensorType::F32,
            vec![0; 32]
        )),
        GgufError::TensorsOverlap { .. }
    ));
    assert!(matches!(
        error(one_tensor(&[1], TensorType::F32, 4).tensor(
            "weight",
            &[1],
            TensorType::F32,
            vec![0; 4]
        )),
        GgufError::DuplicateTensor { .. }
    ));
    assert!(matches!(
        error(GgufBuilder::default().set("general.alignment", Value::U32(24))),
        GgufError::InvalidAlignment { alignment: 24 }
    ));
    let mut unknown = one_tensor(&[1], TensorType::F32, 4).build();
    let type_at = 24 + 8 + "weight".len() + 4 + 8;
    unknown[type_at] = 99;
    assert_eq!(
        Gguf::parse(&unknown).unwrap_err().to_string(),
        "tensor has an unknown type 99: weight"
    );
}

#[test]
fn an_absurd_count_is_refused_before_anything_is_allocated() {
    for place in [8, 16] {
        let mut file = GgufBuilder::default().build();
        file[place..place + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        assert!(matches!(
            Gguf::parse(&file).unwrap_err(),
            GgufError::Truncated { .. }
        ));
    }
}

#[test]
fn every_truncation_of_the_header_is_an_error() {
    let file = tiny_llama(1).build();
    let data = Gguf::parse(&file)
        .unwrap()
        .tensors()
        .values()
        .map(|info| info.range.start)
        .min()
        .unwrap();
    for length in (0..data).step_by(7).chain(data - 40..data) {
        assert!(Gguf::parse(&file[..length]).is_err(), "{length}");
    }
    assert!(matches!(
        Gguf::parse(&file[..file.len() - 64]).unwrap_err(),
        GgufError::TensorPastEnd { .. }
    ));
}

/// Generates two tokens or fails.
fn run(model: Arc<Model>) {
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Arc::new(Kernels::new(Isa::Portable, pool).unwrap());
    let prompt = Prompt::Text("the users".to_owned());
    let params = Params {
        tokens_max: Some(2),
        ..Params::default()
    };
    if let Ok(mut generation) = Generation::start(model, kernels, &prompt, params) {
        let _ = generation.advance(2, Work::MAX);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        near_start in any::<bool>(),
        length in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let mut file = tiny_llama(2).build();
        let range = if near_start { 1200 } else { file.len() };
        for (place, byte) in edits {
            let place = place.index(range);
            file[place] = byte;
        }
        if truncate {
            file.truncate(length.index(file.len()));
        }
        if let Ok(gguf) = Gguf::parse(&file) {
            for name in gguf.tensors().keys() {
                prop_assert!(gguf.tensor_bytes(name).is_ok());
            }
            // The layers above must refuse or run, not panic.
            if let Ok(model) = crate::Model::from_bytes(&file) {
                run(model);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = Gguf::parse(&bytes);
        for (place, byte) in b"GGUF\x03\0\0\0".iter().enumerate().take(bytes.len()) {
            bytes[place] = *byte;
        }
        let _ = Gguf::parse(&bytes);
    }
}
