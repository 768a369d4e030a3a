//! The state, all of it in stable memory, where an upgrade finds it without being told.
//!
//! # Design
//! | from | what |
//! |---|---|
//! | 0 | magic, phase, vectors, vectors processed, bytes of the configuration |
//! | [`HEADER_BYTES`] | the configuration in Candid |
//! | then, at multiples of 8 | means, counts, and per vector its BLAKE3 and its numbers |
//! | behind the vectors, once sealed | their order: 4 bytes each |
//!
//! # Invariants
//! A message writes all of a step or, if it traps, nothing: what is there is always a checkpoint.
use crate::{Config, Phase, Status, work::Means};
use bytemuck::Pod;
use ic_cdk::stable::{
    WASM_PAGE_SIZE_IN_BYTES, stable_grow, stable_read, stable_size, stable_write,
};

const MAGIC: [u8; 8] = *b"batch v1";
const HEADER_BYTES: u64 = 40;
const HASH_BYTES: usize = 32;

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) config: Config,
    means: u64,
    counts: u64,
    items: u64,
}

impl Store {
    /// Writes a new state.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn create(config: Config) -> Result<Self, String> {
        let bytes = candid::encode_one(&config).expect("it has a Candid form");
        let store = Self::lay_out(config, bytes.len() as u64);
        reserve(store.items)?;
        stable_write(0, &MAGIC);
        stable_write(32, &(bytes.len() as u64).to_le_bytes());
        stable_write(HEADER_BYTES, &bytes);
        store.set_status(&Status {
            phase: Phase::Collecting,
            items: 0,
            processed: 0,
        });
        store.set_means(&Means::new(
            store.config.length as usize,
            store.config.centroids.len(),
        ));
        Ok(store)
    }

    /// Finds the state of an earlier version.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn open() -> Result<Self, String> {
        let mut magic = [0; 8];
        if stable_size() > 0 {
            stable_read(0, &mut magic);
        }
        if magic != MAGIC {
            return Err("stable memory holds no batches".into());
        }
        let config_bytes = read_u64(32);
        let config = candid::decode_one(&read_numbers::<u8>(HEADER_BYTES, config_bytes as usize));
        let config = config.map_err(|error| error.to_string())?;
        Ok(Self::lay_out(config, config_bytes))
    }

    fn lay_out(config: Config, config_bytes: u64) -> Self {
        let count = config.centroids.len() as u64;
        let means = (HEADER_BYTES + config_bytes).next_multiple_of(8);
        let counts = (means + count * u64::from(config.length) * 4).next_multiple_of(8);
        Self {
            items: counts + count * 8,
            counts,
            means,
            config,
        }
    }

    pub(crate) fn status(&self) -> Status {
        let phase = match read_u64(8) {
            0 => Phase::Collecting,
            1 => Phase::Working,
            _ => Phase::Done,
        };
        Status {
            phase,
            items: read_u64(16),
            processed: read_u64(24),
        }
    }

    pub(crate) fn set_status(&self, status: &Status) {
        let phase: u64 = match status.phase {
            Phase::Collecting => 0,
            Phase::Working => 1,
            Phase::Done => 2,
        };
        let words = [phase, status.items, status.processed];
        stable_write(8, &words.map(u64::to_le_bytes).concat());
    }

    pub(crate) fn means(&self) -> Means {
        let (length, count) = (self.config.length as usize, self.config.centroids.len());
        Means {
            length,
            values: read_numbers(self.means, length * count),
            counts: read_numbers(self.counts, count),
        }
    }

    pub(crate) fn set_means(&self, means: &Means) {
        stable_write(self.means, bytemuck::cast_slice(&means.values));
        stable_write(self.counts, bytemuck::cast_slice(&means.counts));
    }

    /// Writes vectors behind the first `items`.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn append(&self, items: u64, vectors: &[u8]) -> Result<(), String> {
        let vectors = vectors.chunks_exact(self.config.length as usize * 4);
        reserve(self.item(items + vectors.len() as u64))?;
        for (item, vector) in (items..).zip(vectors) {
            stable_write(self.item(item), blake3::hash(vector).as_bytes());
            stable_write(self.item(item) + HASH_BYTES as u64, vector);
        }
        Ok(())
    }

    /// Writes the order of the first `items`: that of their hashes. Equal ones are the same numbers.
    ///
    /// # Errors
    /// There is no room.
    pub(crate) fn sort(&self, items: u64) -> Result<(), String> {
        let mut order: Vec<([u8; HASH_BYTES], u32)> = (0..items)
            .map(|item| {
                let mut hash = [0; HASH_BYTES];
                stable_read(self.item(item), &mut hash);
                (hash, item as u32)
            })
            .collect();
        order.sort_unstable();
        let order: Vec<u32> = order.into_iter().map(|(_, item)| item).collect();
        reserve(self.item(items) + items * 4)?;
        stable_write(self.item(items), bytemuck::cast_slice(&order));
        Ok(())
    }

    /// Vectors `first..end` of the order, of `items`.
    pub(crate) fn vectors(&self, first: u64, end: u64, items: u64) -> Vec<f32> {
        let length = self.config.length as usize;
        let count = (end - first) as usize;
        let order: Vec<u32> = read_numbers(self.item(items) + first * 4, count);
        let mut vectors = vec![0_f32; count * length];
        for (vector, item) in vectors.chunks_exact_mut(length).zip(order) {
            let start = self.item(item.into()) + HASH_BYTES as u64;
            stable_read(start, bytemuck::cast_slice_mut(vector));
        }
        vectors
    }

    fn item(&self, item: u64) -> u64 {
        self.items + item * (HASH_BYTES as u64 + u64::from(self.config.length) * 4)
    }
}

/// Makes stable memory at least so long.
fn reserve(bytes: u64) -> Result<(), String> {
    let pages = bytes.div_ceil(WASM_PAGE_SIZE_IN_BYTES);
    let missing = pages.saturating_sub(stable_size());
    if missing > 0 {
        stable_grow(missing).map_err(|_| format!("no stable memory for {bytes} bytes"))?;
    }
    Ok(())
}

fn read_numbers<T: Pod>(offset: u64, count: usize) -> Vec<T> {
    let mut numbers = vec![T::zeroed(); count];
    stable_read(offset, bytemuck::cast_slice_mut(&mut numbers));
    numbers
}

fn read_u64(offset: u64) -> u64 {
    let mut bytes = [0; 8];
    stable_read(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}
