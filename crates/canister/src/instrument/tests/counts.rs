//! Charges against a count of every instruction.
use super::{
    Running, engine,
    generate::{BYTES, Random, program},
    instrumented,
};
use crate::{
    host::ImportSets,
    validate::{Facts, validate},
    weights::{Count, bulk, weight},
};
use wasm_encoder::{
    CodeSection, ConstExpr, ExportKind, ExportSection, Function, GlobalSection, GlobalType,
    Instruction as I, Module, RawSection, ValType,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmparser::{Parser, Payload};

/// The module with a counter that every instruction adds to by itself, when it is reached.
fn counting(wasm: &[u8], facts: &Facts) -> Vec<u8> {
    let counter = facts.globals.len() as u32;
    let mut module = Module::new();
    let mut code = CodeSection::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.expect("valid");
        match &payload {
            Payload::GlobalSection(section) => {
                let mut globals = GlobalSection::new();
                RoundtripReencoder
                    .parse_global_section(&mut globals, section.clone())
                    .expect("valid");
                let ty = GlobalType {
                    val_type: ValType::I64,
                    mutable: true,
                    shared: false,
                };
                globals.global(ty, &ConstExpr::i64_const(0));
                module.section(&globals);
            }
            Payload::ExportSection(section) => {
                let mut exports = ExportSection::new();
                RoundtripReencoder
                    .parse_export_section(&mut exports, section.clone())
                    .expect("valid");
                exports.export("counted", ExportKind::Global, counter);
                exports.export(super::reserved::MEMORY, ExportKind::Memory, 0);
                module.section(&exports);
            }
            Payload::CodeSectionStart { .. } => {}
            Payload::CodeSectionEntry(body) => {
                code.function(&counting_body(body, facts, code.len(), counter));
                if code.len() == facts.functions {
                    module.section(&code);
                }
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    module.section(&RawSection {
                        id,
                        data: &wasm[range],
                    });
                }
            }
        }
    }
    module.finish()
}

fn counting_body(
    body: &wasmparser::FunctionBody<'_>,
    facts: &Facts,
    index: u32,
    counter: u32,
) -> Function {
    let mut locals = Vec::new();
    let mut size = facts.signature(index).params().len() as u32;
    for pair in body.get_locals_reader().expect("valid") {
        let (count, ty) = pair.expect("valid");
        locals.push((count, RoundtripReencoder.val_type(ty).expect("valid")));
        size += count;
    }
    locals.push((1, ValType::I32));
    let mut function = Function::new(locals);
    let add = |function: &mut Function, instructions: &[I<'_>]| {
        function.instruction(&I::GlobalGet(counter));
        for instruction in instructions {
            function.instruction(instruction);
        }
        function.instruction(&I::I64Add);
        function.instruction(&I::GlobalSet(counter));
    };
    add(&mut function, &[I::I64Const(1)]);
    for operator in body.get_operators_reader().expect("valid") {
        let operator = operator.expect("valid");
        let cost = weight(&operator, false);
        if cost > 0 {
            add(&mut function, &[I::I64Const(cost.cast_signed())]);
        }
        if bulk(&operator, false).is_some() {
            function.instruction(&I::LocalSet(size));
            add(&mut function, &[I::LocalGet(size), I::I64ExtendI32U]);
            function.instruction(&I::LocalGet(size));
        }
        function.instruction(&RoundtripReencoder.instruction(operator).expect("valid"));
    }
    function
}

#[test]
fn charges_are_the_weights_of_what_runs() {
    let engine = engine(false);
    let mut most = 0;
    for seed in 0..1_000 {
        let mut random = Random(seed);
        let wasm = program(&mut random, seed % 3 == 0);
        let memory = random.bytes(BYTES);
        let facts = validate(&wasm, &ImportSets::new(&engine)).expect("a valid module");
        let counting = wasmtime::Module::from_binary(&engine, &counting(&wasm, &facts));
        let mut running = Running::new(&counting.expect("a valid module"), &memory);
        running.run().expect("programs do not trap");
        let counted = running.global("counted").get(&mut running.store);
        let counted = counted.i64().expect("the counter is an i64");
        let charged = instrumented(&engine, &wasm, |_, _| {}).expect("a valid module");
        let mut running = Running::new(&charged, &memory);
        running.set_counter(i64::MAX);
        running.run().expect("programs do not trap");
        assert_eq!(i64::MAX - running.counter(), counted, "program {seed}");
        // Enough is enough, and one less is not.
        for (limit, enough) in [(counted, true), (counted - 1, false)] {
            let mut running = Running::new(&charged, &memory);
            running.set_counter(limit);
            let ended = running.run().is_ok() && running.counter() >= 0;
            assert_eq!(ended, enough, "program {seed}");
        }
        most = most.max(counted);
    }
    assert!(most > 5_000, "the longest program takes {most}");
}

#[test]
fn memory_of_64_bits_costs_more() {
    use wasmparser::Operator as O;
    let memarg = wasmparser::MemArg {
        align: 0,
        max_align: 3,
        offset: 0,
        memory: 0,
    };
    for operator in [
        O::I64Load { memarg },
        O::F32Store { memarg },
        O::V128Load8Lane { memarg, lane: 0 },
    ] {
        assert_eq!([false, true].map(|wide| weight(&operator, wide)), [1, 2]);
    }
    let fill = O::MemoryFill { mem: 0 };
    let init = O::MemoryInit {
        data_index: 0,
        mem: 0,
    };
    assert_eq!(bulk(&fill, true), Some(Count::I64));
    assert_eq!(bulk(&init, true), Some(Count::I32));
}
