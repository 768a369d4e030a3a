use super::*;
use crate::{
    Model,
    fixture::{GgufBuilder, tiny_llama},
};
use proptest::prelude::*;

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

/// The header of a file with one metadata pair, whose value has this type and these bytes.
fn pair(key: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(0u64.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend((key.len() as u64).to_le_bytes());
    file.extend(key);
    file.extend(kind.to_le_bytes());
    file.extend(value);
    file.resize(file.len() + 64, 0);
    file
}

#[test]
fn malformed_metadata_are_named() {
    let error = |key: &[u8], kind: u32, value: &[u8]| {
        Gguf::parse(&pair(key, kind, value))
            .unwrap_err()
            .to_string()
    };
    assert!(Gguf::parse(&pair(b"key", 7, &[1])).is_ok());
    assert_eq!(error(b"k\xffy", 4, &[]), "text at byte 24 is not UTF-8");
    let text = [&2u64.to_le_bytes()[..], b"\xc3\x28"].concat();
    assert_eq!(error(b"key", 8, &text), "text at byte 39 is not UTF-8");
    assert_eq!(
        error(b"key", 13, &[]),
        "metadata key has a value of an unknown type 13: key"
    );
    assert_eq!(
        error(b"key", 7, &[2]),
        "metadata key has a boolean that is neither 0 nor 1 but 2: key"
    );
    let array = |kind: u32, length: u64| [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat();
    assert_eq!(
        error(b"key", 9, &array(4, 1 << 40)),
        "metadata array of length 1099511627776 at depth 0 is too large: key"
    );
    let deep = array(9, 1).repeat(4);
    assert_eq!(
        error(b"key", 9, &[deep, array(0, 1)].concat()),
        "metadata array of length 1 at depth 4 is too large: key"
    );
    assert!(error(b"key", 9, &array(4, 1 << 20)).starts_with("file is truncated: "));
    assert!(error(b"key", 8, &u64::MAX.to_le_bytes()).starts_with("file is truncated: "));
    let mut twice = pair(b"key", 0, &[1]);
    twice[16] = 2;
    twice.truncate(24 + 8 + 3 + 4 + 1);
    twice.extend_from_within(24..);
    assert_eq!(
        Gguf::parse(&twice).unwrap_err().to_string(),
        "metadata key occurs twice: key"
    );
    let file = pair(b"key", 6, &1.5f32.to_le_bytes());
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.float("key").unwrap(), 1.5);
    for (error, wanted) in [
        (
            gguf.unsigned("key").unwrap_err(),
            "metadata key is a f32, not a non-negative integer: key",
        ),
        (
            gguf.text("key").unwrap_err(),
            "metadata key is a f32, not a text: key",
        ),
        (
            gguf.array("key").unwrap_err(),
            "metadata key is a f32, not a array: key",
        ),
        (
            gguf.unsigned("other").unwrap_err(),
            "metadata key is missing: other",
        ),
    ] {
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn tensors_in_the_wrong_places_are_named() {
    let file = one_tensor(&[8], TensorType::F32, 32).build();
    // Behind the name: the number of dimensions, one of them, the type, the offset.
    let count_at = 24 + 8 + "weight".len();
    let changed = |place: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[place..][..bytes.len()].copy_from_slice(bytes);
        Gguf::parse(&file).unwrap_err().to_string()
    };
    let offset_at = count_at + 4 + 8 + 4;
    assert_eq!(
        changed(offset_at, &[4]),
        "tensor's offset 4 is not a multiple of the alignment 32: weight"
    );
    assert_eq!(
        changed(offset_at, &(u64::MAX - 31).to_le_bytes()),
        "tensor ends past the file: 32 bytes at 18446744073709551584 of 32 bytes of data: weight"
    );
    for count in [0, 5] {
        assert_eq!(
            changed(count_at, &[count]),
            format!("tensor has {count} dimensions, not 1 to 4: weight")
        );
    }
    assert_eq!(
        changed(count_at + 4, &u64::MAX.to_le_bytes()),
        "tensor's size overflows: weight"
    );
    assert_eq!(changed(24 + 8, &[0xff]), "text at byte 24 is not UTF-8");
}

#[test]
fn settings_of_absurd_size_are_refused_before_anything_is_made_of_them() {
    for (part, value) in [
        ("block_count", u32::MAX),
        ("embedding_length", u32::MAX),
        ("feed_forward_length", u32::MAX),
        ("attention.head_count", u32::MAX),
        ("attention.head_count_kv", 0),
        ("context_length", u32::MAX),
        ("context_length", 0),
        ("block_count", 0),
    ] {
        let key = format!("llama.{part}");
        let file = tiny_llama(1).set(&key, Value::U32(value)).build();
        let error = Model::from_bytes(&file).unwrap_err().to_string();
        assert!(error.contains(&key), "{error}");
    }
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.embedding_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
    ] {
        let error = |file: GgufBuilder| Model::from_bytes(&file.build()).unwrap_err().to_string();
        let missing = error(tiny_llama(1).without(key));
        assert_eq!(missing, format!("metadata key is missing: {key}"));
        let other = error(tiny_llama(1).set(key, Value::Bool(true)));
        assert!(
            other.starts_with("metadata key is a bool, not a "),
            "{other}"
        );
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
        // The layers above must refuse or run, not panic.
        crate::fuzz::gguf(&file);
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
