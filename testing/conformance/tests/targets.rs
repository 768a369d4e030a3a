//! Builds the guest for other targets, runs it there, and compares every digest with the frozen ones and, for many more
//! inputs, with this machine's portable kernels.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use lockstep_conformance::{Inputs, digest, kernels};
use lockstep_numeric::Isa;
use lockstep_numeric::selftest::cases;

const VECTORS: &str = include_str!("../../../vectors/numeric.toml");

const FROZEN: Inputs = Inputs {
    first: 0,
    end: 16,
    words_max: u64::MAX,
};
const FURTHER: Inputs = Inputs {
    first: 16,
    end: 2016,
    words_max: 1 << 18,
};

/// Digest of each case.
type Digests = BTreeMap<String, String>;

static EXPECTED_FROZEN: LazyLock<Digests> = LazyLock::new(|| {
    VECTORS
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(case, digest)| (case.to_owned(), digest.trim_matches('"').to_owned()))
        .collect()
});

static EXPECTED_FURTHER: LazyLock<Digests> = LazyLock::new(|| {
    let kernels = kernels(Isa::Portable, NonZeroUsize::MIN).unwrap();
    cases()
        .map(|case| {
            let digest = digest(case, &kernels, FURTHER);
            (case.name().to_owned(), digest.to_string())
        })
        .collect()
});

/// Runs cargo for a target and returns the folder of its products, or nothing where there is no such toolchain.
fn build(target: &str, arguments: &[&str]) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    lockstep_guests::build(target, "lockstep-conformance", arguments, &folder)
}

fn assert_equal(place: &str, actual: &Digests, expected: &Digests) {
    assert_eq!(
        actual.len(),
        cases().count(),
        "{place}: every case is there"
    );
    for case in cases() {
        let (actual, expected) = (actual.get(case.name()), expected.get(case.name()));
        assert!(expected.is_some(), "no expected digest: {}", case.name());
        assert_eq!(actual, expected, "{place}: {}", case.name());
    }
}

// ---- aarch64 ----

/// The program `qemu-aarch64`, under the name it has here.
fn emulator() -> &'static str {
    ["qemu-aarch64", "qemu-aarch64-static"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
        .expect("the tools install an emulator")
}

/// Digests by instruction set and number of threads, as the guest prints them.
fn run_aarch64(
    guest: &Path,
    processor: &str,
    inputs: Inputs,
    threads: &[&str],
) -> BTreeMap<(String, String), Digests> {
    let numbers = [inputs.first, inputs.end, inputs.words_max];
    let output = Command::new(emulator())
        .args(["-cpu", processor])
        .arg(guest)
        .args(numbers.map(|number| number.to_string()))
        .args(threads)
        .env_remove("LOCKSTEP_ISA")
        .output()
        .expect("the emulator runs");
    assert!(
        output.status.success(),
        "{processor}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut digests: BTreeMap<_, Digests> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [isa, threads, case, digest] = words[..] else {
            panic!("unexpected line: {line}");
        };
        digests
            .entry((isa.to_owned(), threads.to_owned()))
            .or_default()
            .insert(case.to_owned(), digest.to_owned());
    }
    digests
}

/// Compares all digests of a processor that has exactly the given instruction sets.
fn aarch64(processor: &str, instruction_sets: &[Isa]) {
    let Some(products) = build(
        "aarch64-unknown-linux-gnu",
        &["build", "--bin", "conformance-guest"],
    ) else {
        return;
    };
    let guest = products.join("conformance-guest");
    let runs: [(Inputs, &[&str], &Digests); 2] = [
        (FROZEN, &["1", "2", "3"], &EXPECTED_FROZEN),
        (FURTHER, &["2"], &EXPECTED_FURTHER),
    ];
    for (inputs, threads, expected) in runs {
        let digests = run_aarch64(&guest, processor, inputs, threads);
        for isa in instruction_sets {
            for threads in threads {
                let key = (isa.name().to_owned(), (*threads).to_owned());
                let place = format!("{processor} {isa} {threads} threads {inputs:?}");
                let actual = digests.get(&key).expect("the instruction set is there");
                assert_equal(&place, actual, expected);
            }
        }
        assert_eq!(
            digests.len(),
            instruction_sets.len() * threads.len(),
            "{processor} has other instruction sets: {:?}",
            digests.keys()
        );
    }
}

#[test]
fn aarch64_gives_the_same_digests() {
    aarch64("max", &[Isa::Portable, Isa::Neon, Isa::NeonDotprod]);
}

#[test]
fn aarch64_without_dot_products_gives_the_same_digests() {
    aarch64("cortex-a53", &[Isa::Portable, Isa::Neon]);
}

// ---- wasm32 ----

/// The digests of an instruction set, or nothing if the module lacks it.
fn run_wasm32(
    engine: &wasmtime::Engine,
    module: &wasmtime::Module,
    isa: usize,
    inputs: Inputs,
) -> Option<Digests> {
    let mut store = wasmtime::Store::new(engine, ());
    let instance = wasmtime::Instance::new(&mut store, module, &[]).expect("needs no imports");
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    let function = instance
        .get_typed_func::<(u32, u32, u64, u64, u64), u32>(&mut store, "digest")
        .unwrap();
    let mut digests = Digests::new();
    for (index, case) in (0..).zip(cases()) {
        let arguments = (
            isa as u32,
            index,
            inputs.first,
            inputs.end,
            inputs.words_max,
        );
        let address = function.call(&mut store, arguments).unwrap() as usize;
        if address == 0 {
            return None;
        }
        let bytes = memory.data(&store)[address..].first_chunk::<32>().unwrap();
        let digest = blake3::Hash::from_bytes(*bytes).to_string();
        digests.insert(case.name().to_owned(), digest);
    }
    Some(digests)
}

/// Compares all digests of a module with exactly the given instruction sets, in an engine that keeps NaNs as the
/// processor makes them and in one that does not.
#[test]
fn wasm32_gives_the_same_digests() {
    let instruction_sets = [Isa::Portable, Isa::Simd128];
    let Some(products) = build(
        "wasm32-unknown-unknown",
        &[
            "rustc",
            "--lib",
            "--crate-type=cdylib",
            "--config=target.wasm32-unknown-unknown.rustflags=['-Ctarget-feature=+simd128']",
        ],
    ) else {
        return;
    };
    let guest = std::fs::read(products.join("lockstep_conformance.wasm")).unwrap();
    for canonical in [false, true] {
        let mut config = wasmtime::Config::new();
        config.cranelift_nan_canonicalization(canonical);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let module = wasmtime::Module::new(&engine, &guest).unwrap();
        for (index, isa) in Isa::ALL.into_iter().enumerate() {
            for (inputs, expected) in [(FROZEN, &*EXPECTED_FROZEN), (FURTHER, &*EXPECTED_FURTHER)] {
                let actual = run_wasm32(&engine, &module, index, inputs);
                assert_eq!(actual.is_some(), instruction_sets.contains(&isa), "{isa}");
                if let Some(actual) = actual {
                    assert_equal(&format!("wasm32 {isa} {inputs:?}"), &actual, expected);
                }
            }
        }
    }
}
