//! Calls to the management canister, as tests need them.
use crate::{MessageId, Reject, Subnet};
use candid::{CandidType, Nat};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, CanisterSettings, ChunkHash, DeleteCanisterSnapshotArgs,
    InstallChunkedCodeArgs, InstallCodeArgs, LoadCanisterSnapshotArgs,
    ProvisionalCreateCanisterWithCyclesArgs, ProvisionalTopUpCanisterArgs, Snapshot,
    TakeCanisterSnapshotArgs, UninstallCodeArgs, UpdateSettingsArgs, UpgradeFlags, UploadChunkArgs,
};
use ic_principal::Principal;
use lockstep_canister::engine::Cycles;
use sha2::{Digest, Sha256};

/// Bytes of a module that a call of `install_code` can carry.
const ONE_CALL_BYTES_MAX: usize = 1_900_000;
/// Bytes of a chunk.
const CHUNK_BYTES: usize = 1 << 20;

impl Subnet {
    /// Calls a method of the management canister as `sender`.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// As [`Subnet::wait`], or when the argument has no Candid form.
    pub fn manage(
        &mut self,
        sender: Principal,
        method: &str,
        argument: &impl CandidType,
    ) -> Result<Vec<u8>, Reject> {
        let argument = candid::encode_one(argument).expect("the type has a Candid form");
        self.update(Principal::management_canister(), sender, method, &argument)
    }

    /// A canister controlled by the anonymous principal, with the default cycles.
    ///
    /// # Panics
    /// Never.
    pub fn create_canister(&mut self) -> Principal {
        let arguments = ProvisionalCreateCanisterWithCyclesArgs::default();
        self.create_canister_with(Principal::anonymous(), &arguments)
            .expect("it asks for nothing in particular")
    }

    /// A canister as asked for.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// As [`Subnet::wait`].
    pub fn create_canister_with(
        &mut self,
        sender: Principal,
        arguments: &ProvisionalCreateCanisterWithCyclesArgs,
    ) -> Result<Principal, Reject> {
        let method = "provisional_create_canister_with_cycles";
        let reply = self.manage(sender, method, arguments)?;
        let record: CanisterIdRecord = decode(&reply);
        Ok(record.canister_id)
    }

    /// Installs code as the anonymous principal.
    ///
    /// # Errors
    /// The rejection.
    pub fn install(
        &mut self,
        canister: Principal,
        wasm: &[u8],
        argument: &[u8],
    ) -> Result<(), Reject> {
        self.deploy(canister, CanisterInstallMode::Install, wasm, argument)
    }

    /// Installs code in the place of other code, memories cleared, as the anonymous principal.
    ///
    /// # Errors
    /// The rejection.
    pub fn reinstall(
        &mut self,
        canister: Principal,
        wasm: &[u8],
        argument: &[u8],
    ) -> Result<(), Reject> {
        self.deploy(canister, CanisterInstallMode::Reinstall, wasm, argument)
    }

    /// Upgrades code as the anonymous principal.
    ///
    /// # Errors
    /// The rejection.
    pub fn upgrade(
        &mut self,
        canister: Principal,
        wasm: &[u8],
        argument: &[u8],
        flags: Option<UpgradeFlags>,
    ) -> Result<(), Reject> {
        let mode = CanisterInstallMode::Upgrade(flags);
        self.deploy(canister, mode, wasm, argument)
    }

    fn deploy(
        &mut self,
        canister: Principal,
        mode: CanisterInstallMode,
        wasm: &[u8],
        argument: &[u8],
    ) -> Result<(), Reject> {
        if wasm.len() > ONE_CALL_BYTES_MAX {
            return self.deploy_chunks(canister, mode, wasm, argument);
        }
        let id = self.submit_install(canister, mode, wasm, argument);
        self.wait(id).map(drop)
    }

    /// A module that is too long for one call.
    fn deploy_chunks(
        &mut self,
        canister: Principal,
        mode: CanisterInstallMode,
        wasm: &[u8],
        argument: &[u8],
    ) -> Result<(), Reject> {
        let sender = Principal::anonymous();
        self.manage_canister("clear_chunk_store", canister)?;
        let mut chunk_hashes_list = Vec::new();
        for chunk in wasm.chunks(CHUNK_BYTES) {
            let arguments = UploadChunkArgs {
                canister_id: canister,
                chunk: chunk.to_vec(),
            };
            let reply = self.manage(sender, "upload_chunk", &arguments)?;
            chunk_hashes_list.push(decode::<ChunkHash>(&reply));
        }
        let arguments = InstallChunkedCodeArgs {
            mode,
            target_canister: canister,
            store_canister: None,
            chunk_hashes_list,
            wasm_module_hash: Sha256::digest(wasm).to_vec(),
            arg: argument.to_vec(),
            sender_canister_version: None,
        };
        self.manage(sender, "install_chunked_code", &arguments)
            .map(drop)
    }

