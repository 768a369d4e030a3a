use std::num::NonZeroUsize;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::arch::kernel_tests;
use crate::{Isa, Pool};

fn kernels(isa: Isa, threads: usize) -> Option<Kernels> {
    let pool = Arc::new(Pool::new(NonZeroUsize::new(threads).unwrap()));
    match Kernels::new(isa, pool) {
        Ok(kernels) => Some(kernels),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

/// Compares a case on every instruction set and on 1 to 8 threads with the portable kernels on one.
fn check(name: &str) {
    let case = cases().find(|case| case.name == name).unwrap();
    let reference = kernels(Isa::Portable, 1).unwrap();
    let others: Vec<Kernels> = Isa::ALL
        .into_iter()
        .flat_map(|isa| {
            let threads: &[usize] = if kernels(isa, 1).is_some() {
                &[1, 2, 3, 8]
            } else {
                &[]
            };
            threads
                .iter()
                .map(move |threads| kernels(isa, *threads).unwrap())
        })
        .collect();
    let config = Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&any::<u64>(), |seed| {
            let expected = case.output(&reference, seed);
            for kernels in &others {
                let actual = case.output(kernels, seed);
                let place = actual
                    .iter()
                    .zip(&expected)
                    .position(|(actual, expected)| actual != expected);
                prop_assert_eq!(place, None, "{:?} {:?} differs", case, kernels);
                prop_assert_eq!(actual.len(), expected.len());
            }
            Ok(())
        })
        .unwrap();
}

mod kernel_equals_portable {
    use super::*;
    kernel_tests!();
}

#[test]
fn everything_built_of_kernels_equals_portable() {
    for case in cases() {
        if !case.name.starts_with("matmul") {
            check(case.name);
        }
    }
}

#[test]
fn a_different_or_missing_digest_names_the_kernel() {
    let kernels = kernels(Isa::Portable, 1).unwrap();
    let last = cases().last().unwrap().name;
    let digest = find(FROZEN, last).unwrap();

    let tampered = FROZEN.replace(digest, &"0".repeat(64));
    let expected = SelfTestError::Differs {
        kernel: last,
        isa: "portable",
        version: ARITHMETIC_VERSION,
        actual: digest.to_owned(),
    };
    assert_eq!(compare(&kernels, &tampered), Err(expected));

    let shortened = FROZEN.replace(last, "another");
    assert_eq!(
        compare(&kernels, &shortened),
        Err(SelfTestError::NotFrozen { kernel: last })
    );
}
