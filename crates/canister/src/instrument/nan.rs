//! Where NaNs have to be made canonical, so that no bit that anybody sees was chosen by the machine.
//!
//! # Design
//! Arithmetic on NaNs gives a NaN whose sign and payload differ between machines. Making every result
//! canonical is what [0001](../../../../docs/design/0001-canonical-arithmetic.md) means, and what the
//! compiler's own switch does; it costs more than the arithmetic. But arithmetic, comparisons and
//! conversions give the same whatever the bits of a NaN, so a result can stay as it is until something
//! sees its bits: a store, a cast, an integer operation on a vector, `neg`, `abs` and `copysign`, a
//! global, a call, a return, the end of a block. This is a forward analysis over the operand stack, the
//! locals and the control flow that finds those places; there the value is replaced by
//! `value == value ? value : NaN`.
//!
//! Bits that were loaded, passed or written as a constant are not arithmetic and must not change, NaN or
//! not. Every value is described by [what it may hold](value::Holds). One that may hold both, as an
//! accumulator does that starts from memory, is fine until its bits are seen; if they are, the local
//! it came from is *eager*: its sets make canonical what they set. Blocks are gone through again until
//! neither what locals hold at the heads of loops nor the set of eager locals changes.
//!
//! # Invariants
//! What can be seen is bit for bit what the compiler's switch gives. Results of a block, a call and a
//! load are never made canonical, nor is anything where a value may hold bits that have to stay.
//!
//! # Determinism
//! The x86 and the ARM architecture make different NaNs; after this no bit of them is left in memory,
//! globals, arguments or integers. What is computed of a NaN in between is a NaN on both.
//!
//! # Complexity
//! Functions without float arithmetic are left alone. For others a pass costs their locals times their
//! branches; beyond [`WORK_MAX`] or [`PASSES_MAX`] all locals are eager, which takes one pass.
mod control;
mod effect;
mod value;

pub(super) use self::value::{CANONICAL_F32X4, CANONICAL_F64X2, Lanes};
use self::{
    effect::{Effect, effect},
    value::{Holds, Width},
};
use crate::validate::Facts;
use std::collections::BTreeMap;
use wasmparser::{
    BlockType, ContType, FrameKind, FuncType, ModuleArity, Operator, RefType, SubType, ValType,
};

/// Most locals times branches of a function whose locals are told apart.
const WORK_MAX: usize = 1 << 22;
/// Most passes over a function whose locals are told apart.
const PASSES_MAX: usize = 32;

/// The instructions of a body after which the topmost operand is made canonical.
#[derive(Debug, Default)]
pub(super) struct Sinks(pub(super) Vec<Option<Lanes>>);

