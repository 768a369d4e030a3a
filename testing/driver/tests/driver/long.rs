//! Messages that take more than a slice.
use crate::support::wasm;
use candid::{CandidType, Decode};
use ic_management_canister_types::{
    CanisterInstallMode, CanisterSettings, ChunkHash, InstallChunkedCodeArgs, UploadChunkArgs,
};
use ic_principal::Principal;
use lockstep_canister::engine::Engine;
use lockstep_driver::{MessageId, Status, Subnet};
use lockstep_hostile::{Call, Step, encode};
use std::{
    num::{NonZeroU64, NonZeroUsize},
    time::Duration,
};

/// `work` counts to its argument; what it replies with and leaves behind says what it saw.
const MODULE: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "msg_arg_data_size" (func $size (result i32)))
    (import "ic0" "time" (func $time (result i64)))
    (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
    (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
    (import "ic0" "call_new" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "ic0" "call_on_cleanup" (func $on_cleanup (param i32 i32)))
    (import "ic0" "call_perform" (func $perform (result i32)))
    (import "ic0" "global_timer_set" (func $timer (param i64) (result i64)))
    (memory 1)
    (data (i32.const 900) "work")
    (table 4 funcref) (elem (i32.const 0) $answered $answered $clean)
    (func $count (local $i i32)
        (call $argument (i32.const 0) (i32.const 0) (i32.const 4))
        (loop $next
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.load (i32.const 0))))))
    (func $note (param $at i32)
        (i32.store (local.get $at) (i32.add (i32.load (local.get $at)) (i32.const 1))))
    (func (export "canister_update work")
        (call $note (i32.const 100))
        (i64.store (i32.const 104) (call $time))
        (call $count)
        (i64.store (i32.const 112) (call $time))
        (i64.store (i32.const 120) (call $counter (i32.const 0)))
        (call $append (i32.const 100) (i32.const 28))
        (call $reply))
    (func (export "canister_update fail") (call $note (i32.const 100)) (call $count) (unreachable))
    ;; Calls `work`, traps in its callback after counting, counts and writes in the cleanup.
    (func (export "canister_update call")
        (call $self (i32.const 700) (i32.const 0) (i32.const 10))
        (call $call (i32.const 700) (i32.const 10) (i32.const 900) (i32.const 4)
            (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
        (call $on_cleanup (i32.const 2) (i32.const 0))
        (drop (call $perform)))
    (func $spin (local $i i32)
        (loop $next
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 50000)))))
    (func $answered (param i32) (call $note (i32.const 132)) (call $spin) (unreachable))
    (func $clean (param i32) (call $spin) (call $note (i32.const 136)))
    (func (export "canister_update later")
        (drop (call $timer (i64.add (call $time) (i64.const 1)))) (call $reply))
    (func (export "canister_global_timer") (call $spin) (call $note (i32.const 140)))
    (func (export "canister_init")
        (if (call $size) (then (call $count) (call $note (i32.const 144)))))
    (func (export "canister_pre_upgrade") (call $spin))
    (func (export "canister_post_upgrade") (call $count) (call $note (i32.const 148))
        (if (i32.eq (i32.load (i32.const 0)) (i32.const 66666)) (then (unreachable))))
    (func (export "canister_query read") (call $append (i32.const 100) (i32.const 52)) (call $reply)))"#;

const SLICE: u64 = 100_000;

/// A subnet whose slices are short, a second apart, with so many canisters.
fn subnet(engine: Engine, slice: u64, count: usize) -> (Subnet, Vec<Principal>) {
    let template = Subnet::with_engine(engine.clone());
    let mut genesis = template.state().genesis.as_ref().clone();
    genesis.slice_instructions = NonZeroU64::new(slice).expect("a slice has instructions");
    let mut subnet = Subnet::with_genesis(engine, genesis);
    subnet.set_block_time(Duration::from_secs(1));
    let wasm = wat::parse_str(MODULE).expect("it is a module");
    let ids = (0..count).map(|_| {
        let id = subnet.create_canister();
        subnet.install(id, &wasm, b"").expect("it is valid");
        id
    });
    let ids = ids.collect();
    (subnet, ids)
}

fn submit(subnet: &mut Subnet, canister: Principal, method: &str, n: u32) -> MessageId {
    subnet.submit(canister, Principal::anonymous(), method, &n.to_le_bytes())
}

