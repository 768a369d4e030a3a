//! The imports of module `lockstep` that compute: products, norms and what goes with them, on the canister's memory.
//!
//! # Design
//! A kernel reads and writes ranges of the calling instance's memory with the functions of
//! [`lockstep_numeric::Kernels`], on all of the engine's threads; in a task that shares them, on the task's own. The
//! same functions compiled to Wasm give the same bits: `lockstep_cdk::kernels` offers either.
//!
//! | import `kernel_` | what |
//! |---|---|
//! | `matmul_f32(a: i32, b: i32, out: i32, m: i32, k: i32, n: i32)` | out (m x n) = a (m x k) times b (k x n), row by row in memory |
//! | `matmul_rows(format: i32, weights: i32, input: i32, out: i32, batch: i32, rows: i32, columns: i32)` | out (batch x rows) = input (batch x columns) times the transpose of weights (rows x columns), stored in a [format](format_code) |
//! | `rms_norm(input: i32, weight: i32, out: i32, rows: i32, columns: i32, epsilon: f32)` | each row of the input normalised, times weight |
//! | `softmax(values: i32, rows: i32, columns: i32)` | each row replaced by its softmax |
//! | `silu_mul(gate: i32, up: i32, count: i32)` | gate = (gate / (1 + exp(-gate))) * up |
//! | `add(accumulator: i32, addend: i32, count: i32)` | accumulator = accumulator + addend |
//! | `exp(values: i32, count: i32)` | each value replaced by its exponential |
//!
//! Numbers are f32 unless a format says otherwise; addresses, counts and shapes are unsigned. Kernels may be called
//! wherever code runs: in every message, in `start` and in tasks of a fork.
//!
//! # Determinism
//! Contract 1, record 0001: products of floats are `sequential`, others follow the block chain of their format.
//! Threads do not show.
//!
//! # Units and bounds
//! The [`prices`] are functions of the shapes and are charged before anything is computed. of products, k and columns are at most
//! [`StoredRows::COLUMNS_MAX`]. A count of zero is fine: sums of nothing are +0.
//!
//! # Errors
//! A range that lies outside of memory, floats at an address that is no multiple of 4, an output that overlaps an
//! input, an unknown format, a shape that the format or the bound refuses, and an INT8 zero-point out of range trap.
//! Inputs may overlap each other.
use crate::{
    engine::Instructions,
    host::{Contexts, Host, Imports, charge, context, enter, memory},
};
use lockstep_numeric::{Kernels, StoredRows, WeightFormat, elementary::Function};
use ranges::{Argument, Checker, floats, split};
use wasmtime::Caller;

pub mod prices;
mod ranges;

/// Where kernels may be called: everywhere.
const CONTEXTS: Contexts = context::ANY_AND_START | context::FORK;

/// The frozen number of a format in `kernel_matmul_rows`: GGUF's, and 256 for INT8, which GGUF does not have. `None`
/// for formats that are not offered.
#[must_use]
pub fn format_code(format: WeightFormat) -> Option<i32> {
    Some(match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q4_0 => 2,
        WeightFormat::Q4_1 => 3,
        WeightFormat::Q5_0 => 6,
        WeightFormat::Q5_1 => 7,
        WeightFormat::Q8_0 => 8,
        WeightFormat::Q2_K => 10,
        WeightFormat::Q3_K => 11,
        WeightFormat::Q4_K => 12,
        WeightFormat::Q5_K => 13,
        WeightFormat::Q6_K => 14,
        WeightFormat::IQ4_NL => 20,
        WeightFormat::IQ4_XS => 23,
        WeightFormat::Bf16 => 30,
        WeightFormat::Int8 => 256,
        _ => return None,
    })
}

fn format_of(code: i32) -> Option<WeightFormat> {
    let mut formats = WeightFormat::ALL.into_iter();
    formats.find(|format| format_code(*format) == Some(code))
}

