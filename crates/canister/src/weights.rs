//! What each Wasm instruction costs: the Internet Computer's published weights.
//!
//! # Units and bounds
//! Costs are in [`Instructions`](crate::engine::Instructions). An instruction not named here costs
//! 1; `block`, `loop`, `else`, `end` and `nop` cost nothing. Bulk operations cost
//! [`BULK`] plus one per byte (memory) or element (table), charged when they run.
use wasmparser::Operator;

/// The fixed part of a bulk memory or table operation.
pub const BULK: u64 = 100;

/// The cost of one instruction, without the part that depends on its operands.
#[must_use]
pub(crate) fn weight(operator: &Operator<'_>) -> u64 {
    use Operator as O;
    match operator {
        O::Block { .. } | O::Loop { .. } | O::Else | O::End | O::Nop => 0,
        O::Br { .. } | O::BrIf { .. } | O::BrTable { .. } | O::If { .. } => 2,
        O::GlobalGet { .. } | O::GlobalSet { .. } => 2,
        O::Call { .. } | O::ReturnCall { .. } => 5,
        O::CallIndirect { .. } | O::ReturnCallIndirect { .. } => 10,
        O::I32DivS
        | O::I32DivU
        | O::I32RemS
        | O::I32RemU
        | O::I64DivS
        | O::I64DivU
        | O::I64RemS
        | O::I64RemU => 10,
        O::F32Add | O::F32Sub | O::F32Mul | O::F64Add | O::F64Sub | O::F64Mul => 2,
        O::F32Div => 3,
        O::F64Div => 5,
        O::F32Sqrt => 5,
        O::F64Sqrt => 8,
        O::F32Min | O::F32Max | O::F64Min | O::F64Max => 18,
        O::F32Eq | O::F32Ne | O::F32Lt | O::F32Gt | O::F32Le | O::F32Ge => 3,
        O::F64Eq | O::F64Ne | O::F64Lt | O::F64Gt | O::F64Le | O::F64Ge => 3,
        O::I32TruncF32S | O::I32TruncF32U | O::I32TruncF64S | O::I32TruncF64U => 20,
        O::I64TruncF32S | O::I64TruncF32U | O::I64TruncF64S | O::I64TruncF64U => 20,
        O::I32TruncSatF32S | O::I32TruncSatF32U | O::I32TruncSatF64S | O::I32TruncSatF64U => 20,
        O::I64TruncSatF32S | O::I64TruncSatF32U | O::I64TruncSatF64S | O::I64TruncSatF64U => 20,
        O::MemoryGrow { .. } => 300,
        O::MemorySize { .. } => 20,
        operator if is_bulk(operator) => BULK,
        O::TableSize { .. } => 20,
        O::F32x4Add | O::F32x4Sub | O::F32x4Mul | O::F64x2Add | O::F64x2Sub | O::F64x2Mul => 2,
        O::F32x4Div | O::F64x2Div | O::F32x4Sqrt | O::F64x2Sqrt => 10,
        O::F32x4Min | O::F32x4Max | O::F64x2Min | O::F64x2Max => 4,
        O::I32x4Mul => 2,
        O::I64x2Mul => 4,
        O::I64x2ExtMulLowI32x4S
        | O::I64x2ExtMulHighI32x4S
        | O::I64x2ExtMulLowI32x4U
        | O::I64x2ExtMulHighI32x4U => 2,
        O::I8x16Shuffle { .. } => 3,
        _ => 1,
    }
}

/// Whether the topmost operand is a count of bytes or elements that is charged as well.
#[must_use]
pub(crate) fn is_bulk(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::MemoryCopy { .. }
            | O::MemoryFill { .. }
            | O::MemoryInit { .. }
            | O::TableCopy { .. }
            | O::TableFill { .. }
            | O::TableInit { .. }
            | O::TableGrow { .. }
    )
}
