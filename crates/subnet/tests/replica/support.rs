//! A subnet of replicas without consensus: blocks are made here and certified with one key.
use bytes::Bytes;
use candid::{CandidType, Decode, Encode};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use ic_principal::Principal;
use ic_transport_types::{Envelope, EnvelopeContent};
use ic_verify_bls_signature::PrivateKey;
use lockstep_canister::{
    engine::Engine,
    models::{Generation, GenerationError, ModelHost, Work},
    session::{Ended, GenerationRequest, ModelDigest, Progress},
};
use lockstep_subnet::{
    application::{Application, FinalizedBlock, Payload},
    replica::{Clock, Replica, StoreError, SystemClock},
    state::{Genesis, Status, canister_id},
};
use std::{
    borrow::Cow, collections::BTreeMap, future::Future, path::Path, pin::Pin, sync::Arc,
    time::Duration,
};

/// Seed of the only node's key.
const NODE_KEY: [u8; 32] = [3; 32];
/// Time of the first block.
pub(crate) const START_NS: u64 = 1_700_000_000_000_000_000;
/// A session's work per token.
const TOKEN_WORK: Work = 250_000_000;
/// Tokens after which the fake text ends.
const TOKENS_MAX: usize = 20;

/// Counts updates in a global and in memory, and runs sessions.
pub(crate) const CANISTER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (import "ic0" "trap" (func $trap (param i32 i32)))
    (import "ic0" "stable_grow" (func $stable_grow (param i32) (result i32)))
    (import "ic0" "stable_write" (func $stable_write (param i32 i32 i32)))
    (import "ic0" "certified_data_set" (func $certify (param i32 i32)))
    (import "lockstep" "model_open" (func $open (param i32 i32) (result i64)))
    (import "lockstep" "session_start" (func $start (param i64 i32 i32 i64 i32) (result i64)))
    (import "lockstep" "session_advance" (func $advance (param i64 i32) (result i32)))
    (memory 2)
    (global $count (mut i32) (i32.const 0))
    (data (i32.const 100) "toyno")
    (func (export "canister_init") (drop (call $stable_grow (i32.const 1))))
    (func (export "canister_update increment")
        (global.set $count (i32.add (global.get $count) (i32.const 1)))
        (i32.store (i32.const 70000) (global.get $count))
        (call $stable_write (i32.const 0) (i32.const 70000) (i32.const 4))
        (call $certify (i32.const 70000) (i32.const 4))
        (call $append (i32.const 70000) (i32.const 4))
        (call $reply))
    (func (export "canister_query read")
        (i32.store (i32.const 0) (global.get $count))
        (call $append (i32.const 0) (i32.const 4))
        (call $reply))
    (func (export "canister_update fail") 
        (i32.store (i32.const 70000) (i32.const 77))
        (call $trap (i32.const 100) (i32.const 3)))
    (func (export "canister_update generate")
        (drop (call $advance
            (call $start (call $open (i32.const 100) (i32.const 3)) (i32.const 100) (i32.const 3) (i64.const 7) (i32.const 0))
            (i32.const 9)))
        (call $reply))
    ;; Starts a session, and goes on for more than a million instructions.
    (func (export "canister_update think") (local $i i32)
        (drop (call $advance
            (call $start (call $open (i32.const 100) (i32.const 3)) (i32.const 100) (i32.const 3) (i64.const 8) (i32.const 0))
            (i32.const 9)))
        (loop $next
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $i) (i32.const 300000))))
        (global.set $count (i32.add (global.get $count) (i32.const 100)))
        (call $reply))
    (func (export "canister_update refused")
        (drop (call $advance
            (call $start (call $open (i32.const 100) (i32.const 3)) (i32.const 103) (i32.const 2) (i64.const 7) (i32.const 0))
            (i32.const 9)))
        (call $reply)))"#;

/// Generates numbers whose every token takes [`TOKEN_WORK`]; refuses the prompt `no`.
#[derive(Debug)]
pub(crate) struct ToyModel;

struct ToyGeneration {
    progress: Progress,
}

impl ModelHost for ToyModel {
    fn start(
        &self,
        _model: &ModelDigest,
        request: &GenerationRequest,
        progress: &Progress,
    ) -> Result<Box<dyn Generation>, GenerationError> {
        match request.prompt.as_str() {
            "no" => Err(GenerationError::Rejected("the prompt is refused".into())),
            _ => Ok(Box::new(ToyGeneration {
                progress: progress.clone(),
            })),
        }
    }
}

impl Generation for ToyGeneration {
    fn advance(&mut self, permitted_tokens: u32, budget: Work) -> Result<Work, GenerationError> {
        let mut done = 0;
        while done < budget
            && self.progress.tokens.len() < permitted_tokens as usize
            && self.progress.ended.is_none()
        {
            let token = self.progress.tokens.len() as u32;
            self.progress.tokens.push(token);
            self.progress.text.push(b'a' + token as u8);
            self.progress.work += TOKEN_WORK;
            done += TOKEN_WORK;
            if self.progress.tokens.len() == TOKENS_MAX {
                self.progress.ended = Some(Ended::EndOfText);
            }
        }
        Ok(done)
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }
}

/// The key that certifies.
pub(crate) fn root_key() -> PrivateKey {
    let mut bytes = [0; 32];
    bytes[31] = 5;
    PrivateKey::deserialize(&bytes).expect("five is a scalar")
}

