//! Sinks against the compiler's switch.
use super::{
    Running, engine,
    generate::{BYTES, Random, program},
    instrumented,
};
use crate::instrument::nan::{Lanes, Sinks};
use wasmparser::Operator;
use wasmtime::Engine;

type Adjust = fn(&[Operator<'_>], &mut Sinks);

const INPUTS: usize = 3;

/// The first program of a sequence that gives other bits with these sinks than with the switch.
fn first_difference(seed: u64, programs: usize, adjust: Adjust) -> Option<usize> {
    let (switch, plain) = (engine(true), engine(false));
    (0..programs).find(|index| differs(&switch, &plain, seed + *index as u64, adjust))
}

fn differs(switch: &Engine, plain: &Engine, seed: u64, adjust: Adjust) -> bool {
    let mut random = Random(seed);
    let wasm = program(&mut random, true);
    let none: Adjust = |_, sinks| *sinks = Sinks::default();
    let expected = instrumented(switch, &wasm, none).expect("a valid module");
    let tested = instrumented(plain, &wasm, adjust).expect("a valid module");
    (0..INPUTS).any(|_| {
        let memory = random.bytes(BYTES);
        let [expected, tested] = [&expected, &tested].map(|module| {
            let mut running = Running::new(module, &memory);
            running.set_counter(i64::MAX);
            running.run().expect("programs do not trap");
            (running.bits(), running.counter())
        });
        expected != tested
    })
}

const KEEP: Adjust = |_, _| {};

#[test]
fn bits_are_those_of_the_switch() {
    assert_eq!(first_difference(0, 2_000, KEEP), None);
}

/// Ten minutes.
#[test]
#[ignore = "long"]
fn bits_are_those_of_the_switch_in_many_programs() {
    assert_eq!(first_difference(1 << 40, 100_000, KEEP), None);
}

/// Whether a body's instruction is followed by one that `is` so.
fn before(operators: &[Operator<'_>], sinks: &mut Sinks, is: fn(&Operator<'_>) -> bool) {
    for index in 0..sinks.0.len() {
        if operators.get(index + 1).is_some_and(is) {
            sinks.0[index] = None;
        }
    }
}

/// Every way to leave out sinks must be noticed, or the programs show nothing.
#[test]
fn missing_sinks_are_noticed() {
    use Operator as O;
    let broken: [(&str, Adjust); 14] = [
        ("all", |_, sinks| *sinks = Sinks::default()),
        ("f32", |_, sinks| forget(sinks, Lanes::F32)),
        ("f64", |_, sinks| forget(sinks, Lanes::F64)),
        ("f32x4", |_, sinks| forget(sinks, Lanes::F32x4)),
        ("f64x2", |_, sinks| forget(sinks, Lanes::F64x2)),
        ("stores", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(
                    operator,
                    O::F32Store { .. } | O::V128Store { .. } | O::F64Store { .. }
                )
            });
        }),
        ("lane stores", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(
                    operator,
                    O::V128Store32Lane { .. } | O::V128Store64Lane { .. }
                )
            });
        }),
        ("globals", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(operator, O::GlobalSet { .. })
            });
        }),
        ("casts", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(operator, O::I32ReinterpretF32 | O::I64ReinterpretF64)
            });
        }),
        ("signs", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(
                    operator,
                    O::F32Neg | O::F32Abs | O::F32Copysign | O::F64Neg | O::F64Abs | O::F64Copysign
                )
            });
        }),
        ("integer vectors", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(
                    operator,
                    O::V128And | O::V128Xor | O::V128Not | O::I32x4Add | O::I8x16Shuffle { .. }
                )
            });
        }),
        ("results", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(operator, O::End | O::Else | O::Return | O::Br { .. })
            });
        }),
        ("calls", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(operator, O::Call { .. } | O::ReturnCall { .. })
            });
        }),
        // Locals that hold what must change or what must not.
        ("locals", |operators, sinks| {
            before(operators, sinks, |operator| {
                matches!(operator, O::LocalSet { .. } | O::LocalTee { .. })
            });
        }),
    ];
    for (name, adjust) in broken {
        let noticed = first_difference(0, 2_000, adjust);
        assert!(noticed.is_some(), "nothing notices missing sinks: {name}");
    }
}

fn forget(sinks: &mut Sinks, lanes: Lanes) {
    for sink in &mut sinks.0 {
        *sink = sink.filter(|other| *other != lanes);
    }
}

/// Bits that were loaded, passed or written as a constant stay.
#[test]
fn superfluous_sinks_are_noticed() {
    use Operator as O;
    let broken: [(&str, Adjust); 4] = [
        ("loads", |operators, sinks| {
            make(operators, sinks, |operator| match operator {
                O::F32Load { .. } => Some(Lanes::F32),
                O::V128Load { .. } => Some(Lanes::F64x2),
                _ => None,
            });
        }),
        ("constants", |operators, sinks| {
            make(operators, sinks, |operator| match operator {
                O::F64Const { .. } => Some(Lanes::F64),
                _ => None,
            });
        }),
        ("signs", |operators, sinks| {
            make(operators, sinks, |operator| match operator {
                O::F32Neg | O::F32Copysign => Some(Lanes::F32),
                _ => None,
            });
        }),
        ("lanes of the other width", |_, sinks| {
            for sink in &mut sinks.0 {
                if *sink == Some(Lanes::F64x2) {
                    *sink = Some(Lanes::F32x4);
                }
            }
        }),
    ];
    for (name, adjust) in broken {
        let noticed = first_difference(0, 2_000, adjust);
        assert!(
            noticed.is_some(),
            "nothing notices superfluous sinks: {name}"
        );
    }
}

/// Adds sinks.
fn make(operators: &[Operator<'_>], sinks: &mut Sinks, lanes: fn(&Operator<'_>) -> Option<Lanes>) {
    sinks.0.resize(operators.len(), None);
    for (sink, operator) in sinks.0.iter_mut().zip(operators) {
        *sink = lanes(operator).or(*sink);
    }
}
