//! Random programs that end, do not trap, and do with floats, vectors, locals and control flow whatever
//! Wasm lets them.
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, ElementSection, Elements, ExportKind, ExportSection,
    Function, FunctionSection, GlobalSection, GlobalType, Ieee32, Ieee64, Instruction as I, MemArg,
    MemorySection, MemoryType, Module, RefType, TableSection, TableType, TypeSection, ValType,
};

/// A sequence fixed by its seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Bits of a float, often a NaN with some payload, an infinity or a zero.
    pub(super) fn f32(&mut self) -> u32 {
        let sign = (self.next() as u32) & 0x8000_0000;
        let payload = self.next() as u32 & 0x003f_ffff;
        match self.below(8) {
            0 => 0x7fc0_0000,
            1 => sign | 0x7fc0_0000 | payload,
            2 => sign | 0x7f80_0001 | payload,
            3 => sign | 0x7f80_0000,
            4 => sign,
            5 => sign | 1,
            _ => sign | (0x3f80_0000 + (payload << 1)),
        }
    }

    pub(super) fn f64(&mut self) -> u64 {
        let sign = self.next() & (1 << 63);
        let payload = self.next() & 0x0007_ffff_ffff_ffff;
        match self.below(8) {
            0 => 0x7ff8_0000_0000_0000,
            1 => sign | 0x7ff8_0000_0000_0000 | payload,
            2 => sign | 0x7ff0_0000_0000_0001 | payload,
            3 => sign | 0x7ff0_0000_0000_0000,
            4 => sign,
            // A NaN in its upper half alone when it is taken for two floats of 32 bits.
            5 => (u64::from(self.f32()) << 32) | u64::from(self.f32()),
            _ => sign | (0x3ff0_0000_0000_0000 + (payload << 1)),
        }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            if self.below(2) == 0 {
                bytes.extend(self.f64().to_le_bytes());
            } else {
                bytes.extend(self.f32().to_le_bytes());
                bytes.extend(self.f32().to_le_bytes());
            }
        }
        bytes.truncate(count);
        bytes
    }
}

use ValType::{F32, F64, I32, I64, V128};

pub(super) const TYPES: [ValType; 5] = [F32, F64, V128, I32, I64];
/// Bytes that programs read and write.
pub(super) const BYTES: usize = 4096;
const FUNCTIONS: usize = 3;
const LOCALS_EACH: u32 = 3;
const LOOPS_MAX: u32 = 2;
/// Blocks that a function may have.
const BLOCKS_MAX: u32 = 6;

/// A module that exports `run: () -> ()`, also as a heartbeat, a memory and one global of each type; floats more
/// often than integers, or integers alone.
pub(super) fn program(random: &mut Random, floats: bool) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut signatures: Vec<(Vec<ValType>, Vec<ValType>)> = vec![(vec![], vec![])];
    let kinds: &[ValType] = if floats { &TYPES } else { &[I32, I64] };
    for _ in 1..FUNCTIONS {
        let parameters: Vec<_> = (0..random.below(4)).map(|_| random.pick(kinds)).collect();
        let results: Vec<_> = (0..random.below(3)).map(|_| random.pick(kinds)).collect();
        types
            .ty()
            .function(parameters.iter().copied(), results.iter().copied());
        signatures.push((parameters, results));
    }
    // Types of blocks with two parameters and two results.
    types.ty().function([F32, V128], [V128, F32]);
    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    for index in 0..FUNCTIONS {
        functions.function(index as u32);
        let mut body = Body::new(random, &signatures, index, kinds);
        body.all();
        code.function(&body.function);
    }
    let mut tables = TableSection::new();
    tables.table(TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: FUNCTIONS as u64,
        maximum: None,
        shared: false,
    });
    let mut elements = ElementSection::new();
    let all: Vec<_> = (0..FUNCTIONS as u32).collect();
    elements.active(
        None,
        &ConstExpr::i32_const(0),
        Elements::Functions(all.into()),
    );
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 1,
        maximum: Some(1),
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut globals = GlobalSection::new();
    for (val_type, initial) in TYPES.into_iter().zip([
        ConstExpr::f32_const(Ieee32::new(random.f32())),
        ConstExpr::f64_const(Ieee64::new(random.f64())),
        ConstExpr::v128_const(0),
        ConstExpr::i32_const(7),
        ConstExpr::i64_const(9),
    ]) {
        let ty = GlobalType {
            val_type,
            mutable: true,
            shared: false,
        };
        globals.global(ty, &initial);
    }
    let mut exports = ExportSection::new();
    exports.export("run", ExportKind::Func, 0);
    exports.export("canister_heartbeat", ExportKind::Func, 0);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&tables);
    module
        .section(&memories)
        .section(&globals)
        .section(&exports)
        .section(&elements)
        .section(&code);
    module.finish()
}

