//! Every kernel as an import, compiled into the canister with vectors and without, and on this machine: equal bits.
#[path = "support/mod.rs"]
mod support;

use lockstep_canister::engine::{Engine, EntryPoint, Execution, Response};
use lockstep_cdk::kernels::WeightFormat;
use lockstep_kernels::{Kernel, Request, bytes};
use lockstep_numeric::selftest::Generator;
use std::{collections::BTreeSet, num::NonZeroUsize, path::Path};
use support::{execute, install};

/// The functions that a module imports from `lockstep`.
fn imports(wasm: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        if let wasmparser::Payload::ImportSection(section) = payload.unwrap() {
            let imports = section.into_imports().map(|import| import.unwrap());
            let ours = imports.filter(|import| import.module == "lockstep");
            names.extend(ours.map(|import| import.name.to_owned()));
        }
    }
    names
}

fn reply(execution: &Execution) -> &[u8] {
    match &execution.result {
        Ok((Response::Reply(reply), _)) => reply,
        other => panic!("a reply expected: {other:?}"),
    }
}

/// Floats: ordinary ones, large ones, or any, infinities, NaNs of all payloads and subnormals often among them.
fn values(generator: &mut Generator, count: usize) -> Vec<u8> {
    let kind = generator.bits() % 4;
    let values = (0..count).map(|_| match kind {
        0 => generator.any(),
        1 => generator.ordinary(f32::MAX),
        _ => generator.ordinary(8.0),
    });
    bytes(&values.collect::<Vec<_>>())
}

/// Stored rows without an INT8 zero-point out of range.
fn stored(
    generator: &mut Generator,
    format: WeightFormat,
    (rows, columns): (usize, usize),
) -> Vec<u8> {
    if matches!(format, WeightFormat::F32) {
        return values(generator, rows * columns);
    }
    let row_bytes = format.row_bytes(columns).unwrap();
    let mut bytes = generator.bytes(rows * row_bytes);
    if format == WeightFormat::Int8 {
        for row in bytes.chunks_exact_mut(row_bytes) {
            let zero_point = i32::from(row[4] as i8);
            row[4..8].copy_from_slice(&zero_point.to_le_bytes());
        }
    }
    bytes
}

/// Requests of a kernel: shapes of 0, 1 and odd sizes, and one that is shared among threads.
fn requests(kernel: Kernel) -> Vec<Request> {
    let generator = &mut Generator::new(kernel as u64);
    let mut requests = Vec::new();
    let mut push = |format, (batch, rows, columns), epsilon: f32, first, second| {
        requests.push(Request {
            kernel,
            format,
            batch,
            rows,
            columns,
            epsilon: epsilon.to_bits(),
            first,
            second,
        });
    };
    let f32 = WeightFormat::F32;
    match kernel {
        Kernel::Matmul => {
            for shape in [
                (0, 3, 5),
                (3, 0, 5),
                (3, 5, 0),
                (1, 1, 1),
                (1, 1, 2),
                (2, 1, 1),
                (1, 17, 3),
                (7, 15, 33),
                (6, 16, 1),
                (5, 31, 64),
                (12, 150, 70),
            ] {
                let (batch, rows, columns) = shape;
                for _ in 0..4 {
                    let a = values(generator, batch * columns);
                    let b = values(generator, rows * columns);
                    push(f32, shape, 0.0, a, b);
                }
            }
        }
        Kernel::MatmulRows => {
            for format in WeightFormat::ALL {
                for (batch, rows, blocks) in [
                    (0, 3, 1),
                    (3, 0, 1),
                    (3, 5, 0),
                    (1, 1, 1),
                    (2, 17, 2),
                    (7, 3, 1),
                    (6, 70, 3),
                ] {
                    let columns = blocks * format.block_len();
                    let weights = stored(generator, format, (rows, columns));
                    let input = values(generator, batch * columns);
                    push(format, (batch, rows, columns), 0.0, weights, input);
                }
            }
        }
        Kernel::Forked => {
            for format in WeightFormat::ALL {
                for (rows, blocks) in [(0, 1), (1, 1), (100, 2)] {
                    let columns = blocks * format.block_len();
                    let weights = stored(generator, format, (rows, columns));
                    let input = values(generator, columns);
                    push(format, (1, rows, columns), 0.0, weights, input);
                }
            }
        }
        Kernel::RmsNorm => {
            for (batch, columns) in [(0, 5), (3, 0), (1, 1), (2, 15), (3, 16), (5, 33), (90, 100)] {
                for epsilon in [0.0, 1e-5, -1.0, f32::INFINITY, f32::NAN] {
                    let (input, weight) = (
                        values(generator, batch * columns),
                        values(generator, columns),
                    );
                    push(f32, (batch, 0, columns), epsilon, input, weight);
                }
            }
        }
        Kernel::Softmax => {
            for (batch, columns) in [(0, 5), (3, 0), (1, 1), (2, 15), (3, 16), (5, 33), (90, 100)] {
                for _ in 0..4 {
                    let input = values(generator, batch * columns);
                    push(f32, (batch, 0, columns), 0.0, input, Vec::new());
                }
            }
        }
        Kernel::SiluMul | Kernel::Add | Kernel::Exp => {
            for count in [0, 1, 2, 15, 16, 17, 100, 9_000] {
                for _ in 0..4 {
                    let first = values(generator, count);
                    let second = match kernel {
                        Kernel::Exp => Vec::new(),
                        _ => values(generator, count),
                    };
                    push(f32, (0, 0, 0), 0.0, first, second);
                }
            }
        }
    }
    requests
}

#[test]
fn all_builds_and_every_number_of_threads_give_the_same_bits() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some([imported, compiled, vectors]) = support::builds(folder) else {
        return;
    };
    let names = [
        "fork",
        "kernel_add",
        "kernel_exp",
        "kernel_matmul_f32",
        "kernel_matmul_rows",
        "kernel_rms_norm",
        "kernel_silu_mul",
        "kernel_softmax",
    ];
    assert_eq!(imports(&imported), names.map(String::from).into());
    assert_eq!(imports(&compiled), BTreeSet::new());
    assert_eq!(imports(&vectors), BTreeSet::new());
    let engine = Engine::new();
    let [imported, compiled, vectors] =
        [imported, compiled, vectors].map(|wasm| install(&engine, &wasm));
    let engines =
        [1, 2, 3, 8].map(|threads| engine.on_threads(NonZeroUsize::new(threads).unwrap()));
    for kernel in Kernel::ALL {
        for (index, request) in requests(kernel).into_iter().enumerate() {
            let what = format!(
                "{kernel:?} {index}: {} {} {} {}",
                request.format, request.batch, request.rows, request.columns
            );
            let expected = request.answer();
            let entry = || EntryPoint::Update("answer".into());
            for (state, build) in [(&compiled, "compiled"), (&vectors, "vectors")] {
                let alone = execute(&engine, state, entry(), request.encode());
                assert!(reply(&alone) == expected, "{what}, {build}");
            }
            let mut charges = BTreeSet::new();
            for (threads, engine) in engines.iter().enumerate() {
                let called = execute(engine, &imported, entry(), request.encode());
                assert!(reply(&called) == expected, "{what}, engine {threads}");
                charges.insert((called.instructions, called.time));
            }
            assert_eq!(charges.len(), 1, "{what}: {charges:?}");
        }
    }
}
