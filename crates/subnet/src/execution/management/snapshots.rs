//! Taking, loading, listing and deleting snapshots of canisters.
//!
//! # Design
//! Generation sessions are no part of a snapshot: loading one ends those of the canister, as a
//! reinstallation does. The global timer and the hook for low memory are part of it, but only those of
//! an uploaded one are loaded, as the interface specification says.
use super::{Done, ManagementCall, Manager, check_controller, decode, encode, find, nothing};
use crate::{
    execution::{CANISTER_REJECTED, upkeep},
    state::{
        Cached, Canister, ChangeDetails, LowMemory, Reject, SNAPSHOTS_MAX, Snapshot, SnapshotCode,
        SnapshotId, SnapshotSource,
    },
};
use ic_management_canister_types as interface;
use ic_management_canister_types::{
    CanisterIdRecord, DeleteCanisterSnapshotArgs, LoadCanisterSnapshotArgs,
    TakeCanisterSnapshotArgs,
};
use ic_principal::Principal;
use lockstep_canister::{engine::Module, memory::Paged, state::Installed};
use std::sync::Arc;

impl Manager<'_> {
    pub(super) fn take_canister_snapshot(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: TakeCanisterSnapshotArgs = decode(call.argument)?;
        let id = arguments.canister_id;
        let mut canister = self.draft(call, &id)?;
        let originator = call.originator(self.state, arguments.sender_canister_version)?;
        let now_ns = self.state.time_ns;
        let Some(snapshot) = snapshot_of(&canister, now_ns) else {
            let text = format!("Failed to create snapshot for empty canister {id}");
            return Err(Reject::new(CANISTER_REJECTED, text));
        };
        let reply = keep(
            &mut canister,
            arguments.replace_snapshot.as_deref(),
            snapshot,
        )?;
        let unanswered = (arguments.uninstall_code == Some(true))
            .then(|| upkeep::empty(&mut canister, now_ns, Some(originator)));
        self.admit(canister)?;
        if let Some(unanswered) = unanswered {
            upkeep::reject_unanswered(self.state, &id, unanswered);
        }
        Ok(Done::Reply(encode(&reply)))
    }

    pub(super) fn load_canister_snapshot(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: LoadCanisterSnapshotArgs = decode(call.argument)?;
        let id = arguments.canister_id;
        let mut canister = self.draft(call, &id)?;
        let originator = call.originator(self.state, arguments.sender_canister_version)?;
        let not_found = || no_snapshot(&arguments.snapshot_id, &id);
        let snapshot_id = SnapshotId::from_bytes(&arguments.snapshot_id).ok_or_else(not_found)?;
        let owner = snapshot_id.canister();
        let keeper = self.state.canisters().get(&owner).ok_or_else(not_found)?;
        let snapshot = keeper.stored.snapshots.get(&snapshot_id);
        let snapshot = Arc::clone(snapshot.ok_or_else(not_found)?);
        check_controller(&keeper.state, &call.sender)?;
        let module = self.module_of(&id, &snapshot)?;
        load(&mut canister, &snapshot, module);
        if snapshot.source() == SnapshotSource::Upload {
            restore_clock(&mut canister, &snapshot)?;
        }
        canister.note_memory();
        let details = ChangeDetails::LoadSnapshot {
            from: (owner != id).then_some(owner),
            snapshot: snapshot_id,
            canister_version: snapshot.canister_version,
            taken_at_ns: snapshot.taken_at_ns,
            source: snapshot.source(),
        };
        canister.record(self.state.time_ns, originator, details);
        self.admit(canister)?;
        let sessions = &mut self.state.sessions.sessions;
        sessions.retain(|_, session| session.owner != id);
        nothing()
    }

    /// The module of a snapshot; of an uploaded one, if the rest of the snapshot fits it.
    fn module_of(&mut self, id: &Principal, snapshot: &Snapshot) -> Result<Arc<Module>, Reject> {
        let (bytes, size) = match &snapshot.code {
            SnapshotCode::Module(module) => return Ok(Arc::clone(module)),
            SnapshotCode::Upload { bytes, size } => (bytes, *size),
        };
        let wasm = read(bytes, 0, size);
        self.totals.time += self.compilation_time(&wasm);
        let module = self.compile(id, &wasm)?;
        let inconsistent = |what: &str| {
            let text = format!("The snapshot's {what} is not that of an instance of its module");
            Err(Reject::new(408, text))
        };
        if !module.accepts_globals(&snapshot.globals) {
            return inconsistent("list of globals");
        }
        if !module.accepts_heap(snapshot.heap.size_pages()) {
            return inconsistent("size of Wasm memory");
        }
        Ok(module)
    }

    pub(super) fn list_canister_snapshots(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let id = decode::<CanisterIdRecord>(call.argument)?.canister_id;
        let canister = self.shown(call, &id)?;
        let snapshots = canister.stored.snapshots.iter();
        let listed: Vec<interface::Snapshot> = snapshots
            .map(|(id, snapshot)| description(id, snapshot))
            .collect();
        Ok(Done::Reply(encode(&listed)))
    }

    pub(super) fn delete_canister_snapshot(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: DeleteCanisterSnapshotArgs = decode(call.argument)?;
        let mut canister = self.draft(call, &arguments.canister_id)?;
        let (id, _) = snapshot(&canister, &arguments.snapshot_id)?;
        canister.stored.snapshots.remove(&id);
        self.admit(canister)?;
        nothing()
    }

    /// A canister whose snapshots the caller may see.
    pub(super) fn shown(
        &self,
        call: &ManagementCall<'_>,
        id: &Principal,
    ) -> Result<&Canister, Reject> {
        let canister = find(self.state, id)?;
        let visibility = &canister.state.settings.snapshot_visibility;
        if !canister.state.shows(visibility, &call.sender) {
            check_controller(&canister.state, &call.sender)?;
        }
        Ok(canister)
    }
}

