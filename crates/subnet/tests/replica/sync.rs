//! A replica takes over the state of another, part by part, whatever it is sent and wherever it stops.
use crate::support::{START_NS, block, call, certify, genesis, installation, open_as, step};
use bytes::Bytes;
use lockstep_subnet::{
    application::Application,
    replica::Replica,
    state::{Genesis, canister_id},
    sync::{Download, Offer, StateSync, SyncError},
};
use std::{num::NonZeroU64, path::Path};

/// Heights from a checkpoint to the next.
const INTERVAL: u64 = 4;

fn often() -> Genesis {
    let mut genesis = genesis();
    genesis.checkpoint_interval = NonZeroU64::new(INTERVAL).expect("not zero");
    genesis
}

fn open(path: &Path) -> Replica {
    open_as(path, often()).expect("the store can be used")
}

/// The calls of a height: canisters, a heap, stable memory, a session, answers.
fn calls(height: u64) -> Vec<Bytes> {
    match height {
        1 => installation(0).1,
        2 => installation(1).1,
        3 => vec![
            call(canister_id(0), "generate", vec![], 30),
            call(canister_id(1), "fail", vec![], 31),
        ],
        _ => vec![call(canister_id(0), "increment", vec![], height)],
    }
}

/// A replica that has executed and certified up to a height.
fn advanced(path: &Path, height: u64) -> Replica {
    let replica = open(path);
    while replica.executed_height() < height {
        step(&replica, calls(replica.executed_height() + 1));
        certify(&replica);
    }
    replica
}

fn offer(of: &Replica) -> Offer {
    Offer::decode(&of.offer().expect("there is a checkpoint")).expect("it is an offer")
}

/// The first part that is missing.
fn next(download: &Download) -> Option<u32> {
    download.missing().next()
}

/// Fetches up to so many parts.
fn fetch(download: &mut Download, from: &Replica, count: usize) -> usize {
    let mut fetched = 0;
    while fetched < count
        && let Some(index) = next(download)
    {
        let part = from.part(download.height(), index).expect("it is kept");
        download.accept(index, part).expect("it is right");
        fetched += 1;
    }
    fetched
}

