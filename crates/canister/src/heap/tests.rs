use super::*;
use proptest::prelude::*;

/// Addresses enough for the tests.
const CAPACITY: usize = 64 * PAGE_BYTES;

fn slot() -> Arc<Slot> {
    Slots::default().slot(CAPACITY, PAGE_BYTES)
}

fn view(heap: &Heap) -> View {
    View::new(slot(), Snapshot::from(heap))
}

fn heap(bytes: &[u8]) -> Heap {
    let pages = (0..).zip(bytes.chunks_exact(PAGE_BYTES));
    Heap::from_pages((bytes.len() / PAGE_BYTES) as u64, pages)
}

fn bytes(heap: &Heap) -> Vec<u8> {
    let pages = (0..heap.size_pages()).map(|index| heap.page(index));
    pages.flatten().collect()
}

#[test]
fn a_commit_makes_a_version_and_leaves_the_old_one() {
    let first = heap(&vec![7; 2 * PAGE_BYTES]);
    let mut message = view(&first);
    message.bytes_mut()[PAGE_BYTES + 5] = 1;
    message.grow(3 * PAGE_BYTES);
    message.bytes_mut()[2 * PAGE_BYTES] = 2;
    let second = message.commit();

    assert_eq!(bytes(&first), vec![7; 2 * PAGE_BYTES]);
    let mut expected = vec![7; 2 * PAGE_BYTES];
    expected.resize(3 * PAGE_BYTES, 0);
    expected[PAGE_BYTES + 5] = 1;
    expected[2 * PAGE_BYTES] = 2;
    assert_eq!(bytes(&second), expected);
    assert_eq!(second.changed(&first), BTreeSet::from([1, 2]));
    assert_eq!(second.digest(), heap(&expected).digest());
    assert_ne!(second.digest(), first.digest());
}

#[test]
fn a_message_that_changes_nothing_makes_no_version() {
    let first = heap(&vec![7; PAGE_BYTES]);
    let mut message = view(&first);
    message.bytes_mut()[0] = 7;
    let second = message.commit();
    assert_eq!(second.version().unwrap().1, first.version().unwrap().1);
    assert_eq!(second.changed(&first), BTreeSet::new());
}

#[test]
fn dropped_effects_leave_no_trace_in_what_follows() {
    let first = heap(&vec![7; PAGE_BYTES]);
    let mut dropped = view(&first);
    dropped.grow(2 * PAGE_BYTES);
    dropped.bytes_mut().fill(9);
    let dropped = dropped.commit();
    // Moves the base to the version that is then dropped.
    drop(view(&dropped));
    drop(dropped);

    let mut message = view(&first);
    message.grow(2 * PAGE_BYTES);
    assert!(
        message.bytes_mut()[PAGE_BYTES..]
            .iter()
            .all(|byte| *byte == 0)
    );
    let second = message.commit();
    let mut expected = vec![7; PAGE_BYTES];
    expected.resize(2 * PAGE_BYTES, 0);
    assert_eq!(bytes(&second), expected);
    assert_eq!(second.digest(), heap(&expected).digest());
}

#[test]
fn an_empty_heap_can_grow() {
    let mut message = view(&Heap::default());
    assert!(message.bytes_mut().is_empty());
    message.grow(PAGE_BYTES);
    message.bytes_mut()[9] = 9;
    let grown = message.commit();
    assert_eq!(grown.page(0)[9], 9);
    assert_eq!(grown.changed(&Heap::default()), BTreeSet::from([0]));
    assert_eq!(
        Heap::default().digest(),
        Heap::from_pages(0, [] as [(u64, &[u8]); 0]).digest()
    );
}

