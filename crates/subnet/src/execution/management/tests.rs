//! Calls by canisters: their requests wait, the management canister takes them, the responses are looked
//! at where they wait in turn.
use super::*;
use crate::{
    application::Beacon,
    execution::{randomness::begin_height, upkeep},
    state::{CallContext, CallResult, Genesis, Request, Response, Stored, canister_id},
};
use candid::{Decode, Encode, Nat};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInfoArgs, CanisterInfoResult, CanisterMetadataArgs,
    CanisterMetadataResult, CanisterStatusResult, ChangeOrigin, CreateCanisterArgs,
    FetchCanisterLogsArgs, FetchCanisterLogsResult, FromCanisterRecord, InstallCodeArgs,
    NodeMetricsHistoryArgs, SubnetInfoArgs, SubnetInfoResult, SubnetMetricsArgs,
    SubnetMetricsResult, UninstallCodeArgs,
};
use lockstep_canister::state::RunState;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Cycles of the canisters that call.
const CYCLES: Cycles = 10_000_000_000_000;

struct Subnet {
    state: ReplicatedState,
    engine: Engine,
    calls: u64,
}

/// How a call ended: the reply, or the reject code and text; and the cycles that came back.
type Ended = (Result<Vec<u8>, (u8, String)>, Cycles);

impl Subnet {
    fn new() -> Self {
        let node = ic_ed25519::PrivateKey::deserialize_raw_32(&[3; 32]).public_key();
        let genesis = Genesis::new(&[7; 96], &[node.serialize_raw()], BTreeMap::new());
        let mut state = ReplicatedState::new(Arc::new(genesis.expect("the keys are valid")));
        state.height = 5;
        state.time_ns = 1_000;
        Self {
            state,
            engine: Engine::new(),
            calls: 0,
        }
    }

    /// A canister that controls itself and is controlled by these.
    fn canister(&mut self, index: u64, controllers: &[Principal]) -> Principal {
        let id = canister_id(index);
        let mut all = BTreeSet::from([id]);
        all.extend(controllers);
        let state = CanisterState::new(id, all, CYCLES);
        self.state.insert_canister(Canister::new(state, 0, 1_000));
        id
    }

    fn request(&mut self, sender: Principal, method: &str, argument: Vec<u8>, cycles: Cycles) {
        self.calls += 1;
        self.state.enqueue(Message::Request(Request {
            sender,
            callback: self.calls,
            receiver: Principal::management_canister(),
            method: method.into(),
            argument,
            cycles,
            deadline_ns: 0,
        }));
        run_all(
            &mut self.state,
            &self.engine,
            &LongRuns::default(),
            Instructions::MAX,
            &mut Totals::default(),
        );
    }

    /// The response to a call, if it is there.
    fn response(&mut self, callback: u64) -> Option<Ended> {
        let is_wanted = |message: &Message| match message {
            Message::Response(response) => response.callback == callback,
            _ => false,
        };
        let found = self
            .state
            .queue
            .iter()
            .find(|(_, message)| is_wanted(message));
        let key = *found?.0;
        let message = self.state.queue.remove(&key).expect("it was just found");
        let Message::Response(Response { result, refund, .. }) = message.as_ref() else {
            panic!("it is a response")
        };
        let result = match result {
            CallResult::Reply(reply) => Ok(reply.clone()),
            CallResult::Reject(rejection) => Err((rejection.code, rejection.message.clone())),
        };
        Some((result, *refund))
    }

    fn call(
        &mut self,
        sender: Principal,
        method: &str,
        argument: &impl CandidType,
        cycles: Cycles,
    ) -> Ended {
        self.request(sender, method, Encode!(argument).expect("Candid"), cycles);
        let response = self.response(self.calls);
        response.unwrap_or_else(|| panic!("{method} is not answered"))
    }

    /// The reply to a call that brings no cycles.
    fn get<T: DeserializeOwned + CandidType>(
        &mut self,
        sender: Principal,
        method: &str,
        argument: &impl CandidType,
    ) -> T {
        let (result, refund) = self.call(sender, method, argument, 0);
        assert_eq!(refund, 0);
        let reply = result.unwrap_or_else(|reject| panic!("{method} is rejected: {reject:?}"));
        Decode!(&reply, T).expect("Candid")
    }