/// What the canister has noted: how often `work` was called, its times and counter, and the other notes.
fn read(subnet: &Subnet, canister: Principal) -> Vec<u8> {
    let reply = subnet.query(canister, Principal::anonymous(), "read", b"");
    reply.expect("it is a query")
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Ticks until the call is answered: by how many blocks, and with what.
fn blocks(subnet: &mut Subnet, id: MessageId) -> (u64, Status) {
    for blocks in 1.. {
        subnet.tick();
        match subnet.status(id) {
            Some(status @ (Status::Replied(_) | Status::Rejected(_))) => {
                return (blocks, status.clone());
            }
            status => assert!(matches!(status, Some(Status::Processing)), "{status:?}"),
        }
    }
    unreachable!("it is answered before");
}

#[test]
fn a_long_message_takes_as_many_blocks_as_slices_and_shows_at_its_end() {
    let (mut subnet, ids) = subnet(Engine::new(), SLICE, 1);
    let before = read(&subnet, ids[0]);
    let began_ns = subnet.time_ns();
    let id = submit(&mut subnet, ids[0], "work", 100_000);
    for _ in 0..3 {
        subnet.tick();
        assert_eq!(subnet.status(id), Some(&Status::Processing));
        assert_eq!(read(&subnet, ids[0]), before);
        assert!(subnet.canister(ids[0]).unwrap().is_busy());
    }
    let (more, status) = blocks(&mut subnet, id);
    let Status::Replied(reply) = status else {
        panic!("{status:?}")
    };
    // It saw one time, that of its first block.
    assert_eq!(word(&reply, 4), began_ns);
    assert_eq!(word(&reply, 12), began_ns);
    let slices = word(&reply, 20).div_ceil(SLICE);
    assert_eq!(3 + more, slices);
    assert!(slices > 5, "{slices}");
    assert_eq!(read(&subnet, ids[0])[..28], reply);
}

#[test]
fn neither_slices_nor_threads_nor_restarts_can_be_seen() {
    let engine = Engine::new();
    let calls = [
        ("work", 30_000),
        ("work", 10),
        ("fail", 20_000),
        ("call", 0),
    ];
    let run = |threads: usize, slice: u64, forgets: fn(usize) -> bool| {
        let engine = engine.on_threads(NonZeroUsize::new(threads).expect("not zero"));
        let (mut subnet, ids) = subnet(engine, slice, 6);
        let mut roots = Vec::new();
        let sent: Vec<MessageId> = ids
            .iter()
            .flat_map(|id| calls.map(|(method, n)| (*id, method, n)))
            .map(|(id, method, n)| submit(&mut subnet, id, method, n))
            .collect();
        while !subnet.is_settled() {
            subnet.tick();
            roots.push(subnet.root());
            if forgets(roots.len()) {
                subnet.forget();
            }
        }
        let answers: Vec<_> = sent.iter().map(|id| subnet.status(*id).cloned()).collect();
        let charged: Vec<_> = ids.iter().map(|id| subnet.cycles(*id)).collect();
        (roots, answers, charged)
    };
    let whole = run(1, 2_000_000_000, |_| false);
    for slice in [20_000, 99_991] {
        let expected = run(1, slice, |_| false);
        assert!(expected.0.len() > whole.0.len() + 20);
        assert_eq!(run(2, slice, |_| true), expected);
        assert_eq!(run(3, slice, |height| height % 3 == 0), expected);
        assert_eq!(run(8, slice, |_| false), expected);
        // Times are those of other blocks.
        let outcome = |answers: &[Option<Status>]| -> Vec<_> {
            let answers = answers.iter().map(|answer| match answer {
                Some(Status::Replied(reply)) => (reply.len(), String::new()),
                Some(Status::Rejected(reject)) => (0, reject.to_string()),
                other => panic!("{other:?}"),
            });
            answers.collect()
        };
        assert_eq!(outcome(&expected.1), outcome(&whole.1));
    }
}

#[test]
fn a_canister_waits_for_its_long_message_and_nobody_else_does() {
    let (mut subnet, ids) = subnet(Engine::new(), SLICE, 2);
    let long = submit(&mut subnet, ids[0], "work", 100_000);
    subnet.tick();
    let cycles = subnet.cycles(ids[0]);
    let short = submit(&mut subnet, ids[0], "work", 1);
    let stop = subnet.submit_management("stop_canister", ids[0]);
    let other = submit(&mut subnet, ids[1], "work", 1);
    let other_stop = subnet.submit_management("stop_canister", ids[1]);
    subnet.tick();
    assert!(matches!(subnet.status(other), Some(Status::Rejected(_))));
    assert!(matches!(
        subnet.status(other_stop),
        Some(Status::Replied(_))
    ));
    assert_eq!(subnet.status(short), Some(&Status::Received));
    assert_eq!(subnet.status(stop), Some(&Status::Received));
    // What it owes for messages to it is paid later.
    assert_eq!(subnet.cycles(ids[0]), cycles);
    subnet.wait(long).unwrap();
    assert!(subnet.cycles(ids[0]) < cycles);
    subnet.wait(stop).unwrap();
    // Stopping came before the call's turn.
    assert_eq!(subnet.wait(short).unwrap_err().error_code, 508);
    assert_eq!(read_count(&mut subnet, ids[0]), 1);
}

/// How often `work` was called, of a canister that may be stopped.
fn read_count(subnet: &mut Subnet, id: Principal) -> u32 {
    let start = subnet.submit_management("start_canister", id);
    subnet.wait(start).expect("it can be started");
    let notes = read(subnet, id);
    u32::from_le_bytes(notes[..4].try_into().expect("four bytes"))
}

#[test]
fn what_is_long_beside_four_others_has_not_begun() {
    let (mut subnet, ids) = subnet(Engine::new(), SLICE, 7);
    let sent: Vec<MessageId> = ids
        .iter()
        .map(|id| submit(&mut subnet, *id, "work", 50_000))
        .collect();
    for _ in 0..3 {
        subnet.tick();
    }
    let slices: Vec<Option<u64>> = ids
        .iter()
        .map(|id| {
            let ledger = &subnet.canister(*id).unwrap().ledger;
            assert_eq!(ledger.waits_for_slices, ledger.long.is_none());
            ledger.long.as_ref().map(|long| long.slices)
        })
        .collect();
    let three = Some(3);
    assert_eq!(slices, [three, three, three, three, None, None, None]);
    // It can be managed meanwhile.
    let last = ids[6];
    assert_eq!(subnet.status(sent[6]), Some(&Status::Received));
    let stop = subnet.submit_management("stop_canister", last);
    subnet.tick();
    assert!(matches!(subnet.status(stop), Some(Status::Replied(_))));
    let start = subnet.submit_management("start_canister", last);
    subnet.wait(start).unwrap();
    let replies: Vec<Vec<u8>> = sent
        .iter()
        .map(|id| subnet.wait(*id).expect("it replies"))
        .collect();
    for reply in &replies {
        // But for the time.
        assert_eq!(reply[20..], replies[0][20..]);
    }
}

#[test]
fn one_long_installation_waits_for_another() {
    let run = |forgets: bool| {
        let (mut subnet, ids) = subnet(Engine::new(), SLICE, 2);
        let wasm = wat::parse_str(MODULE).expect("it is a module");
        let mut install = |id| {
            let n = 80_000_u32.to_le_bytes();
            subnet.submit_install(id, CanisterInstallMode::Reinstall, &wasm, &n)
        };
        let (first, second) = (install(ids[0]), install(ids[1]));
        subnet.tick();
        assert_eq!(subnet.status(first), Some(&Status::Processing));
        assert_eq!(subnet.status(second), Some(&Status::Received));
        // The old code still answers.
        let id = submit_work(&mut subnet, ids[1]);
        assert!(matches!(subnet.status(id), Some(Status::Replied(_))));
        let mut roots = vec![subnet.root()];
        while !subnet.is_settled() {
            subnet.tick();
            roots.push(subnet.root());
            if forgets {
                subnet.forget();
            }
        }
        for (call, id) in [(first, ids[0]), (second, ids[1])] {
            assert!(matches!(subnet.status(call), Some(Status::Replied(_))));
            assert_eq!(read(&subnet, id)[44], 1);
        }
        roots
    };
    let roots = run(false);
    assert!(roots.len() > 7, "{}", roots.len());
    assert_eq!(run(true), roots);
}

#[test]
fn a_long_message_that_traps_leaves_nothing() {
    let (mut subnet, ids) = subnet(Engine::new(), SLICE, 1);
    let before = read(&subnet, ids[0]);
    let id = submit(&mut subnet, ids[0], "fail", 60_000);
    let (slices, status) = blocks(&mut subnet, id);
    let Status::Rejected(reject) = status else {
        panic!("{status:?}")
    };
    assert_eq!(reject.error_code, 502);
    assert!(slices > 3);
    assert_eq!(read(&subnet, ids[0]), before);
}

#[test]
fn a_callback_and_its_cleanup_are_one_message() {
    let (mut subnet, ids) = subnet(Engine::new(), SLICE, 1);
    let id = submit(&mut subnet, ids[0], "call", 0);
    let (count, status) = blocks(&mut subnet, id);
    assert!(matches!(status, Status::Rejected(_)), "{status:?}");
    assert!(count > 6, "{count}");
    let notes = read(&subnet, ids[0]);
    // The callback is undone, its cleanup stands.
    assert_eq!(notes[32..40], [0, 0, 0, 0, 1, 0, 0, 0]);
}

#[test]
fn a_timer_may_be_long() {
    let (mut subnet, ids) = subnet(Engine::new(), SLICE, 1);
    let id = submit(&mut subnet, ids[0], "later", 0);
    subnet.wait(id).unwrap();
    subnet.tick();
    assert!(subnet.canister(ids[0]).unwrap().is_busy());
    // A message that comes meanwhile runs behind it.
    let work = submit(&mut subnet, ids[0], "work", 0);
    subnet.wait(work).unwrap();
    assert_eq!(read(&subnet, ids[0])[40..44], 1_u32.to_le_bytes());
    subnet.settle();
    assert!(!subnet.canister(ids[0]).unwrap().is_busy());
}

/// What a call that installs code in many blocks comes to, with and without restarts.
fn install(
    submit: impl Fn(&mut Subnet, Principal) -> MessageId,
) -> (Subnet, Principal, u64, Status) {
    let run = |forgets: bool| {
        let (mut subnet, ids) = subnet(Engine::new(), SLICE, 2);
        let work = submit_work(&mut subnet, ids[0]);
        let before = read(&subnet, ids[0]);
        let id = submit(&mut subnet, ids[0]);
        let mut roots = Vec::new();
        let answer = loop {
            subnet.tick();
            roots.push(subnet.root());
            match subnet.status(id) {
                Some(status @ (Status::Replied(_) | Status::Rejected(_))) => break status.clone(),
                status => assert!(matches!(status, Some(Status::Processing)), "{status:?}"),
            }
            assert_eq!(read(&subnet, ids[0]), before);
            assert!(subnet.canister(ids[0]).unwrap().is_busy());
            // Others go on.
            let id = submit_work(&mut subnet, ids[1]);
            assert!(matches!(subnet.status(id), Some(Status::Replied(_))));
            roots.push(subnet.root());
            if forgets {
                subnet.forget();
            }
        };
        assert!(!subnet.canister(ids[0]).unwrap().is_busy());
        assert!(matches!(subnet.status(work), Some(Status::Replied(_))));
        (subnet, ids[0], roots, answer)
    };
    let (subnet, id, roots, answer) = run(false);
    let forgetful = run(true);
    assert_eq!((&forgetful.2, &forgetful.3), (&roots, &answer));
    (subnet, id, roots.len() as u64 / 2, answer)
}

/// A short call and the block that executes it.
fn submit_work(subnet: &mut Subnet, id: Principal) -> MessageId {
    let id = submit(subnet, id, "work", 1);
    subnet.tick();
    id
}

#[test]
fn an_installation_may_be_long() {
    use CanisterInstallMode::{Reinstall, Upgrade};
    let wasm = wat::parse_str(MODULE).expect("it is a module");
    for (mode, n, noted) in [
        (Reinstall, 80_000_u32, [1, 0]),
        (Upgrade(None), 80_000, [0, 1]),
    ] {
        let (subnet, id, blocks, status) =
            install(|subnet, id| subnet.submit_install(id, mode, &wasm, &n.to_le_bytes()));
        assert!(matches!(status, Status::Replied(_)), "{status:?}");
        assert!(blocks > 3, "{blocks}");
        let notes = read(&subnet, id);
        assert_eq!([notes[44], notes[48]], noted);
        // What the old code noted is gone.
        assert_eq!(notes[..4], [0; 4]);
    }
}

#[test]
fn a_long_installation_that_traps_leaves_the_old_code() {
    let wasm = wat::parse_str(MODULE).expect("it is a module");
    let (subnet, id, blocks, status) = install(|subnet, id| {
        let argument = 66_666_u32.to_le_bytes();
        subnet.submit_install(id, CanisterInstallMode::Upgrade(None), &wasm, &argument)
    });
    let Status::Rejected(reject) = status else {
        panic!("{status:?}")
    };
    assert_eq!(reject.error_code, 502);
    assert!(blocks > 3, "{blocks}");
    let notes = read(&subnet, id);
    assert_eq!((notes[0], notes[48]), (1, 0));
}

#[test]
fn chunks_stay_until_they_are_installed() {
    let wasm = wat::parse_str(MODULE).expect("it is a module");
    let run = |forgets: bool| {
        let (mut subnet, ids) = subnet(Engine::new(), SLICE, 2);
        let (target, store) = (ids[0], ids[1]);
        let anonymous = Principal::anonymous();
        let chunk = UploadChunkArgs {
            canister_id: store,
            chunk: wasm.clone(),
        };
        let reply = subnet.manage(anonymous, "upload_chunk", &chunk).unwrap();
        let hash = Decode!(&reply, ChunkHash).unwrap();
        let arguments = InstallChunkedCodeArgs {
            mode: CanisterInstallMode::Reinstall,
            target_canister: target,
            store_canister: Some(store),
            wasm_module_hash: hash.hash.clone(),
            chunk_hashes_list: vec![hash],
            arg: 50_000_u32.to_le_bytes().to_vec(),
            sender_canister_version: None,
        };
        let install = subnet.submit_to_management("install_chunked_code", &arguments);
        subnet.tick();
        let clear = subnet.submit_management("clear_chunk_store", store);
        let mut roots = Vec::new();
        while subnet.canister(target).unwrap().is_busy() {
            if forgets {
                subnet.forget();
            }
            assert!(!matches!(subnet.status(clear), Some(Status::Replied(_))));
            subnet.tick();
            roots.push(subnet.root());
        }
        assert!(roots.len() > 2);
        assert!(matches!(subnet.status(install), Some(Status::Replied(_))));
        subnet.wait(clear).unwrap();
        assert_eq!(read(&subnet, target)[44], 1);
        roots
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn no_call_gets_past_a_long_message() {
    #[derive(CandidType)]
    struct Padded {
        canister_id: Principal,
        padding: serde_bytes::ByteBuf,
    }
    let Some(wasm) = wasm() else { return };
    // What the management canister skips without reading it is bounded, too.
    for padding in [0, 100_000, 399_000, 900_000, 1_500_000] {
        let (mut subnet, ids) = subnet(Engine::new(), 500_000, 1);
        let controller = subnet.create_canister();
        subnet.install(controller, wasm, b"").unwrap();
        let settings = CanisterSettings {
            controllers: Some(vec![controller, Principal::anonymous()]),
            ..CanisterSettings::default()
        };
        subnet.update_settings(ids[0], settings).unwrap();
        let long = submit(&mut subnet, ids[0], "work", 3_000_000);
        let argument = Padded {
            canister_id: ids[0],
            padding: vec![0; padding].into(),
        };
        let call = Call {
            method: "uninstall_code".into(),
            argument: candid::encode_one(&argument).unwrap(),
            ..Call::run(Principal::management_canister().as_slice(), &[])
        };
        let program = encode(&[Step::Call(call)]);
        let uninstall = subnet.submit(controller, Principal::anonymous(), "run", &program);
        let reply = subnet.wait(long).expect("nothing gets in between");
        assert!(word(&reply, 20).div_ceil(500_000) > 10);
        let _ = subnet.wait(uninstall);
        let is_empty = |subnet: &Subnet| subnet.canister(ids[0]).unwrap().state.installed.is_none();
        // It was executed behind the message, or refused.
        if padding == 0 || padding == 1_500_000 {
            assert_eq!(is_empty(&subnet), padding == 0, "{padding}");
        }
    }
}
