//! A replica that is killed at any moment goes on from what it has acknowledged.
//!
//! # Design
//! The test runs itself as another process, which executes block after block, tells each height with its
//! root, and is killed without a warning. Then a copy of its store is opened here, and the next process goes
//! on from the store itself, as it was left. Blocks are functions of their height, so that a replica that
//! nobody disturbs says what the roots must be.
//!
//! # Units and bounds
//! When a process dies is chosen by numbers, and by how fast the machine is: every moment is allowed. What
//! the processor has written is kept by the system, so that a loss of power is not tried.
use crate::support::{CANISTER, block, envelope, open};
use bytes::Bytes;
use candid::{CandidType, Encode};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, LoadCanisterSnapshotArgs,
    ProvisionalCreateCanisterWithCyclesArgs, TakeCanisterSnapshotArgs, UploadChunkArgs,
};
use ic_principal::Principal;
use ic_transport_types::EnvelopeContent;
use lockstep_subnet::{
    application::Application,
    replica::Replica,
    state::{SnapshotId, canister_id},
};
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Lines, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

/// Names the store to the process that is to be killed.
const STORE: &str = "LOCKSTEP_STORE_OF_A_KILLED_REPLICA";
/// This test, as its program names it.
const TEST: &str = "kills::a_killed_replica_goes_on_from_what_it_acknowledged";
/// The number of the signal.
const SIGKILL: i32 = 9;
/// What a line about a height begins with.
const TOLD: &str = "height ";
/// How often a store's replica is killed.
const KILLS: u64 = 24;
/// How many stores are killed while they are made.
const CREATIONS: u64 = 8;

