//! What each Wasm instruction costs: the Internet Computer's published weights.
//!
//! # Units and bounds
//! Costs are in [`Instructions`](crate::engine::Instructions). An instruction not named here costs
//! 1; `block`, `loop`, `else`, `end` and `nop` cost nothing. Loads and stores cost 2 where addresses have
//! 64 bits. Bulk operations cost
//! [`BULK`] plus one per byte (memory) or element (table), charged when they run.
use wasmparser::Operator;

/// The fixed part of a bulk memory or table operation.
const BULK: u64 = 100;

/// The cost of one instruction, without the part that depends on its operands, in a module whose memory has
/// addresses of 64 bits or not.
#[must_use]
pub(crate) fn weight(operator: &Operator<'_>, memory64: bool) -> u64 {
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
        operator if bulk(operator, memory64).is_some() => BULK,
        operator if accesses(operator) => 1 + u64::from(memory64),
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

/// The type of a bulk operation's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    I32,
    I64,
}

/// If the topmost operand is a count of bytes or elements that is charged as well: its type.
#[must_use]
pub(crate) fn bulk(operator: &Operator<'_>, memory64: bool) -> Option<Count> {
    use Operator as O;
    match operator {
        O::MemoryCopy { .. } | O::MemoryFill { .. } if memory64 => Some(Count::I64),
        O::MemoryCopy { .. }
        | O::MemoryFill { .. }
        | O::MemoryInit { .. }
        | O::TableCopy { .. }
        | O::TableFill { .. }
        | O::TableInit { .. }
        | O::TableGrow { .. } => Some(Count::I32),
        _ => None,
    }
}

/// Whether it is a load from or a store to memory.
fn accesses(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::I32Load { .. }
            | O::I64Load { .. }
            | O::F32Load { .. }
            | O::F64Load { .. }
            | O::I32Load8S { .. }
            | O::I32Load8U { .. }
            | O::I32Load16S { .. }
            | O::I32Load16U { .. }
            | O::I64Load8S { .. }
            | O::I64Load8U { .. }
            | O::I64Load16S { .. }
            | O::I64Load16U { .. }
            | O::I64Load32S { .. }
            | O::I64Load32U { .. }
            | O::I32Store { .. }
            | O::I64Store { .. }
            | O::F32Store { .. }
            | O::F64Store { .. }
            | O::I32Store8 { .. }
            | O::I32Store16 { .. }
            | O::I64Store8 { .. }
            | O::I64Store16 { .. }
            | O::I64Store32 { .. }
            | O::V128Load { .. }
            | O::V128Load8x8S { .. }
            | O::V128Load8x8U { .. }
            | O::V128Load16x4S { .. }
            | O::V128Load16x4U { .. }
            | O::V128Load32x2S { .. }
            | O::V128Load32x2U { .. }
            | O::V128Load8Splat { .. }
            | O::V128Load16Splat { .. }
            | O::V128Load32Splat { .. }
            | O::V128Load64Splat { .. }
            | O::V128Load32Zero { .. }
            | O::V128Load64Zero { .. }
            | O::V128Load8Lane { .. }
            | O::V128Load16Lane { .. }
            | O::V128Load32Lane { .. }
            | O::V128Load64Lane { .. }
            | O::V128Store { .. }
            | O::V128Store8Lane { .. }
            | O::V128Store16Lane { .. }
            | O::V128Store32Lane { .. }
            | O::V128Store64Lane { .. }
    )
}
