//! How large a module may be: each limit reached, and crossed by one.
use crate::support::{ENGINE, compile, refusal};
use lockstep_canister::engine::MODULE_BYTES_MAX;
use wasm_encoder::{
    CodeSection, Function, FunctionSection, Instruction, Module, RawSection, TypeSection,
};

/// A module of functions without parameters, given as their bodies' bytes.
fn with_bodies(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    for body in bodies {
        functions.function(0);
        code.raw(body);
    }
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module.finish()
}

/// The bytes of a body of so many `nop`.
fn nops(count: usize) -> Vec<u8> {
    [vec![0], vec![1; count], vec![0x0b]].concat()
}

fn refused(wasm: &[u8]) -> String {
    ENGINE
        .compile(wasm)
        .expect_err("the module must be refused")
        .to_string()
}

#[test]
fn functions() {
    let functions = |count: usize| with_bodies(&vec![nops(0); count]);
    ENGINE.compile(&functions(50_000)).expect("at the limit");
    assert_eq!(
        refused(&functions(50_001)),
        "Wasm module defined 50001 functions which exceeds the maximum number allowed 50000."
    );
}

#[test]
fn globals() {
    let globals = |count| format!("(module {})", "(global i32 (i32.const 0))".repeat(count));
    compile(&globals(1_000)).expect("at the limit");
    assert_eq!(
        refusal(&globals(1_001)),
        "Wasm module defined 1001 globals which exceeds the maximum number allowed 1000."
    );
}

#[test]
fn methods_and_their_names() {
    let methods = |names: &[String]| {
        let exports: String = names
            .iter()
            .zip(["update", "query", "composite_query"].iter().cycle())
            .map(|(name, kind)| format!("(export \"canister_{kind} {name}\" (func $f))"))
            .collect();
        format!("(module (func $f) {exports})")
    };
    let numbered = |count: usize| -> Vec<_> { (0..count).map(|name| name.to_string()).collect() };
    compile(&methods(&numbered(1_000))).expect("at the limit");
    assert_eq!(
        refusal(&methods(&numbered(1_001))),
        "The number of exported functions called `canister_update <name>`, `canister_query <name>`, or `canister_composite_query <name>` is 1001 which exceeds 1000."
    );
    let long = |bytes: usize| vec!["a".repeat(10_000), "b".repeat(bytes - 10_000)];
    compile(&methods(&long(20_000))).expect("at the limit");
    assert_eq!(
        refusal(&methods(&long(20_001))),
        "The sum of `<name>` lengths in exported functions called `canister_update <name>`, `canister_query <name>`, or `canister_composite_query <name>` is 20001 which exceeds the allowed limit of 20000."
    );
}

#[test]
fn custom_sections() {
    let sections = |count: usize| {
        let sections: String = (0..count)
            .map(|index| {
                let kind = if index % 2 == 0 { "public" } else { "private" };
                format!("(@custom \"icp:{kind} s{index}\" \"x\")")
            })
            .collect();
        format!("(module {sections} (@custom \"other\" \"x\"))")
    };
    compile(&sections(16)).expect("at the limit");
    assert_eq!(
        refusal(&sections(17)),
        "Wasm module defined 17 custom sections which exceeds the maximum number allowed 16."
    );
    // Four bytes of names.
    let sized = |bytes: usize| {
        let half = "x".repeat(bytes / 2 - 2);
        let rest = "x".repeat(bytes - bytes / 2 - 2);
        format!(
            "(module (@custom \"icp:public ab\" \"{half}\") (@custom \"icp:private cd\" \"{rest}\"))"
        )
    };
    compile(&sized(1_048_576)).expect("at the limit");
    assert_eq!(
        refusal(&sized(1_048_577)),
        "Wasm module has an invalid custom section. Invalid custom sections: total size of the custom sections exceeds the maximum allowed: size 1048577 bytes, allowed 1048576 bytes"
    );
}

#[test]
fn instructions_of_a_function() {
    // `end` is one.
    let of = |size: usize| with_bodies(&[nops(0), nops(size - 1)]);
    ENGINE.compile(&of(1_000_000)).expect("at the limit");
    // Every instruction counts at least one of complexity, which is looked at first.
    assert_eq!(
        refused(&of(1_000_001)),
        "Wasm module contains a function at index 1 with complexity 1000001 which exceeds the maximum complexity allowed 1000000."
    );
}

#[test]
fn complexity_of_a_function() {
    // A block is 50, its `end` and that of the function 1 each, a `nop` 1.
    let of = |nops: usize| {
        let mut function = Function::new([]);
        for _ in 0..19_607 {
            function
                .instruction(&Instruction::Block(wasm_encoder::BlockType::Empty))
                .instruction(&Instruction::End);
        }
        for _ in 0..nops {
            function.instruction(&Instruction::Nop);
        }
        function.instruction(&Instruction::End);
        with_bodies(&[function.into_raw_body()])
    };
    ENGINE.compile(&of(42)).expect("at the limit");
    assert_eq!(
        refused(&of(43)),
        "Wasm module contains a function at index 0 with complexity 1000001 which exceeds the maximum complexity allowed 1000000."
    );
}

#[test]
fn code_section() {
    // Three bytes for the size of each body; how many there are does not count.
    let of = |bytes: usize| {
        let mut bodies = vec![nops(999_998); 10];
        bodies.push(nops(bytes - 10 * 1_000_003 - 3 - 2));
        with_bodies(&bodies)
    };
    ENGINE.compile(&of(10_485_760)).expect("at the limit");
    assert_eq!(
        refused(&of(10_485_761)),
        "Wasm module code section size of 10485761 exceeds the maximum allowed size of 10485760."
    );
}

#[test]
fn module_as_it_is_and_unpacked() {
    // A section of an id, a size of four bytes, and a name of two.
    let of = |bytes: usize| {
        let mut module = Module::new();
        let mut data = vec![0; bytes - 8 - 5];
        (data[0], data[1]) = (1, b'x');
        module.section(&RawSection { id: 0, data: &data });
        module.finish()
    };
    let large = of(MODULE_BYTES_MAX + 1);
    let text = "Wasm module size of 104857601 exceeds the maximum allowed size of 104857600.";
    assert_eq!(large.len(), MODULE_BYTES_MAX + 1);
    assert_eq!(refused(&large), text);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, &large).expect("in memory");
    assert_eq!(refused(&encoder.finish().expect("in memory")), text);
    ENGINE.compile(&of(MODULE_BYTES_MAX)).expect("at the limit");
}

#[test]
fn reserved_names() {
    for name in [
        "canister counter_instructions",
        "canister_start",
        "stable_memory",
        "lockstep table",
    ] {
        assert_eq!(
            refusal(&format!("(module (func (export \"{name}\")))")),
            format!(
                "Wasm module has an invalid export section. Exporting reserved symbol '{name}' is not allowed."
            )
        );
    }
}
