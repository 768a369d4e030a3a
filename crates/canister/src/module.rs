//! A compiled canister module.
use crate::{
    backtrace::FunctionNames,
    heap::{Heap, PAGE_BYTES},
    host::{Host, ImportSets},
    instances::{Instances, ModuleId},
    instrument,
    memory::PIECE_BYTES,
    state::GlobalValue,
    validate::{self, Facts, Segment},
};
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    io::Read,
    sync::{Arc, OnceLock},
};
use wasmparser::ValType;
use wasmtime::InstancePre;

/// Most bytes of a module, installed or unpacked.
pub const MODULE_BYTES_MAX: usize = 100 * 1024 * 1024;

/// Why a module was refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ModuleError(pub String);

/// A validated, instrumented, compiled module.
pub struct Module {
    wasm: Vec<u8>,
    hash: [u8; 32],
    facts: Facts,
    persistent_globals: Vec<String>,
    code: InstancePre<Host>,
    function_names: FunctionNames,
    id: ModuleId,
    instances: Arc<Instances>,
    pieces: OnceLock<Vec<[u8; 32]>>,
}

impl Drop for Module {
    fn drop(&mut self) {
        self.instances.forget(self.id);
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Module")
            .field("hash", &hex::encode(self.hash))
            .field("bytes", &self.wasm.len())
            .finish_non_exhaustive()
    }
}

impl Module {
    pub(crate) fn compile(
        engine: &wasmtime::Engine,
        imports: &ImportSets,
        instances: &Arc<Instances>,
        installed: &[u8],
    ) -> Result<Self, ModuleError> {
        let wasm = unpack(installed)?;
        let mut facts = validate::validate(&wasm, imports)?;
        let instrumented = instrument::instrument(&wasm, &facts)?;
        (facts.frame_slots, facts.calls) = (Vec::new(), Vec::new());
        (facts.types, facts.function_types) = (Vec::new(), Vec::new());
        let function_names = FunctionNames::of(&wasm, facts.functions);
        let compiled = wasmtime::Module::from_binary(engine, &instrumented)
            .map_err(|error| ModuleError(format!("Wasm module cannot be compiled: {error:#}")))?;
        let linker = &imports.of(facts.memory64()).linker;
        let code = linker.instantiate_pre(&compiled).map_err(|error| {
            ModuleError(format!(
                "Wasm module has an invalid import section. {error:#}"
            ))
        })?;
        let mutable = facts
            .globals
            .iter()
            .enumerate()
            .filter(|(_, ty)| ty.mutable);
        let persistent_globals = mutable
            .map(|(index, _)| instrument::global_export(index as u32))
            .collect();
        Ok(Self {
            wasm: installed.to_vec(),
            hash: Sha256::digest(installed).into(),
            facts,
            persistent_globals,
            code,
            function_names,
            id: instances.next_id(),
            instances: Arc::clone(instances),
            pieces: OnceLock::new(),
        })
    }

    /// The module's bytes as they were installed.
    #[must_use]
    pub fn wasm(&self) -> &[u8] {
        &self.wasm
    }

    /// SHA-256 of [`Self::wasm`], as the Internet Computer reports it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// BLAKE3 of each [`PIECE_BYTES`] of [`Self::wasm`], the last of which may be shorter. Computed once.
    #[must_use]
    pub fn pieces(&self) -> &[[u8; 32]] {
        self.pieces.get_or_init(|| {
            let pieces = self.wasm.chunks(PIECE_BYTES);
            pieces
                .map(|piece| *blake3::hash(piece).as_bytes())
                .collect()
        })
    }

