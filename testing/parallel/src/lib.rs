//! Work for `lockstep_cdk::parallel`, as functions of any target and as a canister's update methods.
//!
//! Every method takes a size, a little-endian u32, and replies with the bytes of its result.
use lockstep_cdk::parallel::Plan;

#[cfg(target_arch = "wasm32")]
mod canister;

/// From a size to the bytes of a result.
pub type Method = fn(u32) -> Vec<u8>;

/// The methods, by name.
pub const METHODS: [(&str, Method); 4] = [
    ("product", product),
    ("primes", primes),
    ("norm", norm),
    ("uneven", uneven),
];

/// Numbers that look random.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A square matrix times a vector, 16 rows per task.
pub fn product(size: u32) -> Vec<u8> {
    let size = size as usize;
    let (matrix, vector) = (numbers(size * size, 1), numbers(size, 2));
    let mut output = vec![0.0_f32; size];
    Plan::new().for_each_chunk_mut(
        &mut output,
        16,
        &(matrix, vector),
        |(matrix, vector), first, chunk| {
            let rows = matrix[first * vector.len()..].chunks(vector.len());
            for (output, row) in chunk.iter_mut().zip(rows) {
                for (a, b) in row.iter().zip(vector) {
                    *output += a * b;
                }
            }
        },
    );
    bytes(&output)
}

/// Which of the first numbers are prime, by trial.
pub fn primes(size: u32) -> Vec<u8> {
    let candidates: Vec<u32> = (0..size).collect();
    Plan::new().map(
        &candidates,
        1 + size as usize / 10,
        &(),
        |(), &candidate| {
            let mut divisors = (2..candidate).take_while(|divisor| divisor * divisor <= candidate);
            u8::from(candidate > 1 && divisors.all(|divisor| candidate % divisor != 0))
        },
    )
}

/// The sum of squares, folded in chunks of 100.
pub fn norm(size: u32) -> Vec<u8> {
    let values = numbers(size as usize, 3);
    let fold = |scale: &f32, part: &[f32]| part.iter().map(|value| value * value * scale).sum();
    let sum: Option<f32> = Plan::new().reduce(&values, 100, &0.5, fold, |a, b| a + b);
    bytes(&[sum.unwrap_or(-1.0)])
}

/// Tasks that allocate and take longer the later they come.
pub fn uneven(size: u32) -> Vec<u8> {
    let mut output = vec![0_u64; size as usize];
    Plan::new().for_each_chunk_mut(&mut output, 3, "seed", |seed, first, chunk| {
        let mut words: Vec<u64> = seed.bytes().map(u64::from).collect();
        for round in 0..first as u64 * 10 {
            let last = words[words.len() - 1];
            words.push(last.rotate_left(7) ^ round);
        }
        chunk.fill(words.iter().fold(0, |sum, word| sum.wrapping_add(*word)));
    });
    output
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
