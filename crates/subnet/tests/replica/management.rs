//! The management canister, by Candid through blocks.
mod code;
mod lifecycle;
mod settings;
mod snapshots;

use crate::support::{call, open, step};
use candid::{CandidType, Decode, Encode};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInfoArgs, CanisterInfoResult, CanisterSettings, CanisterStatusResult,
    ProvisionalCreateCanisterWithCyclesArgs,
};
use ic_principal::Principal;
use lockstep_subnet::{
    execution::management::query,
    replica::Replica,
    state::{Canister, Reject, Status, canister_id},
};
use std::{cell::Cell, path::PathBuf, sync::Arc};

/// A replica that is asked one call per block, by the anonymous user.
pub(crate) struct Subnet {
    directory: tempfile::TempDir,
    replica: Replica,
    calls: Cell<u64>,
}

impl Subnet {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let replica = open(&directory.path().join("state"));
        Self {
            directory,
            replica,
            calls: Cell::new(0),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Closes the replica and opens it again; it must be where it was.
    fn restarted(self) -> Self {
        let digest = self.replica.executed().state.digest();
        let path = self.path();
        let Self {
            directory,
            replica,
            calls,
        } = self;
        drop(replica);
        let replica = open(&path);
        assert_eq!(replica.executed().state.digest(), digest);
        Self {
            directory,
            replica,
            calls,
        }
    }

    fn send(&self, canister: Principal, method: &str, argument: Vec<u8>) -> Status {
        self.calls.set(self.calls.get() + 1);
        let call = call(canister, method, argument, self.calls.get());
        step(&self.replica, vec![call.clone()]);
        crate::support::answer(&self.replica, &call)
    }

    fn ask(&self, method: &str, argument: &impl CandidType) -> Result<Vec<u8>, Reject> {
        let argument = Encode!(argument).expect("Candid");
        match self.send(Principal::management_canister(), method, argument) {
            Status::Replied(reply) => Ok(reply),
            Status::Rejected(reject) => Err(reject),
            other => panic!("{method} is not answered: {other:?}"),
        }
    }

    /// The reply that a method must give.
    fn get<T: for<'a> candid::Deserialize<'a> + CandidType>(
        &self,
        method: &str,
        argument: &impl CandidType,
    ) -> T {
        let reply = self.ask(method, argument);
        let reply = reply.unwrap_or_else(|reject| panic!("{method} is rejected: {reject}"));
        Decode!(&reply, T).expect("Candid")
    }

    /// A method that must reply with nothing.
    fn run(&self, method: &str, argument: &impl CandidType) {
        let reply = self.ask(method, argument);
        let reply = reply.unwrap_or_else(|reject| panic!("{method} is rejected: {reject}"));
        candid::decode_args::<()>(&reply).expect("nothing");
    }

    /// A method that must be rejected with a code and a text with `part` in it.
    fn refuse(&self, method: &str, argument: &impl CandidType, code: u16, part: &str) {
        match self.ask(method, argument) {
            Ok(_) => panic!("{method} is not rejected"),
            Err(reject) => {
                assert_eq!(reject.error_code, code, "{method}: {reject}");
                assert!(reject.message.contains(part), "{method}: {reject}");
            }
        }
    }

    /// A canister's own method that must reply.
    fn update(&self, canister: Principal, method: &str) -> Vec<u8> {
        match self.send(canister, method, Vec::new()) {
            Status::Replied(reply) => reply,
            other => panic!("{method} does not reply: {other:?}"),
        }
    }

    fn create(&self, index: u64, settings: Option<CanisterSettings>) -> Principal {
        let id = canister_id(index);
        let arguments = ProvisionalCreateCanisterWithCyclesArgs {
            specified_id: Some(id),
            settings,
            ..Default::default()
        };
        let created: CanisterIdRecord =
            self.get("provisional_create_canister_with_cycles", &arguments);
        assert_eq!(created.canister_id, id);
        id
    }

    fn canister(&self, id: Principal) -> Arc<Canister> {
        Arc::clone(&self.replica.executed().state.canisters()[&id])
    }

    fn status(&self, id: Principal) -> CanisterStatusResult {
        self.get("canister_status", &record(id))
    }

    fn query<T: for<'a> candid::Deserialize<'a> + CandidType>(
        &self,
        sender: Principal,
        method: &str,
        argument: &impl CandidType,
    ) -> Result<T, Reject> {
        let argument = Encode!(argument).expect("Candid");
        let reply = query(&self.replica.executed().state, &sender, method, &argument)?;
        Ok(Decode!(&reply, T).expect("Candid"))
    }

    fn info(&self, canister_id: Principal) -> CanisterInfoResult {
        let arguments = CanisterInfoArgs {
            canister_id,
            num_requested_changes: Some(100),
        };
        self.query(user(), "canister_info", &arguments)
            .expect("everybody may ask")
    }
}

fn user() -> Principal {
    Principal::anonymous()
}

/// A user who calls nothing.
fn other() -> Principal {
    Principal::self_authenticating([1])
}

fn record(canister_id: Principal) -> CanisterIdRecord {
    CanisterIdRecord { canister_id }
}
