//! A subnet in one call stack, for tests of canisters.
//!
//! # Design
//! [`Subnet`] executes blocks as a replica does, with the same code, but without consensus,
//! certificates, storage, clocks and signatures: every sender is believed, `raw_rand` is predictable, time is set by hand, and a
//! call returns when it is answered.
//!
//! ```
//! use lockstep_driver::Subnet;
//! use ic_principal::Principal;
//!
//! let wasm = wat::parse_str(
//!     r#"(module
//!         (import "ic0" "msg_reply" (func $reply))
//!         (func (export "canister_update go") (call $reply)))"#,
//! )?;
//! let mut subnet = Subnet::new();
//! let canister = subnet.create_canister();
//! subnet.install(canister, &wasm, b"")?;
//! assert_eq!(subnet.update(canister, Principal::anonymous(), "go", b"")?, b"");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
mod management;
pub mod script;
pub mod workload;

use bytes::Bytes;
use ic_principal::Principal;
use ic_transport_types::{Envelope, EnvelopeContent};
use lockstep_canister::{
    engine::{Cycles, Engine, Instructions},
    models::NoModels,
};
pub use lockstep_subnet::state::{Reject, Status};
use lockstep_subnet::{
    application::{Beacon, FinalizedBlock, Height, Payload},
    execution::{self, Unfinished, UserQuery},
    ingress::{Ingress, RequestId},
    state::{Canister, Genesis, Message, ReplicatedState},
    tree::state::state_tree,
};
use std::{
    borrow::Cow, cell::RefCell, collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration,
};

/// Time of a new subnet, nanoseconds since 1970: 6 May 2021.
pub const START_NS: u64 = 1_620_328_630_000_000_000;
/// How long a call stays valid.
const EXPIRY_NS: u64 = 240_000_000_000;
/// Most blocks that a call or [`Subnet::settle`] waits for.
const BLOCKS_MAX: usize = 1_000;

/// A call that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId([u8; 32]);

/// A line that a canister printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// Which one.
    pub canister: Principal,
    /// The line.
    pub text: String,
}

/// A subnet.
#[derive(Debug)]
pub struct Subnet {
    state: ReplicatedState,
    engine: Engine,
    unfinished: Unfinished,
    time_ns: u64,
    tick_ns: u64,
    nonce: u64,
    with_beacons: bool,
    waiting: Vec<Bytes>,
    /// Queries print, too, and change nothing.
    printed: RefCell<Vec<Printed>>,
}

impl Default for Subnet {
    fn default() -> Self {
        Self::new()
    }
}

