//! Random work for many canisters: what a subnet must do the same on every number of threads.
//!
//! A workload is a function of its seed: canisters that do as they are told
//! ([`lockstep_hostile`]) call each other, trap, grow, fork, recurse, set timers, are upgraded, stopped,
//! emptied and filled again, over some blocks.
use crate::{MessageId, Status, Subnet};
use ic_management_canister_types::CanisterInstallMode;
use ic_principal::Principal;
use lockstep_canister::engine::{Cycles, Engine};
use lockstep_hostile::{Call, Step, encode};
use std::{num::NonZeroU64, ops::Range};

/// Most blocks of a workload.
const BLOCKS_MAX: usize = 1_000;

/// How large a workload is.
#[derive(Clone, Debug)]
pub struct Size {
    /// Canisters at the start.
    pub canisters: Range<u64>,
    /// Blocks with messages.
    pub blocks: Range<u64>,
    /// Messages per block.
    pub messages: Range<u64>,
    /// Instructions of a slice; the subnet's own, if none.
    pub slice_instructions: Option<NonZeroU64>,
}

/// What a workload came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The root after each block.
    pub roots: Vec<[u8; 32]>,
    /// Cycles per canister after each block, those on the way and consumed ones included.
    pub cycles: Vec<Cycles>,
    /// Users' calls that were replied to.
    pub replied: usize,
    /// Users' calls that were rejected.
    pub rejected: usize,
    /// Upgrades and installations after the first that succeeded.
    pub deployed: usize,
}

/// A generator of numbers that look random (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn within(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }
}

/// Runs the workload of a seed. `wasm` is the module of [`lockstep_hostile`]. A subnet that is `forgetful`
/// now and then loses what it could make again, which must not show.
///
/// # Panics
/// When a canister cannot be created.
#[must_use]
pub fn run(seed: u64, size: &Size, engine: Engine, forgetful: bool, wasm: &[u8]) -> Outcome {
    let mut random = Random(seed);
    let mut genesis = Subnet::with_engine(engine.clone())
        .state()
        .genesis
        .as_ref()
        .clone();
    if let Some(slice) = size.slice_instructions {
        genesis.slice_instructions = slice;
    }
    let mut subnet = Subnet::with_genesis(engine, genesis);
    let mut ids = Vec::new();
    for _ in 0..random.within(&size.canisters) {
        ids.push(subnet.create_canister());
    }
    let mut sent: Vec<MessageId> = ids
        .iter()
        .map(|id| subnet.submit_install(*id, CanisterInstallMode::Install, wasm, b""))
        .collect();
    let first = sent.len();
    let mut deployments = Vec::new();
    let mut roots = Vec::new();
    let mut cycles = Vec::new();
    for _ in 0..random.within(&size.blocks) {
        for _ in 0..random.within(&size.messages) {
            let (id, deploys) = submit(&mut random, &mut subnet, &mut ids, wasm);
            sent.push(id);
            deployments.extend(deploys.then_some(id));
        }
        subnet.advance_time(std::time::Duration::from_millis(random.below(3_000)));
        subnet.tick();
        roots.push(subnet.root());
        cycles.push(subnet.all_cycles() / ids.len() as Cycles);
        if forgetful && roots.len() % 3 == 0 {
            subnet.forget();
        }
    }
    while !subnet.is_settled() && roots.len() < BLOCKS_MAX {
        subnet.tick();
        roots.push(subnet.root());
        cycles.push(subnet.all_cycles() / ids.len() as Cycles);
    }
    let count = |ids: &[MessageId], wanted: fn(&Status) -> bool| {
        let statuses = ids.iter().filter_map(|id| subnet.status(*id));
        statuses.filter(|status| wanted(status)).count()
    };
    let is_reply = |status: &Status| matches!(status, Status::Replied(_));
    Outcome {
        roots,
        cycles,
        replied: count(&sent[first..], is_reply),
        rejected: count(&sent[first..], |status| {
            matches!(status, Status::Rejected(_))
        }),
        deployed: count(&deployments, is_reply),
    }
}

