//! One result, however items arrived and whatever came between the batches.
use crate::support::{encode, install, install_poor, query, sequential_wasm, starve, update, wasm};
use candid::{CandidType, Principal};
use lockstep_driver::{Reject, Subnet};
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::num::NonZeroUsize;

#[derive(CandidType, Clone, Debug)]
struct Config {
    length: u32,
    batch: u32,
    centroids: Vec<Vec<f32>>,
    automatic: bool,
}

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Collecting,
    Working,
    Done,
}

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    phase: Phase,
    items: u64,
    processed: u64,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
struct Cluster {
    count: u64,
    mean: Vec<f32>,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
struct Summary {
    digest: ByteBuf,
    items: u64,
    clusters: Vec<Cluster>,
}

const LENGTH: usize = 9;
const ITEMS: usize = 53;

fn config(batch: u32) -> Config {
    let centroid = |number: usize| {
        let values = (0..LENGTH).map(|index| if index % 4 == number { 0.75 } else { -0.125 });
        values.collect()
    };
    Config {
        length: LENGTH as u32,
        batch,
        centroids: (0..4).map(centroid).collect(),
        automatic: false,
    }
}

/// Vectors of very different sizes, so that every change of order shows; some come twice, one is zero.
fn vectors() -> Vec<Vec<f32>> {
    let mut seed = 7_u32;
    let mut number = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let exponent = 127 - 30 + (seed >> 9) % 60;
        f32::from_bits(exponent << 23 | seed >> 10 | (seed & 0x8000_0000))
    };
    let mut vectors: Vec<Vec<f32>> = (0..ITEMS - 4)
        .map(|_| (0..LENGTH).map(|_| number()).collect())
        .collect();
    vectors.extend([vectors[3].clone(), vectors[3].clone(), vectors[40].clone()]);
    vectors.push(vec![0.0; LENGTH]);
    vectors
}

