//! Re-encodes a module so that it counts its instructions and its stack, and hands its state over.
//!
//! # Design
//! Two mutable globals are appended. The *counter* holds the instructions left: every straight run
//! of code subtracts its whole cost when it starts, bulk operations their size when they run, and
//! function entries and loop heads stop with `unreachable` when nothing is left. The *depth* holds
//! the stack units left: a call site takes its own frame's units before the call and returns them
//! after it, and stops when there are none, so recursion ends at the same depth on every machine,
//! whatever frames the compiler lays out. Memory, first table, mutable globals and the start function are
//! exported under reserved names. Active data segments are emptied: the engine places their bytes
//! once, when the canister is installed. Functions are appended that charge bulk operations and, in
//! modules that fork, enter a task by its index in the table.
//!
//! # Invariants
//! Indices of the original types, functions, globals and segments do not change.
use crate::{
    module::ModuleError,
    validate::{Facts, RESERVED_PREFIX},
    weights,
};
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, ExportKind, ExportSection, Function,
    FunctionSection, GlobalSection, GlobalType, Instruction, Module, TypeSection, ValType,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmparser::{
    BinaryReader, CodeSectionReader, DataKind, FunctionBody, Operator, Parser, Payload,
};

/// Stack units of a message; see [`frame_units`].
pub(crate) const DEPTH_UNITS: i32 = 4 * 1024 * 1024;

/// Reserved export names.
pub(crate) mod reserved {
    pub(crate) const COUNTER: &str = "lockstep counter";
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
    let plan = Plan {
        facts,
        counter: facts.globals.len() as u32,
        depth: facts.globals.len() as u32 + 1,
        charge: facts.functions,
    };
    let mut sections = Sections::default();
    for payload in Parser::new(0).parse_all(wasm) {
        sections.copy(payload?, &plan, wasm)?;
    }
    Ok(sections.finish(&plan))
}

struct Plan<'a> {
    facts: &'a Facts,
    counter: u32,
    depth: u32,
    charge: u32,
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
                reencoder.parse_memory_section(&mut self.memories, section)?
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
                for (body, slots) in section.into_iter().zip(&plan.facts.frame_slots) {
                    self.code.function(&plan.body(&body?, *slots)?);
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
        self.types.ty().function([ValType::I32], [ValType::I32]);
        self.functions.function(facts.types);
        self.code.function(&plan.charge_body());
        if facts.memory64() {
            self.types.ty().function([ValType::I64], [ValType::I64]);
            self.functions.function(facts.types + 1);
            self.code.function(&plan.charge64_body());
        }
        if facts.forks {
            self.types.ty().function([ValType::I32; 2], []);
            self.types.ty().function([ValType::I32; 3], []);
            self.functions.function(facts.types + 2);
            self.code.function(&task_body(facts.types + 1));
            self.exports
                .export(reserved::TASK, ExportKind::Func, plan.charge + 1);
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
        module.section(&self.code).section(&self.data);
        module.finish()
    }
}

/// A straight run of code: where it starts, what it costs, whether it may be reached again and
/// again and therefore checks what is left.
struct Run {
    start: usize,
    cost: u64,
    checks: bool,
}

/// Cuts a body into runs. A function call itself costs 1, so that no call is free.
fn runs(operators: &[Operator<'_>]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut run = Run {
        start: 0,
        cost: 1,
        checks: true,
    };
    for (index, operator) in operators.iter().enumerate() {
        run.cost += weights::weight(operator);
        if ends_run(operator) {
            let next = Run {
                start: index + 1,
                cost: 0,
                checks: matches!(operator, Operator::Loop { .. }),
            };
            runs.push(std::mem::replace(&mut run, next));
        }
    }
    runs.push(run);
    runs.retain(|run| run.cost > 0 || run.checks);
    runs
}

/// Whether control may leave after this instruction or arrive from elsewhere.
fn ends_run(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::Loop { .. }
            | O::If { .. }
            | O::Else
            | O::End
            | O::Br { .. }
            | O::BrIf { .. }
            | O::BrTable { .. }
            | O::Return
            | O::ReturnCall { .. }
            | O::ReturnCallIndirect { .. }
            | O::Unreachable
    )
}