#[test]
fn both_ways_to_find_written_pages_agree() {
    let first = heap(&vec![7; 40 * PAGE_BYTES]);
    let mut message = view(&first);
    message.grow(50 * PAGE_BYTES);
    let bytes = message.bytes_mut();
    let mut expected = BTreeSet::new();
    // Every other page for long enough that one answer of the kernel cannot hold them all.
    for leaf in (0..bytes.len() / LEAF_BYTES).step_by(2).skip(7) {
        bytes[leaf * LEAF_BYTES] = 1;
        expected.insert(leaf);
    }
    // Reading is not writing.
    assert_eq!(bytes[LEAF_BYTES], 7);
    assert_eq!(bytes[45 * PAGE_BYTES + LEAF_BYTES], 0);
    let start = bytes.as_ptr().addr();
    let mapping = start..start + bytes.len();
    let leaves = |touched: Vec<dirty::Touched>| -> BTreeSet<usize> {
        let written = touched.into_iter().filter(|touched| touched.written);
        let addresses = written.flat_map(|touched| touched.addresses.step_by(LEAF_BYTES));
        addresses
            .map(|address| (address - start) / LEAF_BYTES)
            .collect()
    };
    let touched = dirty::read(mapping.clone()).unwrap();
    assert!(touched.iter().any(|touched| !touched.written));
    let read = leaves(touched.clone());
    // Zeros that were only read may count as written: their content tells.
    assert!(read.is_superset(&expected), "{read:?}");
    assert!(read.len() <= expected.len() + 1, "{read:?}");
    match dirty::scan(mapping.clone()) {
        Ok(scanned) => assert_eq!(scanned, touched),
        Err(error) => eprintln!("SKIPPED: this kernel does not scan: {error}"),
    }
    assert_eq!(dirty::touched(mapping).unwrap(), touched);
}

#[test]
fn changes_are_seen_and_counted_without_a_version() {
    let first = heap(&vec![7; 2 * PAGE_BYTES]);
    let mut outer = view(&first);
    outer.grow(3 * PAGE_BYTES);
    outer.bytes_mut()[0] = 1;
    outer.bytes_mut()[2 * PAGE_BYTES + LEAF_BYTES] = 2;
    let start = outer.bytes_mut().to_vec();

    let mut inner = View::new(slot(), outer.changes());
    assert!(inner.bytes_mut() == start);
    assert_eq!(inner.private_pages(0), 0);
    // Another change of a changed page, one back to what the version has, one of a page as it was.
    inner.bytes_mut()[2 * PAGE_BYTES + LEAF_BYTES] = 3;
    inner.bytes_mut()[0] = 7;
    inner.bytes_mut()[PAGE_BYTES] = 4;
    assert_eq!(inner.private_pages(2), 3);
    let pages_after_growth = 3 + (PAGE_BYTES / LEAF_BYTES) as u64;
    inner.grow(4 * PAGE_BYTES);
    assert_eq!(inner.private_pages(0), pages_after_growth);

    let mut innermost = View::new(slot(), inner.changes());
    assert!(innermost.bytes_mut() == inner.bytes_mut());
    let end = inner.bytes_mut().to_vec();
    assert_eq!(bytes(&inner.commit()), end);
    assert!(outer.bytes_mut() == start);
}

#[derive(Clone, Debug)]
enum Step {
    /// A message on one of the heaps.
    Message {
        heap: usize,
        writes: Vec<(usize, u8)>,
        grows: usize,
        /// After how many writes each what there is becomes a version, as in a fork.
        forks: usize,
    },
    /// A view that stays open.
    Query(usize),
    EndQuery(usize),
    Forget(usize),
    Digest(usize),
}

