//! The system's rules for a module, and what later steps need to know about it.
//!
//! # Errors
//! Texts follow the replica's. Parsing and typing errors are wasmparser's.
use crate::{
    host::{Imports, TABLE_ELEMENTS_MAX},
    module::ModuleError,
};
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{
    ConstExpr, DataKind, ElementItems, ElementKind, ExternalKind, FuncType,
    FuncValidatorAllocations, FunctionBody, GlobalType, MemoryType, Operator, Parser, Payload,
    SubType, TypeRef, ValidPayload, Validator, WasmFeatures, types::Types,
};

const FUNCTIONS_MAX: u32 = 50_000;
const GLOBALS_MAX: usize = 1_000;
const METHODS_MAX: usize = 1_000;
const METHOD_NAMES_BYTES_MAX: usize = 20_000;
const METADATA_SECTIONS_MAX: usize = 16;
const METADATA_BYTES_MAX: usize = 1024 * 1024;
const CODE_BYTES_MAX: usize = 10 * 1024 * 1024;
const FUNCTION_INSTRUCTIONS_MAX: usize = 1_000_000;
/// Export names that start with this belong to the engine.
pub(crate) const RESERVED_PREFIX: &str = "lockstep ";
const ENTRY_POINTS: [&str; 7] = [
    "canister_init",
    "canister_inspect_message",
    "canister_pre_upgrade",
    "canister_post_upgrade",
    "canister_heartbeat",
    "canister_global_timer",
    "canister_on_low_wasm_memory",
];
const METHOD_KINDS: [&str; 3] = [
    "canister_update ",
    "canister_query ",
    "canister_composite_query ",
];

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
    /// The first instruction that changes a table or drops a segment.
    drops: Option<&'static str>,
    /// Initial size of each table.
    tables: Vec<u64>,
}

/// Checks a module against the rules.
pub(crate) fn validate(wasm: &[u8], imports: &Imports) -> Result<Facts, ModuleError> {
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
                facts.check_body(&mut function, &body)?;
                allocations = function.into_allocations();
            }
            ValidPayload::End(end) => types = Some(end),
            ValidPayload::Ok | ValidPayload::Parser(_) => facts.after_typing(payload)?,
        }
    }
    let types = types.ok_or_else(|| ModuleError("Wasm module is incomplete".into()))?;
    facts.check_totals(&types)?;
    Ok(facts)
}