#[test]
fn a_new_replica_takes_over_a_checkpoint_and_goes_on_with_the_same_roots() {
    let directory = tempfile::tempdir().expect("a directory");
    let steady = advanced(&directory.path().join("steady"), 10);
    assert_eq!(steady.oldest(), Some(4));
    assert!(steady.part(4, 0).is_some() && steady.part(12, 0).is_none());
    let path = directory.path().join("new");
    let new = open(&path);
    let offer = offer(&steady);
    assert_eq!(offer.height(), 8);
    assert!(new.wants(8) && !new.wants(3) && !steady.wants(8));
    let mut download = new.download(offer.clone()).expect("it begins");
    assert!(fetch(&mut download, &steady, usize::MAX) > 3);
    assert!(download.is_complete());
    let (height, root) = new.restore(download).expect("it is taken over");
    assert_eq!((height, new.root(8)), (8, Some(root)));
    assert_eq!(steady.root(8), Some(root));
    for height in 9..=10 {
        let root = new.execute(&block(height, calls(height)));
        assert_eq!(steady.root(height), Some(root));
    }
    let late = new.download(offer).expect("it begins");
    let error = new
        .restore(late)
        .expect_err("nothing is fetched, nor needed");
    assert!(matches!(error, SyncError::Incomplete { .. }), "{error}");
    // The store is the replica's, also after a restart; what was fetched is gone with the download.
    drop(new);
    let again = open(&path);
    assert_eq!(again.root(10), steady.root(10));
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .expect("the directory")
        .map(|entry| {
            entry
                .expect("a file")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    assert_eq!(names, ["new", "new.sync", "steady"]);
    for height in 11..=14 {
        let messages = calls(height);
        assert_eq!(step(&again, messages.clone()), step(&steady, messages));
    }
}

#[test]
fn wrong_parts_are_refused_one_by_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let steady = advanced(&directory.path().join("steady"), 5);
    let new = open(&directory.path().join("new"));
    let mut download = new.download(offer(&steady)).expect("it begins");
    let mut refused = 0;
    while let Some(index) = next(&download) {
        let right = steady.part(4, index).expect("it is kept");
        let mut changed = right.clone();
        *changed.last_mut().expect("parts have bytes") ^= 1;
        let longer = [right.as_slice(), &[0]].concat();
        for wrong in [changed, longer, right[1..].to_vec(), vec![]] {
            let error = download.accept(index, wrong).expect_err("it is wrong");
            assert!(matches!(error, SyncError::Part { index: named } if named == index));
            refused += 1;
        }
        download.accept(index, right.clone()).expect("it is right");
        download
            .accept(index, vec![1])
            .expect("nobody looks at it any more");
    }
    assert!(refused > 12);
    let (_, root) = new.restore(download).expect("it is taken over");
    assert_eq!(steady.root(4), Some(root));
}

#[test]
fn what_was_fetched_is_not_fetched_again_after_a_restart_nor_for_a_newer_checkpoint() {
    let directory = tempfile::tempdir().expect("a directory");
    let steady = advanced(&directory.path().join("steady"), 5);
    let path = directory.path().join("new");
    let first = offer(&steady);
    let new = open(&path);
    let mut download = new.download(first.clone()).expect("it begins");
    let all = fetch(&mut download, &steady, usize::MAX);
    drop((download, new));
    let new = open(&path);
    let download = new.download(first).expect("it goes on");
    assert!(download.is_complete());
    drop(download);
    // Meanwhile the others have gone on: the other canister's memories are as they were.
    for height in 6..=9 {
        step(&steady, calls(height));
        certify(&steady);
    }
    let mut download = new.download(offer(&steady)).expect("it begins");
    let again = fetch(&mut download, &steady, usize::MAX);
    assert!(again < all, "{again} of {all}");
    let (height, root) = new.restore(download).expect("it is taken over");
    assert_eq!((height, Some(root)), (8, steady.root(8)));
}

#[test]
fn what_is_written_when_half_is_there_counts() {
    let directory = tempfile::tempdir().expect("a directory");
    let steady = advanced(&directory.path().join("steady"), 5);
    let path = directory.path().join("new");
    let new = open(&path);
    let mut download = new.download(offer(&steady)).expect("it begins");
    // The manifest is written when it is whole.
    fetch(&mut download, &steady, 1);
    let wanted: Vec<u32> = download.missing().collect();
    fetch(&mut download, &steady, 1);
    drop((download, new));
    let new = open(&path);
    let download = new.download(offer(&steady)).expect("it goes on");
    assert_eq!(download.missing().collect::<Vec<_>>(), wanted);
    let error = new.restore(download).expect_err("parts are missing");
    assert!(matches!(error, SyncError::Incomplete { count } if count == wanted.len()));
    assert_eq!(new.executed_height(), 0);
}

#[test]
fn offers_that_contradict_themselves_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let steady = advanced(&directory.path().join("steady"), 5);
    let bytes = steady.offer().expect("there is a checkpoint");
    assert!(Offer::decode(&bytes).is_ok());
    // Another height, another summary, another certificate.
    for index in [7, 12, bytes.len() - 150] {
        let mut wrong = bytes.clone();
        wrong[index] ^= 1;
        let decoded = Offer::decode(&wrong);
        let is_same =
            decoded.is_ok_and(|offer| offer.root() == Offer::decode(&bytes).unwrap().root());
        assert!(!is_same, "{index}");
    }
    for length in 0..bytes.len() {
        assert!(Offer::decode(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_replica_with_another_state_takes_over_the_certified_one_and_says_where_it_differed() {
    let directory = tempfile::tempdir().expect("a directory");
    let steady = advanced(&directory.path().join("steady"), 5);
    let path = directory.path().join("other");
    let other = advanced(&path, 5);
    // A bit of its memory changes: it executes another call than the others do.
    step(&steady, calls(6));
    certify(&steady);
    let mut wrong = block(6, vec![call(canister_id(0), "increment", vec![], 6)]);
    wrong
        .payload
        .messages
        .push(call(canister_id(1), "increment", vec![], 60));
    other.execute(&wrong);
    let certified = steady.certified().expect("it is certified");
    let root = *certified.executed.tree.digest();
    Application::certified(&other, 6, root, certified.signature);
    assert!(other.is_diverged() && other.halted().is_none());
    let report = other.divergence().expect("it is reported");
    assert!(
        report.starts_with("height 6 has another state here"),
        "{report}"
    );
    assert_eq!(other.certified_height(), 5);

    assert!(other.wants(4), "however old");
    let mut download = other.download(offer(&steady)).expect("it begins");
    fetch(&mut download, &steady, usize::MAX);
    assert_eq!(other.restore(download).expect("it is taken over").0, 4);
    assert!(!other.is_diverged());
    assert!(directory.path().join("other.diverged-6").exists());
    for height in 5..=6 {
        let root = other.execute(&block(height, calls(height)));
        assert_eq!(steady.root(height), Some(root));
    }
    let report = other.divergence().expect("it is reported");
    let place = format!(
        "they differ first in canister {}, page 17 of its heap",
        canister_id(1)
    );
    assert!(report.ends_with(&place), "{report}");
    let kept = open(&directory.path().join("other.diverged-6"));
    assert_eq!(kept.executed_height(), 6);
    assert_ne!(kept.root(6), steady.root(6));

    // It goes on as the others do.
    let messages = calls(7);
    assert_eq!(step(&other, messages.clone()), step(&steady, messages));
    certify(&other);
    assert_eq!(other.certified_height(), 7);
    assert_eq!(START_NS + 7_000_000_000, other.executed().state.time_ns);
}

#[test]
fn a_replica_that_differs_again_halts() {
    let directory = tempfile::tempdir().expect("a directory");
    let steady = advanced(&directory.path().join("steady"), 5);
    let other = advanced(&directory.path().join("other"), 5);
    Application::certified(&other, 5, *steady.executed().tree.digest(), [0; 48]);
    assert!(!other.is_diverged());
    let wrong = block(6, vec![call(canister_id(1), "increment", vec![], 60)]);
    other.execute(&wrong);
    Application::certified(&other, 6, [7; 32], [0; 48]);
    let mut download = other.download(offer(&steady)).expect("it begins");
    fetch(&mut download, &steady, usize::MAX);
    other.restore(download).expect("it is taken over");
    other.execute(&block(5, calls(5)));
    other.execute(&wrong);
    let reason = other.halted().expect("it halts");
    assert!(
        reason.contains("height 6") && reason.ends_with("again"),
        "{reason}"
    );
}