/// Writes 4 KiB into 24 places of a heap and of a stable memory of 512 KiB each; the argument says into which.
const WRITER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
    (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
    (memory 9)
    (func (export "canister_init") (drop (call $grow (i64.const 8))))
    (func (export "canister_update write") (local $seed i64) (local $at i32) (local $left i32)
        (call $argument (i32.const 0) (i32.const 0) (i32.const 8))
        (local.set $seed (i64.load (i32.const 0)))
        (local.set $left (i32.const 24))
        (loop $next
            (local.set $seed (i64.add (i64.mul (local.get $seed) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
            (local.set $at (i32.wrap_i64 (i64.and (i64.shr_u (local.get $seed) (i64.const 40)) (i64.const 0x7f000))))
            (memory.fill (local.get $at) (local.get $left) (i32.const 4096))
            (i64.store (local.get $at) (local.get $seed))
            (call $write (i64.extend_i32_u (local.get $at)) (i64.extend_i32_u (local.get $at)) (i64.const 4096))
            (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (call $reply)))"#;

/// SplitMix64: numbers that look random, by their index.
fn number(seed: u64, index: u64) -> u64 {
    let mut word = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A call in the block of a height, the `index`-th.
fn call(height: u64, index: u64, canister: Principal, method: &str, arg: Vec<u8>) -> Bytes {
    envelope(EnvelopeContent::Call {
        nonce: Some((height * 100 + index).to_be_bytes().to_vec()),
        ingress_expiry: block(height, vec![]).payload.time_ns + 100_000_000_000,
        sender: Principal::anonymous(),
        canister_id: canister,
        method_name: method.into(),
        arg,
        sender_info: None,
    })
}

fn manage(height: u64, index: u64, method: &str, argument: &impl CandidType) -> Bytes {
    let argument = Encode!(argument).expect("Candid");
    let management = Principal::management_canister();
    call(height, index, management, method, argument)
}

/// A call of `install_code`.
fn install(height: u64, index: u64, id: Principal, mode: CanisterInstallMode, wat: &str) -> Bytes {
    let arguments = InstallCodeArgs {
        mode,
        canister_id: id,
        wasm_module: wat::parse_str(wat).expect("the text is a module"),
        arg: vec![],
        sender_canister_version: None,
    };
    manage(height, index, "install_code", &arguments)
}

/// The calls of the first height.
fn first_messages([writer, other, counter]: [Principal; 3]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    for (index, id) in (0..).zip([writer, other, counter]) {
        let create = ProvisionalCreateCanisterWithCyclesArgs {
            specified_id: Some(id),
            ..Default::default()
        };
        let method = "provisional_create_canister_with_cycles";
        let wat = if id == counter { CANISTER } else { WRITER };
        messages.push(manage(1, index, method, &create));
        messages.push(install(1, index, id, CanisterInstallMode::Install, wat));
    }
    messages
}

/// The calls of a height: every table of the store changes now and then.
fn messages(height: u64) -> Vec<Bytes> {
    let ids = [0, 1, 2].map(canister_id);
    if height == 1 {
        return first_messages(ids);
    }
    let [writer, other, counter] = ids;
    let mut messages = Vec::new();
    for (index, id) in (0..).zip([writer, writer, other]) {
        let seed = number(height, index).to_le_bytes().to_vec();
        messages.push(call(height, index, id, "write", seed));
    }
    messages.push(call(height, 3, counter, "increment", vec![]));
    let chosen = number(height, 4);
    messages.push(match chosen % 8 {
        0 => call(height, 4, counter, "generate", vec![]),
        1 => {
            let take = TakeCanisterSnapshotArgs {
                canister_id: writer,
                replace_snapshot: None,
                uninstall_code: None,
                sender_canister_version: None,
            };
            manage(height, 4, "take_canister_snapshot", &take)
        }
        2 => {
            // One that there may be.
            let id = SnapshotId::new(&writer, (chosen >> 8) % 4);
            let load = LoadCanisterSnapshotArgs {
                canister_id: writer,
                snapshot_id: id.as_bytes().to_vec(),
                sender_canister_version: None,
            };
            manage(height, 4, "load_canister_snapshot", &load)
        }
        3 => {
            let upload = UploadChunkArgs {
                canister_id: counter,
                chunk: chosen.to_le_bytes().repeat(10_000),
            };
            manage(height, 4, "upload_chunk", &upload)
        }
        4 => {
            let counter = CanisterIdRecord {
                canister_id: counter,
            };
            manage(height, 4, "clear_chunk_store", &counter)
        }
        5 => install(height, 4, other, CanisterInstallMode::Reinstall, WRITER),
        6 => install(height, 4, other, CanisterInstallMode::Upgrade(None), WRITER),
        _ => call(height, 4, counter, "fail", vec![]),
    });
    messages
}

fn execute_next(replica: &Replica) {
    let height = replica.executed_height() + 1;
    replica.execute(&block(height, messages(height)));
}

/// A height and the root after it.
type Told = (u64, [u8; 32]);

fn last(replica: &Replica) -> Told {
    let executed = replica.executed();
    (executed.state.height, *executed.tree.digest())
}

/// What the process does that is to be killed.
fn run_until_killed(store: &Path) {
    let replica = open(store);
    // The name of the test is on this line already.
    println!();
    loop {
        let (height, root) = last(&replica);
        let line = format!("{TOLD}{height} {}\n", hex::encode(root));
        let mut output = io::stdout().lock();
        // Whoever reads this is gone when the test has failed.
        if output.write_all(line.as_bytes()).is_err() || output.flush().is_err() {
            return;
        }
        execute_next(&replica);
    }
}

fn parse(line: &str) -> Option<Told> {
    let (height, root) = line.strip_prefix(TOLD)?.split_once(' ')?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(root, &mut bytes).ok()?;
    Some((height.parse().ok()?, bytes))
}

/// A replica in a process of its own.
struct Victim {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    told: Vec<Told>,
}

impl Victim {
    fn start(store: &Path) -> Self {
        let mut child = Command::new(env::current_exe().expect("a test is a program"))
            .args(["--exact", "--nocapture", "--test-threads=1", TEST])
            .env(STORE, store)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test can run itself");
        let lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        let told = Vec::new();
        Self { child, lines, told }
    }

    /// Hears a line, if there is another.
    fn hear(&mut self) -> bool {
        let line = self.lines.next();
        let line = line.map(|line| line.expect("lines are text"));
        self.told.extend(line.as_deref().and_then(parse));
        line.is_some()
    }

    /// Kills it after so long; what it has told.
    fn kill(mut self, then: Duration) -> Vec<Told> {
        thread::sleep(then);
        self.child.kill().expect("it runs until it is killed");
        let status = self.child.wait().expect("it has ended");
        assert_eq!(
            status.signal(),
            Some(SIGKILL),
            "it ended by itself: {status}"
        );
        while self.hear() {}
        self.told
    }
}

/// A replica that nobody disturbs.
struct Steady {
    replica: Replica,
    /// Roots and digests of states, by height.
    heights: Vec<(Told, [u8; 32])>,
}

impl Steady {
    fn at(&mut self, height: u64) -> (Told, [u8; 32]) {
        while self.heights.len() as u64 <= height {
            if !self.heights.is_empty() {
                execute_next(&self.replica);
            }
            let digest = self.replica.executed().state.digest();
            self.heights.push((last(&self.replica), digest));
        }
        self.heights[height as usize]
    }

    fn root(&mut self, height: u64) -> Told {
        self.at(height).0
    }
}

/// The name of a store that is not whole yet.
fn partial(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// What a replica told is right and follows what was `acknowledged` before. A copy of its store opens (which
/// compares the state with its digest); the last height in it is the last told or the one after it; all it has
/// is right; and it goes on as if nothing had happened. Returns the last height told.
fn check(store: &Path, steady: &mut Steady, told: &[Told], acknowledged: u64) -> u64 {
    let heights: Vec<_> = told.iter().map(|(height, _)| *height).collect();
    let follows = |last: u64, next: u64| next == last || next == last + 1;
    assert!(
        heights
            .first()
            .is_none_or(|first| follows(acknowledged, *first)),
        "{heights:?} after {acknowledged}"
    );
    let in_order = heights.is_sorted_by(|last, next| *next == last + 1);
    assert!(in_order, "{heights:?}");
    for (height, root) in told {
        assert_eq!((*height, *root), steady.root(*height));
    }
    let acknowledged = heights.last().copied().unwrap_or(acknowledged);

    let copy = store.with_extension("copy");
    for (left, copy) in [(store, copy.as_path()), (&partial(store), &partial(&copy))] {
        if left.exists() {
            fs::copy(left, copy).expect("a store is a file");
        }
    }
    let replica = open(&copy);
    let (height, root) = last(&replica);
    assert!(
        follows(acknowledged, height),
        "{acknowledged} was told, {height} is stored"
    );
    let digest = replica.executed().state.digest();
    assert_eq!(((height, root), digest), steady.at(height));
    for past in 1..=height {
        let root = replica.root(past).expect("roots are kept");
        assert_eq!((past, root), steady.root(past));
    }
    for _ in 0..2 {
        execute_next(&replica);
        let now = last(&replica);
        assert_eq!(now, steady.root(now.0));
    }
    acknowledged
}

#[test]
fn a_killed_replica_goes_on_from_what_it_acknowledged() {
    if let Some(store) = env::var_os(STORE) {
        return run_until_killed(Path::new(&store));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut steady = Steady {
        replica: open(&directory.path().join("steady")),
        heights: Vec::new(),
    };
    for creation in 0..CREATIONS {
        let store = directory.path().join(format!("created {creation}"));
        let victim = Victim::start(&store);
        // It has that name until it is whole.
        while !partial(&store).exists() && !store.exists() {
            thread::yield_now();
        }
        let told = victim.kill(Duration::from_micros(creation * creation * 20));
        check(&store, &mut steady, &told, 0);
    }
    let store = directory.path().join("killed");
    let mut acknowledged = 0;
    for round in 0..KILLS {
        let mut victim = Victim::start(&store);
        // Some die before they have told anything.
        let heights = number(1, round) % 7;
        while (victim.told.len() as u64) < heights {
            assert!(victim.hear(), "it goes on until it is killed");
        }
        let then = Duration::from_micros(number(2, round) % 12_000);
        let told = victim.kill(then);
        acknowledged = check(&store, &mut steady, &told, acknowledged);
    }
    // Work that never gets anywhere shows little.
    assert!(acknowledged >= 2 * KILLS, "{acknowledged}");
}
