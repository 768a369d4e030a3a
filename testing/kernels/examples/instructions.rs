//! Prints the instructions that each kernel takes per operation when compiled into a canister, with and without vectors,
//! beside its price as an import.
//!
//! `cargo run --release -p lockstep-kernels --example instructions`
//!
//! What a message takes beside the kernel is told by the build with imports, less the price.
#[path = "../tests/support/mod.rs"]
mod support;

use lockstep_canister::{
    engine::{Engine, EntryPoint, Instructions},
    kernels::prices,
    state::CanisterState,
};
use lockstep_cdk::kernels::WeightFormat;
use lockstep_kernels::{Kernel, Request, bytes};
use lockstep_numeric::selftest::Generator;

/// Rows of weights.
const ROWS: usize = 256;
/// Columns, and elements of a row of what is no product.
const COLUMNS: usize = 256;

fn main() {
    let program = std::env::current_exe().expect("a program");
    let products = program.ancestors().nth(3).expect("a folder of products");
    let Some(wasm) = support::builds(&products.join("tmp")) else {
        return;
    };
    let engine = Engine::new();
    let [imported, compiled, vectors] = wasm.map(|wasm| support::install(&engine, &wasm));
    let take = |state: &CanisterState, request: &Request| -> Instructions {
        let entry = EntryPoint::Update("answer".into());
        support::execute(&engine, state, entry, request.encode()).instructions
    };
    println!("kernel, rows of input: instructions per operation compiled, with vectors, price");
    for (request, operations, price) in requests() {
        let beside = take(&imported, &request) - price;
        let per_operation = |count: Instructions| count as f64 / operations as f64;
        println!(
            "{:?} {} {}: {:.3} {:.3} {:.3}",
            request.kernel,
            request.format,
            request.batch,
            per_operation(take(&compiled, &request) - beside),
            per_operation(take(&vectors, &request).saturating_sub(beside)),
            per_operation(price)
        );
    }
}

/// Calls, their operations and their prices.
fn requests() -> Vec<(Request, usize, Instructions)> {
    let generator = &mut Generator::new(1);
    let mut floats = |count: usize| {
        let values = (0..count).map(|_| generator.ordinary(8.0));
        bytes(&values.collect::<Vec<_>>())
    };
    let mut requests = Vec::new();
    let mut push = |kernel, format, batch: usize, (first, second), operations, price| {
        let request = Request {
            kernel,
            format,
            batch,
            rows: ROWS,
            columns: COLUMNS,
            epsilon: 1e-5_f32.to_bits(),
            first,
            second,
        };
        requests.push((request, operations, price));
    };
    for batch in [1, 6, 48] {
        let operations = batch * ROWS * COLUMNS;
        for format in WeightFormat::ALL {
            let stored = vec![0; ROWS * format.row_bytes(COLUMNS).expect("whole blocks")];
            let price = prices::product(format, (batch as u32, ROWS as u32, COLUMNS as u32));
            let operands = (stored, floats(batch * COLUMNS));
            push(
                Kernel::MatmulRows,
                format,
                batch,
                operands,
                operations,
                price,
            );
        }
        let price = prices::product(
            WeightFormat::F32,
            (batch as u32, ROWS as u32, COLUMNS as u32),
        );
        let operands = (floats(batch * COLUMNS), floats(ROWS * COLUMNS));
        push(
            Kernel::Matmul,
            WeightFormat::F32,
            batch,
            operands,
            operations,
            price,
        );
    }
    let count = 64 * COLUMNS;
    for (kernel, rate, other) in [
        (Kernel::RmsNorm, prices::RMS_NORM, COLUMNS),
        (Kernel::Softmax, prices::SOFTMAX, 0),
        (Kernel::SiluMul, prices::SILU_MUL, count),
        (Kernel::Add, prices::ADD, count),
        (Kernel::Exp, prices::EXP, 0),
    ] {
        let operands = (floats(count), floats(other));
        let price = match kernel {
            Kernel::RmsNorm | Kernel::Softmax => prices::rows(64, COLUMNS as u32, rate),
            _ => prices::elements(count as u64, rate),
        };
        push(kernel, WeightFormat::F32, 64, operands, count, price);
    }
    requests
}
