//! An application whose state is a hash chain over the blocks.
use bytes::Bytes;
use lockstep_subnet::{
    application::{Application, FinalizedBlock, Height, Payload, Proposal},
    consensus::simulation::SimulatedClock,
    state::Epochs,
};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

/// How the application waits while it has nothing to propose.
pub(crate) enum Idle {
    /// In virtual time.
    Simulated(SimulatedClock, Duration),
    /// In real time.
    Real(Duration),
}

/// See the module.
pub(crate) struct Toy {
    idle: Idle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    roots: Vec<[u8; 32]>,
    /// Where each root is appended before `execute` returns.
    file: Option<File>,
    pool: Vec<Bytes>,
    ordered: Vec<Bytes>,
    executions: u64,
    beacons: BTreeMap<Height, [u8; 48]>,
    certificates: BTreeMap<Height, ([u8; 32], [u8; 48])>,
    epochs: Arc<Epochs>,
}

impl Toy {
    /// Without durable state.
    pub(crate) fn volatile(idle: Idle) -> Self {
        Self {
            idle,
            state: Mutex::default(),
        }
    }

    /// With the roots that `path` holds, and more to come.
    pub(crate) fn durable(idle: Idle, path: &Path) -> Self {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(path)
            .unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        let (roots, torn) = bytes.as_chunks::<32>();
        assert!(torn.is_empty(), "whole roots are written");
        let state = State {
            roots: roots.to_vec(),
            file: Some(file),
            ..State::default()
        };
        Self {
            idle,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn roots(&self) -> Vec<[u8; 32]> {
        self.lock().roots.clone()
    }

    pub(crate) fn ordered(&self) -> Vec<Bytes> {
        self.lock().ordered.clone()
    }

    /// How many blocks this instance executed.
    pub(crate) fn executions(&self) -> u64 {
        self.lock().executions
    }

    pub(crate) fn certified_height(&self) -> Height {
        self.lock()
            .certificates
            .last_key_value()
            .map_or(0, |(height, _)| *height)
    }

    /// Checks every certificate against this application's roots and the subnet's key.
    pub(crate) fn check_certificates(&self, public_key: &[u8; 96]) {
        let state = self.lock();
        assert!(!state.certificates.is_empty(), "there are certificates");
        for (height, (root, signature)) in &state.certificates {
            assert_eq!(
                state.roots[*height as usize - 1],
                *root,
                "at height {height}"
            );
            let message = [b"\x0Dic-state-root".as_slice(), root].concat();
            ic_verify_bls_signature::verify_bls_signature(signature, &message, public_key)
                .unwrap_or_else(|()| panic!("the certificate at height {height} verifies"));
        }
    }

    /// Checks the signatures that blocks brought, and says how many.
    pub(crate) fn check_beacons(&self, public_key: &[u8; 96]) -> usize {
        let state = self.lock();
        for (height, signature) in &state.beacons {
            let root = state.roots[*height as usize - 1];
            let message = [b"\x0Dic-state-root".as_slice(), &root].concat();
            ic_verify_bls_signature::verify_bls_signature(signature, &message, public_key)
                .unwrap_or_else(|()| panic!("the beacon of height {height} verifies"));
        }
        state.beacons.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Application for Toy {
    fn propose(&self, parent_time_ns: u64) -> Proposal<'_> {
        Box::pin(async move {
            if self.lock().pool.is_empty() {
                match &self.idle {
                    Idle::Simulated(clock, interval) => clock.sleep(*interval).await,
                    Idle::Real(interval) if interval.is_zero() => {}
                    Idle::Real(interval) => tokio::time::sleep(*interval).await,
                }
            }
            Payload {
                time_ns: parent_time_ns + 1,
                messages: self.lock().pool.clone(),
                ..Payload::default()
            }
        })
    }

    fn verify(&self, parent_time_ns: u64, payload: &Payload) -> bool {
        payload.time_ns > parent_time_ns
    }

    fn epochs(&self) -> Arc<Epochs> {
        self.lock().epochs.clone()
    }

    fn protocol_version(&self) -> u64 {
        let state = self.lock();
        state.epochs.last().map_or(1, |last| last.protocol_version)
    }

    fn execute(&self, block: &FinalizedBlock) -> [u8; 32] {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(epochs) = state.epochs.after(block) {
            state.epochs = Arc::new(epochs);
        }
        assert_eq!(
            block.height,
            state.roots.len() as u64 + 1,
            "blocks come in order"
        );
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(state.roots.last().unwrap_or(&[0; 32]))
            .update(&block.digest);
        let root = *hasher.finalize().as_bytes();
        if let Some(file) = &mut state.file {
            file.write_all(&root).unwrap();
            file.sync_data().unwrap();
        }
        state
            .pool
            .retain(|message| !block.payload.messages.contains(message));
        for message in &block.payload.messages {
            if !state.ordered.contains(message) {
                state.ordered.push(message.clone());
            }
        }
        for beacon in &block.payload.beacons {
            assert!(
                beacon.height < block.height,
                "beacons are of heights before"
            );
            if beacon.height % 10 == 0 {
                state.beacons.insert(beacon.height, beacon.signature);
            }
        }
        state.roots.push(root);
        state.executions += 1;
        root
    }

    fn executed_height(&self) -> Height {
        self.lock().roots.len() as u64
    }

    fn root(&self, height: Height) -> Option<[u8; 32]> {
        self.lock()
            .roots
            .get(usize::try_from(height.checked_sub(1)?).ok()?)
            .copied()
    }

    /// Every tenth height, once a beacon is behind it.
    fn wanted_beacons(&self) -> Vec<Height> {
        let state = self.lock();
        let answered = state.beacons.last_key_value();
        let next = answered.map_or(10, |(height, _)| height + 10);
        (next <= state.roots.len() as u64)
            .then_some(next)
            .into_iter()
            .collect()
    }

    fn certified(&self, height: Height, root: [u8; 32], signature: [u8; 48]) {
        let mut state = self.lock();
        assert!(
            height <= state.roots.len() as u64,
            "certificates come after execution"
        );
        state.certificates.insert(height, (root, signature));
    }

    fn gossip(&self, message: Bytes) {
        let mut state = self.lock();
        if !state.pool.contains(&message) && !state.ordered.contains(&message) {
            state.pool.push(message);
        }
    }
}
