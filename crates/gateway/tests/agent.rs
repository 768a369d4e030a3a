//! The public agent, with every check on, against a one-node subnet without consensus.
use candid::{Decode, Encode};
use ic_agent::{Agent, AgentError, export::Principal, identity::BasicIdentity};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use ic_verify_bls_signature::PrivateKey;
use lockstep_canister::{engine::Engine, models::NoModels};
use lockstep_subnet::{
    application::{Application, FinalizedBlock},
    replica::{Replica, SystemClock},
    state::{Genesis, canister_id},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const COUNTER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "certified_data_set" (func $certify (param i32 i32)))
    (import "ic0" "data_certificate_size" (func $certificate_size (result i32)))
    (import "ic0" "data_certificate_copy" (func $certificate_copy (param i32 i32 i32)))
    (memory 1)
    (global $count (mut i32) (i32.const 0))
    (func (export "canister_update increment")
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (i32.store (i32.const 0) (global.get $count))
        (call $certify (i32.const 0) (i32.const 4))
        (call $append (i32.const 0) (i32.const 4))
        (call $reply))
    (func (export "canister_query read")
        (i32.store (i32.const 0) (global.get $count))
        (call $append (i32.const 0) (i32.const 4))
        (call $reply))
    (func (export "canister_query certificate")
        (call $certificate_copy (i32.const 0) (i32.const 0) (call $certificate_size))
        (call $append (i32.const 0) (call $certificate_size))
        (call $reply))
    (@custom "icp:public candid:service" "service : {}"))"#;

