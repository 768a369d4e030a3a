//! The rules for a function's code.
//!
//! # Units and bounds
//! An instruction's complexity stands for the time its compilation takes; see [`complexity`].
use super::refuse;
use crate::module::ModuleError;
use wasmparser::{FuncValidator, FunctionBody, Operator, WasmModuleResources};

pub(super) const INSTRUCTIONS_MAX: usize = 1_000_000;
pub(super) const COMPLEXITY_MAX: u64 = 1_000_000;

/// What is known about a body.
pub(super) struct Found {
    /// The most slots its frame may hold.
    pub(super) slots: u32,
    /// Whether it calls functions of the module.
    pub(super) calls: bool,
    /// The first instruction whose effect an instance made anew would lack.
    pub(super) drops: Option<&'static str>,
    /// The first instruction that counts elements by the width of a table's indices.
    pub(super) counts: Option<&'static str>,
}

/// Types the body of the function at an index of those defined, which come after the imported ones.
pub(super) fn check<T: WasmModuleResources>(
    index: usize,
    imported: u32,
    validator: &mut FuncValidator<T>,
    body: &FunctionBody<'_>,
) -> Result<Found, ModuleError> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    let mut size = 0;
    let mut total: u64 = 0;
    let mut operands_max = 0;
    let mut calls = false;
    let mut drops = None;
    let mut counts = None;
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let (operator, offset) = operators.read_with_offset()?;
        validator.op(offset, &operator)?;
        drops = drops.or_else(|| drop_name(&operator));
        counts = counts.or(match operator {
            Operator::TableGrow { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. } => drop_name(&operator),
            _ => None,
        });
        calls |= match operator {
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                function_index >= imported
            }
            Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => true,
            _ => false,
        };
        operands_max = operands_max.max(validator.operand_stack_height());
        size += 1;
        total = total.saturating_add(complexity(&operator));
    }
    operators.finish()?;
    if total > COMPLEXITY_MAX {
        return refuse(format!(
            "Wasm module contains a function at index {index} with complexity {total} which exceeds the maximum complexity allowed {COMPLEXITY_MAX}."
        ));
    }
    if size > INSTRUCTIONS_MAX {
        return refuse(format!(
            "Wasm module contains a function at index {index} of size {size} that exceeds the maximum allowed size of {INSTRUCTIONS_MAX}."
        ));
    }
    Ok(Found {
        slots: validator.len_locals() + operands_max,
        calls,
        drops,
        counts,
    })
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

/// The replica's figures. Instructions that it refuses count as those that are like them.
fn complexity(operator: &Operator<'_>) -> u64 {
    use Operator as O;
    match operator {
        O::Block { .. }
        | O::Loop { .. }
        | O::If { .. }
        | O::Br { .. }
        | O::BrIf { .. }
        | O::BrTable { .. }
        | O::Call { .. }
        | O::CallIndirect { .. }
        | O::ReturnCall { .. }
        | O::ReturnCallIndirect { .. }
        | O::MemoryGrow { .. }
        | O::TableGrow { .. } => 50,
        O::TableGet { .. } | O::TableSet { .. } => 14,
        O::RefFunc { .. } => 8,
        O::RefIsNull => 6,
        operator if is_conversion(operator) => 5,
        O::F32Neg | O::F32Abs | O::F64Neg | O::F64Abs | O::MemoryCopy { .. } => 4,
        operator if is_load_or_division(operator) => 3,
        operator if is_store_or_comparison(operator) => 2,
        _ => 1,
    }
}

fn is_conversion(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::I32TruncF32S
            | O::I32TruncF32U
            | O::I32TruncF64S
            | O::I32TruncF64U
            | O::I64ExtendI32S
            | O::I64ExtendI32U
            | O::I64TruncF32S
            | O::I64TruncF32U
            | O::I64TruncF64S
            | O::I64TruncF64U
            | O::F32ConvertI32S
            | O::F32ConvertI32U
            | O::F32ConvertI64S
            | O::F32ConvertI64U
            | O::F32DemoteF64
            | O::F64ConvertI32S
            | O::F64ConvertI32U
            | O::F64ConvertI64S
            | O::F64ConvertI64U
    )
}

fn is_load_or_division(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::F32Copysign
            | O::F64Copysign
            | O::F64Eq
            | O::I32RemU
            | O::I32RemS
            | O::I64RemU
            | O::I64RemS
            | O::I32DivU
            | O::I32DivS
            | O::I64DivU
            | O::I64DivS
            | O::MemoryFill { .. }
            | O::I32Load { .. }
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
            | O::I32TruncSatF32S
            | O::I32TruncSatF32U
            | O::I32TruncSatF64S
            | O::I32TruncSatF64U
            | O::I64TruncSatF32S
            | O::I64TruncSatF32U
            | O::I64TruncSatF64S
            | O::I64TruncSatF64U
    )
}

fn is_store_or_comparison(operator: &Operator<'_>) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::GlobalGet { .. }
            | O::I32Popcnt
            | O::I64Popcnt
            | O::Select
            | O::MemorySize { .. }
            | O::I32Store { .. }
            | O::I32Store16 { .. }
            | O::I32Store8 { .. }
            | O::I64Store { .. }
            | O::I64Store32 { .. }
            | O::I64Store16 { .. }
            | O::I64Store8 { .. }
            | O::F64Store { .. }
            | O::F32Store { .. }
            | O::I32Eqz
            | O::I32Eq
            | O::I32Ne
            | O::I32LtS
            | O::I32LtU
            | O::I32GtS
            | O::I32GtU
            | O::I32LeS
            | O::I32LeU
            | O::I32GeS
            | O::I32GeU
            | O::I64Eqz
            | O::I64Eq
            | O::I64Ne
            | O::I64LtS
            | O::I64LtU
            | O::I64GtS
            | O::I64GtU
            | O::I64LeS
            | O::I64LeU
            | O::I64GeS
            | O::I64GeU
            | O::F32Eq
            | O::F32Ne
            | O::F32Lt
            | O::F32Gt
            | O::F32Le
            | O::F32Ge
            | O::F64Ne
            | O::F64Lt
            | O::F64Gt
            | O::F64Le
            | O::F64Ge
            | O::F32Ceil
            | O::F64Ceil
            | O::F32Floor
            | O::F64Floor
            | O::F32Sqrt
            | O::F64Sqrt
            | O::F32Trunc
            | O::F64Trunc
            | O::I32ReinterpretF32
            | O::I64ReinterpretF64
            | O::F32ReinterpretI32
            | O::F64ReinterpretI64
            | O::I32WrapI64
            | O::I32Extend8S
            | O::I32Extend16S
            | O::I64Extend8S
            | O::I64Extend16S
            | O::I64Extend32S
            | O::F64PromoteF32
    )
}