macro_rules! kernel {
    ($imports:ident, $name:literal, |$caller:ident, $checker:ident $(, $argument:ident: $ty:ty)*| $body:block) => {
        $imports.add("lockstep", $name, |mut caller: Caller<'_, Host> $(, $argument: $ty)*| -> wasmtime::Result<()> {
            let $caller = &mut caller;
            enter($caller, ("lockstep", $name), CONTEXTS, 0)?;
            let $checker = Checker { kernel: $name, memory_bytes: memory($caller).0.len() };
            $body
        });
    };
}

/// Defines the kernels.
pub(crate) fn define(imports: &mut Imports) {
    products(imports);
    rows(imports);
    elements(imports);
}

fn products(imports: &mut Imports) {
    kernel!(
        imports,
        "kernel_matmul_f32",
        |caller, checker, a: i32, b: i32, out: i32, m: i32, k: i32, n: i32| {
            let [m, k, n] = [m, k, n].map(i32::cast_unsigned);
            let a = checker.floats("a", a, area(m, k))?;
            let b = checker.floats("b", b, area(k, n))?;
            let out = checker.floats("out", out, area(m, n))?;
            checker.apart(&out, &[&a, &b])?;
            if k as usize > StoredRows::COLUMNS_MAX {
                return checker.refuse(format_args!(
                    "k is more than {}: {k}",
                    StoredRows::COLUMNS_MAX
                ));
            }
            let price = prices::product(WeightFormat::F32, (m, n, k));
            run(caller, price, &out, [&a, &b], |kernels, [a, b], out| {
                let shape = (m as usize, k as usize, n as usize);
                kernels.matmul_f32(floats(a), floats(b), shape, out);
                Ok(())
            })
        }
    );
    kernel!(
        imports,
        "kernel_matmul_rows",
        |caller,
         checker,
         format: i32,
         weights: i32,
         input: i32,
         out: i32,
         batch: i32,
         rows: i32,
         columns: i32| {
            let Some(format) = format_of(format) else {
                return checker.refuse(format_args!("unknown format: {format}"));
            };
            let [batch, rows, columns] = [batch, rows, columns].map(i32::cast_unsigned);
            let size = match StoredRows::bytes(format, rows as usize, columns as usize) {
                Ok(size) => size as u64,
                Err(error) => return checker.refuse(error),
            };
            let weights = checker.bytes("weights", u64::from(weights.cast_unsigned()), size)?;
            let input = checker.floats("input", input, area(batch, columns))?;
            let out = checker.floats("out", out, area(batch, rows))?;
            checker.apart(&out, &[&weights, &input])?;
            let price = prices::product(format, (batch, rows, columns));
            run(
                caller,
                price,
                &out,
                [&weights, &input],
                |kernels, [weights, input], out| match StoredRows::new(
                    format,
                    rows as usize,
                    columns as usize,
                    weights,
                ) {
                    Ok(weights) => {
                        kernels.matmul_stored(&weights, floats(input), batch as usize, out);
                        Ok(())
                    }
                    Err(error) => checker.refuse(error),
                },
            )
        }
    );
}

fn rows(imports: &mut Imports) {
    kernel!(
        imports,
        "kernel_rms_norm",
        |caller,
         checker,
         input: i32,
         weight: i32,
         out: i32,
         rows: i32,
         columns: i32,
         epsilon: f32| {
            let [rows, columns] = [rows, columns].map(i32::cast_unsigned);
            let count = area(rows, columns);
            let input = checker.floats("input", input, count)?;
            let weight = checker.floats("weight", weight, columns.into())?;
            let out = checker.floats("out", out, count)?;
            checker.apart(&out, &[&input, &weight])?;
            let price = prices::rows(rows, columns, prices::RMS_NORM);
            run(
                caller,
                price,
                &out,
                [&input, &weight],
                |kernels, [input, weight], out| {
                    kernels.rms_norm(floats(input), floats(weight), epsilon, rows as usize, out);
                    Ok(())
                },
            )
        }
    );
    kernel!(
        imports,
        "kernel_softmax",
        |caller, checker, values: i32, rows: i32, columns: i32| {
            let [rows, columns] = [rows, columns].map(i32::cast_unsigned);
            let count = area(rows, columns);
            let values = checker.floats("values", values, count)?;
            let price = prices::rows(rows, columns, prices::SOFTMAX);
            run(caller, price, &values, [], |kernels, [], values| {
                kernels.softmax_rows(values, columns as usize);
                Ok(())
            })
        }
    );
}