/// What a snapshot of the canister holds; `None`: it has no code.
fn snapshot_of(canister: &Canister, now_ns: u64) -> Option<Snapshot> {
    let state = &canister.state;
    let installed = state.installed.as_ref()?;
    Some(Snapshot {
        taken_at_ns: now_ns,
        canister_version: state.version,
        code: SnapshotCode::Module(Arc::clone(&installed.module)),
        globals: installed.globals.clone(),
        heap: installed.heap.clone(),
        stable: state.stable.clone(),
        chunks: canister.stored.chunks.clone(),
        certified_data: state.certified_data.clone(),
        global_timer_ns: Some(state.global_timer_ns),
        low_memory: Some(canister.ledger.low_memory),
        digest: Cached::default(),
    })
}

/// Keeps a snapshot, in place of another one if `replaced` names it.
pub(super) fn keep(
    canister: &mut Canister,
    replaced: Option<&[u8]>,
    new: Snapshot,
) -> Result<interface::Snapshot, Reject> {
    let canister_id = canister.state.id;
    match replaced {
        Some(replaced) => {
            let (id, _) = snapshot(canister, replaced)?;
            canister.stored.snapshots.remove(&id);
        }
        None if canister.stored.snapshots.len() >= SNAPSHOTS_MAX => {
            let text = format!(
                "Canister {canister_id} has reached the maximum number of snapshots allowed: {SNAPSHOTS_MAX}."
            );
            return Err(Reject::new(CANISTER_REJECTED, text));
        }
        None => {}
    }
    let id = canister.stored.fresh_snapshot_id(&canister_id);
    let reply = description(&id, &new);
    canister.stored.snapshots.insert(id, Arc::new(new));
    Ok(reply)
}

fn description(id: &SnapshotId, snapshot: &Snapshot) -> interface::Snapshot {
    interface::Snapshot {
        id: id.as_bytes().to_vec(),
        taken_at_timestamp: snapshot.taken_at_ns,
        total_size: snapshot.bytes(),
    }
}

/// Puts what a snapshot holds into a canister.
fn load(canister: &mut Canister, snapshot: &Snapshot, module: Arc<Module>) {
    let state = &mut canister.state;
    state.installed = Some(Installed {
        heap: snapshot.heap.clone(),
        globals: snapshot.globals.clone(),
        ..Installed::new(module)
    });
    state.stable = snapshot.stable.clone();
    state.certified_data.clone_from(&snapshot.certified_data);
    state.version += 1;
    canister.stored.chunks = snapshot.chunks.clone();
}

/// Takes over an uploaded snapshot's timer and where its hook stands, which must be where the heap and
/// the canister's settings say it is.
fn restore_clock(canister: &mut Canister, snapshot: &Snapshot) -> Result<(), Reject> {
    if let Some(deadline_ns) = snapshot.global_timer_ns {
        canister.state.global_timer_ns = deadline_ns;
    }
    if let Some(given) = snapshot.low_memory {
        canister.ledger.low_memory = given;
        canister.note_memory();
        let is_low = canister.ledger.low_memory != LowMemory::Enough;
        if is_low != (given != LowMemory::Enough) {
            let text = format!(
                "The snapshot's on_low_wasm_memory_hook_status contradicts the canister's settings, by which Wasm memory is {}",
                if is_low { "low" } else { "not low" }
            );
            return Err(Reject::new(408, text));
        }
    }
    Ok(())
}

/// A canister's snapshot.
pub(super) fn snapshot<'canister>(
    canister: &'canister Canister,
    id: &[u8],
) -> Result<(SnapshotId, &'canister Arc<Snapshot>), Reject> {
    let canister_id = canister.state.id;
    let found = SnapshotId::from_bytes(id).ok_or_else(|| no_snapshot(id, &canister_id))?;
    if found.canister() != canister_id {
        let text = format!("The snapshot {found} does not belong to canister {canister_id}.");
        return Err(Reject::new(CANISTER_REJECTED, text));
    }
    let snapshot = canister.stored.snapshots.get(&found);
    Ok((
        found,
        snapshot.ok_or_else(|| no_snapshot(id, &canister_id))?,
    ))
}

fn no_snapshot(id: &[u8], canister: &Principal) -> Reject {
    let text = format!(
        "Could not find the snapshot ID {} for canister {canister}.",
        hex::encode(id)
    );
    Reject::new(305, text)
}

/// Bytes of a memory, all of which lie inside.
pub(super) fn read<M: Paged>(memory: &M, offset: u64, size: u64) -> Vec<u8> {
    let block_bytes = M::BLOCK_BYTES as u64;
    let end = offset + size;
    let mut bytes = Vec::with_capacity(size as usize);
    let mut at = offset;
    while at < end {
        let (index, start) = (at / block_bytes, at % block_bytes);
        let count = (block_bytes - start).min(end - at);
        match memory.block(index) {
            Some(block) => {
                bytes.extend_from_slice(&block[start as usize..(start + count) as usize]);
            }
            None => bytes.resize(bytes.len() + count as usize, 0),
        }
        at += count;
    }
    bytes
}