/// Leaves in which a heap differs from what it was, with zeros behind its end.
fn differing(before: &[u8], after: &[u8]) -> impl Iterator<Item = Leaf> {
    let leaves = after.chunks(LEAF_BYTES).enumerate();
    let differs = |(index, leaf): &(usize, &[u8])| match before.get(index * LEAF_BYTES..) {
        Some(before) if !before.is_empty() => !before.starts_with(leaf),
        _ => leaf.iter().any(|byte| *byte != 0),
    };
    leaves.filter(differs).map(|(index, _)| index as Leaf)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writes = prop::collection::vec((any::<usize>(), any::<u8>()), 0..20);
    let step = prop_oneof![
        4 => (any::<usize>(), writes, 0..2_usize, 1..8_usize)
            .prop_map(|(heap, writes, grows, forks)| Step::Message { heap, writes, grows, forks }),
        2 => any::<usize>().prop_map(Step::Query),
        2 => any::<usize>().prop_map(Step::EndQuery),
        3 => any::<usize>().prop_map(Step::Forget),
        1 => any::<usize>().prop_map(Step::Digest),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Versions and open views against plain copies.
    #[test]
    fn versions_behave_like_copies(steps in steps()) {
        let start = vec![3; PAGE_BYTES];
        let mut heaps = vec![(heap(&start), start), (Heap::default(), Vec::new())];
        // Those of messages and tasks find there what others have left.
        let (messages, tasks) = (slot(), slot());
        let in_slot = |slot: &Arc<Slot>, snapshot| View::new(Arc::clone(slot), snapshot);
        let mut queries: Vec<(View, Vec<u8>)> = Vec::new();
        for step in steps {
            match step {
                Step::Message { heap, writes, grows, forks } => {
                    let (heap, mut content) = heaps[heap % heaps.len()].clone();
                    let mut message = in_slot(&messages, Snapshot::from(&heap));
                    prop_assert!(message.bytes_mut() == content);
                    let mut last = content.clone();
                    let mut changed = BTreeSet::new();
                    if content.len() < 4 * PAGE_BYTES {
                        content.resize(content.len() + grows * PAGE_BYTES, 0);
                        message.grow(content.len());
                    }
                    for (index, (offset, byte)) in writes.into_iter().enumerate() {
                        if content.is_empty() {
                            break;
                        }
                        let offset = offset % content.len();
                        content[offset] = byte;
                        message.bytes_mut()[offset] = byte;
                        if index % forks == forks - 1 {
                            changed.extend(differing(&last, &content));
                            last.clone_from(&content);
                            let mut task = in_slot(&tasks, message.version());
                            prop_assert!(task.bytes_mut() == content);
                            task.bytes_mut()[offset] ^= 1;
                            prop_assert!(message.bytes_mut() == content);
                        }
                    }
                    changed.extend(differing(&last, &content));
                    prop_assert_eq!(message.changed_leaves(), changed.len() as u64);
                    heaps.push((message.commit(), content));
                }
                Step::Query(index) => {
                    let (heap, content) = &heaps[index % heaps.len()];
                    queries.push((view(heap), content.clone()));
                }
                Step::EndQuery(index) if !queries.is_empty() => {
                    let index = index % queries.len();
                    let (mut query, content) = queries.swap_remove(index);
                    prop_assert!(query.bytes_mut() == content);
                }
                Step::Forget(index) if heaps.len() > 1 => {
                    let index = index % heaps.len();
                    heaps.swap_remove(index);
                }
                Step::Digest(index) => {
                    let _ = heaps[index % heaps.len()].0.digest();
                }
                Step::EndQuery(_) | Step::Forget(_) => {}
            }
        }
        for (mut query, content) in queries {
            prop_assert!(query.bytes_mut() == content);
        }
        for (version, content) in &heaps {
            prop_assert!(bytes(version) == *content);
            prop_assert_eq!(version.digest(), heap(content).digest());
            for (other, others) in &heaps {
                let changed = version.changed(other);
                for page in 0..content.len().max(others.len()) / PAGE_BYTES {
                    let range = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
                    prop_assert!(
                        content.get(range.clone()) == others.get(range)
                            || changed.contains(&(page as u64))
                    );
                }
            }
        }
    }
}

#[test]
fn bytes_are_written_from_outside() {
    let mut expected = vec![7; 3 * PAGE_BYTES];
    let mut written = heap(&expected);
    // Within a leaf, over its edge, over a page's edge, to the end, and none at all.
    for (offset, length) in [
        (10, 20),
        (LEAF_BYTES - 1, 2),
        (PAGE_BYTES - 9_000, 20_000),
        (3 * PAGE_BYTES - 5, 5),
        (3 * PAGE_BYTES, 0),
    ] {
        let content = vec![length as u8 | 1; length];
        let before = written.clone();
        written = written.written(offset as u64, &content);
        assert_eq!(bytes(&before), expected, "the old version stays");
        expected[offset..offset + length].copy_from_slice(&content);
        assert_eq!(bytes(&written), expected);
        assert_eq!(written.digest(), heap(&expected).digest());
    }
    let empty = Heap::default();
    assert_eq!(empty.written(0, &[]).digest(), empty.digest());
}

#[test]
#[should_panic(expected = "bytes outside of the heap")]
fn bytes_are_not_written_beyond_the_end() {
    let _ = heap(&[0; PAGE_BYTES]).written(PAGE_BYTES as u64 - 1, &[1, 2]);
}

#[test]
fn what_stays_mapped_keeps_no_memory() {
    let (slot, start) = (slot(), heap(&[7; PAGE_BYTES]));
    let (image, _) = start.version().unwrap();
    let (id, file) = (
        ImageId::of(Arc::as_ptr(image)),
        image.file().try_clone().unwrap(),
    );
    let mut message = View::new(Arc::clone(&slot), Snapshot::from(&start));
    message.bytes_mut()[0] = 1;
    drop(message);
    assert_eq!(slot.image(), Some(id));
    drop(start);
    assert_eq!(file.metadata().unwrap().len(), 0);
    // And another heap is not taken for it.
    let mut other = View::new(slot, Snapshot::from(&heap(&[8; PAGE_BYTES])));
    assert!(other.bytes_mut() == [8; PAGE_BYTES]);
}
