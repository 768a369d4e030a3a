//! Transfers on a ledger, from several clients at once, each until it is acknowledged.
use crate::fleet::Fleet;
use candid::{CandidType, Decode, Encode, Nat, Principal};
use ic_agent::{Agent, Identity as _, agent::CallResponse, identity::BasicIdentity};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time};

const CLIENTS: u8 = 4;
const INITIAL: u64 = 1_000_000_000;
const FEE: u64 = 10;
/// Guards the test run; judges nothing.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a call may wait and a certificate is young enough: a little less than the most that nodes take.
const EXPIRY: Duration = Duration::from_secs(280);
/// How long one node is asked before another is.
const ATTEMPT: Duration = Duration::from_secs(10);

#[derive(CandidType, Deserialize, Clone)]
struct Account {
    owner: Principal,
    subaccount: Option<ByteBuf>,
}

#[derive(CandidType)]
struct Config {
    name: String,
    symbol: String,
    decimals: u8,
    fee: Nat,
    minting_account: Account,
    initial_balances: Vec<(Account, Nat)>,
    recent_max: Option<u32>,
}

/// Without a time of creation: the ledger itself tells no duplicates, so that a call executed twice shows.
#[derive(CandidType)]
struct TransferArgs {
    from_subaccount: Option<ByteBuf>,
    to: Account,
    amount: Nat,
    fee: Option<Nat>,
    memo: Option<ByteBuf>,
    created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize, Debug)]
enum TransferError {
    BadFee { expected_fee: Nat },
    BadBurn { min_burn_amount: Nat },
    InsufficientFunds { balance: Nat },
    TooOld,
    CreatedInFuture { ledger_time: u64 },
    Duplicate { duplicate_of: Nat },
    TemporarilyUnavailable,
    GenericError { error_code: Nat, message: String },
}

/// A ledger on a fleet, and what its clients know.
pub(crate) struct Ledger {
    fleet: Arc<Fleet>,
    canister: Principal,
    /// Transfers that were acknowledged.
    acknowledged: AtomicU64,
    /// What they have moved in all.
    moved: AtomicU64,
    /// The numbers that the ledger gave them.
    numbers: Mutex<BTreeSet<u64>>,
    ends: AtomicBool,
}

