//! The system's rules for a module, and what later steps need to know about it.
//!
//! # Errors
//! Texts follow the replica's. Parsing and typing errors are wasmparser's.
mod body;
mod exports;

use crate::{
    heap::{HEAP_BYTES_MAX, HEAP64_BYTES_MAX, PAGE_BYTES},
    host::{ImportSets, Signature, TABLE_ELEMENTS_MAX},
    module::ModuleError,
};
use std::collections::BTreeMap;
use wasmparser::{
    ConstExpr, DataKind, ElementItems, ElementKind, FuncType, FuncValidatorAllocations, GlobalType,
    MemoryType, Operator, Parser, Payload, SubType, TypeRef, ValidPayload, Validator, WasmFeatures,
    types::Types,
};

const FUNCTIONS_MAX: u32 = 50_000;
const GLOBALS_MAX: usize = 1_000;
const CODE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Export names that start with this belong to the engine.
pub(crate) const RESERVED_PREFIX: &str = "lockstep ";
/// The Wasm proposals a canister may use.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::BULK_MEMORY_OPT)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::FLOATS);

/// An active data segment: where its bytes go when the canister is installed.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What is known about a valid module.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) types: Vec<SubType>,
    /// Of all functions, imported ones first: the index of the type.
    pub(crate) function_types: Vec<u32>,
    pub(crate) imported_functions: u32,
    /// Modules and names of the imported functions, in order.
    imports: Vec<(String, String)>,
    /// All functions, imported ones first.
    pub(crate) functions: u32,
    pub(crate) globals: Vec<GlobalType>,
    pub(crate) memory: Option<MemoryType>,
    pub(crate) start: Option<u32>,
    /// Functions of exported entry points and methods, by full names.
    pub(crate) entries: BTreeMap<String, u32>,
    pub(crate) metadata: BTreeMap<String, (bool, Vec<u8>)>,
    /// Parameters, locals and operands a call of each defined function may hold.
    pub(crate) frame_slots: Vec<u32>,
    /// Whether each defined function calls functions that are not imported, also as its last act.
    pub(crate) calls: Vec<bool>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) uses_sessions: bool,
    /// Whether it imports `lockstep.fork`.
    pub(crate) forks: bool,
    /// Whether a table has 64-bit indices.
    table64: bool,
    /// The first instruction that counts elements by the width of a table's indices.
    counts: Option<&'static str>,
    /// The first instruction that changes a table or drops a segment.
    pub(crate) drops: Option<&'static str>,
    /// Initial size of each table.
    tables: Vec<u64>,
}

/// Checks a module against the rules.
pub(crate) fn validate(wasm: &[u8], imports: &ImportSets) -> Result<Facts, ModuleError> {
    let mut facts = Facts::default();
    let mut validator = Validator::new_with_features(FEATURES);
    let mut allocations = FuncValidatorAllocations::default();
    let mut types = None;
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        facts.before_typing(&payload, imports)?;
        match validator.payload(&payload)? {
            ValidPayload::Func(function, body) => {
                let mut function = function.into_validator(allocations);
                let index = facts.frame_slots.len();
                let found = body::check(index, facts.imported_functions, &mut function, &body)?;
                facts.frame_slots.push(found.slots);
                facts.calls.push(found.calls);
                facts.drops = facts.drops.or(found.drops);
                facts.counts = facts.counts.or(found.counts);
                allocations = function.into_allocations();
            }
            ValidPayload::End(end) => types = Some(end),
            ValidPayload::Ok | ValidPayload::Parser(_) => facts.after_typing(payload)?,
        }
    }
    let types = types.ok_or_else(|| ModuleError("Wasm module is incomplete".into()))?;
    facts.check_totals(&types)?;
    facts.check_signatures(&types, imports)?;
    Ok(facts)
}

impl Facts {
    /// The type of a function of the module.
    pub(crate) fn signature(&self, function: u32) -> &FuncType {
        self.types[self.function_types[function as usize] as usize].unwrap_func()
    }