    /// Sends a call that installs code, without waiting for it.
    ///
    /// # Panics
    /// As [`Subnet::submit`].
    pub fn submit_install(
        &mut self,
        canister: Principal,
        mode: CanisterInstallMode,
        wasm: &[u8],
        argument: &[u8],
    ) -> MessageId {
        let arguments = InstallCodeArgs {
            mode,
            canister_id: canister,
            wasm_module: wasm.to_vec(),
            arg: argument.to_vec(),
            sender_canister_version: None,
        };
        self.submit_to_management("install_code", &arguments)
    }

    /// Sends a call of a method that takes a canister's id alone, without waiting for it.
    ///
    /// # Panics
    /// Never.
    pub fn submit_management(&mut self, method: &str, canister: Principal) -> MessageId {
        let arguments = CanisterIdRecord {
            canister_id: canister,
        };
        self.submit_to_management(method, &arguments)
    }

    /// Sends any call to the management canister, as the anonymous user, without waiting for it.
    ///
    /// # Panics
    /// The arguments have no Candid form, or are too long.
    pub fn submit_to_management(&mut self, method: &str, arguments: &impl CandidType) -> MessageId {
        let argument = candid::encode_one(arguments).expect("the type has a Candid form");
        let management = Principal::management_canister();
        self.submit(management, Principal::anonymous(), method, &argument)
    }

    /// Removes code.
    ///
    /// # Errors
    /// The rejection.
    pub fn uninstall(&mut self, canister: Principal) -> Result<(), Reject> {
        let arguments = UninstallCodeArgs {
            canister_id: canister,
            sender_canister_version: None,
        };
        self.manage(Principal::anonymous(), "uninstall_code", &arguments)
            .map(drop)
    }

    /// Starts, stops or deletes a canister: calls `METHOD` with its id.
    ///
    /// # Errors
    /// The rejection.
    pub fn manage_canister(&mut self, method: &str, canister: Principal) -> Result<(), Reject> {
        let arguments = CanisterIdRecord {
            canister_id: canister,
        };
        self.manage(Principal::anonymous(), method, &arguments)
            .map(drop)
    }

    /// Changes settings.
    ///
    /// # Errors
    /// The rejection.
    pub fn update_settings(
        &mut self,
        canister: Principal,
        settings: CanisterSettings,
    ) -> Result<(), Reject> {
        let arguments = UpdateSettingsArgs {
            canister_id: canister,
            settings,
            sender_canister_version: None,
        };
        self.manage(Principal::anonymous(), "update_settings", &arguments)
            .map(drop)
    }

    /// Adds cycles out of nothing.
    ///
    /// # Errors
    /// The rejection.
    pub fn add_cycles(&mut self, canister: Principal, cycles: Cycles) -> Result<(), Reject> {
        let arguments = ProvisionalTopUpCanisterArgs {
            canister_id: canister,
            amount: Nat::from(cycles),
        };
        let method = "provisional_top_up_canister";
        self.manage(Principal::anonymous(), method, &arguments)
            .map(drop)
    }

    /// Takes a snapshot and returns its id.
    ///
    /// # Errors
    /// The rejection.
    ///
    /// # Panics
    /// Never.
    pub fn take_snapshot(&mut self, canister: Principal) -> Result<Vec<u8>, Reject> {
        let arguments = TakeCanisterSnapshotArgs {
            canister_id: canister,
            replace_snapshot: None,
            uninstall_code: None,
            sender_canister_version: None,
        };
        let method = "take_canister_snapshot";
        let reply = self.manage(Principal::anonymous(), method, &arguments)?;
        let snapshot: Snapshot = decode(&reply);
        Ok(snapshot.id)
    }

    /// Goes back to a snapshot.
    ///
    /// # Errors
    /// The rejection.
    pub fn load_snapshot(&mut self, canister: Principal, id: &[u8]) -> Result<(), Reject> {
        let arguments = LoadCanisterSnapshotArgs {
            canister_id: canister,
            snapshot_id: id.to_vec(),
            sender_canister_version: None,
        };
        let method = "load_canister_snapshot";
        self.manage(Principal::anonymous(), method, &arguments)
            .map(drop)
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// The rejection.
    pub fn delete_snapshot(&mut self, canister: Principal, id: &[u8]) -> Result<(), Reject> {
        let arguments = DeleteCanisterSnapshotArgs {
            canister_id: canister,
            snapshot_id: id.to_vec(),
        };
        let method = "delete_canister_snapshot";
        self.manage(Principal::anonymous(), method, &arguments)
            .map(drop)
    }
}

fn decode<T: CandidType + for<'a> candid::Deserialize<'a>>(reply: &[u8]) -> T {
    candid::decode_one(reply).expect("the management canister answers as its interface says")
}
