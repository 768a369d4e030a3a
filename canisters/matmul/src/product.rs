//! A child's work: the product of two tiles, its rows shared among tasks of a fork.
//!
//! # Determinism
//! Every output element is one sum over the inner index, increasing, that goes on from what the parent sent. Vectors and
//! tasks run across outputs, so neither can be seen in the result.
use crate::element::Arithmetic;
use bytemuck::{Pod, Zeroable};
use candid::{CandidType, Deserialize};
use lockstep_cdk::parallel::{Plan, Shared};
use serde_bytes::ByteBuf;

/// Bytes of the sums, which are the reply: below those of a message.
const SUM_BYTES_MAX: u128 = 2_000_000;
/// Tasks per product at most: enough for the lanes of any subnet, few beside their fee.
const TASKS_MAX: usize = 16;
/// Columns whose sums stay in registers over the inner index: four vectors of f32.
const COLUMNS: usize = 16;

/// The extents of a product.
#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) rows: u32,
    pub(crate) inner: u32,
    pub(crate) columns: u32,
}

/// Which tiles: (row, inner) of the left matrix, (inner, column) of the right one.
#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Coordinates {
    pub(crate) row: u32,
    pub(crate) inner: u32,
    pub(crate) column: u32,
}

#[derive(CandidType, Deserialize, Debug)]
pub(crate) struct Work {
    pub(crate) at: Coordinates,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) shape: Shape,
    pub(crate) a: ByteBuf,
    pub(crate) b: ByteBuf,
    pub(crate) sums: Option<ByteBuf>,
}

#[derive(CandidType, Deserialize, Debug)]
pub(crate) struct Done {
    pub(crate) at: Coordinates,
    pub(crate) sums: ByteBuf,
}

impl Work {
    /// # Errors
    /// Bytes that disagree with the shape, or a reply that would be too long.
    pub(crate) fn compute(&self) -> Result<Done, String> {
        let Shape {
            rows,
            inner,
            columns,
        } = self.shape;
        let (element, sum) = (self.arithmetic.element_bytes(), self.arithmetic.sum_bytes());
        check("a", &self.a, rows, inner, element)?;
        check("b", &self.b, inner, columns, element)?;
        if let Some(sums) = &self.sums {
            check("sums", sums, rows, columns, sum)?;
        }
        let sum_bytes = u128::from(rows) * u128::from(columns) * sum as u128;
        if sum_bytes > SUM_BYTES_MAX {
            return Err(format!(
                "sums of more than {SUM_BYTES_MAX} bytes: {rows} x {columns}"
            ));
        }
        let sums = match self.arithmetic {
            Arithmetic::Int8 => self.product::<Int8>(),
            Arithmetic::Fixed16 => self.product::<Fixed16>(),
            Arithmetic::Float32 => self.product::<Float32>(),
        };
        Ok(Done {
            at: self.at,
            sums: ByteBuf::from(sums),
        })
    }

    fn product<M: Multiply>(&self) -> Vec<u8> {
        let (rows, columns) = (self.shape.rows as usize, self.shape.columns as usize);
        let a: Vec<M::Element> = numbers(&self.a);
        let b: Vec<M::Element> = numbers(&self.b);
        let mut sums: Vec<M::Sum> = match &self.sums {
            Some(sums) => numbers(sums),
            None => vec![M::Sum::zeroed(); rows * columns],
        };
        if !sums.is_empty() {
            let context = (&a[..], &b[..], self.shape.inner as usize, columns);
            let task_rows = rows.div_ceil(TASKS_MAX);
            Plan::new().for_each_chunk_mut(&mut sums, task_rows * columns, &context, task::<M>);
        }
        bytemuck::cast_slice(&sums).to_vec()
    }
}

fn check(
    what: &str,
    bytes: &[u8],
    rows: u32,
    columns: u32,
    element_bytes: usize,
) -> Result<(), String> {
    let expected = u128::from(rows) * u128::from(columns) * element_bytes as u128;
    if bytes.len() as u128 == expected {
        return Ok(());
    }
    Err(format!(
        "{what} is not {rows} x {columns} elements of {element_bytes} bytes: {} bytes",
        bytes.len()
    ))
}

/// Numbers from bytes, wherever these lie.
fn numbers<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let numbers = bytes.chunks_exact(size_of::<T>());
    numbers.map(bytemuck::pod_read_unaligned).collect()
}

/// One multiply-add.
trait Multiply {
    type Element: Pod + Shared;
    type Sum: Pod;
    fn add(sum: Self::Sum, a: Self::Element, b: Self::Element) -> Self::Sum;
    /// A sum as it is stored.
    fn stored(sum: Self::Sum) -> Self::Sum {
        sum
    }
}

struct Int8;
struct Fixed16;
struct Float32;

impl Multiply for Int8 {
    type Element = i8;
    type Sum = i32;
    #[inline(always)]
    fn add(sum: i32, a: i8, b: i8) -> i32 {
        // The parent bounds the inner index; sums of another sender may wrap.
        sum.wrapping_add(i32::from(a) * i32::from(b))
    }
}

impl Multiply for Fixed16 {
    type Element = i16;
    type Sum = i64;
    #[inline(always)]
    fn add(sum: i64, a: i16, b: i16) -> i64 {
        sum.wrapping_add(i64::from(i32::from(a) * i32::from(b)))
    }
}

impl Multiply for Float32 {
    type Element = f32;
    type Sum = f32;
    #[inline(always)]
    fn add(sum: f32, a: f32, b: f32) -> f32 {
        sum + a * b
    }
    #[inline(always)]
    fn stored(sum: f32) -> f32 {
        if sum.is_nan() {
            f32::from_bits(0x7fc0_0000)
        } else {
            sum
        }
    }
}

/// Left and right tile, row by row, inner extent and columns.
type Tiles<'a, M> = (
    &'a [<M as Multiply>::Element],
    &'a [<M as Multiply>::Element],
    usize,
    usize,
);

/// Whole rows of the output, from element `first` on.
fn task<M: Multiply>((a, b, inner, columns): &Tiles<'_, M>, first: usize, sums: &mut [M::Sum]) {
    let first_row = first / columns;
    for (index, sums) in sums.chunks_mut(*columns).enumerate() {
        row::<M>(&a[(first_row + index) * inner..][..*inner], b, sums);
    }
}

/// sums = sums + a b, for one row.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
fn row<M: Multiply>(a: &[M::Element], b: &[M::Element], sums: &mut [M::Sum]) {
    let columns = sums.len();
    let (blocks, rest) = sums.as_chunks_mut::<COLUMNS>();
    let first = blocks.len() * COLUMNS;
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut sums = *block;
        for (a, b) in a.iter().zip(b.chunks_exact(columns)) {
            let b = &b[index * COLUMNS..][..COLUMNS];
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = M::add(*sum, *a, *b);
            }
        }
        *block = sums.map(M::stored);
    }
    for (index, sum) in rest.iter_mut().enumerate() {
        for (a, b) in a.iter().zip(b.chunks_exact(columns)) {
            *sum = M::add(*sum, *a, b[first + index]);
        }
        *sum = M::stored(*sum);
    }
}