fn bytes(vector: &[f32]) -> Vec<u8> {
    vector
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// What the canister computes, written down once more.
fn expected(config: &Config, vectors: &[Vec<f32>]) -> Summary {
    let mut sorted = vectors.to_vec();
    sorted.sort_by_key(|vector| *blake3::hash(&bytes(vector)).as_bytes());
    let zero = Cluster {
        count: 0,
        mean: vec![0.0; LENGTH],
    };
    let mut clusters = vec![zero; config.centroids.len()];
    for vector in &sorted {
        let mut squares = 0.0_f64;
        for value in vector {
            squares += f64::from(*value) * f64::from(*value);
        }
        let norm = if squares == 0.0 { 1.0 } else { squares.sqrt() };
        let unit: Vec<f32> = vector
            .iter()
            .map(|value| (f64::from(*value) / norm) as f32)
            .collect();
        let (mut least, mut nearest) = (f32::INFINITY, 0);
        for (index, centroid) in config.centroids.iter().enumerate() {
            let mut distance = 0.0_f32;
            for (a, b) in unit.iter().zip(centroid) {
                distance += (a - b) * (a - b);
            }
            if distance < least {
                (least, nearest) = (distance, index);
            }
        }
        let cluster = &mut clusters[nearest];
        cluster.count += 1;
        for (mean, value) in cluster.mean.iter_mut().zip(unit) {
            *mean += (value - *mean) / cluster.count as f32;
        }
    }
    let mut content = config.length.to_le_bytes().to_vec();
    content.extend(config.centroids.iter().flat_map(|centroid| bytes(centroid)));
    content.extend(
        clusters
            .iter()
            .flat_map(|cluster| cluster.count.to_le_bytes()),
    );
    content.extend(clusters.iter().flat_map(|cluster| bytes(&cluster.mean)));
    Summary {
        digest: ByteBuf::from(blake3::hash(&content).as_bytes()),
        items: vectors.len() as u64,
        clusters,
    }
}

struct Batches {
    subnet: Subnet,
    id: Principal,
    wasm: &'static [u8],
}

impl Batches {
    fn new(config: &Config) -> Option<Self> {
        let wasm = wasm("batch")?;
        let mut subnet = Subnet::new();
        let id = install(&mut subnet, wasm, &(config,));
        Some(Self { subnet, id, wasm })
    }

    /// With vectors submitted in this order, and sealed.
    fn sealed(config: &Config, vectors: &[Vec<f32>]) -> Option<Self> {
        let mut batches = Self::new(config)?;
        for vector in vectors {
            batches.submit(&bytes(vector)).unwrap();
        }
        batches.seal().unwrap();
        Some(batches)
    }

    fn submit(&mut self, vectors: &[u8]) -> Result<u64, String> {
        let arguments = (ByteBuf::from(vectors),);
        update(&mut self.subnet, self.id, "submit", &arguments).unwrap()
    }

    fn seal(&mut self) -> Result<Status, String> {
        update(&mut self.subnet, self.id, "seal", &()).unwrap()
    }

    fn step(&mut self, instructions: Option<u64>) -> Result<Result<Status, String>, Reject> {
        update(&mut self.subnet, self.id, "step", &(instructions,))
    }

    fn status(&self) -> Status {
        query(&self.subnet, self.id, "status", &()).unwrap()
    }

    fn result(&self) -> Result<Summary, String> {
        query(&self.subnet, self.id, "result", &()).unwrap()
    }

    fn upgrade(&mut self) {
        let argument = encode(&(config(1),));
        self.subnet
            .upgrade(self.id, self.wasm, &argument, None)
            .unwrap();
    }

    /// Steps to the end, doing something before each.
    fn run(&mut self, mut before: impl FnMut(&mut Self)) -> Summary {
        while self.status().phase == Phase::Working {
            before(self);
            self.step(None).unwrap().unwrap();
        }
        self.result().unwrap()
    }
}

#[test]
fn arrival_and_the_size_of_batches_cannot_be_seen() {
    let vectors = vectors();
    let expected = expected(&config(1), &vectors);
    assert!(
        expected
            .clusters
            .iter()
            .filter(|cluster| cluster.count > 3)
            .count()
            > 2
    );
    for (turn, batch) in [1, 2, 7, 16, 53, 1000].into_iter().enumerate() {
        let mut arrived = vectors.clone();
        arrived.rotate_left(turn * 11 % ITEMS);
        // A multiplier without a factor in common with their number permutes them.
        let permuted: Vec<Vec<f32>> = (0..ITEMS)
            .map(|index| arrived[index * (2 * turn + 1) % ITEMS].clone())
            .collect();
        let Some(mut batches) = Batches::sealed(&config(batch), &permuted) else {
            return;
        };
        let mut steps = 0;
        let summary = batches.run(|_| steps += 1);
        assert_eq!(summary, expected, "batches of {batch}");
        assert_eq!(steps, ITEMS.div_ceil(batch as usize));
    }
    // All in one blob.
    let Some(mut batches) = Batches::new(&config(10)) else {
        return;
    };
    let all = vectors.iter().rev().flat_map(|vector| bytes(vector));
    let all: Vec<u8> = all.collect();
    assert_eq!(batches.submit(&all), Ok(ITEMS as u64));
    batches.seal().unwrap();
    assert_eq!(batches.run(|_| {}), expected);
}

#[test]
fn the_order_is_of_consequence_and_repetition_counts() {
    let mut vectors = vectors();
    let whole = expected(&config(1), &vectors);
    vectors.pop();
    assert_ne!(expected(&config(1), &vectors), whole);
    let Some(mut batches) = Batches::sealed(&config(8), &vectors) else {
        return;
    };
    assert_eq!(batches.run(|_| {}), expected(&config(1), &vectors));
    vectors.push(vectors[0].clone());
    let Some(mut batches) = Batches::sealed(&config(8), &vectors) else {
        return;
    };
    assert_eq!(batches.run(|_| {}), expected(&config(1), &vectors));
}

#[test]
fn neither_threads_nor_fork_join_can_be_seen() {
    let Some((forking, sequential)) = wasm("batch").zip(sequential_wasm("batch")) else {
        return;
    };
    let run = |wasm: &'static [u8], threads: usize| {
        let mut subnet = Subnet::on_threads(NonZeroUsize::new(threads).unwrap());
        let id = install(&mut subnet, wasm, &(config(20),));
        let mut batches = Batches { subnet, id, wasm };
        for vector in vectors() {
            batches.submit(&bytes(&vector)).unwrap();
        }
        batches.seal().unwrap();
        (batches.run(|_| {}), batches.subnet.root())
    };
    let (summary, root) = run(forking, 1);
    assert_eq!(summary, expected(&config(20), &vectors()));
    assert_eq!(run(forking, 3), (summary.clone(), root), "on more threads");
    // Another module, and so another state, with the same result.
    assert_eq!(run(sequential, 1).0, summary, "without fork-join");
}

#[test]
fn upgrades_between_all_steps_change_nothing() {
    let vectors = vectors();
    let Some(mut batches) = Batches::new(&config(6)) else {
        return;
    };
    for vector in &vectors {
        batches.submit(&bytes(vector)).unwrap();
        if vector[0] > 0.0 {
            batches.upgrade();
        }
    }
    batches.seal().unwrap();
    assert_eq!(
        batches.run(Batches::upgrade),
        expected(&config(1), &vectors)
    );
    batches.upgrade();
    assert_eq!(batches.result().unwrap(), expected(&config(1), &vectors));
}