fn elements(imports: &mut Imports) {
    kernel!(
        imports,
        "kernel_silu_mul",
        |caller, checker, gate: i32, up: i32, count: i32| {
            let count = u64::from(count.cast_unsigned());
            let gate = checker.floats("gate", gate, count)?;
            let up = checker.floats("up", up, count)?;
            checker.apart(&gate, &[&up])?;
            let price = prices::elements(count, prices::SILU_MUL);
            run(caller, price, &gate, [&up], |kernels, [up], gate| {
                kernels.silu_mul(gate, floats(up));
                Ok(())
            })
        }
    );
    kernel!(
        imports,
        "kernel_add",
        |caller, checker, accumulator: i32, addend: i32, count: i32| {
            let count = u64::from(count.cast_unsigned());
            let accumulator = checker.floats("accumulator", accumulator, count)?;
            let addend = checker.floats("addend", addend, count)?;
            checker.apart(&accumulator, &[&addend])?;
            let price = prices::elements(count, prices::ADD);
            run(
                caller,
                price,
                &accumulator,
                [&addend],
                |kernels, [addend], accumulator| {
                    kernels.add(accumulator, floats(addend));
                    Ok(())
                },
            )
        }
    );
    kernel!(
        imports,
        "kernel_exp",
        |caller, checker, values: i32, count: i32| {
            let count = u64::from(count.cast_unsigned());
            let values = checker.floats("values", values, count)?;
            let price = prices::elements(count, prices::EXP);
            run(caller, price, &values, [], |kernels, [], values| {
                kernels.apply(Function::Exp, values);
                Ok(())
            })
        }
    );
}

/// Elements of a matrix; of the largest, too, it fits.
fn area(rows: u32, columns: u32) -> u64 {
    u64::from(rows) * u64::from(columns)
}

/// Charges and computes, unless there is nothing to write.
fn run<const N: usize>(
    caller: &mut Caller<'_, Host>,
    price: Instructions,
    output: &Argument,
    inputs: [&Argument; N],
    work: impl FnOnce(&Kernels, [&[u8]; N], &mut [f32]) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    charge(caller, price)?;
    if output.is_empty() {
        return Ok(());
    }
    let kernels = caller.data().engine.kernels().clone();
    let (output, inputs) = split(memory(caller).0, output, inputs);
    work(&kernels, inputs, bytemuck::cast_slice_mut(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_codes_are_frozen() {
        let codes: Vec<_> = WeightFormat::ALL
            .into_iter()
            .map(|format| (format.name(), format_code(format)))
            .collect();
        let frozen = [
            ("F32", 0),
            ("F16", 1),
            ("BF16", 30),
            ("Q8_0", 8),
            ("Q4_0", 2),
            ("Q4_1", 3),
            ("Q5_0", 6),
            ("Q5_1", 7),
            ("Q2_K", 10),
            ("Q3_K", 11),
            ("Q4_K", 12),
            ("Q5_K", 13),
            ("Q6_K", 14),
            ("INT8", 256),
            ("IQ4_NL", 20),
            ("IQ4_XS", 23),
        ];
        assert_eq!(codes, frozen.map(|(name, code)| (name, Some(code))));
        for format in WeightFormat::ALL {
            assert_eq!(format_of(format_code(format).unwrap()), Some(format));
        }
        assert_eq!(format_of(4), None);
        assert_eq!(format_of(-1), None);
    }
}
