//! One function's body with its charges, its stack units and its canonical NaNs.
//!
//! # Design
//! The counter is in a local, which the compiler keeps in a register. It is loaded from the global when
//! the function starts and after calls, and written back where somebody may look: before calls, before
//! `unreachable`, and where the function ends. Below zero it takes grants at the [gate](crate::gate). In
//! functions that call others which call others, the stack units left after their own are in a local too.
use super::{
    Plan, frame_units,
    nan::{self, Lanes, Sinks},
    runs::{Run, runs},
};
use crate::{
    gate::{CURSOR_MASK, CURSOR_STEP},
    module::ModuleError,
    weights::{self, Count},
};
use wasm_encoder::{
    BlockType, BranchHint, Function, Instruction as I, MemArg, ValType,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmparser::{FunctionBody, Operator};

/// Locals that the instrumentation adds to a function; those it has no use for do not exist.
#[derive(Default)]
struct Locals {
    /// Instructions left.
    counter: u32,
    /// Stack units left.
    depth: u32,
    /// The size of a bulk operation.
    count32: u32,
    count64: u32,
    /// A value that is made canonical.
    value: u32,
}

/// More than any bulk operation on a 64-bit memory may take: such a size leaves nothing, and does not wrap.
const BULK_MAX: i64 = 1 << 62;

struct Emitter<'a> {
    plan: &'a Plan<'a>,
    function: Function,
    locals: Locals,
    /// Stack units of a call of this function, if it calls others that call others.
    nests: Option<i32>,
    /// Blocks around the current instruction, the function's own not counted.
    blocks: u32,
    results: usize,
    /// Branches that are hardly ever taken.
    hints: Vec<BranchHint>,
}

/// The body of the defined function at `index`, and which of its branches are hardly ever taken.
pub(super) fn emit(
    plan: &Plan<'_>,
    index: usize,
    body: &FunctionBody<'_>,
) -> Result<(Function, Vec<BranchHint>), ModuleError> {
    let facts = plan.facts;
    let signature = facts.signature(facts.imported_functions + index as u32);
    let operators = body
        .get_operators_reader()?
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let mut types = signature.params().to_vec();
    let mut locals = Vec::new();
    for pair in body.get_locals_reader()? {
        let (count, ty) = pair?;
        types.extend(std::iter::repeat_n(ty, count as usize));
        locals.push((count, RoundtripReencoder.val_type(ty)?));
    }
    #[cfg_attr(not(test), expect(unused_mut))]
    let mut sinks = nan::sinks(facts, signature, &types, &operators);
    #[cfg(test)]
    (plan.adjust)(&operators, &mut sinks);
    let nests = operators.iter().any(|operator| plan.nests(operator));
    let names = declare(
        &mut locals,
        types.len() as u32,
        plan,
        nests,
        &operators,
        &sinks,
    );
    let mut emitter = Emitter {
        plan,
        function: Function::new(locals),
        locals: names,
        nests: nests.then(|| frame_units(facts.frame_slots[index])),
        blocks: 0,
        results: signature.results().len(),
        hints: Vec::new(),
    };
    let mut runs = runs(&operators, plan.facts.memory64())
        .into_iter()
        .peekable();
    for (index, operator) in operators.into_iter().enumerate() {
        if let Some(run) = runs.next_if(|run| run.start == index) {
            emitter.run(&run);
        }
        emitter.operator(operator)?;
        if let Some(lanes) = sinks.at(index) {
            emitter.canonical(lanes);
        }
    }
    Ok((emitter.function, emitter.hints))
}

