//! Reading snapshots out and making them by upload.
use super::{
    Done, ManagementCall, Manager,
    chunks::{chunk_hashes, insert_chunk},
    decode, encode,
    info::snapshot_source,
    nothing,
    snapshots::{keep, read, snapshot},
};
use crate::state::{Cached, Chunks, LowMemory, Reject, Snapshot, SnapshotCode};
use ic_management_canister_types::{
    CanisterTimer, OnLowWasmMemoryHookStatus, ReadCanisterSnapshotDataArgs,
    ReadCanisterSnapshotDataResult, ReadCanisterSnapshotMetadataArgs,
    ReadCanisterSnapshotMetadataResult, SnapshotDataKind, SnapshotDataOffset,
    SnapshotMetadataGlobal, UploadCanisterSnapshotDataArgs, UploadCanisterSnapshotMetadataArgs,
    UploadCanisterSnapshotMetadataResult,
};
use lockstep_canister::{
    engine::{MODULE_BYTES_MAX, STABLE_PAGES_MAX},
    heap::{Heap, PAGE_BYTES},
    memory::{Paged, PagedMemory},
    state::GlobalValue,
};
use std::sync::Arc;

/// Most bytes that are read in a call.
const SLICE_BYTES_MAX: u64 = 2_000_000;
/// Most bytes of a heap, with 64-bit addresses.
const HEAP_BYTES_MAX: u64 = 6 << 30;
/// Most globals of a module.
const GLOBALS_MAX: usize = 1000;
/// Most bytes of certified data.
const CERTIFIED_DATA_BYTES_MAX: usize = 32;

impl Manager<'_> {
    pub(super) fn read_canister_snapshot_metadata(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: ReadCanisterSnapshotMetadataArgs = decode(call.argument)?;
        let canister = self.shown(call, &arguments.canister_id)?;
        let (_, snapshot) = snapshot(canister, &arguments.snapshot_id)?;
        let page_bytes = PAGE_BYTES as u64;
        Ok(Done::Reply(encode(&ReadCanisterSnapshotMetadataResult {
            source: Some(snapshot_source(snapshot.source())),
            taken_at_timestamp: snapshot.taken_at_ns,
            wasm_module_size: snapshot.code.size(),
            globals: snapshot.globals.iter().map(shown_global).collect(),
            wasm_memory_size: snapshot.heap.size_pages() * page_bytes,
            stable_memory_size: snapshot.stable.size_pages() * page_bytes,
            wasm_chunk_store: chunk_hashes(&snapshot.chunks),
            canister_version: snapshot.canister_version,
            certified_data: snapshot.certified_data.clone(),
            global_timer: snapshot
                .global_timer_ns
                .map(|deadline_ns| match deadline_ns {
                    0 => CanisterTimer::Inactive,
                    deadline_ns => CanisterTimer::Active(deadline_ns),
                }),
            on_low_wasm_memory_hook_status: snapshot.low_memory.map(
                |low_memory| match low_memory {
                    LowMemory::Enough => OnLowWasmMemoryHookStatus::ConditionNotSatisfied,
                    LowMemory::Due => OnLowWasmMemoryHookStatus::Ready,
                    LowMemory::Done => OnLowWasmMemoryHookStatus::Executed,
                },
            ),
        })))
    }

    pub(super) fn read_canister_snapshot_data(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: ReadCanisterSnapshotDataArgs = decode(call.argument)?;
        let canister = self.shown(call, &arguments.canister_id)?;
        let (_, snapshot) = snapshot(canister, &arguments.snapshot_id)?;
        let chunk = match arguments.kind {
            SnapshotDataKind::WasmModule { offset, size } => {
                check_slice(offset, size, snapshot.code.size())?;
                match &snapshot.code {
                    SnapshotCode::Module(module) => {
                        module.wasm()[offset as usize..(offset + size) as usize].to_vec()
                    }
                    SnapshotCode::Upload { bytes, .. } => read(bytes, offset, size),
                }
            }
            SnapshotDataKind::WasmMemory { offset, size } => slice(&snapshot.heap, offset, size)?,
            SnapshotDataKind::StableMemory { offset, size } => {
                slice(&snapshot.stable, offset, size)?
            }
            SnapshotDataKind::WasmChunk { hash } => {
                let chunk = <[u8; 32]>::try_from(hash.as_slice()).ok();
                let chunk = chunk.and_then(|hash| snapshot.chunks.entries().get(&hash));
                chunk.ok_or_else(|| no_chunk(&hash))?.to_vec()
            }
        };
        self.totals.time += chunk.len() as u64;
        Ok(Done::Reply(encode(&ReadCanisterSnapshotDataResult {
            chunk,
        })))
    }

    pub(super) fn upload_canister_snapshot_metadata(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: UploadCanisterSnapshotMetadataArgs = decode(call.argument)?;
        let mut canister = self.draft(call, &arguments.canister_id)?;
        let replaced = arguments.replace_snapshot.clone();
        let new = uploaded(arguments, self.state.time_ns, canister.state.version)?;
        let kept = keep(&mut canister, replaced.as_deref(), new)?;
        self.admit(canister)?;
        Ok(Done::Reply(encode(&UploadCanisterSnapshotMetadataResult {
            snapshot_id: kept.id,
        })))
    }

    pub(super) fn upload_canister_snapshot_data(
        &mut self,
        call: &ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: UploadCanisterSnapshotDataArgs = decode(call.argument)?;
        let mut canister = self.draft(call, &arguments.canister_id)?;
        let (id, found) = snapshot(&canister, &arguments.snapshot_id)?;
        let mut changed = Snapshot::clone(found);
        let SnapshotCode::Upload { bytes, size } = &mut changed.code else {
            let text = "Only canister snapshots created by metadata upload can be mutated.";
            return Err(Reject::new(409, text));
        };
        let chunk = arguments.chunk;
        let length = chunk.len() as u64;
        match arguments.kind {
            SnapshotDataOffset::WasmModule { offset } => {
                check_bounds(offset, length, *size)?;
                *bytes = bytes.written(offset, &chunk);
            }
            SnapshotDataOffset::WasmMemory { offset } => {
                check_bounds(offset, length, bytes_of(&changed.heap))?;
                changed.heap = changed.heap.written(offset, &chunk);
            }
            SnapshotDataOffset::StableMemory { offset } => {
                check_bounds(offset, length, bytes_of(&changed.stable))?;
                changed.stable = changed.stable.written(offset, &chunk);
            }
            SnapshotDataOffset::WasmChunk => {
                insert_chunk(&mut changed.chunks, chunk)?;
            }
        }
        canister.stored.snapshots.insert(id, Arc::new(changed));
        self.admit(canister)?;
        self.totals.time += length;
        nothing()
    }
}

