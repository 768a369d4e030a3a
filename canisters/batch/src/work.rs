//! What is done with a batch, on every core.
//!
//! # Determinism
//! A vector x becomes y = x / |x|, the squares added in f64 in order, the quotient rounded to f32 once; zeros stay. Its
//! centroid is the one of least squared distance, added in f32 in order, the first of equals. The mean m of a centroid's
//! vectors goes on by m = m + (y - m) / n, f32, vectors in the sealed order. Tasks run across vectors, and then across
//! centroids, never along a sum: neither they nor the size of batches can be seen in the result.
use bytemuck::Zeroable;
use lockstep_cdk::parallel::Plan;

/// Tasks per batch at most: enough for the lanes of any subnet, few beside their fee.
const TASKS_MAX: usize = 16;

/// Running means of the vectors next to each centroid.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// Numbers of a vector.
    pub(crate) length: usize,
    /// A row per centroid.
    pub(crate) values: Vec<f32>,
    /// Vectors per centroid; below 2^24, so that it is exact in f32.
    pub(crate) counts: Vec<u64>,
}

impl Means {
    pub(crate) fn new(length: usize, count: usize) -> Self {
        Self {
            length,
            values: vec![f32::zeroed(); length * count],
            counts: vec![0; count],
        }
    }

    /// Takes vectors in, one after another.
    pub(crate) fn add(&mut self, vectors: &[f32], centroids: &[f32], plan: Plan) {
        let length = self.length;
        let count = vectors.len() / length;
        // Each normalised vector, and behind it the number of its centroid: exact, there are fewer than 2^24.
        let row = length + 1;
        let mut rows = vec![f32::zeroed(); count * row];
        let context = (vectors, centroids, length);
        let chunk = count.div_ceil(TASKS_MAX).max(1) * row;
        plan.for_each_chunk_mut(&mut rows, chunk, &context, |context, first, rows| {
            let (vectors, centroids, length) = context;
            let vectors = vectors.chunks_exact(*length).skip(first / (length + 1));
            for (row, vector) in rows.chunks_exact_mut(length + 1).zip(vectors) {
                let (unit, number) = row.split_at_mut(*length);
                normalise(vector, unit);
                number[0] = nearest(unit, centroids) as f32;
            }
        });
        let context = (&rows[..], &self.counts[..], length);
        plan.for_each_chunk_mut(
            &mut self.values,
            length,
            &context,
            |context, first, mean| {
                let (rows, counts, length) = context;
                let number = first / length;
                let mut count = counts[number];
                for row in rows.chunks_exact(length + 1) {
                    if row[*length] as usize == number {
                        count += 1;
                        for (mean, value) in mean.iter_mut().zip(row) {
                            *mean += (value - *mean) / count as f32;
                        }
                    }
                }
            },
        );
        for row in rows.chunks_exact(row) {
            self.counts[row[length] as usize] += 1;
        }
    }
}

fn normalise(vector: &[f32], unit: &mut [f32]) {
    let squares = vector
        .iter()
        .map(|value| f64::from(*value) * f64::from(*value));
    let norm = squares.fold(0.0, |sum, square| sum + square).sqrt();
    for (unit, value) in unit.iter_mut().zip(vector) {
        *unit = if norm == 0.0 {
            0.0
        } else {
            (f64::from(*value) / norm) as f32
        };
    }
}

fn nearest(unit: &[f32], centroids: &[f32]) -> usize {
    let mut best = (f32::INFINITY, 0);
    for (number, centroid) in centroids.chunks_exact(unit.len()).enumerate() {
        let squares = unit.iter().zip(centroid).map(|(a, b)| (a - b) * (a - b));
        let distance = squares.fold(0.0, |sum, square| sum + square);
        if distance < best.0 {
            best = (distance, number);
        }
    }
    best.1
}
