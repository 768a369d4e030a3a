//! What the parts of a call cost, each alone on one core.
//!
//! # Design
//! One replica without consensus around it, driven as consensus drives it; and the signatures of certificates, for
//! subnets of several sizes. Every figure is the median of some repetitions.
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use candid::{Encode, Principal};
use commonware_cryptography::bls12381::{
    dkg::feldman_desmedt::deal_anonymous,
    primitives::{
        ops::{self, threshold},
        sharing::Mode,
        variant::MinSig,
    },
};
use commonware_parallel::Sequential;
use commonware_utils::{N3f1, sys_rng};
use ic_management_canister_types::ProvisionalCreateCanisterWithCyclesArgs;
use lockstep_bench_subnet::{
    calls::Callers,
    counter::{Counter, installation},
    times::ms,
};
use lockstep_canister::{engine::Engine, models::NoModels};
use lockstep_subnet::{
    application::{Application, FinalizedBlock, Payload},
    ingress::Ingress,
    replica::{Medium, MemoryDisk, Replica, SystemClock},
    state::Genesis,
    tree::{paths::Scope, state::state_tree},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    hint::black_box,
    num::NonZeroU32,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Calls of a large block. All of them may wait at a time.
const CALLS: u64 = 500;
/// An installation goes on for some heights.
const INSTALLATION_HEIGHTS_MAX: usize = 1_000;
/// Repetitions of what is measured.
const REPETITIONS: usize = 5;

/// What a part costs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cost {
    pub(crate) what: String,
    pub(crate) microseconds: f64,
}

/// Measures everything.
///
/// # Errors
/// The replica does not do what it is told.
pub(crate) fn measure(directory: &Path, wasm: &[u8]) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    call(&mut costs, directory, wasm)?;
    for count in [4, 13, 40] {
        certificate(&mut costs, count)?;
    }
    Ok(costs)
}

fn add(costs: &mut Vec<Cost>, what: impl Into<String>, mut times: Vec<Duration>, divisor: f64) {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    costs.push(Cost {
        what: what.into(),
        microseconds: ms(median) * 1e3 / divisor,
    });
}

/// How long some work takes each time.
fn repeat<T>(count: usize, mut work: impl FnMut() -> T) -> Vec<Duration> {
    let times = (0..count).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
    times.collect()
}

/// A replica as consensus drives it.
struct Driven {
    replica: Replica,
    height: u64,
    time_ns: u64,
}

impl Driven {
    fn open(medium: Medium) -> Result<Self> {
        let replica = Replica::open(
            medium,
            Genesis::new(&[0; 96], &[[1; 32]], BTreeMap::new())?,
            [1; 32],
            Arc::new(Engine::new()),
            Arc::new(NoModels),
            Arc::new(SystemClock),
        )?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            replica,
            height: 0,
            time_ns: u64::try_from(now.as_nanos())?,
        })
    }

    /// Installs the counter.
    fn install(&mut self, wasm: &[u8]) -> Result<Principal> {
        let callers = Callers::new(1);
        let mut manage = |number, method: &str, argument: Vec<u8>| {
            let management = Principal::management_canister();
            let call = callers.call(number, management, method, &argument);
            self.execute(vec![call.into()]);
            self.replica.executed()
        };
        let create = Encode!(&ProvisionalCreateCanisterWithCyclesArgs::default())?;
        let created = manage(0, "provisional_create_canister_with_cycles", create);
        let id = created.state.canisters().keys().next().copied();
        let id = id.context("no canister was made")?;
        manage(1, "install_code", installation(id, wasm));
        for _ in 0..INSTALLATION_HEIGHTS_MAX {
            let executed = self.replica.executed();
            let canister = executed.state.canisters().get(&id);
            if canister.is_some_and(|canister| canister.state.installed.is_some()) {
                return Ok(id);
            }
            self.execute(Vec::new());
        }
        bail!("the counter is not installed")
    }

    fn payload(&mut self, messages: Vec<Bytes>) -> Payload {
        self.time_ns += 1_000;
        Payload {
            time_ns: self.time_ns,
            messages,
            ..Payload::default()
        }
    }

    fn execute(&mut self, messages: Vec<Bytes>) -> Duration {
        let payload = self.payload(messages);
        self.height += 1;
        let block = FinalizedBlock {
            height: self.height,
            digest: [7; 32],
            payload,
        };
        let start = Instant::now();
        let root = self.replica.execute(&block);
        let elapsed = start.elapsed();
        // Nobody here looks at the signature.
        Application::certified(&self.replica, self.height, root, [0; 48]);
        elapsed
    }
}