    /// A call that must be rejected; all of its cycles come back.
    fn refuse(
        &mut self,
        sender: Principal,
        method: &str,
        argument: &impl CandidType,
        code: u8,
        part: &str,
    ) {
        match self.call(sender, method, argument, 77) {
            (Err((found, text)), refund) => {
                assert_eq!((found, refund), (code, 77), "{method}: {text}");
                assert!(text.contains(part), "{method}: {text}");
            }
            (Ok(_), _) => panic!("{method} is not rejected"),
        }
    }

    fn cycles(&self, id: Principal) -> Cycles {
        self.state.canisters()[&id].state.cycles
    }
}

fn record(canister_id: Principal) -> CanisterIdRecord {
    CanisterIdRecord { canister_id }
}

fn code(canister_id: Principal, text: &str, version: Option<u64>) -> InstallCodeArgs {
    InstallCodeArgs {
        mode: ic_management_canister_types::CanisterInstallMode::Install,
        canister_id,
        wasm_module: wat::parse_str(text).expect("the text is a module"),
        arg: Vec::new(),
        sender_canister_version: version,
    }
}

#[test]
fn a_factory_creates_pays_and_installs() {
    let mut subnet = Subnet::new();
    let factory = subnet.canister(1, &[]);
    let fee = subnet.state.genesis.prices().create_canister();
    let create = CreateCanisterArgs {
        settings: None,
        sender_canister_version: Some(0),
    };
    let (result, refund) = subnet.call(factory, "create_canister", &create, fee - 1);
    let (code_, text) = result.expect_err("the fee is not covered");
    assert_eq!((code_, refund), (4, fee - 1));
    assert!(
        text.contains("Creating a canister requires a fee of 500000000000"),
        "{text}"
    );
    let (result, refund) = subnet.call(factory, "create_canister", &create, fee + CYCLES);
    assert_eq!(refund, 0, "the rest is the canister's");
    let reply = result.expect("the fee is covered");
    let id = Decode!(&reply, CanisterIdRecord)
        .expect("Candid")
        .canister_id;
    assert_eq!(subnet.cycles(id), CYCLES);
    assert_eq!(subnet.state.canisters()[&id].ledger.consumed.creation, fee);
    let ahead = code(id, "(module)", Some(1));
    let text = "sender_canister_version 1 is not a version of canister";
    subnet.refuse(factory, "install_code", &ahead, 5, text);
    let stranger = subnet.canister(2, &[]);
    let foreign = code(id, "(module)", None);
    subnet.refuse(
        stranger,
        "install_code",
        &foreign,
        5,
        "Only the controllers",
    );
    let (result, refund) = subnet.call(factory, "install_code", &code(id, "(module)", Some(0)), 5);
    assert_eq!(refund, 5, "it costs nothing that comes with the call");
    result.expect("it is installed");
    let info = CanisterInfoArgs {
        canister_id: id,
        num_requested_changes: Some(1),
    };
    let info: CanisterInfoResult = subnet.get(stranger, "canister_info", &info);
    assert_eq!(info.total_num_changes, 2);
    let origin = ChangeOrigin::FromCanister(FromCanisterRecord {
        canister_id: factory,
        canister_version: Some(0),
    });
    assert_eq!(info.recent_changes.len(), 1);
    assert_eq!(info.recent_changes[0].origin, origin);
    assert_eq!(info.controllers, [factory]);
    assert!(info.module_hash.is_some());
}

#[test]
fn cycles_are_deposited_or_come_back() {
    let mut subnet = Subnet::new();
    let (from, to) = (subnet.canister(1, &[]), subnet.canister(2, &[]));
    let (result, refund) = subnet.call(from, "deposit_cycles", &record(to), 1_000);
    result.expect("everybody may deposit");
    assert_eq!((refund, subnet.cycles(to)), (0, CYCLES + 1_000));
    let absent = record(canister_id(9));
    subnet.refuse(from, "deposit_cycles", &absent, 3, "not found");
}

