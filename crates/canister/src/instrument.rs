//! Re-encodes a module so that it counts its instructions and its stack, and hands its state over.
//!
//! # Design
//! Three mutable globals and a memory are appended. The *counter* holds the instructions left of those
//! granted: every straight run of code subtracts its whole cost when it starts, bulk operations their size
//! when they run, and function entries, loop heads and bulk operations take more at the
//! [gate](crate::gate), by means of the *cursor* and the memory, when nothing is left. The *depth* holds the
//! stack units left: a function that calls others which call others takes its frame's units when it starts,
//! stops when there are none, and hands the rest to what it calls, so recursion ends at the same depth on
//! every machine, whatever frames the compiler lays out. Within functions counter and depth are [locals](body).
//! NaNs are made canonical [where their bits are seen](nan). Memory, first table, mutable globals and the start function
//! are exported under reserved names. Active data segments are emptied: the engine places their bytes once,
//! when the canister is installed. In modules that fork, a function is appended that enters a task by its
//! index in the table.
//!
//! # Invariants
//! Indices of the original types, functions, globals and segments do not change. A function that runs to its
//! end has subtracted the weights of the instructions that ran, and one for the call of it; checked against a
//! count of every instruction by itself.
mod body;
mod nan;
mod runs;
#[cfg(test)]
mod tests;

