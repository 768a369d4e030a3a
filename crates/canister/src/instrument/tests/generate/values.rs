//! Expressions.
use super::{Body, TYPES, memory};
use wasm_encoder::{
    BlockType, Ieee32, Ieee64, Instruction as I,
    ValType::{self, F32, F64, I32, I64, V128},
};

/// An operator: the types of its operands, and itself.
type Operation = (&'static [ValType], I<'static>);

impl Body<'_> {
    /// Pushes a value; at depth 0, one without operands.
    pub(super) fn value(&mut self, ty: ValType, depth: usize) {
        let floats = self.kinds.len() > 2;
        match self.random.below(if depth == 0 { 4 } else { 13 }) {
            0 => self.constant(ty),
            1 | 2 => {
                let local = self.local(ty);
                self.add(&I::LocalGet(local));
            }
            3 if depth == 0 => {
                let global = TYPES.iter().position(|other| *other == ty);
                self.add(&I::GlobalGet(global.expect("listed") as u32));
            }
            3 => self.load(ty),
            4 => {
                self.value(ty, depth - 1);
                let local = self.local(ty);
                self.add(&I::LocalTee(local));
            }
            5 => {
                self.value(ty, depth - 1);
                self.value(ty, depth - 1);
                self.value(I32, depth - 1);
                let typed = self.random.below(2) == 0;
                self.add(&if typed { I::TypedSelect(ty) } else { I::Select });
            }
            6 => self.block(ty, depth),
            _ => {
                let all = operations(ty, floats);
                let (operands, operator) = &all[self.random.below(all.len())];
                for operand in *operands {
                    self.value(*operand, depth - 1);
                }
                self.add(operator);
            }
        }
    }

    fn constant(&mut self, ty: ValType) {
        let vector = self.random.bytes(16).try_into().expect("16 bytes");
        let integer = self.random.below(9) as i32 - 2;
        let (f32, f64) = (self.random.f32(), self.random.f64());
        self.add(&match ty {
            F32 => I::F32Const(Ieee32::new(f32)),
            F64 => I::F64Const(Ieee64::new(f64)),
            V128 => I::V128Const(i128::from_le_bytes(vector)),
            I32 => I::I32Const(integer),
            _ => I::I64Const(integer.into()),
        });
    }

    fn load(&mut self, ty: ValType) {
        self.address();
        let way = self.random.below(4);
        let at = memory(self.random.below(4) as u64 * 4);
        self.add(&match ty {
            F32 => I::F32Load(at),
            F64 => I::F64Load(at),
            V128 => match way {
                0 => I::V128Load32Splat(at),
                1 => I::V128Load64Zero(at),
                _ => I::V128Load(at),
            },
            I32 => I::I32Load(at),
            _ => I::I64Load(at),
        });
    }

    /// A block, or an `if`, with a result.
    fn block(&mut self, ty: ValType, depth: usize) {
        if !self.may_open() {
            return self.value(ty, 0);
        }
        let result = BlockType::Result(ty);
        let way = self.random.below(3);
        let two_results = self.signatures.len() as u32;
        if way == 0 {
            self.value(I32, depth - 1);
            self.add(&I::If(result));
            self.labels.push(false);
            self.value(ty, depth - 1);
            self.add(&I::Else);
            self.value(ty, depth - 1);
        } else if way == 1 && (ty == F32 || ty == V128) && self.kinds.len() > 2 {
            // Parameters too, and one of the two results set aside.
            self.value(F32, depth - 1);
            self.value(V128, depth - 1);
            self.add(&I::Block(BlockType::FunctionType(two_results)));
            self.labels.push(false);
            let (scalar, vector) = (self.local(F32), self.local(V128));
            self.add(&I::LocalSet(vector));
            self.add(&I::LocalSet(scalar));
            self.value(V128, depth - 1);
            self.value(F32, depth - 1);
            self.labels.pop();
            self.add(&I::End);
            self.add(&I::LocalSet(scalar));
            if ty == F32 {
                self.add(&I::LocalSet(vector));
                self.add(&I::LocalGet(scalar));
            }
            return;
        } else {
            self.add(&I::Block(result));
            self.labels.push(false);
            self.value(ty, depth - 1);
            self.value(I32, depth - 1);
            self.add(&I::BrIf(0));
            if self.random.below(2) == 0 {
                self.add(&I::Drop);
                self.value(ty, depth - 1);
            }
        }
        self.labels.pop();
        self.add(&I::End);
    }
}

fn operations(ty: ValType, floats: bool) -> Vec<Operation> {
    let mut all = match ty {
        F32 => f32s(),
        F64 => f64s(),
        V128 => vectors(),
        I32 => vec![
            (&[I32, I32] as &[_], I::I32Add),
            (&[I32, I32], I::I32Xor),
            (&[I32, I32], I::I32LtS),
            (&[I64], I::I32WrapI64),
            (&[I64], I::I64Eqz),
        ],
        _ => vec![
            (&[I64, I64] as &[_], I::I64Add),
            (&[I64, I64], I::I64Mul),
            (&[I32], I::I64ExtendI32S),
        ],
    };
    if floats {
        all.extend(match ty {
            I32 => bits32(),
            I64 => bits64(),
            _ => vec![],
        });
    }
    all
}

