//! Programs of a canister that imports nothing: each is an update method that computes for a while.
//!
//! Built for wasm32 by `crates/canister/examples/speed.rs`, which compares how long they take.
#[cfg(target_arch = "wasm32")]
pub mod simd;

use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// The update methods.
pub const METHODS: [&str; 10] = [
    "sort", "map", "sha256", "json", "matrix", "strings", "sieve", "nbody", "product", "stream",
];

/// The programs [`METHODS`] names that are ordinary ones.
pub const ORDINARY: usize = 8;

/// Exports functions as update methods.
#[cfg(target_arch = "wasm32")]
macro_rules! methods {
    ($($name:literal $function:path)*) => {
        $(
            const _: () = {
                #[unsafe(export_name = concat!("canister_update ", $name))]
                extern "C" fn method() {
                    std::hint::black_box($function());
                }
            };
        )*
    };
}

#[cfg(target_arch = "wasm32")]
methods! {
    "sort" sort
    "map" map
    "sha256" sha256
    "json" json
    "matrix" matrix
    "strings" strings
    "sieve" sieve
    "nbody" nbody
    "product" simd::product
    "stream" simd::stream
}

/// Numbers fixed by the seed.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 29)
    })
}

/// Sorts numbers, and the same as pairs by a key.
#[must_use]
pub fn sort() -> u64 {
    let mut values: Vec<u64> = numbers(1).take(600_000).collect();
    let mut pairs: Vec<(u32, u32)> = values
        .iter()
        .map(|value| (*value as u32, (*value >> 32) as u32))
        .collect();
    values.sort_unstable();
    pairs.sort_by_key(|pair| pair.1 % 1000);
    values[1000] ^ u64::from(pairs[1000].0)
}

/// Counts numbers in a map with open addressing.
#[must_use]
pub fn map() -> u64 {
    const SLOTS: usize = 1 << 16;
    let mut slots = vec![(0_u64, 0_u64); SLOTS];
    for number in numbers(2).take(6_000_000) {
        let key = number % 40_000 + 1;
        let mut slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % SLOTS;
        while slots[slot].0 != key && slots[slot].0 != 0 {
            slot = (slot + 1) % SLOTS;
        }
        slots[slot] = (key, slots[slot].1 + 1);
    }
    slots.iter().map(|(key, count)| key ^ count).sum()
}

/// Hashes bytes.
#[must_use]
pub fn sha256() -> u64 {
    let bytes: Vec<u8> = numbers(3).take(65_536).map(|number| number as u8).collect();
    let mut digest = Sha256::digest(&bytes);
    for _ in 0..200 {
        digest = Sha256::new()
            .chain_update(digest)
            .chain_update(&bytes)
            .finalize();
    }
    u64::from(digest[0])
}

/// Reads a document and writes it again.
#[must_use]
pub fn json() -> u64 {
    let mut text = String::from("[");
    for number in numbers(4).take(2_000) {
        let _ = write!(
            text,
            r#"{{"id":{number},"name":"item {}","tags":["a","b\n",null,true],"price":{}.25}},"#,
            number % 97,
            number % 1000
        );
    }
    text.push_str("0]");
    let mut length = 0;
    for _ in 0..20 {
        let document: serde_json::Value = serde_json::from_str(&text).expect("well formed");
        length += document.to_string().len() as u64;
    }
    length
}

/// Multiplies matrices of integers.
#[must_use]
pub fn matrix() -> u64 {
    const SIZE: usize = 192;
    let fill = |seed| {
        numbers(seed)
            .take(SIZE * SIZE)
            .map(|number| number as i32 % 100)
            .collect::<Vec<_>>()
    };
    let (a, b) = (fill(5), fill(6));
    let mut c = vec![0_i32; SIZE * SIZE];
    for _ in 0..24 {
        for (row, out) in a.chunks_exact(SIZE).zip(c.chunks_exact_mut(SIZE)) {
            for (value, other) in row.iter().zip(b.chunks_exact(SIZE)) {
                for (sum, other) in out.iter_mut().zip(other) {
                    *sum = sum.wrapping_add(value.wrapping_mul(*other));
                }
            }
        }
    }
    c.iter().map(|value| u64::from(value.cast_unsigned())).sum()
}

/// Builds, splits and joins text.
#[must_use]
pub fn strings() -> u64 {
    let mut total = 0;
    for round in 0..80 {
        let mut text = String::new();
        for number in numbers(round).take(4_000) {
            let _ = write!(text, "{}-{:x};", number % 1000, number % 65_536);
        }
        let words: Vec<String> = text
            .split(';')
            .map(|word| word.chars().rev().collect())
            .collect();
        total += words.join(",").to_uppercase().len() as u64;
    }
    total
}

/// Finds primes.
#[must_use]
pub fn sieve() -> u64 {
    const END: usize = 16_000_000;
    let mut composite = vec![false; END];
    let mut sum = 0;
    for number in 2..END {
        if composite[number] {
            continue;
        }
        sum += number as u64;
        let mut multiple = number * number;
        while multiple < END {
            composite[multiple] = true;
            multiple += number;
        }
    }
    sum
}

/// Moves bodies that attract each other.
#[must_use]
pub fn nbody() -> u64 {
    let mut numbers = numbers(7).map(|number| (number >> 40) as f64 / f64::from(1 << 24));
    let mut next = || numbers.next().expect("endless");
    let mut bodies: Vec<([f64; 3], [f64; 3], f64)> = (0..5)
        .map(|_| ([next(), next(), next()], [next(), next(), next()], next()))
        .collect();
    for _ in 0..900_000 {
        for first in 0..bodies.len() {
            for second in first + 1..bodies.len() {
                let (left, right) = bodies.split_at_mut(second);
                let (one, other) = (&mut left[first], &mut right[0]);
                let apart: [f64; 3] = std::array::from_fn(|axis| one.0[axis] - other.0[axis]);
                let squared: f64 = apart
                    .iter()
                    .map(|distance| distance * distance)
                    .sum::<f64>()
                    + 0.01;
                let force = 0.001 / (squared * squared.sqrt());
                for (axis, distance) in apart.into_iter().enumerate() {
                    one.1[axis] -= distance * other.2 * force;
                    other.1[axis] += distance * one.2 * force;
                }
            }
        }
        for (place, speed, _) in &mut bodies {
            for axis in 0..3 {
                place[axis] += 0.001 * speed[axis];
            }
        }
    }
    bodies[0].0[0].to_bits()
}
