//! Elementary functions against independent correctly rounded ones, on inputs of every sign and exponent.
//!
//! `examples/exhaustive.rs` does the same for all 2^32 inputs.

mod oracle;

use lockstep_numeric::elementary;
use lockstep_numeric::selftest::Generator;
use oracle::Oracle;

/// Random mantissas per sign and exponent.
const PER_BINADE: u32 = 2_000;

// All inputs whose result lies within 2^-50, relative, of the midpoint between two f32 (`examples/exhaustive.rs`). Of the
// odd and even functions, the positive ones; both signs are tested.
const HARD_EXP: [u32; 8] = [
    0x377eff81, 0x39c6be5b, 0x4001b249, 0x40315b33, 0xb3000000, 0xbae0e25c, 0xbbf0edf1, 0xc16912cd,
];
const HARD_LOG: [u32; 46] = [
    0x064cb44b, 0x07c060fa, 0x0dc8bba4, 0x0f61ff63, 0x111c87f8, 0x145cb6d4, 0x14907055, 0x16c5ee7a,
    0x18b06f2a, 0x1a8446cb, 0x1b81ab52, 0x1f116ab8, 0x22925ad4, 0x2423c085, 0x28e3fa26, 0x29e6126b,
    0x29fd22f8, 0x2c4c24b7, 0x2e492984, 0x3418949b, 0x38dcbe38, 0x39c31348, 0x39c7b1f9, 0x3bf86ef0,
    0x3c413d3a, 0x41178feb, 0x464d5b2b, 0x4665a9a6, 0x4c5d65a5, 0x4d604ebe, 0x4e85f412, 0x54af989d,
    0x5d800341, 0x5ee8984e, 0x5f64c24a, 0x62b467ba, 0x64e27fa3, 0x65d890d3, 0x66a8c860, 0x66abbd63,
    0x6914cb96, 0x6d1f23eb, 0x6f31a8ec, 0x7405dee8, 0x79e7ec37, 0x7d98b8f4,
];
const HARD_SIN: [u32; 33] = [
    0x3dcf5597, 0x3ef3830f, 0x42d44528, 0x4371ade3, 0x45a8abb3, 0x46199998, 0x4967cb9b, 0x4a987933,
    0x4aa5a796, 0x4ecd11c7, 0x4fb56937, 0x55cafb2a, 0x58dfb085, 0x5a935f4c, 0x5cdaa4f7, 0x5dadd689,
    0x5f208d82, 0x616d8730, 0x61dfc847, 0x6446cec0, 0x653cee8f, 0x67051b8d, 0x67a9242b, 0x6a3f60ff,
    0x6d734599, 0x6dcea82e, 0x6e649053, 0x73243f06, 0x79d1f6d3, 0x7a5aacdb, 0x7a817b08, 0x7c2e964a,
    0x7f2a2ca7,
];
const HARD_COS: [u32; 33] = [
    0x39800000, 0x3a0f1bbd, 0x3a544395, 0x3c107fe6, 0x42378db8, 0x424790ce, 0x46f85a22, 0x47a0e238,
    0x4a01dca4, 0x4e5b65ff, 0x504be581, 0x52d9d3fe, 0x52f88494, 0x55e5235d, 0x5922aa80, 0x59443c0a,
    0x5a1a3626, 0x5a8c921b, 0x5f18b878, 0x6115cb11, 0x61703976, 0x6978e912, 0x744fd5d8, 0x75da4c95,
    0x76d7173f, 0x77f7b624, 0x7908cd73, 0x797cef4f, 0x7a38ab34, 0x7a4b1a27, 0x7c64841e, 0x7c69ae1e,
    0x7db91687,
];
const HARD_TANH: [u32; 1] = [0x3ac37de2];
const HARD_ERF: [u32; 4] = [0x358e9d2d, 0x36aea466, 0x3940ead6, 0x39c0057d];

/// Ordinary inputs lie between -`limit` and `limit`.
fn check(name: &str, ours: fn(f32) -> f32, oracle: Oracle, limit: f32, hard: &[u32]) {
    let assert_same = |bits: u32| {
        let x = f32::from_bits(bits);
        let (expected, _) = oracle.evaluate(x);
        let actual = ours(x);
        assert_eq!(
            actual.to_bits(),
            expected.to_bits(),
            "{name}({x:e}), bits {bits:#010x}: {actual:e} {expected:e}"
        );
    };
    for bits in hard {
        assert_same(*bits);
        assert_same(*bits ^ 0x8000_0000);
    }
    let mut generator = Generator::new(1);
    for sign_and_exponent in 0..512u32 {
        for edge in [0, 1, 0x7f_ffff] {
            assert_same(sign_and_exponent << 23 | edge);
        }
        for _ in 0..PER_BINADE {
            assert_same(sign_and_exponent << 23 | (generator.bits() as u32 & 0x7f_ffff));
        }
        let bits = sign_and_exponent << 23 | (generator.bits() as u32 & 0x7f_ffff);
        let x = f32::from_bits(bits);
        assert!(
            oracle.margin_holds(x),
            "the oracle of {name} at {x:e}, bits {bits:#010x}"
        );
    }
    // Where most calls are: the numbers of ordinary size.
    for _ in 0..500_000 {
        assert_same(generator.ordinary(limit).to_bits());
    }
}

#[test]
fn exp_is_correctly_rounded() {
    check("exp", elementary::exp, oracle::EXP, 100.0, &HARD_EXP);
}

#[test]
fn log_is_correctly_rounded() {
    check("log", elementary::log, oracle::LOG, 100.0, &HARD_LOG);
}

#[test]
fn sin_is_correctly_rounded() {
    check("sin", elementary::sin, oracle::SIN, 100.0, &HARD_SIN);
}

#[test]
fn cos_is_correctly_rounded() {
    check("cos", elementary::cos, oracle::COS, 100.0, &HARD_COS);
}

#[test]
fn tanh_is_correctly_rounded() {
    check("tanh", elementary::tanh, oracle::TANH, 10.0, &HARD_TANH);
}

#[test]
fn erf_is_correctly_rounded() {
    check("erf", elementary::erf, oracle::ERF, 5.0, &HARD_ERF);
}
