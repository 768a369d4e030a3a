use super::*;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..=KEY_BYTES_MAX)
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let part = (0..9_u8).prop_map(|number| Part::of(number).expect("a part"));
    let memory = (0..3_u8).prop_map(|number| MemoryKind::of(number).expect("a kind"));
    let content = prop_oneof![
        Just(Content::Rows),
        (part, key(), any::<bool>()).prop_map(|(part, key, last)| Content::OfRow {
            part,
            key,
            last
        }),
        key().prop_map(|key| Content::Named { key }),
        (key(), memory, any::<u64>()).prop_map(|(owner, memory, index)| Content::Piece {
            owner,
            memory,
            index
        }),
    ];
    (any::<[u8; 32]>(), content).prop_map(|(digest, content)| Chunk { digest, content })
}

proptest! {
    #[test]
    fn a_manifest_has_one_encoding(chunks in proptest::collection::vec(chunk(), 0..9)) {
        let encoded = encode(&chunks);
        prop_assert_eq!(decode(&encoded), Some(chunks));
        prop_assert_eq!(decode(&encoded[..encoded.len() - 1]), None);
    }

    #[test]
    fn arbitrary_bytes_decode_to_themselves_or_not_at_all(
        count in 0..4_u32,
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&count.to_be_bytes()[..], &bytes].concat();
        if let Some(chunks) = decode(&bytes) {
            prop_assert_eq!(encode(&chunks), bytes);
        }
    }

    #[test]
    fn rows_come_back(rows in proptest::collection::vec((0..9_u8, key(), key()), 0..9)) {
        let mut bytes = Vec::new();
        for (part, key, value) in &rows {
            let part = Part::of(*part).expect("a part");
            let before = bytes.len();
            write_row(&mut bytes, part, key, value);
            prop_assert_eq!(bytes.len() - before, row_bytes(key, value));
        }
        let found = read_rows(&bytes).expect("rows");
        let found: Vec<_> = found
            .into_iter()
            .map(|(part, key, value)| (part as u8, key.to_vec(), value.to_vec()))
            .collect();
        prop_assert_eq!(found, rows);
    }

    #[test]
    fn arbitrary_bytes_are_rows_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Some(rows) = read_rows(&bytes) {
            let mut again = Vec::new();
            for (part, key, value) in rows {
                write_row(&mut again, part, key, value);
            }
            prop_assert_eq!(again, bytes);
        }
    }
}