/// A snapshot of zeros as its metadata says.
fn uploaded(
    arguments: UploadCanisterSnapshotMetadataArgs,
    now_ns: u64,
    canister_version: u64,
) -> Result<Snapshot, Reject> {
    let module_size = arguments.wasm_module_size;
    if module_size > MODULE_BYTES_MAX as u64 {
        return Err(invalid(&format!(
            "a module of {module_size} bytes is larger than {MODULE_BYTES_MAX}"
        )));
    }
    let stable_max = STABLE_PAGES_MAX * PAGE_BYTES as u64;
    let heap_pages = pages("Wasm memory", arguments.wasm_memory_size, HEAP_BYTES_MAX)?;
    let stable_pages = pages("stable memory", arguments.stable_memory_size, stable_max)?;
    let data = arguments.certified_data;
    if data.len() > CERTIFIED_DATA_BYTES_MAX {
        return Err(invalid(&format!(
            "certified data of {} bytes is longer than {CERTIFIED_DATA_BYTES_MAX}",
            data.len()
        )));
    }
    if arguments.globals.len() > GLOBALS_MAX {
        return Err(invalid(&format!(
            "{} globals are more than {GLOBALS_MAX}",
            arguments.globals.len()
        )));
    }
    let globals: Result<Vec<GlobalValue>, Reject> =
        arguments.globals.into_iter().map(given_global).collect();
    let module_pages = module_size.div_ceil(PAGE_BYTES as u64);
    Ok(Snapshot {
        taken_at_ns: now_ns,
        canister_version,
        code: SnapshotCode::Upload {
            bytes: PagedMemory::from_blocks(module_pages, Vec::new()),
            size: module_size,
        },
        globals: globals?,
        heap: <Heap as Paged>::from_blocks(heap_pages, Vec::new()),
        stable: PagedMemory::from_blocks(stable_pages, Vec::new()),
        chunks: Chunks::default(),
        certified_data: data,
        global_timer_ns: arguments.global_timer.map(|timer| match timer {
            CanisterTimer::Inactive => 0,
            CanisterTimer::Active(deadline_ns) => deadline_ns,
        }),
        low_memory: arguments
            .on_low_wasm_memory_hook_status
            .map(|status| match status {
                OnLowWasmMemoryHookStatus::ConditionNotSatisfied => LowMemory::Enough,
                OnLowWasmMemoryHookStatus::Ready => LowMemory::Due,
                OnLowWasmMemoryHookStatus::Executed => LowMemory::Done,
            }),
        digest: Cached::default(),
    })
}