#[test]
fn random_bytes_come_with_the_signature_of_their_height() {
    let draw = |signature: [u8; 48]| {
        let mut subnet = Subnet::new();
        let caller = subnet.canister(1, &[]);
        let nothing = candid::encode_args(()).expect("Candid");
        for _ in 0..2 {
            subnet.request(caller, "raw_rand", nothing.clone(), 7);
            assert_eq!(subnet.response(subnet.calls), None);
        }
        let beacon = |height| Beacon { height, signature };
        subnet.state.height = 6;
        begin_height(&mut subnet.state, &[beacon(4)]);
        assert!(subnet.state.randomness.wanted().eq([5]));
        begin_height(&mut subnet.state, &[beacon(5)]);
        assert_eq!(subnet.state.randomness.wanted().next(), None);
        [1, 2].map(|call| {
            let (result, refund) = subnet.response(call).expect("it is answered");
            assert_eq!(refund, 7);
            let bytes = Decode!(&result.expect("canisters may call"), Vec<u8>).expect("Candid");
            assert_eq!(bytes.len(), 32);
            bytes
        })
    };
    let draws = draw([9; 48]);
    assert_ne!(draws[0], draws[1]);
    assert_eq!(draws, draw([9; 48]), "replicas draw the same");
    assert!(draw([8; 48]).iter().all(|other| !draws.contains(other)));
}

#[test]
fn who_waits_too_long_for_random_bytes_is_told() {
    let mut subnet = Subnet::new();
    let caller = subnet.canister(1, &[]);
    let nothing = candid::encode_args(()).expect("Candid");
    subnet.request(caller, "raw_rand", nothing, 7);
    subnet.state.height = 10_005;
    begin_height(&mut subnet.state, &[]);
    assert!(subnet.state.queue.is_empty());
    subnet.state.height = 10_006;
    begin_height(&mut subnet.state, &[]);
    let (result, refund) = subnet.response(1).expect("it is answered");
    assert_eq!((result.expect_err("no bytes").0, refund), (2, 7));
}

#[test]
fn metadata_is_public_or_for_controllers() {
    const MODULE: &str = r#"(module
        (@custom "icp:public word" "shown")
        (@custom "icp:private secret" "hidden"))"#;
    let mut subnet = Subnet::new();
    let (owner, stranger) = (subnet.canister(1, &[]), subnet.canister(2, &[]));
    let id = subnet.canister(3, &[owner]);
    let named = |name: &str| CanisterMetadataArgs {
        canister_id: id,
        name: name.into(),
    };
    let method = "canister_metadata";
    subnet.refuse(owner, method, &named("word"), 5, "has no module installed");
    let (result, _) = subnet.call(owner, "install_code", &code(id, MODULE, None), 0);
    result.expect("it is installed");
    let word: CanisterMetadataResult = subnet.get(stranger, method, &named("word"));
    assert_eq!(word.value, b"shown");
    let secret: CanisterMetadataResult = subnet.get(owner, method, &named("secret"));
    assert_eq!(secret.value, b"hidden");
    subnet.refuse(
        stranger,
        method,
        &named("secret"),
        5,
        "Only the controllers",
    );
    subnet.refuse(
        owner,
        method,
        &named("other"),
        4,
        "has no metadata section with the name other",
    );
}