fn call(costs: &mut Vec<Cost>, directory: &Path, wasm: &[u8]) -> Result<()> {
    let mut made = 0;
    let callers = Callers::new(32);
    let mut in_memory = Driven::open(MemoryDisk::default().into())?;
    let id = in_memory.install(wasm)?;
    let mut calls = |count: u64| -> Vec<Bytes> {
        let numbers = made..made + count;
        made += count;
        let one = Counter::one();
        numbers
            .map(|number| callers.call(number, id, "increase", &one).into())
            .collect()
    };
    let many = CALLS as f64;

    let some = calls(CALLS);
    let decode = || {
        for call in &some {
            black_box(Ingress::decode(call).is_ok());
        }
    };
    let now = in_memory.time_ns;
    add(
        costs,
        "decode an envelope",
        repeat(REPETITIONS, decode),
        many,
    );
    let check = || {
        for call in &some {
            black_box(Ingress::check(call, &[], now).is_ok());
        }
    };
    add(
        costs,
        "decode it and verify its Ed25519 signature",
        repeat(REPETITIONS, check),
        many,
    );

    let (mut submit, mut gossip, mut known, mut unknown) = (vec![], vec![], vec![], vec![]);
    let (mut large, mut hash) = (vec![], vec![]);
    for _ in 0..REPETITIONS {
        let (first, second, third) = (calls(CALLS), calls(CALLS), calls(CALLS));
        let start = Instant::now();
        for call in &first {
            in_memory.replica.submit(Scope::Canister(id), call)?;
        }
        submit.push(start.elapsed());
        let start = Instant::now();
        for call in &second {
            in_memory.replica.gossip(call.clone());
        }
        gossip.push(start.elapsed());
        let parent = in_memory.time_ns;
        for (messages, times) in [(&second, &mut known), (&third, &mut unknown)] {
            let payload = in_memory.payload(messages.clone());
            let start = Instant::now();
            ensure!(in_memory.replica.verify(parent, &payload), "a valid block");
            times.push(start.elapsed());
        }
        for messages in [first, second, third] {
            large.push(in_memory.execute(messages));
        }
        let state = in_memory.replica.executed();
        let start = Instant::now();
        black_box(state_tree(&state.state).digest());
        hash.push(start.elapsed());
    }
    add(costs, "take a call in from a client", submit, many);
    add(costs, "take a call in from a replica", gossip, many);
    add(costs, "check a call of a block that is known", known, many);
    add(costs, "check a call of a block that is not", unknown, many);
    let empty = repeat_blocks(&mut in_memory, Vec::new);
    let single = repeat_blocks(&mut in_memory, || calls(1));
    add(costs, "execute an empty block, store in memory", empty, 1.0);
    add(
        costs,
        "execute a block of one call, store in memory",
        single,
        1.0,
    );
    let title = format!("execute a call of a block of {CALLS}, store in memory");
    add(costs, title, large, many);
    add(
        costs,
        "make the state tree again, nothing changed",
        hash,
        1.0,
    );

    let mut on_disk = Driven::open(Medium::from(&directory.join("state.redb")))?;
    on_disk.install(wasm)?;
    let empty = repeat_blocks(&mut on_disk, Vec::new);
    let large = repeat_blocks(&mut on_disk, || calls(CALLS));
    add(costs, "execute an empty block, store on disk", empty, 1.0);
    let title = format!("execute a call of a block of {CALLS}, store on disk");
    add(costs, title, large, many);

    let id_of_one = Ingress::decode(&some[0])?.id;
    in_memory.execute(some);
    let replica = &in_memory.replica;
    for (what, signed) in [("an anonymous", false), ("a signed", true)] {
        let query = callers.query(0, id, "get", &Encode!()?, signed);
        let answered = repeat(200, || replica.query(Scope::Canister(id), &query));
        replica.query(Scope::Canister(id), &query)?;
        add(costs, format!("answer {what} query"), answered, 1.0);
    }
    let certified = replica.certified().context("a certified state")?;
    let answer = repeat(200, || certified.call_certificate(&id_of_one));
    add(costs, "make the certificate of a call", answer, 1.0);
    Ok(())
}

fn repeat_blocks(driven: &mut Driven, mut messages: impl FnMut() -> Vec<Bytes>) -> Vec<Duration> {
    let times = (0..4 * REPETITIONS).map(|_| driven.execute(messages()));
    times.collect()
}

fn certificate(costs: &mut Vec<Cost>, count: u32) -> Result<()> {
    const NAMESPACE: &[u8] = b"ic-state-root";
    const ROOT: &[u8] = &[7; 32];
    let nodes = NonZeroU32::new(count).context("a count")?;
    // The key has the same curve and size as the subnet's; its tag differs in one word.
    let (sharing, shares) = deal_anonymous::<MinSig, N3f1>(sys_rng(), Mode::NonZeroCounter, nodes);
    let sign = |share| threshold::sign_message::<MinSig>(share, NAMESPACE, ROOT);
    let partials: Vec<_> = shares.iter().map(sign).collect();
    if count == 4 {
        add(
            costs,
            "sign a state root with a share",
            repeat(50, || sign(&shares[0])),
            1.0,
        );
        let verify = || threshold::verify_message(&sharing, NAMESPACE, ROOT, &partials[0]);
        ensure!(verify().is_ok(), "a share that does not hold");
        add(costs, "verify a share", repeat(50, verify), 1.0);
    }
    let recover = || threshold::recover(&sharing, &partials, &Sequential);
    let signature = recover().context("recovering a signature")?;
    let title = format!(
        "recover a signature from {} of {count} shares",
        sharing.required()
    );
    add(costs, title, repeat(50, recover), 1.0);
    let verify = || ops::verify_message::<MinSig>(sharing.public(), NAMESPACE, ROOT, &signature);
    ensure!(verify().is_ok(), "a signature that does not hold");
    if count == 4 {
        add(costs, "verify a signature", repeat(50, verify), 1.0);
    }
    Ok(())
}