impl Plan<'_> {
    fn body(&self, body: &FunctionBody<'_>, slots: u32) -> Result<Function, ModuleError> {
        let reencoder = &mut RoundtripReencoder;
        let mut function = reencoder.new_function_with_parsed_locals(body)?;
        let operators = body
            .get_operators_reader()?
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let mut runs = runs(&operators).into_iter().peekable();
        let units = frame_units(slots);
        for (index, operator) in operators.into_iter().enumerate() {
            if let Some(run) = runs.next_if(|run| run.start == index) {
                self.emit_run(&mut function, &run);
            }
            if weights::is_bulk(&operator) {
                let wide = self.facts.memory64()
                    && matches!(
                        operator,
                        Operator::MemoryCopy { .. } | Operator::MemoryFill { .. }
                    );
                function.instruction(&Instruction::Call(self.charge + u32::from(wide)));
            }
            let nests = match operator {
                Operator::Call { function_index } => {
                    function_index >= self.facts.imported_functions
                }
                Operator::CallIndirect { .. } => true,
                _ => false,
            };
            if nests {
                self.emit_depth(&mut function, Instruction::I32Sub, units);
                self.emit_stop(
                    &mut function,
                    &Instruction::GlobalGet(self.depth),
                    &[Instruction::I32Const(0), Instruction::I32LtS],
                );
            }
            function.instruction(&reencoder.instruction(operator)?);
            if nests {
                self.emit_depth(&mut function, Instruction::I32Add, units);
            }
        }
        Ok(function)
    }

    fn emit_run(&self, function: &mut Function, run: &Run) {
        if run.cost > 0 {
            function.instruction(&Instruction::GlobalGet(self.counter));
            function.instruction(&Instruction::I64Const(run.cost.cast_signed()));
            function.instruction(&Instruction::I64Sub);
            function.instruction(&Instruction::GlobalSet(self.counter));
        }
        if run.checks {
            self.emit_counter_check(function);
        }
    }

    fn emit_counter_check(&self, function: &mut Function) {
        self.emit_stop(
            function,
            &Instruction::GlobalGet(self.counter),
            &[Instruction::I64Const(0), Instruction::I64LtS],
        );
    }

    fn emit_stop(
        &self,
        function: &mut Function,
        value: &Instruction<'_>,
        condition: &[Instruction<'_>],
    ) {
        function.instruction(value);
        for instruction in condition {
            function.instruction(instruction);
        }
        function.instruction(&Instruction::If(BlockType::Empty));
        function.instruction(&Instruction::Unreachable);
        function.instruction(&Instruction::End);
    }

    fn emit_depth(&self, function: &mut Function, change: Instruction<'_>, units: i32) {
        function.instruction(&Instruction::GlobalGet(self.depth));
        function.instruction(&Instruction::I32Const(units));
        function.instruction(&change);
        function.instruction(&Instruction::GlobalSet(self.depth));
    }

    /// `charge(count) -> count`: subtracts an operation's size.
    fn charge_body(&self) -> Function {
        let mut function = Function::new([]);
        function.instruction(&Instruction::GlobalGet(self.counter));
        function.instruction(&Instruction::LocalGet(0));
        function.instruction(&Instruction::I64ExtendI32U);
        function.instruction(&Instruction::I64Sub);
        function.instruction(&Instruction::GlobalSet(self.counter));
        self.emit_counter_check(&mut function);
        function.instruction(&Instruction::LocalGet(0));
        function.instruction(&Instruction::End);
        function
    }
}

impl Plan<'_> {
    /// As [`Self::charge_body`], for sizes of 64 bits.
    fn charge64_body(&self) -> Function {
        /// More than any message has, and so little that taking it from what is left does not wrap.
        const SIZE_MAX: i64 = 1 << 62;
        let mut function = Function::new([]);
        function.instruction(&Instruction::GlobalGet(self.counter));
        function
            .instruction(&Instruction::LocalGet(0))
            .instruction(&Instruction::I64Const(SIZE_MAX))
            .instruction(&Instruction::LocalGet(0))
            .instruction(&Instruction::I64Const(SIZE_MAX))
            .instruction(&Instruction::I64LtU)
            .instruction(&Instruction::Select);
        function.instruction(&Instruction::I64Sub);
        function.instruction(&Instruction::GlobalSet(self.counter));
        self.emit_counter_check(&mut function);
        function.instruction(&Instruction::LocalGet(0));
        function.instruction(&Instruction::End);
        function
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
