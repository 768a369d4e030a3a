//! Chunks of modules: keeping them, and installing what they make together.
use super::{Done, ManagementCall, Manager, check_controller, decode, encode, nothing};
use crate::state::{CHUNK_BYTES_MAX, CHUNKS_MAX, Chunks, Reject};
use ic_management_canister_types::{
    CanisterIdRecord, ChunkHash, InstallChunkedCodeArgs, InstallCodeArgs, UploadChunkArgs,
};
use ic_principal::Principal;
use lockstep_canister::engine::MODULE_BYTES_MAX;
use sha2::{Digest, Sha256};

impl Manager<'_> {
    pub(super) fn upload_chunk(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let UploadChunkArgs { canister_id, chunk } = decode(call.argument)?;
        let mut canister = self.draft_of_own(call, &canister_id)?;
        self.totals.time += chunk.len() as u64;
        let hash = insert_chunk(&mut canister.stored.chunks, chunk)?;
        self.admit(canister)?;
        Ok(Done::Reply(encode(&ChunkHash {
            hash: hash.to_vec(),
        })))
    }

    pub(super) fn clear_chunk_store(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let id = decode::<CanisterIdRecord>(call.argument)?.canister_id;
        let mut canister = self.draft_of_own(call, &id)?;
        canister.stored.chunks.clear();
        self.admit(canister)?;
        nothing()
    }

    pub(super) fn stored_chunks(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let id = decode::<CanisterIdRecord>(call.argument)?.canister_id;
        let canister = self.draft_of_own(call, &id)?;
        Ok(Done::Reply(encode(&chunk_hashes(&canister.stored.chunks))))
    }

    pub(super) fn install_chunked_code(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let (arguments, store) = self.chunked_code(call)?;
        self.totals.time += arguments.wasm_module.len() as u64;
        let lender = (store != arguments.canister_id).then_some(store);
        self.install_module(call, arguments, lender)
    }

    /// What `install_chunked_code` installs, and the canister whose chunks it is made of.
    pub(super) fn chunked_code(
        &self,
        call: &ManagementCall<'_>,
    ) -> Result<(InstallCodeArgs, Principal), Reject> {
        let arguments: InstallChunkedCodeArgs = decode(call.argument)?;
        let target = arguments.target_canister;
        self.draft(call, &target)?;
        let store = arguments.store_canister.unwrap_or(target);
        let Some(keeper) = self.state.canisters().get(&store) else {
            let text = format!(
                "InstallChunkedCode Error: Store canister {store} was not found on subnet {} of target canister {target}",
                self.state.genesis.subnet_id
            );
            return Err(Reject::new(504, text));
        };
        if call.sender != store {
            check_controller(&keeper.state, &call.sender)?;
        }
        let wasm_module = assemble(&keeper.stored.chunks, &arguments)?;
        let arguments = InstallCodeArgs {
            mode: arguments.mode,
            canister_id: target,
            wasm_module,
            arg: arguments.arg,
            sender_canister_version: arguments.sender_canister_version,
        };
        Ok((arguments, store))
    }
}

/// Keeps a chunk.
pub(super) fn insert_chunk(chunks: &mut Chunks, chunk: Vec<u8>) -> Result<[u8; 32], Reject> {
    let bytes = chunk.len();
    if bytes > CHUNK_BYTES_MAX {
        return Err(refused(&format!(
            "Wasm chunk size {bytes} exceeds the maximum chunk size of {CHUNK_BYTES_MAX}"
        )));
    }
    chunks.insert(chunk).ok_or_else(|| {
        refused(&format!(
            "Wasm chunk store has already reached maximum capacity of {} bytes or the maximum number of entries, {CHUNKS_MAX}",
            CHUNKS_MAX * CHUNK_BYTES_MAX
        ))
    })
}

/// The hashes of the chunks, as they are listed.
pub(super) fn chunk_hashes(chunks: &Chunks) -> Vec<ChunkHash> {
    let hashes = chunks.entries().keys();
    hashes
        .map(|hash| ChunkHash {
            hash: hash.to_vec(),
        })
        .collect()
}

/// The module that the listed chunks make, if it has the hash that it should.
fn assemble(chunks: &Chunks, arguments: &InstallChunkedCodeArgs) -> Result<Vec<u8>, Reject> {
    if arguments.wasm_module_hash.len() != 32 {
        let hash = hex::encode(&arguments.wasm_module_hash);
        return Err(Reject::new(504, format!("Invalid wasm hash {hash}")));
    }
    let mut module = Vec::new();
    for ChunkHash { hash } in &arguments.chunk_hashes_list {
        let hash = <[u8; 32]>::try_from(hash.as_slice())
            .map_err(|_| refused("Chunk hash is invalid. The length is not 32"))?;
        let chunk = chunks
            .entries()
            .get(&hash)
            .ok_or_else(|| refused(&format!("Chunk hash {} was not found", hex::encode(hash))))?;
        if module.len() + chunk.len() > MODULE_BYTES_MAX {
            return Err(refused(&format!(
                "The chunks make a module of more than {MODULE_BYTES_MAX} bytes"
            )));
        }
        module.extend_from_slice(chunk);
    }
    let hash = Sha256::digest(&module);
    if hash[..] != arguments.wasm_module_hash[..] {
        return Err(refused(&format!(
            "Wasm module hash {} does not match given hash {}",
            hex::encode(hash),
            hex::encode(&arguments.wasm_module_hash)
        )));
    }
    Ok(module)
}

fn refused(reason: &str) -> Reject {
    Reject::new(504, format!("Error from Wasm chunk store: {reason}."))
}