/// One message, to a canister or about it, and whether it deploys code.
fn submit(
    random: &mut Random,
    subnet: &mut Subnet,
    ids: &mut Vec<Principal>,
    wasm: &[u8],
) -> (MessageId, bool) {
    let id = ids[random.below(ids.len() as u64) as usize];
    let argument = encode(&program(random, ids, 3));
    let quiet_argument = encode(&quiet(random));
    let kind = random.below(40);
    let sent = match kind {
        0 => subnet.submit_install(
            id,
            CanisterInstallMode::Upgrade(None),
            wasm,
            &quiet_argument,
        ),
        1 => subnet.submit_install(id, CanisterInstallMode::Reinstall, wasm, &quiet_argument),
        2 => subnet.submit_management("uninstall_code", id),
        3 => subnet.submit_management("stop_canister", id),
        4 | 5 => subnet.submit_management("start_canister", id),
        6 => subnet.submit_install(id, CanisterInstallMode::Install, wasm, &quiet_argument),
        7 => {
            ids.push(subnet.create_canister());
            let id = ids[ids.len() - 1];
            subnet.submit_install(id, CanisterInstallMode::Install, wasm, &quiet_argument)
        }
        _ => {
            let method = if random.below(10) == 0 { "read" } else { "run" };
            subnet.submit(id, Principal::anonymous(), method, &argument)
        }
    };
    (sent, matches!(kind, 0 | 1 | 6 | 7))
}

fn program(random: &mut Random, ids: &[Principal], depth: u32) -> Vec<Step> {
    let count = 1 + random.below(4);
    let mut program: Vec<Step> = (0..count).map(|_| step(random, ids, depth)).collect();
    if random.below(4) > 0 {
        program.push(Step::ReplySum);
    }
    program
}

/// A program for where nobody waits for an answer; now and then it traps.
fn quiet(random: &mut Random) -> Vec<Step> {
    let step = match random.below(10) {
        0 => Step::Trap("as it was told".into()),
        1 | 2 => Step::StableGrow(1 + random.below(3)),
        3 | 4 => Step::Touch(random.below(100) as u32),
        5 | 6 => Step::Fork {
            elements: random.below(30) as u32,
            spin: random.below(100) as u32,
            trap: None,
        },
        7 => Step::PreUpgrade(vec![Step::Observe]),
        _ => Step::Observe,
    };
    vec![step]
}

fn step(random: &mut Random, ids: &[Principal], depth: u32) -> Step {
    if depth > 0 && random.below(3) == 0 {
        return Step::Call(call(random, ids, depth - 1));
    }
    match random.below(24) {
        0 => Step::Trap("as it was told".into()),
        1 => Step::Unreachable,
        2 => Step::OutOfBounds,
        3 => Step::Reject("as it was told".into()),
        4 => Step::Print(format!("{}", random.next())),
        5 => Step::Recurse(1 << random.below(20)),
        6 => Step::Touch(random.below(200) as u32),
        7 => Step::Grow(random.below(20) as u32),
        8 => Step::StableGrow(1 << random.below(24)),
        // Mostly within what there is.
        9 if random.below(8) > 0 => Step::StableWrite {
            offset: 1 << random.below(16),
            byte: random.next() as u8,
            size: 1 << random.below(14),
        },
        9 => Step::StableWrite {
            offset: 1 << random.below(36),
            byte: random.next() as u8,
            size: 1 << random.below(14),
        },
        10 => Step::StableRead {
            offset: random.below(1 << 17),
            size: random.below(2_000) as u32,
        },
        11 => Step::Accept(random.next() >> 20),
        12 => Step::Burn(random.next() >> 40),
        13 => Step::Timer {
            delay_ns: random.below(5_000_000_000),
            program: quiet(random),
        },
        14 => Step::Heartbeat(vec![Step::Observe]),
        15 => Step::PreUpgrade(quiet(random)),
        16 => Step::Certify(random.next().to_le_bytes().to_vec()),
        17 | 18 => Step::Fork {
            elements: random.below(40) as u32,
            spin: random.below(300) as u32,
            trap: (random.below(4) == 0).then(|| random.below(13) as u32),
        },
        19 => Step::Spin(1 << random.below(18)),
        _ => Step::Observe,
    }
}

fn call(random: &mut Random, ids: &[Principal], depth: u32) -> Call {
    let callee = ids[random.below(ids.len() as u64) as usize];
    let mut call = Call::run(callee.as_slice(), &program(random, ids, depth));
    if random.below(12) == 0 {
        call.callee = vec![9, 9, 9];
    }
    if random.below(4) == 0 {
        call.cycles = random.next() >> 16;
    }
    call.timeout_seconds = (random.below(4) == 0).then(|| random.below(5) as u32);
    if random.below(2) == 0 {
        call.on_reply = program(random, ids, 0);
        call.on_reject = program(random, ids, 0);
    }
    call.on_cleanup = (random.below(2) == 0).then(|| program(random, ids, 0));
    call
}