/// The name of an instruction whose effect an instance made anew would lack.
fn drop_name(operator: &Operator<'_>) -> Option<&'static str> {
    use Operator as O;
    Some(match operator {
        O::TableSet { .. } => "table.set",
        O::TableGrow { .. } => "table.grow",
        O::TableFill { .. } => "table.fill",
        O::TableCopy { .. } => "table.copy",
        O::TableInit { .. } => "table.init",
        O::ElemDrop { .. } => "elem.drop",
        O::DataDrop { .. } => "data.drop",
        _ => return None,
    })
}

impl Facts {
    /// The type of a function of the module.
    pub(crate) fn signature(&self, function: u32) -> &FuncType {
        self.types[self.function_types[function as usize] as usize].unwrap_func()
    }

    /// Types a body and notes what its calls need.
    fn check_body<T: wasmparser::WasmModuleResources>(
        &mut self,
        validator: &mut wasmparser::FuncValidator<T>,
        body: &FunctionBody<'_>,
    ) -> Result<(), ModuleError> {
        let mut reader = body.get_binary_reader();
        validator.read_locals(&mut reader)?;
        let mut instructions = 0;
        let mut operands_max = 0;
        let mut calls = false;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset()?;
            validator.op(offset, &operator)?;
            self.drops = self.drops.or_else(|| drop_name(&operator));
            calls |= match operator {
                Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                    function_index >= self.imported_functions
                }
                Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => true,
                _ => false,
            };
            operands_max = operands_max.max(validator.operand_stack_height());
            instructions += 1;
        }
        operators.finish()?;
        if instructions > FUNCTION_INSTRUCTIONS_MAX {
            return refuse(format!(
                "Wasm module contains a function of {instructions} instructions, more than {FUNCTION_INSTRUCTIONS_MAX}"
            ));
        }
        self.frame_slots.push(validator.len_locals() + operands_max);
        self.calls.push(calls);
        Ok(())
    }

    /// Rules whose breach typing would report less clearly.
    fn before_typing(
        &mut self,
        payload: &Payload<'_>,
        imports: &Imports,
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
                if memories.iter().any(|memory| memory.memory64) {
                    return refuse(
                        "Wasm module has a 64-bit memory, which is not supported yet; build for wasm32",
                    );
                }
                self.memory = memories.first().copied();
                Ok(())
            }
            Payload::CodeSectionStart { size, .. } if *size as usize > CODE_BYTES_MAX => refuse(
                format!("Wasm module code section is {size} bytes, more than {CODE_BYTES_MAX}"),
            ),
            _ => Ok(()),
        }
    }

    fn check_import(
        &mut self,
        imports: &Imports,
        module: &str,
        name: &str,
        ty: TypeRef,
    ) -> Result<(), ModuleError> {
        if !imports.provides(module, name) {
            return refuse(format!(
                "Wasm module has an invalid import section. Module imports function '{name}' from '{module}' that is not exported by the runtime."
            ));
        }
        let TypeRef::Func(ty) = ty else {
            return refuse(format!(
                "Wasm module has an invalid import section. Import '{name}' from '{module}' is not a function."
            ));
        };
        self.function_types.push(ty);
        self.imported_functions += 1;
        if module == "lockstep" {
            match name {
                "fork" => self.forks = true,
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
                    self.tables.push(table?.ty.initial);
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

    fn check_export(
        &mut self,
        name: &str,
        kind: ExternalKind,
        index: u32,
    ) -> Result<(), ModuleError> {
        if name.starts_with(RESERVED_PREFIX) {
            return refuse(format!(
                "Wasm module has an invalid export section. Exporting reserved symbol '{name}' is not allowed."
            ));
        }
        let entry = ENTRY_POINTS.contains(&name)
            || METHOD_KINDS.iter().any(|prefix| name.starts_with(prefix));
        if !entry {
            if name.starts_with("canister_") {
                return refuse(format!(
                    "Wasm module has an invalid export section. Exporting reserved function '{name}' with \"canister_\" prefix"
                ));
            }
            return Ok(());
        }
        if kind != ExternalKind::Func {
            return refuse(format!(
                "Wasm module has an invalid export section. Export '{name}' is not a function."
            ));
        }
        self.entries.insert(name.to_owned(), index);
        Ok(())
    }

    fn add_segment(&mut self, offset: &ConstExpr<'_>, bytes: &[u8]) -> Result<(), ModuleError> {
        let offset = constant(offset)?;
        let memory_bytes = self.memory.map_or(0, |memory| {
            memory.initial as usize * crate::heap::PAGE_BYTES
        });
        if offset + bytes.len() > memory_bytes {
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

    fn add_metadata(&mut self, section: &str, content: &[u8]) -> Result<(), ModuleError> {
        let (public, name) = match (
            section.strip_prefix("icp:public "),
            section.strip_prefix("icp:private "),
        ) {
            (Some(name), _) => (true, name),
            (_, Some(name)) => (false, name),
            _ if section.starts_with("icp:") => {
                return refuse(format!(
                    "Wasm module has an invalid custom section. Section '{section}' is neither public nor private."
                ));
            }
            _ => return Ok(()),
        };
        if self
            .metadata
            .insert(name.to_owned(), (public, content.to_vec()))
            .is_some()
        {
            return refuse(format!(
                "Wasm module has an invalid custom section. Duplicate custom section: '{name}'."
            ));
        }
        let bytes: usize = self
            .metadata
            .iter()
            .map(|(name, (_, content))| name.len() + content.len())
            .sum();
        if self.metadata.len() > METADATA_SECTIONS_MAX || bytes > METADATA_BYTES_MAX {
            return refuse(format!(
                "Wasm module has an invalid custom section. More than {METADATA_SECTIONS_MAX} sections or {METADATA_BYTES_MAX} bytes."
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
        for (name, &function) in &self.entries {
            let signature = types[types.as_ref().core_function_at(function)].unwrap_func();
            if !signature.params().is_empty() || !signature.results().is_empty() {
                return refuse(format!(
                    "Wasm module has an invalid function signature. Expected type () -> () for '{name}'."
                ));
            }
        }
        self.check_fork(types)?;
        let mut names = BTreeSet::new();
        for entry in self.entries.keys() {
            let Some(name) = METHOD_KINDS
                .iter()
                .find_map(|prefix| entry.strip_prefix(prefix))
            else {
                continue;
            };
            if !names.insert(name) {
                return refuse(format!(
                    "Wasm module has an invalid export section. Method '{name}' is exported as more than one of update, query and composite query."
                ));
            }
        }
        let name_bytes: usize = names.iter().map(|name| name.len()).sum();
        if names.len() > METHODS_MAX || name_bytes > METHOD_NAMES_BYTES_MAX {
            return refuse(format!(
                "Wasm module has an invalid export section. More than {METHODS_MAX} methods or {METHOD_NAMES_BYTES_MAX} bytes of names."
            ));
        }
        Ok(())
    }
}

impl Facts {
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
        match self.drops {
            Some(instruction) => refuse(format!(
                "Wasm module imports 'fork' from 'lockstep' and contains '{instruction}', whose effect a task would not see"
            )),
            None => Ok(()),
        }
    }
}

/// The offset of an active segment.
fn constant(offset: &ConstExpr<'_>) -> Result<usize, ModuleError> {
    match offset.get_operators_reader().read()? {
        Operator::I32Const { value } => Ok(value.cast_unsigned() as usize),
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
