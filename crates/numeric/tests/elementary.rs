//! Elementary functions against independent correctly rounded ones, on inputs of every sign and exponent.
//!
//! `examples/exhaustive.rs` does the same for all 2^32 inputs.

mod oracle;

use lockstep_numeric::elementary;
use lockstep_numeric::selftest::Generator;
use oracle::Oracle;

/// Random mantissas per sign and exponent.
const PER_BINADE: u32 = 2_000;

// All inputs whose result lies within 2^-50, relative, of the midpoint between two f32 (`examples/exhaustive.rs`).
const HARD_EXP: [u32; 8] = [
    0x377e_ff81,
    0x39c6_be5b,
    0x4001_b249,
    0x4031_5b33,
    0xb300_0000,
    0xbae0_e25c,
    0xbbf0_edf1,
    0xc169_12cd,
];
const HARD_SIN: [u32; 66] = [
    0x3dcf_5597,
    0x3ef3_830f,
    0x42d4_4528,
    0x4371_ade3,
    0x45a8_abb3,
    0x4619_9998,
    0x4967_cb9b,
    0x4a98_7933,
    0x4aa5_a796,
    0x4ecd_11c7,
    0x4fb5_6937,
    0x55ca_fb2a,
    0x58df_b085,
    0x5a93_5f4c,
    0x5cda_a4f7,
    0x5dad_d689,
    0x5f20_8d82,
    0x616d_8730,
    0x61df_c847,
    0x6446_cec0,
    0x653c_ee8f,
    0x6705_1b8d,
    0x67a9_242b,
    0x6a3f_60ff,
    0x6d73_4599,
    0x6dce_a82e,
    0x6e64_9053,
    0x7324_3f06,
    0x79d1_f6d3,
    0x7a5a_acdb,
    0x7a81_7b08,
    0x7c2e_964a,
    0x7f2a_2ca7,
    0xbdcf_5597,
    0xbef3_830f,
    0xc2d4_4528,
    0xc371_ade3,
    0xc5a8_abb3,
    0xc619_9998,
    0xc967_cb9b,
    0xca98_7933,
    0xcaa5_a796,
    0xcecd_11c7,
    0xcfb5_6937,
    0xd5ca_fb2a,
    0xd8df_b085,
    0xda93_5f4c,
    0xdcda_a4f7,
    0xddad_d689,
    0xdf20_8d82,
    0xe16d_8730,
    0xe1df_c847,
    0xe446_cec0,
    0xe53c_ee8f,
    0xe705_1b8d,
    0xe7a9_242b,
    0xea3f_60ff,
    0xed73_4599,
    0xedce_a82e,
    0xee64_9053,
    0xf324_3f06,
    0xf9d1_f6d3,
    0xfa5a_acdb,
    0xfa81_7b08,
    0xfc2e_964a,
    0xff2a_2ca7,
];
const HARD_COS: [u32; 66] = [
    0x3980_0000,
    0x3a0f_1bbd,
    0x3a54_4395,
    0x3c10_7fe6,
    0x4237_8db8,
    0x4247_90ce,
    0x46f8_5a22,
    0x47a0_e238,
    0x4a01_dca4,
    0x4e5b_65ff,
    0x504b_e581,
    0x52d9_d3fe,
    0x52f8_8494,
    0x55e5_235d,
    0x5922_aa80,
    0x5944_3c0a,
    0x5a1a_3626,
    0x5a8c_921b,
    0x5f18_b878,
    0x6115_cb11,
    0x6170_3976,
    0x6978_e912,
    0x744f_d5d8,
    0x75da_4c95,
    0x76d7_173f,
    0x77f7_b624,
    0x7908_cd73,
    0x797c_ef4f,
    0x7a38_ab34,
    0x7a4b_1a27,
    0x7c64_841e,
    0x7c69_ae1e,
    0x7db9_1687,
    0xb980_0000,
    0xba0f_1bbd,
    0xba54_4395,
    0xbc10_7fe6,
    0xc237_8db8,
    0xc247_90ce,
    0xc6f8_5a22,
    0xc7a0_e238,
    0xca01_dca4,
    0xce5b_65ff,
    0xd04b_e581,
    0xd2d9_d3fe,
    0xd2f8_8494,
    0xd5e5_235d,
    0xd922_aa80,
    0xd944_3c0a,
    0xda1a_3626,
    0xda8c_921b,
    0xdf18_b878,
    0xe115_cb11,
    0xe170_3976,
    0xe978_e912,
    0xf44f_d5d8,
    0xf5da_4c95,
    0xf6d7_173f,
    0xf7f7_b624,
    0xf908_cd73,
    0xf97c_ef4f,
    0xfa38_ab34,
    0xfa4b_1a27,
    0xfc64_841e,
    0xfc69_ae1e,
    0xfdb9_1687,
];

fn check(name: &str, ours: fn(f32) -> f32, oracle: Oracle, hard: &[u32]) {
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
    hard.iter().for_each(|bits| assert_same(*bits));
    let mut generator = Generator::new(1);
    for sign_and_exponent in 0..512u32 {
        for edge in [0, 1, 0x7f_ffff] {
            assert_same(sign_and_exponent << 23 | edge);
        }
        for _ in 0..PER_BINADE {
            assert_same(sign_and_exponent << 23 | (generator.bits() as u32 & 0x7f_ffff));
        }
    }
    // Where most calls are: the numbers of ordinary size.
    for _ in 0..500_000 {
        assert_same(generator.ordinary(100.0).to_bits());
    }
}

#[test]
fn exp_is_correctly_rounded() {
    check("exp", elementary::exp, oracle::EXP, &HARD_EXP);
}

#[test]
fn sin_is_correctly_rounded() {
    check("sin", elementary::sin, oracle::SIN, &HARD_SIN);
}

#[test]
fn cos_is_correctly_rounded() {
    check("cos", elementary::cos, oracle::COS, &HARD_COS);
}
