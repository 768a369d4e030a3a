//! Works through collected vectors in batches, with one result however they arrived and whatever came between.
//!
//! Vectors are submitted in any order, by anybody; `seal` puts them into the order of their BLAKE3 hashes, where the
//! same vector counts as often as it came; `step`, or a timer, works through one batch per message by fork-join: every
//! vector is normalised, and the mean of its nearest centroid goes on by it. That depends on the order, and so would on
//! arrival, were it not for the seal.
//!
//! # Design
//! Everything is in stable memory all the time (`store`), so that every message that ends is a checkpoint, and an
//! upgrade needs no preparation. A message that traps, is out of instructions or finds no cycles leaves the checkpoint
//! before it.
//!
//! # Invariants
//! The result is a function of the centroids and the multiset of vectors. Controllers alone seal and step. The timer is
//! armed by `seal`, by every step and after an upgrade; one that could not run is armed by the next `step`.
//!
//! # Units and bounds
//! [`ITEMS_MAX`] vectors; a batch of [`BATCH_NUMBERS_MAX`] numbers; [`CENTROIDS_MAX`] centroids of
//! [`CENTROID_NUMBERS_MAX`] numbers together.
//! Numbers are finite.
mod store;
mod work;

use candid::{CandidType, Deserialize};
use ic_cdk::{api, init, post_upgrade, query, update};
use lockstep_cdk::parallel::Plan;
use serde_bytes::ByteBuf;
use std::cell::RefCell;
use store::Store;

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../batch.did").len()] = *include_bytes!("../batch.did");

/// Vectors.
const ITEMS_MAX: u64 = 1 << 20;
/// Numbers of a batch.
const BATCH_NUMBERS_MAX: u64 = 1 << 24;
/// Numbers of all centroids; the result has as many.
const CENTROID_NUMBERS_MAX: u64 = 1 << 18;
/// Centroids: each is a task, which looks at the whole batch.
const CENTROIDS_MAX: u64 = 256;

#[derive(CandidType, Deserialize, Clone, Debug)]
struct Config {
    length: u32,
    batch: u32,
    centroids: Vec<Vec<f32>>,
    automatic: bool,
}

#[derive(CandidType, Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Collecting,
    Working,
    Done,
}

#[derive(CandidType, Clone, Copy, Debug)]
struct Status {
    phase: Phase,
    items: u64,
    processed: u64,
}

#[derive(CandidType)]
struct Cluster {
    count: u64,
    mean: Vec<f32>,
}

#[derive(CandidType)]
struct Summary {
    digest: ByteBuf,
    items: u64,
    clusters: Vec<Cluster>,
}

thread_local! {
    static STORE: RefCell<Option<Store>> = const { RefCell::new(None) };
}

fn with<R>(f: impl FnOnce(&Store) -> R) -> R {
    STORE.with_borrow(|store| f(store.as_ref().expect("set when installed")))
}

fn open(store: Result<Store, String>) {
    match store {
        Ok(store) => STORE.set(Some(store)),
        Err(reason) => api::trap(reason),
    }
}

#[init]
fn init(config: Config) {
    open(config.check().and_then(|()| Store::create(config)));
}

#[post_upgrade]
fn post_upgrade() {
    open(Store::open());
    with(|store| arm(store, &store.status()));
}

#[update]
fn submit(vectors: ByteBuf) -> Result<u64, String> {
    with(|store| {
        let mut status = store.status();
        if status.phase != Phase::Collecting {
            return Err("the order is sealed".into());
        }
        let vector_bytes = store.config.length as usize * 4;
        if vectors.is_empty() || !vectors.len().is_multiple_of(vector_bytes) {
            return Err(format!(
                "not whole vectors of {vector_bytes} bytes: {} bytes",
                vectors.len()
            ));
        }
        let (numbers, _) = vectors.as_chunks::<4>();
        let finite = |number: &[u8; 4]| f32::from_le_bytes(*number).is_finite();
        if let Some(position) = numbers.iter().position(|number| !finite(number)) {
            return Err(format!("number {position} is not finite"));
        }
        let items = status.items + (vectors.len() / vector_bytes) as u64;
        if items > ITEMS_MAX {
            return Err(format!("more than {ITEMS_MAX} vectors: {items}"));
        }
        store.append(status.items, &vectors)?;
        status.items = items;
        store.set_status(&status);
        Ok(items)
    })
}

