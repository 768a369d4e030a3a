//! Every file of the corpus goes through its oracle, as it is and changed.
use super::*;
use proptest::{prelude::*, sample::Index};
use std::{fs, path::Path};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target}");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn oracle(target: &str) -> Oracle {
    let mut targets = TARGETS.iter();
    targets.find(|(name, _)| *name == target).unwrap().1
}

#[test]
fn the_corpus_holds() {
    for (target, oracle) in TARGETS {
        for bytes in corpus(target) {
            oracle(&bytes);
        }
    }
}

#[test]
fn every_target_has_a_file_that_joins_bytes_to_its_oracle() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        let code = fs::read_to_string(folder.join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(
            code.contains(&format!("lockstep_model::fuzz::{target}(bytes)")),
            "{target}"
        );
        assert!(
            manifest.contains(&format!("name = \"{target}\"")),
            "{target}"
        );
    }
}

#[test]
fn parts_are_joined_and_taken_apart() {
    let joined = join(&[b"ab", b"", b"cde"]);
    assert_eq!(parts::<3>(&joined), [b"ab".as_slice(), b"", b"cde"]);
    assert_eq!(
        parts::<3>(b"\xff\xff\xff\xffx"),
        [b"x".as_slice(), b"", b""]
    );
    assert_eq!(parts::<2>(b"abc"), [b"".as_slice(), b""]);
}

/// Runs a target on one of its files after some changes.
fn changed(target: &str, which: &Index, edits: &[(Index, u8, bool)], length: Option<&Index>) {
    let corpus = corpus(target);
    let mut bytes = which.get(&corpus).clone();
    for (place, byte, near_start) in edits {
        let range = if *near_start {
            bytes.len().min(1500)
        } else {
            bytes.len()
        };
        if range > 0 {
            let place = place.index(range);
            bytes[place] = *byte;
        }
    }
    if let Some(length) = length {
        bytes.truncate(length.index(bytes.len().max(1)));
    }
    oracle(target)(&bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn changed_checkpoints_hold(
        which: Index, edits in prop::collection::vec((any::<Index>(), any::<u8>(), any::<bool>()), 1..4),
        length in prop::option::weighted(0.2, any::<Index>()),
    ) {
        changed("checkpoint", &which, &edits, length.as_ref());
    }

    #[test]
    fn changed_tokenizers_hold(
        which: Index, edits in prop::collection::vec((any::<Index>(), any::<u8>(), any::<bool>()), 1..4),
        length in prop::option::weighted(0.2, any::<Index>()),
    ) {
        changed("tokenizer", &which, &edits, length.as_ref());
    }

    #[test]
    fn changed_templates_hold(
        which: Index, edits in prop::collection::vec((any::<Index>(), 32u8..127, any::<bool>()), 1..6),
        length in prop::option::weighted(0.2, any::<Index>()),
    ) {
        changed("template", &which, &edits, length.as_ref());
    }
}