    /// Rules whose breach typing would report less clearly.
    fn before_typing(
        &mut self,
        payload: &Payload<'_>,
        imports: &ImportSets,
    ) -> Result<(), ModuleError> {
        match payload {
            Payload::Version {
                encoding: wasmparser::Encoding::Component,
                ..
            } => refuse("Wasm component where a module is expected"),
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    let import = import?;
                    self.check_import(imports, import.module, import.name, import.ty)?;
                }
                Ok(())
            }
            Payload::MemorySection(section) => {
                let memories = section.clone().into_iter().collect::<Result<Vec<_>, _>>()?;
                if memories.len() > 1 {
                    return refuse(format!(
                        "Wasm module has {} memories, at most one is allowed",
                        memories.len()
                    ));
                }
                self.memory = memories.first().copied();
                let pages = self.memory.map_or(0, |memory| memory.initial);
                let pages_max = self.heap_bytes_max() / PAGE_BYTES as u64;
                if pages > pages_max {
                    return refuse(format!(
                        "Wasm module has a memory of {pages} pages, more than {pages_max}"
                    ));
                }
                Ok(())
            }
            Payload::CodeSectionStart { size, .. } if *size as usize > CODE_BYTES_MAX => {
                refuse(format!(
                    "Wasm module code section size of {size} exceeds the maximum allowed size of {CODE_BYTES_MAX}."
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_import(
        &mut self,
        imports: &ImportSets,
        module: &str,
        name: &str,
        ty: TypeRef,
    ) -> Result<(), ModuleError> {
        if !imports.provide(module, name) {
            return refuse(not_provided(module, name));
        }
        let TypeRef::Func(ty) = ty else {
            return refuse(format!(
                "Wasm module has an invalid import section. Import '{name}' from '{module}' is not a function."
            ));
        };
        self.function_types.push(ty);
        self.imported_functions += 1;
        self.imports.push((module.to_owned(), name.to_owned()));
        if module == "lockstep" {
            match name {
                "fork" => self.forks = true,
                name if name.starts_with("kernel_") => {}
                _ => self.uses_sessions = true,
            }
        }
        Ok(())
    }

    fn after_typing(&mut self, payload: Payload<'_>) -> Result<(), ModuleError> {
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    self.types.extend(group?.into_types());
                }
            }
            Payload::FunctionSection(section) => {
                self.functions = section.count();
                for ty in section {
                    self.function_types.push(ty?);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    let ty = table?.ty;
                    self.table64 |= ty.table64;
                    self.tables.push(ty.initial);
                }
                let elements: u64 = self.tables.iter().sum();
                if elements > TABLE_ELEMENTS_MAX {
                    return refuse(format!(
                        "Wasm module has tables of {elements} elements, more than {TABLE_ELEMENTS_MAX}"
                    ));
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    self.check_element(element?)?;
                }
            }
            Payload::GlobalSection(section) => {
                for global in section {
                    let ty = global?.ty;
                    if ty.mutable && matches!(ty.content_type, wasmparser::ValType::Ref(_)) {
                        return refuse(
                            "Wasm module has a mutable global of a reference type, which cannot be kept between messages",
                        );
                    }
                    self.globals.push(ty);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.check_export(export.name, export.kind, export.index)?;
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::DataSection(section) => {
                for data in section {
                    let data = data?;
                    if let DataKind::Active { offset_expr, .. } = data.kind {
                        self.add_segment(&offset_expr, data.data)?;
                    }
                }
            }
            Payload::CustomSection(section) => self.add_metadata(section.name(), section.data())?,
            _ => {}
        }
        Ok(())
    }

    fn add_segment(&mut self, offset: &ConstExpr<'_>, bytes: &[u8]) -> Result<(), ModuleError> {
        let offset = constant(offset)?;
        let memory_bytes = self
            .memory
            .map_or(0, |memory| memory.initial as usize * PAGE_BYTES);
        let end = offset.checked_add(bytes.len());
        if end.is_none_or(|end| end > memory_bytes) {
            return refuse(format!(
                "Wasm module has invalid data segment of {} bytes at {offset:#x}.",
                bytes.len()
            ));
        }
        self.segments.push(Segment {
            offset,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    fn check_element(&self, element: wasmparser::Element<'_>) -> Result<(), ModuleError> {
        let ElementKind::Active {
            table_index,
            offset_expr,
        } = element.kind
        else {
            return Ok(());
        };
        let offset = constant(&offset_expr)?;
        let count = match element.items {
            ElementItems::Functions(items) => items.count(),
            ElementItems::Expressions(_, items) => items.count(),
        };
        let size = self
            .tables
            .get(table_index.unwrap_or(0) as usize)
            .copied()
            .unwrap_or(0);
        if offset as u64 + u64::from(count) > size {
            return refuse(format!(
                "Wasm module has invalid element segment of {count} elements at {offset:#x}."
            ));
        }
        Ok(())
    }

    fn check_totals(&mut self, types: &Types) -> Result<(), ModuleError> {
        if self.functions > FUNCTIONS_MAX {
            return refuse(format!(
                "Wasm module defined {} functions which exceeds the maximum number allowed {FUNCTIONS_MAX}.",
                self.functions
            ));
        }
        self.functions += self.imported_functions;
        if self.globals.len() > GLOBALS_MAX {
            return refuse(format!(
                "Wasm module defined {} globals which exceeds the maximum number allowed {GLOBALS_MAX}.",
                self.globals.len()
            ));
        }
        self.check_methods(types)?;
        self.check_tables()?;
        self.check_fork(types)?;
        Ok(())
    }
}

impl Facts {
    /// Whether the module's memory has 64-bit addresses.
    pub(crate) fn memory64(&self) -> bool {
        self.memory.is_some_and(|memory| memory.memory64)
    }

    /// Whether it has a table.
    pub(crate) fn has_table(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Imports have the types that go with the width of the memory.
    fn check_signatures(&self, types: &Types, imports: &ImportSets) -> Result<(), ModuleError> {
        for (index, (module, name)) in (0..).zip(&self.imports) {
            let found = types[types.as_ref().core_function_at(index)].unwrap_func();
            let Some(Signature {
                parameters,
                results,
            }) = imports.of(self.memory64()).signature(module, name)
            else {
                return refuse(not_provided(module, name));
            };
            let (what, expected, got) = if found.params() != parameters {
                ("input params", parameters, found.params())
            } else if found.results() != results {
                ("return results", results, found.results())
            } else {
                continue;
            };
            return refuse(format!(
                "Wasm module has an invalid function signature. Expected {what} {expected:?} for '{name}', got {got:?}."
            ));
        }
        Ok(())
    }

    /// How far the memory may grow.
    pub(crate) fn heap_bytes_max(&self) -> u64 {
        if self.memory64() {
            HEAP64_BYTES_MAX
        } else {
            HEAP_BYTES_MAX
        }
    }

    /// Instrumentation charges for elements that 32 bits count.
    fn check_tables(&self) -> Result<(), ModuleError> {
        match self.counts {
            Some(instruction) if self.table64 => refuse(format!(
                "Wasm module has a table with 64-bit indices and contains '{instruction}', which only tables with 32-bit indices may have"
            )),
            _ => Ok(()),
        }
    }

    /// What a module that forks must have, and may not do: a task's instance starts with the tables and
    /// segments of the module.
    fn check_fork(&self, types: &Types) -> Result<(), ModuleError> {
        if !self.forks {
            return Ok(());
        }
        let table = (!self.tables.is_empty()).then(|| types.as_ref().table_at(0));
        if table.is_none_or(|table| table.element_type != wasmparser::RefType::FUNCREF) {
            return refuse(
                "Wasm module imports 'fork' from 'lockstep' and lacks a table of functions, which tasks are named by",
            );
        }
        if self.memory.is_none() {
            return refuse("Wasm module imports 'fork' from 'lockstep' and lacks a memory");
        }
        if self.memory64() || self.table64 {
            return refuse(
                "Wasm module imports 'fork' from 'lockstep' and has a 64-bit memory or table, which tasks cannot share; build for wasm32",
            );
        }
        match self.drops {
            Some(instruction) => refuse(format!(
                "Wasm module imports 'fork' from 'lockstep' and contains '{instruction}', whose effect a task would not see"
            )),
            None => Ok(()),
        }
    }
}

fn not_provided(module: &str, name: &str) -> String {
    format!(
        "Wasm module has an invalid import section. Module imports function '{name}' from '{module}' that is not exported by the runtime."
    )
}

/// The offset of an active segment.
fn constant(offset: &ConstExpr<'_>) -> Result<usize, ModuleError> {
    match offset.get_operators_reader().read()? {
        Operator::I32Const { value } => Ok(value.cast_unsigned() as usize),
        Operator::I64Const { value } => Ok(value.cast_unsigned() as usize),
        _ => refuse("Wasm module has an active segment whose offset is not a constant"),
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, ModuleError> {
    Err(ModuleError(reason.into()))
}

impl From<wasmparser::BinaryReaderError> for ModuleError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self(format!("Wasm module is not valid: {error}"))
    }
}
