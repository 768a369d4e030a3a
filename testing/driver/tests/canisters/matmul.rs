//! Matrices on canisters.
mod failures;
mod products;

use crate::{
    common::noise,
    support::{install, install_poor, query, sequential_wasm, starve, update, wasm},
};
use candid::{CandidType, Principal};
use lockstep_driver::Subnet;
use lockstep_numeric::{Fixed, Isa, Kernels, Pool, Rounding};
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::{num::NonZeroUsize, sync::Arc};

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Int8,
    Int32,
    Fixed16(u8),
    Fixed32(u8),
    Float32,
}

#[derive(CandidType, Clone, Copy)]
enum Order {
    Sequential,
    Any,
}

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
struct Description {
    element: Element,
    rows: u32,
    columns: u32,
}

#[derive(CandidType, Clone, Copy, Debug)]
struct Shape {
    rows: u32,
    inner: u32,
    columns: u32,
}

#[derive(CandidType)]
enum Arithmetic {
    Fixed16,
}

#[derive(CandidType, Deserialize, Clone, Copy)]
struct Coordinates {
    row: u32,
    inner: u32,
    column: u32,
}

#[derive(CandidType)]
struct Work {
    at: Coordinates,
    arithmetic: Arithmetic,
    shape: Shape,
    a: ByteBuf,
    b: ByteBuf,
    sums: Option<ByteBuf>,
}

#[derive(CandidType, Deserialize)]
struct Done {
    at: Coordinates,
    sums: ByteBuf,
}

type Outcome = Result<(), String>;

/// Bytes per call that fill a matrix: below 2 MiB.
const CHUNK: usize = 2_000_000;
/// Bits of the fraction in these tests.
const FRACTION: u8 = 12;

/// A parent and its children.
struct Family {
    subnet: Subnet,
    parent: Principal,
    children: Vec<Principal>,
}

impl Family {
    fn new(wasm: &[u8], count: usize) -> Self {
        Self::on(Subnet::new(), wasm, count)
    }

    fn on(mut subnet: Subnet, wasm: &[u8], count: usize) -> Self {
        let parent = install(&mut subnet, wasm, &());
        let children = (0..count).map(|_| install(&mut subnet, wasm, &()));
        let children = children.collect();
        let mut family = Self {
            subnet,
            parent,
            children,
        };
        family.adopt(count);
        family
    }

    /// Makes the first `count` children the ring.
    fn adopt(&mut self, count: usize) {
        let children = self.children[..count].to_vec();
        self.call("set_children", &(children,)).unwrap();
    }

    fn call(&mut self, method: &str, arguments: &impl candid::utils::ArgumentEncoder) -> Outcome {
        update(&mut self.subnet, self.parent, method, arguments).unwrap()
    }

    fn store(&mut self, name: &str, element: Element, (rows, columns): (u32, u32), bytes: &[u8]) {
        let description = Description {
            element,
            rows,
            columns,
        };
        self.call("define", &(name, description)).unwrap();
        for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
            let offset = (index * CHUNK) as u64;
            let chunk = ByteBuf::from(chunk);
            self.call("write", &(name, offset, chunk)).unwrap();
        }
    }

    fn read(&self, name: &str, size: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < size {
            let length = (size - bytes.len()).min(CHUNK) as u32;
            let arguments = (name, bytes.len() as u64, length);
            let part: Result<ByteBuf, String> =
                query(&self.subnet, self.parent, "read", &arguments).unwrap();
            bytes.extend(part.unwrap().into_vec());
        }
        bytes
    }

    fn describe(&self, name: &str) -> Option<Description> {
        query(&self.subnet, self.parent, "describe", &(name,)).unwrap()
    }

    fn multiply(&mut self, tile: Shape, order: Order) -> Outcome {
        self.call("multiply", &("a", "b", "c", tile, order))
    }
}

/// Floats of all sizes; every sixteenth special if asked for.
fn floats(seed: u64, count: usize, special: bool) -> Vec<f32> {
    const SPECIAL: [u32; 8] = [
        0x8000_0000, // -0
        0x0000_0001, // the least subnormal
        0x807f_ffff,
        0x7f80_0000, // infinity
        0xff80_0000,
        0x7f7f_ffff, // the largest
        0xffc1_2345, // NaN with a payload
        0x7f80_0001, // signalling NaN
    ];
    let value = |bits: u64| match (bits >> 60, special) {
        (0, true) => f32::from_bits(SPECIAL[bits as usize % 8]),
        _ => {
            let exponent = 127 - 12 + (bits >> 32) as u32 % 24;
            f32::from_bits((bits as u32 & 0x807f_ffff) | exponent << 23)
        }
    };
    noise(seed, count).map(value).collect()
}

fn bytes_of<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}

fn float_product(a: &[f32], b: &[f32], shape: Shape) -> Vec<u8> {
    // Every instruction set has the same bits; the best is the fastest.
    let isa = Isa::available().pop().unwrap_or(Isa::Portable);
    let kernels = Kernels::new(isa, Arc::new(Pool::new(NonZeroUsize::MIN))).unwrap();
    let (rows, inner, columns) = (shape.rows, shape.inner, shape.columns);
    let mut out = vec![0.0; (rows * columns) as usize];
    let shape = (rows as usize, inner as usize, columns as usize);
    kernels.matmul_f32(a, b, shape, &mut out);
    bytes_of(out.into_iter().map(f32::to_le_bytes))
}

/// Exact sums.
fn sums(a: &[i16], b: &[i16], shape: Shape) -> Vec<i64> {
    let (inner, columns) = (shape.inner as usize, shape.columns as usize);
    let sum = |row: usize, column: usize| {
        let products =
            (0..inner).map(|k| i64::from(a[row * inner + k]) * i64::from(b[k * columns + column]));
        products.sum()
    };
    let rows = 0..shape.rows as usize;
    rows.flat_map(|row| (0..columns).map(move |column| (row, column)))
        .map(|(row, column)| sum(row, column))
        .collect()
}

fn fixed_product(a: &[i16], b: &[i16], shape: Shape) -> Vec<u8> {
    let rounded = sums(a, b, shape).into_iter().map(|sum| {
        let unit = 1 << FRACTION;
        let (floor, rest) = (sum.div_euclid(unit), sum.rem_euclid(unit));
        let up = rest * 2 > unit || (rest * 2 == unit && floor % 2 != 0);
        i32::try_from(floor + i64::from(up)).unwrap()
    });
    bytes_of(rounded.map(i32::to_le_bytes))
}

fn integer_product(a: &[i8], b: &[i8], shape: Shape) -> Vec<u8> {
    let wide = |values: &[i8]| values.iter().copied().map(i16::from).collect::<Vec<_>>();
    let sums = sums(&wide(a), &wide(b), shape).into_iter();
    bytes_of(sums.map(|sum| i32::try_from(sum).unwrap().to_le_bytes()))
}

fn shape(rows: u32, inner: u32, columns: u32) -> Shape {
    Shape {
        rows,
        inner,
        columns,
    }
}

fn shape_max() -> Shape {
    shape(u32::MAX, u32::MAX, u32::MAX)
}

fn description(element: Element, rows: u32, columns: u32) -> Description {
    Description {
        element,
        rows,
        columns,
    }
}
