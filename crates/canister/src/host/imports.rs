//! The imports a module may name, by the width of its memory.
//!
//! # Design
//! Every import is defined once, over a [`Pointer`], and added to one set for 32-bit memories and to one
//! for 64-bit memories. A set knows the signature of each, so that validation and not the linker says
//! what is wrong with an import.
use super::Host;
use std::{collections::BTreeMap, fmt};
use wasmparser::ValType;
use wasmtime::{Caller, IntoFunc, Linker, WasmTy};

/// A number that modules pass.
pub(crate) trait Number: WasmTy + Copy {
    const TYPE: ValType;
}

impl Number for i32 {
    const TYPE: ValType = ValType::I32;
}

impl Number for i64 {
    const TYPE: ValType = ValType::I64;
}

impl Number for f32 {
    const TYPE: ValType = ValType::F32;
}

/// An address, a size or an index as wide as the module's memory: the specification's `I`.
pub(crate) trait Pointer: Number {
    fn widen(self) -> u64;

    /// The lower bits.
    fn narrow(value: u64) -> Self;
}

impl Pointer for i32 {
    fn widen(self) -> u64 {
        u64::from(self.cast_unsigned())
    }

    fn narrow(value: u64) -> Self {
        value as Self
    }
}

impl Pointer for i64 {
    fn widen(self) -> u64 {
        self.cast_unsigned()
    }

    fn narrow(value: u64) -> Self {
        value.cast_signed()
    }
}

/// The type of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) parameters: Vec<ValType>,
    pub(crate) results: Vec<ValType>,
}

/// What an import takes, the caller first.
pub(crate) trait Parameters {
    fn types() -> Vec<ValType>;
}

/// What an import gives.
pub(crate) trait Outcome {
    fn types() -> Vec<ValType>;
}

macro_rules! parameters {
    ($($argument:ident)*) => {
        impl<$($argument: Number),*> Parameters for (Caller<'_, Host>, $($argument,)*) {
            fn types() -> Vec<ValType> {
                vec![$($argument::TYPE),*]
            }
        }
    };
}

parameters!();
parameters!(A);
parameters!(A B);
parameters!(A B C);
parameters!(A B C D);
parameters!(A B C D E);
parameters!(A B C D E F);
parameters!(A B C D E F G);
parameters!(A B C D E F G H);

impl Outcome for wasmtime::Result<()> {
    fn types() -> Vec<ValType> {
        Vec::new()
    }
}

impl<N: Number> Outcome for wasmtime::Result<N> {
    fn types() -> Vec<ValType> {
        vec![N::TYPE]
    }
}

/// The imports of one width.
pub(crate) struct Imports {
    pub(crate) linker: Linker<Host>,
    /// By module and name.
    signatures: BTreeMap<&'static str, BTreeMap<&'static str, Signature>>,
}

impl fmt::Debug for Imports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = formatter.debug_map();
        map.entries(&self.signatures).finish()
    }
}

impl Imports {
    fn new(engine: &wasmtime::Engine) -> Self {
        Self {
            linker: Linker::new(engine),
            signatures: BTreeMap::new(),
        }
    }

    pub(crate) fn add<P: Parameters, R: Outcome>(
        &mut self,
        module: &'static str,
        name: &'static str,
        function: impl IntoFunc<Host, P, R>,
    ) {
        self.linker
            .func_wrap(module, name, function)
            .expect("each import is defined once");
        let signature = Signature {
            parameters: P::types(),
            results: R::types(),
        };
        let names = self.signatures.entry(module).or_default();
        names.insert(name, signature);
    }

    #[cfg(test)]
    pub(crate) fn names(&self, module: &str) -> impl Iterator<Item = &'static str> {
        self.signatures[module].keys().copied()
    }

    pub(crate) fn signature(&self, module: &str, name: &str) -> Option<&Signature> {
        self.signatures.get(module)?.get(name)
    }
}

/// The imports of both widths.
#[derive(Debug)]
pub(crate) struct ImportSets {
    /// For modules with 32-bit memories or none.
    pub(crate) narrow: Imports,
    /// For modules with 64-bit memories.
    pub(crate) wide: Imports,
}

impl ImportSets {
    pub(crate) fn new(engine: &wasmtime::Engine) -> Self {
        Self {
            narrow: Imports::new(engine),
            wide: Imports::new(engine),
        }
    }

    pub(crate) fn of(&self, memory64: bool) -> &Imports {
        if memory64 { &self.wide } else { &self.narrow }
    }

    /// Whether modules of either width may name it.
    pub(crate) fn provide(&self, module: &str, name: &str) -> bool {
        [&self.narrow, &self.wide]
            .iter()
            .any(|imports| imports.signature(module, name).is_some())
    }
}
