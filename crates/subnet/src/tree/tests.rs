use super::*;
use ic_certification::{LookupResult, hash_tree::SubtreeLookupResult};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn path(labels: &[&str]) -> Vec<Vec<u8>> {
    labels
        .iter()
        .map(|label| label.as_bytes().to_vec())
        .collect()
}

/// The example of the interface specification's certification page.
fn specification_example() -> Tree {
    let a = Tree::named([("x", Tree::leaf("hello")), ("y", Tree::leaf("world"))]);
    Tree::named([
        ("a", a),
        ("b", Tree::leaf("good")),
        ("d", Tree::leaf("morning")),
    ])
}

#[test]
fn witnesses_keep_the_root_and_show_presence_and_absence() {
    let tree = specification_example();
    let witness = tree.witness(&[path(&["a", "y"]), path(&["c"]), path(&["e"])]);
    assert_eq!(witness.digest(), *tree.digest());
    assert_eq!(
        witness.lookup_path(["a", "y"]),
        LookupResult::Found(b"world")
    );
    assert_eq!(witness.lookup_path(["a", "x"]), LookupResult::Unknown);
    assert_eq!(witness.lookup_path(["c"]), LookupResult::Absent);
    assert_eq!(witness.lookup_path(["e"]), LookupResult::Absent);
    assert!(matches!(
        witness.lookup_subtree(["c"]),
        SubtreeLookupResult::Absent
    ));
}

#[test]
fn a_path_that_ends_above_leaves_reveals_all_of_them() {
    let witness = specification_example().witness(&[path(&["a"])]);
    assert_eq!(
        witness.lookup_path(["a", "x"]),
        LookupResult::Found(b"hello")
    );
    assert_eq!(
        witness.lookup_path(["a", "y"]),
        LookupResult::Found(b"world")
    );
    assert_eq!(witness.lookup_path(["b"]), LookupResult::Unknown);
}

#[test]
fn the_empty_tree_proves_every_absence() {
    let tree = Tree::directory(&[]);
    let witness = tree.witness(&[path(&["a"])]);
    assert_eq!(witness.digest(), *tree.digest());
    assert_eq!(witness.lookup_path(["a"]), LookupResult::Absent);
}

fn entries() -> impl Strategy<Value = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>> {
    let label = || proptest::collection::vec(0_u8..4, 1..3);
    proptest::collection::btree_map(
        label(),
        proptest::collection::btree_map(label(), any::<[u8; 2]>().prop_map(Vec::from), 1..6),
        0..12,
    )
}

proptest! {
    #[test]
    fn every_answer_agrees_with_the_map(
        map in entries(),
        asked in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(0_u8..4, 1..3), 2), 1..6),
    ) {
        let directory = |entries: Vec<(Vec<u8>, Tree)>| {
            let entries: Vec<_> = entries.into_iter().map(|(label, child)| Tree::labeled(label, child)).collect();
            Tree::directory(&entries)
        };
        let tree = directory(map.iter().map(|(label, below)| {
            let below = below.iter().map(|(label, value)| (label.clone(), Tree::leaf(value.clone())));
            (label.clone(), directory(below.collect()))
        }).collect());
        let witness = tree.witness(&asked);
        prop_assert_eq!(witness.digest(), *tree.digest());
        for path in &asked {
            let expected = map.get(&path[0]).and_then(|below| below.get(&path[1]));
            let labels: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(tree.value(&labels), expected.map(Vec::as_slice));
            match (witness.lookup_path(path), expected) {
                (LookupResult::Found(value), Some(expected)) => prop_assert_eq!(value, expected.as_slice()),
                (LookupResult::Absent, None) => {}
                (other, expected) => prop_assert!(false, "{:?} for {:?}", other, expected),
            }
        }
    }
}