pub(crate) fn genesis() -> Genesis {
    let node = ic_ed25519::PrivateKey::deserialize_raw_32(&NODE_KEY)
        .public_key()
        .serialize_raw();
    let models = BTreeMap::from([("toy".to_owned(), ModelDigest([9; 32]))]);
    Genesis::new(&root_key().public_key().serialize(), &[node], models).expect("the keys are valid")
}

pub(crate) fn open_as(path: &Path, genesis: Genesis) -> Result<Replica, StoreError> {
    open_with(path, genesis, Arc::new(SystemClock))
}

fn open_with(path: &Path, genesis: Genesis, clock: Arc<dyn Clock>) -> Result<Replica, StoreError> {
    let engine = Arc::new(Engine::new());
    Replica::open(path, genesis, NODE_KEY, engine, Arc::new(ToyModel), clock)
}

/// A clock that stands at the time of the first block.
struct StoppedClock;

impl Clock for StoppedClock {
    fn now_ns(&self) -> u64 {
        START_NS
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

/// A replica whose clock stands at [`START_NS`].
pub(crate) fn open_stopped(path: &Path) -> Replica {
    open_with(path, genesis(), Arc::new(StoppedClock)).expect("the store can be used")
}

pub(crate) fn open(path: &Path) -> Replica {
    open_as(path, genesis()).expect("the store can be used")
}

/// The block at `height` with these calls.
pub(crate) fn block(height: u64, messages: Vec<Bytes>) -> FinalizedBlock {
    let payload = Payload {
        time_ns: START_NS + height * 1_000_000_000,
        messages,
        ..Payload::default()
    };
    FinalizedBlock {
        height,
        digest: [height as u8; 32],
        payload,
    }
}

/// Executes the next block.
pub(crate) fn step(replica: &Replica, messages: Vec<Bytes>) -> [u8; 32] {
    replica.execute(&block(replica.executed_height() + 1, messages))
}

pub(crate) fn certify(replica: &Replica) {
    let executed = replica.executed();
    let root = *executed.tree.digest();
    let signature = root_key()
        .sign(&[b"\x0Dic-state-root", &root[..]].concat())
        .serialize();
    Application::certified(replica, executed.state.height, root, signature);
}

/// An anonymous call, told from others by `nonce`.
pub(crate) fn call(canister: Principal, method: &str, arg: Vec<u8>, nonce: u64) -> Bytes {
    let content = EnvelopeContent::Call {
        nonce: Some(nonce.to_be_bytes().to_vec()),
        ingress_expiry: START_NS + 240_000_000_000,
        sender: Principal::anonymous(),
        canister_id: canister,
        method_name: method.into(),
        arg,
        sender_info: None,
    };
    envelope(content)
}

pub(crate) fn envelope(content: EnvelopeContent) -> Bytes {
    let content = Cow::Owned(content);
    Envelope {
        content,
        sender_pubkey: None,
        sender_sig: None,
        sender_delegation: None,
    }
    .encode_bytes()
    .into()
}

/// A call with a signature by a key, told from others by its expiry.
pub(crate) fn signed_call(
    key: &ic_ed25519::PrivateKey,
    canister: Principal,
    expiry_ns: u64,
) -> Envelope<'static> {
    let public_key = key.public_key().serialize_rfc8410_der();
    let content = EnvelopeContent::Call {
        nonce: None,
        ingress_expiry: expiry_ns,
        sender: Principal::self_authenticating(&public_key),
        canister_id: canister,
        method_name: "increment".into(),
        arg: vec![],
        sender_info: None,
    };
    let signature = key.sign_message(&content.to_request_id().signable());
    Envelope {
        content: Cow::Owned(content),
        sender_pubkey: Some(public_key),
        sender_sig: Some(signature.to_vec()),
        sender_delegation: None,
    }
}

fn management(method: &str, argument: &impl CandidType, nonce: u64) -> Bytes {
    call(
        Principal::management_canister(),
        method,
        Encode!(argument).expect("Candid"),
        nonce,
    )
}

/// Calls that create the canister `index` and install [`CANISTER`].
pub(crate) fn installation(index: u64) -> (Principal, Vec<Bytes>) {
    let id = canister_id(index);
    let create = ProvisionalCreateCanisterWithCyclesArgs {
        specified_id: Some(id),
        ..Default::default()
    };
    let create = management("provisional_create_canister_with_cycles", &create, index);
    (
        id,
        vec![
            create,
            install(id, CanisterInstallMode::Install, CANISTER, index),
        ],
    )
}

pub(crate) fn install(
    canister_id: Principal,
    mode: CanisterInstallMode,
    wat: &str,
    nonce: u64,
) -> Bytes {
    let wasm_module = wat::parse_str(wat).expect("the text is a module");
    let install = InstallCodeArgs {
        mode,
        canister_id,
        wasm_module,
        arg: vec![],
        sender_canister_version: None,
    };
    management("install_code", &install, nonce)
}

pub(crate) fn status_call(canister_id: Principal, nonce: u64) -> Bytes {
    management("canister_status", &CanisterIdRecord { canister_id }, nonce)
}

/// What became of a call.
pub(crate) fn answer(replica: &Replica, call: &Bytes) -> Status {
    let id = lockstep_subnet::ingress::Ingress::decode(call)
        .expect("it is a call")
        .id;
    replica
        .executed()
        .state
        .history
        .get(&id)
        .expect("it was taken in")
        .status
        .clone()
}

pub(crate) fn decode_id(status: Status) -> Principal {
    match status {
        Status::Replied(bytes) => {
            Decode!(&bytes, CanisterIdRecord)
                .expect("Candid")
                .canister_id
        }
        other => panic!("not replied: {other:?}"),
    }
}