#[test]
fn a_step_that_traps_in_the_middle_is_done_again() {
    let vectors = vectors();
    let Some(mut batches) = Batches::sealed(&config(6), &vectors) else {
        return;
    };
    let mut traps = 0;
    while batches.status().phase == Phase::Working {
        let before = batches.status();
        // From too little for anything up to enough: tasks run out everywhere in between.
        let mut instructions = 64;
        loop {
            match batches.step(Some(instructions)) {
                Ok(status) => {
                    assert_ne!(status.unwrap(), before);
                    break;
                }
                Err(reject) => {
                    assert!(reject.message.contains("instruction"), "{reject}");
                    assert_eq!(batches.status(), before);
                    traps += 1;
                }
            }
            instructions += instructions / 4;
        }
    }
    assert!(traps > 50, "{traps}");
    assert_eq!(batches.result().unwrap(), expected(&config(1), &vectors));
}

#[test]
fn without_cycles_it_waits_for_more() {
    let vectors = vectors();
    let Some(mut batches) = Batches::new(&config(10)) else {
        return;
    };
    batches.id = install_poor(&mut batches.subnet, batches.wasm, &(config(10),));
    for vector in &vectors {
        batches.submit(&bytes(vector)).unwrap();
    }
    batches.seal().unwrap();
    let mut starved = 0;
    let summary = batches.run(|batches| {
        let before = batches.status();
        starve(&mut batches.subnet, batches.id);
        let reject = batches.step(None).unwrap_err();
        assert!(reject.message.contains("out of cycles"), "{reject}");
        assert_eq!(batches.status(), before);
        let enough = 45_000_000_000;
        batches.subnet.add_cycles(batches.id, enough).unwrap();
        starved += 1;
    });
    assert_eq!(starved, 6);
    assert_eq!(summary, expected(&config(10), &vectors));
}

#[test]
fn a_timer_goes_on_by_itself() {
    let vectors = vectors();
    let automatic = Config {
        automatic: true,
        ..config(6)
    };
    let Some(mut batches) = Batches::sealed(&automatic, &vectors) else {
        return;
    };
    let mut ticks = 0;
    while batches.status().phase == Phase::Working {
        ticks += 1;
        assert!(ticks < 100);
        batches.subnet.tick();
        // An upgrade stops timers; the canister starts its own again.
        if ticks % 2 == 0 {
            batches.upgrade();
        }
    }
    assert!(ticks > 3);
    assert_eq!(batches.result().unwrap(), expected(&config(1), &vectors));
}

#[test]
fn what_has_no_sense_is_refused() {
    let Some(mut batches) = Batches::new(&config(5)) else {
        return;
    };
    assert_eq!(
        batches.submit(&[]).unwrap_err(),
        "not whole vectors of 36 bytes: 0 bytes"
    );
    assert_eq!(
        batches.submit(&[0; 40]).unwrap_err(),
        "not whole vectors of 36 bytes: 40 bytes"
    );
    let mut vector = vec![1.0; 2 * LENGTH];
    vector[10] = f32::NAN;
    assert_eq!(
        batches.submit(&bytes(&vector)).unwrap_err(),
        "number 10 is not finite"
    );
    assert_eq!(
        batches.step(None).unwrap().unwrap_err(),
        "the order is not sealed"
    );
    assert_eq!(
        batches.result().unwrap_err(),
        "0 of 0 vectors are worked through so far"
    );
    assert_eq!(batches.seal().unwrap().phase, Phase::Done, "there is none");
    assert_eq!(batches.result().unwrap(), expected(&config(1), &[]));
    let sealed = "the order is sealed";
    assert_eq!(batches.submit(&[0; 36]).unwrap_err(), sealed);
    assert_eq!(batches.seal().unwrap_err(), sealed);
    let nothing = batches.step(None).unwrap().unwrap_err();
    assert_eq!(nothing, "there is nothing left to do");
    let stranger = Principal::from_slice(&[7; 29]);
    let reply = batches
        .subnet
        .update(batches.id, stranger, "seal", &encode(&()));
    let reply: Result<Status, String> = candid::decode_one(&reply.unwrap()).unwrap();
    assert_eq!(reply.unwrap_err(), format!("not a controller: {stranger}"));

    let refusal = |config: Config, text: &str| {
        let mut subnet = Subnet::new();
        let id = subnet.create_canister();
        let error = subnet.install(id, batches.wasm, &encode(&(config,)));
        let error = error.unwrap_err();
        assert!(error.message.contains(text), "{error}");
    };
    refusal(
        config(0),
        "vectors, batches and centroids must not be empty",
    );
    refusal(config(u32::MAX), "a batch has more than 16777216 numbers");
    let mut uneven = config(5);
    uneven.centroids[2].pop();
    refusal(uneven, "centroid 2 has not 9 numbers: 8");
    let mut infinite = config(5);
    infinite.centroids[1][0] = f32::INFINITY;
    refusal(infinite, "centroid 1 is not finite");
}