/// A replica whose own proposals become blocks at once.
struct Subnet {
    replica: Arc<Replica>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Drop for Subnet {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}

async fn subnet(directory: &Path) -> Subnet {
    let mut key = [0; 32];
    key[31] = 11;
    let key = PrivateKey::deserialize(&key).expect("eleven is a scalar");
    let node = ic_ed25519_public([4; 32]);
    let genesis =
        Genesis::new(&key.public_key().serialize(), &[node], BTreeMap::new()).expect("valid keys");
    let replica = Replica::open(
        &directory.join("state"),
        genesis,
        [4; 32],
        Arc::new(Engine::new()),
        Arc::new(NoModels),
        Arc::new(SystemClock),
    );
    let replica = Arc::new(replica.expect("the store can be used"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(lockstep_gateway::serve(
        listener,
        Arc::clone(&replica),
        std::future::pending(),
    ));
    let stop = Arc::new(AtomicBool::new(false));
    tokio::spawn(order(Arc::clone(&replica), key, Arc::clone(&stop)));
    replica.certified_after(0).await;
    Subnet {
        replica,
        address,
        stop,
    }
}

async fn order(replica: Arc<Replica>, key: PrivateKey, stop: Arc<AtomicBool>) {
    while !stop.load(SeqCst) {
        let height = replica.executed_height() + 1;
        let parent_ns = replica.executed().state.time_ns;
        let payload = replica.propose(parent_ns).await;
        assert!(
            replica.verify(parent_ns, &payload),
            "a replica accepts its own proposal"
        );
        let block = FinalizedBlock {
            height,
            digest: [0; 32],
            payload,
        };
        let executing = Arc::clone(&replica);
        let root = tokio::task::spawn_blocking(move || executing.execute(&block))
            .await
            .expect("it executes");
        let signature = key
            .sign(&[b"\x0Dic-state-root", &root[..]].concat())
            .serialize();
        Application::certified(replica.as_ref(), height, root, signature);
    }
}

/// The public key of an Ed25519 seed.
fn ic_ed25519_public(seed: [u8; 32]) -> [u8; 32] {
    ic_ed25519::PrivateKey::deserialize_raw_32(&seed)
        .public_key()
        .serialize_raw()
}

async fn agent(subnet: &Subnet, seed: u8) -> Agent {
    let agent = Agent::builder()
        .with_url(format!("http://{}", subnet.address))
        .with_identity(BasicIdentity::from_raw_key(&[seed; 32]))
        .with_verify_query_signatures(true)
        .build()
        .expect("an agent");
    agent
        .fetch_root_key()
        .await
        .expect("the status has the root key");
    assert_eq!(agent.read_root_key(), subnet.replica.genesis().root_key);
    agent
}

async fn install(agent: &Agent) -> Principal {
    let management = Principal::management_canister();
    let create = ProvisionalCreateCanisterWithCyclesArgs::default();
    let reply = agent
        .update(&management, "provisional_create_canister_with_cycles")
        .with_arg(Encode!(&create).expect("Candid"))
        .with_effective_canister_id(canister_id(0))
        .call_and_wait()
        .await
        .expect("it is created");
    let canister_id = Decode!(&reply, CanisterIdRecord)
        .expect("Candid")
        .canister_id;
    let wasm_module = wat::parse_str(COUNTER).expect("a module");
    let mode = CanisterInstallMode::Install;
    let install = InstallCodeArgs {
        mode,
        canister_id,
        wasm_module,
        arg: vec![],
        sender_canister_version: None,
    };
    agent
        .update(&management, "install_code")
        .with_arg(Encode!(&install).expect("Candid"))
        .with_effective_canister_id(canister_id)
        .call_and_wait()
        .await
        .expect("it is installed");
    canister_id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_creates_installs_calls_queries_and_reads() {
    let directory = tempfile::tempdir().expect("a directory");
    let subnet = subnet(directory.path()).await;
    let agent = agent(&subnet, 1).await;
    let canister = install(&agent).await;
    let reply = agent
        .update(&canister, "increment")
        .call_and_wait()
        .await
        .expect("it is answered");
    assert_eq!(reply, [1, 0, 0, 0]);
    let reply = agent
        .query(&canister, "read")
        .call()
        .await
        .expect("it is answered and signed");
    assert_eq!(reply, [1, 0, 0, 0]);
    let hash = agent
        .read_state_canister_module_hash(canister)
        .await
        .expect("it is certified");
    assert_eq!(hash.len(), 32);
    let metadata = agent
        .read_state_canister_metadata(canister, "candid:service")
        .await
        .expect("it is public");
    assert_eq!(metadata, b"service : {}");
    let controllers = agent
        .read_state_canister_controllers(canister)
        .await
        .expect("it is certified");
    assert_eq!(controllers, [agent.get_principal().expect("an identity")]);
    let certificate = agent
        .query(&canister, "certificate")
        .call()
        .await
        .expect("it is answered");
    let certificate: ic_agent::Certificate =
        serde_cbor::from_slice(&certificate).expect("a certificate");
    agent
        .verify(&certificate, canister)
        .expect("the data certificate is signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_sees_rejections_with_their_codes() {
    let directory = tempfile::tempdir().expect("a directory");
    let subnet = subnet(directory.path()).await;
    let owner = agent(&subnet, 1).await;
    let canister = install(&owner).await;
    let absent = owner
        .update(&canister_id(5), "read")
        .call_and_wait()
        .await
        .expect_err("it does not exist");
    let AgentError::UncertifiedReject { reject, .. } = absent else {
        panic!("not ordered: {absent:?}")
    };
    assert_eq!(reject.error_code.as_deref(), Some("IC0301"));
    let absent = owner
        .update(&canister, "nothing")
        .call_and_wait()
        .await
        .expect_err("there is no such method");
    let AgentError::CertifiedReject { reject, .. } = absent else {
        panic!("certified: {absent:?}")
    };
    assert_eq!(reject.error_code.as_deref(), Some("IC0536"));
    let absent = owner
        .query(&canister, "nothing")
        .call()
        .await
        .expect_err("there is no such method");
    let AgentError::UncertifiedReject { reject, .. } = absent else {
        panic!("signed: {absent:?}")
    };
    assert_eq!(reject.error_code.as_deref(), Some("IC0536"));
    let stranger = agent(&subnet, 2).await;
    let refused = stranger
        .update(&Principal::management_canister(), "stop_canister")
        .with_arg(
            Encode!(&CanisterIdRecord {
                canister_id: canister
            })
            .expect("Candid"),
        )
        .with_effective_canister_id(canister)
        .call_and_wait()
        .await
        .expect_err("a stranger");
    let AgentError::UncertifiedReject { reject, .. } = refused else {
        panic!("not ordered: {refused:?}")
    };
    assert_eq!(reject.error_code.as_deref(), Some("IC0512"));
}

/// Sends a request as it is and returns status line, headers and body.
async fn plain(subnet: &Subnet, request: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(subnet.address)
        .await
        .expect("it listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut response = Vec::new();
    stream
        .read_to_end(&mut response)
        .await
        .expect("it answers and closes");
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_a_status_and_a_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let subnet = subnet(directory.path()).await;
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let answer = plain(&subnet, &post("/api/v3/canister/aaaaa-aa/query", "nothing")).await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("not a CBOR envelope"),
        "{answer}"
    );
    let answer = plain(&subnet, &post("/api/v4/canister/nobody/call", "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("does not hold a principal"),
        "{answer}"
    );
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let answer = plain(&subnet, &get("/_/lockstep/status")).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"certified_height\":"),
        "{answer}"
    );
    assert!(
        answer
            .to_lowercase()
            .contains("access-control-allow-origin: *"),
        "{answer}"
    );
}
