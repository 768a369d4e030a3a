use super::*;
use ic_certification::LookupResult;
use proptest::prelude::*;
use std::collections::BTreeMap;

impl Entry for u16 {
    fn tree(&self) -> Tree {
        Tree::leaf(self.to_be_bytes())
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..2].copy_from_slice(&self.to_be_bytes());
        digest
    }
}

/// Short ones, of which some begin others, and the empty one.
fn label() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0_u8), Just(1), Just(0x7f), Just(0x80), Just(0xff)];
    prop::collection::vec(byte, 0..4)
}

fn changes() -> impl Strategy<Value = Vec<(Vec<u8>, Option<u16>)>> {
    prop::collection::vec((label(), any::<Option<u16>>()), 0..60)
}

fn apply(
    trie: &mut Trie<u16>,
    map: &mut BTreeMap<Vec<u8>, u16>,
    changes: &[(Vec<u8>, Option<u16>)],
) {
    for (label, value) in changes {
        let (before, expected) = match value {
            Some(value) => (
                trie.insert(label, Arc::new(*value)),
                map.insert(label.clone(), *value),
            ),
            None => (trie.remove(label), map.remove(label)),
        };
        assert_eq!(before.as_deref(), expected.as_ref());
    }
}

fn of(map: &BTreeMap<Vec<u8>, u16>) -> Trie<u16> {
    let mut trie = Trie::default();
    for (label, value) in map.iter().rev() {
        trie.insert(label, Arc::new(*value));
    }
    trie
}

#[test]
fn bits_are_ordered_as_labels_are() {
    let labels: [&[u8]; 7] = [
        b"",
        b"\0",
        b"\0\0",
        b"\0\x80",
        b"\x7f\xff",
        b"\x80",
        b"\xff",
    ];
    for pair in labels.windows(2) {
        let difference = first_difference(pair[0], pair[1]).expect("they differ");
        assert!(
            !bit(pair[0], difference) && bit(pair[1], difference),
            "{pair:?}"
        );
        let split = split(pair[1], difference);
        assert!(
            pair[0] < &*split && &*split <= pair[1],
            "{pair:?} {split:?}"
        );
    }
    assert_eq!(first_difference(b"ab", b"ab"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_is_a_map(first in changes(), second in changes(), asked in prop::collection::vec(label(), 1..6)) {
        let (mut trie, mut map) = (Trie::default(), BTreeMap::new());
        apply(&mut trie, &mut map, &first);
        let (old, old_map) = (trie.clone(), map.clone());
        apply(&mut trie, &mut map, &second);
        for (trie, map) in [(&old, &old_map), (&trie, &map)] {
            prop_assert_eq!(trie.len(), map.len());
            let entries: BTreeMap<_, _> = trie.iter().map(|(label, value)| (label.to_vec(), **value)).collect();
            prop_assert_eq!(&entries, map);
            prop_assert!(trie.iter().is_sorted_by_key(|(label, _)| label));
            // Whatever led there.
            prop_assert_eq!(trie.digest(), of(map).digest());
            let (tree, rebuilt) = (trie.tree(), of(map).tree());
            prop_assert_eq!(tree.digest(), rebuilt.digest());
        }
        prop_assert_eq!(trie.digest() == old.digest(), map == old_map);

        let mut found = BTreeMap::new();
        trie.changes(&old, &mut |label, before, after| {
            let before = found.insert(label.to_vec(), (before.map(|value| **value), after.map(|value| **value)));
            assert_eq!(before, None, "each label once");
        });
        for (label, (before, after)) in &found {
            prop_assert_eq!(before.as_ref(), old_map.get(label));
            prop_assert_eq!(after.as_ref(), map.get(label));
        }
        for label in old_map.keys().chain(map.keys()) {
            prop_assert!(old_map.get(label) == map.get(label) || found.contains_key(label));
        }

        let tree = trie.tree();
        let paths: Vec<_> = asked.iter().map(|label| vec![label.clone()]).collect();
        let witness = tree.witness(&paths);
        prop_assert_eq!(witness.digest(), *tree.digest());
        for label in &asked {
            let expected = map.get(label).map(|value| value.to_be_bytes());
            prop_assert_eq!(tree.value(&[label]), expected.as_ref().map(|value| &value[..]));
            match (witness.lookup_path([label]), &expected) {
                (LookupResult::Found(value), Some(expected)) => prop_assert_eq!(value, expected),
                (LookupResult::Absent, None) => {}
                (other, expected) => prop_assert!(false, "{:?} for {:?}", other, expected),
            }
        }
    }
}

#[test]
fn what_is_shared_is_not_looked_at() {
    let mut trie = Trie::default();
    for number in 0..100_000_u32 {
        trie.insert(
            blake3::hash(&number.to_le_bytes()).as_bytes(),
            Arc::new(0_u16),
        );
    }
    let old = trie.clone();
    let label = blake3::hash(&7_u32.to_le_bytes());
    trie.insert(label.as_bytes(), Arc::new(1));
    trie.remove(blake3::hash(&8_u32.to_le_bytes()).as_bytes());
    let mut changes = 0;
    trie.changes(&old, &mut |_, _, _| changes += 1);
    assert_eq!(changes, 2);
    let (mut nodes, mut new) = (vec![trie.root.as_ref().expect("full")], 0);
    while let Some(node) = nodes.pop() {
        if Arc::strong_count(node) > 1 {
            continue;
        }
        new += 1;
        if let Kind::Fork(fork) = &node.kind {
            nodes.extend([&fork.left, &fork.right]);
        }
    }
    assert!((2..100).contains(&new), "{new} new nodes");
}

proptest! {
    #[test]
    fn what_comes_from_a_label_on_is_what_a_map_has(
        labels in prop::collection::btree_set(label(), 0..30),
        from in label(),
    ) {
        let map: BTreeMap<_, _> = labels.into_iter().map(|label| (label, 1)).collect();
        let trie = of(&map);
        let found: Vec<_> = trie.iter_from(&from).map(|(label, _)| label.to_vec()).collect();
        let expected: Vec<_> = map.range(from..).map(|(label, _)| label.clone()).collect();
        prop_assert_eq!(found, expected);
    }
}