#[test]
fn the_subnet_describes_itself_and_names_what_it_lacks() {
    let mut subnet = Subnet::new();
    let caller = subnet.canister(1, &[]);
    let subnet_id = subnet.state.genesis.subnet_id;
    let info: SubnetInfoResult = subnet.get(caller, "subnet_info", &SubnetInfoArgs { subnet_id });
    assert!(info.replica_version.starts_with("lockstep-"));
    subnet.state.metrics.messages = 3;
    subnet.state.metrics.instructions = 1_000_001;
    let arguments = SubnetMetricsArgs { subnet_id };
    let metrics: SubnetMetricsResult = subnet.get(caller, "subnet_metrics", &arguments);
    assert_eq!(metrics.block_height, Nat::from(5_u8));
    assert_eq!(metrics.num_canisters, Nat::from(1_u8));
    assert_eq!(metrics.update_transactions_total, Nat::from(3_u8));
    assert_eq!(metrics.million_round_instructions_total, Nat::from(2_u8));
    let elsewhere = SubnetInfoArgs { subnet_id: caller };
    subnet.refuse(caller, "subnet_info", &elsewhere, 4, "not found");
    let history = NodeMetricsHistoryArgs {
        subnet_id,
        start_at_timestamp_nanos: 0,
    };
    let text = "This subnet has no record of who proposed its blocks: node_metrics_history is not available";
    subnet.refuse(caller, "node_metrics_history", &history, 4, text);
    for (method, what) in [
        ("sign_with_ecdsa", "threshold ECDSA"),
        ("schnorr_public_key", "threshold Schnorr signatures"),
        ("vetkd_derive_key", "threshold key derivation"),
        ("http_request", "HTTP outcalls"),
        ("bitcoin_get_utxos", "Bitcoin integration"),
    ] {
        let text = format!("This subnet has no {what}: {method} is not available");
        subnet.refuse(caller, method, &record(caller), 4, &text);
    }
    subnet.refuse(
        caller,
        "list_canisters",
        &record(caller),
        4,
        "can only be called as a query",
    );
    subnet.refuse(
        caller,
        "fly",
        &record(caller),
        5,
        "Management canister has no method 'fly'",
    );
}

#[test]
fn a_canister_knows_and_keeps_its_own() {
    let mut subnet = Subnet::new();
    let owner = subnet.canister(1, &[]);
    let id = canister_id(2);
    let state = CanisterState::new(id, BTreeSet::from([owner]), CYCLES);
    subnet.state.insert_canister(Canister::new(state, 0, 1_000));
    let status: CanisterStatusResult = subnet.get(id, "canister_status", &record(id));
    assert_eq!(status.settings.controllers, [owner]);
    let chunk = ic_management_canister_types::UploadChunkArgs {
        canister_id: id,
        chunk: vec![1],
    };
    let (result, _) = subnet.call(id, "upload_chunk", &chunk, 0);
    result.expect("it may keep chunks");
    let (result, _) = subnet.call(id, "stored_chunks", &record(id), 0);
    result.expect("it may list them");
    subnet.refuse(id, "stop_canister", &record(id), 5, "Only the controllers");
    let logs = FetchCanisterLogsArgs {
        canister_id: id,
        filter: None,
    };
    subnet.refuse(
        id,
        "fetch_canister_logs",
        &logs,
        4,
        "is not allowed to access canister logs",
    );
    let logs: FetchCanisterLogsResult = subnet.get(owner, "fetch_canister_logs", &logs);
    assert!(logs.canister_log_records.is_empty());
}

/// A call of `caller`'s to `callee` that has begun and brought 500 cycles.
fn begin(subnet: &mut Subnet, caller: Principal, callee: Principal, callback: u64) {
    let canister = subnet.state.canister_mut(&callee).expect("it is there");
    let context = CallContext {
        origin: Origin::Canister {
            sender: caller,
            callback,
            deadline_ns: 0,
        },
        cycles: 500,
        answered: false,
        calls_under_way: 1,
        instructions: 0,
        abandoned: false,
    };
    canister.ledger.contexts.insert(callback, context);
}