struct Body<'a> {
    random: &'a mut Random,
    signatures: &'a [(Vec<ValType>, Vec<ValType>)],
    index: usize,
    kinds: &'a [ValType],
    function: Function,
    /// Types of parameters and of the locals that are not for loops.
    locals: Vec<ValType>,
    loops: u32,
    blocks: u32,
    /// Labels around the current place that can be left to without operands.
    labels: Vec<bool>,
}

impl<'a> Body<'a> {
    fn new(
        random: &'a mut Random,
        signatures: &'a [(Vec<ValType>, Vec<ValType>)],
        index: usize,
        kinds: &'a [ValType],
    ) -> Self {
        let mut locals = signatures[index].0.clone();
        for ty in kinds {
            locals.extend(std::iter::repeat_n(*ty, LOCALS_EACH as usize));
        }
        let declared: Vec<_> = kinds
            .iter()
            .map(|ty| (LOCALS_EACH, *ty))
            .chain([(LOOPS_MAX, I32)])
            .collect();
        Self {
            random,
            signatures,
            index,
            kinds,
            function: Function::new(declared),
            locals,
            loops: 0,
            blocks: 0,
            labels: Vec::new(),
        }
    }

    fn add(&mut self, instruction: &I<'_>) {
        self.function.instruction(instruction);
    }

    fn all(&mut self) {
        // What was passed is looked at.
        for parameter in 0..self.signatures[self.index].0.len() {
            if self.random.below(2) == 0 {
                self.store_of(self.locals[parameter], Some(parameter as u32));
            }
        }
        let count = 3 + self.random.below(4);
        for _ in 0..count {
            self.statement();
        }
        self.results();
        self.add(&I::End);
    }

    fn results(&mut self) {
        for ty in &self.signatures[self.index].1 {
            self.value(*ty, 3);
        }
    }

    fn local(&mut self, ty: ValType) -> u32 {
        let all = self.locals.iter().enumerate();
        let of_type: Vec<_> = all
            .filter(|(_, local)| **local == ty)
            .map(|(index, _)| index as u32)
            .collect();
        self.random.pick(&of_type)
    }

    fn statements(&mut self, label: bool) {
        self.labels.push(label);
        for _ in 0..1 + self.random.below(3) {
            self.statement();
        }
        self.labels.pop();
    }

    fn statement(&mut self) {
        let ty = self.random.pick(self.kinds);
        match self.random.below(16) {
            0..=4 => {
                self.value(ty, 3);
                let local = self.local(ty);
                self.add(&I::LocalSet(local));
            }
            5..=6 => self.store(ty),
            7 => {
                self.value(ty, 3);
                let global = TYPES.iter().position(|other| *other == ty).expect("listed");
                self.add(&I::GlobalSet(global as u32));
            }
            8 | 9 => self.branching(),
            10 | 11 => self.repeating(),
            12 => self.leaving(),
            13 | 14 => self.call(),
            _ => self.bulk(),
        }
    }

    fn may_open(&mut self) -> bool {
        self.blocks += 1;
        self.blocks <= BLOCKS_MAX
    }

    fn branching(&mut self) {
        if !self.may_open() {
            return;
        }
        self.value(I32, 2);
        self.add(&I::If(BlockType::Empty));
        self.statements(true);
        if self.random.below(2) == 0 {
            self.add(&I::Else);
            self.statements(true);
        }
        self.add(&I::End);
    }

    /// A loop of up to four rounds, or a block.
    fn repeating(&mut self) {
        if !self.may_open() {
            return;
        }
        if self.loops == LOOPS_MAX || self.random.below(4) == 0 {
            self.add(&I::Block(BlockType::Empty));
            self.statements(true);
            self.add(&I::End);
            return;
        }
        let counter = self.locals.len() as u32 + self.loops;
        let rounds = 1 + self.random.below(4) as i32;
        self.add(&I::I32Const(rounds));
        self.add(&I::LocalSet(counter));
        self.add(&I::Loop(BlockType::Empty));
        self.loops += 1;
        self.statements(false);
        self.loops -= 1;
        self.add(&I::LocalGet(counter));
        self.add(&I::I32Const(1));
        self.add(&I::I32Sub);
        self.add(&I::LocalTee(counter));
        self.add(&I::BrIf(0));
        self.add(&I::End);
    }

