//! What an instruction does with the NaNs of its operands.
use super::value::{Holds, Width};
use wasmparser::Operator;

/// An instruction, as far as NaNs go. Operands are counted from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Computes floats: no bit of the result depends on bits of a NaN, but those of a NaN in the result,
    /// which the machine chooses.
    Computes {
        operands: usize,
        reads: Width,
        makes: Width,
        vector: bool,
    },
    /// Gives something else, which depends on no bit of a NaN.
    Tests { operands: usize, reads: Width },
    /// Gives one of its operands' lanes, or some of them, without a look at the bits of a NaN.
    Moves {
        operands: usize,
        width: Width,
        vector: bool,
    },
    /// Gives the first or the second operand.
    Selects,
    /// Takes so many operands that are no floats.
    Gives {
        operands: usize,
        result: Holds,
        vector: bool,
    },
    /// Anything else: every bit of its operands may be seen, and its results are what they are.
    Sees,
}

pub(super) fn effect(operator: &Operator<'_>) -> Effect {
    use Operator as O;
    use Width::{W32, W64};
    let computes = |operands, reads, makes, vector| Effect::Computes {
        operands,
        reads,
        makes,
        vector,
    };
    let tests = |operands, reads| Effect::Tests { operands, reads };
    let moves = |operands, width, vector| Effect::Moves {
        operands,
        width,
        vector,
    };
    let gives = |operands, result, vector| Effect::Gives {
        operands,
        result,
        vector,
    };
    match operator {
        O::F32Add | O::F32Sub | O::F32Mul | O::F32Div | O::F32Min | O::F32Max => {
            computes(2, W32, W32, false)
        }
        O::F64Add | O::F64Sub | O::F64Mul | O::F64Div | O::F64Min | O::F64Max => {
            computes(2, W64, W64, false)
        }
        O::F32Sqrt | O::F32Ceil | O::F32Floor | O::F32Trunc | O::F32Nearest => {
            computes(1, W32, W32, false)
        }
        O::F64Sqrt | O::F64Ceil | O::F64Floor | O::F64Trunc | O::F64Nearest => {
            computes(1, W64, W64, false)
        }
        O::F32DemoteF64 => computes(1, W64, W32, false),
        O::F64PromoteF32 => computes(1, W32, W64, false),
        O::F32x4Add | O::F32x4Sub | O::F32x4Mul | O::F32x4Div | O::F32x4Min | O::F32x4Max => {
            computes(2, W32, W32, true)
        }
        O::F64x2Add | O::F64x2Sub | O::F64x2Mul | O::F64x2Div | O::F64x2Min | O::F64x2Max => {
            computes(2, W64, W64, true)
        }
        O::F32x4Sqrt | O::F32x4Ceil | O::F32x4Floor | O::F32x4Trunc | O::F32x4Nearest => {
            computes(1, W32, W32, true)
        }
        O::F64x2Sqrt | O::F64x2Ceil | O::F64x2Floor | O::F64x2Trunc | O::F64x2Nearest => {
            computes(1, W64, W64, true)
        }
        O::F32x4DemoteF64x2Zero => computes(1, W64, W32, true),
        O::F64x2PromoteLowF32x4 => computes(1, W32, W64, true),
        O::F32Eq | O::F32Ne | O::F32Lt | O::F32Gt | O::F32Le | O::F32Ge => tests(2, W32),
        O::F64Eq | O::F64Ne | O::F64Lt | O::F64Gt | O::F64Le | O::F64Ge => tests(2, W64),
        O::F32x4Eq | O::F32x4Ne | O::F32x4Lt | O::F32x4Gt | O::F32x4Le | O::F32x4Ge => {
            tests(2, W32)
        }
        O::F64x2Eq | O::F64x2Ne | O::F64x2Lt | O::F64x2Gt | O::F64x2Le | O::F64x2Ge => {
            tests(2, W64)
        }
        O::I32TruncF32S | O::I32TruncF32U | O::I64TruncF32S | O::I64TruncF32U => tests(1, W32),
        O::I32TruncF64S | O::I32TruncF64U | O::I64TruncF64S | O::I64TruncF64U => tests(1, W64),
        O::I32TruncSatF32S | O::I32TruncSatF32U | O::I64TruncSatF32S | O::I64TruncSatF32U => {
            tests(1, W32)
        }
        O::I32TruncSatF64S | O::I32TruncSatF64U | O::I64TruncSatF64S | O::I64TruncSatF64U => {
            tests(1, W64)
        }
        O::I32x4TruncSatF32x4S | O::I32x4TruncSatF32x4U => tests(1, W32),
        O::I32x4TruncSatF64x2SZero | O::I32x4TruncSatF64x2UZero => tests(1, W64),
        O::F32x4PMin | O::F32x4PMax | O::F32x4ReplaceLane { .. } => moves(2, W32, true),
        O::F64x2PMin | O::F64x2PMax | O::F64x2ReplaceLane { .. } => moves(2, W64, true),
        O::F32x4Splat => moves(1, W32, true),
        O::F64x2Splat => moves(1, W64, true),
        O::F32x4ExtractLane { .. } => moves(1, W32, false),
        O::F64x2ExtractLane { .. } => moves(1, W64, false),
        O::Select | O::TypedSelect { .. } => Effect::Selects,
        O::F32Const { value } => gives(0, Holds::constant_f32(value.bits()), false),
        O::F64Const { value } => gives(0, Holds::constant_f64(value.bits()), false),
        O::V128Const { value } => gives(0, Holds::constant_v128(value.bytes()), true),
        O::F32ConvertI32S | O::F32ConvertI32U | O::F32ConvertI64S | O::F32ConvertI64U => {
            gives(1, Holds::CANONICAL, false)
        }
        O::F64ConvertI32S | O::F64ConvertI32U | O::F64ConvertI64S | O::F64ConvertI64U => {
            gives(1, Holds::CANONICAL, false)
        }
        _ => Effect::Sees,
    }
}
