//! A canister's replicated state.
use crate::{
    engine::{Effects, Module},
    heap::Heap,
    memory::PagedMemory,
};
use ic_principal::Principal;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

/// The bits of a mutable Wasm global between messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalValue {
    /// An `i32`.
    I32(i32),
    /// An `i64`.
    I64(i64),
    /// An `f32`, by its bits.
    F32(u32),
    /// An `f64`, by its bits.
    F64(u64),
    /// A `v128`.
    V128(u128),
}

/// Code and memories of an installed canister.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The compiled module; its source bytes and their SHA-256 are part of it.
    pub module: Arc<Module>,
    /// The Wasm heap.
    pub heap: Heap,
    /// Mutable globals, in the module's order.
    pub globals: Vec<GlobalValue>,
}

impl Installed {
    /// Code whose `Init` or `PostUpgrade` has yet to run: empty heap, no globals.
    #[must_use]
    pub fn new(module: Arc<Module>) -> Self {
        Self {
            module,
            heap: Heap::default(),
            globals: Vec::new(),
        }
    }
}

/// A canister. Cheap to clone: memories share pages.
#[derive(Clone, Debug)]
pub struct CanisterState {
    /// Its id.
    pub id: Principal,
    /// Who may manage it.
    pub controllers: BTreeSet<Principal>,
    /// Balance.
    pub cycles: u128,
    /// Counts changes of code, settings and state (`ic0.canister_version`).
    pub version: u64,
    /// Set by `ic0.certified_data_set`; at most 32 bytes.
    pub certified_data: Vec<u8>,
    /// Deadline of the global timer, 0 when off; nanoseconds.
    pub global_timer_ns: u64,
    /// Stable memory; kept by upgrades.
    pub stable: PagedMemory,
    /// Code, heap and globals, when code is installed.
    pub installed: Option<Installed>,
}

impl CanisterState {
    /// A canister without code, at version 0.
    #[must_use]
    pub fn new(id: Principal, controllers: BTreeSet<Principal>, cycles: u128) -> Self {
        Self {
            id,
            controllers,
            cycles,
            version: 0,
            certified_data: Vec::new(),
            global_timer_ns: 0,
            stable: PagedMemory::default(),
            installed: None,
        }
    }

    /// Takes over what a message changed in this canister; its sessions go to
    /// [`Sessions::apply`](crate::session::Sessions::apply). The version is the caller's to bump.
    ///
    /// # Panics
    /// When no code is installed: then no message can have run.
    pub fn apply(&mut self, effects: &Effects) {
        let installed = self
            .installed
            .as_mut()
            .expect("effects come from installed code");
        installed.heap = effects.heap.clone();
        installed.globals.clone_from(&effects.globals);
        self.stable = effects.stable.clone();
        if let Some(data) = &effects.certified_data {
            self.certified_data.clone_from(data);
        }
        if let Some(deadline_ns) = effects.global_timer_ns {
            self.global_timer_ns = deadline_ns;
        }
    }

    /// BLAKE3 over every field.
    ///
    /// The encoding: the tag `lockstep canister 3`, then the fields in the order of the
    /// declaration. Integers are little-endian; byte strings and lists are preceded by their
    /// length as u64; stable memory and heap are their digests ([`PagedMemory::digest`],
    /// [`Heap::digest`]); `installed` is one byte (0 or 1),
    /// then the SHA-256 of the module, the heap and the globals, each global a tag byte (0 i32,
    /// 1 i64, 2 f32, 3 f64, 4 v128) and its bits in 16 bytes.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut encoder = Encoder::new(b"lockstep canister 3");
        encoder.bytes(self.id.as_slice());
        encoder.u64(self.controllers.len() as u64);
        for controller in &self.controllers {
            encoder.bytes(controller.as_slice());
        }
        encoder.raw(&self.cycles.to_le_bytes());
        encoder.u64(self.version);
        encoder.bytes(&self.certified_data);
        encoder.u64(self.global_timer_ns);
        encoder.raw(&self.stable.digest());
        encoder.raw(&[u8::from(self.installed.is_some())]);
        if let Some(installed) = &self.installed {
            encoder.raw(&installed.module.hash());
            encoder.raw(&installed.heap.digest());
            encoder.u64(installed.globals.len() as u64);
            for global in &installed.globals {
                let (tag, bits) = match *global {
                    GlobalValue::I32(value) => (0, u128::from(value.cast_unsigned())),
                    GlobalValue::I64(value) => (1, u128::from(value.cast_unsigned())),
                    GlobalValue::F32(bits) => (2, u128::from(bits)),
                    GlobalValue::F64(bits) => (3, u128::from(bits)),
                    GlobalValue::V128(bits) => (4, bits),
                };
                encoder.raw(&[tag]);
                encoder.raw(&bits.to_le_bytes());
            }
        }
        encoder.finish()
    }
}

/// Feeds the canonical encoding of replicated state to a hash.
pub(crate) struct Encoder(blake3::Hasher);

impl Encoder {
    pub(crate) fn new(tag: &[u8]) -> Self {
        let mut encoder = Self(blake3::Hasher::new());
        encoder.bytes(tag);
        encoder
    }

    /// Bytes of a length fixed by their place.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Bytes of any length, after that length.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.raw(bytes);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