/// Appends what the body needs to its locals.
fn declare(
    locals: &mut Vec<(u32, ValType)>,
    mut next: u32,
    plan: &Plan<'_>,
    nests: bool,
    operators: &[Operator<'_>],
    sinks: &Sinks,
) -> Locals {
    let counts = |wanted: Count| {
        let mut counts = operators
            .iter()
            .map(|operator| weights::bulk(operator, plan.facts.memory64()));
        counts.any(|count| count == Some(wanted))
    };
    let mut names = Locals::default();
    for (name, needed, ty) in [
        (&mut names.counter, true, ValType::I64),
        (&mut names.depth, nests, ValType::I32),
        (&mut names.count32, counts(Count::I32), ValType::I32),
        (&mut names.count64, counts(Count::I64), ValType::I64),
        (&mut names.value, !sinks.are_none(), ValType::V128),
    ] {
        if needed {
            *name = next;
            locals.push((1, ty));
            next += 1;
        }
    }
    names
}

impl Emitter<'_> {
    fn add(&mut self, instructions: &[I<'_>]) {
        for instruction in instructions {
            self.function.instruction(instruction);
        }
    }

    /// Charges for a run; the first one loads the counter.
    fn run(&mut self, run: &Run) {
        let counter = self.locals.counter;
        let entry = run.start == 0;
        self.add(&[if entry {
            I::GlobalGet(self.plan.counter)
        } else {
            I::LocalGet(counter)
        }]);
        if run.cost > 0 {
            self.add(&[I::I64Const(run.cost.cast_signed()), I::I64Sub]);
        }
        self.add(&[I::LocalSet(counter)]);
        if run.checks {
            self.check();
        }
        if let (true, Some(units)) = (entry, self.nests) {
            self.take_depth(units);
        }
    }

    /// Below zero, takes grants at the gate until it is not: where nothing is left, the load traps. All that
    /// is in the `if` is one block, which the compiler puts away from the rest.
    fn check(&mut self) {
        let Locals { counter, .. } = self.locals;
        let Plan { cursor, gate, .. } = *self.plan;
        self.add(&[
            I::Loop(BlockType::Empty),
            I::LocalGet(counter),
            I::I64Const(0),
            I::I64LtS,
        ]);
        self.unlikely();
        self.add(&[
            I::LocalGet(counter),
            I::GlobalGet(cursor),
            I::I64Load(MemArg {
                offset: 0,
                align: 3,
                memory_index: gate,
            }),
            I::I64Add,
            I::LocalSet(counter),
            I::GlobalGet(cursor),
            I::I32Const(CURSOR_STEP),
            I::I32Add,
            I::I32Const(CURSOR_MASK),
            I::I32And,
            I::GlobalSet(cursor),
            I::Br(1),
            I::End,
            I::End,
        ]);
    }

    /// An `if` whose condition hardly ever holds.
    fn unlikely(&mut self) {
        self.hints.push(BranchHint {
            branch_func_offset: self.function.byte_len() as u32,
            branch_hint_value: 0,
        });
        self.add(&[I::If(BlockType::Empty)]);
    }

    fn write_back(&mut self) {
        self.add(&[
            I::LocalGet(self.locals.counter),
            I::GlobalSet(self.plan.counter),
        ]);
    }

    fn reload(&mut self) {
        self.add(&[
            I::GlobalGet(self.plan.counter),
            I::LocalSet(self.locals.counter),
        ]);
    }

    /// Stops when the stack has no room for this function's frame.
    fn take_depth(&mut self, units: i32) {
        let depth = self.locals.depth;
        self.add(&[
            I::GlobalGet(self.plan.depth),
            I::I32Const(units),
            I::I32Sub,
            I::LocalTee(depth),
            I::I32Const(0),
            I::I32LtS,
        ]);
        self.unlikely();
        self.add(&[I::LocalGet(depth), I::GlobalSet(self.plan.depth)]);
        self.write_back();
        self.add(&[I::Unreachable, I::End]);
    }

    /// Tells a callee how much stack is left: for a tail call, the frame's own units too.
    fn give_depth(&mut self, tail: bool) {
        let Some(units) = self.nests else { return };
        self.add(&[I::LocalGet(self.locals.depth)]);
        if tail {
            self.add(&[I::I32Const(units), I::I32Add]);
        }
        self.add(&[I::GlobalSet(self.plan.depth)]);
    }

    fn operator(&mut self, operator: Operator<'_>) -> Result<(), ModuleError> {
        use Operator as O;
        if let Some(count) = weights::bulk(&operator, self.plan.facts.memory64()) {
            self.charge(count);
        }
        let mut reload = false;
        match &operator {
            O::Block { .. } | O::Loop { .. } | O::If { .. } => self.blocks += 1,
            O::End if self.blocks > 0 => self.blocks -= 1,
            O::End | O::Return | O::Unreachable => self.write_back(),
            O::Br { relative_depth } if *relative_depth == self.blocks => self.write_back(),
            O::BrIf { relative_depth } if *relative_depth == self.blocks && self.results == 0 => {
                self.add(&[I::If(BlockType::Empty)]);
                self.write_back();
                self.add(&[I::Return, I::End]);
                return Ok(());
            }
            O::BrIf { relative_depth } if *relative_depth == self.blocks => self.write_back(),
            O::BrTable { targets } => {
                let mut all = targets.targets().chain([Ok(targets.default())]);
                if all.any(|target| target.is_ok_and(|target| target == self.blocks)) {
                    self.write_back();
                }
            }
            // Growth may be refused by a limit, and then ends the message like an import.
            O::MemoryGrow { .. } => self.write_back(),
            O::Call { .. } | O::CallIndirect { .. } => {
                self.write_back();
                if self.plan.nests(&operator) || self.plan.may_fork(&operator) {
                    self.give_depth(false);
                }
                reload = true;
            }
            O::ReturnCall { .. } | O::ReturnCallIndirect { .. } => {
                self.write_back();
                self.give_depth(true);
            }
            _ => {}
        }
        self.function
            .instruction(&RoundtripReencoder.instruction(operator)?);
        if reload {
            self.reload();
        }
        Ok(())
    }

    /// Charges for a bulk operation whose size is the topmost operand.
    fn charge(&mut self, count: Count) {
        let counter = self.locals.counter;
        let size = match count {
            Count::I32 => self.locals.count32,
            Count::I64 => self.locals.count64,
        };
        self.add(&[I::LocalSet(size), I::LocalGet(counter)]);
        match count {
            Count::I32 => self.add(&[I::LocalGet(size), I::I64ExtendI32U, I::I64Sub]),
            Count::I64 => self.add(&[
                I::LocalGet(size),
                I::I64Const(BULK_MAX),
                I::LocalGet(size),
                I::I64Const(BULK_MAX),
                I::I64LtU,
                I::Select,
                I::I64Sub,
            ]),
        }
        self.add(&[I::LocalSet(counter)]);
        self.check();
        self.add(&[I::LocalGet(size)]);
    }

    /// Replaces NaNs of the topmost operand by the canonical one.
    fn canonical(&mut self, lanes: Lanes) {
        let v128 = self.locals.value;
        match lanes {
            // Choosing by a mask takes half the time that a `select` of floats does.
            Lanes::F32 => {
                self.add(&[I::F32x4Splat]);
                self.canonical(Lanes::F32x4);
                self.add(&[I::F32x4ExtractLane(0)]);
            }
            Lanes::F64 => {
                self.add(&[I::F64x2Splat]);
                self.canonical(Lanes::F64x2);
                self.add(&[I::F64x2ExtractLane(0)]);
            }
            Lanes::F32x4 => self.add(&[
                I::LocalTee(v128),
                I::V128Const(nan::CANONICAL_F32X4.cast_signed()),
                I::LocalGet(v128),
                I::LocalGet(v128),
                I::F32x4Eq,
                I::V128Bitselect,
            ]),
            Lanes::F64x2 => self.add(&[
                I::LocalTee(v128),
                I::V128Const(nan::CANONICAL_F64X2.cast_signed()),
                I::LocalGet(v128),
                I::LocalGet(v128),
                I::F64x2Eq,
                I::V128Bitselect,
            ]),
        }
    }
}