#[test]
fn stopping_waits_and_starting_cancels() {
    let mut subnet = Subnet::new();
    let owner = subnet.canister(1, &[]);
    let id = subnet.canister(2, &[owner]);
    begin(&mut subnet, owner, id, 900);
    let argument = Encode!(&record(id)).expect("Candid");
    subnet.request(owner, "stop_canister", argument.clone(), 60);
    let first = subnet.calls;
    assert!(subnet.response(first).is_none(), "a call is under way");
    let (result, _) = subnet.call(owner, "start_canister", &record(id), 0);
    result.expect("it is started");
    let (result, refund) = subnet.response(first).expect("it is cancelled");
    let (code, text) = result.expect_err("it is cancelled");
    assert_eq!((code, refund), (5, 60));
    assert!(text.contains("stop request was cancelled"), "{text}");
    subnet.request(owner, "stop_canister", argument.clone(), 60);
    let late = subnet.calls;
    subnet.state.time_ns += 300_000_000_001;
    upkeep::begin_height(&mut subnet.state);
    let (result, refund) = subnet.response(late).expect("its time is over");
    assert_eq!((result.expect_err("its time is over").0, refund), (2, 60));
    subnet.request(owner, "stop_canister", argument, 60);
    let last = subnet.calls;
    let canister = subnet.state.canister_mut(&id).expect("it is there");
    canister.ledger.contexts.clear();
    upkeep::finish_stopping(&mut subnet.state);
    let (result, refund) = subnet.response(last).expect("nothing is under way");
    assert_eq!((result.is_ok(), refund), (true, 60));
    assert_eq!(
        subnet.state.canisters()[&id].state.run_state,
        RunState::Stopped
    );
}

#[test]
fn uninstalling_rejects_what_is_not_answered() {
    let mut subnet = Subnet::new();
    let owner = subnet.canister(1, &[]);
    let id = subnet.canister(2, &[owner]);
    begin(&mut subnet, owner, id, 900);
    let arguments = UninstallCodeArgs {
        canister_id: id,
        sender_canister_version: None,
    };
    let (result, _) = subnet.call(owner, "uninstall_code", &arguments, 0);
    result.expect("it is uninstalled");
    let (result, refund) = subnet.response(900).expect("it is rejected");
    let (code, text) = result.expect_err("it is rejected");
    assert_eq!((code, refund), (4, 500));
    assert_eq!(text, "Canister has been uninstalled.");
    let canister = &subnet.state.canisters()[&id];
    assert!(
        canister.ledger.contexts[&900].abandoned,
        "its own call is still under way"
    );
    assert_eq!(canister.state.cycles, CYCLES);
}

#[test]
fn deletion_returns_what_waits() {
    let mut subnet = Subnet::new();
    let owner = subnet.canister(1, &[]);
    let id = subnet.canister(2, &[owner]);
    subnet.refuse(
        id,
        "delete_canister",
        &record(id),
        5,
        "cannot delete itself",
    );
    let (result, _) = subnet.call(owner, "stop_canister", &record(id), 0);
    result.expect("nothing is under way");
    subnet.state.enqueue(Message::Request(Request {
        sender: owner,
        callback: 900,
        receiver: id,
        method: "greet".into(),
        argument: Vec::new(),
        cycles: 40,
        deadline_ns: 0,
    }));
    let (result, refund) = subnet.call(owner, "delete_canister", &record(id), 3);
    assert_eq!((result.is_ok(), refund), (true, 3));
    let (result, refund) = subnet.response(900).expect("it is returned");
    let (code, text) = result.expect_err("nobody is there");
    assert_eq!((code, refund), (3, 40));
    assert!(text.contains("not found"), "{text}");
    assert!(subnet.state.is_taken(&id), "its id is not used again");
    assert_eq!(subnet.state.metrics.consumed_by_deleted, CYCLES);
}

#[test]
fn digests_cover_what_is_kept_beside() {
    let mut subnet = Subnet::new();
    let id = subnet.canister(1, &[]);
    let before = subnet.state.digest();
    let canister = subnet.state.canister_mut(&id).expect("it is there");
    canister.stored.chunks.insert(vec![1]);
    let with_chunk = subnet.state.digest();
    assert_ne!(before, with_chunk);
    let canister = subnet.state.canister_mut(&id).expect("it is there");
    canister.stored = Stored::default();
    assert_eq!(subnet.state.digest(), before);
    let drawing = Drawing {
        origin: Origin::User {
            id: [1; 32],
            sender: id,
            info: None,
        },
        cycles: 0,
    };
    subnet.state.randomness.wait(5, drawing);
    assert_ne!(subnet.state.digest(), before);
}