    /// A branch out of some block, or out of the function.
    fn leaving(&mut self) {
        let depth = self.random.below(self.labels.len() + 1);
        let label = self.labels.len().checked_sub(depth + 1);
        match label {
            Some(label) if !self.labels[label] => {}
            Some(_) => {
                self.value(I32, 2);
                match self.random.below(3) {
                    0 => {
                        self.add(&I::If(BlockType::Empty));
                        self.add(&I::Br(depth as u32 + 1));
                        self.add(&I::End);
                    }
                    1 => {
                        self.add(&I::If(BlockType::Empty));
                        self.add(&I::I32Const(1));
                        self.add(&I::BrTable(vec![depth as u32 + 1].into(), depth as u32 + 1));
                        self.add(&I::End);
                    }
                    _ => self.add(&I::BrIf(depth as u32)),
                }
            }
            None => {
                let way = self.random.below(3);
                if way == 0 {
                    // The results stay when the branch is not taken.
                    self.results();
                    self.value(I32, 1);
                    self.add(&I::BrIf(depth as u32));
                    for _ in &self.signatures[self.index].1 {
                        self.add(&I::Drop);
                    }
                    return;
                }
                self.value(I32, 2);
                self.add(&I::If(BlockType::Empty));
                self.results();
                self.add(&if way == 1 {
                    I::Return
                } else {
                    I::Br(depth as u32 + 1)
                });
                self.add(&I::End);
            }
        }
    }

    /// Calls a later function, so that all ends; at the end of a function sometimes as a tail call.
    fn call(&mut self) {
        let later = self.signatures.len() - 1 - self.index;
        // Calls in loops in calls in loops take too long.
        if later == 0 || self.loops > 1 {
            return;
        }
        let callee = self.index + 1 + self.random.below(later);
        let (parameters, results) = &self.signatures[callee];
        let same = results == &self.signatures[self.index].1;
        let tail = same && self.random.below(3) == 0;
        if tail {
            self.value(I32, 1);
            self.add(&I::If(BlockType::Empty));
        }
        for ty in parameters {
            self.value(*ty, 2);
        }
        let indirect = self.random.below(2) == 0;
        if indirect {
            self.add(&I::I32Const(callee as i32));
        }
        self.add(&match (indirect, tail) {
            (false, false) => I::Call(callee as u32),
            (false, true) => I::ReturnCall(callee as u32),
            (true, false) => I::CallIndirect {
                type_index: callee as u32,
                table_index: 0,
            },
            (true, true) => I::ReturnCallIndirect {
                type_index: callee as u32,
                table_index: 0,
            },
        });
        if tail {
            self.add(&I::End);
            return;
        }
        for ty in results.iter().rev() {
            let local = self.local(*ty);
            self.add(&I::LocalSet(local));
        }
    }

    fn bulk(&mut self) {
        let size = self.random.below(64) as i32;
        self.address();
        if self.random.below(2) == 0 {
            self.add(&I::I32Const(0x7f));
            self.add(&I::I32Const(size));
            self.add(&I::MemoryFill(0));
        } else {
            self.address();
            self.add(&I::I32Const(size));
            self.add(&I::MemoryCopy {
                src_mem: 0,
                dst_mem: 0,
            });
        }
    }

    /// An address that leaves room for 64 bytes and is a multiple of 4.
    fn address(&mut self) {
        if self.random.below(2) == 0 {
            let address = self.random.below((BYTES - 64) / 4) * 4;
            self.add(&I::I32Const(address as i32));
        } else {
            self.value(I32, 1);
            self.add(&I::I32Const(0xf3c));
            self.add(&I::I32And);
        }
    }

    fn store(&mut self, ty: ValType) {
        self.store_of(ty, None);
    }

    /// Stores a local or any value.
    fn store_of(&mut self, ty: ValType, local: Option<u32>) {
        self.address();
        match local {
            Some(local) => self.add(&I::LocalGet(local)),
            None => self.value(ty, 3),
        }
        let at = memory(0);
        let lane = self.random.below(2) as u8;
        let lanes = self.random.below(4);
        self.add(&match ty {
            F32 => I::F32Store(at),
            F64 => I::F64Store(at),
            V128 => match lanes {
                0 => I::V128Store32Lane { memarg: at, lane },
                1 => I::V128Store64Lane { memarg: at, lane },
                _ => I::V128Store(at),
            },
            I32 => I::I32Store(at),
            _ => I::I64Store(at),
        });
    }
}

pub(super) fn memory(offset: u64) -> MemArg {
    MemArg {
        offset,
        align: 0,
        memory_index: 0,
    }
}

mod values;