    /// The content of custom section `icp:public NAME` or `icp:private NAME`; the flag says public.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, (bool, Vec<u8>)> {
        &self.facts.metadata
    }

    /// Whether it exports `canister_query NAME`.
    #[must_use]
    pub fn has_query(&self, name: &str) -> bool {
        self.has_entry(&format!("canister_query {name}"))
    }

    /// Whether it exports `canister_composite_query NAME`: a query that may not run as an update.
    #[must_use]
    pub fn has_composite_query(&self, name: &str) -> bool {
        self.has_entry(&format!("canister_composite_query {name}"))
    }

    /// Whether it exports `canister_update NAME`.
    #[must_use]
    pub fn has_update(&self, name: &str) -> bool {
        self.has_entry(&format!("canister_update {name}"))
    }

    /// Whether it exports `canister_heartbeat`.
    #[must_use]
    pub fn has_heartbeat(&self) -> bool {
        self.has_entry("canister_heartbeat")
    }

    /// Whether it exports `canister_global_timer`.
    #[must_use]
    pub fn has_global_timer(&self) -> bool {
        self.has_entry("canister_global_timer")
    }

    /// Whether it exports `canister_on_low_wasm_memory`.
    #[must_use]
    pub fn has_low_memory_hook(&self) -> bool {
        self.has_entry("canister_on_low_wasm_memory")
    }

    /// Whether upgrades to and from it are about keeping its heap: Motoko's enhanced orthogonal
    /// persistence.
    #[must_use]
    pub fn keeps_heap(&self) -> bool {
        matches!(
            self.facts.metadata.get("enhanced-orthogonal-persistence"),
            Some((false, _))
        )
    }

    /// Whether its memory has 64-bit addresses.
    #[must_use]
    pub fn memory64(&self) -> bool {
        self.facts.memory64()
    }

    /// Pages that its memory has at least and at most, if it has one.
    pub(crate) fn memory_pages(&self) -> Option<(u64, u64)> {
        let memory = self.facts.memory?;
        let most = self.heap_bytes_max() / PAGE_BYTES as u64;
        Some((memory.initial, memory.maximum.unwrap_or(most).min(most)))
    }

    pub(crate) fn has_entry(&self, export: &str) -> bool {
        self.facts.entries.contains_key(export)
    }

    pub(crate) fn has_start(&self) -> bool {
        self.facts.start.is_some()
    }

    /// Whether it imports anything of sessions.
    #[must_use]
    pub fn uses_sessions(&self) -> bool {
        self.facts.uses_sessions
    }

    /// The exports of the globals that live on between messages, in the module's order.
    pub(crate) fn persistent_globals(&self) -> &[String] {
        &self.persistent_globals
    }

    /// All functions, imported ones first.
    pub(crate) fn functions(&self) -> u32 {
        self.facts.functions
    }

    pub(crate) fn function_names(&self) -> &FunctionNames {
        &self.function_names
    }

    /// How far its memory may grow.
    pub(crate) fn heap_bytes_max(&self) -> u64 {
        self.facts.heap_bytes_max()
    }

    /// What its instances are kept under.
    pub(crate) fn id(&self) -> ModuleId {
        self.id
    }

    /// Whether an instance that has run is as one made anew, once memory and globals are set.
    pub(crate) fn has_reusable_instances(&self) -> bool {
        self.facts.drops.is_none()
    }

    pub(crate) fn code(&self) -> &InstancePre<Host> {
        &self.code
    }

    /// Whether these can be the mutable globals of an instance, in the module's order.
    #[must_use]
    pub fn accepts_globals(&self, globals: &[GlobalValue]) -> bool {
        let mutable = self.facts.globals.iter().filter(|ty| ty.mutable);
        let types = mutable.map(|ty| ty.content_type);
        types.eq(globals.iter().map(|global| match global {
            GlobalValue::I32(_) => ValType::I32,
            GlobalValue::I64(_) => ValType::I64,
            GlobalValue::F32(_) => ValType::F32,
            GlobalValue::F64(_) => ValType::F64,
            GlobalValue::V128(_) => ValType::V128,
        }))
    }

    /// Whether the heap of an instance can have so many pages.
    #[must_use]
    pub fn accepts_heap(&self, pages: u64) -> bool {
        let (least, most) = self.memory_pages().unwrap_or((0, 0));
        (least..=most).contains(&pages)
    }

    /// The heap before the start function: zeros and the active data segments, in order.
    pub(crate) fn initial_heap(&self) -> Heap {
        let size_pages = self.facts.memory.map_or(0, |memory| memory.initial);
        let mut pages = BTreeMap::new();
        for Segment { offset, bytes } in &self.facts.segments {
            let mut written = 0;
            while written < bytes.len() {
                let (page, start) = (
                    (offset + written) / PAGE_BYTES,
                    (offset + written) % PAGE_BYTES,
                );
                let count = (PAGE_BYTES - start).min(bytes.len() - written);
                let page = pages
                    .entry(page as u64)
                    .or_insert_with(|| vec![0; PAGE_BYTES]);
                page[start..start + count].copy_from_slice(&bytes[written..written + count]);
                written += count;
            }
        }
        Heap::from_pages(size_pages, pages)
    }
}

/// Undoes gzip, which modules may be installed in.
fn unpack(installed: &[u8]) -> Result<Cow<'_, [u8]>, ModuleError> {
    let too_large = |size| {
        ModuleError(format!(
            "Wasm module size of {size} exceeds the maximum allowed size of {MODULE_BYTES_MAX}."
        ))
    };
    if installed.len() > MODULE_BYTES_MAX {
        return Err(too_large(installed.len()));
    }
    if !installed.starts_with(&[0x1f, 0x8b, 0x08]) {
        return Ok(Cow::Borrowed(installed));
    }
    let mut wasm = Vec::new();
    flate2::read::GzDecoder::new(installed)
        .take(MODULE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut wasm)
        .map_err(|error| ModuleError(format!("Wasm module is not valid gzip: {error}")))?;
    if wasm.len() > MODULE_BYTES_MAX {
        Err(too_large(wasm.len()))
    } else {
        Ok(Cow::Owned(wasm))
    }
}
