//! The frozen digests in vectors/: every instruction set computes them, and rewriting them takes an approval.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::selftest::cases;
use lockstep_numeric::{ARITHMETIC_VERSION, Isa, Kernels, Pool, selftest};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/numeric.toml");

#[test]
fn every_instruction_set_computes_the_frozen_digests() {
    let pool = Arc::new(Pool::new(NonZeroUsize::new(2).unwrap()));
    if std::env::var_os("LOCKSTEP_APPROVE_VECTORS").is_some_and(|value| value == "1") {
        let kernels = Kernels::new(Isa::Portable, Arc::clone(&pool)).unwrap();
        let mut text = format!(
            "# BLAKE3 of each kernel's output for fixed inputs, arithmetic version {ARITHMETIC_VERSION}.\n"
        );
        for case in cases() {
            writeln!(text, "{} = \"{}\"", case.name(), case.digest(&kernels)).unwrap();
        }
        std::fs::write(PATH, text).unwrap();
        eprintln!("rewritten: {PATH}; build again to compile them in");
        return;
    }
    for isa in Isa::ALL {
        match Kernels::new(isa, Arc::clone(&pool)) {
            Ok(kernels) => assert_eq!(selftest(&kernels), Ok(())),
            Err(error) => eprintln!("SKIPPED: {error}"),
        }
    }
}