#[update]
fn seal() -> Result<Status, String> {
    check_caller()?;
    with(|store| {
        let mut status = store.status();
        if status.phase != Phase::Collecting {
            return Err("the order is sealed".into());
        }
        store.sort(status.items)?;
        status.phase = if status.items == 0 {
            Phase::Done
        } else {
            Phase::Working
        };
        store.set_status(&status);
        arm(store, &status);
        Ok(status)
    })
}

#[update]
fn step(instructions: Option<u64>) -> Result<Status, String> {
    check_caller()?;
    let plan = Plan::new();
    let plan = instructions.map_or(plan, |instructions| plan.instructions(instructions));
    with(|store| match store.status().phase {
        Phase::Collecting => Err("the order is not sealed".into()),
        Phase::Working => Ok(advance(store, plan)),
        Phase::Done => Err("there is nothing left to do".into()),
    })
}

// SAFETY: the system looks for this name, and no other symbol has it.
#[unsafe(export_name = "canister_global_timer")]
extern "C" fn timer() {
    with(|store| {
        if store.status().phase == Phase::Working {
            advance(store, Plan::new());
        }
    });
}

#[query]
fn status() -> Status {
    with(Store::status)
}

#[query]
fn result() -> Result<Summary, String> {
    with(|store| {
        let status = store.status();
        if status.phase != Phase::Done {
            return Err(format!(
                "{} of {} vectors are worked through so far",
                status.processed, status.items
            ));
        }
        let means = store.means();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&store.config.length.to_le_bytes());
        for centroid in &store.config.centroids {
            hasher.update(bytemuck::cast_slice(centroid));
        }
        hasher.update(bytemuck::cast_slice(&means.counts));
        hasher.update(bytemuck::cast_slice(&means.values));
        let rows = means.values.chunks_exact(means.length);
        let clusters = rows.zip(&means.counts).map(|(mean, count)| Cluster {
            count: *count,
            mean: mean.to_vec(),
        });
        Ok(Summary {
            digest: ByteBuf::from(hasher.finalize().as_bytes()),
            items: status.items,
            clusters: clusters.collect(),
        })
    })
}

/// Works through the next batch of those that are left.
fn advance(store: &Store, plan: Plan) -> Status {
    let mut status = store.status();
    let end = (status.processed + u64::from(store.config.batch)).min(status.items);
    let vectors = store.vectors(status.processed, end, status.items);
    let mut means = store.means();
    means.add(&vectors, &store.config.centroids.concat(), plan);
    store.set_means(&means);
    status.processed = end;
    if end == status.items {
        status.phase = Phase::Done;
    }
    store.set_status(&status);
    arm(store, &status);
    status
}

/// Has the timer go on as soon as possible, if there is work and it is wanted.
fn arm(store: &Store, status: &Status) {
    if store.config.automatic && status.phase == Phase::Working {
        api::global_timer_set(api::time() + 1);
    }
}

impl Config {
    fn check(&self) -> Result<(), String> {
        let (length, batch) = (u64::from(self.length), u64::from(self.batch));
        if length == 0 || batch == 0 || self.centroids.is_empty() {
            return Err("vectors, batches and centroids must not be empty".into());
        }
        if length * batch > BATCH_NUMBERS_MAX {
            return Err(format!(
                "a batch has more than {BATCH_NUMBERS_MAX} numbers: {batch} x {length}"
            ));
        }
        let count = self.centroids.len() as u64;
        if count > CENTROIDS_MAX {
            return Err(format!("more than {CENTROIDS_MAX} centroids: {count}"));
        }
        if count.saturating_mul(length) > CENTROID_NUMBERS_MAX {
            return Err(format!(
                "centroids have more than {CENTROID_NUMBERS_MAX} numbers: {count} x {length}"
            ));
        }
        for (index, centroid) in self.centroids.iter().enumerate() {
            if centroid.len() as u64 != length {
                return Err(format!(
                    "centroid {index} has not {length} numbers: {}",
                    centroid.len()
                ));
            }
            if !centroid.iter().all(|number| number.is_finite()) {
                return Err(format!("centroid {index} is not finite"));
            }
        }
        Ok(())
    }
}

fn check_caller() -> Result<(), String> {
    let caller = api::msg_caller();
    if api::is_controller(&caller) {
        return Ok(());
    }
    Err(format!("not a controller: {caller}"))
}