fn f32s() -> Vec<Operation> {
    const TWO: &[ValType] = &[F32, F32];
    vec![
        (TWO, I::F32Add),
        (TWO, I::F32Sub),
        (TWO, I::F32Mul),
        (TWO, I::F32Div),
        (TWO, I::F32Min),
        (TWO, I::F32Max),
        (TWO, I::F32Copysign),
        (&[F32], I::F32Sqrt),
        (&[F32], I::F32Ceil),
        (&[F32], I::F32Floor),
        (&[F32], I::F32Trunc),
        (&[F32], I::F32Nearest),
        (&[F32], I::F32Neg),
        (&[F32], I::F32Abs),
        (&[F64], I::F32DemoteF64),
        (&[I32], I::F32ReinterpretI32),
        (&[I32], I::F32ConvertI32S),
        (&[I64], I::F32ConvertI64U),
        (&[V128], I::F32x4ExtractLane(0)),
        (&[V128], I::F32x4ExtractLane(3)),
    ]
}

fn f64s() -> Vec<Operation> {
    const TWO: &[ValType] = &[F64, F64];
    vec![
        (TWO, I::F64Add),
        (TWO, I::F64Sub),
        (TWO, I::F64Mul),
        (TWO, I::F64Div),
        (TWO, I::F64Min),
        (TWO, I::F64Max),
        (TWO, I::F64Copysign),
        (&[F64], I::F64Sqrt),
        (&[F64], I::F64Ceil),
        (&[F64], I::F64Floor),
        (&[F64], I::F64Trunc),
        (&[F64], I::F64Nearest),
        (&[F64], I::F64Neg),
        (&[F64], I::F64Abs),
        (&[F32], I::F64PromoteF32),
        (&[I64], I::F64ReinterpretI64),
        (&[I32], I::F64ConvertI32U),
        (&[I64], I::F64ConvertI64S),
        (&[V128], I::F64x2ExtractLane(0)),
        (&[V128], I::F64x2ExtractLane(1)),
    ]
}

fn vectors() -> Vec<Operation> {
    const ONE: &[ValType] = &[V128];
    const TWO: &[ValType] = &[V128, V128];
    const THREE: &[ValType] = &[V128, V128, V128];
    let lanes = [0, 17, 2, 3, 4, 5, 22, 7, 24, 9, 10, 11, 12, 29, 14, 15];
    vec![
        (TWO, I::F32x4Add),
        (TWO, I::F32x4Sub),
        (TWO, I::F32x4Mul),
        (TWO, I::F32x4Div),
        (TWO, I::F32x4Min),
        (TWO, I::F32x4Max),
        (TWO, I::F32x4PMin),
        (TWO, I::F32x4PMax),
        (ONE, I::F32x4Sqrt),
        (ONE, I::F32x4Ceil),
        (ONE, I::F32x4Floor),
        (ONE, I::F32x4Trunc),
        (ONE, I::F32x4Nearest),
        (ONE, I::F32x4Neg),
        (ONE, I::F32x4Abs),
        (ONE, I::F32x4DemoteF64x2Zero),
        (ONE, I::F32x4ConvertI32x4S),
        (ONE, I::F32x4ConvertI32x4U),
        (TWO, I::F32x4Lt),
        (TWO, I::F32x4Ne),
        (TWO, I::F64x2Add),
        (TWO, I::F64x2Sub),
        (TWO, I::F64x2Mul),
        (TWO, I::F64x2Div),
        (TWO, I::F64x2Min),
        (TWO, I::F64x2Max),
        (TWO, I::F64x2PMin),
        (TWO, I::F64x2PMax),
        (ONE, I::F64x2Sqrt),
        (ONE, I::F64x2Nearest),
        (ONE, I::F64x2Neg),
        (ONE, I::F64x2Abs),
        (ONE, I::F64x2PromoteLowF32x4),
        (ONE, I::F64x2ConvertLowI32x4S),
        (TWO, I::F64x2Ge),
        (ONE, I::I32x4TruncSatF32x4S),
        (ONE, I::I32x4TruncSatF64x2UZero),
        (&[F32], I::F32x4Splat),
        (&[F64], I::F64x2Splat),
        (&[V128, F32], I::F32x4ReplaceLane(2)),
        (&[V128, F64], I::F64x2ReplaceLane(1)),
        (&[I32], I::I32x4Splat),
        (&[V128, I32], I::I32x4ReplaceLane(1)),
        (TWO, I::V128And),
        (TWO, I::V128Xor),
        (ONE, I::V128Not),
        (THREE, I::V128Bitselect),
        (TWO, I::I32x4Add),
        (TWO, I::I8x16Swizzle),
        (TWO, I::I8x16Shuffle(lanes)),
    ]
}

fn bits32() -> Vec<Operation> {
    vec![
        (&[F32], I::I32ReinterpretF32),
        (&[F32], I::I32TruncSatF32S),
        (&[F64], I::I32TruncSatF64U),
        (&[F32, F32], I::F32Lt),
        (&[F64, F64], I::F64Ne),
        (&[V128], I::I32x4ExtractLane(1)),
        (&[V128], I::I8x16Bitmask),
        (&[V128], I::V128AnyTrue),
    ]
}

fn bits64() -> Vec<Operation> {
    vec![
        (&[F64], I::I64ReinterpretF64),
        (&[F64], I::I64TruncSatF64S),
        (&[F32], I::I64TruncSatF32U),
        (&[V128], I::I64x2ExtractLane(1)),
    ]
}