use crate::{
    gate::MEMORY_PAGES_MAX,
    module::ModuleError,
    validate::{Facts, RESERVED_PREFIX},
};
use wasm_encoder::{
    BranchHints, CodeSection, ConstExpr, DataSection, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, GlobalType, Instruction, MemoryType, Module, TypeSection,
    ValType,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmparser::{BinaryReader, CodeSectionReader, DataKind, Operator, Parser, Payload};

/// Stack units of a message; see [`frame_units`].
pub(crate) const DEPTH_UNITS: i32 = 4 * 1024 * 1024;

/// Reserved export names.
pub(crate) mod reserved {
    pub(crate) const COUNTER: &str = "lockstep counter";
    pub(crate) const CURSOR: &str = "lockstep cursor";
    pub(crate) const GATE: &str = "lockstep gate";
    pub(crate) const DEPTH: &str = "lockstep depth";
    pub(crate) const MEMORY: &str = "lockstep memory";
    pub(crate) const START: &str = "lockstep start";
    pub(crate) const TABLE: &str = "lockstep table";
    /// `(task, environment, index)`: calls element `task` of the first table with the other two.
    pub(crate) const TASK: &str = "lockstep task";
}

/// The export of the module's global at `index`.
pub(crate) fn global_export(index: u32) -> String {
    format!("{RESERVED_PREFIX}global {index}")
}

/// Units of one frame: generous against native frames, of which the native stack holds far more.
fn frame_units(slots: u32) -> i32 {
    128_u32
        .saturating_add(slots.saturating_mul(16))
        .min(DEPTH_UNITS.cast_unsigned() + 1)
        .cast_signed()
}

/// Re-encodes a module that [`validate`](crate::validate::validate) accepted.
pub(crate) fn instrument(wasm: &[u8], facts: &Facts) -> Result<Vec<u8>, ModuleError> {
    encode(
        wasm,
        &Plan {
            facts,
            counter: facts.globals.len() as u32,
            depth: facts.globals.len() as u32 + 1,
            cursor: facts.globals.len() as u32 + 2,
            gate: facts.memory.iter().len() as u32,
            #[cfg(test)]
            adjust: |_, _| {},
        },
    )
}

fn encode(wasm: &[u8], plan: &Plan<'_>) -> Result<Vec<u8>, ModuleError> {
    let mut sections = Sections::default();
    for payload in Parser::new(0).parse_all(wasm) {
        sections.copy(payload?, plan, wasm)?;
    }
    Ok(sections.finish(plan))
}

struct Plan<'a> {
    facts: &'a Facts,
    counter: u32,
    depth: u32,
    cursor: u32,
    /// The memory of the gate.
    gate: u32,
    #[cfg(test)]
    adjust: fn(&[Operator<'_>], &mut nan::Sinks),
}

#[derive(Default)]
struct Sections {
    types: TypeSection,
    imports: wasm_encoder::ImportSection,
    functions: FunctionSection,
    tables: wasm_encoder::TableSection,
    memories: wasm_encoder::MemorySection,
    globals: GlobalSection,
    exports: ExportSection,
    elements: wasm_encoder::ElementSection,
    data_count: Option<u32>,
    hints: BranchHints,
    code: CodeSection,
    data: DataSection,
}

impl Sections {
    fn copy(
        &mut self,
        payload: Payload<'_>,
        plan: &Plan<'_>,
        wasm: &[u8],
    ) -> Result<(), ModuleError> {
        let reencoder = &mut RoundtripReencoder;
        match payload {
            Payload::TypeSection(section) => {
                reencoder.parse_type_section(&mut self.types, section)?
            }
            Payload::ImportSection(section) => {
                reencoder.parse_import_section(&mut self.imports, section)?
            }
            Payload::FunctionSection(section) => {
                reencoder.parse_function_section(&mut self.functions, section)?
            }
            Payload::TableSection(section) => {
                reencoder.parse_table_section(&mut self.tables, section)?
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let mut memory = reencoder.memory_type(memory?)?;
                    // Says no more than that addresses have 32 bits, and is how gates are known.
                    if !memory.memory64 {
                        memory.maximum = memory.maximum.filter(|pages| *pages != MEMORY_PAGES_MAX);
                    }
                    self.memories.memory(memory);
                }
            }
            Payload::GlobalSection(section) => {
                reencoder.parse_global_section(&mut self.globals, section)?
            }
            Payload::ExportSection(section) => {
                reencoder.parse_export_section(&mut self.exports, section)?
            }
            Payload::ElementSection(section) => {
                reencoder.parse_element_section(&mut self.elements, section)?
            }
            Payload::DataCountSection { count, .. } => self.data_count = Some(count),
            Payload::CodeSectionStart { range, .. } => {
                let section =
                    CodeSectionReader::new(BinaryReader::new(&wasm[range.clone()], range.start))?;
                for (index, body) in section.into_iter().enumerate() {
                    let (function, hints) = body::emit(plan, index, &body?)?;
                    self.code.function(&function);
                    let index = plan.facts.imported_functions + index as u32;
                    self.hints.function_hints(index, hints);
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    let data = data?;
                    self.data.passive(match data.kind {
                        DataKind::Passive => data.data.iter().copied(),
                        DataKind::Active { .. } => [].iter().copied(),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self, plan: &Plan<'_>) -> Vec<u8> {
        let facts = plan.facts;
        if facts.forks {
            let types = facts.types.len() as u32;
            self.types.ty().function([ValType::I32; 2], []);
            self.types.ty().function([ValType::I32; 3], []);
            self.functions.function(types + 1);
            self.code.function(&task_body(types));
            self.exports
                .export(reserved::TASK, ExportKind::Func, facts.functions);
        }
        let mutable = |val_type| GlobalType {
            val_type,
            mutable: true,
            shared: false,
        };
        self.globals
            .global(mutable(ValType::I64), &ConstExpr::i64_const(0));
        self.globals
            .global(mutable(ValType::I32), &ConstExpr::i32_const(DEPTH_UNITS));
        self.globals
            .global(mutable(ValType::I32), &ConstExpr::i32_const(0));
        self.memories.memory(MemoryType {
            minimum: 0,
            maximum: Some(MEMORY_PAGES_MAX),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        self.exports
            .export(reserved::CURSOR, ExportKind::Global, plan.cursor);
        self.exports
            .export(reserved::GATE, ExportKind::Memory, plan.gate);
        self.exports
            .export(reserved::COUNTER, ExportKind::Global, plan.counter);
        self.exports
            .export(reserved::DEPTH, ExportKind::Global, plan.depth);
        if facts.memory.is_some() {
            self.exports.export(reserved::MEMORY, ExportKind::Memory, 0);
        }
        if facts.has_table() {
            self.exports.export(reserved::TABLE, ExportKind::Table, 0);
        }
        if let Some(start) = facts.start {
            self.exports
                .export(reserved::START, ExportKind::Func, start);
        }
        for (index, _) in facts
            .globals
            .iter()
            .enumerate()
            .filter(|(_, ty)| ty.mutable)
        {
            self.exports.export(
                &global_export(index as u32),
                ExportKind::Global,
                index as u32,
            );
        }
        let mut module = Module::new();
        module
            .section(&self.types)
            .section(&self.imports)
            .section(&self.functions)
            .section(&self.tables);
        module
            .section(&self.memories)
            .section(&self.globals)
            .section(&self.exports)
            .section(&self.elements);
        if let Some(count) = self.data_count {
            module.section(&wasm_encoder::DataCountSection { count });
        }
        module
            .section(&self.hints)
            .section(&self.code)
            .section(&self.data);
        module.finish()
    }
}

impl Plan<'_> {
    /// Whether this instruction may call a function of the module that calls others: without, two frames at
    /// most come on top of those that are counted.
    fn nests(&self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::Call { function_index } => {
                let defined = function_index.checked_sub(self.facts.imported_functions);
                defined.is_some_and(|index| self.facts.calls[index as usize])
            }
            Operator::CallIndirect { .. } => true,
            _ => false,
        }
    }

    /// Whether it may be a fork, whose tasks have the rest of the stack.
    fn may_fork(&self, operator: &Operator<'_>) -> bool {
        self.facts.forks
            && matches!(operator, Operator::Call { function_index } if *function_index < self.facts.imported_functions)
    }
}

/// `(task, environment, index)`: calls element `task` of the first table, a function of type `ty`.
fn task_body(ty: u32) -> Function {
    let mut function = Function::new([]);
    function
        .instruction(&Instruction::LocalGet(1))
        .instruction(&Instruction::LocalGet(2))
        .instruction(&Instruction::LocalGet(0))
        .instruction(&Instruction::CallIndirect {
            type_index: ty,
            table_index: 0,
        })
        .instruction(&Instruction::End);
    function
}

impl From<wasm_encoder::reencode::Error> for ModuleError {
    fn from(error: wasm_encoder::reencode::Error) -> Self {
        Self(format!("Wasm module cannot be instrumented: {error}"))
    }
}