impl Subnet {
    /// A subnet without canisters, of one node, at [`START_NS`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_engine(Engine::new())
    }

    /// As [`Self::new`], working on so many threads. Nothing may depend on it.
    #[must_use]
    pub fn on_threads(threads: NonZeroUsize) -> Self {
        Self::with_engine(Engine::new().on_threads(threads))
    }

    /// As [`Self::new`], on an engine that was made before: compiled modules can be shared.
    ///
    /// # Panics
    /// Never: the keys are fixed.
    #[must_use]
    pub fn with_engine(engine: Engine) -> Self {
        let genesis = Genesis::new(&[0; 96], &[NODE_KEY], BTreeMap::new());
        Self::with_genesis(engine, genesis.expect("fixed keys"))
    }

    /// As [`Self::with_engine`], with other parameters of the subnet.
    #[must_use]
    pub fn with_genesis(engine: Engine, genesis: Genesis) -> Self {
        Self {
            state: ReplicatedState::new(Arc::new(genesis)),
            engine,
            unfinished: Unfinished::new(Arc::new(NoModels)),
            time_ns: START_NS,
            tick_ns: 1,
            nonce: 0,
            with_beacons: true,
            waiting: Vec::new(),
            printed: RefCell::default(),
        }
    }

    /// The time of the next block, nanoseconds since 1970.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Lets time pass; deadlines and timers notice at the next block.
    pub fn advance_time(&mut self, by: Duration) {
        let by_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.time_ns = self.time_ns.saturating_add(by_ns);
    }

    /// Sets by how much the time advances with each block; a nanosecond at first.
    pub fn set_block_time(&mut self, by: Duration) {
        self.tick_ns = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX).max(1);
    }

    /// Executes a block with the calls that were submitted. Returns the instructions of its time.
    ///
    /// # Panics
    /// When the machine cannot go on, see [`Engine::execute`].
    pub fn tick(&mut self) -> Instructions {
        let block = FinalizedBlock {
            height: self.state.height + 1,
            digest: [0; 32],
            payload: Payload {
                time_ns: self.time_ns,
                messages: std::mem::take(&mut self.waiting),
                beacons: self.beacons(),
                switch: None,
            },
        };
        let outcome = execution::execute(&self.state, &block, &self.engine, &mut self.unfinished);
        let outcome = outcome.expect("without models nothing halts");
        self.state = outcome.state;
        let lines = outcome.printed.into_iter();
        let lines = lines.map(|(canister, text)| Printed { canister, text });
        self.printed.get_mut().extend(lines);
        self.time_ns = self.time_ns.saturating_add(self.tick_ns);
        outcome.instructions
    }

    /// Sets whether blocks bring the signatures that `raw_rand` waits for.
    pub fn set_beacons(&mut self, with_beacons: bool) {
        self.with_beacons = with_beacons;
    }

    fn beacons(&self) -> Vec<Beacon> {
        let wanted = self.state.randomness.wanted();
        let brought = wanted.filter(|_| self.with_beacons);
        brought.map(beacon).collect()
    }

    /// Forgets what a replica keeps between blocks and can make again, as if it had been restarted.
    pub fn forget(&mut self) {
        self.unfinished.clear();
    }

    /// Executes blocks until no message is under way, or 1,000 blocks have passed.
    pub fn settle(&mut self) {
        for _ in 0..BLOCKS_MAX {
            if self.is_settled() {
                return;
            }
            self.tick();
        }
    }

    /// Whether no message is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let mut canisters = self.state.canisters().values();
        self.waiting.is_empty()
            && self.state.queue.is_empty()
            && canisters.all(|canister| canister.ledger.callbacks.is_empty() && !canister.is_busy())
    }

    /// Sends a call; it is taken in by the next block.
    ///
    /// # Panics
    /// The call is longer than [`lockstep_subnet::ingress::MESSAGE_BYTES_MAX`].
    pub fn submit(
        &mut self,
        canister: Principal,
        sender: Principal,
        method: &str,
        argument: &[u8],
    ) -> MessageId {
        self.nonce += 1;
        let content = EnvelopeContent::Call {
            nonce: Some(self.nonce.to_be_bytes().to_vec()),
            ingress_expiry: self.time_ns.saturating_add(EXPIRY_NS),
            sender,
            canister_id: canister,
            method_name: method.into(),
            arg: argument.to_vec(),
            sender_info: None,
        };
        let envelope = Envelope {
            content: Cow::Owned(content),
            sender_pubkey: None,
            sender_sig: None,
            sender_delegation: None,
        };
        let bytes = Bytes::from(envelope.encode_bytes());
        let call = Ingress::decode(&bytes).expect("a call that is not too long");
        self.waiting.push(bytes);
        MessageId(*call.id)
    }

    /// How far a call has come; `None` before the block that takes it in, and after it is forgotten.
    #[must_use]
    pub fn status(&self, id: MessageId) -> Option<&Status> {
        let answer = self.state.history.get(&RequestId::new(&id.0))?;
        Some(&answer.status)
    }

    /// Executes blocks until a call is answered; `None` when it is not within 1,000 of them.
    pub fn try_wait(&mut self, id: MessageId) -> Option<Result<Vec<u8>, Reject>> {
        for _ in 0..BLOCKS_MAX {
            match self.status(id) {
                Some(Status::Replied(reply)) => return Some(Ok(reply.clone())),
                Some(Status::Rejected(reject)) => return Some(Err(reject.clone())),
                _ => self.tick(),
            };
        }
        None
    }

    /// Executes blocks until a call is answered.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// When it is not answered within 1,000 blocks.
    pub fn wait(&mut self, id: MessageId) -> Result<Vec<u8>, Reject> {
        self.try_wait(id)
            .unwrap_or_else(|| panic!("the call is not answered after {BLOCKS_MAX} blocks"))
    }

    /// Sends a call and executes blocks until it is answered.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// As [`Self::submit`] and [`Self::wait`].
    pub fn update(
        &mut self,
        canister: Principal,
        sender: Principal,
        method: &str,
        argument: &[u8],
    ) -> Result<Vec<u8>, Reject> {
        let id = self.submit(canister, sender, method, argument);
        self.wait(id)
    }

    /// Answers a query from the state after the last block.
    ///
    /// # Errors
    /// The rejection.
    pub fn query(
        &self,
        canister: Principal,
        sender: Principal,
        method: &str,
        argument: &[u8],
    ) -> Result<Vec<u8>, Reject> {
        let asked = UserQuery {
            canister: &canister,
            sender: &sender,
            sender_info: None,
            method,
            argument,
            certificate: None,
        };
        let (result, lines) = execution::query(&self.state, &self.engine, asked);
        let printed = lines.into_iter().map(|text| Printed { canister, text });
        self.printed.borrow_mut().extend(printed);
        result
    }

    /// A canister's state.
    #[must_use]
    pub fn canister(&self, id: Principal) -> Option<&Canister> {
        self.state.canisters().get(&id).map(Arc::as_ref)
    }

    /// A canister's balance; 0 when there is none.
    #[must_use]
    pub fn cycles(&self, id: Principal) -> Cycles {
        self.canister(id)
            .map_or(0, |canister| canister.state.cycles)
    }

    /// Every cycle there is: in balances, on the way, kept for answers, and consumed. Blocks change it by what
    /// the management canister makes out of nothing, and by nothing else.
    #[must_use]
    pub fn all_cycles(&self) -> Cycles {
        let of_canister = |canister: &Arc<Canister>| {
            let ledger = &canister.ledger;
            let unaccepted: Cycles = ledger.contexts.values().map(|context| context.cycles).sum();
            let stopping: Cycles = ledger.stop_calls.iter().map(|call| call.cycles).sum();
            let prepaid: Cycles = ledger.callbacks.values().map(|call| call.prepaid).sum();
            let kept = unaccepted + stopping + prepaid;
            canister.state.cycles + kept + ledger.consumed.total()
        };
        let under_way = |message: &Arc<Message>| match message.as_ref() {
            Message::Ingress(_) => 0,
            Message::Request(request) => request.cycles,
            Message::Response(response) => response.refund,
        };
        let canisters: Cycles = self.state.canisters().values().map(of_canister).sum();
        let messages: Cycles = self.state.queue.values().map(under_way).sum();
        let waiting = self.state.randomness.waiting();
        let drawings: Cycles = waiting.map(|call| call.cycles).sum();
        canisters + messages + drawings + self.state.metrics.consumed_by_deleted
    }

    /// The whole state.
    #[must_use]
    pub fn state(&self) -> &ReplicatedState {
        &self.state
    }

    /// What a certificate would cover.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        *state_tree(&self.state).digest()
    }

    /// Takes the lines that canisters have printed so far.
    pub fn take_printed(&self) -> Vec<Printed> {
        self.printed.take()
    }
}

/// What stands for the subnet's signature of a height: execution does not verify it.
fn beacon(height: Height) -> Beacon {
    let mut signature = [0; 48];
    signature[..8].copy_from_slice(&height.to_le_bytes());
    Beacon { height, signature }
}

/// The public key of a node with the Ed25519 seed 0.
const NODE_KEY: [u8; 32] = [
    0x3b, 0x6a, 0x27, 0xbc, 0xce, 0xb6, 0xa4, 0x2d, 0x62, 0xa3, 0xa8, 0xd0, 0x2a, 0x6f, 0x0d, 0x73,
    0x65, 0x32, 0x15, 0x77, 0x1d, 0xe2, 0x43, 0xa6, 0x3a, 0xc0, 0x48, 0xa1, 0x8b, 0x59, 0xda, 0x29,
];