impl Sinks {
    pub(super) fn at(&self, index: usize) -> Option<Lanes> {
        self.0.get(index).copied().flatten()
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

/// The sinks of a body of this signature, whose parameters and locals have these types.
pub(super) fn sinks(
    facts: &Facts,
    signature: &FuncType,
    types: &[ValType],
    operators: &[Operator<'_>],
) -> Sinks {
    let computes = |operator| matches!(effect(operator), Effect::Computes { .. });
    if !operators.iter().any(computes) {
        return Sinks::default();
    }
    let mut analysis = Analysis {
        facts,
        types,
        parameters: signature.params().len(),
        eager: vec![false; types.len()],
        heads: BTreeMap::new(),
        changed: false,
        sinks: Vec::new(),
        stack: Vec::new(),
        locals: Vec::new(),
        frames: Vec::new(),
        dead: false,
    };
    let results = signature.results().len();
    if types.len().saturating_mul(branches(operators)) <= WORK_MAX {
        for _ in 0..PASSES_MAX {
            analysis.pass(operators, results);
            if !analysis.changed {
                return Sinks(analysis.sinks);
            }
        }
    }
    analysis.eager.fill(true);
    analysis.pass(operators, results);
    Sinks(analysis.sinks)
}

fn branches(operators: &[Operator<'_>]) -> usize {
    let targets = operators.iter().map(|operator| match operator {
        Operator::If { .. } | Operator::Else | Operator::End | Operator::Loop { .. } => 1,
        Operator::Br { .. } | Operator::BrIf { .. } => 1,
        Operator::BrTable { targets } => targets.len() as usize + 1,
        _ => 0,
    });
    targets.sum()
}

/// An operand.
#[derive(Clone, Copy, Debug)]
struct Value {
    holds: Holds,
    vector: bool,
    /// The instruction that pushed it.
    source: usize,
    /// The local it was read from.
    origin: Option<usize>,
}

/// A block, a loop, an `if` or the function.
struct Frame {
    /// The instruction of a loop.
    head: Option<usize>,
    /// Operands below its parameters.
    height: usize,
    parameters: usize,
    results: usize,
    /// What locals hold where it ends, unless nothing gets there.
    end: Option<Vec<Holds>>,
    /// What they hold where the `else` starts.
    other: Option<Vec<Holds>>,
    /// Whether nothing gets to it.
    dead: bool,
}

struct Analysis<'a> {
    facts: &'a Facts,
    types: &'a [ValType],
    parameters: usize,
    eager: Vec<bool>,
    /// What locals hold at the head of each loop, as found so far.
    heads: BTreeMap<usize, Vec<Holds>>,
    changed: bool,
    sinks: Vec<Option<Lanes>>,
    stack: Vec<Value>,
    locals: Vec<Holds>,
    frames: Vec<Frame>,
    dead: bool,
}

impl Analysis<'_> {
    fn pass(&mut self, operators: &[Operator<'_>], results: usize) {
        self.changed = false;
        self.sinks.clear();
        self.sinks.resize(operators.len(), None);
        self.stack.clear();
        self.locals.clear();
        self.locals.resize(self.parameters, Holds::FIXED);
        self.locals.resize(self.types.len(), Holds::CANONICAL);
        self.dead = false;
        self.frames.push(Frame {
            head: None,
            height: 0,
            parameters: 0,
            results,
            end: None,
            other: None,
            dead: false,
        });
        for (index, operator) in operators.iter().enumerate() {
            self.control(index, operator);
        }
    }

    fn push_results(&mut self, index: usize, count: usize) {
        let value = Value {
            holds: Holds::FIXED,
            vector: false,
            source: index,
            origin: None,
        };
        self.stack.extend(std::iter::repeat_n(value, count));
    }

    /// Instructions that go on to the next one.
    fn plain(&mut self, index: usize, operator: &Operator<'_>) {
        match (operator, effect(operator)) {
            (Operator::LocalGet { local_index }, _) => self.get(index, *local_index as usize),
            (Operator::LocalSet { local_index }, _) => {
                self.set(*local_index as usize);
            }
            (Operator::LocalTee { local_index }, _) => {
                let value = self.set(*local_index as usize);
                self.stack.push(Value {
                    source: index,
                    ..value
                });
            }
            (Operator::Drop, _) => self.take(1),
            (
                _,
                Effect::Computes {
                    operands,
                    reads,
                    makes,
                    vector,
                },
            ) => {
                self.read(operands, reads);
                self.push(index, Holds::made(makes), vector);
            }
            (_, Effect::Tests { operands, reads }) => {
                self.read(operands, reads);
                self.push(index, Holds::FIXED, false);
            }
            (
                _,
                Effect::Moves {
                    operands,
                    width,
                    vector,
                },
            ) => {
                self.undisturb(operands, width);
                self.merge(index, operands, vector, |holds| holds.lanes(width));
            }
            (_, Effect::Selects) => {
                self.take(1);
                let operands = &self.stack[self.stack.len() - 2..];
                let vector = operands.iter().any(|value| value.vector);
                self.merge(index, 2, vector, |holds| holds);
            }
            (
                _,
                Effect::Gives {
                    operands,
                    result,
                    vector,
                },
            ) => {
                self.take(operands);
                self.push(index, result, vector);
            }
            (_, Effect::Sees) => {
                let arity = operator.operator_arity(&Arity(self.facts));
                let (operands, results) = arity.expect("every other instruction has one");
                self.see(operands as usize);
                self.take(operands as usize);
                self.push_results(index, results as usize);
            }
        }
    }

    fn push(&mut self, index: usize, holds: Holds, vector: bool) {
        self.stack.push(Value {
            holds,
            vector,
            source: index,
            origin: None,
        });
    }

    fn get(&mut self, index: usize, local: usize) {
        let holds = if self.eager[local] {
            Holds::FIXED
        } else {
            self.locals[local]
        };
        self.stack.push(Value {
            holds,
            vector: self.types[local] == ValType::V128,
            source: index,
            origin: Some(local),
        });
    }

    /// Takes what the local is set to.
    fn set(&mut self, local: usize) -> Value {
        if self.eager[local] {
            self.see(1);
        }
        let value = self.stack.pop().expect("validated to be there");
        self.locals[local] = value.holds;
        value
    }

    /// Takes operands of arithmetic on lanes of this width.
    fn read(&mut self, operands: usize, width: Width) {
        self.undisturb(operands, width);
        self.take(operands);
    }

    /// Makes operands canonical that arithmetic made in lanes of the other width.
    fn undisturb(&mut self, operands: usize, width: Width) {
        for index in self.stack.len() - operands..self.stack.len() {
            if self.stack[index].holds.disturbs(width) {
                self.see_one(index);
            }
        }
    }

    /// Gives one of the operands, or lanes of them.
    fn merge(
        &mut self,
        index: usize,
        operands: usize,
        vector: bool,
        moved: impl Fn(Holds) -> Holds,
    ) {
        let first = self.stack.len() - operands;
        let joined = |stack: &[Value]| {
            let holds = stack[first..].iter().map(|value| moved(value.holds));
            holds.fold(Holds::CANONICAL, Holds::or)
        };
        let mut origin = None;
        if let [value] = self.stack[first..] {
            origin = value.origin;
        } else if joined(&self.stack).is_mixed() {
            self.see(operands);
        }
        let holds = joined(&self.stack);
        self.take(operands);
        self.stack.push(Value {
            holds,
            vector,
            source: index,
            origin,
        });
    }

    /// Every bit of the topmost operands may be seen.
    fn see(&mut self, operands: usize) {
        for index in self.stack.len() - operands..self.stack.len() {
            self.see_one(index);
        }
    }

    fn see_one(&mut self, index: usize) {
        let value = &mut self.stack[index];
        if value.holds.is_mixed() {
            let local = value.origin.expect("nothing else is mixed");
            self.changed |= !self.eager[local];
            self.eager[local] = true;
        } else if let Some(lanes) = value.holds.sink(value.vector) {
            self.sinks[value.source] = Some(lanes);
        }
        if value.holds.is_made() {
            value.holds = Holds::FIXED;
        }
    }
}

/// The types of a module, which say what calls take and give.
struct Arity<'a>(&'a Facts);

impl ModuleArity for Arity<'_> {
    fn sub_type_at(&self, type_idx: u32) -> Option<&SubType> {
        self.0.types.get(type_idx as usize)
    }

    fn tag_type_arity(&self, _: u32) -> Option<(u32, u32)> {
        None
    }

    fn type_index_of_function(&self, function_idx: u32) -> Option<u32> {
        self.0.function_types.get(function_idx as usize).copied()
    }

    fn func_type_of_cont_type(&self, _: &ContType) -> Option<&FuncType> {
        None
    }

    fn sub_type_of_ref_type(&self, _: &RefType) -> Option<&SubType> {
        None
    }

    fn control_stack_height(&self) -> u32 {
        0
    }

    fn label_block(&self, _: u32) -> Option<(BlockType, FrameKind)> {
        None
    }
}