fn pages(what: &str, bytes: u64, most: u64) -> Result<u64, Reject> {
    if bytes > most {
        return Err(invalid(&format!(
            "{what} of {bytes} bytes is larger than {most}"
        )));
    }
    if !bytes.is_multiple_of(PAGE_BYTES as u64) {
        return Err(invalid(&format!(
            "{what} of {bytes} bytes is not made of pages of {PAGE_BYTES}"
        )));
    }
    Ok(bytes / PAGE_BYTES as u64)
}

fn given_global(global: SnapshotMetadataGlobal) -> Result<GlobalValue, Reject> {
    Ok(match global {
        SnapshotMetadataGlobal::I32(value) => GlobalValue::I32(value),
        SnapshotMetadataGlobal::I64(value) => GlobalValue::I64(value),
        SnapshotMetadataGlobal::F32(value) => GlobalValue::F32(value.to_bits()),
        SnapshotMetadataGlobal::F64(value) => GlobalValue::F64(value.to_bits()),
        SnapshotMetadataGlobal::V128(value) => GlobalValue::V128(
            u128::try_from(&value.0)
                .map_err(|_| invalid(&format!("a global of 128 bits cannot be {value}")))?,
        ),
    })
}

fn shown_global(global: &GlobalValue) -> Option<SnapshotMetadataGlobal> {
    Some(match *global {
        GlobalValue::I32(value) => SnapshotMetadataGlobal::I32(value),
        GlobalValue::I64(value) => SnapshotMetadataGlobal::I64(value),
        GlobalValue::F32(bits) => SnapshotMetadataGlobal::F32(f32::from_bits(bits)),
        GlobalValue::F64(bits) => SnapshotMetadataGlobal::F64(f64::from_bits(bits)),
        GlobalValue::V128(bits) => SnapshotMetadataGlobal::V128(bits.into()),
    })
}

fn bytes_of(memory: &impl Paged) -> u64 {
    memory.size_pages() * PAGE_BYTES as u64
}

fn slice(memory: &impl Paged, offset: u64, size: u64) -> Result<Vec<u8>, Reject> {
    check_slice(offset, size, bytes_of(memory))?;
    Ok(read(memory, offset, size))
}

fn check_slice(offset: u64, size: u64, bytes: u64) -> Result<(), Reject> {
    if size > SLICE_BYTES_MAX {
        let text = format!("Requested slice too large: {size} > {SLICE_BYTES_MAX}");
        return Err(Reject::new(408, text));
    }
    check_bounds(offset, size, bytes)
}

fn check_bounds(offset: u64, size: u64, bytes: u64) -> Result<(), Reject> {
    if offset.checked_add(size).is_some_and(|end| end <= bytes) {
        return Ok(());
    }
    let text = format!(
        "Invalid subslice into wasm module / main memory / stable memory: offset: {offset}, size: {size}"
    );
    Err(Reject::new(408, text))
}

fn invalid(reason: &str) -> Reject {
    let text = format!("Could not validate the settings: {reason}");
    Reject::new(504, text)
}

fn no_chunk(hash: &[u8]) -> Reject {
    let text = format!(
        "Error from Wasm chunk store: Chunk hash {} was not found.",
        hex::encode(hash)
    );
    Reject::new(504, text)
}