impl Ledger {
    /// Installs `wasm`.
    pub(crate) async fn install(fleet: &Arc<Fleet>, wasm: &[u8]) -> Arc<Self> {
        let agent = agent(fleet, 0).expect("all nodes run");
        let management = Principal::management_canister();
        let reply = agent
            .update(&management, "provisional_create_canister_with_cycles")
            .with_effective_canister_id(Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]))
            .with_arg(Encode!(&ProvisionalCreateCanisterWithCyclesArgs::default()).expect("Candid"))
            .call_and_wait()
            .await
            .expect("it is created");
        let canister = Decode!(&reply, CanisterIdRecord)
            .expect("Candid")
            .canister_id;
        let config = Config {
            name: "Test".into(),
            symbol: "TST".into(),
            decimals: 8,
            fee: FEE.into(),
            minting_account: account(255),
            initial_balances: (1..=CLIENTS)
                .map(|client| (account(client), INITIAL.into()))
                .collect(),
            recent_max: None,
        };
        let install = InstallCodeArgs {
            mode: CanisterInstallMode::Install,
            canister_id: canister,
            wasm_module: wasm.to_vec(),
            arg: Encode!(&config).expect("Candid"),
            sender_canister_version: None,
        };
        agent
            .update(&management, "install_code")
            .with_effective_canister_id(canister)
            .with_arg(Encode!(&install).expect("Candid"))
            .call_and_wait()
            .await
            .expect("it is installed");
        Arc::new(Self {
            fleet: Arc::clone(fleet),
            canister,
            acknowledged: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            numbers: Mutex::default(),
            ends: AtomicBool::new(false),
        })
    }

    /// Starts the clients.
    pub(crate) async fn load(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let clients = (1..=CLIENTS).map(|client| tokio::spawn(Arc::clone(self).work(client)));
        clients.collect()
    }

    /// Lets every client finish what it is at.
    pub(crate) async fn finish(&self, clients: Vec<JoinHandle<()>>) {
        self.ends.store(true, SeqCst);
        for client in clients {
            client.await.expect("no client gave up");
        }
    }

    /// Waits until `count` more transfers are acknowledged.
    pub(crate) async fn progress(&self, count: u64) {
        let goal = self.acknowledged() + count;
        let reached = async {
            while self.acknowledged() < goal {
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        let reached = time::timeout(PATIENCE, reached).await;
        reached.expect("calls are answered");
    }

    /// How many transfers were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    /// Checks at every node that what was acknowledged is there, once.
    pub(crate) async fn check(self: &Arc<Self>) {
        let all: Vec<usize> = (0..self.fleet.count()).collect();
        self.check_at_all(&all).await;
    }

    /// The same at some of them.
    pub(crate) async fn check_at_all(self: &Arc<Self>, nodes: &[usize]) {
        let acknowledged = self.acknowledged();
        let numbers = self.numbers.lock().expect("no client panicked").clone();
        assert_eq!(
            numbers.len() as u64,
            acknowledged,
            "no number was given twice"
        );
        assert_eq!(
            numbers.last().copied(),
            acknowledged.checked_sub(1),
            "nor one to nobody"
        );
        let nodes = nodes
            .iter()
            .map(|node| tokio::spawn(Arc::clone(self).check_at(*node)));
        for node in nodes.collect::<Vec<_>>() {
            node.await.expect("the balances are right");
        }
    }

    async fn check_at(self: Arc<Self>, node: usize) {
        let (acknowledged, moved) = (self.acknowledged(), self.moved.load(SeqCst));
        let agent = agent(&self.fleet, node).expect("all nodes run");
        let mut left = 0;
        for client in 1..=CLIENTS {
            left += self.balance(&agent, client).await;
        }
        let received = self.balance(&agent, 0).await;
        assert_eq!(received, moved, "node {node}");
        assert_eq!(
            left,
            u64::from(CLIENTS) * INITIAL - moved - FEE * acknowledged,
            "node {node}"
        );
    }

    async fn balance(&self, agent: &Agent, number: u8) -> u64 {
        let reply = agent
            .update(&self.canister, "icrc1_balance_of")
            .with_arg(Encode!(&account(number)).expect("Candid"))
            .call_and_wait()
            .await
            .expect("it is answered");
        let balance = Decode!(&reply, Nat).expect("Candid");
        balance.0.try_into().expect("it is small")
    }

    async fn work(self: Arc<Self>, client: u8) {
        let mut turn = 0;
        while !self.ends.load(SeqCst) {
            turn += 1;
            let number = self.transfer(client, turn).await;
            let fresh = self
                .numbers
                .lock()
                .expect("no client panicked")
                .insert(number);
            assert!(fresh, "the ledger numbers a transfer twice: {number}");
            self.moved.fetch_add(turn, SeqCst);
            self.acknowledged.fetch_add(1, SeqCst);
        }
    }

    /// One call, sent to one node after the other until it is answered with a certificate: the same bytes each
    /// time, so that it is the same call.
    async fn transfer(&self, client: u8, amount: u64) -> u64 {
        let signer = offline(self.fleet.root_key());
        let args = TransferArgs {
            from_subaccount: account(client).subaccount,
            to: account(0),
            amount: amount.into(),
            fee: None,
            memo: Some(ByteBuf::from(memo(client, amount))),
            created_at_time: None,
        };
        let signed = signer
            .update(&self.canister, "icrc1_transfer")
            .with_arg(Encode!(&args).expect("Candid"))
            .sign()
            .expect("it is signed");
        for attempt in 0.. {
            let node = (usize::from(client) + attempt) % self.fleet.count();
            let Some(agent) = agent(&self.fleet, node) else {
                time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let answer = async {
                match agent
                    .update_signed(self.canister, signed.signed_update.clone())
                    .await?
                {
                    CallResponse::Response(reply) => Ok(reply),
                    CallResponse::Poll(id) => Ok(agent.wait(&id, self.canister).await?.0),
                }
            };
            // A node that was killed meanwhile answers with an error or not at all.
            let answer: Result<Result<Vec<u8>, ic_agent::AgentError>, _> =
                time::timeout(ATTEMPT, answer).await;
            if let Ok(Ok(reply)) = answer {
                let number = Decode!(&reply, Result<Nat, TransferError>).expect("Candid");
                let number = number.expect("the ledger accepts it");
                return number.0.try_into().expect("it is small");
            }
        }
        unreachable!("there is always another attempt")
    }
}

/// The ledger's module, or nothing where there is no such toolchain.
pub(crate) fn ledger_wasm() -> Option<Vec<u8>> {
    let (manifest, target) = ("canisters/Cargo.toml", "wasm32-unknown-unknown");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("canisters");
    let products = lockstep_guests::build_in(manifest, target, "ledger", &["build"], &folder)?;
    Some(std::fs::read(products.join("ledger.wasm")).expect("it was just built"))
}

/// Held by a test as long as it runs: two fleets at once would make both slow.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands in a transfer and nowhere else.
pub(crate) fn memo(client: u8, amount: u64) -> Vec<u8> {
    format!("transfer {amount:08} of client {client:03}").into_bytes()
}

fn account(number: u8) -> Account {
    Account {
        owner: identity().sender().expect("it has a principal"),
        subaccount: (number > 0).then(|| ByteBuf::from([number; 32])),
    }
}

fn identity() -> BasicIdentity {
    BasicIdentity::from_raw_key(&[7; 32])
}

/// An agent of a node that serves clients.
fn agent(fleet: &Fleet, node: usize) -> Option<Agent> {
    Some(build(&fleet.url(node)?, fleet.root_key()))
}

/// An agent that signs and sends nothing.
fn offline(root_key: &[u8]) -> Agent {
    build("http://127.0.0.1:1", root_key)
}

fn build(url: &str, root_key: &[u8]) -> Agent {
    let agent = Agent::builder()
        .with_url(url)
        .with_identity(identity())
        .with_verify_query_signatures(true)
        .with_ingress_expiry(EXPIRY)
        .build()
        .expect("an agent");
    agent.set_root_key(root_key.to_vec());
    agent
}
