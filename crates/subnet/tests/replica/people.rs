//! What a replica tells people: its last blocks, and what canisters use.
use crate::support::{block, call, certify, installation, open, step};
use lockstep_subnet::{
    application::Application,
    replica::{CANISTERS_PER_PAGE_MAX, RECENT_BLOCKS_MAX},
};

#[test]
fn the_last_blocks_are_remembered_with_what_they_took() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    assert_eq!(replica.recent_blocks(0, 10), []);
    let (id, calls) = installation(3);
    let root = step(&replica, calls);
    let calls = vec![
        call(id, "increment", vec![], 1),
        call(id, "increment", vec![], 2),
    ];
    step(&replica, calls);
    certify(&replica);
    step(&replica, vec![]);

    let blocks = replica.recent_blocks(0, 10);
    let heights: Vec<u64> = blocks.iter().map(|block| block.height).collect();
    assert_eq!(heights, [1, 2, 3]);
    assert_eq!(blocks[0].root, hex::encode(root));
    assert_eq!(blocks[0].digest, hex::encode(block(1, vec![]).digest));
    assert_eq!(blocks[0].time_ns, block(1, vec![]).payload.time_ns);
    let certified: Vec<bool> = blocks.iter().map(|block| block.certified).collect();
    assert_eq!(certified, [true, true, false]);
    let calls: Vec<u64> = blocks.iter().map(|block| block.calls).collect();
    assert_eq!(calls, [2, 2, 0]);
    assert!(blocks[1].instructions > 0);
    assert_eq!(blocks[2].instructions, 0);
    assert_eq!(replica.recent_blocks(1, 1), blocks[2..]);
    assert_eq!(replica.recent_blocks(3, 10), []);

    for _ in 0..RECENT_BLOCKS_MAX {
        step(&replica, vec![]);
    }
    let blocks = replica.recent_blocks(0, usize::MAX);
    assert_eq!(blocks.len(), RECENT_BLOCKS_MAX);
    assert_eq!(
        blocks.last().map(|block| block.height),
        Some(replica.executed_height())
    );
}

#[test]
fn canisters_are_listed_in_pages_with_what_they_use() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let mut ids = Vec::new();
    for index in 1..=3 {
        let (id, calls) = installation(index);
        step(&replica, calls);
        ids.push(id);
    }
    let before = replica.canister(&ids[0]).expect("it exists");
    assert_eq!(before.status, "running");
    assert_eq!(before.instructions_executed, 0, "installing is not counted");
    step(&replica, vec![call(ids[0], "increment", vec![], 9)]);
    let after = replica.canister(&ids[0]).expect("it exists");
    assert!(after.instructions_executed > 0);
    let cycles = |text: &str| text.parse::<u128>().expect("it is a number");
    assert!(cycles(&after.cycles) < cycles(&before.cycles));
    assert_eq!(after.module_hash.as_deref().map(str::len), Some(64));
    assert_eq!(
        replica
            .canister(&ids[1])
            .map(|canister| canister.instructions_executed),
        Some(0)
    );

    let mut listed = Vec::new();
    let mut last = None;
    loop {
        let page = replica.canisters(last.as_ref(), 2);
        assert_eq!((page.total, page.height), (3, 4));
        listed.extend(page.canisters.into_iter().map(|canister| canister.id));
        let Some(next) = page.next else { break };
        last = Some(next.parse().expect("it is an id"));
    }
    let expected: Vec<String> = ids.iter().map(|id| id.to_text()).collect();
    assert_eq!(listed, expected);
    let all = replica.canisters(None, usize::MAX);
    assert_eq!(all.canisters.len(), 3.min(CANISTERS_PER_PAGE_MAX));
    assert_eq!(all.next, None);
    assert_eq!(replica.canisters(Some(&ids[2]), 2).canisters, []);
    assert_eq!(
        replica.canister(&lockstep_subnet::state::canister_id(77)),
        None
    );
}
